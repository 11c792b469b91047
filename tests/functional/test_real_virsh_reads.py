"""Whatever virsh can read is the same through the gateway as without it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar

from tests.functional import virsh_reads as reads
from tests.functional.case import PYTEST_ONLY
from tests.functional.commands import qemu_img
from tests.functional.libvirt_case import TEST, LibvirtCase
from tests.functional.processes import DEADLINE

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

_PROMPT = re.compile("virsh [#>] ")
_MAC = "52:54:00:12:34:56"

#: What a ticket does not permit unless by name.
_DANGEROUS = (
    "QEMU_DOMAIN_MONITOR_COMMAND",
    "DOMAIN_SAVE_IMAGE_GET_XML_DESC",
    "domain:migrate",
    "connect:detect_storage_pools",
    "xml:unchecked",
)

_DEVICES = """\
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/>
  <target dev='vda' bus='virtio'/></disk>
<interface type='user'><mac address='{mac}'/><model type='e1000'/></interface>
"""


class ReadTest(LibvirtCase):
    """The test driver, and a guest that has one of everything; it is stopped, so that less moves."""

    guests = ()
    values: ClassVar[dict[str, dict[str, str]]]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        pool = cls.daemon.pool("p1")
        disk = pool / "vda.qcow2"
        qemu_img("create", "-f", "qcow2", disk, "1M")
        os.chown(disk, *(pool.stat().st_uid, pool.stat().st_gid))
        uuid = cls.daemon.tiny("tiny", devices=_DEVICES.format(disk=disk, mac=_MAC))

        def direct(*words: str | Path) -> str:
            return cls.daemon.virsh(*words).strip()

        direct("snapshot-create-as", "tiny", "s1", "--description", "first of all")
        direct("snapshot-create-as", "tiny", "s2")
        direct("metadata", "tiny", "http://x.invalid/", "--key", "x", "--set", "<a>b</a>")
        direct("desc", "tiny", "--title", "a title")
        direct("qemu-monitor-command", "tiny", "--hmp", "info", "version")  # which is remembered
        direct("suspend", "tiny")
        direct("vol-create-as", "p1", "v1", "1M", "--format", "raw")
        cls.daemon.define("<network><name>n1</name><bridge name='virbr7'/></network>")
        cls.daemon.virsh("snapshot-create-as", "test", "s1", driver="test")
        cls.values = {
            "qemu": {
                "dom": "tiny",
                "uuid": uuid,
                "id": direct("domid", "tiny"),
                "mac": _MAC,
                "snap": "s1",
                "pool": "p1",
                "pooluuid": direct("pool-uuid", "p1"),
                "vol": "v1",
                "path": str(pool / "v1"),
                "net": "n1",
                "netuuid": direct("net-uuid", "n1"),
                "secret": uuid,
                "iface": "lo",
            },
            "test": {
                "dom": "test",
                "uuid": TEST,
                "id": "1",
                "mac": "aa:bb:cc:dd:ee:ff",
                "snap": "s1",
                "pool": "default-pool",
                "pooluuid": cls.daemon.virsh("pool-uuid", "default-pool", driver="test").strip(),
                "vol": "v1",
                "path": "/default-pool/v1",
                "net": "default",
                "netuuid": cls.daemon.virsh("net-uuid", "default", driver="test").strip(),
                "secret": TEST,
                "iface": "eth1",
            },
        }
        cls.daemon.virsh("vol-create-as", "default-pool", "v1", "1M", driver="test")

    def test_every_command(self) -> None:
        """Every command that virsh knows is either compared here, or known to write or to wait."""
        text = subprocess.run(["virsh", "help"], capture_output=True, text=True, check=True).stdout
        known = set(re.findall(r"^    ([a-z][a-z0-9-]+) ", text, re.MULTILINE))
        compared = {line.split()[0] for line in reads.READS}
        self.assertEqual(known - reads.WRITES - reads.WAITS - reads.OWN - compared, set())
        self.assertEqual(compared & (reads.WRITES | reads.WAITS), set())

    def test_qemu(self) -> None:
        """On QEMU."""
        self.compare("qemu", allow=("*", *_DANGEROUS))

    def test_test(self) -> None:
        """On the test driver."""
        self.compare("test", allow=("*", *_DANGEROUS))

    def test_readonly(self) -> None:
        """With ``-r``, on a ticket that may only read: what it may see is the same, and nothing else is."""
        self.compare("test", "-r", allow=("read",), denied=("migrate-getmaxdowntime", "migrate-compcache"))

    def compare(self, target: str, *options: str, allow: Sequence[str], denied: Collection[str] = ()) -> None:
        """Run everything twice, and see that it says the same, but for commands that shall be *denied*."""
        file = self.home / "cpu.xml"
        file.write_text("<cpu mode='custom' match='exact'><model>qemu64</model></cpu>")
        lines = [line.format(file=file, **self.values[target]) for line in reads.READS]
        through = self.say(self.uri(target, token=self.grant(allow)), lines, *options)
        direct = self.say(self.daemon.url(target), lines, *options)
        for line in lines:
            if line.split()[0] in denied:
                self.assertIn("error: access denied: This ticket does not permit", through.pop(line))
        differ = [
            f"{line}\n--- directly\n{direct[line]}\n--- through us\n{through[line]}"
            for line in through
            if self.steady(line, direct[line]) != self.steady(line, through[line])
        ]
        self.assertEqual(differ, [], "\n".join(differ))
        said = [line for line in lines if direct[line] and "error: " not in direct[line]]
        self.assertGreater(len(said), 80 if target == "qemu" else 60, "most of them say something")

    def say(self, uri: str, lines: list[str], *options: str) -> dict[str, str]:
        """What virsh says to each of *lines*, on one connection."""
        first, second, *rest = self.command(uri)
        text = "\n".join([*lines, "quit"]) + "\n"
        done = self.run_client([first, second, *options, *rest], text, timeout=3 * DEADLINE, together=True)
        # What was typed is repeated, as far as a line of the screen goes.
        parts = [part.partition("\n")[2] for part in _PROMPT.split(done.stdout)[1:]]
        self.assertEqual(len(parts), len(lines) + 1, done.stdout[-2000:])
        return dict(zip(lines, parts, strict=False))

    @staticmethod
    def steady(line: str, text: str) -> str:
        """*text* without what moves."""
        if line.split()[0] in reads.MOVING:
            return re.sub(r"[ \t]*-?[0-9]+(\.[0-9]+)?", " N", text)
        return re.sub(r"vnet[0-9]+", "vnet", text)
