"""Tokens: from the text somebody presents to claims somebody signed.

:class:`TokenVerifier` takes oVirt envelopes (:mod:`gateway.wire.ovirt_ticket`) and JWTs
(:mod:`gateway.core.jwt`), with the keys of :mod:`gateway.core.signers`. The cheap checks come
first, and nothing is believed before the signature. Every refusal looks the same to the peer;
``reason`` of the error says in one word what was wrong: ``malformed``, ``shape``, ``signer``,
``signature``, ``not_yet``, ``expired``, ``too_long``, ``purpose``, ``target``, ``before_start``,
``replayed``, or ``full`` when no more one-time tokens can be remembered.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable
from hashlib import sha256
from typing import cast

from attrs import Factory, define, evolve, field, frozen
from twisted.logger import Logger

from gateway.core import jwt
from gateway.core.signers import Signer, Signers, Stamp, load_signers
from gateway.errors import ConfigError, Unauthorized
from gateway.wire import console_ticket, ovirt_ticket
from gateway.wire.ovirt_ticket import BadTicket, Envelope

#: How far from now a time in a JWT may be, seconds: beyond ten years it is a slip or a trick.
_FAR = 10 * 366 * 86400.0


@frozen
class Claims:
    """What a good token says.

    :ivar issuer: ``"engine"`` for an envelope, ``iss`` of a JWT (empty when it has none).
    :ivar subject: who it was given to; envelopes do not say.
    :ivar not_before: seconds since the epoch, as all times here.
    :ivar expires: the earliest end of all that was signed; nothing made of it may live longer.
    :ivar grant: the ticket, in the form the control interface takes it.
        What an envelope says of a console has no id there, so its ``uuid`` is *mark*.
    :ivar one_time: good for one session: call :meth:`TokenVerifier.redeem` when it opens.
    :ivar digest: SHA-256 of the token's text, hex.
    :ivar mark: what makes two spellings the same token: SHA-256 of what was signed, or of ``jti``.
    :ivar signer: fingerprint of the certificate, or ``kid``.
    """

    kind: str
    issuer: str
    subject: str
    not_before: float
    issued_at: float | None
    expires: float
    grant: dict[str, object]
    one_time: bool
    digest: str
    mark: str
    signer: str

    @property
    def principal(self) -> str:
        """Whom to name in the audit trail: the ticket's own word, else the subject."""
        named = self.grant.get("principal")
        return named if isinstance(named, str) and named else self.subject


@define
class Marks:
    """The one-time tokens that were used, until nobody could present them again.

    :ivar maximum: marks held; when all are alive, new one-time tokens are refused.
    """

    maximum: int = 100_000
    _marks: set[str] = field(factory=set, init=False)
    _ends: list[tuple[float, str]] = field(factory=list, init=False)
    _latest: float = field(default=float("-inf"), init=False)

    def add(self, mark: str, until: float, now: float) -> None:
        """Use *mark* up, in one step.

        :raises Unauthorized: ``replayed``, ``expired`` or ``full``.
        """
        # Marks forgotten at some time stay dead when the clock is set back behind it.
        self._latest = max(self._latest, now)
        while self._ends and self._ends[0][0] <= self._latest:
            self._marks.remove(heapq.heappop(self._ends)[1])
        if mark in self._marks:
            raise Unauthorized(reason="replayed")
        if until <= self._latest:
            raise Unauthorized(reason="expired")
        if len(self._marks) >= self.maximum:
            raise Unauthorized(reason="full")
        self._marks.add(mark)
        heapq.heappush(self._ends, (until, mark))


@define(eq=False)
class TokenVerifier:
    """Verifies tokens against the signers of the moment.

    :ivar signers: see :meth:`reload`.
    :ivar wall: seconds since the epoch.
    :ivar started: when this process started, by *wall*. One-time tokens from before are refused,
        for another process may have honored them; minus infinity where that process's marks are shared.
    :ivar skew: seconds our clock and the signer's may differ; accepted is
        ``not_before - skew <= now < expires + skew``.
    :ivar sha1: accept envelopes that have only a SHA-1 signature, from signers that never made a better one.
    :ivar max_life: seconds a token may be good for in all; one for a console only has to last until its
        page connects.
    :ivar jwt_audience: the whole ``aud`` of JWTs for us; they need one.
    :ivar jwt_issuer: the whole ``iss``, when JWTs have to have one.
    :ivar observe: told for which kind of ticket, ``accepted`` or ``refused``, and the reason.
    """

    signers: Signers
    wall: Callable[[], float] = field(kw_only=True)
    started: float = field(kw_only=True)
    skew: float = field(default=0.0, kw_only=True)
    sha1: bool = field(default=False, kw_only=True)
    max_life: float = field(default=12 * 3600.0, kw_only=True)
    console_life: float = field(default=600.0, kw_only=True)
    jwt_audience: str | None = field(default=None, kw_only=True)
    jwt_issuer: str | None = field(default=None, kw_only=True)
    observe: Callable[[str, str, str], None] = field(default=lambda kind, result, reason: None, kw_only=True)
    marks: Marks = field(factory=Marks, kw_only=True)
    _modern: set[str] = field(factory=set, init=False)
    _tried: tuple[Stamp, ...] = field(
        default=Factory(lambda self: self.signers.read, takes_self=True), init=False
    )
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self.reload(self.signers)

    def verify(self, text: str, kind: str) -> Claims:
        """Read *text* as a token for one *kind* of ticket, such as ``"image"``.

        :raises Unauthorized: always with the same text; the reason is for the audit trail.
        """
        try:
            claims = self._jwt(text, kind) if jwt.looks_like(text) else self._envelope(text, kind)
            if claims.one_time and claims.not_before - self.skew < self.started - 1.0:
                raise Unauthorized(reason="before_start")
        except Unauthorized as error:
            self.observe(kind, "refused", error.reason)
            raise
        self.observe(kind, "accepted", "")
        return claims

    def redeem(self, claims: Claims) -> None:
        """Use a one-time token up; others may be used on.

        :raises Unauthorized: ``replayed``, ``expired`` or ``full``.
        """
        if not claims.one_time:
            return
        try:
            self.marks.add(claims.mark, claims.expires + self.skew, self.wall())
        except Unauthorized as error:
            self.observe(claims.kind, "refused", error.reason)
            raise

    def reload(self, signers: Signers) -> None:
        """Believe *signers* from now on, and nobody else.

        :raises ConfigError: and keep the old ones, when there are JWT keys without an audience.
        """
        if signers.jwt and self.jwt_audience is None:
            raise ConfigError(["[tokens] jwt_audience: has to be set, for there are jwt_keys"])
        self.signers = signers
        self._tried = signers.read

    def changed(self) -> bool:
        """Tell whether a file is another than when we last looked; costs three ``stat`` calls."""
        return self.signers.sources.stamps() != self._tried

    def maybe_reload(self) -> bool:
        """Read the files again if one changed. Bad ones are reported once, and the old keys stay."""
        if not self.changed():
            return False
        sources = self.signers.sources
        self._tried = sources.stamps()
        try:
            self.reload(
                load_signers(sources.engine_certificate, sources.engine_ca, sources.eku, sources.jwt_keys)
            )
        except ConfigError as error:
            self._log.error("token keys not reloaded, the old ones stay: {problems}", problems=error.problems)
            return False
        self._log.info("token keys reloaded")
        return True

    def _envelope(self, text: str, kind: str) -> Claims:
        try:
            envelope = ovirt_ticket.parse(text)
            now = self.wall()
            signer = self._signed_by(envelope, now)
            self._check_times(envelope.valid_from, envelope.valid_to, now, kind)
            make = {"image": self._image, "console": _console}.get(kind)
            if make is None:
                raise Unauthorized(reason="purpose")
            mark = sha256(envelope.signed).hexdigest()
            claims = Claims(
                kind=kind,
                issuer="engine",
                subject="",
                not_before=float(envelope.valid_from),
                issued_at=None,
                expires=float(envelope.valid_to),
                grant={"uuid": mark},
                one_time=False,
                digest=sha256(text.encode("ascii")).hexdigest(),
                mark=mark,
                signer=signer.fingerprint,
            )
            return make(claims, envelope.data)
        except BadTicket as error:
            raise Unauthorized(reason=error.reason) from None

    def _image(self, claims: Claims, data: str) -> Claims:
        payload = ovirt_ticket.image_payload(data)
        self._check_times(payload.not_before, payload.expires, self.wall(), claims.kind)
        grant: dict[str, object] = {
            "uuid": payload.transfer_ticket,
            "url": f"{payload.imaged_uri}/images/{payload.transfer_ticket}",
            "ops": ["read", "write"],
        }
        if payload.transfer_id is not None:
            grant["transfer_id"] = payload.transfer_id
        return evolve(
            claims,
            not_before=max(claims.not_before, float(payload.not_before)),
            issued_at=None if payload.issued_at is None else float(payload.issued_at),
            expires=min(claims.expires, float(payload.expires)),
            grant=grant,
        )

    def _signed_by(self, envelope: Envelope, now: float) -> Signer:
        """Find whose signature is on *envelope*; the better one alone counts when there are two."""
        candidates = self.signers.candidates(envelope.certificate, now)
        if envelope.v2_signature is not None:
            for signer in candidates:
                if signer.verify_pss(envelope.v2_signature, envelope.signed):
                    self._modern.add(signer.fingerprint)
                    return signer
        elif envelope.signature is not None and self.sha1:
            for signer in candidates:
                # Whoever takes the better signature off an envelope must gain nothing by it.
                if signer.fingerprint not in self._modern and signer.verify_sha1(
                    envelope.signature, envelope.signed
                ):
                    return signer
        raise Unauthorized(reason="signature")

    def _jwt(self, text: str, kind: str) -> Claims:
        payload, key = jwt.open_token(text, self.signers.jwt)
        subject, jti, audience = (_text(payload, name) for name in ("sub", "jti", "aud"))
        issuer = _text(payload, "iss") if self.jwt_issuer is not None or "iss" in payload else ""
        now = self.wall()
        issued_at, not_before, expires = (_time(payload, name, now) for name in ("iat", "nbf", "exp"))
        if self.jwt_issuer is not None and issuer != self.jwt_issuer:
            raise Unauthorized(reason="signer")
        self._check_times(max(not_before, issued_at), expires, now, kind)
        if audience != self.jwt_audience:
            raise Unauthorized(reason="purpose")
        ticket = payload.get("ticket")
        if not isinstance(ticket, dict):
            raise Unauthorized(reason="shape")
        if ticket.get("kind", "image") != kind:
            raise Unauthorized(reason="purpose")
        uses = ticket.get("uses")
        if uses is not None and (type(uses) is not int or uses < 1):
            raise Unauthorized(reason="shape")
        return Claims(
            kind=kind,
            issuer=issuer,
            subject=subject,
            not_before=float(not_before),
            issued_at=float(issued_at),
            expires=float(expires),
            grant=cast("dict[str, object]", ticket),
            one_time=uses == 1,
            digest=sha256(text.encode("ascii")).hexdigest(),
            # Not the text: an ECDSA signature has a second spelling anybody can compute.
            mark=sha256(json.dumps([key.kid, issuer, jti]).encode("ascii")).hexdigest(),
            signer=key.kid or "",
        )

    def _check_times(self, not_before: int, expires: int, now: float, kind: str) -> None:
        if now < not_before - self.skew:
            raise Unauthorized(reason="not_yet")
        if now >= expires + self.skew:
            raise Unauthorized(reason="expired")
        longest = min(self.max_life, self.console_life) if kind == "console" else self.max_life
        if expires - not_before > longest:
            raise Unauthorized(reason="too_long")


def _console(claims: Claims, data: str) -> Claims:
    """The grant of an engine for one console, of which it does not say whether it is VNC or SPICE."""
    payload = console_ticket.console_payload(data)
    if payload.path is not None:
        # A websocket of Kubernetes, which we do not dial.
        raise Unauthorized(reason="target")
    way = "+tls" if payload.ssl_target else ""
    grant = {
        **claims.grant,
        "kind": claims.kind,
        "urls": [f"{scheme}{way}://{payload.authority}" for scheme in ("vnc", "spice")],
        "ops": ["view", "control"],
        "uses": 1,
    }
    return evolve(claims, grant=grant, one_time=True)


def _text(payload: dict[str, object], name: str) -> str:
    value = payload.get(name)
    if not isinstance(value, str) or not value:
        raise Unauthorized(reason="shape")
    return value


def _time(payload: dict[str, object], name: str, now: float) -> int:
    value = payload.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value - now) > _FAR:
        raise Unauthorized(reason="shape")
    return value
