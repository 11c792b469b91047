"""``gatewayctl rpc``: hypervisors by way of the AMP endpoint, one command at a time or in a shell."""

from __future__ import annotations

import json
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, ClassVar

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThread
from twisted.python.usage import UsageError

from gateway import errors
from gateway.core.masking import escape
from gateway.ctl import rpc_words as words
from gateway.ctl.command import Command, Row, param
from gateway.ctl.control import Refused, Unreachable
from gateway.ctl.shell import Failed, Shell
from gateway.rpc.client import Event, Gateway, Host, connect
from gateway.rpc.command import Command as Asked

PORT = 16515
#: Seconds that a ticket of our own lasts; it is renewed while we live.
_LIFE = 120
_OURS = {
    "help": "help [COMMAND]: what there is, or what one does",
    "use": "use TARGET: go on with another hypervisor",
    "watch": "watch [KIND …]: print events as they happen, until Ctrl-C (in the shell: until quit)",
    "quit": "quit: leave the shell",
}


class Rpc(Command):
    """Ask hypervisors through the AMP endpoint; without a command, in a shell."""

    longdesc = (
        "Domains, networks and pools go by their names. Arguments come in order or as NAME=VALUE; @FILE is "
        "what a file holds. Without a token a ticket for everything is made on the control listener, and "
        "revoked at the end. In the shell Tab completes, and help COMMAND explains."
    )
    arguments = "[COMMAND [ARGUMENT …]]"
    completes = (*_OURS, *sorted(words.WORDS))
    example = (
        "gatewayctl rpc --ca ca.pem --target lab list-domains\n"
        "gatewayctl rpc --ca ca.pem --target lab start web --json\n"
        "gatewayctl rpc --connect gateway.example.org --ca ca.pem --token-file token.txt"
    )
    optParameters: ClassVar[list[Row]] = [
        param("connect", "C", None, "HOST:PORT of the endpoint [default: $GATEWAY_RPC or localhost:16515]"),
        param("ca", "a", None, "who vouches for its certificate, PEM [default: $GATEWAY_CA]", files=True),
        param("token-file", "T", None, "a file with a token or the id of a ticket, - for standard input",
              files=True),
        param("certificate", "e", None, "our own certificate, PEM, instead of a token", files=True),
        param("key", "k", None, "its private key, PEM", files=True),
        param("target", "t", None, "the hypervisor [default: $GATEWAY_TARGET, or the only one there is]"),
    ]  # fmt: skip

    def parseArgs(self, *given: str) -> None:
        self.given = given
        if given and given[0] not in words.WORDS and given[0] not in _OURS:
            raise UsageError(f"there is no command {given[0]!r}; 'gatewayctl rpc help' lists them")

    async def run(self, shell: Shell) -> None:
        if self.given[:1] == ("help",):
            shell.out.write(guide(self.given[1:]) + "\n")
            return
        try:
            async with self._login(shell) as gateway:
                talk = Talk(shell, gateway, self["target"] or shell.environ.get("GATEWAY_TARGET"))
                if self.given:
                    await talk.do(list(self.given))
                else:
                    await talk.converse()
        except words.Mistyped as error:
            raise Failed(str(error)) from None
        except errors.GatewayError as error:
            raise Failed(words.explain(error)) from None
        except errors.ConfigError as error:
            raise Failed("\n".join(error.problems)) from None

    @asynccontextmanager
    async def _login(self, shell: Shell) -> AsyncIterator[Gateway]:
        place = self["connect"] or shell.environ.get("GATEWAY_RPC") or f"localhost:{PORT}"
        host, _, port = (
            place.rpartition(":") if place.rpartition(":")[2].isdigit() else (place, "", str(PORT))
        )
        ca = self["ca"] or shell.environ.get("GATEWAY_CA")
        if ca is None:
            raise UsageError("say with --ca who vouches for the gateway's certificate")
        certificate = None if self["certificate"] is None else Path(self["certificate"])
        key = None if self["key"] is None else Path(self["key"])
        if (certificate is None) != (key is None):
            raise UsageError("--certificate and --key go together")
        async with self._token(shell, certificate) as token:
            gateway = await connect(
                shell.reactor,
                host.strip("[]"),
                int(port),
                ca=[Path(ca)],
                token=token,
                certificate=certificate,
                key=key,
                reconnect=not self.given,
            )
            try:
                yield gateway
            finally:
                gateway.close()

    @asynccontextmanager
    async def _token(self, shell: Shell, certificate: Path | None) -> AsyncIterator[str]:
        """What to log in with: what was given, or a ticket made for the purpose."""
        if self["token-file"] is not None:
            yield shell.read(self["token-file"]).strip()
            return
        if certificate is not None:
            yield ""
            return
        control, ticket = shell.control(), token_urlsafe(24)
        grant = {"kind": "rpc", "timeout": _LIFE, "ops": ["call", "admin"], "principal": "gatewayctl"}
        rights = {"targets": ["*"], "rights": {"allow": ["*"], "domains": ["*"]}}
        await control.ask("PUT", f"/tickets/{ticket}", {"uuid": ticket, **grant, **rights})

        async def renew() -> None:
            with suppress(Refused, Unreachable):
                await control.ask("PATCH", f"/tickets/{ticket}", {"timeout": _LIFE})

        renewing = LoopingCall(lambda: Deferred.fromCoroutine(renew()))
        renewing.clock = shell.reactor
        renewing.start(_LIFE / 3, now=False)
        try:
            yield ticket
        finally:
            renewing.stop()
            with suppress(Refused, Unreachable):
                await control.ask("DELETE", f"/tickets/{ticket}")


@define(eq=False)
class Talk:
    """What is said to one gateway.

    :ivar target: the hypervisor that commands are about; None until one is known.
    """

    _shell: Shell
    _gateway: Gateway
    target: str | None
    _hosts: dict[str, Host] = field(factory=dict, init=False)

    async def do(self, given: list[str]) -> bool:
        """Do what one line says; return False when it was the last.

        :raises words.Mistyped, gateway.errors.GatewayError:
        """
        word, *rest = given
        if word == "quit":
            return False
        if word == "help":
            self._shell.out.write(guide(rest) + "\n")
        elif word == "use":
            if len(rest) != 1:
                raise words.Mistyped(_OURS["use"])
            self.target = rest[0]
            await self._host()
        elif word == "watch":
            await self._watch(rest)
        elif word in words.WORDS:
            await self._ask(words.WORDS[word], rest)
        else:
            raise words.Mistyped(f"there is no command {word!r}; help lists them")
        return True

    async def _host(self) -> Host:
        """The hypervisor, opened once."""
        if self.target is None:
            names = [each.name for each in await self._gateway.targets()]
            if len(names) != 1:
                known = ", ".join(names) or "none"
                raise words.Mistyped(f"say which hypervisor, with --target or use; there are: {known}")
            self.target = names[0]
        host = self._hosts.get(self.target)
        if host is None:
            host = self._hosts[self.target] = await self._gateway.open(self.target)
        return host

    async def _ask(self, command: type[Asked], given: list[str]) -> None:
        values = words.read(command, given, self._shell.read_bytes)
        if b"handle" in dict(command.arguments):
            values["handle"] = (await self._host()).handle
        for name in words.COOKIES.keys() & values.keys():
            values[name] = await self._cookie(name, values[name])
        answer = await self._gateway.ask(command, **values)
        more = answer.get("cursor")
        while more and "cursor" not in values and "limit" not in values:
            page = await self._gateway.ask(command, **values, cursor=more)
            more = page["cursor"]
            answer = {name: each + page[name] if isinstance(each, list) else more
                      for name, each in answer.items()}  # fmt: skip
        self._shell.show(words.plain(answer), words.text_of(command, answer, self._shell.columns))

    async def _cookie(self, name: str, value: str) -> str:
        """What stands for the object that goes by *value*."""
        handle = (await self._host()).handle
        found = await self._gateway.ask(words.COOKIES[name], handle=handle, **words.lookup(name, value))
        return str(found[name])

    # -- events ----------------------------------------------------------------------------

    async def _watch(self, kinds: list[str]) -> None:
        await (await self._host()).subscribe(kinds or ["*"], self._happened)
        await Deferred()

    def _happened(self, event: Event) -> None:
        told: dict[str, Any] = {"seq": event.seq, "time": event.time.isoformat(), "kind": event.kind}
        told |= dict(event.payload)
        if self._shell.as_json:
            self._shell.out.write(json.dumps(words.plain(told)) + "\n")
        else:
            dom = told.get("dom") or {}
            rest = {name: value for name, value in event.payload.items() if name != "dom"}
            line = (
                f"{event.time:%H:%M:%S} {event.kind} {dom.get('name', '-')} {json.dumps(words.plain(rest))}"
            )
            self._shell.out.write(escape(line) + "\n")
        self._shell.out.flush()

    # -- the shell -------------------------------------------------------------------------

    async def converse(self) -> None:
        """Read lines until the last; what goes wrong in one does not end it."""
        prompting = self._shell.source.isatty()
        if prompting:
            _complete_with(self._complete)
            self._shell.note("Tab completes, help explains, quit or Ctrl-D ends.")
        watching: list[Deferred[Any]] = []
        while True:
            try:
                line = await deferToThread(self._line, prompting)
            except EOFError:
                break
            try:
                given = shlex.split(line, comments=True)
                if given[:1] == ["watch"]:
                    self._await(watching, given)
                elif given and not await self.do(given):
                    break
            except (words.Mistyped, ValueError) as error:
                self._shell.note(str(error))
            except errors.GatewayError as error:
                self._shell.note(words.explain(error))
        for each in watching:
            each.cancel()

    def _await(self, watching: list[Deferred[Any]], given: list[str]) -> None:
        work = Deferred.fromCoroutine(self.do(given))
        watching.append(work)
        work.addErrback(lambda failure: failure.trap(CancelledError) and None)
        work.addErrback(lambda failure: self._shell.note(failure.getErrorMessage()))

    def _line(self, prompting: bool) -> str:
        if prompting:
            return input(f"{self.target or 'gateway'}> ")
        line = self._shell.source.readline()
        if not line:
            raise EOFError
        return line

    @staticmethod
    def _complete(line: str) -> list[str]:
        """What the last word of *line* may become."""
        before, _, last = line.rpartition(" ")
        if not before.strip():
            return [word for word in (*_OURS, *sorted(words.WORDS)) if word.startswith(last)]
        command = words.WORDS.get(before.split()[0])
        known = [] if command is None else words.arguments_of(command)
        return [f"{name}=" for name in known if name.startswith(last)]


def _complete_with(complete: Any) -> None:
    """Have readline complete, where there is one."""
    try:
        import readline
    except ImportError:
        return
    found: list[str] = []

    def completer(text: str, state: int) -> str | None:
        if state == 0:
            found[:] = complete(readline.get_line_buffer()[: readline.get_endidx()])
        return found[state] if state < len(found) else None

    readline.set_completer_delims(" ")
    readline.set_completer(completer)
    readline.parse_and_bind("tab: complete")


def guide(about: Any = ()) -> str:
    """What there is, or what one command does.

    :raises words.Mistyped: there is no such command.
    """
    if not about:
        width = max(map(len, words.WORDS))
        lines = [f"  {word.ljust(width)}  {words.summary(words.WORDS[word])}" for word in sorted(words.WORDS)]
        return "\n".join(["The shell's own:", *(f"  {text}" for text in _OURS.values()), "Commands:", *lines])
    if about[0] in _OURS:
        return _OURS[about[0]]
    if about[0] not in words.WORDS:
        raise words.Mistyped(f"there is no command {about[0]!r}")
    command = words.WORDS[about[0]]
    lines = [line.strip() for line in (command.__doc__ or "").strip().splitlines()]
    return "\n".join([words.synopsis(command), "", *lines])
