# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The page in a headless Chromium: a visitor's clicks, and what the browser asks the network for."""

import json
import shutil
import time

import pytest


webdriver = pytest.importorskip("selenium.webdriver", reason="a browser is driven by selenium: pip install selenium")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("no browser: apt-get install chromium chromium-driver", allow_module_level=True)

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402


pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("page")]
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
)
DESKTOP, PHONE = (1200, 900), (390, 844)


class Visitor:
    """A browser of its own that looks at the page."""

    def __init__(self, address: str, folder, size: tuple[int, int] = DESKTOP):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS.split(), f"--user-data-dir={folder}", f"--window-size={size[0]},{size[1]}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        self.browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        # the window of a headless Chromium is no narrower than 500 pixels
        screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.browser.get(address)
        self.wait(lambda: self.find("#clip input[type=file]"))

    def find(self, selector: str):
        found = self.browser.find_elements(By.CSS_SELECTOR, selector)
        return found[0] if found else None

    def wait(self, condition, seconds: float = 60):
        return WebDriverWait(self.browser, seconds, ignored_exceptions=[Exception]).until(lambda _: condition())

    def text(self) -> str:
        """The sentence above the result."""
        return self.find("#line").text

    def wait_for(self, words: str) -> str:
        """Waits for a sentence with these words, and returns it."""
        self.wait(lambda: words in self.text())
        return self.text()

    def choose(self, file) -> None:
        self.find("#clip input[type=file]").send_keys(str(file))

    def press(self) -> None:
        self.find("#update").click()

    def option(self, label: str) -> None:
        (choice,) = [each for each in self.browser.find_elements(By.TAG_NAME, "label") if each.text == label]
        choice.click()

    def addresses(self) -> set[str]:
        """Whatever the browser has asked for."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        return {each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"}


@pytest.fixture
def visit(page, tmp_path):
    """`visit(size)` opens the page in a new browser."""
    visitors = []

    def open_page(size=DESKTOP) -> Visitor:
        visitors.append(Visitor(page.address, tmp_path / f"profile{len(visitors)}", size))
        return visitors[-1]

    yield open_page
    for visitor in visitors:
        visitor.browser.quit()


def test_a_clip_is_uploaded_and_answered(visit, page, clips):
    visitor = visit()
    visitor.choose(clips / "clip.mp4")
    assert "belong together" in visitor.wait_for("The answer is")
    picture = visitor.wait(lambda: visitor.find("#picture img"))
    visitor.wait(lambda: picture.get_property("naturalWidth") > 300)
    video = visitor.find("#clip video")
    visitor.wait(lambda: visitor.browser.execute_script("return arguments[0].readyState", video) >= 2)  # it plays

    # Without the audio
    visitor.option("video only")
    visitor.press()
    assert "belong together" not in visitor.wait_for("got no audio")

    # Nothing came from elsewhere.
    others = [url for url in visitor.addresses() if not url.startswith((page.address, "data:", "blob:"))]
    assert [url for url in others if not url.startswith("chrome")] == []
    assert visitor.browser.execute_script("return document.fonts.size") == 0


def test_mistakes_are_sentences(visit, clips):
    visitor = visit()
    visitor.choose(clips / "broken.mp4")
    text = visitor.wait_for("did not work")
    assert "broken.mp4" in text and "\n" not in text
    assert visitor.find("#picture img") is None

    # The next clip is answered all the same.
    visitor.find("#clip button[aria-label='Clear']").click()
    visitor.wait(lambda: visitor.find("#clip input[type=file]"))
    visitor.choose(clips / "silent.mp4")
    assert "got no audio" in visitor.wait_for("The answer is")


def test_two_visitors_at_once(visit, clips):
    first, second = visit(), visit()
    first.choose(clips / "clip.mp4")
    second.choose(clips / "dark.mp4")
    assert "got no video" in second.wait_for("The answer is")
    assert "belong together" in first.wait_for("The answer is")


def test_an_example_and_another_model(visit):
    visitor = visit()
    visitor.wait(lambda: visitor.find(".gallery-item")).click()
    first = visitor.wait_for("The answer is")
    visitor.find("input[aria-label=Model]").click()
    visitor.wait(lambda: visitor.find("[role=option][aria-label=second]")).click()
    visitor.press()
    visitor.wait(lambda: "The answer is" in visitor.text() and visitor.text() != first)


def test_a_recorded_clip(visit):
    """Chromium's camera and microphone without a device: a moving disc and beeps."""
    visitor = visit()
    visitor.find("#clip [aria-label='Capture from camera']").click()
    for words, seconds in (("Access Webcam", 1), ("Record", 2), ("Stop", 0)):
        visitor.wait(lambda words=words: words in visitor.find("#clip button").text)
        visitor.find("#clip button").click()
        time.sleep(seconds)
    assert "belong together" in visitor.wait_for("The answer is")


def test_a_phone_shows_everything_without_scrolling_sideways(visit, clips):
    visitor = visit(PHONE)
    visitor.choose(clips / "clip.mp4")
    visitor.wait_for("The answer is")
    visitor.wait(lambda: visitor.find("#picture img"))
    width = visitor.browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= PHONE[0]
