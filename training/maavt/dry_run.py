# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run would do: counts, one batch, memory and a time estimate. Trains nothing, writes nothing."""

import math
import sys
import time
from itertools import islice

import torch
from torch import nn

from processing.data.clip_streams import POSITION, ClipStream
from processing.data.collators import AudioVisualCollator

from .arguments import Recipe
from .data import Clips, RunData
from .model import parameter_counts


def dry_run(recipe: Recipe, clips: Clips, data: RunData, model: nn.Module) -> dict:
    """Makes one training batch, runs it forward and backward twice, and prints and returns what that says.

    The time estimate covers training steps of one process: decoding is divided by the number of loader workers and runs
    beside the model; validation adds its share. The first step is not timed.
    """
    args, dataset, report = recipe.run, data.train_set, clips.report
    streamed = isinstance(dataset, ClipStream)
    batch_size = args.per_device_train_batch_size if streamed else min(args.per_device_train_batch_size, len(dataset))
    begin = time.perf_counter()
    items = islice(dataset, batch_size) if streamed else (dataset[i] for i in range(batch_size))
    batch = AudioVisualCollator()(list(items))
    batch.pop(POSITION, None)
    decoding = time.perf_counter() - begin

    device = args.device
    model = model.to(device).train()
    inputs = {name: value.to(device) for name, value in batch.items()}
    for _ in range(2):
        begin = time.perf_counter()
        with torch.autocast(
            device.type, torch.bfloat16 if args.bf16 else torch.float16, enabled=args.bf16 or args.fp16
        ):
            loss = model(**inputs).loss
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        stepping = time.perf_counter() - begin

    rounded = math.floor if args.dataloader_drop_last else math.ceil
    per_step = args.gradient_accumulation_steps
    steps = args.max_steps  # a stream's are known by now
    if steps <= 0:
        batches = max(1, rounded(len(dataset) / (batch_size * args.world_size)))
        steps = math.ceil(args.num_train_epochs * math.ceil(batches / per_step))
    workers = args.dataloader_num_workers
    per_batch = max(stepping, decoding / workers) if workers else stepping + decoding
    trained, total = parameter_counts(model)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_memory()
    estimate = {
        "splits": report["splits"],
        "classes": len(report["classes"]),
        "parameters": total,
        "trainable": trained,
        "batch": {name: list(value.shape) for name, value in batch.items()},
        "matched_in_batch": int(batch["is_matched"].sum()),
        "loss": round(loss.item(), 4),
        "decode_s_per_batch": round(decoding, 3),
        "step_s_per_batch": round(stepping, 3),
        "steps": steps,
        "memory_gb": round((peak + 8 * trained) / 1e9, 2),  # Adam's two moments come on top of what was measured
        "minutes": round(steps * per_step * per_batch / 60, 1),
    }
    for name, value in estimate.items():
        print(f"{name:>20}: {value}")
    return estimate


def peak_memory() -> int:
    """The most main memory that this process has held so far, in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil  # accelerate installs it

        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss)
    # ru_maxrss counts kilobytes on Linux and bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
