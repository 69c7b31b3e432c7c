# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Our metrics against those of scikit-learn, mir_eval and torchmetrics, on data drawn at random."""

import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from processing.metrics.classification import ClassificationScore, ClassReport, MatchScore, TopKScore
from processing.metrics.localization import LocalizationScore
from processing.metrics.multilabel import MultiLabelScore, VGGSounderScore
from processing.metrics.retrieval import RetrievalScore
from processing.metrics.segmentation import DeepAVFusionSegmentationScore, SemanticSegmentationScore
from processing.metrics.separation import SeparationScore


CLIPS, CLASSES = 60, 7


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def test_class_metrics_of_scikit_learn(draw):
    scores, labels = draw.normal(size=(CLIPS, CLASSES)), draw.integers(CLASSES, size=CLIPS)
    classes = scores.argmax(1)
    found = ClassificationScore().compute(predictions=classes, references=labels)
    assert found["top1"] == sklearn_metrics.accuracy_score(labels, classes)
    assert found["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(labels, classes, average="macro"))
    top3 = TopKScore().compute(predictions=scores, references=labels, k=3)["top3"]
    assert top3 == sklearn_metrics.top_k_accuracy_score(labels, scores, k=3)
    report = ClassReport().compute(predictions=classes, references=labels, label_names=list("abcdefg"))
    expected = sklearn_metrics.classification_report(
        labels, classes, target_names=list("abcdefg"), output_dict=True, zero_division=np.nan
    )
    for row in report["classes"]:
        assert row["support"] == expected[row["label"]]["support"]
        assert row["recall"] == pytest.approx(expected[row["label"]]["recall"])


def test_scores_of_pairs_and_several_labels_of_scikit_learn(draw):
    matched, logits = draw.integers(2, size=CLIPS).astype(bool), draw.normal(size=CLIPS)
    found = MatchScore().compute(predictions=logits, references=matched, threshold=0.3)
    assert found["auroc"] == pytest.approx(sklearn_metrics.roc_auc_score(matched, logits))
    assert found["accuracy"] == sklearn_metrics.accuracy_score(matched, logits > 0.3)
    labels, scores = draw.integers(2, size=(CLIPS, CLASSES)), draw.normal(size=(CLIPS, CLASSES))
    found = MultiLabelScore().compute(predictions=scores, references=labels)
    assert found["map"] == pytest.approx(sklearn_metrics.average_precision_score(labels, scores))
    assert found["mauc"] == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores))
    labels[labels.sum(1) == 0, 0] = 1
    picked = np.zeros_like(labels)
    np.put_along_axis(picked, scores.argsort(1)[:, -2:], 1, axis=1)
    found = VGGSounderScore().compute(predictions=scores, references=labels, k=2)
    assert found["f1"] == pytest.approx(sklearn_metrics.f1_score(labels, picked, average="micro"))
    assert found["subset_accuracy"] == sklearn_metrics.accuracy_score(labels, picked)


def test_maps_of_scikit_learn(draw):
    maps, masks = draw.random((5, 8, 9)), draw.integers(2, size=(5, 8, 9))
    found = DeepAVFusionSegmentationScore().compute(predictions=list(maps), references=list(masks))
    pairs = list(zip(masks.reshape(5, -1), (maps > 0.5).reshape(5, -1), strict=True))
    ious = [sklearn_metrics.jaccard_score(mask, region) for mask, region in pairs]
    assert found["miou_foreground"] == pytest.approx(np.mean(ious))
    ious = [sklearn_metrics.jaccard_score(mask, region, average="macro") for mask, region in pairs]
    assert found["miou_with_background"] == pytest.approx(np.mean(ious))
    found = LocalizationScore().compute(predictions=list(maps), references=list(masks.astype(float)))
    precisions = [
        sklearn_metrics.average_precision_score(m.ravel(), p.ravel()) for m, p in zip(masks, maps, strict=True)
    ]
    assert found["ap"] == pytest.approx(np.mean(precisions))
    classes, predicted = draw.integers(4, size=(5, 8, 9)), draw.integers(4, size=(5, 8, 9))
    found = SemanticSegmentationScore(num_classes=4).compute(predictions=list(predicted), references=list(classes))
    flat = classes.ravel(), predicted.ravel()
    assert found["miou"] == pytest.approx(sklearn_metrics.jaccard_score(*flat, average="macro"))
    f_score = sklearn_metrics.fbeta_score(*flat, beta=0.3**0.5, average="macro")
    assert found["f_score"] == pytest.approx(f_score)


def test_separation_of_mir_eval(draw):
    separation = pytest.importorskip("mir_eval.separation")
    sources = draw.normal(size=(3, 2, 2000))
    estimates = sources + 0.3 * draw.normal(size=sources.shape) + 0.2 * sources[:, ::-1]
    found = SeparationScore().compute(predictions=list(estimates), references=list(sources))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [separation.bss_eval_sources(s, e, False) for s, e in zip(sources, estimates, strict=True)]
    for place, name in enumerate(("sdr", "sir", "sar")):
        assert found[name] == pytest.approx(np.mean([row[place] for row in rows]))


def test_metrics_of_torchmetrics(draw):
    classification = pytest.importorskip("torchmetrics.functional.classification")
    retrieval = pytest.importorskip("torchmetrics.functional.retrieval")
    scores, labels = draw.normal(size=(CLIPS, CLASSES)), draw.integers(CLASSES, size=CLIPS)
    tensors = torch.tensor(scores), torch.tensor(labels)
    found = ClassificationScore().compute(predictions=scores.argmax(1), references=labels)
    f1 = classification.multiclass_f1_score(*tensors, num_classes=CLASSES, average="macro")
    assert found["macro_f1"] == pytest.approx(f1.item(), abs=1e-6)
    top3 = classification.multiclass_accuracy(*tensors, num_classes=CLASSES, average="micro", top_k=3)
    assert TopKScore().compute(predictions=scores, references=labels, k=3)["top3"] == pytest.approx(top3.item())
    several = draw.integers(2, size=(CLIPS, CLASSES))
    found = MultiLabelScore().compute(predictions=scores, references=several)
    tensors = torch.tensor(scores).sigmoid(), torch.tensor(several)
    precision = classification.multilabel_average_precision(*tensors, num_labels=CLASSES)
    area = classification.multilabel_auroc(*tensors, num_labels=CLASSES)
    assert (found["map"], found["mauc"]) == (pytest.approx(precision.item()), pytest.approx(area.item()))
    video, audio = draw.normal(size=(20, 8)), draw.normal(size=(20, 8))
    found = RetrievalScore().compute(predictions=video, references=audio, ks=(5,))
    unit = [torch.nn.functional.normalize(torch.tensor(rows), dim=1) for rows in (video, audio)]
    hits = [
        retrieval.retrieval_hit_rate(row, torch.arange(20) == i, top_k=5) for i, row in enumerate(unit[0] @ unit[1].T)
    ]
    assert found["video_to_audio_r5"] == pytest.approx(torch.stack(hits).mean().item())
