"""What a client works with: the hypervisor behind a handle, its domains, networks and pools.

Methods are called as the commands are. All may raise any :class:`gateway.errors.GatewayError`:
:class:`~gateway.wire.libvirt_error.LibvirtError` with libvirt's own numbers (42 for a domain that is not
there, or that one may not see), :class:`~gateway.errors.Denied`, :class:`~gateway.errors.NoHandle` when the
handle has expired, :class:`~gateway.errors.TargetDown`, and :class:`~gateway.errors.Interrupted` and
:class:`~gateway.errors.DeadlinePassed`, which tell whether it may have been executed all the same.

What changes something takes a ``request_id``: asked again with the same one it is done once.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from attrs import define, field

from gateway import errors
from gateway.rpc import client_records as records
from gateway.rpc import commands
from gateway.rpc.arguments import HARD_CAP
from gateway.rpc.client_link import Link
from gateway.rpc.command import Command
from gateway.wire import strict_json


def read_json(text: str) -> Any:
    """What the gateway says in JSON.

    :raises UpstreamFailed: it is none.
    """
    try:
        return strict_json.loads(text, limit=HARD_CAP, depth=64)
    except ValueError as error:
        raise errors.UpstreamFailed("The gateway's answer is not understood", reason="answer") from error


def as_json(value: object) -> str:
    """JSON of *value*, bytes in base64."""
    return json.dumps(value, default=lambda it: b64encode(it).decode("ascii"))


def _options(options: Mapping[str, object] | None) -> str | None:
    return None if options is None else as_json(options)


async def pages(link: Link, command: type[Command], name: str, **arguments: Any) -> list[dict[str, Any]]:
    """Everything of a list, page after page."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        answer = await link.ask(command, cursor=cursor or None, **arguments)
        found += answer[name]
        cursor = answer["cursor"]
        if not cursor:
            return found


@define(eq=False)
class Domain:
    """A domain of one handle.

    :ivar dom: the cookie it goes by.
    :ivar id: -1 for one that was off when it was looked up.
    :ivar state: at that time, a word; empty where nobody looked.
    """

    _link: Link = field(repr=False)
    dom: str = field(repr=False)
    name: str
    uuid: str
    id: int = -1
    state: str = ""

    async def _do(self, command: type[Command], flags: int, request_id: str | None) -> dict[str, Any]:
        return await self._link.ask(command, dom=self.dom, flags=flags or None, request_id=request_id)

    async def _tell(self, command: type[Command], flags: int = 0, **more: Any) -> dict[str, Any]:
        return await self._link.ask(command, dom=self.dom, flags=flags or None, **more)

    async def start(self, flags: int = 0, *, request_id: str | None = None) -> int:
        """Start it; returns its new id."""
        self.id = (await self._do(commands.Start, flags, request_id))["id"]
        return self.id

    async def shutdown(self, flags: int = 0, *, request_id: str | None = None) -> None:
        """Ask the guest to shut down."""
        await self._do(commands.Shutdown, flags, request_id)

    async def reboot(self, flags: int = 0, *, request_id: str | None = None) -> None:
        """Ask the guest to reboot."""
        await self._do(commands.Reboot, flags, request_id)

    async def reset(self, flags: int = 0, *, request_id: str | None = None) -> None:
        """Reset it, as by its button."""
        await self._do(commands.Reset, flags, request_id)

    async def destroy(self, flags: int = 0, *, request_id: str | None = None) -> None:
        """Stop it at once."""
        await self._do(commands.Destroy, flags, request_id)

    async def suspend(self, *, request_id: str | None = None) -> None:
        """Stop its processors."""
        await self._do(commands.Suspend, 0, request_id)

    async def resume(self, *, request_id: str | None = None) -> None:
        """Let its processors go on."""
        await self._do(commands.Resume, 0, request_id)

    async def undefine(self, flags: int = 0, *, request_id: str | None = None) -> None:
        """Forget it."""
        await self._do(commands.Undefine, flags, request_id)

    async def set_autostart(self, on: bool, *, request_id: str | None = None) -> None:
        """Say whether it starts with its host."""
        await self._tell(commands.SetAutostart, on=on, request_id=request_id)

    async def get_autostart(self) -> bool:
        """Whether it starts with its host."""
        return bool((await self._tell(commands.GetAutostart))["on"])

    async def get_info(self) -> records.Info:
        """State, memory, processors."""
        return records.Info(**await self._tell(commands.GetInfo))

    async def get_state(self) -> records.State:
        """State and its reason."""
        return records.State(**await self._tell(commands.GetState))

    async def get_xml(self, flags: int = 0) -> str:
        """libvirt's XML."""
        return str((await self._tell(commands.GetXml, flags))["xml"])

    async def get_stats(self, groups: int = 0, flags: int = 0) -> dict[str, Any]:
        """What libvirt counts, such as ``cpu.time``; *groups* is its mask, 0 for all."""
        answer = await self._tell(commands.GetStats, flags, groups=groups or None)
        return dict(read_json(answer["stats"]))

    async def get_interfaces(self, source: str = "lease") -> list[records.Interface]:
        """Its network interfaces, as told by *source*: ``lease``, ``agent`` or ``arp``."""
        answer = await self._tell(commands.GetInterfaces, source=source)
        return [records.Interface(**it) for it in answer["interfaces"]]

    async def list_snapshots(self, flags: int = 0) -> list[str]:
        """The names of its snapshots."""
        found = await pages(
            self._link, commands.ListSnapshots, "snapshots", dom=self.dom, flags=flags or None
        )
        return [it["name"] for it in found]

    async def get_snapshot_xml(self, name: str, flags: int = 0) -> str:
        """A snapshot as libvirt's XML."""
        return str((await self._tell(commands.GetSnapshotXml, flags, name=name))["xml"])

    async def create_snapshot(
        self, xml: str | None = None, flags: int = 0, *, request_id: str | None = None
    ) -> str:
        """Take a snapshot; returns its name."""
        answer = await self._tell(commands.CreateSnapshot, flags, xml=xml, request_id=request_id)
        return str(answer["name"])

    async def delete_snapshot(self, name: str, flags: int = 0, *, request_id: str | None = None) -> None:
        """Delete a snapshot."""
        await self._tell(commands.DeleteSnapshot, flags, name=name, request_id=request_id)

    async def revert_snapshot(self, name: str, flags: int = 0, *, request_id: str | None = None) -> None:
        """Go back to a snapshot."""
        await self._tell(commands.RevertSnapshot, flags, name=name, request_id=request_id)

    async def console(self, options: Mapping[str, object] | None = None) -> records.Link:
        """Where its serial console is, over websocket."""
        return await self._look(commands.Console, options)

    async def graphics(self, options: Mapping[str, object] | None = None) -> records.Link:
        """Where its screen is, over websocket."""
        return await self._look(commands.Graphics, options)

    async def screenshot(self, options: Mapping[str, object] | None = None) -> records.Link:
        """Where a picture of its screen is, over HTTPS."""
        return await self._look(commands.Screenshot, options)

    async def _look(self, command: type[Command], options: Mapping[str, object] | None) -> records.Link:
        return records.Link(**await self._link.ask(command, dom=self.dom, options=_options(options)))


@define(eq=False)
class Network:
    """A network of one handle; *active* when it was looked up."""

    _link: Link = field(repr=False)
    net: str = field(repr=False)
    name: str
    uuid: str
    active: bool = False

    async def network_start(self, *, request_id: str | None = None) -> None:
        """Start it."""
        await self._link.ask(commands.NetworkStart, net=self.net, request_id=request_id)

    async def network_stop(self, *, request_id: str | None = None) -> None:
        """Stop it at once."""
        await self._link.ask(commands.NetworkStop, net=self.net, request_id=request_id)

    async def undefine_network(self, *, request_id: str | None = None) -> None:
        """Forget it."""
        await self._link.ask(commands.UndefineNetwork, net=self.net, request_id=request_id)

    async def get_network_xml(self, flags: int = 0) -> str:
        """libvirt's XML."""
        return str((await self._link.ask(commands.GetNetworkXml, net=self.net, flags=flags or None))["xml"])

    async def get_leases(self, mac: str | None = None) -> list[records.Lease]:
        """The addresses it gave out, or those of one *mac*."""
        answer = await self._link.ask(commands.GetLeases, net=self.net, mac=mac)
        return [records.Lease(**it) for it in answer["leases"]]


@define(eq=False)
class Pool:
    """A storage pool of one handle, and the volumes in it; *active* when it was looked up."""

    _link: Link = field(repr=False)
    pool: str = field(repr=False)
    name: str
    uuid: str
    active: bool = False

    async def _ask(self, command: type[Command], **more: Any) -> dict[str, Any]:
        return await self._link.ask(command, pool=self.pool, **more)

    async def pool_start(self, *, request_id: str | None = None) -> None:
        """Start it."""
        await self._ask(commands.PoolStart, request_id=request_id)

    async def pool_stop(self, *, request_id: str | None = None) -> None:
        """Stop it; what it holds stays."""
        await self._ask(commands.PoolStop, request_id=request_id)

    async def pool_refresh(self, *, request_id: str | None = None) -> None:
        """Have libvirt look again at what it holds."""
        await self._ask(commands.PoolRefresh, request_id=request_id)

    async def undefine_pool(self, *, request_id: str | None = None) -> None:
        """Forget it; what it holds stays."""
        await self._ask(commands.UndefinePool, request_id=request_id)

    async def get_pool_info(self) -> records.PoolInfo:
        """State and sizes."""
        return records.PoolInfo(**await self._ask(commands.GetPoolInfo))

    async def get_pool_xml(self, flags: int = 0) -> str:
        """libvirt's XML."""
        return str((await self._ask(commands.GetPoolXml, flags=flags or None))["xml"])

    async def list_volumes(self, flags: int = 0) -> list[str]:
        """The names of its volumes."""
        found = await pages(self._link, commands.ListVolumes, "volumes", pool=self.pool, flags=flags or None)
        return [it["volume"] for it in found]

    async def get_volume_info(self, volume: str, flags: int = 0) -> records.VolumeInfo:
        """Type, sizes, and where it is."""
        answer = await self._ask(commands.GetVolumeInfo, volume=volume, flags=flags or None)
        return records.VolumeInfo(**answer)

    async def get_volume_xml(self, volume: str, flags: int = 0) -> str:
        """libvirt's XML."""
        return str((await self._ask(commands.GetVolumeXml, volume=volume, flags=flags or None))["xml"])

    async def create_volume(self, xml: str, flags: int = 0, *, request_id: str | None = None) -> str:
        """Make a volume; returns its name."""
        answer = await self._ask(commands.CreateVolume, xml=xml, flags=flags or None, request_id=request_id)
        return str(answer["volume"])

    async def delete_volume(self, volume: str, flags: int = 0, *, request_id: str | None = None) -> None:
        """Delete a volume, and what it holds."""
        await self._ask(commands.DeleteVolume, volume=volume, flags=flags or None, request_id=request_id)

    async def resize_volume(
        self, volume: str, capacity: int, flags: int = 0, *, request_id: str | None = None
    ) -> None:
        """Change what it can hold, in bytes."""
        await self._ask(
            commands.ResizeVolume,
            volume=volume,
            capacity=capacity,
            flags=flags or None,
            request_id=request_id,
        )

    async def vol_upload(
        self, volume: str, size: int | None = None, options: Mapping[str, object] | None = None
    ) -> records.Link:
        """Where to upload a volume over HTTPS, *size* bytes at most."""
        answer = await self._ask(commands.VolUpload, volume=volume, size=size, options=_options(options))
        return records.Link(**answer)

    async def vol_download(self, volume: str, options: Mapping[str, object] | None = None) -> records.Link:
        """Where to download a volume over HTTPS."""
        answer = await self._ask(commands.VolDownload, volume=volume, options=_options(options))
        return records.Link(**answer)
