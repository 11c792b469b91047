"""Stock virsh where only HTTPS is open: ``gateway-connect`` and the websocket of the gateway."""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import gateway
from gateway.core import dev_pki
from gateway.wire.libvirt_message import Message, Status, Type
from gateway.wire.libvirt_schema import procedure
from tests.functional.case import PYTEST_ONLY
from tests.functional.libvirt_case import PATHS, LibvirtCase
from tests.functional.processes import DEADLINE, HOST, MIB, best_of, wait_for
from tests.functional.terminal import Terminal

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

SIZE = 64 * MIB
#: Bytes of memory that the program may take; without anything to do it has some 60 MiB.
MOST = 96 * MIB
#: As pip installs it, but of this tree.
PROGRAM = """\
#!{python}
import sys
sys.path.insert(0, {tree!r})
from gateway.ctl.connect import main
sys.exit(main())
"""


class ConnectCase(LibvirtCase):
    """Clients that get nothing but a URI; all else stands in the file of ``gateway-connect``.

    :cvar program: what they run.
    """

    program: ClassVar[Path]
    pool: ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.program = cls.home / "gateway-connect"
        tree = str(Path(gateway.__file__).parent.parent)
        cls.program.write_text(PROGRAM.format(python=sys.executable, tree=tree))
        cls.program.chmod(0o755)
        (cls.home / ".config/gateway").mkdir(parents=True)
        cls.pool = cls.daemon.pool("bulk")

    def setUp(self) -> None:
        # What the test before has left would be counted.
        self.nothing_is_left()

    def usual(self, token: str = "") -> dict[str, object]:
        """What is right, by default with a token that permits everything."""
        url = f"https://localhost:{self.gateway.port}"
        return {"url": url, "ca": self.gateway.ca, "token": token or self.grant()}

    def use(self, token: str = "") -> str:
        """Write a file with the usual; return its token."""
        usual = self.usual(token)
        self.write(default=usual)
        return str(usual["token"])

    def write(self, **sections: Mapping[str, object]) -> None:
        """Write the file."""
        lines = []
        for name, keys in sections.items():
            lines += [f"[{name}]", *(f"{key} = {value}" for key, value in keys.items())]
        (self.home / ".config/gateway/connect.conf").write_text("\n".join(lines))

    def through(self, name: str = "", target: str = "qemu") -> str:
        """The URI of a target, by the section *name*."""
        return f"{target}+ext:///{PATHS[target]}?command={self.named(name)}&target={target}"

    def named(self, name: str) -> Path:
        """The program under a name."""
        if not name:
            return self.program
        program = self.program.with_name(f"gateway-connect-{name}")
        program.symlink_to(self.program)
        return program

    def run_alone(self, name: str = "") -> subprocess.Popen[bytes]:
        """Run the program as libvirt does, without libvirt."""
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen([self.named(name)], env=self.environment, stderr=subprocess.PIPE, **pipes)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def start(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """Run virsh, which goes on."""
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = self.command(self.through(), *arguments)
        process = subprocess.Popen(command, env=self.environment, stderr=subprocess.PIPE, **pipes)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def ended(self, process: subprocess.Popen[bytes]) -> tuple[int, str]:
        """The exit code of *process*, and what it complains of."""
        _, problem = process.communicate(timeout=DEADLINE)
        return process.returncode, problem.decode()

    def volume(self, name: str) -> Path:
        """Make a volume; return its file."""
        self.direct("vol-create-as", self.pool.name, name, str(SIZE))
        return self.pool / name

    def moved(self, direction: str) -> int:
        """The bytes of the one session there is, of none before it begins."""
        return sum(int(it[direction]) for it in self.gateway.sessions())

    def stalled(self, direction: str) -> int:
        """Wait until nothing moves any more; return the bytes that did."""
        looks = [0, 1, 2]

        def stands() -> bool:
            time.sleep(0.3)
            looks[:] = [*looks[1:], self.moved(direction)]
            return looks[0] > 0 and len(set(looks)) == 1

        wait_for(stands, "nothing moves")
        return looks[0]

    def helpers(self) -> list[int]:
        """The processes of ``gateway-connect``."""
        return [
            int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if self._is_helper(path)
        ]

    def _is_helper(self, path: Path) -> bool:
        try:
            return str(self.program).encode() in path.read_bytes().split(b"\0")
        except OSError:
            return False

    def nothing_is_left(self) -> None:
        """No session, and no program."""
        wait_for(lambda: not self.helpers() and not self.gateway.sessions(), "the end of all")


def rss(pid: int) -> int:
    """Resident memory of a process, bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def connections(port: int) -> int:
    """Connections that a process has accepted on *port* of loopback."""
    place, established = f"0100007F:{port:04X}", "01"
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return sum(words[1] == place and words[3] == established for words in map(str.split, lines))


class ConnectTests(ConnectCase):
    """What passes, and how it ends."""

    def test_calls(self) -> None:
        """All is as without a gateway, and no log has the token."""
        token = self.use()
        for words in ("list", "--all"), ("dominfo", "tiny"):
            answers = self.virsh(*words, uri=self.through()), self.direct(*words)
            self.assertEqual(*(re.sub("CPU time:.*", "", it) for it in answers))
        wait_for(lambda: "/libvirt" in self.gateway.log(), "the log of a connection")
        self.assertNotIn(token, self.gateway.log())

    def test_sections(self) -> None:
        """The name of the program chooses the section, which goes before that for all."""
        self.write(default=self.usual(), lab={"token": self.grant(targets=["test"])})
        self.assertIn("test", self.virsh("list", "--all", uri=self.through("lab", "test")))
        self.assertIn("has no section [nowhere]", self.refused("list", uri=self.through("nowhere")))

    def test_refused(self) -> None:
        """It is said what is wrong: with the token, the certificate, the address, or what answers there."""
        other = self.home / "other.pem"
        other.write_bytes(dev_pki.authority(datetime.now(UTC), "another").pem)
        deaf = socket.create_server((HOST, 0))
        self.addCleanup(deaf.close)
        console = {"uuid": str(uuid4()), "kind": "console", "url": f"tcp://{HOST}:1", "timeout": 60}
        self.gateway.put({**console, "ops": ["view"]})
        here = "https://localhost"
        cases: dict[str, tuple[str, object, str]] = {
            "console": ("token", console["uuid"], "the token is no good, or it has expired"),
            "stranger": ("ca", other, "The gateway cannot prove itself (tls)"),
            "deaf": ("url", f"{here}:{deaf.getsockname()[1]}", "The gateway does not answer (connect)"),
            "libvirt": ("url", f"{here}:{self.port}", "was lost before it answered"),
            "page": ("url", f"{here}:{self.page()}", "what answers there is no gateway"),
        }
        self.write(
            **{
                name: {**self.usual(), "timeout": 3 if name == "deaf" else 20, key: value}
                for name, (key, value, _) in cases.items()
            }
        )
        running = {name: self.run_alone(name) for name in cases}
        for name, process in running.items():
            code, problem = self.ended(process)
            self.assertEqual(code, 1, name)
            self.assertRegex(problem, f"\\Agateway-connect: .*{re.escape(cases[name][2])}\n\\Z")
        self.use(token="0" * 20)
        problem = self.refused("list", uri=self.through())
        self.assertIn("gateway-connect: the token is no good, or it has expired", problem)

    def page(self) -> int:
        """A port where something else speaks HTTPS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.gateway.certificate, self.gateway.key)
        listener = context.wrap_socket(socket.create_server((HOST, 0)), server_side=True)
        listener.settimeout(DEADLINE)

        def serve() -> None:
            with listener, listener.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

        thread = threading.Thread(target=serve)
        thread.start()
        self.addCleanup(thread.join)
        port: int = listener.getsockname()[1]
        return port

    def test_volumes(self) -> None:
        """A volume comes back as it was sent, and whoever is slow makes the other side wait."""
        self.use()
        volume = self.volume("v")
        sent, back = self.home / "sent", self.home / "back"
        sent.write_bytes(os.urandom(SIZE))
        self.addCleanup(os.kill, self.daemon.pid, signal.SIGCONT)

        def up() -> float:
            upload = self.start("vol-upload", volume, sent)
            wait_for(lambda: self.moved("bytes_in"), "the upload")
            os.kill(self.daemon.pid, signal.SIGSTOP)
            moved = self.stalled("bytes_in")
            [helper] = self.helpers()
            self.assertLess(rss(helper), MOST)
            os.kill(self.daemon.pid, signal.SIGCONT)
            self.assertEqual(self.ended(upload), (0, ""))
            self.assertTrue(volume.read_bytes() == sent.read_bytes())
            self.nothing_is_left()
            return moved

        def down() -> float:
            download = self.start("vol-download", volume, back)
            with back.open("rb") as stream:
                wait_for(lambda: self.moved("bytes_out"), "the download")
                # It would keep in memory what it cannot write.
                os.kill(download.pid, signal.SIGSTOP)
                moved = self.stalled("bytes_out")
                [helper] = self.helpers()
                self.assertLess(rss(helper), MOST)
                os.kill(download.pid, signal.SIGCONT)
                self.assertTrue(stream.read() == sent.read_bytes())
            self.assertEqual(self.ended(download), (0, ""))
            self.nothing_is_left()
            return moved

        # Who is stopped late has had more by then; without back-pressure it is all of it each time.
        best_of(up, SIZE // 2)
        os.mkfifo(back)
        best_of(down, SIZE // 2)

    def test_expires(self) -> None:
        """A console and events run until the ticket ends."""
        token = self.use()
        events = Terminal(self.command(self.through(), "event", "--all", "--loop"), self.environment)
        self.addCleanup(events.close)
        console = Terminal(self.command(self.through(), "console", "tiny", "--force"), self.environment)
        self.addCleanup(console.close)
        wanted = {("DOMAIN_OPEN_CONSOLE", "ok"), ("CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", "ok")}
        wait_for(lambda: wanted <= set(self.calls(token)), "the console and events")
        self.direct("reset", "tiny")
        console.expect("SeaBIOS")
        events.expect("event 'reboot' for domain 'tiny'")
        self.gateway.renew(token, 1)
        events.expect("Disconnected from")
        events.end()
        console.end()
        self.nothing_is_left()

    def test_revoked(self) -> None:
        """Nothing of an upload is stored 50 ms after its ticket was revoked, and virsh can say so."""

        def revoked() -> float:
            token, volume = self.use(), self.volume(f"r-{uuid4()}")
            upload = self.start("vol-upload", volume, "/dev/zero")
            wait_for(lambda: self.moved("bytes_in") > MIB, "the upload")
            began = time.time()
            self.gateway.delete(token)
            self.assertEqual(self.gateway.sessions(), [])
            code, problem = self.ended(upload)
            self.assertEqual(code, 1)
            self.assertIn("error: ", problem)
            return volume.stat().st_mtime - began

        best_of(revoked, 0.05)

    def test_deaf(self) -> None:
        """Who reads nothing is cut all the same, and gets no more than what was on its way."""
        volume = self.volume("d")
        volume.write_bytes(os.urandom(SIZE))
        back = self.home / "deaf"
        os.mkfifo(back)

        def cut() -> float:
            token = self.use()
            download = self.start("vol-download", volume, back)
            with back.open("rb") as stream:
                wait_for(lambda: self.moved("bytes_out"), "the download")
                os.kill(download.pid, signal.SIGSTOP)
                late = self.stalled("bytes_out") >= SIZE // 2
                began = time.monotonic()
                self.gateway.delete(token)
                wait_for(lambda: not connections(self.gateway.port), "the cut")
                took = time.monotonic() - began
                os.kill(download.pid, signal.SIGCONT)
                got = len(stream.read())
            code, _ = self.ended(download)
            if late:
                # It had been given too much already when we came to stop it.
                return math.inf
            self.assertLess(got, SIZE // 2)
            self.assertEqual(code, 1)
            return took

        best_of(cut, 0.1)

    def test_killed(self) -> None:
        """A client that is killed leaves nothing behind."""
        self.use()
        client = self.start("event", "--all", "--loop")
        wait_for(self.gateway.sessions, "the session")
        client.kill()
        self.nothing_is_left()

    def test_restart(self) -> None:
        """A gateway that dies is missed at once, and no client dies of it when it writes."""
        self.use()
        client = self.run_alone()
        assert client.stdin is not None and client.stdout is not None
        asked = procedure("AUTH_LIST")
        client.stdin.write(Message(asked.program, 1, asked.number, Type.CALL, 0, Status.OK, b"").pack())
        client.stdin.flush()
        self.assertEqual(len(client.stdout.read(4)), 4, "it is not connected")
        upload = self.start("vol-upload", self.volume("l"), "/dev/zero")
        wait_for(lambda: self.moved("bytes_in") > MIB, "the upload")
        self.gateway.kill()
        try:
            self.assertEqual(
                self.ended(client), (1, "gateway-connect: the connection to the gateway was lost\n")
            )
            code, problem = self.ended(upload)
            # It would be killed by SIGPIPE when the program did not listen to the end.
            self.assertEqual(code, 1)
            self.assertIn("error: ", problem)
        finally:
            self.gateway.start()
