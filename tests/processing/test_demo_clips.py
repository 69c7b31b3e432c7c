# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The embedded demo: its clips, its cache, what either modality tells, and the tiny backbone."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from transformers import AutoImageProcessor, ViTForImageClassification, ViTModel

from processing.clips import load_clip, probe_clip
from processing.data.clip_tables import build_clip_table
from processing.generate.demo_clips import DemoSettings, demo_frames, demo_waveform, is_whole, write_demo
from training.tools.demo_backbone import BackboneSettings, read_record, sine_positions, train_backbone


SMALL = DemoSettings(num_train=40, num_validation=10, num_test=10)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("demo") / "demo", SMALL)


def modified(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_clips_are_real_files_split_by_source(demo):
    table, report = build_clip_table(demo)
    assert {side: len(part) for side, part in table.items()} == {"train": 40, "validation": 10, "test": 10}
    assert report["skipped"] == [] and report["split"] == "by the table"
    assert table["train"].features["label"].names == [str(digit) for digit in range(10)]
    groups = [group for part in table.values() for group in part["group"]]
    assert len(set(groups)) == 60
    info = probe_clip(table["train"][0]["video"])
    assert info.has_video and info.has_audio and (info.height, info.width) == (64, 64)
    assert info.sampling_rate == 16000 and info.duration == pytest.approx(0.5, abs=0.07)


def test_picture_and_sound_are_those_of_the_label(demo):
    digits = load_digits()
    quiet = replace(SMALL, video_noise=0.0, audio_noise=0.0, tone_loss=0.0)
    for row in build_clip_table(demo, check="none")[0]["test"]:
        source = int(row["group"].split("_")[1])
        assert digits.target[source] == row["label"]
        clip = load_clip(row["video"])
        clean = demo_frames(digits.images[source], quiet, np.random.default_rng(0))
        picture = clip.frames.float().mean((0, 1)).flatten()
        assert np.corrcoef(picture, clean[0].mean(-1).flatten())[0, 1] > 0.5
        # the two strongest of the seven tones are the label's, unless one was lost
        spectrum = np.abs(np.fft.rfft(clip.waveform.numpy(), n=16000))
        tones = np.array([697, 770, 852, 941, 1209, 1336, 1477])
        level = np.array([spectrum[tone - 3 : tone + 4].max() for tone in tones])
        sound = np.abs(np.fft.rfft(demo_waveform(row["label"], quiet, np.random.default_rng(0)), n=16000))
        expected = {tone for tone in tones if sound[tone - 3 : tone + 4].max() > 0.5 * sound.max()}
        assert len(expected) == 2 and set(tones[np.argsort(level)[-1:]]) <= expected


def test_it_is_written_once_and_mended(tmp_path):
    settings = replace(SMALL, num_train=4, num_validation=2, num_test=2)
    folder = write_demo(tmp_path / "demo", settings)
    first, content = modified(folder), (folder / "metadata.csv").read_text()
    write_demo(folder, settings)
    assert modified(folder) == first  # whole: not touched
    clip = sorted((folder / "clips").iterdir())[0]
    whole = clip.read_bytes()
    clip.write_bytes(whole[:100])
    assert not is_whole(folder, settings)
    write_demo(folder, settings)
    assert is_whole(folder, settings) and clip.read_bytes() == whole and clip.name in first
    clip.unlink()
    write_demo(folder, settings)
    assert clip.read_bytes() == whole  # the same seed, the same bytes
    (folder / "manifest.json").write_text("{")
    assert not is_whole(folder, settings)
    write_demo(folder, settings)
    write_demo(folder, replace(settings, seed=1))
    assert (folder / "metadata.csv").read_text() != content
    assert sorted(os.listdir(tmp_path)) == ["demo"]  # nothing temporary is left


def test_two_runs_write_the_same_bytes(tmp_path):
    """Without the encoder's option for it, 3 clips of 100 differ from run to run."""
    settings = DemoSettings(num_train=200, num_validation=5, num_test=5)
    manifests = [(write_demo(tmp_path / name, settings) / "manifest.json").read_text() for name in "abc"]
    assert manifests[0] == manifests[1] == manifests[2]


def test_it_never_replaces_something_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="not the demo"):
        write_demo(tmp_path, SMALL)
    with pytest.raises(ValueError, match="not the demo's backbone"):
        train_backbone(write_demo(tmp_path / "demo", replace(SMALL, num_train=4)), tmp_path, BackboneSettings())
    assert (tmp_path / "thesis.tex").exists()
    with pytest.raises(ValueError, match="1797 handwritten digits"):
        write_demo(tmp_path / "demo", DemoSettings(num_train=5000))
    with pytest.raises(ValueError, match="demo_clips --out"):
        train_backbone(tmp_path / "absent", tmp_path / "backbone")


def test_neither_modality_is_enough_and_both_are():
    """Probes of two frames and the sound on the validation digits; they read the points before any compression."""
    settings, digits = DemoSettings(), load_digits()
    count = settings.num_train + settings.num_validation
    order = np.random.default_rng(settings.seed).permutation(len(digits.target))[:count]
    pictures, sounds = [], []
    for source in order:
        picture, sound = (np.random.default_rng([settings.seed, source, stream]) for stream in (0, 1))
        frames = demo_frames(digits.images[source], settings, picture)
        pictures.append(frames[1::4, 4::8, 4::8, 0].mean(0).ravel() / 255)
        waveform = demo_waveform(digits.target[source], settings, sound)
        bins = np.abs(np.fft.rfft(waveform))[300:800]  # 2 Hz each: 600 to 1600 Hz
        sounds.append(np.log(bins.reshape(50, 10).max(1)))
    labels = digits.target[order]
    train, held = slice(0, settings.num_train), slice(settings.num_train, None)
    by_picture = LogisticRegression(C=0.3, max_iter=2000).fit(pictures[train], labels[train])
    by_sound = LogisticRegression(max_iter=2000).fit(sounds[train], labels[train])
    right_picture = by_picture.predict(pictures[held]) == labels[held]
    right_sound = by_sound.predict(sounds[held]) == labels[held]
    together = by_picture.predict_log_proba(pictures[held]) + by_sound.predict_log_proba(sounds[held])
    right_both = together.argmax(1) == labels[held]
    assert 0.7 < right_picture.mean() < 0.87 and 0.7 < right_sound.mean() < 0.87
    assert right_both.mean() > 0.95
    assert abs(np.corrcoef(right_picture, right_sound)[0, 1]) < 0.15  # what they lose is independent


def test_the_backbone_is_a_stock_vit_and_trained_once(tmp_path):
    demo = write_demo(tmp_path / "demo", replace(SMALL, video_noise=0.1))
    settings = BackboneSettings(num_steps=120, hidden_size=48, num_layers=2)
    state = torch.get_rng_state()
    measured = train_backbone(demo, tmp_path / "backbone", settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert measured["train_accuracy"] > 0.5  # of ten classes
    model = ViTForImageClassification.from_pretrained(tmp_path / "backbone")
    assert model.config.model_type == "vit" and model.config.id2label[3] == "3"
    ViTModel.from_pretrained(tmp_path / "backbone", add_pooling_layer=False)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "backbone")
    assert processor.size == {"height": 32, "width": 32} and list(processor.image_mean) == [0.5, 0.5, 0.5]
    first = modified(tmp_path / "backbone")
    assert train_backbone(demo, tmp_path / "backbone", settings) == measured
    assert modified(tmp_path / "backbone") == first
    weights = (tmp_path / "backbone" / "model.safetensors").read_bytes()
    (tmp_path / "backbone" / "model.safetensors").write_bytes(weights[:1000])
    assert read_record(tmp_path / "backbone") is None
    train_backbone(demo, tmp_path / "backbone", settings)
    assert (tmp_path / "backbone" / "model.safetensors").read_bytes() == weights  # seeded: bit for bit
    train_backbone(demo, tmp_path / "backbone", replace(settings, num_steps=1))
    record = json.loads((tmp_path / "backbone" / "demo_backbone.json").read_text())
    assert record["settings"]["num_steps"] == 1


def test_sine_positions_tell_places_apart():
    positions = sine_positions(4, 96)
    assert positions.shape == (16, 96)
    assert torch.equal(positions[0, :24], torch.zeros(24)) and positions.abs().max() <= 1
    distance = torch.cdist(positions, positions)
    assert distance[~torch.eye(16, dtype=torch.bool)].min() > 1
    assert distance[0, 1] < distance[0, 2] < distance[0, 3]
