"""A pytest plugin for the upstream project's own test suite: has its servers answer through a gateway.

Only the process that runs that suite loads it (see ``test_real_suite.py``). The environment variable
``VIA_GATEWAY`` holds JSON: ``mode``, and for each ``pki`` of the suite the image port and the control port
of a running gateway.

=========  ======================================================================================
mode       what becomes of ``Server``
=========  ======================================================================================
images     the real server is the upstream; tickets go to both, clients are sent to the gateway
nbd        the same, but the gateway itself speaks to NBD servers; tests without one are deselected
file       the same, but the gateway itself serves files; tests that fake a server's clock are deselected
control    only the gateway; tests that fake the server's clock or patch it are deselected
proxy      the gateway stands in for servers whose control is TCP, that is for the real proxy
=========  ======================================================================================
"""

from __future__ import annotations

import copy
import http.client
import json
import os
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from ovirt_imageio._internal import server

_SETTINGS = json.loads(os.environ["VIA_GATEWAY"])
_MODE = _SETTINGS["mode"]
_IN_PROCESS = {"fake_time", "monkeypatch"}
_Server = server.Server


class _Ticket:
    """The gateway's record of a ticket, as the suite looks at the server's."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._record = record

    def info(self) -> dict[str, Any]:
        return dict(self._record)

    def active(self) -> Any:
        return self._record["active"]

    def transferred(self) -> Any:
        return self._record["transferred"]

    @property
    def idle_time(self) -> Any:
        return self._record["idle_time"]

    @property
    def uuid(self) -> Any:
        return self._record["uuid"]


class _Auth:
    """The tickets of a gateway, and those of the real server behind it, if there is one."""

    def __init__(self, port: int, upstream: Any) -> None:
        self._port = port
        self._upstream = upstream

    def _order(self, method: str, ticket_id: str, body: Any = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, f"/tickets/{ticket_id}", body=text)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def add(self, ticket: dict[str, Any]) -> None:
        ours = dict(ticket)
        if self._upstream is not None:
            self._upstream.auth.add(ticket)
            if _MODE not in ("nbd", "file") or not ticket["url"].startswith(f"{_MODE}:"):
                host, port = self._upstream.remote_service.address
                ours["url"] = f"https://{host}:{port}/images/{ticket['uuid']}"
        status, text = self._order("PUT", ticket["uuid"], ours)
        assert status == 200, text

    def get(self, ticket_id: str) -> _Ticket:
        status, text = self._order("GET", ticket_id)
        if status == 404:
            raise KeyError(ticket_id)
        assert status == 200, text
        return _Ticket(json.loads(text))

    def remove(self, ticket_id: str) -> None:
        if self._upstream is not None:
            self._upstream.auth.remove(ticket_id)
        status, text = self._order("DELETE", ticket_id)
        assert status == 204, text

    def clear(self) -> None:
        if self._upstream is not None:
            self._upstream.auth.clear()
        status, text = self._order("DELETE", "")
        assert status == 204, text


class _Via:
    """Looks like a ``Server``, and is a gateway."""

    local_service = None

    def __init__(self, config: Any, upstream: Any) -> None:
        pki = "user" if "/user/" in config.tls.cert_file else "system"
        port, control = _SETTINGS["pki"][pki]
        self._upstream = upstream
        self.auth = _Auth(control, upstream)
        self.config = copy.deepcopy(config)
        self.config.remote.host, self.config.remote.port = "127.0.0.1", port
        self.config.control.transport, self.config.control.port = "tcp", control
        self.remote_service = SimpleNamespace(address=("127.0.0.1", port), port=port)

    def start(self) -> None:
        if self._upstream is not None:
            self._upstream.start()

    def stop(self) -> None:
        if self._upstream is not None:
            self._upstream.stop()


def _serve(config: Any, ticket: Any = None) -> Any:
    if _MODE == "control" or (_MODE == "proxy" and config.control.transport.lower() == "tcp"):
        return _Via(config, None)
    if _MODE == "proxy":
        return _Server(config, ticket)
    config.local.enable = False
    return _Via(config, _Server(config, ticket))


server.Server = _serve


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what reaches into the server's process, when there is none, and what a mode is not about."""
    fixtures = {item: set(getattr(item, "fixturenames", ())) for item in items}
    if _MODE == "control":
        out = [item for item in items if _IN_PROCESS & fixtures[item]]
    elif _MODE == "file":
        out = [item for item in items if "fake_time" in fixtures[item]]
    elif _MODE == "nbd":
        out = [item for item in items if "nbd_server" not in fixtures[item]]
    else:
        return
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]
