# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains DeepAVFusion to find the sounding pixels, and measures it: frames, model, Trainer, table, figures.

python -m training.deepavfusion.segmentation configs/deepavfusion/segmentation_shapes.yaml
"""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainingArguments

from modeling_deepavfusion import DeepAVFusionForAudioVisualSegmentation
from processing.data.labeled_frames import LabeledFrames
from processing.metrics.finite_logits import check_finite
from processing.metrics.segmentation import AVSBenchScore, DeepAVFusionSegmentationScore, SemanticSegmentationScore
from training.common.commands import run_command
from training.common.map_pictures import save_maps

from .arguments import TaskArguments, parse_arguments
from .layouts import read_frames
from .seed_loop import MismatchedAudio, Rows, build_model, build_processor, predict, run_seeds, save_model, train


REFERENCE = "reference_implementation"
COLUMNS = {
    "miou": "mIoU (foreground)",
    "f_score": "F",
    f"{REFERENCE}_miou_with_background": "reference implementation's mIoU (with background)",
    f"{REFERENCE}_f_score": "reference implementation's F",
}
CLASS_COLUMNS = {"miou": "mIoU (classes)", "f_score": "F"}


def main(argv: list[str] | None = None) -> Rows:
    """Run the recipe once for every seed; returns the table."""
    task, args = parse_arguments(TaskArguments, argv)
    num_labels = (task.model_config or {}).get("num_labels", 1)
    if task.layout == "avss" and num_labels == 1:
        raise ValueError("num_labels: layout 'avss' has masks of 71 classes; give --model_config '{num_labels: 71}'")

    # Data: frames with a mask each. They stay in memory where this process decodes them.
    processor = build_processor(task)
    cache = args.dataloader_num_workers == 0
    train_set, test_set = (
        LabeledFrames(read_frames(task, split), processor, "mask", cache=cache) for split in ("train", "test")
    )
    facts = {"train frames": len(train_set), "test frames": len(test_set)}

    def measure(args: TrainingArguments) -> Rows:
        # Model and training.
        model = build_model(task, DeepAVFusionForAudioVisualSegmentation, args.seed, num_labels=num_labels)
        model = train(model, train_set, args)
        save_model(model, processor, args)

        # Test: with the clip's own audio, and with the audio of another clip.
        truths = [test_set[index]["labels"].numpy() for index in range(len(test_set))]
        batch_size = args.per_device_eval_batch_size
        masks = predicted_masks(model, test_set, batch_size)
        mismatched = predicted_masks(model, MismatchedAudio(test_set), batch_size)
        methods = {"DeepAVFusion": masks, "DeepAVFusion, audio of another clip": mismatched}

        # Table and figures.
        save_masks(Path(args.output_dir) / "masks.png", test_set, [truths, masks, mismatched], task.num_pictures)
        if num_labels > 1:
            score = SemanticSegmentationScore(num_classes=num_labels)
            return {name: score.compute(predictions=each, references=truths) for name, each in methods.items()}
        groups = [row.group for row in test_set.rows]
        methods |= trivial_masks(truths, train_set)
        return {name: scores(each, truths, groups) for name, each in methods.items()}

    # Binary masks and classes have different figures; what was not measured has no column.
    columns = COLUMNS
    if num_labels > 1:
        columns = CLASS_COLUMNS
    return run_seeds("segmentation", argv, task, args, lambda seed: facts, measure, columns)


def predicted_masks(model: PreTrainedModel, dataset: Dataset, batch_size: int) -> list[np.ndarray]:
    """Probabilities `[H, W]` of every frame, or class indices where there are several classes.

    Raises:
        ValueError: logits that are NaN or infinite.
    """
    masks = []
    for _, outputs in predict(model, dataset, batch_size):
        logits = outputs["logits"][0]  # (K, H, W)
        check_finite(logits.numpy()[None], [f"frame {len(masks)}"])
        if len(logits) == 1:
            masks.append(logits[0].sigmoid().numpy())
        else:
            masks.append(logits.argmax(0).numpy())
    return masks


def scores(masks: list[np.ndarray], truths: list[np.ndarray], groups: list[str]) -> dict[str, float]:
    """The official figures, and those of the reference implementation under their own names."""
    official = AVSBenchScore().compute(predictions=masks, references=truths, groups=groups)
    official.pop("num_frames")
    reference = DeepAVFusionSegmentationScore().compute(predictions=masks, references=truths)
    return official | {f"{REFERENCE}_{name}": reference[name] for name in ("miou_with_background", "f_score")}


def trivial_masks(truths: list[np.ndarray], train_set: Dataset) -> dict[str, list[np.ndarray]]:
    """What needs no model: all pixels, a box in the middle (a quarter of the area), and the mean training mask."""
    height, width = truths[0].shape
    box = np.zeros((height, width))
    box[height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
    mean = sum(train_set[index]["labels"].numpy() for index in range(len(train_set))) / len(train_set)
    mean = mean / max(mean.max(), 1e-6)
    masks = {"all foreground": np.ones((height, width)), "center box": box, "mean of the training masks": mean}
    return {name: [mask] * len(truths) for name, mask in masks.items()}


def save_masks(path: Path, test_set: LabeledFrames, columns: list[list[np.ndarray]], num_pictures: int) -> None:
    """Draw some test frames with truth, output, and output with another clip's audio; several classes as any class."""
    shown = np.linspace(0, len(test_set) - 1, num_pictures).astype(int).tolist()
    semantic = any(mask.dtype.kind in "iu" for mask in columns[1])
    rows = []
    for index in shown:
        truth, *outputs = (column[index] for column in columns)
        if semantic:
            outputs = [mask > 0 for mask in outputs]
        maps = [torch.tensor(each) for each in (truth > 0, *outputs)]
        rows.append((test_set[index]["pixel_values_videos"][0], maps))
    save_maps(
        path,
        rows,
        test_set.processor.video_processor,
        ["sounding pixels\n(truth)", "mask\n(output)", "mask with the audio\nof another clip (output)"],
        "probability that a pixel sounds (truth: 0 or 1)",
        "Bright: sounds. Dark: silent. A model that listens loses the mask with the audio of another clip.",
    )


if __name__ == "__main__":
    run_command(main)
