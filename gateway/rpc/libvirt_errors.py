"""Our errors as stock libvirt clients know them.

Source: libvirt's virterror.h, codes and VIR_FROM_RPC.
"""

from __future__ import annotations

from gateway import errors
from gateway.wire.libvirt_error import LibvirtError

_RPC = 7


def refusal(code: int, text: str, domain: int = _RPC) -> LibvirtError:
    """A refusal of our own, as libvirt would say it."""
    return LibvirtError(code, domain, text, 2, (text, None, None), (-1, -1))


def told(error: errors.GatewayError) -> LibvirtError:
    """*error* as a libvirt client knows it."""
    if isinstance(error, LibvirtError):
        return error
    if isinstance(error, errors.Forbidden):
        return refusal(88, f"access denied: {error.text}")
    if isinstance(error, errors.Unauthorized):
        return refusal(45, f"authentication failed: {error.text}")
    if isinstance(error, errors.BadRequest):
        return refusal(8, f"invalid argument: {error.text}")
    if isinstance(error, errors.UpstreamTimeout):
        return refusal(68, f"Timed out during operation: {error.text}")
    if isinstance(error, errors.NotImplementedHere):
        return refusal(3, f"this function is not supported by the connection driver: {error.text}")
    return refusal(38, error.text)
