"""Text for people: sizes, ages, tables. Pure functions.

Much of what is shown came from peers: whatever goes into a cell is escaped here, so that no name of a
principal or target can speak to the terminal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

from gateway.core.masking import escape

#: Columns a cell may take at most.
CELL = 256
_LEAST = 6
_GAP = "  "


def size(count: float) -> str:
    """Bytes as ``512 B``, ``1.5 GiB``."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        count /= 1024
        if count < 1023.95 or unit == "PiB":
            break
    return f"{count:.1f} {unit}"


def rate(bytes_per_second: float) -> str:
    """Bytes a second as ``12.3 MiB/s``."""
    return f"{size(bytes_per_second)}/s"


def age(seconds: float) -> str:
    """A duration as ``12s``, ``3m12s``, ``2h05m``, ``4d03h``; below zero is zero."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole // 60 % 60:02}m"
    return f"{whole // 86400}d{whole // 3600 % 24:02}h"


def epoch(time: object) -> float | None:
    """Seconds since the epoch of an RFC 3339 text or a number; None when it is neither."""
    if isinstance(time, int | float):
        return float(time)
    try:
        return datetime.fromisoformat(str(time)).timestamp()
    except ValueError:
        return None


def since(time: object, now: float) -> str:
    """How long ago *time* was."""
    at = epoch(time)
    return "-" if at is None else age(now - at)


def until(time: object, now: float) -> str:
    """How long it is until *time*, or ``over``."""
    at = epoch(time)
    return "-" if at is None else age(at - now) if at > now else "over"


def cell(value: object) -> str:
    """*value* for one place in a table."""
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        value = " ".join(str(item) for item in value)
    return cut(escape(str(value)), CELL)


def cut(text: str, width: int) -> str:
    """*text*, or the beginning of it with ``…`` when it is longer than *width*."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    width: int | None = None,
    *,
    right: Collection[str] = (),
) -> str:
    """Aligned columns under *headers*, the widest ones cut until a line fits *width*.

    :param right: the headers of columns that are aligned to the right.
    """
    lines = [list(headers), *([cell(value) for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    if width is not None:
        _shrink(widths, width - len(_GAP) * (len(widths) - 1))
    texts = []
    for line in lines:
        cells = [cut(text, room) for text, room in zip(line, widths, strict=True)]
        aligned = [
            text.rjust(room) if header in right else text.ljust(room)
            for header, text, room in zip(headers, cells, widths, strict=True)
        ]
        texts.append(_GAP.join(aligned).rstrip())
    return "\n".join(texts)


def facts(pairs: Mapping[str, object], width: int | None = None) -> str:
    """One line for each pair, the values aligned."""
    room = max(map(len, pairs), default=0)
    lines = (f"{name.ljust(room)}{_GAP}{cell(value)}" for name, value in pairs.items())
    return "\n".join(line if width is None else cut(line, width) for line in lines)


def _shrink(widths: list[int], room: int) -> None:
    """Take columns from the widest until all fit, but leave each a few."""
    while sum(widths) > room and (widest := max(widths)) > _LEAST:
        widths[widths.index(widest)] -= 1
