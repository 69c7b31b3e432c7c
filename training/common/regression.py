# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Logistic regression on frozen features: the baseline of both recipes."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from processing.metrics import IGNORED_LABEL


STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # inverse penalties C, of which the validation clips choose one


def fit_regression(x: np.ndarray, y: np.ndarray, x_validation: np.ndarray, y_validation: np.ndarray) -> Pipeline:
    """The regression whose penalty does best on validation; features are standardized.

    Args:
        x, x_validation: features `[n, D]`.
        y, y_validation: classes `[n]` (-100 is not used; the best accuracy wins), or `[n, C]` of 0 and 1, which gives one
            regression a class (the best mAP wins).
    """
    if y.ndim == 2:
        return _fit_one_per_class(x, y, x_validation, y_validation)
    known, known_validation = y != IGNORED_LABEL, y_validation != IGNORED_LABEL
    candidates = []
    for strength in STRENGTHS:
        regression = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        candidates.append(regression.fit(x[known], y[known]))
    return max(candidates, key=lambda each: each.score(x_validation[known_validation], y_validation[known_validation]))


def _fit_one_per_class(x: np.ndarray, y: np.ndarray, x_validation: np.ndarray, y_validation: np.ndarray) -> Pipeline:
    seen = y_validation.any(0)  # the average precision of a class without clips is undefined

    def mean_average_precision(regression: Pipeline) -> float:
        return average_precision_score(y_validation[:, seen], regression.predict_proba(x_validation)[:, seen])

    candidates = []
    for strength in STRENGTHS:
        regression = OneVsRestClassifier(LogisticRegression(C=strength, max_iter=2000))
        candidates.append(make_pipeline(StandardScaler(), regression).fit(x, y))
    return max(candidates, key=mean_average_precision)


def regression_probabilities(regression: Pipeline, x: np.ndarray, num_classes: int) -> np.ndarray:
    """[n, num_classes]: a class that the training clips lack has probability 0."""
    if isinstance(regression[-1], OneVsRestClassifier):
        return regression.predict_proba(x).astype(np.float32)
    probabilities = np.zeros((len(x), num_classes), dtype=np.float32)
    probabilities[:, regression.classes_] = regression.predict_proba(x)
    return probabilities
