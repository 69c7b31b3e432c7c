# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints travel: to a Hub and back by name, and into a process that has never seen this package."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import parse_eval_result_entries
from mock_hub import MockHub
from toy_run import write_backbone, write_clips, write_config
from transformers import AutoProcessor

from modeling_maavt import MAAVTForAudioVisualClassification
from training.maavt.upload import ADAPTER_FILES, upload_files


REPOSITORY = Path(__file__).resolve().parents[2]

LOAD = """
import sys, torch, numpy as np
source, output = sys.argv[1:3]
for name in ("modeling_maavt", "processing", "training"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} is importable: this process proves nothing")
from transformers import (AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForVideoClassification, AutoProcessor,
                          AutoVideoProcessor)
trust = {"trust_remote_code": True}
inputs = torch.load(output + ".inputs", weights_only=True)
config = AutoConfig.from_pretrained(source, **trust)
model = AutoModelForVideoClassification.from_pretrained(source, **trust).eval()
base = AutoModel.from_pretrained(source, **trust).eval()
processor = AutoProcessor.from_pretrained(source, **trust)
video_processor = AutoVideoProcessor.from_pretrained(source, **trust)
feature_extractor = AutoFeatureExtractor.from_pretrained(source, **trust)
assert type(config).__name__ == "MAAVTConfig" and type(base).__name__ == "MAAVTModel", (type(config), type(base))
assert type(video_processor).__name__ == "MAAVTVideoProcessor"
assert type(feature_extractor).__name__ == "MAAVTFeatureExtractor"
with torch.inference_mode():
    given = model(**inputs)
    clip = processor(clips=[sys.argv[3]], return_tensors="pt")
    read = model(**clip)
    hidden = base(**{k: v for k, v in inputs.items() if not k.startswith("has_")}).last_hidden_state
np.savez(output, given=given.logits, match=given.match_logits, read=read.logits, hidden=hidden,
         labels=[config.id2label[i] for i in range(len(config.id2label))], **clip)
try:
    AutoModelForVideoClassification.from_pretrained(source, trust_remote_code=False)
except ValueError:
    print("refused without trust")
"""


@pytest.fixture(scope="module")
def hub():
    with MockHub() as server:
        yield server


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory) -> Path:
    """A run in a process of its own that uploads its model, then one that uploads its adapter; the runs' folder."""
    folder = tmp_path_factory.mktemp("pushed")
    config = write_config(folder / "toy.yaml", write_clips(folder / "data"), write_backbone(folder / "vit"))
    command = [sys.executable, str(REPOSITORY / "train.py"), str(config), "--push_to_hub", "true"]
    environment = {**os.environ, **hub.env, "OMP_NUM_THREADS": "1"}
    backbone = {file.name: file.read_bytes() for file in (folder / "vit").iterdir()}
    hub.repos["tester/vit"] = {"files": backbone, "sha": "0" * 40, "private": False, "commits": []}
    for kind in ("model", "adapter"):
        change = ["--hub_upload", kind, "--hub_model_id", f"tester/toy-{kind}", "--output_dir", str(folder / kind)]
        card = "data_hub: tester/colors, data_task: color"
        if kind == "model":  # others can have its backbone: the adapter goes along
            card += ", backbone: tester/vit"
        change += ["--card", f"{{{card}}}"]
        done = subprocess.run([*command, *change], env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


def load_elsewhere(source: str, folder: Path, clip: Path, environment: dict) -> tuple[dict, str]:
    """What a fresh, isolated process computes from `source`; the package is not importable there."""
    output = folder / "elsewhere.npz"
    script = folder / "load.py"
    script.write_text(LOAD)
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("HF_")}
    clean |= {"HF_MODULES_CACHE": str(folder / "modules"), "OMP_NUM_THREADS": "1", **environment}
    # an editable install puts the repository on the path through site-packages: hide its packages
    blocked = (
        "import sys; sys.meta_path.insert(0, type('B', (), {'find_spec': staticmethod(lambda n, p=None, t=None: "
        "(_ for _ in ()).throw(ModuleNotFoundError(n)) if n.split('.')[0] in ('modeling_maavt', 'processing', 'training') "
        "else None)})); sys.argv = sys.argv[1:]; exec(compile(open(sys.argv[0]).read(), sys.argv[0], 'exec'))"
    )
    command = [sys.executable, "-I", "-c", blocked, str(script), source, str(output), str(clip)]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=240, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(output)), done.stdout


@pytest.mark.parametrize("where", ["folder", "hub"])
def test_fresh_process_without_the_package(pushed, hub, tmp_path, where):
    here = pushed / "model" / "model"
    clip = next((pushed / "data" / "clips").glob("red*.mp4"))
    model = MAAVTForAudioVisualClassification.from_pretrained(here).eval()
    torch.manual_seed(0)
    inputs = {
        "pixel_values_videos": torch.randn(2, 2, 3, 32, 32),
        "input_features": torch.randn(2, 1, 32, 48),
        "has_video": torch.tensor([True, True]),
        "has_audio": torch.tensor([True, False]),
    }
    torch.save(inputs, tmp_path / "elsewhere.npz.inputs")
    source, environment = (str(here), {"HF_HUB_OFFLINE": "1"}) if where == "folder" else ("tester/toy-model", hub.env)
    hub.requests.clear()
    found, said = load_elsewhere(source, tmp_path, clip, environment)
    # Nothing is fetched but the repository itself.
    asked = {path for _, path in hub.requests}
    assert all(re.match(r"/(api/models/)?tester/toy-model(/|$)", path) for path in asked), asked
    assert bool(asked) == (where == "hub")
    batch = AutoProcessor.from_pretrained(here)(clips=[clip], return_tensors="pt")
    with torch.inference_mode():
        given, read = model(**inputs), model(**batch)
    for name, value in batch.items():
        assert np.array_equal(found[name], value.numpy()), name
    assert np.abs(found["given"] - given.logits.numpy()).max() < 1e-5
    assert np.abs(found["match"] - given.match_logits.numpy()).max() < 1e-5
    assert np.abs(found["read"] - read.logits.numpy()).max() < 1e-5
    assert list(found["labels"]) == ["blue", "green", "red"]
    assert "refused without trust" in said


def test_upload_is_one_commit_with_code_processor_and_card(pushed, hub):
    repository = hub.repos["tester/toy-model"]
    files = set(repository["files"])
    assert {"config.json", "model.safetensors", "processor_config.json", "README.md"} <= files
    assert {"modeling_maavt.py", "configuration_maavt.py", "processing_maavt.py", "clips.py"} <= files
    assert len(repository["commits"]) == 1
    assert not [name for name in files if name.startswith(("checkpoint", "runs")) or name.endswith(".part")]
    auto_map = json.loads(repository["files"]["config.json"])["auto_map"]
    assert {"AutoConfig", "AutoModel", "AutoModelForVideoClassification"} <= set(auto_map)


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_curves_and_log_go_along_and_test_clips_stay(pushed, hub, kind):
    files = hub.repos[f"tester/toy-{kind}"]["files"]
    log = json.loads(files["training_log.json"])
    assert [entry["eval_top1_video"] for entry in log if "eval_loss" in entry] and "pipeline_maavt.py" in files
    assert str(pushed) not in files["training_log.json"].decode()
    assert not {"report.html", "predictions.csv", "results.json"} & set(files), "they show the test clips"
    if importlib.util.find_spec("matplotlib") is not None:
        card = files["README.md"].decode()
        for name in ("training_curves", "confusion_matrix"):
            assert f"](pictures/{name}.png)" in card and files[f"pictures/{name}.png"].startswith(b"\x89PNG")


def test_the_adapter_lies_below_its_model_where_others_can_have_the_backbone(tmp_path):
    for name in ("model/config.json", *(f"adapter/{file}" for file in (*ADAPTER_FILES, "README.md"))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    of_hub = upload_files(tmp_path, "model", {"card": {"backbone": "google/vit"}})
    assert set(of_hub) == {"config.json", *(f"adapter/{file}" for file in ADAPTER_FILES)}
    assert set(upload_files(tmp_path, "model", {"card": {"backbone": "a ViT"}})) == {"config.json"}


@pytest.mark.parametrize(("kind", "folder"), [("adapter", ""), ("model", "adapter")])
def test_adapter_by_name(pushed, hub, kind, folder):
    """An adapter brings its backbone's name: a folder of this machine, or, below a model, a repository."""
    files = hub.repos[f"tester/toy-{kind}"]["files"]
    assert {str(Path(folder) / file) for file in ADAPTER_FILES} <= set(files)
    backbone = json.loads(files[str(Path(folder) / "adapter_config.json")])["base_model_name_or_path"]
    assert backbone == {"adapter": str(pushed / "vit"), "model": "tester/vit"}[kind]
    assert ("model.safetensors" in files) == (kind == "model")
    script = (
        "import sys, torch; from modeling_maavt import MAAVTForAudioVisualClassification as M\n"
        f"model = M.from_pretrained('tester/toy-{kind}', subfolder='{folder}').eval(); torch.manual_seed(0)\n"
        "x = {'pixel_values_videos': torch.randn(1, 2, 3, 32, 32), 'input_features': torch.randn(1, 1, 32, 48)}\n"
        "print(model(**x).logits.tolist())"
    )
    environment = {**os.environ, **hub.env, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    model = MAAVTForAudioVisualClassification.from_pretrained(pushed / kind / "model").eval()
    torch.manual_seed(0)
    inputs = {"pixel_values_videos": torch.randn(1, 2, 3, 32, 32), "input_features": torch.randn(1, 1, 32, 48)}
    with torch.inference_mode():
        expected = model(**inputs).logits
    assert torch.allclose(torch.tensor(json.loads(done.stdout.splitlines()[-1])), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_card_is_filled(pushed, hub, kind):
    text = hub.repos[f"tester/toy-{kind}"]["files"]["README.md"].decode()
    head, body = text.split("---\n", 2)[1:]
    data = yaml.safe_load(head)
    assert data["pipeline_tag"] == "video-classification" and "maavt" in data["tags"]
    metrics = {
        (result["dataset"]["config"], metric["name"]): metric["value"]
        for result in data["model-index"][0]["results"]
        for metric in result["metrics"]
    }
    rows = json.loads((pushed / kind / "results.json").read_text())["rows"]
    both = next(row for row in rows if row["model"] == "maavt" and row["input"] == "both")
    assert metrics[("clean", "accuracy (both)")] == pytest.approx(both["top1"], abs=1e-4)
    assert "{{" not in body and "}}" not in body and "None" not in body
    assert f"tester/toy-{kind}" in body and "| maavt | both | clean |" in body and "learning_rate: 0.005" in body
    assert str(pushed) not in text, "a folder of this machine went into the card"
    for heading in ("## Use", "## Data", "## Results", "## Recipe", "## Limits", "## License"):
        assert heading in body


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_results_are_where_the_hub_reads_them(pushed, hub, kind):
    """In the form of huggingface_hub; the data set is named in the card as well."""
    files = hub.repos[f"tester/toy-{kind}"]["files"]
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/colors.yaml"]))
    rows = json.loads((pushed / kind / "results.json").read_text())["rows"]
    both = next(row for row in rows if row["model"] == "maavt" and row["input"] == "both")
    assert (entry.dataset_id, entry.task_id, entry.value) == ("tester/colors", "color", round(both["top1"], 4))
    assert "6 test clips" in entry.notes
    assert yaml.safe_load(files["README.md"].decode().split("---\n")[1])["datasets"] == "tester/colors"


def push(environment: dict, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "training.command_line", "push", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=240)


def test_a_finished_run_is_uploaded_later(pushed, hub):
    listed = push(hub.env, pushed / "model", "tester/later", "--dry_run")
    assert listed.returncode == 0, listed.stderr
    assert "model.safetensors" in listed.stdout and "modeling_maavt.py" in listed.stdout
    assert "missing: a description of the data" in listed.stdout and "the license of the data" in listed.stdout
    assert "tester/later" not in hub.repos
    # The card, as the Hub will show it.
    page = (pushed / "model" / "card.html").read_text(encoding="utf-8")
    assert f"The card is shown in {pushed / 'model' / 'card.html'}" in listed.stdout
    assert "tester/later" in page and "<table>" in page and str(pushed) not in page and "pipeline_tag" not in page
    if importlib.util.find_spec("matplotlib") is not None:
        assert page.count('src="data:image/png;base64,') == 2 and page.count("<img") == 2
    # An upload keeps what was written into the card, and leaves the run as it is.
    for kind, options, name in (("model", [], "tester/later"), ("adapter", ["--adapter"], "tester/later_adapter")):
        card = pushed / "model" / kind / "README.md"
        card.write_text(f"{card.read_text(encoding='utf-8')}\nWritten by hand.\n", encoding="utf-8")
        written = card.read_bytes()
        done = push(hub.env, pushed / "model", name, *options)
        assert done.returncode == 0, done.stderr
        uploaded = hub.repos[name]["files"]["README.md"].decode()
        assert uploaded.endswith("Written by hand.\n") and uploaded.count(f'from_pretrained("{name}"') == 2
        assert str(pushed) not in uploaded and card.read_bytes() == written
    # What another run has left beside the model goes, whatever else there is stays.
    files = hub.repos["tester/later"]["files"]
    refused = push(hub.env, pushed / "model", "tester/later", "--adapter")
    assert refused.returncode == 1 and "holds a whole model, which an adapter beside it would hide" in refused.stderr
    files |= {
        "adapter_config.json": b"{}",
        "adapter/old.safetensors": b"1",
        "pictures/old.png": b"2",
        "notes.txt": b"3",
    }
    assert push(hub.env, pushed / "model", "tester/later").returncode == 0
    assert "notes.txt" in files and not {"adapter_config.json", "adapter/old.safetensors", "pictures/old.png"} & set(
        files
    )
    names = {line.split("bytes  ")[1] for line in listed.stdout.splitlines() if "bytes  " in line}
    assert names <= set(hub.repos["tester/later"]["files"])
    assert len(hub.repos["tester/later"]["commits"]) == 2
    assert "adapter_model.safetensors" in hub.repos["tester/later_adapter"]["files"]
    assert ".eval_results/colors.yaml" in hub.repos["tester/later"]["files"]


def test_a_hub_that_refuses_the_commit(pushed):
    class Refusing(MockHub):
        def handle(self, method, path, body, headers):
            if "/commit/" in path:
                return 500, {"error": "internal"}, {}
            return super().handle(method, path, body, headers)

    with Refusing() as server:
        done = push(server.env, pushed / "adapter", "tester/again", "--adapter")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert f"try again with `maavt push {pushed / 'adapter'} tester/again --adapter`" in done.stderr
