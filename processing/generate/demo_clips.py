# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The embedded demo: mp4 clips whose video and audio name a digit, each so badly that only both together are enough.

    python -m processing.generate.demo_clips --out DIR

The video shows a handwritten digit of scikit-learn's bundled set in strong noise. The audio is the digit's DTMF pair
(ITU-T Q.23) in noise, and at times one of its two tones is lost, which leaves up to four digits possible. What video
and audio lose is drawn independently.
"""

import argparse
import csv
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from tqdm.auto import tqdm

from processing.data.atomic_writing import atomic_folder, file_digest

from .clip_writing import write_clip


VERSION = 2  # raise it when the clips change: older folders are then rebuilt
LOW_TONES = (697, 770, 852, 941)  # Hz, one per row of the keypad
HIGH_TONES = (1209, 1336, 1477)  # Hz, one per column
KEYPAD = ("123", "456", "789", " 0 ")
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class DemoSettings:
    """What the clips are made of; the noise was fixed on the validation clips, for models that see two frames.

    Attributes:
        num_train, num_validation, num_test: clips, each from a handwritten digit of its own (1,797 at most).
        seed: of everything drawn.
        video_noise: standard deviation of the noise on each of the digit's 8 x 8 points, new in each frame (more
            frames, clearer digit), for brightness 0 to 1.
        tone_loss: share of the clips in which one of the two tones is lost.
        audio_noise: standard deviation of the white noise at 4 kHz, for tones of amplitude 1.
        num_frames, fps: of the video, 64 x 64 pixels.
        sampling_rate: of the audio, in Hz.
    """

    num_train: int = 1250
    num_validation: int = 220
    num_test: int = 327
    seed: int = 0
    video_noise: float = 0.47
    tone_loss: float = 0.23
    audio_noise: float = 0.35
    num_frames: int = 8
    fps: int = 16
    sampling_rate: int = 16000


def demo_frames(points: np.ndarray, settings: DemoSettings, generator: np.random.Generator) -> np.ndarray:
    """A digit of 8 x 8 points in 0..16 -> uint8 `[T, 64, 64, 3]`."""
    digit = points / 16
    noise = generator.standard_normal((settings.num_frames, *digit.shape))
    gray = (digit + settings.video_noise * noise).clip(0, 1)
    pixels = (255 * gray).round().astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    return np.repeat(pixels[..., None], 3, axis=-1)


def demo_waveform(digit: int, settings: DemoSettings, generator: np.random.Generator) -> np.ndarray:
    """The digit's tone pair in noise -> float32 `[n]`."""
    seconds = np.arange(round(settings.num_frames / settings.fps * settings.sampling_rate)) / settings.sampling_rate
    row = next(index for index, keys in enumerate(KEYPAD) if str(digit) in keys)
    tones = [LOW_TONES[row], HIGH_TONES[KEYPAD[row].index(str(digit))]]
    phases = generator.uniform(0, 2 * np.pi, size=2)
    lost = generator.integers(2) if generator.random() < settings.tone_loss else None
    pair = sum(
        np.sin(2 * np.pi * tone * seconds + phase)
        for index, (tone, phase) in enumerate(zip(tones, phases, strict=True))
        if index != lost
    )
    # white noise of one density whatever the sampling rate: its power grows with the band
    deviation = settings.audio_noise * np.sqrt(settings.sampling_rate / 4000)
    noisy = pair + deviation * generator.standard_normal(len(seconds))
    return (0.08 * noisy).clip(-1, 1).astype(np.float32)


def write_demo(folder: str | os.PathLike, settings: DemoSettings | None = None) -> Path:
    """Make sure that the demo is in `folder`: `metadata.csv` and `clips/*.mp4`.

    A whole folder of these settings is left as it is; otherwise it is written anew beside it and then takes its place.

    Args:
        folder: for the demo alone.
        settings: default `DemoSettings()`.

    Returns:
        the folder.

    Raises:
        ValueError: the folder holds something else, or more clips are asked for than there are digits.
    """
    folder, settings = Path(folder), settings or DemoSettings()
    if is_whole(folder, settings):
        return folder
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise ValueError(f"{folder}: holds something that is not the demo; give an empty or a new folder")
    with atomic_folder(folder) as temporary:
        rows = _write_clips(temporary, settings)
        with open(temporary / "metadata.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=["file_name", "label", "split", "group"])
            writer.writeheader()
            writer.writerows(rows)
        names = ["metadata.csv", *(row["file_name"] for row in rows)]
        manifest = {"version": VERSION, "settings": asdict(settings)}
        manifest["files"] = {name: file_digest(temporary / name) for name in names}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return folder


def is_whole(folder: str | os.PathLike, settings: DemoSettings | None = None) -> bool:
    """Whether every file of the demo is there with its own bytes, made with these settings."""
    folder, settings = Path(folder), settings or DemoSettings()
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        same = manifest["version"] == VERSION and manifest["settings"] == asdict(settings)
        return same and all(file_digest(folder / name) == digest for name, digest in manifest["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _write_clips(folder: Path, settings: DemoSettings) -> list[dict[str, Any]]:
    digits = load_digits()
    sizes = {"train": settings.num_train, "validation": settings.num_validation, "test": settings.num_test}
    if sum(sizes.values()) > len(digits.target):
        raise ValueError(f"{sizes}: more clips than the {len(digits.target)} handwritten digits; ask for fewer")
    order = np.random.default_rng(settings.seed).permutation(len(digits.target))
    splits = [split for split, size in sizes.items() for _ in range(size)]
    rows, jobs = [], []
    for source, split in zip(order.tolist(), splits, strict=False):
        label = int(digits.target[source])
        name = f"clips/{split}_{source:04d}.mp4"
        rows.append({"file_name": name, "label": label, "split": split, "group": f"digit_{source:04d}"})
        jobs.append((str(folder / name), digits.images[source], label, source, settings))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # encoders release the interpreter's lock
        list(tqdm(pool.map(_write_one, jobs), total=len(jobs), desc="writing the demo's clips", disable=None))
    return rows


def _write_one(job: tuple[str, np.ndarray, int, int, DemoSettings]) -> None:
    path, points, label, source, settings = job
    video_draws, audio_draws = (np.random.default_rng([settings.seed, source, stream]) for stream in (0, 1))
    write_clip(
        path,
        demo_frames(points, settings, video_draws),
        demo_waveform(label, settings, audio_draws),
        fps=settings.fps,
        sampling_rate=settings.sampling_rate,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the demo and say where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m processing.generate.demo_clips", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", required=True, help="folder of the demo")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    folder = write_demo(options.out, DemoSettings(seed=options.seed))
    with open(folder / "metadata.csv", encoding="utf-8") as file:
        print(f"{folder}: {sum(1 for _ in file) - 1} clips")


if __name__ == "__main__":
    main()
