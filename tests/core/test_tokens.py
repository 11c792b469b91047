import base64
import hmac
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import quote

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from gateway.core.signers import Signers, issue_envelope, load_signers
from gateway.core.tokens import Claims, Marks, TokenVerifier
from gateway.errors import ConfigError, Unauthorized
from gateway.wire import ovirt_ticket

Generation = Literal["A", "B", "C"]

NOW = 1_800_000_000  # 2027-01-15 08:00:00
YEAR = timedelta(days=365)
EKU = "1.3.6.1.4.1.2312.13.1.2.1.1"
UUID = "11111111-2222-4333-8444-555555555555"
AUDIENCE = "gateway.invalid"
CURVE_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 1024 if name == "short" else 2048)


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def ed_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


@cache
def certificate(
    subject: str,
    key: str,
    issuer: str = "ca",
    *,
    eku: str | None = None,
    authority: bool = False,
    years: tuple[int, int] = (-1, 1),
) -> x509.Certificate:
    """A certificate; the key "ca" is on a curve, all others are RSA."""

    def private(name: str) -> Any:
        return ec_key(name) if name.startswith("ca") else rsa_key(name)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    at = datetime.fromtimestamp(NOW, UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(private(key).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at + years[0] * YEAR)
        .not_valid_after(at + years[1] * YEAR)
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
    )
    if eku is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([x509.ObjectIdentifier(eku)]), critical=False)
    return builder.sign(private(issuer if issuer in ("ca", "ca2", "host") else key), hashes.SHA256())


def ca(**more: Any) -> x509.Certificate:
    return certificate("ca", "ca", authority=True, **more)


def engine(**more: Any) -> x509.Certificate:
    return certificate("engine", "engine", eku=EKU, **more)


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(c.public_bytes(Encoding.PEM) for c in certificates)


def b64url(raw: bytes | str | dict[str, Any]) -> str:
    if isinstance(raw, dict):
        raw = json.dumps(raw)
    if isinstance(raw, str):
        raw = raw.encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def jwk(key: Any, **more: Any) -> dict[str, Any]:
    algorithm: Any
    if isinstance(key, rsa.RSAPrivateKey):
        algorithm = jwt.algorithms.RSAAlgorithm
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = jwt.algorithms.ECAlgorithm
    else:
        algorithm = jwt.algorithms.OKPAlgorithm
    found: dict[str, Any] = algorithm.to_jwk(key.public_key(), as_dict=True)
    return {k: v for k, v in found.items() if k != "key_ops"} | more


def payload(**change: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "nbf": NOW - 10,
        "iat": NOW - 10,
        "exp": NOW + 100,
        "imaged-uri": "https://host.invalid:54322",
        "transfer-ticket": UUID,
        "transfer-id": "t-1",
    }
    return made | change


def envelope(
    generation: Generation = "C",
    data: str | None = None,
    *,
    key: str = "engine",
    cert: x509.Certificate | None = None,
    enclose: bool = True,
    valid: tuple[int, int] = (NOW - 20, NOW + 200),
) -> str:
    return issue_envelope(
        json.dumps(payload()) if data is None else data,
        rsa_key(key),
        (cert or engine()) if enclose else None,
        valid_from=valid[0],
        valid_to=valid[1],
        generation=generation,
    )


def members(text: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(base64.b64decode(text))
    return found


def wrap(fields: dict[str, str]) -> str:
    return base64.b64encode(json.dumps(fields).encode()).decode()


def claims(**change: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "sub": "alice",
        "iat": NOW - 10,
        "nbf": NOW - 10,
        "exp": NOW + 100,
        "jti": "j-1",
        "aud": AUDIENCE,
        "ticket": {"uuid": UUID, "url": "https://host.invalid:54322/images/x", "ops": ["read"], "size": 1},
    }
    return {k: v for k, v in (made | change).items() if v is not ...}


def token(key: Any = None, algorithm: str = "ES256", kid: str | None = "e", **change: Any) -> str:
    header = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(**change), key or ec_key("jwt"), algorithm, headers=header)


def raw_token(
    header: dict[str, Any] | str, body: dict[str, Any] | str, spoil: Callable[[bytes], bytes] = bytes
) -> str:
    """A token with any header and body, and a good ES256 signature unless it is spoiled."""
    signed = f"{b64url(header)}.{b64url(body)}"
    return f"{signed}.{b64url(spoil(es256(signed.encode())))}"


def es256(signed: bytes) -> bytes:
    r, s = decode_dss_signature(ec_key("jwt").sign(signed, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class TokensTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.seen: list[tuple[str, str]] = []
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def file(self, name: str, content: bytes | dict[str, Any]) -> Path:
        path = self.folder / name
        path.write_bytes(json.dumps(content).encode() if isinstance(content, dict) else content)
        return path

    def verifier(self, signers: Signers, **more: Any) -> TokenVerifier:
        given: dict[str, Any] = {
            "wall": self.clock.seconds,
            "started": NOW - 1000.0,
            "jwt_audience": AUDIENCE,
            "observe": lambda kind, result, reason: self.seen.append((result, reason)),
        }
        return TokenVerifier(signers, **(given | more))

    def pinned(self, *certificates: x509.Certificate, **more: Any) -> TokenVerifier:
        return self.verifier(
            load_signers(self.file("engine.pem", pem(*(certificates or (engine(),))))), **more
        )

    def keys(self, *keys: dict[str, Any], **more: Any) -> TokenVerifier:
        given = keys or (jwk(ec_key("jwt"), kid="e"),)
        return self.verifier(load_signers(jwt_keys=self.file("keys.json", {"keys": list(given)})), **more)

    def refused(self, verifier: TokenVerifier, text: str, reason: str, kind: str = "image") -> None:
        error = self.assertRaises(Unauthorized, verifier.verify, text, kind)
        self.assertEqual((error.reason, error.text), (reason, Unauthorized.default))
        self.assertEqual(self.seen.pop(), ("refused", reason))

    @contextmanager
    def problem(self, *words: str) -> Iterator[None]:
        with self.assertRaises(ConfigError) as caught:
            yield
        for word in words:
            self.assertIn(word, str(caught.exception))
        self.assertIn("[tokens]", str(caught.exception))


class EnvelopeTests(TokensTestCase):
    def test_claims(self) -> None:
        """A good envelope yields the ticket the engine meant, until the earliest signed end."""
        text = envelope()
        self.assertEqual(
            self.pinned().verify(text, "image"),
            Claims(
                kind="image",
                issuer="engine",
                subject="",
                not_before=NOW - 10.0,
                issued_at=NOW - 10.0,
                expires=NOW + 100.0,
                grant={
                    "uuid": UUID,
                    "url": f"https://host.invalid:54322/images/{UUID}",
                    "ops": ["read", "write"],
                    "transfer_id": "t-1",
                },
                one_time=False,
                digest=sha256(text.encode()).hexdigest(),
                mark=sha256(ovirt_ticket.parse(text).signed).hexdigest(),
                signer=engine().fingerprint(hashes.SHA256()).hex(),
            ),
        )
        self.assertEqual(self.seen, [("accepted", "")])
        text = envelope(valid=(NOW - 5, NOW + 50))
        found = self.pinned().verify(text, "image")
        self.assertEqual((found.not_before, found.expires), (NOW - 5, NOW + 50))

    def test_generations(self) -> None:
        """Generations B and C are taken, A when it is switched on; the certificate may be missing."""
        for enclose in (True, False):
            for generation, sha1, good in (
                ("A", False, False),
                ("A", True, True),
                ("B", False, True),
                ("C", True, True),
            ):
                with self.subTest((generation, sha1)):
                    text = envelope(generation, enclose=enclose)  # type: ignore[arg-type]  # one of the three
                    verifier = self.pinned(sha1=sha1)
                    if good:
                        self.assertEqual(verifier.verify(text, "image").grant["uuid"], UUID)
                    else:
                        self.refused(verifier, text, "signature")

    def test_forged(self) -> None:
        """Changing any signed field, or taking another signature, is refused, in all generations."""
        other = json.dumps(payload(**{"transfer-ticket": UUID.replace("1", "9")}))
        generations: tuple[Generation, ...] = ("A", "B", "C")
        for generation in generations:
            flat = members(envelope(generation))
            foreign = members(envelope(generation, key="other"))
            changes = [
                {"data": other},
                {"salt": "AAAAAAAAAAA="},
                {"validTo": "20270115090000"},
                {"validFrom": "20270115070000"},
                {"signature": foreign.get("signature", ""), "v2_signature": foreign.get("v2_signature", "")},
                {"signature": "AAAA", "v2_signature": "AAAA"},
                {"signature": "", "v2_signature": ""},
            ]
            for change in changes:
                with self.subTest((generation, change)):
                    self.refused(
                        self.pinned(sha1=True),
                        wrap(flat | {k: v for k, v in change.items() if k in flat}),
                        "signature",
                    )

    def test_better_signature_counts(self) -> None:
        """With two signatures the SHA-1 one has no say, neither for nor against."""
        flat = members(envelope("B"))
        self.pinned().verify(wrap(flat | {"signature": "AAAA"}), "image")
        self.refused(self.pinned(sha1=True), wrap(flat | {"v2_signature": flat["signature"]}), "signature")

    def test_downgrade(self) -> None:
        """T3: without its better signature an envelope is refused, once the signer has shown it has one."""
        full = envelope("B")
        stripped = wrap({k: v for k, v in members(full).items() if k != "v2_signature"})
        self.refused(self.pinned(), stripped, "signature")
        verifier = self.pinned(sha1=True)
        verifier.verify(stripped, "image")
        verifier.verify(full, "image")
        self.refused(verifier, stripped, "signature")
        self.refused(verifier, envelope("A"), "signature")
        verifier.reload(verifier.signers)
        self.refused(verifier, stripped, "signature")

    def test_salt_length(self) -> None:
        """A PSS signature has the longest salt, and no other."""
        for length, good in ((222, True), (221, False), (32, False), (0, False)):
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), length)

            def sign(signed: bytes, pss: padding.PSS = pss) -> bytes:
                return rsa_key("engine").sign(signed, pss, hashes.SHA256())

            text = ovirt_ticket.encode(
                json.dumps(payload()), valid_from=NOW, valid_to=NOW + 9, certificate=None, sign=sign
            )
            with self.subTest(length):
                if good:
                    self.pinned().verify(text, "image")
                else:
                    self.refused(self.pinned(), text, "signature")

    def test_openssl(self) -> None:
        """Envelopes signed by the openssl command are taken: both signatures, both orders."""
        key = self.file(
            "key.pem", rsa_key("engine").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )

        def openssl(*arguments: str) -> Callable[[bytes], bytes]:
            command = ["openssl", "dgst", *arguments, "-sign", str(key)]
            return lambda signed: (
                subprocess.run(command, input=signed, capture_output=True, check=True).stdout
            )

        pss = openssl("-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:max")
        sha1 = openssl("-sha1")
        orders: list[Sequence[str]] = [
            ("salt", "digest", "validFrom", "validTo", "data"),
            ("salt", "data", "digest", "validFrom", "validTo"),
        ]
        for order in orders:
            for first, second in ((None, sha1), (pss, sha1), (pss, None)):
                text = ovirt_ticket.encode(
                    json.dumps(payload()),
                    valid_from=NOW - 1,
                    valid_to=NOW + 9,
                    certificate=pem(engine()).decode(),
                    order=order,
                    sign=first,
                    sign_sha1=second,
                )
                self.assertEqual(self.pinned(sha1=True).verify(text, "image").grant["uuid"], UUID)

    def test_times(self) -> None:
        """A token is good from its first second on, and at its end no more; the narrower pair counts."""
        wide, narrow = (NOW - 100, NOW + 1000), (NOW, NOW + 60)
        for outer, inner in ((wide, narrow), (narrow, wide)):
            text = envelope(data=json.dumps(payload(nbf=inner[0], exp=inner[1])), valid=outer)
            for skew in (0.0, 30.0):
                verifier = self.pinned(skew=skew)
                for at, reason in (
                    (NOW - skew - 0.001, "not_yet"),
                    (NOW - skew, ""),
                    (NOW + 60 + skew - 0.001, ""),
                    (NOW + 60 + skew, "expired"),
                ):
                    with self.subTest((outer, skew, at)):
                        self.clock.rightNow = at
                        if reason:
                            self.refused(verifier, text, reason)
                        else:
                            self.assertEqual(verifier.verify(text, "image").expires, NOW + 60)

    def test_too_long(self) -> None:
        """What is good for longer than the maximum is good for nothing."""
        exact = (NOW - 20, NOW - 20 + 43200)
        self.pinned().verify(envelope(valid=exact), "image")
        self.refused(self.pinned(), envelope(valid=(exact[0], exact[1] + 1)), "too_long")
        self.refused(self.pinned(max_life=100.0), envelope(), "too_long")
        self.refused(self.pinned(max_life=100.0), envelope(valid=(NOW, NOW + 50)), "too_long")

    def test_purpose(self) -> None:
        """T5: an image token opens nothing else, and another payload opens no image."""
        for kind in ("console", "tunnel", "rpc", "publish", "", "IMAGE"):
            self.refused(self.pinned(), envelope(), "purpose", kind)
        console = '{"host": "192.0.2.1", "port": "5900", "ssl_target": true}'
        for data in (console, "%7B%22host%22%3A%22h%22%7D", "", "[]", json.dumps(payload(x=1))):
            self.refused(self.pinned(), envelope(data=data), "purpose")
        self.refused(
            self.pinned(), envelope(data=json.dumps(payload(**{"imaged-uri": "https://h"}))), "target"
        )

    def test_console(self) -> None:
        """An envelope for a console is good once and for ten minutes at most; its mark stands for an id."""
        data = quote(json.dumps({"host": "2001:db8::1", "port": "5900", "ssl_target": True, "path": None}))
        text = envelope(data=data)
        mark = sha256(ovirt_ticket.parse(text).signed).hexdigest()
        found = self.pinned().verify(text, "console")
        grant = {
            "uuid": mark,
            "kind": "console",
            "urls": ["vnc+tls://[2001:db8::1]:5900", "spice+tls://[2001:db8::1]:5900"],
            "ops": ["view", "control"],
            "uses": 1,
        }
        self.assertEqual((found.grant, found.mark, found.one_time), (grant, mark, True))
        self.assertEqual((found.not_before, found.expires), (NOW - 20, NOW + 200))
        for kind in ("image", "tunnel", "rpc", "publish", "", "CONSOLE"):
            self.refused(self.pinned(), text, "purpose", kind)
        self.pinned().verify(envelope(data=data, valid=(NOW, NOW + 600)), "console")
        self.refused(self.pinned(), envelope(data=data, valid=(NOW, NOW + 601)), "too_long", "console")
        self.refused(self.pinned(started=NOW), text, "before_start", "console")
        text = token(exp=NOW - 10 + 601, ticket={"kind": "console"})
        self.refused(self.keys(), text, "too_long", "console")

    def test_malformed(self) -> None:
        """Neither an envelope nor a JWT: refused before any key is used."""
        verifier = self.pinned()
        for text in ("", "x", "a.b", "..", "a..b", "a.b.c.d", "Bearer x", "é", "\ud800", envelope() + "\n"):
            self.refused(verifier, text, "malformed")
        self.refused(verifier, "A" * 16385, "malformed")
        self.refused(verifier, "A" * 10000 + "." + "A" * 7000 + ".A", "malformed")
        flat = members(envelope())
        self.refused(verifier, wrap(flat | {"salt": "AAAA"}), "shape")
        self.refused(verifier, wrap(flat | {"certificate": "junk"}), "shape")

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_resplit(self, data: st.DataObject) -> None:
        """T1: no other reading of what was signed revives an expired token or moves its meaning."""
        text = _old(data.draw(st.sampled_from("BC")))
        fields = members(text)
        names = fields["signedFields"].split(",")
        signed = "".join(fields[name] for name in names)
        ends = [0]
        for name in names:
            ends.append(ends[-1] + len(fields[name]))
        parts = data.draw(
            st.lists(
                st.sampled_from(["salt", "digest", "validFrom", "validTo", "data", "certificate", "x"]),
                min_size=1,
                max_size=6,
                unique=data.draw(st.booleans()),
            )
        )
        cut = st.sampled_from(ends) | st.integers(0, len(signed))
        cuts = [
            0,
            *sorted(data.draw(st.lists(cut, min_size=len(parts) - 1, max_size=len(parts) - 1))),
            len(signed),
        ]
        mine = {
            "validFrom": "20270115000000",
            "validTo": "20270115100000",
            "data": json.dumps(payload(**{"imaged-uri": "https://evil.invalid:1"})),
        }
        forged = fields | mine | {n: signed[a:b] for n, a, b in zip(parts, cuts, cuts[1:], strict=False)}
        forged["signedFields"] = ",".join(parts)
        verifier = TokenVerifier(_pinned(), wall=lambda: NOW, started=0.0)
        for change in ({}, {"digest": "sha1"}):
            self.assertRaises(Unauthorized, verifier.verify, wrap(forged | change), "image")

    def test_known_resplits(self) -> None:
        """T1: the forgeries the original decoders fell for are refused."""
        fields = members(_old("C"))
        signed = "".join(fields[name] for name in fields["signedFields"].split(","))
        fresh = {"validFrom": "20270115000000", "validTo": "20270115100000", "data": json.dumps(payload())}
        dates = fields["validFrom"] + fields["validTo"]
        verifier = self.pinned()
        for forged in (
            {"salt": signed, "signedFields": "salt"},
            {"salt": fields["salt"] + dates, "data": fields["data"], "signedFields": "salt,data"},
            {
                "salt": fields["salt"] + dates,
                "data": fields["data"],
                "signedFields": "salt,data,validFrom,validTo",
            },
            {"x": signed, "signedFields": "x"},
            {"certificate": signed, "signedFields": "certificate"},
            {"data": signed, "signedFields": "data"},
        ):
            with self.subTest(forged["signedFields"]):
                text = wrap(fields | fresh | forged)
                error = self.assertRaises(Unauthorized, verifier.verify, text, "image")
                self.assertIn(error.reason, ("shape", "malformed"))

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_mutations(self, data: st.DataObject) -> None:
        """A changed envelope is refused, or means exactly what the genuine one means."""
        text = _fresh("B")
        if data.draw(st.booleans()):
            mutant = _mutate(data, text)
        else:
            mutant = base64.b64encode(_mutate(data, base64.b64decode(text).decode()).encode()).decode()
        self._same_or_refused(text, mutant)

    def test_cuts(self) -> None:
        """An envelope cut anywhere is refused."""
        text = _fresh("C")
        verifier = self.pinned()
        for end in range(len(text)):
            self.assertRaises(Unauthorized, verifier.verify, text[:end], "image")

    def _same_or_refused(self, text: str, mutant: str) -> None:
        verifier = TokenVerifier(_pinned(), wall=lambda: NOW, started=0.0)
        genuine = verifier.verify(text, "image")
        try:
            found = verifier.verify(mutant, "image")
        except Unauthorized:
            return
        self.assertEqual(
            (found.grant, found.expires, found.mark), (genuine.grant, genuine.expires, genuine.mark)
        )


class SignerTests(TokensTestCase):
    def test_pinned(self) -> None:
        """T2: with the engine's certificate configured, nobody else's signature counts."""
        host = certificate("host", "host", eku=EKU)
        own = certificate("engine", "other", "engine", eku=EKU)
        same_key = certificate("engine", "engine", "ca", eku=EKU, years=(-2, 3))
        for authority in (None, self.file("ca.pem", pem(ca()))):
            signers = load_signers(self.file("engine.pem", pem(engine())), authority)
            verifier = self.verifier(signers)
            verifier.verify(envelope(), "image")
            self.refused(verifier, envelope(key="host", cert=host), "signer")
            self.refused(verifier, envelope(key="other", cert=own), "signer")
            self.refused(verifier, envelope(cert=same_key), "signer")
            self.refused(verifier, envelope(key="host"), "signature")
            self.refused(verifier, envelope(key="host", enclose=False), "signature")

    def test_roll_over(self) -> None:
        """Two certificates may be pinned; each envelope is verified by the one it names, or by either."""
        new = certificate("engine", "other", eku=EKU)
        verifier = self.pinned(engine(), new)
        for key, cert in (("engine", engine()), ("other", new)):
            verifier.verify(envelope(key=key, cert=cert), "image")
            verifier.verify(envelope(key=key, enclose=False), "image")
        self.refused(verifier, envelope(key="other", cert=engine()), "signature")
        self.refused(verifier, envelope(key="host", enclose=False), "signature")

    def test_validity(self) -> None:
        """T2: a certificate signs only while it is valid, by the wall clock at that moment."""
        for years in ((-2, -1), (1, 2)):
            cert = engine(years=years)
            self.refused(self.pinned(cert), envelope(cert=cert), "signer")
            self.refused(self.pinned(cert), envelope(enclose=False), "signer")
            chained = self.chained()
            self.refused(chained, envelope(cert=cert), "signer")
        verifier = self.pinned(max_life=1e9)
        text = envelope(data=json.dumps(payload(exp=NOW + 10**8)), valid=(NOW, NOW + 10**8))
        verifier.verify(text, "image")
        self.clock.advance(YEAR.total_seconds())
        verifier.verify(text, "image")
        self.clock.advance(1)
        self.refused(verifier, text, "signer")

    def chained(self, *authorities: x509.Certificate) -> TokenVerifier:
        return self.verifier(
            load_signers(engine_ca=self.file("ca.pem", pem(*(authorities or (ca(),)))), eku=EKU)
        )

    def test_chain(self) -> None:
        """T2: with only an authority configured, it has to vouch for the certificate and its purpose."""
        verifier = self.chained()
        verifier.verify(envelope(), "image")
        verifier.verify(envelope("B", key="other", cert=certificate("engine", "other", eku=EKU)), "image")
        for name, key, cert in (
            ("a host of the same authority", "host", certificate("host", "host")),
            ("another purpose", "host", certificate("host", "host", eku="1.3.6.1.5.5.7.3.1")),
            ("self-made", "other", certificate("engine", "other", "engine", eku=EKU)),
            ("issued by a host", "other", certificate("engine", "other", "host", eku=EKU)),
            ("another authority of the same name", "engine", _impostor()),
            ("a short key", "engine", certificate("short", "short", eku=EKU)),
            ("no RSA key", "engine", certificate("curve", "ca2", eku=EKU)),
        ):
            with self.subTest(name):
                self.refused(verifier, envelope(key=key, cert=cert), "signer")
        self.refused(verifier, envelope(enclose=False), "signer")
        self.refused(verifier, envelope(key="host"), "signature")
        two = pem(certificate("host", "host"), engine()).decode()
        self.refused(verifier, wrap(members(envelope()) | {"certificate": two}), "shape")
        junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        self.refused(verifier, wrap(members(envelope()) | {"certificate": junk}), "signer")

    def test_expired_authority(self) -> None:
        """When the authority's own certificate has ended, it vouches for nobody, pinned or not."""
        old = ca(years=(-2, -1))
        self.refused(self.chained(old), envelope(), "signer")
        signers = load_signers(self.file("engine.pem", pem(engine())), self.file("ca.pem", pem(old)))
        self.refused(self.verifier(signers), envelope(), "signer")

    def test_wall_clock(self) -> None:
        """The chain is judged by the wall clock that was passed in, and no other."""
        cert = engine(years=(-1, 40))
        text = envelope(data=json.dumps(payload(exp=NOW + 10**9)), cert=cert, valid=(NOW, NOW + 10**9))
        verifier = self.verifier(self.chained(ca(years=(0, 20))).signers, max_life=2e9)
        verifier.verify(text, "image")
        self.clock.advance(20 * YEAR.total_seconds())
        verifier.verify(text, "image")
        self.clock.advance(1)
        self.refused(verifier, text, "signer")

    def test_nobody(self) -> None:
        """Without any signer configured every token is refused."""
        for text in (envelope(), envelope(enclose=False), token()):
            self.refused(self.verifier(load_signers()), text, "signer")

    def test_bad_files(self) -> None:
        """What cannot be used is said at the start, all of it at once."""
        missing = self.folder / "missing"
        with self.problem("engine_certificate", "engine_ca", "jwt_keys", "No such file", str(missing)):
            load_signers(missing, missing, None, missing)
        with self.problem("engine_certificate"):
            load_signers(self.file("x", b"junk"))
        with self.problem("RSA"):
            load_signers(self.file("x", pem(certificate("short", "short"))))
        with self.problem("RSA"):
            load_signers(self.file("x", pem(ca())))
        with self.problem("not issued by"):
            load_signers(self.file("x", pem(_impostor())), self.file("ca.pem", pem(ca())))
        with self.problem("authority"):
            load_signers(self.file("x", pem(engine())), self.file("ca.pem", pem(engine())))
        with self.problem("every host"):
            load_signers(engine_ca=self.file("ca.pem", pem(ca())))
        with self.problem("eku"):
            load_signers(self.file("x", pem(certificate("host", "host"))), eku=EKU)
        with self.problem("eku"):
            load_signers(self.file("x", pem(engine())), eku="engine")

    def test_reload(self) -> None:
        """Changed files are seen and read; a bad one leaves the old keys and is reported once."""
        verifier = self.pinned()
        path = self.folder / "engine.pem"
        new = certificate("engine", "other", eku=EKU)
        logged: list[LogEvent] = []
        observer = cast(ILogObserver, logged.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

        def errors() -> int:
            return sum(event["log_level"].name == "error" for event in logged)

        self.assertFalse(verifier.changed())
        self.assertFalse(verifier.maybe_reload())
        path.write_bytes(b"half a cert")
        self.assertTrue(verifier.changed())
        for _ in range(3):
            self.assertFalse(verifier.maybe_reload())
        self.assertEqual(errors(), 1)
        verifier.verify(envelope(), "image")
        path.unlink()
        for _ in range(3):
            self.assertFalse(verifier.maybe_reload())
        self.assertEqual(errors(), 2)
        self.file("next.pem", pem(new)).rename(path)
        self.assertTrue(verifier.maybe_reload())
        self.assertFalse(verifier.maybe_reload())
        self.refused(verifier, envelope(), "signer")
        verifier.verify(envelope(key="other", cert=new), "image")

    def test_stamps(self) -> None:
        """A file is another one when its time, its size or its inode is."""
        path = self.file("engine.pem", pem(engine()))
        os.utime(path, (NOW, NOW))
        signers = load_signers(path)
        self.assertFalse(signers.changed())
        os.utime(path, (NOW, NOW + 1))
        self.assertTrue(signers.changed())
        path.write_bytes(pem(engine()) + b"\n")
        os.utime(path, (NOW, NOW))
        self.assertTrue(signers.changed())
        self.file("next.pem", pem(engine())).rename(path)
        os.utime(path, (NOW, NOW))
        self.assertTrue(signers.changed())


class JwtTests(TokensTestCase):
    def test_claims(self) -> None:
        """A good JWT yields its ticket as it stands, and who it is for."""
        text = token(iss="engine.invalid", ticket={"uuid": UUID, "uses": 1, "principal": "bob"})
        found = self.keys().verify(text, "image")
        self.assertEqual((found.issuer, found.subject, found.principal), ("engine.invalid", "alice", "bob"))
        self.assertEqual((found.not_before, found.issued_at, found.expires), (NOW - 10, NOW - 10, NOW + 100))
        self.assertEqual(found.grant, {"uuid": UUID, "uses": 1, "principal": "bob"})
        self.assertEqual((found.one_time, found.signer), (True, "e"))
        self.assertEqual(found.digest, sha256(text.encode()).hexdigest())
        plain = self.keys().verify(token(), "image")
        self.assertEqual((plain.one_time, plain.principal, plain.issuer), (False, "alice", ""))

    def test_algorithms(self) -> None:
        """Each key verifies its one algorithm: the one it names, or the usual one of its type."""
        verifier = self.keys(
            jwk(rsa_key("jwt"), kid="r"),
            jwk(rsa_key("other"), kid="p", alg="PS256"),
            jwk(ec_key("jwt"), kid="e", alg="ES256", use="sig"),
            jwk(ed_key(), kid="d"),
        )
        keys: list[tuple[str, str, Any]] = [
            ("r", "RS256", rsa_key("jwt")),
            ("p", "PS256", rsa_key("other")),
            ("e", "ES256", ec_key("jwt")),
            ("d", "EdDSA", ed_key()),
        ]
        for kid, algorithm, key in keys:
            self.assertEqual(verifier.verify(token(key, algorithm, kid), "image").signer, kid)
        self.refused(verifier, token(rsa_key("jwt"), "PS256", "r"), "signer")
        self.refused(verifier, token(rsa_key("jwt"), "RS384", "r"), "signer")
        self.refused(verifier, token(rsa_key("other"), "RS256", "p"), "signer")
        self.refused(verifier, token(rsa_key("jwt"), "PS256", "p"), "signature")
        self.refused(verifier, token(ec_key("jwt"), "ES256", None), "signer")
        self.refused(verifier, token(ec_key("other"), "ES256", "e"), "signature")

    def test_key_without_kid(self) -> None:
        """Only a lone key may go without kid, and then answers tokens without kid."""
        verifier = self.keys(jwk(ec_key("jwt")))
        verifier.verify(token(kid=None), "image")
        self.refused(verifier, token(kid="e"), "signer")
        self.keys().verify(token(kid=None), "image")

    def test_forged_headers(self) -> None:
        """T4: the header of a token chooses nothing, whatever it says."""
        verifier = self.keys(jwk(ec_key("jwt"), kid="e"), jwk(rsa_key("jwt"), kid="r"))
        mine = ec_key("mine")
        body = claims()

        def own(**header: Any) -> str:
            return jwt.encode(body, mine, "ES256", headers=header)

        def hs256(secret: bytes, **header: Any) -> str:
            signed = f"{b64url({'alg': 'HS256', **header})}.{b64url(body)}"
            return f"{signed}.{b64url(hmac.digest(secret, signed.encode(), 'sha256'))}"

        public = rsa_key("jwt").public_key()
        spki = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        good = {"alg": "ES256", "kid": "e"}
        verifier.verify(raw_token(good, body), "image")
        verifier.verify(raw_token(good | {"typ": "at+jwt"}, body), "image")
        for text, reason in (
            (f"{b64url({'alg': 'none', 'kid': 'e'})}.{b64url(body)}.", "malformed"),
            (f"{b64url({'alg': 'none', 'kid': 'e'})}.{b64url(body)}.AAAA", "signer"),
            (f"{b64url({'alg': 'NoNe', 'kid': 'e'})}.{b64url(body)}.AAAA", "signer"),
            (hs256(spki, kid="r"), "signer"),
            (hs256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), kid="r"), "signer"),
            (hs256(b"", kid="/dev/null"), "signer"),
            (own(kid="e"), "signature"),
            (own(kid="../../etc/passwd"), "signer"),
            (own(kid="x' OR 1=1 --"), "signer"),
            (own(kid=""), "signer"),
            (own(kid="e", jwk=jwk(mine)), "shape"),
            (own(kid="e", jku="https://evil.invalid/keys"), "shape"),
            (own(kid="e", x5u="https://evil.invalid/cert"), "shape"),
            (own(kid="e", x5c=["AAAA"]), "shape"),
            (raw_token(good | {"jku": "https://evil.invalid/keys"}, body), "shape"),
            (raw_token(good | {"crit": ["exp"]}, body), "shape"),
            (raw_token(good | {"crit": []}, body), "shape"),
            (raw_token(good | {"crit": ["b64"], "b64": False}, body), "shape"),
            (raw_token(good | {"kid": 1}, body), "shape"),
            (raw_token(good | {"kid": ["e"]}, body), "shape"),
            (raw_token(good | {"alg": None}, body), "shape"),
            (raw_token({"kid": "e"}, body), "signer"),
            (raw_token(good | {"alg": "es256"}, body), "signer"),
            (raw_token(good | {"alg": "RS256"}, body), "signer"),
            (raw_token(good | {"kid": "r"}, body), "signer"),
            (raw_token(good | {"typ": "secevent+jwt"}, body), "shape"),
            (raw_token('{"alg":"none","alg":"ES256","kid":"e"}', body), "malformed"),
            (raw_token('["ES256"]', body), "malformed"),
            (raw_token("ES256", body), "malformed"),
            (raw_token(good, body) + "=", "malformed"),
            (raw_token(good, body, lambda raw: raw[:-1]), "signature"),
            (raw_token(good, body, lambda raw: raw + bytes(1)), "signature"),
            (raw_token(good, body, lambda raw: bytes(64)), "signature"),
            (raw_token(good, body, lambda raw: b"0" + raw), "signature"),
        ):
            with self.subTest(text):
                self.refused(verifier, text, reason)

    def test_required(self) -> None:
        """Each claim has to be there, once, and of its own type."""
        verifier = self.keys()
        for name in ("sub", "iat", "nbf", "exp", "jti", "aud", "ticket"):
            values: tuple[object, ...] = (..., None, [], True, 1.5, "")
            for wrong in values:
                with self.subTest((name, wrong)):
                    self.refused(verifier, token_any(**{name: wrong}), "shape")
        for name in ("iat", "nbf", "exp"):
            times: tuple[object, ...] = (
                str(NOW + 5),
                NOW + 5.0,
                10**18,
                -1,
                0,
                NOW + 4 * 10**8,
                NOW - 4 * 10**8,
            )
            for wrong in times:
                with self.subTest((name, wrong)):
                    self.refused(verifier, token_any(**{name: wrong}), "shape")
            self.refused(verifier, token_any(**{name: 10**20}), "malformed")
        for wrong in (0, -1, True, 1.0, "1", []):
            self.refused(verifier, token_any(ticket={"uses": wrong}), "shape")
        twice = json.dumps(claims())[:-1] + ', "aud": "other"}'
        header = {"alg": "ES256", "kid": "e"}
        for body in (twice, "[]", "x", json.dumps(claims(x="y"))[:-1]):
            self.refused(verifier, raw_token(header, body), "malformed")
        self.refused(verifier, token(x="y" * 16384), "malformed")

    def test_audience_and_issuer(self) -> None:
        """T5: audience and issuer are compared whole, and as one string."""
        verifier = self.keys()
        for wrong in ("other", AUDIENCE + "x", AUDIENCE[:-1], AUDIENCE.upper()):
            self.refused(verifier, token(aud=wrong), "purpose")
        self.refused(verifier, token(aud=[AUDIENCE]), "shape")
        self.refused(verifier, token(aud=[AUDIENCE, "other"]), "shape")
        verifier = self.keys(jwt_issuer="engine")
        self.assertEqual(verifier.verify(token(iss="engine"), "image").issuer, "engine")
        self.refused(verifier, token(iss="engine2"), "signer")
        self.refused(verifier, token(), "shape")
        self.refused(verifier, token_any(iss=["engine"]), "shape")
        with self.problem("jwt_audience"):
            self.keys(jwt_audience=None)

    def test_purpose(self) -> None:
        """T5: every kind of ticket at every listener: only its own takes it."""
        verifier = self.keys()
        kinds = ("image", "console", "tunnel", "rpc", "publish")
        for kind in kinds:
            text = token(ticket={"kind": kind})
            for listener in kinds:
                if listener == kind:
                    self.assertEqual(verifier.verify(text, listener).kind, kind)
                else:
                    self.refused(verifier, text, "purpose", listener)
        verifier.verify(token(ticket={}), "image")
        self.refused(verifier, token(ticket={}), "purpose", "console")
        self.refused(verifier, token(ticket={"kind": None}), "purpose")

    def test_times(self) -> None:
        """A JWT is good from its first second on, and at its end no more."""
        for skew in (0.0, 30.0):
            verifier = self.keys(skew=skew)
            for name in ("nbf", "iat"):
                text = token_any(**{name: NOW + 40})
                self.clock.rightNow = NOW + 40 - skew - 0.001
                self.refused(verifier, text, "not_yet")
                self.clock.rightNow = NOW + 40 - skew
                verifier.verify(text, "image")
            self.clock.rightNow = NOW + 100 + skew - 0.001
            verifier.verify(text, "image")
            self.clock.rightNow = NOW + 100 + skew
            self.refused(verifier, text, "expired")
        self.clock.rightNow = NOW
        self.refused(self.keys(), token(exp=NOW + 43200), "too_long")
        self.keys().verify(token(exp=NOW - 10 + 43200), "image")

    def test_key_sets(self) -> None:
        """A key that is not public, not strong, or not for one known algorithm is no key."""
        short = rsa_key("short")
        private = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(ec_key("jwt")))
        p384 = ec.generate_private_key(ec.SECP384R1())
        public = jwk(ec_key("jwt"))
        secret = "SECRETSECRET"
        bad: list[tuple[str, list[Any]]] = [
            ("shared secret", [{"kty": "oct", "k": secret}]),
            ("shared secret", [{"kty": "oct", "k": secret, "alg": "RS256"}]),
            ("private", [private]),
            ("2048", [jwk(short)]),
            ("alg", [jwk(rsa_key("jwt"), alg="HS256")]),
            ("alg", [jwk(rsa_key("jwt"), alg="none")]),
            ("alg", [jwk(rsa_key("jwt"), alg="ES256")]),
            ("alg", [jwk(rsa_key("jwt"), alg="RS512")]),
            ("alg", [jwk(rsa_key("jwt"), alg=["RS256"])]),
            ("P-256", [jwk(p384)]),
            ("alg", [jwk(p384, alg="ES384")]),
            ("signatures", [public | {"use": "enc"}]),
            ("signatures", [public | {"key_ops": ["encrypt"]}]),
            ("signatures", [public | {"key_ops": 1}]),
            ("kid", [public | {"kid": 1}]),
            ("kid", [public, jwk(ed_key(), kid="d")]),
            ("same kid", [public | {"kid": "a"}, jwk(ed_key(), kid="a")]),
            ("kty", [{}]),
            ("kty", [{"kty": "XYZ"}]),
            ("key 2", [public | {"kid": "a"}, "x"]),
            ("cannot be read", [{"kty": "EC", "crv": "P-256", "x": secret}]),
            ("cannot be read", [public | {"x": public["y"]}]),
            ("key 1", [{"kty": "RSA", "n": 1, "e": 2}]),
            ("key 1", [{"kty": "OKP", "crv": "X25519", "x": jwk(ed_key())["x"]}]),
            ("keys", []),
        ]
        for word, keys in bad:
            with self.subTest(keys), self.problem(word, "jwt_keys") as _:
                self.keys(*keys) if keys else load_signers(jwt_keys=self.file("keys.json", {"keys": []}))
        for text in (b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": [], "keys": []}', b"\xff"):
            with self.subTest(text), self.problem("jwt_keys"):
                load_signers(jwt_keys=self.file("keys.json", text))
        with self.assertRaises(ConfigError) as caught:
            self.keys({"kty": "oct", "k": secret}, {"kty": "EC", "crv": "P-256", "x": secret})
        self.assertNotIn(secret, str(caught.exception))

    def test_cuts(self) -> None:
        """A JWT cut anywhere is refused."""
        text, verifier = token(), self.keys()
        for end in range(len(text)):
            self.assertRaises(Unauthorized, verifier.verify, text[:end], "image")

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_mutations(self, data: st.DataObject) -> None:
        """A changed JWT is refused, always."""
        verifier, text = _jwt_verifier()
        self.assertEqual(verifier.verify(text, "image").subject, "alice")
        part = data.draw(st.integers(0, 3))
        if part == 3:
            mutant = _mutate(data, text)
        else:
            parts = text.split(".")
            raw = base64.urlsafe_b64decode(parts[part] + "==").decode("latin-1")
            parts[part] = b64url(_mutate(data, raw).encode("latin-1", "replace"))
            mutant = ".".join(parts)
        if mutant != text:
            self.assertRaises(Unauthorized, verifier.verify, mutant, "image")

    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=40) | st.text("AZaz09-_.=", max_size=60))
    @example("eyJ9.e30.AA")
    def test_anything(self, text: str) -> None:
        """Whatever comes, nothing but Unauthorized is raised."""
        self.assertRaises(Unauthorized, _jwt_verifier()[0].verify, text, "image")


class ReplayTests(TokensTestCase):
    def one_time(self, **change: Any) -> str:
        return token(ticket={"uuid": UUID, "uses": 1}, **change)

    def test_once(self) -> None:
        """T6: of fifty who hold the same one-time token, one gets in, until its very end."""
        verifier = self.keys(skew=5.0)
        text = self.one_time()
        granted = [verifier.verify(text, "image") for _ in range(50)]
        good = 0
        for one in granted:
            try:
                verifier.redeem(one)
            except Unauthorized as error:
                self.assertEqual(error.reason, "replayed")
            else:
                good += 1
        self.assertEqual(good, 1)
        self.assertEqual(self.seen[-1], ("refused", "replayed"))
        self.clock.rightNow = NOW + 104.9
        again = verifier.verify(text, "image")
        self.assertEqual(self.assertRaises(Unauthorized, verifier.redeem, again).reason, "replayed")
        self.clock.rightNow = NOW + 105.0
        self.assertEqual(self.assertRaises(Unauthorized, verifier.redeem, again).reason, "expired")

    def test_many(self) -> None:
        """A token without uses, or with more than one, is not used up here."""
        verifier = self.keys()
        for ticket in ({"uuid": UUID}, {"uuid": UUID, "uses": 2}):
            found = verifier.verify(token(ticket=ticket), "image")
            for _ in range(3):
                verifier.redeem(found)

    def test_second_spelling(self) -> None:
        """T6: the other spelling of an ECDSA signature, and another signature, are the same token."""
        verifier = self.keys()
        text = self.one_time()
        signed, _, signature = text.rpartition(".")
        raw = base64.urlsafe_b64decode(signature + "==")
        s = CURVE_ORDER - int.from_bytes(raw[32:], "big")
        twin = f"{signed}.{b64url(raw[:32] + s.to_bytes(32, 'big'))}"
        self.assertNotEqual(twin, text)
        verifier.redeem(verifier.verify(text, "image"))
        for other in (twin, self.one_time()):
            found = verifier.verify(other, "image")
            self.assertEqual(self.assertRaises(Unauthorized, verifier.redeem, found).reason, "replayed")
        verifier.redeem(verifier.verify(self.one_time(jti="j-2"), "image"))

    def test_fence(self) -> None:
        """T6: after a start, one-time tokens an earlier process may have taken are refused."""
        text = self.one_time(nbf=NOW, iat=NOW)
        self.keys(started=NOW + 1.0).verify(text, "image")
        self.refused(self.keys(started=NOW + 1.001), text, "before_start")
        self.keys(started=NOW + 1.001).verify(token(), "image")
        # With a tolerance the earlier process took it even before nbf.
        self.refused(self.keys(started=NOW - 1.0, skew=5.0), text, "before_start")
        self.keys(started=float("-inf"), skew=5.0).verify(text, "image")

    def test_full(self) -> None:
        """When no more marks can be held, new one-time tokens are refused and no mark is forgotten."""
        marks = Marks(2)
        marks.add("a", 10.0, 0.0)
        marks.add("b", 20.0, 0.0)
        self.assertEqual(self.assertRaises(Unauthorized, marks.add, "c", 30.0, 9.9).reason, "full")
        self.assertEqual(self.assertRaises(Unauthorized, marks.add, "a", 10.0, 9.9).reason, "replayed")
        marks.add("c", 30.0, 10.0)
        self.assertEqual(self.assertRaises(Unauthorized, marks.add, "d", 30.0, 10.0).reason, "full")
        self.assertEqual(Marks().maximum, 100_000)

    def test_clock_set_back(self) -> None:
        """A mark that was forgotten at its end does not come to life when the clock is set back."""
        marks = Marks()
        marks.add("a", 10.0, 0.0)
        marks.add("b", 20.0, 10.0)
        self.assertEqual(self.assertRaises(Unauthorized, marks.add, "a", 10.0, 5.0).reason, "expired")


def token_any(**change: Any) -> str:
    """Like :func:`token`, for claims PyJWT would not write."""
    return raw_token({"alg": "ES256", "kid": "e"}, claims(**change))


@cache
def _old(generation: Generation) -> str:
    """An envelope that ended a day ago."""
    at = NOW - 86400
    return envelope(generation, json.dumps(payload(nbf=at, exp=at + 60)), valid=(at, at + 60))


@cache
def _fresh(generation: Generation) -> str:
    return envelope(generation)


@cache
def _impostor() -> x509.Certificate:
    """The engine's name and key, and an issuer that only has the name of the authority."""
    at = datetime.fromtimestamp(NOW, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(engine().subject)
        .issuer_name(engine().issuer)
        .public_key(rsa_key("engine").public_key())
        .serial_number(7)
        .not_valid_before(at - YEAR)
        .not_valid_after(at + YEAR)
        .add_extension(x509.ExtendedKeyUsage([x509.ObjectIdentifier(EKU)]), critical=False)
        .sign(ec_key("ca-of-an-impostor"), hashes.SHA256())
    )


@cache
def _pinned() -> Signers:
    path = Path("engine-once.pem")
    path.write_bytes(pem(engine()))
    return load_signers(path)


@cache
def _jwt_verifier() -> tuple[TokenVerifier, str]:
    path = Path("keys-once.json")
    path.write_text(json.dumps({"keys": [jwk(ed_key(), kid="d")]}))
    verifier = TokenVerifier(
        load_signers(jwt_keys=path), wall=lambda: NOW, started=0.0, jwt_audience=AUDIENCE
    )
    return verifier, token(ed_key(), "EdDSA", "d")


def _mutate(data: st.DataObject, text: str) -> str:
    """Change, insert, remove, double or swap a few characters."""
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, max(0, len(text) - 1)))
        end = min(len(text), start + data.draw(st.integers(0, 4)))
        new = data.draw(
            st.text('AZaz09+/=-_.,:"{}[]\\ \n', max_size=4)
            | st.just(text[start:end] * 2)
            | st.characters(max_codepoint=255)
        )
        text = text[:start] + new + text[end:]
    return text
