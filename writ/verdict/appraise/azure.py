"""Azure confidential VM: is this vTPM's key the one that SEV-SNP or TDX vouches for, and did it sign this quote?

The paravisor (HCL) runs in the VM, above its guest (VMPL 0, or the L1 VMM of a partitioned TD), and is the guest's TPM. Hardware signs the
hash of the paravisor's claims, one of which is the key (AK) of that TPM; the AK signs PCRs and nonce.

What it does not prove: that the vTPM is one, that it keeps its key, or that it is not the host's, beyond what the measurement of the
hardware report says of the paravisor: compare it with reference values, else the AK is any guest's own. The hardware report has no nonce:
it is as old as the VM's start, and only the quote is fresh. `vm_configuration` is the paravisor's word; `user_data` the guest's.

Source: Microsoft, "Azure confidential VMs guest attestation design"; azure-cvm-tooling, `az-cvm-vtpm`; TPM 2.0 Library Part 2,
TPMS_ATTEST, Part 3, TPM2_Quote.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from writ.formats.crl import Crl
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.reason import Reason
from writ.formats.tee.hcl import HclReport, LocalTdReport, RuntimeClaims, VtpmQuote, parse_claims, parse_local_td_report
from writ.formats.tee.snp import parse_report
from writ.formats.tee.tdx import Quote, TdReport
from writ.formats.tee.tdx_collateral import Collateral
from writ.formats.tee.vek import Vek
from writ.formats.tpm.attest import TPM_GENERATED, Attest, parse_attest
from writ.formats.tpm.pcr import PcrValues
from writ.formats.tpm.signature import ACCEPTED_HASHES, Signature, parse_signature, verify_with_key
from writ.formats.x509 import Certificate
from writ.verdict.appraise.snp import AppraisedReport, SnpPolicy, appraise_report
from writ.verdict.appraise.tdx import DEFAULT, AppraisedQuote, TdxPolicy, appraise_quote

BANK: Final = "sha256"
"""The bank that Azure's agents quote."""
AZURE_TDX: Final = replace(DEFAULT, sept_ve_disable=False)
_SAME: Final = ("td_attributes", "xfam", "mr_td", "mr_config_id", "mr_owner", "mr_owner_config", "rtmrs")


@dataclass(frozen=True, slots=True)
class AzurePolicy:
    """What is demanded of the VM. `pcrs` must be under the quote, which may cover more of its one bank.

    Published quotes of Azure are of TDs without SEPT_VE_DISABLE, so by default it is not asked for; all else is as strict as of a bare TD.
    """

    snp: SnpPolicy = field(default_factory=SnpPolicy)
    tdx: TdxPolicy = AZURE_TDX
    pcrs: frozenset[int] = frozenset(range(16))


DEFAULT_POLICY: Final = AzurePolicy()


@dataclass(frozen=True, slots=True)
class SnpGiven:
    """The key that signed the SNP report, and whom to believe about it (`appraise_report`)."""

    vek: Vek
    authorities: Sequence[Certificate]
    anchors: Collection[Digest]
    crls: Sequence[Crl] = ()


@dataclass(frozen=True, slots=True)
class TdxGiven:
    """The TD's quote, and whom to believe about it (`appraise_quote`)."""

    quote: Quote
    collateral: Collateral
    anchors: Collection[Digest]


@dataclass(frozen=True, slots=True)
class AppraisedVtpm:
    """What `appraise_vtpm` found: the quote, the PCRs that it covers (all that is known of them), and why not."""

    attest: Attest
    pcrs: PcrValues
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class AppraisedAzure:
    """What `appraise_azure` found. `reasons`, sorted, are why it does not pass; `hardware` and `vtpm` have facts of their own."""

    claims: RuntimeClaims
    hardware: AppraisedReport | AppraisedQuote
    vtpm: AppraisedVtpm
    reasons: tuple[Reason, ...]
    notes: tuple[Reason, ...]


def appraise_azure(
    hcl: HclReport,
    given: SnpGiven | TdxGiven,
    quote: VtpmQuote,
    *,
    at: int,
    nonce: bytes | None,
    policy: AzurePolicy = DEFAULT_POLICY,
) -> AppraisedAzure:
    """Hardware vouches for `hcl` at `at`, and the AK in it signed `quote` in answer to `nonce` (None where nothing is asked for).

    1. The report is of hardware, and of the kind that `given` is for: `appraise_hardware`, where the steps of that kind follow.
    2. The report data of hardware are the hash of the runtime claims, and zeros.
    3. The runtime claims hold an AK.
    4. The AK signed the quote: `appraise_vtpm`.

    Up to 3 the first fault ends it; reasons of the kind inside that leave a result are collected with those of the quote.
    Raises Refused `azure-report-refused`, `azure-claims-unbound`, `azure-td-mixed` or as the kind inside does, and FormatError where the
    hardware report, the claims or the quote are none.
    """
    # 1, 2
    hardware = appraise_hardware(hcl, given, at=at, policy=policy)
    # 3
    claims = parse_claims(hcl.claims)
    # 4
    vtpm = appraise_vtpm(quote, claims.ak, nonce=nonce, pcrs=policy.pcrs)
    reasons = tuple(sorted({*hardware.reasons, *vtpm.reasons}))
    return AppraisedAzure(claims, hardware, vtpm, reasons, hardware.notes)


def appraise_hardware(
    hcl: HclReport, given: SnpGiven | TdxGiven, *, at: int, policy: AzurePolicy = DEFAULT_POLICY
) -> AppraisedReport | AppraisedQuote:
    """The hardware's word for the runtime claims of `hcl`. Says nothing of the vTPM.

    1. The report is of SEV-SNP or TDX, as `given` is.
    2. The hash of the runtime claims, and zeros, are the report data: of the SNP report; of the TDREPORT and of the quote, which alone is
       signed.
    3. The quote is of the TD in the TDREPORT: from ATTRIBUTES to the RTMRs they are the same.
    4. The SNP report passes `appraise_report`, or the quote `appraise_quote`.

    Raises Refused `azure-report-refused` (1), `azure-claims-unbound` (2), `azure-td-mixed` (3), or as the judge inside does.
    """
    # 1
    kind = "SNP" if isinstance(given, SnpGiven) else "TDX"
    if hcl.report_type != kind:
        raise Refused(Reason("azure-report-refused", "report_type", f"{kind}, as the certificates or the quote are for", hcl.report_type))
    wanted = hcl.claims_data
    if isinstance(given, SnpGiven):
        # 2
        report = parse_report(hcl.hardware)
        _bound("report_data", wanted, report.report_data)
        # 4
        return appraise_report(
            report, given.vek, given.authorities, given.anchors, policy.snp, at=at, report_data=wanted, crls=given.crls
        )  # fmt: skip
    local, quoted = parse_local_td_report(hcl.hardware), given.quote.body.report
    # 2
    _bound("tdreport.report_data", wanted, local.report_data)
    _bound("tdx.report_data", wanted, quoted.report_data)
    # 3
    _same_td(local, quoted)
    # 4
    return appraise_quote(given.quote, given.collateral, given.anchors, at=at, policy=policy.tdx, report_data=wanted)


def _bound(claim: str, wanted: bytes, got: bytes) -> None:
    if got != wanted:
        raise Refused(Reason("azure-claims-unbound", claim, wanted.hex(), got.hex()))


def _same_td(local: LocalTdReport, quoted: object) -> None:
    if not isinstance(quoted, TdReport):
        raise Refused(Reason("azure-td-mixed", "tee_type", "the quote of a TD", "an enclave's"))
    for name in _SAME:
        mine, theirs = getattr(local, name), getattr(quoted, name)
        if mine != theirs:
            raise Refused(Reason("azure-td-mixed", name, _hex(mine), _hex(theirs)))


def _hex(value: bytes | tuple[bytes, ...]) -> str:
    return (value if isinstance(value, bytes) else b"".join(value)).hex()[:200]


def appraise_vtpm(quote: VtpmQuote, ak: rsa.RSAPublicKey, *, nonce: bytes | None, pcrs: Collection[int] = ()) -> AppraisedVtpm:
    """`ak` signed a TPM's quote of the PCRs in `quote`, in answer to `nonce`, and `pcrs` are among them. Whose the key is, it does not say.

    1. Message and signature parse. A bare signature of the size of the key is RSASSA with SHA-256.
    2. The signature is of SHA-256 or stronger, and the AK's.
    3. A TPM made the message: its magic is TPM_GENERATED_VALUE. It is a quote.
    4. It answers `nonce`: extraData is exactly that.
    5. It covers one bank, SHA-256, and `pcrs` at least.
    6. The values hash to its digest, under the hash of the signature.

    Raises FormatError (1), Refused `algorithm-refused`, `signature-invalid` (2), `not-tpm-generated` or `wrong-attest-type` (3); from 4 on
    every reason is collected.
    """
    # 1
    attest, signature = parse_attest(quote.message), _signature(quote.signature, ak)
    # 2
    if signature.hash not in ACCEPTED_HASHES:
        raise Refused(Reason("algorithm-refused", "vtpm.signature.hash", " or ".join(ACCEPTED_HASHES), signature.hash))
    if not verify_with_key(signature, ak, quote.message):
        raise Refused(Reason("signature-invalid", "vtpm.signature", "a signature by the vTPM's AK", "another"))
    # 3
    if attest.magic != TPM_GENERATED:
        raise Refused(Reason("not-tpm-generated", "vtpm.magic", f"{TPM_GENERATED:08x}", f"{attest.magic:08x}"))
    info = attest.quote
    if info is None:
        raise Refused(Reason("wrong-attest-type", "vtpm.type", "quote", attest.type))
    reasons = []
    # 4
    if nonce is not None and attest.extra_data != nonce:
        reasons.append(Reason("nonce-mismatch", "vtpm.extra_data", nonce.hex()[:200], attest.extra_data.hex()))
    # 5
    indices = info.selection.indices(BANK)
    if not indices or [bank for bank, chosen in info.selection.banks if chosen] != [BANK] or not set(pcrs) <= set(indices):
        wanted = f"{BANK}:{','.join(map(str, sorted(pcrs))) or 'at least one'}"
        got = " ".join(f"{bank}:{','.join(map(str, chosen))}" for bank, chosen in info.selection.banks)
        reasons.append(Reason("pcr-selection-mismatch", "vtpm.pcr_selection", wanted, got[:200]))
        return AppraisedVtpm(attest, PcrValues(BANK, ()), tuple(sorted(reasons)))
    # 6
    covered = PcrValues(BANK, ())
    if quote.pcrs is None:
        reasons.append(Reason("azure-part-missing", "vtpm.pcrs", "the values that were quoted", "none"))
    else:
        values = PcrValues(BANK, tuple((index, quote.pcrs[index]) for index in indices))
        digest = values.digest(info.selection, signature.hash)
        if digest != info.pcr_digest:
            reasons.append(Reason("pcr-digest-mismatch", "vtpm.pcr_digest", info.pcr_digest.hex(), digest.hex()))
        else:
            covered = values
    return AppraisedVtpm(attest, covered, tuple(sorted(reasons)))


def _signature(data: bytes, ak: rsa.RSAPublicKey) -> Signature:
    size = (ak.key_size + 7) // 8
    if len(data) == size:
        return Signature("rsassa", "sha256", value=data)
    try:
        return parse_signature(data)
    except FormatError as error:
        raise FormatError("vTPM quote.signature", f"{size} bytes, or a TPMT_SIGNATURE", f"{len(data)} bytes, {error.what}") from None
