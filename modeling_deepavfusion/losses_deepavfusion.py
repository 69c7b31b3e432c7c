# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion's losses. Each is a masked sum over the global batch, divided by the global count."""

import torch
import torch.distributed as dist
from torch import nn

from .configuration_deepavfusion import OLD_TARGETS, SEPARATION_TARGETS


# ---- means over all processes


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
    # The count is that of the global batch.
    count = count.sum()
    if num_processes() > 1:
        dist.all_reduce(count)
    # An ignored entry may be infinite: it is replaced, not multiplied by zero.
    total = torch.where(mask, values, 0.0).sum()
    return total * num_processes() / torch.where(count > 0, count, 1.0)


# ---- classification


def classification_loss(
    logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor, problem_type: str | None = None
) -> torch.Tensor:
    """Cross-entropy over the samples that count, or binary cross-entropy over classes for multi-hot labels.

    Args:
        logits: `[..., C]`.
        labels: `[...]` class indices, or `[..., C]` soft labels, or `[..., C]` multi-hot labels when `problem_type` is
            `"multi_label_classification"`. -100 is ignored: the sample, or one class of a multi-hot label.
        mask: bool `[...]`, true where the sample counts.
    """
    logits = logits.float()

    # multi-hot labels: every class is a decision of its own
    if problem_type == "multi_label_classification":
        valid = mask.unsqueeze(-1) & (labels != -100)  # (..., C)
        targets = torch.where(valid, labels, 0).to(logits.dtype)
        losses = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return global_mean(losses, valid)

    # soft labels
    if labels.shape == logits.shape and torch.is_floating_point(labels):
        check_soft_labels(labels)
        valid = mask & (labels != -100).all(-1)  # (...)
        losses = -(labels.to(logits.dtype) * logits.log_softmax(-1)).sum(-1)
        return global_mean(losses, valid)

    # class indices
    valid = mask & (labels != -100)
    targets = torch.where(valid, labels, 0).long()
    losses = nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
    return global_mean(losses.view(targets.shape), valid)


# Copied from modeling_maavt.losses_maavt.check_is_tensor
def check_is_tensor(labels: torch.Tensor | None) -> None:
    """Raises ValueError for labels that are a number or a list."""
    if labels is not None and not isinstance(labels, torch.Tensor):
        raise ValueError(
            f"labels: {type(labels).__name__}; give a tensor, of class indices one a clip: torch.tensor([0, 2])."
        )


# Copied from modeling_maavt.losses_maavt.check_classes
def check_classes(labels: torch.Tensor, num_labels: int) -> None:
    """Raises ValueError for a class index that the model does not have; on a GPU, which nobody waits for, PyTorch does."""
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    unknown = labels[(labels != -100) & ((labels < 0) | (labels >= num_labels))]
    if len(unknown):
        raise ValueError(
            f"labels: {unknown[0].item()} is no class of this model, whose {num_labels} classes are 0 to {num_labels - 1} "
            "(-100 is ignored); correct the labels, or load the model with num_labels."
        )


# Copied from modeling_maavt.losses_maavt.check_soft_labels
def check_soft_labels(labels: torch.Tensor) -> None:
    """Raises ValueError for rows `[..., C]` of a float that name several classes; on a GPU nobody waits to know."""
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if (labels.float().clamp(min=0).sum(-1) > 1.01).any():
        raise ValueError(
            "labels: a row sums to more than 1, which soft labels do not. For several classes a clip load the model with "
            'problem_type="multi_label_classification".'
        )


# Copied from modeling_maavt.losses_maavt.smooth_labels
def smooth_labels(
    labels: torch.Tensor, num_labels: int, smoothing: float, problem_type: str | None = None
) -> torch.Tensor:
    """Soft labels y (1 - s) + s / C, float `[..., C]`, of class indices `[...]` or soft labels `[..., C]`.

    -100 stays -100. Multi-hot labels are returned as they are.
    """
    if not smoothing or problem_type == "multi_label_classification":
        return labels
    if not torch.is_floating_point(labels):
        # class indices to one-hot rows; a row of -100 stands for an ignored sample
        known = labels != -100
        labels = nn.functional.one_hot(torch.where(known, labels, 0).long(), num_labels).float()
        labels = torch.where(known[..., None], labels, -100.0)
    smoothed = labels * (1 - smoothing) + smoothing / num_labels
    return torch.where(labels == -100, labels, smoothed)


# ---- pre-training (docs/deepavfusion.md, equation 4)


def reconstruction_loss(
    predicted: torch.Tensor, target: torch.Tensor, hidden: torch.Tensor, normalize: bool
) -> torch.Tensor:
    """Squared error, averaged over the values of a patch, then over the hidden patches of the global batch.

    Args:
        predicted, target: `[N, P, V]`.
        hidden: bool `[N, P]`, true where a patch was hidden and counts.
        normalize: standardize every target patch by its own mean and unbiased variance (plus 1e-6).
    """
    target = target.float()
    if normalize:
        deviation = (target.var(-1, keepdim=True) + 1e-6).sqrt()
        target = (target - target.mean(-1, keepdim=True)) / deviation
    errors = (predicted.float() - target).square().mean(-1)  # (N, P)
    return global_mean(errors, hidden)


# ---- separation (docs/deepavfusion_tasks.md, 2)


def separation_mask(
    mixture: torch.Tensor, source: torch.Tensor, other: torch.Tensor | None, target: str
) -> torch.Tensor:
    """The mask that separation learns, from log10 mel power. All tensors have one shape, which is also the result's.

    With s, o and m the power of source, rest and mixture:

    - `"ratio"`: s / (s + o). `"binary"`: 1 where s > o.
    - `"reference_ratio"`, the reference implementation's: s / (s + m + 1e-5), which cannot exceed one half where the rest
      is silent.
    - `"reference_binary"`, the reference implementation's: 1 where s > m, which a mixture that is a sum hardly ever allows.

    Raises:
        ValueError: an unknown target, shapes that differ, or no `other` where the target needs it.
    """
    target = OLD_TARGETS.get(target, target)
    if target not in SEPARATION_TARGETS:
        raise ValueError(f"separation_target={target!r} is unknown; choose one of {SEPARATION_TARGETS}.")
    # what the source is compared with: the rest, or the mixture
    needs_other = target in ("ratio", "binary")
    if needs_other and other is None:
        raise ValueError(
            f"separation_target={target!r} compares the source with the rest: give other_features, or choose "
            '"reference_ratio" or "reference_binary".'
        )
    reference, offset = mixture, 1e-5
    if needs_other:
        reference, offset = other, 0.0
    if source.shape != mixture.shape or reference.shape != mixture.shape:
        raise ValueError(
            f"labels {tuple(source.shape)}, mixture {tuple(mixture.shape)} and other_features {tuple(reference.shape)} "
            "differ; give spectrograms of one shape."
        )

    source, reference = source.float(), reference.float()
    if target in ("binary", "reference_binary"):
        return (source > reference).float()
    source_power, reference_power = 10**source, 10**reference
    return (source_power / (source_power + reference_power + offset)).clamp(0, 1)


def separation_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    mixture: torch.Tensor,
    weighting: bool,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Binary cross-entropy, averaged over the points of the global batch.

    Args:
        logits, targets, mixture: one shape; `mixture` is log10 mel power.
        weighting: multiply each point by clamp(ln(1 + m), 1e-3, 10) for the mixture's power m.
        mask: bool of the same shape, true for points that count; None: all.
    """
    losses = nn.functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    if weighting:
        losses = losses * (10 ** mixture.float()).log1p().clamp(1e-3, 10)
    if mask is None:
        mask = torch.ones_like(losses, dtype=torch.bool)
    return global_mean(losses, mask)


__all__ = [
    "classification_loss",
    "global_mean",
    "num_processes",
    "reconstruction_loss",
    "separation_loss",
    "separation_mask",
    "smooth_labels",
]
