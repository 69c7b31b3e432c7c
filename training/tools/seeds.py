# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs one configuration over seeds and modalities, and writes mean and spread.

python -m training.tools.seeds configs/grid_colour.yaml --data grid/labels.csv --model_name_or_path deit_tiny \
    --seeds 0 1 2 --parallel 2 --out results/grid_colour

Every argument that is not its own goes to `train.py`. A run whose `results.json` is there, made by the same arguments, is not
repeated: stop it and start it again as you like. Writes `<out>.json` and `<out>.md`; the runs stand in `--runs`.
"""

import argparse
import sys
import time
from pathlib import Path

import yaml

from .repeated_runs import MEASURED, Run, add_run_options, circumstances, run_all, shown, with_spread, write_table


COLUMNS = {
    "model": "model", "trained": "trained on", "input": "input", "noise": "sound", "top1": "top-1",
    "top5": "top-5", "macro_f1": "macro F1", "map": "mAP", "match_auroc": "match AUROC", "combined": "combined",
    "seeds": "seeds", "clips": "clips",
}  # fmt: skip


def seed_runs(config: str, rest: list[str], trained_on: list[str], seeds: list[int]) -> list[Run]:
    """A run for every seed and choice of modalities."""
    jobs = []
    for seed in seeds:
        for modalities in trained_on:
            streams = ["video", "audio"] if modalities == "both" else [modalities]
            name = f"{Path(config).stem}-{modalities}-seed{seed}"
            arguments = [*rest, "--seed", str(seed), "--modalities", *streams]
            jobs.append(Run(name, {"modalities": modalities, "seed": seed}, config, arguments))
    return jobs


def aggregate(runs: list[tuple[dict, dict]]) -> list[dict]:
    """Rows with mean and standard deviation over seeds (`top1`, `top1_spread`, ...), and every seed's own figure."""
    both = any(key["modalities"] == "both" for key, _ in runs)
    found = []
    for key, results in runs:
        for row in results["rows"]:
            ours = row["model"] == "maavt"
            # The regression on one modality is the same whatever the network was trained on: take the one of "both".
            if ours or key["modalities"] == "both" or not both:
                trained = key["modalities"] if ours else "-"
                named = {"model": row["model"], "trained": trained, "input": row["input"], "noise": row["noise"]}
                found.append((named, row))
    rows = with_spread(found, MEASURED, lambda row: {"clips": row["clips"], "groups": row["groups"]})
    order = {name: i for i, name in enumerate(dict.fromkeys(row["noise"] for row in rows))}
    return sorted(rows, key=lambda row: (row["model"] != "maavt", order[row["noise"]]))


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file of the run")
    parser.add_argument(
        "--trained_on", nargs="+", choices=["both", "audio", "video"], default=["both", "audio", "video"]
    )
    add_run_options(parser, "outputs/seeds")
    own, rest = parser.parse_known_args(argv)
    begin = time.time()
    runs = run_all(seed_runs(own.config, rest, own.trained_on, own.seeds), own.runs, own.parallel)
    rows = aggregate(runs)
    words = list(sys.argv[1:] if argv is None else argv)
    minutes = [results["minutes"] for _, results in runs]
    results = circumstances("training.tools.seeds", words, minutes, own.parallel, (time.time() - begin) / 60) | {
        "config": yaml.safe_load(Path(own.config).read_text(encoding="utf-8")),
        "splits": runs[0][1]["splits"],
        "rows": rows,
    }
    write_table(own, results, len(runs), shown(rows), COLUMNS)
    return results


if __name__ == "__main__":
    main()
