"""What goes through a tunnel arrives: whole, in order, counted, and with its end, whoever moves it.

Every case runs spliced, and on Twisted's own transports; see the classes at the end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.tcp import Connection
from twisted.protocols.tls import BufferingTLSTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from gateway.core import fasttls, splice
from gateway.core.pump import Tap
from gateway.core.splice import KEPT, PIECE, PIPES, WORTH, Splice
from gateway.tunnel.tunnel import ESTABLISHED, LINGER, SideFactory, Tunnel, Watch
from tests.core.wires import Peer, own_reactor

DATA = random.Random(1).randbytes(6 << 20)
#: Seconds of real time in which what a test waits for has to happen.
_PATIENCE = 30.0
#: Bytes of the kernel's buffers, so that little is on the way.
_BUFFER = 64 * 1024


@define(eq=False)
class Through:
    """One tunnel, and who speaks through it.

    :ivar moved: how many bytes went from the client, and to it, as the tunnel told.
    :ivar word: why it ended.
    """

    tunnel: Tunnel
    client: Peer
    host: Peer
    moved: list[int] = field(factory=lambda: [0, 0])
    word: str = ""


class TunnelCase(SynchronousTestCase):
    """Tunnels at rest between two lines of a test.

    :cvar fast: whether they may be spliced, or are held to Twisted's own as ``GATEWAY_FAST=off`` does.
    """

    fast = True

    def setUp(self) -> None:
        kind: Any = fasttls.FastTLS if self.fast else BufferingTLSTransport
        self.patch(fasttls, "TRANSPORT", kind)
        self.reactor = own_reactor()
        self.clock = Clock()
        self.all: list[Through] = []
        self.spliced = 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.listener.settimeout(_PATIENCE)
        self.addCleanup(self.listener.close)
        self._count_splices()
        self._before = _descriptors(), [*PIPES.free]
        self.addCleanup(self.clear)

    def _count_splices(self) -> None:
        original = os.splice

        def counted(source: int, target: int, count: int, *, flags: int) -> int:
            moved = original(source, target, count, flags=flags)
            self.spliced += moved
            return moved

        self.patch(os, "splice", counted)

    def open(self) -> Through:
        """A tunnel from a client to a host."""
        moved = [0, 0]

        def add(sent: int, received: int) -> None:
            moved[0] += sent
            moved[1] += received

        clock: Any = self.clock
        tunnel = Tunnel(clock, Watch(add, lambda name: None, lambda number: None), guarded=False)
        server = TCP4ClientEndpoint(self.reactor, *self.listener.getsockname())
        server.connect(SideFactory(tunnel.server))
        self.until(lambda: tunnel.server.transport is not None)
        host, _ = self.listener.accept()
        port = self.reactor.listenTCP(0, SideFactory(tunnel.client), interface="127.0.0.1")
        client = socket.create_connection(("127.0.0.1", port.getHost().port))
        self.until(lambda: tunnel.client.transport is not None)
        port.stopListening()
        for handle in (client, host, tunnel.client.transport.socket, tunnel.server.transport.socket):
            handle.setblocking(False)
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        through = Through(tunnel, Peer(client), Peer(host), moved)
        tunnel.over.addCallback(lambda word: setattr(through, "word", word))
        self.all.append(through)
        self.until(lambda: len(through.client.got) >= len(ESTABLISHED))
        self.assertEqual(bytes(through.client.got), ESTABLISHED)
        through.client.got.clear()
        return through

    def step(self) -> None:
        """One turn of everybody."""
        self.reactor.iterate(0)
        self.clock.advance(0)
        for through in self.all:
            through.client.step()
            through.host.step()

    def until(self, happened: Callable[[], object]) -> None:
        """Turn until something is true."""
        give_up = time.monotonic() + _PATIENCE
        while not happened():
            if time.monotonic() > give_up:
                states = [(it.moved, it.word, it.client.ended, it.host.ended) for it in self.all[-4:]]
                raise AssertionError(f"it does not happen: {states}")
            self.step()

    def rest(self) -> None:
        """Turn until nothing moves any more."""
        still, before = 0, -1
        while still < 20:
            self.step()
            now = sum(peer.sent + peer.received for it in self.all for peer in (it.client, it.host))
            still, before = (still + 1, before) if now == before else (0, now)

    def clear(self) -> None:
        """Nothing may be left: no connection, no timer, no descriptor."""
        for through in self.all:
            through.client.cut()
            through.host.cut()
        self.rest()
        self.clock.advance(LINGER)
        self.until(lambda: all(it.word for it in self.all))
        self.assertEqual([str(call) for call in self.clock.getDelayedCalls()], [])
        self.assert_no_pipes()
        for pipe in [it for it in PIPES.free if it not in self._before[1]]:
            PIPES.free.remove(pipe)
            PIPES.opened -= 1
            pipe.close()
        self.assertLessEqual(_descriptors(), self._before[0])

    def assert_no_pipes(self) -> None:
        """No direction has one."""
        self.assertEqual(PIPES.opened, len(PIPES.free))
        self.assertLessEqual(len(PIPES.free), KEPT)

    def assert_way(self, bytes_: int) -> None:
        """Most of so many bytes were spliced, into the pipe and out again; or none of them."""
        if self.fast:
            self.assertGreater(self.spliced, bytes_)
        else:
            self.assertEqual(self.spliced, 0)


class SpliceTests(TunnelCase):
    """Tunnels through which much goes."""

    def test_whole(self) -> None:
        """Both directions arrive as they were sent, at the same time and in pieces of any size."""
        dice = random.Random(2)
        through = self.open()
        back = DATA[::-1]
        through.client.out += DATA
        through.host.out += back

        def done() -> bool:
            through.client.piece, through.host.piece = dice.randint(1, 90_000), dice.randint(1, 90_000)
            through.client.reading, through.host.reading = dice.random() > 0.3, dice.random() > 0.3
            return len(through.host.got) == len(through.client.got) == len(DATA)

        self.until(done)
        self.assertEqual(bytes(through.host.got), DATA)
        self.assertEqual(bytes(through.client.got), back)
        self.assertEqual(through.moved, [len(DATA), len(DATA)])
        self.assert_way(2 * len(DATA))
        self.assert_no_pipes()

    def test_few_bytes(self) -> None:
        """Few bytes go on at once, and for them no pipe is made."""
        through = self.open()
        for number in range(50):
            through.client.out += b"%d" % number
            self.until(lambda: through.host.got)
            self.assertEqual(bytes(through.host.got), b"%d" % number)
            through.host.got.clear()
        self.assertEqual(self.spliced, 0)

    def test_few_after_many(self) -> None:
        """So do few bytes after many, and no pipe is kept for them."""
        through = self.open()
        through.client.out += DATA
        self.until(lambda: len(through.host.got) == len(DATA))
        for number in range(50):
            through.host.got.clear()
            through.client.out += b"%d" % number
            self.until(lambda: through.host.got)
            self.assertEqual(bytes(through.host.got), b"%d" % number)
            self.assert_no_pipes()

    def test_slow_reader(self) -> None:
        """Who does not read holds up who sends, and gets everything in the end."""
        through = self.open()
        through.host.reading = False
        through.client.out += DATA
        self.rest()
        kernel = 8 * _BUFFER
        self.assertLess(through.client.sent, WORTH + PIECE + kernel)
        self.assertLess(through.client.sent - through.host.received, WORTH + PIECE + kernel)
        through.host.reading = True
        self.until(lambda: len(through.host.got) >= 3 << 20)
        through.host.reading = False
        self.rest()
        self.assertLess(through.client.sent - through.host.received, PIECE + kernel)
        through.host.reading = True
        self.until(lambda: len(through.host.got) == len(DATA))
        self.assertEqual(bytes(through.host.got), DATA)
        self.assert_way(len(DATA))

    def test_slow_reader_other_way(self) -> None:
        """What goes the other way meanwhile is not held up."""
        through = self.stuck()
        through.host.out += DATA
        self.until(lambda: len(through.client.got) == len(DATA))
        self.assertEqual(bytes(through.client.got), DATA)

    def stuck(self) -> Through:
        """A tunnel whose host has stopped reading; what the gateway took for it waits there."""
        through = self.open()
        through.client.out += DATA
        self.until(lambda: len(through.host.got) > 2 * WORTH)
        through.host.reading = False
        self.rest()
        if self.fast:
            self.assertEqual(PIPES.opened, len(PIPES.free) + 1)
        return through

    # -- ends ------------------------------------------------------------------------------

    def test_half_close(self) -> None:
        """Who says that he has no more to say is told the rest, either way round; what he said arrives."""
        for client_first in (True, False):
            through = self.open()
            first, second = through.client, through.host
            if not client_first:
                first, second = second, first
            second.reading = False
            first.out += DATA
            self.rest()
            second.reading = True
            self.until(lambda: not first.out)  # noqa: B023 (asked at once)
            first.half_close()
            self.until(lambda: second.ended)  # noqa: B023 (asked at once)
            self.assertEqual((second.ended, bytes(second.got)), ("eof", DATA))
            second.out += DATA
            self.until(lambda: not second.out)  # noqa: B023 (asked at once)
            second.half_close()
            self.until(lambda: first.ended)  # noqa: B023 (asked at once)
            self.assertEqual((first.ended, bytes(first.got)), ("eof", DATA))
            self.until(lambda: through.word)  # noqa: B023 (asked at once)
            self.assertEqual(through.moved, [len(DATA)] * 2)
            self.assert_no_pipes()

    def test_end_behind_much(self) -> None:
        """An end that comes while the pipe is full is seen after everything before it."""
        through = self.open()
        through.client.out += DATA
        through.host.reading = False
        size = 0
        while len(through.host.got) < len(DATA):
            self.rest()
            if not through.client.out and not size:
                through.client.half_close()
                size = len(through.host.got)
            self.assertEqual(through.host.ended, "")
            through.host.reading = True
            self.step()
            through.host.reading = len(through.host.got) == len(DATA)
        self.assertLess(size, len(DATA))
        self.until(lambda: through.host.ended)
        self.assertEqual((through.host.ended, bytes(through.host.got)), ("eof", DATA))

    def test_reset(self) -> None:
        """A connection that is reset takes the other one along, whichever it is."""
        for number in range(2):
            through = self.stuck()
            gone, left = through.client, through.host
            if number:
                gone, left = left, gone
            gone.cut()
            left.reading = True
            left.out += b"x"
            self.until(lambda: left.ended)  # noqa: B023 (asked at once)
            self.until(lambda: through.word)  # noqa: B023 (asked at once)
            if not number:
                self.assertEqual(bytes(left.got), DATA[: len(left.got)])
            self.assert_no_pipes()

    def test_rest_of_a_lost_one(self) -> None:
        """What was taken from a connection before it was lost is still sent."""
        through = self.stuck()
        taken = through.moved[0]
        through.client.cut()
        # To be told so by the kernel, the gateway has to write there.
        through.host.out += b"x" * 100
        self.until(lambda: through.tunnel.client.lost)
        through.host.reading = True
        self.until(lambda: through.host.ended)
        self.assertGreaterEqual(through.moved[0], taken)
        self.assertEqual(bytes(through.host.got), DATA[: through.moved[0]])

    def test_cut(self) -> None:
        """A tunnel that is cut in the middle of everything is cut at once, both ways."""
        through = self.stuck()
        through.tunnel.end("revoked")
        moved = through.moved.copy()
        self.assert_no_pipes()
        through.host.reading = True
        self.until(lambda: through.word)
        self.until(lambda: through.host.ended and through.client.ended)
        self.assertEqual((through.word, through.moved), ("revoked", moved))
        self.assertLess(len(through.host.got), len(DATA))
        self.assertEqual(bytes(through.host.got), DATA[: len(through.host.got)])

    def test_cut_from_within(self) -> None:
        """A tunnel can be cut by who counts its bytes."""
        through = self.open()
        through.client.out += DATA

        def limit(sent: int, received: int) -> None:
            through.moved[0] += sent
            if through.moved[0] > 2 * WORTH:
                through.tunnel.end("limit")

        through.tunnel._watch = Watch(limit, lambda name: None, lambda number: None)
        self.until(lambda: through.word)
        self.assertEqual(through.word, "limit")
        self.assert_no_pipes()

    def test_any_ends(self) -> None:
        """However and whenever a thousand tunnels end, all descriptors come back."""
        self.patch(splice, "WORTH", 1000)
        dice = random.Random(3)
        for _ in range(100):
            some = [self.open() for _ in range(10)]
            for through in some:
                for peer in (through.client, through.host):
                    peer.out += DATA[: dice.randint(0, 300_000)]
                    peer.piece = dice.randint(1, 60_000)
                    peer.reading = dice.random() > 0.4
            for _ in range(dice.randint(1, 30)):
                self.step()
            for through in some:
                peers = [through.client, through.host]
                dice.shuffle(peers)
                way = dice.randrange(4)
                if way == 0:
                    peers[0].cut()
                elif way == 1:
                    peers[0].half_close()
                elif way == 2:
                    peers[0].handle.close()
                    peers[0].closed = True
                else:
                    through.tunnel.end("revoked")
            for _ in range(dice.randint(0, 10)):
                self.step()
            for through in some:
                for peer in (through.client, through.host):
                    peer.cut()
            self.clock.advance(LINGER)
            self.until(lambda: all(it.word for it in some))  # noqa: B023 (asked at once)
            self.assert_no_pipes()
            self.all.clear()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    # -- pipes -----------------------------------------------------------------------------

    def test_no_more_pipes(self) -> None:
        """Where too many hold a pipe the others do without, and everything arrives."""
        self.patch(splice, "MOST", PIPES.opened - len(PIPES.free) + 2)
        for pipe in PIPES.free:
            PIPES.opened -= 1
            pipe.close()
        PIPES.free.clear()
        self._before = _descriptors(), []
        some = [self.open() for _ in range(5)]
        for through in some:
            through.client.out += DATA
        self.until(lambda: all(len(it.host.got) > 2 * WORTH for it in some))
        for through in some:
            through.host.reading = False
        self.rest()
        self.assertEqual(PIPES.opened, 2 if self.fast else 0)
        for through in some:
            through.host.reading = True
        self.until(lambda: all(len(it.host.got) == len(DATA) for it in some))
        self.assertEqual({bytes(it.host.got) for it in some}, {DATA})

    def test_no_descriptors(self) -> None:
        """Where a pipe cannot be made bytes are pumped."""

        def none(flags: int) -> tuple[int, int]:
            raise OSError(errno.EMFILE, "too many")

        self.patch(os, "pipe2", none)
        free, PIPES.free = PIPES.free, []
        self.addCleanup(setattr, PIPES, "free", free)
        through = self.open()
        through.client.out += DATA
        self.until(lambda: len(through.host.got) == len(DATA))
        self.assertEqual(bytes(through.host.got), DATA)
        self.assertEqual(self.spliced, 0)
        PIPES.free = free

    def test_small_pipes(self) -> None:
        """Pipes that may not be large are as good."""
        self.patch(splice, "PIECE", 1)
        free, PIPES.free = PIPES.free, []
        through = self.open()
        self.patch(splice, "PIECE", PIECE)
        through.client.out += DATA
        self.until(lambda: len(through.host.got) == len(DATA))
        self.assertEqual(bytes(through.host.got), DATA)
        for pipe in PIPES.free:
            pipe.close()
            PIPES.opened -= 1
        PIPES.free = free


class StockTests(SpliceTests):
    """The same on Twisted's own transports: the promises do not depend on the way."""

    fast = False


def _descriptors() -> set[str]:
    """The sockets and pipes that are open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return {link for link in found if link.startswith(("socket:", "pipe:"))}


class DuctTests(SynchronousTestCase):
    """One direction, between two transports whose other ends the test has."""

    def setUp(self) -> None:
        self.patch(splice, "WORTH", 0)
        self.source, self.there = self.connection()
        self.target, self.here = self.connection()
        self.moved: list[int] = []
        self.flowing = True
        tap = Tap(self.source, lambda: 1 << 62, lambda size: None, lambda: self.flowing)
        self.splice = Splice(tap, self.target, self.moved.append)
        self.addCleanup(self.splice.close)
        self.target.registerProducer(self, True)

    def pauseProducing(self) -> None:
        self.flowing = False

    def resumeProducing(self) -> None:
        self.flowing = True

    def stopProducing(self) -> None:
        pass

    def connection(self) -> tuple[Any, socket.socket]:
        """A transport, and the other end of its socket."""
        listener = socket.create_server(("127.0.0.1", 0))
        there = socket.create_connection(listener.getsockname())
        here, _ = listener.accept()
        listener.close()
        self.addCleanup(there.close)
        for handle in (here, there):
            handle.setblocking(False)
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        wire: Any = Connection(here, Protocol(), own_reactor())
        wire.connected = 1
        self.addCleanup(self.lose, wire)
        return wire, there

    @staticmethod
    def lose(wire: Any) -> None:
        wire.stopReading()
        wire.stopWriting()
        if wire.connected:
            wire.connectionLost(Failure(ConnectionDone()))

    def fill(self) -> bytes:
        """Let bytes through until the pipe holds some."""
        sent = b""
        while not self.splice._duct.held:
            piece = os.urandom(20_000)
            sent += piece[: self.there.send(piece)]
            time.sleep(0.001)
            self.source.doRead()
        return sent

    def got(self, size: int, write: bool = True) -> bytes:
        """What arrives."""
        found, give_up = b"", time.monotonic() + 5
        while len(found) < size and time.monotonic() < give_up:
            try:
                found += self.here.recv(1 << 20)
            except BlockingIOError:
                if write:
                    self.target.doWrite()
        return found

    def test_what_waits_goes_first(self) -> None:
        """What the transport has not sent yet goes before what is read now."""
        self.target.write(b"first ")
        self.there.send(b"second")
        time.sleep(0.01)
        self.source.doRead()
        self.assertEqual(self.got(12), b"first second")
        self.assertFalse(self.splice._duct.held)

    def test_what_comes_later_goes_last(self) -> None:
        """What is written while the pipe is full goes after it."""
        sent = self.fill()
        self.assertFalse(self.flowing)
        self.target.write(b"last")
        self.assertEqual(self.got(len(sent) + 4), sent + b"last")
        self.assertTrue(self.flowing)
        self.assertNotIn("doWrite", vars(self.target))

    def test_closed(self) -> None:
        """Who closes it leaves the rest to the transport, to whom both sockets belong again."""
        sent = self.fill()
        self.splice.close()
        self.splice.close()
        self.assertNotIn("doWrite", vars(self.target))
        self.assertNotIn("doRead", vars(self.source))
        self.assertEqual(PIPES.opened, len(PIPES.free))
        self.assertEqual(self.got(len(sent)), sent)

    def test_aborted(self) -> None:
        """Nothing is sent on a transport that was aborted, and it stays aborted."""
        self.fill()
        self.target.abortConnection()
        self.splice.close()
        self.assertIsNone(self.target.doWrite())
        self.assertEqual(PIPES.opened, len(PIPES.free))
        own_reactor().iterate(0)
        self.assertFalse(self.target.connected)

    def test_aborted_target(self) -> None:
        """What is read after the target was aborted goes nowhere."""
        self.target.abortConnection()
        self.there.send(b"x" * 1000)
        time.sleep(0.01)
        self.source.doRead()
        self.assertRaises(BlockingIOError, self.here.recv, 1000)
        own_reactor().iterate(0)

    def test_lost_target(self) -> None:
        """A target that was reset is lost in the transport's own way."""
        self.fill()
        linger = struct.pack("ii", 1, 0)
        self.here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.here.close()
        time.sleep(0.01)
        self.assertIsInstance(self.target.doWrite(), Exception)

    def test_nothing(self) -> None:
        """A turn in which there is nothing to be read leaves no pipe behind."""
        self.source.doRead()
        self.assertEqual(PIPES.opened, len(PIPES.free))

    def test_one_turn(self) -> None:
        """A direction moves so much in a turn, not more."""
        self.there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        self.there.send(bytes(30_000))
        time.sleep(0.01)
        before = len(self.moved)
        self.source.doRead()
        self.assertEqual(len(self.moved), before + 1)
        self.assertLessEqual(self.moved[-1], PIECE)

    def test_holds(self) -> None:
        """A pipe that holds something takes nothing more, even if it is asked."""
        self.fill()
        held = self.splice._duct.held
        self.flowing = True
        self.source.doRead()
        self.assertEqual(self.splice._duct.held, held)
