"""The hypervisor behind a handle, as a client has it; see :mod:`gateway.rpc.client_objects` for errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from attrs import define, field

from gateway.rpc import client_records as records
from gateway.rpc import commands
from gateway.rpc.client_events import Events, OnEvent, Subscription
from gateway.rpc.client_link import Link
from gateway.rpc.client_objects import Domain, Network, Pool, as_json, pages, read_json
from gateway.rpc.command import Command


@define(eq=False)
class Host:
    """A target that was opened. Its handle outlives connections; whoever kept it may go on with it.

    :ivar handle: a secret.
    :ivar expires: when it ends unless it is renewed.
    :ivar generation: rises when the gateway had to open it anew.
    """

    _link: Link = field(repr=False)
    _events: Events = field(repr=False)
    handle: str = field(repr=False)
    uri: str = ""
    expires: datetime | None = None
    generation: int = 0

    async def _ask(self, command: type[Command], **more: Any) -> dict[str, Any]:
        return await self._link.ask(command, handle=self.handle, **more)

    async def _pages(self, command: type[Command], name: str, flags: int) -> list[dict[str, Any]]:
        return await pages(self._link, command, name, handle=self.handle, flags=flags or None)

    async def renew(self, ttl: int | None = None) -> datetime:
        """Let the handle last *ttl* seconds from now; returns until when it does."""
        expires: datetime = (await self._ask(commands.Renew, ttl=ttl))["expires"]
        self.expires = expires
        return expires

    async def close(self) -> None:
        """Forget the handle, and its subscriptions."""
        await self._ask(commands.Close)

    async def get_version(self) -> records.Versions:
        """Versions of the hypervisor and of libvirt."""
        return records.Versions(**await self._ask(commands.GetVersion))

    async def get_type(self) -> str:
        """The name of the driver."""
        return str((await self._ask(commands.GetType))["type"])

    async def get_hostname(self) -> str:
        """What the host calls itself."""
        return str((await self._ask(commands.GetHostname))["hostname"])

    async def get_uri(self) -> str:
        """The URI as libvirt has it."""
        return str((await self._ask(commands.GetUri))["uri"])

    async def get_node_info(self) -> records.NodeInfo:
        """The machine."""
        return records.NodeInfo(**await self._ask(commands.GetNodeInfo))

    async def get_capabilities(self) -> str:
        """What guests may have, as libvirt's XML."""
        return str((await self._ask(commands.GetCapabilities))["capabilities"])

    async def list_domains(self, flags: int = 0) -> list[Domain]:
        """All domains, or those that libvirt's *flags* say."""
        return [Domain(self._link, **it) for it in await self._pages(commands.ListDomains, "domains", flags)]

    async def lookup(
        self,
        *,
        name: str | None = None,
        uuid: str | None = None,
        id: int | None = None,  # noqa: A002  # its name
    ) -> Domain:
        """The domain with exactly one of these."""
        return Domain(self._link, **await self._ask(commands.Lookup, name=name, uuid=uuid, id=id))

    async def define(self, xml: str, flags: int = 0, *, request_id: str | None = None) -> Domain:
        """Make a domain that stays, or change it."""
        return await self._make(commands.Define, xml, flags, request_id)

    async def create(self, xml: str, flags: int = 0, *, request_id: str | None = None) -> Domain:
        """Make a domain and start it; it is gone when it stops."""
        return await self._make(commands.Create, xml, flags, request_id)

    async def _make(self, command: type[Command], xml: str, flags: int, request_id: str | None) -> Domain:
        answer = await self._ask(command, xml=xml, flags=flags or None, request_id=request_id)
        return Domain(self._link, **answer)

    async def list_networks(self, flags: int = 0) -> list[Network]:
        """All networks, or those that libvirt's *flags* say."""
        found = await self._pages(commands.ListNetworks, "networks", flags)
        return [Network(self._link, **it) for it in found]

    async def lookup_network(self, *, name: str | None = None, uuid: str | None = None) -> Network:
        """The network with exactly one of these."""
        return Network(self._link, **await self._ask(commands.LookupNetwork, name=name, uuid=uuid))

    async def define_network(self, xml: str, flags: int = 0, *, request_id: str | None = None) -> Network:
        """Make a network that stays, or change it."""
        answer = await self._ask(commands.DefineNetwork, xml=xml, flags=flags or None, request_id=request_id)
        return Network(self._link, **answer)

    async def list_pools(self, flags: int = 0) -> list[Pool]:
        """All storage pools, or those that libvirt's *flags* say."""
        return [Pool(self._link, **it) for it in await self._pages(commands.ListPools, "pools", flags)]

    async def lookup_pool(self, *, name: str | None = None, uuid: str | None = None) -> Pool:
        """The storage pool with exactly one of these."""
        return Pool(self._link, **await self._ask(commands.LookupPool, name=name, uuid=uuid))

    async def define_pool(self, xml: str, flags: int = 0, *, request_id: str | None = None) -> Pool:
        """Make a pool that stays, or change it."""
        answer = await self._ask(commands.DefinePool, xml=xml, flags=flags or None, request_id=request_id)
        return Pool(self._link, **answer)

    async def call(
        self,
        proc: str,
        args: Mapping[str, Any] | None = None,
        *,
        deadline: float | None = None,
        request_id: str | None = None,
    ) -> Any:
        """Call any procedure of libvirt's by name; bytes go, and come, in base64.

        :param deadline: seconds from now.
        """
        answer = await self._ask(
            commands.Call, proc=proc, args=as_json(args or {}), deadline=deadline, request_id=request_id
        )
        return read_json(answer["result"] or "{}")

    async def call_xdr(
        self, proc: str, xdr: bytes, *, deadline: float | None = None, request_id: str | None = None
    ) -> bytes:
        """The same in libvirt's own coding."""
        answer = await self._ask(commands.Call, proc=proc, xdr=xdr, deadline=deadline, request_id=request_id)
        return bytes(answer["xdr"] or b"")

    async def subscribe(
        self,
        kinds: Sequence[str],
        on_event: OnEvent,
        *,
        dom: str | None = None,
        from_seq: int | None = None,
    ) -> Subscription:
        """Have *on_event* called for events of these *kinds*, of all domains or of one.

        Over a new connection it goes on where it was; what cannot be told any more comes as one event of
        kind ``resync``.

        :param from_seq: the last event that is known: those after it come first; 0 for a resync at once.
        """
        return await self._events.subscribe(self.handle, kinds, on_event, dom, from_seq)
