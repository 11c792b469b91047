"""XML of strangers: what is read, and all that is not."""

from __future__ import annotations

import tracemalloc
from xml.sax.saxutils import escape, quoteattr

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire.safe_xml import ATTRIBUTES, DEPTH, ELEMENTS, LIMIT, LONGEST, Node, XmlError, parse

LAUGHS = (
    "<!DOCTYPE l [<!ENTITY a0 'ha'>"
    + "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 10))
    + "]><l>&a9;</l>"
)
#: By what is wrong with them.
HOSTILE = {
    "document type": "<!DOCTYPE a><a/>",
    "billion laughs": LAUGHS,
    "quadratic": f"<!DOCTYPE a [<!ENTITY b '{'x' * 50000}'>]><a>{'&b;' * 1000}</a>",
    "external entity": "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><a>&x;</a>",
    "external document type": "<!DOCTYPE a SYSTEM 'http://attacker.invalid/a.dtd'><a/>",
    "parameter entity": "<!DOCTYPE a [<!ENTITY % x SYSTEM 'file:///etc/passwd'> %x;]><a/>",
    "default attribute": "<!DOCTYPE a [<!ATTLIST a b CDATA 'c'>]><a/>",
    "undefined entity": "<a>&x;</a>",
    "instruction": "<a><?php x?></a>",
    "instruction before": "<?xml-stylesheet href='file:///etc/passwd'?><a/>",
    "long attribute": f"<a b='{'x' * (10 * 1024 * 1024)}'/>",
    "rather long attribute": f"<a b='{'x' * (LONGEST + 1)}'/>",
    "long text": f"<a>{'x' * (LONGEST + 1)}</a>",
    "long text in pieces": f"<a>{('x' * 1000 + '<b/>') * (LONGEST // 1000 + 1)}</a>",
    "deep": "<a>" * (DEPTH + 1) + "</a>" * (DEPTH + 1),
    "very deep": "<a>" * 200_000,
    "many elements": f"<a>{'<b/>' * ELEMENTS}</a>",
    "many attributes": "<a " + " ".join(f"a{n}=''" for n in range(ATTRIBUTES + 1)) + "/>",
    "very many attributes": "<a " + " ".join(f"a{n}=''" for n in range(100_000)) + "/>",
    "same attribute": "<a b='1' b='2'/>",
    "same attribute by two prefixes": "<a xmlns:x='u' xmlns:y='u' x:b='1' y:b='2'/>",
    "unknown prefix": "<x:a/>",
    "two roots": "<a/><a/>",
    "nothing": "",
    "text only": "a",
    "cut": "<a><b></a>",
    "open": "<a>",
    "NUL": "<a>\0</a>",
    "NUL behind": "<a/>\0<b/>",
    "NUL by number": "<a>&#0;</a>",
    "control": "<a>\x01</a>",
    "surrogate": "<a>\udc80</a>",
    "surrogate by number": "<a>&#xd800;</a>",
    "version": "<?xml version='1.1'?><a/>",
    "UTF-7": "<?xml version='1.0' encoding='UTF-7'?><a>+ADw-evil/+AD4-</a>",
    "Latin-1": "<?xml version='1.0' encoding='ISO-8859-1'?><a/>",
    "UTF-16": "<?xml version='1.0' encoding='UTF-16'?><a/>",
    "unknown encoding": "<?xml version='1.0' encoding='x-user-defined'?><a/>",
}


class HostileTest(SynchronousTestCase):
    """What is refused."""

    def test_refused(self) -> None:
        """Each kind of hostile XML is refused with an error, and with no other."""
        for what, text in HOSTILE.items():
            self.assertRaises(XmlError, parse, text)
            try:
                parse(text)
            except XmlError as error:
                self.assertLess(len(str(error)), 120, what)

    def test_by_our_own_bounds(self) -> None:
        """What a parser would take by itself is refused by us, for the reason that we give."""
        for what, reason in (
            ("document type", "document type"),
            ("default attribute", "document type"),
            ("billion laughs", "document type"),
            ("instruction", "processing instruction"),
            ("long attribute", f"longer than {LIMIT}"),
            ("rather long attribute", "an attribute is longer"),
            ("long text", "a text is longer"),
            ("long text in pieces", "a text is longer"),
            ("deep", "nested deeper"),
            ("very deep", f"more than {ELEMENTS}"),
            ("very many attributes", "longer"),
            ("many elements", f"more than {ELEMENTS}"),
            ("many attributes", f"more than {ATTRIBUTES}"),
            ("version", "version"),
            ("Latin-1", "encoding"),
            ("UTF-7", "encoding"),
            ("surrogate", "UTF-8"),
        ):
            error = self.assertRaises(XmlError, parse, HOSTILE[what])
            self.assertIn(reason, str(error), what)

    def test_memory(self) -> None:
        """What is refused takes no memory to speak of."""
        for what in ("billion laughs", "quadratic", "very deep"):
            tracemalloc.start()
            self.assertRaises(XmlError, parse, HOSTILE[what])
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            self.assertLess(peak, 2 * 1024 * 1024, what)

    def test_bytes(self) -> None:
        """Bytes are UTF-8, whatever they say about themselves."""
        self.assertEqual(parse("<a>ä</a>".encode()).text, "ä")
        for data in (
            "<a/>".encode("utf-16"),
            b"<a>\xff</a>",
            b"<a>\xc0\xbcb/\xc0\xbe</a>",
            b"<a>\xed\xa0\x80</a>",
        ):
            self.assertRaises(XmlError, parse, data)

    def test_limit(self) -> None:
        """The limit is one of bytes, and given by the caller."""
        self.assertEqual(parse("<a>ää</a>", limit=11).text, "ää")
        self.assertRaises(XmlError, parse, "<a>ää</a>", limit=10)


class ReadTest(SynchronousTestCase):
    """What is read."""

    def test_tree(self) -> None:
        """Elements, attributes and texts are what they are, comments and sections nothing of their own."""
        root = parse(
            "<?xml version='1.0' encoding='utf-8'?><!-- one -->\n"
            "<a b='1 &amp; 2'>x<c/><!-- two -->y<![CDATA[<z>]]>&lt;<c d='3'>&#65;</c></a>\n"
        )
        self.assertEqual((root.name, root.get("b"), root.text), ("a", "1 & 2", "xy<z><"))
        self.assertEqual([(child.name, child.text) for child in root.children], [("c", ""), ("c", "A")])
        self.assertEqual(root.get("none"), "")
        self.assertEqual(root.words("c"), "")
        self.assertEqual(root.words("none"), "")
        self.assertIsNone(root.find("none"))
        self.assertEqual([child.get("d") for child in root.all("c")], ["", "3"])

    def test_namespaces(self) -> None:
        """What is in a namespace has another name, however its prefix is called."""
        root = parse("<a xmlns:x='urn:x'><x:a x:b='1' b='2'/><a xmlns='urn:x'/><a/></a>")
        self.assertEqual([child.name for child in root.children], ["{urn:x}a", "{urn:x}a", "a"])
        self.assertEqual(root.children[0].attributes, {"{urn:x}b": "1", "b": "2"})
        self.assertIsNotNone(root.find("a"))

    def test_bounds(self) -> None:
        """What is at its bounds passes."""
        parse("<a>" * DEPTH + "</a>" * DEPTH)
        parse(f"<a>{'<b/>' * (ELEMENTS - 1)}</a>")
        parse(f"<a b='{'x' * LONGEST}'>{'x' * LONGEST}</a>")

    @settings(max_examples=200, deadline=None)
    @given(st.one_of(st.text(), st.text("<>/&;!?[]'\"= ax:-", max_size=60), st.binary(max_size=60)))
    def test_anything(self, text: str | bytes) -> None:
        """Whatever comes is a tree or an :class:`XmlError`."""
        try:
            self.assertIsInstance(parse(text), Node)
        except XmlError:
            pass

    @settings(max_examples=100, deadline=None)
    @given(
        st.recursive(
            st.builds(
                lambda text: Node("x", {}, (), text),
                st.text(st.characters(codec="utf-8", exclude_categories=["C"])),
            ),
            lambda inner: st.builds(
                lambda children, value: Node("y", {"v": value}, tuple(children), ""),
                st.lists(inner, max_size=3),
                st.text(st.characters(codec="utf-8", exclude_categories=["C"])),
            ),
            max_leaves=8,
        )
    )
    def test_round(self, tree: Node) -> None:
        """What is written is read as it was."""
        self.assertEqual(parse(_write(tree)), tree)


def _write(node: Node) -> str:
    attributes = "".join(f" {name}={quoteattr(value)}" for name, value in node.attributes.items())
    inside = escape(node.text) + "".join(map(_write, node.children))
    return f"<{node.name}{attributes}>{inside}</{node.name}>"
