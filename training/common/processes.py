# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Work that one process of a run does for all."""

import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from transformers import TrainingArguments


def of_first_process(args: TrainingArguments, work: Callable[[], Any]) -> Any:
    """What `work` returns or raises on the first process, on every process: the others do not work, but wait for it."""
    if args.world_size == 1:
        return work()
    outcome = [None]
    if args.process_index == 0:
        try:
            outcome = [work()]
        except Exception as error:
            outcome = [error if can_be_sent(error) else RuntimeError(str(error))]
    # On CPUs: a table with embedded clips has no place in a GPU's memory.
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=args.ddp_timeout))
    dist.broadcast_object_list(outcome, src=0, group=group)
    dist.destroy_process_group(group)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def can_be_sent(error: Exception) -> bool:
    """Whether an error can be pickled and read again: some build their message from several arguments."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True
