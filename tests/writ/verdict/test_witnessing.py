"""What a witness cosigns: one history of a log it knows, and no step back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.signers import new_signer
from tests.world.witness import Log
from writ.formats.errors import Refused
from writ.formats.tlog.checkpoint import Checkpoint, SignedCheckpoint
from writ.formats.tlog.note import COSIGNATURE, PLAIN, Note, NoteKey, sign_note
from writ.formats.tlog.witnessing import AddCheckpoint
from writ.verdict.witnessing import verify_extension

LOG = Log()
SIZES = st.integers(0, 8)


def code(asked: AddCheckpoint, latest: Checkpoint | None, log: NoteKey = LOG.key) -> str:
    with pytest.raises(Refused) as refused:
        verify_extension(asked, [log], latest)
    (reason,) = refused.value.reasons
    return reason.code


@given(SIZES, SIZES)
def test_an_extension_is_proven_and_a_step_back_is_not(old: int, size: int) -> None:
    latest = LOG.signed(old).checkpoint
    if size < old:
        asked = replace(LOG.asks(0, size), old=old)
        assert code(asked, latest) == "malformed"
        assert code(LOG.asks(size, size), latest) == "witnessed-size"
        return
    proven = verify_extension(LOG.asks(old, size), [LOG.key], latest)
    assert (proven.checkpoint, proven.text) == (LOG.signed(size).checkpoint, LOG.signed(size).note.text)


@given(SIZES)
def test_the_first_checkpoint_takes_size_0_and_no_proof(size: int) -> None:
    assert verify_extension(LOG.asks(0, size), [LOG.key], None).checkpoint.size == size
    assert code(LOG.asks(0, size, [bytes(32)]), None) == "consistency-invalid"
    if size:
        assert code(LOG.asks(size, size), None) == "witnessed-size"


def test_another_origin_is_unknown() -> None:
    assert code(Log("log.example/other").asks(0, 5), None) == "log-unknown"


def test_what_is_said_of_a_long_origin_is_short() -> None:
    with pytest.raises(Refused) as refused:
        verify_extension(Log("o" * 255).asks(0, 5), [LOG.key], None)
    assert [(reason.expected, reason.got) for reason in refused.value.reasons] == [("a log of this witness", "o" * 200)]
    key = NoteKey("o" * 255, PLAIN, new_signer().public)
    with pytest.raises(Refused) as refused:
        verify_extension(Log("o" * 255).asks(0, 5), [key] * 20, None)
    assert [len(reason.expected) for reason in refused.value.reasons] == [200]


def test_the_name_of_a_log_with_another_key_is_not_the_log() -> None:
    assert code(Log().asks(0, 5), None) == "checkpoint-invalid"


def test_a_signature_over_another_checkpoint_does_not_hold() -> None:
    asked = LOG.asks(0, 5)
    moved = SignedCheckpoint(asked.checkpoint.checkpoint, Note(asked.checkpoint.note.text, LOG.signed(6).note.signatures))
    assert code(replace(asked, checkpoint=moved), None) == "checkpoint-invalid"


def test_a_key_of_another_log_does_not_sign_for_this_one() -> None:
    other = Log("log.example/other")
    text = str(LOG.signed(5).checkpoint)
    asked = AddCheckpoint(0, (), SignedCheckpoint(LOG.signed(5).checkpoint, sign_note(text, other.key, other.signer.sign)))
    with pytest.raises(Refused, match="checkpoint-invalid"):
        verify_extension(asked, [LOG.key, other.key], None)


def test_either_of_two_keys_of_a_log_signs_and_lines_of_others_say_nothing() -> None:
    before = NoteKey(LOG.key.name, PLAIN, new_signer().public)
    asked = LOG.asks(0, 5)
    foreign = sign_note(asked.checkpoint.note.text, NoteKey("else", PLAIN, before.key), lambda _: bytes(64)).signatures
    lined = replace(
        asked,
        checkpoint=replace(asked.checkpoint, note=replace(asked.checkpoint.note, signatures=(*foreign, *asked.checkpoint.note.signatures))),
    )
    assert verify_extension(lined, [before, LOG.key], None).checkpoint.size == 5


def test_a_cosigners_key_signs_for_no_log() -> None:
    assert code(LOG.asks(0, 5), None, NoteKey(LOG.key.name, COSIGNATURE, LOG.key.key)) == "checkpoint-invalid"


def test_a_fork_is_named_at_an_equal_size_and_refused_beyond() -> None:
    fork = LOG.forked(2)
    assert code(fork.asks(5, 5), LOG.signed(5).checkpoint) == "log-forked"
    assert code(fork.asks(5, 8), LOG.signed(5).checkpoint) == "consistency-invalid"
    assert code(fork.asks(5, 8, LOG.prove(5, 8)), LOG.signed(5).checkpoint) == "consistency-invalid"


@given(st.integers(1, 7), st.data())
def test_a_proof_that_is_altered_cut_or_lengthened_does_not_hold(old: int, data: st.DataObject) -> None:
    proof = list(LOG.prove(old, 8))
    at = data.draw(st.integers(0, len(proof) - 1))
    altered = [*proof[:at], bytes([proof[at][0] ^ 1]) + proof[at][1:], *proof[at + 1 :]]
    for wrong in (altered, proof[:-1], [*proof, bytes(32)]):
        assert code(LOG.asks(old, 8, wrong), LOG.signed(old).checkpoint) == "consistency-invalid"


def test_the_same_again_takes_no_proof() -> None:
    assert verify_extension(LOG.asks(5, 5), [LOG.key], LOG.signed(5).checkpoint).checkpoint.size == 5
    assert code(LOG.asks(5, 5, [bytes(32)]), LOG.signed(5).checkpoint) == "consistency-invalid"
