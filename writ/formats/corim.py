"""CoRIM: reference values, as one CoMID of ours, and as other makers publish them.

    501({0: "demo-1", 1: [506(<<comid>>)], 3: 32("tag:writ.invalid,2026:reference-values#1"), 4: {1: 1(1800000000)}})
    comid  {1: {0: "demo-1"}, 4: {0: [[{0: {1: "<namespace>", 2: "<environment>"}}, [measurement…]]]}}

A measurement is a component, `{0: "<name>", 1: {2: [[1, h'<SHA-256>']]}}`, or
the PCRs, `{1: {14: {<index>: [[1, h'<SHA-256>']]}}}`. Ours has one spelling.
`Corim` says which values were written down, not who approved them: that is
the signature over it and the delegation behind the key.

Source: draft-ietf-rats-corim-11: corim-map, concise-mid-tag, reference-triple-record, integrity-registers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import cbor2

from writ.formats.cose import SIGN1_TAG, Sign1, encode_sign1, parse_sign1
from writ.formats.digest import PCR_COUNT, Digest
from writ.formats.errors import FormatError
from writ.formats.keys import Signer
from writ.formats.strict import Fields, decode_cbor, encode_cbor, name

CONTENT_TYPE: Final = "application/rim+cbor"
PROFILE: Final = "tag:writ.invalid,2026:reference-values#1"
CORIM_META: Final = 8
"""COSE header label of corim-meta, bytes of CBOR."""

CORIM_TAG: Final = 501
COSWID_TAG: Final = 505
COMID_TAG: Final = 506
COTL_TAG: Final = 508
_URI_TAG: Final = 32
_TIME_TAG: Final = 1

MOST_MEASUREMENTS: Final = 65_536
MAX_SIZE: Final = 16 << 20

_ALGORITHMS: Final = {"sha256": 1, "sha384": 7, "sha512": 8}
"""IANA Named Information Hash Algorithm Registry."""
_ALGORITHM_NAMES: Final = {number: algorithm for algorithm, number in _ALGORITHMS.items()}
_SIGNED: Final = bytes((6 << 5 | SIGN1_TAG,))
"""How a tagged COSE_Sign1 begins: CBOR major type 6 and the tag, in one byte."""


@dataclass(frozen=True, slots=True)
class Corim:
    """The reference values of one environment (an agent, or a host's boot), as written down.

    `environment` is its name, a SPIFFE id for an agent. `components` is
    sorted by name, each name once; `registers` sorted by (index, bank), each
    once. `valid_until` is in seconds since the epoch, inclusive, or None.
    Constructing one that breaks this raises FormatError.
    """

    id: str
    namespace: str
    environment: str
    components: tuple[tuple[str, Digest], ...]
    registers: tuple[tuple[int, Digest], ...] = ()
    valid_until: int | None = None

    def __post_init__(self) -> None:
        f = Fields({"id": self.id, "environment": self.environment}, "CoRIM")
        f.text("id", least=1, most=256)
        f.text("environment", least=1)
        name(self.namespace, "CoRIM.namespace")
        names = [component for component, _ in self.components]
        places = [(index, digest.algorithm) for index, digest in self.registers]
        if names != sorted(set(names)) or places != sorted(set(places)):
            raise FormatError("CoRIM", "measurements sorted, each once", "another order")
        if not 1 <= len(names) + len(places) <= MOST_MEASUREMENTS:
            raise FormatError("CoRIM", f"1 to {MOST_MEASUREMENTS} measurements", f"{len(names) + len(places)}")
        for component in names:
            Fields({"name": component}, "CoRIM.components").text("name", least=1, most=512)
        for index, _ in self.registers:
            if not 0 <= index < PCR_COUNT:
                raise FormatError("CoRIM.registers", f"0 to {PCR_COUNT - 1}", str(index)[:40])
        for _, digest in (*self.components, *self.registers):
            if digest.algorithm not in _ALGORITHMS:
                raise FormatError("CoRIM", " or ".join(_ALGORITHMS), digest.algorithm)
        if self.valid_until is not None and not 0 <= self.valid_until < 1 << 63:
            raise FormatError("CoRIM.valid_until", "seconds since the epoch", str(self.valid_until)[:40])

    def to_json(self) -> dict[str, object]:
        """The view for people; nothing reads it back."""
        return {
            "id": self.id,
            "namespace": self.namespace,
            "environment": self.environment,
            "components": {component: str(digest) for component, digest in self.components},
            "registers": [{"index": index, "digest": str(digest)} for index, digest in self.registers],
            "valid_until": self.valid_until,
        }


@dataclass(frozen=True, slots=True)
class SignedCorim:
    """A signed CoRIM of ours as parsed: `cose.verify_sign1(signed.sign1, key)` is still to come."""

    sign1: Sign1
    corim: Corim
    signer_name: str


def encode_corim(corim: Corim) -> bytes:
    """The tagged unsigned CoRIM.

    A package has thousands of files, so the maps are written down in their
    deterministic order here, and not put into it by `encode_cbor`.
    """
    measurements: list[dict[int, Any]] = [{0: component, 1: {2: [_digest(digest)]}} for component, digest in corim.components]
    if corim.registers:
        registers: dict[int, list[object]] = {}
        for index, digest in corim.registers:
            registers.setdefault(index, []).append(_digest(digest))
        measurements.append({1: {14: registers}})
    environment = {0: {1: corim.namespace, 2: corim.environment}}
    comid = cbor2.dumps({1: {0: corim.id}, 4: {0: [[environment, measurements]]}})
    value: dict[int, object] = {0: corim.id, 1: [cbor2.CBORTag(COMID_TAG, comid)], 3: cbor2.CBORTag(_URI_TAG, PROFILE)}
    if corim.valid_until is not None:
        value[4] = {1: cbor2.CBORTag(_TIME_TAG, corim.valid_until)}
    return encode_cbor(cbor2.CBORTag(CORIM_TAG, value))


def _digest(digest: Digest) -> list[object]:
    return [_ALGORITHMS[digest.algorithm], digest.value]


def parse_corim(data: bytes) -> Corim:
    """Read what `encode_corim` writes, and no other spelling of it. Raises FormatError.

    1. The CoRIM map: profile, id, one CoMID, perhaps a validity.
    2. The CoMID: the same id, one reference triple.
    3. Its measurements: components, then perhaps the registers.
    4. Encoding the result gives `data` again: this one comparison stands for the spelling of both items.
    """
    tags = frozenset({CORIM_TAG, COMID_TAG, _URI_TAG, _TIME_TAG})
    value = decode_cbor(data, "CoRIM", max_size=MAX_SIZE, tags=tags, one_spelling=False)
    f = Fields(_tagged(value, CORIM_TAG, "CoRIM"), "CoRIM")
    if (profile := _tagged(f.any(3), _URI_TAG, "CoRIM.profile")) != PROFILE:
        raise FormatError("CoRIM.profile", PROFILE, repr(profile)[:80])
    corim_id = f.text(0, most=256)
    valid_until = None
    if f.has(4):
        validity = f.fields(4)
        valid_until = Fields({1: _tagged(validity.any(1), _TIME_TAG, "CoRIM.validity")}, "CoRIM.validity").uint(1)
        validity.done()
    comid = _only(f.items(1, most=1), "CoRIM.tags")
    f.done()
    namespace, environment, measurements = _reference_triple(_tagged(comid, COMID_TAG, "CoRIM.tags"), corim_id)
    components, registers = _measurements(measurements)
    corim = Corim(corim_id, namespace, environment, components, registers, valid_until)
    if encode_corim(corim) != data:
        raise FormatError("CoRIM", "the one spelling of these reference values", "another")
    return corim


def _tagged(value: object, tag: int, what: str) -> Any:
    if not isinstance(value, cbor2.CBORTag) or value.tag != tag:
        raise FormatError(what, f"tag {tag}", f"tag {value.tag}" if isinstance(value, cbor2.CBORTag) else type(value).__name__)
    return value.value


def _only(items: list[Any], what: str) -> Any:
    if len(items) != 1:
        raise FormatError(what, "one entry", f"{len(items)}")
    return items[0]


def _reference_triple(data: object, corim_id: str) -> tuple[str, str, list[Any]]:
    if not isinstance(data, bytes):
        raise FormatError("CoMID", "bytes", type(data).__name__)
    f = Fields(decode_cbor(data, "CoMID", max_size=MAX_SIZE, one_spelling=False), "CoMID")
    identity, triples = f.fields(1), f.fields(4)
    if (tag_id := identity.text(0, most=256)) != corim_id:
        raise FormatError("CoMID.tag-id", repr(corim_id), repr(tag_id))
    triple = _only(triples.items(0, most=1), "CoMID.reference-triples")
    if not isinstance(triple, list) or len(triple) != 2 or not isinstance(triple[1], list):
        raise FormatError("CoMID.reference-triples", "an environment and its measurements", type(triple).__name__)
    for part in (f, identity, triples):
        part.done()
    environment = Fields(triple[0], "CoMID.environment")
    kind = environment.fields(0)
    namespace, environment_name = kind.text(1), kind.text(2)
    kind.done()
    environment.done()
    return namespace, environment_name, triple[1]


def _measurements(items: list[Any]) -> tuple[tuple[tuple[str, Digest], ...], tuple[tuple[int, Digest], ...]]:
    components: list[tuple[str, Digest]] = []
    registers: list[tuple[int, Digest]] = []
    for item in items:
        f = Fields(item, "CoMID.measurement")
        values = f.fields(1)
        if f.has(0):
            components.append((f.text(0, most=512), _read_digest(_only(values.items(2, most=1), "CoMID.digests"))))
        else:
            for index, digests in values.mapping(14, most=PCR_COUNT).items():
                if not isinstance(index, int) or not isinstance(digests, list):
                    raise FormatError("CoMID.integrity-registers", "digests by PCR index", repr(index)[:40])
                registers.extend((index, _read_digest(digest)) for digest in digests)
        values.done()
        f.done()
    return tuple(components), tuple(registers)


def _read_digest(value: object) -> Digest:
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], int) or value[0] not in _ALGORITHM_NAMES:
        raise FormatError("CoMID.digest", f"[{' or '.join(map(str, _ALGORITHM_NAMES))}, bytes]", "another value")
    if not isinstance(value[1], bytes):
        raise FormatError("CoMID.digest", "bytes", type(value[1]).__name__)
    return Digest(_ALGORITHM_NAMES[value[0]], value[1])


# --- signed ------------------------------------------------------------------------------------------------------------


def sign_corim(corim: Corim, signer: Signer, *, signer_name: str) -> bytes:
    """The CoRIM in a COSE_Sign1 by `signer`, whose kid is the key's thumbprint."""
    return encode_sign1(
        encode_corim(corim),
        algorithm=signer.public.algorithm,
        kid=signer.public.thumbprint(),
        sign=signer.sign,
        content_type=CONTENT_TYPE,
        headers={CORIM_META: encode_cbor({0: {0: signer_name}})},
    )


def parse_signed_corim(data: bytes) -> SignedCorim:
    """Read what `sign_corim` writes; the signature is not verified. Raises FormatError."""
    sign1 = parse_sign1(data, known_labels=(CORIM_META,), what="signed CoRIM", max_size=MAX_SIZE)
    if sign1.headers.get(3) != CONTENT_TYPE:
        raise FormatError("signed CoRIM", f"content type {CONTENT_TYPE}", repr(sign1.headers.get(3))[:80])
    if sign1.unprotected or sign1.payload is None or CORIM_META not in sign1.headers:
        raise FormatError("signed CoRIM", "corim-meta, a payload and no unprotected header", "another shape")
    meta_bytes = Fields({8: sign1.headers[CORIM_META]}, "corim-meta").raw(8, most=1024)
    meta = Fields(decode_cbor(meta_bytes, "corim-meta"), "corim-meta")
    signer = meta.fields(0)
    signer_name = signer.text(0, least=1, most=256)
    signer.done()
    meta.done()
    return SignedCorim(sign1, parse_corim(sign1.payload), signer_name)


def is_signed(data: bytes) -> bool:
    """Whether `data` begins as a signed CoRIM does; it may still be none."""
    return data.startswith(_SIGNED)


def read_corim(data: bytes) -> Corim:
    """The CoRIM of ours in `data`, signed or not; a signature is not verified. Raises FormatError."""
    return parse_signed_corim(data).corim if is_signed(data) else parse_corim(data)


# --- of other makers ---------------------------------------------------------------------------------------------------

_FOREIGN_TAGS: Final = frozenset({_TIME_TAG, _URI_TAG, 37, 111, *range(CORIM_TAG, 510), *range(550, 600)})
_FOREIGN_LABELS: Final = (CORIM_META, 33, 34, 258, 259, 260)
"""corim-meta, x5chain, x5t, and the COSE hash envelope."""
_FOREIGN_DIGEST_SIZES: Final = {1: 32, 6: 4, 7: 48, 8: 64, 10: 32, 11: 48, 12: 64}
"""By number in the IANA Named Information Hash Algorithm Registry; sizes of others are not ours to know."""
_MOST_TAGS: Final = 1024

REFERENCE_TRIPLES: Final = 0
ENDORSED_TRIPLES: Final = 1
ATTEST_KEY_TRIPLES: Final = 3

PSA: Final = "tag:arm.com,2025:psa#1.0.0"
CCA_PLATFORM: Final = "tag:arm.com,2025:cca_platform#1.0.0"
CCA_REALM: Final = "tag:arm.com,2025:cca_realm#1.0.0"
_CLASS_ID_SIZES: Final = {PSA: (32,), CCA_PLATFORM: (32,), CCA_REALM: (32, 48, 64)}
"""Bytes of the implementation id, or of the realm's initial measurement (the profiles of Arm)."""


@dataclass(frozen=True, slots=True)
class ForeignComid:
    """What a CoMID holds: its id and, for each kind of triple by number, how many; and the measurement keys that are text."""

    id: str
    triples: tuple[tuple[int, int], ...]
    measurement_keys: frozenset[str]
    digests: int


@dataclass(frozen=True, slots=True)
class ForeignCorim:
    """A CoRIM of another maker, read structurally. Says neither that it is signed by whom one trusts nor what it means.

    `sign1` is the envelope, None for an unsigned CoRIM; `id` is text, or a
    UUID in hex. `coswids` and `cotls` count the tags of those kinds.
    """

    id: str
    profile: str | None
    comids: tuple[ForeignComid, ...]
    coswids: int
    cotls: int
    sign1: Sign1 | None


def parse_foreign_corim(data: bytes, *, max_size: int = MAX_SIZE) -> ForeignCorim:
    """Read a CoRIM of any maker: signed (tag 18) or unsigned (tag 501), in any order and with any lengths.

    1. The envelope, where there is one: COSE_Sign1 of content type `application/rim+cbor`, bytes kept.
    2. The CoRIM map: id, at least one tag of a known kind, a profile; extensions are passed over.
    3. Each CoMID: identity, at least one triple, each of the shape of its kind, digests of their size.
    4. The rules of the profiles we know: Arm PSA, CCA platform, CCA realm.

    Raises FormatError.
    """
    sign1 = None
    if is_signed(data):
        sign1 = parse_sign1(data, foreign=True, known_labels=_FOREIGN_LABELS, what="signed CoRIM", max_size=max_size)
        if sign1.payload is None or sign1.headers.get(3) != CONTENT_TYPE:
            raise FormatError("signed CoRIM", f"a payload of {CONTENT_TYPE}", repr(sign1.headers.get(3))[:80])
        data = sign1.payload
    value = decode_cbor(data, "CoRIM", max_size=max_size, tags=_FOREIGN_TAGS, one_spelling=False)
    f = Fields(_tagged(value, CORIM_TAG, "CoRIM"), "CoRIM")
    profile = _foreign_profile(f.any(3)) if f.has(3) else None
    corim_id = _foreign_id(f.any(0), "CoRIM.id")
    comids: list[ForeignComid] = []
    others = {COSWID_TAG: 0, COTL_TAG: 0}
    for tag in _nonempty(f.items(1, most=_MOST_TAGS), "CoRIM.tags"):
        if not isinstance(tag, cbor2.CBORTag) or not isinstance(tag.value, bytes):
            raise FormatError("CoRIM.tags", "tagged bytes", type(tag).__name__)
        if tag.tag == COMID_TAG:
            comids.append(parse_foreign_comid(tag.value, profile=profile, max_size=max_size))
        elif tag.tag in others:
            others[tag.tag] += 1
        else:
            raise FormatError("CoRIM.tags", "a CoMID, CoSWID or CoTL", f"tag {tag.tag}")
    return ForeignCorim(corim_id, profile, tuple(comids), others[COSWID_TAG], others[COTL_TAG], sign1)


def parse_foreign_comid(data: bytes, *, profile: str | None = None, max_size: int = MAX_SIZE) -> ForeignComid:
    """Read a CoMID of any maker, under the rules of `profile` where they are known. Raises FormatError."""
    value = decode_cbor(data, "CoMID", max_size=max_size, tags=_FOREIGN_TAGS, one_spelling=False)
    f = Fields(value, "CoMID")
    comid_id = _foreign_id(f.fields(1).any(0), "CoMID.tag-id")
    triples = _nonempty(f.mapping(4, most=64), "CoMID.triples")
    keys: set[str] = set()
    digests = 0
    for kind, items in triples.items():
        if not isinstance(kind, int) or not isinstance(items, list):
            raise FormatError("CoMID.triples", "arrays by number", repr(kind)[:40])
        for triple in _nonempty(items, f"CoMID.triples.{kind}"):
            if not isinstance(triple, list) or len(triple) < 2:
                raise FormatError(f"CoMID.triples.{kind}", "arrays of two or more", type(triple).__name__)
            if kind in (REFERENCE_TRIPLES, ENDORSED_TRIPLES, ATTEST_KEY_TRIPLES):
                _foreign_environment(triple[0], profile)
            if kind in (REFERENCE_TRIPLES, ENDORSED_TRIPLES):
                digests += sum(_foreign_measurement(item, keys) for item in _nonempty(triple[1], "CoMID.measurements"))
            if kind == ATTEST_KEY_TRIPLES and profile in (PSA, CCA_PLATFORM) and len(_nonempty(triple[1], "CoMID.keys")) != 1:
                raise FormatError("CoMID.attest-key-triples", "one key", f"{len(triple[1])}")
    if profile == CCA_REALM and "cca.rim" not in keys:
        raise FormatError("CoMID.measurements", "a measurement under cca.rim", "none")
    return ForeignComid(comid_id, tuple(sorted((kind, len(items)) for kind, items in triples.items())), frozenset(keys), digests)


def _nonempty(value: Any, what: str) -> Any:
    if not isinstance(value, list | dict) or not value:
        raise FormatError(what, "at least one entry", "none" if isinstance(value, list | dict) else type(value).__name__)
    return value


def _foreign_id(value: object, what: str) -> str:
    if isinstance(value, cbor2.CBORTag) and value.tag == 37:
        value = value.value
    if isinstance(value, bytes):
        return Fields({"id": value}, what).raw("id", size=16).hex()
    return Fields({"id": value}, what).text("id", least=1)


def _foreign_profile(value: object) -> str:
    if isinstance(value, cbor2.CBORTag) and value.tag == 111:
        return "oid:" + Fields({3: value.value}, "CoRIM.profile").raw(3, most=128).hex()
    if isinstance(value, cbor2.CBORTag) and value.tag == _URI_TAG:
        value = value.value
    return Fields({3: value}, "CoRIM.profile").text(3, least=1)


def _foreign_environment(value: object, profile: str | None) -> None:
    environment = Fields(_nonempty(value, "CoMID.environment"), "CoMID.environment")
    if profile not in _CLASS_ID_SIZES:
        return
    class_id = _tagged(environment.fields(0).any(0), 560, "CoMID.class-id")
    if not isinstance(class_id, bytes) or len(class_id) not in _CLASS_ID_SIZES[profile]:
        raise FormatError("CoMID.class-id", f"{' or '.join(map(str, _CLASS_ID_SIZES[profile]))} bytes", "another size")


def _foreign_measurement(value: object, keys: set[str]) -> int:
    """How many digests the measurement has; its key goes into `keys` where it is text."""
    f = Fields(value, "CoMID.measurement")
    if f.has(0) and isinstance(key := f.any(0), str):
        keys.add(key)
    values = _nonempty(f.any(1), "CoMID.measurement-values")
    lists = [values[2]] if 2 in values else []
    if 14 in values:
        lists += _nonempty(values[14], "CoMID.integrity-registers").values()
    for digests in lists:
        for digest in _nonempty(digests, "CoMID.digests"):
            if not isinstance(digest, list) or len(digest) != 2 or not isinstance(digest[1], bytes):
                raise FormatError("CoMID.digest", "[algorithm, bytes]", type(digest).__name__)
            size = _FOREIGN_DIGEST_SIZES.get(digest[0]) if isinstance(digest[0], int) else None
            if size is not None and len(digest[1]) != size:
                raise FormatError("CoMID.digest", f"{size} bytes for algorithm {digest[0]}", f"{len(digest[1])} bytes")
    return sum(len(digests) for digests in lists)
