from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.ctl import rpc_text
from gateway.rpc import commands
from gateway.wire.libvirt_error import LibvirtError

TIME = datetime(2026, 1, 2, 3, 4, 5, 678, UTC)
EVIL = "web\x1b[2J\nx"


def domain(name: str) -> dict[str, Any]:
    return {"name": name, "uuid": "u", "id": 1, "state": "running", "dom": "cookie"}


class Answers(SynchronousTestCase):
    def test_table(self) -> None:
        """A list is a table without cookies; nothing in a name reaches the terminal as a command."""
        answer = {"domains": [domain(EVIL)], "cursor": ""}
        text = rpc_text.text_of(commands.ListDomains, answer, 80)
        self.assertEqual(text.split("\n")[0].split(), ["NAME", "UUID", "ID", "STATE"])
        self.assertEqual(len(text.split("\n")), 2)
        self.assertTrue(text.replace("\n", "").isprintable())
        self.assertNotIn("cookie", text)
        self.assertEqual(rpc_text.text_of(commands.ListDomains, {"domains": []}, 80), "no domains")

    def test_narrow(self) -> None:
        """A table fits the terminal."""
        text = rpc_text.text_of(commands.ListDomains, {"domains": [domain("n" * 300)]}, 40)
        self.assertTrue(all(len(line) <= 40 for line in text.split("\n")))

    def test_links_are_whole(self) -> None:
        """A link is never cut, however narrow the terminal."""
        url = "https://" + "h" * 100 + "/images/x"
        answer = {"ticket": "x", "url": url, "expires": TIME}
        text = rpc_text.text_of(commands.VolUpload, answer, 40)
        self.assertIn(url, text)
        self.assertIn("2026-01-02T03:04:05+00:00", text)

    def test_units(self) -> None:
        """Bytes have units, versions dots, times of processors few digits."""
        info = {"state": "running", "max_memory": 1 << 30, "memory": 1 << 29, "cpus": 1, "cpu_time": 1.23456}
        text = rpc_text.text_of(commands.GetInfo, info, None)
        for part in ("1.0 GiB", "512.0 MiB", "1.235"):
            self.assertIn(part, text)
        text = rpc_text.text_of(commands.GetVersion, {"version": 7002022, "library": 9000000}, None)
        self.assertEqual(text.split(), ["version", "7.2.22", "library", "9.0.0"])

    def test_xml(self) -> None:
        """XML is safe on a terminal, and in a file it is what it was."""
        xml = "<domain>\n\t<title>\x1b[2J</title>\n</domain>\n"
        self.assertTrue(rpc_text.text_of(commands.GetXml, {"xml": xml}, 80).replace("\n", "").isprintable())
        self.assertEqual(rpc_text.text_of(commands.GetXml, {"xml": xml}, None), xml.rstrip("\n"))

    def test_nothing(self) -> None:
        """An answer with nothing in it is an answer."""
        self.assertEqual(rpc_text.text_of(commands.Suspend, {}, 80), "done")

    def test_json(self) -> None:
        """JSON in an answer is a part of the document, bytes are base64, times are text."""
        document = rpc_text.document(commands.GetStats, {"stats": '{"cpu.time": 1}'})
        self.assertEqual(document, {"stats": {"cpu.time": 1}})
        document = rpc_text.document(commands.Call, {"result": "[1]", "xdr": None})
        self.assertEqual(document, {"result": [1], "xdr": None})
        document = rpc_text.document(commands.Call, {"result": None, "xdr": b"\x00"})
        self.assertEqual(document, {"result": None, "xdr": "AA=="})
        json.dumps(rpc_text.document(commands.VolUpload, {"ticket": "x", "url": "u", "expires": TIME}))

    def test_pages(self) -> None:
        """Pages of records, and of JSON, become one; the cursor is that of the last."""
        made = rpc_text.joined(
            commands.ListDomains,
            {"domains": [domain("a")], "cursor": "1"},
            {"domains": [domain("b")], "cursor": ""},
        )
        self.assertEqual(([it["name"] for it in made["domains"]], made["cursor"]), (["a", "b"], ""))
        made = rpc_text.joined(
            commands.ListTickets, {"tickets": "[1]", "cursor": "1"}, {"tickets": "[2, 3]", "cursor": ""}
        )
        self.assertEqual((json.loads(made["tickets"]), made["cursor"]), ([1, 2, 3], ""))


class Happenings(SynchronousTestCase):
    def test_event(self) -> None:
        """An event is one line, whatever its names are."""
        payload = {"dom": {"name": EVIL}, "event": "started", "n": 1}
        (line,) = rpc_text.event_lines(TIME, "lifecycle", payload)
        self.assertTrue(line.isprintable())
        self.assertTrue(line.startswith("03:04:05 lifecycle web"), line)
        self.assertTrue(line.endswith("event=started n=1"), line)

    def test_resync(self) -> None:
        """A resync is a line for each domain."""
        told = [{"dom": {"name": name}, "state": "running", "cookie": "c"} for name in "ab"]
        lines = rpc_text.event_lines(TIME, "resync", {"page": 0, "domains": told, "end": True})
        self.assertEqual(lines, [f"03:04:05 resync {name} state=running" for name in "ab"])


class Failures(SynchronousTestCase):
    def test_explained(self) -> None:
        """An error says what helps to go on."""
        self.assertIn("code 42", rpc_text.explain(LibvirtError(42, 10, "no domain", 2)))
        self.assertIn("try again in 7 s", rpc_text.explain(errors.Busy(retry_after=7.0)))
        self.assertIn("may have been done", rpc_text.explain(errors.Interrupted(maybe_executed=True)))
        self.assertEqual(rpc_text.explain(errors.Interrupted("lost", maybe_executed=False)), "lost")
