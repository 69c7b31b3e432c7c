# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains DeepAVFusion to take the audio of what is seen out of a mixture, and measures it in decibels.

python -m training.deepavfusion.separation configs/deepavfusion/separation_shapes.yaml
"""

from pathlib import Path

import torch
from transformers import ProcessorMixin, TrainingArguments

from modeling_deepavfusion import DeepAVFusionForSoundSourceSeparation
from processing.data.mixtures import Mixtures
from processing.metrics.separation import SeparationScore
from training.common.commands import run_command

from .arguments import TaskArguments, parse_arguments
from .layouts import read_mixtures
from .pictures import save_spectrograms
from .seed_loop import Rows, build_model, build_processor, predict, run_seeds, save_model, train


FLOOR = 1e-4  # of noise in the estimates, 70 dB below the tones: BSS Eval divides by what is left of them
COLUMNS = {"sdr": "SDR (dB)", "sir": "SIR (dB)", "sar": "SAR (dB)", "num_skipped": "silent mixtures, skipped"}


def main(argv: list[str] | None = None) -> Rows:
    """Run the recipe once for every seed; returns the table."""
    task, args = parse_arguments(TaskArguments, argv)

    # Data: clips to mix in training, and fixed test pairs. Each pair is tested twice, either clip seen.
    processor = build_processor(task)
    clips, groups, test_clips, test_pairs = read_mixtures(task)
    both_ways = [pair for first, second in test_pairs for pair in ((first, second), (second, first))]
    test_set = Mixtures(test_clips, processor, both_ways, cache=True)
    sources = torch.stack([test_set.sources(2 * index) for index in range(len(test_pairs))])  # (pairs, 2, n)
    facts = {"train clips": len(clips), "frames of each": task.num_frames, "test mixtures": len(test_pairs)}
    facts["mask"] = "renormalized filters (our addition)"

    def measure(args: TrainingArguments) -> Rows:
        # Model and training: another partner for each clip in every epoch.
        options = {"groups": groups, "seed": args.seed, "cache": True, "num_frames": task.num_frames}
        train_set = Mixtures(clips, processor, **options)
        model = train(build_model(task, DeepAVFusionForSoundSourceSeparation, args.seed), train_set, args)
        save_model(model, processor, args)

        # Test: masks of the model, of one that sees nothing (the mean training mask), and the true ones.
        logits = torch.stack([out["logits"] for _, out in predict(model, test_set, args.per_device_eval_batch_size)])
        true, blind = true_masks(test_set), true_masks(train_set).mean(0, keepdim=True)
        mixtures = sources.sum(1)  # (pairs, n)
        estimates = separated(processor, logits, mixtures, renormalize=True)
        methods = {
            "DeepAVFusion": estimates,
            "DeepAVFusion, reference implementation's filters": separated(
                processor, logits, mixtures, renormalize=False
            ),
            "DeepAVFusion, frames exchanged": estimates.flip(1),
            "mean mask": separated(processor, blind.expand_as(true).logit(1e-4), mixtures),
            "mixture": mixtures[:, None].expand(-1, 2, -1),
            "true ratio mask": separated(processor, true.logit(1e-4), mixtures),
        }

        # Audio files, figures and table.
        output = Path(args.output_dir)
        save_waveforms(output / "wav", processor, mixtures, estimates, sources, task.num_pictures)
        save_pictures(output / "spectrograms.png", test_set, mixtures, estimates, sources, task.num_pictures)
        return {name: scores(each, sources) for name, each in methods.items()}

    return run_seeds("separation", argv, task, args, lambda seed: facts, measure, COLUMNS)


def true_masks(mixtures: Mixtures) -> torch.Tensor:
    """Share `[n, 1, F, W]` of the seen source in source and rest, for every example."""
    masks = []
    for index in range(len(mixtures)):
        example = mixtures[index]
        seen, other = 10 ** example["labels"], 10 ** example["other_features"]  # power, (1, F, W)
        masks.append(seen / (seen + other))
    return torch.stack(masks)


def separated(
    processor: ProcessorMixin, logits: torch.Tensor, mixtures: torch.Tensor, renormalize: bool = True
) -> torch.Tensor:
    """Waveforms `[pairs, 2, n]` of masks `[2 pairs, 1, F, W]` on mixtures `[pairs, n]`, with a faint floor of noise."""
    waves = processor.post_process_separation(logits, mixtures.repeat_interleave(2, 0)[:, None], renormalize)
    waves = waves.view(len(mixtures), 2, -1)
    return waves + FLOOR * torch.randn(waves.shape, generator=torch.Generator().manual_seed(0))


def scores(estimates: torch.Tensor, sources: torch.Tensor) -> dict[str, float]:
    """SDR, SIR and SAR of `[pairs, 2, n]`, and how many pairs are skipped because one of both is silent."""
    figures = SeparationScore().compute(predictions=estimates.numpy(), references=sources.numpy())
    return {name: float(figures[name]) for name in COLUMNS}


def save_waveforms(
    folder: Path,
    processor: ProcessorMixin,
    mixtures: torch.Tensor,
    estimates: torch.Tensor,
    sources: torch.Tensor,
    count: int,
) -> None:
    """Write the first mixtures, both estimates and both sources as wav files."""
    names = ("mixture", "first_estimate", "second_estimate", "first_source", "second_source")
    for index in range(min(count, len(mixtures))):
        waves = torch.cat([mixtures[index][None], estimates[index], sources[index]])  # (5, n)
        processor.save_waveforms(waves, [folder / f"{index}_{name}.wav" for name in names])


def save_pictures(
    path: Path,
    test_set: Mixtures,
    mixtures: torch.Tensor,
    estimates: torch.Tensor,
    sources: torch.Tensor,
    count: int,
) -> None:
    """Draw the first test examples: frame, mixture, estimate and source."""
    rows = []
    for index in range(min(count, len(test_set))):
        pair, seen = divmod(index, 2)
        pixels = test_set[index]["pixel_values_videos"][0]
        rows.append((pixels, [mixtures[pair], estimates[pair, seen], sources[pair, seen]]))
    save_spectrograms(path, rows, test_set.processor)


if __name__ == "__main__":
    run_command(main)
