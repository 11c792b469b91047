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
from gateway.wire.hypervisor_url import ConsolePlace, VolumePlace
from gateway.wire.safe_xml import XmlError
from gateway.wire.volume_xml import VolumeInfo, parse_volume

#: VIR_DOMAIN_CONSOLE_FORCE: whoever has the console is thrown out.
_FORCE = 1
#: VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH: the display asks for no password.
_SKIP_AUTH = 1
_BUSY = "Somebody else has this console, or the machine does not run"
_STOPPED = "The machine does not run"


class Hypervisor(Protocol):
    """What is used of :class:`gateway.rpc.target.Target`."""

    async def call(
        self, name: str, arguments: Mapping[str, object], /, *, principal: str
    ) -> dict[str, Any]: ...

    async def stream(
        self, name: str, arguments: Mapping[str, object], /, *, principal: str
    ) -> tuple[dict[str, Any], Stream]: ...

    async def descriptor(self, name: str, arguments: Mapping[str, object], /, *, principal: str) -> int: ...


class Planes:
    """Volumes and consoles of all hypervisors.

    :param hypervisors: by name of the configuration; may change at any time.
    """

    def __init__(self, hypervisors: Mapping[str, Hypervisor]) -> None:
        self._hypervisors = hypervisors

    # -- volumes, see gateway.images.volume ------------------------------------------------

    async def info(self, place: VolumePlace, *, principal: str) -> VolumeInfo:
        """Describe a volume as it is now."""
        with wording():
            hypervisor, volume = await self._volume(place, principal)
            arguments = {"vol": volume, "flags": 0}
            answer = await hypervisor.call("STORAGE_VOL_GET_XML_DESC", arguments, principal=principal)
        try:
            return parse_volume(answer["xml"])
        except XmlError as error:
            raise errors.UpstreamFailed(
                "The size of this volume cannot be told", reason="malformed"
            ) from error

    async def download(
        self, place: VolumePlace, offset: int, length: int, *, principal: str
    ) -> VolumeDownload:
        """Begin to read exactly *length* bytes."""
        stream = await self._stream("STORAGE_VOL_DOWNLOAD", place, offset, length, principal)
        return VolumeDownload(stream, length)

    async def upload(self, place: VolumePlace, offset: int, length: int, *, principal: str) -> VolumeUpload:
        """Begin to write."""
        return VolumeUpload(await self._stream("STORAGE_VOL_UPLOAD", place, offset, length, principal))

    async def _stream(
        self, procedure: str, place: VolumePlace, offset: int, length: int, principal: str
    ) -> Stream:
        with wording():
            hypervisor, volume = await self._volume(place, principal)
            arguments = {"vol": volume, "offset": offset, "length": length, "flags": 0}
            _, stream = await hypervisor.stream(procedure, arguments, principal=principal)
        return stream

    async def _volume(self, place: VolumePlace, principal: str) -> tuple[Hypervisor, object]:
        hypervisor = self._hypervisor(place.target)
        wanted: dict[str, object] = {"name": place.pool}
        pool = (await hypervisor.call("STORAGE_POOL_LOOKUP_BY_NAME", wanted, principal=principal))["pool"]
        wanted = {"pool": pool, "name": place.volume}
        found = await hypervisor.call("STORAGE_VOL_LOOKUP_BY_NAME", wanted, principal=principal)
        return hypervisor, found["vol"]

    # -- consoles, see gateway.consoles.hypervisor -----------------------------------------

    async def open_line(self, place: ConsolePlace, *, principal: str, force: bool) -> Stream:
        """Open a serial line; by *force* whoever has it now is thrown out."""
        arguments = {"dom": _machine(place), "dev_name": place.device, "flags": _FORCE if force else 0}
        with wording(_BUSY):
            hypervisor = self._hypervisor(place.target)
            _, stream = await hypervisor.stream("DOMAIN_OPEN_CONSOLE", arguments, principal=principal)
        return stream

    async def open_graphics(self, place: ConsolePlace, *, principal: str) -> int:
        """Return the descriptor of a socket to a screen."""
        arguments = {"dom": _machine(place), "idx": place.graphics or 0, "flags": _SKIP_AUTH}
        with wording(_STOPPED):
            hypervisor = self._hypervisor(place.target)
            return await hypervisor.descriptor("DOMAIN_OPEN_GRAPHICS_FD", arguments, principal=principal)

    def _hypervisor(self, name: str) -> Hypervisor:
        try:
            return self._hypervisors[name]
        except KeyError:
            raise errors.NoTarget from None


def _machine(place: ConsolePlace) -> dict[str, object]:
    return {"name": "", "uuid": place.uuid, "id": -1}
