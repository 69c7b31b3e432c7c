# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Whole runs on a feature cache and on a stream: the same training, resumed exactly, refused by name."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from datasets import Audio, Dataset, Features, Value, Video
from safetensors.torch import load_file
from toy_run import write_backbone, write_clips, write_config

import train as recipe
from modeling_maavt import MAAVTModel
from processing import MAAVTProcessor
from processing.data.engines import Engine
from training.maavt.arguments import parse_arguments
from training.maavt.data import build_tables
from training.maavt.feeding import cache_engine, cached_forms


REPOSITORY = Path(__file__).resolve().parents[2]
QUICK = ["--baseline", "false", "--bootstrap_samples", "10"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("toy")
    return str(write_config(folder / "toy.yaml", write_clips(folder / "data"), write_backbone(folder / "vit")))


@pytest.fixture(scope="module")
def shards(toy, tmp_path_factory) -> Path:
    """The toy clips, embedded, in Parquet: 4 shards to train on, one each to validate and test on."""
    folder = tmp_path_factory.mktemp("shards")
    tables = build_tables(parse_arguments([toy]))[0]
    for split, table in tables.items():
        label = table.features["label"]
        features = {"video": Video(decode=False), "label": label, "group": Value("string"), "clip_id": Value("string")}
        count = 4 if split == "train" else 1
        for shard in range(count):
            rows = [
                {**{key: row[key] for key in ("label", "group", "clip_id")}, "video": {"path": None, "bytes": clip}}
                for row in table.shard(count, shard)
                for clip in [Path(row["video"]["path"]).read_bytes()]
            ]
            name = f"{split}-{shard:05d}-of-{count:05d}.parquet"
            Dataset.from_list(rows, features=Features(features)).to_parquet(folder / name)
    return folder


@pytest.fixture(autouse=True)
def own_cache_and_short_pauses(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    if hasattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN"):  # seconds, once an epoch
        monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)


def losses(output: Path) -> list[float]:
    state = json.loads((output / "trainer_state.json").read_text())
    return [float(entry["loss"]) for entry in state["log_history"] if "loss" in entry]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "adapter" / "adapter_model.safetensors")


# Feature cache


def test_a_run_on_the_cache_is_the_run_without_it(toy, tmp_path, monkeypatch):
    arguments = ["--max_steps", "6", "--augmentation", "{gain_db: 0.0, random_resized_crop_scale: null}", *QUICK]
    recipe.main([toy, "--output_dir", str(tmp_path / "plain"), *arguments])
    cache = ["--feature_cache", str(tmp_path / "cache")]
    first = recipe.main([toy, "--output_dir", str(tmp_path / "first"), *arguments, *cache])
    assert len(list((tmp_path / "cache").iterdir())) == 3  # two streams and the lock
    monkeypatch.setattr(MAAVTProcessor, "load_clip", None)  # nothing is decoded any more
    second = recipe.main([toy, "--output_dir", str(tmp_path / "second"), *arguments, *cache])
    assert losses(tmp_path / "first") == losses(tmp_path / "second") and first["rows"] == second["rows"]
    assert losses(tmp_path / "first") == pytest.approx(losses(tmp_path / "plain"), abs=0.05)


@pytest.mark.parametrize(
    ("changes", "frames", "audio"),
    [
        ([], "resized", "spectrogram"),
        (["--augmentation", "{}"], "decoded", "waveform"),
        (["--augmentation", "{gain_db: 0.0}"], "decoded", "spectrogram"),
        (["--augmentation", "{random_resized_crop_scale: null, flip: 0.0}"], "resized", "waveform"),
        (["--train_noise_db", "0"], "resized", "waveform"),
        (["--evaluation_noise_db", "clean", "-5"], "resized", "waveform"),
    ],
)
def test_the_cached_form_is_the_latest_before_random_changes(toy, changes, frames, audio):
    assert cached_forms(parse_arguments([toy, *changes])) == {"frames": frames, "audio": audio}


def test_who_fills_the_cache(toy):
    assert cache_engine(parse_arguments([toy, "--cache_engine", "ray"])) == Engine("ray")
    assert cache_engine(parse_arguments([toy, "--dataloader_num_workers", "3"])) == Engine(workers=3)


def test_a_dry_run_builds_no_cache(toy, tmp_path):
    folders = ["--feature_cache", str(tmp_path / "cache"), "--block_states", str(tmp_path / "states")]
    recipe.main([toy, "--dry_run", *folders, "--model_config", "{prompt_start_layer: 1}"])
    assert not (tmp_path / "cache").exists() and not (tmp_path / "states").exists()


# Block states


def test_a_run_on_block_states_is_the_run_without_them(toy, tmp_path, monkeypatch):
    arguments = [toy, "--max_steps", "6", "--model_config", "{prompt_start_layer: 1}", "--bootstrap_samples", "10"]
    arguments += ["--retrieval", "true"]
    cache, states = ["--feature_cache", str(tmp_path / "cache")], ["--block_states", str(tmp_path / "states")]
    recipe.main([*arguments, "--output_dir", str(tmp_path / "plain")])
    expected = recipe.main([*arguments, *cache, "--output_dir", str(tmp_path / "cached")])
    calls = []
    block_states = MAAVTModel.block_states
    monkeypatch.setattr(MAAVTModel, "block_states", lambda *a, **k: calls.append(1) or block_states(*a, **k))
    found = recipe.main([*arguments, *cache, *states, "--output_dir", str(tmp_path / "kept")])
    assert calls and len(list((tmp_path / "states").glob("*-*"))) == 2
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "cached"), abs=2e-4)  # logged with 4 digits
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "plain"), abs=0.05)  # bfloat16 spectrograms
    mine, theirs = weights(tmp_path / "kept"), weights(tmp_path / "cached")
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, atol=1e-5, rtol=1e-4)
    top1 = [[row["top1"] for row in results["rows"]] for results in (found, expected)]
    assert top1[0] == top1[1] and found["retrieval"] == expected["retrieval"]

    calls.clear()
    recipe.main([*arguments, *cache, *states, "--output_dir", str(tmp_path / "again")])
    assert not calls and losses(tmp_path / "again") == losses(tmp_path / "kept")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--augmentation", "{}"], "clips that never change, but augmentation is set"),
        (["--train_noise_db", "0"], "train_noise_db"),
        (["--evaluation_noise_db", "clean", "-5"], "evaluation_noise_db"),
        (["--mixup_alpha", "0.4"], "mixup_alpha"),
        (["--tuning", "full"], "blocks that stay frozen, but tuning is set"),
        (["--lora_rank", "4"], "lora_rank"),
        (["--cache_gb", "1"], "leave cache_gb at 0"),
        (["--streaming"], "block_states: is not for a stream"),
        ([], "set model_config.prompt_start_layer above 0"),
        (
            ["--model_config", "{prompt_start_layer: 1, match_head: patches}"],
            "set model_config.match_head to bilinear",
        ),
    ],
)
def test_states_are_kept_only_of_what_never_changes(toy, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        recipe.main([toy, "--block_states", str(tmp_path / "states"), *changes])


# Streams


def test_a_run_on_a_stream(toy, shards, tmp_path):
    results = recipe.main([toy, "--data", str(shards), "--streaming", "--output_dir", str(tmp_path / "run"), *QUICK])
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["max_steps"] == 12  # 3 epochs of 15 clips in batches of 4
    evaluated = [entry["step"] for entry in state["log_history"] if "eval_top1" in entry]
    assert evaluated == [4, 8, 12]  # "epoch" counted in steps
    assert results["splits"]["train"]["clips"] == 15 and results["splits"]["test"]["clips"] == 6
    assert {row["clips"] for row in results["rows"]} == {6} and results["threshold"] is not None
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_a_stream_that_was_interrupted_trains_on_alike(toy, shards, tmp_path, monkeypatch):
    """Step 5 lies in the second pass over the clips; the file with the place saves decoding, not exactness."""
    arguments = [
        toy,
        "--data",
        str(shards),
        "--streaming",
        *QUICK,
        "--max_steps",
        "8",
        "--load_best_model_at_end",
        "0",
    ]
    arguments += ["--save_strategy", "steps", "--save_steps", "5", "--eval_strategy", "no"]
    arguments += ["--augmentation", "{}", "--gradient_accumulation_steps", "2", "--per_device_train_batch_size", "2"]
    whole, resumed, slow = tmp_path / "whole", tmp_path / "resumed", tmp_path / "slow"
    recipe.main([*arguments, "--output_dir", str(whole)])
    decoded = []
    load_clip = MAAVTProcessor.load_clip
    monkeypatch.setattr(MAAVTProcessor, "load_clip", lambda *a, **k: decoded.append(1) or load_clip(*a, **k))
    counts = []
    for output in (resumed, slow):
        shutil.copytree(whole / "checkpoint-5", output / "checkpoint-5")
        assert (output / "checkpoint-5" / "stream_state_0.json").is_file()
        if output == slow:
            (output / "checkpoint-5" / "stream_state_0.json").unlink()
        decoded.clear()
        recipe.main([*arguments, "--output_dir", str(output), "--resume_from_checkpoint", "true"])
        counts.append(len(decoded))
        assert losses(output) == losses(whole)
        found, expected = weights(output), weights(whole)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert counts[1] - counts[0] >= 20  # five steps of four clips were not decoded


def test_sides_that_the_stream_lacks_are_carved_out_by_group(toy, shards, tmp_path):
    folder = tmp_path / "train only"
    folder.mkdir()
    for file in shards.glob("train-*"):
        shutil.copy(file, folder)
    arguments = ["--validation_fraction", "0.3", "--test_fraction", "0.3", "--max_steps", "2", *QUICK]
    arguments += ["--mismatch_probability", "0", "--eval_strategy", "no", "--load_best_model_at_end", "0"]
    output = tmp_path / "run"
    results = recipe.main([toy, "--data", str(folder), "--streaming", "--output_dir", str(output), *arguments])
    counts = {side: entry["clips"] for side, entry in results["splits"].items()}
    assert sum(counts.values()) == 15 and min(counts.values()) > 0 and counts["test"] == results["rows"][0]["clips"]


def test_a_clip_on_two_sides_of_a_stream_stops_the_run(toy, shards, tmp_path):
    folder = tmp_path / "leaky"
    shutil.copytree(shards, folder)
    shutil.copy(next(shards.glob("train-00000*")), folder / "test-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="is validated or tested on and stands in the training stream"):
        recipe.main([toy, "--data", str(folder), "--streaming", "--output_dir", str(tmp_path / "run"), *QUICK])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--cache_gb", "1"], "cache_gb: is not for a stream"),
        (["--feature_cache", "x"], "feature_cache: is not for a stream"),
        (["--table", "{where: {glitch: 0}}"], "table.where: is not for a stream"),
        (["--table", "{window: 2}"], "table.window: is not for a stream"),
        (["--stream_options", "{shuffle_buffer: 0}"], "shuffle_buffer"),
    ],
)
def test_what_only_a_table_gives_is_refused(toy, shards, changes, message):
    with pytest.raises(ValueError, match=message):
        recipe.main([toy, "--data", str(shards), "--streaming", *changes])


def test_a_stream_of_unknown_length_needs_steps(toy, shards, tmp_path):
    import tarfile

    folder = tmp_path / "tars"
    folder.mkdir()
    (folder / "classes.txt").write_text("blue\ngreen\nred\n")
    for split in ("train", "validation", "test"):
        with tarfile.open(folder / f"{split}-0.tar", "w") as archive:
            for shard in sorted(shards.glob(f"{split}-*")):
                for row in Dataset.from_parquet(str(shard), cache_dir=str(tmp_path / "cache")).cast_column(
                    "video", Video(decode=False)
                ):
                    for ending, data in (("mp4", row["video"]["bytes"]), ("cls", str(row["label"]).encode())):
                        file = tmp_path / "member"
                        file.write_bytes(data)
                        archive.add(file, f"{row['group']}.{ending}")
    arguments = [toy, "--data", str(folder), "--streaming", "--output_dir", str(tmp_path / "run"), *QUICK]
    with pytest.raises(ValueError, match="set max_steps"):
        recipe.main(arguments)
    with pytest.raises(ValueError, match="set eval_strategy: steps and eval_steps"):
        recipe.main([*arguments, "--max_steps", "2"])
    arguments += ["--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "steps", "--save_steps", "2"]
    results = recipe.main([*arguments, "--max_steps", "2"])
    assert results["splits"]["train"]["clips"] is None and results["rows"][0]["clips"] == 6
    recipe.main([*arguments, "--max_steps", "2", "--dry_run"])


def test_feature_cache_and_memory_cache_exclude_each_other(toy):
    with pytest.raises(ValueError, match="leave cache_gb at 0"):
        recipe.main([toy, "--feature_cache", "x", "--cache_gb", "1"])


def test_sound_files_beside_the_picture_train_too(shards, tmp_path, toy):
    """Columns `video`, `audio` and `label` as on the Hub, with no preparation."""
    folder = tmp_path / "hub"
    folder.mkdir()
    for shard in shards.glob("*.parquet"):
        table = Dataset.from_parquet(str(shard), cache_dir=str(tmp_path / "cache"))
        table = table.cast_column("video", Video(decode=False))
        table = table.add_column("audio", table["video"][:], feature=Audio(decode=False))
        table.select_columns(["video", "audio", "label"]).to_parquet(folder / shard.name)
    arguments = ["--streaming", "--table", "{group: none}", "--max_steps", "2", "--modalities", "audio", *QUICK]
    results = recipe.main([toy, "--data", str(folder), "--output_dir", str(tmp_path / "run"), *arguments])
    assert {row["input"] for row in results["rows"]} == {"audio"}


@pytest.mark.slow
def test_two_processes_on_a_stream(toy, shards, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29641"]
    command = [*launch, str(REPOSITORY / "train.py"), toy, "--data", str(shards), "--streaming", *QUICK]
    command += ["--output_dir", str(tmp_path / "run"), "--ddp_backend", "gloo", "--per_device_train_batch_size", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "datasets")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, cwd=tmp_path)
    assert (tmp_path / "run" / "results.json").is_file(), done.stderr[-3000:]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {row["clips"] for row in results["rows"]} == {6}
    assert len(list((tmp_path / "run").glob("checkpoint-12/stream_state_*.json"))) == 2
