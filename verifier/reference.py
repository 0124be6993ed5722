"""Reference values in force: imported by operators, staged beside older ones, retired; each change is one signed set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from verifier import proposals
from verifier.access import Operator, OperatorLog
from verifier.keys import Keys
from verifier.ledger import Change, Consented, Ledger, ReferencesImported, Tables, decide_and_commit
from verifier.ledger.schema import ApprovalRow, ExemptionRow, ReferenceRow
from verifier.ledger.transaction import space
from verifier.proposals import PROPOSAL_LIFE, Case
from writ.formats.corim import Corim, encode_corim, is_signed, parse_corim, parse_signed_corim, sign_corim
from writ.formats.cose import verify_sign1
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.exemption import MOST as MOST_EXEMPTIONS
from writ.formats.keys import PublicKey
from writ.formats.measurement import Measurement
from writ.formats.policy_bundle import PolicySettings
from writ.formats.proposal import Proposal
from writ.formats.reason import Reason
from writ.service.clock import Clock
from writ.verdict import reference
from writ.verdict.appraise.ima import ENVIRONMENT, ROOTED
from writ.verdict.publication import Accepted, Pending, judge_approvals, judge_environment, judge_retirement, judge_version
from writ.verdict.reference import GOVERNANCE, keeps_names, list_names, measured_values, retired_names

SIGNER_NAME: Final = "writ verifier"
MAX_IMPORT: Final = 256

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an act: in force, or a proposal that waits for what is `missing`. `rows` are the CoRIMs it is about."""

    rows: tuple[ReferenceRow, ...]
    proposal: str | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SetAfter:
    """The set that results from a change: its names as listed, and the exemptions that go because their time is over."""

    before: bytes
    listed: bytes
    lapsed: tuple[str, ...]

    @property
    def digest(self) -> Digest:
        """The name of the set."""
        return Digest.of(self.listed)


def set_after(
    tables: Tables, namespace: str, now: int, *, add: Sequence[ReferenceRow] = (), retire: Iterable[str] = (), exempt: Iterable[str] = ()
) -> SetAfter:
    """What is in force in the namespace after this change. Raises Refused: `too-large` for a set with which nothing could be judged.

    1. The exemptions in force, but for those that go and those whose time is over, with those that come: no more than a set holds.
    2. The CoRIMs in force, but for those that go, with those that come: where one comes, a set can be made of them.
    3. Where some go, what is left is enough for the policy in force; else `reference-last`.
    """
    gone = set(retire)
    # 1
    known = tables.select(ExemptionRow, namespace=namespace, active=1)
    lapsed = tuple(row.digest for row in known if row.not_after < now)
    exempted = {*(row.digest for row in known if row.digest not in {*gone, *lapsed}), *exempt}
    if len(exempted) > MOST_EXEMPTIONS:
        raise Refused(Reason("too-large", "exemptions", f"at most {MOST_EXEMPTIONS} in force", str(len(exempted))))
    # 2
    active = tables.select(ReferenceRow, namespace=namespace, active=1)
    corims = {row.digest: row for row in (*(row for row in active if row.digest not in gone), *add)}
    if versions(add):  # names that stay take no more room than what they stay of
        rooting = corims_of(row for row in versions(corims.values()) if row.environment.startswith(ROOTED))
        size = sum(len(row.signed) for row in corims.values())
        judge_size(len(corims), size, sum(len(corim.components) for corim in rooting))
    # 3
    if gone:
        left = corims_of(versions(corims.values()))
        judge_retirement((row.environment for row in versions(active)), left, proposals.settings_in_force(tables, namespace))
    listed = list_names(Digest.parse(name).value for name in {*corims, *exempted})
    return SetAfter(space(tables, namespace).references_digest, listed, lapsed)


def corims_of(rows: Iterable[ReferenceRow]) -> Iterator[Corim]:
    """The CoRIMs of the rows, read as they are asked for: files last, of which there are most and of which one will do."""
    for row in sorted(rows, key=lambda row: row.environment.startswith(ENVIRONMENT)):
        yield corim_of(row)


def judge_size(corims: int, size: int, rooting: int = 0) -> None:
    """A set of so much can be judged, listed and proven; signatures may count in `size`, for a little less. Raises Refused `too-large`."""
    try:
        reference.judge_size(corims, size, rooting)
    except FormatError as error:
        raise Refused(Reason("too-large", error.what, error.expected, error.got)) from None


class References:
    """The reference values of all namespaces."""

    def __init__(self, ledger: Ledger, keys: Keys, log: OperatorLog, clock: Clock) -> None:
        self._ledger = ledger
        self._keys = keys
        self._log = log
        self._clock = clock

    def publish(self, operator: Operator, namespace: str, items: Iterable[bytes], *, publisher: PublicKey | None, replace: bool) -> Outcome:
        """The CoRIMs are in force, or proposed where the policy asks for more people; with `replace` the other versions go.

        Those among them that keep names, as an export has them, are passed over where this verifier made them, and refused else.

        1. Each is a CoRIM of ours, unsigned (this verifier signs it, in the operator's name), or signed by the publisher or by us.
        2. Each is of this namespace, and of an environment that is compared with what it says.
        3. All are committed as one set, or stand in one proposal.

        Raises FormatError, Refused.
        """
        now = self._clock.now()
        # 1
        corims = {digest_of(corim): (corim, signed) for corim, signed in (self._signed(item, publisher) for item in items)}
        if not 1 <= len(corims) <= MAX_IMPORT:
            raise FormatError("references", f"1 to {MAX_IMPORT} CoRIMs", str(len(corims)))
        # 2
        for corim, _ in corims.values():
            if corim.namespace != namespace:
                raise Refused(Reason("forbidden", "corim.namespace", namespace, corim.namespace))
            judge_environment(corim)
        rows = tuple(reference_row(corim, signed, active=1, at=now) for _, (corim, signed) in sorted(corims.items()))
        # 3
        return decide_on_set(
            self._ledger, namespace, lambda tables: self._import(tables, operator, namespace, rows, replace=replace, now=now)
        )

    def _import(
        self, tables: Tables, operator: Operator, namespace: str, rows: tuple[ReferenceRow, ...], *, replace: bool, now: int
    ) -> tuple[ReferencesImported | Consented | None, Outcome]:
        active = {row.digest: row for row in tables.select(ReferenceRow, namespace=namespace, active=1)}
        given, rows = rows, tuple(versions(rows))
        passed_over = [row for row in given if row not in rows]
        for row in passed_over:
            if tables.get(ReferenceRow, row.digest) is None:
                judge_version(corim_of(row))
        if not rows:
            return None, Outcome(tuple(passed_over))
        named = {row.digest for row in rows}
        environments = {row.environment for row in rows} if replace else set()
        retired = tuple(row.digest for row in versions(active.values()) if row.environment in environments and row.digest not in named)
        stay = tuple(digest for digest in active if replace and digest in named)
        new = tuple(row for row in rows if row.digest not in active)
        shown = tuple(active.get(row.digest, row) for row in rows)
        blobs = tuple(map(unsigned, new))
        settings = proposals.settings_in_force(tables, namespace) or PolicySettings()
        verdict = judge_approvals((row.environment for row in new), {operator.who}, settings)
        if isinstance(verdict, Accepted):
            kept, merged = self._kept(tables, namespace, retired, now)
            after = set_after(tables, namespace, now, add=(*rows, *kept), retire=(*retired, *merged))
            entry = self._log.entry(
                operator, "reference-import", ", ".join(sorted(named))[:1024], namespace=namespace, at=now, detail=after.digest
            )
            policy = space(tables, namespace).policy
            return ReferencesImported(
                entry, (*new, *kept), (*retired, *merged, *after.lapsed), after.before, after.digest.value,
                (*blobs, *map(unsigned, kept), after.listed), policy=policy,
            ), Outcome(shown)  # fmt: skip
        of = tuple(sorted(Digest.parse(row.digest) for row in new))
        wanted = Proposal(
            namespace, "import", now, of, tuple(sorted(map(Digest.parse, retired))), keeps=tuple(sorted(map(Digest.parse, stay)))
        )  # fmt: skip
        if (known := proposals.like(tables, wanted)) is not None:
            counted = proposals.people(tables, known.approvals)
            waiting = judge_approvals((row.environment for row in new), counted, settings)
            return None, Outcome(
                _inactive(shown, {row.digest for row in new}), known.row.digest, waiting.missing if isinstance(waiting, Pending) else ()
            )
        case = proposals.new_case(tables, operator, wanted, expires_at=now + PROPOSAL_LIFE)
        consent = proposals.consent(tables, case, (proposals.approval(case, operator, now),), settled_at=None)
        proposed = case.proposal.digest
        entry = self._log.entry(operator, "reference-propose", case.row.digest, namespace=namespace, at=now, detail=proposed)
        change = Consented(entry, consent, _inactive(new, named), (*blobs, case.row.data))
        return change, Outcome(_inactive(shown, {row.digest for row in new}), case.row.digest, verdict.missing)

    def settle(
        self, tables: Tables, operator: Operator, case: Case, added: ApprovalRow, counted: frozenset[str], now: int
    ) -> tuple[ReferencesImported | Consented, Outcome]:
        """An operator approves an import that was proposed: what is to be committed. Raises Refused `conflict` where the set moved.

        What is retired with it, and what stays, must be what the proposal says: neither more nor less is in force of those environments.
        """
        namespace, names = case.row.namespace, {str(one) for one in case.proposal.of}
        rows = tuple(row for name in sorted(names) if (row := tables.get(ReferenceRow, name)) is not None)
        retires = {str(one) for one in case.proposal.retires}
        expected = {*retires, *map(str, case.proposal.keeps)}
        active = versions(tables.select(ReferenceRow, namespace=namespace, active=1))
        replaced = {row.environment for row in active if row.digest in expected}
        found = {row.digest for row in active if row.environment in replaced and row.digest not in names}
        if found != expected:
            got = ", ".join(sorted(found ^ expected))
            raise Refused(Reason("conflict", "proposal.retires", "the versions in force when it was made", f"others: {got}"[:1000]))
        settings = proposals.settings_in_force(tables, namespace) or PolicySettings()
        verdict = judge_approvals((row.environment for row in rows), counted, settings)
        act = "reference-approve"
        if isinstance(verdict, Pending):
            entry = self._log.entry(operator, act, case.row.digest, namespace=namespace, at=now, detail=case.proposal.digest)
            consent = proposals.consent(tables, case, (added,), settled_at=None)
            return Consented(entry, consent, (), ()), Outcome(rows, case.row.digest, verdict.missing)
        kept, merged = self._kept(tables, namespace, retires, now)
        after = set_after(tables, namespace, now, add=(*rows, *kept), retire=(*retires, *merged))
        entry = self._log.entry(operator, act, case.row.digest, namespace=namespace, at=now, detail=after.digest)
        consent = proposals.consent(tables, case, (added,), settled_at=now)
        live = tuple(replace(row, active=1, imported_at=now, retired_at=None) for row in rows)
        change = ReferencesImported(
            entry, (*live, *kept), (*sorted(retires), *merged, *after.lapsed), after.before, after.digest.value,
            (*map(unsigned, kept), after.listed), consent=consent,
        )  # fmt: skip
        return change, Outcome(live)

    def retire(self, operator: Operator, namespace: str, digests: Sequence[str]) -> tuple[str, ...]:
        """These CoRIMs and exemptions are in force no longer, but for the names of files. Raises Refused: `not-found` for one that
        was not, or that keeps names; `reference-last`.
        """
        now, wanted = self._clock.now(), tuple(sorted(set(digests)))

        def retired(tables: Tables) -> tuple[ReferencesImported, tuple[str, ...]]:
            for digest in wanted:
                row = tables.get(ReferenceRow, digest) or tables.get(ExemptionRow, digest)
                if row is None or row.namespace != namespace or not row.active or (isinstance(row, ReferenceRow) and not is_version(row)):
                    raise Refused(Reason("not-found", "reference", f"reference values in force in {namespace}", digest[:80]))
            kept, merged = self._kept(tables, namespace, wanted, now)
            after = set_after(tables, namespace, now, add=kept, retire=(*wanted, *merged))
            subject = ", ".join(wanted)[:1024]
            entry = self._log.entry(operator, "reference-retire", subject, namespace=namespace, at=now, detail=after.digest)
            gone = (*wanted, *merged, *after.lapsed)
            policy = space(tables, namespace).policy
            blobs = (*map(unsigned, kept), after.listed)
            return ReferencesImported(entry, kept, gone, after.before, after.digest.value, blobs, policy=policy), wanted

        return decide_on_set(self._ledger, namespace, retired)

    def active(self, namespace: str) -> tuple[ReferenceRow, ...]:
        """What is in force, by environment, oldest first."""
        rows = self._ledger.read().select(ReferenceRow, namespace=namespace, active=1)
        return tuple(sorted(rows, key=lambda row: (row.environment, row.imported_at, row.id)))

    def get(self, namespace: str, digest: str) -> ReferenceRow:
        """One CoRIM of the namespace, in force or not. Raises Refused `not-found`."""
        row = self._ledger.read().get(ReferenceRow, digest)
        if row is None or row.namespace != namespace:
            raise Refused(Reason("not-found", "reference", f"reference values of {namespace}", digest[:80]))
        return row

    def _kept(self, tables: Tables, namespace: str, retired: Collection[str], now: int) -> tuple[tuple[ReferenceRow, ...], tuple[str, ...]]:
        """What keeps the names of files that go with `retired`, and the digests of those that kept names, whose place it takes."""
        active = tables.select(ReferenceRow, namespace=namespace, active=1)
        going = [row for row in active if row.digest in retired and row.environment.startswith((ENVIRONMENT, ROOTED))]
        if not going:
            return (), ()
        held = {row.digest: row for row in active if not is_version(row)}
        made = {digest_of(one): one for one in retired_names(map(corim_of, (*going, *held.values())))}
        rows = (
            reference_row(one, sign_corim(one, self._keys.decision, signer_name=SIGNER_NAME), active=1, at=now)
            for digest, one in sorted(made.items())
            if digest not in held
        )
        return tuple(rows), tuple(sorted(held.keys() - made.keys()))

    def _signed(self, item: bytes, publisher: PublicKey | None) -> tuple[Corim, bytes]:
        if not is_signed(item):
            corim = parse_corim(item)
            return corim, sign_corim(corim, self._keys.decision, signer_name=SIGNER_NAME)
        signed = parse_signed_corim(item)
        believed = [self._keys.decision.public, *([] if publisher is None else [publisher])]
        if not any(verify_sign1(signed.sign1, key) for key in believed):
            raise Refused(
                Reason("signature-invalid", "corim", "a signature by the publisher's key that was given, or by this verifier", "another")
            )
        return signed.corim, item


def versions(rows: Iterable[ReferenceRow]) -> list[ReferenceRow]:
    """Those that are versions of something."""
    return [row for row in rows if is_version(row)]


def is_version(row: ReferenceRow) -> bool:
    """Whether it is there for what it says, and not for the names of files that were retired."""
    return row.valid_until != 0 or not keeps_names(corim_of(row))


def corim_of(row: ReferenceRow) -> Corim:
    """The CoRIM of a row."""
    return parse_signed_corim(row.signed).corim


def unsigned(row: ReferenceRow) -> bytes:
    """The CoRIM of a row, as its digest is taken."""
    return encode_corim(corim_of(row))


def reference_row(corim: Corim, signed: bytes, *, active: int, at: int) -> ReferenceRow:
    """The row of a signed CoRIM."""
    return ReferenceRow(digest_of(corim), corim.namespace, corim.environment, corim.id, signed, active, at, corim.valid_until)


def _inactive(rows: tuple[ReferenceRow, ...], named: set[str]) -> tuple[ReferenceRow, ...]:
    return tuple(replace(row, active=0) if row.digest in named else row for row in rows)


def decide_on_set(ledger: Ledger, namespace: str, decide: Callable[[Tables], tuple[Change | None, T]]) -> T:
    """What `decide` makes of the namespace, committed. Raises Unavailable where others kept changing the same set."""
    return decide_and_commit(ledger, decide, what="references", of=f"the set of {namespace}")


def digest_of(corim: Corim) -> str:
    """The name of a CoRIM: the digest of its unsigned form."""
    return str(Digest.of(encode_corim(corim)))


def captured(measurement: Measurement) -> Corim:
    """The CoRIM that approves exactly this measurement of an agent."""
    agent = str(measurement.agent)
    return Corim(
        f"{measurement.agent.name}-{measurement.root().hex()[:16]}",
        measurement.agent.namespace,
        agent,
        tuple(sorted(measured_values(measurement).items())),
    )


def captured_governance(namespace: str, governance: Iterable[tuple[str, Digest]]) -> Corim:
    """The CoRIM that approves exactly these governance components."""
    components = tuple(sorted(governance))
    if not components:
        raise FormatError("governance", "at least one component", "none")
    named = Digest.of(b"".join(name.encode() + digest.value for name, digest in components)).hex()[:16]
    return Corim(f"{GOVERNANCE}-{named}", namespace, GOVERNANCE, components)


def laid_over(part: Corim, base: Corim) -> Corim:
    """`base` with the components of `part` in the place of its own: a new release over what it leaves as it is.

    Of `base`'s namespace, and valid no longer than either. Raises FormatError where they are not of one environment.
    """
    if part.environment != base.environment or part.registers:
        raise FormatError(part.id, f"components of {base.environment}", part.environment)
    components = tuple(sorted({**dict(base.components), **dict(part.components)}.items()))
    ends = [end for end in (part.valid_until, base.valid_until) if end is not None]
    named = f"{part.id[:200]}-over-{Digest.of(encode_corim(base)).hex()[:16]}"
    return replace(base, id=named, components=components, valid_until=min(ends, default=None))
