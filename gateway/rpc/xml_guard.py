"""Judges XML that a tenant sends: by a list of what may be in it, with a parser that knows no entities.

What is not in :mod:`gateway.rpc.xml_rules` is refused by name. Source: libvirt's own words on the matter: who
may define a domain has the host, for XML can name any file and device of it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase

from attrs import define, evolve, field, frozen

from gateway import errors
from gateway.rpc.domain_tags import URI as TAGS_URI
from gateway.rpc.xml_rules import ATTRIBUTES, RULES
from gateway.wire.safe_xml import Node, XmlError, parse

#: Which arguments of which procedures are XML, and of which kind.
XML = {
    "CONNECT_BASELINE_CPU": (("xmlCPUs", "cpu"),),
    "CONNECT_BASELINE_HYPERVISOR_CPU": (("xmlCPUs", "cpu"),),
    "CONNECT_COMPARE_CPU": (("xml", "cpu"),),
    "CONNECT_COMPARE_HYPERVISOR_CPU": (("xmlCPU", "cpu"),),
    "CONNECT_DOMAIN_XML_TO_NATIVE": (("domainXml", "domain"),),
    "DOMAIN_ATTACH_DEVICE": (("xml", "device"),),
    "DOMAIN_ATTACH_DEVICE_FLAGS": (("xml", "device"),),
    "DOMAIN_BACKUP_BEGIN": (("backup_xml", "backup"), ("checkpoint_xml", "checkpoint")),
    "DOMAIN_BLOCK_COPY": (("destxml", "disk"),),
    "DOMAIN_CHECKPOINT_CREATE_XML": (("xml_desc", "checkpoint"),),
    "DOMAIN_CREATE_XML": (("xml_desc", "domain"),),
    "DOMAIN_CREATE_XML_WITH_FILES": (("xml_desc", "domain"),),
    "DOMAIN_DEFINE_XML": (("xml", "domain"),),
    "DOMAIN_DEFINE_XML_FLAGS": (("xml", "domain"),),
    "DOMAIN_DETACH_DEVICE": (("xml", "detached"),),
    "DOMAIN_DETACH_DEVICE_FLAGS": (("xml", "detached"),),
    "DOMAIN_MANAGED_SAVE_DEFINE_XML": (("dxml", "domain"),),
    "DOMAIN_SNAPSHOT_CREATE_XML": (("xml_desc", "snapshot"),),
    "DOMAIN_UPDATE_DEVICE_FLAGS": (("xml", "device"),),
    "NETWORK_CREATE_XML": (("xml", "network"),),
    "NETWORK_CREATE_XML_FLAGS": (("xml", "network"),),
    "NETWORK_DEFINE_XML": (("xml", "network"),),
    "NETWORK_DEFINE_XML_FLAGS": (("xml", "network"),),
    "STORAGE_POOL_CREATE_XML": (("xml", "pool"),),
    "STORAGE_POOL_DEFINE_XML": (("xml", "pool"),),
    "STORAGE_VOL_CREATE_XML": (("xml", "volume"),),
    "STORAGE_VOL_CREATE_XML_FROM": (("xml", "volume"),),
}


@frozen
class Policy:
    """What of the host a tenant's XML may name; by default nothing.

    :ivar volumes: globs on ``pool/volume``: what disks may be.
    :ivar networks: globs on the names of networks.
    :ivar roots: directories below which files may be disks; absolute.
    :ivar emulators: programs that may be named; a domain does not have to.
    :ivar remote_disks: ``protocol://host`` of disks that are elsewhere.
    :ivar user_network: guests may go out by the hypervisor's own stack, and so reach its loopback.
    :ivar files: ``pool/volume`` by its file, as the hypervisor has them; such a file may be a disk when the
        volume may.
    """

    volumes: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    emulators: tuple[str, ...] = ()
    remote_disks: tuple[str, ...] = ()
    user_network: bool = False
    files: Mapping[str, str] = field(factory=dict, hash=False)


_PATTERNS = {
    "": r"[\w.:,+@ -]{0,128}",
    "plain": r"[\w.:,+@ -]{0,128}",
    "text": r"[^\x00-\x08\x0b\x0c\x0e-\x1f]{0,8192}",
    "number": r"-?[0-9]{1,20}",
    "port": r"-1|[0-9]{1,5}",
    "small": r"[0-9]{1,2}",
    # Neither a way to another directory nor an option; libvirt makes file names of these.
    "name": r"(?![.-])[^/\\\x00-\x1f\x7f]{1,128}",
    "volume": r"(?![.-])[^/\\\x00-\x1f\x7f]{1,128}",
    "uuid": r"([0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32})?",
    "mac": r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}",
    "loopback": r"127\.0\.0\.1|::1|localhost",
    "entropy": r"/dev/u?random",
    "zone": r"[A-Z][A-Za-z_]{1,30}(/[A-Z][A-Za-z_]{1,30}){0,2}",
    "vnet": r"vnet[0-9]{1,9}",
    "bridge": r"virbr[0-9]{1,5}",
}


#: Around these there may be white space. It is cut off first: a pattern that looks for it can take for ever.
_STRIPPED = ("plain", "number", "small", "uuid")


def _matches(name: str, pattern: str) -> Callable[[str, Policy], bool]:
    compiled = re.compile(pattern, re.ASCII)
    blank = " \t\r\n" if name in _STRIPPED else ""
    return lambda value, _policy: compiled.fullmatch(value.strip(blank) if blank else value) is not None


def _is_path(value: str, policy: Policy) -> bool:
    """A file below one of the roots, written in the one way that leaves no doubt."""
    if not value.startswith("/") or value.startswith("//") or posixpath.normpath(value) != value:
        return False
    if re.search(r"[\x00-\x1f\x7f]", value):
        return False
    return any(value.startswith(root.rstrip("/") + "/") for root in policy.roots)


def _is_volume_name(named: str, policy: Policy) -> bool:
    return any(fnmatchcase(named, glob) for glob in policy.volumes)


def _is_volume_file(value: str, policy: Policy) -> bool:
    return value in policy.files and _is_volume_name(policy.files[value], policy)


#: Of values; the empty name is for those without a check.
_VALUES: dict[str, Callable[[str, Policy], bool]] = {
    **{name: _matches(name, pattern) for name, pattern in _PATTERNS.items()},
    "path": _is_path,
    "file": lambda value, policy: _is_path(value, policy) or _is_volume_file(value, policy),
    "device": _is_volume_file,
    "emulator": lambda value, policy: value in policy.emulators,
    "network": lambda value, policy: any(fnmatchcase(value, glob) for glob in policy.networks),
}


def _is_volume(node: Node, policy: Policy) -> bool:
    return _is_volume_name(f"{node.get('pool')}/{node.get('volume')}", policy)


def _is_remote(node: Node, policy: Policy) -> bool:
    hosts = [f"{node.get('protocol')}://{host.get('name')}" for host in node.all("host")]
    return bool(hosts) and all(host in policy.remote_disks for host in hosts)


#: Of whole elements.
_NODES: dict[str, Callable[[Node, Policy], bool]] = {
    "volume": _is_volume,
    "remote": _is_remote,
    "user_network": lambda _node, policy: policy.user_network,
}

Value = Callable[[str, Policy], bool]
#: Elements that say who may see a domain; see :mod:`gateway.rpc.domain_tags`.
_RESERVED = f"{{{TAGS_URI}}}"


def sets_tags(uri: object, xml: object) -> bool:
    """Tell whether an element of metadata may be tags: libvirt keeps a namespace that *xml* has itself.

    Source: libvirt 9.0, virXMLInjectNamespace.
    """
    if uri == TAGS_URI:
        return True
    try:
        return isinstance(xml, str) and _reserved(parse(xml))
    except XmlError:
        return True  # who knows how libvirt reads it


def _reserved(node: Node) -> bool:
    return node.name.startswith(_RESERVED) or any(map(_reserved, node.children))


@define
class Rule:
    """One line of the rules.

    :ivar everything: nothing in it is looked at, but whether it sets tags.
    """

    attributes: dict[str, Value] = field(factory=dict)
    required: set[str] = field(factory=set)
    text: Value | None = None
    nodes: list[Callable[[Node, Policy], bool]] = field(factory=list)
    everything: bool = False
    children: dict[str, list[Rule]] = field(factory=dict)

    def problem(self, node: Node, policy: Policy) -> str | None:
        """What of *node* itself is refused: ``/@attribute`` or empty for all of it; None for nothing."""
        if self.everything:
            return f"/{_RESERVED}" if _reserved(node) else None
        for name in self.required - node.attributes.keys():
            return f"/@{name}"
        for name, value in node.attributes.items():
            check = self.attributes.get(name)
            if check is None or not check(value, policy):
                return f"/@{_shown(name)}"
        if not (self.text(node.text, policy) if self.text is not None else not node.text.strip(" \t\r\n")):
            return "/text"
        return None if all(check(node, policy) for check in self.nodes) else ""


def _value(text: str) -> Value:
    if text.startswith("@"):
        return _VALUES[text[1:]]
    choices = frozenset(text.split("|"))
    return lambda value, _policy: value in choices


def _rule(words: list[str]) -> Rule:
    rule = Rule()
    parts = [part for word in words for part in ATTRIBUTES.get(word, word).split()]
    for part in parts:
        if part == "**":
            rule.everything = True
        elif part.startswith(":"):
            rule.text = _value(part[1:])
        elif part.startswith("#"):
            rule.nodes.append(_NODES[part[1:]])
        else:
            name, equals, values = part.partition("=")
            bare = name.rstrip("!")
            rule.attributes[bare] = _value(values) if equals else _VALUES[""]
            if bare != name:
                rule.required.add(bare)
    return rule


def _sections() -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in RULES.splitlines():
        if line.startswith(("= ", "%")):
            current = sections.setdefault(line.removeprefix("= "), [])
        elif line:
            current.append(line)
    return sections


def _expanded(lines: list[str], sections: dict[str, list[str]]) -> Iterator[str]:
    """*lines* with those of the groups in them, as deep as the group stands."""
    for line in lines:
        bare = line.lstrip()
        if bare.startswith("&"):
            indent = line[: -len(bare)]
            yield from (indent + below for below in _expanded(sections["%" + bare[1:]], sections))
        else:
            yield line


def _tree(lines: Iterator[str]) -> dict[str, list[Rule]]:
    root: dict[str, list[Rule]] = {}
    open_at = [root]
    for line in lines:
        bare = line.lstrip()
        depth = (len(line) - len(bare)) // 2
        names, *words = bare.split()
        rule = _rule(words)
        for name in names.split("|"):
            open_at[depth].setdefault(name, []).append(rule)
        open_at[depth + 1 :] = [rule.children]
    return root


def _kinds() -> dict[str, dict[str, list[Rule]]]:
    sections = _sections()
    return {
        name: _tree(_expanded(lines, sections))
        for name, lines in sections.items()
        if not name.startswith("%")
    }


_KINDS = _kinds()


class Guard:
    """Judges XML by one policy."""

    def __init__(self, policy: Policy = Policy()) -> None:
        self._policy = policy

    def check(
        self, kind: str, text: str, argument: str = "xml", files: Mapping[str, str] | None = None
    ) -> Node:
        """Judge XML of *kind*, such as ``domain``, ``device`` or ``snapshot``, and return its root.

        :param argument: what errors call it.
        :param files: ``pool/volume`` by its file, of those that are in it.
        :raises Denied: it holds what the policy does not let pass; its permission is ``xml:`` and the way to
            the element or the attribute.
        :raises BadArguments: it is no XML.
        """
        try:
            root = parse(text)
        except ValueError as error:
            raise errors.BadArguments(argument, str(error)) from None
        policy = evolve(self._policy, files=files) if files else self._policy
        self._judge(root, _KINDS[kind], "xml:", policy)
        return root

    def _judge(self, node: Node, rules: dict[str, list[Rule]], way: str, policy: Policy) -> None:
        here = way + _shown(node.name)
        problem: str | None = ""
        for rule in rules.get(node.name, ()):
            found = rule.problem(node, policy)
            if found is None:
                if not rule.everything:
                    for child in node.children:
                        self._judge(child, rule.children, here + "/", policy)
                return
            # Of several, the one of the right type says more.
            problem = found if problem in ("", "/@type") else problem
        raise errors.Denied(here + (problem or ""))


def _shown(name: str) -> str:
    """*name* for a message; of one in a namespace that, too."""
    return re.sub(r"[^\x20-\x7e]", "?", name)[:80]
