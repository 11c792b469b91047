"""Where ``gateway-connect`` goes, and what it shows there.

libvirt's ``ext`` transport runs a command without arguments and with almost no environment, so what it needs
stands in a file: ``~/.config/gateway/connect.conf``, by sections. ``[default]`` is for all; a link called
``gateway-connect-NAME`` to the program uses ``[NAME]`` as well.
Source: libvirt 9.0, virnetsocket.c, virNetSocketNewConnectExternal.
"""

from __future__ import annotations

from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as ParserError
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from attrs import field, frozen
from twisted.python import usage

#: Where the settings are, below the home directory.
FILE = ".config/gateway/connect.conf"
#: Seconds to connect, by default and at most.
_TIMEOUT, _LONGEST = "15", 3600.0
_KEYS = ("url", "token", "token_file", "ca", "timeout")
_PROGRAM = "gateway-connect-"


class Unusable(Exception):
    """It cannot be done; the text says what to do."""


@frozen
class Settings:
    """Where to go, and what to show.

    :ivar ca: PEM file of who vouches for the gateway's certificate.
    :ivar timeout: seconds to connect.
    """

    host: str
    port: int
    token: str = field(repr=False)
    ca: Path
    timeout: float


class Options(usage.Options):
    """What may be said on the command line; libvirt itself says nothing."""

    synopsis = "Usage: gateway-connect [options]"
    longdesc = (
        "Carries a libvirt connection over HTTPS: virsh -c "
        "'qemu+ext:///system?command=/usr/bin/gateway-connect&target=lab'. What is not said here is looked "
        "up in the environment (GATEWAY_URL, GATEWAY_TOKEN, GATEWAY_TOKEN_FILE, GATEWAY_CA), then in "
        "~/.config/gateway/connect.conf: url, token or token_file, ca, timeout; under [NAME] for a link "
        "called gateway-connect-NAME, then under [default]."
    )
    optParameters: ClassVar[list[Any]] = [
        ["url", "u", None, "the gateway: https://HOST[:PORT]"],
        ["token-file", "T", None, "a file with a token or the id of a ticket"],
        ["ca", "a", None, "who vouches for the gateway's certificate, PEM"],
        ["config", "f", None, "another file with settings"],
        ["timeout", "t", None, f"seconds to connect [default: {_TIMEOUT}]"],
    ]


def settings(options: Mapping[str, Any], environ: Mapping[str, str], program: str) -> Settings:
    """What the command line, the environment and the file say together, the first of them first.

    :raises Unusable: something is missing, or makes no sense.
    """
    said = {key: options.get(key.replace("_", "-")) for key in _KEYS}
    around = {key: environ.get(f"GATEWAY_{key.upper()}") for key in _KEYS}
    places: list[Mapping[str, str | None]] = [said, around, *_stored(options, environ, program)]

    def find(*keys: str) -> tuple[str, str]:
        found = ((key, value) for place in places for key in keys if (value := place.get(key)))
        return next(found, ("", ""))

    _, url = find("url")
    if not url:
        raise Unusable("say where the gateway is: url = https://HOST in ~/.config/gateway/connect.conf")
    host, port = _address(url)
    _, ca = find("ca")
    if not ca:
        raise Unusable("say who vouches for the gateway: ca = FILE, PEM")
    kind, token = find("token", "token_file")
    if not kind:
        raise Unusable("a token is needed: token_file = FILE")
    if kind == "token_file":
        token = _read(Path(token)).strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise Unusable("the token is empty, or none")
    try:
        timeout = float(find("timeout")[1] or _TIMEOUT)
    except ValueError:
        timeout = 0.0
    if not 0 < timeout <= _LONGEST:
        raise Unusable(f"the timeout is a number of seconds, {_LONGEST:.0f} at most")
    return Settings(host, port, token, Path(ca).expanduser(), timeout)


def _address(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, 443 if parts.port is None else parts.port
    except ValueError:
        host, port = None, 0
    # What else is in it would not be followed; and it may be a secret, so nothing is repeated.
    if not host or not port or url.rstrip("/").lower() not in _spelled(host, port):
        raise Unusable("the url of the gateway is https://HOST or https://HOST:PORT, and no more")
    return host, port


def _spelled(host: str, port: int) -> tuple[str, ...]:
    place = f"https://[{host}]" if ":" in host else f"https://{host}"
    return (place, f"{place}:{port}") if port == 443 else (f"{place}:{port}",)


def _read(file: Path) -> str:
    try:
        return file.expanduser().read_text("utf-8")
    except OSError as error:
        raise Unusable(f"{file} cannot be read: {error.strerror}") from None
    except (RuntimeError, UnicodeDecodeError):
        raise Unusable(f"{file} cannot be read: it is no text") from None


def _stored(options: Mapping[str, Any], environ: Mapping[str, str], program: str) -> list[dict[str, str]]:
    """What the file says: in the section of *program*, and in that for all."""
    said = options.get("config") or environ.get("GATEWAY_CONNECT_CONF")
    file = Path(said) if said else Path(environ.get("HOME", "/")) / FILE
    called = Path(program).name
    name = called.removeprefix(_PROGRAM) if called.startswith(_PROGRAM) else ""
    if not said and not name and not file.exists():
        return []
    # No section is special here: no header can be empty.
    parser = ConfigParser(interpolation=None, default_section="")
    try:
        parser.read_string(_read(file))
    except ParserError as error:
        # Its text repeats the line, which may be the one with the token.
        # That of a missing header says where by lineno, the other by a list.
        line = getattr(error, "lineno", None) or error.errors[0][0]  # type: ignore[attr-defined]  # a ParsingError has it
        raise Unusable(f"{file} cannot be read: line {line} makes no sense") from None
    if name and not parser.has_section(name):
        raise Unusable(f"{file} has no section [{name}]")
    found = [dict(parser[it]) for it in (name, "default") if parser.has_section(it)]
    strange = sorted(set().union(*found) - set(_KEYS))
    if strange:
        raise Unusable(f"{file} has an unknown key: {strange[0]}")
    return found
