"""What stands before consoles, as the appliance composes it, and an engine that signs with openssl alone."""

from __future__ import annotations

import json
import subprocess
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import jwt
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway.consoles.access import Access, Admission
from gateway.consoles.origin import Origins
from gateway.core import dev_pki
from gateway.core.sessions import Session, SessionTable
from gateway.core.signers import load_signers
from gateway.core.tickets import MemoryRegistry
from gateway.core.tokens import TokenVerifier
from gateway.errors import NoTicket
from gateway.wire.http_head import RequestHead, parse_request
from gateway.wire.ticket_json import grant_from

T = TypeVar("T")
E = TypeVar("E", bound=Exception)
NOW = 1_800_000_000.0
ID = "11111111-2222-4333-8444-555555555555"
OTHER = "66666666-7777-4888-8999-000000000000"
PEER = "192.0.2.200"
HOST, PORT = "192.0.2.50", 5901
PAGE = "https://engine.invalid"
SIGN = Path(__file__).parent.parent / "functional" / "sign-ticket"


@cache
def pki() -> tuple[dev_pki.Issued, dev_pki.Issued, dev_pki.Issued]:
    """An authority, its engine, and a host of the same authority."""
    now = datetime.fromtimestamp(NOW, UTC) - timedelta(days=1)
    authority = dev_pki.authority(now)
    issued = [
        authority.issue(name, now=now, key=rsa.generate_private_key(65537, 2048))
        for name in ("engine", "host")
    ]
    return authority, issued[0], issued[1]


@cache
def issuer() -> ed25519.Ed25519PrivateKey:
    """The key of an issuer of JSON web tokens."""
    return ed25519.Ed25519PrivateKey.generate()


def data(**change: object) -> str:
    """The payload of a console's ticket, as an engine encodes it."""
    members = {"host": HOST, "port": str(PORT), "ssl_target": False, **change}
    return quote(
        json.dumps({k: v for k, v in members.items() if v is not ...}, separators=(",", ":")), safe=""
    )


def date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%d%H%M%S")


def unwrap(token: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(b64decode(token))
    return found


def wrap(fields: dict[str, str]) -> str:
    return b64encode(json.dumps(fields).encode()).decode()


def head(
    target: str = f"/console/{ID}", *fields: tuple[str, str], host: str = "gateway.invalid"
) -> RequestHead:
    """The head of a request for a websocket."""
    lines = [f"GET {target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in fields)]
    return parse_request("\r\n".join([*lines, "", ""]).encode("latin-1"))


class Stage(SynchronousTestCase):
    """A registry with its table of sessions, a verifier, and what lets requests in.

    :ivar trail: what was audited.
    :ivar ended: the words that sessions were ended with.
    """

    origins: tuple[str, ...] = (PAGE,)

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.trail: list[tuple[str, dict[str, object]]] = []
        self.ended: list[str] = []
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        authority, engine, host = pki()
        self.engine = engine.write(self.folder, "engine")
        self.host = host.write(self.folder, "host")
        self.authority = authority.write(self.folder, "ca")
        public = issuer().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        key = {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "k"}
        key["x"] = urlsafe_b64encode(public).decode().rstrip("=")
        self.keys = self.folder / "keys.json"
        self.keys.write_text(json.dumps({"keys": [key]}))
        self.registry = MemoryRegistry(self.clock, self.wall, audit=self._audit)
        self.addCleanup(self.registry.stop)
        self.sessions = SessionTable(self.clock, self.wall, self.registry, self._audit)
        self.access = self.make()

    def make(self, **more: Any) -> Access:
        options = {"sha1": False, "engine_ca": None, "eku": None, "started": NOW - 500, "skew": 0.0} | more
        tokens = TokenVerifier(
            load_signers(self.engine[0], options["engine_ca"], options["eku"], self.keys),
            wall=self.wall,
            started=options["started"],
            sha1=options["sha1"],
            skew=options["skew"],
            jwt_audience="the-gateway",
        )
        origins = Origins.of(self.origins, "https://gateway.invalid:54323/ui")
        return Access(self.registry, tokens, self.sessions, origins, self.clock, self.wall)

    def wall(self) -> float:
        return NOW + self.clock.seconds() - 1000

    def _audit(self, event: str, /, **fields: object) -> None:
        self.trail.append((event, fields))

    def done(self, work: Coroutine[Any, Any, T]) -> T:
        return self.successResultOf(Deferred.fromCoroutine(work))

    def fails(self, error: type[E], work: Coroutine[Any, Any, Any]) -> E:
        value = self.failureResultOf(Deferred.fromCoroutine(work), error).value
        assert isinstance(value, error)
        return value

    # -- tickets ---------------------------------------------------------------------------

    def sign(
        self,
        payload: str | None = None,
        *,
        generation: str = "C",
        order: str = "java",
        valid: tuple[float, float] = (-5, 115),
        by: tuple[Path, Path] | None = None,
    ) -> str:
        """What an engine signs, made by openssl and a shell."""
        certificate, key = by or self.engine
        begin, end = (date(self.wall() + it) for it in valid)
        command = [str(SIGN), str(key), str(certificate), generation, order, begin, end]
        text = (payload or data()).encode()
        return subprocess.run(command, input=text, capture_output=True, check=True).stdout.decode()

    def jwt(self, **change: object) -> str:
        now = int(self.wall())
        ticket = {"uuid": ID, "kind": "console", "url": f"vnc://{HOST}:{PORT}", "ops": ["view"], **change}
        claims = {"sub": "alice", "aud": "the-gateway", "jti": f"j{len(self.trail)}", "iat": now, "nbf": now}
        whole = {**claims, "exp": now + 100, "ticket": {k: v for k, v in ticket.items() if v is not ...}}
        return jwt.encode(whole, issuer(), algorithm="EdDSA", headers={"kid": "k"})

    def put(self, uuid: str = ID, **members: object) -> None:
        """Install a ticket as the engine does."""
        ticket = {"uuid": uuid, "kind": "console", "url": f"vnc://{HOST}:{PORT}", "timeout": 300}
        self.done(self.registry.add(grant_from({**ticket, "ops": ["view", "control"], **members})))

    # -- requests --------------------------------------------------------------------------

    def admit(self, request: RequestHead | str | None = None, peer: str | None = PEER) -> Admission:
        asked = head() if request is None else head(request) if isinstance(request, str) else request
        return self.done(self.access.admit(asked, peer))

    def refused(
        self,
        reason: str,
        request: RequestHead | str | None = None,
        peer: str | None = PEER,
        error: Any = None,
    ) -> Any:
        asked = head() if request is None else head(request) if isinstance(request, str) else request
        found = self.fails(error or NoTicket, self.access.admit(asked, peer))
        self.assertEqual(found.reason, reason)
        return found

    def open(self, request: RequestHead | str | None = None) -> Session:
        admission = self.admit(request)
        return self.done(self.access.open(admission, target="t", ended=self.ended.append))

    def opens(self, request: RequestHead | str | None = None) -> None:
        self.open(request).close("done")
