"""The signed ticket of an oVirt engine: its envelope, and the payload of an image transfer.

The envelope signs the *concatenation* of some field values, and the list of these fields is not
signed. Whoever holds a genuine one could thus move bytes from field to field. So every field but
``data`` has a fixed form here, the set of fields is exact, and ``data`` must be a whole payload:
then only one reading of the signed bytes is left.

Source: oVirt engine ticket format, generations A (engine up to 4.4.5, SHA-1), B (4.4.6 and later,
both signatures) and C (4.5 and later, RSA-PSS alone). No keys here: see :mod:`gateway.core.signers`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Literal

from attrs import frozen

from gateway.wire import strict_json

#: Bytes one envelope may have; real ones have about 2.5 KB.
LIMIT = 16 * 1024

Generation = Literal["A", "B", "C"]
Sign = Callable[[bytes], bytes]

_SALT_BYTES = 8
_DATES = "%Y%m%d%H%M%S"
_DATE = re.compile(r"[0-9]{14}")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_URI = re.compile(r"https?://(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9.-]{1,253}):([1-9][0-9]{0,4})")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END CERTIFICATE-----[\r\n]*")

_SIGNED = frozenset({"salt", "validFrom", "validTo", "data"})
_KNOWN = _SIGNED | {"digest", "signedFields", "signature", "v2_signature", "certificate"}
_GENERATIONS: dict[frozenset[str], Generation] = {
    frozenset({"digest", "signature"}): "A",
    frozenset({"digest", "signature", "v2_signature"}): "B",
    frozenset({"v2_signature"}): "C",
}


class BadTicket(ValueError):
    """The text is no ticket we would read.

    :ivar reason: ``malformed``, ``shape``, ``purpose`` (another payload) or ``target``.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@frozen
class Envelope:
    """One envelope of good shape; the signature is still to be verified.

    :ivar salt: the base64 text, as signed.
    :ivar digest: ``"sha1"``, or None in generation C. It chooses nothing.
    :ivar valid_from: seconds since the epoch.
    :ivar valid_to: seconds since the epoch, never before :attr:`valid_from`.
    :ivar signature: PKCS #1 v1.5 over SHA-1, or None in generation C.
    :ivar v2_signature: RSA-PSS over SHA-256, or None in generation A.
    :ivar certificate: what the envelope says its signer was, PEM; not signed.
    :ivar signed: the bytes both signatures are over.
    """

    salt: str
    digest: str | None
    valid_from: int
    valid_to: int
    data: str
    signature: bytes | None
    v2_signature: bytes | None
    certificate: str | None
    signed: bytes
    generation: Generation


@frozen
class ImagePayload:
    """What the engine grants for one image transfer; it says neither direction nor size.

    :ivar not_before: seconds since the epoch, as the other times.
    :ivar imaged_uri: ``https://host:port`` of the image host, without a path.
    :ivar transfer_ticket: UUID of the ticket on that host.
    """

    not_before: int
    issued_at: int | None
    expires: int
    imaged_uri: str
    transfer_ticket: str
    transfer_id: str | None


def parse(text: str) -> Envelope:
    """Take the wire form apart.

    :raises BadTicket: when anything is not exactly as an engine writes it.
    """
    if len(text) > LIMIT:
        raise BadTicket("malformed", "the ticket is too long")
    try:
        members = strict_json.load_object(_decode(text), limit=LIMIT, depth=8)
    except ValueError as error:
        raise BadTicket("malformed", str(error)) from None
    fields = {name: value for name, value in members.items() if isinstance(value, str)}
    if fields.keys() != members.keys() or not fields.keys() <= _KNOWN:
        raise BadTicket("malformed", "a field is unknown, or is not a string")
    try:
        return _shape(fields)
    except KeyError:
        raise BadTicket("shape", "a field is missing") from None
    except ValueError as error:
        raise BadTicket("shape", str(error)) from None


def encode(
    data: str,
    *,
    valid_from: int,
    valid_to: int,
    certificate: str | None,
    sign: Sign | None = None,
    sign_sha1: Sign | None = None,
    order: Sequence[str] = ("salt", "digest", "validFrom", "validTo", "data"),
    salt: bytes | None = None,
) -> str:
    """Write an envelope around *data*, as an engine would.

    :param valid_from: seconds since the epoch, as is *valid_to*.
    :param sign: makes the RSA-PSS signature; alone it gives generation C, with *sign_sha1* B.
    :param sign_sha1: makes the PKCS #1 v1.5 signature; alone it gives generation A.
    :param order: of the signed fields; ``digest`` is left out for generation C.
    :param salt: 8 bytes, by default random ones.
    """
    fields = {
        "salt": base64.b64encode(salt or secrets.token_bytes(_SALT_BYTES)).decode("ascii"),
        "validFrom": datetime.fromtimestamp(valid_from, UTC).strftime(_DATES),
        "validTo": datetime.fromtimestamp(valid_to, UTC).strftime(_DATES),
        "data": data,
    }
    if sign_sha1 is not None:
        fields["digest"] = "sha1"
    names = [name for name in order if name in fields]
    signed = "".join(fields[name] for name in names).encode("utf-8")
    fields["signedFields"] = ",".join(names)
    if sign_sha1 is not None:
        fields["signature"] = base64.b64encode(sign_sha1(signed)).decode("ascii")
    if sign is not None:
        fields["v2_signature"] = base64.b64encode(sign(signed)).decode("ascii")
    if certificate is not None:
        fields["certificate"] = certificate
    return base64.b64encode(json.dumps(fields).encode("utf-8")).decode("ascii")


def image_payload(data: str) -> ImagePayload:
    """Read *data* of an envelope as the grant of an image transfer.

    :raises BadTicket: for anything else (``purpose``), or an unusable address (``target``).
    """
    try:
        members = strict_json.load_object(data, limit=LIMIT, depth=8)
    except ValueError as error:
        raise BadTicket("purpose", str(error)) from None
    times = [members.pop(name, None) for name in ("nbf", "iat", "exp")]
    uri, ticket, transfer = (
        members.pop(name, None) for name in ("imaged-uri", "transfer-ticket", "transfer-id")
    )
    if members:
        raise BadTicket("purpose", "the payload has an unknown member")
    not_before, issued_at, expires = (_seconds(value) for value in times)
    if not_before is None or expires is None or (issued_at is None) != (times[1] is None):
        raise BadTicket("purpose", "the payload has no usable times")
    if not isinstance(ticket, str) or not _UUID.fullmatch(ticket):
        raise BadTicket("purpose", "the transfer ticket is not a UUID")
    if transfer is not None and (not isinstance(transfer, str) or not _ID.fullmatch(transfer)):
        raise BadTicket("purpose", "the transfer id is not an id")
    if not isinstance(uri, str):
        raise BadTicket("purpose", "the payload names no image host")
    _address(uri)
    return ImagePayload(not_before, issued_at, expires, uri, ticket, transfer)


def der(pem: str) -> bytes:
    """The one certificate in *pem*, not looked at any further.

    :raises BadTicket: when it is not exactly one PEM block.
    """
    if not (match := _PEM.fullmatch(pem)):
        raise BadTicket("shape", "the certificate is not one PEM block")
    try:
        return _decode(re.sub(r"\r?\n", "", match[1]))
    except ValueError as error:
        raise BadTicket("shape", str(error)) from None


def _decode(text: str) -> bytes:
    """Undo base64 that has exactly one spelling."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None
    if base64.b64encode(raw).decode("ascii") != text:
        raise ValueError("not base64 in its one spelling")
    return raw


def _shape(fields: dict[str, str]) -> Envelope:
    generation = _GENERATIONS.get(frozenset(fields) & {"digest", "signature", "v2_signature"})
    if generation is None:
        raise ValueError("this is no known generation")
    expected = _SIGNED if generation == "C" else _SIGNED | {"digest"}
    names = fields["signedFields"].split(",")
    if len(names) != len(expected) or set(names) != expected:
        raise ValueError("the signed fields are not those of an engine")
    if len(_decode(fields["salt"])) != _SALT_BYTES:
        raise ValueError("the salt has another length")
    if fields.get("digest", "sha1") != "sha1":
        raise ValueError("the digest is not sha1")
    valid_from, valid_to = _date(fields["validFrom"]), _date(fields["validTo"])
    if valid_from > valid_to:
        raise ValueError("the ticket ends before it begins")
    signature, v2_signature = (
        _decode(fields[name]) if name in fields else None for name in ("signature", "v2_signature")
    )
    return Envelope(
        salt=fields["salt"],
        digest=fields.get("digest"),
        valid_from=valid_from,
        valid_to=valid_to,
        data=fields["data"],
        signature=signature,
        v2_signature=v2_signature,
        certificate=fields.get("certificate"),
        signed="".join(fields[name] for name in names).encode("utf-8"),
        generation=generation,
    )


def _date(text: str) -> int:
    if not _DATE.fullmatch(text):
        raise ValueError("a date does not have 14 digits")
    try:
        return int(datetime.strptime(text, _DATES).replace(tzinfo=UTC).timestamp())
    except (ValueError, OverflowError):
        raise ValueError("a date is not in the calendar") from None


def _seconds(value: object) -> int | None:
    """*value* when it is a time in this era; true and false are not."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40:
        return value
    return None


def _address(uri: str) -> None:
    """Refuse what is not plainly ``http[s]://host:port``.

    Shorthand such as ``127.1`` or ``0x7f000001`` is refused: only the resolver would understand it.
    """
    match = _URI.fullmatch(uri)
    if not match or int(match[2]) > 65535:
        raise BadTicket("target", "the image host is not scheme://host:port")
    host = match[1]
    try:
        if host.startswith("["):
            IPv6Address(host[1:-1])
        elif _NUMBER.fullmatch(host.rpartition(".")[2]):
            IPv4Address(host)
        elif not all(_LABEL.fullmatch(label) for label in host.split(".")):
            raise BadTicket("target", "the image host has no proper name")
    except AddressValueError:
        raise BadTicket("target", "the image host has no proper address") from None
