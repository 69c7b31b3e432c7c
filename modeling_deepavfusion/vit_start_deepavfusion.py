# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""An experiment of ours: DeepAVFusion's fusion on top of MA-AVT's shared backbone, one plain ViT in both branches."""

import os

import torch
from transformers import ViTModel

from .configuration_deepavfusion import DeepAVFusionConfig
from .embeddings_deepavfusion import resample_positions
from .modeling_deepavfusion import DeepAVFusionModel, DeepAVFusionPreTrainedModel


def deepavfusion_from_vit(
    name_or_path: str | os.PathLike,
    model_class: type[DeepAVFusionPreTrainedModel] = DeepAVFusionModel,
    seed: int = 0,
    **fields,
) -> DeepAVFusionPreTrainedModel:
    """
    A new DeepAVFusion whose two ViTs both start as the one of a checkpoint; fusion blocks, tokens and heads are new.

    The sound's ViT sees the spectrogram in each of the ViT's channels, as in MA-AVT. Learned positions are resampled to
    either patch grid (bicubic); the class token is dropped. Freeze the ViTs with [`deepavfusion_peft_config`].

    Args:
        name_or_path: a stock ViT checkpoint of Transformers, such as DeiT-Tiny.
        model_class: any DeepAVFusion class.
        seed: of what is new.
        fields: of [`DeepAVFusionConfig`], over what the ViT says.

    Raises:
        ValueError: fields that contradict the ViT's weights, or a ViT without biases in its attention.
    """
    vit = ViTModel.from_pretrained(name_or_path, add_pooling_layer=False, dtype=torch.float32)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    sizes = {name: getattr(vit.config, name) for name in (*names, "layer_norm_eps", "patch_size", "num_channels")}
    sizes["audio_num_channels"] = vit.config.num_channels
    if wrong := sorted(name for name in set(fields) & set(sizes) if fields[name] != sizes[name]):
        raise ValueError(f"{wrong}: the ViT of {os.path.basename(name_or_path)} has other values; leave them out.")
    if not vit.config.qkv_bias:
        raise ValueError(f"{os.path.basename(name_or_path)}: qkv_bias is false; DeepAVFusion's attention has biases.")
    config = DeepAVFusionConfig(**{"image_size": vit.config.image_size, **sizes, **fields})
    torch.manual_seed(seed)
    model = model_class(config)
    weights, encoder = vit.state_dict(), model.base_model
    positions = weights["embeddings.position_embeddings"][:, 1:]
    patches = vit.embeddings.patch_embeddings
    trained = tuple(image // patch for image, patch in zip(patches.image_size, patches.patch_size, strict=True))
    ours = {}
    for modality, grid in (("image", config.image_grid), ("audio", config.audio_grid)):
        ours[f"{modality}_embeddings.position_embeddings"] = resample_positions(positions, trained, grid)
        for name, value in weights.items():
            if name.startswith("layers."):
                _, index, rest = name.split(".", 2)
                ours[f"layers.{index}.{modality}.{rest}"] = value
            elif name.startswith("layernorm."):
                ours[f"{modality}_{name}"] = value
            elif name.startswith("embeddings.patch_embeddings."):
                ours[f"{modality}_embeddings.{name.removeprefix('embeddings.patch_embeddings.')}"] = value
    missing, unexpected = encoder.load_state_dict(ours, strict=False)
    of_vit = [name for name in missing if "fusion" not in name]
    if of_vit or unexpected:
        raise ValueError(
            f"{os.path.basename(name_or_path)}: missing {of_vit}, unknown {unexpected}; give a plain ViT."
        )
    return model


__all__ = ["deepavfusion_from_vit"]
