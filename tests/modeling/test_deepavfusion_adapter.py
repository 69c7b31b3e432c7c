# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion with PEFT, fusion on top of one plain ViT in both branches, and the warning for a missing modality."""

import logging

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_deepavfusion import TINY, all_close, half_of, tiny_inputs, tiny_model
from transformers import (
    ViTConfig,
    ViTModel,
)

from modeling_deepavfusion import (
    DeepAVFusionForAudioVisualClassification,
    DeepAVFusionForPreTraining,
    DeepAVFusionModel,
    deepavfusion_from_vit,
    deepavfusion_peft_config,
)
from modeling_deepavfusion.modeling_deepavfusion import logger


VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 24,
    "patch_size": 4,
}


@pytest.fixture
def stock_vit(tmp_path):
    torch.manual_seed(0)
    ViTModel(ViTConfig(**VIT), add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_adapter_is_trained_saved_loaded_and_merged(tmp_path, lora_rank):
    base = tiny_model(DeepAVFusionForAudioVisualClassification, fusion_layers=[0, 2], use_pooled_batchnorm=True)
    base.save_pretrained(tmp_path / "base")
    start = {name: value.clone() for name, value in base.state_dict().items()}
    model = get_peft_model(base, deepavfusion_peft_config(base, lora_rank)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(3):
        loss = model(**tiny_inputs(seed=step), labels=torch.tensor([0, 3, 1])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = model(**tiny_inputs(seed=9)).logits
        again = DeepAVFusionForAudioVisualClassification.from_pretrained(tmp_path / "base")
        before = again.eval()(**tiny_inputs(seed=9)).logits
        loaded = PeftModel.from_pretrained(again, tmp_path / "adapter").eval()
        all_close(loaded(**tiny_inputs(seed=9)).logits, expected)
        merged = loaded.merge_and_unload()
        all_close(merged(**tiny_inputs(seed=9)).logits, expected)
        merged.save_pretrained(tmp_path / "merged")
        whole = DeepAVFusionForAudioVisualClassification.from_pretrained(tmp_path / "merged").eval()
        all_close(whole(**tiny_inputs(seed=9)).logits, expected)
    assert (before - expected).abs().max() > 0.01
    for name, value in whole.state_dict().items():
        trained = "fusion" in name.removeprefix("deepavfusion.") or not name.startswith("deepavfusion.")
        trained |= lora_rank > 0 and "attention" in name and ("q_proj.weight" in name or "v_proj.weight" in name)
        # keys' biases cancel in a softmax: they have no gradient
        if not trained:
            assert torch.equal(value, start[name]), name
        elif name.endswith(".weight"):
            assert not torch.equal(value, start[name]), name


def test_what_is_trained_of_other_models():
    model = tiny_model(DeepAVFusionForPreTraining)
    wrapped = get_peft_model(model, deepavfusion_peft_config(model, 2))
    trained = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    assert any("image_decoder" in name for name in trained) and any("fusion_tokens" in name for name in trained)
    assert all("lora_" in name for name in trained if ".image.attention" in name or ".audio.attention" in name)
    assert sum(".image.attention" in name for name in trained) == 3 * 2 * 2
    encoder = tiny_model(DeepAVFusionModel)
    assert deepavfusion_peft_config(encoder).modules_to_save == [
        "fusion_tokens",
        *(f"layers.{index}.fusion" for index in range(3)),
        "fusion_layernorm",
    ]
    with pytest.raises(ValueError, match="negative"):
        deepavfusion_peft_config(encoder, -1)
    with pytest.raises(ValueError, match="lora_rank=0"):
        deepavfusion_peft_config(encoder, lora_alpha=4)


def test_both_branches_are_the_vit(stock_vit, tmp_path):
    vit = ViTModel.from_pretrained(stock_vit, add_pooling_layer=False).eval()
    fields = {name: TINY[name] for name in ("num_mel_bins", "audio_num_frames", "fusion_attention_ratio")}
    model = deepavfusion_from_vit(stock_vit, fusion_layers=[], **fields).eval()
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(2, 1, 3, 24, 24, generator=generator)
    sound = torch.randn(2, 1, 8, 12, generator=generator)
    with torch.no_grad():
        states = vit.embeddings(frames[:, 0])[:, 1:]  # there is no class token to read
        for layer in vit.layers:
            states = layer(states)
        found = model(frames, sound)
        all_close(found.image_last_hidden_state, vit.layernorm(states))
        projection = vit.embeddings.patch_embeddings.projection
        states = projection(sound.expand(-1, 3, -1, -1)).flatten(2).transpose(1, 2)
        states = states + model.audio_embeddings.position_embeddings
        for layer in vit.layers:
            states = layer(states)
        all_close(found.audio_last_hidden_state, vit.layernorm(states))
    task = deepavfusion_from_vit(stock_vit, DeepAVFusionForAudioVisualClassification, num_labels=5, **fields).eval()
    assert torch.equal(task.deepavfusion.layers[2].audio.mlp.fc1.weight, vit.layers[2].mlp.fc1.weight)
    task.save_pretrained(tmp_path / "whole")
    again = DeepAVFusionForAudioVisualClassification.from_pretrained(tmp_path / "whole").eval()
    with torch.no_grad():
        all_close(again(frames, sound).logits, task(frames, sound).logits)
    with pytest.raises(ValueError, match="hidden_size"):
        deepavfusion_from_vit(stock_vit, hidden_size=64)


def test_another_kind_of_checkpoint_is_refused(stock_vit):
    """transformers would warn, and give random weights."""
    for model_class in (DeepAVFusionModel, DeepAVFusionForAudioVisualClassification):
        with pytest.raises(ValueError, match="vit: is a checkpoint of type vit. deepavfusion_from_vit"):
            model_class.from_pretrained(stock_vit)


def test_a_vit_without_all_of_its_weights_is_refused(stock_vit, caplog):
    fields = {name: TINY[name] for name in ("num_mel_bins", "audio_num_frames", "fusion_attention_ratio")}
    with caplog.at_level(logging.INFO, logger="modeling_deepavfusion.convert_deepavfusion"):
        deepavfusion_from_vit(stock_vit, **fields)
    assert "vit: 53 tensors to each ViT; dropped: cls_token" in caplog.text
    weights = load_file(stock_vit / "model.safetensors")
    weights = {name: value for name, value in weights.items() if ".1." not in name}
    save_file(weights, stock_vit / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"vit: the checkpoint lacks 16 weights \(layers.1.attention"):
        deepavfusion_from_vit(stock_vit, **fields)


def test_a_missing_modality_is_told_once(caplog):
    model, inputs = tiny_model(DeepAVFusionModel), tiny_inputs()
    type(logger).warning_once.cache_clear()
    everywhere = torch.ones(3, dtype=torch.bool)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        model(**inputs, has_video=everywhere, has_audio=everywhere)
        model.train()(**half_of(inputs, "input_features"))
        assert not caplog.records
        model.eval()
        for _ in range(2):
            model(**inputs, has_audio=torch.tensor([True, False, True]))
            model(**half_of(inputs, "input_features"))
    assert len(caplog.records) == 1 and "both modalities" in caplog.records[0].getMessage()
