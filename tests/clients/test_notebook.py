# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""examples/quickstart.ipynb runs from its first cell to its upload, and its committed outputs are whole and small."""

import importlib.util
import json
import os
import re
import time
from pathlib import Path

import pytest
from mock_hub import MockHub


REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOK = REPOSITORY / "examples" / "quickstart.ipynb"
NEEDED = ("nbclient", "ipykernel", "matplotlib")
missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]


def test_committed_outputs():
    text = NOTEBOOK.read_text(encoding="utf-8")
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run it from top to bottom"
    assert [output for output in outputs if "image/png" in output.get("data", {})]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert len(text) < 1e6
    shown = json.dumps([{**output, "data": {**output.get("data", {}), "image/png": ""}} for output in outputs])
    assert not re.search(r"/(home|tmp|work|root|Users)/|[A-Z]:\\\\\\\\", shown), "a folder of a machine"


@pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)} (extra: notebook)")
def test_it_runs_and_uploads(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    begin = time.monotonic()
    with MockHub() as hub:
        environment = {**os.environ, **hub.env, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)}
        options = {"timeout": 180, "kernel_name": "python3", "resources": {"metadata": {"path": str(NOTEBOOK.parent)}}}
        NotebookClient(notebook, **options).execute(env=environment)
        files = hub.repos["tester/odd-or-even"]["files"]
    assert time.monotonic() - begin < 180
    assert {"config.json", "model.safetensors", "modeling_maavt.py", "processor_config.json"} <= set(files)
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    figures = dict(re.findall(r"^(both|video alone|audio alone): top-1 ([\d.]+)$", said, re.MULTILINE))
    assert float(figures["both"]) > 0.8 and len(figures) == 3
