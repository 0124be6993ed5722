"""COSE messages of others: every example of the COSE working group, the draft's receipts, and statements registered in a ledger.

We read receipts of ours alone: a receipt of another log, under another ledger's rules, is read here by cbor2 and judged by cryptography.
Nothing in the product waits for one.
"""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import cbor2
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.writ.formats.test_cose import _key
from writ.formats.cose import parse_sign1, sign1_bytes, verify_sign1
from writ.formats.errors import FormatError
from writ.formats.tlog import merkle
from writ.formats.tlog.receipt import inclusion_of, parse_receipt

# --- the examples of the COSE working group --------------------------------------------------------------------------------

VERIFIES: Final = "verifies"
FAILS: Final = "does not verify"
ES512: Final = "refused: alg, expected -19 or -9"
SEVERAL: Final = "refused: tag 98"  # COSE_Sign, of several signers, which no format of ours is
EXAMPLES: Final = {
    "CWT/A_3": VERIFIES,
    "CWT/A_4": "refused: tag 17",  # a MAC, and encryption below: no format of ours is one
    "CWT/A_5": "refused: tag 16",
    "CWT/A_6": "refused: tag 16",
    "CWT/A_7": "refused: tag 17",
    **{f"ecdsa-examples/ecdsa-0{number}": SEVERAL for number in (1, 2, 3, 4)},
    "ecdsa-examples/ecdsa-sig-01": VERIFIES,
    "ecdsa-examples/ecdsa-sig-02": VERIFIES,
    "ecdsa-examples/ecdsa-sig-03": ES512,
    "ecdsa-examples/ecdsa-sig-04": ES512,
    "eddsa-examples/eddsa-01": SEVERAL,
    "eddsa-examples/eddsa-02": SEVERAL,
    "eddsa-examples/eddsa-sig-01": VERIFIES,
    "eddsa-examples/eddsa-sig-02": "refused: signature, expected 64 bytes",  # EdDSA here is Ed25519, never Ed448
    "sign1-tests/sign-fail-01": "refused: tag 998",
    "sign1-tests/sign-fail-02": FAILS,
    "sign1-tests/sign-fail-03": ES512,
    "sign1-tests/sign-fail-04": ES512,
    "sign1-tests/sign-fail-06": FAILS,
    "sign1-tests/sign-fail-07": FAILS,
    "sign1-tests/sign-pass-01": ES512,  # good COSE; an alg that nothing signs is not ours to believe
    "sign1-tests/sign-pass-02": VERIFIES,
    "sign1-tests/sign-pass-03": VERIFIES,
}
"""Example -> what it comes to. What is not supported is refused by the name of what it is."""


def outcome(example: Any) -> str:
    data = bytes.fromhex(example["output"]["cbor"])
    try:
        sign1 = parse_sign1(data, foreign=True, tagged=data[0] >> 5 == 6)
    except FormatError as error:
        what = error.what.removeprefix("COSE_Sign1 ").removeprefix("protected header, ")
        return f"refused: {error.got}" if error.got.startswith("tag") else f"refused: {what}, expected {error.expected}"
    said = example["input"]["sign0"]
    return VERIFIES if verify_sign1(sign1, _key(said["key"]), external_aad=bytes.fromhex(said.get("external", ""))) else FAILS


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_of_the_working_group_comes_to_what_the_table_says(vectors: Path, name: str) -> None:
    example = json.loads((vectors / "audit/cose_wg_examples" / f"{name}.json").read_text())
    found = outcome(example)
    assert found.startswith(EXAMPLES[name])
    assert not (example.get("fail") and found == VERIFIES)


# --- receipts of the draft that became RFC 9942 ------------------------------------------------------------------------------


def test_published_receipt_of_inclusion_leads_to_a_root_from_any_leaf(vectors: Path) -> None:
    """Neither leaf nor key was published: its parts are read, its signature is over a root that nobody can make."""
    data = (vectors / "audit/cose_receipts/examples/inclusion-receipt.cbor").read_bytes()
    sign1 = parse_sign1(data, foreign=True, known_labels=(395, 396))
    assert (sign1.algorithm, sign1.headers[395], sign1.payload, list(sign1.headers[15])) == ("ES256", 1, None, [1])
    (proof,) = sign1.unprotected[396][-1]
    size, index, path = inclusion_of(proof)
    assert (size, index, len(path)) == (5, 3, 3)
    assert merkle.root_from_path(bytes(32), index, size, path) is not None
    assert merkle.root_from_path(bytes(32), index, size, path[:-1]) is None
    with pytest.raises(FormatError, match=r"deterministic CBOR|alg"):
        parse_receipt(data)  # ours name the size where it is signed, and spell the header in one order


def test_published_receipt_of_consistency_has_the_hashes_of_three_in_five(vectors: Path) -> None:
    data = (vectors / "audit/cose_receipts/examples/consistency-receipt.cbor").read_bytes()
    sign1 = parse_sign1(data, foreign=True, known_labels=(395, 396))
    (proof,) = sign1.unprotected[396][-2]
    old, size, path = cbor2.loads(proof)
    assert (old, size) == (3, 5)
    leaves = [merkle.leaf_hash(bytes([number])) for number in range(5)]
    assert len(path) == len(merkle.consistency_proof(leaves, 3))
    with pytest.raises(FormatError):
        parse_receipt(data)


# --- signed statements -----------------------------------------------------------------------------------------------------

HASHES: Final[dict[int, type[hashes.SHA256 | hashes.SHA384]]] = {
    -37: hashes.SHA256,
    -38: hashes.SHA384,
    -7: hashes.SHA256,
    -35: hashes.SHA384,
}
ALGORITHMS: Final = {-37: "PS256", -38: "PS384", -7: "ES256", -35: "ES384"}


def parts(data: bytes) -> tuple[bytes, dict[Any, Any], dict[Any, Any], Any, bytes]:
    """Protected header in bytes and read, unprotected header, payload and signature of a tagged COSE_Sign1."""
    value = cbor2.loads(data)
    assert value.tag == 18
    protected, unprotected, payload, signature = value.value
    return protected, cbor2.loads(protected), unprotected, payload, signature


def verify(key: Any, algorithm: int, signature: bytes, message: bytes) -> None:
    """Raises InvalidSignature."""
    hashed = HASHES[algorithm]()
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, message, padding.PSS(padding.MGF1(hashed), padding.PSS.DIGEST_LENGTH), hashed)
        return
    half = len(signature) // 2
    der = utils.encode_dss_signature(int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))
    key.verify(der, message, ec.ECDSA(hashed))


STATEMENTS: Final = {
    "payloads/cosesign1tool-scitt-a3be7e5.cose": "ES256, x5chain",
    "payloads/css-attested-cosesign1-20250617.cose": "ES384, attested key",
    "payloads/css-attested-cosesign1-20250812.cose": "ES384, attested key",
    "payloads/css-attested-cosesign1-20250925.cose": "ES256, x5chain",
    "payloads/css-attested-cosesign1-20260302.cose": "ES384, attested key",
    "payloads/cts-hashv-cwtclaims-b64url.cose": "PS256, x5chain",
    "payloads/manifest.spdx.json.sha384.digest.cose": "PS384, x5chain",
    "transparent_statements/uvm_0.2.10.cose": "PS384, x5chain",
}
"""Statement -> its algorithm, and whose key signed it."""


@pytest.mark.parametrize("name", STATEMENTS)
def test_signed_statement_is_signed_by_the_key_that_it_names(vectors: Path, name: str) -> None:
    """A certificate, or a key that a report of SEV-SNP carries; whether to believe either is not asked here."""
    data = (vectors / "audit/scitt/test" / name).read_bytes()
    protected, headers, _, payload, signature = parts(data)
    if 33 in headers:
        key: Any = x509.load_der_x509_certificate(headers[33][0]).public_key()
        if 34 in headers and headers[34][0] == -16:
            assert headers[34][1] == sha256(headers[33][0]).digest()
    else:
        (attested,) = [value for value in headers.values() if isinstance(value, dict) and "cose_key" in value]
        said = cbor2.loads(attested["cose_key"]) if isinstance(attested["cose_key"], bytes) else attested["cose_key"]
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), b"\4" + said[-2] + said[-3])
    assert STATEMENTS[name] == f"{ALGORITHMS[headers[1]]}, {'x5chain' if 33 in headers else 'attested key'}"
    assert headers[15][1].startswith("did:")
    verify(key, headers[1], signature, sign1_bytes(protected, payload))
    with pytest.raises(InvalidSignature):
        verify(key, headers[1], signature, sign1_bytes(protected, payload + b"x"))


@pytest.mark.parametrize("name", STATEMENTS)
def test_signed_statement_is_no_message_of_ours(vectors: Path, name: str) -> None:
    """Times with tag 1, critical extensions, texts as labels, RSA: none is read even as a foreign message; nor is a receipt."""
    data = (vectors / "audit/scitt/test" / name).read_bytes()
    with pytest.raises(FormatError):
        parse_receipt(data)
    with pytest.raises(FormatError):
        parse_sign1(data, foreign=True)


def test_receipt_of_before_the_rfc_is_refused(vectors: Path) -> None:
    """Label 394 holds an array of CBOR that is no COSE_Sign1: a reader of RFC 9942 must not take it."""
    _, _, unprotected, _, _ = parts((vectors / "audit/scitt/test/payloads/cts-hashv-cwtclaims-b64url.cose").read_bytes())
    (old,) = unprotected[394]
    assert isinstance(cbor2.loads(old), list)
    with pytest.raises(FormatError, match=r"bytes|deterministic|tag"):
        parse_receipt(old)
    with pytest.raises(FormatError, match="tag 18"):
        parse_sign1(old, foreign=True, known_labels=(395, 396), what="receipt")


# --- a transparent statement of a production ledger, end to end ----------------------------------------------------------------


def ccf_root(leaf: list[Any], path: list[Any]) -> bytes:
    """draft-ietf-scitt-receipts-ccf-profile-06: the root that the proof leads to."""
    transaction, evidence, data_hash = leaf
    value = sha256(transaction + sha256(evidence.encode()).digest() + data_hash).digest()
    for left, other in path:
        value = sha256(other + value if left else value + other).digest()
    return value


def test_transparent_statement_of_azure_is_registered_and_signed(vectors: Path) -> None:
    """1. The statement is signed by its chain's leaf. 2. The receipt is of this statement. 3. The ledger's key signed the root."""
    folder = vectors / "audit/scitt/test/transparent_statements"
    data = (folder / "uvm_0.2.10.cose").read_bytes()
    protected, headers, unprotected, payload, signature = parts(data)
    # 1
    verify(x509.load_der_x509_certificate(headers[33][0]).public_key(), headers[1], signature, sign1_bytes(protected, payload))
    fingerprint = headers[15][1].split(":")[4]
    assert fingerprint in {base64.urlsafe_b64encode(sha256(one).digest()).decode().rstrip("=") for one in headers[33][1:]}
    # 2
    (receipt,) = unprotected[394]
    signed, said, proofs, detached, by = parts(receipt)
    assert (said[1], said[395], detached, list(proofs[396])) == (-35, 2, None, [-1])
    (proof,) = proofs[396][-1]
    told = cbor2.loads(proof)
    bare = b"\xd2\x84" + cbor2.dumps(protected) + b"\xa0" + cbor2.dumps(payload) + cbor2.dumps(signature)
    assert told[1][2] == sha256(bare).digest()
    # 3
    keys = {}
    for one in json.loads((folder / "esrp-cts-db.json").read_text())["parameters"]:
        key = x509.load_der_x509_certificate(base64.b64decode(one["serviceCertificate"])).public_key()
        keys[sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest().encode()] = key
    root = ccf_root(told[1], told[2])
    verify(keys[said[4]], said[1], by, sign1_bytes(signed, root))
    other = ccf_root([*told[1][:2], sha256(data).digest()], told[2])
    for key, spoilt in ((keys[said[4]], other), (next(value for kid, value in keys.items() if kid != said[4]), root)):
        with pytest.raises(InvalidSignature):
            verify(key, said[1], by, sign1_bytes(signed, spoilt))
    # Ours are of RFC 9162 alone.
    with pytest.raises(FormatError):
        parse_receipt(receipt)
