"""The test case of the console page: a real Chromium in front of a real gateway."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from hashlib import sha256
from typing import ClassVar

from selenium.webdriver import ActionChains

from tests.functional.browser import Browser
from tests.functional.console_case import ConsoleCase
from tests.functional.hypervisor import Qemu, Screen
from tests.functional.processes import short_directory, wait_for

WHITE = [255, 255, 255]
SCREENS = ((390, 844), (1280, 800))
#: Width and height of what the page shows of the console, and the digest of its pixels, three bytes each.
SEEN = """
const canvas = document.querySelector("#screen canvas");
if (!canvas?.width) return [0, 0, ""];
const {width, height} = canvas;
const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
const rgb = new Uint8Array(width * height * 3);
for (let at = 0; at < width * height; at += 1) rgb.set(data.subarray(4 * at, 4 * at + 3), 3 * at);
const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", rgb));
return [width, height, [...digest].map((it) => it.toString(16).padStart(2, "0")).join("")];
"""
#: Red, green and blue of the pixel at the arguments.
PIXEL = """
const [x, y] = arguments;
const context = document.querySelector("#screen canvas").getContext("2d");
return [...context.getImageData(x, y, 1, 1).data].slice(0, 3);
"""
Seen = tuple[int, int, str]


def digest(screen: Screen) -> Seen:
    """What the page should show of *screen*."""
    return screen.width, screen.height, sha256(screen.rgb).hexdigest()


#: What all classes of a module share: one browser.
OPEN = ExitStack()


def close_browser() -> None:
    """For ``tearDownModule`` of every module with such tests."""
    OPEN.close()
    if hasattr(PageCase, "browser"):
        del PageCase.browser


class PageCase(ConsoleCase):
    """A browser, and a gateway with pages for it.

    :ivar expected: parts of what may stand in the browser's console.
    """

    sections: ClassVar = {"web": {"listen": "tcp:0:interface=127.0.0.1"}}
    browser: ClassVar[Browser]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        if not hasattr(PageCase, "browser"):
            directory = short_directory()
            OPEN.callback(shutil.rmtree, directory, ignore_errors=True)
            PageCase.browser = Browser(directory)
            OPEN.callback(PageCase.browser.stop)

    def setUp(self) -> None:
        super().setUp()
        self.expected: tuple[str, ...] = ()
        self.browser.look(*SCREENS[1])
        self.browser.complaints()
        self.addCleanup(self.browser.driver.get, "about:blank")

    def tearDown(self) -> None:
        # The test reads pixels more often than Chromium likes.
        expected = (*self.expected, "Canvas2D: Multiple readback")
        found = self.browser.complaints()
        self.assertEqual([text for text in found if not any(part in text for part in expected)], [])

    def show(self, ticket: str, page: str = "console") -> None:
        self.browser.open(f"https://localhost:{self.consoles}/ui/{page}#{ticket}")

    def seen(self) -> Seen:
        """What the page shows of the console."""
        width, height, pixels = self.browser.call(SEEN)
        return width, height, pixels

    def pixel(self, x: int, y: int) -> list[int]:
        color: list[int] = self.browser.driver.execute_script(PIXEL, x, y)
        return color

    def press(self, *keys: str) -> None:
        ActionChains(self.browser.driver).send_keys(*keys).perform()

    def firmware(self, qemu: Qemu) -> int:
        """Wait until the firmware offers its menu; return how much is lit, but for a cursor that blinks."""
        return qemu.wait_for_offer().lit

    def assert_same(self, qemu: Qemu) -> None:
        """The page shows what the machine shows, pixel for pixel."""
        wait_for(lambda: digest(qemu.wait_for_screen()) == self.seen(), "the same picture")
