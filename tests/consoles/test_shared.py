"""Shared VNC consoles: one connection, many who look, one who types."""

from __future__ import annotations

import tracemalloc
from gc import collect
from random import Random
from struct import pack
from typing import Any
from weakref import ref

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.consoles.line import Line
from gateway.consoles.shared import Hub, Hubs
from gateway.consoles.viewer import Viewer, Watching
from gateway.consoles.vnc_login import Desktop
from gateway.wire.rfb import PixelFormat, ServerInit
from tests.consoles.screen import (
    ASK,
    CURSOR,
    EXTENDED,
    KEYS,
    RAW,
    SIZE,
    TIGHT,
    ZRLE,
    Look,
    Screen,
    encodings,
    key,
    paste,
    pointer,
    qemu_key,
)
from tests.wire.rfb_peers import FORMAT, rectangle, update
from tests.wire.test_rfb_viewer import ORDERS, order, pixel_format


class Wire(StringTransport):
    """The connection to the console: what is written is heard by a screen."""

    screen: Screen
    cut = False

    def write(self, data: bytes) -> None:
        assert data, "nothing to write"
        self.screen.receive(data)

    def abortConnection(self) -> None:
        self.cut = True
        super().abortConnection()


class SlowClock(Clock):
    """Time passes while somebody looks at it.

    :ivar step: seconds each time.
    """

    step = 0.0
    passed = 0.0

    def seconds(self) -> float:
        self.passed += self.step
        return float(super().seconds()) + self.passed


class Person:
    """A viewer, and what it sees."""

    def __init__(
        self, case: HubCase, hub: Hub, form: str, kinds: tuple[int, ...], *, controls: bool, takeover: bool
    ) -> None:
        self.ended: list[errors.GatewayError | None] = []
        self.control: list[bool] = []
        self.flows: list[bool] = []
        self.viewer = viewer = Viewer(hub, self._take, self.ended.append, controls=controls)
        viewer.in_control, viewer.flow = self.control.append, self.flows.append
        hub.enter(viewer)
        case.successResultOf(viewer.ready)
        init = viewer.begin(takeover=takeover)
        self.look = Look(init.width, init.height, order(form), ORDERS[form][-1])
        self.count = self.largest = 0
        if form != "rgbx":
            viewer.receive(pixel_format(form))
        viewer.receive(encodings(*kinds, SIZE, CURSOR, KEYS))

    def _take(self, data: bytes) -> None:
        self.count += 1
        self.largest = max(self.largest, len(data))
        self.look.take(data)


class HubCase(SynchronousTestCase):
    """A hub, and the screen behind it."""

    def setUp(self) -> None:
        self.clock = SlowClock()
        self.hubs = Hubs()
        self.dials = 0
        self.gate: Deferred[None] | None = None
        self.lines: list[tuple[Line, Wire]] = []
        self.size = (203, 131)

    def hub(self, key: str = "a") -> Hub:
        return self.hubs.at(key, lambda closed: Hub(self.clock, 10, self._log_in, closed))

    async def _log_in(self, line: Line) -> Desktop:
        self.dials += 1
        if self.gate is not None:
            await self.gate
        wire = Wire()
        wire.screen = self.screen = Screen(line.dataReceived, *self.size)
        self.screen._send = lambda data: line.dataReceived(data)
        line.makeConnection(wire)
        self.wire, self.line = wire, line
        width, height = self.size
        return Desktop(ServerInit(width, height, PixelFormat.parse(FORMAT), b"guest"), b"", None)

    def join(
        self,
        form: str = "rgbx",
        *kinds: int,
        hub: Hub | None = None,
        controls: bool = True,
        takeover: bool = False,
    ) -> Person:
        """A person who looks, and sees the first picture."""
        person = Person(self, hub or self.hub(), form, kinds, controls=controls, takeover=takeover)
        self.see(person)
        return person

    def turn(self) -> None:
        self.clock.advance(0)

    def see(self, *people: Person) -> None:
        """Have *people* ask until nothing is new."""
        count = -1
        while count != (count := sum(it.count for it in people)):
            for person in people:
                person.viewer.receive(ASK)
            self.turn()
            self.turn()

    def assert_sees(self, *people: Person) -> None:
        for person in people:
            client = person.look.client
            self.assertEqual((client.width, client.height), (self.screen.width, self.screen.height))
            self.assertTrue(client.screen == self.screen.rgb, "another picture")


class PictureTests(HubCase):
    """What they see."""

    def test_late(self) -> None:
        """Who comes late sees the whole screen, and costs the server nothing: the hub alone asks it."""
        first = self.join("rgbx", ZRLE)
        self.screen.draw(0, 0, 203, 131)
        self.see(first)
        asked = self.screen.asked
        late = self.join("bgrx", TIGHT)
        self.assert_sees(first, late)
        self.assertEqual((self.dials, self.screen.asked), (1, asked))
        # One set of wishes, whoever looks.
        self.assertEqual([it[0] for it in self.screen.heard], [0, 2])

    def test_asks_only_when_wanted(self) -> None:
        """The server is asked once, and again only when somebody wants more than there is."""
        one, two = self.join(), self.join()
        asked = self.screen.asked
        self.assertTrue(self.screen.wanted)
        self.screen.draw(0, 0, 50, 50)
        self.turn()
        # Both were served, and nobody has asked since.
        self.assertEqual(self.screen.asked, asked)
        self.screen.draw(50, 50, 50, 50)
        one.viewer.receive(ASK)
        self.turn()
        self.assertEqual(self.screen.asked, asked + 1)
        self.turn()
        two.viewer.receive(ASK)
        self.see(one, two)
        self.assert_sees(one, two)

    def test_stalled(self) -> None:
        """Who takes nothing is given nothing, keeps nobody waiting, and sees it all when it looks again."""
        stalled, busy = self.join("rgbx", TIGHT), self.join("rgbx", TIGHT)
        stalled.viewer.pauseProducing()
        stalled.viewer.receive(ASK)
        before = stalled.count
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        self.screen.draw(0, 0, 203, 131)
        self.see(busy)
        held, _ = tracemalloc.get_traced_memory()
        for _ in range(30):
            self.screen.draw(0, 0, 203, 131)
            self.screen.say(paste_from_guest(b"x" * 1000))
            self.screen.say(b"\2")
            self.see(busy)
        now, _ = tracemalloc.get_traced_memory()
        self.assert_sees(busy)
        self.assertEqual(stalled.count, before)
        self.assertLess(now - held, 128 * 1024)
        self.screen.say(paste_from_guest(b"last"))
        stalled.viewer.resumeProducing()
        self.see(stalled)
        self.assert_sees(stalled)
        # Of the clipboards it missed the last one counts, and nothing rings late.
        self.assertEqual((stalled.look.pasted, stalled.look.bells), ([b"last"], 0))

    def test_only_stalled(self) -> None:
        """While nobody has room the server is not asked."""
        person = self.join()
        self.screen.draw(0, 0, 9, 9)
        person.viewer.receive(ASK)
        person.viewer.pauseProducing()
        asked = self.screen.asked
        for _ in range(3):
            self.turn()
        self.assertEqual(self.screen.asked, asked)
        person.viewer.resumeProducing()
        self.see(person)
        self.assert_sees(person)

    def test_large(self) -> None:
        """However large the screen is, an update is of bounded size, and made of pieces of bounded size."""
        self.size = (2500, 1000)
        person = self.join()
        self.screen.draw(0, 0, 2500, 1000)
        self.see(person)
        self.assert_sees(person)
        self.assertLess(person.largest, 4 * (32 * 1024 + 32 * 2500))
        self.assertLess(person.look.client.largest, 256 * 1024 + 32 * 2500)

    def test_turns(self) -> None:
        """Between two viewers the reactor has its turn, if the first one took long."""
        people = [self.join() for _ in range(3)]
        for person in people:
            person.viewer.receive(ASK)
        self.turn()
        self.screen.draw(0, 0, 203, 131)
        before = [it.count for it in people]
        for number in range(3):
            self.short_turn()
            self.assertEqual([it.count for it in people], [it + (n <= number) for n, it in enumerate(before)])

    def short_turn(self) -> None:
        """A turn that takes so long that only one piece is shown in it."""
        call: Any = self.clock.getDelayedCalls()[0]
        turn = call.func
        call.cancel()
        self.clock.step = 1
        turn()
        self.clock.step = 0

    def test_between_pieces(self) -> None:
        """What happens while an update is shown piece by piece comes after it, and spoils none of it."""
        self.size = (400, 300)
        person = self.join("rgbx", ZRLE)
        for happens in (
            lambda: person.viewer.receive(pixel_format("bgrx")),
            lambda: self.screen.say(paste_from_guest(b"text") + b"\2"),
            lambda: person.viewer.receive(encodings(TIGHT, SIZE)),
            lambda: self.screen.draw(0, 0, 400, 300),
            person.viewer.pauseProducing,
            lambda: self.screen.resize(90, 80),
        ):
            self.screen.draw(0, 0, self.screen.width, self.screen.height)
            person.viewer.receive(ASK)
            self.short_turn()
            self.assertTrue(person.look.open)
            self.screen.wanted = True
            happens()
            self.screen.wanted = False
            person.viewer.resumeProducing()
            self.turn()
            self.turn()
            self.assertFalse(person.look.open)
            person.look.client.order = order("bgrx")
            self.see(person)
            self.assertFalse(person.look.open)
            self.assert_sees(person)
        self.assertEqual((person.look.pasted, person.look.bells), ([b"text"], 1))

    def test_asks_between_pieces(self) -> None:
        """Who asks for more before an update is over gets it without asking again."""
        self.size = (400, 300)
        person = self.join("rgbx", ZRLE)
        self.screen.draw(0, 0, 400, 300)
        person.viewer.receive(ASK)
        self.short_turn()
        self.screen.wanted = True
        self.screen.draw(0, 0, 400, 300)
        person.viewer.receive(ASK)
        self.turn()
        self.turn()
        self.assert_sees(person)

    def test_stalled_before_resize(self) -> None:
        """Who is stalled keeps no screen that is gone."""
        person, busy = self.join(), self.join()
        old = ref(person.viewer.hub._server.framebuffer)  # type: ignore[union-attr]  # there is a screen by now
        person.viewer.pauseProducing()
        self.screen.resize(100, 100)
        self.see(busy)
        collect()
        self.assertIsNone(old())
        person.viewer.resumeProducing()
        self.see(person)
        self.assert_sees(person)

    def test_said_to_all(self) -> None:
        """Bell, clipboard, pointer and size reach everybody who looks."""
        people = [self.join("rgbx", TIGHT), self.join("bgrx", ZRLE, EXTENDED), self.join(controls=False)]
        watching = self.watch()
        self.screen.say(b"\2" + paste_from_guest(b"text"))
        pixels, mask = bytes([1, 2, 3, 0] * 4), b"\x80\xc0"
        self.screen._drawn.append(rectangle(1, 1, 2, 2, CURSOR, pixels + mask))
        self.screen._flush()
        self.see(*people)
        self.screen.resize(160, 140)
        self.see(*people)
        for look in (*(it.look for it in people), watching):
            self.assertEqual((look.bells, look.pasted), (1, [b"text"]))
            self.assertEqual(look.client.cursor, (1, 1, 2, 2, bytes([1, 2, 3] * 4), mask))
            self.assertTrue(look.client.screen == self.screen.rgb)

    @given(st.integers(0, 2**32))
    @settings(max_examples=40, deadline=None)
    def test_any(self, seed: int) -> None:
        """Whatever is drawn, in whatever pixels and pieces they see it, in the end all see the same."""
        self.setUp()
        random = Random(seed)
        self.size = random.randrange(1, 150), random.randrange(1, 150)

        def someone() -> Person:
            kinds = random.choice([(RAW,), (ZRLE,), (TIGHT,), (TIGHT, ZRLE), ()])
            return self.join(random.choice([*ORDERS]), *kinds)

        people = [someone() for _ in range(random.randrange(1, 5))]
        watching = self.watch()
        for _ in range(12):
            width, height = self.screen.width, self.screen.height
            x, y = random.randrange(width), random.randrange(height)
            part = x, y, random.randint(1, width - x), random.randint(1, height - y)
            match random.randrange(8):
                case 0:
                    self.screen.resize(random.randrange(1, 150), random.randrange(1, 150))
                case 1 | 2:
                    self.screen.draw(*part, random.randbytes(3))
                case 3 | 4:
                    self.screen.draw(*part)
                case 5:
                    people.append(someone())
                case 6:
                    if len(people) > 1:
                        people.pop(random.randrange(len(people))).viewer.leave()
                case _:
                    viewer = random.choice(people).viewer
                    random.choice([viewer.pauseProducing, viewer.resumeProducing])()
            self.see(*random.sample(people, random.randint(0, len(people))))
        for person in people:
            person.viewer.resumeProducing()
        self.see(*people)
        self.assert_sees(*people)
        self.assertTrue(watching.client.screen == self.screen.rgb)

    def watch(self) -> Look:
        """A watcher, which asks for nothing."""
        look = Look(1, 1)
        watching = self.hub().watch(look.take)
        width, height = int.from_bytes(watching.init[:2]), int.from_bytes(watching.init[2:4])
        look.client.size(width, height)
        self.turn()
        return look


def paste_from_guest(text: bytes) -> bytes:
    return pack(">BxxxI", 3, len(text)) + text


class WatchTests(HubCase):
    """Those who want the bytes themselves."""

    def test_bytes(self) -> None:
        """It gets a ServerInit in 32-bit true color, then everything, from the whole screen on, unasked."""
        person = self.join()
        self.screen.draw(0, 0, 203, 131)
        self.see(person)
        said: list[bytes] = []
        watching = self.hub().watch(said.append)
        self.assertEqual(said, [])
        width, height, form, length = (
            watching.init[:2], watching.init[2:4], watching.init[4:20], watching.init[20:24],
        )  # fmt: skip
        self.assertEqual((int.from_bytes(width), int.from_bytes(height)), self.size)
        self.assertEqual(form, pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 0, 8, 16))
        self.assertEqual(watching.init[24:], b"guest")
        self.assertEqual(int.from_bytes(length), 5)
        look = Look(*self.size)
        self.turn()
        self.screen.draw(3, 4, 100, 50)
        self.turn()
        self.turn()
        self.screen.draw(30, 40, 100, 50)
        self.turn()
        for message in said:
            look.take(message)
        self.assertTrue(look.client.screen == self.screen.rgb)
        self.assertEqual((look.client.updates, look.client.kinds), (3, {TIGHT}))
        watching.stop()
        self.screen.draw(0, 0, 9, 9)
        self.turn()
        self.assertEqual(len(said), 3)
        watching.stop()

    def test_keeps_nothing_alive(self) -> None:
        """The console ends with the last who looks at it, and those who only watch are told."""
        person = self.join()
        ended: list[object] = []
        watching = self.hub().watch(lambda data: None, ended.append)
        self.assertIsInstance(watching, Watching)
        person.viewer.leave()
        self.assertEqual((ended, len(self.hubs)), ([None], 0))
        self.assertTrue(self.wire.disconnecting)
        watching.stop()

    def test_never_in_control(self) -> None:
        """It types nothing, and nobody hands it control."""
        person = self.join()
        watching = self.hub().watch(lambda data: None)
        person.viewer.controls = False
        watching.act(key(0x61))
        other = self.join(controls=False)
        person.viewer.leave()
        self.assertIsNone(other.viewer.hub.holder)
        watching.act(key(0x61))
        self.assertEqual(self.screen.typed, [])

    def test_too_early(self) -> None:
        """There is nothing to watch before the console is there, and after it."""
        self.gate = Deferred()
        hub = self.hub()
        self.assertRaises(RuntimeError, hub.watch, lambda data: None)
        viewer = Viewer(hub, lambda data: None, lambda error: None)
        hub.enter(viewer)
        self.gate.callback(None)
        viewer.leave()
        self.assertRaises(RuntimeError, hub.watch, lambda data: None)


class ControlTests(HubCase):
    """Who types."""

    def test_one(self) -> None:
        """The first who may is in control; what the others do never gets up."""
        looker = self.join(controls=False)
        first, second = self.join(), self.join()
        self.assertEqual((looker.control, first.control, second.control), ([], [True], []))
        for person in (looker, second):
            person.viewer.act(key(0x62) + pointer(1) + paste(b"no"))
        self.assertEqual(self.screen.typed, [])
        first.viewer.act(key(0x61) + key(0x61, False) + pointer(0) + paste(b"yes"))
        self.assertEqual(self.screen.typed, [key(0x61), key(0x61, False), pointer(0), paste(b"yes")])

    def test_takeover(self) -> None:
        """Who has the right takes control, and the one before goes on looking."""
        first = self.join()
        second = self.join(takeover=True)
        self.assertEqual((first.control, second.control), ([True, False], [True]))
        first.viewer.act(key(0x61))
        second.viewer.act(key(0x62))
        self.assertEqual(self.screen.typed, [key(0x62)])
        self.screen.draw(0, 0, 20, 20)
        self.see(first, second)
        self.assert_sees(first, second)

    def test_takeover_needs_control(self) -> None:
        """Nobody takes over who may not control."""
        first, second = self.join(), self.join(controls=False, takeover=True)
        self.assertEqual((first.control, second.control), ([True], []))

    def test_passes_on(self) -> None:
        """When the holder leaves, the longest present who may is in control; when nobody may, nobody is."""
        first = self.join()
        # Who was let in and has not seen the screen is not present.
        self.hub().enter(Viewer(self.hub(), lambda data: None, lambda error: None, controls=True))
        people = [first, self.join(controls=False), self.join(), self.join()]
        people[0].viewer.leave()
        self.assertEqual([it.control for it in people], [[True, False], [], [True], []])
        people[3].viewer.leave()
        people[2].viewer.leave()
        self.assertIsNone(self.hub().holder)
        people.append(self.join())
        self.assertEqual(people[-1].control, [True])

    def test_lets_go(self) -> None:
        """Keys and buttons that were down are let go when control passes, and only those."""
        first = self.join()
        self.screen.wanted = True
        self.screen._drawn.append(rectangle(0, 0, 0, 0, KEYS))
        self.screen._flush()
        first.viewer.act(key(0xFFE1) + key(0x61) + key(0x61, False) + qemu_key(0x1D) + pointer(1, 5, 6))
        before = len(self.screen.typed)
        self.join(takeover=True)
        self.assertEqual(
            self.screen.typed[before:], [key(0xFFE1, False), qemu_key(0x1D, False), pointer(0, 5, 6)]
        )

    def test_what_is_not_offered(self) -> None:
        """What the server would end the console for is passed on for nobody."""
        person = self.join()
        audio, xvp = b"\xff\x01\0\0", b"\xfa\0\x01\x02"
        size = pack(">BxHHBx", 251, 640, 480, 1) + bytes(16)
        person.viewer.act(audio + xvp + size + qemu_key(0x1E) + key(0x61))
        self.assertEqual(self.screen.typed, [key(0x61)])
        screens = pack(">BxxxIHHHHI", 1, 0, 0, 0, *self.size, 0)
        self.screen.wanted = True
        self.screen._drawn += [rectangle(0, 0, *self.size, EXTENDED, screens), rectangle(0, 0, 0, 0, KEYS)]
        self.screen._flush()
        person.viewer.act(audio + xvp + size + qemu_key(0x1E))
        self.assertEqual(self.screen.typed[1:], [size, qemu_key(0x1E)])

    def test_flow(self) -> None:
        """A console that takes nothing stops the one who types, whoever that becomes, and nobody else."""
        first, second = self.join(), self.join()
        self.line.transport.producer.pauseProducing()
        self.assertEqual((first.flows[-1:], second.flows), ([False], []))
        third = self.join(takeover=True)
        self.assertEqual((first.flows[-1], third.flows), (True, [False]))
        self.line.transport.producer.resumeProducing()
        self.assertEqual((third.flows, second.flows), ([False, True], []))


class EndTests(HubCase):
    """Beginning and end."""

    def test_one_dial(self) -> None:
        """However many wait, one connection is made; when it is there, all are let in."""
        self.gate = Deferred()
        viewers = [Viewer(self.hub(), lambda data: None, lambda error: None) for _ in range(5)]
        for viewer in viewers:
            viewer.hub.enter(viewer)
            self.assertNoResult(viewer.ready)
        viewers[0].leave()
        self.gate.callback(None)
        for viewer in viewers[1:]:
            self.successResultOf(viewer.ready)
        self.assertEqual((self.dials, len(self.hubs)), (1, 1))

    def test_nobody_waits(self) -> None:
        """When all who wait have left, the attempt ends, and the next one begins anew."""
        self.gate = Deferred()
        viewers = [Viewer(self.hub(), lambda data: None, lambda error: None) for _ in range(2)]
        for viewer in viewers:
            viewer.hub.enter(viewer)
        for viewer in viewers:
            viewer.leave()
        self.assertTrue(viewers[0].hub.over)
        self.assertEqual((len(self.hubs), self.clock.getDelayedCalls()), (0, []))
        self.gate = None
        self.join()
        self.assertEqual(self.dials, 2)

    def test_refused(self) -> None:
        """When there is no way in, all who wait are told why."""
        self.gate = Deferred()
        viewers = [Viewer(self.hub(), lambda data: None, lambda error: None) for _ in range(3)]
        for viewer in viewers:
            viewer.hub.enter(viewer)
        self.gate.errback(errors.UpstreamFailed("it refuses the password"))
        for viewer in viewers:
            self.assertEqual(
                self.failureResultOf(viewer.ready, errors.UpstreamFailed).value.text,
                "it refuses the password",
            )
            viewer.leave()
        self.assertEqual(len(self.hubs), 0)

    def test_late_refusal(self) -> None:
        """A console that says nothing is given up in time."""
        self.gate = Deferred()
        viewer = Viewer(self.hub(), lambda data: None, lambda error: None)
        viewer.hub.enter(viewer)
        self.clock.advance(10)
        self.failureResultOf(viewer.ready, errors.UpstreamTimeout)

    def test_hung_up(self) -> None:
        """When the console hangs up, all are told so, once."""
        people = [self.join(), self.join()]
        self.line.connectionLost(Failure(ConnectionDone()))
        for person in people:
            self.assertEqual(person.ended, [None])
            person.viewer.leave()
            person.viewer.receive(ASK)
            person.viewer.act(key(0x61))
        self.assertEqual((len(self.hubs), self.clock.getDelayedCalls()), (0, []))

    def test_nonsense(self) -> None:
        """A console that breaks the rules ends for all, with the reason."""
        person = self.join()
        self.screen.say(update(rectangle(0, 0, 1000, 1000, RAW)))
        (error,) = person.ended
        self.assertIsInstance(error, errors.UpstreamFailed)
        self.assertTrue(self.wire.cut)

    def test_last_leaves(self) -> None:
        """The connection lasts as long as one looks; the last one ends it, at once if it has to be."""
        for cut in (False, True):
            people = [self.join(), self.join()]
            people[0].viewer.leave(cut=True)
            self.assertFalse(self.wire.disconnecting)
            people[1].viewer.leave(cut=cut)
            self.assertTrue(self.wire.disconnecting)
            self.assertEqual(self.wire.cut, cut)
            self.line.connectionLost(Failure(ConnectionDone()))
            self.assertEqual((len(self.hubs), self.clock.getDelayedCalls()), (0, []))
