"""A range of one agent's records, from archives and the verifier's log to a verdict: complete, or what is missing by name."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from auditor.__main__ import main
from auditor.ranges import Ranges, Stretch
from tests.auditor.story import Site, leave
from tests.parsers import assert_parser_is_total
from tests.world.scene import ENGINE_ID, GOVERNED, NOW, Scene, reference, sign_entry, sign_token, sixteen
from tests.world.translog import WorldLog, act, auditors_trust, put
from writ.formats.archive import EMPTY, Archive, InstanceLog, encode_archive
from writ.formats.cose import parse_sign1
from writ.formats.decision import DOMAIN, AttestDecision, OperatorAct, parse_entry
from writ.formats.digest import Digest
from writ.formats.eat import encode_claims, parse_token
from writ.formats.errors import Refused
from writ.formats.range_bundle import ProvenLeaf, RangeBundle, Stranger, encode_range_bundle, is_range_bundle, parse_range_bundle
from writ.formats.reason import Reason
from writ.formats.record import Opening, encode_record, parse_record
from writ.formats.tlog.merkle import beside, inclusion_proof, leaf_hash, root, root_from_range
from writ.formats.tlog.note import encode_note
from writ.formats.trust import parse_trust
from writ.verdict.range_proof import prove_range

AGENT = "spiffe://example.org/billing/agent/reporter"
ONE, TWO, THREE, FOUR = map(sixteen, ("one", "two", "three", "four"))
EARLIEST, LATEST = NOW + 420, NOW + 500
IN_RANGE = 12
"""Actions and outcomes of ONE and TWO in it."""


@dataclass
class Told:
    """What is left of half an hour, and where."""

    site: Site
    log: WorldLog
    archive: Archive


@cache
def told() -> Told:
    """ONE and TWO are of the agent and renew twice a minute, TWO for a while only; THREE is of another agent."""
    scene = Scene(references=(GOVERNED, reference(), reference("other")))
    site = Site(scene)
    site.entries += [act(NOW - 4_000 + at, f"key-{at}") for at in range(300)]
    for name, agent in (("one", "reporter"), ("two", "reporter"), ("three", "other")):
        scene.launch(name, agent=agent)
    for at in range(30):
        names = [name for name in ("one", "two", "three") if name != "two" or at < 16]
        site.renew(*names)
        for name in names:
            site.act(name, "files/a")
    return Told(site, site.log(), site.archive())


def place(tmp_path: Path, *, archive: Archive | None = None, log: WorldLog | None = None) -> list[str]:
    """Files, and the arguments of the export that reads them."""
    leave(told().site, tmp_path, archive=told().archive if archive is None else archive, log=told().log if log is None else log)
    return [
        "export", str(tmp_path / "enforcer"), "--log", str(tmp_path / "log"), "--trust", str(tmp_path / "trust"), "--agent", AGENT,
        "--from", str_of(EARLIEST), "--to", str_of(LATEST), "--range", str(tmp_path / "range"), "--json",
    ]  # fmt: skip


def str_of(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main(arguments)
    return code, json.loads(capsys.readouterr().out)


@cache
def honest() -> RangeBundle:
    """As `auditor export` makes it."""
    with tempfile.TemporaryDirectory() as made, contextlib.redirect_stdout(io.StringIO()):
        assert main(place(Path(made))) == 0
        return parse_range_bundle((Path(made) / "range").read_bytes())


def judged(bundle: RangeBundle) -> list[tuple[str, str]]:
    return [(one.code, one.claim) for one in prove_range(bundle, auditors_trust(told().log)).reasons]


# --- complete ----------------------------------------------------------------------------------------------------------------


def test_a_range_is_complete_over_all_instances_of_the_agent_and_each_record_lies_between_two_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, answer = said(place(tmp_path), capsys)
    assert (code, answer["verdict"], answer["strangers"]) == (0, "accepted", 1)
    assert sum(len(log["records"]) for log in answer["logs"]) == IN_RANGE
    assert {log["instance"] for log in answer["logs"]} == {ONE.hex(), TWO.hex()}
    for log in answer["logs"]:
        for one in log["records"]:
            assert 0 < one["not_there_at"] < one["carried_at"]
            assert EARLIEST - 60 < one["not_there_at"] < one["carried_at"] < LATEST + 60

    code, again = said(["verify", str(tmp_path / "range"), "--trust", str(tmp_path / "trust"), "--json"], capsys)
    assert (code, again) == (0, answer)
    assert main(["verify", str(tmp_path / "range"), "--trust", str(tmp_path / "trust"), "--explain"]) == 0
    text = capsys.readouterr().out
    assert "  6. records: 12 in the range" in text
    assert "complete: no record of this agent" in text


def test_what_nothing_carried_is_said_from_when_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, answer = said(place(tmp_path), capsys)
    since = {log["instance"]: log["open_since"] for log in answer["logs"]}
    assert since[ONE.hex()] is None
    assert EARLIEST < since[TWO.hex()] < LATEST + 100, "it ended: what it did behind its last checkpoint nobody can say"


def test_the_range_holds_no_more_of_the_logs_than_it_needs() -> None:
    bundle = honest()
    assert bundle.first == 256
    assert all(part.first > 0 and part.openings for part in bundle.logs)
    assert sum(len(part.leaves) for part in bundle.logs) < sum(len(log) for log in told().site.logs().values())
    assert 0 < len(encode_range_bundle(bundle)) < 200_000


def test_a_log_that_does_not_go_on_behind_the_range_leaves_it_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = told().log
    early = next(at for at, entry in enumerate(told().site.entries, 1) if entry.decided_at > LATEST + 100)
    code, answer = said(place(tmp_path, log=log.at(early)), capsys)
    assert (code, answer["verdict"]) == (3, "incomplete")
    assert main([one for one in place(tmp_path, log=log.at(early)) if one != "--json"]) == 3


# --- not complete -------------------------------------------------------------------------------------------------------------


def without(archive: Archive, *instances: bytes) -> Archive:
    return replace(archive, logs=tuple(log for log in archive.logs if log.instance not in instances))


def test_an_instance_whose_log_is_not_at_hand_is_a_gap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = said(place(tmp_path, archive=without(told().archive, TWO)), capsys)
    assert (code, [(one["code"], one["claim"]) for one in answer["reasons"]]) == (1, [("range-gap", f"instance {TWO.hex()} of host-1")])
    assert (tmp_path / "range").exists(), "what there is, is written"
    assert said(["verify", str(tmp_path / "range"), "--trust", str(tmp_path / "trust"), "--json"], capsys)[0] == 1


def test_an_instance_of_which_nothing_is_at_hand_is_a_gap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = tuple(token for token in told().archive.tokens if parse_token(token).claims.instance != THREE)
    code, answer = said(place(tmp_path, archive=replace(without(told().archive, THREE), tokens=tokens)), capsys)
    assert (code, [one["claim"] for one in answer["reasons"]]) == (1, [f"instance {THREE.hex()} of host-1"])


def part(bundle: RangeBundle, instance: bytes, **changed: object) -> RangeBundle:
    return replace(bundle, logs=tuple(replace(one, **changed) if one.instance == instance else one for one in bundle.logs))  # type: ignore[arg-type]


def leaves(bundle: RangeBundle, instance: bytes) -> tuple[bytes, ...]:
    return next(one.leaves for one in bundle.logs if one.instance == instance)


def claims_of(instance: bytes) -> bytes:
    return next(encode_claims(one.claims) for one in map(parse_token, told().archive.tokens) if one.claims.instance == instance)


def logless(bundle: RangeBundle, instance: bytes) -> RangeBundle:
    return replace(bundle, logs=tuple(one for one in bundle.logs if one.instance != instance))


def altered(leaf: bytes) -> bytes:
    return encode_record(replace(parse_record(leaf), sequence=9))


LIES: dict[str, tuple[Callable[[RangeBundle], RangeBundle], list[str]]] = {
    "a record left out": (lambda b: part(b, ONE, leaves=leaves(b, ONE)[:3] + leaves(b, ONE)[4:]), ["range-gap"]),
    "a record left out, another put in": (
        lambda b: part(b, ONE, leaves=(*leaves(b, ONE)[:3], *leaves(b, ONE)[4:], leaves(b, ONE)[-1])), ["action-log-altered"],
    ),
    "records left out at the end": (lambda b: part(b, ONE, leaves=leaves(b, ONE)[:-2]), ["range-gap"]),
    "records left out at the beginning": (lambda b: part(b, ONE, first=next(p.first for p in b.logs) + 2), ["range-gap"]),
    "a record altered": (
        lambda b: part(b, ONE, leaves=(*leaves(b, ONE)[:3], altered(leaves(b, ONE)[3]), *leaves(b, ONE)[4:])),
        ["action-log-altered"],
    ),
    "an instance left out": (lambda b: replace(b, logs=tuple(one for one in b.logs if one.instance != TWO)), ["range-gap"]),
    "a stranger left out": (lambda b: replace(b, strangers=()), ["range-gap"]),
    "an own instance called a stranger by an opening": (
        lambda b: replace(logless(b, TWO), strangers=(*b.strangers, Stranger(TWO, None, b.logs[0].openings[0]))), ["range-gap"],
    ),
    "an own instance called a stranger by its claims": (
        lambda b: replace(logless(b, TWO), strangers=(*b.strangers, Stranger(TWO, claims_of(TWO), None))), ["range-gap"],
    ),
    "an own instance called a stranger by another's claims": (
        lambda b: replace(logless(b, TWO), strangers=(*b.strangers, Stranger(TWO, claims_of(THREE), None))), ["range-gap"],
    ),
    "a stranger by claims that nobody issued": (
        lambda b: replace(b, strangers=(Stranger(THREE, claims_of(THREE).replace(b'"tools"', b'"toolz"'), None),)), ["range-gap"],
    ),
    "a stranger that the log does not name": (
        lambda b: replace(b, strangers=(*b.strangers, Stranger(FOUR, claims_of(THREE), None))), ["range-gap"],
    ),
    "a token left out": (lambda b: replace(b, tokens=b.tokens[1:]), ["proof-bundle-incomplete"]),
    "a longer time than was looked at": (lambda b: replace(b, earliest=NOW + 100), ["range-gap"]),
    "no opening": (lambda b: part(b, ONE, openings=()), ["digest-mismatch"]),
    "another's opening": (lambda b: part(b, ONE, openings=next(p.openings for p in b.logs if p.instance == TWO)), ["inclusion-invalid"]),
}  # fmt: skip


def test_the_honest_bundle_has_no_finding() -> None:
    assert judged(honest()) == []


@pytest.mark.parametrize("lie", LIES)
def test_what_is_left_out_of_a_range_is_found(lie: str) -> None:
    change, expected = LIES[lie]
    assert sorted({code for code, _ in judged(change(honest()))} & set(expected)) == sorted(expected)


LIES_ABOUT_THE_LOG: dict[str, Callable[[RangeBundle], RangeBundle]] = {
    "an entry left out": lambda b: replace(b, entries=b.entries[:5] + b.entries[6:]),
    "an entry in another place": lambda b: replace(b, entries=(*b.entries[:5], b.entries[6], b.entries[5], *b.entries[7:])),
    "entries from another place": lambda b: replace(b, first=b.first + 1),
    "a hash too many": lambda b: replace(b, proof=(*b.proof, bytes(32))),
    "a hash altered": lambda b: replace(b, proof=(bytes(32), *b.proof[1:])),
    "entries cut short": lambda b: replace(b, entries=b.entries[:-1], proof=(*b.proof, bytes(32))),
}


@pytest.mark.parametrize("lie", LIES_ABOUT_THE_LOG)
def test_of_entries_that_are_not_the_logs_nothing_is_said(lie: str) -> None:
    with pytest.raises(Refused) as refused:
        judged(LIES_ABOUT_THE_LOG[lie](honest()))
    assert [reason.code for reason in refused.value.reasons] == ["inclusion-invalid"]


def test_a_checkpoint_by_another_key_is_refused() -> None:
    bundle = honest()
    with pytest.raises(Refused):
        prove_range(bundle, auditors_trust(WorldLog(list(bundle.entries))))


def test_entries_that_nobody_signed_are_found() -> None:
    """The log's key is another's than the decisions': whoever has the one alone writes no decision."""
    forged = told().log.with_entry(20, told().log.entries[20][:-1] + b"\0")
    hashes = [leaf_hash(entry) for entry in forged.entries]
    proof = tuple(root(hashes[start:end]) for start, end in beside(0, len(hashes), len(hashes)))
    bundle = replace(honest(), checkpoint=encode_note(forged.note()), first=0, entries=tuple(forged.entries), proof=proof)
    assert ("signature-invalid", "entry.20") in judged(bundle)


def small_site(**changed: object) -> Site:
    """One instance that wrote a record so from the beginning, in a log that carried it."""
    site = Site(Scene())
    site.scene.launch("one")
    for at in range(20):
        site.renew("one")
        if at == 2:
            site.act("one", "files/a")
            leaves = site.scene.running["one"].leaves
            leaves[1] = encode_record(replace(parse_record(leaves[1]), **changed))  # type: ignore[arg-type]
    return site


def small(tmp_path: Path, **changed: object) -> list[str]:
    """What is left of it; the arguments of the export."""
    leave(small_site(**changed), tmp_path)
    return [
        "export", str(tmp_path / "enforcer"), "--log", str(tmp_path / "log"), "--trust", str(tmp_path / "trust"), "--agent", AGENT,
        "--from", str_of(NOW + 60), "--to", str_of(NOW + 150), "--range", str(tmp_path / "range"), "--json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "changed, code",
    [
        ({}, None),
        ({"resource": "secrets/a"}, "decision-mismatch"),
        ({"token": None}, "decision-mismatch"),
        ({"decided_at": NOW + 300}, "record-time"),
    ],
)
def test_a_record_of_the_range_is_within_its_token_and_its_checkpoints(
    changed: dict[str, object], code: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, answer = said(small(tmp_path, **changed), capsys)
    assert status == (1 if code else 0)
    assert code is None or code in {one["code"] for one in answer["reasons"]}


def test_a_host_that_calls_an_instance_another_agents_does_not_hide_its_permits(tmp_path: Path) -> None:
    """The opening of a log is the host's word, and the token the verifier's."""
    site = Site(Scene())
    one = site.scene.launch("one")
    opening = parse_record(one.opening)
    assert isinstance(opening, Opening)
    opening = replace(opening, agent=AGENT.replace("reporter", "other"))
    one.leaves.append(encode_record(opening))
    for _ in range(20):
        site.renew("one")
    leave(site, tmp_path)
    arguments = ["--log", str(tmp_path / "log"), "--trust", str(tmp_path / "trust"), "--agent", AGENT, "--range", str(tmp_path / "range")]
    assert main(["export", str(tmp_path / "enforcer"), *arguments, "--from", str_of(NOW + 60), "--to", str_of(NOW + 150)]) == 1
    bundle = parse_range_bundle((tmp_path / "range").read_bytes())
    shown = Stranger(ONE, None, ProvenLeaf(encode_record(opening), 0, 1, ()))
    lie = replace(bundle, logs=(), strangers=(shown,))
    found = prove_range(lie, parse_trust((tmp_path / "trust").read_bytes())).reasons
    assert [reason.code for reason in found] == ["range-gap"]


# --- the format -----------------------------------------------------------------------------------------------------------------


def test_a_range_bundle_is_told_by_its_first_bytes_and_has_one_spelling() -> None:
    data = encode_range_bundle(honest())
    assert is_range_bundle(data)
    assert parse_range_bundle(data) == honest()
    small = replace(honest(), entries=honest().entries[:1], logs=(), tokens=(), policies=())
    assert_parser_is_total(parse_range_bundle, encode_range_bundle(small), flips=400)


@pytest.mark.parametrize("missing", ["--agent", "--log", "--trust"])
def test_a_range_takes_agent_log_and_trust_file(missing: str, tmp_path: Path) -> None:
    arguments = place(tmp_path)
    at = arguments.index(missing)
    assert main(arguments[:at] + arguments[at + 2 :]) == 2


@pytest.mark.parametrize("size", [1, 2, 5, 8, 13])
def test_a_range_leads_to_the_root_and_no_other_does(size: int) -> None:
    hashes = [leaf_hash(bytes([at])) for at in range(size)]
    for first in range(size):
        for end in range(first + 1, size + 1):
            proof = tuple(root(hashes[start:stop]) for start, stop in beside(first, end, size))
            assert root_from_range(hashes[first:end], first, size, proof) == root(hashes)
            assert root_from_range(hashes[first:end], first + 1, size, proof) != root(hashes)
            assert root_from_range(hashes[first:end], first, size, (*proof, bytes(32))) is None
            assert root_from_range(hashes[first : end - 1], first, size, proof) != root(hashes)
            if end == first + 1:
                assert sorted(proof) == sorted(inclusion_proof(hashes, first)), "of one leaf it is its inclusion proof"
    assert root_from_range([], 0, size, ()) is None


def test_what_stands_against_another_tenants_instance_is_no_finding_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = told().site
    entries = list(site.entries)
    at = [index for index, entry in enumerate(entries) if isinstance(entry, AttestDecision)][-12]
    one = entries[at]
    assert isinstance(one, AttestDecision)
    fork = Reason("action-log-inconsistent", "x", "a", "b")
    evil = replace(one.outcomes[0], instance=sixteen("evil"), claims=None, reasons=(fork,))
    entries.insert(at + 1, replace(one, host="host-evil", namespace="evil", nonce=bytes(range(32)), outcomes=(evil,)))
    status, found = said(place(tmp_path, log=site.log([sign_entry(entry) for entry in entries])), capsys)
    assert (status, found["reasons"]) == (0, [])


# --- another host under the same id ---------------------------------------------------------------------------------------------


def last_of(instance: bytes) -> tuple[int, bytes]:
    """What was carried last of it, as far as the range's entries go."""
    parsed = (parse_entry(parse_sign1(entry).payload or b"") for entry in honest().entries)
    outcomes = (one for entry in parsed if isinstance(entry, AttestDecision) for one in entry.outcomes)
    return [(one.log_size, one.log_root) for one in outcomes if one.instance == instance][-1]


def twin(
    instance: bytes, *, namespace: str = "billing", agent: str | None = None, at: int = 12, size: int | None = 5
) -> tuple[WorldLog, str]:
    """The log, in which another host carries what it likes under the id of `instance`, `at` attestations before the last (size None: what
    the instance itself carries last, as the log tells everybody); and the token that it gets for it where it is of an `agent`."""
    entries = list(told().site.entries)
    place = [index for index, entry in enumerate(entries) if isinstance(entry, AttestDecision)][-at]
    one = entries[place]
    assert isinstance(one, AttestDecision)
    claims = parse_token(told().archive.tokens[0]).claims
    name = replace(claims.agent, namespace=namespace, name=agent or "other")
    claims = replace(claims, host="host-2", instance=instance, agent=name, token_id="twin-" + claims.token_id)
    said = None if agent is None else Digest.of(encode_claims(claims))
    reasons = (Reason("component-mismatch", "x", "a", "b"),) if agent is None else ()
    size, carried = last_of(instance) if size is None else (size, bytes(32))
    outcome = replace(one.outcomes[0], instance=instance, claims=said, reasons=reasons, log_size=size, log_root=carried)
    entries.insert(place, replace(one, host="host-2", namespace=namespace, nonce=bytes(range(32)), outcomes=(outcome,)))
    return told().site.log([sign_entry(entry) for entry in entries]), sign_token(claims)


FOREIGN: dict[str, dict[str, Any]] = {
    "of another tenant": {"namespace": "evil"},
    "of another tenant, before any of the instance's own": {"namespace": "evil", "at": 30},
    "of another tenant, with a token": {"namespace": "evil", "agent": "reporter"},
    "of another tenant, with no record": {"namespace": "evil", "size": 0},
    "of the same namespace, without a token": {},
    "of the same namespace, without a token, before any of the instance's own": {"at": 30},
    "of the same namespace, without a token, a copy": {"at": 30, "size": None},
    "of the same namespace, with the token of another agent": {"agent": "other"},
    "of the same namespace, with the token of another agent, a copy": {"agent": "other", "at": 30, "size": None},
}


@pytest.mark.parametrize("instance", [ONE, THREE], ids=["one of the agent's", "one of another's"])
@pytest.mark.parametrize("who", FOREIGN)
def test_a_host_that_carries_what_it_likes_under_an_instances_id_spoils_no_range(
    who: str, instance: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, token = twin(instance, **FOREIGN[who])
    archive = replace(told().archive, tokens=tuple(sorted((*told().archive.tokens, token))))
    code, answer = said(place(tmp_path, archive=archive, log=log), capsys)
    assert (code, answer["reasons"]) == (0, [])
    assert sum(len(one["records"]) for one in answer["logs"]) == IN_RANGE
    assert {one["host"] for one in answer["logs"]} == {"host-1"}


@pytest.mark.parametrize("other", [None, "other"], ids=["without a token", "with the token of another agent"])
def test_a_copy_of_all_that_an_instance_carried_is_not_taken_for_it(
    other: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a log that began in the range there is nothing more to copy than one root, and the copy may come first."""
    arguments = small(tmp_path)
    site = small_site()
    first, last = (list(site.attestations())[at] for at in (0, -1))
    claims = replace(parse_token(site.tokens[0]).claims, host="host-2", token_id="twin-token-of-host-2")
    claims = replace(claims, agent=replace(claims.agent, name="other"))
    reasons = () if other else (Reason("component-mismatch", "x", "a", "b"),)
    outcome = replace(last.outcomes[0], claims=Digest.of(encode_claims(claims)) if other else None, reasons=reasons)
    site.entries.insert(site.entries.index(first), replace(first, host="host-2", nonce=bytes(32), outcomes=(outcome,)))
    site.tokens.append(sign_token(claims))
    leave(site, tmp_path)
    code, answer = said(arguments, capsys)
    assert (code, answer["reasons"], [one["host"] for one in answer["logs"]]) == (0, [], ["host-1"])


def test_an_archive_with_another_log_under_an_instances_id_spoils_no_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, _ = twin(ONE)
    arguments = place(tmp_path, log=log)
    longer = (*(sixteen(str(at)) for at in range(500)),)
    put(tmp_path / "other", encode_archive(replace(EMPTY, logs=(InstanceLog(ONE, longer),))))
    code, answer = said([arguments[0], str(tmp_path / "other"), *arguments[1:]], capsys)
    assert (code, answer["reasons"]) == (0, [])


@pytest.mark.parametrize("at", [12, 30])
@pytest.mark.parametrize("agent, known", [("reporter", True), ("reporter", False), ("other", False)])
def test_a_token_for_the_same_instance_on_another_host_is_a_fork_unless_it_is_shown_to_be_another_agents(
    agent: str, known: bool, at: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it permitted there is nowhere in the log that is here."""
    log, token = twin(ONE, agent=agent, at=at)
    tokens = (*told().archive.tokens, *((token,) if known else ()))
    code, answer = said(place(tmp_path, archive=replace(told().archive, tokens=tuple(sorted(tokens))), log=log), capsys)
    assert (code, [(one["code"], one["claim"]) for one in answer["reasons"]]) == (
        1, [("action-log-forked", f"instance {ONE.hex()} of host-2")],
    )  # fmt: skip


def test_of_an_instance_that_was_refused_all_along_each_log_is_needed() -> None:
    """It is clear to nobody whose it is: not by the opening of another host that was refused as well, which is that host's word."""
    named = parse_record(told().site.scene.running["one"].opening)
    opening = encode_record(replace(named, instance=FOUR, agent=AGENT + "2"))  # type: ignore[arg-type]  # an opening
    log, _ = twin(FOUR)
    at = next(index for index, entry in enumerate(log.entries) if b"host-2" in entry)
    one = parse_entry(parse_sign1(log.entries[at]).payload or b"")
    assert isinstance(one, AttestDecision)
    shown = replace(one.outcomes[0], log_size=1, log_root=leaf_hash(opening))
    log = log.with_entry(at + 1, sign_entry(replace(one, host="host-3", nonce=bytes(32), outcomes=(shown,))))
    archives = [told().archive, replace(EMPTY, logs=(InstanceLog(FOUR, (opening,)),))]
    bundle = Ranges(archives, tuple(log.entries[256:])).bundle(AGENT, EARLIEST, LATEST, stretch_of(log))
    assert {one.instance for one in bundle.strangers} == {THREE, FOUR}
    gaps = {one.claim for one in prove_range(bundle, auditors_trust(log)).reasons if one.code == "range-gap"}
    assert gaps == {f"instance {FOUR.hex()} of host-2"}


def test_claims_of_an_instance_elsewhere_do_not_make_one_here_a_stranger() -> None:
    log, token = twin(TWO, agent="other")
    bundle = logless(honest(), TWO)
    elsewhere = Stranger(TWO, encode_claims(parse_token(token).claims), None)
    found = Ranges([told().archive], tuple(log.entries[256:])).bundle(AGENT, EARLIEST, LATEST, stretch_of(log))
    lie = replace(logless(found, TWO), strangers=(*bundle.strangers, elsewhere))
    assert [(one.code, one.claim) for one in prove_range(lie, auditors_trust(log)).reasons] == [
        ("range-gap", f"instance {TWO.hex()} of host-1")
    ]


def stretch_of(log: WorldLog) -> Stretch:
    """All entries but the first bundle's."""
    hashes = [leaf_hash(entry) for entry in log.entries]
    proof = tuple(root(hashes[start:end]) for start, end in beside(256, len(hashes), len(hashes)))
    return Stretch(encode_note(log.note()), 256, tuple(log.entries[256:]), proof)


def test_a_range_without_an_end_is_said_and_one_before_the_first_second_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = place(tmp_path)
    (tmp_path / "endless").write_bytes(encode_range_bundle(replace(honest(), latest=1 << 38)))
    assert main(["verify", str(tmp_path / "endless"), "--trust", str(tmp_path / "trust")]) == 3
    assert "to ever" in capsys.readouterr().out
    arguments[arguments.index("--from") + 1] = "1960-01-01T00:00:00Z"
    assert main(arguments) == 2
    assert "1970" in capsys.readouterr().out


@pytest.mark.parametrize("json_too", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("cut", ["range", "junk"])
def test_what_is_no_bundle_is_misuse_in_text_and_as_json(cut: str, json_too: list[str], tmp_path: Path) -> None:
    place(tmp_path)
    (tmp_path / "x").write_bytes(encode_range_bundle(honest())[:-1] if cut == "range" else b"junk")
    assert main(["verify", str(tmp_path / "x"), "--trust", str(tmp_path / "trust"), *json_too]) == 2


def test_an_instance_that_got_a_token_and_carried_nothing_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its token was in the log before it was given out, and what it did under it nobody can say."""
    site = Site(Scene())
    site.scene.launch("one")
    site.renew("one")
    site.scene.launch("two")
    for _ in range(25):
        site.renew("two")
    leave(site, tmp_path)
    arguments = ["--log", str(tmp_path / "log"), "--trust", str(tmp_path / "trust"), "--agent", AGENT, "--range", str(tmp_path / "range")]
    window = ["--from", str_of(NOW + 20), "--to", str_of(NOW + 60), "--json"]

    code, answer = said(["export", str(tmp_path / "enforcer"), *arguments, *window], capsys)

    assert code == 0
    assert {log["instance"]: log["open_since"] is None for log in answer["logs"]} == {ONE.hex(): False, TWO.hex(): True}

    leave(site, tmp_path, archive=replace(site.archive(), tokens=()))
    code, answer = said(["export", str(tmp_path / "enforcer"), *arguments, *window], capsys)
    assert (code, {one["code"] for one in answer["reasons"]}) == (1, {"range-gap"}), "without its token nobody can say whose it is"


def test_a_log_that_took_a_lost_ones_place_is_silent_about_the_time_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = Site(Scene())
    begun = site.scene.enrol_entry.decided_at
    last = Digest.of(b"its last checkpoint")
    site.entries.insert(0, OperatorAct(ENGINE_ID.digest, begun, DOMAIN, "init", "log-succeed", "lost.example.org/log", last))
    site.scene.launch("one")
    for _ in range(30):
        site.renew("one")
        site.act("one", "files/a")
    leave(site, tmp_path)

    def exported(earliest: int) -> tuple[int, set[str]]:
        arguments = [
            "export", str(tmp_path / "enforcer"), "--log", str(tmp_path / "log"), "--trust", str(tmp_path / "trust"), "--agent", AGENT,
            "--from", str_of(earliest), "--to", str_of(NOW + 500), "--range", str(tmp_path / "range"), "--json",
        ]  # fmt: skip
        code, told = said(arguments, capsys)
        (tmp_path / "range").unlink(missing_ok=True)
        return code, {reason["got"] for reason in told["reasons"]}

    code, got = exported(begun - 3600)
    assert (code, got) == (1, {f"from {begun} on, after the lost log lost.example.org/log"})
    assert exported(begun + 400) == (0, set())
    assert main(["log", "verify", str(tmp_path / "log"), "--trust", str(tmp_path / "trust"), "--explain"]) == 0
    assert "succession: it was begun after lost.example.org/log was lost" in capsys.readouterr().out


def test_export_asks_for_a_time_and_an_agent_that_are_ones_before_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = place(tmp_path)
    swapped, other = list(arguments), list(arguments)
    swapped[swapped.index("--to") + 1] = str_of(EARLIEST - 1)
    other[other.index(AGENT)] = "reporter"
    for wrong in (swapped, other):
        assert main(wrong) == 2
        assert not (tmp_path / "range").exists()
    plain = [*arguments[:2], "--agent", "spiffe://example.org/billing/agent/nobody", "--out", str(tmp_path / "out")]
    capsys.readouterr()
    assert main(plain) == 1
    assert "nothing in the archives was asked for" in capsys.readouterr().err
