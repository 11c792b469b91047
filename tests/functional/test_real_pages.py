"""Consoles of every kind on their page, in a real Chromium, of real QEMU through a real gateway."""

from __future__ import annotations

import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.functional.case import PYTEST_ONLY
from tests.functional.hypervisor import PASSWORD, Qemu
from tests.functional.page_case import PageCase, close_browser, digest
from tests.functional.processes import HOST, wait_for

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)
tearDownModule = close_browser

#: Milliseconds between two looks at the time, of a page that waits before it tries again.
STEP = 200
#: The lengths of what spice-html5 makes of a password, time and again, with the modulus that is the argument.
LENGTHS = """
await import("/ui/spice.js");
const {rsa_encrypt} = await import("/ui/spice/src/ticket.js");
const {RSAKey} = await import("/ui/spice/src/thirdparty/rsa.js");
const key = new RSAKey();
key.setPublic(arguments[0], "10001");
const found = new Set();
for (let time = 0; time < 2000; time += 1) found.add(rsa_encrypt(key, "x").length);
return [...found];
"""


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

    def test_encrypted(self) -> None:
        """VeNCrypt without a password is between the gateway and the machine: the page sees the guest."""
        qemu = self.machine().vnc(tls=True)
        qemu.start()
        self.show(self.grant(f"vnc+tls://{HOST}:{qemu.vnc_port}"))
        self.browser.until("state", "Connected")
        self.assert_same(qemu)

    def test_left(self) -> None:
        """Who goes to another page has no console any more, though the browser may keep the page."""
        qemu, _ = self.open_vnc()
        self.browser.open(f"https://localhost:{self.consoles}/ui/")
        wait_for(lambda: not qemu.vnc_clients(), "the end of the console")

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
            wait_for(lambda: qemu.screen().lit > before + 500, "the menu")  # noqa: B023 (asked at once)
            wait_for(lambda: self.seen() == digest(qemu.screen()), "the same picture")  # noqa: B023 (asked at once)
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
        said = self.browser.until("why", "uthentication failed")
        self.assertEqual(said, "The console did not let us in: Authentication failed.")
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
        said = self.browser.until("why", "No such ticket")
        self.assertEqual(said, "No such ticket, or it has expired. Ask for a new link.")
        # It would be of no use.
        self.assertNotIn("main", self.browser.find("again").get_attribute("class"))

    def test_renewed(self) -> None:
        """What is left of the ticket is counted down; a renewal moves it, and its end is the console's."""
        _, ticket = self.open_vnc(timeout=30)
        self.assertRegex(self.browser.text("ends"), "ends in 0:[0-3][0-9]")
        self.gateway.control("PATCH", f"/tickets/{ticket}", {"timeout": 300})
        self.browser.until("ends", "ends in 4:")
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
        # Before the ticket is there again it would be told that there is none, and believe it.
        self.browser.hold(STEP)
        self.gateway.kill()
        try:
            self.browser.until("when", "Trying again in")
            self.assertIn("was lost", self.browser.text("why"))
        finally:
            self.gateway.start()
        self.gateway.put({**self.granted(qemu), "uuid": ticket})
        self.browser.let_go()
        self.browser.until("state", "Connected")
        self.assert_same(qemu)

    def granted(self, qemu: Qemu) -> dict[str, Any]:
        url = f"vnc://{HOST}:{qemu.vnc_port}"
        return {"kind": "console", "url": url, "timeout": 300, "ops": ["view", "control"]}

    def test_no_viewer(self) -> None:
        """A gateway that was installed without the viewers says so."""
        self.expected = ("ERR_BLOCKED_BY_CLIENT",)
        tell = self.browser.driver.execute_cdp_cmd
        tell("Network.enable", {})
        tell("Network.setBlockedURLs", {"urls": ["*/ui/novnc/*"]})
        try:
            self.show(self.grant(f"vnc://{HOST}:1"))
            self.browser.until("why", "npm was missing")
        finally:
            tell("Network.setBlockedURLs", {"urls": []})
            tell("Network.disable", {})

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

    def test_encrypted(self) -> None:
        """TLS, and the password, are between the gateway and the machine: the page sees the guest."""
        qemu = self.machine().spice(password=PASSWORD, tls=True)
        qemu.start()
        self.show(self.grant(f"spice://{HOST}?tls-port={qemu.spice_tls_port}", secret=PASSWORD))
        self.browser.until("state", "Connected")
        self.assert_same(qemu)

    def test_every_password(self) -> None:
        """An encrypted password is as long as its key, also when it begins with zeroes."""
        self.browser.open(f"https://localhost:{self.consoles}/ui/console")
        number = rsa.generate_private_key(65537, 1024).public_key().public_numbers().n
        self.assertEqual(self.browser.call(LENGTHS, f"{number:x}"), [128])

    def test_boot_menu(self) -> None:
        """Escape opens the firmware's menu."""
        qemu = self.machine().spice()
        qemu.start("-boot", "menu=on,splash-time=60000", boot=False)
        self.open_spice(qemu)
        self.browser.until("state", "Connected")
        before = self.firmware(qemu)
        self.press(Keys.ESCAPE)
        wait_for(lambda: qemu.screen().lit > before + 500, "the menu")
        wait_for(lambda: self.seen() == digest(qemu.screen()), "the same picture")

    def test_password(self) -> None:
        """Where nobody told us the password, the user is asked for it, and again when it was wrong."""
        qemu = self.machine().spice(password=PASSWORD)
        qemu.start()
        self.open_spice(qemu)
        for password, said in (("wrong", ""), (PASSWORD, "That was not its password.")):
            self.browser.until("what", "asks for a password")
            wait_for(lambda: self.browser.text("why") == said, "what was wrong")  # noqa: B023 (asked at once)
            self.press(password, Keys.ENTER)
        self.browser.until("state", "Connected")
        self.assert_same(qemu)
        wide = "document.querySelector('#screen canvas').getBoundingClientRect().width"
        self.assertLessEqual(self.browser.read(wide), 1280 - 4)

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
        qemu.wait_for_screen()
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
