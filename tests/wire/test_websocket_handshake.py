from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.wire.http_head import parse_request
from gateway.wire.websocket_handshake import Handshake, read_handshake

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
FIELDS = {
    b"Host": b"a.invalid",
    b"Upgrade": b"websocket",
    b"Connection": b"Upgrade",
    b"Sec-WebSocket-Version": b"13",
    b"Sec-WebSocket-Key": KEY,
}


def read(line: bytes = b"GET /c HTTP/1.1", more: bytes = b"", **changed: bytes | None) -> Handshake:
    """Judge the usual request with fields changed, left out (None), and added."""
    changes = {name.replace("_", "-").lower().encode(): value for name, value in changed.items()}
    fields = [(name, changes.get(name.lower(), value)) for name, value in FIELDS.items()]
    lines = [line, *(name + b": " + value for name, value in fields if value is not None)]
    return read_handshake(parse_request(b"\r\n".join(lines) + b"\r\n" + more + b"\r\n"))


class HandshakeTests(SynchronousTestCase):
    """What a websocket begins with."""

    def test_good(self) -> None:
        """As browsers write it: tokens in any case and company, offers in the client's order."""
        shake = read(
            more=b"Origin: https://e.invalid\r\nSec-WebSocket-Protocol: Ticket.x, binary\r\n"
            b"Sec-WebSocket-Protocol: base64\r\nSec-WebSocket-Extensions: permessage-deflate\r\n",
            Upgrade=b"WebSocket",
            Connection=b"keep-alive, Upgrade",
        )
        self.assertEqual(shake, Handshake(KEY, ["Ticket.x", "binary", "base64"], "https://e.invalid"))
        self.assertEqual(read(), Handshake(KEY, [], None))

    def test_upgrade_required(self) -> None:
        """Whoever wants something else is told what there is."""
        for changed in (
            {"Upgrade": None},
            {"Upgrade": b"h2c"},
            {"Connection": None},
            {"Connection": b"keep-alive"},
            {"Sec_WebSocket_Version": b"8"},
            {"Sec_WebSocket_Version": b"13, 8"},
            {"Sec_WebSocket_Version": None},
        ):
            with self.assertRaises(errors.UpgradeRequired, msg=str(changed)) as raised:
                read(**changed)
            self.assertIn((b"sec-websocket-version", b"13"), raised.exception.headers)
        self.assertRaises(errors.UpgradeRequired, read, b"GET /c HTTP/1.0")

    def test_refused(self) -> None:
        """What could be read in two ways, or is no handshake, is refused."""
        for more in (
            b"Sec-WebSocket-Key: " + KEY + b"\r\n",
            b"Sec-WebSocket-Version: 13\r\n",
            b"Origin: https://a.invalid\r\nOrigin: https://b.invalid\r\n",
            b"Content-Length: 1\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Sec-WebSocket-Protocol: binary, binary\r\n",
            b"Sec-WebSocket-Protocol: binary,\r\n",
            b"Sec-WebSocket-Protocol: bin ary\r\n",
            b"Sec-WebSocket-Protocol: b\xe4r\r\n",
        ):
            with self.assertRaises(errors.BadRequest, msg=repr(more)):
                read(more=more)
        for key in (b"", b"x", KEY[:-1], KEY + b"=", b"!" * 22 + b"=="):
            with self.assertRaises(errors.BadRequest, msg=repr(key)):
                read(Sec_WebSocket_Key=key)
        with self.assertRaises(errors.BadRequest):
            read(Sec_WebSocket_Key=None)
        with self.assertRaises(errors.MethodNotAllowed):
            read(b"POST /c HTTP/1.1")

    def test_passed_on(self) -> None:
        """What is passed on holds the handshake and nothing else: no path, no cookie, no ticket."""
        shake = read(
            b"GET /secret HTTP/1.1",
            b"Cookie: secret\r\nOrigin: https://secret.invalid\r\nAuthorization: secret\r\n"
            b"Sec-WebSocket-Protocol: ticket.secret, binary\r\nSec-WebSocket-Extensions: secret\r\n",
        )
        for protocol in (None, "binary"):
            data = shake.request(protocol)
            self.assertNotIn(b"secret", data)
            again = read_handshake(parse_request(data))
            self.assertEqual(again, Handshake(KEY, [protocol] if protocol else [], None))

    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([*FIELDS, b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions", b"Origin"]),
                st.sampled_from(
                    [b"websocket", b"Upgrade", b"13", KEY, b"binary", b"ticket.x, base64", b"a,,b"]
                )
                | st.binary(max_size=30),
            ),
            max_size=6,
        )
    )
    def test_fuzz(self, more: list[tuple[bytes, bytes]]) -> None:
        """Whatever fields are replaced, or come twice, it is refused with a meaning, or means one thing."""
        names = {name for name, _ in more}
        fields = [*((name, value) for name, value in FIELDS.items() if name not in names), *more]
        data = b"GET /c HTTP/1.1\r\n" + b"".join(name + b": " + value + b"\r\n" for name, value in fields)
        try:
            shake = read_handshake(parse_request(data + b"\r\n"))
        except errors.GatewayError as error:
            self.assertIn(error.status, (400, 405, 414, 426, 431, 501, 505))
            return
        self.assertRegex(shake.key, rb"\A[A-Za-z0-9+/]{22}==\Z")
        self.assertEqual(len(set(shake.protocols)), len(shake.protocols))
        for protocol in (None, *shake.protocols):
            again = read_handshake(parse_request(shake.request(protocol)))
            self.assertEqual(again, Handshake(shake.key, [protocol] if protocol else [], None))
