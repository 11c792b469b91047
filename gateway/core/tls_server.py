"""The gateway's own certificates: contexts for listeners, checked before use, and their reload.

A :class:`ServerContext` is built from files once and never changes; :class:`ReloadableTLS` is what
listeners hold on to, and exchanges one for the next.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from gateway.core.tls import MOZILLA_INTERMEDIATE, alpn_selector, basic_context, present
from gateway.errors import ConfigError

#: Seconds in which a client may resume a session.
SESSION_LIFE = 3600
_CURVES = ("secp256r1", "secp384r1", "secp521r1")


def read(path: Path) -> bytes:
    """The bytes of a file that the configuration names.

    :raises ConfigError: there is none, or it may not be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Every certificate of a PEM file, at least one.

    :raises ConfigError: it cannot be read, or holds none.
    """
    try:
        return x509.load_pem_x509_certificates(read(path))
    except ValueError as error:
        raise ConfigError([f"{path}: no certificates in PEM form"]) from error


def read_key(path: Path) -> PrivateKeyTypes:
    """The private key of a PEM file without a passphrase.

    :raises ConfigError: it cannot be read, or holds none.
    """
    try:
        return load_pem_private_key(read(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError([f"{path}: no private key in PEM form without a passphrase"]) from error


def same_key(key: PrivateKeyTypes, certificate: x509.Certificate) -> bool:
    """Whether *key* belongs to *certificate*."""

    def plain(public: PublicKeyTypes) -> bytes:
        return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    return plain(key.public_key()) == plain(certificate.public_key())


def leaf_problems(leaf: x509.Certificate, moment: datetime) -> list[str]:
    """What makes *leaf* unfit to be served at *moment*, a sentence each."""
    problems = []
    key = leaf.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < 2048:
            problems.append(f"an RSA key of {key.key_size} bits, use 2048 or more")
    elif not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        problems.append("use a key of RSA with 2048 bits or more, or of P-256, P-384 or P-521")
    if isinstance(leaf.signature_hash_algorithm, hashes.SHA1 | hashes.MD5):
        problems.append("signed with an old digest, use SHA-256")
    if moment < leaf.not_valid_before_utc:
        problems.append(f"not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    if moment >= leaf.not_valid_after_utc:
        problems.append(f"expired at {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    try:
        leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        problems.append("no subjectAltName, which clients require")
    except ValueError:
        problems.append("its extensions cannot be read")
    return problems


def _chain_problems(chain: list[x509.Certificate]) -> list[str]:
    for lower, upper in pairwise(chain):
        try:
            lower.verify_directly_issued_by(upper)
        except (ValueError, TypeError, InvalidSignature):
            return ["the chain is out of order: each certificate is followed by that of its issuer"]
    return []


class ServerContext:
    """How one listener presents itself, from files that fit each other.

    :param certificate: PEM; the first is ours, those that follow belong to the chain.
    :param chain: PEM; the certificates between ours and the root, in order.
    :param now: seconds since the epoch.
    :param client_ca: PEM; whose client certificates are accepted. Such a certificate may lack
        extended key usages; if it has any, clientAuth must be among them.
    :param crl: PEM; a current revocation list of *client_ca*. When it grows old nobody is let in:
        reload before :attr:`crl_expires`.
    :ivar not_after: when our certificate ends, seconds since the epoch.
    :raises ConfigError: with every problem that was found.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        chain: Path | None = None,
        minimum: str = "1.2",
        maximum: str | None = None,
        ciphers: str = MOZILLA_INTERMEDIATE,
        client_ca: Path | None = None,
        require_client: bool = False,
        crl: Path | None = None,
        *,
        now: float,
    ) -> None:
        moment = datetime.fromtimestamp(now, UTC)
        certificates = read_certificates(certificate)
        if chain is not None:
            certificates += read_certificates(chain)
        private = read_key(key)
        self.leaf = leaf = certificates[0]
        self.not_after = leaf.not_valid_after_utc.timestamp()
        self.crl_expires: float | None = None
        problems = [f"{certificate}: {it}" for it in leaf_problems(leaf, moment)]
        problems += [f"{chain or certificate}: {it}" for it in _chain_problems(certificates)]
        if not same_key(private, leaf):
            problems.append(f"{key}: the key does not belong to {certificate}")
        if client_ca is None and (require_client or crl is not None):
            problems.append("client_ca: name the file with the CA of the clients' certificates")
        if problems:
            raise ConfigError(problems)
        try:
            self.context = basic_context(SSL.TLS_SERVER_METHOD, minimum, maximum, ciphers)
            present(self.context, certificates, private)
        except ValueError as error:
            raise ConfigError([f"{certificate}: {error}"]) from error
        # No OP_CIPHER_SERVER_PREFERENCE: the client's order is respected.
        self.context.set_alpn_select_callback(alpn_selector([b"http/1.1"]))
        # What a client gets is the number of a session that is kept here, also with TLS 1.3: there is no key
        # that opens tickets, to be stolen or to be changed. A session is resumed in the context it began in.
        self.context.set_options(SSL.OP_NO_TICKET)
        self.context.set_session_id(secrets.token_bytes(32))
        self.context.set_timeout(SESSION_LIFE)
        if client_ca is not None:
            self._ask_clients(client_ca, require_client, crl, moment)

    def _ask_clients(self, client_ca: Path, require: bool, crl: Path | None, moment: datetime) -> None:
        authorities = read_certificates(client_ca)
        store = self.context.get_cert_store()
        if store is None:
            raise ConfigError(["OpenSSL has no certificate store"])
        for authority in authorities:
            store.add_cert(crypto.X509.from_cryptography(authority))
            self.context.add_client_ca(authority)
        if crl is not None:
            revoked = _read_crl(crl, authorities, moment)
            assert revoked.next_update_utc is not None  # noqa: S101 (_read_crl saw to it)
            self.crl_expires = revoked.next_update_utc.timestamp()
            store.add_crl(revoked)
            store.set_flags(crypto.X509StoreFlags.CRL_CHECK)
        # Who resumes shows no certificate, which may have been revoked or have ended since.
        self.context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        self.context.set_verify(SSL.VERIFY_PEER | (SSL.VERIFY_FAIL_IF_NO_PEER_CERT if require else 0))


def _read_crl(
    path: Path, authorities: list[x509.Certificate], moment: datetime
) -> x509.CertificateRevocationList:
    try:
        crl = x509.load_pem_x509_crl(read(path))
    except ValueError as error:
        raise ConfigError([f"{path}: no revocation list in PEM form"]) from error
    keys = [authority.public_key() for authority in authorities if authority.subject == crl.issuer]
    if not any(crl.is_signature_valid(key) for key in keys):  # type: ignore[arg-type]  # of a kind that signs
        raise ConfigError([f"{path}: not a revocation list of the clients' CA"])
    if crl.next_update_utc is None or not crl.last_update_utc <= moment < crl.next_update_utc:
        raise ConfigError([f"{path}: the revocation list is not current"])
    return crl


@implementer(IOpenSSLServerConnectionCreator)
class ReloadableTLS:
    """What listeners hold: the current context, exchanged without touching open connections.

    :param build: reads the files and makes a context of them.
    :raises ConfigError: the files are no good.
    """

    def __init__(self, build: Callable[[], ServerContext]) -> None:
        self._build = build
        self.current = build()

    @property
    def not_after(self) -> float:
        """When the certificate being served ends, seconds since the epoch."""
        return self.current.not_after

    @property
    def crl_expires(self) -> float | None:
        """When the revocation list of clients' certificates must have been replaced; None without one."""
        return self.current.crl_expires

    def reload(self, build: Callable[[], ServerContext] | None = None) -> None:
        """Serve what the files hold now, or what *build* makes from now on.

        :raises ConfigError: they are no good, and all is as before.
        """
        build = build or self._build
        self.current = build()
        self._build = build

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """One side of a connection that is about to begin."""
        return SSL.Connection(self.current.context, None)
