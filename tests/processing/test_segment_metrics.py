# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Accuracy over seconds against hand-counted clips and loops."""

import numpy as np
import pytest

from processing.metrics.segments import GatedSegmentScore, SegmentScore, best_segment_threshold


BACKGROUND = 28


def test_segment_score_by_hand():
    references = [[5, 5, BACKGROUND, BACKGROUND], [7, -100, BACKGROUND, 7]]
    predictions = [[5, 6, BACKGROUND, 5], [BACKGROUND, 7, BACKGROUND, 7]]
    # right: 5, background; wrong: 6, 5 for background; missed 7; left out; right; right
    score = SegmentScore().compute(predictions=predictions, references=references, background=BACKGROUND)
    assert score == {
        "segment_accuracy": pytest.approx(4 / 7),
        "event_accuracy": pytest.approx(2 / 4),
        "background_accuracy": pytest.approx(2 / 3),
        "num_segments": 7,
        "num_clips": 2,
    }


def test_segments_without_background_and_of_different_number():
    score = SegmentScore().compute(predictions=[[0, 1, 2], [3]], references=[[0, 1, 1], [3]])
    assert score == {"segment_accuracy": 0.75, "num_segments": 4, "num_clips": 2}
    one = SegmentScore().compute(predictions=[[4]], references=[[BACKGROUND]], background=BACKGROUND)
    assert one["segment_accuracy"] == one["background_accuracy"] == 0 and "event_accuracy" not in one


def random_clips(seed: int):
    generator = np.random.default_rng(seed)
    references = generator.integers(4, size=(30, 10))  # class 3 is background
    references[generator.random((30, 10)) < 0.1] = -100
    predictions = np.where(generator.random((30, 10)) < 0.6, references % 3, generator.integers(3, size=(30, 10)))
    scores = ((references != 3) + generator.normal(size=(30, 10))).round(1)  # with ties
    return predictions, references, scores


def gated_accuracy(predictions, references, scores, threshold) -> float:
    right = []
    for clip in range(len(references)):
        for second in range(len(references[clip])):
            accepted = scores[clip][second] > threshold
            label = references[clip][second]
            if label == -100:
                continue
            right.append(not accepted if label == 3 else accepted and predictions[clip][second] == label)
    return float(np.mean(right))


def test_gated_score_against_a_loop_and_threshold_is_the_best_of_all():
    for seed in range(5):
        predictions, references, scores = random_clips(seed)
        for threshold in (-9.0, 0.0, 0.5, 9.0):
            score = GatedSegmentScore().compute(
                predictions=predictions, references=references, match_scores=scores, background=3, threshold=threshold
            )
            assert score["segment_accuracy"] == pytest.approx(
                gated_accuracy(predictions, references, scores, threshold)
            )
            background = (references == 3).sum() / (references != -100).sum()
            parts = background * score["background_accuracy"] + (1 - background) * score["event_accuracy"]
            assert parts == pytest.approx(score["segment_accuracy"])
        best = best_segment_threshold(scores, predictions, references, background=3)
        found = gated_accuracy(predictions, references, scores, best)
        every = [gated_accuracy(predictions, references, scores, value) for value in [*np.unique(scores), -99]]
        assert found == pytest.approx(max(every))


def test_gate_and_class_must_both_be_right():
    def accuracy(prediction: int, reference: int, match_score: float) -> float:
        return GatedSegmentScore().compute(
            predictions=[[prediction]], references=[[reference]], match_scores=[[match_score]], background=3
        )["segment_accuracy"]

    assert accuracy(1, 1, 2.0) == 1 and accuracy(1, 1, -2.0) == 0 and accuracy(0, 1, 2.0) == 0
    assert accuracy(1, 3, -2.0) == 1 and accuracy(1, 3, 2.0) == 0
    assert accuracy(3, 3, 2.0) == 0, "a prediction of background does not close the gate"
    assert accuracy(1, 3, 0.0) == 1, "at the threshold is rejected"


def test_errors():
    with pytest.raises(ValueError, match="clip 1: 1 predictions, 2 references"):
        SegmentScore().compute(predictions=[[1, 2], [1]], references=[[1, 2], [1, 2]])
    with pytest.raises(ValueError, match="clip 0: 1 match_scores, 2 references"):
        GatedSegmentScore().compute(predictions=[[1, 2]], references=[[1, 2]], match_scores=[[1.0]], background=3)
    with pytest.raises(ValueError, match="no segment of 1 clips has a label"):
        SegmentScore().compute(predictions=[[1, 2]], references=[[-100, -100]])
    with pytest.raises(ValueError, match="no segment of 1 clips has a label"):
        best_segment_threshold([[0.0]], [[1]], [[-100]], background=3)
