# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Work on the clips of a batch side by side."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


LARGEST_POOL = 4  # of more threads, most would wait for the interpreter's lock


def in_threads(function: Callable, items: Sequence, threads: int = LARGEST_POOL) -> list[Any]:
    """`[function(item) for item in items]` on at most `threads` threads, and no more than PyTorch may use.

    Decoding and resizing release the interpreter's lock and use one core each. In a DataLoader's worker, which has one
    core, no thread is started. The first item that fails raises, whatever came of those after it.
    """
    threads = min(torch.get_num_threads(), threads, len(items))
    if threads < 2:
        return [function(item) for item in items]
    inference = torch.is_inference_mode_enabled()  # a mode of the calling thread alone

    def call(item: Any) -> Any:
        with torch.inference_mode(inference):
            return function(item)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, items))
