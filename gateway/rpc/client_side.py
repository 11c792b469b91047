"""The client's end of a connection: calls that were sent, and wait for their answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReactorTime
from twisted.protocols import amp

from gateway import errors
from gateway.rpc.amp import BoundedAMP, Limits, Table
from gateway.rpc.command import Command, rebuild, refusal
from gateway.wire.amp_box import BoxError, pack


class Side(BoundedAMP):
    """See the module.

    :ivar farewell: why the gateway hangs up, if it said so.
    """

    def __init__(self, clock: IReactorTime, responders: Table, limits: Limits | None = None) -> None:
        super().__init__(clock, responders, limits)
        self.farewell: errors.GatewayError | None = None
        self._asked: dict[bytes, tuple[type[Command], Deferred[dict[str, Any]]]] = {}
        self._count = 0

    def ask(self, command: type[Command], arguments: Mapping[str, Any]) -> Deferred[dict[str, Any]]:
        """Call *command*; fire with the members of its answer.

        It fails with any :class:`gateway.errors.GatewayError`, and with :class:`ConnectionLost`, however the
        connection was lost. Cancelling it leaves the call alone.

        :raises ConnectionLost: nothing can be sent.
        :raises gateway.errors.BadArguments, gateway.errors.TooLarge: so the gateway would say.
        """
        if self.over:
            raise ConnectionLost
        self._count += 1
        tag = b"%x" % self._count
        box = command.makeArguments(arguments)
        box[amp.COMMAND], box[amp.ASK] = command.commandName, tag
        data = pack(box)
        answer: Deferred[dict[str, Any]] = Deferred()
        self._asked[tag] = command, answer
        self._write(data)
        return answer

    def answered(self, tag: bytes, box: dict[bytes, bytes]) -> None:
        asked = self._asked.pop(tag, None)
        if asked is None:
            raise BoxError("an answer belongs to no call")
        command, answer = asked
        try:
            if amp.ANSWER not in box:
                raise refusal(box)
            values = command.parseResponse(box)
        except errors.GatewayError as error:
            answer.errback(error)
        else:
            answer.callback(values)

    def gone(self) -> None:
        asked, self._asked = self._asked, {}
        for _, answer in asked.values():
            answer.errback(ConnectionLost())

    def dismissed(self, word: bytes, description: bytes) -> None:
        self.farewell = rebuild(word, description)
