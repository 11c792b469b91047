"""Tickets' urls of what a hypervisor has: volumes of its pools, and consoles of its machines.

=====================================  =========================================================
``libvirt://TARGET/POOL/VOLUME``        a volume; names are percent-encoded
``libvirt://TARGET/UUID/console``       the first serial line of a machine
``libvirt://TARGET/UUID/console/NAME``  the one with this alias
``libvirt://TARGET/UUID/graphics/N``    its screen number *N*, over VNC
=====================================  =========================================================

*TARGET* is a name of the configuration, never an address.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from attrs import frozen

_TARGET = r"libvirt://(?P<target>[A-Za-z0-9_.-]{1,64})"
#: A name, literally or percent-encoded; libvirt would take it as ended by a NUL.
_NAME = r"(?:[^/?#%\x00-\x1f\x7f]|%(?![01][0-9A-Fa-f]|7[Ff])[0-9A-Fa-f]{2}){1,1024}"
_HEX = "[0-9A-Fa-f]"
_UUID = rf"(?P<uuid>{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}})"

_VOLUME = re.compile(rf"{_TARGET}/(?P<pool>{_NAME})/(?P<volume>{_NAME})")
_CONSOLE = re.compile(
    rf"{_TARGET}/{_UUID}/(?:console(?:/(?P<device>[A-Za-z0-9_.-]{{1,128}}))?|graphics/(?P<index>[0-9]{{1,2}}))"
)


@frozen
class VolumePlace:
    """One volume: where it is, by names."""

    target: str
    pool: str
    volume: str


@frozen
class ConsolePlace:
    """One console of one machine.

    :ivar uuid: of the machine, in lower case.
    :ivar device: alias of a serial line, None for the first.
    :ivar graphics: number of a screen; None for a serial line.
    """

    target: str
    uuid: str
    device: str | None = None
    graphics: int | None = None


def volume_of(url: str) -> VolumePlace:
    """Take the *url* of a volume apart.

    :raises ValueError: it is none.
    """
    match = _VOLUME.fullmatch(url)
    if match is None:
        raise ValueError("this is not libvirt://TARGET/POOL/VOLUME")
    return VolumePlace(match["target"], _decoded(match["pool"]), _decoded(match["volume"]))


def console_of(url: str) -> ConsolePlace:
    """Take the *url* of a console apart.

    :raises ValueError: it is none.
    """
    match = _CONSOLE.fullmatch(url)
    if match is None:
        raise ValueError("this is not libvirt://TARGET/UUID/console or libvirt://TARGET/UUID/graphics/NUMBER")
    index = match["index"]
    return ConsolePlace(
        match["target"], match["uuid"].lower(), match["device"], None if index is None else int(index)
    )


def _decoded(part: str) -> str:
    try:
        return unquote_to_bytes(part).decode("utf-8")
    except UnicodeError:
        raise ValueError("a name is not in UTF-8") from None
