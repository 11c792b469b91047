"""Calls of a client on a wire in memory: each has its own answer, once, or fails."""

from __future__ import annotations

from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.rpc import commands
from gateway.rpc.amp import Limits
from gateway.rpc.client_side import Side
from gateway.wire.amp_box import pack
from tests.rpc.test_amp import Wire, boxes


class SideTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.side = Side(Clock(), {}, Limits(login=None))
        self.side.admit({})
        self.wire = Wire()
        self.side.makeConnection(self.wire)

    def answer(self, tag: bytes, **members: bytes) -> None:
        box = {name.encode("ascii"): value for name, value in members.items()}
        self.side.dataReceived(pack({b"_answer": tag, **box}))

    def test_own_answer(self) -> None:
        """Answers come in any order, each to who asked for it."""
        asked = [self.side.ask(commands.GetType, {"handle": "h"}) for _ in range(2)]
        first, second = (box[b"_ask"] for box in boxes(self.wire.value()))
        self.answer(second, type=b"two")
        self.answer(first, type=b"one")
        self.assertEqual([self.successResultOf(it) for it in asked], [{"type": "one"}, {"type": "two"}])

    def test_once(self) -> None:
        """Who answers what was not asked, or what was answered, is cut off."""
        asked = self.side.ask(commands.GetType, {"handle": "h"})
        self.answer(b"1", type=b"QEMU")
        self.successResultOf(asked)
        self.assertFalse(self.wire.aborting)
        self.answer(b"1", type=b"QEMU")
        self.assertTrue(self.wire.aborting)

    def test_given_up(self) -> None:
        """An answer that nobody waits for any more does nothing."""
        asked = self.side.ask(commands.GetType, {"handle": "h"})
        asked.addErrback(lambda _: None).cancel()
        self.answer(b"1", type=b"QEMU")
        self.assertFalse(self.wire.aborting)

    def test_refused(self) -> None:
        """A refusal is the error it was; so is that of an unknown command, and of an answer that is none."""
        for box, kind in (
            ({b"_error_code": b"NO_HANDLE", b"_error_description": b"{}"}, errors.NoHandle),
            ({b"_error_code": b"UNHANDLED"}, errors.NotImplementedHere),
            ({}, errors.GatewayError),
        ):
            asked = self.side.ask(commands.GetType, {"handle": "h"})
            self.side.dataReceived(pack({b"_error": boxes(self.wire.value())[-1][b"_ask"], **box}))
            self.failureResultOf(asked, kind)
        asked = self.side.ask(commands.GetType, {"handle": "h"})
        self.answer(b"4", kind=b"QEMU")
        self.failureResultOf(asked, errors.UpstreamFailed)

    def test_lost(self) -> None:
        """With the connection all calls are lost, and no other can be made."""
        asked = [self.side.ask(commands.GetType, {"handle": "h"}) for _ in range(2)]
        self.side.connectionLost(connectionDone)
        for each in asked:
            self.failureResultOf(each, ConnectionLost)
        self.assertRaises(ConnectionLost, self.side.ask, commands.GetType, {"handle": "h"})
