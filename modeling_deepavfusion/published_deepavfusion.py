# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Names and layouts of the published DeepAVFusion weights, and of MAE encoders, in terms of this package."""

import re

import torch

from .configuration_deepavfusion import DeepAVFusionConfig


VIT_BLOCK = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.o_proj",
    "norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
FUSION_BLOCK = {
    "norm1_mm": "layernorm_fusion",
    "norm1_img": "layernorm_image",
    "norm1_aud": "layernorm_audio",
    "norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
# token-only blocks are called with image and audio exchanged, so their norms act on the other modality
CROSSWISE = {"norm1_img": "layernorm_audio", "norm1_aud": "layernorm_image"}
AGGREGATIONS = {"attn_v": "image_aggregation", "attn_a": "audio_aggregation"}


def encoder_to_ours(published: dict[str, torch.Tensor], fusion_type: str) -> dict[str, torch.Tensor]:
    """Weights of a published encoder (names without prefix) as the state dict of [`DeepAVFusionModel`].

    Raises:
        KeyError: a name that no published encoder has.
    """
    ours = {}
    for name, value in published.items():
        parts = name.split(".")
        if parts[0] in ("image", "audio"):
            ours |= vit_to_ours({name.partition(".")[2]: value}, parts[0])
        elif parts[0] == "fusion_tokens":
            ours["fusion_tokens.tokens"] = value
        elif parts[0] == "fusion_norm":
            ours[f"fusion_layernorm.{parts[-1]}"] = value
        elif parts[0] == "fusion_blocks":
            block = fusion_block_to_ours(".".join(parts[2:-1]), parts[-1], value, fusion_type)
            ours |= {f"layers.{parts[1]}.fusion.{key}": tensor for key, tensor in block.items()}
        else:
            raise KeyError(f"{name!r} is no name of a published DeepAVFusion encoder.")
    return ours


def vit_to_ours(published: dict[str, torch.Tensor], modality: str) -> dict[str, torch.Tensor]:
    """One ViT's weights (`patch_embed.proj`, `pos_embed`, `blocks.0.norm1`, ..., `norm`) as those of `modality`."""
    ours = {}
    for name, value in published.items():
        parts = name.split(".")
        if name == "pos_embed":
            ours[f"{modality}_embeddings.position_embeddings"] = value
        elif parts[:2] == ["patch_embed", "proj"]:
            ours[f"{modality}_embeddings.projection.{parts[-1]}"] = value
        elif parts[0] == "norm" and len(parts) == 2:
            ours[f"{modality}_layernorm.{parts[-1]}"] = value
        elif parts[0] == "blocks":
            block = vit_block_to_ours(".".join(parts[2:-1]), parts[-1], value)
            ours |= {f"layers.{parts[1]}.{modality}.{key}": tensor for key, tensor in block.items()}
        else:
            raise KeyError(f"{name!r} is no name of a ViT encoder.")
    return ours


def vit_block_to_ours(module: str, kind: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    if module == "attn.qkv":
        return {f"attention.{letter}_proj.{kind}": part for letter, part in zip("qkv", value.chunk(3), strict=True)}
    if module not in VIT_BLOCK:
        raise KeyError(f"{module!r} is no part of a ViT block.")
    return {f"{VIT_BLOCK[module]}.{kind}": value}


def fusion_block_to_ours(module: str, kind: str, value: torch.Tensor, fusion_type: str) -> dict[str, torch.Tensor]:
    """One tensor of a fusion block: fused matrices are split, those over pairs by columns too."""
    if fusion_type == "token":
        module_names = FUSION_BLOCK | CROSSWISE
    else:
        module_names = FUSION_BLOCK
    if module in module_names:
        return {f"{module_names[module]}.{kind}": value}
    _, _, inner = module.partition("attn.")
    side, _, projection = inner.rpartition(".")
    if side in AGGREGATIONS:
        prefix = f"attention.{AGGREGATIONS[side]}."
    elif side == "":
        prefix = "attention." if fusion_type == "token" else "attention.pairs."
    else:
        raise KeyError(f"{module!r} is no part of a fusion block.")
    if projection in ("q", "proj"):
        return {f"{prefix}{'q' if projection == 'q' else 'o'}_proj.{kind}": value}
    if projection not in ("k", "v", "kv"):
        raise KeyError(f"{module!r} is no part of a fusion block.")
    parts = zip(projection, value.chunk(len(projection)), strict=True)
    if side or fusion_type == "token":
        return {f"{prefix}{letter}_proj.{kind}": part for letter, part in parts}
    if kind == "bias":  # once for a pair: with the visual half
        return {f"{prefix}image_{letter}_proj.bias": part for letter, part in parts}
    # columns of a pair: the sound first in dense blocks, the picture first in factorized ones
    order = ("audio", "image") if fusion_type == "dense" else ("image", "audio")
    return {
        f"{prefix}{modality}_{letter}_proj.weight": half
        for letter, part in parts
        for modality, half in zip(order, part.chunk(2, dim=1), strict=True)
    }


def decoder_to_ours(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """One tensor of a published decoder, such as `image_decoder_blocks.0.attn.qkv.weight`."""
    modality, part = name.split("_decoder_", 1)
    parts = part.split(".")
    prefix = f"{modality}_decoder."
    if part in ("mask_token", "pos_embed"):
        return {prefix + {"mask_token": "mask_token", "pos_embed": "position_embeddings"}[part]: value}
    if parts[0] == "blocks":
        block = vit_block_to_ours(".".join(parts[2:-1]), parts[-1], value)
        return {f"{prefix}layers.{parts[1]}.{key}": tensor for key, tensor in block.items()}
    modules = {"embed": "embed", "norm": "layernorm", "pred": "predictor"}
    if parts[0] not in modules:
        raise KeyError(f"{name!r} is no name of a published decoder.")
    return {f"{prefix}{modules[parts[0]]}.{parts[-1]}": value}


def task_to_ours(published: dict[str, torch.Tensor], fusion_type: str) -> dict[str, torch.Tensor]:
    """Weights of a published pre-training or classification model as the state dict of ours.

    Raises:
        KeyError: a name that neither has.
    """
    encoder = {
        name.removeprefix("encoder."): value for name, value in published.items() if name.startswith("encoder.")
    }
    ours = {f"deepavfusion.{name}": value for name, value in encoder_to_ours(encoder, fusion_type).items()}
    for name, value in published.items():
        if name.startswith("encoder."):
            continue
        if name.startswith(("image_decoder_", "audio_decoder_")):
            ours |= decoder_to_ours(name, value)
        elif match := re.fullmatch(r"(image|audio|fusion)_(head|norm)\.(\w+)", name):
            modality, module, kind = match.groups()
            ours[f"{modality}_{'classifier' if module == 'head' else 'batchnorm'}.{kind}"] = value
        else:
            raise KeyError(f"{name!r} is no name of a published DeepAVFusion model.")
    return ours


def config_of_encoder(
    published: dict[str, torch.Tensor],
    num_attention_heads: int | None = None,
    token_counts: tuple[int, int, int] | None = None,
    num_mel_bins: int | None = None,
) -> DeepAVFusionConfig:
    """What the shapes of a published encoder (names without prefix) say about its configuration.

    Args:
        num_attention_heads: heads leave no trace in the weights; D / 64 when absent.
        token_counts: fusion, visual and audio aggregation tokens; half, a quarter, a quarter of them when absent.
        num_mel_bins: height of the spectrogram; two thirds of its width when absent.
    """
    _, num_tokens, width = published["fusion_tokens"].shape
    projection = published["image.patch_embed.proj.weight"]
    audio_projection = published["audio.patch_embed.proj.weight"]
    patch = projection.shape[-1]
    side = round(published["image.pos_embed"].shape[1] ** 0.5)
    num_audio_patches = published["audio.pos_embed"].shape[1]
    rows = round((num_audio_patches * 2 / 3) ** 0.5) if num_mel_bins is None else num_mel_bins // patch
    if side * side != published["image.pos_embed"].shape[1] or num_audio_patches % rows:
        raise ValueError(
            f"{published['image.pos_embed'].shape[1]} image and {num_audio_patches} audio positions make no square and no "
            f"grid of {rows} rows; give num_mel_bins."
        )
    layers = 1 + max(int(name.split(".")[2]) for name in published if name.startswith("image.blocks."))
    fused = sorted({int(name.split(".")[1]) for name in published if name.startswith("fusion_blocks.")})
    sizes = {}
    if fused:
        block = f"fusion_blocks.{fused[0]}"
        sizes["fusion_attention_ratio"] = published[f"{block}.attn.q.weight"].shape[0] / width
        sizes["fusion_mlp_ratio"] = published[f"{block}.mlp.fc1.weight"].shape[0] / width
        if f"{block}.attn.attn_v.q.weight" in published:
            sizes["fusion_type"] = "factorized"
        else:
            pairs = published[f"{block}.attn.kv.weight"].shape[1] == 2 * width
            sizes["fusion_type"] = "dense" if pairs else "token"
    if token_counts is None:
        token_counts = (num_tokens - 2 * (num_tokens // 4), num_tokens // 4, num_tokens // 4)
    if sum(token_counts) != num_tokens:
        raise ValueError(f"token_counts={token_counts} are {sum(token_counts)}, the weights hold {num_tokens} tokens.")
    return DeepAVFusionConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=num_attention_heads or max(width // 64, 1),
        intermediate_size=published["image.blocks.0.mlp.fc1.weight"].shape[0],
        image_size=side * patch,
        num_channels=projection.shape[1],
        patch_size=patch,
        num_mel_bins=rows * patch,
        audio_num_frames=num_audio_patches // rows * patch,
        audio_num_channels=audio_projection.shape[1],
        fusion_layers=None if len(fused) == layers else fused,
        num_fusion_tokens=token_counts[0],
        num_visual_aggregation_tokens=token_counts[1],
        num_audio_aggregation_tokens=token_counts[2],
        **sizes,
    )


__all__ = ["config_of_encoder", "encoder_to_ours", "task_to_ours", "vit_to_ours"]
