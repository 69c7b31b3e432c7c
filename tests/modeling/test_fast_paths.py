# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Every path of the model that does less work gives what the plain one gives: in float32 to 1e-5, in bfloat16 to its rounding."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_inputs, tiny_model
from transformers import ViTConfig

from modeling_maavt.modeling_maavt import MAAVTLayer, MAAVTPatchEmbeddings


WIDTH = 64
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["float32", "bfloat16"])
LABELS = {"labels": torch.tensor([0, 1, 2, 3]), "is_matched": torch.tensor([True, True, True, False])}


def close(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    actual, expected = actual.detach(), expected.detach()
    difference = (actual.float() - expected.float()).abs().max()
    assert difference <= TOLERANCE[dtype] * max(1.0, float(expected.float().abs().max())), float(difference)


def model_in(dtype: torch.dtype, **overrides):
    """A tiny model with its frozen part in `dtype`."""
    model = tiny_model(**overrides)
    for module in (model.maavt.embeddings, model.maavt.encoder, model.maavt.layernorm):
        module.to(dtype)
    return model


def inputs_in(dtype: torch.dtype, spectrogram: tuple[int, int] = (32, 32), frames: int = 1) -> dict[str, torch.Tensor]:
    inputs = {name: value.to(dtype) for name, value in tiny_inputs(frames=frames).items()}
    generator = torch.Generator().manual_seed(1)
    inputs["input_features"] = torch.randn(4, 1, *spectrogram, generator=generator).to(dtype)
    return inputs


def outputs_and_gradients(model, inputs) -> dict[str, torch.Tensor]:
    outputs = model(**inputs, **LABELS)
    outputs.loss.backward()
    tensors = {"logits": outputs.logits, "match_logits": outputs.match_logits, "loss": outputs.loss}
    tensors |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {name: value.detach() for name, value in tensors.items() if value is not None}


def one_by_one(self, part, video, audio, video_queries=None, audio_queries=None):
    """`MAAVTLayer.for_both` without the stacked pass."""
    return part(video, video_queries)[0], part(audio, audio_queries)[0], None, None


# ---- one stacked pass, and the last block of the rows that are read


@DTYPES
@pytest.mark.parametrize(
    ("overrides", "spectrogram"),
    [
        ({}, (32, 32)),
        ({"num_visual_tokens": 2, "num_audio_tokens": 4}, (16, 40)),
        ({"background_mining": False}, (32, 32)),
    ],
    ids=["one length", "two lengths", "no mining"],
)
def test_a_stacked_pass_over_few_rows_equals_two_over_all(dtype, overrides, spectrogram, monkeypatch):
    model, inputs = model_in(dtype, **overrides), inputs_in(dtype, spectrogram)
    fast = outputs_and_gradients(model, inputs)
    monkeypatch.setattr(MAAVTLayer, "for_both", one_by_one)
    monkeypatch.setattr(type(model.maavt), "_can_skip_positions", lambda self, lavish: False)
    plain = outputs_and_gradients(model, inputs)
    assert fast.keys() == plain.keys() and len(fast) > 10
    for name, value in fast.items():
        close(value, plain[name], dtype)


@DTYPES
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_last_block_of_the_rows_that_are_read(dtype, implementation):
    """Two lengths, several frames; the sequences themselves stay the default."""
    model = model_in(dtype).maavt
    model.set_attn_implementation(implementation)
    inputs = inputs_in(dtype, (16, 32), frames=2)
    lengths = []
    model.encoder.layers[-1].register_forward_hook(lambda module, args, output: lengths.append(output[0].shape[1]))
    with torch.no_grad():
        whole, rows = model(**inputs), model(**inputs, output_last_hidden_state=False)
        recorded = model(**inputs, output_last_hidden_state=False, output_hidden_states=True)
    assert lengths == [28, 7, 28]  # class, background and five shared tokens of 28
    assert rows.last_hidden_state is None and rows.audio_last_hidden_state is None
    assert recorded.hidden_states[-1].shape == whole.last_hidden_state.shape
    for stream in ("video", "audio"):
        for name in ("class_state", "background_state", "shared_states"):
            key = f"{stream}_{name}"
            close(rows[key], whole[key], dtype)
            close(recorded[key], whole[key], dtype)


# ---- patches of one channel


@DTYPES
@pytest.mark.parametrize("shape", [(3, 32, 48), (1, 32, 48), (3, 37, 55), (1, 16, 20)])
def test_one_channel_equals_three_repeated_channels(dtype, shape):
    torch.manual_seed(0)
    patches = MAAVTPatchEmbeddings(ViTConfig(hidden_size=WIDTH, patch_size=(16, 8))).to(dtype)
    images = torch.randn(2, *shape, dtype=dtype, requires_grad=True)
    actual = patches(images)
    actual.square().sum().backward()
    gradients = [images.grad, *(parameter.grad for parameter in patches.parameters())]
    images.grad = None
    patches.zero_grad()
    weight, bias = patches.projection.weight, patches.projection.bias
    expected = torch.nn.functional.conv2d(images.expand(-1, 3, -1, -1), weight, bias, stride=(16, 8))
    expected = expected.flatten(2).transpose(1, 2)
    expected.square().sum().backward()
    close(actual, expected, dtype)
    for gradient, other in zip(gradients, (images.grad, *(p.grad for p in patches.parameters())), strict=True):
        close(gradient, other, dtype)


# ---- torch.compile


@pytest.mark.slow  # tracing takes a minute beside other work
@pytest.mark.parametrize("training", [False, True])
def test_the_model_compiles_to_one_graph_and_stays_compiled(training):
    torch._dynamo.reset()
    model = tiny_model().train(training)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=True), torch.set_grad_enabled(training):
        for seed in (1, 2):
            inputs = {**tiny_inputs(seed=seed), **(LABELS if training else {})}
            outputs = compiled(**inputs)
            if training:
                outputs.loss.backward()
    if not training:
        close(outputs.logits, model(**inputs).logits, torch.float32)
    torch._dynamo.reset()


# ---- what may stand around or inside the model


def test_unknown_arguments_are_ignored():
    model, inputs = tiny_model(), tiny_inputs()
    expected = model(**inputs)
    actual = model(**inputs, attention_mask=None, input_ids=None, inputs_embeds=None, return_dict=None)
    torch.testing.assert_close(actual.logits, expected.logits)
    assert isinstance(model(**inputs, return_dict=False), tuple)
    sequences = model.maavt(**inputs, attention_mask=None).last_hidden_state
    torch.testing.assert_close(sequences, model.maavt(**inputs).last_hidden_state)


@pytest.mark.parametrize("task_type", [None, "FEATURE_EXTRACTION", "SEQ_CLS"])
def test_lora_on_all_linear_layers_is_trained_and_merged(task_type):
    inputs = tiny_inputs()
    before = tiny_model()(**inputs).logits
    config = LoraConfig(r=2, target_modules="all-linear", task_type=task_type)
    model = get_peft_model(tiny_model(), config)
    adapted = [name for name, _ in model.named_modules() if name.endswith("lora_A.default")]
    assert {name.split(".")[-3] for name in adapted} >= {"q_proj", "o_proj", "fc1", "fc2", "qkv"}
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.train()(**inputs, labels=LABELS["labels"]).loss.backward()
    with torch.no_grad():
        tuned = model.eval()(**inputs).logits
        merged = model.merge_and_unload()
        assert (tuned - before).abs().max() > 1e-3
        torch.testing.assert_close(merged(**inputs).logits, tuned, atol=1e-5, rtol=1e-4)


def test_only_labels_look_like_labels():
    """The Trainer takes every argument with "label" in its name for one that evaluation must have."""
    from transformers.utils.generic import find_labels

    assert find_labels(type(tiny_model())) == ["labels"]
