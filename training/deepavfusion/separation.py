# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains DeepAVFusion to take the sound of what is seen out of a mixture, and measures it in decibels.

python -m training.deepavfusion.separation configs/deepavfusion/separation_shapes.yaml
"""

from pathlib import Path

import torch

from modeling_deepavfusion import DeepAVFusionForSoundSourceSeparation
from processing.data.mixtures import Mixtures
from processing.metrics.separation import SeparationScore

from .separation_pictures import save_spectrograms
from .task_arguments import parse_task_arguments
from .task_layouts import read_mixtures
from .task_runs import (
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


FLOOR = 1e-4  # of noise in the estimates, 70 dB below the tones: BSS Eval divides by what is left of them


def both_ways(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Each pair, and each with the other clip seen."""
    return [pair for first, second in pairs for pair in ((first, second), (second, first))]


def measured(estimates: torch.Tensor, sources: torch.Tensor) -> dict[str, float]:
    """SDR, SIR and SAR of `[pairs, 2, n]`."""
    scores = SeparationScore().compute(predictions=estimates.numpy(), references=sources.numpy())
    return {name: scores[name] for name in ("sdr", "sir", "sar")}


def main(argv: list[str] | None = None) -> Rows:
    """Runs the recipe once for every seed; returns the table."""
    task, args, command = parse_task_arguments(argv)
    processor = build_processor(task)
    clips, groups, test_clips, test_pairs = read_mixtures(task)
    test_set = Mixtures(test_clips, processor, both_ways(test_pairs), cache=True)
    sources = torch.stack([test_set.sources(2 * index) for index in range(len(test_pairs))])
    mixture = sources.sum(1)

    def separated(logits: list[torch.Tensor], renormalize: bool) -> torch.Tensor:
        waves = processor.post_process_separation(
            torch.stack(logits), mixture.repeat_interleave(2, 0)[:, None], renormalize
        )
        waves = waves.view(len(test_pairs), 2, -1)
        return waves + FLOOR * torch.randn(waves.shape, generator=torch.Generator().manual_seed(0))

    true = [true_mask(test_set[index]).logit(1e-4) for index in range(len(test_set))]
    bounds = {}  # the same for every seed

    facts = {
        "train clips": len(clips),
        "frames of each": task.num_frames,
        "test mixtures": len(test_pairs),
        "mask": "renormalized filters (ours)",
    }
    facts = run_facts(task, args, **facts)
    runs = []
    for seed in task.seeds:
        run = finished_run(args, seed, facts)
        if run is None:
            train_set = Mixtures(clips, processor, groups=groups, seed=seed, cache=True, num_frames=task.num_frames)
            model = build_model(task, DeepAVFusionForSoundSourceSeparation, seed)
            model = train(model, train_set, args, seed)
            logits = [out["logits"] for _, _, out in predict(model, test_set, args.per_device_eval_batch_size)]
            # the mask that an observer without eyes would give: the mean over all training examples
            blind = torch.stack([true_mask(train_set[index]) for index in range(len(train_set))]).mean(0)
            bounds = bounds or {
                "mixture": measured(mixture[:, None].expand(-1, 2, -1), sources),
                "true ratio mask": measured(separated(true, True), sources),
            }
            estimates = separated(logits, True)
            run = {
                "DeepAVFusion": measured(estimates, sources),
                "DeepAVFusion, published filters": measured(separated(logits, False), sources),
                "DeepAVFusion, frames exchanged": measured(estimates.flip(1), sources),
                "mean mask": measured(separated([blind.logit(1e-4)] * len(logits), True), sources),
                **bounds,
            }
            output = Path(args.output_dir) / f"seed_{seed}"
            model.save_pretrained(output / "model")
            processor.save_pretrained(output / "model")
            for index in range(min(task.num_pictures, len(test_pairs))):
                waves = [mixture[index], *estimates[index], *sources[index]]
                names = ("mixture", "first_estimate", "second_estimate", "first_source", "second_source")
                processor.save_waveforms(waves, [output / "wav" / f"{index}_{name}.wav" for name in names])
            pictures = [
                (test_set[2 * index + side]["pixel_values_videos"][0], [mixture[index], waves[side], source[side]])
                for index, (waves, source) in enumerate(zip(estimates, sources, strict=True))
                for side in range(2)
            ]
            save_spectrograms(output / "spectrograms.png", pictures[: task.num_pictures], processor)
            record_run(args, seed, facts, run)
        runs.append(run)

    metrics, headings = ["sdr", "sir", "sar"], ["SDR (dB)", "SIR (dB)", "SAR (dB)"]
    return write_results(
        task, args, f"python -m training.deepavfusion.separation {command}", runs, metrics, headings, facts
    )


def true_mask(example: dict[str, torch.Tensor]) -> torch.Tensor:
    """Share `[1, F, W]` of the seen source in source and rest."""
    seen, other = 10 ** example["labels"], 10 ** example["other_features"]
    return seen / (seen + other)


if __name__ == "__main__":
    main()
