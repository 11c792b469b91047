"""What every service is made with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import field, frozen

from gateway.core.dial import Dialer
from gateway.core.sessions import SessionTable
from gateway.core.tickets import TicketRegistry
from gateway.core.tokens import TokenVerifier


@frozen(eq=False)
class Base:
    """The parts that all services share.

    :ivar reactor: also the clock that lasts are measured by.
    :ivar wall: seconds since the epoch.
    """

    reactor: Any = field(repr=False)
    wall: Callable[[], float] = field(repr=False)
    registry: TicketRegistry = field(repr=False)
    tokens: TokenVerifier = field(repr=False)
    sessions: SessionTable = field(repr=False)
    dialer: Dialer = field(repr=False)
