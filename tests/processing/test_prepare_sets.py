# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Each set from a tiny tree in its true format: table, sides, groups, report."""

import json
import sys
import types

import numpy as np
import pytest
from datasets import ClassLabel, List
from tiny_sets import (
    AUDIOSET_CLASSES,
    VGGSOUND_LABELS,
    ClipCopies,
    vggsounder_package,
    write_audioset,
    write_ave,
    write_crema_d,
    write_kinetics_sounds,
    write_ravdess,
    write_vggsound,
)

from processing.data.clip_splits import check_leaks
from processing.data.prepared_folders import load_prepared
from processing.prepare.__main__ import parse_arguments, prepare
from processing.prepare.annotations import PrepareError
from processing.prepare.crema_d import EMOTIONS, TEST_ACTORS, VALIDATION_ACTORS


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return ClipCopies(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def roots(tmp_path_factory, clips):
    """Each tree is written once; the tests only read it."""
    folder, made = tmp_path_factory.mktemp("sets"), {}

    def root(name):
        if name not in made:
            writers = {"ave": write_ave, "vggsound": write_vggsound, "kinetics_sounds": write_kinetics_sounds}
            writers |= {"audioset": write_audioset, "ravdess": write_ravdess}
            made[name] = writers[name](folder / name, clips)
        return made[name]

    return root


@pytest.fixture(scope="module")
def crema_d(tmp_path_factory):
    """Two seconds: a Flash file that lost less than half a second passes for whole."""
    folder = tmp_path_factory.mktemp("crema_d")
    return write_crema_d(folder / "CREMA-D", ClipCopies(folder / "clips", seconds=2.0))


def run(name, root, out, *options):
    """Prepares in this process -> (report, tables)."""
    report = prepare(parse_arguments([name, "--root", str(root), "--out", str(out), "--workers", "0", *options]))
    tables = load_prepared(out)
    check_leaks(tables)
    saved = json.loads((out / "report.json").read_text())
    assert report.items() <= saved.items()
    assert sum(shard["rows"] for shard in saved["shards"].values()) == report["total"]["used"]
    problems = {p["clip_id"]: p["status"] for p in report["problems"]}
    assert sum(len(part) for part in tables.values()) == report["total"]["used"]
    assert report["total"]["listed"] == report["total"]["used"] + len(report["problems"])
    return report, tables, problems


def ids(part):
    return set(part["clip_id"])


def test_ave(roots, tmp_path):
    report, tables, problems = run("ave", roots("ave"), tmp_path / "out")
    assert problems == {
        "v1/Bark": "missing",
        "v2/Bark": "silent",
        "v3/Bark": "corrupt",
        "v4/Church bell": "duplicate",
        "v5/Bark": "duplicate",  # the same line in train and test: it stays in test
    }
    assert ids(tables["train"]) == {"v0/Church bell", "v6/Truck", "v9/Banjo", "v9/Mandolin"}
    assert ids(tables["validation"]) == {"v7/Truck"} and ids(tables["test"]) == {"v8/Bark", "v5/Bark"}
    names = tables["train"].features["label"].names
    assert len(names) == 29 and names[-1] == "Background" and names[:28] == sorted(names[:28])
    rows = {row["clip_id"]: row for part in tables.values() for row in part}
    truck, background = names.index("Truck"), 28
    assert rows["v6/Truck"]["segment_labels"] == [background] * 3 + [truck] * 2 + [background] * 5
    assert rows["v6/Truck"]["label"] == truck and rows["v6/Truck"]["quality"] == "good"
    assert rows["v8/Bark"]["segment_labels"] == [background] * 10 and rows["v8/Bark"]["label"] == names.index("Bark")
    assert rows["v9/Banjo"]["group"] == rows["v9/Mandolin"]["group"] == "v9"
    assert rows["v0/Church bell"]["video"]["path"].endswith("AVE/v0.mp4")
    assert rows["v0/Church bell"]["start"] is None and rows["v0/Church bell"]["end"] is None
    assert report["splits"]["train"] == {
        "listed": 9,
        "found": 8,
        "used": 4,
        "excluded": 0,
        "duplicate": 2,
        "other_split": 0,
        "missing": 1,
        "corrupt": 1,
        "no_video": 0,
        "no_audio": 0,
        "silent": 1,
    }
    assert report["per_class"]["train"]["Bark"]["listed"] == 4 and report["per_class"]["train"]["Bark"]["used"] == 0
    assert any("1 lines stand in none" in warning for warning in report["warnings"])
    assert any("train: no clip is left of Bark" in warning for warning in report["warnings"])


def test_ave_background_by_match(roots, tmp_path):
    _, tables, _ = run("ave", roots("ave"), tmp_path / "out", "--background", "match")
    assert len(tables["train"].features["label"].names) == 28
    row = next(row for row in tables["train"] if row["clip_id"] == "v6/Truck")
    truck = tables["train"].features["label"].str2int("Truck")
    assert row["segment_labels"] == [-100] * 3 + [truck] * 2 + [-100] * 5
    assert row["segment_matched"] == [False] * 3 + [True] * 2 + [False] * 5


class NumpyFile(dict):
    """What h5py.File is to the preparation, kept by numpy: for where h5py is not installed."""

    def __init__(self, path, mode):
        super().__init__(np.load(path) if mode == "r" else {})
        self.path = path if mode == "w" else None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.path is not None:
            with open(self.path, "wb") as file:
                np.savez(file, **self)


@pytest.mark.parametrize("library", ["h5py", "numpy in its place"])
def test_ave_by_orders(clips, tmp_path, monkeypatch, library):
    """The .h5 orders name lines of Annotations.txt, counted from 0."""
    if library != "h5py":
        monkeypatch.setitem(sys.modules, "h5py", types.SimpleNamespace(File=NumpyFile))
    h5py = pytest.importorskip("h5py")
    root = tmp_path / "ave"
    lines = ["Bark&v0&good&0&10", "Bus&v1&good&0&10", "Cat&v2&good&0&10", "Clock&v3&good&2&4"]
    (root / "data").mkdir(parents=True)
    (root / "data" / "Annotations.txt").write_text("\n".join(lines))
    for name, order in (("train", [3, 0]), ("val", [1]), ("test", [2])):
        with h5py.File(root / "data" / f"{name}_order.h5", "w") as file:
            file["order"] = np.array(order)
    for number in range(4):
        clips.good(root / "data" / "AVE" / f"v{number}.mp4")
    _, tables, problems = run("ave", root, tmp_path / "out")
    assert not problems
    assert list(tables["train"]["clip_id"]) == ["v3/Clock", "v0/Bark"]
    assert list(tables["validation"]["clip_id"]) == ["v1/Bus"] and list(tables["test"]["clip_id"]) == ["v2/Cat"]
    with h5py.File(root / "data" / "test_order.h5", "w") as file:
        file["order"] = np.array([4])
    with pytest.raises(PrepareError, match="test_order.h5: names line 4, but .*Annotations.txt has 4"):
        run("ave", root, tmp_path / "out")


def test_ave_orders_without_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}_order.h5").write_bytes(b"")
    (tmp_path / "Annotations.txt").write_text("Bark&v0&good&0&10\n")
    with pytest.raises(PrepareError, match="train_order.h5: reading it needs h5py; run `pip install h5py`"):
        run("ave", tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    "line, message",
    [
        ("Bark&v0&good&0", "line 1: expected category&id&quality&start&end"),
        ("Barking&v0&good&0&10", "line 1: 'Barking' is none of the 28 categories"),
        ("Bark&v0&good&0&ten", "line 1: 'ten' are no seconds"),
        ("Bark&v0&good&0&nan", "line 1: 'nan' are no seconds"),
    ],
)
def test_ave_bad_lines(tmp_path, line, message):
    for name in ("trainSet.txt", "valSet.txt", "testSet.txt"):
        (tmp_path / name).write_text(line + "\n")
    with pytest.raises(PrepareError, match=message):
        run("ave", tmp_path, tmp_path / "out")


def test_vggsound(roots, tmp_path):
    options = ("--validation_fraction", "0.2")
    report, tables, problems = run("vggsound", roots("vggsound"), tmp_path / "out", *options)
    assert problems == {
        "train000000_000000": "missing",
        "train000001_000001": "silent",
        "train000002_000002": "corrupt",
        "train000003_000003": "duplicate",  # the bytes of a test clip: kept off train
        "train000004_000004": "no_audio",
        "train000010_000010": "duplicate",
        "both-000000_000030": "other_split",
    }
    assert tables["train"].features["label"].names == sorted(VGGSOUND_LABELS)
    assert len(tables["test"]) == 7 and ids(tables["test"]) >= {"both-000000_000070", "test-000005_000005"}
    assert 3 <= len(tables["validation"]) <= 25 and len(tables["validation"]) + len(tables["train"]) == 55
    row = next(row for row in tables["test"] if row["clip_id"] == "test-000001_000001")
    assert tables["test"].features["label"].int2str(row["label"]) == "male speech, man speaking"
    assert row["group"] == "test-000001" and row["video"] == row["audio"]
    assert report["split"] == "official, validation out of train by video id (seed 0, 0.2)"
    assert "3 classes; the full list has 309" in report["warnings"][0]
    _, other, _ = run("vggsound", roots("vggsound"), tmp_path / "seed", *options, "--seed", "1")
    assert ids(other["validation"]) != ids(tables["validation"]) and ids(other["test"]) == ids(tables["test"])


def test_vggsound_validation_does_not_hang_on_the_rest_of_the_list(roots, clips, tmp_path):
    """Two users with different parts of the set have the same sides."""
    _, tables, _ = run("vggsound", roots("vggsound"), tmp_path / "out", "--validation_fraction", "0.2")
    root = tmp_path / "part"
    root.mkdir()
    lines = (roots("vggsound") / "vggsound.csv").read_text().splitlines()
    (root / "vggsound.csv").write_text("\n".join(lines[:66:2]) + "\n")
    (root / "video").symlink_to(roots("vggsound") / "video")
    _, part, _ = run("vggsound", root, tmp_path / "half", "--validation_fraction", "0.2")
    assert ids(part["validation"]) and ids(part["validation"]) < ids(tables["validation"])
    assert ids(part["train"]) < ids(tables["train"])


def test_vggsounder(roots, tmp_path, monkeypatch):
    """With a module that answers as vggsounder 1.0 does: items() of video_id, labels, modalities."""
    monkeypatch.setitem(sys.modules, "vggsounder", vggsounder_package())
    report, tables, problems = run("vggsound", roots("vggsound"), tmp_path / "out", "--vggsounder")
    assert isinstance(tables["test"].features["label"], List)
    assert isinstance(tables["test"].features["label"].feature, ClassLabel)
    assert ids(tables["test"]) == {f"test-{n:06d}_{n:06d}" for n in range(4)}
    row = next(row for row in tables["test"] if row["clip_id"] == "test-000001_000001")
    assert row["label"] == [0, 2] and row["modalities"] == ["AV", "A"] and row["vggsound_label"] == 1
    assert all(row["label"] == [row["vggsound_label"]] for row in tables["train"])
    assert problems["test-000005_000005"] == problems["test-000004_000004"] == "excluded"
    assert report["multi_label"] and any("2 clips are not in VGGSounder" in text for text in report["warnings"])


def test_vggsounder_is_not_installed(roots, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vggsounder", None)
    with pytest.raises(PrepareError, match="pip install vggsounder"):
        run("vggsound", roots("vggsound"), tmp_path / "out", "--vggsounder")


def test_crema_d_speaker_disjoint(crema_d, tmp_path):
    report, tables, problems = run("crema_d", crema_d, tmp_path / "out")
    assert problems == {
        "1001_DFA_NEU_XX": "missing",
        "1001_DFA_HAP_XX": "missing",
        "1001_DFA_SAD_XX": "silent",
        "1001_DFA_FEA_XX": "corrupt",
        "1001_DFA_ANG_XX": "duplicate",  # of DIS, which comes first in the list
    }
    reasons = {p["clip_id"]: p["reason"] for p in report["problems"]}
    assert reasons["1001_DFA_NEU_XX"].endswith("no such file for the video")
    assert reasons["1001_DFA_HAP_XX"].endswith("no such file for the audio")
    assert "is cut off" in reasons["1001_DFA_FEA_XX"] and str(crema_d) not in reasons["1001_DFA_FEA_XX"]
    assert reasons["1001_DFA_ANG_XX"].endswith("but labeled ANG and not DIS")
    assert {side: set(part["group"]) for side, part in tables.items()} == {
        "train": {"1001", "1002", "1003"},
        "validation": {"1015"},
        "test": {"1010"},
    }
    assert tables["train"].features["label"].names == list(EMOTIONS)
    row = next(row for row in tables["train"] if row["clip_id"] == "1001_IEO_HAP_MD")
    assert row["video"]["path"].endswith("VideoFlash/1001_IEO_HAP_MD.flv")
    assert row["audio"]["path"].endswith("AudioWAV/1001_IEO_HAP_MD.wav")
    assert (row["actor"], row["sentence"], row["intensity"]) == ("1001", "IEO", "MD")
    assert any("train: 21 clips listed, the full split has 5144" in text for text in report["warnings"])


def test_crema_d_keeps_clips_without_a_sound_file_where_sound_is_not_required(crema_d, tmp_path):
    _, tables, problems = run("crema_d", crema_d, tmp_path / "out", "--require", "video")
    assert problems["1001_DFA_NEU_XX"] == "missing" and "1001_DFA_HAP_XX" not in problems
    row = next(row for row in tables["train"] if row["clip_id"] == "1001_DFA_HAP_XX")
    assert row["audio"] is None and row["video"]["path"].endswith(".flv")


def test_crema_d_speaker_split_has_91_actors():
    assert len(set(VALIDATION_ACTORS)) == 9 and len(set(TEST_ACTORS)) == 19
    assert not set(VALIDATION_ACTORS) & set(TEST_ACTORS)


def test_crema_d_overlapping_lists_warn(crema_d, tmp_path):
    names = [f"{actor}_DFA_{emotion}_XX" for actor in ("1002", "1003", "1010") for emotion in EMOTIONS]
    train, test = [n for n in names if "_ANG_" not in n], [n for n in names if "_ANG_" in n]
    for name, rows in (("train.csv", train), ("test.csv", test)):
        (tmp_path / name).write_text("".join(f"{row},{row.split('_')[2]}\n" for row in rows))
    lists = ["--split_files", f"train={tmp_path / 'train.csv'}", f"test={tmp_path / 'test.csv'}"]
    report, tables, problems = run("crema_d", crema_d, tmp_path / "out", *lists, "--validation_fraction", "0.2")
    assert ids(tables["test"]) == set(test)
    assert (
        ids(tables["train"]) | ids(tables["validation"]) == set(train) and len(tables["validation"]) == 5
    )  # one of each class
    assert set(problems.values()) == {"excluded"}
    assert any("3 of 3 actors are in both splits" in text for text in report["warnings"])
    assert "actors overlap" in report["split"]
    assert set(tables["train"]["actor"]) & set(tables["test"]["actor"])
    # the warning reaches everybody who trains on it
    from processing.data.clip_tables import build_clip_table

    _, training = build_clip_table(tmp_path / "out", check="none")
    assert any("actors are in both splits" in text for text in training["warnings"])


def test_crema_d_actor_lists_and_seeded_split(crema_d, tmp_path):
    sides = {"train": ["1001", "1002"], "val": ["1003"], "test": ["1010", "1015"]}
    for side, actors in sides.items():
        (tmp_path / f"{side}.txt").write_text("\n".join(actors) + "\n")
    lists = [f"{side}={tmp_path / f'{side}.txt'}" for side in sides]
    report, tables, _ = run("crema_d", crema_d, tmp_path / "lists", "--split_files", *lists)
    assert set(tables["validation"]["group"]) == {"1003"} and set(tables["test"]["group"]) == {"1010", "1015"}
    assert not any("both splits" in text for text in report["warnings"])
    report, tables, _ = run("crema_d", crema_d, tmp_path / "seeded", "--split", "seeded")
    assert "not the split of any paper" in report["split"] and set(tables) == {"train", "validation", "test"}


def test_crema_d_bad_lists(crema_d, tmp_path):
    (tmp_path / "train.csv").write_text("1001_DFA_ANG_XX,HAP\n")
    with pytest.raises(PrepareError, match="train.csv: '1001_DFA_ANG_XX,HAP' is neither"):
        run("crema_d", crema_d, tmp_path / "out", "--split_files", f"train={tmp_path / 'train.csv'}")
    with pytest.raises(PrepareError, match="write split=file with one of train, validation, test"):
        run("crema_d", crema_d, tmp_path / "out", "--split_files", str(tmp_path / "train.csv"))
    with pytest.raises(PrepareError, match="no such file; check the name"):
        run("crema_d", crema_d, tmp_path / "out", "--split_files", f"train={tmp_path / 'nothing.csv'}")


def test_crema_d_mp4_without_list(clips, tmp_path):
    """Converted to mp4, nothing else: the rows are the files, and the sound is in them."""
    for name in ("1001_DFA_ANG_XX", "1010_DFA_HAP_XX", "1015_DFA_SAD_XX"):
        clips.good(tmp_path / "mp4" / f"{name}.mp4")
    _, tables, problems = run("crema_d", tmp_path / "mp4", tmp_path / "out")
    assert not problems and {side: len(part) for side, part in tables.items()} == dict.fromkeys(tables, 1)
    assert tables["train"][0]["video"] == tables["train"][0]["audio"]


def test_kinetics_sounds(roots, tmp_path):
    root = roots("kinetics_sounds")
    options = ["--csv", str(root / "train.csv"), str(root / "val.csv"), "--classes", str(root / "classes.csv")]
    report, tables, problems = run("kinetics_sounds", root, tmp_path / "out", *options)
    expected = {"k0_000000_000010": "missing", "k1_000001_000011": "silent", "k2_000002_000012": "corrupt"}
    expected |= {"k5_000005_000015": "no_audio"}
    assert expected.items() <= problems.items()
    # which of the two copies stays depends on the sides that they were drawn to
    assert sorted(set(problems) - set(expected)) in (["k3_000003_000013"], ["k4_000004_000014"])
    assert tables["train"].features["label"].names == ["playing piano", "tap dancing"]
    assert set(tables["test"]["group"]) == {"val0", "val1", "val2", "val3"}
    assert "their validation is the test" in report["split"] and len(tables["validation"]) > 0
    rows = {row["clip_id"]: row for part in tables.values() for row in part}
    assert (rows["longer_000001_000002"]["start"], rows["longer_000001_000002"]["end"]) == (1.0, 2.0)
    assert rows["k7_000007_000017"]["video"]["path"].endswith("k7.mp4") and rows["k7_000007_000017"]["start"] is None
    assert any("1 rows are of other classes" in text for text in report["warnings"])


def test_kinetics_sounds_without_split(roots, tmp_path):
    root = roots("kinetics_sounds")
    lines = [",".join(line.split(",")[:4]) for line in (root / "train.csv").read_text().splitlines()]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    report, tables, _ = run("kinetics_sounds", root, tmp_path / "out", "--csv", str(tmp_path / "list.csv"))
    assert set(tables) == {"train", "validation", "test"} and "not the split of any paper" in report["split"]
    (tmp_path / "bad.csv").write_text("label,youtube_id,time_start\na,b,1\n")
    with pytest.raises(PrepareError, match="bad.csv: no column time_end"):
        run("kinetics_sounds", root, tmp_path / "bad", "--csv", str(tmp_path / "bad.csv"))


def test_audioset(roots, tmp_path):
    options = ("--validation_fraction", "0.2")
    report, tables, problems = run("audioset", roots("audioset"), tmp_path / "out", *options)
    expected = {"a0_000030": "missing", "a1_000031": "silent", "a2_000032": "corrupt", "a6_000036": "other_split"}
    assert expected.items() <= problems.items()
    assert sorted(set(problems) - set(expected)) in (["a3_000033"], ["a4_000034"])
    assert tables["train"].features["label"].feature.names == [name for _, name in AUDIOSET_CLASSES]
    rows = {row["clip_id"]: row for part in tables.values() for row in part}
    assert rows["a7_000037"]["label"] == [0, 1] and rows["a5_000035"]["label"] == [2]
    assert rows["a8_000038"]["video"]["path"].endswith("Ya8.mp4") and rows["-e0_000000"]["label"] == [0]
    assert ids(tables["test"]) == {"-e0_000000", "-e1_000000", "-e2_000000", "a6_000090"}
    weights = np.array(tables["train"]["weight"])
    human = np.array([label == [2] for label in tables["train"]["label"]])
    assert weights.mean() == pytest.approx(1.0)
    share = np.array([weights[human].sum(), weights[~human].sum()]) / weights.sum()
    assert share == pytest.approx([1 / 3, 2 / 3])  # one class against two that always come together
    assert set(tables["test"]["weight"]) == {1.0}
    train = report["splits"]["train"]["listed"] + report["splits"]["validation"]["listed"]
    assert train == 30 and report["per_class"]["test"]["Human sounds"]["used"] == 2


def test_audioset_full_by_ontology(roots, clips, tmp_path):
    """The ontology also names abstract classes: those without a segment are no classes."""
    root = tmp_path / "audioset"
    root.mkdir()
    for path in roots("audioset").iterdir():
        if path.name != "class_labels_indices.csv":
            (root / path.name).symlink_to(path)
    report, tables, _ = run("audioset", root, tmp_path / "out", "--training", "full")
    assert report["classes"] == [name for _, name in AUDIOSET_CLASSES]
    assert "u0_000000" in ids(tables["train"]) | ids(tables["validation"])
    (root / "ontology.json").unlink()
    with pytest.raises(PrepareError, match="no class_labels_indices.csv and no ontology.json"):
        run("audioset", root, tmp_path / "none")


def test_ravdess(roots, tmp_path):
    report, tables, problems = run("ravdess", roots("ravdess"), tmp_path / "out")
    assert problems.pop("01-01-01-01-01-01-01") == "silent"
    assert problems.pop("01-01-02-01-01-01-01") == "corrupt"
    assert problems.pop("01-01-04-01-01-01-01") == "duplicate"
    assert set(problems.values()) == {"missing"} and len(problems) == 4 * 45  # 60 recordings of an actor, 15 here
    assert set(tables) == {"train", "validation", "test"}
    groups = [set(part["group"]) for part in tables.values()]
    assert set().union(*groups) == {"01", "02", "03", "12"} and sum(map(len, groups)) == 4
    assert tables["train"].features["label"].names[5] == "fearful"
    rows = {row["clip_id"]: row for part in tables.values() for row in part}
    row = rows["01-01-06-02-01-01-12"]
    assert (row["label"], row["intensity"], row["actor"], row["channel"]) == (5, "strong", "12", "speech")
    assert "no official split" in report["split"] and any("4 of 24 actors" in text for text in report["warnings"])


def test_ravdess_song_and_sound_only(roots, tmp_path):
    _, tables, problems = run("ravdess", roots("ravdess"), tmp_path / "song", "--channel", "song")
    assert sum(map(len, tables.values())) == 4 and len(problems) == 4 * 43
    assert len(tables["train"].features["label"].names) == 6
    _, tables, _ = run("ravdess", roots("ravdess"), tmp_path / "sound", "--modality", "03")
    row = tables["train"][0]
    assert row["video"] is None and row["audio"]["path"].endswith(".wav")
    with pytest.raises(PrepareError, match="no file named like 02-01"):
        run("ravdess", roots("ravdess"), tmp_path / "picture", "--modality", "02")
