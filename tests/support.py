"""What tests share: the bridge between trial's asynchronous cases and pytest, and small doubles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

#: Set by ``conftest.py`` under pytest: waits for a Deferred on pytest-twisted's reactor.
settle: Callable[[Deferred[Any]], Any] | None = None


class ReactorTestCase(TestCase):
    """An asynchronous test case that runs under trial and under pytest with pytest-twisted."""

    timeout = 60.0

    def _wait(self, d: Deferred[Any], *rest: Any) -> Any:
        return settle(d) if settle is not None else super()._wait(d, *rest)
