# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""From the files of a data set to a table of results: each set is prepared, and trained for one epoch by its recipe."""

import csv
import sys
from pathlib import Path

import pytest
from tiny_sets import (
    ClipCopies,
    vggsounder_package,
    write_audioset,
    write_ave,
    write_kinetics_sounds,
    write_ravdess,
    write_vggsound,
)
from toy_run import write_backbone

import train as recipe
from processing.prepare.__main__ import parse_arguments, prepare


CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = ["--use_cpu", "true", "--bf16", "false", "--num_train_epochs", "1", "--dataloader_num_workers", "0"]
SMALL += ["--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "8", "--bootstrap_samples", "20"]
SMALL += ["--disable_tqdm", "true", "--model_config", "{contrastive_dim: 16, match_dim: 8}"]
NO_PAIRS = ["--mismatch_probability", "0"]  # a validation side of one clip or one actor has no pairs to tear apart
CASES = {  # recipe: the set's tree, options of preparation, options of training
    "ave": (write_ave, [], NO_PAIRS),
    "ave_paper": (write_ave, ["--background", "match"], []),
    "vggsound": (write_vggsound, [], ["--num_frames", "1", *NO_PAIRS]),
    "vggsound_paper": (write_vggsound, [], NO_PAIRS),
    "kinetics_sounds": (
        write_kinetics_sounds,
        ["--csv", "{root}/train.csv", "{root}/val.csv", "--classes", "{root}/classes.csv"],
        ["--num_frames", "1"],
    ),
    "vggsounder": (write_vggsound, ["--vggsounder"], ["--num_frames", "1", *NO_PAIRS]),
    "audioset": (write_audioset, [], ["--num_frames", "1"]),
    "ravdess": (write_ravdess, [], ["--num_frames", "1", *NO_PAIRS]),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> ClipCopies:
    return ClipCopies(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("backbone") / "vit")


@pytest.mark.parametrize("name", CASES)
def test_a_set_is_prepared_and_trained_by_its_recipe(name, clips, backbone, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write, preparation, training = CASES[name]
    root, out = write(tmp_path / "set", clips), tmp_path / "prepared"
    set_name = name.removesuffix("_paper").replace("vggsounder", "vggsound")
    if name == "vggsounder":
        monkeypatch.setitem(sys.modules, "vggsounder", vggsounder_package())
    preparation = [word.format(root=root) for word in preparation]
    prepare(parse_arguments([set_name, "--root", str(root), "--out", str(out), "--workers", "0", *preparation]))
    paths = ["--data", str(out), "--model_name_or_path", str(backbone), "--output_dir", str(tmp_path / "run")]
    config = CONFIGS / f"{name.replace('vggsounder', 'vggsound')}.yaml"
    results = recipe.main([str(config), *paths, *SMALL, *training])
    both = next(row for row in results["rows"] if row["input"] == "both")
    measured = "map" if name in ("audioset", "vggsounder") else "top1"
    assert 0 <= both[measured] <= 1 and both["clips"] > 0 and results["epochs"] == 1
    assert all(set(split["per_class"]) == set(results["label_names"]) for split in results["splits"].values())
    with open(tmp_path / "run" / "predictions.csv", newline="", encoding="utf-8") as stream:
        records = [record for record in csv.DictReader(stream) if record["input"] == "both"]
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "Skipped clips: none" not in card and "(missing)" in card
    if set_name == "ave":
        seconds = [record for record in records if record["clip_id"] == records[0]["clip_id"]]
        assert {record["segment"] for record in seconds} == {str(second) for second in range(10)}
        assert ("Background" in results["label_names"]) == (name == "ave")
        (row,) = results["segments"] if name == "ave_paper" else results["segments"][-1:]
        assert row["background"] == ("match logit" if name == "ave_paper" else "class") and row["input"] == "both"
        assert (
            row["num_segments"] == 10 * row["num_clips"] > 0 and "Seconds" in (tmp_path / "run/results.md").read_text()
        )
        if name == "ave":  # the same seconds as the table's, judged alike
            assert row["segment_accuracy"] == pytest.approx(both["top1"])
    if name == "vggsounder":
        found = results["vggsounder"]
        subsets = {(row["input"], row["subset"], row["k"]): row for row in found["rows"]}
        assert subsets["both", "all", 1]["num_clips"] == both["clips"] and ("audio", "a", 1) in subsets
        assert subsets["both", "av", 1]["num_clips"] < subsets["both", "all", 1]["num_clips"]
        assert found["modality_confusion"]["num_clips"] == both["clips"]
    if name == "ave_paper":  # a background second is a mismatched pair without a class
        unmatched = [record for record in records if record["is_matched"] == "False"]
        assert unmatched and not any(record["label"] for record in unmatched)
    if name == "audioset":
        shown = [record["labels"].split(";") for record in records if record["is_matched"] == "True"]
        assert shown and {label for labels in shown for label in labels} <= set(results["label_names"])
