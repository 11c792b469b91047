"""noVNC in headless Chromium, through a running gateway, shows real QEMU."""

from __future__ import annotations

import shutil
from base64 import b64decode, urlsafe_b64encode
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from selenium.webdriver import ActionChains

from tests.functional.browser import Browser, other_origin
from tests.functional.case import PYTEST_ONLY
from tests.functional.console_case import ConsoleCase
from tests.functional.hypervisor import PASSWORD, Qemu, Screen
from tests.functional.novnc import write_page
from tests.functional.processes import HOST, short_directory, wait_for

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

#: The pixels of the console as the page has them, three bytes each, in base64.
_PIXELS = """
const {width, height, data} = window.rfb.getImageData();
const rgb = new Uint8Array(width * height * 3);
for (let at = 0; at < width * height; at += 1) {
  rgb.set(data.subarray(4 * at, 4 * at + 3), 3 * at);
}
let text = "";
for (let at = 0; at < rgb.length; at += 8192) {
  text += String.fromCharCode(...rgb.subarray(at, at + 8192));
}
return [width, height, btoa(text)];
"""


class NoVncTests(ConsoleCase):
    """A page of another origin, which is allowed."""

    more: ClassVar[dict[str, str]] = {"origins": "*"}
    browser: ClassVar[Browser]
    pages: ClassVar[Path]
    page_port: ClassVar[int]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        directory = short_directory()
        cls.addClassCleanup(shutil.rmtree, directory, ignore_errors=True)
        cls.pages = directory / "pages"
        cls.pages.mkdir()
        cls.page_port = cls.enterClassContext(other_origin(cls.pages))
        cls.browser = Browser(directory / "browser")
        cls.addClassCleanup(cls.browser.stop)

    def show(self, path: str, *protocols: str) -> None:
        """Open the console at *path* in a page."""
        url = f"wss://localhost:{self.consoles}{path}"
        write_page(self.pages, "console.html", url, ["binary", *protocols])
        self.browser.open(f"http://{HOST}:{self.page_port}/console.html")

    def seen(self) -> Screen:
        """What the page shows of the console."""
        width, height, data = self.browser.driver.execute_script(_PIXELS)
        return Screen(width, height, b64decode(data))

    def assert_same(self, qemu: Qemu) -> None:
        """The page shows what the machine shows, pixel for pixel."""
        wanted = qemu.wait_for_screen()
        wait_for(lambda: self.seen() == wanted, "the same picture")

    def test_console(self) -> None:
        """The guest is seen, what is typed arrives, and the page learns why its console ended."""
        qemu = self.machine().vnc(password=PASSWORD, tls=True, verify_peer=True)
        qemu.start()
        url = f"vnc+tls://{HOST}:{qemu.vnc_port}"
        ticket = self.grant(url, secret=PASSWORD)
        item = urlsafe_b64encode(ticket.encode()).decode().rstrip("=")
        self.show("/console/", f"ticket.{item}")
        self.browser.until("state", "connected")
        self.assert_same(qemu)
        self.browser.screenshot("novnc")
        before = qemu.screen()
        self.browser.driver.execute_script("window.rfb.focus()")
        ActionChains(self.browser.driver).send_keys("a").perform()
        wait_for(lambda: qemu.screen() != before, "what was typed")
        self.assert_same(qemu)
        self.gateway.delete(ticket)
        self.browser.until("state", "4403 Your access to this console was revoked")
        self.show(f"/console/{self.grant(url, secret=PASSWORD)}")
        self.browser.until("state", "connected")
        qemu.vanish()
        self.browser.until("state", "1000 The console has ended")

    def test_engine(self) -> None:
        """An engine's ticket as the whole path."""
        qemu = self.machine().vnc()
        qemu.start()
        token = self.sign({"host": HOST, "port": str(qemu.vnc_port), "ssl_target": False})
        self.show("/" + quote(token, safe=""))
        self.browser.until("state", "connected")
        self.assert_same(qemu)

    def test_view_only(self) -> None:
        """Who may only look sees the guest; the user is asked for a password that nobody told us."""
        qemu = self.machine().vnc(password=PASSWORD)
        qemu.start()
        self.show(f"/console/{self.grant(f'vnc://{HOST}:{qemu.vnc_port}', ops=['view'])}")
        self.browser.until("state", "asked")
        self.browser.driver.execute_script(f"window.rfb.sendCredentials({{password: '{PASSWORD}'}})")
        self.browser.until("state", "connected")
        self.assert_same(qemu)
        before = qemu.screen()
        self.browser.driver.execute_script("window.rfb.focus()")
        ActionChains(self.browser.driver).send_keys("a").perform()
        self.assert_same(qemu)
        self.assertEqual(qemu.screen(), before)
