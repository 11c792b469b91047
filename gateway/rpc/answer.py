"""What a call to a hypervisor says, and who is told what it gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from twisted.python.failure import Failure

from gateway import errors
from gateway.wire.libvirt_schema import Procedure
from gateway.wire.xdr import XdrError


class Answer(Protocol):
    """Who is told what a call gave, once: a Deferred, or what costs less."""

    @property
    def called(self) -> bool:
        """It does not want to know any more."""

    def callback(self, result: Any) -> None: ...

    def errback(self, failure: Failure) -> None: ...


class Reply(NamedTuple):
    """The results of a call, and the bytes that said them."""

    values: dict[str, Any]
    payload: bytes


def packed(procedure: Procedure, arguments: Mapping[str, object]) -> bytes:
    """*arguments* as a message has them.

    :raises gateway.errors.BadArguments: they are not what *procedure* takes.
    """
    try:
        return procedure.arguments.pack(arguments)
    except XdrError as error:
        raise errors.BadArguments(error.path, error.text) from None
