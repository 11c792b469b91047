"""The handshake with VNC servers: every dialect, in pieces of every size, and servers that cheat."""

from __future__ import annotations

from collections.abc import Iterable
from struct import pack

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.errors import GatewayError, UpstreamFailed
from gateway.wire.rfb import PixelFormat, Security, ServerInit, vnc_response
from gateway.wire.rfb_handshake import ServerSide
from tests.wire.rfb_peers import FORMAT, Server, cut

ALL = frozenset(Security)
PASSWORD = b"sekret12"
GOOD = vnc_response(PASSWORD, Server.CHALLENGE)


def talk(client: ServerSide, server: Server, sizes: Iterable[int] = (), *, shared: bool = True) -> None:
    """Let the two talk until neither has anything to say."""
    sizes = list(sizes)
    waiting = server.receive(b"")
    while waiting:
        said = b"".join(client.receive(piece) for piece in cut(waiting, sizes))
        if client.tls_wanted:
            waiting = server.receive(said) + server.secured()
            said = client.secured()
        elif client.init_wanted:
            said += client.initialize(shared=shared)
            waiting = b""
        else:
            waiting = b""
        waiting += server.receive(said)


class ResponseTests(SynchronousTestCase):
    """The response to a challenge."""

    def test_vectors(self) -> None:
        """It is DES of the challenge, with the bits of each byte of the password mirrored."""
        for password, challenge, response in (
            # DES's own vector (key 133457799BBCDFF1) with its key mirrored.
            (bytes.fromhex("c82cea9ed93dfb8f"), "0123456789abcdef" * 2, "85e813540f0ab405" * 2),
            # What a VNC server accepts for an empty password.
            (b"", "00" * 16, "8ca64de9c1b123a7" * 2),
        ):
            self.assertEqual(vnc_response(password, bytes.fromhex(challenge)).hex(), response)

    def test_eight_bytes(self) -> None:
        """Only eight bytes of a password count."""
        self.assertEqual(
            vnc_response(b"sekret12", Server.CHALLENGE), vnc_response(b"sekret12345", Server.CHALLENGE)
        )
        self.assertNotEqual(
            vnc_response(b"sekret12", Server.CHALLENGE), vnc_response(b"sekret1", Server.CHALLENGE)
        )


class DialectTests(SynchronousTestCase):
    """All that servers speak."""

    @given(
        st.sampled_from([b"003.003", b"003.005", b"003.007", b"003.008", b"003.889", b"004.001"]),
        st.sampled_from([(1,), (2,), (19,), (5, 19), (1, 2), (2, 1, 30)]),
        st.sampled_from([(260,), (261,), (262,), (256, 258, 261, 260)]),
        st.lists(st.integers(1, 40), max_size=60),
        st.booleans(),
    )
    @settings(max_examples=200, deadline=None)
    def test_any(
        self,
        version: bytes,
        types: tuple[int, ...],
        subtypes: tuple[int, ...],
        sizes: list[int],
        shared: bool,
    ) -> None:
        """Whatever a server speaks, we get in by the strongest type, however its bytes are cut."""
        old = version in (b"003.003", b"003.005")
        if old:
            types = tuple(it for it in types if it in (1, 2))[:1] or (1,)
        best = max(subtypes) if 19 in types else max(types, key=lambda it: it if it < 3 else 0)
        server = Server(version, types, subtypes, (b"me" + PASSWORD, GOOD))
        client = ServerSide(ALL, password=PASSWORD, user=b"me")
        talk(client, server, sizes, shared=shared)
        self.assertTrue(client.done)
        self.assertEqual(client.security, best)
        self.assertEqual(server.in_tls, best >= 260)
        self.assertEqual(server.shared, shared)
        self.assertEqual(
            client.init,
            ServerInit(640, 480, PixelFormat(32, 24, False, True, (255,) * 3, (16, 8, 0)), Server.NAME),
        )
        assert client.init is not None
        self.assertEqual(client.init.encode(), pack(">HH", 640, 480) + FORMAT + b"\0\0\0\x0bQEMU (test)")

    def test_versions(self) -> None:
        """We answer the highest version that both know."""
        for version, answer in (
            (b"003.003", b"003.003"),
            (b"003.006", b"003.003"),
            (b"003.007", b"003.007"),
            (b"003.008", b"003.008"),
            (b"003.889", b"003.008"),
            (b"005.000", b"003.008"),
        ):
            self.assertEqual(ServerSide(ALL).receive(b"RFB %b\n" % version), b"RFB %b\n" % answer)

    def test_what_follows(self) -> None:
        """What a server sends after its description is kept for whoever reads on."""
        client = ServerSide(ALL)
        client.receive(b"RFB 003.008\n\x01\x01\0\0\0\0")
        self.assertEqual(client.initialize(shared=False), b"\0")
        client.receive(pack(">HH", 1, 1) + FORMAT + b"\0\0\0\0" + b"more")
        self.assertTrue(client.done)
        self.assertEqual(client.rest, b"more")

    def test_asks_others(self) -> None:
        """Without a password, whoever has it answers the challenge."""
        server = Server(types=(2,), answers=(GOOD,))
        client = ServerSide({Security.VNC})
        client_said = client.receive(server.receive(b""))
        client_said = client.receive(server.receive(client_said))
        client_said = client.receive(server.receive(client_said))
        self.assertEqual((client_said, client.challenge), (b"", Server.CHALLENGE))
        client.receive(server.receive(client.answer(GOOD)))
        self.assertTrue(client.authenticated)
        self.assertEqual(client.challenge, b"")


class Case(SynchronousTestCase):
    def assert_fails(self, client: ServerSide, data: bytes, words: str) -> None:
        """*data* ends it with *words*, cut or not, and for good."""
        error = self.assertRaises(UpstreamFailed, client.receive, data)
        self.assertIn(words, error.text)
        self.assertFalse(client.authenticated)
        self.assertFalse(client.done)
        self.assertIs(self.assertRaises(UpstreamFailed, client.receive, b"\0" * 64), error)


class MinimumTests(Case):
    """Nothing weaker than what is allowed."""

    @given(
        st.sets(st.sampled_from(sorted(Security)), min_size=1),
        st.sets(st.sampled_from([1, 2, 5, 16, 18, 19, 20, 30])),
        st.sets(st.sampled_from(range(256, 265))),
    )
    @settings(max_examples=300, deadline=None)
    def test_never_weaker(self, allowed: set[Security], types: set[int], subtypes: set[int]) -> None:
        """Whatever a server offers, what is agreed on is allowed, was offered, and is no anonymous TLS."""
        server = Server(types=tuple(types), subtypes=tuple(subtypes), answers=(GOOD, PASSWORD))
        client = ServerSide(allowed, password=PASSWORD)
        try:
            talk(client, server)
        except UpstreamFailed:
            offered = (types - {19}) | (subtypes if 19 in types else set())
            agreed = offered & {int(it) for it in allowed}
            # With VeNCrypt chosen, there is no way back to what is outside of it.
            encrypted = {it for it in agreed if it >= 260}
            wanted = 19 in types and any(it.encrypted for it in allowed)
            self.assertFalse(encrypted if wanted else agreed)
            self.assertFalse(client.authenticated)
        else:
            self.assertTrue(client.done)
            self.assertIn(client.security, allowed)
            self.assertIn(client.security, types | subtypes)
            self.assertEqual(server.in_tls, client.security is not None and client.security.encrypted)

    def test_no_fallback(self) -> None:
        """A server that offers less than the configured type is refused, whichever version it speaks."""
        for allowed, offer in (
            ({Security.VNC}, b"RFB 003.008\n\x01\x01"),
            ({Security.VNC}, b"RFB 003.003\n\0\0\0\x01"),
            ({Security.X509_VNC}, b"RFB 003.008\n\x02\x01\x02"),
            ({Security.X509_VNC}, b"RFB 003.003\n\0\0\0\x02"),
            ({Security.X509_VNC}, b"RFB 003.008\n\x01\x13\0\x02\0\x01\0\0\x01\x04"),
            ({Security.NONE}, b"RFB 003.008\n\x01\x02"),
            (set[Security](), b"RFB 003.008\n\x01\x01"),
        ):
            self.assert_fails(
                ServerSide(allowed, password=PASSWORD), offer, "no security type that is allowed"
            )

    def test_anonymous_tls(self) -> None:
        """Anonymous TLS, and VeNCrypt without TLS, are never chosen."""
        for subtype in (256, 257, 258, 259, 263, 264):
            offer = b"RFB 003.008\n\x01\x13\0\x02\0\x01" + pack(">I", subtype)
            self.assert_fails(ServerSide(ALL, password=PASSWORD), offer, "no security type")

    def test_number_of_another_list(self) -> None:
        """Types of the outer list mean nothing as subtypes, nor subtypes outside of VeNCrypt."""
        for subtype in (260, 261, 262):
            offer = b"RFB 003.003\n" + pack(">I", subtype)
            self.assert_fails(ServerSide(ALL, password=PASSWORD), offer, "no security type")
        for subtype in (1, 2):
            offer = b"RFB 003.008\n\x01\x13\0\x02\0\x01" + pack(">I", subtype)
            self.assert_fails(ServerSide(ALL, password=PASSWORD), offer, "no security type")

    def test_needs_password(self) -> None:
        """A user's name and password are not made up."""
        offer = b"RFB 003.008\n\x01\x13\0\x02\0\x01" + pack(">I", 262)
        self.assert_fails(ServerSide(ALL), offer, "user's name and password")

    def test_password_only_inside(self) -> None:
        """Nothing of a password is said before TLS is up."""
        client = ServerSide(ALL, password=PASSWORD, user=b"me")
        said = client.receive(b"RFB 003.008\n\x01\x13\0\x02\0\x01" + pack(">I", 262) + b"\x01")
        self.assertTrue(client.tls_wanted)
        self.assertNotIn(PASSWORD, said)
        self.assertEqual(client.secured(), pack(">II", 2, 8) + b"me" + PASSWORD)


class HostileTests(Case):
    """Servers that cheat, and those that fail."""

    def test_nonsense(self) -> None:
        """What is no VNC server is told from one that refuses."""
        vencrypt = b"RFB 003.008\n\x01\x13"
        for data, words in (
            (b"HTTP/1.1 400 Bad Request\r\n", "no VNC server"),
            (b"RFB 03.0008\n", "no VNC server"),
            (b"RFB 003.008\r", "no VNC server"),
            (b"RFB 003.002\n", "old dialect"),
            (b"RFB 003.008\n\0\0\0\0\x04busy", "refuses connections"),
            (b"RFB 003.003\n\0\0\0\0\0\0\0\x04busy", "refuses connections"),
            (b"RFB 003.008\n\0\xff\xff\xff\xff", "refuses connections"),
            (vencrypt + b"\0\x01", "old dialect of VeNCrypt"),
            (vencrypt + b"\0\x02\x01", "does not speak VeNCrypt 0.2"),
            (vencrypt + b"\0\x02\0\0", "no kind of TLS"),
            (vencrypt + b"\0\x02\0\x01\0\0\x01\x04\0", "refuses the kind of TLS"),
            (b"RFB 003.008\n\x01\x01\0\0\0\x01\0\0\0\x02no", "refuses to let us in"),
            (b"RFB 003.008\n\x01\x01\0\0\0\x02", "too many attempts"),
            (b"RFB 003.008\n\x01\x01\0\0\0\x03", "unknown result"),
            (b"RFB 003.007\n\x01\x02" + bytes(16) + b"\0\0\0\x01", "refuses the password"),
        ):
            self.assert_fails(ServerSide(ALL, password=PASSWORD), data, words)
            client = ServerSide(ALL, password=PASSWORD)
            with self.assertRaises(UpstreamFailed):
                for at in range(len(data)):
                    client.receive(data[at : at + 1])

    def test_wrong_password(self) -> None:
        """A wrong password is told as such; the server's own words are for the log."""
        for types, subtypes in (((2,), ()), ((19,), (261,)), ((19,), (262,))):
            server = Server(types=types, subtypes=subtypes, answers=(GOOD,))
            client = ServerSide(ALL, password=b"wrong")
            error = self.assertRaises(UpstreamFailed, talk, client, server)
            self.assertEqual(error.text, "The VNC server failed: it refuses the password")
            self.assertEqual(client.said, "Authentication failed")
            self.assertTrue(server.hung_up)

    def test_hangs_up(self) -> None:
        """A server that hangs up has a reason that fits, even if it says none."""
        client = ServerSide(ALL, password=PASSWORD)
        for data, words in (
            (b"", "before it said anything"),
            (b"RFB 003.008\n", "instead of offering"),
            (b"\x01\x13", "while TLS was agreed on"),
            (b"\0\x02\0\x01\0\0\x01\x05\x01", "another certificate of ours"),
        ):
            client.receive(data)
            self.assertIn(words, client.lost().text)
        client.secured()
        self.assertIn("another certificate of ours", client.lost().text)
        client.receive(bytes(16))
        self.assertIn("instead of letting us in", client.lost().text)
        client.receive(b"\0\0\0\x01")
        self.assertIn("refuses the password", client.lost().text)

    def test_before_tls(self) -> None:
        """What is slipped in before TLS is not taken for something said inside of it."""
        start = b"RFB 003.008\n\x01\x13\0\x02\0\x01\0\0\x01\x04\x01"
        self.assert_fails(ServerSide(ALL), start + b"\0\0\0\0", "in the clear")
        client = ServerSide(ALL)
        client.receive(start)
        self.assert_fails(client, b"\0", "in the clear")

    def test_order(self) -> None:
        """Our own code cannot skip a step."""
        client = ServerSide(ALL)
        for step in (client.secured, client.initialize):
            self.assertRaises(RuntimeError, step)
        self.assertRaises(RuntimeError, client.answer, bytes(16))
        client.receive(b"RFB 003.008\n\x01\x13\0\x02\0\x01\0\0\x01\x04\x01")
        self.assertRaises(RuntimeError, client.initialize)

    def test_long_name(self) -> None:
        """A name without end is refused, a long one is cut."""
        start = b"RFB 003.008\n\x01\x01\0\0\0\0"
        init = pack(">HH", 640, 480) + FORMAT
        client = ServerSide(ALL)
        client.receive(start)
        client.initialize()
        self.assertRaises(UpstreamFailed, client.receive, init + b"\0\x01\0\x01")
        client = ServerSide(ALL)
        client.receive(start)
        client.initialize()
        client.receive(init + b"\0\0\x10\0" + b"n" * 4096)
        assert client.init is not None
        self.assertEqual(client.init.name, b"n" * 256)
        self.assertEqual(len(client.init.encode()), 24 + 256)

    def test_early_flood(self) -> None:
        """What comes ahead of its turn is held up to a bound."""
        client = ServerSide(ALL)
        client.receive(b"RFB 003.008\n\x01\x01\0\0\0\0")
        self.assertTrue(client.authenticated)
        client.receive(bytes(64 * 1024))
        self.assertRaises(UpstreamFailed, client.receive, b"\0")

    @given(st.binary(max_size=200), st.lists(st.integers(1, 30), max_size=20))
    @settings(max_examples=300, deadline=None)
    def test_fuzz(self, data: bytes, sizes: list[int]) -> None:
        """Whatever follows a good beginning, it fails with the one error or waits."""
        for start in (b"", b"RFB 003.008\n", b"RFB 003.008\n\x02\x13\x02", b"RFB 003.003\n\0\0\0"):
            client = ServerSide(ALL, password=PASSWORD)
            try:
                for piece in cut(start + data, sizes):
                    client.receive(piece)
                    if client.tls_wanted:
                        client.secured()
                    if client.init_wanted:
                        client.initialize()
            except GatewayError as error:
                self.assertIsInstance(error, UpstreamFailed)
