"""Pictures of screens, kept in files until their tickets end."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from gateway import errors
from gateway.rpc.target import Target

#: Bytes of one picture, pictures at a time.
LARGEST, MOST = 64 << 20, 1000
_ENDINGS = {"image/png": "png", "image/x-portable-pixmap": "ppm"}


@frozen
class Picture:
    """One picture, in a file.

    :ivar size: bytes.
    """

    path: Path
    size: int
    filename: str


@define(eq=False)
class Screenshots:
    """Takes pictures.

    :param folder: of ours alone; emptied at start.
    :param in_thread: runs a function elsewhere than on the reactor's thread.
    """

    folder: Path
    _in_thread: Callable[..., Deferred[Any]]
    _clock: IReactorTime
    _wall: Callable[[], float]
    _kept: dict[Path, IDelayedCall] = field(factory=dict, init=False)
    log = Logger()

    def start(self) -> None:
        """Make the folder, and remove what a former process has left in it."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self.folder.iterdir():
            left.unlink()

    def stop(self) -> None:
        """Remove all pictures."""
        for path, timer in self._kept.items():
            timer.cancel()
            path.unlink(missing_ok=True)
        self._kept.clear()

    async def take(self, target: Target, arguments: Mapping[str, Any], principal: str) -> Picture:
        """Take a picture.

        :raises gateway.errors.TooLarge: it is larger than :data:`LARGEST`.
        :raises gateway.errors.Busy: there are too many.
        """
        if len(self._kept) >= MOST:
            raise errors.Busy("Too many pictures are kept")
        results, stream = await target.stream("DOMAIN_SCREENSHOT", arguments, principal=principal)
        parts: list[bytes] = []
        size = 0

        def got(data: bytes) -> None:
            nonlocal size
            size += len(data)
            parts.append(data)
            if size > LARGEST:
                stream.stopProducing()

        try:
            await stream.deliver(got)
        except errors.Interrupted:
            if size > LARGEST:
                raise errors.TooLarge("The picture is too large", limit=LARGEST) from None
            raise
        finally:
            stream.close()
        ending = _ENDINGS.get(results["mime"] or "", "img")
        path = self.folder / f"{token_hex(16)}.{ending}"
        await self._in_thread(_write, path, b"".join(parts))
        name = "".join(each if each.isalnum() or each in "._-" else "_" for each in arguments["dom"]["name"])
        return Picture(path, size, f"{name}.{ending}")

    def keep(self, picture: Picture, until: float) -> None:
        """Remove *picture* at *until*, seconds since the epoch."""

        def over() -> None:
            del self._kept[picture.path]
            picture.path.unlink(missing_ok=True)

        self._kept[picture.path] = self._clock.callLater(max(0.0, until - self._wall()), over)


def _write(path: Path, data: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
