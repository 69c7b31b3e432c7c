# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Two ways to read frames and samples of a media file by seconds: PyAV and torchcodec.

Both readers have the same methods and the same clock, the file's own presentation time:

* `info()` -> `ClipInfo`;
* `frames_at(times)` -> the frame on the screen at each time, `(uint8 [T, 3, H, W], pts [T], end)`;
* `frames_between(start, end)` -> every frame shown in `[start, end)`, likewise;
* `samples(start, end)` -> `(float32 [channels, n], time of the first sample)`.

`end` is where the pictures ended if reading met the end of the stream, else None.
"""

import functools
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


PREROLL_SECONDS = 0.3  # audio codecs need some packets before the window: AAC 1 frame, MP3 0.1 s, Opus 0.08 s
ATTACHED_PIC = 0x400  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC
PROGRESSIVE = 1  # FFmpeg's AV_FIELD_PROGRESSIVE: whole frames, no fields
SEEK_AHEAD_SECONDS = 4.0  # decode forward over shorter gaps, seek over longer ones
PACKETS_AHEAD = 128  # read before they are decoded, to know which frames will be shown
LARGEST_REORDER = 16  # frames by which H.264 may decode a frame before its turn
LFS_POINTER = b"version https://git-lfs"


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


def open_file(source: str | bytes, name: str, decoder: str = "auto") -> "PyAVFile | TorchcodecFile":
    """The reader for a file: PyAV, which leaves out frames that nobody sees; torchcodec where PyAV is not installed."""
    if decoder not in ("auto", "torchcodec", "pyav"):
        raise ValueError(f'decoder={decoder!r}; use "auto", "torchcodec" or "pyav"')
    if decoder == "torchcodec" or (decoder == "auto" and not has_pyav() and torchcodec_decoders() is not None):
        return TorchcodecFile(source, name)
    return PyAVFile(source, name)


@functools.lru_cache(maxsize=1)
def torchcodec_decoders() -> Any:
    """`torchcodec.decoders`, or None where it is not installed or finds no FFmpeg."""
    try:
        import torchcodec
        from torchcodec import decoders

        # recent versions import without FFmpeg, and look for it anew, in vain, at every file
        return None if getattr(torchcodec, "ffmpeg_major_version", True) is None else decoders
    except (ImportError, OSError, RuntimeError):
        return None


@functools.lru_cache(maxsize=1)
def has_pyav() -> bool:
    try:
        import av  # noqa: F401

        return True
    except (ImportError, OSError):
        return False


class PyAVFile:
    """One open container for both streams. Right by presentation time for any frame rate; seeks in long files."""

    def __init__(self, source: str | bytes, name: str):
        try:
            import av
        except ImportError as error:
            raise ImportError("reading clips needs PyAV (pip install av) or torchcodec with FFmpeg") from error
        self.name, self._av, self._source = name, av, source
        self._reformatter = av.video.reformatter.VideoReformatter()
        self._open()

    def _open(self) -> None:
        try:
            file = io.BytesIO(self._source) if isinstance(self._source, bytes) else self._source
            self._container = self._av.open(file, metadata_errors="ignore")
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise unreadable(self._source, self.name, error) from error
        # the cover picture in a sound file is no video
        pictures = [s for s in self._container.streams.video if not s.disposition.value & ATTACHED_PIC]
        self.video = pictures[0] if pictures else None
        self.audio = next(iter(self._container.streams.audio), None)
        for stream in (self.video, self.audio):
            if stream is not None and stream.codec_context is None:
                problem = f"is cut off, or its {stream.type} has a codec that FFmpeg does not know; copy it again, or transcode it"
                raise clip_error(self.name, "path", problem)
        if self.video is not None:
            self.video.codec_context.thread_count = 1  # threads cost more than they bring on a short window

    def close(self) -> None:
        self._container.close()

    def info(self, check: bool = False) -> ClipInfo:
        """What the headers say. `check` also decodes the first frame and looks for a file that was cut off."""
        if self.video is None and self.audio is None:
            raise clip_error(self.name, "path", "holds neither a video nor an audio stream; is it the right file?")
        if check:
            self._check_complete()
        starts, ends = self._stream_times()
        video, audio = self.video, self.audio
        start = min(starts.values())
        height, width = (video.codec_context.height, video.codec_context.width) if video else (None, None)
        if check and video is not None:
            frame = next(self._frames(starts[video.index]), None)
            if frame is None:
                raise clip_error(self.name, "video", "the stream has no frames; leave it out or record it again")
            height, width = (frame.width, frame.height) if frame.rotation % 180 else (frame.height, frame.width)
        return ClipInfo(
            path=self.name,
            duration=max(ends.values()) - start,
            start=start,
            has_video=video is not None,
            has_audio=audio is not None,
            fps=float(video.average_rate) if video is not None and video.average_rate else None,
            height=height,
            width=width,
            sampling_rate=audio.codec_context.sample_rate if audio else None,
            num_channels=audio.codec_context.channels if audio else None,
            video_start=starts[video.index] if video else None,
            video_end=ends[video.index] if video else None,
            audio_start=starts[audio.index] if audio else None,
            audio_end=ends[audio.index] if audio else None,
        )

    def _stream_times(self) -> tuple[dict[int, float], dict[int, float]]:
        streams = [stream for stream in (self.video, self.audio) if stream is not None]
        starts = {s.index: max(0.0, float((s.start_time or 0) * s.time_base)) for s in streams}
        ends = {s.index: starts[s.index] + float(s.duration * s.time_base) for s in streams if s.duration}
        if len(ends) < len(streams):  # mkv and webm give no length per stream, or none at all
            scanned = self._scan_end()
            for stream in streams:
                ends.setdefault(stream.index, scanned.get(stream.index, starts[stream.index]))
            declared = (self._container.duration or 0) / self._av.time_base  # some muxers count from 0, some not
            if max(ends.values()) + 0.5 < declared:
                raise self._truncated(max(ends.values()), declared)
        return starts, ends

    def _scan_end(self) -> dict[int, float]:
        """Where each stream ends, from the packets at the end of the file (nothing is decoded)."""
        ends: dict[int, float] = {}
        for from_start in (False, True):
            try:
                if from_start:
                    self._open()
                else:
                    self._container.seek(self._container.duration or 0)
                streams = [stream for stream in (self.video, self.audio) if stream is not None]
                for packet in self._container.demux(streams):
                    if packet.pts is not None:
                        end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                        ends[packet.stream_index] = max(end, ends.get(packet.stream_index, end))
            except self._av.FFmpegError:
                continue
            if len(ends) == len(streams):
                break
        self._open()
        return ends

    def _check_complete(self) -> None:
        """The index of a file may name packets that a copy has lost."""
        scanned = self._scan_end()
        for stream in (self.video, self.audio):
            if stream is not None and stream.duration and stream.index in scanned:
                declared = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
                if scanned[stream.index] + 0.5 < declared:
                    raise self._truncated(scanned[stream.index], declared)

    def _truncated(self, found: float, declared: float) -> ClipError:
        return clip_error(
            self.name, "path", f"is cut off: it ends at {found:.2f} s of {declared:.2f} s; copy or download it again"
        )

    def _frames(self, time: float, shown: "ShownFrames | None" = None) -> Iterator:
        """Decoded frames in order of time, from the last key frame at or before `time`."""
        self._seek("video", time)
        frames = self._decode("video", shown)
        first = next(frames, None)
        if first is None or first.time > time:  # no index, or a bad one: read from the beginning
            self._open()
            frames = self._decode("video", shown)
            first = next(frames, None)
        if first is not None:
            yield first
            yield from frames

    def _seek(self, kind: str, time: float) -> None:
        stream = getattr(self, kind)
        try:
            self._container.seek(int(time / stream.time_base), stream=stream, backward=True)
        except self._av.FFmpegError:  # avi refuses times below 0; some files have no index
            self._open()

    def _decode(self, kind: str, shown: "ShownFrames | None" = None) -> Iterator:
        stream = getattr(self, kind)
        packets = self._container.demux(stream)
        if kind == "video":
            stream.codec_context.skip_frame = "DEFAULT"
        try:
            for packet in packets if shown is None else shown.mark(packets):
                for frame in packet.decode():
                    if frame.pts is None:
                        frame.pts = frame.dts
                    if frame.time is not None:
                        yield frame
        except self._av.EOFError:
            return
        except self._av.FFmpegError as error:
            raise clip_error(
                self.name, kind, f"cannot be decoded ({error}); the file is damaged, write it again"
            ) from error

    def frames_at(self, times: np.ndarray) -> tuple[torch.Tensor, np.ndarray, float | None]:
        if self.video.codec_context.name == "h264" and self._container.format.name != "avi":  # avi: no such times
            order = getattr(self.video.codec_context, "field_order", None)  # older PyAV does not tell
            marks = ShownFrames(times, progressive=order == PROGRESSIVE)
            found = self._frames_at(times, marks)
            if marks.agree(times, found[1]):
                return found
            self._open()
        return self._frames_at(times)

    def _frames_at(
        self, times: np.ndarray, marks: "ShownFrames | None" = None
    ) -> tuple[torch.Tensor, np.ndarray, float | None]:
        seconds = np.empty(len(times))
        current = following = None

        def on_screen() -> Iterator:
            nonlocal current, following
            frames: Iterator = iter(())
            for index in np.argsort(times, kind="stable"):
                time = times[index]
                if current is None or (following is not None and time - following.time > SEEK_AHEAD_SECONDS):
                    frames = self._frames(time, marks)
                    current, following = next(frames, None), next(frames, None)
                while following is not None and following.time <= time + 1e-6:
                    current, following = following, next(frames, None)
                if current is None:
                    raise clip_error(self.name, "video", "the stream has no frames; leave it out or record it again")
                seconds[index] = current.time
                if marks is not None:
                    marks.see(current)
                yield index, current

        pictures, end = self._to_tensor(on_screen(), len(times)), None
        if following is None:
            end = current.time + self._frame_seconds(current)
            end = end if marks is None else max(end, marks.end)
        return pictures, seconds, end

    def frames_between(self, start: float, end: float) -> tuple[torch.Tensor, np.ndarray, float | None]:
        shown: list = []
        stopped = False
        for frame in self._frames(start):
            if frame.time >= end - 1e-6 and shown:
                stopped = True
                break
            if shown and frame.time <= start + 1e-6:
                shown.clear()  # only the last frame before the window is on the screen when it starts
            shown.append(frame)
        if not shown:
            raise clip_error(self.name, "video", "the stream has no frames; leave it out or record it again")
        stream_end = None if stopped else shown[-1].time + self._frame_seconds(shown[-1])
        pictures = self._to_tensor(enumerate(shown), len(shown))
        return pictures, np.array([frame.time for frame in shown]), stream_end

    def _frame_seconds(self, frame) -> float:
        return float((getattr(frame, "duration", 0) or 0) * frame.time_base)

    def _to_tensor(self, frames: Iterable, count: int) -> torch.Tensor:
        """Frames with their places, each of which is left for the next as soon as it is converted: `[count, 3, H, W]`."""
        pictures = before = None
        for place, frame in frames:
            if frame is not before:
                before, picture = frame, self._to_rgb(frame)
            pictures = np.empty((count, *picture.shape), np.uint8) if pictures is None else pictures
            if picture.shape != pictures.shape[1:]:
                sizes = " and ".join(f"{width}x{height}" for height, width, _ in (pictures.shape[1:], picture.shape))
                raise clip_error(self.name, "video", f"has pictures of {sizes}; write it again in one size")
            pictures[place] = picture
        return torch.from_numpy(pictures).permute(0, 3, 1, 2)

    def _to_rgb(self, frame) -> np.ndarray:
        """A picture `[H, W, 3]` in the memory of its frame."""
        try:
            rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
        except TypeError:  # PyAV before 17
            rgb = self._reformatter.reformat(frame, format="rgb24")
        plane = rgb.planes[0]
        picture = np.frombuffer(plane, np.uint8).reshape(rgb.height, plane.line_size)[:, : rgb.width * 3]
        turns = round(getattr(frame, "rotation", 0) / 90) % 4
        return np.rot90(picture.reshape(rgb.height, rgb.width, 3), turns)

    def samples(self, start: float, end: float) -> tuple[torch.Tensor, float]:
        stream = self.audio
        rate = stream.codec_context.sample_rate
        self._seek("audio", start - PREROLL_SECONDS)  # below 0 too: the packet that primes the codec lies there
        first, parts, count = start, [], 0
        for frame in self._decode("audio"):
            if frame.time >= end:
                break
            if frame.time + frame.samples / rate <= start:
                continue
            part = _planar_float(frame)
            if not parts:
                first = frame.time
            gap = round((frame.time - first) * rate) - count
            if gap > 0.02 * rate:  # time stamps jump: keep the clock. Smaller steps are rounding of the container
                parts.append(np.zeros((len(part), gap), np.float32))
                count += gap
            parts.append(part)
            count += part.shape[1]
        if not parts:
            return torch.zeros(stream.codec_context.channels or 1, 0), start
        return torch.from_numpy(np.concatenate(parts, axis=1)), first


class ShownFrames:
    """Which frames of an H.264 stream are on the screen at given times: the decoder leaves out others, by which half of
    many a file's, where no frame refers to them, and all that follow the last.

    A packet is marked if its frame is shown at one of the times, as far as the packets around it say: where they say too
    little, too many are marked. Unless the stream is `progressive`, its neighbors are decoded too, they may be the other
    field of an interlaced frame.
    """

    def __init__(self, times: np.ndarray, progressive: bool = False):
        self.times = np.append(np.sort(times) + 1e-6, np.inf)
        self.progressive = progressive
        self.marked: list[float] = []  # seconds
        self.end = 0.0  # where the last packet that was read ends
        self._begun = self._after_marked = self._interlaced = False

    def mark(self, packets: Iterator) -> Iterator:
        """The packets of a stream as they come, with their decoder told what to do with each."""
        self._begun = self._after_marked = False  # read from elsewhere, or once more
        ahead: list = []
        base = last = None  # seconds of a tick; the tick after which no packet is shown
        for packet in packets:
            if base is None:
                base = float(packet.time_base)
                last = self.times[-2] / base
            ahead.append(packet)
            if packet.dts is not None and packet.dts > last and all(p.pts is not None for p in ahead):
                needed = self._needed(ahead, base)
                count = max((place + 1 for place, wanted in enumerate(needed) if wanted), default=0)
                yield from self._tell(ahead, needed[: count if self.progressive else count + 1])
                yield emptying(packet)
                return
            if packet.dts is None or packet.dts > last:
                yield from self._tell(ahead, self._needed(ahead, base))
                ahead = []
            elif len(ahead) >= PACKETS_AHEAD:
                yield from self._tell(ahead, self._needed(ahead, base)[: -LARGEST_REORDER - 1])
                ahead = ahead[-LARGEST_REORDER - 1 :]
        yield from self._tell(ahead, self._needed(ahead, base))

    def _tell(self, packets: list, needed: list[bool]) -> Iterator:
        """As many of the packets as it is known for whether they are needed."""
        for packet, wanted in zip(packets, needed, strict=False):
            packet.stream.codec_context.skip_frame = "DEFAULT" if wanted or self._after_marked else "NONREF"
            self._after_marked = wanted and not self.progressive
            yield packet

    def _needed(self, packets: list, base: float) -> list[bool]:
        if not packets or any(packet.pts is None for packet in packets):
            return [True] * len(packets)
        seconds = np.array([packet.pts for packet in packets]) * base
        self.end = max(self.end, seconds.max() + (packets[-1].duration or 0) * base)
        if self._begun and seconds.min() > self.times[-2]:
            return [False] * len(packets)
        known = np.unique(seconds)
        until = np.append(known, np.inf)[np.searchsorted(known, seconds, side="right")]
        needed = self.times[np.searchsorted(self.times, seconds)] < until
        if not self._begun:  # before its first frame, a stream shows that
            needed |= seconds == known[0]
            self._begun = True
        self.marked += seconds[needed].tolist()
        if not self.progressive:
            needed[:-1] |= needed[1:]
        return needed.tolist()

    def see(self, frame: Any) -> None:
        self._interlaced |= frame.interlaced_frame

    def agree(self, times: np.ndarray, found: np.ndarray) -> bool:
        """Whether the decoder gave the frames that were marked: some streams do not say in which order they are shown, or
        say that they are progressive where they only begin so."""
        if self._interlaced and self.progressive:
            return False
        marked = np.unique([-np.inf, *self.marked])
        return bool(np.all(found >= marked[np.searchsorted(marked, times + 1e-6, side="right") - 1] - 1e-6))


def emptying(packet: Any) -> Any:
    """The packet after which a decoder gives all frames that it holds, as at the end of the stream."""
    empty = type(packet)()
    empty.stream, empty.time_base = packet.stream, packet.time_base
    return empty


class TorchcodecFile:
    """torchcodec's decoders in exact mode: every packet's time is read before the first frame is chosen."""

    def __init__(self, source: Any, name: str, video: Any = None, audio: Any = None):
        self.name, self._source = name, source
        self._video, self._audio = video, audio
        if torchcodec_decoders() is None:
            raise ImportError('torchcodec does not load here; install it with FFmpeg, or use decoder="pyav"')

    def close(self) -> None:
        self._video = self._audio = None

    @property
    def video(self) -> Any:
        if self._video is None and self._source is not None:
            self._video = torchcodec_decoders().VideoDecoder(self._source, seek_mode="exact")
        return self._video

    @property
    def audio(self) -> Any:
        if self._audio is None and self._source is not None:
            self._audio = torchcodec_decoders().AudioDecoder(self._source)
        return self._audio

    def info(self, check: bool = False) -> ClipInfo:
        """From PyAV where it is installed (it knows covers and where streams end), else torchcodec's metadata."""
        if self._source is not None and has_pyav():
            file = PyAVFile(self._source, self.name)
            try:
                return file.info(check)
            finally:
                file.close()
        video = audio = None
        failures = []
        for kind in ("video", "audio"):
            try:
                metadata = getattr(getattr(self, kind), "metadata", None)
                video, audio = (metadata, audio) if kind == "video" else (video, metadata)
            except (RuntimeError, ValueError, IndexError) as error:
                failures.append(error)
        if video is None and audio is None:
            raise unreadable(self._source, self.name, failures[0] if failures else None)
        starts = [max(0.0, m.begin_stream_seconds or 0.0) for m in (video, audio) if m is not None]
        video_end = video.end_stream_seconds if video else None
        audio_end = starts[-1] + audio.duration_seconds if audio and audio.duration_seconds else None
        start = min(starts)
        return ClipInfo(
            path=self.name,
            # an audio header may give the whole file's length: the pictures' scan is exact where there is one
            duration=(video_end or audio_end or start) - start,
            start=start,
            has_video=video is not None,
            has_audio=audio is not None,
            fps=video.average_fps if video else None,
            height=video.height if video else None,
            width=video.width if video else None,
            sampling_rate=audio.sample_rate if audio else None,
            num_channels=audio.num_channels if audio else None,
            video_start=starts[0] if video else None,
            video_end=video_end,
            audio_start=starts[-1] if audio else None,
            audio_end=None,
        )

    def frames_at(self, times: np.ndarray) -> tuple[torch.Tensor, np.ndarray, float | None]:
        metadata = self.video.metadata
        first, last = metadata.begin_stream_seconds, metadata.end_stream_seconds
        inside = np.clip(times + 1e-6, first, max(first, last - 1e-6))
        batch = self.video.get_frames_played_at(inside.tolist())
        pts = batch.pts_seconds.numpy().astype(np.float64)
        if (pts > inside + 1e-6).any():  # seen with streams whose frames claim no length
            raise RuntimeError(f"{self.name}: torchcodec returned a frame that is not on the screen yet")
        frames, past = batch.data, times >= last - 1e-6
        if past.any():  # the last frame may have no length, and then no time at which it is played
            final = self.video.get_frame_at(len(self.video) - 1)
            frames[torch.from_numpy(past)], pts[past] = final.data, final.pts_seconds
        return frames, pts, last if times.max() >= last else None

    def frames_between(self, start: float, end: float) -> tuple[torch.Tensor, np.ndarray, float | None]:
        metadata = self.video.metadata
        first, last = metadata.begin_stream_seconds, metadata.end_stream_seconds
        begin = min(max(start + 1e-6, first), max(first, last - 1e-6))
        batch = self.video.get_frames_played_in_range(begin, min(max(end, begin + 1e-6), last))
        return batch.data, batch.pts_seconds.numpy().astype(np.float64), last if end > last else None

    def samples(self, start: float, end: float) -> tuple[torch.Tensor, float]:
        samples = self.audio.get_samples_played_in_range(max(start, 0.0), end)
        return samples.data, float(samples.pts_seconds)


def _planar_float(frame) -> np.ndarray:
    """A decoded audio frame as float32 `[channels, n]` in -1..1."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / np.float32(2 ** (8 * samples.dtype.itemsize - 1))
    return samples.astype(np.float32, copy=False)
