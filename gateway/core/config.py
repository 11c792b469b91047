"""Read the configuration: ``gateway.conf``, then ``conf.d/*.conf`` beside it, the last to name a key wins.

:func:`load` finds every problem at once and names the file, section and key of each; :func:`check` also
opens what the configuration names; :func:`show` and :func:`render` give the effective configuration back, as
data and as a file.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from attrs import define, field
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.core.config_check import check, doubts
from gateway.core.config_model import CLIENT_PAIRS, SECTIONS, UNAVAILABLE, Config
from gateway.core.config_services import Section, Target
from gateway.core.config_text import render, show
from gateway.core.config_types import hide, is_local
from gateway.errors import ConfigError

__all__ = ["Config", "check", "load", "render", "show"]

_LARGEST = 1 << 20
_TARGET = re.compile(r"target ([A-Za-z0-9_.-]{1,64})")
#: What is wrong with a value of the wrong kind never shows the value of these keys.
_SECRET = frozenset({("registry", "url"), ("imagelist", "database")})


@define
class _Reading:
    """What the files say, and what is wrong with it.

    :ivar values: by section and key, the text and the file that set it.
    :ivar seen: the first file that has a section.
    """

    values: dict[str, dict[str, tuple[str, Path]]] = field(factory=dict)
    seen: dict[str, Path] = field(factory=dict)
    problems: list[str] = field(factory=list)

    def wrong(self, file: Path, section: str, key: str, what: str) -> None:
        place = f"[{section}] {key}".rstrip() if section else ""
        self.problems.append(": ".join(part for part in (str(file), place, what) if part))

    def read(self, file: Path) -> None:
        try:
            with file.open("rb") as stream:
                data = stream.read(_LARGEST + 1)
            if len(data) > _LARGEST:
                raise ValueError("longer than 1M, which is no configuration")
            text = data.decode("utf-8-sig").replace("\r\n", "\n")
        except OSError as error:
            return self.wrong(file, "", "", f"cannot be read: {error.strerror}")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            return self.wrong(file, "", "", f"line {line}: found bytes that are no UTF-8")
        except ValueError as error:
            return self.wrong(file, "", "", str(error))
        for section, keys in self._parse(file, text):
            self.seen.setdefault(section, file)
            self.values.setdefault(section, {}).update({key: (value, file) for key, value in keys.items()})
        return None

    def _parse(self, file: Path, text: str) -> Iterator[tuple[str, dict[str, str]]]:
        for strict in (True, False):  # the second time for what stands behind something given twice
            parser = configparser.RawConfigParser(
                delimiters=("=",), strict=strict, default_section="", empty_lines_in_values=False
            )
            parser.optionxform = str  # type: ignore[assignment, method-assign]  # documented so
            try:
                parser.read_string(text)
            except configparser.DuplicateSectionError as error:
                self.wrong(
                    file, _shown(error.section), "", f"line {error.lineno}: the section is there twice"
                )
                continue
            except configparser.DuplicateOptionError as error:
                what = f"line {error.lineno}: the key is there twice"
                self.wrong(file, _shown(error.section), _shown(error.option), what)
                continue
            except configparser.MissingSectionHeaderError as error:
                self.wrong(file, "", "", f"line {error.lineno}: a key before the first [section]")
                return
            except configparser.ParsingError as error:
                for line, _ in error.errors:
                    self.wrong(
                        file, "", "", f"line {line}: found neither [section] nor key = value nor # comment"
                    )
            break
        for section in parser.sections():
            yield section, dict(parser.items(section))


def _shown(text: str) -> str:
    """*text* out of a file, fit for one line."""
    return ascii(text)[1:-1] if len(text) <= 64 else ascii(text[:64])[1:-1] + "…"


def _nearest(word: str, known: list[str]) -> str:
    near = get_close_matches(word[:64], known, 1)
    return f"did you mean {near[0]}?" if near else "known are " + ", ".join(known)


def _right(error: ErrorDetails) -> str:
    """What would be right instead of what pydantic found."""
    if (cause := error.get("ctx", {}).get("error")) is not None:
        return str(cause)
    if error["type"] == "literal_error":
        return str(error["ctx"]["expected"]).replace("'", "")
    return error["msg"]


def _section(reading: _Reading, name: str, model: type[Section], base: Path) -> Section | None:
    """Make the section *name*, or None when there are problems with it."""
    before = len(reading.problems)
    given = reading.values.get(name, {})
    known = model.model_fields
    texts: dict[str, str] = {}
    for key, (text, file) in given.items():
        if key not in known:
            what = "unknown key, " + _nearest(key, list(known))
            reading.wrong(file, _shown(name), _shown(key), what)
        elif text or known[key].default not in (
            None,
            (),
        ):  # an empty value takes back what an earlier file said
            texts[key] = text
    try:
        section = model.model_validate(texts, context={"base": base})
    except ValidationError as error:
        faults: dict[str, ErrorDetails] = {}
        for fault in error.errors(include_url=False, include_input=False):
            faults.setdefault(str(fault["loc"][0]), fault)
        for key, fault in faults.items():
            if key in given:
                text, file = given[key]
                found = "a URL" if (name, key) in _SECRET else f"'{_shown(hide(text))}'"
                reading.wrong(file, _shown(name), key, f"found {found}, right would be {_right(fault)}")
            else:
                help_ = known[key].description
                reading.wrong(reading.seen[name], _shown(name), key, f"is missing: {help_}")
        return None
    return section if len(reading.problems) == before else None


#: Services that share their place with no other: they speak something else than HTTP, or give orders.
_ALONE = {"control", "rpc", "libvirt", "target"}


def _across(config: Config) -> Iterator[tuple[str, str, str]]:
    """Section, key and text of each problem that lies between sections."""
    ports = list(config.ports())
    tls = sorted({section for section, _, _, encrypted in ports if encrypted})
    for key in ("certificate", "key"):
        if tls and getattr(config.tls, key) is None:
            yield "tls", key, f"is missing, for {', '.join(tls)} has tls = yes"
    for name, certificate, private in CLIENT_PAIRS:
        section = getattr(config, name)
        if (getattr(section, certificate, None) is None) != (getattr(section, private, None) is None):
            yield name, private, f"{certificate} and {private} go together"
    if not config.registry.url.startswith("memory:"):
        yield "registry", "url", "a shared registry is not available in this version, right would be memory:"
    owners: dict[str, tuple[str, str, bool]] = {}
    for section, key, endpoint, encrypted in ports:
        if section == "control" and not is_local(endpoint):
            right = "a unix socket or a loopback interface, for whoever reaches it gives orders"
            yield section, key, f"found '{_shown(endpoint)}', right would be {right}"
        other = owners.setdefault(endpoint, (section, key, encrypted))
        if other == (section, key, encrypted):
            continue
        place = f"[{other[0]}] {other[1]}"
        if _ALONE & {section.split(" ")[0], other[0].split(" ")[0]} or "listen" not in (key, other[1]):
            yield section, key, f"is that of {place}, right would be a place of its own"
        elif other[2] != encrypted:
            yield section, key, f"is that of {place}, right would be the same tls for both"


def load(path: Path | str, *, opened: bool = False) -> Config:
    """Read and judge the file *path* and its drop-ins.

    :param opened: open every file that is named, too; otherwise none.
    :raises ConfigError: with all problems at once.
    """
    file = Path(path).absolute()
    reading = _Reading()
    files = [file, *sorted((file.parent / "conf.d").glob("*.conf"))]
    for one in files:
        reading.read(one)
    made: dict[str, Any] = {}
    targets: dict[str, Target] = {}
    for name, seen in reading.seen.items():
        target = _TARGET.fullmatch(name)
        if target is None and name not in SECTIONS:
            known = [*SECTIONS, "target NAME"]
            reading.wrong(seen, _shown(name), "", f"unknown section, {_nearest(name, known)}")
        elif target is None:
            made[name] = _section(reading, name, SECTIONS[name], file.parent)
        elif isinstance(one_target := _section(reading, name, Target, file.parent), Target):
            targets[target[1]] = one_target
    off = tuple(name for name in reading.seen if name.split(" ")[0] in UNAVAILABLE)
    good = {name: section for name, section in made.items() if section is not None}
    config = Config(file=file, files=tuple(files), unavailable=off, targets=targets, **good)
    if not reading.problems:
        for section, key, what in _across(config):
            source = reading.values.get(section, {}).get(key, ("", reading.seen.get(section, file)))[1]
            reading.wrong(source, section, key, what)
    problems = list(reading.problems)
    if opened:
        # What a section leaves out has its default, unless the section itself is wrong.
        problems += check(config, only=SECTIONS.keys() - made.keys() | good.keys())
    if problems:
        raise ConfigError(problems)
    return config.model_copy(update={"doubts": tuple(doubts(config))}) if opened else config
