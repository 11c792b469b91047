"""TLS towards what is behind us: only the CAs that were given, and the strict host-name check.

Nothing else in the gateway makes a client's context. A connection may resume the session of an earlier
one, see :class:`ClientSessions`: then no certificate is shown, and what was checked before has to do.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from pathlib import Path
from weakref import WeakKeyDictionary

from attrs import define, field, frozen
from cryptography import x509
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import extract_patterns
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IReactorTime
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from gateway.core.tls import MOZILLA_INTERMEDIATE, SUITES_13, basic_context, present
from gateway.core.tls_server import read, read_certificates, read_key
from gateway.errors import ConfigError, UpstreamFailed

#: Seconds after which a certificate has to be shown again, however often its session was resumed.
SESSION_LIFE = 3600.0
#: Hosts whose session is kept; the one that was used least lately goes.
SESSIONS = 64


@frozen
class _File:
    """One state of a file: written anew it is another one."""

    path: Path
    device: int
    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> _File:
        try:
            stat = path.stat()
        except OSError as error:
            raise ConfigError([f"{path}: {error.strerror}"]) from error
        return cls(path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@frozen
class Terms:
    """What we speak.

    :ivar minimum: the oldest version; ``maximum`` the newest, None for what the library has.
    :ivar strong: only with keys of 256 bits.
    """

    minimum: str = "1.2"
    maximum: str | None = None
    strong: bool = False

    def context(self) -> SSL.Context:
        """A context that trusts nobody yet.

        :raises ConfigError: no such version.
        """
        suites, suites_13 = (
            ":".join(it for it in text.split(":") if not self.strong or "AES128" not in it.replace("_", ""))
            for text in (MOZILLA_INTERMEDIATE, SUITES_13)
        )
        try:
            context = basic_context(SSL.TLS_CLIENT_METHOD, self.minimum, self.maximum, suites)
        except ValueError as error:
            raise ConfigError([str(error)]) from error
        context.set_tls13_ciphersuites(suites_13.encode("ascii"))
        return context


_USUAL = Terms()


@lru_cache(maxsize=64)
def _context(
    trust: tuple[_File | x509.Certificate, ...],
    certificate: _File | None,
    key: _File | None,
    terms: Terms,
    crl: _File | None = None,
) -> SSL.Context:
    context = terms.context()
    store = context.get_cert_store()
    if store is None:
        raise ConfigError(["OpenSSL has no certificate store"])
    for source in trust:
        for authority in read_certificates(source.path) if isinstance(source, _File) else [source]:
            store.add_cert(crypto.X509.from_cryptography(authority))
    if crl is not None:
        try:
            store.add_crl(x509.load_pem_x509_crl(read(crl.path)))
        except ValueError as error:
            raise ConfigError([f"{crl.path}: no revocation list in PEM form"]) from error
        # One that has grown old, or is of somebody else, lets nobody pass.
        store.set_flags(crypto.X509StoreFlags.CRL_CHECK)
    if certificate is not None and key is not None:
        try:
            present(context, read_certificates(certificate.path), read_key(key.path))
        except ValueError as error:
            raise ConfigError([f"{certificate.path}: {error}"]) from error
    # Before any connection has its own: nobody is trusted.
    context.set_verify(SSL.VERIFY_PEER, lambda *_: False)
    return context


@define(eq=False)
class ClientSessions:
    """The newest session with each host, to be resumed once.

    It is asked of the connection it belongs to when it is needed: with TLS 1.3 it arrives some time after
    the handshake. Source: RFC 8446, sections 4.6.1 and C.4.

    :ivar wall: seconds since the epoch.
    """

    clock: IReactorTime
    wall: Callable[[], float]
    _newest: dict[Hashable, SSL.Connection] = field(factory=dict, init=False)
    #: Until when what was seen of a certificate counts, seconds of the clock.
    _until: WeakKeyDictionary[SSL.Connection, float] = field(factory=WeakKeyDictionary, init=False)

    def shown(self, connection: SSL.Connection, leaf: x509.Certificate) -> None:
        """The peer of *connection* has shown *leaf*, and it is the right one."""
        left = min(SESSION_LIFE, leaf.not_valid_after_utc.timestamp() - self.wall())
        self._until[connection] = self.clock.seconds() + left

    def resume(self, key: Hashable, connection: SSL.Connection) -> None:
        """Let *connection* offer the session of *key*, which nobody else gets."""
        newest = self._newest.pop(key, None)
        if newest is None:
            return
        session = newest.get_session()
        if session is not None and self.clock.seconds() < self._until[newest]:
            # No new period begins: nobody shows a certificate.
            self._until[connection] = self._until[newest]
            connection.set_session(session)

    def keep(self, key: Hashable, connection: SSL.Connection) -> None:
        """The handshake of *connection* is complete."""
        # Nothing hangs on to it that is not about TLS.
        connection.set_app_data(None)
        self._newest.pop(key, None)
        self._newest[key] = connection
        if len(self._newest) > SESSIONS:
            del self._newest[next(iter(self._newest))]


@implementer(IOpenSSLClientConnectionCreator)
@frozen
class Strict:
    """Makes connections that hold the peer to one name.

    :ivar server_name: for SNI; none for an address.
    :ivar key: what connections have in common that may resume the sessions of each other.
    """

    context: SSL.Context
    identity: DNS_ID | IPAddress_ID
    server_name: bytes | None
    alpn: tuple[bytes, ...]
    key: Hashable
    sessions: ClientSessions | None

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = SSL.Connection(self.context, None)
        connection.set_verify(SSL.VERIFY_PEER, self._verify)
        if self.server_name is not None:
            connection.set_tlsext_host_name(self.server_name)
        if self.alpn:
            connection.set_alpn_protos(list(self.alpn))
        if self.sessions is not None:
            self.sessions.resume(self.key, connection)
        return connection

    def made(self, connection: SSL.Connection) -> None:
        """Take note that the handshake of *connection* is complete."""
        if self.sessions is not None:
            self.sessions.keep(self.key, connection)

    def _verify(
        self, connection: SSL.Connection, peer: crypto.X509, error: int, depth: int, good: int
    ) -> bool:
        """The strict host-name check: the leaf must be of our CA and carry exactly this name."""
        if not good:
            return False
        if depth > 0:
            return True
        try:
            leaf = peer.to_cryptography()
            verify_service_identity(extract_patterns(leaf), [self.identity], [])
        except (
            CertificateError,
            VerificationError,
            ValueError,
            TypeError,
            LookupError,
            x509.DuplicateExtension,
            x509.UnsupportedGeneralNameType,
            x509.InvalidVersion,
        ):
            return False
        if self.sessions is not None:
            self.sessions.shown(connection, leaf)
        return True


def strict_creator(
    host: str,
    trust: Sequence[x509.Certificate | Path],
    *,
    client_certificate: Path | None = None,
    client_key: Path | None = None,
    crl: Path | None = None,
    terms: Terms = _USUAL,
    alpn: Sequence[bytes] = (),
    sessions: ClientSessions | None = None,
) -> Strict:
    """Make connections to *host* that trust nobody but its certificate from one of *trust*.

    The context behind it is kept and shared as long as the files stay the same. With TLS 1.3 the
    server judges our certificate after the handshake: the first read may be what fails.

    :param host: the configured name, or an address without brackets; never what it resolves to.
    :param trust: certificates of CAs, or PEM files with them; at least one.
    :param crl: PEM; the revocation list of whoever issues the certificate of *host*.
    :param sessions: where sessions to resume are kept; they are shared by the connections that have all
        the other arguments in common.
    :raises ConfigError: a file is missing or no good.
    :raises UpstreamFailed: *host* is nothing a certificate can hold.
    """
    if not trust:
        raise ConfigError(["no CA is configured for the host behind the gateway"])
    identity, name = _identity(host)
    known = tuple(_File.of(it) if isinstance(it, Path) else it for it in trust)
    context = _context(known, *_pair(client_certificate, client_key), terms, _file(crl))
    # The context stands for whom we trust, and for who we are.
    key = context, name or host, tuple(alpn)
    return Strict(context, identity, name, tuple(alpn), key, sessions)


@implementer(IOpenSSLClientConnectionCreator)
@frozen
class Careless:
    """Makes connections to anybody who says to be the host. Source: libvirt's ``no_verify=1``."""

    context: SSL.Context
    server_name: bytes | None

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = SSL.Connection(self.context, None)
        connection.set_verify(SSL.VERIFY_NONE, None)
        if self.server_name is not None:
            connection.set_tlsext_host_name(self.server_name)
        return connection


def careless_creator(
    host: str,
    *,
    client_certificate: Path | None = None,
    client_key: Path | None = None,
    terms: Terms = _USUAL,
) -> Careless:
    """Make connections to *host* that take every certificate: whoever asks for that says so in the log.

    :raises ConfigError: a file is missing or no good.
    :raises UpstreamFailed: *host* is nothing a certificate can hold.
    """
    _, name = _identity(host)
    return Careless(_context((), *_pair(client_certificate, client_key), terms), name)


def _identity(host: str) -> tuple[DNS_ID | IPAddress_ID, bytes | None]:
    """What the certificate of *host* must hold, and the name for SNI."""
    try:
        return IPAddress_ID(ipaddress.ip_address(host)), None
    except ValueError:
        try:
            identity = DNS_ID(host)
        except ValueError as error:
            raise UpstreamFailed("no certificate can hold this name", reason="tls") from error
        return identity, identity.hostname


def _file(path: Path | None) -> _File | None:
    return None if path is None else _File.of(path)


def _pair(certificate: Path | None, key: Path | None) -> tuple[_File | None, _File | None]:
    if (certificate is None) != (key is None):
        raise ConfigError(["a client certificate and its key belong together"])
    return _file(certificate), _file(key)
