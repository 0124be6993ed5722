"""Placeholders in the headers of a request that may pass, and the secrets that stand in their place when it is sent on.

Each is an action of its own, `secret.send` on `secret:NAME@URL`, beside the request: a secret goes only where a grant of it says. A
placeholder anywhere else (path, query, body) stays what it is.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Final

from enforcer.gatekeeper import Ruling
from enforcer.gates.egress.request import Headers
from enforcer.secrets.held import Secrets
from writ.formats.errors import Refused, Unavailable
from writ.formats.strict import encode_json
from writ.service import observe

SEND: Final = "secret.send"
_BASIC: Final = re.compile(rb"(?i:basic) +([A-Za-z0-9+/]+={0,2})\Z")
"""RFC 7617 2."""
_FIT: Final = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?\Z")
"""What can stand in a header and end no line of it."""
_LOG = observe.get_logger(__name__)
Ask = Callable[[str, str, bytes], Ruling]


def injected(headers: Headers, url: str, secrets: Secrets, ask: Ask, rulings: list[Ruling]) -> Headers:
    """`headers` as they are sent on to `url`.

    1. The placeholders in them are found, also within Basic credentials.
    2. Each is asked for, and its ruling is among `rulings`.
    3. Its secret is fetched, under the token of that ruling, and stands where it stood.

    Raises Refused where one of them was refused, Unavailable where there is no such secret now; nothing is sent then.
    """
    # 1
    looked = [(header.lower().decode(), value + b" " + _within(value)) for header, value in headers] if secrets.placeholders else []
    values: dict[bytes, bytes] = {}
    for name in sorted(secrets.placeholders):
        placeholder = secrets.placeholders[name].encode()
        if not (where := sorted({header for header, text in looked if placeholder in text})):
            continue
        # 2
        rulings.append(ask(SEND, f"secret:{name}@{url}", encode_json({"headers": where, "secret": name})))
        if not rulings[-1].permit:
            raise Refused(*rulings[-1].reasons)
        # 3
        try:
            values[placeholder] = _fit(name, secrets.value(name, rulings[-1].held))
        except Unavailable as error:  # what it says of vaults, files and roles is for people of the host
            _LOG.warning("secret-missing", name=name, what=error.what, detail=error.detail)
            raise Unavailable(f"secret {name}", "it cannot be had now") from None
    return [(header, _replaced(value, values)) for header, value in headers] if values else headers


def _fit(name: str, value: bytes) -> bytes:
    value = value.removesuffix(b"\n")
    if not _FIT.match(value):
        raise Unavailable(f"secret {name}", "expected printable ASCII on one line, which a header can hold, got something else")
    return value


def _within(value: bytes) -> bytes:
    """User and password of Basic credentials, or nothing."""
    found = _BASIC.match(value)
    try:
        return b"" if found is None else base64.b64decode(found[1], validate=True)
    except binascii.Error:
        return b""


def _replaced(value: bytes, values: dict[bytes, bytes]) -> bytes:
    inner = _within(value)
    if any(text in inner for text in values):
        return b"Basic " + base64.b64encode(_put(inner, values))
    return _put(value, values)


def _put(text: bytes, values: dict[bytes, bytes]) -> bytes:
    """A secret is put in the place of each placeholder, and is never looked into for another."""
    found = re.compile(b"|".join(map(re.escape, values)))
    return found.sub(lambda match: values[match[0]], text)
