# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Audio-visual segmentation: the official AVSBench figures, those of the reference implementation, and classes (AVSS)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .accumulated import FrameMetric, f_scores


AVSBENCH = "Zhou et al., Audio-Visual Segmentation, ECCV 2022; evaluation of OpenNLPLab/AVSBench"
OFFICIAL_THRESHOLDS = np.linspace(0, 1 - 1e-10, 255)
REFERENCE_THRESHOLDS = np.linspace(0, 1, 256)
BETA_SQUARED = 0.3


class AVSBenchScore(FrameMetric):
    """The official figures of AVSBench's S4 and MS3: foreground mIoU and F-score.

    `compute(predictions=[n, H, W] probabilities, references=[n, H, W] 0/1, groups=None)` -> `miou`, `f_score`,
    `num_frames`. `miou`: intersection over union of the foreground at threshold 0.5, mean over all frames; where
    nothing sounds (an empty reference) that of the background. `f_score`: beta squared 0.3; at each of 255 thresholds
    the mean over the frames of a group that have a foreground, then the highest, then the mean over groups. `groups`
    `[n]` names the video of each frame (officially a group is a batch: the frames of one video); None is one group.

    Raises ValueError for maps that are no `[H, W]`, probabilities outside 0..1, references other than 0 and 1, another
    number of groups than frames, and for `f_score` when no frame has a foreground.
    """

    source = AVSBENCH

    def measure_maps(self, prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
        foreground = _binary(prediction, reference)
        predicted = prediction > 0.5
        # A silent frame is measured by its background.
        wanted = foreground if foreground.any() else ~foreground
        iou = _iou(predicted if foreground.any() else ~predicted, wanted)
        return np.concatenate([[iou, foreground.any()], f_scores(prediction, foreground, OFFICIAL_THRESHOLDS)])

    def _summarize(self, rows: np.ndarray, groups: Sequence[Any] | None = None) -> dict[str, float]:
        # One curve over the thresholds for each group.
        groups = np.zeros(len(rows), dtype=np.int64) if groups is None else np.asarray(groups)
        if len(groups) != len(rows):
            raise ValueError(f"groups: {len(groups)} for {len(rows)} frames; give one for each")
        sounding = rows[:, 1] > 0
        if not sounding.any():
            raise ValueError("references: no frame has a foreground; the F-score is undefined")
        curves = [rows[sounding & (groups == group), 2:].mean(0) for group in np.unique(groups[sounding])]
        return {
            "miou": float(rows[:, 0].mean()),
            "f_score": float(np.mean([curve.max() for curve in curves])),
            "num_frames": len(rows),
        }


class DeepAVFusionSegmentationScore(FrameMetric):
    """The figures that DeepAVFusion's reference implementation reports; higher than the official ones for the same masks.

    `compute(predictions=[n, H, W] probabilities, references=[n, H, W] 0/1)` -> `miou_with_background` (mean of the IoU
    of foreground and background), `miou_foreground`, `f_score` (the best of 256 thresholds for each frame, then the
    mean), `num_frames`; frames without foreground are skipped. The paper's "mIoU" is the first.

    Raises ValueError as `AVSBenchScore`.
    """

    source = "Mo and Morgado, Unveiling the Power of Audio-Visual Early Fusion Transformers, CVPR 2024"

    def measure_maps(self, prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
        foreground = _binary(prediction, reference)
        predicted = prediction > 0.5
        # Foreground and background, then the best F-score of this frame.
        ious = [_iou(predicted, foreground), _iou(~predicted, ~foreground)]
        return np.array([foreground.any(), *ious, f_scores(prediction, foreground, REFERENCE_THRESHOLDS).max()])

    def _summarize(self, rows: np.ndarray) -> dict[str, float]:
        # Silent frames do not count.
        rows = rows[rows[:, 0] > 0]
        if not len(rows):
            raise ValueError("references: no frame has a foreground; give frames in which something sounds")
        return {
            "miou_with_background": float(rows[:, 1:3].mean()),
            "miou_foreground": float(rows[:, 1].mean()),
            "f_score": float(rows[:, 3].mean()),
            "num_frames": len(rows),
        }


class SemanticSegmentationScore(FrameMetric):
    """mIoU and F-score over classes (AVSBench-semantic), from the pixel counts of all frames together.

    `SemanticSegmentationScore(num_classes=71).compute(predictions=[n, H, W] class indices, references=[n, H, W] class
    indices)` -> `miou` and `f_score` (beta squared 0.3): unweighted means over the classes that references or predictions
    hold; `num_classes` of those, `num_frames`. Pixels whose reference is 255 or below 0 are skipped. Raises ValueError
    for other indices.
    """

    source = (
        "Zhou et al., Audio-Visual Segmentation with Semantics, IJCV 2024; counts over the whole set: our addition"
    )

    def __init__(self, num_classes: int = 71, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_classes = num_classes

    def measure_maps(self, prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
        # Pixels without a class do not count.
        kept = (reference >= 0) & (reference != 255)
        predicted, reference = prediction[kept].astype(np.int64), reference[kept].astype(np.int64)
        for name, values in (("predictions", predicted), ("references", reference)):
            if len(values) and not 0 <= values.min() <= values.max() < self.num_classes:
                raise ValueError(f"{name}: classes {values.min()} to {values.max()}; give 0 to {self.num_classes - 1}")
        # Pixels of each class: hits, predicted, and in the reference.
        counted = (np.bincount(values, minlength=self.num_classes) for values in (predicted, reference))
        hits = np.bincount(reference[predicted == reference], minlength=self.num_classes)
        return np.concatenate([hits, *counted]).astype(np.float64)

    def _summarize(self, rows: np.ndarray) -> dict[str, float]:
        # Sums over all frames, for the classes that occur.
        hits, predicted, real = rows.sum(0).reshape(3, self.num_classes)
        there = predicted + real > 0
        if not there.any():
            raise ValueError("references: no pixel has a class; give labeled frames")
        hits, predicted, real = hits[there], predicted[there], real[there]
        return {
            "miou": float((hits / (predicted + real - hits)).mean()),
            "f_score": float(((1 + BETA_SQUARED) * hits / (BETA_SQUARED * real + predicted)).mean()),
            "num_classes": int(there.sum()),
            "num_frames": len(rows),
        }


def _binary(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    if prediction.min() < 0 or prediction.max() > 1:
        raise ValueError(f"predictions: {prediction.min():g} to {prediction.max():g}; give probabilities (sigmoid)")
    if not np.isin(reference, (0, 1)).all():
        raise ValueError("references: values other than 0 and 1; give binary masks")
    return reference.astype(bool)


def _iou(predicted: np.ndarray, wanted: np.ndarray) -> float:
    """1 where both are empty."""
    union = np.count_nonzero(predicted | wanted)
    return np.count_nonzero(predicted & wanted) / union if union else 1.0
