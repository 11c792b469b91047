"""What only a running gateway shows: hosts that die, revocation, lifetimes by the clock on the wall."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar
from uuid import uuid4

from tests.functional.case import PYTEST_ONLY, GatewayCase, read_head
from tests.functional.listening import Listening
from tests.functional.peers import Daemon, Sections
from tests.functional.processes import DEADLINE, HOST, MIB, best_of, free_port, wait_for

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)


def closed(connection: socket.socket) -> float:
    """Read until the peer closes; return when it did."""
    with contextlib.suppress(OSError):
        while connection.recv(65536):
            pass
    return time.monotonic()


def note_closed(connection: socket.socket, to: list[float]) -> None:
    """Append to *to* when the peer closed."""
    to.append(closed(connection))


class DripHost(Listening):
    """An image host whose downloads give 4 KiB now and then; a single piece is all that ever comes.

    :ivar size: bytes of the image.
    :ivar gone: when the gateway closed the connection of each transfer, monotonic seconds.
    """

    def __init__(self, pieces: int = 1, pause: float = 0.0) -> None:
        self._pieces, self._pause = pieces, pause
        self.size = 1 << 30 if pieces == 1 else pieces * 4096
        self.gone: list[float] = []
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        while True:
            try:
                head, _ = read_head(connection)
            except AssertionError:
                return
            if head.startswith(b"GET"):
                break
            if head.startswith(b"PUT"):
                self.gone.append(closed(connection))
                return
            body = b'{"features": ["zero", "flush"], "max_readers": 8, "max_writers": 8}\n'
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % self.size)
        with contextlib.suppress(OSError):
            for _ in range(self._pieces):
                connection.sendall(bytes(4096))
                time.sleep(self._pause)
        self.gone.append(closed(connection))


class _Case(GatewayCase):
    """Hosts of our own making."""

    def drip_host(self, pieces: int = 1, pause: float = 0.0) -> DripHost:
        host = DripHost(pieces, pause)
        self.addCleanup(host.close)
        return host

    def drip_ticket(self, host: DripHost, **more: Any) -> str:
        """Install a ticket for the image of *host*; return its id."""
        return self.ticket(f"http://{HOST}:{host.port}/images/x", size=host.size, **more)


class RestartTests(_Case):
    """The image host dies in the middle of a download."""

    SIZE = 128 * MIB

    def test_restart(self) -> None:
        """The host is killed and comes back: the client gets the whole file, and notices nothing."""
        image = self.home / "image"
        data = os.urandom(MIB) * (self.SIZE // MIB - 1) + os.urandom(MIB)
        image.write_bytes(data)
        daemon = Daemon(self.home, (self.gateway.ca, self.gateway.certificate, self.gateway.key))
        self.addCleanup(daemon.stop)
        daemon.start()
        name = str(uuid4())
        ticket = {"uuid": name, "size": self.SIZE, "timeout": 300, "ops": ["read"], "url": f"file://{image}"}
        daemon.put(ticket)
        self.gateway.put({**ticket, "url": daemon.url(name)})
        connection = self.gateway.client()
        self.addCleanup(connection.close)
        connection.request("GET", f"/images/{name}")
        response = connection.getresponse()
        digest = hashlib.sha256(response.read(8 * MIB))
        sessions = self.gateway.sessions()
        self.assertEqual([session["kind"] for session in sessions], ["image"])
        daemon.kill()
        time.sleep(0.5)
        self.assertLess(self.gateway.get(name).json()["transferred"], self.SIZE, "nothing was left to do")
        daemon.start()
        daemon.put(ticket)
        count = 8 * MIB
        while piece := response.read(MIB):
            digest.update(piece)
            count += len(piece)
        self.assertEqual(count, self.SIZE)
        self.assertEqual(digest.digest(), hashlib.sha256(data).digest())
        after = daemon.log().rpartition("Ready for requests")[2]
        self.assertIn(f"client={HOST}", after, "the rest came from elsewhere")

    def test_gone(self) -> None:
        """A host that does not even listen is a 502, at once."""
        name = self.ticket(f"http://{HOST}:{free_port()}/images/x")
        begin = time.monotonic()
        answer = self.gateway.ask("GET", f"/images/{name}")
        self.assertEqual(answer.status, 502)
        self.assertLess(time.monotonic() - begin, 5)


class RevocationTests(_Case):
    """DELETE of a ticket ends what lives under it, both ways, at once."""

    LIMIT = 0.05

    def moving(self) -> bool:
        return any(it["bytes_in"] or it["bytes_out"] for it in self.gateway.sessions())

    def revoke(self, start: Callable[[str], socket.socket]) -> None:
        """Revoke transfers that *start* began, and compare the times to the last socket closed."""
        host = self.drip_host()
        times: list[float] = []

        def revoked() -> float:
            name = self.drip_ticket(host)
            connection = start(name)
            wait_for(self.moving, "bytes")
            ended: list[float] = []
            reader = threading.Thread(target=note_closed, args=(connection, ended))
            reader.start()
            begin = time.monotonic()
            answer = self.gateway.delete(name)
            self.assertEqual(answer.status, 204)
            reader.join(DEADLINE)
            wait_for(lambda: len(host.gone) == len(times) + 1, "the host's side is closed")
            times.append(max(ended[0], host.gone[-1]) - begin)
            self.assertEqual(self.gateway.sessions(), [])
            self.assertEqual(self.gateway.get(name).status, 404)
            return times[-1]

        best_of(revoked, self.LIMIT, 10)
        page = self.gateway._plain(self.gateway.metrics_port, "GET", "/metrics").body.decode()
        self.assertRegex(page, r'gateway_revoke_seconds_count\{kind="image"\} [1-9]')
        self.assertRegex(page, r'gateway_revoke_seconds_bucket\{kind="image",le="0.05"\} [1-9]')
        print("revoked to closed, ms:", [round(it * 1000, 1) for it in times])  # noqa: T201 (what was measured)

    def test_download(self) -> None:
        """A download is cut."""

        def start(name: str) -> socket.socket:
            connection = self.begin(f"GET /images/{name}")
            connection.sendall(b"\r\n")
            head, _ = read_head(connection)
            self.assertTrue(head.startswith(b"HTTP/1.1 200"), head)
            return connection

        self.revoke(start)

    def test_upload(self) -> None:
        """So is an upload."""

        def start(name: str) -> socket.socket:
            connection = self.begin(f"PUT /images/{name}")
            connection.sendall(b"content-length: 1000000\r\n\r\n" + bytes(400_000))
            return connection

        self.revoke(start)

    def test_kill(self) -> None:
        """``DELETE /sessions/ID`` ends the one transfer; the ticket is good for another."""
        host = self.drip_host()
        name = self.drip_ticket(host)
        connection = self.begin(f"GET /images/{name}")
        connection.sendall(b"\r\n")
        read_head(connection)
        (session,) = self.gateway.sessions()
        self.assertIn(self.gateway.control("DELETE", f"/sessions/{session['id']}").status, (200, 204))
        closed(connection)
        self.assertEqual(self.gateway.sessions(), [])
        self.assertEqual(self.gateway.ask("OPTIONS", f"/images/{name}").status, 200)


class LifetimeTests(_Case):
    """Expiry and renewal, by the clock on the wall."""

    sections: ClassVar[Sections] = {"images": {"enforce_expiry": "always"}}
    forgotten: ClassVar[str]
    begun: ClassVar[float]
    #: How long the registry remembers an ended ticket, seconds.
    REMEMBERED = 60.0

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.forgotten = cls.ticket("http://127.0.0.1:1/images/x", timeout=1)
        cls.begun = time.monotonic()

    def test_renewed(self) -> None:
        """A transfer that lasts five renewals completes."""
        host = self.drip_host(pieces=50, pause=0.12)
        name = self.drip_ticket(host, timeout=4)
        connection = self.begin(f"GET /images/{name}")
        connection.sendall(b"connection: close\r\n\r\n")
        body: list[bytes] = []

        def read() -> None:
            _, rest = read_head(connection)
            body.append(rest)
            while piece := connection.recv(65536):
                body.append(piece)

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(5):
            time.sleep(1.2)
            self.assertEqual(self.gateway.renew(name, 4).status, 200)
        reader.join(DEADLINE)
        self.assertEqual(sum(map(len, body)), 50 * 4096)

    def test_cut(self) -> None:
        """Without a renewal the same transfer is cut when the ticket ends, where that is asked for."""
        host = self.drip_host(pieces=100, pause=0.12)
        name = self.drip_ticket(host, timeout=3)
        connection = self.begin(f"GET /images/{name}")
        connection.sendall(b"\r\n")
        begin = time.monotonic()
        read_head(connection)
        self.assertLess(closed(connection) - begin, 9)
        wait_for(lambda: host.gone, "the host's side is closed")

    def test_unrenewed(self) -> None:
        """A ticket nobody renews is refused at the next request, and forgotten later."""
        time.sleep(max(0.0, self.begun + 1.1 - time.monotonic()))
        self.assertEqual(self.gateway.get(self.forgotten).status, 200)
        answer = self.gateway.ask("GET", f"/images/{self.forgotten}")
        self.assertEqual(answer.status, 403)
        left = self.begun + 1 + self.REMEMBERED - time.monotonic()
        wait_for(lambda: self.gateway.get(self.forgotten).status == 404, "forgotten", left + 20)


class StartExpiryTests(_Case):
    """``enforce_expiry = start``, the default: as the original has it."""

    def test_completes(self) -> None:
        """A transfer that outlives its ticket completes, and its end renews the ticket."""
        host = self.drip_host(pieces=45, pause=0.1)
        name = self.drip_ticket(host, timeout=4)
        answer = self.gateway.ask("GET", f"/images/{name}")
        self.assertEqual((answer.status, len(answer.body)), (200, 45 * 4096))
        self.assertEqual(self.gateway.ask("OPTIONS", f"/images/{name}").status, 200)
        time.sleep(4.3)
        self.assertEqual(self.gateway.ask("OPTIONS", f"/images/{name}").status, 403)
