"""What may stand in the ``url`` of a ticket: schemes, and a strict grammar for each.

A host is accepted by pattern only: general parsers drop tabs, keep percent-encodings in a host and
take what precedes an at sign for a user. Whether the address may be dialed is not judged here.
Source: RFC 3986, sections 3.2.2 and 3.3; oVirt engine ticket format.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import IPv6Address

from gateway.wire.hypervisor_url import console_of, volume_of

_HOST = r"(?:(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}))|\[(?P<v6>[0-9A-Fa-f:.]{2,45})\])"
_PORT = r":(?P<port>[0-9]{1,5})"
_CHARACTERS = r"[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2}"
_PATH = rf"(?:/(?:{_CHARACTERS})*)"
_QUERY = rf"(?:\?(?P<query>(?:{_CHARACTERS}|\?)*))"
#: A file's name, literally: anything but control characters.
_FILE = r"/(?!/)[^\x00-\x1f\x7f]*"

_NETWORK = re.compile(rf"//{_HOST}(?:{_PORT})?{_PATH}?{_QUERY}?")
_LOCAL = re.compile(rf"(?://)?{_FILE}")
_GRAMMARS = {
    "file": _LOCAL,
    "unix": _LOCAL,
    "nbd": re.compile(
        rf"//{_HOST}(?:{_PORT})?{_PATH}?"
        rf"|unix:{_FILE}"
        r"|(?P<name2>[A-Za-z0-9][A-Za-z0-9._-]{0,252}):(?P<port2>[0-9]{1,5})(?::exportname=[^\x00-\x20\x7f]*)?"
    ),
    "http+unix": re.compile(
        rf"//%(?:2[Ff]|00)(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{{2}}){{1,400}}{_PATH}{_QUERY}?"
    ),
}
#: Schemes whose port has no good default.
_PORT_NEEDED = re.compile(r"(?:vnc|spice|serial)(?:\+tls)?|tcp|tls")


def check_url(url: str, schemes: Collection[str], *, console: bool = False) -> None:
    """Pass a *url* whose scheme is one of *schemes* and whose rest fits it.

    :param console: with ``libvirt`` a console is meant, and no volume.
    :raises ValueError: with a text for whoever wrote it; the scheme is all it repeats.
    """
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in schemes:
        shown = scheme if re.fullmatch(r"[A-Za-z0-9+.-]{1,20}", scheme) and colon else ""
        raise ValueError(f"Unsupported url scheme: {shown}")
    if scheme == "libvirt":
        (console_of if console else volume_of)(url)
        return
    grammar = (
        _LOCAL if scheme.endswith("+unix") and scheme != "http+unix" else _GRAMMARS.get(scheme, _NETWORK)
    )
    match = grammar.fullmatch(rest)
    parts = {} if match is None else match.groupdict()
    if match is None or not _is_v6(parts.get("v6") or "::"):
        raise ValueError(f"this is not a url of scheme {scheme}")
    port = parts.get("port") or parts.get("port2")
    if port is not None and not 1 <= int(port) <= 65535:
        raise ValueError("a port is 1 to 65535")
    if port is None and _PORT_NEEDED.fullmatch(scheme) and "tls-port=" not in (parts.get("query") or ""):
        raise ValueError("the url needs a port")


def _is_v6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
