# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Feature extractor: waveforms to the log-mel spectrograms that DeepAVFusion's audio transformer reads."""

from typing import Any

from .feature_extraction_maavt import MAAVTFeatureExtractor


# The paper's input, and its evaluation over ten windows of a clip.
DEEPAVFUSION_PRESETS: dict[str, dict[str, Any]] = {"default": {}, "ten_windows": {"num_segments": 10}}
# What differs from MA-AVT's defaults
DEFAULTS = {
    "n_fft": 800, "win_length": 800, "hop_length": 250, "num_bins": 128, "num_frames": 192, "log_offset": 1e-7,
    "segment_seconds": 3.0, "normalization": None, "short_audio": "reversed", "log_base": "10", "pad_mode": "reflect",
}  # fmt: skip


class DeepAVFusionFeatureExtractor(MAAVTFeatureExtractor):
    """Turns mono waveforms into `input_features` float32 `[B, S, 128, 192]`: `log10(mel power + 1e-7)`.

    As in the paper: windows of 3 s at 16 kHz, transforms of 800 samples (50 ms, periodic Hann) every 250 (64 frames a
    second), centered on the mirrored signal, 128 HTK mel filters of height one up to 8 kHz; the last of the 193 frames
    is dropped, and nothing is normalized. Audio shorter than 3 s is followed by itself reversed in time, again and
    again. Rows are mel bins (low first), columns time.

    The fields are those of `MAAVTFeatureExtractor`, with the defaults above; `num_segments` is the number S of windows,
    evenly spaced over the clip (one: its middle). `from_preset("ten_windows")` gives the paper's evaluation.
    """

    # the recipes of `from_preset`
    presets = DEEPAVFUSION_PRESETS

    def __init__(self, **kwargs: Any):
        super().__init__(**{**DEFAULTS, **kwargs})


__all__ = ["DEEPAVFUSION_PRESETS", "DeepAVFusionFeatureExtractor"]
