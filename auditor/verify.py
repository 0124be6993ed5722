"""`auditor verify`: one bundle, one trust file, no server."""

from __future__ import annotations

from pathlib import Path

from auditor.files import read
from writ.formats.proof_bundle import MAX_BUNDLE, ProofBundle, parse_proof
from writ.formats.tlog.cosignature import MAX_POLICY, parse_policy
from writ.formats.trust import MAX_TRUST, parse_trust
from writ.verdict.engine import ENGINE
from writ.verdict.proof import ProvenAction, prove
from writ.verdict.token_proof import ProvenToken, Step, prove_token
from writ.verdict.transparency import Logged


def verify(bundle: Path, trust: Path, policy: Path | None = None) -> ProvenAction | ProvenToken:
    """The action in `bundle`, or the token where it holds none, is proven under `trust`, and under the witnesses of `policy`.

    Raises Refused, FormatError or Unavailable.
    """
    chain, anchors = parse_proof(read(bundle, MAX_BUNDLE)), parse_trust(read(trust, MAX_TRUST))
    witnesses = None if policy is None else parse_policy(read(policy, MAX_POLICY))
    return prove(chain, anchors, witnesses) if isinstance(chain, ProofBundle) else prove_token(chain, anchors, witnesses)


def report(proven: ProvenAction | ProvenToken) -> dict[str, object]:
    """What was proven, as the one JSON object that `--json` prints."""
    if isinstance(proven, ProvenToken):
        return {"verdict": "accepted", **_token(proven), **_steps(proven.logged, proven.steps)}
    record = proven.record
    return {
        "verdict": "accepted",
        "action": {"name": record.action, "resource": record.resource, "permit": record.permit, "decided_at": record.decided_at},
        "reasons": [reason.to_json() for reason in record.reasons],
        "sequence": record.sequence,
        "rerun": proven.rerun,
        "outcome": None if proven.outcome is None else proven.outcome.outcome,
        "carried_at": proven.carried_at,
        **_token(proven.chain),
        **_steps(proven.logged, proven.steps),
    }


def _token(chain: ProvenToken) -> dict[str, object]:
    claims, host = chain.token.claims, chain.host
    return {
        "agent": str(claims.agent),
        "instance": claims.instance.hex(),
        "token": claims.token_id,
        "host": host.host,
        "namespace": host.namespace,
        "tpm_class": host.tpm_class,
        "tpm_root": chain.tpm_root,
        "runtime": chain.runtime,
        "exceptions": list(chain.exceptions),
        "enrolled_at": chain.enrolled_at,
        "attested_at": chain.attested_at,
        "expires_at": claims.expires_at,
        "engine": chain.engine_number,
        "same_engine": chain.engine_number == ENGINE,
    }


def _steps(logged: tuple[tuple[str, Logged], ...], steps: tuple[Step, ...]) -> dict[str, object]:
    places = [
        {
            "entry": name, "log": one.origin, "index": one.index, "size": one.size,
            "witnesses": None if one.seen is None else [{"name": witness, "time": time} for witness, time in one.seen],
        }
        for name, one in logged
    ]  # fmt: skip
    return {"logged": places, "steps": [{"number": step.number, "what": step.what, "checked": step.checked} for step in steps]}
