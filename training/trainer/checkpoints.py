# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders that are there whole or not at all.

A checkpoint is written to `tmp-checkpoint-N`, given a manifest of sizes and hashes, flushed to the disk and only then
renamed to `checkpoint-N`; older ones go after that. So a process that is killed at any moment leaves the newest whole
checkpoint where it was. Before a resume every file is checked against the manifest.
"""

import json
import logging
import os
import shutil
from pathlib import Path

from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint, sort_checkpoints

from processing.data.atomic_writing import file_digest


logger = logging.getLogger(__name__)

MANIFEST = "checkpoint_manifest.json"
ON_WINDOWS = os.name == "nt"
STAGED, REMOVED, DAMAGED = "tmp-", "tmp-removed-", "damaged-"  # put before `checkpoint-N`


def sync(path: Path) -> None:
    """Flushes a file, or the list of names in a folder, to the disk."""
    # Windows opens no folder, and flushes only what is open for writing.
    if ON_WINDOWS and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if ON_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unreadable_weights(folder: Path) -> str | None:
    """What is wrong with the header or the length of a safetensors file, or None."""
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as weights:
                weights.keys()
        except (SafetensorError, OSError) as error:
            return f"{path.name} cannot be read ({error})"
    return None


def seal(folder: Path, num_processes: int) -> None:
    """Writes the manifest, which makes a folder of files a whole checkpoint, and flushes all of it to the disk.

    Args:
        folder: with all files of the checkpoint.
        num_processes: each of them has written its state of random numbers.

    Raises:
        FileNotFoundError: a file is not here.
        ValueError: the weights cannot be read back.
    """
    states = ["rng_state.pth"] if num_processes == 1 else [f"rng_state_{i}.pth" for i in range(num_processes)]
    for name in ["trainer_state.json", "scheduler.pt", *states]:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} was not written; output_dir has to be one folder for all nodes")
    if problem := unreadable_weights(folder):
        raise ValueError(f"{folder}: {problem}; is the disk full?")
    files, folders = {}, [folder]
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            folders.append(path)
            continue
        sync(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"processes": num_processes, "files": files}, indent=1), encoding="utf-8")
    for path in [manifest, *folders]:
        sync(path)


def checkpoint_problem(folder: Path) -> str | None:
    """Why a checkpoint cannot be resumed from, naming the file, or None for a whole one."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return f"has no {MANIFEST}: it was not written to the end"
    except (OSError, ValueError, KeyError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    for name, entry in manifest.items():  # lengths first: they cost nothing
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["bytes"]:
            return f"{name} has {path.stat().st_size} bytes where {entry['bytes']} were written"
    for name, entry in manifest.items():
        if file_digest(folder / name) != entry["sha256"]:
            return f"{name} holds other bytes than were written"
    return unreadable_weights(folder)


def best_problem(folder: Path) -> str | None:
    """What is wrong with the best checkpoint before this one, which the run loads at its end; None where it is whole."""
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    best = folder.with_name(Path(state.get("best_model_checkpoint") or folder).name)
    if best == folder:
        return None
    problem = checkpoint_problem(best) if best.is_dir() else "is missing"
    return problem and f"{best.name}, the best one so far, {problem}"


def remove(folder: Path) -> None:
    """Deletes a checkpoint; interrupted, it leaves a folder that nobody takes for a checkpoint."""
    removed = folder.with_name(REMOVED + folder.name)
    shutil.rmtree(removed, ignore_errors=True)
    os.replace(folder, removed)
    shutil.rmtree(removed)


def publish(staged: Path, folder: Path) -> None:
    """Renames a sealed checkpoint; one that has the name already makes room."""
    removed = folder.with_name(REMOVED + folder.name)
    if folder.exists():
        shutil.rmtree(removed, ignore_errors=True)
        os.replace(folder, removed)  # a kill between here and the next line is made good by `tidy`
    os.replace(staged, folder)
    sync(folder.parent)
    shutil.rmtree(removed, ignore_errors=True)
    shutil.rmtree(staged.parent)


def rotate(directory: Path, limit: int | None, best: str | None) -> None:
    """Deletes the oldest checkpoints above `limit`; the newest and the best stay."""
    if not limit or limit <= 0:
        return
    folders = [Path(path) for path in sort_checkpoints(str(directory))]
    kept = {folders[-1]} | ({Path(best)} if best else set())
    surplus = len(folders) - max(limit, len(kept & set(folders)))
    for folder in [f for f in folders if f not in kept][: max(0, surplus)]:
        remove(folder)


def tidy(directory: Path) -> None:
    """Finishes or deletes what a killed process has left unfinished. Loses no whole checkpoint."""
    for parent in sorted(directory.glob(f"{STAGED}checkpoint-*")):
        folder = directory / parent.name.removeprefix(STAGED)
        staged = parent / folder.name
        if not folder.exists() and checkpoint_problem(staged) is None:
            publish(staged, folder)
        else:
            shutil.rmtree(parent)
    for removed in directory.glob(f"{REMOVED}checkpoint-*"):
        shutil.rmtree(removed)


def newest_whole_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint that is whole, and so the best one before it; or None.

    Damaged ones that are newer are named in a warning and renamed to `damaged-checkpoint-N`, lest they count as the
    newest when older ones are deleted.
    """
    if not directory.is_dir():
        return None
    tidy(directory)
    while newest := get_last_checkpoint(str(directory)):
        folder = Path(newest)
        problem = checkpoint_problem(folder) or best_problem(folder)
        if problem is None:
            return folder
        aside = directory / f"{DAMAGED}{folder.name}"
        logger.warning("%s is skipped: %s; it is kept as %s", folder, problem, aside.name)
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)
    return None


def checkpoint_to_resume(args: TrainingArguments) -> str | None:
    """What `resume_from_checkpoint` means: a folder, or the newest whole checkpoint of `output_dir` for true.

    To be called by all processes; the first one looks, and all get its answer.

    Raises:
        FileNotFoundError, ValueError: the folder asked for is not there or not whole.
    """
    wanted = args.resume_from_checkpoint
    if wanted is None or str(wanted).lower() in ("false", "none", ""):
        return None
    # The first process looks, and tells the others.
    checkpoint, problem = None, None
    if args.process_index == 0:
        if str(wanted).lower() in ("true", "auto"):
            checkpoint = newest_whole_checkpoint(Path(args.output_dir))
        else:
            checkpoint = Path(wanted)
            problem = "is no folder"
            if checkpoint.is_dir():
                problem = checkpoint_problem(checkpoint)
    checkpoint, problem = gather_object([(checkpoint and str(checkpoint), problem)])[0]
    # All processes raise, or none.
    if problem is not None:
        kind = ValueError if Path(checkpoint).is_dir() else FileNotFoundError
        raise kind(f"resume_from_checkpoint: {checkpoint}: {problem}; `true` takes the newest whole one of output_dir")
    if checkpoint is not None:
        if not Path(checkpoint).is_dir():
            raise FileNotFoundError(f"{checkpoint} is not here; output_dir has to be a folder that all nodes share")
        # Another number of processes is allowed, but draws other batches.
        manifest = json.loads((Path(checkpoint) / MANIFEST).read_text(encoding="utf-8"))
        if manifest["processes"] != args.world_size:
            logger.warning(
                "%s was written by %d processes and is resumed by %d: order and random numbers will differ",
                *(checkpoint, manifest["processes"], args.world_size),
            )
    return checkpoint


def stopped_early(checkpoint: str | Path, patience: int | None) -> int | None:
    """The step at which early stopping had ended the run that wrote this checkpoint, or None."""
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
    stopping = state.get("stateful_callbacks", {}).get("EarlyStoppingCallback")
    if not patience or not isinstance(stopping, dict):
        return None
    count = stopping["attributes"]["early_stopping_patience_counter"]
    return state["global_step"] if count >= patience else None
