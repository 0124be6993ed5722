"""Digests and nonces are sized, so that one cannot be taken for another."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from writ.formats.digest import SIZES, Digest, Nonce, extend, hash_bytes
from writ.formats.errors import FormatError, Misuse


@given(st.sampled_from(sorted(SIZES)), st.binary(max_size=100))
def test_digest_text_comes_back_as_it_was(algorithm: str, data: bytes) -> None:
    digest = Digest.of(data, algorithm)
    assert digest.value == hashlib.new(algorithm, data).digest()
    assert Digest.parse(str(digest)) == digest
    assert str(digest) == f"{algorithm}:{digest.hex()}"


@pytest.mark.parametrize(
    "text",
    ["sha256:" + "00" * 31, "sha256:" + "AA" * 32, "sha384:" + "00" * 32, "md5:" + "00" * 16, "00" * 32, "", "sha256:" + "00" * 32 + "\n"],
)
def test_digest_of_another_spelling_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        Digest.parse(text)


def test_digest_of_another_size_or_algorithm_is_refused() -> None:
    with pytest.raises(FormatError, match="32 bytes for sha256"):
        Digest("sha256", bytes(20))
    with pytest.raises(FormatError, match="one of sha1"):
        Digest("md5", bytes(16))


def test_hash_of_an_unknown_algorithm_is_misuse() -> None:
    with pytest.raises(Misuse):
        hash_bytes("md5", b"")


def test_nonce_of_another_size_is_refused() -> None:
    assert Nonce(bytes(32)).hex() == "00" * 32
    with pytest.raises(FormatError):
        Nonce(bytes(31))


def test_extend_is_the_hash_of_old_and_new() -> None:
    assert extend("sha256", bytes(32), b"\x01" * 32) == hashlib.sha256(bytes(32) + b"\x01" * 32).digest()
    assert hash_bytes("sha1", b"a", b"b") == hashlib.sha1(b"ab", usedforsecurity=False).digest()
