# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""8 and 64 H200s on paper: what a training step sends, what that may cost at most, and which loaders it needs.

    python -m benchmarks.projection benchmarks/results/FILE.json

Writes into the file and prints. Bytes and operations are counted on the model. A step's seconds t on a card are those that `make bench-gpu` measured; where
none are in the file, the shortest that the published peak of the card allows: every other t costs less communication and
fewer loaders, so that all figures are bounds. Loader rates are the file's, of one core of its machine.

Assumed: one frame a clip, `CLIPS` clips a card, data parallel; rings, so that an all-reduce of v bytes sends 2 (n - 1) / n v
and a gather of b bytes a card (n - 1) b; nothing overlaps with computation; the link is the slowest of the ring.
"""

import argparse
import json
from pathlib import Path

import torch

from modeling_maavt import MAAVTConfig

from .workload import build_batch, build_model, operations


CLIPS = 256
PEAK_FLOPS = 989.4e12  # H200 SXM, dense bfloat16, as published by NVIDIA
LINKS = {
    8: 450e9,
    64: 50e9,
}  # bytes a second, one way, as published: NVLink 4 (900 GB/s both ways), one 400 Gb/s port a card
MEASURED = "gpu.sdpa.compiled.batch256.frames1.train.seconds"


def sent_bytes(count: int, gradient: float, rows: float) -> float:
    """What each of `count` processes sends in a step: gradients, gathered rows, and these rows' gradients."""
    return 2 * (count - 1) / count * gradient + (count - 1) * rows + 2 * (count - 1) * rows


def gathered_bytes(config: MAAVTConfig, clips: int) -> int:
    """Of one process: both projections of every prompted block in float32, mask and label (losses_maavt.gather_pairs)."""
    blocks = config.num_hidden_layers - config.prompt_start_layer
    return clips * 4 * (2 * blocks * config.contrastive_dim + 2)


def counted(clips: int) -> dict[str, float]:
    """Bytes of the trained gradients and of the rows that a process gathers, operations of a step."""
    model = build_model(torch.bfloat16).train()
    trained = sum(4 * value.numel() for value in model.parameters() if value.requires_grad)
    config = model.config
    model = model.to("meta")
    batch = {name: value.to("meta") for name, value in build_batch(1, dtype=torch.bfloat16).items()}
    return {
        "gradient_bytes": trained,
        "gathered_bytes": gathered_bytes(config, clips),
        "flop": clips * operations(lambda: model(**batch).loss.backward()),
    }


def project(figures: dict, clips: int = CLIPS) -> dict[str, float | str]:
    """`projection.*` from the figures of a benchmark."""
    found = counted(clips)
    seconds = figures.get(MEASURED, found["flop"] / PEAK_FLOPS)
    results: dict[str, float | str] = {f"projection.{name}": value for name, value in found.items()}
    results["projection.clips_per_card"] = clips
    results["projection.step_seconds"] = seconds
    results["projection.step_seconds.from"] = "measured" if MEASURED in figures else "published peak: a lower bound"
    for count, link in LINKS.items():
        sent = sent_bytes(count, found["gradient_bytes"], found["gathered_bytes"])
        results[f"projection.{count}.sent_bytes"] = sent
        results[f"projection.{count}.communication_seconds"] = sent / link
        results[f"projection.{count}.efficiency"] = seconds / (seconds + sent / link)
    for source in ("decoded", "cached", "states"):
        rate = figures.get(f"loader.clips_per_second.{source}")
        if rate:
            results[f"projection.loader_cores_per_card.{source}"] = clips / seconds / rate
    return results


if __name__ == "__main__":
    from .bench import write  # which imports this module

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    figures = json.loads(file.read_text(encoding="utf-8"))
    found = project(figures)
    write(file, figures | found)
    print(json.dumps(found, indent=1))
