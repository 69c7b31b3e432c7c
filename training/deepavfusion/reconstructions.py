# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of DeepAVFusion's pre-training: frame and spectrogram as given, as masked, and as reconstructed."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from modeling_deepavfusion import DeepAVFusionForPreTraining
from modeling_deepavfusion.pretraining_and_classification_deepavfusion import patchify, unpatchify
from training.common.map_pictures import displayed_frame


HEIGHT = 224  # pixels of a row; smaller inputs are enlarged


def reconstructed(
    images: torch.Tensor, logits: torch.Tensor, mask: torch.Tensor, patch: int, standardized: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs with hidden patches left blank (NaN), and with the model's patches in their places.

    Args:
        images: `[N, C, H, W]`, multiples of `patch`.
        logits: `[N, P, patch * patch * C]`.
        mask: `[N, P]`, 1 where hidden.
        standardized: logits are patches standardized by their own mean and deviation, which are taken from the input:
            the picture shows what the model knows of the pattern, not of brightness and contrast.
    """
    patches, hidden = patchify(images, patch), mask.bool()[..., None]
    if standardized:
        deviation = (patches.var(-1, keepdim=True) + 1e-6).sqrt()
        logits = logits * deviation + patches.mean(-1, keepdim=True)
    grid = (images.shape[-2] // patch, images.shape[-1] // patch)
    blank = torch.where(hidden, torch.nan, patches)
    filled = torch.where(hidden, logits.to(patches.dtype), patches)
    return unpatchify(blank, patch, grid), unpatchify(filled, patch, grid)


@torch.no_grad()
def save_reconstructions(
    path: str | os.PathLike,
    model: DeepAVFusionForPreTraining,
    batch: dict[str, torch.Tensor],
    processor: Any,
    seed: int = 0,
) -> Path:
    """Write one picture (png), a row a clip: frame, masked, reconstructed, then the same of its spectrogram, low below.

    Args:
        path: where; a temporary name is renamed.
        batch: `pixel_values_videos` and `input_features` of clips of one window.
        processor: whose video processor says how the pixels are normalized.
        seed: of the masks.
    """
    config, device = model.config, next(model.parameters()).device
    frames, sound = batch["pixel_values_videos"].to(device), batch["input_features"].to(device)
    generator = torch.Generator().manual_seed(seed)
    noise = {
        f"{name}_noise": torch.rand(len(frames), grid[0] * grid[1], generator=generator).to(device)
        for name, grid in (("image", config.image_grid), ("audio", config.audio_grid))
    }
    outputs = model.eval()(frames, sound, **noise)
    triples = {}
    for name, images in (("image", frames[:, 0]), ("audio", sound)):
        blank, filled = reconstructed(
            images, outputs[f"{name}_logits"], outputs[f"{name}_mask"], config.patch_size, config.norm_pix_loss
        )
        triples[name] = [values.cpu() for values in (images, blank, filled)]
    rows = []
    for index in range(len(frames)):
        tiles = [shown_frame(values[index], processor.video_processor) for values in triples["image"]]
        low, high = (float(limit) for limit in triples["audio"][0][index].aminmax())
        tiles += [shown_spectrogram(values[index, 0], low, high) for values in triples["audio"]]
        rows.append(np.concatenate([np.pad(resized(tile), ((1, 1), (1, 1), (0, 0))) for tile in tiles], 1))
    return save_rows(rows, path)


def save_rows(rows: list[np.ndarray], path: str | os.PathLike) -> Path:
    """Write rows `[h, W, 3]` of uint8, one below the other, as a PNG file; returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    Image.fromarray(np.concatenate(rows, 0)).save(temporary, format="png")
    os.replace(temporary, path)
    return path


def shown_frame(pixels: torch.Tensor, video_processor: Any) -> np.ndarray:
    """Normalized `[3, H, W]` to uint8 `[H, W, 3]`, blank patches gray."""
    blank = pixels.isnan().any(0)
    picture = displayed_frame(pixels.nan_to_num(), video_processor).copy()
    picture[blank.numpy()] = 128
    return picture


def shown_spectrogram(features: torch.Tensor, low: float, high: float) -> np.ndarray:
    """`[F, W]` to uint8 `[F, W, 3]`, low frequencies below, loud light, blank patches in blue."""
    shades = ((features.nan_to_num() - low) / max(high - low, 1e-6)).clamp(0, 1) * 255
    picture = shades.round().to(torch.uint8)[..., None].expand(-1, -1, 3).numpy().copy()
    picture[features.isnan().numpy()] = (40, 60, 120)
    return picture[::-1]


def resized(picture: np.ndarray) -> np.ndarray:
    """To the height of a row."""
    width = round(picture.shape[1] * HEIGHT / picture.shape[0])
    return np.array(Image.fromarray(picture).resize((width, HEIGHT), Image.Resampling.NEAREST))
