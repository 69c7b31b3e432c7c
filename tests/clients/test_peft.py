# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""PEFT as people copy it from its pages, around the code of a saved folder: wrap, one step, save, load, equal logits."""

import json

import peft
import pytest
import torch
from peft import AutoPeftModel, LoraConfig, PeftModel, get_peft_model
from tiny_models import TINY_VIT
from transformers import ViTConfig, ViTModel
from transformers.utils import logging as transformers_logging

from modeling_maavt import MAAVTForAudioVisualClassification, check_trainable, export_adapter, maavt_peft_config


SYSTEMS = ("maavt", "deepavfusion")
PROJECTIONS = ["q_proj", "v_proj"]
METHODS = {
    "LoRA": (peft.LoraConfig, {"r": 4}),
    "LoRA all-linear": (peft.LoraConfig, {"r": 4, "target_modules": "all-linear"}),
    "DoRA": (peft.LoraConfig, {"r": 4, "use_dora": True}),
    "rsLoRA": (peft.LoraConfig, {"r": 4, "use_rslora": True}),
    "biases": (peft.LoraConfig, {"r": 4, "bias": "all"}),
    "biases of LoRA": (peft.LoraConfig, {"r": 4, "bias": "lora_only"}),
    "PiSSA": (peft.LoraConfig, {"r": 4, "init_lora_weights": "pissa"}),
    "AdaLoRA": (peft.AdaLoraConfig, {"total_step": 10}),
    "FourierFT": (peft.FourierFTConfig, {"n_frequency": 10}),
    "IA3": (peft.IA3Config, {"target_modules": ["k_proj", "v_proj", "fc2"], "feedforward_modules": ["fc2"]}),
    "LoHa": (peft.LoHaConfig, {"r": 4}),
    "LoKr": (peft.LoKrConfig, {"r": 4}),
    "OFT": (peft.OFTConfig, {"oft_block_size": 8}),
    "BOFT": (peft.BOFTConfig, {"boft_block_size": 8}),
    "VeRA": (peft.VeraConfig, {"r": 8}),
    "LayerNorm": (peft.LNTuningConfig, {"target_modules": r".*layernorm.*"}),
    "patch convolution": (peft.LoraConfig, {"r": 4, "target_modules": ["projection"]}),
}


def inputs(system: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    spectrogram = {"maavt": (1, 32, 48), "deepavfusion": (1, 16, 16)}[system]
    return {
        "pixel_values_videos": torch.randn(3, 1, 3, 32, 32, generator=generator),
        "input_features": torch.randn(3, *spectrogram, generator=generator),
    }


def logits(model, system="maavt"):
    with torch.no_grad():
        return model.eval()(**inputs(system)).logits


def one_step(model, system):
    """Two: AdaLoRA and LoRA start with a factor that is zero."""
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    for _ in range(2):
        model.train()(**inputs(system), labels=torch.arange(3)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("method", list(METHODS))
def test_a_method_is_trained_saved_and_loaded(remote, folders, tmp_path, monkeypatch, system, method):
    # BOFT tries to build an extension, and would wait for the lock of a build that was killed.
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    folder = getattr(folders, system)
    config_class, options = METHODS[method]
    options = {"target_modules": PROJECTIONS, **options}
    torch.manual_seed(0)
    model = remote(folder)
    before = logits(model, system)
    model = get_peft_model(model, config_class(**options))
    one_step(model, system)
    after = logits(model, system)
    assert (after - before).abs().max() > 1e-5, "training changed nothing"
    if system == "maavt":
        check_trainable(model)  # refuses what would not be saved
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(remote(folder), tmp_path)
    torch.testing.assert_close(logits(loaded, system), after, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("task", [task.value for task in peft.TaskType])
def test_any_task_type_trains(remote, folders, tmp_path, system, task):
    folder = getattr(folders, system)
    model = get_peft_model(remote(folder), LoraConfig(r=4, target_modules=PROJECTIONS, task_type=task))
    one_step(model, system)
    after = logits(model, system)
    assert (after - logits(remote(folder), system)).abs().max() > 1e-5
    if system == "maavt":
        assert check_trainable(model)["lora"] > 0
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(remote(folder), tmp_path)
    torch.testing.assert_close(logits(loaded, system), after, atol=1e-6, rtol=0)
    if task in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        with pytest.raises((AttributeError, TypeError), match="generat"):
            model.generate(**inputs(system))


@pytest.mark.parametrize("method", [peft.PromptTuningConfig, peft.PrefixTuningConfig, peft.PromptEncoderConfig])
def test_prompts_of_text_models_are_refused(remote, folders, method):
    for system in SYSTEMS:
        with pytest.raises((ValueError, AttributeError, KeyError)):  # of PEFT, for lack of word embeddings
            get_peft_model(remote(getattr(folders, system)), method(num_virtual_tokens=4, task_type="SEQ_CLS"))


def test_arguments_that_peft_passes_on_are_accepted(remote, folders):
    for system in SYSTEMS:
        remote(getattr(folders, system))(**inputs(system), attention_mask=None, inputs_embeds=None, return_dict=True)


@pytest.fixture
def vit(tmp_path):
    torch.manual_seed(0)
    ViTModel(ViTConfig(**TINY_VIT), add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def test_new_weights_that_an_adapter_leaves_out_are_named(vit, tmp_path, warned):
    options = {"num_labels": 3, "contrastive_dim": 16, "match_dim": 16}
    model = MAAVTForAudioVisualClassification.from_pretrained(vit, **options)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=PROJECTIONS))
    model.save_pretrained(tmp_path / "adapter")
    line = next(record.message for record in warned.records if "random at every load" in record.message)
    assert "prompt" in line and "match_head" in line and "\n" not in line
    warned.clear()
    transformers_logging.warning_once.cache_clear()
    assert set(check_trainable(model)) == {"lora", "total"}
    assert "random at every load" in warned.text
    # Nothing is lost where all modules are named, or where the base is a saved MA-AVT.
    warned.clear()
    transformers_logging.warning_once.cache_clear()
    model = MAAVTForAudioVisualClassification.from_pretrained(vit, **options)
    model.save_pretrained(tmp_path / "saved")
    get_peft_model(model, maavt_peft_config(model)).save_pretrained(tmp_path / "all")
    model = MAAVTForAudioVisualClassification.from_pretrained(tmp_path / "saved")
    get_peft_model(model, LoraConfig(target_modules=PROJECTIONS)).save_pretrained(tmp_path / "own")
    assert "random at every load" not in warned.text


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_head_for_other_classes_that_an_adapter_leaves_out_is_named(remote, folders, tmp_path, warned, system):
    """Its weights are new, although the base is a saved model: another load draws others."""
    heads = {"maavt": ["classifier"], "deepavfusion": [f"{name}_classifier" for name in ("image", "audio", "fusion")]}
    new_classes = {"num_labels": 7, "ignore_mismatched_sizes": True}
    for saved, modules in (("without", None), ("with", heads[system])):
        warned.clear()
        transformers_logging.warning_once.cache_clear()
        model = remote(getattr(folders, system), **new_classes)
        model = get_peft_model(model, LoraConfig(r=4, target_modules=PROJECTIONS, modules_to_save=modules))
        after = logits(model, system)
        model.save_pretrained(tmp_path / saved)
        loaded = PeftModel.from_pretrained(remote(getattr(folders, system), **new_classes), tmp_path / saved)
        lines = [record.message for record in warned.records if "random at every load" in record.message]
        if modules is None:
            assert heads[system][0] in lines[0] and "\n" not in lines[0] and len(lines) == 1
            assert (logits(loaded, system) - after).abs().max() > 1e-3  # what the line is about
        else:
            assert not lines
            torch.testing.assert_close(logits(loaded, system), after, atol=1e-6, rtol=0)


def test_check_trainable_counts_other_methods(remote, folders):
    model = MAAVTForAudioVisualClassification.from_pretrained(folders.maavt)
    model = get_peft_model(model, peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[]))
    assert check_trainable(model) == {"ia3": 3 * 64, "total": 3 * 64}


def test_an_exported_adapter_is_loaded_by_name(folders, tmp_path):
    """AutoPeftModel imports `transformers` alone, whatever the machine that has saved the adapter."""
    model = MAAVTForAudioVisualClassification.from_pretrained(folders.maavt)
    model = get_peft_model(model, maavt_peft_config(model, lora_rank=4))
    one_step(model, "maavt")
    export_adapter(model, tmp_path)
    mapping = json.loads((tmp_path / "adapter_config.json").read_text())["auto_mapping"]
    assert mapping == {"base_model_class": "AutoModelForVideoClassification", "parent_library": "transformers"}
    # The base is loaded without the config beside the adapter: that its tokens are folded has to be said.
    folded = {"token_self_attention": False, "contrastive": None}
    loaded = AutoPeftModel.from_pretrained(tmp_path, trust_remote_code=True, **folded)
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-5, rtol=0)


def test_add_adapter_works_or_states_its_bound(remote, folders):
    model = remote(folders.maavt)
    config = LoraConfig(r=4, target_modules=PROJECTIONS)
    try:
        model.add_adapter(config)
    except ValueError as error:  # transformers 5.24 beside an older PEFT
        assert "version >= 0.22" in str(error) and peft.__version__ < "0.22"
        return
    assert all("lora_" in name for name, weight in model.named_parameters() if weight.requires_grad)
