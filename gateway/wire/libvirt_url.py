"""Remote URLs of libvirt: ``driver+transport://user@server:port/path?variable=value``.

A URL is a capability: it names programs, files and hosts. Only the operator's configuration may hold one.

What is written reads back as the same everywhere: a ``+`` in a value means a space to the first
implementations and itself to later ones, so that only ``%20`` and ``%2B`` are ever written. Here it is a
space. Names of variables know no case, the last of several wins, and ``;`` parts them as ``&`` does.
Sources: Remote URI design of libvirt, 13 February 2007; libvirt, remote.html, "Extra parameters".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from attrs import Attribute, evolve, field, fields, frozen

from gateway.wire.gnutls_priority import parse_priority

#: Characters of a whole URL.
LONGEST = 8192

#: How each transport may be called; the last two are ssh inside of libvirt's own process.
TRANSPORTS = {it: it for it in ("tls", "unix", "ssh", "ext", "tcp")} | {"libssh2": "ssh", "libssh": "ssh"}
PORTS = {"tls": 16514, "tcp": 16509, "ssh": 22}

_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>/[^?#]*)?"
    r"(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?"
)
_AUTHORITY = re.compile(
    r"(?:(?P<user>[^@]*)@)?(?:\[(?P<six>[^\]]*)\]|(?P<host>[^:@\[\]]*))(?::(?P<port>[0-9]{0,5}))?"
)
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})")
#: A path that means the same to every shell, and to ssh's own options.
PLAIN_PATH = re.compile(r"/[A-Za-z0-9._/+@:,=-]{0,400}")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")
#: What needs no escape in a value, in a path, in a user: "+" never goes without.
_IN_VALUE, _IN_PATH, _IN_USER = "/:@!$'()*,~", "/:@!$&'()*,;=~", "!$&'()*,;=~"


def _word(*words: str) -> Any:
    """A variable that is one of *words*, or not there."""
    return field(default="", metadata={"variable": words})


_TEXT = {"variable": str}
_FLAG = {"variable": bool}


@frozen(kw_only=True)
class LibvirtUrl:
    """A URL, taken apart; ``str`` puts it together again.

    A text that is empty is one that is not there, but for :attr:`open_name`.

    :ivar transport: ``tls``, ``unix``, ``ssh``, ``ext`` or ``tcp``.
    :ivar remote: whether the URL says transport or host; one that does not means a socket of this machine.
    :ivar host: without brackets; see :attr:`server`.
    :ivar port: None when it is not said; see :attr:`server_port`.
    :ivar fragment: travels with :attr:`name`.
    :ivar open_name: the variable ``name``.
    :ivar no_verify: tls: take any certificate; ssh: take unknown host keys.
    :ivar no_sanity: tls: do not look whether our own certificate can be any good.
    :ivar verify_address: tls: the peer's address must stand in its certificate; ours alone, never sent.
    :ivar unknown: variables that nobody knows, in order: they are ignored and do not travel.
    :ivar warnings: a sentence for each thing that has no effect.
    """

    driver: str
    transport: str
    remote: bool = True
    user: str = ""
    host: str = ""
    port: int | None = None
    path: str = ""
    fragment: str = ""
    open_name: str | None = field(default=None, metadata={"variable": str, "called": "name"})
    command: str = field(default="", metadata=_TEXT)
    socket: str = field(default="", metadata=_TEXT)
    netcat: str = field(default="", metadata=_TEXT)
    no_verify: bool = field(default=False, metadata=_FLAG)
    keyfile: str = field(default="", metadata=_TEXT)
    no_tty: bool = field(default=False, metadata=_FLAG)
    pkipath: str = field(default="", metadata=_TEXT)
    tls_priority: str = field(default="", metadata=_TEXT)
    no_sanity: bool = field(default=False, metadata=_FLAG)
    verify_address: bool = field(default=False, metadata=_FLAG)
    proxy: str = _word("auto", "netcat", "native")
    mode: str = _word("auto", "legacy", "direct")
    known_hosts: str = field(default="", metadata=_TEXT)
    known_hosts_verify: str = _word("normal", "auto", "ignore")
    sshauth: tuple[str, ...] = field(
        default=(), metadata={"variable": ("agent", "privkey", "password", "keyboard-interactive")}
    )
    auth: str = field(default="", metadata=_TEXT)
    authfile: str = field(default="", metadata=_TEXT)
    unknown: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = field(default=(), eq=False)

    @property
    def server(self) -> str:
        """The host, or what stands for it when there is none."""
        return self.host or "localhost"

    @property
    def server_port(self) -> int:
        """The port, or the transport's own; 0 for a transport that has none."""
        return self.port or PORTS.get(self.transport, 0)

    @property
    def name(self) -> str:
        """What the open call says: no transport, user, host or port, and no variable."""
        if self.open_name is not None:
            return self.open_name
        if self.driver == "remote":
            return ""
        return f"{self.driver}://{_escape(self.path, _IN_PATH)}{self._tail()}"

    def _tail(self) -> str:
        return "#" + _escape(self.fragment, _IN_PATH + "?") if self.fragment else ""

    def __str__(self) -> str:
        scheme = f"{self.driver}+{self.transport}" if self.remote else self.driver
        user = f"{_escape(self.user, _IN_USER)}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        query = "&".join(f"{_escape(name)}={_escape(value)}" for name, value in self._variables())
        path = _escape(self.path, _IN_PATH)
        return f"{scheme}://{user}{host}{port}{path}{'?' + query if query else ''}{self._tail()}"

    def _variables(self) -> Iterator[tuple[str, str]]:
        for name, attribute in _KNOWN.items():
            value = getattr(self, attribute.name)
            if value != attribute.default:
                yield name, "1" if value is True else value if isinstance(value, str) else ",".join(value)
        yield from self.unknown


#: The attribute of each variable, by its name in a URL.
_KNOWN: dict[str, Attribute[Any]] = {
    it.metadata.get("called", it.name): it for it in fields(LibvirtUrl) if "variable" in it.metadata
}


def parse_url(text: str) -> LibvirtUrl:
    """Read a URL.

    :raises ValueError: it is none, or says what cannot be done; with a text for whoever wrote it.
    """
    if len(text) > LONGEST:
        raise ValueError(f"a libvirt URL has at most {LONGEST} characters")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("a libvirt URL has no spaces and only ASCII; write others as %20 and the like")
    if "://" not in text:
        raise ValueError("missing scheme in URL: write driver+transport://server/path")
    parts = _URL.fullmatch(text)
    place = _AUTHORITY.fullmatch(parts["authority"]) if parts is not None else None
    if parts is None or place is None:
        raise ValueError("cannot parse URL: write driver+transport://user@server:port/path?variable=value")
    driver, plus, called = parts["scheme"].partition("+")
    host, port = _host(place), _port(place["port"])
    if plus and called.lower() not in TRANSPORTS:
        known = "|".join(TRANSPORTS)
        raise ValueError(f"transport in URL not recognised (should be {known})")
    transport = TRANSPORTS[called.lower()] if plus else "tls" if host else "unix"
    values, unknown = _read(parts["query"] or "")
    url = LibvirtUrl(
        driver=driver,
        transport=transport,
        remote=bool(plus or host),
        user=_user(place["user"] or ""),
        host=host,
        port=port,
        path=_unescape(parts["path"] or ""),
        fragment=_unescape(parts["fragment"] or ""),
        unknown=unknown,
        **values,
    )
    _check(url)
    return evolve(url, warnings=_warn(url))


def _host(place: re.Match[str]) -> str:
    if place["six"] is not None:
        try:
            if "%" in place["six"]:
                raise ValueError("a zone is no part of it")
            return str(IPv6Address(place["six"]))
        except ValueError:
            raise ValueError("brackets in a URL hold an IPv6 address without a zone") from None
    host: str = place["host"]
    if host and _HOST.fullmatch(host) is None:
        raise ValueError("the server in a URL is a host name or an address, IPv6 in brackets")
    return host


def _port(digits: str | None) -> int | None:
    if not digits:
        return None
    if not 1 <= int(digits) <= 65535:
        raise ValueError("a port in a URL is 1 to 65535")
    return int(digits)


def _user(text: str) -> str:
    user = _unescape(text)
    if ":" in user:
        raise ValueError("a libvirt URL holds no password")
    if user.startswith("-"):
        raise ValueError("a user in a URL does not begin with '-'")
    return user


def _read(query: str) -> tuple[dict[str, Any], tuple[tuple[str, str], ...]]:
    """The variables that we know, by attribute, and the others."""
    values: dict[str, Any] = {}
    unknown: list[tuple[str, str]] = []
    for part in re.split("[&;]", query):
        called, _, value = (_unescape(it.replace("+", " ")) for it in part.partition("="))
        attribute = _KNOWN.get(called.lower())
        if attribute is not None:
            values[attribute.name] = _typed(called.lower(), attribute.metadata["variable"], value)
        elif called:
            unknown.append((called, value))
    return values, tuple(unknown)


def _typed(name: str, kind: Any, value: str) -> Any:
    """*value* as what the variable *name* holds.

    :raises ValueError: it is nothing of that kind.
    """
    if kind is bool:
        if _INTEGER.fullmatch(value) is None:
            raise ValueError(f"Failed to parse value of URI component {name}")
        return int(value) != 0
    if kind is str or not value:
        return value if value or name != "sshauth" else ()
    words = tuple(value.split(",")) if name == "sshauth" else (value,)
    for word in words:
        if word not in kind:
            raise ValueError(f"the variable {name} of a URL is one of {', '.join(kind)}")
    return words if name == "sshauth" else value


def _check(url: LibvirtUrl) -> None:
    if url.transport == "unix" and url.host:
        raise ValueError(f"using unix socket and remote server '{url.host}' is not supported.")
    if url.transport == "ext" and not url.command:
        raise ValueError("for 'ext' transport, command is required")
    if url.mode == "direct" and url.transport != "unix":
        raise ValueError("mode=direct is for the transport unix alone")
    if url.transport == "ssh" and url.netcat and url.proxy == "native":
        raise ValueError("netcat has no place beside proxy=native")
    if url.transport == "ssh" and any(it and not PLAIN_PATH.fullmatch(it) for it in (url.socket, url.netcat)):
        raise ValueError("socket and netcat of 'ssh' transport are absolute paths of plain characters")


def _warn(url: LibvirtUrl) -> tuple[str, ...]:
    warnings = [f"the variable {name!r} is unknown and ignored" for name, _ in url.unknown]
    if url.port is not None and url.transport not in PORTS:
        warnings.append(f"a port means nothing to the transport {url.transport}")
    if url.user and url.transport != "ssh":
        warnings.append(f"a user means nothing to the transport {url.transport}")
    if url.tls_priority:
        warnings += [f"{it!r} of tls_priority is ignored" for it in parse_priority(url.tls_priority).ignored]
    return tuple(warnings)


def _unescape(text: str) -> str:
    """Undo percent-encoding.

    :raises ValueError: there is something else behind a percent sign, or what comes out is no plain text.
    """
    if _ESCAPE.search(text):
        raise ValueError("a percent sign in a URL is followed by two hexadecimal digits")
    try:
        plain = unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("escapes in a URL are UTF-8") from None
    if any(it < " " or it == "\x7f" for it in plain):
        raise ValueError("no control characters in a URL, escaped or not")
    return plain


def _escape(text: str, safe: str = _IN_VALUE) -> str:
    return quote(text, safe=safe)
