"""Domains: which of them a ticket sees, by uuid, in whatever is asked and answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.rpc import objects
from gateway.rpc.plan import Plan
from gateway.rpc.rights import Scope
from gateway.rpc.xml_guard import XML
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import PROCEDURES, Procedure
from tests.rpc.scopes import (
    ABSENT,
    ALL,
    HIDDEN,
    SEEN,
    calls,
    events,
    found,
    named,
    names,
    sample,
    scope,
)

BY_GLOB = ("alice-*",)
BY_UUID = (str(SEEN["uuid"]),)


def plan(it: Scope, procedure: str, /, **given: Any) -> Plan:
    """What *it* makes of a call."""
    return it.check(named(procedure), given, names)


class EveryProcedureTest(SynchronousTestCase):
    """Walks over all of the table, with all words, seeing one domain of two."""

    def attempt(
        self, it: Scope, call: Procedure, given: Mapping[str, Any]
    ) -> Plan | LibvirtError | errors.Denied:
        """What becomes of *call*."""
        try:
            return it.check(call, given, names)
        except (LibvirtError, errors.Denied) as error:
            return error

    def test_arguments(self) -> None:
        """No call that names a domain which one does not see gets anywhere."""
        for domains in (BY_GLOB, BY_UUID):
            it = scope(*ALL, domains=domains)
            for call in calls():
                for dom in (HIDDEN, ABSENT, {**HIDDEN, "name": "alice-1"}):
                    given = sample(call.arguments, dom)
                    if not list(found(given)):
                        continue
                    outcome = self.attempt(it, call, given)
                    if isinstance(outcome, Plan):
                        self.assertEqual(call.name, "CONNECT_GET_ALL_DOMAIN_STATS")
                        self.assertEqual(outcome.ready, {"retStats": []})
                        self.assertEqual(list(found(outcome.arguments)), [])
                    elif isinstance(outcome, LibvirtError):
                        self.assertEqual(outcome.code, 42, call.name)

    def test_own(self) -> None:
        """A call that names a domain which one sees is let through, but for those that nobody may call."""
        for domains in (BY_GLOB, BY_UUID, (str(SEEN["uuid"]).upper(),)):
            it, everything = scope(*ALL, domains=domains), scope(*ALL, domains=("*",))
            for call in calls():
                given = sample(call.arguments, SEEN)
                if not list(found(given)) or call.name == "DOMAIN_RENAME":
                    continue
                outcome = self.attempt(it, call, given)
                if isinstance(self.attempt(everything, call, given), Plan):
                    self.assertIsInstance(outcome, Plan, call.name)
                    assert isinstance(outcome, Plan)
                    self.assertEqual(set(outcome.uuids), {SEEN["uuid"]}, call.name)

    def test_results(self) -> None:
        """No answer holds a domain that one does not see, whatever was asked."""
        judged = set()
        for domains in (BY_GLOB, BY_UUID):
            it = scope(*ALL, domains=domains)
            for call in calls():
                outcome = self.attempt(it, call, sample(call.arguments, SEEN))
                if not isinstance(outcome, Plan):
                    continue
                results = sample(outcome.procedure.results, HIDDEN)
                if not list(found(results)):
                    continue
                judged.add(call.name)
                try:
                    answer = outcome.answer(results)
                except LibvirtError as error:
                    self.assertEqual(error.code, 42)
                else:
                    self.assertEqual(list(found(answer)), [], call.name)
                    self.assertNotIn(HIDDEN["name"], str(answer))
                    self.assertFalse(answer.get("ret"), call.name)
        self.assertGreater(len(judged), 20)

    def test_own_results(self) -> None:
        """What one sees comes back as it is, and what came is not changed."""
        it = scope(*ALL)
        for call in calls():
            outcome = self.attempt(it, call, sample(call.arguments, SEEN))
            if isinstance(outcome, Plan) and outcome.procedure == call:
                results = sample(call.results, SEEN)
                if call.name == "CONNECT_LIST_ALL_DOMAINS":
                    continue
                self.assertEqual(outcome.answer(results), sample(call.results, SEEN), call.name)
                self.assertEqual(results, sample(call.results, SEEN))

    def test_nobody_can_tell(self) -> None:
        """What acts on a domain and does not say by uuid on which is denied to those who see only some."""
        free = set()
        for call in calls():
            given = sample(call.arguments, SEEN)
            about = any(word.startswith("domain:") for word in call.permissions)
            if about and not list(found(given)) and isinstance(self.attempt(scope(*ALL), call, given), Plan):
                free.add(call.name)
        lookups = {f"DOMAIN_LOOKUP_BY_{by}" for by in ("ID", "NAME", "UUID")}
        makers = {"DOMAIN_CREATE_XML", "DOMAIN_CREATE_XML_WITH_FILES"}
        self.assertEqual(free, lookups | makers | {"DOMAIN_DEFINE_XML", "DOMAIN_DEFINE_XML_FLAGS"})

    def test_lists_of_other_kinds(self) -> None:
        """Every answer to ``filter(domain:…)`` is judged by reference, or it is a mere registration."""
        for call in calls():
            if any(word.startswith("filter(domain:") for word in call.permissions):
                outcome = self.attempt(scope(*ALL), call, sample(call.arguments, SEEN))
                assert isinstance(outcome, Plan)
                by_reference = list(found(sample(outcome.procedure.results, SEEN)))
                self.assertTrue(by_reference or "EVENT_" in call.name, call.name)

    def test_events(self) -> None:
        """No event about a domain that one does not see is shown; the others are."""
        it = scope(*ALL)
        for event in events():
            hidden, seen = sample(event.arguments, HIDDEN), sample(event.arguments, SEEN)
            about = bool(list(found(seen)))
            self.assertTrue(about or not event.name.startswith("DOMAIN"), event.name)
            self.assertEqual(it.shows(event, hidden, names), not about, event.name)
            self.assertTrue(it.shows(event, seen, names), event.name)

    def test_events_need_words(self) -> None:
        """An event is shown to those who may know of its object."""
        nothing = scope(domains=("*",))
        for event in events():
            shown = nothing.shows(event, sample(event.arguments, SEEN), names)
            self.assertEqual(shown, event.name == "CONNECT_EVENT_CONNECTION_CLOSED", event.name)
        monitor = named("QEMU_DOMAIN_MONITOR_EVENT")
        self.assertFalse(scope("*").shows(monitor, sample(monitor.arguments, SEEN), names))

    def test_replies_are_no_events(self) -> None:
        """What is no event is not shown as one."""
        for call in calls():
            self.assertFalse(scope(*ALL).shows(call, sample(call.arguments, SEEN), names))

    def test_places(self) -> None:
        """Types tell where domains are: found by looking at values, and by the types alone, they agree."""
        for each in PROCEDURES.values():
            for struct, places in (
                (each.arguments, objects.in_arguments(each)),
                (each.results, objects.in_results(each)),
            ):
                values = sample(struct, SEEN)
                seen = [dom["uuid"] for place in places for dom in place.doms(values)]
                self.assertEqual(seen, list(found(values)), each.name)

    def test_nameless(self) -> None:
        """The same call is the same whatever its domains are called by then, and of another it is not."""
        renamed = SEEN | {"name": "other", "id": -1}
        for each in calls():
            first, again, another = (sample(each.arguments, dom) for dom in (SEEN, renamed, HIDDEN))
            packed = [each.arguments.pack(objects.nameless(each, it)) for it in (first, again, another)]
            self.assertEqual(packed[0], packed[1], each.name)
            self.assertEqual(packed[0] == packed[2], first == another, each.name)
            self.assertEqual(each.arguments.pack(sample(each.arguments, SEEN)), each.arguments.pack(first))


class ListTest(SynchronousTestCase):
    """Lists and counts of domains."""

    three = ({**SEEN}, {**HIDDEN}, {"name": "alice-2", "uuid": ABSENT["uuid"], "id": 7})

    def test_list(self) -> None:
        """A list is shorter, and so is what it says of itself."""
        it = plan(scope("*"), "CONNECT_LIST_ALL_DOMAINS", need_results=1, flags=3)
        answer = it.answer({"domains": list(self.three), "ret": 3})
        self.assertEqual([dom["name"] for dom in answer["domains"]], ["alice-1", "alice-2"])
        self.assertEqual(answer["ret"], 2)

    def test_count(self) -> None:
        """Who asks for the number alone gets the number of those that one sees."""
        it = plan(scope("*"), "CONNECT_LIST_ALL_DOMAINS", need_results=0, flags=3)
        self.assertEqual(it.arguments, {"need_results": 1, "flags": 3})
        self.assertEqual(it.answer({"domains": list(self.three), "ret": 3}), {"domains": [], "ret": 2})

    def test_old_lists(self) -> None:
        """The old counts, ids and names are made of the list by reference."""
        for name, given, flags, expected in (
            ("CONNECT_NUM_OF_DOMAINS", {}, 1, {"num": 2}),
            ("CONNECT_NUM_OF_DEFINED_DOMAINS", {}, 2, {"num": 2}),
            ("CONNECT_LIST_DOMAINS", {"maxids": 9}, 1, {"ids": [1, 7]}),
            ("CONNECT_LIST_DOMAINS", {"maxids": 1}, 1, {"ids": [1]}),
            ("CONNECT_LIST_DOMAINS", {"maxids": -1}, 1, {"ids": []}),
            ("CONNECT_LIST_DEFINED_DOMAINS", {"maxnames": 9}, 2, {"names": ["alice-1", "alice-2"]}),
        ):
            it = plan(scope("read"), name, **given)
            self.assertEqual(it.procedure.name, "CONNECT_LIST_ALL_DOMAINS")
            self.assertEqual(it.arguments, {"need_results": 1, "flags": flags})
            answer = it.answer({"domains": list(self.three), "ret": 3})
            self.assertEqual(answer, expected)
            named(name).results.pack(answer)

    def test_who_sees_all(self) -> None:
        """Who sees all domains asks what he asks, and gets the very answer."""
        for name in ("CONNECT_NUM_OF_DOMAINS", "CONNECT_LIST_ALL_DOMAINS", "DOMAIN_LOOKUP_BY_ID"):
            given = sample(named(name).arguments, SEEN)
            it = scope("*", domains=("*", "alice-*")).check(named(name), given, names)
            self.assertEqual((it.procedure, it.arguments), (named(name), given))
            results = {"anything": HIDDEN}
            self.assertIs(it.answer(results), results)
            error = LibvirtError(42, 12, "its own text")
            self.assertIs(it.failure(error), error)

    def test_stats(self) -> None:
        """Of those that are asked for by name only the seen are asked for; of all, only they are told."""
        it = plan(scope("*"), "CONNECT_GET_ALL_DOMAIN_STATS", doms=[HIDDEN, SEEN, ABSENT], stats=0, flags=0)
        self.assertEqual(it.arguments["doms"], [SEEN])
        self.assertIsNone(it.ready)
        everything = plan(scope("*"), "CONNECT_GET_ALL_DOMAIN_STATS", doms=[], stats=0, flags=0)
        self.assertIsNone(everything.ready)
        records = [{"dom": dom, "params": []} for dom in self.three]
        told = everything.answer({"retStats": records})["retStats"]
        self.assertEqual([record["dom"]["name"] for record in told], ["alice-1", "alice-2"])

    def test_one_after_the_other(self) -> None:
        """Two scopes in a row show what both see, in the way that was asked for."""
        first, second = scope("*"), scope("*", domains=("*-1",))
        listed = {"domains": list(self.three), "ret": 3}
        one = plan(first, "CONNECT_NUM_OF_DOMAINS")
        two = second.check(one.procedure, one.arguments, names)
        self.assertEqual(one.answer(two.answer(listed)), {"num": 1})
        # An empty list of the first is no wish of the second for all.
        one = plan(first, "CONNECT_GET_ALL_DOMAIN_STATS", doms=[HIDDEN], stats=0, flags=0)
        two = second.check(one.procedure, one.arguments, names)
        records = {"retStats": [{"dom": dom, "params": []} for dom in self.three]}
        self.assertEqual(one.answer(two.answer(records)), {"retStats": []})

    def test_strange_lists(self) -> None:
        """What is no list of domains is refused before anything else is done with it."""
        strange: list[object] = ["x", 5, [5], [{"uuid": 5}], [{"uuid": "x"}], [{}], {"uuid": SEEN["uuid"]}]
        for doms in strange:
            given = {"doms": doms, "stats": 0, "flags": 0}
            call = named("CONNECT_GET_ALL_DOMAIN_STATS")
            self.assertRaises(errors.BadArguments, scope("*").check, call, given, names)
        self.assertRaises(
            errors.BadArguments, scope("*").check, named("DOMAIN_CREATE"), {"dom": [SEEN]}, names
        )


class AbsentTest(SynchronousTestCase):
    """What may not be seen is absent."""

    def error_of(self, name: str, **given: Any) -> LibvirtError:
        """The refusal of a call."""
        error = self.assertRaises(LibvirtError, scope("*").check, named(name), given, names)
        assert isinstance(error, LibvirtError)
        return error

    def assert_same(self, first: LibvirtError, second: LibvirtError) -> None:
        """Assert that nobody can tell one from the other, but by what they asked for."""

        def shape(error: LibvirtError) -> object:
            plain = str(dict(error.details))
            for dom in (HIDDEN, ABSENT):
                plain = plain.replace(str(dom["uuid"]), "U").replace(str(dom["name"]), "N")
            return plain, error.word, error.status, error.reason

        self.assertEqual(shape(first), shape(second))

    def test_by_reference(self) -> None:
        """Neither text nor number differs between hidden and absent, and neither is asked for."""
        hidden, absent = (
            self.error_of("DOMAIN_CREATE", dom=HIDDEN),
            self.error_of("DOMAIN_CREATE", dom=ABSENT),
        )
        self.assert_same(hidden, absent)
        self.assertEqual(
            hidden.text,
            f"Domain not found: no domain with matching uuid '{HIDDEN['uuid']}' ({HIDDEN['name']})",
        )

    def test_lookup(self) -> None:
        """A lookup that finds what may not be seen fails like one that finds nothing."""
        for name, given in (
            ("DOMAIN_LOOKUP_BY_NAME", {"name": "N"}),
            ("DOMAIN_LOOKUP_BY_ID", {"id": 5}),
            ("DOMAIN_LOOKUP_BY_UUID", {"uuid": ABSENT["uuid"]}),
        ):
            it = plan(scope("*"), name, **given)
            hidden = self.assertRaises(LibvirtError, it.answer, {"dom": HIDDEN})
            for domain, text in (
                (10, "Domain not found: no domain with matching name"),
                (12, "Domain not found"),
            ):
                self.assert_same(hidden, it.failure(LibvirtError(42, domain, text)))

    def test_forged_name(self) -> None:
        """The name in a request is nothing: a domain is what its uuid says."""
        self.error_of("DOMAIN_CREATE", dom={**HIDDEN, "name": "alice-1"})
        plan(scope("*"), "DOMAIN_CREATE", dom={**SEEN, "name": "bob-1"})

    def test_forged_name_comes_back(self) -> None:
        """A name that comes back to the one who gave it is not believed either."""
        it = plan(scope("*"), "DOMAIN_SNAPSHOT_CURRENT", dom=SEEN, flags=0)
        forged = {"name": "s", "dom": {**HIDDEN, "name": "alice-1"}}
        self.assertRaises(LibvirtError, it.answer, {"snap": forged})

    def test_case(self) -> None:
        """A uuid is the same in whatever case."""
        it = scope("*", domains=(str(SEEN["uuid"]).upper(), "ABCDEFAB-1111-4111-8111-111111111111"))
        upper = {**SEEN, "uuid": "abcdefab-1111-4111-8111-111111111111"}
        plan(it, "DOMAIN_CREATE", dom=upper)
        plan(it, "DOMAIN_CREATE", dom={**upper, "uuid": str(upper["uuid"]).upper()})

    def test_unknown_name(self) -> None:
        """A domain whose name is not known is seen by ``*`` and by its uuid, and by no glob."""
        for domains, seen in (
            (("*",), True),
            ((str(ABSENT["uuid"]),), True),
            (("**",), False),
            (("?*",), False),
        ):
            self.assertEqual(scope("*", domains=domains).sees(ABSENT, names), seen, domains)

    def test_a_name_like_a_uuid(self) -> None:
        """A uuid among the domains is no name: who calls a domain like it does not bring it in."""
        told = {**HIDDEN, "name": str(SEEN["uuid"])}
        self.assertFalse(scope("*", domains=BY_UUID).sees(told, names, told=True))

    def test_globs(self) -> None:
        """Globs match whole names, and case matters; none at all sees nothing."""
        for domains, name, seen in (
            (("alice-*",), "alice-1", True),
            (("alice-*",), "xalice-1", False),
            (("alice-*",), "Alice-1", False),
            (("alice-?",), "alice-12", False),
            (("web", "db[12]"), "db2", True),
            (("web",), "web\n", False),
            (("",), "", True),
            ((), "alice-1", False),
            (("a.c",), "abc", False),
        ):
            told = {**HIDDEN, "name": name}
            self.assertEqual(scope("*", domains=domains).sees(told, names, told=True), seen, (domains, name))


class MakeTest(SynchronousTestCase):
    """What a ticket for some domains may define and create."""

    unknown = "44444444-4444-4444-8444-444444444444"

    def define(self, it: Scope, name: str, uuid: object = None) -> Plan:
        """Define a domain."""
        identity = "" if uuid is None else f"<uuid>{uuid}</uuid>"
        xml = f"<domain type='kvm'><name>{name}</name>{identity}</domain>"
        return plan(it, "DOMAIN_DEFINE_XML_FLAGS", xml=xml, flags=0)

    def test_allowed(self) -> None:
        """A new one by its name, or by its uuid; an old one that is seen."""
        self.define(scope("*"), "alice-9")
        self.define(scope("*"), "alice-9", self.unknown)
        self.define(scope("*"), "alice-1", SEEN["uuid"])
        self.define(scope("*"), "alice-1", str(SEEN["uuid"]).replace("-", "").upper())
        self.define(scope("*", domains=(self.unknown,)), "whatever", self.unknown)
        self.define(scope("*", domains=("*",)), "whatever", HIDDEN["uuid"])

    def test_refused(self) -> None:
        """What one would not see afterwards; what one does not see now; what belongs to another name."""
        by_uuid = scope("*", domains=BY_UUID)
        for it, name, uuid in (
            (scope("*"), "bob-9", None),
            (scope("*"), "bob-9", self.unknown),
            (scope("*"), "bob-1", HIDDEN["uuid"]),
            (scope("*"), "alice-9", HIDDEN["uuid"]),
            (scope("*"), "bob-1", SEEN["uuid"]),
            (by_uuid, "alice-9", None),
            (by_uuid, "alice-9", self.unknown),
            (by_uuid, "bob-1", HIDDEN["uuid"]),
        ):
            self.assertRaises(errors.Denied, self.define, it, name, uuid)

    def test_doubt(self) -> None:
        """XML that libvirt might read as another domain is refused."""
        lifted = scope("*", "xml:unchecked")
        for inner in (
            "<name>alice-1</name><name>bob-1</name>",
            "<name>alice<!-- -->-1<b>x</b></name>",
            f"<name>alice-1</name><uuid>{SEEN['uuid']}</uuid><uuid>{HIDDEN['uuid']}</uuid>",
            f"<name>alice-1</name><uuid>{str(HIDDEN['uuid']).replace('-', ' ')}</uuid>",
            "<name>alice-1</name><uuid/>",
            "<title>alice-1</title>",
            "<x:name xmlns:x='x'>alice-1</x:name>",
        ):
            for it in (scope("*"), lifted):
                call = named("DOMAIN_DEFINE_XML")
                given = {"xml": f"<domain type='kvm'>{inner}</domain>"}
                self.assertRaises((errors.Denied, errors.BadArguments), it.check, call, given, names)

    def test_made(self) -> None:
        """The domain that was made comes back, though nobody knows its name yet."""
        made = {"name": "alice-9", "uuid": self.unknown, "id": -1}
        self.assertEqual(self.define(scope("*"), "alice-9").answer({"dom": made}), {"dom": made})
        self.assertRaises(LibvirtError, self.define(scope("*"), "alice-9").answer, {"dom": HIDDEN})

    def test_taken(self) -> None:
        """That a name or a uuid is taken is said without saying by whom."""
        said = f"operation failed: domain 'bob-1' already exists with uuid {HIDDEN['uuid']}"
        for code in (9, 28, 55):
            told = self.define(scope("*"), "alice-9").failure(LibvirtError(code, 20, said))
            self.assertNotIn("bob-1", str(told.details))
            self.assertNotIn(str(HIDDEN["uuid"]), str(told.details))
        other = LibvirtError(27, 20, "XML error: an os <type> must be specified")
        self.assertIs(self.define(scope("*"), "alice-9").failure(other), other)

    def test_rename(self) -> None:
        """No domain gets a name by which others would see it, or this one would not."""
        plan(scope("*"), "DOMAIN_RENAME", dom=SEEN, new_name="alice-2", flags=0)
        for it, new in ((scope("*"), "bob-2"), (scope("*"), None), (scope("*", domains=BY_UUID), "alice-2")):
            given = {"dom": SEEN, "new_name": new, "flags": 0}
            self.assertRaises(errors.Denied, it.check, named("DOMAIN_RENAME"), given, names)

    def test_guarded(self) -> None:
        """XML is judged for all but those who hold the word against it, or were made without a guard."""
        xml = "<domain type='kvm'><name>alice-1</name><devices><hostdev/></devices></domain>"
        call, given = named("DOMAIN_DEFINE_XML"), {"xml": xml}
        for domains in (BY_GLOB, ("*",)):
            self.assertRaises(errors.Denied, scope("*", domains=domains).check, call, given, names)
            scope("*", "xml:unchecked", domains=domains).check(call, given, names)
        self.assertRaises(errors.Denied, scope("*", "xml:*").check, call, given, names)

    def test_every_kind_is_guarded(self) -> None:
        """Every argument that is XML is judged: malformed XML and foreign elements never pass."""
        it = scope(*(word for word in ALL if word != "xml:unchecked"), domains=("*",))
        for name, members in XML.items():
            call = named(name)
            fine = {"cpu": "<cpu/>", "detached": "<disk/>"}
            for hostile in ("<x", "<evil/>", "<!DOCTYPE a><a/>"):
                for member, _ in members:
                    texts = {other: fine.get(kind) for other, kind in members}
                    texts[member] = hostile
                    given: dict[str, Any] = sample(call.arguments, SEEN) | {
                        key: [text] if key == "xmlCPUs" else text for key, text in texts.items()
                    }
                    given |= {key: None for key in ("emulator",) if key in given}
                    wrong = (errors.Denied, errors.BadArguments)
                    raised = self.assertRaises(wrong, it.check, call, given, names)
                    said = str(raised)
                    self.assertTrue("xml:" in said or member in said, f"{name}: {said}")


class ToldTest(SynchronousTestCase):
    """Names that the hypervisor tells."""

    def test_new(self) -> None:
        """A domain that was just made is seen in lists, lookups and events by the name that comes with it."""
        fresh = {"name": "alice-9", "uuid": ABSENT["uuid"], "id": 4}
        it = plan(scope("*"), "DOMAIN_LOOKUP_BY_NAME", name="alice-9")
        self.assertEqual(it.answer({"dom": fresh}), {"dom": fresh})
        event = named("DOMAIN_EVENT_CALLBACK_REBOOT")
        self.assertTrue(scope("*").shows(event, {"callbackID": 1, "dom": fresh}, names))

    def test_renamed(self) -> None:
        """A domain that has another name now is judged by that one."""
        renamed = {**SEEN, "name": "bob-5"}
        it = plan(scope("*"), "DOMAIN_LOOKUP_BY_UUID", uuid=SEEN["uuid"])
        self.assertRaises(LibvirtError, it.answer, {"dom": renamed})

    def test_learned(self) -> None:
        """Names are learned from lists and events, never from answers that repeat what they were told."""
        both = {"domains": [SEEN, HIDDEN], "ret": 2}
        self.assertEqual(objects.doms_told(named("CONNECT_LIST_ALL_DOMAINS"), both), [SEEN, HIDDEN])
        event = named("DOMAIN_EVENT_CALLBACK_REBOOT")
        self.assertEqual(objects.doms_told(event, {"callbackID": 1, "dom": SEEN}), [SEEN])
        forged = {"dom": {**SEEN, "name": "forged"}}
        self.assertEqual(objects.doms_told(named("DOMAIN_CREATE_WITH_FLAGS"), forged), [])
