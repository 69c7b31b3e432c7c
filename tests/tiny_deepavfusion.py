# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny DeepAVFusion models and inputs that several tests share."""

import json

import torch

from modeling_deepavfusion import DeepAVFusionConfig


TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 4,
    "num_mel_bins": 8,
    "audio_num_frames": 12,
    "num_fusion_tokens": 4,
    "num_visual_aggregation_tokens": 2,
    "num_audio_aggregation_tokens": 3,
    "fusion_attention_ratio": 0.5,
    "fusion_mlp_ratio": 1.5,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 32,
    "num_labels": 5,
}


def tiny_config(**overrides) -> DeepAVFusionConfig:
    return DeepAVFusionConfig(**{**TINY, **overrides})


def tiny_model(model_class, seed: int = 0, **overrides):
    torch.manual_seed(seed)
    return model_class(tiny_config(**overrides)).eval()


def tiny_inputs(clips: int = 3, windows: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "pixel_values_videos": torch.randn(clips, windows, 3, 16, 16, generator=generator),
        "input_features": torch.randn(clips, windows, 8, 12, generator=generator),
    }


def pretraining_command(clips, output_dir, seconds: float = 0.5, **settings) -> list[str]:
    """Command line of a small pre-training run on windows of so many seconds, for clips of `write_clips`."""
    sizes = {**TINY, "image_size": 32, "patch_size": 8, "num_mel_bins": 16, "audio_num_frames": 16}
    sizes |= {"num_hidden_layers": 1, "decoder_num_hidden_layers": 1, "audio_mask_ratio": 0.5}
    sizes.pop("num_labels")
    extractor = {"segment_seconds": seconds, "n_fft": 512, "win_length": 512, "hop_length": round(1000 * seconds)}
    processor = {
        "feature_extractor": extractor | {"num_bins": 16, "num_frames": 16},
        "video_processor": {"size": {"height": 32, "width": 32}, "do_center_crop": False},
    }
    command = {
        "data": clips,
        "table": json.dumps({"check": "none"}),
        "model_config": json.dumps(sizes),
        "processor": json.dumps(processor),
        "output_dir": output_dir,
        "learning_rate": 1e-3,
        "num_pictures": 2,
        "use_cpu": True,
        "save_strategy": "no",
        **settings,
    }
    return [text for name, value in command.items() for text in (f"--{name}", str(value))]


def half_of(inputs: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """One of the two streams."""
    return {name: inputs[name]}


def all_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)
