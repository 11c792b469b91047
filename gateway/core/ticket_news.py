"""What happens to tickets, told to the audit trail and to whoever watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from attrs import define, field
from twisted.logger import Logger

from gateway.core.ticket import Ticket

#: Audited only when a use is at stake: the lines of the sessions themselves say the rest.
_PER_SESSION = frozenset({"redeemed", "released"})


class Trail(Protocol):
    """The audit trail: an event, and fields with fixed names."""

    def __call__(self, event: str, /, **fields: object) -> None:
        """Write one record."""


@define(eq=False)
class News:
    """Tells everybody; a watcher that fails is a bug, logged, and stops nobody else."""

    audit: Trail | None
    _watchers: tuple[Callable[[str, Ticket], None], ...] = field(default=(), init=False)

    log = Logger()

    def watch(self, callback: Callable[[str, Ticket], None]) -> Callable[[], None]:
        """See :meth:`~gateway.core.ticket.TicketRegistry.watch`."""
        self._watchers = (*self._watchers, callback)

        def stop() -> None:
            self._watchers = tuple(other for other in self._watchers if other is not callback)

        return stop

    def tell(self, word: str, ticket: Ticket, *, peer: str | None = None, reason: str | None = None) -> None:
        """Say that *word* happened to *ticket*."""
        if self.audit is not None and (word not in _PER_SESSION or ticket.uses is not None):
            self.audit(
                f"ticket.{word}",
                kind=str(ticket.kind),
                ticket=ticket.fingerprint,
                principal=ticket.grant.principal or None,
                issuer=ticket.issuer,
                reason=reason,
                **_of(peer),
            )
        for callback in self._watchers:
            with self.log.failuresHandled("a watcher of tickets failed at {word}", word=word):
                callback(word, ticket)

    def refuse(self, fingerprint: str, reason: str, peer: str | None = None) -> None:
        """Say that a ticket nobody knows was refused."""
        if self.audit is not None:
            self.audit("ticket.refused", ticket=fingerprint, reason=reason, **_of(peer))


def _of(peer: str | None) -> dict[str, object]:
    return {} if peer is None else {"peer": peer}
