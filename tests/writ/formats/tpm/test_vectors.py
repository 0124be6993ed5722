"""Quotes, keys and certificates of real and virtual TPMs, with the values their manifests state."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey, EllipticCurvePublicNumbers
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from tests.vectors.protobuf import fields_of
from tests.writ.formats.tpm.damage import assert_total
from tests.writ.formats.tpm.keys import CURVES
from writ.formats.tpm.attest import TPM_GENERATED, Attest, QuoteInfo, encode_attest, parse_attest
from writ.formats.tpm.pcr import PcrSelection, PcrValues, pcr_digest
from writ.formats.tpm.public import (
    RH_ENDORSEMENT,
    encode_public,
    encode_tpm2b_public,
    parse_any_public,
    parse_public,
    parse_tpm2b_public,
    primary_qualified_name,
    qualified_name,
)
from writ.formats.tpm.signature import Signature, encode_signature, parse_signature, verify_signature, verify_with_key

Key = RSAPublicKey | EllipticCurvePublicKey

IMMUNE = [
    "IMN-DELL-WBCL-BootCtrs", "IMN-SUPERMICRO-EPP-MSDefender", "dell-notebook-5eventlogs-WBCL", "failed-2", "good-1",
    "issue926-x1carbon-ancient", "latitude-7520", "ludmilla",
]  # fmt: skip
BOOTS = ["direct_kernel", "uki_esp"]


def usable(key: object) -> Key:
    """`key`, if it is of a kind that an AK can be."""
    assert isinstance(key, RSAPublicKey | EllipticCurvePublicKey)
    return key


def values(bank: str, pcrs: dict[str, str]) -> PcrValues:
    """PCR values from hex by decimal index."""
    return PcrValues(bank, tuple(sorted((int(index), bytes.fromhex(value)) for index, value in pcrs.items())))


def quote_of(attest: Attest) -> QuoteInfo:
    """The quote in `attest`, made by a TPM."""
    assert attest.magic == TPM_GENERATED
    assert attest.quote is not None
    return attest.quote


def assert_genuine(message: bytes, signature: Signature, key: Key, banks: tuple[PcrValues, ...]) -> Attest:
    """The quote is read exactly, its signature verifies only as it is, and its digest is that of `banks`."""
    attest = parse_attest(message)
    assert encode_attest(attest) == message
    assert verify_with_key(signature, key, message)
    for at in range(len(message)):
        assert not verify_with_key(signature, key, message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :])
    quote = quote_of(attest)
    assert pcr_digest(quote.selection, banks, signature.hash) == quote.pcr_digest
    return attest


def assert_as_expected(attest: Attest, expected: dict[str, Any]) -> None:
    """Every field that a sidecar of the collector states."""
    quote = quote_of(attest)
    assert {
        "magic": f"0x{attest.magic:x}",
        "type": f"0x{attest.type_tag:x}",
        "qualified_signer": attest.qualified_signer.hex(),
        "extra_data": attest.extra_data.hex(),
        "clock": attest.clock,
        "reset_count": attest.reset_count,
        "restart_count": attest.restart_count,
        "safe": int(attest.safe),
        "firmware_version": f"0x{attest.firmware_version:x}",
        "pcr_select": [[bank, list(indices)] for bank, indices in quote.selection.banks],
        "pcr_digest": quote.pcr_digest.hex(),
        "trailing": 0,
    } == expected


@pytest.mark.parametrize("machine", IMMUNE)
def test_quote_of_a_real_machine(vectors: Path, machine: str) -> None:
    folder = vectors / "tpm-quotes" / "immune" / machine
    expected = json.loads((folder / "expected.json").read_text())
    message, signature = (folder / "quote.bin").read_bytes(), parse_signature((folder / "quote.sig").read_bytes())
    keys = [usable(load_pem_public_key(pem.encode())) for pem in expected["ak_public"]["pem"]]
    banks = tuple(values(bank, pcrs) for bank, pcrs in expected["pcrs"].items())
    for key in keys:
        assert_as_expected(assert_genuine(message, signature, key, banks), expected["quote"])
    assert keys
    assert encode_signature(signature) == (folder / "quote.sig").read_bytes()


def test_quote_of_cmc_verifies_under_its_certificate_and_the_invalid_signature_does_not(vectors: Path) -> None:
    folder = vectors / "tpm-quotes" / "cmc"
    expected = json.loads((folder / "expected.json").read_text())
    key = usable(x509.load_pem_x509_certificate((folder / "ak_cert.pem").read_bytes()).public_key())
    message = (folder / "quote.bin").read_bytes()
    pcrs = values("sha256", expected["pcrs"])
    attest = assert_genuine(message, parse_signature((folder / "quote.sig").read_bytes()), key, (pcrs,))
    assert_as_expected(attest, expected["quote"])
    assert attest.extra_data.hex() == "db6c3c042fa12645"
    assert not verify_with_key(parse_signature((folder / "quote_invalid.sig").read_bytes()), key, message)


def tools_pcrs(dump: bytes) -> dict[int, bytes]:
    """The values in a PCR file of tpm2-tools: a TPML_PCR_SELECTION and TPML_DIGESTs in native structures, little-endian."""
    count = int.from_bytes(dump[:4], "little")
    assert count == 1
    bits = int.from_bytes(dump[7:10], "little")
    found, at = [], 4 + 16 * 8 + 4
    for _ in range(int.from_bytes(dump[at - 4 : at], "little")):
        digests = int.from_bytes(dump[at : at + 4], "little")
        for slot in range(digests):
            start = at + 4 + slot * 66
            size = int.from_bytes(dump[start : start + 2], "little")
            found.append(dump[start + 2 : start + 2 + size])
        at += 4 + 8 * 66
    return dict(zip([index for index in range(24) if bits >> index & 1], found, strict=True))


def test_quote_of_keylime(vectors: Path) -> None:
    folder = vectors / "tpm-quotes" / "keylime"
    dump = (folder / "pcrs.bin").read_bytes()
    message, signature = (folder / "quote.bin").read_bytes(), parse_signature((folder / "sig.bin").read_bytes())
    # The last line of ak.pem is lost: the modulus lacks its last byte, and exactly one of the odd ones makes a key that verifies.
    der = base64.b64decode("".join((folder / "ak.pem").read_text().split("\n")[1:-2]))
    modulus = der[der.index(b"\x02\x82\x01\x01\0") + 5 :]
    candidates = [RSAPublicNumbers(65537, int.from_bytes(modulus + bytes([last]), "big")).public_key() for last in range(1, 256, 2)]
    (key,) = [candidate for candidate in candidates if verify_with_key(signature, candidate, message)]
    pcrs = tools_pcrs(dump)
    attest = assert_genuine(message, signature, key, (PcrValues("sha256", tuple(sorted(pcrs.items()))),))
    assert attest.extra_data == b"Ai5M5SjYjnkyv4P7itH1"
    assert quote_of(attest).selection.indices("sha256") == tuple(pcrs)


def test_quote_of_rust_keylime_is_read_in_its_three_parts(vectors: Path) -> None:
    text = (vectors / "tpm-quotes" / "rust-keylime" / "test-quote.txt").read_text().strip()
    message, signature, pcrs = (base64.b64decode(part) for part in text.removeprefix("r").split(":"))
    quote = quote_of(parse_attest(message))
    assert encode_attest(parse_attest(message)) == message
    assert quote.selection.banks[0][0] == "sha1"
    assert encode_signature(parse_signature(signature)) == signature
    bank = PcrValues("sha1", tuple(sorted(tools_pcrs(pcrs).items())))
    assert bank.digest(quote.selection, parse_signature(signature).hash) == quote.pcr_digest


def test_quote_of_trustee(vectors: Path) -> None:
    evidence = json.loads((vectors / "tpm-quotes" / "trustee" / "tpm_evidence.json").read_text())
    key = usable(load_der_public_key(base64.b64decode(evidence["ak_public"])))
    quote = evidence["tpm_quote"]
    pcrs = PcrValues("sha256", tuple((index, bytes.fromhex(value)) for index, value in enumerate(quote["pcrs"])))
    signature = parse_signature(base64.b64decode(quote["signature"]))
    attest = assert_genuine(base64.b64decode(quote["message"]), signature, key, (pcrs,))
    assert len(attest.extra_data) == 64
    assert quote_of(attest).selection.indices("sha256") == tuple(range(24))


def test_quote_of_a_gcp_vtpm(vectors: Path) -> None:
    fixture = json.loads((vectors / "tpm-quotes" / "vaportpm" / "test-gcp-amd-fixture.json").read_text())
    point = fixture["ak_pubkeys"]["ecc_p256"]
    key = EllipticCurvePublicNumbers(int(point["x"], 16), int(point["y"], 16), CURVES["p256"]).public_key()
    tpm = fixture["attestation"]["tpm"]["ecc_p256"]
    r, s = decode_dss_signature(bytes.fromhex(tpm["signature"]))
    signature = Signature("ecdsa", "sha256", r=r.to_bytes(32, "big"), s=s.to_bytes(32, "big"))
    attest = assert_genuine(bytes.fromhex(tpm["attest_data"]), signature, key, (values("sha256", fixture["pcrs"]["sha256"]),))
    assert attest.extra_data.hex() == fixture["nonce"]


@pytest.mark.parametrize("folder", ["trustee-snp", "trustee-tdx"])
def test_quote_of_an_azure_vtpm_is_read_and_its_digest_is_that_of_its_pcrs(vectors: Path, folder: str) -> None:
    evidence = json.loads((vectors / "azure-vtpm" / folder / "tpm-quote-v1.json").read_text())
    attest = parse_attest(bytes.fromhex(evidence["message"]))
    quote = quote_of(attest)
    assert encode_attest(attest) == bytes.fromhex(evidence["message"])
    assert attest.extra_data == b"challenge"
    pcrs = values("sha256", {str(index): value for index, value in enumerate(evidence["pcrs"])})
    assert pcrs.digest(quote.selection, "sha256") == quote.pcr_digest
    assert values("sha256", {str(index): "00" * 32 for index in range(24)}).digest(quote.selection, "sha256") != quote.pcr_digest


def test_bincode_quote_of_an_azure_vtpm_verifies_under_its_ak(vectors: Path) -> None:
    folder = vectors / "azure-vtpm" / "kinvolk"
    rest, parts = (folder / "quote.bin").read_bytes(), []
    for _ in range(2):
        size = int.from_bytes(rest[:8], "little")
        parts.append(rest[8 : 8 + size])
        rest = rest[8 + size :]
    key = usable(load_pem_public_key((folder / "akpub.pem").read_bytes()))
    pcrs = PcrValues("sha256", tuple((index, rest[8 + 32 * index : 40 + 32 * index]) for index in range(24)))
    attest = assert_genuine(parts[1], Signature("rsassa", "sha256", value=parts[0]), key, (pcrs,))
    assert attest.extra_data == b"challenge"
    assert not verify_with_key(Signature("rsassa", "sha256", value=parts[0][::-1]), key, parts[1])


def test_sha1_quote_of_a_windows_vm_is_read_and_its_signature_never_verifies(vectors: Path) -> None:
    vm = json.loads((vectors / "tpm-quotes" / "go-attestation" / "windows_gcp_shielded_vm.json").read_text())
    ak = parse_public(base64.b64decode(vm["AK"]["Public"]))
    message, signature = base64.b64decode(vm["Quote"]["Quote"]), parse_signature(base64.b64decode(vm["Quote"]["Signature"]))
    quote = quote_of(parse_attest(message))
    pcrs = PcrValues("sha1", tuple(sorted((row["Index"], base64.b64decode(row["Digest"])) for row in vm["Log"]["PCRs"])))
    assert pcrs.digest(quote.selection, signature.hash) == quote.pcr_digest
    assert signature.hash == "sha1"
    assert not verify_signature(signature, ak, message)


def test_creation_of_a_windows_ak_names_it_and_hashes_its_creation_data(vectors: Path) -> None:
    vm = json.loads((vectors / "tpm-quotes" / "go-attestation" / "windows_gcp_shielded_vm.json").read_text())
    ak = parse_public(base64.b64decode(vm["AK"]["Public"]))
    message = base64.b64decode(vm["AK"]["CreateAttestation"])
    creation = parse_attest(message).creation
    assert creation is not None
    assert creation.name == ak.name()
    assert creation.creation_hash == hashlib.sha256(base64.b64decode(vm["AK"]["CreateData"])).digest()
    assert_total(parse_attest, encode_attest, message)
    assert (ak.restricted, ak.sign, ak.decrypt, ak.fixed_tpm, ak.fixed_parent, ak.sensitive_data_origin) == (
        True,
        True,
        False,
        True,
        True,
        True,
    )


def test_quotes_of_a_gce_machine_verify_under_its_ak_in_every_bank_but_sha1(vectors: Path) -> None:
    fields = list(fields_of((vectors / "tpm-quotes" / "go-tpm-tools" / "gce-cos-85-nonce9009.pb").read_bytes()))
    area = next(value for number, value in fields if number == 1)
    ak = parse_public(area)
    assert encode_public(ak) == area
    banks = {}
    for number, raw in fields:
        if number != 2:
            continue
        parts = dict(fields_of(raw))
        message, blob, pcrs = parts[1], parts[2], parts[3]
        signature, attest = parse_signature(blob), parse_attest(message)
        (bank, indices), *others = quote_of(attest).selection.banks
        entries = [dict(fields_of(value)) for field, value in fields_of(pcrs) if field == 2]
        held = sorted((row.get(1, 0), row[2]) for row in entries)
        found = PcrValues(bank, tuple(held))
        assert (others, found.indices()) == ([], indices)
        assert found.digest(quote_of(attest).selection, signature.hash) == quote_of(attest).pcr_digest
        assert attest.extra_data.hex() == "9009"
        banks[bank] = verify_signature(signature, ak, message)
    assert banks == {"sha1": True, "sha256": True, "sha384": True}


@pytest.mark.parametrize("boot", BOOTS)
def test_quote_of_a_measured_boot(vectors: Path, boot: str) -> None:
    folder = vectors / "measured-boot" / boot
    ak, ek = (parse_tpm2b_public((folder / name).read_bytes()) for name in ("ak.pub", "ek.pub"))
    message, signature = (folder / "quote.msg").read_bytes(), parse_signature((folder / "quote.sig").read_bytes())
    pcrs = tools_pcrs((folder / "quote.pcrs").read_bytes())
    attest = assert_genuine(message, signature, usable(ak.public_key()), (PcrValues("sha256", tuple(sorted(pcrs.items()))),))
    assert verify_signature(signature, ak, message)
    assert not verify_signature(signature, ek, message)
    assert attest.extra_data == (folder / "nonce.bin").read_bytes()
    assert quote_of(attest).selection == PcrSelection((("sha256", tuple(range(15))),))
    assert ak.name() == (folder / "ak.name").read_bytes()
    assert usable(load_pem_public_key((folder / "ak.pem").read_bytes())) == ak.public_key()


@pytest.mark.parametrize("boot", BOOTS)
def test_ak_of_a_measured_boot_is_a_child_of_its_ek(vectors: Path, boot: str) -> None:
    folder = vectors / "measured-boot" / boot
    ak, ek = (parse_tpm2b_public((folder / name).read_bytes()) for name in ("ak.pub", "ek.pub"))
    signer = parse_attest((folder / "quote.msg").read_bytes()).qualified_signer
    assert qualified_name(primary_qualified_name(RH_ENDORSEMENT, ek.name()), ak.name()) == signer


@pytest.mark.parametrize("boot", BOOTS)
def test_ek_of_a_measured_boot_is_the_key_of_its_certificate(vectors: Path, boot: str) -> None:
    folder = vectors / "measured-boot" / boot
    data = (folder / "ek.pub").read_bytes()
    ek = parse_any_public(data)
    assert encode_tpm2b_public(ek) == data
    assert parse_any_public(data[2:]) == ek
    assert x509.load_der_x509_certificate((folder / "ek_cert_nv.der").read_bytes()).public_key() == ek.public_key()
    assert (ek.restricted, ek.decrypt, ek.sign, ek.admin_with_policy, ek.user_with_auth) == (True, True, False, True, False)
