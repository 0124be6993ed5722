"""Certificates of VCEKs and VLEKs, and a host's certificate table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.parsers import assert_parser_is_total
from tests.world.amd import OID, TCB, TURIN_TCB, Amd, SnpChip, certificate_table, number, raw_tcb
from tests.world.authority import Ca
from tests.world.der import element
from writ.formats.errors import FormatError
from writ.formats.tee.snp import Tcb
from writ.formats.tee.vek import Vek, parse_certificate_table, parse_vek
from writ.formats.x509 import Certificate, extension_values, parse_certificate

MILAN, TURIN = SnpChip(), SnpChip(Amd("Turin"), tcb=TURIN_TCB)
VLEK = SnpChip(cloud="a cloud")
GUIDS = {
    "VCEK": "63da758d-e664-4564-adc5-f4b93be8accd", "VLEK": "a8074bc2-a25a-483e-aae6-39c045a0b8a1",
    "ASK": "4ab7b379-bbac-4fe4-a02f-05aef327c782", "ARK": "c0b406a4-a803-4952-9743-3fb6014cd0ae",
}  # fmt: skip


def read(certificate: Certificate) -> Vek:
    vek = parse_vek(certificate)
    assert vek is not None
    return vek


def vcek(chip: SnpChip = MILAN, /, **changed: bytes | None) -> Certificate:
    """The VCEK of a chip with extensions changed or left out, by the end of their OID ("3_1")."""
    said = dict(chip.amd.extensions(chip.tcb, product=f"{chip.amd.line}-B0", hwid=chip.hwid))
    for name, value in changed.items():
        end = name.removeprefix("e").replace("_", ".")
        said = {key: old for key, old in said.items() if key != end} | ({} if value is None else {end: value})
    return chip.amd.vek(chip.seed, said)


@pytest.mark.parametrize("chip", [MILAN, SnpChip(Amd("Genoa")), TURIN])
def test_vcek_names_chip_product_and_tcb(chip: SnpChip) -> None:
    vek = read(chip.certificate())
    assert (vek.kind, vek.product, vek.line) == ("VCEK", f"{chip.amd.line}-B0", chip.amd.line)
    assert (vek.tcb, vek.hwid, vek.chip_id, vek.csp) == (raw_tcb(chip.tcb, chip.amd.line), chip.hwid, chip.chip_id, None)


def test_chip_id_of_turin_is_eight_bytes_and_zeros() -> None:
    vek = read(TURIN.certificate())
    assert vek.hwid is not None
    assert len(vek.hwid) == 8
    assert vek.chip_id == vek.hwid + bytes(56)


def test_vlek_names_the_cloud() -> None:
    vek = read(VLEK.certificate())
    assert (vek.kind, vek.product, vek.hwid, vek.chip_id, vek.csp) == ("VLEK", "Milan", None, None, "a cloud")


@pytest.mark.parametrize("chip", [MILAN, TURIN])
def test_hwid_of_old_certificates_stands_plainly(chip: SnpChip) -> None:
    said = chip.amd.extensions(chip.tcb, product=f"{chip.amd.line}-B0", hwid=chip.hwid, legacy=True)
    assert read(chip.amd.vek(chip.seed, said)).hwid == chip.hwid


@pytest.mark.parametrize("version", [0, 1, 2])
def test_struct_version_decides_nothing(version: int) -> None:
    assert read(vcek(e1=number(version))).tcb == raw_tcb(TCB, "Milan")


@pytest.mark.parametrize("product, line", [("Bergamo-A0", "Genoa"), ("Siena-A0", "Genoa"), ("Milan", "Milan"), ("Turin-C1", "Turin")])
def test_products_of_a_line(product: str, line: str) -> None:
    chip = TURIN if line == "Turin" else MILAN
    assert read(vcek(chip, e2=element(0x16, product.encode()))).line == line


def test_every_level_stands_in_its_byte_of_the_tcb() -> None:
    for line in ("Milan", "Turin"):
        tcb = Tcb(1 if line == "Turin" else 0, 2, 3, 200, 5, bytes((0, 7, 8, 9)) if line == "Turin" else bytes((6, 7, 8, 9)))
        chip = SnpChip(Amd(line), tcb=tcb)
        assert read(chip.certificate()).tcb == raw_tcb(tcb, line)


def test_levels_without_meaning_may_be_left_out_and_others_may_not() -> None:
    assert read(vcek(e3_4=None, e3_5=None, e3_6=None, e3_7=None)).tcb == raw_tcb(TCB, "Milan")
    assert read(vcek(TURIN, e3_4=None)).tcb == raw_tcb(TURIN_TCB, "Turin")
    for level in ("e3_1", "e3_2", "e3_3", "e3_8"):
        with pytest.raises(FormatError):
            parse_vek(vcek(MILAN, **{level: None}))
    with pytest.raises(FormatError):
        parse_vek(vcek(TURIN, e3_9=None))


@pytest.mark.parametrize(
    "changed",
    [
        {"e1": None}, {"e1": number(256)}, {"e2": None}, {"e2": element(0x0C, b"Milan-B0")}, {"e2": element(0x16, b"")},
        {"e2": element(0x16, b"Rome-B0")}, {"e2": element(0x16, b"Milan-B0") + b"\0"}, {"e2": element(0x16, b"Milan\xff")},
        {"e3_1": number(256)}, {"e3_1": element(0x02, b"\xff")}, {"e3_8": number(1) + b"\0"}, {"e3_8": element(0x04, b"\1")},
        {"e4": None}, {"e4": b"\1" * 63}, {"e4": element(0x04, b"\1" * 63)}, {"e4": element(0x04, b"\1" * 8)},
        {"e4": element(0x04, b"\1" * 64) + b"\0"}, {"e5": element(0x16, b"a cloud too")}, {"e4": None, "e5": element(0x16, b"x" * 129)},
    ],
)  # fmt: skip
def test_certificate_that_says_it_otherwise_is_refused(changed: dict[str, bytes | None]) -> None:
    with pytest.raises(FormatError):
        parse_vek(vcek(MILAN, **changed))


def test_largest_level_and_longest_name_are_read() -> None:
    assert read(vcek(e3_8=number(255))).tcb[7] == 255
    said = dict(VLEK.amd.extensions(TCB, product="Milan", csp="x" * 128))
    assert read(VLEK.amd.vek("long", said, kind="VLEK")).csp == "x" * 128
    for csp in ("", "x" * 129):
        with pytest.raises(FormatError):
            parse_vek(VLEK.amd.vek("long", said | {"5": element(0x16, csp.encode())}, kind="VLEK"))


def test_other_certificates_are_none() -> None:
    assert parse_vek(parse_certificate(Ca("authority").ek())) is None
    assert parse_vek(MILAN.amd.ask()) is None
    assert parse_vek(MILAN.amd.ark()) is None
    assert parse_vek(MILAN.amd.vek("other", {})) is None
    assert parse_vek(MILAN.certificate(ca=True)) is None


def test_any_bytes_as_an_extension_are_read_or_refused() -> None:
    """Each extension in turn, spoilt in every way that a parser is spoilt."""
    plain = MILAN.certificate()
    values = {oid: value for oid, value in extension_values(plain).items() if oid.startswith(OID)}
    for value in values.values():

        def parse(data: bytes, value: bytes = value) -> Vek | None:
            if len(data) != len(value):  # the certificate around it would have other lengths
                raise FormatError("specimen", "as long", f"{len(data)}")
            return parse_vek(replace(plain, signed=plain.signed.replace(value, data, 1)))

        assert_parser_is_total(parse, value, flips=40)


def test_certificate_of_any_bytes_is_read_or_refused() -> None:
    der = MILAN.certificate().der
    assert_parser_is_total(lambda data: parse_vek(parse_certificate(data)), der, flips=600)


# --- the certificate table ------------------------------------------------------------------------------------------------


def entries() -> dict[str, bytes]:
    amd = MILAN.amd
    return {"VCEK": MILAN.certificate().der, "ASK": amd.ask().der, "ARK": amd.ark().der}


def test_table_gives_each_certificate_and_names_other_entries() -> None:
    other = "00112233-4455-6677-8899-aabbccddeeff"
    held = entries()
    table = certificate_table({GUIDS[name]: der for name, der in held.items()} | {other: b"rim"})
    assert dict(parse_certificate_table(table)) == held | {other: b"rim"}
    assert parse_certificate_table(bytes(4096)) == ()
    assert parse_certificate_table(certificate_table({GUIDS["VLEK"]: b"v"}, padding_to=1)) == (("VLEK", b"v"),)


def test_guid_may_be_turned() -> None:
    """As some hosts write it: the first three parts with their least byte first."""
    turned = "8d75da63-64e6-6445-adc5-f4b93be8accd"
    assert parse_certificate_table(certificate_table({turned: b"vcek"})) == (("VCEK", b"vcek"),)
    assert parse_certificate_table(certificate_table({GUIDS["VCEK"]: b"vcek"})) == (("VCEK", b"vcek"),)


def test_table_with_bytes_that_nothing_names_is_refused() -> None:
    table = bytearray(certificate_table({GUIDS["VCEK"]: b"vcek"}))
    table[-1] = 1
    with pytest.raises(FormatError):
        parse_certificate_table(bytes(table))


@pytest.mark.parametrize("at, value", [(16, 5000), (16, 0), (16, 47), (20, 0), (20, 5000), (20, 0x4001)])
def test_table_whose_entries_lie_elsewhere_is_refused(at: int, value: int) -> None:
    table = bytearray(certificate_table({GUIDS["VCEK"]: b"vcek"}))
    table[at : at + 4] = value.to_bytes(4, "little")
    with pytest.raises(FormatError):
        parse_certificate_table(bytes(table))


def test_table_of_as_many_entries_as_there_may_be() -> None:
    held = {f"00112233-4455-6677-8899-aabbccddee{number:02x}": b"x" for number in range(17)}
    most = dict(list(held.items())[:16])
    assert dict(parse_certificate_table(certificate_table(most))) == most
    with pytest.raises(FormatError):
        parse_certificate_table(certificate_table(held))


def test_entry_of_a_table_has_1_to_16384_bytes_behind_the_list() -> None:
    largest = b"x" * 16384
    assert parse_certificate_table(certificate_table({GUIDS["ARK"]: largest})) == (("ARK", largest),)
    whole = bytearray(certificate_table({GUIDS["VCEK"]: b"vcek"}))
    whole[16:24] = (0).to_bytes(4, "little") + len(whole).to_bytes(4, "little")
    for table in (certificate_table({GUIDS["ARK"]: largest + b"x"}), certificate_table({GUIDS["VCEK"]: b"v", GUIDS["ARK"]: b""}), whole):
        with pytest.raises(FormatError):
            parse_certificate_table(bytes(table))


def test_table_without_an_end_is_refused() -> None:
    with pytest.raises(FormatError):
        parse_certificate_table(certificate_table({GUIDS["VCEK"]: b"vcek"}, padding_to=1)[:24])
    with pytest.raises(FormatError):
        parse_certificate_table(b"\1" * 24 * 40)


def test_table_parser_is_total() -> None:
    assert_parser_is_total(parse_certificate_table, certificate_table({GUIDS["VCEK"]: b"vcek"}, padding_to=1), open_ended=True)
