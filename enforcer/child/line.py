"""What a parent's holder and its child's holder say to each other, on a socket that is the child's standard input and nobody else's.

parent -> child    Do a command; Hold, Resume: what the parent itself is, so is the child; End
child -> parent    Answer, one for each Do

The end of the line is the end of the child, whoever closed it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats import message as m
from writ.formats.message import Family

MAX_FRAME: Final = 2 << 20


@dataclass(frozen=True, slots=True)
class Do:
    """Run the command that `arguments` describe. `record` is the leaf hash of the parent's record that permitted to ask for it."""

    number: int
    record: bytes
    arguments: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of command `number`, as JSON; `done`: it ran, and ended with status 0."""

    number: int
    done: bool
    body: bytes


@dataclass(frozen=True, slots=True)
class Hold:
    """The parent is cut and frozen."""


@dataclass(frozen=True, slots=True)
class Resume:
    """The parent runs again."""


@dataclass(frozen=True, slots=True)
class End:
    """The child is not needed any more."""


Said = Do | Answer | Hold | Resume | End

LINE: Final[Family[Said]] = Family(
    "child line",
    {
        "do": (Do, (m.uint("number"), m.raw("record", size=32), m.raw("arguments"))),
        "answer": (Answer, (m.uint("number"), m.flag("done"), m.raw("body", most=MAX_FRAME))),
        "hold": (Hold, ()),
        "resume": (Resume, ()),
        "end": (End, ()),
    },
    MAX_FRAME,
)
