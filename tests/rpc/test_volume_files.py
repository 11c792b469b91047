"""Files in users' XML: the hypervisor tells which of them are volumes, and is not asked in vain."""

from __future__ import annotations

from typing import Any

from gateway import errors
from gateway.rpc.volume_files import MOST
from gateway.wire.libvirt_error import LibvirtError
from tests.rpc.test_desk import Case

UUID = "00000000-0000-0000-0000-00000000000a"
_POOL = "<pool type='{}'><name>p</name><target><path>{}</path></target></pool>"


def disks(*files: str) -> str:
    """A domain with these disks."""
    parts = "".join(f"<disk type='file'><source file='{it}'/><target dev='a'/></disk>" for it in files)
    return f"<domain type='kvm'><name>a</name><devices>{parts}</devices></domain>"


class VolumeFilesTest(Case):
    """A hypervisor with one volume, ``p/v`` in ``/p/v``."""

    def setUp(self) -> None:
        super().setUp()
        self.pool_type, self.pool_path, self.told = "dir", "/p", "/p/v"
        self.questions: list[str] = []
        self.daemon.answers |= {
            "STORAGE_VOL_LOOKUP_BY_PATH": self.volume,
            "STORAGE_VOL_GET_PATH": lambda _: {"name": self.told},
            "STORAGE_POOL_LOOKUP_BY_TARGET_PATH": self.pool,
            "STORAGE_POOL_GET_XML_DESC": lambda _: {"xml": _POOL.format(self.pool_type, self.pool_path)},
            "DOMAIN_DEFINE_XML_FLAGS": {"dom": {"name": "a", "uuid": UUID, "id": -1}},
        }

    def volume(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.questions.append(asked["path"])
        if asked["path"] not in ("/p/v", "/other/way"):
            raise LibvirtError(50, 18, "no storage vol")
        return {"vol": {"pool": "p", "name": "v", "key": "k"}}

    def pool(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["path"] != self.pool_path:
            raise LibvirtError(49, 18, "no storage pool")
        return {"pool": {"name": "p", "uuid": UUID}}

    def define(self, xml: str, volumes: str = "p/*") -> bool:
        """Whether *xml* may be defined where disks may be *volumes*."""
        for old in self.sites.adopt({"lab": self.section(volumes=volumes)}):
            self.do(old.stop())
        seat = self.seat()
        made = self.call(seat, self.opened(seat), "DOMAIN_DEFINE_XML_FLAGS", {"xml": xml, "flags": 0})
        if hasattr(made.result, "check"):
            self.failureResultOf(made, errors.Denied)
            return False
        self.successResultOf(made)
        return True

    def test_volume(self) -> None:
        """The file of a volume that may be a disk may be one; not when the volume may not."""
        self.assertTrue(self.define(disks("/p/v")))
        self.assertFalse(self.define(disks("/p/v"), "q/*"))
        self.assertFalse(self.define(disks("/p/v", "/etc/shadow")))

    def test_other_way(self) -> None:
        """A file that is called otherwise than the hypervisor calls it is none."""
        self.assertFalse(self.define(disks("/other/way")))

    def test_future(self) -> None:
        """A file that is not there yet is what it will be called, in a pool that is a directory."""
        self.assertTrue(self.define(disks("/p/new")))
        self.assertFalse(self.define(disks("/p/new"), "p/v"))
        for bad in ("/p/sub/new", "/p/.new", "/p/-new", "/p"):
            self.assertFalse(self.define(disks(bad)), bad)
        self.pool_path = "/dev"
        self.assertTrue(self.define(disks("/dev/sda")))
        for self.pool_type in ("disk", "logical", "scsi", "iscsi", "mpath"):
            self.assertFalse(self.define(disks("/dev/sda")), self.pool_type)

    def test_not_asked(self) -> None:
        """Nobody makes the hypervisor look for files in vain, for many of them, or for strange ones."""
        self.assertFalse(self.define(disks("/p/v"), ""))
        self.assertFalse(self.define(disks(*(f"/p/{it}" for it in range(MOST + 1)))))
        self.assertFalse(self.define(disks("/p/../v", "p/v", "//p/v", "/p/./v")))
        self.assertFalse(
            self.define("<domain type='kvm'><name>a</name><devices><hostdev/></devices></domain>")
        )
        self.assertEqual(self.questions, [])
