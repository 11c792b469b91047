"""``gatewayctl ticket``: install tickets and look after them."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from secrets import token_bytes
from typing import Any, ClassVar
from urllib.parse import unquote
from uuid import UUID

from twisted.python.usage import UsageError

from gateway.core.masking import fingerprint
from gateway.core.ticket_state import State
from gateway.core.units import parse_bytes, parse_count
from gateway.ctl.command import FILES, Command, Row, ids, param, ticket_id, whole_seconds
from gateway.ctl.control import Document, Refused, segment
from gateway.ctl.display import facts, since, size, table, until
from gateway.ctl.shell import Failed, Shell
from gateway.wire.strict_json import load_object
from gateway.wire.ticket_json import Kind

KINDS = tuple(str(kind) for kind in Kind)
STATES = tuple(str(state) for state in State)

#: What a ticket grants when nothing is said.
_OPS = {"image": "read", "console": "view,control", "tunnel": "connect", "rpc": "call", "publish": "read"}
_TIMEOUT = 300


def new_id() -> str:
    """A ticket id nobody can guess: a random UUID."""
    return str(UUID(bytes=token_bytes(16), version=4))


def file_size(path: str) -> int | None:
    """Bytes of the file or block device at *path*; None when it cannot be seen from here."""
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            return status.st_size
        if stat.S_ISBLK(status.st_mode):
            with open(path, "rb") as device:
                return device.seek(0, os.SEEK_END)
    except OSError:
        pass
    return None


def size_behind(url: str) -> int | None:
    """Bytes of what a ``file:`` *url* names, when that can be seen from here."""
    scheme, _, rest = url.partition(":")
    return file_size("/" + unquote(rest).lstrip("/")) if scheme == "file" else None


def words(text: str) -> list[str]:
    """The words of a list such as ``read,write``."""
    return [word.strip() for word in text.split(",") if word.strip()]


class Add(Command):
    """Install a ticket."""

    arguments = "[FILE|-]"
    completes = FILES
    longdesc = (
        "The ticket is the JSON of FILE, or of standard input for -, with what options say put over it. An "
        "id that nobody gave is made and printed; whoever knows it may use the ticket."
    )
    example = (
        "gatewayctl ticket add --url file:///var/lib/gateway/images/disk.img --ops read --timeout 1h\n"
        "gatewayctl ticket add --kind console --url vnc://127.0.0.1:5971 --uses 1 --principal alice\n"
        "gatewayctl ticket add --kind rpc --targets lab --allow read,domain:start --domains 'web-*'"
    )
    optParameters: ClassVar[list[Row]] = [
        param("id", "i", None, "the ticket's id [default: a new UUID]", ticket_id),
        param("kind", "k", None, "what it opens: " + ", ".join(KINDS), words=KINDS),
        param(
            "url", "u", None, "where the target is, such as https://host:54322/images/ID or vnc://host:5900"
        ),
        param(
            "size", "s", None, "bytes of the image: 10G, 512M [default: of the file, if seen]", parse_bytes
        ),
        param("timeout", "t", None, "how long it is good for: 90s, 15m, 1h [default: 5m]", whole_seconds),
        param(
            "ops",
            "o",
            None,
            "what it grants, with commas: read,write or view,control,takeover or connect",
            words,
        ),
        param("uses", "n", None, "sessions it may open in all [default: any number]", parse_count),
        param("peer", "p", None, "address or network the client must come from"),
        param("principal", "P", None, "who it is given to, for the audit trail"),
        param("filename", "f", None, "name that a download is offered under"),
        param("targets", "T", None, "rpc: hypervisors it leads to, with commas and globs", words),
        param("allow", "A", None, "rpc: permissions such as read,domain:start, or *", words),
        param("domains", "D", None, "rpc: uuids, or globs on names [default: *]", words),
    ]
    optFlags: ClassVar[list[Row]] = [
        ["sparse", None, "zeroed parts of the image need no space"],
        ["shared", None, "all who look at this VNC console share one connection to it"],
        ["record", None, "keep what this VNC or serial console shows"],
    ]

    def parseArgs(self, file: str = "") -> None:
        self.file = file
        if not file and not self["url"] and self["kind"] not in ("rpc", "publish"):
            raise UsageError("say what the ticket opens: --url, or the FILE with its JSON")

    async def run(self, shell: Shell) -> None:
        ticket = self._read(shell) if self.file else {}
        given = {name: self[name] for name, *_ in Add.optParameters if name != "id"}
        rights = {name: given.pop(name) for name in ("allow", "domains") if given[name] is not None}
        if rights:
            stored = ticket.get("rights")
            ticket["rights"] = (stored if isinstance(stored, dict) else {}) | rights
        ticket |= {name: value for name, value in given.items() if value is not None}
        ticket |= {name: True for name, *_ in Add.optFlags if self[name]}
        ticket["uuid"] = self["id"] or ticket.get("uuid") or new_id()
        kind = str(ticket.get("kind", Kind.IMAGE))
        ticket.setdefault("ops", words(_OPS.get(kind, "")))
        ticket.setdefault("timeout", _TIMEOUT)
        if kind == Kind.IMAGE and "size" not in ticket:
            found = size_behind(str(ticket.get("url", "")))
            if found is None:
                raise Failed("the size of the image is not known here: say it with --size")
            ticket["size"] = found
        await install(shell, ticket)
        shown = {"id": ticket["uuid"], "ticket": fingerprint(ticket["uuid"]), "timeout": ticket["timeout"]}
        shell.show(shown, str(ticket["uuid"]))

    def _read(self, shell: Shell) -> Document:
        try:
            return load_object(shell.read(self.file))
        except ValueError as error:
            raise Failed(f"the ticket in {self.file} cannot be read: {error}") from None


async def install(shell: Shell, ticket: Mapping[str, Any]) -> None:
    """Add *ticket* to the gateway.

    :raises Failed: when its id cannot stand in a URL.
    :raises Refused, Unreachable:
    """
    try:
        path = ticket_id(str(ticket["uuid"]))
    except ValueError as error:
        raise Failed(f"uuid of the ticket: right would be {error}") from None
    await shell.control().ask("PUT", f"/tickets/{segment(path)}", ticket)


async def foresee(shell: Shell, ticket: Mapping[str, Any]) -> None:
    """Look whether the policy lets the gateway reach what *ticket* is for.

    :raises Failed: it refuses all of it, and a link would open nothing.
    :raises Refused, Unreachable:
    """
    try:
        asked = {name: value for name, value in ticket.items() if name not in ("secret", "user")}
        found = (await shell.control().ask("POST", "/policy", asked)).get("targets") or []
    except Refused as error:
        if error.status != 404:
            raise
        # A gateway from before it could be asked.
        return
    told: list[str] = []
    for it in found:
        if it["allowed"] is None:
            shell.note(f"nobody knows the host of {it['target']} yet: the link opens nothing before that")
        elif not it["allowed"]:
            rules = ", ".join(it["rules"])
            told.append(
                f"the gateway's policy does not let it reach {it['target']}: add {rules} to allow in "
                "[policy], see that nothing in deny covers it, and run: gatewayctl reload"
            )
    if told and len(told) == len(found):
        raise Failed("\n".join(told))
    for text in told:
        shell.note(text)


class Show(Command):
    """Show one ticket."""

    arguments = "ID"
    example = "gatewayctl ticket show 11111111-1111-4111-8111-111111111111"

    def parseArgs(self, *given: str) -> None:
        if len(given) > 1:
            raise UsageError("only one ID can be shown")
        (self.id,) = ids(given)

    async def run(self, shell: Shell) -> None:
        ticket = await shell.control().get(f"/tickets/{segment(self.id)}")
        now = shell.wall()
        shown = dict(ticket)
        if "created" in ticket:
            shown["created"] = f"{ticket['created']} ({since(ticket['created'], now)} ago)"
        if "expires_at" in ticket:
            shown["expires_at"] = f"{ticket['expires_at']} (left: {until(ticket['expires_at'], now)})"
        for name in ("size", "transferred"):
            if isinstance(ticket.get(name), int):
                shown[name] = f"{ticket[name]} ({size(ticket[name])})"
        shell.show(ticket, facts(shown))


class List(Command):
    """List tickets by fingerprint."""

    example = "gatewayctl ticket list --kind console --principal alice"
    optParameters: ClassVar[list[Row]] = [
        param("kind", "k", None, "only of this kind", words=KINDS),
        param("state", "s", None, "only in this state: " + ", ".join(STATES), words=STATES),
        param("principal", "P", None, "only those given to this principal"),
    ]

    async def run(self, shell: Shell) -> None:
        query = {name: self[name] for name in ("kind", "state", "principal")}
        found = [item async for item in shell.control().pages("/tickets/", "tickets", query)]
        now = shell.wall()
        rows = [
            (
                item.get("ticket"),
                item.get("kind"),
                item.get("state"),
                item.get("principal"),
                item.get("peer"),
                item.get("uses"),
                len(item.get("sessions") or ()),
                since(item.get("created"), now),
                until(item.get("expires_at"), now),
            )
            for item in found
        ]
        headers = ("TICKET", "KIND", "STATE", "PRINCIPAL", "PEER", "USES", "SESSIONS", "AGE", "LEFT")
        right = {"USES", "SESSIONS", "AGE", "LEFT"}
        shell.show({"tickets": found}, table(headers, rows, shell.columns, right=right))


class Renew(Command):
    """Let a ticket live on from now."""

    arguments = "ID..."
    longdesc = (
        "A machine with a SPICE console that moves to another host is named by --url before: the viewer "
        "comes there with the ticket it has."
    )
    example = (
        "gatewayctl ticket renew 11111111-1111-4111-8111-111111111111 --timeout 15m\n"
        "gatewayctl ticket renew 33333333-3333-4333-8333-333333333333 --url spice://host2:5900"
    )
    optParameters: ClassVar[list[Row]] = [
        param("timeout", "t", None, "how long it is good for from now [default: as at first]", whole_seconds),
        param("url", "u", None, "tunnel: where it may lead, too, such as spice://host2:5900?tls-port=5901"),
    ]

    def parseArgs(self, *given: str) -> None:
        self.ids = ids(given)

    async def run(self, shell: Shell) -> None:
        control = shell.control()
        renewed: dict[str, int] = {}
        for one in self.ids:
            path = f"/tickets/{segment(one)}"
            timeout = self["timeout"] or int((await control.get(path)).get("timeout") or _TIMEOUT)
            more = {"urls": [self["url"]]} if self["url"] else {}
            await control.ask("PATCH", path, {"timeout": timeout, **more})
            renewed[one] = timeout
        text = "\n".join(f"{one}: {timeout}s from now" for one, timeout in renewed.items())
        shell.show({"renewed": renewed}, text)


class Revoke(Command):
    """End tickets, and every session under them."""

    arguments = "ID... | --all"
    example = "gatewayctl ticket revoke 11111111-1111-4111-8111-111111111111"
    optFlags: ClassVar[list[Row]] = [["all", None, "revoke every ticket there is"]]

    def parseArgs(self, *given: str) -> None:
        if self["all"] and given:
            raise UsageError("--all takes no ID")
        self.ids = [] if self["all"] else ids(given)

    async def run(self, shell: Shell) -> None:
        if self["all"]:
            await shell.control().ask("DELETE", "/tickets/")
            return shell.show({"revoked": "all"}, "all tickets are revoked")
        paths = {one: f"/tickets/{segment(one)}" for one in self.ids}
        return await delete_each(shell, paths, "revoked")


async def delete_each(shell: Shell, paths: Mapping[str, str], done: str) -> None:
    """Delete all *paths*, by id, and go on after one is refused.

    :param done: the word for one that was deleted.
    :raises Failed: when any was refused.
    """
    control = shell.control()
    good: list[str] = []
    bad: dict[str, str] = {}
    for one, path in paths.items():
        try:
            await control.ask("DELETE", path)
        except Refused as error:
            bad[one] = f"{error}; try again in a while" if error.status == 409 else str(error)
        else:
            good.append(one)
    if good or shell.as_json:
        shell.show({done: good, "failed": bad}, "\n".join(f"{one}: {done}" for one in good))
    if bad:
        raise Failed("\n".join(f"{one}: {text}" for one, text in bad.items()))


class Ticket(Command):
    """The tickets of the gateway."""

    example = "gatewayctl ticket list --state active"
    subCommands: ClassVar[list[Any]] = [
        ("add", None, Add, "install a ticket"),
        ("show", None, Show, "show one ticket"),
        ("list", None, List, "list tickets by fingerprint"),
        ("renew", None, Renew, "let a ticket live on from now"),
        ("revoke", None, Revoke, "end tickets, and every session under them"),
    ]
