"""``gatewayctl token inspect``: take a token apart and say what each field means. No gateway is needed."""

from __future__ import annotations

import binascii
import json
from base64 import urlsafe_b64decode
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, ClassVar

from attrs import define, field
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.python.usage import UsageError

from gateway.core import jwt
from gateway.core.signers import Signer
from gateway.ctl.command import FILES, Command, Row, param
from gateway.ctl.display import age, table
from gateway.ctl.keys import algorithms, read_certificate, read_public
from gateway.ctl.shell import Failed, Shell
from gateway.errors import Unauthorized
from gateway.wire import ovirt_ticket, strict_json

_CLAIMS = {
    "iss": "who signed",
    "sub": "who it was given to",
    "aud": "the gateway it is for",
    "jti": "what tells it from every other token",
    "iat": "when it was signed",
    "nbf": "good from",
    "exp": "good until",
    "ticket": "what is granted",
}
_GENERATIONS = {
    "A": "engine up to 4.4.5, SHA-1 only: needs sha1 = yes in [tokens]",
    "B": "engine 4.4.6 and later, both signatures",
    "C": "engine 4.5 and later, RSA-PSS",
}


@define
class Report:
    """What is found out about a token.

    :ivar rows: field, value, meaning.
    :ivar times: beginnings and ends that were signed, seconds since the epoch.
    :ivar signature: ``good``, ``bad`` or ``not checked``.
    """

    form: str
    rows: list[tuple[str, object, str]] = field(factory=list)
    times: list[tuple[float, float]] = field(factory=list)
    signature: str = "not checked"

    def add(self, name: str, value: object, meaning: str) -> None:
        """Note one field."""
        self.rows.append((name, value, meaning))

    def add_time(self, name: str, seconds: object, meaning: str) -> None:
        """Note a field that is a time, in seconds since the epoch."""
        try:
            at = datetime.fromtimestamp(seconds, UTC).isoformat() if isinstance(seconds, int) else ""
        except (OverflowError, ValueError, OSError):
            at = ""
        self.add(name, seconds, f"{meaning} {at}" if at else f"{meaning}: not a time")

    def verdict(self, now: float) -> str:
        """``inside its times``, or where it is instead."""
        begin = max((begin for begin, _ in self.times), default=0.0)
        end = min((end for _, end in self.times), default=0.0)
        if not self.times:
            return "without times"
        if now < begin:
            return f"not yet good, for {age(begin - now)}"
        return f"expired {age(now - end)} ago" if now >= end else f"inside its times, for {age(end - now)}"


class Inspect(Command):
    """Explain a token, and say whether it is good."""

    arguments = "[TOKEN|-]"
    completes = FILES
    longdesc = (
        "Without a TOKEN, or for -, it is read from standard input, where other users cannot see it. Needs "
        "no gateway. The exit status is 1 for a token that is expired, not yet good, or badly signed."
    )
    example = (
        "gatewayctl token issue --key engine.key --url https://host1:54322 |\n"
        "    gatewayctl token inspect --certificate engine.pem"
    )
    optParameters: ClassVar[list[Row]] = [
        param(
            "certificate",
            "C",
            None,
            "who should have signed: certificate or public key, PEM; or a JSON web key set",
            files=True,
        )
    ]

    def parseArgs(self, *given: str) -> None:
        if len(given) > 1:
            raise UsageError("one TOKEN at a time")
        (self.given,) = given or ("-",)

    async def run(self, shell: Shell) -> None:
        text = (shell.read("-") if self.given == "-" else self.given).strip()
        report = self._jwt(shell, text) if jwt.looks_like(text) else self._envelope(shell, text)
        verdict = report.verdict(shell.wall())
        inside = verdict.startswith("inside")
        head = f"{report.form}, {verdict}, signature {report.signature}"
        shell.show(
            {
                "form": report.form,
                "fields": {name: value for name, value, _ in report.rows},
                "inside_times": inside,
                "verdict": verdict,
                "signature": report.signature,
            },
            f"{head}\n\n{table(('FIELD', 'VALUE', 'MEANING'), report.rows, shell.columns)}",
        )
        if report.signature.startswith("bad"):
            raise Failed(f"the signature is {report.signature}: do not trust this token")
        if not inside:
            raise Failed(f"the token is {verdict}: issue a new one, or compare the clocks")

    def _envelope(self, shell: Shell, text: str) -> Report:
        try:
            envelope = ovirt_ticket.parse(text)
        except ovirt_ticket.BadTicket as error:
            raise Failed(f"this is neither an envelope nor a JWT: {error} ({error.reason})") from None
        report = Report(f"oVirt envelope, generation {envelope.generation}")
        report.add("generation", envelope.generation, _GENERATIONS[envelope.generation])
        report.add("salt", envelope.salt, "makes two envelopes of the same content differ")
        if envelope.digest:
            report.add("digest", envelope.digest, "of the old signature; chooses nothing")
        report.add_time("validFrom", envelope.valid_from, "envelope good from")
        report.add_time("validTo", envelope.valid_to, "envelope good until")
        report.times.append((envelope.valid_from, envelope.valid_to))
        _payload(report, envelope.data)
        if envelope.signature is not None:
            report.add("signature", f"{len(envelope.signature) * 8} bits", "PKCS #1 v1.5 over SHA-1")
        if envelope.v2_signature is not None:
            report.add("v2_signature", f"{len(envelope.v2_signature) * 8} bits", "RSA-PSS over SHA-256")
        if envelope.certificate is not None:
            _signer(report, envelope.certificate)
        if name := self["certificate"]:
            report.signature = _judge(envelope, name, shell.read_bytes(name))
        return report

    def _jwt(self, shell: Shell, text: str) -> Report:
        try:
            header, claims = (strict_json.load_object(_decode(part)) for part in text.split(".")[:2])
        except (ValueError, binascii.Error):
            raise Failed("this is no JWT: its parts are not JSON in base64") from None
        report = Report(f"JWT, {header.get('alg')}")
        report.add("alg", header.get("alg"), "how it is signed, as it says itself")
        if "kid" in header:
            report.add("kid", header["kid"], "name of the key in the gateway's key set")
        for name, value in claims.items():
            if name in ("iat", "nbf", "exp"):
                report.add_time(name, value, _CLAIMS[name])
            elif isinstance(value, dict):
                _members(report, name, value.items())
            else:
                report.add(name, value, _CLAIMS.get(name, "not known to the gateway"))
        begin, end = claims.get("nbf"), claims.get("exp")
        if isinstance(begin, int) and isinstance(end, int):
            report.times.append((begin, end))
        if file := self["certificate"]:
            report.signature = _judge_jwt(text, header, file, shell.read_bytes(file))
        return report


def _payload(report: Report, data: str) -> None:
    """Explain what an envelope encloses."""
    try:
        payload = ovirt_ticket.image_payload(data)
    except ovirt_ticket.BadTicket as error:
        report.add("data", data, f"no image transfer: {error}")
        return
    report.add_time("nbf", payload.not_before, "transfer may begin from")
    if payload.issued_at is not None:
        report.add_time("iat", payload.issued_at, "signed at")
    report.add_time("exp", payload.expires, "transfer may begin until")
    report.times.append((payload.not_before, payload.expires))
    report.add("imaged-uri", payload.imaged_uri, "the image host")
    report.add("transfer-ticket", payload.transfer_ticket, "ticket id there, and in links")
    if payload.transfer_id is not None:
        report.add("transfer-id", payload.transfer_id, "the transfer in logs of the engine")


def _signer(report: Report, pem: str) -> None:
    """Say whose certificate the envelope encloses, which nobody has to believe."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode("utf-8"))
        name = certificate.subject.rfc4514_string()
        end = certificate.not_valid_after_utc.isoformat()
        mark = certificate.fingerprint(hashes.SHA256()).hex()
    except ValueError:
        report.add("certificate", "unreadable", "who says to have signed")
        return
    report.add("certificate", name, f"who says to have signed; good until {end}")
    report.add("fingerprint", mark, "SHA-256 of that certificate")


def _members(report: Report, name: str, members: Iterable[tuple[str, object]]) -> None:
    for key, value in members:
        shown: Any = json.dumps(value) if isinstance(value, dict) else value
        hidden = key == "secret" or (name, key) == ("ticket", "user")
        report.add(f"{name}.{key}", "***" if hidden else shown, _CLAIMS.get(name, ""))


def _judge(envelope: ovirt_ticket.Envelope, name: str, pem: bytes) -> str:
    certificate = read_certificate(name, pem)
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise Failed(f"{name}: an envelope is signed by an RSA key")
    signer = Signer(certificate, key)
    if envelope.v2_signature is not None:
        good = signer.verify_pss(envelope.v2_signature, envelope.signed)
    else:
        good = envelope.signature is not None and signer.verify_sha1(envelope.signature, envelope.signed)
    return "good" if good else "bad"


def _judge_jwt(text: str, header: dict[str, object], name: str, data: bytes) -> str:
    try:
        if data.lstrip().startswith(b"{"):
            keys = jwt.read_keys(data)
        else:
            public = read_public(name, data)
            kid = header.get("kid")
            kid = kid if isinstance(kid, str) else None
            alg = next((it for it in algorithms(public) if it == header.get("alg")), "none of this key")
            keys = {kid: jwt.JwtKey(kid, alg, public)}
    except ValueError as error:
        raise Failed(f"{name}: {error}") from None
    try:
        jwt.open_token(text, keys)
    except Unauthorized as error:
        return "bad" if error.reason == "signature" else f"bad ({error.reason})"
    return "good"


def _decode(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))
