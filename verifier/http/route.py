"""A route states who may call it, and nothing reaches its code before that is shown.

public    anyone              host      the enrolled host named in the path, by a proof of its key
reader    an API key that reads: of a reader or an operator
relying   an API key of a relying service, which learns of tokens for its audience only, or one that reads
operator  an API key with the role operator
publisher an API key with the role publisher or operator
domain    an operator's API key for the whole domain (namespace `*`)
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Query, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import Scope as HttpScope

from verifier.access import WHOLE_DOMAIN, ApiKeys, HostProofs, Operator
from verifier.approval import Approvals
from verifier.attest import Attestation
from verifier.contents import Contents
from verifier.cosigning import Cosigning
from verifier.dry_runs import DryRuns
from verifier.enrol import Enrolment
from verifier.hosts import Hosts
from verifier.http.limits import Known
from verifier.http.problems import PROBLEM_JSON, TITLES
from verifier.http.wire import NAME
from verifier.keys import Keys
from verifier.ledger import Ledger
from verifier.ledger.translog import TransparencyLog
from verifier.policy import Policies
from verifier.publications import Publications
from verifier.reference import References
from verifier.revocation import Revocations
from verifier.rotation import Rotation
from verifier.token_exchange import TokenExchange
from verifier.trust import Anchors
from writ.formats.decision import DOMAIN
from writ.formats.errors import Misuse, Refused
from writ.formats.reason import Reason
from writ.formats.strict import decode_json, name
from writ.service.clock import Clock
from writ.service.observe import Counters

CALLERS: Final = ("public", "host", "reader", "relying", "operator", "publisher", "domain")
ROLES_OF: Final = {
    "reader": ("operator", "reader"), "relying": ("operator", "reader", "relying"), "operator": ("operator",),
    "publisher": ("operator", "publisher"), "domain": ("operator",),
}  # fmt: skip
"""The roles of an API key that a caller may have."""
DEFAULT_NAMESPACE: Final = "default"
SMALL: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Parts:
    """What the routes are made of."""

    ledger: Ledger
    translog: TransparencyLog | None
    cosigning: Cosigning | None
    keys: Keys
    clock: Clock
    counters: Counters
    attestation: Attestation
    exchange: TokenExchange
    enrolment: Enrolment
    hosts: Hosts
    references: References
    publications: Publications
    policies: Policies
    approvals: Approvals
    dry_runs: DryRuns
    revocations: Revocations
    anchors: Anchors
    rotation: Rotation
    contents: Contents
    api_keys: ApiKeys
    proofs: HostProofs
    requests_per_second: int
    requests_burst: int


@dataclass(frozen=True, slots=True)
class Route:
    """One route: who calls it, how large its body may be, and whether it speaks CBOR. `body_type` is for the OpenAPI document."""

    method: str
    path: str
    caller: str
    endpoint: Callable[..., Any]
    body: int = SMALL
    cbor: bool = False
    body_type: str | None = None
    answer_type: str = "application/json"

    def __post_init__(self) -> None:
        if self.caller not in CALLERS:
            raise Misuse(f"no caller {self.caller!r}")


@dataclass(frozen=True, slots=True)
class Scope:
    """Who acts, and in which namespace."""

    operator: Operator
    namespace: str


def scope(request: Request, namespace: Annotated[str | None, Query(pattern=NAME)] = None) -> Scope:
    """The namespace that the caller names, or that of the key. Raises Refused `forbidden`.

    `DOMAIN` is no namespace: who reaches the whole domain reads there what was done to it.
    """
    operator: Operator = request.state.operator
    chosen = namespace or (DEFAULT_NAMESPACE if operator.namespace == WHOLE_DOMAIN else operator.namespace)
    if not operator.covers(chosen):
        raise Refused(Reason("forbidden", "namespace", operator.namespace, chosen))
    if chosen == DOMAIN and (operator.namespace != WHOLE_DOMAIN or request.method != "GET"):
        raise Refused(Reason("forbidden", "namespace", "a name other than that of the domain's own records", chosen))
    return Scope(operator, chosen)


def guard(caller: str, parts: Parts, json_most: int) -> type[APIRoute]:
    """Routes that let only `caller` in: before the body is parsed, before any parameter is looked at.

    A body of up to `json_most` bytes, unless that is 0, is JSON as `strict` has it. Raises FormatError.
    """

    class Guarded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            inner = super().get_route_handler()

            async def handle(request: Request) -> Response:
                await _admit(caller, parts, request)
                if json_most and (body := await request.body()):
                    decode_json(body, "body", max_size=json_most)  # one reading only: the models' parser takes the last of two keys
                return await inner(request)

            return handle

    return Guarded


async def _admit(caller: str, parts: Parts, request: Request) -> None:
    if caller == "public":
        return
    if caller == "host":
        body = await request.body()
        host = name(request.path_params["host"], "host")
        request.state.record = await run_in_threadpool(
            parts.proofs.authenticate, host, request.headers.get("DPoP"), method=request.method, path=request.url.path, body=body
        )
        return
    request.state.operator = await run_in_threadpool(_operator, caller, parts, request.headers.get("Authorization"))


def _operator(caller: str, parts: Parts, authorization: str | None) -> Operator:
    operator = parts.api_keys.authenticate(authorization)
    if operator.role not in ROLES_OF[caller]:
        raise Refused(Reason("forbidden", "role", " or ".join(ROLES_OF[caller]), operator.role))
    if caller == "domain" and operator.namespace != WHOLE_DOMAIN:
        raise Refused(Reason("forbidden", "namespace", WHOLE_DOMAIN, operator.namespace))
    return operator


def known(parts: Parts) -> Known:
    """Who asks, before his body is read: the host whose key made the proof in the head, or the operator.

    `_admit` asks again, with the body. Of the proof this says nothing about what it was made over, nor that it is used once. Raises
    Refused, FormatError.
    """

    def of_host(path: str, headers: Headers, method: str) -> str:
        parts_of = path.split("/")
        host = name(parts_of[3] if len(parts_of) > 3 else "", "host")
        parts.proofs.sender(host, headers.get("DPoP"), method=method, path=path)
        return f"host {host}"

    async def find(caller: str, scope: HttpScope) -> str:
        headers = Headers(scope=scope)
        if caller == "public":
            raise Refused(Reason("too-large", "body", "a smaller one, of whom nothing is known", "more"))
        if caller == "host":
            return await run_in_threadpool(of_host, scope["path"], headers, scope["method"])
        return f"operator {(await run_in_threadpool(_operator, caller, parts, headers.get('Authorization'))).id}"

    return find


PROBLEM_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["type", "title", "status", "reasons"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "reference": {"type": "string"},
        "reasons": {"type": "array", "items": {"type": "object"}},
    },
}


def documented(cbor: bool) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route, for the OpenAPI document."""
    content = (
        {"application/cbor": {"schema": {"type": "string", "format": "binary"}}} if cbor else {PROBLEM_JSON: {"schema": PROBLEM_SCHEMA}}
    )
    return {status: {"description": title, "content": content} for status, title in TITLES.items()}
