"""A receipt of ours read by a COSE library that nobody here wrote, and Ed25519 judged alike by Node's WebCrypto."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.peers.conftest import LIB, node
from tests.signers import MemorySigner, new_signer
from tests.world.tlog import ORIGIN, MemoryLog
from writ.formats.errors import FormatError
from writ.formats.keys import ALGORITHMS, ED25519, PublicKey
from writ.formats.strict import encode_cbor

pytestmark = pytest.mark.peers

LOG = MemoryLog([b"%d" % number for number in range(9)])


def read_by_cwt(receipt: bytes, entry: bytes, by: MemorySigner) -> tuple[int, str]:
    """Exit status of python-cwt, and what it says."""
    key = {**by.public.to_cose_key(), 2: by.public.thumbprint(), 3: {"Ed25519": -19, "ES256": -9}[by.public.algorithm]}
    told = {"receipt": receipt.hex(), "entry": entry.hex(), "key": encode_cbor(key).hex()}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", Path(__file__).parent / "verifiers/with_cwt.py"], input=json.dumps(told), text=True,
        capture_output=True, check=False, timeout=60, env={"PYTHONPATH": str(LIB)},
    )  # fmt: skip
    return done.returncode, (done.stdout + done.stderr).strip()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_receipt_is_verified_by_python_cwt(algorithm: str) -> None:
    by = new_signer(algorithm)
    for index in (0, 5, 8):
        assert read_by_cwt(LOG.receipt(index, by=by), LOG.entries[index], by) == (0, f"{index} 9 {ORIGIN}")


def test_a_receipt_of_another_entry_key_or_log_is_refused_by_python_cwt() -> None:
    by = new_signer()
    receipt = LOG.receipt(5, by=by)
    assert read_by_cwt(receipt, LOG.entries[4], by) == (1, "VerifyError")
    assert read_by_cwt(receipt[:-1] + bytes([receipt[-1] ^ 1]), LOG.entries[5], by) == (1, "VerifyError")
    assert read_by_cwt(receipt, LOG.entries[5], new_signer())[0] == 1
    assert read_by_cwt(MemoryLog(LOG.entries[:8]).receipt(5, by=by)[:-64] + receipt[-64:], LOG.entries[5], by) == (1, "VerifyError")


WEBCRYPTO = """
import { readFileSync } from "node:fs";
const accepted = [];
for (const one of JSON.parse(readFileSync(process.argv[1] ?? process.argv[2], "utf8"))) {
  try {
    const key = await crypto.subtle.importKey("raw", Buffer.from(one.key, "hex"), "Ed25519", false, ["verify"]);
    if (await crypto.subtle.verify("Ed25519", key, Buffer.from(one.sig, "hex"), Buffer.from(one.msg))) accepted.push(one.number);
  } catch {}
}
console.log(JSON.stringify(accepted));
"""


def test_node_accepts_exactly_the_edges_of_ed25519_that_we_do(vectors: Path) -> None:
    """A browser and a server agree on every signature: 43 of the 208 that OpenSSL takes. (Node 20 took all 208; Node 24 refuses keys and
    an R of small order, as we do.)"""
    file = vectors / "audit/cctv/ed25519vectors.json"
    done = subprocess.run(
        [node(), "--input-type=module", "--eval", WEBCRYPTO, file], capture_output=True, text=True, timeout=60, check=True
    )
    ours = set()
    for case in json.loads(file.read_text()):
        with suppress(FormatError):
            if PublicKey(ED25519, bytes.fromhex(case["key"])).verify(bytes.fromhex(case["sig"]), case["msg"].encode()):
                ours.add(case["number"])
    assert set(json.loads(done.stdout)) == ours
    assert len(ours) == 43
