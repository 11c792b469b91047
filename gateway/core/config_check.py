"""Open every file the configuration names, before anything depends on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import get_args

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from gateway.core.config_model import CLIENT_PAIRS, Config
from gateway.core.config_types import Kind, fields

_LARGEST = 4 << 20


def _read(path: Path) -> bytes:
    with path.open("rb") as stream:
        data = stream.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError("longer than 4M")
    return data


def certificates(path: Path) -> list[x509.Certificate]:
    """Every certificate in the PEM file *path*, at least one.

    :raises OSError: when it cannot be read.
    :raises ValueError: when it has none.
    """
    return x509.load_pem_x509_certificates(_read(path))


def public_key(path: Path) -> bytes:
    """The public half of the private key in the PEM file *path*, DER.

    :raises OSError: when it cannot be read.
    :raises ValueError: when it is no key, or has a passphrase.
    """
    try:
        key = load_pem_private_key(_read(path), None)
    except TypeError:
        raise ValueError("has a passphrase") from None
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _certificates(path: Path) -> None:
    try:
        certificates(path)
    except ValueError:
        raise ValueError("found no PEM certificate in it") from None


def _key(path: Path) -> None:
    try:
        public_key(path)
    except ValueError:
        raise ValueError("found no PEM private key without a passphrase in it") from None


def _text(path: Path) -> None:
    if not _read(path).strip():
        raise ValueError("found nothing in it")


def _directory(path: Path) -> None:
    if not path.is_dir():
        raise ValueError("found no directory there")
    if not os.access(path, os.R_OK | os.X_OK):
        raise ValueError("the directory may not be read")


def _made(path: Path) -> None:
    """A directory that is there, or that we may make."""
    wanted = path
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    if not path.is_dir():
        raise ValueError("found no directory there" if path == wanted else f"{path} is no directory")
    if not os.access(path, os.W_OK | os.X_OK):
        raise ValueError(f"the directory {path} may not be written")


def _written(path: Path) -> None:
    if path.is_dir():
        raise ValueError("found a directory there")
    if not path.exists():
        if not path.parent.is_dir():  # nobody makes it
            raise ValueError(f"there is no directory {path.parent}")
        _made(path.parent)
    elif not os.access(path, os.W_OK):
        raise ValueError("the file may not be written")


_CHECKS: dict[Kind, Callable[[Path], None]] = {
    Kind.CERTIFICATES: _certificates,
    Kind.KEY: _key,
    Kind.TEXT: _text,
    Kind.DIRECTORY: _directory,
    Kind.MADE: _made,
    Kind.WRITTEN: _written,
}


def _kinds(annotation: object) -> Iterator[Kind]:
    """Every :class:`Kind` that an annotation holds, however deep."""
    for part in get_args(annotation):
        if isinstance(part, Kind):
            yield part
        else:
            yield from _kinds(part)


def _files(config: Config) -> Iterator[tuple[str, str, Kind, Path]]:
    for name, section in config.sections():
        for key, info in type(section).model_fields.items():
            value = getattr(section, key)
            kinds = [part for part in info.metadata if isinstance(part, Kind)] or list(
                _kinds(info.annotation)
            )
            for path in value if isinstance(value, tuple) else (value,):
                if kinds and isinstance(path, Path):
                    yield name, key, kinds[0], path


def check(config: Config, only: Container[str] | None = None) -> list[str]:
    """Open everything *config* names; one sentence for each problem, none when all is well.

    :param only: the sections to look at, when the others are known to be wrong already.
    """
    problems: list[str] = []
    for name, key, kind, path in _files(config):
        if only is not None and name not in only:
            continue
        try:
            _CHECKS[kind](path)
        except OSError as error:
            problems.append(f"{config.file}: [{name}] {key}: {path}: {error.strerror}")
        except ValueError as error:
            problems.append(f"{config.file}: [{name}] {key}: {path}: {error}")
    for name, public, key in (("tls", "certificate", "key"), *CLIENT_PAIRS):
        section = getattr(config, name)
        certificate, private = getattr(section, public, None), getattr(section, key, None)
        if certificate is None or private is None or (only is not None and name not in only):
            continue
        try:
            leaf = certificates(certificate)[0].public_key()
            same = leaf.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == public_key(private)
        except (OSError, ValueError):
            continue  # reported above
        if not same:
            problems.append(f"{config.file}: [{name}] {key}: {private} is not the key of {certificate}")
    return problems


def doubts(config: Config) -> Iterator[str]:
    """What is no problem and yet will not work, a sentence each; *config* has passed :func:`check`."""
    if config.tls.certificate is None:
        return
    place = f"{config.file}: [tls] certificate: {config.tls.certificate}"
    leaf = certificates(config.tls.certificate)[0]
    if config.libvirt is not None and config.libvirt.tls and not _serves_libvirt(leaf):
        yield f"{place}: its key may not encipher keys, and clients of libvirt insist on that"
    listens = [endpoint for section, _, endpoint, tls in config.ports() if section == "tunnel" and tls]
    if not listens:
        return
    known = _addresses(leaf)
    if not known:
        yield f"{place}: names no IP address, and SPICE clients accept an https proxy by nothing else"
        return
    for endpoint in listens:
        text = dict(fields(endpoint)).get("interface", "")
        try:
            address = ip_address(text)
        except ValueError:
            continue
        if not address.is_unspecified and address not in known:
            yield f"{place}: does not name {address}, by which SPICE clients reach [tunnel] with TLS"


def _serves_libvirt(leaf: x509.Certificate) -> bool:
    """Whether clients of libvirt take *leaf*. Source: libvirt 9.0, virnettlscontext.c, key usage."""
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    except (x509.ExtensionNotFound, ValueError):
        return True
    return not usage.critical or (usage.value.digital_signature and usage.value.key_encipherment)


def _addresses(leaf: x509.Certificate) -> set[IPv4Address | IPv6Address]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return set()
    found = names.get_values_for_type(x509.IPAddress)
    return {it for it in found if isinstance(it, IPv4Address | IPv6Address)}
