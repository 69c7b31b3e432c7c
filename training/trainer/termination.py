# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""SIGTERM saves first: the signal of Slurm, Kubernetes and `kill` ends training after a checkpoint, not in the middle."""

import logging
import signal
import threading

import torch
import torch.distributed as dist
from transformers import TrainerCallback


logger = logging.getLogger(__name__)


class TrainingTerminated(SystemExit):
    """SIGTERM has ended training after a checkpoint. Uncaught, the process ends with code 143, as by the signal."""

    def __init__(self, checkpoint: str):
        super().__init__(128 + signal.SIGTERM)
        self.checkpoint = checkpoint


class TerminationCallback(TrainerCallback):
    """Takes the place of the Trainer's own callback for `enable_jit_checkpoint`, which has three faults here.

    It saves between backward and step, so that a resumed run differs from an uninterrupted one; each process decides for
    itself, so that several of them save different steps or wait forever; and it returns from `train()` as from a
    finished run, with the best model loaded. This one saves after a whole step, at the same step in all processes, by
    the usual way (evaluation where it is due, rotation, callbacks), and raises `TrainingTerminated`.
    """

    def __init__(self):
        self.received = False
        self.agreed = False
        self.previous = None

    def on_train_begin(self, args, state, control, **kwargs):
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self.previous = signal.signal(signal.SIGTERM, self._receive)

    def on_train_end(self, args, state, control, **kwargs):
        if self.previous is not None:
            signal.signal(signal.SIGTERM, self.previous)
            self.previous = None
            if self.received:  # after the last step: nothing left to save, and what follows shall not run
                signal.raise_signal(signal.SIGTERM)

    def on_step_end(self, args, state, control, **kwargs):
        self.agreed = self.agreed or self._anybody(args.device)
        # After the last step of an epoch its own evaluation and saving come first, or a resumed run would lack them.
        if self.agreed and not float(state.epoch).is_integer():
            control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.agreed:
            control.should_save = control.should_training_stop = True

    def on_save(self, args, state, control, **kwargs):
        if self.agreed and control.should_training_stop:
            checkpoint = f"{args.output_dir}/checkpoint-{state.global_step}"
            if state.is_world_process_zero:
                logger.warning("SIGTERM: saved %s; go on with --resume_from_checkpoint true", checkpoint)
            raise TrainingTerminated(checkpoint)

    def _receive(self, number, frame) -> None:
        self.received = True

    def _anybody(self, device: torch.device) -> bool:
        """Whether any process got the signal; all processes get the same answer."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return self.received
        flag = torch.tensor(float(self.received), device=device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)
