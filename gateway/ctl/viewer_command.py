"""``gatewayctl link viewer``: a ticket for a tunnel, and the file that remote-viewer uses it with."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from twisted.python.usage import UsageError

from gateway.core.masking import fingerprint
from gateway.ctl.command import Command, Row, param, whole_seconds
from gateway.ctl.control import Refused, Unreachable
from gateway.ctl.shell import Failed, Shell
from gateway.ctl.ticket_commands import foresee, install, new_id
from gateway.wire.ticket_json import Kind
from gateway.wire.ticket_url import check_url
from gateway.wire.viewer_file import ViewerFile

#: What SPICE clients understand: no path, and a user and password of ours go in between.
_PROXY = re.compile(
    r"(?P<scheme>https?)://(?P<place>(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)/?"
)
#: Seconds a ticket is good for when nothing is said.
_TIMEOUT = 300


class Viewer(Command):
    """Write a file that remote-viewer opens a SPICE console with."""

    arguments = "URL"
    longdesc = (
        "URL is where the machine is, such as spice://host1:5900?tls-port=5901. The file holds the ticket: "
        "whoever has it has the console. The viewer removes it once it was read."
    )
    example = (
        "gatewayctl link viewer spice://host1:5900 -o console.vv\n"
        "gatewayctl link viewer 'spice://host1?tls-port=5901' --ca hypervisors.pem --secret-file password.txt"
    )
    optParameters: ClassVar[list[Row]] = [
        param(
            "output",
            "o",
            None,
            "the file to write, which must be new [default: to standard output]",
            files=True,
        ),
        param("timeout", "t", None, "how long it can be used to connect [default: 5m]", whole_seconds),
        param("principal", "P", None, "who it is given to, for the audit trail"),
        param("secret-file", "S", None, "holds the console's password, - is standard input", files=True),
        param("ca", "c", None, "holds who vouches for the machine's certificate, PEM", files=True),
        param("host-subject", None, None, "the subject of that certificate, when it does not name the host"),
        param("title", "T", None, "of the window"),
        param(
            "proxy", "p", None, "what the viewer calls the gateway [default: as public_url, http if it can]"
        ),
    ]
    optFlags: ClassVar[list[Row]] = [
        [
            "tls",
            None,
            "the viewer speaks TLS with the gateway; its system has to trust the gateway's authority",
        ],
        ["one-time", "1", "it opens one console, once"],
        ["keep", "k", "the viewer leaves the file where it is"],
    ]

    def parseArgs(self, *given: str) -> None:
        try:
            (self.url,) = given
            check_url(self.url, ("spice",))
        except ValueError:
            raise UsageError(
                "say where the machine is: one URL such as spice://host:5900?tls-port=5901"
            ) from None
        if self["proxy"] and not _PROXY.fullmatch(self["proxy"]):
            raise UsageError("--proxy: right would be a URL such as http://gateway:3128")

    async def run(self, shell: Shell) -> None:
        ticket: dict[str, Any] = {
            "uuid": new_id(),
            "kind": str(Kind.TUNNEL),
            "urls": [self.url],
            "ops": ["connect"],
            "timeout": self["timeout"] or _TIMEOUT,
            **({"uses": 1} if self["one-time"] else {}),
            **({"principal": self["principal"]} if self["principal"] else {}),
        }
        proxy = self["proxy"] or self._proxy(await shell.control().get("/status"))
        try:
            text = self._file(shell, proxy, str(ticket["uuid"])).text()
        except ValueError as error:
            raise Failed(str(error)) from None
        await foresee(shell, ticket)
        name = self["output"]
        if name:
            _create(name, text)
        try:
            await install(shell, ticket)
        except (Failed, Refused, Unreachable):
            if name:
                with suppress(OSError):
                    os.unlink(name)
            raise
        shown = {"id": ticket["uuid"], "ticket": fingerprint(str(ticket["uuid"]))}
        if name:
            shell.show({**shown, "file": name}, name)
        else:
            shell.show({**shown, "text": text}, text.rstrip("\n"))

    def _proxy(self, status: Any) -> str:
        known = [str(it) for it in status.get("proxy_urls") or ()]
        fit = [it for it in known if it.startswith("https:") or not self["tls"]]
        if not fit:
            raise Failed(
                "the gateway has no such port for tunnels, or does not know its address: it takes "
                "[tunnel], and public_url in [gateway]; or say it with --proxy"
            )
        return fit[0]

    def _file(self, shell: Shell, proxy: str, ticket_id: str) -> ViewerFile:
        place = _PROXY.fullmatch(proxy)
        if place is None:
            raise Failed("the gateway's address is none that a viewer understands: say it with --proxy")
        parts = urlsplit(self.url)
        secure = [
            int(it) for it in parse_qs(parts.query).get("tls-port", ()) if re.fullmatch("[0-9]{1,5}", it)
        ]
        return ViewerFile(
            host=parts.hostname or "",
            port=parts.port,
            tls_port=secure[0] if secure else None,
            password=shell.read(self["secret-file"]).rstrip("\r\n") if self["secret-file"] else "",
            proxy=f"{place['scheme']}://ticket:{ticket_id}@{place['place']}",
            ca=shell.read(self["ca"]).replace("\r\n", "\n") if self["ca"] else "",
            host_subject=self["host-subject"] or "",
            title=self["title"] or "",
            delete=not self["keep"],
        )


def _create(name: str, text: str) -> None:
    """Write a new file that nobody else can read.

    :raises Failed: it is there already, or cannot be made.
    """
    try:
        with open(
            os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.write(text)
    except OSError as error:
        raise Failed(f"{name} cannot be written: {error.strerror}") from None
