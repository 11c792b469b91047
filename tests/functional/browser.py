"""Headless Chromium for the functional tests, a gateway with pages, and a web server of another origin."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.functional.commands import need
from tests.functional.peers import HOST, MIB, Gateway, Sections, free_port, wait_for

logging.getLogger("selenium").setLevel(logging.WARNING)

#: Where the screenshots go that somebody has to look at.
SCREENSHOTS = Path(__file__).parents[2] / "var" / "screenshots"
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--ignore-certificate-errors",
)
_HOLD = """
const wait = arguments[0];
window.held = [];
window.usual = window.setTimeout;
// The number is nobody's, so that nothing else ends with it.
window.setTimeout = (go, time) => time === wait ? 1e9 + held.push(go) : usual(go, time);
"""
_LET_GO = "return held.length && (window.setTimeout = usual, held.splice(0).map((go) => go()).length)"


class WebGateway(Gateway):
    """A gateway whose image port serves the pages as well."""

    def __init__(self, directory: Path, sections: Sections | None = None) -> None:
        super().__init__(directory, sections)
        with self.config_file.open("a") as config:
            config.write(f"[web]\nlisten = tcp:{self.port}:interface={HOST}\n")

    def grant(self, name: str, ops: Sequence[str] = ("read", "write"), **fields: Any) -> Path:
        """Install a ticket for an image of the same *name*; return the image, empty unless it was there."""
        image = self.directory / "images" / name
        image.touch()
        ticket = {"uuid": name, "size": 1 << 40, "url": image.as_uri(), "timeout": 600, "ops": list(ops)}
        self.put({**ticket, "transfer_id": f"transfer-{name}", **fields})
        return image

    def page(self, ticket_id: str) -> str:
        """The address of the transfer page with a ticket."""
        return f"https://localhost:{self.port}/ui/transfer#{ticket_id}"


class Browser:
    """One Chromium with a profile and a download directory of its own."""

    def __init__(self, directory: Path) -> None:
        chromium = need("chromium", "apt install chromium")
        driver = need("chromedriver", "apt install chromium-driver")
        self.downloads = directory / "downloads"
        self.downloads.mkdir(parents=True)
        options = ChromeOptions()
        options.binary_location = chromium
        for argument in (*_ARGUMENTS, f"--user-data-dir={directory / 'profile'}"):
            options.add_argument(argument)
        preferences = {"download.default_directory": str(self.downloads), "safebrowsing.enabled": False}
        options.add_experimental_option("prefs", preferences)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        # Left to itself, it takes a port that somebody else may have by the time it listens there.
        self.driver = Chrome(options, Service(driver, port=free_port()))
        self.driver.set_script_timeout(90)

    def stop(self) -> None:
        self.driver.quit()

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Be a screen of this size and color scheme."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def open(self, address: str) -> None:
        """Load *address* anew, even where only its fragment differs."""
        self.driver.get("about:blank")
        self.driver.get(address)

    def find(self, element_id: str) -> WebElement:
        return self.driver.find_element(By.ID, element_id)

    def text(self, element_id: str) -> str:
        """What people see in an element; nothing when it is hidden."""
        return self.find(element_id).text

    def read(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        return self.driver.execute_script(f"return {expression}")

    def call(self, code: str, *arguments: object) -> Any:
        """What the body *code* of an asynchronous JavaScript function returns, given *arguments*."""
        wrapped = (
            "const done = arguments[arguments.length - 1];"
            "const run = async (...args) => {" + code + "};"
            "run(...arguments).then(done, (error) => done(`failed: ${error}`))"
        )
        return self.driver.execute_async_script(wrapped, *arguments)

    def hold(self, milliseconds: int) -> None:
        """Have this page do what it wants to do after so many *milliseconds* only when it is told to."""
        self.driver.execute_script(_HOLD, milliseconds)

    def let_go(self) -> None:
        """Wait until there is something that the page was held from, and have it done."""
        wait_for(lambda: self.driver.execute_script(_LET_GO), "something is held")

    def until(self, element_id: str, text: str, deadline: float = 40.0) -> str:
        """Wait until *text* is seen in an element; return all that it says."""
        said = ""

        def seen() -> bool:
            # It may say something else a moment later.
            nonlocal said
            said = self.text(element_id)
            return text in said

        try:
            wait_for(seen, f"{text!r} in #{element_id}", deadline)
        except AssertionError as error:
            page = self.driver.find_element(By.TAG_NAME, "body").text
            raise AssertionError(f"{error}\nthe page says:\n{page}\n{self.complaints()}") from None
        return said

    def saved(self) -> Path:
        """Wait until one download is complete; return it."""

        def complete() -> list[Path]:
            # While it lasts, its name begins with a dot or ends with .crdownload.
            found = list(self.downloads.iterdir())
            busy = [path for path in found if path.name.startswith(".") or path.suffix == ".crdownload"]
            return [] if busy else found

        wait_for(complete, "a download is complete")
        [saved] = complete()
        return saved

    def complaints(self) -> list[str]:
        """What stands in the console since the last call: errors, warnings, violated policies."""
        entries: list[dict[str, Any]] = self.driver.get_log("browser")
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def screenshot(self, name: str) -> None:
        """Save what is seen, for somebody to look at."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(SCREENSHOTS / f"{name}.png"))

    def follow(self, address: str) -> None:
        """Go to *address*, which may be a download instead of a page."""
        try:
            self.driver.get(address)
        except WebDriverException as error:
            if "net::ERR_ABORTED" not in str(error):
                raise


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name of the original)
        pass


@contextmanager
def other_origin(directory: Path) -> Iterator[int]:
    """Serve *directory* on a loopback port of its own, which is yielded."""
    server = ThreadingHTTPServer((HOST, 0), partial(_Quiet, directory=str(directory)))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def image_checksum(content: bytes, block_size: int = 4 * MIB) -> str:
    """The checksum of an image as the image daemon defines it: over the digests of its blocks."""
    digest = partial(hashlib.blake2b, digest_size=32)
    blocks = (content[at : at + block_size] for at in range(0, len(content), block_size))
    return digest(b"".join(digest(block).digest() for block in blocks)).hexdigest()
