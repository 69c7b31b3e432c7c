# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The blocks' self-attention, for all rows of a sequence or only for those that are read afterwards."""

import torch
from torch.autograd.function import once_differentiable
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.vit.modeling_vit import ViTAttention, eager_attention_forward

from .linear_maavt import linears, on_fast_cpu


LONGEST_WEIGHTS = 512  # keys up to which plain products of whole rows fit into a processor's cache


class MAAVTAttention(ViTAttention):
    """ViT's attention with its three input projections in one product where they are frozen."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        queries: torch.Tensor | None = None,
        residual: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`[N, len, D]` to `[N, len, D]`; with `queries` `[N, R, D]`, the rows that ask, to `[N, R, D]`.

        `residual`, of the output's shape, is added to the output.
        """
        if queries is None:
            states = linears(hidden_states, (self.q_proj, self.k_proj, self.v_proj))
        else:
            states = [
                *linears(queries, (self.q_proj,)),
                *linears(hidden_states, (self.k_proj, self.v_proj)),
            ]
        query, key, value = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in states)
        dropout = self.attention_dropout if self.training else 0.0
        implementation = self.config._attn_implementation
        alone = implementation == "sdpa" and attention_mask is None and not dropout
        if alone and plain_backward_is_faster(query, key):
            attended, weights = ShortAttention.apply(query, key, value, self.scaling), None
        else:
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
            attended, weights = attend(
                self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
            )
        (attended,) = linears(attended.flatten(2), (self.o_proj,), residual=residual)
        return attended, weights


def plain_backward_is_faster(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether plain products beat PyTorch's fused kernel, in bfloat16 on a CPU for short sequences: by its backward pass.

    Its forward pass is faster, and taken where there is no other; in training it would take more memory, and the same time.
    """
    if not (torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)):
        return False
    return query.dtype == torch.bfloat16 and key.shape[2] <= LONGEST_WEIGHTS and on_fast_cpu(query, query.dtype)


class ShortAttention(torch.autograd.Function):
    """softmax(scale q k^T) v as plain products: `[N, heads, n, d]` to `[N, n, heads, d]`.

    The weights are computed again in the backward pass: kept ones are a large part of a step's memory.
    """

    @staticmethod
    def forward(ctx, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.scale, ctx.shape = scale, query.shape
        query, key, value = (part.reshape(-1, *part.shape[2:]) for part in (query, key, value))
        ctx.save_for_backward(query, key, value)
        weights = attention_weights(query, key, scale)
        return torch.bmm(weights, value).view(ctx.shape).transpose(1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        weights = attention_weights(query, key, ctx.scale)
        gradient = gradient.transpose(1, 2).reshape(query.shape)
        of_weights = torch.bmm(gradient, value.transpose(1, 2))
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        gradients = (
            scaled_product(of_scores, key, ctx.scale),
            scaled_product(of_scores.transpose(1, 2), query, ctx.scale),
            torch.bmm(weights.transpose(1, 2), gradient),
        )
        return *(part.view(*ctx.shape[:2], *part.shape[1:]) for part in gradients), None


def attention_weights(query: torch.Tensor, key: torch.Tensor, scale: float) -> torch.Tensor:
    scores = scaled_product(query, key.transpose(1, 2), scale)
    return torch.softmax(scores, -1, out=scores)  # in its place: new memory costs more than the sums


def scaled_product(left: torch.Tensor, right: torch.Tensor, scale: float) -> torch.Tensor:
    return torch.baddbmm(left.new_empty(1, 1, 1), left, right, beta=0, alpha=scale)


__all__ = ["MAAVTAttention"]
