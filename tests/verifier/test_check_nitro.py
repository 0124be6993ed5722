"""`verifier check nitro`: a TLS certificate around a document is bound by it and valid itself, and trust is what is given."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tests.vectors.manifest import run
from tests.world.authority import Ca
from tests.world.nitro import AT, ROOT, Nitro
from writ.formats.x509 import parse_certificate, to_pem

SITE = Ca("site")


def around(document: bytes, key: str = "site/key", life: timedelta = timedelta(days=30)) -> bytes:
    """A certificate of the key of a seed, in PEM, with a document in its names."""
    name = x509.DNSName(document.hex() + ".agent.example")
    names = x509.SubjectAlternativeName([x509.DNSName("agent.example"), name])
    return to_pem(parse_certificate(SITE.sign(SITE.subject(), key, ((names, False),), life=life))).encode()


def binding(key: str = "site/key") -> bytes:
    """A document that binds the key of a seed."""
    spki = parse_certificate(SITE.sign(SITE.subject(), key, ())).spki
    return Nitro().document(public_key=spki)


def codes(tmp_path: Path, data: bytes, at: int = AT) -> list[str]:
    (tmp_path / "trust").mkdir(exist_ok=True)
    (tmp_path / "trust" / "root.der").write_bytes(ROOT.certificate())
    (tmp_path / "document").write_bytes(data)
    result = run("nitro", tmp_path / "document", "--trust", tmp_path / "trust", "--nonce", b"nonce".hex(), now=at)
    found = {reason["code"] for reason in result["reasons"]} - {"revocation-unknown"}
    assert result["verdict"] == ("refused" if found else "accepted")
    return sorted(found)


def test_certificate_around_is_accepted_where_the_document_binds_its_key(tmp_path: Path) -> None:
    assert codes(tmp_path, around(binding())) == []
    assert codes(tmp_path, around(binding("other"))) == ["nitro-key-unbound"]


def test_certificate_around_has_to_be_valid_itself(tmp_path: Path) -> None:
    assert codes(tmp_path, around(binding(), life=timedelta(seconds=300))) == ["certificate-expired"]


@pytest.mark.parametrize("pinned", [True, False])
def test_root_of_nobody_is_not_believed_unless_it_is_given(tmp_path: Path, pinned: bool) -> None:
    (tmp_path / "document").write_bytes(Nitro().document())
    if pinned:
        result = run("nitro", tmp_path / "document", now=AT)
        assert [reason["code"] for reason in result["reasons"]] == ["certificate-refused"]
        assert result["claims"]["module_id"] == "i-1-enc1"
    else:
        assert codes(tmp_path, Nitro().document()) == []


def test_certificate_without_a_document_is_malformed(tmp_path: Path) -> None:
    assert codes(tmp_path, to_pem(parse_certificate(SITE.certificate())).encode()) == ["malformed"]
