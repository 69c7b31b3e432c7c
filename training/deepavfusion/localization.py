# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Measures where a model looks, after training on boxes or on the clip's class alone: frames, Trainer, table, figures.

python -m training.deepavfusion.localization configs/deepavfusion/localization_shapes.yaml

The map is DeepAVFusion's fusion attention, or the attention of MA-AVT's class token. With `supervision: class` a
classifier is trained, which sees no box. VGG-SS and Flickr-SoundNet are test sets: nothing is trained on them, and
`model_name_or_path` is measured as it is.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainingArguments

from modeling_deepavfusion import DeepAVFusionForAudioVisualClassification, DeepAVFusionForSoundSourceLocalization
from modeling_deepavfusion.dense_tasks_deepavfusion import scaled
from modeling_maavt import MAAVTConfig, MAAVTForAudioVisualClassification
from processing.data.labeled_frames import LabeledFrames
from processing.metrics.localization import LocalizationScore
from training.common.commands import run_command
from training.common.map_pictures import save_maps

from .arguments import TaskArguments, parse_arguments
from .layouts import TEST_LAYOUTS, read_frames
from .seed_loop import MismatchedAudio, Rows, build_model, build_processor, predict, run_seeds, save_model, train


SYSTEMS = {"deepavfusion": "DeepAVFusion", "maavt": "MA-AVT"}
COLUMNS = {"ciou_at_50": "cIoU@0.5", "auc": "AUC", "mean_ciou": "mean cIoU", "ap": "AP"}


def main(argv: list[str] | None = None) -> Rows:
    """Run the recipe once for every seed; returns the table."""
    task, args = parse_arguments(TaskArguments, argv)
    check(task)

    # Data: frames with boxes; training may see the class alone. They stay in memory where this process decodes them.
    processor = build_processor(task)
    cache = args.dataloader_num_workers == 0
    test_set = LabeledFrames(read_frames(task, "test"), processor, "boxes", cache=cache)
    if task.layout in TEST_LAYOUTS:
        facts = {"training": "none", "test frames": len(test_set)}
    else:
        train_rows = read_frames(task, "train")
        classes = sorted({row.label for row in train_rows if row.label is not None})
        train_set = LabeledFrames(train_rows, processor, task.supervision, classes, cache=cache)
        facts = {"supervision": task.supervision, "train frames": len(train_set), "test frames": len(test_set)}

    def measure(args: TrainingArguments) -> Rows:
        # Model and training.
        if task.layout in TEST_LAYOUTS:
            model = trained_model(task, args.seed).to(args.device).eval()
        else:
            model = train(new_model(task, args.seed, classes), train_set, args)
            save_model(model, processor, args)

        # Test: with the clip's own audio, and with the audio of another clip.
        truths = [test_set[index]["labels"].numpy() for index in range(len(test_set))]
        batch_size = args.per_device_eval_batch_size
        maps = predicted_maps(model, test_set, batch_size)
        mismatched = predicted_maps(model, MismatchedAudio(test_set), batch_size)

        # Table and figures.
        save_pictures(Path(args.output_dir) / "maps.png", test_set, [truths, maps, mismatched], task.num_pictures)
        name = SYSTEMS[task.system]
        methods = {name: maps, f"{name}, audio of another clip": mismatched}
        methods |= {name: [each] * len(truths) for name, each in trivial_maps(*truths[0].shape).items()}
        return {name: scores(each, truths) for name, each in methods.items()}

    return run_seeds("localization", argv, task, args, lambda seed: facts, measure, COLUMNS)


def check(task: TaskArguments) -> None:
    """Raise ValueError for an unknown supervision or system, two that do not go together, or no model to measure."""
    if task.supervision not in ("class", "boxes"):
        raise ValueError(f"supervision: {task.supervision!r}; use 'class' or 'boxes'")
    if task.system not in SYSTEMS:
        raise ValueError(f"system: {task.system!r}; use 'deepavfusion' or 'maavt'")
    if task.system == "maavt" and task.supervision != "class":
        raise ValueError("supervision: MA-AVT's map is learned with its classes; use 'class'")
    if task.layout in TEST_LAYOUTS and task.model_name_or_path is None:
        raise ValueError(f"model_name_or_path: layout {task.layout!r} is a test set; give the model that is measured")


def new_model(task: TaskArguments, seed: int, classes: list[str]) -> PreTrainedModel:
    """What is trained: a classifier, or DeepAVFusion's attention itself."""
    if task.system == "deepavfusion" and task.supervision == "boxes":
        return build_model(task, DeepAVFusionForSoundSourceLocalization, seed)
    if task.system == "deepavfusion":
        return build_model(task, DeepAVFusionForAudioVisualClassification, seed, num_labels=len(classes))
    # The seed fixes the new weights, also those on top of a backbone.
    torch.manual_seed(seed)
    fields = {**(task.model_config or {}), "num_labels": len(classes)}
    if task.model_name_or_path is not None:
        return MAAVTForAudioVisualClassification.from_pretrained(task.model_name_or_path, **fields)
    return MAAVTForAudioVisualClassification(MAAVTConfig(**fields))


def trained_model(task: TaskArguments, seed: int) -> PreTrainedModel:
    """`model_name_or_path` as it is: a MA-AVT, or any DeepAVFusion as its attention alone."""
    if task.system == "maavt":
        return MAAVTForAudioVisualClassification.from_pretrained(task.model_name_or_path, **(task.model_config or {}))
    return build_model(task, DeepAVFusionForSoundSourceLocalization, seed)


def predicted_maps(model: PreTrainedModel, dataset: Dataset, batch_size: int) -> list[np.ndarray]:
    """A map `[H, W]` in 0..1 of every frame."""
    if isinstance(model, MAAVTForAudioVisualClassification):
        size = dataset[0]["pixel_values_videos"].shape[-2:]
        maps = []
        for _, outputs in predict(model, dataset, batch_size, output_localization=True):
            grid = scaled(outputs["video_localization"])[None]  # (1, T, h, w)
            maps.append(nn.functional.interpolate(grid, size=size, mode="bilinear")[0, 0].numpy())
        return maps
    if isinstance(model, DeepAVFusionForAudioVisualClassification):
        # The map is the attention of the classifier's encoder.
        localizer = DeepAVFusionForSoundSourceLocalization(model.config).eval()
        localizer.deepavfusion = model.deepavfusion
        model = localizer
    return [outputs["logits"][0].numpy() for _, outputs in predict(model, dataset, batch_size)]


def scores(maps: list[np.ndarray], truths: list[np.ndarray]) -> dict[str, float]:
    """The figures of `LocalizationScore`."""
    figures = LocalizationScore().compute(predictions=maps, references=truths)
    figures.pop("num_frames")
    return figures


def trivial_maps(height: int, width: int) -> dict[str, np.ndarray]:
    """What needs no model: the frame's center (1 in the middle, 0 at the border), and every pixel alike."""
    rows, columns = (1 - abs(np.linspace(-1, 1, size)) for size in (height, width))
    return {"center of the frame": np.minimum.outer(rows, columns), "whole frame": np.ones((height, width))}


def save_pictures(path: Path, test_set: LabeledFrames, columns: list[list[np.ndarray]], num_pictures: int) -> None:
    """Draw some test frames with truth, map, and map with another clip's audio."""
    rows = []
    for index in np.linspace(0, len(test_set) - 1, num_pictures).astype(int).tolist():
        maps = [torch.tensor(column[index]) for column in columns]
        rows.append((test_set[index]["pixel_values_videos"][0], maps))
    save_maps(
        path,
        rows,
        test_set.processor.video_processor,
        ["boxes of the source\n(truth)", "attention\n(output)", "attention with the audio\nof another clip (output)"],
        "attention, scaled to 0..1 in each frame (truth: share of annotators)",
        "Bright: where the model looks. A model that listens looks elsewhere with the audio of another clip.",
    )


if __name__ == "__main__":
    run_command(main)
