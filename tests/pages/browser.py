"""Headless Chromium without a network, and what went wrong as it showed a page."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.common.exceptions import JavascriptException

SECONDS = 60  # for a page to settle; the machine may stand still for half of them
NETWORK = ("http", "https", "ws", "wss")
FLAGS = (
    "--headless",
    "--no-sandbox",  # containers run tests as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1280,900",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_BLANK = """
const blank = canvas => {
  if (!canvas.width || !canvas.height) return true;
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const colours = new Set(new Uint32Array(data.data.buffer));
  return colours.size < 3;  // the ground, a frame, and a line
};
const shown = [...document.querySelectorAll("canvas.flot-base")].filter(
  canvas => canvas.offsetParent);
return {shown: shown.length, blank: shown.filter(blank).map(
  canvas => canvas.parentElement.id || canvas.parentElement.className)};
"""
_HEIGHT = "return document.documentElement.scrollHeight"
_BUSY = "return document.readyState != 'complete' || !!(window.jQuery && jQuery.active)"


def found() -> tuple[str, str] | None:
    """Return the programs Chromium and chromedriver, or None where one is missing."""
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next((p for name in names if (p := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    return (chromium, driver) if chromium and driver else None


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Leave the test's output alone."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine alone; give its address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Browser:
    """One window, and every request, console message and picture of it.

    Parameters
    ----------
    profile : Path
        An empty folder for what the browser keeps.
    """

    def __init__(self, profile: Path) -> None:
        programs = found()
        assert programs is not None, "neither Chromium nor chromedriver on the PATH"
        options = webdriver.ChromeOptions()
        options.binary_location, driver = programs
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability(
            "goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"}
        )
        service = webdriver.ChromeService(executable_path=driver)
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.set_page_load_timeout(2 * SECONDS)
        self.driver.get("about:blank")  # the browser's own first page may complain
        self.driver.get_log("browser"), self.driver.get_log("performance")

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()

    def prefer(self, scheme: str) -> None:
        """Ask pages for their light or dark colours."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": features}
        )

    def show(self, address: str) -> list[str]:
        """Load a page afresh, wait until it rests, and return what went wrong."""
        self.driver.get("about:blank")  # else only the part behind # would change
        self.driver.get(address)
        self.settle()
        return self.complaints(address)

    def settle(self) -> None:
        """Wait until nothing is on its way, twice in a row."""
        end, quiet = time.monotonic() + SECONDS, 0
        while quiet < 3 and time.monotonic() < end:
            time.sleep(0.1)
            with contextlib.suppress(JavascriptException):
                quiet = 0 if self.driver.execute_script(_BUSY) else quiet + 1

    def complaints(self, address: str) -> list[str]:
        """Return failed requests, requests to others, and errors, since last asked."""
        own = urlsplit(address).netloc
        wrong = [
            f"console: {entry['message']}"
            for entry in self.driver.get_log("browser")
            if entry["level"] == "SEVERE"
        ]
        for entry in self.driver.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            wrong += _complaint(event["method"], event["params"], own)
        return wrong

    def canvases(self) -> tuple[int, list[str]]:
        """Return how many charts of flot are shown, and which of them are blank."""
        answer = self.driver.execute_script(_BLANK)
        return answer["shown"], answer["blank"]

    def images(self) -> list[tuple[int, int]]:
        """Return the natural width and height of each image, 0 where it is broken."""
        found = self.driver.execute_script(
            "return [...document.images].map(i => [i.naturalWidth, i.naturalHeight])"
        )
        return [(width, height) for width, height in found]

    def text(self) -> str:
        """Return what a reader of the page reads."""
        return str(self.driver.execute_script("return document.body.innerText"))

    def scroll_through(self) -> None:
        """Bring every part of the page into view, from the top down."""
        height = self.driver.execute_script(_HEIGHT)
        for top in range(0, height, 400):
            self.driver.execute_script(f"window.scrollTo(0, {top})")
        self.settle()

    def target(self) -> str:
        """Return the text of what the address's # names, empty where it is hidden."""
        return str(
            self.driver.execute_script(
                "const at = document.querySelector(':target');"
                "return at && at.checkVisibility() ? at.innerText : ''"
            )
        )

    def links(self, selector: str) -> list[str]:
        """Return where some of the links lead."""
        return list(
            self.driver.execute_script(
                "return [...document.querySelectorAll(arguments[0])].map(a => a.href)",
                selector,
            )
        )

    def save(self, into: Path, whole: bool = False) -> None:
        """Save a picture of the window, or of the whole page."""
        if not whole:
            self.driver.save_screenshot(str(into))
            return
        height = self.driver.execute_script(_HEIGHT)
        self.driver.execute_script("window.scrollTo(0, 0)")
        self.driver.set_window_size(1280, min(height + 200, 6000))
        self.driver.save_screenshot(str(into))
        self.driver.set_window_size(1280, 900)


def _complaint(method: str, params: dict[str, Any], own: str) -> list[str]:
    if method == "Network.requestWillBeSent":
        asked = urlsplit(params["request"]["url"])
        inside = asked.netloc == own or asked.scheme not in NETWORK
        return [] if inside else [f"request to another host: {asked.geturl()}"]
    if method == "Network.responseReceived":
        answer = params["response"]
        bad = answer["status"] >= 400
        return [f"status {answer['status']}: {answer['url']}"] if bad else []
    if method == "Network.loadingFailed" and not params.get("canceled"):
        return [f"failed request: {params['errorText']}"]
    return []
