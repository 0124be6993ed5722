"""RIMs: what they name, and what no RIM of NVIDIA is."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from tests.parsers import assert_parser_is_total, exchanged
from tests.world.nvidia import BLOCKS, DRIVER, DRIVER_RIM, RimMaker
from writ.formats.errors import FormatError
from writ.formats.tee.rim import SvnFloor, parse_rim, parse_rim_file

SMALL = RimMaker(active={9: [BLOCKS[1], BLOCKS[2]]}, inactive=(0,), floors={0x26: 3})


def changed(old: str, new: str, maker: RimMaker = SMALL) -> bytes:
    """The document with `old` made `new`: its signature fails, which is not for the reader to say."""
    return exchanged(maker.document(), old, new)


def test_rim_gives_version_product_values_and_floors() -> None:
    found = parse_rim(SMALL.document())
    assert (found.version, found.product, found.tag_id) == (DRIVER, "GH100", "tag")
    assert found.measurements == {9: (BLOCKS[1], BLOCKS[2])}
    assert found.floors == (SvnFloor(0x26, "svn_38", 3),)
    assert len(parse_rim(DRIVER_RIM.document()).measurements) == 35


def test_size_is_one_of_bytes_or_of_digits() -> None:
    digits = changed('name="Measurement_9" size="48"', 'name="Measurement_9" size="96"')
    assert parse_rim(digits).measurements == {9: (BLOCKS[1], BLOCKS[2])}
    with pytest.raises(FormatError, match="hexadecimal of size 47"):
        parse_rim(changed('name="Measurement_9" size="48"', 'name="Measurement_9" size="47"'))


def test_answer_of_the_rim_service_is_read_with_its_id() -> None:
    document = SMALL.document()
    answer = {"id": "NV_1", "rim": base64.b64encode(document).decode(), "sha256": "", "rim_format": "TCG", "request_id": "x"}
    assert parse_rim_file(json.dumps(answer).encode()) == ("NV_1", parse_rim(document))
    assert parse_rim_file(document) == (None, parse_rim(document))
    for broken in ({"id": "NV_1"}, {**answer, "rim": "!"}, {**answer, "id": ""}):
        with pytest.raises(FormatError):
            parse_rim_file(json.dumps(broken).encode())


@pytest.mark.parametrize(
    "old, new",
    [
        pytest.param('alternatives="2"', 'alternatives="3"', id="fewer values than it says"),
        pytest.param('alternatives="2"', 'alternatives="1"', id="more values than it says"),
        pytest.param('alternatives="2"', 'alternatives="0"', id="no values"),
        pytest.param('alternatives="2"', 'alternatives="-2"', id="a negative number"),
        pytest.param('index="9"', 'index="0"', id="an index twice"),
        pytest.param('index="9"', 'index="254"', id="an index that no block has"),
        pytest.param('index="9"', 'index="4095"', id="an index that means nothing"),
        pytest.param('index="9"', 'index="69632"', id="an index beyond all fields"),
        pytest.param('index="9"', 'index="٩"', id="digits that are not ASCII"),
        pytest.param('active="True" alternatives', 'active="true" alternatives', id="neither True nor False"),
        pytest.param('active="True" alternatives', "alternatives", id="not said whether active"),
        pytest.param(f'ns2:Hash1="{BLOCKS[2].hex()}"', f'ns2:Hash1="{BLOCKS[2].hex()[:-2]}"', id="a short value"),
        pytest.param(f'ns2:Hash1="{BLOCKS[2].hex()}"', f'ns2:Hash1="{BLOCKS[2].hex()[:-1]}g"', id="no hexadecimal"),
        pytest.param(f'ns2:Hash1="{BLOCKS[2].hex()}"', f'Hash1="{BLOCKS[2].hex()}"', id="a value of no algorithm"),
        pytest.param('ns3:minSvn="3"', 'ns3:minSvn="x"', id="no security version"),
        pytest.param('ns3:minSvn="3"', 'minSvn="3"', id="a security version of nobody"),
        pytest.param('colloquialVersion="550.90.07"', 'colloquialVersion=""', id="no version"),
        pytest.param(' product="GH100"', "", id="no product"),
        pytest.param('name="Measurement_9" size="48" type="Measurement"', 'name="Measurement_9" size="48" type="Other"', id="another type"),
        pytest.param("<ns0:Meta ", "<ns0:Meta></ns0:Meta><ns0:Meta ", id="Meta twice"),
        pytest.param("<ns0:Payload>", "<ns0:Payload><ns0:File></ns0:File>", id="something that nobody compares"),
        pytest.param("<SoftwareIdentity ", "<ds:Object xmlns:ds='u:x'/><SoftwareIdentity ", id="two documents"),
    ],
)
def test_what_is_no_rim_is_refused(old: str, new: str) -> None:
    parse_rim(SMALL.document())
    with pytest.raises(FormatError):
        parse_rim(changed(old, new))


def test_rim_that_names_nothing_is_refused() -> None:
    with pytest.raises(FormatError, match="an active measurement"):
        parse_rim(replace(SMALL, active={}).document())


def test_parser_is_total() -> None:
    assert_parser_is_total(parse_rim, SMALL.document() + b"\n", flips=400, open_ended=True)
