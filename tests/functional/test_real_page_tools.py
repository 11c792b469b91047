"""What the console page does around a console, by mouse, by keyboard, and on a phone."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable
from typing import Any

from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.functional.case import PYTEST_ONLY
from tests.functional.page_case import SCREENS, WHITE, PageCase, close_browser
from tests.functional.processes import HOST, Peer, free_port, short_directory, wait_for

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)
tearDownModule = close_browser

#: Pixels between the stage and what stands on it, on each side.
INSIDE = """(() => {
  const [outer, inner] = ["stage", "screen"].map((id) => document.getElementById(id).getBoundingClientRect());
  const sides = [inner.left - outer.left, inner.top - outer.top];
  return [...sides, outer.right - inner.right, outer.bottom - inner.bottom];
})()"""


class Picture(Peer):
    """The demonstration of ``make run`` where there is no QEMU."""

    def __init__(self) -> None:
        super().__init__(short_directory())
        self.port = free_port()

    def start(self) -> None:
        def ready() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex((HOST, self.port)) == 0

        self.spawn([sys.executable, "-m", "gateway.ctl.demo_screen", str(self.port)], ready)

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self.directory)


class ToolTests(PageCase):
    """What the page does around a console."""

    def setUp(self) -> None:
        super().setUp()
        self.picture = Picture()
        self.picture.start()
        self.addCleanup(self.picture.stop)

    def open_picture(self, **more: Any) -> str:
        ticket = self.grant(f"vnc://{HOST}:{self.picture.port}", **more)
        self.show(ticket)
        self.browser.until("state", "Connected")
        wait_for(lambda: self.seen()[0] == 640 and self.pixel(0, 0) == WHITE, "a picture")
        return ticket

    def active(self) -> str:
        """The element that has the focus."""
        found: str = self.browser.read("document.activeElement.id || document.activeElement.tagName")
        return found

    def changes(self, act: Callable[[], object]) -> None:
        """What is done is seen in the picture."""
        before = self.seen()
        act()
        wait_for(lambda: self.seen() != before, "a change")

    def test_clipboard(self) -> None:
        """Text goes to the console's clipboard, or is typed; what the console has copied is shown."""
        self.open_picture()
        self.browser.find("clipboard-open").click()
        self.browser.find("text").send_keys("some text")
        self.browser.find("paste").click()
        wait_for(lambda: self.browser.find("text").get_attribute("value") == "SOME TEXT", "what was copied")
        self.changes(self.browser.find("type").click)
        self.browser.until("copied", "Typed.")

    def test_view_only_clipboard(self) -> None:
        """Who only looks can put nothing on the clipboard, and may read it."""
        self.open_picture(ops=["view"])
        self.browser.find("clipboard-open").click()
        for name in ("paste", "type"):
            self.assertFalse(self.browser.find(name).is_enabled())

    def test_keys(self) -> None:
        """Every button for keys sends some; those that are held are let go with their panel."""
        self.open_picture()
        self.changes(self.browser.find("ctrl-alt-del").click)
        self.browser.find("keys-open").click()
        buttons = self.browser.driver.find_elements(By.CSS_SELECTOR, "#keys button")
        names = [button.text for button in buttons]
        self.assertEqual(names, ["Ctrl", "Alt", "Win", "Esc", "Tab", *(f"F{it}" for it in range(1, 13))])
        for button in buttons:
            self.changes(button.click)
        pressed = "[...document.querySelectorAll('#keys [aria-pressed=true]')].length"
        self.assertEqual(self.browser.read(pressed), 3)
        self.browser.find("keys-open").click()
        self.assertEqual(self.browser.read(pressed), 0)
        self.assertFalse(self.browser.find("keys").is_displayed())

    def test_keyboard(self) -> None:
        """All is reached by keyboard: out of the console, along the buttons, and back."""
        self.open_picture()
        self.assertEqual(self.active(), "CANVAS")
        self.changes(lambda: self.press(Keys.TAB))
        self.assertEqual(self.active(), "CANVAS")
        leave = ActionChains(self.browser.driver).key_down(Keys.CONTROL).key_down(Keys.ALT)
        leave.send_keys(Keys.HOME).key_up(Keys.ALT).key_up(Keys.CONTROL).perform()
        found = [self.active()]
        for _ in range(5):
            self.press(Keys.TAB)
            found.append(self.active())
        wanted = ["ctrl-alt-del", "keys-open", "clipboard-open", "fit", "full", "reconnect"]
        self.assertEqual(found, wanted)
        self.browser.find("keys-open").send_keys(Keys.ENTER)
        self.assertTrue(self.browser.find("keys").is_displayed())
        self.browser.driver.find_element(By.CSS_SELECTOR, "#keys button").send_keys(Keys.ESCAPE)
        self.assertFalse(self.browser.find("keys").is_displayed())
        self.assertEqual(self.active(), "keys-open")
        self.press(Keys.ESCAPE)
        self.assertEqual(self.active(), "CANVAS")
        self.changes(lambda: self.press("x"))

    def test_size(self) -> None:
        """The picture fits its place, or has the size that it has; full screen fills all of it."""
        self.open_picture()
        width = "document.querySelector('#screen canvas').getBoundingClientRect().width"
        wait_for(lambda: self.browser.read(width) > 700, "it fits")
        self.browser.find("fit").click()
        wait_for(lambda: self.browser.read(width) == 640, "the size that it has")
        self.browser.find("fit").click()
        wait_for(lambda: self.browser.read(width) > 700, "it fits again")
        self.browser.find("full").click()
        wait_for(lambda: self.browser.read("document.fullscreenElement !== null"), "full screen")
        wait_for(
            lambda: self.browser.find("full").get_attribute("aria-pressed") == "true", "the page knows it"
        )
        self.browser.driver.execute_script("document.exitFullscreen()")

    def test_ring(self) -> None:
        """The mark of what has the focus is beside the picture, and hides nothing of it."""
        self.open_picture()
        for size in SCREENS:
            self.browser.look(*size)
            wait_for(lambda: self.browser.read(INSIDE) == [2, 2, 2, 2], "room for the mark")

    def test_time_left(self) -> None:
        """What is left is told in hours where it is hours, so that nobody takes it for a time of day."""
        self.open_picture(timeout=86400)
        self.assertEqual(self.browser.text("ends"), "ends in 23 h 59 min")

    def test_pointer(self) -> None:
        """The pointer draws where it is, in a picture that is scaled."""
        self.open_picture()
        canvas = self.browser.driver.find_element(By.CSS_SELECTOR, "#screen canvas")
        self.changes(lambda: ActionChains(self.browser.driver).click_and_hold(canvas).release().perform())
        wait_for(lambda: self.pixel(321, 201) == WHITE, "the point")

    def test_badges(self) -> None:
        """What a ticket is like is seen."""
        self.open_picture(shared=True)
        self.assertTrue(self.browser.find("shared").is_displayed())
        self.assertFalse(self.browser.find("view-only").is_displayed())
        self.assertFalse(self.browser.find("recorded").is_displayed())

    def test_two_tabs(self) -> None:
        """Another ticket in the address bar is opened at once, without a trace of the one before."""
        self.open_picture()
        other = self.grant(f"vnc://{HOST}:{self.picture.port}", ops=["view"])
        self.browser.driver.get(f"https://localhost:{self.consoles}/ui/console#{other}")
        wait_for(lambda: self.browser.find("view-only").is_displayed(), "the other ticket")
        self.browser.until("state", "Connected")
        self.assertNotIn(other, self.browser.driver.current_url)

    def test_looks(self) -> None:
        """On a phone and on a desk, light and dark: all fits, fingers hit, and a console works."""
        self.expected = ("403",)
        for number, (width, height) in enumerate((*SCREENS, *SCREENS)):
            dark = number >= len(SCREENS)
            name = f"{width}x{height}-{'dark' if dark else 'light'}"
            self.browser.look(width, height, dark=dark)
            ticket = self.open_picture(timeout=3000, shared=True)
            self.assert_fits(width)
            self.browser.screenshot(f"console-{name}")
            if width < 600:
                self.assertFalse(self.browser.find("tools").is_displayed())
                self.assertLess(self.browser.find("menu").rect["y"], 16)
                self.browser.find("menu").click()
                self.assert_fits(width)
                self.browser.screenshot(f"console-{name}-menu")
            for panel in ("keys", "clipboard"):
                self.browser.find(f"{panel}-open").click()
                self.assert_fits(width)
                self.browser.screenshot(f"console-{name}-{panel}")
            self.gateway.delete(ticket)
            self.browser.until("why", "revoked")
            self.assert_fits(width)
            self.browser.screenshot(f"console-{name}-ended")

    def assert_fits(self, width: int) -> None:
        """Nothing is cut off at the side, and what is pressed is large enough for a finger."""
        self.assertLessEqual(self.browser.read("document.documentElement.scrollWidth"), width)
        heights = self.browser.read("[...document.querySelectorAll('button')].map((it) => it.offsetHeight)")
        self.assertEqual([height for height in heights if 0 < height < 44], [])

    def test_phone(self) -> None:
        """On a phone the keyboard of the phone types, and erases."""
        touch = "Emulation.setTouchEmulationEnabled"
        self.browser.driver.execute_cdp_cmd(touch, {"enabled": True, "maxTouchPoints": 1})
        self.addCleanup(self.browser.driver.execute_cdp_cmd, touch, {"enabled": False})
        self.browser.look(*SCREENS[0])
        self.open_picture()
        self.browser.find("menu").click()
        self.browser.find("typing-open").click()
        self.assertEqual(self.active(), "typing")
        for text in ("a", Keys.BACKSPACE, Keys.ENTER):
            self.changes(lambda: self.press(text))  # noqa: B023 (done at once)
        self.assertEqual(self.active(), "typing")
