# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The decoder of one modality in pre-training, and patches as vectors (docs/deepavfusion.md, 4)."""

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .embeddings_deepavfusion import resample_positions, sincos_positions, take_tokens
from .layers_deepavfusion import DeepAVFusionViTBlock


def patchify(images: torch.Tensor, patch: int) -> torch.Tensor:
    """`[N, C, H, W]` to `[N, P, patch * patch * C]`: row in the patch, column, channel, the last fastest."""
    rows, columns = images.shape[-2] // patch, images.shape[-1] // patch
    images = images[..., : rows * patch, : columns * patch]
    blocks = images.unflatten(-1, (columns, patch)).unflatten(-3, (rows, patch))  # [N, C, rows, p, columns, p]
    return blocks.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: torch.Tensor, patch: int, grid: tuple[int, int]) -> torch.Tensor:
    """The inverse of `patchify`: `[N, P, patch * patch * C]` to `[N, C, H, W]`."""
    blocks = patches.unflatten(1, grid).unflatten(-1, (patch, patch, -1))  # [N, rows, columns, p, p, C]
    return blocks.permute(0, 5, 1, 3, 2, 4).flatten(-2).flatten(2, 3)


class DeepAVFusionDecoderLayer(DeepAVFusionViTBlock, GradientCheckpointingLayer):
    """A plain ViT block, never dropped."""

    def __init__(self, config):
        super().__init__(
            config,
            config.decoder_hidden_size,
            config.decoder_num_attention_heads,
            config.decoder_intermediate_size,
            config.decoder_layer_norm_eps,
            drop_path_rate=0.0,
        )


class DeepAVFusionDecoder(nn.Module):
    """Visible patches, mask tokens and fusion tokens to the values of every patch. It never sees the other modality.

    Its positions start as sin-cos and are trained, as published.
    """

    def __init__(self, config, num_channels: int, grid: tuple[int, int]):
        super().__init__()
        width = config.decoder_hidden_size
        self.trained_grid = grid
        self.embed = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(sincos_positions(grid, width))
        self.layers = nn.ModuleList(
            [DeepAVFusionDecoderLayer(config) for _ in range(config.decoder_num_hidden_layers)]
        )
        self.layernorm = nn.LayerNorm(width, eps=config.decoder_layer_norm_eps)
        self.predictor = nn.Linear(width, config.patch_size**2 * num_channels)

    def forward(
        self, patches: torch.Tensor, fusion: torch.Tensor, ids_restore: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """Visible patches `[N, K, D]`, fusion tokens `[N, n, D]` and `ids_restore` `[N, P]` to `[N, P, V]`."""
        visible, fusion = self.embed(patches), self.embed(fusion)
        hidden = self.mask_token.to(visible.dtype).expand(len(visible), ids_restore.shape[1] - visible.shape[1], -1)
        tokens = take_tokens(torch.cat([visible, hidden], dim=1), ids_restore)
        tokens = tokens + resample_positions(self.position_embeddings, self.trained_grid, grid).to(tokens.dtype)
        num_fusion = fusion.shape[1]
        states = torch.cat([fusion, tokens], dim=1)
        for layer in self.layers[:-1]:
            states, _ = layer(states)
        # nobody reads what the last layer makes of the fusion tokens
        tokens, _ = self.layers[-1](states[:, num_fusion:], states[:, :num_fusion])
        return self.predictor(self.layernorm(tokens))


__all__ = ["DeepAVFusionDecoder", "DeepAVFusionDecoderLayer", "patchify", "unpatchify"]
