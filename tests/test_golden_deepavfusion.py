# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The published behavior of DeepAVFusion, file by file: states, predictions, logits, masks and losses within 2e-5.

GOLDEN_DIR names the folder (default: golden/ of the shared material). The weights pass through the names that the
converter knows.
"""

import os
from pathlib import Path

import golden_deepavfusion_tasks  # noqa: F401  registers segmentation and separation
import pytest
import torch
from golden_deepavfusion import kind_of, load_golden


GOLDEN_DIR = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).resolve().parents[2] / "shared" / "golden")
FILES = sorted(GOLDEN_DIR.glob("deepavfusion_*.npz"))


@pytest.mark.skipif(not FILES, reason=f"no deepavfusion_*.npz in the golden folder {GOLDEN_DIR.name!r}")
@pytest.mark.parametrize("path", FILES, ids=[file.stem for file in FILES])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_golden(path, attention, record_property):
    compare = kind_of(path.stem)
    if compare is None:
        pytest.skip(f"{path.stem}: no model for this file yet")
    weights, inputs, expected = load_golden(path)
    with torch.no_grad():
        ours = compare(path.stem, weights, inputs, expected, attention)
    known = set(ours) & set(expected)
    assert known, f"{path.stem}: nothing to compare among {sorted(expected)}"
    for name in sorted(known):
        torch.testing.assert_close(
            ours[name].reshape(expected[name].shape),
            expected[name],
            atol=2e-5,
            rtol=0,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    unknown = sorted(set(expected) - known)
    if unknown:
        record_property("unknown_outputs", unknown)
        print(f"{path.stem}: outputs this test does not know: {unknown}")
