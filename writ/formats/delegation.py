"""A delegation: which publishers may release reference values of a namespace, of which environments, and what of them they may change.

After TUF's targets roles: a role names keys and a threshold, and what they speak
for. The document is numbered and signed by the verifier's decision key; versions
only rise. Parsed is not yet trusted: signature and version are judged elsewhere.

    {"v": 1, "namespace": "billing", "version": 3, "issued_at": 1790000000, "roles": [
      {"name": "prompts", "environments": ["spiffe://example.org/billing/agent/*"], "components": ["prompts"],
       "publishers": [<COSE_Key>, …], "threshold": 1, "not_after": 1800000000}]}

Source: The Update Framework specification 1.0.33, sections 4.3 (roles, threshold) and 5.6 (delegations, rollback).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.keys import PublicKey, parse_cose_key
from writ.formats.strict import Fields, decode_cbor, encode_cbor, name

CONTENT_TYPE: Final = "application/vnd.writ.delegation+cbor"
MOST_ROLES: Final = 64
MOST_PATTERNS: Final = 64
MOST_PUBLISHERS: Final = 32
MOST_PATTERN: Final = 256
"""Characters."""


@dataclass(frozen=True, slots=True)
class Role:
    """What some keys may do. Constructing one that breaks this raises FormatError.

    `environments` and `components` are patterns, sorted, each once: a name, or
    the beginning of names and `*`. `publishers` are sorted by thumbprint;
    `threshold` of them have to sign. `not_after` is in seconds, inclusive.
    """

    name: str
    environments: tuple[str, ...]
    components: tuple[str, ...]
    publishers: tuple[PublicKey, ...]
    threshold: int
    not_after: int

    def __post_init__(self) -> None:
        name(self.name, "delegation.role")
        for what, patterns in (("environments", self.environments), ("components", self.components)):
            if list(patterns) != sorted(set(patterns)) or not 1 <= len(patterns) <= MOST_PATTERNS:
                raise FormatError(f"delegation.{what}", f"1 to {MOST_PATTERNS} patterns, sorted, each once", f"{len(patterns)}")
            for one in patterns:
                pattern(one, f"delegation.{what}")
        prints = [key.thumbprint() for key in self.publishers]
        if prints != sorted(set(prints)) or not 1 <= len(prints) <= MOST_PUBLISHERS:
            raise FormatError("delegation.publishers", f"1 to {MOST_PUBLISHERS} keys by thumbprint, each once", f"{len(prints)}")
        if not 1 <= self.threshold <= len(prints):
            raise FormatError("delegation.threshold", f"1 to {len(prints)}, the number of publishers", str(self.threshold)[:40])
        if not 0 <= self.not_after < 1 << 63:
            raise FormatError("delegation.not_after", "seconds since the epoch", str(self.not_after)[:40])


@dataclass(frozen=True, slots=True)
class Delegation:
    """One version of a namespace's roles, sorted by name, each once. Without roles nobody publishes."""

    namespace: str
    version: int
    issued_at: int
    roles: tuple[Role, ...]

    def __post_init__(self) -> None:
        names = [role.name for role in self.roles]
        if names != sorted(set(names)) or len(names) > MOST_ROLES:
            raise FormatError("delegation.roles", f"at most {MOST_ROLES}, sorted by name, each once", f"{len(names)}")

    @property
    def digest(self) -> Digest:
        """The name of this version."""
        return Digest.of(encode_delegation(self))


def pattern(value: str, what: str) -> str:
    """`value` if it is a name, or the beginning of names and `*`. Raises FormatError."""
    Fields({"pattern": value}, what).text("pattern", least=1, most=MOST_PATTERN)
    if "*" in value[:-1]:
        raise FormatError(what, "no * but at the end", repr(value)[:80])
    return value


def matches(wanted: str, value: str) -> bool:
    """Whether the pattern `wanted` names `value`."""
    return value.startswith(wanted[:-1]) if wanted.endswith("*") else value == wanted


def encode_delegation(delegation: Delegation) -> bytes:
    """The one spelling of a delegation."""
    roles = [
        {
            "name": role.name,
            "environments": list(role.environments),
            "components": list(role.components),
            "publishers": [key.to_cose_key() for key in role.publishers],
            "threshold": role.threshold,
            "not_after": role.not_after,
        }
        for role in delegation.roles
    ]
    d = delegation
    return encode_cbor({"v": 1, "namespace": d.namespace, "version": d.version, "issued_at": d.issued_at, "roles": roles})


def parse_delegation(data: bytes) -> Delegation:
    """Read a delegation. Raises FormatError."""
    f = Fields(decode_cbor(data, "delegation"), "delegation")
    f.version(1)
    delegation = Delegation(
        f.name("namespace"), f.uint("version"), f.uint("issued_at"), tuple(_role(item) for item in f.items("roles", most=MOST_ROLES))
    )
    f.done()
    if encode_delegation(delegation) != data:
        raise FormatError("delegation", "keys without other parameters", "another spelling")
    return delegation


def _role(value: object) -> Role:
    f = Fields(value, "delegation.role")
    role = Role(
        name=f.name("name"),
        environments=_patterns(f, "environments"),
        components=_patterns(f, "components"),
        publishers=tuple(parse_cose_key(item) for item in f.items("publishers", most=MOST_PUBLISHERS)),
        threshold=f.uint("threshold"),
        not_after=f.uint("not_after"),
    )
    f.done()
    return role


def _patterns(f: Fields, key: str) -> tuple[str, ...]:
    items = dict(enumerate(f.items(key, most=MOST_PATTERNS)))
    return tuple(Fields(items, f"delegation.{key}").text(at, least=1, most=MOST_PATTERN) for at in items)
