"""TLS with Twisted's semantics at half the cost: whole chunks instead of single records.

Twisted's own transport delivers once for each record of 16 KiB, allocates 32 KiB for each of them,
ends every batch with an exception, and queues what it could send at once. Here a socket read becomes
one delivery, a write becomes one encryption, and bytes go to the socket directly when nothing waits
before them. State, producers, close and errors are Twisted's, untouched.

Private names of Twisted and pyOpenSSL are used here and nowhere else; :data:`MISSING` names what this
installation lacks, and then Twisted's transport serves. ``GATEWAY_FAST=off`` in the environment
chooses that too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from OpenSSL import SSL, _util  # type: ignore[attr-defined, unused-ignore]
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import ITransport
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOProtocol
from twisted.python.failure import Failure

#: Bytes of one read from a socket; more falls out of the processor's second-level cache.
READ = 128 * 1024
#: Bytes of the largest record and its overhead. Source: RFC 8446, section 5.2.
_RECORD = 16 * 1024 + 256
_SCRATCH = READ + 4 * _RECORD

_lib: Any = _util.lib
_ffi: Any = _util.ffi


def _missing() -> Iterator[str]:
    for name in ("SSL_read", "SSL_get_error", "SSL_clear_mode", "BIO_read", "SSL_ERROR_WANT_READ"):
        if not hasattr(_lib, name):
            yield f"OpenSSL._util.lib.{name}"
    connection = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    for name in ("_ssl", "_from_ssl", "_raise_ssl_error"):
        if not hasattr(connection, name):
            yield f"OpenSSL.SSL.Connection.{name}"
    for name in ("_flushReceiveBIO", "_flushSendBIO", "_write", "_bufferedWrite", "_tlsShutdownFinished"):
        if not hasattr(TLSMemoryBIOProtocol, name):
            yield f"twisted.protocols.tls.TLSMemoryBIOProtocol.{name}"
    for name in ("_tempDataBuffer", "dataBuffer", "offset", "_writeDisconnected"):
        if not hasattr(FileDescriptor(reactor=object()), name):  # type: ignore[arg-type]
            yield f"twisted.internet.abstract.FileDescriptor.{name}"


#: What of the names used here this installation does not have.
MISSING = tuple(_missing())

# One of each for the process: they are filled and emptied within one call.
_plain = bytearray(_SCRATCH)
_plain_view = memoryview(_plain)
_plain_c = _ffi.from_buffer("char[]", _plain)
_wire = bytearray(_SCRATCH)
_wire_view = memoryview(_wire)
_wire_c = _ffi.from_buffer("char[]", _wire)


class FastTLS(TLSMemoryBIOProtocol):
    """One TLS connection; see the module."""

    def makeConnection(self, transport: ITransport) -> None:
        # The size of reads, and how much may be queued before a producer is paused.
        transport.bufferSize = READ  # type: ignore[attr-defined]
        self._direct = isinstance(transport, FileDescriptor) and hasattr(transport, "writeSomeData")
        super().makeConnection(transport)

    def _checkHandshakeStatus(self) -> None:
        if not self._handshakeDone and self._tlsConnection is not None:
            # A memory BIO never blocks a write, so one write takes all there is.
            _lib.SSL_clear_mode(self._tlsConnection._ssl, _lib.SSL_MODE_ENABLE_PARTIAL_WRITE)
        super()._checkHandshakeStatus()

    # -- in --------------------------------------------------------------------------------

    def _flushReceiveBIO(self) -> None:
        """Deliver all that the last bytes from the network amount to."""
        while not self._lostTLSConnection:
            size, error = self._decrypt()
            if size and not self._aborted:
                self.wrappedProtocol.dataReceived(bytes(_plain_view[:size]))
            if error is None:
                continue
            if isinstance(error, SSL.WantReadError):
                break
            if isinstance(error, SSL.ZeroReturnError):
                self._shutdownTLS()
                self._tlsShutdownFinished(None)
            else:
                self._tlsShutdownFinished(Failure(error))
        if self._tlsConnection is not None:
            self._flushSendBIO()

    def _decrypt(self) -> tuple[int, SSL.Error | None]:
        """Fill the scratch with plain text; return its size, and why there was no more."""
        connection = self._tlsConnection
        ssl, size = connection._ssl, 0
        while _SCRATCH - size >= _RECORD:
            got = _lib.SSL_read(ssl, _plain_c + size, _SCRATCH - size)
            if got > 0:
                size += got
            elif _lib.SSL_get_error(ssl, got) == _lib.SSL_ERROR_WANT_READ:
                return size, _WANT_READ
            else:
                try:
                    connection._raise_ssl_error(ssl, got)
                except SSL.Error as error:
                    return size, error
        return size, None

    # -- out -------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if self.disconnecting and self._producer is None:
            return
        self._write(data)

    def writeSequence(self, sequence: Iterable[bytes]) -> None:
        self.write(b"".join(sequence))

    def _write(self, data: bytes) -> None:
        if self._lostTLSConnection or not data:
            return
        if self._appSendBuffer:
            self._bufferedWrite(data)
            return
        try:
            self._tlsConnection.send(data)
        except SSL.WantReadError:
            self._bufferedWrite(data)
        except SSL.Error:
            self._tlsShutdownFinished(Failure())
        else:
            self._flushSendBIO()

    def _flushSendBIO(self) -> None:
        """Hand what was encrypted to the transport, or at once to the socket."""
        bio = self._tlsConnection._from_ssl
        while (size := _lib.BIO_read(bio, _wire_c, _SCRATCH)) > 0:
            self._send(_wire_view[:size])

    def _send(self, data: memoryview) -> None:
        transport: Any = self.transport
        if (
            self._direct
            and transport.connected
            and not transport.disconnecting
            and not transport._writeDisconnected
            and not transport._tempDataBuffer
            and transport.offset == len(transport.dataBuffer)
        ):
            sent = transport.writeSomeData(data)
            # A lost connection is for the transport to find out in its own way.
            if isinstance(sent, int):
                data = data[sent:]
        if data:
            transport.write(bytes(data))


_WANT_READ = SSL.WantReadError()

#: What encrypts here.
TRANSPORT: type[TLSMemoryBIOProtocol] = (
    BufferingTLSTransport if MISSING or os.environ.get("GATEWAY_FAST") == "off" else FastTLS
)
