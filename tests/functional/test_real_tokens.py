"""Signed tickets at the image port of a real gateway: envelopes of every generation, and JWTs."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.core import dev_pki
from tests.functional.case import PYTEST_ONLY, GatewayCase
from tests.functional.commands import need, run
from tests.functional.peers import Daemon, Sections
from tests.functional.processes import HOST, Answer, short_directory, wait_for

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

SIZE = 1 << 20


class _DaemonCase(GatewayCase):
    """A gateway, and the real daemon behind it."""

    daemon: ClassVar[Daemon]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.daemon = Daemon(cls.home, (cls.gateway.ca, cls.gateway.certificate, cls.gateway.key))
        cls.addClassCleanup(cls.daemon.stop)
        cls.daemon.start()

    def image(self) -> tuple[str, bytes]:
        """An image that only the daemon knows; return its ticket's id, and what is in it."""
        name, data = str(uuid4()), os.urandom(SIZE)
        path = self.home / f"{name}.raw"
        path.write_bytes(data)
        ops = ["read", "write"]
        self.daemon.put({"uuid": name, "size": SIZE, "timeout": 300, "ops": ops, "url": f"file://{path}"})
        return name, data

    def issue(self, name: str, *more: str, key: str = "") -> str:
        """What the command makes for the image *name*, with the engine's key unless another is given."""
        command = [need("gatewayctl", "pip install -e ."), "token", "issue", "--ticket", name]
        command += ["--key", key or str(self.gateway.ca.parent / "engine.key")]
        command += ["--url", f"https://{HOST}:{self.daemon.port}"]
        return run([*command, *more]).decode("ascii").strip()

    def envelope(self, name: str, generation: str) -> str:
        certificate = self.gateway.ca.parent / "engine.pem"
        return self.issue(name, "--generation", generation, "--certificate", str(certificate))

    def ask(self, method: str, path: str, body: bytes | None = None, /, **fields: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        return self.gateway.ask(method, path, body, named)

    def both_ways(self, name: str, data: bytes, query: str = "", **fields: str) -> None:
        """Download, upload something else, and download that."""
        path = f"/images/{name}{query}"
        answer = self.ask("GET", path, None, **fields)
        self.assertEqual((answer.status, answer.body), (200, data))
        other = data[::-1]
        place = f"bytes 0-{SIZE - 1}/*"
        self.assertEqual(self.ask("PUT", path, other, content_range=place, **fields).status, 200)
        self.assertEqual(self.ask("GET", path, None, **fields).body, other)

    def dialects(self, token: str, name: str, data: bytes) -> None:
        """The same token in each of the three old ways."""
        self.assertEqual(self.ask("GET", f"/images/{name}").status, 403, "nothing is known of it yet")
        self.both_ways(name, data, authorization=token)
        answer = self.ask("POST", "/sessions/", authorization=token)
        self.assertEqual(answer.status, 200)
        session = answer.headers["session-id"]
        self.both_ways(name, self.now(name), session_id=session)
        self.both_ways(name, self.now(name), f"?session_id={session}")
        self.assertEqual(self.ask("DELETE", f"/sessions/{session}").status, 204)
        self.assertEqual(self.ask("GET", f"/images/{name}", session_id=session).status, 401)
        self.assertEqual(self.ask("PUT", "/tickets/", token.encode("ascii")).status, 200)
        self.both_ways(name, self.now(name))
        self.assertEqual(self.ask("DELETE", f"/tickets/{name}").status, 204)
        self.assertEqual(self.ask("GET", f"/images/{name}").status, 403)

    def now(self, name: str) -> bytes:
        """What is in the image by now."""
        return (self.home / f"{name}.raw").read_bytes()


class EnvelopeTests(_DaemonCase):
    """Envelopes of an engine, made by our own command, with a daemon that knows the ticket."""

    def test_generations(self) -> None:
        """Generations B and C open the image in each of the old dialects, both ways."""
        for generation in "BC":
            name, data = self.image()
            self.dialects(self.envelope(name, generation), name, data)

    def test_sha1(self) -> None:
        """Generation A has SHA-1 only, and is refused; every dialect says so in its own way."""
        name, _ = self.image()
        token = self.envelope(name, "A")
        self.assertEqual(self.ask("GET", f"/images/{name}", authorization=token).status, 401)
        self.assertEqual(self.ask("POST", "/sessions/", authorization=token).status, 401)
        self.assertEqual(self.ask("PUT", "/tickets/", token.encode("ascii")).status, 403)

    def test_another_key(self) -> None:
        """What another key signs, under the engine's name and with a certificate, opens nothing."""
        name, _ = self.image()
        now = datetime.now(UTC)
        forger = dev_pki.authority(now).issue("engine", now=now, key=dev_pki.rsa_key())
        certificate, key = forger.write(self.home, "forger")
        for generation in "BC":
            token = self.issue(
                name, "--certificate", str(certificate), "--generation", generation, key=str(key)
            )
            self.assertEqual(self.ask("GET", f"/images/{name}", authorization=token).status, 401)


class Sha1Tests(_DaemonCase):
    """``sha1 = yes``."""

    sections: ClassVar[Sections] = {"tokens": {"sha1": "yes"}}

    def test_accepted(self) -> None:
        """Generation A is served, until its signer was seen to know better."""
        name, data = self.image()
        token = self.envelope(name, "A")
        self.dialects(token, name, data)
        self.assertEqual(self.ask("PUT", "/tickets/", self.envelope(name, "B").encode("ascii")).status, 200)
        self.assertEqual(self.ask("PUT", "/tickets/", token.encode("ascii")).status, 403)


class JwtTests(_DaemonCase):
    """JWTs of three kinds of key; the key set is a file that the configuration names."""

    keys: ClassVar[dict[str, Any]]

    @classmethod
    def setUpClass(cls) -> None:
        cls.keys = {
            "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "ES256": ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate(),
        }
        algorithms: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
        keys = []
        for name, key in cls.keys.items():
            public = algorithms[name].to_jwk(key.public_key(), as_dict=True)
            keys.append({**{k: v for k, v in public.items() if k != "key_ops"}, "kid": name, "alg": name})
        directory = short_directory()
        cls.addClassCleanup(shutil.rmtree, directory, ignore_errors=True)
        key_set = directory / "keys.json"
        key_set.write_text(json.dumps({"keys": keys}))
        cls.sections = {"tokens": {"jwt_keys": str(key_set), "jwt_audience": "the-gateway"}}
        super().setUpClass()

    def sign(self, name: str, algorithm: str, ticket: Mapping[str, object] | None = None, **more: Any) -> str:
        now = int(time.time())  # the issuer's clock
        url = f"https://{HOST}:{self.daemon.port}/images/{name}"
        grant = {"uuid": name, "url": url, "size": SIZE, "timeout": 300, "ops": ["read", "write"]}
        claims = {"sub": "alice", "aud": "the-gateway", "jti": str(uuid4()), "iat": now, "nbf": now}
        claims |= {"exp": now + 300, "ticket": {**grant, **(ticket or {})}, **more}
        return jwt.encode(claims, self.keys[algorithm], algorithm=algorithm, headers={"kid": algorithm})

    def test_algorithms(self) -> None:
        """RS256, ES256 and EdDSA open the image in each of the old dialects."""
        for algorithm in self.keys:
            name, data = self.image()
            self.dialects(self.sign(name, algorithm), name, data)

    def test_bearer(self) -> None:
        """The scheme may be said."""
        name, data = self.image()
        self.both_ways(name, data, authorization=f"Bearer {self.sign(name, 'EdDSA')}")

    def test_refused(self) -> None:
        """Another audience, another key under a known name, no signature at all, and the end: 401."""
        name, _ = self.image()
        forged = jwt.encode(
            {**jwt.decode(self.sign(name, "ES256"), options={"verify_signature": False})},
            ec.generate_private_key(ec.SECP256R1()),
            algorithm="ES256",
            headers={"kid": "ES256"},
        )
        unsigned = jwt.encode(jwt.decode(forged, options={"verify_signature": False}), "", algorithm="none")
        for token in (
            self.sign(name, "RS256", aud="another"),
            self.sign(name, "RS256", exp=int(time.time()) - 1),
            self.sign(name, "RS256", {"kind": "console"}),
            forged,
            unsigned,
        ):
            self.assertEqual(self.ask("GET", f"/images/{name}", authorization=token).status, 401)

    def test_one_time(self) -> None:
        """A token for one use is used up; a restart does not bring it back, for it is older than that."""
        name, data = self.image()
        token = self.sign(name, "EdDSA", {"uses": 1})
        answer = self.ask("GET", f"/images/{name}", authorization=token)
        self.assertEqual((answer.status, answer.body), (200, data))
        self.assertEqual(self.ask("GET", f"/images/{name}", authorization=token).status, 401)
        many = self.sign(name, "EdDSA")
        time.sleep(1)
        self.gateway.stop()
        self.gateway.start()
        ready = time.monotonic()
        self.assertEqual(self.ask("GET", f"/images/{name}", authorization=token).status, 401)
        self.assertIn("before_start", self.gateway.log())
        self.assertEqual(
            self.ask("GET", f"/images/{name}", authorization=many).status, 200, "it may be reused"
        )
        # The time in a token has whole seconds: what was signed in that of the start may be older.
        time.sleep(max(0.0, ready + 1.1 - time.monotonic()))
        fresh = self.sign(str(name), "EdDSA", {"uses": 1})
        self.assertEqual(self.ask("DELETE", f"/tickets/{name}").status, 204)
        self.assertEqual(self.ask("GET", f"/images/{name}", authorization=fresh).status, 200)

    def test_key_removed(self) -> None:
        """A key that leaves the file is believed no longer, without a reload or a restart."""
        name, _ = self.image()
        path = Path(self.sections["tokens"]["jwt_keys"])
        kept = path.read_text()

        def ask(algorithm: str) -> int:
            return self.ask("GET", f"/images/{name}", authorization=self.sign(name, algorithm)).status

        def write(text: str) -> None:
            """All of it at once, for the gateway may look at any time; wait until it has."""
            before = self.gateway.log().count("token keys reloaded")
            (fresh := path.with_name("fresh")).write_text(text)
            fresh.replace(path)
            wait_for(lambda: self.gateway.log().count("token keys reloaded") > before, "it has read them")

        self.addCleanup(write, kept)
        write(json.dumps({"keys": [it for it in json.loads(kept)["keys"] if it["kid"] != "ES256"]}))
        self.assertEqual(ask("ES256"), 401)
        self.assertEqual(ask("RS256"), 200)
