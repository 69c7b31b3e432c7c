# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What is known of a clip before it is decoded, and the error that says what is wrong with it."""

import os
from dataclasses import dataclass
from typing import Any


class ClipError(ValueError):
    """A clip that cannot be read. The message names the file, the field at fault and the cure.

    Attributes:
        path: the file's name as the caller gave it.
        field: what is at fault: "path", "video", "audio", "window", "times", "waveform" or "frames".
    """

    def __init__(self, message: str, path: str | None = None, field: str | None = None):
        super().__init__(message)
        self.path, self.field = path, field


def clip_error(path: str, field: str, problem: str) -> ClipError:
    return ClipError(f"{path}: {field}: {problem}", path, field)


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


LFS_POINTER = b"version https://git-lfs"


def unreadable(source: Any, name: str, error: Exception | None) -> ClipError:
    """Say whether a file that does not open is empty, cut off, or no media file at all."""
    head = b""
    if isinstance(source, bytes):
        head = source[:12]
    elif isinstance(source, str) and os.path.isfile(source):
        with open(source, "rb") as file:
            head = file.read(12)
    if not head:
        problem = "is empty; write or download it again"
    elif head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3" or head[:4] == b"RIFF":
        problem = f"is cut off or damaged ({error}); copy or download it again"
    elif head == LFS_POINTER[: len(head)]:
        problem = "is a git-lfs pointer and not the clip; run `git lfs pull` in its repository"
    else:
        known = "mp4, mkv, webm, avi, mov or flv"
        problem = f"is not a media file that FFmpeg can read ({error}); give a clip such as {known}"
    return clip_error(name, "path", problem)
