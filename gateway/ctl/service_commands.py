"""``gatewayctl status | drain | reload | check``: the gateway as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from twisted.internet.task import deferLater
from twisted.python.usage import UsageError

from gateway.ctl.command import Command, Row, param
from gateway.ctl.control import Control, Refused, Unreachable
from gateway.ctl.display import age, cell, facts, size, table
from gateway.ctl.progress import bar
from gateway.ctl.shell import Failed, Shell, problems
from gateway.errors import ConfigError


def _no_arguments(given: tuple[str, ...]) -> None:
    if given:
        raise UsageError("this command takes no arguments")


class Status(Command):
    """Show how the gateway is."""

    example = "gatewayctl status --json"

    def parseArgs(self, *given: str) -> None:
        _no_arguments(given)

    async def run(self, shell: Shell) -> None:
        status = await shell.control().get("/status")
        shell.show(status, describe(status, shell.columns))


def describe(status: Mapping[str, Any], width: int | None) -> str:
    """The answer of ``GET /status`` for people."""
    checks = status.get("checks") or {}
    config = status.get("config") or {}
    state = "draining" if status.get("draining") else "ready" if status.get("ready") else "not ready"
    parts = [
        facts(
            {
                "state": state,
                "checks": ", ".join(f"{name} {_check(value)}" for name, value in checks.items()),
                "version": status.get("version"),
                "pid": status.get("pid"),
                "up": f"{age(status.get('uptime') or 0)}, since {status.get('started')}",
                "public url": status.get("public_url"),
                "tickets": "; ".join(
                    f"{kind}: {_counts(states)}" for kind, states in _items(status, "tickets")
                ),
                "sessions": ", ".join(f"{kind}: {count}" for kind, count in _items(status, "sessions")),
                "their bytes in": size(status.get("bytes_in") or 0),
                "and out": size(status.get("bytes_out") or 0),
                "configuration": config.get("file"),
            },
            width,
        )
    ]
    listeners = [(it.get("service"), it.get("listen"), it.get("tls")) for it in status.get("listeners") or ()]
    if listeners:
        parts.append(table(("SERVICE", "LISTEN", "TLS"), listeners, width))
    targets = [
        (
            it.get("target"),
            it.get("state"),
            f"{1000 * it['latency']:.1f} ms" if it.get("latency") else None,
            it.get("generation"),
            it.get("error"),
        )
        for it in status.get("targets") or ()
    ]
    if targets:
        heads = ("TARGET", "STATE", "LATENCY", "GENERATION", "LAST ERROR")
        parts.append(table(heads, targets, width, right={"LATENCY", "GENERATION"}))
    papers = [
        (it.get("file"), it.get("not_after"), int(it.get("days_left") or 0))
        for it in status.get("certificates") or ()
    ]
    if papers:
        parts.append(table(("CERTIFICATE", "GOOD UNTIL", "DAYS"), papers, width, right={"DAYS"}))
    parts += [f"warning: {cell(text)}" for text in config.get("warnings") or ()]
    return "\n\n".join(parts)


def _check(value: object) -> str:
    """One readiness check, which is a truth or an object of ``ok`` and ``text``."""
    good, text = (value.get("ok"), value.get("text")) if isinstance(value, dict) else (value, "")
    return ("ok" if good else "FAILED") + (f" ({text})" if text else "")


def _items(status: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    return sorted((status.get(name) or {}).items())


def _counts(states: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in states.items())


class Drain(Command):
    """Let no new session begin, so that the gateway can be stopped."""

    example = "gatewayctl drain --wait && systemctl stop gateway"
    optFlags: ClassVar[list[Row]] = [["wait", "w", "wait until no session is left, and show how many are"]]

    def parseArgs(self, *given: str) -> None:
        _no_arguments(given)

    async def run(self, shell: Shell) -> None:
        control = shell.control()
        answer = await control.ask("POST", "/drain")
        count = int(answer.get("sessions") or 0)
        if not self["wait"]:
            shell.show(answer, f"draining, {count} sessions are left")
            return
        await self._wait(shell, control, count)
        shell.show({**answer, "sessions": 0}, "drained, no session is left")

    async def _wait(self, shell: Shell, control: Control, first: int) -> None:
        shown, left = -1, first
        width = None if shell.as_json else shell.progress_columns
        while left:
            if width is not None:
                shell.err.write(f"\r{bar(width - 1, 1 - left / first, moved=f'{left} sessions left')}\x1b[K")
                shell.err.flush()
            elif left != shown and not shell.as_json:
                shell.note(f"{left} sessions left")
            shown = left
            await deferLater(shell.reactor, shell.pause)
            try:
                status = await control.get("/status")
            except Unreachable:  # it has drained and gone
                break
            left = sum((status.get("sessions") or {}).values())
            first = max(first, left)
        if width is not None and shown > 0:
            shell.note("")


class Reload(Command):
    """Let the gateway read its configuration and certificates again."""

    example = "gatewayctl check && gatewayctl reload"

    def parseArgs(self, *given: str) -> None:
        _no_arguments(given)

    async def run(self, shell: Shell) -> None:
        try:
            answer = await shell.control().ask("POST", "/reload")
        except Refused as error:
            if shell.as_json:
                shell.show({"reloaded": False, "problems": error.problems or [str(error)]}, "")
            told = error.problems or (str(error),)
            raise Failed("\n".join((*told, "not reloaded, the old configuration stays in effect"))) from None
        warnings = answer.get("warnings") or ()
        shell.show(answer, "\n".join(["reloaded", *(f"warning: {cell(text)}" for text in warnings)]))


class Check(Command):
    """Judge a configuration as the gateway would, and open every file it names."""

    example = "gatewayctl check --config /etc/gateway/gateway.conf"
    longdesc = "Needs no running gateway."
    optParameters: ClassVar[list[Row]] = [
        param("config", "C", "/etc/gateway/gateway.conf", "the configuration", files=True)
    ]

    def parseArgs(self, *given: str) -> None:
        _no_arguments(given)

    async def run(self, shell: Shell) -> None:
        from gateway.core.config import load  # pydantic is slow to come

        path = self["config"]
        try:
            config = load(path, opened=True)
        except ConfigError as error:
            if shell.as_json:
                shell.show({"good": False, "problems": error.problems, "warnings": []}, "")
            raise problems(error) from None
        warnings = config.warnings
        text = "\n".join([f"{path}: good", *(f"warning: {cell(warning)}" for warning in warnings)])
        shell.show({"good": True, "problems": [], "warnings": warnings}, text)
