"""Priority strings of GnuTLS, as far as they mean something to another TLS library.

What is left out of the versions and of the strength is told, never guessed.
Source: GnuTLS manual, section 7.9, "Priority strings".
"""

from __future__ import annotations

from attrs import frozen

#: The library's and the distribution's own choice, which is ours too.
_USUAL = {"NORMAL", "PERFORMANCE", "PFS", "SECURE128", "DEFAULT", "SYSTEM", "LIBVIRT"}
_STRONG = {"SECURE192", "SECURE256"}
_VERSIONS = {"VERS-TLS1.2": "1.2", "VERS-TLS1.3": "1.3"}
#: What nobody here speaks anyway: to take it away changes nothing.
_OLD = {"VERS-SSL3.0", "VERS-TLS1.0", "VERS-TLS1.1", "VERS-DTLS-ALL"}


@frozen
class Priority:
    """What a string asks for.

    :ivar versions: ``1.2`` and ``1.3`` as far as they may be spoken, in order; at least one.
    :ivar strong: whether ciphers have 256 bits.
    :ivar ignored: the parts that have no meaning here.
    """

    versions: tuple[str, ...] = ("1.2", "1.3")
    strong: bool = False
    ignored: tuple[str, ...] = ()


def parse_priority(text: str) -> Priority:
    """Read a priority string.

    :raises ValueError: it leaves no version of TLS that we speak.
    """
    versions, strong, ignored = {"1.2", "1.3"}, False, []
    for part in filter(None, text.split(":")):
        sign, word = (part[0], part[1:].upper()) if part[0] in "+-!" else ("", part.upper())
        names = {it.strip("@") for it in word.split(",")}
        if sign != "+" and word in ("VERS-ALL", "VERS-TLS-ALL") and sign:
            versions.clear()
        elif sign == "+" and word in ("VERS-ALL", "VERS-TLS-ALL"):
            versions = {"1.2", "1.3"}
        elif sign and word in _VERSIONS:
            (versions.add if sign == "+" else versions.discard)(_VERSIONS[word])
        elif not sign and names & _STRONG:
            strong = True
        elif not (names & _USUAL and not sign) and not (sign in ("-", "!") and word in _OLD):
            ignored.append(part)
    if not versions:
        raise ValueError("tls_priority leaves neither TLS 1.2 nor TLS 1.3")
    return Priority(tuple(sorted(versions)), strong, tuple(ignored))
