"""Issuing: from an attestation result and a request to token claims, or to the reasons for none.

Hard checks ran in the appraisal. Here the policy may narrow, and nothing more:
an error or an undecided request refuses (I3).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from writ.formats.digest import Digest
from writ.formats.eat import TokenClaims
from writ.formats.errors import FormatError, Misuse
from writ.formats.policy_bundle import PolicyBundle
from writ.formats.reason import Reason
from writ.formats.spiffe import AgentId
from writ.formats.state import HostRecord
from writ.verdict.appraisal import RUNS_UNMEASURED, AttestationResult, InstanceResult
from writ.verdict.cedar import evaluate, load
from writ.verdict.lease_key import Approvable, JudgedLeaseKeys

ISSUE_ACTION = "token.issue"


@dataclass(frozen=True, slots=True)
class TokenDecision:
    """Permit with the claims to be signed, or refusal with its reasons; exactly one of the two. `approved` goes with claims of a lease."""

    instance: bytes
    claims: TokenClaims | None
    reasons: tuple[Reason, ...]
    approved: Approvable | None = None


@dataclass(frozen=True, slots=True)
class Issuance:
    """What the shell gives beside the evidence: who issues, the clock read once, and for each request an id and an index in the status
    list of number `status_list`.

    `alive` says until when an instance holds a token that nobody revoked; what it does not name holds none. None: nobody knew, as before
    decisions said so; then no child was held to it.
    """

    issuer: str
    now: int
    nonce_issued_at: int
    issued: tuple[tuple[str, int], ...]
    status_list: int
    alive: tuple[tuple[bytes, int], ...] | None = None


def status_uri(issuer: str, number: int) -> str:
    """Where a status list is published."""
    return f"{issuer}/v1/status/{number}"


def issue(
    result: AttestationResult, *, record: HostRecord, bundle: PolicyBundle, issuance: Issuance, result_digest: Digest,
    leases: JudgedLeaseKeys | None = None,
) -> tuple[TokenDecision, ...]:  # fmt: skip
    """One decision for each instance that asked, in the order of the requests.

    1. Nothing stands against the host.
    2. Nothing stands against the instance.
    3. The agent belongs to the host's namespace, and the policy permits `token.issue` for the audience, to it and to each of its parents.
    4. The life counts from the nonce's issue, so that evidence cannot be saved up.
    5. What descends from an instance has a token no longer than that one: than the token that it gets here, where it asks too, else than
       the one that it holds. Where it gets none here, or holds none, neither does what descends from it.
    6. Where the policy is of hardware mode (`leases` is not None), the token is bound to a lease key in the TPM, which is approved with it.
    """
    if len(issuance.issued) != len(result.instances):
        raise Misuse(f"{len(issuance.issued)} token ids for {len(result.instances)} requests")
    decided: dict[int, TokenDecision] = {}
    above = dict(issuance.alive or ())
    for at in sorted(range(len(result.instances)), key=lambda at: len(result.instances[at].parents)):  # parents first
        one, (token_id, index) = result.instances[at], issuance.issued[at]
        until = above.get(one.parents[0].instance, 0) if one.parents and issuance.alive is not None else None
        decided[at] = _decide(one, result, record, bundle, issuance, token_id, index, result_digest, leases, until)
        claims = decided[at].claims
        above[one.request.instance] = 0 if claims is None else claims.expires_at
    return tuple(decided[at] for at in range(len(result.instances)))


def consulted(result: AttestationResult, issuance: Issuance) -> tuple[tuple[bytes, int], ...] | None:
    """What of `issuance.alive` the decisions rest on, sorted: the parents of those that ask, but for those that ask here themselves."""
    parents = {one.parents[0].instance for one in result.instances if one.parents}
    if issuance.alive is None or not parents:
        return None
    return tuple(sorted((one, until) for one, until in issuance.alive if one in parents - {i.request.instance for i in result.instances}))


def tier_of(rooted: bool, exceptions: Collection[str]) -> str:
    """The `runtime` of a token: never `affirming` where nobody vouches for the attestor, or where programs run that nobody measured."""
    if not rooted:
        return "runtime-only"
    return "sandboxed" if RUNS_UNMEASURED in exceptions else "affirming"


def _decide(
    one: InstanceResult, result: AttestationResult, record: HostRecord, bundle: PolicyBundle, issuance: Issuance,
    token_id: str, index: int, result_digest: Digest, leases: JudgedLeaseKeys | None, until: int | None,
) -> TokenDecision:  # fmt: skip
    request, state = one.request, one.state
    # 1, 2
    claim = f"instance.{request.instance.hex()}"
    reasons = set(one.reasons)
    if result.reasons:  # they are said once, and not again for each instance
        reasons.add(Reason("host-refused", claim, "a host that nothing stands against", f"{len(result.reasons)} reasons"))
    if reasons or state is None:
        return TokenDecision(request.instance, None, tuple(sorted(reasons)))
    # 3
    tier = tier_of(result.rooted, one.exceptions)
    agents = (state.agent, *(parent.agent for parent in one.parents))
    if (reason := narrowed(ISSUE_ACTION, agents, request.audience, record=record, bundle=bundle, tier=tier, claim=claim)) is not None:
        return TokenDecision(request.instance, None, (reason,))
    # 4
    expires_at = issuance.nonce_issued_at + bundle.settings.token_life
    if expires_at <= issuance.now:
        reason = Reason("nonce-expired", f"{claim}.nonce", f"used before {expires_at}", str(issuance.now))
        return TokenDecision(request.instance, None, (reason,))
    # 5
    if until is not None:
        if until <= issuance.now:
            return TokenDecision(request.instance, None, (Reason("parent-refused", f"{claim}.lineage", "a parent with a token", "none"),))
        expires_at = min(expires_at, until)
    # 6
    terms, approved = None, None
    if leases is not None:
        found = leases.approve(request.instance, expires_at - issuance.now)
        if isinstance(found, Reason):
            return TokenDecision(request.instance, None, (found,))
        terms, approved = found
    claims = TokenClaims(
        issuer=issuance.issuer,
        agent=state.agent,
        audience=request.audience,
        issued_at=issuance.now,
        expires_at=expires_at,
        token_id=token_id,
        key=state.session_key,
        host=record.host,
        instance=request.instance,
        policy=bundle.digest,
        result=result_digest,
        grants=request.grants,
        lineage=tuple(parent.instance for parent in one.parents),
        tpm_class=record.tpm_class,
        runtime=tier,
        exceptions=tuple(sorted({*result.exceptions, *one.exceptions})),
        status_index=index,
        status_uri=status_uri(issuance.issuer, issuance.status_list),
        lease=terms,
    )
    return TokenDecision(request.instance, claims, (), approved)


def narrowed(
    action: str, agents: Sequence[AgentId], audience: str, *, record: HostRecord, bundle: PolicyBundle, tier: str, claim: str
) -> Reason | None:
    """Why `action` gives the first of `agents`, below the others, no token for `audience` under the policy; None where it does."""
    if agents[0].namespace != record.namespace:
        return Reason("policy-refused", f"{claim}.agent", f"an agent of {record.namespace}", str(agents[0]))
    context = {"host": record.host, "tpm_class": record.tpm_class, "runtime": tier, "endorsed": record.endorsed}
    try:
        loaded = load(bundle)
    except FormatError as error:
        return Reason("policy-error", "bundle", error.expected, error.got)
    for agent in agents:
        answer = evaluate(loaded, agent=str(agent), action=action, resource=("Audience", audience), context=context)
        if not answer.permit:
            code = "policy-error" if answer.erred else "policy-refused"
            said = ", ".join(answer.determining)[:200] or "no policy permits"
            return Reason(code, f"{claim}.{action}", f"a permit for {agent}"[:200], said)
    return None
