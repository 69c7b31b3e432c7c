# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Uploads a finished run to the Hub. `maavt push` calls it, and so does `train.py --push_to_hub true`."""

import json
from pathlib import Path
from typing import Literal

from huggingface_hub import create_repo, upload_folder

from .card import hub_name, write_card


def push_run(
    directory: str | Path,
    repository: str | None = None,
    kind: Literal["model", "adapter"] = "model",
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
) -> str:
    """Uploads a finished run in one commit: weights, code, processor and card. Returns the address of the repository.

    Args:
        directory: the output folder of a run.
        repository: `user/name`; None: the folder's name, for the user who is logged in.
        kind: the merged model, or the adapter to its backbone.

    Raises:
        FileNotFoundError: the run has not come to its end, or has no such folder.
        OSError: the Hub refuses; the message says how to try again.
    """
    directory = Path(directory)
    results = finished_results(directory, kind)
    name = repository or directory.name
    try:
        address = create_repo(name, private=private, token=token, exist_ok=True)
        # The card was written with the name of a folder.
        write_card(directory / kind, results, name=address.repo_id, adapter=kind == "adapter")
        upload_folder(
            repo_id=address.repo_id,
            folder_path=directory / kind,
            token=token,
            revision=revision,
            commit_message="Fine-tuned MA-AVT",
        )
    except OSError as error:  # the Hub's errors are among them
        reason = str(error).strip().splitlines()[0]
        again = f"maavt push {directory} {name}"
        if kind == "adapter":
            again += " --adapter"
        raise OSError(f"{name}: not uploaded ({reason}); the run is whole, try again with `{again}`") from error
    print(f"Uploaded {directory / kind} to {address}")
    return str(address)


def finished_results(directory: Path, kind: str) -> dict:
    """What `results.json` holds. Raises FileNotFoundError where there is nothing whole to upload."""
    for needed in (directory / "results.json", directory / kind / "README.md"):
        if not needed.is_file():
            raise FileNotFoundError(f"{needed}: is not there; give the output folder of a run that has ended")
    return json.loads((directory / "results.json").read_text(encoding="utf-8"))


def show_upload(directory: Path, kind: str) -> list[str]:
    """Prints the files that an upload would hold, and what the card lacks. Returns the latter."""
    missing = missing_facts(finished_results(directory, kind))
    for file in sorted((directory / kind).rglob("*")):
        if file.is_file():
            print(f"{file.stat().st_size:>12,} bytes  {file.relative_to(directory / kind)}")
    for fact in missing:
        print(f"missing: {fact}")
    return missing


def missing_facts(results: dict) -> list[str]:
    """What nobody has told the card: each with the option that tells it."""
    card, given = results["card"], results["arguments"].get("card", {})
    missing = []
    if "data_description" not in given:
        missing.append("a description of the data (card.data_description in the recipe)")
    if hub_name(card["backbone"]) is None and "backbone" not in given:
        missing.append("the name of the backbone, which was a local folder (card.backbone in the recipe)")
    for whose in ("data", "backbone"):
        if card[f"{whose}_license"] == "not stated":
            missing.append(f"the license of the {whose} (card.{whose}_license in the recipe)")
    return missing
