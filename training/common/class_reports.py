# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Per-class figures and confusion matrices of a finished run, from its `predictions.csv` and `results.json`."""

import json
from pathlib import Path

from processing.data.atomic_writing import write_text
from processing.metrics.classification import ClassReport

from .predictions_file import main_condition, read_predictions
from .results import cell, markdown_table


COLUMNS = {"label": "class", "precision": "precision", "recall": "recall", "f1": "F1", "support": "clips"}


def class_reports(directory: str | Path) -> list[dict]:
    """`ClassReport` for every input and noise condition, the main one first; `input` and `noise` say which.

    Raises:
        ValueError: a class that `label_names` of `results.json` lacks.
    """
    directory = Path(directory)
    conditions = read_predictions(directory / "predictions.csv")
    names = json.loads((directory / "results.json").read_text(encoding="utf-8"))["label_names"]
    index = {name: i for i, name in enumerate(names)}
    main = main_condition(conditions)
    reports = []
    for condition in sorted(conditions, key=lambda condition: condition != main):
        # Another run's file would be counted under wrong names.
        records = conditions[condition]
        unknown = sorted({record[key] for record in records for key in ("label", "predicted")} - set(index))
        if unknown:
            raise ValueError(f"{directory / 'predictions.csv'}: {unknown[:3]} is no class of results.json; same run?")
        report = ClassReport().compute(
            predictions=[index[record["predicted"]] for record in records],
            references=[index[record["label"]] for record in records],
            label_names=names,
        )
        reports.append({"input": condition[0], "noise": condition[1], **report})
    return reports


def write_class_reports(directory: str | Path) -> list[dict]:
    """Writes `class_report.json` (all) and `class_report.md` (classes of the main one); nothing without labels."""
    directory = Path(directory)
    reports = class_reports(directory)
    if reports:
        write_text(directory / "class_report.json", json.dumps(reports, ensure_ascii=False) + "\n")
        title = f"Input: {reports[0]['input']}, audio: {cell('noise', reports[0]['noise'])}"
        table = markdown_table(reports[0]["classes"], COLUMNS)
        write_text(directory / "class_report.md", f"{title}\n\n{table}\n")
    return reports
