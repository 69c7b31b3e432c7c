# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Changes the code at random places and runs the tests that should notice. A change that no test notices survives.

    python -m tools.mutation --places 20 --seed 0 --out results/mutation.md

Cosmic Ray (`pip install '.[mutation]'`) makes the changes, in a copy of the repository. The tests of each change run
in a process that is forked when PyTorch has been imported, so that one takes seconds.
"""

import argparse
import ast
import importlib
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names


ROOT = Path(__file__).resolve().parents[1]
PRELOADED = (
    "datasets",
    "evaluate",
    "peft",
    "scipy.signal",
    "sklearn.metrics",
    "torchaudio",
    "torchvision",
    "transformers",
)
TIME_LIMIT = 120  # seconds of work; a change that makes the tests hang is noticed


@dataclass(frozen=True)
class Target:
    """Code, and the tests that should notice a change in it.

    Attributes:
        names: functions and classes of the file; none: the whole file.
        tests: files under `tests`, in the order in which they run.
        select: pytest's `-k`: without tests that take long or look at something else.
    """

    file: str
    names: tuple[str, ...]
    tests: tuple[str, ...]
    select: str = ""


MODEL, FUSION = "modeling_maavt/modeling_maavt.py", "modeling_deepavfusion/modeling_deepavfusion.py"
OF_MODEL = ("modeling/test_loss_references.py", "modeling/test_supervised_losses.py", "modeling/test_modeling.py")
OF_LOSSES = "(loss or labels or contrast or ignored or mismatch or modality or weigh or agreement or one_label or match) and not marginals"
METRICS = (
    "processing/test_metrics.py",
    "processing/test_multilabel_metrics.py",
    "processing/test_metrics_of_libraries.py",
)
TARGETS = {
    "losses": Target("modeling_maavt/losses_maavt.py", (), OF_MODEL, OF_LOSSES),
    "losses of DeepAVFusion": Target(
        "modeling_deepavfusion/losses_deepavfusion.py",
        (),
        (
            "modeling/test_deepavfusion.py",
            "modeling/test_deepavfusion_heads.py",
            "modeling/test_deepavfusion_tasks.py",
        ),
    ),
    "heads": Target(
        MODEL,
        (
            *("MAAVTProjection", "MAAVTContrastiveHead", "MAAVTPairLinear", "MAAVTClassifier", "MAAVTLinearMatchHead"),
            *("MAAVTMLPMatchHead", "MAAVTRunningNorm", "MAAVTBilinearMatchHead"),
        ),
        ("modeling/test_precision.py", *OF_MODEL),
        f"statistics or average or absent or retrieval or {OF_LOSSES}",
    ),
    "pairs of a batch": Target(
        MODEL,
        ("presence_mask", "matched_mask", "zero_fill_missing_stream", "MAAVTForAudioVisualClassification"),
        OF_MODEL,
        OF_LOSSES,
    ),
    "tokens": Target(
        MODEL,
        (
            *("MAAVTPrompt", "MAAVTTokenSelfAttention", "MAAVTTokenAttention", "append_tokens", "select_positions"),
            *("count_patches", "shared_mean", "stack_blocks", "pool_segments", "state_at"),
        ),
        ("modeling/test_modeling.py", "modeling/test_prompt_start.py", "modeling/test_fast_paths.py"),
        "token or fold or segment or stacked or position or prompt or layerwise or bad_config or contrast",
    ),
    "fusion": Target(
        FUSION,
        (
            *(
                "keep_where",
                "DeepAVFusionPairAttention",
                "DeepAVFusionDenseAttention",
                "DeepAVFusionFactorizedAttention",
            ),
            *("DeepAVFusionTokenAttention", "DeepAVFusionFusionBlock"),
        ),
        ("modeling/test_deepavfusion.py", "modeling/test_deepavfusion_heads.py"),
    ),
    "clips": Target(
        "processing/clips.py",
        (
            *("frame_times", "_window", "_load_frames", "_requested_times", "_load_waveform", "_placed", "_resampled"),
            *("_write", "_check_overlap", "_cut_off", "_resampler"),
        ),
        ("processing/test_clips.py",),
    ),
    "splits": Target("processing/data/clip_splits.py", (), ("processing/test_clip_tables.py",)),
    "pairs of a data set": Target(
        "processing/data/clip_dataset.py", (), ("processing/test_clip_dataset.py", "processing/test_segments.py")
    ),
    "targets of a data set": Target(
        "processing/data/clip_targets.py",
        (),
        ("processing/test_clip_dataset.py", "processing/test_segments.py", "processing/test_class_balance.py"),
    ),
    "class metrics": Target("processing/metrics/classification.py", (), METRICS),
    "multi-label metrics": Target("processing/metrics/multilabel.py", (), METRICS),
    "metrics of seconds": Target("processing/metrics/segments.py", (), ("processing/test_segment_metrics.py",)),
    "metrics of maps": Target(
        "processing/metrics/segmentation.py",
        (),
        ("processing/test_map_metrics.py", "processing/test_metrics_of_libraries.py"),
    ),
    "metrics of localization": Target(
        "processing/metrics/localization.py",
        (),
        ("processing/test_map_metrics.py", "processing/test_metrics_of_libraries.py"),
    ),
    "evaluation": Target("training/maavt/evaluation.py", (), ("training/test_evaluation.py",)),
}


@dataclass(frozen=True)
class Mutant:
    """A change: the `occurrence`th place of a Cosmic Ray operator in a file."""

    line: int
    operator: str
    occurrence: int


def mutants_by_place(source: str, names: tuple[str, ...]) -> dict[tuple, list[Mutant]]:
    """What can be changed at each place `((line, column), (line, column))` of the named code.

    Type annotations, docstrings, error messages and `strict=` of zip are left alone: no test should depend on them.
    """
    lines, text = code_lines(source, names), source.splitlines()
    tree, places = get_ast(source), {}
    for operator in sorted(operator_names()):
        kind = get_operator(operator)
        if kind.arguments() or operator == "core/NoOp":
            continue
        positions = [at for node in ast_nodes(tree) for at in kind().mutation_positions(node)]
        for occurrence, (start, end) in enumerate(positions):
            if start[0] in lines and not text[start[0] - 1][: start[1]].endswith("strict="):
                places.setdefault((start, end), []).append(Mutant(start[0], operator, occurrence))
    return places


def code_lines(source: str, names: tuple[str, ...]) -> set[int]:
    lines = set()
    for node in ast.walk(ast.parse(source)):
        is_definition = isinstance(node, (ast.FunctionDef, ast.ClassDef))
        if is_definition and (node.name in names or not names):
            lines |= set(range(node.lineno, node.end_lineno + 1))
    for node in ast.walk(ast.parse(source)):
        skipped = []
        if isinstance(node, ast.FunctionDef):  # its head, which holds annotations
            skipped = range(node.lineno, node.body[0].lineno)
        elif isinstance(node, (ast.AnnAssign, ast.Raise)) or _is_warning(node):
            skipped = range(node.lineno, node.end_lineno + 1)
        lines -= set(skipped)
    return lines


def _is_warning(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and "logger" in ast.unparse(node.value.func)


def run_tests(folder: Path, target: Target) -> None:
    """In a forked process: exits with pytest's code, or is killed after so many seconds of work."""
    resource.setrlimit(resource.RLIMIT_CPU, (TIME_LIMIT, TIME_LIMIT))
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    sys.path[:] = [str(folder), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
    tests = [f"tests/{name}" for name in target.tests]
    options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=no", "-W", "ignore", "-k", target.select]
    os._exit(pytest.main([*options, *tests]))


def outcome(folder: Path, target: Target) -> str:
    """ "survived", "killed" or "hung", as the tests of `target` in `folder` end."""
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=(folder, target))
    process.start()
    process.join(10 * TIME_LIMIT)
    if process.exitcode is None:
        process.kill()
        process.join()
        return "hung"
    if process.exitcode == -signal.SIGXCPU or process.exitcode == -signal.SIGKILL:
        return "hung"
    return "survived" if process.exitcode == 0 else "killed"


def changed_lines(source: str, mutated: str) -> str:
    pairs = zip(source.splitlines(), mutated.splitlines(), strict=False)
    before, after = next((a.strip(), b.strip()) for a, b in pairs if a != b)
    return f"`{before}` → `{after}`"


def try_target(folder: Path, target: Target, places: int, seed: int) -> Iterator[tuple[str, str]]:
    """(outcome, what was changed) of one change at each of so many places."""
    path = folder / target.file
    source, choice = path.read_text(encoding="utf-8"), random.Random(f"{seed} {target.file} {target.names}")
    by_place = mutants_by_place(source, target.names)
    chosen = sorted(choice.sample(sorted(by_place), min(places, len(by_place))))
    for place in chosen:
        mutant = choice.choice(by_place[place])
        mutated = mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)
        path.write_text(mutated, encoding="utf-8")
        try:
            yield outcome(folder, target), f"line {mutant.line}: {changed_lines(source, mutated)}"
        finally:
            path.write_text(source, encoding="utf-8")


def copy_repository(folder: Path) -> None:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", type=int, default=20, help="changed in each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(TARGETS), choices=list(TARGETS), metavar="TARGET")
    parser.add_argument("--out", type=Path, default=Path("results/mutation.md"), help="other rows in it stay")
    options = parser.parse_args()

    for name in PRELOADED:  # once, before all forks; none of our packages may be among them
        importlib.import_module(name)
    sys.dont_write_bytecode = True  # a changed file may have the size and the second of the file before
    results = read_results(options.out)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "repository"
        copy_repository(folder)
        for name in options.only:
            begin, target = time.monotonic(), TARGETS[name]
            if outcome(folder, target) != "survived":
                sys.exit(f"{name}: its tests fail without a change")
            found = list(try_target(folder, target, options.places, options.seed))
            survivors = [change for result, change in found if result == "survived"]
            minutes = (time.monotonic() - begin) / 60
            row = f"| {name} | {len(found)} | {len(found) - len(survivors)} | {len(survivors)} | {minutes:.1f} |"
            results[name] = [row, *(f"- {name}, `{target.file}` {change}" for change in survivors)]
            print("\n".join(results[name]), flush=True)
            write_results(options.out, results, options)


def read_results(path: Path) -> dict[str, list[str]]:
    """By target, its row of an earlier table and its survivors."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {
        name: kept
        for name in TARGETS
        if (kept := [line for line in lines if re.match(rf"(\| {name} \||- {name},)", line)])
    }


def write_results(path: Path, results: dict[str, list[str]], options: argparse.Namespace) -> None:
    head = (
        f"Each row is a run of `make mutation ONLY='code' PLACES='places changed' SEED={options.seed}`, "
        f"Cosmic Ray {version('cosmic-ray')}."
    )
    titles = ["| code | places changed | noticed | survived | minutes |", "| --- | --- | --- | --- | --- |"]
    ordered = [results[name] for name in TARGETS if name in results]
    rows, survivors = [lines[0] for lines in ordered], [line for lines in ordered for line in lines[1:]]
    path.write_text("\n".join([head, "", *titles, *rows, "", *survivors]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
