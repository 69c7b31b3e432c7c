# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Streams: each clip once an epoch over processes and workers, resumed exactly, from Parquet and tar shards."""

import io
import json
import logging
import pickle
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from clip_factory import numbered_frames, read_number, tone
from datasets import Audio, ClassLabel, Dataset, Features, List, Value, Video
from torch.utils.data import DataLoader

from processing.clips import ClipError, ClipRequest
from processing.data import stream_sources
from processing.data.augmentation import ClipAugmentation
from processing.data.clip_dataset import ClipDataset
from processing.data.clip_streams import POSITION, ClipStream, StreamBatches
from processing.data.collators import AudioVisualCollator
from processing.data.stream_sources import as_table, open_source, read_remote
from processing.feature_extraction_maavt import MAAVTFeatureExtractor
from processing.generate.clip_writing import write_clip
from processing.processing_maavt import MAAVTProcessor
from processing.video_processing_maavt import MAAVTVideoProcessor


CLIPS, SHARDS = 22, 4
NAMES = ["a", "b", "c"]
FEATURES = {"video": Video(decode=False), "label": ClassLabel(names=NAMES), "group": Value("string")}


@pytest.fixture(autouse=True)
def short_pause(monkeypatch):
    """`datasets` waits for the threads that read Parquet: seconds, once an epoch and worker."""
    if hasattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN"):
        monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)


@pytest.fixture(scope="module")
def processor():
    sound = MAAVTFeatureExtractor(
        sampling_rate=4000, n_fft=256, win_length=256, hop_length=62, num_bins=32, num_frames=16
    )
    return MAAVTProcessor(sound, MAAVTVideoProcessor(size={"height": 64, "width": 96}))


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[bytes]:
    """Clip n shows the number n; its class is n % 3."""
    folder = tmp_path_factory.mktemp("clips")
    parts = []
    for number in range(CLIPS):
        frames = np.repeat(numbered_frames(number + 1)[number:], 3, axis=0)
        write_clip(folder / f"{number}.mp4", frames, tone(0.3, frequency=300 + 50 * number), fps=10)
        parts.append((folder / f"{number}.mp4").read_bytes())
    return parts


def write_parquet(folder: Path, clips: list[bytes], numbers, name: str, shards: int = SHARDS, **columns) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        mine = [number for number in numbers if number % shards == shard]
        rows = {
            "video": [{"path": f"{number}.mp4", "bytes": clips[number]} for number in mine],
            "label": [number % 3 for number in mine],
            "group": [f"g{number}" for number in mine],
        }
        rows |= {key: [values(number) for number in mine] for key, (values, _) in columns.items()}
        features = Features(FEATURES | {key: feature for key, (_, feature) in columns.items()})
        table = Dataset.from_dict({key: rows[key] for key in features}, features=features)
        table.to_parquet(folder / f"{name}-{shard:05d}-of-{shards:05d}.parquet")


@pytest.fixture(scope="module")
def parquet(clips, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("parquet")
    write_parquet(folder, clips, range(18), "train")
    write_parquet(folder / "data", clips, range(18, 20), "validation", shards=1)
    write_parquet(folder / "test", clips, range(20, 22), "0", shards=1)
    return folder


def write_tar(path: Path, clips: list[bytes], numbers, describe) -> None:
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            for ending, data in {"mp4": clips[number], **describe(number)}.items():
                data = data if isinstance(data, bytes) else str(data).encode()
                member = tarfile.TarInfo(f"clip{number:03d}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def stream_of(source, processor, **options) -> ClipStream:
    return ClipStream(source.splits["train"], source.reader, processor, **{"num_frames": 1, "seed": 5, **options})


def shown(item) -> int:
    return read_number(255 * (item["pixel_values_videos"][0] / 2 + 0.5))


def numbers_of(batches) -> list[int]:
    return [shown({"pixel_values_videos": pixels}) for batch in batches for pixels in batch["pixel_values_videos"]]


def equal(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def source(parquet):
    return open_source(parquet)


def batches_of(stream, **options) -> StreamBatches:
    return StreamBatches(stream, **{"batch_size": 4, "collate_fn": AudioVisualCollator(), **options})


# What is read


def test_parquet_shards(source, clips):
    assert list(source.splits) == ["train", "validation", "test"]
    assert source.lengths == {"train": 18, "validation": 2, "test": 2} and source.reader.names == tuple(NAMES)
    assert source.splits["train"].num_shards == SHARDS
    row = source.reader(next(iter(source.splits["test"])))
    assert row["video"] == row["audio"] and row["video"]["bytes"] == clips[20] and row["label"] == 20 % 3
    assert row["group"] == "g20" and row["start"] is None and row["clip_id"]


def test_rows_that_are_held_back_become_a_table(source, processor, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    table = as_table(source, "validation")
    assert table["clip_id"] == [row["clip_id"] for row in map(source.reader, source.splits["validation"])]
    assert table.features["label"].names == NAMES and table[0]["video"]["bytes"] == clips[18]
    dataset = ClipDataset(table, processor, num_frames=1)
    assert [shown(dataset[index]) for index in range(2)] == [18, 19]
    assert as_table(source, "validation").cache_files == table.cache_files  # written once
    kept = as_table(source, "train", keep=lambda row: row["label"] == 0, part="zeros")
    assert kept["label"][:] == [0] * 6


def test_items_are_those_of_a_table(source, processor, clips):
    """The same decoding, augmentation and noise; only who draws differs."""
    options = {"num_frames": 2, "augmentation": ClipAugmentation(), "noise_db": (0.0, 10.0)}
    options |= {"clean_probability": 0.5, "mark_noise": True}
    items = list(stream_of(source, processor, shuffle_buffer=1, **options))
    rows = [source.reader(cells) for cells in source.splits["train"]]
    table = Dataset.from_list(
        [row | {"start": 0.0, "end": 0.3} for row in rows],
        features=Features(
            {"video": Video(decode=False), "audio": Audio(decode=False), "label": ClassLabel(names=NAMES)}
            | {name: Value("float64") for name in ("start", "end")}
            | {name: Value("string") for name in ("group", "clip_id")}
        ),
    )
    plain = ClipDataset(table, processor, num_frames=2)
    augmented = stream_of(source, processor, shuffle_buffer=1, num_frames=2)
    for index, item in enumerate(augmented):
        item.pop(POSITION)
        assert equal(item, plain[index])
    again = list(stream_of(source, processor, shuffle_buffer=1, **options))
    assert all(equal(one, other) for one, other in zip(items, again, strict=True))
    assert not equal(items[0] | {POSITION: 0 * items[0][POSITION]}, plain[0] | {POSITION: 0 * items[0][POSITION]})
    assert {item["match_mask"].item() for item in items} == {True, False}
    # what a clip gets depends on (seed, epoch, clip), not on where in the stream it comes
    shuffled = {shown(item): item for item in stream_of(source, processor, **{**options, "augmentation": None})}
    in_order = {
        shown(i): i for i in stream_of(source, processor, **{**options, "augmentation": None}, shuffle_buffer=1)
    }
    assert all(torch.equal(shuffled[n]["input_features"], in_order[n]["input_features"]) for n in range(18))


def tar_source(folder, clips, describe, **options):
    write_tar(folder / "train-0000.tar", clips, range(9), describe)
    write_tar(folder / "train-0001.tar", clips, range(9, 18), describe)
    write_tar(folder / "test-0000.tar", clips, range(18, 22), describe)
    return open_source(folder, **options)


def test_webdataset_shards(clips, processor, tmp_path):
    def describe(number):
        window = {"start": 0 if number < 6 else 0.1, "end": None if number < 3 else 0.3}  # whole numbers come first
        return {"cls": number % 3, "json": json.dumps({"group": f"g{number // 2}", "more": [number], **window})}

    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    source = tar_source(tmp_path, clips, describe)
    assert source.lengths == {"train": None, "test": None} and source.reader.names == tuple(NAMES)
    rows = [source.reader(cells) for cells in source.splits["train"]]
    assert [row["label"] for row in rows] == [number % 3 for number in range(18)]
    assert (
        [row["start"] for row in rows] == [0.0] * 6 + [0.1] * 12 and rows[2]["end"] is None and rows[3]["end"] == 0.3
    )
    assert rows[5]["group"] == "g2" and rows[0]["clip_id"] == "train-0000.tar/clip000"
    assert rows[9]["video"]["bytes"] == clips[9]
    items = list(stream_of(source, processor, mismatch_probability=0.5))
    matched = [item for item in items if item["is_matched"]]
    assert len(items) == 18 and all(item["labels"] == shown(item) % 3 for item in matched)
    assert {item["input_features"].shape for item in items} == {(1, 32, 16)}


def test_labels_as_words_in_json(clips, tmp_path):
    source = tar_source(tmp_path, clips, lambda n: {"json": json.dumps({"label": NAMES[n % 3]})}, class_names=NAMES)
    rows = [source.reader(cells) for cells in source.splits["train"]]
    assert [row["label"] for row in rows] == [number % 3 for number in range(18)]
    assert rows[0]["group"] == rows[0]["clip_id"] == "train-0000.tar/clip000"


def test_labels_as_words_in_a_column(clips, tmp_path):
    write_parquet(tmp_path, clips, range(6), "train", 2, word=(lambda number: "zyx"[number % 3], Value("string")))
    source = open_source(tmp_path, label="word")
    assert source.reader.names == ("x", "y", "z")
    assert sorted(source.reader(cells)["label"] for cells in source.splits["train"]) == [0, 0, 1, 1, 2, 2]


def test_sound_of_its_own_and_windows(clips, processor, tmp_path):
    """`mteb/AVE-Dataset` has such columns: a video and an audio file a row."""
    sound = (lambda number: {"path": "s.mp4", "bytes": clips[(number + 1) % CLIPS]}, Audio(decode=False))
    window = {"start": (lambda n: 0.1, Value("float64")), "end": (lambda n: 0.3, Value("float64"))}
    write_parquet(tmp_path, clips, range(4), "train", 1, audio=sound, **window)
    source = open_source(tmp_path)
    rows = [source.reader(cells) for cells in source.splits["train"]]
    assert rows[1]["audio"]["bytes"] == clips[2] and (rows[1]["start"], rows[1]["end"]) == (0.1, 0.3)
    assert rows[1]["clip_id"].endswith("@0.100-0.300")
    item = next(iter(stream_of(source, processor, shuffle_buffer=1)))
    other = processor.load_clip(clips[1], ClipRequest(0.1, 0.3, streams=("audio",))).waveform
    expected = processor(audio=[other], sampling_rate=4000)["input_features"][0]
    assert torch.equal(item["input_features"], expected) and shown(item) == 0


def test_labels_of_segments_and_several_labels_a_clip(clips, processor, tmp_path):
    segments = {
        "segment_labels": (lambda number: [number % 3, -100], List(Value("int64"))),
        "segment_windows": (lambda number: [[0.0, 0.2], [0.1, 0.3]], List(List(Value("float64")))),
    }
    write_parquet(tmp_path / "segments", clips, range(9), "train", 1, **segments)
    source = open_source(tmp_path / "segments")
    items = list(stream_of(source, processor, num_frames=2, mismatch_probability=0.5))
    assert len(items) == 9 and all(item["input_features"].shape == (2, 32, 16) for item in items)
    assert all(item["labels"].tolist() == [shown(item) % 3, -100] for item in items if item["is_matched"].all())
    assert any(not item["is_matched"].any() for item in items)
    several = {"labels": (lambda number: [number % 3, 2], List(ClassLabel(names=NAMES)))}
    write_parquet(tmp_path / "several", clips, range(6), "train", 1, **several)
    source = open_source(tmp_path / "several", label="labels")
    items = list(stream_of(source, processor))
    assert source.reader.several and len(items) == 6
    for item in items:
        hot = {index for index, value in enumerate(item["labels"].tolist()) if value}
        assert hot == {shown(item) % 3, 2}


def test_clips_by_path_stay_in_their_folder(clips, tmp_path):
    (tmp_path / "1.mp4").write_bytes(clips[1])
    features = Features({"video": Video(decode=False), "label": ClassLabel(names=NAMES)})
    for path in ("1.mp4", "../1.mp4"):
        rows = [{"video": {"path": path, "bytes": None}, "label": 0}]
        pq.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema), tmp_path / "train.parquet")
        source = open_source(tmp_path)
        if path == "1.mp4":
            row = source.reader(next(iter(source.splits["train"])))
            assert Path(row["video"]["path"]).read_bytes() == clips[1]
        else:
            with pytest.raises(ClipError, match="leaves the folder"):
                source.reader(next(iter(source.splits["train"])))


def test_a_data_set_on_the_hub_is_found_by_name(parquet, clips, monkeypatch):
    asked = []
    load = stream_sources.load_dataset_builder

    def answer(path, revision=None, **options):
        asked.append((path, revision))
        shards = sorted(map(str, parquet.glob("train-*")))
        return load("parquet", data_files={"train": shards}, **options)

    monkeypatch.setattr(stream_sources, "load_dataset_builder", answer)
    for name in ("hf://datasets/user/set", "user/set", "hf://datasets/user/set@v2"):
        source = open_source(name)
        assert source.reader.folder is None and source.reader.names == tuple(NAMES) and source.lengths == {"train": 18}
    assert asked == [("user/set", None), ("user/set", None), ("user/set", "v2")]
    cells = next(iter(source.splits["train"]))
    assert source.reader(cells)["video"]["bytes"] == clips[0]
    for path, where in (("hf://datasets/user/set@v2/0.mp4", "there"), ("/etc/passwd", None), ("0.mp4", None)):
        cells["video"] = {"path": path, "bytes": None}
        if where:
            assert source.reader(cells)["video"]["path"] == path
        else:
            with pytest.raises(ClipError, match="names a file that is not in it"):
                source.reader(cells)
    with pytest.raises(ValueError, match="write hf://datasets/user/name"):
        open_source("hf://user/set")


def test_remote_files_are_read_when_they_are_shown(clips, tmp_path):
    (tmp_path / "1.mp4").write_bytes(clips[1])
    cell = {"path": f"file://{tmp_path}/1.mp4", "bytes": None}
    assert read_remote(cell)["bytes"] == clips[1] and cell["bytes"] is None
    assert read_remote(None) is None


@pytest.mark.parametrize(
    ("prepare", "options", "message"),
    [
        (lambda f, c: None, {}, "neither a folder here nor a data set on the Hub"),
        (lambda f, c: f.mkdir(), {}, "no \\*.parquet and no \\*.tar"),
        (lambda f, c: write_parquet(f, c, range(2), "train", 1), {"label": "kind"}, "no column 'kind'"),
        (lambda f, c: write_parquet(f, c, range(2), "train", 1), {"group": "who"}, "name one with group="),
        (lambda f, c: write_parquet(f, c, range(2), "train", 1), {"test_split": "eval"}, "test_split='eval'"),
        (lambda f, c: write_parquet(f, c, range(2), "test", 1), {}, "has to be called train"),
        (
            lambda f, c: write_parquet(f, c, range(2), "train", 1, number=(lambda n: n, Value("int64"))),
            {"label": "number"},
            "nothing names the classes; write them in classes.txt",
        ),
    ],
)
def test_data_that_cannot_be_streamed_is_refused_by_name(clips, tmp_path, prepare, options, message):
    prepare(tmp_path / "data", clips)
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / "data", **options)


def test_labels_that_are_no_class_are_refused(clips, tmp_path):
    source = tar_source(tmp_path, clips, lambda number: {"cls": number}, class_names=NAMES)
    with pytest.raises(ValueError, match="train-0000.tar/clip003: label 3 is none of the 3 classes"):
        [source.reader(cells) for cells in source.splits["train"]]


# Each clip once


@pytest.mark.parametrize("shards", [1, 4, 5])
@pytest.mark.parametrize("shuffle_buffer", [1, 6])
def test_every_clip_once_over_processes_and_workers(clips, processor, tmp_path, shards, shuffle_buffer):
    """4 shards go to 2 x 2 readers evenly; 1 and 5 do not, and are shared out row by row."""
    write_parquet(tmp_path, clips, range(18), "train", shards)
    source = open_source(tmp_path)
    for epoch in range(2):
        seen = Counter()
        for rank in range(2):
            stream = stream_of(source, processor, rank=rank, world_size=2, shuffle_buffer=shuffle_buffer)
            stream.set_epoch(epoch)
            seen.update(numbers_of(DataLoader(stream, 4, collate_fn=AudioVisualCollator(), num_workers=2)))
        assert seen == Counter(range(18)), epoch


def test_epochs_come_in_another_order_and_seeds_too(source, processor):
    orders = []
    for seed, epoch in ((1, 0), (1, 1), (2, 0), (1, 0)):
        stream = stream_of(source, processor, seed=seed, shuffle_buffer=8)
        stream.set_epoch(epoch)
        orders.append([shown(item) for item in stream])
    assert orders[0] == orders[3] and orders[0] != orders[1] and orders[0] != orders[2]
    assert [sorted(order) for order in orders] == [list(range(18))] * 4


def test_batches_go_on_through_epochs(source, processor):
    batches = list(batches_of(stream_of(source, processor), epochs=3))
    sizes = [len(batch["labels"]) for batch in batches]
    assert sizes == [4, 4, 4, 4, 2] * 3
    for epoch in range(3):
        assert sorted(numbers_of(batches[5 * epoch : 5 * epoch + 5])) == list(range(18))
    with_workers = list(batches_of(stream_of(source, processor), epochs=2, num_workers=2, persistent_workers=True))
    numbers = numbers_of(with_workers)
    assert sorted(numbers[:18]) == sorted(numbers[18:]) == list(range(18)) and numbers[:18] != numbers[18:]


def test_more_workers_than_shards_are_not_started(source, processor, caplog):
    with caplog.at_level(logging.WARNING):
        batches = batches_of(stream_of(source, processor, world_size=2), num_workers=8)
    assert batches.num_workers == 2 and "write more shards" in caplog.text


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_of_either_kind(source, processor, context):
    stream = stream_of(source, processor)
    next(iter(stream))  # used before the workers start
    batches = list(batches_of(stream, epochs=1, num_workers=2, multiprocessing_context=context))
    assert sorted(numbers_of(batches)) == list(range(18))


def test_pickled_streams_hold_no_decoder_and_no_clip(source, processor, clips):
    stream = stream_of(source, processor)
    next(iter(stream))
    data = pickle.dumps(stream)
    assert b"Decoder" not in data and b"torchcodec" not in data and clips[0][:200] not in data
    assert [shown(item) for item in pickle.loads(data)] == [shown(item) for item in stream]


# Going on in the middle


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("taken", [1, 5, 6, 8])
def test_a_stream_goes_on_where_it_was(source, processor, num_workers, taken):
    """In the middle of an epoch, at its end, in the second one; with pairs, whose partners come from what was read."""
    options = {"mismatch_probability": 0.5, "shuffle_buffer": 5, "partner_buffer": 4, "noise_db": (0.0, 5.0)}
    settings = {"num_workers": num_workers, "epochs": 3}
    whole = list(batches_of(stream_of(source, processor, **options), **settings))
    first = batches_of(stream_of(source, processor, **options), **settings)
    iterator = iter(first)
    begun = [next(iterator) for _ in range(taken)]
    state = json.loads(json.dumps(first.state_dict()))
    del iterator
    assert state["batches"] == taken
    second = batches_of(stream_of(source, processor, **options), **settings)
    second.load_state_dict(state)
    found = begun + list(second)
    assert len(found) == len(whole) and all(equal(a, b) for a, b in zip(found, whole, strict=True))


def test_what_was_read_before_is_not_decoded_again(source, processor, monkeypatch):
    first = batches_of(stream_of(source, processor), epochs=1)
    iterator = iter(first)
    for _ in range(3):
        next(iterator)
    decoded = []
    load_clip = MAAVTProcessor.load_clip
    monkeypatch.setattr(MAAVTProcessor, "load_clip", lambda *a, **k: decoded.append(1) or load_clip(*a, **k))
    second = batches_of(stream_of(source, processor), epochs=1)
    second.load_state_dict(first.state_dict(), empty_batches=True)
    batches = list(second.loader())
    assert batches[:3] == [{}, {}, {}] and len(batches) == 5 and len(decoded) == 18 - 12


def test_another_layout_is_refused(source, processor):
    state = batches_of(stream_of(source, processor)).state_dict()
    for options, name in (({"world_size": 2}, "world_size: 1, now 2"), ({"seed": 6}, "seed: 5, now 6")):
        with pytest.raises(ValueError, match=name):
            batches_of(stream_of(source, processor, **options)).load_state_dict(state)
    with pytest.raises(ValueError, match="batch_size: 4, now 3"):
        batches_of(stream_of(source, processor), batch_size=3).load_state_dict(state)
    with pytest.raises(ValueError, match="num_workers: 0, now 2"):
        batches_of(stream_of(source, processor), num_workers=2).load_state_dict(state)


# Pairs, leaks, broken clips


def test_partners_come_from_the_clips_before(source, processor, monkeypatch):
    rows = [source.reader(cells) for cells in source.splits["train"]]
    order = {row["video"]["bytes"]: index for index, row in enumerate(rows)}
    labels = [row["label"] for row in rows]
    calls = []
    load_clip = MAAVTProcessor.load_clip

    def record(self, cell, request):
        calls.append((order[cell["bytes"]], request.streams))
        return load_clip(self, cell, request)

    monkeypatch.setattr(MAAVTProcessor, "load_clip", record)
    stream = stream_of(source, processor, mismatch_probability=1.0, shuffle_buffer=1, partner_buffer=5)
    kinds = Counter()
    for epoch in range(5):
        stream.set_epoch(epoch)
        for index, item in enumerate(stream):
            if item["is_matched"]:
                assert calls.pop() == (index, ("video", "audio")) and not calls
                assert not any(labels[before] != labels[index] for before in range(max(0, index - 5), index))
                continue
            (picture, _), (sound, _) = calls
            calls.clear()
            partner = sound if picture == index else picture
            kinds[picture == index] += 1
            assert index in (picture, sound) and index - 5 <= partner < index and labels[partner] != labels[index]
            assert item["labels"] == -100 and shown(item) == int(rows[picture]["group"][1:])
    assert min(kinds.values()) > 20  # either stream is kept


def test_held_out_clips_may_not_come(source, processor):
    table = [source.reader(cells) for cells in source.splits["train"]]
    for held_out in ({table[7]["clip_id"]}, {"g7"}):
        with pytest.raises(ValueError, match="validated or tested on"):
            list(stream_of(source, processor, held_out=held_out))
    kept = list(stream_of(source, processor, keep=lambda row: row["label"] == 1))
    assert sorted(shown(item) for item in kept) == [1, 4, 7, 10, 13, 16]


def test_broken_clips_are_named_or_left_out(clips, processor, tmp_path, caplog):
    write_parquet(
        tmp_path, [b"no clip" if number == 2 else clip for number, clip in enumerate(clips)], range(6), "train", 1
    )
    source = open_source(tmp_path)
    with pytest.raises(ClipError, match=r"2\.mp4 \(\w+\): .*is not a media file"):
        list(stream_of(source, processor))
    with caplog.at_level(logging.WARNING):
        items = list(stream_of(source, processor, on_broken="skip"))
    assert sorted(shown(item) for item in items) == [0, 1, 3, 4, 5] and "skipped in the stream" in caplog.text


def test_bad_options_are_refused(source, processor):
    for options, name in (
        ({"mismatch_probability": 2}, "mismatch_probability"),
        ({"mismatch_probability": 0.5, "modalities": ("audio",)}, "modalities"),
        ({"shuffle_buffer": 0}, "shuffle_buffer"),
        ({"on_broken": "hide"}, "on_broken"),
    ):
        with pytest.raises(ValueError, match=name):
            stream_of(source, processor, **options)
    empty = stream_of(source, processor, keep=lambda row: False)
    with pytest.raises(ValueError, match="no clip"):
        next(iter(batches_of(empty)))


def test_a_damaged_shard_is_named(parquet, tmp_path):
    shutil.copytree(parquet, tmp_path / "shards")
    shard = sorted((tmp_path / "shards").glob("train-*"))[1]
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ValueError, match=f"{shard.name}: cannot be read .* get the file again"):
        open_source(tmp_path / "shards")


@pytest.mark.parametrize("lacking", ["audio", "video"])
def test_a_table_says_which_streams_a_file_has(clips, tmp_path, lacking):
    """Where one column holds both; the stream itself learns it while it reads."""
    one = tmp_path / "one.mp4"
    if lacking == "audio":
        write_clip(one, numbered_frames(10))
    else:
        write_clip(one, waveform=tone(1.0))
    mixed = [clips[0], one.read_bytes(), b"no clip", *clips[3:]]
    source = tar_source(tmp_path, mixed, lambda number: {"cls": number % 3}, class_names=NAMES)
    rows = list(as_table(source, "train"))
    assert rows[1][lacking] is None and rows[1]["video" if lacking == "audio" else "audio"] is not None
    assert all(row["video"] is not None and row["video"] == row["audio"] for row in [rows[0], *rows[2:]])
