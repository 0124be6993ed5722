"""What the events of a UEFI log carry: payloads to frozen types. Called for an event that is of interest, never for all of them.

None of these types says that a register holds the payload: compare the event's digest with the hash of what the specification
says is hashed (`writ.verdict.appraise.boot` does).

    UEFI_VARIABLE_DATA      GUID 16, name length u64 (UTF-16 units), data length u64, name, data
    EFI_SIGNATURE_LIST      type GUID 16, list size u32, header size u32, signature size u32, header, (owner GUID 16, data) ...
    UEFI_IMAGE_LOAD_EVENT   address u64, length u64, link address u64, path length u64, device path
    device path node        type u8, subtype u8, length u16, ...   up to type 0x7f, subtype 0xff
    TCG_PCClientTaggedEvent id u32, size u32, data

Source: TCG PC Client Platform Firmware Profile 1.06, sections 10.2.3 to 10.2.6, 10.4.2; UEFI 2.10, sections 10.3 and 32.4.1;
systemd 257, src/boot/measure.c and src/boot/tpm2-pcr.h; GRUB 2.12, grub-core/kern/tpm.c; Linux 6.12, drivers/firmware/efi/libstub.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from writ.formats.digest import hash_bytes
from writ.formats.errors import FormatError

MAX_NAME: Final = 1024
"""UTF-16 units of a variable's name; UEFI sets no bound, EDK II refuses names above its 1 KiB variable default."""
MAX_SIGNATURES: Final = 20_000
"""Entries of one variable: dbx holds a few hundred; 1 MiB, the largest payload, cannot hold more of 52 bytes."""
MAX_NODES: Final = 64
"""Nodes of a device path; real ones have at most a dozen."""

GLOBAL_VARIABLE: Final = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
IMAGE_SECURITY: Final = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
"""Namespaces: EFI_GLOBAL_VARIABLE (SecureBoot, PK, KEK), EFI_IMAGE_SECURITY_DATABASE_GUID (db, dbx)."""
_X509: Final = "a5c059a1-94e4-4aa7-87b5-ab155c2bf072"
_SHA256: Final = "c1c41626-504c-4092-aca9-41f936934328"

INITRD_TAG: Final = 0x8F3B22EC
LOAD_OPTIONS_TAG: Final = 0x8F3B22ED
"""Of the Linux EFI stub: the digest is of the initrd, or of the command line in UTF-16 with its NUL; the data only names it."""

_VARIABLE_HEAD: Final = Struct("<16sQQ")
_LIST_HEAD: Final = Struct("<16sIII")
_IMAGE_HEAD: Final = Struct("<QQQQ")
_NODE_HEAD: Final = Struct("<BBH")
_TAG_HEAD: Final = Struct("<II")
_BLOB: Final = Struct("<QQ")


def guid_text(raw: bytes) -> str:
    """An EFI_GUID, 16 bytes, as text: the first three fields are little-endian (UEFI 2.10, appendix A)."""
    text = (raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]).hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def guid_bytes(text: str) -> bytes:
    """The 16 bytes of a GUID of ours in text."""
    raw = bytes.fromhex(text.replace("-", ""))
    return raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]


@dataclass(frozen=True, slots=True)
class Variable:
    """UEFI_VARIABLE_DATA: a variable as the firmware measured it. `data` is empty where it is not set."""

    namespace: str
    name: str
    data: bytes


def encode_variable(variable: Variable) -> bytes:
    """The bytes of UEFI_VARIABLE_DATA, which are what PCR 7's digests are over."""
    name = variable.name.encode("utf-16-le")
    return _VARIABLE_HEAD.pack(guid_bytes(variable.namespace), len(name) // 2, len(variable.data)) + name + variable.data


def parse_variable(data: bytes) -> Variable:
    """Read UEFI_VARIABLE_DATA. Raises FormatError."""
    what = "UEFI_VARIABLE_DATA"
    if len(data) < _VARIABLE_HEAD.size:
        raise FormatError(what, f"at least {_VARIABLE_HEAD.size} bytes", f"{len(data)} bytes")
    namespace, units, size = _VARIABLE_HEAD.unpack_from(data)
    if units > MAX_NAME:
        raise FormatError(what, f"a name of at most {MAX_NAME} units", str(units))
    end = _VARIABLE_HEAD.size + 2 * units
    if len(data) != end + size:
        raise FormatError(what, f"a name of {units} units and {size} bytes", f"{len(data) - _VARIABLE_HEAD.size} bytes in all")
    return Variable(guid_text(namespace), _utf16(data[_VARIABLE_HEAD.size : end], what), data[end:])


def _utf16(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-16-le")
    except UnicodeDecodeError:
        raise FormatError(what, "UTF-16", "bytes that are not") from None


@dataclass(frozen=True, slots=True)
class Signature:
    """One entry of a signature database.

    `kind` is "x509", "sha256" or the type's GUID; `digest` is the SHA-256 that a sha256 entry holds, and else SHA-256 of its data
    (of an X.509 entry: of the DER certificate).
    """

    kind: str
    owner: str
    digest: bytes


def parse_signature_lists(data: bytes) -> tuple[Signature, ...]:
    """Read EFI_SIGNATURE_LISTs one behind the other: the value of PK, KEK, db or dbx. No bytes are no entries. Raises FormatError."""
    what = "EFI_SIGNATURE_LIST"
    found: list[Signature] = []
    at = 0
    while at < len(data):
        if len(data) - at < _LIST_HEAD.size:
            raise FormatError(what, f"a head of {_LIST_HEAD.size} bytes", f"{len(data) - at} bytes", at)
        raw, size, header, each = _LIST_HEAD.unpack_from(data, at)
        body = size - _LIST_HEAD.size - header
        if size > len(data) - at or body < 0 or each <= 16 or body % each:
            raise FormatError(what, "entries that fill the list", f"{size} bytes, header {header}, entries of {each}", at)
        if len(found) + body // each > MAX_SIGNATURES:
            raise FormatError(what, f"at most {MAX_SIGNATURES} entries", "more", at)
        kind = guid_text(raw)
        name = {_X509: "x509", _SHA256: "sha256"}.get(kind, kind)
        if name == "sha256" and each != 48:
            raise FormatError(what, "48 bytes a SHA-256 entry", f"{each} bytes", at)
        for start in range(at + _LIST_HEAD.size + header, at + size, each):
            value = data[start + 16 : start + each]
            digest = value if name == "sha256" else hash_bytes("sha256", value)
            found.append(Signature(name, guid_text(data[start : start + 16]), digest))
        at += size
    return tuple(found)


@dataclass(frozen=True, slots=True)
class ImageLoad:
    """UEFI_IMAGE_LOAD_EVENT: `path` is the device path as text, of which nothing is measured."""

    length: int
    path: str


def parse_image_load(data: bytes) -> ImageLoad:
    """Read UEFI_IMAGE_LOAD_EVENT. Raises FormatError."""
    what = "UEFI_IMAGE_LOAD_EVENT"
    if len(data) < _IMAGE_HEAD.size:
        raise FormatError(what, f"at least {_IMAGE_HEAD.size} bytes", f"{len(data)} bytes")
    _, length, _, size = _IMAGE_HEAD.unpack_from(data)
    if len(data) != _IMAGE_HEAD.size + size:
        raise FormatError(what, f"a device path of {size} bytes", f"{len(data) - _IMAGE_HEAD.size} bytes")
    return ImageLoad(length, _device_path(data[_IMAGE_HEAD.size :]))


def _device_path(data: bytes) -> str:
    """The nodes of a device path: file paths as text, others as type.subtype."""
    what = "device path"
    nodes: list[str] = []
    at = 0
    while at < len(data):
        if len(data) - at < _NODE_HEAD.size:
            raise FormatError(what, f"a node of at least {_NODE_HEAD.size} bytes", f"{len(data) - at} bytes", at)
        kind, subtype, size = _NODE_HEAD.unpack_from(data, at)
        if size < _NODE_HEAD.size or size > len(data) - at:
            raise FormatError(what, f"a node of {size} bytes", f"{len(data) - at} bytes", at)
        if len(nodes) == MAX_NODES:
            raise FormatError(what, f"at most {MAX_NODES} nodes", "more", at)
        if (kind, subtype) == (0x7F, 0xFF):
            if at + size != len(data):
                raise FormatError(what, "no bytes behind its end", f"{len(data) - at - size} bytes", at)
            break
        if (kind, subtype) == (4, 4):
            nodes.append(_utf16(data[at + _NODE_HEAD.size : at + size], what).rstrip("\0"))
        else:
            nodes.append(f"{kind}.{subtype}")
        at += size
    return "/".join(nodes)


@dataclass(frozen=True, slots=True)
class Tagged:
    """TCG_PCClientTaggedEvent: an id, and what it carries."""

    id: int
    data: bytes


def parse_tagged(data: bytes) -> Tagged:
    """Read one TCG_PCClientTaggedEvent. Raises FormatError."""
    if len(data) < _TAG_HEAD.size:
        raise FormatError("tagged event", f"at least {_TAG_HEAD.size} bytes", f"{len(data)} bytes")
    number, size = _TAG_HEAD.unpack_from(data)
    if len(data) != _TAG_HEAD.size + size:
        raise FormatError("tagged event", f"{size} bytes behind its head", f"{len(data) - _TAG_HEAD.size} bytes")
    return Tagged(number, data[_TAG_HEAD.size :])


@dataclass(frozen=True, slots=True)
class FirmwareBlob:
    """UEFI_PLATFORM_FIRMWARE_BLOB or its second form: where a measured part of the firmware lay. `description` is "" in the first form."""

    description: str
    base: int
    length: int


def parse_firmware_blob(data: bytes) -> FirmwareBlob:
    """Read either form: 16 bytes, or a description with its size in front. Raises FormatError."""
    what = "firmware blob"
    if len(data) == _BLOB.size:
        return FirmwareBlob("", *_BLOB.unpack(data))
    if not data or len(data) != 1 + data[0] + _BLOB.size:
        raise FormatError(what, "16 bytes, or a size, a description and 16 bytes", f"{len(data)} bytes")
    try:
        description = data[1 : 1 + data[0]].decode("ascii")
    except UnicodeDecodeError:
        raise FormatError(what, "a description in ASCII", "bytes that are not") from None
    return FirmwareBlob(description, *_BLOB.unpack_from(data, 1 + data[0]))


def ipl_text(data: bytes) -> str:
    """The text of an EV_IPL event: UTF-16 where every other byte is zero (systemd), else ASCII (GRUB, shim); "" for neither."""
    even = data[: len(data) // 2 * 2]
    wide = len(even) >= 4 and not any(even[1:64:2])
    try:
        text = even.decode("utf-16-le") if wide else data.decode("ascii")
    except UnicodeDecodeError:
        return ""
    text = text.rstrip("\0")
    return text if text.isprintable() else ""


def ipl_preimages(data: bytes) -> tuple[bytes, ...]:
    """What the digest of an EV_IPL event may be over, most likely first, where it is over its data at all.

    GRUB hashes a command or a command line without the `grub_cmd: ` or `kernel_cmdline: ` in front (older builds: without colon) and
    without the NUL; systemd-stub hashes its UTF-16 data as it is, or the name of a section in ASCII with a NUL; systemd-boot before
    253 logged one byte too few of its UTF-16.
    """
    bare = data.rstrip(b"\0")
    words = bare.partition(b": ")[2], bare.partition(b" ")[2]
    name = ipl_text(data)
    wide = (name.encode("ascii") + b"\0",) if name.isascii() and name else ()
    return (words[0], data, bare, words[1], *wide, data + b"\0")
