"""What a measure stands on: an image host and consoles, the relays before them, and how they take turns."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean

from attrs import define, frozen

from bench import kernel, machine
from bench.cases import GATEWAY, Case
from bench.light import Client, Host, Way
from bench.peers import PEERS
from bench.peers.base import Backends, Pki, Relay
from bench.peers.hypervisor import Hypervisor
from gateway.core import dev_pki
from tests.functional.peers import MIB, short_directory

#: Seconds in which a relay may tidy up after a transfer before its account is read.
_TIDY = 0.05


@frozen
class Options:
    """What the command line says; None leaves it to the measure.

    :ivar size: bytes of a transfer.
    :ivar seconds: of what lasts a time, not a length.
    :ivar cases: parts of names; only cases that have one of them are measured.
    """

    runs: int = 5
    size: int | None = None
    seconds: float | None = None
    connections: int | None = None
    peers: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()

    def wanted(self, case: str) -> bool:
        return not self.cases or any(part in case for part in self.cases)


@define
class Stage:
    """Everything runs while the ``with`` lasts.

    :ivar home: a directory, gone afterwards; images of the gateway's store are in ``images``.
    :ivar versions: what was met on it: for each peer its version and its OpenSSL.
    :ivar hypervisor: its URLs by transport, if there is one.
    """

    home: Path
    relays: Sequence[Relay]
    client: Client
    versions: Mapping[str, Mapping[str, str]]
    hypervisor: Mapping[str, str]


@contextmanager
def stage(names: Iterable[str], rate: float = 0.0, *, hypervisor: bool = False) -> Iterator[Stage]:
    """An image host and consoles, and before them the relays of these *names*.

    :param rate: bytes a second at which the host takes an upload; 0 for as they come.
    :param hypervisor: there is one as well.
    :raises AssertionError: something went wrong, and what their logs say.
    """
    home = short_directory()
    with ExitStack() as ending:
        ending.callback(shutil.rmtree, home, ignore_errors=True)
        made = dev_pki.make(home / "pki")
        pki = Pki(made.ca, made.gateway, made.gateway_key)
        host = Host(home, pki.certificate, pki.key, rate)
        ending.callback(host.kill)
        host.start()
        urls: Mapping[str, str] = {}
        if hypervisor:
            daemon = Hypervisor(home)
            ending.callback(daemon.kill)
            daemon.start()
            urls = daemon.urls()
        relays = []
        for name in names:
            relay = PEERS[name](home, pki, Backends.of(host, urls))
            ending.callback(relay.kill)
            relay.start()
            relays.append(relay)
        versions = {it.name: {"version": it.version(), "openssl": it.openssl()} for it in relays}
        try:
            yield Stage(home, relays, Client(pki.ca), versions, urls)
        except AssertionError as error:
            logs = {it.name: it.log()[-2000:] for it in relays} | {host.name: host.log()[-2000:]}
            text = "".join(f"\n== {name}\n{log}" for name, log in logs.items())
            raise AssertionError(f"{error}{text}") from error


@define
class Account:
    """What a relay used meanwhile.

    :ivar cpu: seconds, user and system.
    :ivar peak: bytes resident at most.
    :ivar growth: how much of them came on top.
    """

    cpu: float = 0.0
    peak: int = 0
    growth: int = 0

    def memory(self) -> dict[str, float]:
        return {"peak_rss_mib": self.peak / MIB}


@contextmanager
def account(pid: int) -> Iterator[Account]:
    """Read the kernel's accounts of *pid* before and after."""
    found = Account()
    kernel.forget_peak(pid)
    before, used = kernel.memory(pid), kernel.cpu(pid)
    yield found
    time.sleep(_TIDY)
    found.cpu = kernel.cpu(pid) - used
    found.peak = kernel.memory(pid, "VmHWM")
    found.growth = found.peak - before


#: Measures one relay once; None when it cannot do that.
Job = Callable[[Relay], Mapping[str, float] | None]


def take_turns(
    relays: Sequence[Relay],
    jobs: Iterable[tuple[Case, Job]],
    options: Options,
    *,
    once: bool = False,
    slices: int = 1,
) -> list[Case]:
    """Run every job with every relay, then again; the first time warms up and does not count.

    Who begins changes, so that nobody always follows the same neighbor. Peers that break off are
    noted, and get no sample; the gateway must not.

    :param once: the first time is the only one, and counts.
    :param slices: parts of each run; one of them is measured with all relays before the next. A sample is
        their mean, so that a machine which is now fast and now slow is so to everybody.
    :raises AssertionError: the gateway broke off.
    """
    wanted = [(case, job) for case, job in jobs if options.wanted(case.name)]
    for run in [1] if once else range(options.runs + 1):
        for case, job in wanted:
            first = run % len(relays)
            parts: dict[str, list[Mapping[str, float]]] = {}
            broken: set[str] = set()
            for relay in [*relays[first:], *relays[:first]] * slices:
                if relay.name in broken:
                    continue
                tell(f"{case.name}: {relay.name}, run {run} of {options.runs}, load {machine.load()}")
                try:
                    part = job(relay)
                except AssertionError as error:
                    if relay.name == GATEWAY:
                        raise AssertionError(f"{case.name}, run {run}: {error}") from error
                    case.fail(relay.name)
                    broken.add(relay.name)
                    continue
                if part is not None:
                    parts.setdefault(relay.name, []).append(part)
            for name, found in parts.items():
                if run and name not in broken:
                    case.add(name, {key: fmean(part[key] for part in found) for key in found[0]})
    tell("")
    for case, _ in wanted:
        # In the order of the peers, not of who came first.
        case.samples = {it.name: case.samples[it.name] for it in relays if it.name in case.samples}
    return [case for case, _ in wanted]


def tell(text: str) -> None:
    """Show progress, when somebody watches."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def way_of(relay: Relay, kind: str, client: int = 0) -> Way:
    """A way that every relay has.

    :raises AssertionError: this one has not.
    """
    way = relay.way(kind, client)
    assert way is not None, f"{relay.name} has no way to {kind}"
    return way
