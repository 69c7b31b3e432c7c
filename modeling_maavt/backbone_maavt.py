# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Where MA-AVT's weights come from: a tuned checkpoint, a plain ViT that becomes the trunk, or an adapter on top of it."""

import json
import os
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedConfig, ViTModel
from transformers.utils import find_adapter_config_file, logging

from .configuration_maavt import MAAVTConfig


HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
LABEL_FIELDS = ("num_labels", "id2label", "label2id")
SHAPE_FIELDS = ("hidden_size", "num_hidden_layers", "image_size", "patch_size", "intermediate_size")


@contextmanager
def quiet_loading():
    """Hold back the loader's report of missing and unexpected weights where both are meant."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def find_checkpoint(name: str, hub_kwargs: dict[str, Any]) -> tuple[str, str | None, bool]:
    """
    What lies behind a folder or a name of the Hub.

    Returns:
        the checkpoint, the adapter on top of it (None where the name is a whole checkpoint), and whether the checkpoint
        is a plain ViT.

    Raises:
        ValueError: an adapter that does not name its checkpoint.
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
    fields, _ = PreTrainedConfig.get_config_dict(checkpoint, **hub_kwargs)
    return checkpoint, adapter, fields.get("model_type") == "vit"


def adapter_config(adapter: str, hub_kwargs: dict[str, Any]) -> MAAVTConfig:
    """The config beside an adapter: that of the model which it was trained in."""
    fields, _ = MAAVTConfig.get_config_dict(adapter, **hub_kwargs)
    if fields.get("model_type") != MAAVTConfig.model_type:
        raise ValueError(
            f"{adapter}: no config.json of a {MAAVTConfig.model_type!r} model beside the adapter. Save one there "
            "(model.config.save_pretrained) or give config=."
        )
    return MAAVTConfig.from_dict(fields)


def trunk_from_vit(name: str, kwargs: dict[str, Any], hub_kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    Turn a plain ViT checkpoint into MA-AVT's trunk. Pooler and head are left behind; the class token becomes a token.

    Args:
        name: folder or Hub name of a checkpoint whose `model_type` is `"vit"`.
        kwargs: arguments of `from_pretrained`, fields of [`MAAVTConfig`] among them.
        hub_kwargs: those that say where and how to fetch.

    Returns:
        the arguments of `from_pretrained` that build the model: `config`, `state_dict` and `dtype` with what was given.

    Raises:
        ValueError: a given `config` that was made for another backbone.
    """
    kwargs = {key: value for key, value in kwargs.items() if key not in HUB_ARGUMENTS}
    dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None) or "auto"
    with quiet_loading():  # the head is left behind on purpose
        vit = ViTModel.from_pretrained(name, add_pooling_layer=False, dtype=dtype, **hub_kwargs)
    # Neither the classes of its pre-training nor its place belong into what is saved later.
    vit.config.num_labels, vit.config._name_or_path = 2, ""

    # The config: a new one, or the given one if it fits.
    names = (*MAAVTConfig.__dataclass_fields__, *LABEL_FIELDS)
    fields = {key: kwargs.pop(key) for key in names if key in kwargs}
    config = kwargs.pop("config", None)
    if config is None:
        config = MAAVTConfig(vision_config=vit.config, **fields)
    else:
        for key, value in fields.items():
            setattr(config, key, value)
        check_same_shape(name, vit.config, config.vision_config)

    # The weights, under the trunk's names.
    weights = {}
    for key, value in vit.state_dict().items():
        if key.startswith("layers."):
            key = f"encoder.{key}"
        elif key == "embeddings.cls_token" and config.prompt_start_layer == 0:
            key = "prompt.cls_token"
        weights[key] = value
    return {**kwargs, "config": config, "state_dict": weights, "dtype": vit.dtype}


def check_same_shape(name: str, actual: PreTrainedConfig, expected: PreTrainedConfig) -> None:
    for key in SHAPE_FIELDS:
        if getattr(actual, key) != getattr(expected, key):
            raise ValueError(
                f"{name}: the checkpoint's {key} is {getattr(actual, key)}, config.vision_config.{key} is "
                f"{getattr(expected, key)}; give the backbone that this config was made for."
            )


__all__ = ["HUB_ARGUMENTS", "adapter_config", "find_checkpoint", "quiet_loading", "trunk_from_vit"]
