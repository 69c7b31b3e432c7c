# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""PEFT around a frozen MA-AVT backbone: what is trained, the check that all of it is saved, and the export for inference."""

import copy
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from transformers.dynamic_module_utils import custom_object_save

from .modeling_maavt import TRAINED_MODULES, MAAVTPreTrainedModel


if TYPE_CHECKING:  # import PEFT lazily: it takes longer to import than the rest of this package
    from peft import LoraConfig, PeftModel

TRAINING_ONLY_MODULES = ("contrastive_head", "token_attention")
HEADS_OF_TASKS = {"classifier", "score", "qa_outputs"}  # PEFT adds these to modules_to_save for a task_type
# What PEFT saves of the backbone's biases, by the field `bias` of its configuration.
SAVED_BIASES = {"none": (), "all": ("bias",), "lora_only": ("base_layer.bias",)}
LORA_TARGETS = r"(.*\.)?encoder\.layers\.\d+\.attention\.(q|v)_proj"


def maavt_peft_config(
    model: MAAVTPreTrainedModel, lora_rank: int = 0, modules: Iterable[str] | None = None, **kwargs
) -> "LoraConfig":
    """
    The PEFT configuration that trains MA-AVT's modules on a frozen backbone, with LoRA on top if asked for.

    Args:
        model: a MA-AVT model, not yet wrapped.
        lora_rank: rank of LoRA on the query and value projections of every block; 0 for none.
        modules: names out of `model.trainable_modules()` to train; all of them by default. Baselines train fewer.
        kwargs: further `LoraConfig` fields, such as `lora_alpha` (default: twice the rank) or `target_modules`.

    Raises:
        ValueError: a negative rank, LoRA fields without a rank, or a module that the model does not have.
    """
    from peft import LoraConfig
    from peft.utils.constants import DUMMY_TARGET_MODULES

    # What is trained beside the backbone.
    trained = list(model.trainable_modules())
    if modules is not None:
        if unknown := sorted(set(modules) - set(trained)):
            raise ValueError(f"modules: this model has no {unknown} to train; it has {trained}.")
        trained = list(modules)
    if lora_rank < 0:
        raise ValueError(f"lora_rank={lora_rank} is negative; give 0 (no LoRA) or more.")
    # Without LoRA no layer is adapted: PEFT only trains and saves the modules.
    if lora_rank == 0:
        if kwargs:
            raise ValueError(f"{sorted(kwargs)} configure LoRA, but lora_rank=0; give a rank or leave them out.")
        return LoraConfig(target_modules=DUMMY_TARGET_MODULES, modules_to_save=trained)
    return LoraConfig(
        **{
            "r": lora_rank,
            "lora_alpha": 2 * lora_rank,
            "target_modules": LORA_TARGETS,
            "modules_to_save": trained,
            **kwargs,
        }
    )


def check_trainable(model: torch.nn.Module) -> dict[str, int]:
    """
    Count what will be trained, and refuse a tensor that would be trained but not saved, or saved but not trained.

    PEFT ignores a misspelled name in `modules_to_save`, and does not save a parameter that was unfrozen by hand. New modules
    on a plain ViT that no adapter saves are named in a warning.

    Args:
        model: a `PeftModel` around MA-AVT, or a plain MA-AVT model (full tuning, linear probe), of which all is saved.

    Returns:
        trainable parameters by module (`"backbone"`, `"lora"`, `"prompt"`, ...), and their `"total"`.

    Raises:
        ValueError: naming the tensors or modules.
    """
    from peft import PeftModel

    # Count by module, and note what would not be saved.
    counts: dict[str, int] = {}
    unsaved = []
    wrapped = isinstance(model, PeftModel)
    tuner = getattr(getattr(model, "base_model", None), "prefix", "lora_")  # "ia3_", "vera_lambda_", ...
    bias = "none"
    if wrapped:
        bias = getattr(model.active_peft_config, "bias", "none")
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        parts = name.split(".")
        module = next((part for part in parts if part in TRAINED_MODULES), None)
        if tuner in name:
            module = tuner.strip("_")
        elif wrapped and name.endswith(SAVED_BIASES.get(bias, ("base_layer.bias",))):
            module = "bias"
        elif wrapped and (module is None or "modules_to_save" not in parts):
            unsaved.append(name)
        module = module or "backbone"
        counts[module] = counts.get(module, 0) + parameter.numel()
    if unsaved:
        raise ValueError(
            f"These tensors would be trained but not saved with the adapter: {unsaved[:5]} ({len(unsaved)} in all). Name "
            "their module in modules_to_save (see maavt_peft_config) or freeze them."
        )
    # A name of `modules_to_save` that matches nothing is a misspelled one.
    if wrapped:
        model.get_base_model().warn_of_lost_modules()
        wanted = set(model.active_peft_config.modules_to_save or ())
        if model.active_peft_config.task_type is not None:
            wanted -= HEADS_OF_TASKS
        if idle := sorted(wanted - set(counts)):
            raise ValueError(
                f"modules_to_save names {idle}, which match no trainable module; remove them or correct the names."
            )
    if not counts:
        raise ValueError("Nothing is trainable; wrap the model with get_peft_model(model, maavt_peft_config(model)).")
    return {**counts, "total": sum(counts.values())}


def trains_prompt(peft_model: "PeftModel") -> bool:
    """Whether the learned tokens are among the active adapter's `modules_to_save`."""
    prompt = peft_model.get_base_model().trunk.prompt
    return peft_model.active_adapter in getattr(prompt, "modules_to_save", ())


def folded_state_dict(peft_model: "PeftModel") -> dict[str, torch.Tensor]:
    """
    The adapter's tensors without contrastive projections, with token self-attention folded into the tokens (section 2).

    The tokens are among them even where the adapter does not train them: those of the base are not folded.
    """
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(peft_model, adapter_name=peft_model.active_adapter)
    trunk = peft_model.get_base_model().trunk
    if not trains_prompt(peft_model):
        prefix = next(name for name, module in peft_model.named_modules() if module is trunk.prompt)
        prompt = getattr(trunk.prompt, "original_module", trunk.prompt)  # another adapter may have wrapped it
        state |= {f"{prefix}.{name}": value for name, value in prompt.state_dict().items()}
    with torch.no_grad():
        tokens = trunk.prompt()
        if trunk.token_attention is not None:
            tokens = trunk.token_attention(tokens)
    folded = {}
    for name, value in state.items():
        if set(name.split(".")) & set(TRAINING_ONLY_MODULES):
            continue
        if name.endswith("prompt.needs_self_attention"):
            value = torch.zeros_like(value)
        elif name.endswith("_tokens"):
            kind = name.rpartition("prompt.")[2].removesuffix("_tokens")
            sets = getattr(tokens, kind)  # (K, n, D)
            # "common" and evolving tokens are stored as one set.
            value = (sets if value.ndim == 3 else sets[0]).to(value.dtype)
        folded[name] = value.detach().cpu().clone().contiguous()
    return folded


def export_adapter(peft_model: "PeftModel", directory: str | os.PathLike, processor=None) -> Path:
    """
    Write the adapter that inference needs: contrastive projections dropped, token self-attention folded into the tokens.

    The tokens are written even where `modules_to_save` leaves them to the base, whose tokens are not folded.
    The folder holds `adapter_model.safetensors`, `adapter_config.json` and a `config.json` that says so
    (`token_self_attention` false, `contrastive` null). On a base built from that config logits are those of `peft_model`.
    The model itself is not changed. Files are written under a temporary name and renamed when whole.

    Args:
        peft_model: a `PeftModel` around MA-AVT.
        directory: created if absent.
        processor: saved beside the adapter when given.

    Returns:
        the directory.

    Raises:
        TypeError: `peft_model` is not a `PeftModel`.
        ValueError: the base model has no name, so that nobody could load the adapter.
    """
    from peft import PeftModel

    if not isinstance(peft_model, PeftModel):
        raise TypeError(
            f"export_adapter takes a PeftModel, got {type(peft_model).__name__}; merged models are saved whole."
        )
    model = peft_model.get_base_model()
    peft_config = copy.deepcopy(peft_model.active_peft_config)
    if not peft_config.base_model_name_or_path:
        raise ValueError(
            "base_model_name_or_path is empty: this model was built from a config, not loaded from a checkpoint. Save it "
            "with save_pretrained, load it from there, and train that."
        )

    # What is saved, and a config that says so.
    kept = [name for name in peft_config.modules_to_save or () if name not in TRAINING_ONLY_MODULES]
    if not trains_prompt(peft_model):
        kept.append("prompt")
    peft_config.modules_to_save, peft_config.inference_mode = kept, True
    # For AutoPeftModel, by a name that every machine knows.
    peft_config.auto_mapping = {
        "base_model_class": "AutoModelForVideoClassification",
        "parent_library": "transformers",
    }
    config = copy.deepcopy(model.config)
    config.token_self_attention, config.contrastive = False, None
    config.architectures = [type(model).__name__]

    state = folded_state_dict(peft_model)

    # Write under a temporary name, and rename what is whole.
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as unfinished:
        save_file(state, os.path.join(unfinished, "adapter_model.safetensors"), metadata={"format": "pt"})
        peft_config.save_pretrained(unfinished)
        custom_object_save(model, unfinished, config=config)  # for trust_remote_code=True
        model.name_code(config)
        config.save_pretrained(unfinished)
        if processor is not None:
            processor.save_pretrained(unfinished)
        for file in sorted(os.listdir(unfinished)):
            os.replace(os.path.join(unfinished, file), directory / file)
    return directory


__all__ = ["check_trainable", "export_adapter", "maavt_peft_config"]
