from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from gateway.wire.safe_xml import XmlError
from gateway.wire.volume_xml import VolumeInfo, parse_volume

#: As libvirt 9.0 writes it.
QCOW2 = """<volume type='file'>
  <name>disk.qcow2</name>
  <key>/var/lib/libvirt/images/disk.qcow2</key>
  <capacity unit='bytes'>4194304</capacity>
  <allocation unit='bytes'>200704</allocation>
  <physical unit='bytes'>196616</physical>
  <target>
    <path>/var/lib/libvirt/images/disk.qcow2</path>
    <format type='qcow2'/>
    <permissions><mode>0600</mode></permissions>
  </target>
</volume>
"""
RAW = QCOW2.replace("'qcow2'", "'raw'").replace("196616", "4194304")


class VolumeTests(SynchronousTestCase):
    """Volumes."""

    def test_formats(self) -> None:
        """The size is that of the file; a raw one does not grow beyond what a machine sees of it."""
        self.assertEqual(parse_volume(QCOW2), VolumeInfo(4194304, 196616, "qcow2"))
        self.assertIsNone(parse_volume(QCOW2).bound)
        self.assertEqual(parse_volume(RAW), VolumeInfo(4194304, 4194304, "raw"))
        self.assertEqual(parse_volume(RAW).bound, 4194304)

    def test_device(self) -> None:
        """Nor does a device, whatever is on it, and where nothing is said of that."""
        for text in (QCOW2, QCOW2.replace("<format type='qcow2'/>", "")):
            self.assertEqual(parse_volume(text.replace("type='file'", "type='block'")).bound, 4194304)

    def test_old(self) -> None:
        """A libvirt that does not tell the size of a file leaves only raw ones to be served."""
        old = RAW.replace("<physical unit='bytes'>4194304</physical>", "")
        self.assertEqual(parse_volume(old).size, 4194304)
        self.assertRaises(XmlError, parse_volume, old.replace("'raw'", "'qcow2'"))

    def test_refused(self) -> None:
        """What does not tell a size in bytes."""
        for text in (
            "",
            "<volume/>",
            QCOW2.replace("4194304", ""),
            QCOW2.replace("4194304", "-1"),
            QCOW2.replace("196616", "1e9"),
            QCOW2.replace("unit='bytes'", "unit='KiB'"),
            QCOW2.replace("196616", "9" * 21),
        ):
            self.assertRaises(XmlError, parse_volume, text)
