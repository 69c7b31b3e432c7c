# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What was saved by earlier versions loads today and gives the same logits.

Each folder in `tests/checkpoints/` was written by commit 48aff3b (version 0.1.0): config, weights, and in
`expected.safetensors` the inputs and the outputs of that version.
"""

import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForVideoClassification, AutoProcessor

import modeling_deepavfusion  # noqa: F401  registers its classes
import modeling_maavt  # noqa: F401  registers its classes
import processing  # noqa: F401  registers its classes


CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"
MODELS = ("maavt", "maavt_prompts_from_block_1", "maavt_lavish", "deepavfusion")


def expected(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The inputs of a saved checkpoint, and its outputs at the time of saving."""
    tensors = load_file(CHECKPOINTS / name / "expected.safetensors")
    inputs = {key.removeprefix("inputs."): value for key, value in tensors.items() if key.startswith("inputs.")}
    outputs = {key.removeprefix("outputs."): value for key, value in tensors.items() if key.startswith("outputs.")}
    return inputs, outputs


def assert_same_outputs(model: torch.nn.Module, name: str) -> None:
    inputs, outputs = expected(name)
    with torch.no_grad():
        actual = model.eval()(**inputs)
    for key, value in outputs.items():
        torch.testing.assert_close(actual[key], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_an_old_checkpoint_gives_the_same_logits(name):
    model, report = AutoModelForVideoClassification.from_pretrained(CHECKPOINTS / name, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert_same_outputs(model, name)


def test_an_old_adapter_gives_the_same_logits():
    config = AutoConfig.from_pretrained(CHECKPOINTS / "maavt_adapter")
    base = AutoModelForVideoClassification.from_pretrained(CHECKPOINTS / "maavt", config=config)
    assert_same_outputs(PeftModel.from_pretrained(base, CHECKPOINTS / "maavt_adapter"), "maavt_adapter")


@pytest.mark.parametrize("name", MODELS)
def test_an_old_checkpoint_saved_again_loads_again(name, tmp_path):
    model = AutoModelForVideoClassification.from_pretrained(CHECKPOINTS / name)
    model.save_pretrained(tmp_path)
    assert_same_outputs(AutoModelForVideoClassification.from_pretrained(tmp_path), name)


@pytest.mark.parametrize("name", ["maavt", "deepavfusion"])
def test_an_old_processor_loads(name, tmp_path):
    shutil.copytree(CHECKPOINTS / name, tmp_path, dirs_exist_ok=True)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert type(processor).__name__.endswith("Processor")
    assert processor.feature_extractor.sampling_rate == 16000
