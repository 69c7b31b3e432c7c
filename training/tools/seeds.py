# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs one configuration over seeds and modalities, and writes mean and spread.

python -m training.tools.seeds configs/grid_command.yaml --data grid/labels.csv --model_name_or_path deit_tiny \
    --seeds 0 1 2 --parallel 2 --out outputs/grid_command

Every other argument goes to `train.py`. A run that has finished with the same arguments is not repeated: stop the command
and start it again as you like. Writes `<out>.json` and `<out>.md`; the single runs are in `--runs`.
"""

from pathlib import Path

from training.common.commands import run_command
from training.common.results import PAIR_COLUMNS
from training.common.shipped_files import find_config
from training.common.yaml_text import read_yaml

from .repeated_runs import MEASURED, Finished, Run, read_text, run_and_report, run_parser, with_spread


COLUMNS = {
    "model": "model", "trained": "trained on", "input": "input", "noise": "audio", "top1": "top-1",
    "top5": "top-5", "macro_f1": "macro F1", "map": "mAP", **PAIR_COLUMNS, "seeds": "seeds", "clips": "clips",
}  # fmt: skip


def main(argv: list[str] | None = None) -> dict:
    """Run what is not there yet; returns what is written to `<out>.json`."""
    parser = run_parser(__doc__, "YAML file of the run", "outputs/seeds")
    modalities = ["both", "audio", "video"]
    parser.add_argument("--trained_on", nargs="+", choices=modalities, default=modalities)
    options, rest = parser.parse_known_args(argv)
    config = str(find_config(options.config))
    jobs = seed_runs(config, rest, options.trained_on, options.seeds)
    record = {"config": read_yaml(read_text(config), config)}
    return run_and_report("training.tools.seeds", argv, options, jobs, aggregate, COLUMNS, record)


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


def aggregate(runs: Finished) -> list[dict]:
    """Rows with mean and standard deviation over seeds (`top1`, `top1_spread`, ...), and the figure of every seed."""
    any_both = any(key["modalities"] == "both" for key, _ in runs)
    keyed = []
    for key, results in runs:
        for row in results["rows"]:
            # The regression on one modality is the same whatever the network was trained on: take the one of "both".
            is_model = row["model"] == "maavt"
            if not is_model and any_both and key["modalities"] != "both":
                continue
            trained = key["modalities"] if is_model else "-"
            keyed.append(
                ({"model": row["model"], "trained": trained, "input": row["input"], "noise": row["noise"]}, row)
            )
    rows = with_spread(keyed, MEASURED)

    # The model first, conditions in the order of the runs.
    noises = list(dict.fromkeys(row["noise"] for row in rows))
    return sorted(rows, key=lambda row: (row["model"] != "maavt", noises.index(row["noise"])))


if __name__ == "__main__":
    run_command(main)
