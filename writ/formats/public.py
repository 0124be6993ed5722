"""What of the reasons everyone may read: an entry of the log is public, and which files a host has is not.

A reason about a file names it in its claim (`ima./home/ada/notes`), a part of ours that was not measured the first file that lacks. In an
entry both are without their names; code, digests and everything else stay. The names are in the attestation result, which the entry names
by digest and which goes to the host and to whoever operates the verifier. Of a result with names the digest alone would let anybody try
names until one fits, so such a result has a salt, which follows from the evidence: nobody who lacks that can try.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from typing import Final

from writ.formats.decision import AttestDecision
from writ.formats.ear import Ear
from writ.formats.reason import Reason

FILE: Final = "ima.file"
"""The claim on a file that is not named."""
PART_FILES: Final = "files measured as approved"
_OF_A_FILE: Final = frozenset({"file-unknown", "file-mismatch", "ima-signature-invalid", "ima-violation"})
_OF_THE_LIST: Final = frozenset({"ima.hash", "ima.boot_aggregate"})
_FIRST_OF_SOME: Final = " files that were not"
"""How `got` ends where `expected` names the first file of a part that was not measured (`appraisal`)."""


def without_names(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """The same reasons without the names of files, sorted, each once: several may become one."""
    return tuple(sorted({_without_name(reason) for reason in reasons}))


def with_salt(ear: Ear, reasons: Iterable[Reason], evidence: bytes) -> Ear:
    """The result, with a salt where one of `reasons` names a file."""
    if all(_without_name(reason) == reason for reason in reasons):
        return ear
    return replace(ear, salt=sha256(b"writ/result-salt/v1" + evidence).digest()[:16])


def with_names(decision: AttestDecision, result: Ear) -> tuple[Reason, ...]:
    """What stands against the host, with the names that are in its result; as in the decision, what the result does not have."""
    host = result.submodule("host")
    named: dict[Reason, list[Reason]] = {}
    for reason in () if host is None else host.reasons:
        named.setdefault(_without_name(reason), []).append(reason)
    return tuple(sorted({one for reason in decision.reasons for one in named.get(reason, [reason])}))


def _without_name(reason: Reason) -> Reason:
    of_a_file = reason.code in _OF_A_FILE or (
        reason.code == "algorithm-refused" and reason.claim.startswith("ima.") and reason.claim not in _OF_THE_LIST
    )
    if of_a_file:
        return replace(reason, claim=FILE)
    if reason.code == "attestor-not-rooted" and reason.got.endswith(_FIRST_OF_SOME):
        return replace(reason, expected=PART_FILES)
    return reason
