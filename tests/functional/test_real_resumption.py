"""TLS sessions that are resumed both ways, seen by OpenSSL's own tools, curl and the real image daemon."""

from __future__ import annotations

import os
import re
import selectors
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from gateway.core import dev_pki
from tests.functional.case import PYTEST_ONLY, GatewayCase
from tests.functional.commands import curl, need, run
from tests.functional.listening import Listening
from tests.functional.peers import DEADLINE, HOST, MIB, Daemon, Peer, Sections, free_port

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

NOW = datetime.now(UTC)
_REQUEST = "GET /info/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


class ServerTests(GatewayCase):
    """Clients that come again to the image port."""

    def visit(self, *options: str | Path) -> str:
        """What s_client says of a connection with one request."""
        request = self.home / "request"
        request.write_text(_REQUEST)
        command = ["s_client", "-connect", f"{HOST}:{self.gateway.port}", "-servername", "localhost"]
        command += ["-CAfile", str(self.gateway.ca), "-verify_return_error", "-ign_eof", *map(str, options)]
        with request.open("rb") as stdin:
            answer = run([need("openssl", "apt install openssl"), *command], stdin)
        self.assertIn(b"HTTP/1.1 200", answer)
        return answer.decode("ascii", "replace")

    def test_openssl(self) -> None:
        """``openssl s_client`` resumes with both versions, until a reload; early data is never taken."""
        for option, version in (("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")):
            session = self.home / f"session{option}"
            self.assertIn(f"New, {version}", self.visit(option, "-sess_out", session))
            self.assertIn(f"Reused, {version}", self.visit(option, "-sess_in", session))
            text = run(["openssl", "sess_id", "-in", str(session), "-text", "-noout"]).decode("ascii")
            self.assertNotRegex(text, r"Max Early Data: [1-9]")
            # The number of a session, no ticket that holds it: 32 bytes.
            self.assertNotRegex(text, r"0020 - ")
            self.assertEqual(self.gateway.control("POST", "/reload").status, 200)
            self.assertIn(f"New, {version}", self.visit(option, "-sess_in", session))

    def test_python(self) -> None:
        """Python's ssl resumes, connection after connection."""
        context = self.gateway.context()
        session, resumed = None, []
        for _ in range(3):
            raw = socket.create_connection((HOST, self.gateway.port), DEADLINE)
            with context.wrap_socket(raw, server_hostname="localhost", session=session) as connection:
                connection.sendall(_REQUEST.encode("ascii"))
                while connection.recv(65536):
                    pass
                session = connection.session
                resumed.append(connection.session_reused)
        self.assertEqual(resumed, [False, True, True])

    def test_curl(self) -> None:
        """So does curl."""
        log = self.home / "curl.log"
        url = f"https://localhost:{self.gateway.port}/info/"
        options: list[str | Path] = [
            "--cacert",
            self.gateway.ca,
            "-H",
            "connection: close",
            "--stderr",
            log,
            "-v",
        ]
        curl(*options, url, url)
        self.assertEqual(len(re.findall(r"SSL re-?using session ID", log.read_text())), 1)


class Relay(Listening):
    """Stands before a host, and counts the bytes of its first flight, which has the certificate if any has.

    :ivar flights: of each connection.
    """

    def __init__(self, port: int) -> None:
        self.flights: list[int] = []
        self._upstream = port
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        self.flights.append(0)
        number, pieces = len(self.flights) - 1, 0
        host = socket.create_connection((HOST, self._upstream))
        with host, selectors.DefaultSelector() as ready:
            ready.register(connection, selectors.EVENT_READ)
            ready.register(host, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]  # a socket
                    if not data:
                        return
                    if key.fileobj is connection:
                        pieces += 1
                        host.sendall(data)
                    else:
                        self.flights[number] += len(data) if pieces == 1 else 0
                        connection.sendall(data)


class DaemonTests(GatewayCase):
    """The real image daemon as the host."""

    def test_resumes(self) -> None:
        """The second connection to the daemon is made without its certificate, and so is the third."""
        daemon = Daemon(self.home, (self.gateway.ca, self.gateway.certificate, self.gateway.key))
        self.addCleanup(daemon.stop)
        daemon.start()
        relay = Relay(daemon.port)
        self.addCleanup(relay.close)
        image = self.home / "images" / "resumed.raw"
        with image.open("wb") as file:
            file.truncate(64 * MIB)
        name = self.ticket(f"https://{HOST}:{relay.port}/images/resumed", size=64 * MIB)
        ticket = {"uuid": "resumed", "size": 64 * MIB, "url": image.as_uri(), "timeout": 300, "ops": ["read"]}
        daemon.put(ticket)
        for count in (1, 2, 3):
            # Each client reads the beginning of its answer only, and so keeps a connection to itself.
            client = self.begin(f"GET /images/{name}")
            client.sendall(b"\r\n")
            self.assertIn(b" 200 ", client.recv(100))
            self.assertEqual(len(relay.flights), count)
        certificate = len(self.gateway.certificate.read_bytes()) * 2 // 3
        for resumed in relay.flights[1:]:
            self.assertLess(resumed, relay.flights[0] - certificate)


class Host(Peer):
    """``openssl s_server``, which serves the files of a directory as whole answers."""

    name = "host"

    def __init__(self, directory: Path, port: int) -> None:
        super().__init__(directory)
        self.port = port

    def start(self, certificate: Path, key: Path, version: str) -> None:
        command = [need("openssl", "apt install openssl"), "s_server", "-accept", f"{HOST}:{self.port}"]
        command += ["-cert", str(certificate), "-key", str(key), version, "-HTTP", "-msg"]
        before = len(self.log()) if self.log_file.exists() else 0
        self.spawn(command, lambda: "ACCEPT" in self.log()[before:])


class HostTests(GatewayCase):
    """OpenSSL as the host, which tells what it sends."""

    sections: ClassVar[Sections] = {"images": {"local_socket": "no"}}

    def test_resumes(self) -> None:
        """A host shows its certificate once; when it cannot resume it has to, and a wrong one is refused."""
        pki = dev_pki.make(self.home / "pki")
        good = (pki.gateway, pki.gateway_key)
        wrong = dev_pki.authority(NOW).issue("x", now=NOW, addresses=[HOST]).write(self.home, "wrong")
        (self.home / "images" / "answer").write_bytes(
            b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nabcd"
        )
        for version in ("-tls1_3", "-tls1_2"):
            host = Host(self.home, free_port())
            self.addCleanup(host.stop)
            host.start(*good, version)
            path = "/images/" + self.ticket(f"https://{HOST}:{host.port}/images/answer", size=4)
            self.assertEqual(self.gateway.ask("GET", path).body, b"abcd")
            self.assertNotEqual(self.messages(host), (0, 0))
            os.truncate(host.log_file, 0)
            for _ in range(2):
                self.assertEqual(self.gateway.ask("GET", path).body, b"abcd")
            self.assertEqual(self.messages(host), (2, 0))
            for issued, status in ((wrong, 502), (wrong, 502), (good, 200), (good, 200)):
                host.kill()
                host.log_file.unlink()
                host.start(*issued, version)
                self.assertEqual(self.gateway.ask("GET", path).status, status)
                self.assertEqual(self.messages(host), (1, 1))
            host.kill()

    @staticmethod
    def messages(host: Host) -> tuple[int, int]:
        """How many times the host began a handshake, and showed a certificate."""
        log = host.log()
        return log.count(", ServerHello\n"), log.count(", Certificate\n")
