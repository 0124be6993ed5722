"""Signatures of ML-DSA-44, which our notes leave room for, and the edges of Ed25519. Wycheproof's Ed25519 and P-256 are in
`tests/writ/formats/test_keys.py`."""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from writ.formats.errors import FormatError
from writ.formats.keys import ED25519, PublicKey


def test_wycheproof_ml_dsa_44_gets_its_result_from_the_library(vectors: Path) -> None:
    """No format of ours has such a key yet: what is shown is that the library which would judge it may be believed."""
    groups = json.loads((vectors / "audit/wycheproof/mldsa_44_verify_test.json").read_text())["testGroups"]
    judged = 0
    for group in groups:
        for case in group["tests"]:
            try:
                key = mldsa.MLDSA44PublicKey.from_public_bytes(bytes.fromhex(group["publicKey"]))
                key.verify(bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"]), bytes.fromhex(case.get("ctx", "")) or None)
                verdict = True
            except (InvalidSignature, ValueError):
                verdict = False
            assert verdict is (case["result"] == "valid"), case["tcId"]
            judged += 1
    assert judged == 180


def test_cctv_edges_are_taken_as_by_others_but_where_key_or_commitment_is_of_small_order(vectors: Path) -> None:
    """The library takes 208. We refuse the keys of 122 of these: each is of small order, and one signature under it fits many messages;
    and 43 more, whose R is of small order. What Node's WebCrypto takes is in `tests/peers/test_receipts.py`."""
    cases = json.loads((vectors / "audit/cctv/ed25519vectors.json").read_text())
    library, ours = set(), set()
    for case in cases:
        raw, signature, message = bytes.fromhex(case["key"]), bytes.fromhex(case["sig"]), case["msg"].encode()
        try:
            Ed25519PublicKey.from_public_bytes(raw).verify(signature, message)
            library.add(case["number"])
        except InvalidSignature:
            pass
        try:
            if PublicKey(ED25519, raw).verify(signature, message):
                ours.add(case["number"])
        except FormatError:
            pass
    small = {case["number"] for case in cases if {"low_order_A", "low_order_R"} & {*(case["flags"] or ())}}
    assert (len(cases), len(library), len(ours)) == (914, 208, 43)
    assert ours == library - small
