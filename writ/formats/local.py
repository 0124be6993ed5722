"""What enforcer and attestor say to each other on the host: length-prefixed CBOR on a unix socket.

A frame is a 4-byte big-endian length and one message. The enforcer believes
nothing of it that it can verify itself: the token, the policy and the decision
carry the verifier's signatures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from writ.formats import message as m
from writ.formats.digest import Digest
from writ.formats.evidence import anchored_out, read_anchored
from writ.formats.grants import Grant
from writ.formats.keys import PublicKey
from writ.formats.message import Family, Field
from writ.formats.reason import Reason
from writ.formats.tlog.receipt import MAX_RECEIPT

MAX_FRAME: Final = 32 << 20


@dataclass(frozen=True, slots=True)
class Launch:
    """Measure and store the named agent, extend its start event, and say where it lies. `command` empty: the manifest's."""

    agent: str
    command: tuple[str, ...]
    session_key: PublicKey
    parent: bytes | None


@dataclass(frozen=True, slots=True)
class Launched:
    """The start event is in the log. `root` is the directory of the measured store that holds the tree.

    `command` is to be run with `root` as working directory; paths in it that
    begin with `{store}` lie below `root`. `measurement` is the preimage of the manifest root.
    """

    instance: bytes
    measurement: bytes
    root: str
    command: tuple[str, ...]
    audience: str
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True)
class TokenAsk:
    """Ask for a token for an instance, carrying the checkpoint of its action log, and the proofs from those that were anchored."""

    instance: bytes
    session_key: PublicKey
    audience: str
    grants: tuple[Grant, ...]
    log_size: int
    log_root: bytes
    log_from: int
    log_proof: tuple[bytes, ...]
    anchored: tuple[tuple[int, tuple[bytes, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Anchor:
    """Extend this checkpoint of an instance's action log, so that the next quote shows it. Done: it is extended."""

    instance: bytes
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class TokenGiven:
    """The verifier's answer: token, signed decision, EAR, signed policy, token keys; and the evidence for the proof bundle.

    `receipt` is that of the decision in the verifier's log, None where the verifier sent none.
    """

    token: str
    decision: bytes
    result: bytes
    policy: bytes
    token_keys: tuple[PublicKey, ...]
    decision_key: PublicKey
    evidence: bytes
    receipt: bytes | None = None


@dataclass(frozen=True, slots=True)
class LeaseAsk:
    """Ask the TPM for a lease that keeps the token alive which was given to the instance last."""

    instance: bytes


@dataclass(frozen=True, slots=True)
class LeaseGiven:
    """A lease, encoded (`writ.formats.lease`)."""

    lease: bytes


@dataclass(frozen=True, slots=True)
class ExchangeAsk:
    """Ask for an exchange token of a running instance, as `exchange.ExchangeRequest`."""

    instance: bytes
    audience: str
    token: str = field(repr=False)
    proof: str
    lease: bytes | None


@dataclass(frozen=True, slots=True)
class ExchangeGiven:
    """The verifier's answer, as `exchange.ExchangeAnswer`."""

    token: str = field(repr=False)
    decision: bytes
    key: PublicKey


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer is no (`final` False), or the instance is tainted and never recovers (`final` True).

    `decided` where a decision of the verifier says so, whose signature the attestor verified. What else is final, the attestor knows by
    itself; a problem of the verifier's, which nothing signs, never is.
    """

    reasons: tuple[Reason, ...]
    final: bool
    decided: bool = False


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No answer from the verifier or the TPM; nothing is known, so nothing is permitted."""

    detail: str


@dataclass(frozen=True, slots=True)
class Stop:
    """The instance ended: `exited`, `killed` or `lost`."""

    instance: bytes
    outcome: str


@dataclass(frozen=True, slots=True)
class Done:
    """Done, with nothing to say."""


@dataclass(frozen=True, slots=True)
class Watch:
    """From now on, send a `Drift` for every drift on this connection."""


@dataclass(frozen=True, slots=True)
class Drift:
    """A file of the measured store changed under an instance; the drift event is already in the log."""

    instance: bytes
    component: str
    path: str
    expected: Digest
    got: Digest | None


@dataclass(frozen=True, slots=True)
class Status:
    """Ask how the attestor stands."""


@dataclass(frozen=True, slots=True)
class StatusAnswer:
    """How the attestor stands: host, whether it is enrolled, the length of the log, the last verdict seen."""

    host: str
    enrolled: bool
    events: int
    instances: int
    last_verdict: str


Local = (
    Launch | Launched | TokenAsk | TokenGiven | Anchor | LeaseAsk | LeaseGiven | ExchangeAsk | ExchangeGiven | Refusal | Unreachable | Stop
    | Done | Watch | Drift | Status | StatusAnswer
)  # fmt: skip

LOCAL: Final[Family[Local]] = Family(
    "local",
    {
        "launch": (Launch, (m.short_name("agent"), m.texts("command", most=1024), m.key("session_key"), m.optional_raw("parent", size=16))),
        "launched": (
            Launched,
            (
                m.raw("instance", size=16),
                m.raw("measurement"),
                m.text("root", least=1, most=4096),
                m.texts("command", most=1024),
                m.text("audience", least=1, most=256),
                m.grants("grants"),
            ),
        ),
        "token-ask": (
            TokenAsk,
            (
                m.raw("instance", size=16),
                m.key("session_key"),
                m.text("audience", least=1, most=256),
                m.grants("grants"),
                m.uint("log_size"),
                m.raw("log_root", size=32),
                m.uint("log_from"),
                m.raws("log_proof", most=64, each=32),
                Field("anchored", read_anchored, anchored_out, may_lack=True),
            ),
        ),
        "anchor": (Anchor, (m.raw("instance", size=16), m.uint("size"), m.raw("root", size=32))),
        "token-given": (
            TokenGiven,
            (
                m.text("token", least=1, most=16384),
                m.raw("decision"),
                m.raw("result"),
                m.raw("policy"),
                m.keys("token_keys"),
                m.key("decision_key"),
                m.raw("evidence", most=MAX_FRAME),
                m.optional_raw("receipt", most=MAX_RECEIPT),
            ),
        ),
        "lease-ask": (LeaseAsk, (m.raw("instance", size=16),)),
        "lease-given": (LeaseGiven, (m.raw("lease", most=4096),)),
        "exchange-ask": (
            ExchangeAsk,
            (
                m.raw("instance", size=16),
                m.text("audience", least=1, most=256),
                m.text("token", least=1, most=16384),
                m.text("proof", least=1, most=8192),
                m.optional_raw("lease", most=4096),
            ),
        ),
        "exchange-given": (ExchangeGiven, (m.text("token", least=1, most=8192), m.raw("decision"), m.key("key"))),
        "refusal": (Refusal, (m.reasons("reasons"), m.flag("final"), m.flag("decided"))),
        "unreachable": (Unreachable, (m.text("detail"),)),
        "stop": (Stop, (m.raw("instance", size=16), m.text("outcome", most=16))),
        "done": (Done, ()),
        "watch": (Watch, ()),
        "drift": (
            Drift,
            (
                m.raw("instance", size=16),
                m.text("component", most=63),
                m.text("path", most=4096),
                m.digest("expected"),
                m.optional_digest("got"),
            ),
        ),
        "status": (Status, ()),
        "status-answer": (
            StatusAnswer,
            (m.text("host", most=63), m.flag("enrolled"), m.uint("events"), m.uint("instances"), m.text("last_verdict", most=64)),
        ),
    },
    MAX_FRAME,
)
