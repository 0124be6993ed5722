"""Names of files are in results and in no entry; a result with names has a salt that only who has the evidence can know."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from tests.world.machine import FILES, Machine
from writ.formats.decision import encode_entry
from writ.formats.digest import Digest
from writ.formats.ear import Ear, Submodule, encode_ear_cbor, parse_ear_cbor
from writ.formats.evidence import encode_evidence
from writ.formats.public import FILE, with_names, with_salt, without_names
from writ.formats.reason import Reason
from writ.verdict.attestation import AttestationVerdict

SECRET = "/home/ada/divorce-papers.pdf"
PLAIN = (
    Reason("algorithm-refused", "ima.hash", "template hashes in sha256", "SHA-1 padded with zeros: a kernel before 5.8"),
    Reason("algorithm-refused", "ima.boot_aggregate", "a digest in sha256", "sha1:00"),
    Reason("attestor-not-rooted", "executables.boot", "boot evidence", "none"),
    Reason("boot-mismatch", "boot.initrd", "a", "b"),
    Reason("ima-log-mismatch", "ima.pcr10", "aa", "a list that replays to it nowhere"),
)


def refused() -> tuple[Machine, AttestationVerdict]:
    machine = Machine()
    machine.attest()
    machine.kernel.measure(SECRET, Digest.of(b"papers"))
    return machine, machine.attest()


@pytest.mark.parametrize(
    "reason",
    [
        Reason("file-unknown", f"ima.{SECRET}", "a reference value, an exclusion or a signature", "sha256:00"),
        Reason("file-mismatch", f"ima.{SECRET}", "sha256:11", "sha256:00"),
        Reason("ima-signature-invalid", f"ima.{SECRET}", "a signature by the key it names", "sha256:00"),
        Reason("ima-violation", f"ima.{SECRET}", "a file that no one writes while it is measured", "a violation"),
        Reason("algorithm-refused", f"ima.{SECRET}", "sha256 or sha384", "sha1:00"),
    ],
)
def test_reason_about_a_file_keeps_code_and_digests_and_loses_the_name(reason: Reason) -> None:
    assert without_names((reason,)) == (Reason(reason.code, FILE, reason.expected, reason.got),)


@pytest.mark.parametrize("name", [SECRET, "/home/ada/" + "x" * 400])
def test_part_that_was_not_measured_is_named_and_its_files_are_not(name: str) -> None:
    reason = Reason("attestor-not-rooted", "executables.attestor", f"{name} measured as approved"[:200], "2 files that were not")
    assert without_names((reason,)) == (replace(reason, expected="files measured as approved"),)


def test_other_reasons_are_as_they_were() -> None:
    assert without_names(PLAIN) == tuple(sorted(PLAIN))


def test_files_that_nothing_but_their_name_told_apart_are_one_reason() -> None:
    many = (Reason("ima-violation", f"ima./tmp/{at}", "no writer", "a violation") for at in range(9))
    assert without_names(many) == (Reason("ima-violation", FILE, "no writer", "a violation"),)


def test_entry_has_no_name_the_result_has_and_together_they_say_all() -> None:
    _, verdict = refused()
    assert SECRET.encode() not in encode_entry(verdict.entry)
    assert SECRET.encode() in verdict.result
    assert with_names(verdict.entry, parse_ear_cbor(verdict.result)) == verdict.reasons != verdict.entry.reasons
    assert {reason.claim for reason in verdict.reasons} == {f"ima.{SECRET}"}


def test_part_that_lacks_a_file_is_in_the_entry_without_it() -> None:
    machine = Machine()
    machine.parts.pop("attestor")
    machine.reboot()
    verdict = machine.attest()
    assert FILES["attestor"].encode() not in encode_entry(verdict.entry)
    assert FILES["attestor"].encode() in verdict.result


def test_names_are_taken_for_reasons_of_the_decision_only() -> None:
    _, verdict = refused()
    ear = parse_ear_cbor(verdict.result)
    other = Reason("tpm-class-refused", "tpm_class", "discrete", "software")
    assert with_names(replace(verdict.entry, reasons=(other,)), ear) == (other,), "nothing is added to what was decided"
    assert with_names(verdict.entry, replace(ear, submodules=(("instance.00", Submodule("none")),))) == verdict.entry.reasons


def test_result_with_names_has_a_salt_that_follows_from_the_evidence() -> None:
    machine = Machine()
    machine.attest()
    machine.kernel.measure(SECRET, Digest.of(b"papers"))
    logs = machine.whole()
    evidence = replace(machine.scene.evidence("one"), **logs)
    verdict = machine.scene.judge(evidence)
    ear = parse_ear_cbor(verdict.result)
    assert ear.salt == hashlib.sha256(b"writ/result-salt/v1" + encode_evidence(evidence)).digest()[:16]
    assert verdict.entry.result == Digest.of(encode_ear_cbor(ear)) != Digest.of(encode_ear_cbor(replace(ear, salt=None)))


def test_result_without_names_has_no_salt() -> None:
    assert parse_ear_cbor(Machine().attest().result).salt is None
    ear = Ear("writ", "1", 0, (("host", Submodule("none")),))
    assert with_salt(ear, PLAIN, b"evidence") is ear
