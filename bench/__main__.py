"""``bench/run``: the gateway and the programs people would run instead, one after the other, again and again.

CPU seconds are user and system time of the relaying process and its children, from the kernel's
accounts. Figures are medians with the least and the most, and so are ratios, which are those of single
runs, and above 1 where the gateway is better.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import document, machine
from bench.cases import GATEWAY
from bench.document import Section
from bench.measures import MEASURES
from bench.peers import PEERS
from bench.stage import Options, stage

_EXAMPLES = """\
examples:
  bench/run images --peers nginx,haproxy,imageio --runs 5
  bench/run images --case tls-get --peers nginx --size 256 --json
  bench/run all --write docs/performance     the tables and the plot of docs/performance.md
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, print.

    :return: 1 when ``--check`` is given and a floor is missed.
    """
    chosen = _parser().parse_args(arguments)
    everything = not chosen.measures or "all" in chosen.measures
    names = [name for name in MEASURES if everything or name in chosen.measures]
    options = Options(
        runs=chosen.runs,
        size=chosen.size and chosen.size << 20,
        seconds=chosen.seconds,
        connections=chosen.connections,
        peers=chosen.peers,
        cases=tuple(chosen.case),
    )
    command = shlex.join(["bench/run", *(sys.argv[1:] if arguments is None else arguments)])
    where = machine.describe()
    if not chosen.json:
        _say(f"{where['cpu']}, {where['cores']} cores, {where['memory']}, Linux {where['kernel']}")
        _say(command)
    sections = []
    for name in names:
        section = _measure(name, options, command)
        sections.append(section)
        if not chosen.json:
            _say(section.text())
        if chosen.write is not None:
            document.write(chosen.write, where, [section])
    if chosen.json:
        found = {"machine": where, "command": command, "measures": [it.plain() for it in sections]}
        _say(json.dumps(found))
    if not chosen.check:
        return 0
    missed = [f"{case.name} against {peer}" for it in sections for case in it.cases for peer in case.missed()]
    for each in missed:
        sys.stderr.write(f"floor missed: {each}\n")
    return 1 if missed else 0


def _measure(name: str, options: Options, command: str) -> Section:
    measure = MEASURES[name]
    # Whoever is named beside the measure's own peers has no part in it.
    peers = [it for it in measure.peers if it == GATEWAY or not options.peers or it in options.peers]
    load = machine.load()
    with stage(peers, measure.rate, hypervisor=measure.hypervisor) as running:
        cases = measure.run(running, options)
    return Section(name, measure.summary, command, load, running.versions, cases)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench/run",
        description=__doc__,
        epilog=f"measures:\n{_list()}\n\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "measures",
        nargs="*",
        metavar="MEASURE",
        choices=["all", *MEASURES],
        help="all of them (default), or some",
    )
    parser.add_argument(
        "--peers",
        type=_peers,
        default=(),
        metavar="A,B",
        help=f"some of {', '.join(it for it in PEERS if it != GATEWAY)}, or none",
    )
    parser.add_argument(
        "--runs", type=_positive, default=5, help="runs that count, after one that does not (5)"
    )
    parser.add_argument("--size", type=_positive, metavar="MIB", help="of each transfer (512; memory: 4096)")
    parser.add_argument(
        "--connections",
        type=_positive,
        metavar="N",
        help="at once (1; parallel, fairness: 4; rpc: 16; idle: 1000)",
    )
    parser.add_argument("--seconds", type=float, help="of each run of what lasts a time (2)")
    parser.add_argument(
        "--case", action="append", default=[], metavar="PART", help="only cases with PART in their name"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="PREFIX",
        help="put the tables into PREFIX.md, between its marks, and the plot into PREFIX.svg",
    )
    parser.add_argument("--check", action="store_true", help="fail when a floor is missed")
    return parser


def _list() -> str:
    return "\n".join(f"  {name:<12} {measure.summary}" for name, measure in MEASURES.items())


def _peers(text: str) -> tuple[str, ...]:
    names = tuple(filter(None, text.split(",")))
    for name in names:
        if name not in PEERS and name != "none":
            raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(PEERS)}")
    return names


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


if __name__ == "__main__":
    # A peer must not inherit somebody's proxy settings.
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    sys.exit(main())
