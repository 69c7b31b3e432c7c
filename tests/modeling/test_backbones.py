# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Vision transformers of other families as backbones: equal features, counted weights, and one line for those refused."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from modeling_deepavfusion import DeepAVFusionModel, deepavfusion_from_vit
from modeling_maavt import MAAVTForAudioVisualClassification, MAAVTModel
from modeling_maavt.backbone_maavt import BACKBONES
from processing import DeepAVFusionProcessor, MAAVTProcessor
from training.maavt.data import build_processor


SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
BARE = {
    "num_audio_tokens": 0,
    "num_visual_tokens": 0,
    "num_shared_tokens": 0,
    "contrastive": None,
    "background_mining": False,
    "token_self_attention": False,
}
# Family, the class that is saved, and fields of its config beside SIZES.
FAMILIES = {
    "vit": ("ViTForImageClassification", {"layer_norm_eps": 3e-6}),
    "vit without qkv biases": ("ViTModel", {"qkv_bias": False, "hidden_act": "gelu_new"}),
    "deit": ("DeiTForImageClassificationWithTeacher", {}),
    "dinov2": ("Dinov2Model", {"mlp_ratio": 2, "layerscale_value": 0.5}),
    "dinov2 classifier": ("Dinov2ForImageClassification", {"mlp_ratio": 3}),
    "vit_mae": ("ViTMAEForPreTraining", {"decoder_num_hidden_layers": 1, "decoder_hidden_size": 16}),
    "vit_msn": ("ViTMSNModel", {}),
    "clip_vision_model": ("CLIPVisionModelWithProjection", {"hidden_act": "quick_gelu"}),
    "clip": ("CLIPModel", {"hidden_act": "gelu"}),
}


def save_family(family: str, folder, patch_size: int = 4, image_size: int = 24):
    """A random model of the family, whose norms, scales and biases are not their neutral values, in `folder`."""
    class_name, fields = FAMILIES[family]
    model_class = getattr(transformers, class_name)
    fields = {**SIZES, "image_size": image_size, "patch_size": patch_size, **fields}
    if family == "clip":
        text = {**SIZES, "vocab_size": 9, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
        config = transformers.CLIPConfig(text_config=text, vision_config=fields)
    else:
        config = model_class.config_class(**fields)
    torch.manual_seed(0)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return str(folder)


def family_features(folder: str, frames: torch.Tensor) -> torch.Tensor:
    """`[N, 1 + P, D]`: class token and patches after the final LayerNorm, by the family's own class."""
    kind = transformers.AutoConfig.from_pretrained(folder).model_type
    if kind.startswith("clip"):
        model = transformers.CLIPVisionModel.from_pretrained(folder, dtype=torch.float32).eval()
        return model.post_layernorm(model(frames, interpolate_pos_encoding=True).last_hidden_state)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    if kind == "deit":
        return deit_without_distillation(model, frames)
    if kind == "dinov2":
        return model(frames).last_hidden_state
    if kind == "vit_mae":
        # Nothing is masked, and the patches stay in their order.
        model.config.mask_ratio = 0.0
        num_patches = (frames.shape[-2] // model.config.patch_size) * (frames.shape[-1] // model.config.patch_size)
        noise = torch.arange(num_patches).expand(len(frames), -1)
        return model(frames, noise=noise, interpolate_pos_encoding=True).last_hidden_state
    return model(frames, interpolate_pos_encoding=True).last_hidden_state


def deit_without_distillation(model, frames: torch.Tensor) -> torch.Tensor:
    states = model.embeddings(frames, interpolate_pos_encoding=True)
    states = torch.cat([states[:, :1], states[:, 2:]], dim=1)
    for layer in model.layers:
        states = layer(states)
    return model.layernorm(states)


def bare_model(folder: str, **kwargs) -> MAAVTModel:
    """MA-AVT without learned tokens: its video stream is the backbone."""
    return MAAVTModel.from_pretrained(folder, **BARE, **kwargs).eval()


def all_close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


# ---- MA-AVT


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_the_family(family, tmp_path):
    folder = save_family(family, tmp_path / "stock")
    model = bare_model(folder)
    model.save_pretrained(tmp_path / "saved")
    again = MAAVTModel.from_pretrained(tmp_path / "saved").eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for height, width in ((24, 24), (32, 32), (20, 36)):
            frames = torch.randn(2, 3, height, width, generator=generator)
            expected = family_features(folder, frames)
            assert expected.std() > 0.1 and expected.shape[1] == 1 + height * width // 16
            all_close(model(frames[:, None]).last_hidden_state, expected)
            all_close(again(frames[:, None]).last_hidden_state, expected)
    assert model.config.vision_config.model_type == "vit"
    assert again.config.vision_config.to_dict() == model.config.vision_config.to_dict()
    assert not any(parameter.requires_grad for parameter in model.embeddings.parameters())


# ---- DeepAVFusion


def blocks_without_class_token(folder: str, frames: torch.Tensor) -> torch.Tensor:
    """`[N, P, D]`: the family's own blocks on its own patch embeddings, without class token."""
    kind = transformers.AutoConfig.from_pretrained(folder).model_type
    if kind.startswith("clip"):
        model = transformers.CLIPVisionModel.from_pretrained(folder).eval()
        states = model.pre_layrnorm(model.embeddings(frames, interpolate_pos_encoding=True)[:, 1:])
        return model.post_layernorm(model.encoder(states).last_hidden_state)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    if kind == "dinov2":
        return model.layernorm(model.encoder(model.embeddings(frames)[:, 1:]).last_hidden_state)
    if kind == "vit_mae":
        states = model.embeddings.patch_embeddings(frames)
        states = states + model.embeddings.interpolate_pos_encoding(states, *frames.shape[-2:])[:, 1:]
    else:
        num_tokens = 1 + (kind == "deit")
        states = model.embeddings(frames, interpolate_pos_encoding=True)[:, num_tokens:]
    for layer in model.layers:
        states = layer(states)
    return model.layernorm(states)


@pytest.mark.parametrize("family", [name for name in FAMILIES if "without qkv" not in name])
def test_both_branches_of_deepavfusion_are_the_family(family, tmp_path):
    folder = save_family(family, tmp_path / "stock")
    generator = torch.Generator().manual_seed(1)
    for size in (24, 32):
        fields = {"image_size": size, "num_mel_bins": 24, "audio_num_frames": 32, "fusion_layers": []}
        model = deepavfusion_from_vit(folder, **fields).eval()
        frames = torch.randn(2, 3, size, size, generator=generator)
        spectrogram = torch.randn(2, 24, 32, generator=generator)
        with torch.no_grad():
            outputs = model(frames[:, None], spectrogram[:, None])
            all_close(outputs.image_last_hidden_state, blocks_without_class_token(folder, frames))
            repeated = spectrogram[:, None].expand(-1, 3, -1, -1)
            all_close(outputs.audio_last_hidden_state, blocks_without_class_token(folder, repeated))
    model.save_pretrained(tmp_path / "saved")
    again = DeepAVFusionModel.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        all_close(again(frames[:, None]).image_last_hidden_state, outputs.image_last_hidden_state)
    assert again.config.pre_norm == family.startswith("clip")


def test_patches_of_14_pixels_fit_deepavfusion(tmp_path):
    folder = save_family("dinov2", tmp_path / "stock", patch_size=14, image_size=56)
    model = deepavfusion_from_vit(folder, fusion_layers=[0]).eval()
    assert (model.config.num_mel_bins, model.config.audio_num_frames) == (126, 182)
    with torch.no_grad():
        outputs = model(torch.randn(1, 1, 3, 224, 224), torch.randn(1, 1, 128, 192))
    assert outputs.image_last_hidden_state.shape[1] == 16 * 16 and outputs.audio_last_hidden_state.shape[1] == 9 * 13


# ---- patches, sizes, learned tokens, numbers


def test_patches_of_14_pixels_at_two_sizes(tmp_path):
    """The position table is that of 518 pixels; frames of 224 and 518 pixels."""
    folder = save_family("dinov2", tmp_path / "stock", patch_size=14, image_size=518)
    model = bare_model(folder)
    generator = torch.Generator().manual_seed(1)
    for size in (224, 518):
        frames = torch.randn(1, 3, size, size, generator=generator)
        with torch.no_grad():
            all_close(model(frames[:, None]).last_hidden_state, family_features(folder, frames))


@pytest.mark.parametrize("prompt_start_layer", [0, 1])
def test_learned_tokens_do_not_pass_the_norm_before_the_blocks(prompt_start_layer, tmp_path):
    folder = save_family("clip", tmp_path / "stock")
    fields = {"num_labels": 3, "prompt_start_layer": prompt_start_layer, "contrastive_dim": 8}
    model = MAAVTForAudioVisualClassification.from_pretrained(folder, **fields).eval()
    trunk = model.maavt
    frames = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    tokens = trunk.prompt()
    with torch.no_grad():
        states = trunk.embeddings(frames, tokens.class_token, tokens.background)
        stock = transformers.CLIPVisionModel.from_pretrained(folder).eval()
        all_close(states[:, :37], stock.pre_layrnorm(stock.embeddings(frames)))
        all_close(states[:, 37:], tokens.background.expand(2, 1, -1))
    assert not any(parameter.requires_grad for parameter in trunk.embeddings.parameters())
    outputs = model(frames[:, None], torch.randn(2, 1, 24, 32), labels=torch.tensor([0, 1]))
    outputs.loss.backward()
    assert trunk.prompt.background_token.grad.abs().sum() > 0


@pytest.mark.parametrize("family", ["dinov2", "clip"])
def test_conversion_in_other_dtypes(family, tmp_path):
    """LayerScale is multiplied in float32, and rounded once."""
    folder = save_family(family, tmp_path / "stock")
    exact = bare_model(folder, dtype=torch.float32).state_dict()
    transformers.AutoModel.from_pretrained(folder, dtype=torch.float16).save_pretrained(tmp_path / "half")
    rounded = {
        name: value.half().float() for name, value in load_file(tmp_path / "stock" / "model.safetensors").items()
    }
    save_file(rounded, tmp_path / "stock" / "model.safetensors", {"format": "pt"})
    exact_of_half = bare_model(folder, dtype=torch.float32).state_dict()
    again = bare_model(str(tmp_path / "half"), dtype=torch.float32).state_dict()
    for name, value in exact_of_half.items():
        assert torch.equal(again[name], value), name
    half = bare_model(str(tmp_path / "half"))
    assert half.encoder.layers[0].mlp.fc2.weight.dtype == torch.float16
    bfloat = bare_model(folder, dtype=torch.bfloat16)
    for name in ("encoder.layers.1.mlp.fc2.weight", "encoder.layers.1.attention.o_proj.bias"):
        assert torch.equal(half.state_dict()[name], exact_of_half[name].half())
        assert torch.equal(bfloat.state_dict()[name], exact_of_half[name].bfloat16())
        torch.testing.assert_close(exact[name], exact_of_half[name], atol=2e-3, rtol=2e-3)


def test_a_tuned_model_and_its_config_keep_the_backbone(tmp_path):
    """The config of one backbone refuses another family with the same sizes."""
    clip = save_family("clip_vision_model", tmp_path / "clip")
    vit = save_family("vit", tmp_path / "vit")
    config = MAAVTForAudioVisualClassification.from_pretrained(clip, num_labels=3).config
    again = MAAVTForAudioVisualClassification.from_pretrained(clip, config=config)
    assert again.config.vision_config.pre_norm and again.config.vision_config.hidden_act == "quick_gelu"
    with pytest.raises(ValueError, match=r"vit: the checkpoint's hidden_act is gelu, .* is quick_gelu"):
        MAAVTForAudioVisualClassification.from_pretrained(vit, config=config)


# ---- counted weights


def test_what_is_dropped_is_said(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        bare_model(save_family("deit", tmp_path / "stock"))
        assert "stock: the distillation token is dropped" in caplog.text
        caplog.clear()
        bare_model(save_family("vit", tmp_path / "plain"))
    assert "token is dropped" not in caplog.text


@pytest.mark.parametrize(
    ("family", "part"),
    [
        ("vit", "layers.1.attention."),
        ("dinov2", "layer_scale2"),
        ("clip_vision_model", "pre_layrnorm"),
        ("clip", "vision_model.encoder.layers.2.mlp"),
        ("vit_mae", "embeddings.cls_token"),
    ],
)
def test_an_incomplete_checkpoint_is_refused(family, part, tmp_path):
    folder = save_family(family, tmp_path / "stock")
    file = tmp_path / "stock" / "model.safetensors"
    weights = load_file(file)
    kept = {name: value for name, value in weights.items() if part not in name.replace("encoder.layer.", "layers.")}
    assert len(kept) < len(weights)
    save_file(kept, file, {"format": "pt"})
    for load in (MAAVTModel.from_pretrained, deepavfusion_from_vit):
        with pytest.raises(ValueError, match=r"stock: the checkpoint lacks \d+ weights"):
            load(folder)


def test_a_config_of_other_sizes_is_refused_even_where_sizes_may_differ(tmp_path):
    """`ignore_mismatched_sizes` is for a new class head. It must not leave a part of the trunk random."""
    folder = save_family("vit", tmp_path / "stock")
    config = bare_model(folder).config
    config.vision_config.num_channels = 1
    with pytest.raises(ValueError, match="not loaded .*embeddings.patch_embeddings.projection.weight"):
        MAAVTModel.from_pretrained(folder, config=config, ignore_mismatched_sizes=True)


# ---- refused families


@pytest.mark.parametrize(
    ("model_type", "fields", "reason"),
    [
        ("siglip", {}, "no class token"),
        ("siglip2_vision_model", {}, "no class token"),
        ("ijepa", {}, "no class token"),
        ("dinov3_vit", {}, "rotations"),
        ("dinov2_with_registers", {}, "register tokens"),
        ("dinov2", {"use_swiglu_ffn": True}, "SwiGLU"),
        ("swinv2", {}, "windows"),
        ("beit", {}, "biases"),
        ("bert", {}, "no vision transformer"),
        (None, {}, "no vision transformer"),
    ],
)
def test_other_families_are_refused_in_one_line(model_type, fields, reason, tmp_path):
    if model_type is not None:
        fields = {"model_type": model_type, **fields}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    for load in (MAAVTForAudioVisualClassification.from_pretrained, MAAVTModel.from_pretrained, deepavfusion_from_vit):
        with pytest.raises(ValueError, match=reason) as error:
            load(str(tmp_path))
        text = str(error.value)
        assert f"model_type '{model_type}' is not supported" in text and "\n" not in text
        assert all(family in text for family in BACKBONES)


# ---- processors


IMAGE_PROCESSORS = {
    "vit": ("ViTImageProcessor", {"resample": 2}, 224),
    "deit": ("DeiTImageProcessor", {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}, 224),
    "dinov2": ("BitImageProcessor", {"size": {"shortest_edge": 256}, "image_mean": [0.485, 0.456, 0.406]}, 224),
    "vit_mae": ("ViTImageProcessor", {"image_mean": [0.485, 0.456, 0.406], "resample": 3}, 224),
    "clip": ("CLIPImageProcessor", {"crop_size": {"height": 336, "width": 336}, "size": {"shortest_edge": 336}}, 336),
}


@pytest.mark.parametrize("family", IMAGE_PROCESSORS)
@pytest.mark.parametrize("processor_class", [MAAVTProcessor, DeepAVFusionProcessor])
def test_frames_are_normalized_as_the_family_does(family, processor_class, tmp_path):
    class_name, fields, size = IMAGE_PROCESSORS[family]
    images = getattr(transformers, class_name)(**fields)
    images.save_pretrained(tmp_path)
    video = processor_class.from_backbone(str(tmp_path)).video_processor
    assert list(video.image_mean) == list(images.image_mean) and list(video.image_std) == list(images.image_std)
    assert int(video.resample) == int(images.resample) and video.size["height"] == video.size["width"] == size
    # A frame of the backbone's size is neither resized nor cropped: the pixels have to be equal.
    frame = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = video(frame, do_sample_frames=False, return_tensors="pt").pixel_values_videos[0]
    expected = images(frame[0], do_resize=False, return_tensors="pt").pixel_values
    torch.testing.assert_close(pixels, torch.as_tensor(expected), atol=1e-5, rtol=1e-5)


def test_old_and_new_files_of_clip(tmp_path):
    """The Hub's CLIP has sizes as numbers; what Transformers 5 saves is one file for the whole processor."""
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224, "resample": 3}
    old |= {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "do_center_crop": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    video = MAAVTProcessor.from_backbone(str(tmp_path)).video_processor
    assert video.size["height"] == 224 and list(video.image_mean) == [0.48, 0.46, 0.41]

    (tmp_path / "preprocessor_config.json").unlink()
    images = transformers.CLIPImageProcessor(image_mean=[0.1, 0.2, 0.3]).to_dict()
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"processor_class": "CLIPProcessor", "image_processor": images})
    )
    assert list(MAAVTProcessor.from_backbone(str(tmp_path)).video_processor.image_mean) == [0.1, 0.2, 0.3]


def test_the_recipe_builds_the_processor_of_a_clip_folder(tmp_path):
    """A folder that Transformers 5 wrote holds a processor_config.json, which is not MA-AVT's."""
    images = transformers.CLIPImageProcessor(image_mean=[0.1, 0.2, 0.3])
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"image_processor": images.to_dict(), "image_processor_type": "CLIPImageProcessor"})
    )
    save_family("clip", tmp_path)
    data = SimpleNamespace(processor={"video_processor": {"size": {"height": 28, "width": 28}}}, num_frames=2)
    recipe = SimpleNamespace(model=SimpleNamespace(model_name_or_path=str(tmp_path), revision=None), data=data)
    video = build_processor(recipe).video_processor
    assert video.size["height"] == 28 and list(video.image_mean) == [0.1, 0.2, 0.3]


# ---- real weights


@pytest.mark.parametrize(("name", "sizes"), [("deit_tiny", (224, 192)), ("dinov2_small", (224, 280))])
def test_real_weights(name, sizes, shared_path, tmp_path):
    folder = str(shared_path(f"weights/{name}"))
    model = bare_model(folder, dtype=torch.float32)
    video = MAAVTProcessor.from_backbone(folder).video_processor
    frames = torch.randint(0, 256, (1, 3, 300, 300), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for size in sizes:
        pixels = video(frames, size={"height": size, "width": size}, do_sample_frames=False).pixel_values_videos
        with torch.no_grad():
            actual = model(torch.as_tensor(pixels)).last_hidden_state
            expected = family_features(folder, torch.as_tensor(pixels)[0])
        # In units of the features, which reach 8 in DINOv2.
        assert (actual - expected).abs().max() < 1e-5 * expected.abs().max()
