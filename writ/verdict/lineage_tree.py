"""The tree of an action: what led to it, and what followed from it, over logs of several agents and hosts.

Links are parents by leaf hash, as `lineage` judges them. A trace context is what the asker said of itself, and nobody has checked it: what
shares one and no link stands apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from writ.formats.digest import Digest
from writ.formats.record import ActionRecord, Opening, OutcomeRecord
from writ.verdict.action_log import ReadLog

Place = tuple[bytes, int]
"""Instance and number of a record."""


@dataclass(slots=True)
class Node:
    """An action, by whom (an agent that its log's opening names), its outcome if it has one, and what follows from it."""

    place: Place
    agent: str
    record: ActionRecord
    leaf: bytes
    outcome: OutcomeRecord | None
    follows: list[Node] = field(default_factory=list)
    missing: bytes | None = None
    """The hash of what led to it, where that is not at hand."""

    @property
    def name(self) -> str:
        """As findings and files name it."""
        return f"{self.place[0].hex()}-{self.place[1]}"


@dataclass(frozen=True, slots=True)
class Tree:
    """Whole lines of descent of what was asked for, from their first record; and what shares a trace with it and no line."""

    asked: frozenset[Place]
    roots: tuple[Node, ...]
    beside: tuple[Node, ...]

    def nodes(self) -> Iterator[tuple[int, Node]]:
        """Each with its depth, parents before children."""
        left = [(0, root) for root in reversed(self.roots)]
        while left:
            depth, node = left.pop()
            yield depth, node
            left += [(depth + 1, one) for one in reversed(node.follows)]


class Forest:
    """Every action of some logs, with what led to each."""

    def __init__(self, logs: Mapping[bytes, ReadLog]) -> None:
        self._nodes: dict[Place, Node] = {}
        self._by_leaf: dict[bytes, Place] = {}
        self._children: dict[bytes, list[Place]] = {}
        for instance, log in sorted(logs.items()):
            outcomes = {one.of: one for one in log.records if isinstance(one, OutcomeRecord)}
            for at, record in enumerate(log.records):
                if not isinstance(record, ActionRecord):
                    continue
                opening = log.records[record.opening]
                agent = opening.agent if isinstance(opening, Opening) else ""
                self._nodes[instance, at] = Node((instance, at), agent, record, log.hashes[at], outcomes.get(at))
                self._by_leaf[log.hashes[at]] = (instance, at)
                if record.parent is not None:
                    self._children.setdefault(record.parent, []).append((instance, at))

    def at(self, place: Place) -> frozenset[Place]:
        """The action there."""
        return frozenset({place} & self._nodes.keys())

    def named(self, digest: bytes) -> frozenset[Place]:
        """The action of this leaf hash, or those under the token of this digest."""
        if digest in self._by_leaf:
            return frozenset({self._by_leaf[digest]})
        token = Digest("sha256", digest)
        return frozenset(place for place, node in self._nodes.items() if node.record.token == token)

    def traced(self, trace: bytes) -> frozenset[Place]:
        """Those that say that they belong to this trace, or else those of this instance."""
        said = frozenset(place for place, node in self._nodes.items() if _trace(node) == trace)
        return said or frozenset(place for place in self._nodes if place[0] == trace)

    def tree(self, asked: Collection[Place]) -> Tree:
        """What led to each of `asked`, and all that followed from it."""
        inside = set(asked)
        above = [self._nodes[place] for place in asked]
        while above:
            parent = above.pop().record.parent
            place = None if parent is None else self._by_leaf.get(parent)
            if place is not None and place not in inside:
                inside.add(place)
                above.append(self._nodes[place])
        below = list(asked)
        while below:
            for place in self._children.get(self._nodes[below.pop()].leaf, []):
                if place not in inside:
                    inside.add(place)
                    below.append(place)
        roots = []
        for place in sorted(inside, key=self._moment):
            node = self._nodes[place]
            parent = node.record.parent
            over = None if parent is None else self._by_leaf.get(parent)
            if over is None:
                node.missing = parent
                roots.append(node)
            else:
                self._nodes[over].follows.append(node)
        traces = {_trace(self._nodes[place]) for place in asked} - {None}
        beside = [node for place, node in self._nodes.items() if place not in inside and _trace(node) in traces]
        return Tree(frozenset(asked), tuple(roots), tuple(sorted(beside, key=lambda node: self._moment(node.place))))

    def _moment(self, place: Place) -> tuple[int, Place]:
        return self._nodes[place].record.decided_at, place


def _trace(node: Node) -> bytes | None:
    return None if node.record.trace is None else node.record.trace[:16]
