"""Linux IMA measurement lists, binary and ASCII: entries, what they extend, and what they say.

`binary_runtime_measurements`, all integers little-endian (the canonical format; a big-endian list is refused):

    0a000000                              PCR, 4 bytes
    a3affe02…                             template hash: SHA-1 (20 bytes) whatever the bank; all zero marks a violation
    06000000 "ima-ng"                     template, named or described ("d-ng|n-ng")
    67000000                              length of the template data; absent for the template "ima"
    28000000 "sha256:" 00 <digest>        a field: length and bytes, here d-ng
    0f000000 "boot_aggregate" 00          n-ng

What a PCR is extended with is the hash of the template data *in the bank's
algorithm*: the SHA-1 of the list proves nothing in another bank, and only its
being zero is used, which replay binds: a violation extends 0xff… instead. The
kernel before 5.8 extends SHA-1 padded with zeros into every bank; that is
recognised (`is_padded`) and never needed to accept anything.

`ascii_runtime_measurements` is the same list, one line an entry, and is turned
into the binary one. A *row* is an entry from the template's name on: it
delimits itself, and rows are what a verifier keeps.

That a list parses says nothing about any PCR: replay it and compare with a quote.

Source: Linux security/integrity/ima: ima_fs.c (ima_measurements_show, ima_ascii_measurements_show), ima_template.c
(builtin_templates, supported_fields), ima_template_lib.c (ima_eventdigest_init_common), ima_crypto.c
(ima_calc_field_array_hash_tfm), ima_queue.c (ima_add_template_entry, ima_pcr_extend).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final

from writ.formats.digest import SIZES
from writ.formats.errors import FormatError

IMA_PCR: Final = 10
"""CONFIG_IMA_MEASURE_PCR_IDX as every distribution has it."""
BOOT_AGGREGATE: Final = b"boot_aggregate"
TEMPLATES: Final[dict[str, str]] = {
    "ima": "d|n",
    "ima-ng": "d-ng|n-ng",
    "ima-ngv2": "d-ngv2|n-ng",
    "ima-sig": "d-ng|n-ng|sig",
    "ima-sigv2": "d-ngv2|n-ng|sig",
    "ima-modsig": "d-ng|n-ng|sig|d-modsig|modsig",
    "ima-buf": "d-ng|n-ng|buf",
    "evm-sig": "d-ng|n-ng|evmsig|xattrnames|xattrlengths|xattrvalues|iuid|igid|imode",
}
"""Template name -> its fields. A custom template is named by its fields."""
DIGEST_SIZES: Final[dict[str, int]] = {
    "md4": 16, "md5": 16, "sha1": 20, "rmd160": 20, "sha224": 28, "sha256": 32, "sha384": 48, "sha512": 64, "rmd128": 16, "rmd256": 32,
    "rmd320": 40, "wp256": 32, "wp384": 48, "wp512": 64, "tgr128": 16, "tgr160": 20, "tgr192": 24, "sm3": 32, "sm3-256": 32,
    "streebog256": 32, "streebog512": 64, "sha3-256": 32, "sha3-384": 48, "sha3-512": 64,
}  # fmt: skip
"""Bytes of a file digest by the kernel's name of the hash (include/crypto/hash_info.h)."""

MAX_LOG_SIZE: Final = 64 << 20
MAX_ENTRIES: Final = 400_000
MAX_TEMPLATE_NAME: Final = 127

_DIGEST_FIELDS: Final = frozenset({"d", "d-ng", "d-ngv2"})
_NAME_FIELDS: Final = frozenset({"n", "n-ng"})
_FIELDS: Final = frozenset(field for fmt in TEMPLATES.values() for field in fmt.split("|"))
_HEX: Final = frozenset({"d", "sig", "buf", "modsig", "evmsig", "xattrlengths", "xattrvalues"})
_INTEGERS: Final = {"iuid": 4, "igid": 4, "imode": 2}
_DIGEST: Final = re.compile(rb"(?:(ima|verity):)?([a-z0-9-]{1,64}):\0", re.ASCII)
_LINE_DIGEST: Final = re.compile(rb"((?:(?:ima|verity):)?[A-Za-z0-9-]{1,64}:)([0-9a-f]*)\Z", re.ASCII)
_LOWER_HEX: Final = re.compile(rb"(?:[0-9a-f]{2})*\Z", re.ASCII)
_TEMPLATE: Final = re.compile(rb"[a-z0-9|-]{1,127}\Z", re.ASCII)
_ASCII_START: Final = re.compile(rb" ?[0-9]{1,2} [0-9a-f]{40}", re.ASCII)
_PCR: Final = IMA_PCR.to_bytes(4, "little")
_LEGACY_NAME: Final = 256
"""IMA_EVENT_NAME_LEN_MAX + 1: what the template "ima" pads the name to before it hashes."""
_WHAT: Final = "IMA list"


@dataclass(frozen=True, slots=True)
class Measured:
    """What one entry says: the name the kernel saw, and the digest it measured. Says nothing about a PCR.

    `kind` is "ima" for the hash of the content or "verity" for the file's
    fs-verity digest. `algorithm` and `digest` are as written, of the size that
    belongs to the algorithm unless `algorithm` is none the kernel knows.
    `signature`, `modsig`, `buffer` are empty where there is none, and so is what
    `modsig` signs: `modsig_digest` of the file without it. A space in a name
    stands as "_" (the kernel writes it so).
    """

    template: str
    name: bytes
    kind: str
    algorithm: str
    digest: bytes
    signature: bytes = b""
    buffer: bytes = b""
    modsig: bytes = b""
    modsig_algorithm: str = ""
    modsig_digest: bytes = b""

    @property
    def described(self) -> str:
        """The digest as text: `sha256:<hex>` or `verity:sha256:<hex>`."""
        return f"{'verity:' if self.kind == 'verity' else ''}{self.algorithm}:{self.digest.hex()}"


@dataclass(frozen=True, slots=True)
class Replayed:
    """A prefix of a list that replays to `register`: `rows` in the order of measurement, and those of violations apart.

    `entries` counts every entry of the prefix, `violations` every violation; `end` is where the prefix ends, in bytes.
    """

    entries: int
    register: bytes
    violations: int
    end: int
    rows: tuple[bytes, ...]
    violated: tuple[bytes, ...]


def _text(raw: bytes) -> str:
    return raw[:64].decode("ascii", "backslashreplace")


def fields_of(template: str) -> tuple[str, ...] | None:
    """The fields of a template by name or description, or None where the kernel has no such template or field."""
    fields = tuple(TEMPLATES.get(template, template).split("|"))
    return fields if _FIELDS.issuperset(fields) else None


# --- binary ------------------------------------------------------------------------------------------------------------


def _layout(data: bytes, at: int) -> tuple[bytes, int]:
    """Length and name of the template as they stand at `at`, and where they end."""
    if at + 4 > len(data):
        raise FormatError(_WHAT, "the length of a template's name", f"{len(data) - at} bytes", at)
    size = int.from_bytes(data[at : at + 4], "little")
    end = at + 4 + size
    if not 1 <= size <= MAX_TEMPLATE_NAME or end > len(data) or not _TEMPLATE.match(data[at + 4 : end]):
        raise FormatError(_WHAT, f"a template's name of 1 to {MAX_TEMPLATE_NAME} characters", f"{size} bytes announced", at)
    return data[at:end], end


def _row_end(data: bytes, at: int) -> tuple[int, int]:
    """Where the template data of the row at `at` starts, and where the row ends."""
    head, start = _layout(data, at)
    if head[4:] == b"ima":
        named = start + 20
        if named + 4 > len(data):
            raise FormatError(_WHAT, "a digest of 20 bytes and a name", f"{len(data) - start} bytes", start)
        size = int.from_bytes(data[named : named + 4], "little")
        if size >= _LEGACY_NAME:
            raise FormatError(_WHAT, f"a name shorter than {_LEGACY_NAME} bytes", f"{size}", named)
        end = named + 4 + size
    else:
        if start + 4 > len(data):
            raise FormatError(_WHAT, "the length of the template data", f"{len(data) - start} bytes", start)
        size = int.from_bytes(data[start : start + 4], "little")
        start += 4
        end = start + size
    if end > len(data):
        raise FormatError(_WHAT, f"an entry of {end - at} bytes", f"{len(data) - at} bytes", at)
    return start, end


def row_end(data: bytes, at: int) -> int:
    """Where the row at `at` ends. Raises FormatError."""
    return _row_end(data, at)[1]


def entry_end(data: bytes, at: int) -> int:
    """Where the entry at `at` of a binary list ends. Raises FormatError."""
    return row_end(data, at + 24)


def hashed(row: bytes) -> bytes:
    """The bytes of a row that the kernel hashes: its template data; for "ima" the digest and the name padded to 256 bytes."""
    start, end = _row_end(row, 0)
    if row[4:start] == b"ima":
        return row[start : start + 20] + row[start + 24 : end].ljust(_LEGACY_NAME, b"\0")
    return row[start:end]


def parse_row(row: bytes, *, violation: bool = False) -> Measured | None:
    """What a row says, or None for a template that the kernel in this description does not have.

    The digest of a violation has no rule, since none was taken. Raises FormatError, and nothing else, on any bytes.
    """
    start, end = _row_end(row, 0)
    if end != len(row):
        raise FormatError(_WHAT, "one row", f"{len(row) - end} bytes behind it", end)
    template = row[4 : 4 + row[0]].decode("ascii")
    if template == "ima":
        return Measured(template, row[start + 24 :], "ima", "sha1", row[start : start + 20])
    names = fields_of(template)
    if names is None:
        return None
    values = _values(row, start, end, names)
    digest = next((values[name] for name in names if name in _DIGEST_FIELDS), None)
    name = next((values[name] for name in names if name in _NAME_FIELDS), None)
    if digest is None or name is None:
        return None
    if not name.endswith(b"\0") or b"\0" in name[:-1]:
        raise FormatError(_WHAT, "a name that ends with its one NUL", _text(name))
    kind, algorithm, value = _digest(digest, violation=violation)
    signed = values.get("d-modsig", b"")
    _, modsig_algorithm, modsig_digest = _digest(signed, violation=violation) if signed else ("", "", b"")
    return Measured(
        template, name[:-1], kind, algorithm, value, values.get("sig", b""), values.get("buf", b""), values.get("modsig", b""),
        modsig_algorithm, modsig_digest,
    )  # fmt: skip


def _values(row: bytes, at: int, end: int, names: tuple[str, ...]) -> dict[str, bytes]:
    values: dict[str, bytes] = {}
    for name in names:
        size = int.from_bytes(row[at : at + 4], "little")
        at += 4
        if at + size > end or name in values:
            raise FormatError(_WHAT, f"the field {name}, once", f"{end - at} bytes left of {size}", at)
        values[name] = row[at : at + size]
        at += size
    if at != end:
        raise FormatError(_WHAT, f"{len(names)} fields", f"{end - at} bytes behind them", at)
    return values


def _digest(value: bytes, *, violation: bool) -> tuple[str, str, bytes]:
    match = _DIGEST.match(value)
    if match is None:
        if len(value) == SIZES["sha1"]:  # a described template with the field "d"
            return "ima", "sha1", value
        raise FormatError(_WHAT, "a digest as algorithm:NUL and bytes", _text(value))
    kind, algorithm, digest = (match[1] or b"ima").decode(), match[2].decode(), value[match.end() :]
    size = DIGEST_SIZES.get(algorithm, len(digest))
    if len(digest) != size and not violation:
        raise FormatError(_WHAT, f"{size} bytes of {algorithm}", f"{len(digest)} bytes")
    return kind, algorithm, digest


# --- replay ------------------------------------------------------------------------------------------------------------


def replay(data: bytes, register: bytes, bank: str, quoted: bytes | None, *, most: int = MAX_ENTRIES) -> Replayed | None:
    """The prefix of a binary list that takes `register` to `quoted`, or None where no prefix of at most `most` entries does.

    Without `quoted` it is all of `data`: then nothing vouches for it yet.

    What stands behind that prefix is not looked at, and of the template hashes
    only which are zero: which entry is a violation is bound by the register,
    and so is all template data. Raises FormatError where the list breaks its
    rules before a prefix matched, or measures into another PCR.

    One loop over the bytes with nothing in it that could stand outside: it handles 100,000 entries at a time.
    """
    if len(data) > MAX_LOG_SIZE:
        raise FormatError(_WHAT, f"at most {MAX_LOG_SIZE} bytes", f"{len(data)} bytes")
    size, at, end = len(data), 0, 0
    extend, void, no_digest, pcr = getattr(hashlib, bank), b"\xff" * SIZES[bank], bytes(SIZES["sha1"]), _PCR
    rows: list[bytes] = []
    violated: list[bytes] = []
    head, start, unpack = b"", size + 1, _SHORTEST.unpack_from
    while register != quoted:
        if at + start <= size:
            index, logged, found, length = unpack(data, at)
            end = at + start + length
        else:
            index = logged = b""
            found = no_digest  # which is the head of no template
        if found != head or end > size:
            if at == size:
                if quoted is None:
                    break
                return None
            if at + 24 > size:
                raise FormatError(_WHAT, "an entry", f"{size - at} bytes", at)
            # The layout of this template, for the entries that follow; "ima" has no layout of its own, and stands alone.
            begin, end = _row_end(data, at + 24)
            if data[at + 28 : begin] != b"ima":
                head, start = data[at + 24 : begin - 4], begin - at
                unpack = Struct(f"<4s20s{len(head)}sI").unpack_from
                continue
            index, logged, body = data[at : at + 4], data[at + 4 : at + 24], hashed(data[at + 24 : end])
        else:
            body = data[at + start : end]
        if index != pcr:
            raise FormatError(_WHAT, f"PCR {IMA_PCR}", index.hex(), at)
        if logged != no_digest:
            register = extend(register + extend(body).digest()).digest()
            rows.append(data[at + 24 : end])
        else:
            register = extend(register + void).digest()
            violated.append(data[at + 24 : end])
        at = end
    if (entries := len(rows) + len(violated)) > most:
        return None
    return Replayed(entries, register, len(violated), at, tuple(rows), tuple(violated))


_SHORTEST: Final = Struct("<4s20s0sI")


def is_padded(data: bytes, bank: str, quoted: bytes) -> bool:
    """Whether a prefix of the whole list replays to `quoted` as the kernel before 5.8 extends: SHA-1, padded with zeros."""
    register = bytes(SIZES[bank])
    for _, logged, row, _ in _entries(data):
        digest = hashlib.sha1(hashed(row), usedforsecurity=False).digest() if any(logged) else b"\xff" * 20
        register = hashlib.new(bank, register + digest.ljust(SIZES[bank], b"\0")).digest()
        if register == quoted:
            return True
    return False


# --- a whole list, offline -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Summary:
    """What a list replays to, as far as it could be read: `fault` says where it ended before its end, or what does not hold.

    `registers` is PCR `pcr` by bank, from zero; `pcr` is that of the first entry, and entries of another PCR do not extend it.
    `templates` is sorted by name; `unknown` are templates that cannot be read.
    """

    pcr: int
    registers: dict[str, bytes]
    entries: int
    violations: int
    templates: dict[str, int]
    unknown: tuple[str, ...]
    fault: FormatError | None


def summarise(data: bytes) -> Summary:
    """Read a binary or an ASCII list from its first entry; every template hash is recomputed and compared.

    A template hash may be of another algorithm than SHA-1 (the lists that the
    kernel since 6.10 gives for each bank); the first entry tells. Raises
    nothing: what is wrong stands in `fault`.
    """
    registers = {bank: bytes(size) for bank, size in SIZES.items()}
    templates: dict[str, int] = {}
    entries = violations = 0
    unknown: set[str] = set()
    fault: FormatError | None = None
    first = IMA_PCR
    try:
        for pcr, logged, row, whole in _entries(data):
            first = pcr if not entries else first
            violation = not any(logged)
            template = row[4 : 4 + row[0]].decode("ascii")
            entries += 1
            violations += violation
            templates[template] = templates.get(template, 0) + 1
            body = hashed(row) if whole else b""
            if pcr == first:
                for bank, register in registers.items():
                    added = b"\xff" * SIZES[bank] if violation else hashlib.new(bank, body).digest()
                    registers[bank] = hashlib.new(bank, register + added).digest()
            if not whole:
                raise FormatError(_WHAT, "a whole entry", f"one cut off after {len(row)} bytes", len(data))
            if not violation and (told := hashlib.new(_NAMES[len(logged)], body).hexdigest()) != logged.hex():
                raise FormatError(f"{_WHAT} entry {entries - 1}", f"the template hash {told}", logged.hex())
            measured = parse_row(row, violation=violation)
            if measured is None:
                unknown.add(template)
            elif measured.algorithm not in DIGEST_SIZES:
                raise FormatError(f"{_WHAT} entry {entries - 1}", "a digest algorithm of the kernel", measured.algorithm)
        if not entries:
            raise FormatError(_WHAT, "at least one entry", "none")
    except FormatError as error:
        fault = error
    return Summary(first, registers, entries, violations, dict(sorted(templates.items())), tuple(sorted(unknown)), fault)


_NAMES: Final = {size: name for name, size in SIZES.items()}


def _entries(data: bytes) -> Iterator[tuple[int, bytes, bytes, bool]]:
    """(PCR, template hash, row, whole). An entry cut off at the end of the list is yielded only if it is a violation.

    What a violation extends does not depend on the rest of it.
    """
    if len(data) > MAX_LOG_SIZE:
        raise FormatError(_WHAT, f"at most {MAX_LOG_SIZE} bytes", f"{len(data)} bytes")
    if _ASCII_START.match(data):
        for line in _lines(data):
            yield (*_from_line(line), True)
        return
    size, at = 4 + _hash_size(data), 0
    while at < len(data):
        if at + size > len(data):
            raise FormatError(_WHAT, "an entry", f"{len(data) - at} bytes", at)
        pcr, logged = int.from_bytes(data[at : at + 4], "little"), data[at + 4 : at + size]
        head, begin = _layout(data, at + size)
        try:
            _, end = _row_end(data, at + size)
        except FormatError:
            if not any(logged) and begin + 4 <= len(data):
                yield pcr, logged, head, False
            raise
        yield pcr, logged, data[at + size : end], True
        at = end


def _hash_size(data: bytes) -> int:
    """The size of the template hashes: the one behind which a template's name stands in the first entry."""
    for size in SIZES.values():
        length = int.from_bytes(data[4 + size : 8 + size], "little")
        if 1 <= length <= MAX_TEMPLATE_NAME and _TEMPLATE.match(name := data[8 + size : 8 + size + length]) and len(name) == length:
            return size
    return SIZES["sha1"]


# --- ASCII --------------------------------------------------------------------------------------------------------------


def to_binary(data: bytes) -> bytes:
    """An ASCII list with SHA-1 template hashes as the binary list of the same entries. Raises FormatError."""
    if len(data) > MAX_LOG_SIZE:
        raise FormatError(_WHAT, f"at most {MAX_LOG_SIZE} bytes", f"{len(data)} bytes")
    out: list[bytes] = []
    for line in _lines(data):
        pcr, logged, row = _from_line(line)
        if len(logged) != SIZES["sha1"]:
            raise FormatError(_WHAT, "SHA-1 template hashes", f"{len(logged)} bytes")
        out += (pcr.to_bytes(4, "little"), logged, row)
    return b"".join(out)


def _lines(data: bytes) -> Iterator[bytes]:
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    if len(lines) > MAX_ENTRIES:
        raise FormatError(_WHAT, f"at most {MAX_ENTRIES} lines", f"{len(lines)}")
    yield from lines


def _from_line(line: bytes) -> tuple[int, bytes, bytes]:
    """PCR, template hash and row of one line; a template whose fields are unknown cannot be put together again."""
    parts = line.removeprefix(b" ").split(b" ")
    if len(parts) < 4 or not (parts[0].isdigit() and len(parts[0]) <= 2) or not _TEMPLATE.match(parts[2]):
        raise FormatError(_WHAT, "PCR, template hash, template and fields", _text(line))
    logged = _unhex(parts[1], "a template hash")
    if len(logged) not in _NAMES:
        raise FormatError(_WHAT, "a template hash of 20, 32, 48 or 64 bytes", f"{len(logged)}")
    template, shown = parts[2].decode("ascii"), parts[3:]
    names = fields_of(template)
    if names is None:
        raise FormatError(_WHAT, "a template of the kernel, since ASCII does not hold the fields of others", template)
    if len(shown) > len(names):
        raise FormatError(_WHAT, f"{len(names)} fields of {template}", f"{len(shown)}")
    shown += [b""] * (len(names) - len(shown))
    values = [_field(name, text) for name, text in zip(names, shown, strict=True)]
    head = len(template).to_bytes(4, "little") + template.encode()
    if template == "ima":
        if len(values[0]) != SIZES["sha1"] or len(values[1]) > _LEGACY_NAME:
            raise FormatError(_WHAT, "a digest of 20 bytes and a name of at most 255", f"{len(values[0])}, {len(values[1])}")
        return int(parts[0]), logged, head + values[0] + (len(values[1]) - 1).to_bytes(4, "little") + values[1][:-1]
    body = b"".join(len(value).to_bytes(4, "little") + value for value in values)
    return int(parts[0]), logged, head + len(body).to_bytes(4, "little") + body


def _field(name: str, text: bytes) -> bytes:
    if name in _NAME_FIELDS:
        return text + b"\0"
    if name == "xattrnames" or not text:
        return text
    if name in _HEX:
        return _unhex(text, name)
    if name in _INTEGERS:
        size = _INTEGERS[name]
        if not text.isdigit() or len(text) > 10 or int(text) >= 1 << 8 * size:
            raise FormatError(_WHAT, f"{name} of {size} bytes", _text(text))
        return int(text).to_bytes(size, "little")
    match = _LINE_DIGEST.match(text)
    if match is None:
        raise FormatError(_WHAT, "a digest as algorithm:hex", _text(text))
    return match[1] + b"\0" + _unhex(match[2], "a digest")


def _unhex(text: bytes, what: str) -> bytes:
    if not _LOWER_HEX.match(text):
        raise FormatError(_WHAT, f"{what} in lower-case hex", _text(text))
    return bytes.fromhex(text.decode("ascii"))
