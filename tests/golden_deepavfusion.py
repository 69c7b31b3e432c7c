# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What a `deepavfusion_*.npz` golden file is compared with. A file is known by the longest prefix of its name in `KINDS`.

A function of `KINDS` takes the file's stem, its weights, inputs and expected outputs and gives our outputs by their
names. It may leave outputs out that it does not know: the test names them.
"""

import numpy as np
import torch

from modeling_deepavfusion import (
    DeepAVFusionForAudioVisualClassification,
    DeepAVFusionForPreTraining,
    DeepAVFusionModel,
)
from modeling_deepavfusion.convert_deepavfusion import config_from_weights, reference_state_dict


KINDS = {}
# what the shapes do not tell, the same in all files
HEADS, TOKENS, MEL_BINS = 4, (4, 2, 3), 32


def golden(prefix: str):
    """Register what compares the files whose stem starts with `deepavfusion_` and this prefix."""

    def register(function):
        KINDS[prefix] = function
        return function

    return register


def kind_of(stem: str):
    """The function for a file, or None where no prefix fits."""
    fitting = [prefix for prefix in KINDS if stem.removeprefix("deepavfusion_").startswith(prefix)]
    return KINDS[max(fitting, key=len)] if fitting else None


def load_golden(path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights (float32), inputs and expected outputs of a file, without their prefixes."""
    groups = {"param": {}, "in": {}, "out": {}}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            group, _, name = key.partition("/")
            value = torch.from_numpy(np.array(arrays[key]))
            groups[group][name] = value.float() if value.is_floating_point() else value
    return groups["param"], groups["in"], groups["out"]


def encoder_config(weights: dict[str, torch.Tensor], **fields):
    """The configuration behind published encoder weights (names without prefix), with more fields set."""
    config = config_from_weights(weights, HEADS, TOKENS, MEL_BINS)
    for name, value in fields.items():
        setattr(config, name, value)
    return config


def without_prefix(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def streams(inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames `[B, C, H, W]` and spectrograms `[B, 1, F, W]` as clips of one window."""
    return inputs["image"].unsqueeze(1), inputs["audio"]


@golden("encoder_")
def encoder(stem, weights, inputs, expected, attention):
    config = encoder_config(weights)
    assert config.fusion_type in stem
    config._attn_implementation = attention
    model = DeepAVFusionModel(config).eval()
    model.load_state_dict(reference_state_dict(weights, config.fusion_type))
    full = model(*streams(inputs), output_hidden_states=True)
    keep = {name: inputs[name] for name in ("image_ids_keep", "audio_ids_keep")}
    masked = model(*streams(inputs), **keep)
    ours = {}
    for name, output in (("full", full), ("masked", masked)):
        for modality in ("image", "audio", "fusion"):
            ours[f"{name}_{modality}"] = output[f"{modality}_last_hidden_state"]
    for modality in ("image", "audio", "fusion"):
        for layer, states in enumerate(full[f"{modality}_hidden_states"][1:]):
            ours[f"full_layer{layer}_{modality}"] = states
    return ours


def mask_ratio(kept: torch.Tensor, num_patches: int) -> float:
    """A ratio that leaves `kept` of the patches, whatever is rounded."""
    return 1 - (int(kept) + 0.5) / num_patches


@golden("pretraining_")
def pretraining(stem, weights, inputs, expected, attention):
    shuffles = {name: inputs[f"{name}_shuffle"] for name in ("image", "audio")}
    fields = {
        f"{name}_mask_ratio": mask_ratio(inputs[f"{name}_len_keep"], shuffle.shape[1])
        for name, shuffle in shuffles.items()
    }
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("image_decoder_blocks."))
    decoder = {
        "decoder_hidden_size": weights["image_decoder_mask_token"].shape[-1],
        "decoder_num_hidden_layers": depth,
        "decoder_num_attention_heads": HEADS,
        "decoder_intermediate_size": weights["image_decoder_blocks.0.mlp.fc1.weight"].shape[0],
    }
    config = encoder_config(without_prefix(weights, "encoder."), **fields, **decoder)
    config._attn_implementation = attention
    model = DeepAVFusionForPreTraining(config).eval()
    model.load_state_dict(reference_state_dict(weights, config.fusion_type))
    # noise whose order is the given permutation
    noise = {f"{name}_noise": shuffle.argsort(1).float() for name, shuffle in shuffles.items()}
    outputs = model(*streams(inputs), **noise)
    return {
        "loss_image": outputs.image_loss,
        "loss_audio": outputs.audio_loss,
        "pred_image": outputs.image_logits,
        "pred_audio": outputs.audio_logits,
    }


@golden("classifier_")
def classifier(stem, weights, inputs, expected, attention):
    fields = {"num_labels": weights["fusion_head.weight"].shape[0], "use_pooled_batchnorm": "linearprobe" in stem}
    config = encoder_config(without_prefix(weights, "encoder."), **fields)
    config._attn_implementation = attention
    model = DeepAVFusionForAudioVisualClassification(config).eval()
    model.load_state_dict(reference_state_dict(weights, config.fusion_type))
    outputs = model(*streams(inputs))
    return {
        "logits_image": outputs.image_logits,
        "logits_audio": outputs.audio_logits,
        "logits_fusion": outputs.fusion_logits,
        "logits_mean": outputs.logits,
    }
