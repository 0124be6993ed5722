"""`verifier check corim`: reference values of any maker."""

from __future__ import annotations

import argparse

from verifier.check.finding import Finding, Options, read_file
from writ.formats.corim import MAX_SIZE, parse_foreign_corim


def check_corim(finding: Finding, args: argparse.Namespace, _: Options) -> None:
    corim = parse_foreign_corim(read_file(args.file), max_size=MAX_SIZE)
    finding.claims |= {
        "id": corim.id, "profile": corim.profile, "signed": corim.sign1 is not None, "coswids": corim.coswids, "cotls": corim.cotls,
        "comids": [{"id": c.id, "triples": {str(kind): count for kind, count in c.triples}, "digests": c.digests} for c in corim.comids],
    }  # fmt: skip
    if corim.sign1 is not None:
        finding.note("trust-root-unknown", "signature", "the publisher's key, which `reference import` takes", "none")
