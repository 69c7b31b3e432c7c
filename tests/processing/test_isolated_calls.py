# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips that crash or stall a decoder: each costs one clip, by name, and nothing else."""

import multiprocessing
import os
import shutil
import signal
import time

import pytest
from clip_factory import write_numbered

from processing.clips import probe_clip
from processing.data import clip_checks
from processing.data.clip_tables import build_clip_table
from processing.data.engines import Engine
from processing.data.isolated_calls import Lost, isolated_calls
from processing.prepare import scan as scanning
from processing.prepare.scan import Facts, Job, scan


def work(name):
    if name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "leave":
        os._exit(7)
    if name == "stall":
        time.sleep(600)
    if name == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if name == "raise":
        raise KeyError("a mistake in the code")
    return name.upper()


def work_on_file(source):
    work(os.path.basename(source["path"]).split("_")[0])
    return probe_clip(source)


def work_on_job(root, job):
    work(job.video)
    return Facts(has_video=True)


def test_a_call_without_a_time_limit():
    results = dict(isolated_calls(work, ["a", "crash"], workers=2, time_limit=None))
    assert results["a"] == "A" and "SIGSEGV" in results["crash"].reason


@pytest.mark.parametrize("workers", [1, 3])
def test_a_crash_and_a_stall_cost_one_item_each(workers):
    names = ["a", "crash", "b", "stall", "leave", "c", "crash ", "stop", "d"]
    start = time.monotonic()
    results = dict(isolated_calls(work, names, workers=workers, time_limit=3.0))
    assert time.monotonic() - start < 120
    assert {name for name, result in results.items() if isinstance(result, Lost)} == {
        "crash",
        "stall",
        "leave",
        "stop",
    }
    assert "SIGSEGV" in results["crash"].reason and "exit code 7" in results["leave"].reason
    assert "more than 3 s" in results["stall"].reason and "more than 3 s" in results["stop"].reason
    assert {results[name] for name in "abcd"} == set("ABCD")


def test_no_process_stays():
    calls = isolated_calls(work, ["a", "b", "stall"], workers=2)
    assert next(calls)[1] in ("A", "B")
    calls.close()
    assert list(isolated_calls(work, [], workers=2)) == []
    assert not multiprocessing.active_children()


def test_what_the_function_raises_comes_through():
    with pytest.raises(KeyError, match="a mistake"):
        list(isolated_calls(work, ["a", "raise"], workers=1))
    assert not multiprocessing.active_children()


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="the planted decoder is inherited")
def test_a_table_names_clips_that_crash_or_stall(tmp_path, monkeypatch):
    for number, name in enumerate(("good_1", "crash_2", "good_3", "stall_4", "good_5")):
        (tmp_path / "cat").mkdir(exist_ok=True)
        write_numbered(tmp_path / "cat" / f"{name}.mp4", 1 + number / 10, fps=5)
    shutil.copytree(tmp_path / "cat", tmp_path / "dog", ignore=lambda *_: ["crash_2.mp4", "stall_4.mp4"])
    write_numbered(tmp_path / "dog" / "good_1.mp4", 2, fps=5)
    monkeypatch.setattr(clip_checks, "probe_clip", work_on_file)
    monkeypatch.setattr(clip_checks, "TIME_LIMIT", 15.0)
    _, report = build_clip_table(tmp_path, validation_fraction=0, test_fraction=0)
    reasons = {entry["file"]: entry["reason"] for entry in report["skipped"] if "broken" in entry["reason"]}
    assert set(reasons) == {"cat/crash_2.mp4", "cat/stall_4.mp4"}
    assert reasons["cat/crash_2.mp4"].startswith("broken: cat/crash_2.mp4: the decoder crashed (SIGSEGV)")
    assert reasons["cat/stall_4.mp4"].startswith("broken: cat/stall_4.mp4: the decoder took more than 15 s")
    assert report["clips"] == 4


@pytest.mark.parametrize("how", ["stall", "stop"])
def test_a_scan_names_clips_that_stall(tmp_path, monkeypatch, how):
    monkeypatch.setattr(scanning, "TIME_LIMIT", 3.0)
    jobs = [Job(name, name) for name in ("a", how, "b")]
    for job in jobs:
        (tmp_path / job.video).write_bytes(b"x")
    facts = scan(jobs, tmp_path, tmp_path / "record.jsonl", engine=Engine(workers=2), check=work_on_job)
    assert facts[jobs[1]].error.startswith(f"{how}: the decoder took more than 3 s")
    assert facts[jobs[0]].error is None and facts[jobs[2]].error is None
