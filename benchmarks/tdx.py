"""A quote of a TD with its platform, judged from parsed collateral, beside the signatures that it cannot do without."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Case
from tests.world.tdx import AT, TDX_15, Platform
from writ.formats.keys import ES256, PublicKey
from writ.formats.tee.tdx import parse_quote
from writ.verdict.appraise.tdx import appraise_quote

REVOKED = 64
"""Certificates on the PCK CA's CRL; Intel's has about so many."""
SIGNATURES = 10
"""Of quote and QE report, of PCK, its CA and the TCB signer (twice), of the CRL of each path, and of both documents: at least."""


def tdx_quote() -> Iterator[Case]:
    """One case: a quote of TDX 1.5, read and judged."""
    host = Platform()
    data = host.quote(5, TDX_15)
    collateral = host.collateral(crls=host.crls(revoked=range(0x9000, 0x9000 + REVOKED)))
    anchors = host.anchors
    quote = parse_quote(data)
    key = PublicKey(ES256, b"\x04" + quote.attestation_key)

    def ours() -> object:
        found = appraise_quote(parse_quote(data), collateral, anchors, at=AT)
        assert not found.reasons
        return found

    def bare() -> object:
        return [key.verify(quote.signature, quote.body.raw) for _ in range(SIGNATURES)]

    yield Case(f"TDX quote of {len(data)} bytes judged", f"{SIGNATURES} P-256 signatures verified", ours, bare)
