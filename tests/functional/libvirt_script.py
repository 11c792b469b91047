"""libvirt-python with its event loop, in a process of its own: ``python libvirt_script.py URI TOKEN POOL``.

It writes one line of JSON for each thing that it saw; the last comes when its connection is closed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

import libvirt

SIZE = 3 << 20


def say(**seen: Any) -> None:
    sys.stdout.write(json.dumps(seen) + "\n")
    sys.stdout.flush()


def connect(uri: str, token: str) -> Any:
    """Log in as its users do, by a callback."""

    def answer(wanted: Any, _: Any) -> int:
        for each in wanted:
            each[4] = {libvirt.VIR_CRED_AUTHNAME: "alice", libvirt.VIR_CRED_PASSPHRASE: token}[each[0]]
        return 0

    kinds = [libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_PASSPHRASE]
    return libvirt.openAuth(uri, [kinds, answer, None], 0)


def turn() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def volume(connection: Any, pool: str) -> None:
    """Up and down again."""
    xml = f"<volume><name>py</name><capacity>{SIZE}</capacity></volume>"
    made = connection.storagePoolLookupByName(pool).createXML(xml)
    data = os.urandom(SIZE)
    up = connection.newStream()
    made.upload(up, 0, SIZE)
    rest = [data[at : at + 100_000] for at in range(0, SIZE, 100_000)]
    up.sendAll(lambda stream, count, _: rest.pop(0) if rest else b"", None)
    up.finish()
    down, got = connection.newStream(), bytearray()
    made.download(down, 0, SIZE)
    down.recvAll(lambda stream, piece, _: got.extend(piece), None)
    down.finish()
    made.delete()
    say(volume=bytes(got) == data)


def console(connection: Any, domain: Any) -> None:
    """What the console says, by events of a stream that does not block."""
    seen, enough = bytearray(), threading.Event()
    stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
    domain.openConsole(None, stream, 0)

    def readable(stream: Any, events: int, _: Any) -> None:
        piece = stream.recv(4096)
        if isinstance(piece, bytes):
            seen.extend(piece)
        if b"SeaBIOS" in seen:
            enough.set()

    stream.eventAddCallback(libvirt.VIR_STREAM_EVENT_READABLE, readable, None)
    domain.reset()
    say(console=enough.wait(40))
    stream.eventRemoveCallback()
    stream.abort()


def main(uri: str, token: str, pool: str) -> None:
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=turn, daemon=True).start()
    connection = connect(uri, token)
    connection.setKeepAlive(1, 3)
    closed, paused = threading.Event(), threading.Event()
    connection.registerCloseCallback(lambda *_: closed.set(), None)

    def told(_: Any, domain: Any, event: int, detail: int, __: Any) -> None:
        say(event=[domain.name(), event])
        paused.set()

    connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, told, None)
    say(domains=sorted(domain.name() for domain in connection.listAllDomains()))
    domain = connection.lookupByName("tiny")
    domain.suspend()
    paused.wait(40)
    domain.resume()
    volume(connection, pool)
    console(connection, domain)
    try:
        connection.lookupByName("nobody")
    except libvirt.libvirtError as error:
        say(error=error.get_error_code())
    say(ready=connection.isAlive(), encrypted=connection.isEncrypted(), secure=connection.isSecure())
    closed.wait(60)
    say(alive=connection.isAlive())


if __name__ == "__main__":
    main(*sys.argv[1:])
