# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Forward and training step beside the plain port, in float32 and bfloat16; equal outputs are the condition.

python -m benchmarks.speed
"""

import argparse
import gc
import json
from collections.abc import Callable

import torch

from .machine import product
from .plain_port import PlainPort
from .workload import (
    BATCH,
    Step,
    build_batch,
    build_model,
    for_inference,
    inputs_of,
    interleaved,
    median,
    operations,
    ratio,
)


TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}  # of logits, relative to their largest; bfloat16 keeps 8 bits a block
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def check_equal(name: str, found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> float:
    """The largest difference relative to the largest value.

    Raises:
        AssertionError: it is above the tolerance: a ratio of times would compare different things.
    """
    difference = float((found.float() - expected.float()).abs().max() / expected.float().abs().max())
    if not difference <= tolerance:
        raise AssertionError(f"{name}: ours differs from the plain port by {difference:.2e} (at most {tolerance:g})")
    return difference


def executed(model_of: Callable, batch: dict[str, torch.Tensor]) -> int:
    """Operations that a forward really runs on a batch, counted on meta tensors."""
    model = model_of().to("meta")
    inputs = {name: value.to("meta") for name, value in inputs_of(batch).items()}
    with torch.inference_mode():
        return operations(lambda: model(**inputs))


def forward(repeats: int, clips: int, blocks: int) -> dict[str, float]:
    batch, results = build_batch(clips), {}
    plain = PlainPort(build_model(blocks=blocks)).eval()
    models = {name: for_inference(build_model(dtype, blocks=blocks)) for name, dtype in DTYPES.items()}
    inputs = {name: {key: value.to(DTYPES[name]) for key, value in inputs_of(batch).items()} for name in DTYPES}
    functions = {"plain": lambda: plain(*inputs_of(batch).values())}
    functions |= {name: (lambda name=name: models[name](**inputs[name])) for name in DTYPES}
    counts = {}
    for name, dtype in DTYPES.items():
        functions[f"gemm.{name}"], counts[f"gemm.{name}"] = product(dtype)
        counts[name] = executed(lambda dtype=dtype: for_inference(build_model(dtype, blocks=blocks)), batch)
    with torch.inference_mode():
        expected = functions["plain"]()
        for name in DTYPES:
            for key in ("logits", "match_logits"):
                found = functions[name]()[key]
                results[f"equality.forward.{name}.{key}"] = check_equal(
                    f"{name} {key}", found, expected[key], TOLERANCE[name]
                )
        seconds = interleaved(functions, repeats)
    for name in DTYPES:
        results[f"speedup.forward.{name}"] = ratio(seconds, "plain", name)
        # the product that ran in the same turn saw the same machine
        per_operation = {key: [value / counts[key] for value in seconds[key]] for key in (name, f"gemm.{name}")}
        results[f"gemm_fraction.forward.{name}"] = ratio(per_operation, f"gemm.{name}", name)
        results[f"forward.seconds.{name}"] = median(seconds[name])
        results[f"forward.gflop.{name}"] = counts[name] / 1e9
    results["forward.seconds.plain"] = median(seconds["plain"])
    return results


def train(repeats: int, clips: int, blocks: int) -> dict[str, float]:
    batch, results = build_batch(clips), {}
    plain = PlainPort(build_model(blocks=blocks))
    models = {name: build_model(dtype, blocks=blocks) for name, dtype in DTYPES.items()}
    batches = {
        name: {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.items()}
        for name, dtype in DTYPES.items()
    }
    steps = {"plain": Step(plain, lambda model: model(*batch.values())["loss"])}
    steps |= {name: Step(models[name], lambda model, name=name: model(**batches[name]).loss) for name in DTYPES}
    expected = steps["plain"]()  # this also is the warm-up
    for name in DTYPES:
        results[f"equality.train.{name}.loss"] = check_equal(f"{name} loss", steps[name](), expected, TOLERANCE[name])
    seconds = interleaved(steps, repeats, warm=True)
    for name in DTYPES:
        results[f"speedup.train.{name}"] = ratio(seconds, "plain", name)
        results[f"train.seconds.{name}"] = median(seconds[name])
    results["train.seconds.plain"] = median(seconds["plain"])
    return results


def measure(repeats: int = 5, clips: int = BATCH, blocks: int = 12) -> dict[str, float]:
    """Names as in the JSON; ratios against the plain port at ViT-B/16, one frame a clip."""
    results = forward(repeats, clips, blocks)
    gc.collect()
    return results | train(repeats, clips, blocks)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=BATCH)
    parser.add_argument("--blocks", type=int, default=12)
    options = parser.parse_args()
    print(json.dumps(measure(clips=options.clips, blocks=options.blocks), indent=1))
