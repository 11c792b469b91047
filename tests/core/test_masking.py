"""Tests for gateway.core.masking."""

from __future__ import annotations

import hashlib
import time
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.core.masking import (
    FIELD,
    clean,
    clean_authority,
    clean_field,
    clean_target,
    escape,
    fingerprint,
    mask,
)

ID = "8f14e45f-ceea-467f-a8c2-0123456789ab"
TAG = "{t:" + hashlib.sha256(ID.encode()).hexdigest()[:12] + "}"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQ\n-----END PRIVATE KEY-----"

#: The words and signs around secrets, and what may be one.
WORDS = ["Ticket", "ticketId", "SESSION", "session_id", "token", "Password", "passwd", "passphrase", "secret"]
WORDS += [
    "Authorization",
    "Set-Cookie",
    "x Bearer",
    "basic",
    "/images",
    "/Console/",
    "https://u",
    "eyJhbGci",
    "A" * 96,
]
SIGNS = [":", "=", " ", "\n", "='", '": "', ", ", "-", ".", "_", "/", "{t:"]
VALUES = [ID, ID.upper(), PEM, "A" * 48, "b" * 199, "hunter2@h", "12", "abcdef0123456789", "X.Y", "é"]


class MaskTests(SynchronousTestCase):
    """Secrets become fingerprints or stars wherever they stand."""

    def test_ticket_positions(self) -> None:
        """An id in a path, or beside the word ticket, becomes its fingerprint."""
        for before, after in [
            (f"GET /images/{ID} HTTP/1.1", f"GET /images/{TAG} HTTP/1.1"),
            (f"https://h/images/{ID}/extents", f"https://h/images/{TAG}/extents"),
            (f"PUT /tickets/{ID}", f"PUT /tickets/{TAG}"),
            (f"DELETE /sessions/{ID}", f"DELETE /sessions/{TAG}"),
            ("DELETE /sessions/12 of 3", "DELETE /sessions/12 of 3"),
            (f"wss://h/console/{ID}", f"wss://h/console/{TAG}"),
            (f"No such ticket '{ID}'", f"No such ticket '{TAG}'"),
            (f"ticket_id={ID}", f"ticket_id={TAG}"),
            (f"{{'ticket': '{ID}'}}", f"{{'ticket': {TAG}}}"),
            (f"?ticket={ID}&close=y", f"?ticket={TAG}&close=y"),
        ]:
            self.assertEqual(mask(before), after)

    def test_percent_encoding(self) -> None:
        """An id has the same fingerprint however its path is spelled."""
        self.assertEqual(mask("/images/" + ID.replace("-", "%2D")), f"/images/{TAG}")

    def test_twice(self) -> None:
        """What is masked already stays as it is, and so do other identifiers."""
        for text in [
            f"/images/{TAG}",
            f"ticket={TAG}",
            "ticket=3fa9c1d2e4b7",
            f"vm {ID} started",
            "/images/*",
        ]:
            self.assertEqual(mask(text), text)

    def test_secrets(self) -> None:
        """Passwords, tokens, sessions, header values, keys and long base64 leave no trace."""
        secret = "sekret-12"
        for text in [
            f"password={secret}", f"'password': '{secret}'", f'{{"token": "{secret} {secret}"}}',
            f"session_id={secret}", f"TOKEN = {secret}", f"vnc_passwd:{secret}",
            f"password='it\\'s {secret}'",
            f"Authorization: Basic {secret}", f"Proxy-Authorization: Digest {secret}, {secret}",
            f"b'cookie': [b'a={secret}']", f"Set-Cookie: x={secret}; Path=/",
            f"(b'authorization', b'x {secret}')",
            f"Session-Id: {secret}", f"redis://user:{secret}@h.invalid", f"got Bearer {secret}",
            f"-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----",
            f"-----BEGIN RSA PRIVATE KEY-----\\n{secret}", f"x {'A' * 150}{secret}{'B' * 150} y",
            f"{'A' * 64}\n{secret[:6]}{'B' * 58}\n{'C' * 20}", f"eyJhbGciOiJFUzI1NiJ9.{secret}.{secret}",
            f'{{\\"password\\": \\"{secret}\\"}}',
        ]:  # fmt: skip
            self.assertNotIn("sekret", mask(text), text)

    def test_innocent(self) -> None:
        """Ordinary lines are not touched."""
        for text in [
            "ticket added",
            "GET /info/ 200",
            "tickets: none of them",
            "twistd 26.10 starting up",
            "2 tokens",
        ]:
            self.assertIn(mask(text)[:8], text)
        self.assertEqual(mask("twistd 26.10.0 (/usr/bin/python 3.11.2) starting up."), clean(
            "twistd 26.10.0 (/usr/bin/python 3.11.2) starting up."))  # fmt: skip

    def test_short_cuts(self) -> None:
        """No rule is passed over that would change a text: beside a letter of another script all apply."""
        for pieces in product(WORDS, SIGNS, VALUES, ["", *SIGNS]):
            text = "".join(pieces)
            self.assertEqual("\u017f\n" + mask(text), mask("\u017f\n" + text))
            self.assertEqual(clean(text, 9999), escape(mask(text)))
        for text in ("\u017fecret=hunter2", "To\u212aen: hunter2"):
            self.assertNotIn("hunter2", mask(text))

    def test_linear(self) -> None:
        """No text makes masking slow: 300,000 hostile characters take a moment."""
        for piece in ["a-", "token=", "token='", 'ticket="\\', "://a:", "eyJa.", "A" * 60 + "\n", "/images/",
                      " \t:",
                      "ticket-", "authorization", "Bearer ", "-----BEGIN A-----", "A" * 48 + "\\r",
                      "a" * 199 + " ",
                      "%2", "session id "]:  # fmt: skip
            began = time.process_time()
            mask(piece * (300_000 // len(piece)))
            self.assertLess(time.process_time() - began, 2.0, piece)


class CleanTests(SynchronousTestCase):
    """What is written is one line, of bounded length."""

    def test_escape(self) -> None:
        """Controls, line separators, bidi and invalid UTF-8 are written out."""
        text = "a\r\n\tb\x1b[31m\x00\x7f\x85\u2028\u2029\u202e\u2066\u200fc"
        self.assertEqual(escape(text), r"a\r\n\tb\x1b[31m\x00\x7f\x85\u2028\u2029\u202e\u2066\u200fc")
        self.assertEqual(clean(b"\xff\xc3\xa9"), "\\xffé")
        self.assertEqual(escape(b"\xff".decode("utf-8", "surrogateescape")), r"\xff")

    @settings(max_examples=300, deadline=None)
    @given(st.text(max_size=600) | st.binary(max_size=600))
    def test_anything(self, value: str | bytes) -> None:
        """Whatever comes in, one printable line that is not too long comes out, fit for UTF-8."""
        line = clean(value)
        self.assertLessEqual(len(line), FIELD)
        self.assertEqual(len(line.splitlines()), 1 if line else 0)
        line.encode()

    def test_cut(self) -> None:
        """A long field ends with an ellipsis, and no secret survives at the cut."""
        self.assertEqual(clean("ab " * 200), ("ab " * 200)[: FIELD - 1] + "…")
        secret = "S3kr1t" * 40
        for before in (0, 50, 200, 65_400, 65_500):
            self.assertNotIn("S3kr1t", clean("x " * (before // 2) + secret))
        self.assertNotIn("S3kr1t", clean(PEM + "A" * 65_350 + " " + secret))

    def test_names(self) -> None:
        """A field whose name says secret is one, whatever its value looks like."""
        self.assertEqual(clean_field("password", "hunter2"), "***")
        self.assertEqual(clean_field("vnc_password", b"hunter2"), "***")
        self.assertEqual(clean_field("Proxy-Authorization", "x"), "***")
        self.assertEqual(clean_field("ticket_id", ID), TAG)
        self.assertEqual(clean_field("ticket", fingerprint(ID)), fingerprint(ID))
        self.assertEqual(clean_field("target", "lab"), "lab")

    def test_target(self) -> None:
        """Of a request target the route and harmless parts of the query stay."""
        self.assertEqual(clean_target(f"/images/{ID}?close=y&token=x&a=b".encode()), f"/images/{TAG}?close=y")
        self.assertEqual(clean_target("/info/?x=1"), "/info/")
        for plain in (
            "/images/*",
            "/ui/transfer.js",
            "/sessions/12",
            "/sessions/",
            "/images//checksum/algorithms",
            "/metrics",
            "/",
        ):
            self.assertEqual(clean_target(plain), plain)
        self.assertEqual(
            clean_target(f"/images/{ID}/extents?context=zero"), f"/images/{TAG}/extents?context=zero"
        )

    def test_target_tells_nothing(self) -> None:
        """Whatever may be an id is none in the log: below any route, anywhere in the path, in the query."""
        short = "deadbeef0123"  # looks like a fingerprint
        for secret in (ID, short, "1234", "Pass.word"):
            tag = "{t:" + hashlib.sha256(secret.encode()).hexdigest()[:12] + "}"
            for before, after in [
                (f"/images/x/{secret}/{secret}", f"/images/{clean_target('/images/x')[8:]}/{tag}/{tag}"),
                (f"/images//{secret}", f"/images//{tag}"),
                (f"/{secret}/{secret}", f"/{tag}/{tag}"),
                (f"/ui/{secret}", f"/ui/{tag}"),
                (f"/tickets/{secret}", f"/tickets/{tag}"),
                (f"/%69mages/{secret}", f"/%69mages/{tag}"),
                (f"/info/{secret}?close=A{secret}&{secret}=y", f"/info/{tag}"),
            ]:
                self.assertEqual(clean_target(before), after)
        self.assertEqual(clean_target(f"/sessions/{ID}"), f"/sessions/{TAG}")

    def test_authority(self) -> None:
        """Where a CONNECT leads is written; what may be a ticket in the place of a host is not."""
        for plain in ("192.0.2.1:5900", "[2001:db8::1]:5900", "2001:db8::1:5900", "vm-1.site.invalid:5901"):
            self.assertEqual(clean_authority(plain.encode()), plain)
        for host in (
            ID,
            f"pve:{ID}:100:node",
            f"{ID}.invalid",
            "a" * 20,
            "f" * 32,
            "x%41",
            ID[:19] + "::" + ID,
        ):
            self.assertRegex(clean_authority(f"{host}:5900".encode()), r"^\{t:[0-9a-f]{12}\}:5900$")
        for odd in (ID, f"u:{ID}@x", f"http://{ID}/", "", ":"):
            self.assertNotIn(ID, clean_authority(odd.encode()), odd)
