# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics of clips with several classes against hand-counted examples and loops over the definitions."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from processing.metrics.multilabel import (
    VGGSOUNDER_SUBSETS,
    ModalityConfusion,
    MultiLabelScore,
    VGGSounderScore,
    subset_references,
)


def average_precision(scores, positive) -> float:
    """Mean, over positives, of the precision at the rank of each; scores without ties."""
    order = np.argsort(-scores)
    ranked = positive[order]
    return float(np.mean([ranked[: i + 1].mean() for i in np.flatnonzero(ranked)]))


def area_under_curve(scores, positive) -> float:
    """Share of (positive, negative) pairs in the right order, ties half."""
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[positive == 1] for n in scores[positive == 0]]
    return float(np.mean(pairs))


def test_multilabel_score_by_hand():
    # class 0: positives at ranks 1 and 3; class 1: no positive; class 2: positive everywhere
    score = MultiLabelScore().compute(
        predictions=[[0.9, 0.1, 0.3], [0.5, 0.2, 0.2], [0.4, 0.3, 0.1]], references=[[1, 0, 1], [0, 0, 1], [1, 0, 1]]
    )
    assert score["map"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert score["mauc"] == pytest.approx(0.5) and score["d_prime"] == pytest.approx(0, abs=1e-12)
    assert score["num_classes"] == 2 and score["num_clips"] == 3


def test_multilabel_score_against_loops():
    generator = np.random.default_rng(0)
    scores, positive = generator.normal(size=(80, 12)), (generator.random((80, 12)) < 0.2).astype(int)
    scores += positive
    positive[:, 3] = 0
    references = positive.copy()
    references[:4] = -100
    score = MultiLabelScore().compute(predictions=scores, references=references)
    classes = [c for c in range(12) if c != 3]
    scores, positive = scores[4:], positive[4:]
    auc = np.mean([area_under_curve(scores[:, c], positive[:, c]) for c in classes])
    assert score["map"] == pytest.approx(np.mean([average_precision(scores[:, c], positive[:, c]) for c in classes]))
    assert score["mauc"] == pytest.approx(auc)
    assert score["d_prime"] == pytest.approx(math.sqrt(2) * NormalDist().inv_cdf(auc))
    assert score["num_classes"] == 11 and score["num_clips"] == 76


def test_d_prime_of_two_normal_distributions():
    """d-prime is the distance of the means in standard deviations, whatever the threshold."""
    generator = np.random.default_rng(1)
    positive = np.repeat([[1], [0]], 4000, axis=0)
    score = MultiLabelScore().compute(
        predictions=generator.normal(size=(8000, 1)) + 1.5 * positive, references=positive
    )
    assert score["d_prime"] == pytest.approx(1.5, abs=0.06)


def test_multilabel_score_edges():
    one = MultiLabelScore().compute(predictions=[[0.3, 0.7, 0.1]], references=[[1, 0, 1]])
    assert one == {"map": 1.0, "num_classes": 2, "num_clips": 1}  # one clip: no class has negatives
    ties = MultiLabelScore().compute(predictions=np.zeros((4, 2)), references=[[1, 0], [0, 1], [0, 1], [0, 1]])
    assert ties["map"] == pytest.approx((1 / 4 + 3 / 4) / 2) and ties["mauc"] == 0.5
    perfect = MultiLabelScore().compute(predictions=[[1.0], [0.0]], references=[[1], [0]])
    assert perfect["map"] == 1 and perfect["d_prime"] == math.inf


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([[0.1, 0.2]], [[0, 0]], "without any class"),
        ([[0.1, 0.2]], [[-100, -100]], "has a label"),
        ([[0.1, 0.2]], [[1]], r"give \[n, C\]"),
        ([[0.1, 0.2], [0.1]], [[1, 0], [1, 0]], "different lengths"),
        ([[0.1, 0.2]], [[2, 0]], "give 1 for the classes"),
        ([[0.1, float("nan")]], [[1, 0]], "not finite"),
    ],
)
def test_errors_name_the_cure(predictions, references, message):
    for metric in (MultiLabelScore(), VGGSounderScore()):
        if message == "without any class" and isinstance(metric, VGGSounderScore):
            message = "has a label"
        with pytest.raises(ValueError, match=message):
            metric.compute(predictions=predictions, references=references)


def test_vggsounder_score_by_hand():
    scores = [[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]
    labels = [[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0], [-100, -100, -100]]
    # class 0 is picked: exactly right; one of two; wrong; no label; unlabeled
    score = VGGSounderScore().compute(predictions=scores, references=labels)
    assert score["subset_accuracy"] == pytest.approx(1 / 3) and score["hit"] == pytest.approx(2 / 3)
    assert score["f1"] == pytest.approx(2 * 2 / (3 + 4)) and score["num_clips"] == 3  # 2 right of 3 picked, 4 labels
    score = VGGSounderScore().compute(predictions=scores, references=labels, k=2)
    assert score["subset_accuracy"] == pytest.approx(1 / 3) and score["hit"] == pytest.approx(2 / 3)
    assert score["f1"] == pytest.approx(2 * 3 / (6 + 4)) and score["k"] == 2
    for k in (0, 4):
        with pytest.raises(ValueError, match="give 1 <= k <= 3"):
            VGGSounderScore().compute(predictions=scores, references=labels, k=k)
    with pytest.raises(ValueError, match="has a label"):
        VGGSounderScore().compute(predictions=scores[:1], references=[[0, 0, 0]])


def test_vggsounder_score_against_sets():
    generator = np.random.default_rng(2)
    scores, labels = generator.normal(size=(50, 8)), (generator.random((50, 8)) < 0.3).astype(int)
    for k in (1, 3):
        picked = [set(sorted(range(8), key=lambda c, row=row: -row[c])[:k]) for row in scores]
        truth = [set(np.flatnonzero(row)) for row in labels]
        pairs = [(p, t) for p, t in zip(picked, truth, strict=True) if t]
        score = VGGSounderScore().compute(predictions=scores, references=labels, k=k)
        assert score["num_clips"] == len(pairs)
        assert score["hit"] == pytest.approx(np.mean([bool(p & t) for p, t in pairs]))
        assert score["subset_accuracy"] == pytest.approx(np.mean([p == t for p, t in pairs]))
        hits, total = sum(len(p & t) for p, t in pairs), sum(len(p) + len(t) for p, t in pairs)
        assert score["f1"] == pytest.approx(2 * hits / total)


def test_equal_scores_pick_the_lower_index():
    references = np.eye(3, dtype=int)
    hits = [VGGSounderScore().compute(predictions=np.zeros((1, 3)), references=[row])["hit"] for row in references]
    assert hits == [1, 0, 0]


def test_modality_confusion_by_hand():
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    rows = [  # both, audio, video
        (wrong, right, right),
        (wrong, right, wrong),
        (wrong, wrong, right),
        (wrong, wrong, wrong),
        (right, right, right),
    ]
    both, audio, video = ([row[i] for row in rows] for i in range(3))
    score = ModalityConfusion().compute(
        predictions=both, audio_predictions=audio, video_predictions=video, references=[[1, 0]] * 5
    )
    assert score == {"mu_a": 2 / 5, "mu_v": 2 / 5, "mu_av": 1 / 5, "num_clips": 5}
    with pytest.raises(ValueError, match="has a label"):
        ModalityConfusion().compute(
            predictions=[right], audio_predictions=[right], video_predictions=[right], references=[[0, 0]]
        )


def test_subsets_of_vggsounder():
    labels, modalities = [[0, 1, 2], [1], [2]], [["A", "V", "AV"], ["V"], ["AV"]]
    none = [-100, -100, -100]
    expected = {
        "all": [[1, 1, 1], [0, 1, 0], [0, 0, 1]],
        "a": [[1, 0, 1], none, [0, 0, 1]],
        "v": [[0, 1, 1], [0, 1, 0], [0, 0, 1]],
        "av": [[0, 0, 1], none, [0, 0, 1]],
        "a only": [[1, 0, 0], none, none],
        "v only": [[0, 1, 0], [0, 1, 0], none],
    }
    assert set(expected) == set(VGGSOUNDER_SUBSETS)
    for subset, references in expected.items():
        found = subset_references(labels, modalities, 3, subset)
        assert found.tolist() == references
        kept = sum(row != none for row in references)
        assert VGGSounderScore().compute(predictions=np.zeros((3, 3)), references=found)["num_clips"] == kept
    with pytest.raises(ValueError, match="use one of"):
        subset_references(labels, modalities, 3, "audible")
    with pytest.raises(ValueError, match="clip 1"):
        subset_references(labels, [["A", "V", "AV"], ["X"], ["AV"]], 3, "a")
    with pytest.raises(ValueError, match="clip 0"):
        subset_references(labels, [["A"], ["V"], ["AV"]], 3, "a")
