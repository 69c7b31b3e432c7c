# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Marked copies between the model packages are equal to their source, and the tool that keeps them so."""

import subprocess
import sys
from pathlib import Path


REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY / "tools"))

from check_copies import main  # noqa: E402


SOURCE = """def mean(values):
    return sum(values) / len(values)


@staticmethod
def other():
    return 1
"""


def test_copies_of_this_repository():
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "tools" / "check_copies.py")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    marks = (REPOSITORY / "modeling_deepavfusion" / "losses_deepavfusion.py").read_text().count("# Copied from ")
    assert marks == 6


def test_a_copy_that_differs_is_named_and_mended(tmp_path, capsys):
    for name, text in (("modeling_maavt", SOURCE), ("modeling_deepavfusion", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text(text)
    copy = tmp_path / "modeling_deepavfusion" / "a.py"
    before, after = "x = 1\n\n\n# Copied from modeling_maavt.a.mean\n", "\n\n\ny = 2\n"
    copy.write_text(f"{before}def mean(values):\n    return 0{after}")
    assert main([], tmp_path) == 1
    assert "a.py: mean differs from modeling_maavt.a.mean" in capsys.readouterr().out
    assert main(["--fix"], tmp_path) == 0 and main([], tmp_path) == 0
    assert copy.read_text() == before + "\n".join(SOURCE.splitlines()[:2]) + after
    copy.write_text("# Copied from modeling_maavt.a.absent\ndef absent():\n    return 0\n")
    assert main([], tmp_path) == 1 and "defines no absent" in capsys.readouterr().err
    copy.write_text("# Copied from modeling_maavt.a.mean\nx = 1\n")
    assert main([], tmp_path) == 1 and "no function or class follows" in capsys.readouterr().err
