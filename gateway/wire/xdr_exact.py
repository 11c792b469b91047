"""Which values have only one form in bytes, so that what was read needs not be written to be passed on."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache
from typing import cast

from gateway.wire.xdr import Array, Characters, Maybe, Struct


@cache
def is_exact(codec: object) -> bool:
    """Whether all that *codec* reads is, byte for byte, what it would write.

    Reading is strict, but for characters: of the four bytes that one takes, three are what its sender's
    compiler makes of its sign.
    """
    if isinstance(codec, Maybe | Array):
        return is_exact(cast(Hashable, codec.inner))
    if isinstance(codec, Struct):
        return all(is_exact(cast(Hashable, step.codec)) for step in codec.steps if step.layout is None)
    return not isinstance(codec, Characters)
