# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What frozen features alone give: the regressions of the tables, without training a model.

python -m training.tools.regression configs/grid_command.yaml --data grid/labels.csv --model_name_or_path deit_tiny \
    --seeds 0 1 2 --out results/regression_grid_command
python -m training.tools.regression configs/drone.yaml --data drone/labels.csv --model_name_or_path deit_tiny \
    --nested --seeds 0 1 2 3 4 --out results/regression_drone

Without `--nested` they are fitted, chosen and tested on the splits of the recipe, as in every run of `train.py`. With it, by
nested cross-validation over all clips: five outer folds by group, in which every clip is tested once, by a regression whose
features and penalty were chosen by five inner folds over the other clips. A seed deals the groups into other folds. Every
other argument is one of `train.py`. Writes `<out>.json` and `<out>.md`.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from processing.data.atomic_writing import write_text
from processing.data.collators import AudioVisualCollator
from processing.metrics import IGNORED_LABEL
from processing.metrics.classification import bootstrap_interval
from training.common.commands import run_command
from training.common.regression import group_folds
from training.common.results import PAIR_COLUMNS, markdown_table
from training.maavt.arguments import Recipe
from training.maavt.baseline import (
    REGRESSION,
    FeatureReader,
    Features,
    baseline_rows,
    fit_inputs,
    probabilities_by_input,
)
from training.maavt.data import RunData, build_processor, has_partners, read_clips
from training.maavt.feeding import clip_source
from training.maavt.stages import read_recipe

from .repeated_runs import MEASURED, over_seeds, result_file, shown, with_spread, write_record


COLUMNS = {
    "model": "model", "input": "input", "noise": "audio", "top1": "top-1", "macro_f1": "macro F1", **PAIR_COLUMNS,
    "top1_interval": "95 % interval, first seed", "seeds": "seeds", "clips": "clips", "groups": "groups",
}  # fmt: skip
FOLDS = 5


def main(argv: list[str] | None = None) -> dict:
    """Fit and test; returns what is written to `<out>.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file of the run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--nested", action="store_true", help="nested cross-validation over all clips")
    parser.add_argument("--out", type=Path, required=True, help="result files without suffix")
    options, rest = parser.parse_known_args(argv)
    begin = time.time()

    # The regression is chosen on validation, and measured on test; a stream has no table to fit on.
    recipe = read_recipe([options.config, *rest])
    if recipe.streams:
        raise ValueError(
            "data: a stream; the regression needs clips in files, or shards that maavt prepare has written"
        )
    if recipe.evaluation.evaluation_split != "test" and not options.nested:
        raise ValueError("evaluation_split: validation chooses the regression, so that only test can measure it")

    # One row for each input and seed.
    keyed = []
    for seed in options.seeds:
        recipe = read_recipe([options.config, *rest, "--seed", str(seed)])
        if options.nested:
            rows = nested_table(recipe)
        else:
            data = data_of(recipe)
            rows = baseline_rows(recipe, data, len(class_names(data)))
        for row in rows:
            keyed.append(({name: row.pop(name) for name in ("model", "input", "noise")}, row))
            print({**keyed[-1][0], "seed": seed, "top1": round(row["top1"], 3)}, flush=True)

    # The record and the table.
    rows = with_spread(keyed, MEASURED, ("top1_interval", "clips", "groups"))
    record = write_record("training.tools.regression", argv, options.out, begin, rows)
    how = f"Nested cross-validation, {FOLDS} folds by group" if options.nested else "Splits of the recipe"
    note = f"{how}; {over_seeds(len(options.seeds))}; {record['minutes']} minutes."
    table = markdown_table(shown(rows), COLUMNS)
    write_text(result_file(options.out, ".md"), f"`{record['command']}`\n\n{note}\n\n{table}\n")
    print(table)
    return record


def data_of(recipe: Recipe) -> RunData:
    """The clips of a recipe for which no model is trained."""
    clips = read_clips(recipe)
    processor = build_processor(recipe)
    source, tables = clip_source(recipe, processor, clips.tables)
    paired = recipe.both_modalities and has_partners(recipe, tables, source)
    return RunData(
        recipe=recipe,
        tables=tables,
        processor=processor,
        source=source,
        states=source,
        collator=AudioVisualCollator(),
        trains_match_head=False,
        paired=paired,
        train_set=None,
        validation_set=None,
    )


def class_names(data: RunData) -> list[str]:
    """Of clips, or segments, with one class each. Raises ValueError for several."""
    feature = data.tables["train"].features["label"]
    if not hasattr(feature, "names"):
        raise ValueError(f"{data.recipe.data.data}: clips with several classes; give a table with one class a clip")
    return feature.names


def nested_table(recipe: Recipe) -> list[dict]:
    """Rows of one seed. Features to fit on have the noise of training, those to test on are clean."""
    data = data_of(recipe)
    num_classes = len(class_names(data))
    reader = FeatureReader(recipe, data.tables, data.source, data.processor)
    streams, splits = recipe.data.modalities, ("train", "validation", "test")
    tested = Features.joined([reader.read(split, None, streams) for split in splits])
    known = tested
    if recipe.train_noise is not None:
        draws = reader.training_draws()
        known = Features.joined([reader.read(split, recipe.train_noise, streams, draws) for split in splits])
    return nested_rows(known, tested, num_classes, recipe.run.seed)


def nested_rows(known: Features, tested: Features, num_classes: int, seed: int) -> list[dict]:
    """Accuracy of every input over all clips, each tested by regressions that saw nothing of its group.

    Clips and segments without a label (-100) are not used.
    """
    known, tested = (features.rows(features.labels != IGNORED_LABEL) for features in (known, tested))
    correct: dict[tuple, np.ndarray] = {}
    chosen: dict[tuple, list] = {}
    for _, test_rows in group_folds(tested.groups, FOLDS, seed):
        test = tested.rows(test_rows)
        train = known.rows(~np.isin(known.groups, test.groups))
        fitted_inputs = fit_inputs(train, np.arange(len(train.labels)), group_folds(train.groups, FOLDS, seed))
        for name, fit in fitted_inputs.items():
            chosen.setdefault((REGRESSION, name), []).append(fit.description)
        for key, each in probabilities_by_input(fitted_inputs, test, num_classes).items():
            # NaN for a clip that lacks the input
            right = correct.setdefault(key, np.full(len(tested.labels), np.nan))
            right[test_rows] = np.where(np.isnan(each).any(1), np.nan, each.argmax(1) == test.labels)
    rows = []
    for (model, name), right in correct.items():
        known = np.isfinite(right)
        right, groups = right[known], tested.groups[known]
        row = {"model": model, "input": name, "noise": "clean", "top1": float(right.mean())}
        row["top1_interval"] = list(bootstrap_interval(right, groups, seed=seed))
        row |= {"clips": len(right), "groups": len(set(groups)), "features": chosen.get((model, name))}
        rows.append(row)
    return rows


if __name__ == "__main__":
    run_command(main)
