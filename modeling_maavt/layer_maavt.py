# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A block of the shared ViT (docs/maavt.md, 3). Shapes: N sequences, D width, R rows that are read afterwards."""

import math
from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint
from transformers import ViTConfig
from transformers.models.vit.modeling_vit import ViTLayer

from .attention_maavt import MAAVTAttention
from .linear_maavt import linears


LARGEST_KEPT = 16 << 20  # bytes that a block's feed-forward layer keeps for the backward pass on a CPU
LARGEST_REUSED = 6 << 20  # entries, 24 MiB at most: with what lies beside them no more than malloc keeps


class MAAVTLayer(ViTLayer):
    """A ViT block through which both streams pass without attending to each other (docs/maavt.md, 3).

    Only LAVISH adapters let them meet: `meet(site, video, audio)` gives what they add to both (docs/maavt.md, 9).
    """

    def __init__(self, config: ViTConfig):
        super().__init__(config)
        self.attention = MAAVTAttention(config)

    def forward(
        self,
        video: torch.Tensor | None,
        audio: torch.Tensor | None,
        meet: Callable | None = None,
        read: tuple[list[int], list[int]] | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """`[Nv, len, D]` and `[Na, len, D]` to `(video, audio, video_attentions, audio_attentions)`.

        With `read`, the positions of either stream that are read afterwards, only those rows are computed: `[N, R, D]`.
        """
        if meet is None:
            rows = (
                stream if stream is None or read is None else stream[:, positions]
                for stream, positions in zip((video, audio), read or (None, None), strict=True)
            )
            return self.on_both(self.block, video, audio, *(() if read is None else rows), **kwargs)
        changes = meet(0, video, audio)
        video, audio, *attentions = self.on_both(self.attend, video, audio, **kwargs)
        video, audio = video + changes[0], audio + changes[1]
        changes = meet(1, video, audio)
        video, audio, *_ = self.on_both(self.transform, video, audio)
        return video + changes[0], audio + changes[1], *attentions

    def on_both(
        self,
        part: Callable,
        video: torch.Tensor | None,
        audio: torch.Tensor | None,
        video_rows: torch.Tensor | None = None,
        audio_rows: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple:
        """`part` of the block over both streams, stacked where they have one length; states first, then weights."""
        # eager attention returns its weights, which have to be recorded stream by stream
        eager = self.attention.config._attn_implementation == "eager"
        one_length = video is not None and audio is not None and video.shape[1:] == audio.shape[1:]
        if one_length and not eager and len(video) + len(audio) <= self._sequences_at_once(video):
            if video_rows is not None:
                kwargs["rows"] = torch.cat([video_rows, audio_rows])
            states, _ = part(stacked(video, audio), **kwargs)
            video, audio = states.split([video.shape[0], audio.shape[0]])
            return video, audio, None, None
        results = []
        for stream, rows in ((video, video_rows), (audio, audio_rows)):
            if stream is None:
                results.append((None, None))
            elif eager or len(stream) <= (at_once := self._sequences_at_once(stream)):
                results.append(part(stream, **kwargs if rows is None else {**kwargs, "rows": rows}))
            else:
                at_once = math.ceil(len(stream) / math.ceil(len(stream) / at_once))  # pieces of one size
                chosen = [{}] * len(stream) if rows is None else [{"rows": some} for some in rows.split(at_once)]
                pieces = zip(stream.split(at_once), chosen, strict=False)
                results.append((torch.cat([part(piece, **kwargs, **own)[0] for piece, own in pieces]), None))
        return results[0][0], results[1][0], results[0][1], results[1][1]

    def _sequences_at_once(self, states: torch.Tensor) -> float:
        """How many go through the block together: in evaluation on a CPU as many as keep it in memory that is used again."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or states.device.type != "cpu":
            return float("inf")
        if torch.is_grad_enabled() and states.requires_grad:
            return float("inf")
        return max(1, LARGEST_REUSED // self._widest(states[:1]))

    def block(
        self, states: torch.Tensor, rows: torch.Tensor | None = None, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        states, weights = self.attend(states, rows, **kwargs)
        if self._computes_again(states):
            return checkpoint(self.transform, states, use_reentrant=False)[0], weights
        return self.transform(states)[0], weights

    def _computes_again(self, states: torch.Tensor) -> bool:
        """Whether the backward pass computes fc1's output, the largest thing a block keeps, a second time.

        On a CPU, where it costs little time (`steps.train.*.computed_again` of the benchmark) and lowers the peak; elsewhere
        and below `LARGEST_KEPT` it is kept. Gradient checkpointing of whole blocks does it anyway.
        """
        if torch.compiler.is_compiling() or states.device.type != "cpu":
            return False
        if not (torch.is_grad_enabled() and states.requires_grad) or (self.training and self.gradient_checkpointing):
            return False
        return self._widest(states) * states.element_size() > LARGEST_KEPT

    def _widest(self, states: torch.Tensor) -> int:
        """Entries of fc1's output, the largest thing that a block computes."""
        return states[..., 0].numel() * self.mlp.fc1.out_features

    def attend(
        self, states: torch.Tensor, rows: torch.Tensor | None = None, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if rows is not None:
            kwargs["queries"] = self.layernorm_before(rows)
        before = states if rows is None else rows
        if not self._drops:
            return self.attention(self.layernorm_before(states), None, residual=before, **kwargs)
        attended, weights = self.attention(self.layernorm_before(states), None, **kwargs)
        return before + self.dropout(attended), weights

    def transform(self, states: torch.Tensor) -> tuple[torch.Tensor, None]:
        (hidden,) = linears(self.layernorm_after(states), (self.mlp.fc1,), self.mlp.activation_fn)
        if not self._drops:
            return linears(hidden, (self.mlp.fc2,), residual=states)[0], None
        (hidden,) = linears(hidden, (self.mlp.fc2,))
        return states + self.dropout(hidden), None

    @property
    def _drops(self) -> bool:
        return self.training and self.dropout.p > 0

    def class_attention(self, states: torch.Tensor, num_patches: int) -> torch.Tensor:
        """Localization map (docs/maavt.md, 6): scaled logits of the class query over the patches, mean over heads, softmax."""
        states = self.layernorm_before(states)
        heads = (-1, self.attention.num_attention_heads, self.attention.head_dim)
        query = self.attention.q_proj(states[:, :1]).unflatten(-1, heads[1:])
        key = self.attention.k_proj(states[:, 1 : 1 + num_patches]).unflatten(-1, heads[1:])
        logits = torch.einsum("nqhd,nkhd->nkh", query.float(), key.float()) * self.attention.scaling
        return logits.mean(-1).softmax(-1)


def stacked(video: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
    """`[Nv + Na, len, D]`; the two halves of what the last block computed still lie side by side and are not copied."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_grad_enabled():
        return torch.cat([video, audio])
    beside = audio.storage_offset() == video.storage_offset() + video.numel()
    if not (beside and video.is_contiguous() and audio.is_contiguous() and video.dtype == audio.dtype):
        return torch.cat([video, audio])
    if video.untyped_storage()._cdata != audio.untyped_storage()._cdata:
        return torch.cat([video, audio])
    return video.as_strided((len(video) + len(audio), *video.shape[1:]), video.stride(), video.storage_offset())


__all__ = ["MAAVTLayer"]
