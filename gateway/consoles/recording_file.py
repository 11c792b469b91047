"""The file of a recording, and the directory of them all: everything here may wait for a disk.

It runs in threads, for one file in one at a time. A file that is being written has the further suffix
``.part`` and is locked; it gets its name when it is complete, or at the next start of the gateway. It always
ends with a whole block, but for what a crash may cut.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from attrs import define, field, frozen

#: Bytes that have to be free for a recording to begin.
ROOM = 16 << 20
#: Of a file that is being written.
PART = ".part"
_NAME = re.compile(r"([0-9]{8}T[0-9]{6}Z)-([0-9a-f]{1,32})-([0-9a-f]{12})\.(fbs|cast)(\.part)?")
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_STAMP = "%Y%m%dT%H%M%SZ"


class LimitReached(Exception):
    """A recording is as long as it may be."""


class Writer(Protocol):
    """Makes the bytes of a file, in blocks; see :class:`gateway.wire.fbs.FbsWriter`."""

    suffix: str

    def begin(self) -> bytes:
        """What the file begins with."""

    def write(self, seconds: float, data: bytes) -> list[bytes]:
        """The blocks that hold *data*, which came *seconds* after the beginning."""

    def end(self) -> list[bytes]:
        """What is left to be written."""


#: Seconds since the beginning, and what came then.
Piece = tuple[float, bytes]


@frozen
class Recording:
    """A file in the directory.

    :ivar name: of the file when it is complete.
    :ivar kind: ``fbs`` or ``cast``.
    :ivar began: seconds since the epoch.
    :ivar session: id of the session that was recorded.
    :ivar ticket: fingerprint of its ticket.
    :ivar size: bytes, so far.
    :ivar complete: nothing is added any more.
    """

    name: str
    kind: str
    began: float
    session: str
    ticket: str
    size: int
    complete: bool


def name_of(began: float, session: str, ticket: str, suffix: str) -> str:
    """The name of a recording, see :class:`Recording`."""
    return f"{datetime.fromtimestamp(began, UTC).strftime(_STAMP)}-{session}-{ticket}.{suffix}"


@define
class RecordingFile:
    """One file.

    :param limit: bytes that it may have.
    :param room: bytes that have to be free for it to begin.
    :ivar size: bytes that it has, all of them in whole blocks.
    """

    directory: Path
    name: str
    limit: int
    _writer: Writer
    _room: int = ROOM
    size: int = field(default=0, init=False)
    _at: int = field(default=-1, init=False)
    _file: int = field(default=-1, init=False)

    def open(self) -> None:
        """Make the file.

        :raises OSError: it cannot be made, or there is hardly any room for it.
        :raises LimitReached: not even its beginning may be written.
        """
        self._at = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            free = os.fstatvfs(self._at)
            if free.f_bavail * free.f_frsize < self._room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._file = os.open(self.name + PART, _CREATE, 0o600, dir_fd=self._at)
            # Where files cannot be locked, nobody else is at work.
            with suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._append([self._writer.begin()])
        except BaseException:  # raised again, cancelled or not
            self.discard()
            raise

    def write(self, pieces: Iterable[Piece], sync: bool) -> None:
        """Add *pieces*, as many whole blocks of them as possible; with *sync* have all of it on the disk.

        :raises OSError: not all of it could be written.
        :raises LimitReached: not all of it may be written.
        """
        self._append([block for seconds, data in pieces for block in self._writer.write(seconds, data)])
        if sync:
            os.fdatasync(self._file)

    def end(self, pieces: Iterable[Piece]) -> None:
        """Add *pieces* as :meth:`write` does, and complete the file, come what may.

        :raises OSError: likewise, or it may not be on the disk, or has not got its name.
        :raises LimitReached: likewise.
        """
        try:
            self.write(pieces, False)
            self._append(self._writer.end())
        finally:
            try:
                os.fsync(self._file)
            finally:
                self._name()

    def _name(self) -> None:
        try:
            # Not there: another gateway has found it already.
            with suppress(FileNotFoundError):
                os.rename(self.name + PART, self.name, src_dir_fd=self._at, dst_dir_fd=self._at)
            os.fsync(self._at)
        finally:
            self._close()

    def discard(self) -> None:
        """Take the file away again."""
        if self._file >= 0:
            with suppress(OSError):
                os.unlink(self.name + PART, dir_fd=self._at)
        self._close()

    def _append(self, blocks: Sequence[bytes]) -> None:
        count, end = 0, self.size
        while count < len(blocks) and end + len(blocks[count]) <= self.limit:
            end += len(blocks[count])
            count += 1
        view, at = memoryview(b"".join(blocks[:count])), self.size
        try:
            while view:
                written = os.pwrite(self._file, view, at)
                view, at = view[written:], at + written
        except OSError:
            for block in blocks:
                if self.size + len(block) > at:
                    break
                self.size += len(block)
            with suppress(OSError):
                os.ftruncate(self._file, self.size)
            raise
        self.size = end
        if count < len(blocks):
            raise LimitReached

    def _close(self) -> None:
        for descriptor in (self._file, self._at):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._at = -1


def prepare(directory: Path) -> None:
    """Make *directory*, if it is not there.

    :raises OSError:
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def recover(directory: Path) -> list[str]:
    """Give the recordings that a gateway left behind when it died their names; return these.

    Those that another gateway is writing stay as they are.

    :raises OSError: the directory cannot be read, or not changed.
    """
    found: list[str] = []
    at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in sorted(os.listdir(at)):
            match = _NAME.fullmatch(name)
            if match is None or match[5] is None or not _is_left(name, at):
                continue
            whole = name.removesuffix(PART)
            os.rename(name, whole, src_dir_fd=at, dst_dir_fd=at)
            found.append(whole)
        if found:
            os.fsync(at)
    finally:
        os.close(at)
    return found


def _is_left(name: str, at: int) -> bool:
    try:
        descriptor = os.open(name, _LOOK, dir_fd=at)
    except OSError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    else:
        return True
    finally:
        os.close(descriptor)


def listing(directory: Path, after: str = "", most: int = 1000) -> list[Recording]:
    """What is there, oldest first.

    :param after: only what comes behind this name.
    :raises OSError: it cannot be read.
    """
    found: list[Recording] = []
    for name in sorted(os.listdir(directory)):
        match = _NAME.fullmatch(name)
        if match is None or name.removesuffix(PART) <= after:
            continue
        try:
            status = os.lstat(directory / name)
            began = datetime.strptime(match[1], _STAMP).replace(tzinfo=UTC).timestamp()
        except (FileNotFoundError, ValueError):
            # It has just got its name, or it is none of ours.
            continue
        if not stat.S_ISREG(status.st_mode):
            continue
        whole = name.removesuffix(PART)
        found.append(Recording(whole, match[4], began, match[2], match[3], status.st_size, whole == name))
        if len(found) == most:
            break
    return found
