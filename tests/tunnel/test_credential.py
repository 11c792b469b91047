"""What a CONNECT shows, and where."""

from __future__ import annotations

from base64 import b64encode

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.errors import BadRequest, Forbidden, GatewayError
from gateway.tunnel.credential import Credential, find
from gateway.wire.authority import parse_authority
from gateway.wire.http_head import RequestHead, parse_request

ID = "11111111-2222-4333-8444-555555555555"
TARGET = b"192.0.2.7:5900"


def head(*values: bytes, target: bytes = TARGET, name: bytes = b"Proxy-Authorization") -> RequestHead:
    lines = b"".join(b"%s: %s\r\n" % (name, value) for value in values)
    return parse_request(b"CONNECT %s HTTP/1.0\r\n%s\r\n" % (target, lines))


def basic(text: str | bytes, scheme: bytes = b"Basic") -> bytes:
    return scheme + b" " + b64encode(text if isinstance(text, bytes) else text.encode())


def shown(*values: bytes, target: bytes = TARGET) -> Credential | None:
    return find(head(*values, target=target), parse_authority(target))


class BasicTests(SynchronousTestCase):
    """A ticket as the password."""

    def test_password(self) -> None:
        """The user is free, and so is the case of the scheme; the password is all after the first colon."""
        for user in ("ticket", "", "vm one", "é"):
            for scheme in (b"Basic", b"basic", b"BASIC"):
                self.assertEqual(shown(basic(f"{user}:{ID}", scheme)), Credential(ID))
        self.assertEqual(shown(b"Basic   " + b64encode(f"u:{ID}".encode())), Credential(ID))
        self.assertEqual(shown(basic("u:a:b")), Credential("a:b"))

    def test_nothing(self) -> None:
        """No field, no password and another scheme are no credential; the answer to all is to ask for one."""
        for values in (
            (), (b"",), (b"Basic",), (b"Basic ",), (b"Digest x",), (b"Negotiate YII=",),
            (b"Bearer " + ID.encode(),), (basic("user"),), (basic("user:"),), (basic(""),), (b"BasicdTpw",),
            (b"Basic dTpw x",), (b"Basic dT pw",), (b"Basic =dTpw",), (b"Basic dTpw===",), (b"Basic dT-_pw",),
        ):  # fmt: skip
            self.assertIsNone(shown(*values), values)

    def test_malformed(self) -> None:
        """What is no base64, or no text, is a bad request."""
        for value in (b"Basic a", b"Basic dTpwa", basic(b"u:\xff\xfe"), basic(b"\xff:x")):
            self.assertEqual(self.assertRaises(BadRequest, shown, value).reason, "malformed", value)

    def test_two(self) -> None:
        """Two of them are ambiguous, even equal ones, and so is one beside a host of words."""
        value = basic(f"u:{ID}")
        for values in ((value, value), (value, b"Digest x"), (b"", b"")):
            self.assertEqual(self.assertRaises(BadRequest, shown, *values).reason, "ambiguous")
        words = f"pve:{ID}:x:5900".encode()
        self.assertEqual(self.assertRaises(BadRequest, shown, value, target=words).reason, "ambiguous")

    def test_only_for_the_proxy(self) -> None:
        """What is meant for a server is no credential here."""
        other = head(basic(f"u:{ID}"), name=b"Authorization")
        self.assertIsNone(find(other, parse_authority(TARGET)))

    def test_token(self) -> None:
        """A signed token, which is no id, is told by its form or its length."""
        for text in ("x" * 129, "eyJhbGciOiJ9.e30.+/=", "a+b", "a/b=", "a b", "\u00e9"):
            credential = shown(basic(f"u:{text}"))
            assert credential is not None
            self.assertFalse(credential.is_id, text)
        for text in (ID, "x" * 128, "a.b_c~d-e"):
            credential = shown(basic(f"u:{text}"))
            assert credential is not None
            self.assertTrue(credential.is_id, text)

    def test_secret(self) -> None:
        """No description shows it."""
        self.assertNotIn(ID, repr(shown(basic(f"u:{ID}"))))
        self.assertNotIn("secret", repr(head(basic("u:secret"))))

    @settings(max_examples=300, deadline=None)
    @given(
        st.one_of(
            st.binary(max_size=40).map(lambda it: basic(it)),
            st.text("Basic =+/dTpw:", max_size=30).map(str.encode),
        )
    )
    def test_any(self, value: bytes) -> None:
        """Any value is a credential, none, or a bad request."""
        try:
            credential = shown(value.strip(b" "))
        except GatewayError as error:
            self.assertEqual(error.status, 400)
        else:
            if credential is not None:
                self.assertTrue(credential.text and not credential.of_host)


class WordsTests(SynchronousTestCase):
    """A ticket in the place of the host."""

    def test_found(self) -> None:
        """The one word that is long enough, in lower case, wherever it stands."""
        for text in (f"{ID}:", f":{ID}", f"pve:{ID}:100:node:", f"PVE:{ID.upper()}::x"):
            found = shown(target=f"{text}:5900".encode())
            self.assertEqual(found, Credential(ID, of_host=True), text)

    def test_refused(self) -> None:
        """None, or several, are refused."""
        for text in ("a:b", f"{ID[:19]}:x", f"{ID}:{ID}", f"{ID}:{'x' * 20}", f"{'x' * 129}:a"):
            error = self.assertRaises(Forbidden, shown, target=f"{text}:5900".encode())
            self.assertEqual(error.reason, "authority", text)
