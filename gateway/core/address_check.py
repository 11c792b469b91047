"""Whether a peer's address stands in its certificate, as libvirt's first design wanted it on both sides.

A certificate says either addresses, and then only those count, or names, and then what they resolve to.
Source: Remote URI design of libvirt, 13 February 2007, "verify the client IP address using the certificate".
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address

from cryptography import x509
from cryptography.x509.oid import NameOID

from gateway.core.policy import parse_host
from gateway.errors import UpstreamFailed

#: Names of one certificate that are looked up.
NAMES = 8

Address = IPv4Address | IPv6Address


async def holds_address(
    certificate: x509.Certificate, address: str, resolve: Callable[[str], Awaitable[Sequence[str]]]
) -> bool:
    """Whether *certificate*, which was verified before, belongs to a peer at *address*.

    :param resolve: such as :meth:`gateway.core.dial.Dialer.resolve`.
    """
    try:
        peer = _plain(address)
        addresses, names = _said(certificate)
    except ValueError:
        return False
    if addresses:
        return peer in addresses
    for name in names[:NAMES]:
        try:
            found = await resolve(parse_host(name))
        except (ValueError, UpstreamFailed):  # a wildcard, or nothing that anybody knows
            continue
        if peer in map(_plain, found):
            return True
    return False


def _plain(text: str | Address) -> Address:
    """An IPv4 address in whatever form it comes."""
    address = ipaddress.ip_address(text)
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _said(certificate: x509.Certificate) -> tuple[list[Address], list[str]]:
    """The addresses and the names that stand in *certificate*."""
    try:
        said = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        said = x509.SubjectAlternativeName([])
    addresses = [
        _plain(it)
        for it in said.get_values_for_type(x509.IPAddress)
        if isinstance(it, IPv4Address | IPv6Address)
    ]
    names = said.get_values_for_type(x509.DNSName)
    if not addresses and not names:
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        names = [it.value for it in common if isinstance(it.value, str)]
    return addresses, names
