"""The way to the AMP endpoint: where it is, who vouches for it, and as whom one comes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from secrets import token_urlsafe
from typing import Any
from urllib.parse import urlsplit

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.usage import UsageError

from gateway import errors
from gateway.ctl.control import Document, Refused, Unreachable
from gateway.ctl.shell import Failed, Shell
from gateway.rpc.client import Gateway, connect

PORT = 16515
#: Seconds that a ticket of our own lasts, and one whose links go on after us; while we live it is renewed.
_LIFE, _LONG = 600, 3600


@define(eq=False)
class Entrance:
    """Lets one in, again and again; without a token and a certificate by a ticket of its own.

    :ivar place: HOST:PORT, None for what the gateway says or else the usual.
    :ivar token: None for a ticket of our own, which is made on the control listener.
    :ivar console_url: of consoles, as far as it is known.
    """

    shell: Shell
    place: str | None
    authority: Path | None
    token: str | None
    certificate: Path | None = None
    key: Path | None = None
    console_url: str | None = field(default=None, init=False)
    _ticket: str = field(default="", init=False)
    _renewing: LoopingCall | None = field(default=None, init=False)
    _kept: bool = field(default=False, init=False)

    @property
    def ca(self) -> Path:
        """Who vouches for the gateway.

        :raises UsageError: nobody said so.
        """
        if self.authority is None:
            raise UsageError("say with --ca who vouches for the gateway's certificate")
        return self.authority

    async def enter(self, *, reconnect: bool) -> Gateway:
        """Log in.

        :raises Failed: it does not work, and what to do about it.
        """
        token = await self._own() if self.token is None else self.token
        host, port = self._address()
        try:
            return await connect(
                self.shell.reactor, host, port, ca=[self.ca], token=token,
                certificate=self.certificate, key=self.key, reconnect=reconnect,
            )  # fmt: skip
        except errors.GatewayError as error:
            raise Failed(self._why(error, f"{host}:{port}", host)) from None
        except errors.ConfigError as error:
            raise Failed("\n".join(error.problems)) from None

    async def keep(self) -> None:
        """Let links that were given out go on when we have left."""
        if self._ticket:
            self._kept = True
            await self._renew()

    async def leave(self) -> None:
        """Revoke a ticket of our own, and with it all that came of it; unless something has to go on."""
        if self._renewing is not None:
            self._renewing.stop()
            self._renewing = None
        if self._ticket and not self._kept:
            await self._told("DELETE")

    async def _own(self) -> str:
        """The id of a ticket for everything."""
        control = self.shell.control()
        ticket = {
            "uuid": self._ticket or token_urlsafe(24), "kind": "rpc", "timeout": _LIFE,
            "ops": ["call", "admin"], "principal": "gatewayctl",
            "targets": ["*"], "rights": {"allow": ["*"], "domains": ["*"]},
        }  # fmt: skip
        try:
            self._adopt(await control.get("/status"))
            await control.ask("PUT", f"/tickets/{ticket['uuid']}", ticket)
        except Unreachable as error:
            raise Failed(f"{error}; or log in with --token-file or --certificate") from None
        self._ticket = str(ticket["uuid"])
        if self._renewing is None:
            self._renewing = LoopingCall(lambda: Deferred.fromCoroutine(self._renew()))
            self._renewing.clock = self.shell.reactor
            self._renewing.start(_LIFE / 3, now=False)
        return self._ticket

    def _adopt(self, status: Document) -> None:
        """Take what the gateway says of itself where nobody said anything else."""
        self.console_url = status.get("console_url")
        if self.authority is None and status.get("ca"):
            self.authority = Path(str(status["ca"]))
        host = urlsplit(str(status.get("public_url") or "")).hostname
        if self.place is None and host:
            ports = [
                it["listen"].split(":") for it in status.get("listeners", ()) if it.get("service") == "rpc"
            ]
            port = next((it[1] for it in ports if it[0] == "tcp"), PORT)
            self.place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def _renew(self) -> None:
        await self._told("PATCH", {"timeout": _LONG if self._kept else _LIFE})

    async def _told(self, method: str, body: Any = None) -> None:
        with suppress(Refused, Unreachable):
            await self.shell.control().ask(method, f"/tickets/{self._ticket}", body)

    def _address(self) -> tuple[str, int]:
        place = self.place or "localhost"
        host, colon, port = place.rpartition(":")
        if not colon or not port.isdigit() or (":" in host and not host.endswith("]")):
            host, port = place, str(PORT)
        return host.strip("[]"), int(port)

    def _why(self, error: errors.GatewayError, place: str, host: str) -> str:
        if error.reason in ("refused", "unreachable", "dns"):
            return f"no gateway answers at {place}: is there [rpc] in its configuration? see --connect"
        if error.reason == "tls":
            return f"{place} cannot prove itself: its certificate has to name {host}, and be of {self.ca}"
        if isinstance(error, errors.Unauthorized) and self.token is None:
            return f"{error.text}; is {place} the gateway of the control listener?"
        return error.text
