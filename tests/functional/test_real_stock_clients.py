"""Stock clients beside virsh: virt-install, virt-xml, virt-clone, virt-manager and Ansible, with a token."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import ClassVar

from tests.functional.case import PYTEST_ONLY
from tests.functional.commands import need
from tests.functional.libvirt_case import LibvirtCase

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
        done = subprocess.run(
            [need(program, VIRTINST), "--connect", self.uri(token=self.token), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
            env=self.environment,
        )
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
