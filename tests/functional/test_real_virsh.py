"""Stock virsh through the gateway, with a token: what its users do all day, on a real libvirtd."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.functional.case import PYTEST_ONLY
from tests.functional.commands import qemu_img
from tests.functional.libvirt_case import TEST, LibvirtCase
from tests.functional.libvirt_daemon import tiny
from tests.functional.processes import MIB, wait_for
from tests.functional.terminal import Terminal

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)


class VirshTest(LibvirtCase):
    """Every command of an ordinary day."""

    guests = ("tiny", "other")
    pool = Path()

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.pool = cls.daemon.pool("p1")

    def setUp(self) -> None:
        self.token = self.grant()

    def do(self, *arguments: str | Path, target: str = "qemu") -> str:
        return self.virsh(*arguments, target=target, token=self.token)

    def state(self, name: str) -> str:
        """What the daemon says itself."""
        return self.direct("domstate", name).strip()

    def guest(self, devices: str = "", *, start: bool = True) -> str:
        """A guest for this test alone."""
        name = f"g-{uuid4().hex[:8]}"
        uuid = self.daemon.tiny(name, devices=devices, start=start)

        def clean() -> None:
            if uuid in self.direct("list", "--uuid"):
                self.direct("destroy", name)
            if uuid in self.direct("list", "--all", "--uuid"):
                self.direct("undefine", name, "--snapshots-metadata")

        self.addCleanup(clean)
        return name

    def file(self, data: bytes = b"") -> Path:
        path = self.home / uuid4().hex
        path.write_bytes(data)
        return path

    @contextmanager
    def terminal(self, *arguments: str) -> Iterator[Terminal]:
        """virsh at a terminal."""
        terminal = Terminal(self.command(self.uri(token=self.token), *arguments), self.environment)
        try:
            yield terminal
        finally:
            terminal.close()

    def test_look(self) -> None:
        """list, dominfo, dumpxml, domstats, net-list and pool-list say what the daemon says."""
        for command in ("list --all", "dominfo tiny", "dumpxml tiny", "net-list --all", "pool-list --all"):
            words = command.split()
            self.assertEqual(self.steady(self.do(*words)), self.steady(self.direct(*words)), command)
        self.assertIn("Domain: 'tiny'", self.do("domstats", "tiny"))
        self.assertIn(" p1 ", self.do("pool-list"))
        self.assertIn(" default ", self.do("net-list", target="test"))
        self.assertIn(TEST, self.do("dominfo", "test", target="test"))

    @staticmethod
    def steady(text: str) -> str:
        return re.sub(r"CPU time: .*", "", text)

    def test_life(self) -> None:
        """define, start, suspend, resume, destroy and undefine do what they say, and each is written down."""
        name = f"g-{uuid4().hex[:8]}"
        file = self.file(tiny(name).encode())
        self.do("define", file)
        self.assertEqual(self.state(name), "shut off")
        for verb, state in (("start", "running"), ("suspend", "paused"), ("resume", "running")):
            self.do(verb, name)
            self.assertEqual(self.state(name), state)
        self.do("destroy", name)
        self.assertEqual(self.state(name), "shut off")
        self.do("undefine", name)
        self.assertNotIn(name, self.direct("list", "--all", "--name").split())
        done = [kind for kind, end in self.calls(self.token) if kind.startswith("DOMAIN_") and end == "ok"]
        kinds = ["DEFINE_XML", "CREATE", "SUSPEND", "RESUME", "DESTROY", "UNDEFINE_FLAGS"]
        self.assertEqual([kind for kind in done if kind[7:] in kinds], [f"DOMAIN_{kind}" for kind in kinds])

    def test_refusal(self) -> None:
        """What the daemon refuses is refused in its own words."""
        for words in (("start", "tiny"), ("domuuid", "nobody"), ("vol-info", "v", "--pool", "p1")):
            code, output, problem = self.run_virsh(self.daemon.url("qemu"), *words)
            self.assertEqual((code, output.strip()), (1, ""))
            self.assertEqual(self.refused(*words, token=self.token), problem)

    def test_console(self) -> None:
        """A console shows the guest's firmware, takes keys, is of one user alone, and ends with Ctrl-]."""
        name = "other"
        for turn in range(2):  # its end is told to the daemon, so that there is room for the next one
            with self.terminal("console", name) as terminal:
                wait_for(lambda: len(self.consoles()) > turn, "the console")  # noqa: B023 (asked at once)
                self.do("reset", name)
                terminal.expect("SeaBIOS")
                terminal.expect("No bootable device")
                terminal.type("x\r")
                with self.terminal("console", name) as second:
                    second.expect("Active console session exists for this domain")
                terminal.type("\x1d")
                self.assertEqual(terminal.end(), 0)

    def consoles(self) -> list[str]:
        """The consoles that were opened by this test."""
        return [end for kind, end in self.calls(self.token) if kind == "DOMAIN_OPEN_CONSOLE" and end == "ok"]

    def test_event(self) -> None:
        """``event --loop`` tells what happens while it happens, and ends with Ctrl-C."""
        name = self.guest()
        with self.terminal("event", "--all", "--loop") as terminal:
            wait_for(lambda: len(self.listening(self.token)) > 5, "all events registered")
            self.direct("suspend", name)
            terminal.expect(f"event 'lifecycle' for domain '{name}': Suspended Paused")
            self.direct("resume", name)
            terminal.expect(f"event 'lifecycle' for domain '{name}': Resumed Unpaused")
            self.direct("reset", name)
            terminal.expect(f"event 'reboot' for domain '{name}'")
            self.direct("destroy", name)
            terminal.expect(f"event 'lifecycle' for domain '{name}': Stopped Destroyed")
            terminal.type("\x03")
            terminal.expect("events received: ")
            self.assertEqual(terminal.end(), 0)

    def listening(self, token: str) -> list[str]:
        """The registrations of events that were made under a ticket."""
        return [kind for kind, _ in self.calls(token) if "REGISTER_ANY" in kind and "DEREGISTER" not in kind]

    def test_event_of_one(self) -> None:
        """``event DOMAIN`` waits for that domain, and tells no other."""
        name, other = "tiny", "other"
        for each in (name, other):
            self.addCleanup(self.direct, "resume", each)
        with self.terminal("event", name, "lifecycle") as terminal:
            wait_for(lambda: self.listening(self.token), "the event registered")
            self.direct("suspend", other)
            self.direct("suspend", name)
            terminal.expect(f"event 'lifecycle' for domain '{name}': Suspended")
            self.assertEqual(terminal.end(), 0)
            self.assertNotIn(other.encode(), terminal.shown)

    def test_screenshot(self) -> None:
        """A screenshot is a picture, from the guest as from the test driver."""
        for target, name, magic in (("qemu", "tiny", (b"P6", b"\x89PNG")), ("test", "test", (b"\x89PNG",))):
            file = self.file()
            self.do("screenshot", name, file, target=target)
            self.assertTrue(file.read_bytes().startswith(magic), target)
            self.assertGreater(file.stat().st_size, 100)

    def test_snapshot(self) -> None:
        """A snapshot of a guest with a qcow2 disk is made, listed, reverted to and deleted."""
        disk = self.pool / f"{uuid4()}.qcow2"
        qemu_img("create", "-f", "qcow2", disk, "1M")
        os.chown(disk, *(self.pool.stat().st_uid, self.pool.stat().st_gid))
        name = self.guest(
            f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/>"
            "<target dev='vda' bus='virtio'/></disk>"
        )
        self.do("snapshot-create-as", name, "one")
        self.do("snapshot-create", name)
        self.assertEqual(
            self.do("snapshot-list", name, "--name"), self.direct("snapshot-list", name, "--name")
        )
        self.assertIn("<name>one</name>", self.do("snapshot-dumpxml", name, "one"))
        self.do("suspend", name)
        self.do("snapshot-revert", name, "one")
        self.assertEqual(self.state(name), "running")
        self.do("snapshot-delete", name, "one")
        self.assertNotIn("one", self.direct("snapshot-list", name, "--name").split())

    def test_volume(self) -> None:
        """What is uploaded lies there, byte by byte, and comes back so; a part as well."""
        data = os.urandom(5 * MIB + 12345)
        up, down, part = self.file(data), self.file(), self.file()
        volume = uuid4().hex
        self.do("vol-create-as", "p1", volume, "6M")
        self.addCleanup(self.direct, "vol-delete", volume, "--pool", "p1")
        self.do("vol-upload", volume, up, "--pool", "p1")
        self.assertEqual((self.pool / volume).read_bytes()[: len(data)], data)
        self.do("vol-download", volume, down, "--pool", "p1")
        self.assertEqual(down.read_bytes(), data.ljust(6 * MIB, b"\0"))
        self.do("vol-download", volume, part, "--pool", "p1", "--offset", "1000", "--length", "2000")
        self.assertEqual(part.read_bytes(), data[1000:3000])
        self.do("vol-upload", volume, part, "--pool", "p1", "--offset", "6000000", "--length", "2000")
        self.assertEqual((self.pool / volume).read_bytes()[6000000:6002000], data[1000:3000])
        for direction, count in (("bytes_in", len(data)), ("bytes_out", 6 * MIB)):
            wait_for(
                lambda: count in [it[direction] for it in self.trail("session.close")],  # noqa: B023 (asked at once)
                f"{direction} are counted",
            )

    def test_sparse(self) -> None:
        """Holes stay holes, in both directions, and what is between them stays what it is."""
        up, down = self.file(), self.file()
        size, where = 64 * MIB, 32 * MIB
        data = os.urandom(MIB)
        with up.open("r+b") as file:
            file.truncate(size)
            file.seek(where)
            file.write(data)
        volume = uuid4().hex
        self.do("vol-create-as", "p1", volume, "64M", "--allocation", "0")
        self.addCleanup(self.direct, "vol-delete", volume, "--pool", "p1")
        self.do("vol-upload", volume, up, "--pool", "p1", "--sparse")
        self.do("vol-download", volume, down, "--pool", "p1", "--sparse")
        for path in (self.pool / volume, down):
            self.assertLess(path.stat().st_blocks * 512, 8 * MIB, "it has holes")
            self.assertEqual(path.stat().st_size, size)
            with path.open("rb") as stored:
                stored.seek(where)
                self.assertEqual(stored.read(MIB), data)
                self.assertEqual(stored.read(MIB), bytes(MIB))
        mine = self.mine()

        def moved() -> list[int]:
            return [it["bytes_in"] for it in self.trail("session.close") if it["ticket"] == mine]

        # One for each command.
        wait_for(lambda: len(moved()) == 3, "all is told")
        self.assertLess(max(moved()), 4 * MIB)

    def mine(self) -> str:
        """What the ticket of this test is called in the audit trail."""
        name: str = self.gateway.get(self.token).json()["ticket"]
        return name

    def sessions(self) -> list[dict[str, Any]]:
        """What is alive under the ticket of this test."""
        return [it for it in self.gateway.sessions() if it["ticket"] == self.mine()]

    def test_upload_fails(self) -> None:
        """An upload to what is not there any more fails as it does directly, and the next one is not hurt."""
        file = self.file(os.urandom(3 * MIB))
        self.do("vol-create-as", "p1", "lost", "4M")
        (self.pool / "lost").rename(self.pool / "found")
        words = ("vol-upload", "lost", file, "--pool", "p1")
        code, _, problem = self.run_virsh(self.daemon.url("qemu"), *words)
        self.assertEqual((code, self.refused(*words, token=self.token)), (1, problem))
        (self.pool / "found").rename(self.pool / "lost")
        self.do(*words)
        self.do("vol-delete", "lost", "--pool", "p1")

    def test_interactive(self) -> None:
        """Many commands go over one connection, which outlives refusals; its one open session is shown."""
        with self.terminal() as terminal:
            terminal.expect("virsh # ")
            terminal.type("domuuid tiny\r")
            terminal.expect(self.uuids["tiny"])
            terminal.type("domuuid nobody\r")
            terminal.expect("error: failed to get domain 'nobody'")
            [session] = self.sessions()
            shown = [session[key] for key in ("kind", "listener", "principal", "target", "readonly")]
            self.assertEqual(shown, ["rpc", "libvirt", "alice", "qemu", False])
            for _ in range(5):
                terminal.type("domstate tiny\r")
                terminal.expect("running")
            terminal.type("quit\r")
            self.assertEqual(terminal.end(), 0)
        opened = [kind for kind, _ in self.calls(self.token) if kind == "CONNECT_OPEN"]
        self.assertEqual(len(opened), 1)

    def test_readonly(self) -> None:
        """``virsh -r`` reads, and what writes is refused by libvirtd itself; the session is shown as such."""
        uri = self.uri(token=self.token)
        self.assertEqual(self.run_virsh(uri, "-r", "domstate", "tiny")[1].strip(), "running")
        code, _, problem = self.run_virsh(uri, "-r", "destroy", "tiny")
        self.assertEqual(code, 1)
        self.assertIn("operation forbidden: read only access prevents virDomainDestroy", problem)
        self.assertEqual(self.state("tiny"), "running")
        with self.terminal("-r", "event", "--all", "--loop"):
            wait_for(lambda: self.listening(self.token), "the event registered")
            wait_for(lambda: len(self.sessions()) == 1, "those before are over")
            [session] = self.sessions()
            self.assertTrue(session["readonly"])

    def test_python(self) -> None:
        """libvirt-python with its event loop: events, streams both ways, keepalive, and word of the end."""
        script = Path(__file__).with_name("libvirt_script.py")
        command = [sys.executable, str(script), self.uri(), self.token, "p1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=self.environment) as process:
            self.addCleanup(process.kill)
            assert process.stdout is not None
            seen = []
            for line in process.stdout:
                seen.append(json.loads(line))
                if "ready" in seen[-1]:
                    time.sleep(2.5)  # several signs of life
                    self.assertIsNone(process.poll())
                    self.gateway.delete(self.token)
        names = sorted(self.direct("list", "--all", "--name").split())
        suspended, resumed = 3, 4
        events = [it["event"] for it in seen if "event" in it]
        self.assertEqual(events, [["tiny", suspended], ["tiny", resumed]])
        others = [it for it in seen if "event" not in it]
        wanted: list[dict[str, object]] = [
            {"domains": names},
            {"volume": True},
            {"console": True},
            {"error": 42},
        ]
        wanted += [{"ready": 1, "encrypted": 1, "secure": 1}, {"alive": 0}]
        self.assertEqual(others, wanted)

    def test_many(self) -> None:
        """A dozen at a time are served, each with its own answers."""
        problems: list[str] = []

        def one() -> None:
            try:
                self.assertEqual(self.do("domuuid", "tiny").strip(), self.uuids["tiny"])
            except (AssertionError, subprocess.SubprocessError) as error:
                problems.append(str(error))

        threads = [threading.Thread(target=one) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(problems, [])
