"""What is attempted on the AMP endpoint and from hypervisors: A1 to A10, on the process itself, over TLS."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar
from uuid import uuid4

from gateway.rpc import arguments as types
from gateway.rpc.commands import COMMANDS, STRANGERS
from gateway.rpc.permissions import STATEFUL
from gateway.wire.amp_box import BoxReader
from gateway.wire.libvirt_message import KEEPALIVE, PING, Message, Status, Type
from gateway.wire.libvirt_schema import PROCEDURES, PROGRAMS, procedure
from tests.functional.case import PYTEST_ONLY
from tests.functional.peers import Sections
from tests.functional.processes import DEADLINE, MIB, best_of, wait_for
from tests.functional.rpc_attacks import (
    TEST,
    Act,
    Client,
    Hypervisor,
    Neighbor,
    Refused,
    answer,
    descriptors_of,
    domains,
    event,
    gives,
    length,
    says,
    silent,
    tls_errors,
)
from tests.functional.rpc_case import RpcCase
from tests.rpc import hostile_xml

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

#: Hypervisors of ours that one gateway may have.
HOSTILE = 40
_GUEST = "<domain type='test'><name>{}</name><memory>65536</memory><os><type>hvm</type></os></domain>"


class ThreatCase(RpcCase):
    """A gateway before a real libvirtd, and before hypervisors that the test plays."""

    numbers: ClassVar[Iterator[int]]

    @classmethod
    def configuration(cls) -> Sections:
        cls.numbers = iter(range(HOSTILE))
        evil = {f"target evil{at}": {"uri": cls.evil(at)} for at in range(HOSTILE)}
        return {**super().configuration(), **evil}

    @classmethod
    def evil(cls, number: int) -> str:
        return f"test+unix:///default?socket={cls.home / f'evil{number}'}"

    def hypervisor(self, domains: Any = (), **acts: Act) -> tuple[Hypervisor, str]:
        """One that the test plays, and the name of its target."""
        number = next(self.numbers)
        made = Hypervisor(self.home / f"evil{number}", domains, **acts)
        self.addCleanup(made.close)
        return made, f"evil{number}"

    def raw(self, **more: Any) -> Client:
        """Somebody who has not logged in."""
        client = Client(self.gateway, self.rpc, **more)
        self.addCleanup(client.close)
        return client

    def login(self, ticket: str = "", **more: Any) -> Client:
        """Somebody who has, by a ticket that permits everything unless it is given."""
        client = self.raw(**more)
        client.ask("Login", token=ticket or self.grant())
        return client

    def neighbor(self) -> Neighbor:
        """Somebody innocent, with a domain of the real hypervisor."""
        client = self.login(self.grant(principal="neighbor"))
        dom = client.lookup(client.open())
        return Neighbor(lambda: client.ask("GetState", dom=dom), self.gateway.rss)

    def served(self, neighbor: Neighbor, *, worst: float = 0.3, memory: int = 48 * MIB) -> None:
        """The neighbor hardly noticed, and the gateway holds little more than before.

        :param worst: seconds that a call took; a tenth of them is this machine's, which has other work, too.
        """
        taken = sorted(neighbor.taken)
        self.assertGreater(len(taken), 3)
        self.assertLess(taken[len(taken) * 9 // 10 - 1], worst + 5 * neighbor.usual)
        self.assertLess(neighbor.grown, memory)

    def refused(self, code: str, ask: Callable[..., object], /, *arguments: Any, **named: Any) -> Refused:
        """What *ask* is answered to all that follows, which is an error with this code."""
        with self.assertRaises(Refused) as caught:
            ask(*arguments, **named)
        self.assertEqual(caught.exception.code, code, caught.exception.details)
        error: Refused = caught.exception
        return error


def plausible(known: Any, **given: str) -> dict[str, str]:
    """Arguments that a command could have."""
    found = {}
    for key, it in known.arguments:
        name = key.decode("ascii")
        if name in given:
            found[name] = given[name]
        elif not it.optional:
            number = isinstance(it, types.Integer | types.Float)
            found[name] = "1" if number else "True" if isinstance(it, types.Boolean) else "x"
    return found


class RoleTests(ThreatCase):
    """A1, A2: strangers, and tickets that permit little."""

    def test_before_login(self) -> None:
        """Before the login every command is answered alike, and none is done; the connection stays."""
        client = self.raw()
        dom, handle = "A" * 64, "B" * 43
        before = self.gateway.control("GET", "/tickets/").body
        for name, known in COMMANDS.items():
            if known not in STRANGERS:
                asked = plausible(known, dom=dom, handle=handle)
                error = self.refused("UNAUTHENTICATED", client.ask, name.decode(), **asked)
                self.assertEqual(set(error.details), {"text"})
        self.refused("UNAUTHENTICATED", client.ask, "NoSuchCommand", x="y")
        self.refused("UNAUTHENTICATED", client.ask, "Login", token=str(uuid4()))
        self.assertEqual(self.gateway.control("GET", "/tickets/").body, before)
        self.assertEqual(client.ask("Version")["protocol"], b"1")
        client.ask("Login", token=self.grant())
        self.assertTrue(client.ask("Targets")["targets"])

    def test_pipelined_behind_login(self) -> None:
        """Calls sent along with a login that fails are not done by anybody."""
        client = self.raw()
        data = client.box("Login", token=str(uuid4())) + client.box("Open", target="test")
        client.line.sendall(data)
        self.refused("UNAUTHENTICATED", client.answer, b"1")
        self.refused("UNAUTHENTICATED", client.answer, b"2")

    def test_endless_box(self) -> None:
        """A stranger's box is cut at 16 KiB, one without end of a user at the limit of its command."""
        pairs = (b"\0\x05%05d\xff\xff" % at + bytes(65535) for at in itertools.count())
        with self.neighbor() as neighbor:
            for client, head, most in (
                (self.raw(), b"", MIB),
                (self.raw(), self.raw().box("Login", token="x")[:-2], MIB),
                (self.login(), b"", 36 * MIB),
                (self.login(), self.raw().box("Define", handle="x", xml="<")[:-2], 5 * MIB),
                (self.login(), self.raw().box("Call", handle="x", proc="y")[:-2], 36 * MIB),
            ):
                sent = 0
                client.line.settimeout(1.0)
                with contextlib.suppress(*tls_errors()):
                    client.line.sendall(head)
                    while sent < 400 * MIB:
                        client.line.sendall(b"".join(next(pairs) for _ in range(16)))
                        sent += MIB
                self.assertLess(sent, most + 24 * MIB)  # some is thrown away while it is told why
                self.assertTrue(client.over())
        self.served(neighbor, memory=80 * MIB)

    def test_nothing(self) -> None:
        """A ticket that permits nothing may open what it names, and no command does anything for it."""
        client = self.login(self.grant(("*",), ()))
        self.assertEqual(client.ask("ListDomains", handle=client.open())["domains"], b"")
        client = self.login(self.grant((), ("*",)))
        handle = client.open()
        for name, known in COMMANDS.items():
            if known in STRANGERS or known.__name__ in _HARMLESS:
                continue
            with self.assertRaises(Refused) as caught:
                client.ask(name.decode(), **plausible(known, handle=handle, dom="A" * 64, name="test"))
            error = caught.exception
            self.assertIn(error.code, ("DENIED", "NO_HANDLE", "BAD_ARGS", "NOT_IMPLEMENTED"), name)
            if known.admin:
                self.assertEqual((error.code, error.details["perm"]), ("DENIED", f"command:{name.decode()}"))
        self.assertIn("running", self.virsh("domstate", "test"))

    def test_every_command(self) -> None:
        """Who may only ask for the hypervisor's name gets that, and every other command is denied."""
        ticket = self.grant(("*",), principal="carol")
        client = self.login(ticket)
        handle = client.open()
        cookies = {
            "handle": handle,
            "dom": client.lookup(handle),
            "net": client.ask("LookupNetwork", handle=handle, name="default")["net"].decode(),
            "pool": client.ask("LookupPool", handle=handle, name="default-pool")["pool"].decode(),
        }
        low = self.login(self.grant(("connect:getattr",), principal="carol"))
        self.assertTrue(low.ask("GetHostname", handle=handle)["hostname"])
        xml = _GUEST.format("made")
        passed = set()
        for name, known in COMMANDS.items():
            if known in STRANGERS or known.__name__ in (*_HARMLESS, "Unsubscribe", "Ack"):
                continue
            given = plausible(known, **cookies, target="test", kinds="lifecycle", name="test", xml=xml)
            if "proc" in given:
                given |= {"proc": "DOMAIN_DESTROY", "args": json.dumps({"dom": _DOM})}
            try:
                low.ask(name.decode(), **given)
                passed.add(known.__name__)
            except Refused as refused:
                self.assertIn(
                    refused.code, ("DENIED", "BAD_ARGS", "NOT_IMPLEMENTED"), (name, refused.details)
                )
        self.assertLessEqual(
            passed,
            {"Targets", "Handles", "Cancel", "GetVersion", "GetType", "GetHostname", "GetUri", "GetNodeInfo"},
        )
        self.assertIn("running", self.virsh("domstate", "test"))
        self.assertNotIn("made", self.virsh("list", "--all", "--name"))

    def test_every_procedure(self) -> None:
        """Nor is any procedure of libvirt's done by ``Call``."""
        handle = self.login(self.grant(("*",), principal="dave")).open()
        low = self.login(self.grant(("connect:getattr",), principal="dave"))
        passed = set()
        for known in PROCEDURES.values():
            if known.event:
                continue
            payload = known.arguments.pack(_plausible(known.arguments.fields))
            try:
                low.ask("Call", handle=handle, proc=known.name, xdr=payload)
                passed.add(known.name)
            except Refused as refused:
                if refused.code == "LIBVIRT" and refused.details["code"] in (3, 8, 38, 55):
                    passed.add(known.name)  # it got there
                else:
                    self.assertIn(refused.code, ("DENIED", "BAD_ARGS"), (known.name, refused.details))
        words = {word for name in passed for word in procedure(name).permissions}
        self.assertLessEqual({word.split(":")[0] for word in words}, {"connect", "none"}, passed)
        self.assertIn("running", self.virsh("domstate", "test"))

    def test_not_by_anybody(self) -> None:
        """A second open, another identity, registrations of events: not even for who may do everything.

        Nor the monitor of QEMU and the like, which have to be named.
        """
        client = self.login(self.grant(("*", "domain:*", "qemu:*"), principal="erin"))
        handle = client.open()
        outright = [each for each in PROCEDURES.values() if each.program != PROGRAMS["remote"]]
        for known in (*map(procedure, STATEFUL), *outright):
            if known.event or known.stream:
                continue
            given = {"handle": handle, "proc": known.name}
            payload = known.arguments.pack(_plausible(known.arguments.fields))
            self.refused("DENIED", client.ask, "Call", xdr=payload, **given)
        self.assertEqual(client.ask("GetHostname", handle=handle).keys(), {"_answer", "hostname"})


#: They are about a handle itself, or about nothing that a ticket would have to permit.
_HARMLESS = ("Targets", "Open", "Renew", "Close", "Handles", "Cancel", "Subscribe", "Event")
_DOM = {"name": "test", "uuid": TEST, "id": 1}


def _plausible(fields: Mapping[str, str]) -> dict[str, Any]:
    """Values that a procedure could have."""
    found: dict[str, Any] = {}
    for name, kind in fields.items():
        if "<=" in kind:
            found[name] = b"" if kind.startswith(("opaque", "char")) else []
        elif kind.endswith("?"):
            found[name] = None
        elif kind.startswith(("char[", "opaque[")):
            found[name] = bytes(int(kind.split("[")[1][:-1]))
        elif kind == "uuid":
            found[name] = TEST
        elif kind == "str":
            found[name] = "x"
        elif kind in _REFERENCES:
            found[name] = _plausible(_REFERENCES[kind])
        else:
            found[name] = 0
    return found


_REFERENCES = {
    "Dom": {"name": "str", "uuid": "uuid", "id": "i32"},
    "Net": {"name": "str", "uuid": "uuid"},
    "Pool": {"name": "str", "uuid": "uuid"},
    "Vol": {"pool": "str", "name": "str", "key": "str"},
    "Iface": {"name": "str", "mac": "str"},
    "NodeDev": {"name": "str"},
    "Secret": {"uuid": "uuid", "usageType": "i32", "usageID": "str"},
    "NWFilter": {"name": "str", "uuid": "uuid"},
    "NWBinding": {"portdev": "str", "filtername": "str"},
    "Snap": {"name": "str", "dom": "Dom"},
    "Ckpt": {"name": "str", "dom": "Dom"},
    "NetPort": {"net": "Net", "uuid": "uuid"},
}


class HypervisorTests(ThreatCase):
    """A2, A6, A7: hypervisors that mean no good, or have much."""

    def opened(self, target: str) -> tuple[Client, str]:
        """Who may do everything, with a handle."""
        client = self.login()
        return client, client.open(target)

    def ends(self, client: Client, handle: str, code: str = "INTERRUPTED") -> Refused:
        """A call comes to an end soon, and the connection of who called stays."""
        began = time.monotonic()
        error = self.refused(code, client.call, handle, "CONNECT_GET_HOSTNAME")
        self.assertLess(time.monotonic() - began, 15)
        self.assertTrue(client.ask("Targets")["targets"])
        return error

    def test_nonsense(self) -> None:
        """What is no answer to the call ends the connection; a call that only reads is tried once more."""
        name = procedure("CONNECT_GET_HOSTNAME").results.pack({"hostname": "evil"})
        replies: dict[str, Callable[[Message], bytes]] = {
            "a length of 4 GiB": lambda asked: b"\xff" * 28,
            "a length of 64 MiB": lambda asked: length(64 * MIB) + answer(asked, name)[4:],
            "a length of nothing": lambda asked: bytes(28),
            "a text of 4 GiB": lambda asked: answer(asked, b"\xff\xff\xff\xff" + name),
            "a text that is cut": lambda asked: answer(asked, length(400) + b"evil"),
            "a negative length": lambda asked: answer(asked, length(-4) + b"evil"),
            "padding": lambda asked: answer(asked, length(3) + b"evil"),
            "trailing bytes": lambda asked: answer(asked, name + bytes(4)),
            "NUL": lambda asked: answer(asked, length(4) + b"e\0il"),
            "another call": lambda asked: answer(asked, name, serial=asked.serial + 1000),
            "another procedure": lambda asked: answer(asked, name, procedure=1),
            "another program": lambda asked: answer(asked, name, program=PROGRAMS["qemu"]),
            "a call": lambda asked: answer(asked, name, type=Type.CALL),
            "another type": lambda asked: answer(asked, name, type=7),
            "another status": lambda asked: answer(asked, name, status=9),
            "no error": lambda asked: answer(asked, b"", Status.ERROR),
            "half an error": lambda asked: answer(asked, bytes(12), Status.ERROR),
            "a union of 2": lambda asked: answer(asked, bytes(8) + length(2) + bytes(60), Status.ERROR),
            "too many descriptors": lambda asked: answer(asked, length(33) + name, type=Type.REPLY_WITH_FDS),
            "descriptors that are not there": lambda asked: (
                answer(asked, length(3) + name, type=Type.REPLY_WITH_FDS) + b"..."
            ),
        }
        hypervisor, target = self.hypervisor()
        client, handle = self.opened(target)
        before = descriptors_of(self.gateway.pid)
        with self.neighbor() as neighbor:
            for what, make in replies.items():
                hypervisor.acts["CONNECT_GET_HOSTNAME"] = says(make)
                heard = hypervisor.heard["CONNECT_GET_HOSTNAME"]
                self.ends(client, handle)
                self.assertEqual(hypervisor.heard["CONNECT_GET_HOSTNAME"] - heard, 2, what)
        self.served(neighbor)
        hypervisor.acts["CONNECT_GET_HOSTNAME"] = gives(hostname="good")
        self.assertEqual(client.ask("GetHostname", handle=handle)["hostname"], b"good")
        wait_for(lambda: descriptors_of(self.gateway.pid) <= before + 4, "descriptors are closed")

    def test_twice(self) -> None:
        """A write whose answer is nonsense is not sent again, and may have been done."""
        hypervisor, target = self.hypervisor(domains(1))
        hypervisor.acts["DOMAIN_DESTROY_FLAGS"] = says(partial(answer, payload=b"trailing"))
        client, handle = self.opened(target)
        dom = client.lookup(handle, "vm0")
        error = self.refused("INTERRUPTED", client.ask, "Destroy", dom=dom)
        self.assertEqual(error.details["maybe_executed"], True)
        self.assertEqual(hypervisor.heard["DOMAIN_DESTROY_FLAGS"] + hypervisor.heard["DOMAIN_DESTROY"], 1)

    def test_counts(self) -> None:
        """Lists that are longer than they may be, or than their message, or negative, are not believed."""
        hypervisor, target = self.hypervisor()
        client, handle = self.opened(target)
        for payload in (length(-1), length(16385), length(16384) + bytes(40), length(1) + bytes(8), b""):
            hypervisor.acts["CONNECT_LIST_ALL_DOMAINS"] = says(partial(answer, payload=payload))
            self.refused("INTERRUPTED", client.ask, "ListDomains", handle=handle)
        stats = length(1) + length(1) + b"x" * 4 + bytes(16) + bytes(4)
        for payload in (
            stats + length(262145),
            stats + length(1) + length(1) + b"abcd" + length(9) + bytes(8),
        ):
            hypervisor.acts["CONNECT_GET_ALL_DOMAIN_STATS"] = says(partial(answer, payload=payload))
            asked = {"doms": [], "stats": 0, "flags": 0}
            self.refused("INTERRUPTED", client.call, handle, "CONNECT_GET_ALL_DOMAIN_STATS", asked)

    def test_large(self) -> None:
        """A reply of 32 MiB is read with the others served; a text of 8 MiB is no text of libvirt's."""
        params = [{"field": f"p{at}", "type": "ullong", "value": at} for at in range(1000)]
        stats = procedure("CONNECT_GET_ALL_DOMAIN_STATS").results
        one = stats.pack({"retStats": [{"dom": _DOM, "params": params}]})[4:]
        count = (32 * MIB - 64) // len(one)
        whole = length(count) + one * count
        hypervisor, target = self.hypervisor(domains(1))
        client, handle = self.opened(target)
        dom = client.lookup(handle, "vm0")
        hypervisor.acts["CONNECT_GET_ALL_DOMAIN_STATS"] = says(partial(answer, payload=whole))
        asked = {"doms": [], "stats": 1, "flags": 0}
        with self.neighbor() as neighbor:
            self.refused("TOO_LARGE", client.call, handle, "CONNECT_GET_ALL_DOMAIN_STATS", asked)
        self.served(neighbor, memory=320 * MIB)
        for size, code in ((4 * MIB, ""), (8 * MIB, "INTERRUPTED")):
            xml = length(size) + b"x" * size
            hypervisor.acts["DOMAIN_GET_XML_DESC"] = says(partial(answer, payload=xml))
            with self.neighbor() as neighbor:
                if code:
                    self.refused(code, client.ask, "GetXml", dom=dom)
                else:
                    self.assertEqual(client.ask("GetXml", dom=dom)["xml"], xml[4:])
            self.served(neighbor, memory=96 * MIB)

    def test_silence(self) -> None:
        """Who never answers keeps its own callers waiting, up to their deadline, and nobody else."""
        hypervisor, target = self.hypervisor(CONNECT_GET_HOSTNAME=silent)
        client, handle = self.opened(target)
        with self.neighbor() as neighbor:
            began = time.monotonic()
            tags = [
                client.send(
                    "Call",
                    handle=handle,
                    proc="CONNECT_GET_MAX_VCPUS",
                    deadline="1.0",
                    args=json.dumps({"type": str(at)}),
                )
                for at in range(50)
            ]
            hypervisor.acts["CONNECT_GET_MAX_VCPUS"] = silent
            for tag in tags[10:]:
                with self.assertRaises(Refused):
                    client.answer(tag)
            self.assertLess(time.monotonic() - began, 15)
        self.served(neighbor)

    def flood(self, data: bytes, *, grown: int = 48 * MIB, worst: float = 0.3) -> Client:
        """A hypervisor that says *data* over and over where events are waited for."""
        hypervisor, target = self.hypervisor(domains(1))
        client, handle = self.opened(target)
        client.ask("Subscribe", handle=handle, kinds=b"\0\1*")
        wait_for(lambda: hypervisor.watchers, "somebody watches")
        time.sleep(0.3)
        with self.neighbor() as neighbor:
            hypervisor.watchers[0].deaf = True
            sent = hypervisor.watchers[0].flood(data, 2.5)
            hypervisor.watchers[0].deaf = False
        self.assertGreater(sent, MIB // 8)
        self.served(neighbor, memory=grown, worst=worst)
        return client

    def test_keepalive_storm(self) -> None:
        """Pings without end, whose answers nobody reads, are not all answered."""
        ping = Message(KEEPALIVE, 1, PING, Type.EVENT, 0, Status.OK).pack()
        self.flood(ping * 4096, grown=8 * MIB)

    def test_endless_events(self) -> None:
        """Events without end, to a client that reads none of them."""
        dom = domains(1)[0]
        told = [
            event("DOMAIN_EVENT_CALLBACK_LIFECYCLE", callbackID=1, dom=dom, event=at % 2 + 3, detail=0)
            for at in range(512)
        ]
        self.flood(b"".join(told))

    def test_endless_domains(self) -> None:
        """Events of ever other domains, with names of 4 KiB."""
        told = [
            event("DOMAIN_EVENT_CALLBACK_LIFECYCLE", callbackID=1, dom=dom, event=2, detail=0)
            for dom in domains(20_000, "n{}" + "x" * 900)
        ]
        self.flood(b"".join(told), grown=160 * MIB)

    def test_unwanted_descriptors(self) -> None:
        """Descriptors that nobody asked for are closed, and so is the connection."""
        hypervisor, target = self.hypervisor(domains(1))
        client, handle = self.opened(target)
        client.ask("Subscribe", handle=handle, kinds=b"\0\1*")
        wait_for(lambda: hypervisor.watchers, "somebody watches")
        time.sleep(0.3)
        before = descriptors_of(self.gateway.pid)
        told = event("DOMAIN_EVENT_CALLBACK_LIFECYCLE", callbackID=1, dom=_DOM, event=3, detail=0)
        for turn in range(2):
            wait_for(lambda: len(hypervisor.watchers) > turn, "somebody watches again")  # noqa: B023 (asked at once)
            line = hypervisor.watchers[turn]
            for _ in range(3 if turn % 2 else 1):
                line.pass_on([0] * (30 if turn % 2 else 5), told[: 20 if turn % 2 else len(told)])
            wait_for(lambda: line.over, "the connection ends")  # noqa: B023 (asked at once)
        wait_for(lambda: descriptors_of(self.gateway.pid) <= before + 4, "descriptors are closed")

    def test_names(self) -> None:
        """Names with escape sequences and line ends do no harm to the log, or to who reads them."""
        names = [
            "\x1b[2J\x1b]0;evil\x07",
            "a\nb",
            "../../etc/passwd",
            "\u202egnp",
            "x" * 5000,
            "'; --",
            "<b>",
        ]
        hypervisor, target = self.hypervisor(domains(len(names)))
        for dom, name in zip(hypervisor.domains, names, strict=True):
            dom["name"] = name
        client, handle = self.opened(target)
        rows = client.ask("ListDomains", handle=handle)["domains"]
        for name in names:
            self.assertIn(name.encode(), rows)
        for line in self.gateway.log().splitlines():
            self.assertTrue(line.isprintable() or line.isascii(), line)
            self.assertNotIn("\x1b", line)

    def test_fuzz(self) -> None:
        """Replies of which some bits are others: each call ends, and nothing unforeseen happens."""
        chance = random.Random(6)
        hypervisor, target = self.hypervisor(domains(3))
        client, handle = self.opened(target)

        def mutated(asked: Message) -> bytes:
            known = procedure("CONNECT_LIST_ALL_DOMAINS")
            good = bytearray(answer(asked, known.results.pack({"domains": hypervisor.domains, "ret": 3})))
            for _ in range(chance.randrange(1, 4)):
                good[chance.randrange(4, len(good))] = chance.choice(
                    (0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256))
                )
            return (
                bytes(good)
                if chance.random() < 0.8
                else bytes(good[: chance.randrange(28, len(good))]) + b"?" * 40
            )

        hypervisor.acts["CONNECT_LIST_ALL_DOMAINS"] = says(mutated)
        ends: set[str] = set()
        with self.neighbor() as neighbor:
            for _ in range(60):
                given = json.dumps({"need_results": 1, "flags": chance.randrange(1 << 30)})
                try:
                    client.ask(
                        "Call", handle=handle, proc="CONNECT_LIST_ALL_DOMAINS", args=given, deadline="0.5"
                    )
                    ends.add("")
                except Refused as refused:
                    ends.add(refused.code)
        self.served(neighbor)
        self.assertLessEqual(ends, {"", "INTERRUPTED", "DEADLINE", "TARGET_DOWN", "LIBVIRT"})
        self.assertGreater(len(ends), 1)

    COUNT = 16_384

    def pages(self, client: Client, handle: str) -> list[bytes]:
        """The uuids of all domains, page by page."""
        found, cursor = [], ""
        reader_room = (1 << 20, 1 << 20)
        while True:
            answer = client.ask(
                "ListDomains", handle=handle, limit=1000, **({"cursor": cursor} if cursor else {})
            )
            reader = BoxReader(reader_room)
            reader.feed(answer["domains"])
            while (row := reader.next()) is not None:
                found.append(row[b"uuid"])
            cursor = answer["cursor"].decode()
            if not cursor:
                return found

    def test_domains(self) -> None:
        """16,384 domains are found page by page, each once, and the others hardly notice."""
        hypervisor, target = self.hypervisor(domains(self.COUNT))
        some = self.login(self.grant(("*",), ("vm1*",)))
        with self.neighbor() as neighbor:
            client = self.login()
            handle = client.open(target)
            found = self.pages(client, handle)
            self.assertEqual((len(found), len(set(found))), (self.COUNT, self.COUNT))
            wait_for(lambda: hypervisor.heard["CONNECT_GET_ALL_DOMAIN_STATS"], "the first list")
        self.served(neighbor, worst=1.0, memory=160 * MIB)
        with self.neighbor() as neighbor:
            mine = self.pages(some, some.open(target))
            self.assertEqual(len(mine), sum(dom["name"].startswith("vm1") for dom in hypervisor.domains))
            handle = client.open(target)
            client.ask("Subscribe", handle=handle, kinds=b"\0\x09lifecycle", from_seq=0)
            seen: set[str] = set()
            while len(seen) < self.COUNT:
                box = client.next()
                if b"_command" in box:
                    seen |= {row["dom"]["uuid"] for row in json.loads(_whole(box))["domains"]}
                    client.send("Ack", sub=box[b"sub"], seq=box[b"seq"])
            for name in ("CONNECT_LIST_ALL_DOMAINS", "CONNECT_GET_ALL_DOMAIN_STATS"):
                asked = {"flags": 0} | ({"need_results": 1} if "LIST" in name else {"doms": [], "stats": 1})
                result = client.call(handle, name, asked)
                self.assertEqual(len(next(it for it in result.values() if isinstance(it, list))), self.COUNT)
        self.served(neighbor, worst=1.0, memory=160 * MIB)

    def test_lists_pipelined(self) -> None:
        """A hundred lists of 16,384 asked for at once are answered in turns."""
        _, target = self.hypervisor(domains(self.COUNT))
        client = self.login()
        handle = client.open(target)
        client.ask("ListDomains", handle=handle, limit=1)
        with self.neighbor() as neighbor:
            data = b"".join(client.box("ListDomains", handle=handle, limit=1) for _ in range(100))
            client.line.sendall(data)
            client.answer(b"%x" % client.tag)
        self.served(neighbor, worst=1.0, memory=96 * MIB)


def _whole(box: dict[bytes, bytes]) -> bytes:
    """The payload of an event, which may come in parts."""
    return b"".join(
        box[key] for key in (b"payload", *(b"payload.%d" % at for at in range(1, 99))) if key in box
    )


class ClientTests(ThreatCase):
    """A2, A4 to A6, A8, A9: clients that mean no good, and tickets that end."""

    def test_pipelined(self) -> None:
        """20,000 calls at once wait outside, and are answered when somebody reads that."""
        client = self.login()
        dom = client.lookup(client.open())
        data = b"".join(client.box("GetState", dom=dom) for _ in range(20_000))
        sender = threading.Thread(target=client.line.sendall, args=(data,), daemon=True)
        with self.neighbor() as neighbor:
            sender.start()
            sender.join(0.3)
            tags = {client.next()[b"_answer"] for _ in range(20_000)}
            sender.join(DEADLINE)
        self.assertEqual(len(tags), 20_000, "none was too much")
        self.served(neighbor, memory=32 * MIB)

    def test_nothing_read(self) -> None:
        """Who asks for much and reads nothing of it is not asked what else there is."""
        with self.neighbor() as neighbor:
            for _ in range(4):
                client = self.login(receive=4096)
                data = client.box("GetCapabilities", handle=client.open()) * 200_000
                threading.Thread(target=self._send, args=(client, data), daemon=True).start()
            time.sleep(3)
        self.served(neighbor, memory=8 * MIB)

    @staticmethod
    def _send(client: Client, data: bytes) -> None:
        with contextlib.suppress(*tls_errors()):
            client.line.sendall(data)

    def test_json(self) -> None:
        """JSON that is deep, or has members twice, or more of them than anybody needs, is refused in time."""
        client = self.login(self.grant(ops=["call", "admin"]))
        handle = client.open()
        dom = client.lookup(handle)
        deep = "[" * 100_000 + "]" * 100_000
        texts = (
            '{"x":' + deep + "}", deep, "[" * 8_000_000, '{"x":' * 100_000, '{"a":1,"a":2}', "[]", "1", "",
            '{"x":NaN}', '{"x":1e999}', '{"x":' + "9" * 5000 + "}", '{"x":"\\ud800"}', "\ufeff{}", "{",
            '{"x":"\0"}',
            '{"x":[' + "[]," * 5_000_000 + "[]]}", '{"x":[' + "1," * 7_000_000 + "1]}", "\xff{}",
        )  # fmt: skip
        with self.neighbor() as neighbor:
            for text in texts:
                data = text.encode("latin-1") if text == "\xff{}" else text
                given = {"handle": handle, "proc": "DOMAIN_LOOKUP_BY_NAME"}
                self.refused("BAD_ARGS", client.ask, "Call", args=data, **given)
                if len(text) < 16_000:
                    options = data or "x"
                    self.refused("BAD_ARGS", client.ask, "Console", dom=dom, options=options)
                    with self.assertRaises(Refused) as caught:
                        client.ask("AddTicket", ticket=data)
                    self.assertIn(caught.exception.code, ("BAD_REQUEST", "BAD_ARGS"))
        self.served(neighbor, memory=96 * MIB)

    def test_xdr(self) -> None:
        """XDR that is cut, or has more behind it, or counts and unions that are none, reaches nobody."""
        hypervisor, target = self.hypervisor(domains(1))
        client = self.login()
        handle = client.open(target)
        info = procedure("DOMAIN_GET_INFO").arguments.pack({"dom": _DOM})
        stats = "CONNECT_GET_ALL_DOMAIN_STATS"
        params = length(1) + length(1) + b"abcd"
        for name, data in (
            ("DOMAIN_GET_INFO", info + bytes(4)), ("DOMAIN_GET_INFO", info[:-1]), ("DOMAIN_GET_INFO", b""),
            ("DOMAIN_GET_INFO", length(-1) + info[4:]), ("DOMAIN_GET_INFO", length(3) + info[4:]),
            ("DOMAIN_GET_INFO", length(4) + b"te\0t" + info[8:]), (stats, length(16385) + bytes(8)),
            (stats, length(-1) + bytes(8)), (stats, bytes(8)), (stats, length(1) + bytes(8)),
            ("DOMAIN_SET_MEMORY_PARAMETERS", info + length(17) + bytes(64)),
            ("DOMAIN_SET_MEMORY_PARAMETERS", info + params + length(8) + bytes(8)),
            ("DOMAIN_SET_MEMORY_PARAMETERS", info + params + length(0) + bytes(4)),
            ("DOMAIN_SET_MEMORY_PARAMETERS", info + params + length(6) + length(2) + bytes(4)),
            ("CONNECT_DOMAIN_XML_FROM_NATIVE", length(8 * MIB) + b"x" * 8 * MIB),
        ):  # fmt: skip
            self.refused("BAD_ARGS", client.ask, "Call", handle=handle, proc=name, xdr=data)
        self.refused("BAD_ARGS", client.ask, "Call", handle=handle, proc="NO_SUCH", xdr=info)
        both: dict[str, Any] = {"proc": "DOMAIN_GET_INFO", "xdr": info, "args": "{}"}
        self.refused("BAD_ARGS", client.ask, "Call", handle=handle, **both)
        self.assertLessEqual(hypervisor.heard[stats], 1, "the first list of all")
        for name in ("DOMAIN_GET_INFO", "DOMAIN_SET_MEMORY_PARAMETERS", "CONNECT_DOMAIN_XML_FROM_NATIVE"):
            self.assertEqual(hypervisor.heard[name], 0)

    def test_large_xml(self) -> None:
        """XML of 8 MiB is more than libvirt takes, which is said; below that it goes."""
        client = self.login(self.grant(("*", "xml:unchecked")))
        handle = client.open()
        padding = "<!--" + "x" * 1000 + "-->"
        with self.neighbor() as neighbor:
            for size, command, code in (
                (8 * MIB, "Call", "BAD_ARGS"), (8 * MIB, "Define", "TOO_LARGE"),
                (20 * MIB, "Call", "TOO_LARGE"),
                (4 * MIB - 4096, "Call", ""), (4 * MIB - 4096, "Define", ""),
            ):  # fmt: skip
                xml = _GUEST.format(f"large-{command}").replace(
                    "<memory>", padding * ((size - 256) // len(padding)) + "<memory>"
                )
                client = self.login(self.grant(("*", "xml:unchecked"))) if code else client
                mine = client.open() if code else handle

                def ask(
                    client: Client = client, mine: str = mine, command: str = command, xml: str = xml
                ) -> object:
                    if command == "Define":
                        return client.ask("Define", handle=mine, xml=xml)
                    return client.call(mine, "DOMAIN_DEFINE_XML_FLAGS", {"xml": xml, "flags": 0})

                if code:
                    self.refused(code, ask)
                else:
                    self.assertTrue(ask())
        self.served(neighbor, memory=160 * MIB)
        for name in ("large-Call", "large-Define"):
            self.assertIn(name.encode(), client.ask("GetXml", dom=client.lookup(handle, name))["xml"])
            self.virsh("undefine", name)

    def test_bombs(self) -> None:
        """XML with entities, of endless depth or width, or in another encoding: refused, and quickly."""
        client = self.login(self.grant(("*",)))
        handle = client.open()
        laughs = "".join(f"<!ENTITY l{at} '{f'&l{at - 1};' * 10}'>" for at in range(1, 12))
        inner = "<name>x</name><memory>1</memory><os><type>hvm</type></os>"
        many = " ".join(f"a{at}=''" for at in range(100_000))
        wide = "<input type='mouse' bus='ps2'/>" * 120_000
        texts = (
            f"<!DOCTYPE domain [<!ENTITY l0 'lol'>{laughs}]><domain type='test'><name>&l11;</name></domain>",
            "<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><domain type='test'>&x;</domain>",
            "<!DOCTYPE d SYSTEM 'http://169.254.169.254/x'><domain type='test'><name>x</name></domain>",
            "<!DOCTYPE d [<!ENTITY % p SYSTEM 'file:///etc/passwd'> %p;]><domain type='test'/>",
            f"<domain type='test' x='{'y' * (3 * MIB)}'>{inner}</domain>",
            f"<domain type='test'>{inner}<title>{'y' * (3 * MIB)}</title></domain>",
            "<domain type='test'>" * 100_000,
            f"<domain type='test'>{inner}<devices>{wide}</devices></domain>",
            f"<domain type='test' {many}>{inner}</domain>",
            "<?xml version='1.0' encoding='utf-7'?><domain type='test'/>", "<?x y?>", "", "\0",
            "<xi:include xmlns:xi='http://www.w3.org/2001/XInclude' href='/etc/passwd'/>",
        )  # fmt: skip
        with self.neighbor() as neighbor:
            for text in texts:
                with self.assertRaises(Refused) as caught:
                    client.ask("Define", handle=handle, xml=text)
                self.assertIn(caught.exception.code, ("BAD_ARGS", "DENIED"), text[:60])
                self.assertLess(len(caught.exception.details["text"]), 300)
        self.served(neighbor, memory=96 * MIB)

    def test_attribute(self) -> None:
        """An attribute of 10 MiB is more than a command may have: the call is refused and read no further."""
        client = self.login()
        handle = client.open()
        data = client.box("Define", handle=handle, xml=f"<domain x='{'y' * (10 * MIB)}'/>")
        with self.neighbor() as neighbor:
            with contextlib.suppress(*tls_errors()):
                client.line.sendall(data)
            self.refused("TOO_LARGE", client.answer, b"%x" % client.tag)
            self.assertTrue(client.over())
        self.served(neighbor)

    def test_targets(self) -> None:
        """A tenant opens what is configured, by its name; URLs and other names are for operators."""
        hypervisor, target = self.hypervisor()
        client = self.login()
        evil = self.evil(0).rpartition("/evil")[0] + f"/{target}"
        said = set()
        for given in (
            {"target": target, "uri": evil}, {"target": target, "name": "qemu:///system"},
            {"target": "test", "uri": "qemu+ext:///system?command=/bin/sh"},
            {"target": "test", "uri": "qemu+ssh://-oProxyCommand=x/system"},
        ):  # fmt: skip
            self.refused("DENIED", client.ask, "Open", **given)
        for name in (
            evil,
            f"{target} opens qemu:///system",
            "none",
            "",
            "*",
            "test\0",
            "TEST",
            "../test",
            "x" * 4000,
        ):
            said.add(self.refused("NO_TARGET", client.ask, "Open", target=name).seen)
        some = self.login(self.grant(targets=("test",)))
        said.add(self.refused("NO_TARGET", some.ask, "Open", target=target).seen)
        self.assertEqual(len(said), 1)
        self.assertEqual(hypervisor.lines, [])

    def test_hostile_xml(self) -> None:
        """None of the XML that reaches for the host gets to the daemon, by whatever command."""
        hypervisor, target = self.hypervisor(domains(1))
        client = self.login(self.grant(("*",)))
        handle = client.open(target)
        dom = client.lookup(handle, "vm0")
        net = {"name": "n", "uuid": TEST}
        hypervisor.acts["STORAGE_POOL_LOOKUP_BY_NAME"] = gives(pool=net)
        hypervisor.acts["STORAGE_POOL_LOOKUP_BY_UUID"] = gives(pool=net)
        hypervisor.acts["STORAGE_POOL_IS_ACTIVE"] = gives(active=1)
        pool = client.ask("LookupPool", handle=handle, name="n")["pool"].decode()
        vm = hypervisor.domains[0]
        hostile = [("device", it) for it in hostile_xml.DEVICES]
        hostile += [("domain", hostile_xml.domain("", it)) for it in hostile_xml.DEVICES]
        hostile += [("domain", hostile_xml.domain(it)) for it in hostile_xml.PARTS]
        hostile += hostile_xml.HOSTILE_KINDS
        commands = {
            "domain": (("Define", {"handle": handle}), ("Create", {"handle": handle})),
            "snapshot": (("CreateSnapshot", {"dom": dom}),), "volume": (("CreateVolume", {"pool": pool}),),
            "network": (("DefineNetwork", {"handle": handle}),),
            "pool": (("DefinePool", {"handle": handle}),),
        }  # fmt: skip
        calls: dict[str, Any] = {
            "domain": (
                ("DOMAIN_CREATE_XML", {"xml_desc": "", "flags": 0}),
                ("DOMAIN_DEFINE_XML", {"xml": ""}),
            ),
            "device": (
                ("DOMAIN_ATTACH_DEVICE", {"dom": vm, "xml": ""}),
                ("DOMAIN_UPDATE_DEVICE_FLAGS", {"dom": vm, "xml": "", "flags": 0}),
            ),
            "disk": (
                ("DOMAIN_BLOCK_COPY", {"dom": vm, "path": "vda", "destxml": "", "params": [], "flags": 0}),
            ),
            "checkpoint": (("DOMAIN_CHECKPOINT_CREATE_XML", {"dom": vm, "xml_desc": "", "flags": 0}),),
            "backup": (
                ("DOMAIN_BACKUP_BEGIN", {"dom": vm, "backup_xml": "", "checkpoint_xml": None, "flags": 0}),
            ),
            "network": (("NETWORK_CREATE_XML", {"xml": ""}),),
            "pool": (("STORAGE_POOL_CREATE_XML", {"xml": "", "flags": 0}),),
        }  # fmt: skip
        asked = 0
        for kind, xml in hostile:
            ways: list[Callable[[], object]] = []
            for command, given in commands.get(kind, ()):
                ways.append(partial(client.ask, command, xml=xml, **given))
            for name, values in calls.get(kind, ()):
                full = {key: xml if value == "" else value for key, value in values.items()}
                ways.append(partial(client.call, handle, name, full))
            for way in ways:
                with self.assertRaises(Refused) as caught:
                    way()
                code = caught.exception.code
                self.assertIn(code, ("DENIED", "BAD_ARGS"), (kind, xml, caught.exception.details))
                asked += 1
        self.assertGreater(asked, 400)
        written = {name for name in hypervisor.heard if procedure(name).writes == "W"}
        self.assertEqual(written, set())

    def test_oracle(self) -> None:
        """What is hidden is answered as what is absent: the same code, the same text, in the same time."""
        hypervisor, target = self.hypervisor(domains(40))
        for dom in hypervisor.domains[20:]:
            dom["name"] = f"hidden{dom['id']}"
        client = self.login(self.grant(("*",), ("vm*",)))
        handle = client.open(target)
        self.assertEqual(client.ask("Lookup", handle=handle, name="vm3")["name"], b"vm3")
        absent = [f"00000000-0000-4000-8000-{at:012x}" for at in range(1000, 1020)]
        hidden = [dom["uuid"] for dom in hypervisor.domains[20:]]

        def by_uuid(uuid: str) -> object:
            return client.ask("Lookup", handle=handle, uuid=uuid)

        def by_call(uuid: str) -> object:
            return client.call(handle, "DOMAIN_GET_INFO", {"dom": {"name": "vm3", "uuid": uuid, "id": 4}})

        def undefine(uuid: str) -> object:
            return client.call(handle, "DOMAIN_UNDEFINE", {"dom": {"name": "vm3", "uuid": uuid, "id": 4}})

        def xml(uuid: str) -> object:
            given = {
                "xml": _GUEST.format("vm9").replace("<memory", f"<uuid>{uuid}</uuid><memory"),
                "flags": 0,
            }
            return client.call(handle, "DOMAIN_DEFINE_XML_FLAGS", given)

        for ask in (by_uuid, by_call, undefine):
            times: dict[bool, list[float]] = {True: [], False: []}
            for one, other in list(zip(hidden, absent, strict=True)) * 3:
                seen = []
                for is_hidden, uuid in ((True, one), (False, other)):
                    began = time.monotonic()
                    error = self.refused("LIBVIRT", ask, uuid)
                    times[is_hidden].append(time.monotonic() - began)
                    self.assertEqual(error.details["code"], 42)
                    seen.append(error.seen[1].replace(uuid, "*"))
                self.assertEqual(seen[0], seen[1], ask.__name__)
            middle = [sorted(found)[len(found) // 2] for found in times.values()]
            self.assertLess(abs(middle[0] - middle[1]), 0.5 * max(middle) + 0.003, ask.__name__)
        for name in ("hidden25", "absent25"):
            error = self.refused("LIBVIRT", client.ask, "Lookup", handle=handle, name=name)
            self.assertEqual(
                error.details["text"].replace(name, "*"), "Domain not found: no domain with matching name '*'"
            )
        self.assertEqual(hypervisor.heard["DOMAIN_UNDEFINE"], 0)

    def test_cookies(self) -> None:
        """Handles and cookies of others, of another handle, or that are altered stand for nothing."""
        one, two = self.login(self.grant(principal="one")), self.login(self.grant(principal="two"))
        first, second, other = one.open(), one.open(), two.open()
        dom, sub = one.lookup(first), one.ask("Subscribe", handle=first, kinds=b"\0\1*")["sub"].decode()
        net = one.ask("LookupNetwork", handle=first, name="default")["net"].decode()
        mine = two.lookup(other)
        said = set()
        spliced = mine[:22] + dom[22:], dom[:22] + mine[22:], dom[:42] + mine[42:], dom[::-1]
        for text in (
            dom,
            net,
            *spliced,
            dom[:-1] + ("A" if dom[-1] != "A" else "B"),
            dom + "A",
            "",
            "A" * 64,
            TEST,
        ):
            said.add(self.refused("NO_HANDLE", two.ask, "GetXml", dom=text).seen)
            said.add(self.refused("NO_HANDLE", two.ask, "Destroy", dom=text).seen)
        said.add(self.refused("NO_HANDLE", one.ask, "GetXml", dom=net).seen)
        for handle in (first, "", "x", first[:-1]):
            for command in ("Close", "Renew", "GetHostname", "ListDomains"):
                said.add(self.refused("NO_HANDLE", two.ask, command, handle=handle).seen)
        for text in (sub, "x", ""):
            self.refused("NO_HANDLE", two.ask, "Unsubscribe", sub=text)
            self.refused("NO_HANDLE", two.ask, "Ack", sub=text, seq=1)
        said.add(self.refused("NO_HANDLE", one.ask, "Subscribe", handle=second, kinds=b"\0\1*", dom=dom).seen)
        self.assertEqual(len(said), 1, said)
        self.assertEqual(two.ask("Cancel", request_id="r1")["stopped"], b"False")
        self.assertIn("running", self.virsh("domstate", "test"))

    def test_readonly(self) -> None:
        """Who wanted to read only is held to that by the open call itself, and by us."""
        hypervisor, target = self.hypervisor(domains(1))
        opened: list[int] = []

        def note(line: Any, asked: Message, given: dict[str, Any]) -> None:
            opened.append(given["flags"])
            line.reply(asked)

        hypervisor.acts["CONNECT_OPEN"] = note
        client = self.login()
        handle = client.open(target, readonly=True)
        self.assertIn(1, opened)
        dom = client.lookup(handle, "vm0")
        for ask in (
            lambda: client.ask("Destroy", dom=dom),
            lambda: client.call(handle, "DOMAIN_DESTROY", {"dom": hypervisor.domains[0]}),
            lambda: client.call(handle, "DOMAIN_GET_XML_DESC", {"dom": hypervisor.domains[0], "flags": 1}),
        ):
            self.assertEqual(self.refused("LIBVIRT", ask).details["code"], 29)
        self.assertEqual(hypervisor.heard["DOMAIN_DESTROY"] + hypervisor.heard["DOMAIN_GET_XML_DESC"], 0)

    def ended(self, end: Callable[[str], float], timeout: int = 300) -> float:
        """A call in flight is answered EXPIRED as the ticket ends; nothing of what came from it lives on.

        :param end: brings that about; returns when.
        :return: the seconds since then.
        """
        hypervisor, target = self.hypervisor(domains(1), DOMAIN_DESTROY=silent, DOMAIN_DESTROY_FLAGS=silent)
        self.installed = time.monotonic()
        ticket = self.grant(timeout=timeout)
        client, witness = self.login(ticket), self.login(ticket)
        handle = client.open(target)
        dom = client.lookup(handle, "vm0")
        real = client.lookup(client.open())
        pool = client.ask("LookupPool", handle=client.open(), name="default-pool")["pool"].decode()
        self.virsh("vol-create-as", "default-pool", volume := f"v{uuid4().hex[:8]}", "1M")
        children = [
            client.ask("Console", dom=dom)["ticket"].decode(),
            client.ask("VolUpload", pool=pool, volume=volume, size=1 << 20)["ticket"].decode(),
        ]
        for child in children:
            self.assertEqual(self.gateway.get(child).status, 200)
        tag = client.send("Destroy", dom=dom)
        wait_for(
            lambda: hypervisor.heard["DOMAIN_DESTROY"] + hypervisor.heard["DOMAIN_DESTROY_FLAGS"],
            "it arrives",
        )
        with self.neighbor() as neighbor:
            began = end(ticket)
            self.refused("EXPIRED", client.answer, tag)
            took = time.monotonic() - began
            self.assertTrue(client.over())
            self.assertTrue(witness.over())
        for each in (client, witness):
            assert each.farewell is not None
            self.assertEqual(each.farewell.code, "EXPIRED")
        self.served(neighbor)
        for child in children:
            wait_for(lambda: self.gateway.get(child).status != 200, "its children end")  # noqa: B023 (asked at once)
        self.refused("UNAUTHENTICATED", self.raw().ask, "Login", token=ticket)
        again = self.login()
        self.refused("NO_HANDLE", again.ask, "GetHostname", handle=handle)
        self.refused("NO_HANDLE", again.ask, "GetXml", dom=real)
        time.sleep(0.5)
        self.assertEqual(hypervisor.heard["DOMAIN_DESTROY"] + hypervisor.heard["DOMAIN_DESTROY_FLAGS"], 1)
        return took

    def test_revoked(self) -> None:
        """Within 50 ms of the revocation."""

        def revoke(ticket: str) -> float:
            began = time.monotonic()
            self.assertEqual(self.gateway.delete(ticket).status, 204)
            return began

        best_of(lambda: self.ended(revoke), 0.05)

    def test_expired(self) -> None:
        """At the end of its time."""
        best_of(lambda: self.ended(lambda _: self.installed + 15, timeout=15), 1.5, 3)
