"""A websocket over a wire in memory; both ways to frame keep the same promises."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from wsproto.frame_protocol import FrameProtocol, Opcode

from gateway import errors
from gateway.consoles.websocket import (
    ConsoleSocket,
    Ending,
    FastSocket,
    SocketFactory,
    SocketLimits,
    choose,
)
from gateway.core.exchange import Exchange
from gateway.core.web import GatewaySite
from gateway.wire.websocket_frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, FrameLimits, frame
from gateway.wire.websocket_handshake import read_handshake
from tests.core.test_channel import Wire, statuses
from tests.support import Producer
from tests.wire.test_websocket_frames import client

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
#: Source: RFC 6455, section 1.3.
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def hello(path: bytes = b"/c", **fields: bytes) -> bytes:
    """A browser's request for a websocket."""
    lines = [
        b"GET " + path + b" HTTP/1.1",
        b"Host: a.invalid",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: " + KEY,
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        *(name.replace("_", "-").encode() + b": " + value for name, value in fields.items()),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def close(code: int, reason: bytes = b"") -> bytes:
    return client(CLOSE, code.to_bytes(2, "big") + reason)


def frames(data: bytes | bytearray) -> list[tuple[int, Any]]:
    """What a server sent after its head: whole frames."""
    protocol = FrameProtocol(client=True, extensions=[])
    protocol.receive_bytes(bytes(data))
    found = []
    for part in protocol.received_frames():
        content: Any = part.payload
        if part.opcode is Opcode.CLOSE:
            content = (int(content[0]), content[1] or "")
        elif not isinstance(content, str):
            content = bytes(content)
        found.append((int(part.opcode), content))
    return found


class SocketCase(SynchronousTestCase):
    """A console whose target is this test."""

    kind: type[ConsoleSocket] = FastSocket
    limits = SocketLimits()

    def setUp(self) -> None:
        self.clock = Clock()
        self.sockets = SocketFactory(self.clock, self.limits)
        self.sockets.protocol = self.kind
        self.site = GatewaySite(self.clock)
        self.site.routes.append(lambda exchange: self.serve)
        self.heard = bytearray()
        self.endings: list[Ending] = []
        self.wires: list[Wire] = []
        self.addCleanup(self.check_clean)

    def check_clean(self) -> None:
        for wire in self.wires:
            wire.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def hear(self, data: bytes) -> None:
        self.heard += data

    async def serve(self, exchange: Exchange) -> None:
        self.socket = self.sockets.accept(exchange, read_handshake(exchange.head), self.hear)
        self.endings.append(await self.socket.closed)

    def connect(self, data: bytes = b"", **fields: bytes) -> Wire:
        """Shake hands; *data* comes together with the request."""
        wire = Wire(self.site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 4711)))
        self.wires.append(wire)
        wire.receive(hello(**fields) + data)
        self.head, _, rest = wire.taken().partition(b"\r\n\r\n")
        wire.sent += rest
        return wire

    def sent(self, wire: Wire) -> list[tuple[int, Any]]:
        """The frames that were sent since the last call."""
        return frames(wire.taken())


class OpeningTests(SocketCase):
    """The answer to the handshake."""

    def test_answer(self) -> None:
        """It is the one of the standard, without extensions, and nothing of the request stands in it."""
        self.connect(path=b"/secret?token=secret", Origin=b"https://secret.invalid", Cookie=b"secret")
        self.assertEqual(statuses(self.head + b"\r\n"), [101])
        self.assertIn(b"\r\nSec-WebSocket-Accept: " + ACCEPT, self.head)
        self.assertNotIn(b"xtensions", self.head)
        self.assertNotIn(b"secret", self.head)
        for name, value in vars(self.socket).items():
            self.assertNotIn("secret", repr(value), name)

    def test_subprotocol(self) -> None:
        """Only what was offered is agreed on: binary first, then base64, then nothing."""
        for offered, agreed in (
            (b"binary", b"binary"),
            (b"base64, binary", b"binary"),
            (b"ticket.x, base64", b"base64"),
            (b"chat, Binary", None),
        ):
            self.connect(Sec_WebSocket_Protocol=offered)
            line = b"Sec-WebSocket-Protocol: " + agreed if agreed else b""
            self.assertIn(line, self.head)
            self.assertEqual(self.head.count(b"Sec-WebSocket-Protocol"), bool(agreed))
        self.connect()
        self.assertNotIn(b"Sec-WebSocket-Protocol", self.head)
        self.assertIsNone(choose([]))

    def test_early(self) -> None:
        """Frames that came before the answer are read."""
        wire = self.connect(client(BINARY, b"early") + client(PING, b"?"))
        self.assertEqual(self.heard, b"early")
        self.assertEqual(self.sent(wire), [(PONG, b"?")])

    def test_refused(self) -> None:
        """Until it is accepted, a websocket is refused as any request is; nothing reaches a target."""

        async def refuse(exchange: Exchange) -> None:
            read_handshake(exchange.head)
            raise errors.UpstreamFailed

        self.serve = refuse  # type: ignore[method-assign]  # one that refuses
        self.connect(client(BINARY, b"early"))
        self.assertEqual(statuses(self.head), [502])
        self.connect(Sec_WebSocket_Protocol=b"a, a")
        self.assertEqual(statuses(self.head), [400])
        wire = self.connect()
        wire.receive(b"GET /c HTTP/1.1\r\nhost: a.invalid\r\n\r\n")
        self.assertEqual(statuses(wire.sent[-400:])[-1], 426)
        self.assertEqual(self.heard, b"")

    def test_told_why(self) -> None:
        """A page can be told why: accepted, and closed with 4000 + status and at most 123 bytes of text."""
        wire = self.connect()
        self.socket.end(errors.Forbidden("é" * 100))
        self.assertEqual(self.sent(wire), [(CLOSE, (4403, "é" * 61))])
        wire.receive(close(4403))
        wire.end()
        self.assertEqual(self.endings, [Ending(4403, "é" * 61, True, True)])


class BytesTests(SocketCase):
    """The stream both ways."""

    def test_from_browser(self) -> None:
        """Boundaries carry no meaning; what arrived is given on at once, frames that are not whole too."""
        wire = self.connect()
        wire.receive(client(BINARY, b"ab") + client(BINARY) + client(BINARY, b"c", final=False))
        self.assertEqual(self.heard, b"abc")
        data = client(CONTINUATION, b"x" * 100_000)
        wire.receive(data[:50_000])
        self.assertEqual(len(self.heard), 3 + 50_000 - 14)
        wire.receive(data[50_000:])
        self.assertEqual(self.heard, b"abc" + b"x" * 100_000)

    def test_to_browser(self) -> None:
        """Bytes go out as binary frames of 64 KiB at most."""
        wire = self.connect()
        for data in (b"a", b"b" * 65_536, b"c" * 131_072, b"d" * 300_000):
            self.socket.write(data)
            sent = self.sent(wire)
            self.assertEqual({opcode for opcode, _ in sent} - {CONTINUATION}, {BINARY})
            self.assertEqual(b"".join(payload for _, payload in sent), data)
            self.assertLessEqual(max(len(payload) for _, payload in sent), 65_536)

    def test_base64(self) -> None:
        """The old subprotocol carries the same bytes as text."""
        wire = self.connect(Sec_WebSocket_Protocol=b"base64")
        text = b64encode(b"hello")
        wire.receive(client(TEXT, text[:3], final=False) + client(CONTINUATION, text[3:]))
        wire.receive(client(TEXT, b64encode(b" world")))
        self.assertEqual(self.heard, b"hello world")
        self.socket.write(b"\xff" * 100_000)
        sent = self.sent(wire)
        self.assertEqual(sent[0][0], TEXT)
        self.assertEqual("".join(payload for _, payload in sent), b64encode(b"\xff" * 100_000).decode())
        wire.receive(client(TEXT, b"QQ"))
        self.assertEqual(self.sent(wire)[0][1][0], 1007)

    def test_pause(self) -> None:
        """A target that takes nothing stops the reading from the browser."""
        wire = self.connect()
        self.socket.pauseProducing()
        self.assertFalse(wire.reading)
        wire.receive(client(BINARY, b"later"))
        self.assertEqual(self.heard, b"")
        self.socket.resumeProducing()
        wire.receive(b"")
        self.assertEqual(self.heard, b"later")
        self.socket.stopProducing()
        self.assertFalse(wire.reading)

    def test_stalled_browser(self) -> None:
        """A browser that takes nothing pauses the target, also one that is registered late."""
        wire = self.connect()
        target = Producer()
        self.socket.registerProducer(target, True)
        wire.producer.pauseProducing()
        wire.producer.resumeProducing()
        self.assertEqual(target.told, ["pause", "resume"])
        self.socket.unregisterProducer()
        wire.producer.pauseProducing()
        late = Producer()
        self.socket.registerProducer(late, True)
        self.assertEqual((target.told, late.told), (["pause", "resume"], ["pause"]))
        self.assertRaises(RuntimeError, self.socket.registerProducer, late, False)

    def test_sink_refuses(self) -> None:
        """What the sink does not take ends the websocket with the reason; a bug ends it without."""

        def refuse(data: bytes) -> None:
            raise errors.Forbidden("view only")

        self.hear = refuse  # type: ignore[method-assign]  # one that refuses
        wire = self.connect(client(BINARY, b"x"))
        self.assertEqual(self.sent(wire), [(CLOSE, (4403, "view only"))])


class PingTests(SocketCase):
    """Pings of both sides."""

    def test_answered(self) -> None:
        """Pings are answered in order, with what they carry."""
        wire = self.connect()
        pings = b"".join(client(PING, b"%d" % i) for i in range(10))
        wire.receive(pings)
        self.assertEqual(self.sent(wire), [(PONG, b"%d" % i) for i in range(10)])

    def test_flood(self) -> None:
        """Of a flood of pings a few are answered, and the last."""
        wire = self.connect()
        for _ in range(10):
            wire.receive(b"".join(client(PING, b"%d" % i) for i in range(4000)))
        pongs = self.sent(wire)
        self.assertLess(len(pongs), 200)
        self.assertEqual(pongs[-1], (PONG, b"3999"))

    def test_blocked(self) -> None:
        """A browser that pings and reads nothing gets one answer when it reads."""
        wire = self.connect()
        wire.producer.pauseProducing()
        for i in range(1000):
            wire.receive(client(PING, b"%d" % i))
        self.assertEqual(self.sent(wire), [])
        wire.producer.resumeProducing()
        self.assertEqual(self.sent(wire), [(PONG, b"999")])

    def test_half_open(self) -> None:
        """A silent browser is asked after 30 s, and dropped 10 s later."""
        wire = self.connect()
        self.clock.advance(29.9)
        self.assertEqual(self.sent(wire), [])
        self.clock.advance(0.2)
        ((opcode, _),) = self.sent(wire)
        self.assertEqual(opcode, PING)
        self.clock.advance(9.8)
        self.assertFalse(wire.aborted)
        self.clock.advance(0.2)
        self.assertTrue(wire.aborted)
        wire.end(clean=False)
        self.assertEqual([(it.code, it.clean) for it in self.endings], [(1006, False)])

    def test_alive(self) -> None:
        """A pong, or anything else it says, keeps a browser."""
        wire = self.connect()
        for answer in (None, client(BINARY, b"x"), client(PONG, b"?"), None):
            self.clock.advance(30)
            ((_, asked),) = self.sent(wire)
            self.clock.advance(9)
            wire.receive(client(PONG, asked) if answer is None else answer)
            if answer == client(PONG, b"?") and self.kind is ConsoleSocket:
                wire.receive(client(PONG, asked))
            self.clock.advance(2)
            self.assertFalse(wire.aborted)
            self.clock.advance(-2)

    def test_not_read(self) -> None:
        """While we do not read because the target is slow, no pong can be missed."""
        wire = self.connect()
        self.socket.pauseProducing()
        self.clock.advance(30)
        ((_, asked),) = self.sent(wire)
        wire.receive(client(PONG, asked))
        for _ in range(10):
            self.clock.advance(10)
        self.assertFalse(wire.aborted)
        self.socket.resumeProducing()
        self.clock.advance(9)
        wire.receive(b"")
        self.clock.advance(20)
        self.assertFalse(wire.aborted)

    def test_slow_browser(self) -> None:
        """A ping behind many bytes is late without anybody being gone, as long as they move."""
        wire = self.connect()
        wire.producer.pauseProducing()
        self.clock.advance(30)
        for _ in range(5):
            wire.producer.resumeProducing()
            self.socket.write(b"more")
            wire.producer.pauseProducing()
            self.clock.advance(10)
            self.assertFalse(wire.aborted)
        self.clock.advance(10)
        self.assertTrue(wire.aborted)


class EndTests(SocketCase):
    """The goodbye, whoever begins it."""

    def test_browser(self) -> None:
        """A browser's goodbye is answered, and the connection closed once that is sent."""
        wire = self.connect()
        wire.receive(client(BINARY, b"last") + close(1001, b"bye"))
        self.assertEqual(self.heard, b"last")
        self.assertEqual(self.sent(wire), [(CLOSE, (1000, ""))])
        self.assertTrue(wire.closed)
        self.assertFalse(wire.aborted)
        wire.end()
        self.assertEqual(self.endings, [Ending(1001, "bye", False, True)])

    def test_browser_takes_nothing(self) -> None:
        """A browser that says goodbye and takes no answer is cut a second later."""
        wire = self.connect()
        wire.receive(client(CLOSE))
        self.clock.advance(0.9)
        self.assertFalse(wire.aborted)
        self.clock.advance(0.2)
        self.assertTrue(wire.aborted)
        wire.end(clean=False)
        self.assertEqual(self.endings, [Ending(1005, "", False, True)])

    def test_ours(self) -> None:
        """We say goodbye, read on for the answer even if nothing was wanted any more, and close."""
        wire = self.connect()
        self.socket.pauseProducing()
        self.socket.write(b"last")
        self.socket.finish("Target closed")
        self.socket.write(b"too late")
        self.socket.finish()
        self.assertEqual(self.sent(wire), [(BINARY, b"last"), (CLOSE, (1000, "Target closed"))])
        wire.receive(client(BINARY, b"nobody wants this") + close(1000))
        self.assertEqual(self.heard, b"")
        self.assertTrue(wire.closed)
        self.assertFalse(wire.aborted)
        wire.end()
        self.assertEqual(self.endings, [Ending(1000, "Target closed", True, True)])

    def test_no_answer(self) -> None:
        """Who does not answer is cut after a second."""
        for error, code in ((None, 1000), (errors.Unavailable(), 4503)):
            self.endings.clear()
            wire = self.connect()
            if error is None:
                self.socket.finish()
            else:
                self.socket.end(error)
            self.clock.advance(0.9)
            self.assertFalse(wire.aborted)
            self.clock.advance(0.2)
            self.assertTrue(wire.aborted)
            wire.end(clean=False)
            self.assertEqual([(it.code, it.ours, it.clean) for it in self.endings], [(code, True, False)])

    def test_flush(self) -> None:
        """A slow browser gets the last bytes of a console that ended, for ten seconds at most."""
        wire = self.connect()
        wire.producer.pauseProducing()
        self.socket.finish()
        for i in range(12):
            # As if the kernel had sent some.
            self.socket._sent += 1
            self.clock.advance(1)
            self.assertEqual(wire.aborted, i >= 9)

    def test_revoked_is_not_flushed(self) -> None:
        """One that was ended for a reason is gone within a second, however much it still takes."""
        wire = self.connect()
        wire.producer.pauseProducing()
        self.socket.end(errors.Forbidden())
        self.socket._sent += 1
        self.clock.advance(1)
        self.assertTrue(wire.aborted)

    def test_cut(self) -> None:
        """A connection that goes without a word is an end as well."""
        self.connect().end(clean=False)
        self.assertEqual([(it.code, it.ours, it.clean) for it in self.endings], [(1006, False, False)])


class MistakeTests(SocketCase):
    """A browser that breaks the rules hears which, and nothing after it is read."""

    limits = SocketLimits(max_frame=1000, max_message=1500)

    def refused(self, code: int, data: bytes, **fields: bytes) -> None:
        self.endings.clear()
        self.heard.clear()
        wire = self.connect(**fields)
        wire.receive(data + client(BINARY, b"never") + close(1000))
        self.assertNotIn(b"never", self.heard)
        sent = self.sent(wire)
        self.assertEqual([(opcode, content[0]) for opcode, content in sent], [(CLOSE, code)], data)
        # What is in the network must not reset the connection: the peer would not get to know why.
        self.assertTrue(wire.half_closed)
        self.assertFalse(wire.closed or wire.aborted)
        self.assertTrue(wire.reading)
        wire.receive(client(BINARY, b"never") * 1000 + client(PING) + close(1000))
        self.assertEqual(self.sent(wire), [])
        self.assertFalse(wire.closed)
        self.clock.advance(1.1)
        self.assertTrue(wire.aborted)
        wire.end(clean=False)
        self.assertEqual([(it.code, it.ours, it.clean) for it in self.endings], [(code, True, False)])
        self.assertNotIn(b"never", self.heard)

    def test_rules(self) -> None:
        """RFC 6455, section 5, one by one."""
        for data in (
            frame(BINARY, b"unmasked"),
            bytes((0xC2, 0x80)) + b"keyy",
            client(3, b"x"),
            client(11, b"x"),
            client(PING, b"x", final=False),
            client(PING, b"x" * 126),
            client(CONTINUATION, b"x"),
            client(BINARY, b"x", final=False) + client(BINARY, b"y"),
            bytes((0x82, 254, 0, 5)) + b"keyy",
            bytes((0x82, 255)) + (1 << 63).to_bytes(8, "big") + b"keyy",
            close(1005),
            client(CLOSE, b"\x03"),
        ):
            self.refused(1002, data)

    def test_text(self) -> None:
        """A console takes no text, and the old one takes nothing else."""
        self.refused(1003, client(TEXT, b"x"))
        self.refused(1003, client(TEXT, b"", final=False))
        self.refused(1003, client(BINARY, b"x"), Sec_WebSocket_Protocol=b"base64")
        self.refused(1007, client(TEXT, b"\xff\xff\xff\xff"), Sec_WebSocket_Protocol=b"base64")
        self.refused(1007, client(TEXT, b"!!!!"), Sec_WebSocket_Protocol=b"base64")

    def test_too_big(self) -> None:
        """Limits hold by what a header announces, before anything of it is there."""
        self.refused(1009, client(BINARY, b"x" * 1001)[:8])
        half = client(BINARY, b"x" * 1000, final=False) + client(CONTINUATION, b"y" * 501)[:8]
        self.refused(1009, half)

    def test_before_it(self) -> None:
        """What came before a mistake counts."""
        wire = self.connect()
        wire.receive(client(BINARY, b"good") + client(3))
        self.assertEqual(self.heard, b"good")
        wire.end()

    def test_in_closing(self) -> None:
        """A mistake in place of the answer to our goodbye ends the waiting."""
        wire = self.connect()
        self.socket.finish()
        wire.receive(client(3))
        self.assertTrue(wire.closed or wire.aborted)
        wire.end()


class StockOpeningTests(OpeningTests):
    """With autobahn's frames."""

    kind = ConsoleSocket


class StockBytesTests(BytesTests):
    """With autobahn's frames."""

    kind = ConsoleSocket


class StockPingTests(PingTests):
    """With autobahn's frames."""

    kind = ConsoleSocket


class StockEndTests(EndTests):
    """With autobahn's frames."""

    kind = ConsoleSocket


class StockMistakeTests(MistakeTests):
    """With autobahn's frames."""

    kind = ConsoleSocket


class ChoiceTests(SynchronousTestCase):
    """Which of the two serves."""

    def test_fast(self) -> None:
        """This installation has all that our own framing needs."""
        from gateway.consoles import websocket

        self.assertEqual(websocket.MISSING, ())

    def test_kinds(self) -> None:
        """What a console takes follows from its subprotocol."""
        sockets = SocketFactory(Clock())
        taken = sockets.protocol(sockets, read(b"base64"), lambda data: None).takes
        self.assertEqual(taken, FrameLimits(text=True, binary=False, boundaries=True))


def read(offered: bytes) -> Any:
    from gateway.wire.http_head import parse_request

    return read_handshake(parse_request(hello(Sec_WebSocket_Protocol=offered)))
