"""Handles: found again after a restart, ended with their ticket, nobody else's."""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.core.ticket import hash_id
from gateway.rpc.handle import Handle, hash_handle
from gateway.rpc.handles import LONGEST, Handles
from gateway.rpc.store import Store
from gateway.wire.ticket_json import Rights
from tests.rpc.keeping import NOW, KeepingCase, SlowThread, at_once, crash
from tests.support import ReactorTestCase

TICKET = hash_id("11111111-1111-4111-8111-111111111111")
OTHER = hash_id("22222222-2222-4222-8222-222222222222")
RIGHTS = Rights(("domain:start", "read"), ("web-*",))


def found(handles: Handles, text: str, principal: str) -> Handle | None:
    try:
        return handles.find(text, principal)
    except errors.NoHandle:
        return None


def observe(case: SynchronousTestCase, observer: Any) -> None:
    globalLogPublisher.addObserver(observer)
    case.addCleanup(globalLogPublisher.removeObserver, observer)


class HandleTests(KeepingCase):
    """Handles in one file."""

    def setUp(self) -> None:
        super().setUp()
        self.handles = Handles(self.store(), self.wall)

    def open(
        self, principal: str = "alice", target: str = "kvm1", ticket: bytes = TICKET, ttl: float = 60
    ) -> tuple[str, Handle]:
        opening = self.handles.open(principal, target, ticket=ticket, rights=RIGHTS, ttl=ttl, name="/system")
        return self.ok(opening)

    def again(self) -> Handles:
        """The handles after a clean restart."""
        self.ok(self.handles.stop())
        self.close()
        self.handles = Handles(self.store(), self.wall)
        return self.handles

    def crashed(self) -> Handles:
        """The handles another process would find if this one was killed now."""
        return Handles(self.store(crash(self.path, self.directory)), self.wall)

    def test_open(self) -> None:
        """A handle is 32 random characters, and what was opened is found by it."""
        text, handle = self.open()
        self.assertRegex(text, r"\A[A-Za-z0-9_-]{32}\Z")
        self.assertIs(self.handles.find(text, "alice"), handle)
        self.assertIs(self.handles.get(handle.id, "alice"), handle)
        self.assertEqual(self.handles.list("alice"), [handle])
        self.assertNotEqual(self.open()[0], text)

    def test_restart(self) -> None:
        """Everything of a handle survives a restart and a crash, but for its text."""
        text, handle = self.open()
        subscription = self.ok(self.handles.subscribe(handle, ["lifecycle", "reboot"], "u" * 36, 41))
        self.ok(self.handles.renew(handle, 100))
        for handles in (self.crashed(), self.again()):
            known = handles.find(text, "alice")
            self.assertEqual(
                (known.target, known.ticket, known.rights, known.readonly, known.name, known.expires),
                ("kvm1", TICKET, RIGHTS, False, "/system", NOW + 100),
            )
            self.assertEqual(handles.subscription(subscription.sub, "alice"), (known, subscription))

    def test_renewed_ticket(self) -> None:
        """A handle that ends with its ticket goes on when that is renewed, as long as it was wanted for."""
        opened = [
            self.ok(self.handles.open("alice", "kvm1", ticket=ticket, rights=RIGHTS, ttl=ttl, left=10))[1]
            for ticket, ttl in ((TICKET, 60), (TICKET, 5), (b"another", 60), (b"", 60))
        ]
        self.assertEqual([it.expires - NOW for it in opened], [10, 5, 10, 10])
        for left, ends in ((30, 30), (20, 30), (90, 60)):
            self.handles.renew_ticket(TICKET, left)
            self.handles.renew_ticket(b"", left)
            self.assertEqual([it.expires - NOW for it in opened], [ends, 5, 10, 10])
        self.assertEqual(self.ok(self.handles.renew(opened[1], 100, 40)), NOW + 40)
        self.handles.renew_ticket(TICKET, 90)
        ends_again = sorted(it.expires - NOW for it in self.again().list("alice"))
        self.assertEqual(ends_again, [10, 10, 60, 90])

    def test_targets(self) -> None:
        """The targets of handles are known, until nobody has one."""
        _, one = self.open()
        self.open(target="kvm2")
        self.assertEqual(self.handles.targets(), {"kvm1", "kvm2"})
        self.ok(self.handles.close(one))
        self.assertEqual(self.handles.targets(), {"kvm2"})

    def test_no_rights_and_read_only(self) -> None:
        """A handle of somebody without a ticket, and one that may only read, stay what they are."""
        opening = self.handles.open("cn=op", "kvm1", ticket=b"", rights=None, ttl=5, readonly=True)
        text, _ = self.ok(opening)
        known = self.again().find(text, "cn=op")
        self.assertEqual((known.rights, known.readonly, known.ticket), (None, True, b""))

    def test_of_another(self) -> None:
        """A handle, its cookie's handle and its subscriptions are for their principal only."""
        text, handle = self.open()
        sub = self.ok(self.handles.subscribe(handle, ["lifecycle"], None, 0)).sub
        self.assertRaises(errors.NoHandle, self.handles.find, text, "mallory")
        self.assertRaises(errors.NoHandle, self.handles.get, handle.id, "mallory")
        self.assertRaises(errors.NoHandle, self.handles.subscription, sub, "mallory")
        self.assertEqual(self.handles.list("mallory"), [])

    def test_whole_hash(self) -> None:
        """A handle is compared as a whole: beginning alike is not enough."""
        _, handle = self.open()
        alike = handle.id + bytes(16)
        self.assertRaises(errors.NoHandle, self.handles._get, alike, "alice")

    def test_unknown(self) -> None:
        """Whatever else is sent is no handle."""
        for text in ("", "a" * 32, "\ud800", "é" * 32, "a" * 100_000):
            self.assertRaises(errors.NoHandle, self.handles.find, text, "alice")
        self.assertRaises(errors.NoHandle, self.handles.get, b"", "alice")

    def test_expiry(self) -> None:
        """A handle is gone at the very second it ends, from the file too at the next look."""
        text, handle = self.open(ttl=60)
        sub = self.ok(self.handles.subscribe(handle, ["lifecycle"], None, 0)).sub
        self.now += 59.9
        self.handles.find(text, "alice")
        self.now += 0.1
        self.assertRaises(errors.NoHandle, self.handles.find, text, "alice")
        self.assertRaises(errors.NoHandle, self.handles.subscription, sub, "alice")
        self.assertEqual(self.handles.list("alice"), [])
        self.no(errors.NoHandle, self.handles.renew(handle, 60))
        self.assertEqual(self.handles.purge(), [handle])
        self.now = NOW
        self.assertEqual(len(self.again()), 0)

    def test_expired_while_away(self) -> None:
        """What ended while the gateway was down is not found."""
        text, _ = self.open(ttl=60)
        self.ok(self.handles.stop())
        self.now += 60
        self.assertRaises(errors.NoHandle, self.again().find, text, "alice")

    def test_renew(self) -> None:
        """A renewal counts from now, is bounded, and survives a crash."""
        text, handle = self.open(ttl=60)
        self.now += 30
        self.assertEqual(self.ok(self.handles.renew(handle, 60)), NOW + 90)
        self.assertEqual(self.ok(self.handles.renew(handle, 1e9)), self.now + LONGEST)
        self.assertEqual(self.crashed().find(text, "alice").expires, self.now + LONGEST)
        for ttl in (0, -1, float("nan")):
            self.assertEqual(self.no(errors.BadArguments, self.handles.renew(handle, ttl)).path, "ttl")

    def test_close(self) -> None:
        """What is closed stays closed, whoever asks and whatever happens."""
        text, handle = self.open()
        self.ok(self.handles.close(handle))
        self.assertIsNone(found(self.handles, text, "alice"))
        self.assertIsNone(found(self.crashed(), text, "alice"))
        for refused in (
            self.handles.close(handle),
            self.handles.renew(handle, 5),
            self.handles.subscribe(handle, ["lifecycle"], None, 0),
        ):
            self.no(errors.NoHandle, refused)

    def test_ticket_ends(self) -> None:
        """The end of a ticket ends its handles for good, and no other's."""
        (one, first), (two, second) = self.open(), self.open()
        other, _ = self.open(ticket=OTHER)
        self.assertEqual(self.handles.end_ticket(TICKET), [first, second])
        self.assertEqual(self.handles.end_ticket(TICKET), [])
        for handles in (self.handles, self.crashed(), self.again()):
            self.assertIsNone(found(handles, one, "alice"))
            self.assertIsNone(found(handles, two, "alice"))
            handles.find(other, "alice")

    def test_ticket_of_before(self) -> None:
        """A ticket that the engine gave again after a restart still ends the handles of before."""
        text, _ = self.open()
        self.assertEqual(len(self.again().end_ticket(TICKET)), 1)
        self.assertIsNone(found(self.again(), text, "alice"))

    def test_no_ticket_ends_nothing(self) -> None:
        """Those who have no ticket have none in common."""
        text, _ = self.open(ticket=b"")
        self.assertEqual(self.handles.end_ticket(b""), [])
        self.handles.find(text, "alice")

    def test_ticket_ends_while_opening(self) -> None:
        """A ticket that ends while a handle is written down leaves none."""
        self.close()
        thread = SlowThread()
        handles = Handles(self.store(in_thread=thread), self.wall)
        opening = Deferred.fromCoroutine(handles.open("alice", "kvm1", ticket=TICKET, rights=None, ttl=60))
        self.assertNoResult(opening)
        self.assertEqual(len(handles.end_ticket(TICKET)), 1)
        thread.go()
        self.failureResultOf(opening, errors.Expired)
        self.assertEqual(len(self.crashed()), 0)
        closing = Deferred.fromCoroutine(self.stores.pop(0).close())
        thread.go()
        self.successResultOf(closing)

    def test_durable_before_the_answer(self) -> None:
        """Nothing is answered before the file has it; who stops waiting leaves no handle behind."""
        self.close()
        thread = SlowThread()
        handles = Handles(self.store(in_thread=thread), self.wall)
        opening = Deferred.fromCoroutine(handles.open("alice", "kvm1", ticket=TICKET, rights=None, ttl=60))
        self.assertNoResult(opening)
        self.assertEqual(len(self.crashed()), 0)
        thread.go()
        _, handle = self.successResultOf(opening)
        self.assertEqual(len(self.crashed()), 1)
        steps: list[Callable[[], Coroutine[Deferred[Any], Any, object]]] = [
            lambda: handles.renew(handle, 90),
            lambda: handles.subscribe(handle, ["lifecycle"], None, 0),
            lambda: handles.close(handle),
        ]
        for step in steps:
            waiting = Deferred.fromCoroutine(step())
            self.assertNoResult(waiting)
            thread.go()
            self.successResultOf(waiting)
        opening = Deferred.fromCoroutine(handles.open("alice", "kvm1", ticket=TICKET, rights=None, ttl=60))
        opening.addErrback(lambda _: None)
        opening.cancel()
        self.assertEqual(len(handles), 0)
        stopping = Deferred.fromCoroutine(handles.stop())
        thread.go()
        self.successResultOf(stopping)
        self.assertEqual(len(self.crashed()), 0)
        closing = Deferred.fromCoroutine(self.stores.pop(0).close())
        thread.go()
        self.successResultOf(closing)

    def test_bounds(self) -> None:
        """One principal has a share of the handles, all together have a number; what is over makes room."""
        self.close()
        self.handles = Handles(self.store(), self.wall, maximum=3, per_principal=2)
        self.open(ttl=10)
        self.open(ttl=60)
        self.no(errors.Busy, self.handles.open("alice", "kvm1", ticket=TICKET, rights=None, ttl=60))
        self.open("bob")
        self.no(errors.Busy, self.handles.open("carol", "kvm1", ticket=TICKET, rights=None, ttl=60))
        self.now += 10
        self.open("carol")
        self.assertEqual(len(self.handles), 3)

    def test_bad_arguments(self) -> None:
        """What would not fit in the file is refused before anything happens."""
        for path, value in (("name", "x" * 1025), ("name", "\ud800"), ("target", "x" * 1025)):
            given: dict[str, Any] = {"target": "kvm1", path: value}
            opening = self.handles.open("alice", ticket=TICKET, rights=None, ttl=60, **given)
            self.assertEqual(self.no(errors.BadArguments, opening).path, path)
        self.assertEqual(len(self.handles), 0)

    def test_generation(self) -> None:
        """The generation of a target rises with each connection, over restarts and crashes."""
        self.assertEqual([self.handles.connected("kvm1") for _ in range(3)], [1, 2, 3])
        text, handle = self.open()
        self.assertEqual(handle.generation, 3)
        crashed = self.crashed()
        self.assertGreater(crashed.connected("kvm1"), 3)
        known = crashed.find(text, "alice")
        self.assertEqual(known.generation, 3)
        self.assertGreater(self.again().connected("kvm1"), 3)
        self.assertEqual(self.handles.generation("kvm2"), 0)
        known = self.handles.find(text, "alice")
        number = self.handles.reopened(known)
        self.assertEqual((known.generation, self.handles.generation("kvm1")), (number, number))
        self.assertEqual(self.again().find(text, "alice").generation, number)

    def test_subscriptions(self) -> None:
        """Subscriptions are bounded, remember what was seen, and never forget it backwards."""
        _, handle = self.open()
        subs = [self.ok(self.handles.subscribe(handle, ["lifecycle"], None, 7)).sub for _ in range(16)]
        self.no(errors.Busy, self.handles.subscribe(handle, ["lifecycle"], None, 7))
        self.ok(self.handles.unsubscribe(handle, subs[0]))
        self.no(errors.NoHandle, self.handles.unsubscribe(handle, subs[0]))
        self.handles.ack(handle, subs[1], 9)
        self.handles.ack(handle, subs[1], 8)
        self.assertRaises(errors.NoHandle, self.handles.ack, handle, subs[0], 9)
        self.assertRaises(errors.BadArguments, self.handles.ack, handle, subs[1], 2**63)
        for kinds in ([], ["x" * 33], [""], [str(number) for number in range(33)]):
            self.no(errors.BadArguments, self.handles.subscribe(handle, kinds, None, 0))
        self.no(errors.BadArguments, self.handles.subscribe(handle, ["lifecycle"], "u" * 37, 0))
        known = self.again().subscription(subs[1], "alice")[1]
        self.assertEqual((known.seq, known.kinds), (9, ("lifecycle",)))
        self.assertRaises(errors.NoHandle, self.handles.subscription, subs[0], "alice")

    def test_no_secret_anywhere(self) -> None:
        """Neither file, nor log, nor what is printed of a handle holds its text; the file has its hash."""
        events: list[LogEvent] = []
        observe(self, events.append)
        text, handle = self.open()
        self.ok(self.handles.renew(handle, 90))
        shown = repr(handle) + repr(self.handles.list("alice"))
        written = b"".join(file.read_bytes() for file in self.directory.iterdir() if file.is_file())
        self.assertNotIn(text.encode(), written)
        self.assertIn(hash_handle(text), written)
        self.assertNotIn(text, shown + repr(events))
        self.assertNotIn(repr(handle.hash), shown)

    def test_ten_thousand(self) -> None:
        """Ten thousand handles open within seconds, come back within one, and end with their ticket."""
        self.close()
        thread = SlowThread()
        handles = Handles(self.store(in_thread=thread), self.wall)
        began = time.process_time()
        opening = [
            Deferred.fromCoroutine(handles.open("alice", "kvm1", ticket=TICKET, rights=RIGHTS, ttl=60))
            for _ in range(10_000)
        ]
        thread.go()
        texts = [self.successResultOf(one)[0] for one in opening]
        self.assertLess(time.process_time() - began, 5)
        began = time.process_time()
        crashed = self.crashed()
        self.assertLess(time.process_time() - began, 3)
        self.assertTrue(all(found(crashed, text, "alice") for text in texts))
        self.assertEqual(len(handles.end_ticket(TICKET)), 10_000)
        closing = Deferred.fromCoroutine(handles.stop())
        thread.go()
        self.successResultOf(closing)
        self.assertEqual(len(self.crashed()), 0)
        closing = Deferred.fromCoroutine(self.stores.pop(0).close())
        thread.go()
        self.successResultOf(closing)


class FullTests(KeepingCase):
    """A disk that takes no more."""

    def test_full(self) -> None:
        """When the file is full opening is refused; ending is not, makes room, and is written down later."""
        store = self.store(size=128 << 10)
        handles = Handles(store, self.wall)
        opened: list[object] = []
        refused: list[Failure] = []
        while not refused and len(opened) < 1000:
            waiting = handles.open("alice", "kvm1", ticket=TICKET, rights=None, ttl=60, name="x" * 1000)
            Deferred.fromCoroutine(waiting).addCallbacks(opened.append, refused.append)
        self.assertIsInstance(refused[0].value, errors.Busy)
        self.assertGreater(len(opened), 10)
        self.assertEqual(len(handles), len(opened))
        self.assertEqual(len(handles.end_ticket(TICKET)), len(opened))
        text, _ = self.ok(handles.open("alice", "kvm1", ticket=OTHER, rights=None, ttl=60))
        crashed = Handles(self.store(crash(self.path, self.directory)), self.wall)
        self.assertEqual(len(crashed), 1)
        crashed.find(text, "alice")

    def test_retried(self) -> None:
        """What could not be written down is written later: a handle ended meanwhile does not come back."""
        store = self.store()
        handles = Handles(store, self.wall)
        text, handle = self.ok(handles.open("alice", "kvm1", ticket=TICKET, rights=None, ttl=60))
        database = store._database
        database.execute("PRAGMA query_only = ON")
        self.no(errors.Busy, handles.open("alice", "kvm1", ticket=OTHER, rights=None, ttl=60))
        self.assertEqual(handles.end_ticket(TICKET), [handle])
        handles.connected("kvm1")
        self.ok(handles.stop())
        database.execute("PRAGMA query_only = OFF")
        self.now += 1
        handles.purge()
        crashed = Handles(self.store(crash(self.path, self.directory)), self.wall)
        self.assertIsNone(found(crashed, text, "alice"))
        self.assertEqual((len(crashed), crashed.generation("kvm1")), (0, 2))


class StoreTests(KeepingCase):
    """The file itself."""

    def setUp(self) -> None:
        super().setUp()
        self.events: list[str] = []

        def note(event: LogEvent) -> None:
            if event.get("log_namespace", "").startswith("gateway.rpc"):
                self.events.append(event["log_format"] or "")

        observe(self, note)

    def fill(self) -> str:
        handles = Handles(self.store(), self.wall)
        opening = [handles.open("alice", f"kvm{n}", ticket=TICKET, rights=RIGHTS, ttl=60) for n in range(100)]
        texts = [self.ok(one)[0] for one in opening]
        self.close()
        return texts[0]

    def test_mode(self) -> None:
        """The file and what belongs to it are for their owner only, also when they were not."""
        self.path.touch(0o644)
        Handles(self.store(), self.wall).connected("kvm1")
        modes = {file.name: file.stat().st_mode & 0o777 for file in self.directory.iterdir()}
        self.assertEqual(modes, {"rpc.db": 0o600, "rpc.db-wal": 0o600})

    def test_damaged(self) -> None:
        """A file that is no database, cut short or not ours is moved aside, with a line in the log."""
        self.fill()
        good = self.path.read_bytes()
        other = self.directory / "other.db"
        with sqlite3.connect(other) as database:
            database.execute("CREATE TABLE handle (hash BLOB)")
            database.execute("PRAGMA user_version = 1")
        database.close()
        future = good[:60] + (9).to_bytes(4, "big") + good[64:]
        for content in (b"no database at all " * 99, good[: len(good) // 2], other.read_bytes(), future):
            self.events.clear()
            self.path.write_bytes(content)
            handles = Handles(self.store(), self.wall)
            self.assertEqual(len(handles), 0)
            self.ok(handles.open("alice", "kvm1", ticket=TICKET, rights=None, ttl=60))
            self.close()
            self.assertEqual(len([event for event in self.events if "cannot be used" in event]), 1)
            self.assertEqual((self.directory / "rpc.db.damaged").read_bytes()[18:], content[18:])

    def test_flipped_bits(self) -> None:
        """Wherever bits of the file have changed, the gateway starts, works, and invents no handle."""
        text = self.fill()
        good = self.path.read_bytes()
        choose = random.Random(6)
        for _ in range(60):
            bad = bytearray(good)
            for _ in range(choose.choice((1, 5, 200))):
                bad[choose.randrange(len(bad))] ^= 1 << choose.randrange(8)
            self.path.write_bytes(bad)
            (self.directory / "rpc.db-wal").unlink(missing_ok=True)
            handles = Handles(self.store(), self.wall)
            self.assertLessEqual(len(handles), 100)
            known = found(handles, text, "alice")
            self.assertTrue(known is None or known.ticket)
            opening = Deferred.fromCoroutine(
                handles.open("bob", "kvm1", ticket=OTHER, rights=None, ttl=60)
            ).addErrback(lambda failure: failure.trap(errors.Busy))
            self.successResultOf(opening)
            self.close()

    def test_no_text(self) -> None:
        """Where what is damaged is not even text, the file is set aside, too."""
        text = self.fill()
        good = self.path.read_bytes()
        bad = good.replace(b"CREATE TABLE handle", b"CREATE TABL\xd5 handle")
        self.assertNotEqual(bad, good)
        self.path.write_bytes(bad)
        self.assertIsNone(found(Handles(self.store(), self.wall), text, "alice"))
        self.assertTrue((self.directory / "rpc.db.damaged").exists())

    def test_one_process(self) -> None:
        """The file has one user: a second gateway is refused, and neither loses anything."""
        self.store()
        self.assertRaises(errors.ConfigError, Store, self.path, at_once)
        self.assertEqual(self.events, [])

    def test_nowhere(self) -> None:
        """A file that cannot be made is a mistake of the configuration, said so."""
        self.assertRaises(errors.ConfigError, Store, self.directory / "none" / "rpc.db", at_once)
        self.assertRaises(errors.ConfigError, Store, self.directory, at_once)
        (self.directory / "link").symlink_to(self.path)
        self.assertRaises(errors.ConfigError, Store, self.directory / "link", at_once)

    def test_bounded(self) -> None:
        """No more jobs wait than may, and one that fails harms no other."""
        thread = SlowThread()
        store = Store(self.path, thread, waiting=3)

        def job(statement: str) -> Deferred[object]:
            return store.write(lambda database: database.execute(statement).fetchall())

        running = job("INSERT INTO target VALUES ('a', 1)")
        waiting = [job("INSERT INTO target VALUES ('b', 1)"), job("nonsense"), job("SELECT name FROM target")]
        self.failureResultOf(job("SELECT 1"), errors.Busy)
        thread.go()
        self.successResultOf(running)
        self.successResultOf(waiting[0])
        self.failureResultOf(waiting[1], errors.Busy)
        self.assertEqual(self.successResultOf(waiting[2]), [("a",), ("b",)])
        bug: Deferred[object] = store.write(lambda _: int("x"))
        fine = job("SELECT 1")
        thread.go()
        self.failureResultOf(bug, ValueError)
        self.assertEqual(self.successResultOf(fine), [(1,)])
        closing = Deferred.fromCoroutine(store.close())
        thread.go()
        self.successResultOf(closing)
        self.failureResultOf(job("SELECT 1"), errors.Busy)


class ThreadTests(ReactorTestCase):
    """With a thread that is one."""

    async def test_thread(self) -> None:
        """Opening from a real thread gives what the next process finds."""
        directory = Path(mkdtemp())
        self.addCleanup(shutil.rmtree, directory)
        store = Store(directory / "rpc.db", deferToThread)
        handles = Handles(store, lambda: NOW)
        opened = [
            await handles.open("alice", "kvm1", ticket=TICKET, rights=RIGHTS, ttl=60) for _ in range(20)
        ]
        handles.ack(opened[0][1], (await handles.subscribe(opened[0][1], ["reboot"], None, 3)).sub, 5)
        await handles.stop()
        await store.close()
        store = Store(directory / "rpc.db", deferToThread)
        handles = Handles(store, lambda: NOW)
        for text, handle in opened:
            self.assertEqual(handles.find(text, "alice").hash, handle.hash)
        (known,) = handles.find(opened[0][0], "alice").subscriptions.values()
        self.assertEqual(known.seq, 5)
        await store.close()


class HandleMachine(RuleBasedStateMachine):
    """Handles against a model of them, with crashes, restarts and time that passes."""

    texts = Bundle("texts")

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.directory = Path(mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.path = self.directory / "rpc.db"
        self.store = Store(self.path, at_once)
        self.handles = Handles(self.store, lambda: self.now)
        #: text: principal, ticket, end
        self.model: dict[str, tuple[str, bytes, float]] = {}
        self.generation = 0

    def teardown(self) -> None:
        self.wait(self.store.close())
        shutil.rmtree(self.directory)

    def wait(self, answer: Coroutine[Deferred[Any], Any, Any]) -> Any:
        results: list[Any] = []
        Deferred.fromCoroutine(answer).addBoth(results.append)
        return results[0]

    @rule(
        target=texts,
        principal=st.sampled_from("ab"),
        ticket=st.sampled_from([TICKET, OTHER, b""]),
        ttl=st.integers(1, 50),
    )
    def open(self, principal: str, ticket: bytes, ttl: int) -> str:
        opening = self.handles.open(principal, "kvm1", ticket=ticket, rights=RIGHTS, ttl=ttl)
        text: str = self.wait(opening)[0]
        self.model[text] = (principal, ticket, self.now + ttl)
        return text

    @rule(text=texts, ttl=st.integers(1, 50))
    def renew(self, text: str, ttl: int) -> None:
        principal, ticket, end = self.model.get(text, ("a", b"", 0))
        handle = found(self.handles, text, principal)
        assert (handle is not None) == (end > self.now)
        if handle is not None:
            assert self.wait(self.handles.renew(handle, ttl)) == self.now + ttl
            self.model[text] = (principal, ticket, self.now + ttl)

    @rule(text=consumes(texts))
    def close(self, text: str) -> None:
        principal, _, end = self.model.pop(text, ("a", b"", 0))
        if end > self.now:
            self.wait(self.handles.close(self.handles.find(text, principal)))

    @rule(ticket=st.sampled_from([TICKET, OTHER, b""]))
    def end_ticket(self, ticket: bytes) -> None:
        self.handles.end_ticket(ticket)
        if ticket:
            self.model = {text: known for text, known in self.model.items() if known[1] != ticket}

    @rule(seconds=st.integers(1, 40))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def purge(self) -> None:
        self.handles.purge()
        assert len(self.handles) == len([1 for *_, end in self.model.values() if end > self.now])

    @rule()
    def connect(self) -> None:
        number = self.handles.connected("kvm1")
        assert number > self.generation
        self.generation = number

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        path = self.path
        if not clean:
            path = crash(self.path, self.directory)
        self.wait(self.store.close())
        self.path = path
        self.store = Store(path, at_once)
        self.handles = Handles(self.store, lambda: self.now)

    @invariant()
    def same(self) -> None:
        for text, (principal, ticket, end) in self.model.items():
            handle = found(self.handles, text, principal)
            assert (handle is not None) == (end > self.now)
            assert found(self.handles, text, "c") is None
            if handle is not None:
                assert (handle.ticket, handle.expires, handle.rights) == (ticket, end, RIGHTS)
        for principal in "ab":
            live = [1 for owner, _, end in self.model.values() if owner == principal and end > self.now]
            assert len(self.handles.list(principal)) == len(live)


class MachineTests(SynchronousTestCase):
    """What holds in whatever order things happen."""

    def test_machine(self) -> None:
        """A handle is found if and only if it was opened, not ended, and its time is not over."""
        run_state_machine_as_test(
            HandleMachine,
            settings=settings(
                max_examples=40,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
