# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of maps: frame, truth and what a model shows, side by side, one row a frame; needs nothing but Pillow."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image


LARGEST = 224  # pixels of a side; smaller maps are enlarged by a whole factor


def displayed_frame(pixels: torch.Tensor, video_processor: Any) -> np.ndarray:
    """Normalized `[3, H, W]` back to uint8 `[H, W, 3]`."""
    mean, std = (torch.tensor(getattr(video_processor, name))[:, None, None] for name in ("image_mean", "image_std"))
    picture = (pixels * std + mean).clamp(0, 1) * 255
    return picture.round().to(torch.uint8).permute(1, 2, 0).numpy()


def heat(values: torch.Tensor, frame: np.ndarray) -> np.ndarray:
    """A map `[H, W]` in 0..1 in red over the darkened gray frame, uint8 `[H, W, 3]`."""
    gray = frame.mean(-1, keepdims=True) * 0.5
    shares = values.float().clamp(0, 1).numpy()[..., None]
    return (gray * (1 - shares) + np.array([255.0, 60, 30]) * shares).round().astype(np.uint8)


def save_maps(
    path: str | os.PathLike, rows: Sequence[tuple[torch.Tensor, Sequence[torch.Tensor]]], video_processor: Any
) -> Path:
    """Write one picture (png): for each row the frame and then its maps, left to right.

    Args:
        path: where; a temporary name is renamed.
        rows: (`[3, H, W]` normalized pixels, maps `[H, W]` in 0..1) for each frame.
        video_processor: whose mean and deviation the pixels have.
    """
    lines = []
    for pixels, maps in rows:
        frame = displayed_frame(pixels, video_processor)
        tiles = [frame, *(heat(values, frame) for values in maps)]
        lines.append(np.concatenate([np.pad(tile, ((1, 1), (1, 1), (0, 0))) for tile in tiles], 1))
    picture = Image.fromarray(np.concatenate(lines, 0))
    factor = max(1, LARGEST // rows[0][0].shape[-1])
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    picture.save(temporary, format="png")
    os.replace(temporary, path)
    return path
