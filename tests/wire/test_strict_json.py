import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire import strict_json

BAD = {
    "repeated member": '{"a": 1, "a": 1}',
    "repeated member, escaped": '{"a": 1, "\\u0061": 2}',
    "repeated member inside": '[{"b": {"a": 1, "a": 2}}]',
    "not a number": "NaN",
    "infinity": "[Infinity]",
    "minus infinity": "-Infinity",
    "beyond a double": "1e999",
    "beyond 64 bits": "1" * 21,
    "beyond Python": "1" * 5000,
    "long real": "0." + "1" * 100,
    "long exponent": "1e" + "0" * 100,
    "half a character": '"\\ud800"',
    "half a character as a name": '{"\\udfff": 1}',
    "byte order mark": "\ufeff{}",
    "control character": '"\x00"',
    "trailing comma": "[1,]",
    "trailing text": "{} {}",
    "nothing": "",
    "spaces": "  ",
    "leading zero": "01",
    "full-width digit": "\uff11",
    "single quotes": "{'a': 1}",
    "surrogate in the text": '"\ud800"',
}

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class StrictJsonTests(SynchronousTestCase):
    def test_refuses(self) -> None:
        """What two parsers might read in two ways is refused, in a few words that repeat nothing."""
        for name, text in BAD.items():
            with self.subTest(name):
                error = self.assertRaises(ValueError, strict_json.loads, text)
                self.assertIs(type(error), ValueError)
                self.assertLess(len(str(error)), 60)

    def test_not_utf8(self) -> None:
        """Bytes that are not UTF-8, overlong and surrogate forms among them, are refused."""
        for raw in (
            b'"\xff"',
            b'"\xc0\xaf"',
            b'"\xed\xa0\x80"',
            '"é"'.encode("latin-1"),
            "{}".encode("utf-16"),
        ):
            with self.subTest(raw):
                self.assertRaises(ValueError, strict_json.loads, raw)

    def test_size_first(self) -> None:
        """The size is looked at before anything is read, and counts bytes of UTF-8."""
        self.assertEqual(strict_json.loads('"abc"', limit=5), "abc")
        self.assertEqual(strict_json.loads('"é"'.encode(), limit=4), "é")
        for text in ('"abcd"', '"éé"', '"éé"'.encode(), b"\xff" * 6):
            with self.subTest(text):
                error = self.assertRaises(ValueError, strict_json.loads, text, limit=5)
                self.assertIn("too long", str(error))
        self.assertRaises(ValueError, strict_json.loads, " " * 65536 + "1")

    def test_depth(self) -> None:
        """As many arrays and objects within each other as asked for, and not one more."""
        for open_, close in (("[", "]"), ('{"a":', "}")):
            fits = open_ * 16 + "1" + close * 16
            strict_json.loads(fits)
            self.assertRaises(ValueError, strict_json.loads, open_ + fits + close)
        self.assertEqual(strict_json.loads("[[]]", depth=2), [[]])
        self.assertRaises(ValueError, strict_json.loads, "[[]]", depth=1)
        self.assertEqual(strict_json.loads("1", depth=0), 1)
        self.assertRaises(ValueError, strict_json.loads, "[" * 60000)
        self.assertRaises(ValueError, strict_json.loads, "[" * 30000 + "]" * 30000)

    def test_objects(self) -> None:
        """Where an object is meant, nothing else will do."""
        self.assertEqual(strict_json.load_object('{"a": 1}'), {"a": 1})
        for text in ("[]", "null", '"{}"', "1", "true"):
            self.assertRaises(ValueError, strict_json.load_object, text)

    def test_numbers(self) -> None:
        """All 64-bit integers and ordinary reals keep their value and type."""
        for number in (0, -(2**63), 2**63 - 1):
            self.assertEqual(strict_json.loads(str(number)), number)
        self.assertIs(type(strict_json.loads("1")), int)
        self.assertIs(type(strict_json.loads("1.0")), float)
        self.assertIs(strict_json.loads("true"), True)

    @settings(max_examples=200, deadline=None)
    @given(values, st.booleans())
    def test_round_trip(self, value: object, ascii_only: bool) -> None:
        """What Python writes is read as the same value, from text and from bytes."""
        text = json.dumps(value, ensure_ascii=ascii_only)
        self.assertEqual(strict_json.loads(text, depth=99), value)
        self.assertEqual(strict_json.loads(text.encode(), depth=99), value)

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\u0d8 eE+-.Nn', max_size=40))
    def test_only_value_error(self, text: str | bytes) -> None:
        """Whatever comes, the answer is a value or ValueError, and json would read the same value."""
        try:
            value = strict_json.loads(text)
        except ValueError:
            return
        self.assertEqual(value, json.loads(text))
