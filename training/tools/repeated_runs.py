# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What `training.tools.seeds` and `training.tools.compare` share: many runs of `train.py`, and one table over seeds."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from processing.data.atomic_writing import write_text
from training.common.commands import shown_command
from training.common.results import PAIR_COLUMNS, markdown_table, package_versions
from training.common.shipped_files import shipped_file
from training.maavt.arguments import parse_arguments


RECIPE = shipped_file("train.py")
MEASURED = ("top1", "top5", "map", "macro_f1", *PAIR_COLUMNS, "recall_at_5")
Finished = list[tuple[dict, dict]]  # (key, results) of each run


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
            ChildProcessError: the process failed; holds the end of its log.
        """
        directory = runs / self.name
        command = [sys.executable, str(RECIPE), self.config, *self.arguments]
        command += ["--output_dir", str(directory), "--overwrite_output_dir", "true"]

        # A finished run says by which configuration and arguments it was made.
        made_by = json.dumps([read_text(self.config), command[2:]])
        marker, finished = directory / "command.json", directory / "results.json"
        if not (finished.is_file() and marker.is_file() and read_text(marker) == made_by):
            directory.mkdir(parents=True, exist_ok=True)
            # What another command left must not pass for a result of this one, nor of that one.
            marker.unlink(missing_ok=True)
            finished.unlink(missing_ok=True)
            self.train(command, directory / "train.log", threads)
            write_text(marker, made_by)
        results = json.loads(read_text(finished))
        print(f"{self.name}: {results['minutes']} min", flush=True)
        return results

    def train(self, command: list[str], log: Path, threads: int) -> None:
        """Run the command, its output into `log`."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        with open(log, "w", encoding="utf-8") as stream:
            code = subprocess.run(command, env=environment, stdout=stream, stderr=subprocess.STDOUT).returncode
        if code:
            end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise ChildProcessError(f"{self.name} ended with code {code}; see {log}\n{end}")


def run_parser(description: str, config: str, runs: str) -> argparse.ArgumentParser:
    """The options of both commands; `config` says what the file is, `runs` is the default folder of the single runs."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help=config)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time; the cores are shared out among them")
    parser.add_argument("--runs", type=Path, default=Path(runs), help="folder for the single runs")
    parser.add_argument("--out", type=Path, required=True, help="result files without suffix")
    return parser


def run_and_report(
    module: str,
    argv: list[str] | None,
    options: argparse.Namespace,
    jobs: list[Run],
    aggregate: Callable[[Finished], list[dict]],
    columns: dict[str, str],
    record: dict,
    note: str = "",
) -> dict:
    """Do the runs that are not done yet, and write `<out>.json` and `<out>.md`; prints the table.

    Args:
        module: the command, and `argv` its command line, for the record.
        options: of `run_parser`.
        aggregate: all runs to rows of the table, with `<metric>_spread`.
        columns: of the table, and their headings.
        record: what else the json file says.
        note: ends the paragraph above the table.
    """
    begin = time.time()
    results, threads = finish_runs(options, jobs)
    rows = aggregate([(job.key, result) for job, result in zip(jobs, results, strict=True)])

    # The record: the command, the machine and the time behind a committed result.
    minutes = [result["minutes"] for result in results]
    mean_minutes = round(statistics.mean(minutes), 2)
    record = {
        "command": shown_command(module, argv),
        "machine": {**machine(), "threads_per_run": threads},
        "versions": results[0]["versions"],
        "minutes_per_run": {"mean": mean_minutes, "max": max(minutes)},
        "minutes_of_runs": round(sum(minutes), 1),
        "minutes_of_this_call": round((time.time() - begin) / 60, 1),
        **record,
        "splits": results[0]["splits"],
        "rows": rows,
    }
    write_text(result_file(options.out, ".json"), json.dumps(record, indent=2, ensure_ascii=False) + "\n")

    # The table.
    seeds = over_seeds(len(options.seeds))
    text = f"{len(jobs)} runs, {mean_minutes} minutes each on average, {threads} thread(s) per run; {seeds}. {note}"
    table = markdown_table(shown(rows), columns)
    write_text(result_file(options.out, ".md"), f"`{record['command']}`\n\n{text.strip()}\n\n{table}\n")
    print(table)
    return record


def finish_runs(options: argparse.Namespace, jobs: list[Run]) -> tuple[list[dict], int]:
    """Does the runs that are not done yet, `options.parallel` at a time: their results, and the threads of each run."""
    # A wrong option is found before a run replaces what another command has left in its folder.
    for job in jobs:
        parse_arguments([job.config, *job.arguments])
    threads = max(1, (os.cpu_count() or 1) // options.parallel)
    with ThreadPoolExecutor(options.parallel) as pool:
        return list(pool.map(lambda job: job.results(options.runs, threads), jobs)), threads


def result_file(out: Path, ending: str) -> Path:
    """`<out>.json` or `<out>.md`, also where the name has a dot, as in `lr0.001`."""
    return out.with_name(out.name + ending)


def over_seeds(number: int) -> str:
    """What the figures of a table are."""
    if number == 1:
        return "figures of one seed"
    return f"mean ± standard deviation over {number} seeds"


def machine() -> dict[str, str | int | None]:
    """What figures of time depend on, and the rounding of some kernels."""
    return {"processor": platform.machine(), "cores": os.cpu_count()}


def write_record(module: str, argv: list[str] | None, out: Path, begin: float, rows: list[dict]) -> dict:
    """Writes and returns `<out>.json` of a tool that trains nothing itself: command, machine, versions, minutes and rows."""
    record = {
        "command": shown_command(module, argv),
        "machine": machine(),
        "versions": package_versions(),
        "minutes": round((time.time() - begin) / 60, 1),
        "rows": rows,
    }
    write_text(result_file(out, ".json"), json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return record


def with_spread(
    runs: Iterable[tuple[dict, dict]], measured: Iterable[str], kept: Iterable[str] = ("clips", "groups")
) -> list[dict]:
    """Rows of one key become one: mean, `<name>_spread` (standard deviation) and `<name>_seeds` of what is measured.

    Args:
        runs: `(key, row)`, one for each seed; rows of equal keys belong together and keep their order.
        measured: names of figures.
        kept: what else of the first seed's row goes into the result.
    """
    collected: dict[tuple, list[dict]] = {}
    for key, row in runs:
        collected.setdefault(tuple(key.items()), []).append(row)
    # One row a key.
    rows = []
    for key, of_seeds in collected.items():
        row = {**dict(key), "seeds": len(of_seeds)}
        row |= {name: of_seeds[0][name] for name in kept if name in of_seeds[0]}
        if of_seeds[0].get("features"):
            row["features_seeds"] = [one["features"] for one in of_seeds]
        for name in measured:
            figures = [one[name] for one in of_seeds if one.get(name) is not None]
            if figures:
                row[name] = statistics.mean(figures)
                row[f"{name}_spread"] = 0.0
                if len(figures) > 1:
                    row[f"{name}_spread"] = statistics.stdev(figures)
                row[f"{name}_seeds"] = figures
        rows.append(row)
    return rows


def shown(rows: list[dict], measured: Iterable[str] = MEASURED) -> list[dict]:
    """Rows for the Markdown table: `mean ± standard deviation` in one cell, the figure alone where there is one seed."""
    table = []
    for row in rows:
        row = dict(row)
        for name in measured:
            if f"{name}_spread" in row:
                spread = f" ± {row[f'{name}_spread']:.3f}" if row["seeds"] > 1 else ""
                row[name] = f"{row[name]:.3f}{spread}"
        if "seconds_per_epoch" in row:
            row["seconds_per_epoch"] = f"{row['seconds_per_epoch']:.1f}"
        table.append(row)
    return table


def read_text(path: str | Path) -> str:
    return Path(path).read_text(encoding="utf-8")
