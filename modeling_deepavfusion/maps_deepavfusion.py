# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What segmentation and separation share: patches of some layers to a map, by convolutions (docs/deepavfusion_tasks.md).

Shapes: N windows, D width, h x w patches.
"""

import torch
from torch import nn
from transformers import initialization as init

from .modeling_deepavfusion import DeepAVFusionPreTrainedModel
from .outputs_deepavfusion import DeepAVFusionModelOutput


class DeepAVFusionDoubleConv(nn.Module):
    """Twice 3 x 3 convolution without bias, BatchNorm, ReLU: `[N, C, h, w]` to `[N, C', h, w]`."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        states = self.norm1(self.conv1(states)).relu()
        return self.norm2(self.conv2(states)).relu()


class DeepAVFusionUpsampling(nn.Module):
    """A transposed convolution that makes a map `scale` times as large with C // scale channels, then a double one.

    Args:
        in_channels: C.
        skip_channels: of the map that is appended after upsampling; 0 for none.
        out_channels: of the result.
        scale: kernel and stride of the transposed convolution.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, scale: int):
        super().__init__()
        self.upsample = nn.ConvTranspose2d(in_channels, in_channels // scale, scale, stride=scale)
        self.conv = DeepAVFusionDoubleConv(in_channels // scale + skip_channels, out_channels)

    def forward(self, states: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        """`[N, C, h, w]` and, where there is one, `[N, C_s, scale h, scale w]` to `[N, C', scale h, scale w]`."""
        states = self.upsample(states)
        return self.conv(states if skip is None else torch.cat([states, skip], dim=1))


class DeepAVFusionMapModel(DeepAVFusionPreTrainedModel):
    """A model whose decoder turns the patches of some layers into a map."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """As the encoder; the decoder's convolutions Kaiming-normal by fan-out, as published."""
        super()._init_weights(module)
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module is not self.get_input_embeddings():
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        return self.deepavfusion.get_input_embeddings()

    def freeze_encoder(self) -> None:
        """Train the decoder alone."""
        self.deepavfusion.requires_grad_(False)

    def encode(
        self, *inputs: torch.Tensor | None, layers: list[int], output_hidden_states=None, **kwargs
    ) -> tuple[DeepAVFusionModelOutput, list[torch.Tensor] | None, list[torch.Tensor] | None]:
        """The encoder's output, and what leaves `layers` before the final LayerNorms: patches of frame and spectrogram.

        Hidden states stay in the output only where `output_hidden_states` (or the configuration) asks for all of them.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        indices = sorted({layer + 1 for layer in layers})  # the first of the states enters the first layer
        outputs = self.deepavfusion(
            *inputs, output_hidden_states=True if output_hidden_states else indices, **{**kwargs, "return_dict": True}
        )
        streams = []
        for states in (outputs.image_hidden_states, outputs.audio_hidden_states):
            if states is None:
                streams.append(None)
                continue
            found = dict(enumerate(states)) if output_hidden_states else dict(zip(indices, states, strict=True))
            streams.append([found[layer + 1] for layer in layers])
        if not output_hidden_states:
            for name in ("hidden_states", "image_hidden_states", "audio_hidden_states", "fusion_hidden_states"):
                outputs[name] = None
        return outputs, *streams


# fields of the encoder's output that the task models pass on
SIDE_OUTPUTS = (
    "hidden_states",
    "image_hidden_states",
    "audio_hidden_states",
    "fusion_hidden_states",
    "attentions",
    "audio_attentions",
    "fusion_attentions",
)


def side_outputs(outputs: DeepAVFusionModelOutput) -> dict[str, tuple | None]:
    """States and attentions, where they were asked for."""
    return {name: outputs.get(name) for name in SIDE_OUTPUTS}


def spread_layers(num_layers: int, count: int) -> list[int]:
    """`count` layers from the first to the last, evenly spaced and rounded down: [0, 3, 7, 11] for 12 and 4."""
    return [index * (num_layers - 1) // (count - 1) for index in range(count)]


def as_map(states: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Patches `[N, h w, C]` to `[N, C, h, w]`."""
    return states.transpose(1, 2).unflatten(2, grid)


def beside(states: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """`[N, C, h, w]` with the vector `[N, C']` at every place behind it: `[N, C + C', h, w]`."""
    return torch.cat([states, vector[:, :, None, None].expand(-1, -1, *states.shape[-2:])], dim=1)


__all__ = [
    "DeepAVFusionDoubleConv",
    "DeepAVFusionMapModel",
    "DeepAVFusionUpsampling",
    "as_map",
    "beside",
    "side_outputs",
    "spread_layers",
]
