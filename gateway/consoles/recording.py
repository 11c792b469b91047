"""Recordings of consoles: where they are, and how one begins for a session.

:class:`Recordings` makes a :class:`~gateway.consoles.recorder.Recorder` for a session whose ticket demands
it, with a file in the directory of the configuration. A console that must be recorded and cannot be is
refused, or comes to its end: it never runs unrecorded.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from attrs import asdict
from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred, DeferredList, inlineCallbacks
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from gateway import errors
from gateway.consoles import recording_file
from gateway.consoles.recorder import InThread, Recorder, nothing, refusal, told
from gateway.consoles.recording_file import ROOM, LimitReached, Recording, RecordingFile, Writer, name_of
from gateway.core.logs import rfc3339
from gateway.core.sessions import Session
from gateway.core.ticket_news import Trail

#: Seconds that a disk has to make a file, and to complete those that are left when we stop.
OPENING, ENDING = 5.0, 10.0


def _problem(error: BaseException) -> str:
    """*error* for the log."""
    return getattr(error, "strerror", None) or type(error).__name__


class Recordings(Service):
    """All recordings of this process; none as long as there is no directory.

    :param wall: seconds since the epoch, for names.
    :param threads: started and stopped with this; None when they are somebody else's.
    :ivar directory: where they go.
    :ivar limit: bytes of one.
    :ivar room: bytes that have to be free for one to begin.
    """

    _log = Logger()

    def __init__(
        self,
        in_thread: InThread,
        clock: IReactorTime,
        wall: Callable[[], float],
        audit: Trail | None = None,
        threads: ThreadPool | None = None,
    ) -> None:
        self.directory: Path | None = None
        self.limit = 1 << 30
        self.room = ROOM
        self._in_thread = in_thread
        self._clock = clock
        self._wall = wall
        self._audit = audit
        self._threads = threads
        self._live: dict[Recorder, Session] = {}

    def adopt(self, directory: Path | None, limit: int) -> None:
        """Go by another configuration; what is being recorded goes on as it began."""
        self.directory, self.limit = directory, limit
        if self.running:
            self._prepare(begins=False)

    def check(self) -> Path:
        """Where recordings go.

        :raises gateway.errors.Unavailable: there are none.
        """
        if self.directory is None:
            raise refusal("This console must be recorded, and nothing is recorded here")
        return self.directory

    def startService(self) -> None:
        super().startService()
        if self._threads is not None:
            self._threads.start()
        self._prepare(begins=True)

    @inlineCallbacks
    def stopService(self) -> Generator[Deferred[Any], Any, None]:
        """Complete all recordings, unless that takes too long."""
        super().stopService()
        waiting = DeferredList([recorder.end() for recorder in self._live], consumeErrors=True)
        yield waiting.addTimeout(ENDING, self._clock)
        if self._threads is not None:
            self._threads.stop()

    def _prepare(self, *, begins: bool) -> None:
        """Make the directory; when the process *begins*, complete what another one left there. Blocks."""
        if self.directory is None:
            return
        try:
            recording_file.prepare(self.directory)
            for name in recording_file.recover(self.directory) if begins else ():
                self._log.warn("recording {name} was broken off", name=name)
        except OSError as error:
            # Consoles that must be recorded are refused; everything else goes on.
            self._log.error("nothing can be recorded: {problem}", problem=_problem(error))

    async def begin(
        self,
        session: Session,
        writer: Callable[[float], Writer],
        failed: Callable[[errors.GatewayError], object],
        flow: Callable[[bool], object] = nothing,
    ) -> Recorder:
        """Begin to record *session*; see :class:`Recorder`.

        :param writer: gets the time at which it begins, in seconds since the epoch.
        :raises gateway.errors.Unavailable: that cannot be.
        """
        directory, now = self.check(), self._wall()
        made = writer(now)
        name = name_of(now, session.id, session.fingerprint, made.suffix)
        file = RecordingFile(directory, name, self.limit, made, self.room)
        recorder = Recorder(file, self._in_thread, self._clock, failed, flow, self._closed)
        try:
            await recorder.open().addTimeout(OPENING, self._clock)
        except (OSError, LimitReached, defer.TimeoutError) as error:
            self._log.error("recording {name} cannot begin: {problem}", name=name, problem=_problem(error))
            recorder.discard()
            raise told(error) from error
        except CancelledError:
            recorder.discard()
            raise
        self._live[recorder] = session
        self._record("recording.begin", session)
        return recorder

    async def list(self, after: str, most: int) -> list[dict[str, object]]:
        """What is there, oldest first, for an operator.

        :param after: only what comes behind this name.
        :raises gateway.errors.Unavailable: the directory cannot be read.
        """
        if (directory := self.directory) is None:
            return []
        try:
            found: list[Recording] = await self._in_thread(recording_file.listing, directory, after, most)
        except OSError as error:
            raise refusal("The recordings cannot be read") from error
        return [
            {**asdict(item), "began": rfc3339(item.began), "path": str(directory / item.name)}
            for item in found
        ]

    def _closed(self, recorder: Recorder) -> None:
        session, error = self._live.pop(recorder, None), recorder.error
        if error is not None:
            name = recorder.file.name
            self._log.error("recording {name} has failed: {problem}", name=name, problem=_problem(error))
        if session is not None:
            self._record(
                "recording.end",
                session,
                result=recorder.result,
                bytes_out=recorder.file.size,
                duration_ms=round(recorder.seconds * 1000),
            )

    def _record(self, event: str, session: Session, **fields: object) -> None:
        if self._audit is not None:
            self._audit(
                event,
                kind=session.kind,
                session=session.id,
                ticket=session.fingerprint,
                principal=session.principal or None,
                peer=session.peer,
                listener=session.listener or None,
                target=session.target,
                **fields,
            )
