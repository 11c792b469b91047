"""Stock libvirt clients: who gets in, what their calls become, and what they never hear of."""

from __future__ import annotations

import contextlib
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from gateway import errors
from gateway.rpc import libvirt_upstream
from gateway.rpc.libvirt_door import Port
from gateway.rpc.login import Caller
from gateway.rpc.permissions import demands
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_message import Message, Status, Type
from gateway.wire.libvirt_schema import PROCEDURES, PROGRAMS, procedure
from tests.rpc.fake_libvirt import FakePeer
from tests.rpc.libvirt_stage import ALICE, BOB, OTHER, TOKEN, Client, LibvirtStage, plain
from tests.rpc.scopes import ALL, calls, events, found, sample
from tests.rpc.test_volume_files import disks

LIST = {"need_results": 1, "flags": 0}
NAME = "test:///default?target=lab"
INFO = {"state": 1, "maxMem": 1, "memory": 1, "nrVirtCpu": 1, "cpuTime": 1}


def payload(name: str, /, **values: Any) -> bytes:
    """What a call of *name* holds."""
    return procedure(name).arguments.pack(values)


class LoginTests(LibvirtStage):
    """The way in."""

    def test_nothing_before(self) -> None:
        """Whoever has not logged in may do nothing else, whatever it is, and the hypervisor hears nothing."""
        client = self.client()
        for each in calls():
            if not each.name.startswith("AUTH_"):
                call = client.message(each.name, **sample(each.arguments, ALICE))
                client.say(call)
                self.assertEqual(client.error(call).text, "authentication required", each.name)
        self.assertEqual(self.daemon.peers, [])

    def test_nothing_before_open(self) -> None:
        """Whoever has not opened anything may call nothing that goes further."""
        client = self.logged_in()
        for each in calls():
            if each.name.startswith("AUTH_") or each.name in ("CONNECT_OPEN", "CONNECT_CLOSE"):
                continue
            answer = client.call(each.name, **sample(each.arguments, ALICE))
            if each.name not in (
                "CONNECT_IS_SECURE",
                *(f"CONNECT_{it}REGISTER_CLOSE_CALLBACK" for it in ("", "UN")),
            ):
                self.assertIn(answer, (1, 88), each.name)
        self.assertEqual(self.daemon.peers, [])

    def test_bad(self) -> None:
        """What is shown is a name and a token in one message; three mistakes are enough, however fast."""
        for bad in (
            plain("66666666666666666666"),
            plain(TOKEN, other="bob"),
            plain(TOKEN) | {"mech": "ANONYMOUS"},
            plain(TOKEN) | {"nil": 1},
            plain(TOKEN + "\0"),
            plain("\0" + TOKEN),
            {"mech": "PLAIN", "nil": 0, "data": f"\0alice\0{TOKEN}".encode("utf-16")},
            {"mech": "PLAIN", "nil": 0, "data": b"\0alice\0\xff\xfe"},
            {"mech": "PLAIN", "nil": 0, "data": b""},
        ):
            client = self.client()
            tries = [client.message("AUTH_SASL_START", **bad) for _ in range(9)]
            client.say(*tries, client.message("AUTH_SASL_START", **plain(TOKEN)))
            answers = [it.status for it in client.listen()]
            self.assertEqual((answers, client.lost), ([Status.ERROR] * 3, True), bad)
        self.assertEqual(len(self.refused), 27)

    def test_twice(self) -> None:
        """Two logins at once are one after the other, and the second is refused: a client has one session."""
        client = self.client()
        first, second = (client.message("AUTH_SASL_START", **plain(TOKEN)) for _ in range(2))
        client.say(first, second)
        self.assertEqual((client.answer(first)["complete"], client.answer(second)), (1, 45))
        self.assertEqual(len(self.sessions.list()), 1)

    def test_pipelined(self) -> None:
        """All steps may come in one read; each waits for the one before it."""
        client = self.client()
        steps = [
            client.message("AUTH_LIST"),
            client.message("AUTH_SASL_START", **plain(TOKEN)),
            client.message("CONNECT_OPEN", name=NAME, flags=0),
            client.message("CONNECT_LIST_ALL_DOMAINS", **LIST),
        ]
        client.say(*steps)
        self.assertEqual(client.answer(steps[-1])["ret"], 3)

    def test_left(self) -> None:
        """Who leaves while the login or the open call is in work leaves nothing behind."""
        for step in range(4):
            client = self.logged_in()
            client.say(client.message("CONNECT_OPEN", name=NAME, flags=0))
            for _ in range(step):
                self.clock.advance(0)
            client.leave()
        self.assertEqual(self.daemon.live, [])
        self.assertEqual(self.sessions.list(), ())

    def test_left_too_late(self) -> None:
        """A login that cannot be stopped any more when the client leaves is undone."""
        logins = self.door.logins
        slow: list[Deferred[None]] = [Deferred(), Deferred()]

        class Slow:
            async def token(self, *given: Any) -> Caller:
                with contextlib.suppress(CancelledError):
                    await slow[0]
                await slow[1]
                return await logins.token(*given)

        self.door.logins = Slow()  # type: ignore[assignment]  # a double
        client = self.client()
        client.say(client.message("AUTH_SASL_START", **plain(TOKEN)))
        client.leave()
        slow[1].callback(None)
        self.assertEqual(self.sessions.list(), ())

    def test_ended(self) -> None:
        """With the ticket everything ends, at once: the connection, its calls, and the one behind it."""
        client = self.opened()
        client.say(client.message("DOMAIN_GET_STATE", dom=ALICE, flags=0))
        self.revoke()
        self.assertTrue(client.wire.aborted)
        client.listen()
        self.assertEqual(self.daemon.live, [])

    def test_plain_port(self) -> None:
        """Without TLS nobody is asked for a password; the name to open holds a ticket, and must."""
        port = Port(self.door, tls=False)
        client = self.client(port)
        self.assertEqual(client.call("AUTH_LIST"), {"types": [0]})
        self.assertEqual(client.call("CONNECT_LIST_ALL_DOMAINS", **LIST), 1)
        self.assertEqual(client.call("CONNECT_OPEN", name=NAME, flags=0), 45)
        opens = [client.message("CONNECT_OPEN", name=f"{NAME}&ticket={TOKEN}", flags=0) for _ in range(2)]
        client.say(*opens)
        self.assertEqual([client.answer(each) for each in opens], [{}, 1])
        self.assertEqual((len(self.sessions.list()), len(self.daemon.live)), (1, 1))
        self.assertEqual(client.call("CONNECT_LIST_ALL_DOMAINS", **LIST)["ret"], 3)

    def test_told_by_name(self) -> None:
        """Who cannot be asked for a password chooses polkit, and brings a ticket in the name to open."""
        client = self.client()
        self.assertEqual(client.call("AUTH_LIST"), {"types": [1, 2]})
        self.assertEqual(client.call("CONNECT_OPEN", name=f"{NAME}&ticket={TOKEN}", flags=0), 39)
        self.assertEqual(client.call("AUTH_POLKIT"), {"complete": 1})
        self.assertEqual(client.call("AUTH_SASL_START", **plain(TOKEN)), 45)
        self.assertEqual(client.call("CONNECT_LIST_ALL_DOMAINS", **LIST), 1)
        self.assertEqual(self.sessions.list(), ())
        self.assertEqual(client.call("CONNECT_OPEN", name=f"{NAME}&ticket={TOKEN}", flags=0), {})
        self.assertEqual(client.call("CONNECT_LIST_ALL_DOMAINS", **LIST)["ret"], 3)
        self.assertEqual(self.refused, [])

    def test_told_nothing(self) -> None:
        """Who chooses polkit and brings no good ticket gets nowhere, and three times at most."""
        for bad in ("", "&ticket=", "&ticket=66666666666666666666"):
            client = self.client()
            self.assertEqual(client.call("AUTH_POLKIT"), {"complete": 1})
            tries = [client.message("CONNECT_OPEN", name=NAME + bad, flags=0) for _ in range(9)]
            client.say(*tries)
            answers = [it.status for it in client.listen()]
            self.assertEqual((answers, client.lost), ([Status.ERROR] * 3, True), bad)
        self.assertEqual(len(self.refused), 9)
        self.assertEqual(self.daemon.peers, [])

    def test_go(self) -> None:
        """The open call of Terraform's library is understood, whose flag of the name is another number."""
        client = self.logged_in()
        call = client.message("CONNECT_OPEN", name=NAME, flags=0)
        client.say(call._replace(payload=b"\1\0\0\0" + call.payload[4:]))
        self.assertEqual(client.answer(call), {})

    def test_websocket(self) -> None:
        """Who has shown a token before needs no login, and one that is no good any more opens nothing."""
        for token, answer in ((TOKEN, {"types": [0]}), (OTHER, 45)):
            self.assertEqual(self.client(Port(self.door, tls=False, token=token)).call("AUTH_LIST"), answer)

    def test_drained(self) -> None:
        """While we are going away nobody gets in, not even who has logged in already."""
        client = self.logged_in()
        self.door.drain()
        self.assertEqual(client.call("CONNECT_OPEN", name=NAME, flags=0), 38)
        self.assertEqual(self.daemon.peers, [])
        self.assertEqual(self.client().call("AUTH_LIST"), 38)


class OpenTests(LibvirtStage):
    """What is opened, which is never what the client says."""

    def opens(self, name: str | None, user: str = "alice", port: Port | None = None, flags: int = 0) -> Any:
        return self.logged_in(user=user, port=port).call("CONNECT_OPEN", name=name, flags=flags)

    def test_targets(self) -> None:
        """By the URI, by the name of the user, by the port; and where only one is there, that."""
        lab = Port(self.door, target="lab")
        for name, user, port in (
            ("test:///default?target=lab", "alice", None),
            ("test:///default", "alice%lab", None),
            ("?target=lab", "alice%ro", None),
            ("test:///default", "alice", lab),
            (None, "alice%lab", None),
        ):
            self.assertEqual(self.opens(name, user, port), {}, (name, user))
            self.assertEqual(self.upstream.opened, ("test:///default", 0))
        self.assertEqual(self.opens("test:///default"), 38)
        self.grant(targets=("lab",))
        self.assertEqual(self.opens("test:///default"), {})

    def test_not_there(self) -> None:
        """A target that is not there, one of others, and a URL in its place are refused in the same words."""
        self.grant(targets=("ro",))
        told: set[str] = set()
        for target in ("lab", "nope", "qemu+ssh://evil/system", "lab opens qemu:///x", "*", "ro\n"):
            client = self.logged_in(user=f"alice%{target}")
            call = client.message("CONNECT_OPEN", name="test:///default", flags=0)
            client.say(call)
            error = client.error(call)
            told.add(error.text.replace(repr(target), "X"))
            self.assertEqual(error.code, 38)
        self.assertEqual(told, {"there is no target X for you"})
        self.assertEqual((self.daemon.peers, list(self.sites._free)), ([], []))

    def test_port_is_one_target(self) -> None:
        """At the port of one target no other is opened."""
        port = Port(self.door, target="lab")
        self.assertEqual(self.opens("test:///default?target=ro", port=port), 38)
        self.assertEqual(self.opens("test:///default", "alice%ro", port), 38)

    def test_operators_too(self) -> None:
        """The name of a user is no URL to connect to, whoever says it."""
        self.grant(ops=["call", "admin"])
        self.assertEqual(self.opens("test:///default", "root%test+unix:///default?socket=/run/fake"), 38)
        self.assertEqual(self.daemon.peers, [])

    def test_names(self) -> None:
        """A host, a transport or a driver that is not there open nothing."""
        for name, code in (
            ("test://evil/default", 8),
            ("test+ssh:///default", 8),
            ("test:///default#x", 8),
            ("qemu:///system?target=lab", 5),
        ):
            self.assertEqual(self.opens(name), code, name)
        self.assertEqual(self.daemon.peers, [])

    def test_second(self) -> None:
        """A second open is refused, before the first is done and after it, and takes nothing away."""
        client = self.logged_in()
        opens = [client.message("CONNECT_OPEN", name=NAME, flags=flags) for flags in (1, 0)]
        client.say(*opens)
        self.assertEqual([client.answer(each) for each in opens], [{}, 1])
        self.assertEqual(client.call("CONNECT_OPEN", name=NAME, flags=0), 1)
        self.assertEqual(client.call("CONNECT_LIST_ALL_DOMAINS", **LIST)["ret"], 3)
        self.assertEqual([peer.opened for peer in self.daemon.live], [("test:///default", 1)])
        self.assertEqual(
            [it["reason"] for it in self.trail if it["kind"] == "CONNECT_OPEN"], [None, *["libvirt-1"] * 2]
        )

    def test_again(self) -> None:
        """An open call that failed may be repeated."""
        self.daemon.failure = errors.UpstreamFailed()
        client = self.logged_in()
        self.assertEqual(client.call("CONNECT_OPEN", name=NAME, flags=0), 38)
        self.daemon.failure = None
        self.turn(30)
        self.assertEqual(client.call("CONNECT_OPEN", name=NAME, flags=0), {})

    def test_readonly(self) -> None:
        """Who opens to read, or what may only be read, is opened so, and refuses to write by itself."""
        for flags, target in ((1, "lab"), (0, "ro"), (3, "lab")):
            client = self.opened(target=target, flags=flags)
            self.assertEqual(self.upstream.opened, ("test:///default", 1))
            self.assertEqual(client.call("DOMAIN_DESTROY", dom=ALICE), 29)
            self.assertEqual(self.daemon.arrived, [])


class CallTests(LibvirtStage):
    """What becomes of calls."""

    def setUp(self) -> None:
        super().setUp()
        self.grant(domains=("alice-*",))

    def reached(self) -> list[str]:
        """The calls that the hypervisor got."""
        return [asked.name for asked in self.daemon.arrived]

    def test_hidden(self) -> None:
        """No call that names a domain of others reaches the hypervisor, whatever else the ticket permits and
        whatever name the request gives it; it is as if there were none.
        """
        self.grant(allow=ALL, domains=("alice-*",))
        client = self.opened()
        for each in calls():
            forged = {**BOB, "name": "alice-1"}
            arguments = sample(each.arguments, forged)
            if BOB["uuid"] not in found(arguments) or each.name == "CONNECT_GET_ALL_DOMAIN_STATS":
                continue
            answer = client.call(each.name, **arguments)
            self.assertIn(answer, (42, 84) if demands(each).known else (88,), each.name)
            self.assertEqual(self.trail[-1]["vm"], BOB["uuid"])
            self.assertEqual(self.trail[-1]["result"], "failed")
        self.assertEqual(self.reached(), [])

    def test_absent(self) -> None:
        """A domain of others and one that is not there are told in the same words."""
        client = self.opened()
        nobody = {**BOB, "uuid": "99999999-9999-4999-8999-999999999999"}
        told = []
        for dom in (BOB, nobody):
            call = client.message("DOMAIN_GET_INFO", dom=dom)
            client.say(call)
            error = client.error(call)
            told.append((error.code, error.domain, error.level, error.text.replace(dom["uuid"], "X")))
        self.assertEqual(told[0], told[1])
        texts = []
        for name in ("bob-1", "nobody"):
            call = client.message("DOMAIN_LOOKUP_BY_NAME", name=name)
            client.say(call)
            texts.append(client.error(call).text.replace(name, "X"))
        self.assertEqual(texts[0], texts[1])

    def test_lists(self) -> None:
        """Lists, counts, lookups and statistics are those of the domains of the ticket."""
        client = self.opened()
        self.assertEqual(client.call("CONNECT_LIST_ALL_DOMAINS", **LIST), {"domains": [ALICE], "ret": 1})
        self.assertEqual(
            client.call("CONNECT_LIST_ALL_DOMAINS", need_results=0, flags=0), {"domains": [], "ret": 1}
        )
        self.assertEqual(client.call("CONNECT_NUM_OF_DOMAINS"), {"num": 1})
        self.assertEqual(client.call("CONNECT_LIST_DOMAINS", maxids=9), {"ids": [1]})
        self.assertEqual(client.call("CONNECT_LIST_DEFINED_DOMAINS", maxnames=9), {"names": ["alice-1"]})
        self.assertEqual(client.call("DOMAIN_LOOKUP_BY_ID", id=2), 42)
        self.assertEqual(client.call("DOMAIN_LOOKUP_BY_UUID", uuid=BOB["uuid"].upper()), 42)
        for doms in ([], [ALICE, BOB], [{**BOB, "name": "alice-1"}]):
            got = client.call("CONNECT_GET_ALL_DOMAIN_STATS", doms=doms, stats=1, flags=0)["retStats"]
            self.assertEqual(
                [it["dom"] for it in got], [ALICE] if doms != [{**BOB, "name": "alice-1"}] else []
            )

    def test_never(self) -> None:
        """Identities, descriptors, other programs and what nobody knows never go further."""
        client = self.opened()
        identity = {"field": "user-name", "type": "string", "value": "root"}
        self.assertEqual(client.call("CONNECT_SET_IDENTITY", params=[identity], flags=0), 88)
        for name in sorted(libvirt_upstream._PASSES_DESCRIPTORS):
            self.assertEqual(client.call(name, **sample(procedure(name).arguments, ALICE)), 84)
        self.assertEqual(client.call("QEMU_DOMAIN_MONITOR_COMMAND", dom=ALICE, cmd="quit", flags=0), 88)
        migrations = [
            each for each in calls() if "MIGRATE" in each.name and each.name != "DOMAIN_MIGRATE_GET"
        ]
        for each in migrations:
            answer = client.call(each.name, **sample(each.arguments, ALICE))
            self.assertIn(answer, (88, 42), each.name)
        self.assertEqual(self.reached(), [])

    def test_unknown(self) -> None:
        """Programs, versions, numbers and bytes that make no sense go no further, and are written down."""
        client = self.opened()
        remote = PROGRAMS["remote"]
        strange = [
            (remote, 1, 9999, b""),
            (remote, 2, 3, b""),
            (0x06900690, 1, 1, b""),
            (0x6B656570, 1, 1, b""),
            *((each.program, 1, each.number, b"") for each in events()),
            (remote, 1, 23, b"\0\0\0\xff"),
            (remote, 1, 23, payload("DOMAIN_LOOKUP_BY_NAME", name="alice-1") + b"\0\0\0\0"),
            (remote, 1, 23, b"\xff\xff\xff\xff"),
            (remote, 1, 344, b"\xff\xff\xff\xff"),
            (remote, 1, 23, b"\0\0\0\3a\0b\0"),
        ]
        before = len(self.trail)
        for program, version, number, data in strange:
            call = Message(program, version, number, Type.CALL, 77, Status.OK, data)
            client.say(call)
            self.assertEqual(client.error(call).code, 39, call)
        self.assertEqual(len(self.trail) - before, len(strange))
        self.assertEqual(self.reached(), [])

    def test_hostile_xml(self) -> None:
        """What XML would take of the host is refused before anybody else reads it."""
        client = self.opened()
        for xml in (
            "<domain type='qemu'><name>alice-2</name><devices><hostdev mode='subsystem'/></devices></domain>",
            "<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/shadow'>]><domain><name>alice-2</name></domain>",
            "<domain xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><name>alice-2</name><q:commandline/></domain>",
            f"<domain type='qemu'><name>alice-2</name><uuid>{BOB['uuid']}</uuid></domain>",
            "<domain type='qemu'><name>bob-2</name></domain>",
        ):
            for name in ("DOMAIN_DEFINE_XML", "DOMAIN_DEFINE_XML_FLAGS", "DOMAIN_CREATE_XML"):
                member = "xml_desc" if name == "DOMAIN_CREATE_XML" else "xml"
                flags = {} if name == "DOMAIN_DEFINE_XML" else {"flags": 0}
                self.assertIn(client.call(name, **{member: xml}, **flags), (88, 8), (name, xml))
        self.assertEqual(self.reached(), [])

    def test_rights_now(self) -> None:
        """A ticket that is installed again says what it says from then on: for calls, lists and events."""
        self.grant()
        client = self.opened()
        owner = self.daemon.live[0]
        self.assertEqual(client.call("CONNECT_LIST_ALL_DOMAINS", **LIST)["ret"], 3)
        self.grant(domains=("alice-*",))
        self.assertEqual(client.call("CONNECT_LIST_ALL_DOMAINS", **LIST)["ret"], 1)
        self.assertEqual(client.call("DOMAIN_GET_INFO", dom=BOB), 42)
        self.assertEqual(self.heard(client, owner, BOB), [])
        self.grant(targets=("ro",))
        self.assertEqual(client.call("CONNECT_LIST_ALL_DOMAINS", **LIST), 38)
        self.assertEqual(self.heard(client, owner, ALICE), [])

    def heard(self, client: Client, owner: FakePeer, dom: dict[str, Any]) -> list[str]:
        """The events that *client* gets of one that is about *dom*, which comes to *owner*."""
        owner.tell("DOMAIN_EVENT_CALLBACK_LIFECYCLE", callbackID=1, dom=dom, event=2, detail=0)
        return [name for name, _ in client.events()]

    def test_events(self) -> None:
        """Of all events of the table a client gets those of its domains; by their names of the moment."""
        self.grant(allow=ALL, domains=("alice-*",))
        client = self.opened()
        owner = self.upstream
        for each in events():
            if "DOMAIN" not in each.name:
                continue
            for dom, count in (
                (BOB, 0),
                ({**BOB, "name": "alice-9"}, 1),
                ({**ALICE, "name": "bob-9"}, 0),
                (ALICE, 1),
            ):
                values = sample(each.arguments, dom)
                message = Message(
                    each.program, 1, each.number, Type.EVENT, 0, Status.OK, each.arguments.pack(values)
                )
                owner.client.dataReceived(message.pack())
                got = client.events()
                self.assertEqual(len(got), count, (each.name, dom))

    def test_registrations(self) -> None:
        """Who may see a domain may ask for its events; nobody has the daemon keep more than so many."""
        client = self.opened()
        ask = "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY"
        self.assertEqual(client.call(ask, eventID=0, dom=BOB), 42)
        self.assertEqual(client.call(ask, eventID=0, dom={**BOB, "name": "alice-1"}), 42)
        got = [client.call(ask, eventID=0, dom=dom) for dom in (ALICE, *[None] * 1024)]
        self.assertEqual(([isinstance(it, dict) for it in got], got[-1]), ([True] * 1024 + [False], 9))
        self.daemon.answers["CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY"] = {}
        self.assertEqual(client.call("CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY", callbackID=1), {})
        self.assertIsInstance(client.call(ask, eventID=0, dom=None), dict)

    def test_names_of_the_past(self) -> None:
        """While nobody knows who is who on the hypervisor, nothing is let through by a name."""
        client = self.opened()
        owner = self.upstream
        self.daemon.answers["DOMAIN_GET_STATE"] = {"state": 1, "reason": 0}
        self.assertEqual(client.call("DOMAIN_GET_STATE", dom=ALICE, flags=0), {"state": 1, "reason": 0})
        del self.daemon.answers["CONNECT_GET_ALL_DOMAIN_STATS"]
        for peer in self.daemon.live:
            if peer is not owner:
                peer.lose()
        call = client.message("DOMAIN_GET_STATE", dom=ALICE, flags=0)
        client.say(call)
        self.assertIsNone(client.answer(call))
        self.turn(6)
        self.assertEqual(client.answer(call), 38)

    def test_renamed(self) -> None:
        """Who renames a domain sees it by its new name, before any event says so."""
        self.grant(domains=("alice-1", "other-*"))
        client = self.opened()
        self.daemon.answers |= {
            "DOMAIN_RENAME": {"retcode": 0},
            "DOMAIN_GET_STATE": {"state": 1, "reason": 0},
        }
        self.assertEqual(client.call("DOMAIN_RENAME", dom=ALICE, new_name="bob-3", flags=0), 88)
        self.assertEqual(client.call("DOMAIN_RENAME", dom=ALICE, new_name="other-3", flags=0), {"retcode": 0})
        self.grant(domains=("other-*",))
        self.assertIsInstance(client.call("DOMAIN_GET_STATE", dom=ALICE, flags=0), dict)
        self.grant(domains=("alice-1",))
        self.assertEqual(client.call("DOMAIN_GET_STATE", dom=ALICE, flags=0), 42)

    def test_error_texts(self) -> None:
        """What the hypervisor says of a domain of others when it refuses is not passed on."""
        client = self.opened()

        def taken(_: object) -> Any:
            text = f"operation failed: domain 'bob-1' already exists with uuid {BOB['uuid']}"
            raise LibvirtError(9, 20, text, 2, (text, "bob-1", None))

        self.daemon.answers |= {"DOMAIN_DEFINE_XML_FLAGS": taken, "DOMAIN_RENAME": taken}
        xml = "<domain type='qemu'><name>alice-2</name><memory>1</memory><os><type>hvm</type></os></domain>"
        for name, arguments in (
            ("DOMAIN_DEFINE_XML_FLAGS", {"xml": xml, "flags": 0}),
            ("DOMAIN_RENAME", {"dom": ALICE, "new_name": "alice-2", "flags": 0}),
        ):
            call = client.message(name, **arguments)
            client.say(call)
            error = client.error(call)
            self.assertEqual(error.code, 9)
            self.assertNotIn("bob", f"{error.text}{error.strings}")
            self.assertNotIn(BOB["uuid"], f"{error.text}{error.strings}")

    def test_volume_files(self) -> None:
        """A disk may be the file of a volume that disks may be, which the hypervisor is asked about."""
        for old in self.sites.adopt(self.sections(volumes="p/*")):
            self.successResultOf(Deferred.fromCoroutine(old.stop()))
        asked: list[str] = []

        def volume(arguments: dict[str, Any]) -> dict[str, Any]:
            asked.append(arguments["path"])
            if arguments["path"] != "/p/v":
                raise LibvirtError(50, 18, "no storage vol")
            return {"vol": {"pool": "p", "name": "v", "key": "k"}}

        self.daemon.answers |= {
            "STORAGE_VOL_LOOKUP_BY_PATH": volume,
            "STORAGE_VOL_GET_PATH": {"name": "/p/v"},
            "DOMAIN_DEFINE_XML_FLAGS": {"dom": ALICE},
        }
        self.grant()
        client = self.opened()
        define = "DOMAIN_DEFINE_XML_FLAGS"
        self.assertEqual(client.call(define, xml=disks("/p/v"), flags=0), {"dom": ALICE})
        self.daemon.answers["STORAGE_POOL_LOOKUP_BY_TARGET_PATH"] = volume
        self.assertEqual(client.call(define, xml=disks("/etc/shadow"), flags=0), 88)
        self.assertEqual(asked[:2], ["/p/v", "/etc/shadow"])

    def test_audit(self) -> None:
        """Each call is written down: who, where, what, about whom and how it ended, cancelled included."""
        client = self.opened()
        client.call("DOMAIN_GET_INFO", dom=BOB)
        client.call("CONNECT_SET_IDENTITY", params=[], flags=0)
        client.say(client.message("DOMAIN_GET_INFO", dom=ALICE))
        client.leave()
        got = [(it["kind"], it["principal"], it["target"], it["vm"], it["reason"]) for it in self.trail[-3:]]
        self.assertEqual(
            got,
            [
                ("DOMAIN_GET_INFO", "alice", "lab", BOB["uuid"], "libvirt-42"),
                ("CONNECT_SET_IDENTITY", "alice", "lab", None, "libvirt-88"),
                ("DOMAIN_GET_INFO", "alice", "lab", ALICE["uuid"], "cancelled"),
            ],
        )

    def test_refused_before_open(self) -> None:
        """What somebody tries in vain before anything is open is written down as well."""
        client = self.logged_in()
        client.call("CONNECT_OPEN", name="test:///default?target=nope", flags=0)
        client.call("DOMAIN_GET_INFO", dom=ALICE)
        self.assertEqual(
            [(it["kind"], it["target"], it["result"]) for it in self.trail],
            [("CONNECT_OPEN", None, "failed"), ("20008086-16", None, "failed")],
        )


class LifeTests(LibvirtStage):
    """What comes and goes."""

    def test_after_close(self) -> None:
        """After the good-bye nothing is heard any more."""
        client = self.opened()
        close = client.message("CONNECT_CLOSE")
        client.say(close, client.message("DOMAIN_GET_INFO", dom=ALICE))
        self.assertEqual(client.answer(close), {})
        self.assertTrue(client.lost)
        self.assertEqual(([it.name for it in self.daemon.arrived], self.daemon.live), ([], []))

    def test_serials(self) -> None:
        """A number that is in use for a call cannot be used for another one."""
        client = self.opened()
        client.say(
            client.message("DOMAIN_GET_INFO", 9, dom=ALICE), client.message("DOMAIN_GET_INFO", 9, dom=ALICE)
        )
        self.assertTrue(client.wire.aborted)
        self.assertEqual(len(self.daemon.arrived), 1)

    def test_turns(self) -> None:
        """Sixteen reads of one client are on the way at a time; who is answered makes room for the next."""
        client = self.opened()
        client.say(*(client.message("DOMAIN_GET_INFO", dom=ALICE) for _ in range(20)))
        client.listen()
        self.assertEqual(len(self.daemon.asked), 16)
        for _ in range(20):
            self.daemon.asked[-1].answer(**INFO)
            self.turn()
        self.assertEqual(len(client.listen()), 20)

    def test_slow_turns(self) -> None:
        """Four are on the way when one of them is not answered at once, until it is."""
        client = self.opened()
        client.say(client.message("DOMAIN_GET_INFO", dom=ALICE))
        client.listen()
        self.turn(1)
        client.say(*(client.message("DOMAIN_GET_INFO", dom=ALICE) for _ in range(12)))
        client.listen()
        self.assertEqual(len(self.daemon.asked), 4)
        slow, *others = self.daemon.asked
        others[0].answer(**INFO)
        self.turn()
        self.assertEqual(len(self.daemon.asked), 4)
        slow.answer(**INFO)
        self.turn()
        self.assertEqual(len(self.daemon.asked), 11)

    def test_turns_of_writes(self) -> None:
        """What changes something takes its time: four at once."""
        client = self.opened()
        client.say(*(client.message("DOMAIN_SUSPEND", dom=ALICE) for _ in range(10)))
        client.listen()
        self.assertEqual(len(self.daemon.asked), 4)

    def test_left_with_turns(self) -> None:
        """Who leaves with calls on the way, and others that wait for their turn, leaves nothing behind."""
        client = self.opened()
        client.say(*(client.message("DOMAIN_GET_INFO", dom=ALICE) for _ in range(20)))
        client.listen()
        client.leave()
        self.assertEqual((len(self.daemon.arrived), self.daemon.live), (16, []))

    def test_left_with_registrations(self) -> None:
        """Where there are registrations the connection stays for its last answers: libvirtd would crash."""
        ask = "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY"
        for registered, answered in ((True, True), (True, False), (False, False)):
            client = self.opened()
            peer = self.upstream
            if registered:
                client.call(ask, eventID=0, dom=None)
            client.say(*(client.message("DOMAIN_GET_STATE", dom=ALICE, flags=0) for _ in range(19)))
            client.listen()
            self.assertEqual(len(peer.asked), 16)
            client.server.pauseProducing()
            client.leave()
            self.assertEqual(peer.lost, not registered)
            self.assertTrue(peer.reading)
            self.assertEqual(self.sessions.list(), ())
            if answered:
                for asked in list(peer.asked):
                    asked.answer(state=1, reason=0)
            if registered:
                peer.tell("DOMAIN_EVENT_CALLBACK_REBOOT", callbackID=1, dom=ALICE)
            self.turn(1 if answered else 31)
            self.assertTrue(peer.lost)
            self.assertEqual([it.name for it in peer.came].count("DOMAIN_GET_STATE"), 16)

    def test_lost(self) -> None:
        """When the hypervisor is lost calls end with an error, and the connection after them."""
        client = self.opened()
        call = client.message("DOMAIN_DESTROY", dom=ALICE)
        client.say(call)
        client.listen()
        self.upstream.lose()
        self.assertEqual(client.answer(call), 38)
        self.assertTrue(client.lost)

    def test_revoked_on_the_way(self) -> None:
        """Calls on the way, or waiting for their turn, end with the ticket; a late answer is nobody's."""
        client = self.opened()
        peer = self.upstream
        client.say(*(client.message("DOMAIN_GET_INFO", dom=ALICE) for _ in range(18)))
        client.listen()
        self.trail.clear()
        self.revoke()
        self.assertTrue(client.wire.aborted)
        ends = [(it["kind"], it["reason"]) for it in self.trail if it["event"] == "libvirt.call"]
        self.assertEqual(ends, [("DOMAIN_GET_INFO", "cancelled")] * 18)
        said = len(client.wire.value())
        for asked in list(peer.asked):
            asked.answer(**INFO)
        self.turn()
        came = [it.name for it in peer.came]
        self.assertEqual((len(client.wire.value()), came.count("DOMAIN_GET_INFO")), (said, 16))

    def test_bytes(self) -> None:
        """What has only one form passes in the bytes it came in, all else in the form that is libvirt's."""
        client = self.opened()
        call = client.message("NODE_GET_INFO")
        client.say(call)
        client.listen()
        (asked,) = self.daemon.asked
        self.assertEqual(asked.message.payload, call.payload)
        results = procedure("NODE_GET_INFO").results
        right = results.pack(dict.fromkeys(results.fields, 1) | {"model": b"x" * 32})
        asked.peer.client.dataReceived(
            asked.message._replace(type=Type.REPLY, payload=b"\xff\xff\xff" + right[3:]).pack()
        )
        self.assertEqual([it.payload for it in client.listen()], [right])

    def test_nonsense_of_the_hypervisor(self) -> None:
        """An answer that is not what its type says reaches nobody, and is the hypervisor's last."""
        right = procedure("DOMAIN_GET_INFO").results.pack(INFO)
        for wrong in (right + bytes(4), right[:-4], b"\1" + right[1:]):
            client = self.opened()
            call = client.message("DOMAIN_GET_INFO", dom=ALICE)
            client.say(call)
            client.listen()
            asked = self.daemon.asked[-1]
            asked.peer.client.dataReceived(asked.message._replace(type=Type.REPLY, payload=wrong).pack())
            self.assertEqual(client.answer(call), 38)
            self.assertTrue(client.lost)

    def test_target_gone(self) -> None:
        """Who has a target open that is not in the configuration any more, or is another, is hung up on."""
        client, other = self.opened(), self.opened(target="ro")
        sections = self.sections(match=("nobody",))
        for site in self.sites.adopt(sections):
            self.door.leave(site)
            site.hub.stop()
        client.listen()
        other.listen()
        self.assertEqual((client.lost, other.lost), (True, False))

    def test_features(self) -> None:
        """We pass no descriptors and take no part in migrations; what else there is, the hypervisor says."""
        client = self.opened()
        self.daemon.answers["CONNECT_SUPPORTS_FEATURE"] = {"supported": 1}
        got = [n for n in range(1, 17) if client.call("CONNECT_SUPPORTS_FEATURE", feature=n)["supported"]]
        self.assertEqual(got, [9, 10, 14, 15, 16])
        self.assertEqual(client.call("CONNECT_IS_SECURE"), {"secure": 1})

    def test_every_procedure(self) -> None:
        """Every procedure of the table gets exactly one answer, from whoever may do everything."""
        self.grant(allow=ALL)
        client = self.opened()
        for each in calls():
            if each.name in ("CONNECT_OPEN", "CONNECT_CLOSE") or each.stream:
                continue
            call = client.message(each.name, **sample(each.arguments, ALICE))
            client.say(call)
            client.listen()
            for asked in self.daemon.asked:
                asked.answer(**sample(PROCEDURES[each.program, each.number].results, ALICE))
            self.assertIsNotNone(client.answer(call), each.name)
            self.assertFalse(client.lost, each.name)
        self.assertEqual([it for it in client.listen() if it.type == Type.REPLY], [])
