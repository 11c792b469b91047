"""How we log in at a hypervisor: not at all, by polkit, or by SASL with a name and a password of a file.

Passwords go where nobody else reads: tls, unix and ssh. A layer of SASL's own, which libvirtd wants over tcp,
we do not have. Source: libvirt 9.0.0, remote_driver.c, remoteAuthenticate.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from secrets import token_urlsafe
from typing import Any

from attrs import field, frozen
from twisted.logger import Logger

from gateway.errors import ConfigError, UpstreamFailed
from gateway.rpc.auth_file import find_credentials
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import Procedure, procedure
from gateway.wire.libvirt_url import LibvirtUrl
from gateway.wire.sasl_client import Credentials, SaslError, choose

Call = Callable[[Procedure, Mapping[str, object]], Awaitable[Mapping[str, Any]]]

_LIST, _POLKIT = procedure("AUTH_LIST"), procedure("AUTH_POLKIT")
_INIT, _START, _STEP = (procedure(f"AUTH_SASL_{name}") for name in ("INIT", "START", "STEP"))
#: Kinds of authentication.
_OF_NONE, _OF_SASL, _OF_POLKIT = 0, 1, 2
_PRIVATE = ("tls", "unix", "ssh")
#: Steps of one login; SCRAM has two.
_STEPS = 4


async def log_in(call: Call, url: LibvirtUrl | None = None, environment: Mapping[str, str] = {}) -> None:
    """Make the first calls of a connection.

    :param url: where it leads; without one there are no passwords.
    :param environment: tells where files are.
    :raises gateway.errors.UpstreamFailed: ``reason`` is ``auth``.
    """
    await _Login(call, url, environment).run()


@frozen
class _Login:
    call: Call
    url: LibvirtUrl | None
    environment: Mapping[str, str] = field(repr=False)
    log = Logger()

    async def run(self) -> None:
        types = (await self.call(_LIST, {}))["types"]
        wanted, _, mechanism = (self.url.auth if self.url is not None else "").lower().partition(".")
        if _OF_NONE in types:
            return
        who = self._credentials() if _OF_SASL in types and wanted != "polkit" else None
        if who is not None:
            await self._sasl(who, mechanism.upper())
        elif _OF_POLKIT in types and wanted != "sasl":
            await self.call(_POLKIT, {})
        else:
            raise self._failed("there are no credentials for what it wants", types)

    def _credentials(self) -> Credentials | None:
        if self.url is None or self.url.transport not in _PRIVATE:
            return None
        try:
            return find_credentials(self.url, self.environment)
        except ConfigError as error:
            raise self._failed(str(error)) from None

    async def _sasl(self, who: Credentials, only: str) -> None:
        # libvirtd writes commas, other servers write spaces.
        offered = (await self.call(_INIT, {}))["mechlist"].replace(",", " ").split()
        try:
            name, mechanism = choose(offered, who, token_urlsafe(24), only)
            said = {"mech": name, "nil": 0, "data": mechanism.first()}
            answer = await self.call(_START, said)
            for _ in range(_STEPS):
                if answer["complete"] and (mechanism.done or answer["nil"]):
                    break
                more = mechanism.answer(answer["data"])
                if answer["complete"]:
                    break
                answer = await self.call(_STEP, {"nil": 0, "data": more})
        except SaslError as error:
            raise self._failed(str(error), offered) from None
        except LibvirtError:
            raise self._failed("it refuses the name and the password") from None
        if not (mechanism.done and answer["complete"]):
            raise self._failed("it has not shown that it knows the password", offered)

    def _failed(self, why: str, offered: Sequence[object] = ()) -> UpstreamFailed:
        host = "a hypervisor" if self.url is None else self.url.server
        self.log.error(
            "no login at {host}: {why}; offered: {offered}", host=host, why=why, offered=list(offered)
        )
        return UpstreamFailed("The hypervisor wants another authentication", reason="auth")
