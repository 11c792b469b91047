"""Streams: both directions, their ends, and who waits for whom."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from gateway import errors
from gateway.core import relay
from gateway.rpc.connection import LINGER
from gateway.rpc.stream import EARLY, Stream
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_message import CHUNK, Message, Status, Type
from gateway.wire.libvirt_schema import procedure, record
from tests.rpc.wire_case import DOM, WireCase
from tests.support import Producer

VOLUME = {"pool": "p", "name": "v", "key": "/p/v"}
DATA: dict[str, object] = {"vol": VOLUME, "offset": 0, "length": 0, "flags": 0}
CONSOLE: dict[str, object] = {"dom": DOM, "dev_name": None, "flags": 0}
SCREEN: dict[str, object] = {"dom": DOM, "screen": 0, "flags": 0}


class StreamCase(WireCase):
    """A stream that was opened."""

    name = "STORAGE_VOL_DOWNLOAD"
    arguments: dict[str, object] = DATA

    def setUp(self) -> None:
        super().setUp()
        self.opened = self.connection.stream(procedure(self.name), self.arguments)
        (self.head,) = self.heard()
        self.over: list[str] = []
        self.got: list[bytes] = []

    def open(self, *more: Message) -> Stream:
        """Have it opened, and *more* arrive in the same read."""
        results = {"mime": None} if self.name == "DOMAIN_SCREENSHOT" else {}
        self.say(self.answer(self.head, **results), *more)
        values, stream = self.successResultOf(self.opened)
        self.assertEqual(values, results)
        stream.when_over(self.over.append)
        return stream

    def data(self, data: bytes = b"") -> Message:
        return self.head._replace(type=Type.STREAM, status=Status.CONTINUE, payload=data)

    def confirm(self) -> Message:
        return self.head._replace(type=Type.STREAM, status=Status.OK, payload=b"")

    def said(self) -> list[tuple[int, bytes]]:
        """Status and payload of what our side said of the stream."""
        messages = self.heard()
        for message in messages:
            self.assertIn(message.type, (Type.STREAM, Type.HOLE))
            self.assertEqual((message.procedure, message.serial), (self.head.procedure, self.head.serial))
        return [(message.status, message.payload) for message in messages]

    def paused(self) -> bool:
        return self.wire.producerState == "paused"


class DownloadTest(StreamCase):
    """What is read."""

    def test_whole(self) -> None:
        """Data, an empty message, our finish, its confirmation: only then is it all there."""
        stream = self.open()
        done = stream.deliver(self.got.append)
        self.say(self.data(b"ab"), self.data(b"c"))
        self.say(self.data())
        self.assertEqual(self.said(), [(Status.OK, b"")])
        self.assertNoResult(done)
        self.assertEqual(self.over, [])
        self.say(self.confirm())
        self.successResultOf(done)
        self.assertEqual((self.got, self.over), ([b"ab", b"c"], ["finished"]))
        stream.abort()
        self.assertEqual(self.said(), [])

    def test_before_anybody_reads(self) -> None:
        """What came with the answer waits for its reader, and nothing more is read until there is one."""
        stream = self.open(self.data(b"ab"), self.data(b"c"))
        self.assertTrue(self.paused())
        done = stream.deliver(self.got.append)
        self.assertFalse(self.paused())
        self.assertEqual(self.got, [b"ab", b"c"])
        self.say(self.data(), self.confirm())
        self.successResultOf(done)

    def test_all_before_anybody_reads(self) -> None:
        """The same when even the end was there."""
        stream = self.open(self.data(b"ab"), self.data())
        self.assertFalse(self.paused())
        self.assertEqual(self.said(), [(Status.OK, b"")])
        self.say(self.confirm())
        self.successResultOf(stream.deliver(self.got.append))
        self.assertEqual(self.got, [b"ab"])

    def test_before_the_answer(self) -> None:
        """Data may come before the answer to the call, which is read all the same; so may the end."""
        self.say(self.data(b"ab"), self.data(b"c"))
        self.assertFalse(self.paused())
        stream = self.open()
        self.assertTrue(self.paused())
        done = stream.deliver(self.got.append)
        self.say(self.data(), self.confirm())
        self.successResultOf(done)
        self.assertEqual(self.got, [b"ab", b"c"])

    def test_end_before_the_answer(self) -> None:
        """A short stream may be over by then."""
        self.say(self.data(b"ab"), self.data())
        self.assertEqual(self.said(), [(Status.OK, b"")])
        self.say(self.confirm())
        stream = self.open()
        self.assertFalse(self.paused())
        self.successResultOf(stream.deliver(self.got.append))
        self.assertEqual((self.got, self.over), ([b"ab"], ["finished"]))

    def test_flood_before_the_answer(self) -> None:
        """But there is a limit to it."""
        for _ in range(EARLY):
            self.say(self.data(b"ab"))
        self.assertTrue(self.connection.alive)
        self.say(self.data(b"ab"))
        self.assertTrue(self.wire.aborted)
        self.gone()
        self.failureResultOf(self.opened, errors.Interrupted)

    def test_refused_after_data(self) -> None:
        """What came before a refusal is dropped, and so is what comes after it."""
        self.say(self.data(b"ab"), self.refusal(self.head, 1), self.data(b"c"))
        self.failureResultOf(self.opened, LibvirtError)
        self.assertEqual(self.said(), [])
        self.assertTrue(self.connection.alive)

    def test_pause_while_delivering(self) -> None:
        """A reader that has enough of what had waited is not flooded with more."""
        stream = self.open(self.data(b"ab"))

        def take(data: bytes) -> None:
            self.got.append(data)
            stream.pauseProducing()

        done = stream.deliver(take)
        self.assertTrue(self.paused())
        stream.resumeProducing()
        self.assertFalse(self.paused())
        self.say(self.data(), self.confirm())
        self.successResultOf(done)

    def test_pressure(self) -> None:
        """A paused stream pauses its connection; the confirmation is read in any case."""
        stream = self.open()
        done = stream.deliver(self.got.append)
        stream.pauseProducing()
        self.assertTrue(self.paused())
        stream.resumeProducing()
        self.assertFalse(self.paused())
        self.say(self.data(b"a"), self.data())
        stream.pauseProducing()
        self.assertFalse(self.paused())
        self.say(self.confirm())
        stream.pauseProducing()
        self.assertFalse(self.paused())
        self.successResultOf(done)

    def test_aborted_while_delivering(self) -> None:
        """A reader may give up at any piece."""
        stream = self.open(self.data(b"ab"), self.data(b"c"))
        done = stream.deliver(lambda data: stream.stopProducing())
        self.failureResultOf(done, errors.Interrupted)
        self.assertEqual(self.said(), [(Status.ERROR, b"")])
        self.assertEqual(self.over, ["aborted"])

    def test_cancelled(self) -> None:
        """Whoever gives up waiting gives up the stream; what still comes of it is dropped."""
        stream = self.open()
        done = stream.deliver(self.got.append)
        done.cancel()
        failure = self.failureResultOf(done, errors.Interrupted)
        self.assertFalse(failure.value.maybe_executed)
        self.assertEqual(self.said(), [(Status.ERROR, b"")])
        self.say(self.data(b"late"), self.data(), self.confirm())
        self.assertEqual((self.got, self.over, self.said()), ([], ["aborted"], []))
        # The connection is good for more.
        answer, call = self.call("CONNECT_GET_TYPE")
        self.say(self.answer(call, type="TEST"))
        self.successResultOf(answer)

    def test_error(self) -> None:
        """An error of the hypervisor ends it, and the connection lives on."""
        stream = self.open()
        done = stream.deliver(self.got.append)
        self.say(self.data(b"ab"), self.refusal(self.head, 38, Type.STREAM), self.data(b"late"))
        self.assertEqual(self.failureResultOf(done, LibvirtError).value.code, 38)
        self.assertEqual((self.got, self.over, self.said()), ([b"ab"], ["refused"], []))
        self.assertTrue(self.connection.alive)
        self.failureResultOf(stream.deliver(self.got.append), LibvirtError)
        late: list[str] = []
        stream.when_over(late.append)
        self.assertEqual(late, ["refused"])

    def test_lost(self) -> None:
        """So does the loss of the connection."""
        stream = self.open()
        done = stream.deliver(self.got.append)
        self.gone()
        self.assertFalse(self.failureResultOf(done, errors.Interrupted).value.maybe_executed)
        self.assertEqual((self.over, self.lost), (["lost"], ["lost"]))
        self.failureResultOf(stream.finish(), errors.Interrupted)

    def test_refused(self) -> None:
        """A stream that is not opened is no stream."""
        self.say(self.refusal(self.head, 50))
        self.failureResultOf(self.opened, LibvirtError)
        self.say(self.data(b"x"))
        self.assertTrue(self.connection.alive)

    def test_unwanted(self) -> None:
        """A stream that nobody waits for any more is given up when it is opened."""
        self.opened.cancel()
        self.failureResultOf(self.opened)
        self.say(self.answer(self.head), self.data(b"x"))
        self.assertEqual(self.said(), [(Status.ERROR, b"")])

    def test_lost_before(self) -> None:
        """A connection that is lost before the stream is opened."""
        self.gone()
        self.failureResultOf(self.opened, errors.Interrupted)

    def test_holes(self) -> None:
        """Holes are told where they were asked for; otherwise they end the connection."""
        stream = self.open()
        holes: list[int] = []
        stream.hole = holes.append
        hole = self.data(record("{hole}").pack({"length": 1 << 40, "flags": 0}))._replace(type=Type.HOLE)
        self.say(hole)
        self.assertEqual(holes, [1 << 40])
        stream.hole = None
        self.say(hole)
        self.assertTrue(self.wire.aborted)
        self.gone()
        self.assertEqual((self.over, self.lost), (["malformed"], ["malformed"]))

    def test_bad_holes(self) -> None:
        """A hole of a negative length, or one that is cut, ends the connection."""
        stream = self.open()
        stream.hole = self.fail
        bad = record("{hole}").pack({"length": -1, "flags": 0})
        self.say(self.data(bad)._replace(type=Type.HOLE))
        self.assertTrue(self.wire.aborted)

    def test_relayed(self) -> None:
        """It is a source of the relay."""
        stream = self.open(self.data(b"ab"))

        class Sink:
            producer: Any = None
            got = b""

            def write(self, data: bytes) -> None:
                self.got += data

            def registerProducer(self, producer: Any, streaming: bool) -> None:
                self.producer = producer

            def unregisterProducer(self) -> None:
                self.producer = None

        sink = Sink()
        done = Deferred.fromCoroutine(relay.body(stream, sink, Clock()))
        sink.producer.pauseProducing()
        self.assertTrue(self.paused())
        sink.producer.resumeProducing()
        self.say(self.data(b"c"), self.data(), self.confirm())
        self.successResultOf(done)
        self.assertEqual((sink.got, sink.producer), (b"abc", None))


class UploadTest(StreamCase):
    """What is written."""

    name = "STORAGE_VOL_UPLOAD"

    def test_whole(self) -> None:
        """Data in pieces that libvirt takes, a finish, and the confirmation that all is stored."""
        stream = self.open()
        stream.write(b"a" * CHUNK + b"b")
        stream.write(memoryview(b"cd"))
        stream.write(b"")
        done = stream.finish()
        continued = Status.CONTINUE
        said = [(continued, b"a" * CHUNK), (continued, b"b"), (continued, b"cd"), (Status.OK, b"")]
        self.assertEqual(self.said(), said)
        self.assertNoResult(done)
        stream.write(b"late")
        again = stream.finish()
        self.say(self.confirm())
        self.successResultOf(done)
        self.successResultOf(again)
        self.successResultOf(stream.finish())
        stream.write(b"late")
        stream.abort()
        self.assertEqual((self.said(), self.over), ([], ["finished"]))

    def test_holes(self) -> None:
        """Holes are messages of their own."""
        stream = self.open()
        stream.skip(1 << 33)
        self.assertEqual(self.said(), [(Status.CONTINUE, bytes.fromhex("0000000200000000 00000000"))])

    def test_error(self) -> None:
        """The daemon's word in mid-stream: the writer is stopped, and the end says why."""
        stream = self.open()
        producer = Producer()
        stream.registerProducer(producer, True)
        self.wire.feeds.pauseProducing()
        stream.write(b"a")
        self.said()
        self.say(self.refusal(self.head, 38, Type.STREAM))
        self.assertEqual((producer.told, self.over), (["pause", "stop"], ["refused"]))
        self.assertIsNone(self.wire.producer)
        stream.write(b"b")
        self.failureResultOf(stream.finish(), LibvirtError)
        self.assertEqual(self.said(), [])
        stream.unregisterProducer()
        late = Producer()
        stream.registerProducer(late, True)
        self.assertEqual(late.told, ["stop"])

    def test_error_after_finish(self) -> None:
        """An error instead of the confirmation."""
        done = self.open().finish()
        self.say(self.refusal(self.head, 38, Type.STREAM))
        self.failureResultOf(done, LibvirtError)

    def test_lost(self) -> None:
        """Who loses the connection may have written; so says the error."""
        stream = self.open()
        producer = Producer()
        stream.registerProducer(producer, True)
        done = stream.finish()
        self.gone()
        self.assertTrue(self.failureResultOf(done, errors.Interrupted).value.maybe_executed)
        self.assertEqual(producer.told, ["stop"])

    def test_watcher_first(self) -> None:
        """Who is told of the end can let go of the writer in its own way."""
        stream = self.open()
        producer = Producer()
        stream.registerProducer(producer, True)
        stream.when_over(lambda _: stream.unregisterProducer())
        self.say(self.refusal(self.head, 38, Type.STREAM))
        self.assertEqual(producer.told, [])

    def test_pull(self) -> None:
        """Only push producers are served."""
        stream = self.open()
        self.assertRaises(ValueError, stream.registerProducer, Producer(), False)

    def test_close(self) -> None:
        """To close a stream that is not over is to abort it; a daemon that does not read is cut."""
        stream = self.open()
        stream.pauseProducing()
        stream.close()
        self.assertEqual(self.said(), [(Status.ERROR, b"")])
        self.assertTrue(self.wire.disconnecting)
        self.assertFalse(self.paused())
        self.assertEqual(self.over, ["aborted"])
        self.clock.advance(LINGER)
        self.assertTrue(self.wire.aborted)
        self.gone()
        self.assertEqual(self.lost, ["closed"])


class ConsoleTest(StreamCase):
    """Both directions at once."""

    name = "DOMAIN_OPEN_CONSOLE"
    arguments = CONSOLE

    def test_both(self) -> None:
        """What is written does not wait for what is read."""
        stream = self.open()
        done = stream.deliver(self.got.append)
        stream.write(b"ls\n")
        self.say(self.data(b"ls"))
        stream.pauseProducing()
        stream.write(b"x")
        self.assertEqual([payload for _, payload in self.said()], [b"ls\n", b"x"])
        stream.resumeProducing()
        # The guest hangs up.
        self.say(self.data())
        stream.write(b"late")
        self.assertEqual(self.said(), [(Status.OK, b"")])
        self.say(self.confirm())
        self.successResultOf(done)
        self.assertEqual(self.over, ["finished"])

    def test_we_hang_up(self) -> None:
        """Our finish ends it too, whatever comes until then."""
        stream = self.open()
        done = stream.deliver(self.got.append)
        stored = stream.finish()
        self.assertEqual(self.said(), [(Status.OK, b"")])
        self.say(self.data(b"x"), self.data(), self.confirm())
        self.successResultOf(done)
        self.successResultOf(stored)
        self.assertEqual((self.got, self.said()), ([b"x"], []))


class ScreenshotTest(StreamCase):
    """A stream whose call has results."""

    name = "DOMAIN_SCREENSHOT"
    arguments = SCREEN

    def test_results(self) -> None:
        """They come before the stream."""
        self.successResultOf(self.open(self.data(), self.confirm()).deliver(self.got.append))
