"""``gatewayctl link``: a ticket and the URL to use it, in one step."""

from __future__ import annotations

import os
import re
import shlex
from typing import Any, ClassVar

from twisted.internet.task import deferLater
from twisted.python.usage import UsageError

from gateway.core.masking import fingerprint
from gateway.core.units import parse_bytes, parse_count
from gateway.ctl.command import FILES, Command, Row, param, whole_seconds
from gateway.ctl.control import Control, Document, segment
from gateway.ctl.display import age, size
from gateway.ctl.progress import Meter, ProgressLine
from gateway.ctl.recording_commands import Replay
from gateway.ctl.shell import Failed, Shell
from gateway.ctl.ticket_commands import file_size, foresee, install, new_id, size_behind
from gateway.ctl.viewer_command import Viewer
from gateway.wire.ticket_json import Kind

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:.")
#: Seconds a link is good for when nothing is said.
_TIMEOUT = 3600
#: States nothing comes after, and what to say of them.
_OVER = {
    "expired": "the ticket expired",
    "revoked": "the ticket was revoked",
    "used_up": "the ticket has no uses left",
}


class _Link(Command):
    """What upload and download share."""

    op: ClassVar[str]
    completes = FILES
    optParameters: ClassVar[list[Row]] = [
        param(
            "timeout", "t", None, "how long the link is good for, and each pause [default: 1h]", whole_seconds
        ),
        param("uses", "n", None, "sessions it may open in all [default: any number]", parse_count),
        param("principal", "P", None, "who it is given to, for the audit trail"),
        param("filename", "f", None, "name of the file at the user's end"),
        param(
            "size", "s", None, "bytes of the image: 10G, 512M [default: of the file, if seen]", parse_bytes
        ),
    ]
    optFlags: ClassVar[list[Row]] = [
        ["curl", None, "print the whole curl command line"],
        ["wait", "w", "wait until the transfer is complete, and show its progress"],
    ]

    def parseArgs(self, *given: str) -> None:
        if len(given) != 1 or not given[0]:
            raise UsageError(
                "say where the image is: one file, or one URL such as https://host:54322/images/ID"
            )
        self.url = given[0] if _URL.match(given[0]) else f"file://{os.path.abspath(given[0])}"

    def known_size(self) -> int | None:
        """Bytes of the image, as far as anybody said or it can be seen."""
        return self["size"] if self["size"] is not None else size_behind(self.url)

    def curl(self, name: str) -> list[str]:
        """What curl does with the file *name*."""
        raise NotImplementedError

    def local(self) -> str:
        """Name of the file at the user's end."""
        if self["filename"]:
            return str(self["filename"])
        is_file = self.url.startswith("file:")
        return os.path.basename(self.url) if is_file and os.path.basename(self.url) else "disk.img"

    async def run(self, shell: Shell) -> None:
        total = self.known_size()
        if total is None:
            raise Failed("the size of the image is not known here: say it with --size")
        control = shell.control()
        status = await control.get("/status")
        base = str(status.get("public_url") or "").rstrip("/")
        if not base:
            raise Failed("the gateway does not know its own address: set public_url in [gateway] and reload")
        ticket = {
            "uuid": new_id(),
            "url": self.url,
            "size": total,
            "ops": [self.op],
            "timeout": self["timeout"] or _TIMEOUT,
            **{name: self[name] for name in ("uses", "principal", "filename") if self[name]},
        }
        await install(shell, ticket)
        link = f"{base}/images/{ticket['uuid']}"
        authority = status.get("ca")
        command = ["curl", "--fail", *(["--cacert", str(authority)] if authority else [])]
        line = shlex.join([*command, *self.curl(self.local()), link])
        document = {"id": ticket["uuid"], "ticket": fingerprint(str(ticket["uuid"])), "url": link}
        shell.show({**document, "size": total, "curl": line}, line if self["curl"] else link)
        if self["wait"]:
            await wait(shell, control, str(ticket["uuid"]), total)


async def wait(shell: Shell, control: Control, uuid: str, total: int) -> None:
    """Show the progress of the transfer under a ticket, until it is complete.

    :raises Failed: when the ticket ended before that.
    """
    meter = Meter(total)
    line = ProgressLine(shell.err, shell.progress_columns)
    began: float | None = None
    try:
        while True:
            ticket = await control.get(f"/tickets/{segment(uuid)}")
            now, moved = shell.wall(), int(ticket.get("transferred") or 0)
            if began is None and (moved or ticket.get("active")):
                began = now
            meter.measure(now, moved)
            if not shell.as_json:
                line.draw(meter)
            if _complete(ticket, meter):
                break
            await deferLater(shell.reactor, shell.pause)
    finally:
        line.close()
    if not shell.as_json:
        shell.note(f"complete: {size(meter.moved)} in {age(shell.wall() - (began or now))}")


def _complete(ticket: Document, meter: Meter) -> bool:
    """Tell whether all bytes went through and nobody is at it any more.

    :raises Failed: when they did not, and will not.
    """
    if ticket.get("active"):
        return False
    if meter.moved >= meter.total:
        return True
    if (why := _OVER.get(str(ticket.get("state")))) is None:
        return False
    done = f"{size(meter.moved)} of {size(meter.total)}"
    raise Failed(f"{why} before the transfer was complete ({done}); make a new link")


class Upload(_Link):
    """Make a link that an image can be uploaded to."""

    op = "write"
    arguments = "FILE|URL"
    longdesc = (
        "FILE is a file at the gateway, which must lie in one of its file_roots; URL is where an image host "
        "has the image. The command of --curl sends --source, or else the file that --filename or FILE "
        "names, from the working directory."
    )
    example = (
        "gatewayctl link upload /var/lib/gateway/images/disk.img --source disk.img --curl\n"
        "gatewayctl link upload https://host1:54322/images/ID --size 10G --wait"
    )
    optParameters: ClassVar[list[Row]] = [
        param(
            "source", "S", None, "the file that will be sent; its size is the default of --size", files=True
        )
    ]

    def known_size(self) -> int | None:
        if self["size"] is None and self["source"]:
            return file_size(self["source"])
        return super().known_size()

    def curl(self, name: str) -> list[str]:
        return ["--upload-file", self["source"] or name]


class Download(_Link):
    """Make a link that an image can be downloaded from."""

    op = "read"
    arguments = "FILE|URL"
    longdesc = (
        "FILE is a file at the gateway, which must lie in one of its file_roots; URL is where an image host "
        "has the image."
    )
    example = "gatewayctl link download /var/lib/gateway/images/disk.img --uses 1 --curl"

    def curl(self, name: str) -> list[str]:
        return ["--output", name]


class Console(Command):
    """Make a link to the page of a console."""

    arguments = "URL"
    longdesc = (
        "URL is where the console is: vnc://, spice:// or serial:// with host and port, vnc+tls:// and so "
        "on, or tcp:// for bytes of any kind. The page is the gateway's, see [web] in its configuration. No "
        "link is made to where the gateway's policy does not let it go."
    )
    example = (
        "gatewayctl link console vnc://host1:5901 --one-time --timeout 10m\n"
        "gatewayctl link console spice://host1:5900?tls-port=5901 --secret-file password.txt --view"
    )
    optParameters: ClassVar[list[Row]] = [
        param(
            "timeout",
            "t",
            None,
            "how long the link and its consoles are good for [default: 1h]",
            whole_seconds,
        ),
        param("principal", "P", None, "who it is given to; consoles that ask for a name are told this one"),
        param("secret-file", "S", None, "holds the console's password, - is standard input", files=True),
        param("user", "u", None, "whose password that is, where a console asks [default: the principal's]"),
    ]
    optFlags: ClassVar[list[Row]] = [
        ["view", "v", "to look only: nothing can be typed"],
        ["one-time", "1", "it opens one console, once"],
        ["shared", None, "all who look at this VNC console share one connection to it"],
        ["takeover", None, "control it even if somebody else who looks at it does"],
        ["record", None, "keep what this VNC or serial console shows"],
    ]

    def parseArgs(self, *given: str) -> None:
        if len(given) != 1 or not _URL.match(given[0]):
            raise UsageError("say where the console is: one URL such as vnc://host:5901")
        if self["view"] and self["takeover"]:
            raise UsageError("who may only look cannot take over")
        self.url = given[0]

    @property
    def _ops(self) -> list[str]:
        if self["view"]:
            return ["view"]
        return ["view", "control", "takeover"] if self["takeover"] else ["view", "control"]

    async def run(self, shell: Shell) -> None:
        ticket: dict[str, Any] = {
            "uuid": new_id(),
            "kind": str(Kind.CONSOLE),
            "url": self.url,
            "ops": self._ops,
            "timeout": self["timeout"] or _TIMEOUT,
        }
        ticket |= {name: True for name in ("shared", "record") if self[name]}
        if self["one-time"]:
            ticket["uses"] = 1
        if self["principal"]:
            ticket["principal"] = self["principal"]
        if self["secret-file"]:
            ticket["secret"] = shell.read(self["secret-file"]).rstrip("\r\n")
        if self["user"]:
            ticket["user"] = self["user"]
        base = (await shell.control().get("/status")).get("console_url")
        if not base:
            raise Failed(
                "the gateway has no console page, or does not know its address: it takes [consoles], [web], "
                "and public_url in [gateway] or [consoles]"
            )
        await foresee(shell, ticket)
        await install(shell, ticket)
        link = f"{base}/ui/console#{ticket['uuid']}"
        shell.show({"id": ticket["uuid"], "ticket": fingerprint(str(ticket["uuid"])), "url": link}, link)


class Link(Command):
    """Ready-made links for users."""

    example = "gatewayctl link download /var/lib/gateway/images/disk.img --wait"
    subCommands: ClassVar[list[Any]] = [
        ("upload", None, Upload, "a link that an image can be uploaded to"),
        ("download", None, Download, "a link that an image can be downloaded from"),
        ("console", None, Console, "a link to the page of a console"),
        ("viewer", None, Viewer, "a file that remote-viewer opens a SPICE console with"),
        ("recording", None, Replay, "a link that a recording of a console can be watched at"),
    ]
