"""Targets before a real libvirtd: depth, restarts, hangs, streams that nobody drains."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Coroutine
from typing import Any, ClassVar
from uuid import uuid4

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from gateway import errors
from gateway.core.clock import wall
from gateway.core.dial import Dialer
from gateway.core.policy import Policy, parse_rule
from gateway.rpc.connection import LibvirtConnection
from gateway.rpc.connector import dialing
from gateway.rpc.target import Target
from gateway.rpc.transports import Transports
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import Procedure, procedure
from gateway.wire.libvirt_url import parse_url
from tests.functional.case import PYTEST_ONLY
from tests.functional.daemon_case import daemon_of
from tests.functional.libvirt_daemon import Libvirtd
from tests.functional.processes import DEADLINE
from tests.support import ReactorTestCase

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

reactor: Any = _reactor
TEST = {"name": "test", "uuid": "6695eb01-f6a4-8304-79aa-97f2502e193f", "id": 1}
_GUEST = "<domain type='test'><name>{}</name><memory>65536</memory><os><type>hvm</type></os></domain>"
_VOLUME = "<volume><name>{}</name><capacity>4096</capacity><target><format type='raw'/></target></volume>"


class RealTargetCase(ReactorTestCase):
    """A daemon for the class, and targets that lead to it."""

    timeout = 200.0
    settings: ClassVar[dict[str, str | int]] = {}
    daemon: ClassVar[Libvirtd]

    @classmethod
    def setUpClass(cls) -> None:
        cls.daemon = daemon_of(cls, cls.settings)

    def target(self, driver: str = "test", transport: str = "unix", **options: Any) -> Target:
        """A target that is stopped after the test."""
        url = parse_url(self.daemon.url(driver, transport))
        dialer = Dialer(reactor, Policy([parse_rule("*://127.0.0.0/8:*"), parse_rule("*://[::1]:*")]))
        dial = dialing(Transports(reactor, dialer, wall).connect, url, reactor)
        target = Target("hv1", url, dial=dial, clock=reactor, **options)
        self.addCleanup(target.stop)
        return target

    async def caught(self, call: Coroutine[Any, Any, Any]) -> errors.GatewayError | None:
        """What *call* fails with."""
        try:
            await call
        except errors.GatewayError as error:
            return error
        return None

    async def pause(self, seconds: float) -> None:
        await deferLater(reactor, seconds)

    def run_all(self, *works: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        """Run them beside each other."""
        return gatherResults([Deferred.fromCoroutine(work) for work in works], consumeErrors=True)


class DepthTest(RealTargetCase):
    """Many calls at a time."""

    def test_sixteen(self) -> Deferred[Any]:
        """Sixteen callers at a time over TLS never stall: calls take less than a second."""
        return Deferred.fromCoroutine(self._deep("tls"))

    def test_all_transports(self) -> Deferred[Any]:
        """Nor do they over tcp and unix."""
        return self.run_all(self._deep("tcp"), self._deep("unix"))

    async def _deep(self, transport: str) -> None:
        target = self.target(transport=transport)
        times: list[float] = []

        async def caller(number: int) -> None:
            for turn in range(40):
                # No two ask the same; the daemon finds a domain by its uuid alone.
                dom = {**TEST, "id": number * 1000 + turn}
                name = "DOMAIN_GET_INFO" if number % 2 else "DOMAIN_GET_OS_TYPE"
                began = reactor.seconds()
                await target.call(name, {"dom": dom}, principal=str(number % 3), deadline=10)
                times.append(reactor.seconds() - began)

        await self.run_all(*(caller(number) for number in range(16)))
        self.assertLess(sorted(times)[len(times) * 9 // 10], 1.0)
        self.assertLess(max(times), 5.0)
        self.assertEqual((target.generation, target.version), (1, 9_000_000))

    def test_readonly(self) -> Deferred[Any]:
        """What a read-only caller writes is refused by the daemon itself; others write."""

        async def work() -> None:
            target = self.target(transport="tls")
            for call in (
                target.call("DOMAIN_SUSPEND", {"dom": TEST}, readonly=True),
                self.target(readonly=True).call("DOMAIN_SUSPEND", {"dom": TEST}),
            ):
                refusal = await self.caught(call)
                assert isinstance(refusal, LibvirtError)
                self.assertEqual(refusal.code, 29)
            await target.call("DOMAIN_SUSPEND", {"dom": TEST})
            state = await target.call("DOMAIN_GET_STATE", {"dom": TEST, "flags": 0}, readonly=True)
            self.assertEqual(state["state"], 3)
            await target.call("DOMAIN_RESUME", {"dom": TEST})

        return Deferred.fromCoroutine(work())

    def test_kept(self) -> Deferred[Any]:
        """What the test driver was told is still known after the calls, for a connection stays."""

        async def work() -> None:
            target = self.target()
            await target.call("DOMAIN_DEFINE_XML", {"xml": _GUEST.format("kept")})
            await self.pause(0.5)
            found = await target.call("DOMAIN_LOOKUP_BY_NAME", {"name": "kept"})
            self.assertEqual(found["dom"]["name"], "kept")

        return Deferred.fromCoroutine(work())


class RestartTest(RealTargetCase):
    """The daemon goes, and comes again."""

    def setUp(self) -> None:
        self.pool = f"p{uuid4().hex[:8]}"
        self.daemon.pool(self.pool)

    def test_politely(self) -> Deferred[Any]:
        """A restart under load: reads succeed; a write is done, not done or maybe done, and never twice."""
        return Deferred.fromCoroutine(self._restart(signal.SIGTERM))

    def test_hard(self) -> Deferred[Any]:
        """So it is when the daemon is killed."""
        return Deferred.fromCoroutine(self._restart(signal.SIGKILL))

    async def _restart(self, number: int) -> None:
        target = self.target("qemu", "tls")
        pool = (await target.call("STORAGE_POOL_LOOKUP_BY_NAME", {"name": self.pool}))["pool"]
        done: set[str] = set()
        maybe: set[str] = set()
        undone: set[str] = set()
        reads = 0
        over = False

        async def reader(who: int) -> None:
            nonlocal reads
            while not over:
                name = f"none{who}-{reads}"
                refusal = await self.caught(target.call("DOMAIN_LOOKUP_BY_NAME", {"name": name}))
                assert isinstance(refusal, LibvirtError), refusal
                self.assertEqual(refusal.code, 42)
                await target.call("CONNECT_GET_HOSTNAME")
                reads += 1

        async def writer(who: int) -> None:
            count = 0
            while not over:
                name = f"v{who}-{count}"
                count += 1
                asked = {"pool": pool, "xml": _VOLUME.format(name), "flags": 0}
                failure = await self.caught(target.call("STORAGE_VOL_CREATE_XML", asked))
                if failure is None:
                    done.add(name)
                elif failure.details.get("maybe_executed"):
                    maybe.add(name)
                elif isinstance(failure, LibvirtError) and failure.code == 49:
                    undone.add(name)  # the pool is not there yet
                else:
                    raise failure
                await self.pause(0.01)

        async def load() -> None:
            nonlocal over
            try:
                await self.until(lambda: reads > 10 and len(done) > 10, "all are at work")
                await deferToThread(self.daemon.restart, number)
                await self.pause(1.5)
            finally:
                over = True

        await self.run_all(load(), *map(reader, range(4)), *map(writer, range(6)))
        made = {path.name for path in (self.daemon.home / "pool" / self.pool).iterdir()}
        self.assertLessEqual(done, made)
        self.assertEqual(undone & made, set())
        self.assertEqual(made - done - maybe, set())
        self.assertGreaterEqual(target.generation, 2)

    def test_events(self) -> Deferred[Any]:
        """Who watches hears of the loss, gets a new connection, and events on that."""

        async def work() -> None:
            target = self.target()
            told: list[object] = []
            events: Deferred[tuple[str, int]] = Deferred()

            def up(connection: LibvirtConnection) -> None:
                register = procedure("CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY")
                registered = connection.call(register, {"eventID": 0, "dom": None})
                registered.addCallbacks(lambda _: told.append("up"), lambda _: None)

            def event(known: Procedure, values: dict[str, Any]) -> None:
                if not events.called:
                    events.callback((values["dom"]["name"], values["event"]))

            target.watch(event, up, told.append)
            await self.until(lambda: told.count("up") == 1, "a connection")
            await deferToThread(self.daemon.restart, signal.SIGKILL)
            await self.until(lambda: told.count("up") == 2, "a new connection")
            await target.call("DOMAIN_SUSPEND", {"dom": TEST})
            self.assertEqual(await events.addTimeout(DEADLINE, reactor), ("test", 3))
            self.assertEqual((told[0], told[-1], len(told)), ("up", "up", 3))

        return Deferred.fromCoroutine(work())

    def test_unused_while_away(self) -> Deferred[Any]:
        """The first call after a restart that nobody noticed succeeds at once."""

        async def work() -> None:
            target = self.target(transport="tls")
            await target.call("DOMAIN_GET_STATE", {"dom": TEST, "flags": 0})
            await deferToThread(self.daemon.restart, signal.SIGTERM)
            began = reactor.seconds()
            await target.call("DOMAIN_GET_STATE", {"dom": TEST, "flags": 0})
            self.assertLess(reactor.seconds() - began, 3.0)

        return Deferred.fromCoroutine(work())


class HangTest(RealTargetCase):
    """The daemon, or a guest, does not answer."""

    settings: ClassVar[dict[str, str | int]] = {"min_workers": 1, "max_workers": 2}

    def test_stopped_daemon(self) -> Deferred[Any]:
        """A daemon that stands still makes nobody wait beyond his deadline; when it goes on, all is well."""

        async def work() -> None:
            target = self.target(transport="tls")
            state = {"dom": TEST, "flags": 0}
            await target.call("DOMAIN_GET_STATE", state)
            await target.call("DOMAIN_GET_INFO", {"dom": TEST})
            os.kill(self.daemon.pid, signal.SIGSTOP)
            try:
                began = reactor.seconds()
                calls: list[tuple[str, dict[str, object], bool]] = [
                    ("DOMAIN_GET_STATE", state, False),
                    ("DOMAIN_SUSPEND", {"dom": TEST}, True),
                    ("CONNECT_GET_HOSTNAME", {}, False),
                ]
                for name, asked, executed in calls:
                    failure = await self.caught(target.call(name, asked, deadline=1.0))
                    assert isinstance(failure, errors.DeadlinePassed)
                    self.assertEqual(failure.maybe_executed, executed)
                self.assertLess(reactor.seconds() - began, 8.0)
            finally:
                os.kill(self.daemon.pid, signal.SIGCONT)
            # The write is done now, as was said it might be.
            for _ in range(400):
                now = (await target.call("DOMAIN_GET_STATE", state, deadline=5.0))["state"]
                if now == 3 and not target.describe()["in_flight"]:
                    break
                await self.pause(0.05)
            else:
                self.fail("the write was lost")
            self.assertEqual(target.generation, 1)

        return Deferred.fromCoroutine(work())

    def test_stopped_guest(self) -> Deferred[Any]:
        """While a guest keeps all ordinary workers, the calls of the priority workers pass."""

        async def work() -> None:
            target = self.target("qemu")
            uuid = await deferToThread(self.daemon.tiny)
            (guest,) = self.daemon.guests()
            dom = {"name": "tiny", "uuid": uuid, "id": -1}
            os.kill(guest, signal.SIGSTOP)
            stuck = [
                Deferred.fromCoroutine(
                    self.caught(target.call("DOMAIN_SUSPEND", {"dom": dom}, principal=str(it), deadline=1.0))
                )
                for it in range(20)
            ]
            failures = await gatherResults(stuck)
            self.assertEqual({type(failure) for failure in failures}, {errors.DeadlinePassed})
            late = await self.caught(target.call("DOMAIN_GET_INFO", {"dom": dom}, deadline=1.0))
            self.assertIsInstance(late, errors.DeadlinePassed)
            listed = await target.call(
                "CONNECT_LIST_ALL_DOMAINS", {"need_results": 1, "flags": 0}, deadline=10.0
            )
            self.assertEqual([it["uuid"] for it in listed["domains"]], [uuid])
            os.kill(guest, signal.SIGCONT)
            await target.call("DOMAIN_DESTROY", {"dom": dom}, deadline=20.0)
            await target.call("DOMAIN_GET_INFO", {"dom": dom}, deadline=10.0)

        return Deferred.fromCoroutine(work())


class StreamTest(RealTargetCase):
    """Streams beside calls."""

    def test_idle_console(self) -> Deferred[Any]:
        """A console that does not drain stalls its own connection and nothing else."""

        async def work() -> None:
            target = self.target("qemu")
            uuid = await deferToThread(self.daemon.tiny)
            dom = {"name": "tiny", "uuid": uuid, "id": -1}
            console = {"dom": dom, "dev_name": None, "flags": 1}
            _, stream = await target.stream("DOMAIN_OPEN_CONSOLE", console)
            stream.pauseProducing()
            for _ in range(40):
                stream.write(bytes(16384))
            await self.pause(0.5)
            began = reactor.seconds()
            for number in range(50):
                await target.call("DOMAIN_GET_INFO", {"dom": {**dom, "id": number}}, deadline=5.0)
                await target.call("DOMAIN_GET_STATE", {"dom": dom, "flags": 0}, deadline=5.0)
            self.assertLess(reactor.seconds() - began, 15.0)
            self.assertEqual(target.describe()["streams"], 1)
            stream.close()

        return Deferred.fromCoroutine(work())

    def test_screen(self) -> Deferred[Any]:
        """A descriptor that is passed leads to the guest's screen."""

        async def work() -> None:
            target = self.target("qemu")
            uuid = await deferToThread(self.daemon.tiny, "screen")
            dom = {"name": "screen", "uuid": uuid, "id": -1}
            got = await target.descriptor("DOMAIN_OPEN_GRAPHICS_FD", {"dom": dom, "idx": 0, "flags": 1})
            with socket.socket(fileno=got) as screen:
                screen.settimeout(DEADLINE)
                self.assertEqual(await deferToThread(screen.recv, 12), b"RFB 003.008\n")

        return Deferred.fromCoroutine(work())

    def test_picture(self) -> Deferred[Any]:
        """A picture comes whole, and leaves no connection."""

        async def work() -> None:
            target = self.target(transport="tls")
            values, stream = await target.stream("DOMAIN_SCREENSHOT", {"dom": TEST, "screen": 0, "flags": 0})
            pieces: list[bytes] = []
            await stream.deliver(pieces.append)
            stream.close()
            self.assertEqual(values["mime"], "image/png")
            self.assertEqual(b"".join(pieces)[:8], b"\x89PNG\r\n\x1a\n")
            await self.until(lambda: not target.describe()["streams"], "the end of the stream")

        return Deferred.fromCoroutine(work())
