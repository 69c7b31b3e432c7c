# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Transformers' own common model tests on DeepAVFusion's segmentation, separation and localization."""

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


def make_map_inputs():
    """With what they are trained on: the common tests know labels of built-in tasks alone."""
    return make_inputs() | {"labels": torch.randint(0, 2, (4, 1, 16, 16)).float()}


def make_separation_inputs():
    return make_inputs() | {"labels": torch.randn(4, 1, 16, 24) - 3, "other_features": torch.randn(4, 1, 16, 24) - 3}


def task_test_case(name, model_class, inputs):
    return model_test_case(
        name,
        (model_class,),
        make_task_config,
        inputs,
        base_model=DeepAVFusionModel,
        additional_model_inputs=["input_features"],
        skips=SKIPS,
        **NUMBERS,
    )


DeepAVFusionSegmentationTest = task_test_case(
    "DeepAVFusionSegmentationTest", DeepAVFusionForAudioVisualSegmentation, make_map_inputs
)
DeepAVFusionSeparationTest = task_test_case(
    "DeepAVFusionSeparationTest", DeepAVFusionForSoundSourceSeparation, make_separation_inputs
)
DeepAVFusionLocalizationTest = task_test_case(
    "DeepAVFusionLocalizationTest", DeepAVFusionForSoundSourceLocalization, make_map_inputs
)
