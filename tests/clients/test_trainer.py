# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Options of a plain Trainer, one after the other, on the code in a saved folder."""

import pytest
import torch
from transformers import AutoProcessor, Trainer, TrainingArguments


# Transformers renamed it
CHECKPOINTING = {"activation_checkpointing", "gradient_checkpointing"} & set(TrainingArguments.__dataclass_fields__)
OPTIONS = {
    "gradient_checkpointing": {min(CHECKPOINTING): True},
    "accumulation": {"gradient_accumulation_steps": 2},
    "bf16": {"bf16": True},
    "find_batch_size": {"auto_find_batch_size": True},
    "adafactor": {"optim": "adafactor"},
    "schedule": {"lr_scheduler_type": "cosine", "warmup_steps": 1, "max_grad_norm": 0.5},
    "compile": {"torch_compile": True, "torch_compile_backend": "eager"},
    "noise": {"neftune_noise_alpha": 0.1},
    "batched_metrics": {"batch_eval_metrics": True, "prediction_loss_only": True},
    "evaluation_arrays": {"include_for_metrics": ["loss"], "eval_accumulation_steps": 1},
    "dataloader": {"dataloader_num_workers": 0, "remove_unused_columns": False},
}


@pytest.fixture(scope="module")
def rows(folders) -> dict:
    """By system, four clips as a plain data set yields them."""

    def read(system):
        batch = AutoProcessor.from_pretrained(getattr(folders, system))(
            clips=[str(path) for path in folders.clips[:4]]
        )
        return [{name: value[i] for name, value in batch.items()} | {"labels": i % 3} for i in range(4)]

    return {system: read(system) for system in ("maavt", "deepavfusion")}


def plain_trainer(remote, folders, rows, system, output, **options) -> Trainer:
    torch.manual_seed(0)
    arguments = TrainingArguments(
        str(output),
        use_cpu=True,
        per_device_train_batch_size=2,
        max_steps=2,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        **options,
    )
    model = remote(getattr(folders, system))
    return Trainer(model, arguments, train_dataset=rows[system], eval_dataset=rows[system])


@pytest.mark.parametrize("system", ["maavt", "deepavfusion"])
@pytest.mark.parametrize("name", list(OPTIONS))
def test_an_option_of_trainer(remote, folders, rows, tmp_path, system, name):
    trainer = plain_trainer(remote, folders, rows, system, tmp_path, **OPTIONS[name])
    before = {name: value.clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
    result = trainer.train()
    assert torch.isfinite(torch.tensor(result.training_loss))
    after = dict(trainer.model.named_parameters())
    assert any(not after[name].equal(value) for name, value in before.items())
    assert "eval_loss" in trainer.evaluate()


def test_label_smoothing_keeps_all_losses_or_is_refused(remote, folders, rows, tmp_path):
    """Trainer's own takes the labels out and drops the model's loss; the model's own does not."""
    plain = plain_trainer(remote, folders, rows, "maavt", tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(
        ValueError, match=r"would drop the matching and contrastive losses. Set model.config.label_smoothing"
    ):
        plain.train()
    smoothed = plain_trainer(remote, folders, rows, "maavt", tmp_path)
    smoothed.model.config.label_smoothing = 0.1
    torch.manual_seed(0)
    more = smoothed.train().training_loss
    torch.manual_seed(0)
    assert more != plain_trainer(remote, folders, rows, "maavt", tmp_path).train().training_loss
    # DeepAVFusion's one loss is of the logits, unless each head has its own.
    separate = plain_trainer(remote, folders, rows, "deepavfusion", tmp_path, label_smoothing_factor=0.1)
    separate.model.config.classifier_loss = "separate"
    with pytest.raises(ValueError, match=r"Set model.config.label_smoothing"):
        separate.train()


def test_a_loss_function_of_ones_own_sees_all_losses(remote, folders, rows, tmp_path):
    """Trainer hides the labels from the model: with `is_matched` the output holds the losses that need no labels."""
    plain = plain_trainer(remote, folders, rows, "maavt", tmp_path)
    seen = []

    def loss_of(outputs, labels, num_items_in_batch=None):
        loss = torch.nn.functional.cross_entropy(outputs.logits, labels) + outputs.loss
        seen.append(torch.isclose(outputs.loss, outputs.matching_loss + outputs.contrastive_loss).item())
        return loss

    plain.compute_loss_func = loss_of
    with pytest.raises(ValueError, match="for a loss of your own pass labels or is_matched"):
        plain.train()
    plain.train_dataset = [row | {"is_matched": True} for row in rows["maavt"]]
    plain.train()
    assert seen == [True, True]


@pytest.mark.parametrize("system", ["maavt", "deepavfusion"])
def test_a_plain_trainer_resumes(remote, folders, rows, tmp_path, system):
    def trainer(steps):
        options = {"max_steps": steps, "save_steps": 1, "logging_steps": 1, "report_to": "none", "disable_tqdm": True}
        arguments = TrainingArguments(str(tmp_path), use_cpu=True, per_device_train_batch_size=2, **options)
        return Trainer(remote(getattr(folders, system)), arguments, train_dataset=rows[system])

    trainer(2).train()
    resumed = trainer(3)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 3 and len(resumed.state.log_history) == 4  # three steps and the summary
