"""A body that goes from socket to socket arrives as any other does: whole, counted, or visibly broken.

Every case runs on the pump and on Twisted's own transports; see the classes at the end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from gateway.core import pump as module
from gateway.core.channel import HttpChannel
from gateway.core.fasttls import CHUNK, READ, ROOM, SLACK, TRAFFIC, FastTLS
from gateway.core.http_client import HttpConnection
from gateway.core.pump import WORTH, Outlet, Pump, Tap, Turns
from gateway.core.relay import Valve
from gateway.images.reading import STALL
from tests.core.wires import ID, UPSTREAM, Peer, WireCase, own_reactor

LARGE = 1_500_000
PART = 900_000
DATA = os.urandom(LARGE)
#: What no kernel buffer on the way holds.
HUGE = 16 << 20
SIZES = (1, WORTH - 1, WORTH, WORTH + 1, WORTH + 2, LARGE)


def queued(wire: Any) -> int:
    """Bytes that the gateway holds for the peer behind *wire*."""
    lowest = wire
    while not hasattr(lowest, "dataBuffer"):
        lowest = lowest.transport
    return int(len(lowest.dataBuffer) - lowest.offset + lowest._tempDataLen)


class BodyCase(WireCase):
    """What the classes below have in common."""

    def setUp(self) -> None:
        super().setUp()
        self.ticket = self.add(LARGE)

    def upload(self, sent: int = PART) -> tuple[Peer, Peer]:
        """An upload of which *sent* bytes went by; the client, and the host, which has taken the head."""
        client = self.connect()
        client.out += self.request("PUT", content_length=LARGE) + DATA[:sent]
        host = self.begun()
        del host.got[: host.got.find(b"\r\n\r\n") + 4]
        self.until(lambda: len(host.got) == sent)
        return client, host

    def download(self, sent: int = PART) -> tuple[Peer, Peer]:
        """A download of which *sent* bytes went by; the client, and the host."""
        client = self.connect()
        client.out += self.request("GET")
        host = self.begun()
        host.take()
        host.out += self.answer(content_length=LARGE) + DATA[:sent]
        self.until(lambda: self.body_of(client) == DATA[:sent])
        return client, host

    @staticmethod
    def body_of(peer: Peer) -> bytes:
        """What came after the head."""
        _, _, body = bytes(peer.got).partition(b"\r\n\r\n")
        return body

    def assert_way(self, kind: type, whole: int) -> None:
        """The bulk of *whole* bytes came past the protocol of its sender, or all of it did not."""
        if self.fast:
            self.assertLessEqual(self.delivered[kind], WORTH + 1000)
        else:
            self.assertGreaterEqual(self.delivered[kind], whole)

    def revoke(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.registry.revoke(ID)))


class TlsTlsTests(BodyCase):
    """Bodies between a client and a host, both over TLS."""

    def test_download(self) -> None:
        """A download arrives whole, and is counted everywhere."""
        client, host = self.download()
        self.assertEqual(self.session().bytes_out, PART)
        host.out += DATA[PART:]
        self.assertEqual(self.taken(client).body, DATA)
        self.assertEqual(self.log, [(200, 0, LARGE)])
        self.assertEqual(self.closings(), [("done", 0, LARGE)])
        self.assertEqual(self.ticket.transferred.total, LARGE)
        self.assert_way(HttpConnection, LARGE)

    def test_upload(self) -> None:
        """An upload arrives whole, and is counted everywhere."""
        client, host = self.upload()
        self.assertEqual(self.session().bytes_in, PART)
        client.out += DATA[PART:]
        self.until(lambda: len(host.got) == LARGE)
        self.assertEqual(bytes(host.got), DATA)
        host.out += self.answer()
        self.assertEqual(self.taken(client).status, 200)
        self.assertEqual(self.log, [(200, LARGE, 0)])
        self.assertEqual(self.closings(), [("done", LARGE, 0)])
        self.assertEqual(self.ticket.transferred.total, LARGE)
        self.assert_way(HttpChannel, LARGE)

    def test_kept(self) -> None:
        """One connection on each side serves bodies of every size, one after another."""
        client = self.connect()
        for size in SIZES:
            for data in (DATA[:size], DATA[-size:]):
                client.out += self.request("PUT", data)
                self.assertEqual(self.taken(self.begun()).body, data)
                self.hosts[0].out += self.answer()
                self.assertEqual(self.taken(client).status, 200)
                client.out += self.request("GET", range=f"bytes=0-{size - 1}")
                self.taken(self.begun())
                self.hosts[0].out += self.answer(data, 206, content_range=f"bytes 0-{size - 1}/{LARGE}")
                self.assertEqual(self.taken(client).body, data)
        self.assertEqual((len(self.peers), len(self.hosts)), (1, 1))

    def test_short_bodies(self) -> None:
        """A body that is hardly worth it goes the ordinary way."""
        client = self.connect()
        size = 2 * READ - 1
        client.out += self.request("PUT", DATA[:size])
        self.assertEqual(self.taken(self.begun()).body, DATA[:size])
        self.assertGreaterEqual(self.delivered[HttpChannel], size)

    def test_in_any_pieces(self) -> None:
        """Records and packets of every size are put together again."""
        for piece in (1000, 16_000, 16_385, 60_001):
            client = self.connect()
            client.piece = piece
            client.out += self.request("PUT", DATA)
            self.assertEqual(self.taken(self.begun()).body, DATA)
            self.hosts[0].out += self.answer()
            self.taken(client)

    def test_four_at_once(self) -> None:
        """Bodies of several connections are never mixed up, though they share buffers."""
        ids = [f"{number}{ID[1:]}" for number in range(4)]
        bodies = {ticket_id: os.urandom(LARGE) for ticket_id in ids}
        clients = {}
        for number, ticket_id in enumerate(ids):
            self.add(LARGE, ticket_id)
            clients[ticket_id] = client = self.connect()
            body = bodies[ticket_id] if number % 2 else b""
            client.out += self.request("PUT" if body else "GET", body, ticket_id)
        for number in range(4):
            host = self.begun(number)
            ticket_id = bytes(host.got).partition(b"/images/")[2][:36].decode()
            if host.got.startswith(b"GET"):
                host.out += self.answer(bodies[ticket_id])
        for host in self.hosts:
            request = self.taken(host)
            if request.first.startswith("PUT"):
                self.assertEqual(request.body, bodies[request.first.partition("/images/")[2][:36]])
                host.out += self.answer()
        for number, ticket_id in enumerate(ids):
            self.assertEqual(self.taken(clients[ticket_id]).body, b"" if number % 2 else bodies[ticket_id])

    # -- what follows a body ---------------------------------------------------------------

    def test_pipelined(self) -> None:
        """What follows an upload is the client's next request, and answered as such."""
        client, host = self.upload()
        for piece in (65_536, 50):
            client.out += DATA[PART:-1000]
            self.until(lambda: len(host.got) == LARGE - 1000)
            # One read brings the end of the body and all that follows, in one record and in many.
            client.piece = piece
            client.out += DATA[-1000:] + self.request("PUT", b"abc") + self.request("GET")
            client.step()
            self.until(lambda: len(host.got) == LARGE)
            self.assertEqual(bytes(host.got), DATA)
            host.got.clear()
            host.out += self.answer()
            self.assertEqual(self.taken(host).body, b"abc")
            host.out += self.answer()
            self.taken(host)
            host.out += self.answer(DATA)
            self.assertEqual([self.taken(client).body for _ in range(3)], [b"", b"", DATA])
            client.piece = 65_536
            client.out += self.request("PUT", content_length=LARGE) + DATA[:PART]
            self.until(lambda: len(self.body_of(host)) == PART)
            del host.got[: host.got.find(b"\r\n\r\n") + 4]
        self.assertEqual([sent for _, _, sent in self.log], [0, 0, LARGE] * 2)

    def test_surplus(self) -> None:
        """What follows an answer is nobody's: its connection is not used again, even if somebody waits."""
        client, host = self.download()
        host.out += DATA[PART:] + self.answer(b"forged")
        self.assertEqual(self.taken(client).body, DATA)
        client.out += self.request("GET")
        self.taken(self.begun(1))
        self.hosts[1].out += self.answer(DATA)
        self.assertEqual(self.taken(client).body, DATA)
        self.assertNotEqual(host.ended, "")

    # -- sides that break off --------------------------------------------------------------

    def test_host_breaks_off(self) -> None:
        """A download whose host breaks off, in whatever way, is taken up at the very next byte."""
        for number, way in enumerate((Peer.cut, Peer.notify, Peer.half_close)):
            client = self.connect()
            client.out += self.request("GET")
            host = self.begun(2 * number)
            host.take()
            host.out += self.answer(content_length=LARGE) + DATA[:PART]
            self.until(lambda: not host.out and len(self.body_of(client)) == PART)  # noqa: B023 (asked at once)
            way(host)
            second = self.begun(2 * number + 1)
            asked = self.taken(second)
            self.assertEqual(asked.fields["range"], f"bytes={PART}-{LARGE - 1}")
            where = f"bytes {PART}-{LARGE - 1}/{LARGE}"
            second.out += self.answer(DATA[PART:], 206, content_range=where)
            self.assertEqual(self.taken(client).body, DATA)
            second.cut()
            self.rest()
        self.assertEqual(self.closings(), [("done", 0, LARGE)] * 3)

    def test_host_stays_away(self) -> None:
        """A download that cannot be taken up is cut, never ended in order."""
        client, host = self.download()
        self.host_listener.close()
        host.cut()
        for _ in range(70):
            self.pass_time(0.5, 0.5)
        self.assertIsNone(client.take())
        self.assertNotIn(client.ended, ("", "close_notify"))
        self.assertEqual([closing[1:] for closing in self.closings()], [(0, PART)])

    def test_host_breaks_off_an_upload(self) -> None:
        """An upload whose host breaks off, in whatever way, is a 502."""
        for number, way in enumerate((Peer.cut, Peer.notify, Peer.half_close)):
            client = self.connect()
            client.out += self.request("PUT", content_length=LARGE) + DATA[:PART]
            host = self.begun(number)
            self.until(lambda: len(self.body_of(host)) == PART)  # noqa: B023 (asked at once)
            way(host)
            self.assertEqual(self.taken(client).status, 502)

    def test_host_sends_garbage(self) -> None:
        """A download is not made of what was not encrypted for it."""
        if not self.host_tls:
            return
        client, host = self.download()
        host.handle.send(b"\x17\x03\x03\x00\x40" + bytes(64))
        second = self.begun(1)
        self.assertEqual(self.taken(second).fields["range"], f"bytes={PART}-{LARGE - 1}")
        self.assertEqual(len(self.body_of(client)), PART)

    def test_client_leaves_an_upload(self) -> None:
        """A client that leaves in the middle takes the host's connection with it; that is no success."""
        for number, way in enumerate((Peer.cut, Peer.notify, Peer.half_close)):
            client = self.connect()
            client.out += self.request("PUT", content_length=LARGE) + DATA[:PART]
            host = self.begun(number)
            self.until(lambda: len(self.body_of(host)) == PART)  # noqa: B023 (asked at once)
            way(client)
            self.until(lambda: host.ended)  # noqa: B023 (asked at once)
            self.assertEqual(self.body_of(host), DATA[:PART])
        self.assertEqual([closing[1:] for closing in self.closings()], [(PART, 0)] * 3)
        self.assertNotIn("done", [closing[0] for closing in self.closings()])

    def test_client_leaves_a_download(self) -> None:
        """A client that leaves in the middle takes the host's connection with it."""
        for number, way in enumerate((Peer.cut, Peer.notify, Peer.half_close)):
            client = self.connect()
            client.out += self.request("GET")
            host = self.begun(number)
            host.out += self.answer(content_length=LARGE) + DATA[:PART]
            self.until(lambda: len(self.body_of(client)) == PART)  # noqa: B023 (asked at once)
            way(client)
            self.until(lambda: host.ended)  # noqa: B023 (asked at once)
        self.assertEqual(len(self.hosts), 3)
        self.assertNotIn("done", [closing[0] for closing in self.closings()])

    # -- the host's word, and the engine's -------------------------------------------------

    def test_refused_early(self) -> None:
        """What the host says in the middle of an upload reaches the client; nothing more goes there."""
        client, host = self.upload()
        host.out += self.answer(b"no\n", 403)
        self.until(lambda: host.ended)
        client.out += DATA[PART:]
        reply = self.taken(client)
        self.assertEqual((reply.status, reply.body), (403, b"no\n"))
        self.rest()
        self.assertEqual(bytes(host.got), DATA[:PART])

    def test_praised_early(self) -> None:
        """A 200 in the middle of an upload is not believed before the body went by."""
        client, host = self.upload()
        host.out += self.answer()
        self.rest()
        self.assertEqual(client.got, b"")
        client.out += DATA[PART:]
        self.assertEqual(self.taken(client).status, 200)
        self.until(lambda: len(host.got) == LARGE)
        self.assertEqual(bytes(host.got), DATA)

    def test_revoked_upload(self) -> None:
        """A revocation ends an upload in the same turn; the client learns why."""
        client, host = self.upload()
        client.out += DATA[PART:]
        client.step()
        self.revoke()
        self.until(lambda: host.ended)
        self.assertEqual(bytes(host.got), DATA[:PART])
        self.assertEqual(self.taken(client).status, 403)
        self.assertEqual(self.closings(), [("revoked", PART, 0)])

    def test_revoked_download(self) -> None:
        """A revocation cuts a download in the same turn."""
        client, host = self.download()
        host.out += DATA[PART:]
        host.step()
        self.revoke()
        self.until(lambda: client.ended and host.ended)
        self.assertEqual(self.body_of(client), DATA[:PART])
        self.assertEqual(self.closings(), [("revoked", 0, PART)])

    # -- any order of events ---------------------------------------------------------------

    @given(
        up=st.booleans(),
        size=st.integers(WORTH - 5, 700_000),
        pieces=st.lists(st.integers(1, 70_000), min_size=1, max_size=4),
        pauses=st.lists(st.booleans(), max_size=8),
        cancelled=st.none() | st.integers(1, 700_000),
    )
    @settings(
        max_examples=8,
        phases=[Phase.explicit, Phase.generate],
        deadline=None,
        suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
    )
    def test_any_order(
        self, up: bool, size: int, pieces: list[int], pauses: list[bool], cancelled: int | None
    ) -> None:
        """Whatever the pieces, the pauses and the end: what arrived is a beginning, or the whole."""
        data = DATA[:size]
        client, first = self.connect(), len(self.hosts)
        if up:
            client.out += self.request("PUT", data)
        else:
            client.out += self.request("GET", range=f"bytes=0-{size - 1}")
        host = self.begun(first)
        if not up:
            host.out += self.answer(data, 206, content_range=f"bytes 0-{size - 1}/{LARGE}")
        sender, receiver = (client, host) if up else (host, client)
        turns = 0
        while len(self.body_of(receiver)) < size:
            if cancelled is not None and len(self.body_of(receiver)) >= cancelled:
                for session in self.sessions.list():
                    session.end("killed")
                receiver.reading = True
                self.rest()
                break
            sender.piece = max(pieces[turns % len(pieces)], size // 40)
            receiver.reading = not pauses or pauses[turns % len(pauses)] or turns % 9 == 0
            turns += 1
            self.assertLess(turns, 5_000)
            self.step()
        body = self.body_of(receiver)
        if up and not host.ended:
            host.out += self.answer()
            self.assertEqual(self.taken(client).status, 200)
        if cancelled is None:
            self.assertEqual(body, data)
        self.assertTrue(data.startswith(body))
        receiver.cut()
        sender.cut()
        self.until(lambda: not self.sessions.list())
        self.pool.close()

    # -- time and memory -------------------------------------------------------------------

    def test_slow_client(self) -> None:
        """A client that does not read holds up its host, and not in our memory."""
        self.add(HUGE)
        client, host = self.connect(), None
        client.reading = False
        client.out += self.request("GET")
        host = self.begun()
        host.out += self.answer(DATA, content_length=HUGE) + bytes(HUGE - LARGE)
        self.rest()
        self.assertLess(host.sent, HUGE // 2)
        (channel,) = self.site._channels
        self.assertGreater(queued(channel.transport), 0)
        self.assertLessEqual(queued(channel.transport), ROOM + 1000 if self.fast else 2 * READ)
        client.reading = True
        self.assertEqual(self.taken(client).body, DATA + bytes(HUGE - LARGE))

    def test_slow_host(self) -> None:
        """A host that does not read holds up its client, and not in our memory."""
        self.add(HUGE)
        client = self.connect()
        client.out += self.request("PUT", content_length=HUGE) + DATA
        host = self.begun()
        host.reading = False
        client.out += bytes(HUGE - LARGE)
        self.rest()
        self.assertLess(client.sent, HUGE // 2)
        host.reading = True
        self.assertEqual(self.taken(host).body, DATA + bytes(HUGE - LARGE))

    def test_host_falls_silent(self) -> None:
        """A host that says nothing for long in the middle is left for another connection."""
        client, host = self.download()
        self.pass_time(2 * STALL + 1, STALL / 4)
        asked = self.taken(self.begun(1))
        self.assertEqual(asked.fields["range"], f"bytes={PART}-{LARGE - 1}")
        self.assertNotEqual(host.ended, "")
        where = f"bytes {PART}-{LARGE - 1}/{LARGE}"
        self.hosts[1].out += self.answer(DATA[PART:], 206, content_range=where)
        self.assertEqual(self.taken(client).body, DATA)

    def test_client_falls_silent(self) -> None:
        """An upload that stops arriving is a 408, and its host's connection is cut."""
        client, host = self.upload()
        self.pass_time(300, 30)
        self.assertEqual(self.taken(client).status, 408)
        self.assertNotEqual(host.ended, "")

    def test_client_goes_on(self) -> None:
        """An upload that arrives slowly is waited for."""
        client, host = self.upload()
        for number in range(10):
            client.out += DATA[PART + number * 20_000 : PART + (number + 1) * 20_000]
            self.pass_time(50, 25)
        self.assertEqual(client.got, b"")
        self.assertEqual(bytes(host.got), DATA[: PART + 200_000])

    def test_host_stops_reading(self) -> None:
        """An upload whose host takes nothing any more is a 504."""
        self.add(HUGE)
        client = self.connect()
        client.out += self.request("PUT", content_length=HUGE) + DATA
        host = self.begun()
        host.reading = False
        client.out += bytes(HUGE - LARGE)
        self.rest()
        self.pass_time(3 * UPSTREAM, UPSTREAM / 4)
        self.assertEqual(self.taken(client).status, 504)

    def test_host_reads_slowly(self) -> None:
        """An upload whose host takes some of it now and then is waited for."""
        self.add(HUGE)
        client = self.connect()
        client.out += self.request("PUT", content_length=HUGE) + bytes(HUGE)
        host = self.begun()
        for _ in range(6):
            host.reading = False
            self.rest()
            self.pass_time(UPSTREAM * 0.9, UPSTREAM * 0.3)
            host.reading = True
            wanted = host.received + 1_000_000
            self.until(lambda: host.received > wanted)  # noqa: B023 (asked at once)
        self.assertEqual(client.got, b"")

    def test_client_stops_reading(self) -> None:
        """A download whose client takes nothing any more is cut."""
        self.add(HUGE, inactivity_timeout=60)
        client = self.connect()
        client.reading = False
        client.out += self.request("GET")
        host = self.begun()
        host.out += self.answer(bytes(HUGE))
        self.rest()
        self.pass_time(600, 60)
        self.assertNotEqual(host.ended, "")
        self.assertEqual(self.sessions.list(), ())


class TlsUnixTests(TlsTlsTests):
    """The same to a host on this machine."""

    host_tls = False


class UnixTlsTests(TlsTlsTests):
    """The same from a client on this machine."""

    client_tls = False


class TlsTlsStockTests(TlsTlsTests):
    """The same without the pump, and with Twisted's own TLS: the promises do not depend on it."""

    fast = False


class TlsUnixStockTests(TlsUnixTests):
    """See above."""

    fast = False


class UnixTlsStockTests(UnixTlsTests):
    """See above."""

    fast = False


class WaitingTests(BodyCase):
    """A request that waits until the one before it is through."""

    operations = 1

    def test_surplus(self) -> None:
        """What follows an answer is not the answer to the request that waited for its connection."""
        client, host = self.download()
        second = self.connect()
        second.out += self.request("GET")
        self.rest()
        host.out += DATA[PART:] + self.answer(b"forged" * (LARGE // 6))
        self.assertEqual(self.taken(client).body, DATA)
        self.taken(self.begun(1))
        self.hosts[1].out += self.answer(DATA)
        self.assertEqual(self.taken(second).body, DATA)

    def test_next(self) -> None:
        """It gets the same connection, when that is in order."""
        client, host = self.download()
        second = self.connect()
        second.out += self.request("GET")
        self.rest()
        host.out += DATA[PART:]
        self.assertEqual(self.taken(client).body, DATA)
        self.taken(host)
        host.out += self.answer(DATA)
        self.assertEqual(self.taken(second).body, DATA)


class WaitingUnixTests(WaitingTests):
    """The same to a host on this machine."""

    host_tls = False


class WaitingStockTests(WaitingTests):
    """The same without the pump."""

    fast = False


class RateTests(BodyCase):
    """A share of the network, which is kept on the short way, too."""

    rate = 100_000.0

    def setUp(self) -> None:
        super().setUp()
        self.reads = self.most = 0
        original = FastTLS.receive_into

        def receive_into(wire: FastTLS, room: memoryview, limit: int, most: int) -> int | None:
            self.reads += 1
            return original(wire, room, limit, most)

        self.patch(FastTLS, "receive_into", receive_into)

    def turn(self) -> None:
        self.reads = 0
        super().turn()
        self.most = max(self.most, self.reads)

    def pace(self, moved: Callable[[], int]) -> None:
        """Hold what went by to the rate, second by second, until all is through."""
        seconds = 0
        while moved() < LARGE:
            self.assertLessEqual(moved(), self.rate * seconds + READ + CHUNK)
            self.clock.advance(1)
            self.rest()
            seconds += 1
        self.assertGreaterEqual(seconds, LARGE // self.rate - 3)
        # The share is asked before every chunk.
        self.assertEqual(self.most, 1 if self.fast else 0)

    def test_upload(self) -> None:
        """An upload takes its time."""
        client = self.connect()
        client.out += self.request("PUT", DATA)
        host = self.begun()
        self.rest()
        self.pace(lambda: len(self.body_of(host)))
        self.assert_way(HttpChannel, LARGE)
        host.out += self.answer()
        self.assertEqual(self.taken(client).status, 200)

    def test_download(self) -> None:
        """A download takes its time."""
        client = self.connect()
        client.out += self.request("GET")
        self.begun().out += self.answer(DATA)
        self.rest()
        self.pace(lambda: len(self.body_of(client)))
        self.assert_way(HttpConnection, LARGE)
        self.assertEqual(self.taken(client).body, DATA)


class RateStockTests(RateTests):
    """The same without the pump."""

    fast = False


class KeysTests(BodyCase):
    """What TLS has to say in the middle of a body."""

    def test_update(self) -> None:
        """New keys in the middle of an upload change nothing for its bytes, nor for the answer."""
        body = b"0123456789" * (LARGE // 10)
        host, port = self.port.getHost().host, self.port.getHost().port
        command = ["openssl", "s_client", "-tls1_3", "-connect", f"{host}:{port}"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT) as client:
            assert client.stdin is not None and client.stdout is not None
            told, heard = client.stdin.fileno(), client.stdout.fileno()
            os.set_blocking(told, False)
            os.set_blocking(heard, False)
            output = bytearray()

            self.addCleanup(client.kill)

            def say(data: bytes) -> None:
                """Have it read *data*, which may be a command, in reads of its own."""
                left = bytearray(data)

                def written() -> bool:
                    with contextlib.suppress(BlockingIOError):
                        output.extend(os.read(heard, 65536))
                    with contextlib.suppress(BlockingIOError):
                        if left:
                            del left[: os.write(told, left)]
                    waiting = struct.unpack("i", fcntl.ioctl(told, termios.FIONREAD, bytes(4)))[0]
                    return not left and not waiting

                self.until(written)

            say(self.request("PUT", content_length=LARGE))
            say(body[:PART])
            for _ in range(3):
                say(b"K\n")
            say(body[PART:])
            self.assertEqual(self.taken(self.begun()).body, body)
            self.hosts[0].out += self.answer()

            def answered() -> bool:
                with contextlib.suppress(BlockingIOError):
                    output.extend(os.read(heard, 65536))
                return b"HTTP/1.1 200" in output

            self.until(answered)
            client.kill()
        self.assertEqual(output.count(b"KEYUPDATE"), 3)
        self.assert_way(HttpChannel, LARGE)

    def test_renegotiation(self) -> None:
        """Keys are not negotiated again in the middle of an upload, and nothing else passes for its bytes."""
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        client = self.connect(context)
        client.out += self.request("PUT", content_length=LARGE) + DATA[:PART]
        host = self.begun()
        self.until(lambda: len(self.body_of(host)) == PART)
        assert client.secure is not None
        client.secure.renegotiate()
        self.until(lambda: client.ended)
        client.cut()
        self.until(lambda: host.ended)
        self.assertEqual(self.body_of(host), DATA[:PART])


class KeysStockTests(KeysTests):
    """The same without the pump."""

    fast = False


class MemoryTests(BodyCase):
    """What a chunk costs when it is gone."""

    def test_nothing_stays(self) -> None:
        """Thousands of chunks leave nothing behind."""
        self.add(HUGE)
        client = self.connect()
        client.piece = 100
        client.out += self.request("PUT", content_length=HUGE) + DATA[:PART]
        host = self.begun()

        def small(count: int) -> int:
            for _ in range(count):
                client.out += b"x" * 100
                client.step()
                self.turn()
                host.step()
                host.got.clear()
            self.rest()
            return _resident()

        before = small(2_000)
        self.assertLess(small(6_000) - before, 1 << 20)


def _resident() -> int:
    """Bytes of memory this process has."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


class Endless:
    """A socket from which there is always more to read."""

    def __init__(self) -> None:
        self.reads = 0

    def recv_into(self, room: memoryview, size: int) -> int:
        self.reads += 1
        return size


class Bottomless:
    """Takes everything.

    :ivar after: called with every chunk.
    """

    def __init__(self) -> None:
        self.chunks: list[int] = []
        self.after: Callable[[], object] = lambda: None
        self.total = 0
        self._room = memoryview(bytearray(ROOM))

    def room(self) -> memoryview:
        return self._room

    def filled(self, size: int) -> None:
        self.chunks.append(size)
        self.after()

    def took(self, size: int) -> None:
        self.total += size


class TurnTests(SynchronousTestCase):
    """One turn of a pump."""

    def setUp(self) -> None:
        self.vessel = Bottomless()
        self.left = 10_000_000
        self.moved: list[int] = []
        self.wanted = True
        # Nobody else is heard here.
        self.patch(module, "TURNS", Turns(heard=TRAFFIC.deliveries))

    def took(self, size: int) -> None:
        self.left -= size

    def endless(self) -> Any:
        wire: Any = FileDescriptor(own_reactor())
        wire.socket = Endless()
        return wire

    def connection(self) -> tuple[Any, socket.socket]:
        """A transport, and the other end of its socket."""
        here, there = socket.socketpair()
        self.addCleanup(there.close)
        there.setblocking(False)
        wire: Any = Connection(here, Protocol(), own_reactor())
        wire.connected = 1
        self.addCleanup(lambda: wire.connectionLost(Failure(ConnectionDone())))
        return wire, there

    def pump(self, wire: Any, **fields: Any) -> Pump:
        tap = Tap(wire, lambda: self.left, self.took, lambda: self.wanted, **fields)
        pump = Pump(tap, self.vessel, self.moved.append)
        self.addCleanup(pump.close)
        return pump

    def test_others_too(self) -> None:
        """At most one MiB goes by in one turn, then others have theirs; all is counted at once."""
        wire = self.endless()
        self.pump(wire)
        wire.doRead()
        most = 1024 * 1024
        self.assertEqual((self.moved, self.vessel.total, self.left), ([most], most, 10_000_000 - most))
        self.assertEqual(sum(self.vessel.chunks), most)

    def test_one_by_one(self) -> None:
        """As much as was asked for, where that is less."""
        self.pump(wire := self.endless(), most=READ)
        wire.doRead()
        self.assertEqual(self.moved, [READ])

    def share(self, wires: list[Any]) -> int:
        """What each of *wires* moves in a turn of the reactor, the second that they have together."""
        for _ in range(2):
            self.moved.clear()
            for wire in wires:
                wire.doRead()
        self.assertEqual(len(set(self.moved)), 1)
        return self.moved[0]

    def test_shares(self) -> None:
        """Several bodies share what may go by in a turn: each has a read, and none more than alone."""
        self.left = 1 << 40
        wires = [self.endless() for _ in range(20)]
        for wire in wires:
            self.pump(wire)
        for count in (1, 2, 3, 4, 8, 16, 20, 1):
            self.assertEqual(self.share(wires[:count]), max(min(4 * CHUNK // count, CHUNK), READ))

    def test_others_heard(self) -> None:
        """When a protocol is given something, everybody takes less for a while."""
        self.left = 1 << 40
        wires = [self.endless() for _ in range(6)]
        for wire in wires:
            self.pump(wire)
        for count in (1, 2, 3, 4, 6, 1):
            TRAFFIC.deliveries += 1
            self.assertEqual(self.share(wires[:count]), max(CHUNK // 2 // count, READ))
        for _ in range(1000):
            wires[0].doRead()
        self.assertEqual(self.moved[-1], CHUNK)

    def test_idle(self) -> None:
        """Pumps through which nothing goes take nothing of anybody's share, however many they are."""
        wire = self.endless()
        self.left = 1 << 40
        self.pump(wire)
        for _ in range(2000):
            self.pump(self.endless())
        self.assertEqual(self.share([wire]), CHUNK)

    def test_last_byte(self) -> None:
        """The last byte is not taken, and the transport reads for itself then, whatever went by meanwhile."""
        wire = self.endless()
        self.left = 700_000
        self.pump(wire, most=4 * READ)
        wire.doRead()
        self.left -= 10
        wire.doRead()
        self.assertEqual(self.left, 1)
        self.assertNotIn("doRead", vars(wire))

    def test_overtaken(self) -> None:
        """When all came another way, nothing is taken."""
        wire = self.endless()
        self.pump(wire)
        self.left = 0
        self.assertIsNone(wire.doRead())
        self.assertEqual(wire.socket.reads, 0)
        self.assertNotIn("doRead", vars(wire))

    def test_unwanted(self) -> None:
        """A turn that comes while nobody wants more takes nothing; if that changes in it, nothing more."""
        wire = self.endless()
        self.pump(wire)
        self.wanted = False
        wire.doRead()
        self.assertEqual(wire.socket.reads, 0)
        self.wanted = True
        self.vessel.after = lambda: setattr(self, "wanted", False)
        wire.doRead()
        self.assertEqual(wire.socket.reads, 1)

    def test_closed_meanwhile(self) -> None:
        """A pump that is closed in the middle of a turn takes nothing more, and counts what it took."""
        wire = self.endless()
        pump = self.pump(wire)
        self.vessel.after = pump.close
        wire.doRead()
        self.assertEqual((wire.socket.reads, self.moved, self.vessel.total), (1, [CHUNK], CHUNK))

    def test_aborted_meanwhile(self) -> None:
        """Nothing is read from a transport after it was aborted, and it stays aborted."""
        wire, there = self.connection()
        pump = self.pump(wire)
        there.send(bytes(1000))
        self.vessel.after = wire.abortConnection
        wire.doRead()
        there.send(bytes(1000))
        wire.doRead()
        pump.close()
        wire.doRead()
        self.assertEqual(self.vessel.chunks, [1000])

    def test_aborted_before(self) -> None:
        """Nor is a transport made to read that was aborted before."""
        wire, there = self.connection()
        there.send(bytes(1000))
        wire.abortConnection()
        self.pump(wire)
        wire.doRead()
        self.assertEqual(self.vessel.chunks, [])

    def test_nothing_after_abort(self) -> None:
        """Nothing is sent on a transport that was aborted."""
        wire, there = self.connection()
        wire.abortConnection()
        Outlet(wire, lambda size: None).filled(1000)
        self.assertRaises(BlockingIOError, there.recv, 1000)

    def test_held_at_once(self) -> None:
        """The sink holds the source as soon as anything waits, even if it was left so the last time."""
        wire, _ = self.connection()
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        wire.producerPaused = True
        paused: list[bool] = []
        valve = Valve(cast(Any, self), Clock())
        self.pauseProducing = lambda: paused.append(True)
        self.stopProducing = lambda: None
        wire.registerProducer(valve, True)
        Outlet(wire, lambda size: None).filled(20_000)
        self.assertEqual((valve.open, bool(paused)), (False, True))

    def test_too_little_room(self) -> None:
        """Nothing is decrypted into a room that may be too small for it."""
        connection = FastTLS(cast(Any, None), cast(Any, None))
        self.assertRaises(ValueError, connection.receive_into, memoryview(bytearray(SLACK)), 10)
