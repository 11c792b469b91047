"""Tests for gateway.wire.xdr_exact."""

from __future__ import annotations

import struct

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire.libvirt_schema import PROCEDURES, procedure
from gateway.wire.xdr import Struct, XdrError
from gateway.wire.xdr_exact import is_exact
from tests.wire.libvirt_values import structs

STRUCTS = [codec for each in PROCEDURES.values() for codec in (each.arguments, each.results)]
EXACT = [codec for codec in STRUCTS if is_exact(codec) and codec.fields]
#: Words that mean something in many places.
_WORDS = (0, 1, 2, 3, 5, 7, 8, 0x7F, 0x80, 0x100, 0x7FFFFFFF, 0x80000000, 0xFFFFFF80, 0xFFFFFFFF)


class ExactTest(SynchronousTestCase):
    """What is passed on as it came is what would have been written."""

    @settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def test_same(self, data: st.DataObject) -> None:
        """Whatever is read of an exact type gives the very bytes that it was read from."""
        codec: Struct = data.draw(st.sampled_from(EXACT))
        wire = bytearray(codec.pack(data.draw(structs(codec))))
        for _ in range(data.draw(st.integers(0, 2)) if wire else 0):
            at = 4 * data.draw(st.integers(0, len(wire) // 4 - 1))
            struct.pack_into(">I", wire, at, data.draw(st.sampled_from(_WORDS)))
        try:
            values = codec.unpack(bytes(wire))
        except XdrError:
            return
        self.assertEqual(codec.pack(values), bytes(wire))

    def test_doubles(self) -> None:
        """A double that is no number comes out with all of its bits."""
        codec = procedure("DOMAIN_SET_MEMORY_PARAMETERS").arguments
        dom = {"name": "", "uuid": "11111111-1111-4111-8111-111111111111", "id": 1}
        wire = bytearray(
            codec.pack({"dom": dom, "params": [{"field": "x", "type": "double", "value": 1.5}], "flags": 0})
        )
        at = wire.index(struct.pack(">d", 1.5))
        for bits in ("7ff0000000000001", "fff8000000000123", "8000000000000000", "0000000000000001"):
            wire[at : at + 8] = bytes.fromhex(bits)
            self.assertEqual(codec.pack(codec.unpack(bytes(wire))), bytes(wire))

    def test_characters(self) -> None:
        """Characters are not exact, wherever they stand: they are read in more forms than one is written."""
        inexact = {
            each.name
            for each in PROCEDURES.values()
            if not (is_exact(each.arguments) and is_exact(each.results))
        }
        characters = {
            each.name
            for each in PROCEDURES.values()
            for kind in (*each.arguments.fields.values(), *each.results.fields.values())
            if kind.startswith(("char<", "char["))
        }
        self.assertIn("NODE_GET_INFO", characters)
        self.assertLessEqual(characters, inexact)
        info = procedure("NODE_GET_INFO").results
        wire = bytearray(info.pack(dict.fromkeys(info.fields, 0) | {"model": b"x" * 32}))
        wire[0] = 0xFF
        self.assertNotEqual(info.pack(info.unpack(bytes(wire))), bytes(wire))
