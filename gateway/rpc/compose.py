"""Makes hypervisors and the AMP endpoint out of the configuration, and gives them a new one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from gateway import errors
from gateway.core.address_check import holds_address
from gateway.core.addresses import consoles_url
from gateway.core.base import Base
from gateway.core.config import Config
from gateway.core.proofs import Proofs
from gateway.core.ticket_news import Trail
from gateway.rpc import answers_control, answers_planes, settling
from gateway.rpc.answers_control import Orders
from gateway.rpc.cookies import load as load_cookies
from gateway.rpc.desk import Desk
from gateway.rpc.endpoint import Door, users
from gateway.rpc.handles import Handles
from gateway.rpc.journal import Entry, Journal, Result
from gateway.rpc.libvirt_door import LibvirtDoor, Port
from gateway.rpc.login import Logins
from gateway.rpc.offspring import Offspring
from gateway.rpc.planes import Planes
from gateway.rpc.screenshots import Screenshots
from gateway.rpc.sites import Site, Sites
from gateway.rpc.store import Store
from gateway.rpc.target import Target
from gateway.rpc.transports import Transports

#: Seconds between two looks for what is to be written, or is old.
_TIDY = 5.0


@frozen
class Hooks:
    """What the process gives to the endpoint, and is told by it.

    :ivar drain, reload, audit: see :class:`gateway.rpc.answers_control.Orders`.
    :ivar trail: the audit trail.
    :ivar refused: told of each login that failed: the listener, the peer and the error.
    :ivar admit: raises when an address has to wait before it shows another credential.
    :ivar seen: told each call: the procedure, a word for its end, and its seconds.
    """

    drain: Callable[[], int]
    reload: Callable[[], Awaitable[list[str]]]
    audit: Callable[[int | None, int], Sequence[Mapping[str, object]]]
    trail: Trail
    refused: Callable[[str, str, errors.GatewayError], object]
    admit: Callable[[str], object]
    seen: Callable[[str, str, float], object]


@frozen
class _Targets(Mapping[str, Target]):
    """The hypervisors of the configuration by name, as it is now."""

    _sites: Sites

    def __getitem__(self, name: str) -> Target:
        site = self._sites.find(name)
        if site is None:
            raise KeyError(name)
        return site.target

    def __iter__(self) -> Iterator[str]:
        return (site.name for site in self._sites)

    def __len__(self) -> int:
        return sum(1 for _ in self._sites)


class Rpc:
    """The hypervisors of the configuration, and the endpoint if there is a section for it.

    :ivar sites: the hypervisors.
    :ivar planes: what images and consoles have of them.
    :ivar door: what takes connections; of use from :meth:`start` on.
    """

    log = Logger()

    def __init__(self, config: Config, base: Base, hooks: Hooks) -> None:
        self._config = config
        self._base = base
        self._hooks = hooks
        kept = 1000 if config.rpc is None else config.rpc.events
        self.sites = Sites(
            Transports(base.reactor, base.dialer, base.wall), base.reactor, base.wall, kept=kept
        )
        self.sites.adopt(config.targets)
        self.planes = Planes(_Targets(self.sites))
        self._threads = ThreadPool(0, 1, "rpc")
        self._pictures = ThreadPool(0, 1, "screenshots")
        folder = config.gateway.screenshots
        self.screenshots = Screenshots(
            folder, partial(deferToThreadPool, base.reactor, self._pictures), base.reactor, base.wall
        )
        proofs = Proofs(base.registry, base.tokens, base.reactor, base.wall)
        self._logins = Logins(base.registry, proofs, base.sessions, "amp", "rpc", admit=hooks.admit)
        self.door = Door(
            clock=base.reactor,
            logins=self._logins,
            refused=partial(hooks.refused, "rpc"),
            judge=partial(self._judge, "rpc"),
        )
        self.libvirt = LibvirtDoor(
            base.reactor,
            Logins(base.registry, proofs, base.sessions, "libvirt", "libvirt", admit=hooks.admit),
            partial(hooks.refused, "libvirt"),
            partial(self._judge, "libvirt"),
        )
        self._tidy = LoopingCall(self._purge)
        self._tidy.clock = base.reactor
        self._store: Store | None = None

    def port(self, section: str, key: str, encrypted: bool) -> Door | Port:
        """What takes the connections of a listener."""
        if section == "rpc":
            return self.door
        target = section.removeprefix("target ") if section != "libvirt" else ""
        return Port(self.libvirt, encrypted, key == "socket", target)

    # -- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Open what is kept in the state directory.

        :raises gateway.errors.ConfigError: it cannot be used.
        """
        if self._config.rpc is None and self._config.libvirt is None:
            return
        base, hooks, state = self._base, self._hooks, self._config.gateway.state_dir
        self._threads.start()
        self._pictures.start()
        self._store = Store(state / "rpc.db", partial(deferToThreadPool, base.reactor, self._threads))
        handles = Handles(self._store, base.wall)
        journal = Journal(self._store, base.wall, self._settle)
        cookies = load_cookies(state / "rpc.key")
        self.screenshots.start()
        self.door.desk = self.libvirt.desk = desk = Desk(
            self.sites, handles, cookies, journal, base.reactor, base.wall, hooks.trail, hooks.seen
        )
        offspring = Offspring(base.registry, base.reactor, desk.end_ticket, handles.renew_ticket)
        offspring.watch()
        planes = answers_planes.Planes(
            offspring, self.screenshots, self._images, lambda: consoles_url(self._config)
        )
        orders = Orders(base.registry, base.sessions, hooks.drain, hooks.reload, hooks.audit)
        self.door.users = users([answers_planes.responders(planes)])
        self.door.operators = answers_control.responders(orders)
        self.sites.connected = partial(self._connected, desk)
        self.adopt(self._config)
        self._tidy.start(_TIDY, now=False)

    async def stop(self) -> None:
        """Close all connections, and write down what there is to be."""
        if self._tidy.running:
            self._tidy.stop()
        await self.sites.stop()
        if self._store is not None:
            await self.door.desk.handles.stop()
            await self._store.close()
            self._threads.stop()
            self.screenshots.stop()
            self._pictures.stop()

    def adopt(self, config: Config) -> None:
        """Go by *config* from now on; hypervisors that it leaves as they are stay connected."""
        self._config = config
        self._logins.subjects = () if config.rpc is None else config.rpc.allowed_dn
        if config.libvirt is not None:
            self.libvirt.logins.subjects = config.libvirt.allowed_dn
            self.libvirt.users = config.libvirt.socket_users
        self._leave(self.sites.adopt(config.targets))

    # -- parts -----------------------------------------------------------------------------

    def _images(self) -> str | None:
        url = self._config.gateway.public_url
        return None if self._config.images is None or url is None else url.rstrip("/")

    async def _judge(self, section: str, transport: Any) -> None:
        """Hold a client to the addresses in its certificate, where the *section* of its listener wants it.

        :raises gateway.errors.Unauthenticated: it comes from elsewhere.
        """
        service = getattr(self._config, section)
        if service is None or not service.verify_address:
            return
        certificate = transport.getPeerCertificate().to_cryptography()
        if not await holds_address(certificate, transport.getPeer().host, self._base.dialer.resolve):
            raise errors.Unauthenticated("This certificate belongs to another address", reason="address")

    def _connected(self, desk: Desk, name: str) -> None:
        """A hypervisor is in reach again: what was begun there may be settled now."""
        desk.handles.connected(name)
        settling = Deferred.fromCoroutine(desk.journal.settle(name))
        settling.addErrback(lambda failure: self.log.failure("the journal is not settled", failure))

    async def _settle(self, entry: Entry) -> Result | None:
        """What a write gave whose answer was lost, where that can be told."""
        site = self.sites.find(entry.target)
        return None if site is None else await settling.settle(entry, site.target.call)

    def _leave(self, sites: Iterable[Site]) -> None:
        for site in sites:
            self.libvirt.leave(site)
            if self._store is not None:
                for seat in list(self.door.desk.seats):
                    seat.events.leave(site)
            stopping = Deferred.fromCoroutine(site.stop())
            stopping.addErrback(lambda failure: self.log.failure("a target is left", failure))

    def _purge(self) -> None:
        desk = self.door.desk
        desk.left(desk.handles.purge())
        self._leave(self.sites.unused(desk.handles.targets))
        purging = Deferred.fromCoroutine(desk.journal.purge())
        purging.addErrback(lambda failure: failure.trap(errors.GatewayError) and None)
