# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Builds the network of a run and decides what of it is trained."""

import logging
import warnings
from dataclasses import fields

import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedConfig

from modeling_maavt import MAAVTConfig, MAAVTForAudioVisualClassification, check_trainable, maavt_peft_config

from .arguments import ModelArguments, Recipe, backbone_config, unreachable


logger = logging.getLogger(__name__)

# A model that is given one modality has no pair to compare: what needs both is switched off.
SINGLE_MODALITY = {
    "background_mining": False,
    "in_batch_mismatches": 0,
    "contrastive": None,
    "lavish_config": None,
}
NO_TOKENS = {
    "num_audio_tokens": 0,
    "num_visual_tokens": 0,
    "num_shared_tokens": 0,
    "token_self_attention": False,
    **SINGLE_MODALITY,
}
# Fields of a configuration on which weights depend.
WEIGHT_FIELDS = {
    *("vision_config", "num_audio_tokens", "num_visual_tokens", "num_shared_tokens", "layerwise_tokens"),
    *("prompt_start_layer", "token_self_attention", "token_attention_heads", "contrastive", "contrastive_dim"),
    *("background_mining", "match_head", "match_dim", "match_grid", "match_class_agreement", "lavish_config"),
}
# The baselines: what they change in the model, whatever `model_config` says, and the modules that they train.
BASELINE_CONFIGS = {"linear_probe": NO_TOKENS, "lora": NO_TOKENS, "lavish": {**NO_TOKENS, "lavish_config": {}}}
TRAINED = {
    "adapter": None,
    "lora": ("classifier",),
    "lavish": ("lavish_adapters", "classifier"),
}  # None: all there are


def config_changes(recipe: Recipe, multi_label: bool) -> dict:
    """Fields of `MAAVTConfig` that this run sets. Raises ValueError for a field that does not exist."""
    known = {f.name for f in fields(MAAVTConfig)}
    tuning = recipe.model.tuning
    changes = dict(recipe.model.model_config or {})
    if unknown := sorted(set(changes) - known):
        raise ValueError(f"model_config: unknown fields {unknown}; see the docstring of MAAVTConfig")
    changes.update(BASELINE_CONFIGS.get(tuning, {}))
    if not recipe.both_modalities:
        changes.update(SINGLE_MODALITY)
    changes["freeze_backbone"] = tuning != "full"
    changes["modalities"] = list(recipe.data.modalities)
    if multi_label:
        changes["problem_type"] = "multi_label_classification"
    return changes


def build_model(recipe: Recipe, label_names: list[str], multi_label: bool = False) -> nn.Module:
    """The model of a run, with what is trained (and nothing else) requiring gradients.

    Clips with several labels (`multi_label`) are trained by binary cross-entropy.
    Returns a `PeftModel` for `tuning: adapter`, `lora` and `lavish`, else a plain `MAAVTForAudioVisualClassification`.
    """
    arguments = recipe.model
    if recipe.run.evaluate_only:
        check_classes(arguments, label_names)
        check_modalities(recipe)
    torch.manual_seed(recipe.run.seed)
    changes = config_changes(recipe, multi_label)
    if recipe.run.evaluate_only:
        changes = without_changes_of_weights(changes, backbone_config(arguments), recipe.both_modalities)
    try:
        model = MAAVTForAudioVisualClassification.from_pretrained(
            arguments.model_name_or_path,
            revision=arguments.revision or "main",
            id2label=dict(enumerate(label_names)),
            label2id={name: i for i, name in enumerate(label_names)},
            ignore_mismatched_sizes=True,
            dtype=getattr(torch, arguments.backbone_dtype),
            attn_implementation=arguments.attn_implementation,
            **changes,
        )
    except OSError as error:
        raise unreachable(arguments) from error
    # Freeze what the tuning does not train.
    if arguments.tuning == "linear_probe":
        model.requires_grad_(False)
        model.classifier.requires_grad_(True)
    if arguments.tuning in TRAINED:
        config = maavt_peft_config(model, arguments.lora_rank, modules=TRAINED[arguments.tuning])
        with warnings.catch_warnings():
            # PEFT 0.21 asks for a name that Transformers 5.24 has deprecated; a user can do nothing about it.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            model = get_peft_model(model, config)
        check_trainable(model)
    trained, total = parameter_counts(model)
    logger.info("Training changes %s of %s parameters (%.2f %%).", f"{trained:,}", f"{total:,}", 100 * trained / total)
    return model


def without_changes_of_weights(changes: dict, config: PreTrainedConfig, both_modalities: bool) -> dict:
    """The changes that leave a checkpoint's weights as they are; a warning names the others.

    A field that would add or drop weights, such as a number of tokens, would measure another model than the checkpoint.
    What needs both modalities may be dropped where one is measured.
    """
    kept = {}
    for name, value in changes.items():
        allowed = name not in WEIGHT_FIELDS or (not both_modalities and name in SINGLE_MODALITY)
        if allowed or value == getattr(config, name):
            kept[name] = value
        else:
            logger.warning(
                "evaluate_only: %s stays %r, as in the checkpoint; the recipe has %r",
                name,
                getattr(config, name),
                value,
            )
    return kept


def check_modalities(recipe: Recipe) -> None:
    """Raises ValueError where a checkpoint is to be measured on a modality that it was not trained on."""
    trained = backbone_config(recipe.model).modalities
    if unknown := sorted(set(recipe.data.modalities) - set(trained)):
        raise ValueError(
            f"evaluate_only: {recipe.model.model_name_or_path} was not trained on {' and '.join(unknown)}; give "
            f"--modalities {' '.join(trained)}"
        )


def check_classes(arguments: ModelArguments, label_names: list[str]) -> None:
    """Raises ValueError where a checkpoint that is to be measured was not trained on the classes of the data."""
    config = backbone_config(arguments)
    known = [config.id2label[i] for i in range(config.num_labels)]
    if config.model_type != MAAVTConfig.model_type or known != label_names:
        raise ValueError(
            f"evaluate_only: {arguments.model_name_or_path} is a {config.model_type} model of {len(known)} classes "
            f"({', '.join(known[:3])}, ...), the data has {len(label_names)} ({', '.join(label_names[:3])}, ...); give a "
            "maavt checkpoint of these classes"
        )


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """Trained and all parameters. PEFT keeps an untouched copy of what it trains; the copy is not counted."""
    kept = [(n, p) for n, p in model.named_parameters() if ".original_module." not in n]
    return sum(p.numel() for _, p in kept if p.requires_grad), sum(p.numel() for _, p in kept)


def merged_model(model: nn.Module) -> MAAVTForAudioVisualClassification:
    """The plain model inside, with adapter weights merged: what `save_pretrained` writes for AutoModel."""
    return model.merge_and_unload() if isinstance(model, PeftModel) else model
