# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Sampling by weight: what is drawn, how often, and that it repeats with the seed, the epoch and several processes."""

from collections import Counter

import pytest
from datasets import Dataset
from toy_run import write_backbone, write_clips, write_config

import train as recipe
from processing.data.class_balance import BalancedSampler, class_balanced_weights, sampling_weights
from training.trainer.audio_visual_trainer import AudioVisualTrainer
from training.trainer.even_batches import FilledSampler


def test_class_balanced_weights():
    weights = class_balanced_weights([["a"], ["a"], ["a"], ["b"]])
    assert weights == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0])
    assert class_balanced_weights([]) == []


def table(**columns) -> Dataset:
    return Dataset.from_dict({"clip_id": [f"clip{i}" for i in range(4)], "label": [0, 0, 0, 1]} | columns)


def test_weights_come_from_the_table_or_its_labels():
    assert sampling_weights(table()) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0])
    several = sampling_weights(table(label=[[0], [0, 1], [0], [1]]))
    assert several == pytest.approx([2 / 3, 5 / 3, 2 / 3, 1.0])
    assert sampling_weights(table(weight=[0.0, 1.0, 2.0, 5.0])) == [0.0, 1.0, 2.0, 5.0]
    for wrong in ([0.0, 1.0, None, 2.0], [0.0, -1.0, 1.0, 2.0], [float("nan"), 1.0, 1.0, 1.0]):
        with pytest.raises(ValueError, match="weight"):
            sampling_weights(table(weight=wrong))
    with pytest.raises(ValueError, match="all are 0"):
        sampling_weights(table(weight=[0.0] * 4))


def test_draws_follow_the_weights():
    sampler = BalancedSampler([0.0, 1.0, 0.0, 3.0] * 1000, seed=0)
    drawn = Counter(index % 4 for index in sampler)
    assert len(sampler) == sum(drawn.values()) == 4000
    assert set(drawn) == {1, 3} and drawn[3] / 4000 == pytest.approx(0.75, abs=0.03)
    first, again = list(sampler), list(sampler)
    sampler.set_epoch(1)
    assert first == again != list(sampler)
    assert first != list(BalancedSampler([0.0, 1.0, 0.0, 3.0] * 1000, seed=1))


def test_the_epoch_reaches_the_sampler_and_the_last_batch_is_filled():
    epoch = 0
    sampler = FilledSampler(BalancedSampler([1.0] * 10, seed=0), 4, lambda: epoch)
    first = list(sampler)
    epoch = 1
    second = list(sampler)
    assert first[10:] == second[10:] == [10, 11] and first[:10] != second[:10]


def test_training_draws_by_weight(tmp_path, monkeypatch):
    """Class `red` has one clip in five of the others: shuffled it is seen once an epoch, balanced about a third."""
    clips = write_clips(tmp_path / "data")
    lines = (clips / "metadata.csv").read_text().splitlines()
    rare = [line for line in lines if not (line.startswith("clips/red") and ",train," in line)]
    rare += [line for line in lines if line.startswith("clips/red0")]
    (clips / "metadata.csv").write_text("\n".join(rare) + "\n")
    seen = Counter()
    step = AudioVisualTrainer.training_step

    def look(self, model, inputs, *args, **kwargs):
        seen.update(inputs["labels"].tolist())
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(AudioVisualTrainer, "training_step", look)
    config = write_config(tmp_path / "toy.yaml", clips, write_backbone(tmp_path / "vit"))
    options = ["--check", "none", "--baseline", "false", "--mismatch_probability", "0", "--num_train_epochs", "6"]
    recipe.main([str(config), *options, "--sampling", "balanced"])
    assert sum(seen.values()) == 6 * 11
    assert seen[2] / sum(seen.values()) == pytest.approx(1 / 3, abs=0.15)
