"""A proposal: what one person wants in force and others have to approve, whole and by its digest.

What is approved is exactly these bytes: a proposal with any detail changed is
another proposal, with approvals of its own. `proposed_at` is part of it, so an
approval of one that has lapsed never counts for the same wish made later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.exemption import MOST_HOSTS, Exemption
from writ.formats.strict import Fields, decode_cbor, encode_cbor

KINDS: Final = ("exemption", "import", "policy", "publication")
"""An exemption; CoRIMs by an operator; a policy that asks for less; a CoRIM by publishers."""
MOST_OBJECTS: Final = 256
MOST_RETIRED: Final = 4096


@dataclass(frozen=True, slots=True)
class Draft:
    """An exemption that nobody approved yet: its hosts, times and the difference it is to let pass."""

    code: str
    claim: str
    got: str
    hosts: tuple[str, ...]
    not_before: int
    not_after: int
    why: str

    def __post_init__(self) -> None:
        self.approved("check", ("a", "b"))

    def approved(self, namespace: str, people: tuple[str, ...]) -> Exemption:
        """The exemption, by these people. Raises FormatError unless they are two."""
        return Exemption(
            namespace, self.code, self.claim, self.got, self.hosts, self.not_before, self.not_after, self.why, tuple(sorted(people))
        )


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is proposed. `of` are the objects by digest, sorted: CoRIMs, a policy, or the decision that an exemption is for.

    `retires` are the digests of what goes out of force with it, `keeps` of what is in force and stays as the import says, both sorted.
    `draft` is there for an exemption and nothing else.
    """

    namespace: str
    kind: str
    proposed_at: int
    of: tuple[Digest, ...]
    retires: tuple[Digest, ...] = ()
    draft: Draft | None = None
    keeps: tuple[Digest, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise FormatError("proposal.kind", f"one of {', '.join(KINDS)}", repr(self.kind)[:60])
        if (self.draft is not None) != (self.kind == "exemption"):
            raise FormatError("proposal.exemption", "one for an exemption, and null else", "the other")
        if list(self.of) != sorted(set(self.of)) or not 1 <= len(self.of) <= MOST_OBJECTS:
            raise FormatError("proposal.of", f"1 to {MOST_OBJECTS} digests, sorted, each once", f"{len(self.of)}")
        if list(self.retires) != sorted(set(self.retires)) or len(self.retires) > MOST_RETIRED:
            raise FormatError("proposal.retires", f"at most {MOST_RETIRED} digests, sorted, each once", f"{len(self.retires)}")
        if list(self.keeps) != sorted(set(self.keeps)) or len(self.keeps) > MOST_OBJECTS:
            raise FormatError("proposal.keeps", f"at most {MOST_OBJECTS} digests, sorted, each once", f"{len(self.keeps)}")

    @property
    def digest(self) -> Digest:
        """The name of the proposal."""
        return Digest.of(encode_proposal(self))


def encode_proposal(proposal: Proposal) -> bytes:
    """The one spelling of a proposal."""
    p, d = proposal, proposal.draft
    draft = None if d is None else {
        "code": d.code, "claim": d.claim, "got": d.got, "hosts": list(d.hosts), "not_before": d.not_before, "not_after": d.not_after,
        "why": d.why,
    }  # fmt: skip
    return encode_cbor(
        {
            "v": 1,
            "namespace": p.namespace,
            "kind": p.kind,
            "proposed_at": p.proposed_at,
            "of": [digest.value for digest in p.of],
            "retires": [digest.value for digest in p.retires],
            "exemption": draft,
            **({"keeps": [digest.value for digest in p.keeps]} if p.keeps else {}),
        }
    )


def parse_proposal(data: bytes) -> Proposal:
    """Read a proposal. Raises FormatError."""
    f = Fields(decode_cbor(data, "proposal"), "proposal")
    f.version(1)
    proposal = Proposal(
        namespace=f.name("namespace"),
        kind=f.text("kind", most=32),
        proposed_at=f.uint("proposed_at"),
        of=_digests(f, "of", MOST_OBJECTS),
        retires=_digests(f, "retires", MOST_RETIRED),
        draft=None if f.is_null("exemption") else _draft(f.fields("exemption")),
        keeps=_keeps(f),
    )
    if f.has("exemption"):
        f.null("exemption")
    f.done()
    return proposal


def _draft(f: Fields) -> Draft:
    hosts = dict(enumerate(f.items("hosts", most=MOST_HOSTS)))
    draft = Draft(
        code=f.text("code", most=64),
        claim=f.text("claim", least=1),
        got=f.text("got"),
        hosts=tuple(Fields(hosts, "proposal.hosts").text(at) for at in hosts),
        not_before=f.uint("not_before"),
        not_after=f.uint("not_after"),
        why=f.text("why", least=1, most=500),
    )
    f.done()
    return draft


def _keeps(f: Fields) -> tuple[Digest, ...]:
    """Digests, where there are any: an empty array is not written down."""
    if not f.has("keeps"):
        return ()
    keeps = _digests(f, "keeps", MOST_OBJECTS)
    if not keeps:
        raise FormatError("proposal.keeps", "digests, or no such entry", "an empty array")
    return keeps


def _digests(f: Fields, key: str, most: int) -> tuple[Digest, ...]:
    items = dict(enumerate(f.items(key, most=most)))
    return tuple(Fields(items, f"proposal.{key}").digest(at) for at in items)
