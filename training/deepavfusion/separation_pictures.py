# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of separation: the frame, and the spectrograms of mixture, estimate and truth."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .reconstructions import HEIGHT, resized, save_rows, shown_frame, shown_spectrogram


WIDTH = 336  # pixels of a spectrogram


def save_spectrograms(
    path: str | os.PathLike, rows: Sequence[tuple[torch.Tensor, Sequence[torch.Tensor]]], processor: Any
) -> Path:
    """Write one picture (png): for each row the frame, then the spectrograms of its waveforms, low frequencies below.

    Args:
        path: where; a temporary name is renamed.
        rows: (`[3, H, W]` normalized pixels, waveforms `[n]`) of each row; brightness is relative to the first waveform.
        processor: gives the spectrograms, and says how the pixels are normalized.
    """
    lines = []
    for pixels, waveforms in rows:
        features = processor.feature_extractor(
            list(waveforms), sampling_rate=processor.feature_extractor.sampling_rate, return_tensors="pt"
        )["input_features"][:, 0]
        low, high = (float(limit) for limit in features[0].aminmax())
        tiles = [resized(shown_frame(pixels, processor.video_processor))]
        spectrograms = [Image.fromarray(np.ascontiguousarray(shown_spectrogram(own, low, high))) for own in features]
        tiles += [np.array(own.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)) for own in spectrograms]
        lines.append(np.concatenate([np.pad(tile, ((1, 1), (1, 1), (0, 0))) for tile in tiles], 1))
    return save_rows(lines, path)
