"""Foretells what the policy will say of a ticket's targets, before its user is sent there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from attrs import frozen

from gateway import errors
from gateway.core.dial import Dialer
from gateway.wire.ticket_json import Grant, Kind

#: Where something is over the network: what the policy calls it, a name or an address, a port.
Place = tuple[str, str, int]


@frozen
class Foresight:
    """Judges targets as the dialer would, and dials nothing.

    :ivar places: by kind of ticket, what tells where a grant leads to.
    """

    dialer: Dialer
    places: Mapping[Kind, Callable[[Grant], Iterable[Place]]]

    async def of(self, grant: Grant) -> list[dict[str, object]]:
        """Say of every target whether it is ``allowed`` now, and which ``rules`` would let it pass.

        ``allowed`` is None where a name leads to no address, and nobody knows.

        :raises gateway.errors.BadRequest: the grant makes no sense.
        """
        places = self.places.get(grant.kind)
        return [] if places is None else [await self._judge(*place) for place in places(grant)]

    async def _judge(self, scheme: str, host: str, port: int) -> dict[str, object]:
        shown: dict[str, object] = {"target": _written(scheme, host, port)}
        try:
            addresses = await self.dialer.addresses(host)
        except errors.UpstreamFailed:
            return {**shown, "allowed": None, "rules": []}
        except errors.Forbidden as error:
            raise errors.BadRequest("A host has a name or an address", reason="target") from error
        refused = [it for it in addresses if not self._allows(scheme, host, it, port)]
        return {**shown, "allowed": not refused, "rules": [_written(scheme, it, port) for it in refused]}

    def _allows(self, scheme: str, host: str, address: str, port: int) -> bool:
        try:
            self.dialer.policy.judge(scheme, host, address, port)
        except errors.Forbidden:
            return False
        return True


def _written(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
