"""The transfer page, and pages of other origins, in a real Chromium against a real gateway."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote
from uuid import uuid4

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from twisted.trial.unittest import SynchronousTestCase

from tests.functional.browser import Browser, WebGateway, image_checksum, other_origin
from tests.functional.case import PYTEST_ONLY
from tests.functional.peers import MIB, short_directory, wait_for

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

SCREENS = ((390, 844), (1280, 800))
REFUSED = "Ask for a new link"
#: Notes the values of the progress bar while they change.
WATCH = """
window.seen = new Set();
setInterval(() => window.seen.add(document.getElementById("progress").value), 20);
"""
#: Milliseconds after which the page tries again.
WAIT = 3000


class BrowserTestCase(SynchronousTestCase):
    """A gateway and a browser for all tests of a class; images and tickets for each test.

    :cvar sections: of the gateway's configuration.
    """

    sections: ClassVar[dict[str, dict[str, str]]] = {}
    directory: ClassVar[Path]
    gateway: ClassVar[WebGateway]
    browser: ClassVar[Browser]

    @classmethod
    def setUpClass(cls) -> None:
        cls.directory = short_directory()
        try:
            cls.gateway = WebGateway(cls.directory, cls.sections)
            cls.gateway.start()
            try:
                cls.browser = Browser(cls.directory / "browser")
            except BaseException:
                cls.gateway.kill()
                raise
        except BaseException:
            shutil.rmtree(cls.directory)
            raise

    @classmethod
    def tearDownClass(cls) -> None:
        try:
            cls.browser.stop()
            cls.gateway.stop()
        finally:
            shutil.rmtree(cls.directory, ignore_errors=True)

    def setUp(self) -> None:
        self.expected: tuple[str, ...] = ()
        self.browser.look(*SCREENS[1])
        self.browser.complaints()
        for path in self.browser.downloads.iterdir():
            path.unlink()
        self.addCleanup(self.browser.driver.get, "about:blank")

    def tearDown(self) -> None:
        """Nothing is in the console but what the test expects, least of all a violated policy."""
        found = self.browser.complaints()
        self.assertEqual([text for text in found if not any(part in text for part in self.expected)], [])

    def file(self, size: int) -> tuple[str, bytes]:
        """A file of random bytes: its path, and its content."""
        content = os.urandom(size)
        path = self.directory / f"{uuid4()}.raw"
        path.write_bytes(content)
        self.addCleanup(path.unlink)
        return str(path), content

    def assert_same(self, found: bytes, content: bytes) -> None:
        """Equal, without a message of megabytes."""
        self.assertTrue(found == content, f"{len(found)} bytes differ from {len(content)}")


class TransferPageTests(BrowserTestCase):
    """``/ui/transfer``; the gateway is held to a rate at which somebody can watch."""

    sections: ClassVar = {"limits": {"rate": "32M"}}

    def test_up_and_down(self) -> None:
        """64 MiB go up and come down through the page as they are, and the progress is seen moving."""
        path, content = self.file(64 * MIB)
        image = self.gateway.grant("whole", filename="whole.raw")
        self.browser.open(self.gateway.page("whole"))
        self.browser.until("size", "0 bytes")
        self.assertFalse(self.browser.find("start").is_enabled())
        self.browser.find("file").send_keys(path)
        self.browser.driver.execute_script(WATCH)
        self.browser.find("start").click()
        self.browser.until("upload-state", "Done")
        wait_for(lambda: self.browser.read("window.seen.has(1)"), "the bar was seen at its end")
        seen = sorted(self.browser.read("[...window.seen]"))
        self.assertGreater(len([value for value in seen if 0 < value < 1]), 5, seen)
        self.assertEqual(seen[-1], 1)
        self.assertIn("64.0 MiB of 64.0 MiB", self.browser.text("rate"))
        self.assertIn("Done", self.browser.driver.title)
        self.browser.until("size", "64.0 MiB")
        self.assert_same(image.read_bytes(), content)
        self.browser.find("save").click()
        saved = self.browser.saved()
        self.assertEqual(saved.name, "whole.raw")
        self.assert_same(saved.read_bytes(), content)
        self.assertIn("/ui/transfer", self.browser.driver.current_url)

    def test_too_large(self) -> None:
        """A file that does not fit is refused before a byte of it is sent."""
        self.expected = ("416",)
        path, _ = self.file(2 * MIB)
        image = self.gateway.grant("small", size=MIB)
        self.browser.open(self.gateway.page("small"))
        self.browser.until("may", "upload")
        self.browser.find("file").send_keys(path)
        self.browser.find("start").click()
        self.browser.until("upload-state", "larger than the image")
        self.assertEqual(image.stat().st_size, 0)

    def test_empty_file(self) -> None:
        """A file of no bytes is an upload like any other."""
        path, _ = self.file(0)
        self.gateway.grant("empty")
        self.browser.open(self.gateway.page("empty"))
        self.browser.until("may", "upload")
        self.browser.find("file").send_keys(path)
        self.browser.find("start").click()
        self.browser.until("upload-state", "Done")

    def test_read_only(self) -> None:
        """Whoever may only read sees no upload."""
        self.gateway.grant("readonly", ["read"]).write_bytes(b"x" * MIB)
        self.browser.open(self.gateway.page("readonly"))
        self.browser.until("size", "1.0 MiB")
        self.assertEqual(self.browser.text("may"), "download")
        self.assertFalse(self.browser.find("upload").is_displayed())
        self.assertTrue(self.browser.find("save").is_displayed())

    def test_no_ticket(self) -> None:
        """Without a ticket in the address the page says so, and asks the gateway nothing."""
        for fragment in ("", "%E0%A4%A"):
            self.browser.open(self.gateway.page(fragment))
            self.browser.until("state", "no ticket in the address")
            for part in ("about", "upload", "download"):
                self.assertFalse(self.browser.find(part).is_displayed())

    def test_wrong_ticket(self) -> None:
        """A ticket that is not known is called invalid, whatever stands in it."""
        self.expected = ("403",)
        for wrong in (str(uuid4()), "<img src=x onerror=alert(1)>", "../../ui/transfer"):
            self.browser.open(self.gateway.page(quote(wrong, safe="<>=()")))
            self.browser.until("state", REFUSED)
            self.assertFalse(self.browser.find("download").is_displayed())

    def test_another_ticket(self) -> None:
        """Another ticket in the address bar is looked at at once."""
        self.gateway.grant("first", ["read"]).write_bytes(b"x" * MIB)
        self.gateway.grant("second", ["read"]).write_bytes(b"x" * 2 * MIB)
        self.browser.open(self.gateway.page("first"))
        self.browser.until("size", "1.0 MiB")
        self.browser.driver.get(self.gateway.page("second"))
        self.browser.until("size", "2.0 MiB")

    def test_checksum(self) -> None:
        """The button shows what the image daemon's definition gives for the same bytes."""
        _, content = self.file(9 * MIB + 4096)
        self.gateway.grant("sum", ["read"]).write_bytes(content)
        self.browser.open(self.gateway.page("sum"))
        self.browser.until("size", "9.0 MiB")
        self.browser.find("check").click()
        self.browser.until("checksum", image_checksum(content))
        self.assertIn("blake2b", self.browser.text("check-state"))
        self.assertIn("4.0 MiB", self.browser.text("check-state"))

    def test_looks(self) -> None:
        """On a phone and on a desk, light and dark: all fits, fingers hit, and an upload works."""
        self.expected = ("403",)
        for number, (width, height) in enumerate((*SCREENS, *SCREENS)):
            dark = number >= len(SCREENS)
            name = f"{width}x{height}-{'dark' if dark else 'light'}"
            path, content = self.file(3 * MIB)
            image = self.gateway.grant(name, filename="disk.raw")
            self.browser.look(width, height, dark=dark)
            self.browser.open(self.gateway.page(name))
            self.browser.until("may", "upload")
            self.assert_fits(name)
            self.browser.screenshot(f"transfer-{name}-ready")
            self.browser.find("file").send_keys(path)
            self.browser.find("start").click()
            self.browser.until("upload-state", "Done")
            self.assert_same(image.read_bytes(), content)
            self.browser.find("check").click()
            self.browser.until("checksum", image_checksum(content))
            self.assert_fits(name)
            self.browser.screenshot(f"transfer-{name}-done")
            self.gateway.delete(name)
            self.browser.find("start").click()
            self.browser.until("upload-state", REFUSED)
            self.assertEqual(self.browser.text("checksum"), "")
            self.browser.screenshot(f"transfer-{name}-refused")
            self.browser.open(self.gateway.page(""))
            self.browser.until("state", "no ticket")
            self.browser.screenshot(f"transfer-{name}-no-ticket")
            self.browser.open(f"https://localhost:{self.gateway.port}/ui/")
            self.assert_fits(name)
            self.browser.screenshot(f"index-{name}")

    def assert_fits(self, name: str) -> None:
        """Nothing is cut off at the side, and what is pressed is large enough for a finger."""
        width = self.browser.read("document.documentElement.scrollWidth")
        self.assertLessEqual(width, int(name.partition("x")[0]), name)
        heights = self.browser.read(
            "[...document.querySelectorAll('button, .button, input')].map((it) => it.offsetHeight)"
        )
        self.assertEqual([height for height in heights if 0 < height < 44], [], name)


class InterruptedTests(BrowserTestCase):
    """Uploads at a rate that leaves time to do something in the middle of them, also for who is slow."""

    sections: ClassVar = {"limits": {"rate": "6M"}}

    def start_upload(self, name: str, size: int) -> bytes:
        """Open the page, choose a file, press the button, and wait until bytes have arrived."""
        path, content = self.file(size)
        image = self.gateway.grant(name)
        self.browser.open(self.gateway.page(name))
        self.browser.until("may", "upload and download")
        self.browser.find("file").send_keys(path)
        self.browser.find("start").click()
        self.browser.until("upload-state", "Uploading")
        wait_for(lambda: image.stat().st_size > MIB, "bytes have arrived")
        return content

    def test_pause_by_keyboard(self) -> None:
        """All is done by keyboard: start, pause, go on; the focus stays with what can be pressed next."""
        path, content = self.file(48 * MIB)
        image = self.gateway.grant("paused")
        self.browser.open(self.gateway.page("paused"))
        self.browser.until("may", "upload")
        self.browser.find("file").send_keys(path)

        def press(key: str) -> None:
            ActionChains(self.browser.driver).send_keys(key).perform()

        self.browser.driver.execute_script("document.getElementById('file').focus()")
        press(Keys.TAB)
        press(Keys.ENTER)
        wait_for(lambda: image.stat().st_size > MIB, "bytes have arrived")
        self.assertEqual(self.browser.read("document.activeElement.id"), "pause")
        press(Keys.SPACE)
        self.browser.until("upload-state", "Paused")
        before = image.stat().st_size
        self.assertLess(before, len(content))
        wait_for(lambda: self.gateway.sessions() == [], "no upload is left")
        self.assertEqual(self.browser.read("document.activeElement.id"), "start")
        self.assertEqual(self.browser.text("start"), "Go on")
        self.browser.screenshot("transfer-1280x800-light-paused")
        press(Keys.ENTER)
        self.browser.until("upload-state", "Done")
        self.assert_same(image.read_bytes(), content)
        focused = []
        for _ in range(2):
            press(Keys.TAB)
            focused.append(self.browser.read("document.activeElement.id"))
        self.assertEqual(focused, ["save", "check"])

    def test_revoked(self) -> None:
        """A ticket that is revoked in the middle of an upload ends it with words for people."""
        self.expected = ("403", "ERR_CONNECTION", "ERR_EMPTY_RESPONSE")
        self.start_upload("revoked", 64 * MIB)
        self.assertIn(self.gateway.delete("revoked").status, (200, 204))
        self.browser.until("upload-state", REFUSED)
        self.assertIn("bad", self.browser.find("upload-state").get_attribute("class") or "")
        self.assertTrue(self.browser.find("start").is_enabled())
        self.assertIn("Failed", self.browser.driver.title)

    def test_gateway_killed(self) -> None:
        """The page says that the gateway is gone; when it is back with the ticket, the upload goes on."""
        self.expected = ("ERR_CONNECTION", "ERR_EMPTY_RESPONSE", "ERR_SSL")
        content = self.start_upload("killed", 64 * MIB)
        self.browser.hold(WAIT)
        self.gateway.kill()
        said = self.browser.until("upload-state", "connection to the gateway was lost")
        self.assertIn("Trying again", said)
        self.gateway.start()
        image = self.gateway.grant("killed")
        self.browser.let_go()
        self.browser.until("upload-state", "Done")
        self.assert_same(image.read_bytes(), content)

    def test_file_changed(self) -> None:
        """A file that changes while the upload is paused is not mixed with what was sent before."""
        self.expected = ("ERR_UPLOAD_FILE_CHANGED", "ERR_FAILED")
        self.start_upload("changed", 64 * MIB)
        self.browser.find("pause").click()
        self.browser.until("upload-state", "Paused")
        for path in self.directory.glob("*.raw"):
            path.write_bytes(b"another")
        self.browser.find("start").click()
        self.browser.until("upload-state", "Choose it again")


class DownloadTests(BrowserTestCase):
    """The download link itself, without any page."""

    def test_names(self) -> None:
        """A link that is opened saves under the ticket's name, whatever characters are in it."""
        names = {
            "disk.raw": "disk.raw",
            "größe-диск.raw": "größe-диск.raw",
            "der Datenträger.qcow2": "der Datenträger.qcow2",
            'my "best" disk.raw': "my _best_ disk.raw",
            "a;b=c, d.raw": "a;b=c, d.raw",
            "../../etc/passwd.raw": "_.._etc_passwd.raw",
        }
        for number, (name, expected) in enumerate(names.items()):
            with self.subTest(name=name):
                _, content = self.file(100_000)
                self.gateway.grant(f"named{number}", ["read"], filename=name).write_bytes(content)
                self.browser.follow(self.gateway.url(f"named{number}") + "?close=y")
                saved = self.browser.saved()
                self.assertEqual(saved.name, expected)
                self.assert_same(saved.read_bytes(), content)
                saved.unlink()

    def test_refused(self) -> None:
        """A link that is not good any more is a page with the reason, and saves nothing."""
        self.expected = ("403", "favicon.ico")
        self.browser.follow(self.gateway.url(str(uuid4())))
        self.assertIn("not allowed", self.browser.read("document.body.innerText"))
        time.sleep(0.3)
        self.assertEqual(list(self.browser.downloads.iterdir()), [])


#: One XMLHttpRequest as the engine's web pages make it; resolves with what the script could read.
ASK = """
const ask = (method, url, headers, body) => new Promise((resolve) => {
  const request = new XMLHttpRequest();
  request.open(method, url);
  request.timeout = 80000;
  for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
  request.onloadend = () => resolve({
    status: request.status,
    text: request.responseText.slice(0, 1000),
    range: request.status ? request.getResponseHeader("Range") : null,
    contentRange: request.status ? request.getResponseHeader("Content-Range") : null,
  });
  request.send(body);
});
"""
#: The upload of the engine's web pages. Source: ovirt-engine, ImageTransfer of the upload handler.
UPLOAD = (
    ASK
    + """
const [url, piece, more] = args;
const file = await (await fetch("disk.bin")).blob();
const answers = [];
for (let sent = 0; sent < file.size;) {
  const end = Math.min(sent + piece, file.size);
  const answer = await ask("PUT", url + (end === file.size ? "?close=y" : "?flush=n"), {
    "Cache-Control": "no-cache",
    "Pragma": "no-cache",
    "Content-Range": `bytes ${sent}-${end - 1}/${file.size}`,
    ...more,
  }, file.slice(sent, end, "application/octet-stream"));
  answers.push(answer);
  if (answer.status !== 200) break;
  const acknowledged = /bytes=(\\d+)-(\\d+)/.exec(answer.range ?? "");
  sent += acknowledged ? acknowledged[2] - acknowledged[1] + 1 : end - sent;
}
return answers;
"""
)


class OtherOriginTests(BrowserTestCase):
    """What a page of another origin, such as the engine's, may do with images."""

    site: ClassVar[Path]
    site_port: ClassVar[int]
    content: ClassVar[bytes]
    serving: ClassVar[AbstractContextManager[int]]

    @classmethod
    def setUpClass(cls) -> None:
        cls.site = short_directory()
        cls.content = os.urandom(20 * MIB + 123)
        (cls.site / "disk.bin").write_bytes(cls.content)
        (cls.site / "index.html").write_text(
            "<!DOCTYPE html><link rel=icon href=data:,><title>engine</title>"
        )
        cls.serving = other_origin(cls.site)
        cls.site_port = cls.serving.__enter__()
        cls.sections = {"images": {"cors_origins": cls.origins()}}
        super().setUpClass()

    @classmethod
    def origins(cls) -> str:
        return "*"

    @classmethod
    def tearDownClass(cls) -> None:
        super().tearDownClass()
        cls.serving.__exit__(None, None, None)
        shutil.rmtree(cls.site)

    def setUp(self) -> None:
        super().setUp()
        self.browser.open(f"http://127.0.0.1:{self.site_port}/")

    def ask(
        self, method: str, url: str, headers: dict[str, str] | None = None, size: int = 0
    ) -> dict[str, str]:
        """What a script reads of one answer."""
        found: dict[str, str] = self.browser.call(
            ASK
            + "return ask(args[0], args[1], args[2], args[3] ? new Blob([new Uint8Array(args[3])]) : null);",
            *(method, url, headers or {}, size),
        )
        return found


class AnyOriginTests(OtherOriginTests):
    """With ``cors_origins = *``, as the image daemon has it."""

    def test_engine_upload(self) -> None:
        """The upload of the engine's web pages arrives byte by byte, in pieces, after preflights."""
        image = self.gateway.grant("engine")
        answers = self.browser.call(UPLOAD, self.gateway.url("engine"), 8 * MIB, {})
        self.assertEqual([answer["status"] for answer in answers], [200, 200, 200])
        self.assert_same(image.read_bytes(), self.content)

    def test_engine_upload_with_authorization(self) -> None:
        """So does that of the older pages, which send ``Authorization`` with each piece."""
        image = self.gateway.grant("older")
        answers = self.browser.call(
            UPLOAD, self.gateway.url("older"), 8 * MIB, {"Authorization": "signed-ticket"}
        )
        self.assertEqual([answer["status"] for answer in answers], [200, 200, 200])
        self.assert_same(image.read_bytes(), self.content)

    def test_refusals_are_readable(self) -> None:
        """A script reads status and text of a refusal, of a small piece and of a large one."""
        self.expected = ("403", "416")
        for size in (1, 8 * MIB):
            headers = {"Content-Range": f"bytes 0-{size - 1}/{size}"}
            found = self.ask("PUT", self.gateway.url(str(uuid4())) + "?flush=n", headers, size)
            self.assertEqual(found["status"], 403)
            self.assertIn("not allowed", found["text"])
        self.gateway.grant("short", size=MIB)
        headers = {"Content-Range": f"bytes {MIB - 1}-{MIB}/{2 * MIB}"}
        found = self.ask("PUT", self.gateway.url("short") + "?flush=n", headers, 2)
        self.assertEqual((found["status"], found["contentRange"]), (416, f"bytes */{MIB}"))
        self.assertIn("out of allowed range", found["text"])

    def test_ranges_are_readable(self) -> None:
        """A script reads which range it was given."""
        self.gateway.grant("ranged", ["read"], size=26).write_bytes(b"abcdefghijklmnopqrstuvwxyz")
        found = self.ask("GET", self.gateway.url("ranged"), {"Range": "bytes=2-4"})
        self.assertEqual(found, {"status": 206, "text": "cde", "range": None, "contentRange": "bytes 2-4/26"})

    def test_connection_test(self) -> None:
        """The engine's button "test connection" gets its answer."""
        found = self.ask("GET", f"https://localhost:{self.gateway.port}/info/")
        self.assertEqual(found["status"], 200)
        self.assertIn('"version"', found["text"])

    def test_only_images(self) -> None:
        """A page of another origin reads nothing of our own pages, and frames none."""
        self.expected = ("CORS", "ERR_FAILED", "frame", "NotSameOrigin", "ERR_BLOCKED")
        address = f"https://localhost:{self.gateway.port}/ui/transfer"
        self.assertEqual(self.ask("GET", address)["status"], 0)
        framed = self.browser.call(
            """const frame = document.createElement("iframe");
            frame.src = args[0];
            const loaded = new Promise((resolve) => { frame.onload = resolve; });
            document.body.append(frame);
            await loaded;
            return document.querySelectorAll("iframe").length;""",
            address,
        )
        self.assertEqual(framed, 1)
        self.browser.driver.switch_to.frame(0)
        shown = self.browser.read("document.getElementById('state') === null")
        self.browser.driver.switch_to.default_content()
        self.assertTrue(shown)


class ListedOriginTests(OtherOriginTests):
    """With a list of origins, of which the test's page is one by address and none by name."""

    @classmethod
    def origins(cls) -> str:
        return f"https://engine.example, http://127.0.0.1:{cls.site_port}"

    def test_listed(self) -> None:
        """A page of a listed origin uploads, with every header of the engine's pages."""
        image = self.gateway.grant("listed")
        url = self.gateway.url("listed")
        answers = self.browser.call(UPLOAD, url, 16 * MIB, {"Authorization": "signed-ticket"})
        self.assertEqual([answer["status"] for answer in answers], [200, 200])
        self.assert_same(image.read_bytes(), self.content)

    def test_not_listed(self) -> None:
        """A page of any other origin reads nothing and writes nothing, though it has the ticket."""
        self.expected = ("CORS", "ERR_FAILED")
        image = self.gateway.grant("unlisted")
        image.write_bytes(b"secret")
        self.browser.open(f"http://localhost:{self.site_port}/")
        for address in (self.gateway.url("unlisted"), f"https://localhost:{self.gateway.port}/info/"):
            self.assertEqual(self.ask("GET", address)["status"], 0)
        answers = self.browser.call(UPLOAD, self.gateway.url("unlisted"), 8 * MIB, {})
        self.assertEqual([(answer["status"], answer["text"]) for answer in answers], [(0, "")])
        self.assertEqual(image.read_bytes(), b"secret")

    def test_reload(self) -> None:
        """After a reload with another list, who was listed is not."""
        self.expected = ("CORS", "ERR_FAILED")
        address = f"https://localhost:{self.gateway.port}/info/"
        self.assertEqual(self.ask("GET", address)["status"], 200)
        config = self.gateway.config_file
        before = config.read_text()
        self.addCleanup(self.reload, before)
        self.reload(before.replace(self.origins(), "https://engine.example"))
        self.assertEqual(self.ask("GET", address)["status"], 0)

    def reload(self, text: str) -> None:
        """Let the gateway read *text* as its configuration."""
        count = self.gateway.log().count("reloaded ")
        self.gateway.config_file.write_text(text)
        os.kill(self.gateway.pid, signal.SIGHUP)
        wait_for(lambda: self.gateway.log().count("reloaded ") > count, "reloaded")
