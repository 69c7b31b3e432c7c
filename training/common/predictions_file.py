# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads the `predictions.csv` of a run (written by `training/maavt/evaluation.py`)."""

import csv
from pathlib import Path

from processing.data.atomic_writing import written_text


NEEDED = ("input", "noise", "clip_id", "group", "label", "predicted")


def read_predictions(path: str | Path) -> dict[tuple[str, str], list[dict[str, str]]]:
    """Records of the labeled pairs, per (input, noise) in the order of the file; mismatched pairs have no label.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing.
    """
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in NEEDED if name not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(f"{path}: no column {missing}; give the predictions.csv of a run of train.py")
        conditions: dict[tuple[str, str], list[dict[str, str]]] = {}
        for record in reader:
            if record["label"]:
                record = {name: written_text(record[name] or "") for name in reader.fieldnames}
                conditions.setdefault((record["input"], record["noise"]), []).append(record)
    return conditions


def main_condition(conditions: dict[tuple[str, str], list[dict[str, str]]]) -> tuple[str, str] | None:
    """Both inputs where there are both, under the first noise condition; None without labeled pairs."""
    return min(conditions, key=lambda condition: condition[0] != "both", default=None)
