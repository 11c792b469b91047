"""Whether our own certificate for a hypervisor can be any good, before anybody is shown it.

It tells what is wrong where libvirtd would only hang up. ``no_sanity=1`` in a URL leaves it out.
Source: libvirt 9.0.0, virnettlscontext.c, virNetTLSContextSanityCheckCredentials.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.errors import ConfigError

Kind = TypeVar("Kind", bound=x509.ExtensionType)
#: Certificates between ours and the CA's.
_LONGEST = 8


def check_own(ca: Path, certificate: Path | None, moment: datetime) -> None:
    """Look at the files behind a ``tls`` URL.

    :param certificate: ours, and what stands between; None for a client without one.
    :raises gateway.errors.ConfigError: they cannot do.
    """
    authorities = _read(ca)
    problems = [f"{ca}: {it}" for it in _authority_problems(authorities, moment)]
    if certificate is not None:
        leaf, *between = _read(certificate)
        problems += [f"{certificate}: {it}" for it in _leaf_problems(leaf, moment)]
        if not _leads_to(leaf, between, authorities):
            problems.append(f"{certificate}: not issued by the CA of {ca}; no_sanity=1 would be for that")
    if problems:
        raise ConfigError(problems)


def _read(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error
    except ValueError as error:
        raise ConfigError([f"{path}: no certificates in PEM form"]) from error


def _times(certificate: x509.Certificate, moment: datetime) -> Iterator[str]:
    if moment < certificate.not_valid_before_utc:
        yield f"not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    if moment >= certificate.not_valid_after_utc:
        yield f"expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"


def _authority_problems(authorities: list[x509.Certificate], moment: datetime) -> Iterator[str]:
    # One that is good is enough: during a change of CAs there are two.
    found = [list(_times(it, moment)) for it in authorities]
    if all(found):
        yield from found[0]


def _leaf_problems(leaf: x509.Certificate, moment: datetime) -> Iterator[str]:
    yield from _times(leaf, moment)
    try:
        usage = _extension(leaf, x509.ExtendedKeyUsage)
        constraints = _extension(leaf, x509.BasicConstraints)
    except ValueError:
        yield "its extensions cannot be read"
        return
    if constraints is not None and constraints.ca:
        yield "the certificate of a CA, and not of a client"
    good = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
    if usage is not None and not any(it in usage for it in good):
        yield "its usage does not permit to be a client"


def _extension(leaf: x509.Certificate, kind: type[Kind]) -> Kind | None:
    try:
        return leaf.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _leads_to(
    leaf: x509.Certificate, between: list[x509.Certificate], authorities: list[x509.Certificate]
) -> bool:
    for _ in range(_LONGEST):
        if any(_issued(leaf, it) for it in authorities):
            return True
        upper = next((it for it in between if it != leaf and _issued(leaf, it)), None)
        if upper is None:
            return False
        leaf = upper
    return False


def _issued(lower: x509.Certificate, upper: x509.Certificate) -> bool:
    try:
        lower.verify_directly_issued_by(upper)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
