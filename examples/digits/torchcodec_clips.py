# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""torchcodec as a reader of media files; see `clip_decoders`."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from .clip_types import (
    MAX_PIXELS,
    TIME_ROUNDING,
    ClipInfo,
    Frames,
    FrameTransform,
    Samples,
    check_size,
    to_mono,
    unreadable,
)


SHORT_DELAY = 0.1  # seconds by which one stream of a file usually begins after the other


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


class TorchcodecFile:
    """torchcodec's decoders in exact mode: every packet's time is read before the first frame is chosen.

    Args:
        source: path or bytes; None where `video` or `audio`, a decoder of the caller's, is read.
        name: for messages.
        video, audio: decoders.
        pyav_file: the same file in PyAV, which knows the default tracks and where streams end, and reads the audio.
        max_pixels: of a frame, where PyAV does not check it.
        transform: see `open_file`.
    """

    def __init__(
        self,
        source: Any,
        name: str,
        video: Any = None,
        audio: Any = None,
        pyav_file: Any = None,
        max_pixels: int = MAX_PIXELS,
        transform: FrameTransform | None = None,
    ):
        self.name, self._source, self._pyav_file, self._max_pixels = name, source, pyav_file, max_pixels
        self._video, self._audio, self._transform = video, audio, transform
        if torchcodec_decoders() is None:
            raise ImportError('torchcodec does not load here; install it with FFmpeg, or use decoder="pyav"')

    def close(self) -> None:
        self._video = self._audio = None
        if self._pyav_file is not None:
            self._pyav_file.close()

    @property
    def video(self) -> Any:
        if self._video is None and self._source is not None:
            track = getattr(self._pyav_file, "video", None)
            index = None if track is None else track.index
            self._video = torchcodec_decoders().VideoDecoder(self._source, stream_index=index, seek_mode="exact")
        return self._video

    @property
    def audio(self) -> Any:
        if self._audio is None and self._source is not None:
            decoder = torchcodec_decoders().AudioDecoder
            self._audio = decoder(self._source)
        return self._audio

    def info(self, check: bool = False) -> ClipInfo:
        """From PyAV where it is installed, else from torchcodec's metadata."""
        if self._pyav_file is not None:
            return self._pyav_file.info(check)
        video, audio, failure = None, None, None
        try:
            video = self.video.metadata if self.video is not None else None
        except (RuntimeError, ValueError, IndexError) as error:
            failure = error
        try:
            audio = self.audio.metadata if self.audio is not None else None
        except (RuntimeError, ValueError, IndexError) as error:
            failure = error
        if video is None and audio is None:
            raise unreadable(self._source, self.name, failure)
        return self._info_of(video, audio)

    def _info_of(self, video: Any, audio: Any) -> ClipInfo:
        fields: dict[str, Any] = {}
        if audio is not None:
            start = max(0.0, audio.begin_stream_seconds or 0.0)
            end = start + audio.duration_seconds if audio.duration_seconds else None
            fields |= {"audio_start": start, "sampling_rate": audio.sample_rate, "num_channels": audio.num_channels}
        if video is not None:
            check_size(video, self.name, self._max_pixels)
            # an audio header may give the whole file's length: the scan of the frames is exact
            start, end = max(0.0, video.begin_stream_seconds or 0.0), video.end_stream_seconds
            fields |= {"video_start": start, "video_end": end, "fps": video.average_fps}
            fields |= {"height": video.height, "width": video.width}
        start = min(fields.get("video_start", start), fields.get("audio_start", start))
        if self._source is None and start < SHORT_DELAY:
            start = 0.0  # of a decoder alone, the stream that begins the file is not known
        return ClipInfo(
            path=self.name,
            duration=(end or start) - start,
            start=start,
            has_video=video is not None,
            has_audio=audio is not None,
            **fields,
        )

    def frames_at(self, times: np.ndarray) -> Frames:
        """The frame on the screen at each time."""
        metadata = self.video.metadata
        first, last = metadata.begin_stream_seconds, metadata.end_stream_seconds
        inside = np.clip(times + TIME_ROUNDING, first, max(first, last - TIME_ROUNDING))
        pixels, seconds = self._played_at(inside)
        if (seconds > inside + TIME_ROUNDING).any():  # seen with streams whose frames claim no length
            raise RuntimeError(f"{self.name}: torchcodec returned a frame that is not on the screen yet")
        past = times >= last - TIME_ROUNDING
        if past.any():  # the last frame may have no length, and then no time at which it is played
            final = self.video.get_frame_at(len(self.video) - 1)
            pixels[torch.from_numpy(past)], seconds[past] = self._transformed(final.data[None]), final.pts_seconds
        return Frames(pixels, seconds, last if times.max() >= last else None)

    def _played_at(self, times: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Frames and their seconds; where they are transformed, only one of full size is in memory."""
        if self._transform is None:
            batch = self.video.get_frames_played_at(times.tolist())
            return batch.data, batch.pts_seconds.numpy().astype(np.float64)
        pixels, seconds = [], []
        for time in times.tolist():
            frame = self.video.get_frame_played_at(time)
            pixels.append(self._transform(frame.data[None]))
            seconds.append(frame.pts_seconds)
        return torch.cat(pixels), np.array(seconds)

    def _transformed(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels if self._transform is None else self._transform(pixels)

    def frames_between(self, start: float, end: float) -> Frames:
        """Every frame shown in `[start, end)`."""
        metadata = self.video.metadata
        first, last = metadata.begin_stream_seconds, metadata.end_stream_seconds
        begin = min(max(start + TIME_ROUNDING, first), max(first, last - TIME_ROUNDING))
        batch = self.video.get_frames_played_in_range(begin, min(max(end, begin + TIME_ROUNDING), last))
        pixels, seconds = batch.data, batch.pts_seconds.numpy().astype(np.float64)
        if end > last:  # the last frame may have no length, and is then in no range
            final = self.video.get_frame_at(len(self.video) - 1)
            if not len(seconds) or final.pts_seconds > seconds[-1] + TIME_ROUNDING:
                pixels, seconds = torch.cat([pixels, final.data[None]]), np.append(seconds, final.pts_seconds)
        return Frames(self._transformed(pixels), seconds, last if end > last else None)

    def waveform(self, start: float, end: float) -> Iterator[Samples]:
        """The samples between two times. PyAV reads them where it is: torchcodec closes gaps, and what follows is early."""
        if self._pyav_file is not None:
            yield from self._pyav_file.waveform(start, end)
            return
        samples = self.audio.get_samples_played_in_range(max(start, 0.0), end)
        yield Samples(to_mono(samples.data.numpy()), 0, float(samples.pts_seconds))
