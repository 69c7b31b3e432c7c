# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics that measure each frame or mixture when it is added, and keep only its few numbers."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from .classification import FLOAT_ROW, OfflineMetric


class MeasuredMetric(OfflineMetric, ABC):
    """A metric whose predictions and references are large; thousands of them need no memory.

    A subclass gives `measure(prediction, reference) -> numbers`, and `_compute` from those rows.
    """

    columns = {"predictions": FLOAT_ROW, "references": FLOAT_ROW}  # measured numbers; nothing is kept of references

    @abstractmethod
    def measure(self, prediction: Any, reference: Any) -> np.ndarray:
        """-> the few numbers `[k]` that are kept of one pair."""

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Measure a batch. Raises ValueError for another number of references than predictions."""
        predictions, references = list(predictions), list(references)
        if len(predictions) != len(references):
            raise ValueError(f"{len(predictions)} predictions and {len(references)} references; give one for each")
        rows = [self.measure(*pair) for pair in zip(predictions, references, strict=True)]
        super().add_batch(predictions=rows, references=[np.zeros(0)] * len(rows), **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Measure one."""
        self.add_batch(predictions=[prediction], references=[reference], **kwargs)


class FrameMetric(MeasuredMetric):
    """Predictions and references are maps `[H, W]`; a subclass gives `measure_maps` and `_summarize(rows [n, k])`."""

    @abstractmethod
    def measure_maps(self, prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """-> the numbers `[k]` of one pair of maps `[H, W]`."""

    @abstractmethod
    def _summarize(self, rows: np.ndarray, **options: Any) -> dict[str, float]:
        """-> the figures, given the numbers `[n, k]` of all pairs."""

    def measure(self, prediction: Any, reference: Any) -> np.ndarray:
        prediction, reference = np.asarray(prediction), np.asarray(reference)
        if prediction.ndim != 2 or prediction.shape != reference.shape:
            raise ValueError(
                f"prediction {prediction.shape}, reference {reference.shape}; give [H, W] for both, resized to one size"
            )
        if not (np.isfinite(prediction).all() and np.isfinite(reference).all()):
            raise ValueError("prediction or reference: NaN or infinite values; give finite maps")
        return self.measure_maps(prediction, reference)

    def _compute(self, predictions: list, references: list, **options: Any) -> dict[str, float]:
        return self._summarize(np.asarray(predictions, dtype=np.float64), **options)


def f_scores(probabilities: np.ndarray, foreground: np.ndarray, thresholds: np.ndarray):
    """F-score `[number of thresholds]` of `probabilities >= threshold` against a binary map of the same size.

    `(1 + b) P R / (b P + R)` with b = 0.3; 0 where precision and recall are 0.
    """
    predicted = len(probabilities.ravel()) - np.searchsorted(np.sort(probabilities.ravel()), thresholds, side="left")
    inside = np.sort(probabilities[foreground])
    hits = len(inside) - np.searchsorted(inside, thresholds, side="left")
    # P R / (b P + R) with P = hits / predicted and R = hits / positives
    return 1.3 * hits / np.maximum(0.3 * len(inside) + predicted, 1)
