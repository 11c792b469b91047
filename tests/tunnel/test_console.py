"""Consoles: all tunnels of one ticket are busy and silent together."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway.core.sessions import Session, SessionTable
from gateway.core.tickets import MemoryRegistry
from gateway.errors import Unavailable
from gateway.tunnel.console import Console, Consoles


@define
class Tunnel:
    """One tunnel of the test's."""

    console: Console
    session: Session
    ended: list[str] = field(factory=list)


class ConsoleTests(SynchronousTestCase):
    """:class:`Consoles`."""

    def setUp(self) -> None:
        self.clock = Clock()
        registry = MemoryRegistry(self.clock, lambda: 0.0)
        self.addCleanup(registry.stop)
        self.table = SessionTable(self.clock, lambda: 0.0, registry)
        self.consoles = Consoles(self.clock, channels=3, idle_timeout=10.0)

    def open(self, key: object = "a", peer: str = "192.0.2.1") -> Tunnel:
        console = self.consoles.place(key)
        ended: list[str] = []

        def end(word: str) -> None:
            ended.append(word)
            console.leave(session)

        session = self.table.open_free("tunnel", "connect", peer=peer, target="t", ended=end)
        console.enter(session)
        self.consoles.given(key, console)
        return Tunnel(console, session, ended)

    def test_one_busy(self) -> None:
        """A busy channel keeps the silent ones alive, for any time."""
        main, inputs = self.open(), self.open()
        for _ in range(100):
            self.clock.advance(9.9)
            inputs.console.moved()
        self.assertEqual((main.ended, inputs.ended), ([], []))
        self.clock.advance(9.9)
        self.assertEqual(main.ended, [])
        self.clock.advance(0.1)
        self.assertEqual((main.ended, inputs.ended), (["idle"], ["idle"]))

    def test_idle(self) -> None:
        """When nothing passes on any of them all end, at that very second; other consoles do not."""
        tunnels = [self.open() for _ in range(3)]
        self.clock.advance(5)
        other = self.open("b")
        self.clock.advance(4.5)
        self.assertEqual([it.ended for it in tunnels], [[], [], []])
        self.clock.advance(0.5)
        self.assertEqual([it.ended for it in tunnels], [["idle"]] * 3)
        self.assertEqual((other.ended, len(self.consoles)), ([], 1))
        self.clock.advance(5)
        self.assertEqual((other.ended, len(self.consoles)), (["idle"], 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_opening_is_activity(self) -> None:
        """A channel that is opened keeps the others, too."""
        first = self.open()
        self.clock.advance(9)
        self.open()
        self.clock.advance(9)
        self.assertEqual(first.ended, [])

    def test_one_timer(self) -> None:
        """Bytes cost no timer."""
        tunnels = [self.open() for _ in range(3)]
        for _ in range(1000):
            tunnels[0].console.moved()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_never(self) -> None:
        """Without a limit there is no timer."""
        self.consoles.idle_timeout = None
        tunnel = self.open()
        self.clock.advance(1 << 30)
        self.assertEqual((tunnel.ended, self.clock.getDelayedCalls()), ([], []))

    def test_new_limit(self) -> None:
        """A limit that is changed holds when the former one would have."""
        tunnel = self.open()
        self.consoles.idle_timeout = 25.0
        self.clock.pump([10, 14.9])
        self.assertEqual(tunnel.ended, [])
        self.clock.advance(0.1)
        self.assertEqual(tunnel.ended, ["idle"])

    def test_channels(self) -> None:
        """A console has only so many channels; those about to be opened count, and others' do not."""
        tunnels = [self.open() for _ in range(2)]
        opening = self.consoles.place("a")
        self.assertEqual(self.assertRaises(Unavailable, self.consoles.place, "a").reason, "limit")
        self.open("b")
        self.consoles.given("a", opening)
        tunnels.append(self.open())
        self.assertRaises(Unavailable, self.consoles.place, "a")
        tunnels[0].session.end("killed")
        self.open()

    def test_viewers(self) -> None:
        """Each tunnel says whose it is by the first one of its viewer, be that gone or not."""
        main, display, third = (self.open() for _ in range(3))
        two, other = self.open("b"), self.open("c")
        for tunnel, viewer in ((main, 7), (third, 8), (display, 7)):
            tunnel.console.group(tunnel.session, viewer)
        two.console.group(two.session, 7)
        found = [it.session.console for it in (main, display, third, two, other)]
        self.assertEqual(found, [main.session.id, main.session.id, third.session.id, two.session.id, ""])
        main.session.end("left")
        late = self.open()
        late.console.group(late.session, 7)
        self.assertEqual(late.session.console, main.session.id)
        main.console.group(main.session, 8)
        self.assertNotIn(main.session, main.console.sessions, "what is over stays so")

    def test_forgotten(self) -> None:
        """Of a console without tunnels nothing is left, whether one was ever opened or not."""
        self.consoles.given("a", self.consoles.place("a"))
        self.assertEqual(len(self.consoles), 0)
        first, second = self.open(), self.open()
        first.session.end("left")
        self.assertEqual(len(self.consoles), 1)
        second.session.end("left")
        self.assertEqual((len(self.consoles), self.clock.getDelayedCalls()), (0, []))
        again: Any = self.open()
        self.assertIsNot(again.console, first.console)
        again.session.end("left")
