from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gateway.core import dev_pki
from gateway.core.jwt import JwtKey
from gateway.core.signers import Signers, load_signers
from gateway.core.tokens import TokenVerifier
from tests.ctl.fake_control import ID, NOW, ControlTestCase, Ran

HOST = "https://host.invalid:54322"
BEGIN = datetime.fromtimestamp(NOW, UTC)
ENGINE = dev_pki.authority(BEGIN).issue("engine", now=BEGIN, key=dev_pki.rsa_key())
OTHER = dev_pki.authority(BEGIN).issue("other", now=BEGIN, key=dev_pki.rsa_key())


class _Tokens(ControlTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.engine, self.engine_key = map(str, ENGINE.write(self.directory, "engine"))
        self.other, self.other_key = map(str, OTHER.write(self.directory, "other"))

    async def issue(self, *more: str) -> str:
        """An envelope, or what *more* asks for."""
        ran = await self.run_it("token", "issue", "--key", self.engine_key, *more)
        self.assertEqual((ran.code, ran.err), (0, ""))
        return ran.out.strip()

    async def inspect(self, token: str, *more: str) -> Ran:
        """What is said about *token*, as JSON."""
        return await self.run_it("token", "inspect", "--json", *more, stdin=token + "\n")


class Envelopes(_Tokens):
    async def test_accepted(self) -> None:
        """The gateway takes what is issued, in every generation."""
        for generation in "ABC":
            token = await self.issue(
                "--url", HOST, "--ticket", ID, "-C", self.engine, "-g", generation, "-T", "t1", "-l", "10m"
            )
            verifier = TokenVerifier(
                load_signers(engine_certificate=Path(self.engine)), wall=lambda: NOW, started=NOW, sha1=True
            )
            claims = verifier.verify(token, "image")
            self.assertEqual(claims.grant["url"], f"{HOST}/images/{ID}")
            self.assertEqual((claims.expires, claims.grant["transfer_id"]), (NOW + 600, "t1"))

    async def test_explained(self) -> None:
        """Every field is told, and whether times and signature are good."""
        token = await self.issue("--url", HOST, "--ticket", ID, "-C", self.engine)
        ran = await self.inspect(token, "--certificate", self.engine)
        found = ran.document
        self.assertEqual((ran.code, found["signature"], found["inside_times"]), (0, "good", True))
        fields = found["fields"]
        self.assertEqual((fields["generation"], fields["transfer-ticket"]), ("C", ID))
        self.assertEqual((fields["validTo"], fields["certificate"]), (NOW + 300, "CN=engine"))
        text = await self.run_it("token", "inspect", token)
        self.assertIn("inside its times, for 5m00s, signature not checked", text.out)
        self.assertIn("transfer may begin until 2026-01-01T00:05:00+00:00", text.out)
        self.assertEqual(self.fake.asked, [])

    async def test_foreign_signature(self) -> None:
        """A signature by another key, and one over other content, are bad, and that is a failure."""
        for generation in "ABC":
            token = await self.issue("--url", HOST, "-g", generation)
            ran = await self.inspect(token, "--certificate", self.other)
            self.assertEqual((ran.code, ran.document["signature"]), (1, "bad"))
            fields = json.loads(base64.b64decode(token))
            fields["data"] = fields["data"].replace("host.invalid", "evil.invalid")
            forged = base64.b64encode(json.dumps(fields).encode()).decode()
            ran = await self.inspect(forged, "--certificate", self.engine)
            self.assertEqual((ran.code, ran.document["signature"]), (1, "bad"))

    async def test_stripped(self) -> None:
        """The old signature does not stand in for a bad new one."""
        fields = json.loads(base64.b64decode(await self.issue("--url", HOST, "-g", "B")))
        fields["v2_signature"] = base64.b64encode(bytes(256)).decode()
        ran = await self.inspect(base64.b64encode(json.dumps(fields).encode()).decode(), "-C", self.engine)
        self.assertEqual((ran.code, ran.document["signature"]), (1, "bad"))

    async def test_times(self) -> None:
        """A token that is over or still to come is told to be, with its distance."""
        for begin, words in (
            ("2025-12-31T23:00:00Z", "expired 55m00s ago"),
            ("2026-01-01T01:00:00Z", "not yet"),
        ):
            ran = await self.inspect(await self.issue("--url", HOST, "--not-before", begin))
            self.assertEqual((ran.code, ran.document["inside_times"]), (1, False))
            self.assertIn(words, ran.err)

    async def test_nonsense(self) -> None:
        """What is no token is one line and a failure."""
        for text in ("", "x", "e30=", "a.b.c"):
            ran = await self.inspect(text)
            self.assertEqual((ran.code, ran.out, ran.err.count("\n")), (1, "", 1), text)

    async def test_not_issued(self) -> None:
        """No token is made that no gateway would take, or by a key that is not that of the certificate."""
        start = ("token", "issue", "--key", self.engine_key)
        for code, arguments in (
            (2, ()),
            (2, ("--url", HOST, "--ops", "read")),
            (2, ("--url", HOST, "--generation", "D")),
            (1, ("--url", "https://host.invalid/path")),
            (1, ("--url", HOST, "--ticket", "no-uuid")),
            (1, ("--url", HOST, "--certificate", self.other)),
            (1, ("--url", HOST, "--certificate", self.engine_key)),
            (1, ("--url", HOST, "--not-before", "tomorrow")),
        ):
            ran = await self.run_it(*start, *arguments)
            self.assertEqual((ran.code, ran.out, ran.err.count("\n")), (code, "", 1), (arguments, ran))
            self.assertNotIn("PRIVATE", ran.err)


class Jwts(_Tokens):
    async def test_accepted(self) -> None:
        """The gateway takes what is issued, with each kind of key."""
        edwards = Ed25519PrivateKey.generate()
        curve = dev_pki.p256_key()
        for key, algorithm in (
            (ENGINE.key, "RS256"),
            (ENGINE.key, "PS256"),
            (curve, "ES256"),
            (edwards, "EdDSA"),
        ):
            file = self.directory / "jwt.key"
            file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            ran = await self.run_it(
                *("token", "issue", "--jwt", "--key", str(file), "--audience", "gw", "--subject", "alice"),
                *("--url", HOST, "--size", "1G", "--ticket", ID, "--algorithm", algorithm, "--kid", "k1"),
                *("--issuer", "me"),
            )
            self.assertEqual((ran.code, ran.err), (0, ""))
            public = key.public_key()
            verifier = TokenVerifier(
                Signers(jwt={"k1": JwtKey("k1", algorithm, public)}),
                wall=lambda: NOW,
                started=NOW,
                jwt_audience="gw",
                jwt_issuer="me",
            )
            claims = verifier.verify(ran.out.strip(), "image")
            self.assertEqual((claims.subject, claims.grant["size"]), ("alice", 1 << 30))
            pem = self.directory / "jwt.pem"
            pem.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
            seen = await self.inspect(ran.out, "--certificate", str(pem))
            self.assertEqual((seen.code, seen.document["signature"]), (0, "good"))
            seen = await self.inspect(ran.out, "--certificate", self.other)
            self.assertEqual(seen.code, 1)
            self.assertTrue(seen.document["signature"].startswith("bad"))

    async def test_grant(self) -> None:
        """A JWT grants what a file says; its secret is not shown again, nor whose it is."""
        grant = {"kind": "console", "url": "vnc+tls://h:5900", "ops": ["view"], "uses": 1, "secret": "s3cret"}
        grant["user"] = "r00t"
        token = (
            await self.run_it(
                *("token", "issue", "--jwt", "-k", self.engine_key, "-A", "gw", "-S", "bob", "-G", "-"),
                stdin=json.dumps(grant),
            )
        ).out
        ran = await self.inspect(token, "-C", self.engine)
        fields = ran.document["fields"]
        self.assertEqual((ran.code, fields["ticket.kind"], fields["ticket.timeout"]), (0, "console", 300))
        self.assertNotIn("s3cret", ran.out)
        self.assertNotIn("r00t", ran.out)

    async def test_forged(self) -> None:
        """An unsigned token is never good, whatever it says of itself."""
        token = (
            await self.run_it(
                *("token", "issue", "--jwt", "-k", self.engine_key, "-A", "gw", "-S", "bob"),
                *("-u", HOST, "-s", "1"),
            )
        ).out.strip()
        head, body, signature = token.split(".")
        none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
        for forged in (f"{none}.{body}.{signature}", f"{head}.{body[:-4]}AAAA.{signature}"):
            ran = await self.inspect(forged, "-C", self.engine)
            self.assertEqual(ran.code, 1)

    async def test_key_set(self) -> None:
        """The gateway's own key set can judge a token."""
        public = ENGINE.key.public_key()
        assert isinstance(public, RSAPublicKey)
        key = jwt.algorithms.RSAAlgorithm.to_jwk(public, as_dict=True)
        file = self.directory / "keys.json"
        file.write_text(json.dumps({"keys": [{**key, "kid": "k1"}]}))
        start = (
            "token",
            "issue",
            "--jwt",
            "-k",
            self.engine_key,
            "-A",
            "gw",
            "-S",
            "bob",
            "-u",
            HOST,
            "-s",
            "1",
        )
        for kid, code in (("k1", 0), ("k2", 1)):
            token = (await self.run_it(*start, "--kid", kid)).out
            self.assertEqual((await self.inspect(token, "-C", str(file))).code, code)

    async def test_not_issued(self) -> None:
        """No JWT is made without an audience, with two grants, or with one no gateway would take."""
        start = ("token", "issue", "--jwt", "-k", self.engine_key, "-S", "bob")
        for code, arguments in (
            (2, ("-u", HOST)),
            (2, ("-A", "gw")),
            (2, ("-A", "gw", "-u", HOST, "-G", "x")),
            (2, ("-A", "gw", "-u", HOST, "-g", "C")),
            (1, ("-A", "gw", "-u", HOST)),
            (1, ("-A", "gw", "-u", HOST, "-s", "1", "-a", "ES256")),
            (1, ("-A", "gw", "-G", self.engine)),
        ):
            ran = await self.run_it(*start, *arguments)
            self.assertEqual((ran.code, ran.out, ran.err.count("\n")), (code, "", 1), (arguments, ran))
