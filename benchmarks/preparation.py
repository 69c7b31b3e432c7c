# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Preparing a set with processes, with Ray and in parts: clips a second, and whether all write the same bytes.

    python -m benchmarks.preparation [--clips 2000] [--out benchmarks/results]

Writes `preparation.json` and `preparation.md`. The set has VGGSound's layout; its clips are generated: 1 s, 96 x 64 pixels,
of 20 scenes, each file with bytes of its own. One run of Ray has a worker killed when half of the clips are checked. Then
the check of clips as they are on the web (10 s, H.264, AAC) is timed by itself, in processor seconds of one process.
"""

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import torch

from processing.data.atomic_writing import write_text
from processing.generate.clip_writing import write_clip
from processing.prepare.scan import Job, check_clip

from .figures import FOLDER, description
from .fresh import REPOSITORY
from .realistic import write_clip as write_realistic


SCENES, CLASSES = 20, 10
WEB_HEIGHTS = (360, 720, 1080)
RUNS = {
    "processes, 1 worker": [["--workers", "1"]],
    "processes, 2 workers": [["--workers", "2"]],
    "Ray, 1 worker": [["--engine", "ray", "--workers", "1"]],
    "Ray, 2 workers": [["--engine", "ray", "--workers", "2"]],
    "Ray, 2 workers, one killed": [["--engine", "ray", "--workers", "2"]],
    "2 parts, one after the other, 1 worker each": [
        ["--workers", "1", "--part", "1/2"],
        ["--workers", "1", "--part", "2/2"],
        ["--join"],
    ],
}


def write_set(root: Path, num_clips: int) -> None:
    """`vggsound.csv` and clips; the last two files are broken and silent."""
    (root / "video").mkdir(parents=True)
    generator = np.random.default_rng(0)
    scenes = []
    for number in range(SCENES):
        frames = generator.integers(0, 255, (1, 8, 12, 3)).repeat(8, 1).repeat(8, 2).repeat(10, 0)
        frames = np.clip(frames + 6 * np.arange(10)[:, None, None, None], 0, 255).astype(np.uint8)
        sound = 0.3 * np.sin(2 * np.pi * (200 + 60 * number) * np.arange(16000) / 16000)
        scenes.append(write_clip(root / f"scene{number}.mp4", frames, sound.astype(np.float32), fps=10).read_bytes())
        (root / f"scene{number}.mp4").unlink()
    lines = []
    for number in range(num_clips):
        name = f"video{number:06d}"
        mark = uuid.uuid5(uuid.NAMESPACE_URL, name).bytes  # in a box of the file that players pass over
        data = scenes[number % SCENES] + struct.pack(">I", 8 + len(mark)) + b"free" + mark
        if number == num_clips - 2:
            data = data[: len(data) // 3]
        (root / "video" / f"{name}_000001.mp4").write_bytes(data)
        lines.append(f"{name},1,class{number % CLASSES},{'test' if number % 10 == 0 else 'train'}")
    silent = np.zeros((10, 64, 96, 3), np.uint8)
    write_clip(root / "video" / f"video{num_clips - 1:06d}_000001.mp4", silent, np.zeros(16000, np.float32), fps=10)
    (root / "vggsound.csv").write_text("\n".join(lines) + "\n")


def run(root: Path, out: Path, steps: list[list[str]], kill: bool, num_clips: int) -> dict[str, float]:
    """Runs the commands of one way, and says how long they took and how fast clips came once they did."""
    record = out.with_name(f".{out.name}.scan.jsonl")
    start, rate = time.perf_counter(), None
    for options in steps:
        command = [sys.executable, "-m", "processing.prepare", "vggsound", "--root", str(root), "--out", str(out)]
        with open(out.with_suffix(".log"), "ab") as log:
            process = subprocess.Popen([*command, *options], cwd=REPOSITORY, stdout=log, stderr=log)
            if "--part" not in options:
                rate = _watch(process, record, num_clips, kill) or rate
            if process.wait():
                raise RuntimeError(f"{command + options} failed:\n{out.with_suffix('.log').read_text()[-2000:]}")
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "clips_per_second": rate or num_clips / seconds}


def _watch(process: subprocess.Popen, record: Path, num_clips: int, kill: bool) -> float | None:
    """Clips a second from the first result to the last; at half of them one of Ray's workers is killed."""
    first = last = None
    while process.poll() is None:
        count = record.read_bytes().count(b"\n") if record.is_file() else 0
        now = time.perf_counter()
        if count and first is None:
            first = (now, count)
        if last is None or count > last[1]:
            last = (now, count)
        if kill and count > num_clips // 2:
            workers = _ray_workers(process.pid)
            if len(workers) != 2:
                raise RuntimeError(f"{len(workers)} Ray workers where 2 should run")
            workers[0].kill()
            kill = False
        time.sleep(0.2)
    if kill:
        raise RuntimeError("the run ended before a worker was killed")
    if first is None or last[0] <= first[0]:
        return None
    return (last[1] - first[1]) / (last[0] - first[0])


def _ray_workers(driver: int) -> list:
    import psutil

    children = psutil.Process(driver).children(recursive=True)
    return [child for child in children if (child.cmdline() or [""])[0].startswith("ray::MapWorker")]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def compare(num_clips: int) -> dict[str, dict]:
    """Figures of each way, and whether its folder is that of the first to the byte."""
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        write_set(root, num_clips)
        expected = None
        for number, (name, steps) in enumerate(RUNS.items()):
            out = Path(folder) / f"out{number}"
            load = os.getloadavg()[0]  # processes that already wanted a core
            results[name] = run(root, out, steps, "killed" in name, num_clips) | {"load": load}
            expected = expected or contents(out)
            results[name]["equal"] = contents(out) == expected
            print(f"{name}: {results[name]}", file=sys.stderr, flush=True)
        report = json.loads(expected["report.json"])
        results["set"] = {"clips": num_clips, "used": report["total"]["used"], "corrupt": report["total"]["corrupt"]}
    return results


def check_rates(seconds: float = 10.0, repeats: int = 5) -> dict[str, float]:
    """Clips a second of processor time in `check_clip`, by height."""
    rates = {}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for height in WEB_HEIGHTS:
            write_realistic(Path(folder) / f"{height}.mp4", height, 250, seconds)
            job = Job(f"{height}.mp4", f"{height}.mp4")
            check_clip(folder, job)
            start = time.process_time()  # of this process: others on the machine do not count
            for _ in range(repeats):
                check_clip(folder, job)
            rates[f"{height}p"] = repeats / (time.process_time() - start)
    return rates


def markdown(results: dict) -> str:
    machine, runs = results["machine"], results["runs"]
    lines = [
        f"{machine['hardware']}, {machine['cores']} cores. `{results['command']}`",
        "",
        f"{runs['set']['clips']} generated clips, {runs['set']['used']} used, {runs['set']['corrupt']} broken. Seconds are "
        "those of the whole command with the start of Python and Ray; clips a second count from the first result to the last. "
        "The load is the number of processes that wanted a core when the command was given.",
        "",
        "| way | seconds | clips a second | load | same bytes as the first |",
        "|---|---|---|---|---|",
    ]
    for name in (name for name in RUNS if name in runs):
        run_of = runs[name]
        same = "yes" if run_of["equal"] else "NO"
        lines.append(
            f"| {name} | {run_of['seconds']:.0f} | {run_of['clips_per_second']:.0f} | {run_of['load']:.0f} | {same} |"
        )
    # The average of a minute still holds the run before, which had all cores.
    if max(runs[name]["load"] for name in RUNS if name in runs) > machine["cores"] + 1:
        lines += ["", "Other work had the cores at the same time, so the rates do not compare; the bytes do."]
    lines += [
        "",
        "Clips of 10 s, H.264 with one long GOP, checked one after the other by one process; a core's time alone:",
        "",
    ]
    lines += ["| clip | clips a second and core | 200,000 clips | 2 million clips |", "|---|---|---|---|"]
    for name, rate in results["check"].items():
        hours = [f"{count / rate / 3600:.0f} core hours" for count in (200_000, 2_000_000)]
        lines.append(f"| {name} | {rate:.1f} | {hours[0]} | {hours[1]} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    results = {
        "command": f"python -m benchmarks.preparation --clips {options.clips}",
        "machine": description(),
        "check": check_rates(),
        "runs": compare(options.clips),
    }
    write_text(options.out / "preparation.json", json.dumps(results, indent=1) + "\n")
    write_text(options.out / "preparation.md", markdown(results))
    print(markdown(results))
    return int(not all(results["runs"][name]["equal"] for name in RUNS))


if __name__ == "__main__":
    sys.exit(main())
