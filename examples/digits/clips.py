# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Read a window of a clip: frames and waveform aligned by seconds.

Second 0 of the caller is the moment at which the file's first stream starts. Video and audio are cut by their
presentation times on that one clock, so they stay aligned whatever starts later, at whatever frame rate.
"""

import functools
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio

from .clip_decoders import has_pyav, open_file
from .clip_types import MAX_PIXELS, ClipError, ClipInfo, FrameTransform, MissingStreamError, Samples, clip_error
from .torchcodec_clips import TorchcodecFile


END_TOLERANCE = 0.05  # seconds by which a window may pass the end: audio is padded with zeros, the last frame stays
RESAMPLING_MARGIN = 0.04  # a whole number of samples at every usual rate; longer than the resampling filter
LARGEST_RATIO = 1000  # of sampling rates, as a fraction; its resampler has a table of 4 MB
RESAMPLED_AT_ONCE = 1 << 19  # samples; the convolution takes up to 50 times their memory
MAX_SAMPLES = 1 << 29  # of one window: 3 hours at 48 kHz, 2 GiB. A small file can claim to last for years.
MAX_FRAMES = 1 << 17  # of one window: 87 minutes of 25 a second
PROTOCOL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:")  # two letters and more: `C:` is a Windows drive
SIGNATURE_BYTES = 1024  # bytes of a file that are looked at
# How playlists begin, which would make FFmpeg open other files and addresses, and images, which it may take for one of
# a numbered sequence of files ...
REFUSED_SIGNATURES = {
    "a playlist": (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"v=0", b"[playlist]"),
    "an image": (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"P5", b"P6"),
}
# ... and what FFmpeg knows them by, wherever it stands
PLAYLIST_LINES = (b"\nc=IN IP", b"<MPD")


@dataclass(frozen=True)
class ClipRequest:
    """What to decode of a clip. Without arguments: every frame and the whole waveform.

    Args:
        start, end: the window in seconds from the start of the file. None is the start or the end of the file.
        within: the caller's window `(start, end)`, where `start` and `end` are only a part of it. It has to lie inside the
            file too.
        num_frames: this many frames, at the centers of equal parts of the window.
        fps: frames at this rate, at the centers of parts of `1 / fps` seconds.
        times: frames at these seconds. A frame is the one on the screen at its time. Before the first frame it is the
            first, after the last one the last. At most one of `num_frames`, `fps` and `times` is given.
        sampling_rate: resample the waveform to this rate in Hz. None keeps the file's.
        streams: which of "video" and "audio" to decode.
        on_missing: "raise", or "none": a stream that the file does not have, or that ends before the window, becomes None.
        decoder: "auto" (PyAV, or torchcodec where PyAV is not installed), "torchcodec" or "pyav".
        allow_remote: let FFmpeg open URLs and protocol strings.
        max_pixels: the largest width times height of a frame that is decoded.
        transform: a function of a frame, uint8 `[1, 3, H, W]` to `[1, 3, h, w]`, such as a resize. It is applied as soon
            as a frame is decoded, so that only one of full size is in memory.

    Raises:
        ValueError: an unknown stream or option, or more than one of `num_frames`, `fps` and `times`.
    """

    start: float | None = None
    end: float | None = None
    num_frames: int | None = None
    fps: float | None = None
    times: Sequence[float] | None = None
    sampling_rate: int | None = None
    streams: Sequence[str] = ("video", "audio")
    on_missing: str = "raise"
    decoder: str = "auto"
    allow_remote: bool = False
    max_pixels: int = MAX_PIXELS
    transform: FrameTransform | None = None
    within: tuple[float, float] | None = None

    def __post_init__(self):
        if self.on_missing not in ("raise", "none"):
            raise ValueError(f'on_missing={self.on_missing!r}; use "raise" or "none"')
        if not self.streams or set(self.streams) - {"video", "audio"}:
            raise ValueError(f'streams={self.streams!r}; give "video", "audio" or both')
        if self.decoder not in ("auto", "torchcodec", "pyav"):
            raise ValueError(f'decoder={self.decoder!r}; use "auto", "torchcodec" or "pyav"')
        if sum(option is not None for option in (self.num_frames, self.fps, self.times)) > 1:
            raise ValueError("num_frames, fps and times exclude each other; give one of them")


EVERYTHING = ClipRequest()


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


def is_absolute(name: str) -> bool:
    """Whether a name begins at a root. On Windows `os.path.isabs` says no to "/a" from Python 3.13 on.

    Elsewhere a backslash is a part of a name like any other.
    """
    return os.path.isabs(name) or name.startswith(("/", os.sep))


def safe_join(folder: str | os.PathLike, file_name: str | os.PathLike) -> str:
    """The path of a table's file inside its folder.

    Symbolic links inside the folder are followed: whoever made the folder made them (the Hub's cache is made of them).

    Raises:
        ClipError: the name is absolute, leaves the folder, or is a URL or FFmpeg protocol string.
    """
    name = os.fspath(file_name)
    # A name is refused where FFmpeg or the file system would take it for something else.
    inside = os.path.normpath(name)
    if not name or "\0" in name or PROTOCOL.match(name):
        raise clip_error(repr(name), "path", "is no file name; give a path inside the table's folder")
    if is_absolute(name) or inside.split(os.sep)[0] == ".." or os.path.splitdrive(name)[0]:
        raise clip_error(name, "path", f"leaves the folder {os.fspath(folder)}; give a path inside it")
    return os.path.join(os.fspath(folder), inside)


def probe_clip(
    source: Any, *, decoder: str = "auto", allow_remote: bool = False, max_pixels: int = MAX_PIXELS
) -> ClipInfo:
    """What a file holds: streams, length, size, rates. One frame is decoded, so that a broken file is found out.

    Args:
        source: as for `load_clip`.
        decoder: "auto", "torchcodec" or "pyav".
        allow_remote: let FFmpeg open URLs and protocol strings.
        max_pixels: the largest width times height of a frame that is decoded.

    Raises:
        ClipError: no such file, not a media file, cut off, or without any stream or frame.
    """
    handle, name = _resolve(source, allow_remote)
    with _errors_as_clip_errors(name):
        if isinstance(handle, TorchcodecFile):
            return handle.info(check=True)
        with closing(open_file(handle, name, decoder, max_pixels)) as file:
            return file.info(check=True)


def load_clip(source: Any, request: ClipRequest = EVERYTHING) -> Clip:
    """Decode what is requested of a clip, and nothing else but the frames since the last key frame.

    Args:
        source: path, bytes, `{"path", "bytes"}` (a row of `datasets.Video(decode=False)`), file object, or a
            torchcodec `VideoDecoder` / `AudioDecoder`.
        request: the window, the frames and the streams. The default is the whole clip.

    Returns:
        `Clip`. Its waveform is averaged to mono (surround by its standard weights) and has `round((end - start) *
        rate)` samples.

    Raises:
        ClipError: the file or the window is bad, or the file has none of the requested streams in the window.
    """
    handle, name = _resolve(source, request.allow_remote)
    with _errors_as_clip_errors(name):
        # A decoder of the caller's stays open.
        if isinstance(handle, TorchcodecFile):
            return _load(handle, handle.info(), request)
        if request.decoder != "torchcodec" or not has_pyav():
            return _read(handle, name, request)
        # torchcodec refuses open GOPs and other streams that PyAV reads.
        try:
            return _read(handle, name, request)
        except ImportError:
            raise
        except Exception:
            return _read(handle, name, replace(request, decoder="pyav"))


def clip_window(source: Any, request: ClipRequest = EVERYTHING) -> tuple[float, float]:
    """The requested `(start, end)` in seconds. What the request leaves open comes from the file's headers.

    Raises:
        ClipError: the file cannot be read, or the window is empty or passes its end.
    """
    if request.start is not None and request.end is not None:
        start, end = float(request.start), float(request.end)
        if math.isfinite(end - start):
            return start, end  # load_clip checks them
    return _window(_read_info(source, request), request)


def shared_window(source: Any, request: ClipRequest = EVERYTHING) -> tuple[float, float]:
    """The seconds `(start, end)` of the requested window in which all requested streams of the file run.

    Where there are no such seconds, it is the window itself.

    Raises:
        ClipError: the file cannot be read, or the window is empty or passes its end.
    """
    info = _read_info(source, request)
    start, end = first, last = _window(info, request)
    for kind in request.streams:
        if getattr(info, f"has_{kind}"):
            stream_start, stream_end = info.stream_window(kind)
            first, last = max(first, stream_start), min(last, stream_end)
    return (first, last) if first < last else (start, end)


def _read_info(source: Any, request: ClipRequest) -> ClipInfo:
    handle, name = _resolve(source, request.allow_remote)
    with _errors_as_clip_errors(name):
        if isinstance(handle, TorchcodecFile):
            return handle.info()
        if isinstance(handle, str) and os.path.isfile(handle) and (known := _known_info(handle, name)):
            return known[0]
        with closing(open_file(handle, name, request.decoder, request.max_pixels)) as file:
            return _info(file, handle)


@contextmanager
def _errors_as_clip_errors(name: str) -> Iterator[None]:
    """Whatever a decoder raises becomes a `ClipError` with the file's name."""
    try:
        yield
    except (ClipError, ImportError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        problem = f"cannot be decoded ({reason}); the file is cut off or damaged, write it again"
        raise clip_error(name, "path", problem) from error


def _read(handle: str | bytes, name: str, request: ClipRequest) -> Clip:
    with closing(open_file(handle, name, request.decoder, request.max_pixels, request.transform)) as file:
        return _load(file, _info(file, handle), request)


def _load(file: Any, info: ClipInfo, request: ClipRequest) -> Clip:
    # Which of the requested streams are there?
    present = {"video": info.has_video, "audio": info.has_audio}
    missing = [kind for kind in request.streams if not present[kind]]
    if missing and request.on_missing == "raise":
        problem = f'the file has no {missing[0]} stream; give another, or on_missing="none"'
        if info.path in ("VideoDecoder", "AudioDecoder"):
            problem = f"a decoder holds no {missing[0]}; give the file itself, as datasets.Video(decode=False) does"
        raise clip_error(info.path, missing[0], problem)
    if len(missing) == len(request.streams):
        problem = "the file has no such stream; give another file"
        raise clip_error(info.path, " and ".join(request.streams), problem, MissingStreamError)
    # Fill in the window.
    start, end = _window(info, request)
    request = replace(request, start=start, end=end)
    # A stream that ends before the window is missing too, unless no other one is left.
    streams = [kind for kind in request.streams if present[kind]]
    running = [kind for kind in streams if not _is_over(info, kind, start)]
    if running and request.on_missing == "none":
        streams = running
    # Decode each stream inside the window.
    clip = Clip(start=start, end=end, path=info.path)
    try:
        if "video" in streams:
            clip.frames, clip.frame_times = _load_frames(file, info, request)
        if "audio" in streams:
            clip.sampling_rate = request.sampling_rate or info.sampling_rate
            clip.waveform = _load_waveform(file, info, request)
    except ClipError as error:
        if error.field != "window" or request.within is None:
            raise
        # The caller has not named these seconds, but a window around them.
        first, last = request.within
        message = f"{error} (the seconds that are heard of {first:g} s to {last:g} s)"
        raise type(error)(message, error.path, error.field) from None
    return clip


def _window(info: ClipInfo, request: ClipRequest) -> tuple[float, float]:
    start = 0.0 if request.start is None else float(request.start)
    end = info.duration if request.end is None else float(request.end)
    first, last = request.within or (start, end)
    # A window that passes the end by rounding, or by half a frame, is one that ends there.
    tolerance = max(END_TOLERANCE, 0.5 / info.fps if info.fps else 0.0)
    if not (math.isfinite(first) and math.isfinite(last)) or first < 0 or last <= first:
        problem = f"{first} s to {last} s is empty or negative; give 0 <= start < end <= {info.duration:.3f}"
        raise clip_error(info.path, "window", problem)
    if last > info.duration + tolerance:
        problem = f"{first:g} s to {last:g} s passes the end at {info.duration:.3f} s; give a window inside"
        raise clip_error(info.path, "window", problem)
    return start, end


def _load_frames(file: Any, info: ClipInfo, request: ClipRequest) -> tuple[torch.Tensor, torch.Tensor]:
    _check_overlap(info, "video", request)
    times = _requested_times(info, request)
    if times is None:
        frames = file.frames_between(request.start + info.start, request.end + info.start)
        last = request.end
    else:
        frames = file.frames_at(times + info.start)
        last = times.max()
    # the last frame's length is often unknown, hence more than one frame of tolerance
    tolerance = max(END_TOLERANCE, 1.5 / info.fps if info.fps else 0.0)
    stream_end = math.inf if frames.stream_end is None else frames.stream_end
    if info.video_end is not None and min(last + info.start, info.video_end) > stream_end + tolerance:
        raise _cut_off(info, "video", stream_end)
    return frames.pixels, torch.from_numpy(frames.seconds - info.start)


def _requested_times(info: ClipInfo, request: ClipRequest) -> np.ndarray | None:
    """The seconds `[T]` of the requested frames, or None: every frame of the window."""
    # Times of the caller's
    if request.times is not None:
        times = np.asarray(request.times, dtype=np.float64)
        limit = max(request.end, info.duration) + max(END_TOLERANCE, 0.5 / (info.fps or math.inf))
        if times.ndim != 1 or not len(times) or not np.isfinite(times).all():
            raise clip_error(info.path, "times", f"{request.times!r} are no seconds; give a list of numbers")
        if times.min() < 0 or times.max() > limit:
            raise clip_error(info.path, "times", f"pass 0 s to {info.duration:.3f} s; give times inside the file")
        return times
    # Frames at the centers of equal parts
    start, end = request.start, request.end
    if max(request.num_frames or 0, (request.fps or 0) * (end - start)) > MAX_FRAMES:
        raise clip_error(info.path, "frames", f"more than {MAX_FRAMES} are asked for; give fewer, or a shorter window")
    if request.num_frames is not None and request.num_frames >= 1:
        return frame_times(start, end, request.num_frames)
    if request.fps is not None and request.fps > 0:
        num_frames = max(1, round((end - start) * request.fps))
        return frame_times(start, start + num_frames / request.fps, num_frames)
    if request.num_frames is None and request.fps is None:
        return None
    problem = f"num_frames={request.num_frames}, fps={request.fps}; give a number above 0"
    raise clip_error(info.path, "frames", problem)


def _load_waveform(file: Any, info: ClipInfo, request: ClipRequest) -> torch.Tensor:
    """Exactly the requested seconds as mono `[n]`, zeros where the file has no audio yet or any more."""
    start, end, native = request.start, request.end, info.sampling_rate
    rate = request.sampling_rate or native
    _check_overlap(info, "audio", request)
    num_samples = round((end - start) * rate)
    if num_samples < 1:
        raise clip_error(info.path, "window", f"{start:g} s to {end:g} s holds no sample; give a longer window")
    if (end - start) * max(rate, native) > MAX_SAMPLES:
        problem = f"{start:g} s to {end:g} s holds more than {MAX_SAMPLES} samples; give a shorter window"
        raise clip_error(info.path, "window", problem)

    # Decode a little more than the window where it is resampled.
    margin = RESAMPLING_MARGIN if rate != native else 0.0
    first, count = start - margin, round((end - start + 2 * margin) * native)
    parts = file.waveform(first + info.start, end + margin + info.start)
    waveform, decoded_end = _placed(parts, first + info.start, count, native)
    with np.errstate(invalid="ignore"):
        finite = math.isfinite(waveform.sum(dtype=np.float64))
    if not finite:
        raise clip_error(info.path, "audio", "NaN or infinite samples; write the file again, or leave it out")
    if info.audio_end is not None and min(end + info.start, info.audio_end) > decoded_end + 2 * END_TOLERANCE:
        raise _cut_off(info, "audio", decoded_end)
    if rate == native:
        return torch.from_numpy(waveform)
    # The margin before the window goes, and what is left is cut or padded to its length.
    if not 1 / 1000 <= rate / native <= 1000:
        problem = f"cannot be resampled from {native} Hz to {rate} Hz; write the file again"
        raise clip_error(info.path, "audio", problem)
    return _resampled(torch.from_numpy(waveform), _resampler(native, rate), round(margin * rate), num_samples)


def _placed(parts: Iterable[Samples], first: float, count: int, rate: int) -> tuple[np.ndarray, float]:
    """`[count]` samples from second `first` on, zeros where no part lies, and where the last part ends."""
    waveform = np.zeros(count, np.float32)  # takes no memory where nothing is written
    end = first
    for part in parts:
        position = round((part.start - first) * rate) + part.offset
        end = max(end, part.start + (part.offset + len(part.samples)) / rate)
        _write(waveform, part.samples, position)
    return waveform, end


def _resampled(
    waveform: torch.Tensor, resampler: torchaudio.transforms.Resample, first: int, count: int
) -> torch.Tensor:
    """`[count]` samples of the resampled waveform `[n]` from sample `first` on, zeros after its end.

    A long waveform is resampled piece by piece, each with enough of its neighbors for the filter.
    """
    old, new = resampler.orig_freq, resampler.new_freq
    margin = 0 if old == new else -(-resampler.width // old) * old
    size = max(1, RESAMPLED_AT_ONCE // old) * old
    resampled = np.zeros(count, np.float32)  # takes no memory where nothing is written
    for begin in range(0, len(waveform), size):
        before = min(begin, margin)
        piece = waveform[begin - before : begin + size + margin]
        if piece.any():
            part = resampler(piece)[before // old * new :][: size // old * new].numpy()
            _write(resampled, part, begin // old * new - first)
    return torch.from_numpy(resampled)


def _write(array: np.ndarray, part: np.ndarray, place: int) -> None:
    """Write a part to its place in an array; what passes an end of it is dropped."""
    begin, stop = max(place, 0), min(place + len(part), len(array))
    if stop > begin:
        array[begin:stop] = part[begin - place : stop - place]


def _is_over(info: ClipInfo, kind: str, second: float) -> bool:
    return second >= info.stream_window(kind)[1] + END_TOLERANCE


def _check_overlap(info: ClipInfo, kind: str, request: ClipRequest) -> None:
    if not _is_over(info, kind, request.start):
        return
    ends, cure = info.stream_window(kind)[1], "give an earlier window"
    if request.on_missing == "raise" and len(request.streams) > 1:
        cure += ', or on_missing="none"'
    problem = f"starts at {request.start:g} s, but the {kind} stream ends at {ends:.3f} s; {cure}"
    raise clip_error(info.path, "window", problem, MissingStreamError)


def _cut_off(info: ClipInfo, kind: str, stream_end: float) -> ClipError:
    message = f"is cut off: its {kind} ends at {stream_end - info.start:.2f} s of {info.duration:.2f} s; copy it again"
    return clip_error(info.path, "path", message)


@functools.lru_cache(maxsize=4)
def _resampler(native: int, rate: int) -> torchaudio.transforms.Resample:
    """A resampler between two rates. Its table grows with both, so that a ratio of odd rates is rounded (by 1e-6)."""
    ratio = Fraction(min(rate, native), max(rate, native)).limit_denominator(LARGEST_RATIO)
    if rate > native:
        ratio = 1 / ratio
    with torch.inference_mode(False):
        return torchaudio.transforms.Resample(ratio.denominator, ratio.numerator)


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
    if getattr(source, "_hf_encoded", None):  # `datasets` keeps the file of the decoders that it gives
        source = source._hf_encoded
    if hasattr(source, "get_frames_played_at"):
        return TorchcodecFile(None, "VideoDecoder", video=source), "VideoDecoder"
    if hasattr(source, "get_samples_played_in_range"):
        return TorchcodecFile(None, "AudioDecoder", audio=source), "AudioDecoder"
    # A row of a table, bytes or an open file
    if isinstance(source, dict):
        if source.get("bytes") is not None:
            name = str(source.get("path") or "bytes")
            return _local_bytes(source["bytes"], name), name
        if source.get("path") is None:
            raise clip_error("row", "path", f"no file in {list(source)}; give the column that holds it, or the bytes")
        source = source["path"]
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _local_bytes(bytes(source), "bytes"), "bytes"
    if hasattr(source, "read"):
        name = str(getattr(source, "name", "file object"))
        source.seek(0)
        return _local_bytes(source.read(), name), name
    if not isinstance(source, (str, Path)) and not hasattr(source, "__fspath__"):
        raise clip_error(
            type(source).__name__,
            "path",
            "is no clip; give a path, bytes, a file object, a decoder, or a list of them",
        )
    # A name
    name = os.fspath(source)
    if os.path.isfile(name):
        _refuse_no_clip(_first_bytes(name), name)
        return os.path.abspath(name), name  # absolute: a name with a colon is then no protocol
    if PROTOCOL.match(name):
        if allow_remote:
            return name, name
        raise clip_error(name, "path", "URLs and FFmpeg protocols are refused; download it, or pass allow_remote=True")
    if os.path.isdir(name):
        raise clip_error(name, "path", "is a folder; give a file in it")
    if os.path.exists(name):
        raise clip_error(name, "path", "is a pipe or a device, not a file; write its data to a file, and give that")
    raise clip_error(name, "path", "no such file; check the name and the working directory")


def _first_bytes(name: str) -> bytes:
    try:
        with open(name, "rb") as file:
            return file.read(SIGNATURE_BYTES)
    except OSError as error:
        raise clip_error(
            name, "path", f"cannot be read ({error.strerror}); check its permissions and the disk"
        ) from error


def _local_bytes(data: bytes, name: str) -> bytes:
    _refuse_no_clip(data[:SIGNATURE_BYTES], name)
    return data


def _refuse_no_clip(head: bytes, name: str) -> None:
    start = head.lstrip(b"\xef\xbb\xbf \r\n\t")
    for kind, beginnings in REFUSED_SIGNATURES.items():
        playlist = kind == "a playlist" and any(line in b"\n" + head for line in PLAYLIST_LINES)
        if playlist or start.startswith(beginnings):
            raise clip_error(name, "path", f"is {kind}, not a media file; give the clip itself")
