# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""MA-AVT's losses as masked sums over the global batch divided by global counts.

Dividing by the count of the whole batch, over all processes, makes the gradient of a step independent of padding and of
how the batch is split; every loss is finite (zero) when nothing is left to average.
"""

import torch
import torch.distributed as dist
from torch import nn
from transformers.utils.generic import maybe_autocast


def num_processes() -> int:
    """Processes that share the global batch; 1 outside torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


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
        ValueError: class weights with multi-hot labels, or rows of multi-hot labels without that `problem_type`.
    """
    logits = logits.float()
    # Several classes per sample: one binary decision for each.
    if problem_type == "multi_label_classification":
        if class_weights is not None:
            raise ValueError(
                "class_weights weigh the one class of a sample; multi-label clips have several. Leave them out, and draw "
                "clips of rare classes more often instead."
            )
        valid = mask.unsqueeze(-1) & (labels != -100)
        targets = torch.where(valid, labels, 0).to(logits.dtype)
        return global_mean(nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none"), valid)
    # Soft labels: the mean over a sample's classes, weighted by its scores.
    if labels.shape == logits.shape and torch.is_floating_point(labels):
        check_soft_labels(labels)
        valid = mask & (labels != -100).all(-1)
        targets = labels.to(logits.dtype)
        if class_weights is None:
            return global_mean(-(targets * logits.log_softmax(-1)).sum(-1), valid)
        targets = torch.where(valid[..., None], targets, 0.0) * class_weights.to(logits.dtype)
        weights = targets.sum(-1)
        losses = -(targets * logits.log_softmax(-1)).sum(-1) / torch.where(weights > 0, weights, 1.0)
        return global_mean(losses, valid, weights)
    # One class per sample.
    valid = mask & (labels != -100)
    targets = torch.where(valid, labels, 0).long()
    losses = nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
    weights = None if class_weights is None else class_weights[targets]
    return global_mean(losses.view(targets.shape), valid, weights)


def check_is_tensor(labels: torch.Tensor | None) -> None:
    """Raises ValueError for labels that are a number or a list."""
    if labels is not None and not isinstance(labels, torch.Tensor):
        raise ValueError(
            f"labels: {type(labels).__name__}; give a tensor, of class indices one a clip: torch.tensor([0, 2])."
        )


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


def check_soft_labels(labels: torch.Tensor) -> None:
    """Raises ValueError for rows `[..., C]` of a float that name several classes; on a GPU nobody waits to know."""
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if (labels.float().clamp(min=0).sum(-1) > 1.01).any():
        raise ValueError(
            "labels: a row sums to more than 1, which soft labels do not. For several classes a clip load the model with "
            'problem_type="multi_label_classification".'
        )


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


def matching_loss(
    match_logits: torch.Tensor, is_matched: torch.Tensor, mask: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """L_bg: binary cross-entropy that tells matched pairs (logit above 0) from mismatched ones.

    Args:
        match_logits: `[...]`.
        is_matched: bool `[...]`.
        mask: bool `[...]`, true where both modalities are present.
        weights: `[...]`, how much each pair counts; None: all alike.
    """
    losses = nn.functional.binary_cross_entropy_with_logits(
        match_logits.float(), is_matched.to(torch.float32), reduction="none"
    )
    return global_mean(losses, mask, weights)


class _GatherRows(torch.autograd.Function):
    """Concatenate the rows of all processes; the gradient of every process's copy flows back to its owner."""

    @staticmethod
    def forward(ctx, rows: torch.Tensor) -> torch.Tensor:
        ctx.num_rows = rows.shape[0]
        gathered = rows.new_empty((num_processes() * rows.shape[0], *rows.shape[1:]))
        dist.all_gather_into_tensor(gathered, rows.contiguous())
        return gathered

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        of_this_process = gradient.new_empty((ctx.num_rows, *gradient.shape[1:]))
        dist.reduce_scatter_tensor(of_this_process, gradient.contiguous())
        return of_this_process


def gather_pairs(
    features: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gather projected pairs over all processes in one collective, with gradient (docs/maavt.md, 4).

    Processes may hold different numbers of pairs: rows are padded to the largest number and masked out. Mask and labels
    travel as columns beside the features; float32 holds every class index up to 2^24.

    Args:
        features: `[N, ...]` float32.
        mask: bool `[N]`.
        labels: class indices `[N]`.

    Returns:
        `[N_global, ...]`, bool `[N_global]` and class indices `[N_global]`.
    """
    if num_processes() == 1:
        return features, mask, labels
    # Every process pads its rows to the largest number of them.
    most = torch.tensor([features.shape[0]], device=features.device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    padding = int(most) - features.shape[0]
    # One collective carries features, mask and labels.
    rows = torch.cat([features.flatten(1), torch.stack([mask, labels], dim=1).to(features.dtype)], dim=1)
    rows = _GatherRows.apply(nn.functional.pad(rows, (0, 0, 0, padding)))
    gathered_mask, gathered_labels = rows[:, -2:].detach().unbind(1)
    return rows[:, :-2].reshape(-1, *features.shape[1:]), gathered_mask > 0, gathered_labels.long()


def contrastive_loss(
    video: torch.Tensor,
    audio: torch.Tensor,
    mask: torch.Tensor,
    temperature: float,
    labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """Blockwise contrastive loss: symmetric InfoNCE between the two modalities of every pair, one loss per block (equation 2).

    With `labels` it is supervised contrast between the modalities (equation 2a of docs/maavt.md; Khosla et al., *Supervised
    Contrastive Learning*, NeurIPS 2020, equation 2, "out"): the positives of a video are the audio of all pairs of its
    class, its own pair among them, and their log-probabilities are averaged.

    Args:
        video: `[N, L, d]`, projected shared-token means of the video, for L blocks.
        audio: `[N, L, d]`, the same of the audio.
        mask: bool `[N]`; pairs that are mismatched or lack a modality are dropped: neither anchor nor negative.
        temperature: tau.
        labels: class indices `[N]`; a pair without a label (-100) is its own only positive.

    Each process scores its own pairs against those of all processes, so its memory grows with N times N_global; the sum over
    its pairs is scaled like that of `global_mean`.

    Returns:
        `[L]`, zeros when no pair is left.
    """
    # All pairs of the global batch, as unit vectors.
    by_class, count = labels is not None, len(mask)
    if not by_class:
        labels = torch.full_like(mask, -100, dtype=torch.long)
    features = nn.functional.normalize(torch.stack([video, audio], dim=1).float(), dim=-1)
    features, mask, labels = gather_pairs(features, mask, labels)
    video, audio = features.permute(1, 2, 0, 3)  # (L, M, d) each, M pairs of all processes
    first = 0 if num_processes() == 1 else dist.get_rank() * (len(mask) // num_processes())
    of_this_process = slice(first, first + count)

    # Scores of every video of this process with every audio, and the reverse. A pair may always compare itself: no row holds
    # infinities alone.
    with maybe_autocast(video.device.type, enabled=False):
        to_audio = video[:, of_this_process] @ audio.transpose(1, 2) / temperature  # (L, N, M)
        if num_processes() == 1:
            to_video = to_audio.transpose(1, 2)
        else:
            to_video = audio[:, of_this_process] @ video.transpose(1, 2) / temperature
    places = torch.arange(len(mask), device=mask.device)
    diagonal = places[of_this_process, None] == places[None, :]
    allowed = (mask[of_this_process, None] & mask[None, :]) | diagonal  # (N, M)
    to_audio = to_audio.masked_fill(~allowed, float("-inf"))
    to_video = to_video.masked_fill(~allowed, float("-inf"))

    # The score of the positives: of the pair itself (2), or the mean over the pairs of its class (2a).
    positive = to_audio.diagonal(first, dim1=1, dim2=2)  # (L, N)
    if by_class:
        labeled = (labels[of_this_process] != -100)[:, None]
        same = allowed & (labels[of_this_process, None] == labels[None, :]) & labeled | diagonal
        alike = torch.where(same, to_audio, 0.0).sum(2) + torch.where(same, to_video, 0.0).sum(2)
        positive = alike / 2 / same.sum(1)
    losses = (to_audio.logsumexp(2) + to_video.logsumexp(2)) / 2 - positive  # (L, N)
    total = torch.where(mask[of_this_process], losses, 0.0).sum(1)
    return total * num_processes() / mask.sum().clamp(min=1)


__all__ = ["classification_loss", "contrastive_loss", "gather_pairs", "global_mean", "matching_loss", "num_processes"]
