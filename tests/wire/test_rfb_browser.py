"""The handshake with browsers: versions, refusals at every moment, and browsers that cheat."""

from __future__ import annotations

from struct import pack

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.errors import BadRequest
from gateway.wire.rfb_browser import BrowserSide
from tests.wire.rfb_peers import cut

V3, V7, V8 = b"RFB 003.003\n", b"RFB 003.007\n", b"RFB 003.008\n"
REASON = b"\0\0\0\x04busy"


class AdmitTests(SynchronousTestCase):
    """Browsers that get a console."""

    def test_none(self) -> None:
        """No password is asked for; each version gets its own dialogue."""
        for version, choice, said in (
            (V8, b"\x01", b"\x01\x01\0\0\0\0"),
            (V7, b"\x01", b"\x01\x01"),
            (V3, b"", b"\0\0\0\x01"),
        ):
            for early in (True, False):
                browser = BrowserSide()
                self.assertEqual(browser.greeting, V8)
                out = browser.admit() if early else b""
                out += browser.receive(version)
                if not early:
                    self.assertEqual(out, b"")
                    out += browser.admit()
                out += browser.receive(choice)
                self.assertEqual(out, said)
                self.assertFalse(browser.done)
                self.assertEqual(browser.receive(b"\0rest"), b"")
                self.assertTrue(browser.done)
                self.assertFalse(browser.shared)
                self.assertEqual(browser.rest, b"rest")

    def test_password(self) -> None:
        """A browser with a password of its own answers the server's challenge before the verdict."""
        challenge, response = bytes(range(16)), bytes(range(16, 32))
        for version, choice, offer in (
            (V8, b"\x02", b"\x01\x02"),
            (V7, b"\x02", b"\x01\x02"),
            (V3, b"", b"\0\0\0\x02"),
        ):
            browser = BrowserSide()
            self.assertEqual(browser.receive(version), b"")
            self.assertEqual(browser.ask(challenge) + browser.receive(choice), offer + challenge)
            self.assertEqual(browser.receive(response[:7]) + browser.receive(response[7:]), b"")
            self.assertEqual(browser.response, response)
            self.assertFalse(browser.done)
            self.assertEqual(browser.admit(), b"\0\0\0\0")
            browser.receive(b"\x01")
            self.assertTrue(browser.done and browser.shared)

    @given(st.lists(st.integers(1, 5), max_size=20), st.sampled_from([V3, V7, V8]), st.integers(0, 6))
    @settings(max_examples=100, deadline=None)
    def test_any_cut(self, sizes: list[int], version: bytes, when: int) -> None:
        """However its bytes are cut, and whenever the verdict falls, the dialogue is the same."""
        said = version + (b"" if version == V3 else b"\x01") + b"\x01"
        browser = BrowserSide()
        out = b""
        for number, piece in enumerate(cut(said, sizes)):
            out += browser.admit() if number == when else b""
            out += browser.receive(piece)
        out += browser.admit()
        self.assertTrue(browser.done)
        self.assertEqual(out, {V3: b"\0\0\0\x01", V7: b"\x01\x01", V8: b"\x01\x01\0\0\0\0"}[version])


class RefuseTests(SynchronousTestCase):
    """Browsers that get none."""

    def test_at_once(self) -> None:
        """Before a type is offered, none is, and the reason stands in its place."""
        for version, said in ((V8, b"\0" + REASON), (V7, b"\0" + REASON), (V3, bytes(4) + REASON)):
            for early in (True, False):
                browser = BrowserSide()
                out = browser.refuse("busy") if early else b""
                self.assertFalse(browser.refused)
                out += browser.receive(version)
                out += b"" if early else browser.refuse("busy")
                self.assertEqual(out, said)
                self.assertTrue(browser.refused)

    def test_after_password(self) -> None:
        """After a password, the result says no, and only the newest version has a reason."""
        for version, said in ((V8, b"\0\0\0\x01" + REASON), (V7, b"\0\0\0\x01"), (V3, b"\0\0\0\x01")):
            browser = BrowserSide()
            browser.receive(version)
            browser.ask(bytes(16))
            browser.receive(b"" if version == V3 else b"\x02")
            browser.receive(bytes(16))
            self.assertEqual(browser.refuse("busy"), said)
            self.assertTrue(browser.refused)

    def test_changed(self) -> None:
        """What was admitted may still be refused; the other way round it may not."""
        browser = BrowserSide()
        browser.admit()
        browser.refuse("busy")
        browser.admit()
        self.assertEqual(browser.receive(V8), b"\0" + REASON)
        browser = BrowserSide()
        browser.admit()
        self.assertEqual(browser.receive(V8), b"\x01\x01")
        self.assertEqual(browser.refuse("busy"), b"")
        self.assertFalse(browser.refused)
        self.assertEqual(browser.receive(b"\x01"), b"\0\0\0\x01" + REASON)

    def test_too_late(self) -> None:
        """Once it is let in there is nothing to be told, and no console either."""
        browser = BrowserSide()
        browser.admit()
        browser.receive(V8 + b"\x01")
        self.assertEqual(browser.refuse("busy"), b"")
        self.assertTrue(browser.refused)
        browser.receive(b"\x01")
        self.assertFalse(browser.done)

    def test_final(self) -> None:
        """Nothing that a refused browser says opens anything."""
        for late in (True, False):
            browser = BrowserSide()
            browser.receive(V8)
            if late:
                browser.ask(bytes(16))
                browser.receive(b"\x02" + bytes(16))
            browser.refuse("no")
            self.assertEqual(browser.receive(b"\x01\x01\x01"), b"")
            self.assertEqual(browser.admit(), b"")
            self.assertFalse(browser.done)

    def test_reason(self) -> None:
        """A reason is bounded, and never empty."""
        browser = BrowserSide()
        browser.receive(V8)
        self.assertEqual(browser.refuse("x" * 9999), b"\0" + pack(">I", 512) + b"x" * 512)
        browser = BrowserSide()
        browser.receive(V8)
        self.assertEqual(browser.refuse(""), b"\0\0\0\0\x01?")


class HostileTests(SynchronousTestCase):
    """Browsers that cheat."""

    def test_nonsense(self) -> None:
        """Other versions and types are refused."""
        for said in (
            b"GET / HTTP/1",
            b"RFB 003.009\n",
            b"RFB 004.001\n",
            V8 + b"\x02",
            V7 + b"\0",
            V8 + b"\x13",
        ):
            browser = BrowserSide()
            browser.admit()
            self.assertRaises(BadRequest, browser.receive, said)
            self.assertRaises(BadRequest, browser.receive, V8 + b"\x01\x01")
            self.assertFalse(browser.done)
            self.assertEqual(browser.refuse("no"), b"")

    def test_choice_when_asked(self) -> None:
        """A browser that is to answer a challenge cannot choose to be asked nothing."""
        browser = BrowserSide()
        browser.receive(V8)
        browser.ask(bytes(16))
        self.assertRaises(BadRequest, browser.receive, b"\x01")

    def test_flood(self) -> None:
        """What it says while it waits is held up to a bound."""
        browser = BrowserSide()
        browser.receive(V8 + bytes(64 * 1024))
        self.assertRaises(BadRequest, browser.receive, b"\0")

    def test_ask_twice(self) -> None:
        """There is one challenge."""
        browser = BrowserSide()
        browser.ask(bytes(16))
        self.assertRaises(RuntimeError, browser.ask, bytes(16))

    @given(st.binary(max_size=64), st.booleans(), st.booleans())
    @settings(max_examples=200, deadline=None)
    def test_fuzz(self, data: bytes, ask: bool, admit: bool) -> None:
        """Whatever it says, it fails with the one error or waits; without a verdict it gets nothing."""
        for start in (b"", V3, V7, V8):
            browser = BrowserSide()
            if ask:
                browser.ask(bytes(16))
            if admit:
                browser.admit()
            try:
                browser.receive(start + data)
            except BadRequest:
                pass
            self.assertFalse(browser.done and not admit)
