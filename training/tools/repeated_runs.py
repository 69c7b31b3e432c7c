# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What `training.tools.seeds` and `training.tools.compare` share: runs in processes of their own, and figures with their spread."""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from processing.data.atomic_writing import write_text
from training.common.results import markdown_table, package_versions
from training.common.shipped_files import shipped_file


RECIPE = shipped_file("train.py")
MEASURED = ("top1", "top5", "map", "macro_f1", "match_auroc", "combined")


@dataclass
class Run:
    """One run of the recipe: `key` says what it is, `arguments` go to `train.py` after the configuration file."""

    name: str
    key: dict
    config: str
    arguments: list[str]

    def results(self, runs: Path, threads: int) -> dict:
        """The run's `results.json`; trains in a process of its own unless the same command has finished before.

        Raises:
            RuntimeError: the process failed; holds the end of its log.
        """
        directory = runs / self.name
        command = [sys.executable, str(RECIPE), self.config, *self.arguments]
        command += ["--output_dir", str(directory), "--overwrite_output_dir", "true"]
        marker, wanted = directory / "command.json", json.dumps([_text(self.config), command[2:]])
        finished = directory / "results.json"
        if not (finished.is_file() and marker.is_file() and _text(marker) == wanted):
            directory.mkdir(parents=True, exist_ok=True)
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
            log = directory / "train.log"
            with open(log, "w", encoding="utf-8") as stream:
                code = subprocess.run(command, env=environment, stdout=stream, stderr=subprocess.STDOUT).returncode
            if code:
                end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
                raise RuntimeError(f"{self.name} ended with code {code}; see {log}\n{end}")
            write_text(marker, wanted)
        results = json.loads(_text(finished))
        print(f"{self.name}: {results['minutes']} min", flush=True)
        return results


def run_all(jobs: list[Run], folder: Path, parallel: int) -> list[tuple[dict, dict]]:
    """`(key, results)` of every run, `parallel` of them at a time; the cores are shared out among them."""
    threads = threads_per_run(parallel)
    with ThreadPoolExecutor(parallel) as pool:
        futures = [pool.submit(job.results, folder, threads) for job in jobs]
        return [(job.key, future.result()) for job, future in zip(jobs, futures, strict=True)]


def threads_per_run(parallel: int) -> int:
    return max(1, (os.cpu_count() or 1) // parallel)


def with_spread(
    found: Iterable[tuple[dict, dict]], measured: Iterable[str], kept: Callable[[dict], dict] = lambda row: {}
) -> list[dict]:
    """Rows of one key become one: mean, `<name>_spread` (standard deviation) and `<name>_seeds` of what is measured.

    Args:
        found: `(key, row)`, one for each seed; rows of equal keys belong together and keep their order.
        measured: names of figures.
        kept: what else of the first seed's row goes into the result.
    """
    collected: dict[tuple, list[tuple[dict, dict]]] = {}
    for key, row in found:
        collected.setdefault(tuple(key.items()), []).append((key, row))
    rows = []
    for same in collected.values():
        key, first = same[0]
        row = {**key, "seeds": len(same), **kept(first)}
        for name in measured:
            values = [one[name] for _, one in same if one.get(name) is not None]
            if values:
                row[name] = statistics.mean(values)
                row[f"{name}_spread"] = statistics.stdev(values) if len(values) > 1 else 0.0
                row[f"{name}_seeds"] = values
        rows.append(row)
    return rows


def shown(rows: list[dict], measured: Iterable[str] = MEASURED, digits: int = 3) -> list[dict]:
    """Rows for the Markdown table: `mean ± standard deviation` in one cell."""
    return [
        row
        | {
            name: f"{row[name]:.{digits}f} ± {row[f'{name}_spread']:.{digits}f}"
            for name in measured
            if f"{name}_spread" in row
        }
        for row in rows
    ]


def circumstances(module: str, words: list[str], minutes: list[float], parallel: int, call_minutes: float) -> dict:
    """The command, the machine and the time behind a committed result; folders by their last part only."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in words]
    return {
        "command": f"python -m {module} {shlex.join(words)}",
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads_per_run": threads_per_run(parallel),
        },
        "versions": package_versions(),
        "minutes_per_run": {"mean": round(statistics.mean(minutes), 2), "max": max(minutes)},
        "minutes_of_runs": round(sum(minutes), 1),
        "minutes_of_this_call": round(call_minutes, 1),
    }


def add_run_options(parser: argparse.ArgumentParser, runs: str) -> None:
    """`--seeds`, `--parallel`, `--runs` (default: `runs`) and `--out`."""
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time; the cores are shared out among them")
    parser.add_argument("--runs", type=Path, default=Path(runs), help="folder for the single runs")
    parser.add_argument("--out", type=Path, required=True, help="result files without suffix")


def write_table(own: argparse.Namespace, results: dict, number: int, rows: list[dict], columns: dict, note="") -> None:
    """Writes `<out>.json`, and `<out>.md` with the command, how the figures came about, and the table, which it prints.

    Args:
        own: parsed options of `add_run_options`.
        results: with those of `circumstances`.
        number: of runs.
        rows: of the table, mean and spread in one cell already.
        columns: what the table shows.
        note: ends the paragraph above the table.
    """
    write_text(own.out.with_suffix(".json"), json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    told = (
        f"{number} runs, {results['minutes_per_run']['mean']} minutes each on average, {threads_per_run(own.parallel)} "
        f"thread(s) per run; mean ± standard deviation over {len(own.seeds)} seeds. {note}"
    )
    table = markdown_table(rows, columns)
    write_text(own.out.with_suffix(".md"), f"`{results['command']}`\n\n{told.strip()}\n\n{table}\n")
    print(table)


def _text(path: str | Path) -> str:
    return Path(path).read_text(encoding="utf-8")
