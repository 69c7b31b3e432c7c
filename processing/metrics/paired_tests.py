# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests whether two models differ on the same clips."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, bootstrap


BATCH = 100  # draws at a time: [BATCH, groups] indices are in memory


def mcnemar_test(correct_a: Sequence[bool], correct_b: Sequence[bool]) -> dict[str, Any]:
    """Exact McNemar test: of the clips that one model alone gets right, is A's share other than one half?

    Takes clips to be independent; where several belong to a group, go by `paired_bootstrap`. McNemar, Psychometrika
    1947, two-sided, with the binomial distribution itself in place of the chi-square approximation; for classifiers
    see Dietterich, Neural Computation 1998.

    Args:
        correct_a: `[n]`, whether model A is right about each clip.
        correct_b: `[n]`, the same clips.

    Returns:
        `only_a_right`, `only_b_right`, `p_value` (1 where there are neither).

    Raises:
        ValueError: no clips, different lengths, or values other than true and false.
    """
    a, b = np.asarray(correct_a), np.asarray(correct_b)
    if not len(a) or a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"correct_a {a.shape}, correct_b {b.shape}; give the same clips to both, at least one")
    if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise ValueError("correct_a and correct_b: give true or false for each clip")
    a, b = a.astype(bool), b.astype(bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p_value = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return {"only_a_right": only_a, "only_b_right": only_b, "p_value": float(p_value)}


def paired_bootstrap(
    values_a: Sequence[float],
    values_b: Sequence[float],
    groups: Sequence[Any],
    *,
    num_samples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Difference of the means, B minus A, with a percentile bootstrap in which whole groups are drawn.

    The p-value is two-sided and belongs to the interval: twice the smaller share of draws on either side of 0, each
    counted with one draw more, so that it is never 0 (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    chapters 13 and 15; Davison and Hinkley, Bootstrap Methods and their Application, 1997, chapter 4). With few
    groups (below about 20) it is too small: a bootstrap draws no variation that the groups lack.

    Args:
        values_a: `[n]`, such as whether model A is right about each clip.
        values_b: `[n]`, the same clips.
        groups: `[n]`, such as the speaker or the source video.
        num_samples: number of draws.
        seed: of the draws.

    Returns:
        `difference`, `interval` ([low, high], 95 %), `p_value`, `groups`.

    Raises:
        ValueError: different lengths, or fewer than two groups.
    """
    a, b = np.asarray(values_a, dtype=np.float64), np.asarray(values_b, dtype=np.float64)
    if not a.shape == b.shape == (len(groups),):
        raise ValueError(
            f"values_a {a.shape}, values_b {b.shape}, groups ({len(groups)},); give the same clips to all"
        )
    # Sum of differences and number of clips of each group.
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"groups: {len(names)} to draw from; a difference needs clips of at least two groups")
    sums, sizes = np.bincount(group_of, weights=b - a), np.bincount(group_of).astype(np.float64)

    # Draw groups: the sums and sizes of a group stay together.
    drawn = bootstrap(
        (sums, sizes),
        _mean,
        n_resamples=num_samples,
        batch=BATCH,
        paired=True,
        vectorized=True,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    # The share of the draws beyond 0, on the smaller tail.
    draws = drawn.bootstrap_distribution
    tails = [(1 + int(beyond.sum())) / (1 + num_samples) for beyond in (draws <= 0, draws >= 0)]
    return {
        "difference": float(_mean(sums, sizes)),
        "interval": [float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)],
        "p_value": min(1.0, 2 * min(tails)),
        "groups": len(names),
    }


def _mean(sums: np.ndarray, sizes: np.ndarray, axis: int = -1) -> np.ndarray:
    return sums.sum(axis) / sizes.sum(axis)
