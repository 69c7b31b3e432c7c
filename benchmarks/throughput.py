# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips a second from mp4, webm and mkv on one and two cores: resolutions, codecs and GOPs, beside other ways to read them.

    python -m benchmarks.bench throughput
    python -m benchmarks.throughput --heights 360 --codecs h264 vp9    # some of it; the rest of the table is kept

Each clip lasts 5 s. "processor" gives 8 normalized frames of 224 x 224 and the spectrogram; the others give the same 8
frames as they are in the file and, but for transformers, the samples: torchcodec alone, transformers' `load_video`
(torchcodec, no audio), and a loop that seeks to each frame with PyAV. A core is one pinned process, as a loader worker
would be, and its seconds are processor seconds: other work on the machine does not count. Writes `throughput-<machine>.md` and `.png` beside the JSON. Encoders are those of the `ffmpeg` on the path.
"""

import argparse
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from processing.data.atomic_writing import atomic_file, write_text

from .figures import FOLDER, description, file_name, read, write_figures
from .processor import NUM_FRAMES, bare_decoders, build_processor
from .realistic import FRAMES_PER_SECOND, write_clip


SECONDS = 5.0
HEIGHTS = (360, 720, 1080, 2160)
GOPS = {"long": 250, "short": FRAMES_PER_SECOND}  # frames from a key frame to the next
CODECS = {  # container, and what ffmpeg is told
    "h264": ("mp4", ["-c:v", "libx264", "-preset", "veryfast", "-crf", "23"]),
    "hevc": ("mp4", ["-c:v", "libx265", "-preset", "superfast", "-crf", "26", "-x265-params", "log-level=none"]),
    "vp9": ("webm", ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-row-mt", "1", "-crf", "33"]),
    "av1": ("mp4", ["-c:v", "libsvtav1", "-preset", "12", "-crf", "35"]),
}
WAYS = ("processor", "torchcodec", "transformers", "pyav_seek")
MIN_SECONDS, MIN_CALLS = 0.3, 2  # of each measurement, after one call that is not counted


def encode(source: Path, path: Path, height: int, gop: int, options: list[str]) -> None:
    """Writes the scene of `source` with another codec, size and GOP.

    Raises:
        RuntimeError: ffmpeg failed; with the end of what it wrote.
    """
    sound = ["-c:a", "libopus"] if path.suffix == ".webm" else ["-c:a", "aac"]
    keys = ["-g", str(gop), "-keyint_min", str(gop)]
    command = ["ffmpeg", "-v", "error", "-y", "-i", str(source), "-vf", f"scale=-2:{height}", *options, *keys, *sound]
    result = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"ffmpeg: {path.name}: {result.stderr[-500:]}")


def seek_loop(file: str, times: list[float], end: float) -> tuple[np.ndarray, np.ndarray]:
    """Frames one by one, each after a seek to the key frame before it, as decord's readers work; then the samples."""
    import av

    frames, samples = [], []
    with av.open(file) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for wanted in times:
            container.seek(int(wanted / stream.time_base), stream=stream)
            shown = None
            for frame in container.decode(stream):
                if frame.time > wanted + 1e-6:
                    break
                shown = frame
            frames.append(shown.to_ndarray(format="rgb24"))
        container.seek(0)
        for part in container.decode(audio=0):
            if part.time >= end:
                break
            samples.append(part.to_ndarray())
    return np.stack(frames), np.concatenate(samples, axis=1)


def ways_of(file: str) -> dict[str, Callable]:
    """The functions that are measured, by name. Raises AssertionError where they read other frames."""
    from transformers.video_utils import load_video

    processor = build_processor(clip_seconds=SECONDS)
    clip = processor.load_clip(file)
    times, end = clip.frame_times.tolist(), clip.end
    indices = [round(seconds * FRAMES_PER_SECOND) for seconds in times]
    bare = bare_decoders(file, processor)
    ways = {
        "processor": lambda: processor(clips=[file]),
        "transformers": lambda: load_video(file, backend="torchcodec", sample_indices_fn=lambda **_: indices),
        "pyav_seek": lambda: seek_loop(file, times, end),
    }
    if "torchcodec" in bare:
        ways["torchcodec"] = bare["torchcodec"]
    else:
        del ways["transformers"]
    # The same frames by each way; decoders may round colors differently.
    expected = clip.frames.permute(0, 2, 3, 1).numpy().astype(np.int16)
    for name, frames in (("pyav_seek", ways["pyav_seek"]()[0]), ("transformers", _frames_of(ways))):
        if frames is not None and np.abs(frames.astype(np.int16) - expected).mean() > 1.5:
            raise AssertionError(f"{Path(file).name}: {name} reads other frames than the processor")
    return ways


def _frames_of(ways: dict[str, Callable]) -> np.ndarray | None:
    if "transformers" not in ways:
        return None
    return np.asarray(ways["transformers"]()[0]).transpose(0, 2, 3, 1)  # (T, 3, H, W) -> (T, H, W, 3)


_state: dict = {}


def _settle(barriers: dict, cores: list[int], number) -> None:
    """A worker of the pool: one thread, on a core of its own."""
    torch.set_num_threads(1)
    with number.get_lock():
        place, number.value = number.value, number.value + 1
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cores[place % len(cores)]})
    _state["barriers"] = barriers


def _rate(file: str, way: str, processes: int) -> float:
    """Clips a second of one process, while the others of `processes` do the same."""
    if _state.get("file") != file:
        _state.update(file=file, ways=ways_of(file))
    function = _state["ways"].get(way)
    if function is None:
        return float("nan")
    function()
    _state["barriers"][processes].wait(600)
    start, calls = time.process_time(), 0
    while calls < MIN_CALLS or time.process_time() - start < MIN_SECONDS:
        function()
        calls += 1
    return calls / (time.process_time() - start)


def measure(
    heights: tuple[int, ...] = HEIGHTS, codecs: tuple[str, ...] = tuple(CODECS), seconds: float = SECONDS
) -> dict[str, float | str]:
    """`throughput.<height>p.<codec>.<gop>.<way>.<cores>core`: clips a second of all cores together."""
    if shutil.which("ffmpeg") is None:
        return {"throughput": "skipped: ffmpeg is not installed"}
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    counts = (1, 2) if len(cores) > 1 else (1,)
    context = multiprocessing.get_context("fork")
    barriers = {count: context.Barrier(count) for count in counts}
    results: dict[str, float | str] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = write_clip(Path(folder) / "source.mp4", max(heights), GOPS["short"], seconds)
        with ProcessPoolExecutor(
            len(counts), mp_context=context, initializer=_settle, initargs=(barriers, cores, context.Value("i", 0))
        ) as pool:
            for height in heights:
                for codec in codecs:
                    suffix, options = CODECS[codec]
                    for gop, frames in GOPS.items():
                        file = Path(folder) / f"{height}_{codec}_{gop}.{suffix}"
                        encode(source, file, height, frames, options)
                        for way in WAYS:
                            for count in counts:
                                tasks = [pool.submit(_rate, str(file), way, count) for _ in range(count)]
                                key = f"throughput.{height}p.{codec}.{gop}.{way}.{count}core"
                                results[key] = sum(task.result() for task in tasks)
                        file.unlink()
    return {key: value for key, value in results.items() if value == value}


def write(figures: dict, path: Path) -> None:
    """The table and the picture, beside the JSON of the benchmark."""
    if not _cases(figures):
        return
    write_text(path.with_name(f"throughput-{path.stem}.md"), table(figures))
    draw(figures, path.with_name(f"throughput-{path.stem}.png"))


def table(figures: dict) -> str:
    """Clips a second by resolution, codec and GOP: one core / two cores."""
    lines = ["| clip | " + " | ".join(WAYS) + " |", "|---" * (len(WAYS) + 1) + "|"]
    for height, codec, gop in _cases(figures):
        cells = []
        for way in WAYS:
            rates = [figures.get(f"throughput.{height}p.{codec}.{gop}.{way}.{count}core") for count in (1, 2)]
            cells.append(" / ".join(f"{rate:.1f}" for rate in rates if rate is not None))
        lines.append(f"| {height}p {codec}, {gop} GOP | " + " | ".join(cells) + " |")
    head = f"{figures['hardware']}, {figures['cores']} cores, PyTorch {figures['torch']}, Transformers {figures['transformers']}"
    what = f"Clips a second on one core / on two, clips of {SECONDS:g} s, {NUM_FRAMES} frames. `{__doc__.splitlines()[2].strip()}`"
    return "\n".join([head, "", what, "", *lines]) + "\n"


def draw(figures: dict, path: Path) -> None:
    """A panel for each resolution: bars of each way on one core."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = _cases(figures)
    heights = sorted({height for height, _, _ in cases})
    figure, axes = pyplot.subplots(
        1, len(heights), figsize=(3.2 * len(heights), 3.6), layout="constrained", squeeze=False
    )
    for axis, height in zip(axes[0], heights, strict=True):
        names = [(codec, gop) for other, codec, gop in cases if other == height]
        for number, way in enumerate(WAYS):
            rates = [figures.get(f"throughput.{height}p.{codec}.{gop}.{way}.1core", 0.0) for codec, gop in names]
            axis.barh(np.arange(len(names)) + 0.2 * number, rates, 0.2, label=way)
        axis.set(title=f"{height}p", xlabel="clips a second, one core")
        axis.set_yticks(np.arange(len(names)) + 0.3, [f"{codec} {gop}" for codec, gop in names])
        axis.invert_yaxis()
    axes[0][-1].legend(fontsize="small")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=90)
    pyplot.close(figure)


def _cases(figures: dict) -> list[tuple[int, str, str]]:
    keys = [key.split(".") for key in figures if key.startswith("throughput.") and key.endswith("processor.1core")]
    found = {(int(height[:-1]), codec, gop) for _, height, codec, gop, *_ in keys}
    return sorted(found, key=lambda case: (case[0], list(CODECS).index(case[1]), case[2]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heights", type=int, nargs="+", default=HEIGHTS)
    parser.add_argument("--codecs", nargs="+", choices=CODECS, default=tuple(CODECS))
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    machine = description()
    path = options.out / file_name(machine)
    figures = read(path) if path.exists() else dict(machine)
    figures |= measure(tuple(options.heights), tuple(options.codecs))
    write_figures(path, figures)
    write(figures, path)
    print(table(figures))


if __name__ == "__main__":
    main()
