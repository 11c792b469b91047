"""The table of procedures, and the codecs made from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire.libvirt_schema import PROCEDURES, PROGRAMS, names, procedure, record
from gateway.wire.xdr import Struct, XdrError
from tests.wire.libvirt_values import structs

STRUCTS = [struct for each in PROCEDURES.values() for struct in (each.arguments, each.results)]
_QUIET = settings(
    max_examples=2,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class TableTest(SynchronousTestCase):
    """What the table holds."""

    def test_complete(self) -> None:
        """All numbers of the main program are there, and those of the other two."""
        for program, last in (("remote", 453), ("qemu", 7), ("lxc", 1)):
            numbers = [number for which, number in PROCEDURES if which == PROGRAMS[program]]
            self.assertEqual(numbers, [*range(1, last + 1)])
        self.assertEqual(len(set(names())), 461)

    def test_names(self) -> None:
        """A name finds its procedure; those of other programs say whose they are."""
        for key, each in PROCEDURES.items():
            self.assertIs(procedure(each.name), each)
            self.assertEqual((each.program, each.number), key)
            prefix = next(name for name, number in PROGRAMS.items() if number == each.program)
            self.assertEqual(each.name.startswith(("QEMU_", "LXC_")), prefix != "remote", each.name)
        self.assertRaises(KeyError, procedure, "DOMAIN_MAKE_COFFEE")

    def test_bounds(self) -> None:
        """Whatever has a length has a limit, and none is beyond what a message holds."""
        for struct in STRUCTS:
            for text in struct.fields.values():
                if found := re.search(r"<=(\d+)", text):
                    self.assertLessEqual(int(found[1]), 8_388_608)
                else:
                    self.assertRegex(text, r"^(\{\w+\}|[A-Za-z]\w*)(\?|\[32\])?$")
                    self.assertNotIn(text, {"opaque", "TP"})

    def test_flags(self) -> None:
        """Flags make sense together, and a few procedures have those that are known of them."""
        for each in PROCEDURES.values():
            self.assertIn(each.writes, {"", "w", "W"})
            self.assertIn(each.stream, {"", "r", "w"})
            if each.event:
                self.assertFalse(each.stream or each.writes or each.results.fields, each.name)
            if each.sparse:
                self.assertTrue(each.stream)
        streams = {each.name: each.stream for each in PROCEDURES.values() if each.stream}
        self.assertEqual(streams["STORAGE_VOL_UPLOAD"], "w")
        self.assertEqual(streams["DOMAIN_OPEN_CONSOLE"], "r")
        self.assertEqual(len(streams), 7)
        for name in (
            "DOMAIN_CREATE",
            "DOMAIN_DESTROY",
            "QEMU_DOMAIN_MONITOR_COMMAND",
            "LXC_DOMAIN_OPEN_NAMESPACE",
        ):
            self.assertEqual(procedure(name).writes, "W")
        for name in ("DOMAIN_GET_INFO", "CONNECT_LIST_ALL_DOMAINS", "CONNECT_OPEN"):
            self.assertEqual(procedure(name).writes, "")
        self.assertTrue(procedure("DOMAIN_DESTROY").priority)
        self.assertFalse(procedure("DOMAIN_GET_INFO").priority)
        self.assertEqual(procedure("DOMAIN_CREATE").permissions, ("domain:start",))

    def test_golden(self) -> None:
        """The first message of every client, and the answer to it, as libvirt has them."""
        self.assertEqual(procedure("AUTH_LIST").arguments.pack({}), b"")
        self.assertEqual(
            procedure("AUTH_LIST").results.unpack(bytes.fromhex("0000000100000000")), {"types": [0]}
        )
        node = {"model": b"x86_64".ljust(32, b"\0"), "memory": 1, "cpus": 2, "mhz": 3}
        rest = {"nodes": 1, "sockets": 1, "cores": 2, "threads": 1}
        self.assertEqual(len(procedure("NODE_GET_INFO").results.pack(node | rest)), 32 * 4 + 8 + 6 * 4)


class RoundTripTest(SynchronousTestCase):
    """Every type of the table."""

    def _round(self, struct: Struct, value: dict[str, object]) -> None:
        wire = struct.pack(value)
        self.assertEqual(len(wire) % 4, 0)
        self.assertEqual(struct.unpack(wire), value)
        if wire:
            self.assertRaises(XdrError, struct.unpack, wire[:-1])
        self.assertRaises(XdrError, struct.unpack, wire + b"\0")

    def _all(self, structs_of_all: Iterable[Struct]) -> None:
        """Many have the same types, and differ in names only."""
        alike: dict[tuple[str, ...], list[Struct]] = {}
        for struct in structs_of_all:
            alike.setdefault(tuple(struct.fields.values()), []).append(struct)
        for group in alike.values():
            self._group(group)

    def _group(self, group: Sequence[Struct]) -> None:
        @given(structs(group[0]))
        @_QUIET
        def check(value: dict[str, object]) -> None:
            for struct in group:
                names = zip(struct.fields, group[0].fields, strict=True)
                self._round(struct, {own: value[other] for own, other in names})

        check()

    def test_arguments(self) -> None:
        """What a procedure takes, and what an event tells, goes and comes back; to its last byte."""
        self._all(each.arguments for each in PROCEDURES.values())

    def test_results(self) -> None:
        """So does what a procedure gives."""
        self._all(each.results for each in PROCEDURES.values())

    @given(st.data(), st.binary(max_size=200))
    @settings(max_examples=200, deadline=None)
    def test_any_bytes(self, data: st.DataObject, wire: bytes) -> None:
        """Any bytes are refused with an XdrError, or mean something."""
        struct = data.draw(st.sampled_from(STRUCTS))
        try:
            value = struct.unpack(wire)
        except XdrError:
            return
        struct.pack(value)

    def test_records(self) -> None:
        """A reference is known by its name; an error and a hole are records, too."""
        self.assertEqual(list(record("Dom").fields), ["name", "uuid", "id"])
        self.assertEqual(record("Snap").fields["dom"], "Dom")
        self.assertEqual(len(record("{error}").fields), 11)
        self.assertEqual(list(record("{hole}").fields), ["length", "flags"])
        self.assertRaises(KeyError, record, "Cat")
