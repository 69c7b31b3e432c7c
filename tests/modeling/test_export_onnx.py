# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The ONNX file: equal outputs in onnxruntime, for any number of clips."""

import numpy as np
import pytest
import tiny_deepavfusion
from tiny_models import tiny_inputs, tiny_model

from modeling_deepavfusion import DeepAVFusionForAudioVisualClassification
from training.tools.export_onnx import export_onnx, main


@pytest.mark.parametrize("head", ["bilinear", "patches"])
def test_onnxruntime_gives_the_model_s_outputs(tmp_path, head):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model = tiny_model(match_head=head)
    path = export_onnx(model, tmp_path / "model.onnx", tiny_inputs(clips=2, frames=2))
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert model.maavt.token_attention is not None  # the model itself is left as it was
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for clips in (1, 5):
        inputs = tiny_inputs(clips=clips, frames=2)
        expected = model(**inputs)
        logits, match_logits = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        np.testing.assert_allclose(logits, expected.logits.detach(), atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(match_logits, expected.match_logits.detach(), atol=1e-5, rtol=1e-4)


def test_one_clip_is_refused(tmp_path):
    with pytest.raises(ValueError, match="give two or more"):
        export_onnx(tiny_model(), tmp_path / "model.onnx", tiny_inputs(clips=1))


def test_what_is_no_classifier_of_ma_avt_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing here: is no folder with a model"):
        main([str(tmp_path / "nothing here"), "--out", str(tmp_path / "model.onnx")])
    tiny_deepavfusion.tiny_model(DeepAVFusionForAudioVisualClassification).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="other: is a DeepAVFusionForAudioVisualClassification; only"):
        main([str(tmp_path / "other"), "--out", str(tmp_path / "model.onnx")])
