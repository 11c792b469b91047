"""What tickets reach through hypervisors: volumes for the image relay, lines and screens for consoles.

The packages that serve those know a hypervisor by name only, and ask here for what it has. A machine is
found by its uuid alone.
Source: libvirt 9.0, remote_protocol.x; libvirt-stream.h and libvirt-domain.h for the flags.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from gateway import errors
from gateway.rpc.stream import Stream
from gateway.rpc.volume_stream import VolumeDownload, VolumeUpload, wording
from gateway.wire.safe_xml import XmlError
from gateway.wire.volume_xml import VolumeInfo, parse_volume

#: VIR_DOMAIN_CONSOLE_FORCE: whoever has the console is thrown out.
_FORCE = 1
#: VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH: the display asks for no password.
_SKIP_AUTH = 1


class Hypervisor(Protocol):
    """What is used of :class:`gateway.rpc.target.Target`."""

    async def call(self, name: str, arguments: Mapping[str, object], /) -> dict[str, Any]: ...
    async def stream(
        self, name: str, arguments: Mapping[str, object], /
    ) -> tuple[dict[str, Any], Stream]: ...
    async def descriptor(self, name: str, arguments: Mapping[str, object], /) -> int: ...


class Planes:
    """Volumes and consoles of all hypervisors.

    :param hypervisors: by name of the configuration; may change at any time.
    """

    def __init__(self, hypervisors: Mapping[str, Hypervisor]) -> None:
        self._hypervisors = hypervisors

    # -- volumes, see gateway.images.volume ------------------------------------------------

    async def info(self, target: str, pool: str, volume: str) -> VolumeInfo:
        """Describe a volume as it is now."""
        with wording():
            hypervisor, found = await self._volume(target, pool, volume)
            answer = await hypervisor.call("STORAGE_VOL_GET_XML_DESC", {"vol": found, "flags": 0})
        try:
            return parse_volume(answer["xml"])
        except XmlError as error:
            raise errors.UpstreamFailed(
                "The size of this volume cannot be told", reason="malformed"
            ) from error

    async def download(self, target: str, pool: str, volume: str, offset: int, length: int) -> VolumeDownload:
        """Begin to read exactly *length* bytes."""
        stream = await self._stream("STORAGE_VOL_DOWNLOAD", target, pool, volume, offset, length)
        return VolumeDownload(stream, length)

    async def upload(self, target: str, pool: str, volume: str, offset: int, length: int) -> VolumeUpload:
        """Begin to write."""
        return VolumeUpload(await self._stream("STORAGE_VOL_UPLOAD", target, pool, volume, offset, length))

    async def _stream(
        self, procedure: str, target: str, pool: str, volume: str, offset: int, length: int
    ) -> Stream:
        with wording():
            hypervisor, found = await self._volume(target, pool, volume)
            arguments = {"vol": found, "offset": offset, "length": length, "flags": 0}
            _, stream = await hypervisor.stream(procedure, arguments)
        return stream

    async def _volume(self, target: str, pool: str, volume: str) -> tuple[Hypervisor, object]:
        hypervisor = self._hypervisor(target)
        of_pool = await hypervisor.call("STORAGE_POOL_LOOKUP_BY_NAME", {"name": pool})
        found = await hypervisor.call("STORAGE_VOL_LOOKUP_BY_NAME", {"pool": of_pool["pool"], "name": volume})
        return hypervisor, found["vol"]

    # -- consoles, see gateway.consoles.hypervisor -----------------------------------------

    async def open_line(self, target: str, uuid: str, device: str | None, *, force: bool) -> Stream:
        """Open a serial line."""
        arguments = {"dom": _machine(uuid), "dev_name": device, "flags": _FORCE if force else 0}
        with wording():
            _, stream = await self._hypervisor(target).stream("DOMAIN_OPEN_CONSOLE", arguments)
        return stream

    async def open_graphics(self, target: str, uuid: str, index: int) -> int:
        """Return the descriptor of a socket to a screen."""
        arguments = {"dom": _machine(uuid), "idx": index, "flags": _SKIP_AUTH}
        with wording():
            return await self._hypervisor(target).descriptor("DOMAIN_OPEN_GRAPHICS_FD", arguments)

    def _hypervisor(self, name: str) -> Hypervisor:
        try:
            return self._hypervisors[name]
        except KeyError:
            raise errors.NoTarget from None


def _machine(uuid: str) -> dict[str, object]:
    return {"name": "", "uuid": uuid, "id": -1}
