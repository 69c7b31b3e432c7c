# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny MA-AVT models and inputs that several tests share."""

import torch

from modeling_maavt import MAAVTConfig, MAAVTForAudioVisualClassification


TINY_VIT = {
    "model_type": "vit",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
    "layer_norm_eps": 1e-6,
}


def tiny_config(**overrides) -> MAAVTConfig:
    values = {"num_labels": 5, "contrastive_dim": 16, "match_dim": 16, **overrides}
    return MAAVTConfig(vision_config=dict(TINY_VIT), **values)


def tiny_model(seed: int = 0, **overrides) -> MAAVTForAudioVisualClassification:
    torch.manual_seed(seed)
    return MAAVTForAudioVisualClassification(tiny_config(**overrides)).eval()


def tiny_inputs(clips: int = 4, frames: int = 1, segments: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "pixel_values_videos": torch.randn(clips, frames, 3, 32, 32, generator=generator),
        "input_features": torch.randn(clips, segments, 32, 32, generator=generator),
    }
