"""What runs under a ticket ends with it, and goes on when it is renewed: virsh, in the middle of things."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

from attrs import frozen

from tests.functional.case import PYTEST_ONLY
from tests.functional.libvirt_case import LibvirtCase
from tests.functional.processes import HOST, MIB, best_of, wait_for
from tests.functional.terminal import Terminal

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

#: Seconds from a revocation to the end of every connection; the best of a few attempts counts, for the
#: machine has other things to do.
PROMPT, ATTEMPTS = 0.05, 6

_REGISTER = "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY"


class Wire:
    """What the connection of one client goes through; it sees when the far end lets go.

    :param pause: seconds after each piece for the client, so that there is always more of it to come.
    :ivar ended: when it did, on the monotonic clock; 0 before.
    :ivar sent: bytes of the client; *received* those that it has taken.
    """

    def __init__(self, port: int, pause: float) -> None:
        self._pause = pause
        self.ended = 0.0
        self.sent = 0
        self.received = 0
        self._far_port = port
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """Wait for the end of it; the client has ended."""
        _shut(self._listener)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        try:
            near, _ = self._listener.accept()
        except OSError:
            return
        with near, socket.create_connection((HOST, self._far_port)) as far:

            def sent(data: bytes) -> None:
                far.sendall(data)
                self.sent += len(data)

            threads = [
                threading.Thread(target=_carry, args=(near, far, sent)),
                threading.Thread(target=self._watch, args=(far,)),
            ]
            for thread in threads:
                thread.start()
            _carry(far, near, self._got(near))
            for thread in threads:
                thread.join()

    def _got(self, near: socket.socket) -> Callable[[bytes], None]:
        def got(data: bytes) -> None:
            near.sendall(data)
            self.received += len(data)
            time.sleep(self._pause)

        return got

    def _watch(self, far: socket.socket) -> None:
        """See the end even while the client does not take what came before it."""
        watch = select.poll()
        watch.register(far, select.POLLRDHUP)
        watch.poll()
        self.ended = time.monotonic()


def _carry(source: socket.socket, sink: socket.socket, write: Callable[[bytes], object]) -> None:
    try:
        while data := source.recv(65536):
            write(data)
    except OSError:
        pass
    _shut(source)
    _shut(sink)


def _shut(side: socket.socket) -> None:
    try:
        side.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


@frozen
class Running:
    """virsh, and the wire it hangs on."""

    terminal: Terminal
    wire: Wire


class EndTest(LibvirtCase):
    """A console, an upload, a download and a wait for events, all under one ticket.

    :cvar quiet: connections to the daemon when nobody does anything: that which keeps the test driver.
    """

    pool: ClassVar[Path]
    quiet: ClassVar[int] = 1

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.pool = cls.daemon.pool("p1")
        for name in ("v1", "v2"):
            cls.daemon.virsh("vol-create-as", "p1", name, "1G", "--allocation", "0")
        # Those who have just made the volumes may still be going.
        wait_for(lambda: cls.upstream() == cls.quiet, "nobody is at the daemon")

    @contextmanager
    def virsh_at(self, token: str, *arguments: str, pause: float = 0.0) -> Iterator[Running]:
        wire = Wire(self.port, pause)
        uri = self.uri(token=token, port=wire.port)
        terminal = Terminal(self.command(uri, *arguments), self.environment)
        try:
            yield Running(terminal, wire)
        finally:
            terminal.close()
            wire.close()

    @contextmanager
    def all_four(self, token: str) -> Iterator[Sequence[Running]]:
        """All of them in the middle of their work."""
        with ExitStack() as stack:
            console = stack.enter_context(self.virsh_at(token, "console", "tiny"))
            events = stack.enter_context(self.virsh_at(token, "event", "--all", "--loop"))
            upload = stack.enter_context(
                self.virsh_at(token, "vol-upload", "v1", self.tap(stack), "--pool", "p1")
            )
            download = stack.enter_context(
                self.virsh_at(token, "vol-download", "v2", "/dev/null", "--pool", "p1", pause=0.02)
            )
            wait_for(lambda: ("DOMAIN_OPEN_CONSOLE", "ok") in self.calls(token), "the console")
            wait_for(lambda: self.calls(token).count((_REGISTER, "ok")) > 20, "all events")
            wait_for(lambda: upload.wire.sent > MIB, "a part of the upload")
            wait_for(lambda: download.wire.received > MIB, "a part of the download")
            self.work(console, events, upload, download)
            yield console, events, upload, download

    def work(self, console: Running, events: Running, upload: Running, download: Running) -> None:
        """See that all of them do."""
        sent, received = upload.wire.sent, download.wire.received
        console.terminal.shown = events.terminal.shown = b""
        self.direct("reset", "tiny")
        console.terminal.expect("SeaBIOS")
        events.terminal.expect("event 'reboot' for domain 'tiny'")
        wait_for(lambda: upload.wire.sent > sent + 65536, "more of the upload")
        wait_for(lambda: download.wire.received > received + 65536, "more of the download")

    def tap(self, stack: ExitStack) -> str:
        """A file that does not end for a long time: a pipe."""
        pipe = self.home / uuid4().hex
        os.mkfifo(pipe)
        words = f"while :; do head -c 65536 /dev/zero; sleep 0.02; done > {pipe}"
        feed = subprocess.Popen(["sh", "-c", words], stderr=subprocess.DEVNULL)
        stack.callback(feed.wait)
        stack.callback(feed.kill)
        return str(pipe)

    @classmethod
    def upstream(cls) -> int:
        """Connections to the daemon: one of each client, and one of each stream."""
        lines = Path("/proc/net/unix").read_text().splitlines()
        return sum(line.endswith(f" {cls.daemon.socket}") and line.split()[5] == "03" for line in lines)

    def ends(self, running: Sequence[Running], since: float, word: str) -> float:
        """See that all of them are cut off, and what they had over there; return after how many seconds."""
        wait_for(lambda: all(it.wire.ended for it in running), "the end of all connections")
        took = max(it.wire.ended for it in running) - since
        wait_for(lambda: self.upstream() == self.quiet, "the end of all connections to the hypervisor")
        console, events, upload, download = (it.terminal for it in running)
        for each in (console, upload):
            each.expect(f"operation aborted: the gateway has ended this session: {word}")
        events.expect("error: Disconnected from")
        # What it had not taken yet is lost with the connection, and our word with it.
        download.expect("error: ")
        self.assertEqual([it.end() for it in (console, events, upload, download)], [1, 1, 1, 1])
        return took

    def test_revocation(self) -> None:
        """Within 50 ms of the revocation all of it is cut off, with a word why; the console is free again."""
        took = []
        for _ in range(ATTEMPTS):
            token = self.grant()
            with self.all_four(token) as running:
                wait_for(lambda: self.upstream() == self.quiet + 7, "four connections, and three for streams")
                ticket = self.gateway.get(token).json()["ticket"]
                since = time.monotonic()
                self.gateway.delete(token)
                took.append(self.ends(running, since, "revoked"))
            closed = [it["reason"] for it in self.trail("session.close") if it["ticket"] == ticket]
            self.assertEqual(closed, ["revoked"] * 4)
            if took[-1] < PROMPT:
                break
        self.assertLess(min(took), PROMPT, took)
        token = self.grant()
        with self.virsh_at(token, "console", "tiny") as again:
            wait_for(lambda: ("DOMAIN_OPEN_CONSOLE", "ok") in self.calls(token), "the console")
            self.direct("reset", "tiny")
            again.terminal.expect("SeaBIOS")
        wait_for(lambda: self.upstream() == self.quiet, "the end of all connections to the hypervisor")

    def test_expiry(self) -> None:
        """Who is renewed goes on beyond the first expiry; all of it ends at the last, in that very moment."""
        best_of(self.expire, 0.1, 3)

    def expire(self) -> float:
        """How late the first of them ends, in seconds by the gateway's own clock."""
        token = self.grant()
        with self.all_four(token) as running:
            self.gateway.renew(token, 4)
            time.sleep(2.2)
            self.gateway.renew(token, 60)
            time.sleep(2.2)
            self.work(*running)
            since = time.monotonic()
            self.gateway.renew(token, 2)
            now = self.gateway.get(token).json()
            took = self.ends(running, since, "expired")
        self.assertGreater(took, 1.9)
        end = datetime.fromisoformat(now["expires_at"])
        closed = [it for it in self.trail("session.close") if it["ticket"] == now["ticket"]]
        self.assertEqual([it["reason"] for it in closed], ["expired"] * 4)
        late = min((datetime.fromisoformat(it["time"]) - end).total_seconds() for it in closed)
        self.assertGreater(late, -0.01)
        return late

    def test_killed(self) -> None:
        """An operator ends one session by its number, and no other."""
        token = self.grant()
        with self.all_four(token) as (console, events, upload, download):

            def uploads() -> list[str]:
                alive = self.gateway.sessions()
                return [it["id"] for it in alive if it["target"] == "qemu" and it["bytes_in"] > MIB]

            # What was sent may have to wait before the gateway reads it.
            wait_for(uploads, "a part of the upload is counted")
            [number] = uploads()
            self.assertEqual(self.gateway.control("DELETE", f"/sessions/{number}").status, 204)
            wait_for(lambda: upload.wire.ended, "the end of the upload")
            upload.terminal.expect("the gateway has ended this session: killed")
            self.assertEqual([it.wire.ended for it in (console, events, download)], [0, 0, 0])
        wait_for(lambda: self.upstream() == self.quiet, "the end of all connections to the hypervisor")
