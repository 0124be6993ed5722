"""What attestor and verifier say to each other: enrolment, nonce, the answer to evidence, and tokens for elsewhere.

Bodies are CBOR (`application/cbor`), one message each. The evidence itself is
a CMW collection (`evidence.py`). Every request but the two of enrolment is
signed by the host key as a DPoP proof (RFC 9449) over method and URL.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from writ.formats import message as m
from writ.formats.errors import FormatError
from writ.formats.keys import PublicKey
from writ.formats.message import Family, Field
from writ.formats.reason import Reason
from writ.formats.strict import Fields
from writ.formats.tpm.pcr import PcrValues

MAX_MESSAGE: Final = 2 << 20


def exchange_uri(issuer: str, host: str) -> str:
    """Where a host asks `issuer` for an exchange token: what the proof in its request is made for."""
    return f"{issuer}/v1/hosts/{host}/exchange"


@dataclass(frozen=True, slots=True)
class EnrolRequest:
    """A host asks to enrol: TPMT_PUBLIC of EK and AK, EK certificates in DER (leaf first), and what it proposes."""

    host: str
    ticket: str | None
    ek_public: bytes
    ek_certificates: tuple[bytes, ...]
    ak_public: bytes
    host_key: PublicKey
    runtime_pcr: int
    bank: str


@dataclass(frozen=True, slots=True)
class EnrolChallenge:
    """TPM2_ActivateCredential input: TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, under a single-use id."""

    challenge: bytes
    credential: bytes
    secret: bytes


@dataclass(frozen=True, slots=True)
class Activation:
    """The answer: a quote whose extraData is `enrolment_binding` over the recovered secret, which itself never travels."""

    challenge: bytes
    attest: bytes
    signature: bytes
    pcrs: PcrValues


@dataclass(frozen=True, slots=True)
class Enrolled:
    """Enrolment succeeded: the names and keys the host pins from now on, and its first nonce."""

    host: str
    namespace: str
    domain: str
    issuer: str
    decision_key: PublicKey
    nonce: bytes
    nonce_life: int


@dataclass(frozen=True, slots=True)
class NonceAnswer:
    """A fresh nonce, valid for `nonce_life` seconds; older ones of the host are void."""

    nonce: bytes
    nonce_life: int


@dataclass(frozen=True, slots=True)
class InstanceAnswer:
    """The answer to one instance: a compact token, or None with the reasons. `approval` (`lease.Approval`) where its token takes leases."""

    instance: bytes
    token: str | None
    reasons: tuple[Reason, ...]
    approval: bytes | None = None


@dataclass(frozen=True, slots=True)
class AttestAnswer:
    """The committed decision (COSE_Sign1), its EAR, the answers, the next nonce, the signed policy and the token keys."""

    decision: bytes
    result: bytes
    reasons: tuple[Reason, ...]
    answers: tuple[InstanceAnswer, ...]
    nonce: bytes
    nonce_life: int
    policy: bytes
    token_keys: tuple[PublicKey, ...]


@dataclass(frozen=True, slots=True)
class ExchangeRequest:
    """A token for `audience` elsewhere, for the execution token of an instance.

    `proof` is a DPoP proof by its session key for `token.exchange` on the audience; `lease` goes with a token that takes one.
    """

    audience: str
    token: str = field(repr=False)
    proof: str
    lease: bytes | None


@dataclass(frozen=True, slots=True)
class ExchangeAnswer:
    """The exchange token, the committed decision that gave it (COSE_Sign1), and the key that signed it."""

    token: str = field(repr=False)
    decision: bytes
    key: PublicKey


@dataclass(frozen=True, slots=True)
class Problem:
    """A refusal: HTTP carries the status, this the reasons and the reference to quote to the operator."""

    reference: str
    reasons: tuple[Reason, ...]


Exchange = (
    EnrolRequest | EnrolChallenge | Activation | Enrolled | NonceAnswer | AttestAnswer | ExchangeRequest | ExchangeAnswer | Problem
)  # fmt: skip


def _answers(name: str) -> Field:
    def read(f: Fields, key: str) -> tuple[InstanceAnswer, ...]:
        return tuple(_answer(item) for item in f.items(key, most=256))

    def write(answers: tuple[InstanceAnswer, ...]) -> object:
        return [
            [a.instance, a.token, [r.to_cbor() for r in a.reasons], *(() if a.approval is None else (a.approval,))] for a in answers
        ]  # fmt: skip

    return Field(name, read, write)


def _answer(value: object) -> InstanceAnswer:
    if not isinstance(value, list) or len(value) not in (3, 4) or not isinstance(value[2], list):
        raise FormatError("answer", "[instance, token or null, reasons], and perhaps an approval", type(value).__name__)
    f = Fields(dict(enumerate(value)), "answer")
    instance, token = f.raw(0, size=16), f.optional_text(1, most=16384)
    reasons = tuple(Reason.from_cbor(item) for item in f.items(2, most=512))
    return InstanceAnswer(instance, token, reasons, f.raw(3, most=4096) if f.has(3) else None)


EXCHANGE: Final[Family[Exchange]] = Family(
    "exchange",
    {
        "enrol-request": (
            EnrolRequest,
            (
                m.short_name("host"),
                m.optional_text("ticket", most=128),
                m.raw("ek_public", most=4096),
                m.raws("ek_certificates", most=8, each=16384),
                m.raw("ak_public", most=4096),
                m.key("host_key"),
                m.uint("runtime_pcr", most=23),
                m.text("bank", most=16),
            ),
        ),
        "enrol-challenge": (EnrolChallenge, (m.raw("challenge", size=32), m.raw("credential", most=1024), m.raw("secret", most=1024))),
        "activation": (
            Activation,
            (m.raw("challenge", size=32), m.raw("attest", most=4096), m.raw("signature", most=2048), m.pcrs("pcrs")),
        ),
        "enrolled": (
            Enrolled,
            (
                m.short_name("host"),
                m.short_name("namespace"),
                m.text("domain", least=1, most=255),
                m.text("issuer", least=1, most=255),
                m.key("decision_key"),
                m.raw("nonce", size=32),
                m.uint("nonce_life"),
            ),
        ),
        "nonce": (NonceAnswer, (m.raw("nonce", size=32), m.uint("nonce_life"))),
        "attest-answer": (
            AttestAnswer,
            (
                m.raw("decision", most=MAX_MESSAGE),
                m.raw("result", most=MAX_MESSAGE),
                m.reasons("reasons"),
                _answers("answers"),
                m.raw("nonce", size=32),
                m.uint("nonce_life"),
                m.raw("policy", most=MAX_MESSAGE),
                m.keys("token_keys"),
            ),
        ),
        "exchange-request": (
            ExchangeRequest,
            (
                m.text("audience", least=1, most=256),
                m.text("token", least=1, most=16384),
                m.text("proof", least=1, most=8192),
                m.optional_raw("lease", most=4096),
            ),
        ),
        "exchange-answer": (ExchangeAnswer, (m.text("token", least=1, most=8192), m.raw("decision"), m.key("key"))),
        "problem": (Problem, (m.text("reference", most=64), m.reasons("reasons"))),
    },
    MAX_MESSAGE,
)
