# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""How much faster DeepAVFusion's exact shortcuts are than the literal reading, in one run, at ViT-B size; prints JSON.

    python benchmarks/deepavfusion_speed.py --threads 2 --repeats 7

Both encoders hold the same weights and see the same inputs; they take turns, and the median of all repeats counts. It
stops where their outputs differ.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch


ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from reference_deepavfusion import Encoder  # noqa: E402

from modeling_deepavfusion import DeepAVFusionConfig, DeepAVFusionModel  # noqa: E402
from modeling_deepavfusion.published_deepavfusion import encoder_to_ours  # noqa: E402


CASES = {
    "masked_factorized": ({"fusion_type": "factorized"}, True),
    "unmasked_factorized": ({"fusion_type": "factorized"}, False),
    "masked_dense": ({"fusion_type": "dense"}, True),
    "unmasked_dense": ({"fusion_type": "dense"}, False),
}


def encoders(fields: dict, layers: int, device: str):
    """The literal encoder and ours with one set of weights, and their configuration."""
    torch.manual_seed(0)
    config = DeepAVFusionConfig(num_hidden_layers=layers, **fields)
    model = DeepAVFusionModel(config).eval()
    literal = Encoder(config).eval()
    for name, parameter in literal.named_parameters():  # as new weights are: deep random ones would amplify rounding
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02)
        else:
            parameter.data.normal_(float("norm" in name and name.endswith("weight")), 0.02)
    model.load_state_dict(encoder_to_ours(literal.state_dict(), config.fusion_type))
    return literal.to(device), model.to(device), config


def timed(function, arguments: argparse.Namespace) -> tuple[float, tuple]:
    """Seconds, and what came out."""
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[arguments.clock]
    if arguments.device != "cpu":
        torch.cuda.synchronize()
    begin = clock()
    with torch.set_grad_enabled(arguments.backward):
        outputs = function()
        if arguments.backward:
            sum(states.square().mean() for states in outputs).backward()
    if arguments.device != "cpu":
        torch.cuda.synchronize()
    return clock() - begin, outputs


def compare(fields: dict, masked: bool, arguments: argparse.Namespace) -> dict:
    """Median seconds of both, their ratio, and by how much their outputs differ."""
    device = arguments.device
    literal, model, config = encoders(fields, arguments.layers, device)
    batch = arguments.batch
    image = torch.randn(batch, 3, config.image_size, config.image_size, device=device)
    audio = torch.randn(batch, 1, config.num_mel_bins, config.audio_num_frames, device=device)
    keep = (None, None)
    if masked:
        keep = [
            torch.rand(batch, patches, device=device).argsort(1)[:, : int(patches * (1 - ratio))]
            for patches, ratio in ((196, config.image_mask_ratio), (96, config.audio_mask_ratio))
        ]

    def ours():
        outputs = model(image[:, None], audio, image_ids_keep=keep[0], audio_ids_keep=keep[1])
        return outputs.image_last_hidden_state, outputs.audio_last_hidden_state, outputs.last_hidden_state

    runs = {"literal": lambda: literal(image, audio, *keep), "ours": ours}
    seconds = {name: [] for name in runs}
    for repeat in range(arguments.repeats + 1):
        found = {}
        for name in sorted(runs, reverse=repeat % 2 == 1):
            duration, found[name] = timed(runs[name], arguments)
            if repeat:  # the first warms up
                seconds[name].append(duration)
    difference = max((a - b).abs().max().item() for a, b in zip(found["literal"], found["ours"], strict=True))
    if difference > 1e-3:
        raise SystemExit(f"the encoders differ by {difference}: their times cannot be compared")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "literal_seconds": round(medians["literal"], 4),
        "ours_seconds": round(medians["ours"], 4),
        "ratio": round(medians["literal"] / medians["ours"], 3),
        "largest_difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=("wall", "cpu"),
        help="cpu: seconds of this process alone, for a busy machine",
    )
    parser.add_argument("--backward", action="store_true", help="forward and backward pass")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = {name: compare(*CASES[name], arguments) for name in arguments.cases}
    settings = {name: value for name, value in vars(arguments).items() if name != "cases"}
    print(json.dumps({"torch": torch.__version__, **settings, **results}, indent=2))


if __name__ == "__main__":
    main()
