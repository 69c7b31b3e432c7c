# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Every figure of docs/performance.md on this machine: `make bench`, or parts of it.

    python -m benchmarks.bench [PART ...] [--out FOLDER]

Writes one flat JSON object, `<hardware>-<cores>cores-<dtypes>-torch<version>-transformers<version>.json`, into `--out`,
BENCH_OUT or benchmarks/results/, and prints it, ratios first. Each part runs in a process of its own; a part that fails
is reported, and the command then ends with 1. Figures of parts that were not run are kept from an earlier run.
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path

import torch

from .fresh import REPOSITORY, in_forked_process
from .machine import description
from .projection import project
from .scaling_plot import draw


PARTS = (
    "machine",
    "speed",
    "late_prompts",
    "memory",
    "processor",
    "startup",
    "waiting",
    "exports",
    "scaling",
)
RATIOS = re.compile(r"speedup|fraction|overhead|memory\.train\.(?!mib)|efficiency|share|over_size|load_seconds")


def run_part(name: str, limit: float) -> dict:
    """The figures of one part, from a process of its own.

    Raises:
        RuntimeError: it failed or took longer than `limit` seconds.
    """
    try:
        return in_forked_process(f"benchmarks.{name}", "measure", limit=limit)
    except TimeoutError as error:
        raise RuntimeError(f"{name}: took longer than {limit:.0f} s") from error
    except Exception as error:
        raise RuntimeError(f"{name}: {type(error).__name__}: {error}") from error


def file_name(machine: dict) -> str:
    hardware = re.sub(r"[^A-Za-z0-9]+", "-", str(machine["hardware"])).strip("-").lower()
    torch_version = str(machine["torch"]).split("+")[0]
    return (
        f"{hardware}-{machine['cores']}cores-float32-bfloat16-torch{torch_version}"
        f"-transformers{machine['transformers']}.json"
    )


def conditions(name: str) -> dict[str, float]:
    """What a part was measured under: its threads, and how many processes already wanted a core."""
    found = {f"bench.threads.{name}": torch.get_num_threads()}
    if hasattr(os, "getloadavg"):
        found[f"bench.load.{name}"] = os.getloadavg()[0]
    return found


def write(path: Path, figures: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(ordered(figures), indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def ordered(figures: dict) -> dict:
    """Ratios first, then everything else, each by name."""
    return dict(sorted(figures.items(), key=lambda item: (RATIOS.search(item[0]) is None, item[0])))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--out", default=os.environ.get("BENCH_OUT") or REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--limit", type=float, default=900, help="seconds that a part may take")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    machine = description()
    path = Path(options.out) / file_name(machine)
    figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() and options.parts else {}
    figures |= machine
    failed = []
    for name in options.parts or PARTS:
        start = time.perf_counter()
        figures |= conditions(name)
        try:
            figures |= run_part(name, options.limit)
        except (RuntimeError, ValueError) as error:
            failed.append(name)
            print(f"FAILED {error}", file=sys.stderr, flush=True)
        figures[f"bench.seconds.{name}"] = time.perf_counter() - start
        print(f"{name}: {figures[f'bench.seconds.{name}']:.0f} s", file=sys.stderr, flush=True)
        write(path, figures)
    if "speedup.train.bfloat16" in figures:
        figures |= project(figures)
        write(path, figures)
    picture = draw(path)
    for key, value in ordered(figures).items():
        print(f"{key:45s} {value:.4g}" if isinstance(value, float) else f"{key:45s} {value}")
    print(
        f"written to {path}"
        + (f" and {picture.name}" if picture else "")
        + (f"; FAILED: {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
