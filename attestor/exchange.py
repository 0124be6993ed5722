"""One question to the verifier and its answer, as messages of `writ.formats.exchange`.

An answer is one of the expected types, or an exception: Refused with the
verifier's reasons, or Unavailable for whatever else came. None of it is signed
here; what is believed of it is the caller's to check.
"""

from __future__ import annotations

from typing import Final, TypeVar

from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.exchange import EXCHANGE, Exchange, Problem
from writ.service.uplink import Answer, Uplink

A = TypeVar("A", bound=Exchange)

CBOR: Final = "application/cbor"


def ask(uplink: Uplink, path: str, body: Exchange | bytes, expected: type[A], *, content_type: str = CBOR, retry: bool = False) -> A:
    """The verifier's answer of the type `expected`. Raises Refused, Unavailable."""
    data = body if isinstance(body, bytes) else EXCHANGE.encode(body)
    return read_answer(uplink.base_url, uplink.post(path, data, content_type, retry=retry), expected)


def read_answer(address: str, answer: Answer, expected: type[A]) -> A:
    """The message in `answer`. A refusal is Refused; anything that is not one of the two is Unavailable, never a permission."""
    try:
        message = EXCHANGE.parse(answer.body)
    except FormatError:
        raise Unavailable(address, f"expected a message of ours, got status {answer.status} with {len(answer.body)} other bytes") from None
    if answer.status == 200 and isinstance(message, expected):
        return message
    if isinstance(message, Problem) and 400 <= answer.status < 500 and answer.status != 429 and message.reasons:
        raise Refused(*message.reasons)
    if isinstance(message, Problem):
        codes = ", ".join(sorted({reason.code for reason in message.reasons})) or "no reason"
        raise Unavailable(address, f"status {answer.status}: {codes} (reference {message.reference})")
    raise Unavailable(address, f"expected {expected.__name__}, got {type(message).__name__} with status {answer.status}")
