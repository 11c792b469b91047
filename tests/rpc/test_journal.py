"""The journal: nothing is done twice, and whoever asks again is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from gateway import errors
from gateway.rpc.handles import Handles
from gateway.rpc.journal import KEPT, Entry, Journal, Request, Result
from gateway.rpc.store import InThread
from gateway.wire.libvirt_error import LibvirtError
from tests.rpc.keeping import KeepingCase, SlowThread, at_once, crash

#: Opens handles and writes by request, and says on its output what is durable, until it is killed.
WRITER = """
import os, sys
from pathlib import Path
from twisted.internet.defer import Deferred
from gateway.rpc.handles import Handles
from gateway.rpc.journal import Journal, Request
from gateway.rpc.store import Store
from tests.rpc.keeping import NOW, at_once

store = Store(Path(sys.argv[1]), at_once)
handles = Handles(store, lambda: NOW)
journal = Journal(store, lambda: NOW)

def say(*words):
    os.write(1, " ".join(words).encode() + b"\\n")

async def write():
    for number in range(1_000_000):
        text, handle = await handles.open("alice", "kvm1", ticket=b"", rights=None, ttl=60)
        say("open", text)
        if number % 3 == 0:
            await handles.close(handle)
            say("close", text)

        async def do():
            say("begun", str(number))
            return {"id": number}

        request = Request("alice", "kvm1", f"r{number}", "DOMAIN_CREATE", b"")
        await journal.run(request, do)
        say("done", str(number))

Deferred.fromCoroutine(write()).addErrback(lambda failure: failure.printTraceback())
"""
UNKNOWN = LibvirtError(42, 10, "no domain", 2, ("a", None, "b"), (1, 2))


class JournalTests(KeepingCase):
    """One journal."""

    def setUp(self) -> None:
        super().setUp()
        self.done = 0
        self.asked: list[Entry] = []
        self.verdict: Result | Literal[False] | None = None
        self.journal = self.make()

    def make(self, path: Path | None = None, in_thread: InThread = at_once, **options: Any) -> Journal:
        return Journal(self.store(path, in_thread=in_thread), self.wall, self.settle, **options)

    def again(self, **options: Any) -> Journal:
        """The journal after a restart."""
        self.close()
        self.journal = self.make(**options)
        return self.journal

    async def settle(self, entry: Entry) -> Result | Literal[False] | None:
        self.asked.append(entry)
        return self.verdict

    async def do(self) -> Result:
        self.done += 1
        return {"id": self.done, "blob": b"\x00\xff"}

    def failing(self, error: BaseException) -> Callable[[], Awaitable[Result]]:
        async def do() -> Result:
            self.done += 1
            raise error

        return do

    def request(self, request_id: str = "r1", principal: str = "alice", **other: Any) -> Request:
        fields = {"target": "kvm1", "procedure": "DOMAIN_CREATE", "arguments": b"\x00\x01", "subject": "u1"}
        return Request(principal, request_id=request_id, **(fields | other))

    def executed(self, request_id: str = "r1") -> str:
        return self.ok(self.journal.executed("alice", request_id))

    def test_once(self) -> None:
        """The same request gives the recorded result and is not done again, also after a restart."""
        self.assertEqual(self.ok(self.journal.run(self.request(), self.do)), {"id": 1, "blob": b"\x00\xff"})
        for restarted in (False, True):
            journal = self.again() if restarted else self.journal
            again = self.ok(journal.run(self.request(), self.do))
            self.assertEqual(again, {"id": 1, "blob": "AP8="})
        self.assertEqual((self.done, self.executed()), (1, "yes"))

    def test_nothing_in_it(self) -> None:
        """A result without anything in it is a result."""

        async def do() -> Result:
            self.done += 1
            return {}

        self.ok(self.journal.run(self.request(), do))
        self.assertEqual((self.ok(self.journal.run(self.request(), do)), self.done), ({}, 1))

    def test_failure(self) -> None:
        """What the hypervisor refused is refused again in the same words, without asking it."""
        self.no(LibvirtError, self.journal.run(self.request(), self.failing(UNKNOWN)))
        for restarted in (False, True):
            journal = self.again() if restarted else self.journal
            error = self.no(LibvirtError, journal.run(self.request(), self.do))
            self.assertEqual(error.details, UNKNOWN.details)
        self.assertEqual((self.done, self.executed()), (1, "no"))

    def test_long_failure(self) -> None:
        """Of a refusal with a very long text the numbers are kept."""
        self.no(LibvirtError, self.journal.run(self.request(), self.failing(LibvirtError(9, 10, "x" * 9999))))
        error = self.no(LibvirtError, self.journal.run(self.request(), self.do))
        self.assertEqual((error.code, error.domain, error.text), (9, 10, LibvirtError.default))

    def test_never_asked(self) -> None:
        """What did not reach the hypervisor may be tried again."""
        for error in (
            errors.TargetDown(),
            errors.Busy(),
            errors.Denied("domain:start"),
            errors.Interrupted(maybe_executed=False),
            errors.DeadlinePassed(maybe_executed=False),
        ):
            self.no(type(error), self.journal.run(self.request(), self.failing(error)))
            self.assertEqual(self.executed(), "no")
        self.assertEqual(self.ok(self.journal.run(self.request(), self.do))["id"], 6)

    def test_maybe(self) -> None:
        """What may have been executed is not done again, whoever asks, however it was interrupted."""
        broken = (
            errors.Interrupted(maybe_executed=True),
            errors.DeadlinePassed(maybe_executed=True),
            errors.UpstreamFailed(),
            KeyError("a bug"),
        )
        for number, error in enumerate(broken):
            self.no(type(error), self.journal.run(self.request(f"r{number}"), self.failing(error)))
        for restarted in (False, True):
            journal = self.again() if restarted else self.journal
            for number in range(len(broken)):
                again = self.no(errors.Interrupted, journal.run(self.request(f"r{number}"), self.do))
                self.assertTrue(again.maybe_executed)
                self.assertEqual(self.executed(f"r{number}"), "unknown")
        self.assertEqual(self.done, len(broken))

    def test_cancelled(self) -> None:
        """A write whose caller has left is open; one cancelled before it began has not happened."""
        stuck: Deferred[Result] = Deferred()
        running = Deferred.fromCoroutine(self.journal.run(self.request(), lambda: stuck))
        running.addErrback(lambda _: None)
        running.cancel()
        self.no(errors.Interrupted, self.journal.run(self.request(), self.do))
        self.close()
        thread = SlowThread()
        self.journal = self.make(in_thread=thread)
        self.leave(self.request("r2"))
        waiting = Deferred.fromCoroutine(self.journal.run(self.request("r2"), self.do))
        self.leave(self.request())
        thread.go()
        self.assertEqual(self.successResultOf(waiting)["id"], 1)
        known = Deferred.fromCoroutine(self.journal.executed("alice", "r1"))
        thread.go()
        self.assertEqual(self.successResultOf(known), "unknown")
        closing = Deferred.fromCoroutine(self.stores.pop().close())
        thread.go()
        self.successResultOf(closing)

    def leave(self, request: Request) -> None:
        """Ask, and do not wait."""
        running = Deferred.fromCoroutine(self.journal.run(request, self.do))
        running.addErrback(lambda _: None)
        running.cancel()

    def test_bound(self) -> None:
        """An id stands for one target, procedure and set of arguments, and for one principal's."""
        self.ok(self.journal.run(self.request(), self.do))
        for other in ({"target": "kvm2"}, {"procedure": "DOMAIN_DESTROY"}, {"arguments": b"\x00\x02"}):
            error = self.no(errors.BadArguments, self.journal.run(self.request(**other), self.do))
            self.assertEqual(error.path, "request_id")
        self.assertEqual(self.done, 1)
        self.ok(self.journal.run(self.request(principal="bob"), self.do))
        self.assertEqual((self.done, self.ok(self.journal.executed("carol", "r1"))), (2, "no"))

    @settings(max_examples=60, deadline=None)
    @given(st.text(max_size=140))
    def test_ids(self, text: str) -> None:
        """An id has 1 to 128 printable characters."""
        if 0 < len(text) <= 128 and text.isprintable():
            self.request(text)
        else:
            self.assertRaises(errors.BadArguments, self.request, text)

    def test_edges_of_ids(self) -> None:
        """The longest id is one, one more is none, and neither is an empty one or one with a line in it."""
        self.request("x" * 128)
        for text in ("", "x" * 129, "a\nb", "a\0", "\ud800"):
            self.assertRaises(errors.BadArguments, self.request, text)

    def test_while_it_runs(self) -> None:
        """The same request waits for the end of the first, and is answered alike."""
        end: Deferred[Result] = Deferred()
        first = Deferred.fromCoroutine(self.journal.run(self.request(), lambda: end))
        others = [Deferred.fromCoroutine(self.journal.run(self.request(), self.do)) for _ in range(3)]
        others[1].addErrback(lambda _: None)
        others[1].cancel()
        self.assertEqual(self.executed(), "unknown")
        self.assertNoResult(others[0])
        end.callback({"id": 7})
        for answer in (first, others[0], others[2]):
            self.assertEqual(self.successResultOf(answer), {"id": 7})
        self.assertEqual(self.done, 0)

    def test_while_it_fails(self) -> None:
        """When the first did not reach the hypervisor, one of those who wait does it, and the others wait."""
        end: Deferred[Result] = Deferred()
        first = Deferred.fromCoroutine(self.journal.run(self.request(), lambda: end))
        others = [Deferred.fromCoroutine(self.journal.run(self.request(), self.do)) for _ in range(3)]
        end.errback(errors.TargetDown())
        self.failureResultOf(first, errors.TargetDown)
        self.assertEqual([self.successResultOf(answer)["id"] for answer in others], [1, 1, 1])

    def test_begun_before_done(self) -> None:
        """The disk has the beginning before the hypervisor is asked, the end before the client knows."""
        self.close()
        thread = SlowThread()
        self.journal = self.make(in_thread=thread)
        running = Deferred.fromCoroutine(self.journal.run(self.request(), self.do))
        self.assertEqual(self.done, 0)
        begin, thread.waiting = thread.waiting, []
        begin[0][0].callback(None)
        self.assertEqual(self.done, 1)
        self.assertNoResult(running)
        crashed = self.make(crash(self.path, self.directory))
        self.no(errors.Interrupted, crashed.run(self.request(), self.do))
        thread.go()
        self.successResultOf(running)
        self.assertEqual(self.done, 1)
        closing = Deferred.fromCoroutine(self.stores.pop(0).close())
        thread.go()
        self.successResultOf(closing)

    def test_settled(self) -> None:
        """Where the hypervisor's state tells, an entry without an end gets one at last."""
        ends = errors.Interrupted(maybe_executed=True)
        for name in ("r1", "r2", "r3"):
            request = self.request(name, subject=f"u{name}", before=-1)
            self.no(errors.Interrupted, self.journal.run(request, self.failing(ends)))
        self.no(errors.Interrupted, self.journal.run(self.request("r4", target="kvm2"), self.failing(ends)))
        began, self.now = self.now, self.now + 5
        self.assertEqual(self.ok(self.again().settle("kvm1")), 0)
        self.assertEqual(self.asked[0], Entry("alice", "r1", "kvm1", "DOMAIN_CREATE", "ur1", began, -1))
        self.assertEqual(len(self.asked), 3)
        self.verdict = {"id": 7}
        self.assertEqual(self.ok(self.journal.run(self.request("r1"), self.do)), {"id": 7})
        self.verdict = False
        self.assertEqual(self.ok(self.journal.run(self.request("r2"), self.do))["id"], 5)
        self.assertEqual(self.ok(self.journal.run(self.request("r2"), self.do))["id"], 5)
        self.assertEqual(self.ok(self.journal.settle("kvm1")), 1)
        self.assertEqual([self.executed(f"r{n}") for n in range(1, 5)], ["yes", "yes", "no", "unknown"])
        self.assertEqual(self.ok(self.journal.settle("kvm1")), 0)

    def test_late(self) -> None:
        """Whatever the hypervisor says after a request had ended without that is its end."""
        ends = errors.DeadlinePassed(maybe_executed=True)
        requests = [self.request(f"r{number}", subject="") for number in range(5)]
        for request in requests:
            self.no(errors.DeadlinePassed, self.journal.run(request, self.failing(ends)))
        lost, unsent = (errors.Interrupted(maybe_executed=maybe) for maybe in (True, False))
        outcomes: list[Result | BaseException] = [{"id": 7}, UNKNOWN, lost, KeyError(), unsent]
        for request, outcome in zip(requests, outcomes, strict=True):
            self.journal.late(request, outcome)
        self.journal.late(requests[0], {"id": 8})
        for restarted in (False, True):
            journal = self.again() if restarted else self.journal
            self.assertEqual(self.ok(journal.run(requests[0], self.do)), {"id": 7})
            self.assertEqual(self.no(LibvirtError, journal.run(requests[1], self.do)).code, 42)
            for request in requests[2:4]:
                self.no(errors.Interrupted, journal.run(request, self.do))
        self.assertEqual(self.done, 5)
        self.ok(self.journal.run(requests[4], self.do))
        self.assertEqual(self.done, 6)

    def test_contested(self) -> None:
        """What shows may be the work of another request: then neither is told that it was its own."""
        ends = errors.Interrupted(maybe_executed=True)
        self.verdict = {"id": 1}
        self.no(errors.Interrupted, self.journal.run(self.request("r1"), self.failing(ends)))
        self.no(errors.Interrupted, self.journal.run(self.request("r2", "bob"), self.failing(ends)))
        for _ in range(2):
            self.no(errors.Interrupted, self.journal.run(self.request("r1"), self.do))
            self.no(errors.Interrupted, self.journal.run(self.request("r2", "bob"), self.do))
            self.assertEqual(self.ok(self.again().settle("kvm1")), 0)
        self.assertEqual(self.done, 2)
        # What was begun long before has nothing to do with it.
        self.now += 3600
        self.no(errors.Interrupted, self.journal.run(self.request("r3", "eve"), self.failing(ends)))
        self.assertEqual(self.ok(self.journal.run(self.request("r3", "eve"), self.do)), {"id": 1})

    def test_claimed(self) -> None:
        """What one request was told to have done, no other is told for the same domain."""
        ends = errors.Interrupted(maybe_executed=True)

        async def start() -> Result:
            return {"id": 5}

        self.no(errors.Interrupted, self.journal.run(self.request("r1"), self.failing(ends)))
        self.no(errors.Interrupted, self.journal.run(self.request("r2", subject="u2"), self.failing(ends)))
        self.no(errors.Interrupted, self.journal.run(self.request("r3"), self.failing(ends)))
        self.now += 3600
        self.no(errors.Interrupted, self.journal.run(self.request("r4"), self.failing(ends)))
        self.assertEqual(self.ok(self.journal.run(self.request("r5", "bob"), start)), {"id": 5})
        for restarted in (False, True):
            journal = self.again() if restarted else self.journal
            self.verdict = {"id": 5}
            self.no(errors.Interrupted, journal.run(self.request("r4"), self.do))
            self.no(errors.Interrupted, journal.run(self.request("r1"), self.do))
        self.verdict = {"id": 6}
        self.assertEqual(self.ok(self.journal.run(self.request("r4"), self.do)), {"id": 6})
        self.verdict = {"id": 5}
        self.assertEqual(self.ok(self.journal.run(self.request("r2", subject="u2"), self.do)), {"id": 5})
        self.assertEqual([self.executed(f"r{n}") for n in range(1, 5)], ["unknown", "yes", "unknown", "yes"])

    def test_not_settled_while_it_runs(self) -> None:
        """What is under way is nobody's to settle, and one look at a time is enough."""
        end: Deferred[Result] = Deferred()
        running = Deferred.fromCoroutine(self.journal.run(self.request(), lambda: end))
        self.verdict = False
        self.assertEqual((self.ok(self.journal.settle("kvm1")), self.asked), (0, []))
        end.callback({})
        self.successResultOf(running)

    def test_settle_out_of_reach(self) -> None:
        """A hypervisor that cannot be asked settles nothing."""

        async def down(_: Entry) -> None:
            raise errors.TargetDown

        self.journal._settle = down
        self.no(KeyError, self.journal.run(self.request(), self.failing(KeyError())))
        self.no(errors.Interrupted, self.journal.run(self.request(), self.do))
        self.assertEqual(self.ok(self.journal.settle("kvm1")), 0)

    def test_many_to_settle(self) -> None:
        """However many entries nobody can settle, each is looked at."""
        for number in range(1100):
            self.no(KeyError, self.journal.run(self.request(f"r{number}"), self.failing(KeyError())))
        self.ok(self.journal.settle("kvm1"))
        self.assertEqual(len(self.asked), 1100)

    def test_kept_a_day(self) -> None:
        """An entry is known for a day after its end, and then the id is as good as new."""
        self.ok(self.journal.run(self.request(), self.do))
        self.now += KEPT - 1
        self.ok(self.journal.run(self.request(), self.do))
        self.assertEqual(self.done, 1)
        self.now += 1
        self.assertEqual(self.executed(), "no")
        self.ok(self.journal.run(self.request(arguments=b"other"), self.do))
        self.assertEqual(self.done, 2)
        self.now += KEPT
        self.ok(self.journal.purge())
        self.assertEqual(self.rows("SELECT count(*) FROM journal"), [(0,)])
        self.assertEqual(self.rows("SELECT * FROM total"), [(0,)])
        self.assertEqual(self.rows("SELECT * FROM tally"), [])

    def rows(self, query: str) -> list[Any]:
        return self.stores[-1].load(lambda database: database.execute(query).fetchall())

    def test_bounds(self) -> None:
        """One principal has a share of the entries, all have a number; known ones are answered still."""
        self.again(maximum=3, per_principal=2)
        self.ok(self.journal.run(self.request("r1"), self.do))
        self.ok(self.journal.run(self.request("r2"), self.do))
        self.no(errors.Busy, self.journal.run(self.request("r3"), self.do))
        self.ok(self.journal.run(self.request("r1", "bob"), self.do))
        self.no(errors.Busy, self.journal.run(self.request("r1", "carol"), self.do))
        self.ok(self.journal.run(self.request("r1"), self.do))
        self.assertEqual(self.done, 3)
        self.now += KEPT
        self.ok(self.journal.run(self.request("r3"), self.do))
        self.assertEqual(self.done, 4)

    def test_large_result(self) -> None:
        """A result of 64 KiB is kept; of a larger one it is known that it was there."""

        def large(size: int) -> Callable[[], Awaitable[Result]]:
            async def do() -> Result:
                self.done += 1
                return {"x": "y" * (size - len('{"x": ""}'))}

            return do

        self.ok(self.journal.run(self.request("r1"), large(65536)))
        self.assertEqual(len(json.dumps(self.ok(self.journal.run(self.request("r1"), self.do)))), 65536)
        self.ok(self.journal.run(self.request("r2"), large(65537)))
        self.assertTrue(
            self.no(errors.Interrupted, self.journal.run(self.request("r2"), self.do)).maybe_executed
        )
        self.assertEqual((self.executed("r2"), self.done), ("yes", 2))

    def test_share(self) -> None:
        """One principal does not fill the file with results, but is still not served twice."""
        self.again(share=40)
        for name in ("r1", "r2"):
            self.ok(self.journal.run(self.request(name), self.do))
        self.ok(self.journal.run(self.request("r1"), self.do))
        self.no(errors.Interrupted, self.journal.run(self.request("r2"), self.do))
        self.ok(self.journal.run(self.request("r2", "bob"), self.do))
        self.assertEqual(self.done, 3)

    def test_disk(self) -> None:
        """What cannot be begun on the disk is not done; without an end there it is answered, but open."""
        database = self.stores[-1]._database
        database.execute("PRAGMA query_only = ON")
        self.no(errors.Busy, self.journal.run(self.request(), self.do))
        self.assertEqual(self.done, 0)
        database.execute("PRAGMA query_only = OFF")

        async def do() -> Result:
            database.execute("PRAGMA query_only = ON")
            return {"id": 9}

        self.assertEqual(self.ok(self.journal.run(self.request(), do)), {"id": 9})
        database.execute("PRAGMA query_only = OFF")
        self.no(errors.Interrupted, self.journal.run(self.request(), self.do))

    def test_arguments_are_not_kept(self) -> None:
        """Of arguments, which may hold passwords, nothing but the SHA-256 is in the file."""
        self.ok(self.journal.run(self.request(arguments=b"passwd=canary-4711"), self.do))
        written = b"".join(file.read_bytes() for file in self.directory.iterdir())
        self.assertNotIn(b"canary", written)
        self.assertNotIn("canary", repr(self.request(arguments=b"canary")))


class KillTests(KeepingCase):
    """kill -9, again and again."""

    def test_killed(self) -> None:
        """What a process said was durable before it was killed is there; what it began is not repeated."""
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
        for size in (1, 200, 3000):
            child = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(self.path)],
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
            )
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(size)]
            time.sleep(0.003)
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.read().splitlines(keepends=True)
            child.stdout.close()
            self.assertEqual(child.wait(), -signal.SIGKILL)
            self.look([line.decode().split() for line in lines if line.endswith(b"\n")])
            self.path.unlink()
            (self.directory / "rpc.db-wal").unlink(missing_ok=True)

    def look(self, said: list[list[str]]) -> None:
        store = self.store()
        handles, journal = Handles(store, self.wall), Journal(store, self.wall)
        closed = {word for what, word in said if what == "close"}
        opened = [word for what, word in said if what == "open"]
        for text in opened[:-1]:
            if text in closed:
                self.assertRaises(errors.NoHandle, handles.find, text, "alice")
            else:
                handles.find(text, "alice")
        done = {word for what, word in said if what == "done"}
        for number in (word for what, word in said if what == "begun"):
            asking = journal.run(Request("alice", "kvm1", f"r{number}", "DOMAIN_CREATE", b""), self.never)
            result: list[Any] = []
            Deferred.fromCoroutine(asking).addBoth(result.append)
            if number in done:
                self.assertEqual(result, [{"id": int(number)}])
            elif result != [{"id": int(number)}]:
                # It was killed before its end was on the disk, or just after.
                self.assertIsInstance(result[0].value, errors.Interrupted)
        self.close()

    async def never(self) -> Result:
        raise AssertionError("it was done twice")
