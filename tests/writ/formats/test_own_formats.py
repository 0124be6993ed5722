"""What every format of ours owes: a round trip, one spelling, a version, no key more or less, and an answer to any bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from tests.world.specimens import Specimen, specimens
from tests.writ.formats import strategies as s
from writ.formats.archive import encode_archive, parse_archive
from writ.formats.decision import encode_entry, parse_entry
from writ.formats.delegation import encode_delegation, parse_delegation
from writ.formats.eat import encode_claims, parse_claims
from writ.formats.enrolment import encode_enrolment_evidence, parse_enrolment_evidence
from writ.formats.errors import FormatError
from writ.formats.evidence import encode_evidence, parse_evidence
from writ.formats.exchange import EXCHANGE
from writ.formats.exchange_token import encode_exchange_claims, parse_exchange_claims
from writ.formats.lease import encode_lease, encode_lease_approval, encode_lease_keys, parse_lease, parse_lease_approval, parse_lease_keys
from writ.formats.local import LOCAL
from writ.formats.measurement import encode_measurement, parse_measurement
from writ.formats.policy_bundle import encode_bundle, parse_bundle
from writ.formats.proof_bundle import encode_proof_bundle, parse_proof, parse_proof_bundle
from writ.formats.proposal import encode_proposal, parse_proposal
from writ.formats.record import encode_record, parse_record
from writ.formats.rerun import encode_made, encode_rerun, parse_made, parse_rerun
from writ.formats.state import encode_host_record, encode_host_state, parse_host_record, parse_host_state
from writ.formats.strict import decode_cbor, decode_json, encode_cbor, encode_json
from writ.formats.trust import encode_trust, parse_trust

FORMATS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], bytes], Callable[[bytes], Any]]] = {
    "evidence": (s.EVIDENCE, encode_evidence, parse_evidence),
    "host record": (s.HOST_RECORD, encode_host_record, parse_host_record),
    "host state": (s.HOST_STATE, encode_host_state, parse_host_state),
    "claims": (s.CLAIMS, encode_claims, parse_claims),
    "decision": (s.ENTRY, encode_entry, parse_entry),
    "exchange claims": (s.EXCHANGE_CLAIMS, encode_exchange_claims, parse_exchange_claims),
    "record": (s.RECORD, encode_record, parse_record),
    "lease keys": (s.LEASE_KEYS, encode_lease_keys, parse_lease_keys),
    "lease-approval": (s.APPROVAL, encode_lease_approval, parse_lease_approval),
    "lease": (s.LEASE, encode_lease, parse_lease),
    "policy": (s.BUNDLE, encode_bundle, parse_bundle),
    "delegation": (s.DELEGATION, encode_delegation, parse_delegation),
    "proposal": (s.PROPOSAL, encode_proposal, parse_proposal),
    "trust": (s.TRUST, encode_trust, parse_trust),
    "measurement": (s.MEASUREMENT, encode_measurement, parse_measurement),
    "enrolment": (s.ENROLMENT, encode_enrolment_evidence, parse_enrolment_evidence),
    "proof": (s.PROOF, encode_proof_bundle, parse_proof_bundle),
    "token-proof": (s.TOKEN_PROOF, encode_proof_bundle, parse_proof),
    "archive": (s.ARCHIVE, encode_archive, parse_archive),
    "rerun": (s.RERUN, encode_rerun, parse_rerun),
    "made": (s.MADE, encode_made, parse_made),
    "exchange": (s.EXCHANGE, EXCHANGE.encode, EXCHANGE.parse),
    "local": (s.LOCAL, LOCAL.encode, LOCAL.parse),
}
SPECIMENS = specimens()
ARRAYS = sorted(
    {"log-opening", "action-record", "action-record-denied", "outcome-record"}
    | {
        "genesis",
        "attest-decision",
        "attest-decision-anchors",
        "enrol-decision",
        "exchange-decision",
        "exchange-decision-refused",
        "operator-act",
    }
)
"""Formats that are one array, its first item its kind."""
COLLECTIONS = {"evidence", "evidence-anchors", "evidence-logs", "evidence-lease-keys", "proof-bundle"}
FLAT = sorted({name for name in SPECIMENS if not name.startswith("tlog-")} - {*COLLECTIONS, *ARRAYS})
"""Formats that are one map; evidence is a collection of maps, spoilt below, and so is a proof bundle (`test_proof_bundle.py`); what a log
says are texts and arrays, whose tests are in `tlog/`."""
SIGNED_TEXTS = {"tlog-checkpoint", "tlog-proof", "tlog-add-checkpoint", "tlog-cosignatures"}
"""Any number of signatures may stand below."""
OPTIONAL = {"token-claims-leased": {"lease"}, "host-state-anchors": {"anchors"}, "local-token-ask-anchored": {"anchored"}}
"""Keys that may be left out."""


@pytest.mark.parametrize("name", FORMATS)
def test_value_comes_back_as_it_was_and_has_one_spelling(name: str) -> None:
    values, encode, parse = FORMATS[name]

    @settings(max_examples=60)
    @given(values)
    def check(value: Any) -> None:
        data = encode(value)
        assert parse(data) == value
        assert encode(parse(data)) == data

    check()


@pytest.mark.parametrize("name", SPECIMENS)
def test_parser_answers_any_bytes(name: str) -> None:
    specimen = SPECIMENS[name]
    assert specimen.parse(specimen.data) == specimen.value
    assert_parser_is_total(specimen.parse, specimen.data, flips=300, open_ended=name in SIGNED_TEXTS)


def opened(specimen: Specimen) -> tuple[dict[Any, Any], Callable[[Any], bytes]]:
    """The map behind a specimen, and how such a map is spelt."""
    if specimen.data.startswith(b"{"):
        return decode_json(specimen.data, "specimen"), encode_json
    return decode_cbor(specimen.data, "specimen", max_size=1 << 25), encode_cbor


@pytest.mark.parametrize("name", FLAT)
def test_map_with_a_key_more_or_less_is_refused(name: str) -> None:
    specimen = SPECIMENS[name]
    value, spell = opened(specimen)
    assert spell(value) == specimen.data
    for key in value.keys() - OPTIONAL.get(name, set()):
        with pytest.raises(FormatError):
            specimen.parse(spell({k: v for k, v in value.items() if k != key}))
    with pytest.raises(FormatError):
        specimen.parse(spell({**value, "zz": 1}))


COMMON: tuple[Any, ...] = (-1, True, "\x07", [[]], {"x": 1}, [1])
WRONG: tuple[tuple[Any, ...], ...] = ((*COMMON, b"\xff", {1: 1, "a": 2}), (*COMMON, "", {}))
"""For CBOR and for JSON."""


@pytest.mark.parametrize("name", FLAT)
def test_value_of_another_type_is_refused_under_every_key(name: str) -> None:
    specimen = SPECIMENS[name]
    value, spell = opened(specimen)
    for key, right in value.items():
        for wrong in WRONG[spell is encode_json]:
            if wrong == right:
                continue
            try:
                parsed = specimen.parse(spell({**value, key: wrong}))
            except FormatError:
                continue
            assert specimen.encode(parsed) == spell({**value, key: wrong}), key


@pytest.mark.parametrize("name", ARRAYS)
def test_array_with_an_item_more_less_or_of_another_type_is_refused(name: str) -> None:
    specimen = SPECIMENS[name]
    items = decode_cbor(specimen.data, "specimen")
    others = [items[:-1], [*items, None], [99, *items[1:]], []]
    others += [[*items[:at], wrong, *items[at + 1 :]] for at, right in enumerate(items) for wrong in WRONG[0] if wrong != right]
    for other in others:
        try:
            parsed = specimen.parse(encode_cbor(other))
        except FormatError:
            continue
        assert specimen.encode(parsed) == encode_cbor(other), "another value, and no other spelling"
        assert [type(item) for item in other] == [type(item) for item in items] or None in items


@pytest.mark.parametrize("name", [n for n in FLAT if not n.startswith(("token-claims", "exchange-claims"))])
@pytest.mark.parametrize("version", [0, 2, 99])
def test_version_that_is_not_ours_is_refused(name: str, version: int) -> None:
    value, spell = opened(SPECIMENS[name])
    with pytest.raises(FormatError, match="version 1"):
        SPECIMENS[name].parse(spell({**value, "v": version}))


@pytest.mark.parametrize("name", [n for n in FLAT if "kind" in opened(SPECIMENS[n])[0]])
def test_kind_that_is_not_ours_is_refused(name: str) -> None:
    value, spell = opened(SPECIMENS[name])
    with pytest.raises(FormatError):
        SPECIMENS[name].parse(spell({**value, "kind": "other"}))


def test_host_record_says_that_revocation_was_checked_or_nothing() -> None:
    """One spelling, and the one of records from before: what nobody said is not known."""
    record = replace(SPECIMENS["host-record"].value, revocation_checked=True)
    data = encode_host_record(record)
    assert parse_host_record(data) == record
    plain = encode_host_record(replace(record, revocation_checked=False))
    assert b"revocation_checked" not in plain
    assert not parse_host_record(plain).revocation_checked
    with pytest.raises(FormatError, match="revocation_checked: expected true, or nothing"):
        parse_host_record(encode_cbor(decode_cbor(data, "record") | {"revocation_checked": False}))
