"""Azure confidential VMs judged: what is accepted, and each attack with its own reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from tests.world.amd import NOW, SnpChip
from tests.world.azure import NONCE, VALUES, AzureVm, jwk, td_of
from tests.world.tdx import AT
from tests.writ.verdict import refusal
from writ.formats.errors import FormatError
from writ.formats.tee.hcl import HclReport, VtpmQuote, parse_hcl
from writ.formats.tee.snp import HOST
from writ.formats.tee.tdx import parse_quote
from writ.formats.tpm.signature import Signature, encode_signature
from writ.verdict.appraise.azure import DEFAULT_POLICY, AppraisedAzure, AzurePolicy, SnpGiven, TdxGiven, appraise_azure

VM = AzureVm()
OTHER = AzureVm("another", SnpChip(name="another chip"))


def quote_of(vm: AzureVm = VM, message: bytes | None = None, **changes: Any) -> VtpmQuote:
    said = vm.quote() if message is None else message
    return replace(VtpmQuote(said, vm.sign(said), VALUES), **changes)


def judge(
    hcl: HclReport | None = None,
    quote: VtpmQuote | None = None,
    *,
    chip: SnpChip = VM.chip,
    nonce: bytes | None = NONCE,
    at: int = NOW,
    policy: AzurePolicy = DEFAULT_POLICY,
) -> AppraisedAzure:
    given = SnpGiven(chip.vek(), chip.amd.authorities(), chip.amd.anchors())
    return appraise_azure(hcl or VM.snp(), given, quote or quote_of(), at=at, nonce=nonce, policy=policy)


def judge_td(local: dict[str, Any] | None = None, said: bytes | None = None, tdreport: bytes | None = None) -> AppraisedAzure:
    """A TD whose TDREPORT has `local` other than its quote, where the quote's data are `said` and the TDREPORT's `tdreport`."""
    bound = parse_hcl(VM.hcl(bytes(1024), "TDX")).claims_data
    host, _ = td_of(VM, bound if said is None else said, td_attributes=0)
    _, report = td_of(VM, bound if tdreport is None else tdreport, **({"td_attributes": 0} | (local or {})))
    given = TdxGiven(parse_quote(host.quote()), host.collateral(), host.anchors)
    return appraise_azure(parse_hcl(VM.hcl(report, "TDX")), given, quote_of(), at=AT, nonce=NONCE)


def refused(call: Callable[[], object]) -> list[str]:
    return [refusal.refused(call).code]


def codes(found: AppraisedAzure) -> list[tuple[str, str]]:
    return [(reason.code, reason.claim) for reason in found.reasons]


def test_vm_of_either_kind_is_accepted() -> None:
    found = judge()
    assert found.reasons == ()
    assert found.vtpm.pcrs.values == tuple(enumerate(VALUES))
    assert found.claims.vm_configuration == {"secure-boot": True, "vmUniqueId": "azure"}
    assert found.claims.ak.public_numbers() == VM.ak.public_key().public_numbers()
    assert judge_td().reasons == ()


def test_claims_that_hardware_did_not_sign_for_are_refused() -> None:
    good = VM.snp()
    swapped = replace(good, claims=OTHER.claims())
    assert refused(lambda: judge(swapped, quote_of(OTHER))) == ["azure-claims-unbound"]
    for data in (good.claims_data[:32] + b"\1" * 32, good.claims_data[:63] + b"\1", bytes(64)):
        assert refused(lambda data=data: judge(VM.snp(report_data=data))) == ["azure-claims-unbound"]  # type: ignore[misc]
    bound = parse_hcl(VM.hcl(bytes(1024), "TDX")).claims_data
    assert refused(lambda: judge_td(said=bytes(64))) == ["azure-claims-unbound"]
    assert refused(lambda: judge_td(tdreport=bytes(64))) == ["azure-claims-unbound"]
    assert refused(lambda: judge_td(said=bound[:32] + b"\1" * 32)) == ["azure-claims-unbound"]


@pytest.mark.parametrize("change", [{"mr_td": b"\1" * 48}, {"rtmrs": (bytes(48),) * 4}, {"td_attributes": 1}, {"xfam": 3}])
def test_tdreport_of_another_td_than_the_quote_is_refused(change: dict[str, Any]) -> None:
    assert refused(lambda: judge_td(change)) == ["azure-td-mixed"]


def test_report_of_another_kind_is_refused() -> None:
    assert refused(lambda: judge(parse_hcl(VM.hcl(bytes(1024), "TDX")))) == ["azure-report-refused"]
    assert refused(lambda: judge(parse_hcl(VM.hcl(bytes(1184), "VBS")))) == ["azure-report-refused"]


def test_hardware_inside_is_judged() -> None:
    assert refused(lambda: judge(chip=OTHER.chip)) == ["snp-chip-mismatch"]
    unsigned = VM.snp()
    forged = replace(unsigned, hardware=unsigned.hardware[:0x90] + b"\x66" + unsigned.hardware[0x91:])
    assert refused(lambda: judge(forged)) == ["signature-invalid"]
    assert refused(lambda: judge(at=NOW + (50 << 25))) == ["certificate-expired"]
    assert refused(lambda: judge(at=NOW - (50 << 25))) == ["certificate-expired"]
    assert codes(judge(VM.snp(vmpl=1))) == [("snp-vmpl", "vmpl")]
    assert codes(judge(VM.snp(vmpl=HOST))) == [("snp-vmpl", "vmpl")]
    assert codes(judge(VM.snp(policy=0xB0000))) == [("snp-debug", "policy.debug")]


def test_quote_of_another_vtpm_or_changed_is_refused() -> None:
    message = VM.quote()
    for one in (
        quote_of(OTHER),
        quote_of(message=message, signature=OTHER.sign(message)),
        quote_of(message=VM.quote(b"a"), signature=VM.sign(message)),
        quote_of(signature=VM.sign(message)[::-1]),
    ):
        assert refused(lambda one=one: judge(quote=one)) == ["signature-invalid"]  # type: ignore[misc]
    assert refused(lambda: judge(VM.snp(), quote_of(message=VM.quote(magic=0)))) == ["not-tpm-generated"]
    creation = VM.quote(tag=0x8014)
    assert refused(lambda: judge(quote=quote_of(message=creation))) == ["wrong-attest-type"]


def test_nonce_of_another_request_is_refused() -> None:
    assert codes(judge(nonce=b"another")) == [("nonce-mismatch", "vtpm.extra_data")]
    assert codes(judge(nonce=NONCE + b"\0")) == [("nonce-mismatch", "vtpm.extra_data")]
    assert judge(nonce=None).reasons == ()


def test_pcrs_that_were_not_quoted_are_refused_and_not_told() -> None:
    changed = (b"\xff" * 32, *VALUES[1:])
    found = judge(quote=quote_of(pcrs=changed))
    assert codes(found) == [("pcr-digest-mismatch", "vtpm.pcr_digest")]
    assert found.vtpm.pcrs.values == ()
    assert codes(judge(quote=quote_of(pcrs=None))) == [("azure-part-missing", "vtpm.pcrs")]
    assert codes(judge(quote=quote_of(message=VM.quote(bank="sha384")))) == [("pcr-selection-mismatch", "vtpm.pcr_selection")]
    assert codes(judge(policy=replace(DEFAULT_POLICY, pcrs=frozenset({24})))) == [("pcr-selection-mismatch", "vtpm.pcr_selection")]


def test_signature_in_a_tpms_structure_passes_and_with_sha1_does_not() -> None:
    message = VM.quote()
    wrapped = encode_signature(Signature("rsassa", "sha256", value=VM.sign(message)))
    assert judge(quote=quote_of(signature=wrapped)).reasons == ()
    weak = VM.ak.sign(message, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303 - refused below
    assert refused(lambda: judge(quote=quote_of(signature=encode_signature(Signature("rsassa", "sha1", value=weak))))) == [
        "algorithm-refused"
    ]
    for rubbish in (b"", b"\0" * 255, wrapped + b"\0"):
        with pytest.raises(FormatError):
            judge(quote=quote_of(signature=rubbish))


def test_claims_without_an_ak_or_with_two_are_malformed() -> None:
    ak = jwk("HCLAkPub", VM.ak.public_key())
    for keys in ([], [{"kid": "HCLAkPub", "kty": "EC"}], [ak, ak]):
        bare = parse_hcl(VM.hcl(bytes(1184), claims=VM.claims(keys=keys)))
        hcl = parse_hcl(VM.hcl(VM.chip.report(report_data=bare.claims_data), claims=bare.claims))
        with pytest.raises(FormatError):
            judge(hcl)
