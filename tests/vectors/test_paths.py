"""Real chains of AMD, Intel, NVIDIA and AWS lead to their vendors' roots at a time when they were valid, and not a second later."""

from __future__ import annotations

import re
from base64 import b64decode
from pathlib import Path
from typing import Final

import cbor2
import pytest

from tests.writ.verdict.refusal import refused
from writ.formats.crl import parse_crl
from writ.formats.digest import Digest
from writ.formats.trust import ChainRules
from writ.formats.x509 import Certificate, parse_certificate
from writ.verdict.path import PathRules, verify_path

ROOTS: Final = {
    "sev-snp": "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    "nitro": "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b",
    "tdx": "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3",
    "nvidia": "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48",
}


def pems(data: bytes) -> list[Certificate]:
    """Every PEM certificate anywhere in these bytes."""
    blocks = re.findall(rb"-----BEGIN CERTIFICATE-----(.+?)-----END", data, re.DOTALL)
    return [parse_certificate(b64decode(b"".join(block.split()))) for block in blocks]


def chain(vectors: Path, kind: str) -> list[Certificate]:
    """One real chain of the kind, leaf first."""
    folder = vectors / kind
    if kind == "sev-snp":
        return pems((folder / "teekit-gcp/vcek.pem").read_bytes() + (folder / "trust/ask_ark_milan.pem").read_bytes())
    if kind == "tdx":
        return pems((folder / "go-tdx-guest-v4/tdx_prod_quote_SPR_E4.dat").read_bytes())
    if kind == "nvidia":
        return pems((folder / "hopper-sdk/chain.pem").read_bytes())
    document = cbor2.loads(cbor2.loads((folder / "dstack/nsm_attestation.cbor").read_bytes())[2])
    return [parse_certificate(der) for der in (document["certificate"], *reversed(document["cabundle"]))]


@pytest.mark.parametrize("kind", ROOTS)
def test_real_chain_leads_to_the_vendors_root(vectors: Path, kind: str) -> None:
    leaf, *others = chain(vectors, kind)
    start, end = max(one.not_before for one in (leaf, *others)), min(one.not_after for one in (leaf, *others))
    anchors = {Digest.of(next(one for one in others if one.is_self_issued).der)}
    assert {str(one).removeprefix("sha256:") for one in anchors} == {ROOTS[kind]}
    for at in (start, end):
        assert verify_path(leaf, others, anchors, at=at).leaf is leaf
    for at in (start - 1, end + 1):
        assert refused(lambda at=at: verify_path(leaf, others, anchors, at=at)).code == "certificate-expired"  # type: ignore[misc]  # bound now


def test_intels_crls_speak_of_a_pck_and_its_ca(vectors: Path) -> None:
    leaf, *others = chain(vectors, "tdx")
    folder = vectors / "tdx/go-tdx-guest-collateral"
    crls = [parse_crl((folder / name).read_bytes()) for name in ("pckcrl", "rootcrl.der")]
    at = max(one.this_update for one in crls)
    rules = PathRules(ChainRules(crl_required=True, crl_max_age=365 * 86_400))
    path = verify_path(leaf, others, {Digest.of(others[-1].der)}, at=at, rules=rules, crls=crls)
    assert (path.notes, len(path.statements)) == ((), 2)
