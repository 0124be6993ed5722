"""What a service says that it received: led to by the record that the request names, a lie, or a claim that nobody can prove."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from auditor.__main__ import main
from tests.writ.formats.test_access import PERMIT
from tests.writ.verdict.test_lineage import logged, name, record
from writ.formats.access import Access, encode_access
from writ.formats.archive import Archive, InstanceLog, encode_archive
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.policy_bundle import CLOCK_SKEW
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord, OutcomeRecord
from writ.verdict.received import JudgedReceived, judge_received

SENDER, STRANGER = bytes(range(16)), bytes(16)
URL = "https://b.test/v1/x"
SENT = record(1, action="http.post", resource=URL, token=PERMIT.token)
LATER = record(3, action="tool.call", resource="notes", decided_at=SENT.decided_at + 60)
ENDED = OutcomeRecord(2, SENT.decided_at, 1, "done", 200, 2, bytes(32))
ASKED = replace(PERMIT, decided_at=SENT.decided_at, parent=name(SENT))


def judged(
    *accesses: Access, records: Sequence[ActionRecord | OutcomeRecord] = (SENT, ENDED, LATER), instance: bytes = SENDER
) -> JudgedReceived:
    return judge_received(accesses, {instance: logged(instance, records)})


def fault(*accesses: Access, **more: Sequence[ActionRecord | OutcomeRecord]) -> tuple[str, str]:
    found = judged(*accesses, **more)  # type: ignore[arg-type]  # `records`
    (reason,) = found.reasons
    assert (reason.code, reason.claim) == ("lineage-broken", f"access.{ASKED.reference}.parent")
    assert ASKED.reference not in found.unproven
    return reason.expected, reason.got


def test_request_descends_from_the_record_that_it_names() -> None:
    assert judged(ASKED) == JudgedReceived((ASKED.reference,), (), ())
    refused = replace(ASKED, reasons=(Reason("grant-missing", "a", "b", "c"),))
    assert judged(refused).proven == (ASKED.reference,), "also one that the service refused: it was sent all the same"


def test_request_that_names_no_record_claims_nothing() -> None:
    assert judged(replace(ASKED, parent=None)) == JudgedReceived((), (), ())
    assert judged(replace(ASKED, instance=None)) == JudgedReceived((), (), ())


def test_claim_is_unproven_without_the_senders_log_or_where_it_ends_before() -> None:
    elsewhere = replace(ASKED, parent=bytes(32))
    assert judge_received([ASKED], {}).unproven == (ASKED.reference,)
    assert judged(ASKED, instance=STRANGER).unproven == (ASKED.reference,), "another instance's log says nothing, whatever is in it"
    short = (SENT, ENDED, replace(LATER, decided_at=ASKED.decided_at + CLOCK_SKEW))
    assert judged(elsewhere, records=short).unproven == (ASKED.reference,), "what came after may have been in it"


def test_record_that_is_not_in_a_log_that_reaches_further_is_a_lie() -> None:
    assert fault(replace(ASKED, parent=bytes(32)))[1] == "none"


@pytest.mark.parametrize(
    "sent, expected",
    [
        pytest.param(replace(SENT, action="http.get"), "http.post on", id="another action"),
        pytest.param(replace(SENT, resource="https://b.test/v1/y"), "http.post on", id="another resource"),
        pytest.param(replace(SENT, reasons=(Reason("grant-missing", "a", "b", "c"),)), "a permit", id="a refusal"),
        pytest.param(replace(SENT, token=Digest.of(b"another")), "one under token", id="another token"),
        pytest.param(replace(SENT, token=None), "one under token", id="no token"),
        pytest.param(replace(SENT, decided_at=ASKED.decided_at + CLOCK_SKEW + 1), "one decided at", id="decided after it"),
    ],
)
def test_record_of_something_else_led_to_no_request(sent: ActionRecord, expected: str) -> None:
    assert fault(replace(ASKED, parent=name(sent)), records=(sent,))[0].startswith(expected)


def test_clocks_may_differ_by_the_skew() -> None:
    sent = replace(SENT, decided_at=ASKED.decided_at + CLOCK_SKEW)
    assert judged(replace(ASKED, parent=name(sent)), records=(sent,)).proven


def test_what_is_no_action_led_to_no_request() -> None:
    assert fault(replace(ASKED, parent=name(ENDED))) == ("an action in the log of its instance", "no action")


def test_record_led_to_one_request_and_another_that_names_it_is_a_lie() -> None:
    found = judged(replace(ASKED, reference="first"), ASKED)
    assert (found.proven, [reason.got for reason in found.reasons]) == (("first",), ["another"])


def test_leaves_that_are_no_log_are_an_error() -> None:
    with pytest.raises(FormatError):
        judge_received([ASKED], {SENDER: [b"\x80"]})


@pytest.mark.parametrize(
    "lines, records, status, verdict",
    [
        ([ASKED, replace(ASKED, parent=None)], (SENT, ENDED, LATER), 0, "accepted"),
        ([replace(ASKED, parent=bytes(32))], (SENT, ENDED, LATER), 1, "refused"),
        ([replace(ASKED, parent=bytes(32))], (SENT,), 3, "incomplete"),
        ([ASKED, b'{"torn":'], (SENT, ENDED, LATER), 3, "incomplete"),
    ],
)
def test_the_command_says_what_led_to_what_a_service_received(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: list[Access | bytes], records: Sequence[ActionRecord | OutcomeRecord],
    status: int, verdict: str,
) -> None:  # fmt: skip
    received, archive = tmp_path / "decisions.jsonl", tmp_path / "enforcer.archive"
    received.write_bytes(b"".join((line if isinstance(line, bytes) else encode_access(line)) + b"\n" for line in lines))
    archive.write_bytes(encode_archive(Archive((), (), (), (InstanceLog(SENDER, tuple(logged(SENDER, records))),))))
    words = ["lineage", str(archive), "--received", str(received)]
    assert main([*words, "--json"]) == status
    said = json.loads(capsys.readouterr().out)
    assert said["verdict"] == verdict
    assert said["proven"] + len(said["unproven"]) + len(said["reasons"]) + said["name_no_record"] + said["no_records"] == len(lines)
    assert main(words) == status
    told = "".join(capsys.readouterr())
    assert {0: "1 requests was led to", 1: "lineage-broken", 3: "not known"}[status] in told
