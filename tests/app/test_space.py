# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A Space that `maavt page MODEL --space DIR` writes: its files, and that it runs without this package."""

import re
import subprocess
import sys

import pytest
import yaml
from page_server import line, save_tiny, show, start_page, stop_page, uploaded
from tiny_models import tiny_model

from processing import MAAVTProcessor


pytest.importorskip("gradio", reason="gradio is not installed (extra: page)")
from app.__main__ import (
    main,  # noqa: E402
    visible_names,
)
from app.space import write_space  # noqa: E402
from app.web_page import Limits  # noqa: E402


# Ends every import of this package, as where it is not installed.
ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(["app", "processing", "training", "modeling_maavt", "modeling_deepavfusion"]))
runpy.run_path("app.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def space(tmp_path_factory, clips):
    root = tmp_path_factory.mktemp("space")
    model = save_tiny(root / "dogs" / "model")
    options = ["--examples", str(clips / "clip.mp4"), "--title", "Dogs: yes", "--space", str(root / "space")]
    main([str(model), *options])
    return root / "space"


def test_what_the_hub_reads(space):
    from gradio import __version__

    _, header, _ = (space / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["title"] == "Dogs: yes" and card["sdk"] == "gradio" and card["app_file"] == "app.py"
    assert card["sdk_version"] == __version__ and "models" not in card
    requirements = (space / "requirements.txt").read_text().split()
    assert f"gradio=={__version__}" in requirements and not [each for each in requirements if "+" in each]
    assert (space / "examples" / "1_clip.mp4").is_file() and (space / "models" / "model_0" / "config.json").is_file()


def test_the_copied_code_imports_only_what_lies_beside_it(space):
    files = {file.stem: file.read_text(encoding="utf-8") for file in (space / "maavt_page").glob("*.py")}
    assert {"web_page", "clip_pictures", "clips"} <= files.keys()
    for text in files.values():
        assert not re.findall(r"^\s*(?:from|import) (?:app|processing|training|modeling_\w+)\b", text, re.MULTILINE)
        assert set(re.findall(r"^\s*from \.(\w+) import", text, re.MULTILINE)) <= files.keys()


def test_a_model_of_the_hub_stays_there(tmp_path):
    model, processor = tiny_model(), MAAVTProcessor()
    write_space(tmp_path / "space", {"a": (model, processor)}, {"a": "you/name"}, [], Limits(), "Title")
    assert "('a', 'AutoModelForVideoClassification', 'you/name')" in (tmp_path / "space" / "app.py").read_text()
    assert "models:\n- you/name\n" in (tmp_path / "space" / "README.md").read_text()
    assert not (tmp_path / "space" / "models").exists()


def test_it_runs_without_this_package(space, clips, tmp_path):
    page = start_page(
        [sys.executable, "-c", ALONE], tmp_path, space, HF_MODULES_CACHE=str(tmp_path / "modules"), PYTHONPATH=""
    )
    try:
        check_answer(page, clips)
    finally:
        stop_page(page)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_it_runs_in_a_fresh_environment(space, clips, tmp_path):
    """With the packages of requirements.txt alone."""
    uv = [sys.executable, "-m", "uv", "-q"]
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([*uv, "venv", "--python", sys.executable, tmp_path / "env"], check=True)
    requirements = space / "requirements.txt"
    subprocess.run([*uv, "pip", "install", "--python", python, "-r", requirements], check=True)
    page = start_page([str(python), "app.py"], tmp_path, space, HF_MODULES_CACHE=str(tmp_path / "modules"))
    try:
        check_answer(page, clips)
    finally:
        stop_page(page)


def check_answer(page, clips) -> None:
    event = show(page, uploaded(page, clips / "clip.mp4"), model="dogs")
    assert "The answer is" in line(event) and event["output"]["data"][4]["path"].endswith(".png")


def test_a_folder_with_files_is_left_alone(space):
    with pytest.raises(FileExistsError, match="is there already; give a folder that is new or empty"):
        main([str(space / "models" / "model_0"), "--space", str(space)])


def test_names_of_models_tell_them_apart_and_hide_where_they_lie(tmp_path):
    folders = [tmp_path / name / "seed_0" / "model" for name in ("drone", "grid")]
    for folder in folders:
        folder.mkdir(parents=True)
    names = visible_names([*map(str, folders), "user/name"])
    assert names == {"seed_0": str(folders[0]), "grid/seed_0": str(folders[1]), "user/name": "user/name"}
