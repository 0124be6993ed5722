"""A change of reference values asked about before it is made: which hosts would pass, which not, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from verifier.attest import Inputs, ReferenceSets, read_inputs
from verifier.ima_lists import recorded_list
from verifier.ledger import Ledger, Tables
from verifier.ledger.schema import ExemptionRow, HostRow, ReferenceRow
from verifier.reference import corim_of, digest_of
from writ.formats.corim import read_corim
from writ.formats.errors import Refused
from writ.formats.exemption import parse_exemption
from writ.formats.reason import Reason
from writ.formats.state import parse_host_state
from writ.service.clock import Clock
from writ.verdict.appraise.ima import measured_files
from writ.verdict.dry_run import Foreseen, foresee
from writ.verdict.publication import judge_environment
from writ.verdict.reference import ReferenceSet, reference_set, retired_names


@dataclass(frozen=True, slots=True)
class DryRun:
    """How each host that attested would fare, by name, and the hosts that cannot be asked about: they never attested."""

    hosts: tuple[Foreseen, ...]
    silent: tuple[str, ...]


class DryRuns:
    """Dry runs over what hosts attested last."""

    def __init__(self, ledger: Ledger, clock: Clock, sets: ReferenceSets) -> None:
        self._ledger, self._clock, self._sets = ledger, clock, sets

    def ask(self, namespace: str, added: Sequence[bytes], retired: Sequence[str], *, replace: bool) -> DryRun:
        """The hosts of the namespace under the set in force, with `added` CoRIMs and without `retired` digests.

        With `replace` the versions in force of the environments of `added` are gone too. Nothing changes. Raises FormatError, Refused.
        """
        tables, now = self._ledger.read(), self._clock.now()
        references = _changed(tables, namespace, added, retired, replace=replace)
        found, silent = [], []
        for row in tables.select(HostRow, namespace=namespace):
            inputs = None if row.status == "retired" else _inputs(tables, row, self._sets)
            if inputs is None or inputs.state is None:
                silent.append(row.host)
                continue
            listed = None if inputs.state.ima is None else recorded_list(tables, row.host, inputs.state.ima)
            found.append(foresee(inputs.record, inputs.state, listed, references, inputs.bundle, now))
        return DryRun(tuple(found), tuple(silent))

    def files(self, namespace: str, host: str) -> dict[str, list[str]]:
        """What the kernel of the host measured in this boot: component name -> digests, each sorted. Proves no more than the list did.

        Raises Refused `not-found` for a host without an IMA list, or whose list is no longer kept.
        """
        tables = self._ledger.read()
        row = tables.get(HostRow, host)
        state = None if row is None or row.namespace != namespace or row.state is None else parse_host_state(row.state)
        listed = None if state is None or state.ima is None else recorded_list(tables, host, state.ima)
        if listed is None:
            raise Refused(Reason("not-found", "host.ima", f"a host of {namespace} with an IMA list", host[:63]))
        return measured_files(listed.rows)


def _inputs(tables: Tables, row: HostRow, sets: ReferenceSets) -> Inputs | None:
    return None if row.record is None else read_inputs(tables, row.host, sets)


def _changed(tables: Tables, namespace: str, added: Sequence[bytes], retired: Sequence[str], *, replace: bool) -> ReferenceSet:
    corims = [read_corim(item) for item in added]
    for corim in corims:
        if corim.namespace != namespace:
            raise Refused(Reason("forbidden", "corim.namespace", namespace, corim.namespace))
        judge_environment(corim)
    active = tables.select(ReferenceRow, namespace=namespace, active=1)
    exemptions = tables.select(ExemptionRow, namespace=namespace, active=1)
    known = {*(row.digest for row in active), *(row.digest for row in exemptions)}
    for digest in retired:
        if digest not in known:
            raise Refused(Reason("not-found", "reference", f"a digest in force in {namespace}", digest[:80]))
    gone = {*retired, *(row.digest for row in active if replace and row.environment in {corim.environment for corim in corims})}
    gone -= {digest_of(corim) for corim in corims}
    kept = [corim_of(row) for row in active if row.digest not in gone]
    names = retired_names(corim_of(row) for row in active if row.digest in gone)
    return reference_set([*kept, *corims, *names], [parse_exemption(row.data) for row in exemptions if row.digest not in gone])
