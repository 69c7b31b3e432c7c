# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Processor: mp4 files, frames and waveforms to a batch for DeepAVFusion, and masks back to waveforms."""

import os
import secrets
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .feature_extraction_deepavfusion import DeepAVFusionFeatureExtractor
from .feature_extraction_maavt import as_waveforms
from .processing_maavt import MAAVTProcessor, MAAVTProcessorKwargs
from .spectrograms import masked_waveform
from .video_processing_deepavfusion import DeepAVFusionVideoProcessor


class DeepAVFusionProcessorKwargs(MAAVTProcessorKwargs, total=False):
    """Keyword arguments of `DeepAVFusionProcessor`, by part."""

    _defaults = {}  # transformers before 5.23 needs it


class DeepAVFusionProcessor(MAAVTProcessor):
    """As `MAAVTProcessor`, for windows of 3 s with one frame each.

    A clip gives S windows (`feature_extractor.num_segments`): one is its middle, several are spaced evenly over it. The
    frame is the one on the screen in the middle of its window: the same in every run. (The reference implementation takes a random
    key frame of the window, in evaluation too.) `num_frames` may ask for more frames, a multiple of S; `times` for others.
    """

    valid_processor_kwargs = DeepAVFusionProcessorKwargs
    default_parts = (DeepAVFusionFeatureExtractor, DeepAVFusionVideoProcessor)

    def __init__(self, feature_extractor: Any = None, video_processor: Any = None, **kwargs: Any):
        super().__init__(feature_extractor, video_processor, **kwargs)

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str,
        feature_extractor: dict[str, Any] | None = None,
        video_processor: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> "DeepAVFusionProcessor":
        """As in `MAAVTProcessor`; the whole frame is resized to the backbone's size, none of it is cropped."""
        return super().from_backbone(
            name_or_path, feature_extractor, {"do_center_crop": False, **(video_processor or {})}, **kwargs
        )

    def frame_times(self, start: float, end: float, num_frames: int | None = None) -> np.ndarray:
        """The seconds at which `load_clip` takes the frames of a clip: the middle of each window, `[S]`."""
        return super().frame_times(start, end, num_frames or self.feature_extractor.num_segments)

    def mixture_windows(self, waveforms: Any) -> torch.Tensor:
        """The samples that the spectrograms show: waveforms `[n]` of any lengths to float32 `[B, S, n of a window]`.

        Raises:
            ValueError: no samples, a wrong rank, integers, NaN or infinity.
        """
        return torch.stack([self.feature_extractor.segments(waveform) for waveform in as_waveforms(waveforms)])

    def post_process_separation(
        self, logits: torch.Tensor, waveforms: torch.Tensor, renormalize: bool = False
    ) -> torch.Tensor:
        """Separated waveforms from mask logits and the mixtures.

        Args:
            logits: `[B, S, F, W]` (or with one more axis of sources before F), before the sigmoid.
            waveforms: mixtures `[B, S, n]`, as `mixture_windows` gives them.
            renormalize: see `masked_waveform`.

        Returns:
            `[B, S, n]` (or with the axis of sources before n); n is 48,000 in the paper.

        Raises:
            ValueError: shapes that do not belong together.
        """
        # Masks and mixtures on the CPU, in float32
        extractor = self.feature_extractor
        mask = logits.detach().float().sigmoid().cpu()
        mixture = torch.as_tensor(waveforms, dtype=torch.float32).cpu()
        # One mixture serves all its sources.
        if mask.ndim == mixture.ndim + 2:
            mixture = mixture[..., None, :].expand(*mask.shape[:-2], -1)
        return masked_waveform(
            mask,
            mixture,
            extractor.sampling_rate,
            extractor.n_fft,
            extractor.hop_length,
            extractor.win_length,
            extractor.min_frequency,
            extractor.max_frequency,
            renormalize,
        )

    def save_waveforms(self, waveforms: torch.Tensor, paths: Sequence[str | os.PathLike]) -> list[str]:
        """Write waveforms `[N, n]` as 16-bit wav files; each is written under a temporary name and then renamed.

        With more axes `[..., n]`, as `post_process_separation` gives them, there is one path for each waveform, row by row.

        Raises:
            ValueError: another number of paths than waveforms.
        """
        # A source axis, or one window a clip, makes more rows.
        waveforms = torch.as_tensor(waveforms)
        waveforms = waveforms.reshape(-1, waveforms.shape[-1])  # (N, n)
        if len(waveforms) != len(paths):
            raise ValueError(f"{len(waveforms)} waveforms and {len(paths)} paths; give one path for each")
        rate = self.feature_extractor.sampling_rate
        return [str(write_wave(path, waveform, rate)) for waveform, path in zip(waveforms, paths, strict=True)]


def write_wave(path: str | os.PathLike, waveform: torch.Tensor, sampling_rate: int) -> Path:
    """Write mono float `[n]` as 16-bit PCM, cut to -1..1; under a temporary name first, which is then renamed.

    Raises:
        ValueError: another rank, no samples, NaN or infinity.
    """
    path, waveform = Path(path), torch.as_tensor(waveform).detach().cpu().float()
    if waveform.ndim != 1 or not waveform.numel() or not torch.isfinite(waveform).all():
        raise ValueError(f"{path}: waveform of shape {tuple(waveform.shape)}; give finite mono samples [n], n above 0")
    # Write beside the file and rename, so that no reader sees half of it.
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(6)}.part.wav")
    try:
        with wave.open(str(temporary), "wb") as wav_file:
            wav_file.setnchannels(1)
            wav_file.setsampwidth(2)
            wav_file.setframerate(sampling_rate)
            # 16 bits, little-endian
            samples = (waveform.clamp(-1, 1) * 32767).round().to(torch.int16).numpy()
            wav_file.writeframes(samples.astype("<i2").tobytes())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


__all__ = ["DeepAVFusionProcessor"]
