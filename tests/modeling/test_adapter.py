# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""PEFT around MA-AVT: what is trained and saved, LoRA on top, the folded export and how it is refused elsewhere."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_models import TINY_VIT, tiny_config, tiny_inputs
from transformers import AutoConfig, AutoModelForVideoClassification, ViTConfig, ViTModel

from modeling_maavt import (
    MAAVTConfig,
    MAAVTForAudioVisualClassification,
    check_trainable,
    export_adapter,
    maavt_peft_config,
)


@pytest.fixture
def stock_vit(tmp_path):
    torch.manual_seed(0)
    ViTModel(ViTConfig(**TINY_VIT), add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def tuned(stock_vit, lora_rank=0, **config):
    """A PeftModel after a few real training steps."""
    torch.manual_seed(0)
    model = MAAVTForAudioVisualClassification.from_pretrained(
        stock_vit, **{"num_labels": 5, "contrastive_dim": 16, "match_dim": 16, **config}
    )
    model = get_peft_model(model, maavt_peft_config(model, lora_rank=lora_rank)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(3):
        loss = model(
            **tiny_inputs(seed=step), labels=torch.arange(4), is_matched=torch.tensor([True] * 3 + [False])
        ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def stored_parameters(folder) -> int:
    """Parameters in an adapter file, without the buffers: running statistics, and whether tokens are folded."""
    state = load_file(folder / "adapter_model.safetensors")
    buffers = ("_norm.mean", "_norm.square", "_norm.num_updates", "needs_self_attention")
    return sum(value.numel() for name, value in state.items() if not name.endswith(buffers))


def same(first, second, atol=1e-5):
    inputs = tiny_inputs(seed=9)
    with torch.no_grad():
        one, two = first(**inputs), second(**inputs)
    torch.testing.assert_close(one.logits, two.logits, atol=atol, rtol=0)
    torch.testing.assert_close(one.match_logits, two.match_logits, atol=atol, rtol=0)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_only_our_modules_are_trained_and_saved(stock_vit, tmp_path, lora_rank):
    model = tuned(stock_vit, lora_rank)
    counts = check_trainable(model)
    assert set(counts) - {"lora", "total"} == {
        "prompt",
        "token_attention",
        "contrastive_head",
        "classifier",
        "match_head",
    }
    assert counts.get("lora", 0) == lora_rank * (2 * 64) * 2 * 3
    stock = ViTModel.from_pretrained(stock_vit, add_pooling_layer=False)
    base = model.get_base_model().maavt
    for name, value in stock.layernorm.state_dict().items():
        torch.testing.assert_close(base.layernorm.state_dict()[name], value, atol=0, rtol=0)
    model.save_pretrained(tmp_path / "adapter")
    assert stored_parameters(tmp_path / "adapter") == counts["total"]
    base = MAAVTForAudioVisualClassification.from_pretrained(stock_vit, config=model.get_base_model().config)
    same(model, PeftModel.from_pretrained(base, tmp_path / "adapter").eval(), atol=1e-6)


def test_lora_target_patterns_are_refused_without_a_rank(stock_vit):
    model = MAAVTForAudioVisualClassification.from_pretrained(stock_vit)
    with pytest.raises(ValueError, match="lora_rank=0"):
        maavt_peft_config(model, lora_alpha=8)
    with pytest.raises(ValueError, match="negative"):
        maavt_peft_config(model, lora_rank=-1)


def test_check_trainable_finds_what_would_be_lost(stock_vit):
    model = MAAVTForAudioVisualClassification.from_pretrained(stock_vit)
    wrapped = get_peft_model(model, maavt_peft_config(model))
    wrapped.get_base_model().maavt.layernorm.weight.requires_grad = True
    with pytest.raises(ValueError, match="layernorm.weight"):
        check_trainable(wrapped)

    model = MAAVTForAudioVisualClassification.from_pretrained(stock_vit)
    misspelled = maavt_peft_config(model)
    misspelled.modules_to_save = ["prompt", "clasifier"]
    with pytest.raises(ValueError, match="clasifier"):
        check_trainable(get_peft_model(model, misspelled))


def test_names_are_no_endings_of_each_other(stock_vit):
    names = maavt_peft_config(MAAVTForAudioVisualClassification.from_pretrained(stock_vit)).modules_to_save
    assert not [(a, b) for a in names for b in names if a != b and a.endswith(b)]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"layerwise_tokens": "unique"},
        {"token_self_attention": False},
        {"match_head": "linear"},
        {"match_head": "patches"},
        {"contrastive": None},
    ],
)
def test_export_folds_and_keeps_the_logits(stock_vit, tmp_path, config):
    model = tuned(stock_vit, lora_rank=2, **config)
    export_adapter(model, tmp_path / "release")
    saved = json.loads((tmp_path / "release" / "config.json").read_text())
    assert saved["token_self_attention"] is False and saved["contrastive"] is None
    stored = load_file(tmp_path / "release" / "adapter_model.safetensors")
    assert not [name for name in stored if "contrastive" in name or "token_attention" in name]
    config = AutoConfig.from_pretrained(tmp_path / "release")
    base = MAAVTForAudioVisualClassification.from_pretrained(stock_vit, config=config)
    same(model, PeftModel.from_pretrained(base, tmp_path / "release").eval())
    same(model, MAAVTForAudioVisualClassification.from_pretrained(tmp_path / "release").eval())
    same(model, AutoModelForVideoClassification.from_pretrained(tmp_path / "release", config=config).eval())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("modules", [None, ["classifier"], ["token_attention"]])
def test_export_folds_tokens_that_the_adapter_does_not_train(stock_vit, tmp_path, modules):
    tuned(stock_vit).merge_and_unload().save_pretrained(tmp_path / "saved")
    model = MAAVTForAudioVisualClassification.from_pretrained(tmp_path / "saved")
    adapter = LoraConfig(target_modules=["q_proj", "v_proj", "qkv"], init_lora_weights=False, modules_to_save=modules)
    if modules == ["classifier"]:
        adapter = maavt_peft_config(model, modules=modules)
    model = get_peft_model(model, adapter).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.5)
    export_adapter(model, tmp_path / "release")
    same(model, MAAVTForAudioVisualClassification.from_pretrained(tmp_path / "release").eval())


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_model_loaded_from_an_adapter_is_saved_as_one(stock_vit, tmp_path, lora_rank):
    model = MAAVTForAudioVisualClassification.from_pretrained(stock_vit, num_labels=5)
    tuned = get_peft_model(model, maavt_peft_config(model, lora_rank=lora_rank))
    export_adapter(tuned, tmp_path / "release")
    model = MAAVTForAudioVisualClassification.from_pretrained(tmp_path / "release").eval()
    expected = model(**tiny_inputs()).logits
    model.save_pretrained(tmp_path / "again")
    again = MAAVTForAudioVisualClassification.from_pretrained(tmp_path / "again").eval()
    torch.testing.assert_close(again(**tiny_inputs()).logits, expected)


def test_a_folder_with_a_model_and_its_adapter(tmp_path):
    """The Auto class, as the class itself, loads both, once."""
    model = MAAVTForAudioVisualClassification(tiny_config())
    model.save_pretrained(tmp_path)
    model = MAAVTForAudioVisualClassification.from_pretrained(tmp_path)
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"])).eval()
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    expected = tuned(**tiny_inputs()).logits
    tuned.save_pretrained(tmp_path)
    for loaded in (MAAVTForAudioVisualClassification, AutoModelForVideoClassification):
        found = loaded.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(found(**tiny_inputs()).logits, expected)


def test_a_new_module_that_is_folded_away_needs_no_saving(stock_vit, tmp_path):
    model = MAAVTForAudioVisualClassification.from_pretrained(stock_vit, num_labels=5)
    model.fold_token_attention()
    get_peft_model(model, maavt_peft_config(model)).save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()


def test_weights_alone_load_with_a_config(tmp_path):
    """As `accelerator.save_model` leaves them: without a config.json."""
    model = MAAVTForAudioVisualClassification(tiny_config()).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    loaded = MAAVTForAudioVisualClassification.from_pretrained(tmp_path, config=model.config).eval()
    assert torch.equal(loaded(**tiny_inputs()).logits, model(**tiny_inputs()).logits)
    with pytest.raises(OSError, match="config.json"):
        MAAVTForAudioVisualClassification.from_pretrained(tmp_path)


def test_folded_adapter_is_refused_by_an_unfolded_base(stock_vit, tmp_path):
    export_adapter(tuned(stock_vit), tmp_path / "release")
    base = MAAVTForAudioVisualClassification.from_pretrained(stock_vit, num_labels=5, contrastive_dim=16, match_dim=16)
    with pytest.raises(ValueError, match=r"config.json\s+beside the adapter"):
        PeftModel.from_pretrained(base, tmp_path / "release")


def test_export_needs_a_named_base_and_a_peft_model(tmp_path):
    model = MAAVTForAudioVisualClassification(tiny_config())
    with pytest.raises(TypeError, match="PeftModel"):
        export_adapter(model, tmp_path / "release")
    with pytest.raises(ValueError, match="base_model_name_or_path is empty"):
        export_adapter(get_peft_model(model, maavt_peft_config(model)), tmp_path / "release")


def test_an_adapter_whose_backbone_was_moved_says_which_file_names_it(stock_vit, tmp_path):
    export_adapter(tuned(stock_vit), tmp_path / "release")
    stock_vit.rename(tmp_path / "moved")
    for load in (MAAVTForAudioVisualClassification.from_pretrained, AutoModelForVideoClassification.from_pretrained):
        with pytest.raises(
            OSError, match=r"adapter_config.json: base_model_name_or_path names the backbone .*vit'.* If it was moved"
        ):
            load(tmp_path / "release")


def test_merged_model_is_a_plain_checkpoint(stock_vit, tmp_path):
    model = tuned(stock_vit, lora_rank=2)
    inputs = tiny_inputs(seed=9)
    expected = model(**inputs).logits
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = AutoModelForVideoClassification.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(**inputs).logits, expected, atol=1e-5, rtol=0)


def test_adapter_without_its_config_is_explained(stock_vit, tmp_path):
    model = tuned(stock_vit)
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises((ValueError, OSError), match="config.json"):
        MAAVTForAudioVisualClassification.from_pretrained(tmp_path / "adapter")


@pytest.mark.parametrize("match_head", ["linear", "bilinear"])
def test_sizes_at_vit_base(tmp_path, match_head):
    """17.03 M trained with the published match head, 0.49 M of it exported; at most 0.65 M and 2.7 MB with the default."""
    torch.manual_seed(0)
    ViTModel(ViTConfig(layer_norm_eps=1e-6), add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    model = MAAVTForAudioVisualClassification.from_pretrained(tmp_path / "vit", num_labels=309, match_head=match_head)
    backbone = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert backbone == pytest.approx(85.8e6, rel=1e-3)
    model = get_peft_model(model, maavt_peft_config(model))
    counts = check_trainable(model)
    assert counts["contrastive_head"] == 9_449_472 and counts["token_attention"] == 7_087_104
    assert counts["classifier"] == 474_933 and counts["prompt"] == 11_520 + 768 + 768
    head = {"linear": 1_537, "bilinear": 2 * (768 * 64 + 64) + 64 * 64 + 64 + 65}[match_head]
    assert counts["match_head"] == head
    assert counts["total"] == 17_026_102 - 1_537 + head
    export_adapter(model, tmp_path / "release")
    file = tmp_path / "release" / "adapter_model.safetensors"
    size, exported = file.stat().st_size, stored_parameters(tmp_path / "release")
    assert exported == 489_526 - 1_537 + head
    assert exported <= 0.65e6 and size <= 2.7e6


def test_default_config_counts_match_the_documentation():
    model = MAAVTForAudioVisualClassification._from_config(MAAVTConfig(num_labels=2), dtype=torch.bfloat16)
    assert frozenset(model.trainable_modules()) == {
        "prompt",
        "token_attention",
        "contrastive_head",
        "classifier",
        "match_head",
    }
