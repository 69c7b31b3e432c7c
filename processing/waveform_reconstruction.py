# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""From a mask on a mel spectrogram back to sound: filterbank, complex spectrum of the mixture, inverse transform."""

import torch

from .spectrograms import hann_window, mel_filters, stft


def masked_waveform(
    mask: torch.Tensor,
    mixture: torch.Tensor,
    sampling_rate: int,
    n_fft: int,
    hop_length: int,
    win_length: int | None = None,
    min_frequency: float = 0.0,
    max_frequency: float | None = None,
    renormalize: bool = False,
) -> torch.Tensor:
    """The part of a mixture that a mask on its mel spectrogram lets through.

    As published: the frames that the spectrogram dropped are masked with zeros, the mask goes through the mel filters
    to the linear frequencies, and these shares multiply the mixture's complex spectrum. The filters do not sum to one
    over the mel bins, so that a mask of ones is not the identity; `renormalize` (ours) divides by that sum.

    Args:
        mask: `[..., F, W]` in 0..1, rows are mel bins, low first.
        mixture: float `[..., n]`, the waveform that the spectrogram shows.
        sampling_rate, n_fft, hop_length, win_length, min_frequency, max_frequency: as the spectrogram was made
            (centered, mirrored ends).
        renormalize: divide the share of each linear frequency by the sum of its filters.

    Returns:
        `[..., n]`.

    Raises:
        ValueError: leading axes that differ, or more frames in the mask than the mixture has.
    """
    if mask.shape[:-2] != mixture.shape[:-1]:
        raise ValueError(f"mask {tuple(mask.shape)} and mixture {tuple(mixture.shape)}; give [..., F, W] and [..., n]")
    spectrum = stft(mixture, n_fft, hop_length, win_length, pad_mode="reflect")
    missing = spectrum.shape[-1] - mask.shape[-1]
    if missing < 0:
        raise ValueError(
            f"mask: {mask.shape[-1]} frames, but {mixture.shape[-1]} samples give {spectrum.shape[-1]}; give the waveform "
            "that the spectrogram was made of"
        )
    filters = mel_filters(
        sampling_rate,
        n_fft,
        mask.shape[-2],
        min_frequency,
        max_frequency or sampling_rate / 2,
        spectrum.device,
        mixture.dtype,
    )
    shares = filters @ torch.nn.functional.pad(mask.to(mixture.dtype), (0, missing))
    if renormalize:
        shares = shares / filters.sum(1, keepdim=True).clamp_min(torch.finfo(shares.dtype).tiny)
    length = win_length or n_fft
    waveform = torch.istft(
        (spectrum * shares).reshape(-1, *spectrum.shape[-2:]),
        n_fft,
        hop_length,
        length,
        window=hann_window(length, spectrum.device, mixture.dtype),
        length=mixture.shape[-1],
    )
    return waveform.reshape(mixture.shape)


__all__ = ["masked_waveform"]
