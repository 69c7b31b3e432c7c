# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Files and folders appear whole, with the permissions of the umask, and an exception changes nothing."""

import os
import stat
from types import SimpleNamespace

import pytest
import torch

from modeling_deepavfusion.convert_deepavfusion import save_whole
from processing.data.atomic_writing import atomic_file, atomic_folder, file_digest, write_text
from processing.processing_deepavfusion import write_wave


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def permissions(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_appear_whole_with_the_permissions_of_the_umask(tmp_path, umask):
    path = tmp_path / "new" / "results.json"
    with atomic_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() and temporary.suffix == ".json" and temporary.parent == path.parent
    assert path.read_text() == "half" and permissions(path) == 0o666 & ~umask
    write_text(path, "whole")
    assert path.read_text() == "whole" and os.listdir(path.parent) == ["results.json"]


def test_an_exception_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "results.json"
    write_text(path, "earlier")
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "earlier" and os.listdir(tmp_path) == ["results.json"]


def test_folders_replace_earlier_ones(tmp_path, umask):
    for content in ("first", "second"):
        with atomic_folder(tmp_path / "set") as temporary:
            (temporary / content).write_text(content)
    assert os.listdir(tmp_path) == ["set"] and os.listdir(tmp_path / "set") == ["second"]
    assert permissions(tmp_path / "set") == 0o777 & ~umask


def test_waveforms_and_converted_models_have_the_permissions_of_the_umask(tmp_path, umask):
    path = write_wave(tmp_path / "a.wav", torch.zeros(10), 16000)
    assert permissions(path) == 0o666 & ~umask and os.listdir(tmp_path) == ["a.wav"]
    model = SimpleNamespace(save_pretrained=lambda folder: (folder / "config.json").write_text("{}"))
    save_whole(model, tmp_path / "model")
    assert permissions(tmp_path / "model") == 0o777 & ~umask and os.listdir(tmp_path / "model") == ["config.json"]


@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_an_exception_keeps_the_earlier_folder(tmp_path, monkeypatch, moment):
    folder = tmp_path / "set"
    with atomic_folder(folder) as temporary:
        (temporary / "first").write_text("")
    replace = os.replace

    def failing(source, target):
        if target == folder and moment == "renaming" and not os.listdir(source) == ["first"]:
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError), atomic_folder(folder) as temporary:
        (temporary / "second").write_text("")
        if moment == "writing":
            raise OSError
    assert os.listdir(tmp_path) == ["set"] and os.listdir(folder) == ["first"]


def test_an_earlier_folder_is_deleted_last(tmp_path, monkeypatch):
    """At no moment do both names lack a whole folder."""
    folder = tmp_path / "set"
    with atomic_folder(folder) as temporary:
        (temporary / "first").write_text("")
    replace, moments = os.replace, []

    def recorded(source, target):
        replace(source, target)
        moments.append(sorted(path.name for path in tmp_path.rglob("first")))

    monkeypatch.setattr(os, "replace", recorded)
    with atomic_folder(folder) as temporary:
        (temporary / "second").write_text("")
    assert moments == [["first"], ["first"]] and not list(tmp_path.rglob("first"))


def test_digests(tmp_path):
    (tmp_path / "empty").touch()
    assert file_digest(tmp_path / "empty").startswith("e3b0c44298fc1c149afbf4c8996fb924")
