"""The image relay as the appliance composes it, on wires in memory and a clock in the test's hand."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import jwt
from attrs import define, field, frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.control import Orders, control_tree
from gateway.core import dev_pki
from gateway.core.http_client import UpstreamPool
from gateway.core.pace import HttpLimits
from gateway.core.policy import Policy, parse_rule
from gateway.core.sessions import SessionTable
from gateway.core.signers import issue_envelope, load_signers
from gateway.core.tickets import SESSIONS, Kind, MemoryRegistry, Ticket
from gateway.core.tokens import TokenVerifier
from gateway.core.upstreams import Upstreams
from gateway.core.web import GatewaySite
from gateway.images.access import Access
from gateway.images.cors import Cors
from gateway.images.service import ImageService
from gateway.images.targets import Targets
from gateway.wire.ticket_json import Grant, grant_from
from tests.images.host import ImageHost, Network

T = TypeVar("T")
NOW = 1_800_000_000.0
ID = "11111111-2222-4333-8444-555555555555"
OTHER = "66666666-7777-4888-8999-000000000000"
HOST = "192.0.2.50"
PORT = 54322
UPSTREAM = 120.0


@cache
def engine() -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    """The engine's key and certificate."""
    now = datetime.fromtimestamp(NOW, UTC)
    issued = dev_pki.authority(now).issue("engine.invalid", now=now, key=dev_pki.rsa_key())
    key = issued.key
    assert isinstance(key, rsa.RSAPrivateKey)
    return key, issued.certificate


@cache
def signer() -> ed25519.Ed25519PrivateKey:
    """The key of an issuer of JSON web tokens."""
    return ed25519.Ed25519PrivateKey.generate()


@frozen
class Reply:
    """An answer; the names of fields are in lower case."""

    status: int
    fields: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def text(self) -> str:
        return self.body.decode("utf-8")

    def json(self) -> Any:
        return json.loads(self.body)


class Client(Protocol):
    """A client that keeps all it receives."""

    transport: Any

    def __init__(self) -> None:
        self.got = bytearray()
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    @property
    def head(self) -> tuple[int, dict[str, str]] | None:
        """The head of the next answer, once it is in."""
        block, blank, _ = bytes(self.got).partition(b"\r\n\r\n")
        if not blank:
            return None
        first, *lines = block.decode("latin-1").split("\r\n")
        return int(first.split(" ")[1]), dict(line.split(": ", 1) for line in lines)

    def take(self, method: str = "GET") -> Reply | None:
        """Take the next whole answer off what was received; None while there is none."""
        while (head := self.head) is not None and head[0] == 100:
            del self.got[: self.got.find(b"\r\n\r\n") + 4]
        if head is None:
            return None
        begin = self.got.find(b"\r\n\r\n") + 4
        status, fields = head
        length = 0 if method == "HEAD" or status == 204 else int(fields.get("content-length", -1))
        if length < 0:
            if self.lost is None:
                return None
            length = len(self.got) - begin
        if len(self.got) < begin + length:
            return None
        body = bytes(self.got[begin : begin + length])
        del self.got[: begin + length]
        return Reply(status, fields, body)


class MemoryDialer:
    """Finds servers on the network, after the policy said yes."""

    def __init__(self, network: Network, policy: Policy) -> None:
        self.network = network
        self.policy = policy
        self.dialed: list[object] = []
        self.fails: list[errors.GatewayError] = []

    async def connect(
        self, scheme: str, host: str, port: int, factory: IProtocolFactory, *, tls: object = None
    ) -> IProtocol:
        self.policy.judge(scheme, host, host, port)
        return self._open((host, port), factory)

    async def connect_unix(self, path: str, factory: IProtocolFactory) -> IProtocol:
        return self._open(path, factory)

    def _open(self, where: Any, factory: IProtocolFactory) -> IProtocol:
        self.dialed.append(where)
        if self.fails:
            raise self.fails.pop(0)
        server = self.network.servers.get(where)
        if server is None:
            raise errors.UpstreamFailed(reason="refused")
        address = IPv4Address("TCP", where[0], where[1]) if isinstance(where, tuple) else None
        client: Any = factory.buildProtocol(address or IPv4Address("TCP", HOST, 1))
        assert client is not None
        from tests.images.host import unix_address

        there = address or unix_address(where)
        here = IPv4Address("TCP", self.own, 50000) if address else unix_address("")
        self.network.wire(client, server.buildProtocol(there), here, there)
        answer: IProtocol = client
        return answer

    #: our own address as the host sees it
    own = "192.0.2.9"


@define
class Lazy:
    """Runs what should run in a thread at once, or when the test says so."""

    waiting: list[tuple[Deferred[Any], Callable[[], Any]]]
    hold: bool = False

    def __call__(self, function: Callable[..., Any], *args: object) -> Deferred[Any]:
        if not self.hold:
            return self._now(lambda: function(*args))
        later: Deferred[Any] = Deferred()
        self.waiting.append((later, lambda: function(*args)))
        return later

    @staticmethod
    def _now(call: Callable[[], Any]) -> Deferred[Any]:
        try:
            return succeed(call())
        except Exception:
            answer: Deferred[Any] = Deferred()
            answer.errback(Failure())
            return answer

    def run(self) -> None:
        """Let the oldest of what waits happen."""
        later, call = self.waiting.pop(0)
        self._now(call).addBoth(lambda result: None if later.called else later.callback(result))


class StageTestCase(SynchronousTestCase):
    """A gateway between clients and :attr:`host`, at rest between two lines of a test."""

    cors: tuple[str, ...] = ("*",)
    rate: float | None = None
    operations: int | None = 8
    roots: tuple[Path, ...] = ()

    def setUp(self) -> None:
        self.clock = Clock()
        self.offset = 0.0
        self.network = Network(self.clock)
        self.host = ImageHost({ID: bytearray(bytes(range(256)) * 40)})
        self.network.servers[HOST, PORT] = self.host
        self.trail: list[tuple[str, dict[str, object]]] = []
        self.ends: list[tuple[Kind, float]] = []
        self.registry = MemoryRegistry(
            self.clock,
            self.wall,
            sessions_per_ticket=SESSIONS | {Kind.IMAGE: None},
            audit=self.audit,
            revoked=lambda kind, seconds: self.ends.append((kind, seconds)),
        )
        self.sessions = SessionTable(self.clock, self.wall, self.registry, self.audit)
        self.dialer = MemoryDialer(self.network, Policy([parse_rule("*://192.0.2.0/24:*")]))
        self.pool = UpstreamPool(self.clock)
        self.threads = Lazy([])
        upstreams = Upstreams(self.dialer, self.pool, lambda host: None, self.clock, UPSTREAM)  # type: ignore[arg-type, return-value]  # doubles
        self.service = ImageService(
            access=Access(self.registry, self.verifier(), self.clock, self.wall),
            registry=self.registry,
            sessions=self.sessions,
            targets=Targets(upstreams, self.threads, self.roots),
            cors=Cors(self.cors),
            clock=self.clock,
            rate=self.rate,
            operations=self.operations,
        )
        limits = HttpLimits(keepalive_timeout=1e6, body_idle_timeout=1e6, write_idle_timeout=1e6)
        self.refused: list[errors.GatewayError] = []
        self.site = GatewaySite(
            self.clock, limits=limits, refused=lambda peer, error: self.refused.append(error)
        )
        self.site.routes.append(self.service.route)
        self.control_site = GatewaySite(self.clock, limits=limits)
        self.remove_timeout = 60.0
        self.orders = Orders(lambda: {"ready": True}, self.drain, self.reload, self.recordings, self.foresee)
        self.control_site.resource = control_tree(
            self.registry, self.sessions, self.orders, self.clock, self.wall, lambda: self.remove_timeout
        )
        self._clients: list[Client] = []
        self.addCleanup(self.clear)

    async def foresee(self, grant: Grant) -> list[dict[str, object]]:
        return [{"target": url} for url in grant.urls]

    async def recordings(self, after: str, most: int) -> list[dict[str, object]]:
        return []

    def clear(self) -> None:
        """Nothing may be left: no wire, no timer, no session."""
        for client in self._clients:
            if client.lost is None:
                client.transport.abortConnection()
        self.threads.hold = False
        self.network.pump()
        while self.threads.waiting:
            self.threads.run()
            self.network.pump()
        self.pool.close()
        self.network.pump()
        self.registry.stop()
        self.assertEqual(self.sessions.list(), ())
        self.assertEqual([str(call) for call in self.clock.getDelayedCalls()], [])
        self.assertEqual(self.network.ends, [])

    def verifier(self) -> TokenVerifier:
        path, keys = Path(self.mktemp()), Path(self.mktemp())
        path.write_bytes(engine()[1].public_bytes(Encoding.PEM))
        public = signer().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        x = urlsafe_b64encode(public).rstrip(b"=").decode()
        keys.write_text(json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x}]}))
        signers = load_signers(path, jwt_keys=keys)
        return TokenVerifier(signers, wall=self.wall, started=NOW, jwt_audience="gateway")

    def wall(self) -> float:
        return NOW + self.clock.seconds() + self.offset

    def audit(self, event: str, /, **fields: object) -> None:
        self.trail.append((event, fields))

    def drain(self) -> int:
        self.site.drain()
        return len(self.sessions)

    async def reload(self) -> list[str]:
        return ["something takes a restart"]

    # -- driving ---------------------------------------------------------------------------

    def pass_time(self, seconds: float, step: float | None = None) -> None:
        """Let time pass, in steps when what happens in between takes several turns."""
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.clock.advance(min(step or seconds, end - self.clock.seconds()))
            self.network.pump()

    def ok(self, answer: Coroutine[Deferred[Any], Any, T]) -> T:
        result: T = self.successResultOf(Deferred.fromCoroutine(answer))
        return result

    def add(self, ticket_id: str = ID, **members: object) -> Ticket:
        """Install a ticket as the engine does."""
        ticket = {
            "uuid": ticket_id,
            "url": f"https://{HOST}:{PORT}/images/{ticket_id}",
            "ops": ["write"],
            "timeout": 300,
            "size": 10240,
            **members,
        }
        return self.ok(self.registry.add(grant_from(ticket)))

    def info(self, ticket_id: str = ID) -> dict[str, Any]:
        return self.ok(self.registry.info(ticket_id))

    def token(self, ticket_id: str = ID, *, life: float = 300, url: str = f"https://{HOST}:{PORT}") -> str:
        """A ticket signed by the engine, good for *life* seconds from now."""
        now = int(self.wall())
        payload = {
            "nbf": now,
            "iat": now,
            "exp": now + int(life),
            "imaged-uri": url,
            "transfer-ticket": ticket_id,
        }
        return self.sign(json.dumps(payload), life)

    def jwt(self, life: float = 300, **members: object) -> str:
        """The same as a JSON web token; *members* are those of the ticket."""
        now = int(self.wall())
        ticket = {
            "uuid": ID,
            "url": f"https://{HOST}:{PORT}/images/{ID}",
            "ops": ["write"],
            "timeout": int(life),
            "size": 10240,
            **members,
        }
        claims = {"sub": "a", "jti": "b", "aud": "gateway", "iat": now, "nbf": now, "exp": now + int(life)}
        return jwt.encode({**claims, "ticket": ticket}, signer(), "EdDSA", headers={"kid": "k"})

    def sign(self, data: str, life: float = 300) -> str:
        """An envelope of the engine around *data*."""
        now = int(self.wall())
        return issue_envelope(data, *engine(), valid_from=now, valid_to=now + int(life), generation="C")

    def connect(self, site: GatewaySite | None = None, peer: str = "192.0.2.1") -> Client:
        client = Client()
        address = IPv4Address("TCP", peer, 40000)
        channel = (site or self.site).buildProtocol(address)
        self.network.wire(client, channel, address)
        self._clients.append(client)
        return client

    @staticmethod
    def request(method: str, path: str, body: bytes | None = None, **fields: object) -> bytes:
        """The bytes of a request; underscores in names of fields stand for dashes."""
        lines = [f"{method} {path} HTTP/1.1", "host: gateway.invalid"]
        if body is not None and "content_length" not in fields and "transfer_encoding" not in fields:
            lines.append(f"content-length: {len(body)}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        return "\r\n".join([*lines, "", ""]).encode("utf-8") + (body or b"")

    def start(
        self, method: str, path: str, body: bytes | None = None, *, peer: str = "192.0.2.1", **fields: object
    ) -> Client:
        """Begin a request on a connection of its own."""
        client = self.connect(peer=peer)
        client.send(self.request(method, path, body, **fields))
        self.network.pump()
        return client

    def ask(
        self, method: str, path: str, body: bytes | None = None, *, peer: str = "192.0.2.1", **fields: object
    ) -> Reply:
        """Make a request and return the whole answer."""
        client = self.start(method, path, body, peer=peer, **fields)
        reply = client.take(method)
        assert reply is not None, (bytes(client.got[:400]), self.host.said)
        return reply

    def image(self, method: str, body: bytes | None = None, more: str = "", **fields: Any) -> Reply:
        """Make a request for the image of :data:`ID`."""
        return self.ask(method, f"/images/{ID}{more}", body, **fields)

    def control(self, method: str, path: str, body: object = None) -> Reply:
        """Make a request on the control listener."""
        client = self.connect(self.control_site)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        client.send(self.request(method, path, data))
        self.network.pump()
        reply = client.take(method)
        assert reply is not None, bytes(client.got[:400])
        return reply
