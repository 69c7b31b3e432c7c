# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Every baseline by configuration alone: it trains what it says, saves, and AutoModel reads back the same logits."""

from pathlib import Path

import pytest
import torch
from toy_run import write_backbone, write_clips, write_config
from transformers import AutoModelForVideoClassification

import train as recipe
from modeling_maavt import MAAVTForAudioVisualClassification
from processing.data.clip_dataset import ClipDataset
from training.maavt.model import parameter_counts
from training.trainer.audio_visual_trainer import AudioVisualTrainer


NO_TOKENS = {"num_audio_tokens": 0, "num_shared_tokens": 0, "contrastive": None, "background_mining": False}
BACKBONE = ("embeddings", "encoder", "layernorm")
OURS = ("prompt", "token_attention", "contrastive_head", "classifier", "match_head")
BASELINES = {
    "adapter": ([], OURS, {"lavish_config": None, "contrastive": "blockwise"}),
    "full": (["--tuning", "full"], (*BACKBONE, *OURS), {"freeze_backbone": False}),
    "linear_probe": (["--tuning", "linear_probe"], ("classifier",), NO_TOKENS),
    "lora": (["--tuning", "lora"], ("lora", "classifier"), NO_TOKENS),
    "lavish": (["--tuning", "lavish"], ("lavish_adapters", "classifier"), {**NO_TOKENS, "lavish_config": {}}),
    "no contrast": (
        ["--model_config", "{contrastive: null}"],
        tuple(name for name in OURS if name != "contrastive_head"),
        {"contrastive": None, "num_shared_tokens": 2, "background_mining": True},
    ),
    "no mining": (
        ["--model_config", "{background_mining: false}"],
        tuple(name for name in OURS if name != "match_head"),
        {"background_mining": False, "contrastive": "blockwise"},
    ),
    "audio only": (["--modalities", "audio"], ("prompt", "token_attention", "classifier"), {"contrastive": None}),
    "video only": (["--modalities", "video"], ("prompt", "token_attention", "classifier"), {"contrastive": None}),
    "adapter and LAVISH": (
        ["--model_config", "{lavish_config: {}}"],
        (*OURS, "lavish_adapters"),
        {"lavish_config": {}, "contrastive": "blockwise"},
    ),
    "by label": (
        ["--model_config", "{contrastive_positives: label}", "--class_weights", "balanced"],
        OURS,
        {"contrastive_positives": "label"},
    ),
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> str:
    """The path of the toy run's YAML."""
    folder = tmp_path_factory.mktemp("toy")
    return str(write_config(folder / "toy.yaml", write_clips(folder / "data"), write_backbone(folder / "vit")))


def module_of(name: str) -> str:
    if "lora_" in name:
        return "lora"
    return next(part for part in name.split(".") if part in (*OURS, *BACKBONE, "lavish_adapters"))


@pytest.mark.parametrize("name", BASELINES)
def test_baseline_trains_saves_and_reloads(toy, tmp_path, monkeypatch, name):
    change, trained, fields = BASELINES[name]
    inputs = {"pixel_values_videos": torch.randn(2, 2, 3, 32, 32), "input_features": torch.randn(2, 1, 32, 48)}
    if "only" in name:
        del inputs["pixel_values_videos" if name.startswith("audio") else "input_features"]
    found, pairs = {}, []

    def before(self, *args, **kwargs):
        found["trained"] = {module_of(n) for n, p in self.model.named_parameters() if p.requires_grad}
        found["start"] = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self.train_dataset.set_epoch(1)
        pairs.extend(self.train_dataset.pair(i) for i in range(len(self.train_dataset)))
        return original_train(self, *args, **kwargs)

    def after(directory, model, *args, **kwargs):
        model.eval()
        with torch.no_grad():
            found["logits"] = model(**inputs).logits
        parameters = dict(model.named_parameters())
        found["moved"] = {module_of(n) for n, value in found["start"].items() if not torch.equal(value, parameters[n])}
        found["counts"] = parameter_counts(model)
        return original_save(directory, model, *args, **kwargs)

    original_train, original_save = AudioVisualTrainer.train, recipe.save_outputs
    monkeypatch.setattr(AudioVisualTrainer, "train", before)
    monkeypatch.setattr(recipe, "save_outputs", after)
    results = recipe.main([toy, "--output_dir", str(tmp_path), "--max_steps", "3", "--baseline", "false", *change])

    assert found["trained"] == set(trained)
    assert found["moved"] == set(trained)
    assert results["trainable"] == found["counts"][0]
    mined = "match_head" in trained
    assert any(picture != sound for picture, sound in pairs) == mined  # no pair is torn that nothing learns from
    assert results["arguments"]["mismatch_probability"] == (0.4 if mined else 0.0)
    assert (results["threshold"] is not None) == mined

    again = AutoModelForVideoClassification.from_pretrained(tmp_path / "model").eval()
    assert isinstance(again, MAAVTForAudioVisualClassification)
    for field, value in fields.items():
        assert getattr(again.config, field) == value, field
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, found["logits"], atol=1e-5, rtol=0)
        if (tmp_path / "adapter").exists():
            adapted = MAAVTForAudioVisualClassification.from_pretrained(tmp_path / "adapter").eval()
            torch.testing.assert_close(adapted(**inputs).logits, found["logits"], atol=1e-5, rtol=0)
    assert (tmp_path / "adapter").exists() == (name not in ("full", "linear_probe"))
    for row in results["rows"]:
        assert 0 <= row["top1"] <= 1
    assert {row["input"] for row in results["rows"]} == (
        {name.split()[0]} if "only" in name else {"audio", "video", "both"}
    )


def test_baselines_need_what_they_use(toy):
    with pytest.raises(ValueError, match="tuning: lavish"):
        recipe.main([toy, "--tuning", "lavish", "--modalities", "audio", "--dry_run"])
    with pytest.raises(ValueError, match="lora_rank"):
        recipe.main([toy, "--tuning", "lavish", "--lora_rank", "4", "--dry_run"])


def test_rank_of_the_lora_baseline(toy, tmp_path):
    # two blocks of width 32, query and value, two matrices each; and the classifier of three classes
    head = 3 * 64 + 3
    assert recipe.main([toy, "--tuning", "lora", "--dry_run"])["trainable"] == 2 * 2 * 2 * 32 * 8 + head
    assert (
        recipe.main([toy, "--tuning", "lora", "--lora_rank", "2", "--dry_run"])["trainable"]
        == 2 * 2 * 2 * 32 * 2 + head
    )


def test_class_weights_of_the_recipe(toy, tmp_path, monkeypatch):
    seen = []
    original = AudioVisualTrainer.train

    def remember(self, *args, **kwargs):
        seen.append(self.model.get_base_model().class_weights)
        assert isinstance(self.train_dataset, ClipDataset)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(AudioVisualTrainer, "train", remember)
    run = [toy, "--max_steps", "1", "--baseline", "false"]
    recipe.main([*run, "--output_dir", str(tmp_path / "a"), "--class_weights", "balanced"])
    recipe.main([*run, "--output_dir", str(tmp_path / "b")])
    assert seen[0].tolist() == [1.0, 1.0, 1.0] and seen[1] is None
    assert "class_weights" not in Path(tmp_path / "a" / "model" / "config.json").read_text()
