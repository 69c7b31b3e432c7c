# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""`layout` and `data` of a recipe to rows (docs/deepavfusion_tasks.md)."""

import csv
from pathlib import Path

from processing.clips import safe_join
from processing.data.labeled_frames import LabeledFrame, read_duet
from processing.data.mixtures import read_pairs
from processing.prepare.avsbench import read_avss, read_ms3, read_s4
from processing.prepare.source_boxes import read_flickr, read_vggss

from .arguments import TaskArguments


FRAME_LAYOUTS = {
    "shapes": read_duet,
    "s4": read_s4,
    "ms3": read_ms3,
    "avss": read_avss,
    "vggss": read_vggss,
    "flickr": read_flickr,
}
TEST_LAYOUTS = ("vggss", "flickr")  # sets without training frames


def read_frames(task: TaskArguments, split: str) -> list[LabeledFrame]:
    """Labeled frames of one split.

    Raises:
        ValueError: an unknown layout, or no frame.
    """
    if task.layout not in FRAME_LAYOUTS:
        raise ValueError(f"layout: {task.layout!r} has no labeled frames; use one of {', '.join(FRAME_LAYOUTS)}")
    rows = FRAME_LAYOUTS[task.layout](task.data, split)
    if not rows:
        raise ValueError(
            f"data: {task.data} has no frame of split {split!r} in layout {task.layout!r}; check the folder"
        )
    return rows


def read_mixtures(task: TaskArguments) -> tuple[list[str], list[str], list[str], list[tuple[int, int]]]:
    """Training clips and their groups; test clips and their pairs.

    The folder holds `solo.csv` (`file_name`, `split`, `kind`) and `pairs.csv` (`first`, `second`, `split`).
    """
    path = Path(task.data) / "solo.csv"
    if not path.is_file():
        raise ValueError(f"{path}: no such table; it lists the clips to mix: file_name, split, kind")
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    clips = [safe_join(task.data, row["file_name"]) for row in rows]
    return clips, [row["kind"] for row in rows], *read_pairs(Path(task.data) / "pairs.csv", split="test")
