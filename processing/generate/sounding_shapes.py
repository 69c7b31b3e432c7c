# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Generated clips with known truth: shapes that move, one of which sounds. Its pitch says which.

    python -m processing.generate.sounding_shapes --out outputs/shapes/clips

Four kinds of shape have a tone of the demo's telephone keys each. A clip of the `duet` shows two kinds in noise and plays
the tone of one; its label is the color of the shape that sounds, and masks and boxes are written for some of its frames. A clip of the `solo`
shows one kind and plays it: two of them make a mixture whose sources are known.
"""

import argparse
import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from processing.data.atomic_writing import atomic_folder

from .clip_writing import write_clip
from .demo_clips import HIGH_TONES, LOW_TONES


KINDS = {"disc": LOW_TONES[0], "square": LOW_TONES[3], "triangle": HIGH_TONES[0], "cross": HIGH_TONES[2]}  # Hz
COLORS = {"red": (230, 60, 50), "green": (60, 200, 70), "blue": (60, 90, 240), "yellow": (235, 220, 60)}
RADIUS = 0.15  # of a shape, as a share of the frame's height
DUET_COLUMNS = ["file_name", "time", "mask", "left", "top", "right", "bottom", "split", "kind", "silent", "color"]
CLIP_COLUMNS = ["file_name", "start", "end", "split", "kind", "color"]
SOLO_COLUMNS = ["file_name", "split", "kind", "color"]
PAIR_COLUMNS = ["first", "second", "split"]


@dataclass(frozen=True)
class ShapeSettings:
    """What the clips are made of.

    Attributes:
        num_train, num_test: duet clips, and as many solo clips.
        num_pairs: pairs of solo test clips of different kinds, to be mixed.
        frames_per_clip: frames of a duet clip that have a mask, at the centers of equal parts of it.
        size: height and width of the frames in pixels.
        seconds, fps: of a clip.
        sampling_rate: of the audio, in Hz.
        video_noise: standard deviation of the noise on every pixel, for brightness 0 to 255.
        audio_noise: standard deviation of white noise, for a tone of amplitude 0.3.
        seed: of everything drawn.
    """

    num_train: int = 240
    num_test: int = 60
    num_pairs: int = 12
    frames_per_clip: int = 4
    size: int = 48
    seconds: float = 3.0
    fps: int = 4
    sampling_rate: int = 16000
    video_noise: float = 12.0
    audio_noise: float = 0.02
    seed: int = 0


def shape_mask(kind: str, center: tuple[float, float], size: int) -> np.ndarray:
    """Bool `[size, size]`: the pixels of a shape whose center is (row, column), in pixels.

    Raises:
        ValueError: an unknown kind.
    """
    radius = RADIUS * size
    rows, columns = np.mgrid[:size, :size] + 0.5
    down, right = rows - center[0], columns - center[1]
    if kind == "disc":
        return down**2 + right**2 <= radius**2
    if kind == "square":
        return np.maximum(abs(down), abs(right)) <= 0.85 * radius
    if kind == "triangle":
        return (abs(right) <= (down + radius) / 1.7) & (down <= 0.8 * radius)
    if kind == "cross":
        bars = np.minimum(abs(down), abs(right)) <= 0.3 * radius
        return bars & (np.maximum(abs(down), abs(right)) <= radius)
    raise ValueError(f"kind={kind!r}; use one of {', '.join(KINDS)}")


def paths_of_shapes(number: int, times: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Centers `[number, T, 2]` of one or two shapes that wander, two of them in halves of their own."""
    low, high = RADIUS * size + 1, (1 - RADIUS) * size - 1
    phases, speeds = generator.uniform(0, 2 * np.pi, (number, 2)), generator.uniform(0.8, 1.6, (number, 2))
    waves = np.sin(phases[:, None] + speeds[:, None] * times[None, :, None])  # [number, T, 2] in -1..1
    centers = (low + high) / 2 + waves * (high - low) / 2
    if number == 2:
        axis = generator.integers(2)
        middles = np.array([size / 4, 3 * size / 4])[generator.permutation(2)]
        centers[:, :, axis] = middles[:, None] + waves[:, :, axis] * (size / 4 - RADIUS * size)
    return centers


def tone_of(kind: str, settings: ShapeSettings, generator: np.random.Generator) -> np.ndarray:
    """The kind's tone in white noise, float32 `[n]`."""
    seconds = np.arange(round(settings.seconds * settings.sampling_rate)) / settings.sampling_rate
    tone = 0.3 * np.sin(2 * np.pi * KINDS[kind] * seconds + generator.uniform(0, 2 * np.pi))
    return (tone + settings.audio_noise * generator.standard_normal(len(seconds))).astype(np.float32)


def draw(
    kinds: Sequence[str], colors: Sequence[str], times: np.ndarray, settings: ShapeSettings, generator: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 `[T, size, size, 3]` and masks bool `[shapes, T, size, size]`."""
    centers = paths_of_shapes(len(kinds), times, settings.size, generator)
    frames = np.full((len(times), settings.size, settings.size, 3), 40.0)
    masks = np.array(
        [
            [shape_mask(kind, center, settings.size) for center in path]
            for kind, path in zip(kinds, centers, strict=True)
        ]
    )
    for mask, color in zip(masks, colors, strict=True):
        frames[mask] = COLORS[color]
    frames += settings.video_noise * generator.standard_normal(frames.shape)
    return frames.clip(0, 255).round().astype(np.uint8), masks


def write_shapes(folder: str | os.PathLike, settings: ShapeSettings | None = None) -> Path:
    """Write `duet.csv`, `clips.csv` (seconds of the duet), `solo.csv`, `pairs.csv`, `clips/*.mp4` and `masks/*.png`.

    An existing folder is replaced whole.

    Raises:
        ValueError: the folder holds something else.
    """
    folder, settings = Path(folder), settings or ShapeSettings()
    if folder.exists() and any(folder.iterdir()) and not (folder / "duet.csv").exists():
        raise ValueError(f"{folder}: holds something that was not written here; give an empty or a new folder")
    with atomic_folder(folder) as temporary:
        (temporary / "masks").mkdir()
        # Each clip has a generator of its own: more clips leave the others as they are.
        duet, solo = [], []
        for split, count in (("train", settings.num_train), ("test", settings.num_test)):
            for index in range(count):
                generator = np.random.default_rng([settings.seed, split == "test", index])
                duet += _write_duet(temporary, f"{split}_{index:04d}", split, settings, generator)
            for index in range(count):
                generator = np.random.default_rng([settings.seed, split == "test", index, 1])
                solo.append(_write_solo(temporary, f"solo_{split}_{index:04d}", split, settings, generator))
        _write_table(temporary / "duet.csv", DUET_COLUMNS, duet)
        _write_table(temporary / "clips.csv", CLIP_COLUMNS, _parts(duet, settings))
        _write_table(temporary / "solo.csv", SOLO_COLUMNS, solo)
        _write_table(temporary / "pairs.csv", PAIR_COLUMNS, _pairs(solo, settings))
    return folder


def _write_duet(
    folder: Path, name: str, split: str, settings: ShapeSettings, generator: np.random.Generator
) -> list[dict[str, Any]]:
    kinds = generator.permutation(list(KINDS))[:2].tolist()  # the first one sounds
    colors = generator.permutation(list(COLORS))[:2].tolist()
    times = np.arange(round(settings.seconds * settings.fps)) / settings.fps
    frames, masks = draw(kinds, colors, times, settings, generator)
    clip = f"clips/{name}.mp4"
    write_clip(
        folder / clip,
        frames,
        tone_of(kinds[0], settings, generator),
        fps=settings.fps,
        sampling_rate=settings.sampling_rate,
        crf=12,
    )
    rows = []
    for index in range(settings.frames_per_clip):
        number = int((index + 0.5) * len(times) / settings.frames_per_clip)
        mask, path = masks[0, number], f"masks/{name}_{index}.png"
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / path)
        # The box around the mask, and the middle of the frame's time.
        inside = np.argwhere(mask)
        (top, left), (bottom, right) = inside.min(0).tolist(), (inside.max(0) + 1).tolist()
        seconds = float(times[number] + 0.5 / settings.fps)
        values = [clip, seconds, path, left, top, right, bottom, split, kinds[0], kinds[1], colors[0]]
        rows.append(dict(zip(DUET_COLUMNS, values, strict=True)))
    return rows


def _write_solo(
    folder: Path, name: str, split: str, settings: ShapeSettings, generator: np.random.Generator
) -> dict[str, Any]:
    kind, color = str(generator.choice(list(KINDS))), str(generator.choice(list(COLORS)))
    times = np.arange(round(settings.seconds * settings.fps)) / settings.fps
    frames, _ = draw([kind], [color], times, settings, generator)
    clip = f"clips/{name}.mp4"
    waveform = tone_of(kind, settings, generator)
    write_clip(folder / clip, frames, waveform, fps=settings.fps, sampling_rate=settings.sampling_rate, crf=12)
    return {"file_name": clip, "split": split, "kind": kind, "color": color}


def _parts(duet: list[dict[str, Any]], settings: ShapeSettings) -> list[dict[str, Any]]:
    """The duet's clips: a row for each second of a training clip, one row for each other clip."""
    rows = []
    for row in {row["file_name"]: row for row in duet}.values():
        count = max(1, int(settings.seconds)) if row["split"] == "train" else 1
        ends = [settings.seconds * (index + 1) / count for index in range(count)]
        known = {name: row[name] for name in ("file_name", "split", "kind", "color")}
        rows += [known | {"start": end - settings.seconds / count, "end": end} for end in ends]
    return rows


def _pairs(solo: list[dict[str, Any]], settings: ShapeSettings) -> list[dict[str, Any]]:
    """Pairs of test clips of different kinds."""
    generator = np.random.default_rng([settings.seed, 2])
    clips = [row for row in solo if row["split"] == "test"]
    different = [(a, b) for a in clips for b in clips if a["kind"] < b["kind"]]
    chosen = generator.permutation(len(different))[: settings.num_pairs]
    pairs = [different[index] for index in chosen.tolist()]
    return [{"first": a["file_name"], "second": b["file_name"], "split": "test"} for a, b in pairs]


def _write_table(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the clips and say where they are."""
    parser = argparse.ArgumentParser(
        prog="python -m processing.generate.sounding_shapes", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", required=True, help="folder of the clips")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    folder = write_shapes(options.out, ShapeSettings(seed=options.seed))
    print(f"{folder}: {len(list((folder / 'clips').iterdir()))} clips")


if __name__ == "__main__":
    main()
