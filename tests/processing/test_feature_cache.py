# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The feature cache: the same items without a decoder, built in pieces, never half, never stale."""

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clip_factory import numbered_frames, tone
from datasets import Dataset, DatasetDict
from torch.utils.data import ConcatDataset, DataLoader

from processing.clips import ClipError, ClipRequest
from processing.data import feature_building, feature_shards
from processing.data.augmentation import ClipAugmentation
from processing.data.clip_dataset import ClipDataset
from processing.data.clip_tables import build_clip_table
from processing.data.collators import AudioVisualCollator
from processing.data.engines import Engine
from processing.data.feature_cache import build_feature_cache
from processing.feature_extraction_maavt import MAAVTFeatureExtractor
from processing.generate.clip_writing import write_clip
from processing.processing_maavt import MAAVTProcessor
from processing.video_processing_maavt import MAAVTVideoProcessor


CLIPS = 12
BFLOAT16 = {"rtol": 2**-8, "atol": 2**-8}  # 8 bits of mantissa


def make_processor(**geometry):
    sound = MAAVTFeatureExtractor(
        sampling_rate=4000, n_fft=256, win_length=256, hop_length=62, num_bins=32, num_frames=32
    )
    return MAAVTProcessor(sound, MAAVTVideoProcessor(size={"height": 32, "width": 48}, **geometry))


@pytest.fixture(scope="module")
def processor():
    return make_processor()


def write_folder(folder: Path, clips: int = CLIPS, **changes) -> Path:
    """Clip n shows numbers from n on and has a tone of its own; every second row is a window of it."""
    rows = ["file_name,label,group,start,end,split"]
    for number in range(clips):
        frames = numbered_frames(number + 10)[number:]
        parts = {"frames": frames, "waveform": tone(0.5, frequency=300 + 60 * number)} | changes.get(number, {})
        write_clip(folder / f"{number}.mp4", parts["frames"], parts["waveform"], fps=20)
        start, end = ("0.1", "0.5") if number % 2 else ("0", "0.5")
        rows.append(
            f"{number}.mp4,c{number % 3},g{number // 2},{start},{end},{'train' if number // 2 % 4 else 'test'}"
        )
    (folder / "metadata.csv").write_text("\n".join(rows))
    return folder


def read_tables(folder: Path, **options) -> DatasetDict:
    return build_clip_table(folder, check="none", validation_fraction=0, test_fraction=0, **options)[0]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return read_tables(write_folder(tmp_path_factory.mktemp("clips")))


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(feature_building, "SHARD_CLIPS", 3)


@pytest.fixture
def no_decoder(monkeypatch):
    """From the moment it is called, opening a clip is an error."""

    def forbid():
        def refuse(*arguments, **options):
            raise AssertionError("a decoder was opened")

        monkeypatch.setattr("processing.clips.open_file", refuse)

    return forbid


def assert_same(plain: ClipDataset, cached: ClipDataset, indices, **tolerance) -> None:
    for index in indices:
        expected, found = plain[index], cached[index]
        assert expected.keys() == found.keys() and plain.pair(index) == cached.pair(index)
        for name, value in expected.items():
            if name == "input_features":
                assert found[name].dtype == torch.float32
                torch.testing.assert_close(found[name], value, **tolerance)
            else:
                assert torch.equal(found[name], value), (index, name)


@pytest.mark.parametrize(
    ("forms", "options", "tolerance"),
    [
        ({}, {}, BFLOAT16),
        ({}, {"augmentation": ClipAugmentation(None, flip=0, gain_db=0)}, BFLOAT16),
        ({"audio": "waveform"}, {"noise_db": (-5.0, 10.0)}, {"rtol": 0, "atol": 2e-2}),
        ({"frames": "decoded"}, {"augmentation": ClipAugmentation(gain_db=0, time_mask=0)}, BFLOAT16),
        (
            {"frames": "decoded", "audio": "waveform"},
            {"augmentation": ClipAugmentation(), "noise_db": 0.0},
            {"rtol": 0, "atol": 2e-2},
        ),
    ],
)
def test_items_are_those_without_the_cache(tables, processor, tmp_path, no_decoder, forms, options, tolerance):
    cache = build_feature_cache(tmp_path, processor, tables, num_frames=2, **forms)
    options = {"training": True, "mismatch_probability": 0.5, "num_frames": 2, "seed": 3, **options}
    plain = ClipDataset(tables["train"], processor, **options)
    cached = ClipDataset(cache.tables["train"], cache, **options)
    expected = []
    for epoch in range(2):
        plain.set_epoch(epoch)
        expected += [plain[index] for index in range(len(plain))]
    assert not all(item["is_matched"] for item in expected)
    no_decoder()
    for epoch in range(2):
        cached.set_epoch(epoch)
        for index in range(len(cached)):
            found, wanted = cached[index], expected[epoch * len(cached) + index]
            assert found.keys() == wanted.keys()
            torch.testing.assert_close(found.pop("input_features"), wanted.pop("input_features"), **tolerance)
            assert all(torch.equal(found[name], wanted[name]) for name in wanted), (epoch, index)


def test_evaluation_and_single_streams(tables, processor, tmp_path, no_decoder):
    cache = build_feature_cache(tmp_path, processor, tables, num_frames=2)
    options = {"num_frames": 2, "mismatched_copies": True}
    plain, cached = (
        ClipDataset(tables["test"], processor, **options),
        ClipDataset(cache.tables["test"], cache, **options),
    )
    assert_same(plain, cached, range(len(plain)), **BFLOAT16)
    assert [plain.describe(index) for index in range(8)] == [cached.describe(index) for index in range(8)]
    sound = ClipDataset(tables["test"], processor, modalities=("audio",))[0]
    picture = ClipDataset(tables["test"], processor, modalities=("video",), num_frames=2)[0]
    no_decoder()
    found = ClipDataset(cache.tables["test"], cache, modalities=("audio",))[0]
    assert "pixel_values_videos" not in found
    torch.testing.assert_close(found["input_features"], sound["input_features"], **BFLOAT16)
    found = ClipDataset(cache.tables["test"], cache, modalities=("video",), num_frames=2)[0]
    assert "input_features" not in found and torch.equal(found["pixel_values_videos"], picture["pixel_values_videos"])


@pytest.mark.parametrize("geometry", [{"crop_box": (0.5, 0.1, 1.0, 0.8)}, {"frame_grid": (1, 2)}])
def test_geometry_is_done_once(tables, tmp_path, geometry):
    processor = make_processor(**geometry)
    cache = build_feature_cache(tmp_path, processor, tables, num_frames=2)
    plain = ClipDataset(tables["train"], processor, num_frames=2)
    assert_same(plain, ClipDataset(cache.tables["train"], cache, num_frames=2), [0, 3], **BFLOAT16)
    assert cache.video_processor is processor.video_processor  # what is saved with the model is untouched
    assert getattr(processor.video_processor, next(iter(geometry))) is not None


def test_segments_have_their_own_frames(tables, tmp_path):
    sound = MAAVTFeatureExtractor(
        sampling_rate=4000, n_fft=256, win_length=256, hop_length=62, num_bins=32, num_frames=16, num_segments=2
    )
    processor = MAAVTProcessor(sound, MAAVTVideoProcessor(size={"height": 32, "width": 32}))
    cache = build_feature_cache(tmp_path, processor, tables, num_frames=4)
    plain = ClipDataset(tables["train"], processor, num_frames=4)
    assert plain[0]["input_features"].shape == (2, 32, 16)
    assert_same(plain, ClipDataset(cache.tables["train"], cache, num_frames=4), [0, 1, 2], **BFLOAT16)


@pytest.mark.parametrize(("audio", "noise"), [("spectrogram", None), ("waveform", (0.0, 10.0))])
def test_segments_with_windows_of_their_own(tables, processor, tmp_path, no_decoder, audio, noise):
    table = tables["train"]
    table = table.add_column("segment_labels", [[row["label"], (row["label"] + 1) % 3] for row in table])
    table = table.add_column("segment_windows", [[[0.1, 0.25], [0.2, 0.5]]] * len(table))
    cache = build_feature_cache(tmp_path, processor, {"train": table}, num_frames=4, audio=audio)
    assert len(cache.shards["video"].clips) == 2 * len(table)
    options = {"num_frames": 4, "training": True, "noise_db": noise, "seed": 2}
    plain = ClipDataset(table, processor, **options)
    expected = [plain[index] for index in range(len(table))]
    no_decoder()
    cached = ClipDataset(cache.tables["train"], cache, **options)
    for index, wanted in enumerate(expected):
        found = cached[index]
        assert found["pixel_values_videos"].shape[0] == 4 and found["input_features"].shape[0] == 2
        tolerance = BFLOAT16 if noise is None else {"rtol": 0, "atol": 2e-2}
        torch.testing.assert_close(found.pop("input_features"), wanted.pop("input_features"), **tolerance)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def embedded(table: Dataset) -> Dataset:
    """The same clips as bytes."""
    cells = [{"path": None, "bytes": Path(cell["path"]).read_bytes()} for cell in table["video"]]
    for stream in ("video", "audio"):
        feature = table.features[stream]
        table = table.remove_columns(stream).add_column(stream, cells, feature=feature)
    return table


def test_clips_held_as_bytes(tables, processor, tmp_path, no_decoder):
    table = embedded(tables["train"])
    plain = ClipDataset(table, processor, num_frames=2)
    expected = [plain[index] for index in range(4)]
    cache = build_feature_cache(tmp_path, processor, {"train": table}, num_frames=2)
    no_decoder()
    cached = ClipDataset(cache.tables["train"], cache, num_frames=2)
    assert all(torch.equal(cached[i]["pixel_values_videos"], expected[i]["pixel_values_videos"]) for i in range(4))
    assert all(cell["bytes"] is None for cell in cache.tables["train"]["video"])  # the rows have become light


def test_missing_streams_stay_missing(processor, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    write_folder(folder, 6)
    write_clip(folder / "0.mp4", numbered_frames(10), None, fps=20)
    write_clip(folder / "1.mp4", None, tone(0.5))
    tables = read_tables(folder)
    cache = build_feature_cache(tmp_path / "cache", processor, tables, num_frames=2)
    rows = {name: (split, row) for split in tables for row, name in enumerate(tables[split]["clip_id"])}
    for name, absent in (("0.mp4@0.000-0.500", "audio"), ("1.mp4@0.100-0.500", "video")):
        split, row = rows[name]
        options = {"num_frames": 2, "on_missing": "none"}
        plain = ClipDataset(tables[split], processor, **options)
        cached = ClipDataset(cache.tables[split], cache, **options)
        assert plain[row].keys() == cached[row].keys() and not cached[row][f"has_{absent}"]
        with pytest.raises(ClipError, match=f"{absent}.*on_missing"):
            ClipDataset(cache.tables[split], cache, num_frames=2)[row]


# Building


def test_nothing_is_decoded_twice_and_splits_do_not_matter(tables, processor, tmp_path, no_decoder, small_shards):
    first = build_feature_cache(tmp_path, processor, tables, num_frames=2)
    assert len(list(tmp_path.glob("*/*.arrow"))) == 2 * CLIPS // 3
    no_decoder()
    build_feature_cache(tmp_path, processor, tables, num_frames=2)
    swapped = DatasetDict(train=tables["test"], test=tables["train"])
    build_feature_cache(tmp_path, processor, swapped, num_frames=2)
    only_audio = build_feature_cache(tmp_path, processor, tables, num_frames=2, streams=("audio",))
    assert only_audio.shards["audio"].folder == first.shards["audio"].folder
    with pytest.raises(ClipError, match="a decoder was opened"):  # the guard guards
        build_feature_cache(tmp_path, processor, tables, num_frames=4)


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_build_it(tables, processor, tmp_path, small_shards, context):
    cache = build_feature_cache(
        tmp_path, processor, tables, num_frames=2, engine=Engine(workers=2, start_method=context)
    )
    assert len(list(tmp_path.glob("*/*.arrow"))) == 2 * CLIPS // 3
    plain = ClipDataset(tables["train"], processor, num_frames=2)
    assert_same(plain, ClipDataset(cache.tables["train"], cache, num_frames=2), range(8), **BFLOAT16)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_files_and_cache_alike(tables, processor, tmp_path, context):
    cache = build_feature_cache(tmp_path, processor, tables, num_frames=2)
    options = {"num_frames": 2, "training": True, "mismatch_probability": 0.5}
    dataset = ConcatDataset(
        [ClipDataset(tables["train"], processor, **options), ClipDataset(cache.tables["train"], cache, **options)]
    )
    for index in (0, 8):
        dataset[index]  # used before the workers start
    loader = DataLoader(dataset, 4, collate_fn=AudioVisualCollator(), num_workers=2, multiprocessing_context=context)
    batches = list(loader)
    for index in range(len(dataset)):
        item, batch = dataset[index], batches[index // 4]
        assert all(torch.equal(batch[name][index % 4], value) for name, value in item.items())


def test_pickled_data_sets_hold_no_open_file_and_no_pixels(tables, processor, tmp_path):
    cache = build_feature_cache(tmp_path, processor, tables, num_frames=2)
    cached = ClipDataset(cache.tables["train"], cache, num_frames=2)
    cached[0]
    data = pickle.dumps(cached)
    assert b"RecordBatch" not in data and b"Decoder" not in data
    assert torch.equal(pickle.loads(data)[1]["pixel_values_videos"], cached[1]["pixel_values_videos"])
    plain = ClipDataset(tables["train"], processor, num_frames=2)
    plain[0]
    data = pickle.dumps(plain)
    assert b"Decoder" not in data and b"torchcodec" not in data and b"Container" not in data


def test_an_interrupted_build_goes_on(tables, processor, tmp_path, small_shards, monkeypatch):
    decoded = []
    load_clip = MAAVTProcessor.load_clip

    def stop_at_eight(self, source, request):
        decoded.append(Path(source["path"]).name)
        if len(decoded) == 8:
            raise KeyboardInterrupt
        return load_clip(self, source, request)

    monkeypatch.setattr(MAAVTProcessor, "load_clip", stop_at_eight)
    with pytest.raises(KeyboardInterrupt):
        build_feature_cache(tmp_path, processor, tables, num_frames=2)
    assert len(list(tmp_path.glob("video-*/*.arrow"))) == 2  # 8 clips in shards of 3: two are whole
    assert list(tmp_path.glob("*/.*.part*"))
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/*.arrow")}
    cache = build_feature_cache(tmp_path, processor, tables, num_frames=2)
    assert len(decoded) == 8 + CLIPS - 6
    assert not list(tmp_path.glob("*/.*.part*"))
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())
    plain = ClipDataset(tables["train"], processor, num_frames=2)
    assert_same(plain, ClipDataset(cache.tables["train"], cache, num_frames=2), range(8), **BFLOAT16)


KILLED = """
import sys, time
from processing.data import feature_building, feature_cache
from processing.processing_maavt import MAAVTProcessor
from test_feature_cache import make_processor, read_tables

feature_building.SHARD_CLIPS = 2
load_clip = MAAVTProcessor.load_clip
def slowly(self, *arguments, **options):
    time.sleep(0.1)
    return load_clip(self, *arguments, **options)
MAAVTProcessor.load_clip = slowly
feature_cache.build_feature_cache(sys.argv[1], make_processor(), read_tables(sys.argv[2]), num_frames=2)
"""


def test_a_killed_build_leaves_whole_shards(tables, processor, tmp_path, monkeypatch):
    folder = Path(tables["train"][0]["video"]["path"]).parent
    root, tests = tmp_path / "cache", Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tests.parent, tests, Path(__file__).parent)))}
    command = [sys.executable, "-c", KILLED, str(root), str(folder)]
    builder = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.time() + 400
    while len(list(root.glob("audio-*/*.json"))) < 3 and builder.poll() is None and time.time() < deadline:
        time.sleep(0.05)  # settings.json and two shards
    builder.send_signal(signal.SIGKILL)
    assert builder.wait() == -signal.SIGKILL
    whole = {stream: len(list(root.glob(f"{stream}-*/*.json"))) - 1 for stream in ("audio", "video")}
    assert 2 <= whole["audio"] < CLIPS // 2
    decoded = []
    load_clip = MAAVTProcessor.load_clip
    monkeypatch.setattr(
        MAAVTProcessor,
        "load_clip",
        lambda self, source, request: decoded.append(request.streams) or load_clip(self, source, request),
    )
    cache = build_feature_cache(root, processor, tables, num_frames=2)
    for stream, shards in whole.items():  # the kill may fall between the two shards of the same clips
        assert sum(stream in streams for streams in decoded) <= CLIPS - 2 * shards
    assert not list(root.glob("*/.*.part*"))
    plain = ClipDataset(tables["train"], processor, num_frames=2)
    assert_same(plain, ClipDataset(cache.tables["train"], cache, num_frames=2), range(8), **BFLOAT16)


def test_other_settings_have_another_fingerprint(tables, processor, tmp_path, caplog):
    first = build_feature_cache(tmp_path, processor, tables, num_frames=2)
    with caplog.at_level(logging.WARNING):
        second = build_feature_cache(tmp_path, processor, tables, num_frames=4)
    assert first.shards["video"].folder != second.shards["video"].folder
    assert first.shards["audio"].folder == second.shards["audio"].folder
    assert "num_frames: 2, now 4" in caplog.text and first.shards["video"].folder.name in caplog.text
    caplog.clear()
    larger = make_processor()
    larger.video_processor.size = {"height": 40, "width": 40}
    larger.feature_extractor.log_offset = 1e-4
    with caplog.at_level(logging.WARNING):
        third = build_feature_cache(tmp_path, larger, tables, num_frames=2)
    assert "geometry.size.height: 32, now 40" in caplog.text
    assert "log_offset" in caplog.text and "now 0.0001" in caplog.text
    assert third.shards["audio"].folder != first.shards["audio"].folder
    darker = make_processor(image_mean=[0.2, 0.2, 0.2])  # comes after what is cached
    assert (
        build_feature_cache(tmp_path, darker, tables, num_frames=2).shards["video"].folder
        == first.shards["video"].folder
    )
    found = ClipDataset(first.tables["train"], first, num_frames=2)
    with pytest.raises(ValueError, match="num_frames=4, but the feature cache holds 2"):
        ClipDataset(first.tables["train"], first, num_frames=4)[0]
    assert len(found) == 8


def test_changed_files_are_named_and_decoded_anew(processor, tmp_path, caplog, small_shards):
    folder = tmp_path / "clips"
    folder.mkdir()
    tables = read_tables(write_folder(folder, 6))
    build_feature_cache(tmp_path / "cache", processor, tables, num_frames=2)
    write_clip(folder / "2.mp4", numbered_frames(210)[200:], tone(0.5, frequency=1500), fps=20)
    with caplog.at_level(logging.INFO):
        cache = build_feature_cache(tmp_path / "cache", processor, tables, num_frames=2)
    assert (
        "1 of 6 clips are to be decoded" in caplog.text and "2.mp4 has changed since it was cached in" in caplog.text
    )
    assert any(str(shard) in caplog.text for shard in (tmp_path / "cache").glob("*/*.arrow"))
    plain, cached = (ClipDataset(t["train"], p, num_frames=2) for t, p in ((tables, processor), (cache.tables, cache)))
    assert_same(plain, cached, range(len(plain)), **BFLOAT16)
    (folder / "2.mp4").unlink()
    with pytest.raises(ClipError, match="2.mp4.*no such file"):
        build_feature_cache(tmp_path / "cache", processor, tables, num_frames=2)


def test_a_clip_that_ends_its_process_is_named_and_stops_nothing_else(processor, tmp_path, small_shards, monkeypatch):
    """Its shard comes again clip by clip."""
    folder = tmp_path / "clips"
    folder.mkdir()
    tables = read_tables(write_folder(folder, 6))
    load_clip = MAAVTProcessor.load_clip

    def end_on_two(self, source, request):
        if Path(source["path"]).name == "2.mp4":
            os.kill(os.getpid(), signal.SIGKILL)
        return load_clip(self, source, request)

    monkeypatch.setattr(MAAVTProcessor, "load_clip", end_on_two)  # the processes are forked
    with pytest.raises(
        ClipError, match=r"1 of 6 clips cannot be decoded(.|\n)*2.mp4: the decoder crashed \(SIGKILL\)"
    ):
        build_feature_cache(tmp_path / "cache", processor, tables, num_frames=2, engine=Engine(workers=2))
    listed = [json.loads(file.read_text())["clips"] for file in (tmp_path / "cache").glob("video-*/[!s]*.json")]
    assert sum(map(len, listed)) == 5


def test_broken_clips_are_all_named_and_stop_nothing_else(processor, tmp_path, small_shards):
    folder = tmp_path / "clips"
    folder.mkdir()
    tables = read_tables(write_folder(folder, 6))
    for name in ("1.mp4", "4.mp4"):
        (folder / name).write_bytes(b"no clip")
    with pytest.raises(ClipError, match=r"2 of 6 clips cannot be decoded(.|\n)*4.mp4(.|\n)*1.mp4"):
        build_feature_cache(tmp_path / "cache", processor, tables, num_frames=2)
    listed = [
        json.loads(f.read_text()) for f in (tmp_path / "cache").glob("video-*/*.json") if f.name != "settings.json"
    ]
    assert sum(len(shard["clips"]) for shard in listed) == 4


def test_a_shard_cut_off_later_is_named(tables, processor, tmp_path):
    cache = build_feature_cache(tmp_path, processor, tables, num_frames=2)
    shard = next(cache.shards["video"].folder.glob("*.arrow"))
    with open(shard, "r+b") as file:
        file.truncate(shard.stat().st_size // 2)
    with pytest.raises(ValueError, match=f"{shard.name}.*cut off"):
        build_feature_cache(tmp_path, processor, tables, num_frames=2)


def test_room_is_checked(tables, processor, tmp_path, monkeypatch, small_shards):
    monkeypatch.setattr(feature_building.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(ValueError, match="feature_cache: about .* GB more are needed"):
        build_feature_cache(tmp_path, processor, tables, num_frames=2)


def test_what_comes_before_the_cached_form_is_refused(tables, processor, tmp_path):
    cache = build_feature_cache(tmp_path, processor, tables, num_frames=2)
    table = cache.tables["train"]
    for options, cure in (
        ({"augmentation": ClipAugmentation(gain_db=0)}, 'frames="decoded"'),
        ({"augmentation": ClipAugmentation(None, flip=0.5, gain_db=0)}, 'frames="decoded"'),
        ({"augmentation": ClipAugmentation(None, flip=0)}, 'audio="waveform"'),
        ({"noise_db": 0.0}, 'audio="waveform"'),
        ({"clip_seconds": 0.2}, "clip_seconds"),
    ):
        with pytest.raises(ValueError, match=cure):
            ClipDataset(table, cache, num_frames=2, training=True, **options)
    with pytest.raises(ValueError, match="`cache.tables`"):
        ClipDataset(tables["train"], cache, num_frames=2)[0]
    with pytest.raises(ValueError, match="resized"):
        build_feature_cache(tmp_path, processor, tables, num_frames=2, frames="small")


def test_waveforms_are_kept_below_their_own_peak(processor, tmp_path):
    """Louder than full scale and very soft sound alike: 16 bits below the peak."""
    folder = tmp_path / "clips"
    folder.mkdir()
    tables = read_tables(write_folder(folder, 3))
    write_clip(folder / "0.mp4", numbered_frames(10), tone(0.5, level=0.001), fps=20)
    cache = build_feature_cache(tmp_path / "cache", processor, tables, num_frames=2, audio="waveform")
    for split in tables:
        for row in range(len(tables[split])):
            options = (tables[split][row]["start"], tables[split][row]["end"])
            original = processor.load_clip(
                tables[split][row]["audio"], ClipRequest(*options, streams=("audio",))
            ).waveform
            kept = cache.load_clip(
                cache.tables[split][row]["audio"], ClipRequest(*options, streams=("audio",))
            ).waveform
            assert (kept - original).abs().max() <= original.abs().max() * (0.51 / 32767)
            assert np.isfinite(kept.numpy()).all() and original.abs().max() > 0


@pytest.mark.parametrize("part", ["values", "footer", "list"])
def test_a_shard_damaged_later_is_named(tables, processor, tmp_path, part):
    """Of equal length, with other bytes: a wrong value would train a model unseen."""
    cache = build_feature_cache(tmp_path, processor, tables, num_frames=2)
    shard = next(cache.shards["video"].folder.glob("*.arrow"))
    damaged = shard.with_suffix(".json") if part == "list" else shard
    data = bytearray(damaged.read_bytes())
    position = {"values": len(data) // 2, "footer": len(data) - 200, "list": 0}[part]
    data[position : position + 64] = bytes(byte ^ 255 for byte in data[position : position + 64])
    damaged.unlink()  # the open file keeps its bytes
    damaged.write_bytes(data)
    feature_shards._open_shard.cache_clear()
    with pytest.raises(ValueError, match=f"{damaged.name}: the file is damaged; delete (it|{shard.stem}.json) and"):
        again = build_feature_cache(tmp_path, processor, tables, num_frames=2)
        for clip in again.shards["video"].clips.values():
            again.shards["video"].read(clip)
