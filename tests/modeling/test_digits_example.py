# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""examples/digits, a checkpoint that an earlier version wrote: it loads, says the same of its clips, and its card is true."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForVideoClassification, AutoProcessor

import modeling_maavt  # noqa: F401  registers its classes
import predict
import processing  # noqa: F401  registers its classes
from training.common.results import markdown_table
from training.tools import demo


REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "digits"
CLIPS = json.loads((EXAMPLE / "clips.json").read_text(encoding="utf-8"))
RESULTS = json.loads((EXAMPLE / "results.json").read_text(encoding="utf-8"))
MAX_BYTES = 3_000_000

# An editable install puts the repository on the path; here its packages cannot be imported, as after a mere clone.
WITHOUT_PACKAGES = """
import sys
class Hidden:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in ("modeling_maavt", "processing", "training"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden)
"""


def files() -> list[Path]:
    return [path for path in EXAMPLE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def test_this_version_says_what_was_recorded():
    model, report = AutoModelForVideoClassification.from_pretrained(EXAMPLE, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    processor = AutoProcessor.from_pretrained(EXAMPLE)
    assert len(CLIPS) == 4
    for clip in CLIPS:
        with torch.inference_mode():
            outputs = model.eval()(**processor(clips=[EXAMPLE / clip["file_name"]], return_tensors="pt"))
        torch.testing.assert_close(outputs.logits[0], torch.tensor(clip["logits"]), rtol=0, atol=1e-3)
        assert outputs.match_logits.item() == pytest.approx(clip["match_logit"], abs=1e-3)


def readme_snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_first_snippet_of_the_readme_runs_after_a_mere_clone(tmp_path):
    """The code beside the weights is what runs, through the Auto classes and through the pipeline."""
    snippet = readme_snippets()[0]
    assert "examples/digits" in snippet and "pipeline(" in snippet
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    clean |= {"HF_MODULES_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    show = "\nprint([outputs.logits[0].tolist(), outputs.match_logits.item()])"
    command = [sys.executable, "-I", "-c", WITHOUT_PACKAGES + snippet + show]
    done = subprocess.run(command, env=clean, cwd=REPOSITORY, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    clip = next(clip for clip in CLIPS if clip["file_name"] in snippet)
    logits, match = json.loads(lines[-1])
    assert logits == pytest.approx(clip["logits"], abs=1e-3) and match == pytest.approx(clip["match_logit"], abs=1e-3)
    # What the snippet's comments promise.
    best = str(max(range(10), key=lambda digit: clip["logits"][digit]))
    assert lines[0] == best and f"# {best}" in snippet and f"'label': '{best}'" in lines[2]
    assert float(lines[1]) == pytest.approx(1 / (1 + math.exp(-match))) and f"# {float(lines[1]):.2f}" in snippet


def test_the_command_of_the_readme(capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    (line,) = re.findall(
        r"^maavt predict (examples/digits .*?)( +#.*)?$", (REPOSITORY / "README.md").read_text(), re.M
    )
    predict.main([word for word in line[0].split() if not word.startswith("--pictures") and word != "pictures"])
    (record,) = json.loads(capsys.readouterr().out)
    clip = next(clip for clip in CLIPS if clip["file_name"] in line[0])
    assert record["predictions"][0]["label"] == str(max(range(10), key=lambda digit: clip["logits"][digit]))


def test_figures_of_the_card_are_those_of_the_results():
    head, body = (EXAMPLE / "README.md").read_text(encoding="utf-8").split("---\n", 2)[1:]
    assert markdown_table(RESULTS["rows"]) in body
    rows = {row["input"]: row for row in RESULTS["rows"] if row["model"] == "maavt"}
    (entry,) = yaml.safe_load(head)["model-index"]
    metrics = [metric for result in entry["results"] for metric in result["metrics"]]
    names = {"accuracy": "top1", "f1": "macro_f1", "roc_auc": "match_auroc"}
    assert len(metrics) == 7
    for metric in metrics:
        kind, given = re.fullmatch(r"(\w+) \((\w+)\)", metric["name"]).groups()
        assert metric["value"] == round(rows[given][names[kind]], 4)


def test_the_folder_is_small_whole_and_names_no_machine():
    assert sum(path.stat().st_size for path in files()) <= MAX_BYTES
    names = {path.name for path in files()}
    assert {"model.safetensors", "config.json", "processor_config.json", "README.md", "modeling_maavt.py"} <= names
    folders = [str(REPOSITORY), str(Path.home()), "/home/", "/root/", "/tmp/", "/Users/"]
    for path in files():
        found = [folder for folder in folders if folder.encode() in path.read_bytes()]
        assert not found, f"{path}: {found}"


def test_quick_demo_shows_it(tmp_path, capsys):
    demo.main(["--quick", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    for clip in CLIPS:
        best = str(max(range(10), key=lambda digit: clip["logits"][digit]))
        line = next(line for line in printed.splitlines() if line.startswith(Path(clip["file_name"]).name))
        assert line.split()[1:3] == [clip["label"], best]
    assert "maavt page" in printed


def test_quick_demo_opens_the_page_on_a_terminal(tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="gradio is not installed")
    started = []
    monkeypatch.setattr(demo.subprocess, "run", lambda command, check: started.append(command[1:]))
    demo.main(["--quick", "--out", str(tmp_path)])
    assert not started
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    demo.main(["--quick", "--out", str(tmp_path)])
    assert started == [["-m", "training.command_line", "page", str(EXAMPLE)]]
