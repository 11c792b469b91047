"""The upstream project's own test suite, which knows nothing of us, run through our gateway."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.functional.case import PYTEST_ONLY
from tests.functional.commands import need, need_imageio, run
from tests.functional.peers import Gateway
from tests.functional.processes import MIB, short_directory

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

_RELEASE = "2.5.1"
_CACHE = Path(__file__).parents[2] / "var" / "peers"
_INI = "[pytest]\nmarkers =\n    benchmark: slow\naddopts = -p no:cacheprovider\n"
#: They fake the server's clock, patch its inside, or demand the unix socket that a gateway must hide.
_NOT_OURS = (
    "not local and not extends_ticket and not test_options_ticket_expired"
    " and not test_download_progress and not test_options_all"
)


def _sources() -> Path:
    """The source distribution, downloaded once: the installed package comes without its tests."""
    archive = _CACHE / f"ovirt_imageio-{_RELEASE}.tar.gz"
    if not archive.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        wanted = ["--no-deps", "--no-binary", ":all:", f"ovirt-imageio=={_RELEASE}"]
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q"]
        # Whoever looks at the same time finds all of it, or nothing.
        with TemporaryDirectory(dir=_CACHE) as unfinished:
            try:
                run([*pip, "-d", unfinished, *wanted])
            except AssertionError as error:
                raise AssertionError(
                    f"the sources of ovirt-imageio are missing: put {archive.name} into {_CACHE}, or let pip"
                    f" reach its index\n{error}"
                ) from None
            (Path(unfinished) / archive.name).rename(archive)
    return archive


class UpstreamSuiteTests(SynchronousTestCase):
    """Somebody else's idea of what an image server does."""

    home: ClassVar[Path]
    suite: ClassVar[Path]
    gateways: ClassVar[dict[str, Gateway]]

    @classmethod
    def setUpClass(cls) -> None:
        need_imageio()
        need("qemu-img", "apt install qemu-utils")
        need("qemu-nbd", "apt install qemu-utils")
        cls.home = short_directory()
        cls.addClassCleanup(shutil.rmtree, cls.home, ignore_errors=True)
        # Python's own way to do that safely came with 3.11.4.
        run([need("tar", "apt install tar"), "-xf", str(_sources()), "-C", str(cls.home), "--no-same-owner"])
        sources = cls.home / f"ovirt_imageio-{_RELEASE}"
        cls.suite = cls.home / "suite"
        shutil.copytree(sources / "test", cls.suite / "test")
        shutil.copy(sources / "storage.py", cls.suite)
        shutil.copy(Path(__file__).with_name("via_gateway.py"), cls.suite)
        (cls.suite / "pytest.ini").write_text(_INI)
        for conf in (cls.suite / "test" / "conf").glob("*.conf"):
            conf.write_text(conf.read_text().replace("[remote]\n", "[remote]\nhost = 127.0.0.1\n"))
        cls.gateways = {name: cls._gateway(name) for name in ("system", "user")}

    @classmethod
    def _gateway(cls, name: str) -> Gateway:
        """A gateway that goes by the suite's own certificate *name*."""
        pki = cls.suite / "test" / "pki"
        directory = cls.home / name
        directory.mkdir()
        gateway = Gateway(
            directory,
            {
                "tls": {"certificate": str(pki / name / "cert.pem"), "key": str(pki / name / "key.pem")},
                "images": {"upstream_ca": str(pki / "system" / "ca.pem"), "file_roots": "/"},
                # The suite asks for unknown tickets all the time.
                "limits": {"auth_failures": "100000", "max_body_control": "1M"},
            },
        )
        gateway.start()
        cls.addClassCleanup(gateway.stop)
        return gateway

    def run_suite(self, mode: str, *arguments: str) -> dict[str, int]:
        """Run a part of the suite; return how many passed, failed and so on."""
        pki = {name: (it.port, it.control_port) for name, it in self.gateways.items()}
        settings = json.dumps({"mode": mode, "pki": pki})
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "via_gateway", "-q", "-rfE", "--tb=short", *arguments],
            cwd=self.suite,
            env={**os.environ, "VIA_GATEWAY": settings, "PYTHONWARNINGS": "default"},
            capture_output=True,
            text=True,
            timeout=700,
            check=False,
        )
        last = done.stdout.strip().rpartition("\n")[2]
        print(f"{mode}: {last}")  # noqa: T201 (the counts are what one wants to see)
        counts = {
            word: int(number) for number, word in re.findall(r"([0-9]+) ([a-z]+)", last.partition(" in ")[0])
        }
        for word in ("deselected", "warning", "warnings"):
            counts.pop(word, None)
        if done.returncode != 0:
            print(done.stdout[-MIB // 4 :], done.stderr[-2000:])  # noqa: T201 (why it failed)
        return counts

    @pytest.mark.timeout(720)
    def test_images(self) -> None:
        """Every case that the real proxy passes out of process passes here: 184 of them."""
        counts = self.run_suite(
            "images",
            "test/client_test.py",
            *(f"test/handlers/{it}_test.py" for it in ("images", "extents", "checksum", "info")),
            *("-m", "not benchmark", "-k", _NOT_OURS),
        )
        self.assertEqual(counts, {"passed": 184, "xfailed": 12})

    @pytest.mark.timeout(720)
    def test_file(self) -> None:
        """The same cases pass when the gateway serves the files itself, but for two that fake a clock."""
        counts = self.run_suite(
            "file",
            "test/client_test.py",
            *(f"test/handlers/{it}_test.py" for it in ("images", "extents", "checksum", "info")),
            *("-m", "not benchmark", "-k", _NOT_OURS),
        )
        self.assertEqual(counts, {"passed": 182, "xfailed": 12})

    @pytest.mark.timeout(720)
    def test_nbd(self) -> None:
        """The cases that have an NBD server pass when the gateway speaks to it without any daemon."""
        counts = self.run_suite(
            "nbd",
            *("test/client_test.py", "test/handlers/checksum_test.py"),
            *("-m", "not benchmark", "-k", _NOT_OURS),
        )
        self.assertEqual(counts, {"passed": 19})

    def test_control(self) -> None:
        """The control port answers the engine as the original does."""
        counts = self.run_suite("control", "test/handlers/tickets_test.py")
        self.assertEqual(counts, {"passed": 36})

    def test_proxy(self) -> None:
        """The gateway stands in for the real proxy: errors pass through, and each side has its own PKI."""
        counts = self.run_suite("proxy", "test/proxy_test.py")
        self.assertEqual(counts, {"passed": 17})
