# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The recipes of segmentation, localization and separation from mp4 files to table, pictures, wav files and checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sets import write_s4
from transformers import AutoModel, AutoModelForSemanticSegmentation, AutoProcessor, Trainer, ViTConfig, ViTModel

from modeling_deepavfusion import DeepAVFusionConfig, DeepAVFusionModel
from processing.generate.sounding_shapes import ShapeSettings, write_shapes
from training.common.commands import run_command
from training.common.map_pictures import displayed_frame
from training.deepavfusion import localization, segmentation, separation
from training.deepavfusion.arguments import TaskArguments, parse_arguments
from training.deepavfusion.seed_loop import build_processor


CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "deepavfusion"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    settings = ShapeSettings(num_train=4, num_test=6, num_pairs=1, frames_per_clip=1)
    return str(write_shapes(tmp_path_factory.mktemp("shapes") / "clips", settings))


def arguments(name: str, clips: str, output: Path, *more: str) -> list[str]:
    few = ["--max_steps", "1", "--per_device_train_batch_size", "2", "--num_pictures", "1", "--disable_tqdm", "true"]
    folders = ["--data", clips, "--output_dir", str(output), "--results", str(output / "table")]
    return [str(CONFIGS / f"{name}.yaml"), "--seeds", "0", *few, *folders, *more]


def write_vggss(folder: Path, clips: str) -> None:
    """VGG-SS's layout, of three generated clips."""
    folder.mkdir(exist_ok=True)
    (folder / "clips").symlink_to(Path(clips) / "clips")
    boxes = [{"file": f"test_000{i}", "class": "x", "bbox": [[0.1 * i, 0.2, 0.5, 0.7]]} for i in range(3)]
    (folder / "vggss.json").write_text(json.dumps(boxes))


def test_segmentation(clips, tmp_path):
    table = segmentation.main(arguments("segmentation_shapes", clips, tmp_path))
    trivial = {"all foreground", "center box", "mean of the training masks"}
    assert set(table) == {"DeepAVFusion", "DeepAVFusion, audio of another clip"} | trivial
    record = json.loads((tmp_path / "table.json").read_text())
    assert record["runs"]["0"]["all foreground"]["miou"] == pytest.approx(table["all foreground"]["miou"])
    # the shape's share of the picture: an F of 1.3 s / (0.3 s + 1) and an IoU of s
    share = table["all foreground"]["miou"]
    assert 0.02 < share < 0.12
    assert table["all foreground"]["f_score"] == pytest.approx(1.3 * share / (0.3 * share + 1), abs=0.005)
    words = Image.open(tmp_path / "seed_0" / "masks.png").text["Description"]
    assert "sounding pixels (truth)" in words and "mask (output)" in words
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "seed_0" / "model")
    batch = AutoProcessor.from_pretrained(tmp_path / "seed_0" / "model")(clips=f"{clips}/clips/test_0000.mp4")
    assert model(**batch).logits.shape == (1, 1, 1, 32, 32)
    before = (tmp_path / "seed_0" / "measured.json").stat().st_mtime_ns
    again = segmentation.main(arguments("segmentation_shapes", clips, tmp_path))
    assert again == table and (tmp_path / "seed_0" / "measured.json").stat().st_mtime_ns == before  # not run again
    with pytest.raises(ValueError, match="choose another --output_dir"):
        segmentation.main(arguments("segmentation_shapes", clips, tmp_path, "--learning_rate", "1e-5"))


@pytest.mark.parametrize(
    "config, more, name",
    [
        ("localization_shapes", [], "DeepAVFusion"),
        ("localization_shapes", ["--supervision", "class"], "DeepAVFusion"),
        ("localization_shapes_maavt", [], "MA-AVT"),
    ],
)
def test_localization(clips, tmp_path, config, more, name):
    table = localization.main(arguments(config, clips, tmp_path, *more))
    assert set(table) == {name, f"{name}, audio of another clip", "center of the frame", "whole frame"}
    assert all(0 <= value <= 1 for row in table.values() for value in row.values())
    assert 0 < table["whole frame"]["mean_ciou"] < 0.5  # the share of the frame that the shape covers
    if name == "MA-AVT":  # its picture does not hear the sound
        assert table[name] == table[f"{name}, audio of another clip"]
    assert (tmp_path / "seed_0" / "maps.png").is_file() and (tmp_path / "table.md").read_text().startswith("`python")


@pytest.mark.parametrize(
    "config, more, name",
    [
        ("localization_shapes", ["--supervision", "class"], "DeepAVFusion"),
        ("localization_shapes_maavt", [], "MA-AVT"),
    ],
)
def test_localization_on_a_test_set_trains_nothing(clips, tmp_path, config, more, name):
    """VGG-SS's layout, of shapes, measured with a classifier of three classes."""
    write_vggss(tmp_path, clips)
    command = arguments(config, str(tmp_path), tmp_path / "run", *more)
    task, _ = parse_arguments(TaskArguments, command)
    for part in (localization.new_model(task, 0, ["a", "b", "c"]), build_processor(task)):
        part.save_pretrained(tmp_path / "model")
    command += ["--layout", "vggss"]
    with pytest.raises(ValueError, match="model_name_or_path: layout 'vggss' is a test set"):
        localization.main(command)
    command += ["--model_name_or_path", str(tmp_path / "model"), "--model_config", "{}", "--processor", "{}"]
    table = localization.main(command)
    assert set(table) == {name, f"{name}, audio of another clip", "center of the frame", "whole frame"}
    facts = json.loads((tmp_path / "run" / "table.json").read_text())["facts"]
    assert facts["training"] == "none" and facts["test frames"] == 3
    assert not (tmp_path / "run" / "seed_0" / "model").exists()


@pytest.mark.parametrize("task", [segmentation, localization])
def test_a_plain_vit_in_both_branches(clips, tmp_path, task):
    """The recipe that starts from a ViT of the Hub, with a tiny one; after a step both are hardly changed."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    vit = ViTModel(ViTConfig(**sizes, image_size=28, patch_size=14), add_pooling_layer=False)
    vit.save_pretrained(tmp_path / "vit")
    table = task.main(
        arguments("shapes_from_vit", clips, tmp_path / "run", "--model_name_or_path", str(tmp_path / "vit"))
    )
    assert "DeepAVFusion" in table
    model = AutoModel.from_pretrained(tmp_path / "run" / "seed_0" / "model")
    for branch in (model.layers[1].image, model.layers[1].audio):
        torch.testing.assert_close(branch.mlp.fc1.weight, vit.layers[1].mlp.fc1.weight, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "task, config, fields",
    [
        (
            segmentation,
            "segmentation_avsbench",
            {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
        ),
        (localization, "localization_vggss", {}),
    ],
)
def test_recipes_of_the_real_sets(clips, tmp_path, task, config, fields):
    """The file of the recipe as it is, on a tiny set in the layout of the real one, from a tiny encoder."""
    data = tmp_path / "data"
    if task is segmentation:
        write_s4(data, np.eye(30, 40) * 255)
    else:
        write_vggss(data, clips)
    options, _ = parse_arguments(TaskArguments, [str(CONFIGS / "segmentation_shapes.yaml")])
    encoder = DeepAVFusionModel(DeepAVFusionConfig(**options.model_config))
    for part in (encoder, build_processor(options)):
        part.save_pretrained(tmp_path / "encoder")
    narrow = {"model_config": {"segmentation_min_channels": 8}, "processor": {"video_processor": fields}}
    command = [str(CONFIGS / f"{config}.yaml"), "--data", str(data), "--model_name_or_path", str(tmp_path / "encoder")]
    command += ["--output_dir", str(tmp_path / "run"), "--max_steps", "1", "--bf16", "false", "--use_cpu", "true"]
    command += ["--dataloader_num_workers", "1", "--num_pictures", "1", "--disable_tqdm", "true"]
    for name, values in narrow.items():
        command += [f"--{name}", json.dumps(values)]
    table = task.main(command)
    assert "DeepAVFusion" in table and "DeepAVFusion, audio of another clip" in table
    record = json.loads((tmp_path / "run" / "results.json").read_text())
    assert record["facts"]["test frames"] == (5 if task is segmentation else 3)


def test_what_a_recipe_would_ignore_is_refused(clips, tmp_path):
    command = arguments("segmentation_shapes", clips, tmp_path)
    for more, message in (
        (["--seed", "7"], "seed: .* give --seeds 7"),
        (["--layout", "avss"], "num_labels: layout 'avss' has masks of 71 classes"),
        (["--processor", "{video_processor: {crop_box: [0.2, 0.2, 0.8, 0.8]}}"], "crop_box: masks and boxes"),
    ):
        with pytest.raises(ValueError, match=message):
            segmentation.main([*command, *more])


def test_separation(clips, tmp_path):
    pytest.importorskip("mir_eval")
    table = separation.main(arguments("separation_shapes", clips, tmp_path))
    assert table["true ratio mask"]["sdr"] > 15 > 3 > abs(table["mixture"]["sdr"])
    assert len(list((tmp_path / "seed_0" / "wav").glob("0_*.wav"))) == 5
    with Image.open(tmp_path / "seed_0" / "spectrograms.png") as picture:  # one frame, three spectrograms
        assert picture.width > 3 * picture.height > 300
        assert "mixture (input) | separated (output) | source of the frame (truth)" in picture.text["Description"]


def test_a_run_is_resumed_from_its_checkpoint(clips, tmp_path, monkeypatch):
    """Segmentation, localization and separation train by one function."""
    steps, training_step = [], Trainer.training_step
    monkeypatch.setattr(Trainer, "training_step", lambda *args: (steps.append(1), training_step(*args))[1])
    saving = ["--save_strategy", "steps", "--save_steps", "1", "--lr_scheduler_type", "constant", "--max_steps"]
    whole = segmentation.main(arguments("segmentation_shapes", clips, tmp_path / "whole", *saving, "2"))
    command = arguments("segmentation_shapes", clips, tmp_path / "cut", *saving)
    segmentation.main([*command, "1"])
    (tmp_path / "cut" / "seed_0" / "measured.json").unlink()
    again = segmentation.main([*command, "2", "--resume_from_checkpoint", "true"])
    assert len(steps) == 2 + 1 + 1 and again["DeepAVFusion"] == whole["DeepAVFusion"]
    AutoProcessor.from_pretrained(tmp_path / "cut" / "seed_0" / "checkpoint-2")


def test_wrong_arguments_are_named(clips, tmp_path):
    (tmp_path / "run.yaml").write_text("data: x\nlearning_rat: 1\n")
    with pytest.raises(ValueError, match="unknown key 'learning_rat'; did you mean 'learning_rate'"):
        parse_arguments(TaskArguments, [str(tmp_path / "run.yaml")])
    with pytest.raises(ValueError, match=r"model_config: unknown fields \['hiden_size'\]"):
        segmentation.main(arguments("segmentation_shapes", clips, tmp_path, "--model_config", "{hiden_size: 8}"))
    with pytest.raises(ValueError, match="has no labeled frames"):
        segmentation.main(arguments("segmentation_shapes", clips, tmp_path, "--layout", "pairs"))
    with pytest.raises(ValueError, match="MA-AVT's map"):
        localization.main(arguments("localization_shapes_maavt", clips, tmp_path, "--supervision", "boxes"))
    with pytest.raises(ValueError, match="duet.csv: no such table"):
        segmentation.main(arguments("segmentation_shapes", str(tmp_path), tmp_path))


def test_frames_are_shown_as_they_were():
    class Video:
        image_mean, image_std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]

    picture = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in (Video.image_mean, Video.image_std))
    shown = displayed_frame((picture / 255 - mean) / std, Video)
    np.testing.assert_array_equal(shown, picture.permute(1, 2, 0).numpy())


def test_an_error_is_one_line(monkeypatch):
    def main():
        raise ValueError("layout: 'x'; use 'shapes'")

    monkeypatch.setattr("sys.argv", ["program"])
    with pytest.raises(SystemExit) as stopped:
        run_command(main)
    assert stopped.value.code == "error: layout: 'x'; use 'shapes'"  # Python prints it, and exits with 1
    monkeypatch.setattr("sys.argv", ["program", "--debug"])
    with pytest.raises(ValueError):
        run_command(main)
