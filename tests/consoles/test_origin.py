from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.consoles.access import Admission
from gateway.consoles.origin import Origins, parse_origin
from tests.consoles.stage import ID, OTHER, PAGE, Stage, head

DENIED = """
http://engine.invalid
http://engine.invalid:443
wss://engine.invalid:443
https://engine.invalid:8443
https://other.invalid
https://evil.invalid
https://engine.invalid.evil.invalid
https://xengine.invalid
https://x.engine.invalid
https://engine.invalid.
https://engine.invalid@evil.invalid
https://engine.invalid/
https://engine.invalid,
https://engine.invalid https://evil.invalid
https://engine.invalid:
https://engine.invalid:0
https://engine.invalid:65979
https://gateway.invalid
https://gateway.invalid:6100
https://evil.invalid/engine.invalid
https://[::1]
https://*
https://
https:///
wss://engine.invalid
engine.invalid
//engine.invalid
file://
null
*
""".strip().split("\n")


class OriginTests(Stage):
    """W1: pages of other sites."""

    origins: tuple[str, ...] = (PAGE, "https://Other.invalid:8443", "http://plain.invalid")

    def ask(self, *fields: tuple[str, str], host: str = "gateway.invalid") -> Callable[[], Admission]:
        return lambda: self.admit(head(f"/console/{ID}", *fields, host=host))

    def test_allowed(self) -> None:
        """Listed pages and our own may; who has no page is no browser."""
        self.put()
        for origin in (
            PAGE, PAGE + ":443", "HTTPS://ENGINE.invalid", "https://other.invalid:8443", "http://plain.invalid",
            "http://plain.invalid:80", "https://gateway.invalid:54323",
        ):  # fmt: skip
            self.ask(("Origin", origin))()
        self.ask()()

    def test_denied(self) -> None:
        """Scheme, host and port have to be those that are listed; nothing less is a match."""
        self.put()
        for origin in (
            *DENIED,
            "",
            "https://engıne.invalid".encode().decode("latin-1"),
        ):
            self.refused("origin", head(f"/console/{ID}", ("Origin", origin)), error=errors.Forbidden)
        twice = head(f"/console/{ID}", ("Origin", PAGE), ("Origin", PAGE))
        self.refused("origin", twice, error=errors.Forbidden)

    def test_host_widens_nothing(self) -> None:
        """The host a request names makes no page ours: neither for it nor for the next one."""
        self.put()
        for _ in range(2):
            evil = head(f"/console/{ID}", ("Origin", "https://evil.invalid"), host="evil.invalid")
            self.refused("origin", evil, error=errors.Forbidden)
            evil = head(
                f"/console/{ID}", ("Origin", "https://evil.invalid"), ("X-Forwarded-Host", "evil.invalid")
            )
            self.refused("origin", evil, error=errors.Forbidden)
            self.ask(host="evil.invalid")()
            self.ask(("Origin", PAGE), host="evil.invalid")()

    def test_first(self) -> None:
        """A page that may not learns nothing of the ticket, and burns nothing."""
        self.put(uses=1)
        for target in (f"/console/{ID}", f"/console/{OTHER}", "/eyJx"):
            self.refused("origin", head(target, ("Origin", "https://evil.invalid")), error=errors.Forbidden)
        self.assertEqual([event for event, _ in self.trail if event != "ticket.issued"], [])

    def test_cookie(self) -> None:
        """What a browser sends unasked counts only from a page of ours that it names."""
        self.put()
        cookie = ("Cookie", f"x=y; __Host-gwc={ID}")
        self.admit(head("/", cookie, ("Origin", PAGE)))
        self.refused("origin", head("/", cookie), error=errors.Forbidden)
        self.refused("origin", head("/", cookie, ("Origin", "https://evil.invalid")), error=errors.Forbidden)
        self.refused("origin", head(f"/console/{ID}", cookie), error=errors.Forbidden)
        self.refused("missing", head("/", ("Cookie", f"gwc={ID}; token={ID}"), ("Origin", PAGE)))

    def test_bad_list(self) -> None:
        """What is no origin is refused when the configuration is read."""
        for word in (
            "engine.invalid",
            "https://engine.invalid/",
            "null",
            "https://*.invalid",
            "https://h:99999",
            "https://ban\u212a.invalid",
            "",
        ):
            self.origins = (word,)
            error = self.assertRaises(errors.ConfigError, self.make)
            self.assertIn("[consoles] origins", str(error))


class AnyOriginTests(Stage):
    """``origins = *``."""

    origins: tuple[str, ...] = ("*",)

    def test_any(self) -> None:
        """Every page may that has a ticket to show; with a cookie none of them may but our own."""
        self.put()
        cookie = ("Cookie", f"__Host-gwc={ID}")
        for origin in ("https://evil.invalid", "null"):
            self.admit(head(f"/console/{ID}", ("Origin", origin)))
            self.refused("origin", head("/", cookie, ("Origin", origin)), error=errors.Forbidden)
        self.refused("origin", head("/", cookie), error=errors.Forbidden)
        self.admit(head("/", cookie, ("Origin", "https://gateway.invalid:54323")))


#: What origins are made of, and what is often put between its parts.
WORDS = r"https http wss :// : / // engine.invalid evil.invalid engine . @ :443 :8443 :0 [::1] [ * # ? \ E"
PARTS = st.lists(st.sampled_from([*WORDS.split(), " ", "\t", "\0", "é", "\u212a"]), max_size=8).map("".join)


class ParserTests(SynchronousTestCase):
    """What is an origin, and which."""

    @settings(max_examples=500, deadline=None)
    @given(PARTS | st.text(max_size=40))
    def test_fuzz(self, text: str) -> None:
        """Whatever is taken for an origin is one to others too, and has nothing beside its three parts."""
        try:
            scheme, host, port = parse_origin(text)
        except ValueError:
            return
        parts = urlsplit(text)
        self.assertEqual((parts.scheme, parts.hostname), (scheme, host.strip("[]")))
        self.assertEqual(parts.port or {"http": 80, "https": 443}.get(scheme, 0), port)
        self.assertEqual((parts.username, parts.path, parts.query, parts.fragment), (None, "", "", ""))
        self.assertTrue(text.isascii() and text.isprintable())

    @settings(max_examples=500, deadline=None)
    @given(PARTS | st.text(max_size=40))
    def test_only_listed(self, text: str) -> None:
        """No spelling of another page is allowed."""
        if Origins.of(["https://engine.invalid"])._allows(text, ambient=False):
            self.assertIn(text.lower(), ("https://engine.invalid", "https://engine.invalid:443"))
