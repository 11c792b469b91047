"""Who shows too many bad credentials has to wait, each time longer."""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from math import inf

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from gateway import errors
from gateway.core.audit import address_of

#: Addresses remembered at most; the one whose last failure is the oldest is forgotten first.
ADDRESSES = 10_000
#: Failures of this many seconds count together.
WINDOW = 60.0

#: Reasons that speak of a guess or a forgery. What was good once (``expired``, ``revoked``), is too early or
#: too late for us (``not_yet``, ``before_start``), or is missing altogether, does not.
_BAD = frozenset(
    {"unknown", "session", "malformed", "shape", "signer", "signature", "too_long", "purpose", "replayed"}
)


def within(networks: Iterable[str]) -> Callable[[str], bool]:
    """A test whether a peer is in one of *networks*; what is no IP address (a unix socket) is in."""
    parsed = [ipaddress.ip_network(network) for network in networks]

    @lru_cache(maxsize=ADDRESSES)
    def contains(peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return True
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in parsed)

    return contains


@define
class _Record:
    """What is remembered of an address.

    :ivar failures: when the last ones were.
    :ivar until: when its wait ends.
    :ivar wait: the wait it was given last, 0 for none.
    """

    failures: deque[float]
    until: float = -inf
    wait: float = 0.0


@define(eq=False)
class Penalties:
    """Refuses everything of an address that failed more than *failures* times within a minute.

    A success changes nothing: a guesser may own one good ticket.

    :ivar first: seconds of the first wait; each further one is twice as long.
    :ivar maximum: seconds of the longest wait. Who keeps quiet so long after a wait begins anew.
    :ivar exempt: tells addresses that never wait.
    :ivar hit: told ``auth_failures`` and the peer for each refusal.
    """

    clock: IReactorTime
    failures: int
    first: float
    maximum: float
    exempt: Callable[[str], bool] = lambda peer: False
    hit: Callable[[str, str], object] = lambda limit, peer: None
    _records: dict[str, _Record] = field(factory=dict, init=False)

    def check(self, peer: str) -> None:
        """Let *peer* pass.

        :raises gateway.errors.TooManyRequests: it has to wait.
        """
        record = self._records.get(address_of(peer)) if self._records else None
        if record is None:
            return
        left = record.until - self.clock.seconds()
        if left > 0 and not self.exempt(peer):
            self.hit("auth_failures", peer)
            raise errors.TooManyRequests(reason="auth_failures", retry_after=left)

    def failed(self, peer: str) -> None:
        """Count a bad credential of *peer*; what was asked before a wait began does not lengthen it."""
        address, now = address_of(peer), self.clock.seconds()
        record = self._records.pop(address, None) or _Record(deque())
        self._records[address] = record
        if len(self._records) > ADDRESSES:
            del self._records[next(iter(self._records))]
        if now < record.until:
            return
        while record.failures and now - record.failures[0] >= WINDOW:
            record.failures.popleft()
        record.failures.append(now)
        if len(record.failures) > self.failures:
            quiet = now - record.until >= self.maximum
            record.wait = min(self.first if quiet else record.wait * 2, self.maximum)
            record.until = now + record.wait
            record.failures.clear()

    def refused(self, peer: str, error: errors.GatewayError) -> None:
        """Take note of a refusal; it counts when a bad credential was the cause."""
        if isinstance(error, errors.Unauthorized | errors.Forbidden) and error.reason in _BAD:
            self.failed(peer)
