"""From firmware to agent: the enforcer in the guest starts an agent under a token that rests on a quote of the whole boot."""

from __future__ import annotations

import hashlib

from swtpm.guest import Image
from tests.guest.site import HOST, Guest
from writ.formats.eventlog.ima import parse_row, replay
from writ.formats.eventlog.uefi import parse_uefi_log
from writ.verdict.appraise.boot import judge_boot


def test_an_agent_runs_under_a_token(guest: Guest) -> None:
    guest.serve_enforcer()
    started, said = guest.launch()

    assert started, said


def test_the_evidence_carries_the_logs_of_the_boot_and_they_replay(guest: Guest, image: Image) -> None:
    evidence = next(one for one in guest.evidence() if one.uefi_log is not None)
    assert evidence.uefi_log is not None
    assert evidence.ima_log is not None
    pcrs = {number: evidence.pcrs.get(number) for number in range(16)}
    claims, reasons = judge_boot(parse_uefi_log(evidence.uefi_log), pcrs, "sha256")
    replayed = replay(evidence.ima_log.entries, bytes(32), "sha256", pcrs[10])

    assert (evidence.host, reasons, claims.secure_boot) == (HOST, (), True)
    assert hashlib.sha256(image.kernel.read_bytes()).digest() in dict(claims.sections).values()
    assert replayed is not None
    assert any(
        row is not None and row.name.endswith(b"/attestor/__pycache__/agentd.cpython-311.pyc") for row in map(parse_row, replayed.rows)
    )


def test_a_second_quote_brings_only_what_is_new(guest: Guest) -> None:
    first, second = guest.attest(), guest.attest()

    assert (first.token, second.token) == (True, True), first.reasons | second.reasons
    assert second.evidence.uefi_log is None
    assert second.evidence.ima_log is not None
    assert second.evidence.ima_log.first > 0


def test_before_its_boot_was_approved_it_was_refused_for_every_part_by_name(guest: Guest) -> None:
    claims = {(reason["code"], reason["claim"]) for reason in guest.decided()[0]["reasons"]}
    parts = ("firmware", "secure-boot", "boot", "attestor", "enforcer", "launcher", "interpreter", "ima-policy")

    assert {("attestor-not-rooted", f"executables.{part}") for part in parts} <= claims
