# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Contrast by label against a loop over its formula; class weights in the classification loss, and where they come from."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from huggingface_hub.errors import StrictDataclassClassValidationError
from sklearn.utils.class_weight import compute_class_weight
from tiny_models import tiny_inputs, tiny_model
from torch import nn

from modeling_maavt import MAAVTConfig, MAAVTForAudioVisualClassification
from modeling_maavt.losses_maavt import classification_loss, contrastive_loss, smooth_labels
from training.maavt.class_weights import balanced_class_weights


# ---- contrast by label


def one_direction(anchors, others, labels, temperature):
    """Khosla et al., equation 2, with the other modality's features as candidates; for one block, clip by clip."""
    total = 0.0
    for i, anchor in enumerate(anchors):
        positives = [p for p in range(len(others)) if p == i or (labels[p] == labels[i] != -100)]
        denominator = sum(math.exp(float(anchor @ other) / temperature) for other in others)
        log_shares = [math.log(math.exp(float(anchor @ others[p]) / temperature) / denominator) for p in positives]
        total += -sum(log_shares) / len(positives)
    return total / len(anchors)


def test_contrast_by_label_equals_its_formula():
    video, audio = torch.randn(2, 9, 3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.tensor([True, False, True, True, True, True, True, True, True])
    labels = torch.tensor([0, 0, 1, 0, 2, 1, -100, -100, 0])
    losses = contrastive_loss(video, audio, mask, 0.2, labels)
    for block in range(3):
        v = nn.functional.normalize(video[mask, block], dim=-1)
        a = nn.functional.normalize(audio[mask, block], dim=-1)
        kept = labels[mask].tolist()
        expected = (one_direction(v, a, kept, 0.2) + one_direction(a, v, kept, 0.2)) / 2
        assert losses[block].item() == pytest.approx(expected, rel=1e-5)


def test_all_classes_distinct_is_plain_contrast():
    video, audio = torch.randn(2, 6, 2, 8)
    mask = torch.tensor([True, True, False, True, True, True])
    plain = contrastive_loss(video, audio, mask, 0.07)
    torch.testing.assert_close(contrastive_loss(video, audio, mask, 0.07, torch.arange(6)), plain)
    torch.testing.assert_close(contrastive_loss(video, audio, mask, 0.07, torch.full((6,), -100)), plain)


def test_one_label_only_and_degenerate_batches_stay_finite():
    video, audio = torch.randn(2, 5, 2, 8, requires_grad=True)
    everywhere, nowhere = torch.ones(5, dtype=torch.bool), torch.zeros(5, dtype=torch.bool)
    one_label = torch.zeros(5, dtype=torch.long)
    loss = contrastive_loss(video, audio, everywhere, 0.07, one_label)
    loss.sum().backward(inputs=[video, audio], retain_graph=True)
    assert (loss >= math.log(5) - 1e-5).all()  # every sound is a positive: at best they share the probability evenly
    same = video[:1].expand(5, -1, -1)
    torch.testing.assert_close(
        contrastive_loss(same, same, everywhere, 0.07, one_label), torch.full((2,), math.log(5))
    )
    assert not contrastive_loss(video, audio, nowhere, 0.07, one_label).any()
    single = contrastive_loss(video[:1], audio[:1], everywhere[:1], 0.07, one_label[:1])
    assert single.abs().max() < 1e-6


def test_model_contrasts_by_label():
    model = tiny_model(contrastive_positives="label")
    plain, inputs = tiny_model(), tiny_inputs(clips=6, frames=2, segments=2)
    labels = torch.tensor([0, 1, 0, 2, -100, 1])
    by_label = model(**inputs, labels=labels)
    assert (by_label.contrastive_loss - plain(**inputs, labels=labels).contrastive_loss).abs() > 1e-3
    # a clip's label holds for its segments, as if each had been given its own
    per_segment = model(**inputs, labels=labels[:, None].expand(-1, 2))
    torch.testing.assert_close(per_segment.contrastive_loss, by_label.contrastive_loss)
    # without labels every pair is its own only positive
    matched = torch.ones(6, dtype=torch.bool)
    torch.testing.assert_close(
        model(**inputs, is_matched=matched).contrastive_loss, plain(**inputs, is_matched=matched).contrastive_loss
    )


@pytest.mark.parametrize("problem_type", [None, "multi_label_classification"])
def test_labels_of_several_classes_are_refused_by_name(problem_type):
    model = tiny_model(contrastive_positives="label")
    model.config.problem_type = problem_type
    labels = torch.full((4, 5), 0.2) if problem_type is None else torch.eye(5)[:4].long()
    with pytest.raises(ValueError, match='contrastive_positives="label" needs one class index'):
        model(**tiny_inputs(), labels=labels)
    with pytest.raises(Exception, match="contrastive_positives='some'"):
        MAAVTConfig(contrastive_positives="some")


# ---- class weights


def test_weighted_loss_equals_pytorch_and_soft_labels_agree():
    generator = torch.Generator().manual_seed(0)
    logits, weights = torch.randn(8, 5, generator=generator), torch.tensor([0.5, 2.0, 1.0, 3.0, 0.0])
    labels = torch.tensor([0, 1, 2, 3, -100, 0, 4, 1])
    mask = torch.tensor([True] * 6 + [True, False])
    expected = nn.functional.cross_entropy(logits[:7], labels[:7], weights)
    torch.testing.assert_close(classification_loss(logits, labels, mask, None, weights), expected)

    hard = nn.functional.one_hot(labels.clamp(min=0), 5).float()
    hard[4] = -100
    torch.testing.assert_close(classification_loss(logits, hard, mask, None, weights), expected)
    soft = torch.rand(8, 5, generator=generator)
    soft /= soft.sum(1, keepdim=True)
    weighted = soft * weights
    expected = -(weighted * logits.log_softmax(-1)).sum() / weighted.sum()
    everywhere = torch.ones(8, dtype=torch.bool)
    torch.testing.assert_close(classification_loss(logits, soft, everywhere, None, weights), expected)
    torch.testing.assert_close(
        classification_loss(logits, labels, mask, None, torch.full((5,), 7.0)),
        classification_loss(logits, labels, mask),
    )
    only_weightless = torch.full((8,), 4)
    assert classification_loss(logits, only_weightless, everywhere, None, weights) == 0


def test_multi_label_refuses_class_weights():
    with pytest.raises(ValueError, match="class_weights weigh the one class"):
        classification_loss(
            torch.zeros(2, 3), torch.eye(3)[:2], torch.ones(2).bool(), "multi_label_classification", torch.ones(3)
        )


def test_weights_change_the_loss_and_stay_out_of_the_checkpoint(tmp_path):
    model, inputs, labels = tiny_model(), tiny_inputs(), torch.tensor([0, 0, 0, 1])
    plain = model(**inputs, labels=labels)
    model.set_class_weights(torch.tensor([0.5, 4.0, 1.0, 1.0, 1.0]))
    weighted = model(**inputs, labels=labels)
    expected = nn.functional.cross_entropy(plain.logits, labels, model.class_weights)
    torch.testing.assert_close(weighted.classification_loss, expected)
    assert (weighted.loss - plain.loss).abs() > 1e-4
    assert "class_weights" not in model.state_dict()
    model.save_pretrained(tmp_path)
    again = MAAVTForAudioVisualClassification.from_pretrained(tmp_path).eval()
    assert again.class_weights is None and "class_weights" not in again.config.to_dict()
    torch.testing.assert_close(again(**inputs, labels=labels).loss, plain.loss)
    model.set_class_weights(None)
    torch.testing.assert_close(model(**inputs, labels=labels).loss, plain.loss)


@pytest.mark.parametrize(
    "weights", [[1.0, 2.0], [0.0] * 5, [-1.0, 1, 1, 1, 1], [math.nan, 1, 1, 1, 1], [math.inf] * 5]
)
def test_senseless_weights_are_refused(weights):
    with pytest.raises(ValueError, match="class_weights of shape"):
        tiny_model().set_class_weights(torch.tensor(weights))


def test_balanced_weights_are_scikit_learns():
    labels = [0] * 6 + [1] * 2 + [3] * 4 + [-100]
    weights = balanced_class_weights(Dataset.from_dict({"label": labels}), 5)
    counted = np.array(labels[:-1])
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=counted)
    assert weights[[0, 1, 3]].tolist() == pytest.approx(expected.tolist())
    assert weights[2] == weights[4] == 1
    # every class that is there has the same share of the loss
    assert np.ptp([weights[c].item() * (counted == c).sum() for c in (0, 1, 3)]) < 1e-5
    segments = Dataset.from_dict({"label": [0, 0], "segment_labels": [[0, 0, 1], [1, 1, -100]]})
    assert balanced_class_weights(segments, 2).tolist() == pytest.approx([5 / 4, 5 / 6])
    with pytest.raises(ValueError, match="several labels"):
        balanced_class_weights(Dataset.from_dict({"label": [[0, 1], [1]]}), 2)
    with pytest.raises(ValueError, match="no training clip has a label"):
        balanced_class_weights(Dataset.from_dict({"label": [-100]}), 2)


# ---- label smoothing, and labels that cannot be


def test_label_smoothing_in_training_only():
    model = tiny_model(num_labels=4, label_smoothing=0.1, unimodal_loss_weight=1.0)
    inputs, labels = tiny_inputs(4), torch.tensor([0, 3, -100, 1])
    plain = model.eval()(**inputs, labels=labels)
    torch.testing.assert_close(plain.classification_loss, nn.functional.cross_entropy(plain.logits, labels))
    smooth = model.train()(**inputs, labels=labels)
    expected = nn.functional.cross_entropy(smooth.logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(smooth.classification_loss, expected)
    assert smooth.contrastive_loss > 0 and smooth.matching_loss > 0 and smooth.unimodal_loss > 0
    soft = torch.rand(4, 4).softmax(-1)
    smooth = model(**inputs, labels=soft)
    expected = nn.functional.cross_entropy(smooth.logits, soft, label_smoothing=0.1)
    torch.testing.assert_close(smooth.classification_loss, expected)
    with pytest.raises(StrictDataclassClassValidationError, match="label_smoothing=1.0 must be"):
        MAAVTConfig(label_smoothing=1.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_unknown_class_is_one_line(smoothing):
    model = tiny_model(num_labels=3, label_smoothing=smoothing).train()
    for wrong in (7, -1):
        with pytest.raises(ValueError, match=f"labels: {wrong} is no class of this model, whose 3 classes are 0 to 2"):
            model(**tiny_inputs(2), labels=torch.tensor([0, wrong]))


def test_multi_hot_labels_need_their_problem_type():
    several = torch.tensor([[1.0, 0, 1, 0, 0], [0, 1, 0, 0, 0]])
    with pytest.raises(ValueError, match='a row sums to more than 1.*problem_type="multi_label_classification"'):
        tiny_model()(**tiny_inputs(2), labels=several)
    assert tiny_model(problem_type="multi_label_classification")(**tiny_inputs(2), labels=several).loss > 0
    assert tiny_model()(**tiny_inputs(2), labels=several / several.sum(1, keepdim=True)).loss > 0


def test_a_training_step_without_labels():
    """Nothing is lost without gradients, without the other losses, or where `is_matched` asks for these."""
    inputs = tiny_inputs(2)
    model = tiny_model().train()
    with pytest.raises(ValueError, match="training step without labels.*config.label_smoothing"):
        model(**inputs)
    with torch.no_grad():
        assert model(**inputs).loss is None
    assert model(**inputs, is_matched=torch.tensor([True, False])).loss.requires_grad
    assert model.eval()(**inputs).loss is None
    assert tiny_model(contrastive=None, background_mining=False).train()(**inputs).logits.requires_grad


def test_labels_are_smoothed_only_where_asked_and_where_a_sample_has_one_class():
    indices, several = torch.tensor([0, -100, 2]), torch.tensor([[1.0, 0, 1], [0, 1, -100]])
    assert smooth_labels(indices, 3, 0.0) is indices
    assert smooth_labels(several, 3, 0.0) is several
    assert smooth_labels(several, 3, 0.3, "multi_label_classification") is several
    expected = torch.tensor([[0.8, 0.1, 0.1], [-100.0] * 3, [0.1, 0.1, 0.8]])
    torch.testing.assert_close(smooth_labels(indices, 3, 0.3), expected)
    torch.testing.assert_close(smooth_labels(indices.int(), 3, 0.3), expected)
