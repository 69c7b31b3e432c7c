# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A Trainer whose checkpoints are there whole or not at all, and which saves before SIGTERM ends it."""

import os
import shutil
import signal
from pathlib import Path

from torch import nn
from transformers import Trainer
from transformers.trainer_jit_checkpoint import JITCheckpointCallback

from .checkpoints import STAGED, publish, rotate, seal
from .termination import TerminationCallback


class CheckpointTrainer(Trainer):
    """`Trainer`, except for how `checkpoint-N` comes to be (see `training/trainer/checkpoints.py`).

    A callback with a method `write_files(directory, model)` adds its files before the folder gets its name. With
    `enable_jit_checkpoint` SIGTERM ends training by `TrainingTerminated` (see `training/trainer/termination.py`).

    Raises:
        ValueError: `save_only_model` or `save_on_each_node`, of which no whole checkpoint can be made.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for name in ("save_only_model", "save_on_each_node"):
            if getattr(self.args, name):
                raise ValueError(
                    f"{name}: checkpoints hold all that a resume needs, in one folder for all nodes; leave it off"
                )
        self._staging = False  # whether a checkpoint is being written under its temporary name
        own = self.pop_callback(JITCheckpointCallback)
        if own is not None:
            signal.signal(signal.SIGTERM, own.jit_manager._original_sigterm_handler)
            self.add_callback(TerminationCallback())

    def train(self, *args, **kwargs):
        # It ends the run while a checkpoint is saved: the others write their parts before.
        termination = self.pop_callback(TerminationCallback)
        if termination is not None:
            self.add_callback(termination)
        try:
            return super().train(*args, **kwargs)
        finally:  # also after an exception signals and terminal are what they were before
            for callback in self.callback_handler.callbacks:
                if hasattr(callback, "restore"):
                    callback.restore()

    def _save_checkpoint(self, model: nn.Module, trial) -> None:
        run = super()._get_output_dir(trial)
        # Everything is written under another name: an interrupted save leaves no half checkpoint.
        name = f"checkpoint-{self.state.global_step}"
        staged = Path(run) / f"{STAGED}{name}" / name
        if self.args.should_save:
            shutil.rmtree(staged.parent, ignore_errors=True)
            staged.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self._staging = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = False
        # Files that callbacks add.
        self._name_best(run)
        if self.args.should_save:
            self.state.save_to_json(str(staged / "trainer_state.json"))  # the best one under its final name
            for callback in self.callback_handler.callbacks:
                if hasattr(callback, "write_files"):
                    callback.write_files(staged, self.accelerator.unwrap_model(self.model))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            # Every process has written: list the files, rename the folder, remove old checkpoints.
            seal(staged, self.args.world_size)
            publish(staged, Path(run) / name)
            rotate(Path(run), self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(os.path.join(run, name))

    def _load_best_model(self) -> None:
        """Raises FileNotFoundError where somebody has deleted it: the last weights are not the best ones."""
        best = Path(self.state.best_model_checkpoint)
        if not best.is_dir():
            raise FileNotFoundError(
                f"{best}: the best checkpoint was deleted during the run; start the same command again, or keep the last "
                "epoch with --load_best_model_at_end false"
            )
        super()._load_best_model()

    def _get_output_dir(self, trial) -> str:
        run = super()._get_output_dir(trial)
        return os.path.join(run, f"{STAGED}checkpoint-{self.state.global_step}") if self._staging else run

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._staging:  # an upload runs beside training and needs the folder's final name
            super()._push_from_checkpoint(checkpoint_folder)

    def _name_best(self, run: str) -> None:
        """`best_model_checkpoint` as the Trainer sets it, but under the name that the folder will have."""
        step = self.state.best_global_step
        if step:
            best = os.path.join(run, f"checkpoint-{step}")
            if step == self.state.global_step or os.path.isdir(best):
                self.state.best_model_checkpoint = best
