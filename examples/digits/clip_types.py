# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What the readers of media files give, their one error, and the limits on what they read."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


TIME_ROUNDING = 1e-6  # seconds by which two equal times may differ
MAX_PIXELS = 1 << 25  # of one frame; 8K video has 33.2 million
MAX_BYTES = 1 << 34  # of the frames of one window
FrameTransform = Callable[[torch.Tensor], torch.Tensor]  # uint8 [1, 3, H, W] to [1, 3, h, w]
LFS_POINTER = b"version https://git-lfs"
# FFmpeg's downmix of surround sound (ITU-R BS.775, without the low-frequency channel), which is scaled to sum to one
WEIGHTS = {"FL": 0.7071, "FR": 0.7071, "FC": 1.0, "LFE": 0.0, "FLC": 0.7071, "FRC": 0.7071}
WEIGHTS |= dict.fromkeys(("BL", "BR", "BC", "SL", "SR"), 0.5)
CHANNELS = {6: ("FL", "FR", "FC", "LFE", "BL", "BR"), 8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR")}


class ClipError(ValueError):
    """A clip that cannot be read. The message names the file, the field at fault and the cure.

    Attributes:
        path: the file's name as the caller gave it.
        field: what is at fault: "path", "video", "audio", "window", "times", "waveform" or "frames".
    """

    def __init__(self, message: str, path: str | None = None, field: str | None = None):
        super().__init__(message)
        self.path, self.field = path, field


class MissingStreamError(ClipError):
    """The file has none of the requested streams, or a stream ends before the requested window."""


def clip_error(path: str, field: str, problem: str, kind: type[ClipError] = ClipError) -> ClipError:
    """The error for a file, in one line. What cannot be printed of its name is written with backslashes."""
    printable = path.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n").replace("\r", "\\r")
    return kind(f"{printable}: {field}: {problem}", path, field)


@dataclass(frozen=True)
class ClipInfo:
    """What a file holds. `start` is on the file's clock; `duration` runs from there to the last stream's end."""

    path: str
    duration: float
    start: float
    has_video: bool
    has_audio: bool
    fps: float | None = None
    height: int | None = None
    width: int | None = None
    sampling_rate: int | None = None
    num_channels: int | None = None
    video_start: float | None = None
    video_end: float | None = None
    audio_start: float | None = None
    audio_end: float | None = None

    @property
    def end(self) -> float:
        return self.start + self.duration

    def stream_window(self, kind: str) -> tuple[float, float]:
        """`(start, end)` of the file's "video" or "audio", in seconds from the start of the file."""
        start, end = getattr(self, f"{kind}_start"), getattr(self, f"{kind}_end")
        if end is None:
            end = self.end
        return start - self.start, end - self.start


@dataclass
class Frames:
    """Decoded frames: uint8 `pixels` `[T, 3, H, W]` and the presentation time of each in `seconds` `[T]`.

    `stream_end` is where the video ended if reading met the end of the stream, else None.
    """

    pixels: torch.Tensor
    seconds: np.ndarray
    stream_end: float | None = None


@dataclass
class Samples:
    """A part of the decoded audio: mono float32 `[n]`, `offset` samples after the first one, which is heard at `start`."""

    samples: np.ndarray
    offset: int
    start: float


def check_size(frame: Any, name: str, max_pixels: int) -> None:
    """Refuse a frame, or a track, of more pixels than are allowed."""
    if frame.width * frame.height > max_pixels:
        problem = f"frames of {frame.width}x{frame.height} have more than max_pixels={max_pixels} pixels"
        raise clip_error(name, "video", f"{problem}; scale the video down, or raise ClipRequest(max_pixels=...)")


def check_total(name: str, count: int, image: np.ndarray) -> None:
    """Refuse frames that would fill the memory."""
    if count * image.nbytes > MAX_BYTES:
        problem = f"{count} frames of {image.shape[1]}x{image.shape[0]} take more than {MAX_BYTES >> 30} GiB"
        raise clip_error(name, "frames", f"{problem}; give a shorter window, num_frames, fps or a transform")


def to_mono(samples: Sequence[np.ndarray], names: Sequence[str] = ()) -> np.ndarray:
    """Samples `[channels, n]` averaged to `[n]`; surround by its standard weights, by the names of its channels."""
    if len(samples) == 1:
        return samples[0]
    names = names or CHANNELS.get(len(samples), ())
    weights = np.array([WEIGHTS.get(name, np.nan) for name in names], np.float32)
    if len(weights) != len(samples) or not weights.sum() > 0:
        weights = np.ones(len(samples), np.float32)
    return (weights / weights.sum()) @ np.asarray(samples)


def unreadable(source: Any, name: str, error: Exception | None) -> ClipError:
    """Say whether a file that does not open is empty, cut off, or no media file at all."""
    reason = getattr(error, "strerror", None) or error  # without a number and the name again
    head = b""
    if isinstance(source, bytes):
        head = source[:12]
    elif isinstance(source, str) and os.path.isfile(source):
        with open(source, "rb") as file:
            head = file.read(12)
    if not head:
        problem = "is empty; write or download it again"
    elif head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3" or head[:4] == b"RIFF":
        problem = f"is cut off or damaged ({reason}); copy or download it again"
    elif head == LFS_POINTER[: len(head)]:
        problem = "is a git-lfs pointer and not the clip; run `git lfs pull` in its repository"
    else:
        known = "mp4, mkv, webm, avi, mov or flv"
        problem = f"is not a media file that FFmpeg can read ({reason}); give a clip such as {known}"
    return clip_error(name, "path", problem)
