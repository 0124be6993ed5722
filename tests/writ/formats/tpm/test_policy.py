"""Policy digests, times and creation data: fixed values, and any bytes at all. The attestor's tests compare them with a TPM's own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.parsers import assert_parser_is_total
from tests.world.chip import Chip
from tests.world.lease_chip import LeaseChip
from writ.formats.errors import FormatError
from writ.formats.lease import HostMoment
from writ.formats.tpm.attest import parse_attest
from writ.formats.tpm.creation import parse_creation
from writ.formats.tpm.policy import BEGINNING, CLOCK, EQUAL, RESET_COUNT, policy_authorize, policy_counter_timer
from writ.formats.tpm.public import RH_ENDORSEMENT, primary_qualified_name
from writ.formats.tpm.time import parse_time

MOMENT = HostMoment("sha256", bytes(32), 7, 0, 90_000)


def test_every_part_of_a_moment_makes_another_digest() -> None:
    others = (
        replace(MOMENT, bank="sha384"), replace(MOMENT, pcr_digest=b"\1" * 32), replace(MOMENT, reset_count=8),
        replace(MOMENT, restart_count=1), replace(MOMENT, clock_before=90_001),
    )  # fmt: skip
    assert len({MOMENT.policy, *(other.policy for other in others)}) == 6


def test_authorize_forgets_what_was_before_and_names_key_and_reference() -> None:
    name, other = b"\0\x0b" + bytes(32), b"\0\x0b" + b"\1" * 32
    assert len({policy_authorize(name, b""), policy_authorize(other, b""), policy_authorize(name, b"r")}) == 3


@pytest.mark.parametrize("part, operand", [(RESET_COUNT, 1 << 32), (CLOCK, 1 << 64), (CLOCK, -1)])
def test_operand_that_does_not_fit_is_refused(part: tuple[int, int], operand: int) -> None:
    with pytest.raises(FormatError):
        policy_counter_timer(BEGINNING, part, operand, EQUAL)


def test_creation_data_is_read_to_its_last_byte_and_nothing_else() -> None:
    chip = Chip()
    data, *_ = chip.create_lease_key(LeaseChip().public, b"q")
    creation = parse_creation(data)
    assert creation.parent_name == chip.ek.name()
    assert creation.parent_qualified_name == primary_qualified_name(RH_ENDORSEMENT, chip.ek.name())
    assert_parser_is_total(parse_creation, data, flips=300)


def test_time_is_read_of_a_time_attestation_alone() -> None:
    chip = Chip(clock=5_000)
    attest, _ = chip.get_time(b"x")
    time = parse_time(parse_attest(attest))
    assert (time.time, time.clock, time.reset_count, time.restart_count, time.safe) == (5_000, 5_000, 7, 0, True)
    for other in (chip.quote(b"x"), chip.certify(b"x"), chip.certify_creation(b"x"), chip.certify_nv(b"x")):
        with pytest.raises(FormatError):
            parse_time(parse_attest(other[0]))
    assert_parser_is_total(lambda data: parse_time(parse_attest(data)), attest, flips=300)
