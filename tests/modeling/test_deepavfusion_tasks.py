# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion's segmentation, separation and localization: sizes, windows, missing halves, losses, maps, errors."""

import json

import pytest
import torch
from transformers import AutoModelForSemanticSegmentation

from modeling_deepavfusion import (
    DeepAVFusionConfig,
    DeepAVFusionForAudioVisualClassification,
    DeepAVFusionForAudioVisualSegmentation,
    DeepAVFusionForSoundSourceLocalization,
    DeepAVFusionForSoundSourceSeparation,
)
from modeling_deepavfusion.dense_tasks_deepavfusion import (
    DeepAVFusionSegmentationDecoder,
    DeepAVFusionSeparationDecoder,
    spread_layers,
)
from modeling_deepavfusion.losses_deepavfusion import separation_loss, separation_mask


TASKS = (
    DeepAVFusionForAudioVisualSegmentation,
    DeepAVFusionForSoundSourceSeparation,
    DeepAVFusionForSoundSourceLocalization,
)


def small_config(**fields) -> DeepAVFusionConfig:
    values = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "image_size": 32,
        "num_mel_bins": 16,
        "audio_num_frames": 32,
        "patch_size": 16,
        "num_fusion_tokens": 3,
        "num_visual_aggregation_tokens": 2,
        "num_audio_aggregation_tokens": 2,
        "fusion_attention_ratio": 0.5,
        "decoder_hidden_size": 16,
        "decoder_num_attention_heads": 4,
        "segmentation_min_channels": 8,
        "image_mask_ratio": 0.5,
        "audio_mask_ratio": 0.5,
        "num_labels": 1,
        **fields,
    }
    return DeepAVFusionConfig(**values)


def small(model_class, seed: int = 0, **fields):
    torch.manual_seed(seed)
    return model_class(small_config(**fields)).eval()


def windows(clips: int = 2, count: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "pixel_values_videos": torch.randn(clips, count, 3, 32, 32, generator=generator),
        "input_features": torch.randn(clips, count, 16, 32, generator=generator) - 3,
    }


# ---- sizes


@pytest.mark.parametrize(
    "decoder, num_labels, millions",
    [
        (DeepAVFusionSegmentationDecoder, 1, 37.80),
        (DeepAVFusionSegmentationDecoder, 71, 37.88),
        (DeepAVFusionSeparationDecoder, 2, 46.93),
    ],
)
def test_decoders_have_the_published_size(decoder, num_labels, millions):
    with torch.device("meta"):
        parameters = decoder(DeepAVFusionConfig(num_labels=num_labels)).parameters()
    assert round(sum(parameter.numel() for parameter in parameters) / 1e6, 2) == millions


def test_separation_targets_of_earlier_checkpoints_are_known():
    assert DeepAVFusionConfig(separation_target="published_ratio").separation_target == "reference_ratio"


def test_decoders_read_the_published_layers():
    assert spread_layers(12, 4) == [0, 3, 7, 11] and spread_layers(12, 5) == [0, 2, 5, 8, 11]
    assert spread_layers(4, 5) == [0, 0, 1, 2, 3]


@pytest.mark.parametrize("model_class", TASKS)
def test_windows_are_independent(model_class):
    model, inputs = small(model_class), windows(2, 3)
    logits = model(**inputs).logits
    assert logits.shape[:2] == (2, 3) and logits.shape[-2:] == (
        (16, 32) if model_class is DeepAVFusionForSoundSourceSeparation else (32, 32)
    )
    alone = model(**{name: value[1:, 2:] for name, value in inputs.items()}).logits
    torch.testing.assert_close(logits[1:, 2:], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model_class", TASKS)
def test_other_sizes_than_trained(model_class):
    """Twice as high frames and longer sound: positions are resampled, maps are as large as the input."""
    frames, sound = torch.randn(1, 1, 3, 64, 32), torch.randn(1, 1, 16, 48)
    logits = small(model_class)(frames, sound).logits
    assert logits.shape[-2:] == ((16, 48) if model_class is DeepAVFusionForSoundSourceSeparation else (64, 32))


@pytest.mark.parametrize("patch", [8, 16])
def test_patches_of_another_side(patch):
    for model_class in TASKS:
        logits = small(model_class, patch_size=patch)(**windows()).logits
        assert logits.shape[-1] == 32 and torch.isfinite(logits).all()


# ---- missing halves


def test_what_is_missing_is_as_if_it_were_not_there():
    inputs = windows()
    there, gone = torch.tensor([True, False]), torch.tensor([False, False])
    segmentation, separation = small(TASKS[0]), small(TASKS[1])
    deaf = segmentation(inputs["pixel_values_videos"])
    marked = segmentation(**inputs, has_audio=there)
    torch.testing.assert_close(marked.logits[1], deaf.logits[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(marked.logits[0], deaf.logits[0], atol=1e-3)
    blind = separation(input_features=inputs["input_features"])
    marked = separation(**inputs, has_video=there)
    torch.testing.assert_close(marked.logits[1], blind.logits[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(marked.logits[0], blind.logits[0], atol=1e-4)
    labels = torch.ones(2, 1, 32, 32)
    assert segmentation(**inputs, labels=labels, has_video=gone).loss == 0
    assert separation(**inputs, labels=inputs["input_features"], other_features=inputs["input_features"]).loss > 0
    silent = {"has_audio": gone, "other_features": inputs["input_features"]}
    assert separation(**inputs, labels=inputs["input_features"], **silent).loss == 0
    for model_class, message in zip(
        TASKS, ("pixel_values_videos", "input_features", "pixel_values_videos"), strict=True
    ):
        given = {name: value for name, value in inputs.items() if name != message}
        with pytest.raises(ValueError, match=f"needs {message}"):
            small(model_class)(**given)


# ---- segmentation


def test_segmentation_losses():
    inputs = windows(2, 2)
    one = small(TASKS[0])
    labels = (torch.rand(2, 2, 32, 32) > 0.5).float()
    labels[0, 0, :8] = 255
    labels[1, 1, 8:] = -100
    outputs = one(**inputs, labels=labels)
    kept = (labels == 0) | (labels == 1)
    want = torch.nn.functional.binary_cross_entropy_with_logits(outputs.logits[:, :, 0][kept], labels[kept])
    torch.testing.assert_close(outputs.loss, want)
    many = small(TASKS[0], num_labels=5)
    classes = torch.randint(0, 5, (2, 2, 32, 32))
    classes[0, 1] = 255
    outputs = many(**inputs, labels=classes)
    want = torch.nn.functional.cross_entropy(outputs.logits.flatten(0, 1), classes.flatten(0, 1), ignore_index=255)
    torch.testing.assert_close(outputs.loss, want)
    assert one(**inputs, labels=torch.full((2, 2, 32, 32), 255)).loss == 0
    with pytest.raises(ValueError, match=r"labels have shape \(2, 2, 16, 16\)"):
        one(**inputs, labels=labels[..., :16, :16])
    single = windows(2, 1)
    short = one(**single, labels=labels[:, 0]).loss
    torch.testing.assert_close(short, one(**single, labels=labels[:, :1]).loss)


# ---- separation


def test_masks_by_hand():
    """Power 3 of the source and 1 of the rest: 3/4, louder; against the mixture of 4: 3/7, never above it."""
    source, rest = torch.tensor([[3.0]]).log10(), torch.tensor([[1.0]]).log10()
    mixture = torch.tensor([[4.0]]).log10()
    got = {
        target: separation_mask(mixture, source, rest, target).item()
        for target in ("ratio", "binary", "reference_ratio", "reference_binary")
    }
    assert got == pytest.approx(
        {"ratio": 0.75, "binary": 1, "reference_ratio": 3 / 7, "reference_binary": 0}, rel=1e-4
    )
    alone = separation_mask(source, source, torch.full((1, 1), -7.0), "ratio")
    assert alone.item() == pytest.approx(1) and separation_mask(source, source, None, "reference_ratio") < 0.5001
    with pytest.raises(ValueError, match="give other_features"):
        separation_mask(mixture, source, None, "ratio")
    with pytest.raises(ValueError, match="one shape"):
        separation_mask(mixture, source[0], rest, "ratio")


def test_loud_points_weigh_more():
    logits, targets = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    mixture = torch.tensor([[3.0, -6.0]])  # ln(1001) and the least weight, 0.001
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    want = (losses * torch.tensor([[1001.0]]).log().repeat(1, 2) * torch.tensor([[1.0, 0.0]])).sum() / 2
    torch.testing.assert_close(separation_loss(logits, targets, mixture, True), want + losses[0, 1] * 1e-3 / 2)
    torch.testing.assert_close(separation_loss(logits, targets, mixture, False), losses.mean())


# ---- localization


@pytest.mark.parametrize("fusion_type", ["factorized", "dense", "token"])
def test_map_is_the_fusion_attention(fusion_type):
    """Mean over heads and tokens of alpha . A_v, layer by layer in plain loops; any attention implementation."""
    model, inputs = small(TASKS[2], fusion_type=fusion_type, localization_layers=2), windows(2, 2)
    outputs = model(**inputs, output_fusion_attentions=True)
    maps = []
    for layer in outputs.fusion_attentions[-2:]:
        rows = []
        for window in range(4):
            one = torch.zeros(4)
            for head in range(4):
                alpha = layer.image[window, head]
                if fusion_type == "factorized":
                    alpha = alpha @ layer.image_aggregation[window, head]
                one += alpha.mean(0) / 4
            rows.append(one)
        maps.append(torch.stack(rows))
    want = torch.stack(maps).mean(0).view(2, 2, 2, 2)
    torch.testing.assert_close(outputs.attention_map, want)
    assert outputs.logits.shape == (2, 2, 32, 32)
    assert (outputs.logits.amin((-2, -1)) == 0).all() and (outputs.logits.amax((-2, -1)) == 1).all()
    if fusion_type != "token":
        torch.testing.assert_close(outputs.attention_map.sum((-2, -1)), torch.ones(2, 2))
    assert model(**inputs).fusion_attentions is None


def test_localization_has_no_weights_of_its_own(tmp_path):
    """A classifier's checkpoint holds all that it needs."""
    classifier = small(DeepAVFusionForAudioVisualClassification, num_labels=3)
    classifier.save_pretrained(tmp_path)
    model, loading = DeepAVFusionForSoundSourceLocalization.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"]
    for name, parameter in model.deepavfusion.named_parameters():
        assert torch.equal(parameter, classifier.deepavfusion.get_parameter(name)), name


def test_localization_learns_where_to_look():
    model, inputs = small(TASKS[2]).train(), windows(4)
    labels = torch.zeros(4, 32, 32)
    for row in range(4):
        labels[row, 16 * (row // 2) :, 16 * (row % 2) :][:16, :16] = 1
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = model(**inputs, labels=labels).loss.item()
    for _ in range(30):
        optimizer.zero_grad()
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * first
    maps = model.eval()(**inputs).attention_map[:, 0].flatten(1)
    assert maps.argmax(1).tolist() == [0, 1, 2, 3]


def test_localization_loss_wants_all_of_the_area():
    """Cross-entropy against a target of two patches, one of them half marked; frames without a source are left out."""
    model, inputs = small(TASKS[2]), windows(2)
    labels = torch.zeros(2, 1, 32, 32)
    labels[0, 0, :16] = 1
    labels[0, 0, :8, 16:] = 0
    outputs = model(**inputs, labels=labels)
    first = outputs.attention_map[0, 0].flatten()
    torch.testing.assert_close(outputs.loss, -(2 / 3 * first[0].log() + 1 / 3 * first[1].log()))
    hidden = {"has_video": torch.tensor([False, True])}
    assert model(**inputs, labels=labels, **hidden).loss == 0


def test_localization_errors():
    with pytest.raises(ValueError, match="without fusion there is no attention"):
        small(TASKS[2], fusion_layers=[])(**windows())
    with pytest.raises(ValueError, match=r"labels have shape \(2, 1, 16, 16\)"):
        small(TASKS[2])(**windows(), labels=torch.ones(2, 16, 16))
    assert small(TASKS[2])(**windows(), labels=torch.zeros(2, 32, 32)).loss == 0  # no source, nothing to learn


# ---- saving


@pytest.mark.parametrize("model_class", TASKS)
def test_save_and_load(model_class, tmp_path):
    model, inputs = small(model_class), windows()
    want = model(**inputs).logits
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(model_class.from_pretrained(tmp_path)(**inputs).logits, want)
    if model_class is DeepAVFusionForAudioVisualSegmentation:
        assert type(AutoModelForSemanticSegmentation.from_pretrained(tmp_path)) is model_class
        code = json.loads((tmp_path / "config.json").read_text())["auto_map"]
        assert code["AutoModelForSemanticSegmentation"] == f"dense_tasks_deepavfusion.{model_class.__name__}"
        assert {"dense_tasks_deepavfusion.py", "losses_deepavfusion.py", "modeling_deepavfusion.py"} <= {
            path.name for path in tmp_path.iterdir()
        }
        states = model(**inputs, output_hidden_states=True).image_hidden_states
        assert len(states) == 4 and model(**inputs).image_hidden_states is None


@pytest.mark.parametrize(
    "field, value", [("separation_target", "soft"), ("localization_layers", 0), ("segmentation_min_channels", 0)]
)
def test_bad_fields_are_named(field, value):
    with pytest.raises(Exception, match=field):
        DeepAVFusionConfig(**{field: value})
