# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Uploads a finished run to the Hub. `maavt push` calls it, and so does `train.py --push_to_hub true`."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    create_commit,
    create_repo,
    list_repo_files,
)
from huggingface_hub.errors import RevisionNotFoundError

from processing.data.atomic_writing import write_text
from training.common.html_pages import html_page

from .card import PICTURES, hub_name, write_eval_results


ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "config.json")


def push_run(
    directory: str | Path,
    repository: str | None = None,
    kind: Literal["model", "adapter"] = "model",
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
) -> str:
    """Uploads a finished run in one commit (`upload_files`). Returns the address of the repository.

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
        write_eval_results(directory / kind, results)  # earlier versions did not
        files: dict[str, Path | bytes] = dict(upload_files(directory, kind, results))
        for file in files.values():
            if file.name == "adapter_config.json":
                name_backbone(file, hub_name(results["card"]["backbone"]))
        files["README.md"] = hub_card(directory, kind, address.repo_id).encode()
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        if kind == "adapter" and "model.safetensors" in list_files(address.repo_id, token, revision):
            raise FileExistsError(
                "holds a whole model, which an adapter beside it would hide; give another repository"
            )
        if kind == "model":
            operations += map(CommitOperationDelete, left_over(address.repo_id, files, token, revision))
        create_commit(
            address.repo_id,
            operations,
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


def left_over(repository: str, files: Iterable[str], token: str | None, revision: str | None) -> list[str]:
    """The adapter and the pictures of an earlier upload that this one does not replace; an adapter would hide the model."""
    known = list_files(repository, token, revision)
    beside = ("adapter/", f"{PICTURES}/", "adapter_config.json", "adapter_model.safetensors")
    return [name for name in known if name.startswith(beside) and name not in files]


def list_files(repository: str, token: str | None, revision: str | None) -> list[str]:
    """The files of a repository; none of a branch that the commit will make."""
    try:
        return list_repo_files(repository, token=token, revision=revision)
    except RevisionNotFoundError:
        return []


def hub_card(directory: Path, kind: str, repository: str) -> str:
    """The card as it is, edited or not; its two lines that load model and processor name the repository."""
    text = (directory / kind / "README.md").read_text(encoding="utf-8")
    line = r"""^((?:model|processor) = \w+\.from_pretrained\()(["']).*?\2"""
    return re.sub(line, rf'\g<1>"{repository}"', text, flags=re.MULTILINE)


def name_backbone(path: Path, name: str | None) -> None:
    """Writes the backbone's Hub name into an adapter's configuration, which may hold a folder of this machine."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if name is not None and config["base_model_name_or_path"] != name:
        config["base_model_name_or_path"] = name
        write_text(path, json.dumps(config, indent=2, sort_keys=True))


def finished_results(directory: Path, kind: str) -> dict:
    """What `results.json` holds. Raises FileNotFoundError where there is nothing whole to upload."""
    for needed in (directory / "results.json", directory / kind / "README.md"):
        if not needed.is_file():
            raise FileNotFoundError(f"{needed}: is not there; give the output folder of a run that has ended")
    return json.loads((directory / "results.json").read_text(encoding="utf-8"))


def upload_files(directory: Path, kind: str, results: dict) -> dict[str, Path]:
    """What an upload holds, by its name on the Hub: weights, code of model and pipeline, processor, card, its pictures
    and the training log. Below a model lies its adapter in `adapter/`, if others can have the backbone.

    The report and the predictions stay here: they show the test clips, which may not be the user's to publish.
    """
    folder = directory / kind
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    adapter = directory / "adapter"
    if kind == "model" and adapter.is_dir() and hub_name(results["card"]["backbone"]):
        files |= {f"adapter/{name}": adapter / name for name in ADAPTER_FILES}
    return files


def show_upload(directory: Path, kind: str, repository: str) -> list[str]:
    """Prints the files that an upload would hold, where the card can be read, and what it lacks. Returns the latter."""
    results = finished_results(directory, kind)
    files = upload_files(directory, kind, results)
    for name, file in files.items():
        print(f"{file.stat().st_size:>12,} bytes  {name}")
    print(f"{sum(file.stat().st_size for file in files.values()):>12,} bytes in {len(files)} files")
    # The card as the Hub will show it, without the header that only the Hub reads.
    text = hub_card(directory, kind, repository)
    pictures = {name: file.read_bytes() for name, file in files.items() if name.endswith(".png")}
    page = directory / "card.html"
    if text.startswith("---\n"):
        text = text.split("---\n", 2)[-1]
    write_text(page, html_page(results["card"]["title"], text, pictures))
    print(f"The card is shown in {page}")
    missing = missing_facts(results)
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
