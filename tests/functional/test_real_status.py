"""The page for administrators: a real Chromium where orders are taken."""

from __future__ import annotations

import http.client
import ssl

from selenium.webdriver import Keys
from selenium.webdriver.common.by import By

from tests.functional.case import PYTEST_ONLY
from tests.functional.console_servers import Server, echo
from tests.functional.page_case import SCREENS, PageCase, close_browser
from tests.functional.processes import HOST, ask, wait_for

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)
tearDownModule = close_browser


class StatusTests(PageCase):
    """What is alive, seen and ended."""

    def setUp(self) -> None:
        super().setUp()
        self.server = Server(echo)
        self.addCleanup(self.server.close)

    def page(self, name: str = "localhost") -> None:
        self.browser.open(f"http://{name}:{self.gateway.control_port}/ui/status")
        self.browser.until("state", "Ready")

    def public(self, path: str) -> int:
        """The status of what everybody may ask for."""
        tls = ssl.create_default_context(cafile=str(self.gateway.ca))
        connection = http.client.HTTPSConnection("localhost", self.consoles, context=tls, timeout=10)
        return ask(connection, "GET", path).status

    def cells(self, table: str) -> list[list[str]]:
        """What a table shows."""
        code = "[...document.querySelectorAll(`#${arguments[0]} tbody tr`)]"
        code += ".map((row) => [...row.cells].map((it) => it.innerText))"
        found: list[list[str]] = self.browser.driver.execute_script(f"return {code}", table)
        return found

    def test_shows(self) -> None:
        """Sessions with their rates, tickets, certificates: now, and as they change; no id of a ticket."""
        ticket = self.grant(self.server.url("serial"), principal="alice")
        self.page()
        self.assertFalse(self.browser.find("sessions").is_displayed())
        wait_for(lambda: [it[3] for it in self.cells("tickets")] == ["alice"], "the ticket")
        console = self.path(f"/console/{ticket}", "Sec-WebSocket-Protocol: binary")
        wait_for(lambda: len(self.cells("sessions")) == 1, "a session")
        [session] = self.cells("sessions")
        self.assertEqual(session[:4], ["console, control", self.server.url("serial"), "alice", HOST])
        self.assertRegex(session[5], r"^[0-9.]+ (bytes|KiB)/s$")
        self.assertRegex(self.cells("tickets")[0][5], "^4:[0-5][0-9]$")
        [certificate, *_] = self.cells("checks")
        self.assertRegex(certificate[1], "^[0-9]+ days left$")
        checks = {it[0]: it[1] for it in self.cells("checks")}
        self.assertEqual((checks["listeners"], checks["draining"]), ("good", "no"))
        self.assertNotIn(ticket, self.browser.read("document.documentElement.outerHTML"))
        console.leave()
        wait_for(lambda: not self.cells("sessions"), "no session")
        self.gateway.delete(ticket)
        wait_for(lambda: self.cells("tickets")[0][2] == "revoked", "its end")

    def test_ends(self) -> None:
        """A session is ended by two presses, by keyboard as well; one press alone is forgotten."""
        consoles = [self.open(self.server.url("serial"), principal=name) for name in ("alice", "bob")]
        for name in ("localhost", HOST):
            self.page(name)
            wait_for(lambda: self.cells("sessions"), "a session")
            button = self.browser.driver.find_element(By.CSS_SELECTOR, "#sessions button")
            self.assertRegex(button.get_attribute("aria-label") or "", "End the console of (alice|bob)")
            button.send_keys(Keys.ENTER)
            self.assertEqual(button.text, "Really end")
            button.send_keys(Keys.ENTER)
            self.browser.until("said", "was ended")
        for console in consoles:
            self.assertEqual(console.end(), (4403, "An administrator has ended this console"))
        left = self.open(self.server.url("serial"))
        wait_for(lambda: self.cells("sessions"), "a session")
        button = self.browser.driver.find_element(By.CSS_SELECTOR, "#sessions button")
        button.click()
        wait_for(lambda: button.text == "End", "it is forgotten", 8.0)
        self.assertEqual(len(self.gateway.sessions()), 1)
        left.leave()

    def test_text_stays_text(self) -> None:
        """What others have named is shown as they wrote it, and means nothing."""
        name = "<img src=x onerror=alert(1)>"
        console = self.open(self.server.url("serial"), principal=name)
        self.page()
        wait_for(lambda: [it[2] for it in self.cells("sessions")] == [name], "the session")
        self.assertEqual(self.browser.read("document.images.length"), 0)
        console.leave()

    def test_nowhere_else(self) -> None:
        """Who cannot give orders does not get the page; what it is made of has the policy of all pages."""
        for path in ("status", "status.js", "admin/status.js"):
            self.assertEqual(self.public(f"/ui/{path}"), 404, path)
        for path in ("status", "status.js", "status.css", "style.css"):
            answer = self.gateway.control("GET", f"/ui/{path}")
            self.assertEqual(answer.status, 200, path)
            self.assertIn("default-src 'none'", answer.headers["content-security-policy"])
        self.assertEqual(self.gateway.control("GET", "/ui/console").status, 404)
        self.assertEqual(self.gateway.control("GET", "/ui/").headers["location"], "/ui/status")

    def test_lost(self) -> None:
        """Where the gateway does not answer, the page says so, and comes back by itself."""
        self.expected = ("ERR_CONNECTION",)
        self.page()
        self.gateway.kill()
        try:
            self.browser.until("state", "does not answer")
        finally:
            self.gateway.start()
        self.browser.until("state", "Ready")

    def test_looks(self) -> None:
        """On a phone and on a desk, light and dark: all fits, and fingers hit."""
        consoles = [self.open(self.server.url("serial"), principal=name) for name in ("alice", "bob")]
        for number, (width, height) in enumerate((*SCREENS, *SCREENS)):
            dark = number >= len(SCREENS)
            self.browser.look(width, height, dark=dark)
            self.page()
            wait_for(lambda: len(self.cells("sessions")) == 2, "the sessions")
            self.assertLessEqual(self.browser.read("document.documentElement.scrollWidth"), width)
            heights = self.browser.read(
                "[...document.querySelectorAll('button')].map((it) => it.offsetHeight)"
            )
            self.assertEqual([height for height in heights if 0 < height < 44], [])
            self.browser.screenshot(f"status-{width}x{height}-{'dark' if dark else 'light'}")
        for console in consoles:
            console.leave()
