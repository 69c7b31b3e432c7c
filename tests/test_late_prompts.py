# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokens that enter at a later block: what stays frozen, what can be kept, and that both ways give the same."""

import pytest
import torch
from peft import get_peft_model
from tiny_models import tiny_config, tiny_inputs, tiny_model
from transformers import ViTConfig, ViTModel

from modeling_maavt import MAAVTForAudioVisualClassification, check_trainable, maavt_peft_config


LABELS = {"labels": torch.tensor([0, 1, 2, 3]), "is_matched": torch.tensor([True, True, True, False])}


def gradients(model, **inputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    outputs = model(**inputs, **LABELS)
    outputs.loss.backward()
    found = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad()
    return outputs, found


@pytest.mark.parametrize("layerwise", [None, "common", "unique"])
def test_kept_states_give_what_frames_give(layerwise):
    model = tiny_model(prompt_start_layer=1, layerwise_tokens=layerwise)
    inputs = tiny_inputs(frames=2)
    video, audio = model.maavt.block_states(**inputs)
    assert video.shape == (4, 2, 17, 64) and audio.shape == (4, 1, 17, 64) and not video.requires_grad
    whole, expected = gradients(model, **inputs)
    kept, found = gradients(model, video_block_states=video, audio_block_states=audio)
    for name in ("logits", "match_logits", "loss", "contrastive_loss_per_block"):
        torch.testing.assert_close(kept[name], whole[name], atol=1e-5, rtol=1e-5)
    assert whole.contrastive_loss_per_block.shape == (2,)  # blocks that see tokens
    assert found.keys() == expected.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4)


def test_blocks_below_are_the_stock_vit_and_have_no_graph(tmp_path):
    vision = {**tiny_config().vision_config.to_dict(), "attn_implementation": "sdpa"}
    torch.manual_seed(0)
    stock = ViTModel(ViTConfig(**vision), add_pooling_layer=False).eval()
    stock.save_pretrained(tmp_path)
    model = MAAVTForAudioVisualClassification.from_pretrained(tmp_path, prompt_start_layer=2, num_labels=5).eval()
    frames = tiny_inputs()["pixel_values_videos"]
    states, _ = model.maavt.block_states(frames)
    expected = stock(frames[:, 0], output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(states[:, 0], expected, atol=1e-5, rtol=1e-5)

    grad_enabled = []
    model.maavt.encoder.layers[1].register_forward_hook(lambda *a: grad_enabled.append(a[2][0].requires_grad))
    model.maavt.encoder.layers[2].register_forward_hook(lambda *a: grad_enabled.append(a[2][0].requires_grad))
    peft_model = get_peft_model(model, maavt_peft_config(model))
    assert "backbone" not in check_trainable(peft_model)
    peft_model(**tiny_inputs(), **LABELS).loss.backward()
    assert grad_enabled == [False, True]
    assert all(p.grad is not None for p in peft_model.parameters() if p.requires_grad)


def test_a_checkpoint_keeps_where_tokens_enter(tmp_path):
    model = tiny_model(prompt_start_layer=2)
    model.save_pretrained(tmp_path)
    again = MAAVTForAudioVisualClassification.from_pretrained(tmp_path).eval()
    assert again.config.prompt_start_layer == 2
    torch.testing.assert_close(again(**tiny_inputs()).logits, model(**tiny_inputs()).logits)
    folded = tiny_model(prompt_start_layer=2)
    folded.fold_token_attention()
    torch.testing.assert_close(folded(**tiny_inputs()).logits, model(**tiny_inputs()).logits, atol=1e-5, rtol=1e-5)


def test_one_stream_hidden_states_and_errors():
    model = tiny_model(prompt_start_layer=1)
    inputs = tiny_inputs()
    video, audio = model.maavt.block_states(inputs["pixel_values_videos"])
    assert audio is None
    alone = model(pixel_values_videos=inputs["pixel_values_videos"]).logits
    torch.testing.assert_close(model(video_block_states=video).logits, alone, atol=1e-5, rtol=1e-5)
    states = model(**inputs, output_hidden_states=True)
    assert [s.shape[1] for s in states.hidden_states] == [17, 17, 28, 28]
    assert [s.shape[1] for s in states.audio_hidden_states] == [17, 17, 28, 28]

    for options, message in (
        ({"video_block_states": video, **inputs}, "both name the same clips"),
        ({"video_block_states": video, "output_localization": True}, "do not tell their grid"),
        ({"video_block_states": video[0]}, "video_block_states must be"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**options)
    with pytest.raises(ValueError, match="prompt_start_layer above 0"):
        tiny_model()(video_block_states=video)
    for values, message in (
        ({"prompt_start_layer": 3}, "prompt_start_layer=3 is no block of 3"),
        ({"prompt_start_layer": 1, "lavish_adapters": True}, "lavish_adapters"),
    ):
        with pytest.raises(Exception, match=message):
            tiny_config(**values)
