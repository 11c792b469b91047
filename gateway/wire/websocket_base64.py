"""Bytes as base64 in text messages, as the oldest consoles in browsers want them.

Each message is whole by itself. Source: websockify's former subprotocol ``base64``; RFC 4648, section 4.
"""

from __future__ import annotations

from binascii import Error, a2b_base64

from gateway.wire.websocket_frames import INVALID_PAYLOAD, FrameError


class Base64Reader:
    """Decodes messages that arrive in pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""
        self._padded = False

    def receive(self, data: bytes, ends: bool) -> bytes:
        """Return the bytes that *data* completes.

        :param ends: the message ends with it.
        :raises FrameError: it is not base64.
        """
        data = self._rest + data
        whole = len(data) & ~3
        self._rest = data[whole:]
        if (data and self._padded) or (ends and self._rest):
            raise FrameError(INVALID_PAYLOAD, "A message is not base64")
        self._padded = not ends and (self._padded or data.endswith(b"=", 0, whole))
        try:
            return a2b_base64(data[:whole], strict_mode=True)
        except Error as error:
            raise FrameError(INVALID_PAYLOAD, "A message is not base64") from error
