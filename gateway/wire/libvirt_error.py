"""A refusal by libvirt: its numbers, and what they mean on our own wires."""

from __future__ import annotations

from collections.abc import Mapping

from gateway import errors

#: The HTTP status for what libvirt says; anything else is 502.
_GROUPS = {
    404: {42, 43, 49, 50, 53, 57, 62, 66, 72, 80, 99, 101, 103, 104, 107},
    403: {29, 45, 88},
    400: {8, 27, 35, 67, 74, 92},
    409: {9, 28, 37, 55, 83, 87, 90},
    501: {3, 84},
    504: {68, 86, 97},
}


class LibvirtError(errors.GatewayError):
    """The hypervisor's own refusal; its numbers and texts go to the caller as they are.

    :ivar code: what went wrong, such as 42 for a domain that does not exist.
    :ivar domain: which part of libvirt says so.
    :ivar level: 2 is an error, 1 a warning.
    Source: libvirt's virterror.h; the grouping is ours.
    """

    word = "libvirt"
    default = "The hypervisor refused"

    def __init__(
        self,
        code: int,
        domain: int = 0,
        text: str = "",
        level: int = 2,
        strings: tuple[str | None, str | None, str | None] = (None, None, None),
        numbers: tuple[int, int] = (-1, -1),
    ) -> None:
        super().__init__(text, reason=f"libvirt-{code}")
        self.code = code
        self.domain = domain
        self.level = level
        self.strings = strings
        self.numbers = numbers

    @property
    def status(self) -> int:  # type: ignore[override]  # known only from the code
        return next((status for status, codes in _GROUPS.items() if self.code in codes), 502)

    @property
    def details(self) -> Mapping[str, object]:
        first, second, third = self.strings
        low, high = self.numbers
        told = {"code": self.code, "domain": self.domain, "level": self.level, "message": self.text}
        return told | {"str1": first, "str2": second, "str3": third, "int1": low, "int2": high}
