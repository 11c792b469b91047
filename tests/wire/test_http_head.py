from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h11
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.wire import http_head
from gateway.wire.http_head import (
    MAX_FIELDS,
    MAX_HEAD,
    MAX_REQUEST_LINE,
    HeadReader,
    RequestHead,
    ResponseHead,
    parse_request,
    parse_response,
    serialize_request,
    serialize_response,
)

HOST = b"Host: a.invalid\r\n"


def read_request(data: bytes, *, proxy: bool = False) -> RequestHead | None:
    block = HeadReader().receive(data)
    return None if block is None else parse_request(block, proxy=proxy)


def get(fields: bytes = b"", version: bytes = b"HTTP/1.1", host: bytes = HOST) -> bytes:
    return b"PUT /x " + version + b"\r\n" + host + fields + b"\r\n"


#: Table 3.1 of the security requirements: what must be refused, and with which status.
REFUSED: dict[str, tuple[bytes, int]] = {
    "CL + TE": (get(b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), 400),
    "TE + CL": (get(b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"), 400),
    "two CL": (get(b"Content-Length: 3\r\nContent-Length: 4\r\n"), 400),
    "two equal CL": (get(b"Content-Length: 3\r\nContent-Length: 3\r\n"), 400),
    "CL list": (get(b"Content-Length: 3, 3\r\n"), 400),
    "CL plus": (get(b"Content-Length: +3\r\n"), 400),
    "CL minus": (get(b"Content-Length: -3\r\n"), 400),
    "CL underscore": (get(b"Content-Length: 1_0\r\n"), 400),
    "CL empty": (get(b"Content-Length:\r\n"), 400),
    "CL hexadecimal": (get(b"Content-Length: 0x3\r\n"), 400),
    "CL superscript": (get(b"Content-Length: \xb2\r\n"), 400),
    "CL of 5000 digits": (get(b"Content-Length: " + b"9" * 5000 + b"\r\n"), 400),
    "TE identity": (get(b"Transfer-Encoding: identity\r\n"), 400),
    "TE gzip, chunked": (get(b"Transfer-Encoding: gzip, chunked\r\n"), 400),
    "TE empty": (get(b"Transfer-Encoding:\r\n"), 400),
    "TE identity + CL": (get(b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n"), 400),
    "TE chunked, TE identity": (get(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"), 400),
    "TE chunked twice": (get(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400),
    "TE vertical tab": (get(b"Transfer-Encoding: \x0bchunked\r\n"), 400),
    "TE in 1.0": (get(b"Transfer-Encoding: chunked\r\n", b"HTTP/1.0"), 400),
    "TE folded": (get(b"Transfer-Encoding:\r\n chunked\r\n"), 400),
    "folded": (get(b"X: a\r\n b\r\n"), 400),
    "folded by a tab": (get(b"X: a\r\n\tb\r\n"), 400),
    "first field indented": (b"GET / HTTP/1.1\r\n Host: a.invalid\r\n\r\n", 400),
    "no Host": (get(host=b""), 400),
    "two Hosts": (get(b"Host: b.invalid\r\n"), 400),
    "two equal Hosts": (get(HOST), 400),
    "empty Host": (get(host=b"Host:\r\n"), 400),
    "Host with user": (get(host=b"Host: u@a.invalid\r\n"), 400),
    "Host with path": (get(host=b"Host: a.invalid/x\r\n"), 400),
    "Host with markup": (get(host=b"Host: <script>\r\n"), 400),
    "Host list": (get(host=b"Host: a.invalid, b.invalid\r\n"), 400),
    "two Hosts in 1.0": (get(b"Host: b.invalid\r\n", b"HTTP/1.0"), 400),
    "absolute form": (b"GET http://b.invalid/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "authority form": (b"GET a.invalid:80 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "asterisk without OPTIONS": (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "fragment": (b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "bare LF": (b"GET / HTTP/1.1\nHost: a.invalid\n\n", 400),
    "bare LF in a field": (get(b"X: a\nY: b\r\n"), 400),
    "bare CR in a field": (get(b"X: a\rY: b\r\n"), 400),
    "CR CR LF": (get(b"X: a\r\r\n"), 400),
    "underscore": (get(b"Content_Length: 5\r\n"), 400),
    "empty name": (get(b": a\r\n"), 400),
    "no colon": (get(b"X\r\n"), 400),
    "blank before colon": (get(b"X : a\r\n"), 400),
    "NUL in value": (get(b"X: a\0b\r\n"), 400),
    "DEL in value": (get(b"X: a\x7f\r\n"), 400),
    "NUL in line": (b"GET /\0 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "eight bits in target": (b"GET /\xe9 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "method no token": (b"G{T / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "tab in line": (b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "double blank": (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "blank at end": (b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", 400),
    "no target": (b"GET HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "HTTP/2.0": (get(version=b"HTTP/2.0"), 400),
    "HTTP/1.9": (get(version=b"HTTP/1.9"), 400),
    "HTTP/0.9": (get(version=b"HTTP/0.9"), 400),
    "HTTP/1.10": (get(version=b"HTTP/1.10"), 400),
    "lower case version": (get(version=b"http/1.1"), 400),
    "0.9": (b"GET /\r\n\r\n", 400),
    "two empty lines first": (b"\r\n\r\n" + get(), 400),
    "Expect": (get(b"Expect: more\r\n"), 417),
    "request line": (b"GET /" + b"a" * MAX_REQUEST_LINE + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "request line without end": (b"GET /" + b"a" * MAX_REQUEST_LINE, 414),
    "head": (get(b"X: " + b"a" * MAX_HEAD + b"\r\n"), 431),
    "head without end": (get()[:-2] + b"X: " + b"a" * MAX_HEAD, 431),
    "fields": (get(b"X: a\r\n" * MAX_FIELDS), 431),
}

ACCEPTED = [
    get(),
    get(b"Content-Length: 12\r\n"),
    get(b"content-length:\t 0007 \t\r\n"),
    get(b"Transfer-Encoding: Chunked\r\n"),
    get(b"X:\r\nY:  a b\t c \r\nZ: \xe4\r\nConnection: Close, x\r\n"),
    get(b"Expect: 100-Continue\r\nContent-Length: 1\r\n"),
    get(host=b"Host: [2001:db8::1]:54323\r\n"),
    get(version=b"HTTP/1.0", host=b""),
    b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    b"CONNECT a.invalid:5900 HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET //b.invalid/%2f..?x=%0d%0a HTTP/1.1\r\n" + HOST + b"\r\n",
    b"\r\n" + get(b"Content-Length: 12\r\n"),
]


def outcome(pieces: list[bytes]) -> object:
    """What a reader fed with *pieces* comes to: the status of a refusal, a head and its rest, or None."""
    reader = HeadReader()
    try:
        for at, piece in enumerate(pieces):
            block = reader.receive(piece)
            if block is not None:
                return parse_request(block), reader.rest + b"".join(pieces[at + 1 :])
    except errors.GatewayError as error:
        return error.status
    return None


class RequestTests(SynchronousTestCase):
    """Heads of requests."""

    def test_refused(self) -> None:
        """Every head that two programs could read in two ways has its refusal."""
        for name, (data, status) in REFUSED.items():
            with self.assertRaises(errors.GatewayError, msg=name) as raised:
                self.assertIsNotNone(read_request(data), name)
            self.assertEqual(raised.exception.status, status, name)

    def test_largest(self) -> None:
        """What is exactly as long as the limits is no refusal."""
        line = b"GET /" + b"a" * (MAX_REQUEST_LINE - 15) + b" HTTP/1.1\r"
        self.assertEqual(len(line), MAX_REQUEST_LINE)
        self.assertIsNotNone(read_request(line + b"\n" + HOST + b"\r\n"))
        head = get(b"X: " + b"a" * (MAX_HEAD - len(get()) - 5) + b"\r\n")
        self.assertEqual(len(head), MAX_HEAD)
        self.assertIsNotNone(read_request(head))
        self.assertIsNotNone(read_request(get(b"X: a\r\n" * (MAX_FIELDS - 1))))
        self.assertIsNotNone(read_request(get(b"Content-Length: 9999999999999999999\r\n")))

    def test_meaning(self) -> None:
        """A head says what its fields say, names in lower case and values without blanks around."""
        head = read_request(get(b"X: a\r\nx:  b \r\nContent-Length: 12\r\nConnection: Close\r\n"))
        assert head is not None
        self.assertEqual((head.method, head.target, head.version), (b"PUT", b"/x", b"1.1"))
        self.assertEqual((head.length, head.chunked, head.keep_alive), (12, False, False))
        self.assertEqual((head.get(b"x"), head.count(b"x"), head.get(b"y")), (b"b", 2, None))
        self.assertFalse(head.expects_continue)

    def test_secrets_unseen(self) -> None:
        """The text of a head holds none of its fields: they carry credentials."""
        head = read_request(get(b"Authorization: hush\r\n"))
        self.assertNotIn("hush", repr(head))

    def test_expectation(self) -> None:
        """Who speaks HTTP/1.0 cannot wait for ``100 Continue``."""
        expect = b"Expect: 100-continue\r\nContent-Length: 1\r\n"
        for version, expected in ((b"HTTP/1.1", True), (b"HTTP/1.0", False)):
            head = read_request(get(expect, version))
            assert head is not None
            self.assertEqual(head.expects_continue, expected)

    def test_old_version_closes(self) -> None:
        """HTTP/1.0 has no persistent connections here, whatever is asked for."""
        head = read_request(get(b"Connection: keep-alive\r\n", b"HTTP/1.0"))
        assert head is not None
        self.assertFalse(head.keep_alive)

    def test_every_cut(self) -> None:
        """It makes no difference where the network cuts a head, nor what follows it."""
        samples = ACCEPTED + [data for data, _ in REFUSED.values() if len(data) < 300]
        for sample in samples:
            data = sample + b"rest\r\n\r\n"
            whole = outcome([data])
            for cut in range(1, len(data)):
                self.assertEqual(outcome([data[:cut], data[cut:]]), whole, data[:cut])
            self.assertEqual(outcome([bytes([byte]) for byte in data]), whole, data)

    def test_long_by_bytes(self) -> None:
        """The limits hold as well for a head that comes byte by byte."""
        for name in ("request line without end", "head without end"):
            data, status = REFUSED[name]
            self.assertEqual(outcome([data[i : i + 7] for i in range(0, len(data), 7)]), status, name)

    def test_empty_lines_begin(self) -> None:
        """One empty line passes and counts as a beginning, so that its deadline runs."""
        reader = HeadReader()
        self.assertFalse(reader)
        self.assertIsNone(reader.receive(b"\r\n"))
        self.assertTrue(reader)
        self.assertIsNone(reader.receive(b"\r\n"))
        block = reader.receive(b"\r\n")
        assert block is not None
        self.assertRaises(errors.BadRequest, parse_request, block)

    def test_again(self) -> None:
        """A reader takes one head after the other, each with its empty line before."""
        reader = HeadReader()
        for _ in range(3):
            self.assertEqual(reader.receive(b"\r\n" + get() + b"rest"), get())
            self.assertEqual(reader.rest, b"rest")
            self.assertFalse(reader)

    @settings(max_examples=400, deadline=None)
    @given(
        st.lists(
            st.one_of(
                st.binary(max_size=30),
                st.sampled_from(
                    [b"GET / HTTP/1.1\r\n", HOST, b"\r\n", b"\r\n\r\n", b"\n", b":", b" ", b"\0"],
                ),
                st.sampled_from(
                    [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"HTTP/1.1 200 OK\r\n"]
                ),
            ),
            max_size=12,
        )
    )
    def test_any_bytes(self, pieces: list[bytes]) -> None:
        """Whatever comes is read or refused, never a bug; and the same at once as in pieces."""
        whole = outcome([b"".join(pieces)])
        self.assertEqual(outcome(pieces), whole)
        for parse in (parse_request, lambda head: parse_response(head, b"GET")):
            try:
                parse(b"".join(pieces))
            except errors.GatewayError:
                pass


TOKENS = st.text("abzAZ09!#$%&'*+.^`|~-", min_size=1, max_size=8).map(str.encode)
VALUES = st.binary(max_size=12).map(lambda raw: bytes(b for b in raw if b >= 32 and b != 127))


def same_to_h11(case: SynchronousTestCase, data: bytes, *, proxy: bool = False) -> bool:
    """Hold that h11 reads *data* as we do, when we accept it."""
    try:
        head = read_request(data, proxy=proxy)
    except errors.GatewayError:
        return False
    assert head is not None
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 16)
    connection.receive_data(data[2:] if data.startswith(b"\r\n") else data)
    event: Any = connection.next_event()
    case.assertIsInstance(event, h11.Request)
    case.assertEqual((event.method, event.target), (head.method, head.target))
    case.assertEqual(event.http_version, head.version)
    # h11 writes framing in its own words: lengths without leading zeros, codings in lower case.
    framing = (b"content-length", b"transfer-encoding")
    case.assertEqual(
        [item for item in event.headers if item[0] not in framing],
        [item for item in head.fields if item[0] not in framing],
    )
    _same_framing(case, connection, event, head.chunked, head.length or 0)
    return True


def _same_framing(
    case: SynchronousTestCase, connection: h11.Connection, event: Any, chunked: bool, length: int | None
) -> None:
    told = dict(event.headers)
    case.assertEqual(told.get(b"transfer-encoding") == b"chunked", chunked)
    if chunked:
        connection.receive_data(b"3\r\nabc\r\n0\r\n\r\n")
        length = 3
    elif length is not None and length < 100:
        connection.receive_data(b"x" * length)
    else:
        return
    received = 0
    while isinstance(body := connection.next_event(), h11.Data):
        received += len(body.data)
    case.assertIsInstance(body, h11.EndOfMessage)
    case.assertEqual(received, length)


class DifferentialTests(SynchronousTestCase):
    """What passes here means the same to an independent parser."""

    def test_accepted(self) -> None:
        """Each accepted sample, in particular."""
        for data in ACCEPTED:
            self.assertTrue(same_to_h11(self, data), data)

    @settings(max_examples=300, deadline=None)
    @given(
        st.one_of(st.sampled_from([b"GET", b"PUT", b"OPTIONS", b"get"]), TOKENS),
        st.text("/ab.%?*:", max_size=8).map(str.encode),
        st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"]),
        st.lists(
            st.one_of(
                st.tuples(TOKENS, VALUES),
                st.tuples(
                    st.sampled_from([b"Content-Length", b"Transfer-Encoding", b"Connection", b"Expect"]),
                    st.sampled_from(
                        [b"3", b"03", b"3, 3", b"chunked", b"CHUNKED", b"close", b"100-continue"]
                    ),
                ),
            ),
            max_size=4,
        ),
        st.sampled_from([HOST, HOST, HOST, b""]),
    )
    def test_requests(
        self, method: bytes, target: bytes, version: bytes, fields: list[tuple[bytes, bytes]], host: bytes
    ) -> None:
        """Random heads that are nearly good."""
        lines = b"".join(b"%s: %s\r\n" % item for item in fields)
        same_to_h11(self, b"%s /%s %s\r\n%s%s\r\n" % (method, target, version, host, lines))

    @settings(max_examples=300, deadline=None)
    @given(
        st.integers(0, 1000),
        st.sampled_from([b" OK", b"", b" ", b" a\tb \xe4", b" \x01", b" \0"]),
        st.lists(
            st.one_of(
                st.tuples(TOKENS, VALUES),
                st.tuples(
                    st.sampled_from([b"Content-Length", b"Transfer-Encoding", b"Connection"]),
                    st.sampled_from([b"3", b"03", b"3, 3", b"chunked", b"gzip", b"close"]),
                ),
            ),
            max_size=4,
        ),
        st.sampled_from([b"GET", b"HEAD"]),
    )
    def test_responses(
        self, status: int, reason: bytes, fields: list[tuple[bytes, bytes]], method: bytes
    ) -> None:
        """Answers mean the same, too, to the end of their bodies."""
        lines = b"".join(b"%s: %s\r\n" % item for item in fields)
        data = b"HTTP/1.1 %d%s\r\n%s\r\n" % (status, reason, lines)
        try:
            head = parse_response(data, method)
        except errors.GatewayError:
            return
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method=method, target=b"/", headers=[(b"host", b"a.invalid")]))
        connection.send(h11.EndOfMessage())
        if status == 101:
            return
        connection.receive_data(data)
        event: Any = connection.next_event()
        self.assertEqual(event.status_code, head.status)
        if head.status < 200:
            return
        framing = (b"content-length", b"transfer-encoding")
        self.assertEqual(
            [item for item in event.headers if item[0] not in framing],
            [item for item in head.fields if item[0] not in framing],
        )
        if method == b"GET" and status not in (204, 304):
            _same_framing(self, connection, event, head.chunked, head.length)


class ProxyTests(SynchronousTestCase):
    """Heads for a proxy: targets of other forms, and not one leniency more."""

    #: As real clients write it. Source: GLib 2.74.
    CONNECT = (
        b"CONNECT %s HTTP/1.0\r\nHost: %s\r\nProxy-Connection: keep-alive\r\nUser-Agent: GLib/2.74\r\n"
        b"Proxy-Authorization: Basic Z3c6dGljaw==\r\n\r\n"
    )

    def test_connect(self) -> None:
        """A CONNECT keeps its target as it is; its Host, however odd, means nothing."""
        for target in (b"a.invalid:5900", b"[::1]:5900", b"::1:5900", b"pve:100:node::abc:61000"):
            data = self.CONNECT % (target, target)
            for proxy in (True, False):
                head = read_request(data, proxy=proxy)
                assert head is not None
                self.assertEqual((head.method, head.target, head.version), (b"CONNECT", target, b"1.0"))
                self.assertFalse(head.keep_alive)
            self.assertTrue(same_to_h11(self, data, proxy=True))

    def test_whole_urls(self) -> None:
        """Only who is a proxy is told whole URLs, and others refuse them."""
        for line in (b"GET http://b.invalid/x HTTP/1.1\r\n", b"GET a.invalid:80 HTTP/1.1\r\n"):
            data = line + HOST + b"\r\n"
            self.assertRaises(errors.BadRequest, read_request, data)
            head = read_request(data, proxy=True)
            assert head is not None
            self.assertEqual(head.target, line.split()[1])
            self.assertTrue(same_to_h11(self, data, proxy=True))

    def test_refused(self) -> None:
        """To a proxy everything else is refused as it is to others."""
        forms = {"absolute form", "authority form", "asterisk without OPTIONS"}
        for name, (data, status) in REFUSED.items():
            if name not in forms:
                error = self.assertRaises(errors.GatewayError, self._judge, data)
                self.assertEqual(error.status, status, name)
        for fields in (b"Host: a:1\r\nHost: a:1\r\n", b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"):
            data = b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n" + fields + b"\r\n"
            self.assertRaises(errors.BadRequest, read_request, data, proxy=True)

    def test_line_ends(self) -> None:
        """No line end, NUL or blank gets into a target."""
        for bad in (b"a\r\nX: y:1", b"a\n:1", b"a\r:1", b"a\0:1", b"a b:1", b"a\t:1", b"\xe9:1", b"a:1#"):
            error = self.assertRaises(errors.GatewayError, self._judge, self.CONNECT % (bad, b"a:1"))
            self.assertEqual(error.status, 400, bad)

    @settings(max_examples=200, deadline=None)
    @given(
        st.sampled_from([b"CONNECT", b"GET", b"PRI", b"connect"]),
        st.text("/ab.%?*:@[]1", min_size=1, max_size=12).map(str.encode),
        st.sampled_from([b"HTTP/1.1", b"HTTP/1.0"]),
        st.lists(st.tuples(TOKENS, VALUES), max_size=3),
    )
    def test_requests(
        self, method: bytes, target: bytes, version: bytes, fields: list[tuple[bytes, bytes]]
    ) -> None:
        """Random heads mean the same to an independent parser."""
        lines = b"".join(b"%s: %s\r\n" % item for item in fields)
        same_to_h11(self, b"%s %s %s\r\n%s%s\r\n" % (method, target, version, HOST, lines), proxy=True)

    @staticmethod
    def _judge(data: bytes) -> None:
        if read_request(data, proxy=True) is None:
            raise AssertionError("not a whole head")


class ResponseTests(SynchronousTestCase):
    """Heads of answers."""

    def parse(self, data: bytes, method: bytes = b"GET") -> ResponseHead:
        block = HeadReader(blank=False).receive(data)
        assert block is not None
        return parse_response(block, method)

    def test_refused(self) -> None:
        """Upstream answers that mean two things are none."""
        for data in (
            b"HTTP/1.1 99999 X\r\n\r\n",
            b"HTTP/1.1 999 X\r\n\r\n",
            b"HTTP/1.1 099 X\r\n\r\n",
            b"HTTP/1.1 20 X\r\n\r\n",
            b"HTTP/1.1 +20 X\r\n\r\n",
            b"HTTP/1.1  200 X\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/2.0 200 OK\r\n\r\n",
            b"ICY 200 OK\r\n\r\n",
            b"HTTP/1.1 200 O\x01K\r\n\r\n",
            b"HTTP/1.1 200 O\0K\r\n\r\n",
            b"\r\nHTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\nX: a\n\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: a\nContent-Length: 3\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 101 + b"\r\n",
        ):
            self.assertRaises(errors.GatewayError, self.parse, data)

    def test_bodies(self) -> None:
        """The length of a body follows RFC 9112, section 6.3, also where the fields lie."""
        for status, fields, method, expected in (
            (b"200", b"Content-Length: 3\r\n", b"GET", (3, False, True)),
            (b"200", b"Content-Length: 3\r\n", b"HEAD", (0, False, True)),
            (b"200", b"Transfer-Encoding: chunked\r\n", b"GET", (None, True, True)),
            (b"200", b"", b"GET", (None, False, False)),
            (b"200", b"Content-Length: 3\r\nConnection: close\r\n", b"GET", (3, False, False)),
            (b"204", b"Content-Length: 3\r\n", b"GET", (0, False, True)),
            (b"304", b"Transfer-Encoding: chunked\r\n", b"GET", (0, False, True)),
            (b"100", b"", b"PUT", (0, False, True)),
        ):
            head = self.parse(b"HTTP/1.1 " + status + b" X\r\n" + fields + b"\r\n", method)
            self.assertEqual((head.length, head.chunked, head.keep_alive), expected, (status, fields))


class SerializeTests(SynchronousTestCase):
    """Heads that we write."""

    def test_written(self) -> None:
        """A written head reads as it was meant; a reason phrase is our own."""
        data = serialize_request(b"GET", b"/a?b", [(b"host", b"a.invalid"), (b"x", b"\xe4")])
        self.assertEqual(data, b"GET /a?b HTTP/1.1\r\nhost: a.invalid\r\nx: \xe4\r\n\r\n")
        self.assertIsNotNone(read_request(data))
        self.assertEqual(serialize_response(404, []), b"HTTP/1.1 404 Not Found\r\n\r\n")
        self.assertEqual(serialize_response(599, []), b"HTTP/1.1 599 Unknown\r\n\r\n")

    def test_injection(self) -> None:
        """No part of a head can hold CR, LF or NUL, nor anything else that ends it."""
        parts: list[Callable[[bytes], bytes]] = [
            lambda bad: serialize_request(b"GE" + bad + b"T", b"/", []),
            lambda bad: serialize_request(b"GET", b"/" + bad, []),
            lambda bad: serialize_request(b"GET", b"/", [(b"x" + bad, b"y")]),
            lambda bad: serialize_request(b"GET", b"/", [(b"x", b"y" + bad)]),
            lambda bad: serialize_response(200, [(b"x" + bad, b"y")]),
            lambda bad: serialize_response(200, [(b"x", bad + b"y")]),
        ]
        for write in parts:
            for bad in (b"\r", b"\n", b"\0", b"\r\n", b"\x0b", b"\x7f"):
                self.assertRaises(ValueError, write, bad)
        for name in (b"", b"a b", b"a:", b"\xe4"):
            self.assertRaises(ValueError, serialize_response, 200, [(name, b"")])
        for method, target in ((b"", b"/"), (b"GET", b""), (b"GET", b"/ a"), (b"GET", b"/\xe4")):
            self.assertRaises(ValueError, serialize_request, method, target, [])

    def test_limits_as_required(self) -> None:
        """8 KiB of request line, 16 KiB of head, 100 fields."""
        limits = (http_head.MAX_REQUEST_LINE, http_head.MAX_HEAD, http_head.MAX_FIELDS)
        self.assertEqual(limits, (8192, 16384, 100))
