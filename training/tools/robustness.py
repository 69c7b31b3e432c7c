# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What is left of the accuracy when audio or frames get worse, for the variants of a comparison and the regression.

python -m training.tools.robustness configs/compare/grid_command.yaml --data grid/labels.csv --model_name_or_path deit_tiny \
    --seeds 0 1 2 --num_train_epochs 8 --only "MA-AVT" LoRA --out results/robustness_grid_command

Takes the arguments of `training.tools.compare`, and trains and tests what has not been yet. Every model is tested, without
being trained on any of it, with white noise on the audio, blurred or black frames, audio or frames of a clip of another
class, and one modality alone. So is the regression on frozen features, unless `--baseline false`. Writes `<out>.json` and
`<out>.md`. An area is the mean accuracy along its curve (trapezoids): audio from 20 dB to -10 dB, blur from 0 to 0.1.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.v2.functional import gaussian_blur
from transformers import PreTrainedModel

from processing.data.atomic_writing import write_text
from processing.metrics import IGNORED_LABEL
from training.common.commands import run_command
from training.common.results import markdown_table
from training.maavt import stages
from training.maavt.arguments import Recipe
from training.maavt.baseline import LATE_FUSION, REGRESSION, Features, fit_baseline, probabilities_by_input
from training.maavt.data import Clips, RunData
from training.maavt.evaluation import Predictions, described_pairs, followed_modality, predict, same_class

from .compare import comparison_runs
from .repeated_runs import (
    Run,
    finish_runs,
    over_seeds,
    read_text,
    result_file,
    run_parser,
    shown,
    with_spread,
    write_record,
)


NOISE_DB = (20.0, 10.0, 5.0, 0.0, -5.0, -10.0)
BLURS = (0.0, 0.01, 0.03, 0.1)  # standard deviation of the Gaussian as a share of the height of the whole frame


@dataclass
class Condition:
    """How the test clips are shown. `followed`: of mismatched pairs, the modality whose class counts as right."""

    name: str
    modalities: tuple[str, ...] = ("video", "audio")
    noise_db: float | None = None
    change_frames: Callable[[torch.Tensor], torch.Tensor] | None = None
    followed: str | None = None


def main(argv: list[str] | None = None) -> dict:
    """Train what is missing, test everything; returns what is written to `<out>.json`."""
    options, rest = arguments_of(argv, __doc__)
    begin = time.time()
    jobs = comparison_runs(options.config, rest, options.seeds, options.only)
    trained, _ = finish_runs(options, jobs)

    # Every model of every seed, and once a seed the regression, unless the runs have none.
    measured, with_regression = [], set()
    for job, results in zip(jobs, trained, strict=True):
        accuracies = tested(job, options.runs, "robustness.json", tested_model)
        # The regression is chosen on validation, so that it is measured on test alone.
        on_test = results["arguments"].get("evaluation_split", "test") == "test"
        wanted = on_test and results["arguments"].get("baseline", True) and job.key["seed"] not in with_regression
        if wanted and {"video alone", "audio alone"} <= set(accuracies):
            with_regression.add(job.key["seed"])
            for model, row in tested(job, options.runs, "robustness_regression.json", tested_regressions).items():
                measured.append(({"variant": model}, row))
        measured.append(({"variant": job.key["variant"]}, accuracies))
        print({**job.key, **{name: round(figure, 3) for name, figure in accuracies.items()}}, flush=True)
    measured.sort(key=lambda each: each[0]["variant"] in ("logistic regression", LATE_FUSION))

    # The record and the tables.
    names = ["noise area", "blur area", *(condition.name for condition in conditions())]
    rows = with_spread(((key, row | areas(row)) for key, row in measured), names, ())
    record = write_record("training.tools.robustness", argv, options.out, begin, rows)
    text = report(record, names, trained[0]["arguments"].get("evaluation_split", "test"))
    write_text(result_file(options.out, ".md"), text)
    print(text)
    return record


def arguments_of(argv: list[str] | None, description: str) -> tuple[argparse.Namespace, list[str]]:
    parser = run_parser(
        description, "YAML file with base and variants, as for training.tools.compare", "outputs/compare"
    )
    parser.add_argument("--only", nargs="+", default=None, help="names of variants; default: all")
    return parser.parse_known_args(argv)


# What is done to the clips


def conditions() -> list[Condition]:
    """Every condition, in the order of the tables; `clean` first."""
    shown_as = [Condition("clean")]
    shown_as += [Condition(f"{level:g} dB", noise_db=level) for level in NOISE_DB]
    shown_as += [Condition(f"blur {share:g}", change_frames=partial(blurred, share=share)) for share in BLURS if share]
    shown_as += [Condition("black frames", change_frames=torch.zeros_like)]
    shown_as += [Condition("other audio", followed="video"), Condition("other frames", followed="audio")]
    shown_as += [Condition("video alone", ("video",)), Condition("audio alone", ("audio",))]
    return shown_as


def blurred(frames: torch.Tensor, share: float) -> torch.Tensor:
    """Frames `[T, 3, H, W]` under a Gaussian whose standard deviation is `share` of their height."""
    deviation = share * frames.shape[-2]
    # The kernel reaches three deviations, within what reflection at the border allows.
    most = 2 * min(frames.shape[-2:]) - 1
    size = min(2 * round(3 * deviation) + 1, most)
    # One axis after the other: a kernel in two dimensions would take `size` times as long.
    rows = gaussian_blur(frames.float(), [size, 1], [deviation, deviation])
    return gaussian_blur(rows, [1, size], [deviation, deviation]).round().to(frames.dtype)


def conditions_of(modalities: list[str]) -> Iterator[tuple[Condition, tuple[str, ...]]]:
    """The conditions that say something about a model of these modalities, and what it is shown under each."""
    for condition in conditions():
        about_frames = condition.change_frames is not None or condition.followed is not None
        if about_frames and set(modalities) != {"video", "audio"}:
            continue
        if shown_streams := tuple(name for name in condition.modalities if name in modalities):
            yield condition, shown_streams


# Testing


def tested(job: Run, runs: Path, name: str, test: Callable[[Run, Path], dict]) -> dict:
    """What `test` finds of a finished run; it is kept in the run's folder, and read from there the next time."""
    directory = runs / job.name
    kept = directory / name
    if not (kept.is_file() and kept.stat().st_mtime >= (directory / "results.json").stat().st_mtime):
        accuracies = test(job, directory)
        write_text(kept, json.dumps(accuracies))
    return json.loads(read_text(kept))


def finished_run(job: Run, directory: Path) -> tuple[Recipe, Clips, PreTrainedModel, RunData]:
    """A run's recipe, clips, trained model and data."""
    arguments = [job.config, *job.arguments, "--output_dir", str(directory / "tested")]
    finished = ["--evaluate_only", "true", "--model_name_or_path", str(directory / "model")]
    # Clips are read in this process: a cache then keeps them from one condition to the next.
    here = ["--dataloader_num_workers", "0", "--dataloader_persistent_workers", "false"]
    recipe = stages.read_recipe([*arguments, *finished, *here])
    clips = stages.read_clips(recipe)
    network = stages.build_model(recipe, clips.label_names, clips.multi_label)
    return recipe, clips, network, stages.build_data(recipe, clips, network)


def tested_model(job: Run, directory: Path) -> dict[str, float]:
    """Top-1 of a finished run's model under every condition."""
    recipe, clips, network, data = finished_run(job, directory)
    check_measurable(recipe, clips, data)
    trainer = stages.build_trainer(recipe, clips, data, network)
    accuracies = {}
    for condition, streams in conditions_of(recipe.data.modalities):
        options = {"noise_db": condition.noise_db, "change_frames": condition.change_frames}
        copies = condition.followed is not None
        predictions = predict(
            trainer, data.clips(data.tested, modalities=streams, mismatched_copies=copies, **options)
        )
        accuracies[condition.name] = accuracy(predictions, condition)
    return accuracies


def check_measurable(recipe: Recipe, clips: Clips, data: RunData) -> None:
    """Raises ValueError, before a clip is read, where the conditions cannot be shown."""
    if clips.multi_label:
        raise ValueError("robustness: measures top-1, but the clips have several classes")
    if recipe.data.block_states or recipe.data.feature_cache:
        raise ValueError("robustness: changes the clips themselves; leave block_states and feature_cache out")
    if recipe.both_modalities and not data.paired:
        raise ValueError("robustness: shows clips with the audio of others, but no two test clips can be paired")


def accuracy(predictions: Predictions, condition: Condition) -> float:
    """Top-1 over matched pairs with a label; of mismatched ones, how often the class of the followed modality is named."""
    if condition.followed is None:
        labeled = predictions.labels != IGNORED_LABEL
        return float(predictions.correct[predictions.is_matched & labeled].mean())
    mismatched = ~predictions.is_matched & ~same_class(predictions.pairs)
    return followed_modality(predictions, mismatched)[f"mismatched_{condition.followed}_class"]


def tested_regressions(job: Run, directory: Path) -> dict[str, dict[str, float]]:
    """The same for early and late fusion of the regression on frozen features."""
    arguments = [job.config, *job.arguments, "--output_dir", str(directory), "--overwrite_output_dir", "true"]
    recipe = stages.read_recipe(arguments)
    clips = stages.read_clips(recipe)
    network = stages.build_model(recipe, clips.label_names, clips.multi_label)
    data = stages.build_data(recipe, clips, network)
    reader, fits, input_sizes = fit_baseline(recipe, data)
    accuracies: dict[str, dict[str, float]] = {REGRESSION: {}, LATE_FUSION: {}}
    for condition, streams in conditions_of(recipe.data.modalities):
        features = reader.read(
            data.tested, condition.noise_db, streams, only=input_sizes, change_frames=condition.change_frames
        )
        copies = condition.followed is not None
        pairs = described_pairs(data.clips(data.tested, mismatched_copies=copies))
        features = paired_features(features, pairs)
        if len(streams) == 1:
            alone = fits[streams[0]].probabilities(features, len(clips.label_names))
            each = dict.fromkeys(accuracies, alone)
        else:
            by_input = probabilities_by_input(fits, features, len(clips.label_names))
            each = {name: by_input[name, "both"] for name in accuracies}
        for name, probabilities in each.items():
            predictions = Predictions(probabilities, None, pairs).subset(np.isfinite(probabilities).all(1))
            accuracies[name][condition.name] = accuracy(predictions, condition)
    return accuracies


def paired_features(features: Features, pairs: list[dict]) -> Features:
    """Features of pairs, whose video and audio may come from two clips, out of those of the clips."""
    row_of = Predictions(np.empty((len(pairs), 0)), None, pairs).rows_by_clip
    arrays = {}
    for (stream, input_size), array in features.arrays.items():
        rows = [row_of[pair[stream], pair.get("segment")] for pair in pairs]
        arrays[stream, input_size] = array[rows]
    return Features(arrays)


# The tables


def areas(row: dict[str, float]) -> dict[str, float]:
    """Mean accuracy along the curves of noise and blur, where the row has all of their points."""
    curves = {
        "noise area": (NOISE_DB[::-1], [f"{level:g} dB" for level in NOISE_DB[::-1]]),
        "blur area": (BLURS, ["clean", *(f"blur {share:g}" for share in BLURS[1:])]),
    }
    means = {}
    for name, (places, keys) in curves.items():
        if set(keys) <= set(row):
            heights = [row[key] for key in keys]
            means[name] = float(np.trapezoid(heights, places) / (places[-1] - places[0]))
    return means


def report(record: dict, names: list[str], measured_on: str) -> str:
    """The Markdown page: how it was made, a table for audio, one for frames, one for pairs and single modalities."""
    rows = shown(record["rows"], names)
    columns = {
        "White noise on the audio": ["clean", *(f"{level:g} dB" for level in NOISE_DB), "noise area"],
        "Frames": ["clean", *(f"blur {share:g}" for share in BLURS[1:]), "blur area", "black frames"],
        "Clips of another class, and one modality alone": [
            "other audio",
            "other frames",
            "video alone",
            "audio alone",
        ],
    }
    seeds = over_seeds(max(row["seeds"] for row in rows))
    parts = [
        f"`{record['command']}`",
        f"Top-1 on the {measured_on} clips, {seeds}. A blur is "
        "a share of the height of the frame before it is cropped. With other audio, the class of the video counts as right; with other frames, "
        "that of the audio.",
    ]
    for heading, keys in columns.items():
        parts += [f"## {heading}", markdown_table(rows, {"variant": "variant", **{key: key for key in keys}})]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    run_command(main)
