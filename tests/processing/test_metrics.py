# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics against hand-counted examples and scikit-learn."""

import evaluate
import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score
from transformers import EvalPrediction

from processing.metrics.classification import (
    ClassificationScore,
    ClassReport,
    CombinedScore,
    MatchScore,
    TopKScore,
    best_threshold,
    bootstrap_interval,
)
from training.common.results import markdown_table
from training.maavt import evaluation
from training.trainer.audio_visual_trainer import compute_metrics


def test_they_are_evaluate_metrics():
    for kind in (ClassificationScore, TopKScore, ClassReport, MatchScore, CombinedScore):
        assert isinstance(kind(), evaluate.Metric)
    assert "ImageNet" in TopKScore().citation


def test_classification_score_leaves_out_unlabeled_clips():
    score = ClassificationScore().compute(predictions=[0, 1, 1, 2, 0], references=[0, 1, 2, -100, -100])
    assert score == {"top1": pytest.approx(2 / 3), "macro_f1": pytest.approx((1 + 2 / 3 + 0) / 3), "num_clips": 3}
    with pytest.raises(ValueError, match="has a label"):
        ClassificationScore().compute(predictions=[0], references=[-100])


def test_classification_score_against_scikit_learn_in_batches():
    generator = np.random.default_rng(0)
    predictions, references = generator.integers(5, size=(2, 200))
    metric = ClassificationScore()
    for part in range(4):
        metric.add_batch(predictions=predictions[50 * part :][:50], references=references[50 * part :][:50])
    score = metric.compute()
    assert score["top1"] == pytest.approx((predictions == references).mean())
    assert score["macro_f1"] == pytest.approx(f1_score(references, predictions, average="macro"))


def test_top_k_score_by_hand():
    scores = [[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.0, 0.0, 1.0]]
    assert TopKScore().compute(predictions=scores, references=[0, 1, 2, -100], k=2) == {
        "top2": pytest.approx(2 / 3),
        "num_clips": 3,
    }
    # one clip; equal scores: the higher index counts as higher
    ties = [[0.5, 0.5, 0.5]]
    assert [TopKScore().compute(predictions=ties, references=[c], k=1)["top1"] for c in range(3)] == [0, 0, 1]
    assert [TopKScore().compute(predictions=ties, references=[c], k=2)["top2"] for c in range(3)] == [0, 1, 1]


@pytest.mark.parametrize("num_classes", [2, 3, 6, 50])
def test_top_k_score_against_a_loop(num_classes):
    generator = np.random.default_rng(num_classes)
    scores, references = generator.normal(size=(60, num_classes)), generator.integers(num_classes, size=60)
    references[:5] = -100
    for k in {1, min(5, num_classes - 1)}:
        right = [label in sorted(range(num_classes), key=lambda c, row=row: -row[c])[:k]
                 for row, label in zip(scores[5:], references[5:], strict=True)]  # fmt: skip
        score = TopKScore().compute(predictions=scores, references=references, k=k)
        assert score == {f"top{k}": pytest.approx(np.mean(right)), "num_clips": 55}


def test_top_k_score_errors():
    scores = np.zeros((2, 3))
    for k in (0, 3, 5):
        with pytest.raises(ValueError, match="give 1 <= k < 3"):
            TopKScore().compute(predictions=scores, references=[0, 1], k=k)
    with pytest.raises(ValueError, match="class 3 with 3 classes"):
        TopKScore().compute(predictions=scores, references=[0, 3], k=1)
    with pytest.raises(ValueError, match="has a label"):
        TopKScore().compute(predictions=scores, references=[-100, -100], k=1)


def test_top_5_stands_in_the_table_and_in_validation_where_it_says_something():
    """Of eight classes the true one is the third best, of five it would always be among the five."""
    for num_classes in (5, 8):
        logits = np.tile(np.arange(num_classes, dtype=np.float32), (4, 1))
        labels = np.array([num_classes - 3, num_classes - 3, 0, -100])
        pairs = [{"clip_id": str(i), "label": c, "is_matched": c >= 0, "group": str(i)} for i, c in enumerate(labels)]
        row = evaluation.score(evaluation.Predictions(logits, None, pairs), None, num_samples=10)
        metrics = compute_metrics(EvalPrediction(logits, (labels, labels >= 0)))
        assert row["top1"] == metrics["top1"] == 0
        expected = pytest.approx(2 / 3) if num_classes == 8 else None
        assert row.get("top5") == metrics.get("top5") == expected
        assert ("top-5" in markdown_table([row])) == (num_classes == 8)


def test_class_report_by_hand():
    report = ClassReport().compute(
        predictions=[0, 0, 1, 1, 4, 0], references=[0, 1, 1, 1, 2, -100], label_names=["a", "b", "c", "d", "e"]
    )
    assert report["confusion_matrix"] == [
        [1, 0, 0, 0, 0],
        [1, 2, 0, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    third = pytest.approx(2 / 3)
    assert report["classes"] == [
        {"label": "a", "precision": 0.5, "recall": 1.0, "f1": third, "support": 1},
        {"label": "b", "precision": 1.0, "recall": third, "f1": pytest.approx(0.8), "support": 3},
        {"label": "c", "precision": None, "recall": 0.0, "f1": 0.0, "support": 1},  # never predicted
        {"label": "d", "precision": None, "recall": None, "f1": None, "support": 0},  # neither
        {"label": "e", "precision": 0.0, "recall": None, "f1": 0.0, "support": 0},  # no clips
    ]
    assert report["num_clips"] == 5


def test_class_report_against_counts():
    generator = np.random.default_rng(4)
    predictions, references = generator.integers(4, size=(2, 300))
    report = ClassReport().compute(predictions=predictions, references=references, label_names=list("abcd"))
    for c, row in enumerate(report["classes"]):
        hits = sum(p == r == c for p, r in zip(predictions, references, strict=True))
        assert row["precision"] == pytest.approx(hits / list(predictions).count(c))
        assert row["recall"] == pytest.approx(hits / list(references).count(c)) and row["support"] == list(
            references
        ).count(c)
        for d in range(4):
            assert report["confusion_matrix"][c][d] == int(((references == c) & (predictions == d)).sum())
    macro = ClassificationScore().compute(predictions=predictions, references=references)["macro_f1"]
    assert np.mean([row["f1"] for row in report["classes"]]) == pytest.approx(macro)


def test_class_report_errors():
    with pytest.raises(ValueError, match="class 2 with 2 classes"):
        ClassReport().compute(predictions=[2], references=[0], label_names=["a", "b"])
    with pytest.raises(ValueError, match="has a label"):
        ClassReport().compute(predictions=[0], references=[-100], label_names=["a", "b"])


def test_match_score():
    scores, matched = [2.0, 0.5, -1.0, 0.1, -3.0, -0.2], [True, True, True, False, False, False]
    score = MatchScore().compute(predictions=scores, references=matched)
    assert score["auroc"] == pytest.approx(roc_auc_score(matched, scores)) == pytest.approx(7 / 9)
    assert score["accuracy"] == pytest.approx(4 / 6) and score["num_pairs"] == 6
    score = MatchScore().compute(predictions=scores, references=matched, threshold=0.3)
    assert score["accuracy"] == pytest.approx(5 / 6)
    with pytest.raises(ValueError, match="mismatched_copies"):
        MatchScore().compute(predictions=[1.0], references=[True])


def test_combined_score():
    score = CombinedScore().compute(
        predictions=[0, 1, 2, 0, 1],
        references=[0, 2, 2, -100, -100],
        match_scores=[1.0, 1.0, -1.0, -1.0, 1.0],
        is_matched=[True, True, True, False, False],
    )
    # accepted and right; accepted but wrong; right but rejected; rejected; accepted by mistake
    assert score["combined_accuracy"] == pytest.approx(2 / 5)
    assert score["matched_right"] == pytest.approx(1 / 3) and score["mismatched_right"] == pytest.approx(1 / 2)


def test_best_threshold_is_the_best_of_all():
    generator = np.random.default_rng(1)
    for with_classes in (False, True):
        for _ in range(20):
            scores = generator.normal(size=40).round(1)  # with ties
            matched = generator.random(40) < 0.5
            correct = generator.random(40) < 0.8 if with_classes else None
            gain = matched if correct is None else matched & correct

            def accuracy(threshold, scores=scores, gain=gain, matched=matched):
                return np.where(scores > threshold, gain, ~matched).mean()

            best = max(accuracy(value) for value in np.concatenate([scores, [-9, 9]]))
            assert accuracy(best_threshold(scores, matched, correct)) == pytest.approx(best)
    assert best_threshold([1.0, 3.0], [False, True]) == 2.0
    with pytest.raises(ValueError, match="validation"):
        best_threshold([], [])


def test_bootstrap_draws_groups():
    generator = np.random.default_rng(2)
    groups = np.repeat(np.arange(40), 10)
    values = np.repeat(generator.normal(size=40), 10)  # clips of a group are copies: 40 observations, not 400
    low, high = bootstrap_interval(values, groups, seed=0)
    assert low < values.mean() < high
    width = 2 * 1.96 * values.reshape(40, 10)[:, 0].std() / np.sqrt(40)
    assert high - low == pytest.approx(width, rel=0.15)
    assert bootstrap_interval(values, groups, seed=0) == (low, high)
    narrow = bootstrap_interval(values, np.arange(400), seed=0)
    assert narrow[1] - narrow[0] < 0.5 * (high - low)


def test_bootstrap_of_a_statistic_of_two_arrays():
    matched = np.array([1, 0] * 20)
    scores = matched + np.random.default_rng(3).normal(size=40)
    low, high = bootstrap_interval((matched, scores), np.arange(40) // 2, roc_auc_score, num_samples=200)
    assert 0.5 < low < roc_auc_score(matched, scores) < high <= 1
    # one group of one class: draws without both classes are left out
    low, high = bootstrap_interval((np.array([1, 1, 0]), np.array([2.0, 3.0, 1.0])), [0, 0, 1], roc_auc_score)
    assert low == high == 1.0
    with pytest.raises(ValueError, match="undefined for every draw"):
        bootstrap_interval((np.array([1, 1]), np.array([2.0, 3.0])), [0, 1], roc_auc_score, num_samples=5)
    with pytest.raises(ValueError, match="equal"):
        bootstrap_interval([1.0], [0, 1])


def test_validation_match_figures_leave_out_clips_without_a_modality():
    labels = np.array([0, 1, 0, 1, 0, 1])
    is_matched = np.array([True, True, False, False, True, True])
    logits = np.eye(2)[labels]
    scores = np.array([3.0, 2.0, -1.0, -2.0, np.nan, np.nan])  # the last two clips have no audio
    measured = compute_metrics(EvalPrediction((logits, scores), (labels, is_matched)))
    complete = compute_metrics(EvalPrediction((logits[:4], scores[:4]), (labels[:4], is_matched[:4])))
    names = ("match_auroc", "match_accuracy", "combined", "threshold")
    assert [measured[name] for name in names] == [complete[name] for name in names]
    assert measured["top1"] == 1


@pytest.mark.parametrize("multi_label", [False, True])
def test_nan_is_not_counted_as_a_class(multi_label):
    labels, is_matched = np.array([0, 1, 0, 1]), np.array([True, True, False, False])
    logits, scores = np.eye(2)[labels], np.array([3.0, 2.0, -1.0, -2.0])
    targets = labels
    if multi_label:
        targets = np.eye(2, dtype=np.int64)[labels]
    compute_metrics(EvalPrediction((logits, scores, logits + 1, logits + 1), (targets, is_matched)))
    for diverged, value in ((logits, np.nan), (scores, np.inf)):
        kept = diverged[2].copy()
        diverged[2] = value
        with pytest.raises(ValueError, match="^clip 2: .* lower learning rate"):
            compute_metrics(EvalPrediction((logits, scores, logits + 1, logits + 1), (targets, is_matched)))
        diverged[2] = kept
