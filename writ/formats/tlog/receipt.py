"""COSE Receipts: an entry is in a log, said by the log's key in one COSE_Sign1.

The signature covers the root, which is not sent: whoever verifies makes it from the entry and the path. It does not cover size and index of
the proof, by which one path can lead to one root from two places. So ours says the size once more where it is signed, among the CWT claims,
and a receipt in which the two differ is refused; under one size a path fits one index.

    protected     alg, kid, CWT claims {iss, size}, vds 1 (RFC9162_SHA256)
    unprotected   396: {-1: [ << [size, index, [+ hash]] >> ]}
    payload       null

A tree of one entry has no path, which the CDDL cannot say: no receipt below size 2.

Source: RFC 9942 (June 2026), sections 4, 5; RFC 9597.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from writ.formats.cose import ALG, CWT_CLAIMS, KID, Sign1, encode_sign1, parse_sign1
from writ.formats.errors import FormatError, Misuse
from writ.formats.strict import Fields, decode_cbor, encode_cbor
from writ.formats.tlog.merkle import HASH_SIZE, MAX_SIZE, MOST_HASHES

VDS: Final = 395
VDP: Final = 396
RFC9162_SHA256: Final = 1
INCLUSION: Final = -1
ISS: Final = 1
SIZE: Final = -65_537
"""Private claim: the size of the tree whose root is signed."""
MAX_RECEIPT: Final = 8192


@dataclass(frozen=True, slots=True)
class Receipt:
    """As parsed; says nothing yet about who signed it, nor which entry it is of."""

    sign1: Sign1
    issuer: str
    size: int
    index: int
    path: tuple[bytes, ...]


def encode_receipt(
    issuer: str, *, size: int, index: int, path: tuple[bytes, ...], root: bytes, algorithm: str, kid: bytes,
    sign: Callable[[bytes], bytes],
) -> bytes:  # fmt: skip
    """The receipt of the entry at `index` of the log of `size` under `root`. Raises Misuse for a log of one entry."""
    if not path:
        raise Misuse("a receipt takes a path, which the entry of a log of one has not")
    proof = encode_cbor([size, index, list(path)])
    return encode_sign1(
        root, algorithm=algorithm, kid=kid, sign=sign, detached=True,
        headers={VDS: RFC9162_SHA256, CWT_CLAIMS: {ISS: issuer, SIZE: size}}, unprotected={VDP: {INCLUSION: [proof]}},
    )  # fmt: skip


def parse_receipt(data: bytes) -> Receipt:
    """Read a receipt of ours.

    1. A tagged COSE_Sign1 of ours, its payload detached, with kid, issuer and size, and nothing else in the protected header.
    2. The data structure is 1, and it is in the protected header.
    3. There is one proof, of inclusion, of at least one hash, for that size.

    Raises FormatError.
    """
    # 1
    sign1 = parse_sign1(data, known_labels={VDS, VDP}, what="receipt", max_size=MAX_RECEIPT)
    headers = Fields(sign1.headers, "receipt")
    headers.any(ALG)
    headers.raw(KID, size=32)
    if sign1.payload is not None:
        raise FormatError("receipt", "a detached payload", "one that is sent")
    # 2
    if headers.uint(VDS) != RFC9162_SHA256 or set(sign1.unprotected) != {VDP}:
        raise FormatError("receipt", "vds 1 in the protected header, proofs in the other", "something else")
    claims = headers.fields(CWT_CLAIMS)
    issuer, size = claims.text(ISS, most=255, least=1), claims.uint(SIZE, most=MAX_SIZE)
    claims.done()
    headers.done()
    # 3
    proofs = Fields(sign1.unprotected[VDP], "receipt proofs")
    items = proofs.items(INCLUSION, most=1)
    proofs.done()
    if len(items) != 1 or not isinstance(items[0], bytes):
        raise FormatError("receipt", "one proof of inclusion", f"{len(items)}")
    said, index, path = inclusion_of(items[0])
    if said != size:
        raise FormatError("receipt size", str(size), str(said))
    return Receipt(sign1, issuer, size, index, path)


def inclusion_of(data: bytes) -> tuple[int, int, tuple[bytes, ...]]:
    """Size, index and path of an inclusion proof. Raises FormatError."""
    value: Any = decode_cbor(data, "inclusion proof")
    if not isinstance(value, list) or len(value) != 3:
        raise FormatError("inclusion proof", "[size, index, path]", type(value).__name__)
    f = Fields(dict(enumerate(value)), "inclusion proof")
    size, index, path = f.uint(0, most=MAX_SIZE), f.uint(1, most=MAX_SIZE), f.items(2, most=MOST_HASHES)
    if index >= size or not path or not all(isinstance(one, bytes) and len(one) == HASH_SIZE for one in path):
        raise FormatError("inclusion proof", "an index below the size, and hashes of 32 bytes", f"index {index} of {size}")
    return size, index, tuple(path)
