# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Two Trainer callbacks: the data set follows the epoch, and every checkpoint can be loaded on its own."""

from pathlib import Path

from peft import PeftModel
from torch import nn
from torch.utils.data import Dataset
from transformers import ProcessorMixin, TrainerCallback


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
