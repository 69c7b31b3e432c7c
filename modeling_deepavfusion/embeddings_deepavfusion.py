# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Frames and spectrograms to patches with fixed sin-cos positions; the learned fusion tokens (docs/deepavfusion.md, 1)."""

import torch
from torch import nn

from .layers_deepavfusion import starts_within


def sincos_positions(grid: tuple[int, int], width: int) -> torch.Tensor:
    """2-D sin-cos table `[1, rows * columns, D]`: the first half of D encodes the column, the second half the row.

    Either half is `[sin(p w_k) | cos(p w_k)]` with w_k = 10000^(-k / (D / 4)), k = 0 .. D / 4 - 1.
    """
    frequencies = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    halves = [positions.reshape(-1, 1) * frequencies for positions in (columns, rows)]
    return torch.cat([wave for half in halves for wave in (half.sin(), half.cos())], dim=1).float()[None]


def resample_positions(table: torch.Tensor, trained: tuple[int, int], grid: tuple[int, int]) -> torch.Tensor:
    """A table `[1, P, D]` of one patch grid, bicubic at another; the same tensor where the grids are the same."""
    if grid == trained:
        return table
    planes = table.float().unflatten(1, trained).permute(0, 3, 1, 2)
    planes = nn.functional.interpolate(planes, size=grid, mode="bicubic", align_corners=False)
    return planes.flatten(2).transpose(1, 2).to(table.dtype)


def take_tokens(tokens: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Rows `ids` `[N, K]` of `tokens` `[N, P, D]`: `[N, K, D]`."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


class DeepAVFusionEmbeddings(nn.Module):
    """Patch convolution of one ViT and its positions, which are no parameter but are saved with the model."""

    def __init__(self, num_channels: int, patch_size: int, grid: tuple[int, int], width: int):
        super().__init__()
        self.trained_grid, self.patch_size, self.num_channels = grid, patch_size, num_channels
        self.projection = nn.Conv2d(num_channels, width, kernel_size=patch_size, stride=patch_size)
        starts_within(self.projection, num_channels * patch_size**2, width)
        self.register_buffer("position_embeddings", sincos_positions(grid, width))

    def grid(self, images: torch.Tensor) -> tuple[int, int]:
        """Patches along height and width; what exceeds a multiple of the patch size is dropped by the stride."""
        return images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size

    def forward(self, images: torch.Tensor, ids_keep: torch.Tensor | None = None) -> torch.Tensor:
        """`[N, C, H, W]` to `[N, P, D]`, or to the patches `ids_keep` `[N, K]` alone: `[N, K, D]`.

        Raises:
            ValueError: other channels, inputs smaller than a patch, or `ids_keep` for other inputs.
        """
        if images.shape[1] != self.num_channels:
            raise ValueError(f"Inputs of shape {tuple(images.shape)} need {self.num_channels} channels (second axis).")
        grid = self.grid(images)
        if min(grid) < 1:
            raise ValueError(
                f"Inputs of {images.shape[-2]}x{images.shape[-1]} are smaller than one patch of {self.patch_size}x"
                f"{self.patch_size}; give larger frames or spectrograms."
            )
        patches = self.projection(images.to(self.projection.weight.dtype)).flatten(2).transpose(1, 2)
        tokens = patches + resample_positions(self.position_embeddings, self.trained_grid, grid).to(patches.dtype)
        if ids_keep is None:
            return tokens
        if ids_keep.ndim != 2 or len(ids_keep) != len(tokens):
            raise ValueError(
                f"ids_keep (or noise) has shape {tuple(ids_keep.shape)}; expected [{len(tokens)}, patches], one row a window."
            )
        return take_tokens(tokens, ids_keep)


class DeepAVFusionTokens(nn.Module):
    """The learned tokens `[fusion | visual aggregation | audio aggregation]`, `[1, n, D]`, without positions."""

    def __init__(self, config):
        super().__init__()
        self.tokens = nn.Parameter(torch.zeros(1, sum(config.token_counts), config.hidden_size))

    def forward(self, num_windows: int) -> torch.Tensor:
        return self.tokens.expand(num_windows, -1, -1)


__all__ = ["DeepAVFusionEmbeddings", "DeepAVFusionTokens", "resample_positions", "sincos_positions", "take_tokens"]
