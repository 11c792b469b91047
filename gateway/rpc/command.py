"""What all commands have in common: strict arguments, and errors that travel whole.

Every :class:`gateway.errors.GatewayError` is an error of every command. Its code is its word in upper case,
its description a JSON object: its details, and ``text``; see :func:`describe` and :func:`rebuild`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import cache
from keyword import iskeyword
from typing import Any, ClassVar, cast

from attrs import frozen
from twisted.protocols import amp

from gateway import errors
from gateway.errors import GatewayError
from gateway.rpc.arguments import Argument
from gateway.wire import strict_json
from gateway.wire.amp_box import Room
from gateway.wire.libvirt_error import LibvirtError

#: Bytes of the number of a call, and of all that makes a box a call. Source: the AMP protocol.
TAG = 64
CALL: Room = (2 + 4 + 4 + TAG + 4 + 8 + 64, 2)
#: What a box may have that calls no command we know: enough to say so.
STRANGER: Room = (64 * 1024, 64)

#: Longest text in an error, in characters: five of them fit into a value, whatever they are made of.
_TEXT = 2000

Fields = list[tuple[bytes, amp.Argument]]


def fields(**types: Argument) -> Fields:
    """Arguments, or members of an answer, by name."""
    return [(name.encode("ascii"), it) for name, it in types.items()]


def _ours(types: Fields) -> list[tuple[bytes, Argument]]:
    return cast(list[tuple[bytes, Argument]], types)


def _name(key: bytes) -> str:
    """What Python calls an argument: ``from_`` is one that it could not."""
    name = key.decode("ascii")
    return f"{name}_" if iskeyword(name) else name


class Command(amp.Command):
    """A command of ours.

    :cvar writes: it changes something; without an answer nobody knows whether it did.
    :cvar admin: it is for operators and controllers only.
    """

    arguments: ClassVar[Fields] = []
    response: ClassVar[Fields] = []
    writes: ClassVar[bool] = False
    admin: ClassVar[bool] = False

    @classmethod
    def parseArguments(cls, box: Mapping[bytes, bytes], protocol: object = None) -> dict[str, Any]:
        """The arguments in *box* by name, None for each that may be left out and is.

        :raises BadArguments: one is missing, unknown, or no good.
        :raises TooLarge: one is longer than its type permits.
        """
        rest = dict(box)
        found = _read(_plan(cls).asked, rest)
        for key in rest:
            if not key.startswith(b"_"):
                raise errors.BadArguments(key.decode("ascii", "replace"), "there is no such argument")
        return found

    @classmethod
    def parseResponse(cls, box: Mapping[bytes, bytes], protocol: object = None) -> dict[str, Any]:
        """The members of an answer; those that we do not know are left out.

        :raises UpstreamFailed: this is no answer to the command.
        """
        try:
            return _read(_plan(cls).told, dict(box))
        except (errors.BadArguments, errors.TooLarge) as error:
            raise errors.UpstreamFailed("The gateway's answer is not understood", reason="answer") from error

    @classmethod
    def makeArguments(cls, objects: Mapping[str, Any], proto: object = None) -> dict[bytes, bytes]:
        """A box that calls for *objects*, what is None left out.

        :raises BadArguments: as :meth:`parseArguments`.
        :raises TooLarge: one is longer than its type permits.
        """
        plan = _plan(cls)
        for name in objects:
            if name not in plan.names:
                raise errors.BadArguments(name, "there is no such argument")
        try:
            return _write(plan.asked, objects)
        except _NotWritten as error:
            raise errors.BadArguments(error.name, str(error)) from error

    @classmethod
    def makeResponse(cls, objects: Mapping[str, Any], proto: object = None) -> dict[bytes, bytes]:
        """A box that answers with *objects*.

        :raises ValueError: they are not what the command answers, which is a bug.
        :raises TooLarge: one is longer than its type permits.
        """
        return _write(_plan(cls).told, objects)

    @classmethod
    def room(cls) -> Room:
        """Bytes and pairs that a box may have that calls this."""
        return _room(cls)


@cache
def _room(command: type[Command]) -> Room:
    rooms = [CALL, *(it.room(key) for key, it in _ours(command.arguments))]
    return sum(size for size, _ in rooms), sum(pairs for _, pairs in rooms)


#: One argument, or member: its key, what Python calls it, its type, and whether its key has all of its value.
_Part = tuple[bytes, str, Argument, bool]


@frozen
class _Plan:
    """What a command is asked with, and what it answers.

    :ivar names: of the arguments.
    """

    asked: Sequence[_Part]
    told: Sequence[_Part]
    names: Set[str]


@cache
def _plan(command: type[Command]) -> _Plan:
    asked, told = _parts(command.arguments), _parts(command.response)
    return _Plan(asked, told, {name for _, name, *_ in asked})


def _parts(types: Fields) -> list[_Part]:
    return [(key, _name(key), it, type(it).read is Argument.read) for key, it in _ours(types)]


def _read(parts: Sequence[_Part], box: dict[bytes, bytes]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        for key, name, it, plain in parts:
            if plain and key in box and len(box[key]) <= it.most:
                # As its read() does.
                found[name] = it.fromString(box.pop(key))
            else:
                found[name] = it.read(key, box)
    except ValueError as error:
        raise errors.BadArguments(key.decode("ascii"), str(error)) from None
    return found


class _NotWritten(ValueError):
    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


def _write(parts: Sequence[_Part], objects: Mapping[str, Any]) -> dict[bytes, bytes]:
    box: dict[bytes, bytes] = {}
    try:
        for key, name, it, plain in parts:
            value = objects.get(name)
            if plain and value is not None:
                # As its write() does.
                box[key] = it.toString(value)
            else:
                it.write(key, value, box)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise _NotWritten(key.decode("ascii"), str(error)) from error
    return box


# Errors.


def _every(kind: type[GatewayError]) -> Iterator[type[GatewayError]]:
    for each in kind.__subclasses__():
        # Those of other packages are theirs alone, and do not come this way.
        if each.__module__ in (errors.__name__, LibvirtError.__module__) and not each.__name__.startswith(
            "_"
        ):
            yield each
        yield from _every(each)


def code(error: GatewayError | type[GatewayError]) -> bytes:
    """The AMP code of an error."""
    return error.word.upper().encode("ascii")


#: Which error a code stands for.
CODES: Mapping[bytes, type[GatewayError]] = {
    GatewayError.word.upper().encode("ascii"): GatewayError,
    **{code(it): it for it in _every(GatewayError)},
}


def describe(error: GatewayError, **more: object) -> bytes:
    """The description of an error: JSON of its details and its text, in what one value can hold."""
    told = {"text": error.text, **error.details, **more}
    for name, value in told.items():
        if isinstance(value, str):
            told[name] = value[:_TEXT].encode("utf-8", "replace").decode("utf-8")
    return json.dumps(told, ensure_ascii=False).encode("utf-8")


def rebuild(word: bytes, description: bytes | str) -> GatewayError:
    """The error that was described, as good as can be told; never fails.

    What is not described in JSON has that as its text; a code that nobody knows makes a
    :class:`GatewayError` with that reason.
    """
    text = description if isinstance(description, str) else description.decode("utf-8", "replace")
    try:
        told = strict_json.load_object(text)
    except ValueError:
        told = {"text": text}
    kind = CODES.get(word, GatewayError)
    said = _text(told, "text")
    if kind in _MAKERS:
        return _MAKERS[kind](told, said)
    return kind(said) if word in CODES else kind(said, reason=word.decode("ascii", "replace").lower()[:64])


def refusal(box: Mapping[bytes, bytes]) -> GatewayError:
    """The error that was answered instead of what was asked for; never fails."""
    word = box.get(amp.ERROR_CODE, b"INTERNAL")
    if word == amp.UNHANDLED_ERROR_CODE:
        return errors.NotImplementedHere("The gateway does not know this command")
    return rebuild(word, box.get(amp.ERROR_DESCRIPTION, b""))


def _text(told: Mapping[str, object], name: str) -> str:
    value = told.get(name)
    return value if isinstance(value, str) else ""


def _maybe_text(told: Mapping[str, object], name: str) -> str | None:
    value = told.get(name)
    return value if isinstance(value, str) else None


def _number(told: Mapping[str, object], name: str, default: int) -> int:
    value = told.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _bad_arguments(told: Mapping[str, object], said: str) -> GatewayError:
    path = _text(told, "path")
    return errors.BadArguments(path, said.removeprefix(f"{path}: "))


def _libvirt(told: Mapping[str, object], said: str) -> GatewayError:
    return LibvirtError(
        _number(told, "code", 1),
        _number(told, "domain", 0),
        _text(told, "message") or said,
        _number(told, "level", 2),
        (_maybe_text(told, "str1"), _maybe_text(told, "str2"), _maybe_text(told, "str3")),
        (_number(told, "int1", -1), _number(told, "int2", -1)),
    )


def _later(kind: Any) -> Callable[[Mapping[str, object], str], GatewayError]:
    def make(told: Mapping[str, object], said: str) -> GatewayError:
        seconds = told.get("retry_after")
        right = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds <= 1e9
        made: GatewayError = kind(said, retry_after=seconds) if right else kind(said)
        return made

    return make


def _maybe(kind: Any) -> Callable[[Mapping[str, object], str], GatewayError]:
    def make(told: Mapping[str, object], said: str) -> GatewayError:
        made: GatewayError = kind(said, maybe_executed=told.get("maybe_executed") is not False)
        return made

    return make


#: Those that need more than a text.
_MAKERS: dict[type[GatewayError], Callable[[Mapping[str, object], str], GatewayError]] = {
    LibvirtError: _libvirt,
    errors.BadArguments: _bad_arguments,
    errors.Denied: lambda told, said: errors.Denied(_text(told, "perm"), _text(told, "object")),
    errors.MethodNotAllowed: lambda told, said: errors.MethodNotAllowed(),
    errors.TooLarge: lambda told, said: errors.TooLarge(said, limit=_number(told, "limit", -1)),
    errors.RangeNotSatisfiable: lambda told, said: errors.RangeNotSatisfiable(said),
    errors.Interrupted: _maybe(errors.Interrupted),
    errors.DeadlinePassed: _maybe(errors.DeadlinePassed),
    **{
        it: _later(it)
        for it in (
            errors.TooManyRequests,
            errors.Unavailable,
            errors.TargetDown,
            errors.Busy,
        )
    },
}
