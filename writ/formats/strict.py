"""Strict reading: bounded, no trailing bytes, one spelling.

CBOR of ours is deterministic (RFC 8949 section 4.2.1): shortest heads, definite
lengths, map keys in bytewise order of their encodings, no duplicate keys, no
floats, no tags unless the format names them. `decode_cbor` re-encodes what it
read and compares, so one value has exactly one accepted spelling.

>>> decode_cbor(encode_cbor({"v": 1, "host": "a"}), "specimen")
{'v': 1, 'host': 'a'}
>>> decode_cbor(b"\\x18\\x01", "specimen")
Traceback (most recent call last):
...
writ.formats.errors.FormatError: specimen: expected deterministic CBOR (RFC 8949 4.2.1), got another spelling or trailing bytes
"""

from __future__ import annotations

import binascii
import json
import math
import re
from collections.abc import Callable, Container, Mapping
from typing import Any, Final

import cbor2

from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Misuse

MAX_SIZE: Final = 1 << 20
"""Bytes of one message, unless the format states another bound."""
MAX_DEPTH: Final = 16
"""Arrays, maps and tags (JSON: arrays and objects) within each other."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters and lone surrogates."""
_B64URL = re.compile(r"[A-Za-z0-9_-]*\Z", re.ASCII)
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|([\[{\]}])', re.DOTALL)
"""A JSON string, also one that never ends, or (the group) a bracket outside strings."""
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?\Z", re.ASCII)


# --- CBOR ------------------------------------------------------------------------------------------------------------


def _ordered(value: object, depth: int = 0) -> object:
    if value is None or isinstance(value, bool | str | bytes):
        return value
    if isinstance(value, int):
        if not -(1 << 64) <= value < (1 << 64):
            raise Misuse("integer does not fit CBOR's 64 bits")
        return value
    if depth >= MAX_DEPTH:
        raise Misuse(f"CBOR deeper than {MAX_DEPTH}")
    if isinstance(value, tuple | list):
        return [_ordered(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        return {key: _ordered(value[key], depth + 1) for key in sorted(value, key=_place)}
    if isinstance(value, cbor2.CBORTag):
        return cbor2.CBORTag(value.tag, _ordered(value.value, depth + 1))
    raise Misuse(f"no CBOR spelling for {type(value).__name__}")


def _place(key: object) -> tuple[int, int, bytes]:
    """Sorts keys as their encodings sort, without making them: by major type, then number or length, then text. RFC 8949 section 4.2.1."""
    if isinstance(key, str):
        text = key.encode()
        return 3, len(text), text
    if isinstance(key, int) and not isinstance(key, bool):
        if not -(1 << 64) <= key < 1 << 64:
            raise Misuse("integer does not fit CBOR's 64 bits")
        return (0, key, b"") if key >= 0 else (1, ~key, b"")
    raise Misuse("map keys are text or integers")


def _is_key(key: object) -> bool:
    return isinstance(key, int | str) and not isinstance(key, bool)


def encode_cbor(value: object) -> bytes:
    """The one deterministic spelling of `value`. Raises Misuse for types that have none (floats, sets, …)."""
    return cbor2.dumps(_ordered(value))


def encode_written(value: object) -> bytes:
    """`encode_cbor(value)` at a third of its price, for whoever writes every map in the order of its keys' encodings already.

    Nothing is looked at: whoever calls it has a test that its bytes are those of `encode_cbor`.
    """
    return cbor2.dumps(value)


def _keep_tag(tag: int) -> Callable[[Any, bool], object]:
    return lambda value, _immutable: cbor2.CBORTag(tag, value)


def _refuse_tag(tag: int) -> Callable[[Any, bool], object]:
    def refuse(_value: object, _immutable: bool) -> object:
        raise FormatError("CBOR", "no such tag", f"tag {tag}")

    return refuse


_INTERPRETED: Final = (
    *range(6),
    25,
    28,
    29,
    30,
    35,
    36,
    37,
    52,
    54,
    100,
    256,
    258,
    260,
    261,
    1004,
    43000,
    55799,
)
"""Tags for which cbor2 6.x would build something (a date, a regular expression, a cycle): none of it is wanted."""


_ATOMS: Final = frozenset({type(None), bool, str, bytes, int})
_ONE_SPELLING: Final = ("deterministic CBOR (RFC 8949 4.2.1)", "another spelling or trailing bytes")
_REFUSING: Final = {tag: _refuse_tag(tag) for tag in _INTERPRETED}


def decode_written(data: bytes) -> Any:
    """What `cbor2` makes of bytes as `encode_written` writes them, at a third of the price of `decode_cbor`; None for no CBOR.

    Bounded, and nothing more is known of it: whoever calls it demands the exact type of each item, that `encode_written` spells them as
    these bytes, and leaves all else to `decode_cbor`.
    """
    try:
        return cbor2.loads(
            data, max_depth=MAX_DEPTH + 1, allow_duplicate_keys=False, allow_indefinite=False, semantic_decoders=_REFUSING
        )  # fmt: skip
    except Exception:  # noqa: BLE001 - as in decode_cbor, which says what is wrong
        return None


def _plain(what: str, tags: Container[int], value: object, ordered: bool, depth: int = 0) -> Any:
    """`value` in lists and dicts (cbor2 freezes what stands in a tag), or FormatError if something else is in it.

    Allowed are integers of 64 bits, text, bytes, arrays, maps, booleans, null and the tags in `tags`; if `ordered`, the keys of maps as
    their encodings sort: then nothing but heads and lengths is left to compare.
    """
    if type(value) in _ATOMS:
        return value
    if depth >= MAX_DEPTH:
        raise FormatError(what, f"at most {MAX_DEPTH} levels", "a deeper item")
    if isinstance(value, list | tuple):
        return [item if type(item) in _ATOMS else _plain(what, tags, item, ordered, depth + 1) for item in value]
    if isinstance(value, Mapping):
        for key in value:
            if not _is_key(key):
                raise FormatError(what, "map keys that are text or integers", type(key).__name__)
        if ordered and len(value) > 1 and list(value) != sorted(value, key=_place):
            raise FormatError(what, *_ONE_SPELLING)
        return {key: _plain(what, tags, item, ordered, depth + 1) for key, item in value.items()}
    if isinstance(value, cbor2.CBORTag):
        if value.tag not in tags:
            raise FormatError(what, "no such tag", f"tag {value.tag}")
        return cbor2.CBORTag(value.tag, _plain(what, tags, value.value, ordered, depth + 1))
    raise FormatError(what, "integers, text, bytes, arrays, maps, booleans or null", type(value).__name__)


def _end_of_item(data: bytes) -> int:
    """Offset just behind the first CBOR item of `data`, which cbor2 has read: it is there and well-formed (RFC 8949 section 3)."""
    at, open_items = 0, [1]
    while open_items:
        if open_items[-1] == 0:
            open_items.pop()
            continue
        major, low = data[at] >> 5, data[at] & 31
        at += 1
        if data[at - 1] == 0xFF:
            open_items.pop()
            continue
        if open_items[-1] > 0:
            open_items[-1] -= 1
        size = {24: 1, 25: 2, 26: 4, 27: 8}.get(low, 0)
        argument = low if low < 24 else int.from_bytes(data[at : at + size], "big")
        at += size
        if low == 31:
            open_items.append(-1)
        elif major in (2, 3):
            at += argument
        elif major in (4, 5, 6):
            open_items.append(argument * 2 if major == 5 else argument if major == 4 else 1)
    return at


def decode_cbor(
    data: bytes,
    what: str,
    *,
    max_size: int = MAX_SIZE,
    tags: Container[int] = frozenset(),
    one_spelling: bool = True,
) -> Any:
    """Read exactly one CBOR item; ours by default, foreign with `one_spelling=False`.

    Foreign bytes keep their own lengths and orders but are bounded all the
    same, without duplicate keys, floats and trailing bytes. Only `tags` may
    occur, and come out as `cbor2.CBORTag`. Raises FormatError, and nothing
    else, on any bytes.
    """
    if len(data) > max_size:
        raise FormatError(what, f"at most {max_size} bytes", f"{len(data)} bytes")
    decoders = _REFUSING if tags == frozenset() else {tag: _keep_tag(tag) if tag in tags else _refuse_tag(tag) for tag in _INTERPRETED}
    try:
        value = cbor2.loads(
            data,
            max_depth=MAX_DEPTH + 1,
            allow_duplicate_keys=False,
            allow_indefinite=not one_spelling,
            semantic_decoders=decoders,
        )
    except Exception as error:  # noqa: BLE001 - cbor2 raises several families, and ours comes back wrapped: all of them mean the same here
        raise FormatError(
            what,
            "one well-formed CBOR item",
            f"bytes that are not one ({type(error).__name__})",
        ) from None
    value = _plain(what, tags, value, one_spelling)
    if one_spelling:
        if encode_written(value) != data:
            raise FormatError(what, *_ONE_SPELLING)
    elif (end := _end_of_item(data)) != len(data):
        raise FormatError(what, "no trailing bytes", f"{len(data)} bytes", end)
    return value


# --- JSON ------------------------------------------------------------------------------------------------------------


def encode_json(value: object, *, floats: bool = False) -> bytes:
    """The one spelling of JSON of ours: UTF-8, sorted keys, no spaces, no floats. Raises Misuse.

    With `floats`, for what others say, one that is no integer has the fewest digits that read back the same, with an exponent below 1e-4
    and from 1e16 on.
    """
    _json_plain_or_misuse(value, floats)
    return _ENCODER.encode(value).encode()


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
_SCALARS: Final = frozenset({str, int, bool, type(None)})


def _json_plain_or_misuse(value: object, floats: bool) -> None:
    if type(value) in _SCALARS:
        return
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise Misuse("JSON keys are text")
            if type(item) not in _SCALARS:
                _json_plain_or_misuse(item, floats)
    elif isinstance(value, list | tuple):
        for item in value:
            _json_plain_or_misuse(item, floats)
    elif not isinstance(value, (str, int, float) if floats else (str, int)):
        raise Misuse(f"no JSON spelling for {type(value).__name__}")


def decode_json(
    data: bytes, what: str, *, max_size: int = MAX_SIZE, max_depth: int = MAX_DEPTH, one_spelling: bool = False, floats: bool = False
) -> Any:
    """Read exactly one JSON value: UTF-8, no duplicate keys, no floats, integers of at most 64 bits, bounded depth.

    With `one_spelling` the bytes must also be what `encode_json` would write. With `floats` a number with a point or an exponent is read:
    as an integer where it is one of at most 53 bits, as the nearest finite float otherwise.
    Raises FormatError, and nothing else, on any bytes.
    """
    if len(data) > max_size:
        raise FormatError(what, f"at most {max_size} bytes", f"{len(data)} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(what, "UTF-8", "bytes that are not", error.start) from None
    if text.count("{") + text.count("[") > max_depth and max(_json_depths(text), default=0) > max_depth:
        raise FormatError(what, f"at most {max_depth} levels", "a deeper value")
    try:
        value = (_WITH_FLOATS if floats else _WITHOUT_FLOATS).decode(text)
    except json.JSONDecodeError as error:
        raise FormatError(what, "one JSON value", "text that is not one", error.pos) from None
    except _NotOurs as error:
        raise FormatError(what, error.expected, error.got) from None
    if one_spelling and _spelt(value, floats=floats) != data:
        raise FormatError(what, "sorted keys and no spaces", "another spelling")
    return value


class _NotOurs(Exception):
    """JSON, but none that is taken here."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__()
        self.expected, self.got = expected, got


def _pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) != len(items):
        raise _NotOurs("no duplicate keys", "a key twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise _NotOurs("an integer of at most 64 bits", f"{len(digits)} digits")
    if not -(1 << 63) <= (number := int(digits)) < 1 << 64:
        raise _NotOurs("an integer of at most 64 bits", digits)
    return number


def _no_float(constant: str) -> Any:
    raise _NotOurs("no floating point number", constant[:40])


def _float(digits: str) -> int | float:
    value = float(digits)
    if len(digits) > 64 or not math.isfinite(value):
        raise _NotOurs("a finite number of at most 64 characters", digits[:40])
    return int(value) if value.is_integer() and abs(value) < 1 << 53 else value


_WITHOUT_FLOATS: Final = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=_integer, parse_float=_no_float, parse_constant=_no_float)
_WITH_FLOATS: Final = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=_integer, parse_float=_float, parse_constant=_no_float)


def _spelt(value: object, *, floats: bool) -> bytes:
    try:
        return encode_json(value, floats=floats)
    except UnicodeEncodeError:  # a lone surrogate, escaped in the input: no bytes of ours spell it
        return b""


def _json_depths(text: str) -> list[int]:
    """Nesting depth at each opening bracket outside strings; json.loads recurses, so this comes first."""
    depth, depths = 0, []
    for found in _STRING_OR_BRACKET.finditer(text):
        bracket = found[1]
        if bracket in ("[", "{"):
            depth += 1
            depths.append(depth)
        elif bracket is not None:
            depth -= 1
    return depths


# --- base64url ---------------------------------------------------------------------------------------------------------


def b64url(data: bytes) -> str:
    """Base64url without padding (RFC 7515 section 2)."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=").decode("ascii")


def parse_b64url(text: str, what: str) -> bytes:
    """Read base64url without padding; the unused last bits are zero, so one value has one spelling. Raises FormatError."""
    if not _B64URL.match(text) or len(text) % 4 == 1:
        raise FormatError(what, "base64url without padding", repr(text[:40]))
    if text and text[-1] not in _LASTS[len(text) % 4]:
        raise FormatError(what, "base64url whose unused bits are zero", repr(text[-4:]))
    return binascii.a2b_base64(text.encode("ascii").translate(_FROM_URL) + b"=" * (-len(text) % 4))


_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_LASTS: Final = {0: _ALPHABET, 2: _ALPHABET[::16], 3: _ALPHABET[::4]}
"""What the last character may be, by the length of the text modulo 4: after two, 4 of its 6 bits are unused, after three, 2."""
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_", b"+/")


# --- reading maps ------------------------------------------------------------------------------------------------------


class Fields:
    """A decoded map read key by key; `done` refuses what was not asked for.

    Every getter raises FormatError naming the key. Text is at most 1024
    characters unless stated; integers are 0 to 2**63-1.
    """

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, Mapping):
            raise FormatError(what, "a map", type(value).__name__)
        self._value = dict(value)
        self._what = what

    def has(self, key: str | int) -> bool:
        """Whether an optional `key` is present and not yet taken."""
        return key in self._value

    def is_null(self, key: str | int) -> bool:
        """Whether `key` is present with the value null."""
        return key in self._value and self._value[key] is None

    def null(self, key: str | int) -> None:
        """Null, and nothing else."""
        if (value := self.any(key)) is not None:
            raise FormatError(f"{self._what}.{key}", "null", type(value).__name__)

    def any(self, key: str | int) -> Any:
        """The value under `key`, of whatever type."""
        if key not in self._value:
            raise FormatError(self._what, f"key {key!r}", "none")
        return self._value.pop(key)

    def _typed(self, key: str | int, kind: type, name: str) -> Any:
        value = self.any(key)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise FormatError(f"{self._what}.{key}", name, type(value).__name__)
        return value

    def version(self, *accepted: int) -> int:
        """The version under "v", one of `accepted`: a version unknown is refused."""
        value = self.uint("v")
        if value not in accepted:
            raise FormatError(
                self._what,
                f"version {' or '.join(map(str, accepted))}",
                f"version {value}",
            )
        return value

    def uint(self, key: str | int, *, most: int = (1 << 63) - 1) -> int:
        """An integer from 0 to `most`."""
        value: int = self._typed(key, int, "an integer")
        if not 0 <= value <= most:
            raise FormatError(f"{self._what}.{key}", f"0 to {most}", str(value)[:40])
        return value

    def flag(self, key: str | int) -> bool:
        """A boolean."""
        value: bool = self._typed(key, bool, "a boolean")
        return value

    def text(self, key: str | int, *, most: int = 1024, least: int = 0) -> str:
        """Text of `least` to `most` characters, without NUL and control characters."""
        value: str = self._typed(key, str, "text")
        if not least <= len(value) <= most:
            raise FormatError(f"{self._what}.{key}", f"{least} to {most} characters", f"{len(value)}")
        if _UNPRINTABLE.search(value):
            raise FormatError(f"{self._what}.{key}", "printable text", "a control character")
        return value

    def name(self, key: str | int) -> str:
        """A short name as `name()` accepts it."""
        return name(self.text(key, most=63), f"{self._what}.{key}")

    def raw(self, key: str | int, *, size: int | None = None, most: int = MAX_SIZE) -> bytes:
        """Bytes, of exactly `size` or at most `most`."""
        value: bytes = self._typed(key, bytes, "bytes")
        if size is not None and len(value) != size:
            raise FormatError(f"{self._what}.{key}", f"{size} bytes", f"{len(value)} bytes")
        if len(value) > most:
            raise FormatError(f"{self._what}.{key}", f"at most {most} bytes", f"{len(value)} bytes")
        return value

    def digest(self, key: str | int, algorithm: str = "sha256") -> Digest:
        """A raw digest of `algorithm`."""
        value: bytes = self._typed(key, bytes, "bytes")
        return Digest(algorithm, value)

    def optional_uint(self, key: str | int, *, most: int = (1 << 63) - 1) -> int | None:
        """An integer from 0 to `most`, or null; the key itself must be there."""
        if self.is_null(key):
            self.null(key)
            return None
        return self.uint(key, most=most)

    def optional_raw(self, key: str | int, *, size: int | None = None, most: int = MAX_SIZE) -> bytes | None:
        """Bytes, or null; the key itself must be there."""
        if self.is_null(key):
            self.null(key)
            return None
        return self.raw(key, size=size, most=most)

    def optional_text(self, key: str | int, *, most: int = 1024) -> str | None:
        """Text, or null; the key itself must be there."""
        if self.is_null(key):
            self.null(key)
            return None
        return self.text(key, most=most)

    def optional_digest(self, key: str | int, algorithm: str = "sha256") -> Digest | None:
        """A raw digest, or null; the key itself must be there."""
        value = self.optional_raw(key)
        return None if value is None else Digest(algorithm, value)

    def items(self, key: str | int, *, most: int) -> list[Any]:
        """An array of at most `most` items."""
        value: list[Any] = self._typed(key, list, "an array")
        if len(value) > most:
            raise FormatError(f"{self._what}.{key}", f"at most {most} items", f"{len(value)}")
        return value

    def fields(self, key: str | int) -> Fields:
        """A nested map."""
        return Fields(self.any(key), f"{self._what}.{key}")

    def mapping(self, key: str | int, *, most: int) -> dict[Any, Any]:
        """A nested map with free keys, at most `most` of them."""
        value = self.any(key)
        if not isinstance(value, Mapping):
            raise FormatError(f"{self._what}.{key}", "a map", type(value).__name__)
        if len(value) > most:
            raise FormatError(f"{self._what}.{key}", f"at most {most} entries", f"{len(value)}")
        return dict(value)

    def done(self) -> None:
        """Refuse keys that nothing asked for."""
        if self._value:
            unknown = ", ".join(sorted(repr(key) for key in self._value))
            raise FormatError(self._what, "no unknown key", unknown)


def name(value: str, what: str) -> str:
    """`value` if it is a short name: 1 to 63 of a-z 0-9 . _ - beginning and ending with a letter or digit."""
    if not _NAME.match(value):
        raise FormatError(
            what,
            "1 to 63 of a-z 0-9 . _ -, letter or digit first and last",
            repr(value[:80]),
        )
    return value
