"""What the tests of handles and of the journal share: files, threads that are none, and a crash."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from gateway.rpc.store import Store

T = TypeVar("T")
#: 1 January 2026, the time at which tests begin.
NOW = 1767225600.0


def at_once(function: Callable[..., T], *args: object) -> Deferred[T]:
    """Stands for a thread that is very fast."""
    return maybeDeferred(function, *args)


class SlowThread:
    """Stands for a thread that does nothing until it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Deferred[None], Callable[[], Deferred[Any]]]] = []

    def __call__(self, function: Callable[..., T], *args: object) -> Deferred[T]:
        begin: Deferred[None] = Deferred()
        self.waiting.append((begin, lambda: maybeDeferred(function, *args)))
        return begin.addCallback(lambda _: maybeDeferred(function, *args))

    def go(self) -> None:
        """Do what waits, and what comes of that."""
        while self.waiting:
            self.waiting.pop(0)[0].callback(None)


def crash(path: Path, directory: Path) -> Path:
    """What a process killed now would leave of *path*, in a new directory below *directory*."""
    left = Path(mkdtemp(dir=directory))
    for file in path.parent.glob(f"{path.name}*"):
        shutil.copy(file, left)
    return left / path.name


class KeepingCase(SynchronousTestCase):
    """A test with a file."""

    def setUp(self) -> None:
        self.now = NOW
        self.directory = Path(mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = self.directory / "rpc.db"
        self.stores: list[Store] = []
        self.addCleanup(self.close)

    def wall(self) -> float:
        return self.now

    def store(self, path: Path | None = None, **options: Any) -> Store:
        """The file, opened by a new process as it were."""
        store = Store(path or self.path, options.pop("in_thread", at_once), **options)
        self.stores.append(store)
        return store

    def close(self) -> None:
        for store in self.stores:
            self.ok(store.close())
        self.stores.clear()

    def ok(self, answer: Coroutine[Deferred[Any], Any, T]) -> T:
        result: T = self.successResultOf(Deferred.fromCoroutine(answer))
        return result

    def no(self, kind: type[BaseException], answer: Coroutine[Deferred[Any], Any, object]) -> Any:
        return self.failureResultOf(Deferred.fromCoroutine(answer), kind).value
