"""Sessions of libvirt clients with mistakes of every size, and a hypervisor that tells everything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rpc.libvirt_server import STRANGERS
from gateway.wire.libvirt_message import KEEPALIVE, LARGEST, PING, Message, Status, Type
from gateway.wire.libvirt_schema import PROCEDURES, procedure
from tests.rpc.fake_libvirt import FakePeer
from tests.rpc.libvirt_stage import ALICE, BOB, OTHER, Client, LibvirtStage, plain
from tests.rpc.scopes import ALL, found, sample

_BOB, _ALICE = UUID(BOB["uuid"]).bytes, UUID(ALICE["uuid"]).bytes
_VOLUME = {"pool": "p", "name": "v", "key": "/p/v"}
_SESSION: list[tuple[str, dict[str, Any]]] = [
    ("AUTH_LIST", {}),
    ("AUTH_SASL_INIT", {}),
    ("AUTH_SASL_START", plain(OTHER)),
    ("CONNECT_SUPPORTS_FEATURE", {"feature": 10}),
    ("CONNECT_OPEN", {"name": "test:///default?target=lab", "flags": 0}),
    ("CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", {"eventID": 0, "dom": None}),
    ("CONNECT_LIST_ALL_DOMAINS", {"need_results": 1, "flags": 0}),
    ("CONNECT_GET_ALL_DOMAIN_STATS", {"doms": [ALICE], "stats": 0, "flags": 0}),
    ("CONNECT_LIST_DEFINED_DOMAINS", {"maxnames": 10}),
    ("DOMAIN_LOOKUP_BY_UUID", {"uuid": ALICE["uuid"]}),
    ("DOMAIN_LOOKUP_BY_NAME", {"name": "alice-1"}),
    ("DOMAIN_GET_STATE", {"dom": ALICE, "flags": 0}),
    ("DOMAIN_SNAPSHOT_LOOKUP_BY_NAME", {"dom": ALICE, "name": "s", "flags": 0}),
    ("STORAGE_VOL_DOWNLOAD", {"vol": _VOLUME, "offset": 0, "length": 0, "flags": 0}),
    ("STORAGE_VOL_UPLOAD", {"vol": _VOLUME, "offset": 0, "length": 0, "flags": 1}),
]
_WORDS = st.sampled_from([0, 1, 2, 3, 6, 7, 28, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, LARGEST, LARGEST + 1])
#: What is done, and to which part of what.
_MISTAKES = st.lists(
    st.tuples(
        st.sampled_from(["bit", "word", "uuid", "number", "twice", "drop", "move", "longer", "stream"]),
        st.integers(0, 400),
        st.integers(0, 400),
        _WORDS,
    ),
    max_size=4,
)


class _Gossip(dict[str, Any]):
    """Answers of a hypervisor that has an answer to everything, mostly about somebody else's domain."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name) or sample(procedure(name).results, BOB)


def session() -> Iterator[Message]:
    """What a client says that makes no mistake."""
    for serial, (name, arguments) in enumerate(_SESSION):
        known = procedure(name)
        payload = known.arguments.pack(arguments)
        yield Message(known.program, 1, known.number, Type.CALL, serial, Status.OK, payload)
        if known.stream == "w":
            head = Message(known.program, 1, known.number, Type.STREAM, serial, Status.CONTINUE, b"data")
            yield from (head, head._replace(status=Status.OK, payload=b""))
    yield Message(KEEPALIVE, 1, PING, Type.EVENT, 0, Status.OK)


def mistaken(mistakes: list[tuple[str, int, int, int]]) -> list[bytes]:
    """The messages of a session with *mistakes*."""
    messages = [bytearray(message.pack()) for message in session()]
    for kind, first, second, word in mistakes:
        if not messages:
            break
        at = first % len(messages)
        it = messages[at]
        if kind == "bit":
            it[second % len(it)] ^= 1 << word % 8
        elif kind == "word":
            place = 4 * (second % (len(it) // 4))
            it[place : place + 4] = word.to_bytes(4, "big")
        elif kind == "uuid":
            it[:] = it.replace(_ALICE, _BOB)
        elif kind == "number":
            it[12:16] = (second + word % 60).to_bytes(4, "big")
        elif kind == "twice":
            messages.insert(second % len(messages), bytearray(it))
        elif kind == "drop":
            del messages[at]
        elif kind == "move":
            messages.insert(second % len(messages), messages.pop(at))
        elif kind == "longer":
            it += bytes(4 * (second % 9))
            it[:4] = len(it).to_bytes(4, "big")
        else:
            it[16:20] = (second % 8).to_bytes(4, "big")
            it[24:28] = (word % 4).to_bytes(4, "big")
    return [bytes(it) for it in messages]


class MistakeTests(LibvirtStage):
    """Nobody gains by a mistake."""

    def setUp(self) -> None:
        super().setUp()
        self.daemon.answers = _Gossip(self.daemon.answers)
        self.grant(ALL, ("alice-*",), token=OTHER)
        # The hub knows the domains from now on, so that nothing waits for it.
        self.sites.find("lab").hub.start()  # type: ignore[union-attr]  # it is known
        self.turn()

    def gossip(self, peers: list[FakePeer]) -> None:
        """Have the hypervisor tell of what happens to others, and send data."""
        for peer in peers:
            if not peer.lost:
                peer.tell("DOMAIN_EVENT_CALLBACK_LIFECYCLE", callbackID=1, dom=BOB, event=2, detail=0)
                peer.tell("DOMAIN_EVENT_CALLBACK_REBOOT", callbackID=2, dom=ALICE)

    def look(self, client: Client, heard: bytes, peers: list[FakePeer]) -> None:
        """What holds in any case."""
        self.assertNotIn(b"bob-1", heard)
        self.assertLess(client.server._reader.held, LARGEST if client.server._session.known else STRANGERS)
        for peer in peers:
            self.assertEqual([it.name for it in peer.came].count("CONNECT_OPEN"), 1)
            self.assertIn(peer.opened, [("test:///default", flags) for flags in (0, 1)])
            for asked in peer.came:
                self.assertNotIn(BOB["uuid"], set(found(asked.arguments)), asked.name)
                self.assertNotEqual(asked.name, "CONNECT_SET_IDENTITY")
        self.assertFalse(self.flushLoggedErrors())

    def run_with(self, parts: list[bytes], piece: int) -> bytes:
        """Say *parts*; return what came."""
        before = len(self.daemon.peers)
        client = self.client()
        data = b"".join(parts)
        for at in range(0, len(data), piece):
            client.feed(data[at : at + piece])
            self.turn()
        heard: bytes = client.wire.value()
        client.wire.clear()
        peers = self.daemon.peers[before:]
        self.gossip(peers)
        self.turn()
        heard += client.wire.value()
        self.look(client, heard, peers)
        client.wire.clear()
        client.leave()
        self.clients.remove(client)
        self.assertEqual([peer for peer in peers if not peer.lost], [])
        self.assertEqual(self.sessions.list(), ())
        return heard

    def test_none(self) -> None:
        """Without a mistake everything is answered, of the right domain."""
        heard = self.run_with(mistaken([]), 1 << 20)
        self.assertIn(b"alice-1", heard)
        self.assertIn(_ALICE, heard)
        names = [it.name for peer in self.daemon.peers for it in peer.came]
        self.assertEqual((names.count("DOMAIN_GET_STATE"), names.count("STORAGE_VOL_UPLOAD")), (1, 1))

    @given(_MISTAKES, st.sampled_from([1 << 20, 300, 61]))
    @settings(max_examples=150, deadline=None)
    def test_any(self, mistakes: list[tuple[str, int, int, int]], piece: int) -> None:
        """Whatever mistakes there are: no bug, nothing of others either way, nothing left behind."""
        self.run_with(mistaken(mistakes), piece)

    def test_every_number(self) -> None:
        """The same with calls made those of every other procedure, about the domain that is hidden."""
        numbers = sorted({number for _, number in PROCEDURES if number != procedure("CONNECT_CLOSE").number})
        for at in range(0, len(numbers), 7):
            changed = [("number", place, number, 0) for place, number in enumerate(numbers[at : at + 7], 6)]
            self.run_with(mistaken([*changed, *(("uuid", place, 0, 0) for place in range(6, 13))]), 1 << 20)
