# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A page with two tiny models, for all tests of it; without Gradio they are skipped."""

import sys

import pytest
from page_server import save_tiny, start_page, stop_page, write_clips


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips") / "clips")


@pytest.fixture(scope="session")
def page(tmp_path_factory, clips):
    """`maavt page` with two models, and one clip as example."""
    pytest.importorskip("gradio", reason="the page needs gradio: pip install '.[page]'")
    folder = tmp_path_factory.mktemp("page")
    models = [save_tiny(folder / "first"), save_tiny(folder / "second", seed=1)]
    command = [sys.executable, "-m", "app", *map(str, models), "--examples", str(clips / "clip.mp4")]
    command += ["--max_megabytes", "5"]
    running = start_page(command, folder)
    yield running
    stop_page(running)
    assert not list(running.temporary.glob("maavt_page_*"))  # nothing of a visitor is left
