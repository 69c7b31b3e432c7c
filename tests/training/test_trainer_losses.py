# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Under the Trainer: accumulated micro-batches train as one batch, and the validation loss does not depend on batches."""

import copy

import numpy as np
import pytest
import torch
from tiny_models import tiny_inputs, tiny_model
from transformers import TrainingArguments

from processing.data.collators import AudioVisualCollator
from training.trainer.audio_visual_trainer import AudioVisualTrainer, compute_metrics


def clips(matched: list[bool]) -> list[dict]:
    inputs = tiny_inputs(len(matched))
    return [
        {
            "pixel_values_videos": inputs["pixel_values_videos"][index],
            "input_features": inputs["input_features"][index],
            "labels": torch.tensor(index % 5 if is_matched else -100),
            "is_matched": torch.tensor(is_matched),
            "has_video": torch.tensor(True),
            "has_audio": torch.tensor(True),
        }
        for index, is_matched in enumerate(matched)
    ]


def without_audio(clip: dict) -> dict:
    clip = {**clip, "has_audio": torch.tensor(False)}
    del clip["input_features"]
    return clip


def trainer_of(model, folder, dataset, **options) -> AudioVisualTrainer:
    arguments = TrainingArguments(
        str(folder), use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no", **options
    )
    arguments.label_names = ["labels", "is_matched"]
    return AudioVisualTrainer(
        model=model,
        args=arguments,
        data_collator=AudioVisualCollator(),
        train_dataset=dataset,
        eval_dataset=dataset,
        compute_metrics=compute_metrics,
    )


def test_two_accumulated_batches_train_as_one(tmp_path):
    """Without contrast and mismatches within the batch, whose pairs a micro-batch limits."""
    dataset = clips([True, False, True, True] * 2)  # each half holds as many matched pairs
    start = tiny_model(contrastive=None, in_batch_mismatches=0, match_head="mlp")
    weights = []
    for batch, accumulated in ((8, 1), (4, 2)):
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated, "max_steps": 2}
        options |= {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
        trainer = trainer_of(copy.deepcopy(start), tmp_path, dataset, **options)
        trainer.get_train_dataloader = lambda batch=batch, trainer=trainer: torch.utils.data.DataLoader(
            dataset, batch_size=batch, collate_fn=trainer.data_collator
        )
        trainer.train()
        weights.append(trainer.model.state_dict())
    one, two = weights
    assert any(not torch.equal(value, start.state_dict()[name]) for name, value in one.items())
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-6, rtol=1e-4, msg=name)


def test_validation_loss_is_the_sum_of_parts_over_their_own_counts(tmp_path):
    """Batches of 4, of which one holds mismatched pairs alone, give what one batch of all gives (but for contrast)."""
    dataset = clips([True, True, False, True, False, False, False, False, True, False])
    model = tiny_model(matching_loss_weight=0.5, contrastive_loss_weight=0.25, in_batch_mismatches=0)
    parts = ("classification_loss", "matching_loss", "contrastive_loss")
    measured = []
    for batch in (4, 10):
        trainer = trainer_of(model, tmp_path, dataset, per_device_eval_batch_size=batch)
        measured.append(trainer.evaluate())
        weighted = [measured[-1][f"eval_{name}"] * getattr(model.config, f"{name}_weight") for name in parts]
        assert measured[-1]["eval_loss"] == pytest.approx(sum(weighted), abs=2e-4)
    for name in ("classification_loss", "matching_loss"):
        assert measured[0][f"eval_{name}"] == pytest.approx(measured[1][f"eval_{name}"], abs=2e-4)


def test_validation_does_not_depend_on_batches_that_lack_a_modality(tmp_path):
    """Of batches of one clip, the first has no audio at all (but for contrast, which a batch limits)."""
    first, *others = clips([True, True, False, True, False])
    dataset = [without_audio(first), *others]
    model = tiny_model(unimodal_loss_weight=0.5, in_batch_mismatches=0)
    parts = ("classification_loss", "matching_loss", "contrastive_loss", "unimodal_loss")
    measured = []
    for batch in (1, 5):
        trainer = trainer_of(model, tmp_path, dataset, per_device_eval_batch_size=batch)
        measured.append(trainer.evaluate())
        weighted = [measured[-1][f"eval_{name}"] * getattr(model.config, f"{name}_weight") for name in parts]
        assert measured[-1]["eval_loss"] == pytest.approx(sum(weighted), abs=2e-4)
        scores = trainer.predict(dataset).predictions[1]
        assert np.isnan(scores).tolist() == [True, False, False, False, False]
    for name in ("classification_loss", "matching_loss", "unimodal_loss", "top1", "top1_audio", "match_auroc"):
        assert measured[0][f"eval_{name}"] == pytest.approx(measured[1][f"eval_{name}"], abs=2e-4), name


def test_match_figures_leave_out_clips_without_a_modality_where_streams_meet(tmp_path):
    """LAVISH adapters join the streams: there are no predictions from one modality alone."""
    first, *others = clips([True, True, False, True, False])
    model = tiny_model(lavish_config={}, match_head="mlp")
    found, expected = (
        trainer_of(model, tmp_path, dataset).evaluate() for dataset in ([without_audio(first), *others], others)
    )
    assert "eval_top1_audio" not in found
    for name in ("match_auroc", "match_accuracy", "combined", "threshold"):
        assert found[f"eval_{name}"] == pytest.approx(expected[f"eval_{name}"]), name


def test_match_scores_of_a_diverged_model_are_not_taken_for_absent_ones(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        next(model.match_head.parameters()).fill_(float("nan"))
    trainer = trainer_of(model, tmp_path, clips([True, True, False, True, False]))
    with pytest.raises(ValueError, match="NaN or infinite"):
        trainer.evaluate()
