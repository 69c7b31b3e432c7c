# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A folder as it is scraped: bad clips cost a line each, and what dies in a loader worker is named."""

import csv
import json
import logging
import multiprocessing
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from clip_factory import BAD, write_bad
from torch.utils.data import get_worker_info
from toy_run import CLASSES, write_backbone, write_config

import predict
import train as recipe
from modeling_maavt import MAAVTForAudioVisualClassification
from processing import MAAVTProcessor
from processing.clips import probe_clip
from processing.data import clip_checks
from processing.generate.clip_writing import write_clip
from training.common.commands import run_command


pytestmark = pytest.mark.skipif(
    multiprocessing.get_start_method() != "fork", reason="processes inherit the planted decoder"
)
WAYS = sorted(set(BAD) - {"text", "hls"})  # "lfs" and "sdp" are of their kinds


def write_good(path: Path, label: str, generator: np.random.Generator) -> Path:
    color, pitch = CLASSES[label]
    frames = np.clip(generator.normal(color, 12, (5, 32, 32, 3)), 0, 255).astype(np.uint8)
    audio = 0.3 * np.sin(2 * np.pi * pitch * np.arange(8000) / 16000) + generator.normal(0, 0.02, 8000)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_clip(path, frames, audio.astype(np.float32), fps=10, sampling_rate=16000)


def write_folder_config(folder: Path) -> Path:
    """The toy run on the folder `data`, one subfolder a class."""
    config = write_config(folder / "wild.yaml", folder / "data", write_backbone(folder / "vit"))
    config.write_text(config.read_text().replace("table: {split: split, group: group}\n", ""))
    return config


def die_of(name: str) -> None:
    """What a decoder does to its process at files that are named so."""
    if name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if name.startswith("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("stall"):
        signal.pause()


@pytest.mark.slow
def test_200_clips_of_which_40_are_bad_in_20_ways(tmp_path, monkeypatch, caplog):
    # 160 good clips, and two that are bad in each of 20 ways.
    data, generator = tmp_path / "data", np.random.default_rng(0)
    good = {}
    for number in range(160):
        label = list(CLASSES)[number % 3]
        name = f"{label}/clip_{number:03d}.mp4"
        good[name] = write_good(data / name, label, generator)
    wanted_reasons = {}
    for place, way in enumerate(WAYS):
        for copy in range(2):
            folder = data / list(CLASSES)[place % 3]
            path = write_bad(folder, way, 0.6 + 0.3 * copy + 0.01 * place, list(good.values())[place % 3 + 3 * copy])
            name = os.fsencode(path.relative_to(data)).decode("utf-8", "backslashreplace")
            wanted_reasons[name] = BAD[way]
    assert len(WAYS) == 20 and len(wanted_reasons) == 40

    def probe(source):
        die_of(Path(source["path"]).name)
        return probe_clip(source)

    monkeypatch.setattr(clip_checks, "probe_clip", probe)
    monkeypatch.setattr(clip_checks, "TIME_LIMIT", 10.0)
    with caplog.at_level(logging.INFO):
        results = recipe.main([str(write_folder_config(tmp_path)), "--num_train_epochs", "4"])

    # 40 lines, one for each bad clip, with its reason.
    lines = [line.strip().split(": ", 1) for line in caplog.text.splitlines() if re.match(r"  \w+/\w+_\d", line)]
    assert len(lines) == 40
    for name, reason in lines:
        assert re.search(wanted_reasons.pop(name), reason), (name, reason)
    # The table counts the others, each once, and its figure is that of the predictions.
    assert sum(count["clips"] for count in results["splits"].values()) == 160
    with open(tmp_path / "run" / "predictions.csv", newline="", encoding="utf-8") as stream:
        shown = [row for row in csv.DictReader(stream) if row["input"] == "both" and row["label"]]
    names = [row["clip_id"] for row in shown]
    assert len(set(names)) == len(names) == results["splits"]["test"]["clips"] and set(names) <= set(good)
    assert all(row["label"] == row["clip_id"].split("/")[0] for row in shown)
    figure = next(row["top1"] for row in results["rows"] if row["input"] == "both" and row["model"] == "maavt")
    assert figure == pytest.approx(np.mean([row["label"] == row["predicted"] for row in shown]), abs=1e-3)


@pytest.mark.parametrize("death", ["crash", "killed"])
def test_a_worker_that_dies_in_training_names_its_file(tmp_path, monkeypatch, death):
    generator = np.random.default_rng(0)
    for number in range(12):
        label = list(CLASSES)[number % 3]
        name = f"{death}_{number}.mp4" if number == 7 else f"good_{number}.mp4"
        write_good(tmp_path / "data" / label / name, label, generator)
    load_clip = MAAVTProcessor.load_clip

    def load(self, source, request):
        if get_worker_info() is not None:
            die_of(Path(source["path"]).name)
        return load_clip(self, source, request)

    monkeypatch.setattr(MAAVTProcessor, "load_clip", load)
    options = ["--dataloader_num_workers", "2", "--validation_fraction", "0.3", "--test_fraction", "0.3"]
    arguments = [str(write_folder_config(tmp_path)), *options]
    with pytest.raises(SystemExit, match=rf"error: green/{death}_7\.mp4: a loader worker has died") as caught:
        run_command(lambda: recipe.main(arguments))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("window", [(), ("--window", "0.3")])
def test_predict_keeps_the_results_of_good_files(tmp_path, monkeypatch, capsys, window):
    generator = np.random.default_rng(0)
    for name in ("a_good", "crash_b", "c_good", "killed_d", "e_good"):
        write_good(tmp_path / "clips" / f"{name}.mp4", "red", generator)
    (tmp_path / "clips" / "f_empty.mp4").write_bytes(b"")
    backbone = write_backbone(tmp_path / "vit")
    MAAVTForAudioVisualClassification.from_pretrained(backbone, num_labels=3).save_pretrained(tmp_path / "model")
    MAAVTProcessor.from_backbone(backbone).save_pretrained(tmp_path / "model")
    load_clip = MAAVTProcessor.load_clip

    def load(self, source, request):
        die_of(Path(source).name)
        return load_clip(self, source, request)

    monkeypatch.setattr(MAAVTProcessor, "load_clip", load)
    output, before = tmp_path / "out.json", multiprocessing.active_children()
    assert predict.main([str(tmp_path / "model"), str(tmp_path / "clips"), "--output", str(output), *window]) == 1
    records = json.loads(output.read_text())
    errors = {Path(record["file"]).stem: record["error"] for record in records if "error" in record}
    assert set(errors) == {"crash_b", "killed_d", "f_empty"}
    assert "SIGSEGV" in errors["crash_b"] and "SIGKILL" in errors["killed_d"] and "is empty" in errors["f_empty"]
    windows_each = 2 if window else 1
    predicted = [Path(record["file"]).stem for record in records if "predictions" in record]
    assert predicted == [name for name in ("a_good", "c_good", "e_good") for _ in range(windows_each)]
    printed = capsys.readouterr().err
    assert all(printed.count(f"{name}.mp4: ") == 1 for name in errors)
    assert set(multiprocessing.active_children()) <= set(before)
