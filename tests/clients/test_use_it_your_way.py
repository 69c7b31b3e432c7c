# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Every snippet of docs/use_it_your_way.md runs, one after the other, on tiny models in place of the names."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from tiny_models import TINY_VIT
from transformers import ViTConfig, ViTModel


PAGE = Path(__file__).resolve().parents[2] / "docs" / "use_it_your_way.md"


def test_snippets(folders, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: plots)")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folders.maavt, "you/maavt")
    shutil.copy(folders.clips[0], "clip.mp4")
    ViTModel(ViTConfig(**TINY_VIT), add_pooling_layer=False).save_pretrained("you/vit")
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) == 8
    names = {"__name__": "use_it_your_way"}
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), names)
    trunk, batch = names["trunk"], names["batch"]
    assert names["clip"].shape == (1, 64)
    torch.testing.assert_close(names["clip"].norm(dim=-1), torch.ones(1))
    assert names["half"].dtype == names["half"].config.dtype == torch.bfloat16
    # A modality that a clip lacks takes no part in its vector.
    with torch.inference_mode():
        alone = trunk(pixel_values_videos=batch["pixel_values_videos"]).pooler_output
        masked = trunk(**{**batch, "has_audio": torch.tensor([False])}).pooler_output
    torch.testing.assert_close(masked, alone)
