"""Values of the configuration that are more than a number: files, endpoints, lists, words.

Relative paths are joined to the directory that validation gets as ``context={"base": Path}``. A file's type
says what ``check`` must find there.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from attrs import evolve
from pydantic import AfterValidator, BeforeValidator, PlainSerializer, ValidationInfo
from twisted.internet.endpoints import quoteStringArgument

from gateway.wire.libvirt_url import parse_url

_MODE = re.compile(r"[0-7]{3,4}")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SECRET_IN_URL = re.compile(r"(://[^/@:]*:).*@")


class Kind(Enum):
    """What must be found where a path points to."""

    CERTIFICATES = "certificates"
    KEY = "key"
    TEXT = "text"
    DIRECTORY = "directory"
    MADE = "directory that can be made"
    WRITTEN = "file that can be written"


def _located(text: str, info: ValidationInfo) -> str:
    """Make the path *text* absolute."""
    if "\0" in text or not text:
        raise ValueError("a path")
    return str((info.context or {}).get("base", Path("/")) / text)


def _path(value: object, info: ValidationInfo) -> object:
    return Path(_located(value, info)) if isinstance(value, str) else value


_show = PlainSerializer(str, when_used="json")
Certificates = Annotated[Path, BeforeValidator(_path), _show, Kind.CERTIFICATES]
Key = Annotated[Path, BeforeValidator(_path), _show, Kind.KEY]
TextFile = Annotated[Path, BeforeValidator(_path), _show, Kind.TEXT]
Directory = Annotated[Path, BeforeValidator(_path), _show, Kind.DIRECTORY]
MadeDirectory = Annotated[Path, BeforeValidator(_path), _show, Kind.MADE]
WrittenFile = Annotated[Path, BeforeValidator(_path), _show, Kind.WRITTEN]


def split(text: str) -> list[str]:
    """The parts of *text* between commas and line ends; empty ones are dropped."""
    return [part for part in (piece.strip() for piece in re.split(r"[,\n]", text)) if part]


def _list(value: object) -> object:
    return tuple(split(value)) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_list), PlainSerializer(", ".join, when_used="json")]


def _lines(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(line for line in map(str.strip, value.splitlines()) if line)


#: Words in which a comma may stand.
Lines = Annotated[tuple[str, ...], BeforeValidator(_lines), PlainSerializer("\n".join, when_used="json")]
Directories = Annotated[
    tuple[Directory, ...],
    BeforeValidator(_list),
    PlainSerializer(lambda v: ", ".join(map(str, v)), when_used="json"),
]


def _rules(value: tuple[str, ...]) -> tuple[str, ...]:
    from gateway.core.policy import parse_rule  # not on top: policy may come to read its own section

    bad = []
    for rule in value:
        try:
            parse_rule(rule)
        except ValueError as error:
            bad.append(f"{rule!r}: {error}")
    if bad:
        raise ValueError("scheme://network-or-name:ports, not " + "; ".join(bad))
    return value


Rules = Annotated[Words, AfterValidator(_rules)]


def _networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for network in value:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise ValueError(f"networks such as 192.0.2.0/24, not {network!r}") from None
    return value


Networks = Annotated[Words, AfterValidator(_networks)]


def port_ranges(words: tuple[str, ...]) -> frozenset[int]:
    """The ports that words such as ``5900-6923`` and ``5999`` name.

    :raises ValueError: one of them names none.
    """
    ports: set[int] = set()
    for word in words:
        low, _, high = word.partition("-")
        if (
            not re.fullmatch(r"[0-9]{1,5}(-[0-9]{1,5})?", word)
            or not 0 < int(low) <= int(high or low) < 65536
        ):
            raise ValueError(f"ports such as 5900-6923, not {word!r}")
        ports.update(range(int(low), int(high or low) + 1))
    return frozenset(ports)


def _ports(value: tuple[str, ...]) -> tuple[str, ...]:
    port_ranges(value)
    return value


Ports = Annotated[Words, AfterValidator(_ports)]


def fields(endpoint: str) -> Iterator[tuple[str, str]]:
    """Name and value of each part of an endpoint string; the name of a positional one is empty."""
    name, part, text = "", "", iter(endpoint)
    for character in text:
        if character == "\\":
            part += next(text, "")
        elif character == "=" and not name:
            name, part = part or "=", ""  # "=" is no name that anything knows
        elif character == ":":
            yield name, part
            name = part = ""
        else:
            part += character
    yield name, part


def _tcp(places: list[str], named: dict[str, str]) -> None:
    port = places[0] if places else named.pop("port", "")
    if len(places) > 1 or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("tcp:PORT, or tcp:PORT:interface=ADDRESS")
    interface = named.pop("interface", "127.0.0.1")
    try:
        ipaddress.ip_address(interface)
    except ValueError:
        raise ValueError(r"an address as the interface; ':' in it is written '\:'") from None
    backlog = named.pop("backlog", "1")
    if not re.fullmatch(r"[0-9]{1,6}", backlog):
        raise ValueError("a number as the backlog")


#: Bytes that the path of a unix socket may have. Source: unix(7), sun_path without the last NUL.
_SOCKET_PATH = 107


def _unix(places: list[str], named: dict[str, str]) -> None:
    path = places[0] if places else named.pop("address", "")
    if len(places) > 1 or not path or "\0" in path:
        raise ValueError("unix:PATH, or unix:PATH:mode=660")
    if not _MODE.fullmatch(named.pop("mode", "660")):
        raise ValueError("octal digits as the mode, such as 660")
    for name in ("backlog", "lockfile"):
        if not re.fullmatch(r"[0-9]{1,6}", named.pop(name, "1")):
            raise ValueError(f"a number as the {name}")


def _systemd(places: list[str], named: dict[str, str]) -> None:
    domain, index, name = (named.pop(key, "") for key in ("domain", "index", "name"))
    good = bool(re.fullmatch(r"[0-9]{1,4}", index)) != bool(_NAME.fullmatch(name)) and not (index and name)
    if places or domain not in ("INET", "INET6", "UNIX") or not good:
        raise ValueError("systemd:domain=INET:name=NAME")


_ENDPOINTS: dict[str, Callable[[list[str], dict[str, str]], None]] = {
    "tcp": _tcp,
    "unix": _unix,
    "systemd": _systemd,
}


def parse_endpoint(text: str, base: Path = Path("/")) -> str:
    """Check the endpoint string *text* and make a unix path in it absolute.

    :raises ValueError: with what would be right.
    """
    (label, kind), *rest = fields(text)
    if label or kind not in _ENDPOINTS or text != text.strip() or not text.isprintable():
        known = "an endpoint such as tcp:PORT, unix:PATH or systemd:domain=INET:name=NAME"
        raise ValueError(known + ("; for TLS say tls = yes" if kind in ("ssl", "tls") else ""))
    named = {name: value for name, value in rest if name}
    if len(named) != sum(1 for name, _ in rest if name):
        raise ValueError("each part of the endpoint once")
    _ENDPOINTS[kind]([value for name, value in rest if not name], left := dict(named))
    if left:
        raise ValueError(f"an endpoint of the kind {kind}, which has no {sorted(left)[0]!r}")
    if kind != "unix":
        return text
    path = next(value for name, value in rest if name in ("", "address"))
    if len(os.fsencode(base / path)) > _SOCKET_PATH:
        raise ValueError(f"a path of at most {_SOCKET_PATH} bytes, with all the directories that lead to it")
    parts = [kind, quoteStringArgument(str(base / path))]
    parts += [f"{name}={quoteStringArgument(value)}" for name, value in named.items() if name != "address"]
    return ":".join(parts)


def is_local(endpoint: str) -> bool:
    """Whether only this host reaches *endpoint*; a systemd socket is judged by its unit."""
    (_, kind), *rest = fields(endpoint)
    if kind != "tcp":
        return True
    interface = dict(rest).get("interface")
    return interface is not None and ipaddress.ip_address(interface).is_loopback


def _endpoint(value: object, info: ValidationInfo) -> object:
    return (
        parse_endpoint(value, (info.context or {}).get("base", Path("/")))
        if isinstance(value, str)
        else value
    )


def _endpoint_or_off(value: object, info: ValidationInfo) -> object:
    return None if isinstance(value, str) and value.lower() == "off" else _endpoint(value, info)


def _off(value: object) -> object:
    return "off" if value is None else value


Endpoint = Annotated[str, BeforeValidator(_endpoint)]
EndpointOrOff = Annotated[
    str | None, BeforeValidator(_endpoint_or_off), PlainSerializer(_off, when_used="json")
]


def url(*schemes: str, what: str) -> AfterValidator:
    """A URL of one of *schemes*; *what* says so to who wrote another."""

    def check(value: str) -> str:
        try:
            scheme = urlsplit(value).scheme
        except ValueError:
            scheme = ""
        if scheme not in schemes or not value.isprintable() or " " in value:
            raise ValueError(what)
        return value

    return AfterValidator(check)


PublicUrl = Annotated[str, url("https", "http", what="a URL such as https://gateway.example:54323")]


#: Variables of a libvirt URL that name a file of this machine; a socket of another one is absolute anyway.
_FILES = ("socket", "pkipath", "keyfile", "known_hosts", "authfile")


def _libvirt(value: str, info: ValidationInfo) -> str:
    """Check *value* and make the files of this machine in it absolute."""
    try:
        url = parse_url(value)
    except ValueError as error:
        raise ValueError(f"a libvirt URL such as qemu+tls://host.example/system: {error}") from None
    # A command without a slash is looked for in PATH.
    names = _FILES + ("command",) * ("/" in url.command)
    located: dict[str, Any] = {it: _located(path, info) for it in names if (path := getattr(url, it))}
    return str(evolve(url, **located)) if located else value


LibvirtUrl = Annotated[str, AfterValidator(_libvirt)]


def hide(value: str) -> str:
    """*value*, a URL, without the password in it."""
    return _SECRET_IN_URL.sub(r"\1***@", value)


#: Serializes a URL without the password in it.
hidden = PlainSerializer(hide, when_used="json")
