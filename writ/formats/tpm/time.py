"""TPMS_TIME_ATTEST_INFO: the time that a TPM states under a signature, which nobody on the host can set.

`time` counts the milliseconds since the TPM was started, and no command moves it; `clock` goes on over resets, and its owner may move it
forward. Both run at one rate, which the owner may bend by about a sixth (TPM2_ClockRateAdjust).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.errors import FormatError
from writ.formats.tpm.attest import Attest
from writ.formats.tpm.wire import Reader

ST_ATTEST_TIME: Final = 0x8019


@dataclass(frozen=True, slots=True)
class TimeInfo:
    """TPMS_TIME_INFO: `time` and `clock` in milliseconds."""

    time: int
    clock: int
    reset_count: int
    restart_count: int
    safe: bool


def parse_time(attest: Attest) -> TimeInfo:
    """The attested part of a TPM2_GetTime. Raises FormatError for any other structure.

    Source: TPM 2.0 Library Part 2, TPMS_TIME_ATTEST_INFO, TPMS_TIME_INFO.
    """
    if attest.type_tag != ST_ATTEST_TIME or not isinstance(attest.body, bytes):
        raise FormatError("TPMS_ATTEST.type", f"0x{ST_ATTEST_TIME:04x}", f"0x{attest.type_tag:04x}")
    reader = Reader(attest.body, "TPMS_TIME_ATTEST_INFO")
    info = TimeInfo(
        time=reader.uint(8, "time"),
        clock=reader.uint(8, "clock"),
        reset_count=reader.uint(4, "resetCount"),
        restart_count=reader.uint(4, "restartCount"),
        safe=reader.flag("safe"),
    )
    reader.uint(8, "firmwareVersion")
    reader.done()
    return info
