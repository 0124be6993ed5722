"""How much Cedar would have to do for a schema, read from its text before Cedar sees it.

What is short to write can be long to judge, and nobody can interrupt Cedar: each common type is put in the place of its name, so types of
types double with each; each policy is held against every principal, resource and action that the schema puts together; and what is in
something is in all that this is in. Each is bounded here by what the text can say at most, which is never less than what it says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from writ.formats.errors import FormatError
from writ.verdict.slicing import LEXEME

MAX_TYPES: Final = 64
MAX_WORDS: Final = 1 << 20
"""Words of a schema, once each common type stands in the place of its name."""
MAX_QUESTIONS: Final = 1 << 20
"""Policies, times the principals, resources and actions that each is held against."""
MAX_MEMBERS: Final = 1024
"""Words of all declarations of what is in something."""


def bounded(schema: str, policies: int) -> None:
    """Cedar is done with the schema and as many policies in seconds. Raises FormatError."""
    declared = list(_declarations(schema))
    for what, most, found in (
        ("words with every type in its place", MAX_WORDS, _expanded(declared)),
        ("policies times requests", MAX_QUESTIONS, max(1, policies) * sum(_questions(one) for one in declared)),
        ("words about what is in what", MAX_MEMBERS, sum(len(one) for one in declared if "in" in one)),
    ):
        if found > most:
            raise FormatError("policy.schema", f"at most {most} {what}", str(found))


def _declarations(schema: str) -> Iterator[list[str]]:
    """The words, texts and brackets of each declaration; the name of a common type behind `=`, as no word of its own."""
    found: list[str] = []
    for lexeme in LEXEME.finditer(schema):
        if lexeme[0] == ";":
            yield found
            found = []
        elif not lexeme[0].startswith("//"):
            declares = lexeme[0] == "type" and not schema[lexeme.end() :].lstrip().startswith((":", "?"))  # else an attribute of this name
            found.append("=" if declares else lexeme[0])
    yield found


def _expanded(declared: Sequence[Sequence[str]]) -> int:
    """Words of the schema when each common type stands in the place of its name. A name counts wherever it stands, in every namespace;
    of a type that is in itself, which Cedar refuses, the number says nothing.
    """
    types: dict[str, list[str]] = {}
    for one in declared:
        for at, (word, name) in enumerate(pairwise(one)):
            if word == "=":
                types.setdefault(name, []).extend(one[at + 2 :])
    if len(types) > MAX_TYPES:
        raise FormatError("policy.schema", f"at most {MAX_TYPES} common types", f"{len(types)}")
    weights: dict[str, int] = {}
    for _ in types:  # a type of types of types is right after as many rounds
        weights = {name: min(MAX_WORDS + 1, sum(weights.get(word, 1) for word in body)) for name, body in types.items()}
    return sum(weights.get(word, 1) for one in declared for word in one)


def _questions(declaration: Sequence[str]) -> int:
    """How many requests an `appliesTo` allows: each of its actions by each principal on each resource."""
    if "appliesTo" not in declaration:
        return 0
    at = declaration.index("appliesTo")
    actions, who = declaration[:at], declaration[at:]
    asked = max(1, len(actions) - 1 - actions.index("action")) if "action" in actions else len(actions)
    return asked * _most(who, "principal") * _most(who, "resource")


def _most(words: Sequence[str], part: str) -> int:
    """The words of the longest list behind `part`; one where there is none."""
    most = 1
    for at, (word, following) in enumerate(pairwise(words)):
        if word == part and following == "[":
            end = words.index("]", at) if "]" in words[at:] else len(words)
            most = max(most, end - at - 2)
    return most
