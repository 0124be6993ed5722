"""Reasons are data with a closed table of codes; errors say expected and got and are bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from writ.formats.errors import FormatError, Misuse, Refused, Unavailable, WritError
from writ.formats.reason import REMEDIES, Reason
from writ.formats.strict import decode_cbor, encode_cbor

_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=0x24F, exclude_characters="\x7f"), max_size=60)
_REASONS = st.builds(Reason, st.sampled_from(sorted(REMEDIES)), _TEXT, _TEXT, _TEXT)


@given(_REASONS)
def test_reason_comes_back_as_it_was(reason: Reason) -> None:
    assert Reason.from_cbor(decode_cbor(encode_cbor(reason.to_cbor()), "reason")) == reason
    assert reason.to_json()["remedy"] == reason.remedy == REMEDIES[reason.code]


def test_reason_reader_is_total() -> None:
    specimen = encode_cbor(Reason("nonce-mismatch", "extra_data", "aa", "bb").to_cbor())
    assert_parser_is_total(lambda data: Reason.from_cbor(decode_cbor(data, "reason")), specimen)


@pytest.mark.parametrize(
    "value", [[], "text", ["nonce-mismatch", "a", "b"], ["no-such-code", "a", "b", "c"], ["nonce-mismatch", 1, "b", "c"]]
)
def test_what_is_no_reason_is_refused(value: object) -> None:
    with pytest.raises(FormatError):
        Reason.from_cbor(value)


def test_reason_outside_of_the_table_is_misuse() -> None:
    with pytest.raises(Misuse):
        Reason("no-such-code", "a", "b", "c")


@pytest.mark.parametrize("code, remedy", sorted(REMEDIES.items()))
def test_every_code_has_a_remedy_of_one_or_more_sentences(code: str, remedy: str) -> None:
    assert remedy.endswith("."), code
    assert code == code.lower().strip("-")


def test_refused_carries_its_reasons_sorted_and_once() -> None:
    later, earlier = Reason("nonce-spent", "nonce", "a", "b"), Reason("ak-parent", "ak", "a", "b")
    assert Refused(later, earlier, later).reasons == (earlier, later)
    assert str(Refused(earlier)) == "ak-parent: ak: expected a, got b"
    with pytest.raises(Misuse):
        Refused()


def test_errors_have_one_root_and_say_what_they_know() -> None:
    assert all(issubclass(kind, WritError) for kind in (FormatError, Refused, Unavailable, Misuse))
    assert str(FormatError("thing", "a", "b", 3)) == "thing at byte 3: expected a, got b"
    assert len(FormatError("thing", "a" * 500, "b" * 500).got) == 200
    assert str(Unavailable("peer", "no answer")) == "peer: no answer"


def test_message_of_a_format_error_can_be_stored_whatever_it_quotes() -> None:
    error = FormatError("thing\x00", "a\n", "\ud800\x7f" + "\x01" * 200)
    assert (error.what, error.expected, error.got[:10]) == ("thing\\x00", "a\\n", "\\ud800\\x7f")
    assert len(error.got) == 200
    assert str(error).isprintable()
