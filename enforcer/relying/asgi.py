"""One request of ASGI as a relying party needs it: each header once, the body whole, a URL with one reading, a refusal that says why.

Source: ASGI 3.0; RFC 9457; RFC 9449 section 7.1.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from enforcer.relying.party import Presented, RelyingParty, Sink, challenge_of, not_durable, status_of
from enforcer.relying.sink import DURABLE_WITHIN, FileSink
from writ.formats.access import Access
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Misuse, Refused, Unavailable
from writ.formats.lease import LEASE_HEADER
from writ.formats.reason import Reason
from writ.formats.strict import encode_json
from writ.service import cli, observe
from writ.verdict.token import VerifiedToken

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

MAX_BODY: Final = 1 << 20
BODY_WITHIN: Final = 10.0
"""Seconds for the whole body."""
RECORDED_WITHIN: Final = 4.0
"""Seconds for the record of a decision in a sink that is not ours; below what a proxy waits for us."""
RECORDED_AT_ONCE: Final = 64
"""Threads in which such a sink is called: as many records can be made durable together."""
_LEASE: Final = LEASE_HEADER.lower().encode("ascii")
_LOG = observe.get_logger(__name__)
_RECORDERS = ThreadPoolExecutor(RECORDED_AT_ONCE, "relying")


def new_reference() -> str:
    """A name for one decision, for whoever asks why."""
    return secrets.token_hex(6)


def checked_origin(origin: str) -> str:
    """`origin` if it is scheme and authority and nothing else. Raises Misuse."""
    if not origin.startswith(("https://", "http://")) or origin.count("/") != 2:
        raise Misuse("origin is scheme://authority without a path")
    return origin


async def is_http(scope: Scope, send: Send) -> bool:
    """Whether `scope` is a request; what is none has been refused."""
    if scope["type"] == "http":
        return True
    await send({"type": "websocket.close", "code": 1008, "reason": "not supported"})
    return False


def http_action(method: str, origin: str, target: bytes, arguments: Digest) -> Action:
    """The action `http.<method>` on the URL that `origin` and `target`, the path as it stood on the wire, make.

    A query, an escape, an empty or a dot segment, also before parameters (`..;`), a backslash and a fragment are refused: two readers
    could take them for two resources; empty segments by `Action`. Raises FormatError.
    """
    if not method.isascii() or not method.isalpha() or not method.isupper():
        raise FormatError("method", "capital letters", repr(method)[:40])
    path, mark, query = target.partition(b"?")
    if mark:
        raise FormatError("query", "none", f"{len(query)} bytes")
    if not path.startswith(b"/") or not path.isascii() or any(sign in path for sign in b"%\\#"):
        raise FormatError("path", "a normalised path without percent-encodings", repr(path)[:80])
    if any(segment.partition(b";")[0] in (b".", b"..") for segment in path.split(b"/")):
        raise FormatError("path", "a normalised path without percent-encodings", repr(path)[:80])
    return Action(f"http.{method.lower()}", origin + path.decode("ascii"), arguments)


def target_of(scope: Scope) -> bytes:
    """Path and query as they stood on the wire. Raises FormatError where the server does not say, or says two things."""
    raw = bytes(scope.get("raw_path") or str(scope["path"]).encode())
    if raw != str(scope["path"]).encode("ascii", "replace"):
        raise FormatError("path", "a normalised path without percent-encodings", repr(raw)[:80])
    query = bytes(scope.get("query_string") or b"")
    return raw + b"?" + query if query else raw


def single(scope: Scope, wanted: bytes) -> str | None:
    """The one value of a header, None where there is none. Raises FormatError for two, or for other than ASCII."""
    found = [bytes(value) for name, value in scope["headers"] if bytes(name).lower() == wanted]
    if len(found) > 1:
        raise FormatError(f"header {wanted.decode()}", "once", f"{len(found)} times")
    if not found:
        return None
    if not found[0].isascii():
        raise FormatError(f"header {wanted.decode()}", "ASCII", "other bytes")
    return found[0].decode("ascii")


def one_length(scope: Scope) -> None:
    """What says where the body ends is one header, once, or none. Raises FormatError: two readers could take what follows for another."""
    if None not in [single(scope, name) for name in (b"content-length", b"transfer-encoding")]:
        raise FormatError("body", "Content-Length or Transfer-Encoding", "both")


def shown(scope: Scope) -> tuple[str, str, str | None]:
    """Token, proof and perhaps a lease, of `Authorization: DPoP …`, `DPoP: …` and `Writ-Lease: …`.

    Raises Refused where one that is always needed is missing, FormatError where one comes twice.

    Source: RFC 9449 section 7.1.
    """
    authorization, proof = single(scope, b"authorization"), single(scope, b"dpop")
    if authorization is None:
        raise Refused(Reason("unauthenticated", "Authorization", "DPoP and a token", "none"))
    kind, _, token = authorization.partition(" ")
    if kind.lower() != "dpop":
        raise Refused(Reason("unauthenticated", "Authorization", "DPoP and a token", repr(kind)[:20]))
    if proof is None:
        raise Refused(Reason("proof-missing", "DPoP", "one proof", "none"))
    return token, proof, single(scope, _LEASE)


class Room:
    """For so many requests at once, of one loop: entered while it is full it raises Refused."""

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0

    def __enter__(self) -> None:
        if self._taken >= self._most:
            raise Refused(Reason("too-many-requests", "requests", f"at most {self._most} at once", "more"))
        self._taken += 1

    def __exit__(self, *_: object) -> None:
        self._taken -= 1


async def read_body(receive: Receive, most: int = MAX_BODY) -> bytes:
    """The whole body. Raises Refused above `most` bytes, Unavailable where the client left or took longer than `BODY_WITHIN`."""
    try:
        async with asyncio.timeout(BODY_WITHIN):
            return await _read(receive, most)
    except TimeoutError:
        raise Unavailable("client", f"its request was not whole within {BODY_WITHIN:g} s") from None


async def _read(receive: Receive, most: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Unavailable("client", "left before its request was whole")
        body += message.get("body", b"")
        if len(body) > most:
            raise Refused(Reason("too-large", "body", f"at most {most} bytes", "more"))
        if not message.get("more_body", False):
            return bytes(body)


async def admitted(party: RelyingParty, request: Presented, *, gate: str, reference: str) -> VerifiedToken:
    """As `party.admit`, but that others are served while the record becomes durable. Raises Refused.

    A record that takes too long may come to be all the same, but nothing passes by it.
    """
    weighed = party.weigh(request, gate=gate, reference=reference)
    try:
        await _recorded(party.sink, weighed.access)
    except Exception as error:  # noqa: BLE001 - whatever a sink raises, the record is not known to be durable
        raise not_durable(error, reference) from None
    return weighed.passed()


async def _recorded(sink: Sink, access: Access) -> None:
    if not isinstance(sink, FileSink):
        await asyncio.wait_for(asyncio.wrap_future(_RECORDERS.submit(sink.write, access)), RECORDED_WITHIN)
        return
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()
    waiting = sink.begin(access, lambda: loop.call_soon_threadsafe(_tell, told))
    try:
        async with asyncio.timeout(DURABLE_WITHIN):
            await told
    except TimeoutError:
        waiting.ended(told=False)
    waiting.ended(told=True)


def _tell(told: asyncio.Future[None]) -> None:
    if not told.done():
        told.set_result(None)


def reasons_of(error: Exception, where: str, reference: str) -> tuple[Reason, ...]:
    """Why whatever was raised before a decision refuses (I3); only our own texts leave, and what is none of ours is logged."""
    match error:
        case Refused():
            return error.reasons
        case FormatError():
            return (Reason("malformed", error.what[:100], error.expected, error.got),)
        case Unavailable():
            return (Reason("unavailable", error.what[:100], "an answer in time", error.detail[:200]),)
        case _:
            _LOG.error("relying-failed", exception=error, where=where, reference=reference)
            return (Reason("internal", where, "a decision", "a fault of ours"),)


async def refuse(send: Send, reasons: Sequence[Reason], reference: str, *, status: int | None = None, headers: Headers = ()) -> None:
    """A problem with the reasons has been answered, with `status` instead of the one in the table where it is given."""
    answered = status_of(reasons) if status is None else status
    more = [*headers, (b"www-authenticate", challenge_of(reasons).encode())] if answered == 401 else [*headers]
    problem = {"type": f"urn:writ:reason:{reasons[0].code}", "title": "refused", "status": answered, **cli.refusal(reasons, reference)}
    await answer(send, answered, encode_json(problem), content_type=b"application/problem+json", headers=more)


async def answer(send: Send, status: int, body: bytes, *, content_type: bytes = b"application/json", headers: Headers = ()) -> None:
    """One whole answer has been sent, which nobody may keep."""
    lines = [(b"content-type", content_type), (b"cache-control", b"no-store"), *headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})
