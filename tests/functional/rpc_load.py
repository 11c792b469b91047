"""What works on a gateway while things are killed: hands that start and destroy, and those who are told.

Each write has a request id, and is asked again until there is a definite answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.task import deferLater

from gateway import errors
from gateway.rpc.client import Domain, Event, Host, Subscription
from gateway.wire.libvirt_error import LibvirtError
from tests.functional.commands import need
from tests.functional.processes import Peer

#: Appends the uuid of each guest that it is run for.
_EMULATOR = """\
#!/bin/sh
last=
for each; do
    [ "$last" = -uuid ] && echo "$each" >>{log}
    last=$each
done
exec {qemu} "$@"
"""
_LIFECYCLE = re.compile(r"event 'lifecycle' for domain '(.*)': (\w+)")
#: How often one asks again what may have been done, and the seconds between.
DOUBTS, _PAUSE = 5, 0.1
#: Seconds before a kill in which it is not certain what was told.
_NEAR = 0.2


class Boots:
    """An emulator that counts its runs: the guests' own word on how often they were started."""

    def __init__(self, directory: Path) -> None:
        self.program = directory / "emulator"
        self._log = directory / "boots"
        self._log.touch()
        self._log.chmod(0o666)
        qemu = need("qemu-system-x86_64", "apt install qemu-system-x86")
        self.program.write_text(_EMULATOR.format(log=self._log, qemu=qemu))
        self.program.chmod(0o755)

    def of(self, uuid: str) -> int:
        """How often this guest was started."""
        return Counter(self._log.read_text("ascii").split())[uuid]


class Witness(Peer):
    """virsh, which writes down what the daemon tells; it holds the state of the test driver, too."""

    name = "witness"

    def __init__(self, directory: Path, url: str) -> None:
        directory.mkdir()
        super().__init__(directory)
        self._url = url

    def start(self) -> None:
        virsh = need("virsh", "apt install libvirt-clients")
        line = [need("stdbuf", "apt install coreutils"), "-oL", virsh, "-q", "-c", self._url]
        self.spawn([*line, "echo ready; event --all --loop --timestamp"], lambda: "ready" in self.log())

    def seen(self, name: str, word: str) -> int:
        """How often this has happened to the domain *name*."""
        return _LIFECYCLE.findall(self.log()).count((name, word))


@frozen
class Outcome:
    """The end of one request: ``done`` with its result, ``refused`` with libvirt's code, or ``maybe``."""

    word: str
    value: Any = None


@define(eq=False)
class Tries:
    """Asks until there is a definite answer.

    :ivar doubts: how often "maybe" is not taken for an answer.
    :ivar met: what was answered on the way, by the names of the errors.
    """

    reactor: Any
    doubts: int = DOUBTS
    met: Counter[str] = field(factory=Counter)

    async def pause(self, seconds: float = _PAUSE) -> None:
        await deferLater(self.reactor, seconds)

    async def definite(self, ask: Callable[[], Awaitable[Any]]) -> Outcome:
        """What *ask* ends with, which has one request id however often it is called."""
        doubts = 0
        while True:
            try:
                return Outcome("done", await ask())
            except LibvirtError as error:
                return Outcome("refused", error.code)
            except (errors.Interrupted, errors.DeadlinePassed) as error:
                doubts += error.maybe_executed
                self.met[f"{type(error).__name__} {error.maybe_executed}"] += 1
                if doubts > self.doubts:
                    return Outcome("maybe")
            except (errors.Unavailable, errors.UpstreamFailed, errors.UpstreamTimeout) as error:
                self.met[type(error).__name__] += 1
            await self.pause()

    async def sure(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """What *ask* gives, which only reads."""
        outcome = await self.definite(ask)
        if outcome.word != "done":
            raise AssertionError(f"a read ended with {outcome}")
        return outcome.value


@define(eq=False)
class Teller:
    """A subscriber who applies what it is told.

    :ivar states: of domains by uuid.
    :ivar ran: the guests that were seen to run: the uuid and the number of each, as often as it was.
    :ivar resyncs: when everything was told anew.
    """

    reactor: Any
    states: dict[str, str] = field(factory=dict)
    ran: Counter[tuple[str, int]] = field(factory=Counter)
    problems: list[str] = field(factory=list)
    resyncs: list[float] = field(factory=list)
    last: int = -1
    subscription: Subscription | None = None

    async def subscribe(self, host: Host) -> None:
        self.subscription = await host.subscribe(["lifecycle"], self.told, from_seq=0)

    def told(self, event: Event) -> None:
        if event.seq <= self.last:
            self.problems.append(f"{event.kind} {event.seq} after {self.last}")
        self.last = event.seq
        if event.kind == "resync":
            if event.payload["page"] == 0:
                self.resyncs.append(self.reactor.seconds())
                self.states.clear()
            for row in event.payload["domains"]:
                self._note(row["dom"], row["state"])
                if row["dom"]["id"] >= 0:
                    key = row["dom"]["uuid"], row["dom"]["id"]
                    self.ran[key] = max(1, self.ran[key])
            return
        dom, word, state = (event.payload[name] for name in ("dom", "event", "state"))
        before = self.states.get(dom["uuid"])
        # The test driver tells of starts alone; QEMU's first lets the processors go.
        if word == "started" and before not in (None, "shutoff", "running"):
            self.problems.append(f"{dom} started, and was {before}")
        if word == "stopped" and before in (None, "shutoff"):
            self.problems.append(f"{dom} stopped, and was {before}")
        if word == "started":
            self.ran[dom["uuid"], dom["id"]] += 1
        self._note(dom, state)

    def _note(self, dom: Mapping[str, Any], state: str | None) -> None:
        if state is None:
            self.states.pop(dom["uuid"], None)
        else:
            self.states[dom["uuid"]] = state

    def missed(self, hand: Hand, strikes: Sequence[float]) -> list[tuple[str, int]]:
        """Guests that *hand* had running, and that nobody told of, though nothing was struck meanwhile."""
        left = Counter(self.ran)
        missed = []
        for number, at in hand.runs:
            key = (hand.domains[0].uuid, number)
            if left[key]:
                left[key] -= 1
            elif not any(strike - _NEAR < at < self._back(strike) for strike in strikes):
                missed.append(key)
        return missed

    def _back(self, strike: float) -> float:
        return min((at for at in self.resyncs if at > strike), default=inf)


@define(eq=False)
class Hand:
    """Somebody who starts and destroys one domain, over and over.

    :ivar boots: counts the starts of the domain, from outside; None when somebody counts them later.
    :ivar runs: starts that were done: the number of the guest, and when that was known; ``doubts`` of
        how many starts nobody knows.
    :ivar domains: the same domain as several connections of one principal have it; all ask at once.
    :ivar log: every request that was given a definite answer: what was asked by which id, and that answer.
    :ivar problems: what must not be.
    """

    tries: Tries
    name: str
    domains: list[Domain]
    boots: Callable[[], int] | None
    log: list[tuple[str, str, Outcome]] = field(factory=list)
    problems: list[str] = field(factory=list)
    stopped: bool = False
    cycles: int = 0
    runs: list[tuple[int, float]] = field(factory=list)
    doubts: int = 0

    async def work(self) -> None:
        """Go on until :attr:`stopped`; the domain is off at the beginning, and at the end."""
        number = 0
        while not self.stopped:
            number += 1
            before = self._boots()
            outcome = await self._do("start", number)
            ran, state, done = self._boots() - before, await self._state(), outcome.word == "done"
            self.doubts += outcome.word == "maybe"
            if done:
                self.runs.append((outcome.value, self.tries.reactor.seconds()))
            good = state == "running" if done else outcome.word == "maybe"
            if not good or ran > 1 or (done and not ran and self.boots is not None):
                self.problems.append(f"start {number}: {outcome}, {ran} runs, and it is {state}")
            if state != "running":
                continue
            number += 1
            before = self._boots()
            outcome = await self._do("destroy", number)
            ran, state = self._boots() - before, await self._state()
            if ran or (outcome.word == "done" and state != "shutoff"):
                self.problems.append(f"destroy {number}: {outcome}, {ran} runs, and it is {state}")
            while state == "running":
                number += 1
                await self._do("destroy", number)
                state = await self._state()
            self.cycles += 1

    async def repeat(self, host: Host) -> None:
        """Ask all that again and again, on another connection: the same answers, and nothing is done."""
        domain = await self.tries.sure(lambda: host.lookup(name=self.name))
        while not self.stopped:
            for word, request, known in self.log[-20:]:
                ask = partial(self._ask, domain, word, request)
                again = await self.tries.definite(ask)
                if again not in (known, Outcome("maybe")):
                    self.problems.append(f"{word} {request}: {known}, and then {again}")
            await self.tries.pause()

    async def _do(self, word: str, number: int) -> Outcome:
        request = f"{self.name} {word} {number}"
        asked = [self.tries.definite(partial(self._ask, it, word, request)) for it in self.domains]
        outcomes = await together(asked)
        definite = {it for it in outcomes if it.word != "maybe"}
        if len(definite) > 1:
            self.problems.append(f"{request}: {outcomes}")
        for outcome in definite:
            self.log.append((word, request, outcome))
        return next(iter(definite), Outcome("maybe"))

    @staticmethod
    async def _ask(domain: Domain, word: str, request: str) -> Any:
        return await getattr(domain, word)(request_id=request)

    def _boots(self) -> int:
        return 0 if self.boots is None else self.boots()

    async def _state(self) -> str:
        """As the hypervisor has it, once it is at rest."""
        while True:
            told = await self.tries.sure(self.domains[0].get_state)
            if told.state in ("running", "shutoff"):
                return str(told.state)
            await self.tries.pause()


@define(eq=False)
class Maker:
    """Somebody who defines domains and undefines them.

    :ivar xml: makes that of a domain with a name.
    """

    tries: Tries
    host: Host
    xml: Callable[[str], str]
    problems: list[str] = field(factory=list)
    stopped: bool = False
    cycles: int = 0

    async def work(self) -> None:
        """Go on until :attr:`stopped`; nothing is left then."""
        while not self.stopped:
            name = f"made-{self.cycles}"
            xml = self.xml(name)
            made = await self.tries.definite(partial(self.host.define, xml, request_id=f"define {name}"))
            domain = await self._look(name)
            if made.word == "refused" or (made.word == "done" and domain is None):
                self.problems.append(f"{name}: {made}, and there is {domain}")
            number = 0
            while domain is not None:
                number += 1
                ask = partial(domain.undefine, request_id=f"undefine {name} {number}")
                gone = await self.tries.definite(ask)
                domain = await self._look(name)
                if gone.word == "refused" or (gone.word == "done" and domain is not None):
                    self.problems.append(f"{name}: {gone}, and there is {domain}")
            self.cycles += 1
            await self.tries.pause(0.02)

    async def _look(self, name: str) -> Domain | None:
        found = await self.tries.definite(partial(self.host.lookup, name=name))
        return found.value if found.word == "done" else None


@define(eq=False)
class Rivals:
    """Several who start one domain at the same time, each by requests of his own.

    :ivar dones: starts that were done; ``doubts`` those of which nobody knows.
    """

    tries: Tries
    domains: list[Domain]
    problems: list[str] = field(factory=list)
    stopped: bool = False
    cycles: int = 0
    dones: int = 0
    doubts: int = 0

    async def work(self) -> None:
        """Go on until :attr:`stopped`."""
        while not self.stopped:
            asked = [self._start(number) for number in range(len(self.domains))]
            words = [it.word for it in await together(asked)]
            self.dones += words.count("done")
            self.doubts += words.count("maybe")
            if words.count("done") > 1 or words.count("refused") == len(words):
                self.problems.append(f"{self.cycles}: {words}")
            number = 0
            while (await self.tries.sure(self.domains[0].get_state)).state == "running":
                number += 1
                request = f"rivals destroy {self.cycles} {number}"
                await self.tries.definite(partial(self.domains[0].destroy, request_id=request))
            self.cycles += 1

    async def _start(self, number: int) -> Outcome:
        request = f"rivals start {self.cycles}"
        return await self.tries.definite(partial(self.domains[number].start, request_id=request))


async def together(work: list[Any]) -> list[Any]:
    """The results of all of these coroutines, which run at the same time."""
    try:
        return list(await gatherResults([Deferred.fromCoroutine(it) for it in work], consumeErrors=True))
    except FirstError as first:
        first.subFailure.raiseException()
