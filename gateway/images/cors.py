"""Cross-origin access to images: what a browser's page of another origin may do and read.

Source: Fetch standard, section 3.2 (CORS protocol); ovirt-imageio 2.5 and its 1.x proxy for the
exact values their pages expect.
"""

from __future__ import annotations

from collections.abc import Collection

from attrs import frozen

from gateway.wire.http_head import RequestHead

Field = tuple[bytes, bytes]

_METHODS = b"OPTIONS,GET,PUT"
_MORE_METHODS = {b"PATCH", b"POST", b"DELETE", b"HEAD"}
#: A wildcard does not cover Authorization, so pages of the 1.x era need the names.
_NAMED_HEADERS = (
    b"Cache-Control, Pragma, Authorization, Content-Type, Content-Length, Content-Range, Range, Session-Id"
)
_EXPOSED = (
    b"Authorization, Content-Length, Content-Range, Content-Disposition, Range, Session-Id, Retry-After"
)


@frozen
class Cors:
    """Which origins may read our answers.

    :ivar origins: such as ``https://engine.example``; ``*`` among them allows every page.
    """

    origins: Collection[str] = ("*",)

    def fields(self, head: RequestHead) -> list[Field]:
        """Return the header fields of an answer to *head*, refusals included."""
        fields: list[Field] = [(b"vary", b"Origin")]
        origin = head.get(b"origin")
        allowed = self._allowed(origin)
        if allowed is None:
            return fields
        fields += [
            (b"access-control-allow-origin", allowed),
            (b"access-control-max-age", b"86400"),
            (b"access-control-expose-headers", _EXPOSED),
        ]
        method = head.get(b"access-control-request-method")
        if method is not None:
            more = b"," + method if method in _MORE_METHODS else b""
            fields.append((b"access-control-allow-methods", _METHODS + more))
        wanted = head.get(b"access-control-request-headers")
        if wanted is not None:
            named = b"authorization" in wanted.lower() or allowed != b"*"
            fields.append((b"access-control-allow-headers", _NAMED_HEADERS if named else b"*"))
        return fields

    def _allowed(self, origin: bytes | None) -> bytes | None:
        if origin is None:
            return None
        if "*" in self.origins:
            return b"*"
        return origin if origin.decode("latin-1") in self.origins else None


def is_preflight(head: RequestHead) -> bool:
    """Whether a browser asks, without any credential, what a page may do."""
    return (
        head.method == b"OPTIONS"
        and head.get(b"origin") is not None
        and head.get(b"access-control-request-method") is not None
    )
