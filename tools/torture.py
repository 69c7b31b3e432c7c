# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Kills, interrupts and starves real runs at random moments. A table counts what was lost, hung or left unexplained.

PYTHONPATH=tests python -m tools.torture --minutes 60 --out results/torture.md

Every case begins in an empty folder and ends with a run that nobody touches. That run has to give the weights of the
untouched run, bit for bit. A run that fails has to say why in one line.
"""

import argparse
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
from datasets import ClassLabel, Dataset, Features, Value, Video

from processing.data.atomic_writing import write_text
from tests.toy_run import CLASSES
from tests.trainee import Trainee, start_processes
from training.common.results import markdown_table, package_versions
from training.trainer.checkpoints import checkpoint_problem

from .torture_bench import WATCHED, Bench, work


KILL = -signal.SIGKILL
KILLS = 10  # in one case


def kill(bench: Bench, folder: Path, program: str, kind: str = "") -> int:
    """A run is started again and again in one folder, and killed: at a random moment, or, of a kind in WATCHED, at a
    file operation. One that ends before goes on in a new folder."""
    kills = 0
    while kills < KILLS:
        if kind:
            kill_at = bench.random.randint(1, bench.operations[kind])
            run = bench.start(folder, program, watched=WATCHED[kind][1], kill_at=kill_at)
        else:
            run = bench.start(folder, program, workers=1)
            run.wait_for("start")
            run.process.join(bench.random.uniform(0, bench.seconds[program]))
            run.process.kill()
        if bench.check(folder, run, (0, KILL)) == KILL:
            kills += 1
        else:
            bench.compare(folder, program)
            folder = bench.new_folder()
    bench.finish(folder, program)
    return kills


def interrupt(bench: Bench, folder: Path, program: str, times: int) -> int:
    run = bench.start(folder, program, workers=1)
    run.wait_for("start")
    run.process.join(bench.random.uniform(0.1, 0.8) * bench.seconds[program])
    for _ in range(times):
        if run.process.exitcode is None:
            run.kill(signal.SIGINT)
            time.sleep(0.2)
    code = bench.check(folder, run, (0, 130, -signal.SIGINT))
    bench.finish(folder, program)
    return code != 0


def stop_worker(bench: Bench, folder: Path, then: signal.Signals, codes: tuple[int, ...]) -> int:
    """A loader worker stands still for two seconds, and gets the signal `then`."""
    run, workers = bench.start(folder, workers=1), []
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
    program = "prepare" if place == "prepared" else "train"
    files = (bench.finished[program] / place).rglob("*")
    disk, size = folder / place, sum(file.stat().st_size for file in files) // 1024
    if program == "prepare":  # which puts its folder beside the final one
        disk = folder
    disk.mkdir(exist_ok=True)
    kilobytes = max(8, round(size * bench.random.uniform(0.02, 0.9)))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "torture", disk], check=True)
    if read_only:
        subprocess.run(["mount", disk, "-o", "remount,ro"], check=True)
    try:
        code = bench.check(folder, bench.start(folder, program), (1,) if read_only else (0, 1))
        subprocess.run(["mount", disk, "-o", "remount,rw,size=64m"], check=True)
        bench.finish(folder, program)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
    return code


def delete(bench: Bench, folder: Path) -> int:
    run = bench.start(folder)
    run.wait_for("start")
    run.process.join(bench.random.uniform(0.3, 0.9) * bench.seconds["train"])
    shutil.rmtree(folder / "run", ignore_errors=True)
    bench.check(folder, run, (0, 1))
    bench.finish(folder)
    return 1


def two_runs(bench: Bench, folder: Path, names: tuple[str, str], codes: list[int]) -> int:
    runs = [bench.start(folder, name=name, workers=1) for name in names]
    ended = sorted(bench.check(folder, run, (0, 1)) for run in runs)
    assert ended == codes, f"codes {ended}"
    assert 1 not in codes or any("is in use by process" in run.tail() for run in runs), "nobody names the other one"
    for name in names:
        bench.finish(folder, name=name)
    return 1


def damage(bench: Bench, folder: Path, place: str, pattern: str) -> int:
    """A file is cut off, or noise stands in it. A run goes on without it, or says where."""
    for part in ("cache", "states", place):
        shutil.copytree(bench.finished["train"] / part, folder / part, dirs_exist_ok=True)
    (folder / "run" / "results.json").unlink(missing_ok=True)
    file = spoil(bench, folder / place, pattern)
    run = bench.start(folder)
    if bench.check(folder, run, (0, 1), damaged=file.parent):
        assert place in run.tail(), f"{file.name}: the line does not say where; {run.tail()}"
        shutil.rmtree(folder / place)
    elif place == "run" and file.parent.is_dir() and checkpoint_problem(file.parent):
        shutil.rmtree(file.parent)  # an older checkpoint, which nobody has read or written anew
    bench.finish(folder)
    return 1


def spoil(bench: Bench, folder: Path, pattern: str) -> Path:
    files = [file for file in sorted(folder.glob(pattern)) if file.is_file() and file.stat().st_size]
    file = bench.random.choice(files)
    data = bytearray(file.read_bytes())
    position = bench.random.randrange(len(data))
    end = bench.random.choice([position + 64, len(data)])
    data[position:end] = bench.random.randbytes(64) if end < len(data) else b""
    file.write_bytes(data)
    return file


def damaged_shard(bench: Bench, folder: Path) -> int:
    """A shard that is streamed is cut off, or noise stands in it: in a clip that is other frames, or one line."""
    features = Features(
        {"video": Video(decode=False), "label": ClassLabel(names=sorted(CLASSES)), "group": Value("string")}
    )
    shards = folder / "shards"
    shards.mkdir()
    for split, numbers in {"train": range(5), "validation": range(5, 7), "test": range(7, 9)}.items():
        names = [f"{label}{number}" for number in numbers for label in CLASSES]
        clips = [(bench.root / "data" / "clips" / f"{name}.mp4").read_bytes() for name in names]
        cells = [{"path": f"{name}.mp4", "bytes": clip} for name, clip in zip(names, clips, strict=True)]
        rows = {"video": cells, "label": [name[:-1] for name in names], "group": names}
        Dataset.from_dict(rows, features=features).to_parquet(shards / f"{split}-00000-of-00001.parquet")
    file = spoil(bench, shards, "*")
    argv = [str(bench.config), "--data", str(shards), "--streaming", "--output_dir", str(folder / "run")]
    argv += ["--num_train_epochs", "1", "--stream_options", "{on_broken: skip}"]
    run = Trainee(argv, folder / "log.txt", work, environment={"HF_DATASETS_CACHE": str(folder / "datasets")})
    if bench.check(folder, run, (0, 1)):
        assert file.name in run.tail() or ".mp4" in run.tail(), f"the line does not say where; {run.tail()}"
    return 1


def dead_process(bench: Bench, folder: Path) -> int:
    options = "--num_train_epochs 20 --ddp_backend gloo --ddp_timeout 30"
    argv = [*bench.arguments(folder, workers=1), *options.split()]
    first, second = start_processes(argv, folder, 2, target=work)
    second.wait_for("start")
    second.process.join(bench.random.uniform(0.3, 2) * bench.seconds["train"])
    second.process.kill()
    bench.check(folder, first, (1,))
    assert not (folder / "run" / "results.json").exists(), "the other process ended as if nothing had happened"
    return 1


# What is done, and how often it has to take effect.
KINDS: dict[str, tuple[Callable, int]] = {
    kind: (partial(kill, program=program, kind=kind), 30) for kind, (program, _) in WATCHED.items()
} | {
    "SIGKILL at a random moment of train.py": (partial(kill, program="train"), 30),
    "SIGKILL at a random moment of prepare": (partial(kill, program="prepare"), 30),
    "SIGINT once": (partial(interrupt, program="train", times=1), 2),
    "SIGINT twice": (partial(interrupt, program="train", times=2), 2),
    "SIGINT of prepare": (partial(interrupt, program="prepare", times=1), 2),
    "SIGSTOP of a loader worker, which goes on": (partial(stop_worker, then=signal.SIGCONT, codes=(0,)), 2),
    "SIGSTOP of a loader worker, which is killed": (partial(stop_worker, then=signal.SIGKILL, codes=(0, 1)), 2),
    "the disk of the output folder is full": (partial(small_disk, place="run"), 3),
    "the disk of the feature cache is full": (partial(small_disk, place="cache"), 2),
    "the disk of the block states is full": (partial(small_disk, place="states"), 2),
    "the disk of the prepared set is full": (partial(small_disk, place="prepared"), 2),
    "the output folder is read-only": (partial(small_disk, place="run", read_only=True), 2),
    "the output folder is deleted": (delete, 2),
    "two runs on one output folder": (partial(two_runs, names=("run", "run"), codes=[0, 1]), 2),
    "two runs on one feature cache": (partial(two_runs, names=("run", "run2"), codes=[0, 0]), 2),
    "a damaged file in the feature cache": (partial(damage, place="cache", pattern="**/*"), 4),
    "a damaged file in the block states": (partial(damage, place="states", pattern="**/*"), 4),
    "a damaged file in a checkpoint": (partial(damage, place="run", pattern="checkpoint-*/*"), 4),
    "a damaged shard of a stream": (damaged_shard, 3),
    "one of two processes dies (gloo)": (dead_process, 2),
}


def next_kind(bench: Bench, chosen: list[str]) -> str | None:
    """The kind that has taken effect for the smallest share of what is wanted; None when all have."""
    shares = {}
    for name in chosen:
        wanted = KINDS[name][1]
        share = max(bench.counts[name, "hits"], bench.counts[name, "cases"] / 4) / wanted
        if share < 1:
            shares[name] = share
    return min(shares, key=shares.get, default=None)


def table(bench: Bench, chosen: list[str], head: str, earlier: str = "") -> str:
    """The command, the versions, the counts of every kind, and what went wrong.

    Kinds that were not chosen have the counts of the table in the text `earlier`.
    """
    rows = []
    for name in KINDS:
        counts = {key: bench.counts[name, key] for key in ("cases", "hits")}
        counts["wrong"] = sum(kind == name for kind, _ in bench.problems)
        if name not in chosen:
            found = re.search(rf"^\| {re.escape(name)} \| (\d+) \| (\d+) \| (\d+) \|$", earlier, re.MULTILINE)
            counts = dict(zip(counts, map(int, found.groups()), strict=True))
        rows.append({"kind": name, **counts})
    rows.append({"kind": "all", **{key: sum(row[key] for row in rows) for key in ("cases", "hits", "wrong")}})
    columns = {"kind": "what was done", "cases": "cases", "hits": "took effect", "wrong": "lost, hung or unexplained"}
    heads = [line for line in earlier.splitlines() if line.startswith("`make torture")]
    problems = [f"- {name}: {' '.join(text.split())[-300:]}" for name, text in bench.problems]
    about = __doc__.strip().split("\n\n")[-1]
    return "\n\n".join([*heads, head, about, markdown_table(rows, columns), *problems]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="no case begins later")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", default="", help="a regular expression that finds the kinds to try; other rows of OUT stay"
    )
    parser.add_argument("--out", type=Path, default=Path("results/torture.md"))
    options = parser.parse_args()
    begin = time.monotonic()
    chosen = [name for name in KINDS if re.search(options.only, name)]
    with tempfile.TemporaryDirectory() as root:
        bench = Bench(Path(root), options.seed)
        print(f"untouched: {bench.seconds} s, file operations {bench.operations}", flush=True)
        while time.monotonic() - begin < 60 * options.minutes and (name := next_kind(bench, chosen)):
            folder, started = bench.new_folder(), time.monotonic()
            bench.counts[name, "cases"] += 1
            try:
                bench.counts[name, "hits"] += KINDS[name][0](bench, folder)
                shutil.rmtree(folder)
            except (AssertionError, TimeoutError) as error:
                bench.problems.append((name, str(error)))
                print(f"PROBLEM {name} ({folder.name}): {error}", flush=True)
            Trainee.kill_all()
            print(f"{name}: {bench.counts[name, 'hits']} in {time.monotonic() - started:.1f} s", flush=True)
        minutes = (time.monotonic() - begin) / 60
    versions = ", ".join(f"{name} {number}" for name, number in package_versions().items())
    command, earlier = "make torture", ""
    if options.only:
        command += f" ONLY={options.only!r}"
        earlier = options.out.read_text(encoding="utf-8")
    head = f"`{command}`: {minutes:.0f} minutes, {platform.system()}, Python {platform.python_version()}, {versions}."
    text = table(bench, chosen, head, earlier)
    write_text(options.out, text)
    print(text)
    return int(bool(bench.problems))


if __name__ == "__main__":
    sys.exit(main())
