"""TLS on top of a transport, both ways: when it begins, and when it took too long.

:func:`tls_factory` is for listeners, :func:`wrap_client_tls` for outgoing connections. Contexts
and their checks are in :mod:`gateway.core.tls_server` and :mod:`gateway.core.tls_client`.

Between the TLS protocol and the protocol it carries stands a :class:`Gate` until the handshake is
complete: a protocol is built, and hears of a connection, only when that is secure. Then the gate
steps aside and costs nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from OpenSSL import SSL, crypto
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.core import fasttls

#: What encrypts, for every connection of the gateway. Whatever stands here is called as
#: ``TRANSPORT(factory, protocol)``, keeps the protocol in the attribute ``wrappedProtocol``, and
#: calls its ``handshakeCompleted``.
TRANSPORT: type[TLSMemoryBIOProtocol] = fasttls.TRANSPORT

#: Suites of TLS 1.2. Source: Mozilla, Server Side TLS 6.0, intermediate; AES-GCM first.
MOZILLA_INTERMEDIATE = ":".join(
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
    )
)
SUITES_13 = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}

Observe = Callable[[str, float], object]


def basic_context(
    method: int, minimum: str = "1.2", maximum: str | None = None, ciphers: str = MOZILLA_INTERMEDIATE
) -> SSL.Context:
    """What both sides have in common: versions, suites, no renegotiation and no compression.

    The groups stay the library's: there is no way to set their list.

    :raises ValueError: no such version, or no suite of *ciphers* is known.
    """
    unknown = [version for version in (minimum, maximum or minimum) if version not in VERSIONS]
    if unknown:
        raise ValueError(f"TLS {unknown[0]} is not offered, use {' or '.join(VERSIONS)}")
    if maximum is not None and VERSIONS[maximum] < VERSIONS[minimum]:
        raise ValueError("the minimum of the TLS versions is above the maximum")
    context = SSL.Context(method)
    context.set_min_proto_version(VERSIONS[minimum])
    if maximum is not None:
        context.set_max_proto_version(VERSIONS[maximum])
    try:
        context.set_cipher_list(ciphers.encode("ascii"))
    except SSL.Error as error:
        raise ValueError("no cipher suite of the list is known") from error
    context.set_tls13_ciphersuites(SUITES_13.encode("ascii"))
    context.set_options(SSL.OP_NO_COMPRESSION)
    # A connection on which nothing happens keeps no buffers.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_options(SSL.OP_NO_RENEGOTIATION)  # type: ignore[attr-defined, unused-ignore]  # older stubs
    return context


def present(context: Any, certificates: Sequence[x509.Certificate], key: PrivateKeyTypes) -> None:
    """Let *context* prove itself by the first of *certificates*; the others are its chain.

    :raises ValueError: the key is not the certificate's, or the library refuses one of them.
    """
    try:
        context.use_certificate(certificates[0])
        for issuer in certificates[1:]:
            context.add_extra_chain_cert(issuer)
        context.use_privatekey(key)
        context.check_privatekey()
    except (SSL.Error, crypto.Error, TypeError) as error:
        raise ValueError("the certificate and the key do not fit each other") from error


@implementer(IHandshakeListener)
class Gate(Protocol):
    """Stands in for a protocol until its connection is secure."""

    def __init__(
        self,
        factory: IProtocolFactory,
        address: IAddress,
        clock: IReactorTime,
        timeout: float | None,
        observe: Observe | None,
    ) -> None:
        self._factory = factory
        self._address = address
        self._clock = clock
        self._timeout = timeout
        self._observe = observe
        self._deadline: IDelayedCall | None = None
        self._result = "failed"
        self._opened: Deferred[IProtocol] | None = None

    def opened(self) -> Deferred[IProtocol]:
        """The protocol when it is connected; fails with what ended the connection before.

        To be called once, before the gate has a transport. Cancelling the answer aborts.
        """

        def cancel(_: object) -> None:
            self._opened = None
            self._abort("cancelled")

        self._opened = opened = Deferred[IProtocol](cancel)
        return opened

    def connectionMade(self) -> None:
        self._since = self._clock.seconds()
        if self._timeout is not None:
            self._deadline = self._clock.callLater(self._timeout, self._late)

    def _late(self) -> None:
        self._deadline = None
        self._abort("timeout")

    def _abort(self, result: str) -> None:
        self._result = result
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]  # no ITransport has it

    def _finish(self, result: str) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.cancel()
        if self._observe is not None:
            self._observe(result, self._clock.seconds() - self._since)

    def handshakeCompleted(self) -> None:
        """Build the protocol and let it take the gate's place."""
        transport = self.transport
        if self._result != "failed" or transport is None:
            return
        self._finish("ok")
        self._result = "refused"
        protocol = self._factory.buildProtocol(self._address)
        if protocol is None:
            transport.abortConnection()  # type: ignore[attr-defined]  # likewise
            return
        transport.wrappedProtocol = protocol  # type: ignore[attr-defined]  # of Twisted's TLS
        self.transport = None
        protocol.makeConnection(transport)
        if IHandshakeListener.providedBy(protocol):
            protocol.handshakeCompleted()
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.callback(protocol)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.transport = None
        if self._result != "refused":
            self._finish(self._result)
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.errback(reason)


class _Factory(TLSMemoryBIOFactory):
    """Puts a gate between TLS and the protocols of another factory."""

    protocol = TRANSPORT

    def __init__(
        self,
        creator: IOpenSSLServerConnectionCreator | IOpenSSLClientConnectionCreator,
        is_client: bool,
        wrapped: IProtocolFactory,
        clock: IReactorTime,
        timeout: float | None,
        observe: Observe | None,
    ) -> None:
        super().__init__(creator, is_client, wrapped, clock)
        self._timeout = timeout
        self._observe = observe

    def buildProtocol(self, addr: IAddress | None) -> TLSMemoryBIOProtocol:
        gate = Gate(self.wrappedFactory, cast(IAddress, addr), self._clock, self._timeout, self._observe)
        return self.protocol(self, gate)


def tls_factory(
    creator: IOpenSSLServerConnectionCreator,
    wrapped: IProtocolFactory,
    clock: IReactorTime,
    handshake_timeout: float = 10.0,
    observe: Observe | None = None,
) -> IProtocolFactory:
    """Serve the protocols of *wrapped* over TLS.

    :param handshake_timeout: seconds from accept until the handshake must be complete; a peer that
        sends nothing is late too, and is cut.
    :param observe: told once for each connection: ``ok``, ``failed`` or ``timeout``, and after how
        many seconds.
    """
    return _Factory(creator, False, wrapped, clock, handshake_timeout, observe)


def wrap_client_tls(
    creator: IOpenSSLClientConnectionCreator, wrapped: IProtocolFactory, clock: IReactorTime
) -> IProtocolFactory:
    """Speak TLS, and inside of it what *wrapped* builds.

    The protocols that the answer builds have the :class:`Gate` as their ``wrappedProtocol`` at
    first: ask it when the peer is verified. The deadline is the caller's.
    """
    return _Factory(creator, True, wrapped, clock, None, None)


def alpn_selector(offered: Sequence[bytes]) -> Callable[[SSL.Connection, list[bytes]], bytes]:
    """A choice for ALPN that refuses a client with which we have no protocol in common."""

    def select(connection: SSL.Connection, theirs: list[bytes]) -> bytes:
        for name in offered:
            if name in theirs:
                return name
        # In the library's own form, or it would be taken for a bug and be logged as one.
        raise SSL.Error([("SSL routines", "", "no application protocol")])

    return select
