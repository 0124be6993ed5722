"""Witnesses asked: what comes back holds, and none of them holds up or spoils another."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.auditor.served import Served
from tests.signers import new_signer
from tests.world.witness import Log, WitnessInMemory, policy_of
from verifier.witnesses import KINDS, Collected, Fault, Reach, Witnesses, uplinks, with_lines
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.tlog.checkpoint import SignedCheckpoint
from writ.formats.tlog.cosignature import TlogPolicy, Witness, cosign
from writ.formats.tlog.note import COSIGNATURE, NoteKey, encode_note
from writ.formats.tlog.witnessing import encode_cosignatures
from writ.service.uplink import Answer
from writ.verdict.transparency import verify_witnessed

SOON = 20.0


@dataclass
class Scripted:
    """A witness that says what it is told to: `answers`, the last for ever."""

    answers: list[Answer | Exception]
    asked: int = 0

    def post(self, _path: str, _body: bytes, _content_type: str, *, retry: bool = False) -> Answer:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        pass


class Site:
    """A log, witnesses in memory, and the client."""

    def __init__(self, *names: str, quorum: str = "all") -> None:
        self.log = Log()
        self.witnesses = {name: WitnessInMemory(name, (self.log.key,)) for name in names}
        self.reaches: dict[str, Reach | None] = dict(self.witnesses)
        self.policy = policy_of(self.log.key, [(name, one.key, "") for name, one in self.witnesses.items()], quorum)
        self.client = self.fresh()

    def fresh(self) -> Witnesses:
        """A client that knows nothing yet."""
        return Witnesses(self.policy, lambda witness: self.reaches[witness.name])

    def with_(self, name: str, *answers: Answer | Exception) -> Scripted:
        """`name` says these instead."""
        self.reaches[name] = scripted = Scripted(list(answers))
        self.client = self.fresh()
        return scripted

    def ask(self, size: int, seconds: float = SOON, log: Log | None = None) -> Collected:
        return asked(self.client, log or self.log, size, seconds)


def asked(client: Witnesses, log: Log, size: int, seconds: float = SOON) -> Collected:
    return client.ask(log.signed(size), lambda old: log.prove(old, size), seconds=seconds)


def kinds(collected: Collected) -> dict[str, str]:
    assert {fault.kind for fault in collected.faults} <= set(KINDS)
    return {fault.witness: fault.kind for fault in collected.faults}


def names(collected: Collected) -> set[str]:
    return {line.name for line in collected.signatures}


# --- what comes back ----------------------------------------------------------------------------------------------------


def test_all_cosign_and_the_checkpoint_satisfies_the_policy() -> None:
    site = Site("a", "b")
    for size in (3, 3, 5, 8):
        collected = site.ask(size)
        assert collected.faults == ()
        assert [name for name, _ in verify_witnessed(collected.checkpoint, site.policy).seen] == ["a", "b"]
    assert [len(one.asked) for one in site.witnesses.values()] == [4, 4]


def test_a_client_that_knows_nothing_is_told_the_size_and_asks_again() -> None:
    site = Site("a")
    site.ask(5)
    site.client = site.fresh()
    assert names(site.ask(8)) == {"a.example/w"}
    assert [body.partition(b"\n")[0] for body in site.witnesses["a"].asked] == [b"old 0", b"old 0", b"old 5"]


def test_each_proof_is_made_once_for_all() -> None:
    site, made = Site("a", "b", "c"), list[int]()
    site.ask(5)
    site.client = site.fresh()

    def prove(old: int) -> tuple[bytes, ...]:
        made.append(old)
        return site.log.prove(old, 8)

    assert len(site.client.ask(site.log.signed(8), prove, seconds=SOON).signatures) == 3
    assert made == [5]


def test_a_line_takes_the_place_of_an_older_one_of_the_same_key() -> None:
    site = Site("a")
    first = site.ask(5)
    site.witnesses["a"].clock.advance(60)
    again = site.client.ask(first.checkpoint, lambda old: site.log.prove(old, 5), seconds=SOON)
    (seen,) = verify_witnessed(again.checkpoint, site.policy).seen
    assert seen == ("a", site.witnesses["a"].clock.wall)
    assert len(again.checkpoint.note.signatures) == 2
    assert encode_note(with_lines(first.checkpoint, again.signatures).note) == encode_note(again.checkpoint.note)


# --- one fails, the others do not ---------------------------------------------------------------------------------------


def refusal(status: int, body: bytes = b"") -> Answer:
    return Answer(status, "text/plain", body)


def foreign_line(site: Site, text: str) -> bytes:
    """A cosignature by a key that the policy has under no name, but by the name of a."""
    other = new_signer()
    key = NoteKey(site.witnesses["a"].key.name, COSIGNATURE, other.public)
    return encode_cosignatures((cosign(text, key, 1_790_000_000, other.sign),))


def own_line(site: Site, text: str) -> bytes:
    """A cosignature by a's own key, over `text`."""
    witness = site.witnesses["a"]
    return encode_cosignatures((cosign(text, witness.key, 1_790_000_000, witness.signer.sign),))


ANSWERS: dict[str, tuple[str, Callable[[Site], Sequence[Answer | Exception]]]] = {
    "away": ("unreachable", lambda _: [Unavailable("a", "is away")]),
    "an error of ours": ("unreachable", lambda _: [ZeroDivisionError()]),
    "500": ("refused", lambda _: [refusal(500)]),
    "404": ("refused", lambda _: [refusal(404)]),
    "no lines": ("malformed", lambda _: [refusal(200)]),
    "rubbish": ("malformed", lambda _: [refusal(200, b"\xff")]),
    "another key": ("invalid", lambda site: [refusal(200, foreign_line(site, site.log.signed(8).note.text))]),
    "another checkpoint": ("invalid", lambda site: [refusal(200, own_line(site, site.log.signed(7).note.text))]),
    "a size that is none": ("malformed", lambda _: [refusal(409, b"+5\n")]),
    "the size that was asked from": ("refused", lambda _: [refusal(409, b"0\n")]),
    "a size beyond": ("ahead", lambda _: [refusal(409, b"9\n")]),
    "a size, and another, and another": ("moving", lambda _: [refusal(409, b"%d\n" % size) for size in (1, 2, 3, 4)]),
    "another root at that size": ("forked", lambda _: [refusal(409, b"8\n"), refusal(409, b"8\n")]),
    "another root at that size, of main": ("forked", lambda _: [refusal(409, b"8\n"), refusal(422)]),
    "another beginning": ("forked", lambda _: [refusal(409, b"5\n"), refusal(422)]),
    "no proof is needed, and refused": ("refused", lambda _: [refusal(422)]),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_one_that_fails_is_named_and_the_others_cosign(name: str) -> None:
    site = Site("a", "b", quorum="none")
    kind, answers = ANSWERS[name]
    scripted = site.with_("a", *answers(site))
    collected = site.ask(8)
    assert kinds(collected) == {"a": kind}
    assert names(collected) == {"b.example/w"}
    assert scripted.asked <= 3


def test_a_lie_about_the_size_is_forgotten() -> None:
    """A witness that once said too large a size, or another, is asked as before the next time."""
    for lie in (b"9\n", b"7\n"):
        site = Site("a")
        site.with_("a", refusal(409, lie), refusal(500))
        site.ask(8)
        site.reaches["a"] = site.witnesses["a"]
        site.client._lines[0].reach = site.witnesses["a"]  # noqa: SLF001 - the same witness, honest again
        assert names(site.ask(8)) == {"a.example/w"}


def test_a_proof_that_cannot_be_made_is_said() -> None:
    site = Site("a")
    site.ask(5)
    site.client = site.fresh()

    def prove(_old: int) -> tuple[bytes, ...]:
        raise Unavailable("ledger", "is away")

    assert kinds(site.client.ask(site.log.signed(8), prove, seconds=SOON)) == {"a": "unproven"}


def test_a_witness_without_an_address_is_named() -> None:
    site = Site("a", "b", quorum="any")
    site.reaches["a"] = None
    assert kinds(asked(site.fresh(), site.log, 8)) == {"a": "no-address"}


def test_a_fork_and_a_rollback_of_ours_are_told(caplog: pytest.LogCaptureFixture) -> None:
    site = Site("a")
    site.ask(5)
    assert kinds(site.ask(8, log=site.log.forked(1))) == {"a": "forked"}
    assert kinds(site.ask(5, log=site.log.forked(1))) == {"a": "forked"}
    assert kinds(site.ask(3)) == {"a": "ahead"}
    assert {record.levelname for record in caplog.records if record.getMessage() == "witness-fault"} == {"ERROR"}
    assert site.ask(8).faults == ()


# --- time ---------------------------------------------------------------------------------------------------------------


def test_the_quorum_is_enough_and_one_at_work_is_not_asked_again_until_it_is_done() -> None:
    site = Site("a", "b", "c", quorum="2")
    slow = site.witnesses["c"]
    slow.gate = threading.Event()
    first = site.ask(5)
    assert names(first) == {"a.example/w", "b.example/w"}
    assert first.faults == ()
    second = site.ask(8)
    assert kinds(second) == {"c": "busy"}
    assert len(verify_witnessed(second.checkpoint, site.policy).seen) == 2
    slow.gate.set()
    line = site.client._lines[2]  # noqa: SLF001 - until it is done
    assert line.busy.acquire(timeout=SOON)
    line.busy.release()
    site.witnesses["a"].away = True
    assert names(site.ask(8)) == {"b.example/w", "c.example/w"}


def test_one_that_is_late_is_not_waited_for() -> None:
    site = Site("a", "b")
    site.witnesses["b"].gate = gate = threading.Event()
    collected = site.ask(5, seconds=0.5)
    gate.set()
    assert kinds(collected) == {"b": "late"}
    with pytest.raises(Refused, match="quorum-missing"):
        verify_witnessed(collected.checkpoint, site.policy)


def test_without_a_quorum_all_are_waited_for() -> None:
    site = Site("a", "b", quorum="none")
    gate = site.witnesses["b"].gate = threading.Event()
    threading.Timer(0.2, gate.set).start()
    assert len(site.ask(5).signatures) == 2


# --- over the wire ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Log, list[Served]]]:
    log = Log()
    begun = [Served(tmp_path / name, [log.key], "--prefix", f"/{name}", name=f"{name}.example/w") for name in ("one", "two")]
    yield log, begun
    for one in begun:
        if one.process.poll() is None:
            one.end()
        else:
            one.stderr.close()


def test_two_processes_make_a_quorum_and_one_does_not(pair: tuple[Log, list[Served]]) -> None:
    log, (one, two) = pair
    policy = policy_of(log.key, [("one", one.key, one.url), ("two", two.key, two.url + "/")])
    with contextlib.closing(Witnesses(policy, uplinks(None, SOON))) as client:
        quorum_and_none(client, policy, log, one, two)


def quorum_and_none(client: Witnesses, policy: TlogPolicy, log: Log, one: Served, two: Served) -> None:
    assert len(verify_witnessed(asked(client, log, 5).checkpoint, policy).seen) == 2

    assert one.post(log.body(5, 6), "/one/add-checkpoint")[0] == 200  # somebody else took it there
    assert len(verify_witnessed(asked(client, log, 7).checkpoint, policy).seen) == 2

    two.kill()
    collected = asked(client, log, 8)
    assert kinds(collected) == {"two": "unreachable"}
    with pytest.raises(Refused, match="quorum-missing"):
        verify_witnessed(collected.checkpoint, policy)
    any_of = policy_of(log.key, [("one", one.key, one.url), ("two", two.key, two.url)], "any")
    assert [name for name, _ in verify_witnessed(collected.checkpoint, any_of).seen] == ["one"]


def test_a_cosignature_is_bound_to_what_was_asked(pair: tuple[Log, list[Served]]) -> None:
    """Lines of one checkpoint say nothing on another, which is refused with them."""
    log, (one, two) = pair
    policy = policy_of(log.key, [("one", one.key, one.url), ("two", two.key, two.url)])
    with contextlib.closing(Witnesses(policy, uplinks(None, SOON))) as client:
        lines = asked(client, log, 5).signatures
    moved: SignedCheckpoint = with_lines(log.signed(6), lines)
    with pytest.raises(Refused, match="checkpoint-invalid"):
        verify_witnessed(moved, policy)


def test_an_address_that_is_none_is_refused_at_once() -> None:
    key = NoteKey("w", COSIGNATURE, new_signer().public)
    for url in ("http://witness.example", "ftp://witness.example", "https://user@witness.example"):
        with pytest.raises(FormatError, match="address of witness w: expected "):
            uplinks(None, 1.0)(Witness("w", key, url))
    assert uplinks(None, 1.0)(Witness("w", key, None)) is None


def test_a_fault_is_of_a_kind_that_is_known() -> None:
    assert len(set(KINDS)) == len(KINDS)
    assert Fault("w", KINDS[0], "").kind == "no-address"
