# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion's pre-training and its class heads: masks, losses, windows, missing halves, labels."""

import pytest
import torch
from tiny_deepavfusion import all_close, tiny_inputs, tiny_model
from torch import nn
from transformers import AutoModelForPreTraining, AutoModelForVideoClassification

from modeling_deepavfusion import DeepAVFusionForAudioVisualClassification, DeepAVFusionForPreTraining
from modeling_deepavfusion.pretraining_and_classification_deepavfusion import (
    DeepAVFusionPooledNorm,
    patchify,
    unpatchify,
)


HEADS = ("image", "audio", "fusion")


def noises(clips: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "image_noise": torch.rand(clips, 16, generator=generator),
        "audio_noise": torch.rand(clips, 6, generator=generator),
    }


# ---- pre-training


def test_patches_as_vectors():
    images = torch.arange(2 * 3 * 8 * 12).float().view(2, 3, 8, 12)
    patches = patchify(images, 4)
    assert patches.shape == (2, 6, 48)
    assert torch.equal(patches[1, 4, (2 * 4 + 3) * 3 + 1], images[1, 1, 4 + 2, 4 + 3])  # row, column, channel
    assert torch.equal(unpatchify(patches, 4, (2, 3)), images)


def test_noise_decides_the_masks():
    model = tiny_model(DeepAVFusionForPreTraining)
    inputs, noise = tiny_inputs(), noises()
    outputs = model(**inputs, **noise)
    assert outputs.image_mask.sum(1).tolist() == [12] * 3 and outputs.audio_mask.sum(1).tolist() == [5] * 3
    for name in ("image", "audio"):
        kept = (outputs[f"{name}_mask"] == 0).sum(1)[0]
        smallest = noise[f"{name}_noise"].argsort(1)[:, :kept].sort(1).values
        assert torch.equal((outputs[f"{name}_mask"] == 0).nonzero()[:, 1].view(3, -1), smallest)
    again = model(**inputs, **noise)
    assert torch.equal(again.loss, outputs.loss) and torch.equal(again.image_logits, outputs.image_logits)
    torch.manual_seed(1)
    first = model(**inputs)
    second = model(**inputs)
    torch.manual_seed(1)
    assert torch.equal(model(**inputs).image_mask, first.image_mask)
    assert not torch.equal(second.image_mask, first.image_mask)
    # the encoder alone masks alike
    states = model.deepavfusion(**inputs, **noise)
    assert states.image_last_hidden_state.shape == (3, 4, 32) and states.audio_last_hidden_state.shape == (3, 1, 32)
    with pytest.raises(ValueError, match=r"image_noise has shape \(3, 15\)"):
        model(**inputs, image_noise=torch.rand(3, 15))


def test_hidden_patches_reach_no_prediction():
    model = tiny_model(DeepAVFusionForPreTraining)
    inputs, noise = tiny_inputs(), noises()
    outputs = model(**inputs, **noise)
    frames = inputs["pixel_values_videos"][:, 0]
    patches = patchify(frames, 4) + 5 * outputs.image_mask[..., None]
    other = model(unpatchify(patches, 4, (4, 4))[:, None], inputs["input_features"], **noise)
    all_close(other.image_logits, outputs.image_logits)
    all_close(other.audio_loss, outputs.audio_loss)
    all_close(other.image_loss, outputs.image_loss, 1e-4)  # a constant is standardized away


@pytest.mark.parametrize("normalize", [True, False])
def test_losses_are_means_over_hidden_patches(normalize):
    model = tiny_model(DeepAVFusionForPreTraining, norm_pix_loss=normalize, audio_loss_weight=0.5)
    inputs = tiny_inputs()
    outputs = model(**inputs, **noises())
    for name, images in (("image", inputs["pixel_values_videos"][:, 0]), ("audio", inputs["input_features"])):
        target = patchify(images, 4)
        if normalize:
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        errors = (outputs[f"{name}_logits"] - target).square().mean(-1)
        all_close(outputs[f"{name}_loss"], errors[outputs[f"{name}_mask"] == 1].mean())
    all_close(outputs.loss, outputs.image_loss + 0.5 * outputs.audio_loss)
    assert model(**inputs, **noises(), return_loss=False).loss is None


def test_pretraining_without_a_modality():
    model = tiny_model(DeepAVFusionForPreTraining)
    inputs, noise = tiny_inputs(), noises()
    has_video = torch.tensor([True, False, True])
    marked = model(**inputs, **noise, has_video=has_video)
    rows = {name: value[[0, 2]] for name, value in (inputs | noise).items()}
    all_close(marked.image_loss, model(**rows).image_loss)
    silent = model(pixel_values_videos=inputs["pixel_values_videos"], image_noise=noise["image_noise"])
    assert silent.audio_loss is None and silent.audio_logits is None
    all_close(silent.loss, silent.image_loss)
    nothing = model(**inputs, **noise, has_video=torch.zeros(3).bool())
    assert nothing.image_loss == 0


def test_pretraining_learns_what_visible_patches_tell():
    layers = {"num_hidden_layers": 1, "decoder_num_hidden_layers": 1}
    model = tiny_model(DeepAVFusionForPreTraining, norm_pix_loss=False, **layers).train()
    shades = torch.linspace(-2, 2, 8).view(8, 1, 1, 1, 1)
    inputs = {
        "pixel_values_videos": shades.expand(-1, 1, 3, 16, 16),
        "input_features": -shades[:, 0].expand(-1, 1, 8, 12),
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3)
    for step in range(30):
        loss = model(**inputs, **noises(8, seed=step)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3 * 2 * shades.square().mean()  # predicting the mean, 0, leaves twice the variance


# ---- classification


def test_logits_are_the_mean_of_three_heads_and_of_windows():
    model = tiny_model(DeepAVFusionForAudioVisualClassification)
    inputs = tiny_inputs(windows=2)
    outputs = model(**inputs)
    states = model.deepavfusion(**inputs)
    expected = []
    for name in HEADS:
        head = getattr(model, f"{name}_classifier")
        pooled = states[f"{name}_last_hidden_state"].mean(1)
        expected.append(head(pooled).view(3, 2, 5).mean(1))
        all_close(outputs[f"{name}_logits"], expected[-1])
    all_close(outputs.logits, torch.stack(expected).mean(0))
    windows = [
        model(**{name: value[:, i : i + 1] for name, value in inputs.items()}).logits.softmax(-1) for i in (0, 1)
    ]
    assert (windows[0] - windows[1]).abs().max() > 1e-3
    per_window = model(**inputs, labels=torch.tensor([[0, 1], [2, -100], [3, 4]]))
    assert per_window.window_logits.shape == (3, 2, 5)
    all_close(per_window.window_logits.mean(1), outputs.logits)
    all_close(per_window.logits, outputs.logits)
    expected = nn.functional.cross_entropy(
        per_window.window_logits.flatten(0, 1), torch.tensor([0, 1, 2, -100, 3, 4]), ignore_index=-100
    )
    all_close(per_window.loss, expected)


def test_heads_of_missing_modalities_are_left_out():
    model = tiny_model(DeepAVFusionForAudioVisualClassification)
    inputs = tiny_inputs(clips=4, windows=2)
    has_video, has_audio = torch.tensor([1, 0, 1, 1]).bool(), torch.tensor([1, 1, 0, 1]).bool()
    outputs = model(**inputs, has_video=has_video, has_audio=has_audio)
    sound = model(input_features=inputs["input_features"])
    picture = model(pixel_values_videos=inputs["pixel_values_videos"])
    assert sound.image_logits is None and picture.audio_logits is None
    all_close(outputs.logits[1], sound.logits[1])
    all_close(outputs.logits[2], picture.logits[2])
    all_close(sound.logits, (sound.audio_logits + sound.fusion_logits) / 2)
    all_close(outputs.logits[[0, 3]], model(**inputs).logits[[0, 3]])
    assert outputs.image_logits[1].abs().max() == 0 and outputs.audio_logits[2].abs().max() == 0


@pytest.mark.parametrize("mode", ["joint", "separate"])
def test_losses_of_indices_scores_and_multi_hot(mode):
    model = tiny_model(DeepAVFusionForAudioVisualClassification, classifier_loss=mode)
    inputs = tiny_inputs(clips=4)

    def expected_loss(outputs, loss, rows=slice(None)):
        if mode == "joint":
            return loss(outputs.logits[rows])
        return sum(loss(outputs[f"{name}_logits"][rows]) for name in HEADS) / 3

    labels = torch.tensor([0, 3, -100, 1])
    is_matched = torch.tensor([True, True, True, False])
    outputs = model(**inputs, labels=labels, is_matched=is_matched)
    all_close(outputs.loss, expected_loss(outputs, lambda x: nn.functional.cross_entropy(x, labels[:2]), slice(2)))
    scores = torch.rand(4, 5).softmax(-1)
    outputs = model(**inputs, labels=scores)
    all_close(outputs.loss, expected_loss(outputs, lambda x: nn.functional.cross_entropy(x, scores)))
    scores[2:] = -100
    outputs = model(**inputs, labels=scores)
    all_close(outputs.loss, expected_loss(outputs, lambda x: nn.functional.cross_entropy(x, scores[:2]), slice(2)))
    model.config.problem_type = "multi_label_classification"
    several = torch.tensor([[1, 0, 1, 0, 0]] * 4)
    outputs = model(**inputs, labels=several)
    binary = nn.functional.binary_cross_entropy_with_logits
    all_close(outputs.loss, expected_loss(outputs, lambda x: binary(x, several.float())))
    with pytest.raises(ValueError, match="labels have shape"):
        model(**inputs, labels=torch.zeros(3, 5))


def test_one_sound_that_is_there_or_not():
    model = tiny_model(
        DeepAVFusionForAudioVisualClassification, num_labels=1, problem_type="multi_label_classification"
    )
    there = torch.tensor([[1.0], [0.0], [1.0], [1.0]])
    outputs = model(**tiny_inputs(clips=4), labels=there)
    all_close(outputs.loss, nn.functional.binary_cross_entropy_with_logits(outputs.logits, there))


def test_label_smoothing_in_training_only():
    model = tiny_model(DeepAVFusionForAudioVisualClassification, label_smoothing=0.1)
    inputs, labels = tiny_inputs(clips=4), torch.tensor([0, 3, -100, 1])
    plain = model(**inputs, labels=labels)
    all_close(plain.loss, nn.functional.cross_entropy(plain.logits, labels))
    model.train()
    smooth = model(**inputs, labels=labels)
    all_close(smooth.loss, nn.functional.cross_entropy(smooth.logits, labels, label_smoothing=0.1))
    mixed = torch.rand(4, 5).softmax(-1)
    smooth = model(**inputs, labels=mixed)
    all_close(smooth.loss, nn.functional.cross_entropy(smooth.logits, mixed, label_smoothing=0.1))
    model.config.problem_type = "multi_label_classification"
    several = torch.tensor([[1, 0, 1, 0, 0]] * 4)
    outputs = model(**inputs, labels=several)
    all_close(outputs.loss, nn.functional.binary_cross_entropy_with_logits(outputs.logits, several.float()))


def test_linear_probe_normalizes_pooled_states():
    model = tiny_model(DeepAVFusionForAudioVisualClassification, use_pooled_batchnorm=True)
    model.freeze_encoder()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {f"{name}_classifier.{kind}" for name in HEADS for kind in ("weight", "bias")}
    inputs = tiny_inputs(clips=8)
    outputs = model.train()(**inputs, labels=torch.arange(8) % 5)
    outputs.loss.backward()
    pooled = model.deepavfusion(**inputs).last_hidden_state.mean(1)
    expected = (pooled - pooled.mean(0)) / (pooled.var(0, unbiased=False) + 1e-6).sqrt()
    all_close(outputs.fusion_logits, model.fusion_classifier(expected))
    assert model.deepavfusion.layers[0].image.mlp.fc1.weight.grad is None
    assert model.fusion_batchnorm.num_batches_tracked == 1
    quiet = model.eval()(**inputs)
    assert (quiet.logits - outputs.logits).abs().max() > 1e-3


def test_statistics_come_from_windows_that_have_the_modality():
    norm = DeepAVFusionPooledNorm(4).train()
    pooled = torch.randn(6, 4)
    present = torch.tensor([1, 0, 1, 1, 0, 1]).bool()
    normed = norm(pooled, present)
    all_close(normed[present], DeepAVFusionPooledNorm(4).train()(pooled[present]))
    assert normed[~present].abs().max() == 0
    before = norm.running_mean.clone()
    assert norm(pooled, torch.arange(6) == 0).abs().max() == 0  # one row has no variance
    assert torch.equal(norm.running_mean, before)


def test_heads_start_at_class_frequencies():
    model = tiny_model(DeepAVFusionForAudioVisualClassification)
    shares = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    model.set_class_frequencies(shares)
    for name in HEADS:
        all_close(getattr(model, f"{name}_classifier").bias.sigmoid()[1:4], shares[1:4], 2e-3)
    with pytest.raises(ValueError, match="5 numbers"):
        model.set_class_frequencies(torch.rand(4))


def test_pretrained_encoder_starts_a_classifier(tmp_path):
    pretrained = tiny_model(DeepAVFusionForPreTraining)
    pretrained.save_pretrained(tmp_path / "pretrained")
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path / "pretrained").eval()
    inputs, noise = tiny_inputs(), noises()
    assert torch.equal(loaded(**inputs, **noise).loss, pretrained(**inputs, **noise).loss)
    classifier = AutoModelForVideoClassification.from_pretrained(tmp_path / "pretrained", num_labels=7).eval()
    assert type(classifier) is DeepAVFusionForAudioVisualClassification and classifier(**inputs).logits.shape == (3, 7)
    states = pretrained.deepavfusion(**inputs).last_hidden_state
    assert torch.equal(classifier.deepavfusion(**inputs).last_hidden_state, states)
    classifier.save_pretrained(tmp_path / "classifier")
    assert set(classifier.config.auto_map) == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForVideoClassification",
        "AutoModelForAudioClassification",
    }
