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
from torch._inductor import config as inductor
from torch._inductor import cpp_builder

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


def compiled(model: torch.nn.Module) -> Callable | None:
    """`torch.compile` in one graph, with weights that are known to stay; None without a C++ compiler."""
    try:
        cpp_builder.get_cpp_compiler()
    except RuntimeError:
        return None
    fast = torch.compile(model, fullgraph=True)

    def run(**inputs: torch.Tensor) -> dict:
        # freezing takes no tensors of inference mode
        with torch.inference_mode(False), torch.no_grad(), inductor.patch(freezing=True):
            return fast(**inputs)

    return run


def forward(repeats: int, clips: int, blocks: int) -> dict[str, float]:
    batch, results = build_batch(clips), {}
    plain = PlainPort(build_model(blocks=blocks)).eval()
    models = {name: for_inference(build_model(dtype, blocks=blocks)) for name, dtype in DTYPES.items()}
    inputs = {name: {key: value.to(DTYPES[name]) for key, value in inputs_of(batch).items()} for name in DTYPES}
    functions = {"plain": lambda: plain(*inputs_of(batch).values())}
    functions |= {name: (lambda name=name: models[name](**inputs[name])) for name in DTYPES}
    ways = {name: name for name in DTYPES}
    whole = compiled(for_inference(build_model(torch.bfloat16, blocks=blocks)))
    if whole is not None:
        functions["bfloat16.compiled"], ways["bfloat16.compiled"] = (lambda: whole(**inputs["bfloat16"])), "bfloat16"
    counts = {}
    for name, dtype in DTYPES.items():
        functions[f"gemm.{name}"], counts[f"gemm.{name}"] = product(dtype)
        counts[name] = executed(lambda dtype=dtype: for_inference(build_model(dtype, blocks=blocks)), batch)
    with torch.inference_mode():
        expected = functions["plain"]()
        for way, name in ways.items():
            for key in ("logits", "match_logits"):
                found = functions[way]()[key]
                results[f"equality.forward.{way}.{key}"] = check_equal(
                    f"{way} {key}", found, expected[key], TOLERANCE[name]
                )
        seconds = interleaved(functions, repeats)
    for way, name in ways.items():
        results[f"speedup.forward.{way}"] = ratio(seconds, "plain", way)
        # the product that ran in the same turn saw the same machine
        per_operation = {
            "ours": [value / counts[name] for value in seconds[way]],
            "gemm": [value / counts[f"gemm.{name}"] for value in seconds[f"gemm.{name}"]],
        }
        results[f"gemm_fraction.forward.{way}"] = ratio(per_operation, "gemm", "ours")
        results[f"forward.seconds.{way}"] = median(seconds[way])
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
