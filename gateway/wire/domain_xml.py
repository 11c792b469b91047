"""What the gateway wants to know of a domain's XML: who it is, its screens, its lines.

Source: libvirt, "Domain XML format" (formatdomain).
"""

from __future__ import annotations

import re

from attrs import field, frozen

from gateway.wire.safe_xml import Node, XmlError, parse

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")


@frozen
class Named:
    """Who a domain is; ``uuid`` is None where libvirt chooses one."""

    name: str
    uuid: str | None


@frozen
class Graphics:
    """One screen of a running domain.

    :ivar type: ``vnc``, ``spice``, …
    :ivar listen: an address; empty when it listens on none.
    :ivar port: -1 without one; *tls_port* likewise.
    :ivar socket: path of a unix socket.
    """

    type: str
    listen: str = ""
    port: int = -1
    tls_port: int = -1
    socket: str = ""
    password: str | None = field(default=None, repr=False)


@frozen
class Line:
    """A serial port, a console or a channel.

    :ivar element: ``serial``, ``console``, ``channel`` or ``parallel``.
    :ivar type: what is behind it: ``pty``, ``unix``, ``spicevmc``, …
    :ivar name: of the target of a channel, such as ``org.qemu.guest_agent.0``.
    """

    element: str
    type: str
    alias: str = ""
    path: str = ""
    port: int = -1
    name: str = ""


@frozen
class Domain:
    """What a domain's XML says, as far as we care."""

    name: str
    uuid: str | None
    type: str
    graphics: tuple[Graphics, ...] = ()
    lines: tuple[Line, ...] = ()


def read_name(text: str) -> Named:
    """The name and the uuid in a domain's XML.

    :raises XmlError: it is no XML of a domain, or it leaves a doubt about them.
    """
    return name_of(parse(text))


def name_of(root: Node) -> Named:
    """The same of XML that was read already.

    Two of them, or something inside of them, might be read otherwise by libvirt.

    :raises XmlError:
    """
    if root.name != "domain":
        raise XmlError("it is no domain")
    name = _single(root, "name")
    if not name:
        raise XmlError("it has no name")
    uuid = _single(root, "uuid")
    return Named(name, None if uuid is None else canonical_uuid(uuid))


def canonical_uuid(text: str) -> str:
    """*text*, with or without its dashes, as 36 characters in lower case.

    :raises XmlError: it is none. libvirt allows spaces and dashes anywhere; we do not.
    """
    low = text.strip(" \t\r\n").lower()
    if _UUID.fullmatch(low) is None:
        raise XmlError("it has no proper uuid")
    digits = low.replace("-", "")
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def read_domain(text: str) -> Domain:
    """What a hypervisor says about a domain.

    :raises XmlError: it is no XML of a domain.
    """
    root = parse(text)
    named = name_of(root)
    devices = root.find("devices")
    nodes = devices.children if devices is not None else ()
    return Domain(
        named.name,
        named.uuid,
        root.get("type"),
        tuple(_graphics(node) for node in nodes if node.name == "graphics"),
        tuple(_line(node) for node in nodes if node.name in ("serial", "console", "channel", "parallel")),
    )


def _single(root: Node, name: str) -> str | None:
    nodes = list(root.all(name))
    if not nodes:
        return None
    if len(nodes) > 1 or nodes[0].children:
        raise XmlError(f"it has more than one {name}")
    return nodes[0].text


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else -1


def _graphics(node: Node) -> Graphics:
    # The element is newer than the attribute and says more; the attribute repeats the first of them.
    listens = list(node.all("listen"))
    first = listens[0] if listens else Node("listen", {}, (), "")
    return Graphics(
        node.get("type"),
        first.get("address") or node.get("listen"),
        _number(node.get("port")),
        _number(node.get("tlsPort")),
        first.get("socket") or node.get("socket"),
        node.attributes.get("passwd"),
    )


def _line(node: Node) -> Line:
    source = node.find("source")
    target = node.find("target")
    alias = node.find("alias")
    return Line(
        node.name,
        node.get("type"),
        "" if alias is None else alias.get("name"),
        node.get("tty") if source is None else source.get("path") or node.get("tty"),
        -1 if target is None else _number(target.get("port")),
        "" if target is None else target.get("name"),
    )
