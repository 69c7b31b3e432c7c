# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Training augmentation: one draw for all frames of a clip, gain and SpecAugment for its audio, white noise."""

from dataclasses import dataclass

import torch
import torchaudio.transforms
import torchvision.transforms.v2 as transforms


@dataclass
class ClipAugmentation:
    """Random changes of one clip; the same seed gives the same changes, and the global generator is left alone.

    Attributes:
        random_resized_crop_scale: range of the cropped share of the frame's area, or None. The crop is resized by
            the processor, as RandomResizedCrop would.
        random_resized_crop_ratio: range of the crop's aspect ratio.
        flip: probability of a horizontal flip.
        gain_db: the audio is made louder or softer by at most this many decibels.
        time_mask: largest share of the spectrogram's frames that is masked (SpecAugment, Park et al. 2019).
        frequency_mask: the same for its bins.
    """

    random_resized_crop_scale: tuple[float, float] | None = (0.5, 1.0)
    random_resized_crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    gain_db: float = 6.0
    time_mask: float = 0.1
    frequency_mask: float = 0.1

    def __post_init__(self) -> None:
        for name in ("flip", "time_mask", "frequency_mask"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}; give 0 to 1")
        scale = self.random_resized_crop_scale
        if scale is not None and not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"random_resized_crop_scale={scale}; give (low, high) with 0 < low <= high <= 1")

    def frames(self, frames: torch.Tensor, seed: int) -> torch.Tensor:
        """Crop and flip uint8 `[T, 3, H, W]`, alike for all frames -> `[T, 3, h, w]`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.random_resized_crop_scale is not None:
                crop = transforms.RandomResizedCrop(
                    frames.shape[-2:], self.random_resized_crop_scale, self.random_resized_crop_ratio
                )
                frames = transforms.functional.crop(frames, **crop.make_params([frames]))
            return transforms.RandomHorizontalFlip(self.flip)(frames)

    def waveform(self, waveform: torch.Tensor, seed: int) -> torch.Tensor:
        """Scale `[n]` by a random gain."""
        generator = torch.Generator().manual_seed(seed)
        gain = (2 * torch.rand((), generator=generator).item() - 1) * self.gain_db
        return waveform * 10 ** (gain / 20)

    def spectrogram(self, features: torch.Tensor, seed: int) -> torch.Tensor:
        """Mask a stripe along each of the last two axes of `[..., F, W]` with the mean."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            mean = float(features.mean())
            for mask, share, axis in (
                (torchaudio.transforms.TimeMasking, self.time_mask, -1),
                (torchaudio.transforms.FrequencyMasking, self.frequency_mask, -2),
            ):
                width = int(share * features.shape[axis])
                if width > 0:
                    features = mask(width)(features, mean)
        return features


def add_white_noise(waveform: torch.Tensor, snr_db: float, seed: int) -> torch.Tensor:
    """Add Gaussian noise to `[n]`, `snr_db` below the waveform's own power; silence stays silent."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(waveform.shape, generator=generator, dtype=waveform.dtype)
    level = waveform.square().mean().sqrt() * 10 ** (-snr_db / 20)
    return waveform + level * noise
