# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Ray gives what processes of this machine give: results, names of clips that crash, and nothing lost with a worker."""

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from tiny_sets import ClipCopies, crash_on_bad, write_ave

from processing.data.engines import Engine
from processing.data.isolated_calls import Lost
from processing.prepare import __main__ as command
from processing.prepare.scan import Job, scan


pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
# Ray warns of its own deprecated settings
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"), pytest.mark.timeout(900)]
WORKER_NAME = "ray::MapWorker"


@pytest.fixture(scope="module")
def ray_engine():
    """Two workers of a Ray that runs on this machine alone; they find the functions of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield Engine("ray", workers=2)
    import ray

    ray.shutdown()


def work(item: int | str) -> int | str:
    if item == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "stall":
        time.sleep(600)
    if item == "raise":
        raise KeyError("a mistake in the code")
    if item == "kill the worker":  # by name: the parent is the server from which processes start
        os.kill(psutil.Process().parent().ppid(), signal.SIGKILL)
    time.sleep(0.05)
    return item * 2


def ray_workers() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith(WORKER_NAME):
            found.append(process)
    return found


def test_same_results_and_same_words_for_what_crashes_or_stalls(ray_engine):
    items = [*range(20), "crash", "stall", "b"]
    process, ray = (dict(engine.calls(work, items, 3.0)) for engine in (Engine(workers=2), ray_engine))
    assert ray == process and len(ray) == len(items)
    assert "SIGSEGV" in ray["crash"].reason and "more than 3 s" in ray["stall"].reason


@pytest.mark.slow
def test_what_the_function_raises_comes_through(ray_engine):
    with pytest.raises(KeyError, match="a mistake"):
        list(ray_engine.calls(work, [1, 2, "raise"]))


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_nothing(ray_engine):
    results = {}
    for number, (item, result) in enumerate(ray_engine.calls(work, range(200))):
        results[item] = result
        if number == 20:
            workers = ray_workers()
            assert len(workers) == 2
            workers[0].kill()
    assert results == {item: 2 * item for item in range(200)}


@pytest.mark.slow
def test_an_item_that_kills_every_worker_is_lost_by_name(ray_engine):
    results = dict(ray_engine.calls(work, [1, 2, "kill the worker", 3]))
    assert isinstance(results["kill the worker"], Lost) and "worker died" in results["kill the worker"].reason
    assert [results[item] for item in (1, 2, 3)] == [2, 4, 6]


def test_bad_engines_are_refused():
    with pytest.raises(ValueError, match="engine: 'spark'"):
        Engine("spark")
    with pytest.raises(ValueError, match="add --engine ray"):
        Engine(address="auto")


def files_of(folder: Path) -> dict:
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_a_set_is_prepared_to_the_same_bytes(ray_engine, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    ave = write_ave(tmp_path / "ave", ClipCopies(tmp_path / "copies"))
    written = {}
    for name, options in (("process", ["--workers", "0"]), ("ray", ["--engine", "ray", "--workers", "2"])):
        arguments = ["ave", "--root", str(ave), "--out", str(tmp_path / name), *options]
        assert command.main(arguments) == 0
        written[name] = files_of(tmp_path / name)
    assert written["ray"] == written["process"]


@pytest.mark.slow
def test_a_scan_by_ray_goes_on_where_it_stopped(ray_engine, tmp_path):
    names = [f"{'bad' if n in (3, 9) else 'clip'}{n}.mp4" for n in range(12)]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    jobs, record = [Job(name, name) for name in names], tmp_path / "record.jsonl"
    scan(jobs[:5], tmp_path, record, engine=ray_engine, check=crash_on_bad)
    lines = record.read_bytes().splitlines()
    facts = scan(jobs, tmp_path, record, engine=ray_engine, check=crash_on_bad)
    assert record.read_bytes().splitlines()[:5] == lines and len(facts) == 12
    assert [job.video for job in jobs if facts[job].error] == ["bad3.mp4", "bad9.mp4"]
    assert "the decoder crashed (exit code 7)" in facts[jobs[3]].error
