"""JSON bodies of operators: strict models, turned into formats types at once; and JSON views of what is stored."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from verifier.hosts import KnownHost
from verifier.ledger.schema import ApiKeyRow, EntryRow, ReferenceRow
from writ.formats.boot_state import BootState
from writ.formats.corim import parse_signed_corim
from writ.formats.cose import parse_sign1
from writ.formats.decision import AttestDecision, EnrolDecision, ExchangeDecision, Genesis, parse_entry
from writ.formats.digest import Digest
from writ.formats.ear import encode_ear_json, parse_ear_cbor
from writ.formats.errors import FormatError
from writ.formats.ima_rules import ImaRules
from writ.formats.ima_state import ImaState
from writ.formats.keys import PublicKey, key_id, parse_jwk
from writ.formats.policy_bundle import CLOCK_SKEW, HOLD_MAX, MOST_LAG, NONCE_LIFE, TOKEN_LIFE, PolicyBundle, PolicySettings
from writ.formats.public import with_names
from writ.formats.state import HostRecord, HostState, parse_host_record, parse_host_state
from writ.formats.strict import decode_json

NAME = r"^[a-z0-9](?:[a-z0-9._\-]{0,61}[a-z0-9])?$"
SHA256 = r"^sha256:[0-9a-f]{64}$"
PATTERN = r"^(\*|[!-)+-~]{1,255}\*?)$"
MAX_LIFE = 30 * 24 * 3600
LISTED_REASONS = 8


class Body(BaseModel):
    """A request body: no unknown member, no conversion."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class AdmitBody(Body):
    """Admit a host: by ticket or, with `ek`, one TPM by the SHA-256 of its EK's SubjectPublicKeyInfo."""

    host: str = Field(pattern=NAME)
    ek: str | None = Field(default=None, pattern=SHA256)
    unendorsed: bool = False
    life: int = Field(default=86_400, ge=60, le=MAX_LIFE)


class ReplaceBody(Body):
    """Replace the TPM of a host."""

    ek: str | None = Field(default=None, pattern=SHA256)
    unendorsed: bool = False
    life: int = Field(default=86_400, ge=60, le=MAX_LIFE)


class ImaBody(Body):
    """Rules for the IMA list: what is left out, whose signatures count (certificates in base64 DER)."""

    exclude: list[str] = Field(default_factory=list, max_length=128)
    violations: Literal["refuse", "label"] = "refuse"
    keyrings: list[str] = Field(default_factory=list, max_length=64)
    learn_keys: bool = False

    def rules(self) -> ImaRules:
        """The formats type. Raises FormatError."""
        keys = tuple(sorted({from_base64(item, "ima.keyrings") for item in self.keyrings}))
        return ImaRules(tuple(sorted(set(self.exclude))), self.violations, keys, self.learn_keys)


class SettingsBody(Body):
    """Settings of a policy, in seconds where they are times."""

    accept_runtime_only: bool = False
    tpm_classes: list[Literal["discrete", "firmware", "software", "virtual"]] = ["discrete", "firmware", "virtual"]
    token_life: int = Field(default=TOKEN_LIFE, ge=5, le=300)
    nonce_life: int = Field(default=NONCE_LIFE, ge=5, le=600)
    clock_skew: int = Field(default=CLOCK_SKEW, ge=0, le=60)
    hold_max: int = Field(default=HOLD_MAX, ge=0, le=86_400)
    record_lag_most: int | None = Field(default=None, ge=1, le=MOST_LAG)
    witness_lag_most: int | None = Field(default=None, ge=1, le=MOST_LAG)
    approvals: dict[Annotated[str, Field(pattern=PATTERN)], Annotated[int, Field(ge=2, le=8)]] = Field(default_factory=dict, max_length=64)
    ima: ImaBody = Field(default_factory=ImaBody)
    approvers: dict[Annotated[str, Field(max_length=63)], dict[str, Any]] = Field(default_factory=dict, max_length=16)
    """JWKs by name."""
    hardware: bool = False

    def settings(self, approver: PublicKey) -> PolicySettings:
        """The formats type; `approver` is this verifier's approval key."""
        return PolicySettings(
            self.accept_runtime_only, tuple(sorted(set(self.tpm_classes))), self.token_life, self.nonce_life, self.clock_skew,
            self.hold_max, approvals=tuple(sorted(self.approvals.items())), ima=self.ima.rules(),
            approvers=tuple((name, parse_jwk(key)) for name, key in sorted(self.approvers.items())),
            lease_approver=approver if self.hardware else None, record_lag_most=self.record_lag_most,
            witness_lag_most=self.witness_lag_most,
        )  # fmt: skip


class PolicyBody(Body):
    """A policy: Cedar schema and policies, verbatim."""

    settings: SettingsBody
    schema_text: str = Field(alias="schema", min_length=1, max_length=262_144)
    policies: str = Field(min_length=1, max_length=262_144)
    version: int | None = Field(default=None, ge=1, lt=1 << 53)


class WhyBody(Body):
    """Why content of a namespace is held, lifted or erased; kept beside the log, which names it."""

    why: str = Field(min_length=1, max_length=1000)


class RevokeBody(Body):
    """Revoke a token by `jti`, an instance by its id in hex, or a host."""

    kind: Literal["jti", "instance", "host"]
    subject: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._\-]+$")


class ApiKeyBody(Body):
    """A new API key; `namespace` `*` for the whole domain, `audience` for the role relying alone."""

    namespace: str = Field(pattern=r"^(\*|[a-z0-9](?:[a-z0-9._\-]{0,61}[a-z0-9])?)$")
    role: Literal["operator", "publisher", "reader", "relying"]
    label: str = Field(default="", max_length=100, pattern=r"^[ -~]*$")
    audience: str = Field(default="", max_length=256, pattern=r"^[!-~]*$")


class TrustFile(Body):
    """A certificate, CRL or OCSP response, in base64; the last is named `*.ocsp` or `*.ors`."""

    name: str = Field(min_length=1, max_length=255)
    data: str = Field(min_length=1, max_length=2_800_000)


class TrustRules(Body):
    """Under which rules a manufacturer's chain is believed; all three at once."""

    crl_required: bool
    crl_max_age: int = Field(ge=60, le=31_536_000)
    sha1: bool


class TrustBody(Body):
    """What is to be believed: roots in PEM for which the operator vouches, with the class of TPM; and files of which only what is pinned,
    or lies below what is believed, is taken."""

    pem: str = Field(default="", max_length=2_097_152)
    tpm_class: Literal["discrete", "firmware", "virtual", "software"] | None = None
    files: list[TrustFile] = Field(default_factory=list, max_length=512)
    rules: TrustRules | None = None


def digest(text: str | None) -> Digest | None:
    """A digest, where there is one. Raises FormatError."""
    return None if text is None else Digest.parse(text)


def from_base64(text: str, what: str) -> bytes:
    """Bytes of standard base64. Raises FormatError."""
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise FormatError(what, "base64", "text that is not") from None


def to_base64(data: bytes) -> str:
    """Standard base64."""
    return base64.b64encode(data).decode("ascii")


# --- views --------------------------------------------------------------------------------------------------------------


def host_view(known: KnownHost, *, whole: bool) -> dict[str, object]:
    """A host as JSON: how it stands, since when and, where it is not trusted, why not; `whole` with its TPM, counters and instances.

    The reasons are those of the last decision, the first `LISTED_REASONS` of them unless `whole`.
    """
    row = known.row
    trusted = known.standing.word == "trusted"
    reasons = () if trusted else known.reasons if whole else known.reasons[:LISTED_REASONS]
    view: dict[str, object] = {
        "host": row.host, "namespace": row.namespace, "generation": row.generation, "status": row.status, "ek": row.ek,
        "enrolled": row.record is not None, "standing": known.standing.word, "since": known.standing.since,
        "contacted_at": known.heard.contacted_at, "decided_at": known.heard.decided_at,
        "reasons": [reason.to_json() for reason in reasons],
    }  # fmt: skip
    if not whole:
        return view
    if known.heard.epoch:
        view["epoch"] = {"began": known.heard.epoch, "at": known.heard.epoch_at}
    if row.record is not None:
        record = parse_host_record(row.record)
        view["tpm"] = {
            "class": record.tpm_class, "endorsed": record.endorsed, "revocation": _revocation(record), "bank": record.bank,
            "runtime_pcr": record.runtime_pcr, "enrolled_at": record.enrolled_at,
        }  # fmt: skip
    if row.state is not None:
        view["state"] = _state_view(parse_host_state(row.state))
    return view


def _revocation(record: HostRecord) -> str | None:
    """Whether CRLs were held against the EK's chain when it enrolled; None without a chain."""
    return None if not record.endorsed else "checked" if record.revocation_checked else "unknown"


def _state_view(state: HostState) -> dict[str, object]:
    return {
        "version": state.version, "seen_at": state.seen_at, "clock": state.clock, "reset_count": state.reset_count,
        "restart_count": state.restart_count, "safe": state.safe, "events": state.runtime.events,
        "governance": {name: str(root) for name, root in state.runtime.governance},
        "logs": list(state.logs), "boot": None if state.boot is None else _boot_view(state.boot),
        "ima": None if state.ima is None else _ima_view(state.ima),
        "instances": [
            {
                "instance": i.instance.hex(), "agent": str(i.agent), "manifest": str(i.manifest), "phase": i.phase,
                "parent": None if i.parent is None else i.parent.hex(), "log_size": i.log_size, "measurement": to_base64(i.measurement),
            }
            for i in state.runtime.instances
        ],
    }  # fmt: skip


def _boot_view(boot: BootState) -> dict[str, object]:
    return {
        "log": str(boot.log), "secure_boot": boot.secure_boot, "registers": {str(index): value.hex() for index, value in boot.registers},
        "values": {environment: {name: str(digest) for name, digest in known} for environment, known in boot.values},
    }  # fmt: skip


def _ima_view(ima: ImaState) -> dict[str, object]:
    return {
        "entries": ima.entries,
        "violations": ima.violations,
        "not_approved": ima.verdict.count,
        "rooting": [name for name, _ in ima.seen],
    }


def reference_view(row: ReferenceRow, *, whole: bool) -> dict[str, object]:
    """Reference values as JSON; `whole` with their content and the signed bytes."""
    view: dict[str, object] = {
        "digest": row.digest, "namespace": row.namespace, "environment": row.environment, "id": row.id, "active": bool(row.active),
        "imported_at": row.imported_at, "valid_until": row.valid_until, "retired_at": row.retired_at,
    }  # fmt: skip
    if whole:
        signed = parse_signed_corim(row.signed)
        view |= {"corim": signed.corim.to_json(), "signer": signed.signer_name, "signed": to_base64(row.signed)}
    return view


def policy_view(bundle: PolicyBundle, signed: bytes) -> dict[str, object]:
    """A policy as JSON, with the signed bytes."""
    return {
        "digest": str(bundle.digest), "namespace": bundle.namespace, "version": bundle.version, "issued_at": bundle.issued_at,
        "settings": bundle.settings.to_json(), "schema": bundle.schema, "policies": bundle.policies, "signed": to_base64(signed),
    }  # fmt: skip


def api_key_view(row: ApiKeyRow) -> dict[str, object]:
    """An API key as JSON, without anything secret."""
    return {
        "id": row.id, "namespace": row.namespace, "role": row.role, "label": row.label, "created_at": row.created_at,
        "revoked_at": row.revoked_at, "person": row.person, "audience": row.audience,
    }  # fmt: skip


def entry_view(row: EntryRow, result: bytes | None) -> dict[str, object]:
    """A log entry as JSON: the decision for people, with the names of files that its `result` has, and the signed bytes."""
    decision, ear = parse_entry(parse_sign1(row.entry).payload or b""), None if result is None else parse_ear_cbor(result)
    view: dict[str, object] = {
        "reference": row.reference, "sequence": row.sequence, "kind": row.kind, "namespace": row.namespace, "host": row.host,
        "at": row.at, "entry": to_base64(row.entry),
    }  # fmt: skip
    if isinstance(decision, AttestDecision):
        view |= {
            "verdict": decision.verdict,
            "reasons": [reason.to_json() for reason in (decision.reasons if ear is None else with_names(decision, ear))],
            "inputs": {name: str(value) for name, value in decision.inputs},
            "outcomes": [
                {"instance": o.instance.hex(), "issued": o.claims is not None, "reasons": [reason.to_json() for reason in o.reasons]}
                for o in decision.outcomes
            ],
            "result": None if ear is None else decode_json(encode_ear_json(ear), "EAR"),
        }
    elif isinstance(decision, EnrolDecision):
        named = {"record": decision.record, "evidence": decision.evidence, "trust": decision.trust}
        view |= {**{name: str(value) for name, value in named.items()}, "cleared": decision.cleared}
    elif isinstance(decision, ExchangeDecision):
        view |= {
            "instance": decision.instance.hex(),
            "audience": decision.audience,
            "issued": decision.claims is not None,
            "token_id": decision.issued,
            "reasons": [reason.to_json() for reason in decision.reasons],
            "inputs": {name: str(value) for name, value in decision.inputs},
        }
    elif isinstance(decision, Genesis):
        view |= {"origin": decision.origin, "log_key": key_id(decision.log_key)}
    else:
        view |= {"operator": decision.operator, "act": decision.act, "subject": decision.subject}
    return view
