"""What a stock libvirt client says it wants to open: a local URI, with hints for us in its query.

A client drops transport, host and port of the URI that its user has typed, keeps the variables that it does
not know, and sends the rest: ``test+tls://gateway/default?target=lab`` arrives as ``test:///default?target=lab``.
Terraform's provider keeps nothing but the path, where an escaped question mark does as well.
Source: libvirt 9.0, remote_driver.c, doRemoteOpen; terraform-provider-libvirt, client.go.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from attrs import field, frozen

_NAME = re.compile(
    r"(?:(?P<driver>[A-Za-z0-9.-]{1,64}):(?://)?(?:/(?!/)[^?#]{0,1024}?(?:%3[Ff](?P<behind>[^?#]{0,1024}))?)?)?"
    r"(?:\?(?P<query>[^#]{0,4096}))?"
)
_TARGET = re.compile(r"[A-Za-z0-9_.-]{1,64}")

#: How go-libvirt marks the name in the open call as present; the rest of the world does it in the last byte.
_GO, _PRESENT = b"\1\0\0\0", b"\0\0\0\1"


def usual_payload(payload: bytes) -> bytes:
    """The arguments of an open call as libvirt itself writes them.

    libvirtd takes every number but zero for "present". Source: go-libvirt, initLibvirtComms; xdr_bool.
    """
    return _PRESENT + payload[4:] if payload.startswith(_GO) else payload


@frozen
class OpenName:
    """What is to be opened.

    :ivar driver: such as ``qemu``; empty for whatever there is.
    :ivar target: the configured target, or empty.
    :ivar ticket: a ticket, where no login is possible; or empty.
    """

    driver: str = ""
    target: str = ""
    ticket: str = field(default="", repr=False)


def is_target(text: str) -> bool:
    """Whether *text* can be the name of a target."""
    return _TARGET.fullmatch(text) is not None


def parse_open_name(text: str) -> OpenName:
    """Read the name in the open call; variables that are not ours are ignored.

    :raises ValueError: it has a host, a transport, or no sense.
    """
    match = _NAME.fullmatch(text)
    if match is None:
        raise ValueError("it is DRIVER:///PATH, which ?target=NAME may follow")
    found: dict[str, str] = {}
    for pair in re.split("[&;]", match["query"] or match["behind"] or ""):
        name, _, value = pair.partition("=")
        if name.lower() in ("target", "ticket"):
            found[name.lower()] = unquote(value)
    target = found.get("target", "")
    if target and not is_target(target):
        raise ValueError("a target is 1 to 64 characters of A-Z a-z 0-9 . _ -")
    return OpenName(match["driver"] or "", target, found.get("ticket", ""))
