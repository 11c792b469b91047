"""The page for administrators: a real Chromium where orders are taken."""

from __future__ import annotations

import http.client
import ssl

from selenium.webdriver import Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.functional.case import PYTEST_ONLY
from tests.functional.console_servers import Server, echo
from tests.functional.page_case import SCREENS, PageCase, close_browser
from tests.functional.processes import DEADLINE, HOST, ask, wait_for

WEBSOCKET = "Sec-WebSocket-Protocol: binary"
#: Milliseconds in which a second press means it.
SURE = 4000
testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)
tearDownModule = close_browser


class StatusCase(PageCase):
    """The page, beside a server to have consoles of."""

    def setUp(self) -> None:
        super().setUp()
        self.server = Server(echo)
        self.addCleanup(self.server.close)

    def page(self, name: str = "localhost") -> None:
        self.browser.open(f"http://{name}:{self.gateway.control_port}/ui/status")
        self.browser.until("state", "Ready")

    def cells(self, table: str) -> list[list[str]]:
        """What a table shows."""
        code = "[...document.querySelectorAll(`#${arguments[0]} tbody tr`)]"
        code += ".map((row) => [...row.cells].map((it) => it.innerText))"
        found: list[list[str]] = self.browser.driver.execute_script(f"return {code}", table)
        return found

    def buttons(self, table: str) -> list[WebElement]:
        return self.browser.driver.find_elements(By.CSS_SELECTOR, f"#{table} tbody button")

    def focus(self) -> str:
        """The text of what has the focus, or the id where there is one."""
        found: str = self.browser.read("document.activeElement.id || document.activeElement.textContent")
        return found


class StatusTests(StatusCase):
    """What is alive, seen and ended."""

    def public(self, path: str) -> int:
        """The status of what everybody may ask for."""
        tls = ssl.create_default_context(cafile=str(self.gateway.ca))
        connection = http.client.HTTPSConnection("localhost", self.consoles, context=tls, timeout=DEADLINE)
        return ask(connection, "GET", path).status

    def test_shows(self) -> None:
        """Sessions with their rates, tickets, certificates: now, and as they change; no id of a ticket."""
        ticket = self.grant(self.server.url("serial"), principal="alice")
        self.page()
        self.assertFalse(self.browser.find("sessions").is_displayed())
        wait_for(lambda: [it[3] for it in self.cells("tickets")] == ["alice"], "the ticket")
        console = self.path(f"/console/{ticket}", WEBSOCKET)
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
            self.browser.hold(SURE)
            button = self.browser.driver.find_element(By.CSS_SELECTOR, "#sessions button")
            self.assertRegex(button.get_attribute("aria-label") or "", "End the console of (alice|bob)")
            button.send_keys(Keys.ENTER)
            self.assertEqual(button.text, "Really end")
            button.send_keys(Keys.ENTER)
            self.browser.until("said", "was ended")
            wait_for(lambda: self.focus() == "sessions-title", "the focus")
        for console in consoles:
            self.assertEqual(console.end(), (4403, "An administrator has ended this console"))
        left = self.open(self.server.url("serial"))
        self.browser.let_go()
        wait_for(lambda: self.cells("sessions"), "a session")
        button = self.browser.driver.find_element(By.CSS_SELECTOR, "#sessions button")
        button.click()
        wait_for(lambda: button.text == "End", "it is forgotten")
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

    def carol(self) -> WebElement:
        """The last button that revokes a ticket of hers, which nobody uses."""
        return self.browser.driver.find_elements(By.CSS_SELECTOR, "[aria-label$=' of carol']")[-1]

    def test_looks(self) -> None:
        """On a phone and on a desk, light and dark: all fits, and fingers hit."""
        consoles = [self.open(self.server.url("serial"), principal=name) for name in ("alice", "bob")]
        for _ in range(100):
            self.grant(self.server.url("serial"), principal="carol")
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
            name = f"{width}x{height}-{'dark' if dark else 'light'}"
            self.browser.screenshot(f"status-{name}")
            left = len(self.buttons("tickets")) - 1
            self.carol().send_keys(Keys.ENTER * 2)
            self.browser.until("said", "was revoked")
            wait_for(lambda: len(self.buttons("tickets")) == left, "its button is gone")  # noqa: B023 (asked at once)
            self.carol().send_keys(Keys.ENTER)
            self.browser.read("document.getElementById('tickets-pages').scrollIntoView({block: 'center'})")
            self.assertLessEqual(self.browser.read("document.documentElement.scrollWidth"), width)
            self.browser.screenshot(f"status-tickets-{name}")
        for console in consoles:
            console.leave()


class OrderTests(StatusCase):
    """What is ended from the page, and how one finds it among much else."""

    @staticmethod
    def label(button: WebElement) -> str:
        """What a screen reader says of it."""
        return button.get_attribute("aria-label") or ""

    def test_revokes(self) -> None:
        """A ticket is revoked by two presses, and its console with it; others stay, and so does the focus."""
        self.revoke_all()
        consoles = [self.open(self.server.url("serial"), principal=name) for name in ("alice", "bob")]
        self.page()
        wait_for(lambda: len(self.buttons("tickets")) == 2, "the tickets")
        [button] = [it for it in self.buttons("tickets") if self.label(it).endswith(" of alice")]
        self.browser.hold(SURE)
        mark = self.label(button).split()[3]
        self.assertEqual(self.label(button), f"Revoke the ticket {mark} of alice")
        button.send_keys(Keys.ENTER)
        self.assertEqual(button.text, "Really revoke")
        self.assertEqual(len(self.gateway.sessions()), 2)
        button.send_keys(Keys.SPACE)
        self.browser.until("said", f"The ticket {mark} of alice was revoked.")
        self.assertEqual(consoles[0].end(), (4403, "Your access to this console was revoked"))
        wait_for(lambda: [mark, "revoked"] in [it[0:3:2] for it in self.cells("tickets")], "its state")
        self.assertEqual([it["principal"] for it in self.gateway.sessions()], ["bob"])
        self.assertEqual((len(self.buttons("tickets")), self.focus()), (1, mark))
        [other] = self.buttons("tickets")
        self.browser.let_go()
        other.click()
        wait_for(lambda: other.text == "Revoke", "it is forgotten")
        self.assertEqual(len(self.gateway.sessions()), 1)
        consoles[1].leave()

    def test_turning(self) -> None:
        """All tickets and sessions are there, a hundred at a time, and how many there are is said."""
        self.revoke_all()
        for _ in range(230):
            self.grant(self.server.url("serial"))
        self.page()
        counts = self.gateway.control("GET", "/status").json()["tickets"]
        rest = sum(count for states in counts.values() for count in states.values())
        self.browser.until("tickets-title", f"Tickets ({rest})")
        seen = self.turn_to("tickets", f"1–100 of {rest}")
        back, following = self.browser.find("tickets-pages").find_elements(By.TAG_NAME, "button")
        self.assertEqual([it.get_attribute("aria-disabled") for it in (back, following)], ["true", "false"])
        back.send_keys(Keys.ENTER)
        following.send_keys(Keys.ENTER)
        seen |= self.turn_to("tickets", f"101–200 of {rest}")
        following.send_keys(Keys.ENTER)
        seen |= self.turn_to("tickets", f"201–{rest} of {rest}")
        self.assertEqual((len(seen), self.focus()), (rest, "Next"))
        self.assertEqual(following.get_attribute("aria-disabled"), "true")
        following.send_keys(Keys.ENTER)
        back.click()
        self.assertEqual(len(self.turn_to("tickets", f"101–200 of {rest}")), 100)
        self.assertFalse(self.browser.find("sessions-pages").is_displayed())

    def turn_to(self, table: str, text: str) -> set[str]:
        """Wait until the page is turned; return the first cells of its rows."""
        self.browser.until(f"{table}-pages", text)
        return {it[0] for it in self.cells(table)}

    def revoke_all(self) -> None:
        """Nothing of other tests shall be alive."""
        self.gateway.control("DELETE", "/tickets/")

    def test_many_sessions(self) -> None:
        """A page of sessions that are gone turns back to one that has some."""
        self.revoke_all()
        tickets = [self.grant(self.server.url("serial")) for _ in range(4)]
        for ticket in tickets:
            for _ in range(30):
                self.path(f"/console/{ticket}", WEBSOCKET)
        self.page()
        self.browser.until("sessions-title", "Live sessions (120)")
        self.turn_to("sessions", "1–100 of 120")
        self.browser.find("sessions-pages").find_elements(By.TAG_NAME, "button")[1].click()
        self.turn_to("sessions", "101–120 of 120")
        self.assertEqual(len(self.cells("sessions")), 20)
        self.gateway.delete(tickets[-1])
        self.browser.until("sessions-title", "Live sessions (90)")
        self.assertEqual(len(self.cells("sessions")), 90)
        self.assertFalse(self.browser.find("sessions-pages").is_displayed())
