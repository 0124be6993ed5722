"""`verifier check snp`: which certificates it takes from what lies there, and what it says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.vectors.manifest import run, said
from tests.world.amd import NOW, POLICY, TCB, Amd, SnpChip, certificate_table
from writ.formats.tee.snp import HOST
from writ.formats.x509 import Certificate, to_pem

CHIP = SnpChip()
VCEK = "63da758d-e664-4564-adc5-f4b93be8accd"
NONCE = "22" * 64
FRESH = ["revocation-unknown"]


def der(certificate: Certificate) -> bytes:
    return certificate.der


def pem(certificate: Certificate) -> bytes:
    return to_pem(certificate).encode()


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    """A directory with the root alone."""
    folder = tmp_path / "trust"
    folder.mkdir()
    (folder / "ark.pem").write_bytes(pem(CHIP.amd.ark()))
    return folder


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    """A directory with the certificate of the key and the CA above it."""
    folder = tmp_path / "certs"
    folder.mkdir()
    (folder / "vcek.der").write_bytes(CHIP.certificate().der)
    (folder / "ask.crt").write_bytes(CHIP.amd.ask().der)
    return folder


Check = Callable[..., dict[str, Any]]


@pytest.fixture
def check(tmp_path: Path, trust: Path, certs: Path) -> Check:
    """The check of a report, under the imitation's root unless told otherwise."""

    def call(report: bytes, *argv: str | Path, given: Path | None = certs, root: Path | None = trust, nonce: str = NONCE) -> dict[str, Any]:
        (tmp_path / "report.bin").write_bytes(report)
        options: list[str | Path] = ["--nonce", nonce, *argv]
        options += [] if given is None else ["--certs", given]
        options += [] if root is None else ["--trust", root]
        return run("snp", tmp_path / "report.bin", *options, now=NOW)

    return call


def test_report_is_accepted_with_its_claims(check: Check) -> None:
    shown = check(CHIP.report())
    assert said(shown) == ("accepted", FRESH)
    claims = shown["claims"]
    assert (claims["version"], claims["vmpl"], claims["signing_key"], claims["debug"]) == (5, 0, "VCEK", False)
    assert (claims["policy"], claims["platform_info"], claims["firmware"]) == ("0x30000", "0x25", "1.55.35")
    assert (claims["measurement"], claims["chip_id"]) == ("11" * 48, CHIP.chip_id.hex())
    assert claims["reported_tcb"] == "0400000000001bde"
    assert claims["chain"].startswith("CN=ARK-Milan")


def test_pinned_roots_apply_without_trust(check: Check) -> None:
    assert said(check(CHIP.report(), root=None)) == ("refused", ["certificate-refused"])


def test_without_the_certificate_of_the_key_nothing_is_accepted(check: Check, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for given in (None, tmp_path / "empty"):
        shown = check(CHIP.report(), given=given)
        assert said(shown) == ("refused", ["snp-key-missing"])
        assert shown["claims"]["measurement"] == "11" * 48


@pytest.mark.parametrize("given", [{"key_information": 28}, {"key_information": 2}])
def test_report_without_a_signature_is_unsigned_with_and_without_certificates(check: Check, given: dict[str, int]) -> None:
    for folder in ({}, {"given": None}):
        assert said(check(CHIP.report(**given), **folder)) == ("refused", ["snp-unsigned"])


@pytest.mark.parametrize(
    "form", [der, pem, lambda one: pem(one).replace(b"\n", b"\r\n"), lambda one: b"# the key\n" + pem(one) + b"# end\n"]
)
def test_certificate_in_each_form(check: Check, certs: Path, form: Callable[[Certificate], bytes]) -> None:
    (certs / "vcek.der").unlink()
    (certs / "key.pem").write_bytes(form(CHIP.certificate()))
    assert said(check(CHIP.report())) == ("accepted", FRESH)


def test_whole_chain_in_one_file_in_any_order(check: Check, tmp_path: Path) -> None:
    chain = [pem(CHIP.amd.ark()), pem(CHIP.certificate()), pem(CHIP.amd.asvk()), pem(CHIP.amd.ask())]
    (tmp_path / "chain.pem").write_bytes(b"".join(chain))
    assert said(check(CHIP.report(), given=tmp_path / "chain.pem")) == ("accepted", FRESH)


def test_report_and_table_as_an_extended_request_gives_them(check: Check, tmp_path: Path) -> None:
    amd = CHIP.amd
    table = certificate_table({VCEK: CHIP.certificate().der, "4ab7b379-bbac-4fe4-a02f-05aef327c782": pem(amd.ask()), "11" * 16: b"rim"})
    assert said(check(CHIP.report() + table, given=None)) == ("accepted", FRESH)
    (tmp_path / "auxblob").write_bytes(table)
    assert said(check(CHIP.report(), given=tmp_path / "auxblob")) == ("accepted", FRESH)
    assert said(check(CHIP.report() + table[:-1] + b"\1", given=None)) == ("refused", ["malformed"])


@pytest.mark.parametrize("behind", [b"\0", b"\1", b"\0" * 23, b"\0" * 23 + b"\1", b"\0" * 24 + b"\1"])
def test_bytes_behind_a_report_are_no_report(check: Check, behind: bytes) -> None:
    assert said(check(CHIP.report() + behind)) == ("refused", ["malformed"])


def test_certificate_that_signed_is_found_among_others(check: Check, certs: Path) -> None:
    """Of another TCB, of another chip, of a cloud, one that cannot be read and one of the same chip that no CA made."""
    forged = SnpChip(Amd(seed="forged"))
    said_of = CHIP.amd.extensions(TCB, product="Milan-B0", hwid=CHIP.hwid)
    (certs / "a.der").write_bytes(replace(CHIP, tcb=replace(TCB, snp=1)).certificate().der)
    (certs / "b.der").write_bytes(SnpChip(name="other").certificate().der)
    (certs / "c.der").write_bytes(SnpChip(cloud="a cloud").certificate().der)
    (certs / "d.der").write_bytes(CHIP.amd.vek("broken", {**said_of, "4": b"\1"}).der)
    (certs / "e.der").write_bytes(forged.amd.vek("forged", said_of).der)
    assert said(check(CHIP.report())) == ("accepted", FRESH)


def test_what_cannot_be_read_is_said_where_nothing_else_is_there(check: Check, tmp_path: Path) -> None:
    said_of = CHIP.amd.extensions(TCB, product="Milan-B0", hwid=CHIP.hwid)
    (tmp_path / "broken.der").write_bytes(CHIP.amd.vek("broken", {**said_of, "4": b"\1"}).der)
    assert said(check(CHIP.report(), given=tmp_path / "broken.der")) == ("refused", ["malformed"])


def test_files_that_are_no_certificates_are_passed_over_unless_their_names_say_so(check: Check, certs: Path) -> None:
    (certs / "report.bin").write_bytes(CHIP.report())
    (certs / "expected.json").write_text("{}")
    (certs / "folder").mkdir()
    assert said(check(CHIP.report())) == ("accepted", FRESH)
    (certs / "other.pem").write_text("no certificate")
    assert said(check(CHIP.report())) == ("refused", ["malformed"])


@pytest.mark.parametrize("where", ["certs", "trust"])
@pytest.mark.parametrize("name", ["milan.crl", "crl"])
def test_crl_beside_certificates_or_roots_is_heard(check: Check, tmp_path: Path, where: str, name: str) -> None:
    file = tmp_path / where / name
    file.write_bytes(CHIP.amd.crl().der)
    assert said(check(CHIP.report())) == ("accepted", [])
    file.write_bytes(CHIP.amd.crl(CHIP.amd.ask().serial).der)
    assert said(check(CHIP.report())) == ("refused", ["certificate-revoked"])


def test_ca_below_the_root_may_be_what_is_trusted(check: Check, tmp_path: Path) -> None:
    (tmp_path / "ask.pem").write_bytes(pem(CHIP.amd.ask()))
    assert said(check(CHIP.report(), root=tmp_path / "ask.pem")) == ("accepted", [])


def test_trust_without_a_ca_believes_nobody(check: Check, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "vcek.der").write_bytes(CHIP.certificate().der)
    assert said(check(CHIP.report(), root=tmp_path / "other")) == ("refused", ["malformed"])


@pytest.mark.parametrize("nonce", ["", "22" * 65])
def test_nonce_is_1_to_64_bytes(check: Check, nonce: str) -> None:
    assert said(check(CHIP.report(), nonce=nonce)) == ("refused", ["malformed"])


def test_nonce_of_another_request_is_refused(check: Check) -> None:
    assert said(check(CHIP.report(), nonce="23" * 64)) == ("refused", ["nonce-mismatch", *FRESH])


def test_debug_and_reports_for_the_host_are_refused_and_migration_is_said(check: Check) -> None:
    assert said(check(CHIP.report(policy=POLICY | 1 << 19))) == ("refused", ["snp-debug", *FRESH])
    assert said(check(CHIP.report(vmpl=HOST))) == ("refused", ["snp-vmpl", *FRESH])
    assert said(check(CHIP.report(vmpl=3))) == ("accepted", FRESH)
    assert said(check(CHIP.report(policy=POLICY | 1 << 18))) == ("accepted", [*FRESH, "snp-migration"])


def test_report_in_hexadecimal_with_lines(check: Check) -> None:
    text = CHIP.report().hex()
    lines = "\n".join(text[at : at + 60] for at in range(0, len(text), 60)) + "\n"
    assert said(check(lines.encode())) == ("accepted", FRESH)


@pytest.mark.parametrize("data", [b"", b"rubbish", b"\2\0\0\0", b"\xff" * 1184])
def test_rubbish_is_malformed(check: Check, data: bytes) -> None:
    assert said(check(data)) == ("refused", ["malformed"])
