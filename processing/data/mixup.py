# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""MixUp for pairs (Zhang et al., ICLR 2018): video, audio and label of two clips are mixed by one and the same lambda."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from processing.metrics import IGNORED_LABEL

from .collators import STREAMS


LABELS = ("labels", "video_targets", "audio_targets")


@dataclass(frozen=True)
class PairMixUp:
    """Mixes the clips of a training batch two by two: x = lambda x_i + (1 - lambda) x_j, for every part of a pair.

    Because video and audio share lambda and partner, a mixed pair is still a matched pair: `is_matched`, matching and
    contrast go on as before. Where noise was added to one of the two clips, the mixture counts as noisy (`match_mask`).
    Only matched, labeled clips are mixed, each with one that has the same modalities (or with itself); all others,
    mismatched pairs among them, stay as they are.

    Labels become scores: a class index turns into a soft label, `[B]` into `[B, C]` and `[B, S]`, one per segment, into
    `[B, S, C]`. A segment that is ignored (-100) in one of the two clips is ignored in the mixture.

    Args:
        alpha: lambda is drawn from Beta(alpha, alpha), once a step and equal on all processes; above 0.
        num_classes: C.
        seed: of lambda and partners.
        multi_label: labels are multi-hot already, `[B, C]` or `[B, S, C]`.

    Raises:
        ValueError: alpha is not above 0.
    """

    alpha: float
    num_classes: int
    seed: int = 0
    multi_label: bool = False

    def __post_init__(self):
        if not self.alpha > 0:
            raise ValueError(f"alpha={self.alpha} must be above 0; leave MixUp out for none")

    def __call__(
        self, batch: dict[str, torch.Tensor], step: int | Sequence[int], process: int = 0
    ) -> dict[str, torch.Tensor]:
        """A batch of `AudioVisualCollator` -> a new batch of the same keys, labels as scores; the given one is not changed.

        Args:
            batch: with `labels`; `is_matched`, `has_video` and `has_audio` are all true where absent.
            step: number, or numbers, of the step in the whole run: with the seed they decide everything that is drawn.
            process: rank; the partners, not lambda, differ between processes.

        Raises:
            ValueError: a batch without labels, class indices outside of 0 to C - 1, or scores of another width than C.
        """
        if "labels" not in batch:
            raise ValueError("labels: the batch has none, and MixUp mixes them too; give labels, or leave MixUp out")
        if isinstance(step, int):
            step = [step]
        drawn = [self.seed, *step]
        lam = float(np.random.default_rng(drawn).beta(self.alpha, self.alpha))
        partner = self._partners(batch, self._scores(batch["labels"]), np.random.default_rng([*drawn, 1 + process]))
        mixed = {}
        for name in LABELS:
            if name in batch:
                scores = self._scores(batch[name])
                ignored = scores == IGNORED_LABEL
                mixed[name] = _mix(scores, partner, lam).masked_fill_(ignored | ignored[partner], IGNORED_LABEL)
        mixed |= {name: _mix(batch[name], partner, lam) for name in STREAMS if name in batch}
        if "match_mask" in batch:
            mask = batch["match_mask"]
            mixed["match_mask"] = mask & mask[partner.to(mask.device)]
        return {name: mixed.get(name, value) for name, value in batch.items()}

    def _scores(self, labels: torch.Tensor) -> torch.Tensor:
        """Class indices or scores to float scores `[..., C]`; what is ignored is -100 throughout."""
        if self.multi_label or torch.is_floating_point(labels):
            if labels.shape[-1] != self.num_classes:
                raise ValueError(f"labels: scores of {labels.shape[-1]} classes, expected {self.num_classes}")
            return labels.float()
        ignored = labels == IGNORED_LABEL
        kept = labels.masked_fill(ignored, 0)
        if kept.min() < 0 or kept.max() >= self.num_classes:
            raise ValueError(f"labels: class indices must be 0 to {self.num_classes - 1}, or -100 to be ignored")
        scores = torch.nn.functional.one_hot(kept, self.num_classes).float()
        return scores.masked_fill(ignored[..., None], IGNORED_LABEL)

    def _partners(self, batch: dict, scores: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """For every clip the row it is mixed with, `[B]`: itself where it stays as it is."""
        mixable = (scores != IGNORED_LABEL).flatten(1).any(1).cpu()
        if "is_matched" in batch:
            mixable &= batch["is_matched"].bool().view(len(mixable), -1).all(1).cpu()
        # Which modalities each clip has: 1, 2, or 3 for both; 0: it stays as it is. Without flags it has both.
        present = torch.ones_like(mixable)
        has_first, has_second = (batch.get(flag, present).cpu().long() for flag in STREAMS.values())
        kinds = (has_first + 2 * has_second).masked_fill(~mixable, 0)
        partner = np.arange(len(kinds))
        for kind in (1, 2, 3):
            rows = np.flatnonzero(kinds.numpy() == kind)
            partner[rows] = generator.permutation(rows)
        return torch.from_numpy(partner).to(scores.device)


def _mix(values: torch.Tensor, partner: torch.Tensor, lam: float) -> torch.Tensor:
    partner = partner.to(values.device)
    # a clip that is its own partner keeps its very bits
    alone = (partner == torch.arange(len(partner), device=partner.device)).view(-1, *[1] * (values.ndim - 1))
    return torch.where(alone, values, lam * values + (1 - lam) * values[partner])
