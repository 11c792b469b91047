"""The table of commands, strict arguments, and errors that travel whole."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.errors import GatewayError
from gateway.rpc import commands
from gateway.rpc.arguments import Argument, Big
from gateway.rpc.command import CODES, Command, describe, rebuild
from gateway.wire.amp_box import pack
from gateway.wire.libvirt_error import LibvirtError

#: What the interface fixes: command, its arguments, and which of them may be left out.
FIXED = """
Login: token
Version:
Targets:
Open: target name? readonly? ttl? uri?
Close: handle
Handles:
GetVersion GetType GetHostname GetUri GetNodeInfo GetCapabilities: handle
ListDomains: handle flags? cursor? limit?
Lookup: handle name? uuid? id?
Define Create: handle xml flags? request_id?
Undefine Start Shutdown Reboot Reset Destroy Suspend Resume: dom flags? request_id?
SetAutostart: dom on flags? request_id?
GetInfo GetState GetXml: dom flags?
ListSnapshots: dom flags? cursor? limit?
ListNetworks ListPools: handle flags? cursor? limit?
ListVolumes: pool flags? cursor? limit?
Call: handle proc args? xdr? deadline? request_id?
Subscribe: handle kinds dom? from_seq?
Unsubscribe: sub
Ack: sub seq
Event: sub seq time kind dom payload
Console Graphics Screenshot: dom options?
VolUpload VolDownload: pool volume size? options?
Cancel: request_id
AddTicket: ticket
RenewTicket: id timeout urls?
GetTicket EndSession: id
Drain Reload:
Audit: from? limit?
"""

ERRORS: list[GatewayError] = [
    LibvirtError(42, 10, "Domain not found", 2, ("a", "b", None), (7, -1)),
    errors.Denied("domain:start", "web"),
    errors.Unauthenticated(),
    errors.Expired(),
    errors.NoHandle(),
    errors.NoTarget(),
    errors.TargetDown(retry_after=2.5),
    errors.Interrupted(maybe_executed=True),
    errors.Interrupted(maybe_executed=False),
    errors.DeadlinePassed(maybe_executed=False),
    errors.Busy("full", retry_after=7),
    errors.TooLarge("xml: too long", limit=4096),
    errors.BadArguments("params.3.value", "not a number"),
    errors.BadArguments("", "no JSON"),
]


def public(error: GatewayError) -> tuple[Any, ...]:
    return type(error), error.text, dict(error.details), error.word, error.status


class TableTests(SynchronousTestCase):
    def test_fixed(self) -> None:
        """Commands have exactly the names and arguments of the interface."""
        for line in FIXED.strip().splitlines():
            names, _, wanted = line.partition(":")
            for name in names.split():
                command = commands.COMMANDS[name.encode()]
                found = [key.decode() + "?" * it.optional for key, it in command.arguments]
                self.assertEqual(found, wanted.split(), name)

    def test_all(self) -> None:
        """Every command has its class name as name, says what it is for, and has types of ours only."""
        for name, command in commands.COMMANDS.items():
            self.assertEqual(command.__name__.encode(), name)
            self.assertTrue(command.__doc__)
            for key, it in [*command.arguments, *command.response]:
                self.assertIsInstance(it, Argument)
                self.assertNotIn(b".", key)
                self.assertFalse(key.startswith(b"_"))

    def test_writes(self) -> None:
        """What takes a request_id changes something, and what only reads takes none."""
        for name, command in commands.COMMANDS.items():
            if name != b"Cancel" and b"request_id" in dict(command.arguments):
                self.assertTrue(command.writes, name)
            if name.startswith((b"Get", b"List", b"Lookup")):
                self.assertFalse(command.writes, name)

    def test_room(self) -> None:
        """Without a Big no call needs 48 KiB, and with one its cap and little more; none more than 33 MiB."""
        for command in {*commands.COMMANDS.values()} - {commands.Event}:
            bigs = sum(it.most for _, it in command.arguments if isinstance(it, Big))
            size, pairs = command.room()
            self.assertLess(size - bigs, 48 * 1024, command)
            self.assertLess(size, 33 * 1024 * 1024)
            self.assertLess(pairs, 1100)

    def test_largest_fits(self) -> None:
        """A call with every argument at its longest fits into the room of its command."""
        xml = dict(commands.Define.arguments)[b"xml"]
        assert isinstance(xml, Argument)
        box = commands.Define.makeArguments(
            {"handle": "h" * 4096, "xml": "x" * xml.most, "flags": 2**32 - 1, "request_id": "r" * 256}
        )
        box[b"_ask"], box[b"_command"] = b"f" * 16, b"Define"
        size, pairs = commands.Define.room()
        self.assertLessEqual(len(pack(box)), size)
        self.assertLessEqual(len(box), pairs)


class ArgumentTests(SynchronousTestCase):
    def refused(self, command: type[Command], path: str, box: dict[bytes, bytes]) -> None:
        with self.assertRaises(errors.BadArguments) as caught:
            command.parseArguments(box)
        self.assertEqual(caught.exception.path, path)

    def test_there_and_back(self) -> None:
        """Arguments come back, those left out as None, and ``from`` by a name Python can have."""
        for command, given_ in (
            (commands.Start, {"dom": "d", "flags": 3, "request_id": None}),
            (commands.Audit, {"from_": 5, "limit": None}),
            (commands.Open, {"target": "lab", "name": None, "readonly": True, "ttl": 60, "uri": None}),
        ):
            self.assertEqual(command.parseArguments(command.makeArguments(given_)), given_)

    def test_strict(self) -> None:
        """An argument that is missing, unknown or no good is refused by its name, and by no value."""
        self.refused(commands.Start, "dom", {})
        self.refused(commands.Start, "flags", {b"dom": b"d", b"flags": b"-1"})
        # A misspelt one must not be taken for one that was left out.
        self.refused(commands.Open, "read_only", {b"target": b"lab", b"read_only": b"True"})
        self.refused(commands.Define, "xml", {b"handle": b"h", b"xml": b"a", b"xml.2": b"b"})
        self.refused(commands.Start, "dom", {b"dom": b"\xff"})

    def test_own_mistake(self) -> None:
        """The caller's side refuses what the other one would."""
        for wrong in ({}, {"dom": "d", "read_only": True}, {"dom": 5}):
            self.assertRaises(errors.BadArguments, commands.Start.makeArguments, wrong)
        with self.assertRaises(errors.TooLarge):
            commands.Define.makeArguments({"handle": "h", "xml": "x" * (4 * 1024 * 1024 + 1)})

    def test_answer(self) -> None:
        """An answer may have members that we do not know; one without those that we do is none."""
        self.assertEqual(commands.Start.parseResponse({b"id": b"3", b"new": b"x"}), {"id": 3})
        self.assertRaises(errors.UpstreamFailed, commands.Start.parseResponse, {})
        self.assertRaises(errors.UpstreamFailed, commands.GetXml.parseResponse, {b"xml": b"", b"xml.2": b""})


class ErrorTests(SynchronousTestCase):
    def test_rebuilt(self) -> None:
        """Every error of the interface comes out as it went in."""
        for error in ERRORS:
            again = rebuild(error.word.upper().encode(), describe(error))
            self.assertEqual(public(again), public(error))
        error = rebuild(b"LIBVIRT", describe(ERRORS[0]))
        assert isinstance(error, LibvirtError)
        self.assertEqual((error.strings, error.numbers), (("a", "b", None), (7, -1)))

    def test_all_words(self) -> None:
        """There is a code for each error there is, and each can be rebuilt from nothing."""
        for word, kind in CODES.items():
            for description in (b"", b"{}", b"[]", b"\xff", b'{"text": 5, "retry_after": "x", "code": true}'):
                self.assertIsInstance(rebuild(word, description), kind)
        for name in [
            "LIBVIRT",
            "DENIED",
            "UNAUTHENTICATED",
            "EXPIRED",
            "NO_HANDLE",
            "NO_TARGET",
            "TARGET_DOWN",
            "INTERRUPTED",
            "DEADLINE",
            "BUSY",
            "TOO_LARGE",
            "BAD_ARGS",
            "INTERNAL",
        ]:
            self.assertIn(name.encode(), CODES)

    def test_unknown(self) -> None:
        """A code of another time is a failure with that reason and its text."""
        error = rebuild(b"NEW_TROUBLE", b'{"text": "what"}')
        self.assertEqual((type(error), error.text, error.reason), (GatewayError, "what", "new_trouble"))
        self.assertEqual(rebuild(b"BUSY", "no JSON at all").text, "no JSON at all")

    def test_doubt(self) -> None:
        """Where nobody says that nothing was executed, it may have been."""
        for description in (b"{}", b'{"maybe_executed": 0}', b"x"):
            error = rebuild(b"INTERRUPTED", description)
            assert isinstance(error, errors.Interrupted)
            self.assertTrue(error.maybe_executed)

    @settings(max_examples=60, deadline=None)
    @given(st.text(max_size=40), st.integers(1, 3000))
    def test_any_text(self, text: str, times: int) -> None:
        """However long a text is, and of whatever it is made, its description fits into a value."""
        long = text * times + "\udcff"
        said = describe(LibvirtError(1, 0, long, 2, (long, long, long)), incident="1")
        self.assertLessEqual(len(said), 65535)
        self.assertIsInstance(rebuild(b"LIBVIRT", said), LibvirtError)
        self.assertEqual(rebuild(b"LIBVIRT", said).text[:5], long[:5].replace("\udcff", "?"))

    @settings(max_examples=200, deadline=None)
    @given(st.sampled_from(sorted(CODES)), st.binary(max_size=200))
    def test_noise(self, word: bytes, noise: bytes) -> None:
        """No description makes :func:`rebuild` fail."""
        self.assertIsInstance(rebuild(word, noise), GatewayError)
