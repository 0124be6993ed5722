"""PE images: the digest that firmware extends, and the sections of a unified kernel image."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import missing
from tests.parsers import assert_parser_is_total
from tests.writ.formats.pe_images import make_pe
from writ.formats.errors import FormatError, Misuse
from writ.formats.pe import MAX_PADDING, parse_pe

UKI = [(".text", b"\x90" * 700), (".linux", b"kernel" * 99), (".initrd", b"initrd"), (".cmdline", b"console=ttyS0 quiet")]
CERTIFICATES = b"\x10\0\0\0\0\x02\x02\0" + bytes(8)


def by_hand(data: bytes, algorithm: str, *, pe: int = 0x80, fixed: int = 112, signed: int = 0) -> bytes:
    """The digest, for images of ours: all of the file but checksum, directory entry and certificates."""
    entry = pe + 24 + fixed + 32
    return hashlib.new(algorithm, data[: pe + 88] + data[pe + 92 : entry] + data[entry + 8 : len(data) - signed]).digest()


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha384"])
@pytest.mark.parametrize("plus", [True, False])
def test_digest_leaves_out_checksum_directory_entry_and_certificates(algorithm: str, plus: bool) -> None:
    fixed = 112 if plus else 96
    for certificates in (b"", CERTIFICATES):
        data = make_pe(UKI, plus=plus, certificates=certificates, checksum=0x1234, trailing=b"overlay!")
        assert parse_pe(data).digest(algorithm).value == by_hand(data, algorithm, fixed=fixed, signed=len(certificates))


def test_signing_changes_no_digest_and_any_other_byte_does() -> None:
    plain, signed = make_pe(UKI), make_pe(UKI, certificates=CERTIFICATES, checksum=77)
    digest = parse_pe(plain).digest()

    assert parse_pe(signed).digest() == digest
    assert parse_pe(signed).certificates == (len(plain), len(CERTIFICATES))
    assert parse_pe(plain).certificates is None
    for at in (0x10, 0x90, 600, 1100, len(plain) - 1):
        spoilt = bytearray(plain)
        spoilt[at] ^= 1
        assert parse_pe(bytes(spoilt)).digest() != digest


def test_padding_before_the_certificates_is_hashed_as_firmware_does() -> None:
    plain, signed = make_pe(UKI, trailing=b"odd"), make_pe(UKI, trailing=b"odd", certificates=CERTIFICATES)
    padded = plain + bytes(-len(plain) % 8)

    assert parse_pe(signed).digest().value == by_hand(padded, "sha256")
    assert parse_pe(plain).digest() != parse_pe(signed).digest()


def test_image_without_a_certificate_directory_is_hashed_whole_but_for_its_checksum() -> None:
    data = make_pe(UKI, directories=2)

    assert parse_pe(data).digest().value == hashlib.sha256(data[: 0x80 + 88] + data[0x80 + 92 :]).digest()


def test_sections_are_hashed_in_the_order_of_the_file() -> None:
    data = bytearray(make_pe([(".a", b"a" * 512), (".b", b"b" * 512)]))
    table = 0x80 + 24 + 112 + 128
    first, second = bytes(data[table : table + 40]), bytes(data[table + 40 : table + 80])
    data[table : table + 80] = second + first

    assert parse_pe(bytes(data)).digest().value == by_hand(bytes(data), "sha256")
    assert [section.name for section in parse_pe(bytes(data)).sections] == [".b", ".a"]


def test_sections_of_a_uki_are_read_to_their_virtual_size() -> None:
    image = parse_pe(make_pe(UKI))

    found = {section.name: image.content(section) for section in image.sections}
    assert found == dict(UKI)
    assert image.named(".osrel") is None
    assert (section := image.named(".cmdline")) is not None
    assert section.raw_size == 512


def test_section_longer_in_memory_than_in_the_file_is_filled_with_zeros_up_to_a_bound() -> None:
    data = bytearray(make_pe([(".bss", b"x")]))
    table = 0x80 + 24 + 112 + 128
    for size, expected in ((600, b"x" + bytes(599)), (0, b"x" + bytes(511))):
        data[table + 8 : table + 12] = size.to_bytes(4, "little")
        image = parse_pe(bytes(data))
        assert image.content(image.sections[0]) == expected
    data[table + 8 : table + 12] = (MAX_PADDING + 513).to_bytes(4, "little")
    image = parse_pe(bytes(data))
    with pytest.raises(FormatError, match="beyond the file"):
        image.content(image.sections[0])


@pytest.mark.parametrize(
    "spoil, expected",
    [
        (lambda data: b"ZM" + data[2:], "MZ"),
        (lambda data: data[:0x3C] + b"\xff\xff\xff\x7f" + data[0x40:], "4 bytes"),
        (lambda data: data[:0x80] + b"NE\0\0" + data[0x84:], "PE and two"),
        (lambda data: data[: 0x80 + 24] + b"\x07\x01" + data[0x80 + 26 :], "PE32"),
        (lambda data: data[: 0x80 + 20] + b"\x08\x01" + data[0x80 + 22 :], "directories"),
        (lambda data: data[: 0x80 + 6] + b"\x61\0" + data[0x80 + 8 :], "section headers"),
        (lambda data: data[: 0x80 + 84] + b"\0\x01\0\0" + data[0x80 + 88 :], "within the headers"),
        (lambda data: data + bytes(8), "ends the file"),
        (lambda data: data[:-1], "ends the file"),
    ],
)
def test_image_that_two_readers_could_understand_differently_is_refused(spoil: Callable[[bytes], bytes], expected: str) -> None:
    with pytest.raises(FormatError, match=expected):
        parse_pe(spoil(make_pe(UKI, certificates=CERTIFICATES)))


def test_contents_that_overlap_or_leave_the_file_are_refused() -> None:
    data = make_pe([(".a", b"a" * 512), (".b", b"b" * 512)])
    table = 0x80 + 24 + 112 + 128
    for offset in (0, 512, 900, len(data) - 100):
        moved = data[: table + 60] + offset.to_bytes(4, "little") + data[table + 64 :]
        with pytest.raises(FormatError, match="apart from each other"):
            parse_pe(moved)


def test_unknown_algorithm_is_a_misuse() -> None:
    with pytest.raises(Misuse):
        parse_pe(make_pe(UKI)).digest("md5")


def test_any_bytes_are_an_image_or_a_format_error() -> None:
    specimen = make_pe([(".linux", b"k"), (".initrd", b"i")], certificates=CERTIFICATES)
    assert_parser_is_total(lambda data: parse_pe(data).digest(), specimen)


@given(st.lists(st.tuples(st.sampled_from([".linux", ".initrd", "mods"]), st.binary(max_size=1100)), max_size=5), st.binary(max_size=9))
def test_contents_come_back_and_the_digest_covers_the_file(sections: list[tuple[str, bytes]], trailing: bytes) -> None:
    data = make_pe(sections, trailing=trailing)
    image = parse_pe(data)

    assert [(section.name, image.content(section)) for section in image.sections] == sections
    assert image.digest().value == by_hand(data, "sha256")


STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")


def test_digest_of_a_signed_stub_is_the_one_in_its_signature(tmp_path: Path) -> None:
    """An oracle: sbsign writes the Authenticode digest into the signature that it makes."""
    if not STUB.exists() or not Path("/usr/bin/sbsign").exists():
        missing("a stub and sbsign (Debian: systemd-boot-efi, sbsigntool)")
    key, certificate, signed = (tmp_path / name for name in ("key.pem", "cert.pem", "signed.efi"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-keyout", key, "-out", certificate],
        check=True, capture_output=True, env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    subprocess.run(["sbsign", "--key", key, "--cert", certificate, "--output", signed, STUB], check=True, capture_output=True)

    image = parse_pe(signed.read_bytes())
    assert image.certificates is not None
    offset, size = image.certificates
    assert image.digest().value in image.data[offset : offset + size]
    assert image.digest("sha1").value not in image.data[offset : offset + size]
