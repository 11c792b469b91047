"""Opens the five transports of libvirt to a protocol: unix, tcp, tls, ssh and ext.

=========  ===========================================================================================
unix       a socket of this machine, which may pass descriptors (:mod:`gateway.rpc.local_socket`)
tcp, tls   an address that the policy lets pass, under the scheme ``libvirt`` (:mod:`gateway.rpc.tls_files`)
ssh        a child process; the policy judges the address, and ssh gets that one (:mod:`gateway.rpc.ssh`)
ext        a child process that gets no arguments (:mod:`gateway.rpc.helper_process`)
=========  ===========================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from twisted.internet.interfaces import IAddress, IProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.core.address_check import holds_address
from gateway.core.dial import Dialer
from gateway.errors import ConfigError, UpstreamFailed, UpstreamTimeout
from gateway.rpc.helper_process import environment_of, start_helper
from gateway.rpc.local_socket import socket_path
from gateway.rpc.ssh import ssh_command
from gateway.rpc.tls_files import make_creator
from gateway.wire.libvirt_url import LibvirtUrl

#: What rules of the policy call a hypervisor.
SCHEME = "libvirt"


class Transports:
    """Attaches protocols to what URLs name.

    :param wall: seconds since the epoch, for certificates.
    :param patience: seconds until a child process must have said its first byte.
    :param environment: ours by default; child processes get a part of it.
    :param uid: whom we run as.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        dialer: Dialer,
        wall: Callable[[], float],
        *,
        patience: float = 30.0,
        environment: Mapping[str, str] | None = None,
        uid: int | None = None,
    ) -> None:
        self._reactor = reactor
        self._dialer = dialer
        self._wall = wall
        self._patience = patience
        self._environment = os.environ if environment is None else environment
        self._uid = os.geteuid() if uid is None else uid

    async def connect(self, url: LibvirtUrl, protocol: IProtocol, *, readonly: bool = False) -> None:
        """Let *protocol* have a connection to where *url* leads.

        With ssh and ext it has one as soon as the child process runs: that ends it when it gets nowhere.

        :param readonly: choose a socket for readers where there is one.
        :raises Forbidden: the policy refuses the host.
        :raises UpstreamFailed: ``reason`` is one of those of the dialer; ``helper`` when a program cannot be
            started, ``url`` when something in the URL cannot be said to it.
        :raises UpstreamTimeout: ``reason`` is ``connect``.
        """
        if url.transport == "unix":
            path = socket_path(
                url,
                readonly=readonly,
                uid=self._uid,
                environment=self._environment,
                exists=os.path.exists,
            )
            await self._dialer.connect_unix(path, _Given(protocol))
        elif url.transport == "tcp":
            await self._dialer.connect(SCHEME, url.server, url.server_port, _Given(protocol))
        elif url.transport == "tls":
            await self._connect_tls(url, protocol)
        elif url.transport == "ssh":
            # ssh might find another address under the name than the one that was judged.
            addresses = await self._dialer.judged(SCHEME, url.server, url.server_port)
            self._warn_careless(url)
            address = addresses[0] if len(addresses) == 1 else await self._reachable(url, addresses)
            self._start(ssh_command(url, readonly=readonly, uid=self._uid, address=address), protocol)
        else:
            self._start([url.command], protocol)

    def _start(self, command: list[str], protocol: IProtocol) -> None:
        start_helper(
            self._reactor,
            command,
            protocol,
            environment=environment_of(self._environment),
            patience=self._patience,
        )

    async def _reachable(self, url: LibvirtUrl, addresses: Sequence[str]) -> str:
        """The one of *addresses* where somebody answers: ssh tries no more than the one it gets.

        It is the first if nobody does, for ssh may know a way around.
        """
        probe = _StandIn()
        try:
            await self._dialer.connect(SCHEME, url.server, url.server_port, _Given(probe))
        except (UpstreamFailed, UpstreamTimeout):
            return addresses[0]
        transport: Any = probe.transport
        found: str = transport.getPeer().host
        transport.abortConnection()
        return found if found in addresses else addresses[0]

    def _warn_careless(self, url: LibvirtUrl) -> None:
        if url.no_verify:
            self.log.warn(
                "{host} could be anybody: the URL says no_verify, and nothing proves who answers",
                host=url.server,
            )

    async def _connect_tls(self, url: LibvirtUrl, protocol: IProtocol) -> None:
        self._warn_careless(url)
        try:
            now = datetime.fromtimestamp(self._wall(), UTC)
            creator = make_creator(url, uid=self._uid, environment=self._environment, moment=now)
        except ConfigError as failure:
            self.log.error("no TLS to {host}: {problem}", host=url.server, problem=str(failure))
            raise UpstreamFailed(
                "The files for TLS to this host are missing or no good", reason="tls"
            ) from failure
        if not url.verify_address:
            await self._dialer.connect(SCHEME, url.server, url.server_port, _Given(protocol), tls=creator)
            return
        stand_in = _StandIn()
        await self._dialer.connect(SCHEME, url.server, url.server_port, _Given(stand_in), tls=creator)
        await self._check_address(stand_in, url)
        stand_in.give_way(protocol)

    async def _check_address(self, stand_in: _StandIn, url: LibvirtUrl) -> None:
        """The certificate was verified, unless nobody wanted to know; the address must stand in it."""
        transport: Any = stand_in.transport
        address = transport.getPeer().host
        try:
            certificate = transport.getPeerCertificate().to_cryptography()
            good = await holds_address(certificate, address, self._dialer.resolve)
        except BaseException:  # raised again, cancelled or not
            transport.abortConnection()
            raise
        if not good or stand_in.lost:
            transport.abortConnection()
            self.log.warn(
                "the certificate of {host} does not hold {address}", host=url.server, address=address
            )
            raise UpstreamFailed("The certificate is not for the address of this host", reason="tls")


class _Given(Factory):
    """Builds a protocol that is there already."""

    noisy = False

    def __init__(self, protocol: IProtocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> Any:
        return self._protocol


class _StandIn(Protocol):
    """Has a secure connection until it is known whose it is.

    :ivar lost: the other side has closed it.
    """

    def __init__(self) -> None:
        self.lost = False
        self._early = b""

    def connectionMade(self) -> None:
        self.transport.pauseProducing()  # type: ignore[union-attr]  # it is connected

    def dataReceived(self, data: bytes) -> None:
        self._early += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True

    def give_way(self, protocol: IProtocol) -> None:
        """Let *protocol* have the connection, and all that came."""
        transport: Any = self.transport
        transport.wrappedProtocol = protocol
        protocol.makeConnection(transport)
        if self._early:
            protocol.dataReceived(self._early)
        transport.resumeProducing()
