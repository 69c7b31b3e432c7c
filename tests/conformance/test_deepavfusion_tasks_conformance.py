# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Transformers' own common model tests on DeepAVFusion's segmentation, separation and localization."""

import copy

import pytest
import torch


pytest.importorskip("hf_harness", reason="the conformance material (CONFORMANCE_DIR) is not here")

from hf_harness import model_test_case  # noqa: E402
from test_deepavfusion_conformance import NUMBERS, SKIPS, make_config, make_inputs  # noqa: E402

from modeling_deepavfusion import (  # noqa: E402
    DeepAVFusionForAudioVisualSegmentation,
    DeepAVFusionForSoundSourceLocalization,
    DeepAVFusionForSoundSourceSeparation,
    DeepAVFusionModel,
)


def make_task_config():
    config = make_config()
    config.segmentation_min_channels = 8
    config.num_labels = 1
    return config


def map_labels():
    return {"labels": torch.arange(4 * 256).view(4, 1, 16, 16).remainder(3).eq(0).float()}


def separation_labels():
    labels = torch.linspace(-5, 0, 4 * 16 * 24).view(4, 1, 16, 24)
    return {"labels": labels, "other_features": labels.flip(-1)}


def task_test_case(name, model_class, make_labels):
    def prepare(self, inputs, model_class, return_labels=False):
        """The common tests know labels of built-in tasks alone."""
        return copy.deepcopy(inputs) | (make_labels() if return_labels else {})

    return model_test_case(
        name,
        (model_class,),
        make_task_config,
        make_inputs,
        base_model=DeepAVFusionModel,
        additional_model_inputs=["input_features"],
        skips=SKIPS,
        # as published, decoders read block outputs before the final norms, and no fusion token of the last block
        attributes={"_prepare_for_class": prepare, "test_all_params_have_gradient": False},
        **NUMBERS,
    )


DeepAVFusionSegmentationTest = task_test_case(
    "DeepAVFusionSegmentationTest", DeepAVFusionForAudioVisualSegmentation, map_labels
)
DeepAVFusionSeparationTest = task_test_case(
    "DeepAVFusionSeparationTest", DeepAVFusionForSoundSourceSeparation, separation_labels
)
DeepAVFusionLocalizationTest = task_test_case(
    "DeepAVFusionLocalizationTest", DeepAVFusionForSoundSourceLocalization, map_labels
)
