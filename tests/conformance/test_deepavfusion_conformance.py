# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Transformers' own common model tests on DeepAVFusion's classes."""

import pytest
import torch


pytest.importorskip("hf_harness", reason="the conformance material (CONFORMANCE_DIR) is not here")

from hf_harness import model_test_case  # noqa: E402

from modeling_deepavfusion import (  # noqa: E402
    DeepAVFusionConfig,
    DeepAVFusionForAudioVisualClassification,
    DeepAVFusionForPreTraining,
    DeepAVFusionModel,
)


def make_config():
    return DeepAVFusionConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=37,
        image_size=16,
        patch_size=8,
        num_mel_bins=16,
        audio_num_frames=24,
        num_fusion_tokens=2,
        num_visual_aggregation_tokens=1,
        num_audio_aggregation_tokens=1,
        fusion_attention_ratio=0.5,
        image_mask_ratio=0.5,
        audio_mask_ratio=0.5,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=32,
        num_labels=3,
    )


def make_pretraining_config():
    """As many visible patches of the frame as tokens: the common tests know one sequence length."""
    config = make_config()
    config.image_size = [16, 32]
    return config


def make_inputs():
    return {
        "pixel_values_videos": torch.rand(4, 1, 3, 16, 16),
        "input_features": torch.randn(4, 1, 16, 24),
        "has_video": torch.ones(4, dtype=torch.bool),
        "has_audio": torch.ones(4, dtype=torch.bool),
    }


def make_pretraining_inputs():
    return {
        "pixel_values_videos": torch.rand(4, 1, 3, 16, 32),
        "input_features": torch.randn(4, 1, 16, 24),
        "image_noise": torch.rand(4, 8),
        "audio_noise": torch.rand(4, 6),
    }


NUMBERS = {
    "num_hidden_states_types": 4,  # of tokens (under two names), frame and spectrogram
    "batch_size": 4,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "seq_length": 4,  # tokens, and patches of the frame
    "key_length": 8,  # patches read both
}
SKIPS = {"test_model_get_set_embeddings": "the input embedding is a patch projection, as in every vision model"}

DeepAVFusionModelTest = model_test_case(
    "DeepAVFusionModelTest",
    (DeepAVFusionModel, DeepAVFusionForAudioVisualClassification),
    make_config,
    make_inputs,
    base_model=DeepAVFusionModel,
    classifier=DeepAVFusionForAudioVisualClassification,
    additional_model_inputs=["input_features"],
    skips=SKIPS,
    **NUMBERS,
)

DeepAVFusionPreTrainingTest = model_test_case(
    "DeepAVFusionPreTrainingTest",
    (DeepAVFusionForPreTraining,),
    make_pretraining_config,
    make_pretraining_inputs,
    base_model=DeepAVFusionModel,
    additional_model_inputs=["input_features", "image_noise", "audio_noise"],
    skips=SKIPS,
    **NUMBERS,
)
