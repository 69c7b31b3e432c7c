# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""torch.export with a dynamic batch and masks, lower precision and quantization, on the code of a saved folder."""

import json

import pytest
import torch
from test_peft import inputs
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from modeling_maavt.modeling_maavt import TRAINED_MODULES


def kept_in_float(model) -> set[str]:
    """The trained modules with linear layers, all of them plain ones."""
    found = set()
    for name, module in model.named_modules():
        trained = set(name.split(".")) & set(TRAINED_MODULES)
        if isinstance(module, torch.nn.Linear) and trained:
            assert type(module) is torch.nn.Linear and type(module.weight.data) is torch.Tensor, name
            found |= trained
    return found


systems = pytest.mark.parametrize("system", ["maavt", "deepavfusion"])


@systems
def test_export_with_a_dynamic_batch_and_masks(remote, folders, system):
    model = remote(getattr(folders, system)).eval()
    masks = {"has_video": torch.tensor([True, True, True]), "has_audio": torch.tensor([True, False, True])}
    batch = {**inputs(system), **masks}
    axis = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(
        model, (), batch, dynamic_shapes={name: {0: axis} for name in batch}, strict=False
    ).module()
    for count in (3, 2):
        part = {name: value[:count] for name, value in batch.items()}
        torch.testing.assert_close(exported(**part)["logits"], model(**part).logits, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore")
@systems
def test_trace_with_any_batch_and_masks(remote, folders, system):
    model = remote(getattr(folders, system)).eval()
    masks = {"has_video": torch.tensor([True, True, True]), "has_audio": torch.tensor([True, False, True])}
    batch = {**inputs(system), **masks}
    traced = torch.jit.trace(model, example_kwarg_inputs=batch, strict=False)
    part = {name: value[:2] for name, value in batch.items()} | {"has_audio": torch.tensor([False, True])}
    torch.testing.assert_close(traced(**part)["logits"], model(**part).logits, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@systems
def test_openvino(remote, folders, system):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    model = remote(getattr(folders, system)).eval()
    batch = {**inputs(system), "has_video": torch.ones(3).bool(), "has_audio": torch.tensor([True, False, True])}
    converted = openvino.convert_model(model, example_input=batch)
    compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for count in (3, 2):
        part = {name: value[:count] for name, value in batch.items()}
        found = compiled({name: value.numpy() for name, value in part.items()})["logits"]
        torch.testing.assert_close(torch.from_numpy(found), model(**part).logits, atol=1e-4, rtol=0)


@systems
def test_bfloat16_is_what_the_config_and_the_model_say(remote, folders, tmp_path, system):
    folder = getattr(folders, system)
    half = remote(folder, dtype=torch.bfloat16).eval()
    assert half.dtype == half.config.dtype == torch.bfloat16
    half.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    again = remote(tmp_path, dtype="auto").eval()
    assert again.dtype == again.config.dtype == torch.bfloat16
    with torch.inference_mode():
        torch.testing.assert_close(again(**inputs(system)).logits, half(**inputs(system)).logits, atol=0, rtol=0)
        expected = remote(folder).eval()(**inputs(system)).logits
        torch.testing.assert_close(half(**inputs(system)).logits.float(), expected, atol=0.1, rtol=0)


@pytest.mark.filterwarnings("ignore")
@systems
def test_dynamic_quantization(remote, folders, system):
    model = remote(getattr(folders, system)).eval()
    small = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    with torch.inference_mode():
        torch.testing.assert_close(small(**inputs(system)).logits, model(**inputs(system)).logits, atol=0.15, rtol=0)


@systems
def test_torchao(remote, folders, system):
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    from transformers import TorchAoConfig

    folder = getattr(folders, system)
    expected = remote(folder).eval()(**inputs(system)).logits
    model = remote(folder).eval()
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    loaded = remote(folder, quantization_config=config).eval()
    if system == "maavt":
        assert kept_in_float(loaded) == {"token_attention", "match_head"}
    for small in (model, loaded):
        torch.testing.assert_close(small(**inputs(system)).logits.float(), expected, atol=0.15, rtol=0)


@systems
def test_bitsandbytes(remote, folders, system):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers import BitsAndBytesConfig

    folder = getattr(folders, system)
    expected = remote(folder).eval()(**inputs(system)).logits
    small = remote(folder, quantization_config=BitsAndBytesConfig(load_in_8bit=True)).eval()
    if system == "maavt":
        assert kept_in_float(small) == {"token_attention", "match_head"}
    torch.testing.assert_close(small(**inputs(system)).logits.float(), expected, atol=0.15, rtol=0)


@systems
def test_modules_that_no_quantizer_converts_are_declared(remote, folders, system):
    """As every quantizer of transformers reads them, whether it is installed or not."""
    model = remote(getattr(folders, system))
    kept = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    converted = [name for name in linear if should_convert_module(f"{name}.weight", kept)]
    assert any("q_proj" in name for name in converted) or system == "deepavfusion"
    if system == "maavt":
        assert len(converted) < len(linear)
        assert not [name for name in converted if set(name.split(".")) & set(TRAINED_MODULES)]
