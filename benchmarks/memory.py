# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a training step: the highest resident size of a new process minus its size after imports.

python -m benchmarks.memory           # all kinds, each in a process of its own
python -m benchmarks.memory float32   # one, in this process
"""

import argparse
import json
import time

import torch

from .fresh import in_forked_process, memory_mib
from .plain_port import PlainPort
from .workload import BATCH, Step, build_batch, build_model


KINDS = ("plain", "float32", "bfloat16", "checkpointing")  # the last in bfloat16


def one(
    kind: str, clips: int = BATCH, frames: int = 1, num_labels: int = 309, blocks: int = 12, steps: int = 2
) -> dict[str, float]:
    """MiB and seconds of the fastest of `steps` training steps, of which the first is not counted."""
    before = memory_mib()
    dtype = torch.float32 if kind in ("plain", "float32") else torch.bfloat16
    model = build_model(dtype, blocks=blocks, num_labels=num_labels)
    batch = build_batch(clips, frames, num_labels=num_labels, dtype=dtype)
    if kind == "checkpointing":
        model.gradient_checkpointing_enable()
    if kind == "plain":
        model = PlainPort(model)
        step = Step(model, lambda model: model(*batch.values())["loss"])
    else:
        step = Step(model, lambda model: model(**batch).loss)
    del model
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return {"mib": memory_mib(peak=True) - before, "seconds": min(seconds[1:])}


def measure(blocks: int = 12) -> dict[str, float]:
    """Peaks in MiB and as fractions of the plain port's."""
    peaks = {kind: in_forked_process("benchmarks.memory", "one", kind=kind, blocks=blocks)["mib"] for kind in KINDS}
    results = {f"memory.train.{kind}": peaks[kind] / peaks["plain"] for kind in KINDS[1:]}
    return results | {f"memory.train.mib.{kind}": peak for kind, peak in peaks.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", nargs="?", choices=KINDS)
    for name, default in (("clips", BATCH), ("frames", 1), ("num_labels", 309), ("blocks", 12)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = vars(parser.parse_args())
    kind = options.pop("kind")
    print(json.dumps(one(kind, **options) if kind else measure(options["blocks"])))
