"""A call that was received, while it is being answered."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


@define(eq=False)
class Running:
    """One request under way.

    :ivar over: told what it gave, once.
    :ivar steps: what is being done; *on* what that waits for.
    """

    tag: bytes | None
    name: bytes
    size: int
    writes: bool
    over: Callable[[Running, dict[bytes, bytes] | BaseException], object] = field(repr=False)
    steps: Coroutine[Deferred[Any], Any, dict[bytes, bytes]] = field(repr=False)
    on: Deferred[Any] | None = field(default=None, repr=False)

    def go(self, result: object = None) -> None:
        """Go on with the *result* of what it waits for, until it has to wait again or is over.

        As ``Deferred.fromCoroutine`` has it, for a third of the price.
        """
        self.on = None
        try:
            if isinstance(result, Failure):
                self.on = result.throwExceptionIntoGenerator(self.steps)
            else:
                self.on = self.steps.send(result)
        except StopIteration as end:
            self.over(self, end.value)
        except BaseException as error:  # whatever it is, the others go on
            self.over(self, error)
        else:
            self.on.addBoth(self.go)

    def cancel(self) -> None:
        """Give up what it waits for."""
        if self.on is not None:
            self.on.cancel()
