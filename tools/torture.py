# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Kills, interrupts and starves real runs at random moments. A table counts what was lost, hung or left unexplained.

PYTHONPATH=tests python -m tools.torture --minutes 60 --out results/torture.md

Every case begins in an empty folder and ends with a run that nobody touches. That run has to give the weights of the
untouched run, bit for bit. A run that fails has to say why in one line.
"""

import argparse
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import psutil

from processing.data.atomic_writing import write_text
from tests.trainee import Trainee, start_processes
from training.common.results import markdown_table, package_versions

from .torture_bench import OPTIONS, WAIT, WATCHED, Bench, whole, work


KILL = -signal.SIGKILL


def kill(bench: Bench, folder: Path, program: str, kind: str = "") -> int:
    """Three kills: at a random moment, or, of a kind in WATCHED, at a file operation."""
    kills = 0
    for _ in range(3):
        if kind:
            kill_at = bench.random.randint(1, bench.operations[kind])
            run = bench.start(folder, program, watched=WATCHED[kind][1], kill_at=kill_at)
        else:
            run = bench.start(folder, program)
            run.process.join(bench.random.uniform(0, bench.seconds[program]))
            run.process.kill()
        kills += bench.check(folder, run, (0, KILL)) == KILL
    bench.finish(folder, program)
    return kills


def interrupt(bench: Bench, folder: Path, program: str, times: int) -> int:
    run = bench.start(folder, program)
    run.wait_for("start")
    run.process.join(bench.random.uniform(0.1, bench.seconds[program]))
    for _ in range(times):
        if run.process.exitcode is None:
            run.kill(signal.SIGINT)
            time.sleep(0.2)
    code = bench.check(folder, run, (0, 130))
    bench.finish(folder, program)
    return code == 130


def stop_worker(bench: Bench, folder: Path, then: signal.Signals, codes: tuple[int, ...]) -> int:
    """A loader worker stands still for two seconds, and gets the signal `then`."""
    run, workers = bench.start(folder), []
    while not workers and run.process.exitcode is None:
        workers = psutil.Process(run.process.pid).children()
        time.sleep(0.02)
    for number in (signal.SIGSTOP, then):
        for worker in workers:
            worker.send_signal(number)
        time.sleep(2)
    bench.check(folder, run, codes)
    bench.finish(folder)
    return bool(workers)


def small_disk(bench: Bench, folder: Path, place: str, read_only: bool = False) -> int:
    """`place` lies on a file system that is too small, or read-only (needs root). Afterwards it gets room."""
    disk, size = folder / place, sum(file.stat().st_size for file in (bench.finished / place).rglob("*")) // 1024
    disk.mkdir()
    kilobytes = max(8, round(size * bench.random.uniform(0.02, 0.9)))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "torture", disk], check=True)
    if read_only:
        subprocess.run(["mount", disk, "-o", "remount,ro"], check=True)
    try:
        code = bench.check(folder, bench.start(folder), (1,) if read_only else (0, 1))
        subprocess.run(["mount", disk, "-o", "remount,rw,size=64m"], check=True)
        bench.finish(folder)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
    return code


def delete(bench: Bench, folder: Path) -> int:
    run = bench.start(folder)
    run.process.join(bench.random.uniform(0.3, 0.9) * bench.seconds["train"])
    shutil.rmtree(folder / "run", ignore_errors=True)
    bench.check(folder, run, (0, 1))
    bench.finish(folder)
    return 1


def two_runs(bench: Bench, folder: Path, names: tuple[str, str], codes: list[int]) -> int:
    runs = [bench.start(folder, name=name) for name in names]
    ended = sorted(bench.check(folder, run, (0, 1)) for run in runs)
    assert ended == codes, f"codes {ended}"
    assert 1 not in codes or any("is in use by process" in run.tail() for run in runs), "nobody names the other one"
    for name in names:
        bench.finish(folder, name=name)
    return 1


def damage(bench: Bench, folder: Path, place: str, pattern: str) -> int:
    """A file is cut off, or noise stands in it. A run goes on without it, or says where."""
    shutil.copytree(bench.finished / place, folder / place)
    (folder / "run" / "results.json").unlink(missing_ok=True)
    files = [file for file in sorted((folder / place).glob(pattern)) if file.is_file() and file.stat().st_size]
    file = bench.random.choice(files)
    data = bytearray(file.read_bytes())
    position = bench.random.randrange(len(data))
    end = bench.random.choice([position + 64, len(data)])
    data[position:end] = bench.random.randbytes(64) if end < len(data) else b""
    file.write_bytes(data)
    run = bench.start(folder)
    if bench.check(folder, run, (0, 1)):
        assert place in run.tail(), f"{file.name}: the line does not say where; {run.tail()}"
        shutil.rmtree(folder / place)
    bench.finish(folder)
    return 1


def dead_process(bench: Bench, folder: Path) -> int:
    argv = [str(bench.config), *OPTIONS.split(), "--output_dir", str(folder / "run"), "--num_train_epochs", "20"]
    runs = start_processes([*argv, "--ddp_backend", "gloo", "--ddp_timeout", "30"], folder, 2, target=work)
    runs[1].process.join(bench.random.uniform(0.3, 3) * bench.seconds["train"])
    runs[1].process.kill()
    assert runs[0].end(WAIT) != 0, "the other process ended as if nothing had happened"
    whole(folder / "run")
    return 1


KINDS = {kind: partial(kill, program=program, kind=kind) for kind, (program, _) in WATCHED.items()} | {
    "SIGKILL at a random moment of train.py": partial(kill, program="train"),
    "SIGKILL at a random moment of prepare": partial(kill, program="prepare"),
    "SIGINT once": partial(interrupt, program="train", times=1),
    "SIGINT twice": partial(interrupt, program="train", times=2),
    "SIGINT of prepare": partial(interrupt, program="prepare", times=1),
    "SIGSTOP of a loader worker, which goes on": partial(stop_worker, then=signal.SIGCONT, codes=(0,)),
    "SIGSTOP of a loader worker, which is killed": partial(stop_worker, then=signal.SIGKILL, codes=(0, 1)),
    "the disk of the output folder is full": partial(small_disk, place="run"),
    "the disk of the feature cache is full": partial(small_disk, place="cache"),
    "the output folder is read-only": partial(small_disk, place="run", read_only=True),
    "the output folder is deleted": delete,
    "two runs on one output folder": partial(two_runs, names=("run", "run"), codes=[0, 1]),
    "two runs on one feature cache": partial(two_runs, names=("run", "run2"), codes=[0, 0]),
    "a damaged file in the feature cache": partial(damage, place="cache", pattern="**/*"),
    "a damaged file in a checkpoint": partial(damage, place="run", pattern="checkpoint-*/*"),
    "one of two processes dies (gloo)": dead_process,
}


def table(bench: Bench, minutes: float, asked: float) -> str:
    """The command, the versions, the counts of every kind, and what went wrong."""
    rows, wrong = [], Counter(name for name, _ in bench.problems)
    for name in KINDS:
        counts = {key: bench.counts[name, key] for key in ("cases", "hits")}
        rows.append({"kind": name, **counts, "wrong": wrong[name]})
    rows.append({"kind": "all", **{key: sum(row[key] for row in rows) for key in ("cases", "hits", "wrong")}})
    columns = {"kind": "what was done", "cases": "cases", "hits": "took effect", "wrong": "lost, hung or unexplained"}
    versions = ", ".join(f"{name} {number}" for name, number in package_versions().items())
    head = f"`make torture MINUTES={asked:g}`: {minutes:.1f} minutes, {platform.system()}, Python {platform.python_version()}, {versions}."
    problems = [f"- {name}: {' '.join(text.split())[-300:]}" for name, text in bench.problems]
    return "\n\n".join([head, __doc__.strip().split("\n\n")[-1], markdown_table(rows, columns), *problems]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a part of the names of the kinds to try")
    parser.add_argument("--out", type=Path, default=Path("results/torture.md"))
    options = parser.parse_args()
    begin = time.monotonic()
    chosen = [name for name in KINDS if options.only in name]
    with tempfile.TemporaryDirectory() as root:
        bench = Bench(Path(root), options.seed)
        print(f"untouched: {bench.seconds} s, file operations {bench.operations}", flush=True)
        while time.monotonic() - begin < 60 * options.minutes:
            name, folder = min(chosen, key=lambda kind: bench.counts[kind, "cases"]), bench.new_folder()
            bench.counts[name, "cases"] += 1
            try:
                bench.counts[name, "hits"] += KINDS[name](bench, folder)
                shutil.rmtree(folder)
            except (AssertionError, TimeoutError) as error:
                bench.problems.append((name, str(error)))
                print(f"{name} ({folder.name}): {error}", flush=True)
            Trainee.kill_all()
        text = table(bench, (time.monotonic() - begin) / 60, options.minutes)
    write_text(options.out, text)
    print(text)
    return int(bool(bench.problems))


if __name__ == "__main__":
    sys.exit(main())
