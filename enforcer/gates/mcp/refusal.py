"""How a client of the Model Context Protocol hears of a refusal, of a failure, and that what it sent was no request."""

from __future__ import annotations

from typing import Any

from enforcer.tools.mcp_server import spelt
from writ.formats.errors import FormatError, Unavailable
from writ.formats.mcp.protocol import FAILED, REFUSED, UNSUPPORTED_VERSION, VERSIONS, BadMessage
from writ.formats.reason import Reason
from writ.service import cli


def refused(reasons: tuple[Reason, ...], reference: str | None) -> dict[str, Any]:
    """An action was refused, as the record at `reference` says."""
    return {"error": refusal_error(REFUSED, reasons, reference)}


def failed(reference: str | None, error: FormatError | Unavailable) -> dict[str, Any]:
    """It was permitted, and could not be done."""
    failure = {"what": error.what, "detail": str(error)[:300]}
    data = {"ok": False, "reference": reference, "failure": failure}
    return {"error": {"code": FAILED, "message": f"failed: {failure['detail']}", "data": data}}


def refusal_error(code: int, reasons: tuple[Reason, ...], reference: str | None) -> dict[str, Any]:
    """The error of a refusal: a sentence for a model that sees no more, and the refusal whole."""
    first = min(reasons)
    beyond = "" if reference is None else f" (reference {reference})"
    data = {"ok": False, "reference": reference, "refusal": cli.refusal(reasons, reference)}
    return {"code": code, "message": f"refused: {first}. {first.remedy}{beyond}", "data": data}


def bad(error: BadMessage) -> bytes:
    """The answer to what was no request of ours: no action, no record."""
    reason = Reason("malformed", error.what[:100], error.expected, error.got)
    shown = refusal_error(error.code, (reason,), None)
    if error.code == UNSUPPORTED_VERSION:
        shown["data"] |= {"supported": list(VERSIONS), "requested": error.got.strip("'")}
    identifier = {} if error.identifier is None and error.modern else {"id": error.identifier}
    return spelt({"jsonrpc": "2.0", **identifier, "error": shown})
