"""What is read out of a domain's XML."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from gateway.wire.domain_xml import Graphics, Line, Named, canonical_uuid, read_domain, read_name
from gateway.wire.safe_xml import XmlError

UUID = "2e0ccdcc-33bb-4d58-ab08-eb4e631bf61a"
#: As libvirt 9.0 writes a running guest.
LIVE = f"""
<domain type='qemu' id='1'>
  <name>tiny</name>
  <uuid>{UUID}</uuid>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='cdrom'>
      <driver name='qemu'/>
      <target dev='hdc' bus='ide'/>
      <readonly/>
    </disk>
    <disk type='volume'>
      <driver name='qemu' type='qcow2'/>
      <source pool='default' volume='a.qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='block' device='lun'><source dev='/dev/sdb'/><target dev='sda'/></disk>
    <disk type='network' device='disk'>
      <source protocol='rbd' name='pool/image'><host name='ceph.invalid'/></source><target dev='vdb'/>
    </disk>
    <serial type='pty'>
      <source path='/dev/pts/0'/>
      <target type='isa-serial' port='0'/>
      <alias name='serial0'/>
    </serial>
    <console type='pty' tty='/dev/pts/0'>
      <target type='serial' port='0'/>
    </console>
    <channel type='unix'>
      <source mode='bind' path='/run/agent.sock'/>
      <target type='virtio' name='org.qemu.guest_agent.0' state='disconnected'/>
      <alias name='channel0'/>
    </channel>
    <graphics type='vnc' port='26500' autoport='yes' listen='127.0.0.1' passwd='geheim'>
      <listen type='address' address='127.0.0.1'/>
    </graphics>
    <graphics type='spice' port='5901' tlsPort='5902' listen='192.0.2.1'/>
    <graphics type='vnc'><listen type='socket' socket='/run/vnc.sock'/></graphics>
    <graphics type='spice' port='-1' autoport='yes'><listen type='none'/></graphics>
    <graphics type='vnc' socket='/run/old.sock'/>
  </devices>
</domain>
"""


class ReadTest(SynchronousTestCase):
    """A running guest."""

    def test_who(self) -> None:
        """Its name, its uuid and its type."""
        domain = read_domain(LIVE)
        self.assertEqual((domain.name, domain.uuid, domain.type), ("tiny", UUID, "qemu"))
        self.assertEqual(read_name(LIVE), Named("tiny", UUID))

    def test_graphics(self) -> None:
        """Its screens, in order, with where they listen, and passwords that are not shown."""
        self.assertEqual(
            read_domain(LIVE).graphics,
            (
                Graphics("vnc", "127.0.0.1", 26500, -1, "", "geheim"),
                Graphics("spice", "192.0.2.1", 5901, 5902),
                Graphics("vnc", socket="/run/vnc.sock"),
                Graphics("spice"),
                Graphics("vnc", socket="/run/old.sock"),
            ),
        )
        self.assertNotIn("geheim", repr(read_domain(LIVE)))

    def test_lines(self) -> None:
        """Its serial ports, consoles and channels, by alias, path and name."""
        self.assertEqual(
            read_domain(LIVE).lines,
            (
                Line("serial", "pty", "serial0", "/dev/pts/0", 0),
                Line("console", "pty", "", "/dev/pts/0", 0),
                Line("channel", "unix", "channel0", "/run/agent.sock", -1, "org.qemu.guest_agent.0"),
            ),
        )

    def test_little(self) -> None:
        """A domain without devices has none."""
        domain = read_domain("<domain><name>a</name></domain>")
        self.assertEqual((domain.uuid, domain.lines, domain.graphics), (None, (), ()))

    def test_numbers(self) -> None:
        """A port that is no number is none."""
        xml = "<domain><name>a</name><devices><graphics type='vnc' port='{}'/></devices></domain>"
        for text in ("", "-1", "x", "1e3", "٣", "9" * 30):
            self.assertEqual(read_domain(xml.format(text)).graphics[0].port, -1)


class NameTest(SynchronousTestCase):
    """Who a domain is, without a doubt."""

    def test_uuid(self) -> None:
        """A uuid with or without dashes, in whatever case, is one."""
        for text in (UUID, UUID.upper(), UUID.replace("-", ""), f"\n {UUID} "):
            self.assertEqual(canonical_uuid(text), UUID)

    def test_no_uuid(self) -> None:
        """What libvirt reads more liberally is refused, not guessed."""
        for text in (
            "",
            UUID[:-1],
            UUID + "0",
            UUID.replace("-", " "),
            "{" + UUID + "}",
            "-" + UUID,
            "x" * 32,
        ):
            self.assertRaises(XmlError, canonical_uuid, text)

    def test_doubt(self) -> None:
        """Two names, a name in pieces, no name: libvirt may read another one, so nobody does."""
        for inner in (
            "",
            "<name/>",
            "<name>a</name><name>b</name>",
            "<name>a<x>b</x></name>",
            f"<name>a</name><uuid>{UUID}</uuid><uuid>{UUID}</uuid>",
            "<name>a</name><uuid>b</uuid>",
        ):
            self.assertRaises(XmlError, read_name, f"<domain>{inner}</domain>")
        self.assertRaises(XmlError, read_name, "<network><name>a</name></network>")
        self.assertRaises(XmlError, read_name, "<domain xmlns='x'><name>a</name></domain>")
