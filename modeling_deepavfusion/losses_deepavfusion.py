# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion's losses as masked sums over the global batch divided by global counts."""

import torch
import torch.distributed as dist
from torch import nn


# Copied from modeling_maavt.losses_maavt.num_processes
def num_processes() -> int:
    """Processes that share the global batch; 1 outside torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


# Copied from modeling_maavt.losses_maavt.global_mean
def global_mean(values: torch.Tensor, mask: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean of `values` where `mask` is true, over all processes; 0 when nothing is true.

    With `weights` the weighted mean, sum(w v) / sum(w).

    The local sum is divided by the global count and multiplied by the number of processes, because data-parallel
    training averages gradients over processes afterwards.

    Args:
        values: float tensor of any shape.
        mask: bool tensor of the same shape.
        weights: float tensor of the same shape, not negative.
    """
    values, count = values.float(), mask.to(torch.float32)
    if weights is not None:
        count = torch.where(mask, weights.float(), 0.0)
        values = values * weights.float()
    count = count.sum()
    if num_processes() > 1:
        dist.all_reduce(count)
    # where, not multiplication: an ignored entry may be infinite
    total = torch.where(mask, values, 0.0).sum()
    return total * num_processes() / torch.where(count > 0, count, 1.0)


# Copied from modeling_maavt.losses_maavt.classification_loss
def classification_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    mask: torch.Tensor,
    problem_type: str | None = None,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """L_fg: cross-entropy over the foreground samples, weighted by class where `class_weights` are given.

    With weights w the loss is sum_i sum_c w_c y_ic (-log p_ic) / sum_i sum_c w_c y_ic over the global batch, for a class
    index (y one-hot) and a soft label alike.

    Args:
        logits: `[..., C]`.
        labels: `[...]` class indices (-100 is ignored), or `[..., C]` with one score per class: soft labels (a row holding
            -100 is ignored), or multi-hot targets of a binary cross-entropy when `problem_type` is
            `"multi_label_classification"` (entries of -100 are ignored).
        mask: bool `[...]`, true where the sample counts.
        class_weights: `[C]`, not negative; None weighs all classes alike.

    Raises:
        ValueError: class weights with multi-hot labels.
    """
    logits = logits.float()
    if problem_type == "multi_label_classification":
        if class_weights is not None:
            raise ValueError(
                "class_weights weigh the one class of a sample; multi-label clips have several. Leave them out, and draw "
                "clips of rare classes more often instead."
            )
        valid = mask.unsqueeze(-1) & (labels != -100)
        targets = torch.where(valid, labels, 0).to(logits.dtype)
        return global_mean(nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none"), valid)
    if labels.shape == logits.shape and torch.is_floating_point(labels):
        valid = mask & (labels != -100).all(-1)
        targets = labels.to(logits.dtype)
        if class_weights is None:
            return global_mean(-(targets * logits.log_softmax(-1)).sum(-1), valid)
        targets = torch.where(valid[..., None], targets, 0.0) * class_weights.to(logits.dtype)
        weights = targets.sum(-1)
        losses = -(targets * logits.log_softmax(-1)).sum(-1) / torch.where(weights > 0, weights, 1.0)
        return global_mean(losses, valid, weights)
    valid = mask & (labels != -100)
    targets = torch.where(valid, labels, 0).long()
    losses = nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
    weights = None if class_weights is None else class_weights[targets]
    return global_mean(losses.view(targets.shape), valid, weights)


def smooth_labels(
    labels: torch.Tensor, num_labels: int, smoothing: float, problem_type: str | None = None
) -> torch.Tensor:
    """Class indices `[...]` or soft labels `[..., C]` as y (1 - s) + s / C, float `[..., C]`; what is -100 stays -100.

    Multi-hot labels are returned as they are.
    """
    if not smoothing or problem_type == "multi_label_classification":
        return labels
    if not torch.is_floating_point(labels):
        known = labels != -100
        labels = nn.functional.one_hot(torch.where(known, labels, 0), num_labels).float()
        labels = torch.where(known[..., None], labels, -100.0)
    return torch.where(labels == -100, labels, labels * (1 - smoothing) + smoothing / num_labels)


def reconstruction_loss(
    predicted: torch.Tensor, target: torch.Tensor, masked: torch.Tensor, normalize: bool
) -> torch.Tensor:
    """Squared error, averaged over the values of a patch, then over the masked patches of the whole batch.

    Args:
        predicted, target: `[N, P, V]`.
        masked: bool `[N, P]`, true where a patch was hidden and counts.
        normalize: standardize every target patch by its own mean and unbiased variance (plus 1e-6).
    """
    target = target.float()
    if normalize:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    return global_mean((predicted.float() - target).square().mean(-1), masked)


__all__ = ["classification_loss", "global_mean", "num_processes", "reconstruction_loss", "smooth_labels"]
