"""Evidence of trusted execution environments, from collateral that is parsed: whole appraisals beside the signatures in them."""

from __future__ import annotations

from collections.abc import Iterator

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from benchmarks.measure import Case
from tests.world.amd import NOW, TCB, Amd, SnpChip
from writ.formats.tee.snp import parse_report
from writ.formats.trust import ChainRules
from writ.formats.x509_key import certificate_key, signed_by
from writ.verdict.appraise.snp import SnpPolicy, appraise_report


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
