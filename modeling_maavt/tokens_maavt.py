# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""MA-AVT's learned tokens and the self-attention among them (docs/maavt.md, 2)."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class MAAVTTokens:
    """The learned tokens of one step; K is 1, or the number of blocks that see them when tokens are layerwise.

    Attributes:
        class_token: `[1, 1, D]`, or None where tokens enter late and the backbone keeps its own.
        background: `[1, D]`, or None without background mining.
        audio, visual, shared: `[K, n, D]`, n may be 0.
    """

    class_token: torch.Tensor | None
    background: torch.Tensor | None
    audio: torch.Tensor
    visual: torch.Tensor
    shared: torch.Tensor


class MAAVTPrompt(nn.Module):
    """Every learned token: the backbone's class token (trained, docs/maavt.md, 8), background, audio, visual and shared tokens.

    Where tokens enter late (`config.prompt_start_layer`) the class token is not among them.

    The buffer `needs_self_attention` travels with the tokens, so that tokens into which token self-attention has been
    folded are refused by a model that would apply it again, and the other way round.
    """

    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        sets = (config.num_prompted_layers,) if config.layerwise_tokens == "unique" else ()
        counts = {
            "audio_tokens": config.num_audio_tokens,
            "visual_tokens": config.num_visual_tokens,
            "shared_tokens": config.num_shared_tokens,
        }
        self.width = width
        self.repeats = config.num_prompted_layers if config.layerwise_tokens == "common" else 1
        self.token_self_attention = config.token_self_attention
        class_token = nn.Parameter(torch.zeros(1, 1, width)) if config.prompt_start_layer == 0 else None
        self.register_parameter("cls_token", class_token)
        background = nn.Parameter(torch.zeros(1, width)) if config.background_mining else None
        self.register_parameter("background_token", background)
        for name, count in counts.items():
            # a count of 0 has no parameter: an empty tensor would have to be stored, sharded and optimized
            self.register_parameter(name, nn.Parameter(torch.zeros(*sets, count, width)) if count else None)
        self.register_buffer("needs_self_attention", torch.tensor([config.token_self_attention], dtype=torch.uint8))

    def forward(self, dtype: torch.dtype) -> MAAVTTokens:
        """Hand out copies, never the parameters themselves: a sharded prompt frees those after its forward."""
        return MAAVTTokens(
            class_token=None if self.cls_token is None else self.cls_token.to(dtype, copy=True),
            background=None if self.background_token is None else self.background_token.to(dtype, copy=True),
            audio=self._sets(self.audio_tokens, dtype),
            visual=self._sets(self.visual_tokens, dtype),
            shared=self._sets(self.shared_tokens, dtype),
        )

    def _sets(self, tokens: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
        if tokens is None:
            return torch.zeros((self.repeats, 0, self.width), dtype=dtype, device=self.needs_self_attention.device)
        tokens = tokens.to(dtype, copy=True)
        return tokens if tokens.ndim == 3 else tokens.expand(self.repeats, -1, -1)

    @property
    def dtype(self) -> torch.dtype:
        return next((parameter.dtype for parameter in self.parameters()), torch.float32)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        stored = state_dict.get(prefix + "needs_self_attention")
        if stored is not None and not stored.is_meta and bool(stored) != self.token_self_attention:
            raise ValueError(
                f"These tokens {'need' if bool(stored) else 'hold a folded'} token self-attention, but this model has "
                f"config.token_self_attention={self.token_self_attention}. Build the base model from the config.json "
                "beside the adapter: config = AutoConfig.from_pretrained(adapter); "
                "MAAVTForAudioVisualClassification.from_pretrained(backbone, config=config)."
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class MAAVTTokenSelfAttention(nn.Module):
    """Multi-head self-attention among the tokens of one kind: no residual, no norm, no dropout (docs/maavt.md, 2)."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """`[K, n, D]` to `[K, n, D]`; softmax(q k^T / sqrt(D / heads)) v."""
        sets, count, width = tokens.shape
        qkv = self.qkv(tokens).view(sets, count, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        states = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.proj(states.transpose(1, 2).reshape(sets, count, width))


class MAAVTTokenAttention(nn.Module):
    """One self-attention per kind of token, on `[K, n, D]` and never on a copy per clip."""

    def __init__(self, config):
        super().__init__()
        for kind in ("audio", "visual", "shared"):
            count = getattr(config, f"num_{kind}_tokens")
            attention = MAAVTTokenSelfAttention(config.hidden_size, config.token_attention_heads) if count else None
            self.register_module(kind, attention)

    def forward(self, tokens: MAAVTTokens) -> MAAVTTokens:
        return MAAVTTokens(
            class_token=tokens.class_token,
            background=tokens.background,
            audio=tokens.audio if self.audio is None else self.audio(tokens.audio),
            visual=tokens.visual if self.visual is None else self.visual(tokens.visual),
            shared=tokens.shared if self.shared is None else self.shared(tokens.shared),
        )


__all__ = ["MAAVTPrompt", "MAAVTTokenAttention", "MAAVTTokens"]
