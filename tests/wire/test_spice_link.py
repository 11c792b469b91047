from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.errors import BadRequest, GatewayError, UpstreamFailed
from gateway.wire.spice_link import LinkMessage, SpiceLink, _public_key, decoy_key
from tests.wire.spice_server import ALL, Client, Server, full, link, mini, server_key, u32

REPLY_KEY = slice(20, 182)


def pieces(data: bytes, sizes: Iterator[int]) -> Iterator[bytes]:
    while data:
        size = next(sizes)
        yield data[:size]
        data = data[size:]


def talk(client: Client, codec: SpiceLink, server: Server, sizes: Iterator[int] | None = None) -> None:
    """Let both speak through the codec, in pieces of *sizes*, until nobody has anything to say."""
    sizes = sizes or cycle((1 << 20,))
    to_gateway, to_client = client.hello, b""
    while to_gateway or to_client:
        from_client, to_gateway = to_gateway, b""
        for piece in pieces(from_client, sizes):
            to_client += server.receive(codec.receive_client(piece))
        from_server, to_client = to_client, b""
        for piece in pieces(from_server, sizes):
            to_gateway += client.receive(codec.receive_server(piece))


class LinkTests(SynchronousTestCase):
    """What passes when all is well."""

    def test_unchanged(self) -> None:
        """Without a password of ours every byte but the SASL bit arrives as it was sent."""
        client, server, codec = Client("typed"), Server("typed"), SpiceLink()
        talk(client, codec, server)
        self.assertEqual(server.link, link(common=ALL & ~4))
        self.assertEqual((client.common, client.result), (ALL & ~4, 0))
        public = server_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.assertEqual(client.key, public)
        self.assertEqual((server.password, server.mechanism), ("typed", 1))
        self.assertEqual(client.heard, mini(103, u32(0x11223344) + bytes(28)))
        self.assertTrue(codec.linked)
        self.assertTrue(codec.done)

    def test_on_behalf(self) -> None:
        """With a password of ours the server gets that; what the client types goes nowhere."""
        for typed in ("", "guess", "sekret12"):
            client, server, codec = Client(typed), Server("sekret12"), SpiceLink("sekret12")
            talk(client, codec, server)
            self.assertEqual((server.password, client.result, codec.session_id), ("sekret12", 0, 0x11223344))
            self.assertEqual(client.key, decoy_key())
            self.assertNotEqual(client.common & 4, 4)

    def test_wrong_password(self) -> None:
        """The server's refusal reaches the client, and nothing passes afterwards."""
        for codec in (SpiceLink(), SpiceLink("wrong")):
            client, server = Client("guess"), Server("sekret12")
            talk(client, codec, server)
            self.assertEqual((client.result, codec.code, codec.linked, codec.done), (7, 7, False, False))
            self.assertEqual((codec.receive_client(b"x"), codec.receive_server(b"x")), (b"", b""))

    def test_link_refused(self) -> None:
        """A server that refuses the channel says so to the client, and nothing passes afterwards."""
        for error in (1, 5, 8, 9):
            for codec in (SpiceLink(), SpiceLink("sekret12")):
                client, server = Client(), Server("sekret12", error=error)
                talk(client, codec, server)
                self.assertEqual((client.error, client.result, codec.code), (error, None, error))
                self.assertEqual(client.key, bytes(162))
                self.assertEqual((codec.receive_client(b"x"), codec.receive_server(b"x")), (b"", b""))
                self.assertEqual(server.heard, b"")

    def test_session_id(self) -> None:
        """The id of the session is known before the client has a byte of the message that tells it."""
        for common, header in ((ALL, 6), (ALL & ~8, 18)):
            client, server, codec = Client(), Server(common=common, session_id=0xCAFE), SpiceLink()
            talk(client, codec, server, cycle((1,)))
            self.assertEqual((codec.session_id, codec.mini), (0xCAFE, common == ALL))
            self.assertEqual(len(client.heard), header + 32)
            codec = SpiceLink()
            client, server = Client(), Server(common=common, session_id=0xCAFE)
            server_says = server.receive(codec.receive_client(client.hello))
            answer = client.receive(codec.receive_server(server_says))
            said = server.receive(codec.receive_client(answer))
            for size in range(4 + header + 4):
                piece = codec.receive_server(said[size : size + 1])
                self.assertEqual(len(piece) > 4, codec.session_id is not None)
                if size >= 4 and codec.session_id is None:
                    self.assertEqual(piece, b"")

    def test_other_channels(self) -> None:
        """Only a main channel tells the id of a session; others are open with the result."""
        client, server, codec = Client(hello=link(77, 4, 1)), Server(), SpiceLink()
        talk(client, codec, server)
        self.assertEqual(codec.message, LinkMessage(77, 4, 1))
        self.assertFalse(LinkMessage(77, 2, 1).begins_session)
        self.assertFalse(LinkMessage(77, 1, 0).begins_session)
        self.assertFalse(LinkMessage(0, 2, 0).begins_session)
        self.assertTrue(LinkMessage(0, 1, 0).begins_session)
        said = server.message(103, u32(5) + bytes(28))
        self.assertEqual(codec.receive_server(said), said)
        self.assertEqual((codec.session_id, codec.done), (None, True))

    def test_begins_otherwise(self) -> None:
        """A main channel that does not begin with its id passes, and has none."""
        for first in (mini(4, bytes(12)), mini(103, bytes(31))):
            client, server, codec = Client(), Server(), SpiceLink()
            asked = server.receive(codec.receive_client(client.hello))
            answer = client.receive(codec.receive_server(asked))
            codec.receive_client(answer)
            self.assertEqual(codec.receive_server(u32(0) + first), u32(0) + first)
            self.assertEqual((codec.session_id, codec.done), (None, True))

    def test_without_selection(self) -> None:
        """A side that selects no mechanism: the password follows without a word before it."""
        for mine, theirs in ((ALL & ~1, ALL), (ALL, ALL & ~1)):
            client, server = Client(hello=link(common=mine)), Server("sekret12", common=theirs)
            codec = SpiceLink("sekret12")
            talk(client, codec, server)
            self.assertEqual((server.mechanism, server.password, client.result), (None, "sekret12", 0))

    def test_nothing_before_it_is_known(self) -> None:
        """Not a byte goes to the server before the whole link message is in, so that it can be judged."""
        codec = SpiceLink()
        hello = link()
        for cut in range(len(hello) - 1):
            self.assertEqual(codec.receive_client(hello[cut : cut + 1]), b"")
            self.assertIsNone(codec.message)
        self.assertEqual(codec.receive_client(hello[-1:]), link(common=ALL & ~4))

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.integers(1, 40), min_size=1),
        st.sampled_from([ALL, ALL & ~1, ALL & ~8, 0b1011]),
        st.booleans(),
        st.integers(1, 11),
    )
    def test_any_split(self, sizes: list[int], common: int, behalf: bool, kind: int) -> None:
        """However the bytes are cut, the same arrives."""
        client, server = Client("sekret12", hello=link(0, kind)), Server("sekret12", common=common)
        codec = SpiceLink("sekret12" if behalf else None)
        talk(client, codec, server, cycle(sizes))
        self.assertEqual((client.result, codec.linked, codec.done), (0, True, kind != 2))
        self.assertEqual(server.password, "sekret12")
        self.assertEqual(codec.session_id, server.session_id if kind == 1 else None)
        talk_on = bytes(range(256))
        before = client.heard
        client.receive(b"".join(map(codec.receive_server, pieces(talk_on, cycle(sizes)))))
        self.assertEqual(client.heard, before + talk_on)
        if kind == 2:
            make = mini if codec.mini else full
            talk_on = make(3, bytes(12)) + make(101, bytes(14)) + talk_on
        server.receive(b"".join(map(codec.receive_client, pieces(talk_on, cycle(sizes)))))
        self.assertEqual(server.heard, talk_on)
        self.assertTrue(codec.done)


class FarewellTests(SynchronousTestCase):
    """A display whose client leaves early: its server must not be left before it has said something."""

    INIT = mini(101, bytes(14))

    def display(self, common: int = ALL) -> tuple[SpiceLink, Server, bytes]:
        """A codec with a server that has the client's password, and has not answered yet."""
        codec, client, server = (
            SpiceLink("sekret12"),
            Client(hello=link(77, 2)),
            Server("sekret12", common=common),
        )
        reply = server.receive(codec.receive_client(client.hello))
        answer = client.receive(codec.receive_server(reply))
        self.assertTrue(codec.settled)
        self.assertEqual(codec.farewell(), b"")
        result = server.receive(codec.receive_client(answer))
        self.assertFalse(codec.settled)
        return codec, server, result

    def test_before_the_result(self) -> None:
        """From the password on the server gets what it waits for, once."""
        codec, server, result = self.display()
        server.receive(codec.farewell())
        self.assertEqual((server.heard, codec.farewell()), (self.INIT, b""))
        codec.receive_server(result)
        self.assertFalse(codec.settled)
        codec.receive_server(b"x")
        self.assertTrue(codec.settled)

    def test_after_the_result(self) -> None:
        """So it does after the result, with the long header, too."""
        for common, expected in ((ALL, self.INIT), (ALL & ~8, full(101, bytes(14)))):
            codec, server, result = self.display(common)
            codec.receive_server(result)
            server.receive(codec.farewell())
            self.assertEqual(server.heard, expected)

    def test_half_a_message(self) -> None:
        """Only whole messages pass before: whatever was begun, the farewell is in its place."""
        for size in range(len(self.INIT)):
            codec, server, result = self.display()
            codec.receive_server(result)
            server.receive(codec.receive_client((mini(3, b"pong") + self.INIT)[: 10 + size]))
            server.receive(codec.farewell())
            self.assertEqual(server.heard, mini(3, b"pong") + self.INIT)

    def test_client_said_it(self) -> None:
        """A client that said it itself has nothing to add; the server still has to speak first."""
        codec, _, result = self.display()
        codec.receive_server(result)
        self.assertEqual(codec.receive_client(self.INIT + b"xy"), self.INIT + b"xy")
        self.assertEqual((codec.farewell(), codec.settled, codec.done), (b"", False, False))
        codec.receive_server(b"x")
        self.assertEqual((codec.settled, codec.done), (True, True))

    def test_refused(self) -> None:
        """A server that refuses is done."""
        codec, _, _ = self.display()
        codec.farewell()
        codec.receive_server(u32(8))
        self.assertTrue(codec.settled)

    def test_other_channels(self) -> None:
        """Other channels may be left at any time."""
        for kind in (1, 3, 4, 5, 9):
            codec, client = SpiceLink(), Client(hello=link(0, kind))
            reply = Server().receive(codec.receive_client(client.hello))
            codec.receive_client(client.receive(codec.receive_server(reply)))
            self.assertEqual((codec.settled, codec.farewell()), (True, b""))

    def test_bounded(self) -> None:
        """A display that begins with a message without end is refused."""
        codec, _, result = self.display()
        codec.receive_server(result)
        error = self.assertRaises(BadRequest, codec.receive_client, mini(3, bytes(5000))[:6])
        self.assertEqual(error.reason, "spice")


class RefusalTests(SynchronousTestCase):
    """What nobody has to send."""

    def stage(self, codec: SpiceLink, client: Client) -> tuple[Server, bytes]:
        """A server whose reply is through; return it and the client's answer."""
        server = Server("sekret12")
        return server, client.receive(
            codec.receive_server(server.receive(codec.receive_client(client.hello)))
        )

    def refused(self, kind: type[GatewayError], receive: Callable[[bytes], object], data: bytes) -> None:
        error = self.assertRaises(kind, receive, data)
        self.assertEqual(error.reason, "spice")

    def test_client(self) -> None:
        """Other protocols, versions, sizes and capabilities beyond the message are the client's fault."""
        hello = link()
        for bad in (
            b"G",
            b"RFB 003.008\n",
            b"REDX" + hello[4:],
            hello[:4] + u32(9) + hello[8:],
            hello[:12] + u32(17) + hello[16:],
            hello[:12] + u32(4097) + hello[16:],
            hello[:12] + u32(0xFFFFFFFF) + hello[16:],
            hello[:22] + u32(3) + hello[26:],
            hello[:22] + u32(0xFFFFFFFF) + hello[26:],
            hello[:26] + u32(0x3FFFFFFF) + hello[30:],
            hello[:30] + u32(17) + hello[34:],
            hello[:30] + u32(0xFFFFFFF0) + hello[34:],
            hello + b"x",
        ):
            self.refused(BadRequest, SpiceLink().receive_client, bad)

    def test_out_of_turn(self) -> None:
        """Neither side answers before it was asked."""
        codec = SpiceLink()
        codec.receive_client(link())
        self.refused(BadRequest, codec.receive_client, b"x")
        self.refused(UpstreamFailed, SpiceLink().receive_server, b"REDQ" + bytes(200))
        codec = SpiceLink()
        reply = Server().receive(codec.receive_client(link()))
        self.refused(UpstreamFailed, codec.receive_server, reply + u32(0))

    def test_sasl(self) -> None:
        """A client that asks for SASL, which nobody offered, is refused; a server with nothing else, too."""
        for word in (0, 2, 3, 0xFFFFFFFF):
            codec, client = SpiceLink(), Client(mechanism=word)
            server, answer = self.stage(codec, client)
            self.refused(BadRequest, codec.receive_client, answer)
            self.assertEqual(server.heard, b"")
        codec = SpiceLink("sekret12")
        reply = Server(common=ALL & ~2).receive(codec.receive_client(link()))
        self.refused(UpstreamFailed, codec.receive_server, reply)

    def test_server(self) -> None:
        """Other protocols, versions, sizes and capabilities beyond the message are the server's fault."""
        reply = Server().receive(link())
        for bad in (
            b"RFB 003.008\n",
            b"\x15\x03\x01",
            reply[:4] + u32(1) + reply[8:],
            reply[:12] + u32(177) + reply[16:],
            reply[:12] + u32(4097) + reply[16:],
            reply[:182] + u32(3) + reply[186:],
            reply[:190] + u32(177) + reply[194:],
        ):
            codec = SpiceLink()
            codec.receive_client(link())
            self.refused(UpstreamFailed, codec.receive_server, bad)

    def test_key(self) -> None:
        """The password is encrypted with an RSA key of 1024 bits, or not at all."""
        reply = Server().receive(link())
        others = (
            ec.generate_private_key(ec.SECP256R1()).public_key(),
            rsa.generate_private_key(65537, 2048).public_key(),
        )
        keys = [other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for other in others]
        for key in (bytes(162), b"\x30" * 162, keys[0].ljust(162, b"\0"), keys[1][:162]):
            codec = SpiceLink("sekret12")
            codec.receive_client(link())
            self.refused(UpstreamFailed, codec.receive_server, reply[:20] + key + reply[182:])
        for key in keys:
            self.refused(UpstreamFailed, _public_key, key)

    def test_long_password(self) -> None:
        """A password that no SPICE server could have is refused before anybody is asked."""
        SpiceLink("p" * 60)
        self.assertRaises(UpstreamFailed, SpiceLink, "p" * 61)
        self.assertRaises(UpstreamFailed, SpiceLink, "ä" * 31)

    def test_decoy(self) -> None:
        """What a browser encrypts for us is no more than a form: the key fits it, and is not the server's."""
        self.assertEqual(len(decoy_key()), 162)
        self.assertEqual(decoy_key(), decoy_key())
        public = server_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.assertNotEqual(decoy_key(), public)

    def test_unprinted(self) -> None:
        """The password is in no representation."""
        self.assertNotIn("sekret12", repr(SpiceLink("sekret12")))

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=400), st.binary(max_size=400), st.booleans(), st.booleans())
    def test_fuzz(self, client: bytes, server: bytes, magic: bool, asked: bool) -> None:
        """Whatever either side sends, it is held in bounds, and a failure names its side."""
        codec = SpiceLink("sekret12")
        if asked:
            codec.receive_client(link())
        start = b"REDQ" + u32(2, 2) if magic else b""
        try:
            self.assertLessEqual(len(codec.receive_client(start + client)), 4096)
        except BadRequest:
            pass
        try:
            codec.receive_server(start + server)
        except UpstreamFailed:
            pass
        self.assertFalse(codec.linked)
        self.assertLessEqual(len(codec._from_client) + len(codec._from_server), 2 * 4112)
