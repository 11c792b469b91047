"""Words: what a ticket permits, whatever the domain."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.rpc.domain_tags import URI as TAGS_URI
from gateway.rpc.permissions import NEVER, STATEFUL, demands, only_reads
from gateway.rpc.rights import Scope
from gateway.rpc.xml_guard import XML
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import PROCEDURES, Procedure
from gateway.wire.ticket_json import Rights
from tests.rpc.scopes import ALL, SEEN, WORDS, calls, events, named, names, sample, scope

EVERY = ("*",)


def _words(text: str) -> list[str]:
    return text.split()


#: What the mere ``*`` does not hold.
OUTRIGHT = _words(
    """
CONNECT_DOMAIN_XML_FROM_NATIVE CONNECT_FIND_STORAGE_POOL_SOURCES
DOMAIN_BLOCK_PEEK DOMAIN_CORE_DUMP DOMAIN_CORE_DUMP_WITH_FORMAT DOMAIN_CREATE_WITH_FILES
DOMAIN_CREATE_XML_WITH_FILES DOMAIN_FD_ASSOCIATE DOMAIN_MEMORY_PEEK DOMAIN_RESTORE DOMAIN_RESTORE_FLAGS
DOMAIN_RESTORE_PARAMS DOMAIN_SAVE DOMAIN_SAVE_FLAGS DOMAIN_SAVE_IMAGE_DEFINE_XML
DOMAIN_SAVE_IMAGE_GET_XML_DESC DOMAIN_SAVE_PARAMS
DOMAIN_MIGRATE_BEGIN3 DOMAIN_MIGRATE_BEGIN3_PARAMS DOMAIN_MIGRATE_CONFIRM3 DOMAIN_MIGRATE_CONFIRM3_PARAMS
DOMAIN_MIGRATE_FINISH DOMAIN_MIGRATE_FINISH2 DOMAIN_MIGRATE_FINISH3 DOMAIN_MIGRATE_FINISH3_PARAMS
DOMAIN_MIGRATE_GET_COMPRESSION_CACHE DOMAIN_MIGRATE_GET_MAX_DOWNTIME DOMAIN_MIGRATE_GET_MAX_SPEED
DOMAIN_MIGRATE_PERFORM DOMAIN_MIGRATE_PERFORM3 DOMAIN_MIGRATE_PERFORM3_PARAMS DOMAIN_MIGRATE_PREPARE
DOMAIN_MIGRATE_PREPARE2 DOMAIN_MIGRATE_PREPARE3 DOMAIN_MIGRATE_PREPARE3_PARAMS DOMAIN_MIGRATE_PREPARE_TUNNEL
DOMAIN_MIGRATE_PREPARE_TUNNEL3 DOMAIN_MIGRATE_PREPARE_TUNNEL3_PARAMS DOMAIN_MIGRATE_SET_COMPRESSION_CACHE
DOMAIN_MIGRATE_SET_MAX_DOWNTIME DOMAIN_MIGRATE_SET_MAX_SPEED DOMAIN_MIGRATE_START_POST_COPY
INTERFACE_CHANGE_BEGIN INTERFACE_CHANGE_COMMIT INTERFACE_CHANGE_ROLLBACK INTERFACE_CREATE INTERFACE_DEFINE_XML
INTERFACE_DESTROY INTERFACE_UNDEFINE
LXC_DOMAIN_OPEN_NAMESPACE
NETWORK_PORT_CREATE_XML NETWORK_PORT_DELETE NETWORK_PORT_SET_PARAMETERS NETWORK_UPDATE
NODE_ALLOC_PAGES NODE_DEVICE_CREATE NODE_DEVICE_CREATE_XML NODE_DEVICE_DEFINE_XML NODE_DEVICE_DESTROY
NODE_DEVICE_DETACH_FLAGS NODE_DEVICE_DETTACH NODE_DEVICE_RESET NODE_DEVICE_RE_ATTACH NODE_DEVICE_SET_AUTOSTART
NODE_DEVICE_UNDEFINE NODE_SET_MEMORY_PARAMETERS NODE_SUSPEND_FOR_DURATION
NWFILTER_BINDING_CREATE_XML NWFILTER_BINDING_DELETE NWFILTER_DEFINE_XML NWFILTER_DEFINE_XML_FLAGS
NWFILTER_UNDEFINE
QEMU_CONNECT_DOMAIN_MONITOR_EVENT_DEREGISTER QEMU_CONNECT_DOMAIN_MONITOR_EVENT_REGISTER
QEMU_DOMAIN_AGENT_COMMAND QEMU_DOMAIN_ATTACH QEMU_DOMAIN_MONITOR_COMMAND
QEMU_DOMAIN_MONITOR_COMMAND_WITH_FILES SECRET_DEFINE_XML SECRET_GET_VALUE
    """
)
#: Added after the table's permissions were known.
UNKNOWN = _words(
    """
DOMAIN_DEL_THROTTLE_GROUP DOMAIN_GET_AUTOSTART_ONCE DOMAIN_GRAPHICS_RELOAD DOMAIN_SET_AUTOSTART_ONCE
DOMAIN_SET_THROTTLE_GROUP NETWORK_GET_METADATA NETWORK_SET_METADATA NODE_DEVICE_UPDATE
    """
)


def permitted(it: Scope, call: Procedure, **more: object) -> bool:
    """Tell whether *it* lets *call* through, with zeroes for flags and no program named."""
    given = sample(call.arguments, SEEN)
    given |= {name: None for name in ("emulator", "emulatorbin") if name in given} | more
    call.arguments.pack(given)
    try:
        it.check(call, given, names)
    except errors.Denied:
        return False
    return True


class EveryProcedureTest(SynchronousTestCase):
    """Walks over all of the table."""

    def test_default_deny(self) -> None:
        """Nobody calls what belongs to the connection, what is an event, or what we do not know."""
        all_rights = scope(*ALL, "*", "read", domains=EVERY)
        denied = {call.name for call in PROCEDURES.values() if not permitted(all_rights, call)}
        self.assertEqual(denied, NEVER | {*UNKNOWN} | {event.name for event in events()})

    def test_star(self) -> None:
        """``*`` holds all but what must be named outright."""
        star = scope("*", "xml:unchecked", domains=EVERY)
        denied = {call.name for call in calls() if not permitted(star, call)}
        self.assertEqual(denied, NEVER | {*UNKNOWN} | {*OUTRIGHT})

    def test_globs(self) -> None:
        """No glob holds more than ``*``, however it is written."""
        for globs in (("*:*",), ("?*",), ("[a-z]*",), tuple(f"{word.partition(':')[0]}:*" for word in WORDS)):
            star = scope(*globs, "xml:unchecked", domains=EVERY)
            denied = {call.name for call in calls() if not permitted(star, call)}
            self.assertEqual(denied, NEVER | {*UNKNOWN} | {*OUTRIGHT}, globs)

    def test_nothing(self) -> None:
        """A ticket without rights, or with empty ones, may know whether its connection is secure, no more."""
        for rights in (None, Rights(), Rights((), ("*",)), Rights(("",), ("*",))):
            it = Scope(rights)
            free = {call.name for call in calls() if permitted(it, call)}
            self.assertEqual(free, {"CONNECT_IS_SECURE"})

    def test_each_word_counts(self) -> None:
        """Whoever lacks one of a procedure's words may not call it; who has all, and the name, may."""
        for call in calls():
            words = {it.word for it in demands(call).words if it.applies(sample(call.arguments, SEEN))}
            if not demands(call).known or not words:
                continue
            whole = scope(*words, call.name, "xml:unchecked", domains=EVERY)
            self.assertTrue(permitted(whole, call), call.name)
            for word in words:
                part = scope(*(words - {word}), call.name, "xml:unchecked", domains=EVERY)
                self.assertFalse(permitted(part, call), f"{call.name} without {word}")

    def test_read(self) -> None:
        """``read`` holds what needs only reading words and changes nothing; no more."""
        it = scope("read", "xml:unchecked", domains=EVERY)
        for call in calls():
            given = sample(call.arguments, SEEN)
            words = [demand.word for demand in demands(call).words if demand.applies(given)]
            reads = call.writes != "W" and all(map(only_reads, words)) and demands(call).known
            self.assertEqual(permitted(it, call), reads, call.name)
        self.assertFalse(any("secure" in word for word in WORDS if only_reads(word)))

    def test_readonly(self) -> None:
        """What libvirt refuses on read-only connections is refused with its own number."""
        it = scope(*ALL, "*", domains=EVERY, readonly=True)
        for call in calls():
            if call.writes == "W" and demands(call).known:
                given = sample(call.arguments, SEEN)
                refused = self.assertRaises(LibvirtError, it.check, call, given, names)
                self.assertEqual(refused.code, 29, call.name)

    def test_xml_is_known(self) -> None:
        """Every argument that holds XML is judged, or its procedure must be named outright."""
        for call in calls():
            holds = {name for name in call.arguments.fields if re.search("xml", name, re.I)}
            judged = {name for name, _ in XML.get(call.name, ())}
            self.assertLessEqual(judged, set(call.arguments.fields), call.name)
            if holds - judged:
                self.assertIn(call.name, {*OUTRIGHT, *UNKNOWN})

    def test_stateful(self) -> None:
        """All that registers something on its connection is known as such."""
        for call in calls():
            if re.search("REGISTER|AUTH_|CONNECT_OPEN|CONNECT_CLOSE|IDENTITY|SUPPORTS", call.name):
                self.assertIn(call.name, STATEFUL)


class ConditionTest(SynchronousTestCase):
    """Words that depend on flags and other arguments."""

    def assert_needs(self, name: str, word: str, **more: object) -> None:
        """Assert that *name* with arguments *more* needs *word*, and without them does not."""
        call = named(name)
        rest = [other for other in WORDS if other != word]
        self.assertTrue(permitted(scope(*rest, name, "xml:unchecked", domains=EVERY), call), name)
        self.assertFalse(permitted(scope(*rest, name, "xml:unchecked", domains=EVERY), call, **more), name)
        self.assertTrue(permitted(scope(*ALL, domains=EVERY), call, **more), name)

    def test_flags(self) -> None:
        """A flag that does more needs more, alone and among others."""
        secure, write, freeze = "domain:read_secure", "domain:write", "domain:fs_freeze"
        for name, word, bit in (
            ("DOMAIN_GET_XML_DESC", secure, 1),
            ("DOMAIN_GET_XML_DESC", secure, 8),
            ("DOMAIN_SNAPSHOT_GET_XML_DESC", secure, 1),
            ("DOMAIN_CHECKPOINT_GET_XML_DESC", secure, 1),
            ("DOMAIN_MANAGED_SAVE_GET_XML_DESC", secure, 1),
            ("DOMAIN_SHUTDOWN_FLAGS", write, 2),
            ("DOMAIN_REBOOT", write, 2),
            ("DOMAIN_GET_VCPUS_FLAGS", write, 8),
            ("DOMAIN_SNAPSHOT_CREATE_XML", freeze, 64),
            ("DOMAIN_CHECKPOINT_CREATE_XML", freeze, 2),
        ):
            self.assert_needs(name, word, flags=bit)
            self.assert_needs(name, word, flags=bit | 4)

    def test_source(self) -> None:
        """Addresses from the agent need what talking to the agent needs."""
        self.assert_needs("DOMAIN_INTERFACE_ADDRESSES", "domain:write", source=1)

    def test_saved(self) -> None:
        """``domain:save`` is needed for the configuration, and where the current state may be it."""
        live = scope("domain:write", "xml:unchecked", domains=EVERY)
        call = named("DOMAIN_SET_VCPUS_FLAGS")
        for flags, free in ((0, False), (1, True), (2, False), (3, False), (4, False), (5, True)):
            self.assertEqual(permitted(live, call, flags=flags), free, flags)
        network = scope("network:write", "NETWORK_UPDATE", domains=EVERY)
        for flags, free in ((0, False), (1, True), (2, False), (3, False)):
            self.assertEqual(permitted(network, named("NETWORK_UPDATE"), flags=flags), free, flags)

    def test_read_with_flags(self) -> None:
        """``read`` never becomes ``read_secure`` by a flag, on read-only connections nobody's does."""
        call, given = named("DOMAIN_GET_XML_DESC"), {"dom": SEEN, "flags": 1}
        reader = scope("read", domains=EVERY)
        self.assertRaises(errors.Denied, reader.check, call, given, names)
        reader.check(call, {"dom": SEEN, "flags": 2}, names)
        readonly = scope("*", domains=EVERY, readonly=True)
        self.assertEqual(self.assertRaises(LibvirtError, readonly.check, call, given, names).code, 29)
        readonly.check(call, {"dom": SEEN, "flags": 2}, names)

    def test_more_than_the_table(self) -> None:
        """Who may only read sets no parameters, though libvirt's table has it so."""
        call = named("DOMAIN_SET_SCHEDULER_PARAMETERS")
        self.assertFalse(permitted(scope("domain:read"), call))
        self.assertTrue(permitted(scope("domain:read", "domain:write"), call))

    def test_no_number(self) -> None:
        """Flags that are no number decide nothing."""
        call = named("DOMAIN_GET_XML_DESC")
        for flags in ("1", 1.0, None, [1]):
            given = {"dom": SEEN, "flags": flags}
            self.assertRaises(errors.BadArguments, scope("*").check, call, given, names)

    def test_dangerous_flags(self) -> None:
        """What writes over files, or puts in state unchecked, must be named outright."""
        star, both = scope("*", "xml:unchecked", domains=EVERY), ("*", "xml:unchecked")
        for name, bits in (
            ("DOMAIN_SNAPSHOT_CREATE_XML", (1, 16, 32)),
            ("DOMAIN_CHECKPOINT_CREATE_XML", (1,)),
            ("DOMAIN_BLOCK_REBASE", (8, 8 | 16)),
            ("DOMAIN_BLOCK_COPY", (2,)),
            ("DOMAIN_BACKUP_BEGIN", (1,)),
        ):
            self.assertTrue(permitted(star, named(name)), name)
            for flags in bits:
                self.assertFalse(permitted(star, named(name), flags=flags), name)
                self.assertTrue(permitted(scope(*both, name, domains=EVERY), named(name), flags=flags), name)

    def test_emulators(self) -> None:
        """libvirt runs the emulator that it is told: only those that are emulators."""
        it = scope("*", domains=EVERY)
        for name, argument, more in (
            ("CONNECT_GET_DOMAIN_CAPABILITIES", "emulatorbin", {}),
            ("CONNECT_COMPARE_HYPERVISOR_CPU", "emulator", {"xmlCPU": "<cpu/>"}),
            ("CONNECT_BASELINE_HYPERVISOR_CPU", "emulator", {"xmlCPUs": ["<cpu/>"]}),
        ):
            call = named(name)
            for path in (None, "/usr/bin/qemu-system-x86_64", "/usr/libexec/qemu-kvm"):
                self.assertTrue(permitted(it, call, **more, **{argument: path}), path)
            for path in ("/bin/sh", "", "qemu-kvm", "/usr/bin/qemu-system-x86_64/../sh", "/usr/bin/kvm\n"):
                self.assertFalse(permitted(it, call, **more, **{argument: path}), path)

    def test_who_tells_of_others(self) -> None:
        """Who sees only some domains does not learn of the others by leases, ports and bindings."""
        for name in ("NETWORK_GET_DHCP_LEASES", "NETWORK_PORT_GET_XML_DESC", "NWFILTER_BINDING_GET_XML_DESC"):
            self.assertTrue(permitted(scope("*", domains=EVERY), named(name)))
            self.assertFalse(permitted(scope("*"), named(name)))
            self.assertTrue(permitted(scope("*", name), named(name)))


class NamedOutrightTest(SynchronousTestCase):
    """How one gets what ``*`` does not hold."""

    def test_word(self) -> None:
        """A dangerous word is enough by itself where the procedure is not more than its word."""
        self.assertTrue(permitted(scope("domain:mem_read"), named("DOMAIN_MEMORY_PEEK")))
        self.assertTrue(permitted(scope("*", "DOMAIN_MEMORY_PEEK"), named("DOMAIN_MEMORY_PEEK")))

    def test_name_and_words(self) -> None:
        """The name of a procedure is nothing without its words."""
        call = named("QEMU_DOMAIN_AGENT_COMMAND")
        self.assertFalse(permitted(scope("QEMU_DOMAIN_AGENT_COMMAND"), call))
        self.assertFalse(permitted(scope("domain:write"), call))
        self.assertTrue(permitted(scope("domain:write", "QEMU_DOMAIN_AGENT_COMMAND"), call))

    def test_permits(self) -> None:
        """Words can be asked for without a call."""
        self.assertTrue(scope("domain:*").permits("domain:start"))
        self.assertFalse(scope("domain:*").permits("domain:migrate"))
        self.assertTrue(scope("read").permits("connect:getattr"))
        self.assertFalse(scope("read").permits("domain:read_secure"))
        self.assertFalse(scope("domain:start").permits("domain:stop"))

    def test_pictures(self) -> None:
        """Consoles, screens and pictures of them have words of their own, that ``read`` does not hold."""
        for name, word in (
            ("DOMAIN_SCREENSHOT", "domain:screenshot"),
            ("DOMAIN_OPEN_CONSOLE", "domain:open_device"),
            ("DOMAIN_OPEN_CHANNEL", "domain:open_device"),
            ("DOMAIN_OPEN_GRAPHICS_FD", "domain:open_graphics"),
        ):
            self.assertFalse(permitted(scope("read", "domain:write"), named(name)))
            self.assertTrue(permitted(scope(word), named(name)))

    def test_what_is_said(self) -> None:
        """A denial names the word and the domain, by uuid."""
        denied = self.assertRaises(
            errors.Denied, scope("read").check, named("DOMAIN_CREATE"), {"dom": SEEN}, names
        )
        self.assertEqual((denied.permission, denied.named), ("domain:start", SEEN["uuid"]))

    def test_readonly_text(self) -> None:
        """A read-only connection is told what a daemon would tell it."""
        it = scope("*", readonly=True)
        refused = self.assertRaises(LibvirtError, it.check, named("DOMAIN_CREATE"), {"dom": SEEN}, names)
        self.assertEqual(refused.text, "operation forbidden: read only access prevents virDomainCreate")


class OnceTests(SynchronousTestCase):
    """What does not hang on arguments is judged once; all else each time."""

    def outcome(self, it: Scope, call: Procedure, given: Mapping[str, Any]) -> object:
        try:
            it.check(call, given, names)
        except errors.GatewayError as error:
            return type(error), error.text
        return None

    def test_again(self) -> None:
        """What was let through before makes no difference, with whatever flags and arguments."""
        tags = {"type": 2, "uri": TAGS_URI, "metadata": "<x/>", "emulatorbin": "/bin/sh"}
        differ = 0
        for allow in (ALL, ("*",), ("read",), ("*", "xml:unchecked")):
            for readonly in (False, True):
                used = scope(*allow, domains=EVERY, readonly=readonly)
                for call in calls():
                    bits = {0, demands(call).outright_flags, *(it.bits for it in demands(call).words)}
                    given = [sample(call.arguments, SEEN, flags=each) for each in sorted(bits)]
                    given += [
                        sample(call.arguments, SEEN) | {it.argument: it.value} for it in demands(call).words
                    ]
                    given.append({**sample(call.arguments, SEEN, flags=0), **tags})
                    fresh = [
                        self.outcome(scope(*allow, domains=EVERY, readonly=readonly), call, each)
                        for each in given
                    ]
                    differ += len(set(fresh)) > 1
                    for _ in range(2):
                        self.assertEqual([self.outcome(used, call, each) for each in given], fresh, call.name)
        self.assertGreater(differ, 20)
