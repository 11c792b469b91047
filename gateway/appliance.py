"""Composes the process: every part made once, given what it uses, started and stopped together."""

from __future__ import annotations

import gc
import os
import secrets
import signal
import socket
from functools import partial
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from gateway import __version__, consoles, errors, tunnel
from gateway.control import Orders, control_tree, refuse_pages
from gateway.core import config as configuration
from gateway.core import configured, logs, systemd
from gateway.core.audit import Audit
from gateway.core.base import Base
from gateway.core.clock import StepWatch, wall
from gateway.core.config import Config
from gateway.core.config_model import UNAVAILABLE
from gateway.core.dial import Dialer
from gateway.core.drain import Drain
from gateway.core.foresight import Foresight
from gateway.core.guard import Guard
from gateway.core.health import Health
from gateway.core.listeners import Listener
from gateway.core.metrics import Metrics, metrics_tree
from gateway.core.observation import Observation
from gateway.core.sessions import SessionTable
from gateway.core.tickets import SESSIONS, AtExpiry, Kind, MemoryRegistry
from gateway.core.tls import tls_factory
from gateway.core.tls_server import ReloadableTLS, ServerContext
from gateway.core.tokens import TokenVerifier
from gateway.core.web import GatewaySite, Tree
from gateway.images import Images
from gateway.rpc.compose import Hooks, Rpc
from gateway.web import admin_pages, pages

#: Listeners that only the operator's own programs reach; they are never limited nor drained.
_TRUSTED = frozenset({"control", "metrics"})

_log = Logger(namespace="gateway")
_audit_log = Logger(namespace=logs.AUDIT)


class Appliance(logs.LoggedService):
    """The whole process as one service.

    :ivar config: what is in force; :meth:`reload` exchanges it.
    """

    def __init__(self, reactor: Any, config: Config) -> None:
        self.metrics = Metrics(wall())
        super().__init__(logs.observer(config, lambda stream: self.metrics.log_dropped.labels(stream).inc()))
        self.config = config
        self._reactor = reactor
        self._doors: dict[str, Any] = {}
        host, boot = socket.gethostname(), secrets.token_hex(8)
        self._audit = Audit(_audit_log, wall, reactor, host, os.getpid(), boot)
        self._seen = Observation(self.metrics, self._audit)
        self._make_core()
        self._guard = Guard(reactor, config.limits, self._seen, self.health)
        self._guard.setServiceParent(self)
        base = Base(reactor, wall, self.registry, self.tokens, self.sessions, self.dialer)
        self.rpc = self._make_rpc(base)
        volumes = None if self.rpc is None else self.rpc.planes
        door = None if config.libvirt is None or self.rpc is None else self.rpc.libvirt
        self.pipe = None if door is None else consoles.Pipe(reactor, door.logins.check, door.shown)
        self.images = Images(config, base, volumes)
        self.recordings = consoles.recordings(reactor, wall, self._seen.trail)
        self.recordings.setServiceParent(self)
        self.consoles = consoles.compose(
            config, base, self.recordings, self._guard.hooks("consoles")["refused"], volumes
        )
        self.tunnel = tunnel.compose(config, base, self._seen.tunnel, partial(self._seen.dial, "tunnel"))
        self._listen()
        self.health.lag.observe = self.metrics.loop_lag.observe
        self.health.lag.setServiceParent(self)
        watch = StepWatch(reactor, wall, lambda step: self._audit("clock.step", reason=f"{step:.1f}"))
        watch.setServiceParent(self)
        self._watch = LoopingCall(self._look)
        self._watch.clock = reactor

    # -- composition -----------------------------------------------------------------------

    def _make_core(self) -> None:
        config, reactor = self.config, self._reactor
        ending = {Kind.IMAGE: config.images, Kind.TUNNEL: config.tunnel}
        # Operations on images wait, see gateway.images.slots; tunnels have limits of their own.
        self.registry = MemoryRegistry(
            reactor,
            wall,
            maximum=config.registry.maximum,
            sweep=config.registry.sweep,
            sessions_per_ticket=SESSIONS | {Kind.IMAGE: None, Kind.TUNNEL: None},
            at_expiry={
                it: AtExpiry.CUT for it in ending if (on := ending[it]) and on.enforce_expiry == "always"
            },
            audit=self._seen.trail,
            revoked=self._seen.revocation,
        )
        self.registry.watch(self._seen.ticket)
        self.sessions = SessionTable(reactor, wall, self.registry, self._seen.trail)
        self.tokens = TokenVerifier(
            configured.signers(config),
            wall=wall,
            started=wall(),
            skew=config.tokens.skew,
            sha1=config.tokens.sha1,
            jwt_audience=config.tokens.jwt_audience,
            jwt_issuer=config.tokens.jwt_issuer,
            observe=self._seen.token,
        )
        self.dialer = Dialer(
            reactor,
            configured.policy(config),
            connect_timeout=config.images.connect_timeout if config.images else 10.0,
            dns_timeout=config.limits.dns_timeout,
            lookups=config.limits.dns_lookups,
        )
        self.drain = Drain(reactor, self.sessions, config.gateway.drain_timeout, self._begin_drain)
        self._tls = (
            ReloadableTLS(self._context) if any(encrypted for *_, encrypted in config.ports()) else None
        )
        # Where clients may show certificates there is a context for that alone.
        self._client_tls = {
            section: ReloadableTLS(partial(self._context, section))
            for section in ("tunnel", "rpc", "libvirt")
            if self._tls is not None and getattr(config, section) is not None
        }
        self.health = Health(
            self.registry, self.sessions, self.drain, self._tls, self._client_tls, reactor, config
        )
        self.metrics.tickets.read = lambda: {
            (str(k), str(s)): n for (k, s), n in self.registry.gauges().items()
        }
        self.metrics.sessions.read = self.health.live_sessions
        self.metrics.timers.read = lambda: {(): len(reactor.getDelayedCalls())}

    def _make_rpc(self, base: Base) -> Rpc | None:
        """The hypervisors, and the endpoint; None when the configuration has neither."""
        if not (self.config.rpc or self.config.libvirt or self.config.targets):
            return None
        hooks = Hooks(
            drain=self.drain.start,
            reload=self.reload,
            audit=self._audit.since,
            trail=self._seen.trail,
            refused=self._guard.refused,
            admit=self._guard.admit,
            seen=self._seen.call,
        )
        rpc = Rpc(self.config, base, hooks)
        self.health.targets = rpc.sites.describe
        self._seen.hypervisors(rpc.sites.describe)
        return rpc

    def _context(self, section: str = "") -> ServerContext:
        return configured.server_context(self.config, section)

    def _listen(self) -> None:
        """One site for each endpoint; services that share an endpoint share the site."""
        for name, key, endpoint, encrypted in self.config.ports():
            # A target's own port is one for libvirt clients.
            section = "libvirt" if name.startswith("target ") else name
            if section in UNAVAILABLE:
                continue
            door = self._doors.get(endpoint)
            if door is None:
                door = self._doors[endpoint] = self._door(name, key, encrypted)
                factory: Any = door
                if encrypted and self._tls is not None:
                    observe = partial(self._seen.handshake, section)
                    timeout = self.config.limits.handshake_timeout
                    tls = self._client_tls.get(section, self._tls)
                    factory = tls_factory(tls, door, self._reactor, timeout, observe)
                if section not in _TRUSTED:
                    factory = self._guard.wrap(factory, section)
                listener = Listener(self._reactor, endpoint, factory, self.config.limits.backlog)
                listener.setServiceParent(self)
                self.health.listeners.append((section, listener, encrypted))
            if isinstance(door, GatewaySite):
                self._serve(section, door)

    def _door(self, name: str, key: str, encrypted: bool) -> Any:
        """What takes the connections of a listener, which stands under *name* and *key*."""
        if self.rpc is not None and name.split(" ")[0] in ("rpc", "libvirt", "target"):
            return self.rpc.port(name, key, encrypted)
        return self._site(name)

    def _site(self, section: str) -> GatewaySite:
        trusted: dict[str, Any] = {"refused": partial(self._seen.refusal, section)}
        if section == "control":
            trusted["admit"] = refuse_pages
        hooks = trusted if section in _TRUSTED else self._guard.hooks(section)
        return GatewaySite(
            self._reactor,
            name=section,
            root=Tree(),
            limits=configured.http_limits(self.config),
            observe=partial(self._seen.request, section),
            **hooks,
        )

    def _serve(self, section: str, site: GatewaySite) -> None:
        if self.pipe is not None and section in ("images", "consoles", "web"):
            site.routes.append(self.pipe.route)
        if section == "images":
            self.images.serve(site)
        elif section == "consoles" and self.consoles is not None:
            site.routes.append(self.consoles.route)
            if self.config.web is not None:
                # The console page, its websocket and what it asks are of one origin.
                site.resource = pages()
        elif section == "tunnel" and self.tunnel is not None:
            self.tunnel.serve(site)
        elif section == "web":
            site.resource = pages()
        elif section == "control":
            ahead = Foresight(self.dialer, {Kind.CONSOLE: consoles.places, Kind.TUNNEL: tunnel.places})
            orders = Orders(self.health.status, self.drain.start, self.reload, self.recordings.list, ahead.of)
            page = admin_pages() if self.config.web is not None else None
            site.resource = control_tree(
                self.registry, self.sessions, orders, self._reactor, wall, self._remove_timeout, page
            )
        elif section == "metrics":
            site.resource = metrics_tree(self.metrics, self.health.checks, self.health.degraded)

    def _remove_timeout(self) -> float:
        return self.config.control.remove_timeout

    # -- life ------------------------------------------------------------------------------

    def startService(self) -> None:
        for file in self.logs.unwritable():
            raise SystemExit(f"gateway: [log]: {file} cannot be written")
        for directory in (self.config.gateway.state_dir, self.config.gateway.run_dir):
            try:
                directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            except OSError as error:
                raise SystemExit(f"gateway: cannot make {directory}: {error.strerror}") from error
        self.images.start()
        if self.rpc is not None:
            try:
                self.rpc.start()
            except errors.ConfigError as error:
                raise SystemExit(f"gateway: {error}") from error
        self._uncapture = logs.capture()
        self._audit("start")
        super().startService()
        self._own = [(port.host, port.port) for port in self._addresses()]
        self.dialer.policy = configured.policy(self.config, self._own)
        self._watch.start(1.0, now=True)
        self._reactor.callWhenRunning(self._running)

    def _addresses(self) -> list[Any]:
        ports = [listener.port for _, listener, _ in self.health.listeners if listener.port is not None]
        hosts: list[Any] = [port.getHost() for port in ports]
        return [host for host in hosts if hasattr(host, "port")]

    def _running(self) -> None:
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._hangup))
        signal.signal(signal.SIGUSR1, lambda *_: self._reactor.callFromThread(self.logs.reopen))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._reactor.callFromThread(self._asked_to_stop))
        # What was made until now stays; to look through all of it takes the collector 50 ms and more.
        gc.collect()
        gc.freeze()
        self.health.ready = True
        self._audit("ready")
        _log.info("gateway {version} is ready", version=__version__)
        systemd.ready("serving")

    def _hangup(self) -> None:
        Deferred.fromCoroutine(self.reload()).addErrback(lambda failure: failure.trap(errors.ConfigError))

    def _asked_to_stop(self) -> None:
        """The first time stop in good order; the second time at once."""
        if self.health.ready:
            self.health.ready = False
            self._reactor.stop()
        else:
            self.drain.cut()

    def _begin_drain(self) -> None:
        self._audit("drain")
        for section, listener, _ in self.health.listeners:
            if section not in _TRUSTED:
                self._doors[listener.endpoint].drain()

    @inlineCallbacks
    def stopService(self) -> Any:
        systemd.stopping("draining")
        self.health.ready = False
        yield self.drain.finish()
        yield MultiService.stopService(self)
        for door in self._doors.values():
            door.close()
        self.registry.stop()
        if self._watch.running:
            self._watch.stop()
        self.images.stop()
        if self.rpc is not None:
            yield Deferred.fromCoroutine(self.rpc.stop())
        self._audit("stop")
        self._audit.close()
        self._uncapture()

    def _look(self) -> None:
        """Once a second: keys that changed, the certificate's end, the watchdog."""
        self.tokens.maybe_reload()
        if self._tls is not None:
            self.metrics.certificate_end.labels("tls").set(self._tls.not_after)
        for section, end in self.health.revocation_lists():
            self.metrics.crl_end.labels(section).set(end)
        if systemd.watchdog_seconds(os.getpid()) is not None and self.health.lag.lag < 5:
            systemd.watchdog()

    async def reload(self) -> list[str]:
        """Read the configuration and certificates again; on any problem all stays as it was.

        :return: what only a restart will change.
        :raises gateway.errors.ConfigError: with every problem.
        """
        systemd.reloading()
        try:
            new = configuration.load(self.config.file, opened=True)
            signers = configured.signers(new)
            consoles.origins(new)
            if self._tls is not None:
                self._tls.reload(lambda: configured.server_context(new))
                for section, tls in self._client_tls.items():
                    tls.reload(partial(configured.server_context, new, section))
            self.tokens.reload(signers)
        except errors.ConfigError as error:
            self.metrics.reloaded(False)
            for problem in error.problems:
                _log.error("not reloaded: {problem}", problem=problem)
            self._audit("reload_failed")
            raise
        finally:
            systemd.ready("serving")
        warnings = self._adopt(new)
        self.metrics.reloaded(True)
        self.logs.reopen()
        self._audit("reload")
        _log.info("reloaded {file}", file=str(new.file))
        for warning in warnings:
            _log.warn("reload: {warning}", warning=warning)
        return warnings

    def _adopt(self, new: Config) -> list[str]:
        before = {(section, key): endpoint for section, key, endpoint, _ in self.config.ports()}
        after = {(section, key): endpoint for section, key, endpoint, _ in new.ports()}
        warnings = list(new.warnings)
        if before != after:
            warnings.append("what listens has changed, which takes a restart")
        self.config = self.health.config = new
        self.dialer.policy = configured.policy(new, self._own)
        self.images.adopt(new)
        if self.rpc is not None:
            self.rpc.adopt(new)
        consoles.adopt(self.consoles, new)
        tunnel.adopt(self.tunnel, new)
        limits = configured.http_limits(new)
        for _, listener, _ in self.health.listeners:
            door = self._doors[listener.endpoint]
            if isinstance(door, GatewaySite):
                door.limits = limits
        self._guard.reload(new.limits)
        return warnings
