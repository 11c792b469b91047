"""One socket that blocks, and bytes made beforehand: what a call takes the hypervisor and the kernel alone.

Nothing is decoded, and there is no reactor: nobody can be much faster with one caller. Arguments: a unix
socket for orders; ``{transport: URL}``.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.callers import GUESTS
from bench.callers.loop import Call, serve
from gateway.wire.libvirt_message import pack_call
from gateway.wire.libvirt_schema import Procedure, procedure
from gateway.wire.libvirt_url import LibvirtUrl, parse_url

_INFO, _LIST = procedure("DOMAIN_GET_INFO"), procedure("CONNECT_LIST_ALL_DOMAINS")
_ALL = {"need_results": 1, "flags": 0}
#: Bytes before what a reply says, and where its status stands.
_HEAD, _STATUS = 28, slice(24, 28)


class _Line:
    """A connection, opened."""

    def __init__(self, url: LibvirtUrl) -> None:
        self._socket = _connected(url)
        self.call(_packed(procedure("AUTH_LIST"), {}))
        opened = self.call(_packed(procedure("CONNECT_OPEN"), {"name": url.name, "flags": 0}))
        assert not any(opened[_STATUS]), opened

    def call(self, request: bytes) -> bytes:
        self._socket.sendall(request)
        reply = self._socket.recv(65536)
        while len(reply) < 4 or len(reply) < int.from_bytes(reply[:4], "big"):
            more = self._socket.recv(65536)
            assert more, "the hypervisor hung up"
            reply += more
        return reply


def _connected(url: LibvirtUrl) -> socket.socket:
    if url.transport == "unix":
        plain = socket.socket(socket.AF_UNIX)
        plain.connect(url.socket)
        return plain
    pki = Path(url.pkipath)
    context = ssl.create_default_context(cafile=pki / "cacert.pem")
    context.load_cert_chain(pki / "clientcert.pem", pki / "clientkey.pem")
    plain = socket.create_connection((url.server, url.server_port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    secured = context.wrap_socket(plain, server_hostname=url.server)
    assert secured.recv(1) == b"\1", "the hypervisor does not want our certificate"
    return secured


def _packed(called: Procedure, arguments: Mapping[str, Any]) -> bytes:
    return pack_call(called.program, called.number, 0, called.arguments.pack(arguments))


class _Bare:
    def __init__(self, urls: Mapping[str, str]) -> None:
        self._urls = urls
        self._lines: dict[str, _Line] = {}

    async def prepare(self, what: str, transport: str) -> Call:
        if transport not in self._lines:
            self._lines[transport] = _Line(parse_url(self._urls[transport]))
        line, request = self._lines[transport], _packed(_LIST, _ALL)
        guests = _LIST.results.unpack(line.call(request)[_HEAD:])["domains"]
        assert len(guests) == GUESTS, guests
        if what == "info":
            request = _packed(_INFO, {"dom": guests[0]})

        async def call(number: int) -> None:
            line.call(request)

        return call


if __name__ == "__main__":
    serve(sys.argv[1], _Bare(json.loads(sys.argv[2])).prepare)
