# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Feature extractor: waveforms to the log-mel spectrograms that DeepAVFusion's audio transformer reads."""

from typing import Any

from .feature_extraction_maavt import MAAVTFeatureExtractor


# The paper's input, and its evaluation over ten windows of a clip.
DEEPAVFUSION_PRESETS: dict[str, dict[str, Any]] = {"default": {}, "ten_windows": {"num_segments": 10}}


class DeepAVFusionFeatureExtractor(MAAVTFeatureExtractor):
    """Turns mono waveforms into `input_features` float32 `[B, S, 128, 192]`: `log10(mel power + 1e-7)`.

    As in the paper: windows of 3 s at 16 kHz, transforms of 800 samples (50 ms, periodic Hann) every 250 (64 frames a
    second), centered on the mirrored signal, 128 HTK mel filters of height one up to 8 kHz; the last of the 193 frames
    is dropped, and nothing is normalized. Audio shorter than 3 s is followed by itself reversed in time, again and
    again. Rows are mel bins (low first), columns time.

    The fields are those of `MAAVTFeatureExtractor`, with these defaults; `num_segments` is the number S of windows,
    evenly spaced over the clip (one: its middle). `from_preset("ten_windows")` gives the paper's evaluation.
    """

    # the recipes of `from_preset`
    presets = DEEPAVFUSION_PRESETS

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        transform: str = "log_mel",
        n_fft: int = 800,
        win_length: int = 800,
        hop_length: int = 250,
        num_bins: int = 128,
        num_frames: int = 192,
        log_offset: float = 1e-7,
        segment_seconds: float | None = 3.0,
        normalization: str | None = None,
        short_audio: str = "reversed",
        log_base: str = "10",
        pad_mode: str = "reflect",
        **kwargs: Any,
    ):
        # Every other field keeps MA-AVT's default.
        super().__init__(
            feature_size=feature_size,
            sampling_rate=sampling_rate,
            padding_value=padding_value,
            transform=transform,
            n_fft=n_fft,
            win_length=win_length,
            hop_length=hop_length,
            num_bins=num_bins,
            num_frames=num_frames,
            log_offset=log_offset,
            segment_seconds=segment_seconds,
            normalization=normalization,
            short_audio=short_audio,
            log_base=log_base,
            pad_mode=pad_mode,
            **kwargs,
        )


__all__ = ["DEEPAVFUSION_PRESETS", "DeepAVFusionFeatureExtractor"]
