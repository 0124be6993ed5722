"""Every published TPM quote gives the values and the verdict that its manifest and sidecar state, from `verifier check quote`.

The origins wrap their quotes in forms of their own (JSON, protobuf, a wire
string); each is unpacked here into the files that the command takes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.vectors.manifest import rows, run, said
from tests.vectors.protobuf import fields_of
from writ.formats.tpm.signature import parse_signature, verify_with_key
from writ.formats.x509 import parse_pem_certificates
from writ.formats.x509_key import certificate_key

FOLDER = "tpm-quotes"


@dataclass(frozen=True)
class Quote:
    """The inputs of one check, and the nonce that the origin states."""

    ak: bytes
    message: bytes
    signature: bytes
    pcrs: bytes | None
    nonce: bytes


def check(at: Path, quote: Quote, *, nonce: bytes | None = None, pcrs: bytes | None = None) -> dict[str, Any]:
    """What the command says of it; `nonce` and `pcrs` override."""
    argv: list[str | Path] = []
    values = quote.pcrs if pcrs is None else pcrs
    for name, data in (("ak", quote.ak), ("message", quote.message), ("signature", quote.signature), ("pcrs", values)):
        if data is not None:
            (at / name).write_bytes(data)
            argv += [f"--{name}", at / name]
    return run("quote", *argv, "--nonce", (quote.nonce if nonce is None else nonce).hex())


def expect_genuine(at: Path, quote: Quote, *, weak: bool = False) -> dict[str, Any]:
    """Accepted as it is; refused with another nonce, another PCR value, and a bit flipped in message or signature."""
    result = check(at, quote)
    assert said(result) == ("accepted", ["algorithm-refused"] if weak else [])
    claims: dict[str, Any] = result["claims"]
    assert claims["extra_data"] == quote.nonce.hex()
    assert claims["weak_signature"] is weak
    assert "nonce-mismatch" in said(check(at, quote, nonce=quote.nonce + b"x"))[1]
    for other in (spoilt(quote.message, -1), spoilt(quote.message, 30)):
        assert said(check(at, Quote(quote.ak, other, quote.signature, quote.pcrs, quote.nonce)))[0] == "refused"
    resigned = Quote(quote.ak, quote.message, spoilt(quote.signature, -9), quote.pcrs, quote.nonce)
    assert said(check(at, resigned))[0] == "refused"
    return claims


def spoilt(data: bytes, at: int) -> bytes:
    """One bit of `data` flipped."""
    copy = bytearray(data)
    copy[at] ^= 1
    return bytes(copy)


def equals_sidecar(claims: dict[str, Any], expected: dict[str, Any]) -> None:
    """The claims are what the collector read from the same bytes."""
    assert (claims["clock"], claims["reset_count"], claims["restart_count"]) == (
        expected["clock"], expected["reset_count"], expected["restart_count"],
    )  # fmt: skip
    assert (int(claims["safe"]), claims["extra_data"]) == (expected["safe"], expected["extra_data"])
    assert int(claims["firmware_version"], 16) == int(expected["firmware_version"], 16)
    assert claims["pcr_selection"] == dict(expected["pcr_select"])
    assert claims["pcr_digest"] == expected["pcr_digest"]


# --- each origin --------------------------------------------------------------------------------------------------------


def cmc(folder: Path, at: Path) -> None:
    """The AK comes as a certificate, which `ek-cert` judges: below ca.pem, not below ca_wrong.pem."""
    here = folder / "cmc"
    sidecar = json.loads((here / "expected.json").read_text())
    quote = Quote(
        (here / "ak_cert.pem").read_bytes(), (here / "quote.bin").read_bytes(), (here / "quote.sig").read_bytes(),
        json.dumps({"sha256": sidecar["pcrs"]}).encode(), bytes.fromhex("db6c3c042fa12645"),
    )  # fmt: skip
    equals_sidecar(expect_genuine(at, quote), sidecar["quote"])
    invalid = Quote(quote.ak, quote.message, (here / "quote_invalid.sig").read_bytes(), quote.pcrs, quote.nonce)
    assert said(check(at, invalid)) == ("refused", ["signature-invalid"])
    leaf = parse_pem_certificates(quote.ak, "AK")[0]
    for name, verdict in (("ca.pem", "accepted"), ("ca_wrong.pem", "refused")):
        trust = at / name.removesuffix(".pem")
        trust.mkdir()
        (trust / name).write_bytes((here / name).read_bytes())
        assert said(run("ek-cert", here / "ak_cert.pem", "--trust", trust, now=leaf.not_before))[0] == verdict, name


def go_attestation(folder: Path, at: Path) -> None:
    """A SHA-1 bank, signed with SHA-1: true, and named as weak."""
    document = json.loads((folder / "go-attestation/windows_gcp_shielded_vm.json").read_text())
    pcrs = {str(pcr["Index"]): base64.b64decode(pcr["Digest"]).hex() for pcr in document["Log"]["PCRs"]}
    quote = Quote(
        base64.b64decode(document["AK"]["Public"]), base64.b64decode(document["Quote"]["Quote"]),
        base64.b64decode(document["Quote"]["Signature"]), json.dumps({"sha1": pcrs}).encode(), base64.b64decode(document["Quote"]["Nonce"]),
    )  # fmt: skip
    assert expect_genuine(at, quote, weak=True)["pcr_selection"] == {"sha1": list(range(24))}
    pcrs["0"] = "00" * 20
    assert said(check(at, quote, pcrs=json.dumps({"sha1": pcrs}).encode()))[1] == ["pcr-digest-mismatch", "algorithm-refused"]


def go_tpm_tools(folder: Path, at: Path) -> None:
    """attest.Attestation: AK (1), quotes (2) of quote, signature and PCRs, AK certificate (4): one quote a bank."""
    fields = list(fields_of((folder / "go-tpm-tools/gce-cos-85-nonce9009.pb").read_bytes()))
    ak = next(value for number, value in fields if number == 1)
    banks = {4: "sha1", 11: "sha256", 12: "sha384"}
    seen = set()
    for number, value in fields:
        if number != 2:
            continue
        parts = dict(fields_of(value))
        inner = list(fields_of(parts[3]))
        bank = banks[dict(inner)[1]]
        entries = [dict(fields_of(entry)) for kind, entry in inner if kind == 2]
        values = {str(entry.get(1, 0)): entry[2].hex() for entry in entries}
        quote = Quote(ak, parts[1], parts[2], json.dumps({bank: values}).encode(), bytes.fromhex("9009"))
        assert expect_genuine(at, quote)["pcr_selection"] == {bank: sorted(map(int, values))}
        seen.add(bank)
    assert seen == set(banks.values())
    certificate = next((value for number, value in fields if number == 4), None)
    if certificate is not None:
        gce = folder.parent / "tpm-vendor-cas" / "gce"
        (at / "ak.der").write_bytes(certificate)
        assert said(run("ek-cert", at / "ak.der", "--trust", gce))[0] == "accepted"
        without = at / "malformed"
        without.mkdir()
        (without / "tpm_ek_root_1.cer").write_bytes((gce / "tpm_ek_root_1.cer").read_bytes())
        for name in ("tpm_ek_intermediate_2.crt", "tpm_ek_intermediate_3.crt"):
            (without / name).write_bytes((gce / name).read_bytes()[:-1])
        assert said(run("ek-cert", at / "ak.der", "--trust", without))[0] == "refused"


def immune(name: str) -> Callable[[Path, Path], None]:
    """A real machine; its AK is the one that the collector recovered. Of two candidates exactly one is the AK."""

    def row(folder: Path, at: Path) -> None:
        here = folder / "immune" / name
        sidecar = json.loads((here / "expected.json").read_text())
        message, signature = (here / "quote.bin").read_bytes(), (here / "quote.sig").read_bytes()
        for pem in sidecar["ak_public"]["pem"]:
            nonce = bytes.fromhex(sidecar["quote"]["extra_data"])
            quote = Quote(pem.encode(), message, signature, json.dumps(sidecar["pcrs"]).encode(), nonce)
            equals_sidecar(expect_genuine(at, quote), sidecar["quote"])

    return row


def completed(pem: bytes, message: bytes, signature: bytes) -> bytes:
    """The key whose PEM lost its last line: the last byte of the modulus and the exponent. The quote says which byte it was."""
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    assert len(der) == 4 + int.from_bytes(der[2:4], "big") - 6
    for last in range(1, 256, 2):
        whole = der + bytes((last,)) + bytes.fromhex("0203010001")
        if verify_with_key(parse_signature(signature), certificate_key(whole), message):
            return whole
    raise AssertionError("expected a byte that completes the key")


def keylime(folder: Path, at: Path) -> None:
    """tpm2-tools' dump in little endian. ak.pem as collected lacks its last line: it is refused as it is, and completed here."""
    here = folder / "keylime"
    dump, message, signature = ((here / name).read_bytes() for name in ("pcrs.bin", "quote.bin", "sig.bin"))
    nonce = b"Ai5M5SjYjnkyv4P7itH1"
    pem = (here / "ak.pem").read_bytes()
    assert said(check(at, Quote(pem, message, signature, dump, nonce))) == ("refused", ["malformed"])
    quote = Quote(completed(pem, message, signature), message, signature, dump, nonce)
    assert expect_genuine(at, quote)["firmware_version"] == "2019102300163636"
    for position in (0, 5, 7, 0x88, 0x8C, 0x8E):
        assert said(check(at, quote, pcrs=spoilt(dump, position)))[0] == "refused", position
    as_sha1 = dump[:4] + b"\x04\x00" + dump[6:]
    assert said(check(at, quote, pcrs=as_sha1)) == ("refused", ["malformed"])
    assert said(check(at, Quote(quote.ak, spoilt(message, 5), signature, dump, nonce)))[0] == "refused"


def rust_keylime(folder: Path, at: Path) -> None:
    """r<quote>:<signature>:<pcrs>, of a SHA-1 bank; its AK was not published, so another's stands in, and only the reading is judged."""
    text = (folder / "rust-keylime/test-quote.txt").read_text().strip()
    assert text[0] == "r"
    message, signature, pcrs = (base64.b64decode(part) for part in text[1:].split(":"))
    stranger = json.loads((folder / "trustee/tpm_evidence.json").read_text())["ak_public"]
    result = check(at, Quote(base64.b64decode(stranger), message, signature, pcrs, b"TEST"))
    assert result["claims"]["pcr_selection"] == {"sha1": [16]}
    assert said(result) == ("refused", ["signature-invalid", "algorithm-refused"])


def trustee(folder: Path, at: Path) -> None:
    """24 PCRs as a list, report data of 64 bytes."""
    document = json.loads((folder / "trustee/tpm_evidence.json").read_text())
    quoted = document["tpm_quote"]
    values = {str(index): value for index, value in enumerate(quoted["pcrs"])}
    assert len(values) == 24
    quote = Quote(
        base64.b64decode(document["ak_public"]), base64.b64decode(quoted["message"]), base64.b64decode(quoted["signature"]),
        json.dumps({"sha256": values}).encode(), b"",
    )  # fmt: skip
    extra = bytes.fromhex(check(at, quote)["claims"]["extra_data"])
    assert len(extra) == 64
    expect_genuine(at, Quote(quote.ak, quote.message, quote.signature, quote.pcrs, extra))


def vaportpm(folder: Path, at: Path) -> None:
    """An AK as a point, its signature as ECDSA in DER, and its certificate below Google's root."""
    document = json.loads((folder / "vaportpm/test-gcp-amd-fixture.json").read_text())
    point = document["ak_pubkeys"]["ecc_p256"]
    numbers = ec.EllipticCurvePublicNumbers(int(point["x"], 16), int(point["y"], 16), ec.SECP256R1())
    tpm = document["attestation"]["tpm"]["ecc_p256"]
    quote = Quote(
        numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), bytes.fromhex(tpm["attest_data"]),
        bytes.fromhex(tpm["signature"]), json.dumps(document["pcrs"]).encode(), bytes.fromhex(document["nonce"]),
    )  # fmt: skip
    expect_genuine(at, quote)
    chain = at / "chain.pem"
    chain.write_text(document["attestation"]["gcp"]["ak_cert_chain"])
    result = run("ek-cert", chain, "--at", "2026-02-03T11:00:00Z")
    assert result["verdict"] == "accepted"
    assert result["claims"]["chain"] == "pinned root: CN=EK/AK CA Root,OU=Google Cloud,O=Google LLC,L=Mountain View,ST=California,C=US"
    leaf = parse_pem_certificates(chain.read_bytes(), "chain")[0]
    assert leaf.spki == quote.ak


MACHINES = (
    "IMN-DELL-WBCL-BootCtrs", "IMN-SUPERMICRO-EPP-MSDefender", "dell-notebook-5eventlogs-WBCL", "failed-2", "good-1",
    "issue926-x1carbon-ancient", "latitude-7520", "ludmilla",
)  # fmt: skip
QUOTES: dict[str, Callable[[Path, Path], None]] = {
    **{f"cmc/{name}": cmc for name in ("ak_cert.pem", "ca.pem", "ca_wrong.pem", "quote.bin", "quote.sig", "quote_invalid.sig")},
    "go-attestation/windows_gcp_shielded_vm.json": go_attestation,
    "go-tpm-tools/gce-cos-85-nonce9009.pb": go_tpm_tools,
    **{f"immune/{name}/quote.{part}": immune(name) for name in MACHINES for part in ("bin", "sig")},
    **{f"keylime/{name}": keylime for name in ("ak.pem", "pcrs.bin", "quote.bin", "sig.bin")},
    "rust-keylime/test-quote.txt": rust_keylime,
    "trustee/tpm_evidence.json": trustee,
    "vaportpm/test-gcp-amd-fixture.json": vaportpm,
}


@pytest.mark.parametrize("file", sorted(QUOTES))
def test_quote_gives_what_its_manifest_says(vectors: Path, tmp_path: Path, file: str) -> None:
    QUOTES[file](vectors / FOLDER, tmp_path)


def test_every_row_of_the_manifest_is_in_the_table(vectors: Path) -> None:
    assert rows(vectors, FOLDER) == set(QUOTES)
