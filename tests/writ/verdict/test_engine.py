"""The engine's number is the one the golden records were made with."""

from __future__ import annotations

from writ.verdict.engine import ENGINE


def test_engine_is_number_one() -> None:
    assert ENGINE == 1
