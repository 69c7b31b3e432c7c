# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The Trainer of a run, and its training: the best checkpoint on validation is the one that goes on."""

import logging
import shutil
from pathlib import Path

from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback

from processing.data.class_balance import BalancedSampler, sampling_weights
from processing.data.mixup import PairMixUp
from training.trainer.audio_visual_trainer import AudioVisualTrainer, best_checkpoint, compute_metrics
from training.trainer.callbacks import METRIC_NAMES, CheckpointFilesCallback, EpochCallback
from training.trainer.checkpoints import DAMAGED, REMOVED, STAGED, checkpoint_to_resume, stopped_early
from training.trainer.gradient_modulation import GradientModulation
from training.trainer.stream_training import StreamCallback

from .arguments import Recipe, RunArguments
from .class_weights import balanced_class_weights
from .data import Clips, RunData


logger = logging.getLogger(__name__)


def build_trainer(recipe: Recipe, clips: Clips, data: RunData, model: nn.Module) -> AudioVisualTrainer:
    """The Trainer with everything that the recipe adds to it."""
    run, num_classes = recipe.run, len(clips.label_names)
    if run.class_weights == "balanced":  # of the loss alone: no checkpoint holds them
        model.set_class_weights(balanced_class_weights(clips.tables["train"], num_classes))

    callbacks = [CheckpointFilesCallback(data.processor)]
    if clips.stream is None:
        callbacks.append(EpochCallback(data.train_set))
    if run.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(run.early_stopping_patience))
    if run.gradient_modulation:
        callbacks.append(GradientModulation(alpha=run.gradient_modulation, seed=run.seed))

    sampler, mixup = None, None
    if recipe.data.sampling == "balanced":
        sampler = BalancedSampler(sampling_weights(clips.tables["train"]), run.seed)
    if recipe.data.mixup_alpha:
        mixup = PairMixUp(recipe.data.mixup_alpha, num_classes, run.seed, clips.multi_label)
    return AudioVisualTrainer(
        model=model,
        args=run,
        data_collator=data.collator,
        train_dataset=data.train_set,
        eval_dataset=data.validation_set,
        compute_metrics=compute_metrics,
        callbacks=callbacks,
        train_sampler=sampler,
        mixup=mixup,
    )


def train(trainer: AudioVisualTrainer, recipe: Recipe) -> dict:
    """Trains, or resumes, and loads the best checkpoint. Returns `epochs`, `steps`, `training_minutes` and `best`."""
    run = recipe.run
    if run.evaluate_only:
        return {"epochs": 0.0, "steps": 0, "training_minutes": 0.0, "best": None}
    checkpoint = checkpoint_to_resume(run)
    # A new run must not find checkpoints of an earlier one.
    if checkpoint is None and run.should_save:
        clear_checkpoints(run)
    if checkpoint is not None:
        stopped_at = stopped_early(checkpoint, run.early_stopping_patience)
        if stopped_at:
            run.max_steps = stopped_at  # that run had come to its end
    if recipe.streams:
        trainer.add_callback(StreamCallback(checkpoint))
    if run.early_stopping_patience:
        trainer.add_callback(GivenPatience(trainer))

    # With load_best_model_at_end the model is then that of the best checkpoint.
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    trainer.save_state()
    best = best_checkpoint(trainer)
    logger.info(end_of_training(metrics["epoch"], best))
    minutes = round(metrics["train_runtime"] / 60, 4)
    return {"epochs": metrics["epoch"], "steps": trainer.state.global_step, "training_minutes": minutes, "best": best}


class GivenPatience(TrainerCallback):
    """A resumed run stops early by the patience that it is given, also where the checkpoint has another one or none."""

    def __init__(self, trainer: AudioVisualTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback):
                callback.early_stopping_patience = args.early_stopping_patience
                state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())


def end_of_training(epochs: float, best: dict | None) -> str:
    """One line: when training ended, and which weights are kept."""
    if best is None:
        return f"Stopped after {epochs:g} epochs. Keeping the weights of the last step."
    metric = best["metric"].removeprefix("eval_")
    named = METRIC_NAMES.get(metric, metric.replace("_", " "))
    return (
        f"Stopped after {epochs:g} epochs. Keeping the checkpoint of epoch {best['epoch']:g} "
        f"(validation {named} {best['value']:.2f})."
    )


def clear_checkpoints(run: RunArguments) -> None:
    """Deletes what an earlier run left, as `overwrite_output_dir` asks for; without it there is nothing whole to delete."""
    prefixes = [STAGED, REMOVED]
    if run.overwrite_output_dir:
        prefixes += ["", DAMAGED]
    for prefix in prefixes:
        for folder in Path(run.output_dir).glob(f"{prefix}checkpoint-*"):
            shutil.rmtree(folder)
