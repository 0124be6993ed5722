"""A cloud's access token for the instance's exchange token: OAuth 2.0 Token Exchange (RFC 8693), as identity federations offer it.

What came back lives until its provider says: there is no way to give it back that all of them know, so it should be short.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import urlencode, urlsplit

from enforcer.credential import Held
from enforcer.secrets.bearer import Bearers
from enforcer.secrets.source import DUE, FRESH_FOR, MAX_SECRET, WITHIN, GiveBack, Lease
from writ.formats.errors import FormatError, Unavailable
from writ.formats.strict import Fields, decode_json
from writ.service.clock import Clock
from writ.service.uplink import Uplink

_MAX_ANSWER: Final = 64 << 10
_OF: Final = "urn:ietf:params:oauth"
_JWT: Final = f"{_OF}:token-type:jwt"
_ACCESS: Final = f"{_OF}:token-type:access_token"


class Exchanged:
    """The access token that `url` gives for `audience` and `scope`. It is shown an exchange token for `own`, which is its own audience."""

    def __init__(
        self, name: str, bearers: Bearers, url: str, own: str, audience: str, scope: str, *, ca_file: Path | None, clock: Clock
    ) -> None:  # fmt: skip
        """Raises FormatError for a URL that is none."""
        self._bearers, self._own = bearers, own
        parts = urlsplit(url)
        self._name, self._path, self._audience, self._scope = name, parts.path or "/", audience, scope
        base = url.removesuffix(parts.path) if parts.path else url
        self._uplink = Uplink(base, ca_file=ca_file, signer=None, clock=clock, timeout=WITHIN, max_answer=_MAX_ANSWER)

    def fetch(self, held: Held) -> Lease:
        """As `Source`."""
        shown, _ = self._bearers.token(self._own, held)
        asked = {
            "grant_type": f"{_OF}:grant-type:token-exchange", "subject_token": shown, "subject_token_type": _JWT,
            "requested_token_type": _ACCESS, "audience": self._audience, **({"scope": self._scope} if self._scope else {}),
        }  # fmt: skip
        answer = self._uplink.post(self._path, urlencode(asked).encode(), "application/x-www-form-urlencoded")
        self._uplink.close()
        if answer.status != 200:
            raise Unavailable(f"secret {self._name}", f"token exchange: expected 200, got {answer.status}")
        try:
            given = Fields(decode_json(answer.body, "token exchange", max_size=_MAX_ANSWER), "token exchange")
            token = given.text("access_token", least=1, most=MAX_SECRET).encode()
            seconds = given.uint("expires_in") * DUE if given.has("expires_in") else FRESH_FOR
        except FormatError as error:
            raise Unavailable(f"secret {self._name}", f"expected {error.expected} in {error.what}") from None
        return Lease(token, seconds)

    def forget(self) -> GiveBack | None:
        """Nothing can be given back."""
        self._bearers.forget()
        return None
