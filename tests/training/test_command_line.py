# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The command `maavt`, in a checkout and from a wheel in an environment of its own."""

import json
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from training import command_line
from training.common.shipped_files import find_config, shipped_file


REPOSITORY = Path(__file__).resolve().parents[2]


def call(*arguments):
    return CliRunner().invoke(command_line.app, list(arguments))


def test_help_does_not_wait_for_pytorch():
    code = "import sys, training.command_line; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=REPOSITORY, text=True).strip() == "[]"


def test_a_torchaudio_that_refuses_this_torch_is_one_line_with_the_cure(tmp_path):
    refusal = 'raise RuntimeError("torchaudio 2.11.0\\n needs torch below 2.15")'
    (tmp_path / "torchaudio.py").write_text(refusal)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from training.command_line import main; main()"
    command = [sys.executable, "-c", code, "prepare", "ave", "--root", "x", "--out", "y"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "needs torch below 2.15" in done.stderr
    assert "torchaudio>=2.11.1" in done.stderr and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["train", "predict", "prepare", "demo", "export", "push"])
def test_each_program_is_listed(command):
    assert command in call("--help").output


def test_arguments_reach_the_program(monkeypatch):
    seen = []
    monkeypatch.setattr("processing.prepare.__main__.main", lambda: seen.extend(sys.argv) or 7)
    result = call("prepare", "ave", "--root", "x", "-h", "--help", "a b")
    assert seen == ["maavt prepare", "ave", "--root", "x", "-h", "--help", "a b"]
    assert result.exit_code == 7


def test_an_error_is_one_line(monkeypatch):
    def fail():
        raise ValueError("metadata.csv: no column label; add one")

    monkeypatch.setattr("processing.prepare.__main__.main", fail)
    result = call("prepare", "ave")
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert isinstance(call("prepare", "ave", "--debug").exception, ValueError)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed.", "error: a loader worker has died"),
        ("[enforce fail] PytorchStreamWriter failed writing file data/0", "error: a file cannot be written"),
        (
            "[enforce fail at inline_container.cc:672] . unexpected pos 40832 vs 40724",
            "error: a file cannot be written",
        ),
        ("[gloo/transport/tcp/pair.cc] Connection closed by peer", "error: another process of this run has ended"),
        ("a fault of the program", None),
    ],
)
def test_what_libraries_report_as_runtime_errors(monkeypatch, message, line):
    def fail():
        raise RuntimeError(message)

    monkeypatch.setattr("processing.prepare.__main__.main", fail)
    result = call("prepare", "ave")
    if line is None:
        assert isinstance(result.exception, RuntimeError)
    else:
        assert result.output.startswith(line) and len(result.output.splitlines()) == 1


class BrokenClips(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise ValueError("clips/a.mp4: cut off; get it again\nmore: about it")


def test_an_error_in_a_loader_worker_is_its_own_line(monkeypatch):
    monkeypatch.setattr(
        "processing.prepare.__main__.main",
        lambda: list(torch.utils.data.DataLoader(BrokenClips(), num_workers=1)),
    )
    assert call("prepare", "ave").output == "error: clips/a.mp4: cut off; get it again\n"


class Careless:
    """Is deleted while somebody presses Ctrl-C: Python drops it there."""

    def __del__(self):
        raise KeyboardInterrupt


def test_ctrl_c_that_python_drops_comes_again(monkeypatch):
    def work():
        Careless()
        time.sleep(30)

    monkeypatch.setattr("processing.prepare.__main__.main", work)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = call("prepare", "ave")
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.exit_code == 130 and result.output == "interrupted\n"


def test_a_configuration_that_is_not_there(tmp_path):
    assert call("train", str(tmp_path / "missing.yaml")).exit_code == 1


def test_shipped_configurations_are_found_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("folder.yaml", "configs/folder.yaml", "compare/drone.yaml"):
        assert find_config(name).is_file()
    assert find_config("mine.yaml") == Path("mine.yaml")
    (tmp_path / "folder.yaml").write_text("seed: 1")
    assert find_config("folder.yaml") == Path("folder.yaml")  # the user's own file comes first
    assert shipped_file("model_card.md") == REPOSITORY / "model_card.md"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_wheel_trains_from_another_folder(tmp_path):
    """Builds the wheel, installs it with its dependencies into an empty environment, and runs the small demo there."""
    uv = [sys.executable, "-m", "uv", "-q"]
    subprocess.run([*uv, "build", "--wheel", "--out-dir", tmp_path / "dist", REPOSITORY], check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    modules = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert modules == {"app", "modeling_deepavfusion", "modeling_maavt", "processing", "training"}

    subprocess.run([*uv, "venv", "--python", sys.executable, tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([*uv, "pip", "install", "--python", python, wheel], check=True)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    maavt = tmp_path / "env" / "bin" / "maavt"
    subprocess.run([maavt, "--help"], cwd=elsewhere, check=True, capture_output=True)  # writes the byte code
    start = time.monotonic()
    subprocess.run([maavt, "--help"], cwd=elsewhere, check=True, capture_output=True)
    assert time.monotonic() - start < 2

    subprocess.run([maavt, "demo", "--quick"], cwd=elsewhere, check=True)
    subprocess.run([maavt, "demo", "--small", "--out", "demo"], cwd=elsewhere, check=True)
    card = (elsewhere / "demo" / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---") and "# MA-AVT demo" in card
    clip = next((elsewhere / "demo" / "clips" / "clips").glob("test_*.mp4"))
    answer = subprocess.run([maavt, "predict", "demo/run/model", clip], cwd=elsewhere, check=True, capture_output=True)
    assert len(json.loads(answer.stdout)[0]["predictions"]) == 5
