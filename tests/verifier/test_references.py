"""The life of reference values over HTTP: two people, publishers, exemptions, staging; and each way around them refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.signers import MemorySigner, new_signer
from tests.world.host import SimulatedHost
from tests.world.verifier import RunningVerifier
from verifier import proposals
from verifier.compose import INIT as OPERATOR
from verifier.export import objects_of
from verifier.http.wire import from_base64, to_base64
from verifier.ledger import Change, Committed, Ledger, Tables
from verifier.operate import Client
from verifier.proposals import PROPOSAL_LIFE
from writ.formats.archive import parse_archive
from writ.formats.corim import Corim, encode_corim, parse_signed_corim, sign_corim
from writ.formats.cose import parse_sign1, verify_sign1
from writ.formats.decision import ACTS, AttestDecision, OperatorAct, parse_entry
from writ.formats.digest import Digest
from writ.formats.eat import parse_token
from writ.formats.errors import Refused
from writ.formats.exemption import MOST, parse_exemption
from writ.formats.strict import decode_cbor
from writ.formats.tlog.merkle import leaf_hash
from writ.verdict import reference

AGENT = "spiffe://example.org/default/agent/reporter"


class People:
    """API keys by name, made when first asked for."""

    def __init__(self, verifier: RunningVerifier, folder: Path) -> None:
        self._verifier, self._folder = verifier, folder
        self._made: dict[str, Client] = {}
        self.ids: dict[str, str] = {}

    def __call__(self, name: str, *, by: Client | None = None, role: str = "operator", namespace: str = "default") -> Client:
        if name not in self._made:
            answer = (by or self._verifier.client).post("/v1/api-keys", {"namespace": namespace, "role": role, "label": name})
            path = self._folder / f"{name}.key"
            path.write_text(answer["key"])
            self.ids[name] = answer["id"]
            self._made[name] = self._verifier.as_operator(path)
        return self._made[name]


@pytest.fixture
def people(verifier: RunningVerifier, tmp_path: Path) -> People:
    return People(verifier, tmp_path)


def item(corim: Corim) -> str:
    return to_base64(encode_corim(corim))


def governance(value: bytes = b"new", namespace: str = "default") -> Corim:
    return Corim(f"governance-{value.decode()}", namespace, "governance", (("attestor", Digest.of(value)),))


def agent(*, code: bytes = b"code", prompts: bytes = b"be kind", **changes: Any) -> Corim:
    components = (("code", Digest.of(code)), ("prompts", Digest.of(prompts)))
    return replace(Corim(f"reporter-{prompts.decode()}-{code.decode()}", "default", AGENT, components), **changes)


def listed(client: Client, what: str = "references") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/v1/references")[what]
    return found


def import_(client: Client, *corims: Corim, **more: object) -> dict[str, Any]:
    return client.post("/v1/references", {"corims": [item(one) for one in corims], **more})


def approve(client: Client, proposal: str) -> dict[str, Any]:
    return client.post(f"/v1/proposals/{proposal}/approve")


def acts(verifier: RunningVerifier) -> list[OperatorAct]:
    entries = [parse_entry(parse_sign1(one).payload or b"") for one in parse_archive(verifier.client.export()).entries]
    return [entry for entry in entries if isinstance(entry, OperatorAct)]


def refusal(host: SimulatedHost, *names: str) -> str:
    """The reference of a refused attestation."""
    return leaf_hash(host.attest(*names).decision).hex()


# --- staging ------------------------------------------------------------------------------------------------------------


def test_import_stands_beside_the_old_version_and_retiring_shrinks(verifier: RunningVerifier) -> None:
    import_(verifier.client, agent(prompts=b"1"))
    verifier.clock.advance(100)
    import_(verifier.client, agent(prompts=b"2", valid_until=verifier.clock.now() + 50))
    first, second = listed(verifier.client)
    assert second["imported_at"] == first["imported_at"] + 100
    assert (first["valid_until"], second["valid_until"]) == (None, verifier.clock.now() + 50)
    import_(verifier.client, agent(prompts=b"1"))
    assert listed(verifier.client) == [first, second], "importing it again moves nothing"
    assert verifier.client.post("/v1/retirements", {"digests": [first["digest"]]}) == {"retired": [first["digest"]]}
    assert [row["id"] for row in listed(verifier.client)] == [second["id"]]
    with pytest.raises(Refused, match="not-found"):
        verifier.client.post("/v1/retirements", {"digests": [first["digest"]]})


def test_retired_version_is_refused_at_the_next_attestation(verifier: RunningVerifier, host: SimulatedHost) -> None:
    assert host.attest("one").answers[0].token is not None
    digest = next(row["digest"] for row in listed(verifier.client) if row["environment"] == AGENT)
    verifier.client.post("/v1/retirements", {"digests": [digest]})
    assert [r.code for r in host.attest("one").answers[0].reasons] == ["agent-unknown"]


def test_nobody_retires_what_is_of_another_namespace(verifier: RunningVerifier, people: People) -> None:
    import_(verifier.client, governance())
    with pytest.raises(Refused, match="not-found"):
        people("eve", namespace="billing").post("/v1/retirements", {"digests": [listed(verifier.client)[0]["digest"]]})
    assert len(listed(verifier.client)) == 1


# --- two people ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(verifier: RunningVerifier) -> RunningVerifier:
    """The governance takes two people, what lies below `rooted/` three."""
    verifier.publish(approvals={"governance": 2, "rooted/*": 3})
    return verifier


def test_import_of_governance_comes_into_force_when_a_second_person_approves(guarded: RunningVerifier, people: People) -> None:
    answer = import_(people("alice"), governance())
    assert (answer["state"], answer["missing"]) == ("proposed", ["1 of 2 people"])
    assert listed(guarded.client) == []
    waiting = listed(guarded.client, "proposals")[0]
    assert [row["id"] for row in waiting["references"]] == ["governance-new"]
    assert [one["by"] for one in waiting["approvals"]] == [people.ids["alice"]]
    digest = waiting["of"][0]
    assert guarded.client.get(f"/v1/references/{digest}")["corim"]["components"] == {"attestor": str(Digest.of(b"new"))}, "to be looked at"
    guarded.clock.advance(60)
    assert approve(people("bob"), answer["proposal"])["state"] == "in force"
    row = listed(guarded.client)[0]
    assert (row["digest"], row["imported_at"]) == (digest, guarded.clock.now())
    assert listed(guarded.client, "proposals") == []


@pytest.mark.usefixtures("guarded")
def test_other_environments_take_one_person(people: People) -> None:
    assert import_(people("alice"), agent())["state"] == "in force"


def test_one_import_of_several_waits_as_a_whole(guarded: RunningVerifier, people: People) -> None:
    answer = import_(people("alice"), agent(), governance())
    assert answer["state"] == "proposed"
    assert listed(guarded.client) == []
    approve(people("bob"), answer["proposal"])
    assert len(listed(guarded.client)) == 2


@pytest.mark.usefixtures("guarded")
def test_three_people_are_three(people: People) -> None:
    answer = import_(people("alice"), Corim("r", "default", "rooted/interpreter", (("python", Digest.of(b"x")),)))
    assert answer["missing"] == ["2 of 3 people"]
    assert approve(people("bob"), answer["proposal"])["missing"] == ["1 of 3 people"]
    with pytest.raises(Refused, match="approval-repeated"):
        approve(people("bob"), answer["proposal"])
    assert approve(people("carol"), answer["proposal"])["state"] == "in force"


def test_one_person_does_not_approve_twice(guarded: RunningVerifier, people: People) -> None:
    proposal = import_(people("alice"), governance())["proposal"]
    with pytest.raises(Refused, match="approval-repeated"):
        approve(people("alice"), proposal)
    assert import_(people("alice"), governance())["proposal"] == proposal, "proposing it again is the same proposal, and no approval"
    assert import_(people("bob"), governance())["proposal"] == proposal
    assert listed(guarded.client) == []


@pytest.mark.usefixtures("guarded")
def test_second_key_that_an_operator_made_himself_is_no_second_person(people: People) -> None:
    alice = people("alice")
    proposal = import_(alice, governance())["proposal"]
    for name, by in (("alice-2", alice), ("alice-3", people("alice-2", by=alice))):
        with pytest.raises(Refused, match="approval-repeated"):
            approve(people(name, by=by), proposal)


def test_approval_by_a_key_that_was_revoked_since_does_not_count(guarded: RunningVerifier, people: People) -> None:
    proposal = import_(people("mallory"), governance())["proposal"]
    guarded.client.post(f"/v1/api-keys/{people.ids['mallory']}/revoke")
    assert approve(people("bob"), proposal)["missing"] == ["1 of 2 people"]
    assert approve(people("alice"), proposal)["state"] == "in force"


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("role", ["reader", "publisher"])
def test_who_is_no_operator_does_not_approve(people: People, role: str) -> None:
    proposal = import_(people("alice"), governance())["proposal"]
    with pytest.raises(Refused, match="forbidden"):
        approve(people("eve", role=role), proposal)


@pytest.mark.usefixtures("guarded")
def test_operator_of_another_namespace_does_not_approve(people: People) -> None:
    proposal = import_(people("alice"), governance())["proposal"]
    with pytest.raises(Refused, match="not-found"):
        approve(people("eve", namespace="billing"), proposal)


def test_proposal_lapses(guarded: RunningVerifier, people: People) -> None:
    proposal = import_(people("alice"), governance())["proposal"]
    guarded.clock.advance(PROPOSAL_LIFE + 1)
    with pytest.raises(Refused, match="proposal-closed"):
        approve(people("bob"), proposal)
    again = import_(people("bob"), governance())["proposal"]
    assert again != proposal
    assert approve(people("alice"), again)["state"] == "in force", "the lapsed approval does not block her, and did not count for it"


def test_settled_proposal_is_not_approved_again(guarded: RunningVerifier, people: People) -> None:
    proposal = import_(people("alice"), governance())["proposal"]
    approve(people("bob"), proposal)
    guarded.client.post("/v1/retirements", {"digests": [listed(guarded.client)[0]["digest"]]})
    with pytest.raises(Refused, match="proposal-closed"):
        approve(people("carol"), proposal)
    again = import_(people("carol"), governance())
    assert again["state"] == "proposed", "what was retired takes two people again, also in the same second"
    assert again["proposal"] != proposal


def test_replacement_is_refused_where_the_versions_changed_meanwhile(guarded: RunningVerifier, people: People) -> None:
    approve(people("bob"), import_(people("alice"), governance(b"1"))["proposal"])
    replacing = import_(people("alice"), governance(b"2"), replace=True)["proposal"]
    assert listed(guarded.client, "proposals")[0]["retires"] == [listed(guarded.client)[0]["digest"]]
    approve(people("bob"), import_(people("alice"), governance(b"3"))["proposal"])
    with pytest.raises(Refused, match="conflict"):
        approve(people("bob"), replacing)
    again = import_(people("alice"), governance(b"2"), replace=True)["proposal"]
    approve(people("bob"), again)
    assert [row["id"] for row in listed(guarded.client)] == ["governance-2"]


def test_replacement_is_refused_where_what_it_keeps_went_or_got_company(verifier: RunningVerifier, people: People) -> None:
    verifier.publish(approvals={"governance": 2})
    import_(verifier.client, agent(prompts=b"1"), agent(prompts=b"2"))
    replacing = import_(people("alice"), agent(prompts=b"1"), governance(), replace=True)["proposal"]
    waiting = listed(verifier.client, "proposals")[0]
    rows = {row["id"]: row["digest"] for row in listed(verifier.client)}
    assert (waiting["keeps"], waiting["retires"]) == ([rows["reporter-1-code"]], [rows["reporter-2-code"]])
    import_(verifier.client, agent(prompts=b"3"))
    with pytest.raises(Refused, match="conflict"):
        approve(people("bob"), replacing)
    third = next(row["digest"] for row in listed(verifier.client) if row["id"] == "reporter-3-code")
    verifier.client.post("/v1/retirements", {"digests": [third, rows["reporter-1-code"]]})
    with pytest.raises(Refused, match="conflict"):
        approve(people("bob"), replacing)
    assert [row["id"] for row in listed(verifier.client)] == ["reporter-2-code"]


def test_import_beside_what_is_in_force_is_about_nothing_else(verifier: RunningVerifier, people: People) -> None:
    verifier.publish(approvals={"governance": 2})
    import_(verifier.client, agent(prompts=b"1"), agent(prompts=b"2"))
    proposal = import_(people("alice"), agent(prompts=b"1"), governance())["proposal"]
    assert listed(verifier.client, "proposals")[0]["keeps"] == []
    assert approve(people("bob"), proposal)["state"] == "in force"
    assert len(listed(verifier.client)) == 3


def test_rule_is_the_one_of_the_policy_when_the_last_one_approves(guarded: RunningVerifier, people: People) -> None:
    proposal = import_(people("alice"), governance())["proposal"]
    guarded.publish(approvals={"governance": 3, "rooted/*": 3})
    assert approve(people("bob"), proposal)["missing"] == ["1 of 3 people"]


def test_nobody_lifts_the_rule_alone(guarded: RunningVerifier, people: People) -> None:
    settings = {"accept_runtime_only": True, "tpm_classes": ["software"]}
    shown = guarded.client.get("/v1/policies/current")
    body = {"settings": settings, "schema": shown["schema"], "policies": shown["policies"]}
    answer = people("alice").post("/v1/policies", body)
    assert (answer["state"], answer["missing"]) == ("proposed", ["2 of 3 people"])
    assert import_(people("alice"), governance())["state"] == "proposed"
    assert guarded.client.get("/v1/policies/current")["settings"]["approvals"] == {"governance": 2, "rooted/*": 3}
    approve(people("bob"), answer["proposal"])
    assert approve(people("carol"), answer["proposal"])["state"] == "in force"
    assert guarded.client.get("/v1/policies/current")["settings"]["approvals"] == {}
    assert import_(people("alice"), governance(b"other"))["state"] == "in force"


def test_policy_is_proposed_once(guarded: RunningVerifier, people: People) -> None:
    shown = guarded.client.get("/v1/policies/current")
    body = {"settings": {}, "schema": shown["schema"], "policies": shown["policies"]}
    first = people("alice").post("/v1/policies", body)
    guarded.clock.advance(1)
    for name in ("alice", "bob"):
        assert people(name).post("/v1/policies", body) == first, "the same proposal, and no approval"
    assert people("alice").post("/v1/policies", {**body, "settings": {"hold_max": 1}})["proposal"] != first["proposal"]
    assert len(listed(guarded.client, "proposals")) == 2


def test_proposed_policy_does_not_go_back_behind_a_later_one(guarded: RunningVerifier, people: People) -> None:
    shown = guarded.client.get("/v1/policies/current")
    body = {"settings": {}, "schema": shown["schema"], "policies": shown["policies"]}
    proposal = people("alice").post("/v1/policies", body)["proposal"]
    guarded.publish(approvals={"governance": 2, "rooted/*": 3})
    approve(people("bob"), proposal)
    with pytest.raises(Refused, match="policy-rollback"):
        approve(people("carol"), proposal)


# --- withdrawn ----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("name", ["alice", "bob"])
def test_withdrawn_proposal_is_over(verifier: RunningVerifier, people: People, name: str) -> None:
    proposal = import_(people("alice"), governance())["proposal"]
    assert people(name).post(f"/v1/proposals/{proposal}/withdraw") == {"proposal": proposal, "state": "withdrawn"}
    assert (listed(verifier.client), listed(verifier.client, "proposals")) == ([], [])
    for late in ("approve", "withdraw"):
        with pytest.raises(Refused, match="proposal-closed"):
            people("carol").post(f"/v1/proposals/{proposal}/{late}")
    named = [act for act in acts(verifier) if act.act == "reference-withdraw"]
    assert [(act.subject, act.operator) for act in named] == [(proposal, people.ids[name])]
    verifier.clock.advance(1)
    again = import_(people("alice"), governance())["proposal"]
    assert approve(people("bob"), again)["state"] == "in force", "what was approved of the former is no approval of this"


def test_publisher_withdraws_his_own_and_nothing_else(verifier: RunningVerifier, team: Client, people: People) -> None:
    verifier.publish(approvals={"governance": 2, "spiffe://example.org/default/agent/*": 2})
    mine, other = publish(team, agent(prompts=b"2"))["proposal"], import_(people("alice"), governance())["proposal"]
    for name, proposal in (("team", other), ("rivals", mine)):
        with pytest.raises(Refused, match=r"forbidden: proposal\.by"):
            people(name, role="publisher").post(f"/v1/proposals/{proposal}/withdraw")
    with pytest.raises(Refused, match="forbidden"):
        people("reader", role="reader").post(f"/v1/proposals/{mine}/withdraw")
    with pytest.raises(Refused, match="not-found"):
        people("eve", namespace="billing").post(f"/v1/proposals/{mine}/withdraw")
    team.post(f"/v1/proposals/{mine}/withdraw")
    assert [one["proposal"] for one in listed(verifier.client, "proposals")] == [other]


# --- the last of an environment -------------------------------------------------------------------------------------------


def test_runtime_only_is_accepted_again_when_a_version_is_in_force_again(verifier: RunningVerifier, people: People) -> None:
    boot = Corim("boot-1", "default", "boot", (("application.0", Digest.of(b"1")),))
    import_(verifier.client, boot)
    digest = listed(verifier.client)[0]["digest"]
    with pytest.raises(Refused, match=r"reference-last: .* no other version of boot"):
        verifier.client.post("/v1/retirements", {"digests": [digest]})
    verifier.publish(accept_runtime_only=False, approvals={"boot": 2})
    verifier.client.post("/v1/retirements", {"digests": [digest]})
    shown = verifier.client.get("/v1/policies/current")
    body = {"settings": {"accept_runtime_only": True}, "schema": shown["schema"], "policies": shown["policies"]}
    for client in (verifier.client, people("alice")):
        with pytest.raises(Refused, match=r"reference-last: .* none in force of boot") as caught:
            client.post("/v1/policies", body)
        assert "Import a version" in caught.value.reasons[0].remedy
    import_(people("alice"), boot)
    approve(people("bob"), listed(verifier.client, "proposals")[0]["proposal"])
    proposal = people("alice").post("/v1/policies", body)["proposal"]
    verifier.client.post("/v1/retirements", {"digests": [digest]})
    assert "reference-last" in listed(verifier.client, "proposals")[0]["missing"][0]
    with pytest.raises(Refused, match="reference-last"):
        approve(people("bob"), proposal)
    verifier.clock.advance(1)
    import_(people("alice"), boot)
    again = next(one["proposal"] for one in listed(verifier.client, "proposals") if one["kind"] == "import")
    approve(people("bob"), again)
    assert approve(people("bob"), proposal)["state"] == "in force"


def test_version_without_components_is_not_imported(verifier: RunningVerifier, people: People) -> None:
    registers = ((7, Digest.of(b"7")),)
    import_(verifier.client, agent())
    verifier.client.post("/v1/delegations", {"roles": [role(components=["*"])]})
    empty = agent(components=(), registers=registers)
    for send in (import_, publish):
        with pytest.raises(Refused, match=r"malformed: CoRIM\.components: expected at least one, got none"):
            send(people("team"), empty)
    assert len(listed(verifier.client)) == 1


# --- what a set holds -------------------------------------------------------------------------------------------------------


def rooted(name: str, files: int, part: str = "interpreter") -> Corim:
    components = tuple((f"/usr/lib/{name}/{number}", Digest.of(b"x")) for number in range(files))
    return Corim(name, "default", f"rooted/{part}", components)


@pytest.fixture
def small(verifier: RunningVerifier, host: SimulatedHost, monkeypatch: pytest.MonkeyPatch) -> SimulatedHost:
    """A host of a verifier whose sets hold four files that root a runtime, and of which two are there."""
    monkeypatch.setattr(reference, "MAX_SEEN", 4)
    import_(verifier.client, rooted("a", 2))
    assert host.attest("one").answers
    return host


TOO_LARGE = "too-large: references: expected at most 4 files in rooted/…, got 5"


def test_import_after_which_no_set_could_be_made_is_refused_whole(verifier: RunningVerifier, small: SimulatedHost) -> None:
    before, entries = listed(verifier.client), acts(verifier)
    for corims in ([rooted("b", 3, "launcher")], [rooted("b", 1), rooted("c", 2)], [agent(), rooted("b", 3)]):
        with pytest.raises(Refused, match=TOO_LARGE):
            import_(verifier.client, *corims)
    assert (listed(verifier.client), acts(verifier)) == (before, entries)
    assert small.attest("one").answers
    assert import_(verifier.client, rooted("b", 2))["state"] == "in force", "as many as it holds"
    assert import_(verifier.client, agent(prompts=b"2"))["state"] == "in force"
    assert import_(verifier.client, rooted("c", 4), replace=True)["state"] == "in force", "it is the set after the change that counts"
    assert small.attest("one").answers


def test_approval_after_which_no_set_could_be_made_is_refused(verifier: RunningVerifier, small: SimulatedHost, people: People) -> None:
    verifier.publish(approvals={"rooted/*": 2}, accept_runtime_only=False)
    proposal = import_(people("alice"), rooted("b", 3))["proposal"]
    with pytest.raises(Refused, match=TOO_LARGE):
        approve(people("bob"), proposal)
    verifier.client.post("/v1/retirements", {"digests": [row["digest"] for row in listed(verifier.client) if row["id"] == "a"]})
    assert approve(people("bob"), proposal)["state"] == "in force"
    assert small.attest("one").answers


@pytest.mark.usefixtures("small")
def test_publication_after_which_no_set_could_be_made_is_refused(verifier: RunningVerifier, people: People) -> None:
    roles = [role(environments=["rooted/interpreter"], components=["/usr/lib/*"])]
    verifier.client.post("/v1/delegations", {"roles": roles})
    with pytest.raises(Refused, match=TOO_LARGE):
        publish(people("team", role="publisher"), rooted("b", 3))
    assert publish(people("team"), rooted("b", 2))["state"] == "in force"


def test_set_is_no_larger_than_can_be_proven(verifier: RunningVerifier, people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    import_(verifier.client, agent(prompts=b"1"), agent(prompts=b"2"))
    verifier.client.post("/v1/delegations", {"roles": [role()]})
    verifier.publish(approvals={"governance": 2})
    proposal = import_(people("alice"), governance())["proposal"]
    three = agent(prompts=b"3")
    for bound, what in (("MOST_CORIMS", "at most 2 CoRIMs, got 3"), ("MAX_CORIMS", "at most 2 bytes of CoRIMs")):
        with monkeypatch.context() as patch:
            patch.setattr(reference, bound, 2)
            with pytest.raises(Refused, match=f"too-large: references: expected {what}"):
                import_(verifier.client, three)
            with pytest.raises(Refused, match=f"too-large: references: expected {what}"):
                publish(people("team"), three)
            with pytest.raises(Refused, match=f"too-large: references: expected {what}"):
                approve(people("bob"), proposal)
    assert len(listed(verifier.client)) == 2
    monkeypatch.setattr(reference, "MOST_CORIMS", 1)
    assert import_(verifier.client, three, replace=True)["state"] == "in force", "it is the set after the change that counts"


def test_retiring_is_not_in_the_way_of_a_set_that_is_too_large(
    verifier: RunningVerifier, small: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier.publish(accept_runtime_only=False)
    import_(verifier.client, rooted("b", 2))
    monkeypatch.setattr(reference, "MAX_SEEN", 1)
    rows = [row["digest"] for row in listed(verifier.client) if row["environment"].startswith("rooted/")]
    for digest in rows:
        verifier.client.post("/v1/retirements", {"digests": [digest]})
    assert small.attest("one").answers


# --- what was retired -----------------------------------------------------------------------------------------------------------


def files(name: str, *paths: str, environment: str = "files/os", **changes: Any) -> Corim:
    return Corim(name, "default", environment, tuple((path, Digest.of(name.encode())) for path in sorted(paths)), **changes)


def kept(verifier: RunningVerifier) -> dict[str, list[str]]:
    """The names of files that the set in force keeps, by environment."""
    rows = [row for row in listed(verifier.client) if row["valid_until"] == 0]
    return {
        row["environment"]: sorted(verifier.client.get(f"/v1/references/{row['digest']}")["corim"]["components"])
        for row in sorted(rows, key=lambda row: row["id"])
    }


def retire(verifier: RunningVerifier, *names: str) -> None:
    digests = [row["digest"] for row in listed(verifier.client) if row["id"] in names]
    assert len(digests) == len(names)
    verifier.client.post("/v1/retirements", {"digests": digests})


def test_names_of_retired_files_stay_in_the_set_whichever_way_they_went(verifier: RunningVerifier, people: People) -> None:
    verifier.publish(accept_runtime_only=False, approvals={"files/guarded": 2})
    import_(verifier.client, agent(), files("a", "/a", "/b"), files("b", "/b", "/c"), files("p", "/p", environment="rooted/launcher"))
    approve(people("bob"), import_(people("alice"), files("g", "/g", environment="files/guarded"))["proposal"])
    assert kept(verifier) == {}
    retire(verifier, "a", "p")
    assert kept(verifier) == {"files/retired": ["/a", "/b"], "rooted/launcher": ["/p"]}
    import_(verifier.client, files("c", "/d"), files("q", "/q", environment="rooted/launcher"), replace=True)
    assert kept(verifier)["files/retired"] == ["/a", "/b", "/c"]
    proposal = import_(people("alice"), files("h", "/h", environment="files/guarded"), replace=True)["proposal"]
    retire(verifier, "q", "c")
    approve(people("bob"), proposal)
    assert kept(verifier) == {"files/retired": ["/a", "/b", "/c", "/d", "/g"], "rooted/launcher": ["/p", "/q"]}
    retire(verifier, agent().id)
    assert sorted(row["id"] for row in listed(verifier.client)) == ["h", "retired-0", "retired-0"]


def test_names_of_retired_files_are_not_retired(verifier: RunningVerifier) -> None:
    verifier.publish(accept_runtime_only=False)
    import_(verifier.client, files("a", "/a"), files("p", "/p", environment="rooted/launcher"))
    retire(verifier, "a", "p")
    before = listed(verifier.client)
    for row in before:
        with pytest.raises(Refused, match="not-found"):
            verifier.client.post("/v1/retirements", {"digests": [row["digest"]]})
    import_(verifier.client, files("r", "/r", environment="files/retired"), files("q", "/q", environment="rooted/launcher"), replace=True)
    assert [row for row in listed(verifier.client) if row["id"] == "retired-0"] == before


@pytest.mark.usefixtures("small")
def test_names_of_retired_files_take_no_room_of_those_that_root_a_runtime(verifier: RunningVerifier) -> None:
    verifier.publish(accept_runtime_only=False)
    for name in "bcd":
        import_(verifier.client, rooted(name, 4), replace=True)
    assert len(kept(verifier)["rooted/interpreter"]) == 10


def test_names_that_are_kept_stand_for_no_version(verifier: RunningVerifier) -> None:
    """They are no other version that is left (`reference-last`)."""
    verifier.publish(accept_runtime_only=False)
    import_(verifier.client, files("p", "/p", environment="rooted/launcher"), files("q", "/q", environment="rooted/launcher"))
    retire(verifier, "p")
    verifier.publish()
    with pytest.raises(Refused, match="reference-last"):
        retire(verifier, "q")


def test_names_that_are_kept_are_in_what_an_auditor_gets(verifier: RunningVerifier, host: SimulatedHost) -> None:
    import_(verifier.client, files("a", "/a"), files("b", "/b"))
    retire(verifier, "a")
    host.attest("one")
    archive = parse_archive(verifier.client.export())
    entries = [parse_entry(parse_sign1(one).payload or b"") for one in archive.entries]
    used = next(dict(one.inputs)["references"] for one in entries if isinstance(one, AttestDecision))
    objects = {Digest.of(one): one for one in archive.objects}
    names = decode_cbor(objects[used], "references")
    assert isinstance(names, list)
    found = reference.parse_references(objects[Digest("sha256", name)] for name in names)
    assert found.digest == used
    assert b"/a" in found.files(verifier.clock.now()).pinned


# --- what nothing would be compared with -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "corim, what",
    [
        (files("zz", "/usr/bin/x", environment="rooted/zz"), "CoRIM.environment"),
        (files("zz", "/usr/bin/x", environment="rooted/launcher/x"), "CoRIM.environment"),
        (agent(registers=((7, Digest.of(b"x")),)), "CoRIM.registers"),
        (files("zz", "/usr/bin/x", registers=((7, Digest.of(b"x")),)), "CoRIM.registers"),
    ],
)
def test_what_nothing_is_compared_with_is_not_approved(verifier: RunningVerifier, people: People, corim: Corim, what: str) -> None:
    with pytest.raises(Refused, match=f"malformed: {what}"):
        import_(verifier.client, corim)
    with pytest.raises(Refused, match=f"malformed: {what}"):
        verifier.client.post("/v1/dry-runs", {"corims": [item(corim)]})
    with pytest.raises(Refused, match=f"malformed: {what}"):
        publish(people("team", role="publisher"), corim)
    assert listed(verifier.client) == []


@pytest.mark.parametrize("environment", ["governance", "firmware", "secure-boot", "boot"])
def test_registers_are_approved_where_they_are_compared(verifier: RunningVerifier, environment: str) -> None:
    import_(verifier.client, Corim("r", "default", environment, (("x", Digest.of(b"x")),), ((7, Digest.of(b"x")),)))
    assert [row["environment"] for row in listed(verifier.client)] == [environment]


# --- publishers ---------------------------------------------------------------------------------------------------------


PROMPTS = new_signer()
OTHER = new_signer()


def role(*signers: MemorySigner, name: str = "prompts", threshold: int = 1, **changes: object) -> dict[str, object]:
    keys = [signer.public.to_jwk() for signer in signers or (PROMPTS,)]
    return {
        "name": name, "environments": ["spiffe://example.org/default/agent/*"], "components": ["prompts"], "publishers": keys,
        "threshold": threshold, "not_after": 2_000_000_000, **changes,
    }  # fmt: skip


def publish(client: Client, corim: Corim, *signers: MemorySigner) -> dict[str, Any]:
    signed = [to_base64(sign_corim(corim, one, signer_name="team")) for one in signers or (PROMPTS,)]
    return client.post("/v1/publications", {"signed": signed})


@pytest.fixture
def team(verifier: RunningVerifier, people: People) -> Client:
    """A version of the agent is in force, and a team may change its prompts; this is its API key."""
    import_(verifier.client, agent())
    verifier.client.post("/v1/delegations", {"roles": [role()]})
    return people("team", role="publisher")


def test_team_releases_prompts_without_an_operator(verifier: RunningVerifier, team: Client) -> None:
    for at in range(20):
        assert publish(team, agent(prompts=str(at).encode()))["state"] == "in force"
    rows = {row["id"]: row["digest"] for row in listed(verifier.client)}
    assert len(rows) == 21
    shown = verifier.client.get(f"/v1/references/{rows['reporter-7-code']}")
    assert shown["signer"] == "team", "under the team's own signature"
    last = [act for act in acts(verifier) if act.act == "reference-publish"][-1]
    assert " by prompts of sha256:" in last.subject


def test_publishing_again_changes_nothing(verifier: RunningVerifier, team: Client) -> None:
    publish(team, agent(prompts=b"2"))
    before = acts(verifier)
    assert publish(team, agent(prompts=b"2"))["state"] == "in force"
    assert acts(verifier) == before


@pytest.mark.parametrize(
    "corim, claim",
    [
        (agent(prompts=b"2", code=b"evil"), f"{AGENT}.code"),
        (agent(prompts=b"2", components=(("prompts", Digest.of(b"2")),)), f"{AGENT}.code"),
        (agent(prompts=b"2", components=(*agent().components, ("zz", Digest.of(b"2")))), f"{AGENT}.zz"),
        (agent(prompts=b"2", environment="spiffe://example.org/default/agent/other"), "spiffe://example.org/default/agent/other"),
        (governance(), "corim.environment"),
    ],
)
def test_publisher_changes_nothing_else(verifier: RunningVerifier, team: Client, corim: Corim, claim: str) -> None:
    with pytest.raises(Refused, match="delegation-refused") as caught:
        publish(team, corim)
    assert caught.value.reasons[0].claim == claim
    assert caught.value.reasons[0].remedy
    assert len(listed(verifier.client)) == 1


def test_key_of_no_role_publishes_nothing(verifier: RunningVerifier, team: Client) -> None:
    with pytest.raises(Refused, match=r"delegation-refused: corim\.signature"):
        publish(team, agent(prompts=b"2"), OTHER)
    assert listed(verifier.client, "proposals") == []


def test_without_a_delegation_nobody_publishes(verifier: RunningVerifier, people: People) -> None:
    import_(verifier.client, agent())
    with pytest.raises(Refused, match="delegation-refused"):
        publish(people("team", role="publisher"), agent(prompts=b"2"))


def test_role_that_expired_publishes_nothing(verifier: RunningVerifier, team: Client) -> None:
    verifier.client.post("/v1/delegations", {"roles": [role(not_after=verifier.clock.now())]})
    assert publish(team, agent(prompts=b"2"))["state"] == "in force"
    verifier.clock.advance(1)
    with pytest.raises(Refused, match=r"delegation-refused: role\.prompts\.not_after"):
        publish(team, agent(prompts=b"3"))


def test_publisher_does_not_prolong_what_expires(verifier: RunningVerifier, team: Client) -> None:
    end = verifier.clock.now() + 100
    verifier.client.post("/v1/references", {"corims": [item(agent(valid_until=end))], "replace": True})
    for valid_until in (None, end + 1):
        with pytest.raises(Refused, match=r"delegation-refused: .*valid_until"):
            publish(team, agent(prompts=b"2", valid_until=valid_until))
    assert publish(team, agent(prompts=b"2", valid_until=end))["state"] == "in force"
    verifier.clock.advance(101)
    with pytest.raises(Refused, match="delegation-refused"):
        publish(team, agent(prompts=b"3", valid_until=end))


@pytest.mark.usefixtures("team")
def test_publisher_of_another_namespace_reaches_nothing(verifier: RunningVerifier, people: People) -> None:
    assert listed(verifier.client)
    with pytest.raises(Refused, match="forbidden"):
        publish(people("eve", role="publisher", namespace="billing"), agent(prompts=b"2"))


def test_two_keys_of_a_role_have_to_sign_the_same(verifier: RunningVerifier, team: Client) -> None:
    verifier.client.post("/v1/delegations", {"roles": [role(PROMPTS, OTHER, threshold=2)]})
    first = publish(team, agent(prompts=b"2"))
    assert first["state"] == "proposed"
    assert "1 more signatures of role prompts" in first["missing"][0]
    before = acts(verifier)
    assert publish(team, agent(prompts=b"2"))["proposal"] == first["proposal"], "the same key twice is one key"
    assert acts(verifier) == before
    assert publish(team, agent(prompts=b"3"), OTHER)["state"] == "proposed", "a signature of something else is not the second"
    assert publish(team, agent(prompts=b"2"), OTHER)["state"] == "in force"
    assert publish(team, agent(prompts=b"4"), PROMPTS, OTHER)["state"] == "in force", "both at once"


def test_signature_of_a_key_that_left_the_role_does_not_count(verifier: RunningVerifier, team: Client) -> None:
    third = new_signer()
    verifier.client.post("/v1/delegations", {"roles": [role(PROMPTS, OTHER, third, threshold=2)]})
    publish(team, agent(prompts=b"2"))
    verifier.client.post("/v1/delegations", {"roles": [role(OTHER, third, threshold=2)]})
    assert publish(team, agent(prompts=b"2"), OTHER)["state"] == "proposed"
    assert publish(team, agent(prompts=b"2"), third)["state"] == "in force"


def test_publication_waits_for_operators_where_the_policy_says_so(verifier: RunningVerifier, team: Client, people: People) -> None:
    verifier.publish(approvals={"spiffe://example.org/default/agent/*": 2})
    answer = publish(team, agent(prompts=b"2"))
    assert (answer["state"], answer["missing"]) == ("proposed", ["2 of 2 people"])
    assert approve(people("alice"), answer["proposal"])["missing"] == ["1 of 2 people"]
    assert approve(people("bob"), answer["proposal"])["state"] == "in force"


def test_retired_release_comes_back_by_an_operator_only(verifier: RunningVerifier, team: Client, people: People) -> None:
    bad = agent(prompts=b"2")
    digest = publish(team, bad)["references"][0]["digest"]
    verifier.clock.advance(5)
    verifier.client.post("/v1/retirements", {"digests": [digest]})
    shown = verifier.client.get(f"/v1/references/{digest}")
    assert (shown["active"], shown["retired_at"]) == (False, verifier.clock.now())
    for client in (team, verifier.client):
        with pytest.raises(Refused, match="release-retired"):
            publish(client, bad)
    assert listed(verifier.client, "proposals") == []
    assert publish(team, replace(bad, id="reporter-3"))["state"] == "in force", "a new release of the same values is one that they sign"
    assert import_(people("alice"), bad)["state"] == "in force"
    assert verifier.client.get(f"/v1/references/{digest}")["retired_at"] is None
    assert publish(team, bad)["state"] == "in force"


def test_release_that_was_replaced_is_retired(verifier: RunningVerifier, team: Client) -> None:
    publish(team, agent(prompts=b"2"))
    import_(verifier.client, agent(prompts=b"3"), replace=True)
    verifier.clock.advance(1)
    with pytest.raises(Refused, match="release-retired"):
        publish(team, agent(prompts=b"2"))


def test_retired_release_comes_back_by_no_publication_that_is_open(verifier: RunningVerifier, team: Client, people: People) -> None:
    """It waited for operators while others imported it, and retired it."""
    verifier.publish(approvals={"spiffe://example.org/default/agent/*": 2})
    bad = agent(prompts=b"2")
    published = publish(team, bad)["proposal"]
    approve(people("alice"), published)
    imported = import_(people("carol"), bad)["proposal"]
    approve(people("bob"), imported)
    digest = next(row["digest"] for row in listed(verifier.client) if row["id"] == bad.id)
    verifier.client.post("/v1/retirements", {"digests": [digest]})
    with pytest.raises(Refused, match="release-retired"):
        approve(people("bob"), published)
    waiting = listed(verifier.client, "proposals")
    assert [(one["proposal"], one["missing"][0].split(":")[0]) for one in waiting] == [(published, "release-retired")]
    verifier.clock.advance(1)
    again = import_(people("carol"), bad)["proposal"]
    assert approve(people("bob"), again)["state"] == "in force", "two operators bring it back"
    assert verifier.client.get(f"/v1/references/{digest}")["retired_at"] is None


@pytest.mark.usefixtures("team")
def test_publishers_and_operators_each_have_room_of_their_own(
    verifier: RunningVerifier, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposals, "MOST_OPEN", 2)
    verifier.publish(approvals={"governance": 2, "spiffe://*": 2})
    for number in (b"1", b"2"):
        assert publish(people("team"), agent(prompts=number))["state"] == "proposed"
    with pytest.raises(Refused, match="too-large: proposals: expected at most 2 open ones of publishers, got 2"):
        publish(people("team"), agent(prompts=b"3"))
    for number in (b"1", b"2"):
        assert import_(people("alice"), governance(number))["state"] == "proposed"
    for corim in (governance(b"3"), agent(prompts=b"3")):
        with pytest.raises(Refused, match="too-large: proposals: expected at most 2 open ones of operators, got 2"):
            import_(people("alice"), corim)
    assert approve(people("alice"), publish(people("team"), agent(prompts=b"2"))["proposal"])["state"] == "proposed"
    verifier.clock.advance(PROPOSAL_LIFE + 1)
    assert publish(people("team"), agent(prompts=b"3"))["state"] == "proposed", "what lapsed takes no room"


def test_operators_leave_room_for_publishers(verifier: RunningVerifier, people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "MOST_OPEN", 1)
    import_(verifier.client, agent())
    verifier.client.post("/v1/delegations", {"roles": [role()]})
    verifier.publish(approvals={"*": 2})
    assert import_(people("alice"), governance())["state"] == "proposed"
    assert publish(people("team", role="publisher"), agent(prompts=b"2"))["state"] == "proposed"


def test_older_delegation_is_refused(verifier: RunningVerifier, team: Client) -> None:
    verifier.client.post("/v1/delegations", {"roles": [], "version": 5})
    for version in (1, 4, 5):
        with pytest.raises(Refused, match="delegation-rollback"):
            verifier.client.post("/v1/delegations", {"roles": [role()], "version": version})
    assert verifier.client.get("/v1/delegations/current")["version"] == 5
    with pytest.raises(Refused, match="delegation-refused"):
        publish(team, agent(prompts=b"2"))


@pytest.mark.usefixtures("team")
def test_delegation_is_signed_and_of_its_namespace(verifier: RunningVerifier, people: People) -> None:
    shown = verifier.client.get("/v1/delegations/current")
    assert verify_sign1(parse_sign1(from_base64(shown["signed"], "signed")), verifier.made.parts.keys.decision.public)
    with pytest.raises(Refused, match="not-found"):
        people("eve", namespace="billing").get("/v1/delegations/current")


# --- exemptions ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def drifted(verifier: RunningVerifier, host: SimulatedHost) -> SimulatedHost:
    """Its agent runs with another prompt than the one approved."""
    host.launch("two", prompt=b"be brave")
    assert verifier.url
    return host


def except_(client: Client, reference: str, **more: object) -> dict[str, Any]:
    return client.post("/v1/exemptions", {"reference": reference, "life": 4 * 3600, "why": "hotfix 7", **more})


def test_exemption_of_two_people_lets_one_difference_pass_and_the_token_says_so(
    verifier: RunningVerifier, drifted: SimulatedHost, people: People
) -> None:
    reference = refusal(drifted, "two")
    made = except_(people("alice"), reference[:16])
    wanted = made["exemption"]
    assert (wanted["claim"], wanted["hosts"], made["missing"]) == ("agent/reporter:prompts", ["h1"], ["1 of 2 people"])
    assert drifted.attest("two").answers[0].token is None
    with pytest.raises(Refused, match="approval-repeated"):
        approve(people("alice"), made["proposal"])
    assert approve(people("bob"), made["proposal"])["state"] == "in force"
    token = drifted.attest("two").answers[0].token
    assert token is not None
    shown = listed(verifier.client, "exemptions")[0]
    assert shown["label"] in parse_token(token).claims.exceptions
    assert (shown["state"], shown["why"], shown["approved_by"]) == (
        "in force", "hotfix 7", sorted([people.ids["alice"], people.ids["bob"]]),
    )  # fmt: skip
    assert shown["not_after"] == made["exemption"]["not_after"] == verifier.clock.now() + 4 * 3600


def test_exemption_ends_by_itself_and_by_retiring(verifier: RunningVerifier, drifted: SimulatedHost, people: People) -> None:
    reference = refusal(drifted, "two")
    approve(people("bob"), except_(people("alice"), reference)["proposal"])
    assert drifted.attest("two").answers[0].token is not None
    verifier.clock.advance(4 * 3600 + 1)
    drifted.fetch_nonce()
    assert [r.code for r in drifted.attest("two").answers[0].reasons] == ["component-mismatch"]
    assert listed(verifier.client, "exemptions")[0]["state"] == "expired"
    approve(people("bob"), except_(people("alice"), reference)["proposal"])
    assert drifted.attest("two").answers[0].token is not None
    live = next(one for one in listed(verifier.client, "exemptions") if one["state"] == "in force")
    verifier.client.post("/v1/retirements", {"digests": [live["digest"]]})
    assert drifted.attest("two").answers[0].token is None


def test_exemption_serves_no_other_value_host_or_component(verifier: RunningVerifier, drifted: SimulatedHost, people: People) -> None:
    approve(people("bob"), except_(people("alice"), refusal(drifted, "two"))["proposal"])
    drifted.launch("three", prompt=b"be cruel")
    assert [r.code for r in drifted.attest("three").answers[0].reasons] == ["component-mismatch"]
    other = verifier.host("h2")
    other.launch("two", prompt=b"be brave")
    assert [r.code for r in other.attest("two").answers[0].reasons] == ["component-mismatch"]
    approve(people("bob"), except_(people("alice"), refusal(other, "two"), hosts=["h2"])["proposal"])
    assert other.attest("two").answers[0].token is not None


def test_exemption_names_one_difference_of_several(verifier: RunningVerifier, host: SimulatedHost, people: People) -> None:
    host.launch("two", prompt=b"be brave", grants=(("tool.call", "all/*"),))
    reference = refusal(host, "two")
    with pytest.raises(Refused, match=r"exemption-refused: component: expected one of agent/reporter:grants, agent/reporter:prompts"):
        except_(people("alice"), reference)
    with pytest.raises(Refused, match="exemption-refused"):
        except_(people("alice"), reference, component="code")
    approve(people("bob"), except_(people("alice"), reference, component="prompts")["proposal"])
    assert [r.claim.split(".")[2] for r in host.attest("two").answers[0].reasons] == ["grants"]
    assert verifier.client.get("/v1/references")["proposals"] == []


def test_only_differences_of_recorded_refusals_are_excepted(verifier: RunningVerifier, host: SimulatedHost, people: People) -> None:
    alice = people("alice")
    with pytest.raises(Refused, match="exemption-refused"):
        except_(alice, refusal(host, "one"))  # it was accepted
    host.launch("two", agent="stranger")
    with pytest.raises(Refused, match=r"exemption-refused: decision\.reasons: .*got agent-unknown"):
        except_(alice, refusal(host, "two"))
    with pytest.raises(Refused, match="not-found"):
        except_(alice, "0" * 16)
    enrolled = verifier.client.get("/v1/decisions", most=1000)["decisions"]
    with pytest.raises(Refused, match="exemption-refused"):
        except_(alice, next(one["reference"] for one in enrolled if one["kind"] == "enrol"))


def test_exemption_is_of_its_namespace_and_its_hosts(verifier: RunningVerifier, drifted: SimulatedHost, people: People) -> None:
    reference = refusal(drifted, "two")
    with pytest.raises(Refused, match="not-found"):
        except_(people("eve", namespace="billing"), reference)
    with pytest.raises(Refused, match="not-found: hosts"):
        except_(people("alice"), reference, hosts=["nowhere"])
    proposal = except_(people("alice"), reference)["proposal"]
    with pytest.raises(Refused, match="not-found"):
        approve(people("eve", namespace="billing"), proposal)
    assert listed(verifier.client, "exemptions") == []


def test_exemption_is_not_approved_after_its_end(verifier: RunningVerifier, drifted: SimulatedHost, people: People) -> None:
    proposal = except_(people("alice"), refusal(drifted, "two"), life=60)["proposal"]
    verifier.clock.advance(61)
    with pytest.raises(Refused, match="proposal-closed"):
        approve(people("bob"), proposal)


def test_exemption_with_a_detail_changed_is_another_proposal(drifted: SimulatedHost, people: People) -> None:
    reference = refusal(drifted, "two")
    first = except_(people("alice"), reference)
    assert except_(people("alice"), reference)["proposal"] == first["proposal"]
    second = except_(people("bob"), reference, life=3600)
    assert second["proposal"] != first["proposal"]
    assert [one["by"] for one in second["approvals"]] == [people.ids["bob"]]


def test_no_more_exemptions_than_the_format_holds(verifier: RunningVerifier, drifted: SimulatedHost, people: People) -> None:
    reference = refusal(drifted, "two")
    for life in range(1000, 1000 + MOST):
        approve(people("bob"), except_(people("alice"), reference, life=life)["proposal"])
    last = except_(people("alice"), reference, life=5000)["proposal"]
    with pytest.raises(Refused, match="too-large"):
        approve(people("bob"), last)
    verifier.clock.advance(1001)
    assert approve(people("bob"), last)["state"] == "in force", "one has expired"


# --- the log ------------------------------------------------------------------------------------------------------------


def test_everything_is_in_the_log_and_what_decisions_name_is_in_the_archive(
    verifier: RunningVerifier, drifted: SimulatedHost, people: People
) -> None:
    verifier.publish(approvals={"governance": 2})
    proposal = except_(people("alice"), refusal(drifted, "two"))["proposal"]
    approve(people("bob"), proposal)
    people("bob").post(f"/v1/proposals/{import_(people('alice'), governance())['proposal']}/withdraw")
    token = drifted.attest("two").answers[0].token
    verifier.client.post("/v1/delegations", {"roles": [role()]})
    whole = next(row for row in listed(verifier.client) if row["environment"] == AGENT)
    signed = from_base64(verifier.client.get(f"/v1/references/{whole['digest']}")["signed"], "signed")
    running = parse_signed_corim(signed).corim
    publish(verifier.client, replace(running, id="next", components=tuple(
        (name, Digest.of(b"next") if name == "prompts" else digest) for name, digest in running.components
    )))  # fmt: skip
    verifier.client.post("/v1/retirements", {"digests": [listed(verifier.client)[0]["digest"]]})
    made = {act.act for act in acts(verifier)}
    assert {act for act in ACTS if act.startswith("reference-")} <= made
    archive = parse_archive(verifier.client.export())
    assert token in archive.tokens
    held = archive.by_digest()
    entries = [parse_entry(parse_sign1(one).payload or b"") for one in archive.entries]
    for entry in entries:
        if isinstance(entry, OperatorAct) and entry.act.startswith("reference-"):
            assert [one for one in objects_of(entry) if one not in held] == [], entry
    last = max((entry for entry in entries if isinstance(entry, AttestDecision)), key=lambda entry: any(o.claims for o in entry.outcomes))
    named = decode_cbor(held[dict(last.inputs)["references"]], "references")
    assert all(Digest("sha256", one) in held for one in named)
    exempt = [held[Digest("sha256", one)] for one in named if not held[Digest("sha256", one)].startswith(b"\xd9")]
    assert [parse_exemption(one).why for one in exempt] == ["hotfix 7"]


# --- at the same time ---------------------------------------------------------------------------------------------------


def test_two_who_approve_at_once_bring_it_into_force_once(guarded: RunningVerifier, people: People) -> None:
    proposal = import_(people("alice"), governance())["proposal"]
    clients, outcomes = [people(f"p{at}") for at in range(4)], []

    def run(client: Client) -> None:
        try:
            outcomes.append(approve(client, proposal)["state"])
        except Refused as refused:
            outcomes.append(refused.reasons[0].code)

    threads = [threading.Thread(target=run, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["in force", "proposal-closed", "proposal-closed", "proposal-closed"]
    assert len(listed(guarded.client)) == 1
    assert len([act for act in acts(guarded) if act.act == "reference-approve"]) == 1


class Racing:
    """A ledger before whose next commit something else is committed."""

    def __init__(self, ledger: Ledger, meanwhile: Callable[[], object]) -> None:
        self._ledger = ledger
        self._meanwhile: list[Callable[[], object]] = [meanwhile]

    def commit(self, change: Change) -> Committed:
        while self._meanwhile:
            self._meanwhile.pop()()
        return self._ledger.commit(change)

    def read(self) -> Tables:
        return self._ledger.read()

    def snapshot(self) -> AbstractContextManager[Tables]:
        return self._ledger.snapshot()


def test_import_is_held_against_the_policy_that_came_meanwhile(
    verifier: RunningVerifier, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone permitted when it was asked, no longer when it is committed: it is asked again, and proposed."""
    alice = people("alice")
    racing = Racing(verifier.made.ledger, lambda: verifier.publish(approvals={"governance": 2}))
    monkeypatch.setattr(verifier.made.parts.references, "_ledger", racing)
    assert import_(alice, governance())["state"] == "proposed"
    assert listed(verifier.client) == []


def test_publication_is_held_against_the_delegation_that_came_meanwhile(
    verifier: RunningVerifier, team: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    publications = verifier.made.parts.publications
    racing = Racing(verifier.made.ledger, lambda: publications.delegate(OPERATOR, "default", (), version=None))
    monkeypatch.setattr(publications, "_ledger", racing)
    with pytest.raises(Refused, match="delegation-refused"):
        publish(team, agent(prompts=b"2"))
    assert len(listed(verifier.client)) == 1


def test_publication_is_held_against_the_version_that_was_retired_meanwhile(
    verifier: RunningVerifier, team: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = listed(verifier.client)[0]["digest"]
    racing = Racing(verifier.made.ledger, lambda: verifier.client.post("/v1/retirements", {"digests": [digest]}))
    monkeypatch.setattr(verifier.made.parts.publications, "_ledger", racing)
    with pytest.raises(Refused, match="delegation-refused"):
        publish(team, agent(prompts=b"2"))
    assert listed(verifier.client) == []


def test_approval_counts_no_approval_that_it_did_not_see(guarded: RunningVerifier, people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two who approve something for which three are needed: each is committed on what the other did."""
    proposal = import_(people("alice"), Corim("r", "default", "rooted/launcher", (("x", Digest.of(b"x")),)))["proposal"]
    bob, carol = people("bob"), people("carol")
    monkeypatch.setattr(guarded.made.parts.approvals, "_ledger", Racing(guarded.made.ledger, lambda: approve(carol, proposal)))
    assert approve(bob, proposal)["state"] == "in force"
    assert [one.act for one in acts(guarded)].count("reference-approve") == 2
