"""A connection to a hypervisor: calls, events, descriptors, signs of life, and its ends."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred

from gateway import errors
from gateway.rpc import connection
from gateway.rpc.connection import COUNT, INTERVAL, LINGER
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_message import DESCRIPTORS, KEEPALIVE, PING, PONG, Message, Status, Type
from gateway.wire.libvirt_schema import PROCEDURES, procedure
from gateway.wire.xdr_slices import MOST
from tests.rpc.wire_case import DOM, WireCase, is_open, opening, turn

INFO = {"state": 1, "maxMem": 2, "memory": 2, "nrVirtCpu": 1, "cpuTime": 5}


class CallTest(WireCase):
    """Calls and their answers."""

    def test_answers(self) -> None:
        """Answers may come in any order, several in a read, and in any pieces."""
        calls = [self.call("DOMAIN_GET_INFO", dom=DOM) for _ in range(3)]
        self.assertEqual([message.serial for _, message in calls], [0, 1, 2])
        self.assertEqual(self.connection.pending, 3)
        data = b"".join(
            self.answer(message, **INFO | {"cpuTime": message.serial}).pack()
            for _, message in reversed(calls)
        )
        for at in range(len(data)):
            self.connection.dataReceived(data[at : at + 1])
        self.assertEqual([self.successResultOf(answer)["cpuTime"] for answer, _ in calls], [0, 1, 2])
        self.assertEqual(self.connection.pending, 0)

    def test_refusal(self) -> None:
        """A refusal is the call's, and the connection lives on."""
        answer, call = self.call("DOMAIN_CREATE", dom=DOM)
        self.say(self.refusal(call, 55))
        self.assertEqual(self.failureResultOf(answer, LibvirtError).value.code, 55)
        self.assertTrue(self.connection.alive)

    def test_bad_arguments(self) -> None:
        """What the procedure does not take is not sent, and the error says which member it is."""
        bad = self.connection.call(procedure("DOMAIN_GET_INFO"), {"dom": DOM | {"id": "x"}})
        self.assertEqual(self.failureResultOf(bad, errors.BadArguments).value.path, "dom.id")
        self.assertEqual((self.heard(), self.connection.pending), ([], 0))

    def test_too_large(self) -> None:
        """What no message holds is not sent, for the daemon would hang up on all of us."""
        words = ["x" * (3 << 20)] * 12
        many = self.connection.call(
            procedure("DOMAIN_FSFREEZE"), {"dom": DOM, "mountpoints": words, "flags": 0}
        )
        self.failureResultOf(many, errors.TooLarge)
        self.assertEqual((self.heard(), self.connection.pending), ([], 0))

    def test_cancelled(self) -> None:
        """Who does not wait any more hears nothing; the answer is dropped when it comes."""
        answer, call = self.call("DOMAIN_GET_INFO", dom=DOM)
        other, second = self.call("DOMAIN_GET_INFO", dom=DOM)
        answer.cancel()
        self.failureResultOf(answer, CancelledError)
        self.assertEqual(self.connection.pending, 2)
        self.say(self.answer(call, **INFO), self.answer(second, **INFO))
        self.assertEqual(self.successResultOf(other), INFO)
        self.assertEqual(self.connection.pending, 0)
        refused, third = self.call("DOMAIN_GET_INFO", dom=DOM)
        refused.cancel()
        self.failureResultOf(refused, CancelledError)
        self.say(self.refusal(third, 42))
        self.assertTrue(self.connection.alive)

    def test_serials(self) -> None:
        """Numbers start again at nought, and those in use are left out."""
        self.connection._serial = 0xFFFFFFFF
        calls = [self.call("CONNECT_GET_TYPE") for _ in range(3)]
        self.assertEqual([message.serial for _, message in calls], [0xFFFFFFFF, 0, 1])
        self.connection._serial = 0xFFFFFFFF
        calls.append(self.call("CONNECT_GET_TYPE"))
        self.assertEqual(calls[-1][1].serial, 2)
        for answer, _ in calls:
            answer.addErrback(lambda _: None)

    def test_nonsense(self) -> None:
        """Answers to no call, to another one, and what cannot be read end the connection."""
        good = Message(0x20008086, 1, 3, Type.REPLY, 0, Status.OK, bytes(4))
        for bad in (
            good._replace(serial=1),
            good._replace(procedure=4),
            good._replace(program=0x20008087),
            good._replace(payload=b""),
            good._replace(payload=bytes(8)),
            good._replace(status=Status.ERROR, payload=b"no"),
            good._replace(type=Type.CALL),
            good._replace(type=Type.CALL_WITH_FDS, payload=b""),
        ):
            self.setUp()
            answer, _ = self.call("CONNECT_GET_TYPE")
            self.say(bad, good)
            self.assertTrue(self.wire.aborted, bad)
            self.assertFalse(self.connection.alive)
            self.assertNoResult(answer)
            self.gone()
            self.failureResultOf(answer, errors.Interrupted)
            self.assertEqual(self.lost, ["malformed"])

    def test_unknown_stream(self) -> None:
        """What belongs to a stream that was given up is dropped."""
        self.say(Message(0x20008086, 1, 209, Type.STREAM, 9, Status.CONTINUE, b"x"))
        self.assertTrue(self.connection.alive)

    @given(st.lists(st.binary(max_size=60), max_size=5), st.booleans())
    @settings(max_examples=100, deadline=None)
    def test_fuzz(self, pieces: list[bytes], framed: bool) -> None:
        """Whatever a hypervisor says, it is understood or the connection ends; nothing is raised."""
        self.setUp()
        answer = self.connection.call(procedure("CONNECT_LIST_ALL_DOMAINS"), {"need_results": 1, "flags": 0})
        answer.addErrback(lambda failure: failure.trap(errors.GatewayError))
        for piece in pieces:
            if framed:
                piece = (len(piece) + 8).to_bytes(4, "big") + bytes.fromhex("20008086") + piece
            self.connection.dataReceived(piece)
        self.gone()
        self.assertEqual(len(self.lost), 1)


class LossTest(WireCase):
    """A connection that ends."""

    def test_calls(self) -> None:
        """Calls without an answer say whether they may have been executed: never those that only read."""
        for name, arguments, maybe in (
            ("DOMAIN_GET_INFO", {"dom": DOM}, False),
            ("DOMAIN_CREATE", {"dom": DOM}, True),
            ("DOMAIN_GET_XML_DESC", {"dom": DOM, "flags": 1}, False),
            ("QEMU_DOMAIN_MONITOR_COMMAND", {"dom": DOM, "cmd": "x", "flags": 0}, True),
        ):
            self.setUp()
            answer, _ = self.call(name, **arguments)
            self.gone()
            self.assertIs(self.failureResultOf(answer, errors.Interrupted).value.maybe_executed, maybe)
            self.assertEqual((self.lost, self.connection.pending), (["lost"], 0))
            late = self.connection.call(procedure(name), arguments)
            self.assertIs(self.failureResultOf(late, errors.Interrupted).value.maybe_executed, False)

    def test_answered(self) -> None:
        """A call that was answered was answered; what came with half of an answer was not."""
        first, call = self.call("DOMAIN_CREATE", dom=DOM)
        second, other = self.call("DOMAIN_CREATE", dom=DOM)
        self.connection.dataReceived(self.answer(call).pack() + self.answer(other).pack()[:-1])
        self.gone(clean=True)
        self.assertEqual(self.successResultOf(first), {})
        self.assertIs(self.failureResultOf(second, errors.Interrupted).value.maybe_executed, True)
        self.assertEqual(self.lost, ["closed"])

    def test_order(self) -> None:
        """When the owner is told, all calls have failed and none can be made."""
        answer, _ = self.call("CONNECT_GET_TYPE")
        seen: list[object] = []
        self.connection.lost = lambda word: seen.extend((word, answer.called, self.connection.alive))
        self.connection.connectionLost()
        self.failureResultOf(answer, errors.Interrupted)
        self.assertEqual(seen, ["closed", True, False])
        self.lost.append("told")

    def test_close(self) -> None:
        """To close is to lose it after what was written; an answer that still comes is too late."""
        answer, call = self.call("CONNECT_GET_TYPE")
        self.connection.close()
        self.connection.close()
        self.assertFalse(self.connection.alive)
        self.assertTrue(self.wire.disconnecting)
        self.say(self.answer(call, type="TEST"))
        self.gone(clean=True)
        self.failureResultOf(answer, errors.Interrupted)
        self.assertEqual(self.lost, ["closed"])

    def test_close_that_hangs(self) -> None:
        """A peer that takes nothing does not keep the connection for ever."""
        self.connection.close()
        self.clock.advance(LINGER - 0.1)
        self.assertFalse(self.wire.aborted)
        self.clock.advance(0.1)
        self.assertTrue(self.wire.aborted)

    def test_abort(self) -> None:
        """A cut says why, and the first reason counts."""
        self.connection.abort("unused")
        self.connection.abort("other")
        self.assertTrue(self.wire.aborted)
        self.gone()
        self.assertEqual(self.lost, ["unused"])
        self.connection.close()
        self.connection.abort("late")

    def test_abort_before(self) -> None:
        """One that was given up before it was made is cut when it is."""
        early = connection.LibvirtConnection(self.clock)
        early.abort("stopped")
        early.makeConnection(self.wire)
        self.assertTrue(self.wire.aborted)
        self.assertFalse(early.alive)


class EventTest(WireCase):
    """What the daemon tells by itself."""

    def test_events(self) -> None:
        """Events come between answers, and are no answers."""
        answer, call = self.call("CONNECT_GET_TYPE")
        event = {"callbackID": 1, "dom": DOM, "event": 5, "detail": 1}
        self.say(self.told("DOMAIN_EVENT_CALLBACK_LIFECYCLE", **event), self.answer(call, type="TEST"))
        self.assertEqual(self.events, [("DOMAIN_EVENT_CALLBACK_LIFECYCLE", event)])
        self.assertEqual(self.successResultOf(answer), {"type": "TEST"})

    def test_unknown(self) -> None:
        """What a later libvirt tells is passed over, and so is a procedure that is no event."""
        for number in (9999, 16):
            self.say(Message(0x20008086, 1, number, Type.EVENT, 0, Status.OK, b"?"))
        self.assertEqual((self.events, self.connection.alive), ([], True))

    def test_nonsense(self) -> None:
        """An event that cannot be read ends the connection."""
        self.say(self.told("DOMAIN_EVENT_CALLBACK_REBOOT", callbackID=1, dom=DOM)._replace(payload=b"x"))
        self.assertTrue(self.wire.aborted)

    def test_closed(self) -> None:
        """A daemon that lost its hypervisor is of no more use, even when it says so twice."""
        closed = self.told("CONNECT_EVENT_CONNECTION_CLOSED", reason=1)
        self.say(closed, closed)
        self.say(closed)
        self.assertTrue(self.wire.aborted)
        self.gone()
        self.assertEqual((self.lost, self.events), (["hypervisor"], []))


class TurnTest(WireCase):
    """Much at a time, of which others must not have to wait for the end."""

    def test_events(self) -> None:
        """Of thousands of events some are told in one turn, in order, and nothing more is read meanwhile."""
        told = [self.told("DOMAIN_EVENT_CALLBACK_REBOOT", callbackID=at, dom=DOM) for at in range(1000)]
        self.say(*told[:900])
        self.assertLess(len(self.events), 200)
        self.assertEqual(self.wire.producerState, "paused")
        self.say(*told[900:])
        while len(self.events) < 1000:
            before = len(self.events)
            turn(self.clock)
            self.assertIn(len(self.events) - before, range(1, 200))
        self.assertEqual([values["callbackID"] for _, values in self.events], list(range(1000)))
        self.assertEqual(self.wire.producerState, "producing")

    def test_long_reply(self) -> None:
        """A long reply is read over several turns, what comes behind it after it."""
        answer, call = self.call("CONNECT_LIST_ALL_DOMAINS", need_results=1, flags=0)
        told = self.told("DOMAIN_EVENT_CALLBACK_REBOOT", callbackID=1, dom=DOM)
        self.say(self.answer(call, domains=[DOM] * 5000, ret=5000), told)
        turns = 0
        while not answer.called:
            self.assertEqual(
                (self.wire.producerState, self.events, self.connection.pending), ("paused", [], 1)
            )
            turn(self.clock)
            turns += 1
        self.assertGreater(turns, 3)
        self.assertEqual(len(self.successResultOf(answer)["domains"]), 5000)
        turn(self.clock)
        self.assertEqual((len(self.events), self.wire.producerState), (1, "producing"))

    def test_wrong_reply(self) -> None:
        """One that is wrong in its middle ends the connection then, and the call; so does a loss before."""
        for lose in (False, True):
            answer, call = self.call("CONNECT_LIST_ALL_DOMAINS", need_results=1, flags=0)
            whole = self.answer(call, domains=[DOM] * 5000, ret=5000)
            self.say(whole if lose else whole._replace(payload=whole.payload[:-8]))
            self.assertFalse(self.wire.aborted)
            if lose:
                self.gone()
            for _ in range(20):
                turn(self.clock)
            self.assertEqual(self.wire.aborted, not lose)
            self.gone()
            self.failureResultOf(answer, errors.Interrupted)
            self.setUp()

    def test_too_much(self) -> None:
        """A reply of more values than anybody can use is refused by itself; the connection goes on."""
        params = [{"field": "x", "type": "int", "value": 1}] * (MOST // 10)
        answer, call = self.call("CONNECT_GET_ALL_DOMAIN_STATS", doms=[], stats=0, flags=0)
        self.say(self.answer(call, retStats=[{"dom": DOM, "params": params}] * 11))
        while not answer.called:
            turn(self.clock)
        self.failureResultOf(answer, errors.TooLarge)
        other, call = self.call("CONNECT_GET_TYPE")
        self.say(self.answer(call, type="TEST"))
        turn(self.clock)
        self.assertEqual(self.successResultOf(other), {"type": "TEST"})


class DescriptorTest(WireCase):
    """Descriptors, and the messages they belong to."""

    def setUp(self) -> None:
        super().setUp()
        self.ends = self.pipe()

    def ask(self) -> tuple[Deferred[int], Message]:
        arguments = {"dom": DOM, "idx": 0, "flags": 1}
        answer = self.connection.descriptor(procedure("DOMAIN_OPEN_GRAPHICS_FD"), arguments)
        return answer, self.heard()[0]

    def passes(self, call: Message, count: int) -> bytes:
        """An answer to *call* with that many descriptors, and their bytes."""
        reply = self.answer(call)._replace(type=Type.REPLY_WITH_FDS, descriptors=count)
        return reply.pack() + bytes(count)

    def test_before(self) -> None:
        """The descriptor arrives before the bytes it came with."""
        answer, call = self.ask()
        self.connection.fileDescriptorReceived(self.ends[0])
        self.connection.dataReceived(self.passes(call, 1))
        self.assertEqual(self.successResultOf(answer), self.ends[0])
        self.assertTrue(is_open(self.ends[0]))

    def test_after(self) -> None:
        """The descriptor arrives after the message, with its own byte."""
        answer, call = self.ask()
        data = self.passes(call, 1)
        self.connection.dataReceived(data[:-1])
        self.assertNoResult(answer)
        self.connection.fileDescriptorReceived(self.ends[0])
        self.connection.dataReceived(data[-1:])
        self.assertEqual(self.successResultOf(answer), self.ends[0])

    def test_two_answers(self) -> None:
        """Two answers in one read get each their own."""
        first, one = self.ask()
        second, two = self.ask()
        for end in self.ends:
            self.connection.fileDescriptorReceived(end)
        self.connection.dataReceived(self.passes(two, 1) + self.passes(one, 1))
        self.assertEqual((self.successResultOf(second), self.successResultOf(first)), self.ends)

    def test_none(self) -> None:
        """An answer without one is an error of the hypervisor."""
        for kind in (Type.REPLY, Type.REPLY_WITH_FDS):
            answer, call = self.ask()
            self.say(self.answer(call)._replace(type=kind))
            self.failureResultOf(answer, errors.UpstreamFailed)
            self.assertTrue(self.connection.alive)

    def test_promised(self) -> None:
        """An answer that promises one without bringing it ends the connection."""
        answer, call = self.ask()
        self.connection.dataReceived(self.passes(call, 1))
        self.assertTrue(self.wire.aborted)
        self.gone()
        self.failureResultOf(answer, errors.Interrupted)

    def test_more(self) -> None:
        """What is more than one is closed."""
        answer, call = self.ask()
        for end in self.ends:
            self.connection.fileDescriptorReceived(end)
        self.connection.dataReceived(self.passes(call, 2))
        self.assertEqual(self.successResultOf(answer), self.ends[0])
        self.assertFalse(is_open(self.ends[1]))

    def test_unwanted(self) -> None:
        """Those that nobody waits for are closed: after a cancel, with a refusal, with an ordinary answer."""
        answer, call = self.ask()
        answer.cancel()
        self.failureResultOf(answer, CancelledError)
        self.connection.fileDescriptorReceived(self.ends[0])
        self.connection.dataReceived(self.passes(call, 1))
        self.assertFalse(is_open(self.ends[0]))
        answer, call = self.ask()
        self.connection.fileDescriptorReceived(self.ends[1])
        self.say(self.refusal(call, 55)._replace(type=Type.REPLY_WITH_FDS, descriptors=1))
        self.failureResultOf(answer, LibvirtError)
        self.assertFalse(is_open(self.ends[1]))
        ordinary, call = self.call("CONNECT_GET_TYPE")
        end = self.pipe()[0]
        self.connection.fileDescriptorReceived(end)
        reply = self.answer(call, type="TEST")
        self.say(reply._replace(type=Type.REPLY_WITH_FDS, descriptors=1))
        self.assertEqual(self.successResultOf(ordinary), {"type": "TEST"})
        self.assertFalse(is_open(end))
        self.assertTrue(self.connection.alive)

    def test_unsolicited(self) -> None:
        """One that no message tells of ends the connection, and is closed."""
        answer, call = self.call("CONNECT_GET_TYPE")
        self.connection.fileDescriptorReceived(self.ends[0])
        self.say(self.answer(call, type="TEST"))
        self.successResultOf(answer)
        self.assertTrue(self.wire.aborted)
        self.gone()
        self.assertFalse(is_open(self.ends[0]))

    def test_many(self) -> None:
        """There are never more than one message may bring."""
        for _ in range(DESCRIPTORS):
            self.connection.fileDescriptorReceived(os.dup(self.ends[0]))
        self.assertTrue(self.connection.alive)
        last = os.dup(self.ends[0])
        self.connection.fileDescriptorReceived(last)
        self.assertTrue(self.wire.aborted)
        self.gone()
        self.assertFalse(is_open(last))

    def test_lost(self) -> None:
        """What waited for its message is closed when the connection is lost."""
        answer, call = self.ask()
        self.connection.fileDescriptorReceived(self.ends[0])
        self.connection.dataReceived(self.passes(call, 2)[:-1])
        self.gone()
        self.failureResultOf(answer, errors.Interrupted)
        self.assertFalse(is_open(self.ends[0]))


class OpenCase(WireCase):
    """A connection that is opened."""

    def greet(
        self, answers: Mapping[str, Mapping[str, object]] | None = None, **options: Any
    ) -> tuple[Deferred[None], list[tuple[str, dict[str, Any]]]]:
        """Open ``test:///default``; return what came of it, and which calls were made."""
        script = opening(answers or {})
        asked: list[tuple[str, dict[str, Any]]] = []
        done = Deferred.fromCoroutine(self.connection.open("test:///default", **options))
        while messages := self.heard():
            for message in messages:
                known = PROCEDURES[message.program, message.procedure]
                asked.append((known.name, known.arguments.unpack(message.payload)))
                values = script[known.name]
                if "refuse" in values:
                    self.say(self.refusal(message, int(str(values["refuse"]))))
                else:
                    self.say(self.answer(message, **values))
        return done, asked


class OpenTest(OpenCase):
    """The first calls."""

    def test_order(self) -> None:
        """Login, keepalive, the hypervisor, and a word when that is gone."""
        done, asked = self.greet(readonly=True)
        self.successResultOf(done)
        self.assertEqual(
            asked,
            [
                ("AUTH_LIST", {}),
                ("CONNECT_SUPPORTS_FEATURE", {"feature": 10}),
                ("CONNECT_OPEN", {"name": "test:///default", "flags": 1}),
                ("CONNECT_SUPPORTS_FEATURE", {"feature": 15}),
                ("CONNECT_REGISTER_CLOSE_CALLBACK", {}),
            ],
        )

    def test_quiet(self) -> None:
        """Without keepalive neither side asks."""
        done, asked = self.greet(keepalive=False)
        self.successResultOf(done)
        self.assertEqual([name for name, _ in asked], ["AUTH_LIST", "CONNECT_OPEN"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_login(self) -> None:
        """polkit lets the process log in; of anything else we know nothing."""
        done, asked = self.greet({"AUTH_LIST": {"types": [2]}})
        self.successResultOf(done)
        self.assertEqual(asked[1], ("AUTH_POLKIT", {}))
        self.setUp()
        done, asked = self.greet({"AUTH_LIST": {"types": [2, 0]}})
        self.successResultOf(done)
        self.assertNotIn(("AUTH_POLKIT", {}), asked)
        self.setUp()
        done, _ = self.greet({"AUTH_LIST": {"types": [1]}})
        self.assertEqual(self.failureResultOf(done, errors.UpstreamFailed).value.reason, "auth")

    def test_old_daemon(self) -> None:
        """One without these features is served; so is a driver without a close callback."""
        done, asked = self.greet({"CONNECT_SUPPORTS_FEATURE": {"supported": 0}})
        self.successResultOf(done)
        self.assertEqual(len(asked), 4)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.setUp()
        done, _ = self.greet({"CONNECT_REGISTER_CLOSE_CALLBACK": {"refuse": 3}})
        self.successResultOf(done)
        self.setUp()
        done, _ = self.greet({"CONNECT_REGISTER_CLOSE_CALLBACK": {"refuse": 1}})
        self.failureResultOf(done, LibvirtError)

    def test_refused(self) -> None:
        """The hypervisor's refusal is ours."""
        done, _ = self.greet({"CONNECT_OPEN": {"refuse": 5}})
        self.assertEqual(self.failureResultOf(done, LibvirtError).value.code, 5)

    def test_lost(self) -> None:
        """The connection may be lost at any of these calls."""
        for answered in range(5):
            self.setUp()
            done = Deferred.fromCoroutine(self.connection.open(None))
            for _ in range(answered):
                (message,) = self.heard()
                name = PROCEDURES[message.program, message.procedure].name
                self.say(self.answer(message, **opening({})[name]))
            self.gone()
            self.failureResultOf(done, errors.Interrupted)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_any_name(self) -> None:
        """An empty name lets the daemon choose."""
        done = Deferred.fromCoroutine(self.connection.open(""))
        self.say(self.answer(self.heard()[0], types=[0]))
        self.say(self.answer(self.heard()[0], supported=0))
        (message,) = self.heard()
        self.assertEqual(message.payload, bytes(8))
        self.gone()
        self.failureResultOf(done, errors.Interrupted)


class KeepaliveTest(OpenCase):
    """Signs of life."""

    PINGED = Message(KEEPALIVE, 1, PING, Type.EVENT, 0, Status.OK)

    def test_answered(self) -> None:
        """A ping is answered at once, whatever else goes on; a pong is only a sign of life."""
        self.say(self.PINGED, self.PINGED._replace(procedure=PONG))
        self.assertEqual(self.heard(), [self.PINGED._replace(procedure=PONG)])

    def test_storm(self) -> None:
        """Pings without end are answered twice in a second, for nobody says that the answers are read."""
        for _ in range(4):
            self.say(*[self.PINGED] * 5000)
            while self.wire.producerState == "paused":
                self.clock.advance(0)
            self.assertEqual(len(self.heard()), 1)
            self.clock.advance(0.5)

    def test_silence(self) -> None:
        """Silence is asked about, and ends the connection; calls in flight may have been executed."""
        done, _ = self.greet()
        self.successResultOf(done)
        answer, _ = self.call("DOMAIN_CREATE", dom=DOM)
        said = []
        for _ in range(COUNT):
            self.clock.advance(INTERVAL)
            said.append(self.heard())
        self.assertEqual(said, [[], *[[self.PINGED]] * (COUNT - 1)])
        self.assertFalse(self.wire.aborted)
        self.clock.advance(INTERVAL)
        self.assertTrue(self.wire.aborted)
        self.gone()
        self.assertEqual(self.lost, ["silent"])
        self.assertIs(self.failureResultOf(answer, errors.Interrupted).value.maybe_executed, True)

    def test_any_sign(self) -> None:
        """Anything that is heard counts, and who talks is not asked."""
        done, _ = self.greet()
        self.successResultOf(done)
        for _ in range(3 * COUNT):
            self.clock.advance(INTERVAL)
            self.say(self.PINGED._replace(procedure=PONG))
        self.assertEqual((self.heard(), self.wire.aborted), ([], False))


class TlsTest(WireCase):
    """The byte before the first message."""

    tls = True

    def open(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.connection.open(None, keepalive=False))

    def test_byte(self) -> None:
        """Nothing is said before the byte; after it all is well."""
        done = self.open()
        self.assertEqual((self.heard(), self.connection.alive), ([], False))
        early = self.connection.call(procedure("CONNECT_GET_TYPE"))
        self.failureResultOf(early, errors.Interrupted)
        self.connection.dataReceived(b"\1")
        self.assertTrue(self.connection.alive)
        self.say(self.answer(self.heard()[0], types=[0]))
        self.say(self.answer(self.heard()[0]))
        self.successResultOf(done)

    def test_early(self) -> None:
        """The byte may come before anybody waits for it."""
        self.connection.dataReceived(b"\1")
        done = self.open()
        self.assertEqual(len(self.heard()), 1)
        self.gone()
        self.failureResultOf(done, errors.Interrupted)

    def test_with_message(self) -> None:
        """It may come in one read with a message."""
        done = self.open()
        ping = Message(KEEPALIVE, 1, PING, Type.EVENT, 0, Status.OK)
        self.connection.dataReceived(b"\1" + ping.pack())
        self.assertEqual([message.procedure for message in self.heard()], [66, PONG])
        self.gone()
        self.failureResultOf(done, errors.Interrupted)

    def test_other_byte(self) -> None:
        """Any other byte says that our certificate was not accepted."""
        for wrong in (b"\0", b"\2\1", b"HTTP/1.1 400"):
            self.setUp()
            done = self.open()
            self.connection.dataReceived(wrong)
            self.assertTrue(self.wire.aborted)
            self.gone()
            self.assertEqual(self.failureResultOf(done, errors.UpstreamFailed).value.reason, "tls")
            self.assertEqual((self.lost, self.heard()), (["tls"], []))

    def test_end(self) -> None:
        """So does the end, whether it comes while we wait or before."""
        done = self.open()
        self.gone(clean=True)
        self.assertEqual(self.failureResultOf(done, errors.UpstreamFailed).value.reason, "tls")
        self.assertEqual(self.failureResultOf(self.open(), errors.UpstreamFailed).value.reason, "tls")

    def test_cancelled(self) -> None:
        """Who stops waiting for it may."""
        done = self.open()
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.connection.dataReceived(b"\1")
        self.gone()

    def test_one_by_one(self) -> None:
        """Messages are written one in a turn."""
        self.connection.dataReceived(b"\1")
        answers = [self.connection.call(procedure("CONNECT_GET_TYPE")) for _ in range(16)]
        self.assertEqual(len(self.wire.writes), 1)
        for message in self.heard():
            self.say(self.answer(message, type="TEST"))
        self.assertEqual([self.successResultOf(answer) for answer in answers], [{"type": "TEST"}] * 16)
        self.assertEqual({len(data) for data in self.wire.writes}, {28})

    def test_close(self) -> None:
        """It can be closed before the byte, and while messages wait."""
        self.connection.close()
        self.assertTrue(self.wire.disconnecting)
        self.gone(clean=True)
        self.setUp()
        self.connection.dataReceived(b"\1")
        answers = [self.connection.call(procedure("CONNECT_GET_TYPE")) for _ in range(3)]
        self.connection.close()
        self.assertIsNone(self.wire.producer)
        self.clock.advance(0)
        self.assertEqual(len(self.wire.writes), 1)
        self.gone(clean=True)
        for answer in answers:
            self.failureResultOf(answer, errors.Interrupted)
