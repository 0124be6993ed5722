"""The rules of single formats of ours that no round trip shows: bounds, orders, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from tests.parsers import assert_parser_is_total
from tests.world.scene import ENGINE_ID, measurement, signer, sixteen
from tests.world.specimens import REASONS, specimens
from tests.world.tlog import MemoryLog
from writ.formats import evidence as evidence_format
from writ.formats.action import Action
from writ.formats.archive import EMPTY, Archive, InstanceLog, Placed, encode_archive, parse_archive
from writ.formats.cmw import encode_collection
from writ.formats.decision import parse_entry
from writ.formats.digest import Digest
from writ.formats.eat import encode_claims, parse_claims
from writ.formats.engine import EngineId, encode_engine, parse_engine
from writ.formats.errors import FormatError, Misuse
from writ.formats.evidence import encode_evidence, parse_evidence
from writ.formats.exchange import EXCHANGE, NonceAnswer
from writ.formats.forward import Forward
from writ.formats.local import LOCAL, Done
from writ.formats.measurement import ComponentRoot, Governance, Measurement, encode_governance, encode_measurement, parse_measured
from writ.formats.ocsp import MAX_OCSP
from writ.formats.policy_bundle import PolicySettings, parse_bundle
from writ.formats.record import commit, parse_preimage, parse_record, preimage_of
from writ.formats.secret import Secret
from writ.formats.state import clean_runtime, parse_host_state
from writ.formats.strict import decode_cbor, encode_cbor
from writ.formats.tlog.note import COSIGNATURE, PLAIN, NoteKey
from writ.formats.tlog.proof import encode_tlog_proof
from writ.formats.trust import MOST_LOG_KEYS, MOST_OCSP, ManufacturerRoot, encode_trust, parse_trust

SPECIMENS = specimens()


def map_of(name: str) -> Any:
    return decode_cbor(SPECIMENS[name].data, name, max_size=1 << 25)


def refused(name: str, **changed: Any) -> FormatError:
    with pytest.raises(FormatError) as caught:
        SPECIMENS[name].parse(encode_cbor({**map_of(name), **changed}))
    return caught.value


def misspelt(name: str, at: int, value: Any) -> FormatError:
    """The refusal of an array with another item at that place."""
    items = map_of(name)
    with pytest.raises(FormatError) as caught:
        SPECIMENS[name].parse(encode_cbor([*items[:at], value, *items[at + 1 :]]))
    return caught.value


# --- action


@pytest.mark.parametrize("name", ["tool.call", "a", "a1.b2.c3.d4", "a" * 64])
def test_action_names_are_words_joined_by_dots(name: str) -> None:
    assert Action(name, "r", Digest.of(b"")).name == name


@pytest.mark.parametrize("name", ["", "Tool.call", "tool.", ".call", "a.b.c.d.e", "tool call", "1tool", "a" * 65, "tool.call\n"])
def test_other_action_names_are_refused(name: str) -> None:
    with pytest.raises(FormatError):
        Action(name, "r", Digest.of(b""))


@pytest.mark.parametrize("resource", ["a", "files/a", "https://h.example/a/b", "file:///etc", "/abs", "x" * 512, "a.b/..c"])
def test_resources_that_name_one_thing_are_accepted(resource: str) -> None:
    assert Action("tool.call", resource, Digest.of(b"")).resource == resource


@pytest.mark.parametrize(
    "resource", ["", "x" * 513, "a b", "a\x7f", "\xe9", "a//b", "//a", "https://h//a", "https://", "a/../b", "./a", "..", "a/."]
)
def test_resources_that_could_name_two_things_are_refused(resource: str) -> None:
    with pytest.raises(FormatError):
        Action("tool.call", resource, Digest.of(b""))


def test_commitment_hides_by_its_salt_and_binds_its_content() -> None:
    made = {commit(bytes(32), b"a"), commit(bytes(32), b"b"), commit(b"\1" * 32, b"a")}
    assert len(made) == 3
    assert commit(bytes(32), b"a") in made
    for salt in (b"", bytes(31), bytes(33)):
        with pytest.raises(FormatError):
            commit(salt, b"a")


def test_preimage_of_a_commitment_is_read_as_it_was_hashed_and_no_other_is() -> None:
    salt, content = bytes(range(32)), b"arguments"
    preimage = preimage_of(salt, content)
    assert sha256(preimage).digest() == commit(salt, content)
    assert decode_cbor(preimage, "preimage") == ["writ/commit/v1", salt, Digest.of(content).value]
    assert parse_preimage(preimage) == (salt, Digest.of(content))
    assert_parser_is_total(parse_preimage, preimage)
    for at in set(range(len(preimage))) - {*range(18, 50), *range(52, 84)}:
        with pytest.raises(FormatError):
            parse_preimage(preimage[:at] + bytes([preimage[at] ^ 1]) + preimage[at + 1 :])


@pytest.mark.parametrize(
    "name, at, wrong, expected",
    [
        ("outcome-record", 3, 3, "earlier"),
        ("outcome-record", 4, "done", "a boolean"),
        ("outcome-record", 5, 1 << 31, "32 bits"),
        ("outcome-record", 5, True, "32 bits"),
        ("outcome-record", 7, b"", "32 bytes"),
        ("action-record", 0, 4, "an opening, an action or an outcome"),
        ("action-record", 0, 3, "an opening, an action or an outcome"),
        ("action-record", 0, True, "an opening, an action or an outcome"),
        ("action-record", 3, 2, "earlier"),
        ("action-record", 4, "Not an action", "lower-case"),
        ("action-record", 9, bytes(31), "32 bytes"),
        ("action-record", 13, bytes(24), "25 bytes"),
        ("log-opening", 4, "reporter", "spiffe://"),
        ("log-opening", 3, bytes(15), "16 bytes"),
    ],
)
def test_leaf_that_says_what_none_does_is_refused(name: str, at: int, wrong: object, expected: str) -> None:
    specimen = SPECIMENS[name]
    items = decode_cbor(specimen.encode(specimen.value), "leaf")
    items[at] = wrong
    with pytest.raises(FormatError) as refused:
        parse_record(encode_cbor(items))
    assert expected in refused.value.expected


def test_leaf_is_an_array_of_its_kind_whole() -> None:
    for name in ("action-record", "outcome-record", "log-opening"):
        items = decode_cbor(SPECIMENS[name].encode(SPECIMENS[name].value), "leaf")
        for other in (items[:-1], [*items, None], [], dict(enumerate(items)), items[0]):
            with pytest.raises(FormatError):
                parse_record(encode_cbor(other))


# --- archive

ONE, TWO = InstanceLog(sixteen("one"), (b"a", b"b")), InstanceLog(sixteen("two"), (b"x",))


def test_archives_merge_by_union_and_the_longer_log_wins() -> None:
    left = Archive((b"1",), ("t",), (b"x", b"y"), (ONE,))
    right = Archive((b"0", b"1"), (), (b"y",), tuple(sorted((replace(ONE, leaves=(b"a", b"b", b"c")), TWO), key=lambda log: log.instance)))
    merged = left.merged(right)
    assert merged == right.merged(left) == merged.merged(EMPTY) == EMPTY.merged(merged)
    assert (merged.entries, merged.tokens, merged.objects) == ((b"0", b"1"), ("t",), (b"x", b"y"))
    assert {log.instance: len(log.leaves) for log in merged.logs} == {sixteen("one"): 3, sixteen("two"): 1}
    assert merged.by_digest() == {Digest.of(b"x"): b"x", Digest.of(b"y"): b"y"}


def test_logs_of_one_instance_that_forked_do_not_merge() -> None:
    with pytest.raises(FormatError, match="fork"):
        Archive((), (), (), (ONE,)).merged(Archive((), (), (), (replace(ONE, leaves=(b"a", b"c", b"d")),)))


LOGGED = MemoryLog([b"a", b"b", b"c"])
PLACES = tuple(
    sorted(Placed(LOGGED.leaves[index], at) for index in (1, 2) for at in (LOGGED.receipt(index), encode_tlog_proof(LOGGED.proof(index))))
)


def test_places_merge_by_union_and_are_a_sorted_set_of_what_can_be_read() -> None:
    left, right = replace(EMPTY, places=PLACES[:3]), replace(EMPTY, places=PLACES[2:])
    assert left.merged(right).places == PLACES
    assert "places" not in decode_cbor(encode_archive(EMPTY), "archive")
    leaf, inclusion = PLACES[0].leaf, PLACES[0].inclusion
    for wrong in ([], [[leaf]], [[leaf[1:], inclusion]], [[leaf, inclusion[:-1]]], [[leaf, b"text"]], [[leaf, inclusion]] * 2, [leaf]):
        refused("archive", places=wrong)
    swapped = [[one.leaf, one.inclusion] for one in reversed(PLACES)]
    refused("archive", places=swapped)


def test_archive_holds_sorted_sets() -> None:
    leaf = [sixteen("one"), [b"a"]]
    for changed in (
        {"entries": [b"b", b"a"]}, {"objects": [b"a", b"a"]}, {"tokens": [b"t"]}, {"logs": [leaf, leaf]}, {"logs": [[b"short", []]]},
        {"logs": [[sixteen("one"), ["text"]]]}, {"logs": [[sixteen("one"), [bytes(65536)]]]}, {"logs": [[sixteen("one")]]}, {"logs": [1]},
    ):  # fmt: skip
        refused("archive", **changed)
    whole = encode_cbor({"v": 1, "entries": [], "tokens": [], "objects": [], "logs": [[sixteen("one"), [bytes(65535)]]]})
    assert len(parse_archive(whole).logs) == 1


# --- decision, engine, reasons


def test_decision_is_refused_by_what_is_wrong_in_it() -> None:
    parse_entry(SPECIMENS["attest-decision"].data)
    outcome = map_of("attest-decision")[11][0]
    assert "policy" in misspelt("attest-decision", 7, [bytes(32)] * 4).expected
    for at, value in ((0, 5), (0, True), (2, {"number": 1}), (3, "Host"), (5, b""), (7, [b""] * 5), (7, 1), (8, "uri"), (13, 0)):
        misspelt("attest-decision", at, value)
    assert misspelt("attest-decision", 12, [r.to_cbor() for r in REASONS[::-1]]).expected == "a sorted set"
    assert misspelt("attest-decision", 12, [REASONS[0].to_cbor()] * 2).expected == "a sorted set"
    assert misspelt("attest-decision", 13, [[sixteen("one"), 1]] * 2).expected == "instances sorted, each once"
    for at, value in ((0, b""), (1, "short"), (1, "x" * 65), (2, -1), (3, b""), (4, -1), (5, bytes(31)), (6, 1)):
        misspelt("attest-decision", 11, [[*outcome[:at], value, *outcome[at + 1 :]]])
    for wrong in (1, outcome[:-1], [*outcome, 1]):
        misspelt("attest-decision", 11, [wrong])
    assert misspelt("attest-decision", 11, [[*outcome[:3], None, *outcome[4:]]]).expected == "claims, or reasons for none"
    assert "host-admit" in misspelt("operator-act", 5, "host-forgive").expected


def test_decision_of_another_length_or_kind_is_refused() -> None:
    for name in ("genesis", "attest-decision", "enrol-decision", "exchange-decision", "operator-act"):
        items = map_of(name)
        for other in (items[:-1], [*items, None], [5, *items[1:]], [True, *items[1:]], [], {"v": 1}, items[0]):
            with pytest.raises(FormatError, match="a kind of entry, whole"):
                parse_entry(encode_cbor(other))


@pytest.mark.parametrize("libraries", [{1: "x", "a": "y"}, {"a": 1}, {"a": "x" * 160}, {"n" * 161: ""}, {str(at): "" for at in range(33)}])
def test_engine_with_libraries_that_are_no_names_and_versions_is_refused(libraries: dict[Any, Any]) -> None:
    with pytest.raises(FormatError):
        EngineId.from_cbor({"number": 1, "tree": bytes(32), "libraries": libraries})


def test_engine_object_is_read_as_it_was_written_and_any_bytes_are_answered() -> None:
    assert parse_engine(encode_engine(ENGINE_ID)) == ENGINE_ID
    assert ENGINE_ID.digest == Digest.of(encode_engine(ENGINE_ID))
    assert_parser_is_total(parse_engine, encode_engine(ENGINE_ID))


def test_engine_with_the_longest_names_is_read() -> None:
    libraries = {"a": "x" * 159} | {str(at): "" for at in range(31)}
    assert len(EngineId.from_cbor({"number": 1, "tree": bytes(32), "libraries": libraries}).libraries) == 32


# --- evidence


def collection(**changed: Any) -> bytes:
    """The evidence with another inner map in one member."""
    e = evidence_format
    value = SPECIMENS["evidence"].value
    quote = {
        "v": 1, "host": value.host, "nonce": value.nonce.value, "attest": value.attest, "signature": value.signature,
        "bank": value.pcrs.bank, "pcrs": dict(value.pcrs.values),
    }  # fmt: skip
    members = {
        "manifests": (e.MANIFESTS_TYPE, encode_cbor({"v": 1, "items": list(value.measurements)}), None),
        "quote": (e.QUOTE_TYPE, encode_cbor(quote | changed.pop("quote", {})), None),
        "requests": (e.REQUESTS_TYPE, encode_cbor({"v": 1, "requests": []}), None),
        "runtime-log": (e.LOG_TYPE, encode_cbor({"v": 1, "first": value.log_first, "records": value.log}), None),
    }
    return encode_collection(members | changed, collection_type=e.COLLECTION_TYPE)


def test_evidence_is_read_whatever_member_is_looked_at_first() -> None:
    assert parse_evidence(collection()).requests == ()


@pytest.mark.parametrize(
    "changed",
    [
        {"extra": ("text/plain", b"", None)},
        {"quote": {"bank": "md5"}},
        {"quote": {"pcrs": {24: bytes(32)}}},
        {"quote": {"pcrs": {-1: bytes(32)}}},
        {"quote": {"pcrs": {"a": bytes(32), 1: bytes(32)}}},
        {"quote": {"pcrs": {1: bytes(31)}}},
        {"quote": {"pcrs": {1: "text"}}},
        {"quote": {"more": 1}},
        {"quote": {"attest": bytes(4097)}},
        {"runtime-log": (evidence_format.LOG_TYPE, b"", 1)},
        {"runtime-log": ("text/plain", encode_cbor({"v": 1, "first": 0, "records": b""}), None)},
        {"manifests": (evidence_format.MANIFESTS_TYPE, encode_cbor({"v": 1, "items": ["text"]}), None)},
        {"manifests": (evidence_format.MANIFESTS_TYPE, encode_cbor({"v": 1, "items": [b""] * 257}), None)},
        {"requests": (evidence_format.REQUESTS_TYPE, encode_cbor({"v": 1, "requests": [1]}), None)},
        {"ima-log": (evidence_format.IMA_LOG_TYPE, encode_cbor({"v": 1, "first": 0, "entries": b"", "more": False}), None)},
    ],
)
def test_evidence_with_a_wrong_member_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        parse_evidence(collection(**changed))


def test_instance_asks_once() -> None:
    value = SPECIMENS["evidence"].value
    with pytest.raises(FormatError, match="once"):
        parse_evidence(encode_evidence(replace(value, requests=value.requests[:1] * 2)))


# --- claims, measurement, messages, policy, state, trust


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: replace(c, key=bytes(31)),
        lambda c: replace(c, instance=bytes(15)),
        lambda c: replace(c, policy=Digest.of(b"", "sha384")),
        lambda c: replace(c, tpm_class="wooden"),
        lambda c: replace(c, runtime="opaque"),
        lambda c: replace(c, exceptions=("",)),
        lambda c: replace(c, exceptions=("x" * 65,)),
        lambda c: replace(c, lineage=(bytes(16),) * 17),
        lambda c: replace(c, token_id="short"),
        lambda c: replace(c, status_index=(1 << 30) + 1),
        lambda c: replace(c, audience=""),
    ],
)
def test_claims_out_of_bounds_are_refused(spoil: Callable[[Any], Any]) -> None:
    with pytest.raises(FormatError):
        parse_claims(encode_claims(spoil(SPECIMENS["token-claims"].value)))


def test_claims_of_another_profile_are_refused() -> None:
    with pytest.raises(FormatError, match="eat_profile"):
        parse_claims(SPECIMENS["token-claims"].data.replace(b"execution-token:1", b"execution-token:2"))


def test_measurement_is_sorted_and_of_known_kinds() -> None:
    value: Measurement = SPECIMENS["measurement"].value
    for changed in (
        {"components": value.components[::-1]},
        {"components": value.components[:1] * 2},
        {"secrets": (Secret("b", "B"), Secret("a", "A"))},
        {"secrets": (Secret("a", "A"), Secret("a", "B"))},
        {"secrets": (Secret("a", "A"), Secret("b", "A"))},
        {"devices": ("v/c=1", "v/c=0")},
        {"devices": ("v/c=0", "v/c=0")},
        {"devices": ("gpu",)},
        {"forwards": (Forward(2, "tcp:a:1"), Forward(1, "tcp:a:1"))},
        {"forwards": (Forward(0, "tcp:a:1"),)},
    ):
        wrong: dict[str, Any] = changed
        with pytest.raises(FormatError):
            replace(value, **wrong)
    for rows in ([["a", "other", bytes(32), False]], [["a", "code", bytes(32)]], [["A", "code", bytes(32), False]], [1]):
        refused("measurement", components=rows)
    refused("measurement", command=["a\0b"])
    for devices in ([], ["v/c=1", "v/c=0"], [7]):
        refused("measurement", devices=devices)
    for forwards in ([], [[2, "tcp:a:1"], [1, "tcp:a:1"]], [[1, "tcp:a:1"], [1, "tcp:b:1"]], [[1]], [7], [[3128, "tcp:a:1"]]):
        refused("measurement", forwards=forwards)
    for named in ([["b", "B"], ["a", "A"]], [["a", "A"], ["b", "A"]], [["a"]], [7], [[7, "A"]], [["a", "PATH"]], [["A", "A"]]):
        refused("measurement", secrets=named)
    for mode in ("enforce", "permit", "", 7):
        refused("measurement", mode=mode)
    assert value.root() == Digest.of(SPECIMENS["measurement"].data)


def test_measured_file_is_of_an_agent_or_of_the_governance() -> None:
    governance = Governance((("attestor", Digest.of(b"a")), ("enforcer", Digest.of(b"e"))))
    assert_parser_is_total(parse_measured, encode_governance(governance), flips=200)
    assert parse_measured(encode_governance(governance)) == governance
    assert parse_measured(SPECIMENS["measurement"].data) == SPECIMENS["measurement"].value
    for components in ((), governance.components[::-1], governance.components[:1] * 2):
        with pytest.raises(FormatError):
            Governance(components)
    for roots in ({}, {"a": 1}, {1: bytes(32)}, {"a": bytes(32), 1: bytes(32)}, {"A": bytes(32)}, {"a": bytes(31)}):
        with pytest.raises(FormatError):
            parse_measured(encode_cbor({"v": 1, "governance": roots}))


def test_message_of_another_family_is_misuse() -> None:
    with pytest.raises(Misuse):
        EXCHANGE.encode(Done())  # type: ignore[arg-type] # what the test is about
    with pytest.raises(Misuse):
        LOCAL.encode(NonceAnswer(bytes(32), 1))  # type: ignore[arg-type] # what the test is about


def test_message_over_its_size_is_refused() -> None:
    with pytest.raises(FormatError, match="at most"):
        EXCHANGE.parse(bytes(EXCHANGE.max_size + 1))


def test_pcrs_in_a_message_are_of_one_known_bank() -> None:
    for pcrs in ({"bank": "md5", "values": {}}, {"bank": "sha256", "values": {"a": bytes(32)}}, {"bank": "sha256", "values": {1: "x"}}):
        refused("exchange-activation", pcrs=pcrs)
    refused("local-launch", command=["a\0b"])
    refused("exchange-enrol-request", ek_certificates=[bytes(16385)])


@pytest.mark.parametrize(
    "name, least, most",
    [
        ("token_life", 5, 300), ("nonce_life", 5, 600), ("clock_skew", 0, 60), ("hold_max", 0, 86_400),
        ("record_lag_most", 1, 86_400), ("witness_lag_most", 1, 86_400),
    ],
)  # fmt: skip
def test_settings_are_bounded(name: str, least: int, most: int) -> None:
    for value in (least, most):
        good: dict[str, Any] = {name: value}
        assert getattr(PolicySettings(**good), name) == value
    for value in (least - 1, most + 1):
        bad: dict[str, Any] = {name: value}
        with pytest.raises(FormatError, match=name):
            PolicySettings(**bad)


def test_settings_refuse_by_default() -> None:
    default = PolicySettings()
    assert (default.accept_runtime_only, default.tpm_classes) == (False, ("discrete", "firmware", "virtual"))
    assert (default.token_life, default.nonce_life, default.clock_skew, default.hold_max) == (60, 120, 5, 600)
    for classes in (("virtual", "discrete"), ("discrete", "discrete"), ("wooden",)):
        with pytest.raises(FormatError):
            PolicySettings(tpm_classes=classes)


def test_bundle_holds_cedar_text() -> None:
    for wrong in ("", "  \n", "a\0", 1):
        refused("policy-bundle", policies=wrong)
    refused("policy-bundle", settings={**map_of("policy-bundle")["settings"], "tpm_classes": [1]})
    with pytest.raises(FormatError):
        parse_bundle(bytes((512 << 10) + 1))


def test_state_is_sorted_by_name_and_id() -> None:
    state = map_of("host-state")
    assert len(state["instances"]) == 2
    assert refused("host-state", instances=state["instances"][::-1]).got == "another order"
    assert refused("host-state", instances=state["instances"][:1] * 2).got == "another order"
    assert refused("host-state", governance=state["governance"][::-1]).got == "another order"
    assert refused("host-state", governance=state["governance"][:1] * 2).got == "another order"
    for rows in ([1], [[1] * 9], [["a"] * 10]):
        refused("host-state", instances=rows)
    refused("host-state", status="resting")


def test_runtime_finds_and_replaces_by_id() -> None:
    state = parse_host_state(SPECIMENS["host-state"].data).runtime
    low, high = state.instances
    assert (state.find(low.instance), state.find(high.instance)) == (low, high)
    for absent in (bytes(16), b"\xff" * 16, low.instance[:-1] + b"\0", high.instance[:-1] + b"\xff"):
        assert state.find(absent) is None
        longer = state.with_instance(replace(low, instance=absent))
        assert [i.instance for i in longer.instances] == sorted([absent, low.instance, high.instance])
    stopped = state.with_instance(high.in_phase("stopped"))
    assert stopped.instances == (low, high.in_phase("stopped"))
    assert clean_runtime("sha384").register == bytes(48)


def test_trust_has_one_spelling() -> None:
    trust = SPECIMENS["trust"].value
    roots = (ManufacturerRoot("b", "discrete", b"x"), ManufacturerRoot("a", "discrete", b"y"))
    shuffled = replace(trust, roots=roots, intermediates=(b"2", b"1", b"2"))
    assert parse_trust(encode_trust(shuffled)).roots == roots[::-1]
    assert parse_trust(encode_trust(shuffled)).intermediates == (b"1", b"2")
    assert shuffled.digest == Digest.of(encode_trust(shuffled))
    spelt = [["b", "discrete", b"x"], ["a", "discrete", b"y"]]
    wrong: tuple[dict[str, Any], ...] = (
        {"roots": spelt},
        {"roots": spelt[:1] * 2},
        {"intermediates": [b"2", b"1"]},
        {"roots": [["a", "wooden", b""]]},
        {"roots": [1]},
        {"crls": [b"2", b"1"]},
        {"ocsp": [b"2", b"1"]},
        {"ocsp": [b"1", b"1"]},
        {"ocsp": []},
    )
    for changed in wrong:
        refused("trust", **changed)
    refused("trust", intermediates=[bytes(16385)])
    assert signer("a").public != signer("b").public


def test_trust_names_ocsp_responses_only_where_there_are_any() -> None:
    trust = SPECIMENS["trust"].value
    assert "ocsp" not in map_of("trust")
    with_some = replace(trust, ocsp=(b"2", b"1", b"2"))
    assert parse_trust(encode_trust(with_some)).ocsp == (b"1", b"2")
    assert with_some.digest != trust.digest
    most = sorted(number.to_bytes(2, "big") for number in range(MOST_OCSP))
    assert len(parse_trust(encode_trust(replace(trust, ocsp=tuple(most)))).ocsp) == MOST_OCSP
    assert f"{MOST_OCSP}" in refused("trust", ocsp=[*most, b"\xff" * 3]).expected
    assert f"{MAX_OCSP} bytes" in refused("trust", ocsp=[bytes(MAX_OCSP + 1)]).expected


def test_trust_names_keys_of_the_log_only_where_there_are_any() -> None:
    trust = SPECIMENS["trust"].value
    assert "log_keys" not in map_of("trust")
    keys = tuple(NoteKey(name, PLAIN, signer(name).public) for name in ("b.example/log", "a.example/log"))
    with_some = replace(trust, log_keys=keys)
    assert parse_trust(encode_trust(with_some)).log_keys == keys[::-1]
    assert with_some.digest != trust.digest
    spelt = [str(key) for key in keys]
    witness = str(NoteKey("w.example", COSIGNATURE, signer("w").public))
    for wrong in ([], spelt, spelt[:1] * 2, [witness], ["x"], [1], [f"{spelt[0]}+"]):
        refused("trust", log_keys=wrong)
    many = sorted(str(NoteKey(f"log-{at:02d}", PLAIN, signer(f"{at}").public)) for at in range(MOST_LOG_KEYS + 1))
    assert f"{MOST_LOG_KEYS}" in refused("trust", log_keys=many).expected


@pytest.mark.parametrize("name", ["command", "grants"])
def test_no_component_hides_what_reference_values_hold_under_a_name_of_their_own(name: str) -> None:
    with pytest.raises(FormatError):
        replace(measurement(), components=(ComponentRoot(name, "code", Digest.of(b"code")),))


def test_governance_measurement_has_one_spelling_and_is_told_from_an_agents() -> None:
    roots = (("attestor", Digest.of(b"a")), ("writ", Digest.of(b"w")))
    data = encode_governance(Governance(roots))
    assert parse_measured(data) == Governance(roots)
    assert parse_measured(encode_measurement(measurement())) == measurement()
    for wrong in ({"v": 1, "governance": {}}, {"v": 1, "governance": {"a": "text"}}, {"v": 1, "governance": {"A": bytes(32)}}):
        with pytest.raises(FormatError):
            parse_measured(encode_cbor(wrong))


def test_what_a_commitment_is_made_of_comes_back_as_it_was() -> None:
    salt, content = bytes(range(32)), b"content"
    data = preimage_of(salt, content)
    assert Digest.of(data).value == commit(salt, content)
    assert parse_preimage(data) == (salt, Digest.of(content))
    assert_parser_is_total(parse_preimage, data)
