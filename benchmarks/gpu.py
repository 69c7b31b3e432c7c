# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of MA-AVT (ViT-B/16, bfloat16) on one GPU, in under 5 minutes.

    python -m benchmarks.gpu [--out FOLDER]
    python -m benchmarks.gpu --device cpu --small    # a trial of every step with a tiny model

Measured are forward and training step, eager and compiled, with each attention implementation that is installed: the
fraction of the card's own bfloat16 product rate, and the peak memory. Checked are host-device synchronizations of a
step, a float16 step with a gradient scaler, and a step with FSDP2. Settings for which no time is left, or that do not
fit into memory, are skipped, and the file says so. Needs PyTorch, Transformers and the model package; no data.
"""

import argparse
import copy
import json
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers.utils import is_flash_attn_2_available

from .figures import FOLDER, description, file_name, ordered
from .workload import (
    Step,
    build_batch,
    build_model,
    for_inference,
    forward_operations,
    inputs_of,
    interleaved,
    matrix_product,
    median,
    operations,
    synchronize,
)


TARGETS = {"forward": 0.55, "train": 0.45}
SECONDS_TO_COMPILE = 60  # no new graph is begun with less time left


class Benchmark:
    """Runs the settings one after the other and collects their numbers.

    Args:
        device: "cuda", or "cpu" for a trial.
        small: one block and a few clips.
        seconds: after which no further setting is begun.
    """

    def __init__(self, device: str, small: bool, seconds: float):
        self.device, self.small = device, small
        self.deadline = time.perf_counter() + seconds
        self.blocks = 1 if small else 12
        self.figures: dict[str, float | str] = {}
        self.rate = 0.0

        self.template = build_model(torch.bfloat16, blocks=self.blocks)  # weights are drawn once: it takes seconds

    def model(self) -> torch.nn.Module:
        """A new copy of the bfloat16 model."""
        return copy.deepcopy(self.template).to(self.device)

    def float32_model(self) -> torch.nn.Module:
        return build_model(torch.float32, self.device, self.blocks).train()

    def batch(self, clips: int, frames: int = 1, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
        return build_batch(clips, frames, dtype=dtype, device=self.device)

    def seconds(self, function: Callable) -> float:
        """Median seconds of a call, with the end of the device's work."""

        def call() -> None:
            function()
            synchronize(self.device)

        call()  # a second warm-up: kernels are chosen and memory is reserved
        return median(interleaved({"it": call}, 2 if self.small else 7)["it"])

    def measure_rate(self) -> None:
        """The bfloat16 product rate, which all fractions refer to."""
        multiply, count = matrix_product(torch.bfloat16, self.device, 256 if self.small else None)
        self.rate = count / self.seconds(multiply)
        self.figures["machine.gemm_gflops.bfloat16"] = self.rate / 1e9

    def attempt(self, name: str, function: Callable, needs_seconds: float = 5) -> None:
        """Run one setting; what goes wrong is written down and does not stop the others."""
        left = self.deadline - time.perf_counter()
        if left < needs_seconds:
            self.figures[name] = "skipped: out of time"
            return
        try:
            results = function()
            self.figures |= {f"{name}.{key}" if key else name: value for key, value in results.items()}
        except torch.OutOfMemoryError:
            self.figures[name] = "skipped: does not fit into memory"
        except Exception as error:
            self.figures[name] = f"failed: {type(error).__name__}: {error}"[:500]
        finally:
            torch._dynamo.reset()
            if self.device == "cuda":
                torch.cuda.empty_cache()
        print(f"{time.strftime('%X')} {name}", file=sys.stderr, flush=True)

    def speed(self, what: str, clips: int, frames: int, attention: str, way: str) -> dict[str, float]:
        """Seconds, fraction of the product rate and peak memory of a forward or a training step."""
        count = self.operations(what, clips, frames)
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        model = self.model()
        model.set_attn_implementation(attention)
        batch = self.batch(clips, frames)
        if way == "checkpointing":
            # Transformers renamed it
            enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
            enable()
        if what == "forward":
            model = for_inference(model)
        if way == "compiled":
            model = torch.compile(model, fullgraph=True, dynamic=False, backend="eager" if self.small else "inductor")
        if what == "forward":
            with torch.inference_mode():
                seconds = self.seconds(lambda: model(**inputs_of(batch)))
        else:
            seconds = self.seconds(Step(model, lambda model: model(**batch).loss))
        results = {"seconds": seconds, "gemm_fraction": count / seconds / self.rate}
        if self.device == "cuda":
            results["peak_mib"] = torch.cuda.max_memory_allocated() / (1 << 20)
        return results

    def operations(self, what: str, clips: int, frames: int) -> int:
        """Operations of the matrix products that run, counted on meta tensors."""
        model = copy.deepcopy(self.template)
        batch = build_batch(clips, frames, dtype=torch.bfloat16)
        if what == "forward":
            return forward_operations(for_inference(model), batch)
        model = model.to("meta").train()
        batch = {name: tensor.to("meta") for name, tensor in batch.items()}
        return operations(lambda: model(**batch).loss.backward())

    def synchronizations(self, clips: int) -> dict[str, int]:
        """How often a forward and a training step wait for the device."""
        batch = self.batch(clips)
        model = self.model()
        step = Step(model, lambda model: model(**batch).loss)
        functions = {"train": step, "forward": torch.inference_mode()(lambda: model(**inputs_of(batch)))}
        results = {}
        for name, function in functions.items():
            function()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                if self.device == "cuda":
                    torch.cuda.set_sync_debug_mode("warn")
                try:
                    function()
                finally:
                    if self.device == "cuda":
                        torch.cuda.set_sync_debug_mode("default")
            waits = [warning for warning in caught if "called a synchronizing" in str(warning.message)]
            results[name] = len(waits)
            for warning in waits[:5]:
                results[f"{name}.{Path(warning.filename).name}:{warning.lineno}"] = 1
        return results

    def scaled_float16_step(self, clips: int) -> dict[str, float]:
        """A float16 step with a gradient scaler: the loss, and whether all weights stay finite."""
        model = self.float32_model()
        batch = self.batch(clips, dtype=torch.float32)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4)
        dtype = torch.float16 if self.device == "cuda" else torch.bfloat16
        scaler = torch.amp.GradScaler(self.device, enabled=self.device == "cuda")
        for _ in range(3):
            with torch.autocast(self.device, dtype=dtype):
                loss = model(**batch).loss
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        finite = all(bool(parameter.isfinite().all()) for parameter in trained)
        return {"loss": float(loss.detach()), "finite": float(finite and bool(loss.isfinite()))}

    def sharded_step(self, clips: int) -> dict[str, float]:
        """A step with FSDP2 on one process, and the loss of the same step without it."""
        batch = self.batch(clips, dtype=torch.float32)
        model = self.float32_model()
        with torch.no_grad():
            expected = float(model(**batch).loss)
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"tcp://localhost:{free.getsockname()[1]}"
        backend = "nccl" if self.device == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=address, world_size=1, rank=0)
        try:
            mesh = dist.device_mesh.init_device_mesh(self.device, (1,))
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
            for layer in encoder_layers(model):
                fully_shard(layer, mesh=mesh, mp_policy=policy)
            fully_shard(model, mesh=mesh, mp_policy=policy)
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            optimizer = torch.optim.AdamW(trained, lr=1e-4)
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            return {"loss": float(loss.detach()), "unsharded_loss": expected}
        finally:
            dist.destroy_process_group()


def encoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The blocks of the encoder: the classes that the model names as units for sharding."""
    names = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def run(benchmark: Benchmark) -> None:
    """Every setting, the most important first."""
    large, medium, frame_counts = (256, 64, (4, 16)) if not benchmark.small else (3, 2, (2,))
    benchmark.measure_rate()
    benchmark.attempt("gpu.synchronizations", lambda: benchmark.synchronizations(medium))
    benchmark.attempt("gpu.float16_step", lambda: benchmark.scaled_float16_step(medium))
    benchmark.attempt("gpu.fsdp2_step", lambda: benchmark.sharded_step(medium))

    implementations = ["sdpa", *(["flash_attention_2"] if is_flash_attn_2_available() else [])]
    settings = []
    for attention in implementations:
        for clips in (large, medium):
            settings += [(what, clips, 1, attention, "eager") for what in TARGETS]
    settings.append(("train", large, 1, "sdpa", "checkpointing"))
    settings += [(what, large, 1, "sdpa", "compiled") for what in TARGETS]
    for frames in frame_counts:
        clips = medium if frames < 16 else medium // 4
        settings += [(what, clips, frames, "sdpa", "eager") for what in TARGETS]
    settings += [(what, medium, 1, "sdpa", "compiled") for what in TARGETS]
    settings += [(what, medium, frame_counts[0], "sdpa", "compiled") for what in TARGETS]

    if benchmark.small:
        settings = settings[:2] + settings[-4:-2]

    for what, clips, frames, attention, way in settings:
        name = f"gpu.{attention}.{way}.batch{clips}.frames{frames}.{what}"
        needed = SECONDS_TO_COMPILE if way == "compiled" and not benchmark.small else 8
        benchmark.attempt(
            name,
            lambda what=what, clips=clips, frames=frames, attention=attention, way=way: benchmark.speed(
                what, clips, frames, attention, way
            ),
            needed,
        )


def short_table(figures: dict) -> str:
    """The fractions and peaks as Markdown, with what was skipped or failed."""
    lines = ["| setting | fraction of the product rate | target | ms | peak MiB |", "|---|---|---|---|---|"]
    for name, fraction in figures.items():
        if not name.endswith(".gemm_fraction"):
            continue
        setting = name.removeprefix("gpu.").removesuffix(".gemm_fraction")
        stem = name.removesuffix(".gemm_fraction")
        target = TARGETS[setting.rsplit(".", 1)[1]]
        peak = figures.get(f"{stem}.peak_mib", 0.0)
        lines.append(
            f"| {setting} | {fraction:.2f} | {target} | {1000 * figures[f'{stem}.seconds']:.1f} | {peak:.0f} |"
        )
    for name, value in figures.items():
        is_check = name.startswith(("gpu.synchronizations", "gpu.float16_step", "gpu.fsdp2_step"))
        if is_check or (name.startswith("gpu.") and isinstance(value, str)):
            lines.append(f"{name}: {value}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="one block and a few clips: a trial of every step")
    parser.add_argument("--seconds", type=float, default=250, help="after which no further setting is begun")
    parser.add_argument("--out", type=Path, default=os.environ.get("BENCH_OUT") or FOLDER)
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks.gpu: no CUDA device is visible; use --device cpu --small for a trial", file=sys.stderr)
        return 1
    benchmark = Benchmark(options.device, options.small, options.seconds)
    run(benchmark)
    figures = description(options.device) | benchmark.figures
    path = Path(options.out) / f"gpu-{file_name(figures)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(ordered(figures), indent=1) + "\n", encoding="utf-8")
    print(short_table(figures))
    print(f"written to {path}")
    failed = [name for name, value in figures.items() if str(value).startswith("failed")]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
