"""The pages as resources: what is there, what is not, and what the browser is told about it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any
from urllib.parse import urljoin

import treq
from attrs import frozen
from treq.testing import RequestTraversalAgent
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from gateway.core.web import Tree
from gateway.web import admin_pages, pages
from gateway.web.vendor import VIEWERS, installed

HOST = "https://gateway.invalid"
STATIC = files("gateway.web").joinpath("static")
PAGES = ("", "index", "transfer", "console", "replay")
#: The scripts of a page that name elements of it.
SCRIPTS = {"transfer": ("transfer.js",), "console": ("console.js", "toolbar.js"), "replay": ("replay.js",)}


@frozen
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8")


class _Outline(HTMLParser):
    """What a page refers to, and everything in it that a strict policy forbids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.inline: list[str] = []
        self.ids: list[str] = []
        self.labels: list[str] = []
        self._in_code = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = dict(attrs)
        self.references += [fields[name] or "" for name in ("href", "src") if fields.get(name)]
        self.inline += [name for name in fields if name == "style" or name.startswith("on")]
        if "id" in fields:
            self.ids.append(fields["id"] or "")
        self.labels += [
            word
            for name in ("for", "aria-labelledby", "aria-describedby", "aria-controls")
            for word in (fields.get(name) or "").split()
        ]
        self._in_code = tag if tag in ("script", "style") else ""

    def handle_data(self, data: str) -> None:
        if self._in_code and data.strip():
            self.inline.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._in_code = ""


class _Asking(SynchronousTestCase):
    """Asks the pages in memory."""

    def setUp(self) -> None:
        self.agent = RequestTraversalAgent(pages())

    def ask(self, path: str, method: bytes = b"GET", **fields: str) -> Answer:
        headers = Headers({name.replace("_", "-"): [value] for name, value in fields.items()})
        asked = self.agent.request(method, f"{HOST}{path}".encode("ascii"), headers)
        self.agent.flush()
        response: Any = self.successResultOf(asked)
        read = treq.content(response)
        self.agent.flush()
        found = {
            name.decode().lower(): values[0].decode() for name, values in response.headers.getAllRawHeaders()
        }
        return Answer(response.code, found, self.successResultOf(read))


class PagesTests(_Asking):
    """What ``/ui/`` answers."""

    def test_every_file_with_its_type(self) -> None:
        """Each file is served as it is, with its type; a page is called without its suffix."""
        types = {
            "html": "text/html; charset=utf-8",
            "css": "text/css; charset=utf-8",
            "js": "text/javascript; charset=utf-8",
            "svg": "image/svg+xml",
        }
        served = []
        for entry in STATIC.iterdir():
            stem, _, suffix = entry.name.rpartition(".")
            answer = self.ask("/ui/" + (stem if suffix == "html" else entry.name))
            self.assertEqual(answer.status, 200, entry.name)
            self.assertEqual(answer.headers["content-type"], types[suffix])
            self.assertEqual(answer.body, entry.read_bytes())
            served.append(entry.name)
        self.assertIn("transfer.html", served)

    def test_index(self) -> None:
        """The bare directory is the index; without its slash it leads there, whatever was asked of whom."""
        self.assertEqual(self.ask("/ui/").body, STATIC.joinpath("index.html").read_bytes())
        for asked in ("/ui", "/ui?next=//evil.invalid/"):
            answer = self.ask(asked, Host="evil.invalid")
            self.assertEqual((answer.status, answer.headers["location"]), (308, "/ui/"))

    def test_strict_policy(self) -> None:
        """Pages run our own files only, are framed by nobody, and send no address anywhere."""
        for path in ("/ui/", "/ui/transfer", "/ui/transfer.js", "/ui/style.css", "/ui/icon.svg"):
            headers = self.ask(path).headers
            parts = [part.split(maxsplit=1) for part in headers["content-security-policy"].split(";")]
            policy: dict[str, str] = dict(parts)
            self.assertEqual(policy["default-src"], "'none'")
            for name in ("script-src", "style-src", "connect-src"):
                self.assertEqual(policy[name], "'self'", name)
            for name in ("object-src", "base-uri", "form-action", "frame-ancestors"):
                self.assertEqual(policy[name], "'none'", name)
            self.assertNotIn("unsafe", headers["content-security-policy"])
            self.assertEqual(headers["x-content-type-options"], "nosniff")
            self.assertEqual(headers["x-frame-options"], "DENY")
            self.assertEqual(headers["referrer-policy"], "no-referrer")
            self.assertEqual(headers["cross-origin-opener-policy"], "same-origin")
            self.assertEqual(headers["cross-origin-resource-policy"], "same-origin")
            self.assertEqual(headers["cache-control"], "no-cache")

    def test_revalidated(self) -> None:
        """A file is sent once: who names its entity tag gets 304 and no body, with the same policy."""
        first = self.ask("/ui/transfer.js")
        tag = first.headers["etag"]
        self.assertRegex(tag, r'\A"[0-9a-f]{16}"\Z')
        for known in (tag, f"W/{tag}", f'"other", {tag}', f'"other",{tag}', "*"):
            again = self.ask("/ui/transfer.js", If_None_Match=known)
            self.assertEqual((again.status, again.body), (304, b""), known)
            self.assertNotIn("content-length", again.headers)
            self.assertEqual(again.headers["etag"], tag)
            self.assertIn("content-security-policy", again.headers)
        for unknown in ('"other"', tag.strip('"'), self.ask("/ui/style.css").headers["etag"]):
            self.assertEqual(self.ask("/ui/transfer.js", If_None_Match=unknown).status, 200, unknown)

    def test_head(self) -> None:
        """HEAD tells the length and sends nothing."""
        for path in ("/ui/transfer", "/ui/style.css"):
            whole, head = self.ask(path), self.ask(path, b"HEAD")
            self.assertEqual((head.status, head.body), (200, b""))
            self.assertEqual(head.headers["content-length"], str(len(whole.body)))
            self.assertEqual(head.headers["etag"], whole.headers["etag"])

    def test_other_methods(self) -> None:
        """Nothing can be done to a page but reading it."""
        for method in (b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"get"):
            for path in ("/ui", "/ui/transfer", "/ui/style.css"):
                answer = self.ask(path, method)
                self.assertEqual((answer.status, answer.headers["allow"]), (405, "GET,HEAD"), (method, path))

    def test_unknown(self) -> None:
        """What is not a file of the pages is not there, and the answer repeats nothing of the question."""
        names = (
            *("nothing", "transfer.html", "index.html", "Transfer", "transfer/", "transfer/x", "style.css/"),
            *("..%2fpages.py", "%2e%2e%2fpages.py", "../pages.py", "..", "%2e%2e/%2e%2e/etc/passwd"),
            *("static/style.css", "%2fetc%2fpasswd", "//etc/passwd", "style.css%00", "..%5cpages.py"),
            *("npm/package.json", "novnc/package.json", "novnc/core", "novnc/core/", "novnc/core/rfb.js/"),
            *("novnc/core/../../package.json", "spice/spice.html", "xterm/lib/xterm.js", "node_modules"),
            *("%c0%ae%c0%ae%2fpages.py", "<script>", "%3Cscript%3Ealert(1)%3C/script%3E"),
        )
        for name in names:
            answer = self.ask(f"/ui/{name}")
            self.assertEqual(answer.status, 404, name)
            self.assertEqual(answer.headers["content-type"], "application/problem+json")
            self.assertEqual(json.loads(answer.body)["status"], 404)
            self.assertNotIn("script", answer.text)
        for path in ("/", "/ui2/", "/uistyle.css", "/transfer"):
            self.assertEqual(self.ask(path).status, 404, path)


class ReferenceTests(_Asking):
    """What the pages refer to."""

    def outline(self, page: str) -> _Outline:
        return _Outline(self.ask(f"/ui/{page}").text)

    def test_references_exist(self) -> None:
        """Every file that a page, a style or a module names is served, by us and by nobody else."""
        seen: set[str] = set()
        left = [f"/ui/{page}" for page in PAGES]
        while left:
            path = left.pop()
            if path in seen:
                continue
            seen.add(path)
            self.assertTrue(path.startswith("/ui/"), path)
            answer = self.ask(path)
            self.assertEqual(answer.status, 200, path)
            if answer.headers["content-type"].startswith("text/html"):
                found = _Outline(answer.text).references
            elif path.count("/") > 2:
                # Of a viewer: only whole statements, for comments and texts say from, too.
                found = re.findall(
                    r"""^(?:import|export|\})[^;()]*?\bfrom\s+["']([^"']+)["']""", answer.text, re.M
                )
            else:
                found = re.findall(r"(?:\bfrom\s|import\(|url\()\s*\"?([^\")\s]+)\"?[;)]", answer.text)
            left += [urljoin(path, name) for name in found]
        self.assertEqual(
            {f"/ui/{name}" for name in ("transfer.js", "upload.js", "words.js", "style.css", "icon.svg")}
            - seen,
            set(),
        )
        # Each viewer is there, whole, and nothing of it that nobody asks for.
        for viewer in VIEWERS:
            self.assertTrue(any(path.startswith(f"/ui/{viewer.name}/") for path in seen), viewer.name)
        served = {f"/ui/{path}" for path, _ in installed()}
        self.assertEqual({path for path in seen if path.count("/") > 2} - served, set())

    def test_nothing_inline(self) -> None:
        """No page holds a script or a style, and no element an event attribute: the policy forbids them."""
        for page in PAGES:
            self.assertEqual(self.outline(page).inline, [], page)
        self.assertEqual(_Outline('<p onclick="x()" style="y">').inline, ["onclick", "style"])
        self.assertEqual(_Outline("<script>x()</script>").inline, ["x()"])

    def test_no_markup_from_text(self) -> None:
        """No script makes markup or code from text: what a peer answers stays text."""
        for entry in STATIC.iterdir():
            if entry.name.endswith(".js"):
                code = entry.read_text("utf-8")
                found = re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", code)
                self.assertEqual(found, [], entry.name)

    def test_ids(self) -> None:
        """Ids are used once, and every label and every script finds the element it names."""
        for page in PAGES:
            outline = self.outline(page)
            self.assertEqual(len(outline.ids), len(set(outline.ids)), page)
            self.assertEqual(set(outline.labels) - set(outline.ids), set(), page)
        for page, scripts in SCRIPTS.items():
            for script in scripts:
                wanted = re.findall(r'(?:byId|say)\("([^"]+)"', STATIC.joinpath(script).read_text("utf-8"))
                self.assertEqual(set(wanted) - set(self.outline(page).ids), set(), script)

    def test_usable(self) -> None:
        """Each page names its language and title and fits a narrow screen."""
        for page in PAGES:
            text = self.ask(f"/ui/{page}").text
            self.assertIn('<html lang="en">', text)
            self.assertIn('name="viewport" content="width=device-width, initial-scale=1', text)
            self.assertRegex(text, r"<title>[^<]*Gateway</title>")


class AdminTests(_Asking):
    """The page for administrators, which is where orders are taken and nowhere else."""

    def setUp(self) -> None:
        root = Tree()
        root.putChild(b"ui", admin_pages())
        self.agent = RequestTraversalAgent(root)

    def test_not_public(self) -> None:
        """Nothing of it is among the pages for everybody, and nothing of those is here but what it uses."""
        self.assertEqual(self.ask("/ui/status").status, 200)
        self.assertEqual(self.ask("/ui/").headers["location"], "/ui/status")
        for name in ("console", "transfer", "novnc/core/rfb.js", "index"):
            self.assertNotEqual(self.ask(f"/ui/{name}").status, 200, name)
        self.agent = RequestTraversalAgent(pages())
        for name in ("status", "status.js", "status.css"):
            self.assertEqual(self.ask(f"/ui/{name}").status, 404, name)

    def test_references(self) -> None:
        """All that it names is served, under the policy; it holds no code, and makes none from text."""
        outline = _Outline(self.ask("/ui/status").text)
        code = self.ask("/ui/status.js").text
        names = [*outline.references, *re.findall(r'from "([^"]+)"', code)]
        self.assertLess({"status.js", "status.css", "style.css", "./words.js"}, set(names))
        for name in names:
            answer = self.ask(f"/ui/{name.removeprefix('./')}")
            self.assertEqual(answer.status, 200, name)
            self.assertIn("default-src 'none'", answer.headers["content-security-policy"])
        self.assertEqual(outline.inline, [])
        self.assertEqual(re.findall(r"[a-z]+HTML|document\.write|\beval\b", code), [])
        self.assertEqual(set(re.findall(r'(?:byId|fill)\("([^"]+)"', code)) - set(outline.ids), set())
        self.assertEqual(len(outline.ids), len(set(outline.ids)))
