"""pytest only: lets trial's asynchronous cases wait on pytest-twisted's reactor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests import support


def _settle(d: Deferred[Any]) -> Any:
    from twisted.internet import reactor

    # One turn later: trial's clean-up iterates the reactor again.
    return pytest_twisted.blockon(d.addBoth(lambda r: deferLater(reactor, 0, lambda: r)))


support.settle = _settle


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``self.mktemp()`` must not litter the tree."""
    monkeypatch.chdir(tmp_path)
    yield
