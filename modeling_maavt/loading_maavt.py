# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Where MA-AVT's weights come from: a tuned checkpoint, a stock ViT, or an adapter on a stock ViT."""

import json
import os
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, ViTModel
from transformers.utils import find_adapter_config_file, logging

from .configuration_maavt import MAAVTConfig


logger = logging.get_logger(__name__)

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


@contextmanager
def quiet_loading():
    """Hold back the loader's report of missing and unexpected weights where both are meant."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


class MAAVTCheckpointLoading(PreTrainedModel):
    """`from_pretrained` for all of MA-AVT's models; `has_head` says whether the trunk lies behind a prefix."""

    has_head = False

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """
        Load a tuned MA-AVT checkpoint, a stock ViT checkpoint (a new MA-AVT on top of it), or an exported adapter.

        Any [`MAAVTConfig`] field may be given beside the arguments of Transformers: with a stock ViT they describe the
        new model, e.g. `from_pretrained("google/vit-base-patch16-224-in21k", num_labels=28, contrastive="last")`. The
        backbone is frozen as `config.freeze_backbone` says; what is trained stays in float32 whatever the `dtype`.

        Raises:
            ValueError: a checkpoint that is neither MA-AVT nor a ViT, an adapter without a readable `config.json`, or a
                `config` whose `vision_config` does not fit the checkpoint.
        """
        adapter_kwargs = dict(kwargs.pop("adapter_kwargs", None) or {})
        adapter = adapter_kwargs.pop("_adapter_model_path", None)  # where the Auto classes have found one
        hub_kwargs = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        backbone = pretrained_model_name_or_path
        if backbone is not None and kwargs.get("state_dict") is None:
            backbone, found = cls._resolve_adapter(backbone, hub_kwargs)
            adapter = found or adapter
            if found is not None and not isinstance(kwargs.get("config"), PreTrainedConfig):
                kwargs["config"] = cls._adapter_config(found, hub_kwargs)
        if backbone is None or kwargs.get("state_dict") is not None:
            loaded = super().from_pretrained(backbone, *model_args, **kwargs)
        elif cls._model_type(backbone, hub_kwargs) == "vit":
            loaded = cls._from_stock_vit(backbone, hub_kwargs, *model_args, **kwargs)
            if adapter is None:
                names = ", ".join((loaded[0] if isinstance(loaded, tuple) else loaded).trainable_modules())
                logger.warning(
                    f"{backbone} is a stock ViT; new and untrained on top of it: {names}. Train before use."
                )
        else:
            loaded = super().from_pretrained(backbone, *model_args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        # tensors that were not in the checkpoint come in the dtype asked for: optimizers need float32
        for module in model.trainable_modules().values():
            module.to(torch.float32)
        if model.config.freeze_backbone:
            model.freeze_backbone()
        if adapter is not None:
            model.load_adapter(adapter, adapter_kwargs={**hub_kwargs, **adapter_kwargs})
        return loaded

    @classmethod
    def _model_type(cls, name: str, hub_kwargs: dict[str, Any]) -> str | None:
        return PreTrainedConfig.get_config_dict(name, **hub_kwargs)[0].get("model_type")

    @classmethod
    def _resolve_adapter(cls, name: str, hub_kwargs: dict[str, Any]) -> tuple[str, str | None]:
        """The base checkpoint and the adapter behind a name; no adapter where the name is a whole checkpoint."""
        adapter_config = find_adapter_config_file(name, **hub_kwargs)
        weights = ("model.safetensors", "model.safetensors.index.json")
        if adapter_config is None or any(os.path.isfile(os.path.join(name, file)) for file in weights):
            return name, None
        with open(adapter_config, encoding="utf-8") as file:
            base = json.load(file).get("base_model_name_or_path")
        if base is None:
            raise ValueError(
                f"{adapter_config}: base_model_name_or_path is empty, so the backbone is unknown. Load the backbone "
                "yourself and give it to PeftModel.from_pretrained(base, adapter)."
            )
        return base, name

    @classmethod
    def _adapter_config(cls, adapter: str, hub_kwargs: dict[str, Any]) -> MAAVTConfig:
        values, _ = MAAVTConfig.get_config_dict(adapter, **hub_kwargs)
        if values.get("model_type") != MAAVTConfig.model_type:
            raise ValueError(
                f"{adapter}: no config.json of a {MAAVTConfig.model_type!r} model beside the adapter. Save one there "
                "(model.config.save_pretrained) or give config=."
            )
        return MAAVTConfig.from_dict(values)

    @classmethod
    def _from_stock_vit(cls, name: str, hub_kwargs: dict[str, Any], *model_args, config=None, **kwargs):
        """Fill the trunk from `ViTModel.from_pretrained`: class token copied, pooler and head left behind."""
        dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
        with quiet_loading():  # its head is left behind on purpose
            stock = ViTModel.from_pretrained(name, add_pooling_layer=False, dtype=dtype or "auto", **hub_kwargs)
        # neither the classes of its pre-training nor where it lay belong into what is saved later
        stock.config.num_labels, stock.config._name_or_path = 2, ""
        fields = {key: kwargs.pop(key) for key in list(kwargs) if key in MAAVTConfig.__dataclass_fields__}
        fields |= {key: kwargs.pop(key) for key in ("num_labels", "id2label", "label2id") if key in kwargs}
        if config is None:
            config = MAAVTConfig(vision_config=stock.config, **fields)
        else:
            for key, value in fields.items():
                setattr(config, key, value)
            for key in ("hidden_size", "num_hidden_layers", "image_size", "patch_size", "intermediate_size"):
                have, want = getattr(stock.config, key), getattr(config.vision_config, key)
                if have != want:
                    raise ValueError(
                        f"{name}: the checkpoint's {key} is {have}, config.vision_config.{key} is {want}; give the "
                        "backbone that this config was made for."
                    )
        prefix = f"{cls.base_model_prefix}." if cls.has_head else ""
        renamed = {"embeddings.cls_token": "prompt.cls_token"} if config.prompt_start_layer == 0 else {}
        weights = {}
        for key, value in stock.state_dict().items():
            key = renamed.get(key, f"encoder.{key}" if key.startswith("layers.") else key)
            weights[prefix + key] = value
        # the hub arguments have done their work, and there is no file left to fetch
        kwargs = {key: value for key, value in kwargs.items() if key not in HUB_ARGUMENTS}
        with quiet_loading():
            loaded = super().from_pretrained(
                None, *model_args, config=config, state_dict=weights, dtype=stock.dtype, **kwargs
            )
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.name_or_path = model.config._name_or_path = str(name)  # PEFT records it as base_model_name_or_path
        return loaded


__all__ = ["MAAVTCheckpointLoading"]
