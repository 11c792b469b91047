"""The life of a ticket as one pure table: state and event give the next state or a refusal.

No time, no registry: who keeps the record says what the table must know (sessions, uses, trust).

    absent --issue--> ISSUED --redeem--> ACTIVE --release(last)--> ISSUED or USED_UP
    ISSUED, ACTIVE --deadline--> EXPIRED --renew, touch--> ISSUED or ACTIVE (if revivable)
    any --revoke--> REVOKED
    EXPIRED, REVOKED, USED_UP --purge--> absent, once no session is left
"""

from __future__ import annotations

from enum import StrEnum
from typing import NoReturn


class State(StrEnum):
    """Where a ticket is in its life; None stands for absent."""

    ISSUED = "issued"
    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"
    USED_UP = "used_up"


class Event(StrEnum):
    """What may happen to a ticket."""

    ISSUE = "issue"
    REDEEM = "redeem"
    RENEW = "renew"
    TOUCH = "touch"
    DEADLINE = "deadline"
    REVOKE = "revoke"
    RELEASE = "release"
    PURGE = "purge"


#: The states in which a ticket opens something.
LIVE = frozenset({State.ISSUED, State.ACTIVE})

_WHY: dict[State | None, str] = {
    None: "unknown",
    State.EXPIRED: "expired",
    State.REVOKED: "revoked",
    State.USED_UP: "used",
}


class Refused(Exception):
    """The event is not allowed in this state.

    :ivar reason: ``unknown``, ``expired``, ``revoked``, ``used`` or ``alive``.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def step(
    state: State | None,
    event: Event,
    *,
    busy: bool = False,
    used: bool = False,
    revivable: bool = False,
    trusted: bool = False,
) -> State | None:
    """Return the state after *event*.

    :param busy: sessions are left (after the event, for a release).
    :param used: no uses are left (of the new grant, for an issue).
    :param revivable: the kind comes back to life after its deadline.
    :param trusted: the engine itself issues, rather than somebody who shows a signed proof.
    :raises Refused:
    """
    match event:
        case Event.REVOKE:
            return State.REVOKED
        case Event.DEADLINE if state is not None:
            return State.EXPIRED if state in LIVE else state
        case Event.RELEASE if state is not None:
            return _alive(busy, used) if state is State.ACTIVE else state
        case Event.TOUCH if state is not None:
            return _alive(busy, used) if state is State.EXPIRED and revivable else state
        case Event.PURGE if state is not None:
            return _refuse("alive") if state in LIVE or busy else None
        case Event.REDEEM if state in LIVE:
            return _refuse("used") if used else State.ACTIVE
        case Event.RENEW if state in LIVE:
            return state
        case Event.ISSUE if state is None:
            return State.ISSUED
        case Event.ISSUE if state in LIVE:
            return state
        case Event.ISSUE if trusted:
            return _alive(busy, used)
        case Event.RENEW | Event.ISSUE if state is State.EXPIRED and revivable:
            return _alive(busy, used)
        case _:
            return _refuse(_WHY[state])


def _alive(busy: bool, used: bool) -> State:
    if busy:
        return State.ACTIVE
    return State.USED_UP if used else State.ISSUED


def _refuse(reason: str) -> NoReturn:
    raise Refused(reason)
