"""Keys and certificates that token commands are given."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from gateway.core.jwt import PublicKey
from gateway.ctl.shell import Failed

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
_UNREADABLE = (ValueError, UnsupportedAlgorithm)


def read_key(name: str, pem: bytes) -> PrivateKey:
    """The private key *pem* out of the file *name*.

    :raises Failed:
    """
    try:
        key = load_pem_private_key(pem, None)
    except TypeError:
        raise Failed(f"{name} has a passphrase: take it off with 'openssl pkey'") from None
    except _UNREADABLE:
        raise Failed(f"{name} holds no PEM private key") from None
    if not isinstance(key, PrivateKey):
        raise Failed(f"{name}: the key has to be RSA, P-256 or Ed25519")
    return key


def read_certificate(name: str, pem: bytes) -> x509.Certificate:
    """The first certificate of *pem* out of the file *name*.

    :raises Failed:
    """
    try:
        return x509.load_pem_x509_certificates(pem)[0]
    except _UNREADABLE:
        raise Failed(f"{name} holds no PEM certificate") from None


def read_public(name: str, pem: bytes) -> PublicKey:
    """The public key of *pem* out of the file *name*, which is a certificate or a bare key.

    :raises Failed:
    """
    key: object
    if b"-----BEGIN PUBLIC KEY-----" in pem:
        try:
            key = load_pem_public_key(pem)
        except _UNREADABLE:
            raise Failed(f"{name} holds no PEM public key") from None
    else:
        key = read_certificate(name, pem).public_key()
    if not isinstance(key, PublicKey):
        raise Failed(f"{name}: the key has to be RSA, P-256 or Ed25519")
    return key


def algorithms(key: PublicKey | PrivateKey) -> tuple[str, ...]:
    """The JWT algorithms that *key* may be for, the usual one first.

    Source: RFC 7518, section 3.1; RFC 8037, section 3.1.
    """
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        return ("RS256", "PS256")
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        return ("ES256",) if isinstance(key.curve, ec.SECP256R1) else ()
    return ("EdDSA",)
