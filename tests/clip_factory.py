# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips whose content says when it was: numbered frames, and a flash with a beep."""

import os
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


# Ways in which a clip of a folder is bad, and what the table check says of it. "crash" and "stall" are good files whose
# names tell a planted decoder what to do.
BAD = {
    "empty": "is empty",
    "text": "is not a media file",
    "noise": "is not a media file",
    "half": "is cut off or damaged",
    "half_mkv": "is cut off",
    "header": "is cut off or damaged",
    "no_packets": "is cut off or damaged|no frames|holds neither",
    "lfs": "git-lfs pointer",
    "sdp": "is a playlist",
    "hls": "is a playlist",
    "image": "is an image",
    "mute": "no audio stream",
    "blind": "no video stream",
    "silent": "silent",
    "nan": "NaN or infinite samples",
    "copy": "duplicate",
    "bytes": "name is not UTF-8",
    "ending": "the name ends in none of",
    "large": "more than max_pixels",
    "pipe": "no file: a pipe",
    "crash": "the decoder crashed .SIGSEGV.",
    "stall": "the decoder took more than",
}


def write_bad(folder: Path, kind: str, seconds: float, other: Path) -> Path:
    """A clip that is bad in one of the `BAD` ways; its length makes it another one than other clips. `other` is a good one."""
    name = folder / f"{kind}_{round(seconds * 100)}"
    path = name.with_suffix(".mp4")
    options = {"fps": 10, "sound": kind != "mute", "picture": kind != "blind"}
    data = write_numbered(path, seconds, **options).read_bytes()
    contents = {
        "empty": b"",
        "text": b"This is a text, and no clip.\n" * 20,
        "noise": np.random.default_rng(round(seconds * 100)).bytes(5000),
        "half": data[: len(data) // 2],
        "header": data[:40],
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "hls": b"#EXTM3U\n#EXTINF:1,\nother.ts\n",
        "image": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "copy": other.read_bytes(),
    }
    if kind in contents:
        differs = b"" if kind in ("empty", "copy") else b" " * round(seconds * 100)  # no two of a kind are equal
        path.write_bytes(contents[kind] + differs)
    elif kind == "bytes":
        path = path.rename(os.fsdecode(os.fsencode(name) + b"\xe9.mp4"))
    elif kind == "ending":
        path = path.rename(name.with_suffix(".part"))
    elif kind == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif kind == "half_mkv":
        path.unlink()
        path = write_numbered(name.with_suffix(".mkv"), seconds + 2, **options)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif kind in ("silent", "nan", "no_packets", "large"):
        path.unlink()
        path = write_odd_streams(name.with_suffix(".mov" if kind == "large" else ".mkv"), kind, seconds)
    return path


def write_odd_streams(path: Path, kind: str, seconds: float) -> Path:
    """Video and raw audio: "silent", "nan" in the samples, "large" frames, or "no_packets" at all."""
    import av

    waveform = tone(seconds)
    height, width = (6000, 6000) if kind == "large" else (64, 96)
    frames = numbered_frames(1 if kind == "large" else round(seconds * 10), height, width)
    if kind == "silent":
        waveform[:] = 0
    elif kind == "nan":
        waveform[len(waveform) // 2 :][:50] = np.nan
    with av.open(str(path), "w") as container:
        video = container.add_stream("png" if kind == "large" else "mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = width, height, "rgb24" if kind == "large" else "yuv420p"
        audio = container.add_stream("pcm_f32le", rate=16000, layout="mono")
        if kind == "no_packets":
            container.start_encoding()
            return path
        for image in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(waveform[None], format="flt", layout="mono")
        frame.sample_rate = 16000
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
    return path
