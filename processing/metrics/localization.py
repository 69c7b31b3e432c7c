# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Localization of sound sources: consensus maps of annotators' boxes, cIoU, its area under the curve, AP."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import auc, average_precision_score

from .accumulated import FrameMetric


THRESHOLDS = np.linspace(0, 1, 21)  # 0, 0.05 ... 1


class LocalizationScore(FrameMetric):
    """cIoU@0.5, AUC and AP of maps against consensus maps.

    `compute(predictions=[n, H, W] maps of any scale, references=[n, H, W] consensus maps in 0..1)` -> `ciou_at_50`
    (share of frames with cIoU of 0.5 and more), `auc` (area under the share with cIoU >= t, t = 0, 0.05 ... 1),
    `mean_ciou`, `ap` (average precision of the map's pixels against consensus > 0, mean over frames; no threshold),
    `num_frames`. With consensus g and predicted region A, cIoU = sum of g in A / (sum of g + pixels of A where g = 0).

    `LocalizationScore(region=0.5)`: A is where the map, scaled to 0..1 within its frame, is above 0.5; `region="half"`
    takes the higher half of the pixels instead, as later papers do. A constant map
    prefers no pixel: its region is the whole frame.

    Raises ValueError for maps that are no `[H, W]`, a consensus outside 0..1, and one without any source.
    """

    source = "Senocak et al., Learning to Localize Sound Source in Visual Scenes, CVPR 2018"

    def __init__(self, region: float | str = 0.5, **kwargs: Any):
        super().__init__(**kwargs)
        if region != "half" and not (isinstance(region, (int, float)) and 0 <= region < 1):
            raise ValueError(f'region={region!r}; give a threshold from 0 to 1, or "half"')
        self.region = region

    def measure_maps(self, prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
        if reference.min() < 0 or reference.max() > 1:
            raise ValueError(f"references: {reference.min():g} to {reference.max():g}; give a consensus in 0..1")
        if not reference.any():
            raise ValueError("references: a consensus without any source; remove the frame")
        ap = average_precision_score(reference.ravel() > 0, prediction.ravel())
        return np.array([consensus_iou(prediction_region(prediction, self.region), reference), ap])

    def _summarize(self, rows: np.ndarray) -> dict[str, float]:
        ious = rows[:, 0]
        shares = [(ious >= threshold - 1e-9).mean() for threshold in THRESHOLDS]
        return {
            "ciou_at_50": float((ious >= 0.5).mean()),
            "auc": float(auc(THRESHOLDS, shares)),
            "mean_ciou": float(ious.mean()),
            "ap": float(rows[:, 1].mean()),
            "num_frames": len(rows),
        }


def prediction_region(prediction: np.ndarray, region: float | str = 0.5) -> np.ndarray:
    """Bool `[H, W]`: where a map counts as sounding; see `LocalizationScore`."""
    low, high = prediction.min(), prediction.max()
    if low == high:
        return np.ones(prediction.shape, dtype=bool)
    if region == "half":
        return prediction > np.median(prediction)
    return (prediction - low) > region * (high - low)


def consensus_iou(region: np.ndarray, consensus: np.ndarray) -> float:
    """cIoU of a bool region `[H, W]` and a consensus map `[H, W]` in 0..1 (Senocak et al., equation 6)."""
    return float(consensus[region].sum() / (consensus.sum() + np.count_nonzero(region & (consensus == 0))))


def consensus_map(
    boxes: Sequence[Sequence[Sequence[float]]], height: int, width: int, annotators_needed: int = 2
) -> np.ndarray:
    """Boxes of several annotators to `[H, W]` in 0..1: `min(number of annotators / annotators_needed, 1)`.

    Args:
        boxes: for each annotator a list of `(left, top, right, bottom)` in pixels of this size.
        height, width: of the map.
        annotators_needed: for full consensus; 2 for Flickr-SoundNet, 1 for VGG-SS.

    Raises:
        ValueError: a box without area inside the frame; the message names it.
    """
    votes = np.zeros((height, width))
    for annotator, boxes_of_annotator in enumerate(boxes):
        marked = np.zeros((height, width), dtype=bool)
        for box in boxes_of_annotator:
            # Boxes may pass the edges of the frame.
            left, top, right, bottom = (round(float(value)) for value in box)
            part = (slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0)))
            if not marked[part].size:
                raise ValueError(
                    f"annotator {annotator}: box {tuple(box)} covers no pixel of {width}x{height}; give (left, top, "
                    "right, bottom) in pixels"
                )
            marked[part] = True
        votes += marked
    return np.minimum(votes / annotators_needed, 1.0)
