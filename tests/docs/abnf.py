"""The ABNF of docs/formats.md as one regular expression a rule: what RFC 5234 has and that page uses, quoted words exact."""

from __future__ import annotations

import re
from typing import Final

_CORE: Final = {"LF": r"\n", "SP": " ", "DIGIT": "[0-9]", "ALPHA": "[A-Za-z]"}
_TOKEN: Final = re.compile(
    r'\s+|;[^\n]*|(?P<repeat>[0-9]+\*[0-9]*|\*[0-9]*|[0-9]+)|"(?P<word>[^"]*)"|%x(?P<from>[0-9A-F]+)(?:-(?P<to>[0-9A-F]+))?'
    r"|(?P<rule>[A-Za-z][A-Za-z0-9-]*)|(?P<mark>[()\[\]/])"
)


def rules(text: str) -> dict[str, str]:
    """Rule -> what it is, from blocks of ABNF."""
    found: dict[str, str] = {}
    for line in re.sub(r"[ \t]*\n[ \t]+(?=\S)", " ", re.sub(r";[^\n]*", "", text)).splitlines():
        if line.strip():
            name, _, body = line.partition("=")
            found[name.strip()] = body
    return found


def pattern(name: str, of: dict[str, str]) -> str:
    """A regular expression for the rule `name`."""
    made, at, body, repeat = "", 0, of[name], ""
    while at < len(body):
        match = _TOKEN.match(body, at)
        if match is None:
            raise ValueError(f"no ABNF in {name}: {body[at : at + 20]!r}")
        at = match.end()
        said = match.groupdict()
        if said["repeat"]:
            least, star, most = said["repeat"].partition("*")
            repeat = f"{{{least or 0},{most}}}" if star else f"{{{least}}}"
        elif said["mark"] in ("(", "["):
            # the repetition comes behind the group that it stands before
            end = _closing(body, at)
            inside = pattern("", {**of, "": body[at : end - 1]})
            made += f"(?:{inside})" + ("?" if said["mark"] == "[" else repeat)
            at, repeat = end, ""
        elif said["mark"]:
            made += "|"
        elif match.lastgroup:
            made += f"(?:{_one(said, of)}){repeat}"
            repeat = ""
    return made


def _one(said: dict[str, str | None], of: dict[str, str]) -> str:
    if said["word"] is not None:
        return re.escape(said["word"])
    if said["from"]:
        first, last = int(said["from"], 16), int(said["to"] or said["from"], 16)
        return f"[{re.escape(chr(first))}-{re.escape(chr(last))}]"
    rule = str(said["rule"])
    return _CORE.get(rule) or pattern(rule, of)


def _closing(body: str, at: int) -> int:
    """Behind the bracket that closes the one before `at`."""
    depth = 1
    for match in re.finditer(r'"[^"]*"|[()\[\]]', body[at:]):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(match[0], 0)
        if not depth:
            return at + match.end()
    raise ValueError(f"a bracket is not closed: {body!r}")
