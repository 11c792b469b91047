"""Stock clients beside virsh: virt-install, virt-xml, virt-clone, virt-manager and Ansible, with a token."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from tests.functional.case import PYTEST_ONLY
from tests.functional.commands import need
from tests.functional.desktop import Desktop
from tests.functional.libvirt_case import LibvirtCase
from tests.functional.processes import DEADLINE, Peer, wait_for

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

VIRTINST = "apt install virtinst"
_GUEST = ("--memory", "16", "--vcpus", "1", "--import", "--osinfo", "generic", "--virt-type", "qemu")
_PLAIN = ("--graphics", "vnc", "--noautoconsole", "--noreboot", "--check", "all=off")


class VirtinstTest(LibvirtCase):
    """Guests called ``mine-…`` are the ticket's, and of two pools it may use one.

    :cvar pools: the directories of both.
    """

    targets: ClassVar = {"qemu": {"volumes": "p1/*"}}
    pools: ClassVar[dict[str, Path]]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.pools = {name: cls.daemon.pool(name) for name in ("p1", "p2")}
        for name in cls.pools:
            cls.daemon.virsh("vol-create-as", name, "base", "1M")

    def setUp(self) -> None:
        self.token = self.grant(domains=["mine-*"])

    def tearDown(self) -> None:
        for name in self.direct("list", "--all", "--name").split():
            if name.startswith("mine-"):
                self.direct("undefine", name)

    def tool(self, program: str, *arguments: str) -> tuple[int, str]:
        """Run one of them; return its exit code and what it says."""
        command = [need(program, VIRTINST), "--connect", self.uri(token=self.token), *arguments]
        done = self.run_client(command, timeout=3 * DEADLINE, together=True)
        return done.returncode, done.stdout

    def install(self, name: str, disk: str) -> tuple[int, str]:
        guest = ("--name", name, "--disk", disk, "--network", "none")
        return self.tool("virt-install", *_GUEST, *guest, *_PLAIN)

    def test_life(self) -> None:
        """A guest is installed on a volume of an allowed pool, changed, cloned with its disk, and removed."""
        code, said = self.install("mine-1", "vol=p1/base")
        self.assertEqual(code, 0, said)
        self.assertIn(f"file='{self.pools['p1']}/base'", self.direct("dumpxml", "mine-1"))
        code, said = self.tool("virt-xml", "mine-1", "--edit", "--vcpus", "2", "--define")
        self.assertEqual(code, 0, said)
        self.assertIn("<vcpu placement='static'>2</vcpu>", self.direct("dumpxml", "mine-1"))
        code, said = self.tool("virt-clone", "--original", "mine-1", "--name", "mine-2", "--auto-clone")
        self.assertEqual(code, 0, said)
        self.assertIn("mine-2", self.direct("list", "--all", "--name").split())
        self.virsh("undefine", "mine-2", "--remove-all-storage", token=self.token)
        self.assertNotIn("base-clone", self.direct("vol-list", "p1"))

    def test_new_disk(self) -> None:
        """A disk is made for a guest, on top of another volume."""
        base = self.pools["p1"] / "base"
        disk = f"pool=p1,size=0.001,backing_store={base},backing_format=raw"
        code, said = self.install("mine-1", disk)
        self.assertEqual(code, 0, said)
        self.assertIn(str(base), self.direct("vol-dumpxml", "mine-1.qcow2", "--pool", "p1"))
        self.virsh("undefine", "mine-1", "--remove-all-storage", token=self.token)

    def test_refused(self) -> None:
        """Not on a volume of the other pool, nor behind one's own, nor on a file that is no volume."""
        other = self.pools["p2"] / "base"
        stray = self.home / "stray"
        stray.write_bytes(bytes(4096))
        for disk in (
            "vol=p2/base",
            f"path={other}",
            f"path={stray},format=raw",
            "path=/etc/passwd,format=raw",
        ):
            code, said = self.install("mine-1", disk)
            self.assertEqual(code, 1, disk)
            self.assertIn("This ticket does not permit xml:", said, disk)
        code, said = self.install("mine-1", f"pool=p1,size=0.001,backing_store={other},backing_format=raw")
        self.assertEqual(code, 1)
        self.assertIn("This ticket does not permit xml:volume/backingStore", said)
        code, said = self.install("theirs", "vol=p1/base")
        self.assertEqual(code, 1)
        self.assertIn("This ticket does not permit domain:write", said)
        self.assertEqual(self.direct("list", "--all", "--name").split(), ["tiny"])
        code, said = self.tool("virt-xml", "tiny", "--edit", "--vcpus", "2", "--define")
        self.assertEqual(code, 1)
        self.assertIn("Domain not found", said)


#: What Ansible's modules do, and every other program that knows a URI and nothing else.
_OPEN = """\
import sys, libvirt
connection = libvirt.open(sys.argv[1])
print(*sorted(domain.name() for domain in connection.listAllDomains()))
domain = connection.lookupByName("tiny")
domain.suspend()
print(domain.state()[0])
domain.resume()
"""


class OpenTest(LibvirtCase):
    """Programs that know a URI and nothing else."""

    guests = ("tiny", "other")

    def run_it(self, uri: str) -> subprocess.CompletedProcess[str]:
        return self.run_client([sys.executable, "-c", _OPEN, uri])

    def test_ticket_in_the_uri(self) -> None:
        """They bring the ticket in the URI, over TLS, and have its rights."""
        token = self.grant(domains=["tiny"])
        done = self.run_it(self.uri(auth="polkit", ticket=token))
        self.assertEqual((done.returncode, done.stdout.split()), (0, ["tiny", "3"]), done.stderr)

    def test_bad(self) -> None:
        """Without a good one they get nowhere, and what they sent is in no log."""
        for ticket in ("6" * 32, ""):
            done = self.run_it(self.uri(auth="polkit", ticket=ticket))
            self.assertEqual(done.returncode, 1)
            self.assertIn("authentication failed", done.stderr)
        token = self.grant()
        self.run_it(self.uri(auth="polkit", ticket=token))
        self.assertNotIn(token, self.gateway.log() + (self.home / "audit.log").read_text())


class Manager(Peer):
    """virt-manager at a URI, which says on its output what it sees."""

    name = "virt-manager"

    def start(self, desktop: Desktop, uri: str) -> None:
        command = [need("virt-manager", "apt install virt-manager"), "--no-fork", "--debug", "-c", uri]
        command += ["--show-domain-console", "tiny"]
        (runtime := self.directory / "runtime").mkdir(mode=0o700, exist_ok=True)
        environment = {**desktop.environment(), "XDG_RUNTIME_DIR": str(runtime), "GDK_BACKEND": "x11"}
        self.spawn(command, lambda: "domain=tiny" in self.log(), environment)


class ManagerTest(LibvirtCase):
    """virt-manager on a screen in memory."""

    guests = ("tiny", "other")

    def test_guests(self) -> None:
        """It shows the guest of the ticket in a window of its own, and no other, whatever happens to both."""
        desktop = Desktop(self.home)
        self.addCleanup(desktop.stop)
        desktop.start()
        manager = Manager(self.home)
        self.addCleanup(manager.kill)
        manager.start(desktop, self.uri(token=self.grant(domains=["tiny"])))
        wait_for(lambda: desktop.windows("^tiny on QEMU"), "the window of the guest")
        for name in ("other", "tiny"):
            self.direct("suspend", name)
            self.direct("resume", name)
        wait_for(lambda: "domain lifecycle event: domain=tiny" in manager.log(), "what happened")
        self.assertEqual(set(re.findall(r"domain=(\S+)", manager.log())), {"tiny"})
        self.assertNotIn("'other'", manager.log())
