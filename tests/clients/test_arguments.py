# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Arguments that users pass as they do to other models: each works, warns or is refused in one line."""

import numpy as np
import pytest
import torch
from test_peft import inputs
from transformers import AutoProcessor


systems = pytest.mark.parametrize("system", ["maavt", "deepavfusion"])


@systems
@pytest.mark.parametrize("labels", [1, [0, 1, 2], np.array([0, 1, 2])])
def test_labels_that_are_no_tensor_are_refused(remote, folders, system, labels):
    model = remote(getattr(folders, system))
    with pytest.raises(ValueError, match=r"^labels: (int|list|ndarray); give a tensor, .*torch.tensor\(\[0, 2\]\)\.$"):
        model(**inputs(system), labels=labels)


@systems
def test_attention_weights_need_eager_attention(remote, folders, warned, system):
    """sdpa computes none: a warning says so, as for the models of transformers."""
    model = remote(getattr(folders, system))
    assert model(**inputs(system), output_attentions=True).attentions is None
    assert [record.message for record in warned.records if 'attn_implementation="eager"' in record.message]
    warned.clear()
    eager = remote(getattr(folders, system), attn_implementation="eager")
    assert eager(**inputs(system), output_attentions=True).attentions[0].isfinite().all()
    assert "attn_implementation" not in warned.text


@systems
def test_frames_from_0_to_1_get_a_warning(folders, warned, system):
    """They would be divided by 255 again. A warning, because do_rescale=False is right for them."""
    processor = AutoProcessor.from_pretrained(getattr(folders, system))
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32)).astype(np.uint8)
    bright = processor(videos=frames)["pixel_values_videos"]
    scaled = frames.astype(np.float32) / 255
    same = processor(videos=scaled, do_rescale=False)["pixel_values_videos"]
    torch.testing.assert_close(same, bright, atol=0.02, rtol=0)  # rounded in between
    processor(videos=frames.astype(np.float32))
    assert not warned.records
    processor(videos=scaled)
    assert "no pixel is above 1" in warned.text and "do_rescale=False" in warned.text
