"""Volumes and consoles of hypervisors, for those who serve them; the test is the hypervisor."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.rpc.planes import Planes
from gateway.rpc.volume_stream import VolumeDownload, VolumeUpload
from gateway.wire.hypervisor_url import ConsolePlace, VolumePlace
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import procedure
from gateway.wire.volume_xml import VolumeInfo
from tests.rpc.fake_stream import FakeStream
from tests.wire.test_volume_xml import QCOW2

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
POOL = {"name": "p1", "uuid": UUID}
VOLUME = {"pool": "p1", "name": "v1", "key": "/k"}
PLACE = VolumePlace("lab", "p1", "v1")
LINE, SCREEN = ConsolePlace("lab", UUID), ConsolePlace("lab", UUID, None, 1)
WHO = {"principal": "alice"}


class Hypervisor:
    """Answers calls, after it has held them to their schema.

    :ivar said: names and arguments of all calls.
    :ivar fails: what the call of that name fails with.
    """

    def __init__(self) -> None:
        self.said: list[tuple[str, Mapping[str, object]]] = []
        self.fails: dict[str, errors.GatewayError] = {}
        self.xml = QCOW2
        self.open: Any = FakeStream()

    async def call(self, name: str, arguments: Mapping[str, object], *, principal: str) -> dict[str, Any]:
        self._take(name, arguments, principal)
        answers: dict[str, dict[str, Any]] = {
            "STORAGE_POOL_LOOKUP_BY_NAME": {"pool": POOL},
            "STORAGE_VOL_LOOKUP_BY_NAME": {"vol": VOLUME},
            "STORAGE_VOL_GET_XML_DESC": {"xml": self.xml},
        }
        return answers[name]

    async def stream(
        self, name: str, arguments: Mapping[str, object], *, principal: str
    ) -> tuple[dict[str, Any], Any]:
        self._take(name, arguments, principal)
        return {}, self.open

    async def descriptor(self, name: str, arguments: Mapping[str, object], *, principal: str) -> int:
        self._take(name, arguments, principal)
        return 77

    def _take(self, name: str, arguments: Mapping[str, object], principal: str) -> None:
        assert principal == "alice"
        procedure(name).arguments.pack(arguments)
        self.said.append((name, arguments))
        if name in self.fails:
            raise self.fails[name]


class _Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.hypervisor = Hypervisor()
        self.planes = Planes({"lab": self.hypervisor})

    def ok(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(work))

    def fails(self, kind: type[BaseException], work: Coroutine[Any, Any, Any]) -> Any:
        return self.failureResultOf(Deferred.fromCoroutine(work), kind).value


class PlanesTests(_Case):
    """What is asked of a hypervisor."""

    def test_info(self) -> None:
        """A volume is looked up by names, and described by its XML."""
        self.assertEqual(self.ok(self.planes.info(PLACE, **WHO)), VolumeInfo(4194304, 196616, "qcow2"))
        self.assertEqual(
            self.hypervisor.said,
            [
                ("STORAGE_POOL_LOOKUP_BY_NAME", {"name": "p1"}),
                ("STORAGE_VOL_LOOKUP_BY_NAME", {"pool": POOL, "name": "v1"}),
                ("STORAGE_VOL_GET_XML_DESC", {"vol": VOLUME, "flags": 0}),
            ],
        )

    def test_nonsense(self) -> None:
        """A hypervisor that describes a volume without a size has failed."""
        self.hypervisor.xml = "<volume/>"
        self.assertEqual(
            self.fails(errors.UpstreamFailed, self.planes.info(PLACE, **WHO)).reason, "malformed"
        )

    def test_streams(self) -> None:
        """A transfer names its range, and no holes."""
        self.ok(self.planes.download(PLACE, 10, 20, **WHO))
        self.ok(self.planes.upload(PLACE, 30, 40, **WHO))
        asked = [it for it in self.hypervisor.said if it[0].endswith("LOAD")]
        self.assertEqual(
            asked,
            [
                ("STORAGE_VOL_DOWNLOAD", {"vol": VOLUME, "offset": 10, "length": 20, "flags": 0}),
                ("STORAGE_VOL_UPLOAD", {"vol": VOLUME, "offset": 30, "length": 40, "flags": 0}),
            ],
        )

    def test_line(self) -> None:
        """A line is opened by uuid; by force only when somebody asks for that."""
        for device, force in ((None, False), ("serial1", True)):
            opened = self.ok(self.planes.open_line(evolve(LINE, device=device), force=force, **WHO))
            self.assertIs(opened, self.hypervisor.open)
            name, arguments = self.hypervisor.said.pop()
            dom = {"name": "", "uuid": UUID, "id": -1}
            self.assertEqual(name, "DOMAIN_OPEN_CONSOLE")
            self.assertEqual(arguments, {"dom": dom, "dev_name": device, "flags": int(force)})

    def test_graphics(self) -> None:
        """A screen is opened so that it asks for no password."""
        self.assertEqual(self.ok(self.planes.open_graphics(SCREEN, **WHO)), 77)
        [(name, arguments)] = self.hypervisor.said
        self.assertEqual((name, arguments["idx"], arguments["flags"]), ("DOMAIN_OPEN_GRAPHICS_FD", 1, 1))

    def test_unknown(self) -> None:
        """A hypervisor that the configuration does not name is asked nothing."""
        for work in (
            self.planes.info(evolve(PLACE, target="x"), **WHO),
            self.planes.upload(evolve(PLACE, target="x"), 0, 1, **WHO),
            self.planes.open_line(evolve(LINE, target="x"), force=False, **WHO),
            self.planes.open_graphics(evolve(SCREEN, target="x"), **WHO),
        ):
            self.fails(errors.NoTarget, work)

    def test_words(self) -> None:
        """Refusals have our words and a fitting status; libvirt's own text, which holds paths, is logged."""
        for code, status in ((50, 404), (29, 403), (9, 409), (3, 501), (68, 504), (38, 502), (8, 502)):
            refusal = LibvirtError(code, text="cannot open /secret/path")
            for name, work in (
                ("STORAGE_VOL_LOOKUP_BY_NAME", self.planes.info(PLACE, **WHO)),
                ("STORAGE_VOL_DOWNLOAD", self.planes.download(PLACE, 0, 1, **WHO)),
                ("DOMAIN_OPEN_CONSOLE", self.planes.open_line(LINE, force=False, **WHO)),
                ("DOMAIN_OPEN_GRAPHICS_FD", self.planes.open_graphics(SCREEN, **WHO)),
            ):
                self.hypervisor.fails = {name: refusal}
                error = self.fails(errors.GatewayError, work)
                self.assertEqual((error.status, error.reason), (status, f"libvirt-{code}"))
                self.assertNotIn("secret", error.text)
                self.assertEqual("console" in error.text, (code, name) == (9, "DOMAIN_OPEN_CONSOLE"))

    def test_lost(self) -> None:
        """A connection that is lost, or silent, is a host that failed; it may come back."""
        for failure, kind in (
            (errors.Interrupted(maybe_executed=True), errors.UpstreamFailed),
            (errors.DeadlinePassed(maybe_executed=True), errors.UpstreamTimeout),
            (errors.TargetDown(), errors.TargetDown),
            (errors.Busy(), errors.Busy),
        ):
            self.hypervisor.fails = {"STORAGE_POOL_LOOKUP_BY_NAME": failure}
            self.fails(kind, self.planes.info(PLACE, **WHO))


class DownloadTests(SynchronousTestCase):
    """A volume on its way out."""

    def setUp(self) -> None:
        self.stream = FakeStream()
        self.got = bytearray()
        self.source = VolumeDownload(self.stream, 10)
        self.done = self.source.deliver(self.got.extend)

    def test_whole(self) -> None:
        """All bytes pass, and the connection is given back."""
        self.stream.says(bytes(4))
        self.source.pauseProducing()
        self.stream.says(bytes(6))
        self.stream.hangs_up()
        self.assertEqual((len(self.got), self.stream.closed), (4, False))
        self.source.resumeProducing()
        self.successResultOf(self.done)
        self.assertEqual((len(self.got), self.stream.closed), (10, True))

    def test_other_amount(self) -> None:
        """A volume that is shorter, or longer, than it was said to be is not taken for the whole."""
        self.stream.says(bytes(9))
        self.stream.hangs_up()
        self.assertEqual(self.failureResultOf(self.done, errors.UpstreamFailed).value.reason, "malformed")
        self.setUp()
        self.stream.says(bytes(11))
        self.failureResultOf(self.done, errors.UpstreamFailed)
        self.assertEqual((len(self.got), self.stream.closed), (0, True))

    def test_breaks(self) -> None:
        """What breaks it off is told in words, and the connection is closed."""
        for failure, kind in (
            (LibvirtError(38, text="/secret"), errors.UpstreamFailed),
            (errors.Interrupted(maybe_executed=False), errors.UpstreamFailed),
        ):
            self.setUp()
            self.stream.breaks(failure)
            self.assertNotIn("secret", self.failureResultOf(self.done, kind).value.text)
            self.assertTrue(self.stream.closed)

    def test_cancelled(self) -> None:
        """Who does not want it any more closes it, and hears nothing else of it."""
        self.done.cancel()
        self.failureResultOf(self.done, CancelledError)
        self.assertEqual((self.stream.over, self.stream.closed), ("aborted", True))

    def test_stopped(self) -> None:
        """So does who stops it before it began."""
        stream = FakeStream()
        VolumeDownload(stream, 10).stopProducing()
        self.assertTrue(stream.closed)


class UploadTests(SynchronousTestCase):
    """A volume on its way in."""

    def setUp(self) -> None:
        self.stream = FakeStream()
        self.stream.confirms = False
        self.sink = VolumeUpload(self.stream)
        self.sink.write(b"data")

    def test_finish(self) -> None:
        """It is whole when that was confirmed."""
        done = self.sink.finish()
        self.assertNoResult(done)
        self.stream.confirm()
        self.successResultOf(done)
        self.assertEqual(self.stream.told, b"data")

    def test_fails(self) -> None:
        """What the hypervisor says against it is told in words, during it and at its end."""
        heard: list[str] = []
        self.sink.when_over(heard.append)
        done = self.sink.finish()
        self.stream.breaks(LibvirtError(38, text="/secret"))
        for failed in (done, self.sink.finish()):
            self.assertNotIn("secret", self.failureResultOf(failed, errors.UpstreamFailed).value.text)
        self.assertEqual(heard, ["refused"])

    def test_cancelled(self) -> None:
        """Who does not wait for the confirmation closes it."""
        done = self.sink.finish()
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assertTrue(self.stream.closed)
