# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""AVE (Tian, Shi, Li, Duan and Xu, ECCV 2018): ten one-second segments, 28 events or background."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from datasets import List, Value

from processing.data.clip_splits import TEST, TRAIN, VALIDATION
from processing.metrics import IGNORED_LABEL

from .annotations import (
    Annotations,
    ClipRow,
    FileIndex,
    PrepareError,
    find_annotation,
    open_text,
    require_annotation,
    seconds,
)


SEGMENTS = 10
BACKGROUND = "Background"
SPLIT_FILES = {TRAIN: "trainSet.txt", VALIDATION: "valSet.txt", TEST: "testSet.txt"}
ORDER_FILES = {TRAIN: "train_order.h5", VALIDATION: "val_order.h5", TEST: "test_order.h5"}
SOURCE = "the AVE download that https://github.com/YapengTian/AVE-ECCV18 names"
EVENTS = (
    "Accordion", "Acoustic guitar", "Baby cry, infant cry", "Banjo", "Bark", "Bus", "Cat", "Chainsaw", "Church bell",
    "Clock", "Female speech, woman speaking", "Fixed-wing aircraft, airplane", "Flute", "Frying (food)", "Goat",
    "Helicopter", "Horse", "Male speech, man speaking", "Mandolin", "Motorcycle", "Race car, auto racing",
    "Rodents, rats, mice", "Shofar", "Toilet flush", "Train horn", "Truck", "Ukulele", "Violin, fiddle",
)  # fmt: skip


def add_arguments(parser: ArgumentParser) -> None:
    """`--background`."""
    parser.add_argument(
        "--background",
        choices=("class", "match"),
        default="class",
        help="class: background is the 29th class of a second (as papers report); match: 28 classes, seconds of "
        "background carry no label (-100) and are told by the match logit (column segment_matched)",
    )


def read(root: Path, options: Namespace) -> Annotations:
    """Rows of `category&id&quality&start&end`, from the three lists or from Annotations.txt in the order of the .h5.

    Two categories of one video are two rows of one group. A second belongs to the event from `start` to `end`; several
    lines of one video and category in a split are one row, whose seconds are those of all its intervals.
    """
    index = FileIndex(root)
    matched = options.background == "match"
    # Seconds of background: of no class, or of a class beside the events.
    if matched:
        classes, background = [*EVENTS], IGNORED_LABEL
    else:
        classes, background = [*EVENTS, BACKGROUND], len(EVENTS)
    listed, split_origin, warnings = _listed(root)
    rows: dict[tuple[str, str, str], ClipRow] = {}
    for split, (category, video_id, quality, first, last) in listed:
        key = (split, video_id, category)
        if key not in rows:
            file = index.find(video_id)
            row = ClipRow(f"{video_id}/{category}", [category], video_id, split, f"{video_id}.mp4", file, file)
            row.source_window = (0.0, float(SEGMENTS))
            row.segment_labels = [background] * SEGMENTS
            row.extra = {"quality": quality}
            if matched:
                row.extra["segment_matched"] = [False] * SEGMENTS
            rows[key] = row
        # a later line of the same event adds its seconds
        for second in range(SEGMENTS):
            if first <= second < last:
                rows[key].segment_labels[second] = classes.index(category)
                if matched:
                    rows[key].extra["segment_matched"][second] = True
    features = {"quality": Value("string")}
    if matched:
        features["segment_matched"] = List(Value("bool"))
    return Annotations(
        list(rows.values()), classes, split_origin, extra_features=features, warnings=warnings + index.warnings()
    )


Line = tuple[str, str, str, float, float]


def _listed(root: Path) -> tuple[list[tuple[str, Line]], str, list[str]]:
    """-> (split and line of each row, how the splits came about, warnings)."""
    # One list of lines for each split ...
    lists = {split: find_annotation(root, name) for split, name in SPLIT_FILES.items()}
    if all(lists.values()):
        listed = [(split, line) for split, path in lists.items() for line in _read_lines(path)]
        annotations = find_annotation(root, "Annotations.txt")
        named = {line for _, line in listed}
        files, warnings = ", ".join(SPLIT_FILES.values()), []
        if annotations is not None:
            loose = [line for line in _read_lines(annotations) if line not in named]
            if loose:
                warnings.append(f"Annotations.txt: {len(loose)} lines stand in none of {files}; not used")
        return listed, f"official, by {files}", warnings
    # ... or one list of all lines, and for each split the numbers of its lines.
    orders = {split: find_annotation(root, name) for split, name in ORDER_FILES.items()}
    if not all(orders.values()):
        raise PrepareError(
            f"{root}: neither {', '.join(SPLIT_FILES.values())} nor {', '.join(ORDER_FILES.values())} in it or below; "
            f"get them from {SOURCE}"
        )
    path = require_annotation(root, "Annotations.txt", SOURCE)
    lines = _read_lines(path)
    listed = []
    for split, order in orders.items():
        for number in _read_order(order):
            if not 0 <= number < len(lines):
                raise PrepareError(f"{order}: names line {number}, but {path} has {len(lines)}; get the files anew")
            listed.append((split, lines[number]))
    return listed, f"official, by {', '.join(ORDER_FILES.values())}", []


def _read_lines(path: Path) -> list[Line]:
    lines = []
    with open_text(path) as file:
        for number, text in enumerate(file, start=1):
            cells = [cell.strip() for cell in text.split("&")]
            if cells == [""] or cells[0].lower() == "category":
                continue
            if len(cells) != 5:
                raise PrepareError(f"{path}, line {number}: expected category&id&quality&start&end; mend the line")
            category, video_id, quality, first, last = cells
            if category not in EVENTS:
                raise PrepareError(f"{path}, line {number}: {category!r} is none of the 28 categories; mend the line")
            lines.append((category, video_id, quality, seconds(first, path, number), seconds(last, path, number)))
    return lines


def _read_order(path: Path) -> list[int]:
    try:
        import h5py
    except ImportError as error:
        raise PrepareError(
            f"{path}: reading it needs h5py; run `pip install h5py`, or put {', '.join(SPLIT_FILES.values())} there"
        ) from error
    with h5py.File(path, "r") as file:
        if "order" not in file:
            raise PrepareError(f"{path}: no data set `order` in it; get it from {SOURCE}")
        return [int(number) for number in file["order"][:]]
