# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The code keeps the rules of its arrangement: imports go one way, and the model files read easily."""

import sys

import pytest

from benchmarks.fresh import REPOSITORY


sys.path.append(str(REPOSITORY / "tools"))
import house  # noqa: E402


@pytest.fixture(scope="module")
def tree():
    if not (REPOSITORY / ".git").exists():
        pytest.skip("the files are listed by git")
    return house.read_tree()


def test_no_import_circle(tree):
    assert tree.circles() == []


def test_imports_go_one_way(tree):
    assert tree.arrows_back() == []


@pytest.mark.parametrize("package", house.MODELS)
def test_model_files_have_few_conditional_expressions_and_enough_comments(tree, package):
    paths = tree.under(package)
    assert tree.conditional_expressions(paths) <= 15
    assert tree.comments(paths) >= 6


def test_counts():
    sources = {
        "processing/__init__.py": "",
        "processing/clips.py": "# Copyright\nfrom .data import tables  # why\nx = 1 if tables else 2\n",
        "processing/data/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import tables\n",
        "processing/data/tables.py": "import processing.clips\n\n\ndef f():\n    return 1\n",
        "modeling_maavt/one.py": "from .two import Layer\n\n\nclass Model(Layer):\n    pass\n",
        "modeling_maavt/two.py": "class Layer:\n    pass\n",
        "modeling_maavt/three.py": "class Unused:\n    pass\n",
        "tests/test_clips.py": "from processing import clips\n",
    }
    small = house.House(sources)
    assert small.circles() == [["processing/clips.py", "processing/data/tables.py"]]
    assert small.arrows_back() == ["processing/clips.py:2 imports processing/data/tables.py"]
    assert small.conditional_expressions(["processing/clips.py"]) == 1000 / 3
    assert small.comments(["processing/clips.py"]) == 100 / 3
    assert small.files_of_forward("modeling_maavt", "Model") == ["modeling_maavt/one.py", "modeling_maavt/two.py"]
    assert small.longest_function(small.product()) == (2, "processing/data/tables.py: f")
    assert "tests/test_clips.py" not in small.product()
