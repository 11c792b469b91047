"""The listeners of stock libvirt clients: who needs no login, and who is let in at all."""

from __future__ import annotations

import os
import socket
import struct
from datetime import UTC, datetime
from getpass import getuser
from pwd import getpwuid
from typing import Any

from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto
from twisted.internet.interfaces import ISSLTransport
from zope.interface import directlyProvides

from gateway import errors
from gateway.core import dev_pki
from gateway.rpc.libvirt_door import Port, local_user
from tests.rpc.libvirt_stage import Client, LibvirtStage
from tests.rpc.wire_case import Wire

NAME = "test:///default?target=lab"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Secure(Wire):
    """A wire by which a client has shown a certificate, or none."""

    certificate: crypto.X509 | None = None

    def __init__(self) -> None:
        super().__init__()
        directlyProvides(self, ISSLTransport)

    def getPeerCertificate(self) -> crypto.X509 | None:
        return self.certificate


class PortTests(LibvirtStage):
    """Clients of all ports."""

    def client_of(self, port: Port, wire: Wire) -> Client:
        """Somebody who has connected over *wire*."""
        client = self.client(port)
        client.server.transport = wire
        return client

    def shows(self, common_name: str) -> Secure:
        """A wire with a certificate."""
        authority = dev_pki.authority(NOW)
        made = authority.issue(common_name, now=NOW, usages=[ExtendedKeyUsageOID.CLIENT_AUTH])
        wire = Secure()
        wire.certificate = crypto.X509.from_cryptography(made.certificate)
        return wire

    def test_certificate(self) -> None:
        """The holder of a certificate that the configuration names needs no login, and may do everything."""
        self.door.logins.subjects = ("*CN=operator",)
        client = self.client_of(self.port, self.shows("operator"))
        self.assertEqual(client.call("AUTH_LIST"), {"types": [0]})
        self.assertEqual(len(self.judged), 1)
        self.assertEqual(client.call("CONNECT_OPEN", name=NAME, flags=0), {})
        self.assertTrue(self.sessions.list()[0].principal.endswith("CN=operator"))

    def test_other_certificates(self) -> None:
        """Others, and those who show none, are asked for a login; a name is compared to its end."""
        self.door.logins.subjects = ("*CN=operator",)
        for wire in (self.shows("operators"), self.shows("alice"), Secure()):
            self.assertEqual(self.client_of(self.port, wire).call("AUTH_LIST"), {"types": [1, 2]})
        self.assertEqual(self.refused, ["subject", "subject"])
        self.door.logins.subjects = ()
        self.assertEqual(
            self.client_of(self.port, self.shows("operator")).call("AUTH_LIST"), {"types": [1, 2]}
        )

    def test_address(self) -> None:
        """A certificate that comes from elsewhere is none."""

        async def elsewhere(_: object) -> None:
            raise errors.Unauthenticated(reason="address")

        self.door.judge = elsewhere
        self.door.logins.subjects = ("*",)
        self.assertEqual(
            self.client_of(self.port, self.shows("operator")).call("AUTH_LIST"), {"types": [1, 2]}
        )
        self.assertEqual(self.refused, ["address"])

    def test_certificate_on_a_plain_port(self) -> None:
        """Nobody is anybody by anything but a ticket where nothing is encrypted."""
        self.door.logins.subjects = ("*",)
        client = self.client(Port(self.door, tls=False))
        self.assertEqual(client.call("AUTH_LIST"), {"types": [0]})
        self.assertEqual(client.call("CONNECT_OPEN", name=NAME, flags=0), 45)
        self.assertEqual(client.call("CONNECT_IS_SECURE"), {"secure": 0})

    def test_local(self) -> None:
        """On the socket the users that the configuration names need no login, and all others do."""
        port = Port(self.door, tls=False, local=True)
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        for users, types in (((getuser(),), [0]), ((), [1, 2]), (("nobody-else",), [1, 2])):
            self.door.users = users
            wire: Any = Wire()
            wire.socket = ours
            self.assertEqual(self.client_of(port, wire).call("AUTH_LIST"), {"types": types})
        self.assertEqual(local_user(wire), getuser())

    def test_nameless(self) -> None:
        """A user without a name is called by its number, and is nobody else: not root, even if it is ours."""

        class Socket:
            def getsockopt(self, *_: int) -> bytes:
                return struct.pack("iII", 1, number, number)

        wire: Any = Wire()
        wire.socket = Socket()
        for number in (4_000_000_000, 3_999_999_999):
            with self.assertRaises(KeyError):
                getpwuid(number)
            self.assertEqual(local_user(wire), f"uid:{number}")
        number = 0
        self.assertEqual(local_user(wire), "root")
        self.patch(os, "geteuid", lambda: 3_999_999_999)
        number = 3_999_999_999
        self.assertEqual(local_user(wire), f"uid:{number}")

    def test_one_session(self) -> None:
        """Who asks twice who it is has one session all the same."""
        self.door.logins.subjects = ("*",)
        client = self.client_of(self.port, self.shows("operator"))
        asked = [client.message("AUTH_LIST") for _ in range(2)]
        client.say(*asked)
        self.assertEqual([client.answer(each) for each in asked], [{"types": [0]}] * 2)
        self.assertEqual(len(self.sessions.list()), 1)

    def test_close(self) -> None:
        """In the end everybody is cut off."""
        clients = [self.client(), self.opened()]
        self.port.drain()
        self.assertIsInstance(clients[1].call("CONNECT_LIST_ALL_DOMAINS", need_results=0, flags=0), dict)
        self.port.close()
        for client in clients:
            client.listen()
            self.assertTrue(client.lost)

    def test_incident(self) -> None:
        """A bug costs the call that met it, and is written down by the number that the client gets."""
        client = self.opened()

        def broken(*_: object) -> Any:
            raise ZeroDivisionError("secret")

        for site in self.sites:
            site.hub.learn = broken  # type: ignore[assignment, method-assign]  # it fails
        call = client.message("CONNECT_LIST_ALL_DOMAINS", need_results=1, flags=0)
        client.say(call)
        text = client.error(call).text
        self.assertIn("incident", text)
        self.assertNotIn("secret", text)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.trail[-1]["reason"], "internal")
        self.assertEqual(client.call("CONNECT_IS_SECURE"), {"secure": 1})
