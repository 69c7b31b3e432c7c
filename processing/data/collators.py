# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Stack the items of a `ClipDataset` into a batch."""

from collections.abc import Sequence
from typing import Any

import torch


STREAMS = {"pixel_values_videos": "has_video", "input_features": "has_audio"}


class AudioVisualCollator:
    """Items -> batch. A stream that a clip lacks becomes a row of zeros with `has_video` / `has_audio` False.

    Items hold `pixel_values_videos` `[T, 3, H, W]` and / or `input_features` `[S, F, W]`, and may hold `labels`,
    `is_matched` and the two flags. A stream that the whole batch lacks has no key; so have labels that no item has.
    """

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """-> `pixel_values_videos` `[B, T, 3, H, W]`, `input_features` `[B, S, F, W]`, flags `[B]`, `labels` `[B]`.

        Raises:
            ValueError: an empty batch, streams of different shapes, or labels in some items only.
        """
        if not items:
            raise ValueError("items: the batch is empty; give at least one item")
        batch = {}
        for name, flag in STREAMS.items():
            present = [item.get(name) for item in items]
            batch[flag] = torch.tensor([item.get(name) is not None and bool(item.get(flag, True)) for item in items])
            if any(value is not None for value in present):
                batch[name] = _stack(name, present)
        for name in sorted({key for item in items for key in item} - set(batch) - set(STREAMS)):
            values = [item.get(name) for item in items]
            if any(value is None for value in values):
                raise ValueError(f"{name}: some items of the batch have it and some do not; give it to all or to none")
            batch[name] = torch.stack([torch.as_tensor(value) for value in values])
        return batch


def _stack(name: str, values: Sequence[torch.Tensor | None]) -> torch.Tensor:
    shapes = {tuple(value.shape) for value in values if value is not None}
    if len(shapes) > 1:
        raise ValueError(f"{name}: shapes {sorted(shapes)} in one batch; give all clips one number of frames and size")
    # A clip without the modality gets zeros.
    zeros = torch.zeros_like(next(value for value in values if value is not None))
    return torch.stack([zeros if value is None else value for value in values])
