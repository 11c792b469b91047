"""The page that plays recordings, in a real Chromium against a real gateway."""

from __future__ import annotations

import json
import time
from struct import pack

from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from tests.functional.case import PYTEST_ONLY
from tests.functional.peers import wait_for
from tests.functional.test_real_browser import SCREENS, BrowserTestCase

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

WIDTH, HEIGHT = 64, 48
RED, BLUE = b"\xc8\0\0\0", b"\0\0\xc8\0"
NAME = b"Recorded <b>machine</b>"
#: The color of the pixel in the middle, as #rrggbb.
MIDDLE = """(() => {
  const canvas = document.querySelector("#screen canvas");
  if (!canvas?.width) return "";
  const at = [canvas.width / 2, canvas.height / 2, 1, 1];
  return [...canvas.getContext("2d").getImageData(...at).data.subarray(0, 3)].join();
})()"""


def block(milliseconds: int, data: bytes) -> bytes:
    """One block of a recording."""
    return pack(">I", len(data)) + data + bytes(-len(data) % 4) + pack(">I", milliseconds)


def update(color: bytes) -> bytes:
    """All of the screen in one color, as it is."""
    return pack(">BxHHHHHi", 0, 1, 0, 0, WIDTH, HEIGHT, 0) + color * (WIDTH * HEIGHT)


def recording(bells: int = 0) -> bytes:
    """Red, and in the end, after a long time in which nothing happens, blue: half a minute in all.

    :param bells: how many ring meanwhile, almost one a second, so that red lasts.
    """
    form = pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 0, 8, 16)
    init = pack(">HH", WIDTH, HEIGHT) + form + pack(">I", len(NAME)) + NAME
    blocks = [(0, b"RFB 003.008\n"), (0, b"\1\1" + bytes(4)), (0, init), (100, update(RED)[:777])]
    rung = [(900 * number, b"\2") for number in range(1, bells + 1)]
    blocks += [(120, update(RED)[777:]), *rung, (30_000, update(BLUE)), (30_500, b"\2")]
    return b"FBS 001.000\n" + b"".join(block(*it) for it in blocks)


class ReplayTests(BrowserTestCase):
    """``/ui/replay``."""

    def setUp(self) -> None:
        super().setUp()
        # The test reads pixels more often than Chromium likes.
        self.expected = ("Canvas2D: Multiple readback",)

    def play(self, name: str, content: bytes) -> None:
        """Open the page with a recording of this content."""
        self.gateway.grant(name, ["read"]).write_bytes(content)
        self.browser.open(self.gateway.page(name).replace("/ui/transfer", "/ui/replay"))

    def middle(self) -> str:
        color: str = self.browser.read(MIDDLE)
        return color

    def wait_for_middle(self, color: str) -> None:
        """Wait for a picture of this *color*: what was said to the viewer is drawn a moment later."""
        wait_for(lambda: self.middle() == color, color)

    def test_vnc(self) -> None:
        """A recording plays to its end, but for the time in which nothing happens, and from anywhere."""
        self.play("vnc", recording(6))
        self.wait_for_middle("200,0,0")
        begun = time.monotonic()
        self.browser.until("state", "At its end")
        self.assertLess(time.monotonic() - begun, 25)
        self.wait_for_middle("0,0,200")
        self.assertEqual(self.browser.text("clock"), "0:30 / 0:30")
        self.assertEqual(self.browser.text("name"), NAME.decode())
        self.assertNotIn("#vnc", self.browser.driver.current_url)
        self.browser.find("position").send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 5)
        self.wait_for_middle("200,0,0")
        self.browser.find("position").send_keys(Keys.END)
        self.wait_for_middle("0,0,200")

    def test_pace(self) -> None:
        """It can be paused, and played faster; what is idle is played when that is wanted."""
        self.play("pace", recording(15))
        self.browser.until("play", "Pause")
        self.browser.find("skip").click()
        self.browser.find("position").send_keys(Keys.HOME)
        Select(self.browser.find("speed")).select_by_value("4")
        wait_for(lambda: float(self.browser.read("document.getElementById('position').value")) > 4, "4 s")
        self.browser.find("play").click()
        self.browser.until("state", "Paused")
        before = self.browser.text("clock")
        time.sleep(0.5)
        self.assertEqual(self.browser.text("clock"), before)
        self.assertEqual(self.middle(), "200,0,0")
        Select(self.browser.find("speed")).select_by_value("16")
        self.browser.driver.execute_script("document.activeElement.blur()")
        self.browser.driver.switch_to.active_element.send_keys(" ")
        self.browser.until("state", "At its end")
        self.wait_for_middle("0,0,200")

    def test_cut_off(self) -> None:
        """What was cut off in the middle plays up to there."""
        self.play("cut", recording()[:-100])
        self.browser.until("state", "At its end")
        self.wait_for_middle("200,0,0")

    def test_serial(self) -> None:
        """A terminal shows what was said, line for line, also one that was cut off."""
        events = [[0.1, "o", "login: "], [0.2, "i", "secret"], [0.3, "o", "\x1b[1mroot\x1b[0m\r\n"]]
        lines = [{"version": 2, "width": 80, "height": 24}, *events, [20.0, "o", "grüße"]]
        content = "\n".join(map(json.dumps, lines)) + '\n[21.0, "o", "lo'
        self.play("serial", content.encode())
        self.browser.until("state", "At its end")
        rows = "document.querySelector('.xterm-rows').innerText"
        wait_for(lambda: "grüße" in self.browser.read(rows), "the last line")
        shown = self.browser.read(rows)
        for part in ("login:", "root", "grüße"):
            self.assertIn(part, shown)
        self.assertNotIn("secret", shown)
        self.assertEqual(self.browser.text("clock"), "0:20 / 0:20")

    def test_others(self) -> None:
        """What is no recording, and a ticket that is no good, is said in words."""
        self.expected += ("403",)
        for content in (b"", b"GIF89a", b"{}", b'{"version": 3}', b"{nothing"):
            self.play("other", content)
            self.browser.until("what", "This cannot be played")
        self.browser.open(self.gateway.page("unknown-ticket").replace("transfer", "replay"))
        self.browser.until("why", "Ask for a new link")

    def test_looks(self) -> None:
        """On a phone and on a desk, light and dark: all fits."""
        for number, (width, height) in enumerate((*SCREENS, *SCREENS)):
            dark = number >= len(SCREENS)
            name = f"replay-{width}x{height}-{'dark' if dark else 'light'}"
            self.browser.look(width, height, dark=dark)
            self.play(name, recording())
            self.browser.until("state", "At its end")
            self.assertLessEqual(self.browser.read("document.documentElement.scrollWidth"), width)
            pressed = "button, select, input[type=range]"
            heights = self.browser.read(
                f"[...document.querySelectorAll('{pressed}')].map((it) => it.offsetHeight)"
            )
            self.assertEqual([height for height in heights if height < 44], [])
            self.browser.screenshot(name)
