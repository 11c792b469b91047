"""The guard: what a tenant's XML may hold, and a long table of what it may not."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.rpc.xml_guard import Guard, Policy
from tests.rpc.hostile_xml import (
    DEVICES,
    FINE,
    FINE_KINDS,
    HOSTILE_KINDS,
    PARTS,
    POLICY,
    QEMU,
    TARGET,
    domain,
)
from tests.wire.test_safe_xml import HOSTILE


class DomainTest(SynchronousTestCase):
    """Domains and their devices."""

    def refused(self, kind: str, xml: str, policy: Policy = POLICY) -> errors.GatewayError:
        """The refusal of *xml*."""
        wrong = (errors.Denied, errors.BadArguments)
        try:
            Guard(policy).check(kind, xml)
        except wrong as error:
            return error
        raise self.failureException(f"it passed: {xml}")

    def test_fine(self) -> None:
        """What tenants need passes, when the policy names what of the host is in it."""
        Guard(POLICY).check("domain", FINE)

    def test_default(self) -> None:
        """Without a policy nothing of the host may be named: no volume, no network, no file, no program."""
        for device in (
            f"<disk type='volume'><source pool='iso' volume='a'/>{TARGET}</disk>",
            f"<disk type='file'><source file='/srv/images/a'/>{TARGET}</disk>",
            "<disk type='network'><source protocol='nbd'><host name='store.invalid'/></source>"
            f"{TARGET}</disk>",
            "<interface type='network'><source network='alice'/></interface>",
        ):
            for kind, xml in (("device", device), ("domain", domain("", device))):
                Guard(POLICY).check(kind, xml)
                self.refused(kind, xml, Policy())
        emulator = "<emulator>/usr/bin/qemu-system-x86_64</emulator>"
        Guard(POLICY).check("domain", domain("", emulator))
        self.refused("domain", domain("", emulator), Policy())
        user = "<interface type='user'/>"
        Guard(Policy(user_network=True)).check("device", user)
        self.refused("device", user, Policy())

    def test_volume_files(self) -> None:
        """A file or device that is a volume may be what the volume may be: a disk, or behind a new volume."""
        files = {"/p/a": "tenants/alice-1", "/p/b": "tenants/bob-1", "/dev/vg/a": "tenants/alice-2"}
        guard = Guard(POLICY)
        for kind, xml in (
            ("device", f"<disk type='file'><source file='{{}}'/>{TARGET}</disk>"),
            ("device", f"<disk type='block'><source dev='{{}}'/>{TARGET}</disk>"),
            ("volume", "<volume><name>n</name><backingStore><path>{}</path></backingStore></volume>"),
        ):
            for good in ("/p/a", "/dev/vg/a"):
                guard.check(kind, xml.format(good), files=files)
                self.assertRaises(errors.Denied, guard.check, kind, xml.format(good))
            for bad in ("/p/b", "/p/c", "/p/./a", "/dev/vg", ""):
                self.assertRaises(errors.Denied, guard.check, kind, xml.format(bad), files=files)
        for kind, xml in (
            ("pool", "<pool type='dir'><name>n</name><target><path>/p/a</path></target></pool>"),
            ("volume", "<volume><name>n</name><target><path>/p/a</path></target></volume>"),
        ):
            self.assertRaises(errors.Denied, guard.check, kind, xml, files=files)

    def test_own_xml(self) -> None:
        """What libvirt makes of a screen without an address may be sent back to it."""
        Guard(POLICY).check("device", "<graphics type='vnc'><listen type='address'/></graphics>")

    def test_hostile_devices(self) -> None:
        """No device of the table gets in, neither with the domain nor by attaching it."""
        for device in DEVICES:
            inside = self.refused("domain", domain("", device))
            self.assertIsInstance(inside, errors.Denied, device)
            self.assertIn("xml:domain/devices/", inside.text)
            self.refused("device", device)

    def test_hostile_parts(self) -> None:
        """No part of the table gets in beside the devices."""
        for part in PARTS:
            self.assertIsInstance(self.refused("domain", domain(part)), errors.Denied, part)

    def test_types(self) -> None:
        """Only kinds of domains whose XML we know; among them no containers."""
        for kind in ("lxc", "xen", "openvz", "uml", "vbox", "KVM", " kvm", ""):
            self.refused("domain", domain("", kind=kind))
        self.refused("domain", "<domain><name>a</name></domain>")

    def test_names(self) -> None:
        """libvirt makes file names of names: none that leads elsewhere, or looks like an option."""
        for name in ("a/b", "../a", ".", "..", ".a", "-a", "a\\b", "a&#10;b", "a" * 200, ""):
            self.refused("domain", f"<domain type='kvm'><name>{name}</name></domain>")

    def test_what_is_said(self) -> None:
        """A refusal tells the way to what was refused, and nothing of its value."""
        for xml, said in (
            (domain("", "<hostdev/>"), "xml:domain/devices/hostdev"),
            (domain("", f"<disk type='dir'>{TARGET}</disk>"), "xml:domain/devices/disk/@type"),
            (domain("", "<graphics type='vnc' listen='0.0.0.0'/>"), "xml:domain/devices/graphics/@listen"),
            (domain("<os><type>exe</type></os>"), "xml:domain/os/type/text"),
            (
                domain("", f"<disk type='volume'><source pool='x' volume='y'/>{TARGET}</disk>"),
                "xml:domain/devices/disk/source",
            ),
        ):
            error = self.refused("domain", xml)
            assert isinstance(error, errors.Denied)
            self.assertEqual(error.permission, said)

    def test_hostile_xml(self) -> None:
        """What the parser refuses is no XML to the guard, of whatever kind."""
        for kind in ("domain", "device", "snapshot", "cpu", "detached"):
            for what, text in HOSTILE.items():
                error = self.refused(kind, text)
                self.assertIsInstance(error, errors.BadArguments, what)

    def test_white_space(self) -> None:
        """White space without end is refused as fast as anything else."""
        blank = " " * 200_000
        for part in ("uuid", "iothreads", "memory", "name", "title"):
            self.refused("domain", domain(f"<{part}>{blank}/</{part}>{'<evil/>' if part == 'title' else ''}"))
        self.refused("domain", domain(f"<cpu><model>{blank}/{blank}</model></cpu>"))
        self.refused("domain", domain("", f"<sound model='{blank}/'/>"))

    def test_root(self) -> None:
        """What passed comes back, so that nobody reads it twice."""
        self.assertEqual(Guard().check("domain", domain("")).words("name"), "alice-1")

    def test_metadata(self) -> None:
        """Foreign elements stand in the metadata, and nowhere else."""
        foreign = f"<commandline xmlns='{QEMU}'><arg value='-S'/></commandline>"
        Guard(POLICY).check("domain", domain(f"<metadata>{foreign}</metadata>"))
        self.refused("domain", domain(f"<title>{foreign}</title>"))

    def test_nothing_more(self) -> None:
        """To whatever is fine, one more element, attribute or text is too much, wherever it is put."""
        Guard(POLICY).check("domain", FINE)
        root = ElementTree.fromstring(FINE)
        places = [number for number, (node, deep) in enumerate(_walk(root)) if not deep]
        self.assertGreater(len(places), 80)
        for number in places:
            for change in ("child", "foreign", "file", "dev", "path", "qualified", "text"):
                changed = deepcopy(root)
                node = list(_walk(changed))[number][0]
                before = ElementTree.tostring(node)
                if change == "child":
                    ElementTree.SubElement(node, "evil")
                elif change == "foreign":
                    ElementTree.SubElement(node, f"{{{QEMU}}}{node.tag}")
                elif change == "qualified":
                    node.set(f"{{{QEMU}}}type", "x")
                elif change == "text":
                    if node.text and node.text.strip():
                        # A text that is free holds no more than a text; it is tried by itself.
                        continue
                    node.text = "/etc/shadow"
                else:
                    node.set(change, "/etc/shadow")
                if node.tag == "metadata":
                    continue
                self.assertNotEqual(before, ElementTree.tostring(node))
                self.refused("domain", ElementTree.tostring(changed, "unicode"))


def _walk(root: ElementTree.Element, inside: bool = False) -> Iterator[tuple[ElementTree.Element, bool]]:
    """All elements, and whether they are inside of the metadata."""
    yield root, inside
    for child in root:
        yield from _walk(child, inside or root.tag == "metadata")


class OtherKindsTest(SynchronousTestCase):
    """Snapshots, checkpoints, backups, volumes, pools, networks, processors."""

    def test_fine(self) -> None:
        """What tenants need passes."""
        for kind, xml in FINE_KINDS:
            Guard(POLICY).check(kind, xml)

    def test_hostile(self) -> None:
        """What names files, devices, addresses and the network of the host does not."""
        for kind, xml in HOSTILE_KINDS:
            try:
                Guard(POLICY).check(kind, xml)
            except errors.Denied:
                continue
            self.fail(f"{kind} passed: {xml}")

    def test_default(self) -> None:
        """Without roots there are no pools and no backing files."""
        for kind, xml in FINE_KINDS:
            if "/srv/images" in xml:
                self.assertRaises(errors.Denied, Guard().check, kind, xml)

    def test_argument(self) -> None:
        """A complaint about XML says which argument it was."""
        error = self.assertRaises(errors.BadArguments, Guard().check, "disk", "<", "destxml")
        self.assertEqual(error.path, "destxml")
