"""A list that comes in parts: what it says is that of the whole list, and nothing of it counts before the quote vouches for its end."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.world.ima_logs import BOOT, Kernel
from tests.writ.verdict.appraise.test_ima import GOOD, OTHER, Host, codes, references, rooted
from writ.formats.ima_state import ImaState
from writ.verdict.appraise import ima
from writ.verdict.appraise.ima import ImaResult, appraise_ima


@dataclass
class Parted:
    """A verifier that is sent a host's list in parts."""

    host: Host
    part: ImaState | None = None

    def send(self, first: int, last: int | None, *, log: bytes | None = None) -> ImaResult:
        """The entries from number `first`, up to `last` as a part, or as the last part to the end; recorded."""
        h = self.host
        ends = [0, *h.kernel.ends]
        sent = h.kernel.binary[ends[first] : None if last is None else ends[last]] if log is None else log
        quoted = h.kernel.pcr10["sha256"] if last is None else None
        result = appraise_ima(h.state, sent, first, quoted, "sha256", h.references, h.rules, boot=h.boot, part=self.part)
        h.state, self.part = result.state, result.part
        return result


PARTIAL = [("ima-log-partial", "ima.entries")]


def measured(entries: int) -> Host:
    """A host after so many entries, the boot aggregate among them: most are unapproved, one is required."""
    made = Host(references=rooted({"/bin/a": GOOD, "/bin/9": GOOD}))
    for number in range(1, entries):
        made.kernel.measure(f"/bin/{number}" if number != 5 else "/bin/a", GOOD)
    return made


@pytest.fixture
def long() -> Host:
    return measured(10)


@given(st.lists(st.integers(1, 9), unique=True).map(sorted))
def test_i5_parts_give_what_the_whole_list_gives_and_nothing_before_its_end(cuts: list[int]) -> None:
    host = measured(10)
    whole, parted, at = host.judge(), Parted(host), 0
    for cut in cuts:
        result = parted.send(at, cut)
        assert (codes(result), result.state, result.covered) == (PARTIAL, None, 0)
        assert result.reasons[0].expected == f"the list from entry {cut}"
        assert result.part is not None
        assert ImaState.from_cbor(result.part.to_cbor()) == result.part
        at = cut
    assert parted.send(at, None) == whole
    assert whole.count == 7


def test_register_moves_between_parts_and_the_last_leads_to_the_last_quote(long: Host) -> None:
    parted = Parted(long)
    parted.send(0, 4)
    long.kernel.measure("/bin/a", OTHER)
    parted.send(4, 8)
    long.kernel.measure("/bin/a", GOOD, template="ima-sig")
    assert parted.send(8, None) == Host(long.kernel, long.references).judge()


def test_part_that_was_never_measured_leads_to_no_quoted_register(long: Host) -> None:
    """What came before is not believed: only the chain over all of it to the quote is."""
    forged = Kernel()
    for _ in range(4):
        forged.measure("/bin/a", GOOD)
    parted = Parted(long)
    assert codes(parted.send(0, 5, log=forged.binary)) == PARTIAL
    result = parted.send(5, None)
    assert (codes(result), result.state, result.part) == ([("ima-log-mismatch", "ima.pcr10")], None, None)


def test_left_out_repeated_and_reordered_parts_are_refused(long: Host) -> None:
    for order in ([(0, 4), (6, None)], [(0, 4), (2, 6), (6, None)], [(4, 8), (0, 4), (8, None)]):
        parted = Parted(long)
        results = [parted.send(*step) for step in order]
        assert codes(results[-1])[0][0] in ("ima-log-required", "ima-log-mismatch"), order
        assert long.state is None


def test_part_without_an_entry_is_no_progress(long: Host) -> None:
    parted = Parted(long)
    assert (codes(parted.send(0, 0)), parted.part) == ([("ima-log-mismatch", "ima.pcr10")], None)
    parted.send(0, 4)
    assert (codes(parted.send(4, 4)), parted.part) == ([("ima-log-mismatch", "ima.pcr10")], None)


def test_parts_whose_end_is_quoted_need_no_more(long: Host) -> None:
    whole, parted = long.judge(), Parted(long)
    parted.send(0, 10)
    assert parted.send(10, None) == whole


def test_parts_pass_through_what_is_known_and_change_nothing_of_it(long: Host) -> None:
    known = long.attest().state
    long.references = rooted({"/bin/a": GOOD})
    for number in range(10, 20):
        long.kernel.measure(f"/bin/{number}", GOOD)
    for cuts in ((4, 8, 15), (10, 15), (12,)):
        long.state, parted, at = known, Parted(long), 0
        for cut in cuts:
            result = parted.send(at, cut)
            assert (codes(result), result.state) == (PARTIAL, known), cuts
            at = cut
        assert parted.send(at, None) == Host(long.kernel, long.references).judge()


def test_parts_of_another_list_do_not_pass_through_what_is_known(long: Host) -> None:
    long.attest()
    long.references = rooted({"/bin/a": GOOD})
    other = Host(references=long.references)
    for number in range(20):
        other.kernel.measure(f"/bin/other-{number}", GOOD)
    for cuts in ((4, 12), (10,), (12,)):
        other.state, parted, at = long.state, Parted(other), 0
        for cut in cuts[:-1]:
            parted.send(at, cut)
            at = cut
        result = parted.send(at, cuts[-1])
        assert (codes(result), result.part) == ([("ima-log-rewound", "ima.entries")], None), cuts
    parted = Parted(other)
    parted.send(0, 4)
    assert codes(parted.send(4, None)) == [("ima-log-rewound", "ima.entries")]


def test_list_shorter_than_what_is_known_is_rewound_in_parts_too(long: Host) -> None:
    short = measured(7)
    short.state = long.attest().state
    parted = Parted(short)
    parted.send(0, 4)
    assert codes(parted.send(4, None)) == [("ima-log-rewound", "ima.entries")]


def test_what_is_known_goes_on_in_parts(long: Host) -> None:
    long.attest()
    for number in range(10, 20):
        long.kernel.measure(f"/bin/{number}", GOOD)
    parted = Parted(long)
    assert codes(parted.send(10, 15)) == PARTIAL
    assert parted.send(15, None) == Host(long.kernel, long.references).judge()


def test_a_list_in_between_ends_the_parts(long: Host) -> None:
    """Else what is known could move beyond what the parts passed through."""
    known = long.attest().state
    long.kernel.measure("/bin/10", GOOD)
    parted = Parted(long)
    parted.send(0, 4)
    long.state = known
    parted.send(10, None)
    assert parted.part is None
    assert codes(parted.send(4, 8)) == [("ima-log-rewound", "ima.first")]


def test_changed_references_begin_the_parts_anew(long: Host) -> None:
    parted = Parted(long)
    parted.send(0, 4)
    long.references = references({"/bin/b": OTHER})
    result = parted.send(4, 8)
    assert (codes(result), result.part) == ([("ima-log-required", "ima.references")], None)


def test_parts_of_another_bank_are_not_continued(long: Host) -> None:
    parted = Parted(long)
    parted.send(0, 4)
    assert parted.part is not None
    parted.part = replace(parted.part, bank="sha384", register=bytes(48))
    assert codes(parted.send(4, 8)) == [("ima-log-required", "ima.first")]


def test_parts_are_no_way_around_the_greatest_length(long: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ima, "MAX_ENTRIES", 9)
    parted = Parted(long)
    assert codes(parted.send(0, 9)) == PARTIAL
    assert codes(parted.send(9, 10)) == [("ima-log-malformed", "ima.entries")]
    parted = Parted(long)
    parted.send(0, 9)
    assert codes(parted.send(9, None)) == [("ima-log-mismatch", "ima.pcr10")]


def test_wrong_boot_aggregate_of_the_first_part_stands(long: Host) -> None:
    long.boot = {**BOOT, 4: bytes(32)}
    whole, parted = long.judge(), Parted(long)
    parted.send(0, 4)
    assert parted.send(4, None) == whole
    assert ("boot-aggregate-mismatch", "ima.boot_aggregate") in codes(whole)
