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

from attrs import define
from OpenSSL import SSL, _util  # type: ignore[attr-defined, unused-ignore]  # private, and checked below
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import ITransport
from twisted.internet.tcp import Connection
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOProtocol
from twisted.python.failure import Failure

#: Bytes of one read from a socket; more falls out of the processor's second-level cache.
READ = 128 * 1024
#: The same on the short way of a body, at most. To wake up whoever waits at the other end costs more than
#: what falls out of a cache.
CHUNK = 8 * READ
#: Bytes that records completed by a read can have besides. Source: RFC 8446, section 5.2.
SLACK = 4 * (16 * 1024 + 256)
#: Bytes that the plain text of one read, and of the records it completes, can have.
ROOM = CHUNK + SLACK

_lib: Any = _util.lib
_ffi: Any = _util.ffi


def _missing() -> Iterator[str]:
    for name in (
        "SSL_read",
        "SSL_write",
        "SSL_get_error",
        "SSL_clear_mode",
        "SSL_ERROR_WANT_READ",
        "SSL_ERROR_WANT_WRITE",
        "SSL_set_bio",
        "BIO_get_mem_data",
        "BIO_new",
        "BIO_new_mem_buf",
        "BIO_read",
        "BIO_s_mem",
        "BIO_set_mem_eof_return",
        "BIO_write",
    ):
        if not hasattr(_lib, name):
            yield f"OpenSSL._util.lib.{name}"
    connection = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    for name in ("_ssl", "_into_ssl", "_from_ssl", "_raise_ssl_error"):
        if not hasattr(connection, name):
            yield f"OpenSSL.SSL.Connection.{name}"
    for name in (
        "_flushReceiveBIO",
        "_flushSendBIO",
        "_write",
        "_bufferedWrite",
        "_unbufferPendingWrites",
        "_tlsShutdownFinished",
    ):
        if not hasattr(TLSMemoryBIOProtocol, name):
            yield f"twisted.protocols.tls.TLSMemoryBIOProtocol.{name}"
    for name in ("_creatorCallable", "_tlsConnection", "_appSendBuffer", "_checkHandshakeStatus"):
        if name not in TLSMemoryBIOProtocol.makeConnection.__code__.co_names:
            yield f"{name} in twisted.protocols.tls.TLSMemoryBIOProtocol.makeConnection"
    if not hasattr(Connection, "_aborting"):
        yield "twisted.internet.tcp.Connection._aborting"
    for name in ("_tempDataBuffer", "dataBuffer", "offset", "_writeDisconnected"):
        # No reactor is needed to look for a name.
        if not hasattr(FileDescriptor(reactor=object()), name):  # type: ignore[arg-type]
            yield f"twisted.internet.abstract.FileDescriptor.{name}"


#: What of the names used here this installation does not have.
MISSING = tuple(_missing())


@define
class Traffic:
    """What goes through all connections.

    :ivar deliveries: how often a protocol was given something.
    """

    deliveries: int = 0


TRAFFIC = Traffic()

# One of each for the process: they are filled and emptied within one call.
_plain = bytearray(ROOM)
_plain_view = memoryview(_plain)
_plain_c = _ffi.from_buffer("char[]", _plain)
_wire = bytearray(ROOM)
_wire_view = memoryview(_wire)
_wire_c = _ffi.from_buffer("char[]", _wire)
_encrypted = _ffi.new("char **")


class FastTLS(TLSMemoryBIOProtocol):
    """One TLS connection; see the module."""

    _error: SSL.Error | None = None
    _swollen = False

    def makeConnection(self, transport: ITransport) -> None:
        # The size of reads, and how much may be queued before a producer is paused.
        transport.bufferSize = READ  # type: ignore[attr-defined]  # Twisted's own name
        self.lowest: Any = transport
        self.direct = isinstance(transport, FileDescriptor) and hasattr(transport, "socket")
        # As the original does, without a dozen claims to be this and that which the last line replaces.
        self._tlsConnection = self.factory._creatorCallable(self)
        self._appSendBuffer: list[bytes] = []
        ProtocolWrapper.makeConnection(self, transport)
        self._checkHandshakeStatus()

    def _checkHandshakeStatus(self) -> None:
        if not self._handshakeDone and self._tlsConnection is not None:
            # A memory BIO never blocks a write, so one write takes all there is.
            _lib.SSL_clear_mode(self._tlsConnection._ssl, _lib.SSL_MODE_ENABLE_PARTIAL_WRITE)
        super()._checkHandshakeStatus()

    # -- in --------------------------------------------------------------------------------

    def _flushReceiveBIO(self) -> None:
        """Deliver all that the last bytes from the network amount to."""
        while not self._lostTLSConnection:
            size, error = self._decrypt(_plain_c, ROOM)
            if size and not self._aborted:
                TRAFFIC.deliveries += 1
                self.wrappedProtocol.dataReceived(bytes(_plain_view[:size]))
            if error is not None and not self._goes_on(error):
                break
        if self._tlsConnection is not None:
            self._flushSendBIO()

    def _decrypt(self, room: Any, limit: int) -> tuple[int, SSL.Error | None]:
        """Decrypt at most *limit* bytes into *room*; return how many, and why there were no more."""
        connection, read = self._tlsConnection, _lib.SSL_read
        ssl, size = connection._ssl, 0
        while size < limit:
            got = read(ssl, room + size, limit - size)
            if got > 0:
                size += got
            elif _lib.SSL_get_error(ssl, got) == _lib.SSL_ERROR_WANT_READ:
                return size, _WANT_READ
            else:
                try:
                    connection._raise_ssl_error(ssl, got)
                except SSL.Error as error:
                    # A trace would keep what is on the stack, and the connection, until a collection.
                    return size, error.with_traceback(None)
        return size, None

    def _goes_on(self, error: SSL.Error) -> bool:
        """Take note of why nothing more could be decrypted; return whether it makes sense to try again."""
        if isinstance(error, SSL.WantReadError):
            return False
        if isinstance(error, SSL.ZeroReturnError):
            self._shutdownTLS()
            self._tlsShutdownFinished(None)
        else:
            self._tlsShutdownFinished(Failure(error))
        return True

    def receive_into(self, room: memoryview, limit: int, most: int = CHUNK) -> int | None:
        """Read the socket once, and decrypt into *room*, past the protocol.

        What is decrypted later than this belongs to the protocol again: see :meth:`settle`.

        :param room: of more than :data:`SLACK` bytes, which are left for the records that a read completes.
        :param limit: bytes that may be decrypted.
        :param most: bytes that are read, :data:`CHUNK` at most.
        :return: how many were; None when there is nothing to be had now.
        :raises OSError: the connection is lost.
        :raises EOFError: it ended.
        """
        most = min(most, len(room) - SLACK)
        if most <= 0:
            raise ValueError("there is not enough room")
        if self._error is not None:
            return None
        try:
            got = self.lowest.socket.recv_into(_wire_view, most)
        except BlockingIOError:
            return None
        if not got:
            raise EOFError
        # Reading from where the bytes are saves a copy of them.
        self._read_from(_lib.BIO_new_mem_buf(_wire_c, got))
        try:
            # An error holds frames, and those hold what they borrowed. Python crashes when it collects a
            # memoryview that is still lent to somebody.
            with _ffi.from_buffer("char[]", room) as borrowed:
                size, error = self._decrypt(borrowed, min(limit, len(room)))
        finally:
            # The next to receive writes over those bytes.
            own = _lib.BIO_new(_lib.BIO_s_mem())
            if (rest := _lib.BIO_read(self._tlsConnection._into_ssl, _plain_c, CHUNK)) > 0:
                _lib.BIO_write(own, _plain_c, rest)
            self._read_from(own)
        if not isinstance(error, SSL.WantReadError):
            # OpenSSL does not tell it twice.
            self._error = error
        return size

    def _read_from(self, bio: Any) -> None:
        """Let OpenSSL read from *bio*. Source: SSL_set_bio(3): the old one is freed, the other one stays."""
        connection = self._tlsConnection
        # Like a socket with nothing to read, not like one that ended.
        _lib.BIO_set_mem_eof_return(bio, -1)
        _lib.SSL_set_bio(connection._ssl, bio, connection._from_ssl)
        connection._into_ssl = bio

    def settle(self) -> None:
        """Deliver what was left undecrypted, and send what reading gave rise to."""
        if self._lostTLSConnection:
            return
        if self._appSendBuffer:
            self._unbufferPendingWrites()
        if self._error is not None:
            self._goes_on(self._error)
        self._flushReceiveBIO()

    # -- out -------------------------------------------------------------------------------

    def abortConnection(self) -> None:
        # Twisted's alert goes the way of all that waits: what is cut must not look like the end.
        self.direct = False
        super().abortConnection()

    def write(self, data: bytes | memoryview) -> None:
        """As of ``ITransport``; what cannot be sent at once of a memoryview is copied."""
        if self.disconnecting and self._producer is None:
            return
        self._write(data)

    def writeSequence(self, sequence: Iterable[bytes]) -> None:
        self.write(b"".join(sequence))

    def gather(self, data: bytes) -> None:
        """As :meth:`write`, in a record of its own or more, but it is :meth:`flush` that sends."""
        if not self.disconnecting or self._producer is not None:
            self._encrypt(data)

    def flush(self) -> None:
        """Send what was gathered."""
        if self._tlsConnection is not None:
            self._flushSendBIO()

    def _write(self, data: bytes | memoryview) -> None:
        if self._encrypt(data):
            self._flushSendBIO()

    def _encrypt(self, data: bytes | memoryview) -> bool:
        """Return whether there is something to send now."""
        if self._lostTLSConnection or not data:
            return False
        if self._appSendBuffer:
            self._bufferedWrite(bytes(data))
            return False
        connection = self._tlsConnection
        try:
            # As its own send() does, which looks at the type first.
            sent = _lib.SSL_write(connection._ssl, _ffi.from_buffer(data), len(data))
            self._swollen |= sent > READ
            if sent <= 0:
                connection._raise_ssl_error(connection._ssl, sent)
        except SSL.WantReadError:
            self._bufferedWrite(bytes(data))
        except SSL.Error:
            self._tlsShutdownFinished(Failure())
        else:
            return True
        return False

    def _flushSendBIO(self) -> None:
        """Hand what was encrypted to the transport, or at once to the socket."""
        bio = self._tlsConnection._from_ssl
        if (size := _lib.BIO_get_mem_data(bio, _encrypted)) > 0:
            data = _encrypted[0]
            # Read onto itself it is taken out and copied nowhere; it stays until the next write.
            _lib.BIO_read(bio, data, size)
            send(self.lowest, _ffi.buffer(data, size), self.direct)

    def unregisterProducer(self) -> None:
        super().unregisterProducer()
        if self._swollen and not self._lostTLSConnection:
            # A BIO keeps what it had to hold at once, and a connection may rest for long.
            self._swollen = False
            connection = self._tlsConnection
            self._flushSendBIO()
            connection._from_ssl = _lib.BIO_new(_lib.BIO_s_mem())
            _lib.BIO_set_mem_eof_return(connection._from_ssl, -1)
            _lib.SSL_set_bio(connection._ssl, connection._into_ssl, connection._from_ssl)


def queued(transport: Any) -> bool:
    """Whether bytes wait for the socket of *transport*."""
    return bool(transport._tempDataBuffer or transport.offset < len(transport.dataBuffer))


def clear(transport: Any) -> bool:
    """Whether bytes may go to the socket of *transport* past it."""
    return not (
        transport.disconnecting
        or transport._aborting
        or transport._writeDisconnected
        or not transport.connected
        or queued(transport)
    )


def send(transport: Any, data: bytes | memoryview, direct: bool = True) -> bool:
    """Write *data*, to the socket at once as far as nothing waits before it.

    What the socket does not take is copied. A lost connection is for the transport to find out in
    its own way.

    :return: whether nothing waits now, as far as can be told.
    """
    if direct and clear(transport):
        try:
            sent = transport.socket.send(data)
        except OSError:
            sent = 0
        if sent == len(data):
            return True
        data = data[sent:]
    transport.write(bytes(data))
    return direct and not queued(transport)


_WANT_READ = SSL.WantReadError()

#: What encrypts here.
TRANSPORT: type[TLSMemoryBIOProtocol] = (
    BufferingTLSTransport if MISSING or os.environ.get("GATEWAY_FAST") == "off" else FastTLS
)
