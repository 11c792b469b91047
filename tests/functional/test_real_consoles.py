"""Consoles through a running gateway: real QEMU behind it, a plain websocket in front."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from struct import pack
from typing import ClassVar
from urllib.parse import quote

from tests.functional.case import PYTEST_ONLY
from tests.functional.console_case import PAGE, VERSION, ConsoleCase
from tests.functional.console_client import Console, Refused
from tests.functional.console_servers import Server, echo
from tests.functional.hypervisor import PASSWORD, Qemu
from tests.functional.processes import HOST, best_of, free_port, wait_for
from tests.wire import spice_server

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)


class VncTests(ConsoleCase):
    """VNC."""

    def test_pass_through(self) -> None:
        """Without a password the browser speaks with the console itself."""
        qemu = self.machine().vnc()
        qemu.start()
        console = self.open(f"vnc://{HOST}:{qemu.vnc_port}")
        self.assertIn(b"sec-websocket-protocol: binary", console.head.lower())
        self.assert_screen(console)
        console.send(pack(">BBHHHH", 3, 0, 0, 0, 16, 16))
        self.assertEqual(console.read(2), b"\0\0")
        [session] = self.gateway.sessions()
        self.assertEqual((session["kind"], session["op"]), ("console", "control"))
        self.assertGreater(session["bytes_out"], 100)
        console.leave()
        wait_for(lambda: not qemu.vnc_clients() and not self.gateway.sessions(), "all is closed")

    def test_password(self) -> None:
        """The password stays with us: the browser is asked for nothing; a wrong one is a plain refusal."""
        qemu = self.machine().vnc(password=PASSWORD)
        qemu.start()
        url = f"vnc://{HOST}:{qemu.vnc_port}"
        self.assert_screen(self.open(url, secret=PASSWORD))
        wrong = self.grant(url, secret="wrong", uses=1)
        for _ in range(2):
            # The use was given back.
            self.assertIn("refuses the password", self.refused(502, f"/console/{wrong}"))

    def test_asked(self) -> None:
        """Inside of TLS, and for who only looks, the user may be asked for it through us."""
        qemu = self.machine().vnc(password=PASSWORD, tls=True, verify_peer=True)
        qemu.start()
        console = self.open(f"vnc+tls://{HOST}:{qemu.vnc_port}")
        self.assertEqual(console.read(12), VERSION)
        console.send(VERSION)
        self.assertEqual(console.read(2), b"\1\2")
        console.send(b"\2")
        self.assertEqual(len(console.read(16)), 16)
        console.send(bytes(16))
        self.assertEqual(console.read(4), bytes([0, 0, 0, 1]))
        code, reason = console.end()
        self.assertEqual(code, 4502)
        self.assertIn("refuses the password", reason)

    def test_certificates(self) -> None:
        """VeNCrypt with a password and a certificate of ours; without a password; never with a stranger."""
        qemu = self.machine().vnc(password=PASSWORD, tls=True, verify_peer=True)
        qemu.start()
        url = f"vnc+tls://{HOST}:{qemu.vnc_port}"
        self.assert_screen(self.open(url, secret=PASSWORD))
        self.refused(502, f"/console/{self.grant(url + '?tls-name=other.invalid', secret=PASSWORD)}")
        # What demands TLS is not to be had without.
        self.refused(502, f"/console/{self.grant(f'vnc://{HOST}:{qemu.vnc_port}', secret=PASSWORD)}")
        plain = self.machine().vnc(tls=True)
        plain.start()
        self.assert_screen(self.open(f"vnc+tls://{HOST}:{plain.vnc_port}"))
        stranger = self.machine(known=False).vnc(tls=True)
        stranger.start()
        self.refused(502, f"/console/{self.grant(f'vnc+tls://{HOST}:{stranger.vnc_port}')}")
        wait_for(lambda: not stranger.vnc_clients(), "nobody is connected")

    def test_view_only(self) -> None:
        """Who may only look sees the screen, and cannot type."""
        qemu = self.machine().vnc()
        qemu.start()
        before = qemu.wait_for_screen()
        url = f"vnc://{HOST}:{qemu.vnc_port}"
        viewer, user = self.open(url, ops=["view"]), self.open(url)
        for console in (viewer, user):
            self.assert_screen(console)
        key = b"".join(pack(">BBxxI", 4, down, 0x61) for down in (1, 0))
        viewer.send(key)
        viewer.send(pack(">BBHHHH", 3, 0, 0, 0, 16, 16))
        self.assertEqual(viewer.read(2), b"\0\0")
        time.sleep(0.5)
        self.assertEqual(qemu.screen(), before)
        user.send(key)
        wait_for(lambda: qemu.screen() != before, "what was typed")

    def test_vanishes(self) -> None:
        """When the machine dies the page learns that the console has ended; a new one is refused."""
        qemu = self.machine().vnc()
        qemu.start()
        url = f"vnc://{HOST}:{qemu.vnc_port}"
        console = self.open(url)
        self.assert_screen(console)
        qemu.vanish()
        self.assertEqual(console.end(), (1000, "The console has ended"))
        self.refused(502, f"/console/{self.grant(url)}")
        wait_for(lambda: not self.gateway.sessions(), "no session")

    def test_engine(self) -> None:
        """An engine's signed ticket is the whole path; it is good for one console."""
        qemu = self.machine().vnc()
        qemu.start()
        token = self.sign({"host": HOST, "port": str(qemu.vnc_port), "ssl_target": False})
        path = "/" + quote(token, safe="")
        console = self.path(path, "Sec-WebSocket-Protocol: binary", f"Origin: {PAGE}")
        self.assert_screen(console)
        self.refused(403, path)
        self.assertEqual(len(qemu.vnc_clients()), 1)
        told = 'gateway_tokens_total{listener="consoles",reason="",result="accepted"}'
        self.assertIn(told, self.gateway._plain(self.gateway.metrics_port, "GET", "/metrics").body.decode())


class _LineCase(ConsoleCase):
    """A machine with a serial line."""

    def machine_with_line(self) -> tuple[Qemu, str]:
        qemu = self.machine().serial_unix()
        qemu.start()
        return qemu, f"serial+unix://{qemu.serial}"


class SerialTests(_LineCase):
    """Serial lines, and what holds for every kind of console."""

    def test_echo(self) -> None:
        """What is typed comes back; who may only look types nothing."""
        qemu, url = self.machine_with_line()
        qemu.wait_for_screen()
        viewer = self.open(url, ops=["view"])
        viewer.send(b"nothing\n")
        viewer.leave()
        console = self.open(url)
        console.send(b"echo\n")
        self.assertNotIn(b"nothing", console.until(b"echo\n"))
        console.leave()

    def test_revoked(self) -> None:
        """Revocation ends the console within 50 ms, with its reason."""
        _, url = self.machine_with_line()

        def revoked() -> float:
            ticket = self.grant(url)
            console = self.path(f"/console/{ticket}")
            begun = time.monotonic()
            self.assertEqual(self.gateway.delete(ticket).status, 204)
            code, reason = console.end()
            took = time.monotonic() - begun
            self.assertEqual(code, 4403)
            self.assertIn("revoked", reason)
            self.assertEqual(self.gateway.sessions(), [])
            self.refused(403, f"/console/{ticket}")
            return took

        best_of(revoked, 0.05)

    def test_expiry(self) -> None:
        """A console ends with its ticket, which a renewal extends while it runs, and not afterwards."""
        qemu, url = self.machine_with_line()
        qemu.wait_for_screen()
        ticket = self.grant(url, timeout=10)
        granted = time.monotonic()
        console = self.path(f"/console/{ticket}")
        self.assertEqual(self.gateway.renew(ticket, 300).status, 200)
        time.sleep(max(0.0, granted + 10.5 - time.monotonic()))
        console.send(b"still\n")
        console.until(b"still\n")
        self.assertEqual(self.gateway.renew(ticket, 1).status, 200)
        self.assertEqual(console.end(), (4401, "Your access to this console has expired"))
        self.assertEqual(self.gateway.sessions(), [])
        self.assertEqual(self.gateway.renew(ticket, 10).status, 404)
        self.refused(403, f"/console/{ticket}")

    def test_killed(self) -> None:
        """An operator ends one session; it says so."""
        _, url = self.machine_with_line()
        console = self.open(url)
        [session] = self.gateway.sessions()
        self.assertEqual(self.gateway.control("DELETE", f"/sessions/{session['id']}").status, 204)
        code, reason = console.end()
        self.assertEqual(code, 4403)
        self.assertIn("administrator", reason)

    def test_once(self) -> None:
        """A one-time ticket opens one console."""
        _, url = self.machine_with_line()
        ticket = self.grant(url, uses=1)
        console = self.path(f"/console/{ticket}")
        self.refused(403, f"/console/{ticket}")
        console.leave()
        self.refused(403, f"/console/{ticket}")

    def test_refusals(self) -> None:
        """What is refused never reaches a target, and says why in words."""
        listener, url = self.trap()
        ticket = self.grant(url)
        for fields in (["Origin: https://evil.invalid"], ["Origin: null"]):
            body = self.refused(403, f"/console/{ticket}", *fields)
            self.assertIn("origin", body)
        self.refused(403, "/console/unknown-ticket-of-nobody")
        self.refused(403, f"/console/{self.ticket('file:///dev/null')}")
        self.refused(404, "/elsewhere")
        with self.assertRaises(Refused) as raised:
            Console(self.consoles, self.gateway.ca, f"/console/{ticket}", upgrade=False)
        self.assertEqual(raised.exception.status, 426)
        self.assertIn("websockets", raised.exception.body)
        self.assert_untouched(listener)

    def test_told(self) -> None:
        """Who offers the ticket as a subprotocol gets a refusal that its page can see."""
        item = urlsafe_b64encode(b"unknown-ticket-of-nobody").decode().rstrip("=")
        offer = f"Sec-WebSocket-Protocol: binary, ticket.{item}"
        console = self.path("/console/", offer, f"Origin: {PAGE}")
        self.assertNotIn(item.encode(), console.head)
        self.assertEqual(console.end()[0], 4403)
        self.refused(403, "/console/", offer, "Origin: https://evil.invalid")


class ReloadTests(_LineCase):
    """SIGHUP."""

    def test_reload(self) -> None:
        """Other origins and another authority after a reload; a console that is up stays."""
        qemu, url = self.machine_with_line()
        qemu.wait_for_screen()
        console = self.open(url)
        text = self.gateway.config_file.read_text()
        self.addCleanup(self.gateway.config_file.write_text, text)
        other = "https://other.invalid"
        self.gateway.config_file.write_text(text.replace(PAGE, other))
        before = len(self.gateway.log())
        os.kill(self.gateway.pid, signal.SIGHUP)
        wait_for(lambda: "reloaded" in self.gateway.log()[before:], "reloaded")
        console.send(b"still\n")
        console.until(b"still\n")
        listener, trap = self.trap()
        ticket = self.grant(trap)
        self.refused(403, f"/console/{ticket}", f"Origin: {PAGE}")
        self.assert_untouched(listener)
        for wrong in ("origins = nowhere", "recording_size = much"):
            self.gateway.config_file.write_text(text.replace(f"origins = {PAGE}", wrong))
            before = len(self.gateway.log())
            os.kill(self.gateway.pid, signal.SIGHUP)
            for word in ("not reloaded", f"[consoles] {wrong.split()[0]}"):
                wait_for(lambda: word in self.gateway.log()[before:], word)  # noqa: B023 (asked at once)
        console.send(b"still\n")
        console.until(b"still\n")


class IdleTests(ConsoleCase):
    """The clock of a console."""

    more: ClassVar[dict[str, str]] = {"idle_timeout": "6s"}

    def test_idle(self) -> None:
        """A console on which nothing happens ends; one that is used does not."""
        qemu = self.machine().serial_tcp()
        qemu.start()
        qemu.wait_for_screen()
        console = self.open(f"serial://{HOST}:{qemu.serial}")
        for _ in range(8):
            console.send(b"x\n")
            console.until(b"x\n")
            time.sleep(0.9)
        code, reason = console.end()
        self.assertEqual(code, 4408)
        self.assertIn("Nothing happened", reason)


class SpiceTests(ConsoleCase):
    """SPICE."""

    def link(self, console: Console, client: spice_server.Client) -> None:
        console.send(client.hello)
        while client.result is None or not client.heard:
            if client.error:
                break
            console.send(client.receive(console.read(1)) or b"")

    def test_password(self) -> None:
        """The password stays with us, on every channel; others join by the session's id and the ticket."""
        qemu = self.machine().spice(password=PASSWORD, tls=True)
        qemu.start()
        for port in (f"{qemu.spice_port}", f"{qemu.spice_port}?tls-port={qemu.spice_tls_port}"):
            ticket = self.grant(f"spice://{HOST}:{port}", secret=PASSWORD, uses=1)
            main = self.path(f"/console/{ticket}")
            client = spice_server.Client("whatever the page types")
            self.link(main, client)
            self.assertEqual((client.error, client.result), (0, 0))
            found = client.heard + main.read(32)
            connection = spice_server.take(found, 6 if client.common & 8 else 18)
            inputs = self.path(f"/console/{ticket}")
            other = spice_server.Client("x", hello=spice_server.link(connection, 3))
            self.link(inputs, other)
            self.assertEqual(other.result, 0)
            self.assertEqual(len(self.gateway.sessions()), 1)
            wait_for(lambda: len(qemu.spice_channels()) == 2, "two channels")
            stray = self.path(f"/console/{ticket}")
            stray.send(spice_server.link(connection + 1, 3))
            self.assertEqual(stray.end()[0], 4403)
            self.gateway.delete(ticket)
            for console in (main, inputs):
                self.assertEqual(console.end()[0], 4403)
            wait_for(lambda: not qemu.spice_channels(), "no channel")

    def test_engine(self) -> None:
        """An engine's ticket names no protocol: a browser that speaks first means SPICE, and TLS at once."""
        qemu = self.machine().spice(tls=True)
        qemu.start()
        for port, secure in ((qemu.spice_tls_port, True), (qemu.spice_port, False)):
            token = self.sign({"host": HOST, "port": port, "ssl_target": secure})
            path = "/" + quote(token, safe="")
            main = self.path(path)
            client = spice_server.Client()
            self.link(main, client)
            found = client.heard + main.read(32)
            connection = spice_server.take(found, 6 if client.common & 8 else 18)
            inputs = self.path(path)
            other = spice_server.Client(hello=spice_server.link(connection, 3))
            self.link(inputs, other)
            [session] = self.gateway.sessions()
            self.assertEqual(session["kind"], "console")
            main.leave()
            self.assertEqual(inputs.end(), (1000, "The console has ended"))
            self.refused(403, path)
            wait_for(lambda: not qemu.spice_channels() and not self.gateway.sessions(), "all is closed")

    def test_expiry(self) -> None:
        """When the ticket expires all channels of its console end, with the reason."""
        qemu = self.machine().spice()
        qemu.start()
        ticket = self.grant(f"spice://{HOST}:{qemu.spice_port}")
        main = self.path(f"/console/{ticket}")
        client = spice_server.Client()
        self.link(main, client)
        connection = spice_server.take(client.heard + main.read(32), 6 if client.common & 8 else 18)
        inputs = self.path(f"/console/{ticket}")
        self.link(inputs, spice_server.Client(hello=spice_server.link(connection, 3)))
        self.assertEqual(self.gateway.renew(ticket, 2).status, 200)
        for console in (main, inputs):
            self.assertEqual(console.end(), (4401, "Your access to this console has expired"))
        wait_for(lambda: not qemu.spice_channels() and not self.gateway.sessions(), "all is closed")

    def test_view_only(self) -> None:
        """Who may only look gets no channel that does more."""
        qemu = self.machine().spice()
        qemu.start()
        ticket = self.grant(f"spice://{HOST}:{qemu.spice_port}", ops=["view"])
        main = self.path(f"/console/{ticket}")
        client = spice_server.Client()
        self.link(main, client)
        connection = spice_server.take(client.heard + main.read(32), 6 if client.common & 8 else 18)
        usb = self.path(f"/console/{ticket}")
        usb.send(spice_server.link(connection, 9))
        self.assertEqual(usb.end()[0], 4403)
        self.assertEqual(len(qemu.spice_channels()), 1)

    def test_leaves_early(self) -> None:
        """A machine survives it when a browser leaves before its display has begun."""
        qemu = self.machine().spice(password=PASSWORD)
        qemu.start()
        ticket = self.grant(f"spice://{HOST}:{qemu.spice_port}", secret=PASSWORD)
        main = self.path(f"/console/{ticket}")
        client = spice_server.Client()
        self.link(main, client)
        connection = spice_server.take(client.heard + main.read(32), 6 if client.common & 8 else 18)
        for number in range(8):
            display = self.path(f"/console/{ticket}")
            other = spice_server.Client(hello=spice_server.link(connection, 2))
            display.send(other.hello)
            while number % 2 and other.result is None:
                display.send(other.receive(display.read(1)) or b"")
            if not number % 2:
                while not (said := other.receive(display.read(1))):
                    pass
                display.send(said)
            display.line.close()
        self.gateway.delete(ticket)
        wait_for(lambda: not qemu.spice_channels(), "no channel")

    def test_out_of_reach(self) -> None:
        """The use of a ticket is given back when the server is out of reach."""
        ticket = self.grant(f"spice://{HOST}:{free_port()}", uses=1)
        for _ in range(2):
            console = self.path(f"/console/{ticket}")
            console.send(spice_server.link())
            self.assertEqual(console.end()[0], 4502)
        wait_for(lambda: not self.gateway.sessions(), "no session")


class LinkTests(ConsoleCase):
    """``gatewayctl link console`` where the policy is narrow."""

    sections: ClassVar = {
        "web": {"listen": "tcp:0:interface=127.0.0.1"},
        "policy": {"allow": f"serial://{HOST}:1-65535"},
    }

    def test_foretold(self) -> None:
        """What would be refused gets no link; with the rule that is named it gets one that works."""
        server = Server(echo)
        self.addCleanup(server.close)
        self.assertEqual(self.link(server.url("serial"))[0], 0)
        url = server.url("tcp").replace(HOST, "localhost")
        code, said = self.link(url)
        rule = f"tcp://{HOST}:{server.port}"
        self.assertEqual(
            (code, self.gateway.control("GET", "/status").json()["tickets"]), (1, {"console": {"issued": 1}})
        )
        self.assertIn(rule, said)
        config = self.gateway.config_file
        before = config.read_text()
        self.addCleanup(config.write_text, before)
        allow = ", ".join(re.findall("tcp://[^ ,]+", said.partition(" add ")[2]))
        config.write_text(before.replace("allow = ", f"allow = {allow}, "))
        self.assertEqual(self.gateway.control("POST", "/reload").status, 200)
        code, said = self.link(url)
        self.assertEqual(code, 0, said)
        console = self.path(f"/console/{said.strip().rpartition('#')[2]}")
        console.send(b"x")
        self.assertEqual(console.read(1), b"x")
        console.leave()

    def link(self, url: str) -> tuple[int, str]:
        """How making a link ended, and what was said."""
        where = ["--control", str(self.gateway.control_socket)]
        ran = subprocess.run(
            [sys.executable, "-m", "gateway.ctl", "link", "console", url, *where],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, check=False,
        )  # fmt: skip
        return ran.returncode, ran.stdout.decode()
