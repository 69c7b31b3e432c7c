# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Forward and losses on a pretended GPU: devices do not mix, and nothing waits for the device.

Tensors of `FakeTensorMode` have a device and a shape but no data, so these tests need no GPU. A forward that reads a value
back (`.item()`, `.tolist()`, a boolean index), copies from the host, or indexes with a host list fails here.
"""

import pytest
import tiny_deepavfusion
import torch
from tiny_models import tiny_config, tiny_inputs
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

import modeling_deepavfusion
import modeling_maavt
from modeling_deepavfusion import (
    DeepAVFusionForAudioVisualClassification,
    DeepAVFusionForAudioVisualSegmentation,
    DeepAVFusionForPreTraining,
    DeepAVFusionForSoundSourceLocalization,
    DeepAVFusionForSoundSourceSeparation,
    DeepAVFusionModel,
)
from modeling_maavt import MAAVTForAudioVisualClassification, MAAVTModel
from processing.video_processing_maavt import MAAVTVideoProcessor


class HostTraffic(TorchDispatchMode):
    """Records operations that read from the device or copy between host and device."""

    def __init__(self):
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        inputs = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        name = function.name()
        if "_local_scalar_dense" in name or "nonzero" in name:
            self.operations.append(name)
        outputs = function(*args, **(kwargs or {}))
        devices = inputs | {leaf.device.type for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)}
        scalar = all(leaf.ndim == 0 for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor) and on_host(leaf))
        # kernels take a host scalar as an argument
        if {"cpu", "cuda"} <= devices and not (scalar and "cuda" in inputs):
            self.operations.append(name)
        return outputs


def on_host(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"


def to_fake_cuda(mode: FakeTensorMode, model: torch.nn.Module) -> torch.nn.Module:
    """The same model with fake weights on a GPU."""
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        return model._apply(lambda tensor: mode.from_tensor(tensor).to("cuda"))
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)


def host_traffic(model: torch.nn.Module, inputs: dict, train: bool) -> list[str]:
    """What passes between host and device in a forward with losses. (A backward pass would need a real GPU.)"""
    model.train(train)
    with FakeTensorMode() as mode:
        model = to_fake_cuda(mode, model)
        inputs = {name: mode.from_tensor(tensor).to("cuda") for name, tensor in inputs.items()}
        with HostTraffic() as traffic, torch.set_grad_enabled(train):
            outputs = model(**inputs)
        for tensor in tree_leaves(dict(outputs)):
            assert not isinstance(tensor, torch.Tensor) or tensor.device.type == "cuda"
    return traffic.operations


def windows(size: int = 32) -> dict[str, torch.Tensor]:
    return {"pixel_values_videos": torch.randn(2, 1, 3, size, size), "input_features": torch.randn(2, 1, 16, 32)}


def test_traffic_is_noticed():
    with FakeTensorMode():
        rows, host = torch.randn(4, 2, device="cuda"), torch.randn(4, 2)
        with HostTraffic() as traffic:
            rows[[0, 2]]
            assert traffic.operations
            with pytest.raises(DataDependentOutputException):
                rows.sum().item()
            with pytest.raises(RuntimeError, match="device"):
                rows + host


LABELS = {"labels": torch.tensor([0, 1, 2, 3]), "is_matched": torch.tensor([True, True, False, True])}
PRESENCE = {"has_video": torch.tensor([True, False, True, True]), "has_audio": torch.tensor([True] * 4)}
MAAVT_CASES = {
    "defaults": ({}, LABELS),
    "prompts_from_block_1": ({"prompt_start_layer": 1}, LABELS),
    "missing_video": ({}, LABELS | PRESENCE),
    "one_head": ({"match_head": "linear", "position_interpolation": "sequence"}, LABELS),
    "patches": ({"match_head": "patches", "in_batch_mismatches": 3, "match_class_agreement": True}, LABELS),
    "no_contrast": ({"contrastive": None}, {"labels": LABELS["labels"]}),
    "soft_labels": ({}, {"labels": torch.full((4, 5), 0.2)}),
    "contrast_by_label": ({"contrastive_positives": "label"}, LABELS),
    "lavish": ({"lavish_config": {}, "match_head": "mlp"}, LABELS),
}


@pytest.mark.parametrize("train", [True, False], ids=["train", "predict"])
@pytest.mark.parametrize("case", MAAVT_CASES)
def test_maavt_classification(case, train):
    options, labels = MAAVT_CASES[case]
    model = MAAVTForAudioVisualClassification(tiny_config(**options))
    assert host_traffic(model, tiny_inputs(frames=2) | labels, train) == []


def test_maavt_features():
    assert host_traffic(MAAVTModel(tiny_config()), tiny_inputs(), train=False) == []


@pytest.mark.parametrize("fusion_type", ["factorized", "dense", "token"])
@pytest.mark.parametrize("train", [True, False], ids=["train", "predict"])
def test_deepavfusion(train, fusion_type):
    inputs = tiny_deepavfusion.tiny_inputs()
    config = tiny_deepavfusion.tiny_config(fusion_type=fusion_type)
    assert host_traffic(DeepAVFusionForPreTraining(config), dict(inputs), train) == []
    if not train:
        assert host_traffic(DeepAVFusionModel(config), dict(inputs), train) == []
    labels = {"labels": torch.tensor([0, 1, 2])}
    assert host_traffic(DeepAVFusionForAudioVisualClassification(config), inputs | labels, train) == []


TASKS = {
    DeepAVFusionForAudioVisualSegmentation: {"labels": torch.ones(2, 1, 32, 32)},
    DeepAVFusionForSoundSourceSeparation: {
        "labels": torch.randn(2, 1, 16, 32),
        "other_features": torch.randn(2, 1, 16, 32),
    },
    DeepAVFusionForSoundSourceLocalization: {},
}


@pytest.mark.parametrize("train", [True, False], ids=["train", "predict"])
@pytest.mark.parametrize("model_class", TASKS, ids=lambda model_class: model_class.__name__)
def test_deepavfusion_tasks(model_class, train):
    sizes = {"image_size": 32, "patch_size": 16, "num_mel_bins": 16, "audio_num_frames": 32, "num_labels": 1}
    sizes |= {"segmentation_min_channels": 8, "image_mask_ratio": 0.5, "audio_mask_ratio": 0.5}
    model = model_class(tiny_deepavfusion.tiny_config(**sizes))
    assert host_traffic(model, windows() | TASKS[model_class], train) == []


def test_every_class_is_tested_here():
    tested = {MAAVTModel, MAAVTForAudioVisualClassification, DeepAVFusionModel, DeepAVFusionForPreTraining, *TASKS}
    tested.add(DeepAVFusionForAudioVisualClassification)
    exported = set()
    for package in (modeling_maavt, modeling_deepavfusion):
        classes = [value for value in vars(package).values() if isinstance(value, type)]
        exported |= {value for value in classes if issubclass(value, PreTrainedModel)}
    assert {value for value in exported if not value.__name__.endswith("PreTrainedModel")} == tested


def test_frames_are_resized_and_normalized_on_the_card():
    """`device=`; spectrograms have a test of their own, on a real card (tests/processing/test_spectrograms.py)."""
    frames = torch.randint(0, 255, (2, 3, 90, 120), dtype=torch.uint8)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        processor = MAAVTVideoProcessor(frames_per_clip=2)
        batch = processor([mode.from_tensor(frames)], device="cuda", do_sample_frames=False)
    assert batch["pixel_values_videos"].device.type == "cuda"
