"""How the process is: readiness, the answer of ``/status``, and what metrics read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from gateway import __version__
from gateway.core.addresses import console_url, proxy_urls
from gateway.core.clock import wall
from gateway.core.config import Config
from gateway.core.drain import Drain
from gateway.core.listeners import Listener
from gateway.core.logs import rfc3339
from gateway.core.metrics import LoopLag
from gateway.core.sessions import SessionTable
from gateway.core.tickets import MemoryRegistry
from gateway.core.tls_server import ReloadableTLS

_DAY = 86_400.0
Check = Callable[[], tuple[bool, str]]


@define(eq=False)
class Health:
    """Looks at the parts, and changes none.

    :ivar ready: everything listens.
    :ivar more: further checks that must be well.
    :ivar listeners: section, listener and whether it speaks TLS.
    :ivar targets: how each hypervisor is. One that is down makes nobody else unready.
    """

    registry: MemoryRegistry
    sessions: SessionTable
    drain: Drain
    tls: ReloadableTLS | None
    client_tls: Mapping[str, ReloadableTLS]
    clock: IReactorTime
    config: Config
    ready: bool = False
    listeners: list[tuple[str, Listener, bool]] = field(factory=list)
    more: dict[str, Check] = field(factory=dict)
    targets: Callable[[], Sequence[Mapping[str, object]]] = tuple
    lag: LoopLag = field(init=False)
    _started: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._started = self.clock.seconds()
        self.lag = LoopLag(self.clock)

    @property
    def checks(self) -> dict[str, Check]:
        """What must be well to be ready."""
        return {
            "listeners": lambda: (self.ready, "" if self.ready else "not listening"),
            "draining": lambda: (not self.drain.begun, "draining" if self.drain.begun else ""),
            **self.more,
        }

    @property
    def degraded(self) -> dict[str, Check]:
        """What limits us and does not stop us."""
        return {"tls": self._certificate, "client_crl": self._lists, "token_keys": self._token_keys}

    def _certificate(self) -> tuple[bool, str]:
        left = self._days_left()
        return left is None or left > 0, "" if left is None else f"{left:.0f} days left"

    def _lists(self) -> tuple[bool, str]:
        old = [section for section, end in self.revocation_lists() if end <= wall()]
        return not old, f"too old for [{'], ['.join(old)}]: nobody gets in by a certificate" if old else ""

    def _token_keys(self) -> tuple[bool, str]:
        tokens = self.config.tokens
        some = any((tokens.engine_certificate, tokens.engine_ca, tokens.jwt_keys))
        return True, "" if some else "none configured: signed tickets are refused"

    def _days_left(self) -> float | None:
        return None if self.tls is None else (self.tls.not_after - wall()) / _DAY

    def revocation_lists(self) -> Iterator[tuple[str, float]]:
        """The sections that look into one, and when it must have been replaced, seconds since the epoch."""
        for section, tls in self.client_tls.items():
            if tls.crl_expires is not None:
                yield section, tls.crl_expires

    def live_sessions(self) -> dict[tuple[str, ...], float]:
        """Count the live sessions of each kind."""
        return {(kind,): count for kind, count in Counter(s.kind for s in self.sessions.list()).items()}

    def status(self) -> dict[str, object]:
        """What ``GET /status`` shows."""
        tickets: dict[str, dict[str, int]] = {}
        for (kind, state), count in self.registry.gauges().items():
            if count:
                tickets.setdefault(str(kind), {})[str(state)] = count
        checks = {name: check() for name, check in {**self.checks, **self.degraded}.items()}
        uptime = self.clock.seconds() - self._started
        live = self.sessions.list()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started": rfc3339(wall() - uptime),
            "uptime": round(uptime, 3),
            "draining": self.drain.begun,
            "ready": self.ready and not self.drain.begun,
            "checks": {name: {"ok": good, "text": text} for name, (good, text) in checks.items()},
            "public_url": self.config.gateway.public_url,
            "console_url": console_url(self.config),
            "proxy_urls": proxy_urls(self.config),
            "pages": self.config.web is not None,
            "listeners": [
                {"service": section, "listen": listener.endpoint, "tls": encrypted}
                for section, listener, encrypted in self.listeners
            ],
            "tickets": tickets,
            "sessions": Counter(session.kind for session in live),
            "bytes_in": sum(session.bytes_in for session in live),
            "bytes_out": sum(session.bytes_out for session in live),
            "targets": list(self.targets()),
            "loop_lag": round(self.lag.lag, 6),
            "certificates": self._certificates(),
            "config": {"file": str(self.config.file), "warnings": list(self.config.warnings)},
        }

    def _certificates(self) -> list[dict[str, object]]:
        ends = [] if self.tls is None else [(self.config.tls.certificate, self.tls.not_after)]
        ends += [(getattr(self.config, it).client_crl, end) for it, end in self.revocation_lists()]
        return [
            {"file": str(file), "not_after": rfc3339(end), "days_left": round((end - wall()) / _DAY, 1)}
            for file, end in ends
        ]
