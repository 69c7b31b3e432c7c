# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The frozen blocks of MA-AVT, both streams side by side, with the learned tokens among their inputs."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn
from transformers import ViTConfig
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .layer_maavt import MAAVTLayer
from .outputs_maavt import MAAVTEncoderOutput
from .pretrained_maavt import MAAVTPreTrainedModel
from .tokens_maavt import MAAVTTokens


class MAAVTEncoder(MAAVTPreTrainedModel):
    """The blocks of the shared ViT, both streams side by side; appends the learned tokens and watches the shared ones."""

    config: ViTConfig
    _can_record_outputs = {
        "hidden_states": OutputRecorder(MAAVTLayer, index=0),
        "audio_hidden_states": OutputRecorder(MAAVTLayer, index=1),
        "attentions": OutputRecorder(MAAVTLayer, index=2),
        "audio_attentions": OutputRecorder(MAAVTLayer, index=3),
    }

    def __init__(self, config: ViTConfig):
        super().__init__(config)
        self.layers = nn.ModuleList([MAAVTLayer(config) for _ in range(config.num_hidden_layers)])
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        video: torch.Tensor | None,
        audio: torch.Tensor | None,
        tokens: MAAVTTokens,
        num_patches: tuple[int, int],
        output_localization: bool = False,
        meet: Callable | None = None,
        read: tuple[list[int], list[int]] | None = None,
        start: int = 0,
        first: int = 0,
        **kwargs,
    ) -> MAAVTEncoderOutput:
        """`[N, 1 + P (+ 1), D]` a stream, without the learned tokens; `num_patches` of picture and sound.

        The tokens enter before block `start`, the background token among them where that is above 0; the streams given
        are those that enter block `first`. `meet(block, site, video, audio)` is what LAVISH adapters add to both streams. `read`, positions in either
        stream, leaves these rows and those of the shared tokens in the final states; the last block computes no other.
        """
        streams = {"video": video, "audio": audio}
        appended = {
            name: torch.cat([own, tokens.shared], dim=1)
            for name, own in (("video", tokens.visual), ("audio", tokens.audio))
        }
        num_shared, last = tokens.shared.shape[1], len(self.layers) - 1
        layerwise = tokens.shared.shape[0] > 1
        shared = {name: [] for name in streams}
        maps = dict.fromkeys(streams)
        for index, layer in enumerate(self.layers[first:], first):
            for name, stream in streams.items():
                if stream is not None and (index == start or (layerwise and index > start)):
                    block_tokens = appended[name][index - start if layerwise else 0].to(stream.dtype)
                    kept = stream if index == start else stream[:, : stream.shape[1] - len(block_tokens)]
                    if index == start > 0 and tokens.background is not None:
                        block_tokens = torch.cat([tokens.background.to(stream.dtype), block_tokens])
                    streams[name] = torch.cat([kept, block_tokens.expand(stream.shape[0], -1, -1)], dim=1)
            if output_localization and index == last:
                for (name, stream), patches in zip(streams.items(), num_patches, strict=True):
                    maps[name] = None if stream is None else layer.class_attention(stream, patches)
            options = kwargs if meet is None else {**kwargs, "meet": partial(meet, index)}
            if read is not None and index == last:
                options = {**options, "read": self._rows(streams.values(), read, num_shared)}
            streams["video"], streams["audio"], *_ = layer(streams["video"], streams["audio"], **options)
            for name, stream in streams.items():
                if stream is not None and num_shared and index >= start:
                    shared[name].append(stream[:, -num_shared:].mean(1))
        return MAAVTEncoderOutput(
            video_state=streams["video"],
            audio_state=streams["audio"],
            video_shared_states=torch.stack(shared["video"], 1) if shared["video"] else None,
            audio_shared_states=torch.stack(shared["audio"], 1) if shared["audio"] else None,
            video_localization=maps["video"],
            audio_localization=maps["audio"],
        )

    @staticmethod
    def _rows(streams: Iterable[torch.Tensor | None], read: tuple[list[int], list[int]], num_shared: int) -> tuple:
        """The positions that are read, and the shared tokens, which come last."""
        return tuple(
            None if stream is None else [*positions, *range(stream.shape[1] - num_shared, stream.shape[1])]
            for stream, positions in zip(streams, read, strict=True)
        )


__all__ = ["MAAVTEncoder"]
