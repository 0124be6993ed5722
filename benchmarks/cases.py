"""The cases: everything on the path of an attestation and of an action, over the same world in memory that the tests use."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

from benchmarks.measure import Case
from enforcer.credential import Held
from enforcer.gates.socket import SocketGate
from enforcer.tools.tool import Led, Reply
from tests.enforcer.scene import Scene
from tests.world import scene as world
from tests.world.chip import private_key
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.eat import parse_token
from writ.formats.eventlog.cel import CelRecord, encode_cel, parse_cel
from writ.formats.eventlog.runtime import StartEvent, StopEvent, command_digest, record_event
from writ.formats.evidence import binding, encode_evidence, parse_evidence
from writ.formats.keys import key_id
from writ.formats.reason import Reason
from writ.formats.state import RuntimeState
from writ.formats.tpm.signature import parse_signature
from writ.verdict import cedar
from writ.verdict.attestation import decide_attestation
from writ.verdict.cedar import evaluate, load
from writ.verdict.decide import decide
from writ.verdict.memo import Memo
from writ.verdict.quote import verify_quote
from writ.verdict.reference import reference_set
from writ.verdict.runtime_log import replay
from writ.verdict.token import verify_token

MANY = 50
EVENTS = 2000


def attestation() -> Iterator[Case]:
    """Evidence in, decision out: one instance, and many in one quote."""
    story = world.Scene()
    for number in range(MANY):
        story.launch(f"i{number}")
    first = story.attest("i0")
    names = [f"i{number}" for number in range(MANY)]
    verifier = world.signer("decision").public.thumbprint()
    evidence = story.evidence("i0")
    bound = binding(verifier, story.host, evidence.nonce, evidence.requests)
    signed = parse_signature(evidence.signature)
    der = utils.encode_dss_signature(int.from_bytes(signed.r, "big"), int.from_bytes(signed.s, "big"))
    ak = private_key(f"{story.chip.seed}/ak").public_key()

    def quote() -> object:
        return verify_quote(
            evidence.attest, evidence.signature, evidence.pcrs, ak=story.chip.ak, qualified_name=story.chip.qualified_name,
            extra_data=bound, bank="sha256",
        )  # fmt: skip

    def bare_signature() -> object:
        return ak.verify(der, evidence.attest, ec.ECDSA(hashes.SHA256()))

    yield Case("verify_quote", "one ECDSA P-256 verification", quote, bare_signature)

    def decided(data: bytes, count: int) -> object:
        return decide_attestation(
            data, record=story.record, state=first.state_after, references=reference_set(story.references), bundle=story.bundle,
            verifier=verifier, issuance=story.issuance(count), engine=world.ENGINE_ID.digest,
        )  # fmt: skip

    one, many = encode_evidence(evidence), encode_evidence(story.evidence(*names))
    yield Case("decide_attestation, 1 instance of 50", "one ECDSA P-256 verification", lambda: decided(one, 1), bare_signature)
    yield Case(
        f"decide_attestation, {MANY} instances", "decide_attestation, 1 instance", lambda: decided(many, MANY),
        lambda: decided(one, 1), MANY, "instance",
    )  # fmt: skip
    yield Case(f"parse_evidence, {MANY} instances", "cbor2.loads", lambda: parse_evidence(many), lambda: cbor2.loads(many))


def runtime_log() -> Iterator[Case]:
    """A log of many launches parsed and replayed, beside the hashes that it cannot do without."""
    records: list[CelRecord] = []
    for number in range(EVENTS // 2):
        instance = hashlib.sha256(str(number).encode()).digest()
        agent = f"spiffe://{world.DOMAIN}/{world.NAMESPACE}/agent/reporter"
        root = Digest.of(b"root")
        start = StartEvent(instance[:16], agent, root, command_digest(("a",)), hashlib.sha256(instance).digest(), None, ())
        for event in (start, StopEvent(instance[:16], "exited")):
            records.append(record_event(event, record_number=len(records), pcr=world.RUNTIME_PCR, banks=("sha256",)))
    data = encode_cel(records)
    contents = [record.content for record in records]

    def bare() -> bytes:
        register = bytes(32)
        for content in contents:
            register = hashlib.sha256(register + hashlib.sha256(content).digest()).digest()
        return register

    quoted = bare()
    clean = RuntimeState(0, bytes(32), (), ())

    def ours() -> object:
        return replay(clean, parse_cel(data), pcr=world.RUNTIME_PCR, bank="sha256", quoted=quoted)

    yield Case(f"runtime log of {EVENTS} events, parsed and replayed", "hashlib alone", ours, bare, EVENTS, "event")


def action(folder: Path) -> Iterator[Case]:
    """A token verified, an action decided."""
    scene = Scene(folder)
    held = scene.renew()
    keys = {key_id(scene.attestor.tokens.public): scene.attestor.tokens.public}
    compact, issuer, audience = held.compact, held.token.claims.issuer, held.token.claims.audience
    head, _, signature = compact.rpartition(".")
    raw = ed25519.Ed25519PublicKey.from_public_bytes(scene.attestor.tokens.public.raw)
    signed, tag = head.encode(), parse_token(compact).jws.signature
    assert signature

    def token() -> object:
        return verify_token(parse_token(compact), keys=keys, issuer=issuer, audience=audience, now=scene.clock.wall, revocation=None)

    yield Case("parse and verify_token", "one Ed25519 verification", token, lambda: raw.verify(tag, signed))
    asked = Action("tool.call", "mcp:notes/read", Digest.of(b"{}"))
    policies = load(held.bundle)
    context = {
        "now": scene.clock.wall, "attest_age": 0, "gate": "socket", "host": "host-1", "namespace": "test", "tpm_class": "software",
        "runtime": "runtime-only", "depth": 0,
    }  # fmt: skip

    def decided() -> object:
        return decide(asked, token=held.token, bundle=held.bundle, gate="socket", now=scene.clock.wall)

    def bare() -> object:
        return evaluate(policies, agent=str(scene.agent), action="tool.call", resource=("Resource", asked.resource), context=context)

    def anew() -> object:
        cedar.forget()
        return decided()

    yield Case("decide, policies loaded", "Cedar's evaluation alone", decided, bare)
    yield Case("decide, policies loaded anew", "decide, policies loaded", anew, decided)
    text = "".join(f'permit(principal, action, resource == Writ::Resource::"mcp:notes/{at}");' for at in range(19))
    twenty = replace(held.bundle, policies=text + 'permit(principal, action == Writ::Action::"tool.call", resource);')
    token_of_twenty, memo = replace(held.token, claims=replace(held.token.claims, policy=twenty.digest)), Memo()

    def again(memo: Memo | None = memo) -> object:
        return decide(asked, token=token_of_twenty, bundle=twenty, gate="socket", now=scene.clock.wall, memo=memo)

    assert again() == again(None)
    yield Case("decide again, 20 policies", "decide, 20 policies, without a memo", again, lambda: again(None))


class Echo:
    """A tool that does nothing."""

    def action(self, method: str, arguments: bytes) -> Action:
        """As a local tool's."""
        return Action("tool.call", f"mcp:notes/{method}", Digest.of(arguments))

    def turn(self) -> contextlib.AbstractContextManager[object]:
        """At once."""
        return contextlib.nullcontext()

    def against(self, method: str) -> Reason | None:
        """Nothing."""

    def call(self, action: Action, method: str, arguments: bytes, held: Held | None, led: Led) -> Reply:
        """Its arguments."""
        return Reply(True, arguments)

    def leave(self, within: float) -> None:
        """Nothing goes over."""

    def close(self) -> None:
        """Nothing to end."""


def gate(folder: Path) -> Iterator[Case]:
    """An action through the socket gate, its record and its outcome durable, beside a socket that echoes."""
    scene = Scene(folder)
    scene.renew()
    log = scene.log(folder)
    path = str(folder / "gate.sock")
    served = SocketGate(
        path, uid=os.getuid(), gid=os.getgid(), is_agent=os.getpid().__eq__, gatekeeper=scene.gatekeeper(log),
        tools={"notes": Echo()}, short="5f1c09ab",
    )  # fmt: skip
    line = json.dumps({"id": 1, "tool": "notes", "method": "read", "arguments": {}}).encode() + b"\n"
    with contextlib.ExitStack() as closing:
        closing.callback(log.close)
        closing.callback(served.close)
        ours = closing.enter_context(Line(path))
        bare = closing.enter_context(Line(echo_at(str(folder / "echo.sock"), closing)))
        disk = os.open(folder / "disk", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        closing.callback(os.close, disk)

        def durable() -> None:
            for _ in range(2):  # as many as an action's record and outcome
                os.write(disk, bytes(400))
                os.fdatasync(disk)
            bare.ask(line)

        assert json.loads(ours.ask(line))["ok"] is True
        yield Case("an action through the gate", "a socket's echo", lambda: ours.ask(line), lambda: bare.ask(line), 1, "action")
        yield Case("an action through the gate", "a socket's echo and two durable appends", lambda: ours.ask(line), durable, 1, "action")


class Line:
    """One connection, a line at a time."""

    def __init__(self, path: str) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(path)
        self._stream = self._connection.makefile("rwb")

    def ask(self, line: bytes) -> bytes:
        """The line that comes back."""
        self._stream.write(line)
        self._stream.flush()
        return self._stream.readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._connection.close()


def echo_at(path: str, closing: contextlib.ExitStack) -> str:
    """`path`, at which one connection gets each line back."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    closing.callback(server.close)

    def serve() -> None:
        connection, _ = server.accept()
        with connection, connection.makefile("rwb") as stream:
            for line in stream:
                stream.write(line)
                stream.flush()

    threading.Thread(target=serve, daemon=True).start()
    return path
