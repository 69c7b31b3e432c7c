# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Every Python snippet of README, docs and model card runs, one after the other, on tiny models in place of the names."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from tiny_models import TINY_VIT
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from modeling_maavt import MAAVTForAudioVisualClassification, export_adapter, maavt_peft_config
from processing import MAAVTProcessor
from training.maavt.card import USAGE_ADAPTER, USAGE_MODEL


REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted(
    str(path.relative_to(REPOSITORY))
    for path in (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("examples/*/*.md"))
    if "```python" in path.read_text(encoding="utf-8") and path.name != "model_card.md"  # a template
)


@pytest.fixture
def here(folders, tmp_path, monkeypatch) -> Path:
    """A folder in which the names of the pages are those of tiny models."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPOSITORY / "examples" / "digits", "examples/digits")  # this one is real
    for name in ("you/maavt", "you/name"):
        shutil.copytree(folders.maavt, name)
    shutil.copy(folders.clips[0], "clip.mp4")
    for index, name in enumerate(("cat", "dog")):
        (tmp_path / "my_clips" / name).mkdir(parents=True)
        shutil.copy(folders.clips[index], f"my_clips/{name}/clip.mp4")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for name in ("you/vit", "google/vit-base-patch16-224-in21k"):
        ViTModel(ViTConfig(**TINY_VIT), add_pooling_layer=False).save_pretrained(name)
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(name)
    return tmp_path


def run_snippets(text: str, source: str) -> dict:
    names = {"__name__": "snippets"}
    for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(snippet, source, "exec"), names)
    return names


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", PAGES)
def test_snippets_of_a_page(here, page, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: plots)")
    if page == "docs/use_it_your_way.md":
        pytest.importorskip("torchao", reason="torchao is not installed (extra: test)")
    names = run_snippets((REPOSITORY / page).read_text(encoding="utf-8"), page)
    if page == "README.md":
        digit, match, *_ = capsys.readouterr().out.split()
        assert digit == "8" and match.startswith("0.96")  # what the page promises
        assert names["logits"].shape == (1, 3) and (here / "release" / "adapter_model.safetensors").is_file()
    if page == "docs/use_it_your_way.md":
        check_use_it_your_way(names)


def check_use_it_your_way(names: dict) -> None:
    trunk, batch = names["trunk"], names["batch"]
    assert len(names["classify"]("clip.mp4")) == 3  # of a loaded model
    assert names["trainer"].model.config.num_labels == len(names["data"].features["label"].names) == 2
    assert any(type(weight.data) is not torch.Tensor for weight in names["small"].parameters())  # of torchao
    with torch.inference_mode():
        expected = names["tuned"](**names["inputs"]).logits
        torch.testing.assert_close(names["loaded"].eval()(**names["inputs"]).logits, expected)
    assert names["clip"].shape == (1, 64)
    torch.testing.assert_close(names["clip"].norm(dim=-1), torch.ones(1))
    assert names["half"].dtype == names["half"].config.dtype == torch.bfloat16
    # A modality that a clip lacks takes no part in its vector.
    with torch.inference_mode():
        alone = trunk(pixel_values_videos=batch["pixel_values_videos"]).pooler_output
        masked = trunk(**{**batch, "has_audio": torch.tensor([False])}).pooler_output
    torch.testing.assert_close(masked, alone)


def test_snippets_of_the_model_card(here, capsys):
    from peft import get_peft_model

    backbone = MAAVTForAudioVisualClassification.from_pretrained("you/vit", num_labels=3)
    adapted = get_peft_model(backbone, maavt_peft_config(backbone))
    export_adapter(adapted, "adapter", MAAVTProcessor.from_pretrained("you/maavt"))
    for usage, name in ((USAGE_MODEL, "you/name"), (USAGE_ADAPTER, "adapter")):
        usage = usage.format(name=name, clip="clip.mp4", match=", outputs.match_logits")
        names = run_snippets(f"```python\n{usage}\n```", "model_card.md")
        best = names["outputs"].logits[0].argmax().item()
        assert capsys.readouterr().out.startswith(names["model"].config.id2label[best])


def test_the_pages_with_snippets():
    assert PAGES == ["README.md", "docs/use_it_your_way.md", "examples/digits/README.md"]
