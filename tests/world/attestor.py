"""An attestor and a verifier in memory, behind a real unix socket: every message of `writ.formats.local`, no TPM.

Tokens, decisions and policies are really signed; evidence is any bytes. What
the verifier checks about an action log is checked here too.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from enforcer import frames
from tests.signers import MemorySigner, new_signer
from tests.world.federation import JwtMethod
from tests.world.lease_chip import LeaseChip
from writ.formats.action import exchange_action
from writ.formats.cose import encode_sign1
from writ.formats.decision import CONTENT_TYPE as DECISION_TYPE
from writ.formats.decision import EXCHANGE_INPUTS, INPUTS, AttestDecision, ExchangeDecision, Outcome, encode_entry
from writ.formats.digest import Digest
from writ.formats.eat import TYP, TokenClaims, encode_claims, parse_token
from writ.formats.engine import EngineId
from writ.formats.errors import Refused
from writ.formats.exchange_token import TYP as EXCHANGE_TYP
from writ.formats.exchange_token import ExchangeClaims, encode_exchange_claims
from writ.formats.forward import Forward
from writ.formats.grants import Grant, covers, grant_set
from writ.formats.jose import parse_dpop, sign_jws
from writ.formats.keys import ES256, PublicKey, key_id
from writ.formats.local import (
    LOCAL,
    MAX_FRAME,
    Anchor,
    Done,
    Drift,
    ExchangeAsk,
    ExchangeGiven,
    Launch,
    Launched,
    LeaseAsk,
    LeaseGiven,
    Local,
    Refusal,
    Status,
    StatusAnswer,
    Stop,
    TokenAsk,
    TokenGiven,
    Unreachable,
    Watch,
)  # fmt: skip
from writ.formats.measurement import ComponentRoot, Measurement, Mode, Profile, encode_measurement
from writ.formats.policy_bundle import CONTENT_TYPE, PolicyBundle, PolicySettings, encode_bundle
from writ.formats.reason import Reason
from writ.formats.secret import Secret
from writ.formats.spiffe import AgentId
from writ.formats.tlog import merkle
from writ.formats.tlog.merkle import inclusion_proof, leaf_hash, root
from writ.formats.tlog.note import PLAIN, NoteKey
from writ.formats.tlog.receipt import encode_receipt
from writ.formats.trust import Trust
from writ.verdict.token import VerifiedToken, verify_proof, verify_token

SCHEMA = """
namespace Writ {
  entity Agent; entity Resource; entity Audience;
  action "tool.call", "resource.read", "resource.subscribe", "prompt.get", "input.request", "net.connect", "net.reach", "net.accept",
    "http.get", "http.head", "http.post", "http.put", "http.patch", "http.delete", "http.options", "http.websocket",
    "secret.send", "secret.read", "instance.start", "instance.run", "instance.end" appliesTo {
    principal: Agent, resource: Resource,
    context: { now: Long, attest_age: Long, gate: String, host: String, namespace: String, tpm_class: String, runtime: String, depth: Long }
  };
}
"""
POLICIES = """
@id("agents-act")
permit (principal, action, resource)
  when { context.namespace == "test" };
@id("no-wipe") forbid (principal, action, resource == Writ::Resource::"mcp:notes/wipe");
"""
DOMAIN, ISSUER, AUDIENCE, STATUS = "example.org", "https://verifier.example.org", "urn:writ:test", "https://verifier.example.org/status/1"
ENGINE = EngineId(1, Digest.of(b"tree"), (("python", "3"),))


@dataclass(frozen=True)
class KnownAgent:
    """An agent that the host can launch: where its trees lie, its command, what it measures to, and its grants."""

    root: Path
    command: tuple[str, ...]
    components: tuple[ComponentRoot, ...] = ()
    grants: tuple[Grant, ...] = grant_set([("tool.call", "mcp:notes/*"), ("http.post", "http://127.0.0.1/*")])
    profile: Profile = "strict"
    devices: tuple[str, ...] = ()
    forwards: tuple[Forward, ...] = ()
    mode: Mode = "enforce"
    secrets: tuple[Secret, ...] = ()


LOG = "verifier.example.org/log"


class GrowingLog:
    """The verifier's log: its key, and the leaves so far, behind a genesis."""

    def __init__(self) -> None:
        self.signer, self.leaves = new_signer(), [leaf_hash(b"genesis")]
        self._lock = threading.Lock()

    @property
    def note_key(self) -> NoteKey:
        """What a trust file names."""
        return NoteKey(LOG, PLAIN, self.signer.public)

    def take(self, entry: bytes) -> bytes:
        """The receipt of one entry more."""
        with self._lock:
            self.leaves.append(leaf_hash(entry))
            return self.receipt(len(self.leaves) - 1)

    def receipt(self, index: int) -> bytes:
        """That of an entry under the root of all."""
        key = self.signer.public
        return encode_receipt(
            LOG, size=len(self.leaves), index=index, path=inclusion_proof(self.leaves, index), root=root(self.leaves),
            algorithm=key.algorithm, kid=key.thumbprint(), sign=self.signer.sign,
        )  # fmt: skip


@dataclass
class Instance:
    """What verifier and attestor remember of a launch."""

    agent: AgentId
    session_key: PublicKey
    parent: bytes | None
    log: tuple[int, bytes] = (0, merkle.EMPTY_ROOT)
    anchored: dict[int, bytes] = field(default_factory=dict)
    """What was extended and no checkpoint carried since extends."""
    stopped: str | None = None
    drifted: bool = False


@dataclass
class Attestor:
    """Serves on `path` from `start` to `stop`; public fields may be changed at any time."""

    path: Path
    agents: dict[str, KnownAgent]
    settings: PolicySettings = field(
        default_factory=lambda: PolicySettings(accept_runtime_only=True, tpm_classes=("software",), token_life=60)
    )
    policies: str = POLICIES
    schema: str = SCHEMA
    version: int = 1
    reachable: bool = True
    refusal: Refusal | None = None
    refuses: dict[str, Refusal] = field(default_factory=dict)
    """By the agent's name."""
    silent: float = 0.0
    lies_about_command: tuple[str, ...] = ()
    generous: bool = False
    status: str = STATUS
    decision: MemorySigner = field(default_factory=new_signer)
    tokens: MemorySigner = field(default_factory=new_signer)
    instances: dict[bytes, Instance] = field(default_factory=dict)
    asks: list[TokenAsk] = field(default_factory=list)
    watchers: list[socket.socket] = field(default_factory=list)
    given: list[TokenGiven] = field(default_factory=list)
    exchange_key: MemorySigner = field(default_factory=lambda: new_signer(ES256))
    exchanges: list[ExchangeAsk] = field(default_factory=list)
    proofs: set[str] = field(default_factory=set)
    exchange_life: int = 300
    anchors: list[Anchor] = field(default_factory=list)
    """Those that were asked for."""
    anchors_off: bool = False
    forgets_anchors: bool = False
    """It extends, and does not answer."""
    chip: LeaseChip | None = None
    """Hardware mode, where there is one: each token takes leases by it."""
    wall: Callable[[], int] = lambda: int(time.time())
    log: GrowingLog = field(default_factory=GrowingLog)
    logs: bool = True
    """Whether a receipt comes with a token; the trust file names the log in any case."""

    # --- the socket ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen, each connection in a thread of its own."""
        self._server = socket.socket(socket.AF_UNIX)
        self.path.unlink(missing_ok=True)
        self._server.bind(str(self.path))
        self._server.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Nobody is answered any more."""
        with contextlib.suppress(OSError):  # stopped before
            self._server.shutdown(socket.SHUT_RDWR)  # without which the thread would wait in accept for ever
        self._server.close()
        self.path.unlink(missing_ok=True)
        for watcher in self.watchers:
            watcher.close()

    def _accept(self) -> None:
        for connection in frames.connections(self._server):
            threading.Thread(target=self._attend, args=(connection,), daemon=True).start()

    def _attend(self, connection: socket.socket) -> None:
        watching = False
        with contextlib.suppress(OSError):
            while (head := connection.recv(4, socket.MSG_WAITALL)) and len(head) == 4:
                length = int.from_bytes(head, "big")
                assert length <= MAX_FRAME
                message = LOCAL.parse(connection.recv(length, socket.MSG_WAITALL))
                if isinstance(message, Watch):
                    self.watchers.append(connection)
                    watching = True
                    break
                answer = LOCAL.encode(self.answer(message))
                connection.sendall(len(answer).to_bytes(4, "big") + answer)
        if not watching:
            connection.close()

    # --- what it answers -----------------------------------------------------------------------------------------------

    def answer(self, message: Local) -> Local:
        """The answer to one message."""
        if isinstance(message, Stop):
            self.instances[message.instance].stopped = message.outcome
            return Done()
        if isinstance(message, Status):
            return StatusAnswer("host-1", True, 0, len(self.instances), "accepted")
        if isinstance(message, Launch):
            return self._launch(message)
        if isinstance(message, LeaseAsk):
            return self._lease(message)
        if isinstance(message, ExchangeAsk):
            return self._exchange(message)
        if isinstance(message, Anchor):
            return self._anchor(message)
        assert isinstance(message, TokenAsk)
        self.asks.append(message)
        if self.silent:
            time.sleep(self.silent)
        if not self.reachable:
            return Unreachable("the verifier does not answer")
        return self.refusal or self.refuses.get(self.instances[message.instance].agent.name) or self._token(message)

    def _anchor(self, ask: Anchor) -> Local:
        self.anchors.append(ask)
        if self.anchors_off:
            return Refusal((Reason("anchors-off", "anchor_pcr", "a PCR", "none"),), final=False)
        self.instances[ask.instance].anchored[ask.size] = ask.root
        return Unreachable("TPM: it may or may not have been extended") if self.forgets_anchors else Done()

    def _launch(self, launch: Launch) -> Local:
        known = self.agents.get(launch.agent)
        if known is None:
            return Refusal((Reason("agent-unknown", "agent", "a manifest on this host", launch.agent),), final=True)
        instance, agent = secrets.token_bytes(16), AgentId(DOMAIN, "test", launch.agent)
        command = launch.command or known.command
        self.instances[instance] = Instance(agent, launch.session_key, launch.parent)
        measured = Measurement(
            agent, command, known.components, known.secrets, AUDIENCE, known.grants, known.profile, known.devices, known.mode,
            known.forwards,
        )  # fmt: skip
        return Launched(instance, encode_measurement(measured), str(known.root), self.lies_about_command or command, AUDIENCE, known.grants)

    def _lease(self, ask: LeaseAsk) -> Local:
        """By the chip, for the token given last."""
        claim = f"instance.{ask.instance.hex()}.lease"
        if self.chip is None or self.chip.refuses:
            return Refusal((Reason("lease-refused", claim, "the state that was approved", "response code 0x1c4"),), False)
        token = parse_token(next(one.token for one in reversed(self.given) if parse_token(one.token).claims.instance == ask.instance))
        return LeaseGiven(self.chip.lease(ask.instance, token.claims.key, token.digest))

    def _exchange(self, ask: ExchangeAsk) -> Local:
        """As the verifier, for a token and a proof that hold, for an audience that the token grants; one proof is good once."""
        self.exchanges.append(ask)
        if not self.reachable:
            return Unreachable("the verifier does not answer")
        now, keys = self.wall(), {key_id(self.tokens.public): self.tokens.public}
        signed = parse_token(ask.token)
        try:
            token = verify_token(signed, keys=keys, issuer=ISSUER, audience=AUDIENCE, now=now, revocation=None)
            action, uri = exchange_action(ask.audience), f"{ISSUER}/v1/hosts/host-1/exchange"
            used = verify_proof(parse_dpop(ask.proof), token, action, method="POST", uri=uri, now=now).single_use
        except Refused as refused:
            return Refusal(refused.reasons, False)
        if used in self.proofs or not any(covers(grant, action.name, ask.audience) for grant in token.claims.grants):
            code = "proof-replayed" if used in self.proofs else "grant-missing"
            return Refusal((Reason(code, "exchange", action.name, "none"),), False)
        self.proofs.add(used)
        return self.exchanged(ask, token, now=now)

    def method(self, *audiences: str) -> JwtMethod:
        """Somebody who takes exchange tokens of this issuer for these audiences, with its keys in his configuration."""
        key = self.exchange_key.public
        return JwtMethod(lambda: [{**key.to_jwk(), "kid": key_id(key), "alg": key.algorithm}], ISSUER, audiences, self.wall)

    def exchanged(self, ask: ExchangeAsk, token: VerifiedToken, *, now: int, **changed: object) -> ExchangeGiven:
        """A signed answer to `ask`; `changed` claims are signed all the same."""
        held = token.claims
        claims = ExchangeClaims(
            ISSUER, held.agent, ask.audience, now, min(held.expires_at, now + self.exchange_life), secrets.token_hex(16), held.host,
            held.instance, held.tpm_class, held.runtime, held.exceptions, token.digest,
        )  # fmt: skip
        payload = encode_exchange_claims(replace(claims, **changed))  # type: ignore[arg-type]  # a test names fields of the claims
        inputs = tuple((name, Digest.of(name.encode())) for name in EXCHANGE_INPUTS)
        entry = ExchangeDecision(
            ENGINE.digest, now, held.host, "test", held.instance, ask.audience, inputs, claims.token_id, Digest.of(payload), ()
        )
        key = self.exchange_key.public
        compact = sign_jws(payload, typ=EXCHANGE_TYP, signer_algorithm=key.algorithm, sign=self.exchange_key.sign, kid=key_id(key))
        return ExchangeGiven(compact, self.sign(encode_entry(entry), DECISION_TYPE), key)

    def _token(self, ask: TokenAsk) -> Local:
        known = self.instances[ask.instance]
        if ask.log_from != known.log[0]:
            return Refusal((Reason("action-log-base", "log", str(known.log[0]), str(ask.log_from)),), final=False, decided=True)
        if not merkle.verify_consistency(*known.log, ask.log_size, ask.log_root, ask.log_proof):
            forked = Reason("action-log-inconsistent", "log", f"an extension of {known.log[0]}", str(ask.log_size))
            return Refusal((forked,), final=True, decided=True)
        proofs = dict(ask.anchored)
        lacking = [str(size) for size in sorted(known.anchored) if size > ask.log_size or size not in proofs]
        if lacking:
            return Refusal((Reason("anchor-proof-required", "anchors", " ".join(lacking), "none"),), final=False, decided=True)
        if not all(
            merkle.verify_consistency(size, root, ask.log_size, ask.log_root, proofs[size]) for size, root in known.anchored.items()
        ):
            return Refusal((Reason("anchor-inconsistent", "anchors", "an extension", "another log"),), final=True, decided=True)
        known.log, known.anchored = (ask.log_size, ask.log_root), {}
        if self.agents[known.agent.name].mode == "observe" and not self.generous:
            return Refusal((Reason("observed", f"instance.{ask.instance.hex()}.mode", "enforce", "observe"),), final=False, decided=True)
        if known.drifted:
            return Refusal((Reason("instance-drifted", "phase", "running", "drifted"),), final=True, decided=True)
        given = self.give(ask)
        self.given.append(given)
        return given

    def give(self, ask: TokenAsk, *, now: int | None = None, **changed: object) -> TokenGiven:
        """A signed answer to `ask`; `changed` claims are signed all the same."""
        now = self.wall() if now is None else now
        known, bundle, result = self.instances[ask.instance], self.bundle(), b"an EAR"
        claims = TokenClaims(
            issuer=ISSUER, agent=known.agent, audience=ask.audience, issued_at=now, expires_at=now + self.settings.token_life,
            token_id=secrets.token_hex(16), key=ask.session_key.thumbprint(), host="host-1", instance=ask.instance, policy=bundle.digest,
            result=Digest.of(result), grants=ask.grants, lineage=() if known.parent is None else (known.parent,), tpm_class="software",
            runtime="runtime-only", exceptions=(), status_index=0, status_uri=self.status,
            lease=None if self.chip is None else self.chip.terms(),
        )  # fmt: skip
        claims = replace(claims, **changed)  # type: ignore[arg-type]  # a test names fields of the claims
        payload, token_id = encode_claims(claims), claims.token_id
        token = sign_jws(
            payload, typ=TYP, signer_algorithm=self.tokens.public.algorithm, sign=self.tokens.sign, kid=key_id(self.tokens.public)
        )
        inputs = {name: Digest.of(name.encode()) for name in INPUTS} | {"policy": bundle.digest}
        outcome = Outcome(ask.instance, token_id, 0, Digest.of(payload), ask.log_size, ask.log_root, ())
        entry = AttestDecision(
            engine=ENGINE.digest, decided_at=now, host="host-1", namespace="test", nonce=bytes(32), nonce_issued_at=now,
            inputs=tuple(sorted(inputs.items())), status_list=0,
            result=Digest.of(result), state_after=Digest.of(b""), outcomes=(outcome,), reasons=(),
        )  # fmt: skip
        decision = self.sign(encode_entry(entry), DECISION_TYPE)
        return TokenGiven(
            token, decision, result, self.sign(encode_bundle(bundle), CONTENT_TYPE),
            (self.tokens.public,), self.decision.public, os.urandom(32), self.log.take(decision) if self.logs else None,
        )  # fmt: skip

    def sign(self, payload: bytes, content_type: str) -> bytes:
        """COSE_Sign1 by the decision key."""
        key = self.decision.public
        return encode_sign1(payload, algorithm=key.algorithm, kid=key.thumbprint(), sign=self.decision.sign, content_type=content_type)

    def bundle(self) -> PolicyBundle:
        """The policy in force."""
        return PolicyBundle("test", self.version, 1_700_000_000, self.settings, self.schema, self.policies)

    def trust(self) -> Trust:
        """The anchors that an operator would pin."""
        return Trust(DOMAIN, ISSUER, (), (), (self.decision.public,), log_keys=(self.log.note_key,))

    def drift(self, instance: bytes) -> None:
        """Report one changed byte of a prompt. The verifier refuses the instance from now on, and still keeps its checkpoints."""
        self.instances[instance].drifted = True
        message = LOCAL.encode(Drift(instance, "prompts", "system.txt", Digest.of(b"before"), Digest.of(b"after")))
        for watcher in self.watchers:
            with contextlib.suppress(OSError):
                watcher.sendall(len(message).to_bytes(4, "big") + message)
