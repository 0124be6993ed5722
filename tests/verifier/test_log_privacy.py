"""I9: the log is public, and what it says of TPMs and secrets is nothing.

Arguments of actions never come to the verifier: of them its log has the roots of the hosts' logs, whose leaves hold salted commitments.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from hashlib import sha256
from typing import get_args

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.world.chip import Chip
from tests.world.host import RefusedByVerifier
from tests.world.verifier import RunningVerifier
from verifier.ledger.schema import AdmissionRow
from verifier.ledger.translog import tile_of
from writ.formats.corim import Corim, encode_corim
from writ.formats.cose import parse_sign1
from writ.formats.decision import AttestDecision, Entry, OperatorAct, parse_entry
from writ.formats.digest import Digest
from writ.formats.record import commit
from writ.formats.tlog import merkle
from writ.formats.tlog.checkpoint import parse_signed_checkpoint
from writ.formats.tlog.tile import ENTRIES, bundles_of, parse_bundle

ELSEWHERE = "https://vault.example.org"
PERMIT = '@id("any") permit(principal, action == Writ::Action::"token.exchange", resource);'


def spki(chip: Chip) -> bytes:
    return chip.ek.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def spellings(secret: bytes) -> Iterator[bytes]:
    """A secret as an entry could hold it: raw, hex, base64, and its SHA-256 in each of them."""
    for data in (secret, sha256(secret).digest()):
        yield data
        yield data.hex().encode()
        yield base64.b64encode(data).rstrip(b"=")
        yield base64.urlsafe_b64encode(data).rstrip(b"=")


def read(entry: bytes) -> Entry:
    return parse_entry(parse_sign1(entry).payload or b"")


def texts(value: object) -> Iterator[str]:
    """Every text in an entry, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for one in value:
            yield from texts(one)
    elif is_dataclass(value):
        for field in fields(value):
            yield from texts(getattr(value, field.name))


def published(verifier: RunningVerifier) -> list[bytes]:
    """Every entry as anybody gets it: out of the bundles, without a credential."""
    log = verifier.made.parts.translog
    assert log is not None
    size = parse_signed_checkpoint(log.checkpoint).checkpoint.size
    tables = verifier.made.ledger.read()
    found: list[bytes] = []
    for tile in bundles_of(size):
        assert tile.level == ENTRIES
        found += parse_bundle(tile_of(tables, tile) or b"", tile.width)
    assert len(found) == size
    return found


def test_i9_no_entry_of_any_kind_holds_an_ek_a_query_or_a_secret(verifier: RunningVerifier) -> None:
    client = verifier.client
    verifier.publish(PERMIT)
    known, plain = Chip(seed="known"), Chip(seed="plain")
    ticket = verifier.admit("h1")
    ticketed, listed = verifier.stranger("h1", plain), verifier.stranger("h2", known)
    client.post("/v1/hosts", {"host": "h2", "ek": str(Digest.of(spki(known)))})
    for host, shown in ((ticketed, ticket), (listed, None)):
        host.enrol(shown)
        host.govern()
        host.launch("one", grants=(("token.exchange", ELSEWHERE),))
    verifier.approve(ticketed)
    listed.launch("two", prompt=b"something else", agent="scribe")
    verifier.approve(listed)
    listed.launch("three", prompt=b"not approved", agent="scribe")
    assert [one.token is None for one in listed.attest("three", "one").answers] == [True, False]
    tokens = [host.attest("one").answers[0].token or "" for host in (ticketed, listed)]
    requests = [ticketed.exchange_request("one", tokens[0], audience) for audience in (ELSEWHERE, "https://other.example.org")]
    given = ticketed.exchange(requests[0]).token
    with pytest.raises(RefusedByVerifier, match="grant-missing"):
        ticketed.exchange(requests[1])
    made = client.post("/v1/api-keys", {"namespace": "default", "role": "reader", "label": "someone by name"})
    client.post("/v1/keys/rotate", {})
    client.post("/v1/revocations", {"kind": "instance", "subject": listed.instances["one"].instance.hex()})
    for act in ("replace", "retire"):
        client.post(f"/v1/hosts/h2/{act}", {})
    entries = published(verifier)
    decisions = [read(entry) for entry in entries]
    assert {type(one) for one in decisions} == set(get_args(Entry)), "of every kind there is one"
    secrets = {f"{name} EK": spki(chip) for name, chip in (("known", known), ("plain", plain))}
    secrets |= {f"EK area {chip.seed}": chip.ek.raw for chip in (known, plain)}
    secrets |= {f"certificate {chip.seed}": chip.ek_certificates[0] for chip in (known, plain)}
    secrets |= {f"token {at}": token.encode() for at, token in enumerate((*tokens, given, ticket, str(made["key"])))}
    secrets |= {f"proof {at}": one.proof.encode() for at, one in enumerate(requests)}
    secrets["label"] = b"someone by name"
    log = b"\0".join(entries)
    for name, secret in secrets.items():
        for said in spellings(secret):
            assert said not in log, name
    assert b"?" not in b"".join(text.encode() for one in decisions for text in texts(one)), "no query in the clear"


def test_i9_ek_by_which_a_host_was_admitted_is_committed_to_under_a_salt(verifier: RunningVerifier) -> None:
    ek = Digest.of(spki(Chip(seed="known")))
    for host in ("h1", "h2"):
        verifier.client.post("/v1/hosts", {"host": host, "ek": str(ek)})
    verifier.admit("h3")
    acts = {one.subject: one for one in map(read, published(verifier)) if isinstance(one, OperatorAct) and one.act == "host-admit"}
    rows = {row.host: row for row in verifier.made.ledger.read().select(AdmissionRow)}
    for host in ("h1", "h2"):
        assert acts[host].detail == Digest("sha256", commit(rows[host].id, ek.value)), "who holds the row can show which"
    assert acts["h1"].detail != acts["h2"].detail, "nobody sees that it is the same"
    assert acts["h3"].detail is None


def test_i9_exchange_for_an_audience_with_a_query_is_refused_before_anything_is_recorded(verifier: RunningVerifier) -> None:
    verifier.publish(PERMIT)
    host = verifier.host("h1")
    host.launch("one", grants=(("token.exchange", f"{ELSEWHERE}/*"),))
    verifier.approve(host)
    token = host.attest("one").answers[0].token or ""
    before = published(verifier)
    for more in ("/a?password=1", "/a#1"):
        with pytest.raises(RefusedByVerifier) as refused:
            host.exchange(host.exchange_request("one", token, ELSEWHERE + more))
        assert refused.value.codes == ["malformed"]
        assert "password" not in str(refused.value.problem)
    assert published(verifier) == before


def test_i9_file_that_was_refused_is_named_to_its_host_and_the_operator_and_not_in_the_log(verifier: RunningVerifier) -> None:
    host = verifier.host("h1")
    host.boot()
    host.measure(sh=Digest.of(b"shell"))
    host.launch("one")
    verifier.approve(host)
    shell = Corim("shell", "default", "files/os", (("/usr/bin/sh", Digest.of(b"shell")),))
    verifier.client.post("/v1/references", {"corims": [base64.b64encode(encode_corim(shell)).decode()]})
    host.attest("one")
    host.listed = 0
    host.measure(**{"ada-lovelace-diary": Digest.of(b"dear diary")})
    answer = host.attest("one")
    named = "ima./usr/bin/ada-lovelace-diary"
    assert named in {reason.claim for reason in answer.reasons}, "who has the file is told which"

    entries = published(verifier)
    assert answer.decision in entries
    for spelling in spellings(b"ada-lovelace-diary"), spellings(b"/usr/bin/ada-lovelace-diary"), spellings(named.encode()):
        for one in spelling:
            assert not any(one in entry for entry in entries)
    decision = read(answer.decision)
    assert isinstance(decision, AttestDecision)
    (public,) = (reason for reason in decision.reasons if reason.code == "file-unknown")
    assert (public.claim, public.got) == ("ima.file", str(Digest.of(b"dear diary"))), "code and digest stay"

    reference = merkle.leaf_hash(answer.decision).hex()
    why = verifier.client.get(f"/v1/decisions/{reference}")
    assert named in {reason["claim"] for reason in why["reasons"]}
    assert "ima.file" not in {reason["claim"] for reason in why["reasons"]}
    shown = verifier.client.get("/v1/hosts/h1")
    assert named in {reason["claim"] for reason in shown["reasons"]}
    exempt = {"reference": reference[:16], "component": named, "life": 3600, "why": "a diary"}
    assert verifier.client.post("/v1/exemptions", exempt)["exemption"]["claim"] == named
