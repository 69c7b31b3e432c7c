# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Waveforms as callers give them, checked."""

from typing import Any

import numpy as np
import torch


def as_waveforms(audio: Any) -> list[torch.Tensor]:
    """One waveform or a batch as a list of float32 `[n]` tensors.

    Raises:
        ValueError: no samples, a wrong rank, integers, NaN or infinity; the message names the row.
    """
    if isinstance(audio, (list, tuple)):
        single = len(audio) > 0 and np.isscalar(audio[0])
        rows = [np.asarray(audio, dtype=np.float32)] if single else list(audio)
    else:
        single = np.ndim(audio) == 1 if not isinstance(audio, torch.Tensor) else audio.ndim == 1
        if not single and getattr(audio, "ndim", 0) != 2:
            raise ValueError(f"waveform: rank {np.ndim(audio)}; give [n] or a batch [B, n], mono")
        rows = [audio] if single else list(audio)
    if not rows:
        raise ValueError("waveform: the batch is empty; give at least one waveform")
    return [_as_waveform(row, index) for index, row in enumerate(rows)]


def _as_waveform(row: Any, index: int) -> torch.Tensor:
    if not isinstance(row, torch.Tensor):
        row = torch.from_numpy(np.ascontiguousarray(np.asarray(row)))
    if row.ndim != 1:
        raise ValueError(
            f"waveform {index}: shape {tuple(row.shape)}; give mono samples [n] (average the channels first)"
        )
    if row.numel() == 0:
        raise ValueError(f"waveform {index}: no samples; leave the sound out (None) or give another clip")
    if not row.is_floating_point():
        raise ValueError(
            f"waveform {index}: {row.dtype}; give floating point samples in -1..1 (int16: divide by 32768)"
        )
    row = row.float()
    # one pass: a sum is finite only if all samples are; large ones may overflow it
    if not torch.isfinite(row.sum()) and not torch.isfinite(row).all():
        raise ValueError(
            f"waveform {index}: NaN or infinite samples; replace them (torch.nan_to_num) or drop the clip"
        )
    return row
