"""Known faulty firmware: each fault with its machine and source, found by its picture, excusing nothing."""

from __future__ import annotations

import re

from writ.verdict.firmware_faults import FAULTS, known_faults


def test_each_fault_has_a_machine_and_a_source_that_can_be_looked_up() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    for fault in FAULTS:
        assert fault.machine
        assert fault.registers
        assert re.fullmatch(r"[\w.-]+/[\w.-]+(#\d+|, \S+)", fault.source)


def test_fault_is_found_by_exactly_its_registers_and_bank() -> None:
    assert "vmware-pcr0" in {fault.name for fault in known_faults("sha384", [0])}
    assert [fault.name for fault in known_faults("sha1", range(8))] == ["supermicro-sha1-column"]
    assert known_faults("sha256", range(8)) == ()
    assert known_faults("sha256", [0, 7]) == ()
    assert known_faults("sha256", []) == ()
