"""Values, and the bytes that stand for them."""

from __future__ import annotations

from base64 import b64encode
from typing import Any, ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire import xdr
from gateway.wire.xdr import Codec, Struct, XdrError
from gateway.wire.xdr_parameter import Parameter

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"


class CodecCase(SynchronousTestCase):
    """What all of them share."""

    def same(self, codec: Codec, value: Any, wire: str) -> None:
        """*value* and *wire*, in hexadecimal, are each other's."""
        struct = Struct({"it": "it"}, {"it": codec})
        self.assertEqual(struct.pack({"it": value}), bytes.fromhex(wire))
        self.assertEqual(struct.unpack(bytes.fromhex(wire)), {"it": value})

    def refuses_value(self, codec: Codec, value: Any, path: str = "it") -> None:
        """*value* cannot be written, alone or among others."""
        for fields in ({"it": codec}, {"a": xdr.Fixed("i"), "it": codec, "z": xdr.Fixed("i")}):
            struct = Struct(dict.fromkeys(fields, ""), fields)
            failure = self.assertRaises(XdrError, struct.pack, dict.fromkeys(fields, 0) | {"it": value})
            self.assertEqual(failure.path, path)

    def refuses_bytes(self, codec: Codec, wire: str) -> None:
        """*wire* is no value."""
        struct = Struct({"it": "it"}, {"it": codec})
        self.assertRaises(XdrError, struct.unpack, bytes.fromhex(wire))


class FixedTest(CodecCase):
    """Values of fixed size."""

    def test_numbers(self) -> None:
        """Numbers are big-endian and have their limits; nothing else passes for one."""
        for letter, low, high in (("i", -(2**31), 2**31 - 1), ("I", 0, 2**32 - 1), ("Q", 0, 2**64 - 1)):
            size = 8 if letter == "Q" else 4
            for value in (low, high):
                wire = value.to_bytes(size, "big", signed=letter == "i").hex()
                self.same(xdr.Fixed(letter), value, wire)
            for bad in (low - 1, high + 1, 1.0, "1", None, b"1", ()):
                self.refuses_value(xdr.Fixed(letter), bad)
        self.same(xdr.Fixed("d"), -2.5, "c004000000000000")
        for bad in ("1", None, 10**400):
            self.refuses_value(xdr.Fixed("d"), bad)

    def test_small(self) -> None:
        """What has more room on the wire than it may use is held to its limits both ways."""
        small = xdr.between("I", 0, 255)
        self.same(small, 255, "000000ff")
        for bad in (256, -1, "1", None, 1.5):
            self.refuses_value(small, bad)
        self.refuses_bytes(small, "00000100")
        self.same(xdr.between("i", -128, 127), -128, "ffffff80")

    def test_uuid(self) -> None:
        """A uuid is sixteen bytes, and exactly 36 characters."""
        self.same(xdr.UUID, UUID, UUID.replace("-", ""))
        struct = Struct({"it": ""}, {"it": xdr.UUID})
        self.assertEqual(struct.pack({"it": UUID.upper()}), bytes.fromhex(UUID.replace("-", "")))
        bad = (
            UUID.replace("-", ""),
            UUID[:-1],
            UUID + "\n",
            " " + UUID[1:],
            UUID[:-1] + "g",
            UUID[:-2] + " 1",
        )
        strange: list[object] = [UUID.encode(), None, 5, [], {}]
        for value in (*bad, UUID[:-1] + "\u0661", *strange):
            self.refuses_value(xdr.UUID, value)
        self.refuses_bytes(xdr.UUID, "00" * 15)


class LengthTest(CodecCase):
    """Values that say how long they are."""

    def test_text(self) -> None:
        """Text is padded with zeroes, and what is no UTF-8 comes back as it went."""
        self.same(xdr.Text(), "", "00000000")
        self.same(xdr.Text(), "abcde", "00000005 6162636465000000")
        self.same(xdr.Text(), "\u20ac", "00000003 e282ac00")
        self.same(xdr.Text(), "\udcff", "00000001 ff000000")
        for bad in (b"a", None, 1, "a\0b", "\ud800", "x" * (xdr.STRING + 1)):
            self.refuses_value(xdr.Text(), bad)

    def test_text_bytes(self) -> None:
        """Padding, NULs, and lengths that lie are refused."""
        bad = (
            "00000005 6162636465000001",
            "00000002 61000000",
            "00000005 61626364",
            "00000005 6162636465",
            "0000",
        )
        for wire in (*bad, "00400001" + "61" * 4, "ffffffff 61626364", "7fffffff", "fffffffc"):
            self.refuses_bytes(xdr.Text(), wire)

    def test_opaque(self) -> None:
        """Bytes may be given as base64, which is how JSON has them; anything else is an error."""
        codec = xdr.Opaque(4)
        self.same(codec, b"\0\xff\0", "00000003 00ff0000")
        struct = Struct({"it": ""}, {"it": codec})
        for same in (bytearray(b"\0\xff"), memoryview(b"\0\xff"), b64encode(b"\0\xff").decode()):
            self.assertEqual(struct.pack({"it": same}), bytes.fromhex("00000002 00ff0000"))
        for bad in (b"12345", "****", "\u20ac", "YQ", 7, None):
            self.refuses_value(codec, bad)
        self.refuses_bytes(codec, "00000005 0102030405000000")

    def test_characters(self) -> None:
        """Each takes four bytes, with its sign; a fixed number of them has no length."""
        self.same(xdr.Characters(4, fixed=False), b"a\x80", "00000002 00000061 ffffff80")
        self.same(xdr.Characters(2, fixed=True), b"a\0", "00000061 00000000")
        self.refuses_value(xdr.Characters(2, fixed=True), b"a")
        self.refuses_value(xdr.Characters(2, fixed=False), b"abc")
        self.refuses_bytes(xdr.Characters(2, fixed=False), "00000003" + "00000061" * 3)
        self.refuses_bytes(xdr.Characters(2, fixed=False), "00000002 00000061 000000")
        self.refuses_bytes(xdr.Characters(2, fixed=True), "00000061")

    def test_lists(self) -> None:
        """A list has at most as many as the table says, and an error in it says which one."""
        numbers = xdr.Array(xdr.Fixed("I"), 2)
        self.same(numbers, [1, 2], "00000002 00000001 00000002")
        self.refuses_value(numbers, [1, 2, 3])
        self.refuses_value(numbers, [1, -2], "it.1")
        bad: object
        for bad in ({}, "ab", None, 3):
            self.refuses_value(numbers, bad)
        for wire in ("00000003" + "00000001" * 3, "ffffffff", "00000002 00000001", "80000000 00000000"):
            self.refuses_bytes(numbers, wire)

    def test_maybe(self) -> None:
        """There is one or none; a union of anything else is refused."""
        maybe = xdr.Maybe(xdr.Fixed("I"))
        self.same(maybe, None, "00000000")
        self.same(maybe, 7, "00000001 00000007")
        for wire in ("00000002 00000007", "00000001", "00000001 0000", "ffffffff 00000007", ""):
            self.refuses_bytes(maybe, wire)


class StructTest(CodecCase):
    """Named values."""

    INNER = Struct({"c": "u32"}, {"c": xdr.Fixed("I")})
    OUTER = Struct(
        {"a": "i32", "u": "uuid", "t": "str", "b": "u64", "s": "S"},
        {"a": xdr.Fixed("i"), "u": xdr.UUID, "t": xdr.Text(), "b": xdr.Fixed("Q"), "s": INNER},
    )
    GOOD: ClassVar[dict[str, Any]] = {"a": -1, "u": UUID, "t": "x", "b": 2, "s": {"c": 3}}

    def test_order(self) -> None:
        """Members come in the order of the table, whatever that of the dict."""
        wire = f"ffffffff{UUID.replace('-', '')} 0000000178000000 0000000000000002 00000003"
        self.assertEqual(self.OUTER.pack(dict(reversed(self.GOOD.items()))), bytes.fromhex(wire))
        self.assertEqual(self.OUTER.unpack(bytes.fromhex(wire)), self.GOOD)

    def test_path(self) -> None:
        """An error says which member it is about: missing, unknown, or of the wrong type."""
        for change, path in (
            ({"a": "x"}, "a"),
            ({"u": "x"}, "u"),
            ({"b": -1}, "b"),
            ({"s": {"c": "x"}}, "s.c"),
            ({"s": {}}, "s.c"),
            ({"s": []}, "s"),
            ({"more": 1}, "more"),
            ({"s": {"c": 1, "d": 2}}, "s.d"),
        ):
            self.assertEqual(self.assertRaises(XdrError, self.OUTER.pack, self.GOOD | change).path, path)
        for name in self.GOOD:
            short = {key: value for key, value in self.GOOD.items() if key != name}
            self.assertEqual(self.assertRaises(XdrError, self.OUTER.pack, short).path, name)
        bad: Any
        for bad in (None, [], "x", 3):
            self.assertRaises(XdrError, self.OUTER.pack, bad)

    def test_whole(self) -> None:
        """Nothing may be left over, and nothing may be missing."""
        wire = self.OUTER.pack(self.GOOD)
        self.assertRaises(XdrError, self.OUTER.unpack, wire + b"\0\0\0\0")
        for cut in range(len(wire)):
            self.assertRaises(XdrError, self.OUTER.unpack, wire[:cut])
        self.assertEqual(Struct({}, {}).pack({}), b"")
        self.assertEqual(Struct({}, {}).unpack(b""), {})


class ParameterTest(CodecCase):
    """Typed parameters."""

    def test_kinds(self) -> None:
        """Each kind has its number."""
        for number, (kind, value, wire) in enumerate(
            (
                ("int", -1, "ffffffff"),
                ("uint", 1, "00000001"),
                ("llong", -1, "ff" * 8),
                ("ullong", 1, "00" * 7 + "01"),
                ("double", 1.0, "3ff0000000000000"),
                ("boolean", True, "00000001"),
                ("string", "a", "0000000161000000"),
            ),
            1,
        ):
            value = {"field": "f", "type": kind, "value": value}
            self.same(Parameter(), value, f"0000000166000000 0000000{number} {wire}")

    def test_refused(self) -> None:
        """Unknown kinds, values of another kind, and members too many or few are refused."""
        for value, path in (
            ({"field": "f", "type": "int"}, "it"),
            ({"field": "f", "type": "int", "value": 1, "x": 1}, "it"),
            ({"field": "f", "type": "long", "value": 1}, "it.type"),
            ({"field": "f", "type": [], "value": 1}, "it.type"),
            ({"field": 1, "type": "int", "value": 1}, "it.field"),
            ({"field": "f", "type": "int", "value": "1"}, "it.value"),
            ({"field": "f", "type": "boolean", "value": 2}, "it.value"),
            ({"field": "f", "type": "boolean", "value": "x"}, "it.value"),
            ({"field": "f", "type": "string", "value": 1}, "it.value"),
            ([], "it"),
        ):
            self.refuses_value(Parameter(), value, path)
        for wire in (
            "00000000 00000000",
            "00000008 00000000",
            "ffffffff 00000000",
            "00000006 00000002",
            "00000001",
        ):
            self.refuses_bytes(Parameter(), f"0000000166000000 {wire}")


class FuzzTest(SynchronousTestCase):
    """Anything."""

    @given(st.binary(max_size=80))
    @settings(max_examples=300, deadline=None)
    def test_bytes(self, data: bytes) -> None:
        """Any bytes are a value, which has those bytes again, or an XdrError."""
        # NaN is equal to nothing, but its bytes are to themselves.
        struct = Struct(
            {"p": "", "m": ""}, {"p": xdr.Array(Parameter(), 5), "m": xdr.Maybe(StructTest.OUTER)}
        )
        try:
            value = struct.unpack(data)
        except XdrError:
            return
        self.assertEqual(struct.pack(value), data)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("autbsc"), inner),
            max_leaves=12,
        )
    )
    @settings(max_examples=120, deadline=None)
    def test_values(self, value: Any) -> None:
        """Any value of JSON becomes bytes, or is an XdrError."""
        for struct in (StructTest.OUTER, Struct({"it": ""}, {"it": xdr.Array(Parameter(), 5)})):
            for one in (value, StructTest.GOOD | {"u": value, "b": value}, {"it": [value]}):
                try:
                    struct.pack(one)
                except XdrError:
                    continue
