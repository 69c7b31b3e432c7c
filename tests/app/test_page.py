# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What the page's server does for visitors, and what it refuses them. `test_browser.py` looks at it with a browser."""

import http.client
import json
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import tiny_deepavfusion
from page_server import given, join, line, request, save_tiny, show, start_page, stop_page, upload, uploaded

import modeling_deepavfusion
from benchmarks.fresh import REPOSITORY
from processing import DeepAVFusionFeatureExtractor, DeepAVFusionProcessor, DeepAVFusionVideoProcessor


pytest.importorskip("gradio", reason="gradio is not installed (extra: page)")
from starlette.responses import PlainTextResponse  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402


pytestmark = pytest.mark.xdist_group("page")  # one server for all


def test_a_clip_is_answered(page, clips):
    event = show(page, uploaded(page, clips / "clip.mp4"))
    assert event["success"]
    text, classes, audio, _, picture, _, timeline, start, end = event["output"]["data"]
    assert "The answer is" in text and "belong together" in text
    assert classes["value"]["label"] in ("rooster", "train", "violin", "rain", "door")
    assert len(classes["value"]["confidences"]) == 5
    assert picture["path"].endswith(".png") and timeline["path"] and not audio["visible"]
    assert (start, end) == (0, 2)
    assert request(picture["url"])[1].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "file, streams, words",
    [
        ("clip.mp4", "video only", "got no audio"),
        ("clip.mp4", "audio only", "got no video"),
        ("silent.mp4", "video and audio", "got no audio"),
        ("dark.mp4", "video and audio", "got no video"),
    ],
)
def test_a_modality_may_be_missing(page, clips, file, streams, words):
    text = line(show(page, uploaded(page, clips / file), streams=streams))
    assert words in text and "The answer is" in text and "belong together" not in text


@pytest.mark.parametrize(
    "file, options, words",
    [
        ("broken.mp4", {}, "broken.mp4"),
        ("silent.mp4", {"streams": "audio only"}, "silent.mp4 has no audio. Choose"),
        ("clip.mp4", {"start": 1, "end": 9}, "passes the end"),
        ("clip.mp4", {"start": 1.5, "end": 1}, "empty"),
        ("clip.mp4", {"start": 0, "end": 900}, "too many"),
    ],
)
def test_a_mistake_is_one_line(page, clips, file, options, words):
    text = line(show(page, uploaded(page, clips / file), **options))
    assert text.startswith("**This did not work.** ") and words in text
    assert "\n" not in text and str(page.temporary) not in text


def test_nothing_chosen(page):
    assert line(show(page, None)) == "Choose a clip first."


@pytest.mark.parametrize("model", ["/etc/passwd", "../first", "user/name"])
def test_models_that_are_not_offered_are_refused(page, clips, model):
    assert not show(page, uploaded(page, clips / "clip.mp4"), model=model)["success"]


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../../../../etc/passwd", "app/web_page.py", "{folder}/../../../../../../etc/passwd", "{clips}"],
)
def test_files_of_the_server_are_no_clips(page, clips, path):
    folder = next(page.temporary.glob("maavt_page_*"))
    event = show(page, given(path.format(folder=folder, clips=clips / "clip.mp4")))
    assert not event["success"] and "root:" not in json.dumps(event)


@pytest.mark.parametrize("kind", ["path", "url"])
def test_addresses_are_not_fetched(page, kind):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/clip.mp4"
        event = show(page, given(address) | {kind: address})
        server.shutdown()
    assert not event["success"] and not asked


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "%2Fetc%2Fpasswd",
        "../../../../../../etc/passwd",
        "..%2F..%2F..%2F..%2F..%2Fetc%2Fpasswd",
        "{folder}/../../../../../../etc/passwd",
        "README.md",
        "app/web_page.py",
        "{repository}/pyproject.toml",
        "{clips}/clip.mp4",
        "file:///etc/passwd",
        "http://127.0.0.1:9/secret",
    ],
)
@pytest.mark.parametrize(
    "route", ["gradio_api/file=", "file=", "static/", "gradio_api/stream/", "assets/", "gradio_api/proxy="]
)
def test_no_file_of_the_server_can_be_read(page, clips, route, path):
    folder = next(page.temporary.glob("maavt_page_*"))
    path = path.format(folder=folder, clips=clips, repository=REPOSITORY)
    status, body, _ = request(f"{page.address}/{route}{path}")
    assert status in (400, 401, 403, 404, 405, 422) or b"<!doctype html>" in body.lower(), (status, body[:200])
    assert b"root:" not in body and b"maavt authors" not in body and b"ftyp" not in body


def test_uploads_are_limited(page):
    connection = http.client.HTTPConnection(page.address.removeprefix("http://"), timeout=60)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Length", "7000000")
    connection.endheaders()
    assert connection.getresponse().status == 413
    assert upload(page, "small.mp4", bytes(1_000_000))[0] == 200


def test_uploads_fill_no_disk(tmp_path):
    from app.web_page import Guard, Limits

    async def accept(scope, receive, send):
        await PlainTextResponse("accepted")(scope, receive, send)

    client = TestClient(Guard(accept, tmp_path, Limits(megabytes=1)))
    for number in range(9):
        (tmp_path / str(number)).write_bytes(bytes(1 << 20))
    assert client.post("/gradio_api/upload", content=bytes(900_000)).status_code == 200
    assert client.post("/gradio_api/upload", content=bytes(1_200_000)).status_code == 413
    assert client.post("/gradio_api/upload", content=iter([b"without a length"])).status_code == 413
    (tmp_path / "last").write_bytes(bytes(500_000))
    assert client.post("/gradio_api/upload", content=bytes(900_000)).status_code == 503
    assert client.post("/gradio_api/queue/join", content=bytes(2_000_000)).status_code == 200


@pytest.mark.slow
def test_uploads_are_deleted(tmp_path, clips):
    command = [sys.executable, "-m", "app", str(save_tiny(tmp_path / "model")), "--examples", str(clips / "clip.mp4")]
    page = start_page([*command, "--keep_minutes", "0.05"], tmp_path)
    try:
        (example,) = page.temporary.rglob("clip.mp4")
        old = uploaded(page, clips / "silent.mp4")
        assert list(page.temporary.rglob("silent.mp4"))
        deadline = time.monotonic() + 60
        while list(page.temporary.rglob("silent.mp4")) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert not list(page.temporary.rglob("silent.mp4"))
        event = show(page, old, model="model")
        assert not event["success"] and "no longer here" in event["output"]["error"]
        assert example.is_file()
    finally:
        stop_page(page)


DENSE = {
    "segmentation": ("DeepAVFusionForAudioVisualSegmentation", {"num_labels": 1}),
    "localization": ("DeepAVFusionForSoundSourceLocalization", {}),
    "separation": ("DeepAVFusionForSoundSourceSeparation", {}),
    "classification": ("DeepAVFusionForAudioVisualClassification", {"num_labels": 3}),
}


@pytest.mark.parametrize("task", DENSE)
def test_deepavfusion_is_shown(task, clips):
    from app.web_page import Limits, Page

    name, sizes = DENSE[task]
    sizes |= {"image_size": 32, "patch_size": 8, "num_mel_bins": 16, "audio_num_frames": 16, "audio_mask_ratio": 0.5}
    model = tiny_deepavfusion.tiny_model(getattr(modeling_deepavfusion, name), **sizes)
    extractor = DeepAVFusionFeatureExtractor(
        segment_seconds=0.5, n_fft=512, win_length=512, hop_length=500, num_bins=16, num_frames=16
    )
    video_processor = DeepAVFusionVideoProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    page = Page({task: (model, DeepAVFusionProcessor(extractor, video_processor))}, [], Limits(), "A title")

    parts = page.show(str(clips / "clip.mp4"), task, "video and audio")
    assert parts[page.picture].shape[2] == 3 and "did not work" not in parts[page.line]
    assert parts[page.classes]["visible"] == (task == "classification")
    assert parts[page.audio]["visible"] == (task == "separation")
    if task == "separation":
        rate, waveform = parts[page.audio]["value"]
        assert rate == 16000 and len(waveform) == 8000

    # Nothing can be separated without audio.
    sentence = page.show(str(clips / "silent.mp4"), task, "video and audio")[page.line]
    assert ("did not work" in sentence) == (task == "separation")


@pytest.mark.parametrize(
    "options, words", [(["no/model"], "no/model: is no"), (["no/model", "--examples", "x"], "x: no clip")]
)
def test_what_cannot_be_shown_is_one_line(options, words):
    from app.__main__ import main

    with pytest.raises((ValueError, OSError), match=words):
        main(options)


@pytest.mark.parametrize("port", ["0", "99999999", "-1", "http"])
def test_a_port_that_is_none_is_refused_before_anything_is_loaded(port, capsys):
    from app.__main__ import main

    with pytest.raises(SystemExit):
        main(["no/model", "--port", port])
    assert f"'{port}' is no port; give 1 to 65535" in capsys.readouterr().err


def test_browsers_are_told_to_stay_here(page):
    _, body, headers = request(page.address)
    assert "default-src 'self'" in headers["content-security-policy"]


def test_more_visitors_than_the_queue_holds_are_sent_away(page, clips):
    """Last in this file: those that are let in keep the page busy."""
    clip, statuses = uploaded(page, clips / "clip.mp4"), []
    for _ in range(60):
        statuses.append(join(page, [clip, "first", "video and audio", None, None], uuid.uuid4().hex)[0])
    assert statuses[0] == 200 and set(statuses) == {200, 503}
    connection = http.client.HTTPConnection(page.address.removeprefix("http://"), timeout=60)
    connection.request("GET", "/config")  # the page itself answers all the same
    assert connection.getresponse().status == 200
