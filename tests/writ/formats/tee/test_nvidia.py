"""NVIDIA evidence: opaque data of both layouts, and files in every wrapping that devices travel in."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.parsers import assert_parser_is_total
from tests.world.nvidia import NONCE, Device, evidence, gpu_fields, headed, pem, tlv
from writ.formats.errors import FormatError
from writ.formats.tee.nvidia import Field, gpu_vbios, parse_evidence, parse_opaque, parse_report, parse_report_file

GPU = Device()
ENTRY = GPU.entry(driver_version="550.90.07", vbios_version="96.00.9F.00.01", cc_mode="on", version="1.0", uuid="GPU-1")
ONE = parse_evidence(evidence(ENTRY))
BARE = parse_evidence(evidence(GPU.entry(arch=None, nonce=None)))


def test_both_layouts_of_opaque_data_give_their_fields() -> None:
    plain = parse_opaque(tlv(gpu_fields().items()))
    assert (plain.version, plain.text(Field.DRIVER_VERSION), plain.text(Field.CHIP_SKU), gpu_vbios(plain)) == (
        1, "550.90.07", "882", "96.00.9F.00.01",
    )  # fmt: skip
    assert (plain.number(Field.FEATURE), plain.value(99), plain.text(99), plain.number(99)) == (0, None, None, None)
    with_header = parse_opaque(headed([(3, 0x86, b"620.12\0"), (0x26, 0x87, b"\3\0")]))
    assert (with_header.version, with_header.text(Field.DRIVER_VERSION), with_header.fields[0x26].kind) == (2, "620.12", 0x87)
    assert parse_opaque(b"").fields == {}
    assert gpu_vbios(parse_opaque(b"")) is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(tlv([(3, b"a"), (3, b"b")]), id="a type twice"),
        pytest.param(tlv([(34, b"\3\0")]), id="a layout that nobody knows"),
        pytest.param(headed([], major=3), id="a header that nobody knows"),
        pytest.param(b"NVDAOD\1\0" + bytes(4), id="another profile"),
        pytest.param(b"NVDAOD\0\0\2", id="a header cut off"),
        pytest.param(tlv([(3, b"abc")])[:-1], id="a value cut off"),
        pytest.param(b"\3\0\1", id="a size cut off"),
        pytest.param(tlv([(34, bytes(9))]), id="a number of nine bytes"),
    ],
)
def test_opaque_data_of_another_form_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_opaque(data)


@pytest.mark.parametrize("value", [b"", b"96.00.9F", bytes(7), bytes(9), bytes.fromhex("009f009601010000")])
def test_vbios_version_of_another_form_is_refused(value: bytes) -> None:
    with pytest.raises(FormatError):
        gpu_vbios(parse_opaque(tlv([(6, value)])))


@pytest.mark.parametrize("value", [b"", b"\0", b"a\0b", b"\xff", b"x" * 65])
def test_text_of_another_form_is_refused(value: bytes) -> None:
    with pytest.raises(FormatError):
        parse_opaque(tlv([(3, value)])).text(3)


def test_file_of_the_sdk_gives_device_and_what_the_host_states() -> None:
    (device,) = ONE
    assert device.report == parse_report(GPU.report())
    assert [one.der for one in device.chain] == list(GPU.chain())
    assert (device.arch, device.nonce, device.driver, device.vbios, device.cc_mode) == (
        "HOPPER", NONCE, "550.90.07", "96.00.9F.00.01", "on",
    )  # fmt: skip
    assert (BARE[0].arch, BARE[0].nonce, BARE[0].driver, BARE[0].vbios, BARE[0].cc_mode) == (None,) * 5


def test_other_wrappings_give_the_same_devices() -> None:
    report, chain = GPU.report(), pem(GPU.chain())
    bare = {"evidence": base64.b64encode(report).decode(), "certificate": base64.b64encode(chain).decode()}
    same: list[Any] = [
        [{"evidence": report.hex(), "certificate": chain.hex()}],
        [{"evidence": report.hex().upper(), "certificate": chain.decode().replace("\n", "\r\n")}],
        [{"evidence": base64.encodebytes(report).decode(), "certificate": base64.encodebytes(chain).decode()}],
        [{"evidence": base64.urlsafe_b64encode(report).decode().rstrip("="), "certificate": bare["certificate"]}],
        {"evidence_list": [bare]},
        {"device_evidence_list": [bare]},
        bare,
    ]
    for value in same:
        assert parse_evidence(json.dumps(value).encode()) == BARE
    around = {"nonce": NONCE.hex(), "arch": "HOPPER", "evidence_list": [bare]}
    assert parse_evidence(json.dumps(around).encode()) == parse_evidence(evidence(GPU.entry()))


def test_cmw_collection_of_devices_is_read() -> None:
    def wrapped(data: bytes) -> list[str]:
        return ["application/octet-stream", base64.urlsafe_b64encode(data).decode().rstrip("=")]

    item = {
        "__cmwc_t": "tag:nvidia.com,2026:evidence-item/v1",
        "evidence": wrapped(GPU.report()),
        "certificate": wrapped(base64.b64encode(pem(GPU.chain()))),
        "nonce": wrapped(NONCE),
    }
    top = {"__cmwc_t": "tag:nvidia.com,2026:verifier-input/profiles/base/pre-1.0.0", "nonce": wrapped(NONCE), "gpu_0": item, "gpu_1": item}
    found = parse_evidence(json.dumps(top).encode())
    assert found == parse_evidence(evidence(*[GPU.entry(arch=None)] * 2))
    for broken in (["a"], ["a", 1], "text"):
        with pytest.raises(FormatError):
            parse_evidence(json.dumps({**top, "gpu_1": {**item, "evidence": broken}}).encode())


@pytest.mark.parametrize(
    "value",
    [
        pytest.param([], id="no device"),
        pytest.param([ENTRY] * 65, id="too many devices"),
        pytest.param("text", id="no object"),
        pytest.param(["text"], id="a device that is no object"),
        pytest.param({"evidence_list": {}}, id="a list that is none"),
        pytest.param([{**ENTRY, "evidence": 5}], id="evidence that is no text"),
        pytest.param([{**ENTRY, "evidence": ""}], id="empty evidence"),
        pytest.param([{**ENTRY, "evidence": "!!"}], id="neither hexadecimal nor base64"),
        pytest.param([{**ENTRY, "certificate": "AAAA"}], id="no certificate"),
        pytest.param([{**ENTRY, "certificate": base64.b64encode(b"-----BEGIN CERTIFICATE-----\n").decode()}], id="half a certificate"),
        pytest.param([{**ENTRY, "nonce": "00"}], id="a short nonce"),
        pytest.param([{**ENTRY, "nonce": 0}], id="a nonce that is no text"),
        pytest.param([{**ENTRY, "arch": 5}], id="an architecture that is no text"),
        pytest.param([{**ENTRY, "cc_mode": "maybe"}], id="a mode that nobody knows"),
        pytest.param([{name: text for name, text in ENTRY.items() if name != "certificate"}], id="no chain"),
    ],
)
def test_file_of_another_form_is_refused(value: Any) -> None:
    with pytest.raises(FormatError):
        parse_evidence(json.dumps(value).encode())


def test_report_alone_in_a_file_is_read_in_each_spelling() -> None:
    report = GPU.report()
    for data in (report, report.hex().encode(), report.hex().encode() + b"\n", base64.encodebytes(report)):
        assert parse_report_file(data) == report
    with pytest.raises(FormatError):
        parse_report_file(b"\xff\xfe")


def test_parsers_are_total() -> None:
    assert_parser_is_total(parse_report, GPU.report(blocks={1: bytes(48)}), flips=500)
    assert_parser_is_total(parse_opaque, headed([(3, 0x86, b"620.12\0")]), open_ended=True)
    assert_parser_is_total(parse_evidence, evidence(GPU.entry(report=GPU.report(blocks={1: bytes(48)}))), flips=300)
