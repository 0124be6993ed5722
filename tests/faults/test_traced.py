"""The system calls of a decision and of a record: nothing is answered before its sync came back, and the docs show it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.fault import ROOT
from tests.faults.traced import Call, CannotTrace, batch, decision, essential, record

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]


def traced(trace: Callable[[Path], list[Call]], room: Path) -> list[Call]:
    try:
        return trace(room)
    except CannotTrace as why:
        pytest.skip(f"strace is not here or may not attach: {why}")


def shown(heading: str) -> list[tuple[str, str]]:
    """Call and file of each line of the trace that docs/operations.md shows below `heading`."""
    text = (ROOT / "docs/operations.md").read_text()
    block = text[text.index(heading) :].split("```text\n")[1].split("```")[0]
    return [(found[1], found[2]) for found in re.finditer(r"^(\w+)\(([^,)]+)", block, re.MULTILINE)]


def test_i4_the_kernel_syncs_a_decision_before_it_sees_the_answer(tmp_path: Path) -> None:
    found = traced(decision, tmp_path)
    print("\n" + "\n".join(essential(found)))
    places = list(dict.fromkeys(call.place for call in found))

    assert places[:3] == [("pwrite64", "ledger.sqlite-wal"), ("fdatasync", "ledger.sqlite-wal"), ("pwrite64", "log-head")]
    assert places[3][1] == "TCP"
    assert len(places) == 4
    assert [call.result for call in found if call.name == "fdatasync"] == ["0"]
    assert [call.result for call in found if call.what == "log-head"] == ["4096"]
    assert shown("one decision of the verifier, by strace") == places


def test_i4_the_kernel_syncs_a_record_before_it_sees_the_answer(tmp_path: Path) -> None:
    found = traced(record, tmp_path)
    print("\n" + "\n".join(essential(found)))
    places = list(dict.fromkeys(call.place for call in found))

    assert places == [("pwrite64", "action-log.sqlite-wal"), ("fdatasync", "action-log.sqlite-wal"), ("write", "pipe")]
    assert [call.result for call in found if call.name == "fdatasync"] == ["0"]
    assert shown("And of one record of an action log") == places


def test_i4_the_kernel_syncs_a_batch_of_a_store_before_it_sees_the_receipt(tmp_path: Path) -> None:
    found = traced(batch, tmp_path)
    print("\n" + "\n".join(essential(found)))
    places = list(dict.fromkeys(call.place for call in found))

    assert places[:2] == [("pwrite64", "records.sqlite-wal"), ("fdatasync", "records.sqlite-wal")]
    assert places[2][1] == "TCP"
    assert len(places) == 3
    assert [call.result for call in found if call.name == "fdatasync"] == ["0"]
    assert shown("Of one batch of a record store") == places
