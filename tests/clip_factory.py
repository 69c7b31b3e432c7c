# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips whose content says when it was: numbered frames, and a flash with a beep."""

from pathlib import Path
from typing import Any

import numpy as np

from processing.generate.clip_writing import write_clip


BLOCK = 16  # pixels of one bit; survives strong compression


def numbered_frames(count: int, height: int = 64, width: int = 96) -> np.ndarray:
    """uint8 `[count, H, W, 3]`: 8 blocks in the upper half show the frame's number in binary; the rest is colored."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[..., 0], frames[..., 1], frames[..., 2] = 30, 90, 160
    for number in range(count):
        for bit in range(8):
            row, column = divmod(bit, 4)
            value = 235 if number >> bit & 1 else 20
            frames[number, row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK] = value
    return frames


def read_number(frame: Any) -> int:
    """The number in a decoded frame `[3, H, W]`."""
    picture = np.asarray(frame, dtype=np.float32).mean(0)
    bits = []
    for bit in range(8):
        row, column = divmod(bit, 4)
        block = picture[row * BLOCK + 4 : (row + 1) * BLOCK - 4, column * BLOCK + 4 : (column + 1) * BLOCK - 4]
        bits.append(int(block.mean() > 128))
    return sum(bit << place for place, bit in enumerate(bits))


def read_numbers(frames: Any) -> list[int]:
    return [read_number(frame) for frame in frames]


def tone(seconds: float, sampling_rate: int = 16000, frequency: float = 440.0, level: float = 0.3) -> np.ndarray:
    """float32 `[n]` sine."""
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    return (level * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def write_numbered(
    path: Path, seconds: float = 2.0, *, fps: float = 25, sampling_rate: int = 16000, **options
) -> Path:
    """Numbered frames and a tone; `sound=False` or `picture=False` leaves one out."""
    sound, picture = options.pop("sound", True), options.pop("picture", True)
    count = len(options["frame_times"]) if "frame_times" in options else round(seconds * fps)
    return write_clip(
        path,
        numbered_frames(count) if picture else None,
        tone(seconds, sampling_rate) if sound else None,
        fps=fps,
        sampling_rate=sampling_rate,
        **options,
    )


def write_flash_and_beep(
    path: Path, event: float = 1.0, seconds: float = 2.0, *, fps: float = 25, sampling_rate: int = 16000, **options
) -> Path:
    """Black and silent until `event` seconds after the picture's start, then white with a tone."""
    times = np.asarray(options.get("frame_times", np.arange(round(seconds * fps)) / fps))
    frames = np.zeros((len(times), 64, 96, 3), np.uint8)
    frames[times >= event - 1e-6] = 235
    delay = options.get("audio_start_time", options.get("start_time", 0.0)) - options.get("start_time", 0.0)
    waveform = tone(seconds - delay, sampling_rate, 1000.0, 0.5)
    waveform[: round((event - delay) * sampling_rate)] = 0
    return write_clip(path, frames, waveform, fps=fps, sampling_rate=sampling_rate, **options)


def beep_onset(waveform: Any, sampling_rate: int) -> float:
    """Seconds until the sound reaches a fifth of its peak."""
    level = np.abs(np.asarray(waveform))
    return float(np.argmax(level > 0.2 * level.max())) / sampling_rate
