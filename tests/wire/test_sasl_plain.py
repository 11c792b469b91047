"""The one message of SASL PLAIN."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire.sasl_plain import LIMIT, Plain, parse_plain

_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


class PlainTests(SynchronousTestCase):
    """RFC 4616."""

    def test_stock(self) -> None:
        """What Cyrus SASL sends for libvirt: no authorization identity, no NUL at the end."""
        self.assertEqual(parse_plain(b"\0alice\0token"), Plain("alice", "token"))
        self.assertEqual(parse_plain(b"alice\0alice\0token"), Plain("alice", "token"))

    def test_refused(self) -> None:
        """Nobody logs in as another, without a password, with bytes after it, or in another encoding."""
        for data in (
            b"",
            b"\0",
            b"\0\0",
            b"\0alice\0",
            b"alice\0token",
            b"bob\0alice\0token",
            b"\0alice\0token\0",
            b"\0alice\0token\0more",
            b"\0\0alice\0token",
            b"\0alice\0\xff",
            b"\0alice\0\xc0\x80",
            b"\0alice\0\xed\xa0\x80",
            "\0alice\0token".encode("utf-16-be"),
            b"\0alice\0" + b"t" * LIMIT,
        ):
            self.assertRaises(ValueError, parse_plain, data)

    def test_no_secret_shown(self) -> None:
        """The password does not show where a login is printed."""
        self.assertNotIn("token", repr(parse_plain(b"\0alice\0token")))

    @given(_TEXT, _TEXT.filter(bool), st.booleans())
    @settings(max_examples=200, deadline=None)
    def test_comes_back(self, user: str, password: str, named: bool) -> None:
        """Names and passwords of any script arrive as they were sent."""
        data = f"{user if named else ''}\0{user}\0{password}".encode()
        self.assertEqual(parse_plain(data), Plain(user, password))

    @given(st.binary(max_size=60) | st.lists(st.sampled_from([b"\0", b"a", b"\xc3", b"\xa9"])).map(b"".join))
    @settings(max_examples=300, deadline=None)
    def test_anything(self, data: bytes) -> None:
        """Whatever comes is refused, or is exactly what it reads as."""
        try:
            plain = parse_plain(data)
        except ValueError:
            return
        self.assertIn(data, [f"{each}\0{plain.user}\0{plain.password}".encode() for each in ("", plain.user)])
        self.assertNotIn("\0", plain.user + plain.password)
