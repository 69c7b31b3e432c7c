# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""LAVISH adapters (Lin et al., CVPR 2023), the baseline in which picture and sound meet beside the frozen blocks.

Equations 8 to 10 of docs/maavt.md. N sequences, D width, n latent tokens.
"""

import torch
from torch import nn
from transformers.utils.generic import maybe_autocast


SITES = ("attention", "mlp")  # the residual after which a pair of adapters is added, in this order


class MAAVTGroupedPointwise(nn.Module):
    """A pointwise (1x1) convolution without bias in groups: `[..., D_in]` to `[..., D_out]`, group by group."""

    def __init__(self, width_in: int, width_out: int, groups: int):
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(width_out, width_in // groups))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        parts = zip(states.chunk(self.groups, dim=-1), self.weight.chunk(self.groups), strict=True)
        return torch.cat([nn.functional.linear(part, weight) for part, weight in parts], dim=-1)


class MAAVTLavishAdapter(nn.Module):
    """What one stream takes from the other through a few latent tokens (equations 9 and 10)."""

    def __init__(self, config, gated: bool):
        super().__init__()
        width, narrow = config.hidden_size, config.hidden_size // config.lavish_reduction
        self.latents = nn.Parameter(torch.zeros(config.lavish_num_latents, width))
        self.gate_latents = nn.Parameter(torch.ones(1))
        self.gate_states = nn.Parameter(torch.zeros(1))
        self.register_parameter("gate", nn.Parameter(torch.zeros(1)) if gated else None)
        self.norm_before = nn.LayerNorm(width, eps=1e-5)
        self.down = MAAVTGroupedPointwise(width, narrow, config.lavish_groups)
        self.up = MAAVTGroupedPointwise(narrow, width, config.lavish_groups)
        self.norm_after = nn.LayerNorm(width, eps=1e-5)

    def forward(self, states: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """`[N, len, D]` and the other stream's `[M, len', D]`, M dividing N, to the change of `states` `[N, len, D]`.

        Row n of `states` meets row n // (N / M) of `others`. Computed in the adapter's own dtype, whatever autocast
        says: its dot products are not scaled, and in bfloat16 such large logits lose their differences.
        """
        with maybe_autocast(states.device.type, enabled=False):
            own, others = states.to(self.latents.dtype), others.to(self.latents.dtype)
            latents = self.latents.expand(len(others), -1, -1)
            latents = latents + self.gate_latents * unscaled_attention(latents, others)
            latents = latents.repeat_interleave(len(own) // len(others), dim=0)
            own = own + self.gate_states * unscaled_attention(own, latents)
            change = self.norm_after(self.up(self.down(self.norm_before(own)).relu()))
            if self.gate is not None:
                change = self.gate * change
            return change.to(states.dtype)


def unscaled_attention(queries: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """softmax(q v^T) v, one head, without scaling: `[N, n, D]` and `[N, m, D]` to `[N, n, D]`."""
    # plain products: a fused kernel rounds logits this large a little worse, and saves little beside 32 latent tokens
    return (queries @ values.transpose(1, 2)).softmax(-1) @ values


class MAAVTLavishBlock(nn.Module):
    """The four adapters of one block: a pair per site; the picture's are gated, the sound's by `lavish_gate_audio` only."""

    def __init__(self, config):
        super().__init__()
        self.visual = nn.ModuleList([MAAVTLavishAdapter(config, gated=True) for _ in SITES])
        self.audio = nn.ModuleList([MAAVTLavishAdapter(config, gated=config.lavish_gate_audio) for _ in SITES])


class MAAVTLavishAdapters(nn.Module):
    """The adapters of all blocks (docs/maavt.md, 9), one module beside the backbone, so that PEFT can save it."""

    def __init__(self, config):
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
            video, audio: `[B*T, len, D]` and `[B*S, len', D]`, S dividing T. A frame meets the sound of its segment; the
                sound of a segment meets all its frames as one sequence. With T = S this is the published pairing.
            lengths: leading positions `[cls | patches | background?]` of each stream that take part; the learned tokens
                behind them are neither read nor changed.
            has_video, has_audio: bool `[B]`; a stream whose partner is missing is not changed.
        """
        adapters = self.blocks[block]
        own_video, own_audio = video[:, : lengths[0]], audio[:, : lengths[1]]
        scenes = own_video.reshape(len(audio), -1, video.shape[-1])  # the frames of a segment, one after the other
        changes = []
        for stream, change, partner in (
            (video, adapters.visual[site](own_video, own_audio), has_audio),
            (audio, adapters.audio[site](own_audio, scenes), has_video),
        ):
            if partner is not None:
                present = partner.repeat_interleave(len(stream) // len(partner))
                change = torch.where(present[:, None, None], change, 0.0)
            changes.append(nn.functional.pad(change, (0, 0, 0, stream.shape[1] - change.shape[1])))
        return tuple(changes)


__all__ = ["MAAVTGroupedPointwise", "MAAVTLavishAdapter", "MAAVTLavishAdapters"]
