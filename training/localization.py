# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Measures where DeepAVFusion's fusion tokens look, after training on boxes or on the clip's class alone.

python -m training.localization configs/deepavfusion/localization_shapes.yaml

With `supervision: class` a classifier is trained, and the attention of its encoder is what is measured: no box is seen.
"""

from pathlib import Path

import numpy as np
import torch

from modeling_deepavfusion import DeepAVFusionForAudioVisualClassification, DeepAVFusionForSoundSourceLocalization
from processing.labeled_frames import LabeledFrames
from processing.localization_metrics import LocalizationScore

from .map_pictures import save_maps
from .task_arguments import parse_task_arguments
from .task_layouts import read_frames
from .task_runs import Rows, build_model, build_processor, predict, train, write_results


def measured(maps: list[np.ndarray], truths: list[np.ndarray]) -> dict[str, float]:
    scores = LocalizationScore().compute(predictions=maps, references=truths)
    scores.pop("num_pictures")
    return scores


def center_map(height: int, width: int) -> np.ndarray:
    """Highest in the middle, falling to 0 at the border: the picture's center as a guess."""
    rows, columns = (1 - abs(np.linspace(-1, 1, size)) for size in (height, width))
    return np.minimum.outer(rows, columns)


def localizer_of(classifier: DeepAVFusionForAudioVisualClassification) -> DeepAVFusionForSoundSourceLocalization:
    """The classifier's encoder, looked at; no weight is copied."""
    model = DeepAVFusionForSoundSourceLocalization(classifier.config)
    model.deepavfusion = classifier.deepavfusion
    return model.eval()


def main(argv: list[str] | None = None) -> Rows:
    """Runs the recipe once for every seed; returns the table."""
    task, args, command = parse_task_arguments(argv)
    if task.supervision not in ("class", "boxes"):
        raise ValueError(f"supervision: {task.supervision!r} is unknown; use 'class' or 'boxes'")
    processor = build_processor(task)
    train_rows, test_rows = read_frames(task, "train"), read_frames(task, "test")
    classes = sorted({row.label for row in train_rows if row.label is not None})
    train_set = LabeledFrames(train_rows, processor, task.supervision, classes, cache=True)
    test_set = LabeledFrames(test_rows, processor, "boxes", cache=True)
    truths = [test_set[index]["labels"].numpy() for index in range(len(test_set))]

    runs, facts = [], {"supervision": task.supervision, "train frames": len(train_set), "test frames": len(test_set)}
    for seed in task.seeds:
        weak = task.supervision == "class"
        model_class = DeepAVFusionForAudioVisualClassification if weak else DeepAVFusionForSoundSourceLocalization
        fields = {"num_labels": len(classes)} if weak else {}
        model = train(build_model(task, model_class, seed, **fields), train_set, args, seed)
        output = Path(args.output_dir) / f"seed_{seed}"
        model.save_pretrained(output / "model")
        processor.save_pretrained(output / "model")
        if weak:
            model = localizer_of(model)
        facts["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        batch_size = args.per_device_eval_batch_size
        heard = [out["logits"][0].numpy() for _, _, out in predict(model, test_set, batch_size)]
        half = len(heard) // 2  # sound of a clip half a test set away
        exchanged = [test_set[(index + half) % len(test_set)]["input_features"] for index in range(len(test_set))]
        swapped_set = [test_set[index] | {"input_features": exchanged[index]} for index in range(len(test_set))]
        swapped = [out["logits"][0].numpy() for _, _, out in predict(model, swapped_set, batch_size)]
        center = center_map(*truths[0].shape)
        runs.append(
            {
                "DeepAVFusion": measured(heard, truths),
                "DeepAVFusion, sound of another clip": measured(swapped, truths),
                "center of the picture": measured([center] * len(truths), truths),
                "whole picture": measured([np.ones_like(center)] * len(truths), truths),
            }
        )
        shown = np.linspace(0, len(test_set) - 1, task.num_pictures).astype(int).tolist()
        pictures = [
            (
                test_set[i]["pixel_values_videos"][0],
                [torch.tensor(maps[i]) for maps in (truths, heard, swapped)],
            )
            for i in shown
        ]
        save_maps(output / "maps.png", pictures, processor.video_processor)

    metrics, headings = ["ciou_at_50", "auc", "mean_ciou", "ap"], ["cIoU@0.5", "AUC", "mean cIoU", "AP"]
    return write_results(task, args, f"python -m training.localization {command}", runs, metrics, headings, facts)


if __name__ == "__main__":
    main()
