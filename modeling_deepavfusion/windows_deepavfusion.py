# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips to windows, which are the model's batch: one frame and one spectrogram each (docs/deepavfusion.md, 1)."""

import torch

from .losses_deepavfusion import num_processes


Streams = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


def check_streams(frames: torch.Tensor | None, spectrograms: torch.Tensor | None) -> None:
    """Raises ValueError unless frames are `[B, S, C, H, W]`, spectrograms `[B, S, F, W]`, or one of them is absent."""
    if frames is None and spectrograms is None:
        raise ValueError("Give pixel_values_videos, input_features or both.")
    if frames is not None and frames.ndim != 5:
        raise ValueError(f"pixel_values_videos must be [B, S, C, H, W], got shape {tuple(frames.shape)}.")
    if spectrograms is not None and spectrograms.ndim != 4:
        raise ValueError(f"input_features must be [B, S, F, W], got shape {tuple(spectrograms.shape)}.")
    if frames is not None and spectrograms is not None and frames.shape[:2] != spectrograms.shape[:2]:
        raise ValueError(
            f"pixel_values_videos holds {frames.shape[0]} clips of {frames.shape[1]} frames, input_features "
            f"{spectrograms.shape[0]} clips of {spectrograms.shape[1]} spectrograms. A window is one frame and one "
            "spectrogram: give as many of both, zero-filled with has_video / has_audio where one is missing."
        )


def complete_streams(
    config,
    frames: torch.Tensor | None,
    spectrograms: torch.Tensor | None,
    has_video: torch.Tensor | None,
    has_audio: torch.Tensor | None,
) -> Streams:
    """Zeros, marked as missing, for a modality that the batch of this one of several training processes lacks.

    Data-parallel processes wait for each other's gradients, so all have to use the same parameters.
    """
    check_streams(frames, spectrograms)
    if num_processes() == 1 or (frames is not None and spectrograms is not None):
        return frames, spectrograms, has_video, has_audio
    given = spectrograms if frames is None else frames
    missing = torch.zeros(len(given), dtype=torch.bool, device=given.device)
    if frames is None:
        height, width = (side * config.patch_size for side in config.image_grid)
        return given.new_zeros(*given.shape[:2], config.num_channels, height, width), given, missing, has_audio
    shape = (*given.shape[:2], config.num_mel_bins, config.audio_num_frames)
    return given, given.new_zeros(shape), has_video, missing


def as_windows(
    frames: torch.Tensor | None,
    spectrograms: torch.Tensor | None,
    has_video: torch.Tensor | None,
    has_audio: torch.Tensor | None,
    audio_num_channels: int = 1,
) -> Streams:
    """Windows flattened into the batch: frames `[N, C, H, W]`, spectrograms `[N, C, F, W]`, and which are there, `[N]`."""
    check_streams(frames, spectrograms)
    num_windows = (spectrograms if frames is None else frames).shape[1]
    has_video, has_audio = (
        None if there is None or inputs is None else there.bool().repeat_interleave(num_windows)
        for there, inputs in ((has_video, frames), (has_audio, spectrograms))
    )
    if frames is not None:
        frames = frames.flatten(0, 1)
    if spectrograms is not None:
        # a ViT of several channels sees the one channel of a spectrogram in each
        spectrograms = spectrograms.flatten(0, 1)[:, None].expand(-1, audio_num_channels, -1, -1)
    return frames, spectrograms, has_video, has_audio


__all__ = ["as_windows", "check_streams", "complete_streams"]
