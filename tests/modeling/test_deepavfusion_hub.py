# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion travels to a Hub and into a process that has never seen its package; so do folders on a disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mock_hub import MockHub
from tiny_deepavfusion import all_close, tiny_inputs, tiny_model

from modeling_deepavfusion import DeepAVFusionForAudioVisualClassification, DeepAVFusionForPreTraining


REPOSITORY = Path(__file__).resolve().parents[2]

PUSH = """
import sys
from transformers import AutoModelForPreTraining, AutoModelForVideoClassification
import modeling_deepavfusion
AutoModelForVideoClassification.from_pretrained(sys.argv[1] + "/classifier").push_to_hub("tester/classifier")
AutoModelForPreTraining.from_pretrained(sys.argv[1] + "/pretraining").push_to_hub("tester/pretraining")
"""

# an editable install puts the repository on the path through site-packages: its packages are hidden
LOAD = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_deepavfusion", "modeling_maavt", "processing", "training"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
import torch
from transformers import (
    AutoModel, AutoModelForAudioClassification, AutoModelForPreTraining, AutoModelForVideoClassification
)
inputs = torch.load(sys.argv[1], weights_only=True)
noise = {name: inputs.pop(name) for name in ("image_noise", "audio_noise")}
trust = {"trust_remote_code": True}
outputs = {}
with torch.inference_mode():
    for key, source in (("first", sys.argv[3]), ("second", sys.argv[4])):
        base = AutoModel.from_pretrained(source, **trust).eval()
        assert type(base).__name__ == "DeepAVFusionModel", type(base)
        outputs[key + "_states"] = base(**inputs).last_hidden_state
    classifier = AutoModelForVideoClassification.from_pretrained(sys.argv[3], **trust).eval()
    outputs["logits"] = classifier(**inputs).logits
    classifier = AutoModelForAudioClassification.from_pretrained(sys.argv[3], **trust).eval()
    outputs["audio_auto_class_logits"] = classifier(**inputs).logits
    pretraining = AutoModelForPreTraining.from_pretrained(sys.argv[4], **trust).eval()
    outputs["loss"] = pretraining(**inputs, **noise).loss
torch.save({name: value.clone() for name, value in outputs.items()}, sys.argv[2])
try:
    AutoModelForVideoClassification.from_pretrained(sys.argv[3], trust_remote_code=False)
except ValueError:
    print("refused without trust")
"""


def run(script: str, *arguments, isolated: bool = False, **environment) -> str:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("HF_")}
    clean |= {"OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, *(["-I"] if isolated else []), "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A classifier and a pre-training model in a folder, and the models."""
    folder = tmp_path_factory.mktemp("saved")
    models = {
        "classifier": tiny_model(DeepAVFusionForAudioVisualClassification),
        "pretraining": tiny_model(DeepAVFusionForPreTraining, fusion_type="dense"),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
    return folder, models


@pytest.mark.parametrize("where", ["folder", "hub"])
def test_fresh_process_without_the_package(saved, tmp_path, where):
    folder, models = saved
    inputs = tiny_inputs()
    noise = {"image_noise": torch.rand(3, 16), "audio_noise": torch.rand(3, 6)}
    torch.save(inputs | noise, tmp_path / "inputs.pt")
    files = (tmp_path / "inputs.pt", tmp_path / "outputs.pt")
    modules = {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    if where == "folder":
        sources = (folder / "classifier", folder / "pretraining")
        said = run(LOAD, *files, *sources, isolated=True, HF_HUB_OFFLINE="1", **modules)
    else:
        with MockHub() as hub:
            run(PUSH, folder, PYTHONPATH=str(REPOSITORY), **hub.env)
            said = run(LOAD, *files, "tester/classifier", "tester/pretraining", isolated=True, **hub.env, **modules)
            uploaded = hub.repos["tester/classifier"]["files"]
        assert {
            "modeling_deepavfusion.py",
            "pretraining_and_classification_deepavfusion.py",
            "model.safetensors",
        } <= set(uploaded)
        assert not [name for name in uploaded if "dense_tasks" in name or "convert" in name]
        auto_map = json.loads(uploaded["config.json"])["auto_map"]
        assert auto_map["AutoModel"] == "modeling_deepavfusion.DeepAVFusionModel"
        assert auto_map["AutoModelForAudioClassification"] == auto_map["AutoModelForVideoClassification"]
    assert "refused without trust" in said
    found = torch.load(files[1], weights_only=True)
    with torch.inference_mode():
        all_close(found["logits"], models["classifier"](**inputs).logits)
        assert torch.equal(found["audio_auto_class_logits"], found["logits"])
        all_close(found["loss"], models["pretraining"](**inputs, **noise).loss)
        for key, model in zip(("first", "second"), models.values(), strict=True):
            all_close(found[f"{key}_states"], model.deepavfusion(**inputs).last_hidden_state)


def test_a_sharded_model_saves_the_class_that_it_is(saved, tmp_path):
    """`fully_shard` derives a class named FSDP..., which no folder could load."""
    folder, _ = saved
    model = tiny_model(DeepAVFusionForAudioVisualClassification)
    model_class = type(model)
    model.__class__ = type(f"FSDP{model_class.__name__}", (type("FSDPModule", (), {}), model_class), {})
    model.save_pretrained(tmp_path)
    sharded, plain = (json.loads((path / "config.json").read_text()) for path in (tmp_path, folder / "classifier"))
    assert sharded["architectures"] == plain["architectures"] == [model_class.__name__]
    assert sharded["auto_map"] == plain["auto_map"]
    assert {path.name for path in tmp_path.iterdir()} >= {path.name for path in (folder / "classifier").glob("*.py")}
