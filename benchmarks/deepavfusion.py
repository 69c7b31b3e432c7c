# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion beside a plain port of the paper, which forms all pairs and computes updates that are thrown away.

    python -m benchmarks.deepavfusion [--layers 12] [--repeats 7]

Both have the same weights and see the same inputs, and take turns. Nothing is timed unless their outputs are equal.
`step_*` is a step of pre-training: forward with decoders and loss, and backward, without the optimizer. `*_bf16`
compares the model in bfloat16 with itself in float32.
"""

import argparse
import copy
import json
import sys
from collections.abc import Callable

import torch

from modeling_deepavfusion import DeepAVFusionConfig, DeepAVFusionForPreTraining, DeepAVFusionModel
from modeling_deepavfusion.convert_deepavfusion import reference_state_dict
from modeling_deepavfusion.losses_deepavfusion import reconstruction_loss
from modeling_deepavfusion.pretraining_and_classification_deepavfusion import patchify

from .fresh import REPOSITORY
from .workload import check_equal, interleaved, median, ratio


sys.path.append(str(REPOSITORY / "tests"))
from reference_deepavfusion import Encoder, PreTraining  # noqa: E402


CASES = {  # kind, fusion type, whether patches are masked
    "masked_factorized": ("encoder", "factorized", True),
    "unmasked_factorized": ("encoder", "factorized", False),
    "masked_dense": ("encoder", "dense", True),
    "unmasked_dense": ("encoder", "dense", False),
    "step_factorized": ("step", "factorized", True),
    "step_dense": ("step", "dense", True),
    "unmasked_factorized_bf16": ("bfloat16", "factorized", False),
    "unmasked_dense_bf16": ("bfloat16", "dense", False),
}
Outputs = tuple[torch.Tensor, ...]


def initialize(plain: torch.nn.Module) -> torch.nn.Module:
    """Weights of the size that new models have; larger random weights would amplify rounding."""
    for name, parameter in plain.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02)
        else:
            parameter.data.normal_(float("norm" in name and name.endswith("weight")), 0.02)
    return plain


def encoders(config: DeepAVFusionConfig) -> tuple[Encoder, DeepAVFusionModel]:
    """The plain port's encoder and the model, with one set of weights."""
    plain, model = initialize(Encoder(config)).eval(), DeepAVFusionModel(config).eval()
    model.load_state_dict(reference_state_dict(plain.state_dict(), config.fusion_type))
    return plain, model


def inputs_of(config: DeepAVFusionConfig, clips: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images `[N, 3, H, W]` and spectrograms `[N, 1, F, W]` of noise."""
    rows, columns = config.image_grid
    image = torch.randn(clips, 3, rows * config.patch_size, columns * config.patch_size)
    audio = torch.randn(clips, 1, config.num_mel_bins, config.audio_num_frames)
    return image, audio


def noise_of(config: DeepAVFusionConfig, clips: int) -> list[torch.Tensor]:
    """The noise that decides which patches stay, `[N, N_v]` and `[N, N_a]`."""
    return [torch.rand(clips, rows * columns) for rows, columns in (config.image_grid, config.audio_grid)]


def kept_patches(config: DeepAVFusionConfig, noise: list[torch.Tensor]) -> list[torch.Tensor]:
    """Indices of the patches that stay."""
    ratios = (config.image_mask_ratio, config.audio_mask_ratio)
    return [n.argsort(1)[:, : int(n.shape[1] * (1 - ratio))] for n, ratio in zip(noise, ratios, strict=True)]


def encoder_case(config: DeepAVFusionConfig, masked: bool, clips: int) -> dict[str, Callable[[], Outputs]]:
    plain, model = encoders(config)
    image, audio = inputs_of(config, clips)
    keep = kept_patches(config, noise_of(config, clips)) if masked else (None, None)

    def run_model() -> Outputs:
        outputs = model(image[:, None], audio, image_ids_keep=keep[0], audio_ids_keep=keep[1])
        return outputs.image_last_hidden_state, outputs.audio_last_hidden_state, outputs.last_hidden_state

    functions = {"base": lambda: plain(image, audio, *keep), "model": run_model}
    return {name: torch.no_grad()(function) for name, function in functions.items()}


def bfloat16_case(config: DeepAVFusionConfig, masked: bool, clips: int) -> dict[str, Callable[[], Outputs]]:
    _, model = encoders(config)
    image, audio = inputs_of(config, clips)
    half = copy.deepcopy(model).bfloat16()

    def states(encoder: DeepAVFusionModel, dtype: torch.dtype) -> Outputs:
        outputs = encoder(image[:, None].to(dtype), audio.to(dtype))
        return outputs.image_last_hidden_state, outputs.audio_last_hidden_state, outputs.last_hidden_state

    functions = {"base": lambda: states(model, torch.float32), "model": lambda: states(half, torch.bfloat16)}
    return {name: torch.no_grad()(function) for name, function in functions.items()}


def step_case(config: DeepAVFusionConfig, masked: bool, clips: int) -> dict[str, Callable[[], Outputs]]:
    plain, model = initialize(PreTraining(config)), DeepAVFusionForPreTraining(config)
    model.load_state_dict(reference_state_dict(plain.state_dict(), config.fusion_type))
    image, audio = inputs_of(config, clips)
    noise = noise_of(config, clips)
    keep = kept_patches(config, noise)

    def run_literal() -> Outputs:
        *_, fusion = encoded = plain.encoder(image, audio, *keep)
        losses = []
        for index, (name, source) in enumerate((("image", image), ("audio", audio))):
            predicted = plain.decode(name, encoded[index], fusion, noise[index].argsort(1))
            hidden = torch.ones_like(noise[index], dtype=torch.bool).scatter(1, keep[index], False)
            losses.append(reconstruction_loss(predicted, patchify(source, config.patch_size), hidden, True))
        sum(losses).backward()
        return tuple(loss.detach() for loss in losses)

    def run_model() -> Outputs:
        outputs = model(image[:, None], audio, image_noise=noise[0], audio_noise=noise[1])
        (outputs.image_loss + outputs.audio_loss).backward()
        return outputs.image_loss.detach(), outputs.audio_loss.detach()

    return {"base": run_literal, "model": run_model}


BUILDERS = {"encoder": encoder_case, "bfloat16": bfloat16_case, "step": step_case}


def measure_case(name: str, layers: int, clips: int, repeats: int, **fields) -> dict[str, float]:
    """How many times faster the model is in one of `CASES`; `fields` of the configuration change its size."""
    kind, fusion_type, masked = CASES[name]
    torch.manual_seed(0)
    config = DeepAVFusionConfig(**{**fields, "num_hidden_layers": layers, "fusion_type": fusion_type})
    functions = BUILDERS[kind](config, masked, clips)
    return taken_in_turns(name, functions, repeats, 0.1 if kind == "bfloat16" else 1e-4)


def taken_in_turns(name: str, functions: dict[str, Callable[[], Outputs]], repeats: int, tolerance: float) -> dict:
    """The ratio, seconds and the largest relative difference of the outputs.

    Raises:
        AssertionError: the outputs differ by more than `tolerance`.
    """
    expected, actual = functions["base"](), functions["model"]()
    differences = [check_equal(name, a, e, tolerance) for a, e in zip(actual, expected, strict=True)]
    seconds = interleaved(functions, repeats)
    return {
        f"deepavfusion.{name}": ratio(seconds, "base", "model"),
        f"deepavfusion.seconds.{name}": median(seconds["model"]),
        f"equality.deepavfusion.{name}": max(differences),
    }


def measure(layers: int = 4, clips: int = 8, repeats: int = 3) -> dict[str, float]:
    """Every case at the width of ViT-B."""
    results: dict[str, float] = {"deepavfusion.layers": layers}
    for name in CASES:
        results |= measure_case(name, layers, clips, repeats)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in (("layers", 12), ("clips", 8), ("repeats", 7)):
        parser.add_argument(f"--{option}", type=int, default=default)
    print(json.dumps(measure(**vars(parser.parse_args())), indent=1))
