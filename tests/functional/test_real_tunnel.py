"""Native SPICE clients through the tunnel: real ones, real machines, plain and TLS on either side."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from tests.functional.case import PYTEST_ONLY
from tests.functional.hypervisor import Qemu
from tests.functional.peers import Sections
from tests.functional.processes import HOST, short_directory, wait_for
from tests.functional.tunnel_case import TunnelCase, machine, picture, screenshot

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

PASSWORD = "sekret12"


class ScreenshotTests(TunnelCase):
    """spicy-screenshot: the same picture as without us."""

    qemu: ClassVar[Qemu]
    direct: ClassVar[bytes]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.qemu = machine(cls, PASSWORD, tls=True)
        file = cls.home / "direct.ppm"
        assert screenshot(file, *cls.plain_way()) == 0
        cls.direct = file.read_bytes()

    @classmethod
    def plain_way(cls) -> list[str]:
        return ["-h", HOST, "-p", str(cls.qemu.spice_port), "-w", PASSWORD]

    @classmethod
    def tls_way(cls) -> list[str]:
        return ["-h", "localhost", "-s", str(cls.qemu.spice_tls_port), "-w", PASSWORD]

    def look(self, proxy: str, *, tls: bool = False, trust: Path | None = None) -> int:
        """How a client exits, whose picture is the direct one if that is 0."""
        file = self.home / "via.ppm"
        where, ca = (self.tls_way(), self.qemu.credentials.ca) if tls else (self.plain_way(), None)
        code = screenshot(file, *where, proxy=proxy, ca=ca, trust=trust)
        if code == 0:
            self.assertEqual(file.read_bytes(), self.direct)
        return code

    def names(self, ticket: str) -> set[str]:
        """What the tunnels of a ticket were, once they are closed."""
        return {it["target"].partition(" ")[2] for it in self.closed(ticket)}

    def test_picture(self) -> None:
        """It is a picture of the machine's own screen."""
        self.assertEqual(picture(self.home / "direct.ppm"), self.qemu.screen())

    def test_plain(self) -> None:
        """Through 3128 and 3129, SPICE without TLS; the trail names each channel."""
        for secure in (False, True):
            ticket = self.grant(f"spice://{HOST}:{self.qemu.spice_port}", uses=1, principal="alice")
            trust = self.gateway.ca if secure else None
            self.assertEqual(self.look(self.proxy(ticket, tls=secure), trust=trust), 0)
            self.assertEqual(self.names(ticket), {"main", "display"})
            record = self.closed(ticket)[-1]
            self.assertEqual(
                (record["principal"], record["listener"], record["peer"]), ("alice", "tunnel", HOST)
            )
            self.assertGreater(sum(it["bytes_out"] for it in self.closed(ticket)), 10_000)
            self.assertNotEqual(self.look(self.proxy(ticket, tls=secure), trust=trust), 0, "it is used up")

    def test_tls(self) -> None:
        """Through both, SPICE with TLS; the ticket has the second port as a part of its URL."""
        url = f"spice://localhost:{self.qemu.spice_port}?tls-port={self.qemu.spice_tls_port}"
        for secure in (False, True):
            ticket, trust = self.grant(url), self.gateway.ca if secure else None
            self.assertEqual(self.look(self.proxy(ticket, tls=secure), tls=True, trust=trust), 0)
            self.assertEqual(self.names(ticket), {"tls"})

    def test_refused(self) -> None:
        """Without a ticket, with a wrong one, an expired one or another machine's there is no picture."""
        good = f"spice://{HOST}:{self.qemu.spice_port}"
        expired, elsewhere = self.grant(good), self.grant("spice://127.0.0.1:1")
        self.assertEqual(self.gateway.renew(expired, 0).status, 200)
        wait_for(lambda: not self.qemu.spice_channels(), "nobody is at the machine any more")
        for ticket in ("", "0" * 36, expired, elsewhere):
            self.assertEqual(self.look(self.proxy(ticket)), 1)
        self.assertEqual(self.qemu.spice_channels(), [])

    def test_untrusted(self) -> None:
        """A client that does not know our authority shows its ticket to nobody."""
        ticket = self.grant(f"spice://{HOST}:{self.qemu.spice_port}", uses=1)
        self.assertEqual(self.look(self.proxy(ticket, tls=True)), 1)
        self.assertEqual(self.look(self.proxy(ticket)), 0)

    def test_ticket_in_host(self) -> None:
        """As files of Proxmox have it: the ticket stands where the host would."""
        ticket = self.grant(f"spice://{HOST}:{self.qemu.spice_port}")
        where = ["-h", f"pvespiceproxy:{ticket.upper()}:100:node::x", "-p", str(self.qemu.spice_port)]
        file = self.home / "words.ppm"
        self.assertEqual(screenshot(file, *where, "-w", PASSWORD, proxy=self.proxy()), 0)
        self.assertEqual(file.read_bytes(), self.direct)

    def test_counted(self) -> None:
        """Metrics count tunnels by channel, and no label is a ticket."""
        self.look(self.proxy(self.grant(f"spice://{HOST}:{self.qemu.spice_port}")))
        wait_for(lambda: not self.gateway.sessions(), "no tunnel is up")
        text = self.gateway._plain(self.gateway.metrics_port, "GET", "/metrics").body.decode()
        self.assertRegex(text, r'gateway_tunnels_total\{channel="main"\} [1-9]')
        self.assertRegex(
            text, r'gateway_upstream_connects_total\{kind="tunnel",result="ok",target=""\} [1-9]'
        )
        self.assertRegex(text, r'gateway_sessions_total\{kind="tunnel",reason="(client|lost)"\} [1-9]')


class TokenTests(TunnelCase):
    """A signed token in the place of a ticket."""

    key: ClassVar[rsa.RSAPrivateKey]

    @classmethod
    def setUpClass(cls) -> None:
        cls.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = RSAAlgorithm.to_jwk(cls.key.public_key(), as_dict=True)
        public = {name: value for name, value in public.items() if name != "key_ops"}
        directory = short_directory()
        cls.addClassCleanup(shutil.rmtree, directory)
        keys = directory / "keys.json"
        keys.write_text(json.dumps({"keys": [{**public, "kid": "k", "alg": "RS256"}]}))
        cls.sections = {"tokens": {"jwt_keys": str(keys), "jwt_audience": "the-gateway"}}
        super().setUpClass()

    def sign(self, url: str, key: rsa.RSAPrivateKey | None = None, **more: object) -> str:
        now = int(time.time())
        ticket = {"uuid": str(uuid4()), "kind": "tunnel", "urls": [url], "ops": ["connect"], "timeout": 300}
        claims = {"sub": "alice", "aud": "the-gateway", "jti": str(uuid4()), "iat": now, "nbf": now}
        claims |= {"exp": now + 300, "ticket": ticket | more}
        return jwt.encode(claims, key or self.key, algorithm="RS256", headers={"kid": "k"})

    def test_token(self) -> None:
        """As the password in the proxy's URL it opens a console, once if it says so; a bad one does not."""
        qemu = machine(type(self))
        where, file = ["-h", HOST, "-p", str(qemu.spice_port)], self.home / "token.ppm"
        url = f"spice://{HOST}:{qemu.spice_port}"
        once = self.sign(url, uses=1)
        self.assertEqual(screenshot(file, *where, proxy=self.proxy(once)), 0)
        self.assertEqual(picture(file), qemu.screen())
        wait_for(lambda: not self.gateway.sessions(), "no tunnel is up")
        self.assertEqual({it["principal"] for it in self.trail()}, {"alice"})
        wait_for(lambda: not qemu.spice_channels(), "nobody is at the machine any more")
        stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        tokens = [once, self.sign(url, stranger), self.sign("spice://127.0.0.1:1"), self.sign(url, ops=[])]
        tokens.append(self.sign(url, kind="console"))
        for token in tokens:
            self.assertEqual(screenshot(file, *where, proxy=self.proxy(token)), 1)
            self.assertNotIn(token, self.written())
        self.assertEqual(qemu.spice_channels(), [])


class FreeTests(TunnelCase):
    """Address rules in the place of tickets."""

    more: ClassVar[dict[str, str]] = {"allow_from": "127.0.0.0/30", "ports": "1024-65535"}
    sections: ClassVar[Sections] = {"policy": {"allow": "spice://127.0.0.0/8:*"}}

    def test_no_ticket(self) -> None:
        """A listed address gets its picture without a ticket, as with Squid; another one does not."""
        qemu = machine(type(self))
        where = ["-h", HOST, "-p", str(qemu.spice_port)]
        self.assertEqual(screenshot(self.home / "direct.ppm", *where), 0)
        self.assertEqual(screenshot(self.home / "via.ppm", *where, proxy=self.proxy()), 0)
        self.assertEqual((self.home / "via.ppm").read_bytes(), (self.home / "direct.ppm").read_bytes())
        wait_for(lambda: len(self.trail()) >= 2, "tunnels in the trail")
        self.assertTrue(all(it.get("ticket") is None for it in self.trail()))
        stranger = self.client(source="127.0.0.9")
        self.assertEqual(stranger.connect(f"{HOST}:{qemu.spice_port}"), 407)
        self.assertEqual(self.status(f"{HOST}:22"), 403)
        self.assertEqual(self.status("10.1.2.3:5900"), 403)
