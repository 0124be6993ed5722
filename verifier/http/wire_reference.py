"""JSON bodies and views of reference values, proposals, exemptions and delegations."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from verifier.approval import Waiting
from verifier.dry_runs import DryRun
from verifier.http.wire import NAME, PATTERN, SHA256, Body, to_base64
from verifier.ledger.schema import ExemptionRow
from verifier.reference import Outcome
from writ.formats.delegation import Delegation, Role
from writ.formats.exemption import parse_exemption
from writ.formats.keys import key_id, parse_jwk

REFERENCE = r"^[0-9a-f]{12,64}$"
PRINTABLE = r"^[^\x00-\x1f\x7f]*$"


class ReferencesBody(Body):
    """CoRIMs in base64, and the JWK of the publisher who signed them, if one did. `replace` retires other versions."""

    corims: list[str] = Field(min_length=1, max_length=256)
    publisher: dict[str, Any] | None = None
    replace: bool = False


class SignedBody(Body):
    """One CoRIM under one or more publishers' signatures: signed CoRIMs in base64."""

    signed: list[str] = Field(min_length=1, max_length=32)


class RetireBody(Body):
    """CoRIMs and exemptions that are to be in force no longer."""

    digests: list[Annotated[str, Field(pattern=SHA256)]] = Field(min_length=1, max_length=256)


class DryRunBody(Body):
    """CoRIMs in base64 that would come into force, and digests that would go out; `replace` as at an import."""

    corims: list[str] = Field(default_factory=list, max_length=256)
    retire: list[Annotated[str, Field(pattern=SHA256)]] = Field(default_factory=list, max_length=256)
    replace: bool = False


def dry_run_view(asked: DryRun) -> dict[str, object]:
    """Host by host, those that would not pass first; what stands against an instance stands with its agent."""
    rows = [
        {
            "host": one.host, "passes": one.passes, "reasons": [reason.to_json() for reason in one.reasons], "exemptions": list(one.labels),
            "instances": [
                {"instance": instance.hex(), "agent": agent, "reasons": [reason.to_json() for reason in reasons]}
                for instance, agent, reasons in one.instances
            ],
        }
        for one in sorted(asked.hosts, key=lambda one: (one.passes, one.host))
    ]  # fmt: skip
    passing = sum(one.passes for one in asked.hosts)
    return {"pass": passing, "refused": len(rows) - passing, "hosts": rows, "never_attested": list(asked.silent)}


class ExemptionBody(Body):
    """Let one difference of a recorded refusal pass for `life` seconds: `component` names one of several, `hosts` others than its own."""

    reference: str = Field(pattern=REFERENCE)
    component: str | None = Field(default=None, min_length=1, max_length=600)
    hosts: list[Annotated[str, Field(pattern=NAME)]] = Field(default_factory=list, max_length=256)
    life: int = Field(ge=60, le=604_800)
    why: str = Field(min_length=1, max_length=500, pattern=PRINTABLE)


class RoleBody(Body):
    """A role of a delegation. `publishers` are JWKs."""

    name: str = Field(pattern=NAME)
    environments: list[Annotated[str, Field(pattern=PATTERN)]] = Field(min_length=1, max_length=64)
    components: list[Annotated[str, Field(pattern=PATTERN)]] = Field(min_length=1, max_length=64)
    publishers: list[dict[str, Any]] = Field(min_length=1, max_length=32)
    threshold: int = Field(ge=1, le=32)
    not_after: int = Field(ge=0, lt=1 << 53)

    def role(self) -> Role:
        """The formats type. Raises FormatError."""
        keys = {key.thumbprint(): key for key in map(parse_jwk, self.publishers)}
        return Role(
            self.name, tuple(sorted(set(self.environments))), tuple(sorted(set(self.components))),
            tuple(key for _, key in sorted(keys.items())), self.threshold, self.not_after,
        )  # fmt: skip


class DelegationBody(Body):
    """All roles of a namespace. `version` is the next one where none is given."""

    roles: list[RoleBody] = Field(max_length=64)
    version: int | None = Field(default=None, ge=1, lt=1 << 53)


# --- views --------------------------------------------------------------------------------------------------------------


def outcome_view(outcome: Outcome) -> dict[str, object]:
    """What came of an act: in force, or proposed and what it waits for."""
    state = "in force" if outcome.proposal is None else "proposed"
    return {"state": state, "proposal": outcome.proposal, "missing": list(outcome.missing)}


def exemption_view(row: ExemptionRow, now: int) -> dict[str, object]:
    """An exemption that was approved, and whether it holds at `now`."""
    e = parse_exemption(row.data)
    state = "expired" if row.not_after < now else "in force" if row.active else "retired"
    return {
        "digest": row.digest, "state": state, "label": e.label, "code": e.code, "claim": e.claim, "got": e.got, "hosts": list(e.hosts),
        "not_before": e.not_before, "not_after": e.not_after, "why": e.why, "approved_by": list(e.approved_by),
    }  # fmt: skip


def proposal_view(waiting: Waiting, objects: list[dict[str, object]]) -> dict[str, object]:
    """An open proposal; `objects` are the CoRIMs it is about."""
    case, d = waiting.case, waiting.case.proposal.draft
    view: dict[str, object] = {
        "proposal": case.row.digest, "state": "proposed", "kind": case.row.kind, "proposed_at": case.proposal.proposed_at,
        "proposed_by": case.row.by, "expires_at": case.row.expires_at, "of": [str(one) for one in case.proposal.of],
        "retires": [str(one) for one in case.proposal.retires], "keeps": [str(one) for one in case.proposal.keeps],
        "references": objects, "missing": list(waiting.missing),
        "approvals": [{"who": one.who, "by": one.by, "at": one.at, "signed": one.signed is not None} for one in case.approvals],
    }  # fmt: skip
    if d is not None:
        view["exemption"] = {
            "code": d.code, "claim": d.claim, "got": d.got, "hosts": list(d.hosts), "not_before": d.not_before, "not_after": d.not_after,
            "why": d.why,
        }  # fmt: skip
    return view


def delegation_view(delegation: Delegation, signed: bytes) -> dict[str, object]:
    """A delegation as JSON, with the signed bytes."""
    return {
        "digest": str(delegation.digest), "namespace": delegation.namespace, "version": delegation.version,
        "issued_at": delegation.issued_at, "signed": to_base64(signed),
        "roles": [
            {
                "name": role.name, "environments": list(role.environments), "components": list(role.components),
                "publishers": [{**key.to_jwk(), "kid": key_id(key)} for key in role.publishers], "threshold": role.threshold,
                "not_after": role.not_after,
            }
            for role in delegation.roles
        ],
    }  # fmt: skip
