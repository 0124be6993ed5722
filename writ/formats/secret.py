"""Secrets that an agent's manifest names: each has a name, and how the agent meets it.

`expose` is the environment variable that holds a placeholder, which the enforcer replaces in what goes out; or `file`, and the agent reads
the secret itself. A set of them is sorted by name, each name and each variable once. As CBOR it is an array of `[name, expose]`, in TOML a
table for each.

>>> secret_set([("mail-key", "MAIL_API_KEY"), ("client-key", "file")], "secrets")
(Secret(name='client-key', expose='file'), Secret(name='mail-key', expose='MAIL_API_KEY'))

What a secret is stands nowhere here: it is never measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from writ.formats.errors import FormatError
from writ.formats.strict import name

MAX_SECRETS: Final = 64
FILE: Final = "file"
"""`expose` of one that the agent reads."""
PROXIED: Final = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
"""Variables that name the proxy. Programs differ in the spelling that they read, and curl reads the small one only for http."""
PROXY_RULES: Final = ("NO_PROXY", "no_proxy", "NODE_USE_ENV_PROXY")
"""What goes past the proxy; and Node (from 24 on) wants to be told that there is one."""
TRUSTING: Final = (
    "SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS", "PIP_CERT", "NPM_CONFIG_CAFILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
)  # fmt: skip
"""Variables that name the file of whom to trust."""
OURS: Final = frozenset({"PATH", "HOME", "LANG", "TMPDIR", "WRIT_SOCKET", "WRIT_MCP", *PROXIED, *PROXY_RULES, *TRUSTING})
"""Variables that the enforcer sets itself."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z", re.ASCII)


class Secret(NamedTuple):
    """One secret by name, and the variable of its placeholder, or `file`."""

    name: str
    expose: str

    @property
    def is_file(self) -> bool:
        """Whether the agent reads it."""
        return self.expose == FILE


def secret_set(pairs: Iterable[Sequence[Any]], what: str) -> tuple[Secret, ...]:
    """The sorted set of these pairs. Raises FormatError."""
    found = sorted(_secret(pair, what) for pair in pairs)
    variables = [one.expose for one in found if not one.is_file]
    if len(found) > MAX_SECRETS or len({one.name for one in found}) != len(found) or len(set(variables)) != len(variables):
        raise FormatError(
            what,
            f"at most {MAX_SECRETS} secrets, each with a name and an environment variable of its own",
            ", ".join(one.name for one in found)[:100],
        )
    return tuple(found)


def parse_secrets(value: list[Any], what: str) -> tuple[Secret, ...]:
    """Read the array of pairs, sorted. Raises FormatError."""
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise FormatError(what, "pairs [name, expose]", "another")
    found = secret_set(value, what)
    if [list(one) for one in found] != value:
        raise FormatError(what, "secrets sorted by name", ", ".join(str(pair[0]) for pair in value)[:80])
    return found


def _secret(pair: Sequence[Any], what: str) -> Secret:
    called, expose = pair
    if not isinstance(called, str):
        raise FormatError(f"{what}.name", "text", type(called).__name__)
    if not isinstance(expose, str) or not _VARIABLE.match(expose) or expose in OURS:
        expected = "file, or the name of an environment variable that is the agent's own"
        raise FormatError(f"{what}.{name(called, what)}.expose", expected, repr(expose)[:80])
    return Secret(name(called, what), expose)
