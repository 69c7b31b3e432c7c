# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Conversion of published files: synthetic ones in that layout, from the literal reference, give equal outputs."""

import argparse

import pytest
import torch
from reference_deepavfusion import Encoder, PreTraining
from tiny_deepavfusion import TINY, all_close, tiny_config, tiny_inputs
from torch import nn
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForVideoClassification

from modeling_deepavfusion.convert_deepavfusion import main


HEADS = '{"num_attention_heads": 4, "decoder_num_attention_heads": 4, "num_mel_bins": 8}'
TOKENS = ["--tokens", "4", "2", "3"]


def convert(*arguments):
    main([str(argument) for argument in arguments])


@pytest.mark.parametrize("fusion_type", ["factorized", "dense", "token"])
@pytest.mark.parametrize("sizes", [(0.5, 1.5), (1.0, 4.0)], ids=["small", "large"])
def test_encoder(tmp_path, fusion_type, sizes):
    torch.manual_seed(0)
    fields = {"fusion_attention_ratio": sizes[0], "fusion_mlp_ratio": sizes[1], "fusion_layers": [0, 2]}
    config = tiny_config(fusion_type=fusion_type, **fields)
    reference = Encoder(config).eval()
    torch.save({f"module.{name}": value for name, value in reference.state_dict().items()}, tmp_path / "in.pth")
    convert(tmp_path / "in.pth", tmp_path / "out", "--model_config", HEADS, *TOKENS)
    model = AutoModel.from_pretrained(tmp_path / "out").eval()
    found = {name: getattr(model.config, name) for name in TINY if not name.startswith(("decoder", "num_labels"))}
    assert found == {name: getattr(config, name) for name in found}
    inputs = tiny_inputs()
    with torch.no_grad():
        expected = reference(inputs["pixel_values_videos"][:, 0], inputs["input_features"])
        outputs = model(**inputs)
    for name, states in zip(("image", "audio", "fusion"), expected, strict=True):
        all_close(outputs[f"{name}_last_hidden_state"], states, 2e-5)


def test_pretraining_model(tmp_path, capsys):
    torch.manual_seed(0)
    reference = PreTraining(tiny_config()).eval()
    content = {"state_dict": reference.state_dict(), "epoch": 199, "args": argparse.Namespace(lr=1e-4)}
    torch.save(content, tmp_path / "in.pth")
    convert(tmp_path / "in.pth", tmp_path / "out", "--model_config", HEADS, *TOKENS)
    assert "nothing dropped" in capsys.readouterr().out
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "out").eval()
    image, audio = tiny_inputs().values()
    noise = torch.rand(3, 16), torch.rand(3, 6)
    with torch.no_grad():
        expected = reference(image[:, 0], audio, *noise, (4, 1))
        outputs = model(image, audio, *noise)
    all_close(outputs.image_logits, expected[1], 2e-5)
    all_close(outputs.audio_loss, expected[2], 2e-5)


def test_classifier(tmp_path):
    torch.manual_seed(0)
    encoder = Encoder(tiny_config()).eval()
    weights = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    heads = {name: nn.Linear(32, 5) for name in ("image", "audio", "fusion")}
    norms = {name: nn.BatchNorm1d(32, eps=1e-6, affine=False).eval() for name in heads}
    for name, norm in norms.items():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        weights |= {f"{name}_norm.{key}": value for key, value in norm.state_dict().items()}
        weights |= {f"{name}_head.{key}": value for key, value in heads[name].state_dict().items()}
    torch.save({"model": weights}, tmp_path / "in.pth")
    convert(tmp_path / "in.pth", tmp_path / "out", "--model_config", HEADS, *TOKENS)
    model = AutoModelForVideoClassification.from_pretrained(tmp_path / "out").eval()
    assert model.config.use_pooled_batchnorm and model.config.num_labels == 5
    inputs = tiny_inputs()
    with torch.no_grad():
        states = encoder(inputs["pixel_values_videos"][:, 0], inputs["input_features"])
        logits = [heads[name](norms[name](state.mean(1))) for name, state in zip(heads, states, strict=True)]
        all_close(model(**inputs).logits, sum(logits) / 3, 2e-5)


def mae_file(path, vit: nn.Module, more: dict | None = None) -> None:
    """An MAE checkpoint around one ViT of the reference: class token, positions with its row, a decoder."""
    weights = vit.state_dict()
    width = weights["norm.weight"].shape[0]
    weights["pos_embed"] = torch.cat([torch.zeros(1, 1, width), weights["pos_embed"]], 1)
    weights |= {"cls_token": torch.randn(1, 1, width), "mask_token": torch.randn(1, 1, 8)}
    weights |= {"decoder_embed.weight": torch.randn(8, width), "decoder_blocks.0.norm1.weight": torch.ones(8)}
    torch.save({"model": weights | (more or {}), "args": argparse.Namespace(mask_ratio=0.75)}, path)


def test_start_from_mae_encoders(tmp_path, capsys):
    torch.manual_seed(0)
    reference = Encoder(tiny_config())
    mae_file(tmp_path / "image.pth", reference.image)
    mae_file(tmp_path / "audio.pth", reference.audio)
    fields = '{"num_attention_heads": 4, "image_size": 16, "num_mel_bins": 8, "audio_num_frames": 12}'
    convert(tmp_path / "image.pth", tmp_path / "audio.pth", tmp_path / "out", "--model_config", fields)
    said = capsys.readouterr().out
    assert "dropped: cls_token, decoder_blocks, decoder_embed, mask_token, pos_embed" in said
    assert "new and untrained: fusion tokens" in said
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "out").deepavfusion
    layer, block = model.layers[1], reference.audio.blocks[1]
    assert torch.equal(layer.audio.attention.k_proj.weight, block.attn.qkv.weight[32:64])
    assert torch.equal(model.image_embeddings.projection.weight, reference.image.patch_embed.proj.weight)
    assert model.image_embeddings.position_embeddings.shape == (1, 16, 32)
    assert not torch.equal(model.image_embeddings.position_embeddings, reference.image.pos_embed)


def test_files_that_do_not_fit_are_named(tmp_path):
    torch.manual_seed(0)
    reference = Encoder(tiny_config())
    weights = reference.state_dict()
    with pytest.raises(FileNotFoundError, match="absent.pth"):
        convert(tmp_path / "absent.pth", tmp_path / "out")
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(ValueError, match="text.pth"):
        convert(tmp_path / "text.pth", tmp_path / "out")
    torch.save({"model": weights | {"surprise.weight": torch.ones(1)}}, tmp_path / "more.pth")
    with pytest.raises(KeyError, match="surprise"):
        convert(tmp_path / "more.pth", tmp_path / "out", "--model_config", HEADS, *TOKENS)
    torch.save({name: value for name, value in weights.items() if name != "fusion_norm.bias"}, tmp_path / "less.pth")
    with pytest.raises(RuntimeError, match="fusion_layernorm.bias"):
        convert(tmp_path / "less.pth", tmp_path / "out", "--model_config", HEADS, *TOKENS)
    mae_file(tmp_path / "image.pth", reference.image, {"head.weight": torch.ones(1)})
    with pytest.raises(KeyError, match="head.weight"):
        convert(tmp_path / "image.pth", tmp_path / "out")
    torch.save(weights, tmp_path / "in.pth")
    with pytest.raises(ValueError, match="4 tokens|give it alone"):
        convert(tmp_path / "in.pth", tmp_path / "image.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
    convert(tmp_path / "in.pth", tmp_path / "out", "--model_config", HEADS, *TOKENS)
    with pytest.raises(FileExistsError, match="not empty"):
        convert(tmp_path / "in.pth", tmp_path / "out", "--model_config", HEADS, *TOKENS)
