"""All commands under one name; how a command line becomes an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import react
from twisted.python.usage import UsageError

from gateway.ctl.command import Command, HelpWanted
from gateway.ctl.completion import script
from gateway.ctl.control import Refused, Unreachable
from gateway.ctl.link_commands import Link
from gateway.ctl.recording_commands import Recording
from gateway.ctl.rpc_command import Rpc
from gateway.ctl.service_commands import Check, Drain, Reload, Status
from gateway.ctl.session_commands import Session
from gateway.ctl.shell import Failed, Shell
from gateway.ctl.ticket_commands import Ticket
from gateway.ctl.token_inspect import Inspect
from gateway.ctl.token_issue import Issue

_SHELLS = ("bash", "zsh")
#: Seconds that a command which was interrupted has to put things in order.
_LAST = 3.0


class Token(Command):
    """Signed tokens."""

    example = "gatewayctl token inspect < token.txt"
    subCommands: ClassVar[list[Any]] = [
        ("issue", None, Issue, "sign a token as an engine does"),
        ("inspect", None, Inspect, "explain a token, and say whether it is good"),
    ]


class Completion(Command):
    """Print the completion script of a shell."""

    arguments = "bash|zsh"
    completes = _SHELLS
    example = (
        "gatewayctl completion bash > /usr/share/bash-completion/completions/gatewayctl\n"
        'gatewayctl completion zsh > "${fpath[1]}/_gatewayctl"'
    )

    def parseArgs(self, *given: str) -> None:
        if len(given) != 1 or given[0] not in _SHELLS:
            raise UsageError("say which shell: bash or zsh")
        self.kind = given[0]

    async def run(self, shell: Shell) -> None:
        text = script(Gatewayctl, self.kind)
        shell.show({"shell": self.kind, "script": text}, text.rstrip("\n"))


class Gatewayctl(Command):
    """Command line of the gateway."""

    longdesc = (
        "Asks a running gateway over its control listener. Every command knows --json, --control and --help. "
        "The exit status is 0 for done, 1 for refused or failed, 2 for a command line that makes no sense."
    )
    example = "gatewayctl status\ngatewayctl link download /var/lib/gateway/images/disk.img --curl --wait"
    subCommands: ClassVar[list[Any]] = [
        ("ticket", None, Ticket, "install tickets and look after them"),
        ("session", None, Session, "what is alive, and how to end it"),
        ("token", None, Token, "sign and explain tokens"),
        ("link", None, Link, "a ticket and the URL to use it"),
        ("recording", None, Recording, "what was recorded of consoles"),
        ("rpc", None, Rpc, "ask hypervisors, one command at a time or in a shell"),
        ("status", None, Status, "how the gateway is"),
        ("drain", None, Drain, "let no new session begin"),
        ("reload", None, Reload, "read configuration and certificates again"),
        ("check", None, Check, "judge a configuration"),
        ("completion", None, Completion, "the completion script of bash or zsh"),
    ]


async def execute(arguments: Sequence[str], shell: Shell) -> int:
    """Run the command in *arguments* and return the exit status: 0 done, 1 refused or failed, 2 usage."""
    command: Command = Gatewayctl()
    try:
        command.parseOptions(list(arguments))
        command = leaf(command)
        shell.as_json = bool(command.setting("json"))
        shell.control_at = command.setting("control")
        await command.run(shell)
    except HelpWanted as wanted:
        shell.out.write(str(wanted))
        shell.out.flush()
    except UsageError as error:
        path = leaf(command).path
        text = str(error).removeprefix("Parameter type enforcement failed: ")
        shell.note(f"{path}: {text}; see '{path} --help'")
        return 2
    except (Failed, Refused, Unreachable) as error:
        for line in str(error).splitlines() or ["refused"]:
            shell.note(f"gatewayctl: {line}")
        return 1
    return 0


def leaf(command: Command) -> Command:
    """The innermost command that was reached."""
    below = getattr(command, "subOptions", None)
    return leaf(below) if isinstance(below, Command) else command


async def _run(reactor: Any, arguments: Sequence[str]) -> None:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    shell = Shell(
        reactor=reactor,
        out=sys.stdout,
        err=sys.stderr,
        source=sys.stdin,
        environ=os.environ,
        wall=lambda: datetime.now(UTC).timestamp(),
    )
    running = Deferred.fromCoroutine(execute(arguments, shell))
    over: Deferred[None] = Deferred()

    def interrupted() -> Deferred[None]:
        # What a command has to put in order, it does before we go.
        running.cancel()
        return over.addTimeout(_LAST, reactor, onTimeoutCancel=lambda *_: None)

    reactor.addSystemEventTrigger("before", "shutdown", interrupted)
    try:
        code = await running
    except CancelledError:  # interrupted; what a shell reports then
        code = 130
    except BrokenPipeError:  # nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    finally:
        over.callback(None)
    raise SystemExit(code)


def main() -> None:
    """Run the command in ``sys.argv`` and exit with its status."""
    react(_run, (sys.argv[1:],))
