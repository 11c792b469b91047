"""JSON web tokens: keys with one algorithm each, and payloads whose signature is good.

PyJWT does the cryptography. Everything a token could choose is settled before: the algorithm
belongs to the key, ``kid`` only looks up a dictionary, no other header field has a say. PyJWT lets
repeated claims, decimal-string times and any size pass; these are refused here and in
:mod:`gateway.core.tokens`. Source: RFC 7515, 7517, 7519 and 8725, sections 3.1 to 3.12.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from typing import cast

import jwt
from attrs import frozen
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from gateway.errors import Unauthorized
from gateway.wire import strict_json

#: Bytes one token may have.
LIMIT = 16 * 1024

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_HEADER = frozenset({"alg", "kid", "typ"})
_TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
#: By key type: the algorithms a key may have, the one it has when it says nothing first.
_ALGORITHMS = {"RSA": ("RS256", "PS256"), "EC": ("ES256",), "OKP": ("EdDSA",)}
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


@frozen
class JwtKey:
    """A public key, and the only algorithm it is for.

    :ivar kid: None when the key set does not say.
    """

    kid: str | None
    algorithm: str
    key: PublicKey


def looks_like(text: str) -> bool:
    """Tell whether *text* has the three parts of a JWT; no envelope has a dot."""
    return _COMPACT.fullmatch(text) is not None


def read_keys(text: bytes) -> dict[str | None, JwtKey]:
    """Read a JSON Web Key Set.

    :return: the keys by ``kid``. A key without one is only possible when it is alone.
    :raises ValueError: saying which key is wrong, and why.
    """
    keys = strict_json.load_object(text).get("keys")
    if not isinstance(keys, list) or not keys:
        raise ValueError("there is no list of keys")
    found: dict[str | None, JwtKey] = {}
    for number, item in enumerate(keys, 1):
        try:
            key = _key(item)
        except (ValueError, jwt.PyJWTError) as error:
            # PyJWT's own texts repeat the key.
            reason = str(error) if type(error) is ValueError else "the key cannot be read"
            raise ValueError(f"key {number}: {reason}") from None
        if key.kid in found:
            raise ValueError(f"key {number}: another key has the same kid")
        found[key.kid] = key
    if None in found and len(found) > 1:
        raise ValueError("of several keys, each needs a kid")
    return found


def open_token(text: str, keys: Mapping[str | None, JwtKey]) -> tuple[dict[str, object], JwtKey]:
    """Verify the signature of *text*; none of the claims is looked at.

    :raises Unauthorized: ``malformed``, ``shape``, ``signer`` or ``signature``.
    """
    if len(text) > LIMIT or not looks_like(text):
        raise Unauthorized(reason="malformed")
    try:
        header = strict_json.load_object(_decode(text.partition(".")[0]), depth=8)
    except ValueError:
        raise Unauthorized(reason="malformed") from None
    if not header.keys() <= _HEADER or not all(isinstance(v, str) for v in header.values()):
        raise Unauthorized(reason="shape")
    if str(header.get("typ", "jwt")).lower() not in _TYPES:
        raise Unauthorized(reason="shape")
    key = _choose(cast("str | None", header.get("kid")), keys)
    if header.get("alg") != key.algorithm:
        raise Unauthorized(reason="signer")
    try:
        opened = jwt.PyJWS().decode_complete(text, key.key, algorithms=[key.algorithm])
    except jwt.InvalidSignatureError:
        raise Unauthorized(reason="signature") from None
    except jwt.PyJWTError:
        raise Unauthorized(reason="malformed") from None
    try:
        return strict_json.load_object(opened["payload"]), key
    except ValueError:
        raise Unauthorized(reason="malformed") from None


def _choose(kid: str | None, keys: Mapping[str | None, JwtKey]) -> JwtKey:
    if kid is None and len(keys) == 1:
        return next(iter(keys.values()))
    # A key without kid answers only to tokens without kid.
    key = keys.get(kid) if kid is not None else None
    if key is None:
        raise Unauthorized(reason="signer")
    return key


def _decode(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _key(item: object) -> JwtKey:
    if not isinstance(item, dict):
        raise ValueError("not an object")
    if item.get("kty") == "oct":
        raise ValueError("a shared secret cannot tell who signed: only RSA, EC and OKP keys")
    if not item.keys().isdisjoint(_PRIVATE):
        raise ValueError("this is a private key: keep only the public part here")
    algorithms = _ALGORITHMS.get(str(item.get("kty")))
    if algorithms is None:
        raise ValueError("kty has to be RSA, EC or OKP")
    algorithm = item.get("alg", algorithms[0])
    if algorithm not in algorithms:
        raise ValueError("alg has to be " + " or ".join(algorithms))
    operations = item.get("key_ops", ["verify"])
    if item.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("the key is not for signatures")
    kid = item.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise ValueError("kid has to be a string")
    key = jwt.PyJWK(item, algorithm).key
    if isinstance(key, RSAPublicKey) and not 2048 <= key.key_size <= 8192:
        raise ValueError("an RSA key has to have 2048 to 8192 bits")
    if isinstance(key, EllipticCurvePublicKey) and not isinstance(key.curve, SECP256R1):
        raise ValueError("crv has to be P-256")
    if not isinstance(key, (RSAPublicKey, EllipticCurvePublicKey, Ed25519PublicKey)):
        raise ValueError("crv has to be Ed25519")
    return JwtKey(kid, algorithm, key)
