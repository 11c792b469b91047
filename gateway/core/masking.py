"""What may be written down: secrets become fingerprints or ``***``, and one event stays one line.

:func:`mask` knows patterns and reaches text of any origin, third-party lines and tracebacks too;
:func:`escape` keeps text on its line; :func:`clean` does both and cuts. All patterns take time linear in the
text: repeated parts are possessive or bounded and begin with a literal or behind a boundary.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import unquote

#: Characters of a field that are written.
FIELD = 256
#: What is looked at of a text; far more than is ever written of a field.
_LONGEST = 1 << 16
_HIDDEN = "***"

_FINGERPRINT = re.compile(r"[0-9a-f]{12}|\{t:[0-9a-f]{12}\}")
_UUID = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
_QUOTED = r"""b?"(?:[^"\\\n]|\\.)*+"?|b?'(?:[^'\\\n]|\\.)*+'?"""
_SEPARATOR = r"""\\?["']?[ \t]{0,4}+[=:][ \t]{0,4}+"""

_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]{1,64}-----.*?(?:-----END [A-Z0-9 ]{1,64}-----|\Z)", re.DOTALL)
#: The rest of the line belongs to the header: other fields in a printed list of headers go with it.
_HEADER = re.compile(
    r"""((?:proxy-)?authorization|(?:set-)?cookie)(["']?\s{0,4}+[=:,])[^\n]*+""",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\b(Bearer|Basic)[ \t]{1,4}+[\w+/=.~-]{6,}+")
_PAIR = re.compile(
    rf"(token|password|passwd|passphrase|secret|session[_-]?id)({_SEPARATOR})(?:{_QUOTED}|[^\s&]++)",
    re.IGNORECASE,
)
_TICKET_PAIR = re.compile(
    rf"(ticket(?:[_-]?id)?)({_SEPARATOR})({_QUOTED}|\{{t:[0-9a-f]{{12}}\}}|[^\s&\"',;)\]}}]++)", re.IGNORECASE
)
_PATH = re.compile(
    r"""(/(?:images|tickets?|consoles?|sessions?(?!/[0-9]{1,12}(?:[\s/?#"']|\Z)))/)(?!\*)([^\s/?#"'<>(){},;\\]++)""",
    re.IGNORECASE,
)
_NEAR = re.compile(rf"(ticket|session)([\s_]?(?:id)?[^\w\n]{{1,6}}+)({_UUID})", re.IGNORECASE)
_JWT = re.compile(r"\beyJ[\w-]{6,}+\.[\w-]*+(?:\.[\w-]*+)*+")
_CREDENTIALS = re.compile(r"(://[^\s/:@]{0,128}+:)[^\s/@]{1,1024}+@")
_RUN = re.compile(r"(?<![\w+/=.%-])[\w+/=.%-]{200,}+", re.ASCII)
_WRAPPED = re.compile(r"(?<![A-Za-z0-9+/=])(?:[A-Za-z0-9+/=]{48,}+(?:\s|\\[rn]){1,4}){2,}+[A-Za-z0-9+/=]*+")

_UNPRINTED = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}

#: Names of fields whose value is a secret of high entropy: a fingerprint is written.
_IDS = frozenset({"ticket", "ticket_id", "ticketid", "session_id", "sessionid"})
#: Names of fields whose value leaves no trace.
_SECRETS = frozenset({"token", "password", "passwd", "passphrase", "secret", "pin", "private_key", "body"})
_SECRETS |= {"credentials", "authorization", "proxy_authorization", "cookie", "set_cookie", "cookies"}


def fingerprint(secret: str | bytes) -> str:
    """The only form of a secret that may be printed: 12 hex digits of its SHA-256."""
    data = secret if isinstance(secret, bytes) else secret.encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()[:12]


def _tag(secret: str) -> str:
    """``{t:FINGERPRINT}`` of *secret*; of what is one already, itself."""
    if _FINGERPRINT.fullmatch(secret):
        return secret
    return _hashed(secret)


def _hashed(secret: str) -> str:
    return f"{{t:{fingerprint(unquote(secret))}}}"


def _ticket(match: re.Match[str]) -> str:
    return match[1] + match[2] + _tag(match[3].removeprefix("b").strip("\"'") or match[3])


#: Each rule with words of which an ASCII text that it changes holds one, in lower case.
_RULES: tuple[tuple[tuple[str, ...], re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (("-----begin ",), _PEM, "<PEM>"),
    (("authorization", "cookie"), _HEADER, rf"\1\2 {_HIDDEN}"),
    (("bearer", "basic"), _SCHEME, rf"\1 {_HIDDEN}"),
    (("eyj",), _JWT, "<JWT>"),
    (("",), _RUN, "<base64>"),
    (("",), _WRAPPED, "<base64>"),
    (("://",), _CREDENTIALS, rf"\1{_HIDDEN}@"),
    (("/image", "/ticket", "/console", "/session"), _PATH, lambda match: match[1] + _tag(match[2])),
    (("ticket", "session"), _NEAR, _ticket),
    (("ticket",), _TICKET_PAIR, _ticket),
    (("token", "passw", "passphrase", "secret", "session"), _PAIR, rf"\1\2{_HIDDEN}"),
)
#: Characters that a text needs at least before :data:`_RUN` or :data:`_WRAPPED` changes it.
_LONG = 96
_RULES_SHORT = tuple(rule for rule in _RULES if rule[1] not in (_RUN, _WRAPPED))
#: Most fields are a word, a dotted name, a time or an address. No rule changes those: all want a sign between
#: two as well as a word with letters beyond f, or more characters than these.
_PLAIN = re.compile(r"[\w-]{0,42}|[a-z0-9_.-]{0,42}|[0-9a-f:.TZ+-]{0,42}", re.ASCII)
#: Stands for a text that is not ASCII: upper and lower case are not that simple there.
_ALL_WORDS = " ".join(word for words, *_ in _RULES for word in words)


def mask(text: str) -> str:
    """*text* without the secrets in it; lines stay lines."""
    short = len(text) < _LONG
    if short and (text.isidentifier() or text.isalnum()):
        return text  # one word, where all rules need a sign between two
    lower = text.lower() if text.isascii() else _ALL_WORDS
    for words, pattern, instead in _RULES_SHORT if short else _RULES:
        for word in words:
            if word in lower:
                text = pattern.sub(instead, text)
                break
    return text


def escape(text: str) -> str:
    """*text* with control, bidirectional and separator characters escaped, invalid UTF-8 as ``\\xNN``."""
    return text if text.isprintable() else _UNPRINTED.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: the byte it was
        code -= 0xDC00
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return _NAMED.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def clean(value: str | bytes, limit: int = FIELD) -> str:
    """*value* masked, escaped, and cut at *limit* characters with ``…``."""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    if len(text) <= limit and _PLAIN.fullmatch(text):
        return text
    if len(text) > _LONGEST:
        # What is cut may be the beginning of a secret, so the last word goes too.
        head = text[:_LONGEST].rsplit(None, 1)
        text = (head[0] if len(head) > 1 else "") + " …"
    text = escape(mask(text))
    return text if len(text) <= limit else text[: limit - 1] + "…"


@lru_cache(maxsize=512)
def _means(name: str) -> str:
    """What the name of a field says of its value: ``secret``, ``id``, or nothing."""
    word = name.lower().replace("-", "_")
    if word in _SECRETS or word.endswith(("_password", "_token", "_secret", "_passphrase")):
        return "secret"
    return "id" if word in _IDS else ""


def clean_field(name: str, value: str | bytes, limit: int = FIELD) -> str:
    """The value of the field *name*: :func:`clean`, and by name when the name says that it is a secret."""
    meaning = _means(name)
    if meaning == "secret":
        return _HIDDEN
    if meaning == "id":
        return _tag(value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value)
    return clean(value, limit)


#: Paths that are logged as they are; below the other routes stand ids.
_ROUTES = frozenset(
    {"images", "tickets", "sessions", "console", "info", "status", "drain", "reload", "ui", "libvirt"}
)
_ROUTES |= {"metrics", "healthz", "readyz"}
_BELOW = frozenset({"", "*", "extents", "checksum", "algorithms"})
_PORT = re.compile(r"[0-9]{1,5}")
_PAGE = re.compile(r"[a-z]{1,16}(?:\.[a-z]{1,5})?")
_NUMBER = re.compile(r"[0-9]{1,12}")
_KEYS = frozenset({"close", "flush", "context", "algorithm", "block_size", "offset", "size"})
_VALUE = re.compile(r"[0-9]{1,20}|[a-z0-9_]{0,16}")


def clean_target(target: str | bytes) -> str:
    """A request target fit for the log: route, fingerprints of ids, and of the query what tells no secret."""
    text = target.decode("ascii", "backslashreplace") if isinstance(target, bytes) else target
    path, mark, query = text.partition("?")
    first, *rest = path.removeprefix("/").split("/")
    route = unquote(first)
    shown = [first if route in _ROUTES or first in _BELOW else _hashed(first)]
    shown += [segment if _tells_nothing(route, segment) else _hashed(segment) for segment in rest]
    pairs = [pair.partition("=") for pair in query.split("&")]
    kept = [key + equals + value for key, equals, value in pairs if key in _KEYS and _VALUE.fullmatch(value)]
    return clean(
        ("/" if path.startswith("/") else "") + "/".join(shown) + (mark + "&".join(kept) if kept else "")
    )


#: A name, no part of which is as long as an id that cannot be guessed.
_NAME = re.compile(r"[A-Za-z0-9-]{1,19}(?:\.[A-Za-z0-9-]{1,19})*")


def clean_authority(target: bytes) -> str:
    """The target of a CONNECT fit for the log: where it leads, unless the host may be, or hold, a ticket."""
    host, colon, port = target.decode("ascii", "backslashreplace").rpartition(":")
    try:
        ip_address(host.removeprefix("[").removesuffix("]"))
        shown = host
    except ValueError:
        shown = host if _NAME.fullmatch(host) else _hashed(host)
    return f"{shown}:{port}" if colon and _PORT.fullmatch(port) else clean_target(target)


def _tells_nothing(route: str, segment: str) -> bool:
    """Whether *segment*, somewhere below *route*, is no id: our words, our pages, our numbers of sessions."""
    if segment in _BELOW:
        return True
    if route == "ui":
        return _PAGE.fullmatch(segment) is not None
    return route == "sessions" and _NUMBER.fullmatch(segment) is not None
