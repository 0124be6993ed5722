"""Decisions of every kind, recorded by verifier and enforcer, with all that they were made of: the archives that an auditor replays.

python -m tests.world.recorded SCENES FOLDER     writes `trust`, `verifier` and `enforcer`, decided by the engine on the path
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.world.scene import GOVERNED, GRANTS, ISSUER, POLICIES, Scene, measurement, permitted, policy, sign_entry, sign_token, signer
from writ.formats.archive import Archive, InstanceLog, encode_archive
from writ.formats.corim import Corim, encode_corim
from writ.formats.decision import Entry
from writ.formats.digest import Digest
from writ.formats.engine import EngineId, encode_engine
from writ.formats.evidence import encode_evidence
from writ.formats.exchange import EXCHANGE, ExchangeRequest, exchange_uri
from writ.formats.grants import grant_set
from writ.formats.jose import encode_dpop_payload, sign_dpop
from writ.formats.keys import key_id
from writ.formats.policy_bundle import encode_bundle
from writ.formats.reason import NO_TOKEN
from writ.formats.record import ActionRecord, encode_record, preimage_of
from writ.formats.state import encode_host_record, encode_host_state
from writ.formats.strict import b64url
from writ.formats.trust import Trust, encode_trust
from writ.service.engine_id import installed_engine
from writ.verdict.reference import measured_values, reference_set
from writ.verdict.schema import cedar_schema
from writ.verdict.token_exchange import Exchanging, decide_exchange, encode_keys

VAULT = "https://vault.example.org"
_PERMIT = f'@id("vault") permit (principal, action == Writ::Action::"token.exchange", resource == Writ::Audience::"{VAULT}");'
_GRANTED = grant_set([*GRANTS, ("token.exchange", VAULT), ("token.exchange", "https://other.example.org")])
_BUNDLE = policy(policies=POLICIES + _PERMIT, schema=cedar_schema())
_WHAT = measurement(grants=_GRANTED)
_APPROVED = Corim("reporter-1", "billing", str(_WHAT.agent), tuple(sorted(measured_values(_WHAT).items())))
ROUNDS, ACTS = 10, 7
A_SCENE = 1 + ROUNDS * (2 + ACTS)
"""Decisions in one scene of ten rounds: one of enrolment; in each an attestation, an exchange, and what was asked of the enforcer."""


@dataclass
class Recorded:
    """What was decided so far, as archives would hold it."""

    trust: Trust | None = None
    entries: set[bytes] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)
    objects: set[bytes] = field(default_factory=set)
    logs: list[InstanceLog] = field(default_factory=list)
    shown: set[bytes] = field(default_factory=set)

    def verifier(self) -> Archive:
        """What `verifier export` writes."""
        return Archive(tuple(sorted(self.entries)), (), tuple(sorted(self.objects)), ())

    def enforcer(self) -> Archive:
        """What `enforcer log export` writes."""
        logs = tuple(sorted(self.logs, key=lambda log: log.instance))
        return Archive((), tuple(sorted(self.tokens)), tuple(sorted(self.shown)), logs)

    def sign(self, entry: Entry) -> None:
        """`entry` is in the verifier's log."""
        self.entries.add(sign_entry(entry))


def record(scenes: int, engine: EngineId, rounds: int = ROUNDS) -> Recorded:
    """So many hosts, each with one agent that is attested `rounds` times, the last one refused; all is decided by `engine`."""
    made = Recorded()
    for at in range(scenes):
        _scene(at, rounds, engine, made)
    return made


def _scene(at: int, rounds: int, engine: EngineId, made: Recorded) -> None:
    scene = Scene(host=f"host-{at}", bundle=_BUNDLE, references=(GOVERNED, _APPROVED), engine=engine)
    made.trust = scene.trust
    made.sign(scene.enrol_entry)
    made.objects |= {
        encode_engine(engine),
        scene.enrolment,
        encode_trust(scene.trust),
        encode_host_record(scene.record),
        encode_bundle(_BUNDLE),
    }
    made.objects |= {reference_set(scene.references).listed, *map(encode_corim, scene.references), encode_keys((signer("token").public,))}
    name, token, claims = f"one-{at}", "", None
    one = scene.launch(name, what=_WHAT, grants=_GRANTED)
    for turn in range(rounds):
        scene.now += 20
        if scene.state is not None:
            made.objects.add(encode_host_state(scene.state))
        evidence = scene.evidence(name)
        verdict = scene.judge(evidence, nonce_age=400 if turn == rounds - 1 else 2)
        made.objects.add(encode_evidence(evidence))
        made.sign(verdict.entry)
        if turn < rounds - 1:  # the last one is refused: the token of before goes on
            claims = permitted(verdict)
            token = sign_token(claims, kid=key_id(signer("token").public))
        scene.state, one.carried = verdict.state_after, len(one.leaves)
        assert claims is not None
        made.tokens.add(token)
        made.objects.add(encode_host_state(scene.state))
        _exchange(scene, name, token, VAULT if turn % 2 else "https://other.example.org", made)
        for act in range(ACTS):
            kind = ("files/a", "files/b", "mail/send", "mail/delete", "files/c", "mail/other", "files/d")[act]
            scene.act(name, token, claims, resource=kind, permit=kind not in ("mail/delete", "mail/other"))
        scene.outcome(name, len(one.leaves) - 1)
    held = ActionRecord(
        len(one.leaves), scene.now, 0, "tool.call", "files/z", bytes(32), None, None, bytes(32), (NO_TOKEN,), None, "socket"
    )
    one.leaves.append(encode_record(held))
    made.logs.append(InstanceLog(one.instance, tuple(one.leaves)))
    made.shown |= {part for context in one.contexts.values() for part in (context, preimage_of(bytes(32), context))}


def _exchange(scene: Scene, name: str, token: str, audience: str, made: Recorded) -> None:
    uri = exchange_uri(ISSUER, scene.host)
    payload = encode_dpop_payload(
        jti="a" * 24, htm="POST", htu=uri, iat=scene.now, ath=b64url(Digest.of(token.encode()).value), act="token.exchange", res=audience,
        arg=b64url(Digest.of(b"").value),
    )  # fmt: skip
    request = EXCHANGE.encode(ExchangeRequest(audience, token, sign_dpop(payload, scene.running[name].key), None))
    issued = f"an-exchange-token-{len(made.entries)}"
    verdict = decide_exchange(
        request, record=scene.record, state=scene.state, references=reference_set(scene.references), bundle=_BUNDLE,
        keys=(signer("token").public,), exchanging=Exchanging(ISSUER, uri, scene.now, issued), engine=scene.engine.digest,
    )  # fmt: skip
    made.objects.add(request)
    made.sign(verdict.entry)


def write(scenes: int, folder: Path, *, engine: EngineId | None = None) -> Recorded:
    """`trust`, `verifier` and `enforcer` are in `folder`."""
    made = record(scenes, engine or installed_engine())
    assert made.trust is not None
    (folder / "trust").write_bytes(encode_trust(made.trust))
    (folder / "verifier").write_bytes(encode_archive(made.verifier()))
    (folder / "enforcer").write_bytes(encode_archive(made.enforcer()))
    return made


if __name__ == "__main__":
    write(int(sys.argv[1]), Path(sys.argv[2]))
