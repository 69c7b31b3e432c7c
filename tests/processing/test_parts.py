# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A preparation in parts is that of one machine, and a join says which part is missing, old or damaged."""

import json
import shutil

import pytest
from tiny_sets import ClipCopies, write_ave

from processing.prepare import __main__ as command
from processing.prepare import parts
from processing.prepare.writing import sole_writer


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def ave(tmp_path):
    return write_ave(tmp_path / "ave", ClipCopies(tmp_path / "copies"))


@pytest.fixture
def run(ave, tmp_path):
    def prepare(name, *options):
        arguments = ["ave", "--root", ave, "--out", tmp_path / name, "--workers", 0, *options]
        return command.main([str(argument) for argument in arguments])

    return prepare


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_joined_parts_are_the_bytes_of_one_run(run, tmp_path):
    assert run("whole") == 0
    for part in ("2/3", "1/3", "3/3"):
        assert run("joined", "--part", part) == 0
    assert not (tmp_path / "joined").exists()
    assert run("joined", "--join") == 0
    assert files_of(tmp_path / "joined") == files_of(tmp_path / "whole")
    described = [json.loads(path.read_text()) for path in sorted((tmp_path / "joined.parts").glob("*/part.json"))]
    assert [part["part"] for part in described] == [1, 2, 3]
    assert not list((tmp_path / "joined.parts").glob(".*"))


def test_a_part_that_was_stopped_goes_on_and_a_second_run_opens_nothing(run, tmp_path, monkeypatch):
    opened, scan = [], parts.scan

    def counted(jobs, root, record, *, engine, stop=None):
        def check(root, job):
            opened.append(job)
            if len(opened) == stop:
                raise KeyboardInterrupt
            return command_check(root, job)

        from processing.prepare.scan import check_clip as command_check

        return scan(jobs, root, record, engine=engine, check=check)

    monkeypatch.setattr(parts, "scan", lambda *a, **k: counted(*a, **k, stop=3))
    assert run("out", "--part", "1/2") == 130
    assert not list((tmp_path / "out.parts").glob("[0-9]*"))
    monkeypatch.setattr(parts, "scan", counted)
    assert run("out", "--part", "1/2") == 0
    assert len(opened) == len(set(opened)) + 1  # the one in which it was stopped comes twice
    before = len(opened)
    assert run("out", "--part", "1/2") == 0 and len(opened) == before


def test_what_a_killed_part_leaves_is_no_part(run, tmp_path):
    folder = tmp_path / "out.parts"
    for part in ("1/2", "2/2"):
        assert run("out", "--part", part) == 0
    # killed before its renaming, one of these parts and one of another number
    part = json.loads((folder / "1-of-2" / "part.json").read_text())
    for number in (2, 8):
        leftover = folder / f".1-of-{number}.0123456789ab.part"
        leftover.mkdir()
        (leftover / "part.json").write_text(json.dumps(part | {"parts": number, "jobs": "of other options"}))
    assert run("out", "--join") == 0
    # a part deletes its own leftovers alone
    assert run("out", "--part", "1/2") == 0
    assert [path.name for path in folder.glob(".*")] == [".1-of-8.0123456789ab.part"]


def test_a_part_is_written_by_one_process_at_a_time(run, tmp_path, capsys):
    assert run("out", "--part", "1/2") == 0
    with sole_writer(tmp_path / "out.parts" / ".1-of-2.scan.jsonl"):
        assert run("out", "--part", "1/2") == 1
    assert "1-of-2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder, ave: shutil.rmtree(folder), "no parts in it; make them with --part 1/N"),
        (lambda folder, ave: shutil.rmtree(folder / "2-of-3"), "part 2 of 3 is missing; run --part 2/3"),
        (lambda folder, ave: shutil.copytree(folder / "1-of-3", folder / "1-of-4"), "holds parts of"),
        (lambda folder, ave: (folder / "3-of-3" / "facts.jsonl").write_text(""), "run --part 3/3 again"),
        (lambda folder, ave: (ave / "AVE" / "v0.mp4").touch(), "v0.mp4 is missing or has changed; run --part"),
        (lambda folder, ave: (ave / "AVE" / "v6.mp4").unlink(), "other options, annotations or files"),
    ],
    ids=["none", "missing", "two cuts", "damaged", "changed clip", "fewer clips"],
)
def test_a_join_names_what_is_wrong(run, ave, tmp_path, capsys, damage, words):
    for part in ("1/3", "2/3", "3/3"):
        assert run("out", "--part", part) == 0
    folder = tmp_path / "out.parts"
    described = folder / "1-of-3" / "part.json"
    damage(folder, ave)
    if (folder / "1-of-4").is_dir():
        part = json.loads(described.read_text()) | {"parts": 4}
        (folder / "1-of-4" / "part.json").write_text(json.dumps(part))
    assert run("out", "--join") == 1
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["0/3", "4/3", "a/b", "3", "1/"])
def test_bad_parts_are_refused(run, capsys, text):
    with pytest.raises(SystemExit):
        run("out", "--part", text)
    assert "from 1/8 to 8/8" in capsys.readouterr().err
