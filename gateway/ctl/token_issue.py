"""``gatewayctl token issue``: sign a token as an engine does, for tests and small sites."""

from __future__ import annotations

import json
from typing import Any, ClassVar, cast

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.python.usage import UsageError

from gateway.core.signers import issue_envelope
from gateway.core.units import parse_bytes
from gateway.ctl.command import Command, Row, param, reason, ticket_id, whole_seconds
from gateway.ctl.display import epoch
from gateway.ctl.keys import algorithms, read_certificate, read_key
from gateway.ctl.shell import Failed, Shell
from gateway.ctl.ticket_commands import new_id, words
from gateway.errors import BadRequest
from gateway.wire import ovirt_ticket
from gateway.wire.strict_json import load_object
from gateway.wire.ticket_json import grant_from

#: Seconds a token is good for when nobody says.
_LIFETIME = 300
_JWT_ONLY = ("grant", "ops", "size", "subject", "audience", "issuer", "kid", "algorithm")
_ENVELOPE_ONLY = ("certificate", "generation", "transfer-id")


class Issue(Command):
    """Sign a token: an oVirt envelope, or a JWT."""

    longdesc = (
        "An envelope grants one image transfer and wants --url. A JWT grants what --grant says, as for "
        "'ticket add', or the image of --url. The key is that whose public half the gateway has in [tokens]."
    )
    example = (
        "gatewayctl token issue --key engine.key --certificate engine.pem --url https://host1:54322\n"
        "gatewayctl token issue --jwt --key jwt.key --audience gateway --subject alice --grant console.json"
    )
    optFlags: ClassVar[list[Row]] = [["jwt", None, "a JSON web token instead of an envelope"]]
    optParameters: ClassVar[list[Row]] = [
        param("key", "k", None, "private key that signs, PEM", files=True),
        param("certificate", "C", None, "its certificate, PEM, put into the envelope", files=True),
        param("url", "u", None, "scheme://host:port of the image host"),
        param(
            "ticket", "t", None, "ticket id on the image host and in links [default: a new UUID]", ticket_id
        ),
        param(
            "lifetime", "l", None, "how long the token is good for: 90s, 15m, 1h [default: 5m]", whole_seconds
        ),
        param("not-before", None, None, "when it begins, as 2030-01-31T12:00:00Z [default: now]"),
        param("transfer-id", "T", None, "name of the transfer in logs; of an envelope", ticket_id),
        param(
            "generation", "g", None, "of the envelope: A (SHA-1), B or C [default: C]", words=("A", "B", "C")
        ),
        param(
            "grant", "G", None, "file with the JSON of the ticket, - for standard input; of a JWT", files=True
        ),
        param("ops", "o", None, "what it grants, with commas [default: read,write]; of a JWT", words),
        param("size", "s", None, "bytes of the image; of a JWT", parse_bytes),
        param("subject", "S", None, "who it is given to (sub); of a JWT"),
        param("audience", "A", None, "the gateway it is for (aud); of a JWT"),
        param("issuer", "I", None, "who signs (iss); of a JWT"),
        param("kid", "K", None, "name of the key in the gateway's key set; of a JWT"),
        param(
            "algorithm",
            "a",
            None,
            "RS256 or PS256 for an RSA key; of a JWT",
            words=("RS256", "PS256", "ES256", "EdDSA"),
        ),
    ]

    def parseArgs(self, *given: str) -> None:
        if given:
            raise UsageError("token issue takes no arguments, only options")
        form, foreign = ("a JWT", _ENVELOPE_ONLY) if self["jwt"] else ("an envelope", _JWT_ONLY)
        for name in foreign:
            if self[name] is not None:
                raise UsageError(f"--{name} has no meaning for {form}; see --jwt")
        needed = ["key", "audience", "subject"] if self["jwt"] else ["key", "url"]
        for name in needed:
            if not self[name]:
                raise UsageError(f"--{name} is missing")
        if self["jwt"] and bool(self["url"]) == bool(self["grant"]):
            raise UsageError("say what is granted: either --grant or --url")

    async def run(self, shell: Shell) -> None:
        key = read_key(self["key"], shell.read_bytes(self["key"]))
        begins = shell.wall() if self["not-before"] is None else epoch(self["not-before"])
        if begins is None:
            raise Failed("--not-before: right would be a time such as 2030-01-31T12:00:00Z")
        valid_from = int(begins)
        valid_to = valid_from + (self["lifetime"] or _LIFETIME)
        uuid = self["ticket"] or new_id()
        if self["jwt"]:
            token, form = self._jwt(shell, key, uuid, valid_from, valid_to)
        else:
            token, form = self._envelope(shell, key, uuid, valid_from, valid_to)
        shell.show({"token": token, **form, "valid_from": valid_from, "valid_to": valid_to}, token)

    def _envelope(
        self, shell: Shell, key: object, uuid: str, valid_from: int, valid_to: int
    ) -> tuple[str, dict[str, Any]]:
        if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < 2048:
            raise Failed("an envelope is signed by an RSA key of 2048 bits or more")
        certificate = None
        if name := self["certificate"]:
            certificate = read_certificate(name, shell.read_bytes(name))
            if certificate.public_key() != key.public_key():
                raise Failed(f"{self['key']} is not the key of {name}")
        payload = {
            "nbf": valid_from,
            "iat": valid_from,
            "exp": valid_to,
            "imaged-uri": self["url"].rstrip("/"),
            "transfer-ticket": uuid,
        }
        if self["transfer-id"]:
            payload["transfer-id"] = self["transfer-id"]
        data = json.dumps(payload)
        try:
            ovirt_ticket.image_payload(data)
        except ovirt_ticket.BadTicket as error:
            raise Failed(f"no gateway would take this: {error}; see --url and --ticket") from None
        generation = cast("ovirt_ticket.Generation", self["generation"] or "C")
        token = issue_envelope(
            data, key, certificate, valid_from=valid_from, valid_to=valid_to, generation=generation
        )
        return token, {"form": "envelope", "generation": generation, "id": uuid}

    def _jwt(
        self, shell: Shell, key: Any, uuid: str, valid_from: int, valid_to: int
    ) -> tuple[str, dict[str, Any]]:
        ticket = self._grant(shell, uuid)
        try:
            grant_from(ticket)
        except BadRequest as error:
            raise Failed(f"no gateway would take this: {reason(error)}") from None
        possible = algorithms(key)
        if not possible or self["algorithm"] not in (None, *possible):
            raise Failed(f"this key is for {' or '.join(possible) or 'no algorithm that is accepted'}")
        algorithm = self["algorithm"] or possible[0]
        claims = {
            "sub": self["subject"],
            "aud": self["audience"],
            "jti": new_id(),
            "iat": valid_from,
            "nbf": valid_from,
            "exp": valid_to,
            "ticket": ticket,
        }
        if self["issuer"]:
            claims["iss"] = self["issuer"]
        headers = {"kid": self["kid"]} if self["kid"] else None
        token = jwt.encode(claims, key, algorithm=algorithm, headers=headers)
        return token, {"form": "jwt", "algorithm": algorithm, "id": ticket["uuid"]}

    def _grant(self, shell: Shell, uuid: str) -> dict[str, Any]:
        """The ``ticket`` claim."""
        ticket: dict[str, Any] = {}
        if self["grant"]:
            try:
                ticket = load_object(shell.read(self["grant"]))
            except ValueError as error:
                raise Failed(f"the ticket in {self['grant']} cannot be read: {error}") from None
        else:
            ticket = {"url": f"{self['url'].rstrip('/')}/images/{uuid}", "ops": ["read", "write"]}
        if self["ticket"] or "uuid" not in ticket:
            ticket["uuid"] = uuid
        ticket |= {name: self[name] for name in ("ops", "size") if self[name] is not None}
        ticket.setdefault("timeout", self["lifetime"] or _LIFETIME)
        return ticket
