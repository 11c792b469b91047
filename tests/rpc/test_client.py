"""The client library, against a small endpoint over TLS."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from gateway import errors
from gateway.core import dev_pki
from gateway.rpc import commands
from gateway.rpc.client import Event, Gateway, Host, connect
from gateway.rpc.client_records import State
from gateway.rpc.commands import COMMANDS
from gateway.wire.libvirt_error import LibvirtError
from tests.rpc.small_endpoint import CA, NOW, TIME, Endpoint
from tests.support import ReactorTestCase

Case = TypeVar("Case", bound="ClientCase")


class ClientCase(ReactorTestCase):
    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        directory = Path(self.mktemp())
        directory.mkdir()
        self.endpoint = Endpoint(reactor, directory)
        self.endpoint.listen()
        self.gateways: list[Gateway] = []

    async def clean(self) -> None:
        for gateway in self.gateways:
            gateway.close()
        await self.endpoint.stop()
        await self.until(lambda: not self.endpoint.sides)
        await self.sleep(0.02)

    def tearDown(self) -> Deferred[None]:  # type: ignore[override]  # trial waits for it
        return Deferred.fromCoroutine(self.clean())

    async def sleep(self, seconds: float) -> None:
        await deferLater(self.reactor, seconds)

    async def gateway(self, **keys: Any) -> Gateway:
        keys = dict[str, Any](ca=[CA.certificate], token="good", pause=0.02) | keys
        gateway = await connect(self.reactor, "127.0.0.1", self.endpoint.number, **keys)
        self.gateways.append(gateway)
        return gateway

    async def host(self, **keys: Any) -> Host:
        return await (await self.gateway(**keys)).open("lab")

    async def raises(self, kind: type[BaseException], asked: Awaitable[object]) -> Any:
        try:
            await asked
        except kind as error:
            return error
        raise AssertionError(f"no {kind.__name__}")


class ConnectTests(ClientCase):
    async def test_login(self) -> None:
        """One knows who one is, and until when."""
        gateway = await self.gateway()
        self.assertEqual((gateway.session.principal, gateway.session.features), ("alice", ("events",)))
        self.assertEqual(await gateway.version(), ("1.0", 1))
        self.assertTrue(gateway.up)

    async def test_by_name(self) -> None:
        """A name does as well as an address, when the certificate has it."""
        keys: dict[str, Any] = {"ca": [CA.certificate], "token": lambda: "good"}
        gateway = await connect(self.reactor, "localhost", self.endpoint.number, **keys)
        self.gateways.append(gateway)

    async def test_bad_token(self) -> None:
        """A token that is no good is refused with its own error, and nothing is left open."""
        await self.raises(errors.Unauthenticated, self.gateway(token="bad", reconnect=True))
        await self.until(lambda: not self.endpoint.sides)
        self.assertEqual(self.endpoint.logins, 1)

    async def test_not_the_gateway(self) -> None:
        """A gateway that cannot prove itself hears no token."""
        other = dev_pki.authority(NOW, "another")
        error = await self.raises(errors.UpstreamFailed, self.gateway(ca=[other.certificate]))
        self.assertEqual((error.reason, self.endpoint.logins), ("tls", 0))

    async def test_nobody(self) -> None:
        """Where nobody listens that is said."""
        await self.endpoint.stop()
        error = await self.raises(errors.UpstreamFailed, self.gateway())
        self.assertEqual(error.reason, "refused")

    async def test_silent(self) -> None:
        """A gateway that accepts and says nothing is given up after the time that was given."""
        from twisted.internet.protocol import Factory, Protocol

        port = self.reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
        self.endpoint.number, number = port.getHost().port, self.endpoint.number
        error = await self.raises(errors.UpstreamTimeout, self.gateway(timeout=0.1))
        self.assertEqual(error.reason, "connect")
        self.endpoint.number = number
        await port.stopListening()


class AskTests(ClientCase):
    async def test_objects(self) -> None:
        """Hosts and domains are objects; lists come whole, over all their pages."""
        host = await self.host()
        self.assertEqual((host.uri, host.expires, host.generation), ("test:///default", TIME, 1))
        self.assertNotIn("h1", repr(host))
        self.assertEqual([it.name for it in await host.list_domains()], [f"vm{n}" for n in range(7)])
        web = await host.lookup(name="web")
        self.assertEqual((web.name, web.id, web.state), ("web", 3, "running"))
        self.assertEqual(await web.start(flags=1, request_id="r"), 1)
        self.assertEqual(self.endpoint.asked[-1][1], {"dom": "d-web", "flags": 1, "request_id": "r"})
        waiting = Deferred.fromCoroutine(web.get_state())
        await self.until(lambda: self.endpoint.pending)
        self.endpoint.pending[0].callback({"state": "running", "reason": "booted"})
        self.assertEqual(await waiting, State("running", "booted"))

    async def test_kept(self) -> None:
        """A handle that was kept serves again."""
        gateway = await self.gateway()
        self.assertEqual(len(await gateway.host("h1").list_domains()), 7)

    async def test_errors(self) -> None:
        """Errors are what they were at the gateway, numbers and all; the connection stays."""
        gateway = await self.gateway()
        host = await gateway.open("lab")
        await self.raises(errors.NoTarget, gateway.open("other"))
        error = await self.raises(LibvirtError, host.lookup(name="none"))
        self.assertEqual((error.code, error.domain, error.text), (42, 10, "Domain not found: no domain"))
        self.assertEqual(error.strings[1], "x")
        busy = await self.raises(errors.Busy, gateway.ask(commands.Start, dom="d-busy"))
        self.assertEqual(busy.retry_after, 7.0)
        denied = await self.raises(errors.Denied, gateway.drain())
        self.assertEqual(denied.permission, "command:Drain")
        await self.raises(errors.BadArguments, gateway.ask(commands.Start, dom="d", flags=-1))
        self.assertEqual(len(self.endpoint.sides), 1)

    async def test_big(self) -> None:
        """Eight mebibytes go both ways in one call; more than the cap does not leave."""
        host = await self.host()
        big = bytes(range(256)) * (8 * 4096)
        self.assertEqual(await host.call_xdr("ANY", big), big)
        text = await host.call("ANY", {"xml": "x" * (8 * 2**20), "data": b"\0\1"})
        self.assertEqual((len(text["xml"]), text["data"]), (8 * 2**20, "AAE="))
        xml = await host._link.ask(commands.GetXml, dom=str(4 * 2**20))
        self.assertEqual(len(xml["xml"]), 4 * 2**20)
        self.assertEqual((await host.define("x" * (4 * 2**20))).name, str(4 * 2**20))
        error = await self.raises(errors.TooLarge, host.define("x" * (4 * 2**20 + 1)))
        self.assertEqual(error.limit, 4 * 2**20)

    async def test_together(self) -> None:
        """Many calls at once, far more than are under way at the gateway: each gets its own answer."""
        host = await self.host()
        asked = [Deferred.fromCoroutine(host.call("ANY", {"n": n})) for n in range(500)]
        for n, answer in enumerate(asked):
            self.assertEqual(await answer, {"n": n})

    async def test_cancelled(self) -> None:
        """A call that is given up disturbs nothing; with a request_id the gateway is told."""
        host = await self.host()
        web = await host.lookup(name="web")
        for request_id in (None, "r1"):
            asked = Deferred.fromCoroutine(web.shutdown(request_id=request_id))
            await self.until(lambda: self.endpoint.pending)
            asked.cancel()
            await self.raises(CancelledError, asked)
            await host.lookup(name="web")
            self.endpoint.pending[0].callback({})
        await host.lookup(name="web")
        cancels = [given for name, given in self.endpoint.asked if name == "Cancel"]
        self.assertEqual(cancels, [{"request_id": "r1"}])
        self.assertEqual(len(self.endpoint.sides), 1)

    async def test_for_operators(self) -> None:
        """The commands for operators read the control listener's JSON."""
        gateway = await self.gateway()
        self.assertEqual(await gateway.list_tickets(), [{"ticket": "a"}, {"ticket": "b"}])
        self.assertEqual(await gateway.audit(5, 10), [{"seq": 5, "limit": 10}])

    def test_complete(self) -> None:
        """There is a method for every command, called as that is."""
        from gateway.rpc.client import Domain, Network, Pool

        known = {name for it in (Gateway, Host, Domain, Network, Pool) for name in vars(it)}
        for command in COMMANDS:
            name = "".join(f"_{c.lower()}" if c.isupper() else c for c in command.decode()).lstrip("_")
            if name not in ("login", "event", "ack", "unsubscribe", "renew", "close"):
                self.assertIn(name, known)


class LostTests(ClientCase):
    async def test_lost(self) -> None:
        """Without reconnecting a lost connection ends it all: a write may have been done, a read was not."""
        gateway = await self.gateway()
        reasons: list[errors.GatewayError] = []
        gateway.ended = reasons.append
        both = (commands.Shutdown, commands.GetState)
        asked = [Deferred.fromCoroutine(gateway.ask(it, dom="d")) for it in both]
        await self.until(lambda: len(self.endpoint.pending) == 2)
        self.endpoint.cut()
        for answer, maybe in zip(asked, (True, False), strict=True):
            error = await self.raises(errors.Interrupted, answer)
            self.assertEqual(error.maybe_executed, maybe)
        await self.until(lambda: reasons)
        self.assertFalse(gateway.up)
        error = await self.raises(errors.Interrupted, gateway.version())
        self.assertFalse(error.maybe_executed)
        await self.until(lambda: self.endpoint.cancelled == 2)

    async def test_dismissed(self) -> None:
        """When the ticket ends every call says so, and no new connection is made with it."""
        gateway = await self.gateway(reconnect=True)
        reasons: list[errors.GatewayError] = []
        gateway.ended = reasons.append
        asked = Deferred.fromCoroutine(gateway.ask(commands.Shutdown, dom="d"))
        await self.until(lambda: self.endpoint.pending)
        self.endpoint.sides[0].end(errors.Expired())
        await self.raises(errors.Expired, asked)
        await self.until(lambda: reasons)
        self.assertIsInstance(reasons[0], errors.Expired)
        await self.raises(errors.Expired, gateway.version())
        self.assertEqual(self.endpoint.logins, 1)

    async def test_pauses(self) -> None:
        """Pauses between new attempts grow no longer than one wants."""
        from twisted.internet.protocol import Factory

        attempts: list[object] = []
        gateway = await self.gateway(reconnect=True, longest=0.04)
        await self.endpoint.stop()
        closed = Factory()
        closed.buildProtocol = attempts.append  # type: ignore[method-assign, assignment]  # it builds none
        port = self.reactor.listenTCP(self.endpoint.number, closed, interface="127.0.0.1")
        # Twice as long each time, it would be seven in two seconds.
        await self.until(lambda: len(attempts) > 10)
        await port.stopListening()
        gateway.close()

    async def test_again(self) -> None:
        """A lost connection is made again, with a fresh token; calls wait for it, reads are asked again."""
        tokens: list[int] = []

        def token() -> str:
            tokens.append(1)
            return "good"

        gateway = await self.gateway(reconnect=True, token=token)
        host = await gateway.open("lab")
        read = Deferred.fromCoroutine(gateway.ask(commands.GetState, dom="d"))
        write = Deferred.fromCoroutine(gateway.ask(commands.Shutdown, dom="d"))
        await self.until(lambda: len(self.endpoint.pending) == 2)
        await self.endpoint.stop()
        error = await self.raises(errors.Interrupted, write)
        self.assertTrue(error.maybe_executed)
        later = Deferred.fromCoroutine(host.list_domains())
        await self.sleep(0.1)
        self.assertFalse(gateway.up)
        self.endpoint.listen()
        self.assertEqual(len(await later), 7)
        await self.until(lambda: self.endpoint.pending)
        self.endpoint.pending[0].callback({"state": "a", "reason": "b"})
        self.assertEqual(await read, {"state": "a", "reason": "b"})
        self.assertGreaterEqual(len(tokens), 2)

    async def test_once(self) -> None:
        """A write with a request_id is asked again, and done once; one without is asked once."""
        gateway = await self.gateway(reconnect=True)
        error = await self.raises(errors.Interrupted, gateway.ask(commands.Start, dom="d-cut"))
        self.assertTrue(error.maybe_executed)
        self.assertEqual(len(self.endpoint.asked), 1)
        answer = await gateway.ask(commands.Start, dom="d-cut", request_id="r")
        self.assertEqual((answer, len(self.endpoint.done)), ({"id": 2}, 2))
        self.assertEqual(len(self.endpoint.asked), 3)

    async def test_token_over(self) -> None:
        """When the token is no good any more that is the end, and who waits is told."""
        gateway = await self.gateway(reconnect=True)
        reasons: list[errors.GatewayError] = []
        gateway.ended = reasons.append
        self.endpoint.token = "another"
        self.endpoint.cut()
        await self.until(lambda: not gateway.up)
        await self.raises(errors.Unauthenticated, gateway.version())
        self.assertIsInstance(reasons[0], errors.Unauthenticated)

    async def test_hangs_up(self) -> None:
        """Closed, the connection is gone at once, and with it what was asked and is not answered."""
        gateway = await self.gateway(reconnect=True)
        waiting = Deferred.fromCoroutine(gateway.ask(commands.GetState, dom="d-web"))
        gateway.close()
        await self.until(lambda: not self.endpoint.sides)
        await self.raises(errors.Interrupted, waiting)
        await self.raises(errors.Interrupted, gateway.version())

    async def test_closed(self) -> None:
        """Closed while it is being made again: nothing is made, and whoever waits is told."""
        gateway = await self.gateway(reconnect=True)
        await self.endpoint.stop()
        await self.until(lambda: not gateway.up)
        waiting = Deferred.fromCoroutine(gateway.version())
        gateway.close()
        await self.raises(errors.Interrupted, waiting)

    async def test_gives_up_waiting(self) -> None:
        """Who waits for a new connection can be cancelled."""
        gateway = await self.gateway(reconnect=True)
        await self.endpoint.stop()
        await self.until(lambda: not gateway.up)
        waiting = Deferred.fromCoroutine(gateway.version())
        waiting.cancel()
        await self.raises(CancelledError, waiting)


class EventTests(ClientCase):
    async def test_in_order(self) -> None:
        """Events come in order, those before the answer too; each is acknowledged once it was dealt with."""
        host = await self.host()
        self.endpoint.happen("before", "old")
        seen: list[Event] = []
        watching = await host.subscribe(["lifecycle"], seen.append, from_seq=101)
        self.assertTrue(watching.complete)
        self.endpoint.happen(*(f"k{n}" for n in range(30)))
        await self.until(lambda: len(seen) == 31)
        self.assertEqual([it.seq for it in seen], list(range(102, 133)))
        self.assertEqual(seen[0], Event(102, TIME, "old", "d-web", {"n": 1}))
        await self.until(lambda: self.endpoint.acked and self.endpoint.acked[-1] == 132)
        await watching.unsubscribe()
        self.assertEqual(self.endpoint.subs, {})

    async def test_slow(self) -> None:
        """While one event is being dealt with no other is, and the gateway sends no more than its window."""
        host = await self.host()
        busy: list[Deferred[None]] = []
        most = 0

        async def slow(event: Event) -> None:
            nonlocal most
            busy.append(Deferred())
            most = max(most, sum(not it.called for it in busy))
            await busy[-1]

        watching = await host.subscribe(["lifecycle"], slow)
        self.endpoint.happen(*"abcdefghij")
        await self.sleep(0.05)
        self.assertEqual((len(busy), self.endpoint.acked), (1, []))
        self.assertLess(len(watching._queue), self.endpoint.window)
        while len(busy) < 10:
            busy[-1].callback(None)
            await self.sleep(0.01)
        busy[-1].callback(None)
        self.assertEqual(most, 1)

    async def twice(self, early: bool) -> None:
        self.endpoint.window = 1
        host = await self.host(reconnect=True)
        busy: Deferred[None] = Deferred()
        seen: list[str] = []

        async def slow(event: Event) -> None:
            seen.append(event.kind)
            await busy

        await host.subscribe(["lifecycle"], slow)
        self.endpoint.happen("a", "b")
        await self.until(lambda: seen)
        self.endpoint.hold = Deferred()
        asked = len(self.endpoint.asked)
        self.endpoint.cut()
        await self.until(lambda: len(self.endpoint.asked) > asked)
        if early:
            busy.callback(None)
            await self.sleep(0.01)
        self.endpoint.hold.callback(None)
        await self.until(lambda: self.endpoint.subs)
        await self.sleep(0.02)
        if not early:
            busy.callback(None)
        await self.until(lambda: len(seen) == 2)
        self.assertEqual(seen, ["a", "b"])

    async def test_twice(self) -> None:
        """An event that comes twice is dealt with once, and acknowledged: the next one waits for that."""
        await self.twice(False)

    async def test_twice_early(self) -> None:
        """So is one that was done with while the gateway was asked to go on before it."""
        await self.twice(True)

    async def test_bug(self) -> None:
        """A callback that fails is logged, and the next event comes all the same."""
        host = await self.host()
        seen: list[str] = []

        def on_event(event: Event) -> None:
            seen.append(event.kind)
            raise KeyError(event.kind)

        await host.subscribe(["lifecycle"], on_event)
        self.endpoint.happen("a", "b")
        await self.until(lambda: len(seen) == 2)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 2)

    async def test_over_connections(self) -> None:
        """Over lost connections each event comes once, in order, and none is missed."""
        host = await self.host(reconnect=True)
        seen: list[int] = []
        await host.subscribe(["lifecycle"], lambda event: seen.append(event.seq))
        for _ in range(4):
            self.endpoint.happen("a", "b", "c")
            await self.sleep(0.004)
            self.endpoint.cut()
            self.endpoint.happen("d", "e")
            await self.until(lambda: self.endpoint.subs)
        await self.until(lambda: len(seen) >= 20)
        self.assertEqual(seen, list(range(101, 121)))

    async def test_nothing_yet(self) -> None:
        """What happens while there is no connection is not missed, though no event came before."""
        host = await self.host(reconnect=True)
        seen: list[int] = []
        self.endpoint.happen("x")
        await host.subscribe(["lifecycle"], lambda event: seen.append(event.seq))
        await self.endpoint.stop()
        self.endpoint.happen("missed")
        self.endpoint.listen()
        await self.until(lambda: seen)
        self.assertEqual(seen, [102])

    async def test_resync(self) -> None:
        """When the gateway has forgotten what was missed a resync says so."""
        host = await self.host(reconnect=True)
        seen: list[str] = []
        watching = await host.subscribe(["lifecycle"], lambda event: seen.append(event.kind))
        self.endpoint.happen("a")
        await self.until(lambda: seen)
        self.endpoint.forgotten = 500
        self.endpoint.cut()
        await self.until(lambda: len(seen) == 2)
        self.assertEqual((seen, watching.complete), (["a", "resync"], False))

    async def test_handle_gone(self) -> None:
        """A subscription whose handle is gone after a new connection ends, with the reason."""
        host = await self.host(reconnect=True)
        watching = await host.subscribe(["lifecycle"], lambda event: None)
        reasons: list[errors.GatewayError] = []
        watching.ended = reasons.append
        watching.handle = "h2"
        self.endpoint.cut()
        await self.until(lambda: reasons)
        self.assertIsInstance(reasons[0], errors.NoHandle)
