"""`verifier check`: one JSON object for any file, accepted or refused, never a traceback."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.signers import new_signer
from tests.world.chip import Chip, Maker
from tests.world.scene import NOW, Scene, permitted, reference, sign_token, signer
from verifier import check
from verifier.__main__ import main
from writ.formats.corim import encode_corim, sign_corim
from writ.formats.keys import key_id
from writ.formats.tpm.pcr import PcrSelection
from writ.formats.tpm.public import encode_tpm2b_public
from writ.formats.x509 import parse_certificate, to_pem

NONCE = b"n" * 32


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> dict[str, Any]:
    code = main(["check", *map(str, argv), "--json"])
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert set(shown) == {"kind", "verdict", "claims", "reasons"}
    assert code == (0 if shown["verdict"] == "accepted" else 1)
    for reason in shown["reasons"]:
        assert set(reason) == {"code", "claim", "expected", "got", "remedy"}
    return shown


def codes(shown: dict[str, Any]) -> list[str]:
    assert shown["verdict"] == "refused"
    return [reason["code"] for reason in shown["reasons"]]


@pytest.fixture
def quote(tmp_path: Path) -> Path:
    chip = Chip()
    chip.extend(14, {"sha256": b"\1" * 32})
    attest, signature = chip.quote(NONCE)
    (tmp_path / "message").write_bytes(attest)
    (tmp_path / "signature").write_bytes(signature)
    (tmp_path / "tpmt").write_bytes(chip.ak.raw)
    (tmp_path / "tpm2b").write_bytes(encode_tpm2b_public(chip.ak))
    (tmp_path / "pem").write_bytes(chip.ak.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "der").write_bytes(chip.ak.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "pcrs").write_bytes(b"".join(value for _, value in chip.values().values))
    (tmp_path / "pcrs.json").write_text(json.dumps({"sha256": {str(index): value.hex() for index, value in chip.values().values}}))
    return tmp_path


def quote_args(folder: Path, ak: str = "tpmt", **more: str) -> list[str | Path]:
    args: list[str | Path] = ["quote", "--ak", folder / ak, "--message", folder / "message", "--signature", folder / "signature"]
    for name, value in more.items():
        args += [f"--{name}", value]
    return args


@pytest.mark.parametrize("ak", ["tpmt", "tpm2b", "pem", "der"])
@pytest.mark.parametrize("pcrs", ["pcrs", "pcrs.json"])
def test_genuine_quote_is_accepted(capsys: pytest.CaptureFixture[str], quote: Path, ak: str, pcrs: str) -> None:
    shown = run(capsys, *quote_args(quote, ak, nonce=NONCE.hex(), pcrs=str(quote / pcrs)))
    assert (shown["verdict"], shown["reasons"]) == ("accepted", [])
    claims = shown["claims"]
    assert claims["extra_data"] == NONCE.hex()
    assert claims["pcr_selection"] == {"sha256": list(range(16))}
    assert (claims["clock"], claims["reset_count"], claims["restart_count"], claims["safe"]) == (1000, 7, 0, True)
    assert claims["firmware_version"] == "0001000200030004"


def test_quote_without_a_nonce_says_that_freshness_was_not_judged(capsys: pytest.CaptureFixture[str], quote: Path) -> None:
    shown = run(capsys, *quote_args(quote))
    assert shown["verdict"] == "accepted"
    assert [reason["code"] for reason in shown["reasons"]] == ["nonce-unknown"]


def test_quote_of_another_nonce_is_refused_and_its_claims_are_shown(capsys: pytest.CaptureFixture[str], quote: Path) -> None:
    shown = run(capsys, *quote_args(quote, nonce="00" * 32))
    assert codes(shown) == ["nonce-mismatch"]
    assert shown["claims"]["pcr_digest"]


@pytest.mark.parametrize("file", ["message", "signature"])
def test_each_flipped_byte_of_a_quote_is_refused(quote: Path, file: str) -> None:
    data = (quote / file).read_bytes()
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    args = parser.parse_args([str(word) for word in quote_args(quote, nonce=NONCE.hex(), pcrs=str(quote / "pcrs"))])
    assert check.check("quote", args, now=NOW)["verdict"] == "accepted"
    for at in range(len(data)):
        (quote / file).write_bytes(data[:at] + bytes((data[at] ^ 0x40,)) + data[at + 1 :])
        assert check.check("quote", args, now=NOW)["verdict"] == "refused", at


def test_altered_pcrs_are_refused(capsys: pytest.CaptureFixture[str], quote: Path) -> None:
    data = (quote / "pcrs").read_bytes()
    for altered, code in (
        (b"\2" * len(data), "pcr-digest-mismatch"),
        (data[:-1], "malformed"),
        (data + b"\0", "malformed"),
        (b"{}", "malformed"),
    ):
        (quote / "pcrs").write_bytes(altered)
        assert codes(run(capsys, *quote_args(quote, nonce=NONCE.hex(), pcrs=str(quote / "pcrs")))) == [code]


def test_quote_over_zeros_or_over_nothing_is_refused(capsys: pytest.CaptureFixture[str], quote: Path) -> None:
    chip = Chip()
    for selection, pcrs in ((None, bytes(512)), (PcrSelection(()), b"")):
        attest, signature = chip.quote(NONCE, selection=selection)
        (quote / "message").write_bytes(attest)
        (quote / "signature").write_bytes(signature)
        (quote / "pcrs").write_bytes(pcrs)
        assert set(codes(run(capsys, *quote_args(quote, nonce=NONCE.hex(), pcrs=str(quote / "pcrs"))))) <= {
            "pcr-digest-mismatch", "pcr-selection-mismatch",
        }  # fmt: skip


def test_other_structures_of_the_ak_are_no_quote(capsys: pytest.CaptureFixture[str], quote: Path) -> None:
    chip = Chip()
    for attest, signature in (chip.certify(NONCE), chip.certify_creation(NONCE), chip.certify_nv(NONCE)):
        (quote / "message").write_bytes(attest)
        (quote / "signature").write_bytes(signature)
        assert codes(run(capsys, *quote_args(quote, nonce=NONCE.hex()))) == ["wrong-attest-type"]


def test_quote_by_another_key_is_refused(capsys: pytest.CaptureFixture[str], quote: Path) -> None:
    (quote / "tpmt").write_bytes(Chip(seed="another").ak.raw)
    assert codes(run(capsys, *quote_args(quote, nonce=NONCE.hex()))) == ["signature-invalid"]


# --- EK certificates ----------------------------------------------------------------------------------------------------


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    maker = Maker()
    (tmp_path / "ek.der").write_bytes(maker.ek_certificate("chip/ek"))
    chain = (maker.ek_certificate("chip/ek"), maker.intermediate(), maker.root())
    (tmp_path / "chain.pem").write_text("".join(to_pem(parse_certificate(der)) for der in chain))
    (tmp_path / "trust").mkdir()
    (tmp_path / "trust" / "root.pem").write_text(to_pem(parse_certificate(maker.root())))
    (tmp_path / "trust" / "ca.der").write_bytes(maker.intermediate())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "root.der").write_bytes(Maker("other").root())
    return tmp_path


AT = "2026-11-01T00:00:00Z"


@pytest.mark.parametrize("file", ["ek.der", "chain.pem"])
def test_ek_certificate_below_a_trusted_root_is_accepted(capsys: pytest.CaptureFixture[str], certificates: Path, file: str) -> None:
    shown = run(capsys, "ek-cert", certificates / file, "--trust", certificates / "trust", "--at", AT)
    assert shown["verdict"] == "accepted"
    assert shown["claims"]["manufacturer"] == "id:00001234"
    assert "maker root" in shown["claims"]["chain"]


def test_chain_without_trust_is_judged_to_its_own_top(capsys: pytest.CaptureFixture[str], certificates: Path) -> None:
    shown = run(capsys, "ek-cert", certificates / "chain.pem", "--at", AT)
    assert shown["verdict"] == "accepted"
    assert "own top" in shown["claims"]["chain"]


@pytest.mark.parametrize(
    "argv", [["ek.der", "--trust", "other", "--at", AT], ["ek.der", "--trust", "trust", "--at", "2040-01-01T00:00:00Z"],
             ["chain.pem", "--at", "2040-01-01T00:00:00Z"], ["ek.der", "--at", "2040-01-01T00:00:00Z"]]
)  # fmt: skip
def test_ek_certificate_is_refused(capsys: pytest.CaptureFixture[str], certificates: Path, argv: list[str]) -> None:
    given = [certificates / word if (certificates / word).exists() else word for word in argv]
    shown = run(capsys, "ek-cert", *given)
    assert "ek-certificate-refused" in codes(shown)
    assert shown["claims"]["manufacturer"] == "id:00001234"


# --- the rest -----------------------------------------------------------------------------------------------------------


def test_reference_values_are_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "unsigned").write_bytes(encode_corim(reference()))
    (tmp_path / "signed").write_bytes(sign_corim(reference(), new_signer(), signer_name="me"))
    assert run(capsys, "corim", tmp_path / "unsigned")["claims"]["signed"] is False
    shown = run(capsys, "corim", tmp_path / "signed")
    assert (shown["verdict"], shown["claims"]["signed"], shown["claims"]["id"]) == ("accepted", True, "reporter-1")


@pytest.fixture
def token(tmp_path: Path) -> Path:
    scene = Scene()
    scene.launch("one")
    key = signer("token")
    (tmp_path / "token").write_text(sign_token(permitted(scene.attest("one")), key, kid=key_id(key.public)))
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [{**key.public.to_jwk(), "kid": key_id(key.public)}]}))
    (tmp_path / "others.json").write_text(json.dumps({"keys": [signer("other").public.to_jwk()]}))
    return tmp_path


def rfc3339(seconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat()


def test_live_token_is_accepted(capsys: pytest.CaptureFixture[str], token: Path) -> None:
    shown = run(capsys, "token", token / "token", "--trust", token / "jwks.json", "--at", rfc3339(NOW))
    assert (shown["verdict"], shown["reasons"], shown["claims"]["host"]) == ("accepted", [], "host-1")


@pytest.mark.parametrize(
    "trust, at, code",
    [("jwks.json", NOW + 58, "token-expired"), ("jwks.json", NOW - 6, "token-not-yet-valid"), ("others.json", NOW, "token-key-unknown")],
)
def test_token_is_refused(capsys: pytest.CaptureFixture[str], token: Path, trust: str, at: int, code: str) -> None:
    assert codes(run(capsys, "token", token / "token", "--trust", token / trust, "--at", rfc3339(at))) == [code]


def test_token_with_a_flipped_claim_is_refused(capsys: pytest.CaptureFixture[str], token: Path) -> None:
    text = (token / "token").read_text()
    head, payload, signature = text.split(".")
    (token / "token").write_text(".".join((head, payload, signature[:-2] + ("AA" if signature[-2:] != "AA" else "BA"))))
    assert run(capsys, "token", token / "token", "--trust", token / "jwks.json", "--at", rfc3339(NOW))["verdict"] == "refused"


@pytest.mark.parametrize("kind", ["ek-cert", "corim", "token"])
def test_rubbish_is_refused_never_a_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str) -> None:
    chance = random.Random(7)
    for data in (
        b"",
        b"\0",
        b"-----BEGIN CERTIFICATE-----\n",
        b"a.b.c",
        *(chance.randbytes(chance.choice((3, 50, 2000))) for _ in range(40)),
    ):
        (tmp_path / "x").write_bytes(data)
        assert codes(run(capsys, kind, tmp_path / "x")) == ["malformed"]


def test_missing_file_is_a_failure_of_ours_not_a_verdict(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["check", "corim", str(tmp_path / "nothing")]) == 3
    assert "could not" in capsys.readouterr().err


def test_wrong_usage_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nonsense", "x"]) == 2
    assert main(["check", "quote"]) == 2
    assert "usage" in capsys.readouterr().err
