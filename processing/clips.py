# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Read a window of a clip: frames and sound aligned by seconds.

Second 0 of the caller is the moment at which the file's first stream starts. Sound and picture are cut by their
presentation times on that one clock, so they stay aligned whatever starts later, at whatever frame rate.
"""

import functools
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio

from .clip_decoders import TorchcodecFile, open_file
from .clip_info import ClipError, ClipInfo, clip_error


END_TOLERANCE = 0.05  # seconds by which a window may pass the end: sound is padded with zeros, the last frame stays
RESAMPLING_MARGIN = 0.04  # a whole number of samples at every usual rate; longer than the resampling filter
PROTOCOL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:")  # two letters and more: `C:` is a Windows drive
PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"v=0", b"[playlist]")
# FFmpeg's downmix of 5.1 and 7.1 (ITU-R BS.775; the low-frequency channel is left out), scaled to sum to one
SURROUND = {6: (0.7071, 0.7071, 1.0, 0.0, 0.5, 0.5), 8: (0.7071, 0.7071, 1.0, 0.0, 0.5, 0.5, 0.5, 0.5)}


@dataclass
class Clip:
    """A decoded window.

    Attributes:
        frames: uint8 `[T, 3, H, W]` RGB, or None.
        frame_times: float64 `[T]`, the presentation time of each frame in the caller's seconds (a frame shown at the
            start of the window may be older than it), or None.
        waveform: float32 `[n]` mono, or None.
        sampling_rate: of the waveform in Hz, or None.
        start, end: the window in the caller's seconds.
        path: the file's name.
    """

    frames: torch.Tensor | None = None
    frame_times: torch.Tensor | None = None
    waveform: torch.Tensor | None = None
    sampling_rate: int | None = None
    start: float = 0.0
    end: float | None = None
    path: str | None = None


def frame_times(start: float, end: float, num_frames: int) -> np.ndarray:
    """`[T]` seconds: the centers of `num_frames` equal parts of the window, `start + (i + 0.5) (end - start) / T`."""
    return start + (np.arange(num_frames) + 0.5) * ((end - start) / num_frames)


def safe_join(folder: str | os.PathLike, file_name: str | os.PathLike) -> str:
    """The path of a table's file inside its folder.

    Symbolic links inside the folder are followed: whoever made the folder made them (the Hub's cache is made of them).

    Raises:
        ClipError: the name is absolute, leaves the folder, or is a URL or FFmpeg protocol string.
    """
    name = os.fspath(file_name)
    inside = os.path.normpath(name)
    if not name or "\0" in name or PROTOCOL.match(name):
        raise clip_error(repr(name), "path", "is no file name; give a path inside the table's folder")
    if os.path.isabs(name) or inside.split(os.sep)[0] == ".." or os.path.splitdrive(name)[0]:
        raise clip_error(name, "path", f"leaves the folder {os.fspath(folder)}; give a path inside it")
    return os.path.join(os.fspath(folder), inside)


def probe_clip(source: Any, *, decoder: str = "auto", allow_remote: bool = False) -> ClipInfo:
    """What a file holds: streams, length, size, rates. One frame is decoded, so that a broken file is found out.

    Args:
        source: as for `load_clip`.
        decoder: "auto", "torchcodec" or "pyav".
        allow_remote: let FFmpeg open URLs and protocol strings.

    Raises:
        ClipError: no such file, not a media file, cut off, or without any stream or frame.
    """
    handle, name = _resolve(source, allow_remote)
    file = handle if isinstance(handle, TorchcodecFile) else open_file(handle, name, decoder)
    try:
        return file.info(check=True)
    finally:
        file.close()


def load_clip(
    source: Any,
    start: float | None = None,
    end: float | None = None,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    times: Sequence[float] | None = None,
    sampling_rate: int | None = None,
    streams: Sequence[str] = ("video", "audio"),
    on_missing: str = "raise",
    decoder: str = "auto",
    allow_remote: bool = False,
) -> Clip:
    """Decode a window of a clip; nothing outside it is decoded, but from the key frame before it.

    Args:
        source: path, bytes, `{"path", "bytes"}` (a row of `datasets.Video(decode=False)`), file object, or a
            torchcodec `VideoDecoder` / `AudioDecoder`.
        start, end: the window in seconds from the start of the file; None is the whole file.
        num_frames: this many frames, at the centers of equal parts of the window.
        fps: frames at this rate, at the centers of parts of `1 / fps` seconds.
        times: frames at these seconds. With none of the three: every frame of the window. A frame is the one on the
            screen at its time; before the first frame it is the first, after the last the last.
        sampling_rate: resample the sound to it; None keeps the file's.
        streams: which of "video" and "audio" to decode.
        on_missing: "raise", or "none": a stream that the file does not have becomes None.
        decoder: "auto" (PyAV, torchcodec where that is not installed), "torchcodec" or "pyav".
        allow_remote: let FFmpeg open URLs and protocol strings.

    Returns:
        `Clip`, sound averaged to mono (surround by its standard weights) with `round((end - start) * rate)` samples.

    Raises:
        ClipError: see `ClipError`; also when none of the wanted streams is there, whatever `on_missing` says.
        ValueError: a bad argument.
    """
    if on_missing not in ("raise", "none"):
        raise ValueError(f'on_missing={on_missing!r}; use "raise" or "none"')
    if not streams or set(streams) - {"video", "audio"}:
        raise ValueError(f'streams={streams!r}; give "video", "audio" or both')
    if sum(value is not None for value in (num_frames, fps, times)) > 1:
        raise ValueError("num_frames, fps and times exclude each other; give one of them")
    handle, name = _resolve(source, allow_remote)
    window = functools.partial(
        _load_window, start=start, end=end, num_frames=num_frames, fps=fps, times=times, sampling_rate=sampling_rate
    )
    if isinstance(handle, TorchcodecFile):
        return window(handle, handle.info(), streams=streams, on_missing=on_missing)
    file = open_file(handle, name, decoder)
    try:
        return window(file, _info(file, handle), streams=streams, on_missing=on_missing)
    except (RuntimeError, IndexError, OSError) as error:
        raise clip_error(
            name, "path", f"cannot be decoded ({error}); the file is cut off or damaged, write it again"
        ) from error
    finally:
        file.close()


def clip_window(
    source: Any,
    start: float | None = None,
    end: float | None = None,
    *,
    decoder: str = "auto",
    allow_remote: bool = False,
) -> tuple[float, float]:
    """`(start, end)` in seconds with None filled in from the file's headers.

    Raises:
        ClipError: the file cannot be read, or the window is empty or passes its end.
    """
    if start is not None and end is not None:
        return float(start), float(end)  # load_clip checks them
    handle, name = _resolve(source, allow_remote)
    if isinstance(handle, TorchcodecFile):
        return _window(handle.info(), start, end)
    if isinstance(handle, str) and os.path.isfile(handle) and (known := _known_info(handle, name)):
        return _window(known[0], start, end)
    file = open_file(handle, name, decoder)
    try:
        return _window(_info(file, handle), start, end)
    finally:
        file.close()


def _load_window(
    file: Any,
    info: ClipInfo,
    start: float | None,
    end: float | None,
    num_frames: int | None,
    fps: float | None,
    times: Sequence[float] | None,
    sampling_rate: int | None,
    streams: Sequence[str],
    on_missing: str,
) -> Clip:
    wanted = []
    for kind, present in (("video", info.has_video), ("audio", info.has_audio)):
        if kind in streams and present:
            wanted.append(kind)
        elif kind in streams and on_missing == "raise":
            raise clip_error(info.path, kind, f'the file has no {kind} stream; give another, or on_missing="none"')
    if not wanted:
        raise clip_error(info.path, " and ".join(streams), "the file has no such stream; give another file")
    start, end = _window(info, start, end)
    clip = Clip(start=start, end=end, path=info.path)
    if "video" in wanted:
        clip.frames, clip.frame_times = _load_frames(file, info, start, end, num_frames, fps, times)
    if "audio" in wanted:
        clip.sampling_rate = sampling_rate or info.sampling_rate
        clip.waveform = _load_waveform(file, info, start, end, clip.sampling_rate)
    return clip


def _window(info: ClipInfo, start: float | None, end: float | None) -> tuple[float, float]:
    start = 0.0 if start is None else float(start)
    end = info.duration if end is None else float(end)
    tolerance = max(END_TOLERANCE, 0.5 / info.fps if info.fps else 0.0)
    if not (math.isfinite(start) and math.isfinite(end)) or start < 0 or end <= start:
        raise clip_error(info.path, "window", f"{start} s to {end} s is empty or negative; give 0 <= start < end")
    if end > info.duration + tolerance:
        problem = f"{start:g} s to {end:g} s passes the end at {info.duration:.3f} s; give a window inside"
        raise clip_error(info.path, "window", problem)
    return start, end


def _load_frames(
    file: Any,
    info: ClipInfo,
    start: float,
    end: float,
    num_frames: int | None,
    fps: float | None,
    times: Sequence[float] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    _check_overlap(info, "video", info.video_end, start)
    if times is not None:
        wanted = np.asarray(times, dtype=np.float64)
        limit = max(end, info.duration) + max(END_TOLERANCE, 0.5 / (info.fps or math.inf))
        if wanted.ndim != 1 or not len(wanted) or not np.isfinite(wanted).all():
            raise clip_error(info.path, "times", f"{times!r} are no seconds; give a list of numbers")
        if wanted.min() < 0 or wanted.max() > limit:
            raise clip_error(info.path, "times", f"pass 0 s to {info.duration:.3f} s; give times inside the file")
    elif num_frames is not None or fps is not None:
        count = num_frames if num_frames is not None else max(1, round((end - start) * fps))
        if count < 1 or (fps is not None and fps <= 0):
            raise clip_error(info.path, "frames", f"num_frames={num_frames}, fps={fps}; give a number above 0")
        wanted = frame_times(start, end if fps is None else start + count / fps, count)
    else:
        wanted = None
    if wanted is None:
        frames, pts, stream_end = file.frames_between(start + info.start, end + info.start)
        last = end
    else:
        frames, pts, stream_end = file.frames_at(wanted + info.start)
        last = wanted.max()
    # the last frame's length is often unknown, hence more than one frame of tolerance
    tolerance = max(END_TOLERANCE, 1.5 / info.fps if info.fps else 0.0)
    declared = info.video_end
    if stream_end is not None and declared is not None and min(last + info.start, declared) > stream_end + tolerance:
        raise _cut_off(info, "video", stream_end)
    return frames, torch.from_numpy(pts - info.start)


def _load_waveform(file: Any, info: ClipInfo, start: float, end: float, rate: int) -> torch.Tensor:
    _check_overlap(info, "audio", info.audio_end, start)
    native = info.sampling_rate
    margin = RESAMPLING_MARGIN if rate != native else 0.0
    first, count = start - margin, round((end - start + 2 * margin) * native)
    samples, samples_start = file.samples(first + info.start, end + margin + info.start)
    mono = _to_mono(samples)
    offset = round((samples_start - info.start - first) * native)
    waveform = torch.zeros(count, dtype=torch.float32)
    begin, stop = max(offset, 0), min(offset + len(mono), count)
    if stop > begin:
        waveform[begin:stop] = mono[begin - offset : stop - offset]
    found = samples_start + len(mono) / native
    if info.audio_end is not None and min(end + info.start, info.audio_end) > found + 2 * END_TOLERANCE:
        raise _cut_off(info, "audio", found)
    if rate != native:
        waveform = _resampler(native, rate)(waveform)[round(margin * rate) :]
        count = round((end - start) * rate)
        waveform = torch.nn.functional.pad(waveform, (0, max(count - len(waveform), 0)))[:count]
    return waveform


def _check_overlap(info: ClipInfo, kind: str, stream_end: float | None, start: float) -> None:
    if stream_end is not None and start + info.start >= stream_end + END_TOLERANCE:
        ends = stream_end - info.start
        raise clip_error(info.path, "window", f"starts at {start:g} s, but the {kind} stream ends at {ends:.3f} s")


def _cut_off(info: ClipInfo, kind: str, found: float) -> ClipError:
    message = f"is cut off: its {kind} ends at {found - info.start:.2f} s of {info.duration:.2f} s; copy it again"
    return clip_error(info.path, "path", message)


def _to_mono(samples: torch.Tensor) -> torch.Tensor:
    if len(samples) == 1:
        return samples[0]
    weights = torch.tensor(SURROUND.get(len(samples), (1.0,) * len(samples)))
    return (weights / weights.sum()) @ samples


@functools.lru_cache(maxsize=32)
def _resampler(native: int, rate: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(native, rate)


def _info(file: Any, handle: str | bytes) -> ClipInfo:
    """Headers are read once per file and process: an epoch of short windows opens the same files again and again."""
    if not (isinstance(handle, str) and os.path.isfile(handle)):
        return file.info()
    known = _known_info(handle, file.name)
    if not known:
        known.append(file.info())
    return known[0]


def _known_info(path: str, name: str) -> list[ClipInfo]:
    """What was read of a file as it is now, or an empty list to put it in."""
    stat = os.stat(path)
    return _cached_info(path, name, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=65536)
def _cached_info(path: str, name: str, size: int, modified: int) -> list[ClipInfo]:
    return []


def _resolve(source: Any, allow_remote: bool) -> tuple[str | bytes | TorchcodecFile, str]:
    """-> (what FFmpeg opens, the name for messages)."""
    if hasattr(source, "get_frames_played_at"):
        return TorchcodecFile(None, "VideoDecoder", video=source), "VideoDecoder"
    if hasattr(source, "get_samples_played_in_range"):
        return TorchcodecFile(None, "AudioDecoder", audio=source), "AudioDecoder"
    if isinstance(source, dict):
        if source.get("bytes") is not None:
            name = str(source.get("path") or "bytes")
            return _local_bytes(source["bytes"], name), name
        source = source.get("path")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _local_bytes(bytes(source), "bytes"), "bytes"
    if hasattr(source, "read"):
        name = str(getattr(source, "name", "file object"))
        source.seek(0)
        return _local_bytes(source.read(), name), name
    if not isinstance(source, (str, Path)) and not hasattr(source, "__fspath__"):
        raise clip_error(type(source).__name__, "path", "is no clip; give a path, bytes, a file object or a decoder")
    name = os.fspath(source)
    if os.path.isfile(name):
        with open(name, "rb") as file:
            _refuse_playlist(file.read(16), name)
        return os.path.abspath(name), name  # absolute: a name with a colon is then no protocol
    if PROTOCOL.match(name):
        if allow_remote:
            return name, name
        raise clip_error(name, "path", "URLs and FFmpeg protocols are refused; download it, or pass allow_remote=True")
    if os.path.isdir(name):
        raise clip_error(name, "path", "is a folder; give a file in it")
    raise clip_error(name, "path", "no such file; check the name and the working directory")


def _local_bytes(data: bytes, name: str) -> bytes:
    _refuse_playlist(data[:16], name)
    return data


def _refuse_playlist(head: bytes, name: str) -> None:
    """A playlist would make FFmpeg open other files and addresses."""
    if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(PLAYLISTS):
        raise clip_error(name, "path", "is a playlist, not a media file; give the clip itself")
