# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Boxes around sound sources: VGG-SS and Flickr-SoundNet, to labeled frames (layouts: docs/deepavfusion_tasks.md)."""

import json
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from processing.clips import safe_join
from processing.data.labeled_frames import Box, LabeledFrame


FLICKR_SIZE = 256  # pixels: the annotators saw frames of this height and width
FLICKR_ANNOTATORS = 2  # that have to agree for full consensus


def read_vggss(folder: str | os.PathLike, split: str = "test") -> list[LabeledFrame]:
    """`vggss.json` (a list of file, class, bbox) with the clips in `clips/` as mp4, or as `frames/*.jpg` and `audio/*.wav`.

    The boxes of a clip, shares of width and height, are joined; the frame is the one in the middle. Clips that are not
    there are skipped: videos vanish.

    Raises:
        ValueError: no such list, another format, or not one clip.
    """
    if split != "test":
        raise ValueError(f"split={split!r}: VGG-SS is a test set; train on VGGSound's training clips")
    folder = Path(folder)
    path = folder / "vggss.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        named = [(entry["file"], entry["class"], entry["bbox"]) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no list of file, class and bbox ({error!r}); give VGG-SS's vggss.json") from error
    rows = []
    for name, label, boxes in named:
        sources = _find(folder, name)
        if sources is not None:
            source_boxes = [_box(box, path, name) for box in boxes]
            rows.append(LabeledFrame(*sources, boxes=[source_boxes], label=label, group=name, split=split))
    if not rows:
        raise ValueError(f"{folder}: none of {len(named)} clips is in clips/, or in frames/ and audio/")
    return rows


def read_flickr(folder: str | os.PathLike, split: str = "test") -> list[LabeledFrame]:
    """`annotations/*.xml` with a box list for each annotator, `frames/*.jpg` and `audio/*.wav` (or `clips/*.mp4`).

    `test.txt`, where it is, names the clips to take. Boxes are in pixels of 256 x 256; two annotators are full consensus.

    Raises:
        ValueError: no annotations, one that cannot be read, or not one clip.
    """
    if split != "test":
        raise ValueError(f"split={split!r}: the annotated clips of Flickr-SoundNet are a test set")
    folder = Path(folder)
    files = sorted((folder / "annotations").glob("*.xml"))
    chosen = folder / "test.txt"
    if chosen.is_file():
        names = set(chosen.read_text(encoding="utf-8").split())
        files = [path for path in files if path.stem in names]
    rows = []
    for path in files:
        sources = _find(folder, path.stem)
        if sources is not None:
            rows.append(
                LabeledFrame(
                    *sources,
                    boxes=_flickr_boxes(path),
                    box_size=(FLICKR_SIZE, FLICKR_SIZE),
                    annotators_needed=FLICKR_ANNOTATORS,
                    group=path.stem,
                    split=split,
                )
            )
    if not rows:
        raise ValueError(f"{folder}: none of {len(files)} annotated clips is in clips/, or in frames/ and audio/")
    return rows


def _flickr_boxes(path: Path) -> list[list[Box]]:
    """A list of boxes for each element that holds `bbox` elements of xmin, ymin, xmax and ymax."""
    try:
        root = ElementTree.parse(path).getroot()
        annotators = [annotator for annotator in root.iter() if annotator.find("bbox") is not None]
        return [
            [
                tuple(float(box.findtext(edge)) for edge in ("xmin", "ymin", "xmax", "ymax"))
                for box in annotator.iter("bbox")
            ]
            for annotator in annotators
        ]
    except (ElementTree.ParseError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: no boxes of xmin, ymin, xmax, ymax ({error}); copy the annotations again"
        ) from error


def _box(box: list[float], path: Path, name: str) -> Box:
    values = tuple(float(value) for value in box)
    if len(values) != 4 or not all(-0.05 <= value <= 1.05 for value in values):
        raise ValueError(f"{path}: {name}: box {box}; give left, top, right and bottom as shares from 0 to 1")
    return values


def _find(folder: Path, name: str) -> tuple[str, str | None] | None:
    """(audio, frame) of a clip; None where it is not there."""
    clip = safe_join(folder / "clips", f"{name}.mp4")
    if os.path.isfile(clip):
        return clip, None
    frame, audio = safe_join(folder / "frames", f"{name}.jpg"), safe_join(folder / "audio", f"{name}.wav")
    if os.path.isfile(frame) and os.path.isfile(audio):
        return audio, frame
    return None
