"""COSE receipts: one spelling, each refusal by its name, and no other receipt out of one that was signed."""

from __future__ import annotations

import re
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from tests.signers import new_signer
from tests.world.scene import signer
from tests.world.tlog import ORIGIN, MemoryLog
from writ.formats.cose import sign1_bytes
from writ.formats.errors import FormatError, Misuse
from writ.formats.keys import ED25519, ES256
from writ.formats.strict import encode_cbor
from writ.formats.tlog.merkle import MAX_SIZE
from writ.formats.tlog.receipt import MAX_RECEIPT, SIZE, VDP, VDS, encode_receipt, inclusion_of, parse_receipt

LOG = MemoryLog([b"%d" % number for number in range(9)])
DATA = LOG.receipt(5)
PROTECTED, UNPROTECTED, PAYLOAD, SIGNATURE = cbor2.loads(DATA).value
HEADERS: dict[Any, Any] = cbor2.loads(PROTECTED)
PROOF: bytes = UNPROTECTED[396][-1][0]
ABSENT = object()


def spelt(
    headers: dict[Any, Any] | bytes = HEADERS, unprotected: object = UNPROTECTED, payload: object = None, signature: bytes = SIGNATURE
) -> bytes:
    """A receipt with these parts, in the one spelling as far as they have one."""
    protected = headers if isinstance(headers, bytes) else encode_cbor({k: v for k, v in headers.items() if v is not ABSENT})
    return encode_cbor(cbor2.CBORTag(18, [protected, unprotected, payload, signature]))


def proven(*items: object) -> dict[int, Any]:
    """An unprotected header with these proofs of inclusion."""
    return {396: {-1: list(items)}}


@given(
    st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=255), st.integers(2, MAX_SIZE),
    st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=63), st.data(),
)  # fmt: skip
def test_a_receipt_comes_back_as_it_was(issuer: str, size: int, path: list[bytes], data: st.DataObject) -> None:
    index, by = data.draw(st.integers(0, size - 1)), signer("log")
    written = encode_receipt(
        issuer, size=size, index=index, path=tuple(path), root=bytes(32), algorithm=ED25519, kid=by.public.thumbprint(), sign=by.sign
    )
    receipt = parse_receipt(written)
    assert (receipt.issuer, receipt.size, receipt.index, receipt.path) == (issuer, size, index, tuple(path))
    assert by.public.verify(receipt.sign1.signature, sign1_bytes(receipt.sign1.protected, bytes(32)))


def test_reader_is_total() -> None:
    assert_parser_is_total(parse_receipt, DATA)
    assert_parser_is_total(inclusion_of, PROOF)


def test_a_receipt_of_another_algorithm_is_read() -> None:
    assert parse_receipt(LOG.receipt(5, by=new_signer(ES256))).sign1.algorithm == ES256


def test_numbers_are_those_of_the_rfc_and_one_of_ours() -> None:
    assert (VDS, VDP) == (395, 396)
    assert HEADERS[15] == {1: ORIGIN, -65_537: 9}


def test_the_parts_are_put_together_again() -> None:
    """Or the refusals below would be of something else."""
    assert spelt() == DATA
    assert parse_receipt(spelt(signature=bytes(64))).index == 5


CLAIMS = HEADERS[15]
SPELT = "expected deterministic CBOR"
TWICE = DATA.replace(b"\xa1\x19\x01\x8c\xa1\x20", b"\xa1\x19\x01\x8c\xa2\x20\x80\x20")
LABELS = "vds 1 in the protected header, proofs in the other"
ONE = "one proof of inclusion"
HASHES = "an index below the size, and hashes of 32 bytes"
PATH = cbor2.loads(PROOF)[2]


@pytest.mark.parametrize(
    "data, expected",
    [
        # those that the manifest of the vectors asks for
        pytest.param(spelt(payload=bytes(32)), "a detached payload", id="a payload, which is another root"),
        pytest.param(spelt(payload=b""), "a detached payload", id="an empty payload"),
        pytest.param(spelt({**HEADERS, 396: UNPROTECTED[396]}, {}), LABELS, id="proofs in the protected header"),
        pytest.param(spelt({**HEADERS, 396: UNPROTECTED[396]}), "no such label", id="proofs in both headers"),
        pytest.param(DATA + b"\0", f"receipt: {SPELT}", id="a byte behind"),
        pytest.param(spelt(unprotected=proven(PROOF + b"\0")), f"inclusion proof: {SPELT}", id="a byte behind the proof"),
        pytest.param(spelt(PROTECTED + b"\0"), f"receipt protected header: {SPELT}", id="a byte behind the protected header"),
        pytest.param(spelt(b"\xa5" + PROTECTED[1:] + b"\x01\x32"), "one well-formed CBOR item", id="alg twice"),
        pytest.param(TWICE, "one well-formed CBOR item", id="proofs of inclusion twice"),
        pytest.param(spelt({**HEADERS, 395: 2}), LABELS, id="another data structure"),
        pytest.param(spelt({**HEADERS, 395: ABSENT}), "key 395", id="no data structure"),
        pytest.param(spelt({**HEADERS, 395: ABSENT}, {**UNPROTECTED, 395: 1}), "key 395", id="a data structure that nobody signed"),
        pytest.param(spelt(unprotected={**UNPROTECTED, 395: 1}), "no such label", id="a data structure in both headers"),
        # what ours has beyond the RFC, and what it has not
        pytest.param(cbor2.dumps(cbor2.loads(DATA).value), "tag 18", id="no tag"),
        pytest.param(spelt({**HEADERS, 4: ABSENT}), "key 4", id="no kid"),
        pytest.param(spelt({**HEADERS, 4: b"k"}), "32 bytes", id="a short kid"),
        pytest.param(spelt({**HEADERS, 1: -7}), "alg", id="an algorithm of others"),
        pytest.param(spelt({**HEADERS, 15: ABSENT}), "key 15", id="no claims"),
        pytest.param(spelt({**HEADERS, 15: {1: ORIGIN}}), f"key {SIZE}", id="no size"),
        pytest.param(spelt({**HEADERS, 15: {SIZE: 9}}), "key 1", id="no issuer"),
        pytest.param(spelt({**HEADERS, 15: {**CLAIMS, 1: ""}}), "1 to 255 characters", id="an empty issuer"),
        pytest.param(spelt({**HEADERS, 15: {**CLAIMS, 2: "x"}}), "no unknown key", id="another claim"),
        pytest.param(spelt({**HEADERS, 3: "text/plain"}), "no unknown key", id="a content type"),
        pytest.param(spelt({**HEADERS, 16: "x"}), "no unknown key", id="a type"),
        pytest.param(spelt({**HEADERS, 5: b"x"}), "known labels only", id="an unknown label"),
        pytest.param(spelt({**HEADERS, 394: []}), "known labels only", id="receipts within"),
        pytest.param(spelt(unprotected={}), LABELS, id="no proofs"),
        pytest.param(spelt(unprotected={396: []}), "a map", id="proofs that are no map"),
        pytest.param(spelt(unprotected={396: {-2: [PROOF]}}), "key -1", id="proofs of consistency alone"),
        pytest.param(spelt(unprotected={396: {-1: [PROOF], -2: []}}), "no unknown key", id="proofs of consistency beside it"),
        pytest.param(spelt(unprotected={396: {-111: [PROOF]}}), "key -1", id="the number of early drafts"),
        pytest.param(spelt(unprotected=proven()), ONE, id="no proof"),
        pytest.param(spelt(unprotected=proven(PROOF, PROOF)), "at most 1 items", id="two proofs"),
        pytest.param(spelt(unprotected=proven([9, 5, PATH])), ONE, id="a proof that is not in bytes"),
        pytest.param(spelt(unprotected=proven(encode_cbor([8, 5, PATH]))), "receipt size: expected 9, got 8", id="another size"),
        pytest.param(spelt(unprotected=proven(encode_cbor([9, 9, PATH]))), HASHES, id="an index beyond the size"),
        pytest.param(spelt(unprotected=proven(encode_cbor([9, 5, []]))), HASHES, id="no path"),
        pytest.param(spelt(unprotected=proven(encode_cbor([9, 5, [bytes(31)]]))), HASHES, id="a short hash"),
        pytest.param(spelt(unprotected=proven(encode_cbor([9, 5, ["x" * 32]]))), HASHES, id="a hash that is text"),
        pytest.param(spelt(unprotected=proven(encode_cbor([9, 5, [bytes(32)] * 64]))), "at most 63 items", id="64 hashes"),
        pytest.param(spelt(unprotected=proven(encode_cbor([9, 5]))), "[size, index, path]", id="a proof of two"),
        pytest.param(spelt(unprotected=proven(encode_cbor([9, 5, PATH, 1]))), "[size, index, path]", id="a proof of four"),
        pytest.param(spelt(unprotected=proven(encode_cbor({0: 9, 1: 5, 2: PATH}))), "[size, index, path]", id="a proof that is a map"),
        pytest.param(spelt(unprotected=proven(encode_cbor([True, 5, PATH]))), "an integer", id="a size that is true"),
        pytest.param(spelt(unprotected=proven(encode_cbor([-1, 5, PATH]))), f"0 to {MAX_SIZE}", id="a negative size"),
        pytest.param(spelt(unprotected=proven(b"\x83\x18\x09" + PROOF[2:])), f"inclusion proof: {SPELT}", id="a size in another spelling"),
        pytest.param(spelt(signature=SIGNATURE[:-1]), "64 bytes", id="a short signature"),
        pytest.param(DATA + bytes(MAX_RECEIPT), f"at most {MAX_RECEIPT} bytes", id="too long"),
    ],
)  # fmt: skip
def test_a_receipt_that_is_none_is_refused_by_name(data: bytes, expected: str) -> None:
    assert data != DATA
    with pytest.raises(FormatError, match=re.escape(expected)):
        parse_receipt(data)


def test_the_entry_of_a_log_of_one_has_no_receipt() -> None:
    with pytest.raises(Misuse, match="a log of one"):
        MemoryLog([b"only"]).receipt(0)
