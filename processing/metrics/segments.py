# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Accuracy over the seconds of clips, with background as a class of its own or decided by the match logit (AVE).

A clip has S segments (AVE: ten of one second); -100 leaves a segment out.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score

from processing.metrics import IGNORED_LABEL

from .classification import FLOAT_ROW, INT_ROW, OfflineMetric, best_threshold


class SegmentScore(OfflineMetric):
    """Accuracy over all segments of all clips; with background as one of the classes this is AVE's 29-way accuracy.

    `compute(predictions=[n, S] int, references=[n, S] int, background=None)` -> `segment_accuracy`, `num_segments`,
    `num_clips`; where `background` is a class index also `event_accuracy` and `background_accuracy`, over the
    segments of either kind (absent where there are none). Clips may differ in S. Raises ValueError for another
    number of predictions than references in a clip, and when every reference is -100.
    """

    columns = {"predictions": INT_ROW, "references": INT_ROW}
    source = "Tian et al., Audio-Visual Event Localization in Unconstrained Videos, ECCV 2018"

    def _compute(
        self,
        predictions: Sequence[Sequence[int]],
        references: Sequence[Sequence[int]],
        background: int | None = None,
    ) -> dict[str, float]:
        predicted, reference = _segments(references, predictions=predictions)
        result = {"segment_accuracy": float(accuracy_score(reference, predicted))}
        if background is not None:
            result |= _shares(predicted == reference, reference == background)
        return result | {"num_segments": len(reference), "num_clips": len(references)}


class GatedSegmentScore(OfflineMetric):
    """Accuracy over all segments when the match logit decides background and the class logits only the event.

    A background segment is right when it is rejected (match score at or below the threshold), an event when it is
    accepted and rightly classified: AVE with 28 classes. `compute(predictions=[n, S] int, references=[n, S] int,
    match_scores=[n, S] float, background=index among the references, threshold=t)` with t from
    `best_segment_threshold` on validation -> `segment_accuracy`, `event_accuracy`, `background_accuracy` (absent
    where there are no such segments), `threshold`, `num_segments`, `num_clips`. Raises ValueError as `SegmentScore`.
    """

    columns = {"predictions": INT_ROW, "references": INT_ROW, "match_scores": FLOAT_ROW}
    source = SegmentScore.source

    def _compute(
        self,
        predictions: Sequence[Sequence[int]],
        references: Sequence[Sequence[int]],
        match_scores: Sequence[Sequence[float]],
        background: int,
        threshold: float = 0.0,
    ) -> dict[str, float]:
        predicted, scores, reference = _segments(references, predictions=predictions, match_scores=match_scores)
        decided = np.where(scores > threshold, predicted, background)
        # a prediction of background behind an open gate is no rejection
        right = (decided == reference) & ((scores > threshold) == (reference != background))
        return {
            "segment_accuracy": float(right.mean()),
            **_shares(right, reference == background),
            "threshold": float(threshold),
            "num_segments": len(reference),
            "num_clips": len(references),
        }


def best_segment_threshold(
    match_scores: Sequence[Sequence[float]],
    predictions: Sequence[Sequence[int]],
    references: Sequence[Sequence[int]],
    background: int,
) -> float:
    """The threshold with the highest `GatedSegmentScore` accuracy on these (validation) clips, all `[n, S]`.

    Raises:
        ValueError: no labeled segment, or rows of different lengths in a clip.
    """
    predicted, scores, reference = _segments(references, predictions=predictions, match_scores=match_scores)
    return best_threshold(scores, reference != background, predicted == reference)


def _shares(right: np.ndarray, background: np.ndarray) -> dict[str, float]:
    kinds = {"event_accuracy": ~background, "background_accuracy": background}
    return {name: float(right[kind].mean()) for name, kind in kinds.items() if kind.any()}


def _segments(references: Any, **columns: Any) -> list[np.ndarray]:
    """The columns and the references of all labeled segments, each `[number of segments]`."""
    for name, rows in columns.items():
        for clip, (row, reference) in enumerate(zip(rows, references, strict=True)):
            if len(row) != len(reference):
                raise ValueError(f"clip {clip}: {len(row)} {name}, {len(reference)} references; give one per segment")
    flat = [np.concatenate([np.asarray(row) for row in rows]) for rows in (*columns.values(), references)]
    kept = flat[-1] != IGNORED_LABEL
    if not kept.any():
        raise ValueError(f"references: no segment of {len(references)} clips has a label; give labeled clips")
    return [values[kept] for values in flat]
