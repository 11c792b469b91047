"""The hypervisors there are: each with its calls, its events and who may use it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

from attrs import define, evolve, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from gateway import errors
from gateway.core.config_services import Target as Section
from gateway.rpc.connector import dialing
from gateway.rpc.event_hub import EventHub
from gateway.rpc.target import Target
from gateway.rpc.transports import Transports
from gateway.rpc.xml_guard import Policy
from gateway.wire.libvirt_url import LibvirtUrl, parse_url

#: Between the name of a target, and the name that libvirt is to open instead of the configured one.
_OPENS = " opens "
#: Hypervisors that operators named by a URL, at a time.
_FREE = 64


@define(eq=False)
class Site:
    """One hypervisor.

    :ivar match: globs on principals; empty for all.
    :ivar private: only for operators.
    """

    name: str
    url: LibvirtUrl
    target: Target
    hub: EventHub
    match: tuple[str, ...] = ()
    private: bool = False
    section: Section | None = field(default=None, repr=False)

    @property
    def policy(self) -> Policy:
        """What of its host the XML of users may name."""
        section = self.section
        if section is None:
            return Policy()
        return Policy(
            section.volumes,
            section.networks,
            section.file_roots,
            section.emulators,
            section.remote_disks,
            section.user_network,
        )

    @property
    def readonly(self) -> bool:
        """Nothing may be changed there."""
        return self.target.readonly

    async def stop(self) -> None:
        """Close all connections."""
        self.hub.stop()
        await self.target.stop()


class Sites:
    """All hypervisors by their names.

    :ivar connected: told the name of a target each time that it is in reach, or in reach again.
    """

    log = Logger()

    def __init__(
        self, transports: Transports, clock: IReactorTime, wall: Callable[[], float], *, kept: int = 1000
    ) -> None:
        self.kept = kept
        self.connected: Callable[[str], object] = lambda name: None
        self._transports = transports
        self._clock = clock
        self._wall = wall
        self._sites: dict[str, Site] = {}
        self._free: dict[str, Site] = {}

    def __iter__(self) -> Iterator[Site]:
        """Those of the configuration, in its order."""
        return iter(list(self._sites.values()))

    def find(self, name: str) -> Site | None:
        """The hypervisor *name*: of the configuration, or what :meth:`free` has made."""
        return self._sites.get(name) or self._free.get(name)

    def opening(self, name: str, opened: str) -> Site:
        """The configured hypervisor *name*, where libvirt opens another name; raises as :meth:`free`."""
        return self.free(f"{name}{_OPENS}{opened}")

    def free(self, name: str) -> Site:
        """The hypervisor at a URL, or what :meth:`opening` has made; only for operators.

        :raises gateway.errors.BadArguments: it is no URL.
        :raises gateway.errors.NoTarget: there is no such target.
        :raises gateway.errors.Busy: there are too many.
        """
        found = self._free.get(name)
        if found is not None:
            return found
        if len(self._free) >= _FREE:
            raise errors.Busy("Too many hypervisors are open by their URLs")
        known, opens, opened = name.partition(_OPENS)
        if opens:
            if known not in self._sites:
                raise errors.NoTarget
            url, section = evolve(self._sites[known].url, open_name=opened), self._sites[known].section
        else:
            try:
                url, section = parse_url(name), None
            except ValueError as error:
                raise errors.BadArguments("uri", str(error)) from None
        made = self._free[name] = self._make(name, url, section, private=True)
        return made

    def unused(self, used: Callable[[], Container[str]]) -> list[Site]:
        """Forget those of :meth:`free` whose name is not *used*; return them, to be stopped."""
        names = used() if self._free else ()
        return [self._free.pop(name) for name in list(self._free) if name not in names]

    def adopt(self, sections: Mapping[str, Section]) -> list[Site]:
        """Go by *sections* from now on; return those that are gone or have changed, to be stopped."""
        before, self._sites = self._sites, {}
        for name, section in sections.items():
            old = before.get(name)
            if old is not None and old.section == section:
                self._sites[name] = before.pop(name)
            else:
                self._sites[name] = self._make(name, parse_url(section.uri), section)
        for name, site in list(self._free.items()):
            if site.section != sections.get(name.partition(_OPENS)[0]):
                before[name] = self._free.pop(name)
        return list(before.values())

    def describe(self) -> list[dict[str, Any]]:
        """How each of them is, ready for JSON."""
        return [site.target.describe() for site in self]

    async def stop(self) -> None:
        """Close everything."""
        for site in [*self._sites.values(), *self._free.values()]:
            await site.stop()

    def _make(self, name: str, url: LibvirtUrl, section: Section | None, *, private: bool = False) -> Site:
        target = Target(
            name,
            url,
            dial=dialing(self._transports.connect, url, self._clock),
            clock=self._clock,
            readonly=section is not None and section.readonly,
            window=4 if section is None else section.window,
            stream_limit=None if section is None else section.stream_limit,
        )
        target.renewed = lambda: self.connected(name)
        hub = EventHub(name, target, self._clock, self._wall, kept=self.kept)
        match = () if section is None else section.match
        return Site(name, url, target, hub, match, private, section)
