"""Who may sign tokens: certificates of the engine, the authority behind them, and JWT keys.

A token never brings its own trust. Its certificate only chooses between configured ones, or is
verified by OpenSSL up to the configured authority *and* for the configured purpose; an authority
alone is refused, for it also vouches for each host of the site.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from attrs import field, frozen
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto

from gateway.core.jwt import JwtKey, read_keys
from gateway.errors import ConfigError, Unauthorized
from gateway.wire import ovirt_ticket

_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion)
_PKCS1 = padding.PKCS1v15()

Stamp = tuple[int, int, int] | None
T = TypeVar("T")


@frozen
class Sources:
    """Where signers are read from.

    :ivar engine_certificate: PEM; several during a roll-over.
    :ivar engine_ca: PEM; the authorities the engine's certificate has to chain to.
    :ivar eku: object identifier the engine's certificate has to list as extended key usage.
    :ivar jwt_keys: JSON Web Key Set.
    """

    engine_certificate: Path | None = None
    engine_ca: Path | None = None
    eku: str | None = None
    jwt_keys: Path | None = None

    def stamps(self) -> tuple[Stamp, ...]:
        """What tells one state of the files from another; None stands for a missing one."""
        return tuple(map(_stamp, (self.engine_certificate, self.engine_ca, self.jwt_keys)))


@frozen
class Signer:
    """One certificate that may have signed an envelope."""

    certificate: x509.Certificate
    key: rsa.RSAPublicKey

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the whole certificate, hex."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def verify_pss(self, signature: bytes, signed: bytes) -> bool:
        """RSASSA-PSS, SHA-256, with the longest salt there can be and no other."""
        return self._verify(signature, signed, _pss(self.key), hashes.SHA256())

    def verify_sha1(self, signature: bytes, signed: bytes) -> bool:
        """PKCS #1 v1.5 over SHA-1, as engines up to 4.4.5 signed."""
        return self._verify(signature, signed, _PKCS1, hashes.SHA1())  # noqa: S303 (old engines; off unless configured)

    def _verify(
        self, signature: bytes, signed: bytes, pad: padding.AsymmetricPadding, digest: hashes.HashAlgorithm
    ) -> bool:
        try:
            self.key.verify(signature, signed, pad, digest)
        except InvalidSignature:
            return False
        return True


@frozen
class Signers:
    """Everything tokens may be signed by, as read at one moment.

    :ivar pinned: the engine's certificates, by DER.
    :ivar read: :meth:`Sources.stamps` from before the files were read.
    """

    sources: Sources = field(factory=Sources)
    pinned: dict[bytes, Signer] = field(factory=dict)
    authorities: tuple[x509.Certificate, ...] = ()
    jwt: dict[str | None, JwtKey] = field(factory=dict)
    read: tuple[Stamp, ...] = ()

    def changed(self) -> bool:
        """Tell whether a file is another than the one that was read (time, size, inode)."""
        return self.sources.stamps() != self.read

    def candidates(self, pem: str | None, now: float) -> Sequence[Signer]:
        """The signers an envelope that encloses *pem* may be from.

        :param now: seconds since the epoch; the certificates have to be valid then.
        :raises Unauthorized: when there is none.
        """
        try:
            enclosed = None if pem is None else ovirt_ticket.der(pem)
        except ovirt_ticket.BadTicket as error:
            raise Unauthorized(reason=error.reason) from None
        if not self.pinned:
            found = [] if enclosed is None else self._chained(enclosed, now)
        elif enclosed is None:
            found = list(self.pinned.values())
        else:
            found = [self.pinned[enclosed]] if enclosed in self.pinned else []
        found = [signer for signer in found if self._valid(signer.certificate, now)]
        if not found:
            raise Unauthorized(reason="signer")
        return found

    def _chained(self, der: bytes, now: float) -> list[Signer]:
        """Judge a certificate nobody configured; only OpenSSL reads it before it is trusted."""
        try:
            certificate = crypto.load_certificate(crypto.FILETYPE_ASN1, der)
            self._verify(certificate, now)
            signer = _signer(certificate.to_cryptography())
            _check_purpose(signer.certificate, self.sources.eku)
        except (crypto.Error, crypto.X509StoreContextError, *_UNREADABLE):
            return []
        return [signer]

    def _valid(self, certificate: x509.Certificate, now: float) -> bool:
        at = datetime.fromtimestamp(now, UTC)
        if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
            return False
        if self.authorities:
            try:
                self._verify(crypto.X509.from_cryptography(certificate), now)
            except crypto.X509StoreContextError:
                return False
        return True

    def _verify(self, certificate: crypto.X509, now: float) -> None:
        store = crypto.X509Store()
        for authority in self.authorities:
            store.add_cert(crypto.X509.from_cryptography(authority))
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
        store.set_time(datetime.fromtimestamp(now, UTC))
        crypto.X509StoreContext(store, certificate).verify_certificate()


def load_signers(
    engine_certificate: Path | None = None,
    engine_ca: Path | None = None,
    eku: str | None = None,
    jwt_keys: Path | None = None,
) -> Signers:
    """Read all files there are; see :class:`Sources` for what they hold.

    :raises ConfigError: with every problem at once.
    """
    sources = Sources(engine_certificate, engine_ca, eku, jwt_keys)
    read = sources.stamps()
    problems: list[str] = []

    def attempt(key: str, path: Path | None, parse: Callable[[bytes], T], default: T) -> T:
        if path is None:
            return default
        try:
            return parse(path.read_bytes())
        except OSError as error:
            problems.append(f"[tokens] {key}: {path}: {error.strerror}")
        except _UNREADABLE as error:
            problems.append(f"[tokens] {key}: {path}: {error}")
        return default

    def pinned(pem: bytes) -> dict[bytes, Signer]:
        found = [_signer(certificate) for certificate in x509.load_pem_x509_certificates(pem)]
        for signer in found:
            _check_purpose(signer.certificate, eku)
            _check_issuer(signer.certificate, authorities)
        return {signer.certificate.public_bytes(Encoding.DER): signer for signer in found}

    if eku is not None:
        try:
            x509.ObjectIdentifier(eku)
        except ValueError:
            problems.append("[tokens] eku: not an object identifier such as 1.3.6.1.4.1.2312.13.1.2.1.1")
    if engine_ca is not None and engine_certificate is None and eku is None:
        problems.append(
            "[tokens] engine_ca: every host of the site has a certificate of this authority;"
            " set engine_certificate or eku too"
        )
    nobody: tuple[x509.Certificate, ...] = ()
    authorities = attempt("engine_ca", engine_ca, _authorities, nobody)
    signers = Signers(
        sources=sources,
        pinned=attempt("engine_certificate", engine_certificate, pinned, {}),
        authorities=authorities,
        jwt=attempt("jwt_keys", jwt_keys, read_keys, {}),
        read=read,
    )
    if problems:
        raise ConfigError(problems)
    return signers


def issue_envelope(
    data: str,
    key: rsa.RSAPrivateKey,
    certificate: x509.Certificate | None,
    *,
    valid_from: int,
    valid_to: int,
    generation: Literal["A", "B", "C"] = "C",
) -> str:
    """Sign *data* as an engine of that *generation* would; times are seconds since the epoch."""
    return ovirt_ticket.encode(
        data,
        valid_from=valid_from,
        valid_to=valid_to,
        certificate=None if certificate is None else certificate.public_bytes(Encoding.PEM).decode("ascii"),
        sign=None if generation == "A" else lambda signed: key.sign(signed, _pss(key), hashes.SHA256()),
        sign_sha1=None if generation == "C" else lambda signed: key.sign(signed, _PKCS1, hashes.SHA1()),  # noqa: S303 (likewise)
    )


def _pss(key: rsa.RSAPublicKey | rsa.RSAPrivateKey) -> padding.PSS:
    """The padding with the longest salt. A number, for MAX_LENGTH verifies any length."""
    digest = hashes.SHA256()
    return padding.PSS(padding.MGF1(digest), padding.calculate_max_pss_salt_length(key, digest))


def _stamp(path: Path | None) -> Stamp:
    if path is None:
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _signer(certificate: x509.Certificate) -> Signer:
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or not 2048 <= key.key_size <= 8192:
        raise ValueError("the engine has to have an RSA key of 2048 to 8192 bits")
    return Signer(certificate, key)


def _authorities(pem: bytes) -> tuple[x509.Certificate, ...]:
    found = x509.load_pem_x509_certificates(pem)
    for certificate in found:
        key = certificate.public_key()
        good = (
            (isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048)
            or (isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in ("secp256r1", "secp384r1"))
            or isinstance(key, ed25519.Ed25519PublicKey)
        )
        if not good:
            raise ValueError("the key has to be RSA of 2048 bits or more, P-256, P-384 or Ed25519")
        try:
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        except x509.ExtensionNotFound:
            constraints = None
        if constraints is None or not constraints.ca:
            raise ValueError("this is not the certificate of an authority (basicConstraints)")
    return tuple(found)


def _check_purpose(certificate: x509.Certificate, eku: str | None) -> None:
    if eku is None:
        return
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usage = x509.ExtendedKeyUsage([])
    if eku not in [oid.dotted_string for oid in usage]:
        raise ValueError("the certificate does not list the extended key usage of eku")


def _check_issuer(certificate: x509.Certificate, authorities: Sequence[x509.Certificate]) -> None:
    """Report early what :meth:`Signers.candidates` would refuse each time."""
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (InvalidSignature, *_UNREADABLE):
            continue
        return
    if authorities:
        raise ValueError("the certificate is not issued by engine_ca")
