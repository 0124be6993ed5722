"""Each class of attack that Writ must withstand, and the tests that attack it, so that none is lost unseen when tests move.

First the security record of others (ids as they published them), then the classes that follow from what Writ is. The table
proves that the tests are there; that each of them fails when its check is taken out is what `./run mutate` and reviews show.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ELSEWHERE = ("tests/faults/", "tests/scale/")
"""Campaigns that `./run test` leaves out: no class rests on them."""

_T1 = (
    "tests/attacks/test_evidence_forged.py::test_t1_every_byte_of_message_and_signature_flipped_is_refused",
    "tests/attacks/test_evidence_forged.py::test_t1_signature_of_any_other_quote_is_refused",
    "tests/verifier/test_attest.py::test_forged_signature_is_refused_and_spends_nothing",
    "tests/verifier/test_check.py::test_each_flipped_byte_of_a_quote_is_refused",
)
_T2 = (
    "tests/attacks/test_evidence_forged.py::test_t2_selection_short_long_or_of_another_bank_is_refused",
    "tests/attacks/test_evidence_forged.py::test_t2_relabelled_registers_are_refused",
    "tests/attacks/test_evidence_forged.py::test_t2_register_beyond_the_signed_selection_is_not_even_heard",
    "tests/verifier/test_check.py::test_quote_over_zeros_or_over_nothing_is_refused",
)
_T3 = (
    "tests/attacks/test_evidence_forged.py::test_t3_wrong_magic_signed_by_the_ak_is_refused",
    "tests/attacks/test_evidence_forged.py::test_t3_wrong_type_signed_by_the_ak_is_refused",
)
_T4 = ("tests/attacks/test_history_forged.py::test_t4_suspend_reboot_and_unsafe_clock_are_no_fork",)
_SOFTWARE_AK = (
    "tests/attacks/test_enrolment_forged.py::test_software_ak_beside_a_genuine_ek_cannot_answer",
    "tests/verifier/test_enrol.py::test_software_ak_with_a_valid_ek_chain_is_refused",
    "tests/attestor/test_tpm.py::test_credential_for_another_key_is_not_opened",
    "tests/writ/formats/tpm/test_oracle.py::test_tpm_activates_our_credential_for_this_ak_and_for_no_other",
)
_AK_ATTRIBUTES = (
    "tests/attacks/test_enrolment_forged.py::test_each_attribute_of_an_ak_that_decides_is_checked",
    "tests/verifier/test_enrol.py::test_ak_of_the_wrong_kind_is_refused",
)
_ACTIVATION = (
    "tests/attacks/test_enrolment_forged.py::test_wrong_activation_answer_leaks_nothing_of_the_secret",
    "tests/verifier/test_enrol.py::test_wrong_activation_burns_the_challenge_and_leaks_nothing",
)
_CONSTANT_NONCE = (
    "tests/attacks/test_verifier_abused.py::test_constant_nonce_is_never_issued_again",
    "tests/verifier/test_attest.py::test_nonces_never_repeat",
)
_REUSED_NONCE = (
    "tests/verifier/test_attest.py::test_replayed_nonce_is_refused",
    "tests/verifier/test_attest.py::test_one_of_many_parallel_uses_of_a_nonce_is_decided",
)
_EXPIRED_NONCE = (
    "tests/verifier/test_attest.py::test_expired_nonce_is_refused",
    "tests/verifier/test_attest.py::test_evidence_held_past_the_tokens_life_gives_no_token",
)
_FOREIGN_NONCE = (
    "tests/verifier/test_attest.py::test_nonce_of_another_host_is_refused",
    "tests/verifier/test_attest.py::test_nonce_of_nobody_is_refused",
    "tests/attacks/test_invariants.py::test_i7_evidence_is_useless_at_another_verifier_and_any_later",
)
_WALK = (
    "tests/verifier/test_access.py::test_walk_without_credentials_opens_nothing",
    "tests/verifier/test_access.py::test_every_route_that_answers_is_in_the_table",
    "tests/verifier/test_access.py::test_reader_reads_and_does_not_act",
    "tests/enforcer/relying/test_serve.py::test_a_walk_of_all_routes_without_credentials_opens_nothing",
)
_REGISTRATIONS = (
    "tests/verifier/test_enrol.py::test_fifty_parallel_registrations_of_one_id_give_one_host",
    "tests/attacks/test_verifier_abused.py::test_fifty_parallel_registrations_of_a_host_that_is_there_leave_its_record",
    "tests/verifier/test_enrol.py::test_host_takes_another_tpm_only_by_replace",
)
_HALF_OPEN = (
    "tests/verifier/test_tls.py::test_half_a_handshake_blocks_nobody",
    "tests/verifier/test_limits.py::test_half_open_connections_block_nobody",
    "tests/verifier/test_limits.py::test_head_that_never_ends_is_cut_off",
    "tests/verifier/test_limits.py::test_body_that_never_comes_is_408",
    "tests/writ/service/test_peers.py::test_half_open_and_slow_peers_cost_no_other_its_turn",
    "tests/enforcer/gates/test_socket.py::test_half_open_connections_leave_room_to_refuse_more",
)
_RETYPED = (
    "tests/attacks/test_history_forged.py::test_retyped_event_is_refused",
    "tests/attacks/test_history_forged.py::test_unknown_event_is_refused",
    "tests/writ/verdict/test_runtime_log.py::test_digest_in_the_record_is_not_believed",
)
_MISSING_CLAIM = (
    "tests/attacks/test_token_misused.py::test_token_without_any_one_claim_is_refused",
    "tests/attacks/test_token_misused.py::test_token_for_another_audience_issuer_or_time_is_refused",
    "tests/writ/formats/test_jose.py::test_dpop_proof_without_a_required_claim_is_refused",
)
_LISTS = (
    "tests/attacks/test_evidence_forged.py::test_list_short_long_or_empty_is_a_typed_answer_and_no_token",
    "tests/verifier/test_limits.py::test_lists_sized_by_the_sender_are_refused",
)

RECORD: dict[str, tuple[str, ...]] = {
    "CVE-2022-0317 go-attestation: quote over no or other PCRs accepted, log then trusted": _T2,
    "CVE-2024-29038, CVE-2024-29040 tpm2-tools, tss: magic not checked": _T3,
    "CVE-2024-29039 tpm2-tools: PCR selection in the file not compared with the signed one": (
        *_T2,
        "tests/attacks/test_unsafe_ways.py::test_no_product_code_asks_a_program_of_tpm2_tools",
    ),
    "CVE-2023-3674 keylime: bad signature only logged, not failed": _T1,
    "cMCP 0.3.0 (#370): quote reported hardware-attested with no signature check": (
        *_T1,
        "tests/writ/verdict/test_appraisal.py::test_hardware_is_affirming_for_hardware_only",
    ),
    "CVE-2026-6420 keylime: challenge nonce became a constant": (
        *_CONSTANT_NONCE, *_REUSED_NONCE, *_EXPIRED_NONCE, *_FOREIGN_NONCE,
    ),
    "CVE-2026-1709 keylime registrar: client certificate not required, admin API open": _WALK,
    "CVE-2025-13609 keylime: identity takeover by duplicate id, then a check-then-write race": _REGISTRATIONS,
    "CVE-2023-38201 keylime: on a wrong activation answer the error sent back the expected value": (
        *_ACTIVATION,
        "tests/verifier/test_access.py::test_errors_never_carry_what_was_sent",
        "tests/verifier/test_access.py::test_unforeseen_fault_is_500_without_its_text",
    ),
    "CVE-2023-38200 keylime: unfinished TLS handshake blocks the registrar for all": _HALF_OPEN,
    "CVE-2021-3406 keylime: EK and AK taken from the agent without checking the TPM public areas": (
        *_AK_ATTRIBUTES,
        "tests/attacks/test_enrolment_forged.py::test_ek_certificate_of_another_tpm_is_refused",
        "tests/attacks/test_enrolment_forged.py::test_ak_outside_the_ek_is_refused_by_what_its_quote_says",
        "tests/writ/verdict/test_enrolment.py::test_ek_lacking_an_attribute_is_refused",
        "tests/writ/formats/tpm/test_public.py::test_name_covers_every_byte_of_the_area",
    ),
    "CVE-2017-18342 yaml.load in keylime: unsafe deserialiser": (
        "tests/attacks/test_unsafe_ways.py::test_no_product_code_reads_with_what_runs_what_it_reads",
        "tests/attacks/test_unsafe_ways.py::test_every_parser_is_fuzzed",
    ),
    "keylime 95dff5ea, 2a14b452, 08c0c67c: tokens in plain text, deleted from the cache only, inactive agents authenticated": (
        "tests/verifier/test_access.py::test_api_keys_are_stored_as_hashes",
        "tests/verifier/test_enrol.py::test_tickets_are_stored_as_hashes",
        "tests/verifier/test_access.py::test_revoked_key_is_of_no_use",
        "tests/verifier/test_enrol.py::test_retired_host_and_tpm_are_gone_for_ever",
        "tests/attacks/test_verifier_abused.py::test_revoked_credentials_stay_revoked_after_a_restart",
    ),
    "go-attestation 1bd9b0f: unbounded recursion in event parsing": (
        "tests/writ/formats/test_strict.py::test_depth_is_bounded_in_both_directions",
        "tests/writ/formats/eventlog/test_cel.py::test_bounds_on_records_and_bytes_hold",
        "tests/writ/formats/test_cmw.py::test_foreign_collections_may_stand_within_but_not_for_ever",
    ),
    "TCG event type (safeboot#139): it is not in the digest; an attacker retypes events": _RETYPED,
    "SPIRE aws_iid 1.14.6, azure_imds 1.14.7, 1.15.1: signature checked over A, content read from B; anchor not the signer": (
        "tests/writ/verdict/test_evidence.py::test_nothing_that_travels_beside_the_quote_may_be_exchanged",
        "tests/attacks/test_invariants.py::test_i2_nothing_is_trusted_that_the_quote_does_not_cover",
        "tests/attacks/test_token_misused.py::test_token_edited_by_its_bearer_is_refused",
        "tests/enforcer/test_credential.py::test_no_flipped_bit_of_a_signed_part_is_accepted",
        "tests/writ/verdict/test_chain.py::test_root_sent_by_the_host_is_not_believed",
        "tests/writ/verdict/test_chain.py::test_missing_link_is_refused",
    ),
    "SPIRE #6715 TLS tickets: resumption skipped the chain check": ("tests/verifier/test_tls.py::test_no_session_ticket_is_given",),
    "SPIRE x509pop, http_challenge: CPU burn; SSRF by a challenge": (
        "tests/attacks/test_verifier_abused.py::test_nothing_that_a_host_sends_is_fetched",
        "tests/attacks/test_verifier_abused.py::test_nothing_is_computed_for_a_host_that_nobody_admitted",
        "tests/attacks/test_verifier_abused.py::test_mesh_of_cas_that_sign_each_other_costs_little",
        "tests/writ/formats/tpm/test_public.py::test_bad_rsa_key_is_refused",
        "tests/verifier/test_limits.py::test_too_many_requests_are_429",
    ),
    "SPIRE JWT 1.11.3, 1.12.3: missing exp accepted": _MISSING_CLAIM,
    "attestation-rs #69: PCR read from the list although not in the signed selection": (
        "tests/attacks/test_evidence_forged.py::test_t2_register_beyond_the_signed_selection_is_not_even_heard",
    ),
    "evidence lists sized by the sender": _LISTS,
}  # fmt: skip

ISSUE: dict[str, tuple[str, ...]] = {
    "T1 every byte of signature and message flipped under every policy shape": _T1,
    "T2 selection short": _T2,
    "T2 selection long": _T2,
    "T2 selection relabelled": ("tests/attacks/test_evidence_forged.py::test_t2_relabelled_registers_are_refused",),
    "T2 selection of another bank": _T2[:1],
    "T3 wrong magic": _T3[:1],
    "T3 wrong type": _T3[1:],
    "T4 what others report as tampering and is none": _T4,
    "constant nonce": _CONSTANT_NONCE,
    "reused nonce": _REUSED_NONCE,
    "expired nonce": _EXPIRED_NONCE,
    "foreign nonce": _FOREIGN_NONCE,
    "50 parallel registrations of one id": _REGISTRATIONS,
    "wrong activation answer burns the challenge and leaks nothing": _ACTIVATION,
    "wrong AK attributes": _AK_ATTRIBUTES,
    "software AK with a valid EK chain": _SOFTWARE_AK,
    "retyped events": _RETYPED,
    "trailing bytes": (
        "tests/attacks/test_token_misused.py::test_duplicate_key_and_trailing_bytes_are_refused",
        "tests/writ/verdict/test_quote.py::test_structure_with_a_byte_left_over_is_malformed",
        "tests/writ/formats/test_strict.py::test_cbor_of_another_spelling_is_refused",
        "tests/test_parsers.py::test_parser_that_reads_part_of_its_input_fails",
        "tests/verifier/test_attest.py::test_rubbish_is_malformed",
    ),
    "duplicate keys": (
        "tests/attacks/test_token_misused.py::test_duplicate_key_and_trailing_bytes_are_refused",
        "tests/attacks/test_review_edges.py::test_json_with_a_key_twice_is_refused",
        "tests/writ/formats/test_strict.py::test_cbor_of_another_spelling_is_refused",
        "tests/writ/formats/test_strict.py::test_foreign_cbor_is_bounded_all_the_same",
    ),
    "missing exp or aud": _MISSING_CLAIM,
    "unauthenticated walk of every route": _WALK,
    "half-open connections": _HALF_OPEN,
    "sender-sized lists": _LISTS,
    "an unadmitted genuine TPM": (
        "tests/attacks/test_enrolment_forged.py::test_unadmitted_genuine_tpm_is_refused",
        "tests/verifier/test_enrol.py::test_unadmitted_tpm_is_refused",
        "tests/verifier/test_enrol.py::test_another_tpm_than_the_admitted_one_is_refused",
    ),
    "a second EK of the same TPM": (
        "tests/attacks/test_enrolment_forged.py::test_second_ek_of_the_same_tpm_is_refused",
        "tests/attacks/test_verifier_abused.py::test_second_ek_of_the_same_tpm_is_refused_and_ends_no_containment",
        "tests/attestor/test_enrol.py::test_second_ek_of_the_tpm_takes_no_place_of_the_first",
    ),
    "another PCR after drift": ("tests/attacks/test_evidence_forged.py::test_another_pcr_after_drift_is_refused",),
    "another bank after drift": ("tests/attacks/test_evidence_forged.py::test_another_bank_after_drift_is_refused",),
    "the AK used as a signing oracle": (
        "tests/attacks/test_evidence_forged.py::test_ak_as_a_signing_oracle_says_nothing_here",
        "tests/attacks/test_enrolment_forged.py::test_attestation_is_no_answer_to_a_challenge",
    ),
    "a prefetched nonce spent after compromise": (
        "tests/attacks/test_verifier_abused.py::test_nonce_prefetched_before_a_compromise_buys_no_time_after_it",
        "tests/attacks/test_verifier_abused.py::test_nonce_prefetched_before_a_compromise_and_quoted_after_it_shows_the_compromise",
        "tests/verifier/test_attest.py::test_superseded_nonce_is_refused",
        "tests/attacks/test_token_misused.py::test_evidence_of_yesterday_gets_no_token_today",
    ),
    "a clock set back": (
        "tests/attacks/test_history_forged.py::test_clock_set_back_contains_the_host",
        "tests/attacks/test_history_forged.py::test_reset_count_fallen_contains_the_host",
        "tests/verifier/test_attest.py::test_clock_set_back_before_the_nonce_is_refused",
        "tests/enforcer/test_credential.py::test_token_dies_by_the_boot_clock_though_the_wall_clock_was_set_back",
        "tests/attacks/test_review_time_and_lists.py::test_i7_proof_is_used_once_though_the_clock_goes_ahead_and_back",
    ),
    "a lost answer retried": (
        "tests/verifier/test_attest.py::test_lost_answer_retried_is_the_stored_answer_and_one_decision",
        "tests/verifier/test_enrol.py::test_lost_activation_answer_is_given_again_to_the_same_bytes",
        "tests/attestor/test_evidence.py::test_answer_that_was_lost_is_asked_for_again_with_the_same_bytes",
    ),
    "a retry with one byte changed": ("tests/verifier/test_attest.py::test_retry_with_one_byte_changed_is_refused",),
    "an instance's key claimed twice": (
        "tests/attacks/test_history_forged.py::test_instances_key_claimed_twice_is_refused",
        "tests/attacks/test_history_forged.py::test_instances_key_claimed_by_another_request_is_refused",
        "tests/writ/verdict/test_runtime_log.py::test_key_of_a_stopped_instance_serves_no_other",
    ),
    "a source changed by the host under a running agent": (
        "tests/attestor/test_agentd.py::test_changed_source_is_no_drift_and_a_new_launch_measures_it",
        "tests/attestor/measure/test_store.py::test_source_changed_after_measuring_does_not_reach_the_tree",
        "tests/attacks/test_history_forged.py::test_source_changed_by_the_host_under_a_new_launch_is_refused",
    ),
    "root extending known-good digests under a policy that demands affirming": (
        "tests/attacks/test_history_forged.py::test_root_extending_known_good_digests_gets_nothing_where_the_policy_demands_affirming",
    ),
}

_FORWARD = "tests/attacks/test_forward_auth.py::"
GATES: dict[str, tuple[str, ...]] = {
    "CVE-2021-32777 Envoy: of a header that comes twice one value was authorised": (
        f"{_FORWARD}test_token_or_proof_twice_is_refused",
        f"{_FORWARD}test_a_header_that_counts_is_there_once",
    ),
    "CVE-2019-9901, CVE-2021-29492 Envoy: a path authorised in one reading and served in another": (
        f"{_FORWARD}test_a_target_with_two_readings_is_refused",
        f"{_FORWARD}test_a_request_line_with_two_readings_is_refused",
    ),
    "a header of another proxy's convention, set by the client": (f"{_FORWARD}test_headers_of_another_convention_are_not_looked_at",),
    "an origin that is not ours": (f"{_FORWARD}test_what_is_not_of_a_configured_origin_is_refused",),
    "a page of ours taken for a permit": (f"{_FORWARD}test_our_own_pages_are_no_way_through",),
    "a body that nobody decided": (
        f"{_FORWARD}test_a_body_where_none_is_decided_is_refused",
        f"{_FORWARD}test_a_part_of_a_body_is_refused",
        f"{_FORWARD}test_a_length_and_a_coding_are_refused",
    ),
    "an enforcement point that says more than the agent did": (
        f"{_FORWARD}test_a_word_of_the_enforcement_points_own_permits_nothing",
        f"{_FORWARD}test_properties_do_not_move_between_action_and_resource",
    ),
    "a batch without end": (f"{_FORWARD}test_ten_thousand_evaluations_are_refused_before_any",),
}
"""What stands between somebody else's enforcement and ours."""

CLASSES: tuple[tuple[str, tuple[str, ...]], ...] = (*RECORD.items(), *ISSUE.items(), *GATES.items())


@cache
def functions(path: Path) -> frozenset[str]:
    """The test functions that pytest finds at the top of a file."""
    if not path.is_file() or not path.name.startswith("test_"):
        return frozenset()
    tree = ast.parse(path.read_bytes())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))


def lost(tests: tuple[str, ...], root: Path = ROOT) -> list[str]:
    """Those of `tests`, as path::name, that `./run test` would not run."""
    found = []
    for test in tests:
        path, _, name = test.partition("::")
        if path.startswith(ELSEWHERE) or name not in functions(root / path):
            found.append(test)
    return found


@pytest.mark.parametrize("attack, tests", CLASSES, ids=[name for name, _ in CLASSES])
def test_every_class_has_its_tests(attack: str, tests: tuple[str, ...]) -> None:
    assert tests, attack
    assert lost(tests) == []


def test_no_row_of_the_record_and_no_item_is_left_out() -> None:
    """As many as there are: 21 rows of published faults, and 35 classes, T2, T3 and the nonces taken apart."""
    assert (len(RECORD), len(ISSUE)) == (21, 35)


def test_a_test_that_is_not_there_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "tests" / "faults"
    folder.mkdir(parents=True)
    for place in (folder.parent, folder):
        (place / "test_a.py").write_text("def test_one(): ...\ndef helper(): ...\nclass A:\n    def test_two(): ...\n")
    (folder.parent / "suite.py").write_text("def test_one(): ...\n")
    there = "tests/test_a.py::test_one"
    gone = (
        "tests/test_a.py::helper", "tests/test_a.py::test_two", "tests/test_b.py::test_one", "tests/suite.py::test_one", "tests/test_a.py",
        "tests/faults/test_a.py::test_one",
    )  # fmt: skip
    assert lost((there, *gone), tmp_path) == list(gone)
