"""The fenced blocks of the pages: where each stands, what it is, what is in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_FENCE: Final = re.compile(r"^ *(`{3,}|~{3,})(.*)$")


@dataclass(frozen=True)
class Block:
    """One block: `info` is what stands behind the opening fence, `line` the line of that fence."""

    page: str
    line: int
    info: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Every page that a reader may be sent to."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks_of(page: str, text: str) -> list[Block]:
    """The blocks of a page, in order. Raises ValueError for a fence that nothing closes."""
    found: list[Block] = []
    opened: tuple[str, str, int] | None = None
    inside: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence is not None:
            opened, inside = (fence[1], fence[2].strip(), number), []
        elif opened is not None and line.strip() == opened[0]:
            found.append(Block(page, opened[2], opened[1], "".join(f"{one}\n" for one in inside)))
            opened = None
        elif opened is not None:
            inside.append(line)
    if opened is not None:
        raise ValueError(f"{page}:{opened[2]}: a block that nothing closes")
    return found


def all_blocks() -> list[Block]:
    """The blocks of all pages."""
    return [block for page in pages() for block in blocks_of(page.relative_to(ROOT).as_posix(), page.read_text())]


def commands(block: Block) -> list[str]:
    """The lines of a shell block; one command a line is the rule of our pages."""
    return [line for line in block.text.splitlines() if line.strip() and not line.startswith("#")]
