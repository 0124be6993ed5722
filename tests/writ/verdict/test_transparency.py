"""Logs judged: whose checkpoint, seen by whom, and which entry; a proof moved to another place, size, log or key is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.signers import new_signer
from tests.world.scene import NOW, signer
from tests.world.tlog import ORIGIN, MemoryLog, plain_key, witness_key
from tests.writ.verdict.refusal import refused
from writ.formats.cose import sign1_bytes
from writ.formats.keys import ES256, PublicKey, key_id
from writ.formats.tlog import merkle
from writ.formats.tlog.checkpoint import Checkpoint, SignedCheckpoint
from writ.formats.tlog.cosignature import TlogPolicy, parse_policy
from writ.formats.tlog.note import COSIGNATURE, PLAIN, Note, NoteKey, NoteSignature, sign_note
from writ.formats.tlog.receipt import encode_receipt, parse_receipt
from writ.verdict.transparency import verify_checkpoint, verify_included, verify_receipt, verify_witnessed

LOG = MemoryLog([b"%d" % number for number in range(9)])
KEY = plain_key()


def spoilt(data: bytes, at: int = -1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


# --- checkpoints -----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_that_of_its_log() -> None:
    for size in range(10):
        assert verify_checkpoint(LOG.checkpoint(size), KEY) == Checkpoint(ORIGIN, size, merkle.root(LOG.leaves[:size]))


def test_a_checkpoint_of_another_log_is_refused_even_where_the_key_signed_it() -> None:
    said = Checkpoint("another.example.org", 1, LOG.leaves[0])
    signed = SignedCheckpoint(said, sign_note(str(said), KEY, LOG.signer.sign))
    reason = refused(lambda: verify_checkpoint(signed, KEY))
    assert (reason.code, reason.claim, reason.expected, reason.got) == ("checkpoint-invalid", "checkpoint.origin", ORIGIN, said.origin)


def test_a_checkpoint_that_the_log_did_not_sign_is_refused() -> None:
    signed = LOG.checkpoint()
    (line,) = signed.note.signatures
    told = [
        Note(signed.note.text, (NoteSignature("stranger", bytes(4), b"s"),)),
        Note(signed.note.text, (replace(line, signature=spoilt(line.signature)),)),
        Note(LOG.checkpoint(8).note.text, (line,)),
    ]
    for note in told:
        reason = refused(lambda note=note: verify_checkpoint(SignedCheckpoint(signed.checkpoint, note), KEY))  # type: ignore[misc] # a default
        assert (reason.code, reason.claim) == ("checkpoint-invalid", "checkpoint.signature")


def test_a_cosignature_by_the_logs_own_key_is_no_signature_of_the_log() -> None:
    own = NoteKey(ORIGIN, COSIGNATURE, KEY.key)
    assert refused(lambda: verify_checkpoint(LOG.checkpoint(), own)).claim == "checkpoint.signature"


# --- witnesses -------------------------------------------------------------------------------------------------------------


def policy(*lines: str, log: str = f"log {KEY}") -> TlogPolicy:
    witnesses = (f"witness {name} {witness_key(name)}" for name in ("w1", "w2", "w3"))
    return parse_policy("\n".join([log, *witnesses, *lines]).encode())


TWO = policy("group g 2 w1 w2 w3", "quorum g")


def test_a_checkpoint_that_the_quorum_cosigned_is_witnessed() -> None:
    witnessed = verify_witnessed(LOG.checkpoint(witnesses=["w3", "stranger", "w1"]), TWO)
    assert witnessed.checkpoint == LOG.checkpoint().checkpoint
    assert witnessed.seen == (("w1", NOW), ("w3", NOW))


@pytest.mark.parametrize("witnesses", [[], ["w1"], ["w1", "stranger"], ["stranger", "another"]])
def test_too_few_witnesses_are_refused(witnesses: list[str]) -> None:
    reason = refused(lambda: verify_witnessed(LOG.checkpoint(witnesses=witnesses), TWO))
    assert (reason.code, reason.claim, reason.expected) == ("quorum-missing", "checkpoint.cosignatures", "the quorum g")
    assert verify_witnessed(LOG.checkpoint(witnesses=witnesses), policy("quorum none")).checkpoint.size == 9


def test_a_cosignature_that_does_not_hold_is_refused_even_where_enough_do() -> None:
    signed = LOG.checkpoint(witnesses=["w1", "w2", "w3"])
    lines = [replace(line, signature=spoilt(line.signature)) if line.name == "w3" else line for line in signed.note.signatures]
    reason = refused(lambda: verify_witnessed(SignedCheckpoint(signed.checkpoint, Note(signed.note.text, tuple(lines))), TWO))
    assert (reason.code, reason.claim) == ("checkpoint-invalid", "cosignature.w3")


def test_cosignatures_of_another_checkpoint_are_refused() -> None:
    moved = Note(LOG.checkpoint().note.text, (*LOG.checkpoint().note.signatures, *LOG.checkpoint(8, witnesses=["w1"]).note.signatures[1:]))
    assert refused(lambda: verify_witnessed(SignedCheckpoint(LOG.checkpoint().checkpoint, moved), TWO)).claim == "cosignature.w1"


def test_witnesses_do_not_stand_in_for_the_log() -> None:
    signed = LOG.checkpoint(witnesses=["w1", "w2", "w3"])
    without = SignedCheckpoint(signed.checkpoint, Note(signed.note.text, signed.note.signatures[1:]))
    assert refused(lambda: verify_witnessed(without, TWO)).claim == "checkpoint.signature"


def test_a_log_that_the_policy_does_not_name_is_refused() -> None:
    other = MemoryLog([b"x"], origin="another.example.org")
    reason = refused(lambda: verify_witnessed(other.checkpoint(witnesses=["w1", "w2"]), TWO))
    assert (reason.claim, reason.expected, reason.got) == ("checkpoint.origin", "a log of the policy", "another.example.org")
    both = policy("group g 2 w1 w2 w3", "quorum g", log=f"log {KEY}\nlog {plain_key('another.example.org')}")
    assert verify_witnessed(other.checkpoint(witnesses=["w1", "w2"]), both).checkpoint.origin == "another.example.org"


def test_a_line_by_another_log_of_the_policy_says_nothing() -> None:
    both = policy("quorum none", log=f"log {KEY}\nlog {plain_key('another.example.org')}")
    signed = LOG.checkpoint()
    by = plain_key("another.example.org")
    for line in (
        sign_note(signed.note.text, by, signer("log/another.example.org").sign).signatures[0],
        NoteSignature(by.name, by.id, b"no"),
    ):
        note = Note(signed.note.text, (line, *signed.note.signatures))
        assert verify_witnessed(SignedCheckpoint(signed.checkpoint, note), both).checkpoint == signed.checkpoint


def test_a_log_may_have_two_keys_and_each_line_of_either_holds() -> None:
    """While a log changes its key; which of them signed is for the log's own entries to say."""
    newer = NoteKey(ORIGIN, PLAIN, signer("newer").public)
    both = policy("quorum none", log=f"log {newer}\nlog {KEY}")
    old = LOG.checkpoint()
    new = sign_note(old.note.text, newer, signer("newer").sign)
    twice = Note(old.note.text, (*old.note.signatures, *new.signatures))
    for note in (old.note, new, twice):
        assert verify_witnessed(SignedCheckpoint(old.checkpoint, note), both).checkpoint == old.checkpoint
    for at in (0, 1):
        lines = [replace(line, signature=spoilt(line.signature)) if here == at else line for here, line in enumerate(twice.signatures)]
        half = SignedCheckpoint(old.checkpoint, Note(old.note.text, tuple(lines)))
        assert refused(lambda half=half: verify_witnessed(half, both)).claim == "checkpoint.signature"  # type: ignore[misc] # a default
    nobody = SignedCheckpoint(old.checkpoint, Note(old.note.text, (NoteSignature("x", bytes(4), b"s"),)))
    assert refused(lambda: verify_witnessed(nobody, both)).claim == "checkpoint.signature"


# --- entries ---------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.data())
def test_an_entry_is_where_its_proof_says_and_nowhere_else(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof, checkpoint = LOG.proof(index, size), verify_checkpoint(LOG.checkpoint(size), KEY)
    assert verify_included(LOG.leaves[index], proof, checkpoint) == index
    for other in range(size):
        if other != index:
            assert refused(lambda other=other: verify_included(LOG.leaves[other], proof, checkpoint)).claim == "proof"  # type: ignore[misc] # a default
            moved = replace(proof, index=other)
            assert refused(lambda moved=moved: verify_included(LOG.leaves[index], moved, checkpoint)).claim == "proof"  # type: ignore[misc] # a default


def test_a_proof_of_another_checkpoint_is_refused_though_its_path_fits() -> None:
    """c of a, b, c is at index 2 of 3, and by the same hashes at index 1 of 2: only the signed size says which."""
    three, two = verify_checkpoint(LOG.checkpoint(3), KEY), LOG.checkpoint(3).checkpoint
    proof = LOG.proof(2, 3)
    assert merkle.root_from_path(LOG.leaves[2], 1, 2, proof.hashes) == three.root
    lied = SignedCheckpoint(replace(two, size=2), proof.checkpoint.note)
    reason = refused(lambda: verify_included(LOG.leaves[2], replace(proof, index=1, checkpoint=lied), three))
    assert (reason.code, reason.claim, reason.expected, reason.got) == ("inclusion-invalid", "proof.checkpoint", "3", "2")
    assert refused(lambda: verify_included(LOG.leaves[2], replace(proof, index=1), three)).claim == "proof"


@pytest.mark.parametrize(
    "hashes", [(), (merkle.EMPTY_ROOT,), (*LOG.proof(5).hashes, bytes(32)), LOG.proof(5).hashes[:-1], LOG.proof(5).hashes[::-1]]
)
def test_another_path_is_refused(hashes: tuple[bytes, ...]) -> None:
    proof = replace(LOG.proof(5), hashes=hashes)
    assert refused(lambda: verify_included(LOG.leaves[5], proof, LOG.checkpoint().checkpoint)).claim == "proof"


# --- receipts --------------------------------------------------------------------------------------------------------------

PUBLIC = LOG.signer.public


@given(st.integers(2, 9), st.data())
def test_a_receipt_is_of_its_entry_alone(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    receipt = parse_receipt(LOG.receipt(index, size))
    assert verify_receipt(receipt, LOG.leaves[index], PUBLIC, issuer=ORIGIN) == index
    for leaf in (*LOG.leaves[:index], *LOG.leaves[index + 1 :], merkle.EMPTY_ROOT, b"", b"short"):
        reason = refused(lambda leaf=leaf: verify_receipt(receipt, leaf, PUBLIC, issuer=ORIGIN))  # type: ignore[misc] # a default
        assert (reason.code, reason.claim) == ("receipt-invalid", "receipt.signature")


def test_a_receipt_of_another_issuer_key_or_algorithm_is_refused() -> None:
    receipt = parse_receipt(LOG.receipt(5))
    reason = refused(lambda: verify_receipt(receipt, LOG.leaves[5], PUBLIC, issuer="elsewhere"))
    assert (reason.claim, reason.expected, reason.got) == ("receipt.issuer", "elsewhere", ORIGIN)
    other = signer("other").public
    reason = refused(lambda: verify_receipt(receipt, LOG.leaves[5], other, issuer=ORIGIN))
    assert (reason.claim, reason.expected, reason.got) == ("receipt.kid", f"Ed25519 {key_id(other)}", f"Ed25519 {key_id(PUBLIC)}")
    mislabelled = _signed(9, 5, algorithm=ES256)
    assert refused(lambda: verify_receipt(parse_receipt(mislabelled), LOG.leaves[5], PUBLIC, issuer=ORIGIN)).claim == "receipt.kid"
    misnamed = _signed(9, 5, kid=other.thumbprint())
    assert refused(lambda: verify_receipt(parse_receipt(misnamed), LOG.leaves[5], PUBLIC, issuer=ORIGIN)).claim == "receipt.kid"


def _signed(size: int, index: int, *, path: tuple[bytes, ...] | None = None, algorithm: str = "Ed25519", kid: bytes | None = None) -> bytes:
    """A receipt by the log's key over the root of all nine, whatever else it says."""
    proof = merkle.inclusion_proof(LOG.leaves, 5) if path is None else path
    return encode_receipt(
        ORIGIN, size=size, index=index, path=proof, root=merkle.root(LOG.leaves), algorithm=algorithm, kid=kid or PUBLIC.thumbprint(),
        sign=LOG.signer.sign,
    )  # fmt: skip


def test_a_receipt_moved_to_another_index_or_size_is_refused() -> None:
    """The path of c fits index 2 of 3 and index 1 of 2. The size is signed, so the second cannot be made of the first."""
    data = LOG.receipt(2, 3)
    assert verify_receipt(parse_receipt(data), LOG.leaves[2], PUBLIC, issuer=ORIGIN) == 2
    receipt = parse_receipt(data)
    two = replace(receipt, size=2, index=1)  # as a reader would have it that took both from the proof: what parse_receipt refuses
    assert verify_receipt(two, LOG.leaves[2], PUBLIC, issuer=ORIGIN) == 1
    assert refused(lambda: verify_receipt(replace(receipt, index=1), LOG.leaves[2], PUBLIC, issuer=ORIGIN)).claim == "receipt.signature"
    assert refused(lambda: verify_receipt(replace(receipt, index=0), LOG.leaves[2], PUBLIC, issuer=ORIGIN)).claim == "receipt.signature"


def test_a_receipt_whose_path_does_not_lead_to_what_was_signed_is_refused() -> None:
    for size, index, path in (
        (9, 4, None),
        (8, 5, None),
        (9, 5, (bytes(32),)),
        (9, 5, (*merkle.inclusion_proof(LOG.leaves, 5), bytes(32))),
    ):
        receipt = parse_receipt(_signed(size, index, path=path))
        assert refused(lambda receipt=receipt: verify_receipt(receipt, LOG.leaves[5], PUBLIC, issuer=ORIGIN)).claim == "receipt.signature"  # type: ignore[misc] # a default


def test_a_spoilt_signature_is_refused_and_p_256_is_judged_too() -> None:
    data = LOG.receipt(5)
    assert refused(lambda: verify_receipt(parse_receipt(spoilt(data)), LOG.leaves[5], PUBLIC, issuer=ORIGIN)).claim == "receipt.signature"
    by = new_signer(ES256)
    receipt = parse_receipt(LOG.receipt(5, by=by))
    assert verify_receipt(receipt, LOG.leaves[5], by.public, issuer=ORIGIN) == 5
    root = merkle.root(LOG.leaves)
    assert PublicKey(ES256, by.public.raw).verify(receipt.sign1.signature, sign1_bytes(receipt.sign1.protected, root))


def test_a_signature_over_the_protected_header_holds_for_no_other_header() -> None:
    receipt, other = parse_receipt(LOG.receipt(5)), parse_receipt(_signed(10, 5))
    swapped = replace(receipt, sign1=replace(receipt.sign1, signature=other.sign1.signature))
    assert refused(lambda: verify_receipt(swapped, LOG.leaves[5], PUBLIC, issuer=ORIGIN)).claim == "receipt.signature"
