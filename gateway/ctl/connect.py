"""``gateway-connect``: standard input and output of a libvirt client, carried over a websocket.

libvirt's ``ext`` transport runs a command without arguments and with almost no environment, so what it needs
stands in a file: ``~/.config/gateway/connect.conf``, by sections. ``[default]`` is for all; a link called
``gateway-connect-NAME`` to this program uses ``[NAME]`` as well.
Source: libvirt 9.0, virnetsocket.c, virNetSocketNewConnectExternal; RFC 6455.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from configparser import ConfigParser
from configparser import Error as ParserError
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from attrs import field, frozen
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.internet.task import react
from twisted.python import usage
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway import errors
from gateway.core import outside
from gateway.core.tls_client import strict_creator

#: Where the settings are, below the home directory.
FILE = ".config/gateway/connect.conf"
_KEYS = ("url", "token", "token_file", "ca", "timeout")
#: Bytes of one message.
_PIECE = 64 * 1024
_STATUS = {
    401: "the token is no good, or it has expired",
    403: "the token does not open this",
    404: "there is no gateway at this address, or no [libvirt] in its configuration",
    503: "the gateway is busy",
}


class Unusable(Exception):
    """It cannot be done; the text says what to do."""


@frozen
class Settings:
    """Where to go, and what to show.

    :ivar url: of the gateway: ``https://HOST[:PORT]``.
    :ivar ca: PEM files of who vouches for its certificate.
    :ivar timeout: seconds to connect.
    """

    host: str
    port: int
    token: str = field(repr=False)
    ca: tuple[Path, ...]
    timeout: float = 15.0


class Options(usage.Options):
    """What may be said on the command line; libvirt itself says nothing."""

    synopsis = "Usage: gateway-connect [options]"
    longdesc = (
        "Carries a libvirt connection over HTTPS: virsh -c "
        "'qemu+ext:///system?command=/usr/bin/gateway-connect&target=lab'. What is not said here is looked "
        "up in the environment (GATEWAY_URL, GATEWAY_TOKEN, GATEWAY_TOKEN_FILE, GATEWAY_CA), then in "
        "~/.config/gateway/connect.conf: url, token or token_file, ca, under [default] and under [NAME] for "
        "a link called gateway-connect-NAME."
    )
    optParameters: ClassVar[list[Any]] = [
        ["url", "u", None, "the gateway: https://HOST[:PORT]"],
        ["token-file", "T", None, "a file with a token or the id of a ticket"],
        ["ca", "a", None, "who vouches for the gateway's certificate, PEM"],
        ["config", "f", None, "another file with settings"],
        ["timeout", "t", None, "seconds to connect [default: 15]"],
    ]


def settings(options: Mapping[str, Any], environ: Mapping[str, str], program: str) -> Settings:
    """What the command line, the environment and the file say together, the first of them first.

    :raises Unusable: something is missing, or makes no sense.
    """
    stored = _stored(options, environ, program)

    def find(name: str, spelled: str = "") -> str | None:
        said = options.get(spelled or name) or environ.get(f"GATEWAY_{name.upper()}")
        return str(said) if said else stored.get(name)

    url = find("url")
    if url is None:
        raise Unusable("say where the gateway is: url = https://HOST in ~/.config/gateway/connect.conf")
    parts = urlsplit(url)
    try:
        port = 443 if parts.port is None else parts.port
    except ValueError:
        port = 0
    if parts.scheme not in ("https", "wss") or not parts.hostname or not port:
        raise Unusable(f"the url is https://HOST or https://HOST:PORT, not {url!r}")
    ca = find("ca") or environ.get("GATEWAY_CA")
    if ca is None:
        raise Unusable("say who vouches for the gateway: ca = FILE, PEM")
    token, file = find("token"), find("token_file", "token-file")
    if options.get("token-file") or token is None:
        if file is None:
            raise Unusable("a token is needed: token_file = FILE")
        try:
            token = Path(file).expanduser().read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Unusable(f"{file} cannot be read: {error}") from None
    if not token or not token.isprintable() or " " in token:
        raise Unusable("the token is empty, or none")
    try:
        timeout = float(find("timeout") or 15)
    except ValueError:
        raise Unusable("the timeout is a number of seconds") from None
    return Settings(parts.hostname, port, token, (Path(ca).expanduser(),), timeout)


def _stored(options: Mapping[str, Any], environ: Mapping[str, str], program: str) -> dict[str, str]:
    said = options.get("config") or environ.get("GATEWAY_CONNECT_CONF")
    file = Path(said) if said else Path(environ.get("HOME", "/")) / FILE
    parser = ConfigParser(interpolation=None, default_section="default")
    try:
        with open(file, encoding="utf-8") as stream:
            parser.read_file(stream)
    except FileNotFoundError:
        if said:
            raise Unusable(f"{file} is not there") from None
        return {}
    except (OSError, ParserError, UnicodeDecodeError) as error:
        raise Unusable(f"{file} cannot be read: {error}") from None
    name = Path(program).name.removeprefix("gateway-connect").removeprefix("-")
    if name and not parser.has_section(name):
        raise Unusable(f"{file} has no section [{name}]")
    found = dict(parser[name or "default"])
    strange = sorted(found.keys() - set(_KEYS))
    if strange:
        raise Unusable(f"{file} has an unknown key: {strange[0]}")
    return found


@implementer(IPushProducer)
class _Socket(WebSocketClientProtocol):  # type: ignore[misc, unused-ignore]
    """The websocket: what it gets goes to standard output, and the other way round."""

    transport: Any

    def __init__(self, over: Deferred[None]) -> None:
        super().__init__()
        self._over = over
        self._local: Any = None

    def onOpen(self) -> None:
        self._local = StandardIO(_Local(self))
        self._local.registerProducer(self, True)
        self.transport.registerProducer(self._local, True)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self._local.write(payload)

    def say(self, data: bytes) -> None:
        """Send what the client says."""
        for at in range(0, len(data), _PIECE):
            self.sendMessage(data[at : at + _PIECE], isBinary=True)

    def leave(self) -> None:
        """The client has hung up."""
        self.transport.unregisterProducer()
        self.sendClose(1000)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if self._local is not None:
            self._local.unregisterProducer()
            self._local.loseConnection()
        if self._over.called:
            return
        answer = getattr(self, "http_status_code", 101)
        if answer not in (101, None):
            self._over.errback(Failure(Unusable(_STATUS.get(answer, f"the gateway answered {answer}"))))
        elif code in (1000, 1005):
            self._over.callback(None)
        else:
            self._over.errback(Failure(Unusable(f"the gateway has ended it: {reason or code}")))

    # What standard output pauses.

    def pauseProducing(self) -> None:
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """The client has gone, which is told in another way."""


class _Local(Protocol):
    """Standard input and output."""

    def __init__(self, socket: _Socket) -> None:
        self._socket = socket

    def dataReceived(self, data: bytes) -> None:
        self._socket.say(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._socket.leave()


class _Factory(WebSocketClientFactory):  # type: ignore[misc, unused-ignore]
    """Makes the one websocket."""

    noisy = False

    def __init__(self, reactor: Any, where: Settings, over: Deferred[None]) -> None:
        host = f"[{where.host}]" if ":" in where.host else where.host
        super().__init__(
            f"wss://{host}:{where.port}/libvirt",
            headers={"Authorization": f"Bearer {where.token}"},
            reactor=reactor,
            useragent="gateway-connect",
        )
        self._over = over
        self.setProtocolOptions(
            openHandshakeTimeout=where.timeout,
            autoPingInterval=30,
            autoPingTimeout=20,
            closeHandshakeTimeout=2,
        )

    def buildProtocol(self, addr: object) -> _Socket:
        socket = _Socket(self._over)
        socket.factory = self
        return socket


async def run(reactor: Any, where: Settings) -> None:
    """Carry standard input and output until either side is at its end.

    :raises Unusable: the gateway is out of reach, or does not want us.
    """
    over: Deferred[None] = Deferred()
    try:
        tls = strict_creator(where.host, where.ca)
        reaching = Deferred.fromCoroutine(
            outside.connect(reactor, where.host, where.port, tls, _Factory(reactor, where, over))
        )
        await reaching.addTimeout(where.timeout, reactor)
    except errors.ConfigError as error:
        raise Unusable("\n".join(error.problems)) from None
    except errors.GatewayError as error:
        why = "its certificate cannot be trusted" if error.reason == "tls" else "it does not answer"
        raise Unusable(f"{where.host}:{where.port} is out of reach: {why}") from None
    except defer.TimeoutError:
        raise Unusable(f"{where.host}:{where.port} does not answer") from None
    await over


async def _main(reactor: Any, arguments: Sequence[str]) -> None:
    options = Options()
    try:
        options.parseOptions(list(arguments))
        await run(reactor, settings(options, os.environ, sys.argv[0]))
    except (usage.UsageError, Unusable) as error:
        # libvirt shows this to its user.
        sys.stderr.write(f"gateway-connect: {error}\n")
        raise SystemExit(1) from None


def main() -> None:
    """The program."""
    react(lambda reactor: Deferred.fromCoroutine(_main(reactor, sys.argv[1:])))
