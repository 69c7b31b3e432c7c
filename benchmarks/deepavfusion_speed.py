# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""How much faster DeepAVFusion's exact shortcuts are than the literal reading, in one run, at ViT-B size; prints JSON.

    python -m benchmarks.deepavfusion_speed --threads 2 --repeats 7 --out benchmarks/results

Both hold the same weights and see the same inputs; they take turns, and the median of all repeats counts. It stops where
their outputs differ. `step_*` is a step of pre-training, forward and backward, with decoders and loss, without the
optimizer; `*_bf16` compares our encoder in bfloat16 with itself in float32.
"""

import argparse
import copy
import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch


ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from reference_deepavfusion import Encoder, PreTraining  # noqa: E402

from benchmarks.bench import file_name  # noqa: E402
from benchmarks.machine import description  # noqa: E402
from modeling_deepavfusion import DeepAVFusionConfig, DeepAVFusionForPreTraining, DeepAVFusionModel  # noqa: E402
from modeling_deepavfusion.convert_deepavfusion import reference_state_dict  # noqa: E402
from modeling_deepavfusion.losses_deepavfusion import reconstruction_loss  # noqa: E402
from modeling_deepavfusion.pretraining_and_classification_deepavfusion import patchify  # noqa: E402


CASES = {
    "masked_factorized": ({"fusion_type": "factorized"}, True),
    "unmasked_factorized": ({"fusion_type": "factorized"}, False),
    "masked_dense": ({"fusion_type": "dense"}, True),
    "unmasked_dense": ({"fusion_type": "dense"}, False),
    "step_factorized": ({"fusion_type": "factorized"}, True),
    "step_dense": ({"fusion_type": "dense"}, True),
    "unmasked_factorized_bf16": ({"fusion_type": "factorized"}, False),
    "unmasked_dense_bf16": ({"fusion_type": "dense"}, False),
}
SEED = 0


def encoders(fields: dict, layers: int, device: str):
    """The literal encoder and ours with one set of weights, and their configuration."""
    torch.manual_seed(SEED)
    config = DeepAVFusionConfig(num_hidden_layers=layers, **fields)
    literal, model = as_new(Encoder(config)).eval(), DeepAVFusionModel(config).eval()
    model.load_state_dict(reference_state_dict(literal.state_dict(), config.fusion_type))
    return literal.to(device), model.to(device), config


def as_new(literal: torch.nn.Module) -> torch.nn.Module:
    """Weights of the size that new ones have: deep random ones would amplify rounding."""
    for name, parameter in literal.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02)
        else:
            parameter.data.normal_(float("norm" in name and name.endswith("weight")), 0.02)
    return literal


def timed(function, arguments: argparse.Namespace, backward: bool) -> tuple[float, tuple]:
    """Seconds, and what came out."""
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[arguments.clock]
    if arguments.device != "cpu":
        torch.cuda.synchronize()
    begin = clock()
    with torch.set_grad_enabled(backward):
        outputs = function()
        if backward:
            sum(states.square().mean() if states.ndim else states for states in outputs).backward()
    if arguments.device != "cpu":
        torch.cuda.synchronize()
    return clock() - begin, outputs


def noise_of(config: DeepAVFusionConfig, arguments: argparse.Namespace) -> list[torch.Tensor]:
    """What decides which patches stay, `[N, N_v]` and `[N, N_a]`."""
    grids = (config.image_grid, config.audio_grid)
    return [torch.rand(arguments.batch, rows * columns, device=arguments.device) for rows, columns in grids]


def kept_of(config: DeepAVFusionConfig, noise: list[torch.Tensor]) -> list[torch.Tensor]:
    """Indices of the patches that stay."""
    ratios = (config.image_mask_ratio, config.audio_mask_ratio)
    return [n.argsort(1)[:, : int(n.shape[1] * (1 - ratio))] for n, ratio in zip(noise, ratios, strict=True)]


def inputs_of(config: DeepAVFusionConfig, arguments: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    image_shape = [side * config.patch_size for side in config.image_grid]
    image = torch.randn(arguments.batch, 3, *image_shape, device=arguments.device)
    audio = torch.randn(arguments.batch, 1, config.num_mel_bins, config.audio_num_frames, device=arguments.device)
    return image, audio


def compare(fields: dict, masked: bool, arguments: argparse.Namespace) -> dict:
    """The encoder: median seconds of both, their ratio, and by how much their outputs differ."""
    literal, model, config = encoders(fields, arguments.layers, arguments.device)
    image, audio = inputs_of(config, arguments)
    keep = kept_of(config, noise_of(config, arguments)) if masked else (None, None)

    def ours():
        outputs = model(image[:, None], audio, image_ids_keep=keep[0], audio_ids_keep=keep[1])
        return outputs.image_last_hidden_state, outputs.audio_last_hidden_state, outputs.last_hidden_state

    runs = {"literal": lambda: literal(image, audio, *keep), "ours": ours}
    return taken_in_turns(runs, arguments, arguments.backward, 1e-3)


def compare_step(fields: dict, masked: bool, arguments: argparse.Namespace) -> dict:
    """A step of pre-training, forward and backward; both compute the loss in the same way."""
    torch.manual_seed(SEED)
    config = DeepAVFusionConfig(num_hidden_layers=arguments.layers, **fields)
    literal, model = as_new(PreTraining(config)), DeepAVFusionForPreTraining(config)
    model.load_state_dict(reference_state_dict(literal.state_dict(), config.fusion_type))
    literal, model = literal.to(arguments.device), model.to(arguments.device)
    image, audio = inputs_of(config, arguments)
    noise = noise_of(config, arguments)
    keep = kept_of(config, noise)

    def as_published():
        *patches, fusion = literal.encoder(image, audio, *keep)
        losses = []
        for name, states, source, of_stream, kept in zip(
            ("image", "audio"), patches, (image, audio), noise, keep, strict=True
        ):
            predicted = literal.decode(name, states, fusion, of_stream.argsort(1))
            hidden = torch.ones_like(of_stream, dtype=torch.bool).scatter(1, kept, False)
            losses.append(reconstruction_loss(predicted, patchify(source, config.patch_size), hidden, True))
        return tuple(losses)

    def ours():
        outputs = model(image[:, None], audio, image_noise=noise[0], audio_noise=noise[1])
        return outputs.image_loss, outputs.audio_loss

    return taken_in_turns({"literal": as_published, "ours": ours}, arguments, True, 1e-4)


def compare_bfloat16(fields: dict, masked: bool, arguments: argparse.Namespace) -> dict:
    """Our encoder in float32 and in bfloat16."""
    _, model, config = encoders(fields, arguments.layers, arguments.device)
    image, audio = inputs_of(config, arguments)
    half = copy.deepcopy(model).to(torch.bfloat16)

    def states(encoder, dtype):
        outputs = encoder(image[:, None].to(dtype), audio.to(dtype))
        return tuple(outputs[f"{name}last_hidden_state"].float() for name in ("image_", "audio_", ""))

    runs = {"literal": lambda: states(model, torch.float32), "ours": lambda: states(half, torch.bfloat16)}
    found = taken_in_turns(runs, arguments, arguments.backward, 0.5)
    return {
        {"literal_seconds": "float32_seconds", "ours_seconds": "bfloat16_seconds"}.get(name, name): value
        for name, value in found.items()
    }


def taken_in_turns(runs: dict, arguments: argparse.Namespace, backward: bool, tolerance: float) -> dict:
    """Median seconds of `literal` and `ours`; stops where they differ by more than `tolerance`."""
    seconds = {name: [] for name in runs}
    for repeat in range(arguments.repeats + 1):
        found = {}
        for name in sorted(runs, reverse=repeat % 2 == 1):
            duration, found[name] = timed(runs[name], arguments, backward)
            if repeat:  # the first warms up
                seconds[name].append(duration)
    difference = max((a - b).abs().max().item() for a, b in zip(found["literal"], found["ours"], strict=True))
    if difference > tolerance:
        raise SystemExit(f"they differ by {difference}: their times cannot be compared")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "literal_seconds": round(medians["literal"], 4),
        "ours_seconds": round(medians["ours"], 4),
        "ratio": round(medians["literal"] / medians["ours"], 3),
        "largest_difference": difference,
    }


def measure(name: str, arguments: argparse.Namespace, **fields) -> dict:
    """One of `CASES`; `fields` of the configuration change its size."""
    given, masked = CASES[name]
    function = compare_step if name.startswith("step") else compare_bfloat16 if name.endswith("bf16") else compare
    return function({**given, **fields}, masked, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=("wall", "cpu"),
        help="cpu: seconds of this process alone, for a busy machine",
    )
    parser.add_argument("--backward", action="store_true", help="forward and backward pass of the encoder")
    parser.add_argument("--out", type=Path, help="write the figures into this folder too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = {}
    for name in arguments.cases:
        results[name] = measure(name, arguments)
        print(f"{name}: {results[name]}", file=sys.stderr, flush=True)
    settings = {name: value for name, value in vars(arguments).items() if name not in ("cases", "out")}
    machine = description(arguments.device)
    figures = {**machine, **settings, **results}
    if arguments.out is not None:
        write_figures(arguments.out / f"deepavfusion-{file_name(machine)}", figures)
    print(json.dumps(figures, indent=1))


def write_figures(path: Path, figures: dict) -> None:
    """Under a temporary name first, which is then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
