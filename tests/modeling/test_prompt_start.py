# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokens that enter at a later block: what stays frozen, what can be kept, and that both ways give the same."""

import pytest
import torch
from clip_factory import numbered_frames, tone
from peft import get_peft_model
from tiny_models import tiny_config, tiny_inputs, tiny_model
from transformers import ViTConfig, ViTModel

from modeling_maavt import MAAVTForAudioVisualClassification, check_trainable, maavt_peft_config
from processing.data import block_state_cache
from processing.data.block_state_cache import BlockStateCollator, build_block_state_cache
from processing.data.clip_dataset import ClipDataset
from processing.data.clip_tables import build_clip_table
from processing.data.collators import AudioVisualCollator
from processing.data.feature_cache import build_feature_cache
from processing.feature_extraction_maavt import MAAVTFeatureExtractor
from processing.generate.clip_writing import write_clip
from processing.processing_maavt import MAAVTProcessor
from processing.video_processing_maavt import MAAVTVideoProcessor


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
        ({"prompt_start_layer": 1, "lavish_config": {}}, "lavish_config"),
    ):
        with pytest.raises(Exception, match=message):
            tiny_config(**values)


# ---- states on the disk


def test_kept_states_train_the_model_as_clips_do(tmp_path, monkeypatch):
    processor = MAAVTProcessor(
        MAAVTFeatureExtractor(
            sampling_rate=4000, n_fft=256, win_length=256, hop_length=62, num_bins=32, num_frames=32
        ),
        MAAVTVideoProcessor(size={"height": 32, "width": 32}),
    )
    rows = ["file_name,label,group,split"]
    for number in range(6):
        sound = None if number == 5 else tone(0.5, frequency=300 + 60 * number)
        write_clip(tmp_path / f"{number}.mp4", numbered_frames(10 + number)[number:], sound, fps=20)
        rows.append(f"{number}.mp4,c{number % 3},g{number},train")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    tables, _ = build_clip_table(tmp_path, check="none", validation_fraction=0, test_fraction=0, require=("video",))
    features = build_feature_cache(tmp_path / "cache", processor, tables, num_frames=2)
    model = tiny_model(prompt_start_layer=1)
    trunk, calls = model.maavt, []

    def states_of(**inputs):
        calls.append(inputs)
        return trunk.block_states(**inputs)

    block_states = trunk.block_states

    def interrupted(**inputs):
        if len(calls) == 2:
            raise KeyboardInterrupt
        return block_states(**inputs)

    def build():
        return build_block_state_cache(tmp_path / "cache", features, states_of, trunk.block_states_fingerprint())

    with monkeypatch.context() as small_shards:
        small_shards.setattr(block_state_cache, "SHARD_CLIPS", 2)
        small_shards.setattr(trunk, "block_states", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build()
    assert len(calls) == 2 and list((tmp_path / "cache").rglob("*.part*"))
    calls.clear()
    states = build()
    assert len(calls) == 2 and sum(len(inputs["pixel_values_videos"]) for inputs in calls[:1]) == 4  # 2 of 6 were kept
    assert not list((tmp_path / "cache").rglob("*.part*"))
    options = {"training": True, "mismatch_probability": 0.5, "num_frames": 2, "seed": 3, "on_missing": "none"}
    clips = ClipDataset(features.tables["train"], features, **options)
    kept = ClipDataset(states.tables["train"], states, **options)
    expected = AudioVisualCollator()([clips[index] for index in range(6)])
    found = BlockStateCollator()([kept[index] for index in range(6)])
    assert found["video_block_states"].shape == (6, 2, 17, 64) and found["video_block_states"].dtype == torch.bfloat16
    assert found["has_audio"].tolist() == expected["has_audio"].tolist() and not found["has_audio"].all()
    assert found["is_matched"].tolist() == expected["is_matched"].tolist()
    with torch.no_grad():
        torch.testing.assert_close(model(**found).logits, model(**expected).logits, atol=2e-2, rtol=2e-2)

    exact = build_block_state_cache(
        tmp_path / "cache", features, states_of, trunk.block_states_fingerprint(), dtype=torch.float32
    )
    calls.clear()
    whole = BlockStateCollator()([ClipDataset(exact.tables["train"], exact, **options)[index] for index in range(6)])
    with torch.no_grad():
        torch.testing.assert_close(model(**whole).logits, model(**expected).logits, atol=1e-5, rtol=1e-5)

    build()
    assert not calls  # nothing is computed twice
    with torch.no_grad():
        trunk.encoder.layers[0].mlp.fc1.weight.add_(0.1)
    build()
    assert len(calls) == 2  # other weights, other states

    changing = build_feature_cache(tmp_path / "cache", processor, tables, num_frames=2, audio="waveform")
    with pytest.raises(ValueError, match="change from epoch to epoch"):
        build_block_state_cache(tmp_path / "cache", changing, states_of, "0")
