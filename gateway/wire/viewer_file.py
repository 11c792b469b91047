"""The file that remote-viewer is started with: a key file with one group.

Each value is one line; what would end it is written with a backslash, and what has no such form is refused.
Source: remote-viewer(1), "Connection file"; Desktop Entry Specification, "Possible value types".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from attrs import field, frozen

#: The end of a file's name.
SUFFIX = ".vv"

_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@frozen
class ViewerFile:
    """How to reach one SPICE console.

    :ivar host: name or address, IPv6 without brackets.
    :ivar port: of channels without TLS, ``tls_port`` of those with; None for none.
    :ivar proxy: URL with user and password, as SPICE clients read it.
    :ivar ca: PEM, who vouches for the machine's certificate.
    :ivar host_subject: the subject of that certificate, where it does not name the host.
    :ivar delete: the viewer removes the file once it has read it.
    """

    host: str
    port: int | None = None
    tls_port: int | None = None
    password: str = field(default="", repr=False)
    proxy: str = field(default="", repr=False)
    ca: str = field(default="", repr=False)
    host_subject: str = ""
    title: str = ""
    delete: bool = True

    def text(self) -> str:
        """The file.

        :raises ValueError: a value cannot be written; which one is said, and never the value.
        """
        return "[virt-viewer]\n" + "".join(f"{key}={_value(key, value)}\n" for key, value in self._pairs())

    def _pairs(self) -> Iterator[tuple[str, str]]:
        yield "type", "spice"
        for key, value in (
            ("host", self.host),
            ("port", self.port),
            ("tls-port", self.tls_port),
            ("password", self.password),
            ("proxy", self.proxy),
            ("ca", self.ca),
            ("host-subject", self.host_subject),
            ("title", self.title),
        ):
            if value not in ("", None):
                yield key, str(value)
        if self.delete:
            yield "delete-this-file", "1"


def _value(key: str, text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError(f"{key} holds a character that no such file can hold")
    escaped = text.translate(_ESCAPES)
    # The reader drops blanks at the beginning, and some at the end.
    head, tail = len(escaped) - len(escaped.lstrip(" ")), len(escaped.rstrip(" "))
    return "\\s" * head + escaped[head:tail] + "\\s" * (len(escaped) - max(head, tail))
