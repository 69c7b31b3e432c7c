# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""How DeepAVFusion's models are called: compiled to one graph, with unknown arguments, through PEFT, by a Trainer."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_deepavfusion import all_close, tiny_inputs, tiny_model
from transformers.utils.generic import find_labels

import modeling_deepavfusion
from modeling_deepavfusion import (
    DeepAVFusionForAudioVisualClassification,
    DeepAVFusionForAudioVisualSegmentation,
    DeepAVFusionForPreTraining,
    DeepAVFusionForSoundSourceLocalization,
    DeepAVFusionForSoundSourceSeparation,
    DeepAVFusionModel,
)


def labels_of(model_class) -> dict[str, torch.Tensor]:
    """What `tiny_inputs` lack for a loss."""
    generator = torch.Generator().manual_seed(3)
    return {
        DeepAVFusionModel: {},
        DeepAVFusionForPreTraining: {
            "image_noise": torch.rand(3, 16, generator=generator),
            "audio_noise": torch.rand(3, 6, generator=generator),
        },
        DeepAVFusionForAudioVisualClassification: {"labels": torch.tensor([0, 3, 1])},
        DeepAVFusionForAudioVisualSegmentation: {"labels": torch.randint(0, 5, (3, 1, 16, 16), generator=generator)},
        DeepAVFusionForSoundSourceSeparation: {
            "labels": torch.randn(3, 1, 8, 12, generator=generator),
            "other_features": torch.randn(3, 1, 8, 12, generator=generator),
        },
        DeepAVFusionForSoundSourceLocalization: {"labels": torch.rand(3, 1, 16, 16, generator=generator)},
    }[model_class]


MODEL_CLASSES = (
    DeepAVFusionModel,
    DeepAVFusionForPreTraining,
    DeepAVFusionForAudioVisualClassification,
    DeepAVFusionForAudioVisualSegmentation,
    DeepAVFusionForSoundSourceSeparation,
    DeepAVFusionForSoundSourceLocalization,
)


@pytest.mark.parametrize(
    "training", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["evaluation", "training"]
)
@pytest.mark.parametrize("model_class", MODEL_CLASSES)
def test_every_model_compiles_to_one_graph(model_class, training):
    """With masks, which no Python branch may look into; new values in them compile nothing anew."""
    torch._dynamo.reset()
    model = tiny_model(model_class, num_hidden_layers=1, decoder_num_hidden_layers=1, use_pooled_batchnorm=True)
    model.train(training)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    inputs = tiny_inputs() | labels_of(model_class)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for has_video in ([True, False, True], [True, True, True]):
            masks = {"has_video": torch.tensor(has_video), "has_audio": torch.tensor([True, True, False])}
            outputs = compiled(**inputs, **masks)
    expected = model(**inputs, **masks)
    name = "last_hidden_state"
    if model_class is not DeepAVFusionModel:
        name = "loss"
    all_close(outputs[name], expected[name])
    torch._dynamo.reset()


@pytest.mark.parametrize("model_class", MODEL_CLASSES)
def test_unknown_arguments_are_ignored(model_class):
    model, inputs = tiny_model(model_class), tiny_inputs() | labels_of(model_class)
    expected = model(**inputs)
    outputs = model(**inputs, attention_mask=None, input_ids=None, num_items_in_batch=3)
    name = "last_hidden_state"
    if model_class is not DeepAVFusionModel:
        name = "loss"
    assert torch.equal(outputs[name], expected[name])
    assert isinstance(model(**inputs, return_dict=False), tuple)


@pytest.mark.parametrize("task_type", [None, "FEATURE_EXTRACTION", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"])
def test_peft_with_any_task_type(task_type):
    """PEFT's wrappers of text tasks pass `input_ids`, `attention_mask` and others that no model here knows."""
    base, inputs = tiny_model(DeepAVFusionForAudioVisualClassification), tiny_inputs()
    with torch.no_grad():
        expected = base(**inputs).logits
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type=task_type)
        wrapped = get_peft_model(base, config).eval()
        all_close(wrapped(**inputs).logits, expected)
        all_close(
            wrapped(**inputs, output_hidden_states=True).hidden_states[0],
            base(**inputs, output_hidden_states=[0]).hidden_states[0],
        )


@pytest.mark.parametrize("model_class", MODEL_CLASSES)
def test_a_trainer_finds_the_labels(model_class):
    """A Trainer takes every argument with "label" in its name for labels, and evaluates only where all are given."""
    assert find_labels(model_class) in ([], ["labels"])


@pytest.mark.parametrize("is_compiling", [False, True])
def test_evaluation_waits_for_the_device_once(is_compiling, monkeypatch):
    """One `bool(tensor)` for both masks, none in training or in a compiled graph."""
    model, inputs = tiny_model(DeepAVFusionForAudioVisualClassification, use_pooled_batchnorm=True), tiny_inputs()
    masks = {"has_video": torch.tensor([True, False, True]), "has_audio": torch.tensor([True, True, False])}
    waits, original = [], torch.Tensor.__bool__
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: waits.append(tensor) or original(tensor))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: is_compiling)
    model(**inputs, **masks, labels=torch.tensor([0, 3, 1]))
    assert len(waits) == int(not is_compiling)
    waits.clear()
    model.train()(**inputs, **masks, labels=torch.tensor([0, 3, 1])).loss.backward()
    assert not waits


def test_the_package_names_what_it_exports():
    for name in modeling_deepavfusion.__all__:
        assert getattr(modeling_deepavfusion, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        modeling_deepavfusion.absent  # noqa: B018
