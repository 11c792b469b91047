"""A control listener that answers what a test told it to, and runs of commands against it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any, cast

from attrs import Factory, define
from twisted.internet.defer import maybeDeferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from gateway.ctl.shell import Shell
from gateway.ctl.tree import execute
from tests.support import ReactorTestCase

#: What the clock on the wall shows in these tests: 2026-01-01T00:00:00Z.
NOW = 1767225600.0
ID = "11111111-1111-4111-8111-111111111111"


@define
class Reply:
    """One answer: JSON, unless *text* is given.

    :ivar status: of HTTP; 0 hangs up, and -1 never answers.
    """

    document: Any = None
    status: int = 200
    text: str | None = None
    kind: str = "application/json"


@define
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    query: Mapping[str, str] = Factory(dict)
    body: Any = None


class FakeControl(Resource):
    """Answers by method and path; several replies follow each other, the last one stays.

    :ivar asked: every request.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Asked] = []
        self.replies: dict[str, list[Reply]] = {}
        self.before: Callable[[Asked], None] = lambda asked: None

    def reply(self, what: str, *replies: Reply) -> None:
        """Answer ``"METHOD /path"``."""
        self.replies[what] = list(replies)

    def render(self, request: Any) -> Any:
        body = request.content.read()
        asked = Asked(
            request.method.decode(),
            request.uri.partition(b"?")[0].decode(),
            {name.decode(): values[-1].decode() for name, values in request.args.items()},
            json.loads(body) if body else None,
        )
        self.asked.append(asked)
        self.before(asked)
        found = self.replies.get(f"{asked.method} {asked.path}")
        if found is None:
            reply = Reply(status=404, text="Not found\n")
        else:
            reply = found.pop(0) if len(found) > 1 else found[0]
        if reply.status < 0:
            return NOT_DONE_YET
        if reply.status == 0:
            request.transport.abortConnection()
            return NOT_DONE_YET
        request.setResponseCode(reply.status)
        request.setHeader("content-type", reply.kind if reply.text is None else "text/plain; charset=UTF-8")
        if reply.text is not None:
            return reply.text.encode()
        return b"" if reply.document is None else json.dumps(reply.document).encode()


class Terminal(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@define
class Ran:
    """What became of a command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output, which has to be one JSON document."""
        return json.loads(self.out)


class ControlTestCase(ReactorTestCase):
    """Commands against a :class:`FakeControl` on a socket."""

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = cast(Any, reactor)
        # The path of a socket has to be short.
        self.directory = Path(tempfile.mkdtemp(prefix="gw"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = str(self.directory / "c.sock")
        self.fake = FakeControl()
        self.port = self.reactor.listenUNIX(self.path, Site(self.fake))
        self.addCleanup(lambda: maybeDeferred(self.port.stopListening))

    async def run_it(
        self, *arguments: str, stdin: str = "", tty: bool = False, environ: Mapping[str, str] | None = None
    ) -> Ran:
        """Run ``gatewayctl`` *arguments* in this process."""
        out, err = (Terminal(), Terminal()) if tty else (StringIO(), StringIO())
        shell = Shell(
            reactor=self.reactor,
            out=out,
            err=err,
            source=StringIO(stdin),
            environ={"GATEWAY_CONTROL": self.path, **(environ or {})},
            wall=lambda: NOW,
            pause=0.01,
        )
        code = await execute(arguments, shell)
        return Ran(code, out.getvalue(), err.getvalue())
