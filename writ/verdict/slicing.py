"""Which policies a request can concern, and when: read from the policies once, at load, and never guessed.

Cedar's evaluation is linear in the policies, so a request is held only against
those whose action scope can match (`applicable`). And policies that cannot
compute tell two moments apart only by what they compare them with, so of two
moments between the same literals the answer is the same (`Moments`).

Both read Cedar's JSON view of a policy. What they do not understand is taken
for the most that it could be: such a policy is in every slice, and such a look
at the clock sees every second.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

ACTION: Final = "Writ::Action"
"""The type of every action that is asked about."""
LEXEME: Final = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n\r]*|[(){}\[\]<>;]|[A-Za-z_]\w*', re.DOTALL | re.ASCII)
"""A text, a comment, a bracket, a semicolon or a word of Cedar. A carriage return ends a comment too, as it does for Cedar."""
_COMPARISONS: Final = frozenset({"==", "!=", "<", "<=", ">", ">="})
_CONTEXT: Final = {"Var": "context"}


def statements(policies: str) -> tuple[str, ...]:
    """The text of each policy in order, its semicolon with it; what follows the last is none."""
    found, since = [], 0
    for lexeme in LEXEME.finditer(policies):
        if lexeme[0] == ";":
            found.append(policies[since : lexeme.end()])
            since = lexeme.end()
    return tuple(found)


def has_groups(schema: str) -> bool:
    """Whether an action may be in another: the word that says so stands in the schema, wherever that is."""
    return any(lexeme[0] == "in" for lexeme in LEXEME.finditer(schema))


def scope(policy: Mapping[str, Any], *, groups: bool) -> frozenset[str] | None:
    """The actions that the policy's scope can match; None for all of them, and for a scope that is not understood.

    With `groups`, what is in something may be any action.
    """
    match policy.get("action"):
        case {"op": "==", "entity": entity, **rest} if not rest:
            named = [entity]
        case {"op": "in", "entity": entity, **rest} if not rest and not groups:
            named = [entity]
        case {"op": "in", "entities": list(entities), **rest} if not rest and not groups:
            named = entities
        case _:
            return None
    found = set()
    for one in named:
        match one:
            case {"type": str(kind), "id": str(name), **rest} if not rest:
                if kind == ACTION:
                    found.add(name)
            case _:
                return None
    return frozenset(found)


def applicable(scopes: Sequence[frozenset[str] | None]) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    """For each action that a scope names, the places of the policies that can match it, in order; and those for any other action."""
    others = tuple(at for at, one in enumerate(scopes) if one is None)
    named = sorted({name for one in scopes if one is not None for name in one})
    places: dict[str, list[int]] = {name: [] for name in named}
    for at, one in enumerate(scopes):
        for name in named if one is None else one:
            places[name].append(at)
    return {name: tuple(found) for name, found in places.items()}, others


ASKED: Final = frozenset({"exceptions", "used"})
"""Attributes that are in the context of an action only where a policy that can match it names them."""


@dataclass(frozen=True, slots=True)
class Moments:
    """What some policies see of `now`, `attest_age` and `used`: the literals they compare each with, sorted; None where they see every
    number. `asked` are those of `ASKED` that they look at, if only whether they are there."""

    now: tuple[int, ...] | None
    attest_age: tuple[int, ...] | None
    used: tuple[int, ...] | None = ()
    asked: frozenset[str] = frozenset()

    def place(self, now: int, attest_age: int, used: int | None = None) -> tuple[int, int, int]:
        """Equal for two moments that the policies cannot tell apart."""
        return _place(self.now, now), _place(self.attest_age, attest_age), -1 if used is None else _place(self.used, used)


def moments(policies: Sequence[Mapping[str, Any]]) -> Moments:
    """What these policies see of the clock. They must not compute, which `cedar.load` sees to."""
    compared: dict[str, set[int]] = {"now": set(), "attest_age": set(), "used": set()}
    whole: set[str] = set()
    for seen, literal in (look for policy in policies for look in _looks(policy.get("conditions", []))):
        if literal is None:
            whole.update(compared if seen is None else {seen})
        elif seen in compared:
            compared[seen].add(literal)
    now, attest_age, used = (None if name in whole else tuple(sorted(found)) for name, found in compared.items())
    mentioned = {name for policy in policies for name in _mentions(policy.get("conditions", []))}
    return Moments(now, attest_age, used, ASKED if None in mentioned else ASKED & mentioned)


def _mentions(conditions: object) -> Iterator[str | None]:
    """Each attribute of the context that is named, if only to ask whether it is there; None for the context as a whole."""
    open_nodes: list[object] = [conditions]
    while open_nodes:
        match open_nodes.pop():
            case {"Var": "context"}:
                yield None
            case {".": {"left": left, "attr": str(name)}} | {"has": {"left": left, "attr": str(name)}} if left == _CONTEXT:
                yield name
            case dict(node):
                open_nodes.extend(node.values())
            case list(nodes):
                open_nodes.extend(nodes)


def _place(literals: tuple[int, ...] | None, value: int) -> int:
    """A number that rises at each literal and again behind it."""
    return value if literals is None else bisect_left(literals, value) + bisect_right(literals, value)


def _looks(conditions: object) -> Iterator[tuple[str | None, int | None]]:
    """Each look at the context: the attribute (None: all of it) and the literal it is compared with (None: it is used otherwise).

    Not recursive, since the text says how deep it goes. Whether an attribute is there is no look at its value.
    """
    open_nodes: list[object] = [conditions]
    while open_nodes:
        match open_nodes.pop():
            case {"Var": "context"}:
                yield None, None
            case {".": {"left": left, "attr": str(name)}} if left == _CONTEXT:
                yield name, None
            case {"has": {"left": left, "attr": str()}} if left == _CONTEXT:
                continue
            case dict(node):
                look = _comparison(node)
                if look is None:
                    open_nodes.extend(node.values())
                else:
                    yield look
            case list(nodes):
                open_nodes.extend(nodes)


def _comparison(node: dict[str, Any]) -> tuple[str, int] | None:
    """The attribute of the context and the literal of a node that compares the two, either way round."""
    if len(node) != 1:
        return None
    (operator, sides), *_ = node.items()
    if operator not in _COMPARISONS or not isinstance(sides, dict) or sides.keys() != {"left", "right"}:
        return None
    for one, other in ((sides["left"], sides["right"]), (sides["right"], sides["left"])):
        match one, other:
            case {".": {"left": left, "attr": str(name)}}, {"Value": int(literal)} if left == _CONTEXT and not isinstance(literal, bool):
                return name, literal
    return None
