"""A small CA of our own, for ``make run`` and the tests; never for real users.

``python -m gateway.core.dev_pki DIRECTORY`` makes ``ca``, ``gateway`` and ``engine``, each as
``.pem`` and ``.key``; what is there and still good is kept.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import frozen
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

LIFE = timedelta(days=366)
#: What has less than this left is made anew.
RENEW = timedelta(days=30)


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """A new RSA key."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def p256_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


@frozen
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        """The certificate in PEM form."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key in PEM form, without a passphrase."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Put it into ``name.pem`` and ``name.key`` (mode 0600), each of them at once."""
        certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
        _write(key, self.key_pem, 0o600)
        _write(certificate, self.pem, 0o644)
        return certificate, key

    def issue(
        self,
        subject: str,
        *,
        now: datetime,
        names: Sequence[str] = (),
        addresses: Sequence[str] = (),
        usages: Sequence[x509.ObjectIdentifier] = (),
        start: timedelta = timedelta(hours=-1),
        life: timedelta = LIFE,
        key: Key | None = None,
        ca: bool = False,
    ) -> Issued:
        """A certificate signed by this one.

        Neither *names* nor *addresses* means no subjectAltName, no *usages* no extended key usage.

        :param start: from *now* to the beginning of its validity; *life* counts from *now* too.
        """
        return _sign(self, subject, names, addresses, usages, now + start, now + life, key or p256_key(), ca)

    def revoke(
        self,
        certificates: Sequence[x509.Certificate],
        *,
        now: datetime,
        life: timedelta = timedelta(days=7),
    ) -> bytes:
        """A revocation list in PEM form, current for *life*."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(min(now, now + life) - timedelta(hours=1))
            .next_update(now + life)
        )
        for certificate in certificates:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(certificate.serial_number)
                .revocation_date(now)
                .build()
            )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)


@frozen
class Pki:
    """Where everything is."""

    ca: Path
    ca_key: Path
    gateway: Path
    gateway_key: Path
    engine: Path
    engine_key: Path


def _sign(
    issuer: Issued | None,
    subject: str,
    names: Sequence[str],
    addresses: Sequence[str],
    usages: Sequence[x509.ObjectIdentifier],
    begins: datetime,
    ends: datetime,
    key: Key,
    ca: bool,
) -> Issued:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    signer = issuer.key if issuer is not None else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer is not None else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(_key_usage(ca), critical=True)
    )
    alternatives: list[x509.GeneralName] = [x509.DNSName(it) for it in names]
    alternatives += [x509.IPAddress(ipaddress.ip_address(it)) for it in addresses]
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return Issued(builder.sign(signer, hashes.SHA256()), key)


def _key_usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        # Clients of libvirt insist on it, whatever the kind of the key.
        key_encipherment=not ca,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def authority(now: datetime, subject: str = "gateway development CA") -> Issued:
    """A new CA with a life of ten years."""
    return _sign(None, subject, (), (), (), now - timedelta(hours=1), now + 10 * LIFE, p256_key(), True)


def make(
    directory: Path,
    names: Sequence[str] = ("localhost",),
    addresses: Sequence[str] = ("127.0.0.1", "::1"),
    *,
    now: datetime | None = None,
) -> Pki:
    """See to it that *directory* holds a CA, a server certificate and a token signer.

    :param names: host names of the gateway, which goes by *addresses* as well.
    """
    now = now or datetime.now(UTC)
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    ca = _load(directory, "ca", now)
    if ca is None:
        ca = authority(now)
        ca.write(directory, "ca")
    gateway = _load(directory, "gateway", now, ca)
    if gateway is None or _alternatives(gateway.certificate) != ({*names}, {*addresses}):
        server = [ExtendedKeyUsageOID.SERVER_AUTH]
        ca.issue("gateway", now=now, names=names, addresses=addresses, usages=server).write(
            directory, "gateway"
        )
    if _load(directory, "engine", now, ca) is None:
        ca.issue("engine", now=now, key=rsa_key()).write(directory, "engine")
    return Pki(*(directory / f"{it}.{kind}" for it in ("ca", "gateway", "engine") for kind in ("pem", "key")))


def _alternatives(certificate: x509.Certificate) -> tuple[set[str], set[str]]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set(), set()
    return (
        set(found.get_values_for_type(x509.DNSName)),
        {str(it) for it in found.get_values_for_type(x509.IPAddress)},
    )


def _load(directory: Path, name: str, now: datetime, issuer: Issued | None = None) -> Issued | None:
    """What was made before, unless it is broken, foreign or about to expire."""
    try:
        certificate = x509.load_pem_x509_certificate((directory / f"{name}.pem").read_bytes())
        key = load_pem_private_key((directory / f"{name}.key").read_bytes(), None)
        if issuer is not None:
            certificate.verify_directly_issued_by(issuer.certificate)
    except (FileNotFoundError, ValueError, TypeError, InvalidSignature):
        return None
    if not isinstance(key, Key) or key.public_key() != certificate.public_key():
        return None
    fresh = certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - RENEW
    return Issued(certificate, key) if fresh else None


def _write(path: Path, data: bytes, mode: int) -> None:
    """Replace *path* at once; nobody sees half of it, nor a key that others may read."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def main(arguments: Sequence[str]) -> int:
    """Make the PKI in the one directory that *arguments* name."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m gateway.core.dev_pki DIRECTORY\n")
        return 2
    make(Path(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
