# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A fine-tuned model as one ONNX file, for runtimes without PyTorch (needs `pip install onnx onnxscript`).

    python -m training.tools.export_onnx MODEL --out model.onnx

Inputs `pixel_values_videos` `[B, T, 3, H, W]` and `input_features` `[B, S, F, W]`, any B, T, S and sizes of the processor
saved beside the model; outputs `logits` and, with foreground mining, `match_logits`.
"""

import argparse
import copy
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import AutoProcessor

from modeling_maavt import MAAVTForAudioVisualClassification
from processing.data.atomic_writing import atomic_file, check_writable
from training.common.commands import run_command
from training.maavt.prediction import load_model


class Logits(nn.Module):
    """What a classifier is asked for, as a tuple of tensors."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values_videos: torch.Tensor, input_features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.model(pixel_values_videos=pixel_values_videos, input_features=input_features)
        if outputs.match_logits is None:
            return (outputs.logits,)
        return outputs.logits, outputs.match_logits


def export_onnx(model: nn.Module, path: str | os.PathLike, inputs: dict[str, torch.Tensor]) -> Path:
    """
    Write `model` as ONNX through `torch.export`, for any number of clips.

    Token self-attention is folded and the contrastive head is not part of the graph; `model` itself is not changed.

    Args:
        model: a `MAAVTForAudioVisualClassification`.
        path: of the file.
        inputs: `pixel_values_videos` and `input_features` of two clips or more; they fix all axes but the first.

    Returns:
        the path.

    Raises:
        ImportError: onnx or onnxscript is not installed.
        ValueError: one clip only, with which the number of clips would be fixed.
    """
    if any(len(value) < 2 for value in inputs.values()):
        raise ValueError("inputs: one clip; give two or more, so that the file takes any number")
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError("writing ONNX needs onnx and onnxscript; pip install onnx onnxscript") from error
    model = copy.deepcopy(model).float().cpu().eval()
    model.fold_token_attention()
    model.trunk.contrastive_head = None
    names = ["pixel_values_videos", "input_features"]
    outputs = ["logits"] if model.match_head is None else ["logits", "match_logits"]
    with torch.no_grad():
        program = torch.onnx.export(
            Logits(model).eval(),
            tuple(inputs[name].float().cpu() for name in names),
            dynamo=True,
            verbose=False,
            input_names=names,
            output_names=outputs,
            dynamic_shapes=tuple({0: torch.export.Dim.DYNAMIC} for _ in names),
        )
    with atomic_file(path) as temporary:
        program.save(temporary, external_data=False)
    return Path(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.tools.export_onnx", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder or Hub name of a fine-tuned model")
    parser.add_argument("--out", required=True, help="the file to write")
    options = parser.parse_args(arguments)

    check_writable("--out", options.out)
    model = load_model(options.model, device="cpu")
    if not isinstance(model, MAAVTForAudioVisualClassification):
        raise ValueError(
            f"{options.model}: is a {type(model).__name__}; only classifiers of MA-AVT are written as ONNX"
        )
    processor = AutoProcessor.from_pretrained(options.model)
    path = export_onnx(model, options.out, example_inputs(processor))
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def example_inputs(processor) -> dict[str, torch.Tensor]:
    """Two silent, black clips of the shapes that a processor gives."""
    frames = torch.zeros(processor.video_processor.frames_per_clip, 3, 64, 64, dtype=torch.uint8)
    extractor = processor.feature_extractor
    waveform = torch.zeros(round(60 * extractor.sampling_rate))
    batch = processor(videos=[frames] * 2, audio=[waveform] * 2, sampling_rate=extractor.sampling_rate)
    return {name: batch[name] for name in ("pixel_values_videos", "input_features")}


if __name__ == "__main__":
    run_command(main)
