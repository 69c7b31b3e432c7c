# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and Ctrl-C save first: they end training after a checkpoint, not in the middle of a step.

SIGTERM is the signal of Slurm, Kubernetes and `kill`. A second Ctrl-C ends at once.
"""

import logging
import os
import signal
import threading

import torch
import torch.distributed as dist
from transformers import TrainerCallback


logger = logging.getLogger(__name__)


class TrainingTerminated(SystemExit):
    """A signal has ended training after a checkpoint. Uncaught, the process ends with code 143 or 130, as by the signal."""

    def __init__(self, checkpoint: str, number: int = signal.SIGTERM):
        super().__init__(128 + number)
        self.checkpoint = checkpoint


class TerminationCallback(TrainerCallback):
    """Takes the place of the Trainer's own callback for `enable_jit_checkpoint`, which has three faults here.

    It saves between backward and step, so that a resumed run differs from an uninterrupted one; each process decides for
    itself, so that several of them save different steps or wait forever; and it returns from `train()` as from a
    finished run, with the best model loaded. This one saves after a whole step, at the same step in all processes, by
    the usual way (evaluation where it is due, rotation, callbacks), and raises `TrainingTerminated`.
    """

    def __init__(self):
        self.received = 0  # the number of the signal
        self.agreed = False
        self.previous = {}
        self.process = os.getpid()

    def on_train_begin(self, args, state, control, **kwargs):
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in (signal.SIGTERM, signal.SIGINT):
                self.previous[number] = signal.signal(number, self._receive)

    def on_train_end(self, args, state, control, **kwargs):
        if (
            self.restore() and self.received
        ):  # after the last step: nothing left to save, and what follows must not run
            signal.raise_signal(self.received)

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
                logger.warning(
                    "%s: saved %s; go on with --resume_from_checkpoint true", self._signal_name(), checkpoint
                )
            self.restore()
            raise TrainingTerminated(checkpoint, self.received or signal.SIGTERM)

    def restore(self) -> bool:
        """Puts the handlers back that were there before; whether there were any."""
        restored = bool(self.previous)
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}
        return restored

    def _receive(self, number, frame) -> None:
        if os.getpid() != self.process:  # a forked loader worker, which the terminal tells too: it goes on
            return
        if number == signal.SIGINT and self.received == signal.SIGINT:
            self.restore()
            raise KeyboardInterrupt
        self.received = number
        if number == signal.SIGINT:
            logger.warning("Ctrl-C: a checkpoint is saved after this step; press it again to end at once.")

    def _signal_name(self) -> str:
        if self.received == signal.SIGINT:
            return "Ctrl-C"
        return "SIGTERM"

    def _anybody(self, device: torch.device) -> bool:
        """Whether any process got the signal; all processes get the same answer."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return bool(self.received)
        flag = torch.tensor(float(bool(self.received)), device=device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)
