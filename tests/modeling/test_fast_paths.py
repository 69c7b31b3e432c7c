# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Every fast path of the model beside the plain one: in float32 to 1e-5, in bfloat16 to its rounding."""

import copy
import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from tiny_models import TINY_VIT, tiny_inputs, tiny_model
from torch import nn
from torch.nn import functional
from transformers import ViTConfig
from transformers.activations import ACT2FN

from modeling_maavt import (
    MAAVTConfig,
    MAAVTForAudioVisualClassification,
    attention_maavt,
    embeddings_maavt,
    layer_maavt,
    linear_maavt,
    maavt_peft_config,
)
from modeling_maavt.attention_maavt import ShortAttention
from modeling_maavt.linear_maavt import linears


WIDTH = 192  # weights of 192 x 192 are large enough to be packed
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["float32", "bfloat16"])
needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="oneDNN does not compute in bfloat16 here",
)


def close(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    found, expected = found.detach(), expected.detach()
    difference = (found.float() - expected.float()).abs().max()
    assert difference <= TOLERANCE[dtype] * max(1.0, float(expected.float().abs().max())), float(difference)


def frozen_linears(count: int, dtype: torch.dtype, width: int = WIDTH) -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(width, width).to(dtype).requires_grad_(False).eval() for _ in range(count)]


def count_packed(monkeypatch) -> list:
    """Grows by one whenever packed weights are asked for and given."""
    calls, original = [], linear_maavt.packed_linears

    def counting(states, modules):
        packed = original(states, modules)
        calls.extend([] if packed is None else [packed])
        return packed

    monkeypatch.setattr(linear_maavt, "packed_linears", counting)
    return calls


def plain_only(monkeypatch) -> None:
    monkeypatch.setattr(linear_maavt, "on_fast_cpu", lambda states, dtype: False)
    monkeypatch.setattr(attention_maavt, "on_fast_cpu", lambda states, dtype: False)


# ---- packed linear layers


@needs_onednn
@DTYPES
@pytest.mark.parametrize("activation", [None, "gelu", "gelu_new"])
def test_packed_linears_equal_the_modules(dtype, activation, monkeypatch):
    modules = frozen_linears(3, dtype)
    function = None if activation is None else ACT2FN[activation]
    states = torch.randn(2, 7, WIDTH).to(dtype)
    calls = count_packed(monkeypatch)
    found = linears(states, modules, function)
    assert len(calls) == 1
    expected = [module(states) if function is None else function(module(states)) for module in modules]
    for one, other in zip(found, expected, strict=True):
        close(one, other, dtype)


@needs_onednn
@DTYPES
def test_the_residual_is_added_inside_the_product(dtype, monkeypatch):
    (module,) = frozen_linears(1, dtype)
    states, wide = torch.randn(2, 7, WIDTH).to(dtype), torch.randn(2, 7, 2 * WIDTH).to(dtype)
    calls = count_packed(monkeypatch)
    for residual in (torch.randn(2, 7, WIDTH).to(dtype), wide[..., ::2], torch.randn(2, 7, WIDTH)):
        before = residual.clone()
        (found,) = linears(states, [module], residual=residual)
        close(found, residual + module(states), dtype)
        assert torch.equal(residual, before)
    assert len(calls) == 3


@needs_onednn
def test_training_holds_no_second_layout_of_the_weights(monkeypatch):
    (module,) = frozen_linears(1, torch.float32)
    states = torch.randn(3, WIDTH)
    linears(states, [module])
    assert module in linear_maavt._packed
    calls = count_packed(monkeypatch)
    linears(states.requires_grad_(), [module])
    assert not calls and module not in linear_maavt._packed
    with torch.no_grad():
        linears(states, [module.train()])  # gradient checkpointing runs blocks like this first
    assert not calls


@needs_onednn
def test_packed_weights_follow_their_modules(monkeypatch):
    (module,) = frozen_linears(1, torch.float32)
    states = torch.randn(3, WIDTH)
    calls = count_packed(monkeypatch)
    linears(states, [module])
    for change in (
        lambda: module.weight.data.mul_(1.5),  # as PEFT merges: no version counts it
        lambda: module.load_state_dict(frozen_linears(2, torch.float32)[1].state_dict()),
        lambda: setattr(module, "bias", nn.Parameter(torch.ones(WIDTH), requires_grad=False)),
    ):
        change()
        close(linears(states, [module])[0], module(states), torch.float32)
    assert len(calls) == 4 and len({id(packed) for packed in calls}) == 4
    linears(states, [module])
    assert calls[-1] is calls[-2]
    module.requires_grad_(True)
    linears(states, [module])
    assert module not in linear_maavt._packed  # what is trained is not held twice


@needs_onednn
def test_what_a_plain_linear_is_not_takes_the_plain_path(monkeypatch):
    states = torch.randn(3, WIDTH)
    calls = count_packed(monkeypatch)
    (trained,) = frozen_linears(1, torch.float32)
    trained.weight.requires_grad_(True)
    linears(states, [trained])[0].sum().backward()
    assert trained.weight.grad is not None

    (hooked,) = frozen_linears(1, torch.float32)
    seen = []
    hooked.register_forward_hook(lambda *_: seen.append(True))
    linears(states, [hooked])
    assert seen

    linears(torch.randn(3, 16), frozen_linears(1, torch.float32, width=16))
    linears(states.double(), frozen_linears(1, torch.float64))
    assert not calls


@needs_onednn
def test_autocast_multiplies_in_bfloat16(monkeypatch):
    modules = frozen_linears(2, torch.float32)
    states, residual = torch.randn(2, 3, WIDTH)
    calls = count_packed(monkeypatch)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = torch.cat(linears(states, modules))
        summed = linears(states, modules[:1], residual=residual)[0]
        expected = torch.cat([module(states) for module in modules])
    assert len(calls) == 2 and found.dtype == expected.dtype == torch.bfloat16
    assert summed.dtype == torch.float32  # as the plain sum
    close(found, expected, torch.bfloat16)
    close(summed, residual + expected[:3], torch.bfloat16)


# ---- attention of short sequences


@DTYPES
@pytest.mark.parametrize("asking", [9, 2])
def test_short_attention_equals_the_fused_kernel(dtype, asking):
    torch.manual_seed(0)
    states = [torch.randn(2, 3, length, 8).to(dtype) for length in (asking, 9, 9)]
    fast, plain = ([part.clone().requires_grad_() for part in states] for _ in range(2))
    found = ShortAttention.apply(*fast, 8**-0.5)
    expected = functional.scaled_dot_product_attention(*plain).transpose(1, 2)
    assert found.shape == expected.shape
    close(found, expected, dtype)
    weights = torch.randn(found.shape).to(dtype)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(fast, plain, strict=True):
        close(one.grad, other.grad, dtype)


# ---- the whole model


def wide_model(dtype: torch.dtype = torch.float32, **overrides) -> MAAVTForAudioVisualClassification:
    torch.manual_seed(0)
    vision = {**TINY_VIT, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2}
    model = MAAVTForAudioVisualClassification(MAAVTConfig(vision_config=vision, num_labels=5, **overrides)).eval()
    for module in (model.maavt.embeddings, model.maavt.encoder, model.maavt.layernorm):
        module.to(dtype)
    model.freeze_backbone()
    return model


def outputs_and_gradients(model, inputs) -> dict[str, torch.Tensor]:
    outputs = model(**inputs, labels=torch.tensor([0, 1, 2, 3]), is_matched=torch.tensor([True, True, True, False]))
    outputs.loss.backward()
    found = {"logits": outputs.logits, "match_logits": outputs.match_logits, "loss": outputs.loss}
    found |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {name: value.detach() for name, value in found.items() if value is not None}


@needs_onednn
@DTYPES
@pytest.mark.parametrize(
    ("overrides", "sound"),
    [
        ({}, (32, 32)),
        ({"num_visual_tokens": 2, "num_audio_tokens": 4}, (16, 40)),
        ({"background_mining": False}, (32, 32)),
    ],
    ids=["one length", "two lengths", "no mining"],
)
def test_fast_model_equals_the_plain_one(dtype, overrides, sound, monkeypatch):
    model = wide_model(dtype, **overrides)
    inputs = {name: value.to(dtype) for name, value in tiny_inputs().items()}
    inputs["input_features"] = inputs["input_features"][..., :1, :1].expand(-1, -1, *sound).contiguous()
    calls = count_packed(monkeypatch)
    fast = outputs_and_gradients(model, inputs)
    assert not calls
    with torch.no_grad():
        logits = model(**inputs).logits
    assert len(calls) == 9 if sound == (32, 32) else len(calls) == 18  # 4 products a block, 5 where few rows ask
    plain_only(monkeypatch)
    monkeypatch.setattr(type(model.maavt), "_may_leave_rows_out", lambda self, kwargs: False)
    plain = outputs_and_gradients(model, inputs)
    assert fast.keys() == plain.keys() and len(fast) > 10
    for name, value in fast.items():
        close(value, plain[name], dtype)
    close(logits, plain["logits"], dtype)


@DTYPES
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_last_block_of_the_rows_that_are_read(dtype, implementation):
    """Two lengths, several frames; the sequences themselves stay the default."""
    model = wide_model(dtype).maavt
    model.set_attn_implementation(implementation)
    inputs = {name: value.to(dtype) for name, value in tiny_inputs(frames=2).items()}
    inputs["input_features"] = inputs["input_features"][..., :16, :]
    with torch.no_grad():
        whole, rows = model(**inputs), model(**inputs, output_last_hidden_state=False)
        recorded = model(**inputs, output_last_hidden_state=False, output_hidden_states=True)
    assert rows.last_hidden_state is None and rows.audio_last_hidden_state is None
    assert recorded.hidden_states[-1].shape == whole.last_hidden_state.shape
    for stream in ("video", "audio"):
        for name in ("class_state", "background_state", "shared_states"):
            key = f"{stream}_{name}"
            close(rows[key], whole[key], dtype)
            close(recorded[key], whole[key], dtype)


@DTYPES
@pytest.mark.parametrize("sound", [(32, 32), (16, 40)], ids=["one length", "two lengths"])
@pytest.mark.parametrize("last", [True, False], ids=["all rows", "rows that are read"])
def test_blocks_in_pieces_equal_the_whole_batch(dtype, sound, last, monkeypatch):
    model = wide_model(dtype).maavt
    inputs = {name: value.to(dtype) for name, value in tiny_inputs(frames=2).items()}
    inputs["input_features"] = inputs["input_features"][..., :1, :1].expand(-1, -1, *sound).contiguous()
    attend, seen = layer_maavt.MAAVTLayer.attend, []
    monkeypatch.setattr(
        layer_maavt.MAAVTLayer,
        "attend",
        lambda self, states, *a, **k: seen.append(len(states)) or attend(self, states, *a, **k),
    )
    with torch.no_grad():
        whole = model(**inputs, output_last_hidden_state=last)
        together = list(seen)
        monkeypatch.setattr(layer_maavt, "LARGEST_REUSED", 3 * 2 * WIDTH * 40)
        seen.clear()
        pieces = model(**inputs, output_last_hidden_state=last)
    assert sum(seen) == sum(together) and len(seen) > len(together) and max(seen) < max(together)
    for name, value in whole.items():
        if value is not None:
            close(pieces[name], value, dtype)
    seen.clear()
    states = torch.randn(8, 40, WIDTH, dtype=dtype, requires_grad=True)
    model.encoder.layers[0](states, states)
    assert seen == [16]  # with a graph everything is kept anyway


def test_streams_that_lie_side_by_side_are_not_copied():
    both = torch.randn(5, 3, 4)
    video, audio = both.split([2, 3])
    with torch.no_grad():
        joined = layer_maavt.stacked(video, audio)
        assert joined.data_ptr() == both.data_ptr() and torch.equal(joined, both)
        others = [(audio, video), (video, audio.clone()), (video[:1], audio), (video[..., :2], audio[..., :2])]
        for one, other in others:
            assert torch.equal(layer_maavt.stacked(one, other), torch.cat([one, other]))
            assert layer_maavt.stacked(one, other).data_ptr() != both.data_ptr()
    assert layer_maavt.stacked(video, audio).data_ptr() != both.data_ptr()


@DTYPES
def test_what_a_block_computes_again_is_what_it_kept(dtype, monkeypatch):
    model = wide_model(dtype).train()
    inputs = {name: value.to(dtype) for name, value in tiny_inputs().items()}
    kept = outputs_and_gradients(model, inputs)
    calls = []
    monkeypatch.setattr(layer_maavt, "LARGEST_KEPT", 0)
    monkeypatch.setattr(
        layer_maavt, "checkpoint", lambda *a, **k: calls.append(a) or torch.utils.checkpoint.checkpoint(*a, **k)
    )
    again = outputs_and_gradients(model, inputs)
    assert len(calls) == 2  # once a block
    assert kept.keys() == again.keys() and all(torch.equal(kept[name], again[name]) for name in kept)
    model.gradient_checkpointing_enable()
    whole = outputs_and_gradients(model, inputs)
    assert len(calls) == 2  # whole blocks are computed again
    for name, value in whole.items():
        close(value, kept[name], dtype)


@needs_onednn
def test_lora_is_trained_beside_packed_layers_and_merges(monkeypatch):
    inputs = tiny_inputs()
    model = wide_model()
    with torch.no_grad():
        before = model(**inputs).logits  # packs the weights that LoRA later changes
    peft_model = get_peft_model(model, maavt_peft_config(model, lora_rank=4))
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.5)
    calls = count_packed(monkeypatch)
    loss = peft_model(**inputs, labels=torch.tensor([0, 1, 2, 3])).loss
    loss.backward()
    assert all(p.grad is not None for name, p in peft_model.named_parameters() if "lora_A" in name)
    with torch.no_grad():
        tuned = peft_model.eval()(**inputs).logits
        merged = peft_model.merge_and_unload()
        assert (tuned - before).abs().max() > 1e-3
        close(merged(**inputs).logits, tuned, torch.float32)
        assert calls
        again = copy.deepcopy(merged)(**inputs).logits
    close(again, tuned, torch.float32)


@pytest.mark.slow  # tracing takes a minute beside other work
@pytest.mark.parametrize("training", [False, True])
def test_the_model_compiles_to_one_graph_and_stays_compiled(training):
    torch._dynamo.reset()
    model = tiny_model().train(training)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    labels = {"labels": torch.tensor([0, 1, 2, 3]), "is_matched": torch.tensor([True, True, True, False])}
    with torch._dynamo.config.patch(error_on_recompile=True), torch.set_grad_enabled(training):
        for seed in (1, 2):
            inputs = {**tiny_inputs(seed=seed), **(labels if training else {})}
            found = compiled(**inputs)
            if training:
                found.loss.backward()
    expected = model.eval()(**inputs)
    if not training:
        close(found.logits, expected.logits, torch.float32)
    torch._dynamo.reset()


@DTYPES
@pytest.mark.parametrize("shape", [(3, 32, 48), (1, 32, 48), (3, 37, 55), (1, 16, 20)])
def test_patches_in_one_product_equal_the_convolution(dtype, shape):
    torch.manual_seed(0)
    patches = embeddings_maavt.MAAVTPatchEmbeddings(ViTConfig(hidden_size=WIDTH, patch_size=(16, 8))).to(dtype)
    images = torch.randn(2, *shape, dtype=dtype, requires_grad=True)
    found = patches(images)
    found.square().sum().backward()
    gradients = [images.grad, *(parameter.grad for parameter in patches.parameters())]
    images.grad = None
    patches.zero_grad()
    expected = patches.projection(images.expand(-1, 3, -1, -1)).flatten(2).transpose(1, 2)
    expected.square().sum().backward()
    close(found, expected, dtype)
    for gradient, other in zip(gradients, (images.grad, *(p.grad for p in patches.parameters())), strict=True):
        close(gradient, other, dtype)


BLOCKS = {  # of width 384 and 3072
    "maavt": """
        from transformers.models.vit.modeling_vit import ViTConfig
        from modeling_maavt.layer_maavt import MAAVTLayer

        layer = MAAVTLayer(ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=3072)).eval()
        """,
}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc than glibc's")
@pytest.mark.parametrize("package", BLOCKS)
def test_evaluation_touches_no_new_memory(package, tmp_path):
    """In a process of its own, whose malloc nobody has tuned."""
    script = tmp_path / "evaluate.py"
    script.write_text(
        "import resource, torch\n"
        + textwrap.dedent(BLOCKS[package])
        + textwrap.dedent(
            """
            states = torch.randn(8, 196, 384)

            def faults():
                with torch.inference_mode():
                    video = audio = states
                    for _ in range(6):
                        video, audio, *_ = layer(video, audio)
                return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

            for _ in range(3):
                before = faults()
            print((faults() - before) / 12)
            """
        )
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    environment["PYTHONPATH"] = str(Path(layer_maavt.__file__).parents[1])
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 400  # pages a block and stream, whose widest states fill 4,704
