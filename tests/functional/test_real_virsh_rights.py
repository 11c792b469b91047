"""What a ticket does not permit, on a real libvirtd: nobody hears of it, and nothing of it gets there.

Between the gateway and libvirtd stands a tap that notes every byte: what is not there did not get there.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4

from gateway.rpc import objects
from gateway.rpc.permissions import demands
from gateway.wire.libvirt_message import MessageReader
from gateway.wire.libvirt_schema import Procedure
from tests.functional.case import PYTEST_ONLY
from tests.functional.commands import need
from tests.functional.libvirt_case import TEST, LibvirtCase
from tests.functional.libvirt_raw import Raw, calls_of
from tests.functional.peers import Sections
from tests.functional.processes import DEADLINE, MIB, wait_for
from tests.functional.recording_tap import Tap
from tests.rpc.scopes import ALL, calls, found, sample

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

_DOMAIN = """\
<domain type='test'>
  <name>{name}</name><uuid>{uuid}</uuid><title>title-of-{name}</title>
  <memory>1024</memory><os><type arch='i686'>hvm</type></os>
  <devices>
    <interface type='network'><mac address='52:54:00:00:00:{mac}'/><source network='default'/></interface>
  </devices>
</domain>
"""
NAME = "test:///default?target=test"
#: Seconds in which nothing is said by then, if it is not said at all.
STILL = 0.4
#: They end the connection, or open it.
_OURS = ("CONNECT_CLOSE", "CONNECT_OPEN")


class RightsTest(LibvirtCase):
    """Three domains of the test driver: ``test`` is nobody's, the others have one owner each.

    :cvar tap: notes what the gateway says to libvirtd.
    """

    guests = ()
    tap: ClassVar[Tap]
    mine: ClassVar[dict[str, Any]]
    theirs: ClassVar[dict[str, Any]]

    @classmethod
    def configuration(cls) -> Sections:
        cls.tap = Tap(cls.home / "tap.sock", cls.daemon.socket)
        cls.addClassCleanup(cls.tap.stop)
        cls.mine, cls.theirs = (
            cls.make(name, mac) for name, mac in (("alice-vm", "0a"), ("hidden-zq", "0b"))
        )
        whole = super().configuration()
        listeners = {**whole["libvirt"], "socket": f"unix:{cls.home}/gw.sock:mode=666"}
        targets = {
            f"target {name}": {"uri": cls.daemon.url(name, socket=cls.tap.path)} for name in ("test", "qemu")
        }
        return {**whole, **targets, "libvirt": listeners}

    @classmethod
    def make(cls, name: str, mac: str) -> dict[str, Any]:
        """A domain that runs."""
        uuid = str(uuid4())
        cls.daemon.define(_DOMAIN.format(name=name, uuid=uuid, mac=mac), driver="test")
        cls.daemon.virsh("start", name, driver="test")
        return {"name": name, "uuid": uuid, "id": int(cls.daemon.virsh("domid", name, driver="test"))}

    def setUp(self) -> None:
        self.token = self.grant(ALL, ["alice-*"])
        self.raws: list[Raw] = []

    def tearDown(self) -> None:
        """Nobody has met a bug, and nobody has touched what is not theirs."""
        for raw in self.raws:
            raw.close()
        self.assertNotIn("incident", self.gateway.log())
        self.assertEqual(self.direct("domstate", "hidden-zq", target="test").strip(), "running")

    def raw(self, token: str = "", name: str | None = NAME, flags: int = 0) -> Raw:
        """Somebody who says what no library would."""
        made = Raw(self.home / "gw.sock", token or self.token, name, flags)
        self.raws.append(made)
        return made

    def do(self, *arguments: str | Path, token: str = "") -> str:
        return self.virsh(*arguments, target="test", token=token or self.token)

    def said(self) -> list[bytes]:
        """What libvirtd has got by now, connection by connection."""
        return [bytes(each.said) for each in self.tap.connections]

    def quiet(self) -> list[bytes]:
        """The same, once nothing more of what was done before is on its way."""
        seen, since = self.said(), time.monotonic()
        # Who says good-bye may have to wait for a processor.
        while time.monotonic() < since + STILL:
            time.sleep(0.02)
            if (now := self.said()) != seen:
                seen, since = now, time.monotonic()
        return seen

    @contextmanager
    def nothing_gets_there(self, *but: str) -> Iterator[None]:
        """Nothing of what happens meanwhile is said to libvirtd, *but* what nobody asked for by name."""
        before = self.quiet()
        yield
        time.sleep(0.05)
        after = self.said()
        new = [after[at][len(before[at]) if at < len(before) else 0 :] for at in range(len(after))]
        names = [name for part in new for name, _ in calls_of(part)]
        self.assertEqual([name for name in names if name not in but], [])
        for part in new:
            self.assertNotIn(UUID(self.theirs["uuid"]).bytes, part)
            self.assertNotIn(b"hidden-zq", part)

    # -- what is seen ----------------------------------------------------------------------

    def test_lists(self) -> None:
        """virsh shows the one domain of the ticket in every list, with its numbers; of the others nothing."""
        self.assertEqual(self.do("list", "--all", "--name").split(), ["alice-vm"])
        self.assertEqual(self.do("list", "--all", "--uuid").split(), [self.mine["uuid"]])
        stats = self.do("domstats")
        self.assertEqual([line for line in stats.splitlines() if "Domain" in line], ["Domain: 'alice-vm'"])
        self.assertEqual(
            self.do("domstats", "--state"), self.direct("domstats", "--state", "alice-vm", target="test")
        )
        self.assertEqual(self.do("domid", "alice-vm"), self.direct("domid", "alice-vm", target="test"))
        self.assertEqual(self.do("dumpxml", "alice-vm"), self.direct("dumpxml", "alice-vm", target="test"))

    def test_lookups(self) -> None:
        """By name, uuid and number a domain of others is as absent as one that is not there."""
        for known, absent in (
            ("hidden-zq", "nobody-zq"),
            (self.theirs["uuid"], str(uuid4())),
            (str(self.theirs["id"]), "4711"),
        ):
            for command in (
                "dominfo",
                "domstate",
                "dumpxml",
                "suspend",
                "destroy",
                "snapshot-list",
                "domstats",
            ):
                told = [
                    self.refused(command, each, target="test", token=self.token) for each in (known, absent)
                ]
                self.assertEqual(told[0].replace(known, "X"), told[1].replace(absent, "X"), command)
                self.assertNotIn("title", told[0])

    def test_two_tickets(self) -> None:
        """Two owners never see each other's domains: in lists, in statistics, in events."""
        other = self.grant(ALL, [self.theirs["uuid"].upper()])
        self.assertEqual(self.do("list", "--all", "--name").split(), ["alice-vm"])
        self.assertEqual(self.do("list", "--all", "--name", token=other).split(), ["hidden-zq"])
        self.refused("dominfo", "alice-vm", target="test", token=other)
        owners = {"alice-vm": self.raw(), "hidden-zq": self.raw(other)}
        for raw in owners.values():
            for event in (0, 1):
                got = raw.call("CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", eventID=event, dom=None)
                self.assertIsInstance(got, dict)
        # The first ones of libvirt's events, which have no number.
        old = {"alice-vm": self.raw(), "hidden-zq": self.raw(other)}
        for raw in old.values():
            self.assertIsInstance(raw.call("CONNECT_DOMAIN_EVENT_REGISTER"), dict)
        for name in (*owners, "test"):
            for command in ("suspend", "resume"):
                self.direct(command, name, target="test")
        for name, raw in (*owners.items(), *old.items()):
            told = [values["dom"]["name"] for _, values in raw.events()]
            self.assertEqual(told, [name] * 2)

    def test_event_loop(self) -> None:
        """virsh's own event loop tells of the one domain, and of what happens to it after a rename."""
        lines = [need("stdbuf", "apt install coreutils"), "-oL"]
        loop = subprocess.Popen(
            [*lines, *self.command(self.uri("test", token=self.token), "event", "--all", "--loop")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )
        self.addCleanup(loop.communicate)
        self.addCleanup(loop.kill)
        wanted = "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY"
        wait_for(
            lambda: [it[0] for it in self.calls(self.token)].count(wanted) > 20, "virsh to ask for events"
        )
        passing = self.make("passing", "0c")
        for name in ("hidden-zq", "alice-vm", "passing", "test"):
            self.direct("suspend", name, target="test")
            self.direct("resume", name, target="test")
        self.direct("destroy", "passing", target="test")
        self.direct("domrename", "passing", "alice-late", target="test")
        self.direct("start", "alice-late", target="test")
        self.direct("destroy", "alice-late", target="test")
        self.direct("undefine", "alice-late", target="test")
        assert loop.stdout is not None
        output = ""
        while "for domain 'alice-late': Undefined" not in output:  # the last of all
            self.assertTrue(line := loop.stdout.readline(), output)
            output += line
        loop.terminate()
        output += loop.communicate(timeout=DEADLINE)[0]
        self.assertNotIn("hidden-zq", output)
        self.assertNotIn("passing", output)
        self.assertNotIn("'test'", output)
        self.assertEqual(output.count("'alice-vm'"), 2)
        self.assertIn("'alice-late'", output)
        self.assertNotIn(passing["uuid"], output)

    def test_every_answer(self) -> None:
        """Of every procedure that tells of domains, what comes back is about the one of the ticket."""
        raw = self.raw()
        asked = 0
        for each in calls():
            if each.name in _OURS or each.writes or each.stream or not self.about(each):
                continue
            arguments = sample(each.arguments, self.mine)
            got = raw.call(each.name, **arguments)
            asked += 1
            self.assertIsNotNone(got, each.name)
            if isinstance(got, dict):
                self.assertLessEqual(set(found(got)), {self.mine["uuid"]}, each.name)
        self.assertGreater(asked, 50)
        for hidden in (b"hidden-zq", UUID(self.theirs["uuid"]).bytes, TEST.encode()):
            self.assertNotIn(hidden, raw.got)

    @staticmethod
    def about(each: Procedure) -> bool:
        return bool(objects.in_arguments(each) or objects.in_results(each) or "DOMAIN" in each.name)

    def test_python(self) -> None:
        """libvirt-python has the one domain of the ticket in every list, lookup, statistic and event."""
        script = Path(__file__).with_name("libvirt_rights_script.py")
        uri = self.uri("test", auth="polkit", ticket=self.token)
        hidden = [self.theirs["uuid"], str(self.theirs["id"]), self.theirs["name"]]
        process = subprocess.Popen(
            [sys.executable, str(script), uri, *hidden],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment,
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        assert process.stdout is not None
        shown, waiting = (json.loads(process.stdout.readline()) for _ in range(2))
        name = self.mine["name"]
        self.assertEqual(shown.pop("looked_up"), [42, 42, 42])
        self.assertEqual((shown.pop("ids"), shown.pop("running")), ([self.mine["id"]], 1))
        self.assertEqual(shown, {"listed": [name], "defined": [], "stats": [name], "some_stats": [name]})
        self.assertEqual(waiting, {"waiting": True})
        for each in ("hidden-zq", "test", name):
            for verb in ("suspend", "resume"):
                self.direct(verb, each, target="test")
        seen = [json.loads(process.stdout.readline()) for _ in range(2)]
        rest, _ = process.communicate(timeout=DEADLINE)
        self.assertEqual((seen, rest), ([{"event": name}] * 2, ""))

    # -- what is refused -------------------------------------------------------------------

    def test_every_forged_name(self) -> None:
        """Every procedure that takes a domain, with another's uuid and a name of one's own: 42, no more."""
        raw = self.raw()
        forged = {**self.theirs, "name": "alice-vm"}
        asked = [
            each
            for each in calls()
            if self.theirs["uuid"] in found(sample(each.arguments, forged)) and "STATS" not in each.name
        ]
        self.assertGreater(len(asked), 150)
        with self.nothing_gets_there():
            for each in asked:
                got = raw.call(each.name, **sample(each.arguments, forged))
                self.assertIn(got, (42, 84) if demands(each).known else (88,), each.name)
            got = raw.call("CONNECT_GET_ALL_DOMAIN_STATS", doms=[forged], stats=0, flags=0)
            self.assertEqual(got, {"retStats": []})
        refused = [
            it for it in self.trail() if it.get("vm") == self.theirs["uuid"] and it["result"] == "failed"
        ]
        self.assertLessEqual({each.name for each in asked}, {it["kind"] for it in refused})

    def test_own_connection(self) -> None:
        """A second open, another identity, and calls before the first open: refused, and written down."""
        identity = {"field": "unix-user-id", "type": "ullong", "value": 0}
        raw = self.raw()
        with self.nothing_gets_there():
            self.assertEqual(raw.call("CONNECT_OPEN", name="qemu:///system", flags=0), 1)
            self.assertEqual(raw.call("CONNECT_SET_IDENTITY", params=[identity], flags=0), 88)
            early = self.raw(name=None)
            self.assertEqual(early.call("DOMAIN_DESTROY", dom=self.mine), 1)
            for name in (
                "test+ssh://evil/default",
                "test://evil/default",
                "test:///default?target=qemu+ssh:%2F%2Fx",
            ):
                self.assertEqual(early.call("CONNECT_OPEN", name=name, flags=0), 8)
            stranger = Raw(self.home / "gw.sock")
            self.raws.append(stranger)
            self.assertEqual(stranger.call("CONNECT_OPEN", name=NAME, flags=0), 39)
        self.assertEqual(raw.call("CONNECT_NUM_OF_DOMAINS"), {"num": 1})
        told = [kind for kind, end in self.calls(self.token) if end != "ok"]
        self.assertEqual(told.count("CONNECT_OPEN"), 4)
        self.assertIn("CONNECT_SET_IDENTITY", told)
        self.assertIn("20008086-12", told)

    def test_readonly(self) -> None:
        """Who opens to read cannot write by any call of the table; libvirtd itself knows it as a reader."""
        mark = len(self.said())
        raw = self.raw(flags=1)
        with self.nothing_gets_there():
            for each in calls():
                if each.writes == "W" and each.name not in _OURS:
                    self.assertIn(
                        raw.call(each.name, **sample(each.arguments, self.mine)), (29, 84, 88), each.name
                    )
        opens = [
            values for part in self.said()[mark:] for name, values in calls_of(part) if name == "CONNECT_OPEN"
        ]
        self.assertEqual([it["flags"] for it in opens], [1])
        code, _, problem = self.run_virsh(
            self.uri("test", token=self.token), "--readonly", "destroy", "alice-vm"
        )
        self.assertEqual(code, 1)
        self.assertIn("read only", problem)

    def test_hostile_xml(self) -> None:
        """XML that would take of the host, or of others, is refused before libvirtd reads it."""
        token = self.grant(["*"], ["alice-*"])
        host = "<hostdev mode='subsystem' type='pci'><source><address bus='0'/></source></hostdev>"
        disk = "<disk type='file'><source file='/etc/shadow'/><target dev='vda'/></disk>"
        start, end = (
            "<domain type='test'><name>alice-2</name><memory>1</memory><os><type>hvm</type></os>",
            "</domain>",
        )
        bomb = "<!DOCTYPE d [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]>"
        for xml in (
            f"{start}<devices>{host}</devices>{end}",
            f"{start}<devices>{disk}</devices>{end}",
            bomb + start + "<title>&b;</title>" + end,
            start.replace("alice-2", "bob-2") + end,
            start.replace("alice-2", f"alice-2</name><uuid>{self.theirs['uuid']}</uuid><name>") + end,
            f"{start}<uuid>{self.theirs['uuid']}</uuid>{end}",
            "<domain type='test' xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><name>alice-2</name>"
            "<q:commandline><q:arg value='-drive'/></q:commandline></domain>",
        ):
            file = self.home / f"{uuid4()}.xml"
            file.write_text(xml)
            raw = self.raw(token)
            with self.nothing_gets_there():
                self.assertIn(raw.call("DOMAIN_DEFINE_XML_FLAGS", xml=xml, flags=0), (8, 88), xml)
                self.assertIn(raw.call("DOMAIN_CREATE_XML", xml_desc=xml, flags=0), (8, 88), xml)
            raw.close()
            before = self.said()
            self.refused("define", file, target="test", token=token)
            after = b"".join(self.said()[len(before) :])
            self.assertNotIn("DOMAIN_DEFINE_XML_FLAGS", [name for name, _ in calls_of(after)])
        self.assertNotIn("alice-2", self.direct("list", "--all", "--name", target="test"))

    def test_own_tags(self) -> None:
        """Nobody gives a domain a tag, which decides who sees it; not under another namespace either."""
        raw = self.raw(self.grant(["*"], ["alice-*"]))
        for uri, xml in (
            ("urn:gateway:tags", "<tags>web</tags>"),
            ("urn:other", "<tags xmlns='urn:gateway:tags'>web</tags>"),
            ("urn:other", "<x:tags xmlns:x='urn:gateway:&#116;ags'>web</x:tags>"),
        ):
            with self.nothing_gets_there():
                asked = {"dom": self.mine, "type": 2, "metadata": xml, "key": "k", "uri": uri, "flags": 0}
                self.assertEqual(raw.call("DOMAIN_SET_METADATA", **asked), 88, xml)
        asked = {
            "dom": self.mine,
            "type": 2,
            "metadata": "<a>b</a>",
            "key": "k",
            "uri": "urn:other",
            "flags": 0,
        }
        self.assertEqual(raw.call("DOMAIN_SET_METADATA", **asked), {})
        self.assertNotIn("urn:gateway:tags", self.direct("dumpxml", "alice-vm", target="test"))

    # -- what is said in another way -------------------------------------------------------

    def record(self) -> list[bytes]:
        """Sessions of virsh, as they were said; with this ticket."""
        tap = Tap(self.home / f"{uuid4().hex[:6]}.sock", self.home / "gw.sock")
        try:
            for command in (
                ("list", "--all"),
                ("dominfo", "alice-vm"),
                ("domstats",),
                ("snapshot-list", "alice-vm"),
                ("event", "--all", "--timeout", "1"),
                ("screenshot", "alice-vm", str(self.home / "s.png")),
            ):
                uri = f"test+unix:///default?socket={tap.path}&target=test&authfile={self.login(self.token)}"
                self.run_virsh(uri, *command)
        finally:
            tap.stop()
        return [bytes(each.said) for each in tap.connections]

    def mutated(self, chance: random.Random, session: bytes) -> bytes:
        """*session* with a mistake in it, or several."""
        messages = [bytearray(it.pack()) for it in MessageReader().feed(session)]
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            at = chance.randrange(len(messages))
            it, kind = messages[at], chance.randrange(8)
            if kind == 0:
                it[chance.randrange(len(it))] ^= 1 << chance.randrange(8)
            elif kind == 1:
                word = 4 * chance.randrange(len(it) // 4)
                it[word : word + 4] = chance.choice(
                    (0, 1, 2, 6, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 28)
                ).to_bytes(4, "big")
            elif kind == 2:
                it[:] = it.replace(UUID(self.mine["uuid"]).bytes, UUID(self.theirs["uuid"]).bytes)
            elif kind == 3:
                it[12:16] = chance.randrange(460).to_bytes(4, "big")
            elif kind == 4:
                messages.insert(at, bytearray(it))
            elif kind == 5 and len(messages) > 1:
                del messages[at]
            elif kind == 6:
                chance.shuffle(messages[3:])
                messages.insert(chance.randrange(len(messages)), messages.pop(at))
            else:
                it += bytes(chance.randrange(64))
                it[:4] = len(it).to_bytes(4, "big")
        data = b"".join(messages)
        return data if chance.random() < 0.9 else data[: chance.randrange(len(data))]

    def test_mutated(self) -> None:
        """Recorded sessions with mistakes: never a bug, never a byte of others, nothing kept."""
        sessions = self.record()
        self.assertEqual(len(sessions), 6)
        chance = random.Random(7)
        secrets = (b"hidden-zq", b"title-of-hidden", b"52:54:00:00:00:0b", UUID(TEST).bytes)
        before, xml = self.gateway.rss(), self.direct("dumpxml", "hidden-zq", target="test")
        mark = self.said()
        for round_ in range(200):
            data = self.mutated(chance, chance.choice(sessions))
            raw = Raw(self.home / "gw.sock")
            try:
                raw.send(data)
            except (ConnectionResetError, BrokenPipeError):
                pass
            raw.drain(0.04)
            raw.close()
            for secret in secrets:
                self.assertNotIn(secret, raw.got, (round_, data))
        self.assertEqual(self.direct("dumpxml", "hidden-zq", target="test"), xml)
        for at, part in enumerate(self.said()):
            if at >= len(mark):
                self.assertNotIn(UUID(self.theirs["uuid"]).bytes, part)
        self.assertLess(self.gateway.rss() - before, 32 * MIB)
        self.assertEqual(self.do("list", "--all", "--name").split(), ["alice-vm"])
        wait_for(lambda: not self.gateway.sessions(), "the end of all sessions")
