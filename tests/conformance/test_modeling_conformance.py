# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Transformers' own common model tests on MA-AVT's classes."""

import pytest
import torch


pytest.importorskip("hf_harness", reason="the conformance material (CONFORMANCE_DIR) is not here")

from hf_harness import model_test_case  # noqa: E402

from modeling_maavt import MAAVTConfig, MAAVTForAudioVisualClassification, MAAVTModel  # noqa: E402


def make_config():
    return MAAVTConfig(
        vision_config={
            "model_type": "vit",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 37,
            "image_size": 16,
            "patch_size": 8,
            "layer_norm_eps": 1e-6,
        },
        num_audio_tokens=2,
        num_visual_tokens=2,
        num_shared_tokens=2,
        contrastive_dim=16,
        match_dim=16,
        num_labels=3,
    )


def make_inputs():
    return {
        "pixel_values_videos": torch.rand(4, 1, 3, 16, 16),
        "input_features": torch.randn(4, 1, 16, 16),
        "has_video": torch.ones(4, dtype=torch.bool),
        "has_audio": torch.ones(4, dtype=torch.bool),
    }


MAAVTModelTest = model_test_case(
    "MAAVTModelTest",
    (MAAVTModel, MAAVTForAudioVisualClassification),
    make_config,
    make_inputs,
    base_model=MAAVTModel,
    classifier=MAAVTForAudioVisualClassification,
    additional_model_inputs=["input_features"],
    composite=True,
    num_hidden_states_types=2,
    batch_size=4,
    num_hidden_layers=2,
    num_attention_heads=4,
    hidden_size=32,
    seq_length=10,  # class token, four patches, background token, two visual and two shared tokens
    skips={"test_model_get_set_embeddings": "the input embedding is a patch projection, as in every vision model"},
)
