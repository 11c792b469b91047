"""The ticket as an engine writes it: a JSON object becomes a :class:`Grant`, or a clear refusal.

The members of an image ticket are those of ovirt-imageio 2.5 and mean the same; types are as strict
as there, numbers stricter (no negative ones, and ``true`` is none). What other kinds need is added by
further members. Texts of errors name the member and never repeat its value.
Source: oVirt engine ticket format, as read by ovirt-imageio 2.5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network

from attrs import field, frozen

from gateway import errors
from gateway.wire.strict_json import load_object
from gateway.wire.ticket_url import check_url

#: Bytes of one ticket as JSON.
LIMIT = 64 * 1024
#: Seconds; 68 years is for ever.
LONGEST = 2**31 - 1
#: Bytes; the engine's own tests use exactly this.
LARGEST = 2**64

_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")
#: The name of a user: text that can be sent, and no control characters.
_USER = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}")


class Kind(StrEnum):
    """What a ticket opens."""

    IMAGE = "image"
    CONSOLE = "console"
    TUNNEL = "tunnel"
    RPC = "rpc"
    PUBLISH = "publish"


_IMAGE_SCHEMES = frozenset({"file", "nbd", "http", "https", "http+unix", "libvirt"})
_CONSOLE_SCHEMES = frozenset(
    {"tcp", "tls", "unix", "libvirt"}
    | {base + way for base in ("vnc", "spice", "serial") for way in ("", "+tls", "+unix")}
)
#: What several can share, and what can be recorded; see :func:`_sort_of`.
_SHARED_SCHEMES = frozenset({"vnc", "vnc+tls", "vnc+unix", "libvirt graphics"})
_RECORDED_SCHEMES = _SHARED_SCHEMES | {"serial", "serial+tls", "serial+unix", "libvirt console"}
_SCHEMES = {
    Kind.IMAGE: _IMAGE_SCHEMES,
    Kind.CONSOLE: _CONSOLE_SCHEMES,
    Kind.TUNNEL: frozenset({"spice", "tcp"}),
    Kind.RPC: frozenset[str](),
    Kind.PUBLISH: _IMAGE_SCHEMES,
}


@frozen
class Rights:
    """What an rpc ticket permits.

    :ivar allow: permission names such as ``domain:start``, or ``*`` or ``read``; empty allows nothing.
    :ivar domains: uuids, or globs on the name.
    """

    allow: tuple[str, ...] = ()
    domains: tuple[str, ...] = ("*",)


@frozen
class Grant:
    """What the engine grants, checked; see the design's table of ticket fields.

    :ivar url: where the bytes are, the first of *urls*; empty for a ticket without.
    :ivar ops: words such as ``read``, ``write``, ``view``, ``control``, ``takeover``, in the given
        order.
    :ivar timeout: seconds until it expires, and what a finished operation adds again.
    :ivar size: bytes; an upper bound for every range of an image.
    :ivar inactivity_timeout: seconds a connection may be idle.
    :ivar transfer_id: for logs and errors; not secret.
    :ivar uses: sessions it may open in all, None for any number.
    :ivar peer: network the client must come from.
    :ivar secret: what the gateway shows to the target on the user's behalf; never given out.
    :ivar user: in whose name the secret is shown, None for the principal's; never given out.
    :ivar shared: all who look at the same VNC console do so through one connection.
    :ivar record: what the console shows is kept.
    """

    kind: Kind
    uuid: str = field(repr=False)
    url: str = field(repr=False, default="")
    urls: tuple[str, ...] = field(repr=False, default=())
    ops: tuple[str, ...] = ()
    timeout: float = 0
    size: int = 0
    inactivity_timeout: float = 60
    transfer_id: str = ""
    filename: str | None = None
    sparse: bool = False
    dirty: bool = False
    uses: int | None = None
    peer: IPv4Network | IPv6Network | None = None
    principal: str = ""
    secret: str | None = field(repr=False, default=None)
    user: str | None = field(repr=False, default=None)
    targets: tuple[str, ...] = ()
    rights: Rights | None = None
    shared: bool = False
    record: bool = False


def parse_ticket(body: bytes) -> Grant:
    """Read the body of ``PUT /tickets/ID``.

    :raises BadRequest:
    """
    try:
        members = load_object(body, limit=LIMIT)
    except ValueError as error:
        raise errors.BadRequest(f"Ticket is not in a json format: {error}") from None
    return grant_from(members)


def grant_from(members: Mapping[str, object]) -> Grant:
    """Check the *members* of a ticket, from JSON or from the ``ticket`` claim of a signed token.

    :raises BadRequest:
    """
    read = _Reader(members)
    uuid = read.text("uuid")
    if _ID.fullmatch(uuid) is None:
        raise _invalid("uuid", "1 to 128 characters of A-Z a-z 0-9 . _ ~ - are expected")
    kind = read.kind()
    size = read.integer("size", None if kind is Kind.IMAGE else 0, LARGEST)
    ops = read.texts("ops")
    timeout = read.integer("timeout", None, LONGEST)
    urls = read.urls(kind)
    return Grant(
        kind=kind,
        uuid=uuid,
        url=urls[0] if urls else "",
        urls=urls,
        ops=ops,
        timeout=timeout,
        size=size,
        inactivity_timeout=read.integer("inactivity_timeout", 60, LONGEST),
        # Half of an id of the usual length, as imageio does it, and never more than half.
        transfer_id=read.text("transfer_id", "") or f"(ticket/{uuid[: min(18, len(uuid) // 2)]})",
        filename=read.text("filename", "") or None,
        sparse=read.flag("sparse"),
        dirty=read.flag("dirty"),
        uses=read.integer("uses", 0, LONGEST, least=1) or None,
        peer=read.network("peer"),
        principal=read.text("principal", ""),
        secret=read.text("secret", "") if "secret" in members else None,
        user=read.user(urls),
        targets=read.texts("targets", ()),
        rights=read.rights("rights"),
        shared=read.console_flag("shared", urls, _SHARED_SCHEMES),
        record=read.console_flag("record", urls, _RECORDED_SCHEMES),
    )


@frozen
class Renewal:
    """What a ticket gets anew.

    :ivar timeout: seconds from now.
    :ivar urls: of a tunnel, in addition to those it has.
    """

    timeout: int
    urls: tuple[str, ...] = field(repr=False, default=())


def parse_patch(body: bytes) -> Renewal:
    """Read the body of ``PATCH /tickets/ID``; of the original's clients all else is passed over.

    :raises BadRequest:
    """
    try:
        members = load_object(body, limit=LIMIT)
        value = members["timeout"]
    except ValueError as error:
        raise errors.BadRequest(f"Invalid patch: {error}") from None
    except KeyError:
        raise errors.BadRequest("Missing required value for 'timeout'") from None
    if not isinstance(value, int) or isinstance(value, bool):
        raise errors.BadRequest(f"Integer required {str(value)[:40]!r}")
    if value < 0:
        raise errors.BadRequest(f"Invalid value {value} < 0")
    if value > LONGEST:
        raise errors.BadRequest(f"Invalid value {value} > {LONGEST}")
    return Renewal(value, more_urls(_Reader(members).texts("urls", ())))


def more_urls(urls: Sequence[str]) -> tuple[str, ...]:
    """Check *urls* that a tunnel is to have, too.

    :raises BadRequest:
    """
    for url in urls:
        _check("urls", url, Kind.TUNNEL)
    return tuple(urls)


def _invalid(name: str, reason: str) -> errors.BadRequest:
    return errors.BadRequest(f"Invalid ticket: Invalid value for '{name}': {reason}")


def _check(name: str, url: str, kind: Kind) -> None:
    try:
        check_url(url, _SCHEMES[kind], console=kind is Kind.CONSOLE)
    except ValueError as error:
        raise _invalid(name, str(error)) from None


def _sort_of(url: str) -> str:
    """What the *url* of a console, already checked, leads to: its scheme, in general."""
    scheme, _, rest = url.partition(":")
    return f"libvirt {rest.split('/')[4]}" if scheme == "libvirt" else scheme


@frozen
class _Reader:
    """Takes typed members out of an object; a default of None makes one required."""

    members: Mapping[str, object]

    def _get(self, name: str, default: object) -> object:
        if name in self.members:
            return self.members[name]
        if default is None:
            raise errors.BadRequest(f"Invalid ticket: Required ticket parameter is missing: {name}")
        return default

    def text(self, name: str, default: str | None = None) -> str:
        value = self._get(name, default)
        if not isinstance(value, str):
            raise _invalid(name, "a string is expected")
        return value

    def integer(self, name: str, default: int | None, most: int, *, least: int = 0) -> int:
        value = self._get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise _invalid(name, "an integer is expected")
        if name in self.members and not least <= value <= most:
            raise _invalid(name, f"{least} to {most} is expected")
        return value

    def flag(self, name: str) -> bool:
        value = self._get(name, False)
        if not isinstance(value, bool):
            raise _invalid(name, "a boolean is expected")
        return value

    def console_flag(self, name: str, urls: tuple[str, ...], schemes: frozenset[str]) -> bool:
        """What is only for consoles, all of them of *schemes*: it is refused where it would mean nothing."""
        value = self.flag(name)
        fits = self.kind() is Kind.CONSOLE and all(_sort_of(url) in schemes for url in urls)
        if value and not fits:
            raise _invalid(name, f"only consoles of these can be: {', '.join(sorted(schemes))}")
        return value

    def user(self, urls: tuple[str, ...]) -> str | None:
        """Whom the target is told; refused where nobody would be told."""
        if "user" not in self.members:
            return None
        if _USER.fullmatch(user := self.text("user")) is None:
            raise _invalid("user", "1 to 255 characters and no control characters are expected")
        fits = self.kind() is Kind.CONSOLE and all(_sort_of(url) == "vnc+tls" for url in urls)
        if not fits or "secret" not in self.members:
            raise _invalid("user", "only a console of vnc+tls is told one, with a secret")
        return user

    def texts(self, name: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        value = self._get(name, default)
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise _invalid(name, "an array of strings is expected")
        return tuple(value)

    def kind(self) -> Kind:
        try:
            return Kind(self.text("kind", Kind.IMAGE))
        except ValueError:
            raise _invalid("kind", f"one of {', '.join(Kind)} is expected") from None

    def urls(self, kind: Kind) -> tuple[str, ...]:
        """All of ``url`` and ``urls``, the former first."""
        several = self.texts("urls", ())
        optional = several or kind in (Kind.RPC, Kind.PUBLISH)
        urls = several
        if "url" in self.members or not optional:
            url = self.text("url")
            urls = (url, *(other for other in several if other != url))
        for url in urls:
            _check("urls" if url in several else "url", url, kind)
        return urls

    def network(self, name: str) -> IPv4Network | IPv6Network | None:
        text = self.text(name, "")
        if name not in self.members:
            return None
        try:
            network = ip_network("" if "%" in text else text)
        except ValueError:
            raise _invalid(name, "an IP address or network is expected") from None
        mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
        if mapped is not None and network.prefixlen >= 96:
            return IPv4Network((mapped, network.prefixlen - 96))
        return network

    def rights(self, name: str) -> Rights | None:
        if name not in self.members:
            return None
        value = self.members[name]
        # A member we do not know might take something away: unlike elsewhere it is refused.
        if not isinstance(value, Mapping) or not value.keys() <= {"allow", "domains"}:
            raise _invalid(name, "an object of allow and domains is expected")
        read = _Reader({f"{name}.{key}": item for key, item in value.items()})
        return Rights(read.texts(f"{name}.allow", ()), read.texts(f"{name}.domains", ("*",)))
