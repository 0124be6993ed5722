"""Payloads of UEFI events: read as firmware and boot loaders write them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from tests.world.uefi_logs import SHA256_LIST, X509_LIST, image_load, signature_list, tag
from writ.formats.errors import FormatError
from writ.formats.eventlog import uefi_data
from writ.formats.eventlog.uefi_data import (
    GLOBAL_VARIABLE,
    FirmwareBlob,
    Variable,
    encode_variable,
    guid_bytes,
    guid_text,
    ipl_preimages,
    ipl_text,
    parse_firmware_blob,
    parse_image_load,
    parse_signature_lists,
    parse_tagged,
    parse_variable,
)

VARIABLE = Variable(GLOBAL_VARIABLE, "SecureBoot", b"\x01")


@given(st.binary(min_size=16, max_size=16), st.text(st.characters(codec="utf-16"), max_size=20), st.binary(max_size=50))
def test_variable_is_read_as_it_was_written(namespace: bytes, name: str, data: bytes) -> None:
    variable = Variable(guid_text(namespace), name, data)
    assert guid_bytes(variable.namespace) == namespace
    assert parse_variable(encode_variable(variable)) == variable


@pytest.mark.parametrize(
    "parse, specimen, open_ended",
    [
        (parse_variable, encode_variable(VARIABLE), False),
        (parse_signature_lists, signature_list(SHA256_LIST, [b"a" * 32]) + signature_list(X509_LIST, [b"der"]), True),
        (parse_image_load, image_load("\\EFI\\BOOT\\BOOTX64.EFI"), False),
        (parse_tagged, tag(7, b"data"), False),
        (parse_firmware_blob, b"\x03one" + struct.pack("<QQ", 1, 2), True),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_parser_is_total(parse: Callable[[bytes], object], specimen: bytes, open_ended: bool) -> None:
    assert_parser_is_total(parse, specimen, open_ended=open_ended)


def test_signature_database_gives_its_entries() -> None:
    owner = guid_bytes("77fa9abd-0359-4d32-bd60-28f4e78f784b")
    found = parse_signature_lists(
        signature_list(X509_LIST, [b"a certificate"], owner) + signature_list(SHA256_LIST, [b"h" * 32, b"i" * 32])
    )

    assert [(entry.kind, entry.digest) for entry in found] == [
        ("x509", hashlib.sha256(b"a certificate").digest()), ("sha256", b"h" * 32), ("sha256", b"i" * 32),
    ]  # fmt: skip
    assert found[0].owner == "77fa9abd-0359-4d32-bd60-28f4e78f784b"
    assert parse_signature_lists(b"") == ()


def test_signature_database_beyond_its_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = signature_list(SHA256_LIST, [b"h" * 32] * 3)
    monkeypatch.setattr(uefi_data, "MAX_SIGNATURES", 2)
    with pytest.raises(FormatError, match="at most 2 entries"):
        parse_signature_lists(data)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<16sIII", SHA256_LIST, 28 + 47, 0, 47) + bytes(47),  # a SHA-256 entry of another size
        struct.pack("<16sIII", X509_LIST, 28, 0, 0),  # entries of no size
        struct.pack("<16sIII", X509_LIST, 28 + 50, 0, 20) + bytes(50),  # that do not fill the list
        struct.pack("<16sIII", X509_LIST, 28, 40, 20),  # a header beyond the list
    ],
)
def test_signature_list_that_does_not_add_up_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_signature_lists(data)


def test_image_load_gives_its_path() -> None:
    assert parse_image_load(image_load("\\EFI\\x.efi", 99)).path == "\\EFI\\x.efi"


def test_device_path_beyond_its_bound_is_refused() -> None:
    nodes = struct.pack("<BBH", 1, 1, 4) * (uefi_data.MAX_NODES + 1)
    with pytest.raises(FormatError, match="at most 64 nodes"):
        parse_image_load(struct.pack("<QQQQ", 0, 0, 0, len(nodes)) + nodes)
    behind = b"\x7f\xff\x04\0" * 2
    with pytest.raises(FormatError, match="behind its end"):
        parse_image_load(struct.pack("<QQQQ", 0, 0, 0, len(behind)) + behind)


def test_firmware_blob_has_two_forms() -> None:
    place = struct.pack("<QQ", 0x1000, 0x20)
    assert parse_firmware_blob(place) == FirmwareBlob("", 0x1000, 0x20)
    assert parse_firmware_blob(b"\x02Fv" + place) == FirmwareBlob("Fv", 0x1000, 0x20)
    with pytest.raises(FormatError, match="ASCII"):
        parse_firmware_blob(b"\x02\xff\xff" + place)


@pytest.mark.parametrize(
    "data, hashed, text",
    [
        (b"grub_cmd: set root=hd0\0", b"set root=hd0", "grub_cmd: set root=hd0"),
        (b"kernel_cmdline: /vmlinuz a: b\0", b"/vmlinuz a: b", "kernel_cmdline: /vmlinuz a: b"),
        (b"grub_cmd set root=hd0\0", b"set root=hd0", "grub_cmd set root=hd0"),
        ("root=/dev/vda".encode("utf-16-le") + b"\0\0", "root=/dev/vda".encode("utf-16-le") + b"\0\0", "root=/dev/vda"),
        (".linux".encode("utf-16-le") + b"\0\0", b".linux\0", ".linux"),
        ("root=a".encode("utf-16-le") + b"\0", "root=a".encode("utf-16-le") + b"\0\0", "root=a"),
        (b"\xff\xfe\xfd\xfc", b"\xff\xfe\xfd\xfc", ""),
    ],
)
def test_what_a_boot_loader_hashed_is_among_the_preimages(data: bytes, hashed: bytes, text: str) -> None:
    assert hashed in ipl_preimages(data)
    assert ipl_text(data) == text
