"""Grants: which actions on which resources an agent, a token or a child may ask for.

A grant is a pair: a Cedar action, and either one exact resource or a prefix
ending `/*`. A set of grants is sorted, without repeats, and holds at most 64.
As CBOR, JSON and TOML it is an array of two-element arrays of text.

>>> asked = parse_grants([["call", "files/*"], ["call", "mail/send"]])
>>> covers(asked[0], "call", "files/report.txt"), covers(asked[0], "call", "files/../keys")
(True, False)
>>> narrower(parse_grants([["call", "files/reports/*"]]), asked)
True

A grant is a ceiling and never a permission: Cedar decides beneath it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from writ.formats.errors import FormatError

MAX_GRANTS: Final = 64
MAX_RESOURCE: Final = 512
"""Characters."""

_ACTION = re.compile(r"[A-Za-z][A-Za-z0-9_.:/-]{0,127}\Z", re.ASCII)
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f-\x9f\ud800-\udfff*\\]")
"""Spaces, control characters, lone surrogates, wildcards and backslashes."""


class Grant(NamedTuple):
    """One action on one resource, or on every resource beneath a prefix ending `/*`.

    A pair rather than a dataclass, so that it sorts and spells as the
    two-element array it travels as. Made by `grant`, which checks it.
    """

    action: str
    resource: str


def grant(action: str, resource: str, what: str = "grant") -> Grant:
    """The checked pair. Raises FormatError.

    A resource has no `*` but the last of `/*`, no control character, no
    space, no backslash, and no segment `.` or `..`, percent-encoded or not.
    """
    if not isinstance(action, str) or not _ACTION.match(action):
        raise FormatError(f"{what}.action", "a letter, then up to 127 of letters, digits, _ . : / -", repr(action)[:80])
    if not isinstance(resource, str) or not 1 <= len(resource) <= MAX_RESOURCE:
        raise FormatError(f"{what}.resource", f"text of 1 to {MAX_RESOURCE} characters", repr(resource)[:80])
    if not _plain(resource.removesuffix("/*")):
        raise FormatError(
            f"{what}.resource", "an exact resource or a prefix ending /*, without *, spaces, \\ or dot segments", repr(resource)[:80]
        )
    return Grant(action, resource)


def _plain(resource: str) -> bool:
    """Whether the text names one thing only: nothing in it that a reader further on could take for a way up or a wildcard."""
    if _AMBIGUOUS.search(resource):
        return False
    if "." not in resource and "%" not in resource:
        return True
    unescaped = resource.lower().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/")
    return not any(segment in {".", ".."} for segment in unescaped.split("/"))


def parse_grants(value: object, what: str = "grants") -> tuple[Grant, ...]:
    """Read a decoded array of pairs: sorted, without repeats, at most 64. Raises FormatError."""
    if not isinstance(value, list | tuple):
        raise FormatError(what, "an array of [action, resource]", type(value).__name__)
    if len(value) > MAX_GRANTS:
        raise FormatError(what, f"at most {MAX_GRANTS} grants", f"{len(value)}")
    found: list[Grant] = []
    for item in value:
        if not isinstance(item, list | tuple) or len(item) != 2:
            raise FormatError(what, "pairs [action, resource]", repr(item)[:80])
        found.append(grant(item[0], item[1], what))
    for before, after in pairwise(found):
        if before >= after:
            raise FormatError(what, "sorted pairs without repeats", f"{list(after)} after {list(before)}")
    return tuple(found)


def grant_set(pairs: Iterable[tuple[str, str]]) -> tuple[Grant, ...]:
    """The sorted set of `pairs`, checked. Raises FormatError."""
    return parse_grants(sorted({Grant(action, resource) for action, resource in pairs}))


def encode_grants(grants: Sequence[Grant]) -> list[list[str]]:
    """The array form. Raises FormatError if `grants` is not a sorted set of checked grants."""
    return [[action, resource] for action, resource in parse_grants(grants)]


def covers(grant: Grant, action: str, resource: str) -> bool:
    """Whether `grant` reaches `action` on the one `resource`.

    Exact text decides; nothing is normalised. A resource with a wildcard, a
    space, a backslash or a dot segment is covered by no grant; nor is the bare
    prefix (`files/` under `files/*`), nor an empty segment beneath it.
    """
    if action != grant.action or not 1 <= len(resource) <= MAX_RESOURCE or not _plain(resource):
        return False
    if not grant.resource.endswith("/*"):
        return resource == grant.resource
    beneath = resource[len(grant.resource) - 1 :]
    return resource.startswith(grant.resource[:-1]) and beneath != "" and not beneath.startswith("/") and "//" not in beneath


def within(child: Grant, parent: Grant) -> bool:
    """Whether everything that `child` reaches, `parent` reaches."""
    if not child.resource.endswith("/*"):
        return covers(parent, child.action, child.resource)
    if child.action != parent.action or not parent.resource.endswith("/*"):
        return False
    return child == parent or covers(parent, child.action, child.resource[:-1] + "-")  # "-" stands for whatever is beneath


def narrower(child: Sequence[Grant], parent: Sequence[Grant]) -> bool:
    """Whether each grant of `child` is within one grant of `parent`. No grants at all are narrower than any."""
    return all(any(within(one, other) for other in parent) for one in child)
