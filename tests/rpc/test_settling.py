"""Settling: what is there now and was not before was done; nothing is ever said not to have been."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.rpc.domain_states import Domain
from gateway.rpc.journal_rows import Entry
from gateway.rpc.settling import ABSENT, OFF, before, settle, subject
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import procedure

UUID = "11111111-1111-4111-8111-111111111111"
DOM: dict[str, Any] = {"name": "web", "uuid": UUID, "id": 7}
#: Numbers of states and reasons.
RUNNING, PAUSED, STARTING, SHUTOFF, DESTROYED, CRASHED = (1, 1), (3, 1), (3, 11), (5, 0), (5, 2), (5, 3)
ANY = (None, RUNNING, PAUSED, STARTING, SHUTOFF, DESTROYED, CRASHED)


@define
class Hypervisor:
    """One domain, in some state; None when there is none."""

    state: tuple[int, int] | None
    error: errors.GatewayError | None = None
    synced: bool = True
    asked: list[str] = field(factory=list)

    async def call(self, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append(name)
        if self.error is not None:
            raise self.error
        if self.state is None:
            raise LibvirtError(42, 10, "Domain not found")
        return {"dom": DOM} if "uuid" in arguments else {"state": self.state[0], "reason": self.state[1]}

    def domain(self, uuid: str) -> Domain | None:
        if self.state is None or uuid != UUID:
            return None
        return Domain(UUID, "web", DOM["id"], "running" if self.state == RUNNING else "shutoff", "x")


class SettlingTest(SynchronousTestCase):
    """One domain, and a call about it whose answer was lost."""

    def settle(self, name: str, was: int | None, now: Hypervisor, uuid: str = UUID) -> Any:
        entry = Entry("alice", "r1", "kvm1", name, uuid, 1.0, was)
        return self.successResultOf(Deferred.fromCoroutine(settle(entry, now.call)))

    def told(self, name: str) -> dict[tuple[int, tuple[int, int] | None], Any]:
        """All that is settled, by what the domain was, and what it is."""
        found = {
            (was, now): self.settle(name, was, Hypervisor(now)) for was in (ABSENT, OFF, 7) for now in ANY
        }
        return {key: result for key, result in found.items() if result is not None}

    def test_start(self) -> None:
        """A start was done when the domain was off, and runs; one that is starting up does not yet."""
        ran = {(OFF, RUNNING): {"dom": DOM}, (OFF, PAUSED): {"dom": DOM}}
        self.assertEqual(self.told("DOMAIN_CREATE_WITH_FLAGS"), ran)
        self.assertEqual(self.told("DOMAIN_CREATE"), {key: {} for key in ran})

    def test_make(self) -> None:
        """What makes a domain was done when there was none."""
        runs = {(ABSENT, RUNNING): {"dom": DOM}, (ABSENT, PAUSED): {"dom": DOM}}
        self.assertEqual(self.told("DOMAIN_CREATE_XML"), runs)
        there = {(ABSENT, now): {"dom": DOM} for now in ANY if now is not None}
        self.assertEqual(self.told("DOMAIN_DEFINE_XML_FLAGS"), there)

    def test_end(self) -> None:
        """What ends a domain was done when it was there, and ended in that very way."""
        self.assertEqual(self.told("DOMAIN_DESTROY_FLAGS"), {(7, DESTROYED): {}})
        self.assertEqual(self.told("DOMAIN_UNDEFINE_FLAGS"), {(OFF, None): {}})

    def test_others(self) -> None:
        """Of what a guest may do by itself nothing is told, and nobody is asked for it."""
        for name in ("DOMAIN_SHUTDOWN_FLAGS", "DOMAIN_REBOOT", "DOMAIN_SUSPEND", "DOMAIN_RESUME"):
            self.assertEqual(self.told(name), {})
            now = Hypervisor(RUNNING)
            self.settle(name, OFF, now)
            self.assertEqual(now.asked, [])

    def test_unknown(self) -> None:
        """Where it is not known how it was before, or what it was about, nothing is told."""
        self.assertIsNone(self.settle("DOMAIN_CREATE_WITH_FLAGS", None, Hypervisor(RUNNING)))
        self.assertIsNone(self.settle("DOMAIN_CREATE_WITH_FLAGS", OFF, Hypervisor(RUNNING), ""))
        down = Hypervisor(RUNNING, errors.TargetDown())
        entry = Entry("alice", "r1", "kvm1", "DOMAIN_CREATE_WITH_FLAGS", UUID, 1.0, OFF)
        self.failureResultOf(Deferred.fromCoroutine(settle(entry, down.call)), errors.TargetDown)
        odd = Hypervisor(RUNNING, LibvirtError(38, 10, "system call failed"))
        self.failureResultOf(Deferred.fromCoroutine(settle(entry, odd.call)), LibvirtError)

    def test_before(self) -> None:
        """What is known of a domain: its number, that it is off, that there is none; or nothing."""
        self.assertEqual(before(Hypervisor(RUNNING), UUID), 7)
        self.assertEqual(before(Hypervisor(SHUTOFF), UUID), OFF)
        self.assertEqual(before(Hypervisor(None), UUID), ABSENT)
        self.assertIsNone(before(Hypervisor(RUNNING), ""))
        self.assertIsNone(before(Hypervisor(RUNNING, synced=False), UUID))

    def test_subject(self) -> None:
        """A call is about the domain that it names, or that its XML names."""
        self.assertEqual(subject(procedure("DOMAIN_SUSPEND"), {"dom": DOM}), UUID)
        self.assertEqual(subject(procedure("NETWORK_CREATE"), {"net": {"name": "n", "uuid": UUID}}), "")
        for name, member in (("DOMAIN_DEFINE_XML_FLAGS", "xml"), ("DOMAIN_CREATE_XML", "xml_desc")):
            for xml, uuid in (
                (f"<domain><name>web</name><uuid>{UUID.upper()}</uuid></domain>", UUID),
                ("<domain><name>web</name></domain>", ""),
                ("<domain>", ""),
                ("<!DOCTYPE a><domain/>", ""),
            ):
                self.assertEqual(subject(procedure(name), {member: xml, "flags": 0}), uuid, xml)
