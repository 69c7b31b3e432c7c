# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Work that one process of a run does for all."""

from collections.abc import Callable
from typing import Any

from accelerate.utils import broadcast_object_list
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
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]
