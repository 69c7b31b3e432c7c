# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Mixtures of two clips whose sources are known (mix-and-separate), drawn anew or from a list of pairs."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from processing.clips import ClipRequest, clip_window, load_clip, safe_join

from .labeled_frames import window_around
from .worker_records import WorkerRecord


class Mixtures(Dataset):
    """Examples for separating the first clip of a pair from the sum of both.

    The mixture is the plain sum of the two waveforms (3 s each, the middle of their clips); every spectrogram is made of a
    waveform, none is added to another. An example holds `pixel_values_videos` `[1, 3, H, W]` of the first clip's middle
    (or another) frame, `input_features` `[1, F, W]` of the mixture, `labels` and `other_features` `[1, F, W]` of the first and the
    second clip.

    Args:
        clips: files.
        processor: a `DeepAVFusionProcessor` of one window.
        pairs: of indices into `clips`; None draws a partner for each clip, another one in every epoch.
        groups: one for each clip; partners are drawn from another group (an instrument, a class). None: any other clip.
        seed: of the partners.
        cache: keep what was decoded in memory.
        num_frames: take one of so many frames, evenly spaced over the window; another one in every epoch. 1: the middle.

    Raises:
        ValueError: no frame, fewer than two clips, or groups among which no partner is to be had.
    """

    def __init__(
        self,
        clips: Sequence[str],
        processor: Any,
        pairs: Sequence[tuple[int, int]] | None = None,
        groups: Sequence[Any] | None = None,
        seed: int = 0,
        cache: bool = False,
        num_frames: int = 1,
    ):
        if num_frames < 1:
            raise ValueError(f"num_frames={num_frames} must be at least 1 (1: the middle frame)")
        # Without groups each clip is its own.
        groups = list(range(len(clips)) if groups is None else groups)
        if pairs is None and len(set(groups)) < 2:
            raise ValueError(f"{len(clips)} clips of {len(set(groups))} groups; partners need two groups at least")
        self.clips, self.processor, self.groups = list(clips), processor, groups
        self.pairs = None if pairs is None else list(pairs)
        self.seed, self.num_frames = seed, num_frames
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by workers that already run
        self._kept: dict[int, dict[str, torch.Tensor]] | None = {} if cache else None
        self._record = WorkerRecord.here()

    def set_epoch(self, epoch: int) -> None:
        """Other partners and frames from now on, in running workers too."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.clips if self.pairs is None else self.pairs)

    def pair(self, index: int) -> tuple[int, int]:
        """Indices of the clip that is seen and of the other."""
        if self.pairs is not None:
            return self.pairs[index]
        # A partner of another group; epoch and index alone decide which.
        others = [i for i, group in enumerate(self.groups) if group != self.groups[index]]
        return index, others[np.random.default_rng([self.seed, int(self._epoch), index]).integers(len(others))]

    def sources(self, index: int) -> torch.Tensor:
        """Waveforms of both clips, `[2, n]`."""
        return torch.stack([self._load(clip)["waveform"] for clip in self.pair(index)])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        first, second = (self._load(clip) for clip in self.pair(index))
        mixture = first["waveform"] + second["waveform"]
        shown = int(np.random.default_rng([self.seed, int(self._epoch), index, 1]).integers(self.num_frames))
        return {
            "pixel_values_videos": first["pixels"][[shown]],
            "input_features": self._features(mixture),
            "labels": first["features"],
            "other_features": second["features"],
        }

    def _features(self, waveform: torch.Tensor) -> torch.Tensor:
        rate = self.processor.feature_extractor.sampling_rate
        return self.processor.feature_extractor(waveform, sampling_rate=rate)["input_features"][0]

    def _load(self, clip: int) -> dict[str, torch.Tensor]:
        if self._kept is not None and clip in self._kept:
            return self._kept[clip]
        extractor, path = self.processor.feature_extractor, self.clips[clip]
        # The window in the middle of the clip.
        with self._record.reading(path):
            duration = clip_window(path)[1]
            start, end = window_around(None, extractor.segment_seconds, duration)
            request = ClipRequest(start, end, num_frames=self.num_frames, sampling_rate=extractor.sampling_rate)
            loaded = load_clip(path, request)
        waveform = self.processor.mixture_windows([loaded.waveform])[0, 0]
        pixels = self.processor(videos=[loaded.frames])["pixel_values_videos"][0]
        example = {"waveform": waveform, "pixels": pixels, "features": self._features(waveform)}
        if self._kept is not None:
            self._kept[clip] = example
        return example


def read_pairs(table: str | os.PathLike, split: str | None = None) -> tuple[list[str], list[tuple[int, int]]]:
    """A list of pairs: a csv file with the columns `first` and `second`, files in its folder.

    A column `split` is obeyed where `split` is given.

    Returns:
        the files, and each pair as two indices into them.

    Raises:
        ValueError: no such table, columns that lack, or no pair of this split.
    """
    table = Path(table)
    if not table.is_file():
        raise ValueError(f"{table}: no such list of pairs; give a csv file with the columns first and second")
    files: dict[str, int] = {}
    pairs = []
    with open(table, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"first", "second"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{table}: columns {reader.fieldnames}; it needs first and second")
        for cells in reader:
            if split is None or cells.get("split", split) == split:
                names = (cells["first"], cells["second"])
                pairs.append(tuple(files.setdefault(safe_join(table.parent, name), len(files)) for name in names))
    if not pairs:
        raise ValueError(f"{table}: no pair of split {split!r}; check the column split")
    return list(files), pairs
