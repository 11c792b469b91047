"""The console page in a real Chromium, against a real gateway and real QEMU."""

from __future__ import annotations

import shutil
import socket
import sys
import time
from base64 import b64decode
from collections.abc import Callable
from typing import Any, ClassVar

from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.functional.browser import Browser
from tests.functional.case import PYTEST_ONLY
from tests.functional.console_case import ConsoleCase
from tests.functional.hypervisor import PASSWORD, Qemu, Screen
from tests.functional.processes import HOST, Peer, free_port, short_directory, wait_for

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

SCREENS = ((390, 844), (1280, 800))
#: The pixels of the console as the page has them, three bytes each, in base64.
PIXELS = """
const canvas = document.querySelector("#screen canvas");
if (!canvas || !canvas.width) return [0, 0, ""];
const {width, height} = canvas;
const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
const rgb = new Uint8Array(width * height * 3);
for (let at = 0; at < width * height; at += 1) rgb.set(data.subarray(4 * at, 4 * at + 3), 3 * at);
let text = "";
for (let at = 0; at < rgb.length; at += 8192) text += String.fromCharCode(...rgb.subarray(at, at + 8192));
return [width, height, btoa(text)];
"""


def lit(screen: Screen) -> int:
    """How many bytes of a screen are not black."""
    return len(screen.rgb) - screen.rgb.count(0)


class PageCase(ConsoleCase):
    """A browser, and a gateway with pages for it.

    :ivar expected: parts of what may stand in the browser's console.
    """

    sections: ClassVar = {"web": {"listen": "tcp:0:interface=127.0.0.1"}}
    browser: ClassVar[Browser]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        directory = short_directory()
        cls.addClassCleanup(shutil.rmtree, directory, ignore_errors=True)
        cls.browser = Browser(directory)
        cls.addClassCleanup(cls.browser.stop)

    def setUp(self) -> None:
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

    def seen(self) -> Screen:
        """What the page shows of the console."""
        width, height, data = self.browser.driver.execute_script(PIXELS)
        return Screen(width, height, b64decode(data))

    def press(self, *keys: str) -> None:
        ActionChains(self.browser.driver).send_keys(*keys).perform()

    def firmware(self, qemu: Qemu) -> int:
        """Wait until the firmware offers its menu; return how much is lit, but for a cursor that blinks."""
        wait_for(lambda: lit(qemu.screen()) > 2000, "the firmware")
        time.sleep(0.3)
        return lit(qemu.screen())

    def assert_same(self, qemu: Qemu) -> None:
        """The page shows what the machine shows, pixel for pixel."""
        wanted = qemu.wait_for_screen()
        wait_for(lambda: self.seen() == wanted, "the same picture")


class VncTests(PageCase):
    """VNC, by noVNC."""

    def open_vnc(self, **more: Any) -> tuple[Qemu, str]:
        """A console in the page: the machine, and the ticket."""
        qemu = self.machine().vnc()
        qemu.start()
        ticket = self.grant(f"vnc://{HOST}:{qemu.vnc_port}", **more)
        self.show(ticket)
        self.browser.until("state", "Connected")
        return qemu, ticket

    def test_console(self) -> None:
        """The guest is seen pixel for pixel, and what is typed arrives; no address shows the ticket."""
        qemu = self.machine().vnc(password=PASSWORD, tls=True, verify_peer=True)
        qemu.start()
        ticket = self.grant(f"vnc+tls://{HOST}:{qemu.vnc_port}", secret=PASSWORD)
        self.show(ticket)
        self.browser.until("state", "Connected")
        self.assert_same(qemu)
        self.assertNotIn(ticket, self.browser.driver.current_url)
        before = qemu.screen()
        self.press("a")
        wait_for(lambda: qemu.screen() != before, "what was typed")
        self.assert_same(qemu)
        self.browser.driver.refresh()
        self.browser.until("state", "Connected")
        self.assert_same(qemu)
        self.assertNotIn(ticket, self.gateway.log())

    def test_boot_menu(self) -> None:
        """Escape opens the firmware's menu: by the keyboard, and by the button for it."""
        for by_button in (False, True):
            qemu = self.machine().vnc()
            qemu.start("-boot", "menu=on,splash-time=60000", boot=False)
            self.show(self.grant(f"vnc://{HOST}:{qemu.vnc_port}"))
            self.browser.until("state", "Connected")
            before = self.firmware(qemu)
            if by_button:
                self.browser.find("keys-open").click()
                self.browser.driver.find_element(By.XPATH, "//*[@id='keys']/button[text()='Esc']").click()
            else:
                self.press(Keys.ESCAPE)
            wait_for(lambda qemu=qemu, before=before: lit(qemu.screen()) > before + 500, "the menu")  # type: ignore[misc]
            wait_for(lambda qemu=qemu: self.seen() == qemu.screen(), "the same picture")  # type: ignore[misc]
            self.browser.screenshot(f"console-boot-menu-{by_button}")
            qemu.stop()

    def test_view_only(self) -> None:
        """Who may only look is told so, and types nothing, by keyboard or by button."""
        qemu, _ = self.open_vnc(ops=["view"])
        self.assertEqual(self.browser.text("view-only"), "view only")
        self.assert_same(qemu)
        before = qemu.screen()
        for name in ("ctrl-alt-del", "keys-open"):
            self.assertFalse(self.browser.find(name).is_enabled(), name)
        self.press("a")
        self.assert_same(qemu)
        self.assertEqual(qemu.screen(), before)

    def test_password(self) -> None:
        """Where nobody told us the password, the user is asked for it, and told when it was wrong."""
        self.expected = ("Security negotiation failed", "Security handshake failed")
        qemu = self.machine().vnc(password=PASSWORD)
        qemu.start()
        self.show(self.grant(f"vnc://{HOST}:{qemu.vnc_port}"))
        self.browser.until("what", "asks for a password")
        self.press("wrong", Keys.ENTER)
        self.browser.until("why", "uthentication failed")
        self.browser.find("again").click()
        self.browser.until("what", "asks for a password")
        self.press(PASSWORD, Keys.ENTER)
        self.browser.until("state", "Connected")
        self.assert_same(qemu)

    def test_engine(self) -> None:
        """An engine's one-time ticket works like any other, and is used once."""
        qemu = self.machine().vnc()
        qemu.start()
        self.show(self.sign({"host": HOST, "port": str(qemu.vnc_port), "ssl_target": False}))
        self.browser.until("state", "Connected")
        self.assert_same(qemu)
        self.assertFalse(self.browser.find("ends").is_displayed())

    def test_ends(self) -> None:
        """A machine that is gone, a ticket that is revoked: the page says why, and connects again."""
        self.expected = ("403",)
        qemu, ticket = self.open_vnc()
        self.assert_same(qemu)
        port = qemu.vnc_port
        qemu.vanish()
        self.browser.until("why", "The console has ended.")
        self.assertEqual(self.browser.text("state"), "Ended")
        self.press(Keys.ENTER)
        self.browser.until("why", "out of reach")
        again = self.machine()
        again._options, again.vnc_port = ["-vnc", f"{HOST}:{port - 5900}"], port
        again.start()
        self.press(Keys.ENTER)
        self.browser.until("state", "Connected")
        self.assert_same(again)
        self.gateway.delete(ticket)
        said = self.browser.until("why", "Your access to this console was revoked")
        self.assertIn("Ask for a new link", said)
        time.sleep(1.5)
        self.assertEqual(self.browser.text("state"), "Ended")
        self.browser.find("again").click()
        self.browser.until("why", "No such ticket")

    def test_renewed(self) -> None:
        """What is left of the ticket is counted down; a renewal moves it, and its end is the console's."""
        _, ticket = self.open_vnc(timeout=9)
        self.assertRegex(self.browser.text("ends"), "ends in 0:0[0-9]")
        self.gateway.control("PATCH", f"/tickets/{ticket}", {"timeout": 300})
        self.browser.until("ends", "ends in 4:5", 8.0)
        self.assertEqual(self.browser.text("state"), "Connected")
        self.gateway.control("PATCH", f"/tickets/{ticket}", {"timeout": 1})
        self.browser.until("why", "has expired")

    def test_lost(self) -> None:
        """Where the gateway is lost, the page tries again by itself, and counts the seconds until then."""
        self.expected = ("ERR_CONNECTION", "WebSocket connection", "502", "503", "Failed when connecting")
        qemu = self.machine().vnc()
        qemu.start()
        ticket = self.grant(f"vnc://{HOST}:{qemu.vnc_port}")
        self.show(ticket)
        self.browser.until("state", "Connected")
        self.gateway.kill()
        try:
            self.browser.until("why", "Trying again in")
        finally:
            self.gateway.start()
        self.gateway.put({**self.granted(qemu), "uuid": ticket})
        self.browser.until("state", "Connected")
        self.assert_same(qemu)

    def granted(self, qemu: Qemu) -> dict[str, Any]:
        url = f"vnc://{HOST}:{qemu.vnc_port}"
        return {"kind": "console", "url": url, "timeout": 300, "ops": ["view", "control"]}

    def test_no_ticket(self) -> None:
        """Without a ticket, and with one that nobody knows, the page says so and asks for nothing."""
        self.expected = ("403",)
        self.browser.driver.get("about:blank")
        self.show("")
        self.browser.driver.execute_script("sessionStorage.clear()")
        self.show("")
        self.browser.until("what", "No ticket")
        self.show("nobody-knows-this-ticket")
        self.browser.until("why", "No such ticket")
        self.show("%E0%A4%A")
        self.browser.until("what", "No ticket")


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
        wait_for(lambda: self.seen().width == 640 and any(self.seen().rgb), "a picture")
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
        self.assertEqual(self.browser.text("copied"), "Typed.")

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
        self.assertGreater(self.browser.read(width), 700)
        self.browser.find("fit").click()
        self.assertEqual(self.browser.read(width), 640)
        self.browser.find("fit").click()
        self.assertGreater(self.browser.read(width), 700)
        self.browser.find("full").click()
        wait_for(lambda: self.browser.read("document.fullscreenElement !== null"), "full screen")
        self.assertEqual(self.browser.find("full").get_attribute("aria-pressed"), "true")
        self.browser.driver.execute_script("document.exitFullscreen()")

    def test_pointer(self) -> None:
        """The pointer draws where it is, in a picture that is scaled."""
        self.open_picture()
        canvas = self.browser.driver.find_element(By.CSS_SELECTOR, "#screen canvas")
        self.changes(lambda: ActionChains(self.browser.driver).click_and_hold(canvas).release().perform())
        at = ((200 * 640) + 320) * 3
        self.assertEqual(self.seen().rgb[at : at + 3], b"\xff\xff\xff")

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
            self.changes(lambda text=text: self.press(text))  # type: ignore[misc]
        self.assertEqual(self.active(), "typing")


class SpiceTests(PageCase):
    """SPICE, by spice-html5."""

    def open_spice(self, qemu: Qemu, **more: Any) -> str:
        """A console in the page; return the ticket."""
        ticket = self.grant(f"spice://{HOST}:{qemu.spice_port}", **more)
        self.show(ticket)
        return ticket

    def test_console(self) -> None:
        """The guest is seen as it is, with its password known to the gateway; what is typed arrives."""
        qemu = self.machine().spice(password=PASSWORD)
        qemu.start()
        ticket = self.open_spice(qemu, secret=PASSWORD, uses=1)
        self.browser.until("state", "Connected")
        self.assert_same(qemu)
        before = qemu.screen()
        self.press("b")
        wait_for(lambda: qemu.screen() != before, "what was typed")
        self.assert_same(qemu)
        before = qemu.screen()
        self.browser.find("clipboard-open").click()
        self.browser.find("text").send_keys("Typed: 1+1=2")
        self.browser.find("type").click()
        wait_for(lambda: qemu.screen() != before, "what was typed")
        self.assert_same(qemu)
        self.browser.screenshot("console-spice")
        self.gateway.delete(ticket)
        self.browser.until("why", "Your access to this console was revoked")

    def test_boot_menu(self) -> None:
        """Escape opens the firmware's menu."""
        qemu = self.machine().spice()
        qemu.start("-boot", "menu=on,splash-time=60000", boot=False)
        self.open_spice(qemu)
        self.browser.until("state", "Connected")
        before = self.firmware(qemu)
        self.press(Keys.ESCAPE)
        wait_for(lambda: lit(qemu.screen()) > before + 500, "the menu")
        wait_for(lambda: self.seen() == qemu.screen(), "the same picture")

    def test_password(self) -> None:
        """Where nobody told us the password, the user is asked for it, and again when it was wrong."""
        qemu = self.machine().spice(password=PASSWORD)
        qemu.start()
        self.open_spice(qemu)
        for password in ("wrong", PASSWORD):
            self.browser.until("what", "asks for a password")
            self.press(password, Keys.ENTER)
        self.browser.until("state", "Connected")
        self.assert_same(qemu)

    def test_ends(self) -> None:
        """The machine is gone: the page says so, and connects again when asked."""
        qemu = self.machine().spice()
        qemu.start()
        port = qemu.spice_port
        self.open_spice(qemu)
        self.browser.until("state", "Connected")
        qemu.vanish()
        self.browser.until("why", "The console has ended.")
        again = self.machine()
        again._options = ["-vga", "qxl", "-spice", f"addr={HOST},port={port},disable-ticketing=on"]
        again.start()
        self.press(Keys.ENTER)
        self.browser.until("state", "Connected")
        self.assert_same(again)

    def test_view_only(self) -> None:
        """Who may only look sees the guest, and types nothing."""
        self.expected = ("403",)
        qemu = self.machine().spice()
        qemu.start()
        self.open_spice(qemu, ops=["view"])
        self.browser.until("state", "Connected")
        self.assertEqual(self.browser.text("view-only"), "view only")
        self.assert_same(qemu)
        before = qemu.screen()
        self.press("a")
        self.assert_same(qemu)
        self.assertEqual(qemu.screen(), before)


class SerialTests(PageCase):
    """A serial line, by xterm.js."""

    def text(self) -> str:
        """What the terminal shows."""
        text: str = self.browser.read("document.querySelector('.xterm-rows')?.innerText ?? ''")
        return text.replace("\xa0", " ")

    def test_console(self) -> None:
        """What is typed comes back from the guest, by keyboard and by button; colors are colors."""
        qemu = self.machine().serial_tcp()
        qemu.start()
        self.show(self.grant(f"serial://{HOST}:{qemu.serial}"))
        self.browser.until("state", "Connected")
        # What the guest has said before nobody heard.
        self.press("hello, guest")
        wait_for(lambda: "hello, guest" in self.text(), "the echo")
        self.press("\033[38;2;1;200;3mgreen\033[0m")
        wait_for(lambda: "green" in self.text(), "the echo in color")
        spans = "[...document.querySelectorAll('.xterm-rows span')]"
        shown = self.browser.read(f"getComputedStyle({spans}.find((it) => it.innerText === 'green')).color")
        self.assertEqual(shown, "rgb(1, 200, 3)")
        self.browser.find("clipboard-open").click()
        self.browser.find("text").send_keys("pasted")
        self.browser.find("type").click()
        wait_for(lambda: "pasted" in self.text(), "the echo of what was pasted")
        self.browser.screenshot("console-serial")
        qemu.vanish()
        self.browser.until("why", "The console has ended.")
