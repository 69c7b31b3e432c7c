# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Logistic regression on frozen features: the baseline of both recipes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss
from sklearn.model_selection import GroupKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from processing.metrics import IGNORED_LABEL


EXPONENTS = (-3, -1, 1)  # of the inverse penalty C = 10^e; then the neighbors of the best one, until both are worse
LIMITS = (-9, 4)
Fold = tuple[np.ndarray, np.ndarray]  # rows to fit on, rows to judge by


def fit_regression(x: np.ndarray, y: np.ndarray, x_validation: np.ndarray, y_validation: np.ndarray) -> Pipeline:
    """The regression whose penalty does best on validation; features are standardized.

    Args:
        x, x_validation: features `[n, D]`.
        y, y_validation: classes `[n]` (-100 is not used; the best accuracy wins), or `[n, C]` of 0 and 1, which gives one
            regression a class (the best mAP wins).
    """
    fold = np.arange(len(x)), len(x) + np.arange(len(x_validation))
    exponent, _ = best_penalty(np.concatenate([x, x_validation]), np.concatenate([y, y_validation]), [fold])
    return fitted(x, y, exponent)


def best_penalty(
    x: np.ndarray, y: np.ndarray, folds: Sequence[Fold], figures: dict[int, float] | None = None
) -> tuple[int, float]:
    """The exponent e of C = 10^e that does best on the judged rows of all folds, and its figure. Of equals the smallest.

    `figures`: those of exponents that were judged before.
    """
    figures = dict(figures or {})
    wanted = set(EXPONENTS) - set(figures)
    while True:
        for exponent in wanted:
            figures[exponent] = judged(x, y, folds, exponent)
        best = max(sorted(figures), key=figures.get)
        # The best one needs a neighbor on either side.
        wanted = {e for e in (best - 1, best + 1) if e not in figures and LIMITS[0] <= e <= LIMITS[1]}
        if not wanted:
            return best, figures[best]


def judged(x: np.ndarray, y: np.ndarray, folds: Sequence[Fold], exponent: int) -> float:
    """Negative log loss (multi-hot: mAP) over the judged rows of all folds.

    Of few rows the accuracy hardly decides, and late fusion and class agreement read the probabilities.
    """
    probabilities, truth = [], []
    for fit_rows, judge_rows in folds:
        regression = fitted(x[fit_rows], y[fit_rows], exponent)
        num_classes = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
        probabilities.append(regression_probabilities(regression, x[judge_rows], num_classes))
        truth.append(y[judge_rows])
    p, y = np.concatenate(probabilities), np.concatenate(truth)
    if y.ndim == 2:
        seen = y.any(0)  # the average precision of a class without clips is undefined
        return float(average_precision_score(y[:, seen], p[:, seen]))
    known = y != IGNORED_LABEL
    p, y = np.clip(p[known].astype(float), 1e-12, 1), y[known]
    p /= p.sum(1, keepdims=True)
    return -float(log_loss(y, p, labels=np.arange(p.shape[1])))


def fitted(x: np.ndarray, y: np.ndarray, exponent: int) -> Pipeline:
    """The regression with C = 10^exponent; rows of -100 are not used."""
    regression = LogisticRegression(C=10.0**exponent, max_iter=2000)
    if y.ndim == 2:
        return make_pipeline(StandardScaler(), OneVsRestClassifier(regression)).fit(x, y)
    known = y != IGNORED_LABEL
    return make_pipeline(StandardScaler(), regression).fit(x[known], y[known])


def group_folds(groups: np.ndarray, num_folds: int, seed: int = 0) -> list[Fold]:
    """Folds in which no group stands on both sides; fewer than `num_folds` where there are fewer groups."""
    num_folds = min(num_folds, len(set(groups)))
    return list(GroupKFold(num_folds, shuffle=True, random_state=seed).split(groups, groups=groups))


def choose_features(
    candidates: dict[Any, Callable[[], np.ndarray]], y: np.ndarray, folds: Sequence[Fold]
) -> tuple[Any, int]:
    """The key of the features `[n, D]` that do best with the best of a few penalties, and their own best exponent."""
    figures = {}
    for key, features in candidates.items():
        x = features()
        figures[key] = {exponent: judged(x, y, folds, exponent) for exponent in EXPONENTS}
    best = max(figures, key=lambda key: max(figures[key].values()))
    return best, best_penalty(candidates[best](), y, folds, figures[best])[0]


def regression_probabilities(regression: Pipeline, x: np.ndarray, num_classes: int) -> np.ndarray:
    """[n, num_classes]: a class that the training clips lack has probability 0."""
    if isinstance(regression[-1], OneVsRestClassifier):
        return regression.predict_proba(x).astype(np.float32)
    probabilities = np.zeros((len(x), num_classes), dtype=np.float32)
    probabilities[:, regression.classes_] = regression.predict_proba(x)
    return probabilities
