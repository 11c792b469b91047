"""A small endpoint over TLS, made of the real parts: what the tests of the client talk to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attrs import define
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory

from gateway import errors
from gateway.core import dev_pki
from gateway.core.tls import tls_factory
from gateway.core.tls_server import ReloadableTLS, ServerContext
from gateway.rpc import commands
from gateway.rpc.amp import BoundedAMP, Limits, Table, table
from gateway.wire.libvirt_error import LibvirtError

NOW = datetime.now(UTC)
CA = dev_pki.authority(NOW)
SERVER = CA.issue(
    "gateway", now=NOW, names=["localhost"], addresses=["127.0.0.1"], usages=[ExtendedKeyUsageOID.SERVER_AUTH]
)
TIME = datetime(2026, 1, 2, 3, 4, 5, 678, UTC)


@define
class Sub:
    """One subscription: the last event sent, and the last acknowledged."""

    side: BoundedAMP
    sent: int
    acked: int


def server_tls(directory: Path) -> ReloadableTLS:
    """What the endpoint proves itself by."""
    files = SERVER.write(directory, "gateway")
    return ReloadableTLS(lambda: ServerContext(*files, now=NOW.timestamp()))


class Endpoint:
    """Handles, a log of events, and what was asked; all of it outlives connections.

    :ivar token: the one that is good.
    :ivar window: events that may be unacknowledged.
    """

    def __init__(self, reactor: Any, directory: Path) -> None:
        self.reactor = reactor
        self.token = "good"
        self.window = 4
        self.limits = Limits()
        self.sides: list[BoundedAMP] = []
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.done: dict[str, int] = {}
        self.pending: list[Deferred[Mapping[str, Any]]] = []
        self.cancelled = 0
        self.log: list[tuple[int, str]] = []
        self.forgotten = 0
        self.subs: dict[str, Sub] = {}
        self.acked: list[int] = []
        self.logins = 0
        self._tls = server_tls(directory)
        self._port: Any = None
        self.number = 0
        #: What the next to subscribe waits for.
        self.hold: Deferred[None] | None = None

    def listen(self) -> None:
        factory: Any = tls_factory(self._tls, Factory.forProtocol(self._build), self.reactor)
        self._port = self.reactor.listenTCP(self.number, factory, interface="127.0.0.1")
        self.number = self._port.getHost().port

    async def stop(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            await port.stopListening()
        self.cut()

    def cut(self) -> None:
        """Lose every connection."""
        for side in [*self.sides]:
            side.transport.abortConnection()  # type: ignore[union-attr]  # it is connected

    def happen(self, *kinds: str) -> None:
        for kind in kinds:
            self.log.append((len(self.log) + 101, kind))
        self.deliver()

    def deliver(self) -> None:
        for name, sub in [*self.subs.items()]:
            for seq, kind in self.log:
                if seq > sub.sent and seq - sub.acked <= self.window and sub.side.room():
                    self.send(sub.side, name, seq, kind, '{"n": 1}')
                    sub.sent = seq

    @staticmethod
    def send(side: BoundedAMP, sub: str, seq: int, kind: str, payload: str) -> None:
        side.send(commands.Event, sub=sub, seq=seq, time=TIME, kind=kind, dom="d-web", payload=payload)

    def _build(self) -> BoundedAMP:
        side = BoundedAMP(
            self.reactor,
            table(
                (commands.Login, lambda token: self._login(side, token)),
                (commands.Version, self._version),
            ),
            self.limits,
        )
        self.sides.append(side)
        side.lost = lambda word: self._lost(side)
        return side

    def _lost(self, side: BoundedAMP) -> None:
        self.sides.remove(side)
        self.subs = {sub: it for sub, it in self.subs.items() if it.side is not side}

    def _inside(self, side: BoundedAMP) -> Table:
        return table(
            (commands.Version, self._version),
            (commands.Open, self._open),
            (commands.ListDomains, self._list),
            (commands.Lookup, self._lookup),
            (commands.Start, self._start),
            (commands.Shutdown, self._wait),
            (commands.GetState, self._wait),
            (commands.GetXml, self._xml),
            (commands.Define, self._define),
            (commands.Call, self._call),
            (commands.Cancel, self._cancel),
            (commands.Subscribe, lambda **given: self._subscribe(side, **given)),
            (commands.Unsubscribe, self._unsubscribe),
            (commands.Ack, self._ack),
            (commands.ListTickets, self._tickets),
            (commands.Audit, self._audit),
        )

    async def _login(self, side: BoundedAMP, token: str) -> Mapping[str, Any]:
        self.logins += 1
        if token != self.token:
            raise errors.Unauthenticated()
        side.admit(self._inside(side))
        return {
            "session": f"s{self.logins}",
            "principal": "alice",
            "expires": TIME + timedelta(hours=1),
            "features": ["events"],
        }

    async def _version(self) -> Mapping[str, Any]:
        return {"gateway": "1.0", "protocol": 1}

    async def _open(self, **given: Any) -> Mapping[str, Any]:
        self.asked.append(("Open", given))
        if given["target"] != "lab":
            raise errors.NoTarget()
        return {"handle": "h1", "uri": "test:///default", "expires": TIME, "generation": 1}

    async def _list(self, **given: Any) -> Mapping[str, Any]:
        at = int(given["cursor"] or 0)
        domains = [
            {"name": f"vm{n}", "uuid": f"u{n}", "id": -1, "state": "off", "dom": f"d{n}"} for n in range(7)
        ]
        return {"domains": domains[at : at + 3], "cursor": str(at + 3) if at + 3 < 7 else ""}

    async def _lookup(self, **given: Any) -> Mapping[str, Any]:
        if given["name"] != "web":
            raise LibvirtError(42, 10, "Domain not found: no domain", 2, ("Domain not found: %s", "x", None))
        return {"dom": "d-web", "name": "web", "uuid": "u-web", "id": 3, "state": "running"}

    async def _start(self, dom: str, flags: int | None, request_id: str | None) -> Mapping[str, Any]:
        self.asked.append(("Start", {"dom": dom, "flags": flags, "request_id": request_id}))
        if request_id is not None and request_id in self.done:
            return {"id": self.done[request_id]}
        if dom == "d-busy":
            raise errors.Busy(retry_after=7.0)
        self.done[request_id or ""] = len(self.done) + 1
        if dom == "d-cut":
            # Done, and nobody hears of it.
            self.cut()
            await Deferred()
        return {"id": len(self.done)}

    async def _wait(self, **given: Any) -> Mapping[str, Any]:
        self.asked.append(("wait", given))
        answer: Deferred[Mapping[str, Any]] = Deferred()
        self.pending.append(answer)
        try:
            return await answer
        except CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.pending.remove(answer)

    async def _xml(self, dom: str, flags: int | None) -> Mapping[str, Any]:
        return {"xml": "ä" * int(dom)}

    async def _define(self, **given: Any) -> Mapping[str, Any]:
        return {"dom": "d", "name": str(len(given["xml"])), "uuid": "u"}

    async def _call(self, **given: Any) -> Mapping[str, Any]:
        self.asked.append(("Call", given))
        return {"result": given["args"], "xdr": given["xdr"]}

    async def _cancel(self, request_id: str) -> Mapping[str, Any]:
        self.asked.append(("Cancel", {"request_id": request_id}))
        return {"stopped": True, "executed": "no"}

    async def _subscribe(self, side: BoundedAMP, **given: Any) -> Mapping[str, Any]:
        self.asked.append(("Subscribe", given))
        if self.hold is not None:
            await self.hold
        if given["handle"] != "h1":
            raise errors.NoHandle()
        known = given["from_seq"]
        complete = known is None or known >= self.forgotten
        seq = len(self.log) + 100 if known is None or not complete else known
        sub = f"sub{len(self.asked)}"
        self.subs[sub] = Sub(side, seq, seq)
        if not complete:
            self.send(side, sub, seq, "resync", "{}")
        # Before the answer, as it may happen.
        self.deliver()
        return {"sub": sub, "seq": seq, "complete": complete}

    async def _unsubscribe(self, sub: str) -> Mapping[str, Any]:
        del self.subs[sub]
        return {}

    async def _ack(self, sub: str, seq: int) -> Mapping[str, Any]:
        self.acked.append(seq)
        if sub in self.subs:
            self.subs[sub].acked = seq
        self.deliver()
        return {}

    async def _tickets(self, **given: Any) -> Mapping[str, Any]:
        first = given["cursor"] is None
        return {"tickets": json.dumps([{"ticket": "a" if first else "b"}]), "cursor": "a" if first else ""}

    async def _audit(self, from_: int | None, limit: int | None) -> Mapping[str, Any]:
        return {"records": json.dumps([{"seq": from_, "limit": limit}])}
