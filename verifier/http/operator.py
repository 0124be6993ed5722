"""The routes of operators. Each body is a strict model, each act is logged in the commit that makes it true."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Depends, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from verifier.access import WHOLE_DOMAIN
from verifier.export import archived
from verifier.http import wire
from verifier.http.problems import CBOR
from verifier.http.route import Parts, Route, Scope, scope
from verifier.http.wire_reference import outcome_view
from verifier.keys import AHEAD
from verifier.ledger.schema import EntryRow, ExchangeKeyRow, KeyRow
from verifier.ledger.transaction import blob
from verifier.manufacturers import Offered
from writ.formats.archive import encode_archive
from writ.formats.cose import parse_sign1
from writ.formats.crl import kept_crl
from writ.formats.decision import AttestDecision, parse_entry
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.keys import key_id
from writ.formats.ocsp import kept_ocsp
from writ.formats.reason import Reason
from writ.formats.trust import ChainRules, ManufacturerRoot, Trust, encode_trust

In = Annotated[Scope, Depends(scope)]
Host = Annotated[str, Path(pattern=wire.NAME)]
MEGABYTE: Final = 1 << 20
METRICS: Final = "text/plain; version=0.0.4"


def routes(parts: Parts) -> tuple[Route, ...]:
    """All of them."""
    return (*_hosts(parts), *_governance(parts), *_decisions(parts), *_keys(parts))


def _hosts(parts: Parts) -> tuple[Route, ...]:
    def list_hosts(
        within: In, most: Annotated[int, Query(ge=1, le=1000)] = 100, after: Annotated[str | None, Query(pattern=wire.NAME)] = None
    ) -> Any:
        found = parts.hosts.list(within.namespace, most=most, after=after)
        return JSONResponse({"hosts": [wire.host_view(known, whole=False) for known in found]})

    def admit(body: wire.AdmitBody, within: In) -> Any:
        ek = wire.digest(body.ek)
        made = parts.hosts.admit(within.operator, within.namespace, body.host, ek=ek, unendorsed=body.unendorsed, life=body.life)
        return JSONResponse({"host": made.host, "namespace": made.namespace, "ticket": made.ticket, "expires_at": made.expires_at})

    def get_host(host: Host, within: In) -> Any:
        return JSONResponse(wire.host_view(parts.hosts.known(within.namespace, host), whole=True))

    def release(host: Host, within: In) -> Any:
        parts.hosts.release(within.operator, within.namespace, host)
        return JSONResponse(wire.host_view(parts.hosts.known(within.namespace, host), whole=False))

    def replace(host: Host, body: wire.ReplaceBody, within: In) -> Any:
        ek = wire.digest(body.ek)
        made = parts.hosts.replace(within.operator, within.namespace, host, ek=ek, unendorsed=body.unendorsed, life=body.life)
        return JSONResponse({"host": made.host, "namespace": made.namespace, "ticket": made.ticket, "expires_at": made.expires_at})

    def retire(host: Host, within: In) -> Any:
        return JSONResponse(wire.host_view(parts.hosts.retire(within.operator, within.namespace, host), whole=False))

    def excuse(host: Host, within: In) -> Any:
        parts.hosts.excuse(within.operator, within.namespace, host)
        return JSONResponse(wire.host_view(parts.hosts.known(within.namespace, host), whole=False))

    return (
        Route("GET", "/v1/hosts", "reader", list_hosts),
        Route("POST", "/v1/hosts", "operator", admit),
        Route("GET", "/v1/hosts/{host}", "reader", get_host),
        Route("POST", "/v1/hosts/{host}/release", "operator", release),
        Route("POST", "/v1/hosts/{host}/replace", "operator", replace),
        Route("POST", "/v1/hosts/{host}/retire", "operator", retire),
        Route("POST", "/v1/hosts/{host}/excuse", "operator", excuse),
    )


def _governance(parts: Parts) -> tuple[Route, ...]:
    def publish(body: wire.PolicyBody, within: In) -> Any:
        bundle, outcome = parts.policies.publish(
            within.operator, within.namespace, settings=body.settings.settings(parts.keys.approver), schema=body.schema_text,
            policies=body.policies, version=body.version,
        )  # fmt: skip
        made = {"digest": str(bundle.digest), "namespace": bundle.namespace, "version": bundle.version}
        return JSONResponse({**made, **outcome_view(outcome)})

    def current(within: In) -> Any:
        return JSONResponse(wire.policy_view(*parts.policies.current(within.namespace)))

    def revoke(body: wire.RevokeBody, within: In) -> Any:
        if body.kind == "instance" and not _is_instance(body.subject):
            raise FormatError("subject", "32 lower-case hex digits", repr(body.subject))
        entry = parts.revocations.revoke(within.operator, within.namespace, body.kind, body.subject)
        return JSONResponse({"kind": body.kind, "subject": body.subject, "reference": entry.reference})

    def hold(body: wire.WhyBody, within: In) -> Any:
        parts.contents.hold(within.operator, within.namespace, body.why, held=True)
        return JSONResponse({"namespace": within.namespace, "held": True})

    def lift(body: wire.WhyBody, within: In) -> Any:
        parts.contents.hold(within.operator, within.namespace, body.why, held=False)
        return JSONResponse({"namespace": within.namespace, "held": False})

    def erase(body: wire.WhyBody, within: In) -> Any:
        return JSONResponse({"namespace": within.namespace, "erased": parts.contents.erase(within.operator, within.namespace, body.why)})

    return (
        Route("POST", "/v1/contents/hold", "operator", hold),
        Route("POST", "/v1/contents/lift", "operator", lift),
        Route("POST", "/v1/contents/erase", "operator", erase),
        Route("POST", "/v1/policies", "operator", publish, MEGABYTE),
        Route("GET", "/v1/policies/current", "reader", current),
        Route("POST", "/v1/revocations", "operator", revoke),
    )


def _decisions(parts: Parts) -> tuple[Route, ...]:
    def decision(reference: Annotated[str, Path(pattern=r"^[0-9a-f]{12,64}$")], within: In) -> Any:
        tables = parts.ledger.read()
        rows = tables.entries(reference, most=2)
        if len(rows) != 1 or not (rows[0].namespace == within.namespace or within.operator.covers(rows[0].namespace)):
            raise Refused(Reason("not-found", "reference", f"one decision of {within.namespace}", reference))
        read = parse_entry(parse_sign1(rows[0].entry).payload or b"")
        result = blob(tables, rows[0].namespace, read.result) if isinstance(read, AttestDecision) else None
        return JSONResponse(wire.entry_view(rows[0], result))

    def list_decisions(
        within: In, most: Annotated[int, Query(ge=1, le=1000)] = 100, after: Annotated[int, Query(ge=-1, lt=1 << 53)] = -1
    ) -> Any:
        tables = parts.ledger.read()
        rows, last = tables.select(EntryRow, most=most, after=after, namespace=within.namespace), tables.last(EntryRow)
        return JSONResponse({"decisions": [wire.entry_view(row, None) for row in rows], "last": -1 if last is None else last.sequence})

    def archive(within: In, most: Annotated[int, Query(ge=1, le=500)] = 100, after: Annotated[int, Query(ge=-1, lt=1 << 53)] = -1) -> Any:
        whole = within.operator.namespace == WHOLE_DOMAIN
        found = archived(parts.ledger.read(), parts.translog, within.namespace, whole=whole, most=most, after=after)
        return Response(encode_archive(found), media_type=CBOR)

    return (
        Route("GET", "/v1/decisions", "reader", list_decisions),
        Route("GET", "/v1/decisions/{reference}", "reader", decision),
        Route("GET", "/v1/archive", "operator", archive, answer_type=CBOR),
    )


def _keys(parts: Parts) -> tuple[Route, ...]:
    def rotate(request: Request) -> Any:
        row = parts.rotation.rotate(request.state.operator)
        return JSONResponse({"kid": row.kid, "created_at": row.created_at})

    def rotate_exchange(request: Request) -> Any:
        row = parts.rotation.rotate_exchange(request.state.operator)
        return JSONResponse({"kid": row.kid, "created_at": row.created_at, "signs_from": row.created_at + AHEAD})

    def list_keys() -> Any:
        def listed(rows: list[KeyRow] | list[ExchangeKeyRow]) -> list[dict[str, object]]:
            return [{"kid": row.kid, "created_at": row.created_at, "retired_at": row.retired_at} for row in rows]

        tables = parts.ledger.read()
        token_keys, exchange_keys = listed(tables.select(KeyRow)), listed(tables.select(ExchangeKeyRow))
        decision_key = key_id(parts.keys.decision.public)
        return JSONResponse({"decision_key": decision_key, "token_keys": token_keys, "exchange_keys": exchange_keys})

    def create_api_key(body: wire.ApiKeyBody, request: Request) -> Any:
        secret, row = parts.api_keys.create(
            request.state.operator, namespace=body.namespace, role=body.role, label=body.label, audience=body.audience
        )
        return JSONResponse({**wire.api_key_view(row), "key": secret})

    def list_api_keys(request: Request) -> Any:
        return JSONResponse({"api_keys": [wire.api_key_view(row) for row in parts.api_keys.list(request.state.operator)]})

    def revoke_api_key(key: Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")], request: Request) -> Any:
        return JSONResponse(wire.api_key_view(parts.api_keys.revoke(request.state.operator, key)))

    def get_trust() -> Any:
        return JSONResponse(_trust_view(parts.anchors.current()))

    def import_trust(body: wire.TrustBody, request: Request) -> Any:
        if bool(body.pem) != (body.tpm_class is not None):
            raise FormatError("trust", "pem together with tpm_class", "one without the other")
        files = [Offered(file.name, wire.from_base64(file.data, "trust.files")) for file in body.files]
        rules = None if body.rules is None else ChainRules(body.rules.crl_required, body.rules.crl_max_age, body.rules.sha1)
        done = parts.anchors.import_files(request.state.operator, body.pem, body.tpm_class, files, rules)
        refused = [{"file": name, **reason.to_json()} for name, reason in done.refused]
        return JSONResponse({**_trust_view(done.trust), "added": _added_view(done.before, done.trust), "refused": refused})

    def metrics(request: Request) -> Any:
        """They count for all namespaces, and so are for who may read all."""
        namespace = request.state.operator.namespace
        if namespace != WHOLE_DOMAIN:
            raise Refused(Reason("forbidden", "namespace", WHOLE_DOMAIN, namespace))
        return Response(parts.counters.render_prometheus(), media_type=METRICS)

    return (
        Route("GET", "/metrics", "reader", metrics, answer_type=METRICS),
        Route("GET", "/v1/keys", "reader", list_keys),
        Route("POST", "/v1/keys/rotate", "domain", rotate),
        Route("POST", "/v1/keys/exchange/rotate", "domain", rotate_exchange),
        Route("GET", "/v1/api-keys", "operator", list_api_keys),
        Route("POST", "/v1/api-keys", "operator", create_api_key),
        Route("POST", "/v1/api-keys/{key}/revoke", "operator", revoke_api_key),
        Route("GET", "/v1/trust", "reader", get_trust),
        Route("POST", "/v1/trust", "domain", import_trust, 4 * MEGABYTE),
    )


def _trust_view(trust: Trust) -> dict[str, object]:
    return {
        "digest": str(trust.digest), "domain": trust.domain, "issuer": trust.issuer, "intermediates": len(trust.intermediates),
        "roots": [_root_view(root) for root in trust.roots], "crls": [_crl_view(crl) for crl in trust.crls],
        "ocsp": [_ocsp_view(one) for one in trust.ocsp],
        "rules": _rules_view(trust.rules),
        "decision_keys": [key_id(key) for key in trust.decision_keys], "log_keys": [str(key) for key in trust.log_keys],
        "file": wire.to_base64(encode_trust(trust)),
    }  # fmt: skip


def _added_view(before: Trust, after: Trust) -> dict[str, object]:
    """What is believed now and was not before; the rules where they are others."""
    return {
        "roots": [_root_view(root) for root in after.roots if root not in before.roots],
        "intermediates": len({*after.intermediates} - {*before.intermediates}),
        "crls": [_crl_view(crl) for crl in after.crls if crl not in before.crls],
        "ocsp": [_ocsp_view(one) for one in after.ocsp if one not in before.ocsp],
        "rules": None if after.rules == before.rules else _rules_view(after.rules),
    }


def _root_view(root: ManufacturerRoot) -> dict[str, object]:
    return {"name": root.name, "tpm_class": root.tpm_class}


def _rules_view(rules: ChainRules) -> dict[str, object]:
    return {"crl_required": rules.crl_required, "crl_max_age": rules.crl_max_age, "sha1": rules.sha1}


def _crl_view(der: bytes) -> dict[str, object]:
    crl = kept_crl(der)
    return {
        "digest": str(Digest.of(der)), "number": crl.number, "this_update": crl.this_update, "next_update": crl.next_update,
        "revoked": len(crl.revoked),
    }  # fmt: skip


def _ocsp_view(der: bytes) -> dict[str, object]:
    one = kept_ocsp(der)
    return {
        "digest": str(Digest.of(der)), "serial": f"{one.certificate.serial:x}", "status": one.status, "produced_at": one.produced_at,
        "this_update": one.this_update, "next_update": one.next_update,
    }  # fmt: skip


def _is_instance(text: str) -> bool:
    return len(text) == 32 and all(c in "0123456789abcdef" for c in text)
