"""The audit trail: who did what, with which result; never sampled, except for floods of refusals.

Records go to the namespace ``gateway.audit`` as lines of JSON; :mod:`gateway.core.logs` writes them. Field
names are fixed, so that a trail can be searched by them.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import NamedTuple

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger, LogLevel

from gateway.core.batch import BATCH
from gateway.core.log_lines import members
from gateway.core.logs import rfc3339

#: What a record may say. ``ticket`` is a fingerprint, ``session`` our public number, and ``console`` that of
#: the first tunnel of a viewer; ``op`` is what a session does from now on; ``count`` sums up.
FIELDS = frozenset(
    {
        "kind",
        "ticket",
        "session",
        "principal",
        "issuer",
        "peer",
        "listener",
        "target",
        "op",
        "vm",
        "result",
        "reason",
    }
    | {"bytes_in", "bytes_out", "duration_ms", "incident", "count", "console"}
)
#: Events of which one address gets only so many lines a minute.
REFUSALS = frozenset({"token.refused", "ticket.refused", "upstream.refused", "limit"})
_FULL = 10
_WINDOW = 60.0
_ADDRESSES = 4096
#: Records that are kept in memory for controllers.
_KEPT = 10_000
#: Of these, and of those to come, so many say what another one says, and share it.
_SHARED = 1024


def address_of(peer: str) -> str:
    """Whom refusals count for: the IPv4 address or IPv6 /64 in *peer*, with or without a port."""
    host = peer
    if peer.startswith("["):
        host = peer[1:].partition("]")[0]
    elif peer.count(":") == 1:
        host = peer.partition(":")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address.packed[:8] + bytes(8), 64)))
    return str(getattr(address, "ipv4_mapped", None) or address)


class _Record(NamedTuple):
    """What a record does not share with others: its number, the two times; and what it says.

    Ten thousand whole ones are more than a processor's cache holds, and each new one would fetch an old one
    into it to throw that away.
    """

    seq: int
    wall: float
    mono: float
    said: Mapping[str, object]


#: What a record says, and the same as members of a JSON object.
_Said = tuple[Mapping[str, object], str]


@define
class _Window:
    """Refusals of one address since *began*, in seconds of the clock."""

    began: float
    refusals: int = 0


@define(eq=False)
class Audit:
    """Writes audit records: ``audit("ticket.revoked", kind="image", ticket=fingerprint)``.

    :ivar wall: seconds since the epoch, for people.
    :ivar clock: elapsed time, for order and for summaries.
    :ivar boot: random text, new at each start.
    """

    log: Logger
    wall: Callable[[], float]
    clock: IReactorTime
    host: str
    pid: int
    boot: str
    _seq: int = field(default=0, init=False)
    _last: deque[_Record] = field(factory=lambda: deque(maxlen=_KEPT), init=False)
    _told: list[tuple[_Record, str]] = field(factory=list, init=False)
    _said: dict[object, _Said] = field(factory=dict, init=False)
    _windows: dict[str, _Window] = field(factory=dict, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)
    _here: str = field(init=False)

    @_here.default
    def _where(self) -> str:
        return members({"host": self.host, "pid": self.pid, "boot": self.boot})

    def __call__(self, event: str, /, **fields: object) -> None:
        """Write one record, or count it when its peer was refused too often in the last minute.

        :param fields: texts and numbers; None is left out.
        :raises TypeError: when a field has an unknown name.
        """
        if event in REFUSALS and "peer" in fields and self._flooded(address_of(str(fields["peer"]))):
            return
        self._write(event, fields)

    def since(self, number: int | None, limit: int) -> list[dict[str, object]]:
        """Records that are in memory: the first *limit* from that *number* on, or the last ones without."""
        wanted = (each for each in self._last if number is None or each.seq >= number)
        found = list(wanted)[-limit:] if number is None else islice(wanted, limit)
        return [self._whole(each) for each in found]

    def close(self) -> None:
        """Write the summaries that are due, and stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for address in list(self._windows):
            self._end(address)

    def _write(self, event: str, fields: Mapping[str, object]) -> None:
        said, text = self._said.get((event, *fields, *fields.values())) or self._say(event, fields)
        self._seq += 1
        record = _Record(self._seq, self.wall(), self.clock.seconds(), said)
        self._last.append(record)
        self._told.append((record, text))
        if not BATCH.open:
            self._tell()
        elif len(self._told) == 1:
            # Whoever has an answer finds it in the trail, also when we are killed at once.
            BATCH.first(self._tell)

    def _say(self, event: str, fields: Mapping[str, object]) -> _Said:
        """What a record says, for this one and those that are to say the same."""
        if not fields.keys() <= FIELDS:
            unknown = sorted(fields.keys() - FIELDS)
            raise TypeError(f"audit records have no field {', '.join(unknown)}")
        if len(self._said) >= _SHARED:
            self._said.clear()
        said = {"event": event} | {name: value for name, value in fields.items() if value is not None}
        found = self._said[event, *fields, *fields.values()] = said, members(said)
        return found

    def _whole(self, record: _Record) -> dict[str, object]:
        return {
            "time": rfc3339(record.wall),
            "mono": round(record.mono, 6),
            "host": self.host,
            "pid": self.pid,
            "boot": self.boot,
            "seq": record.seq,
            **record.said,
        }

    def _tell(self) -> None:
        told, self._told = self._told, []
        log = self.log
        with BATCH:
            for (seq, wall, mono, said), text in told:
                time = f'"time": "{rfc3339(wall)}", "mono": {round(mono, 6)!r}'
                # As its info() makes it, which asks first whether there is such a level.
                log.observer(
                    {
                        "log_logger": log,
                        "log_level": LogLevel.info,
                        "log_namespace": log.namespace,
                        "log_source": log.source,
                        "log_format": "{event}",
                        "log_time": wall,
                        "event": said["event"],
                        "audit": f'{{{time}, {self._here}, "seq": {seq}, {text}}}',
                    }
                )

    def _flooded(self, address: str) -> bool:
        """Count a refusal of *address*; whether it is one too many."""
        now = self.clock.seconds()
        window = self._windows.get(address)
        if window is None or now - window.began >= _WINDOW:
            self._end(address)
            while len(self._windows) >= _ADDRESSES:
                self._end(next(iter(self._windows)))  # the oldest: windows stand in order of their begin
            window = self._windows[address] = _Window(now)
        window.refusals += 1
        if self._timer is None:
            self._timer = self.clock.callLater(_WINDOW, self._sweep)
        return window.refusals > _FULL

    def _end(self, address: str) -> None:
        window = self._windows.pop(address, None)
        if window is not None and window.refusals > _FULL:
            count = window.refusals - _FULL
            self._write("limit", {"peer": address, "result": "refused", "reason": "repeated", "count": count})

    def _sweep(self) -> None:
        """End the windows that are over, and come back for the next."""
        self._timer = None
        now = self.clock.seconds()
        for address, window in list(self._windows.items()):
            if now - window.began < _WINDOW:
                self._timer = self.clock.callLater(window.began + _WINDOW - now, self._sweep)
                return
            self._end(address)
