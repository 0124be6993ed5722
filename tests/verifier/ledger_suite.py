"""What every ledger owes: the rules of a commit, whole or not at all. Run over each storage by `test_ledger.py`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from verifier.ledger import (
    ATTEMPTS,
    Admitted,
    Attested,
    Basis,
    Change,
    Consent,
    Consented,
    ContentErased,
    ContentHeld,
    DelegationPublished,
    Enrolment,
    Entry,
    HostChange,
    HostMoved,
    Ledger,
    NonceIssued,
    PolicyPublished,
    ReferencesImported,
    Tables,
    TokensRevoked,
    TrustImported,
    Void,
    decide_and_commit,
)
from verifier.ledger.schema import (
    AdmissionRow,
    AnswerRow,
    ApprovalRow,
    BlobRow,
    DelegationRow,
    EkRow,
    EntryRow,
    ExemptionRow,
    HeardRow,
    HostRow,
    NonceRow,
    PolicyRow,
    ProposalRow,
    ReferenceRow,
    SpaceRow,
    TokenRow,
    TrustRow,
)
from verifier.ledger.transaction import NO_REFERENCES, PRUNED_EVERY, blob, space, unheard
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.tlog.merkle import leaf_hash

NOW = 1_790_000_000
HOST = "host-1"
EK = "sha256:" + "ab" * 32


def entry(kind: str = "attest", at: int = NOW, host: str = HOST, body: bytes = b"signed") -> Entry:
    return Entry(kind, "default", host, at, body)


def nonce(value: int, *, at: int = NOW, life: int = 120, host: str = HOST) -> NonceRow:
    return NonceRow(bytes([value]) * 32, host, at, at + life, 1, None)


def admission(ticket: int = 1, host: str = HOST) -> AdmissionRow:
    return AdmissionRow(bytes([ticket]) * 32, host, "default", None, 0, 1, NOW + 600, 0)


def codes(refused: pytest.ExceptionInfo[Refused]) -> list[str]:
    return [reason.code for reason in refused.value.reasons]


class Desk:
    """A ledger with one enrolled host, and shorthand for what happens next."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def enrol(self, *, host: str = HOST, ek: str = EK, ticket: int = 1, first: NonceRow | None = None, at: int = NOW) -> None:
        before = self.ledger.read().get(HostRow, host)
        generation = 1 if before is None else before.generation + 1
        row = HostRow(host, "default", generation, "active", None, ek, b"record of " + ek.encode(), None, -1)
        self.ledger.commit(
            Enrolment(entry("enrol", at, host), bytes([ticket]) * 32, before, row, first or nonce(1, host=host), (b"record",))
        )

    def ready(self) -> Desk:
        self.ledger.commit(Admitted(entry("operator"), admission()))
        self.enrol()
        self.ledger.commit(PolicyPublished(entry("operator"), PolicyRow("sha256:p1", "default", 1, b"policy"), (), NO_REFERENCES))
        return self

    def host(self, host: str = HOST) -> HostRow:
        row = self.ledger.read().get(HostRow, host)
        assert row is not None
        return row

    def basis(self, host: str = HOST) -> Basis:
        tables, row = self.ledger.read(), self.host(host)
        now = space(tables, "default")
        return Basis(Digest.of(row.record or b"").value, row.version, now.policy or "", now.references_digest, now.epoch)

    def attested(
        self, spends: int, then: int, *, evidence: bytes = b"e" * 32, at: int = NOW, index: int = 0, status: str = "active"
    ) -> Attested:
        row = self.host()
        token = TokenRow(index, f"token-{index:016d}", "default", HOST, bytes(16), at + 60, 0)
        answer = AnswerRow(bytes([spends]) * 32, evidence, b"answer to " + evidence, at + 120)
        return Attested(
            entry=entry(at=at),
            basis=self.basis(),
            heard=replace(unheard(HOST, "default", at), decided_at=at, accepted=1),
            nonce=bytes([spends]) * 32,
            evidence=evidence,
            state=b"state",
            status=status,
            version=row.version + 1,
            doomed=(),
            tokens=(token,),
            next_nonce=nonce(then, at=at),
            answer=answer,
            blobs=(b"blob",),
        )


class LedgerSuite:
    """Subclasses give `ledger`."""

    def test_an_entry_too_large_for_the_log_is_refused_and_nothing_else_is(self, ledger: Ledger) -> None:
        for size in (65_536, 1 << 20):
            with pytest.raises(FormatError, match="at most 65535 bytes"):
                ledger.commit(Admitted(entry("operator", body=bytes(size)), admission()))
        assert ledger.read().get(AdmissionRow, admission().id) is None
        assert ledger.commit(Admitted(entry("operator", body=bytes(65_535)), admission())).entry is not None

    def test_entries_are_found_by_the_beginning_of_their_leaf_hash(self, ledger: Ledger) -> None:
        bodies = [b"entry %d" % number for number in range(40)]
        for number, body in enumerate((*bodies, bodies[7])):
            ledger.commit(Admitted(entry("operator", body=body), admission(1 + number, f"host-{number}")))
        tables = ledger.read()
        for number, body in enumerate(bodies):
            leaf = leaf_hash(body).hex()
            for length in (12, 15, 16, 17, 63, 64):
                assert tables.entries(leaf[:length], most=1)[0].sequence == number, (number, length)
            assert tables.entries(leaf[:63] + ("0" if leaf[63] != "0" else "1"), most=2) == []
        assert [row.sequence for row in tables.entries(leaf_hash(bodies[7]).hex(), most=5)] == [7, 40], "a leaf twice, in the log's order"
        first = bodies[0]
        assert {row.leaf for row in tables.entries(leaf_hash(first).hex()[:1], most=99)} == {
            leaf_hash(body) for body in bodies if leaf_hash(body).hex()[0] == leaf_hash(first).hex()[0]
        }

    @pytest.fixture
    def desk(self, ledger: Ledger) -> Desk:
        return Desk(ledger).ready()

    def test_attestation_writes_everything_at_once(self, desk: Desk) -> None:
        committed = desk.ledger.commit(desk.attested(1, 2))
        tables = desk.ledger.read()
        spent, fresh = tables.get(NonceRow, b"\1" * 32), tables.get(NonceRow, b"\2" * 32)
        assert committed.entry is not None
        assert committed.entry.leaf == leaf_hash(b"signed")
        assert committed.entry.reference == leaf_hash(b"signed").hex()
        assert committed.answer == b"answer to " + b"e" * 32
        assert spent is not None
        assert (spent.newest, spent.spent_by) == (0, b"e" * 32)
        assert fresh is not None
        assert fresh.newest == 1
        assert (desk.host().state, desk.host().version) == (b"state", 0)
        assert tables.get(TokenRow, 0) is not None
        assert blob(tables, "default", Digest.of(b"blob")) == b"blob"
        assert tables.get(BlobRow, Digest.of(b"blob").value) is None, "it is of the namespace, and not of the domain"
        assert blob(tables, "other", Digest.of(b"blob")) is None

    def test_sequence_has_no_gap(self, desk: Desk) -> None:
        desk.ledger.commit(desk.attested(1, 2))
        assert [row.sequence for row in desk.ledger.read().select(EntryRow)] == [0, 1, 2, 3]

    def test_repeated_evidence_gets_the_stored_answer_and_no_entry(self, desk: Desk) -> None:
        desk.ledger.commit(desk.attested(1, 2))
        before = desk.ledger.read().last(EntryRow)
        again = desk.ledger.commit(desk.attested(1, 3, index=1))
        assert (again.repeated, again.answer, again.entry) == (True, b"answer to " + b"e" * 32, None)
        assert desk.ledger.read().last(EntryRow) == before
        assert desk.ledger.read().get(NonceRow, b"\3" * 32) is None

    def test_spent_nonce_is_refused_for_other_evidence(self, desk: Desk) -> None:
        desk.ledger.commit(desk.attested(1, 2))
        with pytest.raises(Refused) as refused:
            desk.ledger.commit(desk.attested(1, 3, evidence=b"f" * 32, index=1))
        assert codes(refused) == ["nonce-spent"]

    def test_unknown_nonce_is_refused(self, desk: Desk) -> None:
        with pytest.raises(Refused) as refused:
            desk.ledger.commit(desk.attested(9, 2))
        assert codes(refused) == ["nonce-unknown"]

    def test_superseded_nonce_is_refused(self, desk: Desk) -> None:
        desk.ledger.commit(NonceIssued(nonce(2)))
        with pytest.raises(Refused) as refused:
            desk.ledger.commit(desk.attested(1, 3))
        assert codes(refused) == ["nonce-superseded"]

    def test_nonce_that_was_issued_before_is_not_issued_again(self, desk: Desk) -> None:
        """A source of randomness that sticks would make a spent nonce fresh, and old evidence with it."""
        before = desk.ledger.read().select(NonceRow)
        for change in (NonceIssued(nonce(1)), desk.attested(1, 1)):
            with pytest.raises(Unavailable, match="randomness"):
                desk.ledger.commit(change)
            assert desk.ledger.read().select(NonceRow) == before
        desk.ledger.commit(desk.attested(1, 2))
        with pytest.raises(Unavailable, match="randomness"):
            desk.ledger.commit(NonceIssued(nonce(1)))
        spent = desk.ledger.read().get(NonceRow, b"\1" * 32)
        assert spent is not None
        assert spent.spent_by == b"e" * 32

    @pytest.mark.parametrize("at", [NOW + 120, NOW + 100_000, NOW - 6])
    def test_nonce_outside_its_life_is_refused(self, desk: Desk, at: int) -> None:
        with pytest.raises(Refused) as refused:
            desk.ledger.commit(desk.attested(1, 2, at=at))
        assert codes(refused) == ["nonce-expired"]

    @pytest.mark.parametrize("at", [NOW + 119, NOW - 5])
    def test_nonce_at_the_ends_of_its_life_is_accepted(self, desk: Desk, at: int) -> None:
        assert desk.ledger.commit(desk.attested(1, 2, at=at)).entry is not None

    def test_nonce_of_another_host_is_refused(self, desk: Desk) -> None:
        desk.ledger.commit(Admitted(entry("operator"), admission(2, "host-2")))
        desk.enrol(host="host-2", ek="sha256:" + "cd" * 32, ticket=2, first=nonce(7, host="host-2"))
        with pytest.raises(Refused) as refused:
            desk.ledger.commit(desk.attested(7, 2))
        assert codes(refused) == ["nonce-unknown"]

    def test_verdict_on_an_older_state_is_void(self, desk: Desk) -> None:
        stale = replace(desk.attested(2, 4, evidence=b"f" * 32, index=1), basis=desk.basis())
        desk.ledger.commit(desk.attested(1, 2))
        with pytest.raises(Void, match="state"):
            desk.ledger.commit(stale)

    def test_verdict_under_an_older_policy_is_void(self, desk: Desk) -> None:
        stale = desk.attested(1, 2)
        desk.ledger.commit(PolicyPublished(entry("operator"), PolicyRow("sha256:p2", "default", 2, b"policy"), (), NO_REFERENCES))
        with pytest.raises(Void, match="policy"):
            desk.ledger.commit(stale)
        assert desk.host().state is None

    def test_verdict_with_older_reference_values_is_void(self, desk: Desk) -> None:
        stale = desk.attested(1, 2)
        desk.ledger.commit(ReferencesImported(entry("operator"), (), (), NO_REFERENCES, b"x" * 32, ()))
        with pytest.raises(Void, match="reference"):
            desk.ledger.commit(stale)

    def consent(self, desk: Desk, before: ProposalRow | None = None, **changes: Any) -> Consent:
        row = ProposalRow("sha256:p", "default", "import", b"data", "k1", NOW + 60, None)
        approval = ApprovalRow("sha256:p/alice", "sha256:p", "alice", "k1", NOW, None)
        now = space(desk.ledger.read(), "default")
        return replace(Consent(before, row, (), (approval,), now.policy, now.delegation), **changes)

    def test_proposal_writes_itself_and_its_approval_and_nothing_in_force(self, desk: Desk) -> None:
        row = ReferenceRow("sha256:c", "default", "governance", "c", b"signed", 0, NOW)
        before = space(desk.ledger.read(), "default")
        desk.ledger.commit(Consented(entry("operator"), self.consent(desk), (row,), (b"blob",)))
        tables = desk.ledger.read()
        assert [one.digest for one in tables.select(ProposalRow, namespace="default")] == ["sha256:p"]
        assert [one.who for one in tables.select(ApprovalRow, proposal="sha256:p")] == ["alice"]
        assert tables.get(ReferenceRow, "sha256:c") == row
        assert blob(tables, "other", Digest.of(b"blob")) == b"blob", "what is proposed is the domain's"
        assert space(tables, "default") == before

    def test_proposal_does_not_take_a_version_out_of_force_that_is_in_it(self, desk: Desk) -> None:
        live = ReferenceRow("sha256:c", "default", "governance", "c", b"signed", 1, NOW)
        desk.ledger.commit(ReferencesImported(entry("operator"), (live,), (), NO_REFERENCES, b"x" * 32, ()))
        desk.ledger.commit(Consented(entry("operator"), self.consent(desk), (replace(live, active=0),), ()))
        assert desk.ledger.read().get(ReferenceRow, "sha256:c") == live

    @pytest.mark.parametrize("what", ["proposal", "approvals", "policy", "delegation"])
    def test_approval_of_what_moved_meanwhile_is_void(self, desk: Desk, what: str) -> None:
        first = self.consent(desk)
        desk.ledger.commit(Consented(entry("operator"), first, (), ()))
        after = replace(first.after, settled_at=NOW)
        stale = {
            "proposal": self.consent(desk, before=None, after=after, seen=("sha256:p/alice",)),
            "approvals": self.consent(desk, before=first.after, after=after, seen=()),
            "policy": self.consent(desk, before=first.after, after=after, seen=("sha256:p/alice",), policy="sha256:another"),
            "delegation": self.consent(desk, before=first.after, after=after, seen=("sha256:p/alice",), delegation="sha256:another"),
        }[what]
        change = ReferencesImported(entry("operator"), (), (), NO_REFERENCES, b"x" * 32, (), consent=stale)
        with pytest.raises(Void, match=what):
            desk.ledger.commit(change)
        assert space(desk.ledger.read(), "default").references_digest == NO_REFERENCES
        good = self.consent(desk, before=first.after, after=after, seen=("sha256:p/alice",), approvals=())
        desk.ledger.commit(replace(change, consent=good))
        assert desk.ledger.read().get(ProposalRow, "sha256:p") == after

    def test_import_held_against_an_older_policy_is_void(self, desk: Desk) -> None:
        change = ReferencesImported(entry("operator"), (), (), NO_REFERENCES, b"x" * 32, (), policy="sha256:p0")
        with pytest.raises(Void, match="policy"):
            desk.ledger.commit(change)
        desk.ledger.commit(replace(change, policy="sha256:p1"))

    def test_exemptions_and_versions_go_out_of_force_together(self, desk: Desk) -> None:
        live = ReferenceRow("sha256:c", "default", "governance", "c", b"signed", 1, NOW)
        exempt = ExemptionRow("sha256:e", "default", b"data", 1, NOW + 60)
        desk.ledger.commit(ReferencesImported(entry("operator"), (live,), (), NO_REFERENCES, b"x" * 32, (), exemptions=(exempt,)))
        desk.ledger.commit(ReferencesImported(entry("operator"), (), ("sha256:c", "sha256:e", "sha256:0"), b"x" * 32, NO_REFERENCES, ()))
        tables = desk.ledger.read()
        assert tables.get(ReferenceRow, "sha256:c") == replace(live, active=0, retired_at=NOW)
        assert tables.get(ExemptionRow, "sha256:e") == replace(exempt, active=0)

    def test_trust_anchors_made_of_others_than_those_in_force_are_void(self, desk: Desk) -> None:
        def imported(name: str, before: str | None) -> TrustImported:
            return TrustImported(entry("operator"), TrustRow(name, name.encode(), 1, NOW), (), before)

        desk.ledger.commit(imported("one", None))
        for stale in (None, "other"):
            with pytest.raises(Void, match="trust anchors"):
                desk.ledger.commit(imported("two", stale))
        desk.ledger.commit(imported("two", "one"))
        assert [row.digest for row in desk.ledger.read().select(TrustRow, current=1)] == ["two"]

    def test_version_of_a_delegation_only_rises(self, desk: Desk) -> None:
        for version in (2, 5):
            desk.ledger.commit(DelegationPublished(entry("operator"), DelegationRow(f"sha256:{version}", "default", version, b"s"), ()))
        for version in (1, 5):
            with pytest.raises(Refused) as refused:
                desk.ledger.commit(DelegationPublished(entry("operator"), DelegationRow("sha256:x", "default", version, b"s"), ()))
            assert codes(refused) == ["delegation-rollback"]
        now = space(desk.ledger.read(), "default")
        assert (now.delegation, now.delegation_version) == ("sha256:5", 5)

    def test_verdict_before_a_revocation_is_void(self, desk: Desk) -> None:
        desk.ledger.commit(desk.attested(1, 2))
        stale = desk.attested(2, 3, evidence=b"f" * 32, index=1)
        desk.ledger.commit(TokensRevoked(entry("operator"), "token-" + "0" * 16, "", (), None))
        with pytest.raises(Void, match="epoch"):
            desk.ledger.commit(stale)
        assert [row.revoked for row in desk.ledger.read().select(TokenRow)] == [1]

    def test_verdict_on_an_older_record_is_void(self, desk: Desk) -> None:
        stale = desk.attested(8, 2)
        desk.ledger.commit(Admitted(entry("operator"), admission(3)))
        desk.enrol(ticket=3, first=nonce(8))
        stale = replace(stale, basis=replace(stale.basis, record=b"another" * 4))
        with pytest.raises(Void, match="record"):
            desk.ledger.commit(stale)

    def test_taken_status_index_voids(self, desk: Desk) -> None:
        desk.ledger.commit(desk.attested(1, 2, index=5))
        with pytest.raises(Void, match="index"):
            desk.ledger.commit(desk.attested(2, 3, evidence=b"f" * 32, index=5))
        fresh = desk.ledger.read().get(NonceRow, b"\2" * 32)
        assert fresh is not None
        assert fresh.spent_by is None

    def test_retired_host_is_refused(self, desk: Desk) -> None:
        change = desk.attested(1, 2)
        row = desk.host()
        desk.ledger.commit(HostMoved(entry("operator"), HostChange(row, replace(row, status="retired"), burn=True)))
        with pytest.raises(Refused) as refused:
            desk.ledger.commit(change)
        assert codes(refused) == ["host-not-active"]

    def test_moving_a_host_that_moved_is_void(self, desk: Desk) -> None:
        row = desk.host()
        desk.ledger.commit(desk.attested(1, 2))
        with pytest.raises(Void, match="host"):
            desk.ledger.commit(HostMoved(entry("operator"), HostChange(row, replace(row, status="retired"))))

    def test_voiding_a_host_ends_nonces_and_live_tokens(self, desk: Desk) -> None:
        desk.ledger.commit(desk.attested(1, 2))
        row = desk.host()
        desk.ledger.commit(HostMoved(entry("operator"), HostChange(row, replace(row, status="contained"), void=True)))
        assert [t.revoked for t in desk.ledger.read().select(TokenRow)] == [1]
        assert desk.ledger.read().select(NonceRow, host=HOST, newest=1) == []

    def test_contained_attestation_is_recorded_as_fork(self, desk: Desk) -> None:
        desk.ledger.commit(desk.attested(1, 2, status="contained"))
        assert (desk.host().status, desk.host().contained_by) == ("contained", "fork")

    def test_spent_ticket_is_refused(self, desk: Desk) -> None:
        with pytest.raises(Refused) as refused:
            desk.enrol()
        assert codes(refused) == ["ticket-spent"]

    def test_expired_ticket_is_refused(self, desk: Desk) -> None:
        desk.ledger.commit(Admitted(entry("operator"), admission(2)))
        with pytest.raises(Refused) as refused:
            desk.enrol(ticket=2, at=NOW + 600)
        assert codes(refused) == ["ticket-expired"]

    def test_unknown_ticket_is_refused(self, desk: Desk) -> None:
        with pytest.raises(Refused) as refused:
            desk.enrol(ticket=9)
        assert codes(refused) == ["ticket-unknown"]

    def test_host_takes_no_other_ek(self, desk: Desk) -> None:
        desk.ledger.commit(Admitted(entry("operator"), admission(2)))
        with pytest.raises(Refused) as refused:
            desk.enrol(ticket=2, ek="sha256:" + "cd" * 32)
        assert codes(refused) == ["host-already-enrolled"]
        assert desk.host().ek == EK

    def test_ek_starts_no_second_host(self, desk: Desk) -> None:
        desk.ledger.commit(Admitted(entry("operator", host="host-2"), admission(2, "host-2")))
        with pytest.raises(Refused) as refused:
            desk.enrol(host="host-2", ticket=2, first=nonce(7, host="host-2"))
        assert codes(refused) == ["ek-already-bound"]

    def test_burnt_ek_enrols_nowhere(self, desk: Desk) -> None:
        row = desk.host()
        after = replace(row, status="admitted", ek=None, record=None)
        desk.ledger.commit(HostMoved(entry("operator"), HostChange(row, after, burn=True, void=True), admission(2)))
        with pytest.raises(Refused) as refused:
            desk.enrol(ticket=2)
        assert codes(refused) == ["ek-burnt"]
        desk.enrol(ticket=2, ek="sha256:" + "cd" * 32, first=nonce(8))
        assert desk.host().generation == 2
        assert desk.ledger.read().get(EkRow, EK) == EkRow(EK, HOST, 1)

    def test_same_ek_enrols_again_as_the_next_generation(self, desk: Desk) -> None:
        desk.ledger.commit(Admitted(entry("operator"), admission(2)))
        desk.enrol(ticket=2, first=nonce(4))
        assert desk.host().generation == 2
        newest = desk.ledger.read().select(NonceRow, host=HOST, newest=1)
        assert [row.nonce for row in newest] == [b"\4" * 32]

    def test_refused_change_leaves_nothing(self, desk: Desk) -> None:
        before = [row for table in (HostRow, NonceRow, EntryRow, TokenRow, SpaceRow) for row in desk.ledger.read().select(table)]
        with pytest.raises(Refused):
            desk.ledger.commit(desk.attested(9, 2))
        assert [row for table in (HostRow, NonceRow, EntryRow, TokenRow, SpaceRow) for row in desk.ledger.read().select(table)] == before

    def test_namespace_counts_what_hosts_are_judged_by_and_an_attestation_what_it_found(self, desk: Desk) -> None:
        def counted(*rows: ReferenceRow, retired: tuple[str, ...] = (), exemptions: tuple[ExemptionRow, ...] = ()) -> int:
            before = space(desk.ledger.read(), "default").references_digest
            change = ReferencesImported(entry("operator"), rows, retired, before, b"after", (), exemptions=exemptions)
            desk.ledger.commit(change)
            return space(desk.ledger.read(), "default").governing

        def version(environment: str, name: str) -> ReferenceRow:
            return ReferenceRow(name, "default", environment, name, b"signed", 1, NOW)

        agent = "spiffe://example.org/default/agent/a"
        assert counted(version(agent, "a1")) == 0
        assert counted(version(agent, "a2"), retired=("a1",)) == 0
        assert counted(version("governance", "g1")) == 1
        assert counted(version(agent, "a3"), version("files/os", "f1")) == 2
        assert counted(retired=("g1", "a3")) == 3
        assert counted(exemptions=(ExemptionRow("e1", "default", b"data", 1, NOW + 60),)) == 3, "it lets pass what was refused"
        assert counted(retired=("e1",)) == 4
        desk.ledger.commit(desk.attested(1, 2))
        heard = desk.ledger.read().get(HeardRow, HOST)
        assert heard is not None
        assert heard.governing == 4

    def test_policy_held_against_other_reference_values_is_void(self, desk: Desk) -> None:
        desk.ledger.commit(ReferencesImported(entry("operator"), (), (), NO_REFERENCES, b"x" * 32, ()))
        with pytest.raises(Void, match="reference"):
            desk.ledger.commit(PolicyPublished(entry("operator"), PolicyRow("sha256:p2", "default", 2, b"policy"), (), NO_REFERENCES))
        assert space(desk.ledger.read(), "default").policy == "sha256:p1"

    def test_policy_version_only_rises(self, desk: Desk) -> None:
        with pytest.raises(Refused) as refused:
            desk.ledger.commit(PolicyPublished(entry("operator"), PolicyRow("sha256:p0", "default", 1, b"policy"), (), NO_REFERENCES))
        assert codes(refused) == ["policy-rollback"]

    def test_fifty_at_once_spend_a_nonce_once(self, desk: Desk) -> None:
        changes = [desk.attested(1, 2, evidence=bytes([i]) * 32, index=i) for i in range(50)]
        outcomes = at_once(desk.ledger, list(changes))
        assert sorted(outcomes) == ["committed"] + ["nonce-spent"] * 49

    def test_fifty_at_once_enrol_one_host(self, desk: Desk) -> None:
        for ticket in range(10, 60):
            desk.ledger.commit(Admitted(entry("operator", host="host-2"), admission(ticket, "host-2")))
        before = desk.host("host-2")
        rows = [HostRow("host-2", "default", 1, "active", None, f"sha256:{i:064x}", b"record", None, -1) for i in range(50)]
        changes = [
            Enrolment(entry("enrol", host="host-2"), bytes([10 + i]) * 32, before, row, nonce(100 + i, host="host-2"), ())
            for i, row in enumerate(rows)
        ]
        outcomes = at_once(desk.ledger, list(changes))
        assert sorted(outcomes) == ["committed"] + ["host-already-enrolled"] * 49
        assert len([row for row in desk.ledger.read().select(EkRow) if row.host == "host-2"]) == 1

    @pytest.mark.parametrize("moves", [0, 1, ATTEMPTS - 1])
    def test_void_change_is_decided_again_on_what_stands_then(self, desk: Desk, moves: int) -> None:
        """Others commit while it is decided: what was read before that and what is read after it are of one moment."""
        names, asked = [NO_REFERENCES, *(bytes([at]) * 32 for at in range(moves))], 0

        def decide(tables: Tables) -> tuple[Change, bytes]:
            nonlocal asked
            asked += 1
            first = space(tables, "default").references_digest
            if asked <= moves:
                desk.ledger.commit(ReferencesImported(entry("operator"), (), (), first, names[asked], ()))
            before = space(tables, "default").references_digest
            assert before == first
            return ReferencesImported(entry("operator"), (), (), before, b"x" * 32, ()), before

        assert decide_and_commit(desk.ledger, decide, what="references", of="the set") == names[-1]
        assert asked == moves + 1
        assert space(desk.ledger.read(), "default").references_digest == b"x" * 32

    def test_snapshot_is_of_one_moment_until_it_ends(self, desk: Desk) -> None:
        change = ReferencesImported(entry("operator"), (), (), NO_REFERENCES, b"x" * 32, ())
        with contextlib.suppress(KeyError), desk.ledger.snapshot() as tables:
            assert space(tables, "default").references_digest == NO_REFERENCES
            desk.ledger.commit(change)
            assert space(tables, "default").references_digest == NO_REFERENCES
            raise KeyError
        with desk.ledger.snapshot() as tables:
            assert space(tables, "default").references_digest == b"x" * 32
        assert space(desk.ledger.read(), "default").references_digest == b"x" * 32

    def test_what_keeps_moving_is_unavailable_and_nothing_is_committed(self, desk: Desk) -> None:
        asked: list[Tables] = []

        def decide(tables: Tables) -> tuple[Change, None]:
            asked.append(tables)
            return ReferencesImported(entry("operator"), (), (), b"never so", b"x" * 32, ()), None

        with pytest.raises(Unavailable, match=f"references: the set moved {ATTEMPTS} times"):
            decide_and_commit(desk.ledger, decide, what="references", of="the set")
        assert len(asked) == ATTEMPTS
        with pytest.raises(Unavailable, match="moved 2 times"):
            decide_and_commit(desk.ledger, decide, what="references", of="the set", attempts=2)
        assert space(desk.ledger.read(), "default").references_digest == NO_REFERENCES

    def test_decision_to_change_nothing_changes_nothing(self, desk: Desk) -> None:
        entries = desk.ledger.read().select(EntryRow)
        assert decide_and_commit(desk.ledger, lambda _: (None, 7), what="references", of="the set") == 7
        assert desk.ledger.read().select(EntryRow) == entries

    def test_old_rows_are_pruned_and_the_log_is_not(self, desk: Desk) -> None:
        desk.ledger.commit(desk.attested(1, 2))
        for at in range(PRUNED_EVERY):
            desk.ledger.commit(Admitted(entry("operator", NOW + 10_000 + at), admission(5 + at)))
        tables = desk.ledger.read()
        assert tables.get(NonceRow, b"\1" * 32) is None
        assert tables.get(AnswerRow, b"\1" * 32) is None
        assert tables.get(TokenRow, 0) is None
        assert len(tables.select(EntryRow)) == 4 + PRUNED_EVERY

    def test_what_is_held_is_not_erased_until_the_hold_is_lifted(self, desk: Desk) -> None:
        def act() -> Entry:
            return entry("operator")

        desk.ledger.commit(ContentHeld(act(), True, (b"a case",)))
        with pytest.raises(Refused) as refused:
            desk.ledger.commit(ContentErased(act(), (b"a request",)))
        assert [one.code for one in refused.value.reasons] == ["held"]
        with pytest.raises(Refused):
            desk.ledger.commit(ContentHeld(act(), True, (b"again",)))
        desk.ledger.commit(ContentHeld(act(), False, (b"settled",)))
        with pytest.raises(Refused):
            desk.ledger.commit(ContentHeld(act(), False, (b"again",)))
        desk.ledger.commit(ContentErased(act(), (b"a request",)))
        tables = desk.ledger.read()
        assert [blob(tables, "", Digest.of(why)) for why in (b"a case", b"settled", b"a request")] == [b"a case", b"settled", b"a request"]
        assert blob(tables, "", Digest.of(b"again")) is None


def at_once(ledger: Ledger, changes: list[Change]) -> list[str]:
    """Commit all, each in a thread of its own, and say what became of each."""
    outcomes: list[str] = []
    barrier = threading.Barrier(len(changes))

    def attempt(change: Change) -> Callable[[], None]:
        def run() -> None:
            barrier.wait()
            try:
                ledger.commit(change)
                outcomes.append("committed")
            except Refused as refused:
                outcomes.append(refused.reasons[0].code)
            except Void as void:
                outcomes.append(void.what)

        return run

    threads = [threading.Thread(target=attempt(change)) for change in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes
