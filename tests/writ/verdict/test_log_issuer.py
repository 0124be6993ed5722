"""The issuer stands in the genesis alone, and an auditor looks for it there."""

from __future__ import annotations

from dataclasses import replace

from tests.world.scene import ISSUER, sign_entry, signer
from tests.world.specimens import specimens
from writ.verdict.log_audit import judge_entries


def test_log_of_another_issuer_is_a_finding_at_its_genesis() -> None:
    genesis = specimens()["genesis"].value
    keys = {signer("decision").public.thumbprint(): signer("decision").public}
    assert judge_entries(0, [sign_entry(genesis)], keys, ISSUER).reasons == ()
    (reason,) = judge_entries(0, [sign_entry(replace(genesis, issuer="https://other"))], keys, ISSUER).reasons
    assert (reason.code, reason.claim, reason.got) == ("trust-root-unknown", "entry.0.issuer", "https://other")
