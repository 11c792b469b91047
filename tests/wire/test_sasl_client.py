"""Logging in by SASL: the examples of the documents, and servers that are not what they say."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire.sasl_client import ROUNDS, Credentials, Plain, SaslError, Scram, choose

WHO = Credentials("user", "pencil")
#: Digest, our nonce, what the server says first, our proof, its proof. Sources: RFC 5802, 5; RFC 7677, 3.
EXAMPLES = (
    (
        "sha1",
        "fyko+d2lbbFgONRv9qkxdawL",
        "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
        "v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        "rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    ),
    (
        "sha256",
        "rOprNGfwEbeRWgbNEkqO",
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ),
)
NONCE, FIRST = EXAMPLES[1][1:3]


class SaslClientTests(SynchronousTestCase):
    """SCRAM and PLAIN."""

    def test_examples(self) -> None:
        """What is said is what the documents say; the server's proof ends it."""
        for digest, nonce, first, proof, end in EXAMPLES:
            scram = Scram(WHO, digest, nonce)
            self.assertEqual(scram.first(), f"n,,n=user,r={nonce}".encode())
            final = scram.answer(first.encode())
            self.assertEqual(final, f"c=biws,{first.split(',')[0]},p={proof}".encode())
            self.assertFalse(scram.done)
            self.assertEqual(scram.answer(f"v={end}".encode()), b"")
            self.assertTrue(scram.done)

    def test_impostor(self) -> None:
        """A server that does not prove that it knows the password is none."""
        for end in (
            b"",
            b"v=",
            b"v=AAAA",
            b"e=other-error",
            b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G0=",
        ):
            scram = Scram(WHO, "sha256", NONCE)
            scram.answer(FIRST.encode())
            self.assertRaises(SaslError, scram.answer, end)
            self.assertFalse(scram.done)

    def test_refused(self) -> None:
        """An answer to somebody else, without a part of its own, or with too much work, is refused."""
        for bad in (
            "r=other,s=QSXCR+Q6sek8bf92,i=4096",
            f"r={NONCE},s=QSXCR+Q6sek8bf92,i=4096",
            FIRST.replace("i=4096", f"i={ROUNDS + 1}"),
            FIRST.replace("i=4096", "i=0"),
            FIRST.replace("i=4096", "i=" + "9" * 50),
            FIRST.replace("s=W", "s=!"),
            FIRST.replace("s=W22", "s=W2"),
            "m=x," + FIRST,
            "",
            "r=\u00e4",
        ):
            self.assertRaises(SaslError, Scram(WHO, "sha256", NONCE).answer, bad.encode())

    @given(st.binary(max_size=80))
    @settings(max_examples=200, deadline=None)
    def test_nonsense(self, data: bytes) -> None:
        """Whatever a server says is refused by one error."""
        self.assertRaises(SaslError, Scram(WHO, "sha256", NONCE).answer, data)

    def test_names(self) -> None:
        """A comma or an equals sign in a name is no end of it, and no password is ever shown."""
        self.assertEqual(Scram(Credentials("a,b=c", "x"), "sha1", "n").first(), b"n,,n=a=2Cb=3Dc,r=n")
        self.assertEqual(Plain(WHO).first(), b"\0user\0pencil")
        for it in (WHO, Plain(WHO), Scram(WHO, "sha1", "n")):
            self.assertNotIn("pencil", repr(it))

    def test_choice(self) -> None:
        """The best that both know; or the one that is wanted, and no other."""
        both = ["PLAIN", "GSSAPI", "SCRAM-SHA-256", "SCRAM-SHA-1"]
        self.assertEqual(choose(both, WHO, "n")[0], "SCRAM-SHA-256")
        self.assertEqual(choose(["PLAIN"], WHO, "n")[0], "PLAIN")
        self.assertEqual(choose(both, WHO, "n", "PLAIN")[0], "PLAIN")
        self.assertRaises(SaslError, choose, ["GSSAPI", "DIGEST-MD5"], WHO, "n")
        self.assertRaises(SaslError, choose, ["PLAIN"], WHO, "n", "SCRAM-SHA-256")
