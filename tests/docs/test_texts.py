"""The texts of docs/formats.md against the code: what is written is what the grammar says, and what it refuses the readers refuse."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.docs import abnf
from tests.world.tlog import ORIGIN, MemoryLog, plain_key, witness_key
from writ.formats.errors import FormatError
from writ.formats.tlog.checkpoint import parse_checkpoint, parse_signed_checkpoint
from writ.formats.tlog.cosignature import parse_policy, signed_bytes
from writ.formats.tlog.merkle import consistency_proof
from writ.formats.tlog.note import encode_note, parse_note, parse_vkey
from writ.formats.tlog.proof import encode_tlog_proof, parse_tlog_proof
from writ.formats.tlog.tile import bundles_of, parse_path, path_of, tiles_of
from writ.formats.tlog.witnessing import (
    AddCheckpoint,
    encode_add_checkpoint,
    encode_cosignatures,
    parse_add_checkpoint,
    parse_cosignatures,
    parse_size,
)

PAGE = Path(__file__).parents[2] / "docs/formats.md"
LOG = MemoryLog([b"%d" % number for number in range(700)])
SIGNED = LOG.checkpoint(witnesses=["w1", "w2"])
POLICY = f"# ours\n\nlog {plain_key()} https://log.example.org/\nwitness w1 {witness_key('w1')}\ngroup g any w1\nquorum g\n"


@cache
def grammar() -> dict[str, str]:
    return abnf.rules("".join(re.findall(r"^```abnf\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)))


@cache
def compiled(rule: str) -> re.Pattern[str]:
    return re.compile(abnf.pattern(rule, grammar()))


def fits(rule: str, text: str) -> bool:
    return compiled(rule).fullmatch(text) is not None


TEXTS: dict[str, tuple[Callable[[str], object], tuple[str, ...]]] = {
    "note": (lambda text: parse_note(text.encode()), (encode_note(SIGNED.note).decode(), encode_note(LOG.checkpoint().note).decode())),
    "vkey": (parse_vkey, (str(plain_key()), str(witness_key("w1")))),
    "checkpoint": (parse_checkpoint, (str(SIGNED.checkpoint), str(LOG.checkpoint(0).checkpoint))),
    "signed-checkpoint": (lambda text: parse_signed_checkpoint(text.encode()), (encode_note(SIGNED.note).decode(),)),
    "tile-path": (parse_path, tuple(path_of(tile) for tile in (*tiles_of(700), *bundles_of(700), *tiles_of(70_000, since=69_999)))),
    "tlog-proof": (
        lambda text: parse_tlog_proof(text.encode()),
        (encode_tlog_proof(LOG.proof(5)).decode(), encode_tlog_proof(MemoryLog([b"x"]).proof(0)).decode()),
    ),
    "add-checkpoint": (
        lambda text: parse_add_checkpoint(text.encode()),
        tuple(encode_add_checkpoint(AddCheckpoint(old, consistency_proof(LOG.leaves, old), SIGNED)).decode() for old in (0, 5)),
    ),
    "cosignatures": (lambda text: parse_cosignatures(text.encode()), (encode_cosignatures(SIGNED.note.signatures[1:]).decode(),)),
    "witness-size": (lambda text: parse_size(text.encode()), ("0\n", "700\n")),
    "tlog-policy": (lambda text: parse_policy(text.encode()), (POLICY, POLICY[:-1])),
}
"""Rule -> what reads it, and what we write."""


@pytest.mark.parametrize("rule", TEXTS)
def test_what_is_written_is_what_the_page_says(rule: str) -> None:
    parse, texts = TEXTS[rule]
    for text in texts:
        parse(text)
        assert fits(rule, text), text


@pytest.mark.parametrize("rule", TEXTS)
def test_what_the_page_refuses_the_reader_refuses(rule: str) -> None:
    """Characters left out, doubled, and exchanged for others that grammars are about."""
    parse, texts = TEXTS[rule]
    refused = 0
    for text in texts[:2]:
        for at in range(0, len(text), max(1, len(text) // 120)):
            for new in ("", text[at] * 2, "\n", "\r", " ", "0", "+", "-", "=", "x", "/", "\0", "\u2014", "\u00a0"):
                changed = text[:at] + new + text[at + 1 :]
                if fits(rule, changed):
                    continue
                refused += 1
                if rule == "tlog-policy" and fits(rule, re.sub(r"^ | (?= |\n|\Z)", "", changed, flags=re.MULTILINE)):
                    continue  # words may stand further apart
                with pytest.raises(FormatError):
                    parse(changed)
    assert refused > 3


def test_what_a_witness_signs_is_what_the_page_says() -> None:
    text = signed_bytes(1_790_000_000, str(SIGNED.checkpoint)).decode()
    assert fits("cosigned", text)
    assert not fits("cosigned", text.replace("time ", "time: "))
    assert ORIGIN in text


def test_every_rule_is_reached() -> None:
    reached, waiting = set(), [*TEXTS, "cosigned"]
    while waiting:
        rule = waiting.pop()
        reached.add(rule)
        words = set(re.findall(r"[A-Za-z][A-Za-z0-9-]*", re.sub(r'"[^"]*"|%x[0-9A-F-]+', "", grammar()[rule])))
        waiting += [word for word in words & grammar().keys() if word not in reached]
    assert reached == grammar().keys()


@pytest.mark.parametrize(
    "body, yes, no",
    [
        ('"a" / "b"', ["a", "b"], ["ab", "", "A"]), ('1*2"a"', ["a", "aa"], ["", "aaa"]),
        ('2( "a" / "b" ) [ "c" ]', ["ab", "bac"], ["a", "abcc"]),
        ("%x41-43", ["A", "C"], ["D"]), ("*DIGIT LF", ["\n", "12\n"], ["12"]), ('"(" "+"', ["(+"], ["("]),
    ],
)  # fmt: skip
def test_the_grammar_is_read(body: str, yes: list[str], no: list[str]) -> None:
    made = re.compile(abnf.pattern("rule", {"rule": body}))
    assert [text for text in yes + no if made.fullmatch(text)] == yes
