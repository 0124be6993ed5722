"""The ASGI application: the table of routes, each with its caller, behind the limits."""

from __future__ import annotations

import re
import secrets
from typing import Any, Final

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from verifier.http import attest, introspection, log, operator, reference
from verifier.http.introspection import FORM
from verifier.http.limits import BODIES_MOST, BODIES_OF_ONE, Limits, Rate, RouteLimit, Shares
from verifier.http.problems import CBOR, answer, problem, reasons_of
from verifier.http.route import SMALL, Parts, Route, documented, guard, known
from verifier.http.wire import NAME, SHA256
from verifier.http.wire_reference import REFERENCE
from verifier.ledger import Void
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.reason import Reason
from writ.service.observe import Counters

BODIES: Final[dict[str, Any]] = {
    CBOR: {"type": "string", "format": "binary"},
    FORM: {"type": "object", "required": ["token"], "properties": {"token": {"type": "string"}}},
}


def table(parts: Parts) -> tuple[Route, ...]:
    """Every route there is."""
    return (*log.routes(parts), *attest.routes(parts), *operator.routes(parts), *introspection.routes(parts), *reference.routes(parts))


def build(parts: Parts, like: FastAPI | None = None) -> FastAPI:
    """The application over `parts`. Nothing answers but what is in `table`, and `/openapi.json`.

    With `like`, an application built over this same object `parts`, its routes are taken: most of the cost is to make them.
    """
    app = FastAPI(title="Writ verifier", version="1", docs_url=None, redoc_url=None, openapi_url="/openapi.json", redirect_slashes=False)
    app.router.redirect_slashes = False
    routes = table(parts)
    if like is None:
        for route in routes:
            _add(app, route, parts)
    else:
        app.router.routes.extend(route for route in like.router.routes if isinstance(route, APIRoute))
    limits = _Finder(routes)
    _errors(app, limits, parts.counters)
    rate = Rate(burst=parts.requests_burst, per_second=parts.requests_per_second)
    app.add_middleware(Limits, limit=limits.find, rate=rate, known=known(parts), bodies=Shares(BODIES_MOST, BODIES_OF_ONE))
    return app


def _add(app: FastAPI, route: Route, parts: Parts) -> None:
    extra: dict[str, Any] = {}
    if route.body_type is not None:
        extra["requestBody"] = {"required": True, "content": {route.body_type: {"schema": BODIES[route.body_type]}}}
    operators = route.caller not in ("public", "host")
    json_most = route.body if operators and route.body_type is None else 0
    secured = [Depends(HTTPBearer(auto_error=False, scheme_name="api_key"))] if operators else []
    app.router.add_api_route(
        route.path,
        route.endpoint,
        methods=[route.method],
        dependencies=secured,
        response_class=Response,
        response_model=None,
        responses={200: {"description": "Done", "content": {route.answer_type: {}}}, **documented(route.cbor)},
        openapi_extra=extra or None,
        name=f"{route.method} {route.path}",
        description=f"Caller: {route.caller}.",
        route_class_override=guard(route.caller, parts, json_most),
    )


def _pattern(path: str) -> re.Pattern[str]:
    plain = re.escape(path).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(re.sub(r"\{\w+:path\}", ".+", re.sub(r"\{\w+\}", "[^/]+", plain)))


class _Finder:
    """The limits of a request by method and path; those of a path that no route has are the smallest."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._routes = [(route.method, _pattern(route.path), route) for route in routes]

    def find(self, method: str, path: str) -> RouteLimit:
        """The limits of that route."""
        for spoken, pattern, route in self._routes:
            if spoken == method and pattern.fullmatch(path):
                return RouteLimit(route.body, route.cbor, route.caller)
        return RouteLimit(SMALL, cbor=False)

    def methods(self, path: str) -> str:
        """The methods that the path has, for an Allow header."""
        return ", ".join(sorted({method for method, pattern, _ in self._routes if pattern.fullmatch(path)}))


def _errors(app: FastAPI, limits: _Finder, counters: Counters) -> None:
    """Every error becomes a problem; what nobody foresaw says only that it is ours."""

    def speaks_cbor(request: Request) -> bool:
        return limits.find(request.method, request.url.path).cbor

    def any_error(request: Request, error: Exception) -> Response:
        foreseen = Unavailable("verifier", str(error)) if isinstance(error, Void) else error
        if isinstance(error, OSError):  # of our own files and descriptors: nothing that a caller sent
            foreseen = Unavailable("verifier", error.strerror or "the system refused")
        for reason in reasons_of(foreseen)[:1]:
            counters.add("verifier_refused_total", {"code": reason.code})
        return answer(foreseen, cbor=speaks_cbor(request))

    def http_error(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
        if status == 405:
            headers["Allow"] = limits.methods(request.url.path)
        code = {404: "not-found", 405: "not-found", 401: "unauthenticated", 403: "forbidden"}.get(status, "malformed")
        reason = Reason(
            code, "request", "a route of this verifier", f"{request.method} {request.url.path}"[:200].encode("ascii", "replace").decode()
        )
        return problem(status, (reason,), secrets.token_hex(8), cbor=speaks_cbor(request), headers=headers)

    def invalid(request: Request, error: Exception) -> Response:
        faults = error.errors() if isinstance(error, RequestValidationError) else []
        reasons = tuple(sorted({_fault(fault) for fault in faults[:16]})) or (Reason("malformed", "request", "a valid request", "another"),)
        return problem(422, reasons, secrets.token_hex(8), cbor=speaks_cbor(request))

    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    for family in (Exception, FormatError, OSError, Refused, Unavailable, Void):
        app.add_exception_handler(family, any_error)


EXPECTED: Final = {
    "missing": "a value", "extra_forbidden": "no such member", "json_invalid": "JSON", "string_type": "text", "int_type": "a whole number",
    "int_parsing": "a whole number", "bool_type": "true or false", "list_type": "an array", "dict_type": "an object",
    "model_attributes_type": "an object", "string_pattern_mismatch": "{spelt}",
    "string_too_short": "at least {min_length} characters", "string_too_long": "at most {max_length} characters",
    "too_short": "at least {min_length} items", "too_long": "at most {max_length} items", "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}", "less_than": "below {lt}", "literal_error": "{expected}",
}  # fmt: skip
"""What the models complain about, by pydantic's name for it, in our words."""
SPELT: Final = {
    NAME: "1 to 63 of a-z 0-9 . _ -, letter or digit first and last", SHA256: "sha256: and 64 lower-case hex digits",
    REFERENCE: "12 to 64 lower-case hex digits",
}  # fmt: skip
"""What a pattern of the models lets pass, for people; others are shown as they are."""


def _fault(fault: Any) -> Reason:
    """One complaint of the model: where, what was expected, and what kind of value came. No value but a number is repeated."""
    where = ".".join(str(part) for part in fault.get("loc", ()))[:200]
    clean = "".join(c if c.isascii() and c.isprintable() else "?" for c in where)
    kind = str(fault.get("type"))
    bounds = fault.get("ctx", {})
    pattern = str(bounds.get("pattern"))
    expected = EXPECTED.get(kind, "a valid value").format(**bounds, spelt=SPELT.get(pattern, f"text that matches {pattern}"))
    return Reason("malformed", clean or "request", expected[:200], "none" if kind == "missing" else _kind(fault.get("input")))


def _kind(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
        return str(value)
    if isinstance(value, str | list | tuple):
        return f"{len(value)} {'characters' if isinstance(value, str) else 'items'}"
    kinds = ((type(None), "null"), (bool, "true or false"), (int, "a whole number"), (dict, "an object"))
    return next((text for kind, text in kinds if isinstance(value, kind)), "something else")
