# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs a page as visitors meet it, in a process of its own, and asks it as a browser does."""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path

from clip_factory import write_numbered
from tiny_models import tiny_model

from benchmarks.fresh import REPOSITORY
from processing import MAAVTFeatureExtractor, MAAVTProcessor, MAAVTVideoProcessor


LABELS = {0: "rooster", 1: "train", 2: "violin", 3: "rain", 4: "door"}


@dataclass
class RunningPage:
    """A page's process, its address, its output so far, and the folder that holds the files of its visitors."""

    process: subprocess.Popen
    address: str
    log: Path
    temporary: Path


def save_tiny(folder: Path, seed: int = 0, **config) -> Path:
    """A checkpoint with processor and code, as a run saves it."""
    model = tiny_model(seed, id2label=LABELS, **config)
    model.save_pretrained(folder)
    processor = MAAVTProcessor(
        MAAVTFeatureExtractor(num_bins=32, num_frames=64), MAAVTVideoProcessor(size={"height": 32, "width": 32})
    )
    processor.save_pretrained(folder)
    return folder


def write_clips(folder: Path) -> Path:
    """`clip.mp4` of 2 s, `silent.mp4` without audio, `dark.mp4` without video, `broken.mp4`."""
    folder.mkdir()
    write_numbered(folder / "clip.mp4")
    write_numbered(folder / "silent.mp4", sound=False)
    write_numbered(folder / "dark.mp4", picture=False)
    data = (folder / "clip.mp4").read_bytes()
    (folder / "broken.mp4").write_bytes(data[: len(data) // 3])
    return folder


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start_page(
    command: list[str], folder: Path, cwd: Path = REPOSITORY, seconds: float = 180, **environment
) -> RunningPage:
    """Starts a page and waits until it answers.

    Args:
        command: the port is in the environment variable `GRADIO_SERVER_PORT`.
        folder: for its log and its temporary files.
        cwd, environment: of the process.
        seconds: after which it should answer.
    """
    port, temporary = free_port(), folder / "temporary"
    temporary.mkdir(parents=True)
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    variables |= {"GRADIO_SERVER_PORT": str(port), **environment}
    address, log = f"http://127.0.0.1:{port}", folder / "log.txt"
    with open(log, "w") as output:
        process = subprocess.Popen(command, cwd=cwd, env=variables, stdout=output, stderr=output)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.3)
        else:
            return RunningPage(process, address, log, temporary)
    process.kill()
    raise RuntimeError(f"the page does not answer:\n{log.read_text()[-2000:]}")


def stop_page(page: RunningPage) -> None:
    page.process.terminate()
    page.process.wait(30)


def request(address: str, data: bytes | None = None, **headers) -> tuple[int, bytes, dict]:
    """Status, body and headers of an answer, also of a refusal."""
    call = urllib.request.Request(address, data, {name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(call, timeout=60) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def upload(page, name: str, content: bytes) -> tuple[int, bytes]:
    """What the form of the page sends."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    content_type = f"multipart/form-data; boundary={boundary}"
    return request(f"{page.address}/gradio_api/upload", body, Content_Type=content_type)[:2]


def join(page, data: list, session: str) -> tuple[int, bytes]:
    """Presses the button: the call waits in the queue."""
    config = json.loads(request(f"{page.address}/config")[1])
    (function,) = [each["id"] for each in config["dependencies"] if each["backend_fn"] and len(each["inputs"]) == 5]
    call = json.dumps({"data": data, "fn_index": function, "session_hash": session}).encode()
    return request(f"{page.address}/gradio_api/queue/join", call, Content_Type="application/json")[:2]


def show(page, clip: dict | None, model="first", streams="video and audio", start=None, end=None) -> dict:
    """The end of what the server answers to a press of the button; `output` holds the new values by position."""
    session = uuid.uuid4().hex
    assert join(page, [clip, model, streams, start, end], session)[0] == 200
    with urllib.request.urlopen(f"{page.address}/gradio_api/queue/data?session_hash={session}", timeout=60) as stream:
        for line in stream:
            event = json.loads(line.removeprefix(b"data: ")) if line.startswith(b"data: ") else {}
            if event.get("msg") == "process_completed":
                return event
    raise AssertionError("no answer")


def given(path: str) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def uploaded(page, file) -> dict:
    status, body = upload(page, file.name, file.read_bytes())
    assert status == 200
    return given(json.loads(body)[0])


def line(event: dict) -> str:
    return event["output"]["data"][0]
