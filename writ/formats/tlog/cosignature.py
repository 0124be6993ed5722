"""Cosignatures of witnesses, and the policy that says whose are needed.

A witness signs a checkpoint after it has seen that it extends the last one it signed; its signature field begins with the time, in seconds
since the epoch, as eight bytes. A policy names the log, witnesses and groups of them, and the quorum.

    log example.org/log+…
    witness w1 witness.example.org+…
    witness w2 other.example.com+… https://other.example.com/
    group both all w1 w2
    quorum both

Source: C2SP tlog-cosignature v1.0.1; tlog-policy (2026-07).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from writ.formats.errors import FormatError, Misuse
from writ.formats.tlog.note import COSIGNATURE, PLAIN, Note, NoteKey, NoteSignature, parse_vkey

MAX_POLICY: Final = 64 << 10
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
NONE: Final = "none"
"""The quorum that no cosignature is needed for."""


def signed_bytes(time: int, text: str) -> bytes:
    """What a witness signs of the checkpoint `text`."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def cosign(text: str, key: NoteKey, time: int, sign: Callable[[bytes], bytes]) -> NoteSignature:
    """The line of a witness for the checkpoint `text` at `time`. Raises Misuse for a key that is no cosigner's."""
    if key.kind != COSIGNATURE or not 0 < time < 1 << 63:
        raise Misuse("a cosignature takes a key of its own type and a time")
    return NoteSignature(key.name, key.id, time.to_bytes(8, "big") + sign(signed_bytes(time, text)))


def cosigned_at(note: Note, key: NoteKey) -> int | None:
    """The time of the cosignature by `key`; None where no line is of it, or one that does not hold."""
    line = note.by(key)
    if key.kind != COSIGNATURE or line is None:
        return None
    time = int.from_bytes(line.signature[:8], "big")
    return time if 0 < time < 1 << 63 and key.key.verify(line.signature[8:], signed_bytes(time, note.text)) else None


@dataclass(frozen=True, slots=True)
class Witness:
    """A cosigner by its name in the policy, and where it is asked, if that is known."""

    name: str
    key: NoteKey
    url: str | None


@dataclass(frozen=True, slots=True)
class Group:
    """`least` of `members`, which are witnesses or groups that were named before."""

    name: str
    least: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TlogPolicy:
    """Whose signatures make a checkpoint one to rely on. Checked when it is read."""

    logs: tuple[tuple[NoteKey, str | None], ...]
    witnesses: tuple[Witness, ...]
    groups: Mapping[str, Group] = field(hash=False)
    quorum: str

    def satisfied(self, cosigners: frozenset[str]) -> bool:
        """Whether these witnesses, by their names here, make the quorum."""
        met = {one.name for one in self.witnesses} & cosigners
        for group in self.groups.values():  # each after its members, however deep they stand in each other
            if sum(one in met for one in group.members) >= group.least:
                met.add(group.name)
        return self.quorum == NONE or self.quorum in met


def parse_policy(data: bytes) -> TlogPolicy:
    """Read a policy.

    1. UTF-8 lines of words, spaces or tabs between them; empty ones and those that begin with `#` say nothing.
    2. Logs have plain keys, witnesses cosigners' keys; no name and no key stands twice.
    3. A group has `any`, `all` or a number of members, which were named before and belong to no other group.
    4. There is one quorum, a name or `none`.

    Raises FormatError.
    """
    # 1
    if len(data) > MAX_POLICY:
        raise FormatError("tlog policy", f"at most {MAX_POLICY} bytes", f"{len(data)}")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise FormatError("tlog policy", "UTF-8", "bytes that are not") from None
    if _CONTROL.search(text):
        raise FormatError("tlog policy", "lines of printable text", "a control character")
    told = ([word for word in re.split(r"[ \t]", line) if word] for line in text.split("\n"))
    lines = [words for words in told if words and not words[0].startswith("#")]
    logs: list[tuple[NoteKey, str | None]] = []
    witnesses: dict[str, Witness] = {}
    groups: dict[str, Group] = {}
    taken: set[str] = set()
    quorum: str | None = None
    for words in lines:
        match words:
            case ["log", vkey, *url] if len(url) <= 1:
                logs.append((_key(vkey, PLAIN), url[0] if url else None))
            case ["witness", name, vkey, *url] if len(url) <= 1:
                witnesses[_fresh(name, witnesses, groups)] = Witness(name, _key(vkey, COSIGNATURE), url[0] if url else None)
            case ["group", name, least, *members] if members:
                groups[_fresh(name, witnesses, groups)] = _group(name, least, members, witnesses, groups, taken)
            case ["quorum", name] if quorum is None and (name == NONE or name in witnesses or name in groups):
                quorum = name
            case _:
                raise FormatError("tlog policy", "log, witness, group, or one quorum of a name above", repr(" ".join(words)[:80]))
    # 2
    keys = [key.key.raw for key, _ in logs] + [one.key.key.raw for one in witnesses.values()]
    if len(set(keys)) != len(keys):
        raise FormatError("tlog policy", "each key once", "one twice")
    # 4
    if quorum is None or not logs:
        raise FormatError("tlog policy", "a log and a quorum", "none")
    return TlogPolicy(tuple(logs), tuple(witnesses.values()), MappingProxyType(groups), quorum)


def _key(vkey: str, kind: int) -> NoteKey:
    key = parse_vkey(vkey)
    if key.kind != kind:
        raise FormatError("tlog policy", f"a key of type {kind}", f"type {key.kind}")
    return key


def _fresh(name: str, witnesses: Mapping[str, Witness], groups: Mapping[str, Group]) -> str:
    if name == NONE or name in witnesses or name in groups:
        raise FormatError("tlog policy", "a name of its own", repr(name[:80]))
    return name


def _group(
    name: str, least: str, members: list[str], witnesses: Mapping[str, Witness], groups: Mapping[str, Group], taken: set[str]
) -> Group:  # fmt: skip
    # 3
    for member in members:
        if member in taken or not (member in witnesses or member in groups):
            raise FormatError("tlog policy", "members that were named before, each of one group", repr(member[:80]))
        taken.add(member)
    counts = {"any": 1, "all": len(members)}
    count = counts.get(least, int(least) if least.isascii() and least.isdecimal() and not least.startswith("0") and len(least) < 4 else 0)
    if not 1 <= count <= len(members):
        raise FormatError("tlog policy", f"any, all, or 1 to {len(members)}", repr(least[:20]))
    return Group(name, count, tuple(members))
