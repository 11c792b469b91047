"""kill -9 of the gateway, of libvirtd, and of both, under load: nothing is lost, and nothing done twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, ClassVar
from uuid import uuid4

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from gateway import errors
from gateway.rpc import commands
from gateway.rpc.client import Gateway as Client
from gateway.wire.libvirt_error import LibvirtError
from tests.functional.case import PYTEST_ONLY
from tests.functional.libvirt_daemon import tiny
from tests.functional.processes import wait_for
from tests.functional.rpc_case import RpcCase
from tests.functional.rpc_load import Boots, Hand, Maker, Rivals, Teller, Tries, Witness

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

TEST = "<domain type='test'><name>{}</name><memory>8192</memory><os><type>hvm</type></os></domain>"
#: A guest that is never started.
PLAIN = """\
<domain type='qemu'><name>{}</name><uuid>{}</uuid><memory>16384</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os></domain>
"""


class RealRpcKillsTest(RpcCase):
    """Guests of QEMU that count their runs, and domains of the test driver for volume."""

    boots: ClassVar[Boots]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.boots = Boots(cls.daemon.home)

    def setUp(self) -> None:
        super().setUp()
        self.tries = Tries(self.reactor)
        self.strikes: list[float] = []

    # What is there.

    def guest(self, name: str) -> Callable[[], int]:
        """Define a guest; what counts its runs."""
        uuid = str(uuid4())
        emulator = f"<devices>\n    <emulator>{self.boots.program}</emulator>"
        self.daemon.define(tiny(name, uuid).replace("<devices>", emulator))
        return partial(self.boots.of, uuid)

    def token(self, principal: str = "alice") -> Callable[[], str]:
        """A fresh ticket whenever one is asked for."""

        def fresh() -> str:
            try:
                return self.grant(principal=principal)
            except OSError:
                raise errors.Unavailable from None

        return fresh

    async def lasting(self, principal: str = "alice") -> Client:
        """A client that comes back."""
        return await self.client(self.token(principal), reconnect=True, pause=0.1, longest=0.4)

    async def hand(self, name: str, target: str, boots: Callable[[], int] | None = None) -> Hand:
        """Somebody at work on one domain, by two connections."""
        hosts = [await (await self.lasting()).open(target) for _ in range(2)]
        return Hand(self.tries, name, [await host.lookup(name=name) for host in hosts], boots)

    async def teller(self, target: str) -> Teller:
        """Somebody who is told all about a target."""
        teller = Teller(self.reactor)
        await teller.subscribe(await (await self.lasting()).open(target))
        return teller

    def mark(self, witness: Witness) -> None:
        """Wait until *witness*, who is told of everything in its order, has heard of all until now."""
        before = witness.seen("test", "Suspended")

        def heard() -> bool:
            for command in ("suspend", "resume"):
                self.virsh(command, "test")
            return witness.seen("test", "Suspended") > before

        wait_for(heard, "the witness listens")

    # What happens.

    async def kill_gateway(self) -> None:
        self.strikes.append(self.reactor.seconds())
        await deferToThread(self.gateway.kill)
        await deferToThread(self.gateway.start)

    async def kill_daemon(self) -> None:
        self.strikes.append(self.reactor.seconds())
        await deferToThread(self.daemon.restart, signal.SIGKILL)

    async def kill_both(self) -> None:
        self.strikes.append(self.reactor.seconds())
        await deferToThread(self.gateway.kill)
        await deferToThread(self.daemon.restart, signal.SIGKILL)
        await deferToThread(self.gateway.start)

    async def load(
        self, workers: Sequence[Hand | Maker | Rivals], strikes: Sequence[Callable[[], Awaitable[None]]]
    ) -> None:
        """Let *workers* work, and *strikes* happen meanwhile; work goes on after the last of them."""
        working = [Deferred.fromCoroutine(worker.work()) for worker in workers]
        for number, strike in enumerate(strikes):
            await self.sleep(0.9 + 0.37 * number)
            await strike()
        cycles = [it.cycles for it in workers]
        await self.until(
            lambda: all(it.cycles > was for it, was in zip(workers, cycles, strict=True)),
            f"all at work again: {[it.problems for it in workers]}",
            60.0,
        )
        for worker in workers:
            worker.stopped = True
        for each in working:
            await each
        for worker in workers:
            self.assertEqual(worker.problems, [])

    async def judge(self, teller: Teller, hands: Sequence[Hand], driver: str) -> None:
        """Who was told knows the truth, and has heard of everything."""
        names = self.virsh("list", "--all", "--name", driver=driver).split()
        words = {"running": "running", "shut off": "shutoff"}
        truth = {
            self.virsh("domuuid", name, driver=driver).strip(): words[
                self.virsh("domstate", name, driver=driver).strip()
            ]
            for name in names
        }
        # After the last kill, too, everything is told anew; of two in a row once may do.
        await self.until(lambda: teller.resyncs[-1] > self.strikes[-1], "a resync")
        await self.until(lambda: teller.states == truth, f"{teller.states} are {truth}")
        self.assertEqual(teller.problems, [])
        for hand in hands:
            self.assertEqual(teller.missed(hand, self.strikes), [], hand.runs)

    # The promises.

    async def test_gateway(self) -> None:
        """The gateway is killed: each Start is done once, and libvirtd's own record agrees."""
        witness = Witness(self.home / "witness", self.daemon.url("test"))
        self.addCleanup(witness.stop)
        witness.start()
        self.mark(witness)
        for name in ("t1", "t2", "t3"):
            self.daemon.define(TEST.format(name), driver="test")
        hands = [await self.hand(name, "test") for name in ("t1", "t2")]
        guest = await self.hand("g1", "qemu", self.guest("g1"))
        parties = [await (await self.lasting(who)).open("test") for who in ("alice", "bob")]
        rivals = Rivals(self.tries, [await host.lookup(name="t3") for host in parties])
        test, qemu = await self.teller("test"), await self.teller("qemu")
        repeating = [
            Deferred.fromCoroutine(hand.repeat(await (await self.lasting()).open(target)))
            for hand, target in ((hands[0], "test"), (guest, "qemu"))
        ]
        await self.load([*hands, guest, rivals], [self.kill_gateway] * 2)
        for each in repeating:
            await each
        await self.judge(test, hands, "test")
        await self.judge(qemu, [guest], "qemu")
        self.mark(witness)
        for hand in hands:
            self.assertEqual(hand.problems, [])
            started = witness.seen(hand.name, "Started")
            self.assertTrue(len(hand.runs) <= started <= len(hand.runs) + hand.doubts, (started, hand))
        started = witness.seen("t3", "Started")
        self.assertTrue(rivals.dones <= started <= rivals.dones + rivals.doubts, (started, rivals))

    async def test_daemon(self) -> None:
        """libvirtd is killed, alone and with the gateway: guests that count say that none ran twice."""
        hands = [await self.hand(name, "qemu", self.guest(name)) for name in ("d1", "d2", "d3")]
        maker = Maker(
            self.tries, await (await self.lasting()).open("qemu"), lambda name: PLAIN.format(name, uuid4())
        )
        teller = await self.teller("qemu")
        self.guest("idle")
        others = set(self.daemon.guests())
        self.virsh("start", "idle", driver="qemu")
        (idle,) = set(self.daemon.guests()) - others

        async def kill_daemon_and_guest() -> None:
            """What happens while nobody looks is told afterwards."""
            self.strikes.append(self.reactor.seconds())
            await deferToThread(self.daemon.kill)
            os.kill(idle, signal.SIGKILL)
            await deferToThread(self.daemon.start)

        await self.load([*hands, maker], [self.kill_both, kill_daemon_and_guest])
        await self.judge(teller, hands, "qemu")
        self.assertNotIn("made-", self.virsh("list", "--all", "--name", driver="qemu"))

    async def test_stopped(self) -> None:
        """libvirtd stops while calls wait, and goes on or is killed: what was done is told, and only that."""
        boots = self.guest("s1")
        host = await (await self.lasting()).open("qemu")
        domain = await host.lookup(name="s1")
        start = partial(self.start, host, domain.uuid)
        # Now there is a connection for calls without priority.
        await domain.get_xml()
        os.kill(self.daemon.pid, signal.SIGSTOP)
        self.addCleanup(self.go_on)
        late = await self.raises(errors.DeadlinePassed, start("late", 0.5))
        self.assertTrue(late.maybe_executed)
        os.kill(self.daemon.pid, signal.SIGCONT)
        outcome = await Tries(self.reactor, 40).definite(partial(start, "late", None))
        self.assertEqual((outcome.word, boots()), ("done", 1))
        await domain.destroy(request_id="late, and over")
        os.kill(self.daemon.pid, signal.SIGSTOP)
        self.strikes.append(self.reactor.seconds())
        reads = [Deferred.fromCoroutine(host.list_domains()) for _ in range(20)]
        writes = [
            Deferred.fromCoroutine(self.tries.definite(partial(domain.start, request_id=f"lost {number}")))
            for number in range(6)
        ]
        await self.sleep(0.5)
        await self.kill_daemon()
        for read in reads:
            self.assertIn("s1", [it.name for it in await read])
        outcomes = [await write for write in writes]
        self.assertLessEqual(sum(it.word == "done" for it in outcomes), 1, outcomes)
        running = (await domain.get_state()).state == "running"
        self.assertEqual(boots() - 1, int(running), outcomes)
        if not running:
            await domain.start(request_id="at last")
        self.assertEqual(boots(), 2)

    def go_on(self) -> None:
        """Nothing that has stopped can be ended in order."""
        os.kill(self.daemon.pid, signal.SIGCONT)

    async def start(self, host: Any, uuid: str, request: str, deadline: float | None) -> Any:
        arguments = {"dom": {"name": "", "uuid": uuid, "id": -1}, "flags": 0}
        return await host.call("DOMAIN_CREATE_WITH_FLAGS", arguments, deadline=deadline, request_id=request)

    async def test_client(self) -> None:
        """A client is cut off in the midst of a call: asked again, it is told how that ended."""
        boots = self.guest("c1")
        client = await self.lasting()
        domain = await (await client.open("qemu")).lookup(name="c1")
        tries = Tries(self.reactor, 60)
        in_time = []
        for word in ("start", "destroy"):
            asked = Deferred.fromCoroutine(tries.definite(partial(getattr(domain, word), request_id=word)))
            await self.sleep(0.1)
            in_time.append(not asked.called)
            client._link._side.transport.abortConnection()  # type: ignore[union-attr]  # it is connected
            outcome = await asked
            self.assertEqual(outcome.word, "done", tries.met)
        self.assertIn(True, in_time)
        self.assertEqual(boots(), 1)
        self.assertEqual((await domain.get_state()).state, "shutoff")

    async def test_rivals(self) -> None:
        """Two start one guest as the gateway is killed: it runs once, and one at most is told so."""
        boots = self.guest("r1")
        hosts = [await (await self.lasting(who)).open("qemu") for who in ("alice", "bob")]
        domains = [await host.lookup(name="r1") for host in hosts]
        asked = [
            Deferred.fromCoroutine(self.tries.definite(partial(it.start, request_id="go"))) for it in domains
        ]
        await self.until(boots, "the start")
        await self.kill_gateway()
        words = [(await each).word for each in asked]
        self.assertEqual(boots(), 1)
        self.assertLessEqual(words.count("done"), 1, words)
        # Whoever heard of no end did not wait for that of the start either.
        await self.until(lambda: self.virsh("domstate", "r1", driver="qemu").strip() == "running", "it runs")
        self.assertEqual((await domains[0].get_state()).state, "running")

    async def test_handles(self) -> None:
        """Handles and cookies outlive everybody, for their principal alone, and with the rights they had."""
        self.guest("h1")
        self.guest("h2")
        token = self.grant()
        host = await self.host("qemu", token)
        narrow = await self.host("qemu", self.grant(domains=("h1",)))
        reader = await self.host("qemu", self.grant(), readonly=True)
        cookie, hidden = [(await host.lookup(name=name)).dom for name in ("h1", "h2")]
        self.assertEqual([it.name for it in await narrow.list_domains() if it.name[0] == "h"], ["h1"])
        generations = [host.generation]
        for strike in (self.kill_both, self.kill_daemon):
            await strike()
            if strike != self.kill_daemon:
                await self.raises(errors.Unauthenticated, self.client(token))
            client = await self.client(token := self.grant())
            self.assertEqual((await client.ask(commands.GetState, dom=cookie))["state"], "shutoff")
            found = [it for it in await client.host(host.handle).list_domains() if it.name == "h2"]
            self.assertEqual([it.dom for it in found], [hidden])
            seen = await client.host(narrow.handle).list_domains()
            self.assertEqual([it.name for it in seen if it.name[0] == "h"], ["h1"])
            readonly = client.host(reader.handle)
            refused = await self.raises(LibvirtError, (await readonly.lookup(name="h1")).start())
            self.assertEqual(refused.code, 29)
            generations.append((await client.open("qemu")).generation)
            bob = await self.client(self.grant(principal="bob"))
            await self.raises(errors.NoHandle, bob.host(host.handle).list_domains())
            await self.raises(errors.NoHandle, bob.ask(commands.GetState, dom=cookie))
            await self.raises(errors.NoHandle, client.ask(commands.GetState, dom=cookie[:-4] + "AAAA"))
        self.assertEqual(generations, sorted(set(generations)))
