"""EAR, the EAT Attestation Result: what a verifier found, in AR4SI tiers, one submodule for each kind of evidence.

    {265: "tag:ietf.org,2026:rats/ear#04", 6: 1700000000, 1000: 96, 1004: {0: "writ", 1: "0.1"},
     266: {"runtime": {1000: 96, 1001: {2: 96}, 1003: ["sha256:…"], -70100: [["component-mismatch", …]]}}}

One table holds every claim's name (JSON) and number (CBOR). An `Ear` says what
bytes say; that a verifier of ours found it is another type (`writ.verdict`).

>>> tier_of(2), tier_of(-1), tier_of(99)
('affirming', 'none', 'contraindicated')

Source: draft-ietf-rats-ear-04; draft-ietf-rats-ar4si-09 section 2.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from writ.formats.errors import FormatError
from writ.formats.reason import Reason
from writ.formats.state import TPM_CLASSES
from writ.formats.strict import Fields, b64url, decode_cbor, decode_json, encode_cbor, encode_json, parse_b64url

PROFILE: Final = "tag:ietf.org,2026:rats/ear#04"

CLAIMS: Final[dict[str, int]] = {
    "iat": 6,
    "exp": 4,
    "eat_nonce": 10,
    "eat_profile": 265,
    "submods": 266,
    "ear_status": 1000,
    "ear_trustworthiness_vector": 1001,
    "ear_raw_evidence": 1002,
    "ear_appraisal_policy_ids": 1003,
    "ear_verifier_id": 1004,
    "writ_reasons": -70100,
    "writ_runtime_only": -70101,
    "writ_tpm_class": -70102,
    "writ_epoch": -70103,
    "writ_clock_safe": -70104,
    "writ_salt": -70105,
}
"""Name in JSON -> key in CBOR. Ours are private claims, below -65536 (RFC 8392 section 9.1)."""

STATUS: Final[dict[str, int]] = {"none": 0, "affirming": 2, "warning": 32, "contraindicated": 96}
"""Tier -> its number; a larger number is worse."""

VECTOR: Final[dict[str, int]] = {
    "instance-identity": 0,
    "configuration": 1,
    "executables": 2,
    "file-system": 3,
    "hardware": 4,
    "runtime-opaque": 5,
    "storage-opaque": 6,
    "sourced-data": 7,
}

EPOCHS: Final = ("first", "forked", "rebooted", "resumed", "same")
"""Where a TPM's counters stand after those of the attestation before."""

_VERIFIER: Final = {"developer": 0, "build": 1}
_MOST_SUBMODULES: Final = 300
_MOST_REASONS: Final = 1024


def tier_of(value: int) -> str:
    """The AR4SI tier of one trustworthiness claim, -128 to 127 (draft-ietf-rats-ar4si-09 section 2.3.2)."""
    if not -128 <= value <= 127:
        raise FormatError("trustworthiness claim", "-128 to 127", str(value)[:40])
    if -1 <= value <= 1:
        return "none"
    if -32 <= value <= 31:
        return "affirming"
    return "warning" if -96 <= value <= 95 else "contraindicated"


def worst(*statuses: str) -> str:
    """The worst of the tiers named, "none" of nothing."""
    return max(statuses, key=STATUS.__getitem__, default="none")


@dataclass(frozen=True, slots=True)
class Submodule:
    """The appraisal of one kind of evidence.

    `status` is never better than the worst claim of `vector`, which holds
    (name, value) in the order of `VECTOR`. `policy_ids` names by what was
    appraised and may be empty. `epoch`, of `EPOCHS`, and `clock_safe` are the TPM's: not safe is a clock that may have lost time in
    a power cut, which is a name for a state and no accusation. Constructing one that breaks this raises FormatError.
    """

    status: str
    vector: tuple[tuple[str, int], ...] = ()
    policy_ids: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    runtime_only: bool = False
    epoch: str | None = None
    clock_safe: bool | None = None

    def __post_init__(self) -> None:
        _known("ear_status", self.status, STATUS)
        if self.epoch is not None:
            _known("EAR.writ_epoch", self.epoch, EPOCHS)
        for name, _ in self.vector:
            _known("trustworthiness claim", name, VECTOR)
        if list(dict(self.vector)) != sorted(dict(self.vector), key=VECTOR.__getitem__) or len(dict(self.vector)) != len(self.vector):
            raise FormatError("ear_trustworthiness_vector", "each claim once, in the order of their numbers", "another order")
        least = worst(*(tier_of(value) for _, value in self.vector))
        if STATUS[self.status] < STATUS[least]:
            raise FormatError("ear_status", f"{least} or worse, as the vector has it", self.status)

    def claim(self, name: str) -> int | None:
        """The value of one trustworthiness claim, where it was made."""
        return dict(self.vector).get(name)


def submodule(
    vector: Mapping[str, int],
    *,
    policy_ids: tuple[str, ...] = (),
    reasons: tuple[Reason, ...] = (),
    runtime_only: bool = False,
    epoch: str | None = None,
    clock_safe: bool | None = None,
) -> Submodule:
    """The Submodule whose status is the worst tier in `vector`; reasons sorted, each once."""
    ordered = tuple((name, vector[name]) for name in VECTOR if name in vector)
    if len(ordered) != len(vector):
        raise FormatError("ear_trustworthiness_vector", "known claims", ", ".join(sorted(set(vector) - set(VECTOR))))
    status = worst(*(tier_of(value) for _, value in ordered))
    return Submodule(status, ordered, policy_ids, tuple(sorted(set(reasons))), runtime_only, epoch, clock_safe)


@dataclass(frozen=True, slots=True)
class Ear:
    """An attestation result as its bytes say it. Does not prove that an appraisal took place.

    Times are seconds since the epoch. `submodules` is sorted by name, one to
    300 of them; `status`, where given, is not better than the worst of them.
    `salt` is there where reasons name files: the digest of a result is public,
    and says nothing then to whoever tries names.
    """

    verifier_developer: str
    verifier_build: str
    iat: int
    submodules: tuple[tuple[str, Submodule], ...]
    status: str | None = None
    exp: int | None = None
    nonce: bytes | None = None
    raw_evidence: bytes | None = None
    tpm_class: str | None = None
    salt: bytes | None = None

    def __post_init__(self) -> None:
        names = [name for name, _ in self.submodules]
        if not 1 <= len(names) <= _MOST_SUBMODULES or names != sorted(set(names)):
            raise FormatError("EAR.submods", f"1 to {_MOST_SUBMODULES} submodules, sorted, each once", f"{len(names)}")
        if self.nonce is not None and not 8 <= len(self.nonce) <= 64:
            raise FormatError("EAR.eat_nonce", "8 to 64 bytes", f"{len(self.nonce)} bytes")
        if self.salt is not None and len(self.salt) != 16:
            raise FormatError("EAR.writ_salt", "16 bytes", f"{len(self.salt)} bytes")
        if self.tpm_class is not None:
            _known("EAR.writ_tpm_class", self.tpm_class, TPM_CLASSES)
        if self.status is not None:
            _known("EAR.ear_status", self.status, STATUS)
            least = worst(*(sub.status for _, sub in self.submodules))
            if STATUS[self.status] < STATUS[least]:
                raise FormatError("EAR.ear_status", f"{least} or worse, as a submodule has it", self.status)

    def submodule(self, name: str) -> Submodule | None:
        """The submodule called `name`, where there is one."""
        return dict(self.submodules).get(name)


def _known(what: str, value: str, table: Mapping[str, int] | tuple[str, ...]) -> None:
    if value not in table:
        raise FormatError(what, " or ".join(table), repr(value)[:80])


# --- the two spellings -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Spelling:
    """How CBOR and JSON differ: keys by number or name, bytes as such or in base64url."""

    binary: bool

    def key(self, name: str) -> str | int:
        return CLAIMS[name] if self.binary else name

    def map(self, values: Mapping[str, object], numbers: Mapping[str, int]) -> dict[Any, object]:
        return {numbers[name] if self.binary else name: value for name, value in values.items() if value is not None}

    def raw(self, value: bytes | None) -> object:
        return value if self.binary or value is None else b64url(value)

    def status(self, value: str | None) -> object:
        return STATUS[value] if self.binary and value is not None else value

    def read_raw(self, f: Fields, name: str) -> bytes | None:
        if not f.has(self.key(name)):
            return None
        return f.raw(self.key(name)) if self.binary else parse_b64url(f.text(self.key(name), most=1 << 20), f"EAR.{name}")

    def read_status(self, f: Fields) -> str:
        key = self.key("ear_status")
        if not self.binary:
            return f.text(key, most=32)
        number = f.uint(key, most=255)
        for name, value in STATUS.items():
            if value == number:
                return name
        raise FormatError("EAR.ear_status", " or ".join(str(value) for value in STATUS.values()), str(number))


_CBOR: Final = _Spelling(binary=True)
_JSON: Final = _Spelling(binary=False)


def encode_ear_cbor(ear: Ear) -> bytes:
    """The claims set in deterministic CBOR, as the payload of a CWT."""
    return encode_cbor(_claims(ear, _CBOR))


def encode_ear_json(ear: Ear) -> bytes:
    """The claims set in JSON, as the payload of a JWT."""
    return encode_json(_claims(ear, _JSON))


def parse_ear_cbor(data: bytes) -> Ear:
    """Read what `encode_ear_cbor` writes. Raises FormatError, also for any other profile."""
    return _ear(decode_cbor(data, "EAR"), _CBOR)


def parse_ear_json(data: bytes) -> Ear:
    """Read what `encode_ear_json` writes. Raises FormatError, also for any other profile."""
    return _ear(decode_json(data, "EAR", one_spelling=True), _JSON)


def _claims(ear: Ear, s: _Spelling) -> dict[Any, object]:
    values: dict[str, object] = {
        "eat_profile": PROFILE,
        "iat": ear.iat,
        "exp": ear.exp,
        "eat_nonce": s.raw(ear.nonce),
        "ear_status": s.status(ear.status),
        "ear_raw_evidence": s.raw(ear.raw_evidence),
        "ear_verifier_id": s.map({"developer": ear.verifier_developer, "build": ear.verifier_build}, _VERIFIER),
        "submods": {name: _sub_claims(sub, s) for name, sub in ear.submodules},
        "writ_tpm_class": ear.tpm_class,
        "writ_salt": s.raw(ear.salt),
    }
    return s.map(values, CLAIMS)


def _sub_claims(sub: Submodule, s: _Spelling) -> dict[Any, object]:
    values: dict[str, object] = {
        "ear_status": s.status(sub.status),
        "ear_trustworthiness_vector": s.map(dict(sub.vector), VECTOR) or None,
        "ear_appraisal_policy_ids": list(sub.policy_ids) or None,
        "writ_reasons": [reason.to_cbor() for reason in sub.reasons] or None,
        "writ_runtime_only": sub.runtime_only or None,
        "writ_epoch": sub.epoch,
        "writ_clock_safe": sub.clock_safe,
    }
    return s.map(values, CLAIMS)


def _ear(value: object, s: _Spelling) -> Ear:
    f = Fields(value, "EAR")
    if (profile := f.text(s.key("eat_profile"), most=256)) != PROFILE:
        raise FormatError("EAR.eat_profile", PROFILE, repr(profile)[:80])
    verifier = f.fields(s.key("ear_verifier_id"))
    developer, build = (verifier.text(number if s.binary else name, least=1, most=256) for name, number in _VERIFIER.items())
    verifier.done()
    submods = f.mapping(s.key("submods"), most=_MOST_SUBMODULES)
    if not all(isinstance(name, str) and 1 <= len(name) <= 64 for name in submods):
        raise FormatError("EAR.submods", "names of 1 to 64 characters", "another name")
    ear = Ear(
        verifier_developer=developer,
        verifier_build=build,
        iat=f.uint(s.key("iat")),
        submodules=tuple((name, _submodule(submods[name], s)) for name in sorted(submods)),
        status=s.read_status(f) if f.has(s.key("ear_status")) else None,
        exp=f.uint(s.key("exp")) if f.has(s.key("exp")) else None,
        nonce=s.read_raw(f, "eat_nonce"),
        raw_evidence=s.read_raw(f, "ear_raw_evidence"),
        tpm_class=f.text(s.key("writ_tpm_class"), most=16) if f.has(s.key("writ_tpm_class")) else None,
        salt=s.read_raw(f, "writ_salt"),
    )
    f.done()
    return ear


def _submodule(value: object, s: _Spelling) -> Submodule:
    f = Fields(value, "EAR.submods")
    status = s.read_status(f)
    vector: tuple[tuple[str, int], ...] = ()
    if f.has(key := s.key("ear_trustworthiness_vector")):
        vector = _vector(f.mapping(key, most=len(VECTOR)), s)
    ids: tuple[str, ...] = ()
    if f.has(key := s.key("ear_appraisal_policy_ids")):
        ids = tuple(_policy_id(item) for item in _nonempty(f.items(key, most=16), "ear_appraisal_policy_ids"))
    reasons: tuple[Reason, ...] = ()
    if f.has(key := s.key("writ_reasons")):
        reasons = tuple(Reason.from_cbor(item) for item in _nonempty(f.items(key, most=_MOST_REASONS), "writ_reasons"))
        if list(reasons) != sorted(set(reasons)):
            raise FormatError("EAR.writ_reasons", "sorted reasons, each once", "another order")
    runtime_only = False
    if f.has(key := s.key("writ_runtime_only")):
        runtime_only = f.flag(key)
        if not runtime_only:
            raise FormatError("EAR.writ_runtime_only", "true, or no such claim", "false")
    epoch = f.text(key, most=16) if f.has(key := s.key("writ_epoch")) else None
    clock_safe = f.flag(key) if f.has(key := s.key("writ_clock_safe")) else None
    f.done()
    return Submodule(status, vector, ids, reasons, runtime_only, epoch, clock_safe)


def _vector(value: dict[Any, Any], s: _Spelling) -> tuple[tuple[str, int], ...]:
    names: dict[Any, str] = {number if s.binary else name: name for name, number in VECTOR.items()}
    found: dict[str, int] = {}
    for key, claim in _nonempty(value, "ear_trustworthiness_vector").items():
        if key not in names or isinstance(claim, bool) or not isinstance(claim, int):
            raise FormatError("EAR.ear_trustworthiness_vector", "known claims with integers", repr(key)[:80])
        found[names[key]] = claim
    return tuple((name, found[name]) for name in VECTOR if name in found)


def _nonempty(value: Any, what: str) -> Any:
    if not value:
        raise FormatError(f"EAR.{what}", "at least one entry, or no such claim", "none")
    return value


def _policy_id(value: object) -> str:
    f = Fields({"id": value}, "EAR.ear_appraisal_policy_ids")
    return f.text("id", least=1)
