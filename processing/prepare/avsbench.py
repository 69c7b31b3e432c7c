# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""AVSBench as it is unpacked: single source (S4), multiple sources (MS3) and semantic (AVSS), to labeled frames.

Layouts, and which frames have a mask: docs/deepavfusion_tasks.md.
"""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from processing.clips import safe_join
from processing.data.labeled_frames import LabeledFrame


SPLITS = ("train", "val", "test")


def read_s4(folder: str | os.PathLike, split: str) -> list[LabeledFrame]:
    """`s4_meta_data.csv` (name, category, split) and `s4_data/{visual_frames,audio_wav,gt_masks}/<split>/<category>/...`.

    Raises:
        ValueError: no such table, split or file; the message names it.
    """
    folder, rows = Path(folder), []
    for cells in _table(folder / "s4_meta_data.csv", ("name", "category", "split"), split):
        subfolder = f"{split}/{cells['category']}/{cells['name']}"
        audio = safe_join(folder / "s4_data" / "audio_wav", f"{subfolder}.wav")
        frames = Path(safe_join(folder / "s4_data" / "visual_frames", subfolder))
        masks = Path(safe_join(folder / "s4_data" / "gt_masks", subfolder))
        rows += _frames(audio, frames, masks, cells["name"], split, label=cells["category"])
    return rows


def read_ms3(folder: str | os.PathLike, split: str) -> list[LabeledFrame]:
    """`ms3_meta_data.csv` (video_id, split) and `ms3_data/{visual_frames/<id>,audio_wav/<split>,gt_masks/<split>/<id>}`.

    Raises:
        ValueError: as `read_s4`.
    """
    folder, rows = Path(folder), []
    for cells in _table(folder / "ms3_meta_data.csv", ("video_id", "split"), split):
        name = cells["video_id"]
        audio = safe_join(folder / "ms3_data" / "audio_wav", f"{split}/{name}.wav")
        frames = Path(safe_join(folder / "ms3_data" / "visual_frames", name))
        masks = Path(safe_join(folder / "ms3_data" / "gt_masks", f"{split}/{name}"))
        rows += _frames(audio, frames, masks, name, split)
    return rows


def read_avss(folder: str | os.PathLike, split: str) -> list[LabeledFrame]:
    """`metadata.csv` (uid, split, label: v1s, v1m or v2) and `<label>/<uid>/{frames,labels_semantic,audio.wav}`.

    Masks hold class indices (`num_labels=71`).

    Raises:
        ValueError: as `read_s4`.
    """
    folder, rows = Path(folder), []
    for cells in _table(folder / "metadata.csv", ("uid", "split", "label"), split):
        video = Path(safe_join(folder, f"{cells['label']}/{cells['uid']}"))
        rows += _frames(
            str(video / "audio.wav"),
            video / "frames",
            video / "labels_semantic",
            cells["uid"],
            split,
            label=cells["label"],
            semantic=True,
        )
    return rows


def _table(path: Path, columns: tuple[str, ...], split: str) -> Iterator[dict[str, str]]:
    if split not in SPLITS:
        raise ValueError(f"split={split!r}; use one of {', '.join(SPLITS)}")
    if not path.is_file():
        raise ValueError(f"{path}: no such table; give the folder that AVSBench was unpacked to")
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not set(columns) <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: columns {reader.fieldnames}; it needs {', '.join(columns)}")
        yield from (cells for cells in reader if cells["split"] == split)


def _frames(
    audio: str,
    frames: Path,
    masks: Path,
    name: str,
    split: str,
    label: str | None = None,
    semantic: bool = False,
) -> list[LabeledFrame]:
    """The frames of a video that have a mask. The k-th belongs to the k-th second, and is taken to be its middle."""
    frame_files = {_number(path): path for path in _images(frames)}
    labeled = {_number(path): path for path in _images(masks)}
    first = min(frame_files)  # numbered from 0 or from 1
    # Every mask needs its frame; frames without a mask are not used.
    missing = sorted(set(labeled) - set(frame_files))
    if missing:
        raise ValueError(f"{masks}: masks {missing} have no frame in {frames}; unpack the set again")
    if not Path(audio).is_file():
        raise ValueError(f"{audio}: no such file; unpack the set again")
    return [
        LabeledFrame(
            audio,
            str(frame_files[number]),
            number - first + 0.5,
            str(labeled[number]),
            semantic=semantic,
            label=label,
            group=name,
            split=split,
        )
        for number in sorted(labeled)
    ]


def _images(folder: Path) -> list[Path]:
    paths = []
    if folder.is_dir():
        paths = [path for path in folder.iterdir() if path.suffix in (".png", ".jpg")]
    if not paths:
        raise ValueError(f"{folder}: no images here; unpack the set again")
    return paths


def _number(path: Path) -> int:
    """3 of `name_3.png`, `name.mp4_3.png` and `3.jpg`."""
    tail = path.stem.rpartition("_")[2]
    if not tail.isdigit():
        raise ValueError(f"{path}: the name does not end in the number of a frame")
    return int(tail)
