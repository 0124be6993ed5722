"""What every parser of untrusted bytes owes: a value or FormatError, soon, whatever it is given."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from writ.formats.errors import FormatError

_CPU_SECONDS: Final = 2.0
"""Of one call; processor time, so that a busy machine fails no test."""
_RANDOM_INPUTS: Final = 300
_MOST_TRUNCATIONS: Final = 2_000


def assert_parser_is_total(
    parse: Callable[[bytes], object], specimen: bytes, *, flips: int = 2_000, open_ended: bool = False, seed: int = 0
) -> None:
    """`parse` reads `specimen`, and answers each spoilt copy and each random input with a value or FormatError.

    Spoilt: every truncation, one more byte at either end, single bits flipped (all of them, or `flips` drawn by `seed`), single
    bytes at 0xff, halves swapped and doubled. Unless `open_ended` (a file of records may end after any record), no truncation
    and no appended byte is accepted.
    """
    chance = random.Random(seed)
    parse(specimen)

    for data in [*_truncations(specimen, chance), specimen + b"\x00", specimen + b"\xff", specimen + specimen]:
        accepted = _accepts(parse, data)
        assert open_ended or not accepted, f"expected FormatError on a truncated or prolonged copy, got a value from {data.hex()}"
    for data in _spoilt(specimen, chance, flips):
        _accepts(parse, data)
    for _ in range(_RANDOM_INPUTS):
        _accepts(parse, chance.randbytes(chance.choice((1, 2, 5, 16, 64, 300, 3000))))


def _accepts(parse: Callable[[bytes], object], data: bytes) -> bool:
    started = time.monotonic()  # a tenth of what it costs to ask for processor time, which is never more
    accepted = _reads(parse, data)
    if time.monotonic() - started > _CPU_SECONDS:
        before = time.process_time()
        _reads(parse, data)
        if (spent := time.process_time() - before) > _CPU_SECONDS:
            pytest.fail(f"expected an answer within {_CPU_SECONDS} s of processor time, took {spent:.1f} s for {data[:2000].hex()}")
    return accepted


def _reads(parse: Callable[[bytes], object], data: bytes) -> bool:
    try:
        parse(data)
        return True
    except FormatError:
        return False
    except Exception as error:
        raise AssertionError(f"expected a value or FormatError, got {error!r} from {data[:2000].hex()}") from error


def _truncations(specimen: bytes, chance: random.Random) -> Iterator[bytes]:
    lengths: range | list[int] = range(len(specimen))
    if len(lengths) > _MOST_TRUNCATIONS:
        lengths = [0, 1, len(specimen) - 1, *chance.sample(lengths, _MOST_TRUNCATIONS)]
    return (specimen[:length] for length in lengths)


def _spoilt(specimen: bytes, chance: random.Random, flips: int) -> Iterator[bytes]:
    bits: range | list[int] = range(len(specimen) * 8)
    if len(bits) > flips:
        bits = chance.sample(bits, flips)
    for bit in bits:
        copy = bytearray(specimen)
        copy[bit // 8] ^= 1 << bit % 8
        yield bytes(copy)
    for at in range(min(len(specimen), flips)):
        yield specimen[:at] + b"\xff" + specimen[at + 1 :]
    middle = len(specimen) // 2
    yield specimen[middle:] + specimen[:middle]
    yield b"\x00" + specimen


def exchanged(document: bytes, old: str, new: str, count: int = 1) -> bytes:
    """The document with `old`, which is in it just so often, made `new`."""
    text = document.decode()
    assert text.count(old) == count
    return text.replace(old, new).encode()
