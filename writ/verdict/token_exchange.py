"""A token for elsewhere: may the holder of this execution token have a bearer token for that one audience, now?

What was appraised is in the execution token and in the host's recorded state. No evidence is judged here, and nothing is widened: the
measured grants name the audience, the policy in force permits it, and the new token ends no later than the one that it was given for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from writ.formats.action import EXCHANGE as EXCHANGE_ACTION
from writ.formats.action import exchange_action
from writ.formats.decision import MAX_ENTRY, ExchangeDecision
from writ.formats.digest import Digest
from writ.formats.eat import TokenClaims, parse_token
from writ.formats.errors import FormatError, Refused
from writ.formats.exchange import EXCHANGE, ExchangeRequest
from writ.formats.exchange_token import MAX_LIFE, ExchangeClaims, encode_exchange_claims
from writ.formats.grants import covers
from writ.formats.jose import parse_dpop
from writ.formats.keys import PublicKey, key_id
from writ.formats.lease import parse_lease
from writ.formats.policy_bundle import PolicyBundle
from writ.formats.reason import Reason
from writ.formats.state import HostRecord, HostState, encode_host_record, encode_host_state
from writ.formats.strict import encode_cbor
from writ.verdict.appraisal import lineage, not_as_approved, within
from writ.verdict.issue import narrowed
from writ.verdict.reference import ReferenceSet, ended, exempted
from writ.verdict.token import VerifiedProof, VerifiedToken, verify_lease, verify_proof, verify_token


@dataclass(frozen=True, slots=True)
class Exchanging:
    """What the shell gives beside the request: who issues, where it was asked, the clock read once, and an id for the token."""

    issuer: str
    uri: str
    now: int
    token_id: str


@dataclass(frozen=True, slots=True)
class ExchangeVerdict:
    """A proposal: `proof` is to be used up and `entry` committed, in one transaction, or not at all; only then `claims` may be signed.

    `execution` is the token that was shown. `claims` is None where the entry has reasons.
    """

    entry: ExchangeDecision
    execution: TokenClaims
    claims: ExchangeClaims | None
    proof: VerifiedProof


def encode_keys(keys: Iterable[PublicKey]) -> bytes:
    """The keys of execution tokens, as the input that a decision names: COSE_Keys by their ids."""
    return encode_cbor([key.to_cose_key() for key in sorted(keys, key=key_id)])


def decide_exchange(
    request: bytes, *, record: HostRecord, state: HostState | None, references: ReferenceSet, bundle: PolicyBundle,
    keys: Iterable[PublicKey], exchanging: Exchanging, engine: Digest,
) -> ExchangeVerdict:  # fmt: skip
    """The decision on `request`, which this host sent.

    Checked when this is committed: that the execution token is not revoked, that its proof was never used, and that its host was
    appraised under the reference values of now, which it is not appraised by here.

    1. An execution token of this issuer, alive, of this host, signed by one of `keys`.
    2. A proof by its session key, for `token.exchange` on exactly this audience.
    3. A lease that is alive, where the token takes one.
    4. Host and instance stand as recorded: active, running, under this session key, with no parent gone.
    5. The instance is as is approved now, and nothing that its host is judged by ran out since the token was issued.
    6. The token is of the policy in force.
    7. A grant of the token covers `token.exchange` on the audience.
    8. The policy permits it to the agent and to each of its parents.

    Raises FormatError or Refused at the first fault of 1 to 3, while the sender is not yet known to hold the token. From 4 on each refusal
    is a decision, with its reasons.
    """
    # 1
    asked = EXCHANGE.parse(request)
    if not isinstance(asked, ExchangeRequest):
        raise FormatError("exchange.kind", "exchange-request", type(asked).__name__)
    signed, known = parse_token(asked.token), tuple(keys)
    token = verify_token(
        signed, keys={key_id(key): key for key in known}, issuer=exchanging.issuer, audience=signed.claims.audience, now=exchanging.now,
        revocation=None,
    )  # fmt: skip
    claims = token.claims
    if claims.host != record.host:
        raise Refused(Reason("token-host", "token.host", record.host, claims.host))
    # 2
    proof = verify_proof(
        parse_dpop(asked.proof), token, exchange_action(asked.audience), method="POST", uri=exchanging.uri, now=exchanging.now
    )
    # 3
    verify_lease(None if asked.lease is None else parse_lease(asked.lease), token, now=exchanging.now)
    # 4 to 8
    reasons = within(_against(asked.audience, token, record, state, references, bundle, exchanging.now), MAX_ENTRY // 2)
    given = None if reasons else ExchangeClaims(
        issuer=exchanging.issuer, agent=claims.agent, audience=asked.audience, issued_at=exchanging.now,
        expires_at=min(claims.expires_at, exchanging.now + MAX_LIFE), token_id=exchanging.token_id, host=claims.host,
        instance=claims.instance, tpm_class=claims.tpm_class, runtime=claims.runtime, exceptions=claims.exceptions,
        execution_token=token.digest,
    )  # fmt: skip
    inputs = (
        ("keys", Digest.of(encode_keys(known))),
        ("policy", bundle.digest),
        ("record", Digest.of(encode_host_record(record))),
        ("references", references.digest),
        ("request", Digest.of(request)),
        ("state", Digest.of(b"" if state is None else encode_host_state(state))),
    )
    entry = ExchangeDecision(
        engine=engine, decided_at=exchanging.now, host=record.host, namespace=record.namespace,
        instance=claims.instance, audience=asked.audience, inputs=inputs, issued=exchanging.token_id,
        claims=None if given is None else Digest.of(encode_exchange_claims(given)), reasons=reasons,
    )  # fmt: skip
    return ExchangeVerdict(entry, claims, given, proof)


def _against(
    audience: str, token: VerifiedToken, record: HostRecord, state: HostState | None, references: ReferenceSet, bundle: PolicyBundle,
    now: int,
) -> tuple[Reason, ...]:  # fmt: skip
    """What stands against it, sorted; the policy is asked only where nothing else does."""
    claims, claim = token.claims, f"instance.{token.claims.instance.hex()}"
    # 4
    instance = None if state is None else state.runtime.find(claims.instance)
    if state is None or instance is None:
        return (Reason("instance-unknown", claim, "a running instance of the recorded log", "none"),)
    parents, complete = lineage(instance, state.runtime)
    reasons: set[Reason] = set()
    if state.status != "active":
        reasons.add(Reason("host-not-active", "host.status", "active", state.status))
    if (instance.agent, instance.session_key) != (claims.agent, claims.key):
        reasons.add(Reason("instance-key-mismatch", f"{claim}.session_key", instance.session_key.hex(), claims.key.hex()))
    if instance.phase != "running":
        reasons.add(Reason(f"instance-{instance.phase}", claim, "running", instance.phase))
    if gone := [parent for parent in parents if parent.phase != "running"]:
        reasons.add(Reason("parent-refused", f"{claim}.parent", "running", gone[0].phase))
    if not complete or tuple(parent.instance for parent in parents) != claims.lineage:
        reasons.add(Reason("parent-refused", f"{claim}.parent", f"{len(claims.lineage)} as in the token", f"{len(parents)} others"))
    # 5
    found, _ = exempted(not_as_approved(instance, references, claim, now), references, instance.agent, record.host, now)
    reasons.update(found[:64])
    if (over := ended(references, record.host, since=claims.issued_at, now=now)) is not None:
        reasons.add(Reason("host-unappraised", "host.verdict", f"since {over} ran out", "before"))
    # 6
    if claims.policy != bundle.digest:
        reasons.add(Reason("policy-digest-mismatch", "token.policy", str(bundle.digest), str(claims.policy)))
    # 7
    if not any(covers(grant, EXCHANGE_ACTION, audience) for grant in claims.grants):
        reasons.add(Reason("grant-missing", "token.grants", f"{EXCHANGE_ACTION} on {audience}", f"{len(claims.grants)} other grants"))
    if reasons:
        return tuple(sorted(reasons))
    # 8
    agents = (instance.agent, *(parent.agent for parent in parents))
    refused = narrowed(EXCHANGE_ACTION, agents, audience, record=record, bundle=bundle, tier=claims.runtime, claim=claim)
    return () if refused is None else (refused,)
