"""The routes of reference values: in force, proposed, approved, published, retired."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Depends, Path
from fastapi.responses import JSONResponse

from verifier.http import wire
from verifier.http import wire_reference as wires
from verifier.http.route import Parts, Route, Scope, scope
from verifier.ledger.schema import ReferenceRow
from verifier.proposals import Case
from writ.formats.keys import parse_jwk

In = Annotated[Scope, Depends(scope)]
Name = Annotated[str, Path(pattern=wire.SHA256)]
LARGE: Final = 24 << 20


def routes(parts: Parts) -> tuple[Route, ...]:
    """All of them."""
    return (*_in_force(parts), *_approvals(parts), *_publications(parts))


def _in_force(parts: Parts) -> tuple[Route, ...]:
    def list_references(within: In) -> Any:
        """In force, and what is proposed to be."""
        now = parts.clock.now()
        waiting = parts.approvals.waiting(within.namespace)
        return JSONResponse(
            {
                "references": [wire.reference_view(row, whole=False) for row in parts.references.active(within.namespace)],
                "exemptions": [wires.exemption_view(row, now) for row in parts.approvals.exemptions(within.namespace)],
                "proposals": [wires.proposal_view(one, _objects(parts, one.case)) for one in waiting],
            }
        )

    def import_references(body: wires.ReferencesBody, within: In) -> Any:
        items = [wire.from_base64(item, "corims") for item in body.corims]
        publisher = None if body.publisher is None else parse_jwk(body.publisher)
        outcome = parts.references.publish(within.operator, within.namespace, items, publisher=publisher, replace=body.replace)
        rows = [wire.reference_view(row, whole=False) for row in outcome.rows]
        return JSONResponse({"references": rows, **wires.outcome_view(outcome)})

    def get_reference(digest: Name, within: In) -> Any:
        return JSONResponse(wire.reference_view(parts.references.get(within.namespace, digest), whole=True))

    def retire(body: wires.RetireBody, within: In) -> Any:
        return JSONResponse({"retired": list(parts.references.retire(within.operator, within.namespace, body.digests))})

    def dry_run(body: wires.DryRunBody, within: In) -> Any:
        items = [wire.from_base64(item, "corims") for item in body.corims]
        return JSONResponse(wires.dry_run_view(parts.dry_runs.ask(within.namespace, items, body.retire, replace=body.replace)))

    def get_measured(host: Annotated[str, Path(pattern=wire.NAME)], within: In) -> Any:
        """The files of the host's IMA list, for an operator who trusts the machine: path -> digests."""
        return JSONResponse({"files": parts.dry_runs.files(within.namespace, host)})

    return (
        Route("POST", "/v1/dry-runs", "reader", dry_run, LARGE),
        Route("GET", "/v1/hosts/{host}/files", "reader", get_measured),
        Route("GET", "/v1/references", "reader", list_references),
        Route("POST", "/v1/references", "operator", import_references, LARGE),
        Route("GET", "/v1/references/{digest}", "reader", get_reference),
        Route("POST", "/v1/retirements", "operator", retire),
    )


def _approvals(parts: Parts) -> tuple[Route, ...]:
    def propose_exemption(body: wires.ExemptionBody, within: In) -> Any:
        case = parts.approvals.propose_exemption(
            within.operator, within.namespace, body.reference, component=body.component, hosts=tuple(body.hosts), life=body.life,
            why=body.why,
        )  # fmt: skip
        waiting = next(one for one in parts.approvals.waiting(within.namespace) if one.case.row.digest == case.row.digest)
        return JSONResponse(wires.proposal_view(waiting, []))

    def approve(digest: Name, within: In) -> Any:
        outcome = parts.approvals.approve(within.operator, within.namespace, digest)
        rows = [wire.reference_view(row, whole=False) for row in outcome.rows]
        return JSONResponse({"references": rows, **wires.outcome_view(outcome)})

    def withdraw(digest: Name, within: In) -> Any:
        parts.approvals.withdraw(within.operator, within.namespace, digest)
        return JSONResponse({"proposal": digest, "state": "withdrawn"})

    return (
        Route("POST", "/v1/exemptions", "operator", propose_exemption),
        Route("POST", "/v1/proposals/{digest}/approve", "operator", approve),
        Route("POST", "/v1/proposals/{digest}/withdraw", "publisher", withdraw),
    )


def _publications(parts: Parts) -> tuple[Route, ...]:
    def publish(body: wires.SignedBody, within: In) -> Any:
        items = [wire.from_base64(item, "signed") for item in body.signed]
        outcome = parts.publications.publish(within.operator, within.namespace, items)
        rows = [wire.reference_view(row, whole=False) for row in outcome.rows]
        return JSONResponse({"references": rows, **wires.outcome_view(outcome)})

    def delegate(body: wires.DelegationBody, within: In) -> Any:
        roles = [one.role() for one in body.roles]
        parts.publications.delegate(within.operator, within.namespace, roles, version=body.version)
        return JSONResponse(wires.delegation_view(*parts.publications.current(within.namespace)))

    def current(within: In) -> Any:
        return JSONResponse(wires.delegation_view(*parts.publications.current(within.namespace)))

    return (
        Route("POST", "/v1/publications", "publisher", publish, LARGE),
        Route("POST", "/v1/delegations", "operator", delegate, 1 << 20),
        Route("GET", "/v1/delegations/current", "reader", current),
    )


def _objects(parts: Parts, case: Case) -> list[dict[str, object]]:
    """The CoRIMs that a proposal is about, as they will be shown under their digests."""
    rows = [parts.ledger.read().get(ReferenceRow, str(one)) for one in case.proposal.of]
    return [wire.reference_view(row, whole=False) for row in rows if row is not None]
