# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A web page on which a visitor gives a clip and sees what a model makes of it.

A Space holds a copy of this file and of what it imports of this package; `app/space.py` makes the copies.
"""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

from processing.clips import clip_window
from training.common.clip_pictures import ClipView, class_names, draw_clip, view_clip
from training.common.picture_folder import draw_timeline, moment


logger = logging.getLogger(__name__)

STREAMS = {"video and audio": ("video", "audio"), "video only": ("video",), "audio only": ("audio",)}
INTRODUCTION = """Drop a clip of a few seconds into the box, or press the camera to record one. The model says what it sees and hears,
and shows where it looked and listened."""
CAPTION = """### What it saw and heard
First what the model got, then the same with its map: the brighter, the more it counts. A spectrogram shows high tones
above low ones, from left to right as they are heard."""
FAILED = "**This did not work.** "
MOST_NAMES = 30  # of classes that are listed
MEGABYTE = 1 << 20
MOST_WINDOWS = 40  # of a timeline
# Browsers ask no other server for anything.
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"
# Gradio's scissors would load a program from elsewhere; the seconds below the clip do the same.
STYLE = """.gradio-container {width: 100%; max-width: 1100px !important; margin: auto}
#line .pending {opacity: 1 !important}
@media (max-width: 768px) {#result {min-height: 95vh}}
#clip video {max-height: 50vh}
#clip [aria-label^="Trim video"], #clip [aria-label^="Reset video"] {display: none}"""
# What the browser does before the server answers. On a phone the result lies below the screen.
WAIT = """clip => {
    if (clip && innerWidth < 768) setTimeout(() => document.getElementById('result').scrollIntoView(), 500);
    return clip ? 'The model is looking and listening ...' : 'Choose a clip first.';
}"""


@dataclass(frozen=True)
class Limits:
    """What visitors may use.

    Args:
        seconds: of a clip that the model is given at once.
        megabytes: of a file. Together the uploads may take ten times as much.
        minutes: until an upload is deleted.
        queue: visitors that wait; others are told to come back.
    """

    seconds: float = 60
    megabytes: int = 100
    minutes: float = 15
    queue: int = 20


def refuse_addresses(clip: gr.Video) -> None:
    """Gradio would fetch an address that a visitor sends in place of an upload."""
    move = clip.async_move_resource_to_block_cache

    async def move_file(path: Any) -> str | None:
        if path is not None and not os.path.isfile(path):
            raise gr.Error("The clip is no longer here. Please choose it again.", print_exception=False)
        return await move(path)

    clip.async_move_resource_to_block_cache = move_file


class Guard:
    """ASGI middleware: the header that keeps browsers from other servers, and uploads no larger than the limits."""

    def __init__(self, app: Any, folder: str, limits: Limits):
        self.app, self.folder, self.most = app, Path(folder), limits.megabytes * MEGABYTE

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload"):
            size = int(Headers(scope=scope).get("content-length", 2 * self.most))
            if size > self.most + 10_000:  # the form around the file takes some bytes
                return await PlainTextResponse("The file is too large.", 413)(scope, receive, send)
            if size_of(self.folder) + size > 10 * self.most:
                return await PlainTextResponse("Too many clips at once. Try again later.", 503)(scope, receive, send)

        async def send_with_policy(message: dict) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = POLICY
            await send(message)

        return await self.app(scope, receive, send_with_policy)


def size_of(folder: Path) -> int:
    """Bytes of the files inside, some of which may be deleted meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += file.lstat().st_size
    return total


class Page:
    """The page's parts, and what happens when a visitor touches them.

    Args:
        models: (model, processor) by the name that visitors choose.
        examples: clips that are offered.
        limits: what a visitor may ask for.
        title: the heading.
    """

    def __init__(self, models: dict[str, tuple], examples: Sequence[str | Path], limits: Limits, title: str):
        self.models, self.limits = models, limits
        seconds = 60 * limits.minutes
        with gr.Blocks(title=title, delete_cache=(min(60, seconds), seconds)) as self.blocks:
            gr.Markdown(f"# {title}\n{INTRODUCTION}")
            self.known = gr.Markdown(self.known_classes(next(iter(models))))
            with gr.Row():
                with gr.Column(min_width=320):
                    self.add_inputs(examples)
                with gr.Column(min_width=320, elem_id="result"):
                    self.add_outputs()
            self.connect()

    def add_inputs(self, examples: Sequence[str | Path]) -> None:
        names = list(self.models)
        self.clip = gr.Video(
            label=f"Your clip (up to {self.limits.megabytes} MB)",
            include_audio=True,
            webcam_options=gr.WebcamOptions(mirror=False),
            elem_id="clip",
        )
        refuse_addresses(self.clip)
        if examples:
            gr.Examples([[str(file)] for file in examples], self.clip, label="Or try one of these")
        self.name = gr.Dropdown(names, value=names[0], label="Model", visible=len(names) > 1)
        self.streams = gr.Radio(list(STREAMS), value="video and audio", label="The model gets")
        with gr.Row():
            self.start = gr.Number(label="From second", minimum=0, min_width=120)
            self.end = gr.Number(label="To second", minimum=0, min_width=120)
        self.button = gr.Button("Update the result", variant="primary", elem_id="update")

    def add_outputs(self) -> None:
        self.line = gr.Markdown("The result will appear here.", elem_id="line", min_height=60)
        self.classes = gr.Label(label="Most likely", num_top_classes=5, show_heading=False, visible=False)
        self.audio = gr.Audio(format="wav", label="Separated audio", buttons=["download"], visible=False)
        picture = {"format": "png", "show_label": False, "buttons": ["fullscreen", "download"], "interactive": False}
        with gr.Column(visible=False) as self.details:
            gr.Markdown(CAPTION)
            self.picture = gr.Image(elem_id="picture", **picture)
        with gr.Column(visible=False) as self.over_time:
            gr.Markdown("### How the answer changes")
            self.timeline = gr.Image(**picture)

    def connect(self) -> None:
        """A new clip is shown at once, from its start; the button shows the chosen seconds of it."""
        outputs = [self.line, self.classes, self.audio, self.details, self.picture, self.over_time, self.timeline]
        common = {
            "outputs": [*outputs, self.start, self.end],
            "concurrency_id": "model",  # one clip at a time
            "show_progress_on": self.line,
            "api_visibility": "private",
        }
        inputs = [self.clip, self.name, self.streams]
        self.clip.change(None, self.clip, self.line, js=WAIT)
        self.clip.change(self.show, inputs, **common)
        self.button.click(None, self.clip, self.line, js=WAIT)
        self.button.click(self.show, [*inputs, self.start, self.end], **common)
        self.name.change(self.known_classes, self.name, self.known, api_visibility="private")

    def known_classes(self, name: str) -> str:
        """A sentence for visitors who bring something else, and would wonder at the answer."""
        model = self.models[name][0]
        if not type(model).__name__.endswith("Classification"):
            return ""
        labels = class_names(model)
        names = ", ".join(labels[:MOST_NAMES])
        if len(labels) > MOST_NAMES:
            names += f" and {len(labels) - MOST_NAMES} more"
        return f"The model knows nothing but these {len(labels)} answers: {names}."

    def show(
        self,
        clip: str | None,
        name: str,
        streams: str,
        start: float | None = None,
        end: float | None = None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008, Gradio finds it there
    ) -> dict:
        """The new values of the parts; what is wrong with a clip is a sentence in place of a result."""
        hidden = (self.classes, self.audio, self.details, self.over_time)
        parts = {part: gr.update(visible=False) for part in hidden}
        if clip is None:
            return parts | {self.line: "Choose a clip first.", self.start: None, self.end: None}
        try:
            start, end = self.window(clip, start, end)
            view = view_clip(*self.models[name], clip, start, end, STREAMS[streams])
            parts |= self.answer(view, end - start)
            if view.probabilities is not None:
                parts |= self.answers_over_time(name, clip, start, end, streams, progress)
        except (ValueError, OSError) as error:
            parts[self.line] = FAILED + reason(error, clip)
        except Exception:
            logger.exception("%s", Path(clip).name)
            parts[self.line] = FAILED + "The model cannot cope with this clip. Try another one."
        return parts | {self.start: start, self.end: end}

    def window(self, clip: str, start: float | None, end: float | None) -> tuple[float, float]:
        """The seconds to look at; where the visitor has chosen none, from the start on as many as are allowed."""
        start, most = start or 0.0, self.limits.seconds
        if end is None:
            end = min(clip_window(clip)[1], start + most)
        if end - start > most:
            raise ValueError(f"{end - start:.1f} seconds are too many; choose {most:g} or less")
        return start, end

    def answer(self, view: ClipView, seconds: float) -> dict:
        """What is shown of a view of so many seconds."""
        parts, lines = {}, []
        if view.probabilities is not None:
            predictions = view.predictions(len(view.labels))
            label, probability = predictions[0]
            lines.append(f"The answer is **{label}** ({percent(probability)} sure).")
            parts[self.classes] = gr.update(value=dict(predictions), visible=True)
        if view.match_probability is not None:
            lines.append(f"Do video and audio belong together? {percent(view.match_probability)} yes.")
        if view.waveforms:
            waveform = (view.waveforms["separated"].flatten().clamp(-1, 1) * 32767).short().numpy()
            parts[self.audio] = gr.update(value=(view.extractor.sampling_rate, waveform), visible=True)
        lines += [f"The model got no {name}." for name in missing(view)]
        if not lines:
            lines.append("The model has looked and listened.")
        heard = view.end - view.start
        if heard < 0.9 * seconds:
            lines.append(f"It takes in {heard:.2g} seconds at a time, here {view.start:.2f} to {view.end:.2f}.")
        # The figure without what stands above it already.
        figure = draw_clip(replace(view, probabilities=None, match_probability=None), narrow=True)
        figure.suptitle("")
        parts |= {self.picture: drawn(figure), self.details: gr.update(visible=True)}
        return parts | {self.line: " ".join(lines)}

    def answers_over_time(
        self, name: str, clip: str, start: float, end: float, streams: str, progress: gr.Progress
    ) -> dict:
        """A timeline, where the seconds are at least twice as many as the model takes in at once."""
        model, processor = self.models[name]
        first, last = processor.feature_extractor.heard_window(end - start)
        length = last - first
        count = min(int((end - start) / length), MOST_WINDOWS)
        if count < 2:
            return {}
        moments = []
        for begin in progress.tqdm(np.linspace(start, end - length, count).tolist(), desc="Going through the clip"):
            view = view_clip(model, processor, clip, begin, begin + length, STREAMS[streams])
            moments.append(moment(view, view.start, view.end))
        figure = draw_timeline("", view.labels, moments)
        figure.axes[0].set_title("")
        figure.set_size_inches(5, 4.5)
        return {self.timeline: drawn(figure), self.over_time: gr.update(visible=True)}


def drawn(figure: Any) -> np.ndarray:
    """A figure of matplotlib as uint8 `[H, W, 3]`, sharp on a phone."""
    figure.set_dpi(150)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def reason(error: Exception, clip: str) -> str:
    """An error for somebody who has never seen the program: one line, without folders and names of fields."""
    name, field = Path(clip).name, getattr(error, "field", None)
    if field in ("video", "audio") and "no such stream" in str(error):
        return f"{name} has no {field}. Choose another clip, or let the model get something else."
    line = (str(error) or type(error).__name__).splitlines()[0].replace(clip, name)
    return line.replace(f"{name}: {field}: ", f"{name}: ")


def percent(probability: float) -> str:
    """Nothing is certain, and nothing impossible."""
    if probability > 0.99:
        return "over 99%"
    if probability < 0.01:
        return "under 1%"
    return f"{probability:.0%}"


def missing(view: ClipView) -> list[str]:
    """What the model was not given."""
    given = {"video": view.frames, "audio": view.spectrograms}
    return [name for name, values in given.items() if values is None]


def serve(
    models: dict[str, tuple],
    examples: Sequence[str | Path] = (),
    limits: Limits | None = None,
    title: str = "What does the model see and hear?",
    **launch: Any,
) -> None:
    """Shows the page until the process is ended; then the files of its visitors are gone.

    Args:
        models, examples, limits, title: see `Page`.
        launch: options of Gradio's `launch`, such as `server_name`, `server_port` and `inbrowser`.
    """
    limits = limits or Limits()
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the folder below is deleted then, too
    with tempfile.TemporaryDirectory(prefix="maavt_page_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        blocks = Page(models, examples, limits, title).blocks
        blocks.queue(max_size=limits.queue, api_open=False)
        _, address, _ = blocks.launch(
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            css=STYLE,
            max_file_size=limits.megabytes * MEGABYTE,
            app_kwargs={
                "middleware": [Middleware(Guard, folder=folder, limits=limits)],
                "docs_url": None,
                "redoc_url": None,
            },
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            share=False,
            pwa=False,
            mcp_server=False,
            quiet=True,
            prevent_thread_lock=True,
            **launch,
        )
        print(f"Open {address} in a browser; Ctrl-C ends the page.", flush=True)
        try:
            blocks.block_thread()
        finally:
            blocks.close(verbose=False)  # nobody writes to the folder any more when it is deleted
