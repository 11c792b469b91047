"""Shared consoles from end to end in one process: browsers, tickets and sessions before one VNC server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from struct import unpack_from
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from gateway.core.policy import Policy, parse_rule
from gateway.wire.fbs import FbsReader
from tests.consoles.screen import ASK, SIZE, TIGHT, Screen, encodings, key
from tests.consoles.service_case import HOST, Console, Page, ServiceCase
from tests.consoles.stage import ID
from tests.consoles.test_console_socket import close
from tests.wire.rfb_peers import Client, Server

VERSION = b"RFB 003.008\n"
OTHER = "66666666-7777-4888-8999-000000000000"
REVOKED = (4403, "Your access to this console was revoked")
OVER = (1000, "The console has ended")


class Machine(Console):
    """A VNC server.

    :ivar screen: what it shows; it is heard there what was typed.
    """

    def __init__(self, server: Server, silent: bool) -> None:
        super().__init__(b"")
        self.server = server
        self.silent = silent
        self.screen = Screen(lambda data: self.transport.write(data), 640, 480)

    def connectionMade(self) -> None:
        greeting = self.server.receive(b"")
        if not self.silent:
            self.transport.write(greeting)

    def dataReceived(self, data: bytes) -> None:
        if self.server.done:
            self.screen.receive(data)
            return
        self.transport.write(self.server.receive(data))
        if rest := self.server.rest:
            self.screen.receive(rest)


class SharedTests(ServiceCase):
    """What tickets open."""

    types: tuple[int, ...] = (1,)
    silent = False

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.until(lambda: not self.site._channels)))

    def _cut(self, line: Any) -> Deferred[None] | None:
        if line.lost:
            return None
        line.transport.abortConnection()
        return Deferred.fromCoroutine(self.until(lambda: line.lost))

    def _reached(self, address: object) -> Console:
        answers = (bytes(16),)
        machine = Machine(Server(types=self.types, answers=answers), self.silent)
        self.reached.append(machine)
        self.addCleanup(self._cut, machine)
        return machine

    async def ticket(self, uuid: str = ID, **members: Any) -> str:
        await self.put("vnc", **{"uuid": uuid, "shared": True, **members})
        return uuid

    async def arrive(self, uuid: str = ID) -> Page:
        page = await self.ask(f"/console/{uuid}")
        await self.until(lambda: page.head)
        return page

    async def shake(self, page: Page) -> None:
        """The browser's side of the handshake."""
        self.assertEqual(page.status, 101, page.heard)
        for size, said in ((12, VERSION), (14, b"\1"), (18, b"\1")):
            await self.until(lambda: len(page.said) >= size)  # noqa: B023 (asked at once)
            page.send(said)
        await self.until(lambda: len(page.said) > 18 + 24)

    async def join(self, uuid: str = ID) -> Page:
        page = await self.arrive(uuid)
        await self.shake(page)
        return page

    async def sees(self, page: Page) -> None:
        """It gets the picture, and what is new in it; so what it sent before has arrived."""
        self.machine.screen.draw(5, 5, 9, 9)
        page.send(encodings(TIGHT, SIZE) + bytes([3, 0]) + bytes(4) + b"\xff\xff\xff\xff")
        client = Client(640, 480)
        length = unpack_from(">I", page.said, 18 + 20)[0]
        at = 18 + 24 + length
        while client.screen != self.machine.screen.rgb:
            said = page.said
            if len(said) > at:
                client.receive(said[at:])
                at = len(said)
                page.send(ASK)
            await deferLater(self.reactor, 0.005)

    @property
    def machine(self) -> Machine:
        machine = self.reached[-1]
        assert isinstance(machine, Machine)
        return machine

    def ops(self) -> list[str]:
        return [session.op for session in self.sessions.list()]

    async def test_one_connection(self) -> None:
        """Those who come at once and later, by whatever ticket, share one connection and one picture."""
        await self.ticket()
        await self.ticket(OTHER, ops=["view"])
        pages = [await self.ask(f"/console/{uuid}") for uuid in (ID, ID, OTHER)]
        await self.until(lambda: all(page.head for page in pages))
        for page in pages:
            await self.shake(page)
        self.machine.screen.draw(10, 20, 300, 200)
        pages.append(await self.join(OTHER))
        for page in pages:
            await self.sees(page)
        self.assertEqual((len(self.reached), self.machine.server.shared), (1, True))
        self.assertEqual(sorted(self.ops()), ["control", "view", "view", "view"])

    async def test_not_shared(self) -> None:
        """Who does not share has a connection alone, also beside a hub."""
        await self.ticket()
        await self.ticket(OTHER, shared=False)
        await self.join()
        await self.join(OTHER)
        self.assertEqual(len(self.reached), 2)

    async def test_recorded_alone(self) -> None:
        """What is recorded goes through a hub of its own, unless it is shared; each has its file."""
        kept = self.keep()
        await self.ticket(shared=False, record=True)
        await self.join()
        await self.join()
        self.assertEqual((len(self.reached), len(self.consoles.hubs)), (2, 2))
        self.assertEqual(len(list(kept.iterdir())), 2)

    def keep(self, limit: int = 1 << 30) -> Path:
        """Where recordings go from now on."""
        kept = Path(self.mktemp()).absolute()
        self.recordings.adopt(kept, limit)
        self.recordings.startService()
        self.addCleanup(self.recordings.stopService)
        return kept

    async def film(self, kept: Path) -> Client:
        """What the one recording shows last, once it is complete."""
        await self.until(lambda: list(kept.glob("*.fbs")))
        [file] = kept.iterdir()
        reader = FbsReader()
        said = b"".join(block.data for block in reader.receive(file.read_bytes()))
        self.assertTrue(reader.whole)
        self.assertEqual(said[:18], VERSION + b"\1\1\0\0\0\0")
        client = Client(640, 480)
        client.receive(said[18 + 24 + unpack_from(">I", said, 18 + 20)[0] :])
        return client

    async def test_recorded(self) -> None:
        """Of those who share a console who must be is recorded, whatever that one asks to see."""
        kept = self.keep()
        await self.ticket()
        await self.ticket(OTHER, record=True, ops=["view"])
        plain, recorded = await self.join(), await self.join(OTHER)
        await self.sees(plain)
        self.machine.screen.draw(100, 20, 300, 200)
        await self.sees(plain)
        await self.pause(0.1)
        [part] = kept.iterdir()
        self.assertEqual(part.suffix, ".part")
        recorded.transport.abortConnection()
        client = await self.film(kept)
        self.assertEqual(client.screen, self.machine.screen.rgb)
        self.assertFalse(plain.lost)

    async def test_slow_disk(self) -> None:
        """When the disk does not keep up the user sees all the same; the recording shows what is new then."""
        kept, held = self.keep(), Deferred[None]()
        threads = self.recordings._in_thread

        def slow(function: Callable[..., Any], *args: object) -> Deferred[Any]:
            if function.__name__ != "write" or held.called:
                return threads(function, *args)
            waiting: Deferred[Any] = Deferred()
            held.addCallback(lambda _: threads(function, *args).chainDeferred(waiting))
            return waiting

        self.recordings._in_thread = slow
        await self.ticket(record=True)
        page = await self.join()
        for _ in range(6):
            self.machine.screen.draw(0, 0, 640, 480)
            await self.sees(page)
        [part] = kept.iterdir()
        held.callback(None)
        await self.until(lambda: part.stat().st_size > 1 << 20)
        await self.pause(0.5)
        page.transport.abortConnection()
        client = await self.film(kept)
        self.assertEqual(client.screen, self.machine.screen.rgb)
        self.assertLess(client.updates, 6 * 2)

    async def test_full(self) -> None:
        """Who must be recorded and cannot be any more is sent away with the reason; others stay."""
        kept = self.keep(2000)
        await self.ticket()
        await self.ticket(OTHER, record=True)
        plain, recorded = await self.join(), await self.join(OTHER)
        while recorded.closed is None:
            self.machine.screen.draw(0, 0, 640, 480)
            await self.sees(plain)
        code, reason = recorded.closed
        self.assertEqual(code, 4503)
        self.assertIn("recording", reason)
        await self.film(kept)
        await self.sees(plain)

    async def test_not_reached(self) -> None:
        """Of a console that refuses us nothing is left."""
        kept = self.keep()
        await self.ticket(record=True, secret="wrong")
        self.assertEqual((await self.arrive()).status, 502)
        await self.until(lambda: not list(kept.iterdir()))

    async def test_other_secret(self) -> None:
        """Who shows another password does not get in by what somebody else has shown."""
        await self.ticket()
        await self.ticket(OTHER, secret="wrong")
        await self.join()
        self.assertEqual((await self.arrive(OTHER)).status, 502)
        self.assertEqual(len(self.reached), 2)

    async def test_other_name(self) -> None:
        """Where the console knows the first one by name, somebody else does not pass for that one."""
        await self.ticket(principal="alice")
        await self.ticket(OTHER, principal="bob")
        await self.join()
        [hub] = self.consoles.hubs._hubs.values()
        hub.user = "alice"
        await self.join()
        self.assertEqual(len(self.reached), 1)
        await self.join(OTHER)
        self.assertEqual(len(self.reached), 2)

    async def test_other_user(self) -> None:
        """Who has tickets for two users of a console comes as each of them, and as no one else."""
        await self.ticket(principal="alice")
        await self.join()
        [hub] = self.consoles.hubs._hubs.values()
        hub.user = "alice"
        await self.ticket(OTHER, principal="bob")
        for number, user in enumerate(("x", "y", "alice"), 2):
            ticket = await self.registry.get(OTHER)
            assert ticket is not None
            ticket.grant = evolve(ticket.grant, user=user)
            await self.join(OTHER)
            [*_, last] = self.consoles.hubs._hubs.values()
            last.user = hub.user if user == "alice" else user
            self.assertEqual(len(self.reached), min(number, 3))

    async def test_policy(self) -> None:
        """Who comes late is judged by the rules of now, though nothing is dialed."""
        await self.ticket()
        await self.join()
        rule = parse_rule(f"*://{HOST}:{self.target}")
        self.consoles.reach.dialer.policy = Policy([], [rule], [])
        late = await self.arrive()
        self.assertEqual((late.status, len(self.reached), self.ops()), (403, 1, ["control"]))

    async def test_no_password(self) -> None:
        """A shared console asks nobody for a password: without one in the ticket it is refused, for all."""
        self.types = (2,)
        await self.ticket(uses=2)
        for _ in range(2):
            pages = [await self.ask(), await self.ask()]
            await self.until(lambda: all(it.head for it in pages))  # noqa: B023 (asked at once)
            self.assertEqual([it.status for it in pages], [502, 502])
        self.assertEqual((len(self.sessions), len(self.consoles.hubs)), (0, 0))

    async def test_silent(self) -> None:
        """All who wait for a console that says nothing are refused in time, and may come again."""
        self.consoles.login_timeout = 0.1
        self.silent = True
        await self.ticket(uses=2)
        pages = [await self.ask(), await self.ask()]
        await self.until(lambda: all(it.head for it in pages))
        self.assertEqual([it.status for it in pages], [504, 504])
        await self.until(lambda: self.machine.lost)
        self.silent = False
        self.consoles.login_timeout = 10
        await self.join()
        await self.join()

    async def test_first_leaves_early(self) -> None:
        """Who dialed may leave before the console is there; the others get it."""
        self.silent = True
        await self.ticket()
        await self.ticket(OTHER)
        first = await self.ask()
        await self.until(lambda: self.reached)
        second = await self.ask(f"/console/{OTHER}")
        await self.until(lambda: len(self.sessions) == 2)
        await self.registry.revoke(ID)
        await self.until(lambda: first.lost)
        self.assertEqual(first.status, 403)
        self.machine.transport.write(VERSION)
        await self.until(lambda: second.head)
        await self.shake(second)
        self.assertEqual((len(self.reached), self.ops()), (1, ["control"]))

    async def test_all_wait_and_leave(self) -> None:
        """When nobody waits any more, the connection to the console is given up."""
        self.silent = True
        await self.ticket(uses=1)
        page = await self.ask()
        await self.until(lambda: self.reached)
        page.transport.abortConnection()
        await self.until(lambda: self.machine.lost and not len(self.sessions))
        self.assertEqual(len(self.consoles.hubs), 0)

    # -- who types -------------------------------------------------------------------------

    async def test_view_only(self) -> None:
        """Who may only look types nothing, alone or not."""
        await self.ticket(ops=["view"])
        page = await self.join()
        page.send(key(0x61))
        await self.sees(page)
        self.assertEqual((self.machine.screen.typed, self.ops()), ([], ["view"]))

    async def test_view_only_in_control(self) -> None:
        """Not even a mistake about who is in control lets somebody type whose ticket says no."""
        await self.ticket(ops=["view"])
        page = await self.join()
        [hub] = self.consoles.hubs._hubs.values()
        hub._give(next(iter(hub._viewers)))
        page.send(key(0x61))
        await self.sees(page)
        self.assertEqual(self.machine.screen.typed, [])

    async def test_takeover(self) -> None:
        """It takes the right to take over; sessions show who types; when that one leaves, it goes back."""
        await self.ticket()
        await self.ticket(OTHER, ops=["takeover"])
        first, second = await self.join(), await self.join()
        self.assertEqual(self.ops(), ["control", "view"])
        third = await self.join(OTHER)
        self.assertEqual(self.ops(), ["view", "view", "control"])
        for page in (first, second):
            page.send(key(0x61))
        third.send(key(0x62))
        for page in (first, second, third):
            await self.sees(page)
        self.assertEqual(self.machine.screen.typed, [key(0x62)])
        third.transport.write(close(1000))
        await self.until(lambda: self.ops() == ["control", "view"])
        first.send(key(0x63))
        await self.until(lambda: key(0x63) in self.machine.screen.typed)
        self.assertEqual(self.machine.screen.typed, [key(0x62), key(0x62, False), key(0x63)])

    async def test_takeover_is_audited(self) -> None:
        """The trail says who was in control when, and from whom it was taken."""
        await self.ticket(principal="alice")
        await self.ticket(OTHER, ops=["takeover"], principal="bob")
        await self.join()
        page = await self.join(OTHER)
        page.transport.write(close(1000))
        await self.until(lambda: len(self.ops()) == 1)
        found = [(event, it["principal"], it.get("op")) for event, it in self.history]
        begin = [("session.open", "alice", None), ("session.op", "alice", "control")]
        taken = [("session.op", "alice", "view"), ("session.op", "bob", "control")]
        back = [("session.op", "alice", "control"), ("session.close", "bob", None)]
        self.assertEqual(found, [*begin, ("session.open", "bob", None), *taken, *back])

    async def test_stalled_in_handshake(self) -> None:
        """Who has not seen the screen yet is not in control, whatever its ticket says."""
        await self.ticket(ops=["takeover"])
        stuck, page = await self.arrive(), await self.join()
        self.assertEqual(self.ops(), ["view", "control"])
        await self.shake(stuck)
        self.assertEqual(self.ops(), ["control", "view"])
        await self.sees(page)

    # -- the end ---------------------------------------------------------------------------

    async def test_revoked(self) -> None:
        """A revoked ticket ends its own viewers in the same turn, and with the last one the connection."""
        await self.ticket()
        await self.ticket(OTHER)
        mine, yours = [await self.join(), await self.join()], await self.join(OTHER)
        await self.registry.revoke(ID)
        self.assertEqual(self.ops(), ["control"])
        [hub] = self.consoles.hubs._hubs.values()
        self.assertEqual(len(hub._viewers), 1)
        for page in mine:
            await self.until(lambda: page.closed)  # noqa: B023 (asked at once)
            self.assertEqual(page.closed, REVOKED)
        await self.sees(yours)
        await self.registry.revoke(OTHER)
        await self.until(lambda: yours.closed and self.machine.lost)
        self.assertEqual((yours.closed, len(self.consoles.hubs)), (REVOKED, 0))

    async def test_expired(self) -> None:
        """A ticket that expires ends its own viewer, and nobody else."""
        await self.ticket()
        await self.ticket(OTHER, timeout=3)
        stays, goes = await self.join(), await self.join(OTHER)
        await self.until(lambda: goes.closed)
        self.assertEqual((goes.closed or (0, ""))[0], 4401)
        await self.sees(stays)
        self.assertEqual(self.ops(), ["control"])

    async def test_killed(self) -> None:
        """An operator ends one viewer, and nobody else."""
        await self.ticket()
        pages = [await self.join(), await self.join()]
        self.sessions.kill(self.sessions.list()[0].id)
        await self.until(lambda: pages[0].closed)
        self.assertEqual((pages[0].closed or (0, ""))[0], 4403)
        await self.sees(pages[1])
        self.assertEqual(self.ops(), ["control"])

    async def test_console_ends(self) -> None:
        """When the console hangs up, all get the same good-bye, also those who are on their way."""
        await self.ticket()
        pages = [await self.join(), await self.join(), await self.arrive()]
        self.machine.transport.loseConnection()
        for page in pages:
            await self.until(lambda: page.closed)  # noqa: B023 (asked at once)
            self.assertEqual(page.closed, OVER)
            page.transport.write(close(1000))
        await self.until(lambda: not len(self.sessions) and not len(self.consoles.hubs))
        # And whoever comes then has a new one.
        await self.join()
        self.assertEqual(len(self.reached), 2)

    async def test_leaves(self) -> None:
        """The connection ends with the last one who leaves, with a good-bye."""
        await self.ticket()
        pages = [await self.join(), await self.join()]
        for number, page in enumerate(pages):
            self.assertFalse(self.machine.lost)
            page.transport.write(close(1000))
            await self.until(lambda: len(self.sessions) == 1 - number)  # noqa: B023 (asked at once)
        await self.until(lambda: self.machine.lost)
        self.assertTrue(self.machine.clean)

    async def test_nonsense(self) -> None:
        """A browser that breaks the rules, or wants pixels that nobody makes here, ends alone."""
        await self.ticket()
        stays = await self.join()
        for said in (b"GET / HTTP/1.1\r\n\r\n", bytes([0, 0, 0, 0, 16, 16]) + bytes(14)):
            page = await self.join()
            page.send(said)
            await self.until(lambda: page.closed)  # noqa: B023 (asked at once)
            self.assertEqual((page.closed or (0, ""))[0], 4400)
        await self.sees(stays)

    async def test_idle(self) -> None:
        """Who neither does nor sees anything ends, and only that one."""
        self.consoles.idle_timeout = 1.5
        await self.ticket()
        idle, busy = await self.join(), await self.join()
        for _ in range(60):
            await deferLater(self.reactor, 0.05)
            busy.send(key(0x61))
            if idle.closed:
                break
        self.assertEqual(((idle.closed or (0, ""))[0], busy.closed), (4408, None))
