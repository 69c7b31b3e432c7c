# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Write a short clip (video, audio, or both) to a real media file with PyAV."""

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from processing.data.atomic_writing import atomic_file


# container suffix -> (video encoder, audio encoder)
ENCODERS = {
    ".mp4": ("libx264", "aac"),
    ".mov": ("libx264", "aac"),
    ".mkv": ("libx264", "aac"),
    ".webm": ("libvpx-vp9", "libopus"),
    ".avi": ("mpeg4", "pcm_s16le"),
    ".m4a": (None, "aac"),
    ".wav": (None, "pcm_s16le"),
}
VIDEO_CLOCK = 90_000  # ticks per second, when the frame times are no multiples of 1 / fps


def write_clip(
    path: str | os.PathLike,
    frames: "np.ndarray | None" = None,
    waveform: "np.ndarray | None" = None,
    *,
    fps: float = 25,
    sampling_rate: int = 16000,
    frame_times: Sequence[float] | None = None,
    rotation: int = 0,
    start_time: float = 0.0,
    audio_start_time: float | None = None,
    layout: str = "mono",
    crf: int = 18,
    keyframe_interval: int = 12,
) -> Path:
    """Write one clip: H.264 and AAC in mp4, mov or mkv; VP9 and Opus in webm; MPEG-4 and PCM in avi.

    The file is written under a temporary name in the same folder and then renamed, so that a reader never meets half
    a file.

    Args:
        path: where to write; the suffix chooses container and codecs.
        frames: `[T, H, W, 3]` uint8 RGB, array or tensor, even height and width. None writes no video stream.
        waveform: `[n]` or `[channels, n]` float in -1..1, array or tensor. None writes no audio stream.
        fps: frames per second when `frame_times` is not given.
        sampling_rate: of the waveform, in Hz.
        frame_times: `[T]` ascending seconds, for a variable frame rate.
        rotation: clockwise turn in degrees that a player applies (0, 90, 180 or 270; mp4 and mov only).
        start_time: presentation time of the first frame and sample, in seconds.
        audio_start_time: presentation time of the first sample when it differs from `start_time`.
        layout: FFmpeg channel layout ("mono", "stereo", "5.1"); a `[n]` waveform is copied to every channel.
        crf: constant quality of H.264 and VP9; lower is better and larger.
        keyframe_interval: largest distance between key frames, in frames.

    Raises:
        ValueError: nothing to write, an unknown suffix, a wrong shape, type or rotation.
    """
    path = Path(path)
    video_encoder, audio_encoder = _encoders(path)
    if frames is not None:
        frames = _as_frames(frames, path)
        if frame_times is None:
            frame_times = np.arange(len(frames)) / float(fps)
    _check_streams(path, frames, waveform, frame_times, rotation)

    import av

    with atomic_file(path) as temporary:
        with av.open(str(temporary), "w") as container:
            # Streams have to be declared before the first packet.
            if frames is not None:
                times = np.asarray(frame_times, dtype=np.float64) + start_time
                video = _video_stream(container, video_encoder, frames, times, fps, crf, keyframe_interval)
            if waveform is not None:
                audio = container.add_stream(audio_encoder, rate=sampling_rate, layout=layout)
            packets = []
            if frames is not None:
                packets += _encode_frames(video, frames, times)
            if waveform is not None:
                first = start_time if audio_start_time is None else audio_start_time
                packets += _encode_waveform(audio, waveform, sampling_rate, layout, first)
            # Players want both streams interleaved by time.
            for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
                container.mux(packet)
        if rotation and frames is not None:
            _rotate_mp4(temporary, rotation % 360, frames.shape[1], frames.shape[2])
    return path


def _encoders(path: Path) -> tuple[str | None, str]:
    if path.suffix.lower() not in ENCODERS:
        raise ValueError(f"{path}: cannot write {path.suffix!r} files; use one of {', '.join(ENCODERS)}")
    return ENCODERS[path.suffix.lower()]


def _check_streams(path: Path, frames, waveform, frame_times: Sequence[float] | None, rotation: int) -> None:
    if frames is None and waveform is None:
        raise ValueError(f"{path}: nothing to write; give frames, a waveform, or both")
    if frames is not None and _encoders(path)[0] is None:
        raise ValueError(f"{path}: {path.suffix} holds audio only; write frames to .mp4, .mov, .mkv, .webm or .avi")
    if frames is not None and len(frame_times) != len(frames):
        raise ValueError(f"{path}: {len(frame_times)} frame_times for {len(frames)} frames; give one for each frame")
    if rotation % 90 or (rotation and path.suffix.lower() not in (".mp4", ".mov")):
        raise ValueError(f"{path}: rotation={rotation}; give 0, 90, 180 or 270, and a .mp4 or .mov file")


def _as_frames(frames, path: Path) -> np.ndarray:
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(f"{path}: frames are {frames.dtype} {frames.shape}; give uint8 [T, H, W, 3] with T > 0")
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"{path}: frames are {frames.shape[1]}x{frames.shape[2]}; 4:2:0 needs even height and width")
    return np.ascontiguousarray(frames)


def _video_stream(container, encoder: str, frames: np.ndarray, times: np.ndarray, fps: float, crf: int, gop: int):
    stream = container.add_stream(encoder, rate=Fraction(fps).limit_denominator(1001))
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = "yuv420p"
    stream.gop_size = gop
    if encoder == "libx264":
        # in small frames x264's macroblock tree depends on what lies in memory: no two runs would write the same
        stream.options = {"crf": str(crf), "preset": "veryfast", "mbtree": "0"}
    elif encoder == "libvpx-vp9":
        stream.options = {"crf": str(crf), "b": "0", "deadline": "realtime", "cpu-used": "8"}
    else:
        stream.options = {"qscale": "3"}
    ticks = np.asarray(times) * float(fps)
    if encoder != "mpeg4" and np.abs(ticks - ticks.round()).max() > 1e-6:  # MPEG-4 in avi has a fixed frame rate
        stream.codec_context.time_base = Fraction(1, VIDEO_CLOCK)
    return stream


def _encode_frames(stream, frames: np.ndarray, times: np.ndarray) -> list:
    import av

    time_base = stream.codec_context.time_base or Fraction(1, VIDEO_CLOCK)
    ticks = [round(float(seconds) / time_base) for seconds in times]
    # the last frame stays for one nominal frame
    ticks.append(ticks[-1] + round(1 / stream.codec_context.framerate / time_base))
    packets = []
    for pixels, tick, following in zip(frames, ticks, ticks[1:], strict=False):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.time_base, frame.pts = time_base, tick
        if hasattr(frame, "duration"):  # not in PyAV 14
            frame.duration = following - tick
        packets += stream.encode(frame)
    packets += stream.encode(None)
    # encoders leave the duration 0, and some decoders take that at its word
    for packet, tick, following in zip(sorted(packets, key=lambda packet: packet.pts), ticks, ticks[1:], strict=False):
        packet.duration = round((following - tick) * time_base / packet.time_base)
    return packets


def _encode_waveform(stream, waveform, sampling_rate: int, layout: str, start: float) -> list:
    import av

    channels = av.AudioLayout(layout).nb_channels
    waveform = np.asarray(waveform, dtype=np.float32)
    if waveform.ndim == 1:
        waveform = np.broadcast_to(waveform, (channels, len(waveform)))
    if waveform.ndim != 2 or len(waveform) != channels:
        raise ValueError(f"waveform is {waveform.shape}; give [n] or [{channels}, n] for layout {layout!r}")
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(waveform), format="fltp", layout=layout)
    frame.sample_rate, frame.time_base = sampling_rate, Fraction(1, sampling_rate)
    frame.pts = round(start * sampling_rate)
    packets = []
    resampler = av.AudioResampler(stream.format, layout, sampling_rate, frame_size=stream.frame_size)
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        packets += stream.encode(part)
    return packets + stream.encode(None)


def _rotate_mp4(path: str, rotation: int, height: int, width: int) -> None:
    """Write the display matrix into the video track's header (ISO 14496-12, `tkhd`): FFmpeg's muxer has no option."""
    data = bytearray(Path(path).read_bytes())
    a, b, c, d, x, y = {
        90: (0, 1, -1, 0, height, 0),
        180: (-1, 0, 0, -1, width, height),
        270: (0, -1, 1, 0, 0, width),
    }[rotation]
    one = 1 << 16
    values = (a * one, b * one, 0, c * one, d * one, 0, x * one, y * one, 1 << 30)
    matrix = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    # Find each track's header, and write the matrix into the video's.
    position = data.find(b"moov")
    while (position := data.find(b"tkhd", position + 1)) >= 0:
        body = position + 4
        offset = body + (52 if data[body] == 1 else 40)  # version 1 has 64-bit times
        if any(data[offset + 36 : offset + 44]):  # a track with width and height is the video
            data[offset : offset + 36] = matrix
    Path(path).write_bytes(data)
