"""Tests for gateway.core.audit."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from gateway.core import audit
from gateway.core.audit import Audit, address_of
from gateway.core.batch import BATCH


class AuditTests(SynchronousTestCase):
    """Records are complete, counted, and bounded under a flood."""

    def setUp(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.clock = Clock()
        log = Logger(namespace="gateway.audit", observer=self.events.append)  # type: ignore[arg-type]  # a plain function observes as well
        self.audit = Audit(log, lambda: 1_700_000_000.25, self.clock, "host.invalid", 42, "b00t")

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(event["audit"]) for event in self.events]

    def refuse(self, peer: str, times: int) -> None:
        for _ in range(times):
            self.audit("token.refused", peer=peer, reason="signature")

    def test_record(self) -> None:
        """A record has its time, place and number, and the fields given."""
        self.clock.advance(1.5)
        self.audit("ticket.revoked", kind="image", ticket="3fa9c1d2e4b7", vm=None)
        self.assertEqual(
            self.records,
            [
                {
                    "time": "2023-11-14T22:13:20.250Z", "mono": 1.5, "host": "host.invalid", "pid": 42,
                    "boot": "b00t", "seq": 1, "event": "ticket.revoked", "kind": "image",
                    "ticket": "3fa9c1d2e4b7",
                }
            ],
        )  # fmt: skip
        self.assertEqual(self.events[0]["log_namespace"], "gateway.audit")

    def test_clean(self) -> None:
        """Whatever a peer put into a field, the record is one line, bounded and without secrets."""
        nasty = "a\n\x1b[2J\u2028 password=hunter2 " + "x" * 100_000
        self.audit("libvirt.call", kind=nasty, vm=None, duration_ms=3)
        line = self.events[0]["audit"]
        self.assertEqual(len(line.splitlines()), 1)
        self.assertLess(len(line), 5000)
        self.assertNotIn("hunter2", line)
        self.assertEqual(self.records[0]["duration_ms"], 3)

    def test_unknown_field(self) -> None:
        """A mistyped field is a bug that shows at once, and leaves no gap."""
        self.assertRaises(TypeError, self.audit, "start", tickets="x")
        self.assertRaises(TypeError, self.audit, "start", time="x")
        self.audit("start")
        self.assertEqual([record["seq"] for record in self.records], [1])

    def test_since(self) -> None:
        """What is kept for controllers is what was written, from a number on or the last ones."""
        for number in range(1500):
            self.audit("libvirt.call", kind="A", duration_ms=number % 2, count=number)
        for _ in range(3):
            self.audit("libvirt.call", kind="B", vm=None)
        self.assertEqual(self.audit.since(1, 5000), self.records)
        self.assertEqual(self.audit.since(1499, 3), self.records[1498:1501])
        self.assertEqual(self.audit.since(None, 2), self.records[-2:])
        self.audit.since(None, 1)[0]["kind"] = "C"
        self.assertEqual(self.audit.since(None, 2), self.records[-2:])

    def test_batch(self) -> None:
        """What happens in a batch is written in order when that is over, also when it ends badly."""
        try:
            with BATCH:
                self.audit("start")
                self.audit("ready")
                self.assertEqual((self.records, len(self.audit.since(None, 5))), ([], 2))
                raise KeyError
        except KeyError:
            self.audit("stop")
        self.assertEqual([it["event"] for it in self.records], ["start", "ready", "stop"])

    def test_before_answers(self) -> None:
        """When what a batch has to send leaves, its records are written."""
        with BATCH:
            BATCH.later(lambda: self.assertEqual(len(self.records), 1))
            self.audit("ready")
            self.assertEqual(self.records, [])

    def test_flood(self) -> None:
        """Ten refusals a minute of one address are told in full, the rest in one line."""
        self.refuse("192.0.2.1:1000", 500)
        self.refuse("192.0.2.2:1000", 3)
        self.audit("session.open", peer="192.0.2.1:5")
        self.assertEqual(len(self.records), 14)
        self.clock.advance(60)
        self.assertEqual(len(self.records), 15)
        summary = self.records[-1]
        self.assertEqual(
            (summary["peer"], summary["count"], summary["reason"]), ("192.0.2.1", 490, "repeated")
        )
        self.refuse("192.0.2.1:7", 1)
        self.assertEqual([record["seq"] for record in self.records], list(range(1, 17)))
        self.clock.advance(60)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_later_windows(self) -> None:
        """Each address has a minute of its own."""
        self.refuse("192.0.2.1", 12)
        self.clock.advance(30)
        self.refuse("192.0.2.2", 13)
        self.clock.advance(30)
        self.assertEqual([r["count"] for r in self.records if "count" in r], [2])
        self.clock.advance(30)
        self.assertEqual([r["count"] for r in self.records if "count" in r], [2, 3])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_bounded(self) -> None:
        """However many addresses, the table stays small, and no count is lost."""
        self.refuse("192.0.2.1", 11)
        for number in range(5000):
            self.refuse(f"10.0.{number // 256}.{number % 256}", 1)
        self.assertLessEqual(len(self.audit._windows), audit._ADDRESSES)
        self.assertEqual([r["count"] for r in self.records if "count" in r], [1])
        self.audit.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_close(self) -> None:
        """At the end the summaries that are due are written."""
        self.refuse("[2001:db8::1]:443", 5)
        self.refuse("2001:db8::2", 7)
        self.audit.close()
        self.assertEqual(self.records[-1]["count"], 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_address(self) -> None:
        """Ports do not matter, an IPv6 /64 is one, and what is no address is itself."""
        for peer, address in [
            ("192.0.2.1", "192.0.2.1"), ("192.0.2.1:80", "192.0.2.1"), ("[2001:db8::1]:80", "2001:db8::/64"),
            ("2001:db8::ff:1", "2001:db8::/64"), ("::ffff:192.0.2.1", "192.0.2.1"), ("uid 0", "uid 0"),
        ]:  # fmt: skip
            self.assertEqual(address_of(peer), address)
