"""`verifier check corim`: reference values of any maker, as a CoRIM or as the CoMID that one holds."""

from __future__ import annotations

import argparse
from typing import Final

from verifier.check.finding import Finding, Options, read_file
from writ.formats.corim import MAX_SIZE, ForeignComid, parse_foreign_comid, parse_foreign_corim

_MAP: Final = 5
"""The CBOR major type with which a bare CoMID begins; a CoRIM begins with a tag."""


def check_corim(finding: Finding, args: argparse.Namespace, _: Options) -> None:
    """1. A bare CoMID is read as one. 2. Else it is a CoRIM, signed or not; the signature is not judged."""
    data = read_file(args.file)
    # 1
    if data[:1] and data[0] >> 5 == _MAP:
        comid = parse_foreign_comid(data, max_size=MAX_SIZE)
        finding.claims |= {"id": None, "profile": None, "signed": False, "coswids": 0, "cotls": 0, "comids": [_comid(comid)]}
        return
    # 2
    corim = parse_foreign_corim(data, max_size=MAX_SIZE)
    finding.claims |= {
        "id": corim.id, "profile": corim.profile, "signed": corim.sign1 is not None, "coswids": corim.coswids, "cotls": corim.cotls,
        "comids": [_comid(comid) for comid in corim.comids],
    }  # fmt: skip
    if corim.sign1 is not None:
        finding.note("trust-root-unknown", "signature", "the publisher's key, which `reference import` takes", "none")


def _comid(comid: ForeignComid) -> dict[str, object]:
    return {"id": comid.id, "triples": {str(kind): count for kind, count in comid.triples}, "digests": comid.digests}
