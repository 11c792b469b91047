"""The fake stream and the real one keep the same promises."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_message import Status, Type
from tests.rpc.fake_stream import FakeStream
from tests.rpc.test_stream import StreamCase as _StreamCase
from tests.rpc.wire_case import DOM
from tests.support import Producer


class _Contract:
    """What whoever has a stream may rely on."""

    stream: Any
    got: list[bytes]
    over: list[str]

    def comes(self, data: bytes) -> None:
        raise NotImplementedError

    def hangs_up(self) -> None:
        raise NotImplementedError

    def stores(self) -> None:
        raise NotImplementedError

    def breaks(self) -> None:
        raise NotImplementedError

    def took(self) -> bytes:
        raise NotImplementedError

    def full(self, full: bool) -> None:
        raise NotImplementedError

    def test_read(self: Any) -> None:
        """Bytes come in order while they are wanted, also those that were there before."""
        self.comes(b"a")
        done = self.stream.deliver(self.got.append)
        self.comes(b"b")
        self.assertEqual(self.got, [b"a", b"b"])
        self.assertNoResult(done)
        self.hangs_up()
        self.successResultOf(done)
        self.assertEqual(self.over, ["finished"])

    def test_written(self: Any) -> None:
        """Bytes go in order; it is finished when that is confirmed, for whoever reads as well."""
        reading = self.stream.deliver(self.got.append)
        self.stream.write(b"ab")
        self.stream.write(b"c")
        done = self.stream.finish()
        self.stream.write(b"late")
        self.assertEqual(self.took(), b"abc")
        self.assertNoResult(done)
        self.comes(b"yes")
        self.stores()
        self.successResultOf(done)
        self.successResultOf(reading)
        self.successResultOf(self.stream.finish())
        self.assertEqual((self.got, self.over), ([b"yes"], ["finished"]))

    def test_refused(self: Any) -> None:
        """What the hypervisor says against it is known to all, at any time."""
        waiting: list[Deferred[None]] = [self.stream.deliver(self.got.append), self.stream.finish()]
        self.breaks()
        self.assertEqual(self.over, ["refused"])
        for failed in (*waiting, self.stream.deliver(self.got.append), self.stream.finish()):
            self.failureResultOf(failed, LibvirtError)
        late: list[str] = []
        self.stream.when_over(late.append)
        self.assertEqual(late, ["refused"])

    def test_given_up(self: Any) -> None:
        """Whoever stops, closes, or waits no more, gives it up."""
        for give_up in ("abort", "stopProducing", "close", "cancel"):
            self.setUp()
            done = self.stream.deliver(self.got.append)
            (done.cancel if give_up == "cancel" else getattr(self.stream, give_up))()
            self.failureResultOf(done, errors.Interrupted)
            self.comes(b"late")
            self.stream.write(b"late")
            self.assertEqual((self.got, self.over, self.took()), ([], ["aborted"], b""), give_up)

    def test_producer(self: Any) -> None:
        """Who writes much is stopped and let go, and hears when nobody wants it any more."""
        producer, late, gone = Producer(), Producer(), Producer()
        self.stream.registerProducer(gone, True)
        self.stream.unregisterProducer()
        self.stream.registerProducer(producer, True)
        self.full(True)
        self.full(False)
        self.breaks()
        self.stream.registerProducer(late, True)
        self.assertEqual((producer.told, late.told), (["pause", "resume", "stop"], ["stop"]))
        self.assertEqual(gone.told, [])


class FakeTest(_Contract, SynchronousTestCase):
    """The fake."""

    stream: FakeStream

    def setUp(self) -> None:
        self.got, self.over = [], []
        self.stream = FakeStream()
        self.stream.confirms = False
        self.stream.when_over(self.over.append)

    def comes(self, data: bytes) -> None:
        self.stream.says(data)

    def hangs_up(self) -> None:
        self.stream.hangs_up()

    def stores(self) -> None:
        self.stream.confirm()

    def breaks(self) -> None:
        self.stream.breaks(LibvirtError(38))

    def took(self) -> bytes:
        return bytes(self.stream.told)

    def full(self, full: bool) -> None:
        self.stream.full(full)


class RealTest(_Contract, _StreamCase):
    """The real one, on a connection in memory."""

    name = "DOMAIN_OPEN_CONSOLE"

    def setUp(self) -> None:
        self.arguments = {"dom": DOM, "dev_name": None, "flags": 0}
        super().setUp()
        self.stream = self.open()

    def comes(self, data: bytes) -> None:
        self.say(self.data(data))

    def hangs_up(self) -> None:
        self.say(self.data(), self.confirm())

    def stores(self) -> None:
        self.say(self.confirm())

    def breaks(self) -> None:
        self.say(self.refusal(self.head, 38, Type.STREAM))

    def took(self) -> bytes:
        return b"".join(payload for status, payload in self.said() if status == Status.CONTINUE)

    def full(self, full: bool) -> None:
        if full:
            self.wire.feeds.pauseProducing()
        else:
            self.wire.feeds.resumeProducing()
