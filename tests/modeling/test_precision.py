# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What autocast may not touch: the losses, the match head's statistics, and the residual stream that stock ViT keeps in float32."""

import copy

import pytest
import torch
from tiny_deepavfusion import tiny_inputs as tiny_windows
from tiny_deepavfusion import tiny_model as tiny_deepavfusion
from tiny_models import TINY_VIT, tiny_inputs, tiny_model
from torch import nn
from transformers import ViTConfig, ViTModel

from modeling_deepavfusion import DeepAVFusionModel, losses_deepavfusion
from modeling_maavt import losses_maavt
from modeling_maavt.modeling_maavt import MAAVTRunningNorm


HALVES = [torch.bfloat16, torch.float16]


# ---- running statistics of the match head


def parallel_states(num: int = 256, width: int = 8) -> torch.Tensor:
    """Background states as a frozen backbone gives them: nearly parallel, the mean 400 times the deviation."""
    generator = torch.Generator().manual_seed(0)
    mean = 20 * torch.randn(width, generator=generator, dtype=torch.float64).sign()
    return (mean + 0.05 * torch.randn(num, width, generator=generator, dtype=torch.float64)).float()


def test_statistics_of_nearly_parallel_states():
    states = parallel_states()
    norm = MAAVTRunningNorm(8).train()
    for batch in states.split(64):
        norm(batch)
    exact = states.double()
    torch.testing.assert_close(norm.mean.double(), exact.mean(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(norm.variance().double(), exact.var(0, correction=0), atol=0, rtol=0.05)
    # the buffers are the mean and the mean square, as in checkpoints of before
    assert set(dict(norm.named_buffers())) == {"mean", "square", "num_updates"}
    torch.testing.assert_close(norm.square.double(), exact.square().mean(0), atol=0, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_stay_in_float32_when_the_model_is_cast(dtype):
    """As Trainer casts it with fp16_full_eval or bf16_full_eval: rounded, the variance would be noise."""
    states = parallel_states()
    norm = MAAVTRunningNorm(8).train()
    norm(states)
    before = copy.deepcopy(norm.state_dict())
    norm = torch.nn.Sequential(norm).to(dtype).cpu()[0].eval()
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert norm(states.to(dtype)).dtype == dtype
    with torch.device("meta"):
        empty = MAAVTRunningNorm(8).to(dtype)
    assert empty.to_empty(device="cpu").mean.dtype == torch.float32


def reference_statistics(batches: list[torch.Tensor], momentum: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and mean square: an average over the first batches, then an exponential one."""
    mean, square = torch.zeros(2, batches[0].shape[1], dtype=torch.float64)
    for number, batch in enumerate(batches, 1):
        rate = max(1 / number, momentum)
        mean = (1 - rate) * mean + rate * batch.double().mean(0)
        square = (1 - rate) * square + rate * batch.double().square().mean(0)
    return mean, square


def test_average_over_the_first_updates_turns_exponential():
    batches = [number + torch.randn(6, 4, generator=torch.Generator().manual_seed(number)) for number in range(25)]
    norm = MAAVTRunningNorm(4).train()
    for batch in batches:
        norm(batch)
    mean, square = reference_statistics(batches)
    torch.testing.assert_close(norm.mean.double(), mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(norm.square.double(), square, atol=1e-4, rtol=1e-5)
    assert norm.num_updates == 25
    plain_average = torch.cat(batches).double().mean(0)
    assert ((norm.mean.double() - plain_average) > 3).all()  # the last batches weigh more


@pytest.mark.parametrize("absent", [0.0, 1e4, float("nan"), float("inf")])
def test_absent_rows_do_not_enter_the_statistics(absent):
    states, present = parallel_states(12), torch.ones(12, dtype=torch.bool)
    present[[1, 5, 6]] = False
    alone, padded = MAAVTRunningNorm(8).train(), MAAVTRunningNorm(8).train()
    for _ in range(3):
        alone(states[present])
        padded(torch.where(present[:, None], states, absent), present)
    for name, buffer in alone.named_buffers():
        torch.testing.assert_close(dict(padded.named_buffers())[name], buffer)
    # a batch without any pair changes nothing
    before = copy.deepcopy(padded.state_dict())
    padded(states, torch.zeros(12, dtype=torch.bool))
    assert all(torch.equal(value, before[name]) for name, value in padded.state_dict().items())


def test_clips_without_a_modality_do_not_enter_the_statistics_of_the_model():
    inputs, labels = tiny_inputs(clips=6), torch.arange(6) % 5
    has_audio = torch.tensor([True, False, True, True, False, True])
    whole, part = tiny_model(in_batch_mismatches=0).train(), tiny_model(in_batch_mismatches=0).train()
    inputs["input_features"][~has_audio] = 0
    whole(**inputs, labels=labels, has_audio=has_audio)
    part(**{name: value[has_audio] for name, value in inputs.items()}, labels=labels[has_audio])
    for norm in ("video_norm", "audio_norm"):
        found, expected = getattr(whole.match_head, norm), getattr(part.match_head, norm)
        torch.testing.assert_close(found.mean, expected.mean)
        torch.testing.assert_close(found.square, expected.square)


@pytest.mark.parametrize("dtype", HALVES)
def test_statistics_and_match_logits_are_float32_under_autocast(dtype):
    states = parallel_states().view(4, 64, 8)
    plain = tiny_model(in_batch_mismatches=0).match_head.train()
    states = nn.functional.pad(states, (0, 56), value=3.0)  # width 64
    cast = copy.deepcopy(plain)
    with torch.autocast("cpu", dtype=dtype):
        cast.video_norm(states)
    plain.video_norm(states)
    for name, buffer in plain.video_norm.named_buffers():
        assert torch.equal(dict(cast.video_norm.named_buffers())[name], buffer) and buffer.dtype == torch.float32


# ---- losses


def sharp_pairs(num: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Well trained pairs: their contrast is near 0.0004."""
    generator = torch.Generator().manual_seed(0)
    video = torch.eye(num)[:, None] + 0.02 * torch.randn(num, 1, num, generator=generator)
    audio = torch.eye(num)[:, None] + 0.02 * torch.randn(num, 1, num, generator=generator)
    return video.requires_grad_(), audio.requires_grad_()


@pytest.mark.parametrize("dtype", HALVES)
def test_gradient_of_a_small_contrast_under_autocast(dtype):
    video, audio = sharp_pairs()
    everywhere, temperature = torch.ones(16, dtype=torch.bool), 0.1
    exact = losses_maavt.contrastive_loss(video.double(), audio.double(), everywhere, temperature)
    assert 1e-4 < exact.item() < 1e-3
    expected = torch.autograd.grad(exact.sum(), (video, audio))
    with torch.autocast("cpu", dtype=dtype):
        loss = losses_maavt.contrastive_loss(video, audio, everywhere, temperature)
    assert loss.dtype == torch.float32
    for gradient, reference in zip(torch.autograd.grad(loss.sum(), (video, audio)), expected, strict=True):
        assert (gradient - reference).norm() < 1e-3 * reference.norm()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("losses", [losses_maavt, losses_deepavfusion])
def test_classification_is_float32_under_autocast(losses, dtype):
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)) * 5
    index, everywhere = torch.arange(8) % 5, torch.ones(8, dtype=torch.bool)
    cases = [
        (index, None),
        (torch.eye(5)[index] * 0.9 + 0.02, None),
        (torch.eye(5)[index], "multi_label_classification"),
    ]
    for labels, problem_type in cases:
        expected = losses.classification_loss(logits, labels, everywhere, problem_type)
        with torch.autocast("cpu", dtype=dtype):
            found = losses.classification_loss(logits, labels, everywhere, problem_type)
            half = losses.classification_loss(logits.to(dtype), labels, everywhere, problem_type)
        assert torch.equal(found, expected) and half.dtype == torch.float32


@pytest.mark.parametrize("dtype", HALVES)
def test_other_losses_are_float32_under_autocast(dtype):
    generator = torch.Generator().manual_seed(0)
    predicted, target, mixture = torch.randn(3, 4, 9, 16, generator=generator)
    hidden = torch.rand(4, 9, generator=generator) > 0.5
    share = losses_deepavfusion.separation_mask(mixture, target, predicted, "ratio")
    matched = torch.tensor([True, False, True, False])
    calls = [
        lambda: losses_maavt.matching_loss(predicted[:, 0, 0] * 9, matched, torch.ones(4, dtype=torch.bool)),
        lambda: losses_deepavfusion.reconstruction_loss(predicted, target + 30, hidden, True),
        lambda: losses_deepavfusion.separation_mask(mixture, target, predicted, "ratio").mean(),
        lambda: losses_deepavfusion.separation_loss(predicted, share, mixture, True),
    ]
    for call in calls:
        expected = call()
        with torch.autocast("cpu", dtype=dtype):
            found = call()
        assert torch.equal(found, expected) and found.dtype == torch.float32


@pytest.mark.parametrize("dtype", HALVES)
def test_heads_and_losses_of_the_model_are_float32_under_autocast(dtype, monkeypatch):
    """Given the same states, the heads give the same with autocast and without: only the backbone is rounded."""
    model, inputs = tiny_model(unimodal_loss_weight=0.5).train(), tiny_inputs(clips=6, frames=2, segments=2)
    labels = torch.arange(6) % 5
    states = model.maavt(**inputs, output_last_hidden_state=False)
    monkeypatch.setattr(model.maavt, "forward", lambda *args, **kwargs: states)
    again = copy.deepcopy(model.match_head.state_dict())
    expected = model(**inputs, labels=labels)
    model.match_head.load_state_dict(again)
    with torch.autocast("cpu", dtype=dtype):
        found = model(**inputs, labels=labels)
    for name in ("loss", "logits", "match_logits", "matching_loss", "contrastive_loss", "unimodal_loss"):
        assert found[name].dtype == torch.float32 and torch.equal(found[name], expected[name]), name


# ---- training


@pytest.mark.parametrize("dtype", HALVES)
def test_training_under_autocast_and_grad_scaler(dtype):
    model, plain, inputs = tiny_model().train(), tiny_model().train(), tiny_inputs(clips=6)
    labels = torch.arange(6) % 5
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01)
    with torch.autocast("cpu", dtype=dtype):
        loss = model(**inputs, labels=labels).loss
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    plain(**inputs, labels=labels).loss.backward()
    for (name, found), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        if found.requires_grad:
            assert (found.grad - expected.grad).norm() <= 0.05 * expected.grad.norm() + 1e-5, name
    scaler.step(optimizer)
    scaler.update()

    # A batch that overflows: the step is left out, and the running statistics stay what they were.
    before = copy.deepcopy(model.state_dict())
    inputs["input_features"] *= float("inf")
    with torch.autocast("cpu", dtype=dtype):
        loss = model(**inputs, labels=labels).loss
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    for name, value in model.state_dict().items():
        assert value.isfinite().all(), name
        if "video_norm" not in name:
            assert torch.equal(value, before[name]), name


# ---- the residual stream


@pytest.mark.parametrize("dtype", HALVES)
def test_residual_stream_is_that_of_vit_under_autocast(dtype):
    images = tiny_inputs()["pixel_values_videos"]
    vit = ViTModel(ViTConfig(**{name: value for name, value in TINY_VIT.items() if name != "model_type"})).eval()
    model = tiny_model()
    windows = tiny_windows()
    with torch.autocast("cpu", dtype=dtype), torch.no_grad():
        expected = vit(images[:, 0], output_hidden_states=True).hidden_states
        found = model.maavt(images, output_hidden_states=True).hidden_states
        fused = tiny_deepavfusion(DeepAVFusionModel)(**windows, output_hidden_states=True)
    assert {states.dtype for states in expected} == {torch.float32}
    assert {states.dtype for states in found} == {torch.float32}
    assert {states.dtype for states in fused.hidden_states} == {torch.float32}


def test_residual_stream_of_a_model_in_bfloat16_is_bfloat16():
    states = (
        tiny_model().bfloat16().maavt(**{k: v.bfloat16() for k, v in tiny_inputs().items()}, output_hidden_states=True)
    )
    assert {state.dtype for state in states.hidden_states} == {torch.bfloat16}
