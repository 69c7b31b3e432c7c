# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Compares variants of one recipe over seeds on equal terms, and writes one table.

python -m training.tools.compare configs/compare/drone.yaml --data drone/labels.csv --model_name_or_path deit_tiny \
    --seeds 0 1 2 --parallel 2 --out results/compare_drone

The file names a `base` configuration (beside or above it) and `variants`: each is the difference from the base, as keys of
`train.py`. What is not the command's own goes to every run. A run that has finished with the same arguments is not
repeated. Writes `<out>.json` and `<out>.md`; the runs stand in `--runs`.
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path

from training.common.yaml_text import read_yaml

from .repeated_runs import MEASURED, Run, add_run_options, circumstances, run_all, shown, with_spread, write_table


COLUMNS = {
    "variant": "variant", "input": "input", "noise": "sound", "top1": "top-1", "top5": "top-5",
    "macro_f1": "macro F1", "map": "mAP", "match_auroc": "match AUROC", "combined": "combined", "trainable": "trained parameters",
    "seconds_per_epoch": "seconds per epoch", "seeds": "seeds", "clips": "clips",
}  # fmt: skip


def read_comparison(path: str | Path) -> tuple[str, dict[str, dict]]:
    """The base configuration's path, and the changes of each variant. Raises ValueError for a file of another form."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such comparison; the ready ones are in configs/compare/")
    content = read_yaml(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or set(content) != {"base", "variants"}:
        raise ValueError(f"{path}: expected the keys `base` and `variants`")
    base = path.parent / content["base"]
    if not base.is_file():
        raise FileNotFoundError(f"{path}: base: {base} does not exist")
    variants = content["variants"]
    if not isinstance(variants, dict) or not all(isinstance(value, dict) for value in variants.values()):
        raise ValueError(f"{path}: variants: expected `name: {{key: value}}` lines")
    return str(base), variants


def as_arguments(changes: dict) -> list[str]:
    """Keys of `train.py` as words of its command line; a mapping changes only the fields that it names."""
    words = []
    for name, value in changes.items():
        listed = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(json.dumps(one) if isinstance(one, (dict, bool)) else str(one) for one in listed)]
    return words


def comparison_runs(config: str, rest: list[str], seeds: list[int], only: list[str] | None = None) -> list[Run]:
    """A run for every seed and variant. Raises ValueError where `only` names none of the variants."""
    base, variants = read_comparison(config)
    if unknown := sorted(set(only or ()) - set(variants)):
        raise ValueError(f"--only: no variant {unknown}; the file has {list(variants)}")
    jobs = []
    for seed in seeds:
        for variant, changes in variants.items():
            if only and variant not in only:
                continue
            word = re.sub(r"[^a-z0-9]+", "-", variant.lower()).strip("-")
            name = f"{Path(config).stem}-{word}-seed{seed}"
            arguments = [*as_arguments(changes), *rest, "--seed", str(seed)]
            jobs.append(Run(name, {"variant": variant, "seed": seed}, base, arguments))
    return jobs


def aggregate(runs: list[tuple[dict, dict]]) -> list[dict]:
    """One row for each variant and condition, with what the model was trained on as its input; the baseline once."""
    found, first = [], runs[0][0]["variant"]
    for key, results in runs:
        costs = {
            "trainable": results["trainable"],
            "seconds_per_epoch": 60 * results["training_minutes"] / results["epochs"],
        }
        ours = [row for row in results["rows"] if row["model"] == "maavt"]
        given = "both" if any(row["input"] == "both" for row in ours) else ours[0]["input"]
        for row in results["rows"]:
            if row["model"] == "maavt" and row["input"] == given:
                found.append(({"variant": key["variant"], "input": given, "noise": row["noise"]}, row | costs))
            elif row["model"] != "maavt" and key["variant"] == first:
                found.append(({"variant": row["model"], "input": row["input"], "noise": row["noise"]}, row))

    def kept(row: dict) -> dict:
        return {name: row[name] for name in ("clips", "groups", "trainable") if name in row}

    rows = with_spread(found, (*MEASURED, "seconds_per_epoch"), kept)
    for row in rows:
        if (
            "seconds_per_epoch" in row
        ):  # the fastest seed: what other work on the machine adds is no cost of the variant
            row["seconds_per_epoch"] = round(min(row.pop("seconds_per_epoch_seeds")), 1)
            del row["seconds_per_epoch_spread"]
    return rows


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file with base and variants")
    parser.add_argument("--only", nargs="+", default=None, help="names of variants; default: all")
    add_run_options(parser, "outputs/compare")
    own, rest = parser.parse_known_args(argv)
    begin = time.time()
    runs = run_all(comparison_runs(own.config, rest, own.seeds, own.only), own.runs, own.parallel)
    rows = aggregate(runs)
    words = list(sys.argv[1:] if argv is None else argv)
    minutes = [results["minutes"] for _, results in runs]
    base, variants = read_comparison(own.config)
    results = circumstances("training.tools.compare", words, minutes, own.parallel, (time.time() - begin) / 60) | {
        "base": read_yaml(Path(base).read_text(encoding="utf-8")),
        "variants": variants,
        "splits": runs[0][1]["splits"],
        "rows": rows,
    }
    seconds = [f"{row['seconds_per_epoch']:.1f}" if "seconds_per_epoch" in row else None for row in rows]
    rows = [row | {"seconds_per_epoch": value} for row, value in zip(shown(rows), seconds, strict=True)]
    note = "Seconds per epoch hold training and validation, of the fastest seed."
    write_table(own, results, len(runs), rows, COLUMNS, note)
    return results


if __name__ == "__main__":
    main()
