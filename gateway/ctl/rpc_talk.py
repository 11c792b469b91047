"""What is said to hypervisors: one command after the other, by whoever types or pipes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred

from gateway import errors
from gateway.ctl import rpc_bytes, rpc_text
from gateway.ctl import rpc_words as words
from gateway.ctl.rpc_entrance import Entrance
from gateway.ctl.shell import Shell
from gateway.rpc import commands
from gateway.rpc.client import Event, Gateway, Host
from gateway.rpc.command import Command

OURS = {
    "help": "help [COMMAND]: what there is, or what one does",
    "use": "use TARGET: go on with another hypervisor",
    "watch": "watch [KIND …] [count=NUMBER]: print events as they happen, until Ctrl-C",
    "quit": "quit: leave the shell",
}
#: What is answered with a link.
_LINKS = (commands.Console, commands.Graphics, *words.MOVES)


def guide(about: Sequence[str] = ()) -> str:
    """What there is, or what one command does.

    :raises words.Mistyped: there is no such command.
    """
    if not about:
        width = max(map(len, words.WORDS))
        lines = [f"  {word.ljust(width)}  {words.summary(words.WORDS[word])}" for word in sorted(words.WORDS)]
        return "\n".join(["The shell's own:", *(f"  {text}" for text in OURS.values()), "Commands:", *lines])
    if about[0] in OURS:
        return OURS[about[0]]
    if about[0] not in words.WORDS:
        raise words.Mistyped(f"there is no command {about[0]!r}")
    return words.guide(words.WORDS[about[0]])


@define(eq=False)
class Talk:
    """A talk with one gateway, over as many connections as it takes.

    :ivar target: the hypervisor that commands are about; None until one is known.
    :ivar lasting: whether a lost connection is made again at once.
    """

    _shell: Shell
    _entrance: Entrance
    target: str | None
    lasting: bool = False
    _gateway: Gateway | None = field(default=None, init=False)
    _hosts: dict[str, Host] = field(factory=dict, init=False)

    async def do(self, given: Sequence[str]) -> bool:
        """Do what one line says; return False when it was the last.

        :raises words.Mistyped, gateway.errors.GatewayError, Failed:
        """
        word, *rest = given
        if word == "quit":
            return False
        if word == "help":
            self._shell.out.write(guide(rest) + "\n")
            self._shell.out.flush()
        elif word == "use":
            if len(rest) != 1:
                raise words.Mistyped(OURS["use"])
            await self._again(lambda: self._host(rest[0]))
            self.target = rest[0]
        elif word == "watch":
            await self._again(lambda: self._watch(rest))
        elif word in words.WORDS:
            await self._again(lambda: self._command(words.WORDS[word], rest))
        else:
            raise words.Mistyped(f"there is no command {word!r}; help lists them")
        return True

    async def greet(self) -> None:
        """Log in, so that what is wrong is known before anything is asked."""
        await self._inside()

    async def end(self) -> None:
        """Give back what was opened, and hang up."""
        gateway, self._gateway = self._gateway, None
        if gateway is None:
            return
        if gateway.up:
            for host in self._hosts.values():
                with suppress(errors.GatewayError):
                    await host.close()
        gateway.close()

    # -- connection ------------------------------------------------------------------------

    async def _inside(self) -> Gateway:
        if self._gateway is None:
            gateway = await self._entrance.enter(reconnect=self.lasting)
            gateway.ended = lambda reason: self._lost(gateway)
            self._gateway = gateway
        return self._gateway

    def _lost(self, gateway: Gateway | None) -> None:
        """With the next command there is another connection, and a new ticket if that is what ended."""
        if self._gateway is gateway:
            self._gateway = None
            self._hosts.clear()

    async def _again(self, work: Callable[[], Any]) -> Any:
        """Do *work*; once more when the handle or the ticket that it began with is over."""
        if self._gateway is not None and not self._gateway.up:
            self._shell.note("the gateway is gone; waiting for it, until Ctrl-C")
        try:
            return await work()
        except errors.Unauthorized:
            self._lost(self._gateway)
        except errors.NoHandle:
            if not self._hosts:
                raise
            self._hosts.clear()
        # What was refused so was not done.
        return await work()

    async def _names(self) -> list[str]:
        return [each.name for each in await (await self._inside()).targets()]

    async def _host(self, name: str | None = None) -> Host:
        """The hypervisor, opened once."""
        gateway = await self._inside()
        name = name or self.target
        if name is None:
            names = await self._names()
            if len(names) != 1:
                known = ", ".join(names) or "none"
                raise words.Mistyped(f"say which hypervisor, with --target or use; there are: {known}")
            name = self.target = names[0]
        if name not in self._hosts:
            try:
                self._hosts[name] = await gateway.open(name)
            except errors.NoTarget:
                known = ", ".join(await self._names()) or "none"
                raise words.Mistyped(f"there is no target {name!r}; there are: {known}") from None
        return self._hosts[name]

    # -- commands --------------------------------------------------------------------------

    async def _command(self, command: type[Command], given: list[str]) -> None:
        path, given = self._path(command, given)
        values = await self._arguments(command, given)
        if command in _LINKS and path is None:
            await self._entrance.keep() if not self.lasting else None
        answer = await self._pages(command, values)
        if command is commands.Close:
            self._hosts.clear()
        if path is not None:
            move = rpc_bytes.send if words.MOVES[command] else rpc_bytes.fetch
            await move(self._shell, self._entrance.ca, answer["url"], path)
            return
        page = self._entrance.console_url
        more = (
            f"\npage     {page}/ui/console#{answer['ticket']}"
            if page and "console" in answer.get("url", "")
            else ""
        )
        text = rpc_text.text_of(command, answer, self._shell.columns) + more
        self._shell.show(rpc_text.document(command, answer), text)

    @staticmethod
    def _path(command: type[Command], given: list[str]) -> tuple[str | None, list[str]]:
        """The file whose bytes are to be moved, and what else was typed."""
        found = [each for each in given if each.startswith("file=")] if command in words.MOVES else []
        return (found[-1][5:] if found else None), [each for each in given if each not in found]

    async def _arguments(self, command: type[Command], given: Sequence[str]) -> dict[str, Any]:
        values = words.read(command, given, self._shell.read_bytes)
        if b"handle" in dict(command.arguments):
            values["handle"] = (await self._host()).handle
        else:
            await self._inside()
        for name in words.COOKIES.keys() & values.keys():
            values[name] = await self._cookie(name, values[name])
        return values

    async def _pages(self, command: type[Command], values: dict[str, Any]) -> dict[str, Any]:
        gateway = await self._inside()
        answer = await gateway.ask(command, **values)
        if "cursor" in answer and not values.keys() & {"cursor", "limit"}:
            while more := answer["cursor"]:
                answer = rpc_text.joined(command, answer, await gateway.ask(command, **values, cursor=more))
        return answer

    async def _cookie(self, name: str, value: str) -> str:
        """What stands for the object that goes by *value*."""
        handle = (await self._host()).handle
        *others, last = words.lookups(name, value)
        for each in others:
            with suppress(errors.GatewayError):
                return str((await self._pages(words.COOKIES[name], {"handle": handle, **each}))[name])
        return str((await self._pages(words.COOKIES[name], {"handle": handle, **last}))[name])

    # -- events ----------------------------------------------------------------------------

    async def _watch(self, given: list[str]) -> None:
        counts = [each[6:] for each in given if each.startswith("count=")]
        if any(not each.isdigit() or each == "0" for each in counts):
            raise words.Mistyped(OURS["watch"])
        kinds = [each for each in given if not each.startswith("count=")] or ["*"]
        left = int(counts[-1]) if counts else -1
        seen: int | None = None
        while True:
            over: Deferred[None] = Deferred()

            def happened(event: Event, over: Deferred[None] = over) -> None:
                nonlocal left, seen
                if not over.called:
                    left, seen = left - 1, event.seq
                    self._happened(event)
                    if left == 0:
                        over.callback(None)

            subscription = await (await self._host()).subscribe(kinds, happened, from_seq=seen)
            if seen is None:
                self._shell.note("watching, until Ctrl-C")
            subscription.ended = over.errback
            seen = subscription.seq
            try:
                await over
            except errors.Unauthorized:
                # With another ticket it goes on where it was.
                self._lost(self._gateway)
                continue
            finally:
                subscription.ended = lambda reason: None
                ending = Deferred.fromCoroutine(subscription.unsubscribe())
                ending.addErrback(lambda failure: failure.trap(errors.GatewayError) and None)
            return

    def _happened(self, event: Event) -> None:
        payload = rpc_text.plain(dict(event.payload))
        told = {"seq": event.seq, "time": event.time.isoformat(), "kind": event.kind, **payload}
        texts = (
            [json.dumps(told)]
            if self._shell.as_json
            else rpc_text.event_lines(event.time, event.kind, payload)
        )
        self._shell.out.write("".join(f"{text}\n" for text in texts))
        self._shell.out.flush()

    # What completion wants to know; nobody waits for a gateway that is gone.

    async def known(self, command: type[Command], given: Sequence[str]) -> dict[str, Any]:
        self._is_up()
        return await self._pages(command, await self._arguments(command, given))

    async def known_targets(self) -> list[str]:
        self._is_up()
        return await self._names()

    def _is_up(self) -> None:
        if self._gateway is None or not self._gateway.up:
            raise words.Mistyped("there is no connection")
