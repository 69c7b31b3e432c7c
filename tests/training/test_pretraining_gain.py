# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Probes before and after pre-training: what they are given, and one small run over a set whose classes are easy."""

import json

import numpy as np
import pytest
import torch
from tiny_deepavfusion import all_close, pretraining_command, tiny_config, tiny_inputs, tiny_model
from toy_run import write_clips
from transformers import TrainingArguments

from modeling_deepavfusion import DeepAVFusionForPreTraining, DeepAVFusionModel
from training.deepavfusion.pretraining import PretrainingTrainer
from training.deepavfusion.pretraining_gain import Windows, main, pretrain, reconstruction_losses
from training.deepavfusion.probes import (
    INPUTS,
    averaged_states,
    by_label,
    few_rows,
    most_frequent_class,
    neighbor_scores,
    probe_accuracies,
    probe_accuracy,
)


def test_states_of_clips_and_of_labeled_windows():
    encoder = tiny_model(DeepAVFusionModel)
    clips = {**tiny_inputs(clips=5, windows=2), "labels": torch.zeros(5, 2)}
    rows = averaged_states(encoder, clips, INPUTS["both"], batch_size=2)
    assert {name: tuple(values.shape) for name, values in rows.items()} == dict.fromkeys(rows, (10, 32))
    with torch.no_grad():
        fusion = encoder(clips["pixel_values_videos"], clips["input_features"]).fusion_last_hidden_state
    all_close(rows["fusion"], fusion.mean(1))
    whole = averaged_states(encoder, {**clips, "labels": torch.zeros(5)}, INPUTS["both"], batch_size=5)
    all_close(whole["fusion"], rows["fusion"].unflatten(0, (5, 2)).mean(1))
    assert set(averaged_states(encoder, clips, INPUTS["audio"], 5)) == {"audio", "fusion"}
    assert torch.equal(by_label(torch.arange(8.0).view(2, 2, 2), torch.zeros(2)), torch.tensor([[1.0, 2], [5, 6]]))


def test_probe_learns_on_training_rows_alone():
    generator = np.random.default_rng(0)
    labels = {side: torch.arange(30) % 3 for side in ("train", "validation", "test")}
    sides = {side: {"labels": values} for side, values in labels.items()}
    rows = {side: np.eye(3)[values] + generator.normal(0, 0.1, (30, 3)) for side, values in labels.items()}
    assert probe_accuracy(rows, sides) == 1
    assert probe_accuracy({**rows, "test": rows["test"][:, [1, 2, 0]]}, sides) == 0
    found = probe_accuracies("both", rows, sides, [1, 5])
    assert found["both"] == 1 and found.keys() == {"both", "both_1", "both_5"} and found["both_5"] > 0.9
    for count in (1, 5, 20):
        chosen = few_rows(labels["train"].numpy(), count, seed=0)
        assert np.bincount(labels["train"].numpy()[chosen]).tolist() == [min(count, 10)] * 3
        assert len(set(chosen)) == len(chosen)
    assert few_rows(labels["train"].numpy(), 1, 0).tolist() != few_rows(labels["train"].numpy(), 1, 1).tolist()
    sides["train"] = {"labels": torch.tensor([2, 2, 0])}
    assert most_frequent_class(sides) == pytest.approx(1 / 3)


def test_segments_without_a_label_count_in_no_figure():
    """Half of the segments have no label, and the features of class 0."""
    labels = torch.stack([torch.arange(12) % 3, torch.full((12,), -100)], dim=1)  # (12, 2)
    states = torch.nn.functional.one_hot(labels.clamp(0), 3).float() + 0.01 * torch.rand(12, 2, 3)  # (12, 2, 3)
    splits = dict.fromkeys(("train", "validation", "test"), {"labels": labels})
    rows = dict.fromkeys(splits, by_label(states, labels).numpy())
    assert rows["test"].shape == (12, 3)
    assert probe_accuracies("both", rows, splits, [2]) == {"both": 1, "both_2": 1}
    assert most_frequent_class(splits) == pytest.approx(1 / 3)
    # Each labeled segment finds its class, each unlabeled one another unlabeled one.
    vectors = torch.eye(6)[torch.where(labels < 0, 3 + torch.arange(12)[:, None] % 3, labels)].flatten(0, 1)
    wrong = labels.clone()
    wrong[:, 0] = torch.arange(12)  # no two of a class
    assert neighbor_scores({"image": vectors}, labels.flatten())["image"] == 1
    assert neighbor_scores({"image": vectors}, wrong.flatten())["image"] == 0


def test_losses_do_not_depend_on_the_batch():
    model = tiny_model(DeepAVFusionForPreTraining, image_mask_ratio=0.5, audio_mask_ratio=0.5)
    windows = Windows(tiny_inputs(clips=3, windows=2))
    assert len(windows) == 6 and windows[0]["input_features"].shape == (1, 8, 12)
    state = torch.get_rng_state()
    losses = reconstruction_losses(model, windows, 6)
    assert losses == reconstruction_losses(model, windows, 6) and torch.equal(state, torch.get_rng_state())
    assert losses["image_loss"] == pytest.approx(reconstruction_losses(model, windows, 4)["image_loss"], rel=0.2)


def test_losses_of_a_model_on_another_device():
    """The model gets all tensors on its device, "meta" here, and leaves every generator as it was."""

    class Elsewhere(torch.nn.Linear):
        config = tiny_config()

        def forward(self, frames, spectrograms, image_noise, audio_noise, return_dict):
            assert {each.device.type for each in (frames, spectrograms, image_noise, audio_noise)} == {"meta"}
            assert image_noise.shape == (2, 16) and audio_noise.shape == (2, 6)
            return dict.fromkeys(("image_loss", "audio_loss"), torch.tensor(0.5))

    model = Elsewhere(1, 1, device="meta")
    assert reconstruction_losses(model, Windows(tiny_inputs(clips=4)), 2) == {"image_loss": 0.5, "audio_loss": 0.5}


def test_pretraining_is_resumed_from_its_checkpoint(tmp_path, monkeypatch):
    steps, training_step = [], PretrainingTrainer.training_step
    counted = lambda *args: (steps.append(1), training_step(*args))[1]  # noqa: E731
    monkeypatch.setattr(PretrainingTrainer, "training_step", counted)
    options = {"output_dir": tmp_path, "use_cpu": True, "report_to": "none", "remove_unused_columns": False}
    options |= {"save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 2}
    weights = []
    for more in ({"max_steps": 2}, {"max_steps": 2, "resume_from_checkpoint": str(tmp_path / "checkpoint-1")}):
        model = tiny_model(DeepAVFusionForPreTraining, image_mask_ratio=0.5, audio_mask_ratio=0.5)
        pretrain(model, Windows(tiny_inputs(clips=4)), 0.0, TrainingArguments(**options, **more))
        weights.append(model.state_dict())
    assert len(steps) == 2 + 1
    torch.testing.assert_close(*weights)


def test_small_run(tmp_path):
    clips = write_clips(tmp_path / "data")
    settings = {"probe_windows": 2, "pretraining_windows": 3, "max_steps": 6, "per_device_train_batch_size": 9}
    settings["examples_per_class"] = 2
    words = pretraining_command(clips, tmp_path / "run", seconds=0.25, results=tmp_path / "committed", **settings)
    table = main(words)
    before, after = table["encoder before pre-training"], table["encoder after pre-training"]
    assert table["gain"]["audio"] == pytest.approx(after["audio"] - before["audio"])
    assert after["image_loss"] < before["image_loss"] and table["most frequent class"]["both"] == pytest.approx(1 / 3)
    record = json.loads((tmp_path / "committed.json").read_text())
    assert 0 <= before["both_2"] <= 1 and "audio, 2 a class" in (tmp_path / "committed.md").read_text()
    assert record["facts"]["test"] == "6 clips" and str(tmp_path) not in (tmp_path / "committed.md").read_text()
    assert (tmp_path / "run" / "seed_0" / "reconstructions.png").is_file()
    (tmp_path / "run" / "seed_0" / "reconstructions.png").unlink()
    assert main(words) == table and not (tmp_path / "run" / "seed_0" / "reconstructions.png").exists()
    with pytest.raises(ValueError, match="output_dir"):
        main([*words, "--max_steps", "7"])
