"""Which pages may open a console: a browser says where a page comes from, and it cannot be made to lie.

Source: RFC 6454, sections 4 and 7; RFC 6455, section 10.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from attrs import frozen

from gateway import errors
from gateway.wire.http_head import RequestHead

_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]{0,31})://"
    r"(?P<host>[a-z0-9](?:[a-z0-9._-]{0,252})|\[[0-9a-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII,
)
_PORTS = {"http": 80, "https": 443}

#: Scheme, host, port; 0 for a scheme that has none.
Origin = tuple[str, str, int]


def parse_origin(text: str) -> Origin:
    """Read ``scheme://host[:port]``; upper case means the same.

    :raises ValueError: it is something else, such as ``null``.
    """
    # Other letters may have ASCII ones for their lower case.
    match = _ORIGIN.fullmatch(text.lower()) if text.isascii() else None
    if match is None or int(match["port"] or 1) not in range(1, 65536):
        raise ValueError("an origin such as https://host.example or https://host.example:8443")
    return match["scheme"], match["host"], int(match["port"] or _PORTS.get(match["scheme"], 0))


@frozen
class Origins:
    """The pages that may.

    :ivar allowed: nothing is ever added, least of all from a request.
    :ivar any: every page may, unless its right is a cookie, which browsers send unasked.
    """

    allowed: frozenset[Origin] = frozenset()
    any: bool = False

    @classmethod
    def of(cls, words: Iterable[str], *own: str | None) -> Origins:
        """Read the configuration.

        :param words: origins, or ``*`` for any.
        :param own: URLs of ours, whose pages may always.
        :raises gateway.errors.ConfigError: with every word that is none.
        """
        words = list(words)
        named = [("[consoles] origins", word) for word in words if word != "*"]
        named += [("public_url", "/".join(url.split("/")[:3])) for url in own if url is not None]
        allowed, problems = set(), []
        for key, word in named:
            try:
                allowed.add(parse_origin(word))
            except ValueError as error:
                problems.append(f"{key}: {error}, not {word!r}")
        if problems:
            raise errors.ConfigError(problems)
        return cls(frozenset(allowed), "*" in words)

    def check(self, head: RequestHead, *, ambient: bool) -> None:
        """Let a request pass.

        :param ambient: the right came as a cookie: then a page has to say, and be one of ours.
        :raises gateway.errors.Forbidden: reason ``origin``.
        """
        count = head.count(b"origin")
        if count == 0 and not ambient:
            # Not a browser: nobody is led astray who does not hold the ticket.
            return
        if count == 1 and self._allows((head.get(b"origin") or b"").decode("latin-1"), ambient):
            return
        raise errors.Forbidden("Pages of this origin may not open consoles", reason="origin")

    def _allows(self, text: str, ambient: bool) -> bool:
        if self.any and not ambient:
            return True
        try:
            return parse_origin(text) in self.allowed
        except ValueError:
            return False
