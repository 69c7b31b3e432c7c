# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables and folders as they are found: odd names, absolute paths, long audio, clips that lack a modality."""

import csv
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Audio, Dataset, Features, Value, Video

from processing import MAAVTProcessor
from processing.clips import Clip, ClipError
from processing.data import clip_checks
from processing.data.atomic_writing import write_csv, written_text
from processing.data.clip_dataset import ClipDataset
from processing.data.clip_tables import build_clip_table, report_text
from processing.data.conventions import VIDEO_SUFFIXES
from processing.data.stream_sources import open_source
from processing.generate.clip_writing import write_clip
from processing.metrics.localization import LocalizationScore, prediction_region
from processing.prepare.annotations import Annotations, ClipRow, FileIndex, carve_by_id
from processing.prepare.ave import read as read_ave
from processing.prepare.report import make_report
from processing.prepare.selection import Verdict


REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMA = pa.schema({"video": pa.struct({"path": pa.string(), "bytes": pa.binary()}), "label": pa.string()})


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 255, (5, 32, 32, 3), dtype=np.uint8)
    waveform = generator.normal(0, 0.1, 16000).astype(np.float32)
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames, waveform, fps=5)


def read_all(data, **options):
    options = {"check": "none", "validation_fraction": 0, "test_fraction": 0, "require": ()} | options
    return build_clip_table(data, **options)


def folder_of(clip, folder, names):
    for name in names:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(clip.read_bytes() + os.fsencode(name))  # other bytes: no duplicate
    return folder


def test_files_that_are_skipped_are_listed_with_the_reason(tmp_path, clip):
    names = ["dog/a.mp4", b"dog/caf\xe9.mp4", "cat/notes.txt", "cat/b.mp4"]
    table, report = read_all(folder_of(clip, tmp_path, names))
    assert sorted(table["train"]["clip_id"]) == ["cat/b.mp4", "dog/a.mp4"] and report["rows"] == 4
    reasons = {entry["file"]: entry["reason"] for entry in report["skipped"]}
    assert reasons["dog/caf\\xe9.mp4"] == "name is not UTF-8: rename it"
    assert reasons["cat/notes.txt"].startswith("no clip: the name ends in none of .mp4")
    assert "caf\\xe9" in report_text(report)


def test_layouts_and_endings(tmp_path, clip):
    names = [
        f"{split}/{label}/{split}{suffix}"
        for split in ("train", "val", "test")
        for label in ("dog", "cat")
        for suffix in VIDEO_SUFFIXES
    ]
    table, report = read_all(folder_of(clip, tmp_path, names))
    assert {split: len(part) for split, part in table.items()} == dict.fromkeys(
        ("train", "validation", "test"), 2 * len(VIDEO_SUFFIXES)
    )
    assert {".ts", ".m4v", ".flv", ".mpg", ".mpeg", ".wmv"} <= set(VIDEO_SUFFIXES) and not report["skipped"]
    page = (REPOSITORY / "docs" / "datasets.md").read_text(encoding="utf-8")
    assert f"A clip ends in {', '.join(VIDEO_SUFFIXES[:-1])} or {VIDEO_SUFFIXES[-1]}." in " ".join(page.split())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["train/dog/a.mp4", "tests/dog/b.mp4"],
            "tests: has the class folders of train and is no split; call it one of",
        ),
        (["train/a.mp4", "test/b.mp4"], "no folders of classes in this split; make test/CLASS/clip.mp4"),
        (["train/dog/a.mp4", "val/b.mp4"], "no folders of classes in this split; make val/CLASS/clip.mp4"),
    ],
)
def test_splits_that_are_none(tmp_path, clip, names, message):
    with pytest.raises(ValueError, match=message):
        read_all(folder_of(clip, tmp_path, names))


def test_folders_beside_splits_and_a_class_called_train(tmp_path, clip):
    names = ["train/dog/a.mp4", "valid/dog/b.mp4", "test/dog/c.mp4", "labels/list.txt"]
    table, report = read_all(folder_of(clip, tmp_path / "splits", names))
    assert set(table) == {"train", "validation", "test"} and report["classes"] == ["dog"]
    assert report["warnings"] == ["labels: skipped, it is no split beside train, validation and test"]
    names = ["train/monday/a.mp4", "bus/b.mp4", "car/tuesday/c.mp4"]
    _, report = read_all(folder_of(clip, tmp_path / "vehicles", names))
    assert report["classes"] == ["bus", "car", "train"]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (["a.mp4,dog,train,x", "b.mp4,dog,tset,y"], {}, r"\['tset'\] are no split names"),
        (["a.mp4,dog,train,x", "b.mp4,dog,,y"], {}, "some rows have a split and some have none"),
        (["a.mp4,dog,train,x", "b.mp4,dog,test,x"], {}, "group 'x' is in train and in test"),
        (["a.mp4,dog,train,x", "b.mp4,dog,train,y"], {"test_fraction": 2}, "their sum below 1"),
    ],
)
def test_wrong_splits_are_told_before_a_clip_is_decoded(tmp_path, clip, monkeypatch, rows, options, message):
    folder = folder_of(clip, tmp_path, ["a.mp4", "b.mp4"])
    (folder / "metadata.csv").write_text("\n".join(["file_name,label,split,group", *rows]), encoding="utf-8")
    monkeypatch.setattr(clip_checks, "isolated_calls", None)  # reads the clips
    with pytest.raises(ValueError, match=message):
        read_all(folder, check="decode", **options)


def test_prepare_skips_names_that_are_not_utf8(tmp_path, clip):
    index = FileIndex(folder_of(clip, tmp_path, ["a.mp4", b"caf\xe9.mp4"]))
    assert index.find("a") is not None and len(index.found) == 1
    assert index.warnings() == [
        "1 files are skipped, since their names are not UTF-8, such as caf\\xe9.mp4; rename them"
    ]


def test_one_rule_on_paths_for_csv_and_parquet(tmp_path, clip):
    inside = tmp_path / "set"
    inside.mkdir()
    shutil.copy(clip, inside / "inside.mp4")
    for suffix, name in (("relative", "inside.mp4"), ("absolute", str(clip)), ("leaving", "../clip.mp4")):
        with open(inside / f"{suffix}.csv", "w", newline="") as file:
            csv.writer(file).writerows([["file_name", "label"], [name, "dog"]])
        (inside / suffix).mkdir()
        cells = pa.table({"video": [{"path": name, "bytes": None}], "label": ["dog"]}, SCHEMA)
        pq.write_table(cells, inside / suffix / "train.parquet")
    shutil.copy(clip, inside / "relative" / "inside.mp4")

    def paths(suffix, **options):
        table, _ = read_all(inside / f"{suffix}.csv", **options)
        yield table["train"][0]["video"]["path"]
        source = open_source(inside / suffix, **options)
        yield source.reader(next(iter(source.splits["train"])))["video"]["path"]

    assert [path.endswith("inside.mp4") for path in paths("relative")] == [True, True]
    assert list(paths("absolute", allow_absolute_paths=True)) == [str(clip)] * 2
    for suffix, options in (("absolute", {}), ("leaving", {}), ("leaving", {"allow_absolute_paths": True})):
        with pytest.raises(ClipError, match="allow_absolute_paths|leaves the folder"):
            read_all(inside / f"{suffix}.csv", **options)
        source = open_source(inside / suffix, **options)
        with pytest.raises(ClipError, match="allow_absolute_paths|leaves the folder"):
            source.reader(next(iter(source.splits["train"])))


def test_labels_are_one_line_and_tables_are_utf8(tmp_path, clip):
    shutil.copy(clip, tmp_path / "a.mp4")
    path = tmp_path / "metadata.csv"
    path.write_text('file_name,label\na.mp4,"dog\n barks"\n', encoding="utf-8")
    assert read_all(tmp_path)[1]["classes"] == ["dog barks"]
    path.write_bytes(b"file_name,label\na.mp4,caf\xe9\n")
    with pytest.raises(ValueError, match="not UTF-8.*save it as UTF-8"):
        read_all(tmp_path)


def test_names_with_line_breaks_and_labels_with_slashes_are_safe(tmp_path, clip):
    folder = folder_of(clip, tmp_path / "set", ["red\nfox/a\n1.mp4", "red\nfox/b.mp4", "dog/notes\n.txt"])
    table, report = read_all(folder)
    assert report["classes"] == ["red fox"]
    assert table["train"]["clip_id"] == table["train"]["group"] == ["red\\nfox/a\\n1.mp4", "red\\nfox/b.mp4"]
    assert all(os.path.isfile(cell["path"]) for cell in table["train"]["video"])
    assert [entry["file"] for entry in report["skipped"]] == ["dog/notes\\n.txt"]
    assert all("\n" not in line for line in report["warnings"])
    assert FileIndex(folder).find("b") is not None and not FileIndex(folder).not_utf8
    shutil.copy(clip, tmp_path / "c.mp4")
    (tmp_path / "metadata.csv").write_text("file_name,label\nc.mp4,../car/truck\n", encoding="utf-8")
    assert read_all(tmp_path)[1]["classes"] == ["../car/truck"]


def test_a_spreadsheet_runs_no_cell(tmp_path):
    rows = [{"clip_id": "=HYPERLINK(1)", "label": "-x", "score": -1.5}, {"clip_id": "--PJHxphWEs", "label": "@a"}]
    write_csv(tmp_path / "predictions.csv", rows, ["clip_id", "label", "score"])
    with open(tmp_path / "predictions.csv", newline="") as file:
        assert list(csv.reader(file))[1:] == [["'=HYPERLINK(1)", "-x", "-1.5"], ["--PJHxphWEs", "'@a", ""]]


@pytest.mark.parametrize("text", ["=1+1", "+1", "@a", "\tx", "-2+3", "-cmd|' /C calc'!A0", "-SUM(A1)", "'=1", "''+1"])
def test_a_formula_in_a_cell_is_text_and_read_back(tmp_path, text):
    write_csv(tmp_path / "cells.csv", [{"text": text}], ["text"])
    with open(tmp_path / "cells.csv", newline="") as file:
        cell = list(csv.reader(file))[1][0]
    assert cell == f"'{text}" and written_text(cell) == text


@pytest.mark.parametrize("text", ["dog", "-x", "--PJHxphWEs", "-e0_000000/Church bell", "'quoted'", "a=b", ""])
def test_other_cells_stay_as_they_are(tmp_path, text):
    write_csv(tmp_path / "cells.csv", [{"text": text, "more": 1}], ["text", "more"])
    with open(tmp_path / "cells.csv", newline="") as file:
        assert list(csv.reader(file))[1][0] == text == written_text(text)


@pytest.mark.parametrize(("start", "end", "pieces"), [(None, None, 4), (30.0, 170.5, 2), (0.0, 120.0, 1)])
def test_long_audio_is_decoded_in_pieces(monkeypatch, start, end, pieces):
    windows = []

    def load(source, request):
        windows.append((request.start or 0.0, 250.0 if request.end is None else request.end))
        peak = 0.5 if windows[-1][1] > 150 else 0.0
        return Clip(waveform=torch.full((10,), peak))

    monkeypatch.setattr(clip_checks, "load_clip", load)
    peak = clip_checks.audio_peak("long.mp4", start, end, 250.0)
    assert len(windows) == pieces and max(last - first for first, last in windows) <= 120
    assert windows[0][0] == (start or 0.0) and windows[-1][1] == (250.0 if end is None else end)
    assert all(before[1] == after[0] for before, after in zip(windows, windows[1:], strict=False))
    assert peak == (0.5 if windows[-1][1] > 150 else 0.0)


def test_a_clip_that_lacks_a_modality_has_no_mismatched_copy():
    cell = {"path": "x.mp4", "bytes": None}
    rows = {
        "video": [cell, None, cell, cell],
        "audio": [cell, cell, cell, None],
        "label": [0, 1, 1, 0],
        "start": [None] * 4,
        "end": [None] * 4,
        "group": list("abcd"),
        "clip_id": list("abcd"),
    }
    from datasets import ClassLabel

    features = {"video": Video(decode=False), "audio": Audio(decode=False), "label": ClassLabel(names=["x", "y"])}
    features |= {
        "start": Value("float64"),
        "end": Value("float64"),
        "group": Value("string"),
        "clip_id": Value("string"),
    }
    table = Dataset.from_dict(rows, features=Features(features))
    dataset = ClipDataset(table, MAAVTProcessor(), mismatched_copies=True, on_missing="none")
    assert len(dataset) == 6  # four clips and the copies of a and c
    assert [dataset.pair(index) for index in range(4)] == [(row, row) for row in range(4)]
    assert dataset.pair(4) == (0, 2) and dataset.pair(5) == (2, 0)
    assert [dataset.has_both(index) for index in range(6)] == [True, False, True, False, True, True]
    described = [dataset.describe(index) for index in range(6)]
    assert [row["clip_id"] for row in described] == ["a", "b", "c", "d", "a", "c"]
    assert [row["is_matched"] for row in described] == [True] * 4 + [False] * 2
    with pytest.raises(IndexError):
        dataset.pair(6)


def test_intervals_of_one_event_are_joined(tmp_path):
    (tmp_path / "trainSet.txt").write_text("Bark&v1&good&0&2\nCat&v1&good&1&3\nBark&v1&good&7&9\n")
    (tmp_path / "valSet.txt").write_text("Bark&v1&good&4&5\n")
    (tmp_path / "testSet.txt").write_text("Cat&v2&good&0&10\n")
    annotations = read_ave(tmp_path, SimpleNamespace(background="match"))
    assert [(row.clip_id, row.split) for row in annotations.rows] == [
        ("v1/Bark", "train"), ("v1/Cat", "train"), ("v1/Bark", "validation"), ("v2/Cat", "test"),
    ]  # fmt: skip
    bark = annotations.rows[0]
    assert bark.extra["segment_matched"] == [second in (0, 1, 7, 8) for second in range(10)]
    label = annotations.classes.index("Bark")
    assert bark.segment_labels == [label if second in (0, 1, 7, 8) else -100 for second in range(10)]


def test_a_split_without_a_clip_is_named():
    rows = [ClipRow(f"c{i}", ["x"], f"g{i}", "train", f"c{i}.mp4") for i in range(3)]
    carve_by_id(rows, {"validation": 0.0001}, seed=0)
    report = make_report("ave", Annotations(rows, ["x"], "official"), [Verdict(row, True) for row in rows], [], {})
    assert [line.split(":")[0] for line in report["warnings"]] == ["validation", "test"]


@pytest.mark.parametrize("region", [0.5, "half"])
def test_a_constant_map_is_the_whole_frame(region):
    assert prediction_region(np.ones((4, 4)), region).all()
    truth = np.zeros((4, 4))
    truth[:2, :2] = 1
    score = LocalizationScore(region=region).compute(predictions=[np.zeros((4, 4))], references=[truth])
    assert score["mean_ciou"] == pytest.approx(0.25)
