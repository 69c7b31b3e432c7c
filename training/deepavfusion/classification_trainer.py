# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Optimizers of DeepAVFusion's classification: layer-wise rates for fine-tuning, LARS or SGD for the linear probe."""

import torch
from torch import nn

from training.trainer.audio_visual_trainer import AudioVisualTrainer
from training.trainer.lars import LARS


OPTIMIZERS = ("adamw", "lars", "sgd")


def layer_of(name: str, num_layers: int) -> int:
    """Where a parameter of a DeepAVFusion task model stands: 0 embeddings and fusion tokens, l + 1 layer l with its fusion
    block, L + 1 final norms and heads: 14 groups for 12 layers."""
    inside = name.removeprefix("module.").removeprefix("deepavfusion.")
    if inside.startswith(("image_embeddings.", "audio_embeddings.", "fusion_tokens.")):
        return 0
    if inside.startswith("layers."):
        return int(inside.split(".")[1]) + 1
    return num_layers + 1


def layer_groups(model: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float) -> list[dict]:
    """Groups of an optimizer: rate times layer_decay^(L + 1 - layer), decay only for what is no vector."""
    num_layers = model.config.num_hidden_layers
    groups: dict[tuple[int, bool], list] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((layer_of(name, num_layers), parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": groups[layer, decayed],
            "lr": learning_rate * layer_decay ** (num_layers + 1 - layer),
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for layer, decayed in sorted(groups)
    ]


class ClassificationTrainer(AudioVisualTrainer):
    """`AudioVisualTrainer` with an optimizer by name and a learning rate by layer.

    Args:
        optimizer_name: "adamw" (betas and eps of the arguments), "lars" or "sgd" (momentum 0.9 both).
        layer_decay: factor of the rate from a layer to the one below it; 1 for none.

    Raises:
        ValueError: an unknown optimizer, or a decay that is not above 0 and at most 1.
    """

    def __init__(self, *args, optimizer_name: str = "adamw", layer_decay: float = 1.0, **kwargs):
        super().__init__(*args, **kwargs)
        if optimizer_name not in OPTIMIZERS:
            raise ValueError(f"optimizer={optimizer_name!r}; use one of {', '.join(OPTIMIZERS)}")
        if not 0 < layer_decay <= 1:
            raise ValueError(f"layer_decay={layer_decay} must be above 0 and at most 1 (1: one rate for all)")
        self.optimizer_name, self.layer_decay = optimizer_name, layer_decay

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            args = self.args
            groups = layer_groups(model or self.model, args.learning_rate, args.weight_decay, self.layer_decay)
            if self.optimizer_name == "adamw":
                betas = (args.adam_beta1, args.adam_beta2)
                self.optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=betas, eps=args.adam_epsilon)
            else:
                kind = LARS if self.optimizer_name == "lars" else torch.optim.SGD
                self.optimizer = kind(groups, lr=args.learning_rate, momentum=0.9)
        return self.optimizer
