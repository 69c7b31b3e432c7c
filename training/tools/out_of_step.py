# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether the match score notices audio that is out of step with its own video, for the models of a comparison.

python -m training.tools.out_of_step configs/compare/grid_words.yaml --data grid/labels.csv --model_name_or_path deit_tiny \
    --seeds 0 1 2 --only MA-AVT LoRA --out results/out_of_step_grid_words

Takes the arguments of `training.tools.compare`, and trains what has not been yet. Of every test clip or labeled segment there
are two windows, its own and one that begins a little earlier. In step are the video and the audio of either window; out of step
are the video of one and the audio of the other. The share says how often the two pairs in step have the higher scores in sum;
it is 0.5 for any score that only judges the video and the audio by themselves. No model is trained on such pairs. Left out are
clips that lack a modality or whose earlier window would begin before the file. Writes `<out>.json` and `<out>.md`.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from modeling_maavt.modeling_maavt import log_agreement
from processing.data.atomic_writing import write_text
from training.common.commands import run_command
from training.common.results import markdown_table
from training.maavt.data import RunData, make_dataset
from training.trainer.modality_validation import divided_head

from .compare import comparison_runs
from .repeated_runs import Run, finish_runs, over_seeds, result_file, shown, with_spread, write_record
from .robustness import arguments_of, finished_run, tested


SHIFTS = (0.05, 0.1, 0.2)  # seconds
SCORES = ("match", "agreement")
COLUMNS = {
    "variant": "variant",
    "out of step by": "out of step by",
    "match": "match score: share",
    "agreement": "class agreement: share",
    "windows": "windows",
}


def main(argv: list[str] | None = None) -> dict:
    """Train what is missing, test everything; returns what is written to `<out>.json`."""
    options, rest = arguments_of(argv, __doc__)
    begin = time.time()
    jobs = comparison_runs(options.config, rest, options.seeds, options.only)
    finish_runs(options, jobs)

    # One row for each model and shift.
    keyed = []
    for job in jobs:
        measured = tested(job, options.runs, "out_of_step.json", tested_model)
        keyed += [({"variant": job.key["variant"], "out of step by": name}, row) for name, row in measured.items()]
        print(job.key, measured, flush=True)

    # The record and the table.
    rows = with_spread(keyed, SCORES, ("windows",))
    record = write_record("training.tools.out_of_step", argv, options.out, begin, rows)
    note = f"How often the pairs in step have the higher scores; {over_seeds(len(options.seeds))}."
    table = markdown_table(shown(rows, SCORES), COLUMNS)
    write_text(result_file(options.out, ".md"), f"`{record['command']}`\n\n{note}\n\n{table}\n")
    print(table)
    return record


def tested_model(job: Run, directory: Path) -> dict[str, dict[str, float]]:
    """What the table says of a finished run's model, by shift.

    Raises:
        ValueError: a model of one modality, one whose streams meet before the class head, or clips without windows that can
            be shifted.
    """
    recipe, clips, network, data = finished_run(job, directory)
    if recipe.data.feature_cache or recipe.data.block_states:
        raise ValueError("feature_cache, block_states: hold no other windows than the clips' own; leave both out")
    if not recipe.both_modalities or divided_head(network) is None:
        raise ValueError(f"{job.name}: has no two streams to compare; leave the variant out (--only)")
    table = clips.tables[data.tested]
    table = table.filter(lambda row: row["start"] is not None and row["start"] >= max(SHIFTS))
    if not len(table):
        raise ValueError(
            f"{recipe.data.data}: no test clip is a window that begins {max(SHIFTS)} s or more into its file"
        )
    network.to(recipe.run.device).eval()
    both_own = scores(network, data, table, table)
    measured: dict[str, dict[str, float]] = {}
    for shift in SHIFTS:
        earlier = table.map(lambda row, shift=shift: shifted(row, -shift))
        both_earlier = scores(network, data, earlier, earlier)
        crossed = [scores(network, data, table, earlier), scores(network, data, earlier, table)]
        row: dict[str, float] = {"windows": len(next(iter(both_own.values())))}
        for name in both_own:
            row[name] = share_ahead(both_own[name] + both_earlier[name], crossed[0][name] + crossed[1][name])
        measured[f"{shift:g} s"] = row
    return measured


def share_ahead(in_step: np.ndarray, out_of_step: np.ndarray) -> float:
    """How often the former is larger; a tie counts half."""
    return float((in_step > out_of_step).mean() + (in_step == out_of_step).mean() / 2)


@torch.inference_mode()
def scores(network: PreTrainedModel, data: RunData, video: Dataset, audio: Dataset) -> dict[str, np.ndarray]:
    """Scores `[n]` of the frames of one table with the audio of another, for every clip or labeled segment.

    `match`, where the model has such a head: the logits. `agreement`, where a clip has one class: its logarithm.
    """
    collected: dict[str, list[torch.Tensor]] = {}
    outputs_of_head = []
    hook = divided_head(network).register_forward_hook(lambda head, inputs, outputs: outputs_of_head.append(outputs))
    try:
        for batch, complete in paired_batches(data, video, audio):
            outputs = network(**{name: value.to(network.device) for name, value in batch.items()})
            _, video_logits, audio_logits = outputs_of_head.pop()
            if outputs.class_agreement is not None:
                collected.setdefault("agreement", []).append(log_agreement(video_logits, audio_logits)[complete])
            if outputs.segment_match_logits is not None:
                collected.setdefault("match", []).append(outputs.segment_match_logits[complete])
    finally:
        hook.remove()
    return {name: torch.cat(values).flatten().float().cpu().numpy() for name, values in collected.items()}


def paired_batches(
    data: RunData, video: Dataset, audio: Dataset
) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """The frames of one table with the audio of another, and which of the clips have both: bool `[B]`."""
    loaders = []
    for table in (video, audio):
        dataset = make_dataset(data.recipe, DatasetDict({data.tested: table}), data.source, data.tested)
        loaders.append(DataLoader(dataset, batch_size=32, collate_fn=data.collator))
    for of_video, of_audio in zip(*loaders, strict=True):
        complete = of_video["has_video"] & of_audio["has_audio"]
        if complete.any():
            yield (
                {
                    "pixel_values_videos": of_video["pixel_values_videos"],
                    "input_features": of_audio["input_features"],
                    "has_video": of_video["has_video"],
                    "has_audio": of_audio["has_audio"],
                },
                complete,
            )


def shifted(row: dict, shift: float) -> dict:
    """A row of a table whose windows lie `shift` seconds later."""
    moved = {name: None if row[name] is None else row[name] + shift for name in ("start", "end")}
    if row.get("segment_windows"):
        moved["segment_windows"] = [[second + shift for second in window] for window in row["segment_windows"]]
    return moved


if __name__ == "__main__":
    run_command(main)
