# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Measures where a model looks, after training on boxes or on the clip's class alone: YAML, frames, Trainer, table.

python -m training.deepavfusion.localization configs/deepavfusion/localization_shapes.yaml

The map is DeepAVFusion's fusion attention, or the attention of MA-AVT's class token. With `supervision: class` a classifier
is trained and no box is seen.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from modeling_deepavfusion import DeepAVFusionForAudioVisualClassification, DeepAVFusionForSoundSourceLocalization
from modeling_deepavfusion.dense_tasks_deepavfusion import scaled
from modeling_maavt import MAAVTConfig, MAAVTForAudioVisualClassification
from processing.data.labeled_frames import LabeledFrames
from processing.metrics.localization import LocalizationScore
from training.common.map_pictures import save_maps

from .task_arguments import TaskArguments, parse_task_arguments
from .task_layouts import read_frames
from .task_runs import (
    OtherSounds,
    Rows,
    build_model,
    build_processor,
    finished_run,
    predict,
    record_run,
    run_facts,
    train,
    write_results,
)


def measured(maps: list[np.ndarray], truths: list[np.ndarray]) -> dict[str, float]:
    scores = LocalizationScore().compute(predictions=maps, references=truths)
    scores.pop("num_pictures")
    return scores


def trivial_maps(height: int, width: int) -> dict[str, np.ndarray]:
    """The picture's center (highest in the middle, 0 at the border), and all of it alike."""
    rows, columns = (1 - abs(np.linspace(-1, 1, size)) for size in (height, width))
    return {"center of the picture": np.minimum.outer(rows, columns), "whole picture": np.ones((height, width))}


def new_model(task: TaskArguments, seed: int, classes: list[str]) -> PreTrainedModel:
    """What is trained: a classifier, or DeepAVFusion's attention itself."""
    if task.system == "maavt":
        if task.model_name_or_path is not None:
            return MAAVTForAudioVisualClassification.from_pretrained(task.model_name_or_path, num_labels=len(classes))
        torch.manual_seed(seed)
        return MAAVTForAudioVisualClassification(MAAVTConfig(**(task.model_config or {}), num_labels=len(classes)))
    if task.supervision == "class":
        return build_model(task, DeepAVFusionForAudioVisualClassification, seed, num_labels=len(classes))
    return build_model(task, DeepAVFusionForSoundSourceLocalization, seed)


def maps_of(model: PreTrainedModel, dataset: Dataset, batch_size: int) -> list[np.ndarray]:
    """A map `[H, W]` in 0..1 of every frame."""
    if isinstance(model, MAAVTForAudioVisualClassification):
        grids = [
            out["video_localization"] for _, _, out in predict(model, dataset, batch_size, output_localization=True)
        ]
        size = dataset[0]["pixel_values_videos"].shape[-2:]
        maps = [nn.functional.interpolate(scaled(grid)[None], size=size, mode="bilinear")[0, 0] for grid in grids]
        return [values.numpy() for values in maps]
    if isinstance(model, DeepAVFusionForAudioVisualClassification):  # its encoder, looked at
        localizer = DeepAVFusionForSoundSourceLocalization(model.config).eval()
        localizer.deepavfusion = model.deepavfusion
        model = localizer
    return [out["logits"][0].numpy() for _, _, out in predict(model, dataset, batch_size)]


def main(argv: list[str] | None = None) -> Rows:
    """Runs the recipe once for every seed; returns the table."""
    task, args, command = parse_task_arguments(argv)
    if task.supervision not in ("class", "boxes") or task.system not in ("deepavfusion", "maavt"):
        raise ValueError(
            f"supervision: {task.supervision!r}, system: {task.system!r}; use 'class' or 'boxes', and 'deepavfusion' or "
            "'maavt'"
        )
    if task.system == "maavt" and task.supervision != "class":
        raise ValueError("supervision: MA-AVT's map is learned with its classes; use 'class'")
    processor = build_processor(task)
    train_rows, test_rows = read_frames(task, "train"), read_frames(task, "test")
    classes = sorted({row.label for row in train_rows if row.label is not None})
    train_set = LabeledFrames(train_rows, processor, task.supervision, classes, cache=True)
    test_set = LabeledFrames(test_rows, processor, "boxes", cache=True)
    truths = [test_set[index]["labels"].numpy() for index in range(len(test_set))]

    facts = {"supervision": task.supervision, "train frames": len(train_set), "test frames": len(test_set)}
    facts = run_facts(task, args, **facts)
    name = {"deepavfusion": "DeepAVFusion", "maavt": "MA-AVT"}[task.system]
    runs = []
    for seed in task.seeds:
        run = finished_run(args, seed, facts)
        if run is None:
            model = train(new_model(task, seed, classes), train_set, args, seed)
            heard = maps_of(model, test_set, args.per_device_eval_batch_size)
            swapped = maps_of(model, OtherSounds(test_set), args.per_device_eval_batch_size)
            run = {name: measured(heard, truths), f"{name}, sound of another clip": measured(swapped, truths)}
            run |= {
                other: measured([values] * len(truths), truths)
                for other, values in trivial_maps(*truths[0].shape).items()
            }
            output = Path(args.output_dir) / f"seed_{seed}"
            model.save_pretrained(output / "model")
            processor.save_pretrained(output / "model")
            shown = np.linspace(0, len(test_set) - 1, task.num_pictures).astype(int).tolist()
            pictures = [
                (test_set[i]["pixel_values_videos"][0], [torch.tensor(maps[i]) for maps in (truths, heard, swapped)])
                for i in shown
            ]
            save_maps(output / "maps.png", pictures, processor.video_processor)
            record_run(args, seed, facts, run)
        runs.append(run)

    metrics, headings = ["ciou_at_50", "auc", "mean_ciou", "ap"], ["cIoU@0.5", "AUC", "mean cIoU", "AP"]
    return write_results(
        task, args, f"python -m training.deepavfusion.localization {command}", runs, metrics, headings, facts
    )


if __name__ == "__main__":
    main()
