# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The fusion block and its three kinds of attention (docs/deepavfusion.md, 3).

Keys and values of a pair are linear in its halves, so the softmax over all pairs is the product of one softmax over the
picture and one over the sound, and what is read is the sum of two reads: exact, and no pair is ever formed.
"""

import torch
from torch import nn
from transformers.activations import ACT2FN

from .layers_deepavfusion import DeepAVFusionAttention, DeepAVFusionMLP, attend, drop_path, starts_within
from .linear_deepavfusion import linears
from .outputs_deepavfusion import FusionAttentions


class DeepAVFusionPairAttention(nn.Module):
    """Attention over all pairs of a visual and an audio token, as two attentions with one query whose reads are summed.

    The bias of a pair's key cancels in the softmax and that of its value passes through once; both are kept with the
    visual half. A modality that a window lacks has zeros for tokens: then every pair is its other half, as it should be.
    """

    is_causal = False

    def __init__(self, config, value_width: int, fused: bool):
        super().__init__()
        self.config = config
        self.num_attention_heads = config.num_attention_heads
        width, key_width = config.hidden_size, config.fusion_width
        scaled_width = width if config.fusion_scale == "hidden" else key_width
        self.scaling = (scaled_width // config.num_attention_heads) ** -0.5
        self.activation_fn = None if config.fusion_pair_activation is None else ACT2FN[config.fusion_pair_activation]
        self.q_proj = nn.Linear(width, key_width)
        self.image_k_proj = nn.Linear(width, key_width)
        self.audio_k_proj = nn.Linear(width, key_width, bias=False)
        self.image_v_proj = nn.Linear(width, value_width)
        self.audio_v_proj = nn.Linear(width, value_width, bias=False)
        self.o_proj = nn.Linear(value_width, width)
        # as the matrices over whole pairs would: keys and values in one where `fused`
        outputs = (key_width + value_width,) * 2 if fused else (key_width, value_width)
        for linear in (self.image_k_proj, self.audio_k_proj):
            starts_within(linear, 2 * width, outputs[0])
        for linear in (self.image_v_proj, self.audio_v_proj):
            starts_within(linear, 2 * width, outputs[1])

    def forward(
        self, queries: torch.Tensor, image: torch.Tensor, audio: torch.Tensor, need_weights: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """`[N, q, D]`, `[N, i, D]`, `[N, j, D]` to `[N, q, D]` and weights `[N, H, q, i]`, `[N, H, q, j]` or None."""
        (query,) = linears(queries, (self.q_proj,))
        image_key, image_value = linears(image, (self.image_k_proj, self.image_v_proj))
        audio_key, audio_value = linears(audio, (self.audio_k_proj, self.audio_v_proj))
        if self.activation_fn is not None:
            key, value = (
                self.activation_fn(half[:, :, None] + other[:, None]).flatten(1, 2)
                for half, other in ((image_key, audio_key), (image_value, audio_value))
            )
            read, weights = attend(self, query, key, value, self.scaling, need_weights=need_weights)
            if weights is not None:
                weights = weights.unflatten(-1, (image.shape[1], audio.shape[1]))
                return *linears(read, (self.o_proj,)), weights.sum(-1), weights.sum(-2)
            return *linears(read, (self.o_proj,)), None, None
        read, image_weights = attend(self, query, image_key, image_value, self.scaling, need_weights=need_weights)
        other, audio_weights = attend(self, query, audio_key, audio_value, self.scaling, need_weights=need_weights)
        return *linears(read + other, (self.o_proj,)), image_weights, audio_weights


class DeepAVFusionDenseAttention(nn.Module):
    """(D): all tokens read pairs of a patch of the frame and a patch of the spectrogram."""

    def __init__(self, config):
        super().__init__()
        self.pairs = DeepAVFusionPairAttention(config, value_width=config.fusion_width, fused=True)

    def forward(self, tokens, image, audio, has_image=None, has_audio=None, need_weights=False):
        """See [`DeepAVFusionFusionBlock`]; tokens and patches are normalized."""
        given = [patches is not None for patches in (image, audio)]
        image, audio = (
            tokens.new_zeros(len(tokens), 1, tokens.shape[-1]) if patches is None else only_where(patches, present)
            for patches, present in ((image, has_image), (audio, has_audio))
        )
        states, *weights = self.pairs(tokens, image, audio, need_weights)
        if weights[0] is None:
            return states, None
        return states, FusionAttentions(
            None, None, *(w if there else None for w, there in zip(weights, given, strict=True))
        )


class DeepAVFusionFactorizedAttention(nn.Module):
    """(F): aggregation tokens read their own modality, then the fusion tokens read pairs of what those have read."""

    def __init__(self, config):
        super().__init__()
        self.token_counts = config.token_counts
        width, heads = config.hidden_size, config.num_attention_heads
        self.image_aggregation = DeepAVFusionAttention(config, width, heads, num_fused=2)
        self.audio_aggregation = DeepAVFusionAttention(config, width, heads, num_fused=2)
        self.pairs = DeepAVFusionPairAttention(config, value_width=width, fused=False)

    def forward(self, tokens, image, audio, has_image=None, has_audio=None, need_weights=False):
        """See [`DeepAVFusionFusionBlock`]; tokens and patches are normalized."""
        fusion, image_tokens, audio_tokens = tokens.split(self.token_counts, dim=1)
        reads, read_weights = [], []
        for aggregation, queries, patches, present in (
            (self.image_aggregation, image_tokens, image, has_image),
            (self.audio_aggregation, audio_tokens, audio, has_audio),
        ):
            read, weights = (
                (torch.zeros_like(queries), None) if patches is None else aggregation(queries, patches, need_weights)
            )
            reads.append(only_where(read, present))
            read_weights.append(weights)
        states, *pair_weights = self.pairs(fusion, *reads, need_weights)
        update = torch.cat([states, *reads], dim=1)
        if pair_weights[0] is None:
            return update, None
        pair_weights = [
            None if patches is None else weights for weights, patches in zip(pair_weights, (image, audio), strict=True)
        ]
        return update, FusionAttentions(*read_weights, *pair_weights)


class DeepAVFusionTokenAttention(nn.Module):
    """(T): all tokens read the patches of both modalities in one softmax."""

    is_causal = False

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.num_attention_heads = config.num_attention_heads
        self.scaling = (config.fusion_width // config.num_attention_heads) ** -0.5
        self.q_proj = nn.Linear(config.hidden_size, config.fusion_width)
        self.k_proj = nn.Linear(config.hidden_size, config.fusion_width)
        self.v_proj = nn.Linear(config.hidden_size, config.fusion_width)
        self.o_proj = nn.Linear(config.fusion_width, config.hidden_size)
        for linear in (self.k_proj, self.v_proj):
            starts_within(linear, config.hidden_size, 2 * config.fusion_width)

    def forward(self, tokens, image, audio, has_image=None, has_audio=None, need_weights=False):
        """See [`DeepAVFusionFusionBlock`]; tokens and patches are normalized."""
        given = [(name, patches) for name, patches in (("image", image), ("audio", audio)) if patches is not None]
        present = {"image": has_image, "audio": has_audio}
        memory = torch.cat([patches for _, patches in given], dim=1)
        mask = anywhere = None
        if any(present[name] is not None for name, _ in given):
            everywhere = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
            visible = torch.cat(
                [
                    (everywhere if present[name] is None else present[name])[:, None].expand(patches.shape[:2])
                    for name, patches in given
                ],
                dim=1,
            )
            anywhere = visible.any(1)
            hidden = ~visible & anywhere[:, None]  # a row that hides everything would be 0 / 0
            mask = torch.zeros_like(hidden, dtype=tokens.dtype).masked_fill(hidden, torch.finfo(tokens.dtype).min)
            mask = mask[:, None, None]
        read, weights = attend(
            self,
            self.q_proj(tokens),
            self.k_proj(memory),
            self.v_proj(memory),
            self.scaling,
            mask,
            need_weights,
        )
        update = self.o_proj(only_where(read, anywhere))
        if weights is None:
            return update, None
        lengths = [patches.shape[1] for _, patches in given]
        halves = dict(zip((name for name, _ in given), weights.split(lengths, dim=-1), strict=True))
        return update, FusionAttentions(None, None, halves.get("image"), halves.get("audio"))


def only_where(states: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    """`[N, P, D]` with zeros in the rows where `present` (bool `[N]`) is False."""
    return states if present is None else states * present[:, None, None].to(states.dtype)


FUSION_ATTENTION_CLASSES = {
    "factorized": DeepAVFusionFactorizedAttention,
    "dense": DeepAVFusionDenseAttention,
    "token": DeepAVFusionTokenAttention,
}


class DeepAVFusionFusionBlock(nn.Module):
    """u = LN(f) + A(LN(f), LN(x_v), LN(x_a)), then u + MLP(LN(u)).

    The normalized tokens replace the tokens before the residual is added: published, and `config.fusion_residual`.
    """

    def __init__(self, config):
        super().__init__()
        width, eps = config.hidden_size, config.fusion_layer_norm_eps
        self.drop_path_rate = config.drop_path_rate
        self.normalized_residual = config.fusion_residual == "normalized"
        self.layernorm_fusion = nn.LayerNorm(width, eps=eps)
        self.layernorm_image = nn.LayerNorm(width, eps=eps)
        self.layernorm_audio = nn.LayerNorm(width, eps=eps)
        self.attention = FUSION_ATTENTION_CLASSES[config.fusion_type](config)
        self.layernorm_after = nn.LayerNorm(width, eps=eps)
        self.mlp = DeepAVFusionMLP(width, int(config.fusion_mlp_ratio * width), config.hidden_act)

    def forward(
        self,
        fusion: torch.Tensor,
        image: torch.Tensor | None,
        audio: torch.Tensor | None,
        has_image: torch.Tensor | None = None,
        has_audio: torch.Tensor | None = None,
        need_weights: bool = False,
    ) -> tuple[torch.Tensor, FusionAttentions | None]:
        """
        Args:
            fusion: `[N, n, D]`.
            image, audio: patches `[N, N_v, D]` and `[N, N_a, D]`, or None for a modality that nobody has.
            has_image, has_audio: bool `[N]`; where False the patches are not read.
            need_weights: return the attention weights whatever the attention implementation.
        """
        tokens = self.layernorm_fusion(fusion)
        update, weights = self.attention(
            tokens,
            None if image is None else self.layernorm_image(image),
            None if audio is None else self.layernorm_audio(audio),
            has_image,
            has_audio,
            need_weights,
        )
        states = tokens if self.normalized_residual else fusion
        states = states + drop_path(update, self.drop_path_rate, self.training)
        update = self.mlp(self.layernorm_after(states))
        return states + drop_path(update, self.drop_path_rate, self.training), weights


__all__ = [
    "DeepAVFusionDenseAttention",
    "DeepAVFusionFactorizedAttention",
    "DeepAVFusionFusionBlock",
    "DeepAVFusionPairAttention",
    "DeepAVFusionTokenAttention",
]
