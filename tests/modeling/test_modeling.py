# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""MA-AVT's model: config, shapes, missing modalities, losses and the mistakes of earlier implementations."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from tiny_models import TINY_VIT, tiny_config, tiny_inputs, tiny_model
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForVideoClassification,
    TrainerState,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from modeling_maavt import MAAVTConfig, MAAVTForAudioVisualClassification, MAAVTModel
from modeling_maavt.losses_maavt import classification_loss, contrastive_loss, global_mean
from training.trainer.gradient_modulation import GradientModulation


# ---- configuration


def test_default_config_is_vit_base_with_small_eps():
    config = MAAVTConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.vision_config.patch_size) == (768, 12, 16)
    assert config.vision_config.layer_norm_eps == 1e-6
    assert (config.num_audio_tokens, config.num_visual_tokens, config.num_shared_tokens) == (5, 5, 5)
    assert config.token_self_attention and config.background_mining and config.contrastive == "blockwise"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_shared_tokens": 0}, "num_shared_tokens=0"),
        ({"num_audio_tokens": -1}, "num_audio_tokens=-1"),
        ({"contrastive": "sometimes"}, "contrastive='sometimes'"),
        ({"layerwise_tokens": "twice"}, "layerwise_tokens='twice'"),
        ({"match_head": "cubic"}, "match_head='cubic'"),
        ({"match_grid": [8]}, "match_grid=[8]".replace("[", r"\[")),
        ({"match_grid": [0, 8]}, "match_grid=".replace("[", r"\[")),
        ({"position_interpolation": "none"}, "position_interpolation='none'"),
        ({"token_attention_heads": 7}, "token_attention_heads=7"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"modality_dropout": 1.5}, "modality_dropout=1.5"),
        ({"vision_config": {"model_type": "deit"}}, "'deit'"),
        ({"in_batch_mismatches": -1}, "in_batch_mismatches=-1"),
        ({"in_batch_mismatches": 1, "lavish_config": {}}, "they meet before"),
    ],
)
def test_bad_config_is_refused_by_name(values, message):
    with pytest.raises(Exception, match=message.replace("(", r"\(")):
        MAAVTConfig(**values)


# ---- shapes


@pytest.mark.parametrize(
    "tokens",
    [
        {"num_audio_tokens": 0, "num_visual_tokens": 3, "num_shared_tokens": 2},
        {"num_audio_tokens": 4, "num_visual_tokens": 1, "num_shared_tokens": 1},
        {"num_audio_tokens": 0, "num_visual_tokens": 0, "num_shared_tokens": 0, "contrastive": None},
        {"background_mining": False},
        {"token_self_attention": False},
        {"layerwise_tokens": "common"},
        {"layerwise_tokens": "unique"},
        {"layerwise_tokens": "unique", "num_audio_tokens": 1, "num_visual_tokens": 4},
        {"contrastive": "last"},
        {"contrastive": "blockwise_shared"},
    ],
)
def test_token_counts_never_eat_patches(tokens):
    model = tiny_model(**tokens)
    config = model.config
    outputs = model.maavt(**tiny_inputs(), output_hidden_states=True)
    fixed = 1 + 16 + int(config.background_mining)
    length = fixed + config.num_visual_tokens + config.num_shared_tokens
    audio_length = fixed + config.num_audio_tokens + config.num_shared_tokens
    assert outputs.last_hidden_state.shape == (4, length, 64)
    assert outputs.audio_last_hidden_state.shape == (4, audio_length, 64)
    assert [h.shape[1] for h in outputs.hidden_states] == [length] * 4
    assert [h.shape[1] for h in outputs.audio_hidden_states] == [audio_length] * 4
    if config.token_self_attention:  # every kind that has tokens, be it one, has its attention
        for kind in ("audio", "visual", "shared"):
            attention = getattr(model.maavt.token_attention, kind)
            assert (attention is not None) == (getattr(config, f"num_{kind}_tokens") > 0)


@pytest.mark.parametrize("absent", [None, "audio", "visual", "shared"])
def test_every_block_sees_its_own_layerwise_tokens(absent):
    """Also where there are no tokens of one kind."""
    counts = {} if absent is None else {f"num_{absent}_tokens": 0}
    model = tiny_model(layerwise_tokens="unique", contrastive=None, **counts)
    model(**tiny_inputs()).logits.sum().backward()
    prompt = dict(model.maavt.prompt.named_parameters())
    for kind in {"audio", "visual", "shared"} - {absent}:
        gradient = prompt[f"{kind}_tokens"].grad
        assert len(gradient) == model.config.num_prompted_layers and gradient.abs().sum((1, 2)).gt(0).all(), kind


def test_labels_of_segments_say_how_many_a_silent_video_has():
    model, video = tiny_model(), tiny_inputs(frames=4, segments=2)["pixel_values_videos"]
    assert model(video, labels=torch.tensor([[0, 1]] * 4)).segment_logits.shape == (4, 2, 5)
    assert model(video, labels=torch.rand(4, 5).softmax(-1)).segment_logits.shape == (4, 1, 5)


def test_stacked_pass_equals_two_passes():
    model = tiny_model()
    inputs = tiny_inputs(frames=4, segments=2)
    stacked = model(**inputs)
    model.set_attn_implementation("eager")
    separate = model(**inputs)
    torch.testing.assert_close(stacked.logits, separate.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(stacked.match_logits, separate.match_logits, atol=1e-5, rtol=1e-4)


def test_one_channel_equals_three_repeated_channels():
    model = tiny_model()
    tokens = model.maavt.prompt()
    sound = torch.randn(2, 1, 32, 48)
    one = model.maavt.embeddings(sound, tokens.class_token, tokens.background)
    three = model.maavt.embeddings(sound.expand(-1, 3, -1, -1), tokens.class_token, tokens.background)
    torch.testing.assert_close(one, three, atol=1e-5, rtol=1e-4)


def test_positions_keep_the_class_row_and_resample_the_grid():
    embeddings = tiny_model().maavt.embeddings
    assert embeddings.positions((4, 4), True) is embeddings.position_embeddings
    wide = embeddings.positions((2, 6), True)
    assert wide.shape == (1, 13, 64)
    torch.testing.assert_close(wide[:, 0], embeddings.position_embeddings[:, 0])


def test_sequence_positions_read_half_pixel_centers():
    model = tiny_model(position_interpolation="sequence")
    table = model.maavt.embeddings.position_embeddings[0].detach()
    resampled = model.maavt.embeddings.positions((4, 4), True)[0]
    length = 18
    for j in (0, 7, length - 1):
        source = min(max(0.0, (j + 0.5) * 17 / length - 0.5), 16.0)
        low = math.floor(source)
        high = min(low + 1, 16)
        expected = table[low] + (source - low) * (table[high] - table[low])
        torch.testing.assert_close(resampled[j], expected, atol=1e-5, rtol=1e-4)


def test_inputs_that_do_not_fit_are_named():
    model = tiny_model()
    frames, sound = tiny_inputs(frames=4, segments=1).values()
    with pytest.raises(ValueError, match="must divide T = 4"):
        model(frames, sound.expand(-1, 3, -1, -1))
    with pytest.raises(ValueError, match="holds 4 clips, input_features 2"):
        model(frames, sound[:2])
    with pytest.raises(ValueError, match=r"\[B, T, C, H, W\]"):
        model(frames[:, 0], sound)
    with pytest.raises(ValueError, match=r"\[B, S, F, W\]"):
        model(frames, sound[:, 0])
    with pytest.raises(ValueError, match="smaller than one patch"):
        model(frames, sound[..., :4])
    with pytest.raises(ValueError, match="pixel_values_videos, input_features or both"):
        model()
    with pytest.raises(ValueError, match="labels have shape"):
        model(frames, sound, labels=torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="is_matched has shape"):
        model(frames, sound, is_matched=torch.ones(3, dtype=torch.bool))


# ---- segments and labels


def test_segments_average_their_frames():
    model = tiny_model()
    inputs = tiny_inputs(frames=4, segments=2)
    outputs = model.maavt(**inputs)
    alone = model.maavt(pixel_values_videos=inputs["pixel_values_videos"][:, 2:])
    assert outputs.video_class_state.shape == (4, 2, 64)
    torch.testing.assert_close(outputs.video_class_state[:, 1], alone.video_class_state[:, 0], atol=1e-5, rtol=1e-4)


def test_labels_per_clip_per_segment_soft_and_multi_hot():
    model = tiny_model()
    inputs = tiny_inputs(frames=4, segments=2)
    per_segment = model(**inputs, labels=torch.tensor([[0, 1], [2, -100], [3, 4], [-100, -100]]))
    per_clip = model(**inputs, labels=torch.tensor([0, 1, 2, -100]), is_matched=torch.tensor([True] * 4))
    # The shapes of the outputs do not follow those of the labels.
    for outputs in (per_segment, per_clip, model(**inputs)):
        assert outputs.segment_logits.shape == (4, 2, 5) and outputs.segment_match_logits.shape == (4, 2)
        torch.testing.assert_close(outputs.segment_logits, per_segment.segment_logits)
        torch.testing.assert_close(outputs.logits, per_segment.segment_logits.mean(1))
        torch.testing.assert_close(outputs.match_logits, per_segment.segment_match_logits.mean(1))
    expected = nn.functional.cross_entropy(per_clip.logits[:3], torch.tensor([0, 1, 2]))
    torch.testing.assert_close(per_clip.classification_loss, expected)

    targets = torch.tensor([[1.0, 0, 1, 0, 0]] * 4)
    soft = model(**inputs, labels=targets / 2)
    expected = nn.functional.cross_entropy(soft.logits, targets / 2)
    torch.testing.assert_close(soft.classification_loss, expected)
    model.config.problem_type = "multi_label_classification"
    targets[0, 1] = -100
    multi = model(**inputs, labels=targets)
    valid = targets != -100
    expected = nn.functional.binary_cross_entropy_with_logits(multi.logits[valid], targets[valid])
    torch.testing.assert_close(multi.classification_loss, expected)


def test_losses_stay_finite():
    model = tiny_model().train()
    one = tiny_inputs(clips=1)
    many = tiny_inputs(clips=3)
    cases = {
        "batch of one": model(**one, labels=torch.tensor([2])),
        "one background": model(**one, labels=torch.tensor([-100]), is_matched=torch.tensor([False])),
        "background only": model(**many, labels=torch.full((3,), -100), is_matched=torch.zeros(3, dtype=torch.bool)),
        "one foreground": model(
            **many, labels=torch.tensor([-100, 1, -100]), is_matched=torch.tensor([False, True, False])
        ),
        "no labels": model(**many, labels=torch.full((3,), -100)),
    }
    for name, outputs in cases.items():
        assert torch.isfinite(outputs.loss), name
        model.zero_grad()
        outputs.loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None), name
    assert cases["background only"].classification_loss == 0 and cases["background only"].contrastive_loss == 0
    assert cases["one foreground"].contrastive_loss.abs() < 1e-6


def test_mismatched_pairs_are_neither_classified_nor_contrasted():
    model = tiny_model()
    inputs = tiny_inputs(clips=4)
    matched = torch.tensor([True, True, True, False])
    labels = torch.tensor([0, 1, 2, 3])
    outputs = model(**inputs, labels=labels, is_matched=matched)
    three = model(**{name: value[:3] for name, value in inputs.items()}, labels=labels[:3])
    torch.testing.assert_close(outputs.classification_loss, three.classification_loss)
    torch.testing.assert_close(outputs.contrastive_loss, three.contrastive_loss)
    expected = nn.functional.binary_cross_entropy_with_logits(outputs.match_logits, matched.float())
    torch.testing.assert_close(outputs.matching_loss, expected)


@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("scores", [False, True])
def test_mismatches_within_the_batch_equal_torn_inputs(segments, scores):
    """The streams do not meet before the match head: tearing pairs after the trunk or before it is the same."""
    classes = torch.tensor([0, 1, 0, 3])
    labels = nn.functional.one_hot(classes, 5).float() if scores else classes
    inputs = tiny_inputs(clips=4, frames=2, segments=segments)
    given, plain = (tiny_model(match_head="mlp", in_batch_mismatches=count).train() for count in (2, 0))
    whole = torch.tensor([True, True, True, False])  # the last clip is torn already: it is paired with nobody
    outputs, expected = (model(**inputs, labels=labels, is_matched=whole) for model in (given, plain))
    pairs = [(i, (i - k) % 4) for k in (1, 2) for i in range(4)]
    pairs = [(i, j) for i, j in pairs if whole[i] and whole[j] and classes[i] != classes[j]]
    assert pairs == [(1, 0), (2, 1)]
    pictures, sounds = (torch.tensor(one) for one in zip(*pairs, strict=True))
    with torch.no_grad():
        torn = plain(inputs["pixel_values_videos"][pictures], inputs["input_features"][sounds]).match_logits
    torn = torn.mean(1) if torn.ndim == 2 else torn
    logits = torch.cat([expected.match_logits, torn])
    targets = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    loss = nn.functional.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(outputs.matching_loss, loss)
    torch.testing.assert_close(outputs.match_logits, expected.match_logits)
    torch.testing.assert_close(outputs.classification_loss, expected.classification_loss)
    torch.testing.assert_close(
        given.eval()(**inputs, labels=labels).loss, plain.eval()(**inputs, labels=labels).loss
    )  # training alone adds pairs


def test_mismatches_within_the_batch_train_the_match_head():
    frames, sounds, classes, matched = pairs_that_decide(1000, seed=0)
    frames, sounds, classes = frames[matched], sounds[matched], classes[matched]  # not one torn pair is shown
    model = tiny_model(num_labels=8, match_dim=64, contrastive_dim=32, in_batch_mismatches=1).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        rows = torch.randint(len(classes), (32,), generator=generator)
        loss = model(frames[rows], sounds[rows], labels=classes[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert held_out_auroc(model) >= 0.95


def test_a_batch_of_one_has_no_mismatch():
    model = tiny_model(in_batch_mismatches=3).train()
    outputs = model(**tiny_inputs(clips=1), labels=torch.tensor([1]))
    assert torch.isfinite(outputs.loss) and outputs.match_logits.shape == (1,)


def test_contrastive_loss_equals_its_formula():
    video, audio = torch.randn(2, 5, 3, 8)
    mask = torch.tensor([True, False, True, True, True])
    losses = contrastive_loss(video, audio, mask, 0.07)
    for block in range(3):
        v = nn.functional.normalize(video[mask, block], dim=-1)
        a = nn.functional.normalize(audio[mask, block], dim=-1)
        scores, target = v @ a.T / 0.07, torch.arange(4)
        expected = (nn.functional.cross_entropy(scores, target) + nn.functional.cross_entropy(scores.T, target)) / 2
        torch.testing.assert_close(losses[block], expected)


def test_temperature_is_used():
    inputs = tiny_inputs()
    losses = [
        tiny_model(temperature=t)(**inputs, labels=torch.zeros(4, dtype=torch.long)).contrastive_loss
        for t in (0.07, 0.5)
    ]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_loss_weights():
    model = tiny_model(classification_loss_weight=2.0, matching_loss_weight=0, contrastive_loss_weight=0.5)
    outputs = model(**tiny_inputs(), labels=torch.arange(4))
    expected = 2 * outputs.classification_loss + 0.5 * outputs.contrastive_loss
    torch.testing.assert_close(outputs.loss, expected)


def test_ignored_entries_may_be_infinite():
    values = torch.tensor([1.0, float("inf"), 3.0])
    assert global_mean(values, torch.tensor([True, False, True])) == 2
    logits = torch.zeros(2, 3)
    assert classification_loss(logits, torch.tensor([-100, -100]), torch.ones(2, dtype=torch.bool)) == 0


# ---- missing modalities


def test_missing_modality_uses_the_other_half():
    model = tiny_model()
    inputs = tiny_inputs()
    states = model.maavt(**inputs)
    weight, bias = model.classifier.weight, model.classifier.bias
    expected = states.video_class_state[:, 0] @ weight[:, :64].T + bias / 2
    outputs = model(pixel_values_videos=inputs["pixel_values_videos"])
    torch.testing.assert_close(outputs.logits, expected)
    assert outputs.match_logits is None
    masked = model(
        inputs["pixel_values_videos"],
        torch.zeros_like(inputs["input_features"]),
        has_video=torch.ones(4, dtype=torch.bool),
        has_audio=torch.tensor([False, True, False, False]),
    )
    torch.testing.assert_close(masked.logits[0], expected[0], atol=1e-5, rtol=1e-4)
    assert masked.match_logits[0] == 0 and masked.match_logits[1] != 0
    sound = model(input_features=inputs["input_features"])
    both = model(**inputs)
    torch.testing.assert_close(sound.logits + outputs.logits, both.logits, atol=1e-5, rtol=1e-4)


def test_missing_modality_leaves_contrast_and_matching_alone():
    model = tiny_model()
    inputs = tiny_inputs()
    has_audio = torch.tensor([True, True, True, False])
    labels = torch.tensor([0, 1, 2, 3])
    outputs = model(**inputs, has_audio=has_audio, labels=labels)
    three = model(**{name: value[:3] for name, value in inputs.items()}, labels=labels[:3])
    torch.testing.assert_close(outputs.contrastive_loss, three.contrastive_loss)
    torch.testing.assert_close(outputs.matching_loss, three.matching_loss)
    silent = model(pixel_values_videos=inputs["pixel_values_videos"], labels=labels)
    assert silent.contrastive_loss is None and torch.isfinite(silent.loss)


def test_modality_dropout_hides_one_modality_in_training_only():
    model = tiny_model(modality_dropout=1.0)
    inputs = tiny_inputs(clips=16)
    both = tiny_model()(**inputs).logits
    torch.testing.assert_close(model(**inputs).logits, both)
    video = model(pixel_values_videos=inputs["pixel_values_videos"]).logits
    audio = model(input_features=inputs["input_features"]).logits
    torch.manual_seed(0)
    with torch.no_grad():
        dropped = model.train()(**inputs).logits
    is_video = (dropped - video).abs().amax(1) < 1e-5
    is_audio = (dropped - audio).abs().amax(1) < 1e-5
    assert (is_video ^ is_audio).all() and is_video.any() and is_audio.any()


def test_modality_dropout_leaves_matching_and_contrast_alone():
    inputs = tiny_inputs(clips=6)
    labels, is_matched = torch.arange(6) % 5, torch.tensor([1, 1, 0, 1, 0, 1]).bool()
    dropped = tiny_model(modality_dropout=1.0).train()(**inputs, labels=labels, is_matched=is_matched)
    kept = tiny_model().train()(**inputs, labels=labels, is_matched=is_matched)
    torch.testing.assert_close(dropped.matching_loss, kept.matching_loss)
    torch.testing.assert_close(dropped.contrastive_loss, kept.contrastive_loss)
    assert (dropped.classification_loss - kept.classification_loss).abs() > 1e-4


def test_unimodal_loss_is_that_of_the_halves():
    inputs, labels = tiny_inputs(clips=5), torch.tensor([0, 1, -100, 3, 4])
    is_matched = torch.tensor([True, True, True, False, True])
    model = tiny_model(unimodal_loss_weight=0.5)
    outputs = model(**inputs, labels=labels, is_matched=is_matched)
    halves = [model(pixel_values_videos=inputs["pixel_values_videos"]), model(input_features=inputs["input_features"])]
    expected = sum(nn.functional.cross_entropy(half.logits[[0, 1, 4]], labels[[0, 1, 4]]) for half in halves)
    torch.testing.assert_close(outputs.unimodal_loss, expected)
    own = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([0, 1, -100, 0, 4])
    taught = model(**inputs, labels=labels, is_matched=is_matched, video_targets=own[0], audio_targets=own[1])
    expected = sum(nn.functional.cross_entropy(half.logits, one) for half, one in zip(halves, own, strict=True))
    torch.testing.assert_close(taught.unimodal_loss, expected)
    torch.testing.assert_close(taught.classification_loss, outputs.classification_loss)
    without = tiny_model()(**inputs, labels=labels, is_matched=is_matched)
    assert without.unimodal_loss is None
    torch.testing.assert_close(outputs.loss, without.loss + 0.5 * outputs.unimodal_loss)
    segments = tiny_inputs(clips=2, frames=4, segments=2)
    outputs = model(**segments, labels=torch.tensor([1, 2]), has_audio=torch.tensor([True, False]))
    half = model(pixel_values_videos=segments["pixel_values_videos"], num_segments=2).logits[:1]
    other = model(input_features=segments["input_features"]).logits[:1]
    expected = sum(nn.functional.cross_entropy(logits, torch.tensor([1])) for logits in (half, other))
    torch.testing.assert_close(outputs.unimodal_loss, expected)


# ---- localization and retrieval


def test_localization_maps_sum_to_one():
    model = tiny_model()
    outputs = model(torch.randn(2, 4, 3, 32, 48), torch.randn(2, 2, 24, 64), output_localization=True)
    assert outputs.video_localization.shape == (2, 4, 4, 6)
    assert outputs.audio_localization.shape == (2, 2, 3, 8)
    torch.testing.assert_close(outputs.video_localization.sum((2, 3)), torch.ones(2, 4))
    assert model(**tiny_inputs()).video_localization is None


def test_retrieval_features_are_unit_vectors():
    model = tiny_model()
    inputs = tiny_inputs(frames=2)
    video = model.get_video_features(inputs["pixel_values_videos"])
    audio = model.get_audio_features(inputs["input_features"])
    assert video.pooler_output.shape == audio.pooler_output.shape == (4, 16)
    torch.testing.assert_close(video.pooler_output.norm(dim=-1), torch.ones(4))
    assert video.last_hidden_state.shape == (4, 2, 28, 64)


# ---- the frozen backbone and where weights come from


@pytest.fixture
def stock_vit(tmp_path):
    torch.manual_seed(0)
    config = ViTConfig(**{**TINY_VIT, "layer_norm_eps": 3e-6}, num_labels=7)
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def frozen(model) -> bool:
    trunk = model.trunk
    backbone = [*trunk.embeddings.parameters(), *trunk.encoder.parameters(), *trunk.layernorm.parameters()]
    trained = [p for module in model.trainable_modules().values() for p in module.parameters()]
    return not any(p.requires_grad for p in backbone) and all(p.requires_grad for p in trained)


def test_stock_vit_becomes_the_backbone(stock_vit):
    model = MAAVTForAudioVisualClassification.from_pretrained(stock_vit, num_labels=3, contrastive="last")
    stock = ViTModel.from_pretrained(stock_vit, add_pooling_layer=False)
    assert model.config.num_labels == 3 and model.config.contrastive == "last"
    assert model.config.vision_config.layer_norm_eps == 3e-6
    assert frozen(model)
    ours = model.maavt.encoder.layers.state_dict()
    for name, value in stock.layers.state_dict().items():
        torch.testing.assert_close(ours[name], value, atol=0, rtol=0)
    torch.testing.assert_close(model.maavt.prompt.cls_token, stock.embeddings.cls_token)
    # without tokens of its own MA-AVT's picture stream is the stock ViT
    bare = MAAVTModel.from_pretrained(
        stock_vit,
        num_audio_tokens=0,
        num_visual_tokens=0,
        num_shared_tokens=0,
        contrastive=None,
        background_mining=False,
        token_self_attention=False,
    ).eval()
    frames = torch.randn(2, 1, 3, 32, 32)
    expected = stock.eval()(frames[:, 0]).last_hidden_state
    torch.testing.assert_close(bare(frames).last_hidden_state, expected, atol=1e-5, rtol=1e-4)


def test_freezing_survives_every_way_of_loading(stock_vit, tmp_path):
    model = MAAVTForAudioVisualClassification.from_pretrained(stock_vit, num_labels=3)
    model.save_pretrained(tmp_path / "tuned")
    assert frozen(MAAVTForAudioVisualClassification(tiny_config()))
    assert frozen(MAAVTForAudioVisualClassification.from_pretrained(tmp_path / "tuned"))
    assert frozen(AutoModelForVideoClassification.from_pretrained(tmp_path / "tuned"))
    assert frozen(AutoModel.from_pretrained(tmp_path / "tuned"))
    loaded, _ = MAAVTForAudioVisualClassification.from_pretrained(tmp_path / "tuned", output_loading_info=True)
    assert frozen(loaded)
    loaded.load_state_dict(model.state_dict())
    assert frozen(loaded)
    free = MAAVTForAudioVisualClassification.from_pretrained(tmp_path / "tuned", freeze_backbone=False)
    assert all(p.requires_grad for p in free.parameters())


def test_trained_parts_stay_float32_on_a_bfloat16_backbone(stock_vit, tmp_path):
    model = MAAVTForAudioVisualClassification.from_pretrained(stock_vit, num_labels=3, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "bf16")
    for loaded in (model, MAAVTForAudioVisualClassification.from_pretrained(tmp_path / "bf16", dtype=torch.bfloat16)):
        assert {p.dtype for p in loaded.maavt.encoder.parameters()} == {torch.bfloat16}
        trained = [p for module in loaded.trainable_modules().values() for p in module.parameters()]
        assert {p.dtype for p in trained} == {torch.float32}
    outputs = model(**tiny_inputs(), labels=torch.tensor([0, 1, 2, 0]))
    outputs.loss.backward()
    assert outputs.logits.dtype == torch.float32
    assert model.maavt.prompt.shared_tokens.grad.dtype == torch.float32


def test_new_label_set_on_a_tuned_checkpoint(stock_vit, tmp_path):
    MAAVTForAudioVisualClassification.from_pretrained(stock_vit, num_labels=3).save_pretrained(tmp_path / "tuned")
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        MAAVTForAudioVisualClassification.from_pretrained(tmp_path / "tuned", num_labels=4)
    model = MAAVTForAudioVisualClassification.from_pretrained(
        tmp_path / "tuned", num_labels=4, ignore_mismatched_sizes=True
    )
    assert model.classifier.weight.shape == (4, 128)


def test_a_config_for_another_backbone_is_refused(stock_vit):
    config = tiny_config()
    config.vision_config.hidden_size = 32
    with pytest.raises(ValueError, match="hidden_size is 64"):
        MAAVTForAudioVisualClassification.from_pretrained(stock_vit, config=config)


def test_real_backbone(shared_path):
    folder = shared_path("weights/deit_tiny")
    model = MAAVTForAudioVisualClassification.from_pretrained(folder, num_labels=4)
    stock = ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    assert frozen(model) and model.config.vision_config.layer_norm_eps == stock.config.layer_norm_eps
    assert len(model.config.vision_config.id2label) == 2  # ImageNet's thousand names stay behind
    torch.testing.assert_close(model.maavt.prompt.cls_token, stock.embeddings.cls_token)


# ---- folding


@pytest.mark.parametrize("layerwise", [None, "unique", "common"])
def test_folded_tokens_give_equal_logits(layerwise):
    model = tiny_model(layerwise_tokens=layerwise, token_init_std=1.0)
    inputs = tiny_inputs()
    before = model(**inputs)
    model.fold_token_attention()
    after = model(**inputs)
    assert model.maavt.token_attention is None and not model.config.token_self_attention
    torch.testing.assert_close(after.logits, before.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after.match_logits, before.match_logits, atol=1e-5, rtol=1e-5)


# ---- the match head


def pairs_that_decide(clips: int, seed: int, classes: int = 8):
    """Picture class i and sound class j are each uniform; the pair is matched exactly when i equals j."""
    patterns = torch.Generator().manual_seed(123)
    pictures = torch.randn(classes, 1, 3, 32, 32, generator=patterns)
    sounds = torch.randn(classes, 1, 32, 32, generator=patterns)
    generator = torch.Generator().manual_seed(seed)
    i = torch.randint(classes, (clips,), generator=generator)
    matched = torch.rand(clips, generator=generator) < 0.5
    j = torch.where(matched, i, (i + torch.randint(1, classes, (clips,), generator=generator)) % classes)
    frames = pictures[i] + 0.5 * torch.randn(clips, 1, 3, 32, 32, generator=generator)
    spectrograms = sounds[j] + 0.5 * torch.randn(clips, 1, 32, 32, generator=generator)
    return frames, spectrograms, i, matched


def held_out_auroc(model) -> float:
    """Of the match logits, on pairs that no training here sees."""
    frames, sounds, _, matched = pairs_that_decide(600, seed=1)
    with torch.no_grad():
        return roc_auc_score(matched, model.eval()(frames, sounds).match_logits)


@pytest.mark.parametrize(("head", "works"), [("bilinear", True), ("linear", False)])
def test_match_head_on_pairs_whose_marginals_say_nothing(head, works):
    frames, sounds, classes, matched = pairs_that_decide(1000, seed=0)
    model = tiny_model(num_labels=8, match_head=head, match_dim=64, contrastive_dim=32).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        rows = torch.randint(len(classes), (64,), generator=generator)
        labels = classes[rows].masked_fill(~matched[rows], -100)
        loss = model(frames[rows], sounds[rows], labels=labels, is_matched=matched[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    auroc = held_out_auroc(model)
    assert auroc >= 0.95 if works else abs(auroc - 0.5) <= 0.05


def recordings(clips: int, seed: int):
    """Clips of one class: what is seen and heard at each place follows from a code that each clip has for itself."""
    places = torch.Generator().manual_seed(123)
    seen, heard = torch.randn(4, 3 * 32 * 32, generator=places), torch.randn(4, 32 * 32, generator=places)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randn(clips, 4, generator=generator)
    frames = codes @ seen + 0.5 * torch.randn(clips, 3 * 32 * 32, generator=generator)
    spectrograms = codes @ heard + 0.5 * torch.randn(clips, 32 * 32, generator=generator)
    return frames.view(clips, 1, 3, 32, 32), spectrograms.view(clips, 1, 32, 32)


def test_match_head_on_clips_of_one_class():
    frames, sounds = recordings(600, seed=0)
    model = tiny_model(
        contrastive=None, match_head="patches", match_dim=32, match_grid=[4, 4], in_batch_mismatches=31
    ).train()
    model.maavt.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.match_head.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        rows = torch.randint(len(frames), (32,), generator=generator)
        loss = model(frames[rows], sounds[rows], labels=torch.zeros(32, dtype=torch.long)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    frames, sounds = recordings(300, seed=1)
    with torch.no_grad():
        same_clip, other_clip = (model.eval()(frames, sounds.roll(shift, 0)).match_logits for shift in (0, 1))
    auroc = roc_auc_score([1] * 300 + [0] * 300, torch.cat([same_clip, other_clip]))
    assert auroc >= 0.9


def test_patches_paired_within_the_batch_equal_mismatched_inputs():
    inputs, labels = tiny_inputs(clips=4, frames=2, segments=2), torch.tensor([0, 0, 0, 3])
    model = tiny_model(contrastive=None, match_head="patches", match_grid=[2, 3], in_batch_mismatches=2).train()
    model.match_head.dropout = 0.0
    matched = torch.tensor([True, True, True, False])  # a mismatched pair is paired with nobody
    outputs = model(**inputs, labels=labels, is_matched=matched)
    pictures, sounds = torch.tensor([[1, 0], [2, 1], [0, 2], [2, 0]]).T  # one or two clips before, whatever the class
    with torch.no_grad():  # the statistics are those of the step
        mismatched = model.eval()(
            inputs["pixel_values_videos"][pictures], inputs["input_features"][sounds]
        ).match_logits
        plain = model(**inputs).match_logits
    torch.testing.assert_close(outputs.match_logits, plain)
    # The mismatches of a clip, one or two, together count as much as the clip.
    losses = nn.functional.binary_cross_entropy_with_logits(
        torch.cat([plain, mismatched]), torch.tensor([1.0, 1, 1, 0, 0, 0, 0, 0]), reduction="none"
    )
    weights = torch.tensor([1, 1, 1, 1, 1, 0.5, 1, 0.5])
    torch.testing.assert_close(outputs.matching_loss, (losses * weights).sum() / weights.sum())


def test_clips_that_the_matching_loss_leaves_out():
    inputs, labels = tiny_inputs(clips=6), torch.tensor([0, 1, 2, 3, 4, 0])
    mask = torch.tensor([True, False, True, True, False, True])
    for head, options in (("patches", {"match_grid": [2, 3]}), ("bilinear", {})):
        # So many mismatches are asked for that every clip is paired with every other, in both batches.
        model = tiny_model(contrastive=None, match_head=head, in_batch_mismatches=5, **options).train()
        model.match_head.dropout = 0.0
        few = {name: value[mask] for name, value in inputs.items()}
        expected = model(**few, labels=labels[mask]).matching_loss
        fresh = tiny_model(contrastive=None, match_head=head, in_batch_mismatches=5, **options).train()
        fresh.match_head.dropout = 0.0
        outputs = fresh(**inputs, labels=labels, match_mask=mask)
        torch.testing.assert_close(outputs.matching_loss, expected)
        torch.testing.assert_close(fresh.match_head.audio_norm.mean, model.match_head.audio_norm.mean)
        whole = fresh(**inputs, labels=labels)
        torch.testing.assert_close(outputs.classification_loss, whole.classification_loss)
        assert outputs.matching_loss != whole.matching_loss
        with pytest.raises(ValueError, match="match_mask has shape"):
            fresh(**inputs, labels=labels, match_mask=mask[:, None])


def test_patches_learn_without_the_class_agreement_that_is_added_to_their_score():
    inputs, labels = tiny_inputs(), torch.tensor([0, 1, 2, 3])
    options = {"contrastive": None, "match_head": "patches", "in_batch_mismatches": 3}
    plain, model = tiny_model(**options), tiny_model(match_class_agreement=True, **options)
    assert set(model.state_dict()) == set(plain.state_dict())
    model.load_state_dict(plain.state_dict())
    expected = plain(**inputs).match_logits + plain(**inputs).class_agreement.log()
    torch.testing.assert_close(model(**inputs).match_logits, expected)
    for each in (plain, model):
        each.train().match_head.dropout = 0.0
    losses = [each(**inputs, labels=labels).matching_loss for each in (plain, model)]
    torch.testing.assert_close(*losses)
    # A clip that lacks a modality has no score.
    missing = torch.tensor([True, True, False, True])
    assert (model.eval()(**inputs, has_audio=missing).match_logits == 0).tolist() == [False, False, True, False]


def test_patches_of_other_sizes_fill_the_grid():
    model = tiny_model(contrastive=None, match_head="patches")
    states = model.maavt(torch.randn(2, 4, 3, 48, 16), torch.randn(2, 2, 16, 64))
    assert states.video_patch_states.shape == states.audio_patch_states.shape == (2, 2, 64, 64)
    whole = tiny_model(contrastive=None, match_head="patches", match_grid=[1, 1])
    whole.load_state_dict({k: v for k, v in model.state_dict().items() if "match_head" not in k}, strict=False)
    frames = torch.randn(2, 1, 3, 32, 32)
    mean = whole.maavt.embeddings(frames[:, 0], whole.maavt.prompt().class_token, None)[:, 1:].mean(1)
    torch.testing.assert_close(whole.maavt(frames).video_patch_states[:, 0, 0], mean)


def test_a_place_that_never_changed_does_not_rule_the_match_score():
    model = tiny_model(contrastive=None, match_head="patches", match_grid=[4, 4], in_batch_mismatches=3).train()
    frames, sounds = torch.randn(16, 1, 3, 32, 32), torch.randn(16, 1, 32, 32)
    frames[..., :8, :] = -1  # a black bar
    for _ in range(5):
        model(frames, sounds, labels=torch.arange(16) % 5)
    frames[..., :8, :] += 0.1 * torch.randn(16, 1, 3, 8, 32)
    states = model.eval().maavt(frames).video_patch_states
    assert model.match_head.video_norm(states.flatten(2)).abs().max() > 2 * model.match_head.largest
    seen = []
    model.match_head.video_patch_proj.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(frames, sounds)
    assert seen[0].abs().max() <= model.match_head.largest


def test_patches_send_no_gradient_to_the_backbone():
    model = tiny_model(contrastive=None, match_head="patches", in_batch_mismatches=3, freeze_backbone=False).train()
    model(**tiny_inputs(), labels=torch.tensor([0, 1, 2, 3])).matching_loss.backward()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {"match_head"}


def test_patches_are_not_in_block_states():
    model = tiny_model(contrastive=None, match_head="patches", prompt_start_layer=1)
    with pytest.raises(ValueError, match='take match_head="bilinear"'):
        model.maavt.block_states(tiny_inputs()["pixel_values_videos"], None)


# ---- gradient modulation


def test_gradient_modulation_damps_the_stronger_modality():
    model = tiny_model().train()
    inputs = tiny_inputs(clips=8)
    labels = torch.arange(8) % 5
    states = model.maavt(**inputs)
    with torch.no_grad():  # a class head that reads the sound almost perfectly and the picture not at all
        sound = states.audio_class_state[:, 0]
        model.classifier.weight[:, 64:] = torch.linalg.lstsq(
            sound, 10 * nn.functional.one_hot(labels, 5).float()
        ).solution.T
        model.classifier.weight[:, :64] = 0
    modulation = GradientModulation(alpha=0.1, noise=False)
    modulation.attach(model)
    model(**inputs, labels=labels).loss.backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    coefficients = modulation.apply()
    modulation.detach()

    video_score, audio_score = 0.0, 0.0
    for clip, label in enumerate(labels):
        halves = model.classifier.halves(states.video_class_state[clip, 0], states.audio_class_state[clip, 0])
        video_score += halves[0].softmax(-1)[label].item()
        audio_score += halves[1].softmax(-1)[label].item()
    assert audio_score > video_score
    assert coefficients["video"] == 1
    assert coefficients["audio"] == pytest.approx(1 - math.tanh(0.1 * audio_score / video_score), rel=1e-4)
    audio_tokens = model.maavt.prompt.audio_tokens.grad
    torch.testing.assert_close(audio_tokens, plain["maavt.prompt.audio_tokens"] * coefficients["audio"])
    torch.testing.assert_close(model.maavt.prompt.visual_tokens.grad, plain["maavt.prompt.visual_tokens"])
    torch.testing.assert_close(model.maavt.prompt.shared_tokens.grad, plain["maavt.prompt.shared_tokens"])


def test_gradient_modulation_noise_has_the_gradients_own_spread():
    model = tiny_model().train()
    modulation = GradientModulation(noise=True)
    modulation.attach(model)
    model(**tiny_inputs(), labels=torch.arange(4)).loss.backward()
    weight = model.maavt.contrastive_head.video.weight
    before = weight.grad.clone()
    k = modulation.apply()["video"]
    noise = weight.grad - k * before
    assert noise.std().item() == pytest.approx(k * before.std().item(), rel=0.1)


def test_gradient_modulation_noise_depends_on_seed_and_step_alone():
    """A resumed run, whose callback is new, adds the noise of the uninterrupted one."""

    def noise(modulation: GradientModulation, step: int) -> torch.Tensor:
        model = tiny_model().train()
        modulation.on_train_begin(None, None, None, model=model)
        model(**tiny_inputs(), labels=torch.arange(4)).loss.backward()
        modulation.on_pre_optimizer_step(None, TrainerState(global_step=step), None)
        return model.maavt.contrastive_head.video.weight.grad

    uninterrupted = GradientModulation(seed=3)
    first, second = (noise(uninterrupted, step) for step in (0, 1))
    assert not torch.equal(first, second)
    torch.testing.assert_close(noise(GradientModulation(seed=3), 1), second, atol=0, rtol=0)
    assert not torch.equal(noise(GradientModulation(seed=4), 1), second)


# Class agreement


def agreement_by_hand(video_logits: torch.Tensor, audio_logits: torch.Tensor) -> torch.Tensor:
    return (video_logits.softmax(-1) * audio_logits.softmax(-1)).sum(-1)


def test_class_agreement_is_that_of_what_each_modality_says_alone():
    model, inputs = tiny_model(), tiny_inputs()
    model.classifier.weight.data.normal_()
    outputs = model(**inputs)
    alone = [model(**{name: value}) for name, value in inputs.items()]
    torch.testing.assert_close(outputs.class_agreement, agreement_by_hand(alone[0].logits, alone[1].logits))
    assert alone[0].class_agreement is None and outputs.class_agreement.std() > 0
    # Without a match head too; 0 where a modality is missing.
    found = tiny_model(background_mining=False)(**inputs, has_audio=torch.tensor([True, False, True, True]))
    assert found.match_logits is None and (found.class_agreement == 0).tolist() == [False, True, False, False]
    assert tiny_model(problem_type="multi_label_classification")(**inputs).class_agreement is None


def test_class_agreement_of_segments():
    model, inputs = tiny_model(), tiny_inputs(frames=4, segments=2)
    alone = [model(**{name: value}, num_segments=2).logits for name, value in inputs.items()]  # (B, C) each
    for labels in (None, torch.tensor([0, 1, 2, 3]), torch.zeros(4, 2, dtype=torch.long)):
        torch.testing.assert_close(model(**inputs, labels=labels).class_agreement, agreement_by_hand(*alone))


def test_match_head_takes_the_class_agreement_in():
    inputs, labels = tiny_inputs(), torch.tensor([0, 1, 2, 3])
    plain, model = tiny_model(), tiny_model(match_class_agreement=True)
    model.load_state_dict(plain.state_dict(), strict=False)
    model.match_head.agreement_weight.data.fill_(2.0)
    expected = plain(**inputs).match_logits + 2 * plain(**inputs).class_agreement.log()
    torch.testing.assert_close(model(**inputs).match_logits, expected)
    # Pairs that training adds are judged like pairs that are given, and the classes get no gradient from it.
    options = {"contrastive": None, "classification_loss_weight": 0.0, "in_batch_mismatches": 1}
    model = tiny_model(match_class_agreement=True, **options).train()
    model(**inputs, labels=labels).loss.backward()
    assert not model.classifier.weight.grad.any() and model.match_head.agreement_weight.grad.abs() > 0
    with pytest.raises(Exception, match="bilinear"):
        tiny_config(match_class_agreement=True, match_head="mlp")
