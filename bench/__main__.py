"""``bench/run``: every figure as a median of interleaved runs, CPU from the kernel's accounting.

CPU seconds are user and system time of the relaying process (``/proc/PID/stat``), per GiB of body.
A ratio is peer divided by gateway: above 1 the gateway is cheaper.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import ssl
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from bench.proxy import ImageioProxy
from tests.functional.peers import Daemon, Gateway, short_directory

MIB = 1 << 20
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu(pid: int) -> float:
    """CPU seconds that process *pid* has used. Source: proc(5), fields 14 and 15 of stat."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def transfer(method: str, url: str, ca: Path, source: Path) -> None:
    """One upload or download by curl, the same light client for all."""
    command = ["curl", "-sS", "--fail", "--http1.1", "--cacert", str(ca), "--max-time", "120", url]
    command += ["-T", str(source)] if method == "PUT" else ["-o", "/dev/null"]
    subprocess.run(command, check=True, timeout=130)


def images(directory: Path, runs: int, size: int) -> dict[str, object]:
    """Relay one image through the gateway and through ovirt-imageio's own proxy, TLS on both sides."""
    gateway = Gateway(directory)
    pki = (gateway.ca, gateway.certificate, gateway.key)
    daemon = Daemon(directory, pki)
    proxy = ImageioProxy(directory, pki)
    image, source = directory / "images" / "bench.raw", directory / "source"
    with image.open("wb") as file:
        file.truncate(size)
    with source.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    ticket_id = str(uuid.uuid4())
    ticket = {
        "uuid": ticket_id,
        "size": size,
        "url": image.as_uri(),
        "timeout": 3600,
        "ops": ["read", "write"],
    }
    results: dict[str, dict[str, list[tuple[float, float]]]] = {}
    try:
        gateway.start()
        daemon.start()
        proxy.start()
        daemon.put(ticket)
        relay = {**ticket, "url": daemon.url(ticket_id)}
        gateway.put(relay)
        proxy.put(relay)
        targets = {"gateway": (gateway.pid, gateway.port), "ovirt-imageio": (proxy.pid, proxy.port)}
        for run in range(runs + 1):
            for name, (pid, port) in targets.items():
                for method in ("GET", "PUT"):
                    url = f"https://localhost:{port}/images/{ticket_id}"
                    before, begin = cpu(pid), time.monotonic()
                    transfer(method, url, gateway.ca, source)
                    used, seconds = cpu(pid) - before, time.monotonic() - begin
                    # The first run warms up.
                    if run:
                        results.setdefault(method, {}).setdefault(name, []).append((used, seconds))
    finally:
        for peer in (proxy, gateway, daemon):
            peer.kill()
    gib = size / (1 << 30)
    found: dict[str, object] = {}
    for method, by_name in results.items():
        costs = {name: [used / gib for used, _ in pairs] for name, pairs in by_name.items()}
        medians = {name: statistics.median(cost) for name, cost in costs.items()}
        row: dict[str, object] = {
            name: {
                "cpu_s_per_gib": round(medians[name], 3),
                "cpu_min_max": [round(min(costs[name]), 3), round(max(costs[name]), 3)],
                "mib_per_s": round(statistics.median(size / MIB / seconds for _, seconds in pairs), 1),
            }
            for name, pairs in by_name.items()
        }
        row["ratio"] = round(medians["ovirt-imageio"] / medians["gateway"], 2)
        found[method.lower()] = row
    return found


def idle(directory: Path, runs: int, size: int) -> dict[str, object]:
    """Memory of an idle TLS keep-alive connection after one request, and of one that is silent."""
    gateway = Gateway(directory)
    gateway.start(descriptors=8192)
    count = 2000
    try:
        context = gateway.context()
        warm = [_connection(gateway, context) for _ in range(50)]
        before = gateway.rss()
        kept = [_connection(gateway, context) for _ in range(count)]
        grown = gateway.rss() - before
        del warm, kept
    finally:
        gateway.kill()
    return {"connections": count, "kib_each": round(grown / count / 1024, 1)}


def _connection(gateway: Gateway, context: ssl.SSLContext) -> ssl.SSLSocket:
    connection = gateway.connect()
    connection.sendall(b"GET /info/ HTTP/1.1\r\nhost: localhost\r\n\r\n")
    answer = b""
    while b"}" not in answer:
        answer += connection.recv(4096)
    return connection


MEASURES: dict[str, Callable[[Path, int, int], dict[str, object]]] = {"images": images, "idle": idle}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    parser.add_argument("what", nargs="*", choices=[*MEASURES, []], help="default: all")
    parser.add_argument("--runs", type=int, default=5, help="interleaved runs (5)")
    parser.add_argument("--size", type=int, default=256, help="MiB of each transfer (256)")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args()
    results: dict[str, object] = {
        "load": os.getloadavg()[0],
        "openssl": {"system": ssl.OPENSSL_VERSION, "gateway": _gateway_openssl()},
    }
    for name in options.what or MEASURES:
        directory = short_directory()
        try:
            results[name] = MEASURES[name](directory, options.runs, options.size * MIB)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    json.dump(results, sys.stdout, indent=None if options.json else 2)
    print()  # noqa: T201


def _gateway_openssl() -> str:
    from OpenSSL import SSL

    return str(SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode("ascii"))


if __name__ == "__main__":
    main()
