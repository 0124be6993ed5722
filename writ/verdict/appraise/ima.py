"""The IMA list against reference values and rules: which files ran or were read, and which of them no one approved.

The list is believed only as far as it replays to the quoted PCR 10. What the
kernel measured is told by its rules (the IMA policy), and a path is what the
kernel saw: that all of an application was measured is not shown here.

Reference values are components of CoRIMs whose environment begins with
`files/`: `/usr/bin/x` names the hash of a file's content, `verity:/usr/bin/x`
its fs-verity digest, any other name a buffer of the kernel's own (`kexec-cmdline`,
critical data). Several CoRIMs may name one path, and each of the digests passes.
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
from writ.formats.ima_state import MAX_KEYS, MAX_REASONS, ImaState, ImaVerdict, MeasuredFiles
from writ.formats.reason import Reason

ENVIRONMENT: Final = "files/"
"""How the environments begin whose components are files."""
VERITY: Final = "verity:"
STRONG: Final = ("sha256", "sha384", "sha512")
KERNEL_KEYRING: Final = b".ima"
"""The keyring whose keys the kernel takes for file signatures, as an ima-buf entry names it."""
_NOTHING: Final = bytes(4)

_Finding = tuple[str, str, str, str]
_Approved = Mapping[tuple[str, bytes], frozenset[tuple[str, bytes]]]


@dataclass(frozen=True, slots=True)
class ImaReferences:
    """The approved files, indexed once for every host: by (kind, name) their digests, and the bytes of entries that pass as they are.

    `digest` names the set; two sets of the same files have the same.
    """

    digest: Digest
    approved: _Approved
    entries: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class ImaResult:
    """What the list is worth, and what follows.

    `reasons` is sorted and holds the first 64 (and what stands against the list
    as a whole); `count` is how many entries did not pass. `covered` entries are
    vouched for by the quote; `tail` bytes behind them were not looked at.
    Where the list does not continue what is known, `state` and `history` are those given.
    """

    state: ImaState | None
    history: MeasuredFiles | None
    reasons: tuple[Reason, ...]
    count: int
    covered: int
    tail: int


def index_files(corims: Iterable[Corim], *, now: int) -> ImaReferences:
    """The file references among `corims` that are valid at `now`. Other environments are left out."""
    found: dict[tuple[str, bytes], set[tuple[str, bytes]]] = {}
    for corim in corims:
        if not corim.environment.startswith(ENVIRONMENT) or (corim.valid_until is not None and now > corim.valid_until):
            continue
        for component, digest in corim.components:
            kind, name = ("verity", component.removeprefix(VERITY)) if component.startswith(VERITY) else ("ima", component)
            # The kernel writes a space in a name as "_".
            found.setdefault((kind, name.replace(" ", "_").encode()), set()).add((digest.algorithm, digest.value))
    approved = {key: frozenset(digests) for key, digests in sorted(found.items())}
    listed = [b"%b\0%b\0%b:%b\n" % (kind.encode(), name, algorithm.encode(), value.hex().encode())
              for (kind, name), digests in approved.items() for algorithm, value in sorted(digests)]  # fmt: skip
    entries = frozenset(
        _body(name, algorithm, value) for (kind, name), digests in approved.items() for algorithm, value in digests if kind == "ima"
    )
    return ImaReferences(Digest.of(b"".join(listed)), approved, entries)


def _body(name: bytes, algorithm: str, value: bytes) -> bytes:
    """The fields d-ng and n-ng of a file, as every template but "ima" has them."""
    digest = algorithm.encode() + b":\0" + value
    return len(digest).to_bytes(4, "little") + digest + (len(name) + 1).to_bytes(4, "little") + name + b"\0"


# --- the list ------------------------------------------------------------------------------------------------------------


def appraise_ima(
    state: ImaState | None,
    history: MeasuredFiles | None,
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

    `state` and `history` are of the same boot, or None for a new one; `boot` are
    the values of PCRs 0 to 9 in `bank` when the kernel started.

    1. Nothing new and the same references and rules: the verdict reached before.
    2. The list continues the one known, or is whole and passes through what is known.
    3. It replays to the quote; what is behind that is neither trusted nor an error.
    4. New entries are judged; with other references or rules, everything measured in this boot.
    5. The boot aggregate is that of this boot's PCRs.

    Source: DESIGN step 3 (Attest); Linux security/integrity/ima, as in `writ/formats/eventlog/ima.py`.
    """
    # 1
    if state is not None and state.register == quoted and first == state.entries and state.bank == bank:
        verdict = state.verdict
        if verdict.references == references.digest and verdict.rules == rules.digest:
            return _result(state, history, boot, len(log))
    # 2, 3
    if not log and state is None:
        missing = Reason("ima-log-missing", "ima", "a measurement list", "none")
        return ImaResult(None, None, (missing,) if rules.require else (), 0, 0, 0)
    read = _read(state, history, log, first, quoted, bank)
    if isinstance(read, Reason):
        return ImaResult(state, history, (read,), 0, 0, len(log))
    before, resumed, fresh = read
    # 4
    whole = before.followed_by(fresh.rows, fresh.violated)
    if resumed is None:
        entries, violations, aggregate = fresh.entries, fresh.violations, _aggregate(whole.rows)
    else:
        entries, violations, aggregate = resumed.entries + fresh.entries, resumed.violations + fresh.violations, resumed.aggregate
    if resumed is not None and resumed.verdict.references == references.digest and resumed.verdict.rules == rules.digest:
        new, void = whole.rows[len(before.rows) :], whole.violated[len(before.violated) :]
        findings, keys = _judge(new, void, references, rules, resumed.keys, aggregate)
        failed = resumed.verdict.count + len(findings)
        reasons = tuple(sorted({*resumed.verdict.reasons, *_reasons(findings)})[:MAX_REASONS])
    else:
        findings, keys = _judge(whole.rows, whole.violated, references, rules, (), aggregate)
        failed, reasons = len(findings), _reasons(findings)
    verdict = ImaVerdict(references.digest, rules.digest, reasons, failed)
    after = ImaState(bank, entries, quoted, violations, aggregate, keys, whole.digest(), verdict)
    return _result(after, whole, boot, len(log) - fresh.end)


def _result(state: ImaState, history: MeasuredFiles | None, boot: Mapping[int, bytes], tail: int) -> ImaResult:
    # 5
    verdict = state.verdict
    reasons = (*verdict.reasons, *_boot_aggregate(state, boot))
    return ImaResult(state, history, tuple(sorted(reasons)), verdict.count, state.entries, tail)


def _read(
    state: ImaState | None, history: MeasuredFiles | None, log: bytes, first: int, quoted: bytes, bank: str
) -> tuple[MeasuredFiles, ImaState | None, Replayed] | Reason:
    """What was measured before, the state that the list resumes (None: it is whole), and the prefix that replays; or why not."""
    if state is not None and first == state.entries and state.bank == bank:
        if history is None or history.digest() != state.history:
            return Reason("full-log-required", "ima.history", str(state.history), "none" if history is None else str(history.digest()))
        fresh = _replay(log, state.register, bank, quoted, MAX_ENTRIES - state.entries)
        return fresh if isinstance(fresh, Reason) else (history, state, fresh)
    if first != 0:
        expected = "entry 0" if state is None else f"entry 0 or {state.entries}"
        return Reason("ima-log-rewound" if state is not None else "full-log-required", "ima.first", expected, f"entry {first}")
    whole = _replay(log, bytes(SIZES[bank]), bank, quoted, MAX_ENTRIES)
    if isinstance(whole, Reason):
        return whole
    if whole.entries == 0:
        return Reason("ima-log-mismatch", "ima.pcr10", "a register that the list extended", "zero")
    if state is not None and state.bank == bank:
        known = _replay(log, bytes(SIZES[bank]), bank, state.register, state.entries)
        if isinstance(known, Reason) or known.entries != state.entries or known.end > whole.end:
            return Reason("ima-log-rewound", "ima.entries", f"a list through entry {state.entries} as known", f"another of {whole.entries}")
    return MeasuredFiles(), None, whole


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
) -> tuple[list[_Finding], tuple[bytes, ...]]:
    """One finding for each row that does not pass, and the keys learnt so far, sorted."""
    findings: list[_Finding] = []
    certificates = {*learnt}
    keys = _both(_keyring(rules.keyrings), _keyring(learnt))
    entries, approved = references.entries, references.approved
    excluded = _excluded(rules.exclude)
    for row in rows:
        # Most entries are, byte for byte, what a reference value says; without a signature "ima-sig" has four zeros behind that.
        body = row[row[0] + 8 :]
        if body in entries or (body[-4:] == _NOTHING and body[:-4] in entries):
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
        if learns and (added := _learn(measured.buffer)) is not None:
            certificates.add(measured.buffer)
            keys = _both(keys, added)
            continue
        if excluded is not None and excluded.fullmatch(measured.name):
            continue
        finding = _file(measured, approved, keys)
        if finding is not None:
            findings.append(finding)
    if rules.violations == "refuse":
        findings.extend(found for row in violated if (found := _violation(row, excluded)) is not None)
    return findings, tuple(sorted(certificates))


def _file(measured: Measured, approved: _Approved, keys: Mapping[bytes, tuple[Key, ...]]) -> _Finding | None:
    """Why a file or a buffer does not pass: a reference value for its name decides; only without one does a signature.

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
        return "ima-signature-invalid", claim, "a signature by the key it names", measured.described
    if measured.algorithm not in STRONG:
        return "algorithm-refused", claim, " or ".join(STRONG), measured.described[:200]
    if known is not None:
        return None if (measured.algorithm, measured.digest) in known else ("file-mismatch", claim, _listed(known), measured.described)
    if judged == "valid":
        return None
    return "file-unknown", claim, "a reference value, an exclusion or a signature", measured.described


def _violation(row: bytes, excluded: re.Pattern[bytes] | None) -> _Finding | None:
    try:
        measured = parse_row(row, violation=True)
    except FormatError:
        measured = None
    if measured is None:
        return "ima-violation", "ima.entry", "no violation", "one whose file cannot be read"
    if excluded is not None and excluded.fullmatch(measured.name):
        return None
    return "ima-violation", f"ima.{shown(measured.name)}", "a file that no one writes while it is measured", "a violation"


def _learn(certificate: bytes) -> Mapping[bytes, tuple[Key, ...]] | None:
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


def _boot_aggregate(state: ImaState, boot: Mapping[int, bytes]) -> tuple[Reason, ...]:
    """Nothing, if the list begins with the hash over PCRs 0 to 9 (0 to 7 before kernel 5.8) of this boot in the bank's algorithm.

    Source: Linux security/integrity/ima/ima_crypto.c, ima_calc_boot_aggregate_tfm.
    """
    prefixes = [[boot[index] for index in range(last + 1)] for last in (9, 7) if all(index in boot for index in range(last + 1))]
    expected = [f"{state.bank}:{hash_bytes(state.bank, *values).hex()}" for values in prefixes]
    if state.aggregate in expected:
        return ()
    if not state.aggregate.startswith(f"{state.bank}:") and state.aggregate:
        return (Reason("algorithm-refused", "ima.boot_aggregate", f"a digest in {state.bank}", state.aggregate),)
    return (
        Reason(
            "boot-aggregate-mismatch",
            "ima.boot_aggregate",
            expected[0] if expected else "PCRs 0 to 9 to compare with",
            state.aggregate or "none",
        ),
    )


# --- what the roots of trust ask --------------------------------------------------------------------------------------------


def missing_files(history: MeasuredFiles | None, files: Mapping[str, Digest]) -> tuple[str, ...]:
    """The paths of `files` that are not in the measured set with exactly that digest, or whose measurement is void; sorted.

    A path begins with `verity:` where its fs-verity digest is meant. That a path
    is measured does not say that no other version of it was: the reference
    values say that.
    """
    wanted = {}
    for path, digest in files.items():
        kind, name = ("verity", path.removeprefix(VERITY)) if path.startswith(VERITY) else ("ima", path)
        wanted[kind, name.replace(" ", "_").encode(), digest.algorithm, digest.value] = path
    names = {key[1] for key in wanted}
    void = {measured.name for row in (history.violated if history else ()) if (measured := _read_row(row, violation=True)) is not None}
    present = set()
    for row in history.rows if history else ():
        if any(name in row for name in names) and (measured := _read_row(row)) is not None and not measured.buffer:
            present.add((measured.kind, measured.name, measured.algorithm, measured.digest))
    return tuple(sorted(path for key, path in wanted.items() if key not in present or key[1] in void))


def _read_row(row: bytes, *, violation: bool = False) -> Measured | None:
    try:
        return parse_row(row, violation=violation)
    except FormatError:
        return None
