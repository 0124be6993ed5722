"""Reference values: which measurements are known good, and how far something is from them.

One CoRIM is one known-good version of one environment: an agent by its SPIFFE
id, or `governance`. A measurement passes if it equals one version whole; parts
of two versions never add up to a good one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from writ.formats.corim import CORIM_TAG, Corim, encode_corim, parse_corim
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.eventlog.runtime import command_digest
from writ.formats.exemption import MOST as MOST_EXEMPTIONS
from writ.formats.exemption import Exemption, parse_exemption
from writ.formats.grants import encode_grants
from writ.formats.ima_state import MAX_SEEN
from writ.formats.measurement import COMMAND, DEVICES, GRANTS, MODE, PROFILE, Measurement
from writ.formats.reason import Reason
from writ.formats.spiffe import AgentId
from writ.formats.strict import encode_cbor
from writ.verdict.appraise.ima import ROOTED, ImaReferences, index_files

GOVERNANCE: Final = "governance"
_CORIM: Final = bytes((0xD9, *CORIM_TAG.to_bytes(2, "big")))
"""How a tagged CoRIM begins."""


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceSet:
    """The reference values in force, put in order once and used for every host.

    `listed` is the CBOR array of the sorted digests of its CoRIMs and
    exemptions, `digest` its SHA-256: the name of the set. `versions` has the
    CoRIMs of each environment, sorted by id, those that ran out among them;
    `ends` are the times until which some of them are valid, sorted.
    """

    digest: Digest
    listed: bytes
    versions: Mapping[str, tuple[Corim, ...]]
    exemptions: tuple[Exemption, ...]
    ends: tuple[int, ...]
    _indexed: dict[int | None, ImaReferences] = field(default_factory=dict, repr=False)

    def of(self, environment: str, now: int) -> tuple[Corim, ...]:
        """The versions of `environment` that are valid at `now`."""
        return tuple(c for c in self.versions.get(environment, ()) if c.valid_until is None or now <= c.valid_until)

    def ran_out(self, environment: str, now: int) -> bool:
        """Whether there are versions of `environment`, and none of them is valid at `now`."""
        return environment in self.versions and not self.of(environment, now)

    def files(self, now: int) -> ImaReferences:
        """The files approved at `now`, indexed: once for as long as none of them runs out."""
        at = bisect_left(self.ends, now)
        until = self.ends[at] if at < len(self.ends) else None
        found = self._indexed.get(until)
        if found is None:
            found = _files(self, until)
            self._indexed.clear()  # time goes one way: the index of an earlier end is not asked for again
            self._indexed[until] = found
        return found


def _files(references: ReferenceSet, until: int | None) -> ImaReferences:
    """The files approved at `until`, the next time at which a version runs out, or by the versions that never do."""
    valid: list[Corim] = []
    lapsed: list[Corim] = []
    for corim in (c for versions in references.versions.values() for c in versions):
        (valid if corim.valid_until is None or (until is not None and until <= corim.valid_until) else lapsed).append(corim)
    return index_files(valid, lapsed)


def reference_set(corims: Iterable[Corim], exemptions: Iterable[Exemption] = ()) -> ReferenceSet:
    """These CoRIMs and exemptions as one set, each once. Raises FormatError for too many exemptions or files that root a runtime."""
    named = {Digest.of(encode_corim(corim)).value: corim for corim in corims}
    exempt = tuple(sorted(set(exemptions)))
    if len(exempt) > MOST_EXEMPTIONS:
        raise FormatError("references", f"at most {MOST_EXEMPTIONS} exemptions", str(len(exempt)))
    rooting = sum(len(corim.components) for corim in named.values() if corim.environment.startswith(ROOTED))
    if rooting > MAX_SEEN:
        raise FormatError("references", f"at most {MAX_SEEN} files in {ROOTED}…", str(rooting))
    listed = list_names([*named, *(one.digest.value for one in exempt)])
    versions: dict[str, list[Corim]] = {}
    for corim in sorted(named.values(), key=lambda one: (one.environment, one.id)):
        versions.setdefault(corim.environment, []).append(corim)
    ends = tuple(sorted({corim.valid_until for corim in named.values() if corim.valid_until is not None}))
    return ReferenceSet(Digest.of(listed), listed, {environment: tuple(found) for environment, found in versions.items()}, exempt, ends)


def list_names(names: Iterable[bytes]) -> bytes:
    """The CBOR array that a set of reference values is named by: the SHA-256 of each CoRIM and exemption in it, sorted, each once."""
    return encode_cbor(sorted(set(names)))


def parse_references(items: Iterable[bytes]) -> ReferenceSet:
    """The set of encoded CoRIMs and exemptions. Raises FormatError."""
    corims, exemptions = [], []
    for item in items:
        if item.startswith(_CORIM):
            corims.append(parse_corim(item))
        else:
            exemptions.append(parse_exemption(item))
    return reference_set(corims, exemptions)


def exempted(
    reasons: Iterable[Reason], references: ReferenceSet, agent: AgentId | None, host: str, now: int
) -> tuple[tuple[Reason, ...], frozenset[str]]:
    """The reasons that no exemption lets pass on `host` at `now`, in their order, and the labels of the exemptions that were used.

    `agent` is whose launch the reasons are about, None where they are about the host.
    """
    left: list[Reason] = []
    used: set[str] = set()
    for reason in reasons:
        labels = {one.label for one in references.exemptions if one.lets_pass(reason, agent, host, now)}
        used |= labels
        if not labels:
            left.append(reason)
    return tuple(left), frozenset(used)


def measured_values(measurement: Measurement) -> dict[str, Digest]:
    """What a measurement claims, by the names that a CoRIM uses: each component, command, ceiling of grants, sandbox, devices, mode."""
    ceiling = Digest.of(encode_cbor([measurement.audience, encode_grants(measurement.grants)]))
    parts = {c.name: c.root for c in measurement.components}
    devices = {DEVICES: Digest.of(encode_cbor(list(measurement.devices)))} if measurement.devices else {}
    mode = {MODE: Digest.of(measurement.mode.encode())} if measurement.mode != "enforce" else {}
    profile = Digest.of(measurement.profile.encode())
    return {**parts, COMMAND: command_digest(measurement.command), GRANTS: ceiling, PROFILE: profile, **devices, **mode}


def compare(
    environment: str, measured: Mapping[str, Digest], references: ReferenceSet, *, claim: str, mismatch: str, now: int
) -> tuple[Reason, ...]:
    """Nothing, if `measured` is one of the versions of `environment` valid at `now`; else what differs from the nearest.

    The nearest version is the one with the fewest differences, and of those
    the one whose id sorts first, so that the answer is the same everywhere.
    `mismatch` is the reason code for a differing component.
    """
    versions = references.of(environment, now)
    if not versions:
        return (
            Reason(
                "agent-unknown" if environment != GOVERNANCE else "governance-mismatch",
                claim,
                f"reference values for {environment}",
                "none",
            ),
        )
    differences = ((_differences(measured, dict(c.components), claim, mismatch), c.id) for c in versions)
    return min(differences, key=lambda item: (len(item[0]), item[1]))[0]


def _differences(measured: Mapping[str, Digest], expected: Mapping[str, Digest], claim: str, mismatch: str) -> tuple[Reason, ...]:
    reasons = []
    for name in sorted({*measured, *expected}):
        got, want = measured.get(name), expected.get(name)
        if got == want:
            continue
        if got is None:
            reasons.append(Reason("component-missing", f"{claim}.{name}", str(want), "none"))
        elif want is None:
            reasons.append(Reason("component-unexpected", f"{claim}.{name}", "none", str(got)))
        else:
            reasons.append(Reason(mismatch, f"{claim}.{name}", str(want), str(got)))
    return tuple(reasons)
