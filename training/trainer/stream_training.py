# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Training on a stream: its batches for the Trainer, and a callback that keeps its position in each checkpoint."""

import json
import logging
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainingArguments

from processing.data.atomic_writing import write_text
from processing.data.clip_streams import ClipStream, StreamBatches


logger = logging.getLogger(__name__)


def stream_batches(stream: ClipStream, collator: Any, run: TrainingArguments) -> StreamBatches:
    """Batches for the Trainer, without end: `max_steps` is the end."""
    return StreamBatches(
        stream,
        run.train_batch_size,
        collator,
        num_workers=run.dataloader_num_workers,
        pin_memory=run.dataloader_pin_memory,
        persistent_workers=run.dataloader_persistent_workers,
        prefetch_factor=run.dataloader_prefetch_factor,
        multiprocessing_context=getattr(run, "dataloader_multiprocessing_context", None),
        drop_last=run.dataloader_drop_last,
    )


class StreamCallback(TrainerCallback):
    """Keeps in each checkpoint where the stream was, and goes on from there.

    The Trainer counts off the batches of the steps before; the stream gives empty ones for them. Without the file, after
    a kill at the wrong moment, it decodes them again: slow, and just as exact.
    """

    def __init__(self, checkpoint: str | None = None):
        self.checkpoint = checkpoint

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        if self.checkpoint is None:
            return
        file = Path(self.checkpoint) / self._name(args)
        if not file.is_file():
            logger.warning(
                "%s is not there: the stream is read and decoded again up to step %d", file, state.global_step
            )
            return
        saved = json.loads(file.read_text(encoding="utf-8"))
        if saved["batches"] != state.global_step * args.gradient_accumulation_steps:
            raise ValueError(
                f"{file}: is of another step than the checkpoint; delete it, and the clips are read again"
            )
        train_dataloader.dataset.load_state_dict(saved, empty_batches=True)

    def on_save(self, args, state, control, train_dataloader=None, **kwargs):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        write_text(folder / self._name(args), json.dumps(train_dataloader.dataset.state_dict()))

    @staticmethod
    def _name(args: TrainingArguments) -> str:
        return f"stream_state_{args.process_index}.json"
