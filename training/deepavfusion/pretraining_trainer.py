# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The published schedule of DeepAVFusion's pre-training: warm-up, half cosine, and ViT branches that start frozen."""

import math
from functools import partial

import torch
from torch import nn

from training.trainer.audio_visual_trainer import AudioVisualTrainer


def warmup_then_cosine(step: int, warmup_steps: int, total_steps: int) -> float:
    """Share of the learning rate: linear to 1 over the warm-up, then half a cosine to 0."""
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return 0.5 + 0.5 * math.cos(math.pi * min(progress, 1.0))


def branch_ramp(step: int, ramp_steps: float) -> float:
    """0.5 - 0.5 cos(pi e / E) for e < E, then 1: pre-trained branches start frozen and thaw while the fusion learns."""
    return 1.0 if step >= ramp_steps else 0.5 - 0.5 * math.cos(math.pi * step / ramp_steps)


def is_of_branch(name: str) -> bool:
    """Whether a parameter of DeepAVFusion belongs to one of its two ViTs; decoders and fusion blocks do not."""
    inside = name.removeprefix("module.").removeprefix("deepavfusion.")
    if inside.startswith(("image_embeddings.", "audio_embeddings.", "image_layernorm.", "audio_layernorm.")):
        return True
    parts = inside.split(".")
    return parts[0] == "layers" and parts[2] in ("image", "audio")


class PretrainingTrainer(AudioVisualTrainer):
    """AdamW whose ViT branches have a learning rate of their own; biases, norms and vectors without weight decay.

    Args:
        branch_ramp_share: the branches' rate rises from 0 to the full one over this share of the steps; 0 for none.
    """

    def __init__(self, *args, branch_ramp_share: float = 0.5, **kwargs):
        super().__init__(*args, **kwargs)
        if not 0 <= branch_ramp_share <= 1:
            raise ValueError(f"branch_ramp={branch_ramp_share} is a share of the training; give 0 to 1")
        self.branch_ramp_share = branch_ramp_share

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            groups = {}
            for name, parameter in (model or self.model).named_parameters():
                if parameter.requires_grad:
                    groups.setdefault((is_of_branch(name), parameter.ndim > 1), []).append(parameter)
            self.optimizer = torch.optim.AdamW(
                [
                    {
                        "params": groups[key],
                        "weight_decay": self.args.weight_decay if key[1] else 0.0,
                        "branch": key[0],
                    }
                    for key in sorted(groups)
                ],
                lr=self.args.learning_rate,
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                eps=self.args.adam_epsilon,
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            warmup_steps = self.args.get_warmup_steps(num_training_steps)
            shares = []
            for group in optimizer.param_groups:
                ramp = self.branch_ramp_share * num_training_steps if group["branch"] else 0.0
                shares.append(
                    partial(rate_share, warmup_steps=warmup_steps, total_steps=num_training_steps, ramp=ramp)
                )
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, shares)
        return self.lr_scheduler


def rate_share(step: int, warmup_steps: int, total_steps: int, ramp: float) -> float:
    """Share of the learning rate at a step: the schedule, times the ramp where there is one."""
    return warmup_then_cosine(step, warmup_steps, total_steps) * branch_ramp(step, ramp)
