"""Cosignatures hold for one time, one text and one key; policies are read whole, and a quorum is what its tree says."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from tests.world.scene import NOW, signer
from tests.world.tlog import ORIGIN, plain_key, witness_key
from writ.formats.errors import FormatError, Misuse
from writ.formats.tlog.cosignature import MAX_POLICY, NONE, TlogPolicy, cosign, cosigned_at, parse_policy, signed_bytes
from writ.formats.tlog.note import COSIGNATURE, PLAIN, Note, NoteKey, NoteSignature

TEXT = f"{ORIGIN}\n12\nroot\n"
KEY = witness_key("w")
LINE = cosign(TEXT, KEY, NOW, signer("witness/w").sign)

# --- cosignatures ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, (1 << 63) - 1))
def test_a_cosignature_says_its_time(time: int) -> None:
    note = Note(TEXT, (cosign(TEXT, KEY, time, signer("witness/w").sign),))
    assert cosigned_at(note, KEY) == time
    assert signed_bytes(time, TEXT) == f"cosignature/v1\ntime {time}\n{TEXT}".encode()


def test_a_cosignature_holds_for_its_text_time_and_key_alone() -> None:
    assert cosigned_at(Note(TEXT, (LINE,)), KEY) == NOW
    assert cosigned_at(Note(TEXT.replace("12", "13"), (LINE,)), KEY) is None
    assert cosigned_at(Note(TEXT, ()), KEY) is None
    other = witness_key("other")
    assert cosigned_at(Note(TEXT, (NoteSignature("other", other.id, LINE.signature),)), other) is None
    for at in range(72):
        spoilt = LINE.signature[:at] + bytes([LINE.signature[at] ^ 1]) + LINE.signature[at + 1 :]
        assert cosigned_at(Note(TEXT, (NoteSignature("w", KEY.id, spoilt),)), KEY) is None, at
    for size in (0, 64, 71, 73):
        assert cosigned_at(Note(TEXT, (NoteSignature("w", KEY.id, (LINE.signature + b"\0")[:size]),)), KEY) is None, size


@pytest.mark.parametrize("time", [0, 1 << 63, (1 << 64) - 1])
def test_a_time_out_of_range_is_neither_written_nor_read(time: int) -> None:
    with pytest.raises(Misuse, match="a time"):
        cosign(TEXT, KEY, time, signer("witness/w").sign)
    line = NoteSignature("w", KEY.id, time.to_bytes(8, "big") + signer("witness/w").sign(signed_bytes(time, TEXT)))
    assert cosigned_at(Note(TEXT, (line,)), KEY) is None


def test_a_plain_key_cosigns_nothing() -> None:
    plain = NoteKey("w", PLAIN, KEY.key)
    with pytest.raises(Misuse, match="a key of its own type"):
        cosign(TEXT, plain, NOW, signer("witness/w").sign)
    assert cosigned_at(Note(TEXT, (NoteSignature("w", plain.id, LINE.signature),)), plain) is None


# --- policies --------------------------------------------------------------------------------------------------------------

LOG, OTHER_LOG = f"log {plain_key()}", f"log {plain_key('other.example.org')} https://other.example.org/"


def witness(name: str, url: str = "") -> str:
    return f"witness {name} {witness_key(name)} {url}"


def policy(*lines: str) -> TlogPolicy:
    return parse_policy("".join(f"{line}\n" for line in lines).encode())


def under(name: str, key: NoteKey) -> str:
    return f"witness {name} {key}"


WHOLE = (
    "# who is believed", "", LOG, OTHER_LOG, witness("w1"), f"  {witness('w2', 'https://w2.example.org/')}", witness("w3"), witness("w4"),
    "group two 2 w1 w2 w3", "\tgroup both\tall two w4", "quorum both",
)  # fmt: skip


def test_a_policy_is_read() -> None:
    read = policy(*WHOLE)
    assert read.logs == ((plain_key(), None), (plain_key("other.example.org"), "https://other.example.org/"))
    assert [(one.name, one.key, one.url) for one in read.witnesses[:2]] == [
        ("w1", witness_key("w1"), None), ("w2", witness_key("w2"), "https://w2.example.org/"),
    ]  # fmt: skip
    assert [(name, one.least, one.members) for name, one in read.groups.items()] == [
        ("two", 2, ("w1", "w2", "w3")), ("both", 2, ("two", "w4")),
    ]  # fmt: skip
    assert read.quorum == "both"


def test_reader_is_total() -> None:
    assert_parser_is_total(parse_policy, "\n".join(WHOLE).encode(), flips=1500, open_ended=True)


def test_each_line_of_a_policy_counts() -> None:
    """Without the logs, a member or the quorum it is no policy; nothing else may be left out unseen."""
    for left in range(len(WHOLE)):
        lines = [line for at, line in enumerate(WHOLE) if at != left]
        if WHOLE[left].startswith("#") or not WHOLE[left]:
            assert policy(*lines) == policy(*WHOLE)
        elif WHOLE[left].startswith("log"):
            assert policy(*lines) != policy(*WHOLE)
        else:
            with pytest.raises(FormatError):
                policy(*lines)


TWO = (LOG, witness("w1"), witness("w2"))
KINDS = "log, witness, group, or one quorum of a name above"


@pytest.mark.parametrize(
    "lines, expected",
    [
        pytest.param((), "a log and a quorum", id="nothing"),
        pytest.param((LOG,), "a log and a quorum", id="no quorum"),
        pytest.param((witness("w1"), "quorum w1"), "a log and a quorum", id="no log"),
        pytest.param((LOG, "quorum none", "quorum none"), KINDS, id="two quorums"),
        pytest.param((LOG, "quorum w1"), KINDS, id="a quorum of nobody"),
        pytest.param((LOG, "quorum w1", witness("w1")), KINDS, id="a quorum of a name below"),
        pytest.param((LOG, "quorum"), KINDS, id="a quorum without a name"),
        pytest.param((LOG, "quorum none none"), KINDS, id="a quorum of two"),
        pytest.param((LOG, "Quorum none"), KINDS, id="another word"),
        pytest.param((LOG, witness("w1", "a b"), "quorum w1"), KINDS, id="a witness at two places"),
        pytest.param((f"{LOG} a b", "quorum none"), KINDS, id="a log at two places"),
        pytest.param((LOG, "group g any", "quorum none"), KINDS, id="a group of nobody"),
        pytest.param((LOG, "log", "quorum none"), KINDS, id="a log without a key"),
        pytest.param((LOG, "quorum none # not said"), KINDS, id="a comment behind a line"),
        pytest.param((LOG, LOG, "quorum none"), "each key once", id="a log twice"),
        pytest.param((LOG, under("w1", NoteKey("w1", COSIGNATURE, plain_key().key)), "quorum w1"), "each key once", id="the log's key"),
        pytest.param((LOG, witness("w1"), under("w2", witness_key("w1")), "quorum w1"), "each key once", id="a key twice"),
        pytest.param((LOG, witness("w1"), under("w1", witness_key("w2")), "quorum w1"), "a name of its own", id="a name twice"),
        pytest.param((LOG, witness("none"), "quorum none"), "a name of its own", id="a witness named none"),
        pytest.param((LOG, witness("w1"), "group none any w1", "quorum none"), "a name of its own", id="a group named none"),
        pytest.param((*TWO, "group g any w1", "group g any w2", "quorum g"), "a name of its own", id="a group twice"),
        pytest.param((LOG, witness("w1"), "group g any w1", witness("g"), "quorum g"), "a name of its own", id="a witness named so"),
        pytest.param((LOG, witness("w1"), "group w1 any w1", "quorum w1"), "a name of its own", id="a group named as a witness"),
        pytest.param((LOG, witness("w1"), "group g any w1 w1", "quorum g"), "each of one group", id="a member twice"),
        pytest.param((LOG, witness("w1"), "group g any w1", "group h any w1", "quorum g"), "each of one group", id="a member of two"),
        pytest.param((LOG, witness("w1"), "group g any w1 g", "quorum g"), "named before", id="a group of itself"),
        pytest.param((LOG, "group g any w1", witness("w1"), "quorum g"), "named before", id="a member below"),
        *(
            pytest.param((LOG, witness("w1"), f"group g {least} w1", "quorum g"), "any, all, or 1 to 1", id=f"{least[:9]!a} of one")
            for least in ("0", "2", "01", "+1", "-1", "1_0", "\u0661", "1000", "most", "1.0", "9" * 5000)
        ),
        pytest.param((f"log {witness_key('w1')}", "quorum none"), "a key of type 1", id="a log with a witness's key"),
        pytest.param((LOG, f"witness w1 {plain_key('w1')}", "quorum w1"), "a key of type 4", id="a witness with a log's key"),
        pytest.param((LOG + "x", "quorum none"), "base64", id="a key that is none"),
    ],
)  # fmt: skip
def test_a_policy_that_is_none_is_refused_by_name(lines: tuple[str, ...], expected: str) -> None:
    with pytest.raises(FormatError, match=re.escape(expected)):
        policy(*lines)


def test_a_policy_is_bounded_text() -> None:
    with pytest.raises(FormatError, match="UTF-8"):
        parse_policy(b"\xff")
    longest = f"{LOG}\nquorum none\n".encode().ljust(MAX_POLICY, b"\n")
    assert parse_policy(longest).quorum == NONE
    with pytest.raises(FormatError, match=f"at most {MAX_POLICY} bytes"):
        parse_policy(longest + b"\n")
    for control in (b"\r\n", b"\0\n", b"\x0b\n", b"\x7f\n"):
        with pytest.raises(FormatError, match="a control character"):
            parse_policy(f"{LOG}\nquorum none".encode() + control)
    with pytest.raises(FormatError, match=KINDS):
        policy(LOG, "quorum\u00a0none")  # no space between words


# --- quorums ---------------------------------------------------------------------------------------------------------------

Tree = tuple[int, list["Tree | str"]]


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[str], Tree | str]:
    """Witnesses, and a tree over some of them in which each stands once."""
    names = [f"w{at}" for at in range(draw(st.integers(1, 6)))]
    waiting: list[Tree | str] = list(draw(st.permutations(names)))
    while len(waiting) > 1 and draw(st.booleans()):
        count = draw(st.integers(1, len(waiting)))
        waiting = [(draw(st.integers(1, count)), waiting[:count]), *waiting[count:]]
    return names, waiting[0]


def naive(tree: Tree | str, cosigners: frozenset[str]) -> bool:
    """What the words of the specification say, for a tree."""
    if isinstance(tree, str):
        return tree in cosigners
    least, members = tree
    return len([one for one in members if naive(one, cosigners)]) >= least


def spelt(tree: Tree | str, lines: list[str]) -> str:
    """The name of the tree, after the lines that make it."""
    if isinstance(tree, str):
        return tree
    least, members = tree
    names = [spelt(one, lines) for one in members]
    lines.append(f"group g{len(lines)} {least} {' '.join(names)}")
    return f"g{len(lines) - 1}"


@given(trees())
def test_a_quorum_is_met_as_its_tree_says(drawn: tuple[list[str], Tree | str]) -> None:
    names, tree = drawn
    groups: list[str] = []
    quorum = spelt(tree, groups)
    read = policy(LOG, *map(witness, names), *groups, f"quorum {quorum}")
    for bits in range(1 << len(names)):
        cosigners = frozenset(name for at, name in enumerate(names) if bits >> at & 1)
        assert read.satisfied(cosigners) == naive(tree, cosigners), cosigners


def test_any_and_all_are_counts() -> None:
    for word, met in (("any", [1, 2]), ("all", [2]), ("1", [1, 2]), ("2", [2])):
        read = policy(LOG, witness("w1"), witness("w2"), f"group g {word} w1 w2", "quorum g")
        assert [count for count in range(3) if read.satisfied(frozenset(["w1", "w2"][:count]))] == met


def test_no_quorum_needs_nobody_and_a_stranger_makes_none() -> None:
    assert policy(LOG, f"quorum {NONE}").satisfied(frozenset())
    read = policy(LOG, witness("w1"), "group g all w1", "quorum g")
    assert not read.satisfied(frozenset(["stranger", "g"]))


def test_groups_within_groups_are_followed_however_deep() -> None:
    depth = 3000
    nested = [f"group {at + 1} any {at}" for at in range(depth)]
    read = policy(LOG, under("0", witness_key("w1")), *nested, f"quorum {depth}")
    assert read.satisfied(frozenset(["0"]))
    assert not read.satisfied(frozenset())
