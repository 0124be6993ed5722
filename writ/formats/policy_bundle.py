"""A policy bundle: what may be trusted and what may be done, in one signed, numbered document.

`settings` rule the appraisal and the token; `schema` and `policies` are Cedar,
verbatim. A bundle is named everywhere by the SHA-256 of its encoded form (the
COSE payload), so the signature around it never changes its name.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from writ.formats.delegation import MOST_PATTERN, pattern
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.ima_rules import ImaRules
from writ.formats.keys import ES256, PublicKey, parse_cose_key
from writ.formats.state import TPM_CLASSES
from writ.formats.strict import Fields, decode_cbor, encode_cbor, name

MAX_BUNDLE: Final = 512 << 10
CONTENT_TYPE: Final = "application/vnd.writ.policy+cbor"

TOKEN_LIFE: Final = 60
TOKEN_LIFE_CEILING: Final = 300
NONCE_LIFE: Final = 120
CLOCK_SKEW: Final = 5
MOST_CLOCK_SKEW: Final = 60
"""That a policy may allow."""
HOLD_MAX: Final = 600
MOST_LAG: Final = 86_400
MOST_APPROVALS: Final = 64
MOST_PEOPLE: Final = 8
MOST_APPROVERS: Final = 16
NO_IMA_RULES: Final = ImaRules()
"""No exclusion, no keyring, and every violation refused."""


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """What the appraisal accepts, and the life of what it issues. All times in seconds.

    `approvals` are pairs of a pattern of environments (`delegation.pattern`) and the people who have to approve reference values of them,
    sorted; where several match, the greatest counts. Of an environment that none matches one person decides.
    `approvers` are the people who may approve actions, each by name and key, sorted by name; which actions those are, the Cedar text says.
    `record_lag_most`, where there is one, is for how many seconds a record may lie on its host alone: an action is refused while one has
    lain longer, or nobody ships them.
    `witness_lag_most`, where there is one, is for how many seconds entries of the verifier's log may wait for their witnesses: nothing is
    decided about a host of the namespace while some have waited longer, or no witness is asked. No verdict sees it, as none is made then.
    `lease_approver`, where there is one, is hardware mode: no token without a lease key in the TPM under this approval key of the verifier.
    """

    accept_runtime_only: bool = False
    tpm_classes: tuple[str, ...] = ("discrete", "firmware", "virtual")
    token_life: int = TOKEN_LIFE
    nonce_life: int = NONCE_LIFE
    clock_skew: int = CLOCK_SKEW
    hold_max: int = HOLD_MAX
    approvals: tuple[tuple[str, int], ...] = ()
    ima: ImaRules = NO_IMA_RULES
    approvers: tuple[tuple[str, PublicKey], ...] = ()
    lease_approver: PublicKey | None = None
    record_lag_most: int | None = None
    witness_lag_most: int | None = None

    def __post_init__(self) -> None:
        if not 5 <= self.token_life <= TOKEN_LIFE_CEILING:
            raise FormatError("policy.token_life", f"5 to {TOKEN_LIFE_CEILING} seconds", str(self.token_life))
        if not 5 <= self.nonce_life <= 600:
            raise FormatError("policy.nonce_life", "5 to 600 seconds", str(self.nonce_life))
        if not 0 <= self.clock_skew <= MOST_CLOCK_SKEW:
            raise FormatError("policy.clock_skew", "0 to 60 seconds", str(self.clock_skew))
        if not 0 <= self.hold_max <= 86_400:
            raise FormatError("policy.hold_max", "0 to 86400 seconds", str(self.hold_max))
        if list(self.tpm_classes) != sorted(set(self.tpm_classes)) or not set(self.tpm_classes) <= set(TPM_CLASSES):
            raise FormatError("policy.tpm_classes", f"a sorted set of {', '.join(TPM_CLASSES)}", ", ".join(self.tpm_classes)[:80])
        if self.record_lag_most is not None and not 1 <= self.record_lag_most <= MOST_LAG:
            raise FormatError("policy.record_lag_most", f"1 to {MOST_LAG} seconds, or none", str(self.record_lag_most)[:40])
        if self.witness_lag_most is not None and not 1 <= self.witness_lag_most <= MOST_LAG:
            raise FormatError("policy.witness_lag_most", f"1 to {MOST_LAG} seconds, or none", str(self.witness_lag_most)[:40])
        if self.lease_approver is not None and self.lease_approver.algorithm != ES256:
            raise FormatError("policy.lease_approver", ES256, self.lease_approver.algorithm)
        patterns = [pattern(one, "policy.approvals") for one, _ in self.approvals]
        if patterns != sorted(set(patterns)) or len(patterns) > MOST_APPROVALS:
            raise FormatError("policy.approvals", f"at most {MOST_APPROVALS} patterns, sorted, each once", f"{len(patterns)}")
        for one, people in self.approvals:
            if not 2 <= people <= MOST_PEOPLE:
                raise FormatError(f"policy.approvals.{one}"[:200], f"2 to {MOST_PEOPLE} people", str(people)[:40])
        names = [name(one, "policy.approvers") for one, _ in self.approvers]
        if names != sorted(set(names)) or len({key for _, key in self.approvers}) != len(names) or len(names) > MOST_APPROVERS:
            raise FormatError("policy.approvers", f"at most {MOST_APPROVERS} names, sorted, each with a key of its own", f"{len(names)}")

    def to_json(self) -> dict[str, object]:
        """The settings as an operator's request says them, and the answer."""
        keyrings = [base64.b64encode(one).decode("ascii") for one in self.ima.keyrings]
        return {
            "accept_runtime_only": self.accept_runtime_only, "tpm_classes": list(self.tpm_classes), "token_life": self.token_life,
            "nonce_life": self.nonce_life, "clock_skew": self.clock_skew, "hold_max": self.hold_max, "approvals": dict(self.approvals),
            "ima": {**self.ima.to_cbor(), "keyrings": keyrings}, "approvers": {one: key.to_jwk() for one, key in self.approvers},
            "hardware": self.lease_approver is not None, "record_lag_most": self.record_lag_most,
            "witness_lag_most": self.witness_lag_most,
        }  # fmt: skip


@dataclass(frozen=True)
class PolicyBundle:
    """One version of a namespace's policy. Parsed is not yet trusted: the signature and the version are judged elsewhere."""

    namespace: str
    version: int
    issued_at: int
    settings: PolicySettings
    schema: str
    policies: str

    @cached_property
    def digest(self) -> Digest:
        """The name of the bundle."""
        return Digest.of(encode_bundle(self))

    def __hash__(self) -> int:
        """From the digest, which is computed once: a bundle is the key of what is remembered about it."""
        return int.from_bytes(self.digest.value[:8], "big")


def encode_bundle(bundle: PolicyBundle) -> bytes:
    """The one spelling of a bundle."""
    s = bundle.settings
    settings: dict[str, object] = {
        "accept_runtime_only": s.accept_runtime_only,
        "tpm_classes": list(s.tpm_classes),
        "token_life": s.token_life,
        "nonce_life": s.nonce_life,
        "clock_skew": s.clock_skew,
        "hold_max": s.hold_max,
    }
    if s.approvals:
        settings["approvals"] = [list(pair) for pair in s.approvals]
    if s.ima != NO_IMA_RULES:
        settings["ima"] = s.ima.to_cbor()
    if s.approvers:
        settings["approvers"] = [[one, key.to_cose_key()] for one, key in s.approvers]
    if s.lease_approver is not None:
        settings["lease_approver"] = s.lease_approver.to_cose_key()
    if s.record_lag_most is not None:
        settings["record_lag_most"] = s.record_lag_most
    if s.witness_lag_most is not None:
        settings["witness_lag_most"] = s.witness_lag_most
    return encode_cbor(
        {
            "v": 1,
            "namespace": bundle.namespace,
            "version": bundle.version,
            "issued_at": bundle.issued_at,
            "settings": settings,
            "schema": bundle.schema,
            "policies": bundle.policies,
        }
    )


def parse_bundle(data: bytes) -> PolicyBundle:
    """Read a bundle. Raises FormatError."""
    f = Fields(decode_cbor(data, "policy", max_size=MAX_BUNDLE), "policy")
    f.version(1)
    namespace, version, issued_at = f.name("namespace"), f.uint("version"), f.uint("issued_at")
    schema, policies = _cedar(f.any("schema"), "schema"), _cedar(f.any("policies"), "policies")
    s = f.fields("settings")
    settings = PolicySettings(
        accept_runtime_only=s.flag("accept_runtime_only"),
        tpm_classes=tuple(_text(item) for item in s.items("tpm_classes", most=8)),
        token_life=s.uint("token_life"),
        nonce_life=s.uint("nonce_life"),
        clock_skew=s.uint("clock_skew"),
        hold_max=s.uint("hold_max"),
        approvals=_approvals(s),
        ima=_ima(s),
        approvers=_approvers(s),
        lease_approver=parse_cose_key(s.any("lease_approver")) if s.has("lease_approver") else None,
        record_lag_most=s.uint("record_lag_most") if s.has("record_lag_most") else None,
        witness_lag_most=s.uint("witness_lag_most") if s.has("witness_lag_most") else None,
    )
    s.done()
    f.done()
    return PolicyBundle(namespace, version, issued_at, settings, schema, policies)


def _ima(s: Fields) -> ImaRules:
    """The rules for the IMA list, where they are not those that hold without any word."""
    if not s.has("ima"):
        return NO_IMA_RULES
    rules = ImaRules.from_cbor(s.any("ima"))
    if rules == NO_IMA_RULES:
        raise FormatError("policy.ima", "rules that differ from the default, or none", "the default")
    return rules


def _approvals(s: Fields) -> tuple[tuple[str, int], ...]:
    """Pairs, where there are any: an empty array is not written down."""
    if not s.has("approvals"):
        return ()
    pairs = s.items("approvals", most=MOST_APPROVALS)
    if not pairs or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise FormatError("policy.approvals", "pairs of a pattern and a number", "none or something else")
    read = [Fields(dict(enumerate(pair)), "policy.approvals") for pair in pairs]
    return tuple((one.text(0, least=1, most=MOST_PATTERN), one.uint(1)) for one in read)


def _approvers(s: Fields) -> tuple[tuple[str, PublicKey], ...]:
    """Pairs of a name and a key, where there are any, the key with its required parameters only."""
    if not s.has("approvers"):
        return ()
    pairs = s.items("approvers", most=MOST_APPROVERS)
    if not pairs or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise FormatError("policy.approvers", "pairs of a name and a key", "none or something else")
    read = []
    for one, value in pairs:
        key = parse_cose_key(value)
        if key.to_cose_key() != value:
            raise FormatError("policy.approvers", "keys without other parameters", "another spelling")
        read.append((Fields({0: one}, "policy.approvers").name(0), key))
    return tuple(read)


def _cedar(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise FormatError(f"policy.{what}", "Cedar text", type(value).__name__)
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise FormatError("policy.tpm_classes", "text", type(value).__name__)
    return value
