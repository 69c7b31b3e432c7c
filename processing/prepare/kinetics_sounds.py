# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Kinetics-Sounds (Arandjelovic and Zisserman, ICCV 2017): the classes of Kinetics that can be both seen and heard."""

import csv
from argparse import ArgumentParser, Namespace
from pathlib import Path

from processing.data.clip_splits import SPLIT_NAMES, TEST, TRAIN, VALIDATION

from .annotations import (
    Annotations,
    ClipRow,
    FileIndex,
    PrepareError,
    carve_by_id,
    check_fractions,
    open_text,
    read_table,
    seconds,
)


SPLIT_OF_NAME = SPLIT_NAMES | {"validate": VALIDATION}


def add_arguments(parser: ArgumentParser) -> None:
    """`--csv`, `--classes`, `--validation_fraction`, `--test_fraction`, `--seed`."""
    parser.add_argument(
        "--csv",
        nargs="+",
        required=True,
        type=Path,
        help="tables with the columns label,youtube_id,time_start,time_end and optionally split: Kinetics' own "
        "train.csv, val.csv, test.csv, or a list of Kinetics-Sounds",
    )
    parser.add_argument("--classes", type=Path, help="one class name per line (or column `label`); others are skipped")
    parser.add_argument("--validation_fraction", type=float, default=0.1, help="where the tables have no validation")
    parser.add_argument("--test_fraction", type=float, default=0.2, help="where the tables have no split")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")


def read(root: Path, options: Namespace) -> Annotations:
    """Rows of the tables; files are `id_start_end.mp4` with six digits each, `id_start.mp4` or `id.mp4`.

    Kinetics keeps the labels of its test set apart, so tables without test rows are tested on their validation rows,
    as papers do, and validation comes out of train by video id.
    """
    check_fractions(validation_fraction=options.validation_fraction, test_fraction=options.test_fraction)
    index = FileIndex(root)
    wanted = None if options.classes is None else _read_classes(options.classes)
    rows, skipped = [], 0
    for path in options.csv:
        for cells in read_table(path, ["label", "youtube_id", "time_start", "time_end"], ["split"]):
            if wanted is not None and cells["label"] not in wanted:
                skipped += 1
                continue
            rows.append(_row(cells, path, index))
    if not rows:
        raise PrepareError(f"{', '.join(map(str, options.csv))}: no row has one of the classes; check their spelling")
    warnings = index.warnings()
    if wanted is not None and (absent := [name for name in wanted if not any(r.labels[0] == name for r in rows)]):
        warnings.append(f"{options.classes.name}: no row of {', '.join(absent)}")
    if skipped:
        warnings.append(f"{skipped} rows are of other classes and not listed here")
    classes = sorted({row.labels[0] for row in rows})
    return Annotations(rows, classes, _split(rows, options), warnings=warnings)


def _row(cells: dict[str, str], path: Path, index: FileIndex) -> ClipRow:
    line, video_id = cells["line"], cells["youtube_id"]
    start, end = (seconds(cells[name], path, line) for name in ("time_start", "time_end"))
    split = cells.get("split", "").lower()
    if split and split not in SPLIT_OF_NAME:
        raise PrepareError(f"{path}, line {line}: split {cells['split']!r}; use train, val or test")
    if not cells["label"] or not video_id or end <= start:
        raise PrepareError(
            f"{path}, line {line}: a label, an id, and a start before the end are needed; mend the line"
        )
    clip_id = f"{video_id}_{round(start):06d}_{round(end):06d}"
    file = index.find(clip_id, f"{video_id}_{round(start):06d}", video_id)
    split = SPLIT_OF_NAME.get(split, "")  # "": to be drawn
    return ClipRow(clip_id, [cells["label"]], video_id, split, f"{clip_id}.mp4", file, file, (start, end))


def _split(rows: list[ClipRow], options: Namespace) -> str:
    """Fills in the splits; -> how they came about."""
    by = f"by video id (seed {options.seed})"
    splits = {row.split for row in rows}
    if "" in splits:
        if splits != {""}:
            raise PrepareError("--csv: some rows have a split and some have none; fill the column, or leave it out")
        for row in rows:
            row.split = TRAIN
        carve_by_id(rows, {VALIDATION: options.validation_fraction, TEST: options.test_fraction}, options.seed)
        return f"seeded, {by}: not the split of any paper"
    split = "by the tables"
    if TEST not in splits:
        for row in rows:
            row.split = TEST if row.split == VALIDATION else row.split
        split += ", their validation is the test"
    if TEST not in splits or VALIDATION not in splits:
        carve_by_id(rows, {VALIDATION: options.validation_fraction}, options.seed)
        split += f", validation out of train {by}"
    return split


def _read_classes(path: Path) -> list[str]:
    with open_text(path) as file:
        lines = [cells for cells in csv.reader(file) if any(cell.strip() for cell in cells)]
    if not lines:
        raise PrepareError(f"{path}: is empty; write one class name per line")
    # With or without a header.
    column = 0
    if "label" in lines[0]:
        column, lines = lines[0].index("label"), lines[1:]
    return list(dict.fromkeys(cells[column].strip() for cells in lines))
