# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Accelerate's offloading: every weight is read in the forward of its own module, so that it can be fetched for it.

A model is not spread over several GPUs."""

import pytest
import tiny_deepavfusion
import torch
from accelerate import cpu_offload
from test_fake_cuda import MAAVT_CASES, TASKS, windows
from tiny_models import tiny_config, tiny_inputs, tiny_model
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from modeling_deepavfusion import (
    DeepAVFusionForAudioVisualClassification,
    DeepAVFusionForPreTraining,
    DeepAVFusionModel,
)
from modeling_maavt import MAAVTForAudioVisualClassification, MAAVTModel


def call(model: PreTrainedModel, inputs: dict) -> list[torch.Tensor]:
    torch.manual_seed(0)  # masks of pre-training
    with torch.no_grad():
        outputs = model(**inputs)
    return [leaf for leaf in tree_leaves(dict(outputs)) if isinstance(leaf, torch.Tensor)]


def check_offloaded(model: PreTrainedModel, inputs: dict) -> None:
    """The offloaded model gives what it gave before; a weight that is read elsewhere is empty, and gives anything."""
    expected = call(model.eval(), inputs)
    offloaded = cpu_offload(model, execution_device="cpu")
    assert all(parameter.is_meta for parameter in model.parameters())
    torch.testing.assert_close(call(offloaded, inputs), expected, rtol=0, atol=0)


@pytest.mark.parametrize("case", MAAVT_CASES)
def test_maavt_classification(case):
    options, labels = MAAVT_CASES[case]
    check_offloaded(MAAVTForAudioVisualClassification(tiny_config(**options)), tiny_inputs(frames=2) | labels)


def test_maavt_features():
    check_offloaded(MAAVTModel(tiny_config()), tiny_inputs())


@pytest.mark.parametrize("fusion_type", ["factorized", "dense", "token"])
@pytest.mark.parametrize(
    "model_class", [DeepAVFusionModel, DeepAVFusionForPreTraining, DeepAVFusionForAudioVisualClassification]
)
def test_deepavfusion(model_class, fusion_type):
    config = tiny_deepavfusion.tiny_config(fusion_type=fusion_type)
    check_offloaded(model_class(config), tiny_deepavfusion.tiny_inputs())


@pytest.mark.parametrize("model_class", TASKS, ids=lambda model_class: model_class.__name__)
def test_deepavfusion_tasks(model_class):
    sizes = {"image_size": 32, "patch_size": 16, "num_mel_bins": 16, "audio_num_frames": 32, "num_labels": 1}
    sizes |= {"segmentation_min_channels": 8, "image_mask_ratio": 0.5, "audio_mask_ratio": 0.5}
    check_offloaded(model_class(tiny_deepavfusion.tiny_config(**sizes)), windows() | TASKS[model_class])


def test_weights_on_disk(tmp_path):
    """`device_map` of `from_pretrained`, with a part on disk."""
    model, inputs = tiny_model(match_head="patches", match_class_agreement=True), tiny_inputs()
    model.save_pretrained(tmp_path / "model")
    places = {"maavt": "disk", "classifier": "disk", "match_head": "cpu"}
    loaded = MAAVTForAudioVisualClassification.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "weights"
    )
    assert next(loaded.maavt.parameters()).is_meta
    torch.testing.assert_close(call(loaded, inputs), call(model, inputs), rtol=0, atol=0)


@pytest.mark.parametrize("model_class", [MAAVTModel, DeepAVFusionModel])
def test_several_gpus_are_refused(model_class, tmp_path, monkeypatch):
    config = {MAAVTModel: tiny_config, DeepAVFusionModel: tiny_deepavfusion.tiny_config}[model_class]()
    model_class(config).save_pretrained(tmp_path)

    def load_onto(devices: dict) -> None:
        monkeypatch.setattr(PreTrainedModel, "hf_device_map", devices, raising=False)  # as loading sets it
        model_class.from_pretrained(tmp_path)

    load_onto({"": "cuda:0"})
    load_onto({"a": 0, "b": "cpu", "c": "disk"})
    with pytest.raises(ValueError, match='device_map spreads .* over the devices 0, 1; .* device_map="cuda"$'):
        load_onto({"a": 0, "b": 1})
