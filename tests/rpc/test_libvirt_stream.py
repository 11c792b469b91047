"""Streams of stock libvirt clients: both ways, their ends, and who waits for whom."""

from __future__ import annotations

from typing import Any

from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_message import Message, Status, Type, pack_error, read_error
from tests.rpc.fake_libvirt import FakePeer
from tests.rpc.libvirt_stage import ALICE, TOKEN, Client, LibvirtStage

VOLUME = {"pool": "p", "name": "v", "key": "/p/v"}
DATA = {"vol": VOLUME, "offset": 0, "length": 0, "flags": 0}
CONSOLE = {"dom": ALICE, "dev_name": None, "flags": 0}
_DATA, _END = (int(Type.STREAM), int(Status.CONTINUE)), (int(Type.STREAM), int(Status.OK))


class StreamCase(LibvirtStage):
    """A client with a hypervisor open, and streams.

    :ivar call: what opened the last one; *peer* the other end of it.
    """

    allow = ("*", "storage_vol:data_read", "storage_vol:data_write")
    call: Message
    peer: FakePeer

    def setUp(self) -> None:
        super().setUp()
        self.grant(allow=self.allow)
        self.made = self.opened()

    def ask(self, name: str, client: Client | None = None, /, **arguments: Any) -> Message:
        """Ask for a stream, which the hypervisor has not opened yet."""
        client = client or self.made
        self.call = client.message(name, **arguments)
        client.say(self.call)
        self.turn()
        self.peer = self.upstream
        return self.call

    def open(self, name: str, client: Client | None = None, /, **arguments: Any) -> Message:
        """Open a stream."""
        call = self.ask(name, client, **arguments)
        self.agree()
        self.assertEqual((client or self.made).answer(call), {})
        return call

    def agree(self) -> None:
        """Open the stream that was asked for."""
        (asked,) = self.peer.asked
        asked.answer()

    def tell(self, payload: bytes = b"", status: int = Status.CONTINUE, kind: int = Type.STREAM) -> None:
        """Have the hypervisor say something on the stream."""
        asked = next(it for it in self.daemon.arrived if it.peer is self.peer and it.name == self.name)
        message = asked.message._replace(type=kind, status=status, payload=payload)
        self.peer.client.dataReceived(message.pack())

    @property
    def name(self) -> str:
        return self.daemon.arrived[-1].name

    def say(self, payload: bytes = b"", status: int = Status.CONTINUE, kind: int = Type.STREAM) -> None:
        """Have the client say something on the stream."""
        self.made.say(self.call._replace(type=kind, status=status, payload=payload))
        self.turn()

    def told(self) -> list[tuple[int, int, bytes]]:
        """What the hypervisor got of the stream."""
        self.turn()
        streamed, self.peer.streamed = self.peer.streamed, []
        return [(it.type, it.status, it.payload) for it in streamed]

    def heard(self) -> list[tuple[int, int, bytes]]:
        """What the client got of it."""
        return self.made.streamed(self.call)


class DownloadTests(StreamCase):
    """What the hypervisor sends."""

    def test_whole(self) -> None:
        """Data, its end, our finish, its confirmation; the same to the client, and then nothing is left."""
        self.open("STORAGE_VOL_DOWNLOAD", **DATA)
        self.assertEqual(self.upstream.opened, ("test:///default", 0))
        self.tell(b"ab")
        self.tell(b"cd")
        self.tell()
        self.tell(status=Status.OK)
        self.assertEqual(self.heard(), [(*_DATA, b"ab"), (*_DATA, b"cd"), (*_DATA, b"")])
        self.say(status=Status.OK)
        self.assertEqual(self.heard(), [(*_END, b"")])
        self.assertTrue(self.peer.lost)
        self.assertEqual((self.sessions.list()[0].bytes_in, self.sessions.list()[0].bytes_out), (0, 4))

    def test_refused(self) -> None:
        """What the hypervisor says in the middle is told to the client; calls go on."""
        self.open("STORAGE_VOL_DOWNLOAD", **DATA)
        self.tell(b"ab")
        self.tell(pack_error(LibvirtError(38, 0, "no space")), Status.ERROR)
        first, (kind, status, payload) = self.heard()
        self.assertEqual((first, (kind, status)), ((*_DATA, b"ab"), (Type.STREAM, Status.ERROR)))
        self.assertEqual(read_error(payload).text, "no space")
        self.assertIsInstance(self.made.call("CONNECT_LIST_ALL_DOMAINS", need_results=0, flags=0), dict)

    def test_lost(self) -> None:
        """When the connection behind it is lost, the stream ends with an error, and nothing else does."""
        self.open("STORAGE_VOL_DOWNLOAD", **DATA)
        self.peer.lose()
        ((_, status, _),) = self.heard()
        self.assertEqual((status, self.made.lost), (Status.ERROR, False))

    def test_given_up(self) -> None:
        """Who gives it up is confirmed, and hears nothing of it any more."""
        self.open("STORAGE_VOL_DOWNLOAD", **DATA)
        self.say(status=Status.ERROR)
        self.assertEqual(self.told(), [(Type.STREAM, Status.ERROR, b"")])
        self.assertEqual(self.heard(), [(*_END, b"")])
        self.assertTrue(self.peer.lost)

    def test_ended(self) -> None:
        """When the ticket ends the hypervisor is left at once; the client hears why, and is soon cut off."""
        self.open("STORAGE_VOL_DOWNLOAD", **DATA)
        self.revoke()
        self.turn()
        self.assertTrue(self.peer.lost)
        self.assertFalse(self.made.wire.aborted)
        self.tell(b"ab")
        self.clock.advance(0.02)
        self.assertTrue(self.made.wire.aborted)
        ((kind, status, payload),) = self.heard()
        self.assertEqual((kind, status), (Type.STREAM, Status.ERROR))
        self.assertIn("revoked", read_error(payload).text)
        self.assertEqual(self.daemon.live, [])

    def test_slow(self) -> None:
        """While the client does not read, the hypervisor is not read either; nothing else is dealt with."""
        self.open("STORAGE_VOL_DOWNLOAD", **DATA)
        self.made.server.pauseProducing()
        self.assertFalse(self.peer.reading)
        self.made.server.resumeProducing()
        self.assertTrue(self.peer.reading)

    def test_opened_while_slow(self) -> None:
        """A stream that the hypervisor opens while the client does not read waits from its beginning."""
        self.ask("STORAGE_VOL_DOWNLOAD", **DATA)
        self.made.server.pauseProducing()
        self.agree()
        self.turn()
        self.assertFalse(self.peer.reading)
        self.made.server.resumeProducing()
        self.assertTrue(self.peer.reading)

    def test_left(self) -> None:
        """Who leaves, or whose ticket ends, leaves no stream behind: open, or about to be."""
        for opened in (True, False):
            client = self.opened()
            if opened:
                self.open("STORAGE_VOL_DOWNLOAD", client, **DATA)
            else:
                self.ask("STORAGE_VOL_DOWNLOAD", client, **DATA)
            client.leave()
            self.assertTrue(self.peer.lost)
        self.open("STORAGE_VOL_DOWNLOAD", **DATA)
        self.revoke()
        self.made.listen()
        self.assertTrue(self.peer.lost)
        self.grant(allow=self.allow, token=TOKEN)

    def test_readonly(self) -> None:
        """What may only be read gets no stream that libvirt does not give to readers."""
        client = self.opened(flags=1)
        self.assertEqual(client.call("STORAGE_VOL_DOWNLOAD", **DATA), 29)
        self.assertEqual(self.daemon.arrived, [])

    def test_holes(self) -> None:
        """Holes go both ways where the client has asked for them."""
        self.open("STORAGE_VOL_DOWNLOAD", **{**DATA, "flags": 1})
        self.tell(self.hole(99), kind=Type.HOLE)
        self.assertEqual(self.heard(), [(Type.HOLE, Status.CONTINUE, self.hole(99))])

    def test_number(self) -> None:
        """The number of a stream is free again when it is over, and not before."""
        self.open("STORAGE_VOL_DOWNLOAD", **DATA)
        self.say(status=Status.ERROR)
        self.heard()
        again = self.made.message("STORAGE_VOL_DOWNLOAD", self.call.serial, **DATA)
        self.made.say(again)
        self.turn()
        self.peer = self.upstream
        self.agree()
        self.assertEqual(self.made.answer(again), {})
        self.made.say(self.made.message("DOMAIN_GET_INFO", self.call.serial, dom=ALICE))
        self.assertTrue(self.made.wire.aborted)


class UploadTests(StreamCase):
    """What the client sends."""

    def test_whole(self) -> None:
        """Data, finish, and the confirmation only when the hypervisor has stored it all."""
        self.open("STORAGE_VOL_UPLOAD", **DATA)
        self.say(b"ab")
        self.say(status=Status.OK)
        self.assertEqual(self.told(), [(*_DATA, b"ab"), (*_END, b"")])
        self.assertEqual(self.heard(), [])
        self.tell(status=Status.OK)
        self.assertEqual(self.heard(), [(*_END, b"")])
        self.assertEqual(self.sessions.list()[0].bytes_in, 2)

    def test_after_finish(self) -> None:
        """What is sent after the finish goes nowhere, and a second finish is none."""
        self.open("STORAGE_VOL_UPLOAD", **DATA)
        stream = self.made.server._session._streams[self.call.serial]._stream  # type: ignore[attr-defined]  # it is open
        self.say(status=Status.OK)
        self.say(b"late")
        self.say(status=Status.OK)
        self.assertEqual((self.told(), len(stream._waiting)), ([(*_END, b"")], 1))
        self.tell(status=Status.OK)
        self.say(b"later")
        self.assertEqual((self.heard(), self.told()), ([(*_END, b"")], []))

    def test_refused(self) -> None:
        """When the hypervisor takes no more for good, the client hears so in the middle."""
        self.open("STORAGE_VOL_UPLOAD", **DATA)
        self.say(b"ab")
        self.tell(pack_error(LibvirtError(38, 0, "no space")), Status.ERROR)
        ((_, status, payload),) = self.heard()
        self.assertEqual((status, read_error(payload).text), (Status.ERROR, "no space"))

    def test_full(self) -> None:
        """While the hypervisor takes no more the client is not read; it is when that ends, in any way."""
        for end in ("resume", "abort", "lost", "refused"):
            self.open("STORAGE_VOL_UPLOAD", **DATA)
            self.peer.producer.pauseProducing()
            self.assertTrue(self.made.paused)
            if end == "resume":
                self.peer.producer.resumeProducing()
            elif end == "abort":
                self.made.server._session._streams[self.call.serial].stop("killed")  # type: ignore[attr-defined]  # it is open
            elif end == "lost":
                self.peer.lose()
            else:
                self.tell(pack_error(LibvirtError(38, 0, "no space")), Status.ERROR)
            self.turn()
            self.assertFalse(self.made.paused, end)

    def test_ended_while_full(self) -> None:
        """What a client has said behind a stream that waits is not done any more when its ticket ends."""
        self.open("STORAGE_VOL_UPLOAD", **DATA)
        self.peer.producer.pauseProducing()
        self.made.say(self.made.message("DOMAIN_DESTROY", dom=ALICE))
        self.revoke()
        self.made.listen()
        self.turn(1)
        self.assertNotIn("DOMAIN_DESTROY", [it.name for peer in self.daemon.peers for it in peer.came])
        self.assertEqual([it[1] for it in self.heard()], [Status.ERROR])
        self.grant(allow=self.allow, token=TOKEN)

    def test_full_at_the_end(self) -> None:
        """A hypervisor that is full with the last of a stream does not stop the client for ever."""
        self.open("STORAGE_VOL_UPLOAD", **DATA)
        self.peer.chokes = True
        self.say(status=Status.ERROR)
        self.assertFalse(self.made.paused)

    def test_holes(self) -> None:
        """Holes are passed on where they were asked for; others, and negative ones, end the connection."""
        self.open("STORAGE_VOL_UPLOAD", **{**DATA, "flags": 1})
        self.say(self.hole(99), kind=Type.HOLE)
        self.assertEqual(self.told(), [(Type.HOLE, Status.CONTINUE, self.hole(99))])
        self.say(self.hole(-1), kind=Type.HOLE)
        self.assertTrue(self.made.wire.aborted)
        self.made.listen()
        self.made = self.opened()
        self.open("STORAGE_VOL_UPLOAD", **DATA)
        self.say(self.hole(99), kind=Type.HOLE)
        self.assertTrue(self.made.wire.aborted)
        self.assertEqual(self.told(), [])

    def test_elsewhere(self) -> None:
        """What is sent on a stream that is not there goes nowhere."""
        self.open("STORAGE_VOL_UPLOAD", **DATA)
        self.call = self.call._replace(serial=999)
        self.say(b"stray")
        self.say(status=Status.OK)
        self.assertEqual((self.told(), self.made.wire.aborted), ([], False))


class ConsoleTests(StreamCase):
    """What goes both ways."""

    def test_both(self) -> None:
        """Either side may speak at any time; a guest that hangs up ends the data."""
        self.open("DOMAIN_OPEN_CONSOLE", **CONSOLE)
        self.say(b"hello")
        self.tell(b"login: ")
        self.assertEqual((self.told(), self.heard()), ([(*_DATA, b"hello")], [(*_DATA, b"login: ")]))
        self.tell()
        self.tell(status=Status.OK)
        self.assertEqual(self.heard(), [(*_DATA, b"")])

    def test_over_while_full(self) -> None:
        """A guest that hangs up while it takes nothing does not stop the client."""
        self.open("DOMAIN_OPEN_CONSOLE", **CONSOLE)
        self.peer.producer.pauseProducing()
        self.tell()
        self.tell(status=Status.OK)
        self.turn()
        self.assertFalse(self.made.paused)
        self.say(status=Status.OK)
        self.assertEqual([it[:2] for it in self.heard()], [_DATA, _END])


class LimitTests(StreamCase):
    """How much one stream may carry."""

    def sections(self, **more: Any) -> Any:
        return super().sections(stream_limit="4", **more)

    def test_upload(self) -> None:
        """What is too much is not passed on, whatever length was said before."""
        self.assertEqual(self.made.call("STORAGE_VOL_UPLOAD", **{**DATA, "length": 5}), 38)
        self.open("STORAGE_VOL_UPLOAD", **DATA)
        self.say(b"abcd")
        self.say(b"e")
        self.assertEqual(self.told(), [(*_DATA, b"abcd"), (Type.STREAM, Status.ERROR, b"")])
        self.assertEqual([it[1] for it in self.heard()], [Status.ERROR])

    def test_download(self) -> None:
        """The same the other way."""
        self.open("STORAGE_VOL_DOWNLOAD", **DATA)
        self.tell(b"abcde")
        self.assertEqual([it[1] for it in self.heard()], [Status.ERROR])
        self.assertTrue(self.peer.lost)
