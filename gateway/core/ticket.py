"""One ticket in the registry, a hold on it, and what every registry offers.

The id of a ticket is its secret and is not kept: a record knows the SHA-256 of it, and people see the
first 12 hexadecimal digits of that, the fingerprint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from typing import Protocol

from attrs import define, field

from gateway.core.logs import rfc3339
from gateway.core.ticket_state import State
from gateway.wire.byte_range import RangeSet
from gateway.wire.ticket_json import Grant, Kind

#: An operation, and the stronger ones that imply it.
_IMPLIED_BY = {"read": {"write"}, "view": {"control", "takeover"}, "control": {"takeover"}}


class AtExpiry(StrEnum):
    """What becomes of live sessions when their ticket expires; nothing new begins in any case.

    ``finish``: the operation ends by itself and renews the ticket. ``run``: it may go on to its own end.
    ``cut``: it ends now.
    """

    FINISH = "finish"
    RUN = "run"
    CUT = "cut"


#: By kind: what happens at expiry, what activity renews, what comes back after expiry.
AT_EXPIRY = {
    Kind.IMAGE: AtExpiry.FINISH,
    Kind.CONSOLE: AtExpiry.CUT,
    Kind.TUNNEL: AtExpiry.RUN,
    Kind.RPC: AtExpiry.CUT,
    Kind.PUBLISH: AtExpiry.FINISH,
}
REARMED = frozenset({Kind.IMAGE, Kind.TUNNEL})
REVIVABLE = frozenset({Kind.IMAGE})
#: What a signed proof gives its holder time to begin, and no time to end.
BEGUN_IN_TIME = frozenset({Kind.CONSOLE})


#: Places that the ticket of a tunnel may name after renewals.
MOST_URLS = 64


def hash_id(uuid: str) -> bytes:
    """What a ticket is looked up by."""
    return sha256(uuid.encode("utf-8", "surrogatepass")).digest()


def fingerprint(uuid: str) -> str:
    """What logs, audit and people may see of a ticket id."""
    return hash_id(uuid).hex()[:12]


@define(eq=False)
class Hold:
    """The claim of one session on its ticket, from :meth:`TicketRegistry.hold` to its release.

    :ivar ended: called at most once, with one word, when the session must end.
    :ivar grant: what the ticket said when this began.
    :ivar session: public id of the session, for those who list it.
    :ivar quiet: it only looks: the engine shall not take the ticket for active.
    :ivar joined: it shares the use of another one.
    :ivar open: it was not released yet.
    :ivar told: *ended* was called.
    """

    ticket: Ticket
    op: str
    ended: Callable[[str], None] = field(repr=False)
    grant: Grant
    session: str = ""
    quiet: bool = False
    joined: bool = False
    open: bool = True
    told: bool = False


@define(eq=False)
class Ticket:
    """One grant in the registry; only the registry changes it.

    All times but *created* are monotonic seconds.

    :ivar grant: as installed, without the id.
    :ivar trusted: the engine itself installed it; else somebody showed a signed proof.
    :ivar created: seconds since the epoch.
    :ivar hard_end: no renewal goes beyond; None without a proof.
    :ivar uses: sessions it may still open, None for any number.
    :ivar purge_at: when the record of an ended ticket goes, once no session is left.
    :ivar transferred: the ranges the image server has moved; it adds to them.
    :ivar pending: calls into the file system that may outlive their session; a removal waits for them.
    :ivar gone: of one that was revoked: called once nothing of it is left, see :meth:`settle`.
    """

    id_hash: bytes = field(repr=False)
    grant: Grant
    issuer: str
    trusted: bool
    created: float
    deadline: float
    hard_end: float | None
    last_used: float
    at_expiry: AtExpiry
    uses: int | None
    state: State = State.ISSUED
    reason: str = ""
    generation: int = 0
    purge_at: float = 0
    connections: int = 0
    pending: int = 0
    max_readers: int | None = None
    max_writers: int | None = None
    transferred: RangeSet = field(factory=RangeSet, repr=False)
    holds: dict[Hold, None] = field(factory=dict, repr=False)
    gone: Callable[[], None] | None = field(default=None, repr=False)

    @property
    def kind(self) -> Kind:
        """What it opens."""
        return self.grant.kind

    @property
    def fingerprint(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of its id."""
        return self.id_hash.hex()[:12]

    @property
    def rearm(self) -> float | None:
        """Seconds from its last activity to its end; None when activity does not matter."""
        return self.grant.timeout if self.trusted and self.kind in REARMED else None

    @property
    def revivable(self) -> bool:
        """A renewal works after expiry, too."""
        return self.trusted and self.kind in REVIVABLE

    def may(self, op: str) -> bool:
        """Tell whether *op* is granted; ``write`` implies ``read``, ``takeover`` implies
        ``control`` implies ``view``.
        """
        return op in self.grant.ops or not _IMPLIED_BY.get(op, frozenset()).isdisjoint(self.grant.ops)

    def fits(self, kind: Kind | None, principal: str | None) -> bool:
        """Tell whether it is of this *kind*, and was given to this *principal*; None does not matter."""
        return kind in (None, self.kind) and principal in (None, self.grant.principal)

    def admits(self, peer: str | None) -> bool:
        """Tell whether a client at address *peer* may use it; None is a client without an address."""
        network = self.grant.peer
        if network is None:
            return True
        try:
            address = ip_address(peer or "")
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return (mapped or address) in network

    def settle(self) -> None:
        """Tell who waits for it that neither a session nor a call is left, if that is so."""
        if self.gone is not None and not self.holds and not self.pending:
            gone, self.gone = self.gone, None
            gone()

    def until(self, deadline: float) -> float:
        """Return *deadline*, or the hard end when that is earlier."""
        return deadline if self.hard_end is None else min(deadline, self.hard_end)

    def connect(self) -> None:
        """Count one more client connection on which this ticket was used."""
        self.connections += 1

    def disconnect(self) -> None:
        """Count one connection less."""
        self.connections = max(0, self.connections - 1)

    def summary(self, now: float, wall: float) -> dict[str, object]:
        """What may be shown to an operator who does not know the id.

        :param now: monotonic seconds.
        :param wall: seconds since the epoch at the same moment.
        """
        return {
            "ticket": self.fingerprint,
            "kind": str(self.kind),
            "state": str(self.state),
            "principal": self.grant.principal,
            "peer": None if self.grant.peer is None else str(self.grant.peer),
            "uses": self.uses,
            "sessions": [hold.session for hold in self.holds if hold.session],
            "created": rfc3339(self.created),
            "expires_at": rfc3339(wall + self.deadline - now),
        }

    def info(self, uuid: str, now: float, wall: float) -> dict[str, object]:
        """What ``GET /tickets/ID`` answers: imageio's members, and the summary.

        Source: oVirt engine ticket format, as answered by ovirt-imageio 2.5. ``expires`` is monotonic.
        """
        grant, active = self.grant, any(not hold.quiet for hold in self.holds)
        found: dict[str, object] = {
            "active": active,
            "canceled": self.state is State.REVOKED,
            "connections": self.connections,
            "expires": int(self.deadline),
            "idle_time": 0 if active else int(now) - int(self.last_used),
            "inactivity_timeout": grant.inactivity_timeout,
            "ops": list(grant.ops),
            "size": grant.size,
            "sparse": grant.sparse,
            "dirty": grant.dirty,
            "timeout": grant.timeout,
            "url": grant.url,
            "uuid": uuid,
            "transfer_id": grant.transfer_id,
        }
        if len(grant.urls) > 1:
            found["urls"] = list(grant.urls)
        if grant.filename:
            found["filename"] = grant.filename
        if len(grant.ops) == 1:
            found["transferred"] = self.transferred.total
        return found | self.summary(now, wall)


class TicketRegistry(Protocol):
    """All tickets of a site. What may have to ask a store is a coroutine; the rest is immediate.

    Wherever an id is refused the error is :class:`~gateway.errors.NoTicket` for users and
    :class:`~gateway.errors.NotFound` for the control interface.
    """

    async def add(
        self, grant: Grant, *, issuer: str = "control", proof_end: float | None = None, trusted: bool = True
    ) -> Ticket:
        """Install *grant*, or renew what has its id.

        Trusted, it replaces whatever is there; sessions that it grants, too, go on. Untrusted, it is a signed
        proof: a fresher one moves the end of the ticket to its own end and never gives back uses; none
        brings a revoked or used-up ticket back, changes kind or principal, or touches a ticket of the engine.

        :param proof_end: monotonic seconds; the ticket never outlives it.
        :raises NoTicket: when the proof is refused.
        :raises Unavailable: reason ``full``, when there are too many tickets.
        """

    async def renew(self, uuid: str, timeout: float, urls: Sequence[str] = ()) -> None:
        """Let a ticket expire *timeout* seconds from now, whatever its own timeout.

        :param urls: where a tunnel may lead, too, such as the host that its machine moves to.
        :raises NotFound:
        :raises BadRequest: it is not for tunnels, or would have more than :data:`MOST_URLS`.
        """

    async def revoke(self, uuid: str, *, reason: str = "revoked", tombstone: bool = True) -> bool:
        """End a ticket and all its sessions in this very turn; return whether it was known.

        :param tombstone: refuse a signed proof of the same id for as long as one may come.
        """

    async def revoke_all(
        self,
        *,
        kind: Kind | None = None,
        principal: str | None = None,
        mark: str | None = None,
        reason: str = "revoked",
    ) -> int:
        """Revoke all that match; return how many.

        :param mark: their fingerprint, which one ticket has as a rule.
        """

    async def authorize(
        self, uuid: str, op: str, *, kind: Kind, peer: str | None, joins: Hold | None = None
    ) -> Ticket:
        """Return the ticket if *op* may begin now; no use is burnt.

        :param joins: see :meth:`hold`.
        :raises NoTicket: reason ``unknown``, ``expired``, ``revoked``, ``used``, ``kind`` or ``peer``.
        :raises Forbidden: the ticket does not grant *op*.
        """

    async def hold(
        self,
        uuid: str,
        op: str,
        *,
        kind: Kind,
        peer: str | None,
        ended: Callable[[str], None],
        joins: Hold | None = None,
    ) -> Hold:
        """Authorize, burn a use and count a session, all in one step.

        :param joins: a hold of the same ticket; while that is open, this one shares its use.
        :param ended: called once with a word, at once when the session must end.
        :raises NoTicket, Forbidden: as :meth:`authorize`.
        :raises Unavailable: reason ``limit``, when the ticket has as many sessions as it may.
        """

    def release(self, hold: Hold, *, touch: bool = True) -> None:
        """End a hold; once is enough. *touch*: this was activity, which may renew the ticket."""

    def touch(self, ticket: Ticket) -> None:
        """Note activity that is no session of its own."""

    async def undo(self, hold: Hold) -> None:
        """Release a hold whose target could not be reached, and give its use back."""

    async def get(self, uuid: str) -> Ticket | None:
        """Return the record of an id, in whatever state it is."""

    async def info(self, uuid: str) -> dict[str, object]:
        """Return :meth:`Ticket.info`.

        :raises NotFound: also when it was revoked.
        """

    async def list(
        self,
        *,
        kind: Kind | None = None,
        principal: str | None = None,
        state: State | None = None,
        after: str = "",
        limit: int = 100,
    ) -> Sequence[Ticket]:
        """Return up to *limit* tickets in order of their fingerprints, which are beyond *after*."""

    def gauges(self) -> Mapping[tuple[Kind, State], int]:
        """Return how many tickets there are of each kind in each state."""

    def watch(self, callback: Callable[[str, Ticket], None]) -> Callable[[], None]:
        """Call *callback* with a word and the ticket for whatever happens; return how to stop that.

        The words: ``issued renewed redeemed released expired revoked used_up purged refused``.
        """

    def stop(self) -> None:
        """Stop all timers; nothing may be asked afterwards."""
