"""``gatewayctl rpc``: hypervisors by way of the AMP endpoint, one command at a time or in a shell."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from twisted.python.usage import UsageError

from gateway import errors
from gateway.ctl import rpc_words as words
from gateway.ctl.command import Command, Row, param
from gateway.ctl.rpc_entrance import Entrance
from gateway.ctl.rpc_shell import Conversation
from gateway.ctl.rpc_talk import OURS, Talk, guide
from gateway.ctl.rpc_text import explain
from gateway.ctl.shell import Failed, Shell


class Rpc(Command):
    """Ask hypervisors through the AMP endpoint; without a command, in a shell."""

    longdesc = (
        "Domains, networks and pools go by their names. Arguments come in order or as NAME=VALUE; @FILE is "
        "what a file holds, and file=PATH moves a volume or a picture at once. Without a token a ticket for "
        "everything is made on the control listener, and revoked at the end. In the shell Tab completes, and "
        "help COMMAND explains."
    )
    arguments = "[COMMAND [ARGUMENT …]]"
    completes = (*OURS, *sorted(words.WORDS))
    example = (
        "gatewayctl rpc --target lab list-domains\n"
        "gatewayctl rpc --target lab start web --json\n"
        "gatewayctl rpc --connect gateway.example.org --ca ca.pem --token-file token.txt"
    )
    optParameters: ClassVar[list[Row]] = [
        param("connect", "C", None, "HOST:PORT of the endpoint [default: $GATEWAY_RPC or the gateway's]"),
        param("ca", "a", None, "who vouches for its certificate, PEM [default: $GATEWAY_CA or the gateway's]",
              files=True),
        param("token-file", "T", None, "a file with a token or the id of a ticket, - for standard input",
              files=True),
        param("certificate", "e", None, "our own certificate, PEM, instead of a token", files=True),
        param("key", "k", None, "its private key, PEM", files=True),
        param("target", "t", None, "the hypervisor [default: $GATEWAY_TARGET, or the only one there is]"),
    ]  # fmt: skip

    def parseArgs(self, *given: str) -> None:
        self.given = given
        if given and given[0] not in words.WORDS and given[0] not in OURS:
            raise UsageError(f"there is no command {given[0]!r}; 'gatewayctl rpc help' lists them")

    async def run(self, shell: Shell) -> None:
        try:
            if self.given[:1] == ("help",):
                shell.out.write(guide(self.given[1:]) + "\n")
                return
            await self._talk(shell)
        except words.Mistyped as error:
            raise Failed(str(error)) from None
        except errors.GatewayError as error:
            raise Failed(explain(error)) from None

    async def _talk(self, shell: Shell) -> None:
        entrance = self._entrance(shell)
        talk = Talk(shell, entrance, self["target"] or shell.environ.get("GATEWAY_TARGET"))
        try:
            if self.given:
                await talk.do(self.given)
            else:
                await Conversation(shell, talk).converse()
        finally:
            await talk.end()
            await entrance.leave()

    def _entrance(self, shell: Shell) -> Entrance:
        certificate, key = (
            None if self[name] is None else Path(self[name]) for name in ("certificate", "key")
        )
        if (certificate is None) != (key is None):
            raise UsageError("--certificate and --key go together")
        token = None if certificate is None else ""
        if self["token-file"] is not None:
            token = shell.read(self["token-file"]).strip()
        place = self["connect"] or shell.environ.get("GATEWAY_RPC")
        ca = self["ca"] or shell.environ.get("GATEWAY_CA")
        return Entrance(shell, place, None if ca is None else Path(ca), token, certificate, key)
