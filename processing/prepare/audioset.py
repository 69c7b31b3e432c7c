# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""AudioSet (Gemmeke et al., ICASSP 2017): ten-second segments of videos with one or more of 527 sounds."""

import csv
import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from datasets import Value

from processing.data.class_balance import class_balanced_weights
from processing.data.clip_splits import TEST, TRAIN, VALIDATION

from .annotations import (
    Annotations,
    ClipRow,
    FileIndex,
    PrepareError,
    carve_by_id,
    check_fractions,
    find_annotation,
    open_text,
    read_table,
    require_annotation,
    seconds,
)


SOURCE = "https://research.google.com/audioset/download.html"
TRAINING = {
    "balanced": ["balanced_train_segments.csv"],
    "unbalanced": ["unbalanced_train_segments.csv"],
    "full": ["balanced_train_segments.csv", "unbalanced_train_segments.csv"],
}


def add_arguments(parser: ArgumentParser) -> None:
    """`--training`, `--validation_fraction`, `--seed`."""
    parser.add_argument("--training", choices=tuple(TRAINING), default="balanced", help="which training segments")
    parser.add_argument("--validation_fraction", type=float, default=0.05, help="share of the training videos")
    parser.add_argument("--seed", type=int, default=0, help="of the validation split")


def read(root: Path, options: Namespace) -> Annotations:
    """Rows of `YTID, start_seconds, end_seconds, "mid,mid"`; eval segments are the test.

    Files are named by id and start: `id_000030`, `id_000030_000040`, `id_30000_40000` (milliseconds), `id` or `Yid`.
    """
    check_fractions(validation_fraction=options.validation_fraction)
    index = FileIndex(root)
    names, source = _class_names(root)
    rows = []
    # The lists of segments.
    for file_name in TRAINING[options.training]:
        rows += _read_segments(require_annotation(root, file_name, SOURCE), TRAIN, names, index)
    rows += _read_segments(require_annotation(root, "eval_segments.csv", SOURCE), TEST, names, index)
    used = {label for row in rows for label in row.labels}
    # the indices file lists exactly the classes with segments; the ontology holds abstract ones too
    classes = [name for name in names.values() if name in used or source == "indices"]
    # AudioSet has no validation split.
    carve_by_id(rows, {VALIDATION: options.validation_fraction}, options.seed)
    split = (
        f"official ({options.training} training segments, eval segments are the test), validation out of train by "
        f"video id (seed {options.seed}, {options.validation_fraction:g})"
    )
    return Annotations(
        rows,
        classes,
        split,
        multi_label=True,
        extra_features={"weight": Value("float64")},
        warnings=index.warnings(),
        complete=_fill_weights,
    )


def _fill_weights(rows: list[ClipRow]) -> None:
    training = [row for row in rows if row.split == TRAIN]
    for row in rows:
        row.extra["weight"] = 1.0
    for row, weight in zip(training, class_balanced_weights([row.labels for row in training]), strict=True):
        row.extra["weight"] = weight


def _read_segments(path: Path, split: str, names: dict[str, str], index: FileIndex) -> list[ClipRow]:
    rows = []
    with open_text(path) as file:
        reader = csv.reader(file, skipinitialspace=True)  # a blank stands before the quoted labels
        for cells in reader:
            if not cells or cells[0].startswith("#"):
                continue
            line = reader.line_num
            if len(cells) != 4:
                raise PrepareError(f'{path}, line {line}: expected `YTID, start, end, "mid,mid"`; mend the line')
            # Id, window and classes.
            video_id = cells[0].strip()
            start, end = (seconds(cell, path, line) for cell in cells[1:3])
            mids = [mid.strip() for mid in cells[3].split(",") if mid.strip()]
            if unknown := [mid for mid in mids if mid not in names]:
                raise PrepareError(f"{path}, line {line}: {unknown[0]!r} is not in the list of classes; get both anew")
            if not mids:
                raise PrepareError(f"{path}, line {line}: no label; mend the line")
            # A row with the clip's file, under any of its usual names.
            labels = list(dict.fromkeys(names[mid] for mid in mids))
            clip_id = f"{video_id}_{int(start):06d}"
            file = index.find(
                clip_id,
                f"{clip_id}_{int(end):06d}",
                f"{video_id}_{round(start * 1000)}_{round(end * 1000)}",
                f"{video_id}_{int(start)}_{int(end)}",
                video_id,
                f"Y{video_id}",
            )
            rows.append(ClipRow(clip_id, labels, video_id, split, f"{clip_id}.mp4", file, file, (start, end)))
    return rows


def _class_names(root: Path) -> tuple[dict[str, str], str]:
    """-> (machine id -> display name in the order of the indices, which file it was)."""
    path = find_annotation(root, "class_labels_indices.csv")
    if path is not None:
        rows = read_table(path, ["index", "mid", "display_name"])
        if not all(row["index"].isdigit() for row in rows):
            raise PrepareError(f"{path}: an index is no number; get the file anew")
        rows.sort(key=lambda row: int(row["index"]))
        names = {row["mid"]: row["display_name"] for row in rows}
    else:
        path = find_annotation(root, "ontology.json")
        if path is None:
            raise PrepareError(
                f"{root}: no class_labels_indices.csv and no ontology.json in it or below; get one from {SOURCE} or "
                "https://github.com/audioset/ontology"
            )
        try:
            names = {entry["id"]: entry["name"] for entry in json.loads(path.read_text("utf-8"))}
        except (ValueError, TypeError, KeyError) as error:
            raise PrepareError(f"{path}: not AudioSet's list of {{id, name, ...}}; get it anew") from error
    if len(set(names.values())) < len(names):
        raise PrepareError(f"{path}: two classes have the same name; get the file anew")
    return names, "indices" if path.suffix == ".csv" else "ontology"
