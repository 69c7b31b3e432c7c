# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Figures of DeepAVFusion's pre-training (reconstructions) and of its separation (spectrograms)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_deepavfusion import DeepAVFusionForPreTraining
from modeling_deepavfusion.pretraining_and_classification_deepavfusion import patchify, unpatchify
from training.common.map_pictures import PictureGrid, can_draw, label_axes, show_frame, show_spectrogram


POWER = "log10 of mel power"


def reconstructed(
    images: torch.Tensor, logits: torch.Tensor, mask: torch.Tensor, patch: int, standardized: bool
) -> dict[str, torch.Tensor]:
    """Heading to images `[N, C, H, W]`: the input with its hidden patches blank (NaN), then with three things in their places.

    A standardized output says nothing of a patch's brightness and contrast. With the true ones it looks learned after a
    few steps, so the true means alone, which need no model, stand beside it, and the output on its own means.

    Args:
        images: `[N, C, H, W]`, multiples of `patch`.
        logits: `[N, P, patch * patch * C]`.
        mask: `[N, P]`, 1 where hidden.
        standardized: logits are patches standardized by their own mean and deviation (`norm_pix_loss`).
    """
    patches, hidden = patchify(images, patch), mask.bool()[..., None]  # (N, P, V), (N, P, 1)
    logits = logits.to(patches.dtype)
    means = patches.mean(-1, keepdim=True)  # (N, P, 1)
    fillings = {
        "masked\n(input)": torch.full_like(patches, torch.nan),
        "true patch means\n(no model)": means.expand_as(patches),
    }
    if not standardized:
        fillings["output\n(model)"] = logits
    else:
        # The model's own scale: mean and deviation over the patches that it sees.
        visible = torch.where(hidden, torch.nan, patches)
        mean = visible.nanmean((1, 2), keepdim=True)
        deviation = (visible - mean).square().nanmean((1, 2), keepdim=True).sqrt()
        fillings["output\non its own means"] = logits * deviation + mean
        fillings["output on the true means\nand deviations"] = (
            logits * (patches.var(-1, keepdim=True) + 1e-6).sqrt() + means
        )
    grid = (images.shape[-2] // patch, images.shape[-1] // patch)
    return {
        heading: unpatchify(torch.where(hidden, filling, patches), patch, grid)
        for heading, filling in fillings.items()
    }


def mask_noise(
    model: DeepAVFusionForPreTraining, num_windows: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """`image_noise` and `audio_noise` for the masks of so many windows, on the model's device.

    Args:
        generator: of the CPU, so that the masks do not depend on the device.
    """
    config, device = model.config, next(model.parameters()).device
    noise = {}
    for name, (rows, columns) in (("image", config.image_grid), ("audio", config.audio_grid)):
        noise[f"{name}_noise"] = torch.rand(num_windows, rows * columns, generator=generator).to(device)
    return noise


@torch.no_grad()
def save_reconstructions(
    path: str | Path, model: DeepAVFusionForPreTraining, batch: dict[str, torch.Tensor], processor: Any
) -> None:
    """Write one figure (png), two rows a clip: its frame and its spectrogram, as given, masked and filled in.

    Args:
        batch: `pixel_values_videos` and `input_features` of clips of one window.
        processor: says how the pixels are normalized and what the spectrogram's axes are.
    """
    if not can_draw(path):
        return
    config, device = model.config, next(model.parameters()).device
    frames, audio = batch["pixel_values_videos"].to(device), batch["input_features"].to(device)
    outputs = model.eval()(frames, audio, **mask_noise(model, len(frames), torch.Generator().manual_seed(0)))

    # For both modalities: the truth, and what is put in the places of the hidden patches.
    panels = {}
    for name, images in (("image", frames[:, 0]), ("audio", audio)):
        filled = reconstructed(
            images, outputs[f"{name}_logits"], outputs[f"{name}_mask"], config.patch_size, config.norm_pix_loss
        )
        panels[name] = {"given\n(truth)": images} | filled

    legend = "Odd rows: frames; gray patches are hidden. Even rows: spectrograms; blue patches are hidden."
    if config.norm_pix_loss:
        legend += (
            " The model is trained on standardized patches, without their brightness and contrast: 'on its own means' takes"
            " those of the visible patches, the last column the true ones."
        )
    # Two rows a clip; a spectrogram's shades span what the clip has.
    grid = PictureGrid(2 * len(frames), list(panels["image"]), legend)
    for clip in range(len(frames)):
        for axes, images in zip(grid.axes[2 * clip], panels["image"].values(), strict=True):
            show_frame(axes, images[clip].cpu(), processor.video_processor)
        limits = [float(limit) for limit in audio[clip].aminmax()]
        for axes, images in zip(grid.axes[2 * clip + 1], panels["audio"].values(), strict=True):
            image = show_spectrogram(axes, images[clip, 0].cpu(), limits, processor.feature_extractor)
    label_axes(grid.axes[-1, 0], processor.feature_extractor)
    grid.color_bar(image, f"{POWER} (spectrograms; ends differ by clip)")
    image.colorbar.set_ticks(limits, labels=["quietest", "loudest"])
    grid.save(path)


def save_spectrograms(
    path: str | Path, rows: Sequence[tuple[torch.Tensor, Sequence[torch.Tensor]]], processor: Any
) -> None:
    """Write one figure (png): for each row the frame that is seen, then the spectrograms of mixture, output and truth.

    Args:
        rows: (`[3, H, W]` normalized pixels, three waveforms `[n]`).
        processor: gives the spectrograms, and says how the pixels are normalized.
    """
    if not rows or not can_draw(path):
        return
    headings = ["frame seen\n(input)", "mixture\n(input)", "separated\n(output)", "source of the frame\n(truth)"]
    legend = "Each row: the model hears the mixture and gives the audio of what the frame shows."
    grid = PictureGrid(len(rows), headings, legend, [1.0, 1.5, 1.5, 1.5])
    extractor = processor.feature_extractor
    rate = extractor.sampling_rate
    features = [extractor(list(waves), sampling_rate=rate)["input_features"] for _, waves in rows]
    features = torch.as_tensor(np.stack(features))[:, :, 0]  # (rows, 3, F, W)
    # Shades span what the mixtures have.
    limits = [float(limit) for limit in features[:, 0].aminmax()]
    for axes, (pixels, _), spectrograms in zip(grid.axes, rows, features, strict=True):
        show_frame(axes[0], pixels, processor.video_processor)
        for axis, spectrogram in zip(axes[1:], spectrograms, strict=True):
            image = show_spectrogram(axis, spectrogram, limits, extractor)
    label_axes(grid.axes[-1, 1], extractor)
    grid.color_bar(image, POWER)
    grid.save(path)
