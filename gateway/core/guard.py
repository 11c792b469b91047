"""What stands before every public listener: limits, penalties and the steps of overload, together."""

from __future__ import annotations

import resource
from functools import partial
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.interfaces import IProtocolFactory, IReactorTime

from gateway import errors
from gateway.core import heap
from gateway.core.config_model import Limits
from gateway.core.connection_limits import ConnectionLimits
from gateway.core.exchange import Exchange
from gateway.core.health import Health
from gateway.core.observation import Observation
from gateway.core.overload import Overload, Step, memory, open_files
from gateway.core.penalties import Penalties


class Guard(MultiService):
    """Refuses at the cheapest point what must be refused; new before old, strangers before known."""

    def __init__(self, clock: IReactorTime, limits: Limits, seen: Observation, health: Health) -> None:
        super().__init__()
        _raise_descriptor_limit()
        heap.keep()
        self._seen = seen
        self._limits = ConnectionLimits(clock, limits, seen.metrics, seen.audit)
        self._penalties = Penalties(
            clock,
            limits.auth_failures,
            limits.auth_penalty,
            limits.auth_penalty_maximum,
            self._limits.exempt,
            self._limits.hit,
        )
        signals = {
            "connections": lambda: self._limits.fraction,
            "memory": memory(),
            "descriptors": open_files(self._limits.descriptors),
        }
        self._overload = Overload(
            clock,
            {name: signal for name, signal in signals.items() if signal is not None},
            lambda: health.lag.lag,
            seen.metrics,
            seen.audit,
            changed=self._overloaded,
        )
        self._overload.setServiceParent(self)
        health.more["overload"] = self._overload.check

    def wrap(self, factory: IProtocolFactory, section: str) -> IProtocolFactory:
        """Count the connections of a listener."""
        return self._limits.wrap(factory, section)

    def hooks(self, section: str) -> dict[str, Any]:
        """Return what a :class:`~gateway.core.web.GatewaySite` asks and tells of its requests."""
        return {
            "admit": partial(self._admit, section),
            "proven": self._limits.proven,
            "refused": partial(self.refused, section),
        }

    def admit(self, peer: str) -> None:
        """Let *peer* show a credential.

        :raises gateway.errors.TooManyRequests: it has to wait, for it has shown too many bad ones.
        """
        self._penalties.check(peer)

    def reload(self, limits: Limits) -> None:
        """Go by *limits* from now on."""
        self._limits.reload(limits)
        self._penalties.failures = limits.auth_failures
        self._penalties.first = limits.auth_penalty
        self._penalties.maximum = limits.auth_penalty_maximum

    def _overloaded(self, step: Step) -> None:
        self._limits.pace = 0.5 if step else 1.0

    def _admit(self, section: str, exchange: Exchange) -> None:
        self._penalties.check(exchange.peer)
        self._overload.admit(section, exchange)

    def refused(self, section: str, peer: str, error: errors.GatewayError) -> None:
        """Remember that the listener *section* refused a *peer*."""
        self._seen.refusal(section, peer, error)
        self._penalties.refused(peer, error)


def _raise_descriptor_limit() -> None:
    """Take as many descriptors as we may have: a connection through us needs two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
