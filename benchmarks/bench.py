# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Every number of docs/performance.md on this machine: `make bench`, or some of its parts.

    python -m benchmarks.bench [PART ...] [--before FOLDER] [--out FOLDER]

Writes `<hardware>-<cores>cores-torch<version>-transformers<version>.json`, and beside it the table as .md and the
plot as .png. Each part runs in a process of its own. A part that fails is reported, and the command then ends with 1.
Numbers of parts that are not asked for are kept from an earlier run.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import torch

from processing.data.atomic_writing import write_text

from . import throughput
from .figures import FOLDER, description, file_name, ordered, read, write_figures
from .fresh import in_forked_process
from .table import draw, markdown


PARTS = {  # what measures each part
    "machine": ("workload", "measure_machine"),
    "speed": ("speed", "measure"),
    "scaling": ("scaling", "measure"),
    "processor": ("processor", "measure"),
    "realistic": ("realistic", "measure"),
    "startup": ("startup", "measure"),
    "loading": ("loading", "measure"),
    "exports": ("exports", "measure"),
    "deepavfusion": ("deepavfusion", "measure"),
    "throughput": ("throughput", "measure"),
}
ASKED = ("throughput",)  # takes longer than all others: only where it is named


def run_part(name: str, limit: float, **options) -> dict:
    """The numbers of one part, from a process of its own.

    Raises:
        RuntimeError: it failed or took longer than `limit` seconds.
    """
    module, function = PARTS[name]
    try:
        return in_forked_process(f"benchmarks.{module}", function, limit=limit, **options)
    except TimeoutError as error:
        raise RuntimeError(f"{name}: took longer than {limit:.0f} s") from error
    except Exception as error:
        raise RuntimeError(f"{name}: {type(error).__name__}: {error}") from error


def conditions(name: str) -> dict[str, float]:
    """What a part was measured under: its threads, and how many processes already wanted a core."""
    return {f"bench.threads.{name}": torch.get_num_threads(), f"bench.load.{name}": os.getloadavg()[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--before", metavar="FOLDER", help="another checkout, measured in the same turns as this one")
    parser.add_argument("--out", type=Path, default=os.environ.get("BENCH_OUT") or FOLDER)
    parser.add_argument("--limit", type=float, default=900, help="seconds that a part may take")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"

    machine = description()
    path = Path(options.out) / file_name(machine)
    figures = read(path) if path.exists() and options.parts else {}
    figures |= machine

    failed = []
    for name in options.parts or [part for part in PARTS if part not in ASKED]:
        start = time.perf_counter()
        figures |= conditions(name)
        extra = {"before": options.before} if options.before and name == "speed" else {}
        try:
            figures |= run_part(name, options.limit, **extra)
        except RuntimeError as error:
            failed.append(name)
            print(f"FAILED {error}", file=sys.stderr, flush=True)
        figures[f"bench.seconds.{name}"] = time.perf_counter() - start
        print(f"{name}: {figures[f'bench.seconds.{name}']:.0f} s", file=sys.stderr, flush=True)
        write_figures(path, figures)

    if "throughput" in options.parts:
        throughput.write(figures, path)
    draw(path)
    table = markdown(figures)
    write_text(path.with_suffix(".md"), table)
    for key, value in ordered(figures).items():
        print(f"{key:60s} {value:.4g}" if isinstance(value, float) else f"{key:60s} {value}")
    print(f"\n{table}\nwritten to {path}" + (f"; FAILED: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
