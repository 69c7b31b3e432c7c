# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Feature extractor: waveforms to the one-channel spectrograms that MA-AVT's vision transformer reads."""

import math
from typing import Any

import numpy as np
import torch
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature
from transformers.utils import logging

from .spectrograms import (
    append_reversed,
    fit_frames,
    kaldi_fbank,
    log_mel,
    log_stft,
    normalize_fixed,
    normalize_per_clip,
)


logger = logging.get_logger(__name__)

LOUDEST = 1e9  # far beyond any scale of samples; the power of larger ones overflows

# The paper's recipes, one for each data set, and "default" for other clips
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # 5 s from second 3 on, as the log magnitude of the short-time Fourier transform
    "vggsound": {
        "transform": "log_stft",
        "sampling_rate": 16000,
        "n_fft": 446,
        "win_length": 446,
        "hop_length": 358,
        "num_bins": 224,
        "num_frames": 224,
        "log_offset": 1e-7,
        "segment_seconds": 5.0,
        "segment_start": 3.0,
        "tile_seconds": 10.0,
        "clip_amplitude": True,
    },
    # the first 3 s of the clip, which is repeated three times
    "crema_d": {
        "transform": "log_stft",
        "sampling_rate": 22050,
        "n_fft": 447,
        "win_length": 447,
        "hop_length": 296,
        "num_bins": 224,
        "num_frames": 224,
        "log_offset": 1e-7,
        "segment_seconds": 3.0,
        "segment_start": 0.0,
        "tile_repeats": 3,
        "clip_amplitude": True,
    },
    # ten segments of 1 s, as Kaldi's filter banks on the scale of the Audio Spectrogram Transformer
    "ave": {
        "transform": "kaldi_fbank",
        "sampling_rate": 16000,
        "win_length": 400,
        "hop_length": 70,
        "num_bins": 224,
        "num_frames": 224,
        "min_frequency": 20.0,
        "time_first": True,
        "segment_seconds": 1.0,
        "num_segments": 10,
        "remove_mean": True,
        "normalization": "fixed",
        "mean": -4.1426,
        "std": 3.2001,
    },
}


class MAAVTFeatureExtractor(SequenceFeatureExtractor):
    """Turns mono waveforms into log spectrograms `input_features` float32 `[B, S, F, W]`.

    A clip gives `num_segments` (S) spectrograms of `segment_seconds` each. The default is a
    log-mel spectrogram at 16 kHz of 112 bins by 448 frames of 10 ms: 7 x 28 = 196 patches of 16, as many as a
    224 x 224 frame has. `MAAVTFeatureExtractor.from_preset` gives the paper's recipes. Audio that is shorter than
    the segment is padded with zeros at its end, unless it is tiled or lengthened first.

    Args:
        feature_size: channels of the waveform; always 1.
        sampling_rate: that the waveforms must have, in Hz.
        padding_value: used by `pad`, which this class does not need itself.
        transform: "log_mel", "log_stft" or "kaldi_fbank".
        n_fft: transform length in samples (`kaldi_fbank` takes the next power of two above `win_length`).
        win_length, hop_length: in samples.
        num_bins: frequency bins F; `n_fft // 2 + 1` for "log_stft".
        num_frames: time frames W; what is missing is padded, what is over is cut.
        min_frequency, max_frequency: of the mel filters in Hz; None is half the sampling rate.
        log_offset: added before the logarithm (not in "kaldi_fbank").
        time_first: rows are time and columns frequency (`[B, S, W, F]`), as in the AVE recipe.
        segment_seconds: length of a segment; None is `num_frames * hop_length / sampling_rate`.
        num_segments: S.
        segment_start: where the first segment starts, in seconds; the others follow it. None spaces the segments
            evenly over the clip; one segment then is the middle of the clip.
        tile_repeats: repeat the waveform this many times first.
        tile_seconds: then repeat it until it is at least this long.
        remove_mean: subtract the waveform's mean.
        clip_amplitude: limit the waveform to -1..1.
        normalization: "per_clip" (zero mean and unit deviation over the clip's spectrograms), "fixed"
            (`(x - mean) / (2 std)`) or None.
        mean, std: of "fixed".
        short_audio: audio shorter than a segment is followed by "zeros", or by itself "reversed" in time, again and
            again until it is long enough.
        log_base: of the logarithm of "log_mel": "e" or "10".
        pad_mode: what the first and last window of "log_mel" see beyond the segment: zeros ("constant") or the
            segment mirrored ("reflect").

    Raises:
        ValueError: an unknown transform, normalization or mode, a size that is not positive, or bins that do not fit.
    """

    # the recipes of `from_preset`, by name
    model_input_names = ["input_features"]
    presets = PRESETS

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        transform: str = "log_mel",
        n_fft: int = 1024,
        win_length: int = 400,
        hop_length: int = 160,
        num_bins: int = 112,
        num_frames: int = 448,
        min_frequency: float = 0.0,
        max_frequency: float | None = None,
        log_offset: float = 1e-6,
        time_first: bool = False,
        segment_seconds: float | None = None,
        num_segments: int = 1,
        segment_start: float | None = None,
        tile_repeats: int = 1,
        tile_seconds: float | None = None,
        remove_mean: bool = False,
        clip_amplitude: bool = False,
        normalization: str | None = "per_clip",
        mean: float = 0.0,
        std: float = 0.5,
        short_audio: str = "zeros",
        log_base: str = "e",
        pad_mode: str = "constant",
        **kwargs: Any,
    ):
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.transform = transform
        self.n_fft = n_fft
        self.win_length = win_length
        self.hop_length = hop_length
        self.num_bins = num_bins
        self.num_frames = num_frames
        self.min_frequency = min_frequency
        self.max_frequency = max_frequency
        self.log_offset = log_offset
        self.time_first = time_first
        self.segment_seconds = segment_seconds
        self.num_segments = num_segments
        self.segment_start = segment_start
        self.tile_repeats = tile_repeats
        self.tile_seconds = tile_seconds
        self.remove_mean = remove_mean
        self.clip_amplitude = clip_amplitude
        self.normalization = normalization
        self.mean = mean
        self.std = std
        self.short_audio = short_audio
        self.log_base = log_base
        self.pad_mode = pad_mode
        self._check_fields()

    def _check_fields(self) -> None:
        # Options with a fixed list of values
        if self.transform not in ("log_mel", "log_stft", "kaldi_fbank"):
            raise ValueError(f'transform={self.transform!r}; use "log_mel", "log_stft" or "kaldi_fbank"')
        if self.normalization not in ("per_clip", "fixed", None):
            raise ValueError(f'normalization={self.normalization!r}; use "per_clip", "fixed" or None')
        modes = {"short_audio": ("zeros", "reversed"), "log_base": ("e", "10"), "pad_mode": ("constant", "reflect")}
        for name, allowed in modes.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f'{name}={getattr(self, name)!r}; use "{allowed[0]}" or "{allowed[1]}"')
        # Sizes
        sizes = ("sampling_rate", "n_fft", "win_length", "hop_length", "num_bins", "num_frames", "num_segments")
        for name in (*sizes, "tile_repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; give a number above 0")
        # Fields that depend on each other
        if self.transform == "log_stft" and self.num_bins != self.n_fft // 2 + 1:
            raise ValueError(
                f"num_bins={self.num_bins}, but n_fft={self.n_fft} gives {self.n_fft // 2 + 1} frequencies; "
                f"set n_fft={2 * (self.num_bins - 1)}"
            )
        if self.transform != "kaldi_fbank" and self.win_length > self.n_fft:
            raise ValueError(f"win_length={self.win_length} is longer than n_fft={self.n_fft}; make n_fft larger")
        if self._segment_samples < self.win_length:
            raise ValueError(f"segment_seconds={self.segment_seconds} is shorter than one window; make it longer")

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> "MAAVTFeatureExtractor":
        """The recipe "vggsound", "crema_d", "ave" (the paper's) or "default", with changes by field name."""
        if name not in cls.presets:
            raise ValueError(f"preset {name!r} is unknown; use one of {', '.join(cls.presets)}")
        return cls(**{**cls.presets[name], **overrides})

    @property
    def _segment_samples(self) -> int:
        if self.segment_seconds is None:
            return self.num_frames * self.hop_length
        return round(self.segment_seconds * self.sampling_rate)

    def segment_windows(self, duration: float) -> list[tuple[float, float]]:
        """Which seconds of a clip of this length each segment hears: S pairs `(start, end)`.

        Frames taken inside them lie under the audio that the model hears. Where the clip is tiled or shorter than
        the segments, that is the whole clip.
        """
        # Where the clip is too short for all segments, each hears the whole of it.
        length = self._segment_samples / self.sampling_rate
        last = 0.0 if self.segment_start is None else self.segment_start + (self.num_segments - 1) * length
        if duration < last + length:
            return [(0.0, duration)] * self.num_segments
        starts = np.asarray(self._starts(round(duration * self.sampling_rate))) / self.sampling_rate
        return [(float(start), float(min(start + length, duration))) for start in starts]

    def heard_window(self, duration: float) -> tuple[float, float]:
        """The part of a clip that has to be decoded so that the spectrograms are those of the whole clip."""
        if self.segment_start is not None or self.tile_repeats > 1 or self.tile_seconds is not None:
            return 0.0, duration
        windows = self.segment_windows(duration)
        return windows[0][0], windows[-1][1]

    def _starts(self, num_samples: int) -> list[int]:
        """First sample of each segment in a (tiled) waveform of this length."""
        # Samples that no segment needs: they lie before, between and after evenly spaced ones.
        free = max(num_samples - self._segment_samples, 0)
        if self.segment_start is not None:
            first = round(self.segment_start * self.sampling_rate)
            return [first + i * self._segment_samples for i in range(self.num_segments)]
        if self.num_segments == 1:
            return [free // 2]
        return [round(i * free / (self.num_segments - 1)) for i in range(self.num_segments)]

    def segments(self, waveform: torch.Tensor) -> torch.Tensor:
        """What the spectrograms show of a waveform: float `[n]` to `[S, samples of a segment]`, tiled and padded."""
        return padded([self._heard(waveform)], self._segment_samples)[0]

    def _heard(self, waveform: torch.Tensor) -> list[torch.Tensor]:
        """The samples of each segment before it is padded: S times `[at most the samples of a segment]`."""
        # The order is that of the reference implementation: mean, tiling, limits.
        if self.remove_mean:
            waveform = waveform - waveform.mean()
        repeats = self.tile_repeats
        if self.tile_seconds is not None:
            missing = self.tile_seconds * self.sampling_rate / (len(waveform) * repeats)
            repeats *= max(1, math.ceil(missing))
        waveform = waveform.repeat(repeats) if repeats > 1 else waveform
        if self.clip_amplitude:
            waveform = waveform.clamp(-1, 1)
        # Cut the segments; the last ones may be short or empty.
        length = self._segment_samples
        if self.short_audio == "reversed" and len(waveform) < length:
            waveform = append_reversed(waveform, length)[:length]
        return [waveform[start : start + length] for start in self._starts(len(waveform))]

    def _transformed_samples(self, heard: int) -> int:
        """How much of a segment is transformed if only so many samples are not silent: what silence gives is known."""
        if self.transform == "kaldi_fbank" or self.log_offset <= 0:
            return self._segment_samples
        return min(heard + self.n_fft, self._segment_samples)

    def _spectrograms(self, segments: torch.Tensor) -> torch.Tensor:
        """`[B, S, n]` -> `[B, S, F, W]`; frames beyond n are those of silence."""
        # What a frame of silence gives: frames beyond the waveform are filled with it.
        logarithm = math.log10 if self.log_base == "10" else math.log
        padding = logarithm(self.log_offset) if self.log_offset > 0 else 0.0
        # The transform: (B, S, n) -> (B, S, F, frames)
        if self.transform == "log_stft":
            features = log_stft(segments, self.n_fft, self.hop_length, self.win_length, self.log_offset)
        elif self.transform == "log_mel":
            features = log_mel(
                segments,
                self.sampling_rate,
                self.n_fft,
                self.hop_length,
                self.win_length,
                self.num_bins,
                self.min_frequency,
                self.max_frequency,
                self.log_offset,
                self.pad_mode,
                self.log_base,
            )
        else:
            padding = 0.0  # as in the reference implementation: padded before the fixed scale
            features = kaldi_fbank(
                segments,
                self.sampling_rate,
                self.num_bins,
                self.win_length,
                self.hop_length,
                self.min_frequency,
                self.max_frequency,
            )
        # Exactly W frames, normalized: (B, S, F, W)
        features = fit_frames(features, self.num_frames, padding)
        if self.normalization == "per_clip":
            features = normalize_per_clip(features, dims=(-3, -2, -1))
        elif self.normalization == "fixed":
            features = normalize_fixed(features, self.mean, self.std)
        return features.transpose(-1, -2).contiguous() if self.time_first else features

    def __call__(
        self,
        audio: Any,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Spectrograms of one waveform or a batch.

        Args:
            audio: mono waveforms in -1..1: `[n]`, `[B, n]`, or a list of `[n]` of any lengths (arrays, tensors on
                any one device, or lists of numbers).
            sampling_rate: of the waveforms; it must be the feature extractor's.
            return_tensors: "pt" or "np"; None leaves PyTorch tensors.
            device: compute there; None is where the waveforms are.
            kwargs: padding options of other feature extractors; every spectrogram has one size here.

        Returns:
            `input_features` float32 `[B, S, F, W]` (`[B, S, W, F]` with `time_first`).

        Raises:
            ValueError: another sampling rate, no samples, a wrong rank, integers, NaN or infinity.
        """
        # A wrong rate would shift every frequency.
        if sampling_rate is None:
            logger.warning_once(
                f"No sampling_rate was given: the audio is taken to have {self.sampling_rate} Hz. Pass sampling_rate "
                "to have it checked."
            )
        elif sampling_rate != self.sampling_rate:
            raise ValueError(
                f"sampling_rate={sampling_rate}, but this feature extractor needs {self.sampling_rate} Hz; resample "
                "the waveform (torchaudio.functional.resample), or pass the file's path"
            )
        # Cut the segments, and leave out the silence after the longest one.
        waveforms = [waveform.to(device or waveform.device) for waveform in as_waveforms(audio)]
        heard = [self._heard(waveform) for waveform in waveforms]
        longest = max(len(segment) for segments in heard for segment in segments)
        segments = padded(heard, self._transformed_samples(longest))  # (B, S, n)
        return BatchFeature({"input_features": self._spectrograms(segments)}, tensor_type=return_tensors)


def padded(segments: list[list[torch.Tensor]], num_samples: int) -> torch.Tensor:
    """The S waveforms of each of B clips as `[B, S, num_samples]`, zeros at the end."""
    pad = torch.nn.functional.pad
    rows = [torch.stack([pad(w, (0, num_samples - len(w))) for w in waveforms]) for waveforms in segments]
    return torch.stack(rows)


def as_waveforms(audio: Any) -> list[torch.Tensor]:
    """One waveform or a batch as a list of float32 `[n]` tensors.

    Raises:
        ValueError: no samples, a wrong rank, integers, NaN or infinity; the message names the row.
    """
    # A list holds numbers (one waveform) or waveforms; an array has one axis or two.
    if isinstance(audio, (list, tuple)):
        single = len(audio) > 0 and np.isscalar(audio[0])
        rows = [np.asarray(audio, dtype=np.float32)] if single else list(audio)
    else:
        single = np.ndim(audio) == 1 if not isinstance(audio, torch.Tensor) else audio.ndim == 1
        if not single and getattr(audio, "ndim", 0) != 2:
            raise ValueError(f"waveform: rank {np.ndim(audio)}; give [n] or a batch [B, n], mono")
        rows = [audio] if single else list(audio)
    if not rows:
        raise ValueError("waveform: the batch is empty; give at least one waveform")
    return [_as_waveform(row, index) for index, row in enumerate(rows)]


def _as_waveform(row: Any, index: int) -> torch.Tensor:
    if not isinstance(row, torch.Tensor):
        row = torch.from_numpy(np.ascontiguousarray(np.asarray(row)))
    # Shape
    if row.ndim == 2 and len(row) == 1:  # one channel
        row = row[0]
    if row.ndim != 1:
        raise ValueError(
            f"waveform {index}: shape {tuple(row.shape)}; give mono samples [n] (average the channels first)"
        )
    # Samples
    if row.numel() == 0:
        raise ValueError(f"waveform {index}: no samples; leave the audio out (None) or give another clip")
    if not row.is_floating_point():
        raise ValueError(
            f"waveform {index}: {row.dtype}; give floating point samples in -1..1 (int16: divide by 32768)"
        )
    row = row.float()
    loudest = row.detach().abs().max()
    if not torch.isfinite(loudest):
        raise ValueError(
            f"waveform {index}: NaN or infinite samples; replace them (torch.nan_to_num) or drop the clip"
        )
    if loudest > LOUDEST:
        raise ValueError(f"waveform {index}: samples up to {float(loudest):g}; give floating point samples in -1..1")
    return row
