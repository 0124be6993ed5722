"""DICE extensions: both forms under one number, and nothing that is neither."""

from __future__ import annotations

import pytest

from tests.parsers import assert_parser_is_total
from tests.world.der import element
from tests.world.nvidia import BLACKWELL, FIRMWARE, Device, composite, fwid, tcb_info
from writ.formats.errors import FormatError
from writ.formats.tee.dice import DEBUG, parse_tcb_info
from writ.formats.tee.dice import tcb_info as tcb_info_of
from writ.formats.x509 import parse_certificate

OTHER = b"\7" * 48


def test_certificates_of_both_generations_say_their_firmware() -> None:
    hopper, blackwell = (tcb_info_of(parse_certificate(device.leaf())) for device in (Device(), BLACKWELL))
    assert hopper is not None
    assert (hopper.firmware, hopper.flags) == ((FIRMWARE,), frozenset())
    assert blackwell is not None
    assert (blackwell.firmware, blackwell.flags) == ((FIRMWARE, bytes(48)), frozenset({0, 31}))
    assert tcb_info_of(parse_certificate(Device(extension=None).leaf())) is None


def test_tcb_info_is_read_under_the_older_number_too_and_its_flags_are_bits() -> None:
    device = Device(extension=tcb_info(OTHER, flags=0x10000000, oid="2.23.133.5.4.1"))
    found = tcb_info_of(parse_certificate(device.leaf()))
    assert found is not None
    assert (found.firmware, found.flags) == ((OTHER,), frozenset({DEBUG}))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x02\x01\x02" + element(0x30, b"") + fwid(OTHER), id="another version"),
        pytest.param(b"\x02\x01\x01" + element(0x30, b"") + fwid(OTHER) + b"\5\0", id="more behind it"),
        pytest.param(element(0xA6, fwid(OTHER)) + element(0x81, b""), id="out of order"),
        pytest.param(element(0xA6, fwid(OTHER)) * 2, id="twice"),
        pytest.param(element(0x8C, b""), id="a member that nobody knows"),
        pytest.param(element(0x87, b""), id="no flags"),
        pytest.param(element(0x87, b"\x08\x80"), id="eight unused bits"),
        pytest.param(element(0x87, bytes(6)), id="more than 32 bits"),
        pytest.param(element(0xA6, fwid(OTHER) * 17), id="too many digests"),
        pytest.param(element(0x30, b""), id="an element that is no member"),
    ],
)
def test_what_is_neither_is_refused(body: bytes) -> None:
    with pytest.raises(FormatError):
        parse_tcb_info(element(0x30, body))


def test_parser_is_total() -> None:
    for extension in (composite(FIRMWARE), tcb_info(FIRMWARE)):
        assert_parser_is_total(parse_tcb_info, extension.value)
