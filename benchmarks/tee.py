"""Evidence of trusted execution environments, from collateral that is parsed: whole appraisals beside the signatures in them."""

from __future__ import annotations

from collections.abc import Iterator

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from benchmarks.measure import Case
from tests.world.amd import NOW, TCB, Amd, SnpChip
from tests.world.nitro import ANCHORS, Nitro
from tests.world.nitro import AT as NITRO_AT
from tests.world.tdx import AT, TDX_15, Platform
from writ.formats.cose import verify_sign1
from writ.formats.keys import ES256, PublicKey
from writ.formats.tee.nitro import parse_document
from writ.formats.tee.snp import parse_report
from writ.formats.tee.tdx import parse_quote
from writ.formats.trust import ChainRules
from writ.formats.x509_key import certificate_key, signed_by
from writ.verdict.appraise.nitro import NitroPolicy, appraise_document
from writ.verdict.appraise.snp import SnpPolicy, appraise_report
from writ.verdict.appraise.tdx import appraise_quote

REVOKED = 64
"""Certificates on the CRL of the CA of PCKs; Intel's has about so many."""
TDX_SIGNATURES = 10
"""Of quote and QE report, of PCK, its CA and the TCB signer (twice), of the CRL of each path, and of both documents: at least."""


def snp() -> Iterator[Case]:
    """One case: a report under a VCEK, with AMD's key sizes, a CRL and a TCB floor."""
    chip = SnpChip(Amd(bits=4096))
    vek, authorities, anchors, crl = chip.vek(), chip.amd.authorities(), chip.amd.anchors(), chip.amd.crl()
    data = chip.report()
    policy = SnpPolicy(floors=((chip.amd.line, TCB),), revocation=ChainRules(crl_required=True))
    report, ask, ark = parse_report(data), chip.amd.ask(), chip.amd.ark()
    signature = encode_dss_signature(report.r, report.s)
    key, ask_key, ark_key = (certificate_key(one.spki) for one in (vek.certificate, ask, ark))
    assert isinstance(key, ec.EllipticCurvePublicKey)
    held = key

    def ours() -> object:
        found = appraise_report(parse_report(data), vek, authorities, anchors, policy, at=NOW, report_data=b"\x22" * 64, crls=[crl])
        assert (found.reasons, found.notes) == ((), ())
        return found

    links = ((vek.certificate, ask_key), (ask, ark_key), (crl, ark_key))

    def bare() -> object:
        held.verify(signature, report.signed, ec.ECDSA(hashes.SHA384()))
        return [one.algorithm and signed_by(one.signed, one.signature, one.algorithm, by) for one, by in links]

    yield Case("SNP report with chain and CRL appraised", "its four signatures alone", ours, bare)


def tdx() -> Iterator[Case]:
    """One case: a quote of TDX 1.5 with its chain, CRLs, TCB info and identity."""
    host = Platform()
    data, anchors = host.quote(5, TDX_15), host.anchors
    collateral = host.collateral(crls=host.crls(revoked=range(0x9000, 0x9000 + REVOKED)))
    quote = parse_quote(data)
    key = PublicKey(ES256, b"\x04" + quote.attestation_key)

    def ours() -> object:
        found = appraise_quote(parse_quote(data), collateral, anchors, at=AT)
        assert (found.reasons, found.notes) == ((), ())
        return found

    def bare() -> object:
        return [key.verify(quote.signature, quote.body.raw) for _ in range(TDX_SIGNATURES)]

    yield Case("TDX quote with chain and collateral appraised", "its ten signatures alone", ours, bare)


def nitro() -> Iterator[Case]:
    """One case: an enclave's document, with its leaf read anew and a chain of five certificates."""
    data, policy = Nitro().document(), NitroPolicy(nonce=b"nonce")
    document = parse_document(data)
    key, links = certificate_key(document.certificate.spki), (document.certificate, *document.bundle[:0:-1])
    keys = [certificate_key(one.spki) for one in document.bundle[::-1]]
    assert isinstance(key, ec.EllipticCurvePublicKey)
    held = key

    def ours() -> object:
        found = appraise_document(parse_document(data), (), ANCHORS, policy, at=NITRO_AT)
        assert found.reasons == ()
        return found

    def bare() -> object:
        verify_sign1(document.sign1, held)
        return [one.algorithm and signed_by(one.signed, one.signature, one.algorithm, by) for one, by in zip(links, keys, strict=True)]

    yield Case("Nitro document with its chain appraised", "its five signatures alone", ours, bare)
