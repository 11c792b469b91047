"""``Content-Disposition``: a file name on its way into, and out of, a header field.

Source: RFC 6266, section 4; RFC 8187, section 3.2; ovirt-imageio 2.5 sends the bare name.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

#: Token characters (RFC 9110, section 5.6.2) and letters of other scripts.
_BARE = re.compile(r"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]|[^\x00-\xa0\s])+")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff/\\]")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_MAX = 255


def attachment(filename: str | None) -> bytes:
    """Return the value of ``Content-Disposition`` that saves under *filename*.

    What could leave the field or the client's directory is replaced. A name that needs no
    quotes stands bare, for that is what imageio's clients compare with; otherwise it is quoted
    and, when it is not ASCII, given again in the extended form.
    """
    if not filename:
        return b"attachment"
    name = _UNSAFE.sub("_", filename)[:_MAX].strip().lstrip(". ") or "download"
    if _BARE.fullmatch(name):
        return b"attachment; filename=" + name.encode("utf-8")
    ascii_name = name.encode("ascii", "replace").decode("ascii").replace("?", "_").replace('"', "'")
    value = f'attachment; filename="{ascii_name}"'
    if ascii_name != name:
        value += f"; filename*=UTF-8''{quote(name, safe='')}"
    return value.encode("ascii")


def parse_disposition(value: bytes | None) -> str | None:
    """Return the file name of an upstream's ``Content-Disposition``, quoted or bare or extended."""
    text = (value or b"").decode("utf-8", "replace")
    extended = re.search(r";\s*filename\*=UTF-8''([A-Za-z0-9%!#$&+.^_`|~-]+)", text, re.IGNORECASE)
    if extended:
        return unquote(extended[1])
    plain = re.search(r";\s*filename=(.*)", text, re.IGNORECASE)
    if not plain:
        return None
    quoted = _QUOTED.match(plain[1])
    if quoted:
        return re.sub(r"\\(.)", r"\1", quoted[1]) or None
    return plain[1].strip() or None
