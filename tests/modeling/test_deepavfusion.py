# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion's encoder: the exact shortcuts against the literal reading, missing halves, windows, sizes, switches."""

import math

import pytest
import torch
from reference_deepavfusion import Encoder, PreTraining
from tiny_deepavfusion import all_close, tiny_config, tiny_inputs, tiny_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

from modeling_deepavfusion import DeepAVFusionConfig, DeepAVFusionForPreTraining, DeepAVFusionModel
from modeling_deepavfusion.convert_deepavfusion import reference_state_dict
from modeling_deepavfusion.modeling_deepavfusion import sincos_positions


STREAMS = ("image", "audio", "fusion")


# ---- configuration


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fusion_type": "late"}, "fusion_type='late'"),
        ({"fusion_residual": "none"}, "fusion_residual='none'"),
        ({"fusion_scale": "full"}, "fusion_scale='full'"),
        ({"fusion_pair_activation": "relu"}, "fusion_pair_activation='relu'"),
        ({"fusion_type": "token", "fusion_pair_activation": "gelu"}, "acts on pairs"),
        ({"classifier_loss": "sum"}, "classifier_loss='sum'"),
        ({"fusion_layers": [1, 12]}, "names \\[12\\]"),
        ({"image_size": 230}, "image_size=230"),
        ({"audio_num_frames": 193}, "audio_num_frames=193"),
        ({"fusion_attention_ratio": 0.01}, "fusion_attention_ratio"),
        ({"num_attention_heads": 7}, "hidden_size"),
        ({"num_visual_aggregation_tokens": 0}, "num_visual_aggregation_tokens=0"),
        ({"image_mask_ratio": 1.0}, "image_mask_ratio=1.0"),
        ({"audio_mask_ratio": 0.995}, "hides all 96"),
    ],
)
def test_bad_config_is_refused_by_name(values, message):
    with pytest.raises(Exception, match=message):
        DeepAVFusionConfig(**values)


# ---- against the literal reading


def reference_and_ours(dtype=torch.float64, **overrides):
    torch.manual_seed(0)
    config = tiny_config(**overrides)
    reference = Encoder(config).to(dtype).eval()
    model = DeepAVFusionModel(config).to(dtype).eval()
    model.load_state_dict(reference_state_dict(reference.state_dict(), config.fusion_type))
    return reference, model


@pytest.mark.parametrize("fusion_type", ["factorized", "dense", "token"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=["float64", "float32"]
)
@pytest.mark.parametrize("layers", [None, [0, 2], []], ids=["all", "0-2", "none"])
def test_shortcuts_are_exact(fusion_type, dtype, tolerance, layers):
    reference, model = reference_and_ours(dtype, fusion_type=fusion_type, fusion_layers=layers)
    image, audio = (value.to(dtype) for value in tiny_inputs().values())
    keep = [torch.stack([torch.randperm(total)[:kept] for _ in image]) for total, kept in ((16, 4), (6, 2))]
    for ids in ((None, None), keep):
        with torch.no_grad():
            expected = reference(image[:, 0], audio, *ids)
            outputs = model(image, audio, image_ids_keep=ids[0], audio_ids_keep=ids[1])
        for name, states in zip(STREAMS, expected, strict=True):
            all_close(outputs[f"{name}_last_hidden_state"], states, tolerance)


@pytest.mark.parametrize("fusion_type", ["factorized", "dense"])
def test_gradients_of_the_shortcuts_are_exact(fusion_type):
    reference, model = reference_and_ours(fusion_type=fusion_type)
    image, audio = (value.double() for value in tiny_inputs().values())
    expected = reference(image[:, 0], audio)
    outputs = model(image, audio)
    directions = [torch.randn_like(states) for states in expected]
    sum((states * way).sum() for states, way in zip(expected, directions, strict=True)).backward()
    ours = [outputs[f"{name}_last_hidden_state"] for name in STREAMS]
    sum((states * way).sum() for states, way in zip(ours, directions, strict=True)).backward()
    gradients = {name: p.grad for name, p in reference.named_parameters() if "pos_embed" not in name}
    expected = reference_state_dict(gradients, fusion_type)
    for name, parameter in model.named_parameters():
        all_close(parameter.grad, expected[name], 1e-10)


def test_pretraining_equals_the_literal_reading():
    torch.manual_seed(0)
    config = tiny_config()
    reference = PreTraining(config).double().eval()
    model = DeepAVFusionForPreTraining(config).double().eval()
    model.load_state_dict(reference_state_dict(reference.state_dict(), config.fusion_type))
    image, audio = (value.double() for value in tiny_inputs().values())
    noise = torch.rand(3, 16), torch.rand(3, 6)
    with torch.no_grad():
        expected = reference(image[:, 0], audio[:, :1], *noise, (4, 1))
        outputs = model(image, audio, *noise)
    ours = (outputs.image_loss, outputs.image_logits, outputs.audio_loss, outputs.audio_logits)
    for actual, wanted in zip(ours, expected, strict=True):
        all_close(actual.double(), wanted, 1e-6)  # losses are float32
    all_close(outputs.loss, outputs.image_loss + outputs.audio_loss)


@pytest.mark.parametrize("fusion_type", ["factorized", "dense", "token"])
def test_eager_equals_sdpa_and_tells_what_was_read(fusion_type):
    model = tiny_model(DeepAVFusionModel, fusion_type=fusion_type)
    inputs = tiny_inputs()
    fast = model(**inputs, output_fusion_attentions=True)
    model.set_attn_implementation("eager")
    slow = model(**inputs, output_attentions=True)
    for name in STREAMS:
        all_close(fast[f"{name}_last_hidden_state"], slow[f"{name}_last_hidden_state"])
    assert len(slow.attentions) == len(slow.audio_attentions) == len(slow.fusion_attentions) == 3
    assert slow.attentions[0].shape == (3, 4, 16, 25) and slow.audio_attentions[0].shape == (3, 4, 6, 15)
    assert fast.attentions is None
    for first, second in zip(fast.fusion_attentions, slow.fusion_attentions, strict=True):
        for weights, expected in zip(first, second, strict=True):
            assert (weights is None) == (expected is None)
            if weights is not None:
                all_close(weights, expected)
    one = fast.fusion_attentions[0]
    if fusion_type == "factorized":
        assert one.image_aggregation.shape == (3, 4, 2, 16) and one.audio_aggregation.shape == (3, 4, 3, 6)
        assert one.image.shape == (3, 4, 4, 2) and one.audio.shape == (3, 4, 4, 3)
        sums = (one.image @ one.image_aggregation).sum(-1)
    else:
        assert one.image.shape == (3, 4, 9, 16) and one.audio.shape == (3, 4, 9, 6)
        sums = one.image.sum(-1) + (one.audio.sum(-1) if fusion_type == "token" else 0)
    all_close(sums, torch.ones_like(sums))


# ---- switches


def test_prenorm_residual_keeps_the_tokens():
    published, prenorm = (tiny_model(DeepAVFusionModel, fusion_residual=mode) for mode in ("normalized", "prenorm"))
    block, other = published.layers[0].fusion, prenorm.layers[0].fusion
    states = [3 * torch.randn(2, length, 32) for length in (9, 16, 6)]
    with torch.no_grad():
        for part in (block, other):  # nothing but the residual is left
            part.attention.pairs.o_proj.weight.zero_()
            part.attention.image_aggregation.o_proj.weight.zero_()
            part.attention.audio_aggregation.o_proj.weight.zero_()
            part.mlp.fc2.weight.zero_()
    all_close(block(*states)[0], block.layernorm_fusion(states[0]))
    all_close(other(*states)[0], states[0])


def test_scale_of_pairs():
    scales = {}
    for mode in ("hidden", "head"):
        for fusion_type in ("factorized", "dense", "token"):
            attention = tiny_model(DeepAVFusionModel, fusion_type=fusion_type, fusion_scale=mode).layers[0].fusion
            attention = attention.attention
            scales[mode, fusion_type] = getattr(attention, "pairs", attention).scaling
    assert scales["hidden", "factorized"] == scales["hidden", "dense"] == 8**-0.5
    assert scales["head", "factorized"] == scales["head", "dense"] == scales["hidden", "token"] == 4**-0.5
    assert DeepAVFusionConfig().fusion_scale == "hidden"


@pytest.mark.parametrize("fusion_type", ["factorized", "dense"])
def test_pair_activation_reads_real_pairs(fusion_type):
    torch.manual_seed(0)
    model = tiny_model(DeepAVFusionModel, fusion_type=fusion_type, fusion_pair_activation="gelu")
    attention = model.layers[0].fusion.attention.pairs
    queries, image, audio = torch.randn(2, 5, 32), torch.randn(2, 3, 32), torch.randn(2, 4, 32)
    update, image_weights, audio_weights = attention(queries, image, audio, need_weights=True)
    heads = (4, -1)
    query = attention.q_proj(queries).unflatten(-1, heads)
    pairs = [(i, j) for i in range(3) for j in range(4)]
    keys = [
        nn.functional.gelu(attention.image_k_proj(image[:, i]) + attention.audio_k_proj(audio[:, j])) for i, j in pairs
    ]
    values = [
        nn.functional.gelu(attention.image_v_proj(image[:, i]) + attention.audio_v_proj(audio[:, j])) for i, j in pairs
    ]
    key, value = (torch.stack(rows, 1).unflatten(-1, heads) for rows in (keys, values))
    weights = (torch.einsum("bqhd,bkhd->bhqk", query, key) * attention.scaling).softmax(-1)
    read = torch.einsum("bhqk,bkhd->bqhd", weights, value).flatten(2)
    all_close(update, attention.o_proj(read))
    all_close(attention(queries, image, audio)[0], update)
    all_close(image_weights, weights.unflatten(-1, (3, 4)).sum(-1))
    all_close(audio_weights, weights.unflatten(-1, (3, 4)).sum(-2))
    # not the product of two softmaxes: the pair matters
    product = (image_weights[..., :, None] * audio_weights[..., None, :]).flatten(-2)
    assert (product - weights).abs().max() > 1e-4


def test_drop_path_drops_whole_branches_in_training_only():
    model = tiny_model(DeepAVFusionModel, drop_path_rate=0.5)
    inputs = tiny_inputs(clips=8)
    quiet = model(**inputs).last_hidden_state
    all_close(model(**inputs).last_hidden_state, quiet)
    model.train()
    block = model.layers[0].image
    states = torch.randn(64, 2, 32)
    attended, _ = block.attention(block.layernorm_before(states), block.layernorm_before(states))
    block.mlp.fc2.weight.data.zero_()
    changes = block(states)[0] - states
    kept = changes.abs().amax((1, 2)) > 1e-6
    assert 16 < kept.sum() < 48
    all_close(changes[kept], 2 * attended[kept])
    assert (model(**inputs).last_hidden_state - quiet).abs().max() > 1e-3


# ---- missing halves, windows


@pytest.mark.parametrize(
    "kind",
    [
        {"fusion_type": "factorized"},
        {"fusion_type": "dense"},
        {"fusion_type": "token"},
        {"fusion_type": "factorized", "fusion_pair_activation": "gelu"},
        {"fusion_type": "dense", "fusion_pair_activation": "gelu"},
    ],
    ids=lambda kind: "-".join(kind.values()),
)
def test_marked_rows_equal_absent_inputs(kind):
    model = tiny_model(DeepAVFusionModel, **kind)
    # biases that are not 0 tell a missing modality from a zero one
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    inputs = tiny_inputs(clips=4)
    has_video, has_audio = torch.tensor([1, 0, 1, 0]).bool(), torch.tensor([1, 1, 0, 0]).bool()
    mixed = model(**inputs, has_video=has_video, has_audio=has_audio, output_fusion_attentions=True)
    whole = model(**{name: value[:1] for name, value in inputs.items()})
    sound = model(input_features=inputs["input_features"][1:2])
    picture = model(pixel_values_videos=inputs["pixel_values_videos"][2:3])
    assert sound.image_last_hidden_state is None and sound.image_hidden_states is None
    assert picture.audio_last_hidden_state is None
    for row, alone in enumerate((whole, sound, picture)):
        for name in STREAMS:
            states = getattr(alone, f"{name}_last_hidden_state")
            if states is not None:
                all_close(mixed[f"{name}_last_hidden_state"][row], states[0])
    for states in (mixed.last_hidden_state, mixed.image_last_hidden_state, mixed.audio_last_hidden_state):
        assert torch.isfinite(states).all()
    assert (whole.last_hidden_state - sound.last_hidden_state).abs().max() > 1e-3


def test_missing_modality_updates_its_aggregation_tokens_by_nothing():
    model = tiny_model(DeepAVFusionModel)
    attention = model.layers[0].fusion.attention
    tokens, audio = torch.randn(2, 9, 32), torch.randn(2, 6, 32)
    update, _ = attention(tokens, None, audio)
    assert update[:, 4:6].abs().max() == 0 and update[:, 6:].abs().min() > 0


def test_windows_are_the_batch():
    model = tiny_model(DeepAVFusionModel)
    inputs = tiny_inputs(clips=2, windows=3)
    outputs = model(**inputs)
    assert outputs.last_hidden_state.shape == (6, 9, 32) and outputs.pooler_output.shape == (6, 32)
    alone = model(**{name: value[1:, 2:] for name, value in inputs.items()})
    all_close(outputs.last_hidden_state[5], alone.last_hidden_state[0])
    marked = model(**inputs, has_video=torch.tensor([True, False]))
    silent = model(input_features=inputs["input_features"][1:])
    all_close(marked.last_hidden_state[3:], silent.last_hidden_state)


def test_inputs_that_do_not_fit_are_named():
    model = tiny_model(DeepAVFusionModel)
    frames, sound = tiny_inputs(clips=2, windows=2).values()
    with pytest.raises(ValueError, match="2 clips of 2 frames, input_features 2 clips of 1 spectrograms"):
        model(frames, sound[:, :1])
    with pytest.raises(ValueError, match=r"\[B, S, C, H, W\]"):
        model(frames[:, 0], sound)
    with pytest.raises(ValueError, match=r"\[B, S, F, W\]"):
        model(frames, sound[:, 0])
    with pytest.raises(ValueError, match="3 channels"):
        model(frames[:, :, :1], sound)
    with pytest.raises(ValueError, match="smaller than one patch"):
        model(frames, sound[..., :3])
    with pytest.raises(ValueError, match="pixel_values_videos, input_features or both"):
        model()
    with pytest.raises(ValueError, match="one row a window"):
        model(frames, sound, image_noise=torch.rand(2, 16))


# ---- states, positions, sizes


def test_hidden_states_by_index_and_of_every_stream():
    model = tiny_model(DeepAVFusionModel)
    inputs = tiny_inputs()
    every = model(**inputs, output_hidden_states=True)
    some = model(**inputs, output_hidden_states=[0, -1])
    for name, norm in zip(
        STREAMS, (model.image_layernorm, model.audio_layernorm, model.fusion_layernorm), strict=True
    ):
        states = every[f"{name}_hidden_states"]
        assert len(states) == 4
        all_close(norm(states[-1]), every[f"{name}_last_hidden_state"])
        all_close(some[f"{name}_hidden_states"][0], states[0])
        all_close(some[f"{name}_hidden_states"][1], states[3])
    assert every.hidden_states is every.fusion_hidden_states
    assert model(**inputs).hidden_states is None


def test_positions_are_column_first_and_saved():
    table = sincos_positions((2, 3), 16)[0]
    for row in range(2):
        for column in range(3):
            for start, place in ((0, column), (8, row)):
                for k in range(4):
                    angle = place / 10000 ** (k / 4)
                    found = table[row * 3 + column, start + k], table[row * 3 + column, start + 4 + k]
                    all_close(torch.stack(found), torch.tensor([math.sin(angle), math.cos(angle)]), 1e-6)
    model = tiny_model(DeepAVFusionModel)
    saved = model.state_dict()
    all_close(saved["image_embeddings.position_embeddings"], sincos_positions((4, 4), 32))
    assert saved["audio_embeddings.position_embeddings"].shape == (1, 6, 32)
    assert not [name for name, _ in model.named_parameters() if "position" in name]


def test_other_sizes_resample_positions():
    model = tiny_model(DeepAVFusionModel)
    outputs = model(torch.randn(2, 1, 3, 24, 32), torch.randn(2, 1, 8, 22))
    assert outputs.image_last_hidden_state.shape == (2, 48, 32)
    assert outputs.audio_last_hidden_state.shape == (2, 10, 32)


def test_sizes_and_cost_of_the_paper():
    """Parameters (with the saved positions), and multiply-adds of linear layers and convolutions, in 10^9."""
    for fields, parameters, pretraining, dense, masked in (
        ({}, 268_660_224, 320_563_712, 30.94, 8.74),
        ({"fusion_attention_ratio": 1.0, "fusion_mlp_ratio": 4.0}, 327_094_272, 378_997_760, 32.47, 10.27),
    ):
        config = DeepAVFusionConfig(**fields)
        with torch.device("meta"):
            model = DeepAVFusionForPreTraining(config).eval()
            frames, sound = torch.empty(1, 1, 3, 224, 224), torch.empty(1, 1, 128, 192)
            keep = {
                "image_ids_keep": torch.empty(1, 49, dtype=torch.long),
                "audio_ids_keep": torch.empty(1, 19, dtype=torch.long),
            }
        encoder = model.deepavfusion
        assert sum(value.numel() for value in encoder.state_dict().values()) == parameters
        assert sum(value.numel() for value in model.state_dict().values()) == pretraining
        for inputs, expected in (({}, dense), (keep, masked)):
            with FlopCounterMode(display=False) as counter:
                encoder(frames, sound, **inputs)
            counts = counter.get_flop_counts()["Global"]
            layers = sum(count for operator, count in counts.items() if str(operator) in LINEAR_OPERATORS)
            assert round(layers / 2e9, 2) == expected


LINEAR_OPERATORS = ("aten.addmm", "aten.mm", "aten.convolution")


def test_start_is_xavier_on_the_fused_matrices():
    torch.manual_seed(0)
    model = DeepAVFusionModel(tiny_config(hidden_size=64, fusion_attention_ratio=0.25))
    layer = model.layers[0]
    pairs, image = layer.fusion.attention.pairs, layer.fusion.attention.image_aggregation
    bounds = {
        "qkv of a ViT": (layer.image.attention.k_proj, 64 + 192),
        "kv of an aggregation": (image.v_proj, 64 + 128),
        "q of an aggregation": (image.q_proj, 128),
        "k of pairs": (pairs.audio_k_proj, 128 + 16),
        "v of pairs": (pairs.image_v_proj, 128 + 64),
        "MLP": (layer.audio.mlp.fc1, 64 + 48),
        "patches": (model.image_embeddings.projection, 48 + 64),
    }
    for name, (module, fans) in bounds.items():
        bound = (6 / fans) ** 0.5
        assert 0.97 * bound < module.weight.abs().max() <= bound, name
    assert layer.image.mlp.fc1.bias.abs().max() == 0 and model.image_embeddings.projection.bias.abs().max() > 0
    assert 0.01 < model.fusion_tokens.tokens.std() < 0.03


# ---- training machinery


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(DeepAVFusionForPreTraining).train()
        if checkpointing:
            # Transformers 5.23 renamed it
            enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
            enable()
        noise = {"image_noise": torch.rand(3, 16, generator=torch.Generator().manual_seed(1))}
        noise["audio_noise"] = torch.rand(3, 6, generator=torch.Generator().manual_seed(2))
        model(**tiny_inputs(), **noise).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        all_close(gradients[1][name], gradient, 1e-6)


def test_save_and_load(tmp_path):
    model = tiny_model(DeepAVFusionModel, fusion_layers=[0, 2])
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert type(loaded) is DeepAVFusionModel and loaded.config.fusion_layers == [0, 2]
    inputs = tiny_inputs()
    assert torch.equal(loaded(**inputs).last_hidden_state, model(**inputs).last_hidden_state)
