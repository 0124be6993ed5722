"""What a second newcomer tried: approvals by a person, leases, the relying process's HTTP, and policies. Each attack is refused."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from enforcer import approvals
from enforcer.__main__ import main
from enforcer.papers import keep_object
from enforcer.relying.authzen import EVALUATIONS, AuthZen
from tests.attacks.test_approval import SEND, Place, place
from tests.enforcer.host import ROOT
from tests.enforcer.relying.asking import exchange
from tests.enforcer.relying.test_middleware import Service, service
from tests.enforcer.relying.test_protocol import Served, lined, served
from tests.signers import new_signer
from tests.world.approvals import ALICE, BOB, PEOPLE
from writ.formats.approval import bytes_to_sign, sign_approval
from writ.formats.errors import FormatError
from writ.formats.keys import ES256
from writ.formats.lease import LEASE_HEADER, HostMoment, LeaseApproval, encode_lease_approval, parse_lease_approval
from writ.formats.policy_bundle import PolicyBundle, PolicySettings, encode_bundle
from writ.verdict.cedar import forget, load
from writ.verdict.lint import NO_TOKENS, publishable, validate
from writ.verdict.schema import cedar_schema

__all__ = ["place", "served", "service"]

PERMIT = '@id("a") permit(principal, action == Writ::Action::"tool.call", resource);'


def bundle(*, schema: str = "", policies: str = PERMIT) -> PolicyBundle:
    return PolicyBundle("billing", 1, 1, PolicySettings(), schema or cedar_schema(), policies)


# --- I10: what a refusal says --------------------------------------------------------------------------------------------------


def test_i10_want_of_an_approval_is_about_the_policy_and_not_about_the_token(service: Service) -> None:
    """401 would tell a client that its token or proof is bad, and every client library to fetch another and try again."""
    attestor = service.scene.attestor
    attestor.settings = replace(attestor.settings, approvers=PEOPLE)
    attestor.schema = cedar_schema()
    attestor.policies = """
      permit(principal, action == Writ::Action::"token.issue", resource);
      permit(principal, action, resource) when { context has approver };
    """
    attestor.version += 1
    service.scene.clock.advance(1)
    service.now += 1
    service.held = service.scene.renew()
    service.feed.policy = attestor.bundle()
    service.app = service.wrap()

    status, headers, problem = service.ask(service.headers())

    assert problem["reasons"][0]["code"] == "approval-required"
    assert status == 403
    assert "www-authenticate" not in headers


@pytest.mark.parametrize("first", ["content-length", "transfer-encoding"])
def test_i10_middleware_refuses_a_body_with_two_lengths_whatever_server_it_is_under(service: Service, first: str) -> None:
    """Check 2 of relying.md. h11, which a service may be served by, follows one of them; what stands before it may follow the other."""
    lengths = [(b"content-length", b"2"), (b"transfer-encoding", b"chunked")]
    if first != "content-length":
        lengths.reverse()
    assert service.code([*service.headers(), *lengths]) == (400, "malformed")
    assert service.code([*service.headers(), *lengths[:1], *lengths[:1]]) == (400, "malformed")
    assert service.reached == 0


def test_i10_so_does_the_decision_point(service: Service) -> None:
    app = AuthZen(pdp="https://pdp.example.org", party=service.party())
    headers = [(b"content-type", b"application/json"), (b"content-length", b"2"), (b"transfer-encoding", b"chunked")]

    def refused(sent: list[tuple[bytes, bytes]]) -> bool:
        return b"Transfer-Encoding" in exchange(app, sent, method="POST", path=EVALUATIONS, body=b"{}").body

    assert refused(headers)
    assert not refused(headers[:2])


# --- I4: what was signed, and what is said of it -----------------------------------------------------------------------------


def test_i4_approval_signed_elsewhere_for_one_action_is_not_given_in_the_name_of_another(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever hands it over would be told that the action behind his reference is approved, and another one is."""
    harmless, other = place.ask(), place.ask(replace(place.ask().action, resource="mcp:notes/wipe"))
    short = place.scene.instance.hex()[:8]
    keep_object(place.scene.folder, encode_bundle(place.held.bundle))
    config = tmp_path / "enforcer.toml"
    config.write_text(f'state_dir = "{tmp_path}"\nrun_dir = "{tmp_path / "run"}"\n')
    (tmp_path / "instances").mkdir()
    (tmp_path / "instances" / place.scene.instance.hex()).symlink_to(place.scene.folder)
    request, signature = tmp_path / "to-sign", tmp_path / "signature"
    alice = dict(PEOPLE)["alice"]
    request.write_bytes(bytes_to_sign(place.wanted(other), alice))
    signature.write_bytes(bytes(64))

    told = ["--config", str(config), "approve", f"{short}-{harmless.sequence}", "--request", str(request), "--signature", str(signature)]
    status, said = main(told), capsys.readouterr()

    assert (status, "approval-refused" in said.out + said.err) == (1, True), said


# --- I7: a lease travels with its token ------------------------------------------------------------------------------------------


def test_i7_envoy_as_documented_hands_on_the_lease_without_which_a_token_of_hardware_mode_is_refused() -> None:
    """Envoy sends to ext_authz no header that is not named."""
    page = (ROOT / "docs" / "relying.md").read_text()
    (allowed,) = re.findall(r"^ *allowed_headers: (.*)$", page, re.MULTILINE)
    assert {LEASE_HEADER.lower(), "dpop", "upgrade"} <= set(re.findall(r"exact: ([a-z-]+)", allowed))


@pytest.mark.parametrize("clock", [0, (1 << 63) - 1, 1 << 63, 0xFFFF000000000000 + 300_000, (1 << 64) - 1])
def test_i3_approval_is_read_for_every_clock_that_a_tpm_can_have(clock: int) -> None:
    """TPM2_ClockSet reaches 0xFFFF000000000000, and nothing but clearing the TPM leads back: such a host would have no token ever again."""
    moment = HostMoment("sha256", bytes(32), 1, 1, clock)
    approval = LeaseApproval(bytes(16), bytes(32), moment, new_signer(ES256).public, bytes(64))
    assert parse_lease_approval(encode_lease_approval(approval)) == approval
    assert len(moment.policy) == 32


# --- I3: bytes with two readings -----------------------------------------------------------------------------------------------


CHUNKED = "5\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "version, coding, body",
    [
        ("1.1", "gzip, chunked", CHUNKED),  # a body that nobody unpacks
        ("1.1", "chunked, chunked", CHUNKED),
        ("1.0", "chunked", CHUNKED),  # RFC 9112 section 6.1: faulty framing
        ("1.1", "chunked", "5\r\nhello\r\n0\r\nX: a trailer\r\n\r\n"),  # some readers take it for a header
    ],
)
def test_i3_relying_process_refuses_a_body_that_another_reader_frames_otherwise(
    served: Served, version: str, coding: str, body: str
) -> None:
    head = [line.replace("HTTP/1.1", f"HTTP/{version}") for line in served.head()]
    before = served.permits()
    assert served.answers(lined([*head, f"Transfer-Encoding: {coding}"]) + body.encode()) == [400]
    assert served.permits() == before


class Alone:
    """The protocol under an application that waits for the body, and says how many bytes it had."""

    def __init__(self, patience: int) -> None:
        code = f"""
import socket, sys
from uvicorn import Config, Server
from enforcer.relying.protocol import StrictProtocol
from enforcer.relying.serve import _HTTP
async def app(scope, receive, send):
    if scope["path"] == "/slow":
        while (await receive()).get("more_body"): pass
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}})
    await send({{"type": "http.response.body", "body": b"ok"}})
listener = socket.socket(); listener.bind(("127.0.0.1", 0)); listener.listen(16)
print(listener.getsockname()[1], flush=True)
Server(Config(app, http=StrictProtocol, **{{**_HTTP, "timeout_keep_alive": {patience}}})).run([listener])
"""
        self.process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def connect(self) -> socket.socket:
        """A connection whose reader waits long enough for whatever comes."""
        near = socket.create_connection(("127.0.0.1", self.port))
        near.settimeout(20)
        return near

    def close(self) -> None:
        """It ends."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def alone() -> Iterator[Alone]:
    made = Alone(1)
    yield made
    made.close()


@pytest.mark.parametrize(
    "said, forever",
    [
        (b"", b""),
        (b"GET / HTTP/1.1\r\n", b"X"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n", b"X"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", b"X"),
    ],
    ids=["nothing", "head", "second-head", "body-of-an-answered-request"],
)
def test_i11_who_never_ends_what_he_says_holds_no_connection(alone: Alone, said: bytes, forever: bytes) -> None:
    """A descriptor for each of them: a thousand, and no proxy is answered any more."""
    heard, deadline = b"", time.monotonic() + 15
    with alone.connect() as near:
        near.sendall(said)
        near.settimeout(0.2)
        while time.monotonic() < deadline:
            try:
                near.sendall(forever)
                if not (part := near.recv(65536)):
                    return
                heard += part
            except TimeoutError:
                continue
            except OSError:
                return
    pytest.fail(f"still open: {heard!r}")


def test_i11_a_request_that_comes_in_time_is_answered_however_many_were_before_it(alone: Alone) -> None:
    with alone.connect() as near:
        for path in (b"/", b"/slow", b"/"):
            near.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")
            time.sleep(0.3)
            near.sendall(b"ok")
            answer = b""
            while not answer.endswith(b"ok"):
                part = near.recv(65536)
                assert part, answer
                answer += part


def test_i11_one_request_is_not_sixty_four_times_its_size_to_judge(service: Service) -> None:
    """What all evaluations share was spelt once for each, before any token was looked at: half a minute of one processor for a MiB."""
    app = AuthZen(pdp="https://pdp.example.org", party=service.party())
    shared = {
        "subject": {"type": "agent", "id": "a", "properties": {"token": "t", "proof": "p"}}, "action": {"name": "http.get"},
        "resource": {"type": "https", "id": "//a/b", "properties": {"a": [[]] * 6000}},
    }  # fmt: skip

    def ask(evaluations: int) -> int:
        body = json.dumps({**shared, "evaluations": [{}] * evaluations}).encode()
        return exchange(app, [(b"content-type", b"application/json")], method="POST", path=EVALUATIONS, body=body).status

    assert ask(64) == 413
    assert service.sink.kept == []
    assert ask(2) == 200
    assert len(service.sink.kept) == 2


# --- I5, I11: policies that are small to write and large to judge --------------------------------------------------------------


def laughs(levels: int) -> str:
    """Each type is twice the one before it."""
    types = "".join(f"type t{at} = {{ a: t{at - 1}, b: t{at - 1} }};\n" for at in range(1, levels))
    return f"type t0 = {{ a: Long }};\n{types}" + cedar_schema().replace("depth: Long", f"depth: Long, more?: t{levels - 1}")


def crowded(kinds: int) -> str:
    """Every action of one agent kind on one resource kind, of each."""
    names = "".join(f"entity P{at}; entity R{at};\n" for at in range(kinds))
    lists = ", ".join(f"P{at}" for at in range(kinds)), ", ".join(f"R{at}" for at in range(kinds))
    return f'namespace More {{ {names} action "x" appliesTo {{ principal: [{lists[0]}], resource: [{lists[1]}] }}; }}\n{cedar_schema()}'


def deep(kinds: int) -> str:
    """Each kind of resource is in the one before it."""
    return "entity R0;\n" + "".join(f"entity R{at} in [R{at - 1}];\n" for at in range(1, kinds)) + cedar_schema()


def many(types: int) -> str:
    """Each type is the one before it by another name."""
    return "type t0 = Long;\n" + "".join(f"type t{at} = t{at - 1};\n" for at in range(1, types)) + cedar_schema()


@pytest.mark.parametrize("schema", [laughs(23), crowded(400), deep(4000), many(65)], ids=["laughs", "crowded", "deep", "many"])
def test_i11_a_schema_that_says_too_much_is_refused_before_cedar_reads_it(schema: str) -> None:
    """Cedar holds the interpreter's lock meanwhile: the operator of one namespace would stop the verifier of all."""
    rules = "".join(f'@id("p{at}") permit(principal, action, resource) when {{ principal == principal }};\n' for at in range(20))
    with pytest.raises(FormatError) as refused:
        load(bundle(schema=schema, policies=PERMIT + rules))
    assert "at most" in refused.value.expected, refused.value


def chained(operators: int) -> PolicyBundle:
    condition = " && ".join(["context.depth < 9", *["true"] * operators])
    return bundle(policies=f'@id("a") permit(principal, action == Writ::Action::"tool.call", resource) when {{ {condition} }};')


def below(frames: int, work: Callable[[], object]) -> object:
    return work() if frames == 0 else below(frames - 1, work)


@pytest.mark.parametrize("operators", [200, 250, 300, 350, 400, 450, 480])
def test_i5_a_policy_loads_or_not_whoever_calls_and_from_however_deep(operators: int) -> None:
    """Published by a shallow caller and refused by a deep one, it would refuse every action, and no replay would be sure to agree."""
    said = []
    for frames in (0, 250):
        forget()
        try:
            below(frames, lambda: load(chained(operators)))
            said.append("loaded")
        except FormatError as error:
            said.append(f"{error.what}: {error.expected}")
    assert said[0] == said[1]


def test_i10_a_policy_without_tokens_is_told_of() -> None:
    """What a newcomer publishes who puts a `forbid` of the page into a file of its own: `--policies` takes the text whole."""
    alone = '@id("a-person-sends") forbid (principal, action, resource == Writ::Resource::"mcp:mail/send") unless { context has approver };'
    assert [one.code for one in validate(bundle(policies=alone))] == [NO_TOKENS]
    with pytest.raises(FormatError, match=r"token\.issue"):
        publishable(bundle(policies=alone))


def test_i11_one_action_asked_again_and_again_leaves_room_for_another(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked twenty times a second, as our own test of it does, one action is a full store for an hour within a minute."""
    monkeypatch.setattr(approvals, "MOST_WAITING", 4)
    for _ in range(4):
        place.ask()
    last, other = place.ask(), place.ask(replace(SEND, resource="mcp:notes/wipe"))
    assert place.give(sign_approval(place.wanted(last), ALICE)) == []
    assert place.give(sign_approval(place.wanted(other), BOB)) == []


def test_i5_schemas_that_people_write_are_in_bounds() -> None:
    """All action kinds that a schema may have beside Writ's own, types of types, groups, and lists of a few."""
    kinds = cedar_schema(tuple(f"reports.{chr(97 + at // 26)}{chr(97 + at % 26)}" for at in range(200)))
    own = """
      namespace Own {
        entity Team; entity Person in [Team]; entity Bot in [Team];
        type Place = { street: String, type: String };
        type Order = { to: Place, from?: Place };
        action "any";
        action "buy", "sell" in ["any"] appliesTo { principal: [Person, Bot], resource: [Team, Bot], context: { order: Order } };
      }
    """
    load(bundle(schema=kinds + own, policies=PERMIT + "".join(f'@id("p{at}") {PERMIT[9:]}' for at in range(300))))
    load(chained(300))
