"""The console page in a real Chromium, against a real gateway and real QEMU."""

from __future__ import annotations

import shutil
import time
from base64 import b64decode
from typing import Any, ClassVar

from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.functional.browser import Browser
from tests.functional.case import PYTEST_ONLY
from tests.functional.console_case import ConsoleCase
from tests.functional.hypervisor import PASSWORD, Qemu, Screen
from tests.functional.processes import HOST, short_directory, wait_for

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
