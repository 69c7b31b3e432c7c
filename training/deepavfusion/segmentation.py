# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains DeepAVFusion to find the pixels that sound, and measures it: YAML, frames, model, Trainer, table, pictures.

python -m training.deepavfusion.segmentation configs/deepavfusion/segmentation_shapes.yaml
"""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from modeling_deepavfusion import DeepAVFusionForAudioVisualSegmentation
from processing.data.labeled_frames import LabeledFrames
from processing.metrics.segmentation import AVSBenchScore, DeepAVFusionSegmentationScore, SemanticSegmentationScore
from training.common.map_pictures import save_maps

from .task_arguments import parse_task_arguments
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


def measured(scores: list[np.ndarray], truths: list[np.ndarray], groups: list[str]) -> dict[str, float]:
    """The official figures, and those of the published code under their own names."""
    official = AVSBenchScore().compute(predictions=scores, references=truths, groups=groups)
    published = DeepAVFusionSegmentationScore().compute(predictions=scores, references=truths)
    official.pop("num_pictures")
    return official | {f"published_{name}": published[name] for name in ("miou_with_background", "f_score")}


def trivial_masks(truths: list[np.ndarray], mean: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Everything, a box in the middle of a quarter of the picture's area, and the training masks' mean, 0..1."""
    height, width = truths[0].shape
    box = np.zeros((height, width))
    box[height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
    masks = {"all foreground": np.ones((height, width)), "center box": box, "mean of the training masks": mean}
    return {name: [mask] * len(truths) for name, mask in masks.items()}


def scores_of(model: PreTrainedModel, dataset: Dataset, batch_size: int) -> list[np.ndarray]:
    """Probabilities `[H, W]` of every frame, or classes where there are several."""
    logits = [out["logits"][0] for _, _, out in predict(model, dataset, batch_size)]
    return [(own[0].sigmoid() if len(own) == 1 else own.argmax(0)).numpy() for own in logits]


def main(argv: list[str] | None = None) -> Rows:
    """Runs the recipe once for every seed; returns the table."""
    task, args, command = parse_task_arguments(argv)
    processor = build_processor(task)
    train_set = LabeledFrames(read_frames(task, "train"), processor, "mask", cache=True)
    test_set = LabeledFrames(read_frames(task, "test"), processor, "mask", cache=True)
    groups = [row.group for row in test_set.rows]
    truths = [test_set[index]["labels"].numpy() for index in range(len(test_set))]
    num_labels = (task.model_config or {}).get("num_labels", 1)

    facts = run_facts(task, args, **{"train frames": len(train_set), "test frames": len(test_set)})
    runs = []
    for seed in task.seeds:
        run = finished_run(args, seed, facts)
        if run is None:
            model = build_model(task, DeepAVFusionForAudioVisualSegmentation, seed, num_labels=num_labels)
            model = train(model, train_set, args, seed)
            heard, swapped = (
                scores_of(model, each, args.per_device_eval_batch_size) for each in (test_set, OtherSounds(test_set))
            )
            both = {"DeepAVFusion": heard, "DeepAVFusion, sound of another clip": swapped}
            if num_labels == 1:
                mean = sum(train_set[index]["labels"].numpy() for index in range(len(train_set))) / len(train_set)
                methods = both | trivial_masks(truths, mean / max(mean.max(), 1e-6))
                run = {name: measured(masks, truths, groups) for name, masks in methods.items()}
            else:
                score = SemanticSegmentationScore(num_classes=num_labels)
                run = {name: score.compute(predictions=masks, references=truths) for name, masks in both.items()}
                heard, swapped = ([(own > 0).astype(float) for own in each] for each in (heard, swapped))
            output = Path(args.output_dir) / f"seed_{seed}"
            model.save_pretrained(output / "model")
            processor.save_pretrained(output / "model")
            shown = np.linspace(0, len(test_set) - 1, task.num_pictures).astype(int).tolist()
            pictures = [
                (
                    test_set[i]["pixel_values_videos"][0],
                    [torch.tensor(maps[i]) for maps in ([truth > 0 for truth in truths], heard, swapped)],
                )
                for i in shown
            ]
            save_maps(output / "masks.png", pictures, processor.video_processor)
            record_run(args, seed, facts, run)
        runs.append(run)

    if num_labels == 1:
        metrics = ["miou", "f_score", "published_miou_with_background", "published_f_score"]
        headings = ["mIoU (foreground)", "F", "published mIoU (with background)", "published F"]
    else:
        metrics, headings = ["miou", "f_score"], ["mIoU (classes)", "F"]
    return write_results(
        task, args, f"python -m training.deepavfusion.segmentation {command}", runs, metrics, headings, facts
    )


if __name__ == "__main__":
    main()
