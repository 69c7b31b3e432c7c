# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether the match score notices audio that is out of step with its own video, for the models of a comparison.

python -m training.tools.out_of_step configs/compare/grid_words.yaml --data grid/labels.csv --model_name_or_path deit_tiny \
    --seeds 0 1 2 --only MA-AVT LoRA --out results/out_of_step_grid_words

Takes the arguments of `training.tools.compare`, and trains what has not been yet. Of every test clip or labeled segment there
are two windows, its own and one a little later. In step are the video and the audio of either window; out of step are the
video of one and the audio of the other. Each window's video and audio stand in both kinds of pair, so that a score which only
tells the windows apart has an AUROC of 0.5. No model is trained on such pairs. Writes `<out>.json` and `<out>.md`.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from modeling_maavt.modeling_maavt import log_agreement
from processing.data.atomic_writing import write_text
from training.common.commands import run_command
from training.common.results import markdown_table
from training.maavt.data import RunData, make_dataset
from training.trainer.modality_validation import divided_head

from .compare import comparison_runs
from .repeated_runs import Run, shown, with_spread, write_record
from .robustness import arguments_of, finished_run, tested


SHIFTS = (0.05, 0.1, 0.2)  # seconds
COLUMNS = {
    "variant": "variant",
    "out of step by": "out of step by",
    "match_auroc": "match AUROC",
    "agreement_auroc": "agreement AUROC",
}


def main(argv: list[str] | None = None) -> dict:
    """Train what is missing, test everything; returns what is written to `<out>.json`."""
    options, rest = arguments_of(argv, __doc__)
    begin = time.time()
    jobs = comparison_runs(options.config, rest, options.seeds, options.only)
    threads = max(1, (os.cpu_count() or 1) // options.parallel)
    with ThreadPoolExecutor(options.parallel) as pool:
        list(pool.map(lambda job: job.results(options.runs, threads), jobs))

    # One row for each model and shift.
    keyed = []
    for job in jobs:
        found = tested(job, options.runs, "out_of_step.json", tested_model)
        keyed += [({"variant": job.key["variant"], "out of step by": name}, row) for name, row in found.items()]
        print(job.key, found, flush=True)

    # The record and the table.
    rows = with_spread(keyed, ["match_auroc", "agreement_auroc"], ())
    record = write_record("training.tools.out_of_step", argv, options.out, begin, rows)
    note = f"Pairs in step against pairs out of step, mean ± standard deviation over {len(options.seeds)} seeds."
    table = markdown_table(shown(rows), COLUMNS)
    write_text(options.out.with_suffix(".md"), f"`{record['command']}`\n\n{note}\n\n{table}\n")
    print(table)
    return record


def tested_model(job: Run, directory: Path) -> dict[str, dict[str, float]]:
    """The AUROCs of a finished run's model, by shift.

    Raises:
        ValueError: a model of one modality, one whose streams meet before the class head, or clips without windows.
    """
    recipe, clips, network, data = finished_run(job, directory)
    if not recipe.both_modalities or divided_head(network) is None:
        raise ValueError(f"{job.name}: has no two streams to compare; leave the variant out (--only)")
    own = clips.tables[data.tested]
    if None in own["start"]:
        raise ValueError(f"{recipe.data.data}: its clips are whole files; only windows of a file can be shifted")
    network.eval()
    found: dict[str, dict[str, float]] = {}
    for shift in SHIFTS:
        later = own.map(lambda row, shift=shift: shifted(row, shift))
        in_step = [scores(network, data, own, own), scores(network, data, later, later)]
        out_of_step = [scores(network, data, own, later), scores(network, data, later, own)]
        found[f"{shift:g} s"] = {f"{name}_auroc": auroc(name, in_step, out_of_step) for name in in_step[0]}
    return found


def auroc(name: str, in_step: list[dict], out_of_step: list[dict]) -> float:
    matched, mismatched = (np.concatenate([each[name] for each in pairs]) for pairs in (in_step, out_of_step))
    truth = np.arange(len(matched) + len(mismatched)) < len(matched)
    return float(roc_auc_score(truth, np.concatenate([matched, mismatched])))


@torch.inference_mode()
def scores(network: PreTrainedModel, data: RunData, video: Dataset, audio: Dataset) -> dict[str, np.ndarray]:
    """Of the frames of one table with the audio of another: match logits `[n]`, where the model has them, and logarithms of
    the class agreement, for every clip or labeled segment."""
    found: dict[str, list] = {}
    hook = divided_head(network).register_forward_hook(
        lambda head, given, said: found.setdefault("agreement", []).append(log_agreement(*said[1:]).flatten())
    )
    try:
        for batch in paired_batches(data, video, audio):
            outputs = network(**batch)
            if outputs.segment_match_logits is not None:
                found.setdefault("match", []).append(outputs.segment_match_logits.flatten())
    finally:
        hook.remove()
    return {name: torch.cat(values).float().cpu().numpy() for name, values in found.items()}


def paired_batches(data: RunData, video: Dataset, audio: Dataset) -> Iterator[dict[str, torch.Tensor]]:
    """The test clips with the frames of one table and the audio of another."""
    loaders = []
    for table in (video, audio):
        dataset = make_dataset(data.recipe, DatasetDict({data.tested: table}), data.source, data.tested)
        loaders.append(DataLoader(dataset, batch_size=32, collate_fn=data.collator))
    for seen, heard in zip(*loaders, strict=True):
        batch = {"pixel_values_videos": seen["pixel_values_videos"], "input_features": heard["input_features"]}
        batch |= {name: seen[name] & heard[name] for name in ("has_video", "has_audio")}
        if seen["labels"].ndim == 2:
            batch["num_segments"] = seen["labels"].shape[1]
        yield batch


def shifted(row: dict, shift: float) -> dict:
    """A row of a table whose windows lie `shift` seconds later."""
    moved = {name: row[name] + shift for name in ("start", "end")}
    if row.get("segment_windows"):
        moved["segment_windows"] = [[place + shift for place in window] for window in row["segment_windows"]]
    return moved


if __name__ == "__main__":
    run_command(main)
