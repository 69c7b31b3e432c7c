# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Two ways to read frames and samples of a media file by seconds: PyAV and torchcodec.

Both readers have the same methods and the same clock, the file's own presentation time:

* `info()` gives a `ClipInfo`;
* `frames_at(times)` gives the frame on the screen at each time, as `Frames`;
* `frames_between(start, end)` gives every frame shown in `[start, end)`, as `Frames`;
* `waveform(start, end)` gives mono samples part after part, as `Samples`.
"""

import functools
import io
import itertools
import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .clip_types import (
    MAX_PIXELS,
    TIME_ROUNDING,
    ClipError,
    ClipInfo,
    Frames,
    FrameTransform,
    Samples,
    check_size,
    check_total,
    clip_error,
    to_mono,
    unreadable,
)
from .torchcodec_clips import TorchcodecFile, torchcodec_decoders


PREROLL_SECONDS = 0.3  # audio codecs need some packets before the window: AAC 1 frame, MP3 0.1 s, Opus 0.08 s
SEEK_AHEAD_SECONDS = 4.0  # decode forward over shorter gaps, seek over longer ones
DEFAULT_TRACK = 0x1  # FFmpeg's AV_DISPOSITION_DEFAULT
ATTACHED_PICTURE = 0x400  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC
PROGRESSIVE = 1  # FFmpeg's AV_FIELD_PROGRESSIVE: whole frames, no fields
# Layouts by their number of channels
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}

# FFmpeg's names of the containers that are opened. Playlists, session descriptions, image sequences, text and capture
# devices are not among them: they open other files and addresses.
CONTAINERS = (
    "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "flv", "mpeg", "mpegts", "asf", "ogg", "wav",
    "w64", "mp3", "aac", "ac3", "eac3", "amr", "amrnb", "amrwb", "aiff", "au", "caf", "dts", "flac", "h264", "hevc",
    "ivf", "m4v", "mpegvideo", "mxf", "nut", "obu", "rm", "dv", "tta", "voc", "vc1", "wv", "wtv", "gif", "yuv4mpegpipe",
)  # fmt: skip
# Containers without an index: their length is a guess from the bit rate, so that the packets are counted.
GUESSED_LENGTH = {
    "aac", "ac3", "amr", "amrnb", "amrwb", "dts", "eac3", "h264", "hevc", "m4v", "mp3", "mpeg", "mpegvideo", "obu", "vc1",
}  # fmt: skip
# Containers that give the length of the file for each of its streams
FILE_LENGTH = {"asf"}
# Containers whose frames are read from the beginning of the file: seeking gives frames with wrong times ...
SEQUENTIAL = {"avi", "h264", "hevc", "m4v", "mpeg", "mpegvideo", "obu", "vc1"}
# ... those that give no presentation times: their frames are timed by their order ...
TIMED_BY_ORDER = SEQUENTIAL - {"mpeg"}
# ... and those that may give decoding times in their place
DOUBTED = {"asf", "mxf", "wtv"}
DOUBTED_FRAMES = 16  # that are looked at


def open_file(
    source: str | bytes,
    name: str,
    decoder: str = "auto",
    max_pixels: int = MAX_PIXELS,
    transform: FrameTransform | None = None,
) -> Any:
    """The reader for a file: PyAV, which skips frames that nobody asks for, or torchcodec where PyAV is not installed.

    With `decoder="torchcodec"`, PyAV still reads the files whose frames torchcodec times or turns wrongly. `transform`
    is applied to each frame as soon as it is decoded.

    Raises:
        ClipError: not a media file, or its frames have more than `max_pixels`.
        ImportError: the decoder is not installed.
    """
    if decoder == "pyav" or (decoder == "auto" and (has_pyav() or torchcodec_decoders() is None)):
        return PyAVFile(source, name, max_pixels, transform)
    if not has_pyav():
        return TorchcodecFile(source, name, max_pixels=max_pixels, transform=transform)
    file = PyAVFile(source, name, max_pixels, transform)
    try:
        suits = file.suits_torchcodec()
    except Exception:
        file.close()
        raise
    return TorchcodecFile(source, name, pyav_file=file, transform=transform) if suits else file


@functools.lru_cache(maxsize=1)
def has_pyav() -> bool:
    """Whether PyAV can be imported."""
    try:
        import av  # noqa: F401

        return True
    except (ImportError, OSError):
        return False


class PyAVFile:
    """One open container for both streams. Right by presentation time for any frame rate; seeks in long files."""

    def __init__(
        self,
        source: str | bytes,
        name: str,
        max_pixels: int = MAX_PIXELS,
        transform: FrameTransform | None = None,
    ):
        try:
            import av
        except ImportError as error:
            raise ImportError("reading clips needs PyAV (pip install av) or torchcodec with FFmpeg") from error
        self.name, self._av, self._source = name, av, source
        self._max_pixels, self._transform = max_pixels, transform
        self._file: Any = None
        self._converter = av.video.reformatter.VideoReformatter()
        self._sequential: bool = False
        self._by_order: bool | None = None
        self._delay = 0  # of frames that are timed by their order, after they are decoded
        self._matrices: dict[int, np.ndarray | None] = {}  # by the angle of a frame
        self._graphs: dict[tuple[int, int, str], Any] = {}  # by size and pixel format
        self._interleavers: dict[tuple[str, str], Any] = {}  # by sample format and layout
        try:
            self._open()
        except Exception:
            self.close()
            raise

    def _open(self) -> None:
        """Read the file from its beginning."""
        self.close()
        # Remote addresses need other protocols and playlists. Whoever allowed them has chosen so.
        options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
        if isinstance(self._source, str) and not os.path.exists(self._source):
            options = {}
        try:
            file = io.BytesIO(self._source) if isinstance(self._source, bytes) else self._source
            # Not `options`, which go to streams too: PyAV before 17.1 crashes where these appear late (its issue 2010).
            self._file = self._av.open(file, metadata_errors="ignore", container_options=options)
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise unreadable(self._source, self.name, error) from error
        self.container = self._file.format.name.split(",")[0]
        self.video = self._default_track("video")
        self.audio = self._default_track("audio")
        for stream in self._streams():
            if stream.codec_context is None:
                problem = f"is cut off, or its {stream.type} has a codec that FFmpeg does not know"
                raise clip_error(self.name, "path", f"{problem}; copy it again, or transcode it")
        if self.video is not None:
            check_size(self.video.codec_context, self.name, self._max_pixels)
            # for frames that are larger than the header says; FFmpeg counts their padding too
            self.video.codec_context.options = {"max_pixels": str(2 * self._max_pixels + (1 << 16))}
            self.video.codec_context.thread_count = 1  # a short window ends before more threads have begun
            if self._by_order is None:
                self._judge_times()

        if self.audio is not None:
            self._channels = self._mend_layout(self.audio.codec_context)

    def _judge_times(self) -> None:
        """Decide whether frames are read from the beginning, and timed by their order."""
        self._sequential, self._by_order = self.container in SEQUENTIAL, self.container in TIMED_BY_ORDER
        if self.container in DOUBTED:
            frames = list(itertools.islice(self._decoded("video"), DOUBTED_FRAMES))
            times = [frame.pts for frame in frames]
            self._sequential = self._by_order = times != sorted(times)
            if self._by_order:  # the first frame is shown when the stream starts
                self._delay = (self.video.start_time or 0) - self._first_dts()
            self._open()

    def _first_dts(self) -> int:
        self._file.seek(0)
        times = (packet.dts for packet in self._file.demux(self.video))
        return next((time for time in times if time is not None), 0)

    def _mend_layout(self, codec: Any) -> list[str]:
        """The names of the channels. A layout in an order of its own is replaced: PyAV would free it twice and crash."""
        layout = codec.layout
        names = [channel.name for channel in layout.channels]
        if "(" in layout.name:
            codec.layout = LAYOUTS.get(len(names), f"{len(names)} channels")
        return names

    def close(self) -> None:
        """Close the container; only the cyclic garbage collector would close one that is dropped."""
        if self._file is not None:
            self._file.close()

    def _default_track(self, kind: str) -> Any:
        """The track that players show: the first one marked as default, else the first. A cover is no video."""
        tracks = [s for s in getattr(self._file.streams, kind) if not s.disposition.value & ATTACHED_PICTURE]
        return max(tracks, key=lambda track: track.disposition.value & DEFAULT_TRACK, default=None)

    def _streams(self) -> list[Any]:
        return [stream for stream in (self.video, self.audio) if stream is not None]

    # Lengths

    def info(self, check: bool = False) -> ClipInfo:
        """What the headers say. `check` also decodes the first frame and looks for a file that was cut off."""
        if not self._streams():
            raise clip_error(self.name, "path", "holds neither a video nor an audio stream; is it the right file?")
        if check:
            self._check_complete()
        starts, ends = self._stream_times()
        start = min(starts.values())
        fields: dict[str, Any] = {}
        if self.video is not None:
            fields |= self._video_fields(starts["video"], check)
            fields |= {"video_start": starts["video"], "video_end": ends["video"]}
        if self.audio is not None:
            codec = self.audio.codec_context
            if codec.sample_rate <= 0:
                raise clip_error(
                    self.name, "audio", f"a sampling rate of {codec.sample_rate} Hz; write the file again"
                )
            fields |= {"sampling_rate": codec.sample_rate, "num_channels": codec.channels}
            fields |= {"audio_start": starts["audio"], "audio_end": ends["audio"]}
        return ClipInfo(
            path=self.name,
            duration=max(ends.values()) - start,
            start=start,
            has_video=self.video is not None,
            has_audio=self.audio is not None,
            **fields,
        )

    def _video_fields(self, start: float, check: bool) -> dict[str, Any]:
        rate, codec = self.video.average_rate, self.video.codec_context
        height, width = codec.height, codec.width
        if check:
            frame = next(self._frames(start), None)
            if frame is None:
                raise clip_error(self.name, "video", "the stream has no frames; leave it out or record it again")
            height, width, _ = self._upright(frame).shape
        return {"fps": float(rate) if rate else None, "height": height, "width": width}

    def _stream_times(self) -> tuple[dict[str, float], dict[str, float]]:
        """Where each stream starts and ends, by kind."""
        starts, ends = {}, {}
        for stream in self._streams():
            starts[stream.type] = max(0.0, float((stream.start_time or 0) * stream.time_base))
            if stream.duration and self.container not in GUESSED_LENGTH | FILE_LENGTH:
                ends[stream.type] = starts[stream.type] + float(stream.duration * stream.time_base)
        if len(ends) == len(starts):
            return starts, ends

        # mkv and webm give no length per stream, or none at all; other files give a guess
        scanned = self._scan_end()
        for kind, start in starts.items():
            ends.setdefault(kind, scanned.get(kind, start))
        declared = (self._file.duration or 0) / self._av.time_base  # some muxers count from 0, some not
        if self.container not in GUESSED_LENGTH and max(ends.values()) + 0.5 < declared:
            raise self._truncated(max(ends.values()), declared)
        return starts, ends

    def _scan_end(self) -> dict[str, float]:
        """Where each stream ends, from the packets at the end of the file (nothing is decoded)."""
        ends: dict[str, float] = {}
        for from_start in (self.container in GUESSED_LENGTH, True):
            try:
                if from_start:
                    self._open()
                else:
                    self._file.seek(self._file.duration or 0)
                ends = self._packet_ends()
            except self._av.FFmpegError:
                continue
            if len(ends) == len(self._streams()):
                break
        self._open()
        return ends

    def _packet_ends(self) -> dict[str, float]:
        """Where each stream ends, by kind, from the packets that follow."""
        ends: dict[str, float] = {}
        frames = 0
        for packet in self._file.demux(self._streams()):
            if not packet.size:
                continue
            kind, tick = packet.stream.type, packet.pts
            if kind == "video":
                if self._by_order:
                    tick = self._decoding_tick(packet, frames)
                elif tick is None and self._sequential:
                    tick = self._tick_of(frames)
                frames += 1
            if tick is not None:
                end = float((tick + (packet.duration or 0)) * packet.time_base)
                ends[kind] = max(end, ends.get(kind, end))
        return ends

    def _check_complete(self) -> None:
        """The index of a file may name packets that a copy has lost."""
        if self.container in GUESSED_LENGTH:
            return
        scanned = self._scan_end()
        for stream in self._streams():
            if stream.duration and stream.type in scanned:
                declared = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
                if scanned[stream.type] + 0.5 < declared:
                    raise self._truncated(scanned[stream.type], declared)

    def _truncated(self, end: float, declared: float) -> ClipError:
        problem = f"is cut off: it ends at {end:.2f} s of {declared:.2f} s; copy or download it again"
        return clip_error(self.name, "path", problem)

    # Packets and frames

    def _seek(self, stream: Any, time: float) -> None:
        """Go to the last key frame at or before `time`, or to the beginning of the file."""
        if stream.type == "video" and self._sequential:
            self._open()
            return
        try:
            self._file.seek(int(time / stream.time_base), stream=stream, backward=True)
        except self._av.FFmpegError:  # avi refuses times below 0; some files have no index
            self._open()

    def _decoded(self, kind: str) -> Iterator:
        """Decoded frames with a presentation time, from here on."""
        stream = getattr(self, kind)
        stream.codec_context.skip_frame = "DEFAULT"
        by_order = kind == "video" and self._by_order
        count, ticks = 0, deque()  # decoding times come in the order in which frames are shown
        previous = None
        try:
            for packet in self._file.demux(stream):
                if by_order and packet.size:
                    ticks.append(self._decoding_tick(packet, count))
                    count += 1
                for frame in packet.decode():
                    if by_order:
                        frame.pts = ticks.popleft() if ticks else None
                    elif frame.pts is None:
                        frame.pts = self._end_of(previous)
                        if frame.pts is None:
                            frame.pts = frame.dts
                    if frame.time is None:
                        continue
                    previous = frame
                    yield frame
        except self._av.EOFError:
            return
        except self._av.FFmpegError as error:
            problem = f"cannot be decoded ({error.strerror or error}); the file is damaged, write it again"
            raise clip_error(self.name, kind, problem) from error

    def _end_of(self, frame: Any) -> int | None:
        """When a frame ends that another one without a time follows; None where that is unknown.

        Of several audio frames in one packet only the first has a time, of H.264 in MPEG-PS one frame of ten.
        """
        if frame is None:
            return None
        if getattr(frame, "sample_rate", 0):
            return frame.pts + round(frame.samples / (frame.sample_rate * frame.time_base))
        if self._sequential and self.video.average_rate:
            return frame.pts + round(1 / (self.video.average_rate * frame.time_base))
        return None

    def _decoding_tick(self, packet: Any, count: int) -> int:
        """When a packet is decoded. A raw stream has no times at all: its frames follow at its frame rate."""
        if packet.dts is not None:
            return packet.dts + self._delay
        return self._tick_of(count)

    def _tick_of(self, count: int) -> int | None:
        """When frame `count` of the file is shown, if all follow each other at the frame rate."""
        if not self.video.average_rate:
            return None
        return (self.video.start_time or 0) + round(count / (self.video.average_rate * self.video.time_base))

    def _frames(self, time: float) -> Iterator:
        """Decoded frames in order of time, from the last key frame at or before `time`."""
        self._seek(self.video, time)
        frames = self._decoded("video")
        first = next(frames, None)
        # No index, a bad one, or frames that refresh bit by bit without key frames: read from the beginning.
        if first is None or first.time > time or not starts_anew(first):
            self._open()
            frames = self._decoded("video")
            first = next(frames, None)
        if first is not None:
            yield first
            yield from frames

    def frames_at(self, times: np.ndarray) -> Frames:
        """The frame on the screen at each time. Of H.264, frames are not decoded that nobody needs."""
        codec = self.video.codec_context
        progressive = getattr(codec, "field_order", None) == PROGRESSIVE  # PyAV before 18.1 does not tell
        if codec.name == "h264" and progressive and not self._sequential:
            frames = self._read_runs(times, self._needed_run)
            if frames is not None:
                return frames
            self._open()
        return self._read_runs(times, self._full_run)

    def _read_runs(self, times: np.ndarray, read_run: Any) -> Frames | None:
        """Read times that are close together in one go, with a seek before each group."""
        order = np.argsort(times, kind="stable")
        far = np.diff(times[order]) > SEEK_AHEAD_SECONDS
        if self._sequential:
            far[:] = False
        images, seconds, stream_end = [None] * len(times), np.empty(len(times)), None
        for run in np.split(order, np.flatnonzero(far) + 1):
            result = read_run(times[run])
            if result is None:
                return None
            stream_end = result.stream_end
            for index, image, second in zip(run, result.images, result.seconds, strict=True):
                images[index], seconds[index] = image, second
        return Frames(self._stack(images), seconds, stream_end)

    def _full_run(self, times: np.ndarray) -> "Run":
        """The frames at sorted times, where every frame between them is decoded."""
        frames = self._frames(times[0])
        current, following = next(frames, None), next(frames, None)
        if current is None:
            raise clip_error(self.name, "video", "the stream has no frames; leave it out or record it again")
        run, image = Run(), self._to_rgb(current)
        for time in times:
            passed = False
            while following is not None and following.time <= time + TIME_ROUNDING:
                current, following, passed = following, next(frames, None), True
            if passed:
                image = self._to_rgb(current)
            run.images.append(image)
            run.seconds.append(current.time)
        if following is None:
            run.stream_end = current.time + self._frame_seconds(current)
        return run

    def _needed_run(self, times: np.ndarray) -> "Run | None":
        """The frames at sorted times, where frames are skipped that none of these needs.

        The presentation times of the packets say which frames are on the screen. Frames that no other frame refers to
        are skipped unless they are on it. None: the packets do not say enough, or the decoder gave other frames.
        """
        packets, at_end = self._packets_until(times)
        if not packets or any(packet.pts is None for packet in packets):
            return None
        tick = float(self.video.time_base)
        known = np.unique([packet.pts for packet in packets])
        place = np.searchsorted(known, (times + TIME_ROUNDING) / tick, side="right") - 1
        shown = known[np.maximum(place, 0)].tolist()  # before its first frame, a stream shows that

        images: dict[int, np.ndarray] = {}
        packets_of_shown = self._without_needless_groups(packets, set(shown))
        for number, frame in enumerate(self._decoded_packets(packets_of_shown, set(shown))):
            # The stream only begins with whole frames, or what was taken for a key frame is none.
            if frame.interlaced_frame or (number == 0 and not starts_anew(frame)):
                return None
            if frame.pts in shown and frame.pts not in images:
                images[frame.pts] = self._to_rgb(frame)
            if len(images) == len(set(shown)):
                break
        else:
            return None
        run = Run([images[pts] for pts in shown], [float(pts * self.video.time_base) for pts in shown])
        if at_end:
            run.stream_end = max(packet.pts + (packet.duration or 0) for packet in packets) * tick
        return run

    def _packets_until(self, times: np.ndarray) -> tuple[list, bool]:
        """The packets from the key frame before the first time to the last time, and whether the stream ends there."""
        self._seek(self.video, times[0])
        packets, at_end = self._packets_before(times[-1])
        if packets and packets[0].pts is not None and packets[0].pts * packets[0].time_base > times[0]:
            self._open()  # no index, or a bad one: read from the beginning
            packets, at_end = self._packets_before(times[-1])
        return packets, at_end

    def _packets_before(self, last: float) -> tuple[list, bool]:
        packets = []
        last_tick = (last + TIME_ROUNDING) / self.video.time_base
        for packet in self._file.demux(self.video):
            if not packet.size:
                break
            # later packets are shown later still: a frame is decoded before it is shown
            if packet.dts is not None and packet.dts > last_tick:
                return packets, False
            packets.append(packet)
        return packets, True

    def _without_needless_groups(self, packets: list, needed: set[int]) -> list:
        """The packets without those that follow the last needed one of their group.

        A group begins with an IDR picture. No frame refers to another across it, which is not so of other key frames.
        """
        extradata = self.video.codec_context.extradata or b""
        chosen: list = []
        group: list = []
        for packet in packets:
            if packet.is_keyframe and is_idr(packet, extradata):
                chosen += group[: last_needed(group, needed) + 1]
                group = []
            group.append(packet)
        return chosen + group[: last_needed(group, needed) + 1]

    def _decoded_packets(self, packets: list, needed: set[int]) -> Iterator:
        codec = self.video.codec_context
        try:
            for packet in packets:
                codec.skip_frame = "DEFAULT" if packet.pts in needed else "NONREF"
                yield from packet.decode()
            yield from codec.decode(None)  # the frames that the decoder still holds
        except self._av.EOFError:
            return
        except self._av.FFmpegError as error:
            problem = f"cannot be decoded ({error.strerror or error}); the file is damaged, write it again"
            raise clip_error(self.name, "video", problem) from error

    def frames_between(self, start: float, end: float) -> Frames:
        """Every frame shown in `[start, end)`."""
        images: list[np.ndarray] = []
        seconds: list[float] = []
        stream_end = None
        for frame in self._frames(start):
            if frame.time >= end - TIME_ROUNDING and images:
                stream_end = None
                break
            if images and frame.time <= start + TIME_ROUNDING:
                images, seconds = [], []  # only the last frame before the window is on the screen when it starts
            images.append(self._to_rgb(frame))
            seconds.append(frame.time)
            check_total(self.name, len(images), images[-1])
            stream_end = frame.time + self._frame_seconds(frame)
        if not images:
            raise clip_error(self.name, "video", "the stream has no frames; leave it out or record it again")
        return Frames(self._stack(images), np.array(seconds), stream_end)

    def _frame_seconds(self, frame: Any) -> float:
        return float((getattr(frame, "duration", 0) or 0) * frame.time_base)

    def _stack(self, images: list[np.ndarray]) -> torch.Tensor:
        """Images `[H, W, 3]` as one tensor `[T, 3, H, W]`."""
        check_total(self.name, len(images), images[0])
        sizes = sorted({image.shape[:2] for image in images})
        if len(sizes) > 1:
            listed = " and ".join(f"{width}x{height}" for height, width in sizes)
            raise clip_error(self.name, "video", f"has frames of {listed}; write it again in one size")
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)

    def _to_rgb(self, frame: Any) -> np.ndarray:
        """The pixels `[H, W, 3]` of a frame, turned and mirrored as the file says, and transformed."""
        image = self._upright(frame)
        if self._transform is None:
            return image
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)  # (3, H, W)
        return self._transform(pixels[None])[0].permute(1, 2, 0).numpy()

    def _upright(self, frame: Any) -> np.ndarray:
        """The pixels `[H, W, 3]` of a frame, turned and mirrored as the file says."""
        check_size(frame, self.name, self._max_pixels)
        if frame.interlaced_frame:
            frame = self._without_fields(frame)
        # One thread, as for decoding: waiting for others costs more than the conversion. PyAV before 17 has but one.
        try:
            rgb = self._converter.reformat(frame, format="rgb24", threads=1)
        except TypeError:
            rgb = self._converter.reformat(frame, format="rgb24")
        image = rgb.to_ndarray()
        # PyAV keeps a frame for long whose side data was asked for, so that only the first one at each angle is asked.
        angle = getattr(frame, "rotation", 0)
        if angle not in self._matrices:
            self._matrices[angle] = display_matrix(frame)
        matrix = self._matrices[angle]
        if matrix is None:
            return image
        across, down = matrix[0, 0], matrix[1, 1]
        if abs(matrix[0, 0]) < abs(matrix[0, 1]):
            image = image.swapaxes(0, 1)
            across, down = matrix[1, 0], matrix[0, 1]
        return image[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]

    def _without_fields(self, frame: Any) -> Any:
        """The frame, no longer marked as two fields: PyAV would mix the colors of each by itself, which no one else does."""
        kind = (frame.width, frame.height, frame.format.name)
        if kind not in self._graphs:
            graph = self._av.filter.Graph()
            size = {"width": frame.width, "height": frame.height, "format": frame.format}
            source = graph.add_buffer(**size, time_base=frame.time_base)
            graph.link_nodes(source, graph.add("setfield", "prog"), graph.add("buffersink")).configure()
            self._graphs[kind] = graph
        self._graphs[kind].vpush(frame)
        return self._graphs[kind].vpull()

    def suits_torchcodec(self) -> bool:
        """Whether torchcodec gives the right frames: not in these containers, nor mirrored, nor without key frames."""
        if self._sequential or self.container in DOUBTED | {"mpegts"}:
            return False
        if self.video is None:
            return True
        first = next(self._frames(0.0), None)
        matrix = None if first is None else display_matrix(first)
        if matrix is not None and np.linalg.det(matrix[:2, :2]) < 0:
            return False
        self._seek(self.video, (self._file.duration or 0) / self._av.time_base)
        last = next(self._decoded("video"), None)
        return last is None or starts_anew(last)

    # Samples

    def waveform(self, start: float, end: float) -> Iterator[Samples]:
        """The samples between two times, from the first decoded packet on. Nothing: the audio ends before."""
        rate = self.audio.codec_context.sample_rate
        self._seek(self.audio, start - PREROLL_SECONDS)  # below 0 too: the packet that primes the codec lies there
        first, count = None, 0
        for frame in self._decoded("audio"):
            if frame.time >= end:
                yield Samples(np.zeros(0, np.float32), 0, end)  # a hole in the audio is no end of it
                return
            if frame.time + frame.samples / rate <= start:
                continue
            if frame.sample_rate != rate:
                problem = f"the sampling rate changes from {rate} Hz to {frame.sample_rate} Hz"
                raise clip_error(self.name, "audio", f"{problem}; write the file again with one rate")
            if first is None:
                first = frame.time
            gap = round((frame.time - first) * rate) - count
            if gap > 0.02 * rate:  # time stamps jump: keep the clock. Smaller steps are rounding of the container
                count += gap
            samples = self._to_mono(frame)
            yield Samples(samples, count, first)
            count += len(samples)

    def _to_mono(self, frame: Any) -> np.ndarray:
        """The samples `[n]` of a frame in -1..1, averaged over its channels."""
        names = self._channels
        if frame.layout.nb_channels != len(names):
            names = [channel.name for channel in frame.layout.channels]
        if frame.format.name == "fltp" and len(names) < 8:
            return to_mono(
                [np.frombuffer(plane, np.float32, frame.samples) for plane in frame.planes[: len(names)]], names
            )
        # Others are interleaved first: PyAV's arrays of planar frames read past the end where there are 8 channels.
        kind = (frame.format.name, frame.layout.name)
        if kind not in self._interleavers:
            self._interleavers[kind] = self._av.AudioResampler(format="flt")
        parts = self._interleavers[kind].resample(frame)
        interleaved = np.concatenate([part.to_ndarray()[0] for part in parts])
        return to_mono(interleaved.reshape(-1, len(names)).T, names)


@dataclass
class Run:
    """Frames at times that are close together: images `[H, W, 3]`, and as in `Frames`."""

    images: list[np.ndarray] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stream_end: float | None = None


def last_needed(packets: list, needed: set[int]) -> int:
    """The place of the last packet whose frame is needed; -1: none is."""
    return max((place for place, packet in enumerate(packets) if packet.pts in needed), default=-1)


def is_idr(packet: Any, extradata: bytes) -> bool:
    """Whether the first picture in a packet of H.264 is an IDR picture."""
    data = bytes(packet)
    if extradata[:1] == b"\x01":  # mp4, mkv and flv: the size of each unit stands before it
        width, place = (extradata[4] & 3) + 1, 0
        kinds = []
        while place + width < len(data):
            kinds.append(data[place + width] & 31)
            place += width + int.from_bytes(data[place : place + width], "big")
    else:  # a start code stands before it
        kinds = [match[1][0] & 31 for match in re.finditer(rb"\x00\x00\x01(.)", data, re.DOTALL)]
    pictures = [kind for kind in kinds if 1 <= kind <= 5]
    return pictures[:1] == [5]


def starts_anew(frame: Any) -> bool:
    """Whether a frame needs no other one. Some codecs do not tell."""
    return frame.pict_type in (0, 1)  # FFmpeg's AV_PICTURE_TYPE_NONE and AV_PICTURE_TYPE_I


def display_matrix(frame: Any) -> np.ndarray | None:
    """`[3, 3]`, how a frame is turned and mirrored on the screen, or None: as it is."""
    side_data = frame.side_data.get("DISPLAYMATRIX")
    return None if side_data is None else np.frombuffer(bytes(side_data), np.int32).reshape(3, 3)
