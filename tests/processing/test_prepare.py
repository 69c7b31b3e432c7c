# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What all preparations share: record, processes, folder, embedding, upload, and training on the output."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest
import yaml
from mock_hub import MockHub
from tiny_sets import ClipCopies, crash_on_bad, write_ave, write_crema_d
from toy_run import write_backbone

import train
from processing.clips import ClipRequest, load_clip
from processing.data.clip_splits import check_leaks
from processing.data.clip_tables import build_clip_table
from processing.data.engines import Engine
from processing.data.prepared_folders import load_prepared, read_report
from processing.prepare import __main__ as command
from processing.prepare.annotations import Annotations, ClipRow, FileIndex, PrepareError, split_by_id
from processing.prepare.scan import Facts, Job, check_clip, scan
from processing.prepare.selection import select_rows
from processing.prepare.writing import sole_writer


REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return ClipCopies(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def ave(tmp_path, clips):
    return write_ave(tmp_path / "ave", clips)


def prepare(*arguments):
    return command.prepare(command.parse_arguments([str(argument) for argument in arguments]))


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_second_run_writes_nothing_and_a_third_writes_the_same_bytes(ave, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ("ave", "--root", ave, "--out", out, "--workers", 0)
    prepare(*arguments)
    assert capsys.readouterr().out.endswith(": written\n")
    before, times = files_of(out), {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert set(map(str, before)) == {
        "report.json",
        "report.txt",
        *(f"data/{side}-00000-of-00001.parquet" for side in ("train", "validation", "test")),
    }
    prepare(*arguments)
    assert capsys.readouterr().out.endswith(": is current, nothing to write\n")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times
    shutil.rmtree(out)
    prepare(*arguments)
    assert files_of(out) == before
    os.remove(out / "data" / "test-00000-of-00001.parquet")  # a folder that has lost a file is written again
    prepare(*arguments)
    assert files_of(out) == before


def test_other_settings_or_files_rebuild(ave, clips, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ("ave", "--root", ave, "--out", out, "--workers", 0)
    prepare(*arguments)
    prepare(*arguments, "--background", "match")
    assert capsys.readouterr().out.endswith(": written\n")
    assert len(load_prepared(out)["train"].features["label"].names) == 28
    clips.good(ave / "AVE" / "v1.mp4")  # was missing
    clips.good(ave / "AVE" / "v3.mp4")  # was broken
    report = prepare(*arguments, "--background", "match")
    assert capsys.readouterr().out.endswith(": written\n")
    assert {"v1/Bark", "v3/Bark"} <= set(load_prepared(out)["train"]["clip_id"])
    assert report["total"]["missing"] == report["total"]["corrupt"] == 0
    assert not list(out.parent.glob(".out.*[!l]")), "a temporary folder is left"


def test_resumes_from_a_record_that_was_cut_off(ave, tmp_path, monkeypatch):
    """Every clip is opened once, also when the record's last line is half a line."""
    record = tmp_path / "record.jsonl"
    arguments = ("ave", "--root", ave, "--out", tmp_path / "out", "--workers", 0, "--record", record)
    first = prepare(*arguments)
    lines = record.read_bytes().splitlines(keepends=True)
    assert len(lines) == 9  # the files that are there; v9 and v5 stand in two rows
    record.write_bytes(b"".join(lines[:4]) + lines[4][: len(lines[4]) // 2])
    opened = []
    monkeypatch.setattr(command, "scan", lambda *a, **k: scan(*a, **k, check=counting(opened)))
    shutil.rmtree(tmp_path / "out")
    assert prepare(*arguments) == first
    assert len(opened) == 5
    assert sorted(record.read_bytes().splitlines(keepends=True)) == sorted(lines)
    record.write_bytes(b'{"job": {"other": "version"}}\nno json\n' + b"".join(lines))
    assert prepare(*arguments) == first and len(opened) == 5


def counting(opened):
    def check(root, job):
        opened.append(job)
        return check_clip(root, job)

    return check


def test_changed_file_is_checked_again(clips, tmp_path):
    path = clips.truncated(tmp_path / "a.mp4")
    job, record = Job("a.mp4", "a.mp4"), tmp_path / "record.jsonl"
    assert scan([job], tmp_path, record, engine=Engine(workers=0))[job].error is not None
    clips.good(path)
    assert scan([job], tmp_path, record, engine=Engine(workers=0))[job].error is None


def test_a_clip_that_kills_its_process_is_broken_and_stops_nothing(tmp_path):
    names = [f"{'bad' if n in (3, 9) else 'clip'}{n}.mp4" for n in range(12)]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    jobs = [Job(name, name) for name in names]
    facts = scan(jobs, tmp_path, tmp_path / "record.jsonl", engine=Engine(workers=2), check=crash_on_bad)
    assert [job.video for job in jobs if facts[job].error] == ["bad3.mp4", "bad9.mp4"]
    assert "the decoder crashed (exit code 7)" in facts[jobs[3]].error
    assert len((tmp_path / "record.jsonl").read_text().splitlines()) == 12


@pytest.mark.slow
def test_killed_in_the_middle_then_resumed_with_two_processes(clips, tmp_path):
    """SIGKILL while clips are being checked; the same command goes on, and gives what one process gives."""
    root = write_crema_d(tmp_path / "CREMA-D", clips)
    out, record = tmp_path / "out", tmp_path / ".out.scan.jsonl"
    arguments = [sys.executable, "-m", "processing.prepare", "crema_d", "--root", str(root), "--out", str(out)]
    arguments += ["--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.time() + 300
    while time.time() < deadline and process.poll() is None and not (record.is_file() and record.stat().st_size):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert record.stat().st_size > 0 and not out.exists()
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    prepare("crema_d", "--root", root, "--out", tmp_path / "alone", "--workers", 0)
    assert {k: v for k, v in files_of(out).items() if k.parts[0] == "data"} == {
        k: v for k, v in files_of(tmp_path / "alone").items() if k.parts[0] == "data"
    }


def test_embedded_clips_need_no_files(ave, tmp_path, monkeypatch):
    monkeypatch.setattr("processing.prepare.writing.SHARD_BYTES", 20_000)
    prepare("ave", "--root", ave, "--out", tmp_path / "out", "--workers", 0, "--embed")
    by_path = {
        f"{row['clip_id']}": (ave / "AVE" / f"{row['group']}.mp4").read_bytes() for row in rows(tmp_path / "out")
    }
    shutil.rmtree(ave)
    tables = load_prepared(tmp_path / "out")
    assert len(list((tmp_path / "out" / "data").glob("train-*"))) > 1
    for row in rows(tmp_path / "out"):
        assert row["video"]["bytes"] == row["audio"]["bytes"] == by_path[row["clip_id"]]
        assert row["video"]["path"] == f"{row['group']}.mp4"
    assert load_clip(tables["train"][0]["video"], ClipRequest(num_frames=2)).frames.shape[0] == 2
    table, report = build_clip_table(tmp_path / "out", check="decode")
    assert report["clips"] == 7 and table["train"].features["label"].names[-1] == "Background"


def rows(out):
    return [row for part in load_prepared(out).values() for row in part]


def test_embedded_bytes_are_the_same_every_time(ave, tmp_path):
    arguments = ("ave", "--root", ave, "--workers", 0, "--embed", "--out")
    prepare(*arguments, tmp_path / "one")
    prepare(*arguments, tmp_path / "two")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_output_opens_with_datasets_alone(ave, tmp_path):
    prepare("ave", "--root", ave, "--out", tmp_path / "out", "--workers", 0)
    tables = datasets.load_dataset(str(tmp_path / "out"))
    assert set(tables) == {"train", "validation", "test"}
    assert tables["train"].features["video"] == datasets.Video(decode=False)
    assert tables["train"].features["segment_labels"] == datasets.List(datasets.Value("int64"))


def test_missing_modalities_are_kept_when_not_required(ave, clips, tmp_path):
    clips.mute(ave / "AVE" / "v6.mp4")
    report = prepare("ave", "--root", ave, "--out", tmp_path / "out", "--workers", 0, "--require", "video")
    table = {row["clip_id"]: row for row in rows(tmp_path / "out")}
    assert table["v6/Truck"]["audio"] is None and table["v6/Truck"]["video"] is not None
    assert table["v2/Bark"]["audio"] is None and report["total"]["silent"] == report["total"]["no_audio"] == 0


def test_nothing_of_the_user_is_overwritten(ave, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    assert command.main(["ave", "--root", str(ave), "--out", str(out), "--workers", "0"]) == 1
    assert "holds files that are not a prepared set" in capsys.readouterr().err
    assert (out / "thesis.txt").read_text() == "years of work"
    assert command.main(["ave", "--root", str(ave), "--out", str(ave), "--workers", "0"]) == 1
    assert (ave / "trainSet.txt").is_file()


def test_a_failed_write_leaves_the_old_folder(ave, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = ("ave", "--root", ave, "--out", out, "--workers", 0)
    prepare(*arguments)
    before = files_of(out)
    monkeypatch.setattr("processing.prepare.writing.report_text", lambda report: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare(*arguments, "--background", "match")
    assert files_of(out) == before
    assert sorted(path.name for path in tmp_path.glob(".out*")) == [".out.scan.jsonl"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--root", "nowhere"], "nowhere: no such folder"),
        (["--root", "{empty}"], "neither trainSet.txt, valSet.txt, testSet.txt nor train_order.h5"),
    ],
)
def test_errors_name_the_cure_and_exit_with_1(tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    arguments = [text.format(empty=tmp_path / "empty") for text in arguments]
    assert command.main(["ave", *arguments, "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err


def test_usage_errors_exit_with_2(tmp_path, capsys):
    for arguments in (["imagenet"], ["ave", "--root", "x"], ["ave", "--root", "x", "--out", "y", "--workers", "-1"]):
        with pytest.raises(SystemExit) as stopped:
            command.main(arguments)
        assert stopped.value.code == 2
    assert "give a number from 0 on" in capsys.readouterr().err


def test_nothing_left_is_an_error_with_the_report(tmp_path, clips, capsys):
    root = tmp_path / "ave"
    write_ave(root, clips)
    shutil.rmtree(root / "AVE")
    assert command.main(["ave", "--root", str(root), "--out", str(tmp_path / "out"), "--workers", "0"]) == 1
    said = capsys.readouterr()
    assert "no clip is left of 12" in said.err and "missing: 11" in said.out and not (tmp_path / "out").exists()


def test_report_text(ave, tmp_path):
    prepare("ave", "--root", ave, "--out", tmp_path / "out", "--workers", 0)
    text = (tmp_path / "out" / "report.txt").read_text()
    assert text.startswith("ave: 7 of 12 clips, 29 classes\nsplit: official, by trainSet.txt")
    lines = [line.split() for line in text.splitlines()]
    assert ["split", "listed", "found", "duplicate", "missing", "corrupt", "silent", "used"] in lines
    assert ["train", "9", "8", "2", "1", "1", "1", "4"] in lines
    assert ["Church", "bell", "1/2", "-", "-"] in lines and ["Bark", "0/4", "-", "2/2"] in lines
    assert "  v1.mp4: no such file" in text and "  v4.mp4: same content as v0.mp4" in text


def listed(*rows):
    annotations = Annotations(
        [ClipRow(i, ["a"], g, side, f"{i}.mp4", Path(i), Path(i)) for i, g, side in rows], ["a"], ""
    )
    jobs = {number: Job(row.clip_id, row.clip_id) for number, row in enumerate(annotations.rows)}
    facts = {job: Facts(has_video=True, has_audio=True, digests=(job.video,)) for job in jobs.values()}
    return annotations, jobs, facts


def test_sources_and_contents_stay_on_one_side():
    annotations, jobs, facts = listed(
        ("a", "g1", "train"),
        ("b", "g1", "test"),
        ("c", "g2", "train"),
        ("d", "g3", "validation"),
        ("e", "g4", "train"),
    )
    facts[jobs[2]] = facts[jobs[3]]  # c and d hold the same bytes
    verdicts = select_rows(annotations, jobs, facts, ("video", "audio"))
    assert [verdict.status for verdict in verdicts] == ["other_split", "used", "duplicate", "used", "used"]
    assert verdicts[0].reason == "a: g1 is in test too"
    assert verdicts[2].reason == "c.mp4: same content as d.mp4; it stays in validation"


def test_split_by_id_draws_the_shares():
    sides = [split_by_id(f"v{n}", {"validation": 0.1, "test": 0.2}, 0) for n in range(5000)]
    assert abs(sides.count("validation") / 5000 - 0.1) < 0.02 and abs(sides.count("test") / 5000 - 0.2) < 0.02
    assert sides[7] == split_by_id("v7", {"validation": 0.1, "test": 0.2}, 0)


def test_file_index_prefers_mp4_and_names_ambiguous_files(tmp_path):
    for name in ("a/x.flv", "a/x.mp4", "b/y.mp4", "c/y.mp4", ".hidden/z.mp4", "c/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "c" / "loop").symlink_to(tmp_path)
    index = FileIndex(tmp_path)
    assert index.find("nothing", "x") == tmp_path / "a" / "x.mp4" and index.find("z") is None
    assert index.find("y") == tmp_path / "b" / "y.mp4"
    assert index.warnings()[0].startswith("1 file names lie in more than one folder, such as y.mp4")


def test_training_takes_sides_names_and_warnings_of_a_prepared_set(ave, tmp_path):
    prepare("ave", "--root", ave, "--out", tmp_path / "out", "--workers", 0)
    table, report = build_clip_table(tmp_path / "out", check="none")
    check_leaks(table)
    assert {side: len(part) for side, part in table.items()} == {"train": 4, "validation": 1, "test": 2}
    assert len(report["classes"]) == 29 and report["split"] == "by the table"
    assert set(table["train"]["clip_id"]) == {"v0/Church bell", "v6/Truck", "v9/Banjo", "v9/Mandolin"}
    assert read_report(tmp_path / "out")["warnings"] == [w for w in report["warnings"] if "has no clip of" not in w]
    only, _ = build_clip_table(tmp_path / "out", check="none", where={"quality": "good"})
    assert len(only["test"]) == 2


def test_leaks_in_a_prepared_set_stop_training(ave, tmp_path):
    """Somebody edits the shards: the check of every training finds it."""
    out = tmp_path / "out"
    prepare("ave", "--root", ave, "--out", out, "--workers", 0)
    shutil.copyfile(out / "data" / "test-00000-of-00001.parquet", out / "data" / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="missing or cut off"):
        build_clip_table(out, check="none")
    report = json.loads((out / "report.json").read_text())
    report["shards"]["train-00000-of-00001.parquet"] = report["shards"]["test-00000-of-00001.parquet"]
    (out / "report.json").write_text(json.dumps(report))
    with pytest.raises(ValueError, match="is in train and in test"):
        build_clip_table(out, check="none")


def test_train_and_evaluate_on_a_prepared_set(clips, tmp_path):
    """CREMA-D from its files to a table of results; picture and sound come from different files."""
    root = write_crema_d(tmp_path / "CREMA-D", clips, ("1001", "1002", "1003", "1010", "1013", "1015", "1020"))
    prepare("crema_d", "--root", root, "--out", tmp_path / "prepared", "--workers", 0)
    config = {
        "model_name_or_path": str(write_backbone(tmp_path / "vit")),
        "data": str(tmp_path / "prepared"),
        "check": "none",
        "num_frames": 2,
        "mismatch_probability": 0.2,
        "processor": {"feature_extractor": {"num_bins": 32, "num_frames": 48}},
        "model_config": {
            "num_audio_tokens": 2,
            "num_visual_tokens": 2,
            "num_shared_tokens": 2,
            "token_init_std": 0.02,
            "contrastive_dim": 16,
        },
        "output_dir": str(tmp_path / "run"),
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "bootstrap_samples": 20,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    results = train.main([str(tmp_path / "config.yaml")])
    assert results["epochs"] == 1
    both = next(row for row in results["rows"] if row["input"] == "both")
    assert both["clips"] == 12 and both["groups"] == 2  # six of actor 1010, six of 1013


class DatasetHub(MockHub):
    """The mock Hub with one more kind of repository."""

    def handle(self, method, path, body, headers):
        path = path.replace("/api/datasets/", "/api/models/")
        if path.startswith("/api/models/") and "/".join(path.split("/")[3:5]) not in self.repos:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        code, payload, headers = super().handle(method, path.removeprefix("/datasets"), body, headers)
        if "/tree/" in path and payload == []:
            return 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"}
        if "/preupload/" in path:  # shards are large files to the Hub
            for file in payload["files"]:
                file["uploadMode"] = "lfs" if file["path"].endswith(".parquet") else file["uploadMode"]
        return code, payload, headers


def test_push_to_the_hub(ave, tmp_path):
    """The pushed set holds the clips and opens by name in a process that has none of the files."""
    with DatasetHub() as hub:
        environment = {**os.environ, **hub.env, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        arguments = [sys.executable, "-m", "processing.prepare", "ave", "--root", str(ave), "--workers", "0"]
        arguments += ["--out", str(tmp_path / "out"), "--push", "tester/ave"]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "pushed to tester/ave" in done.stdout
        files = hub.repos["tester/ave"]["files"]
        assert {name.split("-")[0] for name in files if name.endswith(".parquet")} == {
            "data/train",
            "data/validation",
            "data/test",
        }
        for name, data in files.items():
            assert str(tmp_path).encode() not in data, f"a path of this machine is in {name}"
        for side in ("train", "test"):
            (tmp_path / f"{side}.parquet").write_bytes(files[f"data/{side}-00000-of-00001.parquet"])
    shutil.rmtree(ave)
    table = datasets.load_dataset("parquet", data_files={"test": str(tmp_path / "test.parquet")})["test"]
    assert set(table["clip_id"]) == {"v8/Bark", "v5/Bark"} and table[0]["segment_labels"] is not None
    assert load_clip(table[0]["video"], ClipRequest(num_frames=2)).waveform is not None


def test_bad_shares_are_refused(ave, tmp_path):
    with pytest.raises(PrepareError, match="--validation_fraction 1: give shares from 0 on whose sum is below 1"):
        prepare("vggsound", "--root", ave, "--out", tmp_path / "out", "--validation_fraction", 1)


def test_a_damaged_shard_of_equal_length_is_named(ave, tmp_path):
    out = tmp_path / "out"
    prepare("ave", "--root", ave, "--out", out, "--workers", 0)
    shard = out / "data" / "train-00000-of-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[-40:] = bytes(40)
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=f"{out}: a shard cannot be read .* prepare it again"):
        load_prepared(out)


def test_one_preparation_at_a_time_and_no_leftovers(ave, tmp_path):
    out = tmp_path / "out"
    arguments = ("ave", "--root", ave, "--out", out, "--workers", 0)
    with sole_writer(tmp_path / ".out.scan.jsonl"), pytest.raises(PrepareError, match="another process prepares"):
        prepare(*arguments)
    prepare(*arguments)
    killed = tmp_path / ".out.0123456789ab.part"
    other = tmp_path / ".out2.0123456789ab.part"
    for folder in (killed, other):
        (folder / "data").mkdir(parents=True)
    prepare(*arguments)
    assert not killed.exists() and other.exists()
