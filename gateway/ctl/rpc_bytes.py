"""Moves a file to or from where the endpoint says, over HTTPS, and shows how far it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    FileBodyProducer,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
)
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from gateway.core.tls_client import strict_creator
from gateway.ctl.display import size
from gateway.ctl.progress import Meter, ProgressLine
from gateway.ctl.shell import Failed, Shell

_BROKEN = (
    *(ConnectError, DNSLookupError, ConnectionClosed),
    *(ResponseFailed, RequestTransmissionFailed, RequestGenerationFailed),
)
#: Bytes of an error that are read.
_LONGEST = 4096


@implementer(IPolicyForHTTPS)
@define
class _Policy:
    """Trusts one authority, and only the host that was asked for."""

    ca: Path

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        return strict_creator(hostname.decode("ascii").strip("[]"), [self.ca], alpn=[b"http/1.1"])


async def send(shell: Shell, ca: Path, url: str, path: str) -> None:
    """Upload the file at *path*.

    :raises Failed:
    """
    file = _open(path, "rb")
    total = os.fstat(file.fileno()).st_size
    body: Any = FileBodyProducer(file, readSize=1 << 18)
    try:
        work = _request(shell, ca, "PUT", url, body)
        # Whoever reads it closes it.
        response = await _watched(shell, total, lambda: total if file.closed else file.tell(), work)
        if not file.closed:
            # Refused, so nobody wants the rest.
            body.stopProducing()
        await _judged(response)
    finally:
        file.close()
    shell.note(f"sent: {size(total)}")


async def fetch(shell: Shell, ca: Path, url: str, path: str) -> None:
    """Download to *path*, where nothing changes before all is there.

    :raises Failed:
    """
    is_file = os.path.isfile(path) or not os.path.exists(path)
    part = f"{path}.part" if is_file else path
    file = _open(part, "wb")
    try:
        with file:
            response = await _request(shell, ca, "GET", url, None)
            await _judged(response, whole=False)
            total, moved = response.length if isinstance(response.length, int) else 0, 0

            def take(data: bytes) -> None:
                nonlocal moved
                moved += file.write(data)

            await _watched(shell, total, lambda: moved, _body(response, take))
        if is_file:
            os.replace(part, path)
    except BaseException:  # raised again, Ctrl-C too
        if is_file:
            os.unlink(part)
        raise
    shell.note(f"written: {size(moved)}")


def _open(path: str, mode: str) -> IO[bytes]:
    try:
        return open(path, mode)
    except OSError as error:
        raise Failed(f"{path}: {error.strerror}") from None


async def _request(shell: Shell, ca: Path, method: str, url: str, body: Any) -> Any:
    try:
        return await Agent(shell.reactor, _Policy(ca), connectTimeout=10).request(
            method.encode("ascii"), url.encode("ascii"), bodyProducer=body
        )
    except _BROKEN as error:
        reasons = getattr(error, "reasons", ())
        if any(why.check(CancelledError) for why in reasons):
            raise CancelledError from None
        raise Failed(f"{url.rpartition('/images/')[0]} broke off, or cannot be reached: {error}") from None


async def _judged(response: Any, *, whole: bool = True) -> None:
    """Read a short answer to its end.

    :raises Failed: it is a refusal.
    """
    if response.code < 300 and not whole:
        return
    said = bytearray()
    await _body(response, lambda data: said.extend(data[: _LONGEST - len(said)]))
    if response.code >= 300:
        text = said.decode("utf-8", "replace").strip().partition("\n")[0]
        raise Failed(f"refused: {text or response.code}")


async def _watched(shell: Shell, total: int, moved: Callable[[], int], work: Any) -> Any:
    """What *work* gives; meanwhile the progress is shown."""
    meter, line = Meter(total), ProgressLine(shell.err, shell.progress_columns)

    async def watch() -> None:
        while True:
            meter.measure(shell.wall(), moved())
            line.draw(meter)
            await deferLater(shell.reactor, shell.pause / 4)

    watching: Deferred[None] = Deferred() if shell.as_json else Deferred.fromCoroutine(watch())
    watching.addErrback(lambda failure: failure.trap(CancelledError) and None)
    try:
        result = await work
        if not shell.as_json:
            meter.measure(shell.wall(), moved())
            line.draw(meter)
        return result
    finally:
        watching.cancel()
        line.close()


def _body(response: Any, take: Callable[[bytes], object]) -> Deferred[None]:
    """Give the body to *take*, piece by piece."""
    over: Deferred[None] = Deferred(lambda _: body.transport.loseConnection())  # type: ignore[union-attr]  # it is connected
    body = _Body(take, over)
    response.deliverBody(body)
    return over


@define(eq=False)
class _Body(Protocol):
    _take: Callable[[bytes], object] = field()
    _over: Deferred[None] = field()

    def dataReceived(self, data: bytes) -> None:
        self._take(data)

    def connectionLost(self, reason: Failure = Failure(ConnectionClosed())) -> None:  # noqa: B008 (Twisted's own)
        if self._over.called:
            return
        if reason.check(ResponseDone):
            self._over.callback(None)
        else:
            self._over.errback(Failure(Failed("the transfer broke off: what is there is incomplete")))
