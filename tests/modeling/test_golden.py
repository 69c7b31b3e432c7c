# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The behavior of the reference implementation, file by file: hidden states, logits, losses, localization maps and every gradient.

GOLDEN_DIR names the folder (default: golden/ of the shared material). The names of its weights are mapped in
`golden_names.py`, not in the package.
"""

import json
import os
from pathlib import Path

import golden_deepavfusion_tasks  # noqa: F401  registers segmentation and separation
import pytest
import torch
from golden_deepavfusion import kind_of, load_golden
from golden_names import to_ours
from safetensors.torch import load_file

from modeling_maavt import MAAVTConfig, MAAVTForAudioVisualClassification


GOLDEN_DIR = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).resolve().parents[3] / "shared" / "golden")
FILES = sorted(GOLDEN_DIR.glob("maavt_*.safetensors"))
DEEPAVFUSION_FILES = sorted(GOLDEN_DIR.glob("deepavfusion_*.npz"))
VISION_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "image_size",
    "patch_size",
    "layer_norm_eps",
)
LAVISH_FIELDS = ("num_latents", "reduction", "groups")  # of the paper: 32, 16, 2


def build_config(values: dict) -> MAAVTConfig:
    """Our config from the JSON of a golden file; what is absent there keeps the paper's behavior."""
    lavish_config = None
    if values.get("lavish_adapters", False):
        lavish_config = {name: values[f"lavish_{name}"] for name in LAVISH_FIELDS if f"lavish_{name}" in values}
    return MAAVTConfig(
        vision_config={"model_type": "vit", **{name: values[name] for name in VISION_FIELDS}},
        num_labels=values["num_labels"],
        num_audio_tokens=values["num_audio_tokens"],
        num_visual_tokens=values["num_visual_tokens"],
        num_shared_tokens=values["num_shared_tokens"],
        token_self_attention=values["token_self_attention"],
        background_mining=values["background_mining"],
        match_head="linear",
        contrastive=values["contrastive"],
        contrastive_dim=values["projection_dim"],
        temperature=values["temperature"],
        position_interpolation=values["position_interpolation"],
        layerwise_tokens=values.get("layerwise_tokens"),
        lavish_config=lavish_config,
        freeze_backbone=not values.get("full_tuning", False),
    )


def group(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@pytest.mark.skipif(not FILES, reason=f"no maavt_*.safetensors in the golden folder {GOLDEN_DIR.name!r}")
@pytest.mark.parametrize("path", FILES, ids=[file.stem for file in FILES])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_golden(path, attention, record_property):
    settings = json.loads(path.with_suffix(".json").read_text())
    unknown = compare(settings, load_file(path), attention)
    if unknown:
        record_property("unknown_outputs", unknown)
        print(f"{path.stem}: outputs this test does not know: {unknown}")


def compare(settings: dict, tensors: dict[str, torch.Tensor], attention: str) -> list[str]:
    """Run our model on a golden file and compare all that it holds; the names of outputs that we do not know."""
    values, tolerance = settings["config"], settings["tolerance"]
    config = build_config(values)
    config._attn_implementation = attention
    model = MAAVTForAudioVisualClassification(config).train().to(tensors["i.frames"].dtype)

    weights = to_ours(group(tensors, "w."))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert set(missing) <= {"maavt.prompt.needs_self_attention"}

    inputs = group(tensors, "i.")
    frames, audio, labels = inputs["frames"], inputs["audio"], inputs["labels"]
    num_clips, num_frames = frames.shape[:2]
    background = values["background_label"]
    is_matched = torch.ones_like(labels, dtype=torch.bool) if background is None else labels != background
    shape = (num_clips,) if num_frames == 1 else (num_clips, num_frames)
    labels = labels.masked_fill(~is_matched, -100).view(shape)

    entering = {}
    for index, layer in enumerate(model.maavt.encoder.layers):
        layer.register_forward_pre_hook(lambda module, args, index=index: entering.__setitem__(index, args[:2]))
    outputs = model(frames, audio, labels=labels, is_matched=is_matched.view(shape), output_localization=True)
    outputs.loss.backward()
    states = model.maavt(frames, audio)

    ours = {
        "loss": outputs.loss,
        "fg_loss": outputs.classification_loss,
        "bg_loss": outputs.matching_loss,
        "cnt_loss": outputs.contrastive_loss,
        "cnt_per_layer": outputs.contrastive_loss_per_block,
        "p_fg": outputs.segment_logits,
        "p_bg": None if outputs.segment_match_logits is None else -outputs.segment_match_logits,
        "vis_attn": outputs.video_localization,
        "aud_attn": outputs.audio_localization,
    }

    def close(name, actual, expected):
        torch.testing.assert_close(
            actual.detach().to(expected.dtype).reshape(expected.shape),
            expected,
            msg=lambda text: f"{name}: {text}",
            **tolerance,
        )

    unknown = []
    for name, expected in group(tensors, "o.").items():
        if name in ours:
            close(name, ours[name], expected)
        else:
            unknown.append(name)
    for name, expected in group(tensors, "h.").items():
        where, _, stream = name.rpartition(".")
        index = ("vis", "aud").index(stream)
        if where == "final_norm":
            close(f"h.{name}", (states.last_hidden_state, states.audio_last_hidden_state)[index], expected)
        else:
            close(f"h.{name}", entering[int(where)][index], expected)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected_gradients = to_ours(group(tensors, "g."))
    for name, expected in expected_gradients.items():
        close(f"gradient of {name}", gradients.pop(name), expected)
    assert not [name for name, gradient in gradients.items() if gradient is not None and gradient.abs().max() > 0]
    return unknown


@pytest.mark.skipif(not DEEPAVFUSION_FILES, reason=f"no deepavfusion_*.npz in the golden folder {GOLDEN_DIR.name!r}")
@pytest.mark.parametrize("path", DEEPAVFUSION_FILES, ids=[file.stem for file in DEEPAVFUSION_FILES])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_golden_deepavfusion(path, attention, record_property):
    """States, predictions, logits, masks and losses within 2e-5."""
    compare = kind_of(path.stem)
    if compare is None:
        pytest.skip(f"{path.stem}: no model for this file yet")
    weights, inputs, expected = load_golden(path)
    with torch.no_grad():
        ours = compare(path.stem, weights, inputs, expected, attention)
    known = set(ours) & set(expected)
    assert known, f"{path.stem}: nothing to compare among {sorted(expected)}"
    for name in sorted(known):
        torch.testing.assert_close(
            ours[name].reshape(expected[name].shape),
            expected[name],
            atol=2e-5,
            rtol=0,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    unknown = sorted(set(expected) - known)
    if unknown:
        record_property("unknown_outputs", unknown)
        print(f"{path.stem}: outputs this test does not know: {unknown}")
