"""What is attempted on consoles: foreign pages, replay, too many, too late, other targets, secrets."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections import Counter
from typing import Any, ClassVar
from urllib.parse import quote
from uuid import uuid4

from tests.functional.attacks import at_once
from tests.functional.case import PYTEST_ONLY
from tests.functional.console_case import PAGE, ConsoleCase
from tests.functional.console_client import Console, Refused
from tests.functional.console_servers import VERSION, Line, Server, echo, quiet, says, spice, vnc
from tests.functional.peers import Sections
from tests.functional.processes import DEADLINE, HOST, best_of, wait_for
from tests.wire import spice_server
from tests.wire.test_websocket_frames import client as frame

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

#: Bytes of every value, none of which may be lost or changed.
EVERYTHING = bytes(range(256)) * 300


class _Case(ConsoleCase):
    """Consoles that the test plays."""

    def server(self, play: Any = echo, address: str = HOST) -> Server:
        server = Server(play, address)
        self.addCleanup(server.close)
        return server

    def status(self, path: str, *fields: str, **more: Any) -> int:
        """Of the answer to a request for a websocket; 101 ones stay open."""
        try:
            console = Console(self.consoles, self.gateway.ca, path, *fields, **more)
        except Refused as refused:
            return refused.status
        self.addCleanup(console.line.close)
        return 101

    def item(self, text: str) -> str:
        """A ticket as a subprotocol."""
        return "ticket." + urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def assert_alive(self, console: Console, word: bytes = b"alive") -> None:
        console.send(word)
        console.until(word)


class OriginTests(_Case):
    """W1: pages of other sites."""

    ALLOWED = (PAGE, PAGE + ":443", "HTTPS://Engine.Invalid")
    DENIED = (
        "https://evil.invalid", "https://localhost", "http://engine.invalid", "https://engine.invalid:8443",
        "https://engine.invalid.evil.invalid", "https://engine.invalid@evil.invalid", "https://engine.invalid/",
        "https://engine.invalid, https://evil.invalid", "null", "*", "file://",
    )  # fmt: skip

    def test_table(self) -> None:
        """Listed pages may, in any spelling; no other reaches a console, or is told why."""
        server = self.server()
        ticket = self.grant(server.url("tcp"))
        path, offer = f"/console/{ticket}", f"Sec-WebSocket-Protocol: binary, {self.item(ticket)}"
        for origin in self.DENIED:
            self.assertEqual(self.status(path, f"Origin: {origin}"), 403, origin)
            self.assertEqual(self.status("/console/", offer, f"Origin: {origin}"), 403, origin)
        self.assertEqual(self.status(path, f"Origin: {PAGE}", "Origin: https://evil.invalid"), 400)
        self.assertEqual(server.lines, [])
        for origin in (*self.ALLOWED, f"https://localhost:{self.gateway.port}"):
            self.assertEqual(self.status(path, f"Origin: {origin}"), 101, origin)
        self.assertEqual(self.status(path), 101, "no browser")

    def test_host_widens_nothing(self) -> None:
        """A request that names another host has its own origin refused, and so has whoever comes after it."""
        server = self.server()
        ticket = self.grant(server.url("tcp"))
        evil = "Origin: https://evil.invalid"
        for host in ("evil.invalid", "evil.invalid:443", "evil.invalid:6100"):
            self.assertIn(self.status(f"/console/{ticket}", evil, host=host), (403, 421))
            self.status(f"/console/{ticket}", host=host)
            self.status(
                f"/console/{ticket}", "X-Forwarded-Host: evil.invalid", "Forwarded: host=evil.invalid"
            )
            self.assertEqual(self.status(f"/console/{ticket}", evil), 403)
        self.assertEqual(self.status(f"/console/{ticket}", f"Origin: {PAGE}"), 101)

    def test_cookie(self) -> None:
        """Who shows a cookie has to be a page of ours; programs have other ways."""
        server = self.server()
        cookie = f"Cookie: __Host-gwc={self.grant(server.url('tcp'))}"
        for origin in ((), ("Origin: https://evil.invalid",), ("Origin: null",)):
            self.assertEqual(self.status("/console/", cookie, *origin), 403)
        self.assertEqual(server.lines, [])
        self.assertEqual(self.status("/console/", cookie, f"Origin: {PAGE}"), 101)


class AnyOriginTests(_Case):
    """W1, where every page may: not by a cookie, which browsers send unasked."""

    more: ClassVar[dict[str, str]] = {"origins": "*"}

    def test_cookie(self) -> None:
        """A stranger's page needs the ticket itself."""
        server = self.server()
        ticket = self.grant(server.url("tcp"))
        evil = "Origin: https://evil.invalid"
        self.assertEqual(self.status("/console/", f"Cookie: __Host-gwc={ticket}", evil), 403)
        self.assertEqual(server.lines, [])
        self.assertEqual(self.status(f"/console/{ticket}", evil), 101)


class ReplayTests(_Case):
    """W2: a ticket for one use."""

    def once(self, path: str, *fields: str) -> None:
        """Of fifty who show the same at once one gets a console, and nobody afterwards."""
        server = self.servers[-1]
        got = Counter(at_once(50, lambda: self.status(path, *fields)))
        self.assertEqual(got, {101: 1, 403: 49})
        self.assertEqual(self.status(path, *fields), 403)
        self.assertEqual(len(server.lines), 1)
        wait_for(lambda: len(self.gateway.sessions()) == 1, "one session")
        [session] = self.gateway.sessions()
        self.gateway.control("DELETE", f"/sessions/{session['id']}")
        self.assertEqual(self.status(path, *fields), 403)
        self.assertEqual(len(server.lines), 1)

    def test_race(self) -> None:
        """By path and query, of the registry and signed."""
        self.servers: list[Server] = []
        for way in ("path", "query", "signed"):
            self.servers.append(server := self.server(vnc()))
            if way == "signed":
                payload: dict[str, object] = {"host": HOST, "port": str(server.port), "ssl_target": False}
                self.once("/" + quote(self.sign(payload), safe=""))
            else:
                ticket = self.grant(server.url("tcp"), uses=1)
                self.once(f"/console/{ticket}" if way == "path" else f"/websockify?token={ticket}")

    def test_respelled(self) -> None:
        """A signed ticket in another spelling is the same ticket."""
        server = self.server(vnc())
        token = self.sign({"host": HOST, "port": str(server.port), "ssl_target": False})
        self.assertEqual(self.status("/" + quote(token, safe="")), 101)
        fields = json.loads(b64decode(token))
        reordered = json.dumps(dict(reversed(fields.items())))
        spaced = json.dumps(fields, separators=(" , ", " : ")) + " "
        for path in (
            f"/{token}",
            f"/console/{token}",
            f"/websockify?token={quote(token, safe='')}",
            "/" + "".join(f"%{byte:02x}" for byte in token.encode()),
            "/eyJ" + "".join(f"%{byte:02X}" for byte in token[3:].encode()),
            *("/" + quote(b64encode(it.encode()).decode(), safe="") for it in (reordered, spaced)),
            f"/{token}%0a",
        ):
            self.assertIn(self.status(path), (400, 403, 404), path[:40])
        self.assertEqual(len(server.lines), 1)

    def test_ambiguous(self) -> None:
        """Two tickets in one request open nothing, whichever is good."""
        server = self.server()
        good, other = self.grant(server.url("tcp")), self.grant(server.url("tcp"))
        for path, *fields in (
            (f"/console/{good}?token={other}",),
            (f"/console/{good}", f"Cookie: __Host-gwc={other}", f"Origin: {PAGE}"),
            (f"/console/?token={good}&token={other}",),
        ):
            self.assertEqual(self.status(path, *fields), 400)
        self.assertEqual(server.lines, [])


class GenerationTests(_Case):
    """Tickets that an engine signs, made by openssl and a shell."""

    def opens(self, *generations: str) -> None:
        for play in (vnc(), spice()):
            server = self.server(play)
            for generation in generations:
                for order in ("java", "python"):
                    payload = {"host": HOST, "port": str(server.port), "ssl_target": False}
                    token = self.sign(payload, generation=generation, order=order)
                    console = self.path("/" + quote(token, safe=""), f"Origin: {PAGE}")
                    if play.__qualname__.startswith("spice"):
                        console.send(spice_server.link())
                        self.assertEqual(console.read(4), b"REDQ")
                    else:
                        self.enter(console)
                        self.assertIn(b"fake", console.read(28))
                    console.leave()

    def test_new(self) -> None:
        """Both that have RSA-PSS open VNC and SPICE; SHA-1 alone opens nothing."""
        self.opens("B", "C")
        server = self.server(vnc())
        token = self.sign({"host": HOST, "port": str(server.port), "ssl_target": False}, generation="A")
        self.assertEqual(self.status("/" + quote(token, safe="")), 403)
        self.assertEqual(server.lines, [])

    def test_outlives(self) -> None:
        """A console that was opened in time outlives its ticket; nobody else gets in, and a kill ends it."""
        server = self.server(echo)
        token = self.sign({"host": HOST, "port": str(server.port), "ssl_target": False}, seconds=12)
        signed = time.monotonic()
        console = self.path("/" + quote(token, safe=""))
        server.lines[0].say(b"hello")
        console.until(b"hello")
        time.sleep(max(0.0, signed + 12.2 - time.monotonic()))
        self.assert_alive(console)
        self.assertEqual(self.status("/" + quote(token, safe="")), 403)
        [session] = self.gateway.sessions()
        self.gateway.control("DELETE", f"/sessions/{session['id']}")
        self.assertEqual(console.end()[0], 4403)


class OldGenerationTests(GenerationTests):
    """Where SHA-1 is good enough."""

    sections: ClassVar[Sections] = {"tokens": {"sha1": "yes"}}

    def test_new(self) -> None:
        """The oldest opens too; once better was seen of a signer, it does no more."""
        self.opens("A")
        self.opens("C")
        server = self.server(vnc())
        token = self.sign({"host": HOST, "port": str(server.port), "ssl_target": False}, generation="A")
        self.assertEqual(self.status("/" + quote(token, safe="")), 403)
        self.assertEqual(server.lines, [])

    def test_outlives(self) -> None:
        """In any generation."""
        super().test_outlives()


class CapTests(_Case):
    """W6: too many."""

    def test_ticket(self) -> None:
        """64 consoles of one ticket, and not one more; when one ends, another may begin."""
        server = self.server()
        ticket = self.grant(server.url("tcp"))
        consoles = [self.path(f"/console/{ticket}") for _ in range(64)]
        self.refused(503, f"/console/{ticket}")
        self.assertEqual(len(server.lines), 64)
        consoles.pop().leave()
        wait_for(lambda: len(self.gateway.sessions()) == 63, "one is gone")
        consoles.append(self.path(f"/console/{ticket}"))
        for number, console in enumerate(consoles):
            self.assert_alive(console, b"%d." % number)
        self.gateway.delete(ticket)

    def test_principal(self) -> None:
        """32 consoles of one principal, by however many tickets; others are not touched."""
        server = self.server()
        url = server.url("tcp")
        for _ in range(32):
            self.open(url, principal="alice")
        last = self.grant(url, principal="alice", uses=1)
        self.refused(503, f"/console/{last}")
        self.assertEqual(len(server.lines), 32)
        self.assert_alive(self.open(url, principal="bob"))
        [session, *_] = (it for it in self.gateway.sessions() if it["principal"] == "alice")
        self.gateway.control("DELETE", f"/sessions/{session['id']}")
        hers = "/sessions/?principal=alice"
        wait_for(lambda: len(self.gateway.control("GET", hers).json()["sessions"]) == 31, "the end of one")
        # The refusal used nothing up.
        self.assert_alive(self.path(f"/console/{last}"))


class ConnectionCapTests(_Case):
    """W6: too many connections, of one address and in all."""

    ADDRESS, ALL = 12, 30
    sections: ClassVar[Sections] = {
        "limits": {
            "exempt": "192.0.2.1/32",
            "connections_per_address": str(ADDRESS),
            "connections": str(ALL),
            "unauthenticated": "30",
        }
    }

    def test_caps(self) -> None:
        """One more is hung up on before it costs anything; those that are up stay."""
        server = self.server()
        path = f"/console/{self.grant(server.url('tcp'))}"
        consoles: list[Console] = []

        def fill(source: str, count: int) -> None:
            for _ in range(count):
                consoles.append(Console(self.consoles, self.gateway.ca, path, source=source))
                self.addCleanup(consoles[-1].line.close)

        def enters(source: str) -> bool:
            try:
                fill(source, 1)
            except (OSError, Refused):
                return False
            return True

        def closed(source: str) -> None:
            # Close to the limit of all, strangers get a 503.
            with self.assertRaises((OSError, Refused)):
                Console(self.consoles, self.gateway.ca, path, source=source)

        fill("127.0.0.2", self.ADDRESS)
        closed("127.0.0.2")
        fill("127.0.0.3", self.ADDRESS)
        closed("127.0.0.3")
        with contextlib.suppress(OSError, Refused):
            for _ in range(self.ALL):
                fill("127.0.0.4", 1)
        # Those who give orders count, too, but nobody is as many as that.
        self.assertIn(len(consoles), range(self.ALL - 2, self.ALL + 1))
        closed("127.0.0.5")
        for number, console in enumerate(consoles):
            self.assert_alive(console, b"%d." % number)
        self.assertEqual(len(server.lines), len(consoles))
        consoles.pop().leave()
        wait_for(lambda: server.live < len(server.lines), "one is gone")
        wait_for(lambda: enters("127.0.0.4"), "room for another")


class PermissionTests(_Case):
    """W7: a console ends with the permission to have it."""

    def test_revoked(self) -> None:
        """Every console of a ticket ends within 50 ms, on both sides and with the reason; others stay."""
        server, other = self.server(), self.server()
        stays = self.open(other.url("tcp"))

        def revoked() -> float:
            ticket = self.grant(server.url("tcp"))
            consoles = [self.path(f"/console/{ticket}") for _ in range(8)]
            for console in consoles:
                self.assert_alive(console)
            begun = time.monotonic()
            self.assertEqual(self.gateway.delete(ticket).status, 204)
            ends = [console.end() for console in consoles]
            took = time.monotonic() - begun
            self.assertEqual(set(ends), {(4403, "Your access to this console was revoked")})
            wait_for(lambda: not server.live, "the console's side")
            self.assertEqual(self.status(f"/console/{ticket}"), 403)
            return took

        best = best_of(revoked, 0.05)
        print(f"8 consoles closed {best * 1000:.1f} ms after the revocation was ordered")  # noqa: T201 (what was measured)
        self.assert_alive(stays)

    def test_all(self) -> None:
        """All tickets revoked, all consoles ended: also those that wait for a password or a word."""
        urls = [self.server(vnc(offers=b"\2")).url("vnc"), self.server(echo).url("serial")]
        consoles = [self.open(url, ops=["view"]) for url in urls]
        waits = self.open(self.server(spice()).url("spice"))
        self.assertEqual(self.gateway.control("DELETE", "/tickets/").status, 204)
        for console in consoles:
            self.assertEqual(console.end()[0], 4403)
        # This one has used nothing yet, and will not.
        waits.send(spice_server.link())
        self.assertEqual(waits.end()[0], 4403)

    def test_killed(self) -> None:
        """An operator ends one console, and that one only."""
        server = self.server()
        ticket = self.grant(server.url("tcp"))
        one, other = (self.path(f"/console/{ticket}") for _ in range(2))
        first = min(self.gateway.sessions(), key=lambda it: it["since"])
        self.gateway.control("DELETE", f"/sessions/{first['id']}")
        self.assertEqual(one.end(), (4403, "An administrator has ended this console"))
        self.assert_alive(other)

    def test_principal(self) -> None:
        """Whoever knows a name finds all consoles of it, and can end each."""
        server = self.server()
        mine = [self.open(server.url("tcp"), principal="carol") for _ in range(3)]
        stays = self.open(server.url("tcp"), principal="dave")
        found = self.gateway.control("GET", "/sessions/?principal=carol").json()["sessions"]
        self.assertEqual(len(found), 3)
        for session in found:
            self.gateway.control("DELETE", f"/sessions/{session['id']}")
        for console in mine:
            self.assertEqual(console.end()[0], 4403)
        self.assert_alive(stays)

    def test_demoted(self) -> None:
        """A ticket that is replaced by one for looking only ends the consoles that may do more."""
        server = self.server()
        ticket = self.grant(server.url("tcp"))
        console = self.path(f"/console/{ticket}")
        again = {"uuid": ticket, "kind": "console", "url": server.url("tcp"), "timeout": 300}
        self.gateway.put({**again, "ops": ["view", "control"]})
        self.assert_alive(console)
        self.gateway.put({**again, "ops": ["view"]})
        self.assertEqual(console.end()[0], 4403)
        self.gateway.put({**again, "ops": ["view", "control"]})

    def test_in_between(self) -> None:
        """Revoked while its target is being reached: the browser never gets in."""
        server = self.server(quiet)
        ticket = self.grant(server.url("vnc"), secret="x")
        got: list[int] = []

        def ask() -> None:
            got.append(self.status(f"/console/{ticket}"))

        def revoke() -> None:
            wait_for(lambda: server.lines, "reached")
            self.gateway.delete(ticket)

        jobs = [ask, revoke]
        at_once(2, lambda: jobs.pop()())
        self.assertEqual(got, [403])
        wait_for(lambda: not server.live, "hung up")


class PolicyTests(_Case):
    """Whatever is refused, its target hears nothing."""

    sections: ClassVar[Sections] = {
        "policy": {"deny": "*://127.0.0.66/32:*", "allow": "*://127.0.0.0/8:*"},
        "limits": {"auth_failures": "100000"},
    }

    def test_refusals(self) -> None:
        """One for one: nobody has connected to the target."""
        trap = self.server()
        url = trap.url("tcp")

        def grant(**more: Any) -> str:
            return "/console/" + self.grant(url, **more)

        expired, revoked, used = grant(timeout=1), grant(), grant(uses=1)
        self.gateway.delete(revoked.rpartition("/")[2])
        console = self.path(used)
        console.leave()
        wait_for(lambda: not trap.live and trap.lines, "the one use")
        trap.lines.clear()
        good, other = grant(), grant()
        image = self.ticket("file:///dev/null")
        tunnel = str(uuid4())
        ops = ["connect", "view", "control"]
        self.gateway.put({"uuid": tunnel, "kind": "tunnel", "url": url, "timeout": 300, "ops": ops})
        time.sleep(1.1)
        refusals: list[tuple[int, str, tuple[str, ...]]] = [
            (403, expired, ()),
            (403, revoked, ()),
            (403, used, ()),
            (403, "/console/nobody-knows-this-ticket", ()),
            (403, f"/console/{image}", ()),
            (403, f"/console/{tunnel}", ()),
            (403, grant(peer="192.0.2.1"), ()),
            (403, grant(ops=["read"]), ()),
            (403, "/console/", ()),
            (403, good, ("Origin: https://evil.invalid",)),
            (403, good, ("Origin: null",)),
            (400, good, (f"Origin: {PAGE}", f"Origin: {PAGE}")),
            (400, f"{good}?token={other.rpartition('/')[2]}", ()),
            (400, f"{good}%zz", ()),
            (400, good, ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",)),
            (400, good, ("Sec-WebSocket-Protocol: binary, binary",)),
            (400, good, ("Content-Length: 5",)),
            (404, "/elsewhere", ()),
        ]
        for status, path, fields in refusals:
            self.assertEqual(self.status(path, *fields), status, (path, fields))
        self.assertEqual(self.status(good, upgrade=False), 426)
        self.assertEqual(trap.lines, [])
        self.assertEqual(self.gateway.sessions(), [])
        self.assertEqual(self.status(good), 101, "which shows that the trap works")
        wait_for(lambda: trap.lines, "reached")

    def test_signed(self) -> None:
        """Tokens that are no good, of an engine's or another key."""
        trap = self.server(vnc())
        payload: dict[str, object] = {"host": HOST, "port": str(trap.port), "ssl_target": False}
        good = self.sign(payload)
        fields = json.loads(b64decode(good))
        late = self.sign(payload, seconds=0)
        time.sleep(1.1)

        def changed(**change: str) -> str:
            return b64encode(json.dumps({**fields, **change}).encode()).decode()

        whole = "".join(fields[name] for name in fields["signedFields"].split(","))
        far = quote(json.dumps({**payload, "port": str(trap.port)}), safe="")
        for token in (
            late,
            changed(data=far.replace("127", "128")),
            changed(validTo="20991231235959"),
            changed(salt=whole, signedFields="salt", data=far, validTo="20991231235959"),
            changed(x=whole, signedFields="salt,x", data=far, validTo="20991231235959"),
            changed(salt=fields["salt"] + fields["validFrom"], validFrom=""),
            changed(v2_signature=b64encode(bytes(256)).decode()),
            changed(signedFields=fields["signedFields"].replace(",", " , ")),
            good[:-9],
            "eyJhbGciOiJub25lIn0.e30.",
        ):
            path = "/" + quote(token, safe="")
            self.assertIn(self.status(path), (400, 403), token[:60])
            offer = f"Sec-WebSocket-Protocol: binary, {self.item(token)}"
            self.assertEqual(self.path("/console/", offer, f"Origin: {PAGE}").end()[0] // 10, 440)
        targets: tuple[dict[str, object], ...] = (
            {"host": HOST, "port": "0", "ssl_target": False},
            {**payload, "path": "/x", "token": "y"},
            {**payload, "host": f"{HOST}/"},
            {**payload, "host": ""},
        )
        for target in targets:
            self.assertEqual(self.status("/" + quote(self.sign(target), safe="")), 403, target)
        self.assertEqual(trap.lines, [])
        self.assertEqual(self.status("/" + quote(good, safe="")), 101)

    def test_targets(self) -> None:
        """What the rules deny, in every disguise, installed and signed; and our own ports."""
        trap = self.server(address="127.0.0.66")
        for host in ("127.0.0.66", "[::ffff:127.0.0.66]"):
            for scheme in ("vnc", "vnc+tls", "serial", "serial+tls", "tcp", "tls"):
                self.refused(403, f"/console/{self.grant(f'{scheme}://{host}:{trap.port}')}")
            console = self.open(f"spice://{host}:{trap.port}")
            console.send(spice_server.link())
            self.assertEqual(console.end()[0], 4403)
        for host in ("127.0.0.66", "::ffff:127.0.0.66"):
            for secure in (False, True):
                token = self.sign({"host": host, "port": str(trap.port), "ssl_target": secure})
                self.assertEqual(self.status("/" + quote(token, safe="")), 403)
        self.assertEqual(trap.lines, [])
        for port in (self.consoles, self.gateway.port, self.gateway.control_port, self.gateway.metrics_port):
            for host in (HOST, "localhost", "[::ffff:127.0.0.1]"):
                self.refused(403, f"/console/{self.grant(f'tcp://{host}:{port}')}")
        for url in ("tcp://169.254.169.254:80", "vnc://[fd00:ec2::254]:80", "tcp://0.0.0.0:1"):
            self.refused(403, f"/console/{self.grant(url)}")

    def test_channels(self) -> None:
        """SPICE: what joins nothing reaches nothing, nor does who may only look and wants to type."""
        server = self.server(spice())
        ticket = self.grant(server.url("spice"), ops=["view"])
        main = self.path(f"/console/{ticket}")
        main.send(spice_server.link())
        main.read(4)
        self.assertEqual(len(server.lines), 1)
        for hello in (
            spice_server.link(0x11223344, 3),  # not told yet
            spice_server.link(1, 2),
            spice_server.link(0, 2),
            spice_server.link(0, 9),
        ):
            console = self.path(f"/console/{ticket}")
            console.send(hello)
            self.assertEqual(console.end()[0], 4403)
        self.assertEqual(len(server.lines), 1)


class DrainTests(_Case):
    """A gateway that stops."""

    sections: ClassVar[Sections] = {"gateway": {"drain_timeout": "10s"}}

    def _enters(self, path: str) -> bool:
        try:
            Console(self.consoles, self.gateway.ca, path).line.close()
        except (OSError, Refused):
            return False
        return True

    def test_drain(self) -> None:
        """It begins nothing new, and tells those that are up when it ends them."""
        server = self.server()
        ticket = self.grant(server.url("tcp"))
        console = self.path(f"/console/{ticket}")
        os.kill(self.gateway.pid, signal.SIGTERM)
        wait_for(lambda: not self._enters(f"/console/{ticket}"), "nobody gets in")
        before = len(server.lines)
        self.assertFalse(self._enters(f"/console/{ticket}"))
        self.assertEqual(len(server.lines), before)
        self.assert_alive(console)
        self.assertEqual(console.end(), (4503, "The gateway is being restarted"))
        console.line.close()
        process = self.gateway._process
        assert process is not None
        # Another signal would end it in the middle of its end.
        self.assertEqual(process.wait(DEADLINE), 0)


class SubprotocolTests(_Case):
    """What a browser offers, and what it gets."""

    def answered(self, *offer: str) -> tuple[Console, str | None]:
        fields = [f"Sec-WebSocket-Protocol: {it}" for it in offer]
        console = self.path(f"/console/{self.grant(self.server().url('tcp'))}", *fields)
        names = [
            it for it in console.head.lower().split(b"\r\n") if it.startswith(b"sec-websocket-protocol:")
        ]
        self.assertLess(len(names), 2)
        return console, names[0].partition(b": ")[2].decode() if names else None

    def test_binary(self) -> None:
        """None, one, and one among unknown ones: bytes pass in binary frames, every one of them."""
        for offer, wanted in (
            ((), None),
            (("binary",), "binary"),
            (("unknown, binary",), "binary"),
            (("unknown", "binary, base64"), "binary"),
            (("unknown",), None),
        ):
            console, got = self.answered(*offer)
            self.assertEqual(got, wanted, offer)
            console.send(EVERYTHING)
            self.assertEqual(console.read(len(EVERYTHING)), EVERYTHING)
            self.assertEqual(console.texts, "")
            self.assertNotIn(b"sec-websocket-extensions", console.head.lower())
            console.leave()

    def test_base64(self) -> None:
        """The old way: base64 in frames of text both ways, fragments and all."""
        console, got = self.answered("base64")
        self.assertEqual(got, "base64")
        text = b64encode(EVERYTHING)
        console.line.sendall(frame(1, text[:4000]) + frame(1, text[4000:8000], final=False))
        console.line.sendall(frame(9, b"between") + frame(0, text[8000:9000], final=False))
        console.line.sendall(frame(0, text[9000:]))
        heard = bytearray()
        while len(heard) < len(EVERYTHING):
            self.assertTrue(console._more(), console.closed)
            # Each frame is whole base64; only the last of it may be padded.
            heard[:] = b"".join(b64decode(it + "=" * (-len(it) % 4)) for it in console.texts.split("=") if it)
        self.assertEqual(bytes(heard), EVERYTHING)
        self.assertEqual(console.pongs, [b"between"])
        console.send(b"binary")
        self.assertEqual(console.end()[0], 1003)


class SecretTests(_Case):
    """W2, W8: what is typed, shown, or opens a console is written nowhere, at the most talkative."""

    form: ClassVar[str] = "json"
    sections: ClassVar[Sections] = {"log": {"format": "json", "level": "debug", "audit": "audit.log"}}

    def setUp(self) -> None:
        super().setUp()
        self.planted: dict[str, str] = {}

    def secret(self, where: str) -> str:
        made = f"Canary{uuid4().hex}Q"
        self.planted[made] = where
        return made

    def planted_grant(self, url: str, **more: Any) -> str:
        ticket = self.grant(url, **more)
        self.planted[ticket] = f"ticket for {url.partition(':')[0]}"
        return ticket

    def hears(self, line: Line, text: str) -> bool:
        wait_for(lambda: text.encode() in line.heard, "typed")
        return True

    def talk(self, console: Console, server: Server) -> None:
        """Typed and shown; then a mistake with a secret in it."""
        wait_for(lambda: server.lines, "reached")
        line = server.lines[0]
        for _ in range(3):
            shown, typed = self.secret("screen"), self.secret("keystrokes")
            line.say(shown.encode())
            console.until(shown.encode())
            console.send(typed.encode())
            self.assertTrue(self.hears(line, typed))
        for mistake in (
            frame(1, self.secret("text").encode()),
            frame(8, b"\x0b\xb8" + self.secret("reason").encode()),
            frame(3, self.secret("opcode").encode()),
            frame(9, self.secret("ping").encode())
            + frame(8, b"\x03\xe8\xff" + self.secret("UTF-8").encode()),
        ):
            other = self.path(f"/console/{self.planted_grant(server.url('serial'))}")
            with contextlib.suppress(OSError):
                other.line.sendall(mistake)
                other.end()
        with contextlib.suppress(OSError):
            console.leave()

    def test_nothing_leaks(self) -> None:
        """Neither log, trail, metrics nor lists hold any of it."""
        lines = self.server(quiet)
        self.talk(self.path(f"/console/{self.planted_grant(lines.url('serial'))}"), lines)
        lines = self.server(quiet)
        self.talk(self.path(f"/websockify?token={self.planted_grant(lines.url('tcp'))}"), lines)
        lines = self.server(quiet)
        item = self.item(self.planted_grant(lines.url("tcp")))
        self.planted[item] = "subprotocol"
        self.talk(self.path("/console/", f"Sec-WebSocket-Protocol: binary, {item}", f"Origin: {PAGE}"), lines)
        lines = self.server(quiet)
        cookie = self.planted_grant(lines.url("tcp"))
        self.talk(self.path("/console/", f"Cookie: __Host-gwc={cookie}", f"Origin: {PAGE}"), lines)
        # VNC with a password, whose desktop and errors have names; its own words about a failure.
        name = self.secret("desktop")
        screen = self.server(vnc(offers=b"\2", name=name.encode()))
        password = self.secret("password")
        self.assert_desktop(self.path(f"/console/{self.planted_grant(screen.url('vnc'), secret=password)}"))
        for text in (b"\0" + (50).to_bytes(4, "big"), VERSION[:4]):
            angry = self.server(says(VERSION, text + self.secret("a server's words").encode() * 3))
            with contextlib.suppress(Refused):
                self.path(f"/console/{self.planted_grant(angry.url('vnc'), secret='x')}").end()
        spicy = self.secret("SPICE password")
        other = self.server(spice(spicy, after=self.secret("SPICE screen").encode()))
        console = self.path(f"/console/{self.planted_grant(other.url('spice'), secret=spicy)}")
        peer = spice_server.Client("typed " + self.secret("SPICE typed")[:30])
        console.send(peer.hello)
        while peer.result is None:
            console.send(peer.receive(console.read(1)) or b"")
        self.assertEqual(peer.result, 0)
        # Refused: on the way, in the path, by a token.
        token = self.sign({"host": HOST, "port": str(lines.port), "ssl_target": False})
        self.planted[token] = self.planted[token[40:120]] = "signed"
        for path in ("/" + quote(token, safe=""), f"/{token}", f"/{token[:-30]}", f"/console/{token}x"):
            self.status(path)
        for field in ("Origin", "Cookie", "Authorization", "Sec-WebSocket-Protocol", "Referer", "User-Agent"):
            self.status(f"/console/{self.secret('path')}", f"{field}: {self.secret(field)}")
        self.status(f"/console/?token={self.secret('query')}&{self.secret('name')}=x")
        self.check()

    def assert_desktop(self, console: Console) -> None:
        self.enter(console)
        console.until(b"Canary")

    def check(self) -> None:
        control, plain = self.gateway.control, self.gateway._plain
        places = {
            path: control("GET", path).body for path in ("/status", "/sessions/", "/tickets/?limit=1000")
        }
        places["/metrics"] = plain(self.gateway.metrics_port, "GET", "/metrics").body
        places["log"] = self.gateway.log_file.read_bytes()
        places["audit"] = (self.home / "audit.log").read_bytes()
        self.assertGreater(len(self.planted), 60)
        self.assertIn(b"session.open", places["audit"])
        leaks = set()
        for secret, where in self.planted.items():
            whole = secret.encode()
            spellings = {
                whole,
                whole.lower(),
                whole[:24],
                whole[-24:],
                whole.hex().encode(),
                b64encode(whole)[:24],
            }
            leaks |= {(where, place) for place, text in places.items() for part in spellings if part in text}
        self.assertEqual(leaks, set())
        self.assertNotIn(b"Traceback", places["log"])


class TextSecretTests(SecretTests):
    """The same in lines of text."""

    sections: ClassVar[Sections] = {"log": {"format": "text", "level": "debug", "audit": "audit.log"}}
