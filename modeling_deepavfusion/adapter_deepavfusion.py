# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""PEFT around DeepAVFusion: LoRA on both ViTs, fusion blocks and tokens trained whole (docs/deepavfusion.md, section 7)."""

from typing import TYPE_CHECKING

from .modeling_deepavfusion import DeepAVFusionPreTrainedModel


# PEFT takes longer to import than the rest of this package
if TYPE_CHECKING:
    from peft import LoraConfig

LORA_TARGETS = r"(.*\.)?layers\.\d+\.(image|audio)\.attention\.(q|v)_proj"


def fusion_modules(model: DeepAVFusionPreTrainedModel) -> list[str]:
    """Names of all modules outside the ViTs: fusion tokens, blocks and their final LayerNorm, and heads or decoders."""
    # whole paths: PEFT compares the ends of names, and "deepavfusion" ends like "fusion"
    blocks = [f"layers.{index}.fusion" for index in model.config.fused_layers]
    heads = []
    if model.base_model is not model:
        heads = [name for name, _ in model.named_children() if name != model.base_model_prefix]
    return ["fusion_tokens", *blocks, "fusion_layernorm", *heads]


def deepavfusion_peft_config(model: DeepAVFusionPreTrainedModel, lora_rank: int = 0, **kwargs) -> "LoraConfig":
    """
    The PEFT configuration that trains fusion blocks, tokens and heads on two frozen ViTs, optionally with LoRA in these.

    Args:
        model: any DeepAVFusion model, not yet wrapped.
        lora_rank: rank of LoRA on the query and value projections of every ViT block; 0 for none.
        kwargs: further `LoraConfig` fields, such as `lora_alpha` (default: twice the rank) or `target_modules`.

    Raises:
        ValueError: a negative rank, or LoRA fields without a rank.
    """
    from peft import LoraConfig
    from peft.utils.constants import DUMMY_TARGET_MODULES

    if lora_rank < 0:
        raise ValueError(f"lora_rank={lora_rank} is negative; give 0 (no LoRA) or more.")
    fields = {"modules_to_save": fusion_modules(model)}
    if lora_rank == 0:
        # only the modules above are trained
        if kwargs:
            raise ValueError(f"{sorted(kwargs)} configure LoRA, but lora_rank=0; give a rank or leave them out.")
        return LoraConfig(target_modules=DUMMY_TARGET_MODULES, **fields)
    fields |= {"r": lora_rank, "lora_alpha": 2 * lora_rank, "target_modules": LORA_TARGETS}
    return LoraConfig(**{**fields, **kwargs})


__all__ = ["deepavfusion_peft_config", "fusion_modules"]
