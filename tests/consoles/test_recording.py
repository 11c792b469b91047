from __future__ import annotations

import fcntl
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.consoles.line import Valve
from gateway.consoles.recorder import DELAY, SYNC, WINDOW, Recorder
from gateway.consoles.recording import ENDING, OPENING, Recordings
from gateway.consoles.recording_file import RecordingFile, listing, recover
from gateway.wire.asciicast import AsciicastReader, AsciicastWriter
from gateway.wire.fbs import Block, FbsReader, FbsWriter
from tests.consoles.service_case import ServiceCase
from tests.consoles.stage import NOW, Stage

STAMP = "20270115T080000Z"


class Threads:
    """Runs what is to run in threads when the test says so, in order.

    :ivar waiting: functions, arguments, and what fires with the result.
    :ivar ran: functions by name, with their arguments.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[..., Any], tuple[Any, ...], Deferred[Any]]] = []
        self.ran: list[tuple[str, tuple[Any, ...]]] = []

    def __call__(self, function: Callable[..., Any], *args: object) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.waiting.append((function, args, done))
        return done

    def run(self) -> None:
        while self.waiting:
            function, args, done = self.waiting.pop(0)
            self.ran.append((function.__name__, args))
            try:
                result: Any = function(*args)
            except Exception as error:
                result = Failure(error)
            done.callback(result)


def blocks(path: Path) -> list[Block]:
    reader = FbsReader()
    found = reader.receive(path.read_bytes())
    assert reader.whole
    return found


class _Case(SynchronousTestCase):
    """A directory, a clock and threads."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.clock, self.threads = Clock(), Threads()
        self.flows: list[bool] = []
        self.failures: list[errors.GatewayError] = []

    def names(self) -> list[str]:
        return sorted(os.listdir(self.folder))

    def start(self, limit: int = 1 << 20) -> Recorder:
        file = RecordingFile(self.folder, "a.fbs", limit, FbsWriter())
        recorder = Recorder(file, self.threads, self.clock, self.failures.append, self.flows.append)
        opened = recorder.open()
        self.threads.run()
        self.successResultOf(opened)
        return recorder

    def finish(self, recorder: Recorder) -> None:
        ended = recorder.end()
        self.threads.run()
        self.successResultOf(ended)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class RecorderTests(_Case):
    """One recording."""

    def test_written(self) -> None:
        """What came is there with its times; the file has its name when it is complete, and not before."""
        recorder = self.start()
        self.assertEqual(self.names(), ["a.fbs.part"])
        recorder.put(b"first")
        self.clock.advance(1.5)
        recorder.put(b"second")
        self.threads.run()
        self.clock.advance(0.5)
        recorder.put(b"third")
        self.finish(recorder)
        self.assertEqual(self.names(), ["a.fbs"])
        expected = [Block(0, b"first"), Block(1500, b"second"), Block(2000, b"third")]
        self.assertEqual(blocks(self.folder / "a.fbs"), expected)
        self.assertEqual((recorder.result, self.failures), ("complete", []))
        recorder.put(b"nothing more")
        self.finish(recorder)
        self.assertEqual(self.threads.waiting, [])

    def test_private(self) -> None:
        """Nobody else may read it, whatever the umask; while it is written nobody else completes it."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        recorder = self.start()
        self.assertEqual((self.folder / "a.fbs.part").stat().st_mode & 0o7777, 0o600)
        os.rename(self.folder / "a.fbs.part", self.folder / f"{STAMP}-0a-0123456789ab.fbs.part")
        self.assertEqual(recover(self.folder), [])
        os.rename(self.folder / f"{STAMP}-0a-0123456789ab.fbs.part", self.folder / "a.fbs.part")
        self.finish(recorder)
        self.assertEqual((self.folder / "a.fbs").stat().st_mode & 0o7777, 0o600)

    def test_no_links(self) -> None:
        """A symbolic link at the name is not followed, and no file is written over."""
        target, part = self.folder / "target", self.folder / "a.fbs.part"
        for make in (lambda: part.symlink_to(target), lambda: part.write_bytes(b"somebody's")):
            make()
            file = RecordingFile(self.folder, "a.fbs", 1 << 20, FbsWriter())
            with self.assertRaises(FileExistsError):
                file.open()
            self.assertFalse(target.exists())
            self.assertTrue(part.is_symlink() or part.read_bytes() == b"somebody's")
            part.unlink()

    def test_no_link_at_the_end(self) -> None:
        """A link that waits at the final name is replaced, and what it leads to stays as it is."""
        recorder = self.start()
        (self.folder / "target").write_bytes(b"somebody's")
        (self.folder / "a.fbs").symlink_to("target")
        recorder.put(b"data")
        self.finish(recorder)
        self.assertFalse((self.folder / "a.fbs").is_symlink())
        self.assertEqual((self.folder / "target").read_bytes(), b"somebody's")

    def test_limit(self) -> None:
        """At its limit the console ends with a reason; all blocks that fit are there, and whole."""
        recorder = self.start(limit=12 + 3 * 16 + 15)
        for number in range(4):
            recorder.put(bytes([number] * 8))
            self.clock.advance(1)
            self.threads.run()
        [error] = self.failures
        self.assertEqual((error.close_code, error.reason), (4503, "recording"))
        self.assertIn("as long as it may be", error.text)
        self.assertEqual(self.names(), ["a.fbs"])
        self.assertEqual([block.data[0] for block in blocks(self.folder / "a.fbs")], [0, 1, 2])
        self.assertEqual((recorder.over, recorder.result, recorder.file.size), (True, "failed", 60))

    def test_no_room(self) -> None:
        """When nothing more can be written the console ends; what is cut off in a block is taken away."""
        recorder = self.start()
        recorder.put(b"x" * 8)
        self.clock.advance(1)
        self.threads.run()
        recorder.put(b"y" * 8)
        self.clock.advance(0.01)
        recorder.put(b"z" * 8)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (12 + 2 * 16 + 5, before[1]))
        try:
            self.clock.advance(1)
            self.threads.run()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        [error] = self.failures
        self.assertEqual((error.close_code, error.reason), (4503, "recording"))
        self.assertIn("no room", error.text)
        self.assertEqual([block.data[:1] for block in blocks(self.folder / "a.fbs")], [b"x", b"y"])

    def test_bounded(self) -> None:
        """The console has to wait when the disk does not keep up, also when it sends byte by byte."""
        recorder = self.start()
        for _ in range(2):
            recorder.put(b"x")
            self.clock.advance(DELAY)
            count = 0
            while not self.flows:
                recorder.put(b"xyz")
                self.clock.advance(0.002)
                count += 1
            self.assertLess(count, WINDOW // 100)
            self.assertEqual(self.flows, [False])
            self.threads.run()
            self.clock.advance(DELAY)
            self.threads.run()
            self.assertEqual(self.flows, [False, True])
            self.flows.clear()
        self.finish(recorder)

    def test_at_once(self) -> None:
        """Much is written without delay; little waits a moment for more."""
        recorder = self.start()
        recorder.put(b"x")
        self.assertEqual(self.threads.waiting, [])
        recorder.put(bytes(WINDOW // 2))
        self.clock.advance(0)
        self.assertEqual(len(self.threads.waiting), 1)
        self.finish(recorder)

    def test_synced(self) -> None:
        """What came is on the disk after a few seconds, also when nothing follows."""
        recorder = self.start()
        recorder.put(b"x")
        self.clock.pump([DELAY] * 50)
        while self.threads.waiting:
            self.threads.run()
            self.clock.pump([DELAY] * 50)
        synced = [args[1] for name, args in self.threads.ran if name == "write"]
        self.assertEqual(synced.count(True), 1, synced)
        self.assertLessEqual(SYNC, 5)
        self.finish(recorder)

    def test_discarded(self) -> None:
        """Of a console that was never reached nothing is left."""
        recorder = self.start()
        gone = recorder.discard()
        self.threads.run()
        self.successResultOf(gone)
        self.assertEqual((self.names(), recorder.result), ([], "discarded"))

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.one_of(st.binary(max_size=40), st.floats(0, 2), st.none()), max_size=25))
    def test_any_order(self, steps: list[bytes | float | None]) -> None:
        """However bytes, time and the disk come along: every byte is there once, and times only grow."""
        recorder = self.start()
        sent = b""
        for step in steps:
            if step is None:
                self.threads.run()
            elif isinstance(step, float):
                self.clock.advance(step)
            else:
                recorder.put(step)
                sent += step
        self.finish(recorder)
        found = blocks(self.folder / "a.fbs")
        self.assertEqual(b"".join(block.data for block in found), sent)
        times = [block.milliseconds for block in found]
        self.assertEqual(times, sorted(times))
        (self.folder / "a.fbs").unlink()


class ValveTests(SynchronousTestCase):
    """What two can stop."""

    @given(st.lists(st.tuples(st.booleans(), st.booleans())))
    @settings(max_examples=60, deadline=None)
    def test_both(self, steps: list[tuple[bool, bool]]) -> None:
        """It flows while neither stops it, and is told only when that changes."""
        told: list[bool] = []
        valve = Valve(
            SimpleNamespace(
                pauseProducing=lambda: told.append(False), resumeProducing=lambda: told.append(True)
            )
        )
        wanted, flows = [True, True], [True]
        for disk, goes in steps:
            wanted[disk] = goes
            if disk:
                valve.flow(goes)
            elif goes:
                valve.resumeProducing()
            else:
                valve.pauseProducing()
            if all(wanted) != flows[-1]:
                flows.append(all(wanted))
        self.assertEqual(told, flows[1:])


class DirectoryTests(_Case):
    """The directory."""

    def test_recovered(self) -> None:
        """What a gateway left behind gets its name; nothing else is touched."""
        good = f"{STAMP}-0a-0123456789ab.fbs"
        busy = f"{STAMP}-0b-0123456789ab.cast.part"
        others = [busy, "notes.part", f"{STAMP}-0c-0123456789ab.cast"]
        for name in (f"{good}.part", *others):
            (self.folder / name).write_bytes(b"x")
        link = self.folder / f"{STAMP}-0d-0123456789ab.fbs.part"
        link.symlink_to(self.folder / "notes.part")
        (self.folder / f"{STAMP}-0e-0123456789ab.fbs.part").mkdir()
        with (self.folder / busy).open("rb") as holder:
            fcntl.flock(holder, fcntl.LOCK_EX)
            self.assertEqual(recover(self.folder), [good])
        self.assertEqual(
            self.names(), sorted([good, *others, link.name, f"{STAMP}-0e-0123456789ab.fbs.part"])
        )

    def test_listing(self) -> None:
        """The list has all recordings in order, those in work too, and nothing else."""
        names = [f"{STAMP}-0{it}-0123456789ab.{'fbs' if it < 2 else 'cast'}" for it in range(4)]
        for name in (*names[:3], f"{names[3]}.part", "other", f"x{names[0]}", f"20271315{names[0][8:]}"):
            (self.folder / name).write_bytes(b"12345")
        (self.folder / f"{STAMP}-ff-0123456789ab.fbs").symlink_to("other")
        found = listing(self.folder)
        self.assertEqual([it.name for it in found], names)
        self.assertEqual([it.complete for it in found], [True, True, True, False])
        first = found[0]
        self.assertEqual((first.kind, first.session, first.ticket), ("fbs", "00", "0123456789ab"))
        self.assertEqual((first.began, first.size), (NOW, 5))
        self.assertEqual([it.name for it in listing(self.folder, names[0], 2)], names[1:3])


class RecordingsTests(Stage):
    """How one begins for a session."""

    def setUp(self) -> None:
        super().setUp()
        self.threads = Threads()
        self.recordings = Recordings(self.threads, self.clock, self.wall, self._audit)
        self.kept = self.folder / "new" / "recordings"
        self.recordings.adopt(self.kept, 1 << 20)
        self.recordings.startService()
        self.failures: list[errors.GatewayError] = []
        self.put(record=True, principal="alice")
        self.session = self.open()
        self.trail.clear()

    def begin(self) -> Deferred[Recorder]:
        begun = Deferred.fromCoroutine(
            self.recordings.begin(self.session, lambda now: AsciicastWriter(int(now)), self.failures.append)
        )
        self.threads.run()
        return begun

    def refusal(self, begun: Deferred[Recorder]) -> errors.GatewayError:
        error = self.failureResultOf(begun, errors.Unavailable).value
        assert isinstance(error, errors.Unavailable)
        self.assertEqual(error.reason, "recording")
        self.assertNotIn(str(self.folder), error.text)
        return error

    def test_named(self) -> None:
        """The name tells when, which session and which ticket; the directory is ours alone."""
        self.assertEqual(self.kept.stat().st_mode & 0o777, 0o700)
        recorder = self.successResultOf(self.begin())
        name = f"{STAMP}-{self.session.id}-{self.session.fingerprint}.cast"
        self.assertEqual(os.listdir(self.kept), [f"{name}.part"])
        recorder.put(b"shown")
        ended = recorder.end()
        self.threads.run()
        self.successResultOf(ended)
        self.assertEqual(os.listdir(self.kept), [name])
        reader = AsciicastReader()
        [event] = reader.receive((self.kept / name).read_bytes())
        self.assertEqual(event.text, "shown")
        assert reader.header is not None
        self.assertEqual(reader.header.timestamp, int(NOW))

    def test_audited(self) -> None:
        """Begin and end are in the audit trail, with whose console it was and what became of the file."""
        recorder = self.successResultOf(self.begin())
        recorder.put(b"x")
        self.clock.advance(2)
        self.threads.run()
        recorder.end()
        self.threads.run()
        (begin, first), (end, second) = self.trail
        self.assertEqual((begin, end), ("recording.begin", "recording.end"))
        self.assertEqual((first["principal"], first["session"]), ("alice", self.session.id))
        self.assertEqual((second["result"], second["duration_ms"]), ("complete", 2000))
        [file] = self.kept.iterdir()
        self.assertEqual(second["bytes_out"], file.stat().st_size)

    def test_nowhere(self) -> None:
        """Without a directory, without room, or with a disk that fails there is none, and no file is left."""
        self.recordings.room = 1 << 62
        self.assertIn("no room", self.refusal(self.begin()).text)
        self.recordings.room, self.recordings.limit = 0, 4
        self.refusal(self.begin())
        self.assertEqual(os.listdir(self.kept), [])
        self.recordings.adopt(self.kept / "file", 1 << 20)
        os.rmdir(self.kept / "file")
        self.refusal(self.begin())
        self.recordings.adopt(None, 1 << 20)
        self.assertIn("nothing is recorded here", self.refusal(self.begin()).text)
        self.assertRaises(errors.Unavailable, self.recordings.check)
        self.assertEqual(self.trail, [])

    def test_slow(self) -> None:
        """A disk that does not answer lets no console begin; what it makes in the end is taken away."""
        begun = Deferred.fromCoroutine(
            self.recordings.begin(self.session, lambda now: FbsWriter(), self.failures.append)
        )
        self.clock.advance(OPENING)
        self.refusal(begun)
        self.threads.run()
        self.assertEqual(os.listdir(self.kept), [])

    def test_left(self) -> None:
        """Who leaves while it begins leaves nothing behind."""
        begun = Deferred.fromCoroutine(
            self.recordings.begin(self.session, lambda now: FbsWriter(), self.failures.append)
        )
        begun.addErrback(lambda failure: None)
        begun.cancel()
        self.threads.run()
        self.assertEqual(os.listdir(self.kept), [])

    def test_stopped(self) -> None:
        """When we stop all recordings are completed; a disk that hangs is not waited for."""
        recorder = self.successResultOf(self.begin())
        recorder.put(b"last")
        stopping = self.recordings.stopService()
        self.assertNoResult(stopping)
        self.threads.run()
        self.successResultOf(stopping)
        [file] = self.kept.iterdir()
        self.assertIn(b"last", file.read_bytes())
        self.recordings.startService()
        self.successResultOf(self.begin())
        stopping = self.recordings.stopService()
        self.clock.advance(ENDING)
        self.successResultOf(stopping)
        self.threads.run()

    def test_recovered(self) -> None:
        """At the start what was left behind is completed, and never at a reload."""
        left = self.kept / f"{STAMP}-0a-0123456789ab.fbs.part"
        left.write_bytes(b"x")
        self.recordings.adopt(self.kept, 1)
        self.assertTrue(left.exists())
        self.successResultOf(self.recordings.stopService())
        self.recordings.startService()
        self.assertEqual(os.listdir(self.kept), [left.name.removesuffix(".part")])

    def test_listed(self) -> None:
        """Operators see what there is, and where."""
        self.successResultOf(self.begin())
        listed: Deferred[Any] = Deferred.fromCoroutine(self.recordings.list("", 10))
        self.threads.run()
        [item] = self.successResultOf(listed)
        self.assertEqual((item["kind"], item["complete"]), ("cast", False))
        self.assertEqual(item["path"], str(self.kept / item["name"]))
        self.assertEqual(item["began"][:19], "2027-01-15T08:00:00")
        json.dumps(item)
        self.recordings.adopt(self.folder / "gone", 1)
        (self.folder / "gone").rmdir()
        listed = Deferred.fromCoroutine(self.recordings.list("", 10))
        self.threads.run()
        self.failureResultOf(listed, errors.Unavailable)


class ConsoleTests(ServiceCase):
    """Serial lines that are recorded."""

    def setUp(self) -> None:
        super().setUp()
        self.kept = Path(self.mktemp()).absolute()
        self.recordings.adopt(self.kept, 1 << 20)
        self.recordings.startService()
        self.addCleanup(self.recordings.stopService)

    def recorded(self) -> str:
        """The text of the one file."""
        [file] = self.kept.glob("*.cast")
        return "".join(event.text for event in AsciicastReader().receive(file.read_bytes()))

    async def test_recorded(self) -> None:
        """What the user saw is recorded, what the user typed is not; the file is complete soon after."""
        self.greeting = b"login: "
        page, console = await self.open("serial", record=True)
        page.send(b"sekret")
        await self.until(lambda: console.heard)
        console.transport.write(b"welcome\r\n")
        await self.until(lambda: page.said == b"login: welcome\r\n")
        page.transport.abortConnection()
        await self.until(lambda: len(self.trail) == 2)
        self.assertEqual(self.recorded(), "login: welcome\r\n")
        self.assertEqual([event for event, _ in self.trail], ["recording.begin", "recording.end"])

    async def test_not_asked(self) -> None:
        """Without being asked nothing is recorded."""
        page, console = await self.open("serial")
        console.transport.write(b"x")
        await self.until(lambda: page.said)
        self.assertEqual(list(self.kept.iterdir()), [])

    async def test_refused(self) -> None:
        """A console that must be recorded and cannot be is refused, and its target is never called."""
        self.recordings.adopt(None, 1)
        await self.put("serial", record=True)
        page = await self.ask()
        await self.until(lambda: page.head)
        self.assertEqual(page.status, 503)
        await self.until(lambda: b"recorded" in page.heard)
        self.recordings.adopt(self.kept, 1 << 20)
        self.recordings.room = 1 << 62
        page = await self.ask()
        await self.until(lambda: page.head)
        self.assertEqual((page.status, self.reached, self.sessions.list()), (503, [], ()))
        self.assertEqual(list(self.kept.iterdir()), [])

    async def test_out_of_reach(self) -> None:
        """Of a console that is out of reach there is no file."""
        self.target = 1
        await self.put("serial", record=True)
        page = await self.ask()
        await self.until(lambda: page.head)
        self.assertEqual(page.status, 502)
        await self.until(lambda: not list(self.kept.iterdir()))

    async def test_limit(self) -> None:
        """At the limit the console ends on both sides with its reason, and never runs on unrecorded."""
        self.recordings.adopt(self.kept, 2000)
        page, console = await self.open("serial", record=True)
        while page.closed is None and not console.lost:
            console.transport.write(b"x" * 100)
            await self.pause(0.01)
        await self.until(lambda: page.closed is not None and console.lost)
        assert page.closed is not None
        code, reason = page.closed
        self.assertEqual(code, 4503)
        self.assertIn("recording", reason)
        await self.until(lambda: "recording.end" in dict(self.trail))
        [file] = self.kept.glob("*.cast")
        self.assertLessEqual(file.stat().st_size, 2000)
        self.assertEqual(self.recorded().strip("x"), "")
        end = dict(self.trail)["recording.end"]
        self.assertEqual(end["result"], "failed")

    async def test_slow_disk(self) -> None:
        """When the disk does not keep up the console waits; then all of it is seen, and recorded."""
        held: list[Callable[[], object]] = []
        threads = self.recordings._in_thread

        def slow(function: Callable[..., Any], *args: object) -> Deferred[Any]:
            if function.__name__ != "write":
                return threads(function, *args)
            gate: Deferred[Any] = Deferred()
            held.append(lambda: gate.callback(None))
            return gate.addCallback(lambda _: threads(function, *args))

        self.recordings._in_thread = slow
        self.recordings.adopt(self.kept, 1 << 30)
        page, console = await self.open("serial", record=True)
        page.counting, total = True, 32 << 20
        console.transport.write(bytes(total))
        await self.until(lambda: held)
        await self.pause(0.3)
        seen = page.count
        self.assertLess(seen, 4 << 20)
        await self.pause(0.2)
        self.assertEqual(page.count, seen)
        while page.count < total:
            while held:
                held.pop(0)()
            await self.pause(0.01)
        page.transport.abortConnection()
        while not list(self.kept.glob("*.cast")):
            while held:
                held.pop(0)()
            await self.pause(0.01)
        self.assertEqual(len(self.recorded()), total)
