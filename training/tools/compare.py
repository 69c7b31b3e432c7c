# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Compares variants of one recipe over seeds on equal terms, and writes one table.

python -m training.tools.compare configs/compare/drone.yaml --data drone/labels.csv --model_name_or_path deit_tiny \
    --seeds 0 1 2 --parallel 2 --out results/compare_drone

The file names a `base` configuration (beside or above it) and `variants`: each is the difference from the base, as keys of
`train.py`. Every other argument goes to each run. A run that has finished with the same arguments is not repeated. Writes
`<out>.json` and `<out>.md`; the single runs are in `--runs`.
"""

import json
import re
from pathlib import Path

from training.common.commands import run_command
from training.common.results import PAIR_COLUMNS
from training.common.shipped_files import find_config
from training.common.yaml_text import read_yaml

from .repeated_runs import MEASURED, Finished, Run, read_text, run_and_report, run_parser, with_spread


COLUMNS = {
    "variant": "variant", "input": "input", "noise": "audio", "top1": "top-1", "top5": "top-5",
    "macro_f1": "macro F1", "map": "mAP", **PAIR_COLUMNS, "recall_at_5": "retrieval, R@5",
    "trainable": "trained parameters",
    "seconds_per_epoch": "seconds per epoch", "seeds": "seeds", "clips": "clips",
}  # fmt: skip


def main(argv: list[str] | None = None) -> dict:
    """Run what is not there yet; returns what is written to `<out>.json`."""
    parser = run_parser(__doc__, "YAML file with base and variants", "outputs/compare")
    parser.add_argument("--only", nargs="+", default=None, help="names of variants; default: all")
    options, rest = parser.parse_known_args(argv)
    jobs = comparison_runs(options.config, rest, options.seeds, options.only)
    base, variants = read_comparison(options.config)
    record = {"base": read_yaml(read_text(base), base), "variants": variants}
    note = "Seconds per epoch hold training and validation, of the fastest seed."
    return run_and_report("training.tools.compare", argv, options, jobs, aggregate, COLUMNS, record, note)


def read_comparison(path: str | Path) -> tuple[str, dict[str, dict]]:
    """The base configuration's path, and the changes of each variant. Raises ValueError for a file of another form."""
    path = find_config(str(path))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such comparison; the ready ones are in configs/compare/")
    content = read_yaml(read_text(path), path)
    if not isinstance(content, dict) or set(content) != {"base", "variants"}:
        raise ValueError(f"{path}: expected the keys `base` and `variants`")
    base = path.parent / content["base"]
    if not base.is_file():
        raise FileNotFoundError(f"{path}: base: {base} does not exist; give a path relative to this file")
    variants = content["variants"]
    if not isinstance(variants, dict) or not all(isinstance(changes, dict) for changes in variants.values()):
        raise ValueError(f"{path}: variants: expected `name: {{key: value}}` lines")
    for variant, changes in variants.items():
        if empty := [name for name, value in changes.items() if value is None]:
            raise ValueError(
                f"{path}: {variant}: {empty[0]} is null; a variant cannot unset a key of its base, give a value"
            )
    return str(base), variants


def as_arguments(changes: dict) -> list[str]:
    """Keys of `train.py` as words of its command line; a mapping changes only the fields that it names."""
    words = []
    for name, value in changes.items():
        words.append(f"--{name}")
        for one in value if isinstance(value, list) else [value]:
            words.append(json.dumps(one) if isinstance(one, (dict, bool)) else str(one))
    return words


def comparison_runs(config: str, rest: list[str], seeds: list[int], only: list[str] | None = None) -> list[Run]:
    """A run for every seed and variant. Raises ValueError where `only` names none of the variants."""
    base, variants = read_comparison(config)
    check_folders(config, variants)
    if unknown := sorted(set(only or ()) - set(variants)):
        raise ValueError(f"--only: no variant {unknown}; the file has {list(variants)}")
    jobs = []
    for seed in seeds:
        for variant, changes in variants.items():
            if only and variant not in only:
                continue
            name = f"{Path(config).stem}-{folder_of(variant)}-seed{seed}"
            arguments = [*as_arguments(changes), *rest, "--seed", str(seed)]
            jobs.append(Run(name, {"variant": variant, "seed": seed}, base, arguments))
    return jobs


def folder_of(variant: str) -> str:
    """Letters and digits of the variant's name."""
    return re.sub(r"[^a-z0-9]+", "-", variant.lower()).strip("-")


def check_folders(config: str | Path, variants: dict[str, dict]) -> None:
    """Raises ValueError where the runs of two variants would share a folder."""
    variant_of = {}
    for variant in variants:
        first = variant_of.setdefault(folder_of(variant), variant)
        if first != variant:
            raise ValueError(
                f"{config}: variants: {first!r} and {variant!r} differ in signs alone; give one of them another name"
            )


def aggregate(runs: Finished) -> list[dict]:
    """One row for each variant and condition, with what the model was trained on as its input; the baseline once."""
    keyed, first = [], runs[0][0]["variant"]
    for key, results in runs:
        seconds = 60 * results["training_minutes"] / results["epochs"]
        costs = {"trainable": results["trainable"], "seconds_per_epoch": seconds}
        # A model trained on both modalities is compared with both given.
        inputs = [row["input"] for row in results["rows"] if row["model"] == "maavt"]
        trained_on = "both" if "both" in inputs else inputs[0]
        # The baseline is the same for all variants: take that of the first.
        for row in results["rows"]:
            condition = {"input": row["input"], "noise": row["noise"]}
            if row["model"] != "maavt" and key["variant"] == first:
                keyed.append(({"variant": row["model"]} | condition, row))
            elif row["model"] == "maavt" and row["input"] == trained_on:
                keyed.append(({"variant": key["variant"]} | condition, row | costs | recall(results, row["noise"])))
    rows = with_spread(keyed, (*MEASURED, "seconds_per_epoch"), ("clips", "groups", "trainable"))

    # The fastest seed counts: other work on the machine is no cost of the variant.
    for row in rows:
        if "seconds_per_epoch" in row:
            row["seconds_per_epoch"] = round(min(row.pop("seconds_per_epoch_seeds")), 1)
            del row["seconds_per_epoch_spread"]
    return rows


def recall(results: dict, noise: str) -> dict[str, float]:
    """R@5 of `retrieval: true`, which is measured without noise: the mean of audio by video and video by audio."""
    found = results.get("retrieval")
    if not found or noise != "clean":
        return {}
    return {"recall_at_5": (found["video_to_audio_r5"] + found["audio_to_video_r5"]) / 2}


if __name__ == "__main__":
    run_command(main)
