# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Write a waveform to a wav file with nothing but the standard library: it ships with a processor."""

import os
import tempfile
import wave
from pathlib import Path

import torch


def write_wave(path: str | os.PathLike, waveform: torch.Tensor, sampling_rate: int) -> Path:
    """Write mono float `[n]` as 16-bit PCM, cut to -1..1; under a temporary name first, which is then renamed.

    Raises:
        ValueError: another rank, no samples, NaN or infinity.
    """
    path, waveform = Path(path), torch.as_tensor(waveform).detach().cpu().float()
    if waveform.ndim != 1 or not waveform.numel() or not torch.isfinite(waveform).all():
        raise ValueError(f"{path}: waveform of shape {tuple(waveform.shape)}; give finite mono samples [n], n above 0")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".wav", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file, wave.open(file, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(sampling_rate)
            samples = (waveform.clamp(-1, 1) * 32767).round().to(torch.int16).numpy()
            sound.writeframes(samples.astype("<i2").tobytes())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide it from other users
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


__all__ = ["write_wave"]
