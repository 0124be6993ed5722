"""Messages: frozen dataclasses to CBOR maps and back, by an explicit table of fields.

A family of messages (the host's sockets, the verifier's wire) is a table
kind -> (type, version, fields). The map on the wire is {"v", "kind", …fields}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from writ.formats.digest import SIZES
from writ.formats.errors import FormatError, Misuse
from writ.formats.grants import encode_grants, parse_grants
from writ.formats.keys import PublicKey, parse_cose_key
from writ.formats.reason import Reason
from writ.formats.strict import Fields, decode_cbor, encode_cbor
from writ.formats.tpm.pcr import PcrValues

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Field:
    """One field: its name in the type and on the wire, how it is read and how it is written. One that `may_lack` is not there if empty."""

    name: str
    read: Callable[[Fields, str], Any]
    write: Callable[[Any], object] = lambda value: value
    may_lack: bool = False


@dataclass(frozen=True, slots=True)
class Family(Generic[M]):
    """A closed set of messages. `encode` and `parse` are total over it."""

    what: str
    table: Mapping[str, tuple[type[M], tuple[Field, ...]]]
    max_size: int

    def encode(self, message: M) -> bytes:
        """The one spelling of `message`. Raises Misuse for a type outside the family."""
        for kind, (cls, fields) in self.table.items():
            if type(message) is cls:
                there = [f for f in fields if not f.may_lack or getattr(message, f.name)]
                return encode_cbor({"v": 1, "kind": kind, **{f.name: f.write(getattr(message, f.name)) for f in there}})
        raise Misuse(f"{type(message).__name__} is not a message of {self.what}")

    def parse(self, data: bytes) -> M:
        """Read one message. Raises FormatError."""
        f = Fields(decode_cbor(data, self.what, max_size=self.max_size), self.what)
        f.version(1)
        kind = f.text("kind", most=32)
        if kind not in self.table:
            raise FormatError(f"{self.what}.kind", f"one of {', '.join(self.table)}", repr(kind))
        cls, fields = self.table[kind]
        message = cls(**{field.name: field.read(f, field.name) for field in fields})
        f.done()
        return message


def text(name: str, *, least: int = 0, most: int = 1024) -> Field:
    """Printable text."""
    return Field(name, lambda f, k: f.text(k, least=least, most=most))


def optional_text(name: str, *, most: int = 1024) -> Field:
    """Printable text or null."""
    return Field(name, lambda f, k: f.optional_text(k, most=most))


def short_name(name: str) -> Field:
    """A short name."""
    return Field(name, lambda f, k: f.name(k))


def raw(name: str, *, size: int | None = None, most: int = 1 << 20) -> Field:
    """Bytes."""
    return Field(name, lambda f, k: f.raw(k, size=size, most=most))


def optional_raw(name: str, *, size: int | None = None, most: int = 1 << 20) -> Field:
    """Bytes or null."""
    return Field(name, lambda f, k: f.optional_raw(k, size=size, most=most))


def uint(name: str, *, most: int = (1 << 63) - 1) -> Field:
    """A non-negative integer."""
    return Field(name, lambda f, k: f.uint(k, most=most))


def flag(name: str) -> Field:
    """A boolean."""
    return Field(name, lambda f, k: f.flag(k))


def digest(name: str) -> Field:
    """A SHA-256 digest."""
    return Field(name, lambda f, k: f.digest(k), lambda d: d.value)


def optional_digest(name: str) -> Field:
    """A SHA-256 digest or null."""
    return Field(name, lambda f, k: f.optional_digest(k), lambda d: None if d is None else d.value)


def key(name: str) -> Field:
    """A public key as a COSE_Key."""
    return Field(name, lambda f, k: parse_cose_key(f.any(k)), lambda k: k.to_cose_key())


def keys(name: str, *, most: int = 16) -> Field:
    """An array of COSE_Keys."""

    def write(value: tuple[PublicKey, ...]) -> object:
        return [k.to_cose_key() for k in value]

    return Field(name, lambda f, k: tuple(parse_cose_key(item) for item in f.items(k, most=most)), write)


def grants(name: str) -> Field:
    """A set of grants."""
    return Field(name, lambda f, k: parse_grants(f.any(k)), encode_grants)


def raws(name: str, *, most: int, each: int = 1 << 20) -> Field:
    """An array of byte strings."""
    return Field(name, lambda f, k: tuple(_raw(k, item, each) for item in f.items(k, most=most)), list)


def texts(name: str, *, most: int) -> Field:
    """An array of texts, without NUL."""
    return Field(name, lambda f, k: tuple(_text(k, item) for item in f.items(k, most=most)), list)


def reasons(name: str) -> Field:
    """An array of reasons."""
    return Field(name, lambda f, k: tuple(Reason.from_cbor(item) for item in f.items(k, most=512)), lambda rs: [r.to_cbor() for r in rs])


def pcrs(name: str) -> Field:
    """PCR values of one bank: {"bank", "values": {index: bytes}}."""

    def read(f: Fields, k: str) -> PcrValues:
        inner = f.fields(k)
        bank, values = inner.text("bank"), inner.mapping("values", most=24)
        inner.done()
        if bank not in SIZES or not all(isinstance(i, int) and isinstance(v, bytes) for i, v in values.items()):
            raise FormatError(k, "a bank and index -> bytes", repr(bank)[:40])
        return PcrValues(bank, tuple(sorted(values.items())))

    return Field(name, read, lambda p: {"bank": p.bank, "values": dict(p.values)})


def _raw(what: str, value: object, most: int) -> bytes:
    if not isinstance(value, bytes) or len(value) > most:
        raise FormatError(what, f"at most {most} bytes", type(value).__name__)
    return value


def _text(what: str, value: object) -> str:
    if not isinstance(value, str) or "\0" in value or len(value) > 65536:
        raise FormatError(what, "text without NUL", type(value).__name__)
    return value
