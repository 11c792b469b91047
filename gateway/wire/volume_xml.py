"""What the gateway wants to know of a volume, out of its XML.

Source: libvirt, "Storage pool and volume XML format" (formatstorage); ``physical`` is there since 3.0.
"""

from __future__ import annotations

import re

from attrs import frozen

from gateway.wire.safe_xml import Node, XmlError, parse


@frozen
class VolumeInfo:
    """One volume.

    :ivar capacity: bytes that a machine sees.
    :ivar size: bytes of its file or device, which differ from those with formats that have a head.
    :ivar format: such as ``raw`` or ``qcow2``; empty when it is not known.
    """

    capacity: int
    size: int
    format: str = ""

    @property
    def bound(self) -> int | None:
        """Where what is written must end; None where a file may grow."""
        return max(self.capacity, self.size) if self.format == "raw" else None


def parse_volume(text: str) -> VolumeInfo:
    """Read the XML of a volume.

    :raises XmlError: it is none, or does not tell how many bytes there are.
    """
    root = parse(text)
    target = root.find("target")
    form = None if target is None else target.find("format")
    # What is on a device cannot grow, whatever it is.
    name = "raw" if root.get("type") == "block" else "" if form is None else form.get("type")
    capacity = _bytes(root, "capacity")
    if root.find("physical") is not None:
        return VolumeInfo(capacity, _bytes(root, "physical"), name)
    if name != "raw":
        raise XmlError("it does not tell the size of its file")
    return VolumeInfo(capacity, capacity, name)


def _bytes(root: Node, name: str) -> int:
    found = root.find(name)
    text = "" if found is None else found.text.strip()
    if found is None or found.get("unit", "bytes") != "bytes" or not re.fullmatch(r"[0-9]{1,20}", text):
        raise XmlError(f"it does not tell its {name}")
    return int(text)
