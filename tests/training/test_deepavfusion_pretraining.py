# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The pre-training recipe: schedule and parameter groups, nearest-neighbor probe, reconstructions, one small run."""

import json
import math

import pytest
import torch
from PIL import Image
from tiny_deepavfusion import all_close, pretraining_command, tiny_model
from toy_run import write_clips
from transformers import AutoModelForPreTraining

from modeling_deepavfusion import DeepAVFusionForPreTraining
from modeling_deepavfusion.pretraining_and_classification_deepavfusion import patchify, unpatchify
from training.deepavfusion.pictures import reconstructed
from training.deepavfusion.pretraining import branch_ramp, is_of_branch, main, rate_share, warmup_then_cosine
from training.deepavfusion.probes import neighbor_scores


def test_schedule_of_the_paper():
    """200 epochs of 10 steps, 40 of warm-up, ViTs at their full rate from epoch 100."""
    assert warmup_then_cosine(0, 400, 2000) == 0 and warmup_then_cosine(200, 400, 2000) == 0.5
    assert warmup_then_cosine(400, 400, 2000) == 1 and warmup_then_cosine(1200, 400, 2000) == pytest.approx(0.5)
    assert warmup_then_cosine(2000, 400, 2000) == 0
    assert branch_ramp(0, 1000) == 0 and branch_ramp(500, 1000) == pytest.approx(0.5) and branch_ramp(1000, 1000) == 1
    assert branch_ramp(250, 1000) == pytest.approx(0.5 - 0.5 * math.cos(math.pi / 4))
    assert branch_ramp(0, 0.0) == 1
    assert rate_share(500, 400, 2000, 1000.0) == pytest.approx(warmup_then_cosine(500, 400, 2000) / 2)


def test_branches_are_the_two_vits():
    model = tiny_model(DeepAVFusionForPreTraining)
    branch = {name for name, _ in model.named_parameters() if is_of_branch(name)}
    assert "deepavfusion.layers.1.audio.mlp.fc1.weight" in branch
    assert (
        "deepavfusion.image_embeddings.projection.bias" in branch and "deepavfusion.audio_layernorm.weight" in branch
    )
    others = {name for name, _ in model.named_parameters()} - branch
    assert {name.split(".")[0] for name in others} == {"deepavfusion", "image_decoder", "audio_decoder"}
    inside = {".".join(name.split(".")[1:4:2]) for name in others if name.startswith("deepavfusion.layers")}
    assert inside == {"layers.fusion"}


def test_neighbors_of_one_class_and_of_several():
    labels = torch.tensor([0, 0, 1, 1])
    right = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]])
    wrong = right[[0, 2, 1, 3]]
    features = {
        "image": torch.nn.functional.normalize(right, dim=-1),
        "audio": torch.nn.functional.normalize(wrong, dim=-1),
    }
    scores = neighbor_scores(features, labels)
    assert scores["image"] == 1 and scores["audio"] == 0 and set(scores) == {"image", "audio", "all"}
    several = torch.nn.functional.one_hot(labels, 2)
    assert neighbor_scores(features, several)["image"] == pytest.approx(1)


def test_reconstruction_of_a_perfect_model_is_the_input():
    images = torch.randn(2, 3, 8, 12)
    patches = patchify(images, 4)
    mask = (torch.rand(2, 6) < 0.5).float()
    standardized = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    for logits, normalized in ((patches, False), (standardized, True)):
        blank, means, output, *with_true_means = reconstructed(images, logits, mask, 4, normalized).values()
        all_close(with_true_means[0] if normalized else output, images)
        hidden = patchify(blank, 4).isnan()
        assert torch.equal(hidden.all(-1), mask.bool()) and torch.equal(hidden.any(-1), mask.bool())
        all_close(patchify(means, 4).mean(-1), patches.mean(-1))
    *_, zero = reconstructed(images, torch.zeros_like(patches), mask, 4, True).values()
    assert (zero - images).abs().max() > 0.1


def test_the_output_on_its_own_means_knows_nothing_of_hidden_patches():
    images, mask = torch.randn(1, 3, 8, 12), torch.tensor([[0.0, 1, 0, 1, 0, 1]])
    logits = torch.randn(1, 6, 48)
    changed = unpatchify(patchify(images, 4) + 5 * mask[..., None], 4, (2, 3))
    _, _, output, with_true_means = reconstructed(images, logits, mask, 4, True).values()
    _, _, same, other = reconstructed(changed, logits, mask, 4, True).values()
    hidden = mask.bool()
    all_close(patchify(output, 4)[hidden], patchify(same, 4)[hidden])
    all_close(patchify(other, 4)[hidden], patchify(with_true_means, 4)[hidden] + 5)


def test_small_run(tmp_path):
    clips = write_clips(tmp_path / "data")
    settings = {"clip_seconds": 0.5, "num_train_epochs": 2, "per_device_train_batch_size": 5, "probe_epochs": 1}
    results = main(pretraining_command(clips, tmp_path / "run", logging_steps=1, **settings))
    assert results["clips"] == {"train": 15, "validation": 6, "test": 6} and set(results["neighbors"]) == {1, 2}
    for side in ("validation", "test"):
        found = results[side]
        assert found["loss"] == pytest.approx(found["image_loss"] + found["audio_loss"], abs=2e-3)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["test"] == results["test"]
    words = Image.open(tmp_path / "run" / "reconstructions.png").text["Description"]
    assert "given (truth)" in words and "output on its own means" in words and "gray patches are hidden" in words
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "run" / "model")
    assert model.config.image_size == 32
