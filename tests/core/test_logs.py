"""Tests for gateway.core.logs and gateway.core.log_lines."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.application import service
from twisted.internet.defer import FirstError
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher, formatEvent, globalLogPublisher
from twisted.python import log as old
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from gateway.core.audit import Audit
from gateway.core.batch import BATCH
from gateway.core.config_model import Config, Log
from gateway.core.log_lines import members, plain
from gateway.core.logs import LoggedService, Logs, Sink, capture, observer
from gateway.core.masking import clean

ID = "8f14e45f-ceea-467f-a8c2-0123456789ab"
CANARIES = {
    "ticket": ID,
    "base64": "Q2FuYXJ5" * 40,
    "password": "hunter2canary",
    "token": "t0kencanary",
    "header": "dXNlcjpjYW5hcnk=",
    "pem": "MIIEvQcanaryANBgkqhkiG9w0BAQ",
}
#: Every canary, in the clothes in which it travels.
TEXTS = [
    f"/images/{ID}",
    f"No such ticket '{ID}'",
    CANARIES["base64"],
    f"password={CANARIES['password']}",
    f"?token={CANARIES['token']}&a=b",
    f"Authorization: Basic {CANARIES['header']}",
    f"-----BEGIN PRIVATE KEY-----\n{CANARIES['pem']}\n-----END PRIVATE KEY-----",
]


#: What an event may hold.
FIELDS = st.dictionaries(
    st.text(max_size=9) | st.sampled_from(["ticket", "peer", "password"]),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=9,
    ),
    max_size=4,
)


def first_error(text: str) -> FirstError:
    return FirstError(Failure(OSError(text)), 0)


WRAPS: list[Callable[[str], BaseException]] = [RuntimeError, KeyError, first_error]


class Speaker:
    """An object whose every face holds a secret."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def say(self) -> str:
        return self.text

    def __getitem__(self, key: str) -> str:
        return self.text


class Broken:
    def __str__(self) -> str:
        raise RuntimeError(f"password={CANARIES['password']}")

    __repr__ = __str__


def failure(make: Callable[[], BaseException]) -> Failure:
    local = CANARIES["password"]  # never to be seen: frames go without their locals
    try:
        try:
            raise ValueError(f"inner {TEXTS[3]} {TEXTS[0]}")
        except ValueError as error:
            assert local
            raise make() from error
    except BaseException:
        return Failure(captureVars=True)


class LogCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()

    def logs(self, **options: Any) -> tuple[Logs, Logger]:
        logs = Logs(Sink(self.path), **options)
        self.addCleanup(logs.close)
        return logs, Logger(namespace="gateway.test", observer=LogPublisher(logs))

    @property
    def written(self) -> str:
        return self.path.read_text()


class CanaryTests(LogCase):
    """Nothing secret is ever written."""

    def plant(self, log: Logger) -> int:
        """Log every canary in every way; how many events that made."""
        count = 0
        for level in (LogLevel.info, LogLevel.critical):
            for text in TEXTS:
                for value in (
                    text,
                    text.encode(),
                    [text],
                    {"key": text},
                    {"a": [{"b": (text,)}]},
                    Speaker(text),
                ):
                    log.emit(level, "got {value} {value!r} {value!s:>9}", value=value)
                    log.emit(level, "nothing", value=value)
                    log.emit(level, "other {nothing} {value.bad}", value=value)
                    count += 3
                log.emit(level, "{s.text} {s[x]} {s()} {s.say()}", s=Speaker(text))
                log.emit(level, text.replace("{", "{{"))
                log.emit(level, "x", **{f"name {text}": 1})
                count += 3
                for wrap in WRAPS:
                    log.failure("broken {x}", failure(partial(wrap, text)), level=level, x=text)
                    count += 1
        for name in ("password", "token", "authorization", "cookie"):
            log.info("{" + name + "}", **{name: CANARIES["password"]})
            log.info("x", **{name: {"a": CANARIES["token"]}})
            log.info("{" + name + "[a]} {" + name + "}", **{name: {"a": CANARIES["token"]}})
            log.info("x", nested={name: [CANARIES["token"]]})
            count += 4
        log.info("{ticket_id}", ticket_id=ID)
        log.info("{b}", b=Broken())
        log.info("{b.x}", b=Broken())
        log.info("x", b=Broken(), f=CANARIES["header"] and float("nan"), big=10**5000)
        return count + 4

    def assert_clean(self, text: str) -> None:
        for name, secret in CANARIES.items():
            self.assertNotIn(secret, text, name)
            self.assertNotIn(secret[:12], text, name)

    def test_json(self) -> None:
        """In JSON nothing leaks, every line parses, and one event is one line."""
        _, log = self.logs(json=True)
        count = self.plant(log)
        lines = self.written.split("\n")[:-1]
        self.assertEqual(len(lines), count)
        records = [json.loads(line) for line in lines]
        self.assert_clean(self.written)
        self.assertTrue(any("traceback" in record for record in records))
        self.assertTrue(all(record["namespace"] == "gateway.test" for record in records))

    def test_text(self) -> None:
        """In text nothing leaks, and only lines of tracebacks follow their event, indented."""
        _, log = self.logs()
        count = self.plant(log)
        self.assert_clean(self.written)
        lines = self.written.split("\n")[:-1]
        self.assertEqual(len([line for line in lines if not line.startswith("    ")]), count)

    def test_old_log(self) -> None:
        """Lines of Twisted's older log pass through the same mask."""
        logs, _ = self.logs()
        publisher = old.LogPublisher(publishPublisher=(target := LogPublisher(logs)))
        self.assertIsNotNone(target)
        for text in TEXTS:
            publisher.msg(text)
            publisher.msg(eventSource=1, format="%(x)s", x=text)
            publisher.msg(failure=failure(partial(OSError, text)), isError=1, why=text)
        self.assert_clean(self.written)
        self.assertIn("<base64>", self.written)
        self.assertIn("Traceback", self.written)

    def test_audit(self) -> None:
        """Audit records pass through it too, and a ticket id that slipped in becomes its fingerprint."""
        _, log = self.logs()
        log.namespace = "gateway.audit"
        audit = Audit(log, lambda: 0.0, Clock(), "host.invalid", 1, "b")
        for text in TEXTS:
            audit("ticket.refused", principal=text, reason=text, ticket=ID, target=text)
        self.assert_clean(self.written)


class LogTests(LogCase):
    """Lines, levels and files."""

    def test_line(self) -> None:
        """A text line has time, level, namespace and text, and cannot be forged."""
        _, log = self.logs()
        log.info("peer {peer} left", peer="x\n2026-01-01T00:00:00.000Z INFO gateway: forged\u2028\x1b[2J")
        self.assertRegex(
            self.written, r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO gateway\.test: peer x\\n2026"
        )
        self.assertEqual(len(self.written.splitlines()), 1)
        self.assertNotIn("\x1b", self.written)

    def test_formats(self) -> None:
        """A format means what Twisted means by it, however it is written down, and whatever it lacks."""
        fields: dict[str, Any] = {"peer": "x", "seconds": 1.5, "nothing": None, "call": lambda: "called"}
        fields |= {"_log": "own", "at": Clock(), "many": [1]}
        for wanted in (
            "{peer}", "", "{{{peer}}} {{peer}}", "{seconds:.3f} s", "{seconds:>9}", "{seconds!r}", "{call()}",
            "{call}", "{peer:.3f}", "{nothing:.3f}", "{none}", "{peer", "}", "{}", "{0}", "{at.rightNow}",
            "{many[0]}", "{_log}", "%(peer)s", "{log_level}", "{log_namespace}", "{seconds:{peer}}",
            "{peer!x}",
        ):  # fmt: skip
            _, log = self.logs()
            before = len(self.written)
            log.info(wanted, **fields)
            line = self.written[before:]
            event = {
                "log_format": wanted,
                "log_level": LogLevel.info,
                "log_namespace": "gateway.test",
                **fields,
            }
            expected = formatEvent(event)
            if not expected.startswith("Unable to format event"):
                self.assertEqual(line.partition(": ")[2], clean(expected, 4096) + "\n", wanted)
            else:
                self.assertIn(": Unable to format event", line, wanted)

    def test_fields(self) -> None:
        """JSON keeps plain fields as they are, and cuts long ones."""
        _, log = self.logs(json=True)
        log.warn("ticket {kind}", kind="image", size=5, share=0.5, gone=None, good=True, long="ab " * 999)
        record = json.loads(self.written)
        self.assertEqual((record["level"], record["text"]), ("warn", "ticket image"))
        fields = record["fields"]
        self.assertEqual([fields[k] for k in ("size", "share", "gone", "good")], [5, 0.5, None, True])
        self.assertEqual(len(fields["long"]), 256)
        log.info(
            "{speaker} {speaker!s} {speaker.text} {long}", speaker=Speaker("cd " * 999), long="ab " * 999
        )
        self.assertEqual(len(json.loads(self.written.splitlines()[1])["text"]), 4 * 256 + 3)

    def test_level(self) -> None:
        """Events below the level are not written, audit records always are."""
        logs, log = self.logs(level=LogLevel.warn)
        log.info("quiet")
        self.assertEqual(self.written, "")
        logs.level = LogLevel.debug
        log.debug("loud")
        self.assertIn("DEBUG gateway.test: loud", self.written)
        logs.level = LogLevel.critical
        Logger(namespace="gateway.audit", observer=logs).info(
            "{event}", event="start", audit='{"event": "start"}'
        )
        self.assertIn('AUDIT gateway.audit: {"event": "start"}', self.written)

    def test_audit_file(self) -> None:
        """Audit records also have a file of their own, JSON lines, whatever the format of the log."""
        path = Path(self.mktemp()).absolute()
        logs, log = self.logs(audit=Sink(path))
        audit = Audit(Logger(namespace="gateway.audit", observer=logs), lambda: 0.0, Clock(), "h", 1, "b")
        audit("ticket.issued", kind="image", ticket="3fa9c1d2e4b7", bytes_in=5)
        log.info("nothing for the trail")
        records = [json.loads(line) for line in path.read_text().splitlines()]
        self.assertEqual([(r["event"], r["ticket"], r["bytes_in"]) for r in records],
                         [("ticket.issued", "3fa9c1d2e4b7", 5)])  # fmt: skip

    def test_reopen(self) -> None:
        """After rotation lines go to the new file; when it cannot be opened the old one stays."""
        logs, log = self.logs()
        log.info("one")
        moved = self.path.rename(self.path.with_suffix(".1"))
        log.info("two")
        logs.reopen()
        log.info("three")
        self.assertEqual([len(p.read_text().splitlines()) for p in (moved, self.path)], [2, 1])
        self.path.rename(self.path.with_suffix(".2"))
        self.path.mkdir()
        logs.reopen()
        log.info("four")
        self.assertEqual(len(self.path.with_suffix(".2").read_text().splitlines()), 2)

    def test_full_disk(self) -> None:
        """A full disk loses lines and counts them, and nobody notices an exception."""
        dropped: list[str] = []
        config = Config(file=Path("/x"), files=(), log=Log(file=Path("/dev/full"), audit=Path("/dev/full")))
        logs = observer(config, dropped.append)
        self.addCleanup(logs.close)
        Logger(namespace="a", observer=logs).info("lost")
        Logger(namespace="gateway.audit", observer=logs).info("{event}", event="x", audit="{}")
        self.assertEqual((dropped, logs.log.dropped), (["log", "audit", "log"], 2))

    def test_torn_line(self) -> None:
        """After half a line was written the next one begins on a line of its own."""
        sink = Sink(self.path)
        self.addCleanup(sink.close)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
            sink.write("0123456789abcdef")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        self.assertEqual(sink.dropped, 1)
        sink.write("whole")
        self.assertEqual(self.written, "0123456789\nwhole\n")

    def test_batch(self) -> None:
        """Lines of one batch are written when it is over; what is lost is counted line by line."""
        sink, full = Sink(self.path), Sink(Path("/dev/full"))
        self.addCleanup(full.close)
        with BATCH:
            sink.write("one")
            sink.write("two")
            full.write("one")
            full.write("two")
            self.assertEqual((self.written, full.dropped), ("", 0))
        self.assertEqual((self.written, full.dropped), ("one\ntwo\n", 2))
        with BATCH:
            sink.write("three")
            sink.close()
        self.assertEqual(self.written, "one\ntwo\nthree\n")

    def test_rotation_in_batch(self) -> None:
        """What was said before a file was reopened goes to the old one."""
        sink = Sink(self.path)
        self.addCleanup(sink.close)
        with BATCH:
            sink.write("one")
            moved = self.path.rename(self.path.with_suffix(".1"))
            sink.reopen()
            sink.write("two")
        self.assertEqual((moved.read_text(), self.written), ("one\n", "two\n"))

    def test_mode(self) -> None:
        """A new file is not for everybody."""
        self.logs()
        self.assertEqual(self.path.stat().st_mode & 0o007, 0)

    def test_python(self) -> None:
        """Python's logging and warnings come along, until undone."""
        logs, _ = self.logs(json=True)
        globalLogPublisher.addObserver(logs)
        self.addCleanup(globalLogPublisher.removeObserver, logs)
        undo = capture()
        try:
            logging.getLogger("lib").warning("hello %s", f"password={CANARIES['password']}")
            odd = {"name": "lib", "levelno": 30, "msg": "%d", "args": ("no number",)}
            logging.getLogger().handlers[-1].handle(logging.makeLogRecord(odd))
            try:
                raise OSError(TEXTS[0])
            except OSError:
                logging.getLogger("lib").exception("bad")
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn("old thing", UserWarning, stacklevel=1)
        finally:
            undo()
        logging.getLogger("lib").debug("after")
        records = [json.loads(line) for line in self.written.splitlines()]
        self.assertEqual([r["namespace"] for r in records], ["python.lib"] * 3 + ["python.py.warnings"])
        self.assertEqual(records[0]["text"], "hello password=***")
        self.assertIn("OSError", records[2]["traceback"])
        self.assertIn("old thing", records[3]["text"])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_twistd(self) -> None:
        """The service that ``makeService`` returns makes its observer that of the application."""
        logs, _ = self.logs()
        application = service.Application("gateway")
        LoggedService(logs).setServiceParent(application)
        self.assertIs(application.getComponent(ILogObserver), logs)

    @settings(max_examples=100, deadline=None)
    @given(FIELDS)
    def test_any_fields(self, fields: dict[str, object]) -> None:
        """Whatever the fields, the record is strict JSON on one line."""
        line = json.dumps(plain("x", fields), allow_nan=False, ensure_ascii=False)
        json.loads(line)
        self.assertEqual(len(line.splitlines()), 1)

    @settings(max_examples=100, deadline=None)
    @given(FIELDS)
    def test_any_record(self, fields: dict[str, object]) -> None:
        """An audit record holds what its fields are when they are clean, whatever was in the one before."""
        for record in (fields, {name: str(value) for name, value in fields.items()}, fields):
            line = f"{{{members(record)}}}"
            self.assertEqual(json.loads(line), json.loads(json.dumps(plain("audit", record))))
            self.assertEqual(len(line.splitlines()), 1)

    def test_standard_error(self) -> None:
        """Without a file lines go to descriptor 2, which is never closed."""
        sink = Sink()
        sink.close()
        sink.reopen()
        reader, writer = os.pipe()
        saved = os.dup(2)
        try:
            os.dup2(writer, 2)
            sink.write("to stderr")
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            self.assertEqual(stream.read(), b"to stderr\n")
