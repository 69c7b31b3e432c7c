# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Waveforms to spectrograms: batched functions on tensors `[..., n]`, on the device of their input."""

import functools
import math
import warnings

import torch
import torchaudio
from torchaudio.compliance import kaldi


def squared_magnitude(spectrum: torch.Tensor) -> torch.Tensor:
    """`|X|^2` of a complex tensor."""
    return spectrum.real.square() + spectrum.imag.square()


def stft(
    waveform: torch.Tensor,
    n_fft: int,
    hop_length: int,
    win_length: int | None = None,
    pad_mode: str = "constant",
) -> torch.Tensor:
    """The complex short-time Fourier transform with a periodic Hann window; frame t is centered on sample `t * hop_length`.

    Args:
        waveform: float `[..., n]`.
        n_fft: transform length in samples.
        hop_length: samples between frames.
        win_length: window length in samples, centered in the transform; None is `n_fft`.
        pad_mode: what lies beyond the ends: zeros ("constant") or the signal mirrored ("reflect"; more than
            `n_fft // 2` samples).

    Returns:
        `[..., n_fft // 2 + 1, 1 + n // hop_length]` (even `n_fft`).
    """
    # torch.stft takes one leading axis.
    flat = waveform.reshape(-1, waveform.shape[-1])
    spectrum = torch.stft(
        flat,
        n_fft,
        hop_length,
        win_length or n_fft,
        window=hann_window(win_length or n_fft, flat.device, flat.dtype),
        center=True,
        pad_mode=pad_mode,
        return_complex=True,
    )
    return spectrum.reshape(*waveform.shape[:-1], *spectrum.shape[-2:])


def log_stft(
    waveform: torch.Tensor,
    n_fft: int,
    hop_length: int,
    win_length: int | None = None,
    log_offset: float = 1e-7,
) -> torch.Tensor:
    """`ln(|STFT| + log_offset)`, `[..., n_fft // 2 + 1, frames]`."""
    return torch.log(stft(waveform, n_fft, hop_length, win_length).abs() + log_offset)


def log_mel(
    waveform: torch.Tensor,
    sampling_rate: int,
    n_fft: int,
    hop_length: int,
    win_length: int | None,
    num_bins: int,
    min_frequency: float = 0.0,
    max_frequency: float | None = None,
    log_offset: float = 1e-6,
    pad_mode: str = "constant",
    log_base: str = "e",
) -> torch.Tensor:
    """Logarithm ("e" or "10") of mel power + `log_offset`, `[..., num_bins, frames]`; HTK triangles of height one."""
    # Power at linear frequencies, then in the mel filters
    power = squared_magnitude(stft(waveform, n_fft, hop_length, win_length, pad_mode=pad_mode))
    filters = mel_filters(
        sampling_rate, n_fft, num_bins, min_frequency, max_frequency or sampling_rate / 2, power.device, power.dtype
    )
    logarithm = torch.log10 if log_base == "10" else torch.log
    return logarithm(filters.T @ power + log_offset)


def kaldi_fbank(
    waveform: torch.Tensor,
    sampling_rate: int,
    num_bins: int,
    win_length: int,
    hop_length: int,
    min_frequency: float = 20.0,
    max_frequency: float | None = None,
) -> torch.Tensor:
    """Kaldi's log mel filter bank without dither and energy, Hann window, frames inside the signal only.

    The same numbers as `torchaudio.compliance.kaldi.fbank(..., window_type="hanning", htk_compat=True, dither=0,
    use_energy=False)`, but for a whole batch at once.

    Args:
        waveform: float `[..., n]`, in -1..1.
        sampling_rate: in Hz.
        num_bins: mel filters.
        win_length, hop_length: in samples.
        min_frequency, max_frequency: of the filters in Hz; None is half the sampling rate.

    Returns:
        `[..., num_bins, frames]`, `frames = 1 + (n - win_length) // hop_length`.
    """
    n_fft = 1 << (win_length - 1).bit_length()
    # Frames without their mean, with the high frequencies raised, under a window
    frames = waveform.unfold(-1, win_length, hop_length)  # [..., frames, win_length]
    frames = frames - frames.mean(-1, keepdim=True)
    previous = torch.cat([frames[..., :1], frames[..., :-1]], -1)
    frames = (frames - 0.97 * previous) * hann_window(win_length, frames.device, frames.dtype, periodic=False)
    # Power in the mel filters
    power = squared_magnitude(torch.fft.rfft(frames, n_fft))
    filters = kaldi_filters(
        sampling_rate, n_fft, num_bins, min_frequency, max_frequency or 0.0, power.device, power.dtype
    )
    floor = torch.finfo(torch.float32).eps
    return (power @ filters.T).clamp_min(floor).log().transpose(-1, -2)


def normalize_per_clip(spectrogram: torch.Tensor, dims: tuple[int, ...] = (-2, -1)) -> torch.Tensor:
    """Zero mean and unit standard deviation over `dims`; a constant spectrogram becomes zeros."""
    # The deviation is a norm of norms: one sum over all entries loses two digits.
    centered = spectrogram - spectrogram.mean(dims, keepdim=True)
    count = math.prod(spectrogram.shape[dim] for dim in dims)
    norms = torch.linalg.vector_norm(centered, dim=dims[-1], keepdim=True)
    deviation = torch.linalg.vector_norm(norms, dim=dims, keepdim=True) / math.sqrt(count)
    return centered / deviation.clamp_min(1e-2)  # no recording varies so little; silence would be blown-up rounding


def normalize_fixed(spectrogram: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    """`(x - mean) / (2 std)`, the scale of the Audio Spectrogram Transformer."""
    return (spectrogram - mean) / (2 * std)


def fit_frames(spectrogram: torch.Tensor, num_frames: int, value: float = 0.0) -> torch.Tensor:
    """`[..., bins, frames]` cut, or padded at the end with `value`, to `num_frames`."""
    # Too few or too many?
    missing = num_frames - spectrogram.shape[-1]
    if missing > 0:
        return torch.nn.functional.pad(spectrogram, (0, missing), value=value)
    return spectrogram[..., :num_frames]


def append_reversed(waveform: torch.Tensor, num_samples: int) -> torch.Tensor:
    """`[..., n]` lengthened to at least `num_samples`: while it is shorter, its time reversal is appended."""
    # Each round doubles the length.
    while waveform.shape[-1] < num_samples:
        waveform = torch.cat([waveform, waveform.flip(-1)], -1)
    return waveform


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

    As in the reference implementation: the frames that the spectrogram dropped are masked with zeros, the mask goes through the mel filters
    to the linear frequencies, and these shares multiply the mixture's complex spectrum. The filters do not sum to one
    over the mel bins, so that a mask of ones is not the identity; `renormalize` (our addition) divides by that sum.

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
    # The spectrum has the frames that the spectrogram dropped at its end.
    spectrum = stft(mixture, n_fft, hop_length, win_length, pad_mode="reflect")
    missing = spectrum.shape[-1] - mask.shape[-1]
    if missing < 0:
        raise ValueError(
            f"mask: {mask.shape[-1]} frames, but {mixture.shape[-1]} samples give {spectrum.shape[-1]}; give the waveform "
            "that the spectrogram was made of"
        )
    # From mel bins to linear frequencies: (..., F, W) -> (..., n_fft // 2 + 1, frames)
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
    # Back to samples
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


# Windows and filters depend on few numbers: made once per device, shared by every call. They are made outside of
# inference mode, so that a later call with gradients can use them.


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)
def hann_window(length: int, device: torch.device, dtype: torch.dtype, periodic: bool = True) -> torch.Tensor:
    """`[length]` Hann window."""
    return torch.hann_window(length, periodic=periodic, device=device, dtype=dtype)


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)
def mel_filters(
    sampling_rate: int,
    n_fft: int,
    num_bins: int,
    min_frequency: float,
    max_frequency: float,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """`[n_fft // 2 + 1, num_bins]` triangular filters on the HTK mel scale."""
    filters = torchaudio.functional.melscale_fbanks(
        n_fft // 2 + 1, min_frequency, max_frequency, num_bins, sampling_rate, norm=None, mel_scale="htk"
    )
    return filters.to(device, dtype)


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)
def kaldi_filters(
    sampling_rate: int,
    n_fft: int,
    num_bins: int,
    min_frequency: float,
    max_frequency: float,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """`[num_bins, n_fft // 2 + 1]` Kaldi mel filters (`max_frequency` <= 0 counts from half the sampling rate)."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # 224 filters on 257 frequencies: some are empty, as in the reference implementation
        filters, _ = kaldi.get_mel_banks(
            num_bins, n_fft, float(sampling_rate), min_frequency, max_frequency, 100.0, -500.0, 1.0
        )
    return torch.nn.functional.pad(filters, (0, 1)).to(device, dtype)  # the last frequency has no weight
