"""What libvirt says in numbers is told in words, and no number is ever lost."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire import libvirt_words as words
from gateway.wire.libvirt_schema import PROCEDURES, procedure

REMOTE = 0x20008086
DOM = {"name": "tiny", "uuid": "6695eb01-f6a4-8304-79aa-97f2502e193f", "id": 3}


class WordsTest(SynchronousTestCase):
    """States, reasons, lifecycle."""

    def test_states(self) -> None:
        """States and reasons have libvirt's own names."""
        self.assertEqual(words.state_words(1, 1), ("running", "booted"))
        self.assertEqual(words.state_words(3, 5), ("paused", "ioerror"))
        self.assertEqual(words.state_words(5, 8), ("shutoff", "daemon"))
        self.assertEqual(words.state_words(7, 0), ("pmsuspended", "unknown"))

    def test_lifecycle(self) -> None:
        """What a real guest tells when it is destroyed and started reads well."""
        told = [words.lifecycle_words(*pair) for pair in ((6, 2), (5, 1), (4, 0), (2, 0))]
        self.assertEqual(
            told,
            [("shutdown", "host"), ("stopped", "destroyed"), ("resumed", "unpaused"), ("started", "booted")],
        )

    @given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1))
    @settings(max_examples=200, deadline=None)
    def test_newer_numbers(self, first: int, second: int) -> None:
        """A number that a newer libvirt has invented becomes its digits, never another's word."""
        for named, table in (
            (words.state_words(first, second), words.REASONS),
            (words.lifecycle_words(first, second), words.LIFECYCLE),
        ):
            known = list(table)
            self.assertEqual(named[0], known[first] if 0 <= first < len(known) else str(first))
            reasons = table.get(named[0], ())
            self.assertEqual(named[1], reasons[second] if 0 <= second < len(reasons) else str(second))

    def test_state_after(self) -> None:
        """Every event leads to a state that libvirt has, with a reason it gives for that."""
        self.assertEqual(words.state_after("started", "booted"), ("running", "booted"))
        self.assertEqual(words.state_after("suspended", "paused"), ("paused", "user"))
        self.assertEqual(words.state_after("stopped", "from_snapshot"), ("shutoff", "from_snapshot"))
        self.assertEqual(words.state_after("stopped", "99"), ("shutoff", "unknown"))
        for event in ("defined", "undefined", "99"):
            self.assertIsNone(words.state_after(event, "added"))
        for event, details in words.LIFECYCLE.items():
            for detail in details:
                after = words.state_after(event, detail)
                if after is not None:
                    self.assertIn(after[1], words.REASONS[after[0]])
        self.assertEqual(tuple(words.REASONS), words.STATES)


class EventKindsTest(SynchronousTestCase):
    """The table of events."""

    def test_whole(self) -> None:
        """Every event that comes with a callback id is in the table, under the procedure that asks for it."""
        brought = {
            number
            for (program, number), each in PROCEDURES.items()
            if program == REMOTE and each.event and "callbackID" in each.arguments.fields
        }
        self.assertEqual({kind.procedure for kind in words.EVENT_KINDS}, brought)
        asked = {(kind.registration, kind.number) for kind in words.EVENT_KINDS}
        self.assertEqual(len(asked), len(words.EVENT_KINDS))
        domains = [kind.number for kind in words.EVENT_KINDS if kind.subject == "dom"]
        self.assertEqual(domains, list(range(28)))

    def test_fields(self) -> None:
        """The table names fields that the messages have, and each registration takes an event id."""
        for kind in words.EVENT_KINDS:
            fields = set(PROCEDURES[REMOTE, kind.procedure].arguments.fields)
            self.assertIn(kind.subject, fields, kind)
            self.assertLessEqual(set(kind.tables), fields, kind)
            self.assertIn("eventID", procedure(kind.registration).arguments.fields)

    def test_in_words(self) -> None:
        """A message becomes its fields in words; what it is about, and the callback, are left out."""
        self.assertEqual(self._told(318, event=5, detail=1), {"event": "stopped", "detail": "destroyed"})
        self.assertEqual(self._told(328, devAlias="cd0", reason=0), {"devAlias": "cd0", "reason": "open"})
        self.assertEqual(self._told(348, state=2, reason=1)["state"], "disconnected")
        side = {"family": 2, "node": "/run/vnc", "service": ""}
        told = self._told(323, phase=1, local=side, remote=side, authScheme="vnc", subject=[])
        self.assertEqual((told["phase"], told["local"]["family"]), ("initialize", "unix"))
        self.assertEqual(side["family"], 2)
        self.assertEqual(self._told(373, subject="pool"), {"event": "refreshed"})
        self.assertEqual(self._told(315, subject="net", event=3, detail=0), {"event": "stopped", "detail": 0})

    def test_older_messages(self) -> None:
        """The messages without a callback id are nobody's."""
        self.assertIsNone(words.event_kind(107))

    def _told(self, number: int, subject: Any = "dom", **fields: Any) -> dict[str, Any]:
        kind = words.event_kind(number)
        assert kind is not None
        if isinstance(subject, list):
            fields, subject = fields | {"subject": subject}, "dom"
        return kind.fields({"callbackID": 7, subject: DOM} | fields)
