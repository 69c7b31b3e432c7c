# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Reading, checking and splitting clips."""

import csv
import json
import os
import re
import shutil
import sys

import datasets
import numpy as np
import pytest
from clip_factory import tone

from processing.clips import ClipError
from processing.data.clip_splits import check_leaks, split_by_group
from processing.data.clip_tables import build_clip_table, report_text
from processing.generate.clip_writing import write_clip


def make_clip(path, number=0, seconds=1.0, sound=True, picture=True):
    """A clip of its own bytes for each number; `sound="silent"` has a stream in which nothing is heard."""
    picture_of = np.random.default_rng(number).integers(255, size=(32, 32, 3), dtype=np.uint8)
    frames = np.repeat(picture_of[None], max(1, round(seconds * 10)), axis=0)
    waveform = tone(seconds, frequency=200 + 10 * number) if sound else None
    waveform = 0 * waveform if sound == "silent" else waveform
    return write_clip(path, frames if picture else None, waveform, fps=10)


@pytest.fixture(scope="module")
def class_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    for index in range(12):
        make_clip(folder / ("cat" if index % 2 else "dog") / f"{index:02d}.mp4", index)
    return folder


def test_a_table_needs_no_torchcodec(class_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.encoders", None)  # importing it now raises ImportError
    table, _ = build_clip_table(class_folder, check="none")
    assert table["train"].features["audio"] == datasets.Audio(decode=False)


def write_table(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def sides_of(table, column):
    return {side: set(part[column]) for side, part in table.items()}


def test_folder_of_classes(class_folder):
    table, report = build_clip_table(class_folder)
    assert sorted(table) == ["test", "train", "validation"]
    assert table["train"].features["label"].names == ["cat", "dog"]
    assert report["clips"] == 12 and report["rows"] == 12 and report["skipped"] == []
    for part in table.values():
        assert set(part["label"]) == {0, 1}  # each class on each side
        for row in part:
            assert row["video"]["path"] == row["audio"]["path"] and row["video"]["path"].startswith(str(class_folder))
            assert ("cat" in row["clip_id"]) == (row["label"] == 0)
            assert row["start"] is None and row["end"] is None
    json.dumps(report)
    assert "12 of 12 clips" in report_text(report)


def test_one_seed_gives_one_split(class_folder):
    first, again, other = (build_clip_table(class_folder, seed=seed, check="none")[0] for seed in (3, 3, 4))
    assert sides_of(first, "clip_id") == sides_of(again, "clip_id")
    assert sides_of(first, "clip_id") != sides_of(other, "clip_id")


def test_folders_named_as_splits(tmp_path):
    for number, side in enumerate(("train", "train", "val", "test")):
        for label in ("cat", "dog"):
            make_clip(tmp_path / side / label / f"{number}.mp4", 2 * number + (label == "cat"))
    table, _ = build_clip_table(tmp_path, check="none")
    assert {side: len(part) for side, part in table.items()} == {"train": 4, "validation": 2, "test": 2}
    assert table["train"].features["label"].names == ["cat", "dog"]
    table, report = build_clip_table(tmp_path, check="none", split=False)
    assert report["split"].startswith("by group")


def test_what_is_skipped_and_why(tmp_path):
    for index in range(6):
        make_clip(tmp_path / ("cat" if index % 2 else "dog") / f"{index}.mp4", index)
    (tmp_path / "empty").mkdir()
    make_clip(tmp_path / "cat" / "mute.mp4", 20, sound=False)
    make_clip(tmp_path / "cat" / "blind.mov", 21, picture=False)
    make_clip(tmp_path / "cat" / "silent.mp4", 22, sound="silent")
    (tmp_path / "cat" / "text.mp4").write_text("no clip")
    (tmp_path / "cat" / "zero.mp4").write_bytes(b"")
    (tmp_path / "cat" / "notes.txt").write_text("not a clip, listed")
    whole = (tmp_path / "cat" / "1.mp4").read_bytes()
    (tmp_path / "cat" / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    shutil.copy(tmp_path / "cat" / "1.mp4", tmp_path / "dog" / "copy.mp4")
    table, report = build_clip_table(tmp_path)
    reasons = {entry["file"]: entry["reason"] for entry in report["skipped"]}
    bad = ("cat/mute.mp4", "cat/blind.mov", "cat/silent.mp4", "cat/text.mp4", "cat/zero.mp4", "cat/cut.mp4")
    assert set(reasons) == {*bad, "dog/copy.mp4", "cat/notes.txt"}
    assert reasons["cat/mute.mp4"].startswith("no audio stream")
    assert reasons["cat/blind.mov"].startswith("no video stream")
    assert reasons["cat/silent.mp4"].startswith("silent")
    for name in ("text", "zero", "cut"):
        assert reasons[f"cat/{name}.mp4"].startswith("broken")
    assert "cat/1.mp4" in reasons["dog/copy.mp4"] and "labeled cat and not dog" in reasons["dog/copy.mp4"]
    assert any(warning.startswith("empty:") for warning in report["warnings"])
    assert sum(len(part) for part in table.values()) == 6 == report["clips"]
    text = report_text(report)
    assert "skipped 3, broken" in text and "warning: empty:" in text


def test_missing_streams_may_stay(tmp_path):
    for index in range(6):
        make_clip(tmp_path / "ab"[index % 2] / f"{index}.mp4", index, sound=index > 1)
    table, report = build_clip_table(tmp_path, require=(), test_fraction=0, validation_fraction=0)
    assert report["clips"] == 6 and list(table) == ["train"]
    audio = {row["clip_id"]: row["audio"] for row in table["train"]}
    assert audio["a/0.mp4"] is None and audio["b/1.mp4"] is None and audio["a/2.mp4"] is not None


def test_nothing_left_is_an_error(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "text.mp4").write_text("no clip")
    with pytest.raises(ValueError, match="no clip is left of 1.*broken"):
        build_clip_table(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        build_clip_table(tmp_path / "absent")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match="subfolder per class"):
        build_clip_table(tmp_path / "bare")


@pytest.fixture
def long_clips(tmp_path):
    """Six files of 3 s in two groups of one talker each, with words in them."""
    rows = []
    for index in range(6):
        make_clip(tmp_path / f"{index}.mp4", index, seconds=3.0)
        for word, start in (("one", 0.1), ("two", 1.5), ("one", 2.8)):
            row = {"clip": f"{index}.mp4", "word": word, "from": start, "to": start + 0.2}
            rows.append(row | {"talker": f"talker{index // 2}", "bad": index == 5})
    return tmp_path, rows


def test_table_with_other_columns_and_windows(long_clips):
    folder, rows = long_clips
    path = write_table(folder / "words.csv", rows)
    table, report = build_clip_table(
        path, label="word", file_name="clip", start="from", end="to", group="talker", where={"bad": False}, window=0.64
    )
    assert report["rows"] == 18 and report["clips"] == 15
    assert report["skipped_by_reason"] == {"skipped by where bad=False": 3}
    seen = set()
    for part in table.values():
        for row in part:
            assert row["end"] - row["start"] == pytest.approx(0.64)
            seen.add((round(row["start"], 3), round(row["end"], 3)))
            assert row["clip_id"].endswith(f"@{row['start']:.3f}-{row['end']:.3f}")
    # the first and the last window are moved inside the file
    assert {window[0] for window in seen} == {0.0, 1.28, 2.36}
    groups = sides_of(table, "group")
    assert groups["train"] | groups["validation"] | groups["test"] == {"talker0", "talker1", "talker2"}
    assert sum(len(group) for group in groups.values()) == 3


def test_bad_windows_are_skipped(long_clips):
    folder, rows = long_clips
    rows[0] |= {"from": 2.0, "to": 1.0}
    rows[1] |= {"to": 9.0}
    rows[2] |= {"from": "soon"}
    rows[3] |= {"from": "nan"}
    path = write_table(folder / "words.csv", rows)
    _, report = build_clip_table(path, label="word", file_name="clip", start="from", end="to", check="probe")
    assert report["skipped_by_reason"] == {"bad window": 3, "window past the end": 1}


def test_a_table_s_own_split_and_what_it_lacks(tmp_path):
    rows = []
    for index in range(30):
        make_clip(tmp_path / f"{index}.mp4", index, seconds=0.3)
        side = "val" if index >= 24 else "train"
        rows.append({"file_name": f"{index}.mp4", "label": index % 3, "split": side, "group": f"g{index // 2}"})
    path = write_table(tmp_path / "metadata.csv", rows)
    table, report = build_clip_table(path, test_split="val", check="none")
    assert set(table["test"]["clip_id"]) == {f"{index}.mp4" for index in range(24, 30)}
    assert report["split"] == "by the table, validation out of train by group (seed 0)"
    assert 2 <= len(table["validation"]) <= 6
    assert table["train"].features["label"].names == ["0", "1", "2"]
    # the folder finds its metadata.csv; `val` is validation, a test side is carved out of train
    table, _ = build_clip_table(tmp_path, check="none")
    assert set(table["validation"]["clip_id"]) == {f"{index}.mp4" for index in range(24, 30)}
    assert 2 <= len(table["test"]) <= 6
    # a split of one's own is not looked at
    table, report = build_clip_table(tmp_path, split=False, check="none")
    assert report["split"] == "by group (seed 0)"
    with pytest.raises(ValueError, match="'spare' is not in the table"):
        build_clip_table(tmp_path, test_split="spare", check="none")


def test_whole_numbers_are_ordered_as_numbers(tmp_path):
    rows = []
    for index in range(11):
        make_clip(tmp_path / f"{index}.mp4", index, seconds=0.3)
        rows.append({"file_name": f"{index}.mp4", "label": index})
    write_table(tmp_path / "metadata.csv", rows)
    table, report = build_clip_table(tmp_path, check="none", validation_fraction=0, test_fraction=0)
    assert table["train"].features["label"].names == [str(index) for index in range(11)]
    assert report["warnings"] == []


def test_leaks_are_refused(tmp_path):
    rows = []
    for index in range(4):
        make_clip(tmp_path / f"{index}.mp4", index, seconds=0.3)
        rows.append({"file_name": f"{index}.mp4", "label": "ab"[index % 2], "split": "train", "group": f"g{index}"})
    rows[2] |= {"split": "test", "group": "g0"}
    write_table(tmp_path / "metadata.csv", rows)
    with pytest.raises(ValueError, match="group 'g0' is in train and in test.*split=False"):
        build_clip_table(tmp_path, check="none")
    rows[2] |= {"file_name": "0.mp4", "group": "g0"}
    rows[2] |= {"start": 0.1, "end": 0.2}
    rows[0] |= {"start": 0.0, "end": 0.1}
    for row in rows:
        row.setdefault("start", ""), row.setdefault("end", "")
    write_table(tmp_path / "metadata.csv", rows)
    with pytest.raises(ValueError, match="source .*0.mp4' is in train and in test"):
        build_clip_table(tmp_path, check="none")
    rows[2] |= {"group": "g9"}
    write_table(tmp_path / "metadata.csv", rows)
    with pytest.raises(ValueError, match="one file belongs to one group"):
        build_clip_table(tmp_path, check="none")


def test_check_leaks_finds_a_clip_id(class_folder):
    table, _ = build_clip_table(class_folder, check="none")
    check_leaks(table)
    table["test"] = datasets.concatenate_datasets([table["test"], table["train"].select([0])])
    with pytest.raises(ValueError, match="clip id"):
        check_leaks(table)


@pytest.mark.parametrize("name", ["../secret.mp4", "/etc/passwd", "http://host/a.mp4", "concat:a.mp4|b.mp4"])
def test_a_file_name_may_not_leave_its_folder(tmp_path, name):
    write_table(tmp_path / "metadata.csv", [{"file_name": name, "label": "a"}])
    with pytest.raises(ClipError):
        build_clip_table(tmp_path)


def test_unknown_columns_are_named(class_folder, tmp_path):
    write_table(tmp_path / "metadata.csv", [{"file_name": "a.mp4", "word": "a"}])
    with pytest.raises(ValueError, match="no column 'label'.*'word'.*label="):
        build_clip_table(tmp_path)
    with pytest.raises(ValueError, match="no column 'talker'"):
        build_clip_table(tmp_path, label="word", group="talker")
    with pytest.raises(ValueError, match="where: no column 'glitch'"):
        build_clip_table(tmp_path, label="word", where={"glitch": 0})
    with pytest.raises(ValueError, match="check='fast'"):
        build_clip_table(class_folder, check="fast")
    with pytest.raises(ValueError, match="test_fraction"):
        build_clip_table(class_folder, check="none", test_fraction=1.2)


def test_a_dataset_with_columns_is_taken(class_folder, tmp_path):
    paths = sorted(str(path) for path in class_folder.rglob("*.mp4"))
    labels = ["cat" in path.split("/")[-2] for path in paths]
    table = datasets.Dataset.from_dict({"video": paths, "label": [int(label) for label in labels]})
    table = table.cast_column("label", datasets.ClassLabel(names=["dog", "cat"]))
    table = table.cast_column("video", datasets.Video())
    built, report = build_clip_table(table)
    assert report["clips"] == 12 and built["train"].features["label"].names == ["dog", "cat"]
    row = built["train"][0]
    assert row["video"] == row["audio"] and ("cat" in row["video"]["path"].split("/")[-2]) == (row["label"] == 1)
    # saved and given as a folder, with its own sides
    sides = datasets.DatasetDict({"train": table.select(range(8)), "test": table.select(range(8, 12))})
    sides.save_to_disk(str(tmp_path / "saved"))
    built, report = build_clip_table(tmp_path / "saved", validation_fraction=0, check="none")
    assert {side: len(part) for side, part in built.items()} == {"train": 8, "test": 4}


def test_a_dataset_of_bytes_is_taken(class_folder):
    paths = sorted(class_folder.rglob("*.mp4"))
    cells = [{"bytes": path.read_bytes(), "path": None} for path in paths]
    features = datasets.Features({"video": datasets.Video(decode=False), "label": datasets.Value("string")})
    labels = [path.parent.name for path in paths]
    table = datasets.Dataset.from_dict({"video": cells, "label": labels}, features=features)
    built, report = build_clip_table(table)
    assert report["clips"] == 12 and len(set(built["train"]["clip_id"])) == len(built["train"])


def embedded(paths, **columns):
    """A data set that holds the clips, which it all calls 001.mp4."""
    cells = [{"bytes": path.read_bytes(), "path": "001.mp4"} for path in paths]
    labels = [path.parent.name for path in paths]
    table = datasets.Dataset.from_dict({"video": cells, "label": labels, **columns})
    return table.cast_column("video", datasets.Video(decode=False))


def test_embedded_clips_of_one_name_are_told_apart_by_content(class_folder):
    dog, cat, other = (class_folder / name for name in ("dog/00.mp4", "cat/01.mp4", "dog/02.mp4"))
    alone = {"check": "none", "validation_fraction": 0, "test_fraction": 0}
    # one split
    table, _ = build_clip_table(embedded([dog, cat]), **alone)
    assert len(set(table["train"]["clip_id"])) == len(set(table["train"]["group"])) == 2
    # two splits, without and with groups
    for columns in ({}, {"group": ["tom", "ann", "sue"]}):
        parts = embedded([dog, cat, other], **columns)
        parts = datasets.DatasetDict(train=parts.select([0, 1]), test=parts.select([2]))
        table, _ = build_clip_table(parts, **alone)
        assert {split: len(part) for split, part in table.items()} == {"train": 2, "test": 1}
    # one clip in two splits
    parts = embedded([dog, dog], start=[0.0, 0.5], end=[0.5, 1.0], group=["tom", "tom"], split=["train", "test"])
    with pytest.raises(ValueError, match=r"source '001.mp4 \(\w{16}\)' is in train and in test"):
        build_clip_table(parts, **alone)
    with pytest.raises(ValueError, match="is in train and in test"):
        build_clip_table(parts, group=False, **alone)
    with pytest.raises(ValueError, match="one file belongs to one group"):
        build_clip_table(parts.remove_columns("group").add_column("group", ["tom", "ann"]), **alone)


def test_split_by_group_keeps_groups_whole_and_classes_balanced():
    generator = np.random.default_rng(0)
    groups = [f"g{value}" for value in generator.integers(60, size=400)]
    labels = generator.integers(4, size=400).tolist()
    sides = split_by_group(labels, groups, {"train": 0.7, "validation": 0.15, "test": 0.15}, seed=1)
    by_group = {}
    for side, group in zip(sides, groups, strict=True):
        assert by_group.setdefault(group, side) == side
    share = {side: sides.count(side) / 400 for side in set(sides)}
    assert share["train"] == pytest.approx(0.7, abs=0.03) and share["test"] == pytest.approx(0.15, abs=0.03)
    for label in range(4):
        of_label = [side for side, value in zip(sides, labels, strict=True) if value == label]
        assert of_label.count("test") / len(of_label) == pytest.approx(0.15, abs=0.06)


def test_grid_and_drone_tables(shared_path):
    grid = shared_path("data/grid_s1") / "labels.csv"
    options = {"file_name": "file", "where": {"glitch": 0}, "window": 0.64, "test_split": "val", "check": "none"}
    table, report = build_clip_table(
        grid, label="colour", start="colour_start_s", end="colour_end_s", split="split", group="group", **options
    )
    assert report["clips"] == 581 and len(table["test"]) == 105
    assert table["train"].features["label"].names == ["blue", "green", "red", "white"]
    assert all(row["end"] - row["start"] == pytest.approx(0.64) for row in table["train"])
    drone = shared_path("data/drone_av_cc0") / "labels.csv"
    table, report = build_clip_table(drone, file_name="file", check="none")
    assert report["split"] == "by group (seed 0)" and report["clips"] == 96
    assert all(set(part["label"]) == {0, 1, 2} for part in table.values())
    assert all(start is None for start in table["train"]["start"])


def test_a_silent_clip_that_is_kept_is_named(tmp_path):
    for number, name in enumerate(["cat/a.mp4", "cat/b.mp4", "dog/c.mp4", "dog/d.mp4"]):
        make_clip(tmp_path / name, number, sound="silent" if name == "cat/b.mp4" else "tone")
    _, report = build_clip_table(tmp_path, require=(), validation_fraction=0.0, test_fraction=0.0)
    assert report["clips"] == 4
    assert any("cat/b.mp4" in warning and "silent" in warning for warning in report["warnings"])
    assert "cat/b.mp4" in report_text(report) and "cat/a.mp4" not in report_text(report)


def test_long_clips_whose_audio_ends_first_are_kept(tmp_path):
    write_clip(tmp_path / "cat" / "a.mp4", np.zeros((200, 32, 32, 3), np.uint8), tone(110.0), fps=1)
    _, report = build_clip_table(tmp_path, validation_fraction=0.0, test_fraction=0.0)
    assert report["clips"] == 1 and report["skipped"] == []


@pytest.mark.parametrize("check", ["decode", "probe"])
def test_a_clip_whose_audio_ends_before_the_middle_of_its_window(tmp_path, check):
    """What a model hears of a window contains its middle."""
    rows = [("", ""), (0.0, 0.9), (2.0, 3.0)]
    rows = [{"file_name": "a.mp4", "label": "cat", "start": start, "end": end} for start, end in rows]
    write_clip(tmp_path / "a.mp4", np.zeros((30, 32, 32, 3), np.uint8), tone(1.0), fps=10)
    write_table(tmp_path / "metadata.csv", rows)
    options = {"check": check, "validation_fraction": 0, "test_fraction": 0}
    table, report = build_clip_table(tmp_path, **options)
    assert table["train"]["end"] == [0.9] and report["skipped_by_reason"] == {"window past the end of the audio": 2}
    reason = report["skipped"][0]["reason"]
    assert re.search(r"it ends at 1\.\d\d s, before the middle of 0 s to 3 s; give start and end", reason)
    table, report = build_clip_table(tmp_path, require=(), **options)
    assert [cell is None for cell in table["train"]["audio"]] == [True, False, True]
    assert report["skipped"] == [] and any("no audio" in warning for warning in report["warnings"])


def test_split_fractions_are_shares_of_their_sum():
    labels, groups = ["a", "b"] * 50, [f"g{number}" for number in range(100)]
    parts = split_by_group(labels, groups, {"train": 6, "validation": 2, "test": 2}, seed=1)
    assert parts == split_by_group(labels, groups, {"train": 0.6, "validation": 0.2, "test": 0.2}, seed=1)
    assert [parts.count(split) for split in ("train", "validation", "test")] == [60, 20, 20]


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs Linux: a file that opens and cannot be read")
@pytest.mark.parametrize("check", ["decode", "probe"])
def test_a_file_that_cannot_be_read_is_skipped(class_folder, tmp_path, check):
    """As a file without permission, or on a disk that fails: the others stay, also where another has its size."""
    shutil.copytree(class_folder, tmp_path / "clips")
    (tmp_path / "clips" / "cat" / "bad.mp4").symlink_to("/proc/self/mem")
    (tmp_path / "clips" / "dog" / "worse.mp4").symlink_to("/proc/self/mem")
    _, report = build_clip_table(tmp_path / "clips", check=check)
    reasons = {entry["file"]: entry["reason"] for entry in report["skipped"]}
    assert set(reasons) == {"cat/bad.mp4", "dog/worse.mp4"} and report["clips"] == 12
    assert all("cannot be read" in reason and "check its permissions" in reason for reason in reasons.values())


@pytest.mark.parametrize("name", ["my  clip.mp4", "no\u00a0break.mp4", "Screen Recording 3.45.12\u202fPM.mp4"])
def test_names_of_files_in_a_csv_are_taken_as_they_are(class_folder, tmp_path, name):
    clips = sorted(class_folder.rglob("*.mp4"))
    rows = [{"label": clip.parent.name, "file_name": clip.name} for clip in clips]
    for clip in clips:
        shutil.copy(clip, tmp_path)
    (tmp_path / clips[0].name).rename(tmp_path / name)
    rows[0]["file_name"] = f" {name} "  # as after the comma of a hand-written table
    _, report = build_clip_table(write_table(tmp_path / "metadata.csv", rows), check="none")
    assert report["skipped"] == [] and report["clips"] == 12


@pytest.mark.parametrize("form", ["torch", "numpy"])
def test_a_dataset_with_a_format_keeps_its_classes(class_folder, form):
    clips = sorted(class_folder.rglob("*.mp4"))
    data = datasets.Dataset.from_dict(
        {"video": [str(clip) for clip in clips], "label": [int(clip.parent.name == "dog") for clip in clips]}
    )
    data = data.cast_column("label", datasets.ClassLabel(names=["cat", "dog"]))
    _, report = build_clip_table(data.with_format(form), check="none")
    assert report["classes"] == ["cat", "dog"]


def test_clips_beside_the_folders_of_classes_are_named(class_folder, tmp_path):
    shutil.copytree(class_folder, tmp_path / "clips")
    make_clip(tmp_path / "clips" / "loose.mp4", 90)
    (tmp_path / "clips" / "._hidden.mp4").write_bytes(b"")
    _, report = build_clip_table(tmp_path / "clips", check="none")
    assert "loose.mp4: skipped, it is in no folder of a class (1 such clips)" in report["warnings"]
