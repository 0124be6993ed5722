"""`auditor verify`: one bundle, one trust file, no server."""

from __future__ import annotations

from pathlib import Path

from auditor.files import read
from writ.formats.proof_bundle import MAX_BUNDLE, parse_proof_bundle
from writ.formats.trust import MAX_TRUST, parse_trust
from writ.verdict.engine import ENGINE
from writ.verdict.proof import ProvenAction, prove


def verify(bundle: Path, trust: Path) -> ProvenAction:
    """The action in `bundle` is proven under `trust`. Raises Refused, FormatError or Unavailable."""
    return prove(parse_proof_bundle(read(bundle, MAX_BUNDLE)), parse_trust(read(trust, MAX_TRUST)))


def report(proven: ProvenAction) -> dict[str, object]:
    """What was proven, as the one JSON object that `--json` prints."""
    record, host = proven.record, proven.host
    return {
        "verdict": "accepted",
        "action": {"name": record.action, "resource": record.resource, "permit": record.permit, "decided_at": record.decided_at},
        "reasons": [reason.to_json() for reason in record.reasons],
        "agent": proven.opening.agent,
        "instance": proven.opening.instance.hex(),
        "sequence": record.sequence,
        "rerun": proven.rerun,
        "outcome": None if proven.outcome is None else proven.outcome.outcome,
        "host": host.host,
        "namespace": host.namespace,
        "tpm_class": host.tpm_class,
        "tpm_root": proven.tpm_root,
        "runtime": proven.runtime,
        "exceptions": list(proven.exceptions),
        "enrolled_at": proven.enrolled_at,
        "attested_at": proven.attested_at,
        "carried_at": proven.carried_at,
        "engine": proven.engine_number,
        "same_engine": proven.engine_number == ENGINE,
        "steps": list(proven.steps),
    }
