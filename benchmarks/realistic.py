# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""8 frames and the audio of a 10 s clip at 360p, 720p and 1080p, beside bare torchcodec.

    python -m benchmarks.realistic

`processor.realistic.<height>p.<gop>` is the time of the processor as a share of that of torchcodec, which reads the same
frames and samples and does nothing else; `.pyav` is the same beside PyAV. `long_gop` is x264's default of up to 250 frames, `second_gop` a
key frame every second. The clips are written with PyAV. Both run on one core.
"""

import argparse
import json
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from processing.clip_decoders import torchcodec_decoders

from .processor import bare_decoders, build_processor
from .workload import interleaved, median, ratio


HEIGHTS = (360, 720, 1080)
FRAMES_PER_SECOND, SAMPLING_RATE = 25, 44100
GOPS = {"long_gop": 250, "second_gop": FRAMES_PER_SECOND}


def write_clip(path: Path, height: int, gop: int, seconds: float = 10.0) -> Path:
    """Write an mp4 (H.264 and AAC) of a camera that pans over a noisy scene, with a noisy tone."""
    import av

    generator = np.random.default_rng(0)
    width = height * 16 // 9 // 2 * 2
    num_frames = round(seconds * FRAMES_PER_SECOND)

    # a blurred random field, wider than a frame: the camera pans over it
    coarse = torch.from_numpy(generator.random((1, 3, height // 12, (width + 4 * num_frames) // 12), np.float32))
    size = (height, width + 4 * num_frames)
    field = torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0].permute(1, 2, 0).numpy() * 230
    grain = generator.integers(0, 12, (height, width, 3)).astype(np.float32)

    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"preset": "veryfast", "crf": "23"})
        video.width, video.height, video.pix_fmt, video.gop_size = width, height, "yuv420p", gop
        audio = container.add_stream("aac", rate=SAMPLING_RATE, layout="mono")
        for index in range(num_frames):
            pixels = field[:, 4 * index : 4 * index + width] + np.roll(grain, index * 7, axis=1)
            frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())

        times = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
        tone = 0.4 * np.sin(2 * np.pi * 440 * times) + 0.05 * generator.standard_normal(len(times))
        for start in range(0, len(tone), 1024):
            samples = tone[None, start : start + 1024].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLING_RATE, start, Fraction(1, SAMPLING_RATE)
            container.mux(audio.encode(frame))
        container.mux(audio.encode())
    return path


def measure(repeats: int = 5, heights: tuple[int, ...] = HEIGHTS, seconds: float = 10.0) -> dict[str, float | str]:
    """Shares of torchcodec's time, and milliseconds a clip."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    processor = build_processor(clip_seconds=seconds)
    results: dict[str, float | str] = {}
    if torchcodec_decoders() is None:
        results["processor.realistic"] = "skipped: torchcodec is not installed or finds no FFmpeg"
    try:
        with tempfile.TemporaryDirectory() as folder:
            for height in heights:
                for name, gop in GOPS.items():
                    file = str(write_clip(Path(folder) / f"{height}_{name}.mp4", height, gop, seconds))
                    functions = bare_decoders(file, processor)
                    functions["processor"] = lambda file=file: processor(clips=[file])
                    seconds_of = interleaved(functions, repeats)
                    key = f"processor.realistic.{height}p.{name}"
                    for decoder in functions:
                        if decoder != "processor":
                            suffix = ".pyav" if decoder == "pyav" else ""
                            results[key + suffix] = ratio(seconds_of, "processor", decoder)
                    milliseconds = 1000 * median(seconds_of["processor"])
                    results[key.replace("realistic", "milliseconds")] = milliseconds
    finally:
        torch.set_num_threads(threads)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    print(json.dumps(measure(parser.parse_args().repeats), indent=1))
