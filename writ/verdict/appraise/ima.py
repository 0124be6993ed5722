"""The IMA list against reference values and rules: which files ran or were read, and which of them no one approved.

The list is believed only as far as it replays to the quoted PCR 10. What the
kernel measured is told by its rules (the IMA policy), and a path is what the
kernel saw: that all of an application was measured is not shown here.

Reference values are components of CoRIMs whose environment begins with
`files/`: `/usr/bin/x` names the hash of a file's content, `verity:/usr/bin/x`
its fs-verity digest, any other name a buffer of the kernel's own (`kexec-cmdline`,
critical data). Several CoRIMs may name one path, and each of the digests passes.
The components of `rooted/<part>`, a part being one of `PARTS`, are approved for that
part: a file that several parts name passes with a digest that each of them has. Of each
part one version must have been measured whole before a runtime is rooted. Where there
never were reference values, and there are no keys, files are not compared with anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from writ.formats.corim import Corim
from writ.formats.digest import SIZES, Digest, hash_bytes
from writ.formats.errors import FormatError
from writ.formats.eventlog.ima import BOOT_AGGREGATE, MAX_ENTRIES, Measured, Replayed, is_padded, parse_row, replay
from writ.formats.ima_rules import ImaRules
from writ.formats.ima_signature import Key, judge_signature, keys_of
from writ.formats.ima_state import MAX_KEYS, MAX_REASONS, ImaState, ImaVerdict
from writ.formats.reason import Reason
from writ.formats.strict import encode_cbor
from writ.formats.x509 import MAX_CERTIFICATE

ENVIRONMENT: Final = "files/"
"""How the environments begin whose components are files."""
ROOTED: Final = "rooted/"
"""How the environments begin whose components are the files of a part of Writ, or of what runs it: approved, and required."""
PARTS: Final = ("attestor", "enforcer", "ima-policy", "interpreter", "launcher")
"""What `rooted/<part>` reference values must name before a runtime is rooted (DESIGN, step 4), and may name."""
ROOTED_PARTS: Final = frozenset(f"{ROOTED}{part}" for part in PARTS)
VERITY: Final = "verity:"
STRONG: Final = ("sha256", "sha384", "sha512")
KERNEL_KEYRING: Final = b".ima"
"""The keyring whose keys the kernel takes for file signatures, as an ima-buf entry names it."""
_NOTHING: Final = bytes(4)

_Finding = tuple[str, str, str, str]


@dataclass(slots=True)
class _Judged:
    """Of some rows: one finding for each that does not pass, the keys learnt so far, sorted, and the required files among them."""

    findings: list[_Finding]
    keys: tuple[bytes, ...]
    seen: set[tuple[str, str]]


_File = tuple[str, bytes]
_Measurement = tuple[str, bytes, str, bytes]
_Required = tuple[tuple[str, str], ...]
_Approved = Mapping[_File, frozenset[tuple[str, bytes]]]


@dataclass(frozen=True, slots=True)
class ImaReferences:
    """The approved files, indexed once for every host: by (kind, name) their digests, and the bytes of entries that pass as they are.

    `required` are the files that root a runtime, as (component, digest): the kernel spells some names alike, so that one entry may
    stand for several. `rooting` are the same by the bytes of their entries. `parts` are the names of such files, those of versions
    that approve nothing any more among them: they are approved as such, or not at all. `pinned` are these and the names of all such
    versions: no signature serves for them. `compared` says whether files are held against anything.
    `digest` names the set; two sets of the same files have the same.
    """

    digest: Digest
    approved: _Approved
    entries: frozenset[bytes]
    required: Mapping[_Measurement, _Required]
    rooting: Mapping[bytes, _Required]
    parts: frozenset[bytes]
    pinned: frozenset[bytes]
    compared: bool


@dataclass(frozen=True, slots=True)
class ImaResult:
    """What the list is worth, and what follows.

    `reasons` is sorted and holds the first 64 (and what stands against the list
    as a whole); `count` is how many entries did not pass. `covered` entries are
    vouched for by the quote; `tail` bytes behind them were not looked at.
    Where the list does not continue what is known, `state` is the one given.
    """

    state: ImaState | None
    reasons: tuple[Reason, ...]
    count: int
    covered: int
    tail: int


def index_files(corims: Iterable[Corim], lapsed: Iterable[Corim] = ()) -> ImaReferences:
    """The files that `corims` approve, those that root a runtime among them. Other environments are left out.

    `lapsed` ran out: they approve nothing, and do not end the comparison either. Nor do versions that no rule reads: of a part that is
    none, or with PCRs, which no file has.
    """
    given = list(filter(names_files, corims))
    valid = list(filter(_approves, given))
    gone = [*(corim for corim in given if not _approves(corim)), *filter(names_files, lapsed)]
    files: dict[_File, set[tuple[str, bytes]]] = {}
    parts: dict[str, dict[_File, set[tuple[str, bytes]]]] = {}
    required: dict[_Measurement, set[tuple[str, str]]] = {}
    for corim in valid:
        rooting = _is_part(corim)
        found = parts.setdefault(corim.environment, {}) if rooting else files
        for component, digest in corim.components:
            file = _file_of(component)
            found.setdefault(file, set()).add((digest.algorithm, digest.value))
            if rooting:
                required.setdefault((*file, digest.algorithm, digest.value), set()).add((component, str(digest)))
    naming: dict[bytes, set[str]] = {}
    for corim in filter(_is_part, (*valid, *gone)):
        for component, _ in corim.components:
            naming.setdefault(_file_of(component)[1], set()).add(corim.environment)
    names = frozenset(naming)
    pinned = names.union(_file_of(component)[1] for corim in gone for component, _ in corim.components)
    # A file of a part is approved as such only, and by each part that names it: who approves others approves no other attestor.
    passing = {file: digests for file, digests in files.items() if file[1] not in names}
    for file in {file for found in parts.values() for file in found}:
        if common := set.intersection(*(parts.get(part, {}).get(file, set()) for part in naming[file[1]])):
            passing[file] = common
    approved = {file: frozenset(digests) for file, digests in sorted(passing.items())}
    entries = frozenset(
        _body(name, algorithm, value) for (kind, name), digests in approved.items() for algorithm, value in digests if kind == "ima"
    )
    whole = {measured: tuple(sorted(components)) for measured, components in sorted(required.items())}
    bodies = {_body(name, algorithm, value): files for (kind, name, algorithm, value), files in whole.items() if kind == "ima"}
    digest = Digest.of(encode_cbor([
        [[kind, name, algorithm, value] for (kind, name), digests in approved.items() for algorithm, value in sorted(digests)],
        [[*measured, [list(file) for file in files]] for measured, files in whole.items()],
        sorted(names), sorted(pinned), bool(valid or gone),
    ]))  # fmt: skip
    return ImaReferences(digest, approved, entries, whole, bodies, names, pinned, bool(valid or gone))


def names_files(corim: Corim) -> bool:
    """Whether the components of `corim` are files."""
    return corim.environment.startswith((ROOTED, ENVIRONMENT))


def _is_part(corim: Corim) -> bool:
    return corim.environment in ROOTED_PARTS


def _approves(corim: Corim) -> bool:
    return not corim.registers and (corim.environment.startswith(ENVIRONMENT) or _is_part(corim))


def _file_of(component: str) -> _File:
    """The file that a component names. The kernel writes a space in a name as "_"."""
    kind, name = ("verity", component.removeprefix(VERITY)) if component.startswith(VERITY) else ("ima", component)
    return kind, name.replace(" ", "_").encode()


def _body(name: bytes, algorithm: str, value: bytes) -> bytes:
    """The fields d-ng and n-ng of a file, as every template but "ima" has them."""
    digest = algorithm.encode() + b":\0" + value
    return len(digest).to_bytes(4, "little") + digest + (len(name) + 1).to_bytes(4, "little") + name + b"\0"


# --- the list ------------------------------------------------------------------------------------------------------------


def appraise_ima(
    state: ImaState | None,
    log: bytes,
    first: int,
    quoted: bytes,
    bank: str,
    references: ImaReferences,
    rules: ImaRules,
    *,
    boot: Mapping[int, bytes],
) -> ImaResult:
    """Judge the binary list `log`, whose first entry is number `first`, up to the prefix that replays to `quoted`.

    `state` is of the same boot, or None for a new one; `boot` are the values of
    PCRs 0 to 9 in `bank`.

    1. Nothing new and the same references and rules: the verdict reached before.
    2. The list continues the one known, or is whole and passes through what is known. Under other references or rules it must be
       whole, since what was measured before is judged anew.
    3. It replays to the quote; what is behind that is neither trusted nor an error.
    4. New entries are judged.
    5. A whole list begins with the aggregate of this boot's PCRs.

    Source: DESIGN step 3 (Attest); Linux security/integrity/ima, as in `writ/formats/eventlog/ima.py`.
    """
    # 1
    same = state is not None and (state.verdict.references, state.verdict.rules) == (references.digest, rules.digest)
    if state is not None and same and state.register == quoted and first == state.entries and state.bank == bank:
        return ImaResult(state, state.verdict.reasons, state.verdict.count, state.entries, len(log))
    # 2, 3
    resumes = state is not None and first == state.entries and state.bank == bank
    if state is not None and resumes and not same:
        asked = Reason("ima-log-required", "ima.references", "the list from its first entry, for other reference values", f"entry {first}")
        return ImaResult(state, (asked,), 0, 0, len(log))
    read = _read(state if resumes else None, state, log, first, quoted, bank)
    if isinstance(read, Reason):
        return ImaResult(state, (read,), 0, 0, len(log))
    # 4
    if state is not None and resumes:
        found = _judge(read.rows, read.violated, references, rules, state.keys, state.aggregate)
        entries, violations = state.entries + read.entries, state.violations + read.violations
        aggregate, standing, count, seen = state.aggregate, state.verdict.reasons, state.verdict.count, state.seen
    else:
        # 5
        aggregate = _aggregate(read.rows)
        found = _judge(read.rows, read.violated, references, rules, (), aggregate)
        entries, violations, seen = read.entries, read.violations, ()
        standing = _boot_aggregate(aggregate, bank, boot)
        count = len(standing)
    reasons = tuple(sorted({*standing, *_reasons(found.findings)})[:MAX_REASONS])
    verdict = ImaVerdict(references.digest, rules.digest, reasons, count + len(found.findings))
    after = ImaState(bank, entries, quoted, violations, aggregate, found.keys, tuple(sorted({*seen, *found.seen})), verdict)
    return ImaResult(after, reasons, verdict.count, entries, len(log) - read.end)


def judge_rows(
    rows: tuple[bytes, ...], violated: tuple[bytes, ...], references: ImaReferences, rules: ImaRules
) -> tuple[tuple[Reason, ...], tuple[tuple[str, str], ...]]:
    """What stands against these rows of a whole list, the first 64 reasons sorted, and which of the required files are among them.

    The list was appraised before: this is for asking what other reference values would say of it.
    """
    found = _judge(rows, violated, references, rules, (), _aggregate(rows))
    return _reasons(found.findings), tuple(sorted(found.seen))


def _read(resumed: ImaState | None, known: ImaState | None, log: bytes, first: int, quoted: bytes, bank: str) -> Replayed | Reason:
    """The prefix that replays: of a list that resumes, or of a whole one that passes through what is known; or why not."""
    if resumed is not None:
        return _replay(log, resumed.register, bank, quoted, MAX_ENTRIES - resumed.entries)
    if first != 0:
        expected = "entry 0" if known is None else f"entry 0 or {known.entries}"
        return Reason("ima-log-rewound" if known is not None else "ima-log-required", "ima.first", expected, f"entry {first}")
    whole = _replay(log, bytes(SIZES[bank]), bank, quoted, MAX_ENTRIES)
    if isinstance(whole, Reason):
        return whole
    if whole.entries == 0:
        return Reason("ima-log-mismatch", "ima.pcr10", "a register that the list extended", "zero")
    if known is not None and known.bank == bank:
        through = _replay(log, bytes(SIZES[bank]), bank, known.register, known.entries)
        if isinstance(through, Reason) or through.entries != known.entries or through.end > whole.end:
            return Reason("ima-log-rewound", "ima.entries", f"a list through entry {known.entries} as known", f"another of {whole.entries}")
    return whole


def measured_files(rows: tuple[bytes, ...]) -> dict[str, list[str]]:
    """What rows say, as reference values name it: component -> digests, sorted; the boot aggregate, which every boot has its own, left out.

    Digests that no reference value can be (SHA-1, unknown ones) and rows that cannot be read are left out too.
    """
    found: dict[str, set[str]] = {}
    for row in rows:
        try:
            measured = parse_row(row)
        except FormatError:
            continue
        if measured is None or measured.name == BOOT_AGGREGATE:
            continue
        if measured.buffer:
            digest = Digest.of(measured.buffer)
        elif measured.algorithm in STRONG:
            digest = Digest(measured.algorithm, measured.digest)
        else:
            continue
        name = shown(measured.name)
        found.setdefault(f"{VERITY}{name}" if measured.kind == "verity" else name, set()).add(str(digest))
    return {name: sorted(digests) for name, digests in sorted(found.items())}


def _replay(log: bytes, register: bytes, bank: str, quoted: bytes, most: int) -> Replayed | Reason:
    try:
        found = replay(log, register, bank, quoted, most=most)
        if found is not None:
            return found
        if not any(register) and is_padded(log, bank, quoted):
            return Reason("algorithm-refused", "ima.hash", f"template hashes in {bank}", "SHA-1 padded with zeros: a kernel before 5.8")
    except FormatError as error:
        return Reason("ima-log-malformed", f"ima.byte {error.offset}", error.expected, error.got)
    return Reason("ima-log-mismatch", "ima.pcr10", quoted.hex(), "a list that replays to it nowhere")


# --- its entries -----------------------------------------------------------------------------------------------------------


def _judge(
    rows: tuple[bytes, ...],
    violated: tuple[bytes, ...],
    references: ImaReferences,
    rules: ImaRules,
    learnt: tuple[bytes, ...],
    aggregate: str,
) -> _Judged:
    findings: list[_Finding] = []
    seen: set[tuple[str, str]] = set()
    certificates = {*learnt}
    keys = _both(_keyring(rules.keyrings), _keyring(learnt))
    entries, approved, rooting = references.entries, references.approved, references.rooting
    excluded = _excluded(rules.exclude)
    parts = references.parts
    compared = bool(references.compared or rules.keyrings or rules.learn_keys)
    for row in rows:
        # Most entries are, byte for byte, what a reference value says; without a signature "ima-sig" has four zeros behind that.
        body = row[row[0] + 8 :]
        if body in entries or (body[-4:] == _NOTHING and (body := body[:-4]) in entries):
            if body in rooting:
                seen.update(rooting[body])
            continue
        try:
            measured = parse_row(row)
        except FormatError as error:
            findings.append(("ima-log-malformed", "ima.entry", error.expected, error.got))
            continue
        if measured is None:
            findings.append(("ima-template-unknown", "ima.template", "a template of the kernel", row[4 : 4 + row[0]].decode("ascii")))
            continue
        if measured.name == BOOT_AGGREGATE and measured.described == aggregate:
            continue
        learns = rules.learn_keys and measured.name == KERNEL_KEYRING and measured.buffer and len(certificates) < MAX_KEYS
        if learns and measured.buffer in certificates:
            continue  # each key is tried once for a signature, however often it was measured
        if learns and (added := _learn(measured.buffer)) is not None:
            certificates.add(measured.buffer)
            keys = _both(keys, added)
            continue
        if excluded is not None and measured.name not in parts and excluded.fullmatch(measured.name):
            continue
        finding = _file(measured, approved, keys, pinned=measured.name in references.pinned) if compared else None
        if finding is not None:
            findings.append(finding)
        elif not measured.buffer and (
            required := references.required.get((measured.kind, measured.name, measured.algorithm, measured.digest))
        ):
            seen.update(required)
    void = violated if compared else ()
    findings.extend(found for row in void if (found := _violation(row, excluded, parts, rules)) is not None)
    return _Judged(findings, tuple(sorted(certificates)), seen)


def _file(measured: Measured, approved: _Approved, keys: Mapping[bytes, tuple[Key, ...]], *, pinned: bool) -> _Finding | None:
    """Why a file or a buffer does not pass: a reference value for its name decides; only where there never was one does a signature.

    A signature by a known key that does not hold is refused whatever else holds.
    """
    claim = f"ima.{shown(measured.name)}"
    known = approved.get((measured.kind, measured.name))
    if measured.buffer:
        # The kernel's digest of a buffer may be weak; the buffer itself is at hand, and the register binds it.
        if known is not None and any(hash_bytes(algorithm, measured.buffer) == value for algorithm, value in known):
            return None
        got = str(Digest.of(measured.buffer))
        return ("file-unknown", claim, "a reference value", got) if known is None else ("file-mismatch", claim, _listed(known), got)
    judged = judge_signature(measured, keys) if keys else "none"
    if judged == "invalid":
        return "ima-signature-invalid", claim, "a signature by the key it names", measured.described[:200]
    if measured.algorithm not in STRONG:
        return "algorithm-refused", claim, " or ".join(STRONG), measured.described[:200]
    if known is not None:
        return (
            None if (measured.algorithm, measured.digest) in known else ("file-mismatch", claim, _listed(known), measured.described[:200])
        )
    if judged == "valid" and not pinned:
        return None
    return "file-unknown", claim, "a reference value, an exclusion or a signature", measured.described[:200]


def _violation(row: bytes, excluded: re.Pattern[bytes] | None, parts: frozenset[bytes], rules: ImaRules) -> _Finding | None:
    """Why a violation is refused: of a file that roots a runtime always, of another as the rules have it."""
    try:
        measured = parse_row(row, violation=True)
    except FormatError:
        measured = None
    if measured is None:
        return "ima-violation", "ima.entry", "no violation", "one whose file cannot be read"
    let_pass = rules.violations != "refuse" or (excluded is not None and excluded.fullmatch(measured.name) is not None)
    if measured.name not in parts and let_pass:
        return None
    return "ima-violation", f"ima.{shown(measured.name)}", "a file that no one writes while it is measured", "a violation"


def _learn(certificate: bytes) -> Mapping[bytes, tuple[Key, ...]] | None:
    if len(certificate) > MAX_CERTIFICATE:
        return None
    try:
        return keys_of((certificate,))
    except FormatError:
        return None


def shown(name: bytes) -> str:
    """A name as reasons show it: printable, at most 400 characters."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)[:400]


def _listed(known: frozenset[tuple[str, bytes]]) -> str:
    first = [f"{algorithm}:{value.hex()}" for algorithm, value in sorted(known)]
    return first[0] if len(first) == 1 else f"{first[0]} or {len(first) - 1} more"


def _reasons(findings: list[_Finding]) -> tuple[Reason, ...]:
    return tuple(Reason(*finding) for finding in sorted(set(findings))[:MAX_REASONS])


@lru_cache(maxsize=64)
def _excluded(patterns: tuple[str, ...]) -> re.Pattern[bytes] | None:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns).encode("ascii")) if patterns else None


@lru_cache(maxsize=64)
def _keyring(certificates: tuple[bytes, ...]) -> Mapping[bytes, tuple[Key, ...]]:
    return keys_of(certificates)


def _both(some: Mapping[bytes, tuple[Key, ...]], more: Mapping[bytes, tuple[Key, ...]]) -> Mapping[bytes, tuple[Key, ...]]:
    return {name: (*some.get(name, ()), *more.get(name, ())) for name in {*some, *more}}


# --- the boot ---------------------------------------------------------------------------------------------------------------


def _aggregate(rows: tuple[bytes, ...]) -> str:
    """The digest of the first entry as text, or nothing where that is no boot aggregate."""
    try:
        measured = parse_row(rows[0]) if rows else None
    except FormatError:
        return ""
    return measured.described[:200] if measured is not None and measured.name == BOOT_AGGREGATE else ""


def _boot_aggregate(aggregate: str, bank: str, boot: Mapping[int, bytes]) -> tuple[Reason, ...]:
    """Nothing, if the list begins with the hash over PCRs 0 to 9 (0 to 7 before kernel 5.8) of this boot in the bank's algorithm.

    Source: Linux security/integrity/ima/ima_crypto.c, ima_calc_boot_aggregate_tfm.
    """
    prefixes = [[boot[index] for index in range(last + 1)] for last in (9, 7) if all(index in boot for index in range(last + 1))]
    expected = [f"{bank}:{hash_bytes(bank, *values).hex()}" for values in prefixes]
    if aggregate in expected:
        return ()
    if aggregate and not aggregate.startswith(f"{bank}:"):
        return (Reason("algorithm-refused", "ima.boot_aggregate", f"a digest in {bank}", aggregate),)
    return (
        Reason(
            "boot-aggregate-mismatch",
            "ima.boot_aggregate",
            expected[0] if expected else "PCRs 0 to 9 to compare with",
            aggregate or "none",
        ),
    )
