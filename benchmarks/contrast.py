# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The contrastive loss across 1, 8 and 64 processes, simulated in one: bytes that are received, and memory.

    python -m benchmarks.contrast [--out benchmarks/results]

PyTorch's "fake" process group takes part in every exchange and sends nothing, so one process does exactly the work of one
of 64. ViT-B/16's size: 12 blocks, projections of width 512, 32 pairs a process, float32. Bytes are what a process
receives in an all-gather, and receives again in the reduce-scatter of the gradient. "each scores all pairs" is the plain
way, in which every process computes the whole matrix of scores and gradients come back by an all-reduce.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from modeling_maavt import losses_maavt
from processing.data.atomic_writing import write_text

from .figures import FOLDER, description
from .fresh import in_fresh_process, memory_mib


PAIRS, BLOCKS, WIDTH, TEMPERATURE = 32, 12, 512, 0.07
WORLDS = (1, 8, 64)


def plain_loss(video: torch.Tensor, audio: torch.Tensor, mask: torch.Tensor, temperature: float) -> torch.Tensor:
    """Equation 2 with the whole matrix of scores in every process."""
    features = torch.nn.functional.normalize(torch.stack([video, audio], dim=1), dim=-1)
    features, mask, _ = losses_maavt.gather_pairs(features, mask, torch.zeros(len(mask), dtype=torch.long))
    video, audio = features.permute(1, 2, 0, 3)
    scores = video @ audio.transpose(1, 2) / temperature  # (L, N, N)
    scores = scores.masked_fill(~(mask[:, None] & mask[None, :]), float("-inf"))
    losses = (scores.logsumexp(2) + scores.logsumexp(1)) / 2 - scores.diagonal(dim1=1, dim2=2)
    return losses.sum(1) / mask.sum()


def step(world: int, way: str) -> dict[str, float]:
    """MiB at the peak of a forward and backward pass above what was there before."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("fake", rank=1, world_size=world, store=FakeStore())
    generator = torch.Generator().manual_seed(0)
    video, audio = (torch.randn(PAIRS, BLOCKS, WIDTH, generator=generator, requires_grad=True) for _ in range(2))
    mask = torch.ones(PAIRS, dtype=torch.bool)
    loss_of = losses_maavt.contrastive_loss if way == "own" else plain_loss
    warm = torch.randn(64, 64, requires_grad=True)  # threads and memory of autograd itself
    (warm @ warm).sum().backward()
    before = memory_mib()
    loss_of(video, audio, mask, TEMPERATURE).mean().backward()
    return {"mib": memory_mib(peak=True) - before}


def bytes_of(world: int, way: str) -> float:
    """MiB that a process receives a step: others' rows, and the gradients of its own rows (a ring's counts)."""
    rows = PAIRS * (2 * BLOCKS * WIDTH + 2) * 4 / 2**20
    gathered = (world - 1) * rows
    return gathered * (2 if way == "own" else 3)  # an all-reduce is a reduce-scatter and an all-gather


def markdown(results: dict) -> str:
    machine = results["machine"]
    lines = [
        f"{machine['hardware']}, one thread, PyTorch {machine['torch']}. `python -m benchmarks.contrast`",
        "",
        f"{PAIRS} pairs a process, {BLOCKS} blocks, projections of width {WIDTH}, float32; one process of a simulated group.",
        "",
        "| processes | way | received, MiB a step | memory, MiB |",
        "|---|---|---|---|",
    ]
    names = {"own": "each scores its own pairs", "plain": "each scores all pairs"}
    for world in WORLDS:
        for way, name in names.items():
            run = results[f"{world} {way}"]
            lines.append(f"| {world} | {name} | {run['received']:.0f} | {run['mib']:.0f} |")
    node = results["8 own"]
    lines += [
        "",
        f"Contrast within a node of 8 would cost what 8 processes cost: {node['received']:.0f} MiB, {node['mib']:.0f} MiB.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--step", nargs=2, metavar=("WORLD", "WAY"), help="one step in this process")
    options = parser.parse_args()
    if options.step:
        print(json.dumps(step(int(options.step[0]), options.step[1])))
        return
    results: dict = {"machine": description()}
    for world in WORLDS:
        for way in ("own", "plain"):
            run = in_fresh_process("benchmarks.contrast", "--step", str(world), way, threads=1)
            results[f"{world} {way}"] = run | {"received": bytes_of(world, way)}
    write_text(options.out / "contrast.json", json.dumps(results, indent=1) + "\n")
    write_text(options.out / "contrast.md", markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    sys.exit(main())
