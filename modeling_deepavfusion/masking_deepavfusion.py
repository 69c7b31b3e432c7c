# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Which patches the encoder sees in pre-training: independent, uniform, per window and per modality (docs/deepavfusion.md, 4)."""

import torch


def num_kept(num_patches: int, mask_ratio: float) -> int:
    """int(P (1 - ratio)) patches stay."""
    return int(num_patches * (1 - mask_ratio))


def patch_order(noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Order the patches of each window by `noise` `[N, P]`, the smallest first.

    Returns:
        `ids_shuffle` and `ids_restore`, `[N, P]` each: `ids_restore` undoes `ids_shuffle`.
    """
    ids_shuffle = noise.argsort(dim=1, stable=True)
    return ids_shuffle, ids_shuffle.argsort(dim=1)


__all__ = ["num_kept", "patch_order"]
