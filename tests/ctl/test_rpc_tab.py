from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.ctl.rpc_tab import Tab, quoted, split
from gateway.rpc import commands
from gateway.rpc.command import Command

NAMES = ["web", "my vm", "it's"]


class Completing(SynchronousTestCase):
    def setUp(self) -> None:
        self.down = False

    async def ask(self, command: type[Command], given: Sequence[str]) -> dict[str, Any]:
        if self.down:
            raise errors.TargetDown
        if command is commands.ListVolumes:
            return {"volumes": [{"volume": f"{given[0]}-disk"}]}
        return {name: [{"name": it} for it in NAMES] for name in ("domains", "networks", "pools")}

    async def targets(self) -> list[str]:
        return ["lab", "far"]

    def complete(self, line: str) -> list[str]:
        """The lines that *line* may become."""
        tab = Tab(("help", "use", "watch"), self.ask, self.targets)
        found, at = self.successResultOf(Deferred.fromCoroutine(tab.complete(line)))
        return [line[:at] + each for each in found]

    def test_commands(self) -> None:
        """The first word is a command, also of the shell's own."""
        self.assertEqual(self.complete("list-do"), ["list-domains "])
        self.assertEqual(self.complete("wat"), ["watch "])
        self.assertEqual(self.complete("help list-do"), ["help list-domains "])
        self.assertEqual(self.complete("nonsense x"), [])

    def test_names(self) -> None:
        """Domains, networks, pools, targets, volumes, procedures and kinds of events are known by name."""
        self.assertEqual(self.complete("start w"), ["start web "])
        self.assertEqual(self.complete("network-start w"), ["network-start web "])
        self.assertEqual(self.complete("use "), ["use lab ", "use far "])
        self.assertEqual(self.complete("vol-download web w"), ["vol-download web web-disk "])
        self.assertEqual(self.complete("call CONNECT_GET_MAX"), ["call CONNECT_GET_MAX_VCPUS "])
        self.assertEqual(self.complete("watch lifec"), ["watch lifecycle "])

    def test_blanks(self) -> None:
        """Names with blanks and quotes are completed as they have to be typed, however one began."""
        for line in ("start my", "start my\\ v", "start 'my", "start 'my v", 'start "m'):
            (done,) = self.complete(line)
            self.assertEqual(shlex.split(done), ["start", "my vm"], line)
        (done,) = self.complete("start it")
        self.assertEqual(shlex.split(done), ["start", "it's"])

    def test_arguments(self) -> None:
        """Names of arguments, options, flags and truths."""
        self.assertEqual(self.complete("list-volumes web li"), ["list-volumes web limit="])
        self.assertEqual(self.complete("graphics web vi"), ["graphics web view="])
        self.assertEqual(
            self.complete("vol-upload web x fi"), ["vol-upload web x filename=", "vol-upload web x file="]
        )
        self.assertEqual(self.complete("set-autostart web y"), ["set-autostart web yes "])
        self.assertEqual(self.complete("get-xml web flags=sec"), ["get-xml web flags=secure "])
        self.assertIn("get-xml web secure ", self.complete("get-xml web sec"))

    def test_files(self) -> None:
        """Files are completed behind ``@`` and ``file=``."""
        (name,) = self.complete(f"define @{__file__[:-2]}")
        self.assertEqual(name, f"define @{__file__} ")
        (name,) = self.complete(f"vol-upload web x file={__file__[:-2]}")
        self.assertEqual(name, f"vol-upload web x file={__file__} ")

    def test_silence(self) -> None:
        """A hypervisor that is down, and a line without sense, complete to nothing."""
        self.down = True
        self.assertEqual(self.complete("start w"), [])
        self.down = False
        self.assertEqual(self.complete("start 'a' 'b\\"), [])

    @given(st.text(max_size=20), st.sampled_from(["", "'", '"']))
    @settings(max_examples=200, deadline=None)
    def test_quoted(self, name: str, typed: str) -> None:
        """What is put in for a name is read as that name."""
        if name and "\n" not in name and name.isprintable():
            self.assertEqual(shlex.split(quoted(name, typed)), [name])

    @given(st.text("ab '\"\\", max_size=20))
    @settings(max_examples=200, deadline=None)
    def test_split(self, line: str) -> None:
        """The last word ends where the line does, and begins where it says."""
        try:
            before, typed, at = split(line)
        except ValueError:
            return
        self.assertEqual(line[at:], typed)
        self.assertEqual(shlex.split(line[:at]), before)
