"""Finds out which of the files in users' XML are volumes: virt-install and its kin name the file of a volume.

Only the hypervisor can tell. It is asked when the XML is refused without an answer, and what it answers is
judged as if the XML had named the pool and the volume. Source: libvirt, virStorageVolLookupByPath.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from gateway import errors
from gateway.rpc.sites import Site
from gateway.rpc.target import Target
from gateway.rpc.xml_guard import XML
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import Procedure
from gateway.wire.safe_xml import Node, XmlError, parse

Verdict = TypeVar("Verdict")
#: ``pool/volume`` by its file.
Volumes = Mapping[str, str]
#: Files in the XML of one call that the hypervisor is asked about.
MOST = 16
#: Types of pools whose volumes are all the files of a directory.
_OF_FILES = ("dir", "fs", "netfs")


async def judge(
    check: Callable[[Volumes], Verdict], call: Procedure, arguments: Mapping[str, Any], site: Site
) -> Verdict:
    """What *check* says of a call to *site*, once it knows the volumes in its XML.

    :raises gateway.errors.GatewayError: what *check* raises, or the hypervisor is not there.
    """
    try:
        return check({})
    except errors.Denied as refused:
        wanted = refused.permission.startswith("xml:") and site.policy.volumes
        files = list(_files(call, arguments)) if wanted else []
        if not 0 < len(files) <= MOST:
            raise
    return check({file: named for file in files if (named := await _volume(file, site.target))})


async def _volume(file: str, target: Target) -> str:
    """The volume whose file this is, or will be; empty without one."""
    try:
        volume = (await target.call("STORAGE_VOL_LOOKUP_BY_PATH", {"path": file}))["vol"]
        # A name of the same file by another way is not believed: it may lead elsewhere tomorrow.
        known = (await target.call("STORAGE_VOL_GET_PATH", {"vol": volume}))["name"]
    except LibvirtError:
        return await _future_volume(file, target)
    return f"{volume['pool']}/{volume['name']}" if known == file else ""


async def _future_volume(file: str, target: Target) -> str:
    """What *file* will be called as a volume: virt-clone defines a guest before it makes its disks."""
    directory, name = posixpath.split(file)
    if name.startswith((".", "-")):
        return ""
    try:
        pool = (await target.call("STORAGE_POOL_LOOKUP_BY_TARGET_PATH", {"path": directory}))["pool"]
        told = await target.call("STORAGE_POOL_GET_XML_DESC", {"pool": pool, "flags": 0})
        described = parse(told["xml"])
    except (LibvirtError, XmlError):
        return ""
    place = described.find("target")
    # Beside the volumes of other types of pools there may be all the devices of the host.
    if described.get("type") not in _OF_FILES or place is None or place.words("path") != directory:
        return ""
    return f"{pool['name']}/{name}"


def _files(call: Procedure, arguments: Mapping[str, Any]) -> Iterator[str]:
    """The files and block devices that disks, or what lies behind volumes, are in the XML of a call."""
    named: dict[str, None] = {}
    for member, _ in XML.get(call.name, ()):
        text = arguments.get(member)
        if isinstance(text, str):
            try:
                named.update(dict.fromkeys(_named(parse(text))))
            except XmlError:
                continue
    return filter(_is_plain, named)


def _named(node: Node) -> Iterator[str]:
    if node.name == "source":
        yield from (node.get(name) for name in ("file", "dev"))
    elif node.name == "backingStore":
        yield node.words("path")
    for child in node.children:
        yield from _named(child)


def _is_plain(file: str) -> bool:
    return file.startswith("/") and not file.startswith("//") and posixpath.normpath(file) == file
