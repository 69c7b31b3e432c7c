# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion's fast layers equal the plain ones."""

import pytest
import torch
from tiny_deepavfusion import TINY

from benchmarks.deepavfusion import inputs_of
from modeling_deepavfusion import DeepAVFusionConfig, DeepAVFusionModel, linear_deepavfusion


SIZES = {name: value for name, value in TINY.items() if name not in ("num_labels", "num_hidden_layers")}


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="oneDNN does not compute in bfloat16 here",
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("fusion_type", ["factorized", "dense", "token"])
def test_packed_layers_equal_the_plain_ones(fusion_type, dtype, monkeypatch):
    torch.manual_seed(0)
    config = DeepAVFusionConfig(**{**SIZES, "hidden_size": 192, "num_hidden_layers": 2, "fusion_type": fusion_type})
    model = DeepAVFusionModel(config).eval().to(dtype)
    image, audio = inputs_of(config, 2)
    inputs = {"pixel_values_videos": image[:, None].to(dtype), "input_features": audio.to(dtype)}
    packed, original = [], linear_deepavfusion.packed_linears
    monkeypatch.setattr(
        linear_deepavfusion, "packed_linears", lambda *args: packed.append(original(*args)) or packed[-1]
    )
    with torch.no_grad():
        fast = model(**inputs)
    assert sum(found is not None for found in packed) > 10
    monkeypatch.setattr(linear_deepavfusion, "on_fast_cpu", lambda states, dtype: False)
    with torch.no_grad():
        plain = model(**inputs)
    for name in ("image_last_hidden_state", "audio_last_hidden_state", "last_hidden_state"):
        difference = (fast[name].float() - plain[name].float()).abs().max()
        assert difference <= (1e-5 if dtype == torch.float32 else 5e-2) * plain[name].float().abs().max()
