"""``gatewayctl session``: what is alive, and how to end it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from twisted.internet.task import deferLater
from twisted.python.usage import UsageError

from gateway.core.units import parse_count, parse_seconds
from gateway.ctl.command import Command, Row, param, ticket_id
from gateway.ctl.control import Control, Document, Refused, segment
from gateway.ctl.display import age, cell, cut, rate, since, size, table
from gateway.ctl.progress import bar
from gateway.ctl.shell import Shell
from gateway.ctl.ticket_commands import KINDS, delete_each

_HEADERS = ("SESSION", "KIND", "OP", "TICKET", "PRINCIPAL", "PEER", "TARGET", "IN", "OUT", "RATE", "AGE")
_RIGHT = frozenset({"IN", "OUT", "RATE", "AGE"})
#: Columns of a bar in the table.
_BAR = 20
_CLEAR = "\x1b[H\x1b[J"

_FILTERS = [
    param("ticket", "t", None, "only those under this ticket: its ID or fingerprint", ticket_id),
    param("kind", "k", None, "only of this kind", words=KINDS),
    param("principal", "P", None, "only those of this principal"),
]


def session_row(session: Mapping[str, Any], now: float) -> list[object]:
    """What the table shows of one session."""
    names = ("id", "kind", "op", "ticket", "principal", "peer", "target")
    return [
        *(session.get(name) for name in names),
        size(session.get("bytes_in") or 0),
        size(session.get("bytes_out") or 0),
        rate(session.get("rate") or 0),
        since(session.get("since"), now),
    ]


def session_table(sessions: Sequence[Mapping[str, Any]], now: float, width: int | None) -> str:
    """All *sessions*; tunnels with the console they belong to, and a bar behind those whose size is known."""
    rows = [session_row(session, now) for session in sessions]
    headers: tuple[str, ...] = _HEADERS
    if any(session.get("console") for session in sessions):
        headers = (*headers, "CONSOLE")
        rows = [[*row, session.get("console")] for row, session in zip(rows, sessions, strict=True)]
    bars = [progress(session) for session in sessions]
    if any(bars):
        headers = (*headers, "PROGRESS")
        rows = [[*row, text] for row, text in zip(rows, bars, strict=True)]
    return table(headers, rows, width, right=_RIGHT)


def progress(session: Mapping[str, Any]) -> str:
    """The bar of a transfer, empty for what has none."""
    total, moved = session.get("size"), session.get("transferred")
    if session.get("kind") != "image" or not isinstance(total, int) or total <= 0:
        return ""
    if not isinstance(moved, int):
        moved = (session.get("bytes_in") or 0) + (session.get("bytes_out") or 0)
    return bar(_BAR, moved / total)


class _Filtered(Command):
    """Options that choose sessions."""

    optParameters: ClassVar[list[Row]] = _FILTERS

    async def find(self, control: Control) -> list[Document]:
        """The sessions that were asked for."""
        query = {name: self[name] for name in ("ticket", "kind", "principal")}
        found = await control.get("/sessions/", query)
        return list(found.get("sessions") or ())


class List(_Filtered):
    """List live sessions."""

    example = "gatewayctl session list --kind image"

    async def run(self, shell: Shell) -> None:
        found = await self.find(shell.control())
        shell.show({"sessions": found}, session_table(found, shell.wall(), shell.columns))


class Kill(Command):
    """End sessions; their tickets stay."""

    arguments = "ID..."
    example = "gatewayctl session kill 3fa9c1d2e4b7"

    def parseArgs(self, *given: str) -> None:
        if not given:
            raise UsageError("say which one: the ID that 'gatewayctl session list' shows is missing")
        self.ids = given

    async def run(self, shell: Shell) -> None:
        await delete_each(shell, {one: f"/sessions/{segment(one)}" for one in self.ids}, "killed")


class Watch(_Filtered):
    """Show live sessions again and again, until interrupted."""

    longdesc = (
        "On a terminal the table is drawn anew each time; elsewhere each session is one line, and with "
        "--json each time is one line. With --ticket ID the transfers of an image ticket have a progress bar."
    )
    example = "gatewayctl session watch --ticket 11111111-1111-4111-8111-111111111111 --interval 1s"
    optParameters: ClassVar[list[Row]] = [
        param("interval", "i", 2.0, "time between two looks", parse_seconds),
        param("count", "n", None, "end after so many looks [default: never]", parse_count),
    ]

    def postOptions(self) -> None:
        if self["interval"] < 0.1:
            raise UsageError("--interval is 100ms or more")

    async def run(self, shell: Shell) -> None:
        control = shell.control()
        looks = 0
        while True:
            sessions = await self.find(control)
            await self._measure(control, sessions)
            self._draw(shell, sessions)
            looks += 1
            if looks == self["count"]:
                return
            await deferLater(shell.reactor, self["interval"])

    async def _measure(self, control: Control, sessions: Sequence[Document]) -> None:
        """Add the size of the image to sessions of the one ticket whose id we know."""
        if not self["ticket"] or not any(session.get("kind") == "image" for session in sessions):
            return
        try:
            ticket = await control.get(f"/tickets/{segment(self['ticket'])}")
        except Refused:  # a fingerprint: it finds sessions, but no ticket
            return
        for session in sessions:
            session |= {name: ticket[name] for name in ("size", "transferred") if name in ticket}

    def _draw(self, shell: Shell, sessions: Sequence[Document]) -> None:
        now = shell.wall()
        if shell.as_json:
            text = json.dumps({"sessions": sessions})
        elif shell.columns is None or shell.rows is None:
            text = "\n".join(plain(session, now) for session in sessions) or "no sessions"
        else:
            total = sum(session.get("rate") or 0 for session in sessions)
            head = f"{len(sessions)} sessions, {rate(total)}, every {age(self['interval'])}"
            lines = [head, *session_table(sessions, now, shell.columns).splitlines()]
            text = _CLEAR + "\n".join(cut(line, shell.columns) for line in lines[: shell.rows - 1])
        shell.out.write(text + "\n")
        shell.out.flush()


def plain(session: Mapping[str, Any], now: float) -> str:
    """One session as one line, for files and pipes."""
    pairs = zip(_HEADERS, session_row(session, now), strict=True)
    words = [f"{name.lower()}={cell(value).replace(' ', '')}" for name, value in pairs]
    if session.get("console"):
        words.append(f"console={session['console']}")
    return " ".join([*words, progress(session)]).rstrip()


class Session(Command):
    """What is alive: transfers, consoles, tunnels, connections."""

    example = "gatewayctl session list"
    subCommands: ClassVar[list[Any]] = [
        ("list", None, List, "list live sessions"),
        ("kill", None, Kill, "end sessions; their tickets stay"),
        ("watch", None, Watch, "show live sessions again and again"),
    ]
