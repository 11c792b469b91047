"""What the commands for bytes do: those never travel here, so the answer is a ticket and where to go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import quote

from attrs import frozen

from gateway import errors
from gateway.core.tickets import Grant, Kind
from gateway.rpc import commands
from gateway.rpc.command import Command
from gateway.rpc.desk import Opened
from gateway.rpc.offspring import Offspring
from gateway.rpc.screenshots import Screenshots
from gateway.rpc.seat import Answer, Responder, Seat
from gateway.wire.domain_xml import Graphics, read_domain
from gateway.wire.libvirt_schema import procedure
from gateway.wire.strict_json import load_object
from gateway.wire.ticket_json import LARGEST

#: Of DOMAIN_GET_XML_DESC: with passwords.
_SECURE = 1
#: Addresses on which a console listens for its own host only, or for all.
_HERE = ("", "127.0.0.1", "::1", "0.0.0.0", "::", "localhost")  # noqa: S104  # compared with, not bound to


@frozen
class Planes:
    """Where bytes go.

    :ivar images: URL of the image relay, None when it is off; *consoles* likewise of the websockets.
    """

    offspring: Offspring
    screenshots: Screenshots
    images: Callable[[], str | None]
    consoles: Callable[[], str | None]

    async def give(self, seat: Seat, grant: Grant, life: float | None) -> Answer:
        """Install a ticket, and say where to go with it."""
        console = grant.kind is Kind.CONSOLE
        base = (self.consoles if console else self.images)()
        if base is None:
            what = "[consoles]" if console else "[images]"
            raise errors.NotImplementedHere(f"{what} or its public_url is not configured here")
        uuid, seconds = await self.offspring.add(seat.caller, grant, life)
        url = f"ws{base.removeprefix('http')}/console/{uuid}" if console else f"{base}/images/{uuid}"
        expires = datetime.fromtimestamp(seat.desk.wall() + seconds, UTC)
        return {"ticket": uuid, "url": url, "expires": expires}


@frozen
class _Options:
    """What a client says beside what it wants, as JSON."""

    members: Mapping[str, object]

    @classmethod
    def read(cls, text: str | None, *known: str) -> _Options:
        try:
            members = load_object(text or "{}")
        except ValueError as error:
            raise errors.BadArguments("options", str(error)) from None
        strange = sorted(members.keys() - {*known, "timeout", "uses", "peer"})
        if strange:
            raise errors.BadArguments(f"options.{strange[0]}", "there is no such option")
        return cls(members)

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        value = self.members.get(name, default)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)):
            raise errors.BadArguments(f"options.{name}", "a value of another type is expected")
        return value

    @property
    def life(self) -> float | None:
        seconds: int | None = self.get("timeout", int)
        if seconds is not None and seconds < 1:
            raise errors.BadArguments("options.timeout", "at least 1 second is expected")
        return seconds

    @property
    def uses(self) -> int | None:
        number: int | None = self.get("uses", int)
        if number is not None and number < 1:
            raise errors.BadArguments("options.uses", "at least 1 is expected")
        return number


def _judge(opened: Opened, name: str, arguments: Mapping[str, Any]) -> None:
    """Have the rights judge a call that is made later, by whoever comes with the ticket."""
    opened.plans(procedure(name), arguments)


def _place(opened: Opened) -> str:
    """How the url of a ticket begins that leads to a hypervisor.

    :raises gateway.errors.NotImplementedHere: no url can name it.
    """
    if opened.site.private:
        raise errors.NotImplementedHere("Tickets lead to hypervisors of the configuration only")
    return f"libvirt://{opened.site.name}"


async def _console(planes: Planes, seat: Seat, dom: str, options: str | None) -> Answer:
    asked = _Options.read(options, "device", "force", "view", "record")
    opened, subject = seat.domain(dom)
    device, force = asked.get("device", str), asked.get("force", bool, default=False)
    await opened.site.hub.settled(tagged=opened.tagged)
    _judge(opened, "DOMAIN_OPEN_CONSOLE", {"dom": subject, "dev_name": device, "flags": int(force)})
    url = f"{_place(opened)}/{subject['uuid']}/console" + (f"/{device}" if device else "")
    grant = Grant(
        Kind.CONSOLE,
        "",
        url=url,
        urls=(url,),
        ops=_console_ops(asked, takeover=force),
        uses=asked.uses,
        record=asked.get("record", bool, default=False),
    )
    return await planes.give(seat, grant, asked.life)


def _console_ops(asked: _Options, *, takeover: bool = False) -> tuple[str, ...]:
    if asked.get("view", bool, default=False):
        return ("view",)
    return ("view", "control", "takeover") if takeover else ("view", "control")


async def _graphics(planes: Planes, seat: Seat, dom: str, options: str | None) -> Answer:
    asked = _Options.read(options, "index", "view", "shared", "record", "takeover")
    opened, subject = seat.domain(dom)
    index = asked.get("index", int, default=0)
    await opened.site.hub.settled(tagged=opened.tagged)
    _judge(opened, "DOMAIN_OPEN_GRAPHICS_FD", {"dom": subject, "idx": index, "flags": 0})
    flags = 0 if opened.site.readonly or opened.handle.readonly else _SECURE
    # Not by the caller's rights: what it may not read is not shown to it either.
    xml = (await opened.site.target.call("DOMAIN_GET_XML_DESC", {"dom": subject, "flags": flags}))["xml"]
    try:
        screens = read_domain(xml).graphics
    except ValueError as error:
        raise errors.UpstreamFailed("The hypervisor's XML is not understood", reason="malformed") from error
    if not 0 <= index < len(screens):
        raise errors.NotFound("This machine has no such screen")
    screen = screens[index]
    url = _screen_url(opened, subject["uuid"], index, screen)
    grant = Grant(
        Kind.CONSOLE,
        "",
        url=url,
        urls=(url,),
        ops=_console_ops(asked, takeover=asked.get("takeover", bool, default=False)),
        uses=asked.uses,
        secret=screen.password or None,
        shared=asked.get("shared", bool, default=False),
        record=asked.get("record", bool, default=False),
    )
    return await planes.give(seat, grant, asked.life)


def _screen_url(opened: Opened, uuid: str, index: int, screen: Graphics) -> str:
    """Where a screen is: on the way that leads to its hypervisor, if that hands out descriptors."""
    url = opened.site.url
    if screen.type not in ("vnc", "spice"):
        raise errors.NotImplementedHere(f"Screens of type {screen.type} are not served here")
    if url.transport == "unix":
        if screen.type == "vnc":
            return f"{_place(opened)}/{uuid}/graphics/{index}"
        if screen.socket:
            return f"spice+unix://{quote(screen.socket)}"
    host = (url.host or "127.0.0.1") if screen.listen in _HERE else screen.listen
    name = f"[{host}]" if ":" in host else host
    if screen.port < 0 and screen.tls_port < 0:
        raise errors.Conflict("The machine is off, or its screen listens nowhere")
    tls = f"?tls-port={screen.tls_port}" if screen.tls_port > 0 else ""
    port = screen.port if screen.port > 0 else screen.tls_port
    return f"{screen.type}://{name}:{port}{tls}"


async def _screenshot(planes: Planes, seat: Seat, dom: str, options: str | None) -> Answer:
    asked = _Options.read(options, "screen")
    opened, subject = seat.domain(dom)
    await opened.site.hub.settled(tagged=opened.tagged)
    arguments = {"dom": subject, "screen": asked.get("screen", int, default=0), "flags": 0}
    _judge(opened, "DOMAIN_SCREENSHOT", arguments)
    picture = await planes.screenshots.take(opened.site.target, arguments, seat.caller.principal)
    url = f"file://{quote(str(picture.path))}"
    grant = Grant(
        Kind.IMAGE, "", url=url, urls=(url,), ops=("read",), size=picture.size, filename=picture.filename
    )
    answer = await planes.give(seat, grant, asked.life)
    planes.screenshots.keep(picture, (answer["expires"] - datetime.fromtimestamp(0, UTC)).total_seconds())
    return answer


async def _volume(
    planes: Planes,
    what: tuple[str, str],
    seat: Seat,
    pool: str,
    volume: str,
    size: int | None,
    options: str | None,
) -> Answer:
    """A ticket for a volume.

    :param what: the operation, and the procedure that one must be permitted.
    """
    op, name = what
    asked = _Options.read(options, "filename")
    opened, subject = await seat.object("pool", pool)
    found = await seat.call(opened, "STORAGE_VOL_LOOKUP_BY_NAME", {"pool": subject, "name": volume})
    _judge(opened, name, {"vol": found["vol"], "offset": 0, "length": 0, "flags": 0})
    place = "/".join(quote(part, safe="") for part in (subject["name"], found["vol"]["name"]))
    url = f"{_place(opened)}/{place}"
    grant = Grant(
        Kind.IMAGE,
        "",
        url=url,
        urls=(url,),
        ops=(op,),
        size=LARGEST if size is None else size,
        uses=asked.uses,
        filename=asked.get("filename", str) or volume,
    )
    return await planes.give(seat, grant, asked.life)


def responders(planes: Planes) -> Mapping[type[Command], Responder]:
    """The commands, which give tickets for *planes*."""
    return {
        commands.Console: partial(_console, planes),
        commands.Graphics: partial(_graphics, planes),
        commands.Screenshot: partial(_screenshot, planes),
        commands.VolUpload: partial(_volume, planes, ("write", "STORAGE_VOL_UPLOAD")),
        commands.VolDownload: partial(_volume, planes, ("read", "STORAGE_VOL_DOWNLOAD")),
    }
