"""The image relay between two peers that a test speaks for byte by byte, over real sockets.

The reactor is one of its own, turned by the test, so that nothing happens between two lines of a test;
all time limits follow a clock in the test's hand. What is real: sockets, TLS, the listener, the dialer.
"""

from __future__ import annotations

import shutil
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from attrs import define, field, frozen
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.internet.task import Clock
from twisted.protocols.tls import BufferingTLSTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from gateway import errors
from gateway.core import dev_pki, fasttls, tls
from gateway.core.audit import FIELDS
from gateway.core.channel import HttpChannel
from gateway.core.dial import Dialer
from gateway.core.exchange import Exchange
from gateway.core.http_client import HttpConnection, UpstreamPool
from gateway.core.pace import HttpLimits
from gateway.core.policy import Policy, parse_rule
from gateway.core.sessions import SessionTable
from gateway.core.tickets import SESSIONS, Kind, MemoryRegistry, Ticket
from gateway.core.upstreams import Upstreams
from gateway.core.web import GatewaySite
from gateway.images.access import Access
from gateway.images.cors import Cors
from gateway.images.service import ImageService
from gateway.images.targets import Targets
from gateway.wire.ticket_json import grant_from

ID = "11111111-2222-4333-8444-555555555555"
NOW = 1_800_000_000.0
UPSTREAM = 120.0
#: Bytes a peer takes in one turn.
_GULP = 256 * 1024
#: Seconds of real time in which what a test waits for has to happen.
_PATIENCE = 30.0
#: Bytes of the kernel's buffers on the peers' side, so that little is on the way.
_BUFFER = 128 * 1024


@cache
def own_reactor() -> Any:
    """The reactor of these tests."""
    return EPollReactor()


@cache
def issued() -> dev_pki.Issued:
    """A certificate for nobody in particular."""
    now = datetime.now(UTC)
    return dev_pki.authority(now).issue("host.invalid", now=now)


def server_context() -> SSL.Context:
    """What proves itself with :func:`issued`."""
    context = tls.basic_context(SSL.TLS_SERVER_METHOD)
    tls.present(context, [issued().certificate], issued().key)
    return context


@implementer(IOpenSSLServerConnectionCreator, IOpenSSLClientConnectionCreator)
class Encrypts:
    """Makes sides that look at no certificate."""

    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return SSL.Connection(self._context, None)

    clientConnectionForTLS = serverConnectionForTLS


@frozen
class Message:
    """A request or an answer; the names of fields are in lower case."""

    first: str
    fields: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def status(self) -> int:
        return int(self.first.split(" ")[1])


@define(eq=False)
class Peer:
    """One end of a connection.

    :ivar out: what is still to be sent; *piece* bytes at most go into one record or packet.
    :ivar got: what came and was not taken yet.
    :ivar ended: how the other side ended: ``close_notify``, ``eof``, ``reset`` or ``error``.
    """

    handle: socket.socket
    secure: SSL.Connection | None = None
    out: bytearray = field(factory=bytearray)
    got: bytearray = field(factory=bytearray)
    sent: int = 0
    received: int = 0
    piece: int = 65536
    reading: bool = True
    ended: str = ""
    closed: bool = False
    _owed: int = 0

    def step(self) -> None:
        """Send and receive what can be at once."""
        if self.closed:
            return
        try:
            self._send()
        except (SSL.WantReadError, SSL.WantWriteError, BlockingIOError):
            pass
        except (SSL.Error, OSError):
            self.out.clear()
        if self.reading and not self.ended:
            self._receive()

    def _send(self) -> None:
        if self.secure is not None:
            self.secure.do_handshake()
        for _ in range(64):
            if not self.out:
                return
            # What could not be sent is tried again as it was.
            data = bytes(self.out[: self._owed or self.piece])
            self._owed = len(data)
            done = self.handle.send(data) if self.secure is None else self.secure.send(data)
            self._owed = 0
            del self.out[:done]
            self.sent += done

    def _receive(self) -> None:
        taken = 0
        try:
            while taken < _GULP:
                data = self.handle.recv(65536) if self.secure is None else self.secure.recv(65536)
                if not data:
                    self.ended = "eof"
                    return
                self.got += data
                taken += len(data)
                self.received += len(data)
        except (SSL.WantReadError, SSL.WantWriteError, BlockingIOError):
            pass
        except SSL.ZeroReturnError:
            self.ended = "close_notify"
        except SSL.SysCallError as error:
            self.ended = "eof" if error.args[0] == -1 else "reset"
        except SSL.Error:
            self.ended = "error"
        except OSError:
            self.ended = "reset"

    def take(self) -> Message | None:
        """Take the next whole message off what came; None while there is none."""
        start = self.got.find(b"\r\n\r\n") + 4
        if start < 4:
            return None
        first, *lines = self.got[: start - 4].decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines)
        stop = start + int(fields.get("content-length", 0))
        if len(self.got) < stop:
            return None
        body = bytes(self.got[start:stop])
        del self.got[:stop]
        return Message(first, fields, body)

    def half_close(self) -> None:
        """End what is sent, without a word in TLS."""
        self.handle.shutdown(socket.SHUT_WR)

    def notify(self) -> None:
        """End what is sent, in good order."""
        if self.secure is None:
            self.half_close()
        else:
            self.secure.shutdown()

    def cut(self) -> None:
        """Reset the connection."""
        if not self.closed:
            self.closed = True
            if self.handle.family != socket.AF_UNIX:
                self.handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.handle.close()


def _tune(handle: socket.socket) -> None:
    handle.setblocking(False)
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    if handle.family != socket.AF_UNIX:
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class WireCase(SynchronousTestCase):
    """A relay at rest between two lines of a test.

    :cvar fast: whether it may go the fast way, or is held to Twisted's own as ``GATEWAY_FAST=off`` does.
    """

    client_tls = True
    host_tls = True
    fast = True
    rate: float | None = None
    operations: int | None = 8
    limits = HttpLimits()

    def setUp(self) -> None:
        # Whatever the environment says of this run.
        kind: Any = fasttls.FastTLS if self.fast else BufferingTLSTransport
        self.patch(fasttls, "TRANSPORT", kind)
        self.patch(tls._Factory, "protocol", kind)
        self.reactor = own_reactor()
        self.clock = Clock()
        self.directory = Path(tempfile.mkdtemp(prefix="wires"))
        self.peers: list[Peer] = []
        self.hosts: list[Peer] = []
        self.log: list[tuple[int, int, int]] = []
        self.trail: list[tuple[str, dict[str, object]]] = []
        self.addCleanup(shutil.rmtree, self.directory)
        self._listen_as_host()
        self._compose()
        self.delivered = {HttpChannel: 0, HttpConnection: 0}
        for kind in self.delivered:
            self._watch(kind)
        self.addCleanup(self.clear)

    def _watch(self, kind: Any) -> None:
        """Count the bytes that a protocol is given."""
        original = kind.dataReceived

        def dataReceived(protocol: Any, data: bytes) -> None:
            self.delivered[kind] += len(data)
            original(protocol, data)

        self.patch(kind, "dataReceived", dataReceived)

    def _listen_as_host(self) -> None:
        if self.host_tls:
            self.host_listener = socket.create_server(("127.0.0.1", 0))
            self.url = f"https://127.0.0.1:{self.host_listener.getsockname()[1]}"
        else:
            path = self.directory / "host"
            self.host_listener = socket.socket(socket.AF_UNIX)
            self.host_listener.bind(str(path))
            self.host_listener.listen()
            self.url = "http+unix://" + quote(str(path), safe="")
        self.host_listener.setblocking(False)

    def _compose(self) -> None:
        self.registry = MemoryRegistry(
            self.clock, self.wall, sessions_per_ticket=SESSIONS | {Kind.IMAGE: None}, audit=self._audit
        )
        self.sessions = SessionTable(self.clock, self.wall, self.registry, self._audit)
        self.pool = UpstreamPool(self.clock)
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_verify(SSL.VERIFY_NONE)
        trust = Encrypts(context)
        dialer = Dialer(self.reactor, Policy([parse_rule("*://127.0.0.0/8:*")]))
        upstreams = Upstreams(dialer, self.pool, lambda host: trust, self.clock, UPSTREAM)
        verifier: Any = None
        in_thread: Any = None
        service = ImageService(
            access=Access(self.registry, verifier, self.clock, self.wall),
            registry=self.registry,
            sessions=self.sessions,
            targets=Targets(upstreams, in_thread),
            cors=Cors(()),
            clock=self.clock,
            rate=self.rate,
            operations=self.operations,
        )
        self.refused: list[errors.GatewayError] = []
        self.site = GatewaySite(
            self.clock,
            limits=self.limits,
            observe=self._observe,
            refused=lambda peer, error: self.refused.append(error),
        )
        self.site.routes.append(service.route)
        if self.client_tls:
            factory = tls.tls_factory(Encrypts(server_context()), self.site, self.reactor)
            self.port = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        else:
            self.port = self.reactor.listenUNIX(str(self.directory / "gateway"), self.site)

    def _observe(self, exchange: Exchange, seconds: float) -> None:
        self.log.append((exchange.status, exchange.body.received, exchange.sent))

    def _audit(self, event: str, /, **fields: object) -> None:
        self.assertLessEqual(fields.keys(), FIELDS, "what the audit trail may say")
        self.trail.append((event, fields))

    def wall(self) -> float:
        return NOW + self.clock.seconds()

    def clear(self) -> None:
        """Nothing may be left: no connection, no timer, no session, no descriptor."""
        stopped: list[object] = []
        self.port.stopListening().addCallback(stopped.append)
        for peer in [*self.peers, *self.hosts]:
            peer.cut()
        self.host_listener.close()
        self.until(lambda: bool(stopped) and not self.site._channels and not self.sessions.list())
        self.pool.close()
        self.registry.stop()
        own = set(self.reactor._internalReaders)
        self.until(lambda: not (set(self.reactor.getReaders()) | set(self.reactor.getWriters())) - own)
        self.assertEqual([str(call) for call in self.clock.getDelayedCalls()], [])

    # -- driving ---------------------------------------------------------------------------

    def step(self) -> None:
        """One turn of everybody."""
        self.turn()
        self._accept()
        for peer in [*self.peers, *self.hosts]:
            peer.step()

    def turn(self) -> None:
        """One turn of the gateway."""
        self.reactor.iterate(0)
        self.clock.advance(0)

    def until(self, happened: Callable[[], object]) -> None:
        """Turn until something is true."""
        give_up = time.monotonic() + _PATIENCE
        while not happened():
            if time.monotonic() > give_up:
                raise AssertionError(f"it does not happen: {[*self.peers, *self.hosts]} {self.log}"[:2000])
            self.step()

    def rest(self) -> None:
        """Turn until nothing moves any more."""
        still, before = 0, -1
        while still < 20:
            self.step()
            now = sum(peer.sent + peer.received + bool(peer.ended) for peer in [*self.peers, *self.hosts])
            still, before = (still + 1, before) if now == before else (0, now)

    def pass_time(self, seconds: float, step: float) -> None:
        """Let time pass."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            self.rest()

    def _accept(self) -> None:
        if self.host_listener.fileno() < 0:
            return
        try:
            handle, _ = self.host_listener.accept()
        except BlockingIOError:
            return
        _tune(handle)
        secure = None
        if self.host_tls:
            secure = SSL.Connection(server_context(), handle)
            secure.set_accept_state()
        self.hosts.append(Peer(handle, secure))

    def connect(self, context: SSL.Context | None = None) -> Peer:
        """A new client."""
        secure = None
        if self.client_tls:
            handle = socket.create_connection(("127.0.0.1", self.port.getHost().port))
            context = context or SSL.Context(SSL.TLS_METHOD)
            context.set_verify(SSL.VERIFY_NONE)
            secure = SSL.Connection(context, handle)
            secure.set_connect_state()
        else:
            handle = socket.socket(socket.AF_UNIX)
            handle.connect(str(self.directory / "gateway"))
        _tune(handle)
        peer = Peer(handle, secure)
        self.peers.append(peer)
        return peer

    def add(self, size: int, ticket_id: str = ID, **members: object) -> Ticket:
        """Install a ticket for an image of *size* bytes."""
        ticket = {
            "uuid": ticket_id,
            "url": f"{self.url}/images/{ticket_id}",
            "ops": ["write"],
            "timeout": 100_000,
            "size": size,
            **members,
        }
        added: Deferred[Ticket] = Deferred.fromCoroutine(self.registry.add(grant_from(ticket)))
        return self.successResultOf(added)

    @staticmethod
    def request(method: str, body: bytes = b"", ticket_id: str = ID, **fields: object) -> bytes:
        """A request for an image; underscores in names of fields stand for dashes."""
        lines = [f"{method} /images/{ticket_id} HTTP/1.1", "host: gateway.invalid"]
        if method == "PUT" and "content_length" not in fields:
            lines.append(f"content-length: {len(body)}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        return "\r\n".join([*lines, "", ""]).encode("ascii") + body

    @staticmethod
    def answer(body: bytes = b"", status: int = 200, **fields: object) -> bytes:
        """An answer of the host."""
        fields.setdefault("content_length", len(body))
        lines = [f"HTTP/1.1 {status} Whatever"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        return "\r\n".join([*lines, "", ""]).encode("ascii") + body

    def begun(self, number: int = 0) -> Peer:
        """The connection to the host that was made as this one, once the head of a request came on it."""
        self.until(lambda: len(self.hosts) > number and b"\r\n\r\n" in self.hosts[number].got)
        return self.hosts[number]

    def taken(self, peer: Peer) -> Message:
        """The next whole message that *peer* receives."""
        found: list[Message] = []

        def take() -> bool:
            message = peer.take()
            if message is not None:
                found.append(message)
            return bool(found)

        self.until(take)
        return found[0]

    def session(self) -> Any:
        """The only session there is."""
        (session,) = self.sessions.list()
        return session

    def closings(self) -> list[tuple[object, object, object]]:
        """Why each session closed, and the bytes that went in and out."""
        return [
            (fields["reason"], fields["bytes_in"], fields["bytes_out"])
            for event, fields in self.trail
            if event == "session.close"
        ]


__all__ = ["ID", "UPSTREAM", "Message", "Peer", "WireCase"]
