# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Which clips a report flags: still ones, and copies of another split's clip that were encoded anew."""

import numpy as np
import pytest
import torch
from PIL import Image

from processing.generate.clip_writing import write_clip
from processing.prepare import fingerprints
from processing.prepare.annotations import Annotations, ClipRow
from processing.prepare.fingerprints import (
    CLOSE,
    STILL,
    _bits,
    _distance,
    find_flags,
    perceptual_hash,
    small_pictures,
)
from processing.prepare.report import make_report, report_text
from processing.prepare.scan import Facts, Job, check_clip
from processing.prepare.selection import select_rows


SECONDS, FPS = 2.0, 10


def scene(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    """uint8 `[T, H, W, 3]`: a camera that pans over a blurred random field."""
    generator = np.random.default_rng(seed)
    coarse = torch.from_numpy(generator.random((1, 3, 10, 20), np.float32))
    field = torch.nn.functional.interpolate(coarse, (height, 2 * width), mode="bicubic")[0].clamp(0, 1)
    field = (field.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    return np.stack([field[:, 4 * step : 4 * step + width] for step in range(round(SECONDS * FPS))])


def melody(seed: int, sampling_rate: int = 16000) -> np.ndarray:
    """float32 `[n]`: a note after another, each with its overtones, and noise."""
    generator = np.random.default_rng(seed)
    notes = []
    for pitch in generator.uniform(150, 1200, 10):
        times = np.arange(round(SECONDS * sampling_rate / 10)) / sampling_rate
        notes.append(sum(np.sin(2 * np.pi * pitch * k * times) / k for k in (1, 2, 3)))
    sound = 0.2 * np.concatenate(notes)
    return (sound + 0.01 * generator.standard_normal(len(sound))).astype(np.float32)


def half_as_large(frames: np.ndarray) -> np.ndarray:
    small = torch.nn.functional.interpolate(torch.from_numpy(frames).permute(0, 3, 1, 2).float(), scale_factor=0.5)
    return small.permute(0, 2, 3, 1).numpy().astype(np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Clips of one scene each; `again` is that of `first` at half the size and another sampling rate; `song` has its
    pictures alone."""
    folder = tmp_path_factory.mktemp("clips")
    options = {"fps": FPS, "sampling_rate": 16000}
    write_clip(folder / "first.mp4", scene(1), melody(1), **options)
    write_clip(folder / "other.mp4", scene(2), melody(2), **options)
    write_clip(folder / "song.mp4", scene(1), melody(3), **options)
    write_clip(folder / "again.mp4", half_as_large(scene(1)), melody(1)[::2], fps=FPS, sampling_rate=8000)
    still = np.repeat(scene(4)[:1], round(SECONDS * FPS), axis=0)
    noise = np.random.default_rng(0).integers(-1, 2, still.shape)
    write_clip(folder / "still.mp4", np.clip(still + noise, 0, 255).astype(np.uint8), melody(4), **options)
    return folder


def flagged(root, splits: dict[str, str]) -> tuple[list[dict], str]:
    rows, jobs, facts = [], {}, {}
    for number, (name, split) in enumerate(splits.items()):
        path = root / f"{name}.mp4"
        rows.append(ClipRow(name, ["a"], name, split, path.name, path, path))
        jobs[number] = Job(path.name, path.name)
        facts[jobs[number]] = check_clip(str(root), jobs[number])
        assert facts[jobs[number]].error is None
    annotations = Annotations(rows, ["a"], "by hand")
    verdicts = select_rows(annotations, jobs, facts, ["video", "audio"])
    flags = find_flags(verdicts, jobs, facts)
    return flags, report_text(make_report("set", annotations, verdicts, flags, {}))


def test_a_copy_in_another_split_and_a_still_clip_are_flagged(root):
    splits = {"first": "test", "other": "train", "song": "train", "again": "train", "still": "train"}
    flags, text = flagged(root, splits)
    assert {(flag["clip_id"], flag["flag"]) for flag in flags} == {
        ("again", "near_duplicate"),
        ("still", "near_still"),
    }
    assert "near_duplicate: 1 used all the same" in text and "again.mp4: like first.mp4 of test" in text
    assert "still.mp4: its frames differ by" in text


def test_copies_within_a_split_or_a_group_are_no_flags(root):
    flags, text = flagged(root, {"first": "train", "again": "train", "other": "test"})
    assert flags == [] and "near_" not in text


@pytest.mark.parametrize("elements", [1, 30, 2**28])
def test_few_clips_at_a_time_are_compared_with_all_others(monkeypatch, elements):
    monkeypatch.setattr(fingerprints, "ELEMENTS", elements)
    sizes = []

    def distance(*pair):
        shares = _distance(*pair)
        sizes.append(np.size(shares))
        return shares

    monkeypatch.setattr(fingerprints, "_distance", distance)
    rng = np.random.default_rng(0)
    texts = [rng.bytes(8).hex() for _ in range(6)]
    hashes = [*texts, *texts]  # each test clip has a copy in train
    rows = [ClipRow(f"{n}", ["a"], f"{n}", "test" if n < 6 else "train", f"{n}.mp4") for n in range(12)]
    facts = [Facts(video_hash=text) for text in hashes]
    copies = fingerprints._copies(list(zip(rows, facts, strict=True)))
    assert [(row.clip_id, other.clip_id) for row, other in copies] == [(f"{n + 6}", f"{n}") for n in range(6)]
    assert max(sizes) == {1: 12, 30: 24}.get(elements, 72)


def test_distances_leave_room_on_both_sides(root):
    facts = {
        name: check_clip(str(root), Job(f"{name}.mp4", f"{name}.mp4")) for name in ("first", "again", "other", "song")
    }

    def distance(kind, name):
        return _distance(*_bits([getattr(facts["first"], kind), getattr(facts[name], kind)]))

    assert distance("video_hash", "again") < CLOSE["video"] / 2 < 2 * CLOSE["video"] < distance("video_hash", "other")
    assert distance("audio_hash", "again") < CLOSE["audio"] / 2 < 1.5 * CLOSE["audio"] < distance("audio_hash", "song")
    assert facts["first"].change > 3 * STILL


def test_the_hash_of_a_picture_is_that_of_imagehash():
    imagehash = pytest.importorskip("imagehash", reason="ImageHash is not installed")
    frames = torch.from_numpy(scene(7)[:2]).permute(0, 3, 1, 2)
    small = small_pictures(frames)
    for picture in small:
        expected = imagehash.phash(Image.fromarray(picture))
        assert perceptual_hash(picture[None], 8) == str(expected)
