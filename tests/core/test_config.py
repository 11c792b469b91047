"""Tests for gateway.core.config and what it is made of."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.endpoints import serverFromString
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

import gateway
from gateway.core.config import Config, check, load, render, show
from gateway.core.config_model import SECTIONS
from gateway.core.config_services import Section, Target
from gateway.core.config_text import document
from gateway.core.config_types import is_local, parse_endpoint
from gateway.core.dev_pki import authority, make
from gateway.errors import ConfigError

EXAMPLE = """\
# Every service on loopback, as tests and acceptance checks write it.
# Relative paths are relative to this file.
# A service whose issue is not done yet may report its section as unknown; then leave the section out.

[gateway]
state_dir = var/state
run_dir = var/run
public_url = https://localhost:54323

[tls]
certificate = pki/gateway.pem
key = pki/gateway.key

[tokens]
engine_certificate = pki/engine.pem
engine_ca = pki/ca.pem

[policy]
# comma or new line between rules: scheme://network-or-name:ports, * for any
allow =
    *://127.0.0.0/8:*
    *://[::1]/128:*

[control]
listen = unix:var/run/control.sock:mode=660
tcp = tcp:54324:interface=127.0.0.1

[images]
listen = tcp:54323:interface=127.0.0.1
upstream_ca = pki/ca.pem
file_roots = images

[consoles]
listen = tcp:6100:interface=127.0.0.1
origins = *
vnc_ca = pki/ca.pem
spice_ca = pki/ca.pem

[tunnel]
listen = tcp:3128:interface=127.0.0.1
tls_listen = tcp:3129:interface=127.0.0.1
guard = spice

[rpc]
listen = tcp:16515:interface=127.0.0.1

[libvirt]
listen = tcp:16514:interface=127.0.0.1

[target lab]
uri = test+unix:///default?socket=var/run/libvirt-sock

[web]
listen = tcp:54323:interface=127.0.0.1

[metrics]
listen = tcp:9464:interface=127.0.0.1
"""


class ConfigCase(SynchronousTestCase):
    def setUp(self) -> None:
        # Not mktemp(): the path of a socket below it has to fit into 107 bytes.
        self.base = Path(tempfile.mkdtemp(prefix="gw-")).absolute()
        self.addCleanup(shutil.rmtree, self.base)
        self.file = self.base / "gateway.conf"

    def load(self, text: str | bytes) -> Config:
        self.file.write_bytes(text.encode() if isinstance(text, str) else text)
        return load(self.file)

    def drop_in(self, name: str, text: str) -> Path:
        (self.base / "conf.d").mkdir(exist_ok=True)
        path = self.base / "conf.d" / name
        path.write_text(text)
        return path

    def problems(self, text: str | bytes) -> tuple[str, ...]:
        with self.assertRaises(ConfigError) as caught:
            self.load(text)
        problems: tuple[str, ...] = caught.exception.problems
        return problems


class LoadTests(ConfigCase):
    """Reading the files."""

    def test_example(self) -> None:
        """The example works literally, with every path absolute."""
        config = self.load(EXAMPLE)
        assert config.images is not None and config.consoles is not None and config.metrics is not None
        self.assertEqual(config.gateway.state_dir, self.base / "var/state")
        self.assertEqual(config.control.listen, f"unix:{self.base}/var/run/control.sock:mode=660")
        self.assertEqual(config.control.tcp, "tcp:54324:interface=127.0.0.1")
        self.assertEqual(config.images.file_roots, (self.base / "images",))
        self.assertEqual(config.images.connect_timeout, 10.0)
        self.assertEqual(config.policy.allow, ("*://127.0.0.0/8:*", "*://[::1]/128:*"))
        self.assertEqual(
            config.targets["lab"].uri, f"test+unix:///default?socket={self.base}/var/run/libvirt-sock"
        )
        self.assertTrue(config.images.tls)
        self.assertFalse(config.control.tls or config.metrics.tls)
        self.assertEqual(config.unavailable, ())

    def test_libvirt_url(self) -> None:
        """Files of this machine in the URL of a target become absolute; those of the other one stay."""
        uri = "[target lab]\nuri = "
        for text, found in [
            ("test+tls://h/default?pkipath=pki+a", "test+tls://h/default?pkipath={}/pki%20a"),
            (
                "test+ssh://h/default?socket=/run/a&keyfile=id&Known_Hosts=kh&authfile=a",
                "test+ssh://h/default?socket=/run/a&keyfile={0}/id&known_hosts={0}/kh&authfile={0}/a",
            ),
            ("test+ext:///default?command=bin/hop", "test+ext:///default?command={}/bin/hop"),
            ("test+ext:///default?command=hop", "test+ext:///default?command=hop"),
            ("test:///default", "test:///default"),
        ]:
            self.assertEqual(self.load(uri + text).targets["lab"].uri, found.format(self.base), text)
        config = self.load(uri + "test+tls://h/default?bogus=1&pkipath=pki")
        self.assertIn("[target lab] uri: the variable 'bogus' is unknown and ignored", config.warnings)
        (problem,) = self.problems(uri + "qemu+telnet://bob:secret@h/system")
        self.assertIn("[target lab] uri: found 'qemu+telnet://bob:***@h/system', right would be", problem)
        self.assertIn("a libvirt URL such as qemu+tls://host.example/system: transport in URL not", problem)
        (problem,) = self.problems(uri + "qemu+ssh://h/system?socket=run/sock")
        self.assertIn("are absolute paths", problem)

    def test_nothing(self) -> None:
        """An empty file is control alone, and needs no certificate."""
        config = self.load("")
        self.assertEqual([name for name, _ in config.services()], ["control"])
        self.assertEqual(config.limits.connections, 4096)
        self.assertIsNone(config.limits.rate)

    def test_present_is_on(self) -> None:
        """A section that is there is on, with its default place."""
        config = self.load("[metrics]\n")
        assert config.metrics is not None
        self.assertEqual(config.metrics.listen, "tcp:9464:interface=127.0.0.1")
        self.assertIsNone(config.images)

    def test_drop_ins(self) -> None:
        """Drop-ins are read in order of name, the last to name a key wins; paths are the main file's."""
        self.drop_in("20-b.conf", "[limits]\nconnections = 2\n[gateway]\nstate_dir = s\n")
        self.drop_in("10-a.conf", "[limits]\nconnections = 1\nheaders = 7\n")
        self.drop_in("30-c.txt", "nonsense")
        config = self.load("[limits]\nconnections = 3\nhandshakes = 9\n")
        self.assertEqual(
            (config.limits.connections, config.limits.headers, config.limits.handshakes), (2, 7, 9)
        )
        self.assertEqual(config.gateway.state_dir, self.base / "s")
        self.assertEqual([path.name for path in config.files], ["gateway.conf", "10-a.conf", "20-b.conf"])

    def test_empty_takes_back(self) -> None:
        """An empty value in a later file takes back an optional key."""
        self.drop_in("a.conf", "[log]\naudit =\n")
        self.assertIsNone(self.load("[log]\naudit = a.log\n").log.audit)

    def test_frozen(self) -> None:
        """Nothing in it can be changed."""
        config = self.load("")
        for thing, name in [(config, "limits"), (config.limits, "connections")]:
            with self.assertRaises(ValueError):
                setattr(thing, name, 1)

    def test_shared_port(self) -> None:
        """Two services may share a port when both or none speak TLS."""
        tls = "[tls]\ncertificate = c\nkey = k\n"
        self.load(tls + "[images]\n[web]\n")
        (problem,) = self.problems(tls + "[images]\n[web]\ntls = no\n")
        self.assertIn("the same tls for both", problem)


class ProblemTests(ConfigCase):
    """All problems at once, each with its place and what would be right."""

    def test_all_at_once(self) -> None:
        """Problems of several files and kinds come together, each under the file that set the key."""
        other = self.drop_in(
            "a.conf",
            "[images]\nconnect_timeout = 0\n[limits]\nconections = 5\nrate = 0\n[target a b]\nuri = x\n",
        )
        problems = self.problems(
            "[imags]\n[images]\nconnect_timeout = 5s\ntls = maybe\n[portal]\nlisten = ssl:443\n"
        )
        for file, place, what in [
            (self.file, "[imags]", "did you mean images?"),
            (self.file, "[images] tls", "found 'maybe', right would be yes or no"),
            (other, "[images] connect_timeout", "right would be more than zero"),
            (other, "[limits] conections", "did you mean connections?"),
            (other, "[limits] rate", "the word unlimited"),
            (self.file, "[portal] listen", "for TLS say tls = yes"),
            (self.file, "[portal] origin", "is missing"),
            (other, "[target a b]", "unknown section"),
        ]:
            found = [text for text in problems if text.startswith(f"{file}: {place}: ")]
            self.assertEqual(len(found), 1, (place, problems))
            self.assertIn(what, found[0])
        self.assertEqual(len(problems), 8, problems)

    def test_syntax(self) -> None:
        """What is no INI file is reported with its line, and what follows is still judged."""
        cases: list[tuple[str | bytes, str]] = [
            ("x = 1\n", "line 1: a key before the first [section]"),
            ("[images]\nnonsense\n", "line 2: found neither"),
            (b"[log]\n\nlevel = \xff\n", "line 3: found bytes that are no UTF-8"),
            ("[log]\nlevel = info\nlevel = warn\n", "line 3: the key is there twice"),
            ("[log]\n[log]\n", "line 2: the section is there twice"),
            ("[DEFAULT]\nlisten = x\n", "[DEFAULT]: unknown section"),
            ("#" * (1 << 20) + "#", "longer than 1M"),
        ]
        for text, what in cases:
            problems = self.problems(text)
            self.assertTrue(any(what in problem for problem in problems), (what, problems))
        problems = self.problems("[log]\nlevel = loud\n[log]\nformat = xml\n")
        self.assertEqual(len(problems), 3, problems)

    def test_missing_file(self) -> None:
        """A file that is not there is a problem, not an exception."""
        problem = self.assertRaises(ConfigError, load, self.base / "none.conf").problems[0]
        self.assertIn("cannot be read: No such file", problem)

    def test_certificates(self) -> None:
        """They are asked for exactly when some service speaks TLS."""
        problems = self.problems("[images]\n")
        self.assertEqual(len(problems), 2)
        self.assertIn("[tls] certificate: is missing, for images has tls = yes", problems[0])
        self.load("[images]\ntls = no\n")

    def test_control_is_local(self) -> None:
        """Orders come from this host only, and on no port of others."""
        for place in ("tcp = tcp:54324", "listen = tcp:1:interface=192.0.2.1",
                      "tcp = tcp:1:interface=0.0.0.0",
                      r"tcp = tcp:1:interface=\:\:"):  # fmt: skip
            self.assertIn("loopback", self.problems(f"[control]\n{place}\n")[0])
        self.load("[control]\ntcp = tcp:54324:interface=\\:\\:1\n")
        shared = "tcp:9464:interface=127.0.0.1"
        self.assertIn("a place of its own", self.problems(f"[control]\ntcp = {shared}\n[metrics]\n")[0])

    def test_policy(self) -> None:
        """A rule that cannot be read is a problem of the key that has it."""
        self.assertIn("[policy] allow: ", self.problems("[policy]\nallow = https://h:443, bad rule\n")[0])

    def test_secret_not_shown(self) -> None:
        """A password in a URL is shown neither in problems nor in the effective configuration."""
        for url in (
            "redis://u:hunter2@h.invalid",
            "redes://u:hunter2@h.invalid",
            "redis://u:hun/ter2@h",
            "redis u:hunter2",
        ):
            self.assertNotIn("ter2", "".join(self.problems(f"[registry]\nurl = {url}\n")))
        config = self.load("[imagelist]\nlisten = tcp:1\ntls = no\ndatabase = postgresql://u:hunter2@h/db\n")
        self.assertNotIn("hunter2", render(config) + json.dumps(show(config)))
        self.assertIn("postgresql://u:***@h/db", render(config))

    def test_one_line(self) -> None:
        """No value can forge a line of its own in the report."""
        for problem in self.problems("[log]\nlevel = a\n b\x1b[2J\u2028\n[x\x1b]\n"):
            self.assertEqual(len(problem.splitlines()), 1)
            self.assertNotIn("\x1b", problem)

    def judge(self, data: bytes) -> None:
        try:
            config = self.load(data)
        except ConfigError as error:
            self.assertTrue(error.problems)
        else:
            self.assertEqual(load_again(self.base, config), show(config))

    @settings(max_examples=200, deadline=None)
    @given(
        st.binary(max_size=200)
        | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
    )
    def test_soup(self, data: bytes) -> None:
        """Any bytes are a configuration or a ConfigError."""
        self.judge(data)

    _WORDS = st.sampled_from(
        ["[images]", "[limits]", "[target x]", "[target ]", "[", "]", "=", "\n", " ", "listen", "tls",
         "connections",
         "0", "off", "yes", "tcp:1", "unix:", ":", "\\", "uri", "a.sock", "rate",
         "unlimited", "#", ";", ",", "\t",
         "[policy]", "allow", "\r", "[control]", "%", "systemd:", "name=x", "interface=", "\0", "é"]
    )  # fmt: skip

    @settings(max_examples=300, deadline=None)
    @given(st.lists(_WORDS, max_size=30))
    def test_word_soup(self, words: list[str]) -> None:
        """Any order of the words of the language is a configuration or a ConfigError."""
        self.judge("".join(words).encode())

    def test_cuts(self) -> None:
        """The example cut anywhere is a configuration or a ConfigError."""
        data = EXAMPLE.encode()
        for end in range(0, len(data), 3):
            self.judge(data[:end])


def load_again(base: Path, config: Config) -> dict[str, dict[str, str | None]]:
    """What is shown of *config* after it was rendered and read."""
    (base / "again").mkdir(exist_ok=True)
    path = base / "again" / "gateway.conf"
    path.write_text(render(config))
    return show(load(path))


class CheckTests(ConfigCase):
    """Opening what the configuration names."""

    def setUp(self) -> None:
        super().setUp()
        make(self.base / "pki", now=datetime.now(UTC))
        (self.base / "images").mkdir()

    def test_good(self) -> None:
        """The example with its files in place has no problems."""
        self.assertEqual(check(self.load(EXAMPLE)), [])

    def test_with_words(self) -> None:
        """A missing file comes in the same round as a wrong word; a wrong section's defaults do not."""
        (self.base / "pki" / "engine.pem").unlink()
        self.file.write_text(EXAMPLE.replace("state_dir = var/state", "state_dirs = var/state"))
        error = self.assertRaises(ConfigError, load, self.file, opened=True)
        places = [problem.split(": ")[1] for problem in error.problems]
        self.assertEqual(places, ["[gateway] state_dirs", "[tokens] engine_certificate"])

    def test_missing(self) -> None:
        """Every file and directory that is not there is named, with section and key."""
        config = self.load(EXAMPLE + "[log]\naudit = gateway.conf/x/audit.log\n")
        for name in ("gateway.pem", "gateway.key", "ca.pem", "engine.pem"):
            (self.base / "pki" / name).unlink()
        (self.base / "images").rmdir()
        (self.base / "var").write_text("a file in the way")
        found = {problem.split(": ")[1] for problem in check(config)}
        self.assertEqual(
            found,
            {
                "[gateway] state_dir", "[gateway] run_dir", "[tls] certificate", "[tls] key", "[log] audit",
                "[tokens] engine_certificate", "[tokens] engine_ca", "[images] upstream_ca",
                "[images] file_roots", "[consoles] vnc_ca", "[consoles] spice_ca",
            },
        )  # fmt: skip

    def test_log_without_directory(self) -> None:
        """A log is not lost in silence because nobody has made its directory."""
        (problem,) = check(self.load(EXAMPLE + "[log]\naudit = nowhere/audit.log\n"))
        self.assertIn("there is no directory", problem)

    def test_wrong_key(self) -> None:
        """A key that is not that of the certificate is a problem."""
        other = authority(datetime.now(UTC))
        (self.base / "pki" / "gateway.key").write_bytes(other.key_pem)
        (problem,) = check(self.load(EXAMPLE))
        self.assertIn("is not the key of", problem)

    def test_client_pairs(self) -> None:
        """What we show to hosts and hypervisors is a certificate and its own key, or nothing."""
        for section, public, private in (
            ("images", "upstream_certificate", "upstream_key"),
            ("consoles", "client_certificate", "client_key"),
        ):
            one = f"[{section}]\n{public} = pki/gateway.pem\n"
            self.drop_in("a.conf", one)
            (problem,) = self.problems(EXAMPLE)
            self.assertIn(f"[{section}] {private}: {public} and {private} go together", problem)
            self.drop_in("a.conf", f"{one}{private} = pki/engine.key\n")
            (problem,) = check(self.load(EXAMPLE))
            self.assertIn(f"[{section}] {private}: ", problem)
            self.assertIn("is not the key of", problem)
            self.drop_in("a.conf", f"{one}{private} = pki/gateway.key\n")
            self.assertEqual(check(self.load(EXAMPLE)), [])

    def test_addresses(self) -> None:
        """A certificate that SPICE clients do not accept is a warning where there are such."""
        now, tunnel = datetime.now(UTC), "[tunnel]\ntls_listen = tcp:3129:interface="
        for addresses, more, words in (
            ((), tunnel + "127.0.0.1\n", "names no IP address"),
            ((), "[tunnel]\n", "names no IP address"),
            ((), "[tunnel]\ntls_listen = off\n", ""),
            ((), "[tunnel]\ntls_listen = off\ntls = yes\n", "names no IP address"),
            ((), "", ""),
            (("127.0.0.1",), tunnel + "127.0.0.1\n", ""),
            (("127.0.0.1",), tunnel + "0.0.0.0\n", ""),
            (("127.0.0.1",), "[tunnel]\n", ""),
            (("127.0.0.1",), tunnel + "192.0.2.7\n", "does not name 192.0.2.7"),
            (("2001:db8::1",), tunnel + "2001\\:db8\\:0\\:\\:1\n", ""),
        ):
            issued = authority(now).issue("gw", now=now, names=["gw.invalid"], addresses=addresses)
            (self.base / "pki" / "gateway.pem").write_bytes(issued.pem)
            (self.base / "pki" / "gateway.key").write_bytes(issued.key_pem)
            (self.base / "images").mkdir(exist_ok=True)
            base = "[tls]\ncertificate = pki/gateway.pem\nkey = pki/gateway.key\n"
            self.file.write_text(f"[gateway]\nstate_dir = v\nrun_dir = v\n{base}{more}")
            found = load(self.file, opened=True).warnings
            self.assertEqual(len(found), 1 if words else 0, (addresses, more, found))
            self.assertIn(words, "".join(found))
            self.assertEqual(load(self.file).warnings, ())

    def test_key_usage(self) -> None:
        """A certificate that clients of libvirt do not accept is a warning where there are such."""
        now = datetime.now(UTC)
        ca = authority(now)
        made = ca.issue("gw", now=now, names=["gw.invalid"])
        for encipher, critical, more, words in (
            (False, True, "[libvirt]\n", "may not encipher keys"),
            (False, True, "", ""),
            (False, False, "[libvirt]\n", ""),
            (True, True, "[libvirt]\n", ""),
        ):
            usage = x509.KeyUsage(True, False, encipher, *[False] * 6)
            builder = x509.CertificateBuilder().subject_name(made.certificate.subject)
            builder = builder.issuer_name(ca.certificate.subject).public_key(made.key.public_key())
            builder = builder.serial_number(7).add_extension(usage, critical)
            builder = builder.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(9))
            names = x509.SubjectAlternativeName([x509.DNSName("gw.invalid")])
            signed = builder.add_extension(names, False).sign(ca.key, hashes.SHA256())
            (self.base / "pki" / "gateway.pem").write_bytes(signed.public_bytes(Encoding.PEM))
            (self.base / "pki" / "gateway.key").write_bytes(made.key_pem)
            base = "[tls]\ncertificate = pki/gateway.pem\nkey = pki/gateway.key\n"
            self.file.write_text(f"[gateway]\nstate_dir = v\nrun_dir = v\n{base}{more}")
            found = load(self.file, opened=True).warnings
            self.assertEqual(len(found), 1 if words else 0, (encipher, critical, found))
            self.assertIn(words, "".join(found))

    def test_nonsense(self) -> None:
        """Files that hold something else are a problem, and nothing of them is shown."""
        (self.base / "pki" / "gateway.key").write_text("sekret")
        (self.base / "pki" / "ca.pem").write_bytes(b"\xff" * 99)
        problems = check(self.load(EXAMPLE))
        self.assertEqual(len(problems), 5, problems)
        self.assertNotIn("sekret", "".join(problems))


class TextTests(ConfigCase):
    """What is in effect, and the documented file."""

    def test_round_trip(self) -> None:
        """The effective configuration as a file means the same."""
        config = self.load(EXAMPLE)
        self.assertEqual(load_again(self.base, config), show(config))
        json.dumps(show(config))
        self.assertEqual(show(config)["limits"]["rate"], "unlimited")
        self.assertEqual(show(config)["images"]["connect_timeout"], "10s")

    def test_packaged(self) -> None:
        """The packaged file is what the models say, every key of every section."""
        root = Path(inspect.getfile(gateway)).absolute().parent.parent
        text = (root / "conf" / "gateway.conf").read_text()
        self.assertEqual(text, document())
        models: dict[str, type[Section]] = {**SECTIONS, "target NAME": Target}
        for name, model in models.items():
            _, _, rest = text.partition(f"[{name}]\n")
            part = rest.partition("\n\n")[0]
            for key, info in model.model_fields.items():
                self.assertIn(f"\n# {key} =", "\n" + part, (name, key))
                self.assertTrue(info.description, (name, key))
        self.assertEqual([name for name, _ in self.load(text).services()], ["control", "metrics"])

    def test_defaults_read_back(self) -> None:
        """The documented defaults are accepted, and are the defaults."""
        text = re.sub(r"^# (\[|\w+ = )", r"\1", document(), flags=re.MULTILINE)
        for key, value in [("uri", "test:///default"), ("origin", "https://h.invalid"),
                           ("listen", "tcp:8443"),
                           ("certificate", "c"), ("key", "k")]:  # fmt: skip
            text = text.replace(f"# {key} =\n", f"{key} = {value}\n")
        config = self.load(text)
        self.assertEqual({name for name, _ in config.sections()}, {*SECTIONS, "target NAME"})
        for name, section in config.sections():
            for key, info in type(section).model_fields.items():
                if not info.is_required() and key not in ("certificate", "key"):
                    self.assertEqual(getattr(section, key), info.default, (name, key))


class EndpointTests(SynchronousTestCase):
    """Endpoint strings."""

    def test_good(self) -> None:
        """What is accepted, Twisted accepts, and unix paths are absolute."""
        for text, effective in [
            ("tcp:0", "tcp:0"),
            ("tcp:54323:interface=127.0.0.1", "tcp:54323:interface=127.0.0.1"),
            (r"tcp:1:interface=\:\:1:backlog=5", r"tcp:1:interface=\:\:1:backlog=5"),
            ("tcp:port=80", "tcp:port=80"),
            ("unix:a b/c.sock:mode=600", "unix:/base/a b/c.sock:mode=600"),
            ("unix:/x/c.sock", "unix:/x/c.sock"),
            (r"unix:a\:b", r"unix:/base/a\:b"),
            ("unix:address=s:lockfile=0", "unix:/base/s:lockfile=0"),
        ]:
            self.assertEqual(parse_endpoint(text, Path("/base")), effective)
            serverFromString(MemoryReactorClock(), effective)
        self.assertEqual(parse_endpoint("systemd:domain=INET:name=images"), "systemd:domain=INET:name=images")

    def test_bad(self) -> None:
        """What is not is refused with what would be right."""
        for text in ["", "80", "tcp", "tcp:", "tcp:x", "tcp:70000", "tcp:1:2", "tcp:1:interface=",
                     "tcp:1:foo=1",
                     "tcp:1:interface=host.invalid", "unix:", "unix:x:mode=9", "unix:x:mode=660:mode=660",
                     "ssl:1",
                     "systemd:name=x", "systemd:domain=INET", "systemd:domain=INET:name=x:index=0", "tls:443",
                     "exec:ls", "=tcp:1", "tcp=1", "tcp:1\n", "haproxy:tcp:80", "tcp:٣", "unix:\0",
                     "tcp:1:backlog=x",
                     ]:  # fmt: skip
            self.assertRaises(ValueError, parse_endpoint, text)

    def test_long_socket(self) -> None:
        """A unix socket has to fit into its address, directories and all."""
        self.assertEqual(parse_endpoint("unix:" + "x" * 104, Path("/a")), "unix:/a/" + "x" * 104)
        self.assertRaises(ValueError, parse_endpoint, "unix:" + "x" * 105, Path("/a"))

    def test_local(self) -> None:
        """Loopback and unix are local, everything else is not."""
        for text, local in [("tcp:1", False), ("tcp:1:interface=127.0.0.9", True),
                            (r"tcp:1:interface=\:\:1", True),
                            (r"tcp:1:interface=\:\:", False), ("unix:/x", True)]:  # fmt: skip
            self.assertEqual(is_local(text), local, text)
