# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The table of docs/performance.md on one GPU; needs the repository and its packages, no data and no network.

    python -m benchmarks.gpu [--batch 8 32 128 256] [--frames 1 4 8 16] [--out FOLDER]

Every line is the bfloat16 model with one attention implementation, compiled or not, at one batch and number of frames:
seconds of a forward and a training step, the share of the card's own bfloat16 matrix rate, peak memory. A line that does
not fit into memory is left out and said so.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from transformers.utils import is_flash_attn_2_available

from .bench import file_name, ordered, write
from .fresh import REPOSITORY
from .machine import description, measure, synchronize
from .plain_port import PlainPort
from .speed import check_equal, executed
from .workload import Step, build_batch, build_model, for_inference, inputs_of, interleaved, median, operations


DEVICE = "cuda"


def timed(function, repeats: int = 7) -> float:
    def once() -> None:
        function()
        synchronize(DEVICE)

    return median(interleaved({"it": once}, repeats)["it"])


def line(attention: str, compiled: bool, clips: int, frames: int, rate: float) -> dict[str, float]:
    """Figures of one setting, by the end of their names."""
    batch = build_batch(clips, frames, dtype=torch.bfloat16)
    gflop = executed(lambda: for_inference(build_model(torch.bfloat16)), batch) / 1e9
    meta_model = build_model(torch.bfloat16).to("meta").train()
    meta_batch = {name: value.to("meta") for name, value in batch.items()}
    train_gflop = operations(lambda: meta_model(**meta_batch).loss.backward()) / 1e9
    batch = {name: value.to(DEVICE) for name, value in batch.items()}
    results = {}
    for train in (False, True):
        torch.cuda.reset_peak_memory_stats()
        model = build_model(torch.bfloat16, DEVICE)
        model.set_attn_implementation(attention)
        if train:
            model = torch.compile(model, fullgraph=True) if compiled else model
            step = Step(model, lambda model: model(**batch).loss)
            seconds, done = timed(step), train_gflop
        else:
            model = for_inference(model)
            model = torch.compile(model, fullgraph=True) if compiled else model
            with torch.inference_mode():
                seconds, done = timed(lambda model=model: model(**inputs_of(batch))), gflop
        name = "train" if train else "forward"
        results[f"{name}.seconds"] = seconds
        results[f"{name}.gemm_fraction"] = done / seconds / rate
        results[f"{name}.peak_mib"] = torch.cuda.max_memory_allocated() / (1 << 20)
        del model
        torch.cuda.empty_cache()
    return results


def against_plain_port(clips: int = 8) -> dict[str, float]:
    """Float32 beside float32, without TF32 on either side; equal outputs are the condition."""
    batch = build_batch(clips, device=DEVICE)
    plain = PlainPort(build_model()).to(DEVICE).eval()
    ours, lean = for_inference(build_model()).to(DEVICE), for_inference(build_model(torch.bfloat16)).to(DEVICE)
    inputs = inputs_of(batch)
    halves = {name: value.bfloat16() for name, value in inputs.items()}
    with torch.inference_mode():
        expected = plain(*inputs.values())["logits"]
        results = {
            "equality.forward.float32.logits": check_equal("float32", ours(**inputs).logits, expected, 1e-3),
            "equality.forward.bfloat16.logits": check_equal("bfloat16", lean(**halves).logits, expected, 0.1),
        }
        base = timed(lambda: plain(*inputs.values()))
        results["speedup.forward.float32"] = base / timed(lambda: ours(**inputs))
        results["speedup.forward.bfloat16"] = base / timed(lambda: lean(**halves))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32, 128, 256])
    parser.add_argument("--frames", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--out", default=os.environ.get("BENCH_OUT") or REPOSITORY / "benchmarks" / "results")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench-gpu: no CUDA device is visible; run it where torch.cuda.is_available() holds", file=sys.stderr)
        return 1
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    figures = {**description(DEVICE), **measure(DEVICE), **against_plain_port()}
    path = Path(options.out) / file_name(figures)
    rate = figures["machine.gemm_gflops.bfloat16"]
    implementations = ["sdpa", *(["flash_attention_2"] if is_flash_attn_2_available() else [])]
    settings = [(clips, 1) for clips in options.batch] + [(8, frames) for frames in options.frames if frames > 1]
    for attention in implementations:
        for compiled in (False, True):
            for clips, frames in settings:
                name = f"gpu.{attention}.{'compiled' if compiled else 'plain'}.batch{clips}.frames{frames}"
                try:
                    found = line(attention, compiled, clips, frames, rate)
                except torch.OutOfMemoryError:
                    print(f"{name}: does not fit into memory", flush=True)
                    torch.cuda.empty_cache()
                    continue
                figures |= {f"{name}.{key}": value for key, value in found.items()}
                print(name, {key: round(value, 4) for key, value in found.items()}, flush=True)
                write(path, figures)
    for key, value in ordered(figures).items():
        print(f"{key:60s} {value}")
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
