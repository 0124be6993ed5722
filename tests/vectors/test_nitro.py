"""Real Nitro documents: values and verdicts as the manifest states them, at a time in the window of each, under the pinned root."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest

from tests.vectors.manifest import rows, run
from writ.formats.digest import Digest
from writ.formats.tee.nitro import document_in_names
from writ.formats.x509 import parse_pem_certificates
from writ.verdict.nitro_roots import NITRO_CERTIFICATES, NITRO_ROOT

FOLDER: Final = "nitro"
CASES: Final = ("dstack/nsm_attestation.cbor", "evervault/valid-attestation-doc.cbor", "veracruz/aws_nitro_document.cbor")
BAD: Final = "veracruz/aws_nitro_document_bad_sig.cbor"
AROUND: Final = "evervault/non-debug-cert-containing-attestation-document-18-1-23.pem"
AROUND_AT: Final = 1_674_054_914
PCRS: Final = {"0": "d265a83f", "1": "bcdf05fe", "2": "e4f634d2", "8": "97c5395a"}
NOTES: Final = ["nonce-unknown", "revocation-unknown"]


def expected(vectors: Path, case: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((vectors / FOLDER / f"{case}.expected.json").read_bytes())
    return found


def said(result: dict[str, Any]) -> tuple[str, list[str]]:
    """The verdict, and each code once: what is not known of revocation is noted of each CA."""
    return str(result["verdict"]), sorted({reason["code"] for reason in result["reasons"]})


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


@pytest.mark.parametrize("case", CASES)
def test_document_says_what_the_manifest_says_and_verifies_in_its_window(vectors: Path, case: str) -> None:
    told = expected(vectors, case)
    window = [seconds(told["collector_check"][f"chain_valid_{name}"]) for name in ("from", "until")]
    for at in (*window, sum(window) // 2):
        result = run("nitro", vectors / FOLDER / case, now=at)
        assert said(result) == ("accepted", NOTES)
    claims = result["claims"]
    for name in ("module_id", "pcrs", "nonce", "user_data", "public_key"):
        assert claims[name] == told[name]
    assert (claims["timestamp"], claims["debug"]) == (told["timestamp_ms"], told["debug_mode"])
    assert claims["chain"].startswith("pinned root: CN=aws.nitro-enclaves")
    for at in (window[0] - 1, window[1] + 1):
        assert said(run("nitro", vectors / FOLDER / case, now=at)) == ("refused", ["certificate-expired"])


def test_nonce_is_the_one_of_the_document_and_no_other(vectors: Path) -> None:
    told = expected(vectors, CASES[2])
    at = told["timestamp_ms"] // 1000
    argv = ("nitro", vectors / FOLDER / CASES[2], "--trust", vectors / FOLDER / "trust", "--nonce")
    assert said(run(*argv, told["nonce"], now=at)) == ("accepted", ["revocation-unknown"])
    assert said(run(*argv, told["nonce"][:-2], now=at)) == ("refused", ["nonce-mismatch", "revocation-unknown"])


def test_corrupted_signature_is_refused(vectors: Path) -> None:
    at = expected(vectors, CASES[2])["timestamp_ms"] // 1000
    assert said(run("nitro", vectors / FOLDER / BAD, now=at)) == ("refused", ["signature-invalid"])


def test_certificate_with_a_document_in_its_names_is_bound_by_it(vectors: Path) -> None:
    result = run("nitro", vectors / FOLDER / AROUND, now=AROUND_AT)
    assert said(result) == ("accepted", NOTES)
    assert {index: result["claims"]["pcrs"][index][:8] for index in PCRS} == PCRS
    certificate = parse_pem_certificates((vectors / FOLDER / AROUND).read_bytes(), AROUND)[0]
    assert result["claims"]["user_data"] == certificate.spki.hex()
    assert said(run("nitro", vectors / FOLDER / AROUND, now=AROUND_AT + 86_400)) == ("refused", ["certificate-expired"])


def test_document_in_text_is_read_and_a_cut_or_prolonged_one_is_not(vectors: Path, tmp_path: Path) -> None:
    case, at = vectors / FOLDER / CASES[0], expected(vectors, CASES[0])["timestamp_ms"] // 1000
    data, path = case.read_bytes(), tmp_path / "document"
    certificate = parse_pem_certificates((vectors / FOLDER / AROUND).read_bytes(), AROUND)[0]
    for text in (data.hex().encode(), b"\xd2" + data):
        path.write_bytes(text)
        assert said(run("nitro", path, now=at)) == ("accepted", NOTES)
    path.write_bytes(document_in_names(certificate))
    assert said(run("nitro", path, now=AROUND_AT)) == ("accepted", NOTES)
    for spoilt in (data[:-1], data + b"\0", data[1:], b""):
        path.write_bytes(spoilt)
        assert said(run("nitro", path, now=at)) == ("refused", ["malformed"])


def test_root_of_the_vectors_is_the_one_that_is_pinned(vectors: Path) -> None:
    given = parse_pem_certificates((vectors / FOLDER / "trust" / "aws_nitro_root.pem").read_bytes(), "root")
    assert given == NITRO_CERTIFICATES
    assert {Digest.of(one.der) for one in given} == {NITRO_ROOT}


def test_every_row_of_the_manifest_is_a_case_here(vectors: Path) -> None:
    assert rows(vectors, FOLDER) == {*CASES, BAD, AROUND, "trust/aws_nitro_root.pem"}
