"""Serves the files of this package, and of the viewers: read once, and looked up in a table.

A path that is not in the table is not there, so that no request can reach another file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from twisted.web import http
from twisted.web.resource import Resource

from gateway import errors
from gateway.core.web import PAGE_FIELDS, Refusal, Tree
from gateway.web.vendor import installed

_TYPES = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "mjs": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}
#: Pages load and call nothing but their own origin, and submit and embed nothing at all. Consoles make
#: pictures (``data:`` for pointers) and videos by themselves. Source: W3C CSP level 3.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    b"img-src 'self' data: blob:; media-src blob:; object-src 'none'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    b"require-trusted-types-for 'script'; trusted-types 'none'"
)
#: What the page for administrators shares with the others.
_COMMON = {"icon.svg", "style.css", "words.js"}
_FIELDS = [
    *PAGE_FIELDS,
    (b"content-security-policy", _POLICY),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
]


class _Page:
    """What is read, and nothing else: GET and HEAD."""

    def render(self, request: Any) -> bytes:
        """Answer *request*; return the body."""
        if request.method not in (b"GET", b"HEAD"):
            return Refusal(errors.MethodNotAllowed(["GET", "HEAD"])).render(request)
        return self.answer(request)

    def answer(self, request: Any) -> bytes:
        """Return the body, after its header fields."""
        raise NotImplementedError


class _File(_Page):
    """One file in memory, revalidated by its entity tag."""

    def __init__(self, content: bytes, content_type: bytes) -> None:
        self._content = content
        self._type = content_type
        self._tag = b'"%s"' % sha256(content).hexdigest()[:16].encode("ascii")

    def answer(self, request: Any) -> bytes:
        for name, value in _FIELDS:
            request.setHeader(name, value)
        request.setHeader(b"etag", self._tag)
        if self._is_known(request.getHeader(b"if-none-match") or b""):
            request.setResponseCode(http.NOT_MODIFIED)
            return b""
        request.setHeader(b"content-type", self._type)
        request.setHeader(b"content-length", b"%d" % len(self._content))
        return b"" if request.method == b"HEAD" else self._content

    def _is_known(self, tags: bytes) -> bool:
        """Compare weakly. Source: RFC 9110, section 13.1.2."""
        return any(tag.strip().removeprefix(b"W/") in (self._tag, b"*") for tag in tags.split(b","))


class _Moved(_Page):
    """Sends on to one fixed place."""

    def __init__(self, location: bytes) -> None:
        self._location = location

    def answer(self, request: Any) -> bytes:
        request.setResponseCode(http.PERMANENT_REDIRECT)
        request.setHeader(b"location", self._location)
        request.setHeader(b"content-length", b"0")
        return b""


class _Pages(Resource):
    """``/ui/``: pages by name without suffix, everything else with it; for nothing what *first* says.

    :param found: paths and contents.
    """

    isLeaf = True

    def __init__(self, found: Iterable[tuple[str, bytes]], *first: tuple[bytes, bytes]) -> None:
        super().__init__()
        self._table: dict[bytes, _Page] = {path: _Moved(to) for path, to in first}
        for path, content in found:
            self._add(path, content)

    def _add(self, path: str, content: bytes) -> None:
        stem, _, suffix = path.rpartition(".")
        if suffix in _TYPES:
            name = stem if suffix == "html" else path
            self._table[b"/" + name.encode("ascii")] = _File(content, _TYPES[suffix])

    def render(self, request: Any) -> bytes:
        path = b"".join(b"/" + segment for segment in request.postpath)
        page = self._table.get(b"/index" if path == b"/" else path)
        return page.render(request) if page is not None else Refusal(errors.NotFound()).render(request)


def _own(directory: str) -> Iterator[tuple[str, bytes]]:
    for entry in files("gateway.web").joinpath(directory).iterdir():
        yield entry.name, entry.read_bytes()


@cache
def _shared() -> _Pages:
    """One table for all listeners: the viewers are more than a megabyte."""
    viewers = ((path, file.read_bytes()) for path, file in installed())
    # Without the slash at the end, the pages' relative addresses would lead elsewhere.
    return _Pages((*_own("static"), *viewers), (b"", b"/ui/"))


def pages() -> Resource:
    """Return a root with the pages below ``ui``."""
    root = Tree()
    root.putChild(b"ui", _shared())
    return root


def admin_pages() -> Resource:
    """Return what is below ``ui`` where orders are taken: one page that shows all, and ends it.

    It is of one origin with the orders that it gives, and is served to nobody who cannot give them himself.
    """
    common = ((name, content) for name, content in _own("static") if name in _COMMON)
    return _Pages((*_own("admin"), *common), (b"", b"/ui/status"), (b"/index", b"/ui/status"))
