"""XML of strangers, read without believing it.

There is no document type, no entity but the five that XML has, no processing instruction; the encoding is
UTF-8, whatever the text says about itself, so that nobody behind us reads other elements in the same bytes.
Size, depth, and the numbers of elements and of attributes have bounds. Namespaces are resolved.
Source: XML 1.0, fifth edition; Namespaces in XML 1.0. The parser is expat; what it offers beyond this is
refused by its own handlers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NoReturn
from xml.parsers import expat

from attrs import define, field, frozen

#: Bytes; a domain with all devices that libvirt permits stays below.
LIMIT = 4 * 1024 * 1024
#: Bytes of one value of an attribute, and of one element's own text.
LONGEST = 256 * 1024
DEPTH = 64
ELEMENTS = 10_000
ATTRIBUTES = 64


class XmlError(ValueError):
    """The text is no XML that we read."""


@frozen
class Node:
    """One element.

    :ivar name: local name; ``{uri}name`` for one that is in a namespace.
    :ivar attributes: by name, likewise.
    :ivar text: its own text, all of it together, without that of its children.
    """

    name: str
    attributes: Mapping[str, str]
    children: tuple[Node, ...]
    text: str

    def get(self, name: str, default: str = "") -> str:
        """The value of an attribute."""
        return self.attributes.get(name, default)

    def all(self, name: str) -> Iterator[Node]:
        """The children called *name*."""
        return (child for child in self.children if child.name == name)

    def find(self, name: str) -> Node | None:
        """The first child called *name*."""
        return next(self.all(name), None)

    def words(self, name: str) -> str:
        """The text of the first child called *name*; empty without one."""
        child = self.find(name)
        return "" if child is None else child.text


@define
class _Open:
    """An element whose end has not come yet."""

    name: str
    attributes: dict[str, str]
    children: list[Node] = field(factory=list)
    text: list[str] = field(factory=list)
    length: int = 0


class _Builder:
    def __init__(self) -> None:
        self.root: Node | None = None
        self.stack: list[_Open] = []
        self.elements = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.elements += 1
        if self.elements > ELEMENTS:
            _refuse(f"more than {ELEMENTS} elements")
        if len(self.stack) >= DEPTH:
            _refuse(f"elements are nested deeper than {DEPTH}")
        if len(attributes) > ATTRIBUTES:
            _refuse(f"an element has more than {ATTRIBUTES} attributes")
        if any(len(value) > LONGEST for value in attributes.values()):
            _refuse(f"an attribute is longer than {LONGEST}")
        self.stack.append(_Open(_clark(name), {_clark(key): value for key, value in attributes.items()}))

    def text(self, data: str) -> None:
        top = self.stack[-1]
        top.length += len(data)
        if top.length > LONGEST:
            _refuse(f"a text is longer than {LONGEST}")
        top.text.append(data)

    def end(self, _name: str) -> None:
        it = self.stack.pop()
        node = Node(it.name, it.attributes, tuple(it.children), "".join(it.text))
        if self.stack:
            self.stack[-1].children.append(node)
        else:
            self.root = node


def parse(text: str | bytes, *, limit: int = LIMIT) -> Node:
    """Read a whole document and return its root.

    :param limit: bytes.
    :raises XmlError:
    """
    if len(text) > limit:
        raise XmlError(f"it is longer than {limit} bytes")
    try:
        # Bytes, too: expat would follow a mark of UTF-16 at their beginning.
        data = (text if isinstance(text, str) else str(text, "utf-8")).encode("utf-8")
    except UnicodeError:
        raise XmlError("it is not UTF-8") from None
    if len(data) > limit:
        raise XmlError(f"it is longer than {limit} bytes")
    # What expat would look at for long before it tells of it: an element of a hundred thousand attributes.
    if data.count(b"<") > 4 * ELEMENTS:
        _refuse(f"more than {ELEMENTS} elements")
    if max(map(len, data.split(b"<"))) > 3 * LONGEST:
        _refuse(f"an element, a text or a comment is longer than {3 * LONGEST}")
    builder = _Builder()
    # The encoding given here is stronger than what the document declares.
    parser = expat.ParserCreate("utf-8", "}")
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    parser.XmlDeclHandler = _declaration
    parser.StartDoctypeDeclHandler = _no_document_type
    parser.EntityDeclHandler = _no_entity
    parser.ExternalEntityRefHandler = _no_entity
    parser.SkippedEntityHandler = _no_entity
    parser.ProcessingInstructionHandler = _no_instruction
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise XmlError(f"line {error.lineno}: {expat.ErrorString(error.code)}") from None
    if builder.root is None:
        raise XmlError("it has no element")
    return builder.root


def _clark(name: str) -> str:
    return "{" + name if "}" in name else name


def _refuse(text: str) -> NoReturn:
    raise XmlError(text)


def _declaration(version: str, encoding: str | None, _standalone: int) -> None:
    if version != "1.0":
        _refuse("its version is not 1.0")
    if encoding is not None and encoding.lower() not in ("utf-8", "us-ascii"):
        _refuse("its encoding is not UTF-8")


def _no_document_type(*_: object) -> NoReturn:
    _refuse("it has a document type")


def _no_entity(*_: object) -> NoReturn:
    _refuse("it has an entity")


def _no_instruction(*_: object) -> NoReturn:
    _refuse("it has a processing instruction")
