# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The options `processor` and `model_config` change what a checkpoint has, and what they misname is refused."""

from types import SimpleNamespace

import pytest
import torch
from tiny_models import TINY_VIT
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from processing import (
    DeepAVFusionFeatureExtractor,
    DeepAVFusionProcessor,
    DeepAVFusionVideoProcessor,
    MAAVTFeatureExtractor,
    MAAVTProcessor,
    MAAVTVideoProcessor,
)
from training.deepavfusion import seed_loop
from training.deepavfusion.arguments import TaskArguments
from training.deepavfusion.localization import new_model
from training.maavt import data


WRONG = [
    (
        {"feature_extracter": {"num_bins": 64}},
        r"^processor: unknown parts \['feature_extracter'\]; known: feature_ext",
    ),
    (
        {"feature_extractor": {"num_bin": 64}},
        "^processor: feature_extractor: unknown field 'num_bin'; did you mean 'num_bins'\\?$",
    ),
    (
        {"video_processor": {"crop_boxes": None}},
        "^processor: video_processor: unknown field 'crop_boxes'; did you mean 'crop_box'\\?$",
    ),
    ({"feature_extractor": {"num_segments": 0}}, "^processor: feature_extractor: num_segments=0; give a number above"),
    ({"feature_extractor": {"preset": "loud"}}, "^processor: feature_extractor: preset 'loud' is unknown; use one of"),
    ({"feature_extractor": 3}, "^processor: feature_extractor: give a mapping of fields, not 3$"),
]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A ViT with an image processor."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    ViTModel(ViTConfig(**{k: v for k, v in TINY_VIT.items() if k != "model_type"})).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3]).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def maavt_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maavt")
    video_processor = MAAVTVideoProcessor(size={"height": 32, "width": 32}, crop_box=[0, 0, 0.5, 1])
    MAAVTProcessor(MAAVTFeatureExtractor(num_bins=64), video_processor).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def deepavfusion_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deepavfusion")
    video_processor = DeepAVFusionVideoProcessor(size={"height": 96, "width": 96})
    DeepAVFusionProcessor(DeepAVFusionFeatureExtractor(num_bins=64), video_processor).save_pretrained(folder)
    return str(folder)


def maavt_processor(name: str, changes: dict | None = None, revision: str | None = None):
    model = SimpleNamespace(model_name_or_path=name, revision=revision)
    clips = SimpleNamespace(processor=changes, num_frames=2)
    return data.build_processor(SimpleNamespace(model=model, data=clips))


def deepavfusion_processor(name: str | None, changes: dict | None = None):
    return seed_loop.build_processor(TaskArguments(data="clips", model_name_or_path=name, processor=changes))


def test_changes_keep_the_other_fields_of_a_deepavfusion_checkpoint(deepavfusion_checkpoint):
    processor = deepavfusion_processor(deepavfusion_checkpoint, {"feature_extractor": {"num_segments": 2}})
    assert (processor.feature_extractor.num_segments, processor.feature_extractor.num_bins) == (2, 64)
    assert processor.video_processor.size["height"] == 96
    unchanged = DeepAVFusionProcessor.from_pretrained(deepavfusion_checkpoint)
    assert processor.video_processor.to_dict() == unchanged.video_processor.to_dict()
    expected = unchanged.feature_extractor.to_dict() | {"num_segments": 2}
    assert processor.feature_extractor.to_dict() == expected


def test_a_new_deepavfusion_processor_has_the_changes():
    changes = {"feature_extractor": {"preset": "ten_windows"}, "video_processor": {"size": {"shortest_edge": 224}}}
    processor = deepavfusion_processor(None, changes)
    assert processor.feature_extractor.num_segments == 10
    expected = DeepAVFusionVideoProcessor(size={"shortest_edge": 224})
    assert processor.video_processor.to_dict() == expected.to_dict()


def test_weights_without_a_processor_get_a_new_one_with_the_changes(backbone, tmp_path):
    ViTModel.from_pretrained(backbone).save_pretrained(tmp_path)
    processor = deepavfusion_processor(str(tmp_path), {"feature_extractor": {"num_bins": 64}})
    assert processor.feature_extractor.num_bins == 64
    with pytest.raises((OSError, ValueError)):
        deepavfusion_processor(str(tmp_path))


def test_a_plain_vit_gives_deepavfusion_its_size_and_mean(backbone):
    for changes in (None, {"feature_extractor": {"num_bins": 64}}):
        video = deepavfusion_processor(backbone, changes).video_processor
        assert video.size["height"] == 32 and list(video.image_mean) == [0.1, 0.2, 0.3]


def test_changes_keep_the_other_fields_of_a_maavt_checkpoint(maavt_checkpoint):
    changes = {"feature_extractor": {"num_segments": 2}, "video_processor": {"crop_box": None}}
    processor = maavt_processor(maavt_checkpoint, changes)
    assert (processor.feature_extractor.num_segments, processor.feature_extractor.num_bins) == (2, 64)
    video = processor.video_processor
    assert (video.size["height"], video.frames_per_clip, video.crop_box) == (32, 2, None)


def test_a_preset_replaces_the_audio_recipe_of_a_checkpoint(maavt_checkpoint, backbone):
    for name in (maavt_checkpoint, backbone):
        extractor = maavt_processor(
            name, {"feature_extractor": {"preset": "ave", "num_segments": 5}}
        ).feature_extractor
        assert extractor.to_dict() == MAAVTFeatureExtractor.from_preset("ave", num_segments=5).to_dict()


def test_a_backbone_gives_the_size_and_mean(backbone):
    processor = maavt_processor(backbone, {"feature_extractor": {"num_bins": 16}})
    assert processor.video_processor.size["height"] == 32 and processor.video_processor.frames_per_clip == 2
    assert list(processor.video_processor.image_mean) == [0.1, 0.2, 0.3] and processor.feature_extractor.num_bins == 16


def test_the_processor_of_a_hub_checkpoint_is_read_at_its_revision(maavt_checkpoint, monkeypatch):
    def from_hub(name: str, revision: str):
        assert (name, revision) == ("user/model", "v2")
        return MAAVTProcessor.from_pretrained(maavt_checkpoint)

    monkeypatch.setattr(data.AutoProcessor, "from_pretrained", from_hub)
    assert maavt_processor("user/model", revision="v2").feature_extractor.num_bins == 64


@pytest.mark.parametrize("changes, message", WRONG)
def test_what_a_processor_does_not_have_is_refused(
    maavt_checkpoint, deepavfusion_checkpoint, backbone, changes, message
):
    for name in (maavt_checkpoint, backbone):
        with pytest.raises(ValueError, match=message):
            maavt_processor(name, changes)
    for name in (deepavfusion_checkpoint, None):
        with pytest.raises(ValueError, match=message):
            deepavfusion_processor(name, changes)


def test_localization_builds_maavt_on_a_backbone_with_its_config_and_seed(backbone):
    config = {"background_mining": False, "num_audio_tokens": 2, "freeze_backbone": False}
    task = TaskArguments(
        data="clips", system="maavt", supervision="class", model_name_or_path=backbone, model_config=config
    )
    models = []
    for seed in (0, 0, 1):
        models.append(new_model(task, seed, ["blue", "red"]))
        torch.rand(3)  # the state of the generator does not matter
    assert {name: getattr(models[0].config, name) for name in config} == config and models[0].num_labels == 2
    tokens = [model.maavt.prompt.audio_tokens for model in models]
    assert torch.equal(tokens[0], tokens[1]) and not torch.equal(tokens[0], tokens[2])
