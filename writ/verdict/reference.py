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
from writ.formats.measurement import COMMAND, DEVICES, FORWARDS, GRANTS, MODE, PROFILE, Measurement
from writ.formats.proof_bundle import MAX_CORIMS, MOST_CORIMS
from writ.formats.reason import Reason
from writ.formats.spiffe import AgentId
from writ.formats.strict import encode_cbor
from writ.verdict.appraise.ima import ENVIRONMENT, ROOTED, ImaReferences, index_files, names_files

GOVERNANCE: Final = "governance"
RETIRED: Final = f"{ENVIRONMENT}retired"
"""The environment that keeps the names of files whose versions were retired."""
MOST_NAMES: Final = 16_384
"""Names in one CoRIM that keeps them."""
_NOTHING: Final = Digest("sha256", bytes(32))
_CORIM: Final = bytes((0xD9, *CORIM_TAG.to_bytes(2, "big")))
"""How a tagged CoRIM begins."""


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceSet:
    """The reference values in force, put in order once and used for every host.

    `listed` is the CBOR array of the sorted digests of its CoRIMs and
    exemptions, `digest` its SHA-256: the name of the set. `versions` has the
    CoRIMs of each environment, sorted by id and digest, those that ran out among them;
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

    def pins(self, environment: str) -> bool:
        """Whether some version of `environment`, valid or not, names PCRs."""
        return any(corim.registers for corim in self.versions.get(environment, ()))

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
    """These CoRIMs and exemptions as one set, each once. Raises FormatError for one that is too large to be judged and proven."""
    encoded = {encode_corim(corim): corim for corim in corims}
    named = {Digest.of(data).value: corim for data, corim in encoded.items()}
    exempt = tuple(sorted(set(exemptions)))
    if len(exempt) > MOST_EXEMPTIONS:
        raise FormatError("references", f"at most {MOST_EXEMPTIONS} exemptions", str(len(exempt)))
    rooting = sum(len(one.components) for one in named.values() if one.environment.startswith(ROOTED) and not keeps_names(one))
    judge_size(len(named), sum(map(len, encoded)), rooting)
    listed = list_names([*named, *(one.digest.value for one in exempt)])
    versions: dict[str, list[Corim]] = {}
    for _, corim in sorted(named.items(), key=lambda item: (item[1].environment, item[1].id, item[0])):
        versions.setdefault(corim.environment, []).append(corim)
    ends = tuple(sorted({corim.valid_until for corim in named.values() if corim.valid_until is not None}))
    return ReferenceSet(Digest.of(listed), listed, {environment: tuple(found) for environment, found in versions.items()}, exempt, ends)


def judge_size(corims: int, size: int, rooting: int) -> None:
    """A set of so many CoRIMs, of `size` bytes together and with so many files that root a runtime, is none too large. Raises FormatError.

    What could not be listed, or put into a proof bundle, would give tokens under which no action can be proven.
    """
    bounds = ((rooting, MAX_SEEN, f"files in {ROOTED}…"), (corims, MOST_CORIMS, "CoRIMs"), (size, MAX_CORIMS, "bytes of CoRIMs"))
    for got, most, what in bounds:
        if got > most:
            raise FormatError("references", f"at most {most} {what}", str(got))


def keeps_names(corim: Corim) -> bool:
    """Whether `corim` is there for the names in it: its files were never valid."""
    return names_files(corim) and corim.valid_until == 0


def retired_names(gone: Iterable[Corim]) -> tuple[Corim, ...]:
    """What stays in a set of the versions of files that leave it: their names, which no signature of a vendor serves for from then on.

    Of a part its names stay its own. Each CoRIM approves nothing: its validity ended at 0. Others than versions of files leave nothing.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for corim in filter(names_files, gone):
        environment = corim.environment if corim.environment.startswith(ROOTED) else RETIRED
        found.setdefault((corim.namespace, environment), set()).update(name for name, _ in corim.components)
    kept = {where: [(name, _NOTHING) for name in sorted(names)] for where, names in sorted(found.items())}
    return tuple(
        Corim(f"retired-{at // MOST_NAMES}", *where, tuple(names[at : at + MOST_NAMES]), valid_until=0)
        for where, names in kept.items()
        for at in range(0, len(names), MOST_NAMES)
    )


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


def judges_hosts(environment: str) -> bool:
    """Whether hosts themselves are judged by the versions of `environment`, and not the launches of one agent."""
    return not environment.startswith("spiffe://")


def ended(references: ReferenceSet, host: str, *, since: int, now: int) -> str | None:
    """What `host` is judged by that was valid at `since` and is not at `now`, None if nothing: who was accepted then may be refused."""
    at = bisect_left(references.ends, since)
    some = at < len(references.ends) and references.ends[at] < now
    for environment, versions in references.versions.items() if some else ():
        if judges_hosts(environment) and any(c.valid_until is not None and since <= c.valid_until < now for c in versions):
            return environment
    if any(host in one.hosts and since <= one.not_after < now for one in references.exemptions):
        return "an exemption"
    return None


def measured_values(measurement: Measurement) -> dict[str, Digest]:
    """What a measurement claims, by the names that a CoRIM uses: each component, command, grants, sandbox, devices, mode, forwards."""
    ceiling = Digest.of(encode_cbor([measurement.audience, encode_grants(measurement.grants)]))
    parts = {c.name: c.root for c in measurement.components}
    devices = {DEVICES: Digest.of(encode_cbor(list(measurement.devices)))} if measurement.devices else {}
    mode = {MODE: Digest.of(measurement.mode.encode())} if measurement.mode != "enforce" else {}
    profile = Digest.of(measurement.profile.encode())
    forwards = {FORWARDS: Digest.of(encode_cbor([list(one) for one in measurement.forwards]))} if measurement.forwards else {}
    return {**parts, COMMAND: command_digest(measurement.command), GRANTS: ceiling, PROFILE: profile, **devices, **mode, **forwards}


def compare(
    environment: str, measured: Mapping[str, Digest] | None, references: ReferenceSet, *, claim: str, mismatch: str, now: int,
    registers: Mapping[int, Digest],
) -> tuple[Reason, ...]:  # fmt: skip
    """Nothing, if `measured` and `registers` are one of the versions of `environment` valid at `now`; else what differs from the nearest.

    Where nothing was measured (None) the registers alone are compared. `registers` are the PCRs that the quote covers, in its bank: those
    that a version names must be among them, and equal. The nearest version is the one with the fewest differences, and of those the one
    whose id and digest sort first, so that the answer is the same everywhere. `mismatch` is the reason code for a component or register
    that differs.
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
    differences = ((_differences(c, measured, registers, claim, mismatch), c.id) for c in versions)
    return min(differences, key=lambda item: (len(item[0]), item[1]))[0]


def _differences(
    version: Corim, measured: Mapping[str, Digest] | None, registers: Mapping[int, Digest], claim: str, mismatch: str
) -> tuple[Reason, ...]:
    expected = dict(version.components) if measured is not None else {}
    known = measured or {}
    reasons = []
    for name in sorted({*known, *expected}):
        got, want = known.get(name), expected.get(name)
        if got == want:
            continue
        if got is None:
            reasons.append(Reason("component-missing", f"{claim}.{name}", str(want), "none"))
        elif want is None:
            reasons.append(Reason("component-unexpected", f"{claim}.{name}", "none", str(got)))
        else:
            reasons.append(Reason(mismatch, f"{claim}.{name}", str(want), str(got)))
    for index in sorted({index for index, _ in version.registers}):
        wanted = [digest for one, digest in version.registers if one == index]
        got = registers.get(index)
        if got not in wanted:
            code = mismatch if got is not None else "component-missing"
            reasons.append(Reason(code, f"{claim}.registers.{index}", " or ".join(map(str, wanted)), "none" if got is None else str(got)))
    return tuple(reasons)
