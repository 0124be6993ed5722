"""What is wrong with a policy bundle though Cedar would load it: told before it is in force, since afterwards each action is refused.

`validate` refuses what could err on some request that the schema allows, since
an erring policy refuses every action that it can concern:

- schema and policies as `cedar.load` has them: they validate, which no access
  to an optional attribute without `has` does, nor a wrong type; no arithmetic;
  no permit of everything;
- nothing that overflows in times (`offset`, `durationSince`, `toDate`, `toTime`);
- no attributes and tags of entities: nothing gives any, they would be missing.

The rest are findings, for whoever writes the policy: it can be loaded, and does
not mean what it seems to. One of them keeps it from being published
(`publishable`), and is told to who tries a part of a policy: under policies that
permit nobody a token nothing is permitted at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.eat import RUNTIME_TIERS
from writ.formats.errors import FormatError
from writ.formats.policy_bundle import PolicyBundle
from writ.formats.spiffe import AgentId
from writ.formats.state import TPM_CLASSES
from writ.verdict.approval import supposed
from writ.verdict.cedar import JUDGED, CedarPolicies, evaluate, faults, keys, load, parts
from writ.verdict.schema import BY_VERIFIER, ISSUE, KINDS
from writ.verdict.slicing import LEXEME, has_groups, scope

_OVERFLOWS: Final = frozenset({"offset", "durationSince", "toDate", "toTime"})
_ENTITIES: Final = ("principal", "resource", "action")
_VALUES: Final = {"tpm_class": TPM_CLASSES, "runtime": RUNTIME_TIERS}
"""All values that an attribute of the context ever has."""
SPECIMEN: Final = {
    "now": 1, "attest_age": 0, "gate": "socket", "host": "host", "namespace": "test", "tpm_class": "discrete", "runtime": "affirming",
    "depth": 0,
}  # fmt: skip
"""A context as every action is decided in."""
ISSUED: Final = {"host": "host", "tpm_class": "discrete", "runtime": "affirming", "endorsed": True}
NO_TOKENS: Final = "no-tokens"
"""The code of the finding that no agent can have a token."""
_CONSENT: Final = supposed("anybody").to_context()
_NOTHING: Final[Mapping[str, str]] = {}
_NOBODY: Final = "spiffe://example.org/test/agent/nobody"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something a policy does not do though it seems to. `policy` is its name, "schema" or "policies" where it is one of those whole."""

    policy: str
    code: str
    detail: str

    def to_json(self) -> dict[str, str]:
        """For people and scripts."""
        return {"policy": self.policy, "code": self.code, "detail": self.detail}


def validate(bundle: PolicyBundle) -> tuple[Finding, ...]:
    """The bundle never errs on a request that its schema allows; what else there is to say of it, sorted.

    Does not say that the policies are wise, nor that a gate's requests are ones that the schema allows (that is a finding).

    1. Everything that `cedar.load` demands.
    2. No entity of the schema has attributes or tags.
    3. No policy does what may overflow, or reads an attribute of an entity.

    Raises FormatError, naming the policy by its @id where it has one.
    """
    # 1
    loaded = load(bundle)
    # 2
    if _entity_with_attributes(bundle.schema):
        raise FormatError("policy.schema", "entities without attributes and tags: what a policy needs is in the context", "some with")
    policies = parts(bundle)
    for name, policy in policies:
        conditions = policy.get("conditions", [])
        # 3
        if not _OVERFLOWS.isdisjoint(keys(conditions)):
            raise FormatError("policy.policies", f"none of {', '.join(sorted(_OVERFLOWS))}, since they overflow", name)
        if any(True for _ in _entity_reads(conditions)):
            raise FormatError("policy.policies", "no attribute of an entity, since nothing gives any", name)
    findings = {finding for name, policy in policies for finding in _findings(name, policy)}
    if not _permitted(ISSUE, policies, bundle.schema):
        findings.add(Finding("policies", NO_TOKENS, f"no permit can concern {ISSUE}: no agent gets a token, and nothing is permitted"))
    return tuple(sorted(findings | set(_misfits(loaded, bool(bundle.settings.approvers)))))


def publishable(bundle: PolicyBundle) -> tuple[Finding, ...]:
    """As `validate`, of a bundle that is to be in force: under it agents can have tokens. Raises FormatError.

    A part of a policy that is published by itself would end every agent of the namespace.
    """
    findings = validate(bundle)
    if any(finding.code == NO_TOKENS for finding in findings):
        raise FormatError("policy.policies", f"a permit that can concern {ISSUE}: a text is published whole, and replaces another", "none")
    return findings


def explained(bundle: PolicyBundle, judge: Callable[[PolicyBundle], tuple[Finding, ...]] = validate) -> tuple[Finding, ...]:
    """As `judge`, for people: a fault that Cedar found is told in its words, which are recorded nowhere. Raises FormatError."""
    try:
        return judge(bundle)
    except FormatError as error:
        if error.expected in JUDGED:
            raise FormatError(error.what, error.expected, faults(bundle) or error.got) from None
        raise


def _entity_with_attributes(schema: str) -> bool:
    """Whether a declaration of an entity has a record or tags."""
    declaring = False
    for lexeme in LEXEME.finditer(schema):
        if lexeme[0] == "entity":
            declaring = not schema[lexeme.end() :].lstrip().startswith((":", "?"))  # else an attribute of this name
        elif lexeme[0] == ";":
            declaring = False
        elif declaring and lexeme[0] in ("{", "tags"):
            return True
    return False


def _permitted(action: str, policies: Iterable[tuple[str, Mapping[str, Any]]], schema: str) -> bool:
    """Whether some permit can concern `action`, by its scope: what its conditions say is another matter."""
    groups = has_groups(schema)
    scopes = (scope(policy, groups=groups) for _, policy in policies if policy.get("effect") == "permit")
    return any(actions is None or action in actions for actions in scopes)


def _nodes(conditions: object) -> Iterator[dict[str, Any]]:
    open_nodes = [conditions]
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, dict):
            yield node
            open_nodes.extend(node.values())
        elif isinstance(node, list):
            open_nodes.extend(node)


def _entity_reads(conditions: object) -> Iterator[str]:
    """The attributes read of principal, resource or action themselves."""
    for node in _nodes(conditions):
        match node:
            case {".": {"left": {"Var": str(name)}, "attr": str(attribute)}} if name in _ENTITIES:
                yield attribute
            case {".": {"left": {"Value": {"__entity": _}}, "attr": str(attribute)}}:
                yield attribute


def _findings(name: str, policy: Mapping[str, Any]) -> Iterator[Finding]:
    for part in ("principal", "resource"):
        match policy.get(part):
            case {"op": "==", "entity": {"type": str(kind), "id": str(called)}} if (fault := _never(kind, called)) is not None:
                yield Finding(name, "never-applies", f"{part} {called!r}: {fault}"[:200])
            case {"op": "in", "entity": {"id": str(called)}} | {"op": "is", "in": {"entity": {"id": str(called)}}}:
                yield Finding(name, "no-hierarchy", f"{part} in {called!r} is that one alone: nothing is in anything"[:200])
    for condition in policy.get("conditions", []):
        if "Var" not in keys(condition):
            yield Finding(name, "constant-condition", f"a `{condition.get('kind')}` that looks at nothing of the request")
        for node in _nodes(condition):
            yield from (Finding(name, "never-equal", detail) for detail in _unequal(node))


def _never(kind: str, called: str) -> str | None:
    """Why no request names this principal or resource; None where one may."""
    if kind == "Writ::Agent":
        try:
            AgentId.parse(called)
        except FormatError as error:
            return f"an agent is {error.expected}"
    if kind == "Writ::Resource":
        if "*" in called:
            return "a wildcard is no part of a resource; use `like` in a condition"
        try:
            Action("any", called, Digest.of(b""))
        except FormatError as error:
            return f"a resource is {error.expected}"
    return None


def _unequal(node: dict[str, Any]) -> Iterator[str]:
    """What a comparison for equality asks of an attribute that never has that value."""
    match node:
        case {"==": {"left": left, "right": right}} | {"!=": {"left": left, "right": right}}:
            for one, other in ((left, right), (right, left)):
                match one, other:
                    case {".": {"left": {"Var": "context"}, "attr": str(attribute)}}, {"Value": str(value)}:
                        if value not in _VALUES.get(attribute, (value,)):
                            yield f"{attribute} is never {value!r}, but {', '.join(_VALUES[attribute])}"[:200]


def _misfits(loaded: CedarPolicies, people: bool) -> Iterator[Finding]:
    """The actions whose requests, as Writ makes them, the schema does not allow: each is refused."""

    def fits(action: str, more: Mapping[str, str] = _NOTHING) -> bool:
        resource, context = (("Audience", "any"), ISSUED) if action in BY_VERIFIER else (("Resource", "any"), {**SPECIMEN, **more})
        return not evaluate(loaded, agent=_NOBODY, action=action, resource=resource, context=context).erred

    for action in sorted(loaded.slices):
        if not fits(action):
            yield Finding("schema", "misfit", f"{action} is always refused: principal, resource or context are not as they are asked"[:200])
    asked = [*BY_VERIFIER, *(kind for row in KINDS for kind in row)]
    if missing := [kind for kind in asked if kind not in loaded.slices and not fits(kind)]:
        yield Finding("schema", "missing-actions", f"always refused, since the schema has no such action: {', '.join(missing)}"[:400])
    acted = sorted({*loaded.slices, *asked} - {*BY_VERIFIER})
    if people and (closed := [kind for kind in acted if fits(kind) and not fits(kind, _CONSENT)]):
        yield Finding("schema", "misfit", f"without approver and approval in the context nobody can approve {', '.join(closed)}"[:200])
