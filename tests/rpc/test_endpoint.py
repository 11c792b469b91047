"""Connections of the endpoint: from the login to the end of the session, on a wire in memory."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from OpenSSL.crypto import X509
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.testing import StringTransport

from gateway import __version__, errors
from gateway.core import dev_pki
from gateway.core.tickets import Grant, Kind, Rights
from gateway.rpc import answers_control, commands
from gateway.rpc.answers_control import Orders
from gateway.rpc.command import Command
from gateway.rpc.endpoint import FEATURES, PROTOCOL, Connection, Door, users
from gateway.wire.amp_box import BoxReader, pack
from tests.rpc.desk_case import DeskCase
from tests.rpc.keeping import NOW


class Wire(StringTransport):
    """Keeps what is sent, and remembers being cut."""

    cut = False
    subject = ""

    def abortConnection(self) -> None:
        self.cut = True

    def getPeerCertificate(self) -> X509 | None:
        """The one of the client."""
        if not self.subject:
            return None
        return X509.from_cryptography(dev_pki.authority(datetime.now(UTC), self.subject).certificate)


class Client:
    """The other end of one connection."""

    def __init__(self, door: Door, subject: str) -> None:
        self.side: Connection = door.buildProtocol(None)
        self.wire = Wire()
        self.wire.subject = subject
        self.side.makeConnection(self.wire)
        self._number = 0

    def ask(self, command: type[Command], **arguments: Any) -> None:
        """Send a call; its number is one more than that of the one before."""
        self._number += 1
        box = command.makeArguments(arguments)
        box[b"_command"], box[b"_ask"] = command.commandName, b"%x" % self._number
        self.side.dataReceived(pack(box))

    def heard(self) -> list[dict[bytes, bytes]]:
        """What has come since the last time."""
        reader = BoxReader((1 << 26, 1 << 12))
        reader.feed(self.wire.value())
        self.wire.clear()
        found = []
        while (box := reader.next()) is not None:
            found.append(box)
        return found

    def leave(self) -> None:
        self.side.connectionLost()


class EndpointTests(DeskCase):
    def setUp(self) -> None:
        super().setUp()
        self.refusals: list[tuple[str, str]] = []
        self.drained = 0
        self.judging: Deferred[None] = succeed(None)
        self.door = Door(
            self.clock,
            self.logins,
            lambda peer, error: self.refusals.append((peer, error.reason)),
            self.judge,
        )
        self.door.desk = self.desk
        self.door.users = users([])
        orders = Orders(
            self.registry, self.sessions, self.drain, self.reload, lambda first, limit: [{"seq": first}]
        )
        self.door.operators = answers_control.responders(orders)
        self.clients: list[Client] = []

    def tearDown(self) -> None:
        for client in self.clients:
            client.leave()
        self.assertEqual(self.door.connections, {})
        super().tearDown()

    def drain(self) -> int:
        self.drained += 1
        return len(self.sessions)

    async def reload(self) -> list[str]:
        raise errors.ConfigError(["[rpc] listen: no"])

    async def judge(self, transport: Any) -> None:
        """Look at an address, as long as the test wants."""
        await self.judging

    def client(self, subject: str = "") -> Client:
        """A connection; with a *subject* it shows a certificate."""
        self.clients.append(Client(self.door, subject))
        return self.clients[-1]

    def inside(self, **ticket: Any) -> Client:
        client = self.client()
        self.ask(client, commands.Login, token=self.ticket(**ticket))
        return client

    def ask(self, client: Client, command: type[Command], **arguments: Any) -> dict[str, Any]:
        """The answer to a call."""
        client.ask(command, **arguments)
        self.turn()
        (box,) = client.heard()
        return command.parseResponse(box)

    def refused(self, client: Client, command: type[Command], **arguments: Any) -> tuple[str, dict[str, Any]]:
        """The code and the details of an error."""
        client.ask(command, **arguments)
        self.turn()
        (box,) = client.heard()
        return box[b"_error_code"].decode(), json.loads(box[b"_error_description"])

    def test_login(self) -> None:
        """Who has logged in is told who it is, and until when."""
        client = self.client()
        told = self.ask(client, commands.Login, token=self.ticket())
        (session,) = self.sessions.list()
        ends = datetime.fromtimestamp(NOW + 300, UTC)
        self.assertEqual(
            told, {"session": session.id, "principal": "alice", "expires": ends, "features": list(FEATURES)}
        )
        self.assertEqual([it.caller.principal for it in self.desk.seats], ["alice"])

    def test_version(self) -> None:
        """Whom one talks to is told before the login and afterwards."""
        client = self.client()
        for _ in range(2):
            self.assertEqual(
                self.ask(client, commands.Version), {"gateway": __version__, "protocol": PROTOCOL}
            )
            if client.side.seat is None:
                self.ask(client, commands.Login, token=self.ticket())

    def test_strangers(self) -> None:
        """Before the login nothing else is answered, and nobody logs in twice on one connection."""
        client = self.client()
        for command, given in ((commands.Targets, {}), (commands.AddTicket, {"ticket": "{}"})):
            self.assertEqual(self.refused(client, command, **given)[0], "UNAUTHENTICATED")
        code, told = self.refused(client, commands.Login, token="x" * 24)
        self.assertEqual(
            (code, told), ("UNAUTHENTICATED", {"text": "The ticket is unknown, or it has expired"})
        )
        self.assertEqual(self.refused(client, commands.Login, token="")[0], "UNAUTHENTICATED")
        self.assertEqual([reason for _, reason in self.refusals], ["unknown", "unauthenticated"])
        self.ask(client, commands.Login, token=self.ticket())
        self.assertEqual(self.refused(client, commands.Login, token="t" * 24)[0], "DENIED")

    def test_counted(self) -> None:
        """A session counts the bytes of its calls, from the login on, and the audit trail has them."""
        client = self.inside()
        (session,) = self.sessions.list()
        before = session.bytes_in, session.bytes_out
        client.wire.clear()
        client.ask(commands.Version)
        self.turn()
        answer = len(client.wire.value())
        self.assertGreater(answer, 0)
        asked = len(pack({b"_command": b"Version", b"_ask": b"2"}))
        self.assertEqual((session.bytes_in - before[0], session.bytes_out - before[1]), (asked, answer))

    def test_ended(self) -> None:
        """When the ticket ends, calls under way hear it, and then the connection is over."""
        client = self.inside()
        handle = self.ask(client, commands.Open, target="lab")["handle"]
        client.ask(commands.GetHostname, handle=handle)
        self.turn()
        self.assertEqual([it.name for it in self.daemon.asked], ["CONNECT_GET_HOSTNAME"])
        self.ok(self.registry.revoke("t" * 24))
        answer, farewell = client.heard()
        self.assertEqual((answer[b"_error_code"], answer[b"_error"]), (b"EXPIRED", b"3"))
        self.assertEqual((farewell[b"_error_code"], farewell[b"_error"]), (b"EXPIRED", b""))
        self.assertTrue(client.wire.disconnecting)
        client.ask(commands.Targets)
        self.assertEqual((client.heard(), len(self.sessions)), ([], 0))

    def test_left(self) -> None:
        """Who leaves is gone: its session, its seat, its calls and its subscriptions."""
        client = self.inside()
        handle = self.ask(client, commands.Open, target="lab")["handle"]
        self.ask(client, commands.Subscribe, handle=handle, kinds=["*"])
        client.ask(commands.GetHostname, handle=handle)
        client.leave()
        self.clients.remove(client)
        self.assertEqual((len(self.sessions), len(self.desk.seats)), (0, 0))
        hub = next(iter(self.sites)).hub
        self.assertEqual(len(hub._log._subscriptions), 0)
        self.assertIn(("CONNECT_GET_HOSTNAME", "cancelled"), self.seen)

    def test_left_in_the_login(self) -> None:
        """Who leaves while its address is looked at leaves no session."""
        self.judging = Deferred()
        client = self.client("op-anna")
        client.ask(commands.Login, token="")
        self.assertNoResult(self.judging)
        client.leave()
        self.clients.remove(client)
        self.turn()
        self.assertEqual((len(self.sessions), len(self.desk.seats)), (0, 0))

    def test_operators(self) -> None:
        """What is for operators is denied to others, at every single command."""
        client = self.inside(ops=("call", "admin"))
        self.assertEqual(self.ask(client, commands.Drain), {"draining": True, "sessions": 1})
        self.ticket(ops=("call",), rights=Rights())
        for command, given in (
            (commands.Drain, {}),
            (commands.Reload, {}),
            (commands.GetTicket, {"id": "t" * 24}),
        ):
            code, told = self.refused(client, command, **given)
            self.assertEqual((code, told["perm"]), ("DENIED", f"command:{command.__name__}"))
        self.assertEqual(self.drained, 1)

    def test_all(self) -> None:
        """Every command that a client may give is answered by somebody, those of tickets for bytes apart."""
        bytes_of: set[type[Command]] = {commands.Console, commands.Graphics, commands.Screenshot}
        bytes_of |= {commands.VolUpload, commands.VolDownload}
        answered: set[type[Command]] = {
            *self.door.users,
            *self.door.operators,
            commands.Login,
            commands.Version,
        }
        self.assertEqual(set(commands.COMMANDS.values()) - answered, {commands.Event, *bytes_of})
        self.assertEqual({it for it in answered if it.admin}, set(self.door.operators))

    def test_orders(self) -> None:
        """Operators are told what is wrong with a configuration, and read the trail from where they say."""
        client = self.inside(ops=("call", "admin"))
        code, told = self.refused(client, commands.Reload)
        self.assertEqual(code, "CONFLICT")
        self.assertIn("[rpc] listen: no", told["text"])
        self.assertEqual(self.ask(client, commands.Audit, from_=7), {"records": '[{"seq": 7}]'})
        self.assertEqual(self.refused(client, commands.EndSession, id="none")[0], "NOT_FOUND")

    def test_more_urls(self) -> None:
        """A tunnel is renewed with the host that its machine moves to; by what rules, is said in words."""
        client = self.inside(ops=("call", "admin"))
        first, second, long = "spice://h1.invalid:5900", "tcp://h2.invalid:1", 2**31 - 1
        grant = Grant(Kind.TUNNEL, "n" * 24, first, (first,), ("connect",), 60)
        ticket = self.ok(self.registry.add(grant))
        renew: dict[str, Any] = {"id": grant.uuid, "timeout": 900.0}
        self.assertEqual(self.ask(client, commands.RenewTicket, **renew, urls=[second, first]), {})
        self.assertEqual((ticket.grant.urls, ticket.deadline - self.clock.seconds()), ((first, second), 900))
        self.ask(client, commands.RenewTicket, id=grant.uuid, timeout=5)
        for given, word in (
            ({"urls": ["file:///etc/passwd"]}, "Unsupported url scheme: file"),
            ({"urls": ["spice://h3.invalid"]}, "the url needs a port"),
            ({"urls": [f"tcp://h.invalid:{port}" for port in range(1, 64)]}, "64 in all"),
            ({"urls": [second], "id": "t" * 24}, "Only the ticket of a tunnel"),
            ({"urls": [second], "timeout": long + 1.0}, f"at most {long}"),
        ):
            code, told = self.refused(client, commands.RenewTicket, **(renew | given))
            self.assertSubstring(word, told["text"])
            self.assertIn(code, {"BAD_REQUEST", "BAD_ARGS"})
        self.assertEqual((ticket.grant.urls, ticket.deadline - self.clock.seconds()), ((first, second), 5))

    def test_own_end(self) -> None:
        """Who ends its own session gets an answer first."""
        client = self.inside(ops=("call", "admin"))
        (session,) = self.sessions.list()
        client.ask(commands.EndSession, id=session.id)
        self.turn()
        answer, farewell = client.heard()
        self.assertEqual((answer, farewell[b"_error_code"]), ({b"_answer": b"2"}, b"EXPIRED"))

    def test_drain(self) -> None:
        """Nobody is let in any more; who waits for nothing goes at once, who does with its last answer."""
        idle, busy, stranger = self.inside(), self.inside(), self.client()
        handle = self.ask(busy, commands.Open, target="lab")["handle"]
        busy.ask(commands.GetHostname, handle=handle)
        self.turn()
        self.door.drain()
        late = self.client()
        self.assertEqual(self.refused(late, commands.Login, token="t" * 24)[0], "UNAVAILABLE")
        self.assertEqual([it[b"_error_code"] for it in idle.heard()], [b"UNAVAILABLE"])
        self.assertEqual([it[b"_error_code"] for it in stranger.heard()], [b"UNAVAILABLE"])
        self.turn(1)
        self.assertFalse(busy.wire.disconnecting)
        self.answer("CONNECT_GET_HOSTNAME", hostname="here")
        self.turn(0.2)
        answer, farewell = busy.heard()
        self.assertEqual((answer[b"hostname"], farewell[b"_error_code"]), (b"here", b"UNAVAILABLE"))

    def test_close(self) -> None:
        """At the end everybody is told that it is."""
        clients = [self.inside(), self.client()]
        self.door.close()
        for client in clients:
            self.assertEqual([it[b"_error_code"] for it in client.heard()], [b"UNAVAILABLE"])

    def test_certificate(self) -> None:
        """Without a token it is the certificate that counts; and the address, where it has to."""
        client = self.client("op-anna")
        self.assertEqual(self.ask(client, commands.Login, token="")["principal"], "CN=op-anna")
        self.assertEqual(self.ask(client, commands.Drain)["sessions"], 1)
        for subject, judging in (
            ("anna", succeed(None)),
            ("op-eve", fail(errors.Unauthenticated(reason="address"))),
        ):
            self.judging = judging
            self.assertEqual(
                self.refused(self.client(subject), commands.Login, token="")[0], "UNAUTHENTICATED"
            )
        self.assertEqual([reason for _, reason in self.refusals], ["subject", "address"])
        # With both it is the token.
        both = self.client("op-anna")
        self.assertEqual(self.ask(both, commands.Login, token=self.ticket())["principal"], "alice")
