"""AuthZEN 1.0: a decision point for enforcement points of others, whose word alone permits nothing.

    POST /access/v1/evaluation                one decision
    POST /access/v1/evaluations               several, each independent of the others
    GET  /.well-known/authzen-configuration   where these are; there is no search, so none is named

    {"subject": {"type": "agent", "id": "spiffe://example.org/billing/agent/reporter", "properties": {"token": "…", "proof": "…"}},
     "action": {"name": "http.get"}, "resource": {"type": "https", "id": "//reports.example.org/q3"}}

The subject is an agent that shows its token and a proof, used once, for this action, this resource and these properties
(`requested`). What is not that, or is not permitted, is `{"decision": false}` with the reasons in `context`; only what is no
evaluation request at all is an error. Members that we do not know are ignored, as is `context`: what a policy sees of the request is what
the agent signed.

Caller: any program that reaches the socket. It learns whether the agent whose proof it holds may act, and has used up the proof.

Source: OpenID AuthZEN Authorization API 1.0, sections 5 to 7 and 9 to 11.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from enforcer.relying.asgi import (
    MAX_BODY,
    Headers,
    Receive,
    Room,
    Scope,
    Send,
    admitted,
    answer,
    is_http,
    new_reference,
    one_length,
    read_body,
    reasons_of,
    refuse,
    single,
)
from enforcer.relying.party import Presented, RelyingParty, status_of
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Misuse, Refused
from writ.formats.reason import Reason
from writ.formats.strict import decode_json, encode_json
from writ.formats.trace import trace_of
from writ.service import cli

GATE: Final = "authzen"
EVALUATION: Final = "/access/v1/evaluation"
EVALUATIONS: Final = "/access/v1/evaluations"
CONFIGURATION: Final = "/.well-known/authzen-configuration"
ROUTES: Final[Mapping[str, str]] = {EVALUATION: "POST", EVALUATIONS: "POST", CONFIGURATION: "GET"}
MAX_EVALUATIONS: Final = 64
MAX_WAITING: Final = 64
"""Requests at once; more are refused."""
SEMANTICS: Final[Mapping[str, bool | None]] = {"execute_all": None, "deny_on_first_deny": False, "permit_on_first_permit": True}
"""By name, the decision after which no more are made."""
AGENT: Final = "agent"
_PARTS: Final = ("subject", "action", "resource", "context")


def requested(request: Mapping[str, Any]) -> Action:
    """The action of a well-formed evaluation request, which the proof must be for.

    The resource is `TYPE:ID`, and the arguments are the canonical JSON of `{"action": …, "resource": …}`, the properties of each, where at
    least one has some; else they are empty. Raises FormatError for what no action of ours can be.
    """
    action, resource = request["action"], request["resource"]
    if ":" in resource["type"]:
        raise FormatError("resource.type", "no colon", repr(resource["type"])[:80])
    given = {"action": action.get("properties", {}), "resource": resource.get("properties", {})}
    arguments = _canonical(given) if any(given.values()) else b""
    return Action(action["name"], f"{resource['type']}:{resource['id']}", Digest.of(arguments))


def _canonical(value: object) -> bytes:
    try:
        return encode_json(value)
    except UnicodeEncodeError:
        raise FormatError("properties", "text that UTF-8 can spell", "a lone surrogate") from None


class AuthZen:
    """The decision point at `pdp`, which is a URL without a path; proofs name `pdp` and the path of an evaluation."""

    def __init__(self, *, pdp: str, party: RelyingParty) -> None:
        """Raises Misuse for another URL."""
        parts = urlsplit(pdp)
        if parts.scheme not in ("https", "http") or not parts.netloc or pdp != f"{parts.scheme}://{parts.netloc}":
            raise Misuse("pdp is scheme://authority without a path")
        self._pdp, self._party = pdp, party
        self._room = Room(MAX_WAITING)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI scope: a request is answered; what is none is refused."""
        if not await is_http(scope, send):
            return
        reference = new_reference()
        echoed: Headers = ()
        try:
            echoed = _request_id(scope)
            answered = await self._answer(scope, receive, reference)
        except _Elsewhere as other:
            await refuse(send, (other.reason,), reference, status=other.status, headers=[*other.headers, *echoed])
        except Exception as error:  # noqa: BLE001 - whatever fails before a decision refuses (I3)
            reasons = reasons_of(error, "authzen", reference)
            await refuse(send, reasons, reference, status=400 if reasons[0].code == "malformed" else status_of(reasons), headers=echoed)
        else:
            await answer(send, 200, encode_json(answered), headers=echoed)

    async def _answer(self, scope: Scope, receive: Receive, reference: str) -> dict[str, Any]:
        path, method = str(scope["path"]), str(scope["method"])
        if path not in ROUTES:
            raise _Elsewhere(404, Reason("not-found", "path", ", ".join(ROUTES), repr(path)[:80]))
        if method != ROUTES[path]:
            raise _Elsewhere(405, Reason("malformed", "method", ROUTES[path], repr(method)[:40]), [(b"allow", ROUTES[path].encode())])
        if path == CONFIGURATION:
            return self.configuration()
        if scope.get("query_string"):
            raise FormatError("query", "none", f"{len(scope['query_string'])} bytes")
        kind = (single(scope, b"content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise FormatError("header content-type", "application/json", repr(kind)[:80])
        one_length(scope)
        with self._room:
            body, trace = decode_json(await read_body(receive), "request"), trace_of(scope["headers"])
            return await (self._evaluations if path == EVALUATIONS else self._evaluation)(body, reference, trace)

    def configuration(self) -> dict[str, Any]:
        """The metadata of the decision point. Source: AuthZEN 1.0 section 9."""
        return {
            "policy_decision_point": self._pdp,
            "access_evaluation_endpoint": self._pdp + EVALUATION,
            "access_evaluations_endpoint": self._pdp + EVALUATIONS,
        }

    async def _evaluations(self, body: Any, reference: str, trace: bytes | None) -> dict[str, Any]:
        """Each evaluation decided in its order, as far as the semantic goes; without any it is one evaluation.

        1. `evaluations` is an array of objects, no longer than the bound, and the semantic is one of the three.
        2. A part that an evaluation does not have is the request's own, whole; said out in each, they would still be a body in bounds.
        3. A fault of one evaluation is a denial of that one.
        """
        if not isinstance(body, dict):
            raise FormatError("request", "an object", type(body).__name__)
        # 1
        items = body.get("evaluations", [])
        if not isinstance(items, list) or len(items) > MAX_EVALUATIONS:
            got = f"{len(items)}" if isinstance(items, list) else type(items).__name__
            raise FormatError("evaluations", f"an array of at most {MAX_EVALUATIONS}", got)
        options = body.get("options", {})
        semantic = options.get("evaluations_semantic", "execute_all") if isinstance(options, dict) else None
        if semantic not in list(SEMANTICS):
            raise FormatError("options.evaluations_semantic", ", ".join(SEMANTICS), repr(semantic)[:80])
        if not items:
            return await self._evaluation(body, reference, trace)
        # 2
        defaults = {part: body[part] for part in _PARTS if part in body}
        if len(_canonical(defaults)) * len(items) > MAX_BODY:
            raise Refused(Reason("too-large", "evaluations", f"at most {MAX_BODY} bytes with what they share said out in each", "more"))
        # 3
        each = [self._evaluation_of(defaults, item, f"{reference}-{number}", trace) for number, item in enumerate(items)]
        if SEMANTICS[semantic] is None:
            return {"evaluations": await asyncio.gather(*each)}  # decided in their order, and on record together
        decided: list[dict[str, Any]] = []
        for one in each:
            if not decided or decided[-1]["decision"] is not SEMANTICS[semantic]:
                decided.append(await one)
            else:
                one.close()
        return {"evaluations": decided}

    async def _evaluation_of(self, defaults: Mapping[str, Any], item: Any, reference: str, trace: bytes | None) -> dict[str, Any]:
        try:
            if not isinstance(item, dict):
                raise FormatError("evaluation", "an object", type(item).__name__)
            return await self._evaluation({**defaults, **item}, reference, trace)
        except FormatError as error:
            return _denied(reasons_of(error, "authzen", reference), reference)

    async def _evaluation(self, body: Any, reference: str, trace: bytes | None) -> dict[str, Any]:
        """One evaluation decided. Raises FormatError for what is none: a required member is missing, or one is of another type."""
        request = _well_formed(body)
        subject = request["subject"]
        try:
            if subject["type"] != AGENT:
                raise Refused(Reason("unauthenticated", "subject.type", AGENT, repr(subject["type"])[:80]))
            shown = _shown(subject.get("properties", {}))
            asked = Presented(requested(request), "POST", self._pdp + EVALUATION, *shown, subject["id"], trace)
            await admitted(self._party, asked, gate=GATE, reference=reference)
        except Exception as error:  # noqa: BLE001 - whatever fails before a decision denies (I3)
            return _denied(reasons_of(error, "authzen", reference), reference)
        return {"decision": True, "context": {"reference": reference}}


class _Elsewhere(Exception):
    """No request for a decision."""

    def __init__(self, status: int, reason: Reason, headers: Headers = ()) -> None:
        super().__init__(status)
        self.status, self.reason, self.headers = status, reason, headers


def _denied(reasons: tuple[Reason, ...], reference: str) -> dict[str, Any]:
    return {"decision": False, "context": cli.refusal(reasons, reference)}


def _shown(properties: Mapping[str, Any]) -> tuple[str, str, str | None]:
    """Token, proof, and the lease where there is one."""
    for name, code in (("token", "unauthenticated"), ("proof", "proof-missing"), ("lease", "lease-invalid")):
        value = properties.get(name)
        if not isinstance(value, str) or not value.isascii():
            if name == "lease" and name not in properties:
                break
            raise Refused(Reason(code, f"subject.properties.{name}", "text", "none" if value is None else "something else"))
    return properties["token"], properties["proof"], properties.get("lease")


def _well_formed(body: Any) -> Mapping[str, Any]:
    """`body` if it has what AuthZEN requires, as objects and text. Raises FormatError. Source: AuthZEN 1.0 section 5."""
    if not isinstance(body, dict):
        raise FormatError("request", "an object", type(body).__name__)
    for part, required in (("subject", ("type", "id")), ("action", ("name",)), ("resource", ("type", "id"))):
        holder = body.get(part)
        if not isinstance(holder, dict):
            raise FormatError(part, "an object", "none" if part not in body else type(holder).__name__)
        for name in required:
            value = holder.get(name)
            if not isinstance(value, str) or not value:
                raise FormatError(f"{part}.{name}", "text", "none" if name not in holder else type(value).__name__)
        if not isinstance(holder.get("properties", {}), dict):
            raise FormatError(f"{part}.properties", "an object", type(holder["properties"]).__name__)
    if not isinstance(body.get("context", {}), dict):
        raise FormatError("context", "an object", type(body["context"]).__name__)
    return body


def _request_id(scope: Scope) -> Headers:
    """`X-Request-ID` as it came, to be sent back. Raises FormatError for two, or for what no header should hold."""
    value = single(scope, b"x-request-id")
    if value is None:
        return ()
    if len(value) > 128 or not value or not value.isprintable():
        raise FormatError("header x-request-id", "1 to 128 printable characters", f"{len(value)} characters")
    return [(b"x-request-id", value.encode("ascii"))]
