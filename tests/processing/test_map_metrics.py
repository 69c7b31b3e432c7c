# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Segmentation, localization and separation metrics on cases computed by hand."""

import sys

import numpy as np
import pytest

from processing.metrics.accumulated import f_scores
from processing.metrics.localization import LocalizationScore, consensus_iou, consensus_map, prediction_region
from processing.metrics.segmentation import (
    AVSBenchScore,
    DeepAVFusionSegmentationScore,
    SemanticSegmentationScore,
)
from processing.metrics.separation import SeparationScore


def mask(*pixels: int, size: int = 4) -> np.ndarray:
    """`[size, size]` with ones at these flat indices."""
    flat = np.zeros(size * size)
    flat[list(pixels)] = 1
    return flat.reshape(size, size)


# ---- segmentation


def test_foreground_iou_and_f_by_hand():
    """4 pixels sound, 3 are found and 1 wrongly: IoU 3 / 5; precision and recall 3 / 4, so F is 3 / 4."""
    score = AVSBenchScore().compute(predictions=[0.9 * mask(0, 1, 2, 9)], references=[mask(0, 1, 2, 3)])
    assert score == pytest.approx({"miou": 0.6, "f_score": 0.75, "num_frames": 1})


def test_empty_reference_counts_the_background():
    """A fourth of the picture is wrongly found where nothing sounds: 12 of 16 pixels of background are right."""
    predictions, references = [mask(0, 1, 2, 3), mask(0)], [mask(), mask(0)]
    score = AVSBenchScore().compute(predictions=predictions, references=references)
    assert score["miou"] == pytest.approx((0.75 + 1) / 2) and score["f_score"] == pytest.approx(1.0)
    perfect = AVSBenchScore().compute(predictions=[mask(), mask(0)], references=references)
    assert perfect["miou"] == 1.0
    with pytest.raises(ValueError, match="no frame has a foreground"):
        AVSBenchScore().compute(predictions=[mask()], references=[mask()])


def test_f_takes_its_threshold_for_a_group_not_for_a_frame():
    """One picture is best above 0.2, the other above 0.7: together neither threshold suits both."""
    first = np.where(mask(0, 1) > 0, 0.9, 0.5)  # best: only above 0.5
    second = np.where(mask(0, 1) > 0, 0.3, 0.1)  # best: 0.1 to 0.3
    predictions, references = [first, second], [mask(0, 1)] * 2
    apart = AVSBenchScore().compute(predictions=predictions, references=references, groups=["a", "b"])
    assert apart["f_score"] == pytest.approx(1.0)
    together = AVSBenchScore().compute(predictions=predictions, references=references)
    loose = 1.3 * 2 / (0.3 * 2 + 16)  # all 16 pixels of the first at a threshold that suits the second
    assert together["f_score"] == pytest.approx(max(1 + loose, 1 + 0) / 2)
    published = DeepAVFusionSegmentationScore().compute(predictions=predictions, references=references)
    assert published["f_score"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="1 for 2 frames"):
        AVSBenchScore().compute(predictions=predictions, references=references, groups=["a"])


def test_f_scores_against_the_plain_definition():
    generator = np.random.default_rng(0)
    probabilities, foreground = generator.random((6, 7)).round(1), generator.random((6, 7)) > 0.6
    thresholds = np.linspace(0, 1, 11)
    for threshold, got in zip(thresholds, f_scores(probabilities, foreground, thresholds), strict=True):
        predicted = probabilities >= threshold
        hits = (predicted & foreground).sum()
        precision, recall = hits / max(predicted.sum(), 1), hits / foreground.sum()
        want = 0.0 if hits == 0 else 1.3 * precision * recall / (0.3 * precision + recall)
        assert got == pytest.approx(want)


def test_reference_figures_count_the_background_too():
    """The specification's example: a foreground IoU of 0.822 is reported as about 0.887."""
    reference, prediction = np.zeros((100, 100)), np.zeros((100, 100))
    reference[:, :40], prediction[:, :33] = 1, 1
    got = DeepAVFusionSegmentationScore().compute(
        predictions=[prediction, prediction], references=[reference, np.zeros((100, 100))]
    )
    assert got["num_frames"] == 1  # frames without foreground are skipped
    assert got["miou_foreground"] == pytest.approx(33 / 40)
    assert got["miou_with_background"] == pytest.approx((33 / 40 + 60 / 67) / 2)
    official = AVSBenchScore().compute(predictions=[prediction], references=[reference])
    assert official["miou"] == pytest.approx(33 / 40) and official["miou"] < got["miou_with_background"]


def test_classes_are_counted_over_the_whole_set():
    references = [np.array([[0, 0], [1, 2]]), np.array([[1, 1], [255, -1]])]
    predictions = [np.array([[0, 1], [1, 2]]), np.array([[1, 0], [0, 0]])]
    got = SemanticSegmentationScore(num_classes=5).compute(predictions=predictions, references=references)
    ious = [1 / 3, 2 / 4, 1]  # class 0: 1 hit, 2 predicted, 2 real; class 1: 2 hits, 3 and 3; class 2: 1, 1 and 1
    fs = [1.3 * 1 / (0.3 * 2 + 2), 1.3 * 2 / (0.3 * 3 + 3), 1]
    assert got["num_classes"] == 3 and got["miou"] == pytest.approx(np.mean(ious))
    assert got["f_score"] == pytest.approx(np.mean(fs))
    with pytest.raises(ValueError, match="classes 0 to 7; give 0 to 4"):
        SemanticSegmentationScore(num_classes=5).compute(predictions=[mask(0) * 7], references=[mask()])


def test_pictures_are_measured_as_they_are_added():
    """Batches of any size, pictures of any size, and no map is kept."""
    metric = AVSBenchScore()
    metric.add_batch(predictions=np.stack([mask(0), mask(1)]), references=np.stack([mask(0), mask(0)]))
    metric.add(prediction=mask(0, size=6), reference=mask(0, size=6))
    assert metric.compute() == pytest.approx({"miou": 2 / 3, "f_score": 2 / 3, "num_frames": 3})


def test_bad_maps_are_named():
    cases = [
        (AVSBenchScore, [mask(0)], [np.zeros((5, 4))], "prediction .*resized to one size"),
        (AVSBenchScore, [mask(0)] * 2, [mask(0)], "2 predictions and 1 references"),
        (AVSBenchScore, [3 * mask(0)], [mask(0)], r"0 to 3; give probabilities"),
        (AVSBenchScore, [mask(0)], [0.5 * mask(0)], "binary masks"),
        (AVSBenchScore, [np.nan * mask(0)], [mask(0)], "NaN or infinite"),
        (LocalizationScore, [mask(0)], [mask()], "without any source"),
        (LocalizationScore, [mask(0)], [2 * mask(0)], "consensus in 0..1"),
    ]
    for metric, predictions, references, message in cases:
        with pytest.raises(ValueError, match=message):
            metric().compute(predictions=predictions, references=references)
    with pytest.raises(ValueError, match="region='most'"):
        LocalizationScore(region="most")


# ---- localization


def test_consensus_of_annotators():
    """Two of three mark the left half, one the right: half a vote counts half."""
    left, right = [(0, 0, 2, 4)], [(2, 0, 4, 4)]
    got = consensus_map([left, left, right], 4, 4)
    assert (got[:, :2] == 1).all() and (got[:, 2:] == 0.5).all()
    assert consensus_map([[(0, 0, 1, 1), (3, 3, 4, 4)]], 4, 4, annotators_needed=1).sum() == 2
    assert consensus_map([[(-3, -3, 2, 9)]], 4, 4, annotators_needed=1).sum() == 8  # cut to the picture
    with pytest.raises(ValueError, match=r"box \(4, 0, 6, 2\) covers no pixel of 4x4"):
        consensus_map([[(4, 0, 6, 2)]], 4, 4)


def test_ciou_by_hand():
    """Consensus 1 at two pixels and 0.5 at one; the region holds one of the first, the last and two others."""
    consensus = mask(0, 1) + 0.5 * mask(2)
    region = mask(0, 2, 10, 11) > 0
    assert consensus_iou(region, consensus) == pytest.approx(1.5 / (2.5 + 2))
    got = LocalizationScore().compute(predictions=[region * 7.0, consensus], references=[consensus] * 2)
    # 1/3 and, with a region of the two pixels above one half, 2 / 2.5
    assert got["mean_ciou"] == pytest.approx((1 / 3 + 0.8) / 2) and got["ciou_at_50"] == 0.5
    # 1/3 passes 0 to 0.3, 0.8 passes 0 to 0.8; trapezoids of width 0.05
    assert got["auc"] == pytest.approx((0.3 + 0.025 + 0.8 + 0.025) / 2)
    # ranked alike, the four of the region: precision 2 / 4 at recall 2 / 3, then 3 / 16
    assert got["ap"] == pytest.approx((2 / 3 * 0.5 + 1 / 3 * 3 / 16 + 1) / 2)
    assert got["num_frames"] == 2


def test_region_is_a_share_of_the_range_or_half_of_the_pixels():
    ramp = np.arange(16.0).reshape(4, 4) - 100
    assert prediction_region(ramp).sum() == 8 and prediction_region(ramp, 0.9).sum() == 2
    peak = ramp.copy()
    peak[3, 3] = 1000
    assert prediction_region(peak).sum() == 1 and prediction_region(peak, "half").sum() == 8
    flat = LocalizationScore().compute(predictions=[np.ones((4, 4))], references=[mask(0)])
    assert flat["ciou_at_50"] == 0 and flat["mean_ciou"] == flat["ap"] == pytest.approx(1 / 16)


# ---- separation


def test_sdr_of_known_noise():
    """Interference 20 dB below a source, another noise 26 dB below it."""
    pytest.importorskip("mir_eval")
    generator = np.random.default_rng(0)
    sources, noise = generator.standard_normal((2, 8000)), generator.standard_normal(8000)
    estimates = np.stack([sources[0] + 0.1 * sources[1], sources[1] + 0.05 * noise])
    got = SeparationScore().compute(predictions=[estimates], references=[sources])
    metric = SeparationScore()
    metric.add(prediction=estimates, reference=sources)
    assert metric.compute() == got
    first = SeparationScore().compute(predictions=[estimates[[0, 0]]], references=[sources[[0, 0]]])
    assert got["sdr"] == pytest.approx((20 + 26) / 2, abs=0.6)
    assert first["sdr"] == pytest.approx(20, abs=0.6)
    mixture = np.stack([sources.sum(0)] * 2)
    assert SeparationScore().compute(predictions=[mixture], references=[sources])["sdr"] == pytest.approx(
        0, abs=0.6
    )  # 512 taps fit a little
    swapped = SeparationScore().compute(predictions=[estimates[::-1]], references=[sources])
    assert swapped["sdr"] < -10  # no permutation is searched


def test_silent_mixtures_are_skipped_and_counted():
    pytest.importorskip("mir_eval")
    sources = np.random.default_rng(0).standard_normal((2, 4000))
    silent = sources * [[1.0], [0.0]]
    got = SeparationScore().compute(predictions=[sources + 0.1, sources], references=[sources, silent])
    assert got["num_mixtures"] == 1 and got["num_skipped"] == 1
    with pytest.raises(ValueError, match="all 1 mixtures have a silent"):
        SeparationScore().compute(predictions=[silent], references=[sources])
    with pytest.raises(ValueError, match=r"give \[sources, samples\]"):
        SeparationScore().compute(predictions=[sources[0]], references=[sources[0]])


def test_without_mir_eval_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mir_eval.separation", None)
    with pytest.raises(ImportError, match="pip install 'mir_eval>=0.8,<0.9'"):
        SeparationScore().compute(predictions=[np.ones((2, 100))], references=[np.ones((2, 100))])
