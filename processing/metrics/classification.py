# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics for classes, for matched against mismatched pairs, and for both together; they need no network.

Definitions and sources of all metrics: docs/metrics.md.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
    roc_auc_score,
    top_k_accuracy_score,
)

from processing.metrics import IGNORED_LABEL


PAIR_COLUMNS = "match scores are logits: the higher, the surer that video and audio belong together"
FLOAT_ROW = datasets.List(datasets.Value("float64"))  # one row of a matrix
INT_ROW = datasets.List(datasets.Value("int64"))


class OfflineMetric(evaluate.Metric):
    """Kept in memory: nothing is cached, and several processes do not wait for each other's files."""

    columns: dict[str, Any] = {}  # name to kind of number, or to the feature of a row
    source = ""

    def __init__(self, config_name: str | None = None, keep_in_memory: bool = True, **kwargs: Any):
        super().__init__(config_name=config_name, keep_in_memory=keep_in_memory, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation=self.source,
            inputs_description=PAIR_COLUMNS,
            features=datasets.Features(
                {name: datasets.Value(kind) if isinstance(kind, str) else kind for name, kind in self.columns.items()}
            ),
        )


def labeled_rows(references: np.ndarray) -> np.ndarray:
    """`[n]` bool: rows of `references` (`[n]` or `[n, C]`) without -100. Raises ValueError when there are none."""
    kept = references != IGNORED_LABEL
    kept = kept.all(tuple(range(1, kept.ndim)))
    if not kept.any():
        raise ValueError(f"references: none of {len(references)} clips has a label; give labeled clips")
    return kept


class ClassificationScore(OfflineMetric):
    """Top-1 accuracy and macro F1 of class indices; rows whose reference is -100 are skipped.

    `compute(predictions=[n] int, references=[n] int)` -> `top1`, `macro_f1` (over the classes of the references),
    `num_clips`. Raises ValueError when every reference is -100.
    """

    columns = {"predictions": "int64", "references": "int64"}

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        predictions, references = np.asarray(predictions), np.asarray(references)
        kept = labeled_rows(references)
        predictions, references = predictions[kept], references[kept]
        macro_f1 = f1_score(references, predictions, labels=np.unique(references), average="macro", zero_division=0)
        return {
            "top1": float(accuracy_score(references, predictions)),
            "macro_f1": float(macro_f1),
            "num_clips": int(kept.sum()),
        }


class TopKScore(OfflineMetric):
    """Share of clips whose class is among the k highest scores; rows whose reference is -100 are skipped.

    `compute(predictions=[n, C] float scores, references=[n] int, k=5)` -> `top{k}`, `num_clips`. Of classes with equal
    scores the one with the higher index counts as higher, as in scikit-learn's `top_k_accuracy_score`. Raises
    ValueError unless 1 <= k < C (every clip is right at k = C), for a class outside 0..C - 1, and when every
    reference is -100.
    """

    columns = {"predictions": FLOAT_ROW, "references": "int64"}
    source = "Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015"

    def _compute(
        self, predictions: Sequence[Sequence[float]], references: Sequence[int], k: int = 5
    ) -> dict[str, float]:
        scores, references = np.asarray(predictions, dtype=np.float64), np.asarray(references)
        kept = labeled_rows(references)
        scores, references = scores[kept], references[kept]
        num_classes = scores.shape[1]
        if not 1 <= k < num_classes:
            raise ValueError(f"k={k} with {num_classes} classes; give 1 <= k < {num_classes}")
        _check_classes(references, num_classes)
        # Two classes: the higher score wins.
        if num_classes == 2:  # scikit-learn takes one column of scores then
            value = accuracy_score(references, scores[:, 1] >= scores[:, 0])
        else:
            value = top_k_accuracy_score(references, scores, k=k, labels=np.arange(num_classes))
        return {f"top{k}": float(value), "num_clips": len(references)}


class ClassReport(OfflineMetric):
    """Precision, recall, F1 and number of clips of every class, and the confusion matrix.

    `compute(predictions=[n] int, references=[n] int, label_names=[C] str)` -> `classes`: C times `{"label",
    "precision", "recall", "f1", "support"}`, None where a figure is undefined (precision of a class never predicted,
    recall of a class without clips, F1 of a class with neither); `confusion_matrix`: `[C, C]`, row: reference, column:
    prediction; `num_clips`. Rows whose reference is -100 are skipped. Raises ValueError for a class outside 0..C - 1
    and when every reference is -100.
    """

    columns = {"predictions": "int64", "references": "int64"}
    source = "scikit-learn: precision_recall_fscore_support and confusion_matrix"

    def _compute(
        self, predictions: Sequence[int], references: Sequence[int], label_names: Sequence[str]
    ) -> dict[str, Any]:
        predictions, references = np.asarray(predictions), np.asarray(references)
        kept = labeled_rows(references)
        predictions, references = predictions[kept], references[kept]
        for values in (predictions, references):
            _check_classes(values, len(label_names))
        labels = np.arange(len(label_names))
        columns = precision_recall_fscore_support(references, predictions, labels=labels, zero_division=np.nan)
        rows = [
            {"label": name, "precision": _defined(p), "recall": _defined(r), "f1": _defined(f), "support": int(n)}
            for name, p, r, f, n in zip(label_names, *columns, strict=True)
        ]
        matrix = confusion_matrix(references, predictions, labels=labels)
        return {"classes": rows, "confusion_matrix": matrix.tolist(), "num_clips": len(references)}


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _check_classes(values: np.ndarray, num_classes: int) -> None:
    wrong = values[(values < 0) | (values >= num_classes)]
    if len(wrong):
        raise ValueError(f"class {wrong[0]} with {num_classes} classes; give indices 0 to {num_classes - 1}, or -100")


class MatchScore(OfflineMetric):
    """How well match scores tell matched from mismatched pairs.

    `compute(predictions=[n] float, references=[n] bool or 0/1 (1: matched), threshold=0.0)` -> `auroc`, `accuracy`
    (a pair is accepted where its score is above the threshold), `threshold`, `num_pairs`. Raises ValueError unless
    both kinds of pairs are there.
    """

    columns = {"predictions": "float64", "references": "int64"}

    def _compute(
        self, predictions: Sequence[float], references: Sequence[int], threshold: float = 0.0
    ) -> dict[str, float]:
        scores, matched = np.asarray(predictions), np.asarray(references).astype(bool)
        if matched.all() or not matched.any():
            raise ValueError("references: AUROC needs matched and mismatched pairs; evaluate with mismatched_copies")
        return {
            "auroc": float(roc_auc_score(matched, scores)),
            "accuracy": float(np.mean((scores > threshold) == matched)),
            "threshold": float(threshold),
            "num_pairs": len(matched),
        }


class CombinedScore(OfflineMetric):
    """Accuracy of class and match decision together.

    A matched pair is right when it is accepted and rightly classified, a mismatched one when it is rejected.
    `compute(predictions=[n] int, references=[n] int, match_scores=[n] float, is_matched=[n] bool, threshold=t)` with a
    threshold from `best_threshold` on validation pairs -> `combined_accuracy`, `matched_right`, `mismatched_right`
    (shares of either kind), `threshold`, `num_pairs`.
    """

    columns = {"predictions": "int64", "references": "int64", "match_scores": "float64", "is_matched": "int64"}

    def _compute(
        self,
        predictions: Sequence[int],
        references: Sequence[int],
        match_scores: Sequence[float],
        is_matched: Sequence[int],
        threshold: float = 0.0,
    ) -> dict[str, float]:
        # A mismatched pair has no class: rejecting it is all.
        matched = np.asarray(is_matched).astype(bool)
        accepted = np.asarray(match_scores) > threshold
        correct = np.asarray(predictions) == np.asarray(references)
        right = np.where(matched, accepted & correct, ~accepted)
        # Over all pairs, then over either kind.
        result = {
            "combined_accuracy": float(right.mean()),
            "threshold": float(threshold),
            "num_pairs": len(matched),
        }
        for name, kind in (("matched_right", matched), ("mismatched_right", ~matched)):
            if kind.any():
                result[name] = float(right[kind].mean())
        return result


def best_threshold(
    match_scores: Sequence[float], is_matched: Sequence[bool], correct: Sequence[bool] | None = None
) -> float:
    """The threshold with the highest accuracy on these (validation) pairs, midway between two scores.

    Args:
        match_scores: `[n]`.
        is_matched: `[n]`.
        correct: `[n]`, whether the class of a matched pair is right; the combined accuracy is then maximized.

    Raises:
        ValueError: no pairs.
    """
    scores, matched = np.asarray(match_scores, dtype=np.float64), np.asarray(is_matched).astype(bool)
    if not len(scores):
        raise ValueError("match_scores: empty; give validation pairs")
    # What accepting a pair gains.
    gain = matched if correct is None else matched & np.asarray(correct).astype(bool)
    # Every cut between two different scores is tried.
    order = np.argsort(scores)
    values, first = np.unique(scores[order], return_index=True)
    # accepted from the k-th score on: gains at or above it, plus rejected mismatched pairs below it
    accepted = np.concatenate([np.cumsum(gain[order][::-1])[::-1], [0]])
    rejected = np.concatenate([[0], np.cumsum(~matched[order])])
    cuts = np.concatenate([first, [len(scores)]])
    best = int(np.argmax(accepted[cuts] + rejected[cuts]))
    # Outside of all scores, or midway between two.
    if best == 0:
        return float(values[0] - 1)
    if best == len(values):
        return float(values[-1] + 1)
    return float((values[best - 1] + values[best]) / 2)


def bootstrap_interval(
    values: Any,
    groups: Sequence[Any],
    statistic: Callable[..., float] = np.mean,
    seed: int = 0,
    num_samples: int = 1000,
    other_groups: Sequence[Any] | None = None,
) -> tuple[float, float]:
    """95 % percentile bootstrap interval in which whole groups are drawn: clips of one group are not independent.

    A row of two groups, such as a pair of a video and the audio of another clip, is drawn as often as both together: the
    product of how often either is (Owen, The pigeonhole bootstrap, Annals of Applied Statistics 2007).

    Args:
        values: `[n]`, or a tuple of arrays `[n]` that `statistic` takes as arguments.
        groups: `[n]`.
        statistic: such as the mean, or `roc_auc_score`; draws for which it is undefined are skipped.
        seed: of the draws.
        num_samples: number of draws.
        other_groups: `[n]`, the second group of every row; equal to the first where there is none.

    Returns:
        (low, high).

    Raises:
        ValueError: nothing to draw from, or the statistic is undefined for every draw.
    """
    arrays = tuple(np.asarray(value) for value in (values if isinstance(values, tuple) else (values,)))
    groups = np.asarray(groups)
    if other_groups is None:
        other_groups = groups
    names, group_of = np.unique(np.concatenate([groups, other_groups]), return_inverse=True)
    group_of, other_of = group_of[: len(groups)], group_of[len(groups) :]
    if not len(group_of) or any(len(array) != len(group_of) for array in arrays):
        lengths = [len(array) for array in arrays]
        raise ValueError(f"values and groups: lengths {lengths} and {len(group_of)}; give equal ones above 0")
    generator = np.random.default_rng(seed)
    results = []
    for _ in range(num_samples):
        # How often every group is drawn, and with it every row.
        count = np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names))
        count = np.where(group_of == other_of, count[group_of], count[group_of] * count[other_of])  # (n,)
        drawn = np.repeat(np.arange(len(group_of)), count)
        try:
            with warnings.catch_warnings(action="ignore"):
                results.append(float(statistic(*(array[drawn] for array in arrays))))
        except ValueError:  # a draw with one class only has no AUROC
            continue
    results = [result for result in results if np.isfinite(result)]
    if not results:
        raise ValueError("statistic: undefined for every draw; give more groups")
    low, high = np.quantile(results, [0.025, 0.975])
    return float(low), float(high)
