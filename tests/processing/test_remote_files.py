# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Shards in an S3 store on this machine: the rows of local ones, also where the store fails, stalls or cuts bodies short."""

import itertools
import logging
import threading
import time
from collections import Counter
from pathlib import Path

import datasets
import pytest
from clip_factory import write_numbered
from test_clip_streams import NAMES, batches_of, equal, stream_of, write_parquet, write_tar

from processing.data import remote_files
from processing.data.stream_sources import open_source
from processing.feature_extraction_maavt import MAAVTFeatureExtractor
from processing.processing_maavt import MAAVTProcessor
from processing.video_processing_maavt import MAAVTVideoProcessor
from training.maavt.arguments import parse_arguments


pytest.importorskip("s3fs", reason="s3fs is not installed: pip install '.[s3]'")
pytest.importorskip("moto.server", reason="moto is not installed: pip install '.[test]'")


CLIPS = 14


@pytest.fixture(autouse=True)
def short_pause(monkeypatch, tmp_path):
    if hasattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN"):
        monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def processor():
    sound = MAAVTFeatureExtractor(
        sampling_rate=4000, n_fft=256, win_length=256, hop_length=62, num_bins=32, num_frames=16
    )
    return MAAVTProcessor(sound, MAAVTVideoProcessor(size={"height": 64, "width": 96}))


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("clips")
    return [write_numbered(folder / f"{n}.mp4", 0.3 + n / 20, fps=10).read_bytes() for n in range(CLIPS)]


@pytest.fixture(scope="module")
def parquet(clips, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("parquet")
    write_parquet(folder, clips, range(12), "train", shards=2)
    write_parquet(folder / "test", clips, range(12, 14), "0", shards=1)
    return folder


class Store:
    """A WSGI application in front of moto that fails as `failures` says, one entry a GET: "error", "cut", a pause in
    seconds, or None."""

    def __init__(self):
        from moto.server import DomainDispatcherApplication, create_backend_app

        self.app = DomainDispatcherApplication(create_backend_app)
        self.failures = itertools.repeat(None)
        self.seen: Counter = Counter()

    def __call__(self, environ, start_response):
        is_read = environ["REQUEST_METHOD"] == "GET" and "HTTP_RANGE" in environ
        failure = next(self.failures) if is_read else None
        self.seen[str(failure)] += is_read
        if failure == "error":
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        if isinstance(failure, float):
            time.sleep(failure)
        body = self.app(environ, start_response)
        if failure == "cut":
            return [b"".join(body)[:-10]]  # fewer bytes than the header promises
        return body


@pytest.fixture(scope="module")
def server():
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *arguments):
            pass

    store = Store()
    server = make_server("127.0.0.1", 0, store, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield store, f"http://127.0.0.1:{server.port}"
    server.shutdown()


@pytest.fixture
def store(server, monkeypatch):
    """The store, with the libraries' own retries off: the failures reach our code."""
    import s3fs

    store, address = server
    variables = {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    variables |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1", "NO_PROXY": "127.0.0.1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(s3fs.S3FileSystem, "read_timeout", 1, raising=False)
    monkeypatch.setattr(remote_files, "WAITS", (0.01,) * 20)
    monkeypatch.setattr(remote_files, "BLOCK_BYTES", 2000)  # several requests a shard
    s3fs.S3FileSystem.clear_instance_cache()
    store.failures, store.seen = itertools.repeat(None), Counter()
    return store


def upload(folder: Path, bucket: str) -> str:
    """`s3://bucket` with the files of a folder."""
    import s3fs

    fs = s3fs.S3FileSystem()
    fs.mkdir(bucket)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        fs.put_file(str(file), f"{bucket}/{file.relative_to(folder)}")
    return f"s3://{bucket}"


@pytest.fixture
def tars(clips, tmp_path):
    folder = tmp_path / "tars"
    folder.mkdir()
    for shard in range(2):
        write_tar(folder / f"train-{shard}.tar", clips, range(shard, 6, 2), lambda number: {"cls": number % 3})
    (folder / "classes.txt").write_text("\n".join(NAMES))
    return folder


def items_of(source, processor, workers: int = 0) -> list:
    return list(batches_of(stream_of(source, processor, shuffle_buffer=4), num_workers=workers, epochs=1))


FAILURES = {
    "whole": [None],
    "errors": ["error", None],
    "cut bodies": [None, None, None, "cut"],
    "long failure": ["error"] * 9 + [None] * 9,
}


@pytest.mark.parametrize("failure", FAILURES)
def test_parquet_from_a_failing_store(parquet, processor, store, failure, caplog):
    address = upload(parquet, f"parquet-{list(FAILURES).index(failure)}")
    store.failures = itertools.cycle(FAILURES[failure])
    with caplog.at_level(logging.WARNING):
        source = open_source(address)
        assert source.lengths == {"train": 12, "test": 2} and source.reader.names == tuple(NAMES)
        found = items_of(source, processor)
    expected = items_of(open_source(parquet), processor)
    assert len(found) == len(expected) and all(map(equal, found, expected))
    failed = sum(count for name, count in store.seen.items() if name != "None")
    assert bool(failed) == (failure != "whole")
    assert ("follows in" in caplog.text) == (failure != "whole")


def test_webdataset_from_a_failing_store_by_workers(tars, processor, store):
    address = upload(tars, "tars")
    store.failures = itertools.cycle(["error", None, "cut"])
    source = open_source(address)
    assert source.reader.names == tuple(NAMES) and source.splits["train"].num_shards == 2
    found, expected = items_of(source, processor, 2), items_of(open_source(tars), processor, 2)
    assert len(found) == len(expected) and all(map(equal, found, expected))
    assert store.seen["error"] and store.seen["cut"]


def test_a_store_that_stalls_is_asked_again(parquet, processor, store, monkeypatch):
    import fsspec

    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 1}})
    address = upload(parquet, "stalls")
    store.failures = itertools.chain([30.0], itertools.repeat(None))
    begin = time.monotonic()
    assert len(items_of(open_source(address), processor)) == 3
    assert time.monotonic() - begin < 25 and store.seen["30.0"] == 1


def test_a_store_that_stays_away_ends_the_run_with_its_words(parquet, processor, store, monkeypatch):
    address = upload(parquet, "away")
    source = open_source(address)
    monkeypatch.setattr(remote_files, "WAITS", (0.01,) * 2)
    store.failures = itertools.repeat("error")
    with pytest.raises(OSError):
        items_of(source, processor)


@pytest.mark.parametrize("error", [*remote_files.LASTING, ConnectionError])
def test_what_waiting_does_not_cure_is_raised_at_once(error, monkeypatch):
    waited, calls = [], []
    monkeypatch.setattr(remote_files.time, "sleep", waited.append)

    def read() -> None:
        calls.append(1)
        raise error("no")

    with pytest.raises(error):
        remote_files.patiently(read, "s3://bucket/key")
    if error is ConnectionError:  # may pass: every wait is used, then a last try
        assert waited == list(remote_files.WAITS) and len(calls) == len(waited) + 1
    else:
        assert not waited and len(calls) == 1


def test_bad_addresses_are_one_line(store):
    with pytest.raises(ValueError, match=r"s3://nothing: .*(no \*.parquet|cannot be listed)"):
        open_source("s3://nothing")
    with pytest.raises(ValueError, match="hf://models/x: is no data set"):
        open_source("hf://models/x")


def test_the_next_block_is_read_ahead(store, tmp_path, monkeypatch):
    """While a block is used, a thread fetches the one after it."""
    (tmp_path / "a.bin").write_bytes(bytes(range(250)) * 40)
    address = upload(tmp_path, "ahead")
    import fsspec

    with fsspec.open(remote_files.with_retries(f"{address}/a.bin"), "rb") as file:
        first = file.read(100)
        deadline = time.monotonic() + 20
        while sum(store.seen.values()) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sum(store.seen.values()) == 2
        assert first + file.read() == bytes(range(250)) * 40


def test_an_address_is_streamed_without_asking(tmp_path):
    recipe = parse_arguments(
        ["--model_name_or_path", "x", "--data", "s3://bucket/set", "--max_steps", "1", "--output_dir", str(tmp_path)]
        + ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    )
    assert recipe.streams
