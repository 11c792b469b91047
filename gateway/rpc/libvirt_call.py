"""One call of a stock libvirt client, from its arrival to its answer."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from gateway.rpc.answer import Reply
from gateway.rpc.libvirt_errors import refusal
from gateway.rpc.plan import Plan
from gateway.wire.libvirt_message import Message
from gateway.wire.libvirt_schema import PROCEDURES, PROGRAMS, Procedure
from gateway.wire.open_name import usual_payload
from gateway.wire.xdr import XdrError

#: Something that is to be done for a call.
Step = Callable[..., object]


class Calls(Protocol):
    """Whoever has the calls."""

    def replied(self, call: ClientCall, reply: Reply) -> None:
        """The hypervisor has answered."""

    def failed(self, call: ClientCall, failure: Failure) -> None:
        """There is no answer but this."""

    def returned(self, call: ClientCall) -> None:
        """*call* is not on its way to the hypervisor any more."""


class ClientCall:
    """A call; to the connection to the hypervisor it is who wants the answer.

    Nearly all pass through it without a Deferred, for those are slow.

    :ivar began: seconds of the clock.
    :ivar name: of the procedure, or its numbers before it is understood.
    :ivar uuid: of the first domain that it names, if any.
    :ivar plan: what its rights have made of it.
    :ivar held: the client is not heard until it is over.
    :ivar called: nobody wants the answer any more, or it is there.
    :ivar over: it was answered, or never will be.
    """

    __slots__ = ("_calls", "_waits", "began", "called", "held", "message", "name", "over", "plan", "uuid")

    def __init__(self, calls: Calls, message: Message, began: float) -> None:
        self.message = message
        self.began = began
        self.name = f"{message.program:x}-{message.procedure}"
        self.uuid: str | None = None
        self.plan: Plan | None = None
        self.held = self.called = self.over = False
        self._calls = calls
        self._waits: Deferred[Any] | None = None

    def do(self, step: Step, *arguments: Any) -> None:
        """Take *step*; when it raises, that is the end of the call."""
        try:
            step(self, *arguments)
        except BaseException:  # as a Deferred does: what is no answer is a bug, and one of this call alone
            self._calls.failed(self, Failure())

    def wait(self, work: Coroutine[Any, Any, object]) -> None:
        """Have *work* done in its own time."""
        self._waits = Deferred.fromCoroutine(work)
        self._waits.addErrback(self._broke)

    def cancel(self) -> bool:
        """Give it up; return whether it ends by itself, for somebody works for it."""
        self.called = True
        if self._waits is None or self._waits.called:
            return False
        self._waits.cancel()
        return True

    def _broke(self, failure: Failure) -> None:
        self._calls.failed(self, failure)

    # -- of the connection to the hypervisor -----------------------------------------------

    def callback(self, result: Any) -> None:
        """Take the answer."""
        self.called = True
        self.do(self._calls.replied, result)
        self._calls.returned(self)

    def errback(self, failure: Failure) -> None:
        """Take what there is instead."""
        self.called = True
        self.do(self._calls.failed, failure)
        self._calls.returned(self)


def understood(message: Message, *, known: bool) -> tuple[Procedure, dict[str, Any]]:
    """What is called, and with what.

    :param known: the client has logged in.
    :raises LibvirtError: nobody knows, or it may not be called yet.
    """
    if message.program not in PROGRAMS.values() or message.version != 1:
        text = f"Cannot find program {message.program} version {message.version}"
        raise refusal(39, text)
    procedure = PROCEDURES.get((message.program, message.procedure))
    if procedure is None or procedure.event:
        raise refusal(39, f"unknown procedure: {message.procedure}")
    if not known and not procedure.name.startswith("AUTH_"):
        raise refusal(39, "authentication required")
    payload = usual_payload(message.payload) if procedure.name == "CONNECT_OPEN" else message.payload
    try:
        return procedure, procedure.arguments.unpack(payload)
    except XdrError as error:
        raise refusal(39, f"Unable to decode message payload: {error}") from None
