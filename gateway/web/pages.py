"""Serves the files of this package: read once, looked up by name, never by path.

A name that is not in the table is not there, so that no request can reach another file.
"""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files
from typing import Any

from twisted.web.resource import Resource

from gateway import errors
from gateway.core.web import PAGE_FIELDS, Refusal, Tree

_TYPES = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}


class _File(Resource):
    """One file in memory, revalidated by its entity tag."""

    isLeaf = True

    def __init__(self, content: bytes, content_type: bytes) -> None:
        super().__init__()
        self._content = content
        self._type = content_type
        self._tag = sha256(content).hexdigest()[:16].encode("ascii")

    def render_GET(self, request: Any) -> bytes:
        request.setHeader(b"content-type", self._type)
        request.setHeader(b"cache-control", b"no-cache")
        for name, value in PAGE_FIELDS:
            request.setHeader(name, value)
        if request.setETag(self._tag):
            return b""
        request.setHeader(b"content-length", b"%d" % len(self._content))
        return self._content


class _Pages(Resource):
    """``/ui/``: pages by name without suffix, everything else with it; the index for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._files: dict[bytes, _File] = {}
        for entry in files("gateway.web").joinpath("static").iterdir():
            stem, _, suffix = entry.name.rpartition(".")
            if suffix in _TYPES:
                name = stem if suffix == "html" else entry.name
                self._files[name.encode("ascii")] = _File(entry.read_bytes(), _TYPES[suffix])

    def getChild(self, path: bytes, request: Any) -> Resource:
        return self._files.get(path or b"index", Refusal(errors.NotFound()))


def pages() -> Resource:
    """Return a root with the pages below ``ui``."""
    root = Tree()
    root.putChild(b"ui", _Pages())
    return root
