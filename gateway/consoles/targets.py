"""Where a console is: what the url of its ticket means, and the connection to it.

==============================  ================================================================
``vnc://host:port``             VNC; ``vnc+tls:`` demands VeNCrypt, which begins inside of RFB
``spice://host:port``           SPICE; ``spice+tls:`` or ``?tls-port=PORT`` for TLS from the start
``serial://host:port``          a serial line; ``serial+tls:`` with TLS
``tcp://host:port``             bytes of any kind; ``tls:`` with TLS
``vnc+unix:/path`` and so on    the same at a unix socket; ``unix:/path`` for bytes of any kind
``libvirt://TARGET/UUID/...``   a serial line or a screen of a machine, see :mod:`gateway.wire.hypervisor_url`
==============================  ================================================================

``?tls-name=NAME`` is the name in the server's certificate, when that is not the host of the url: consoles are
often named by address, and their certificates by name. TLS that was asked for is never left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote, urlsplit

from attrs import field, frozen
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.logger import Logger

from gateway import errors
from gateway.consoles.hypervisor import HypervisorReach
from gateway.core.dial import Dialer
from gateway.core.policy import parse_host
from gateway.core.tickets import Ticket
from gateway.core.tls_client import Strict, strict_creator
from gateway.wire.hypervisor_url import ConsolePlace, console_of
from gateway.wire.spice_link import MAGIC
from gateway.wire.ticket_json import Grant


class Protocol(StrEnum):
    """What a console speaks; the policy knows these words as schemes."""

    VNC = "vnc"
    SPICE = "spice"
    SERIAL = "serial"
    RAW = "raw"


@frozen
class Target:
    """One console.

    :ivar kind: what it speaks.
    :ivar host: name or address, IPv6 without brackets; empty for a unix socket.
    :ivar tls: it has to be encrypted: VNC by VeNCrypt, all else from the first byte.
    :ivar path: of a unix socket.
    :ivar tls_name: the name in its certificate.
    :ivar place: behind a hypervisor, instead of all else.
    """

    kind: Protocol
    host: str = ""
    port: int = 0
    tls: bool = False
    path: str | None = field(default=None, repr=False)
    tls_name: str = ""
    place: ConsolePlace | None = None

    @property
    def local(self) -> bool:
        """Whether it is reached by rights of our own, which no token of somebody else can lend."""
        return self.path is not None or self.place is not None

    @property
    def name(self) -> str:
        """For the list of sessions: no path, no secret."""
        if self.place is not None:
            return f"libvirt://{self.place.target}/{self.place.uuid}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}" if self.path is None else f"{self.scheme}+unix"

    @property
    def scheme(self) -> str:
        """What the rules of the policy call it."""
        if self.kind is Protocol.RAW:
            return "tls" if self.tls else "tcp"
        return self.kind.value

    @property
    def wrapped(self) -> bool:
        """Whether TLS begins with the first byte."""
        return self.tls and self.kind is not Protocol.VNC


def target_of(url: str) -> Target:
    """Take the *url* of a console ticket apart, which was checked when the ticket was made.

    :raises gateway.errors.BadRequest: its query makes no sense.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "libvirt":
        place = console_of(url)
        return Target(Protocol.SERIAL if place.graphics is None else Protocol.VNC, place=place)
    word, _, way = scheme.partition("+")
    kind = Protocol(word) if word in ("vnc", "spice", "serial") else Protocol.RAW
    if "unix" in (word, way):
        return Target(kind, path=unquote(rest.removeprefix("//")))
    parts = urlsplit(url)
    asked = _query(parts.query)
    tls_port = asked.get("tls-port") if kind is Protocol.SPICE else None
    port = str(parts.port or 0) if tls_port is None else tls_port
    if not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) > 65535:
        raise errors.BadRequest("A port is 1 to 65535", reason="target")
    try:
        host, name = parse_host(parts.hostname or ""), asked.get("tls-name", "")
        name = parse_host(name) if name else host
    except ValueError:
        raise errors.BadRequest("A host has a name or an address", reason="target") from None
    return Target(kind, host, int(port), "tls" in (word, way) or tls_port is not None, tls_name=name)


def targets_of(ticket: Ticket) -> tuple[Target, ...]:
    """What *ticket* may open, the first by preference.

    An engine's token does not say whether its console is VNC or SPICE, and names both: see :func:`choose`.

    :raises gateway.errors.Forbidden: a unix socket or a hypervisor, on the word of a token somebody shows.
    """
    targets = tuple(map(target_of, ticket.grant.urls))
    if not ticket.trusted and any(target.local for target in targets):
        raise errors.Forbidden("This console is not served here", reason="target")
    if not targets:
        raise errors.Forbidden("This ticket names no console", reason="target")
    return targets


def places(grant: Grant) -> Iterator[tuple[str, str, int]]:
    """Where *grant* leads to over the network: scheme, host and port, as the policy is asked.

    :raises gateway.errors.BadRequest: as :func:`target_of`.
    """
    for target in map(target_of, grant.urls):
        if not target.local:
            yield target.scheme, target.host, target.port


def choose(targets: tuple[Target, ...], first: bytes) -> Target:
    """Which of *targets* the client means whose *first* bytes these are; VNC clients wait for the server."""
    spice = [target for target in targets if target.kind is Protocol.SPICE]
    others = [target for target in targets if target.kind is not Protocol.SPICE]
    if first and MAGIC.startswith(first[: len(MAGIC)]):
        return (spice or others)[0]
    return (others or spice)[0]


def _query(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in query.split("&") if query else []:
        name, _, value = pair.partition("=")
        if name in found:
            raise errors.BadRequest("A part of the url is given twice", reason="target")
        found[name] = unquote(value)
    return found


@frozen
class Reach:
    """Makes connections to consoles.

    :ivar vnc_ca: who vouches for VNC servers and serial lines, PEM.
    :ivar spice_ca: who vouches for SPICE servers, PEM.
    :ivar certificate: what we show to servers that ask for one, PEM, with its *key*.
    :ivar hypervisors: what leads to consoles of theirs, None if nothing does.
    """

    dialer: Dialer = field(repr=False)
    vnc_ca: Path | None = None
    spice_ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    hypervisors: HypervisorReach | None = field(default=None, repr=False)
    _log = Logger()

    def trust(self, target: Target) -> Strict:
        """What verifies the server of *target*: for VNC it is needed in the middle of the handshake.

        :raises gateway.errors.UpstreamFailed: nobody vouches for such servers.
        """
        authority = self.spice_ca if target.kind is Protocol.SPICE else self.vnc_ca
        try:
            return strict_creator(
                target.tls_name or target.host,
                [] if authority is None else [authority],
                client_certificate=self.certificate,
                client_key=self.key,
            )
        except errors.ConfigError as error:
            self._log.error(
                "no TLS to a {kind} console: {problem}", kind=str(target.kind), problem=str(error)
            )
            raise errors.UpstreamFailed(reason="tls") from error

    def judge(self, target: Target, address: str) -> None:
        """Have the policy, as it is now, judge a connection to *target* that is up.

        :raises gateway.errors.Forbidden: it would not be made any more.
        """
        if not target.local:
            self.dialer.policy.judge(target.scheme, target.host, address, target.port)

    async def connect(
        self, target: Target, factory: IProtocolFactory, *, principal: str = "", takeover: bool = False
    ) -> IProtocol:
        """Connect a protocol of *factory* to *target*; where TLS comes first, once the server is verified.

        :param principal: for whom; hypervisors let principals take turns.
        :param takeover: a hypervisor lets us have a serial line even if somebody else has it.
        :raises gateway.errors.GatewayError: as :meth:`gateway.core.dial.Dialer.connect`.
        """
        if target.place is not None:
            if self.hypervisors is None:
                raise errors.NotImplementedHere("Consoles of hypervisors are not served here")
            behind, place = self.hypervisors, target.place
            return await behind.connect(place, factory, principal=principal, force=takeover)
        if target.path is not None:
            return await self.dialer.connect_unix(target.path, factory)
        tls = self.trust(target) if target.wrapped else None
        return await self.dialer.connect(target.scheme, target.host, target.port, factory, tls=tls)
