"""The bounds of an AMP connection, on a wire in memory and on sockets."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.protocols import amp
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.core.tls import tls_factory, wrap_client_tls
from gateway.core.tls_client import strict_creator
from gateway.rpc import commands
from gateway.rpc.amp import DISCARD, FAREWELL, STRANGERS_ROOM, BoundedAMP, Limits, Table, table
from gateway.rpc.arguments import CAP
from gateway.rpc.command import rebuild
from gateway.rpc.outlet import PIECE
from gateway.wire.amp_box import BoxReader, pack
from tests.rpc.small_endpoint import CA, server_tls
from tests.support import ReactorTestCase

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
Box = dict[bytes, bytes]


def call(name: str, tag: int | None = 1, **arguments: bytes) -> bytes:
    """A call as bytes."""
    box = {key.encode(): value for key, value in arguments.items()} | {b"_command": name.encode()}
    return pack(box if tag is None else box | {b"_ask": b"%x" % tag})


def boxes(data: bytes) -> list[Box]:
    reader = BoxReader((10**9, 10**6))
    reader.feed(data)
    found = []
    while (box := reader.next()) is not None:
        found.append(box)
    return found


class Wire(StringTransport):
    """Remembers being cut."""

    aborting = False

    def abortConnection(self) -> None:
        self.aborting = True
        super().abortConnection()


class Desk:
    """Responders whose every call a test may look at, and finish."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.open: list[Deferred[Mapping[str, Any]]] = []
        self.cancelled = 0
        self.most = 0
        self.side: BoundedAMP

    async def login(self, token: str) -> Mapping[str, Any]:
        if token != "good":
            raise errors.Unauthenticated()
        self.side.admit(self.inside())
        return {"session": "s", "principal": "p", "expires": MOMENT, "features": []}

    async def version(self) -> Mapping[str, Any]:
        return {"gateway": "1", "protocol": 1}

    async def wait(self, **arguments: Any) -> Mapping[str, Any]:
        self.begun.append(arguments)
        answer: Deferred[Mapping[str, Any]] = Deferred()
        self.open.append(answer)
        self.most = max(self.most, self.side.calls)
        try:
            return await answer
        except CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.open.remove(answer)

    async def xml(self, dom: str, flags: int | None) -> Mapping[str, Any]:
        return {"xml": "x" * min(int(dom if dom.isdecimal() else "0"), 1 << 24)}

    async def broken(self, **arguments: Any) -> Mapping[str, Any]:
        raise KeyError("sekret")

    async def senseless(self, **arguments: Any) -> Mapping[str, Any]:
        return {"type": None}

    def outside(self) -> Table:
        return table((commands.Login, self.login), (commands.Version, self.version))

    def inside(self) -> Table:
        return table(
            (commands.Version, self.version),
            (commands.GetXml, self.xml),
            (commands.Start, self.wait),
            (commands.Define, self.wait),
            (commands.GetHostname, self.broken),
            (commands.GetType, self.senseless),
        )


class Case(SynchronousTestCase):
    limits = Limits(calls=4)
    admitted = True

    def setUp(self) -> None:
        self.clock = Clock()
        self.desk = Desk()
        self.side = self.desk.side = BoundedAMP(self.clock, self.desk.outside(), self.limits)
        self.words: list[str] = []
        self.side.lost = self.words.append
        self.wire = Wire()
        self.side.makeConnection(self.wire)
        if self.admitted:
            self.side.admit(self.desk.inside())
        self.seen: list[LogEvent] = []
        observer = cast(ILogObserver, self.seen.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def tearDown(self) -> None:
        if not self.words:
            self.side.connectionLost(connectionDone)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def say(self, data: bytes) -> None:
        """Send as a peer does: no more once it is not read."""
        for at in range(0, len(data), 65536):
            while self.wire.producerState == "paused" and self.clock.getDelayedCalls():
                before = len(self.wire.value())
                self.clock.advance(0)
                if before == len(self.wire.value()):
                    break
            self.side.dataReceived(data[at : at + 65536])
        self.turn()

    def turn(self) -> None:
        for _ in range(50):
            self.clock.advance(0)

    def answers(self) -> list[Box]:
        found = boxes(self.wire.value())
        self.wire.clear()
        return found

    def error(self, box: Box) -> errors.GatewayError:
        return rebuild(box[b"_error_code"], box[b"_error_description"])

    def lines(self) -> list[LogEvent]:
        return [event for event in self.seen if event.get("log_namespace") == "gateway.rpc.amp.BoundedAMP"]


class LoginTests(Case):
    admitted = False

    def test_late(self) -> None:
        """Who has not logged in after ten seconds is cut off, whatever was said meanwhile."""
        self.say(call("Version"))
        self.clock.advance(9.9)
        self.assertFalse(self.wire.disconnecting)
        self.clock.advance(0.2)
        self.assertTrue(self.wire.aborting)

    def test_in_time(self) -> None:
        """Who has may stay."""
        self.say(call("Login", token=b"good"))
        self.clock.advance(1000)
        self.assertFalse(self.wire.disconnecting)

    def test_strangers(self) -> None:
        """Before the login there are two commands; any other, known or not, asks for a login."""
        names = [name.decode() for name in commands.COMMANDS] + ["StartTLS", "Nothing", "amp_VERSION"]
        for number, name in enumerate(names, 1):
            self.say(call(name, number))
        told = {int(box.get(b"_error", b"0"), 16): box for box in self.answers() if b"_error" in box}
        for number, name in enumerate(names, 1):
            if name == "Version":
                self.assertNotIn(number, told)
            elif name == "Login":
                self.assertIsInstance(self.error(told[number]), errors.BadArguments)
            else:
                self.assertEqual(told[number][b"_error_code"], b"UNAUTHENTICATED", name)
        self.assertFalse(self.wire.disconnecting)

    def test_then(self) -> None:
        """What is sent along with the login is looked at after it, by the table it leads to."""
        self.say(call("Login", 1, token=b"good") + call("GetXml", 2, dom=b"3"))
        self.assertEqual([box.get(b"xml") for box in self.answers()], [None, b"xxx"])

    def test_one_at_a_time(self) -> None:
        """Before the login a second call waits until the first is answered."""
        pending: Deferred[Mapping[str, Any]] = Deferred()

        async def login(token: str) -> Mapping[str, Any]:
            return await pending

        self.side.responders = table((commands.Login, login), (commands.Version, self.desk.version))
        self.say(call("Login", 1, token=b"x") + call("Version", 2))
        self.assertEqual((self.side.calls, self.answers()), (1, []))
        self.assertEqual(self.wire.producerState, "paused")
        pending.errback(errors.Unauthenticated())
        self.turn()
        self.assertEqual([box.get(b"_error", box.get(b"_answer")) for box in self.answers()], [b"1", b"2"])

    def test_small(self) -> None:
        """A stranger's box of 16 KiB is cut off at once, unanswered and with one line in the log."""
        self.say(call("Login", 1, token=bytes(STRANGERS_ROOM[0])))
        self.assertTrue(self.wire.aborting)
        self.assertEqual(self.wire.value(), b"")
        self.assertEqual(len(self.lines()), 1)

    def test_no_command(self) -> None:
        """So is one that does not say what it asks for, or asks for nothing there is."""
        for first in ({}, {b"_command": b"Nothing"}):
            self.side.dataReceived(pack(first | {b"a": bytes(STRANGERS_ROOM[0])})[:-2])
            self.assertTrue(self.wire.aborting)
            self.tearDown()
            self.setUp()

    def test_few(self) -> None:
        """So is one with more than 16 pairs."""
        self.say(call("Version", 1, **{f"a{number}": b"" for number in range(16)}))
        self.assertTrue(self.wire.aborting)

    def test_refused(self) -> None:
        """A login that fails is answered, and no reason to hang up before the time is over."""
        self.say(call("Login", 1, token=b"bad") + call("Login", 2, token=b"good"))
        first, second = self.answers()
        self.assertIsInstance(self.error(first), errors.Unauthenticated)
        self.assertEqual(second[b"principal"], b"p")


class BoxTests(Case):
    def test_endless(self) -> None:
        """A box that never ends is cut at the limit of its command: kept is no more, told is one line."""
        self.side.dataReceived(b"\0\x04_ask\0\x017\0\x08_command\0\x06Define")
        part, sent, most = 0, 0, 0
        while not self.wire.disconnecting and sent < 400 * 2**20:
            key = b"xml.%d" % part
            self.side.dataReceived(bytes([0, len(key)]) + key + b"\xff\xff" + bytes(65535))
            part, sent = part + 1, sent + 65535
            most = max(most, self.side._reader.held)
        self.assertLess(sent, CAP + 3 * 65536)
        self.assertLess(most, commands.Define.room()[0] + 65536)
        (told,) = self.answers()
        self.assertEqual(told[b"_error"], b"7")
        self.assertEqual(self.error(told).details, {"limit": commands.Define.room()[0]})
        self.assertEqual(len(self.lines()), 1)
        self.assertEqual(self.desk.begun, [])

    def test_thrown_away(self) -> None:
        """What still arrives is thrown away for a while, and for some bytes; then it is over for good."""
        self.say(call("Start", 1, dom=bytes(60000)))
        self.assertTrue(self.wire.disconnecting)
        self.assertIsNone(self.wire.producer)
        for _ in range(DISCARD // 65536):
            self.side.dataReceived(bytes(65536))
        self.assertFalse(self.wire.aborting)
        self.side.dataReceived(b"x")
        self.assertTrue(self.wire.aborting)

    def test_farewell(self) -> None:
        """A peer that never closes its side is cut in the end."""
        self.say(call("Start", 1, dom=bytes(60000)))
        self.clock.advance(FAREWELL)
        self.assertTrue(self.wire.aborting)

    def test_unknown_command(self) -> None:
        """A command that is not ours has little room, and an answer that says so, as Twisted's has."""
        self.say(call("Nothing", 3, a=b"b"))
        (told,) = self.answers()
        self.assertEqual((told[b"_error"], told[b"_error_code"]), (b"3", b"UNHANDLED"))
        self.say(call("Nothing", 4, a=bytes(60000), b=bytes(60000)))
        self.assertTrue(self.wire.disconnecting)

    def test_not_for_you(self) -> None:
        """A command that the table lacks is denied, and so are all that AMP brings along."""
        self.say(call("Drain", 1) + call("StartTLS", 2) + call("Event", 3))
        drain, tls, event = self.answers()
        self.assertEqual(self.error(drain).details["perm"], "command:Drain")
        self.assertEqual((tls[b"_error_code"], event[b"_error_code"]), (b"UNHANDLED", b"DENIED"))

    def test_exact(self) -> None:
        """XML of exactly the cap is taken; one byte more is too large, and the connection stays."""
        for size in (CAP, CAP + 1):
            box = amp.Box({b"_ask": b"1", b"_command": b"Define", b"handle": b"h"})
            for number, at in enumerate(range(0, size, 65535)):
                box[b"xml.%d" % number if number else b"xml"] = b"x" * min(65535, size - at)
            self.say(box.serialize())
        self.assertEqual(len(self.desk.begun[0]["xml"]), CAP)
        self.assertEqual(len(self.desk.begun), 1)
        self.assertEqual(self.error(self.answers()[0]).details, {"limit": CAP})
        self.assertFalse(self.wire.disconnecting)

    def test_nonsense(self) -> None:
        """What is no box, neither call nor answer, or answers what was never asked, ends the connection."""
        for data in (
            b"\1\0",
            b"\0\0",
            pack({b"a": b"b"}),
            pack({b"_answer": b"1"}),
            pack({b"_error": b"1", b"_command": b"Start"}),
            pack({b"_ask": b"1" * 65, b"_command": b"Version"}),
            pack({b"_ask": b"", b"_command": b"Version"}),
            b"GET / HTTP/1.1\r\n\r\n",
        ):
            self.say(data)
            self.assertTrue(self.wire.aborting, data)
            self.assertEqual(len(self.lines()), 1)
            self.tearDown()
            self.setUp()

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_fuzz(self, data: st.DataObject) -> None:
        """Whatever arrives, in whatever pieces: nothing is raised, nothing is logged as a bug."""
        good = [
            call("Start", 1, dom=b"d"),
            call("GetXml", 2, dom=b"9"),
            call("Define", None, handle=b"h", xml=b"x"),
            pack({b"_answer": b"1"}),
        ]
        stream = bytearray(b"".join(data.draw(st.lists(st.sampled_from(good), max_size=5))))
        for _ in range(data.draw(st.integers(0, 3))):
            at = data.draw(st.integers(0, len(stream)))
            stream[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        clock, desk = Clock(), Desk()
        side = desk.side = BoundedAMP(clock, desk.outside())
        side.makeConnection(Wire())
        side.admit(desk.inside())
        step = data.draw(st.integers(1, 60))
        for at in range(0, len(stream), step):
            side.dataReceived(bytes(stream[at : at + step]))
            self.assertLess(side._reader.held, 200_000)
        clock.advance(0)
        side.connectionLost(connectionDone)
        self.assertEqual(desk.open, [])


class CallTests(Case):
    def test_out_of_order(self) -> None:
        """Answers come as they are ready, each with the number of its call."""
        self.say(call("Start", 1, dom=b"a") + call("Start", 2, dom=b"b"))
        self.desk.open[1].callback({"id": 22})
        self.desk.open[0].callback({"id": 11})
        self.assertEqual(
            [(it[b"_answer"], it[b"id"]) for it in self.answers()], [(b"2", b"22"), (b"1", b"11")]
        )

    def test_cap(self) -> None:
        """With as many calls under way as may be, no more is read; each answer lets one more in."""
        self.say(b"".join(call("Start", number, dom=b"d") for number in range(1, 20)))
        self.assertEqual((self.side.calls, len(self.desk.begun)), (4, 4))
        self.assertEqual(self.wire.producerState, "paused")
        self.desk.open[0].callback({"id": 1})
        self.turn()
        self.assertEqual((self.side.calls, len(self.desk.begun)), (4, 5))
        while self.desk.open:
            self.desk.open[0].callback({"id": 1})
            self.turn()
        self.assertEqual((len(self.answers()), self.desk.most), (19, 4))
        self.assertEqual(self.wire.producerState, "producing")

    def test_no_answer_wanted(self) -> None:
        """A call without a number counts as well, and gets no answer."""
        self.say(b"".join(call("Start", None, dom=b"d") for _ in range(9)) + call("Start", None))
        self.assertEqual(self.side.calls, 4)
        while self.desk.open:
            self.desk.open[0].callback({"id": 1})
            self.turn()
        self.assertEqual((len(self.desk.begun), self.answers()), (9, []))

    def test_declared(self) -> None:
        """An error with a meaning arrives whole, and says nothing in the log."""
        self.say(call("Start", 1, dom=b"d"))
        self.desk.open[0].errback(errors.TargetDown("down", retry_after=3.0))
        error = self.error(self.answers()[0])
        self.assertEqual(
            (type(error), error.text, error.details), (errors.TargetDown, "down", {"retry_after": 3.0})
        )
        self.assertEqual(self.lines(), [])

    def test_bug(self) -> None:
        """A failure nobody foresaw: a number and no text, one entry in the log, and the connection stays."""
        for name in ("GetHostname", "GetType"):
            self.say(call(name, 1, handle=b"h"))
            (told,) = self.answers()
            self.assertEqual(told[b"_error_code"], b"INTERNAL")
            self.assertNotIn(b"sekret", told[b"_error_description"])
            (line,) = self.lines()
            self.assertIn(line["incident"].encode(), told[b"_error_description"])
            self.assertEqual(len(self.flushLoggedErrors(KeyError, ValueError)), 1)
            self.seen.clear()
        self.say(call("Version", 2))
        self.assertEqual(self.answers()[0][b"protocol"], b"1")

    def test_arguments(self) -> None:
        """Bad arguments are refused before anything begins."""
        self.say(call("Start", 1) + call("Start", 2, dom=b"d", flags=b"x"))
        self.assertEqual([self.error(box).details["path"] for box in self.answers()], ["dom", "flags"])
        self.assertEqual(self.desk.begun, [])

    def test_left(self) -> None:
        """What runs for a peer that has left is cancelled, and the owner is told once."""
        self.say(call("Start", 1, dom=b"d") + call("Start", 2, dom=b"d"))
        self.side.connectionLost(connectionDone)
        self.assertEqual((self.desk.cancelled, self.desk.open, self.words), (2, [], ["left"]))

    def test_given_up(self) -> None:
        """A call that was cancelled from elsewhere says that it may have been executed."""
        self.say(call("Start", 1, dom=b"d"))
        self.desk.open[0].cancel()
        error = self.error(self.answers()[0])
        assert isinstance(error, errors.Interrupted)
        self.assertTrue(error.maybe_executed)

    def test_end(self) -> None:
        """When it must end all calls, and then the peer, are told why; then it hangs up."""
        self.say(call("Start", 1, dom=b"d") + call("Start", 2, dom=b"d"))
        self.side.end(errors.Expired())
        told = self.answers()
        self.assertEqual({box[b"_error"] for box in told}, {b"1", b"2", b""})
        self.assertEqual(told[-1][b"_error"], b"")
        self.assertEqual({box[b"_error_code"] for box in told}, {b"EXPIRED"})
        self.assertTrue(self.wire.disconnecting)
        self.assertEqual(self.desk.cancelled, 2)

    def test_fair(self) -> None:
        """Of many calls that are answered at once only some are dealt with in one turn of the reactor."""
        self.side.dataReceived(b"".join(call("Version", number) for number in range(1, 501)))
        self.assertLess(len(self.answers()), 100)
        self.assertEqual(self.wire.producerState, "paused")
        self.turn()
        self.assertEqual(self.wire.producerState, "producing")

    def test_slow(self) -> None:
        """Nor are more begun in a turn that has taken long already."""

        async def version() -> dict[str, Any]:
            self.clock.rightNow += 0.02
            return {"gateway": "1", "protocol": 1}

        self.side.admit(table((commands.Version, version)))
        self.side.dataReceived(b"".join(call("Version", number) for number in range(1, 51)))
        self.assertLess(len(self.answers()), 4)
        for _ in range(50):
            self.turn()
        self.assertEqual(self.side.calls, 0)

    def test_together(self) -> None:
        """Answers that are ready at once leave in one write."""
        written: list[bytes] = []
        self.wire.write = written.append  # type: ignore[method-assign]  # it notes, or fills up
        self.side.dataReceived(b"".join(call("Version", number) for number in range(1, 31)))
        self.assertEqual(len(written), 1)


class WorkTests(Case):
    limits = Limits(calls=100, work=100_000)

    def test_bytes(self) -> None:
        """Requests under way are bounded by their bytes, too."""
        self.say(b"".join(call("Define", number, handle=b"h", xml=bytes(60_000)) for number in range(1, 9)))
        self.assertEqual(self.side.calls, 2)
        self.assertEqual(self.wire.producerState, "paused")
        while self.desk.open:
            self.desk.open[0].callback({"dom": "d", "name": "n", "uuid": "u"})
            self.turn()
        self.assertEqual(len(self.answers()), 8)


class ConsumerTests(Case):
    limits = Limits(calls=1000, stalled=60.0)

    def full(self) -> None:
        self.wire.producer.pauseProducing()  # type: ignore[union-attr]  # there is one

    def empty(self) -> None:
        self.wire.producer.resumeProducing()  # type: ignore[union-attr]  # there is one

    def test_paused(self) -> None:
        """While the peer takes no answers no request is read, and there is no room for events."""
        self.assertTrue(self.side.room())
        self.full()
        self.assertFalse(self.side.room())
        waiting = self.side.drained()
        self.say(call("GetXml", 1, dom=b"5"))
        self.assertEqual((self.wire.producerState, self.answers()), ("paused", []))
        self.assertNoResult(waiting)
        self.empty()
        self.assertEqual(self.answers()[0][b"xml"], b"xxxxx")
        self.successResultOf(waiting)
        self.successResultOf(self.side.drained())

    def test_bounded(self) -> None:
        """A thousand large answers are not made for a peer that takes none."""
        made: list[str] = []

        async def xml(dom: str, flags: int | None) -> Mapping[str, Any]:
            made.append(dom)
            return {"xml": "x" * 60_000}

        self.side.responders = table((commands.GetXml, xml))
        write = self.wire.write

        def fill(data: bytes) -> None:
            write(data)
            self.full()

        self.wire.write = fill  # type: ignore[method-assign]  # it notes, or fills up
        self.say(b"".join(call("GetXml", number, dom=b"d") for number in range(1, 1001)))
        self.assertLess(len(made), 10)
        taken = 0
        while len(made) < 1000 or taken < 1000:
            taken += len(made)
            self.empty()
            self.turn()
        self.assertEqual(len(self.answers()), 1000)

    def test_pieces(self) -> None:
        """A large answer is handed over piece by piece, as it is taken."""
        write = self.wire.write
        sizes: list[int] = []

        def fill(data: bytes) -> None:
            sizes.append(len(data))
            write(data)
            self.full()

        self.wire.write = fill  # type: ignore[method-assign]  # it notes, or fills up
        self.say(call("GetXml", 1, dom=b"1000000"))
        for _ in range(10):
            self.empty()
        self.assertEqual((max(sizes), len(sizes)), (PIECE, 8))
        (box,) = self.answers()
        self.assertEqual(sum(len(it) for key, it in box.items() if key.startswith(b"xml")), 1_000_000)

    def test_stalled(self) -> None:
        """Who takes nothing for a minute is cut; who takes a little is not."""
        for _ in range(3):
            self.full()
            self.clock.advance(59)
            self.empty()
        self.assertFalse(self.wire.aborting)
        self.full()
        self.clock.advance(60)
        self.assertTrue(self.wire.aborting)

    def test_lost(self) -> None:
        """Who waits for room on a connection that goes is told so."""
        self.full()
        waiting = self.side.drained()
        self.side.connectionLost(connectionDone)
        self.failureResultOf(waiting, CancelledError)
        self.failureResultOf(self.side.drained(), CancelledError)
        self.assertFalse(self.side.room())
        self.side.send(commands.Event, sub="s", seq=1, time=MOMENT, kind="k", dom="", payload="{}")


class IdleTests(Case):
    limits = Limits(idle=30.0)

    def test_idle(self) -> None:
        """Without a box and without a call for so long the connection ends; with either it stays."""
        for _ in range(4):
            self.clock.advance(20)
            self.say(call("Version"))
        self.say(call("Start", 1, dom=b"d"))
        self.clock.advance(100)
        self.assertFalse(self.wire.disconnecting)
        self.desk.open[0].callback({"id": 1})
        for _ in range(61):
            self.clock.advance(1)
        self.assertTrue(self.wire.disconnecting)


class _Peer(Protocol):
    transport: Any

    def __init__(self) -> None:
        self.data = bytearray()

    def dataReceived(self, data: bytes) -> None:
        self.data += data


class SocketTests(ReactorTestCase):
    async def connect(self, desk: Desk) -> _Peer:
        from twisted.internet import reactor

        clock: Any = reactor

        def build() -> BoundedAMP:
            desk.side = BoundedAMP(clock, desk.inside())
            desk.side.admit(desk.inside())
            return desk.side

        listening, calling = self.factories(clock, Factory.forProtocol(build))
        port = clock.listenTCP(0, listening, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        await TCP4ClientEndpoint(clock, "127.0.0.1", port.getHost().port).connect(calling)
        await self.until(lambda: self.peer.transport is not None and hasattr(desk, "side"))
        self.addCleanup(self.peer.transport.abortConnection)
        return self.peer

    def factories(self, clock: Any, listening: Any) -> tuple[Any, Any]:
        self.peer = _Peer()
        return listening, Factory.forProtocol(lambda: self.peer)

    async def test_twenty_thousand(self) -> None:
        """20,000 calls at once: 64 begin, the others wait outside, and in the end all are answered."""
        from twisted.internet import reactor

        desk = Desk()
        peer = await self.connect(desk)
        calls = b"".join(call("Start", number, dom=b"d" * 200) for number in range(1, 20_001))
        peer.transport.write(calls)
        await self.until(lambda: len(desk.open) == 64)
        await deferLater(reactor, 0.2)
        self.assertEqual((desk.side.calls, len(desk.begun)), (64, 64))
        self.assertLess(desk.side._reader.held, 1_000_000)
        while len(desk.begun) < 20_000 or desk.open:
            for answer in [*desk.open]:
                answer.callback({"id": 1})
            await deferLater(reactor, 0)
        await self.until(lambda: len(boxes(bytes(peer.data))) == 20_000)
        self.assertLessEqual(desk.most, 64)

    async def test_no_reader(self) -> None:
        """A peer that asks and asks and never reads costs a few answers, and gets them all when it does."""
        desk = Desk()
        peer = await self.connect(desk)
        peer.transport.pauseProducing()
        calls = b"".join(call("GetXml", number, dom=b"100000") for number in range(1, 501))
        peer.transport.write(calls)
        await self.until(lambda: not desk.side.room())
        self.assertLess(desk.side._outlet.queued, 2_000_000)  # type: ignore[union-attr]  # there is one
        waiting = desk.side.drained()
        peer.transport.resumeProducing()
        await waiting
        await self.until(lambda: len(peer.data) > 500 * 100_000)
        self.assertEqual(len(boxes(bytes(peer.data))), 500)


class TLSSocketTests(SocketTests):
    """The same over TLS, where other hands pause and resume."""

    def factories(self, clock: Any, listening: Any) -> tuple[Any, Any]:
        plain, calling = super().factories(clock, listening)
        directory = Path(self.mktemp())
        directory.mkdir()
        creator = strict_creator("localhost", [CA.certificate])
        return tls_factory(server_tls(directory), plain, clock), wrap_client_tls(creator, calling, clock)
