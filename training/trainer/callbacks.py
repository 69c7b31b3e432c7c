# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Trainer callbacks: the data set follows the epoch, checkpoints can be loaded on their own, progress in plain sentences."""

import logging
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from peft import PeftModel
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PrinterCallback, ProcessorMixin, Trainer, TrainerCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_utils import has_length


logger = logging.getLogger(__name__)

METRIC_NAMES = {"top1": "top-1", "map": "mAP", "match_auroc": "match AUROC", "macro_f1": "macro F1"}
TOLD_METRICS = ("loss", "top1", "map", "match_auroc", "combined")  # by the sentence about a validation


class EpochCallback(TrainerCallback):
    """Tells the training set which epoch it is, from which partners, augmentation and noise are drawn.

    The epoch comes from the trainer's state, so that a resumed run draws what the uninterrupted one would have.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs):
        # 1e-6: the state's epoch is a sum of floats and may end just below a whole number.
        self.dataset.set_epoch(int((state.epoch or 0.0) + 1e-6))


class CheckpointFilesCallback(TrainerCallback):
    """Adds to each checkpoint what the Trainer leaves out: the processor, and the config beside an adapter."""

    def __init__(self, processor: ProcessorMixin):
        self.processor = processor

    def write_files(self, directory: Path, model: nn.Module) -> None:
        """Called by `CheckpointTrainer` in the saving process, before the folder gets its final name."""
        self.processor.save_pretrained(directory)
        if isinstance(model, PeftModel):
            model.get_base_model().config.save_pretrained(directory)


class ProgressCallback(TrainerCallback):
    """On a terminal one line with the step and the time left; a sentence for every validation.

    Without a terminal (a log file, a cluster's job) a sentence comes every `seconds` in place of the line.
    """

    def __init__(self, seconds: float = 60.0):
        self.seconds = seconds
        self.training = False
        self.loss = ""
        self.terminal, self.line, self.evaluation = ExitStack(), None, None

    def on_train_begin(self, args, state, control, **kwargs):
        self.training, self.loss = True, ""
        self.begin = self.told = time.monotonic()
        self.first_step = state.global_step
        if self.on_terminal(args, state):
            self.terminal.enter_context(logging_redirect_tqdm())  # sentences appear above the line
            # The time of validations is part of a step's mean time: no smoothing.
            options = {"bar_format": "{desc} {bar:20} {remaining} left", "smoothing": 0, "leave": False}
            line = tqdm(total=state.max_steps, initial=state.global_step, **options)
            self.line = self.terminal.enter_context(line)

    def on_step_end(self, args, state, control, **kwargs):
        place = f"{self.place(args, state)}{self.loss}"
        if self.line is not None:
            self.line.set_description_str(place, refresh=False)
            self.line.update(state.global_step - self.line.n)
        elif time.monotonic() - self.told > self.seconds:
            self.tell(f"{place}. {self.time_left(state)}")

    def on_log(self, args, state, control, logs: Mapping[str, float], **kwargs):
        if "loss" in logs:
            self.loss = f", training loss {float(logs['loss']):.3f}"

    def on_evaluate(self, args, state, control, metrics: Mapping[str, float], **kwargs):
        self.close_evaluation()
        if self.training:  # later evaluations have their own tables
            measured = validation_text(metrics)
            if measured:
                measured = f" Validation: {measured}."
            self.tell(f"{self.place(args, state)}{self.loss}.{measured} {self.time_left(state)}")

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if self.evaluation is None and self.on_terminal(args, state) and has_length(eval_dataloader):
            options = {"bar_format": "evaluation {bar:20} {remaining} left", "leave": False}
            self.evaluation = tqdm(total=len(eval_dataloader), **options)
        if self.evaluation is not None:
            self.evaluation.update()

    def on_predict(self, args, state, control, metrics, **kwargs):
        self.close_evaluation()

    def close_evaluation(self) -> None:
        if self.evaluation is not None:
            self.evaluation.close()
        self.evaluation = None

    def on_train_end(self, args, state, control, **kwargs):
        self.restore()

    def restore(self) -> None:
        """Takes the lines off the terminal; to be called after an error too."""
        self.close_evaluation()
        self.training, self.line = False, None
        self.terminal.close()

    def on_terminal(self, args, state) -> bool:
        return state.is_world_process_zero and not args.disable_tqdm and sys.stderr.isatty()

    def tell(self, sentence: str) -> None:
        self.told = time.monotonic()
        logger.info(sentence.strip())

    def place(self, args, state) -> str:
        if args.max_steps > 0:
            return f"Step {state.global_step} of {args.max_steps}"
        return f"Epoch {state.epoch or 0:.3g} of {args.num_train_epochs:g}"

    def time_left(self, state) -> str:
        """A sentence, from the mean time of the steps so far; nothing after the last one."""
        done, left = state.global_step - self.first_step, state.max_steps - state.global_step
        if not (done and left):
            return ""
        seconds = (time.monotonic() - self.begin) / done * left
        return f"Time left: {tqdm.format_interval(seconds)}."


def validation_text(metrics: Mapping[str, float]) -> str:
    """`loss 0.398, top-1 0.93 (video alone 0.81, audio alone 0.79), match AUROC 0.88`, as far as there are such figures."""
    parts = []
    for name in TOLD_METRICS:
        if f"eval_{name}" not in metrics:
            continue
        digits = 3 if name == "loss" else 2
        part = f"{METRIC_NAMES.get(name, name)} {metrics[f'eval_{name}']:.{digits}f}"
        alone = {one: metrics.get(f"eval_{name}_{one}") for one in ("video", "audio")}
        told = [f"{one} alone {value:.2f}" for one, value in alone.items() if value is not None]
        if told:
            part += f" ({', '.join(told)})"
        parts.append(part)
    return ", ".join(parts)


def tell_progress(trainer: Trainer) -> None:
    """Sentences and one line in place of the Trainer's bars and dictionaries."""
    trainer.remove_callback(DEFAULT_PROGRESS_CALLBACK)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ProgressCallback())
