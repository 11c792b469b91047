"""Events of a real libvirtd with real guests: in order, and none missed when the daemon is killed."""

from __future__ import annotations

import os
import signal
from typing import Any, ClassVar

from gateway.core.clock import wall
from gateway.core.dial import Dialer
from gateway.core.policy import Policy, parse_rule
from gateway.rpc.connector import dialing
from gateway.rpc.event_hub import EventHub
from gateway.rpc.events import Event
from gateway.rpc.target import Target
from gateway.rpc.transports import Transports
from gateway.wire.libvirt_url import parse_url
from tests.functional.case import PYTEST_ONLY
from tests.functional.daemon_case import daemon_of
from tests.functional.libvirt_daemon import Libvirtd, tiny
from tests.functional.processes import wait_for
from tests.rpc.event_world import Listener, uuid_of
from tests.support import ReactorTestCase

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

ONE, TWO, THREE = uuid_of(1), uuid_of(2), uuid_of(3)
GONE = {"event": "undefined", "detail": "removed", "state": None, "reason": None}


class RealEventsTest(ReactorTestCase):
    """One daemon for all, and for each a target and a hub."""

    timeout = 150.0

    daemon: ClassVar[Libvirtd]

    @classmethod
    def setUpClass(cls) -> None:
        cls.daemon = daemon_of(cls)

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.addCleanup(self.clear)

    def clear(self) -> None:
        """End and forget all guests."""
        for name in self.daemon.virsh("list", "--name").split():
            self.daemon.virsh("destroy", name)
        for name in self.daemon.virsh("list", "--all", "--name").split():
            self.daemon.virsh("undefine", name)

    def open(self, driver: str = "qemu", transport: str = "unix") -> EventHub:
        url = parse_url(self.daemon.url(driver, transport))
        transports = Transports(
            self.reactor,
            Dialer(self.reactor, Policy([parse_rule("*://127.0.0.0/8:*")], [], [])),
            wall,
            uid=65534,
        )
        dial = dialing(transports.connect, url, self.reactor)
        target = Target("hv1", url, dial=dial, clock=self.reactor)
        self.addCleanup(target.stop)
        target.start()
        hub = EventHub("hv1", target, self.reactor, wall)
        hub.start()
        self.addCleanup(hub.stop)
        return hub

    async def told_until(self, listener: Listener, last: str) -> list[Event]:
        """What was told up to the event whose story is *last*."""
        await self.until(lambda: last in listener.story(), f"{last} in {listener.story()}")
        events = list(listener.told)
        listener.told.clear()
        return events

    async def test_life(self) -> None:
        """A guest is defined, started, suspended, resumed, reset, destroyed: as it happens, in order."""
        hub = self.open()
        await self.until(lambda: hub.synced, "the first list")
        listener, others = Listener(hub, kinds=("lifecycle",)), Listener(hub, kinds=("reboot",))
        listener.listen(None)
        others.listen(None)
        self.daemon.define(tiny("tiny", ONE))
        (defined,) = await self.told_until(listener, "lifecycle defined added")
        self.assertEqual(defined["dom"], {"name": "tiny", "uuid": ONE, "id": -1})
        self.assertEqual(hub.names(ONE), "tiny")
        for command, story, states in (
            ("start", ["lifecycle resumed unpaused", "lifecycle started booted"], ["running", "running"]),
            ("suspend", ["lifecycle suspended paused"], ["paused"]),
            ("resume", ["lifecycle resumed unpaused"], ["running"]),
            ("destroy", ["lifecycle stopped destroyed"], ["shutoff"]),
        ):
            self.daemon.virsh(command, "tiny")
            told = await self.told_until(listener, story[-1])
            # Before the end of a guest there is this one, if QEMU could say so before it was killed.
            events = [event for event in told if self._short(event) != "lifecycle shutdown host"]
            self.assertEqual([self._short(event) for event in events], story)
            self.assertEqual([event.get("state") for event in events], states)
            self.assertEqual(self._true_state("tiny"), (states[-1], events[-1]["reason"]))
            if command == "resume":
                self.daemon.virsh("reset", "tiny")
                await self.told_until(others, "reboot")
        self.assertEqual(events[-1]["dom"]["id"], -1)
        self.daemon.virsh("domrename", "tiny", "small")
        story = [self._short(event) for event in await self.told_until(listener, "lifecycle defined renamed")]
        self.assertEqual(story, ["lifecycle undefined renamed", "lifecycle defined renamed"])
        self.assertEqual(hub.names(ONE), "small")
        self.daemon.virsh("undefine", "small")
        await self.told_until(listener, "lifecycle undefined removed")
        self.assertIsNone(hub.names(ONE))
        self.assertEqual(listener.table, {})

    async def test_transient(self) -> None:
        """A guest without a definition is gone when it ends, though libvirt only says that it stopped."""
        hub = self.open()
        await self.until(lambda: hub.synced, "the first list")
        listener = Listener(hub)
        listener.listen()
        file = self.daemon.home / "transient.xml"
        file.write_text(tiny("brief", TWO))
        self.daemon.virsh("create", file)
        await self.told_until(listener, "lifecycle started booted")
        self.daemon.virsh("destroy", "brief")
        events = await self.told_until(listener, "lifecycle undefined removed *")
        self.assertEqual({**events[-1], **GONE, "synthetic": True}, events[-1])
        self.assertEqual(listener.table, {})

    async def test_killed(self) -> None:
        """The daemon is killed while guests end behind its back: what is known is true again afterwards."""
        for uuid, name in ((ONE, "one"), (TWO, "two"), (THREE, "three")):
            self.daemon.define(tiny(name, uuid))
        self.daemon.virsh("start", "one")
        self.daemon.virsh("start", "two")
        hub = self.open()
        listener = Listener(hub)
        listener.listen()
        await self.until(lambda: len(listener.table) == 3, "the first resync")
        self.assertEqual(listener.table[ONE], ("one", "running"))
        listener.told.clear()
        pid = self._pid("one")
        self.daemon.end(signal.SIGKILL)
        await self.until(lambda: not hub.synced, "the loss")
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: pid not in self.daemon.guests(), "the end of the guest")
        self.daemon.start()
        self.daemon.virsh("start", "three")
        await self.until(
            lambda: hub.synced and listener.table.get(THREE) == ("three", "running"), "events again"
        )
        await self.until(lambda: listener.table[ONE][1] == "shutoff", "the end of one")
        self.assertEqual(
            listener.table, {ONE: ("one", "shutoff"), TWO: ("two", "running"), THREE: ("three", "running")}
        )
        # Once or twice: a list may tell it, and an event that comes after that.
        stopped = {event["dom"]["uuid"] for event in listener.told if event.get("event") == "stopped"}
        self.assertEqual(stopped, {ONE})
        self.assertIn("resync", listener.story())
        self.daemon.virsh("destroy", "two")
        await self.until(lambda: listener.table[TWO][1] == "shutoff", "an ordinary event")

    async def test_others(self) -> None:
        """Networks and pools are told of by the test driver, over TLS, and domains with them."""
        hub = self.open("test", "tls")
        listener = Listener(hub)
        listener.listen()
        await self.until(lambda: listener.table, "the first resync")
        self.assertEqual([name for name, _ in listener.table.values()], ["test"])
        self.assertEqual(set(listener.table.values()), {("test", "running")})
        for command, last in (
            (("net-destroy", "default"), "network stopped 0"),
            (("pool-destroy", "default-pool"), "pool stopped 0"),
            (("suspend", "test"), "lifecycle suspended paused"),
        ):
            self.daemon.virsh(*command, driver="test")
            event = (await self.told_until(listener, last))[-1]
            self.assertIn("default" if last.startswith(("network", "pool")) else "test", repr(event))

    def _short(self, event: Event) -> str:
        return " ".join(str(event[name]) for name in ("kind", "event", "detail") if name in event)

    def _true_state(self, name: str) -> tuple[str, str]:
        state, reason = self.daemon.virsh("domstate", name, "--reason").strip().split(" ", 1)
        words = {"shut off": "shutoff", "shut": "shutoff"}
        return words.get(state, state), reason.rpartition("(")[2].rstrip(")")

    def _pid(self, name: str) -> int:
        return int((self.daemon.home / "xdg/run/libvirt/qemu/run" / f"{name}.pid").read_text())
