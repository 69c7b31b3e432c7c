# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Model cards read well for any backbone, tuning and license: no sentence that is not true of the model, no invented link."""

import copy
import json
import re
from pathlib import Path

import pytest
import yaml

from modeling_maavt import MAAVTConfig
from training.maavt.card import architecture_text, write_card
from training.maavt.options import CardOptions
from training.maavt.outputs import backbone_name
from training.maavt.upload import missing_facts, name_backbone


RESULTS = json.loads((Path(__file__).resolve().parents[2] / "examples" / "digits" / "results.json").read_text())
DEIT = {"backbone": "facebook/deit-tiny-patch16-224", "backbone_license": "apache-2.0", "license": None}
NO_TOKENS = {"num_audio_tokens": 0, "num_visual_tokens": 0, "num_shared_tokens": 0, "token_self_attention": False}


def card(folder: Path, adapter: bool = False, **changes) -> tuple[dict, str]:
    """Header and body of the card of the demo's results, with other facts."""
    results = copy.deepcopy(RESULTS)
    results["card"] |= changes
    text = write_card(folder, results, name="you/name", adapter=adapter).read_text(encoding="utf-8")
    head, body = text.split("---\n", 2)[1:]
    assert (
        "{" not in body.replace("feature_extractor: {", "") and "None" not in body and "backbone backbone" not in body
    )
    assert set(re.findall(r"\]\((.*?)\)", body)) <= {"https://arxiv.org/abs/2406.04930"}
    return yaml.safe_load(head), body


def test_the_demo(tmp_path):
    head, body = card(tmp_path)
    assert head["license"] == "apache-2.0" and "license_name" not in head and "base_model" not in head
    assert "trained weights are under apache-2.0" in body and "both licenses apply" not in body


def test_a_backbone_of_the_hub(tmp_path):
    head, body = card(tmp_path, **DEIT)
    assert head["base_model"] == DEIT["backbone"]
    assert (head["license"], head["license_name"]) == ("other", "see-the-license-section")
    assert f"Backbone: {DEIT['backbone']}. Its license: apache-2.0." in body and "both licenses apply" in body


def test_an_adapter(tmp_path):
    head, body = card(tmp_path, adapter=True, **DEIT)
    assert head["library_name"] == "peft" and "of the maavt package" in body and "adapter_config.json" not in body
    _, body = card(tmp_path, adapter=True)
    assert "The backbone is not on the Hub" in body


def test_a_model_without_match_head(tmp_path):
    _, body = card(tmp_path, match_head=False)
    assert "match_logits" not in body and "match score" not in body


def test_the_card_says_what_the_match_score_tells_apart(tmp_path):
    _, body = card(tmp_path, match_head="patches")
    assert "seem to be of one clip" in body and "another clip of its class" in body and "not whether" not in body
    for head in (True, "bilinear"):
        _, body = card(tmp_path, match_head=head)
        assert "seem to be of one class" in body and "Do not use them to detect dubbing" in body


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "with learned audio, visual, shared and background tokens."),
        ({"background_mining": False}, "with learned audio, visual and shared tokens."),
        ({"num_shared_tokens": 0, "contrastive": None}, "with learned audio, visual and background tokens."),
        (
            {**NO_TOKENS, "num_audio_tokens": 2, "contrastive": None, "background_mining": False},
            "with learned audio tokens.",
        ),
        ({**NO_TOKENS, "contrastive": None}, "It is a baseline for"),
        ({**NO_TOKENS, "contrastive": None, "lavish_config": {}}, "with LAVISH adapters between the streams."),
    ],
)
def test_what_the_model_is(changes, words):
    assert words in architecture_text(MAAVTConfig(**changes))


def test_a_local_backbone_is_described_and_asked_for(tmp_path):
    name = backbone_name(str(tmp_path), MAAVTConfig())
    assert name == f"a vision transformer of 12 layers, 768 wide (from the folder `{tmp_path.name}`)"
    assert backbone_name("facebook/deit", MAAVTConfig()) == "facebook/deit"
    results = copy.deepcopy(RESULTS)
    assert missing_facts(results) == []
    del results["arguments"]["card"]
    results["card"] |= {"backbone": name, "backbone_license": "not stated", "data_license": "not stated"}
    assert len(missing_facts(results)) == 4
    results["card"] |= DEIT
    assert not [fact for fact in missing_facts(results) if "backbone" in fact]


def test_an_uploaded_adapter_names_its_backbone_as_the_hub_does(tmp_path):
    path = tmp_path / "adapter_config.json"
    path.write_text('{"base_model_name_or_path": "/data/deit"}')
    name_backbone(path, None)
    assert json.loads(path.read_text()) == {"base_model_name_or_path": "/data/deit"}
    name_backbone(path, DEIT["backbone"])
    assert json.loads(path.read_text()) == {"base_model_name_or_path": DEIT["backbone"]}


def test_a_license_is_a_name():
    assert CardOptions(license="cc-by-4.0").license == "cc-by-4.0"
    with pytest.raises(ValueError, match="such as apache-2.0"):
        CardOptions(license="free for all")


def test_results_of_version_0_1_0_still_give_a_card(tmp_path):
    results = copy.deepcopy(RESULTS)
    for name in ("architecture", "match_head", "license"):
        results["card"].pop(name, None)
    body = write_card(tmp_path, results, name="you/name").read_text(encoding="utf-8")
    assert "The model is [MA-AVT](https://arxiv.org/abs/2406.04930)" in body and "match_logits" in body
