"""Steps of overload: when they begin and end, and what requests notice of them."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from gateway.core.exchange import Exchange
from gateway.core.metrics import Metrics
from gateway.core.overload import Overload, Step, memory, open_files
from gateway.core.web import GatewaySite

NORMAL, BUSY, SHEDDING = Step.NORMAL, Step.BUSY, Step.SHEDDING


class OverloadCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.used = {"connections": 0.0, "memory": 0.0}
        self.lag = 0.0
        self.metrics = Metrics(0.0)
        self.audited: list[tuple[object, ...]] = []
        self.changes: list[Step] = []
        self.overload = Overload(
            self.clock,
            {"connections": lambda: self.used["connections"], "memory": lambda: self.used["memory"]},
            lambda: self.lag,
            self.metrics,
            self.audit,
            self.changes.append,
            lambda low, high: (low + high) / 2,
        )
        self.overload.startService()

    def audit(self, event: str, /, **fields: object) -> None:
        self.audited.append((event, fields["result"], fields["reason"]))

    def tearDown(self) -> None:
        self.overload.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def after(self, seconds: int, **signals: float) -> Step:
        """The step *seconds* after the signals became *signals*."""
        self.lag = signals.pop("lag", self.lag)
        self.used.update(signals)
        self.clock.pump([1] * seconds)
        return self.overload.step

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"gateway_{name}", labels)


class Steps(OverloadCase):
    """Entering and leaving."""

    def walk(self, *ways: tuple[int, float, Step], signal: str = "connections") -> None:
        for number, (seconds, value, step) in enumerate(ways):
            self.assertIs(self.after(seconds, **{signal: value}), step, (signal, number, value))

    def test_use(self) -> None:
        """Use above 80 and 95 % counts at once; below 70 and 85 % for ten seconds ends it."""
        for signal in self.used:
            self.walk(
                (60, 0.80, NORMAL),
                (1, 0.81, BUSY),
                (60, 0.71, BUSY),
                (10, 0.69, BUSY),
                (1, 0.69, NORMAL),
                (60, 0.79, NORMAL),
                (1, 0.96, SHEDDING),
                (60, 0.86, SHEDDING),
                (10, 0.84, SHEDDING),
                (1, 0.84, BUSY),
                (60, 0.84, BUSY),
                (1, 0.96, SHEDDING),
                (10, 0.10, SHEDDING),
                (1, 0.10, NORMAL),
                signal=signal,
            )

    def test_interrupted(self) -> None:
        """A single bad second makes the ten seconds begin anew."""
        self.walk(
            (1, 0.81, BUSY), (9, 0.1, BUSY), (1, 0.75, BUSY), (10, 0.1, BUSY), (1, 0.1, NORMAL),
            (1, 0.96, SHEDDING), (9, 0.1, SHEDDING), (1, 0.9, SHEDDING), (10, 0.1, SHEDDING),
            (1, 0.1, NORMAL),
        )  # fmt: skip

    def test_lag(self) -> None:
        """Lag counts when it lasts for two seconds: above 100 ms, and above a second."""
        self.walk(
            (60, 0.1, NORMAL),
            (2, 0.11, NORMAL),
            (1, 0.0, NORMAL),
            (2, 0.11, NORMAL),
            (1, 0.11, BUSY),
            (60, 0.08, BUSY),
            (2, 1.1, BUSY),
            (1, 1.1, SHEDDING),
            (60, 0.9, SHEDDING),
            (11, 0.5, BUSY),
            (11, 0.06, NORMAL),
            signal="lag",
        )

    def test_all_must_be_well(self) -> None:
        """One bad signal keeps the step that another one began."""
        self.after(1, connections=0.96)
        self.assertIs(self.after(60, connections=0.1, memory=0.9), SHEDDING)
        self.assertIs(self.after(60, memory=0.1, lag=0.09), BUSY)
        self.assertIs(self.after(11, lag=0.0), NORMAL)

    def test_told_once(self) -> None:
        """Each change is logged, audited and told once; the gauge holds the step."""
        seen: list[Any] = []
        observer = cast(ILogObserver, seen.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        for seconds, use in ((30, 0.9), (30, 0.99), (30, 0.0)):
            self.after(seconds, memory=use)
        self.assertEqual(self.changes, [BUSY, SHEDDING, NORMAL])
        self.assertEqual(
            self.audited,
            [
                ("overload", "busy", "memory"),
                ("overload", "shedding", "memory"),
                ("overload", "normal", None),
            ],
        )
        steps = [event["step"] for event in seen if event.get("log_namespace", "").endswith("Overload")]
        self.assertEqual(steps, ["busy", "shedding", "normal"])
        self.assertEqual(self.sample("overload_state"), 0)
        self.after(1, connections=0.99)
        self.assertEqual(self.sample("overload_state"), 2)

    def test_cause(self) -> None:
        """The trail says when lag was the cause."""
        self.after(5, lag=0.5, connections=0.6)
        self.assertEqual(self.audited, [("overload", "busy", "lag")])

    def test_ready(self) -> None:
        """Readiness is lost while shedding, not while busy."""
        self.assertEqual(self.overload.check(), (True, ""))
        self.after(1, connections=0.9)
        self.assertEqual(self.overload.check(), (True, "busy"))
        self.after(1, connections=0.99)
        self.assertEqual(self.overload.check(), (False, "shedding"))


async def application(exchange: Exchange) -> None:
    """Authorizes whoever asks for ``/good``."""
    await exchange.body.read(1024)
    if exchange.head.target == b"/good":
        exchange.allow_idle(60)
    exchange.respond(200, body=b"ok")


class Requests(OverloadCase):
    """What requests notice."""

    def setUp(self) -> None:
        super().setUp()
        self.site = GatewaySite(self.clock, admit=lambda exchange: self.overload.admit("images", exchange))
        self.site.routes.append(lambda exchange: application)

    def connect(self) -> tuple[Any, StringTransport]:
        channel = self.site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 5000))
        wire = StringTransport()
        channel.makeConnection(wire)
        self.addCleanup(channel._deadline.close)
        return channel, wire

    def ask(
        self,
        method: str = "GET",
        path: str = "/x",
        *fields: str,
        on: tuple[Any, StringTransport] | None = None,
    ) -> tuple[int, list[str]]:
        """Status and header fields of the answer."""
        channel, wire = on or self.connect()
        wire.clear()
        lines = [f"{method} {path} HTTP/1.1", "host: gateway.invalid", "content-length: 0", *fields, "", ""]
        channel.dataReceived("\r\n".join(lines).encode())
        first, *rest = wire.value().decode().partition("\r\n\r\n")[0].split("\r\n")
        return int(first.split()[1]), [line.lower() for line in rest]

    def tearDown(self) -> None:
        for channel in list(self.site._channels):
            channel._deadline.close()
        super().tearDown()

    def test_normal(self) -> None:
        """Connections are kept when there is little to do."""
        status, fields = self.ask()
        self.assertEqual((status, "connection: close" in fields), (200, False))

    def test_busy(self) -> None:
        """A busy gateway answers, and closes the connections of strangers."""
        self.after(1, connections=0.9)
        for path in ("/x", "/good"):
            status, fields = self.ask("GET", path)
            self.assertEqual((status, "connection: close" in fields), (200, True))

    def test_shedding(self) -> None:
        """New requests are refused, with a time to come back, and their connections close."""
        self.after(1, connections=0.99)
        for method, path in (
            ("GET", "/good"),
            ("PUT", "/images/x"),
            ("POST", "/sessions/"),
            ("GET", "/tickets/"),
            ("GET", "/?/tickets/"),
            ("CONNECT", "host.invalid:5900"),
        ):
            status, fields = self.ask(method, path)
            self.assertEqual(status, 503, (method, path))
            self.assertIn("retry-after: 10", fields)
            self.assertIn("connection: close", fields)
        self.assertEqual(self.sample("shed_total", listener="images"), 6)

    def test_never_shed(self) -> None:
        """Renewals and releases pass at any time."""
        self.after(1, connections=0.99)
        for method, path, *fields in (
            ("PUT", "/tickets/"),
            ("DELETE", "/tickets/x"),
            ("POST", "/sessions/", "session-id: x"),
            ("POST", "/sessions/", "x-session-id: x"),
            ("DELETE", "/sessions/x"),
        ):
            self.assertEqual(self.ask(method, path, *fields)[0], 200, (method, path))

    def test_old_before_new(self) -> None:
        """Who was authorised on a connection goes on there, at every step."""
        old = self.connect()
        self.ask("GET", "/good", on=old)
        for use in (0.9, 0.99):
            self.after(1, connections=use)
            status, fields = self.ask("GET", "/x", on=old)
            self.assertEqual((status, "connection: close" in fields), (200, False))

    def test_spread(self) -> None:
        """Times to come back are spread from 5 to 15 seconds, so that not all come at once."""
        overload = Overload(self.clock, {"all": lambda: 1.0}, lambda: 0.0, self.metrics, self.audit)
        overload.look()
        self.site.admit = lambda exchange: overload.admit("images", exchange)
        seen = {next(f for f in self.ask()[1] if f.startswith("retry-after")) for _ in range(200)}
        waits = {int(field.split()[1]) for field in seen}
        self.assertGreater(len(waits), 5)
        self.assertTrue(waits <= set(range(5, 16)), waits)


class Signals(SynchronousTestCase):
    """Where the numbers come from."""

    def test_open_files(self) -> None:
        """One more open file is one more in use; a reserve counts as used, no limit is no signal."""
        used = open_files(1000)
        assert used is not None
        before = used()
        self.assertGreater(before, 0.064)
        with open("/dev/null"):
            self.assertAlmostEqual(used() - before, 0.001)
        self.assertIsNone(open_files(None))

    def test_memory(self) -> None:
        """Resident pages are measured against memory.high of our own cgroup."""
        root = Path(self.mktemp())
        for name, text in (
            ("proc/self/cgroup", "3:cpu:/\n0::/system.slice/gateway.service\n"),
            ("proc/self/statm", "9000 300 100 1 0 200 0\n"),
            ("sys/fs/cgroup/system.slice/gateway.service/memory.high", f"{1000 * resource.getpagesize()}\n"),
        ):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        used = memory(root)
        assert used is not None
        self.assertAlmostEqual(used(), 0.3)
        path.write_text("max\n")
        self.assertIsNone(memory(root))
        path.unlink()
        self.assertIsNone(memory(root))
        self.assertIsNone(memory(root / "nowhere"))
