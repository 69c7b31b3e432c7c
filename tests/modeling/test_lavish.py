# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""LAVISH adapters against a plain second implementation; frames and segments, missing modalities, training and storage."""

import pytest
import torch
from golden_names import to_ours
from peft import PeftModel, get_peft_model
from reference_maavt import golden_tensors
from test_golden import build_config, compare, group
from tiny_models import TINY_VIT, tiny_config, tiny_inputs, tiny_model
from transformers import AutoModelForVideoClassification, ViTConfig, ViTModel

from modeling_maavt import (
    MAAVTConfig,
    MAAVTForAudioVisualClassification,
    check_trainable,
    export_adapter,
    maavt_peft_config,
)
from modeling_maavt.lavish_maavt import MAAVTLavishAdapters


def open_gates(model, seed: int = 0):
    """Adapters that all do something: gates away from 0, and outputs that differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lavish_adapters" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def lavish_model(**overrides):
    return open_gates(tiny_model(lavish_config={}, **overrides))


# ---- the paper's formulas


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("tokens", "spectrogram_size", "background"),
    [
        ((2, 2, 2), (32, 32), True),
        ((1, 3, 2), (32, 32), True),
        ((2, 2, 1), (24, 48), True),
        ((2, 2, 2), (16, 32), False),
    ],
)
def test_values_and_gradients_of_the_reference(tokens, spectrogram_size, background, attention):
    settings, tensors = golden_tensors(tokens, spectrogram_size, background)
    assert compare(settings, tensors, attention) == []
    trained = [value for name, value in tensors.items() if name.startswith("g.lavish")]
    assert len(trained) == 12 * 9 + 6 and all(value.abs().max() > 0 for value in trained)


def test_other_layouts_that_golden_files_may_use():
    """Convolution weights of fewer dimensions, scalars without one, an unused gate and an unknown output."""
    settings, tensors = golden_tensors((2, 2, 2), (32, 32), True)
    changed = {"o.something_else": torch.zeros(1)}
    for name, value in tensors.items():
        if name.endswith("down_sampler.weight"):
            value = value[..., 0]  # a Conv1d
        if name.endswith("up_sampler.weight"):
            name, value = name.removesuffix(".weight"), value[..., 0, 0]
        if value.shape == (1,) and "gate" in name:
            value = value[0]
        if name.startswith("w.lavish.audio") and name.endswith("gate_av"):
            changed[name.replace("gate_av", "gate")] = torch.tensor(0.5)
        changed[name] = value
    assert compare(settings, changed, "sdpa") == ["something_else"]


def test_reference_is_not_matched_by_another_order_of_adapters():
    settings, tensors = golden_tensors((2, 2, 2), (32, 32), True)
    swapped = {}
    for name, value in tensors.items():
        if name.endswith("latents"):
            first, second = (".attention.", ".mlp.") if ".attention." in name else (".mlp.", ".attention.")
            name = name.replace(first, second)
        swapped[name] = value
    with pytest.raises(AssertionError):
        compare(settings, swapped, "sdpa")


def test_float32_strays_from_the_reference_by_rounding_only():
    """What float32 may lose is measured, because it differs between processors.

    Where all of a bottleneck's units are off, the LayerNorm behind it divides by sqrt(1e-5), so each rounding grows by
    up to 316 on its way. The same model in float64, its weights and inputs off by one float32 rounding (6e-8), says how
    much that makes at the end; float32 rounds in every operation, and gets ten times as much.
    """
    settings, tensors = golden_tensors((2, 2, 2), (32, 32), True)
    config = build_config(settings["config"])
    expected = (tensors["h.final_norm.vis"], tensors["h.final_norm.aud"])

    @torch.no_grad()
    def distances(dtype: torch.dtype, rounding: float = 0.0) -> torch.Tensor:
        model = MAAVTForAudioVisualClassification(config).eval().to(dtype)
        model.load_state_dict(to_ours(group(tensors, "w.")), strict=False)
        inputs = [tensors[name].to(dtype, copy=True) for name in ("i.frames", "i.audio")]
        for value in (*model.parameters(), *inputs):
            value.mul_(1 + rounding * torch.randn_like(value))
        states = model.maavt(*inputs)
        found = (states.last_hidden_state, states.audio_last_hidden_state)
        return torch.stack([(a - b).norm() / b.norm() for a, b in zip(found, expected, strict=True)])

    torch.manual_seed(0)
    by_rounding = torch.stack([distances(torch.float64, 6e-8) for _ in range(8)]).amax(dim=0)
    assert (by_rounding < 1e-5).all()
    assert (distances(torch.float32) < 10 * by_rounding).all()


def test_initial_state_is_that_of_the_paper():
    torch.manual_seed(0)
    model = MAAVTForAudioVisualClassification(tiny_config(lavish_config={}))
    blocks = model.maavt.lavish_adapters.blocks
    assert len(blocks) == 3 and all(len(stream) == 2 for block in blocks for stream in (block.visual, block.audio))
    for block in blocks:
        for adapter in (*block.visual, *block.audio):
            assert adapter.latents.shape == (32, 64) and adapter.down.weight.shape == (4, 32)
            assert adapter.up.weight.shape == (64, 2) and adapter.norm_before.eps == adapter.norm_after.eps == 1e-5
            assert adapter.gate_latents == 1 and adapter.gate_states == 0
            assert 0.01 < adapter.latents.std() < 0.03 and adapter.down.weight.std() > 0.05
        assert all(adapter.gate == 0 for adapter in block.visual) and all(a.gate is None for a in block.audio)
    # at first the picture's stream is what it is without adapters
    inputs = tiny_inputs()
    plain = tiny_model()
    plain.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(
        model.eval().maavt(**inputs).last_hidden_state, plain.maavt(**inputs).last_hidden_state, atol=1e-5, rtol=1e-4
    )


def test_gated_sound_starts_from_the_backbone():
    model, inputs = tiny_model(lavish_config={"gate_audio": True}), tiny_inputs(frames=2)
    plain = tiny_model()
    plain.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(model(**inputs).logits, plain(**inputs).logits, atol=1e-5, rtol=1e-4)
    changed = open_gates(model)(**inputs).logits
    assert (changed - plain(**inputs).logits).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("values", "message"),
    [({"reduction": 48}, "reduction=48"), ({"num_latents": 0}, "num_latents=0"), ({"width": 8}, "width")],
)
def test_bad_config_is_refused_by_name(values, message):
    with pytest.raises(Exception, match=message):
        MAAVTConfig(lavish_config=values, vision_config=dict(TINY_VIT))


def test_flat_fields_of_older_configs_are_read():
    config = MAAVTConfig(lavish_adapters=True, lavish_num_latents=4, lavish_gate_audio=True)
    assert config.lavish_config == {"num_latents": 4, "gate_audio": True} and config.lavish.reduction == 16
    assert MAAVTConfig(lavish_adapters=False, lavish_num_latents=4).lavish is None


# ---- frames, segments, missing modalities


def test_segments_are_clips_of_their_own():
    """T = S is the paper's pairing: segment s is the clip that shows frame s and sounds like spectrogram s."""
    model, inputs = lavish_model(), tiny_inputs(clips=3, frames=2, segments=2)
    together = model.maavt(**inputs)
    for s in (0, 1):
        alone = model.maavt(**{name: value[:, s : s + 1] for name, value in inputs.items()})
        for state in ("video_class_state", "audio_class_state"):
            torch.testing.assert_close(together[state][:, s], alone[state][:, 0], atol=1e-5, rtol=1e-4)


def test_frames_meet_the_sound_of_their_segment_and_it_meets_all_of_them():
    model, inputs = lavish_model(), tiny_inputs(clips=2, frames=4, segments=2)
    adapters, block = model.maavt.lavish_adapters, model.maavt.lavish_adapters.blocks[1]
    video, audio = torch.randn(8, 20, 64), torch.randn(4, 15, 64)
    changes = adapters(1, 0, video, audio, lengths=(18, 12))
    assert changes[0].shape == video.shape and changes[1].shape == audio.shape
    assert not changes[0][:, 18:].any() and not changes[1][:, 12:].any()
    for frame in range(8):  # clip 0: frames 0..3, segments 0 and 1
        expected = block.visual[0](video[frame : frame + 1, :18], audio[frame // 2 : frame // 2 + 1, :12])
        torch.testing.assert_close(changes[0][frame : frame + 1, :18], expected)
    for segment in range(4):
        scene = torch.cat([video[2 * segment, :18], video[2 * segment + 1, :18]])
        expected = block.audio[0](audio[segment : segment + 1, :12], scene[None])
        torch.testing.assert_close(changes[1][segment : segment + 1, :12], expected)
    # a segment of equal frames sounds as with one of them, and the order of frames in it does not matter
    still = inputs["pixel_values_videos"][:, ::2].repeat_interleave(2, dim=1)
    several = model.maavt(still, inputs["input_features"])
    one = model.maavt(still[:, ::2], inputs["input_features"])
    torch.testing.assert_close(several.audio_class_state, one.audio_class_state, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(several.video_class_state, one.video_class_state, atol=1e-5, rtol=1e-4)


def test_missing_partner_changes_nothing():
    model = lavish_model(contrastive=None)
    inputs = tiny_inputs(frames=2)
    has_audio, has_video = torch.tensor([True, False, True, True]), torch.tensor([True, True, False, True])
    inputs["input_features"][1], inputs["pixel_values_videos"][2] = 0, 0
    outputs = model(**inputs, has_video=has_video, has_audio=has_audio)
    video = model(pixel_values_videos=inputs["pixel_values_videos"]).logits
    audio = model(input_features=inputs["input_features"]).logits
    both = model(**inputs).logits
    torch.testing.assert_close(outputs.logits[1], video[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(outputs.logits[2], audio[2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(outputs.logits[[0, 3]], both[[0, 3]])
    assert not torch.allclose(both[1], video[1], atol=1e-3) and not torch.allclose(both[2], audio[2], atol=1e-3)
    with torch.no_grad():  # without adapters the halves add up; with them the streams have met
        assert not torch.allclose(both[0], video[0] + audio[0], atol=1e-3)


def test_gradient_checkpointing_and_autocast():
    inputs, labels = tiny_inputs(clips=4, frames=2), torch.arange(4)
    gradients = []
    for checkpointing in (False, True):
        model = lavish_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**inputs, labels=labels).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, atol=1e-5, rtol=1e-4)
    adapter = lavish_model().maavt.lavish_adapters.blocks[0].audio[0]
    own, other = torch.randn(2, 5, 64), 5 * torch.randn(2, 7, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(adapter(own, other), adapter.float()(own, other), atol=0, rtol=0)


# ---- training and storage


@pytest.fixture
def stock_vit(tmp_path):
    torch.manual_seed(0)
    ViTModel(ViTConfig(**TINY_VIT), add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def tuned(stock_vit, **changes):
    torch.manual_seed(0)
    fields = {"num_labels": 5, "contrastive_dim": 16, "match_dim": 16, "lavish_config": {}}
    model = MAAVTForAudioVisualClassification.from_pretrained(stock_vit, **fields, **changes)
    model = get_peft_model(model, maavt_peft_config(model)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(3):
        loss = model(**tiny_inputs(seed=step), labels=torch.arange(4)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_adapters_are_trained_saved_exported_and_merged(stock_vit, tmp_path):
    model = tuned(stock_vit)
    adapters = model.get_base_model().maavt.lavish_adapters
    counts = check_trainable(model)
    # latents, four or three scalars less one, two norms, down and up: 12 adapters of width 64, 6 of them gated
    assert counts["lavish_adapters"] == 12 * (32 * 64 + 2 + 4 * 64 + 4 * 32 + 64 * 2) + 6
    before, after = adapters.original_module, adapters.modules_to_save["default"]
    moved = [n for n, p in after.named_parameters() if not torch.equal(p, before.get_parameter(n))]
    assert len(moved) == len(list(after.parameters()))

    inputs = tiny_inputs(seed=9, frames=4, segments=2)
    with torch.no_grad():
        expected = model(**inputs).logits
        with model.disable_adapter():
            assert not torch.allclose(model(**inputs).logits, expected, atol=1e-3)
    export_adapter(model, tmp_path / "release")
    model.save_pretrained(tmp_path / "adapter")
    base = MAAVTForAudioVisualClassification.from_pretrained(stock_vit, config=model.get_base_model().config)
    loaded = {
        "adapter": PeftModel.from_pretrained(base, tmp_path / "adapter"),
        "export": MAAVTForAudioVisualClassification.from_pretrained(tmp_path / "release"),
    }
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    loaded["merged"] = AutoModelForVideoClassification.from_pretrained(tmp_path / "merged")
    assert (tmp_path / "merged" / "lavish_maavt.py").is_file()  # travels with the remote code
    for name, again in loaded.items():
        with torch.no_grad():
            found = again.eval()(**inputs).logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def test_sizes_at_vit_base_are_those_of_the_documentation():
    with torch.device("meta"):
        adapters = MAAVTLavishAdapters(MAAVTConfig(lavish_config={}))
    sizes = [
        sum(p.numel() for p in stream[0].parameters())
        for stream in (adapters.blocks[0].visual, adapters.blocks[0].audio)
    ]
    assert sizes == [64_515, 64_514] and sum(p.numel() for p in adapters.parameters()) == 3_096_696


def test_adapters_stay_float32_on_a_bfloat16_backbone(stock_vit, tmp_path):
    model = MAAVTForAudioVisualClassification.from_pretrained(stock_vit, lavish_config={}, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "bf16")
    again = MAAVTForAudioVisualClassification.from_pretrained(tmp_path / "bf16", dtype=torch.bfloat16)
    for loaded in (model, again):
        assert {p.dtype for p in loaded.maavt.encoder.parameters()} == {torch.bfloat16}
        assert {p.dtype for p in loaded.maavt.lavish_adapters.parameters()} == {torch.float32}
        loaded(**tiny_inputs(), labels=torch.tensor([0, 1, 0, 1])).loss.backward()
        adapter = loaded.maavt.lavish_adapters.blocks[0].audio[0]
        assert adapter.latents.grad is not None and torch.isfinite(adapter.up.weight.grad).all()
