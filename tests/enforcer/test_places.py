"""What a host has seen of the verifier's logs, on disk."""

from __future__ import annotations

from pathlib import Path

from enforcer.places import HeldPlaces, Places, encode_places, parse_places
from tests.parsers import assert_parser_is_total
from writ.formats.reason import Reason
from writ.verdict.transparency import Logged

HERE = Logged("a.example.org/log", 9, 4, None)
LOST = Reason("verifier-rolled-back", "receipt.index", "entry 4 of 9, or later", "entry 1 of 2")


def test_places_are_read_as_they_are_spelt() -> None:
    places = Places((HERE, Logged("b.example.org/log", 2, 1, None)), LOST)
    assert parse_places(encode_places(places)) == places
    assert_parser_is_total(parse_places, encode_places(places))


def test_place_only_goes_on_and_each_log_has_its_own(tmp_path: Path) -> None:
    places = HeldPlaces(tmp_path / "verifier")
    assert places.read() == Places()
    places.advance(HERE)
    for behind in (Logged(HERE.origin, 8, 3, None), Logged(HERE.origin, 9, 4, (("w", 1),))):
        places.advance(behind)
        assert places.read() == Places((HERE,))
    places.advance(Logged("0.example.org/log", 2, 1, None))
    places.advance(Logged(HERE.origin, 8, 5, None))
    assert HeldPlaces(tmp_path / "verifier").read().logs == (Logged("0.example.org/log", 2, 1, None), Logged(HERE.origin, 9, 5, None))


def test_alarm_stays_until_it_is_settled_whatever_comes_in_between(tmp_path: Path) -> None:
    places = HeldPlaces(tmp_path / "verifier")
    places.alarm(LOST)
    places.advance(HERE)
    assert places.read() == Places((HERE,), LOST)
    places.settle()
    assert places.read() == Places()
