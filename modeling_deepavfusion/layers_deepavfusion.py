# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Attention, MLP and the pre-norm ViT block, whose patches may read tokens that it does not update (docs/deepavfusion.md, 2)."""

import math

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.vit.modeling_vit import eager_attention_forward

from .linear_deepavfusion import linears


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    mask: torch.Tensor | None = None,
    need_weights: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Multi-head attention with an explicit scale; the width of keys may differ from that of values.

    Args:
        module: holds `num_attention_heads` and `config`, whose `_attn_implementation` chooses the kernel.
        query, key, value: `[N, q, E]`, `[N, k, E]`, `[N, k, V]`.
        mask: additive `[N, 1, 1, k]`.
        need_weights: return the weights whatever the implementation.

    Returns:
        `[N, q, V]`, and weights `[N, H, q, k]` or None.
    """
    interface = eager_attention_forward
    if not need_weights:
        interface = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, eager_attention_forward)
    heads = (module.num_attention_heads, -1)
    query, key, value = (states.unflatten(-1, heads).transpose(1, 2) for states in (query, key, value))
    states, weights = interface(module, query, key, value, mask, scaling=scaling, dropout=0.0)
    return states.flatten(-2), weights


def drop_path(states: torch.Tensor, rate: float, training: bool) -> torch.Tensor:
    """Stochastic depth: the whole branch of a sample is dropped with probability `rate`, the others are scaled up."""
    if not training or rate == 0:
        return states
    return states * nn.functional.dropout(states.new_ones(len(states), 1, 1), rate)


def starts_within(module: nn.Module, num_inputs: int, num_outputs: int) -> None:
    """Mark a layer that starts Xavier-uniform as part of a larger matrix, sqrt(6 / (inputs + outputs)) at most."""
    module.xavier_bound = math.sqrt(6 / (num_inputs + num_outputs))


class DeepAVFusionAttention(nn.Module):
    """Attention of `states` over `memory`, all projections of full width; `num_fused` of them were one matrix when published."""

    is_causal = False

    def __init__(self, config, width: int, num_attention_heads: int, num_fused: int):
        super().__init__()
        self.config = config
        self.num_attention_heads = num_attention_heads
        self.scaling = (width // num_attention_heads) ** -0.5
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)
        for linear in (self.q_proj, self.k_proj, self.v_proj)[-num_fused:]:
            starts_within(linear, width, num_fused * width)

    def forward(
        self,
        states: torch.Tensor,
        memory: torch.Tensor | None = None,
        need_weights: bool = False,
        residual: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`[N, q, D]` and a memory `[N, k, D]`, or the states themselves, to `[N, q, D]` and the weights.

        `residual` `[N, q, D]` is added to what is read.
        """
        if memory is None:
            query, key, value = linears(states, (self.q_proj, self.k_proj, self.v_proj))
        else:
            (query,) = linears(states, (self.q_proj,))
            key, value = linears(memory, (self.k_proj, self.v_proj))
        read, weights = attend(self, query, key, value, self.scaling, need_weights=need_weights)
        return linears(read, (self.o_proj,), residual=residual)[0], weights


class DeepAVFusionMLP(nn.Module):
    def __init__(self, width: int, intermediate_size: int, hidden_act: str):
        super().__init__()
        self.activation_fn = ACT2FN[hidden_act]
        self.fc1 = nn.Linear(width, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, width)

    def forward(self, states: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        (hidden,) = linears(states, (self.fc1,), self.activation_fn)
        return linears(hidden, (self.fc2,), residual=residual)[0]


class DeepAVFusionViTBlock(nn.Module):
    """x + Attn(LN(x)), then x + MLP(LN(x)), of one ViT or decoder.

    Tokens in `context` are read as keys and values only. Published blocks update them too and throw the update away.
    """

    def __init__(
        self,
        config,
        width: int,
        num_attention_heads: int,
        intermediate_size: int,
        layer_norm_eps: float,
        drop_path_rate: float,
    ):
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.layernorm_before = nn.LayerNorm(width, eps=layer_norm_eps)
        self.attention = DeepAVFusionAttention(config, width, num_attention_heads, num_fused=3)
        self.layernorm_after = nn.LayerNorm(width, eps=layer_norm_eps)
        self.mlp = DeepAVFusionMLP(width, intermediate_size, config.hidden_act)

    def forward(
        self, states: torch.Tensor, context: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`[N, P, D]` and a context `[N, n, D]` to `[N, P, D]` and (eager) weights `[N, H, P, n + P]`."""
        normed = self.layernorm_before(states)
        memory = None
        if context is not None:
            memory = torch.cat([self.layernorm_before(context), normed], dim=1)
        if not (self.training and self.drop_path_rate):
            states, weights = self.attention(normed, memory, residual=states)
            return self.mlp(self.layernorm_after(states), residual=states), weights
        attended, weights = self.attention(normed, memory)
        states = states + drop_path(attended, self.drop_path_rate, self.training)
        update = self.mlp(self.layernorm_after(states))
        return states + drop_path(update, self.drop_path_rate, self.training), weights


__all__ = ["DeepAVFusionAttention", "DeepAVFusionMLP", "DeepAVFusionViTBlock", "attend", "drop_path", "starts_within"]
