import base64
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire import ovirt_ticket
from gateway.wire.ovirt_ticket import BadTicket, ImagePayload

UUID = "11111111-2222-4333-8444-555555555555"
FROM = 1_700_000_000  # 2023-11-14 22:13:20
TO = FROM + 300
PAYLOAD = {
    "nbf": FROM,
    "iat": FROM,
    "exp": TO,
    "imaged-uri": "https://host.invalid:54322",
    "transfer-ticket": UUID,
    "transfer-id": "t-1",
}
DATA = json.dumps(PAYLOAD)
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\nBBBB\n-----END CERTIFICATE-----\n"


def envelope(generation: str = "C", data: str = DATA, **more: Any) -> str:
    return ovirt_ticket.encode(
        data,
        valid_from=FROM,
        valid_to=TO,
        certificate=PEM,
        sign=None if generation == "A" else lambda signed: b"pss" + signed[:3],
        sign_sha1=None if generation == "C" else lambda signed: b"sha" + signed[:3],
        **more,
    )


def members(text: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(base64.b64decode(text))
    return fields


def wrap(fields: object) -> str:
    text = fields if isinstance(fields, str) else json.dumps(fields)
    return base64.b64encode(text.encode()).decode()


class EnvelopeTests(SynchronousTestCase):
    def refused(self, text: str, reason: str) -> None:
        error = self.assertRaises(BadTicket, ovirt_ticket.parse, text)
        self.assertEqual(error.reason, reason)

    def test_generations(self) -> None:
        """Each generation is told by its fields, and signs its values without separators."""
        for generation, digest in (("A", "sha1"), ("B", "sha1"), ("C", None)):
            with self.subTest(generation):
                found = ovirt_ticket.parse(envelope(generation, salt=bytes(8)))
                self.assertEqual(found.generation, generation)
                self.assertEqual(found.digest, digest)
                self.assertEqual((found.valid_from, found.valid_to), (FROM, TO))
                self.assertEqual(found.data, DATA)
                self.assertEqual(found.certificate, PEM)
                self.assertEqual(found.signature, None if generation == "C" else b"shaAAA")
                self.assertEqual(found.v2_signature, None if generation == "A" else b"pssAAA")
                self.assertEqual(
                    found.signed,
                    ("AAAAAAAAAAA=" + (digest or "") + "20231114221320" + "20231114221820" + DATA).encode(),
                )

    def test_orders(self) -> None:
        """The order of the Java issuer is followed as well as that of the Python one."""
        text = envelope("B", order=("salt", "data", "digest", "validFrom", "validTo"), salt=bytes(8))
        self.assertEqual(
            ovirt_ticket.parse(text).signed,
            ("AAAAAAAAAAA=" + DATA + "sha1" + "20231114221320" + "20231114221820").encode(),
        )

    def test_malformed(self) -> None:
        """What is not base64 of one JSON object of known strings is malformed."""
        good = envelope()
        flat = members(good)
        twice = json.dumps(flat)[:-1] + ', "data": "x"}'
        for name, text in {
            "empty": "",
            "line break": good[:76] + "\n" + good[76:],
            "space": good + " ",
            "foreign character": "!" + good,
            "URL-safe alphabet": base64.urlsafe_b64encode(b'{"a":"\xc3\xbf\xc3\xbf???>>>"}').decode(),
            "not ASCII": good + "é",
            "half a character": "\ud800",
            "two texts": good + good,
            "no padding": wrap('{"a":""}').rstrip("="),
            "loose bits": wrap('{"a":""}')[:-2] + "R=",
            "list": wrap([flat]),
            "text": wrap('"x"'),
            "repeated field": wrap(twice),
            "unknown field": wrap(flat | {"x": "y"}),
            "number": wrap(flat | {"salt": 1}),
            "null": wrap(flat | {"certificate": None}),
            "object": wrap(flat | {"data": {}}),
            "not UTF-8": base64.b64encode(b'{"data":"\xff"}').decode(),
            "too long": wrap(flat | {"data": "x" * 16384}),
        }.items():
            with self.subTest(name):
                self.refused(text, "malformed")

    def test_longest(self) -> None:
        """An envelope has 16 KiB at most, as it comes."""
        flat = members(envelope())
        room = (16384 // 4 * 3) - len(json.dumps(flat))
        text = wrap(flat | {"data": DATA + "x" * room})
        self.assertEqual(len(text), 16384)
        self.assertEqual(len(ovirt_ticket.parse(text).data), len(DATA) + room)
        self.refused(wrap(flat | {"data": DATA + "x" * (room + 1)}), "malformed")

    def test_shape(self) -> None:
        """Every field but the payload has one length and one form."""
        flat = members(envelope("B"))
        for name, change in {
            "salt shorter": {"salt": "AAAAAAAAAA=="},
            "salt longer": {"salt": "AAAAAAAAAAAA"},
            "salt in another spelling": {"salt": "AAAAAAAAAAB="},
            "salt swallows a date": {"salt": flat["salt"] + flat["validFrom"]},
            "13 digits": {"validFrom": "2023111422132"},
            "15 digits": {"validFrom": "202311142213200"},
            "other digits": {"validFrom": "2023111422132\uff10"},
            "sign": {"validFrom": "+2023111422132"[:14]},
            "no such day": {"validTo": "20230230000000"},
            "no such year": {"validTo": "00000101000000"},
            "leap second": {"validTo": "20231114221360"},
            "backwards": {"validFrom": flat["validTo"], "validTo": flat["validFrom"]},
            "digest": {"digest": "md5"},
            "digest in capitals": {"digest": "SHA1"},
            "signature": {"signature": "?"},
            "signature with a break": {"v2_signature": flat["v2_signature"] + "\n"},
        }.items():
            with self.subTest(name):
                self.refused(wrap(flat | change), "shape")

    def test_signed_fields(self) -> None:
        """The signed fields are exactly those of an engine, each once."""
        for generation in "ABC":
            flat = members(envelope(generation))
            names = str(flat["signedFields"]).split(",")
            bad: list[list[str]] = [names[:i] + names[i + 1 :] for i in range(len(names))]
            bad += [[*names, name] for name in (*names, "certificate", "signedFields", "x", "")]
            bad += [[*names[:-1], names[0]], [" " + names[0], *names[1:]], [names[0].upper(), *names[1:]]]
            bad += [[*names, "digest"]] if generation == "C" else []
            for wrong in bad:
                with self.subTest(wrong):
                    self.refused(wrap(flat | {"signedFields": ",".join(wrong)}), "shape")

    def test_fields_missing(self) -> None:
        """Only the certificate may be missing; a generation is complete or refused."""
        for generation in "ABC":
            flat = members(envelope(generation))
            for name in flat.keys() - {"certificate"}:
                with self.subTest(generation + name):
                    rest = wrap({k: v for k, v in flat.items() if k != name})
                    if (generation, name) == ("B", "v2_signature"):
                        # A downgrade looks like generation A; the verifier has to know the signer.
                        self.assertEqual(ovirt_ticket.parse(rest).generation, "A")
                    else:
                        self.refused(rest, "shape")
            rest = wrap({k: v for k, v in flat.items() if k != "certificate"})
            self.assertIs(ovirt_ticket.parse(rest).certificate, None)

    @settings(max_examples=300, deadline=None)
    @given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: base64.b64encode(raw).decode()))
    def test_only_bad_ticket(self, text: str) -> None:
        """Whatever comes, nothing but BadTicket is raised."""
        self.assertRaises(BadTicket, ovirt_ticket.parse, text)

    def test_every_cut(self) -> None:
        """A ticket cut anywhere is none."""
        text = envelope("B")
        for end in range(len(text)):
            self.assertRaises(BadTicket, ovirt_ticket.parse, text[:end])

    def test_pem(self) -> None:
        """Exactly one PEM block counts as a certificate."""
        self.assertEqual(ovirt_ticket.der(PEM), base64.b64decode("AAAABBBB"))
        self.assertEqual(ovirt_ticket.der(PEM.replace("\n", "\r\n")), base64.b64decode("AAAABBBB"))
        for pem in ("", "x" + PEM, PEM + PEM, PEM.replace("A", "!"), PEM.replace("AAAA", "AAA"), PEM + "é"):
            with self.subTest(pem):
                self.assertEqual(self.assertRaises(BadTicket, ovirt_ticket.der, pem).reason, "shape")


class ImagePayloadTests(SynchronousTestCase):
    def test_reads(self) -> None:
        """A payload of an engine is read; what older and newer engines add may be missing."""
        self.assertEqual(
            ovirt_ticket.image_payload(DATA),
            ImagePayload(FROM, FROM, TO, "https://host.invalid:54322", UUID, "t-1"),
        )
        short = {k: v for k, v in PAYLOAD.items() if k not in ("iat", "transfer-id")}
        found = ovirt_ticket.image_payload(json.dumps(short))
        self.assertEqual((found.issued_at, found.transfer_id), (None, None))

    def test_refuses(self) -> None:
        """Another payload, or one of a wrong type anywhere, is for another purpose."""
        changes: list[dict[str, object]] = [{"x": 1}, {"sub": "alice"}]
        for name in ("nbf", "iat", "exp"):
            wrongs: tuple[object, ...] = (True, False, 1.5, str(FROM), -1, 2**40, [])
            changes += [{name: wrong} for wrong in wrongs]
        changes += [{name: None} for name in ("nbf", "exp", "imaged-uri", "transfer-ticket")]
        changes += [
            {"transfer-ticket": x}
            for x in (1, "", UUID[:-1], UUID + "\n", "../" + UUID, UUID.replace("-", ""))
        ]
        changes += [{"transfer-id": x} for x in (1, "", "a b", "a/b", "x" * 129, "é")]
        changes += [{"imaged-uri": 1}]
        texts = [json.dumps(PAYLOAD | change) for change in changes]
        texts += [
            json.dumps({k: v for k, v in PAYLOAD.items() if k != name})
            for name in ("nbf", "exp", "imaged-uri", "transfer-ticket")
        ]
        texts += ["", "{}", "[]", "null", DATA + DATA, DATA[:-1], "x" + DATA, DATA[:-1] + ', "exp": 2}']
        for text in texts:
            with self.subTest(text):
                error = self.assertRaises(BadTicket, ovirt_ticket.image_payload, text)
                self.assertEqual(error.reason, "purpose")

    def test_hosts(self) -> None:
        """An image host is a name or an address and a port, in plain spelling."""
        for uri in (
            "http://h:1",
            "https://host-1.example.invalid:65535",
            "https://192.0.2.7:54322",
            "https://[2001:db8::1]:54322",
            "https://[::ffff:192.0.2.1]:54322",
        ):
            with self.subTest(uri):
                self.assertEqual(
                    ovirt_ticket.image_payload(json.dumps(PAYLOAD | {"imaged-uri": uri})).imaged_uri, uri
                )

    def test_bad_hosts(self) -> None:
        """What another parser might take for another host is no target."""
        for uri in (
            "",
            "host:1",
            "ftp://h:1",
            "HTTPS://h:1",
            "file:///etc/passwd",
            "https://h",
            "https://h:",
            "https://h:0",
            "https://h:01",
            "https://h:65536",
            "https://h:\uff11",
            "https://h:1/",
            "https://h:1/images",
            "https://h:1?x",
            "https://h:1#x",
            "https://u@h:1",
            "https://good\t.evil:1",
            "https://good\n:1",
            "https://h:1\n",
            "https://h%2e:1",
            "https://h_:1",
            "https://-h:1",
            "https://h-.x:1",
            "https://.:1",
            "https://h..x:1",
            "https://h.:1",
            "https://é.invalid:1",
            "https://" + "a" * 64 + ":1",
            "https://127.1:1",
            "https://0x7f000001:1",
            "https://0x7f.0.0.0x1:1",
            "https://2130706433:1",
            "https://0177.0.0.1:1",
            "https://256.1.1.1:1",
            "https://[::1%25eth0]:1",
            "https://[:::]:1",
            "https://[v1.x]:1",
            "https://::1:1",
        ):
            with self.subTest(uri):
                text = json.dumps(PAYLOAD | {"imaged-uri": uri})
                self.assertEqual(
                    self.assertRaises(BadTicket, ovirt_ticket.image_payload, text).reason, "target"
                )
