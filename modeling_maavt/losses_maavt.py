# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""MA-AVT's losses as masked sums over the global batch divided by global counts.

Dividing by the count of the whole batch, over all processes, makes the gradient of a step independent of padding and of
how the batch is split; every loss is finite (zero) when nothing is left to average.
"""

import torch
import torch.distributed as dist
from torch import nn


def num_processes() -> int:
    """Processes that share the global batch; 1 outside torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def global_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `values` where `mask` is true, over all processes; 0 when nothing is true.

    The local sum is divided by the global count and multiplied by the number of processes, because data-parallel
    training averages gradients over processes afterwards.

    Args:
        values: float tensor of any shape.
        mask: bool tensor of the same shape.
    """
    count = mask.sum().to(torch.float32)
    if num_processes() > 1:
        dist.all_reduce(count)
    # where, not multiplication: an ignored entry may be infinite
    total = torch.where(mask, values.float(), 0.0).sum()
    return total * num_processes() / count.clamp(min=1)


def classification_loss(
    logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor, problem_type: str | None = None
) -> torch.Tensor:
    """L_fg: cross-entropy over the foreground samples.

    Args:
        logits: `[..., C]`.
        labels: `[...]` class indices (-100 is ignored), or `[..., C]` with one score per class: soft labels (a row holding
            -100 is ignored), or multi-hot targets of a binary cross-entropy when `problem_type` is
            `"multi_label_classification"` (entries of -100 are ignored).
        mask: bool `[...]`, true where the sample counts.
    """
    logits = logits.float()
    if problem_type == "multi_label_classification":
        valid = mask.unsqueeze(-1) & (labels != -100)
        targets = torch.where(valid, labels, 0).to(logits.dtype)
        return global_mean(nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none"), valid)
    if labels.shape == logits.shape and torch.is_floating_point(labels):
        valid = mask & (labels != -100).all(-1)
        losses = -(labels.to(logits.dtype) * logits.log_softmax(-1)).sum(-1)
        return global_mean(losses, valid)
    valid = mask & (labels != -100)
    targets = torch.where(valid, labels, 0).long()
    losses = nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
    return global_mean(losses.view(targets.shape), valid)


def matching_loss(match_logits: torch.Tensor, is_matched: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """L_bg: binary cross-entropy that tells matched pairs (logit above 0) from mismatched ones.

    Args:
        match_logits: `[...]`.
        is_matched: bool `[...]`.
        mask: bool `[...]`, true where both modalities are present.
    """
    losses = nn.functional.binary_cross_entropy_with_logits(
        match_logits.float(), is_matched.to(torch.float32), reduction="none"
    )
    return global_mean(losses, mask)


class _GatherRows(torch.autograd.Function):
    """Concatenate the rows of all processes; the gradient of every process's copy flows back to its owner."""

    @staticmethod
    def forward(ctx, rows: torch.Tensor) -> torch.Tensor:
        ctx.rank, ctx.num_rows = dist.get_rank(), rows.shape[0]
        gathered = rows.new_empty((num_processes() * rows.shape[0], *rows.shape[1:]))
        dist.all_gather_into_tensor(gathered, rows.contiguous())
        return gathered

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[ctx.rank * ctx.num_rows : (ctx.rank + 1) * ctx.num_rows]


def gather_pairs(features: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gather projected pairs over all processes in one collective, with gradient (docs/maavt.md, 4).

    Processes may hold different numbers of pairs: rows are padded to the largest number and masked out.

    Args:
        features: `[N, ...]` float32.
        mask: bool `[N]`.

    Returns:
        `[N_global, ...]` and bool `[N_global]`.
    """
    if num_processes() == 1:
        return features, mask
    most = torch.tensor([features.shape[0]], device=features.device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    padding = int(most) - features.shape[0]
    rows = torch.cat([features.flatten(1), mask[:, None].to(features.dtype)], dim=1)
    rows = _GatherRows.apply(nn.functional.pad(rows, (0, 0, 0, padding)))
    return rows[:, :-1].reshape(-1, *features.shape[1:]), rows[:, -1].detach() > 0


def contrastive_loss(video: torch.Tensor, audio: torch.Tensor, mask: torch.Tensor, temperature: float) -> torch.Tensor:
    """Blockwise contrastive loss: symmetric InfoNCE between the two modalities of every pair, one loss a block.

    Args:
        video: `[N, L, d]`, projected shared-token means of the picture, for L blocks.
        audio: `[N, L, d]`, the same of the sound.
        mask: bool `[N]`; pairs that are mismatched or lack a modality are dropped: neither anchor nor negative.
        temperature: tau.

    Returns:
        `[L]`, zeros when fewer than one pair is left.
    """
    features = torch.stack([video, audio], dim=1).float()
    features, mask = gather_pairs(nn.functional.normalize(features, dim=-1), mask)
    video, audio = features.permute(1, 2, 0, 3)
    scores = video @ audio.transpose(1, 2) / temperature  # [L, N, N]
    # every pair may compare itself, so that a row never holds infinities alone
    allowed = (mask[:, None] & mask[None, :]) | torch.eye(len(mask), dtype=torch.bool, device=mask.device)
    scores = scores.masked_fill(~allowed, float("-inf"))
    diagonal = scores.diagonal(dim1=1, dim2=2)
    losses = (scores.logsumexp(2) + scores.logsumexp(1)) / 2 - diagonal  # [L, N]
    return torch.where(mask, losses, 0.0).sum(1) / mask.sum().clamp(min=1)


__all__ = ["classification_loss", "contrastive_loss", "gather_pairs", "global_mean", "matching_loss", "num_processes"]
