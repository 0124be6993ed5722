"""The SGX extensions of a PCK certificate: each item once and of its size, in any order."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier

from tests.parsers import assert_parser_is_total
from tests.world.der import children, element
from tests.world.tdx import PCK_CA, Platform, item, named, number, octets, sgx_extensions
from writ.formats.errors import FormatError
from writ.formats.tee.pck import SGX_EXTENSIONS, PckExtension, parse_pck
from writ.formats.x509 import parse_certificate

ONE = Platform()


def read(value: bytes, oid: str = SGX_EXTENSIONS) -> PckExtension:
    extension = (x509.UnrecognizedExtension(ObjectIdentifier(oid), value), False)
    return parse_pck(parse_certificate(PCK_CA.sign(named("Intel SGX PCK Certificate"), "pck", [extension])))


def value_of(*more: bytes) -> bytes:
    return sgx_extensions(ONE.components, ONE.pce_svn, ONE.pce_id, ONE.fmspc, *more)


def test_platform_is_what_the_certificate_says() -> None:
    assert parse_pck(parse_certificate(ONE.pck())) == PckExtension(
        ppid=b"\x50" * 16, components=ONE.components, pce_svn=11, cpu_svn=bytes(ONE.components), pce_id=b"\0\0", fmspc=ONE.fmspc,
        sgx_type="scalable", platform_instance=b"\x60" * 16, dynamic_platform=True, cached_keys=False, smt=True,
    )  # fmt: skip


def test_platform_of_one_package_says_less() -> None:
    items = sgx_items(value_of())
    found = read(element(0x30, b"".join(items[:5][::-1])))
    assert (found.platform_instance, found.dynamic_platform, found.cached_keys, found.smt) == (None, None, None, None)


def sgx_items(value: bytes) -> list[bytes]:
    return children(value)


@pytest.mark.parametrize("place", range(5))
def test_item_that_is_missing_is_refused(place: int) -> None:
    items = sgx_items(value_of())
    with pytest.raises(FormatError):
        read(element(0x30, b"".join(items[:place] + items[place + 1 :])))


@pytest.mark.parametrize(
    "wrong",
    [
        item("1", octets(b"\x50" * 15)), item("1", number(5)), item("2", octets(b"")), item("3", octets(b"\0")),
        item("4", octets(bytes(7))),
        item("5", element(0x0A, b"\x03")), item("5", element(0x0A, b"\0\0")), item("5", number(1)), item("6", octets(bytes(15))),
        item("7", element(0x30, item("7.1", element(0x01, b"\x01")))), item("7", element(0x30, item("6.1", element(0x01, b"\xff")))),
    ],
)  # fmt: skip
def test_item_of_another_size_or_kind_is_refused(wrong: bytes) -> None:
    place = wrong[wrong.index(bytes.fromhex("2a864886f84d010d01")) + 9] - 1
    items = sgx_items(value_of())
    items[place] = wrong
    with pytest.raises(FormatError):
        read(element(0x30, b"".join(items)))


@pytest.mark.parametrize("component, svn", [("2.1", 256), ("2.1", -1), ("2.17", 65536)])
def test_svn_out_of_its_range_is_refused(component: str, svn: int) -> None:
    wrong = item(component, element(0x02, b"\xff") if svn < 0 else number(svn))
    rest = [item(f"2.{place}", number(1)) for place in range(1, 18) if f"2.{place}" != component]
    tcb = element(0x30, b"".join([*rest, wrong, item("2.18", octets(bytes(16)))]))
    items = sgx_items(value_of())
    items[1] = item("2", tcb)
    with pytest.raises(FormatError):
        read(element(0x30, b"".join(items)))


def test_item_twice_is_refused_and_one_more_is_passed_over() -> None:
    with pytest.raises(FormatError, match="each once"):
        read(value_of(item("4", octets(ONE.fmspc))))
    assert read(value_of(item("9", octets(b"later")))).fmspc == ONE.fmspc


def test_certificate_without_the_extensions_and_bytes_behind_them_are_refused() -> None:
    with pytest.raises(FormatError, match="SGX extensions"):
        read(value_of(), "1.2.840.113741.1.13.2")
    with pytest.raises(FormatError):
        read(value_of() + b"\x05\0")


def test_reader_is_total() -> None:
    assert_parser_is_total(read, value_of(), flips=300)
