"""Makes the target that the url of a ticket means, if it may be reached from here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from attrs import Factory, field, frozen
from twisted.internet.defer import Deferred

from gateway import errors
from gateway.core.policy import allows_path
from gateway.core.tickets import Ticket
from gateway.core.upstreams import Upstreams
from gateway.images.nbd import NbdTarget
from gateway.images.nbd_pool import NbdPool, place_of
from gateway.images.remote import RemoteTarget, upstream_of
from gateway.images.store import FileTarget, InThread
from gateway.images.target import Target
from gateway.images.volume import Volumes, VolumeTarget
from gateway.wire.hypervisor_url import volume_of
from gateway.wire.ticket_json import LARGEST

T = TypeVar("T")


def _own_pool(targets: Targets) -> NbdPool:
    return NbdPool(targets.upstreams.dialer, targets.upstreams.clock)


@frozen
class Targets:
    """Makes targets.

    :ivar roots: directories whose files a ticket may name.
    :ivar local_socket: use a unix socket that a host on this machine offers.
    :ivar nbd: connections to NBD servers.
    :ivar readable: further directories, of whose files nobody may write any.
    :ivar volumes: of hypervisors, None if none are served.
    """

    upstreams: Upstreams = field(repr=False)
    in_thread: InThread = field(repr=False)
    roots: tuple[Path, ...] = ()
    local_socket: bool = True
    nbd: NbdPool = field(default=Factory(_own_pool, takes_self=True), repr=False)
    readable: tuple[Path, ...] = ()
    volumes: Volumes | None = field(default=None, repr=False)

    def make(self, ticket: Ticket) -> Target:
        """Return the target of *ticket*.

        :raises gateway.errors.Forbidden: it may not be reached from here.
        """
        grant = ticket.grant
        scheme = urlsplit(grant.url).scheme
        limit = None if grant.size >= LARGEST else grant.size
        in_thread = partial(self._counted, ticket)
        if scheme in ("http", "https") or (scheme == "http+unix" and ticket.trusted):
            return RemoteTarget(self.upstreams, *upstream_of(grant.url), local_socket=self.local_socket)
        if scheme == "file" and ticket.trusted:
            path = Path(unquote(grant.url.removeprefix("file:").removeprefix("//")))
            kept = allows_path(path, self.readable)
            real = kept or allows_path(path, self.roots)
            if real is None or (kept is not None and ticket.may("write")):
                text = f"Transfer={grant.transfer_id} names a file that is not served here"
                raise errors.Forbidden(text, reason="target")
            return FileTarget(real, limit, grant.sparse, in_thread, self.upstreams.clock, kept is not None)
        if scheme == "nbd" and ticket.trusted:
            place = place_of(grant.url, dirty=grant.dirty)
            up = self.upstreams
            return NbdTarget(self.nbd, place, limit, grant.sparse, in_thread, up.clock, up.timeout)
        if scheme == "libvirt" and ticket.trusted and self.volumes is not None:
            volume, who, up = volume_of(grant.url), grant.principal, self.upstreams
            return VolumeTarget(self.volumes, volume, who, limit, in_thread, up.clock, up.timeout)
        raise errors.NotImplementedHere(f"Images of scheme {scheme} are not served here")

    def _counted(self, ticket: Ticket, function: Callable[..., Any], *args: object) -> Deferred[Any]:
        """Run *function* in a thread; *ticket* is not gone for good before it is over."""

        def over(result: T) -> T:
            ticket.pending -= 1
            ticket.settle()
            return result

        ticket.pending += 1
        return self.in_thread(function, *args).addBoth(over)
