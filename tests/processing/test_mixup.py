# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""MixUp for pairs: one lambda for both modalities and the label, who is mixed, what decides the draw, and a whole run."""

import json

import pytest
import torch
from tiny_models import tiny_inputs, tiny_model
from toy_run import CLASSES, write_backbone, write_clips, write_config
from transformers import TrainerCallback

import train as recipe
from processing.data.mixup import PairMixUp
from training.maavt import trainer as run_trainer


def make_batch(clips: int = 8, frames: int = 2, segments: int = 1) -> dict[str, torch.Tensor]:
    return {
        **tiny_inputs(clips=clips, frames=frames, segments=segments),
        "labels": torch.arange(clips) % 5,
        "is_matched": torch.ones(clips, dtype=torch.bool),
        "has_video": torch.ones(clips, dtype=torch.bool),
        "has_audio": torch.ones(clips, dtype=torch.bool),
    }


def find_mixture(mixed: torch.Tensor, values: torch.Tensor, i: int) -> tuple[int, float]:
    """The partner and the lambda that explain row i, by least squares over all partners."""
    best = (i, 1.0, (mixed[i] - values[i]).abs().max().item())
    for j in range(len(values)):
        if j != i:
            direction = (values[i] - values[j]).flatten()
            lam = ((mixed[i] - values[j]).flatten() @ direction / (direction @ direction)).item()
            error = (mixed[i] - lam * values[i] - (1 - lam) * values[j]).abs().max().item()
            if error < best[2] - 1e-6:
                best = (j, lam, error)
    assert best[2] < 1e-5
    return best[:2]


def test_one_lambda_and_one_partner_for_picture_sound_and_label():
    batch = make_batch()
    before = {name: value.clone() for name, value in batch.items()}
    mixed = PairMixUp(1.0, 5, seed=3)(batch, step=7)
    assert all(torch.equal(batch[name], before[name]) for name in batch)
    found = []
    for i in range(8):
        j, lam = find_mixture(mixed["pixel_values_videos"], batch["pixel_values_videos"], i)
        assert find_mixture(mixed["input_features"], batch["input_features"], i) == (j, pytest.approx(lam, abs=1e-4))
        expected = lam * torch.eye(5)[batch["labels"][i]] + (1 - lam) * torch.eye(5)[batch["labels"][j]]
        torch.testing.assert_close(mixed["labels"][i], expected, atol=1e-4, rtol=0)
        found.append((i, j, lam))
    assert sum(i != j for i, j, _ in found) >= 4
    lambdas = [lam for i, j, lam in found if i != j]
    assert max(lambdas) - min(lambdas) < 1e-4 and 0 < lambdas[0] < 1
    assert sorted(j for _, j, _ in found) == list(range(8))
    for name in ("is_matched", "has_video", "has_audio"):
        assert torch.equal(mixed[name], batch[name])


def test_mismatched_unlabeled_and_lonely_clips_stay_as_they_are():
    batch = make_batch(clips=12)
    batch["is_matched"][[0, 5]] = False
    batch["labels"][[0, 5, 7]] = -100  # 7: matched, but nobody knows its class
    batch["has_audio"][[1, 2, 3]] = False
    batch["input_features"][[1, 2, 3]] = 0
    batch["has_video"][4] = False
    batch["pixel_values_videos"][4] = 0
    untouched, mixed_at_all = {0, 4, 5, 7}, set()
    for step in range(10):
        mixed = PairMixUp(1.0, 5)(batch, step)
        for i in range(12):
            j, _ = find_mixture(mixed["pixel_values_videos"], batch["pixel_values_videos"], i)
            if i in untouched:
                assert torch.equal(mixed["pixel_values_videos"][i], batch["pixel_values_videos"][i])
                assert torch.equal(mixed["input_features"][i], batch["input_features"][i])
            elif j != i:
                mixed_at_all.add(i)
                assert (i in (1, 2, 3)) == (j in (1, 2, 3)) and j not in untouched
        assert (mixed["labels"][[0, 5, 7]] == -100).all()
        assert torch.equal(mixed["labels"][4], torch.eye(5)[4]) and not mixed["input_features"][[1, 2, 3]].any()
    assert mixed_at_all == set(range(12)) - untouched


def test_a_clip_that_is_mixed_with_a_noisy_one_is_noisy():
    batch = make_batch() | {"match_mask": torch.arange(8) > 2}
    mixed = PairMixUp(1.0, 5)(batch, step=0)
    partners = [find_mixture(mixed["input_features"], batch["input_features"], i)[0] for i in range(8)]
    assert mixed["match_mask"].tolist() == [i > 2 and partners[i] > 2 for i in range(8)]
    assert not torch.equal(mixed["match_mask"], batch["match_mask"])


def test_the_draw_depends_on_seed_and_step_alone():
    batch, mix = make_batch(), PairMixUp(0.4, 5, seed=1)
    first = mix(batch, (12, 0))
    for again in (mix, PairMixUp(0.4, 5, seed=1)):
        torch.manual_seed(again.seed + 77)
        assert all(torch.equal(first[name], value) for name, value in again(batch, (12, 0)).items())
    others = [mix(batch, (12, 1)), mix(batch, (13, 0)), PairMixUp(0.4, 5, seed=2)(batch, (12, 0))]
    assert not any(torch.equal(first["labels"], other["labels"]) for other in others)
    # another process: other partners, the same lambda
    here, there = (mix(batch, 5, process)["labels"] for process in (0, 1))
    assert not torch.equal(here, there)
    assert set(here.flatten().tolist()) - {0.0, 1.0} == set(there.flatten().tolist()) - {0.0, 1.0}


def test_lambda_follows_its_distribution():
    batch = {"labels": torch.arange(2), "input_features": torch.zeros(2, 1, 2, 2)}
    drawn = [PairMixUp(0.5, 2, seed=0)(batch, step)["labels"][0, 0].item() for step in range(600)]
    swapped = [value for value in drawn if value < 1]  # else the clip was its own partner
    assert 0.4 < len(swapped) / 600 < 0.6
    mean = sum(swapped) / len(swapped)
    assert abs(mean - 0.5) < 0.06
    variance = sum((value - mean) ** 2 for value in swapped) / len(swapped)
    assert abs(variance - 1 / 8) < 0.02  # of Beta(a, a): 1 / (4 (2 a + 1))


def test_labels_per_segment_scores_and_missing_streams():
    batch = make_batch(clips=4, segments=2)
    batch["labels"] = torch.tensor([[0, 1], [2, -100], [3, 4], [1, 1]])
    mixed = PairMixUp(1.0, 5)(batch, 1)
    assert mixed["labels"].shape == (4, 2, 5)
    for i in range(4):
        j, lam = find_mixture(mixed["input_features"], batch["input_features"], i)
        ignored = (batch["labels"][i] == -100) | (batch["labels"][j] == -100)
        assert (mixed["labels"][i][ignored] == -100).all()
        torch.testing.assert_close(mixed["labels"][i][~ignored].sum(-1), torch.ones(int((~ignored).sum())))
    outputs = tiny_model()(**mixed)
    assert torch.isfinite(outputs.loss) and outputs.segment_logits.shape == (4, 2, 5)

    multi = {**make_batch(clips=3), "labels": torch.tensor([[1, 1, 0, 0, 0], [0, 0, 1, -100, 0], [0, 0, 0, 0, 1]])}
    scores = PairMixUp(1.0, 5, multi_label=True)(multi, 2)["labels"]
    assert scores.shape == (3, 5) and ((scores == -100) | ((scores >= 0) & (scores <= 1))).all()
    sound = {"labels": torch.arange(4), "input_features": torch.randn(4, 1, 8, 8)}
    assert set(PairMixUp(1.0, 5)(sound, 0)) == {"labels", "input_features"}


def test_bad_batches_are_refused_by_name():
    mix = PairMixUp(1.0, 5)
    with pytest.raises(ValueError, match="alpha=0"):
        PairMixUp(0, 5)
    with pytest.raises(ValueError, match="the batch has none"):
        mix({"input_features": torch.zeros(2, 1, 2, 2)}, 0)
    with pytest.raises(ValueError, match="0 to 4"):
        mix({"labels": torch.tensor([5])}, 0)
    with pytest.raises(ValueError, match="scores of 3 classes"):
        mix({"labels": torch.zeros(2, 3)}, 0)


def test_a_mixed_batch_trains_and_unmixed_labels_give_the_plain_loss():
    model, batch = tiny_model().train(), make_batch()
    plain = tiny_model()(**batch)
    soft = {**batch, "labels": torch.eye(5)[batch["labels"]]}
    torch.testing.assert_close(tiny_model()(**soft).loss, plain.loss)
    outputs = model(**PairMixUp(1.0, 5)(batch, 1))
    outputs.loss.backward()
    assert outputs.matching_loss is not None and outputs.contrastive_loss > 0 and torch.isfinite(outputs.loss)


# ---- the recipe


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> str:
    """The path of the toy run's YAML."""
    folder = tmp_path_factory.mktemp("toy")
    return str(write_config(folder / "toy.yaml", write_clips(folder / "data"), write_backbone(folder / "vit")))


class Stop(TrainerCallback):
    """Ends training after the third step, one step behind a checkpoint."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--mixup_alpha", "-1"], "mixup_alpha"),
        (["--mixup_alpha", "1", "--gradient_modulation", "0.1"], "mixup_alpha"),
        (["--mixup_alpha", "1", "--model_config", "{contrastive_positives: label}"], "contrastive_positives: pair"),
        (["--mixup_alpha", "1", "--model_config", "{match_head: patches}"], "mixed clips share their content"),
        (["--sampling", "balanced", "--model_config", "{match_head: patches}"], "sampling: balanced"),
        (["--train_noise_db", "0", "--model_config", "{match_head: patches}"], "give a range and a clean_probability"),
        (
            ["--train_noise_db", "-5", "20", "--clean_probability", "0", "--model_config", "{match_head: patches}"],
            "give a range and a clean_probability",
        ),
    ],
)
def test_contradictions_are_refused(toy, change, message):
    with pytest.raises(ValueError, match=message):
        recipe.main([toy, "--dry_run", *change])


@pytest.mark.parametrize(
    "change",
    [
        ["--tuning", "linear_probe", "--sampling", "balanced"],
        ["--modalities", "audio", "--train_noise_db", "0"],
        ["--mixup_alpha", "1", "--model_config", "{match_head: patches, background_mining: false}"],
    ],
)
def test_without_a_match_head_nothing_is_refused_for_it(toy, change):
    recipe.main([toy, "--dry_run", "--model_config", "{match_head: patches}", *change])


def test_the_head_of_a_checkpoint_counts_as_one_of_the_recipe(toy, tmp_path):
    tiny_model(contrastive=None, match_head="patches").save_pretrained(tmp_path / "patches")
    with pytest.raises(ValueError, match="sampling: balanced"):
        recipe.main([toy, "--dry_run", "--model_name_or_path", str(tmp_path / "patches"), "--sampling", "balanced"])


def test_mixup_run_resumes_with_the_same_draws(toy, tmp_path, monkeypatch):
    common = [
        toy,
        "--mixup_alpha",
        "0.4",
        "--class_weights",
        "balanced",
        "--save_strategy",
        "steps",
        "--save_steps",
        "2",
    ]
    common += ["--eval_strategy", "steps", "--eval_steps", "2", "--baseline", "false", "--num_train_epochs", "2"]
    common += ["--gradient_accumulation_steps", "2", "--per_device_train_batch_size", "4"]
    original, drawn = PairMixUp.__call__, []

    def remember(self, batch, step, process=0):
        assert batch["labels"].ndim == 1
        mixed = original(self, batch, step, process)
        assert mixed["labels"].shape == (len(batch["labels"]), len(CLASSES))
        drawn.append((tuple(step), mixed["labels"].sum().item()))
        return mixed

    monkeypatch.setattr(PairMixUp, "__call__", remember)
    recipe.main([*common, "--output_dir", str(tmp_path / "whole")])
    whole, drawn = list(drawn), []
    assert [step for step, _ in whole] == [(step, k) for step in range(4) for k in (0, 1)]
    with monkeypatch.context() as patch:
        patch.setattr(run_trainer, "CheckpointFilesCallback", lambda processor: Stop())
        with pytest.raises(KeyboardInterrupt):
            recipe.main([*common, "--output_dir", str(tmp_path / "cut")])
    recipe.main([*common, "--output_dir", str(tmp_path / "cut"), "--resume_from_checkpoint", "true"])
    assert {step for step, _ in drawn} == {step for step, _ in whole} and set(drawn) == set(whole)
    losses = []
    for name in ("whole", "cut"):
        history = json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"]
        losses.append([entry["loss"] for entry in history if "loss" in entry])
    assert losses[0] == losses[1] and len(losses[0]) == 4
