# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures and spectrograms to patches with positions, for the shared ViT (docs/maavt.md, 1)."""

import torch
from torch import nn
from transformers import ViTConfig
from transformers.models.vit.modeling_vit import ViTPatchEmbeddings


def as_pair(size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


class MAAVTPatchEmbeddings(ViTPatchEmbeddings):
    """ViT's patch convolution, also for pictures of one channel and of any size, as one product of patches and kernel.

    A module of its own with all that reads the kernel inside: FSDP shards it apart and gathers it for its forward only.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`[N, 3 or 1, H, W]` to `[N, P, D]`."""
        weight = self.projection.weight
        if images.shape[1] == 1 and weight.shape[1] > 1:
            # equal to repeating the one channel of a spectrogram, at a third of the cost
            weight = weight.sum(1, keepdim=True)
        height, width = weight.shape[-2:]
        rows, columns = images.shape[-2] // height, images.shape[-1] // width
        images = images[..., : rows * height, : columns * width].to(weight.dtype)
        patches = images.unflatten(-1, (columns, width)).unflatten(-3, (rows, height)).permute(0, 2, 4, 1, 3, 5)
        return nn.functional.linear(patches.flatten(3).flatten(1, 2), weight.flatten(1), self.projection.bias)


class MAAVTEmbeddings(nn.Module):
    """Patches, class token, background token and positions: `[cls | patches | background?]` (docs/maavt.md, 1).

    `own_class_token` keeps the class token here, with the backbone, where learned tokens enter late.
    """

    def __init__(self, config: ViTConfig, position_interpolation: str, own_class_token: bool = False):
        super().__init__()
        class_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if own_class_token else None
        self.register_parameter("cls_token", class_token)
        self.patch_embeddings = MAAVTPatchEmbeddings(config)
        self.position_embeddings = nn.Parameter(
            torch.zeros(1, self.patch_embeddings.num_patches + 1, config.hidden_size)
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.patch_size = as_pair(config.patch_size)
        self.trained_grid = tuple(
            side // patch for side, patch in zip(as_pair(config.image_size), self.patch_size, strict=True)
        )
        self.position_interpolation = position_interpolation

    def grid(self, images: torch.Tensor) -> tuple[int, int]:
        """Patches along height and width; what exceeds a multiple of the patch size is dropped by the stride."""
        return images.shape[-2] // self.patch_size[0], images.shape[-1] // self.patch_size[1]

    def forward(
        self, images: torch.Tensor, class_token: torch.Tensor | None, background: torch.Tensor | None
    ) -> torch.Tensor:
        """`[N, 3 or 1, H, W]` to `[N, 1 + P (+ 1), D]`."""
        channels = self.patch_embeddings.num_channels
        if images.ndim != 4 or images.shape[1] not in (1, channels):
            raise ValueError(
                f"Images of shape {tuple(images.shape)} need 1 or {channels} channels in their second axis."
            )
        if min(self.grid(images)) < 1:
            raise ValueError(
                f"Inputs of {images.shape[-2]}x{images.shape[-1]} are smaller than one patch of "
                f"{self.patch_size[0]}x{self.patch_size[1]}; give larger frames or spectrograms."
            )
        patches = self.patch_embeddings(images)
        class_token = self.cls_token if class_token is None else class_token
        pieces = [class_token.to(patches.dtype).expand(patches.shape[0], -1, -1), patches]
        positions = self.positions(self.grid(images), background is not None).to(patches.dtype)
        if background is not None:
            pieces.append(background.to(patches.dtype).expand(patches.shape[0], 1, -1))
            if positions.shape[1] == patches.shape[1] + 1:  # the background token has no position of its own
                positions = nn.functional.pad(positions, (0, 0, 0, 1))
        return self.dropout(torch.cat(pieces, dim=1) + positions)

    def positions(self, grid: tuple[int, int], with_background: bool) -> torch.Tensor:
        """Position table for a patch grid: `[1, 1 + P (+ 1), D]`."""
        table = self.position_embeddings
        if self.position_interpolation == "sequence":
            length = 1 + grid[0] * grid[1] + int(with_background)
            if length == table.shape[1]:
                return table
            return nn.functional.interpolate(table.float().transpose(1, 2), length, mode="linear").transpose(1, 2)
        if grid == self.trained_grid:
            return table
        patches = table[:, 1:].float().unflatten(1, self.trained_grid).permute(0, 3, 1, 2)
        patches = nn.functional.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
        return torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


__all__ = ["MAAVTEmbeddings", "MAAVTPatchEmbeddings"]
