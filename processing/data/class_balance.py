# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Sampling of clips by which rare classes are seen as often as common ones, as is usual on AudioSet."""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from datasets import Dataset
from torch.utils.data import Sampler


def class_balanced_weights(labels: Sequence[Sequence[Hashable]]) -> list[float]:
    """Sampling weights that make rare classes be seen as often as common ones.

    `w_i = sum over the classes c of clip i of 1 / n_c`, with `n_c` the number of clips that have class c, scaled to a
    mean of 1. Drawing clips with probabilities proportional to w gives every class the same expected share of draws
    where each clip has one class.
    """
    counts = Counter(label for clip in labels for label in clip)
    weights = [sum(1 / counts[label] for label in clip) for clip in labels]
    if not weights:
        return []
    mean = sum(weights) / len(weights)
    return [weight / mean for weight in weights]


def sampling_weights(table: Dataset) -> list[float]:
    """The weight of each clip: the column `weight` where the set has one, else `class_balanced_weights` of its labels.

    Raises:
        ValueError: a weight that is missing, negative or not finite, or none above 0.
    """
    if "weight" not in table.column_names:
        labels = list(table["label"])
        if labels and not isinstance(labels[0], list):
            labels = [[label] for label in labels]
        return class_balanced_weights(labels)
    weights = list(table["weight"])
    for clip_id, weight in zip(table["clip_id"], weights, strict=True):
        if weight is None or not 0 <= weight < float("inf"):
            raise ValueError(f"{clip_id}: weight: {weight}; give numbers of at least 0, or leave the column out")
    if not any(weights):
        raise ValueError("weight: all are 0; give some clips more, or leave the column out")
    return weights


class BalancedSampler(Sampler[int]):
    """An epoch of as many draws as there are clips, with replacement, by weight; the same for equal seed and epoch.

    Args:
        weights: of the clips, at least 0, in any scale.
        seed: of all draws.
    """

    def __init__(self, weights: Sequence[float], seed: int):
        self.ends = np.cumsum(weights, dtype=np.float64)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Other draws for every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[int]:
        points = np.random.default_rng([self.seed, self.epoch]).random(len(self)) * self.ends[-1]
        yield from np.searchsorted(self.ends, points, side="right").tolist()
