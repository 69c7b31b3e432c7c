# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Frames whose sounding pixels are known, with the audio around them: one row a frame, whatever set it comes from."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2.functional as transforms
from PIL import Image
from torch.utils.data import Dataset

from processing.clips import ClipRequest, clip_window, load_clip, safe_join
from processing.metrics.localization import consensus_map

from .worker_records import WorkerRecord


Box = tuple[float, float, float, float]


@dataclass
class LabeledFrame:
    """One frame.

    Attributes:
        audio: file with the audio: a clip, or a wav.
        frame: image file; None takes the frame from `audio` at `time`.
        time: of the frame, in seconds of `audio`; None is its middle.
        mask: image whose sounding pixels are above 127 (`semantic`: class indices), or None.
        boxes: for each annotator `(left, top, right, bottom)` boxes.
        box_size: (height, width) that the boxes refer to; None: shares of the frame.
        annotators_needed: for full consensus, see `consensus_map`.
        semantic: the mask holds class indices.
        label: class of the audio, or None.
        group: the video, whose frames belong together.
        split: "train", "val" or "test".
    """

    audio: str
    frame: str | None = None
    time: float | None = None
    mask: str | None = None
    boxes: list[list[Box]] = field(default_factory=list)
    box_size: tuple[int, int] | None = None
    annotators_needed: int = 1
    semantic: bool = False
    label: str | None = None
    group: str = ""
    split: str = "test"


def window_around(time: float | None, seconds: float, duration: float) -> tuple[float, float]:
    """`seconds` of audio around `time`, moved inside the clip; the whole clip where it is shorter."""
    time = duration / 2 if time is None else time
    start = min(max(time - seconds / 2, 0.0), max(duration - seconds, 0.0))
    return start, min(start + seconds, duration)


def read_mask(path: str, semantic: bool = False) -> torch.Tensor:
    """int64 `[H, W]`: 0 and 1, or class indices.

    Raises:
        ValueError: no image.
    """
    try:
        with Image.open(path) as image:
            if not semantic:
                image = image.convert("L")
            values = np.array(image)
    except OSError as error:
        raise ValueError(f"{path}: mask: cannot be read ({error}); copy it again") from error
    if values.ndim != 2:
        raise ValueError(f"{path}: mask: shape {values.shape}; give one value a pixel")
    if not semantic:
        values = values > 127
    return torch.from_numpy(values.astype(np.int64))


def fit_map(values: torch.Tensor, video_processor: Any) -> torch.Tensor:
    """A map `[H, W]` resized (nearest) and cropped as the video processor does it with its frame."""
    # Resize as the video processor does, without new values between classes.
    size = dict(video_processor.size)
    edge = size.get("shortest_edge")
    wanted = [edge] if edge else [size["height"], size["width"]]
    mode = transforms.InterpolationMode.NEAREST_EXACT
    values = transforms.resize(values[None], wanted, interpolation=mode)[0]
    # Crop as it does.
    if video_processor.do_center_crop:
        crop = dict(video_processor.crop_size)
        values = transforms.center_crop(values, [crop["height"], crop["width"]])
    return values


class LabeledFrames(Dataset):
    """Rows as examples `pixel_values_videos` `[1, 3, H, W]`, `input_features` `[1, F, W]` and `labels`.

    Args:
        rows: the frames.
        processor: a `DeepAVFusionProcessor` (or another with its methods), whose audio is one window.
        target: "mask" (labels int64 `[H, W]`), "boxes" (consensus float `[H, W]`) or "class" (labels int64 scalar).
        classes: names of the classes, for "class".
        cache: keep what was decoded in memory.

    Raises:
        ValueError: an unknown target, or a row without mask, boxes or a known class where they are the target.
    """

    def __init__(
        self,
        rows: Sequence[LabeledFrame],
        processor: Any,
        target: str = "mask",
        classes: Sequence[str] = (),
        cache: bool = False,
    ):
        if target not in ("mask", "boxes", "class"):
            raise ValueError(f'target={target!r}; use "mask", "boxes" or "class"')
        if target != "class" and getattr(processor.video_processor, "crop_box", None) is not None:
            raise ValueError("crop_box: masks and boxes are of the whole frame; leave it out of the video processor")
        # A row without the target would fail in the middle of an epoch.
        for row in rows:
            if {"mask": row.mask is None, "boxes": not row.boxes, "class": row.label not in classes}[target]:
                raise ValueError(
                    f"{row.frame or row.audio}: has no {target}; choose another target, or remove the row"
                )
        self.rows, self.processor, self.target, self.classes = list(rows), processor, target, list(classes)
        self._kept: dict[int, dict[str, torch.Tensor]] | None = {} if cache else None
        self._record = WorkerRecord.here()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if self._kept is not None and index in self._kept:
            return dict(self._kept[index])
        row = self.rows[index]
        with self._record.reading(row.frame or row.audio):
            example = self._load(row)
        if self._kept is not None:
            self._kept[index] = example
        return dict(example)

    def _load(self, row: LabeledFrame) -> dict[str, torch.Tensor]:
        # The window of audio around the frame.
        extractor = self.processor.feature_extractor
        duration = clip_window(row.audio)[1]
        seconds = extractor.segment_seconds or extractor.num_frames * extractor.hop_length / extractor.sampling_rate
        start, end = window_around(row.time, seconds, duration)
        # A frame from its image file, or from the clip at the frame's time.
        request = ClipRequest(start, end, sampling_rate=extractor.sampling_rate)
        if row.frame is not None:
            clip = load_clip(row.audio, replace(request, streams=("audio",)))
            with Image.open(row.frame) as image:
                frame = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]  # (1, 3, H, W)
        else:
            time = duration / 2 if row.time is None else row.time
            clip = load_clip(row.audio, replace(request, times=[time]))
            frame = clip.frames
        # Model inputs, without the batch axis.
        batch = self.processor(videos=[frame], audio=[clip.waveform], sampling_rate=extractor.sampling_rate)
        example = {name: batch[name][0] for name in ("pixel_values_videos", "input_features")}
        return example | {"labels": self._labels(row, frame.shape[-2:])}

    def _labels(self, row: LabeledFrame, size: Sequence[int]) -> torch.Tensor:
        if self.target == "class":
            return torch.tensor(self.classes.index(row.label))
        if self.target == "mask":
            return fit_map(read_mask(row.mask, row.semantic), self.processor.video_processor)
        # Boxes in pixels of the frame, then one map of what the annotators agree on.
        height, width = row.box_size or (1, 1)
        scale = (size[1] / width, size[0] / height) * 2
        boxes = [
            [tuple(v * s for v, s in zip(box, scale, strict=True)) for box in annotator] for annotator in row.boxes
        ]
        consensus = consensus_map(boxes, size[0], size[1], row.annotators_needed)
        shown = fit_map(torch.from_numpy(consensus).float(), self.processor.video_processor)
        if not shown.any():
            raise ValueError(
                f"{row.frame or row.audio}: boxes: no source lies in what the processor shows; set do_center_crop to false"
            )
        return shown


def read_duet(folder: str | os.PathLike, split: str) -> list[LabeledFrame]:
    """Rows of the generated shapes (`processing.generate.sounding_shapes`), labeled with the color of the shape that sounds.

    Raises:
        ValueError: no such table.
    """
    path = Path(folder) / "duet.csv"
    if not path.is_file():
        raise ValueError(
            f"{path}: no such table; write it with `python -m processing.generate.sounding_shapes --out {folder}`"
        )
    rows = []
    with open(path, newline="", encoding="utf-8-sig") as file:
        for cells in csv.DictReader(file):
            if cells["split"] != split:
                continue
            # Boxes are in pixels of the mask.
            clip = safe_join(folder, cells["file_name"])
            with Image.open(safe_join(folder, cells["mask"])) as image:
                size = image.height, image.width
            rows.append(
                LabeledFrame(
                    clip,
                    time=float(cells["time"]),
                    mask=safe_join(folder, cells["mask"]),
                    boxes=[[tuple(float(cells[edge]) for edge in ("left", "top", "right", "bottom"))]],
                    box_size=size,
                    label=cells["color"],
                    group=cells["file_name"],
                    split=split,
                )
            )
    return rows
