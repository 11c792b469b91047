"""``gatewayctl recording``, and links to recordings: what was kept of consoles."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from twisted.python.usage import UsageError

from gateway.core.masking import fingerprint
from gateway.ctl.command import Command, Row, param, whole_seconds
from gateway.ctl.control import Control, Document
from gateway.ctl.display import since, size, table
from gateway.ctl.shell import Failed, Shell
from gateway.ctl.ticket_commands import install, new_id

#: Seconds a link is good for when nothing is said.
_TIMEOUT = 3600
#: Of a list, in one answer.
_PAGE = 1000


class List(Command):
    """List recordings, the oldest first."""

    example = "gatewayctl recording list"

    async def run(self, shell: Shell) -> None:
        query = {"limit": _PAGE}
        found = [item async for item in shell.control().pages("/recordings/", "recordings", query)]
        now = shell.wall()
        rows = [
            (
                item.get("name"),
                item.get("session"),
                item.get("ticket"),
                size(item.get("size") or 0),
                since(item.get("began"), now),
                "complete" if item.get("complete") else "in work",
            )
            for item in found
        ]
        headers = ("NAME", "SESSION", "TICKET", "SIZE", "AGE", "STATE")
        shell.show({"recordings": found}, table(headers, rows, shell.columns, right={"SIZE", "AGE"}))


class Recording(Command):
    """Recordings of consoles."""

    example = "gatewayctl recording list --json"
    subCommands: ClassVar[list[Any]] = [("list", None, List, "what was recorded")]


class Replay(Command):
    """Make a link that a recording can be watched at."""

    arguments = "NAME"
    longdesc = (
        "NAME is that of a complete recording, as 'gatewayctl recording list' shows it. Whoever has the "
        "link may watch the recording, and download it; nobody can change it."
    )
    example = "gatewayctl link recording 20260131T120000Z-0123456789ab-0123456789ab.fbs --timeout 15m"
    optParameters: ClassVar[list[Row]] = [
        param("timeout", "t", None, "how long the link is good for [default: 1h]", whole_seconds),
        param("principal", "P", None, "who it is given to, for the audit trail"),
    ]

    def parseArgs(self, *given: str) -> None:
        if len(given) != 1 or not given[0]:
            raise UsageError("say which one: the NAME of a recording")
        self.name = given[0]

    async def run(self, shell: Shell) -> None:
        control = shell.control()
        status = await control.get("/status")
        base = str(status.get("public_url") or "").rstrip("/")
        if not base:
            raise Failed("the gateway does not know its own address: set public_url in [gateway] and reload")
        if not status.get("pages"):
            raise Failed("the gateway serves no pages: add [web], or use 'gatewayctl link download'")
        found = await find(control, self.name)
        ticket = {
            "uuid": new_id(),
            "url": Path(found["path"]).as_uri(),
            "size": found["size"],
            "ops": ["read"],
            "timeout": self["timeout"] or _TIMEOUT,
            "filename": self.name,
            **({"principal": self["principal"]} if self["principal"] else {}),
        }
        await install(shell, ticket)
        link = f"{base}/ui/replay#{ticket['uuid']}"
        document = {"id": ticket["uuid"], "ticket": fingerprint(str(ticket["uuid"])), "url": link}
        document["download"] = f"{base}/images/{ticket['uuid']}"
        shell.show({**document, "name": self.name, "size": found["size"]}, link)


async def find(control: Control, name: str) -> Document:
    """The complete recording *name*.

    :raises Failed: there is none.
    """
    # Whatever stands behind all that come before it.
    page = await control.get("/recordings/", {"after": name[:-1], "limit": 1})
    for item in page.get("recordings") or ():
        if item.get("name") == name:
            if item.get("complete"):
                return dict(item)
            raise Failed(f"{name} is still being recorded")
    raise Failed(f"there is no recording {name}; see 'gatewayctl recording list'")
