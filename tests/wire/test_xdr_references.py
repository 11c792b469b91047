"""Lists of references, whose meaning is kept."""

from __future__ import annotations

from decimal import Decimal
from struct import error as struct_error
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire.libvirt_schema import procedure, record
from gateway.wire.xdr import STRING, Array, Codec, Fixed, Struct, Text, XdrError
from gateway.wire.xdr import UUID as UUID_CODEC
from gateway.wire.xdr_references import KEPT, SHORT, Reference, References

DOM, MOST = record("Dom"), 5
UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
_NAMES = st.sampled_from(("", "a", "abcd", "\u20ac", "\udcff", "x" * SHORT, "y" * (SHORT + 1)))


def references() -> References:
    """Those of domains, which know none yet."""
    made = References.of(DOM, MOST)
    assert made is not None
    return made


def outcome(codec: Codec, data: bytes) -> Any:
    """What is read, or the text of the error."""
    try:
        return codec.decode(data, 0)
    except XdrError as error:
        return str(error)
    except struct_error:
        return "it is cut short"


def packed(struct: Struct, value: Any) -> bytes | tuple[str, str]:
    """What is written, or the error."""
    try:
        return struct.pack(value)
    except XdrError as error:
        return error.path, error.text


class ReferenceTests(SynchronousTestCase):
    """The same bytes as of any other struct."""

    PLAIN = Struct(DOM.fields, {"name": Text(), "uuid": UUID_CODEC, "id": Fixed("i")})
    _STRANGE: st.SearchStrategy[Any] = (
        st.none() | st.booleans() | st.floats() | st.binary(max_size=3) | st.just([]) | st.just({})
    )

    @settings(max_examples=300, deadline=None)
    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "name": _NAMES | _STRANGE | st.just("a\0b"),
                "uuid": st.sampled_from((UUID, UUID.upper(), UUID[1:], UUID + "0")) | _STRANGE,
                "id": st.sampled_from((0, 1, -1, 2**31, True, False, 1.0)) | _STRANGE,
                "more": st.just(1),
            },
        )
        | st.sampled_from((None, [], "Dom", 3))
    )
    def test_any_value(self, value: Any) -> None:
        """Whatever the value is, and whatever was written before it, so is the outcome."""
        self.assertIsInstance(DOM, Reference)
        self.assertEqual(packed(DOM, value), packed(self.PLAIN, value))

    def test_equal(self) -> None:
        """What is equal to a good value is not for that good itself."""
        good = {"name": "a", "uuid": UUID, "id": 1}
        self.assertEqual(packed(DOM, good), packed(self.PLAIN, good))
        for same in (1.0, Decimal(1)):
            self.assertEqual(packed(DOM, good | {"id": same})[0], "id")

    def test_bounded(self) -> None:
        """Long names are not kept, nor what is refused, and there is an end to the others."""
        made = Reference(self.PLAIN.fields, {"name": Text(), "uuid": UUID_CODEC, "id": Fixed("i")})
        for number in range(KEPT + 10):
            made.pack({"name": "a", "uuid": UUID, "id": number})
        self.assertEqual(made.kept, KEPT)
        made = Reference(self.PLAIN.fields, {"name": Text(), "uuid": UUID_CODEC, "id": Fixed("i")})
        made.pack({"name": "x" * (SHORT + 1), "uuid": UUID, "id": 1})
        packed(made, {"name": "a", "uuid": "x" * 1000, "id": 1})
        self.assertEqual(made.kept, 0)


class ReferencesTests(SynchronousTestCase):
    """The same as of any other list."""

    @settings(max_examples=300, deadline=None)
    @given(st.lists(_NAMES, max_size=MOST + 1), st.data())
    def test_any_bytes(self, names: list[str], data: st.DataObject) -> None:
        """Whatever the bytes are, and whatever was read before them, the outcome is the same."""
        plain, ours = Array(DOM, MOST + 1), references()
        good = bytearray()
        plain.encode([{"name": name, "uuid": UUID, "id": -1} for name in names], good)
        self.assertEqual(outcome(ours, bytes(good)), outcome(Array(DOM, MOST), bytes(good)))
        bad = good[: data.draw(st.integers(0, len(good)))] if data.draw(st.booleans()) else good
        for _ in range(data.draw(st.integers(0, 3))):
            if bad:
                bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
        self.assertEqual(outcome(ours, bytes(bad)), outcome(Array(DOM, MOST), bytes(bad)))

    def test_strict(self) -> None:
        """No other passes for one that is known: not with padding filled, a NUL, or too long."""
        ours, good = references(), bytearray()
        ours.encode([{"name": "abc", "uuid": UUID, "id": 7}], good)
        self.assertEqual(ours.decode(bytes(good), 0)[0][0]["id"], 7)
        for at, octet in ((11, 1), (10, 0), (7, 5)):
            bad = bytearray(good)
            bad[at] = octet
            self.assertNotIsInstance(outcome(ours, bytes(bad)), tuple)
        for length in (STRING + 1, 2**32 - 1, 2**31):
            wire = b"\0\0\0\1" + length.to_bytes(4, "big") + bytes(64)
            self.assertRaises((XdrError, struct_error), ours.decode, wire, 0)

    def test_own(self) -> None:
        """What is given is the caller's, who may change it."""
        ours, wire = references(), bytearray()
        ours.encode([{"name": "abc", "uuid": UUID, "id": 7}] * 2, wire)
        first, second = ours.decode(bytes(wire), 0)[0]
        first["name"] = second["name"] = "changed"
        self.assertEqual([it["name"] for it in ours.decode(bytes(wire), 0)[0]], ["abc", "abc"])

    def test_bounded(self) -> None:
        """There is an end to what is kept, and long names are not."""
        ours = references()
        for number in range(KEPT + 10):
            wire = bytearray()
            ours.encode([{"name": "a", "uuid": UUID, "id": number}], wire)
            ours.decode(bytes(wire), 0)
        self.assertEqual(ours.kept, KEPT)
        ours, wire = references(), bytearray()
        ours.encode([{"name": "x" * (SHORT + 1), "uuid": UUID, "id": 1}], wire)
        ours.decode(bytes(wire), 0)
        self.assertEqual(ours.kept, 0)

    def test_which(self) -> None:
        """Domains, networks and pools are such references, and what has more texts is none."""
        for name in (
            "CONNECT_LIST_ALL_DOMAINS",
            "CONNECT_LIST_ALL_NETWORKS",
            "CONNECT_LIST_ALL_STORAGE_POOLS",
        ):
            self.assertIsInstance(procedure(name).results.steps[0].codec, References)
        for name in ("Vol", "Iface", "NodeDev", "Secret", "Snap"):
            self.assertIsNone(References.of(record(name), MOST))
        self.assertIsNone(References.of(Text(), MOST))
        self.assertIsNone(References.of(Struct({}, {}), MOST))
