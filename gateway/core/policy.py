"""Which targets the gateway may be sent to.

The text of a host says nothing: a name is resolved once, every address it has is judged here, and
only judged addresses are dialed (:mod:`gateway.core.dial`). Nothing is allowed unless a rule says
so; what no tenant has any business with is denied even then, unless it is listed by its address.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from attrs import frozen

from gateway.errors import Forbidden

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*", re.ASCII)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,31}", re.ASCII)
_RULE = re.compile(
    r"(?P<scheme>[^:/]+)://(?P<host>\[[^\]]*\](?:/[0-9]+)?|[^:\[\]]+):(?P<ports>[^:]+)", re.ASCII
)
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_FORM = "write scheme://network-or-name:ports, such as https://192.0.2.0/24:54322"

#: What a listener says that hears on every address.
_EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 (compared with, not bound to)
_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_6TO4 = IPv6Network("2002::/16")
_COMPATIBLE = IPv6Network("::/96")


def parse_host(text: str) -> str:
    """A host name in lower case, or an address in its shortest form; IPv6 without brackets.

    What looks like half an address (``127.1``) is a name: only what it resolves to counts.

    :raises ValueError: anything else: zones, trailing dots, user-info, percent signs, other scripts.
    """
    try:
        if "%" in text:
            raise ValueError("no zone")
        return str(ipaddress.ip_address(text))
    except ValueError:
        if _NAME.fullmatch(text) is None:
            raise ValueError("neither a host name nor an address") from None
        return text.lower()


def forms(address: Address) -> Iterator[Address]:
    """*address*, and the IPv4 address it carries inside, if any."""
    yield address
    if isinstance(address, IPv4Address):
        return
    number = int(address)
    if address in _6TO4:
        yield IPv4Address(number >> 80 & 0xFFFFFFFF)
    elif address in _MAPPED or address in _NAT64 or (address in _COMPATIBLE and number > 1):
        # Of ::/96, "::" and "::1" are addresses in their own right.
        yield IPv4Address(number & 0xFFFFFFFF)


@frozen
class Rule:
    """Targets that are alike.

    :ivar scheme: None for any.
    :ivar network: addresses; None when a name decides, or nothing does.
    :ivar name: exact host name in lower case, or ``.suffix`` for what is below it.
    :ivar ports: lowest and highest.
    """

    scheme: str | None = None
    network: Network | None = None
    name: str | None = None
    ports: tuple[int, int] = (0, 65535)

    def covers(self, scheme: str, host: str, address: Address, port: int) -> bool:
        """Whether this target is meant; *host* is in the form of :func:`parse_host`."""
        if self.scheme is not None and self.scheme != scheme:
            return False
        if not self.ports[0] <= port <= self.ports[1]:
            return False
        if self.network is not None:
            return address in self.network
        if self.name is None:
            return True
        return host.endswith(self.name) if self.name.startswith(".") else host == self.name

    def within(self, other: Rule) -> bool:
        """Whether all addresses and ports of this rule are listed by *other*, too."""
        mine, theirs = self.network, other.network
        if mine is None or theirs is None or mine.version != theirs.version:
            return False
        inside = mine.network_address in theirs and mine.prefixlen >= theirs.prefixlen
        return inside and other.ports[0] <= self.ports[0] and self.ports[1] <= other.ports[1]


def parse_rule(text: str) -> Rule:
    """Read ``scheme://network-or-name:ports``, each of which may be ``*``.

    A network is an address with or without a prefix length, IPv6 in brackets; a name is exact, or
    ``*.suffix``; ports are ``80`` or ``80-90``.

    :raises ValueError: says what would be right.
    """
    parts = _RULE.fullmatch(text)
    if parts is None:
        raise ValueError(f"{text!r} is no rule: {_FORM}")
    scheme, host, ports = parts["scheme"].lower(), parts["host"], parts["ports"]
    if scheme != "*" and _SCHEME.fullmatch(scheme) is None:
        raise ValueError(f"{text!r} has no good scheme: use one such as https, vnc or tcp, or *")
    network, name = _parse_target(text, host)
    return Rule(None if scheme == "*" else scheme, network, name, _parse_ports(text, ports))


def _parse_target(text: str, host: str) -> tuple[Network | None, str | None]:
    if host == "*":
        return None, None
    bare = host.replace("[", "").replace("]", "")
    if bare != host or "/" in host or re.fullmatch(r"[0-9.]+", host):
        try:
            if "%" in bare:
                raise ValueError("a zone is no part of it")
            network = ipaddress.ip_network(bare)
        except ValueError as error:
            raise ValueError(f"{text!r} has no good network: {error}") from error
        if (bare != host) != (network.version == 6):
            raise ValueError(f"{text!r}: brackets are for IPv6 addresses, and only for them")
        return network, None
    if _NAME.fullmatch(host.removeprefix("*.")) is None:
        raise ValueError(f"{text!r} has no good name: use host.example, or *.example for all below it")
    return None, host.removeprefix("*").lower()


def _parse_ports(text: str, ports: str) -> tuple[int, int]:
    if ports == "*":
        return 0, 65535
    match = _PORTS.fullmatch(ports)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 0 < low <= high <= 65535:
        raise ValueError(f"{text!r} has no good ports: use 80, 80-90 or *")
    return low, high


#: Denied unless a rule lists them by address, and no wider than here. Sources: RFC 6890 and the
#: registries of IANA; the metadata services of cloud providers.
BUILTIN = tuple(
    Rule(network=ipaddress.ip_network(it))
    for it in (
        "0.0.0.0/8",  # this host, this network
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "169.254.0.0/16",
        "169.254.169.254/32",  # metadata
        "100.100.100.200/32",  # metadata
        "168.63.129.16/32",  # metadata
        "192.0.0.192/32",  # metadata
        "224.0.0.0/4",
        "240.0.0.0/4",
        "255.255.255.255/32",
        "::/128",
        "::1/128",
        "64:ff9b:1::/48",  # NAT64 with prefixes of a site's own
        "fe80::/10",
        "fec0::/10",
        "fd00:ec2::254/128",  # metadata
        "ff00::/8",
    )
)


class Policy:
    """The rules of one site.

    :param own: addresses and ports we listen on ourselves; denied like those of :data:`BUILTIN`.
    :param local: whether an address is one of this machine's, where we may listen on all of them.
    """

    def __init__(
        self,
        allow: Iterable[Rule] = (),
        deny: Iterable[Rule] = (),
        own: Iterable[tuple[str, int]] = (),
        local: Callable[[Address], bool] = lambda address: True,
    ) -> None:
        own = tuple(own)
        self._allow = tuple(allow)
        self._deny = tuple(deny)
        self._listed = tuple(rule for rule in self._allow if rule.network is not None)
        self._builtin = BUILTIN + tuple(
            Rule(network=ipaddress.ip_network(address), ports=(port, port))
            for address, port in own
            if address not in _EVERYWHERE
        )
        self._everywhere = frozenset(port for address, port in own if address in _EVERYWHERE)
        self._local = local

    def judge(self, scheme: str, host: str, address: str | Address, port: int) -> None:
        """Let a target pass.

        :param host: as it was given, name or address; *address* is what it resolved to.
        :raises Forbidden: it may not be reached.
        """
        try:
            name = parse_host(host)
            resolved = ipaddress.ip_address(address)
        except ValueError as error:
            raise _forbidden() from error
        if not 0 < port <= 65535 or getattr(resolved, "scope_id", None) is not None:
            raise _forbidden()
        # An address within an address: whoever sees only one of them must have said yes.
        if not all(self._allows(scheme.lower(), name, it, port) for it in forms(resolved)):
            raise _forbidden()

    def _allows(self, scheme: str, host: str, address: Address, port: int) -> bool:
        target = (scheme, host, address, port)
        if any(rule.covers(*target) for rule in self._deny):
            return False
        blocks = self._builtin
        if port in self._everywhere and self._local(address):
            blocks += (Rule(network=ipaddress.ip_network(address), ports=(port, port)),)
        for block in blocks:
            if block.covers(*target) and not any(
                rule.covers(*target) and rule.within(block) for rule in self._listed
            ):
                return False
        return any(rule.covers(*target) for rule in self._allow)


def allows_path(path: str | Path, roots: Iterable[str | Path]) -> Path | None:
    """The file that *path* really is, when it lies in one of *roots*; else None.

    Open the answer, not what was asked for: symbolic links are resolved in it.
    """
    text = os.fspath(path)
    if not text.startswith("/") or "\0" in text or ".." in text.split("/"):
        return None
    try:
        real = Path(os.path.realpath(text))
        inside = any(real.is_relative_to(os.path.realpath(root)) for root in roots)
    except OSError:
        return None
    return real if inside else None


def _forbidden() -> Forbidden:
    return Forbidden(reason="target")
