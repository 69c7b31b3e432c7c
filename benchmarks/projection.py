# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A training step on 8 and 64 H200s on paper: bytes sent, their time at most, and cores for the data loaders.

    python -m benchmarks.projection benchmarks/results/FILE.json

Bytes and operations are counted on the model. The seconds of a step on one card are those of `make bench-gpu` where the
file has them, else the least that the card's peak allows. The rate of a data loader on one core is the file's.

Assumed: one frame a clip, `CLIPS` clips a card, data parallel. Collectives run as rings: an all-reduce of v bytes sends
2 (n - 1) / n v; a gather of b bytes a card and its reduce-scatter send (n - 1) b each. Nothing overlaps with computation.
"""

import argparse
import json
from pathlib import Path

import torch

from modeling_maavt import MAAVTConfig

from .figures import read
from .workload import build_batch, build_model, operations


CLIPS = 256
PEAK_FLOPS = 989.4e12  # H200 SXM, dense bfloat16, from the data sheet
LINKS = {8: 450e9, 64: 50e9}  # bytes a second, one way: NVLink 4, and one 400 Gb/s port a card
MEASURED = "gpu.sdpa.compiled.batch256.frames1.train.seconds"


def sent_bytes(count: int, gradient: float, rows: float) -> float:
    """What each of `count` processes sends in a step: gradients, gathered rows, and these rows' gradients."""
    return 2 * (count - 1) / count * gradient + 2 * (count - 1) * rows


def gathered_bytes(config: MAAVTConfig, clips: int) -> int:
    """Of one process: both projections of every prompted block in float32, mask and label (losses_maavt.gather_pairs)."""
    blocks = config.num_hidden_layers - config.prompt_start_layer
    return clips * 4 * (2 * blocks * config.contrastive_dim + 2)


def counted(clips: int) -> dict[str, float]:
    """Bytes of the trained gradients and of the rows that a process gathers, operations of a step."""
    model = build_model(torch.bfloat16).train()
    trained = sum(4 * weight.numel() for weight in model.parameters() if weight.requires_grad)
    config = model.config
    model = model.to("meta")
    batch = {name: tensor.to("meta") for name, tensor in build_batch(1, dtype=torch.bfloat16).items()}
    return {
        "gradient_bytes": trained,
        "gathered_bytes": gathered_bytes(config, clips),
        "flop": clips * operations(lambda: model(**batch).loss.backward()),
    }


def project(figures: dict, clips: int = CLIPS) -> dict[str, float | str]:
    """`projection.*` from the figures of a benchmark."""
    counts = counted(clips)
    results: dict[str, float | str] = {f"projection.{name}": count for name, count in counts.items()}
    seconds = figures.get(MEASURED, counts["flop"] / PEAK_FLOPS)
    results["projection.clips_per_card"] = clips
    results["projection.step_seconds"] = seconds
    results["projection.step_seconds.from"] = "measured" if MEASURED in figures else "the card's peak: a lower bound"
    for cards, link in LINKS.items():
        sent = sent_bytes(cards, counts["gradient_bytes"], counts["gathered_bytes"])
        results[f"projection.{cards}.sent_bytes"] = sent
        results[f"projection.{cards}.communication_seconds"] = sent / link
        results[f"projection.{cards}.efficiency"] = seconds / (seconds + sent / link)
    for source in ("decoded", "cached", "states"):
        rate = figures.get(f"loader.clips_per_second.{source}")
        if rate:
            results[f"projection.loader_cores_per_card.{source}"] = clips / seconds / rate
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    print(json.dumps(project(read(parser.parse_args().file)), indent=1))
