# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Where MA-AVT's weights come from: a tuned checkpoint, a vision transformer that becomes the trunk, or an adapter on it.

Every family of [`BACKBONES`] is the same function as a plain ViT whose weights have other names. The conversion is exact,
counts what it loads, and refuses whatever it does not fill or does not know.
"""

import json
import os
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, ViTConfig
from transformers.utils import find_adapter_config_file, logging

from .configuration_maavt import MAAVTConfig


logger = logging.get_logger(__name__)

Weights = dict[str, torch.Tensor]

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
LABEL_FIELDS = ("num_labels", "id2label", "label2id")

# ---- Which vision transformers can be the backbone, by their model_type

# Parts of weight names, and the parts of a plain ViT's names that replace them, in this order.
DINOV2_NAMES = {"encoder.layer.": "layers.", ".norm1.": ".layernorm_before.", ".norm2.": ".layernorm_after."}
CLIP_NAMES = {
    "embeddings.class_embedding": "embeddings.cls_token",
    "embeddings.patch_embedding.": "embeddings.patch_embeddings.projection.",
    "embeddings.position_embedding.weight": "embeddings.position_embeddings",
    "pre_layrnorm.": "embeddings.pre_layernorm.",
    "encoder.layers.": "layers.",
    ".self_attn.out_proj.": ".attention.o_proj.",
    ".self_attn.": ".attention.",
    ".layer_norm1.": ".layernorm_before.",
    ".layer_norm2.": ".layernorm_after.",
    "post_layernorm.": "layernorm.",
}
# The class in Transformers, and its names.
BACKBONES = {
    "vit": ("ViTModel", {}),
    "deit": ("DeiTModel", {}),
    "dinov2": ("Dinov2Model", DINOV2_NAMES),
    "vit_mae": ("ViTMAEModel", {}),
    "vit_msn": ("ViTMSNModel", {}),
    "clip": ("CLIPVisionModel", CLIP_NAMES),
    "clip_vision_model": ("CLIPVisionModel", CLIP_NAMES),
}
# Weights that a plain ViT does not need.
DROPPED_WEIGHTS = ("pooler.", "embeddings.mask_token", "embeddings.distillation_token")

# Why others cannot: by the beginning of their model_type.
NO_CLASS_TOKEN = "it has no class token"
NOT_PLAIN = {
    "siglip": NO_CLASS_TOKEN,
    "ijepa": NO_CLASS_TOKEN,
    "dinov2_with_registers": "its register tokens and antialiased positions have no place in a plain ViT",
    "dinov3_vit": "its positions are rotations inside the attention, not rows that are added to the patches",
    "beit": "its positions are biases inside the attention",
    "data2vec-vision": "its positions are biases inside the attention",
    "swin": "its blocks attend within windows and merge patches",
}

# Fields of the family's config that a ViTConfig takes as they are, and those that a given config has to share.
COPIED_FIELDS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim", "hidden_act", "layer_norm_eps"),
    *("image_size", "patch_size", "num_channels", "qkv_bias", "initializer_range"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),
)
SHAPE_FIELDS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size", "intermediate_size"),
    *("hidden_act", "pre_norm"),
)


@contextmanager
def quiet_loading():
    """Hold back the loader's report of missing and unexpected weights where both are meant."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def find_checkpoint(name: str, hub_kwargs: dict[str, Any], *, config_is_given: bool) -> tuple[str, str | None, bool]:
    """
    What lies behind a folder or a name of the Hub. With a config given, a folder may hold weights alone.

    Returns:
        the checkpoint, the adapter on top of it (None where the name is a whole checkpoint), and whether the checkpoint
        is a backbone alone.

    Raises:
        ValueError: an adapter that does not name its checkpoint, or a checkpoint that is neither MA-AVT nor a backbone.
        OSError: a checkpoint that cannot be read; of an adapter's the message says which file names it.
    """
    checkpoint, adapter = name, None
    adapter_file = find_adapter_config_file(name, **hub_kwargs)
    weights = ("model.safetensors", "model.safetensors.index.json")
    if adapter_file is not None and not any(os.path.isfile(os.path.join(name, file)) for file in weights):
        with open(adapter_file, encoding="utf-8") as file:
            checkpoint, adapter = json.load(file).get("base_model_name_or_path"), name
        if checkpoint is None:
            raise ValueError(
                f"{adapter_file}: base_model_name_or_path is empty, so the backbone is unknown. Load the backbone "
                "yourself and give it to PeftModel.from_pretrained(base, adapter)."
            )
        hub_kwargs = of_backbone(hub_kwargs)
    try:
        fields, _ = PreTrainedConfig.get_config_dict(checkpoint, **hub_kwargs)
    except OSError as error:
        if adapter is None:
            raise
        raise OSError(
            f"{adapter_file}: base_model_name_or_path names the backbone {checkpoint!r}, which cannot be read ({error}). "
            "If it was moved, write its folder or Hub name there."
        ) from error
    # Weights alone, as `accelerator.save_model` writes them
    if not fields and not os.path.isfile(os.path.join(checkpoint, "config.json")):
        if not config_is_given:
            raise OSError(f"{checkpoint}: no config.json; give another folder, or the model's config as config=")
        return checkpoint, adapter, False
    is_backbone = fields.get("model_type") != MAAVTConfig.model_type
    if is_backbone:
        check_backbone(checkpoint, fields)
    return checkpoint, adapter, is_backbone


def of_backbone(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `from_pretrained` for the backbone of an adapter, whose revision and subfolder are its own."""
    return {name: value for name, value in kwargs.items() if name not in ("revision", "subfolder")}


def adapter_config(adapter: str, hub_kwargs: dict[str, Any]) -> MAAVTConfig:
    """The config beside an adapter: that of the model which it was trained in."""
    fields, _ = MAAVTConfig.get_config_dict(adapter, **hub_kwargs)
    if fields.get("model_type") != MAAVTConfig.model_type:
        raise ValueError(
            f"{adapter}: no config.json of a {MAAVTConfig.model_type!r} model beside the adapter. Save one there "
            "(model.config.save_pretrained) or give config=."
        )
    return MAAVTConfig.from_dict(fields)


# ---- A vision transformer of the Hub as a plain ViT


def check_backbone(name: str, fields: dict[str, Any]) -> None:
    """Raises ValueError, with the reason, unless a checkpoint whose config.json holds `fields` can be a backbone."""
    model_type = str(fields.get("model_type"))
    if model_type in BACKBONES and not fields.get("use_swiglu_ffn"):
        return
    reason = "it is no vision transformer that can be rewritten as a plain ViT"
    if fields.get("use_swiglu_ffn"):
        reason = "its MLPs are gated (SwiGLU)"
    for beginning, known_reason in NOT_PLAIN.items():
        if model_type.startswith(beginning):
            reason = known_reason
    raise ValueError(
        f"{name}: model_type {model_type!r} is not supported as a backbone: {reason}; give one of {', '.join(BACKBONES)}."
    )


def read_backbone(name: str, hub_kwargs: dict[str, Any]) -> tuple[ViTConfig, Weights, torch.dtype]:
    """
    A vision transformer of the Hub as a plain ViT that computes the same features. Pooler and head are left behind.

    Args:
        name: folder or Hub name of a checkpoint whose `model_type` is among [`BACKBONES`].
        hub_kwargs: arguments of `from_pretrained` that say where and how to fetch.

    Returns:
        its config (`pre_norm` is true where a LayerNorm precedes the blocks), its weights under `ViTModel`'s names, and
        the dtype of the checkpoint, although folded weights are float32.

    Raises:
        ValueError: another kind of model, or a checkpoint that lacks weights.
    """
    fields, _ = PreTrainedConfig.get_config_dict(name, **hub_kwargs)
    check_backbone(name, fields)
    class_name, names = BACKBONES[fields["model_type"]]
    with quiet_loading():  # what is left behind is meant
        model, report = getattr(transformers, class_name).from_pretrained(
            name, dtype="auto", output_loading_info=True, **hub_kwargs
        )
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(DROPPED_WEIGHTS))
    if missing:
        raise ValueError(f"{name}: the checkpoint lacks {len(missing)} weights ({missing[0]}, ...); give a whole one.")
    weights = plain_vit_weights(name, model.state_dict(), names)

    # The config: fields that all families share, and what the weights tell.
    config = ViTConfig(
        **{key: getattr(model.config, key) for key in COPIED_FIELDS if hasattr(model.config, key)},
        intermediate_size=len(weights["layers.0.mlp.fc1.weight"]),
        pre_norm="embeddings.pre_layernorm.weight" in weights,
    )
    return config, weights, model.dtype


def plain_vit_weights(source: str, state_dict: Weights, names: dict[str, str]) -> Weights:
    """The weights of a family under a plain ViT's names, without what such a ViT does not have."""
    # Names.
    weights = {}
    for name, value in state_dict.items():
        if name.startswith(DROPPED_WEIGHTS):
            continue
        for part, replacement in names.items():
            name = name.replace(part, replacement)
        weights[name] = value

    # Embeddings: one class token with the first position, and a bias of the patch convolution.
    width = len(weights["layernorm.weight"])
    positions = weights["embeddings.position_embeddings"].reshape(1, -1, width)
    if "embeddings.distillation_token" in state_dict:
        logger.warning(f"{source}: the distillation token is dropped; the backbone has its class token alone.")
        positions = torch.cat([positions[:, :1], positions[:, 2:]], dim=1)
    weights["embeddings.position_embeddings"] = positions  # (1, 1 + P, D)
    weights["embeddings.cls_token"] = weights["embeddings.cls_token"].reshape(1, 1, width)
    weights.setdefault("embeddings.patch_embeddings.projection.bias", torch.zeros_like(weights["layernorm.bias"]))

    # LayerScale multiplies what attention and MLP add to the states: so may the rows of their last matrices.
    for part, last in ((".layer_scale1.lambda1", ".attention.o_proj"), (".layer_scale2.lambda1", ".mlp.fc2")):
        for name in [name for name in weights if name.endswith(part)]:
            scale, layer = weights.pop(name).float(), name.removesuffix(part) + last
            weights[f"{layer}.weight"] = weights[f"{layer}.weight"].float() * scale[:, None]  # (D, inputs)
            weights[f"{layer}.bias"] = weights[f"{layer}.bias"].float() * scale
    return weights


# ---- The plain ViT as MA-AVT's trunk


def trunk_from_backbone(name: str, kwargs: dict[str, Any], hub_kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    Turn a vision transformer's checkpoint into MA-AVT's trunk; the class token becomes a token.

    Args:
        name, hub_kwargs: as for [`read_backbone`].
        kwargs: arguments of `from_pretrained`, fields of [`MAAVTConfig`] among them.

    Returns:
        the arguments of `from_pretrained` that build the model: `config`, `state_dict` and `dtype` with what was given.

    Raises:
        ValueError: as [`read_backbone`], or a given `config` that was made for another backbone.
    """
    kwargs = {key: value for key, value in kwargs.items() if key not in HUB_ARGUMENTS}
    dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None) or "auto"
    vision_config, vit_weights, stored_dtype = read_backbone(name, hub_kwargs)
    if dtype == "auto":
        dtype = stored_dtype

    # The config: a new one, or the given one if it fits.
    names = (*MAAVTConfig.__dataclass_fields__, *LABEL_FIELDS)
    fields = {key: kwargs.pop(key) for key in names if key in kwargs}
    config = kwargs.pop("config", None)
    if config is None:
        config = MAAVTConfig(vision_config=vision_config, **fields)
    else:
        for key, value in fields.items():
            setattr(config, key, value)
        check_same_shape(name, vision_config, config.vision_config)

    # The weights, under the trunk's names.
    weights = {}
    for key, value in vit_weights.items():
        if key.startswith("layers."):
            key = f"encoder.{key}"
        elif key == "embeddings.cls_token" and config.prompt_start_layer == 0:
            key = "prompt.cls_token"
        weights[key] = value
    return {**kwargs, "config": config, "state_dict": weights, "dtype": dtype}


def check_one_device(checkpoint: str | os.PathLike | None, model: torch.nn.Module) -> None:
    """Raises ValueError where `device_map` has put a model on several GPUs: its streams meet on one."""
    devices = {str(device) for device in getattr(model, "hf_device_map", {}).values()} - {"cpu", "disk"}
    if len(devices) > 1:
        raise ValueError(
            f"{checkpoint}: device_map spreads the model over the devices {', '.join(sorted(devices))}; it fits one, give "
            'device_map="cuda"'
        )


def check_whole_trunk(name: str, report: dict[str, Any]) -> None:
    """Raises ValueError where a weight of the trunk was not loaded, or one of the backbone had no place.

    Args:
        report: of `from_pretrained` with `output_loading_info=True`.
    """
    absent = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    trunk = ("embeddings.", "encoder.", "layernorm.", "prompt.cls_token")
    absent = [key for key in absent if key.removeprefix("maavt.").startswith(trunk)]
    if absent or report["unexpected_keys"]:
        raise ValueError(
            f"{name}: not loaded {sorted(absent)}, not used {sorted(report['unexpected_keys'])}; the checkpoint is no whole "
            "backbone of the kind that its config.json names."
        )


def check_same_shape(name: str, actual: PreTrainedConfig, expected: PreTrainedConfig) -> None:
    for key in SHAPE_FIELDS:
        stored, given = getattr(actual, key, False), getattr(expected, key, False)
        if stored != given:
            raise ValueError(
                f"{name}: the checkpoint's {key} is {stored}, config.vision_config.{key} is {given}; give the backbone that "
                "this config was made for."
            )


__all__ = [
    "HUB_ARGUMENTS",
    "adapter_config",
    "check_whole_trunk",
    "find_checkpoint",
    "of_backbone",
    "quiet_loading",
    "read_backbone",
    "trunk_from_backbone",
]
