# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs one configuration over seeds and modalities, and writes mean and spread.

python -m training.seeds configs/grid_colour.yaml --data grid/labels.csv --model_name_or_path deit_tiny \
    --seeds 0 1 2 --parallel 2 --out results/grid_colour

Every argument that is not its own goes to `train.py`. A run whose `results.json` is there, made by the same arguments, is not
repeated: stop it and start it again as you like. Writes `<out>.json` and `<out>.md`; the runs stand in `--runs`.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from .card import package_versions
from .evaluation import markdown_table, write_text


RECIPE = Path(__file__).resolve().parent.parent / "train.py"
MEASURED = ("top1", "macro_f1", "match_auroc", "combined")
COLUMNS = {
    "model": "model", "trained": "trained on", "input": "input", "noise": "sound", "top1": "top-1",
    "macro_f1": "macro F1", "match_auroc": "match AUROC", "combined": "combined", "seeds": "seeds", "clips": "clips",
}  # fmt: skip


def run_one(config: str, rest: list[str], modalities: str, seed: int, runs: Path, threads: int) -> dict:
    """One run of `train.py` in a process of its own; its results. Raises RuntimeError with the end of its log."""
    name = f"{Path(config).stem}-{modalities.replace('+', '-')}-seed{seed}"
    directory = runs / name
    streams = ["video", "audio"] if modalities == "both" else [modalities]
    command = [sys.executable, str(RECIPE), config, *rest, "--seed", str(seed), "--modalities", *streams]
    command += ["--output_dir", str(directory), "--overwrite_output_dir", "true"]
    marker, wanted = (directory / "command.json", json.dumps([Path(config).read_text(encoding="utf-8"), command[2:]]))
    finished = directory / "results.json"
    if not (finished.is_file() and marker.is_file() and marker.read_text(encoding="utf-8") == wanted):
        directory.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        log = directory / "train.log"
        with open(log, "w", encoding="utf-8") as stream:
            code = subprocess.run(command, env=environment, stdout=stream, stderr=subprocess.STDOUT).returncode
        if code:
            end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise RuntimeError(f"{name} ended with code {code}; see {log}\n{end}")
        write_text(marker, wanted)
    results = json.loads(finished.read_text(encoding="utf-8"))
    print(f"{name}: {results['minutes']} min", flush=True)
    return {"modalities": modalities, "seed": seed, "results": results}


def aggregate(runs: list[dict]) -> list[dict]:
    """Rows with mean and standard deviation over seeds (`top1`, `top1_spread`, ...), and every seed's own figure."""
    collected: dict[tuple, list[dict]] = {}
    for run in runs:
        for row in run["results"]["rows"]:
            # The regression on one modality is the same whatever the network was trained on: take the one of "both".
            if (
                row["model"] != "maavt"
                and run["modalities"] != "both"
                and any(r["modalities"] == "both" for r in runs)
            ):
                continue
            key = (row["model"], run["modalities"] if row["model"] == "maavt" else "-", row["input"], row["noise"])
            collected.setdefault(key, []).append(row)
    rows = []
    for (model, trained, streams, noise), found in collected.items():
        row = {"model": model, "trained": trained, "input": streams, "noise": noise}
        row |= {"seeds": len(found), "clips": found[0]["clips"], "groups": found[0]["groups"]}
        for name in MEASURED:
            values = [one[name] for one in found if one.get(name) is not None]
            if values:
                row[name] = statistics.mean(values)
                row[f"{name}_spread"] = statistics.stdev(values) if len(values) > 1 else 0.0
                row[f"{name}_seeds"] = values
        rows.append(row)
    order = {name: i for i, name in enumerate(dict.fromkeys(row["noise"] for row in rows))}
    return sorted(rows, key=lambda row: (row["model"] != "maavt", order[row["noise"]]))


def shown(rows: list[dict]) -> list[dict]:
    """Rows for the Markdown table: `mean ± standard deviation` in one cell."""
    return [
        row | {name: f"{row[name]:.3f} ± {row[f'{name}_spread']:.3f}" for name in MEASURED if name in row}
        for row in rows
    ]


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file of the run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--trained_on", nargs="+", choices=["both", "audio", "video"], default=["both", "audio", "video"]
    )
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time; the cores are shared out among them")
    parser.add_argument("--runs", type=Path, default=Path("outputs/seeds"), help="folder for the single runs")
    parser.add_argument("--out", type=Path, required=True, help="result files without suffix")
    own, rest = parser.parse_known_args(argv)
    # Names of columns and folders are part of the command; absolute folders are written by their last part only.
    words = [
        Path(word).name if Path(word).is_absolute() else word for word in (sys.argv[1:] if argv is None else argv)
    ]
    threads = max(1, (os.cpu_count() or 1) // own.parallel)
    jobs = [(modalities, seed) for seed in own.seeds for modalities in own.trained_on]
    begin = time.time()
    with ThreadPoolExecutor(own.parallel) as pool:
        futures = [pool.submit(run_one, own.config, rest, m, s, own.runs, threads) for m, s in jobs]
        runs = [future.result() for future in futures]
    rows = aggregate(runs)
    minutes = [run["results"]["minutes"] for run in runs]
    results = {
        "command": f"python -m training.seeds {shlex.join(words)}",
        "config": yaml.safe_load(Path(own.config).read_text(encoding="utf-8")),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "threads_per_run": threads},
        "versions": package_versions(),
        "minutes_per_run": {"mean": round(statistics.mean(minutes), 2), "max": max(minutes)},
        "minutes_of_runs": round(sum(minutes), 1),
        "minutes_of_this_call": round((time.time() - begin) / 60, 1),
        "splits": runs[0]["results"]["splits"],
        "rows": rows,
    }
    write_text(own.out.with_suffix(".json"), json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    text = (
        f"`{results['command']}`\n\n{len(runs)} runs, {results['minutes_per_run']['mean']} minutes each on average, "
    )
    text += f"{threads} thread(s) per run; mean ± standard deviation over {len(own.seeds)} seeds.\n\n"
    write_text(own.out.with_suffix(".md"), text + markdown_table(shown(rows), COLUMNS) + "\n")
    print(markdown_table(shown(rows), COLUMNS))
    return results


if __name__ == "__main__":
    main()
