# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion's benchmark compares equal computations: outputs that differ stop it."""

import argparse

import pytest
import torch
from tiny_deepavfusion import TINY

from benchmarks.deepavfusion_speed import CASES, measure, taken_in_turns


ARGUMENTS = argparse.Namespace(layers=2, batch=2, repeats=1, device="cpu", clock="wall", backward=False)
SIZES = {name: value for name, value in TINY.items() if name not in ("num_labels", "num_hidden_layers")}


@pytest.mark.parametrize("name", CASES)
def test_case_compares_equal_outputs(name):
    found = measure(name, ARGUMENTS, **SIZES)
    limit = 0.2 if name.endswith("bf16") else 1e-4
    assert found["largest_difference"] < limit and found["ratio"] > 0


def test_different_outputs_are_not_timed():
    runs = {"literal": lambda: (torch.zeros(2),), "ours": lambda: (torch.full((2,), 0.01),)}
    with pytest.raises(SystemExit, match=r"differ by 0\.0"):
        taken_in_turns(runs, ARGUMENTS, False, 1e-3)
