"""python-cwt as it is, and RFC 9942 by hand: {receipt, entry, key} in JSON and hex on standard input.

Index and size on standard output, or exit 1 with what python-cwt calls it. The path is followed here and not by us: a receipt that no one
but its writer could read would be worth little.
"""

from __future__ import annotations

import hashlib
import json
import sys

import cbor2
from cwt import COSE, COSEKey

asked = {name: bytes.fromhex(value) for name, value in json.load(sys.stdin).items()}


def hashed(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


message = cbor2.loads(asked["receipt"])
unprotected = message.value[1]
size, index, path = cbor2.loads(unprotected[396][-1][0])

# RFC 9162 section 2.1.3.2
fn, sn, root = index, size - 1, hashed(b"\x00", asked["entry"])
for sibling in path:
    if sn == 0:
        sys.exit("PathTooLong")
    if fn & 1 or fn == sn:
        root = hashed(b"\x01", sibling, root)
        while not fn & 1 and fn:
            fn, sn = fn >> 1, sn >> 1
    else:
        root = hashed(b"\x01", root, sibling)
    fn, sn = fn >> 1, sn >> 1
if sn or index >= size:
    sys.exit("PathTooShort")

try:
    key = COSEKey.new(cbor2.loads(asked["key"]))
    protected, _, _ = COSE.new().decode_with_headers(asked["receipt"], key, detached_payload=root)
except Exception as error:  # noqa: BLE001 - whatever it is, it is told by its name
    sys.exit(type(error).__name__)
if protected[395] != 1:
    sys.exit("AnotherStructure")
print(index, size, protected[15][1])
