"""`verifier check`: the forms in which people's tools write quotes, PCR values and EK certificates down."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.parsers import assert_parser_is_total
from tests.vectors.manifest import run, said
from tests.world.authority import Ca
from tests.world.chip import Chip
from verifier.check.pcr_values import read_pcr_values
from writ.formats.errors import FormatError
from writ.formats.tpm.signature import encode_signature, parse_signature
from writ.formats.x509 import parse_certificate, to_pem

NONCE = b"n" * 32
BANKS = (("sha256", tuple(range(16))),)


def quoted() -> tuple[Chip, bytes, bytes]:
    chip = Chip()
    chip.extend(14, {"sha256": b"\1" * 32})
    return chip, *chip.quote(NONCE)


def check(at: Path, **files: bytes) -> dict[str, Any]:
    """The check of a genuine quote, with these files instead of its own."""
    chip, message, signature = quoted()
    argv: list[str | Path] = []
    for name, data in {"ak": chip.ak.raw, "message": message, "signature": signature, **files}.items():
        (at / name).write_bytes(data)
        argv += [f"--{name}", at / name]
    return run("quote", *argv, "--nonce", NONCE.hex())


def values() -> dict[int, bytes]:
    return dict(quoted()[0].values().values)


def dump(
    order: Literal["little", "big"], bank: int = 0x000B, bitmap: bytes = b"\xff\xff\0", given: dict[int, bytes] | None = None
) -> bytes:
    """What `tpm2_quote -o` writes: TPML_PCR_SELECTION and TPML_DIGESTs as C lays them out."""
    held = list((given or values()).values())
    selection = (1).to_bytes(4, order) + bank.to_bytes(2, order) + bytes((len(bitmap),)) + bitmap.ljust(5, b"\0") + bytes(15 * 8)
    lists = [held[at : at + 8] for at in range(0, len(held), 8)]
    out = selection + len(lists).to_bytes(4, order)
    for one in lists:
        digests = b"".join(len(value).to_bytes(2, order) + value.ljust(64, b"\0") for value in one)
        out += len(one).to_bytes(4, order) + digests.ljust(8 * 66, b"\0")
    return out


def yaml() -> bytes:
    """What `tpm2_pcrread` prints."""
    return ("sha256:\n" + "".join(f"    {index:<2}: 0x{value.hex().upper()}\n" for index, value in values().items())).encode()


FORMS: dict[str, Callable[[], bytes]] = {
    "raw": lambda: b"".join(values().values()),
    "json": lambda: json.dumps({"sha256": {str(index): value.hex() for index, value in values().items()}}).encode(),
    "json as tools spell hex": lambda: json.dumps(
        {"sha256": {str(i): "0x" + value.hex().upper() for i, value in values().items()}}
    ).encode(),
    "yaml": yaml,
    "dump, little endian": lambda: dump("little"),
    "dump, big endian": lambda: dump("big"),
}


@pytest.mark.parametrize("form", FORMS)
def test_pcr_values_are_read_in_each_form_and_spoilt_ones_refused(tmp_path: Path, form: str) -> None:
    data = FORMS[form]()
    assert said(check(tmp_path, pcrs=data)) == ("accepted", [])
    held = values()[14]
    spelt = next(one for one in (held.hex().encode(), held.hex().upper().encode(), held) if one in data)
    other = data.replace(spelt, spelt[::-1])
    assert said(check(tmp_path, pcrs=other))[0] == "refused"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(dump("little", bank=0x0004), id="another bank"),
        pytest.param(dump("little", bitmap=b"\xff\xfe\1"), id="other PCRs"),
        pytest.param(dump("little", bitmap=b"\xff\x7f\0"), id="fewer PCRs"),
        pytest.param(dump("little", bank=0x0099), id="an unknown bank"),
        pytest.param(dump("little", given=dict(list(values().items())[:15])), id="a value less"),
        pytest.param(dump("little")[:-1], id="cut off"),
        pytest.param(dump("little")[:132] + b"\3" + dump("little")[133:], id="another number of lists"),
        pytest.param(b"sha256:\n  0: 0x00\n", id="a short value"),
        pytest.param(b"sha256:\n  0: zero\n", id="no value"),
        pytest.param(b'{"sha256": {"0": 7}}', id="a number"),
        pytest.param(b'{"md5": {}}', id="a bank that is none"),
        pytest.param(b'{"sha256": {"x": "00"}}', id="an index that is none"),
        pytest.param(b'{"sha256": []}', id="a list"),
    ],
)
def test_pcr_values_of_another_selection_or_shape_are_refused(tmp_path: Path, data: bytes) -> None:
    assert said(check(tmp_path, pcrs=data)) == ("refused", ["malformed"])


def test_values_that_the_quote_does_not_cover_are_named(tmp_path: Path) -> None:
    document = {"sha256": {str(index): value.hex() for index, value in {**values(), 17: bytes(32)}.items()}}
    result = check(tmp_path, pcrs=json.dumps(document).encode())
    assert said(result) == ("accepted", ["pcr-selection-mismatch"])
    assert "sha256:17" in result["reasons"][0]["got"]


@pytest.mark.parametrize("form", ["dump, little endian", "yaml", "json"])
def test_reader_of_pcr_values_is_total(form: str) -> None:
    assert_parser_is_total(lambda data: read_pcr_values(data, BANKS), FORMS[form](), flips=500, open_ended=True)


def test_plain_ecdsa_signature_in_der_is_read(tmp_path: Path) -> None:
    _, message, signature = quoted()
    parsed = parse_signature(signature)
    r, s = int.from_bytes(parsed.r, "big"), int.from_bytes(parsed.s, "big")
    assert said(check(tmp_path, signature=encode_dss_signature(r, s))) == ("accepted", [])
    for plain in (
        encode_dss_signature(s, r),
        encode_dss_signature(r, s)[:-1],
        encode_dss_signature(0, s),
        encode_dss_signature(1 << 256, s),
    ):
        assert said(check(tmp_path, signature=plain))[0] == "refused"
    assert encode_signature(parsed) == signature
    assert message


@pytest.mark.parametrize("form", ["pem", "der"])
def test_ak_certificate_gives_its_key(tmp_path: Path, form: str) -> None:
    chip, _, _ = quoted()
    der = Ca("ca").sign(Ca("ak").subject(), f"{chip.seed}/ak", [])
    ak = der if form == "der" else to_pem(parse_certificate(der)).encode()
    assert said(check(tmp_path, ak=ak)) == ("accepted", [])
    stranger = Ca("ca").sign(Ca("ak").subject(), "stranger", [])
    assert said(check(tmp_path, ak=stranger)) == ("refused", ["signature-invalid"])


def test_key_of_another_scheme_than_its_public_area_fixes_is_refused(tmp_path: Path) -> None:
    chip, _, _ = quoted()
    assert said(check(tmp_path, ak=chip.ak.raw.replace(b"\x00\x18\x00\x0b", b"\x00\x18\x00\x0c")))[1] == ["signature-invalid"]
    spki = chip.ak.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert said(check(tmp_path, ak=spki))[0] == "accepted"
    assert said(check(tmp_path, ak=spki[:-1])) == ("refused", ["malformed"])


def test_log_needs_the_values_it_leads_to(tmp_path: Path) -> None:
    assert said(check(tmp_path, log=b"")) == ("refused", ["malformed"])
    assert said(check(tmp_path, log=b"rubbish", pcrs=FORMS["raw"]()))[0] == "refused"


# --- EK certificates ------------------------------------------------------------------------------------------------------


def ek(at: Path, data: bytes, *, trust: dict[str, bytes] | None = None) -> dict[str, Any]:
    (at / "ek").write_bytes(data)
    argv: list[str | Path] = [at / "ek", "--at", "2026-11-01T00:00:00Z"]
    if trust is not None:
        folder = at / "trust"
        folder.mkdir(exist_ok=True)
        for name, content in trust.items():
            (folder / name).write_bytes(content)
        argv += ["--trust", folder]
    return run("ek-cert", *argv)


@pytest.mark.parametrize("padding", [b"", b"\xff" * 40, b"\0" * 40])
def test_certificate_with_the_header_of_a_tpm_1_2_is_read(tmp_path: Path, padding: bytes) -> None:
    der = Ca("root").ek()
    stored = b"\x10\x01\x00" + (len(der) + 2).to_bytes(2, "big") + b"\x10\x02" + der + padding
    assert ek(tmp_path, stored, trust={"root.cer": Ca("root").certificate()})["verdict"] == "accepted"
    assert ek(tmp_path, stored[:3] + b"\0\7" + stored[5:])["verdict"] == "refused"


def test_revoked_certificate_is_refused_where_its_crl_is_given(tmp_path: Path) -> None:
    root = Ca("root")
    fresh = root.crl(this=1_793_400_000)
    assert said(ek(tmp_path, root.ek(), trust={"root.cer": root.certificate(), "root.crl": fresh})) == ("accepted", [])
    revoked = root.crl(0x77, this=1_793_400_000)
    assert said(ek(tmp_path, root.ek(), trust={"root.crl": revoked})) == ("refused", ["ek-certificate-revoked"])


def test_revoked_certificate_is_refused_where_its_ocsp_response_is_given(tmp_path: Path) -> None:
    root, at = Ca("root"), 1_793_400_000
    given = {"root.cer": root.certificate(), "ek.ocsp": root.ocsp(0x77, this=at)}
    assert said(ek(tmp_path, root.ek(), trust=given)) == ("accepted", [])
    assert said(ek(tmp_path, root.ek(), trust={"ek.ocsp": root.ocsp(0x77, "unknown", this=at)})) == ("accepted", ["revocation-unknown"])
    assert said(ek(tmp_path, root.ek(), trust={"ek.ocsp": root.ocsp(0x77, "revoked", this=at)})) == ("refused", ["ek-certificate-revoked"])


def test_chain_is_not_believed_for_naming_a_pinned_root(tmp_path: Path) -> None:
    """The file's own top is its own top, whatever it is called."""
    impostor = Ca("Infineon OPTIGA(TM) RSA Root CA")
    chain = "".join(to_pem(parse_certificate(der)) for der in (impostor.ek(), impostor.certificate()))
    result = ek(tmp_path, chain.encode())
    assert result["claims"]["chain"].startswith("to its own top only, which nothing vouches for")


def test_self_issued_certificate_with_anothers_signature_is_refused(tmp_path: Path) -> None:
    forged = Ca("root", key="ca/other").sign(Ca("root").subject(), "ca/root", [])
    assert said(ek(tmp_path, forged))[1][0] == "ek-certificate-refused"
    assert ek(tmp_path, forged)["verdict"] == "refused"


def test_stored_certificate_reader_refuses_what_is_cut_off() -> None:
    from writ.formats.x509 import parse_stored_certificate

    for data in (b"\x10\x01\x00", b"\x10\x01\x00\x00\x10\x10\x02", b"\x10\x01\x00\xff\xff\x10\x02"):
        with pytest.raises(FormatError):
            parse_stored_certificate(data)
