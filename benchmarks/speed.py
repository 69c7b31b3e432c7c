# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Forward and training step in float32 and bfloat16, beside the plain port and the machine's product rate.

    python -m benchmarks.speed [--before FOLDER]

Nothing is timed unless outputs and losses equal the plain port's. With `--before`, the model of another checkout of the
repository runs in the same turns, in a process of its own.
"""

import argparse
import gc
import json
import sys
from collections.abc import Callable

import torch
from torch._inductor import config as inductor
from torch._inductor import cpp_builder

from .fresh import OtherCheckout
from .plain_port import PlainPort
from .workload import (
    BATCH,
    DTYPES,
    Step,
    build_batch,
    build_model,
    check_equal,
    for_inference,
    forward_operations,
    inputs_of,
    interleaved,
    matrix_product,
    median,
    ratio,
)


TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}  # of logits, relative to their largest; bfloat16 keeps 8 bits a block


def compiled(model: torch.nn.Module) -> Callable:
    """The model through `torch.compile`, in one graph, with weights that the compiler may treat as constants."""
    compiled_model = torch.compile(model, fullgraph=True)

    def run(**inputs: torch.Tensor) -> dict:
        # freezing takes no tensors of inference mode
        with torch.inference_mode(False), torch.no_grad(), inductor.patch(freezing=True):
            return compiled_model(**inputs)

    return run


def can_compile() -> bool:
    """Whether a C++ compiler is installed."""
    try:
        cpp_builder.get_cpp_compiler()
    except RuntimeError:
        return False
    return True


def batches_of(clips: int) -> dict[str, dict[str, torch.Tensor]]:
    """One batch in each dtype."""
    return {name: build_batch(clips, dtype=dtype) for name, dtype in DTYPES.items()}


def forward_functions(clips: int, blocks: int) -> dict[str, Callable]:
    """Forward passes by name: `forward.<dtype>` and, with a compiler, `forward.<dtype>.compiled`."""
    functions = {}
    for name, batch in batches_of(clips).items():
        model = for_inference(build_model(DTYPES[name], blocks=blocks))
        functions[f"forward.{name}"] = lambda model=model, batch=batch: model(**inputs_of(batch))
        if can_compile():
            fast = compiled(for_inference(build_model(DTYPES[name], blocks=blocks)))
            functions[f"forward.{name}.compiled"] = lambda fast=fast, batch=batch: fast(**inputs_of(batch))
    return {name: torch.inference_mode()(function) for name, function in functions.items()}


def train_functions(clips: int, blocks: int) -> dict[str, Callable]:
    """Training steps by name: `train.<dtype>`."""
    return {
        f"train.{name}": Step(build_model(DTYPES[name], blocks=blocks), lambda model, batch=batch: model(**batch).loss)
        for name, batch in batches_of(clips).items()
    }


def serve(blocks: int, clips: int) -> None:
    """Run the functions whose names come in, one a line, and write each name back when it is done."""
    functions = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in functions:
            # the models of the last kind make room
            build = forward_functions if name.startswith("forward") else train_functions
            functions = build(clips, blocks)
        functions[name]()
        print(name, flush=True)


def with_other_checkout(functions: dict[str, Callable], other: OtherCheckout | None) -> dict[str, Callable]:
    """The functions, each followed by its counterpart `before.<name>` in the other checkout."""
    if other is None:
        return functions
    pairs = {}
    for name, function in functions.items():
        pairs[name] = function
        pairs[f"before.{name}"] = lambda name=name: other.run(name)
    return pairs


def forward(repeats: int, clips: int, blocks: int, other: OtherCheckout | None = None) -> dict[str, float]:
    results = {}
    models = forward_functions(clips, blocks)

    # outputs first
    batch = build_batch(clips)
    plain = PlainPort(build_model(blocks=blocks)).eval()
    run_plain = torch.inference_mode()(lambda: plain(*inputs_of(batch).values()))
    expected = run_plain()
    for name, function in models.items():
        outputs = function()
        for key in ("logits", "match_logits"):
            tolerance = TOLERANCE[name.split(".")[1]]
            results[f"equality.{name}.{key}"] = check_equal(f"{name} {key}", outputs[key], expected[key], tolerance)

    # time: the products run in the same turns, so that they see the same machine
    functions = with_other_checkout(models, other) | {"forward.plain": run_plain}
    products = {name: matrix_product(dtype) for name, dtype in DTYPES.items()}
    functions |= {f"gemm.{name}": multiply for name, (multiply, _) in products.items()}
    seconds = interleaved(functions, repeats)
    for dtype in DTYPES:
        count = forward_operations(for_inference(build_model(DTYPES[dtype], blocks=blocks)), batch)
        results[f"forward.gflop.{dtype}"] = count / 1e9
        # seconds that the operations of a forward take at the product rate
        at_product_rate = [value * count / products[dtype][1] for value in seconds[f"gemm.{dtype}"]]
        for name in functions:
            if f"forward.{dtype}" in name:
                turns = {"product": at_product_rate, "model": seconds[name]}
                results[name.replace("forward", "gemm_fraction.forward")] = ratio(turns, "product", "model")
    return results | speedups(seconds, "forward")


def train(repeats: int, clips: int, blocks: int, other: OtherCheckout | None = None) -> dict[str, float]:
    results = {}
    steps = train_functions(clips, blocks)
    batch = build_batch(clips)
    run_plain = Step(PlainPort(build_model(blocks=blocks)), lambda model: model(*batch.values())["loss"])
    expected = run_plain()
    for name, step in steps.items():
        results[f"equality.{name}.loss"] = check_equal(f"{name} loss", step(), expected, TOLERANCE[name.split(".")[1]])
    seconds = interleaved(with_other_checkout(steps, other) | {"train.plain": run_plain}, repeats)
    return results | speedups(seconds, "train")


def speedups(seconds: dict[str, list[float]], what: str) -> dict[str, float]:
    """`speedup.<what>.*` over the plain port, `change.<what>.*` over the other checkout, and median seconds."""
    results = {}
    for name in seconds:
        if what not in name:
            continue
        results[name.replace(what, f"{what}.seconds")] = median(seconds[name])
        if name != f"{what}.plain":
            results[name.replace(what, f"speedup.{what}")] = ratio(seconds, f"{what}.plain", name)
        if f"before.{name}" in seconds:
            results[f"change.{name}"] = ratio(seconds, f"before.{name}", name)
    return results


def prompts_from_block(clips: int = BATCH, blocks: int = 12, repeats: int = 5) -> dict[str, float]:
    """A bfloat16 training step with prompts from block 8 of 12, with and without cached block states."""
    start = blocks * 2 // 3
    batch = build_batch(clips, dtype=torch.bfloat16)
    model = build_model(torch.bfloat16, blocks=blocks)
    later = build_model(torch.bfloat16, blocks=blocks, prompt_start_layer=start)
    video, audio = later.eval().maavt.block_states(**inputs_of(batch))
    cached = {name: tensor for name, tensor in batch.items() if name not in inputs_of(batch)}
    cached |= {"video_block_states": video, "audio_block_states": audio}
    with torch.no_grad():
        difference = check_equal("logits from cached states", later(**cached).logits, later(**batch).logits, 1e-2)
    steps = {
        "from_block_0": Step(model, lambda model: model(**batch).loss),
        "cached": Step(later, lambda model: model(**cached).loss),
        "frames": Step(later, lambda model: model(**batch).loss),
    }
    seconds = interleaved(steps, repeats)
    return {
        "prompts_from_block.speedup": ratio(seconds, "from_block_0", "cached"),
        "prompts_from_block.speedup.from_frames": ratio(seconds, "from_block_0", "frames"),
        "prompts_from_block.seconds": median(seconds["cached"]),
        "prompts_from_block.mib_per_clip": (video.nbytes + audio.nbytes) / clips / (1 << 20),
        "prompts_from_block.block": start,
        "equality.prompts_from_block.logits": difference,
    }


def measure(repeats: int = 7, clips: int = BATCH, blocks: int = 12, before: str | None = None) -> dict[str, float]:
    """ViT-B/16, one frame a clip. Keys are as in the JSON file."""
    other = OtherCheckout(before, blocks, clips) if before else None
    try:
        results = forward(repeats, clips, blocks, other)
        gc.collect()
        results |= train(repeats, clips, blocks, other)
    finally:
        if other is not None:
            other.close()
    gc.collect()
    return results | prompts_from_block(clips, blocks)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=BATCH)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--before", metavar="FOLDER", help="another checkout of the repository")
    print(json.dumps(measure(**vars(parser.parse_args())), indent=1))
