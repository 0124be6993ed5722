"""A TRACE record says what was proven and no more; that project's own tests of it are in `tests/peers/test_trace.py`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from auditor.__main__ import main
from auditor.trace import Said, sign_trace, trace_record
from tests.signers import new_signer
from tests.world.authority import crls_of
from tests.world.chip import Chip
from tests.world.machine import STRICT, Machine
from tests.world.scene import NOW, RUNTIME_PCR, Scene
from tests.world.tlog import in_log
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.eventlog.cel import encode_cel, parse_cel
from writ.formats.eventlog.runtime import StartEvent, parse_event, record_event
from writ.formats.evidence import Evidence, parse_evidence
from writ.formats.keys import ES256
from writ.formats.proof_bundle import ProofBundle, encode_proof_bundle
from writ.formats.strict import b64url, parse_b64url
from writ.formats.trust import Trust, encode_trust
from writ.service.signers import create_signer
from writ.verdict.proof import prove

SAID = Said("example", "small-1", "internal")


def record_of(bundle: ProofBundle, trust: Trust) -> dict[str, Any]:
    data = encode_proof_bundle(bundle)
    return trace_record(bundle, prove(bundle, trust).chain, SAID, name="a.writ-proof", encoded=Digest.of(data), now=NOW + 60)


def rooted(tpm_class: str, *, known: bool = True) -> tuple[ProofBundle, Trust]:
    """Booted as approved; `known`: whether the maker says that the TPM's certificates are not revoked."""
    crls = crls_of(Chip().maker, this=NOW - 6_000) if known else ()
    machine = Machine(replace(STRICT, tpm_classes=(tpm_class,)), tpm_class=tpm_class, crls=crls)
    machine.scene.logs = machine.whole
    return machine.scene.proof_bundle(), machine.scene.trust


def test_a_software_tpm_is_software_only_whatever_it_quoted_and_a_runtime_that_nothing_vouches_for_is_a_warning() -> None:
    scene = Scene()
    record = record_of(scene.proof_bundle(), scene.trust)
    assert record["runtime"]["platform"] == "software-only"
    assert record["appraisal"]["status"] == "warning"
    bundle, trust = rooted("software")
    record = record_of(bundle, trust)
    assert (record["runtime"]["platform"], record["appraisal"]["status"]) == ("software-only", "warning")


@pytest.mark.parametrize("tpm_class", ["discrete", "firmware", "virtual"])
def test_any_other_tpm_is_tpm2_with_the_registers_as_quoted_and_the_verifiers_challenge(tpm_class: str) -> None:
    bundle, trust = rooted(tpm_class)
    record = record_of(bundle, trust)
    evidence = parse_evidence(bundle.evidence)
    assert record["runtime"]["platform"] == "tpm2"
    assert record["runtime"]["nonce"] == b64url(evidence.nonce.value)
    assert bytes.fromhex(record["runtime"]["measurement"].removeprefix("sha256:")) in evidence.attest
    status = "warning" if tpm_class == "virtual" else "affirming"
    assert record["appraisal"] == {"status": status, "verifier": trust.issuer, "timestamp": NOW}
    assert record["references"][0]["digest"] == str(Digest.of(encode_proof_bundle(bundle)))


def test_what_the_result_warns_of_is_a_warning_in_the_record_too() -> None:
    bundle, trust = rooted("discrete", known=False)
    assert record_of(bundle, trust)["appraisal"]["status"] == "warning"


def test_what_was_measured_of_the_agent_is_found_in_the_log_or_in_the_state_before() -> None:
    first = Scene()
    one = record_of(first.proof_bundle(), first.trust)
    later = Scene()
    later.launch("one")
    later.attest("one")
    bundle = later.proof_bundle()
    assert bundle.state
    assert record_of(bundle, later.trust)["build_provenance"] == one["build_provenance"]
    assert one["build_provenance"]["digest"] != str(Digest.of(b""))


def test_what_stands_in_the_log_behind_the_quote_is_not_in_the_record() -> None:
    machine = Machine(replace(STRICT, tpm_classes=("discrete",)), tpm_class="discrete", crls=crls_of(Chip().maker, this=NOW - 6_000))
    scene = machine.scene
    machine.attest()
    scene.logs = machine.whole
    start = next(event for record in scene.records if isinstance(event := parse_event(record.content), StartEvent))
    plain = scene.evidence

    def with_a_tail(*names: str) -> Evidence:
        sent = plain(*names)
        number = sent.log_first + len(parse_cel(sent.log, first=sent.log_first))
        other = replace(start, manifest_root=Digest.of(b"what an auditor would like to see"))
        tail = record_event(other, record_number=number, pcr=RUNTIME_PCR, banks=("sha256", "sha384"))
        return replace(sent, log=sent.log + encode_cel([tail]))

    scene.evidence = with_a_tail  # type: ignore[method-assign,assignment]  # what travels is for root to choose
    record = record_of(scene.proof_bundle(), scene.trust)
    assert record["appraisal"]["status"] == "affirming"
    assert record["build_provenance"]["digest"] == str(start.manifest_root)


def test_the_signature_covers_all_else_and_is_by_the_key_in_the_record() -> None:
    scene, by = Scene(), new_signer()
    made = json.loads(sign_trace(record_of(scene.proof_bundle(), scene.trust), by))
    signature = parse_b64url(made.pop("signature"), "signature")
    body = json.dumps(made, sort_keys=True, separators=(",", ":")).encode()
    assert by.public.verify(signature, body)
    assert made["cnf"]["jwk"] == by.public.to_jwk()
    with pytest.raises(FormatError):
        sign_trace({}, new_signer(ES256))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    scene = Scene()
    logged = in_log(scene.proof_bundle(), scene.trust)
    (tmp_path / "trust").write_bytes(encode_trust(logged.trust))
    (tmp_path / "a.writ-proof").write_bytes(encode_proof_bundle(logged.bundle))
    (tmp_path / "unlogged").write_bytes(encode_proof_bundle(replace(logged.bundle, carrier_inclusion=None)))
    create_signer(tmp_path / "key")
    return tmp_path


def trace(place: Path, bundle: str = "a.writ-proof", model: str = "example/small/1") -> int:
    files = ["--trust", str(place / "trust"), "--key", str(place / "key"), "--out", str(place / "record")]
    return main(["trace", str(place / bundle), *files, "--model", model, "--data-class", "internal", "--json"])


def test_a_record_is_written_of_a_proven_bundle_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trace(place) == 0
    told = json.loads(capsys.readouterr().out)
    record = json.loads((place / "record").read_bytes())
    assert told["runtime"] == record["runtime"]
    assert record["model"] == {"provider": "example", "model_id": "small/1"}
    assert record["references"][0]["digest"] == str(Digest.of((place / "a.writ-proof").read_bytes()))
    (place / "record").unlink()
    assert trace(place, "unlogged") == 1
    assert json.loads(capsys.readouterr().out)["reasons"][0]["code"] == "proof-bundle-incomplete"
    assert trace(place, model="no-provider") == 2
    (place / "key").unlink()
    assert trace(place) == 3
    assert not (place / "record").exists()
