"""HTTP/1.1 message heads, strictly: one reading of every byte, or none.

:class:`HeadReader` collects a head within limits, :func:`parse_request` and
:func:`parse_response` judge it. What two programs might read in two ways (bare LF, folded lines,
doubled framing fields, names with an underscore) is refused, although general parsers such as
h11 let some of it pass; a test holds that whatever passes here means the same to h11.
Source: RFC 9112, sections 2 to 6, and RFC 9110, sections 5.5 and 7.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus

from attrs import field, frozen

from gateway import errors

Fields = Sequence[tuple[bytes, bytes]]

#: What a message head may cost, bytes and counts (request line, all of it, fields).
MAX_REQUEST_LINE = 8 * 1024
MAX_HEAD = 16 * 1024
MAX_FIELDS = 100

_REASONS = {s.value: s.phrase.encode("ascii") for s in HTTPStatus}
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*+")
_TARGET = re.compile(rb"[\x21-\x7e]++")
_REQUEST = re.compile(rb"(%b) (%b) HTTP/([0-9]\.[0-9])\r\n" % (_TOKEN.pattern, _TARGET.pattern))
_ANSWER = re.compile(rb"HTTP/([0-9]\.[0-9]) ([1-5][0-9]{2})(?: %b)?\r\n" % _VALUE.pattern)
#: A name with an underscore may be another name elsewhere; a folded line begins with a blank, which is none.
_FIELD = re.compile(rb"(%b):[ \t]*+(%b)\r\n" % (_TOKEN.pattern.replace(b"_", b""), _VALUE.pattern))
_FIELDS = re.compile(rb"(?:%b)*+" % _FIELD.pattern.replace(b"(", b"(?:"))
_LINES = re.compile(rb"(?:[^\r\n]++|\r\n)*+")
_DIGITS = re.compile(rb"[0-9]{1,19}")
_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


@frozen
class RequestHead:
    """What a client asked for.

    :ivar target: origin-form, ``*`` (OPTIONS), authority-form (CONNECT) or, to a proxy, anything; as sent.
    :ivar fields: names in lower case, in order.
    :ivar length: bytes of the body as declared, None when it was not.
    :ivar chunked: the body comes in chunks; :attr:`length` is None.
    :ivar expects_continue: the client waits for ``100 Continue``.
    """

    method: bytes
    target: bytes
    version: bytes
    fields: Fields = field(repr=False)
    length: int | None
    chunked: bool
    expects_continue: bool
    keep_alive: bool

    def get(self, name: bytes) -> bytes | None:
        """Return the value of field *name*, the last one when it was repeated."""
        return _last(self.fields, name)

    def count(self, name: bytes) -> int:
        """How often field *name* was sent."""
        return sum(1 for key, _ in self.fields if key == name)


@frozen
class ResponseHead:
    """What an upstream answered.

    :ivar length: bytes of the body; None when it ends with the connection.
    :ivar chunked: the body comes in chunks; :attr:`length` is None.
    """

    status: int
    fields: Fields = field(repr=False)
    length: int | None
    chunked: bool
    keep_alive: bool

    def get(self, name: bytes) -> bytes | None:
        """Return the value of field *name*, the last one when it was repeated."""
        return _last(self.fields, name)


def _last(fields: Fields, name: bytes) -> bytes | None:
    for key, value in reversed(fields):
        if key == name:
            return value
    return None


class HeadReader:
    """Collects one message head from pieces of any size, and keeps what follows it.

    :param blank: let one empty line before the head pass, as a server should.
    :ivar rest: bytes after the head.
    """

    def __init__(
        self, max_line: int = MAX_REQUEST_LINE, max_head: int = MAX_HEAD, *, blank: bool = True
    ) -> None:
        self._max_line = max_line
        self._max_head = max_head
        self._blank = blank
        self._passed = False
        self._buffer = b""
        self.rest = b""

    def __bool__(self) -> bool:
        """Whether a head has begun, if only by an empty line before it."""
        return bool(self._buffer) or self._passed

    def receive(self, data: bytes) -> bytes | None:
        """Return the head with its blank line once it is whole, else None.

        :raises gateway.errors.UriTooLong: the first line is too long.
        :raises gateway.errors.HeadTooLarge: the head is too long.
        :raises gateway.errors.BadRequest: a line does not end in CR LF.
        """
        before = self._buffer
        whole = before + data if before else data
        # RFC 9112, section 2.2: at least one empty line before a request is to be ignored. No more
        # than one is, or whoever sends nothing else would never meet a deadline.
        if self._blank and not self._passed and whole.startswith(b"\r\n"):
            self._passed = True
            before, whole = b"", whole[2:]
        end = whole.find(b"\r\n\r\n", max(0, len(before) - 3))
        head = whole if end < 0 else whole[: end + 4]
        line_end = head.find(b"\n")
        if (len(head) if line_end < 0 else line_end) > self._max_line:
            raise errors.UriTooLong
        if len(head) > self._max_head:
            raise errors.HeadTooLarge
        # A CR at the very end may still get its LF.
        good = len(before) - before.endswith(b"\r")
        if not _LINES.fullmatch(head, good, len(head) - (end < 0 and head.endswith(b"\r"))):
            raise errors.BadRequest("A line of the head does not end in CR LF")
        if end < 0:
            self._buffer = head
            return None
        self.rest = whole[end + 4 :]
        self._buffer = b""
        self._passed = False
        return head


def _fields(head: bytes, begin: int, max_fields: int) -> Fields:
    """The fields of *head*, whose first line ends at *begin*."""
    block = head[begin:-2]
    if block.count(b"\r\n") > max_fields:
        raise errors.HeadTooLarge
    if not _FIELDS.fullmatch(block):
        raise errors.BadRequest("A header field is malformed")
    return [(name.lower(), value.rstrip(b" \t")) for name, value in _FIELD.findall(block)]


def _minor(version: bytes) -> bytes:
    if version not in (b"1.0", b"1.1"):
        raise errors.BadRequest(errors.VersionNotSupported.default)
    return version


def _framing(fields: Fields, version: bytes) -> tuple[int | None, bool]:
    """Return (length, chunked); (None, False) when neither field is there."""
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    if len(lengths) > 1 or len(codings) > 1 or (lengths and codings):
        raise errors.BadRequest("The length of the body is given in two ways")
    if codings:
        if codings[0].lower() != b"chunked":
            raise errors.BadRequest("This transfer coding is not supported")
        if version != b"1.1":
            raise errors.BadRequest("Chunks are not part of HTTP/1.0")
        return None, True
    if not lengths:
        return None, False
    if not _DIGITS.fullmatch(lengths[0]):
        raise errors.BadRequest("Content-Length is not a number")
    return int(lengths[0]), False


def _keep_alive(version: bytes, fields: Fields) -> bool:
    options = {
        option.strip().lower()
        for name, value in fields
        if name == b"connection"
        for option in value.split(b",")
    }
    return b"close" not in options and version == b"1.1"


def parse_request(head: bytes, max_fields: int = MAX_FIELDS, *, proxy: bool = False) -> RequestHead:
    """Judge a request head, as :class:`HeadReader` returned it.

    :param proxy: clients may take us for one, and name whole URLs.
    :raises gateway.errors.GatewayError: the head is not one, or may be read in two ways.
    """
    line = _REQUEST.match(head)
    if line is None:
        raise errors.BadRequest("The request line is malformed")
    method, target, version = line.groups()
    minor = _minor(version)
    fields = _fields(head, line.end(), max_fields)
    length, chunked = _framing(fields, minor)
    hosts = [value for name, value in fields if name == b"host"]
    # What a CONNECT has there repeats its target, however odd, and means nothing.
    well = method == b"CONNECT" or all(_HOST.fullmatch(host) for host in hosts)
    if len(hosts) > 1 or not well or (not hosts and minor == b"1.1"):
        raise errors.BadRequest("Host is missing, malformed or repeated")
    expectation = _last(fields, b"expect")
    if expectation is not None and expectation.lower() != b"100-continue":
        raise errors.ExpectationFailed
    whole_server = target == b"*" and method == b"OPTIONS"
    if not target.startswith(b"/") and not whole_server and method != b"CONNECT" and not proxy:
        raise errors.BadRequest("The request target must begin with a slash")
    if b"#" in target:
        raise errors.BadRequest("The request target holds a fragment")
    return RequestHead(
        method=method,
        target=target,
        version=minor,
        fields=fields,
        length=length,
        chunked=chunked,
        expects_continue=expectation is not None and minor == b"1.1",
        keep_alive=_keep_alive(minor, fields),
    )


def parse_response(head: bytes, method: bytes, max_fields: int = MAX_FIELDS) -> ResponseHead:
    """Judge the head of an answer to *method*, informational (1xx) ones included.

    :raises gateway.errors.GatewayError: the head is not one; the caller reports its upstream.
    """
    line = _ANSWER.match(head)
    if line is None:
        raise errors.BadRequest("The status line is malformed")
    minor = _minor(line[1])
    fields = _fields(head, line.end(), max_fields)
    status = int(line[2])
    length, chunked = _framing(fields, minor)
    # RFC 9112, section 6.3: these have no body, whatever the fields say.
    if method == b"HEAD" or status < 200 or status in (204, 304):
        length, chunked = 0, False
    ends = length is not None or chunked
    return ResponseHead(status, fields, length, chunked, ends and _keep_alive(minor, fields))


def check_field(name: bytes, value: bytes) -> None:
    """Refuse a header field that could break out of its line.

    :raises ValueError: for a name that is no token or a value with control characters.
    """
    if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
        raise ValueError("a header field cannot hold this")


def _lines(first: bytes, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    parts = [first]
    for name, value in fields:
        check_field(name, value)
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


def serialize_request(method: bytes, target: bytes, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a request head.

    :raises ValueError: when a part could break out of its place.
    """
    if not _TOKEN.fullmatch(method) or not _TARGET.fullmatch(target):
        raise ValueError("a request line cannot hold this")
    return _lines(b"%s %s HTTP/1.1\r\n" % (method, target), fields)


def serialize_response(status: int, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a response head; the reason phrase comes from our own table.

    :raises ValueError: when a field could break out of its line.
    """
    return _lines(b"HTTP/1.1 %d %s\r\n" % (status, _REASONS.get(status, b"Unknown")), fields)
