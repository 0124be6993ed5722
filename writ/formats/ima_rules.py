"""What a policy asks of the IMA list: what may be left out, whose signatures count.

The rules stand in the settings of a signed policy bundle, as a CBOR map:

    {"exclude": ["/var/log/.*"], "violations": "refuse", "keyrings": [h'<DER certificate>'], "learn_keys": false}

An exclusion is a regular expression over the whole path. Python's engine backtracks and has no time limit, and the host
chooses the paths, so only patterns are taken that one pass decides (`is_safe`):

* literals, `.`, classes such as `[a-z]` or `[^/]`, and `\\` before a character that is no letter or digit;
* `*` or `+` behind a single one of those: as often as wanted in the form `[^/]*/` or `[^/]+/`, whose end no text leaves
  open, and once in any form, with nothing of the kind behind it;
* `?` behind a single one, and groups `(a|b)` without a quantifier, whose choices multiply to at most 16.

>>> is_safe(r"/home/[^/]+/\\.cache/.*"), is_safe(r"/var/log/.*\\.(log|gz)"), is_safe("/(a+)+"), is_safe("/.*x.*")
(True, True, False, False)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.ima_signature import keys_of
from writ.formats.strict import Fields, encode_cbor
from writ.formats.x509 import parse_certificate

VIOLATIONS: Final = ("refuse", "label")
"""The strictest first."""
MAX_EXCLUDE: Final = 128
MAX_PATTERN: Final = 256
MAX_KEYRINGS: Final = 64
_MAX_CHOICES: Final = 16
_SINGLE: Final = r"(?:\[\^?\]?(?:[^\[\]\\]|\\[^A-Za-z0-9])*\]|\\[^A-Za-z0-9]|[^\\\[\](){}|*+?^$])"
_TOKEN: Final = re.compile(
    rf"(?P<segment>\[\^/\][*+](?:/|\Z))|(?P<single>{_SINGLE})(?P<times>[*+?]?)|(?P<group>\((?:\?:)?(?P<first>{_SINGLE}*)(?P<more>(?:\|{_SINGLE}*)+)\))(?![*+?{{])",
    re.ASCII,
)


def is_safe(pattern: str) -> bool:
    """Whether `pattern` is of the subset above: matched in one pass over a path times at most 16."""
    at, open_ended, choices = 0, False, 1
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        if token is None:
            return False
        at = token.end()
        if token["segment"]:
            if open_ended:
                return False
        elif token["group"]:
            choices *= 1 + token["more"].count("|")
        elif token["times"] == "?":
            choices *= 2
        elif token["times"]:
            if open_ended:
                return False
            open_ended = True
        if choices > _MAX_CHOICES:
            return False
    try:
        re.compile(pattern.encode())
    except (re.error, OverflowError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class ImaRules:
    """The rules of one policy. Raises FormatError for a pattern outside the subset or a keyring entry that is no certificate.

    `exclude` and `keyrings` (certificates in DER) are sorted, each once.
    `violations` "label" lets a violation pass; the count stands in the result.
    `learn_keys` takes keys that the kernel measured onto its `.ima` keyring for
    keys of the policy. `digest` names the rules.
    """

    exclude: tuple[str, ...] = ()
    violations: str = "refuse"
    keyrings: tuple[bytes, ...] = ()
    learn_keys: bool = False
    digest: Digest = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.violations not in VIOLATIONS:
            raise FormatError("IMA rules.violations", " or ".join(VIOLATIONS), repr(self.violations)[:40])
        if list(self.exclude) != sorted(set(self.exclude)) or len(self.exclude) > MAX_EXCLUDE:
            raise FormatError("IMA rules.exclude", f"at most {MAX_EXCLUDE}, sorted, each once", f"{len(self.exclude)}, or another order")
        if list(self.keyrings) != sorted(set(self.keyrings)) or len(self.keyrings) > MAX_KEYRINGS:
            raise FormatError("IMA rules.keyrings", f"at most {MAX_KEYRINGS}, sorted, each once", f"{len(self.keyrings)}, or another order")
        for pattern in self.exclude:
            if not 1 <= len(pattern) <= MAX_PATTERN or not pattern.isascii() or not is_safe(pattern):
                raise FormatError("IMA rules.exclude", "a pattern of the safe subset (see writ/formats/ima_rules.py)", repr(pattern)[:100])
        for der in self.keyrings:
            parse_certificate(der)
            keys_of((der,))
        object.__setattr__(self, "digest", Digest.of(encode_cbor(self.to_cbor())))

    def to_cbor(self) -> dict[str, object]:
        """The map form that the bundle's settings carry."""
        return {
            "exclude": list(self.exclude), "violations": self.violations, "keyrings": list(self.keyrings),
            "learn_keys": self.learn_keys,
        }  # fmt: skip

    @classmethod
    def from_cbor(cls, value: object) -> ImaRules:
        """Read the map form. Raises FormatError."""
        f = Fields(value, "IMA rules")
        exclude, keyrings = f.items("exclude", most=MAX_EXCLUDE), f.items("keyrings", most=MAX_KEYRINGS)
        if not all(isinstance(item, str) for item in exclude) or not all(isinstance(item, bytes) for item in keyrings):
            raise FormatError("IMA rules", "texts to exclude and certificates in keyrings", "something else")
        rules = cls(tuple(exclude), f.text("violations", most=16), tuple(keyrings), f.flag("learn_keys"))
        f.done()
        return rules
