# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Converts the reference implementation's checkpoints, and the MAE and AudioMAE encoders that it starts from.

    python -m modeling_deepavfusion.convert_deepavfusion deepavfusion_vitb_vggsound.pth converted
    python -m modeling_deepavfusion.convert_deepavfusion mae_vitb.pth audiomae_vitb.pth start

Use files of your own: their licenses may forbid to pass the result on. A DeepAVFusion file becomes the model that it holds
(encoder, pre-training or classification, any size). One or two MAE files become a pre-training model with new fusion blocks
and decoders; a ViT that reads one channel is the one for audio.

[`deepavfusion_from_vit`] starts both branches from one vision transformer of the Hub. Every conversion is strict: it counts the
tensors that it loads and refuses a checkpoint that does not fill the model.
"""

import argparse
import json
import os
import pickle
import re
import secrets
import shutil
from pathlib import Path

import torch
from transformers.utils import logging

from modeling_maavt.backbone_maavt import read_backbone

from .configuration_deepavfusion import DeepAVFusionConfig
from .modeling_deepavfusion import DeepAVFusionModel, DeepAVFusionPreTrainedModel, resample_positions
from .pretraining_and_classification_deepavfusion import (
    DeepAVFusionForAudioVisualClassification,
    DeepAVFusionForPreTraining,
)


logger = logging.get_logger(__name__)

Weights = dict[str, torch.Tensor]

# ---- weights of the reference implementation as state dicts of this package


# patterns of its names, and the names here, applied in this order
RENAMES = (
    (r"^encoder\.", "deepavfusion."),
    # the two ViTs
    (r"\b(image|audio)\.pos_embed$", r"\1_embeddings.position_embeddings"),
    (r"\b(image|audio)\.patch_embed\.proj\.", r"\1_embeddings.projection."),
    (r"\b(image|audio)\.norm\.", r"\1_layernorm."),
    (r"\b(image|audio)\.blocks\.(\d+)\.", r"layers.\2.\1."),
    # tokens and fusion blocks
    (r"\bfusion_tokens$", "fusion_tokens.tokens"),
    (r"\bfusion_norm\.(weight|bias)$", r"fusion_layernorm.\1"),
    (r"\bfusion_blocks\.(\d+)\.", r"layers.\1.fusion."),
    (r"\.norm1_mm\.", ".layernorm_fusion."),
    (r"\.norm1_img\.", ".layernorm_image."),
    (r"\.norm1_aud\.", ".layernorm_audio."),
    (r"\.attn\.attn_v\.", ".attention.image_aggregation."),
    (r"\.attn\.attn_a\.", ".attention.audio_aggregation."),
    (r"\.fusion\.attn\.", ".fusion.attention.pairs."),
    # decoders and class heads
    (r"^(image|audio)_decoder_blocks\.(\d+)\.", r"\1_decoder.layers.\2."),
    (r"^(image|audio)_decoder_(embed\.|mask_token$)", r"\1_decoder.\2"),
    (r"^(image|audio)_decoder_pos_embed$", r"\1_decoder.position_embeddings"),
    (r"^(image|audio)_decoder_norm\.", r"\1_decoder.layernorm."),
    (r"^(image|audio)_decoder_pred\.", r"\1_decoder.predictor."),
    (r"^(image|audio|fusion)_head\.", r"\1_classifier."),
    (r"^(image|audio|fusion)_norm\.", r"\1_batchnorm."),
    # every block
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.", ".attention."),
    (r"\.proj\.(weight|bias)$", r".o_proj.\1"),
)
# token-only blocks form no pairs, and are called with image and audio exchanged: their norms act on the other modality
TOKEN_RENAMES = (
    (r"\.norm1_img\.", ".layernorm_audio."),
    (r"\.norm1_aud\.", ".layernorm_image."),
    (r"\bfusion_blocks\.(\d+)\.attn\.", r"layers.\1.fusion.attention."),
)
# which columns of a matrix over pairs are whose
PAIR_ORDER = {"dense": ("audio", "image"), "factorized": ("image", "audio")}

# what the encoder does not need of an MAE file: positions are computed, and there is no class token
MAE_DROPPED = ("cls_token", "pos_embed", "mask_token", "decoder_")


def reference_state_dict(weights: Weights, fusion_type: str) -> Weights:
    """Weights of the reference implementation (of an encoder, a pre-training model or a classifier) as a state dict of this package.

    Raises:
        KeyError: a name that the reference implementation does not have.
    """
    renames = RENAMES
    if fusion_type == "token":
        renames = TOKEN_RENAMES + RENAMES
    converted = {}
    for name, value in weights.items():
        new_name = name
        for pattern, replacement in renames:
            new_name = re.sub(pattern, replacement, new_name)
        if new_name == name:
            raise KeyError(f"{name!r} is no name of the reference implementation.")
        converted |= split_projections(new_name, value, fusion_type)
    return converted


def split_projections(name: str, value: torch.Tensor, fusion_type: str) -> Weights:
    """A fused matrix of queries, keys and values as one tensor each; those over pairs are split into their halves, too."""
    match = re.fullmatch(r"(.+)\.(qkv|kv|q|k|v)\.(weight|bias)", name)
    if match is None:
        return {name: value}
    module, letters, kind = match.groups()
    converted = {}
    for letter, matrix in zip(letters, value.chunk(len(letters)), strict=True):
        if letter == "q" or not module.endswith(".pairs"):
            converted[f"{module}.{letter}_proj.{kind}"] = matrix
        elif kind == "bias":
            # once for a pair: kept with the visual half
            converted[f"{module}.image_{letter}_proj.bias"] = matrix
        else:
            for modality, half in zip(PAIR_ORDER[fusion_type], matrix.chunk(2, dim=1), strict=True):
                converted[f"{module}.{modality}_{letter}_proj.weight"] = half
    return converted


# ---- configurations from the shapes of weights


def fusion_fields(weights: Weights, width: int) -> dict:
    """The fields of [`DeepAVFusionConfig`] that describe the fusion blocks; none without a block."""
    fused = sorted({int(name.split(".")[1]) for name in weights if name.startswith("fusion_blocks.")})
    if not fused:
        return {"fusion_layers": []}
    block = f"fusion_blocks.{fused[0]}"
    if f"{block}.attn.attn_v.q.weight" in weights:
        fusion_type = "factorized"
    elif weights[f"{block}.attn.kv.weight"].shape[1] == 2 * width:
        fusion_type = "dense"
    else:
        fusion_type = "token"
    return {
        "fusion_layers": fused,
        "fusion_type": fusion_type,
        "fusion_attention_ratio": weights[f"{block}.attn.q.weight"].shape[0] / width,
        "fusion_mlp_ratio": weights[f"{block}.mlp.fc1.weight"].shape[0] / width,
    }


def patch_grids(weights: Weights, patch: int, num_mel_bins: int | None) -> tuple[int, tuple[int, int]]:
    """Side of the frame's square grid, and (rows, columns) of the spectrogram's, in patches."""
    num_image_patches = weights["image.pos_embed"].shape[1]
    num_audio_patches = weights["audio.pos_embed"].shape[1]
    side = round(num_image_patches**0.5)
    rows = round((num_audio_patches * 2 / 3) ** 0.5)
    if num_mel_bins is not None:
        rows = num_mel_bins // patch
    if side * side != num_image_patches or num_audio_patches % rows:
        raise ValueError(
            f"{num_image_patches} image and {num_audio_patches} audio positions make no square and no grid of {rows} rows; "
            "give num_mel_bins."
        )
    return side, (rows, num_audio_patches // rows)


def config_from_weights(
    weights: Weights,
    num_attention_heads: int | None = None,
    token_counts: tuple[int, int, int] | None = None,
    num_mel_bins: int | None = None,
) -> DeepAVFusionConfig:
    """The configuration that the shapes of a reference encoder (names without prefix) tell.

    Args:
        num_attention_heads: heads leave no trace in the weights; D / 64 when absent.
        token_counts: fusion, visual and audio aggregation tokens; half, a quarter, a quarter of them when absent.
        num_mel_bins: height of the spectrogram; two thirds of its width when absent.

    Raises:
        ValueError: positions that make no grid, or token counts that contradict the weights.
    """
    # sizes of the ViTs
    _, num_tokens, width = weights["fusion_tokens"].shape
    projection = weights["image.patch_embed.proj.weight"]
    patch = projection.shape[-1]
    side, (rows, columns) = patch_grids(weights, patch, num_mel_bins)
    num_layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("image.blocks."))

    # fusion blocks and tokens
    fusion = fusion_fields(weights, width)
    if len(fusion["fusion_layers"]) == num_layers:
        fusion["fusion_layers"] = None
    if token_counts is None:
        token_counts = (num_tokens - 2 * (num_tokens // 4), num_tokens // 4, num_tokens // 4)
    if sum(token_counts) != num_tokens:
        raise ValueError(f"token_counts={token_counts} are {sum(token_counts)}, the weights hold {num_tokens} tokens.")
    return DeepAVFusionConfig(
        hidden_size=width,
        num_hidden_layers=num_layers,
        num_attention_heads=num_attention_heads or max(width // 64, 1),
        intermediate_size=weights["image.blocks.0.mlp.fc1.weight"].shape[0],
        image_size=side * patch,
        num_channels=projection.shape[1],
        patch_size=patch,
        num_mel_bins=rows * patch,
        audio_num_frames=columns * patch,
        audio_num_channels=weights["audio.patch_embed.proj.weight"].shape[1],
        num_fusion_tokens=token_counts[0],
        num_visual_aggregation_tokens=token_counts[1],
        num_audio_aggregation_tokens=token_counts[2],
        **fusion,
    )


def task_of(weights: Weights, config: DeepAVFusionConfig) -> type[DeepAVFusionPreTrainedModel]:
    """The class of a reference model; sets the fields of `config` that its decoders or heads tell."""
    # pre-training: heads leave no trace in the weights
    if "image_decoder_mask_token" in weights:
        width = weights["image_decoder_mask_token"].shape[-1]
        depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("image_decoder_blocks."))
        config.decoder_hidden_size, config.decoder_num_hidden_layers = width, depth
        config.decoder_num_attention_heads = max(width // 32, 1)
        config.decoder_intermediate_size = weights["image_decoder_blocks.0.mlp.fc1.weight"].shape[0]
        return DeepAVFusionForPreTraining
    # classification
    if "fusion_head.weight" in weights:
        config.num_labels = weights["fusion_head.weight"].shape[0]
        config.use_pooled_batchnorm = "fusion_norm.running_mean" in weights
        return DeepAVFusionForAudioVisualClassification
    if "encoder.fusion_tokens" in weights:
        raise KeyError(
            "only an encoder with a prefix and no head that is known here; save the encoder's weights alone."
        )
    return DeepAVFusionModel


# ---- files to models


def read_weights(path: str | os.PathLike) -> Weights:
    """Tensors by name; unpacks `model` or `state_dict`, strips `module.`.

    Raises:
        FileNotFoundError, ValueError: no such file, or one that holds more than tensors and plain values.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file; give the .pth file of a checkpoint.")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options of a training, in some files
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path}: not a checkpoint of tensors that can be read safely ({str(error).splitlines()[0]}); save its state "
            "dict alone and convert that."
        ) from error
    # the state dict, without the prefix of data-parallel training
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(torch.is_tensor(v) for v in content.values()):
        raise ValueError(f"{path}: expected tensors by name, or those under 'model' or 'state_dict'.")
    return {name.removeprefix("module."): value for name, value in content.items()}


def convert(
    files: list[str | os.PathLike],
    fields: dict | None = None,
    token_counts: tuple[int, int, int] | None = None,
    seed: int = 0,
) -> DeepAVFusionPreTrainedModel:
    """The model in one DeepAVFusion file, or on one or two MAE files; prints what is loaded, dropped and new.

    Args:
        files: paths.
        fields: of [`DeepAVFusionConfig`], over what the weights' shapes say.
        token_counts: fusion, visual and audio aggregation tokens, which the shapes do not tell apart.
        seed: of new weights.

    Raises:
        KeyError, RuntimeError: a name that is unknown or missing, or a shape that does not fit `fields`.
        ValueError: files that do not belong together.
    """
    # a DeepAVFusion or MAE encoders?
    torch.manual_seed(seed)
    weights_by_file = {str(path): read_weights(path) for path in files}
    whole_models = [
        path for path, weights in weights_by_file.items() if any("fusion_tokens" in name for name in weights)
    ]
    if not whole_models:
        return start_from_mae(weights_by_file, fields or {})
    if len(weights_by_file) > 1:
        raise ValueError(f"{whole_models[0]} is a whole DeepAVFusion; give it alone.")
    return from_reference(weights_by_file[whole_models[0]], fields or {}, token_counts)


def from_reference(
    weights: Weights, fields: dict, token_counts: tuple[int, int, int] | None = None
) -> DeepAVFusionPreTrainedModel:
    """A model of the reference implementation under its class here."""
    # configuration
    encoder = {name.removeprefix("encoder."): value for name, value in weights.items()}
    config = config_from_weights(encoder, fields.get("num_attention_heads"), token_counts, fields.get("num_mel_bins"))
    model_class = task_of(weights, config)
    config = DeepAVFusionConfig(**{**config.to_diff_dict(), **fields})

    # weights: all of them, into all of the model
    model = model_class(config)
    model.load_state_dict(reference_state_dict(weights, config.fusion_type))
    print(f"{model_class.__name__}, {config.fusion_type}: {len(weights)} tensors converted, nothing dropped")
    return model


def mae_fields(weights: Weights) -> dict:
    """The fields of [`DeepAVFusionConfig`] that the shapes of an MAE encoder tell."""
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    return {
        "hidden_size": width,
        "num_hidden_layers": len({name.split(".")[1] for name in weights if name.startswith("blocks.")}),
        "num_attention_heads": max(width // 64, 1),
        "intermediate_size": weights["blocks.0.mlp.fc1.weight"].shape[0],
        "patch_size": patch,
    }


def start_from_mae(weights_by_file: dict[str, Weights], fields: dict) -> DeepAVFusionForPreTraining:
    """A pre-training model whose ViTs are MAE encoders. Positions stay the computed ones."""
    converted, sizes, sources = {}, {}, {}
    for path, weights in weights_by_file.items():
        if "patch_embed.proj.weight" not in weights:
            raise KeyError(f"{path}: neither fusion_tokens nor patch_embed.proj.weight: no DeepAVFusion and no MAE.")
        # which branch, and whether it fits the other one
        modality = "image"
        if weights["patch_embed.proj.weight"].shape[1] == 1:
            modality = "audio"
        if modality in sources:
            raise ValueError(f"{path} and {sources[modality]} are both an {modality} encoder; give one of each.")
        sources[modality] = path
        if sizes not in ({}, mae_fields(weights)):
            raise ValueError(
                f"{path}: the two ViTs differ, {mae_fields(weights)} and {sizes}; DeepAVFusion needs equal ones."
            )
        sizes = mae_fields(weights)

        # its encoder
        kept = {name: value for name, value in weights.items() if not name.startswith(MAE_DROPPED)}
        branch = {f"{modality}.{name}": value for name, value in kept.items()}
        converted |= reference_state_dict(branch, "factorized")  # the type says nothing about a ViT
        dropped = sorted({name.split(".")[0] for name in weights if name not in kept})
        print(f"{path}: {len(kept)} tensors to the {modality} ViT; dropped: {', '.join(dropped) or 'nothing'}")

    model = DeepAVFusionForPreTraining(DeepAVFusionConfig(**{**sizes, **fields}))
    load_vits(model.deepavfusion, converted, set(sources), ", ".join(sources.values()), positions=False)
    absent = {"image", "audio"} - set(sources)
    print(f"new and untrained: fusion tokens, fusion blocks, decoders{''.join(f', {name} ViT' for name in absent)}")
    return model


def load_vits(
    encoder: DeepAVFusionModel, weights: Weights, modalities: set[str], source: str, positions: bool
) -> None:
    """Loads the ViTs of `modalities`, whole. Raises ValueError for a tensor that is missing or unknown."""
    missing, unexpected = encoder.load_state_dict(weights, strict=False)
    lost = []
    for name in missing:
        parts = name.split(".")
        of_vit = any(parts[0].startswith(f"{modality}_") or parts[2:3] == [modality] for modality in modalities)
        if of_vit and (positions or not name.endswith("position_embeddings")):
            lost.append(name)
    if lost or unexpected:
        raise ValueError(f"{source}: missing {sorted(lost)}, unknown {sorted(unexpected)}; give a whole plain ViT.")


# ---- one vision transformer of the Hub in both branches


def deepavfusion_from_vit(
    name_or_path: str | os.PathLike,
    model_class: type[DeepAVFusionPreTrainedModel] = DeepAVFusionModel,
    seed: int = 0,
    **fields,
) -> DeepAVFusionPreTrainedModel:
    """
    A new DeepAVFusion whose two ViTs both start as the one of a checkpoint (our addition: fusion on top of MA-AVT's shared
    backbone). Fusion blocks, tokens and heads are new.

    The audio ViT sees the spectrogram in each of the ViT's channels, as in MA-AVT. Learned positions are resampled to either
    patch grid (bicubic). The class token is dropped. Freeze the ViTs with [`deepavfusion_peft_config`].

    Args:
        name_or_path: a checkpoint of a family that MA-AVT takes as its backbone: ViT, DeiT, DINOv2, CLIP, ...
        model_class: any DeepAVFusion class.
        seed: of what is new.
        fields: of [`DeepAVFusionConfig`], over what the ViT says. Give the `image_size` of your frames: positions are then
            resampled once, from the learned ones.

    Raises:
        ValueError: another kind of model, weights that are missing in the checkpoint, fields that contradict the ViT's
            weights, or a ViT without biases in its attention.
    """
    # the ViT, and a configuration that fits it
    source = os.path.basename(name_or_path)
    vit, weights, _ = read_backbone(name_or_path, {})
    if not vit.qkv_bias:
        raise ValueError(f"{source}: qkv_bias is false; DeepAVFusion's attention has biases.")
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    sizes = {name: getattr(vit, name) for name in (*names, "layer_norm_eps", "pre_norm", "patch_size", "num_channels")}
    sizes["audio_num_channels"] = vit.num_channels
    wrong = sorted(name for name in set(fields) & set(sizes) if fields[name] != sizes[name])
    if wrong:
        raise ValueError(f"{wrong}: the ViT of {source} has other values; leave them out.")
    sizes["image_size"] = vit.image_size
    for name in ("num_mel_bins", "audio_num_frames"):
        # whole patches, where those of 14 pixels do not divide the default
        sizes[name] = getattr(DeepAVFusionConfig, name) // vit.patch_size * vit.patch_size
    config = DeepAVFusionConfig(**{**sizes, **fields})
    torch.manual_seed(seed)
    model = model_class(config)

    # the same weights in both branches
    weights.pop("embeddings.cls_token")
    positions = weights.pop("embeddings.position_embeddings")[:, 1:]  # without the class token
    sides = vit.image_size
    if isinstance(sides, int):
        sides = (sides, sides)
    trained_grid = tuple(side // vit.patch_size for side in sides)
    converted = {}
    for modality, grid in (("image", config.image_grid), ("audio", config.audio_grid)):
        converted[f"{modality}_embeddings.position_embeddings"] = resample_positions(positions, trained_grid, grid)
        for name, value in weights.items():
            converted[vit_name(name, modality)] = value
    load_vits(model.base_model, converted, {"image", "audio"}, source, positions=True)
    logger.info(
        f"{source}: {len(weights) + 1} tensors to each ViT; dropped: cls_token; new: fusion tokens, blocks, heads"
    )
    return model


def vit_name(name: str, modality: str) -> str:
    """A name of transformers' ViT in the branch of `modality`."""
    if name.startswith("layers."):
        _, index, rest = name.split(".", 2)
        return f"layers.{index}.{modality}.{rest}"
    # patch convolution, the norm before the blocks, the final LayerNorm
    return f"{modality}_{name.replace('patch_embeddings.', '')}"


# ---- command line


def save_whole(model: DeepAVFusionPreTrainedModel, output: str | os.PathLike) -> None:
    """Saves into a temporary folder and renames it, so that `output` is whole or absent.

    Raises:
        FileExistsError: `output` holds something already.
    """
    output = Path(output)
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty; give a new folder.")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{secrets.token_hex(6)}")
    temporary.mkdir()
    try:
        model.save_pretrained(temporary)
        temporary.replace(output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="one DeepAVFusion checkpoint, or one or two MAE checkpoints")
    parser.add_argument("output", help="new folder for the converted model")
    parser.add_argument(
        "--model_config", type=json.loads, default={}, help="JSON: fields of DeepAVFusionConfig to set"
    )
    parser.add_argument(
        "--tokens", type=int, nargs=3, help="fusion, visual, audio tokens where not half, quarter, quarter"
    )
    parser.add_argument("--seed", type=int, default=0, help="of new weights")
    arguments = parser.parse_args(argv)
    model = convert(arguments.files, arguments.model_config, arguments.tokens, arguments.seed)
    save_whole(model, arguments.output)
    print(f"saved: {arguments.output}, without a processor: DeepAVFusionProcessor().save_pretrained adds the paper's")


if __name__ == "__main__":
    main()
