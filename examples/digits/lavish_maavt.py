# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""LAVISH adapters (Lin et al., CVPR 2023), the baseline in which video and audio meet beside the frozen blocks.

Section 9 of docs/maavt.md, equations 9 to 11. Shapes: N sequences, D width, n latent tokens.
"""

import torch
from torch import nn
from transformers.utils.generic import maybe_autocast

from .configuration_maavt import MAAVTConfig


SITES = ("attention", "mlp")  # the residual after which a pair of adapters is added, in this order


class MAAVTGroupedPointwise(nn.Module):
    """A pointwise (1x1) convolution without bias in groups: `[..., D_in]` to `[..., D_out]`, group by group."""

    def __init__(self, width_in: int, width_out: int, groups: int):
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(width_out, width_in // groups, dtype=torch.float32))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        parts = zip(states.chunk(self.groups, dim=-1), self.weight.chunk(self.groups), strict=True)
        return torch.cat([nn.functional.linear(part, weight) for part, weight in parts], dim=-1)


class MAAVTLavishAdapter(nn.Module):
    """What one stream takes from the other through a few latent tokens (equations 9 and 10)."""

    def __init__(self, config: MAAVTConfig, gated: bool):
        super().__init__()
        width, narrow, groups = config.hidden_size, config.hidden_size // config.lavish.reduction, config.lavish.groups
        self.latents = nn.Parameter(torch.zeros(config.lavish.num_latents, width, dtype=torch.float32))
        self.gate_latents = nn.Parameter(torch.ones(1, dtype=torch.float32))
        self.gate_states = nn.Parameter(torch.zeros(1, dtype=torch.float32))
        self.register_parameter("gate", nn.Parameter(torch.zeros(1, dtype=torch.float32)) if gated else None)
        self.norm_before = nn.LayerNorm(width, eps=1e-5, dtype=torch.float32)
        self.down = MAAVTGroupedPointwise(width, narrow, groups)
        self.up = MAAVTGroupedPointwise(narrow, width, groups)
        self.norm_after = nn.LayerNorm(width, eps=1e-5, dtype=torch.float32)

    def forward(self, states: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """`[N, len, D]` and the other stream's `[M, len', D]`, M dividing N, to the change of `states` `[N, len, D]`.

        Row n of `states` meets row n // (N / M) of `others`. Computed in the adapter's own dtype, whatever autocast
        says: its dot products are not scaled, and in bfloat16 such large logits lose their differences.
        """
        dtype = states.dtype
        with maybe_autocast(states.device.type, enabled=False):
            states, others = states.to(self.latents.dtype), others.to(self.latents.dtype)
            # Equation 9: the latent tokens read the other stream, then the states read the latent tokens.
            latents = self.latents.expand(len(others), -1, -1)  # (M, n, D)
            latents = latents + self.gate_latents * unscaled_attention(latents, others)
            latents = latents.repeat_interleave(len(states) // len(others), dim=0)  # (N, n, D)
            states = states + self.gate_states * unscaled_attention(states, latents)  # (N, len, D)
            # Equation 10: the bottleneck, and the gate where there is one.
            change = self.norm_after(self.up(self.down(self.norm_before(states)).relu()))
            if self.gate is not None:
                change = self.gate * change
        return change.to(dtype)


def unscaled_attention(queries: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """softmax(q v^T) v, one head, without scaling: `[N, n, D]` and `[N, m, D]` to `[N, n, D]`."""
    # Plain products: a fused kernel rounds logits this large a little worse, and saves little beside 32 latent tokens.
    return (queries @ values.transpose(1, 2)).softmax(-1) @ values


class MAAVTLavishBlock(nn.Module):
    """The four adapters of one block: a pair per site; the video's are gated, the audio's by `gate_audio` only."""

    def __init__(self, config: MAAVTConfig):
        super().__init__()
        self.visual = nn.ModuleList([MAAVTLavishAdapter(config, gated=True) for _ in SITES])
        self.audio = nn.ModuleList([MAAVTLavishAdapter(config, gated=config.lavish.gate_audio) for _ in SITES])


class MAAVTLavishAdapters(nn.Module):
    """The adapters of all blocks, one module beside the backbone, so that PEFT can save it."""

    def __init__(self, config: MAAVTConfig):
        super().__init__()
        self.blocks = nn.ModuleList([MAAVTLavishBlock(config) for _ in range(config.num_hidden_layers)])

    def forward(
        self,
        block: int,
        site: int,
        video: torch.Tensor,
        audio: torch.Tensor,
        *,
        lengths: tuple[int, int],
        has_video: torch.Tensor | None = None,
        has_audio: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        What one pair of adapters adds to both streams.

        Args:
            block, site: which pair; site 0 reads the block's inputs, site 1 the sequences after the attention residual.
            video, audio: `[B*T, len, D]` and `[B*S, len', D]`, S dividing T. A frame meets the audio of its segment; the
                audio of a segment meets all its frames as one sequence. With T = S this is the paper's pairing.
            lengths: leading positions `[cls | patches | background?]` of each stream that take part; the learned tokens
                behind them are neither read nor changed.
            has_video, has_audio: bool `[B]`; a stream whose partner is missing is not changed.
        """
        adapters = self.blocks[block]
        video_part, audio_part = video[:, : lengths[0]], audio[:, : lengths[1]]
        scenes = video_part.reshape(len(audio), -1, video.shape[-1])  # (B*S, T/S * len, D)
        video_delta = adapters.visual[site](video_part, audio_part)
        audio_delta = adapters.audio[site](audio_part, scenes)
        return fit_change(video_delta, video, has_audio), fit_change(audio_delta, audio, has_video)


def fit_change(change: torch.Tensor, stream: torch.Tensor, has_partner: torch.Tensor | None) -> torch.Tensor:
    """The change of the leading positions as one of the whole stream; zero for clips `[B]` whose partner is missing."""
    if has_partner is not None:
        present = has_partner.repeat_interleave(len(stream) // len(has_partner))
        change = torch.where(present[:, None, None], change, 0.0)
    return nn.functional.pad(change, (0, 0, 0, stream.shape[1] - change.shape[1]))


__all__ = ["MAAVTGroupedPointwise", "MAAVTLavishAdapter", "MAAVTLavishAdapters"]
