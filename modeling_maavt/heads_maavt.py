# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What MA-AVT puts on top of the shared trunk: contrastive projections, class head, match heads (docs/maavt.md, 4 and 5)."""

import torch
from torch import nn

from .losses_maavt import num_processes


class MAAVTProjection(nn.Module):
    """One linear projection with bias per block: `[N, L, D]` to `[N, L, d]` in a single batched product."""

    def __init__(self, num_blocks: int, width: int, projection_width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_blocks, projection_width, width))
        self.bias = nn.Parameter(torch.zeros(num_blocks, projection_width))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        states = states.to(self.weight.dtype).transpose(0, 1)
        return torch.baddbmm(self.bias[:, None], states, self.weight.transpose(1, 2)).transpose(0, 1)


class MAAVTContrastiveHead(nn.Module):
    """Projections of the shared-token means; needed in training only (docs/maavt.md, 4).

    `"blockwise"` keeps a pair per block, `"blockwise_shared"` one pair for all blocks, `"last"` one for the last block.
    """

    def __init__(self, config):
        super().__init__()
        self.mode = config.contrastive
        num_projections = config.num_prompted_layers if self.mode == "blockwise" else 1
        self.video = MAAVTProjection(num_projections, config.hidden_size, config.contrastive_dim)
        self.audio = MAAVTProjection(num_projections, config.hidden_size, config.contrastive_dim)

    def forward(
        self, video: torch.Tensor | None, audio: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Project the shared-token means of every block, `[N, L, D]`, to `[N, L', d]`; L' is 1 in mode `"last"`."""
        return self.project(self.video, video), self.project(self.audio, audio)

    def project(self, projection: MAAVTProjection, states: torch.Tensor | None) -> torch.Tensor | None:
        if states is None:
            return None
        if self.mode == "last":
            states = states[:, -1:]
        if self.mode == "blockwise_shared":
            return projection(states.flatten(0, 1)[:, None]).view(*states.shape[:2], -1)
        return projection(states)


class MAAVTClassifier(nn.Linear):
    """Class logits of [v_cls ; a_cls], picture first: Linear(2D to C) (docs/maavt.md, 5).

    Each modality adds its half of the weights and half of the bias, so a missing modality leaves the other's half.
    """

    def __init__(self, width: int, num_labels: int):
        super().__init__(2 * width, num_labels)

    def halves(
        self, video: torch.Tensor | None, audio: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Unimodal logits `[..., C]`: a feature times its half of the weight plus bias / 2 (docs/maavt.md, 7)."""
        video_weight, audio_weight = self.weight.chunk(2, dim=1)
        bias = self.bias / 2
        video_logits = None if video is None else nn.functional.linear(video.to(bias.dtype), video_weight, bias)
        audio_logits = None if audio is None else nn.functional.linear(audio.to(bias.dtype), audio_weight, bias)
        return video_logits, audio_logits

    def forward(
        self,
        video: torch.Tensor | None,
        audio: torch.Tensor | None,
        has_video: torch.Tensor | None = None,
        has_audio: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`[B, S, D]` each, or None; `has_*` bool `[B]`. Returns `[B, S, C]`."""
        video_logits, audio_logits = self.halves(video, audio)
        if video_logits is not None and has_video is not None:
            video_logits = video_logits * has_video[:, None, None]
        if audio_logits is not None and has_audio is not None:
            audio_logits = audio_logits * has_audio[:, None, None]
        if video_logits is None or audio_logits is None:
            return audio_logits if video_logits is None else video_logits
        return video_logits + audio_logits


class MAAVTLinearMatchHead(nn.Linear):
    """The published head, Linear(2D to 1) of [v_bg ; a_bg]: f(v) + g(a), which cannot tell shuffled pairs apart."""

    def __init__(self, config):
        super().__init__(2 * config.hidden_size, 1)

    def forward(self, video: torch.Tensor, audio: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(torch.cat([video, audio], dim=-1).to(self.weight.dtype)).squeeze(-1)


class MAAVTMLPMatchHead(nn.Module):
    """An MLP on [v_bg ; a_bg]."""

    def __init__(self, config):
        super().__init__()
        self.fc1 = nn.Linear(2 * config.hidden_size, config.match_dim)
        self.fc2 = nn.Linear(config.match_dim, 1)

    def forward(self, video: torch.Tensor, audio: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        states = torch.cat([video, audio], dim=-1).to(self.fc1.weight.dtype)
        return self.fc2(nn.functional.gelu(self.fc1(states))).squeeze(-1)


class MAAVTRunningNorm(nn.Module):
    """Centers and scales features by running statistics of the global batch, which take no gradient.

    Background tokens of different clips are nearly parallel, so that normalized projections of
    them start out equal. The statistics are constants of a step: unlike those of a batch norm they leave the gradient
    independent of how a batch is split, and a batch of one is as good as any.
    """

    momentum = 0.1

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("square", torch.ones(width))  # of the features, not of their deviations
        self.register_buffer("num_updates", torch.zeros(1))

    def forward(self, states: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        """`[..., D]` to `[..., D]`; rows that are not `present` (bool `[...]`) do not enter the statistics."""
        if self.training:
            self.update(states.detach().flatten(0, -2), None if present is None else present.flatten())
        deviation = (self.square - self.mean.square()).clamp(min=1e-6).sqrt()
        return (states - self.mean) / deviation

    @torch.no_grad()
    def update(self, rows: torch.Tensor, present: torch.Tensor | None) -> None:
        weight = rows.new_ones(len(rows)) if present is None else present.to(rows.dtype)
        moments = torch.cat([weight @ rows, weight @ rows.square(), weight.sum()[None]]).float()
        if num_processes() > 1:
            torch.distributed.all_reduce(moments)
        mean, square = (moments[:-1] / moments[-1].clamp(min=1)).chunk(2)
        # an average over the first updates, then an exponential one
        rate = torch.clamp(1 / (self.num_updates + 1), min=self.momentum) * (moments[-1] > 0)
        self.mean.lerp_(mean.to(self.mean.dtype), rate.to(self.mean.dtype))
        self.square.lerp_(square.to(self.square.dtype), rate.to(self.square.dtype))
        self.num_updates += moments[-1] > 0


class MAAVTBilinearMatchHead(nn.Module):
    """Product of normalized low-rank projections of v_bg and a_bg, then a small MLP: a function of the pair.

    Equation 6 of docs/maavt.md.
    """

    def __init__(self, config):
        super().__init__()
        self.video_norm = MAAVTRunningNorm(config.hidden_size)
        self.audio_norm = MAAVTRunningNorm(config.hidden_size)
        self.video_proj = nn.Linear(config.hidden_size, config.match_dim)
        self.audio_proj = nn.Linear(config.hidden_size, config.match_dim)
        self.fc1 = nn.Linear(config.match_dim, config.match_dim)
        self.fc2 = nn.Linear(config.match_dim, 1)

    def forward(self, video: torch.Tensor, audio: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        """`[..., D]` each; returns `[...]`, positive where sound and picture belong together."""
        dtype = self.video_proj.weight.dtype
        video = self.video_proj(self.video_norm(video.to(dtype), present))
        audio = self.audio_proj(self.audio_norm(audio.to(dtype), present))
        # unit vectors have entries near 1/sqrt(r): times r the products are of order 1 whatever the rank
        products = nn.functional.normalize(video, dim=-1) * nn.functional.normalize(audio, dim=-1) * video.shape[-1]
        return self.fc2(nn.functional.gelu(self.fc1(products))).squeeze(-1)


MATCH_HEAD_CLASSES = {
    "bilinear": MAAVTBilinearMatchHead,
    "mlp": MAAVTMLPMatchHead,
    "linear": MAAVTLinearMatchHead,
}

__all__ = ["MATCH_HEAD_CLASSES", "MAAVTClassifier", "MAAVTContrastiveHead", "MAAVTProjection", "MAAVTRunningNorm"]
