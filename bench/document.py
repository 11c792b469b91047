"""The figures' place in ``docs/performance.md``: between marks, so that the words around them stay.

``<!-- figures: NAME -->`` and ``<!-- end -->`` enclose what one measure wrote last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from bench import plot, tables
from bench.cases import Case


@frozen
class Section:
    """What one measure found.

    :ivar load: averages before it began.
    :ivar versions: by peer, ``version`` and ``openssl``.
    """

    name: str
    summary: str
    command: str
    load: str
    versions: Mapping[str, Mapping[str, str]]
    cases: Sequence[Case]

    def text(self) -> str:
        """For people."""
        head = f"\n== {self.name}: {self.summary}; load before {self.load}\n   {self._peers()}\n"
        return "\n".join([head, *map(tables.text, self.cases)])

    def markdown(self) -> str:
        head = f"`{self.command}`; load before: {self.load}. {self._peers()}.\n"
        return "\n".join([head, *map(tables.markdown, self.cases)])

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return {
            "name": self.name,
            "load": self.load,
            "versions": self.versions,
            "cases": [case.plain() for case in self.cases],
        }

    def _peers(self) -> str:
        return ", ".join(
            f"{name} {it['version']} (OpenSSL {it['openssl']})" for name, it in self.versions.items()
        )


def write(prefix: Path, where: Mapping[str, str], sections: Sequence[Section]) -> None:
    """Put *sections* in their places in ``PREFIX.md``, and the plot of images into ``PREFIX.svg``.

    :raises ValueError: a section has no place there.
    """
    file = prefix.with_suffix(".md")
    written = file.read_text("utf-8")
    machine = f"{where['cpu']}, {where['cores']} cores, {where['memory']}, Linux {where['kernel']}."
    written = put(written, "machine", f"{machine}\n")
    for section in sections:
        written = put(written, section.name, section.markdown())
        if section.name == "images":
            prefix.with_suffix(".svg").write_text(plot.ratios(section.cases), "utf-8")
    file.write_text(written, "utf-8")


def put(written: str, name: str, figures: str) -> str:
    """Replace what stands between the marks of *name*.

    :raises ValueError: there are none.
    """
    mark = f"<!-- figures: {name} -->"
    found, count = re.subn(
        rf"{re.escape(mark)}\n.*?<!-- end -->",
        lambda _: f"{mark}\n{figures}<!-- end -->",
        written,
        flags=re.DOTALL,
    )
    if count != 1:
        raise ValueError(f"the document has {count} places marked {mark}")
    return found
