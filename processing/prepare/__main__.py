# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Prepares a data set: reads its annotations, checks every clip, writes Parquet shards and a report.

python -m processing.prepare crema_d --root CREMA-D --out prepared/crema_d --workers 8
python -m processing.prepare vggsound --root VGGSound --out prepared/vggsound --vggsounder --embed --push user/vggsound
python -m processing.prepare vggsound --root VGGSound --out prepared/vggsound --part 3/8    # one of 8 jobs; then --join
"""

import argparse
import signal
import sys
from pathlib import Path

from processing.data.conventions import MODALITIES
from processing.data.engines import ENGINES, Engine

from .annotations import PrepareError
from .fingerprints import find_flags
from .parts import join_parts, parse_part, write_part
from .report import make_report, report_text
from .scan import scan
from .selection import make_job, select_rows
from .sets import SETS
from .writing import check_out, make_tables, sole_writer, write_folder


COMMON = {  # options of all sets
    "root", "out", "workers", "engine", "address", "part", "join", "record", "embed", "require", "push", "private", "set",
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """The command; returns 0, or 1 with one line on standard error that names what is wrong and the cure."""
    options = parse_arguments(argv)
    try:
        prepare(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"prepare {options.set}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # processes are waited for: Ctrl-C ends at once then
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


def prepare(options: argparse.Namespace) -> dict | None:
    """Runs one preparation and prints its report.

    Returns:
        the report, as in `report.json` but for the shards; None of a part.

    Raises:
        PrepareError: an annotation file or an option is wrong, or no clip is left.
        OSError: no room on the disk, or no right to write.
    """
    root, out = options.root.resolve(), options.out.resolve()
    if not root.is_dir():
        raise PrepareError(f"{options.root}: no such folder; give the set's own folder as --root")
    check_out(out)
    engine = Engine(options.engine, options.workers, options.address)
    # Read the annotations, and find the files of each row.
    annotations = SETS[options.set].read(root, options)
    require = [kind for kind in options.require if kind in annotations.streams]
    jobs = {
        number: job
        for number, row in enumerate(annotations.rows)
        if (job := make_job(row, root, annotations.streams, require)) is not None
    }
    # Open every clip once, or take what is known from the record or from the parts.
    if options.part:
        print(f"{write_part(out, options.part, options.set, jobs.values(), root, engine)}: written")
        return None
    record = options.record or out.with_name(f".{out.name}.scan.jsonl")
    with sole_writer(record):
        if options.join:
            facts = join_parts(out, options.set, jobs.values(), root)
        else:
            facts = scan(jobs.values(), root, record, engine=engine)
        # Decide on every row, and report.
        verdicts = select_rows(annotations, jobs, facts, require)
        used = [verdict.row for verdict in verdicts if verdict.status == "used"]
        if annotations.complete is not None:
            annotations.complete(used)
        flags = find_flags(verdicts, jobs, facts)
        report = make_report(options.set, annotations, verdicts, flags, _settings(options, root, require))
        print(report_text(report), end="")
        if not used:
            raise PrepareError(f"{options.root}: no clip is left of {len(verdicts)}; the lines above say why")
        # Write the folder.
        tables = make_tables(annotations, verdicts)
        written = write_folder(out, tables, report, embed=options.embed)
    state = "written" if written else "is current, nothing to write"
    print(f"\n{out}: {state}")
    # Upload it.
    if options.push:
        tables.push_to_hub(options.push, private=options.private)  # with the clips' bytes
        print(f"pushed to {options.push}")
    return report


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line: a set's name, then what all sets share and what is its own."""
    parser = argparse.ArgumentParser(prog="python -m processing.prepare", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="set", required=True, metavar="SET", help=", ".join(SETS))
    for name, module in SETS.items():
        title = module.__doc__.splitlines()[0]
        command = commands.add_parser(name, help=title, description=f"{title} See docs/datasets.md.")
        command.add_argument("--root", type=Path, required=True, help="folder with the set's annotations and clips")
        command.add_argument("--out", type=Path, required=True, help="folder to write")
        command.add_argument(
            "--workers",
            type=_count,
            help="processes (default: one a core, at most 8; with Ray all cores); 0: this one",
        )
        command.add_argument("--engine", choices=ENGINES, default="process", help="ray: pip install 'ray[data]'")
        command.add_argument(
            "--address", help="of a running Ray cluster (auto: this machine's); default: start Ray here"
        )
        parts = command.add_mutually_exclusive_group()
        parts.add_argument(
            "--part", type=_part, metavar="I/N", help="check the I-th of N shares of the clips, into OUT.parts"
        )
        parts.add_argument("--join", action="store_true", help="write OUT from all parts in OUT.parts")
        command.add_argument(
            "--record", type=Path, help="file of what was checked (default: .OUT.scan.jsonl beside OUT)"
        )
        command.add_argument(
            "--embed", action="store_true", help="put the clips into the shards instead of their paths"
        )
        command.add_argument(
            "--require",
            nargs="*",
            choices=MODALITIES,
            default=MODALITIES,
            help="(default: video audio) modalities without which a clip is skipped; without them a clip that lacks one is kept without it",
        )
        command.add_argument("--push", metavar="USER/NAME", help="upload to the Hub too, clips included")
        command.add_argument("--private", action="store_true", help="upload to a private repository")
        module.add_arguments(command)
    return parser.parse_args(argv)


def _settings(options: argparse.Namespace, root: Path, require: list[str]) -> dict:
    """What the folder depends on; how it is made (processes, record, upload) is skipped."""
    of_set = {}
    for name, value in sorted(vars(options).items()):
        if name in COMMON:
            continue
        # Paths become text, which JSON holds.
        if isinstance(value, list):
            value = [str(entry) for entry in value]
        elif isinstance(value, Path):
            value = str(value)
        of_set[name] = value
    return {"root": str(root), "require": require, "embed": options.embed} | of_set


def _part(text: str) -> tuple[int, int]:
    try:
        return parse_part(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 0 on")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
