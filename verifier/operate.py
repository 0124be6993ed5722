"""What the `verifier` command does over the API: the same routes, key and log as any other operator."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.reason import REMEDIES, Reason
from writ.formats.strict import decode_json
from writ.service.clock import SystemClock

if TYPE_CHECKING:
    from writ.service.uplink import Answer

MAX_ANSWER: Final = 64 << 20
MAX_KEY_FILE: Final = 256
_PLACE: Final = re.compile(r"\A(?:body|path|query)\.")
"""Where in a request a value stood, which says nothing to who typed a command."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where the verifier answers, and with which API key."""

    url: str
    api_key_file: Path
    ca_file: Path | None
    namespace: str | None


class Client:
    """Calls the verifier as an operator. Every refusal comes back as Refused, with the verifier's own reasons."""

    def __init__(self, server: Server) -> None:
        from writ.service.uplink import Uplink

        self._uplink = Uplink(
            server.url, ca_file=server.ca_file, signer=None, clock=SystemClock(), timeout=30, max_answer=MAX_ANSWER,
            bearer=read_api_key(server.api_key_file),
        )  # fmt: skip
        self._namespace = server.namespace

    def close(self) -> None:
        """The connection is closed."""
        self._uplink.close()

    def get(self, path: str, **query: str | int) -> dict[str, Any]:
        """The JSON answer to GET."""
        return _json(self._uplink.base_url, self._uplink.get(self._path(path, query)))

    def post(self, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        """The JSON answer to POST."""
        data = b"" if body is None else json.dumps(body).encode("utf-8")
        return _json(self._uplink.base_url, self._uplink.post(self._path(path, {}), data, "application/json"))

    def export(self, *, page: int = 200) -> bytes:
        """The archive of all decisions of the namespace, with every object they name, encoded."""
        from writ.formats.archive import EMPTY, encode_archive, parse_archive

        archive, last = EMPTY, self.get("/v1/decisions", most=1)["last"]
        for after in range(-1, last, page):
            answer = self._uplink.get(self._path("/v1/archive", {"after": after, "most": page}))
            if answer.status != 200:
                _json(self._uplink.base_url, answer)
            archive = archive.merged(parse_archive(answer.body))
        return encode_archive(archive)

    def _path(self, path: str, query: Mapping[str, str | int]) -> str:
        asked = {key: str(value) for key, value in query.items()}
        if self._namespace is not None:
            asked["namespace"] = self._namespace
        return path + (f"?{urlencode(asked)}" if asked else "")


def segment(text: str) -> str:
    """A name as a segment of a path."""
    return quote(text, safe="")


def read_api_key(path: Path) -> str:
    """The API key in a file. Raises Unavailable, FormatError."""
    try:
        text = path.read_bytes()[: MAX_KEY_FILE + 1]
    except OSError as error:
        raise Unavailable("API key file", f"cannot read {path}: {error.strerror}") from None
    secret = text.decode("ascii", "replace").strip()
    if not secret.startswith("writ_") or len(text) > MAX_KEY_FILE or not secret.isprintable() or " " in secret:
        raise FormatError("API key file", "one line beginning with writ_", "something else")
    return secret


def _json(address: str, answer: Answer) -> dict[str, Any]:
    try:
        value = decode_json(answer.body, "answer", max_size=MAX_ANSWER)
    except FormatError:
        raise Unavailable(address, f"expected JSON, got status {answer.status} with {len(answer.body)} other bytes") from None
    if answer.status == 200 and isinstance(value, dict):
        return value
    reasons = _reasons(value)
    if reasons and 400 <= answer.status < 500:
        raise Refused(*reasons)
    raise Unavailable(address, f"status {answer.status}" + "".join(f": {reason}" for reason in reasons[:1]))


def _reasons(value: object) -> tuple[Reason, ...]:
    found = value.get("reasons") if isinstance(value, dict) else None
    reasons = []
    for item in found if isinstance(found, list) else []:
        if isinstance(item, dict) and item.get("code") in REMEDIES:
            texts = [item.get(key) for key in ("claim", "expected", "got")]
            if all(isinstance(text, str) for text in texts):
                claim, expected, got = map(str, texts)
                reasons.append(Reason(str(item["code"]), _PLACE.sub("", claim), expected, got))
    return tuple(reasons)
