"""Who may do what at the endpoint, before a real libvirtd; and calls that are repeated, late or given up."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit
from uuid import uuid4

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID
from jwt.algorithms import OKPAlgorithm
from twisted.internet.defer import Deferred

from gateway import errors
from gateway.core import dev_pki
from gateway.rpc import commands
from gateway.rpc.client import Event
from gateway.wire.libvirt_error import LibvirtError
from tests.functional.case import PYTEST_ONLY
from tests.functional.libvirt_daemon import tiny
from tests.functional.peers import Sections
from tests.functional.processes import HOST
from tests.functional.rpc_case import RpcCase
from tests.functional.test_real_rpc import guest

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

TEST = "6695eb01-f6a4-8304-79aa-97f2502e193f"


class LoginTests(RpcCase):
    """Tickets, signed tokens and certificates."""

    key: ClassVar[ed25519.Ed25519PrivateKey]
    clients: ClassVar[dev_pki.Issued]
    pki: ClassVar[Path]
    crl: ClassVar[Path]

    @classmethod
    def configuration(cls) -> Sections:
        cls.key = ed25519.Ed25519PrivateKey.generate()
        public = OKPAlgorithm.to_jwk(cls.key.public_key(), as_dict=True)
        public = {name: value for name, value in public.items() if name != "key_ops"}
        keys = cls.home / "keys.json"
        keys.write_text(json.dumps({"keys": [{**public, "kid": "k", "alg": "EdDSA"}]}))
        cls.pki = cls.home / "clients"
        cls.pki.mkdir()
        cls.clients = dev_pki.authority(datetime.now(UTC), "an authority of clients")
        cls.clients.write(cls.pki, "ca")
        cls.crl = cls.pki / "crl.pem"
        cls.revoke()
        cls.more = {
            "client_ca": str(cls.pki / "ca.pem"),
            "client_crl": str(cls.crl),
            "allowed_dn": "CN=op-*",
            "verify_address": "yes",
        }
        tokens = {"jwt_keys": str(keys), "jwt_audience": "the-gateway"}
        return {**super().configuration(), "tokens": tokens}

    @classmethod
    def revoke(cls, *certificates: Path) -> None:
        """Write the revocation list of the clients' authority."""
        revoked = [x509.load_pem_x509_certificate(it.read_bytes()) for it in certificates]
        cls.crl.write_bytes(cls.clients.revoke(revoked, now=datetime.now(UTC)))

    def sign(self, *, targets: tuple[str, ...] = ("test",), **more: Any) -> str:
        """A token as a portal gives it to its user."""
        now = int(time.time())
        rights = {"allow": ["read"], "domains": ["*"]}
        ticket = {"uuid": str(uuid4()), "kind": "rpc", "timeout": 300, "ops": ["call", "admin"]}
        ticket |= {"targets": list(targets), "rights": rights}
        claims = {"sub": "carol", "aud": "the-gateway", "jti": str(uuid4()), "iat": now, "nbf": now}
        claims |= {"exp": now + 300, "ticket": ticket, **more}
        return jwt.encode(claims, self.key, algorithm="EdDSA", headers={"kid": "k"})

    def issue(
        self, name: str, *, addresses: tuple[str, ...] = (HOST,), ca: dev_pki.Issued | None = None
    ) -> dict[str, Any]:
        """A certificate of a client, as the client library takes it."""
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        issued = (ca or self.clients).issue(name, now=datetime.now(UTC), addresses=addresses, usages=usages)
        certificate, key = issued.write(self.pki, str(uuid4()))
        return {"certificate": certificate, "key": key}

    async def test_ticket(self) -> None:
        """A ticket's id lets in whom it was given to, until it ends, and then all that was opened is over."""
        before = time.time()
        token = self.grant(principal="dora", timeout=60)
        client = await self.client(token)
        self.assertEqual(client.session.principal, "dora")
        self.assertTrue(before + 59 < client.session.expires.timestamp() < time.time() + 61)
        self.assertIn("journal", client.session.features)
        (session,) = [it for it in self.gateway.sessions() if it["principal"] == "dora"]
        self.assertEqual((session["kind"], session["id"]), ("rpc", client.session.id))
        ends: list[errors.GatewayError] = []
        client.ended = ends.append
        host = await client.open("test")
        self.gateway.delete(token)
        await self.until(lambda: ends, "the end of the session")
        self.assertIsInstance(ends[0], errors.Expired)
        await self.raises(errors.Unauthenticated, self.client(token))
        other = await self.client(self.grant(principal="dora"))
        await self.raises(errors.NoHandle, other.host(host.handle).get_type())

    async def test_refused(self) -> None:
        """What is no ticket for calls opens nothing; who has not logged in can ask for nothing."""
        for token in (str(uuid4()), "", self.grant(peer="192.0.2.1"), self.grant(ops=["view"]), "a b"):
            await self.raises(errors.Unauthenticated, self.client(token or (lambda: "")))
        once = self.grant(uses=1)
        await self.client(once)
        await self.raises(errors.Unauthenticated, self.client(once))
        image = str(uuid4())
        self.gateway.put({"uuid": image, "size": 1, "timeout": 60, "ops": ["read"], "url": "file:///nothing"})
        await self.raises(errors.Unauthenticated, self.client(image))

    async def test_jwt(self) -> None:
        """A signed token is a ticket: with its rights and its targets, and never an operator's."""
        client = await self.client(self.sign())
        self.assertEqual(client.session.principal, "carol")
        self.assertEqual([it.name for it in await client.targets()], ["test"])
        host = await client.open("test")
        dom = await host.lookup(name="test")
        error = await self.raises(errors.Denied, dom.suspend())
        self.assertEqual(error.details, {"perm": "domain:suspend", "object": TEST})
        await self.raises(errors.Denied, client.sessions())
        await self.raises(errors.NoTarget, client.open("qemu"))
        for token in (self.sign(aud="another"), self.sign(exp=int(time.time()) - 1), self.sign() + "x"):
            await self.raises(errors.Unauthenticated, self.client(token))

    async def test_certificate(self) -> None:
        """A certificate with a subject that is allowed makes an operator, from the address in it."""
        client = await self.client(**self.issue("op-anna"))
        self.assertEqual(client.session.principal, "CN=op-anna")
        self.assertEqual([it.name for it in await client.targets()], ["test", "qemu"])
        self.assertTrue(await client.sessions(kind="rpc"))
        for named in (self.issue("user-anna"), self.issue("op-anna", addresses=("192.0.2.1",))):
            await self.raises(errors.Unauthenticated, self.client(**named))
        other = dev_pki.authority(datetime.now(UTC), "another authority")
        await self.raises(errors.GatewayError, self.client(**self.issue("op-anna", ca=other)))
        # With a certificate and a ticket it is the ticket that counts.
        client = await self.client(self.grant(principal="erin"), **self.issue("op-anna"))
        self.assertEqual(client.session.principal, "erin")
        await self.raises(errors.Denied, client.sessions())

    async def test_revoked(self) -> None:
        """A certificate that its authority has revoked lets nobody in once the list was read; others do."""
        one, two = self.issue("op-one"), self.issue("op-two")
        for named in (one, two):
            await self.client(**named)
        self.revoke(one["certificate"])
        self.addCleanup(self.revoke)
        self.assertEqual(self.gateway.control("POST", "/reload").status, 200)
        await self.raises(errors.GatewayError, self.client(**one))
        await self.client(**two)
        status = self.gateway.control("GET", "/status").json()
        self.assertTrue(status["checks"]["client_crl"]["ok"])
        [shown] = [it for it in status["certificates"] if it["file"] == str(self.crl)]
        self.assertEqual(round(shown["days_left"]), 7)


class RightsTests(RpcCase):
    """What a ticket, a handle or a target does not permit."""

    @classmethod
    def configuration(cls) -> Sections:
        more = {"target shown": {"uri": cls.daemon.url("test"), "readonly": "yes"}}
        more["target bobs"] = {"uri": cls.daemon.url("test"), "match": "bob, rob*"}
        return {**super().configuration(), **more}

    async def test_targets(self) -> None:
        """A target that is not in the ticket, or is for others, is absent."""
        client = await self.client(self.grant(targets=("test", "bobs")))
        self.assertEqual([it.name for it in await client.targets()], ["test"])
        for name in ("qemu", "bobs", "nothing", "test:///default", "test opens test:///default"):
            error = await self.raises(errors.NoTarget, client.open(name))
            self.assertEqual(error.details, {})
        client = await self.client(self.grant(targets=("*",), principal="robert"))
        self.assertIn("bobs", [it.name for it in await client.targets()])
        await client.open("bobs")

    async def test_domains(self) -> None:
        """A domain that may not be seen is absent: in lists, lookups, calls, statistics and events."""
        whole = await self.host()
        mine, other = [await whole.define(guest(name)) for name in ("mine-1", "other-1")]
        token = self.grant(("*",), ("mine-*",))
        host = await self.host(token=token)
        self.assertEqual([it.name for it in await host.list_domains()], ["mine-1"])
        told: list[Event] = []
        await host.subscribe(["lifecycle"], told.append)
        absent = str(uuid4())
        for name, hidden, nothing in (
            ("name", "other-1", "nobody"),
            ("uuid", other.uuid, absent),
            ("id", 1, 77),
        ):
            told_of: list[dict[str, str]] = []
            for value in (hidden, nothing):
                error = await self.raises(LibvirtError, host.lookup(**{name: value}))  # type: ignore[arg-type]  # a name or a number
                self.assertEqual(error.code, 42)
                said = {
                    name: str(it).replace(f" {value}", " X").replace(f"'{value}'", "X")
                    for name, it in error.details.items()
                }
                told_of.append(said)
            self.assertEqual(*told_of)
        ref = {"name": "mine-1", "uuid": other.uuid, "id": -1}
        self.assertEqual(
            (await self.raises(LibvirtError, host.call("DOMAIN_GET_INFO", {"dom": ref}))).code, 42
        )
        every = {"doms": [], "stats": 1, "flags": 0}
        stats = await host.call("CONNECT_GET_ALL_DOMAIN_STATS", every)
        self.assertEqual([it["dom"]["name"] for it in stats["retStats"]], ["mine-1"])
        # A cookie belongs to its handle.
        stolen = await self._clients[-1].ask(commands.Lookup, handle=host.handle, name="mine-1")
        client = await self.client(self.grant(principal="eve"))
        await self.raises(errors.NoHandle, client.ask(commands.GetInfo, dom=stolen["dom"]))
        await self.raises(errors.NoHandle, client.ask(commands.GetInfo, dom="x" * 64))
        for dom in (other, mine):
            await dom.start()
            await dom.destroy()
        await self.until(lambda: "stopped" in [it.payload.get("event") for it in told], "events")
        self.assertEqual({it.payload["dom"]["name"] for it in told}, {"mine-1"})
        # What the ticket says now is what counts, for those who listen, too.
        told.clear()
        rights = {"allow": ["*"], "domains": ["other-*"]}
        self.gateway.put(
            {
                "uuid": token,
                "kind": "rpc",
                "timeout": 300,
                "ops": ["call"],
                "targets": ["*"],
                "principal": "alice",
                "rights": rights,
            }
        )
        # The handle was opened with less: neither is seen through it now.
        self.assertEqual(await host.list_domains(), [])
        for dom in (mine, other):
            await dom.start()
            await dom.destroy()
        await self.sleep(0.3)
        self.assertEqual(told, [])
        for dom in (other, mine):
            await dom.undefine()

    async def test_few_words(self) -> None:
        """Who may only start domains can open, look up and start, and is told nothing else."""
        host = await self.host(token=self.grant(("domain:getattr", "domain:start", "connect:search_domains")))
        self.assertEqual(host.uri, "")
        whole = await (await self.host()).define(guest("startable"))
        dom = await host.lookup(name="startable")
        self.assertEqual(dom.state, "")
        self.assertEqual({it.state for it in await host.list_domains()}, {""})
        await dom.start()
        self.assertEqual(self.virsh("domstate", "startable").strip(), "running")
        for denied, word in (
            (dom.get_state(), "domain:read"),
            (dom.destroy(), "domain:stop"),
            (host.get_uri(), "connect:getattr"),
            (host.list_pools(), "connect:search_storage_pools"),
        ):
            error = await self.raises(errors.Denied, denied)
            self.assertEqual(error.permission, word)
        records = [
            it for it in self.trail() if it["kind"] == "DOMAIN_DESTROY_FLAGS" and it["result"] == "failed"
        ]
        self.assertEqual(
            [(it["principal"], it["reason"], it["target"]) for it in records][-1:],
            [("alice", "denied", "test")],
        )
        await whole.destroy()
        await whole.undefine()

    async def test_readonly(self) -> None:
        """Where only reading was wanted, or is permitted, nothing is changed."""
        client = await self.client()
        for host in (await client.open("test", readonly=True), await client.open("shown")):
            dom = await host.lookup(name="test")
            self.assertEqual((await dom.get_state()).state, "running")
            for act in (dom.suspend(), dom.set_autostart(True), host.define(guest("never"))):
                error = await self.raises(errors.GatewayError, act)
                self.assertTrue(isinstance(error, errors.Denied) or error.details.get("code") == 29, error)
        self.assertEqual(self.virsh("list", "--name").split(), ["test"])
        self.assertEqual(self.virsh("domstate", "test").strip(), "running")

    async def test_audit(self) -> None:
        """Each change stands in the trail: who, on what, and how it ended."""
        dom = await (await self.host(token=self.grant(principal="frank"))).lookup(name="test")
        await dom.suspend()
        await self.raises(LibvirtError, dom.start())
        await dom.resume()
        found = [it for it in self.trail() if it["principal"] == "frank"]
        self.assertEqual(
            [(it["kind"], it["result"]) for it in found],
            [("DOMAIN_SUSPEND", "ok"), ("DOMAIN_CREATE_WITH_FLAGS", "failed"), ("DOMAIN_RESUME", "ok")],
        )
        self.assertEqual({(it["vm"], it["target"], it["peer"]) for it in found}, {(TEST, "test", HOST)})


class OperatorTests(RpcCase):
    """Commands that are not for everybody."""

    def operator(self, **more: Any) -> str:
        return self.grant(principal="root", ops=["call", "admin"], **more)

    async def test_denied(self) -> None:
        """None of them is for users, and they leave no trace of a ticket."""
        client = await self.client()
        for command in commands.COMMANDS.values():
            if command.admin:
                given = {"id": "x", "timeout": 1.0, "ticket": "{}"}
                wanted = {name.decode() for name, it in command.arguments if not it.optional}
                asked = client.ask(command, **{name: given[name] for name in wanted})
                error = await self.raises(errors.Denied, asked)
                self.assertEqual(error.permission, f"command:{command.__name__}")
        await self.raises(errors.Denied, client.open("test", name="test:///default"))
        await self.raises(errors.Denied, client.open("test", uri=self.daemon.url("test")))

    async def test_tickets(self) -> None:
        """A controller installs, renews, shows, lists and revokes tickets."""
        client = await self.client(self.operator())
        name = str(uuid4())
        await client.add_ticket(
            {
                "uuid": name,
                "kind": "rpc",
                "principal": "gina",
                "timeout": 60,
                "ops": ["call"],
                "targets": ["test"],
                "rights": {"allow": ["*"]},
            }
        )
        user = await self.client(name)
        self.assertEqual(user.session.principal, "gina")
        await client.renew_ticket(name, 600)
        left = datetime.fromisoformat(self.gateway.get(name).json()["expires_at"]).timestamp() - time.time()
        self.assertGreater(left, 500)
        moving = {"expires_at": "", "expires": 0, "idle_time": 0}
        self.assertEqual(
            await client.get_ticket(name) | moving,
            self.gateway.get(name).json() | moving,
        )
        (shown,) = await client.list_tickets(principal="gina")
        self.assertEqual((shown["kind"], shown["sessions"]), ("rpc", [user.session.id]))
        ends: list[errors.GatewayError] = []
        user.ended = ends.append
        self.assertEqual(await client.revoke_ticket(name), 1)
        await self.until(lambda: ends, "the end")
        self.assertEqual(self.gateway.get(name).status, 404)
        self.assertEqual(await client.revoke_ticket(principal="nobody"), 0)
        error = await self.raises(errors.GatewayError, client.add_ticket({"uuid": "x"}))
        self.assertEqual(error.status, 400)
        await self.raises(errors.NotFound, client.renew_ticket(str(uuid4()), 5))
        await self.raises(errors.BadArguments, client.ask(commands.RevokeTicket))

    async def test_more_urls(self) -> None:
        """The ticket of a tunnel is given the host that its machine moves to, by the rules of PATCH."""
        client = await self.client(self.operator())
        name, urls = str(uuid4()), ["spice://h1.invalid:5900", "spice://h2.invalid:5900?tls-port=5901"]
        await client.add_ticket(
            {"uuid": name, "kind": "tunnel", "timeout": 60, "ops": ["connect"], "url": urls[0]}
        )
        await client.renew_ticket(name, 600, urls[1:])
        self.assertEqual((await client.get_ticket(name))["urls"], urls)
        for wrong in ("file:///etc/passwd", "spice://h3.invalid"):
            error = await self.raises(errors.BadRequest, client.renew_ticket(name, 600, [wrong]))
            answer = self.gateway.control("PATCH", f"/tickets/{name}", {"timeout": 600, "urls": [wrong]})
            self.assertEqual((answer.status, answer.body.decode().strip()), (400, error.text))
        self.assertEqual((await client.get_ticket(name))["urls"], urls)

    async def test_sessions(self) -> None:
        """An operator sees who is there, and ends what must end, at last itself."""
        client, user = await self.client(self.operator()), await self.client(self.grant(principal="hugo"))
        (shown,) = await client.sessions(principal="hugo")
        self.assertEqual(shown["id"], user.session.id)
        ends: list[errors.GatewayError] = []
        user.ended = client.ended = ends.append
        await client.end_session(user.session.id)
        await self.until(lambda: ends, "the end")
        await self.raises(errors.NotFound, client.end_session(user.session.id))
        await client.end_session(client.session.id)
        await self.until(lambda: len(ends) == 2, "the end")

    async def test_audit(self) -> None:
        """The trail can be read, also from a number on."""
        client = await self.client(self.operator())
        records = await client.audit(limit=20)
        # Whoever was here before may be leaving.
        opened = [it for it in records if it["event"] == "session.open"]
        self.assertEqual(opened[-1]["principal"], "root")
        again = await client.audit(records[-2]["seq"], 1)
        self.assertEqual([it["seq"] for it in again], [records[-2]["seq"]])

    async def test_demoted(self) -> None:
        """Who is no operator any more, by the ticket as it is now, is none at the next command."""
        token = self.operator()
        client = await self.client(token)
        await client.sessions()
        self.gateway.put(
            {
                "uuid": token,
                "kind": "rpc",
                "timeout": 300,
                "ops": ["call"],
                "targets": ["*"],
                "principal": "root",
            }
        )
        await self.raises(errors.Denied, client.sessions())

    async def test_open(self) -> None:
        """An operator opens what libvirt calls otherwise, and hypervisors that nobody configured."""
        client = await self.client(self.operator())
        other = await client.open("test", name="qemu:///session")
        self.assertEqual((await other.get_type(), other.uri), ("QEMU", "qemu:///session"))
        free = await client.open("", uri=self.daemon.url("test", "tcp"))
        self.assertEqual(await free.get_type(), "TEST")
        sealed = await client.open("", uri=self.daemon.url("test", "tls"))
        self.assertEqual(await sealed.get_type(), "TEST")
        await sealed.close()
        self.assertEqual(sorted(it.name for it in await client.targets()), ["qemu", "test"])
        error = await self.raises(errors.BadArguments, client.open("", uri="no url"))
        self.assertEqual(error.path, "uri")
        await self.raises(errors.TargetDown, client.open("", uri="test+tcp://127.0.0.1:1/default"))
        await self.raises(errors.NotImplementedHere, (await free.lookup(name="test")).console())
        self.assertEqual(len(await client.handles()), 2)
        # They are forgotten once nobody has a handle of them.
        await free.close()
        await other.close()

    async def test_reload(self) -> None:
        """The configuration is read again; one that is no good is refused, and why is said."""
        client = await self.client(self.operator())
        host = await client.open("test")
        self.assertEqual(await client.reload(), [])
        self.assertEqual(await host.get_type(), "TEST")
        good = self.gateway.config_file.read_text()
        self.gateway.config_file.write_text(good + "\n[nonsense]\n")
        try:
            error = await self.raises(errors.GatewayError, client.reload())
        finally:
            self.gateway.config_file.write_text(good)
        self.assertIn("nonsense", error.text)
        # Of a hypervisor that is configured anew, whoever waits for events hears at once that they end.
        ends: list[errors.GatewayError] = []
        client.ended = ends.append
        await host.subscribe(["*"], print)
        self.gateway.config_file.write_text(good.replace("[target test]\n", "[target test]\nwindow = 3\n"))
        await (await self.client(self.operator())).reload()
        await self.until(lambda: ends, "the end")
        client = await self.client(self.operator())
        self.assertEqual(await client.host(host.handle).get_type(), "TEST")


class DrainTests(RpcCase):
    """The end."""

    async def test_drain(self) -> None:
        """Nobody is let in any more, and whoever has nothing under way goes."""
        client = await self.client(self.grant(ops=["call", "admin"]))
        user, token = await self.client(), self.grant()
        ends: list[errors.GatewayError] = []
        user.ended = client.ended = ends.append
        self.assertEqual(await client.drain(), 2)
        await self.until(lambda: len(ends) == 2, "the end")
        self.assertTrue(all(isinstance(it, errors.Unavailable) for it in ends), ends)
        await self.raises(errors.GatewayError, self.client(token))


class GivenUpTests(RpcCase):
    """Calls that are asked twice, take too long, or are not wanted any more; a hypervisor that hangs."""

    def hang(self) -> None:
        """The daemon does nothing, until the end of the test."""
        os.kill(self.daemon.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, self.daemon.pid, signal.SIGCONT)

    async def test_replay(self) -> None:
        """The same once more by its request_id gives the same, and does nothing; another is refused."""
        host = await self.host("qemu")
        xml = tiny("once")
        made = await host.define(xml, request_id="define once")
        number = await made.start(request_id="start once")
        self.assertEqual(await made.start(request_id="start once"), number)
        self.assertEqual((await host.define(xml, request_id="define once")).uuid, made.uuid)
        self.assertEqual(self.virsh("domid", "once", driver="qemu").strip(), str(number))
        await made.destroy(request_id="stop once")
        self.assertEqual(await made.start(request_id="start once"), number)
        self.assertEqual(self.virsh("domstate", "once", driver="qemu").strip(), "shut off")
        error = await self.raises(errors.BadArguments, made.destroy(request_id="start once"))
        self.assertEqual(error.path, "request_id")
        # What failed fails the same way, and each principal has numbers of its own.
        failed = [await self.raises(LibvirtError, made.destroy(request_id="again")) for _ in range(2)]
        self.assertEqual([it.code for it in failed], [55, 55])
        eve = await (await self.host("qemu", self.grant(principal="eve"))).lookup(name="once")
        self.assertGreater(await eve.start(request_id="start once"), number)
        await eve.destroy()
        self.assertEqual(vars_of(await self._clients[0].cancel("start once")), (False, "yes"))
        self.assertEqual(vars_of(await self._clients[0].cancel("never heard of")), (False, "no"))
        await made.undefine()

    async def test_cancel(self) -> None:
        """A call that is given up is answered at once, and says that it may have been executed."""
        host = await self.host()
        dom = await host.lookup(name="test")
        await dom.suspend()
        await dom.resume()
        self.hang()
        asked = Deferred.fromCoroutine(dom.suspend(request_id="slow"))
        await self.sleep(0.2)
        self.assertEqual(vars_of(await self._clients[0].cancel("slow")), (True, "unknown"))
        error = await self.raises(errors.Interrupted, asked)
        self.assertEqual(error.details, {"maybe_executed": True})
        error = await self.raises(errors.Interrupted, dom.suspend(request_id="slow"))
        self.assertEqual(error.details, {"maybe_executed": True})
        os.kill(self.daemon.pid, signal.SIGCONT)
        await self.until(lambda: self.virsh("domstate", "test").strip() == "paused", "what was sent already")
        await dom.resume()

    async def test_deadline(self) -> None:
        """A call has as long as its caller says; what reads was not executed, what writes may have been."""
        host = await self.host("qemu")
        dom = await host.define(tiny("late"))
        ref = {"name": dom.name, "uuid": dom.uuid, "id": -1}
        self.hang()
        for name, more, maybe in (
            ("DOMAIN_GET_INFO", {}, False),
            ("DOMAIN_SET_AUTOSTART", {"autostart": 1}, True),
        ):
            begun = self.reactor.seconds()
            error = await self.raises(
                errors.DeadlinePassed, host.call(name, {"dom": ref, **more}, deadline=0.4)
            )
            self.assertLess(self.reactor.seconds() - begun, 6)
            self.assertEqual(error.details, {"maybe_executed": maybe})
        os.kill(self.daemon.pid, signal.SIGCONT)
        await self.until(
            lambda: "enable" in self.virsh("dominfo", "late", driver="qemu"), "what was sent already"
        )
        await dom.undefine()


def vars_of(given: Any) -> tuple[bool, str]:
    return given.stopped, given.executed


#: What the documents show, on ports that are free.
EXAMPLE = """\
[gateway]
state_dir = var/state
run_dir = var/run
public_url = https://localhost:{images}

[tls]
certificate = pki/gateway.pem
key = pki/gateway.key

[tokens]
engine_certificate = pki/engine.pem
engine_ca = pki/ca.pem

[policy]
allow =
    *://127.0.0.0/8:*
    *://[::1]/128:*

[control]
listen = unix:var/run/control.sock:mode=660
tcp = tcp:{control}:interface=127.0.0.1

[images]
listen = tcp:{images}:interface=127.0.0.1
upstream_ca = pki/ca.pem
file_roots = images

[consoles]
listen = tcp:{consoles}:interface=127.0.0.1
origins = *
vnc_ca = pki/ca.pem
spice_ca = pki/ca.pem

[rpc]
listen = tcp:{rpc}:interface=127.0.0.1

[target lab]
uri = test+unix:///default?socket=var/run/libvirt-sock

[metrics]
listen = tcp:{metrics}:interface=127.0.0.1
"""


class ExampleTests(RpcCase):
    """The example of the documents, as it stands: its paths are relative to the file."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.gateway.stop()
        (cls.home / "var" / "run").mkdir(parents=True)
        (cls.home / "var" / "run" / "libvirt-sock").symlink_to(cls.daemon.socket)
        ports = {"images": cls.gateway.port, "control": cls.gateway.control_port, "consoles": cls.consoles}
        ports |= {"rpc": cls.rpc, "metrics": cls.gateway.metrics_port}
        cls.gateway.config_file.write_text(EXAMPLE.format(**ports))
        # The directory that it is started in is another one.
        cls.gateway.directory = cls.home / "elsewhere"
        cls.gateway.directory.mkdir()
        cls.gateway.start()

    async def test_example(self) -> None:
        """A ticket as the documents show it logs in, opens the target, and does what there is to do."""
        token = "4444" * 6
        ticket = {"uuid": token, "kind": "rpc", "principal": "alice", "timeout": 300, "ops": ["call"]}
        ticket |= {"targets": ["lab"], "rights": {"allow": ["*"], "domains": ["*"]}}
        self.gateway.put(ticket)
        client = await self.client(token)
        host = await client.open("lab")
        (dom,) = await host.list_domains()
        self.assertEqual((dom.name, dom.uuid), ("test", TEST))
        await dom.suspend()
        self.assertEqual(self.virsh("domstate", "test").strip(), "paused")
        await dom.resume()
        shot = await dom.screenshot()
        self.assertEqual(self.gateway.ask("GET", urlsplit(shot.url).path).status, 200)
        self.assertTrue(urlsplit((await dom.console()).url).path.startswith("/console/"))
