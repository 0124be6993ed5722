"""How a host stands, as operators see it over HTTP and on the command line: each word by what really happens to a host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.world.chip import Chip
from tests.world.host import RefusedByVerifier, SimulatedHost
from tests.world.verifier import RunningVerifier
from verifier.__main__ import main
from verifier.ledger.schema import EntryRow, HeardRow, HostRow
from verifier.ledger.sqlite import SqliteTables
from writ.formats.cose import parse_sign1
from writ.formats.decision import EnrolDecision, OperatorAct, parse_entry
from writ.formats.errors import Refused
from writ.formats.exchange import AttestAnswer
from writ.formats.policy_bundle import TOKEN_LIFE


def shown(verifier: RunningVerifier, host: str = "h1") -> dict[str, Any]:
    """The host in full, after a look that the list says the same."""
    whole = verifier.client.get(f"/v1/hosts/{host}")
    listed = next(one for one in verifier.client.get("/v1/hosts")["hosts"] if one["host"] == host)
    assert {key: whole[key] for key in listed} == listed
    return whole


def word(verifier: RunningVerifier, host: str = "h1") -> str:
    return str(shown(verifier, host)["standing"])


def again(verifier: RunningVerifier, host: SimulatedHost) -> SimulatedHost:
    """The host, enrolled once more with a new ticket, its log as it was."""
    other = verifier.stranger(host.name, host.chip)
    other.enrol(verifier.admit(host.name))
    other.records, other.instances, other.measured = host.records, host.instances, host.measured
    return other


def test_admitted_then_enrolled_host_is_never_seen(verifier: RunningVerifier) -> None:
    began = verifier.clock.now()
    ticket = verifier.admit("h1")
    assert (word(verifier), shown(verifier)["since"], shown(verifier)["contacted_at"]) == ("never-seen", began, None)
    verifier.clock.advance(5)
    verifier.stranger("h1").enrol(ticket)
    assert (word(verifier), shown(verifier)["since"], shown(verifier)["contacted_at"]) == ("never-seen", began + 5, began + 5)
    assert "epoch" not in shown(verifier)


def test_accepted_host_is_trusted_then_unreachable_and_trusted_again_with_a_new_beginning(
    verifier: RunningVerifier, host: SimulatedHost
) -> None:
    began = verifier.clock.now()
    host.attest("one")
    verifier.clock.advance(TOKEN_LIFE // 2)
    host.attest("one")
    seen = shown(verifier)
    assert (seen["standing"], seen["since"], seen["decided_at"], seen["reasons"]) == ("trusted", began, began + TOKEN_LIFE // 2, [])
    verifier.clock.advance(TOKEN_LIFE)
    assert (word(verifier), shown(verifier)["since"]) == ("unreachable", verifier.clock.now())
    verifier.clock.advance(20)
    host.attest("one")
    assert (word(verifier), shown(verifier)["since"]) == ("trusted", verifier.clock.now())


def test_host_that_only_fetches_nonces_is_stale(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.attest("one")
    verifier.clock.advance(TOKEN_LIFE)
    host.fetch_nonce()
    assert (word(verifier), shown(verifier)["since"]) == ("stale", verifier.clock.now())


def test_unapproved_governance_is_untrusted_with_its_remedy_and_silence_changes_nothing(
    verifier: RunningVerifier, host: SimulatedHost
) -> None:
    host.attest("one")
    host.chip.reboot()
    host.records, host.sent = [], 0
    host.govern(attestor=b"another attestor", enforcer=b"enforcer")
    host.attest()
    seen = shown(verifier)
    assert (seen["standing"], seen["since"]) == ("untrusted", verifier.clock.now())
    assert {reason["code"] for reason in seen["reasons"]} == {"governance-mismatch"}
    assert all(reason["remedy"] and reason["expected"] and reason["got"] for reason in seen["reasons"])
    verifier.clock.advance(10 * TOKEN_LIFE)
    host.fetch_nonce()
    assert word(verifier) == "untrusted"


def test_class_of_tpm_that_the_policy_does_not_accept_is_refused(verifier: RunningVerifier, host: SimulatedHost) -> None:
    verifier.publish(tpm_classes=["discrete"])
    host.attest("one")
    assert (word(verifier), shown(verifier)["reasons"][0]["code"]) == ("refused", "tpm-class-refused")


def test_reboot_that_owes_its_log_is_rebooted_and_its_epoch_is_named(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.attest("one")
    assert shown(verifier)["epoch"] == {"began": "first", "at": verifier.clock.now()}
    verifier.clock.advance(20)
    host.reboot()
    host.deliver(host.evidence(first=1))
    assert (word(verifier), shown(verifier)["reasons"][0]["code"]) == ("rebooted", "full-log-required")
    host.sent = 0
    host.attest()
    assert shown(verifier)["epoch"] == {"began": "rebooted", "at": verifier.clock.now()}
    assert word(verifier) == "trusted"


def test_clock_that_may_have_lost_time_is_named_and_neither_accused_nor_passed(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.attest("one")
    host.reboot()
    host.chip.safe = False
    host.attest()
    seen = shown(verifier)
    assert (seen["standing"], seen["state"]["safe"], seen["epoch"]["began"]) == ("trusted", False, "rebooted")
    host.chip.resume()
    host.attest()
    assert shown(verifier)["epoch"]["began"] == "resumed"
    assert (word(verifier), shown(verifier)["state"]["safe"]) == ("trusted", False)


def test_clock_that_runs_backwards_is_forked_until_released_and_not_trusted_by_the_release(
    verifier: RunningVerifier, host: SimulatedHost
) -> None:
    host.attest("one")
    host.chip.clock -= 1_500
    host.attest("one")
    began = verifier.clock.now()
    assert (word(verifier), shown(verifier)["since"]) == ("forked", began)
    verifier.clock.advance(30)
    host.chip.tick(10_000)
    host.attest("one")
    assert (word(verifier), shown(verifier)["since"]) == ("forked", began)
    verifier.client.post("/v1/hosts/h1/release")
    assert word(verifier) in ("untrusted", "refused")


def test_released_host_is_not_trusted_for_what_was_accepted_before(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.attest("one")
    verifier.client.post("/v1/revocations", {"kind": "host", "subject": "h1"})
    assert word(verifier) == "contained"
    released = verifier.client.post("/v1/hosts/h1/release")
    assert (released["standing"], word(verifier)) == ("stale", "stale")
    host.fetch_nonce()
    host.launch("two")
    host.attest("two")
    assert word(verifier) == "trusted"
    verifier.client.post("/v1/hosts/h1/retire")
    assert word(verifier) == "retired"


# --- TPM2_Clear ----------------------------------------------------------------------------------------------------------


def enrolments(verifier: RunningVerifier) -> list[bool]:
    entries = [parse_entry(parse_sign1(row.entry).payload or b"") for row in verifier.made.ledger.read().select(EntryRow, kind="enrol")]
    return [entry.cleared for entry in entries if isinstance(entry, EnrolDecision)]


def test_cleared_tpm_needs_a_ticket_and_stays_cleared_until_accepted(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.attest("one")
    host.chip.clear()
    with pytest.raises(RefusedByVerifier) as caught:  # the old AK is gone, and no other speaks for the host
        host.attest("one")
    assert caught.value.codes == ["signature-invalid"]
    assert word(verifier) == "trusted"
    with pytest.raises(RefusedByVerifier):
        verifier.stranger("h1", host.chip).enrol(None)
    new = again(verifier, host)
    assert (word(verifier), shown(verifier)["since"]) == ("cleared", verifier.clock.now())
    assert enrolments(verifier) == [False, True]
    new.deliver(new.evidence(first=1))  # refused: from nothing, the log is owed in full
    assert word(verifier) == "cleared"
    assert {reason["code"] for reason in shown(verifier)["reasons"]} & {"full-log-required", "runtime-log-rewound"}
    new.sent = 0
    new.attest()
    assert word(verifier) == "trusted"


def test_cleared_and_enrolled_twice_is_still_cleared(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.attest("one")
    host.chip.clear()
    again(verifier, again(verifier, host))
    assert (word(verifier), enrolments(verifier)) == ("cleared", [False, True, False])


def test_i6_clear_launders_neither_containment_nor_taint(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.attest("one")
    host.drift("one")
    host.attest("one")
    verifier.client.post("/v1/revocations", {"kind": "host", "subject": "h1"})
    host.chip.clear()
    new = again(verifier, host)
    assert word(verifier) == "contained"
    answer = new.attest("one")
    assert "host-contained" in {reason.code for reason in answer.reasons}
    assert "instance-tainted" in {reason.code for reason in answer.answers[0].reasons}
    assert word(verifier) == "contained"
    verifier.client.post("/v1/hosts/h1/release")
    assert word(verifier) == "cleared"
    assert {reason.code for reason in new.attest("one").answers[0].reasons} == {"instance-tainted"}


def test_another_tpm_in_the_host_is_replaced_and_not_cleared(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.attest("one")
    ticket = verifier.client.post("/v1/hosts/h1/replace", {})["ticket"]
    assert word(verifier) == "never-seen"
    verifier.stranger("h1", Chip(seed="new", reset_count=1)).enrol(ticket)
    assert (word(verifier), enrolments(verifier)) == ("never-seen", [False, False])


# --- logs that are owed ---------------------------------------------------------------------------------------------------

OWED = {"boot-log-required", "ima-log-required"}


def codes(answer: AttestAnswer) -> set[str]:
    return {reason.code for reason in answer.reasons}


def silent(host: SimulatedHost) -> SimulatedHost:
    """The same host, as one that sends no logs of boot and IMA."""
    host.uefi_log = host.kernel = None
    return host


@pytest.mark.parametrize("how", ["new ticket", "TPM2_Clear", "another TPM"])
def test_i6_no_enrolment_ends_the_debt_of_a_log(verifier: RunningVerifier, host: SimulatedHost, how: str) -> None:
    """What a host sent before is what keeps it honest: enrolling again is no way to stop."""
    host.boot()
    assert not codes(host.attest("one")) & OWED
    if how == "TPM2_Clear":
        host.chip.clear()
    if how == "another TPM":
        ticket = verifier.client.post("/v1/hosts/h1/replace", {})["ticket"]
        new = verifier.stranger("h1", Chip(seed="new", reset_count=1))
        new.enrol(ticket)
        new.govern()
    else:
        new = silent(again(verifier, host))
    new = again(verifier, new)  # nor does enrolling twice
    assert codes(new.attest()) >= OWED
    new.boot()
    assert not codes(new.attest()) & OWED
    assert codes(silent(new).attest()) == {"ima-log-required"}, "from then on in this boot too"


def test_operator_excuses_a_host_that_has_no_logs_any_more(verifier: RunningVerifier, host: SimulatedHost) -> None:
    def excuse() -> None:
        verifier.client.post("/v1/hosts/h1/excuse")

    with pytest.raises(Refused, match=r"host\.logs"):
        excuse()  # it never attested
    host.attest("one")
    with pytest.raises(Refused, match=r"host\.logs"):
        excuse()  # it owes none
    host.boot()
    host.attest("one")
    with pytest.raises(Refused, match=r"host\.logs"):
        excuse()  # what they say of this boot stands
    new = silent(again(verifier, host))
    assert codes(new.attest("one")) >= OWED
    assert [entry.act for entry in acts(verifier)].count("host-excuse") == 0
    excuse()
    assert [(entry.act, entry.subject) for entry in acts(verifier)][-1] == ("host-excuse", "h1")
    assert not codes(new.attest()) & OWED
    assert word(verifier) == "trusted"
    new.boot()
    new.attest()
    assert codes(silent(new).attest()) == {"ima-log-required"}, "until it sends one again"


@pytest.mark.parametrize("known", ["boot", "ima"])
def test_i6_what_one_log_says_of_this_boot_is_not_excused(verifier: RunningVerifier, host: SimulatedHost, known: str) -> None:
    host.boot()
    if known == "boot":
        host.kernel = None
    else:
        host.uefi_log = None
    host.attest("one")
    with pytest.raises(Refused, match=r"host\.logs"):
        verifier.client.post("/v1/hosts/h1/excuse")


@pytest.mark.parametrize("what", ["boot", "files/*", "rooted/*"])
def test_i6_one_operator_excuses_nobody_where_it_takes_several(verifier: RunningVerifier, host: SimulatedHost, what: str) -> None:
    host.boot()
    host.attest("one")
    new = silent(again(verifier, host))
    verifier.publish(approvals={what: 2})
    with pytest.raises(Refused, match=r"policy\.approvals"):
        verifier.client.post("/v1/hosts/h1/excuse")
    assert codes(new.attest("one")) >= OWED


def test_retired_host_is_not_excused(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.boot()
    host.attest("one")
    again(verifier, host)
    verifier.client.post("/v1/hosts/h1/retire")
    with pytest.raises(Refused, match=r"host\.logs"):
        verifier.client.post("/v1/hosts/h1/excuse")


def acts(verifier: RunningVerifier) -> list[OperatorAct]:
    entries = [parse_entry(parse_sign1(row.entry).payload or b"") for row in verifier.made.ledger.read().select(EntryRow, kind="operator")]
    return [entry for entry in entries if isinstance(entry, OperatorAct)]


# --- as it is shown ------------------------------------------------------------------------------------------------------


def test_page_of_hosts_costs_the_same_number_of_reads_whatever_its_length(
    verifier: RunningVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        verifier.admit(f"h{number:02d}")
    reads: list[type] = []
    get, select = SqliteTables.get, SqliteTables.select

    def counted_get(self: SqliteTables, table: Any, key: object) -> Any:
        reads.append(table)
        return get(self, table, key)

    def counted_select(self: SqliteTables, table: Any, **how: Any) -> Any:
        reads.append(table)
        return select(self, table, **how)

    monkeypatch.setattr(SqliteTables, "get", counted_get)
    monkeypatch.setattr(SqliteTables, "select", counted_select)
    counts = []
    for most in (1, 12):
        reads.clear()
        assert len(parts_list(verifier, most)) == most
        counts.append(sorted(table.__name__ for table in reads))
    assert counts[0] == counts[1]
    assert counts[0].count(HeardRow.__name__) == counts[0].count(HostRow.__name__) == 1


def parts_list(verifier: RunningVerifier, most: int) -> Any:
    return verifier.made.parts.hosts.list("default", most=most, after=None)


def test_pages_tell_each_host_its_own_word(verifier: RunningVerifier, host: SimulatedHost) -> None:
    for name in ("a1", "g1", "z1"):
        verifier.admit(name)
    host.attest("one")
    found = {one["host"]: one["standing"] for one in pages(verifier)}
    assert found == {"a1": "never-seen", "g1": "never-seen", "h1": "trusted", "z1": "never-seen"}


def pages(verifier: RunningVerifier) -> Iterator[dict[str, Any]]:
    after: dict[str, str | int] = {}
    while page := verifier.client.get("/v1/hosts", most=1, **after)["hosts"]:
        yield from page
        after = {"after": page[-1]["host"]}


def test_command_shows_the_word_to_people_and_to_scripts(
    verifier: RunningVerifier, host: SimulatedHost, capsys: pytest.CaptureFixture[str]
) -> None:
    verifier.publish(tpm_classes=["discrete"])
    host.attest("one")
    where = ["--url", verifier.url, "--api-key-file", str(verifier.key_file)]
    assert main(["host", "list", *where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hosts"][0]["standing"] == "refused"
    assert main(["host", "show", "h1", *where]) == 0
    out = capsys.readouterr().out
    assert "refused" in out
    assert "The policy does not accept this class of TPM." in out
