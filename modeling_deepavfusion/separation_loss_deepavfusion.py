# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Targets and loss of source separation: shares of mel power, and how points of the spectrogram are weighed."""

import torch
from torch import nn

from .losses_deepavfusion import global_mean


def separation_mask(
    mixture: torch.Tensor, source: torch.Tensor, other: torch.Tensor | None, target: str
) -> torch.Tensor:
    """What the mask of the wanted source should be, from log10 mel power of any one shape.

    With s, o and m the power of source, rest and mixture: "ratio" s / (s + o); "binary" 1 where s > o;
    "published_ratio" s / (s + m + 1e-5), which cannot exceed one half where the rest is silent; "published_binary" 1 where
    s > m, which a mixture that is a sum hardly ever allows.

    Raises:
        ValueError: shapes that differ, or no rest where the target needs one.
    """
    needs_other = target in ("ratio", "binary")
    if needs_other and other is None:
        raise ValueError(
            f"separation_target={target!r} compares the source with the rest: give other_features, or choose "
            '"published_ratio" or "published_binary".'
        )
    reference = other if needs_other else mixture
    if source.shape != mixture.shape or reference.shape != mixture.shape:
        raise ValueError(
            f"labels {tuple(source.shape)}, mixture {tuple(mixture.shape)}, other_features "
            f"{None if other is None else tuple(other.shape)}; give spectrograms of one shape."
        )
    source, reference = source.float(), reference.float()
    if target in ("binary", "published_binary"):
        return (source > reference).float()
    source, reference = 10**source, 10**reference
    offset = 0.0 if needs_other else 1e-5
    return (source / (source + reference + offset)).clamp(0, 1)


def separation_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    mixture: torch.Tensor,
    weighting: bool,
    counted: torch.Tensor | None = None,
) -> torch.Tensor:
    """Binary cross-entropy, mean over the points of the global batch; `weighting` multiplies each by clamp(ln(1 + m), 1e-3, 10).

    Args:
        logits, targets, mixture: one shape; mixture is log10 mel power.
        counted: bool of that shape, False for points that count for nothing.
    """
    losses = nn.functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    if weighting:
        losses = losses * (10 ** mixture.float()).log1p().clamp(1e-3, 10)
    return global_mean(losses, torch.ones_like(losses, dtype=torch.bool) if counted is None else counted)


__all__ = ["separation_loss", "separation_mask"]
