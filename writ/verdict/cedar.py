"""Cedar, the only importer of cedarpy: load strictly, evaluate, and never let an error permit.

Cedar skips a policy that errs, so an erring `forbid` lets an action through;
integer overflow does that even in a schema-valid policy (cedar#2428). Here:

- a bundle is loaded only if every policy validates against its schema, none
  computes on integers, and none permits everything to everyone;
- a request is validated against the schema on every evaluation, and held against the policies whose action scope can match;
- the answer is yes only for `Allow` with no error at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

try:
    import cedarpy
except ImportError as error:
    raise ImportError(f"cedarpy, without which nothing is decided, cannot be loaded: {error}", name="cedarpy") from error

from writ.formats.errors import FormatError
from writ.formats.policy_bundle import PolicyBundle
from writ.verdict.breadth import bounded
from writ.verdict.slicing import LEXEME, Moments, applicable, has_groups, moments, scope, statements

_ARITHMETIC: Final = frozenset({"+", "-", "*", "neg"})
JUDGED: Final = ("a Cedar schema", "Cedar policies", "policies that validate against the schema")
"""What is expected where Cedar itself finds a fault. Its words change with its version, so they are in no error of ours."""
MAX_POLICIES: Final = 2000
MAX_NESTING: Final = 32
"""Brackets within each other."""
MAX_STATEMENT: Final = 8192
MAX_DEPTH: Final = 640
"""Of Cedar's JSON view, which has two levels for each operator of a chain."""
MAX_SCHEMA: Final = 65_536
"""Characters up to a semicolon: a bound on chains of operators, which nest without brackets."""
_JSON: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.DOTALL)
_PANIC: Final = "PanicException"
"""What PyO3 raises where Rust panics: it derives from BaseException, and cannot be imported."""
MAX_SLICED: Final = 4 * MAX_POLICIES
"""Policies in all slices together: a bundle whose slices would have more is evaluated whole."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Some policies of a bundle, the name of each by its id among them, and what they see of the clock."""

    policies: cedarpy.PolicySet
    names: Mapping[str, str]
    moments: Moments


@dataclass(frozen=True, slots=True)
class CedarPolicies:
    """A loaded bundle: for each action that a policy names the policies that can match it, and those for every other action.

    `load` is its only maker. `ids` are the names of all its policies.
    """

    schema: cedarpy.Schema
    ids: tuple[tuple[str, str], ...]
    slices: Mapping[str, Slice]
    others: Slice

    def slice_of(self, action: str) -> Slice:
        """The policies that decide about `action`: those that are left out could neither match it nor err."""
        return self.slices.get(action, self.others)


@dataclass(frozen=True, slots=True)
class CedarAnswer:
    """What Cedar said: `permit` only for Allow without errors; `determining` policy ids, sorted; `erred` if anything erred."""

    permit: bool
    determining: tuple[str, ...]
    erred: bool


def load(bundle: PolicyBundle) -> CedarPolicies:
    """The bundle's policies, ready to evaluate, after every check that can be made before a request.

    1. Schema and policies are shallow and in short statements, since Cedar's parser recurses and would end the process; the schema says no
       more than Cedar can judge soon; they parse.
    2. Every policy validates against the schema.
    3. No policy computes on integers.
    4. No policy permits any action on any resource to anyone, under no condition that looks at the request.
    5. The policies are sliced by action, which changes no answer.

    Raises FormatError, naming the policy by its @id where it has one.
    """
    loaded = _loaded(bundle)
    if isinstance(loaded, CedarPolicies):
        return loaded
    raise FormatError(*loaded)


@lru_cache(maxsize=64)
def _loaded(bundle: PolicyBundle) -> CedarPolicies | tuple[str, str, str]:
    """What `load` answers, or what it raises: policies that cannot be loaded are not parsed again at every action."""
    try:
        return _load(bundle)
    except FormatError as error:
        return error.what, error.expected, error.got


def forget() -> None:
    """Every bundle is loaded anew the next time; no answer changes by it."""
    _loaded.cache_clear()


def _load(bundle: PolicyBundle) -> CedarPolicies:
    # 1
    _bounded("policy.schema", bundle.schema, "([{<", ")]}>", MAX_SCHEMA)
    _bounded("policy.policies", bundle.policies, "([{", ")]}", MAX_STATEMENT)
    bounded(bundle.schema, len(statements(bundle.policies)))
    try:
        schema = cedarpy.Schema.from_str(bundle.schema)
    except ValueError:
        raise FormatError("policy.schema", JUDGED[0], "text that is not one; `cedar validate` shows where") from None
    try:
        whole = cedarpy.PolicySet.from_str(bundle.policies)
        view = cedarpy.policies_to_json_str(bundle.policies)
    except ValueError:
        raise FormatError("policy.policies", JUDGED[1], "text that is not; `cedar validate` shows where") from None
    document = json.loads(_shallow(view))
    static = document.get("staticPolicies", {})
    if document.get("templates") or len(static) > MAX_POLICIES:
        raise FormatError("policy.policies", f"at most {MAX_POLICIES} policies and no templates", f"{len(static)}")
    # 2
    result = cedarpy.validate_policies(bundle.policies, schema)
    if not result.validation_passed:
        where = ", ".join(sorted({error.policy_id or "(parse)" for error in result.errors}))
        raise FormatError("policy.policies", JUDGED[2], f"faults in {where}")
    names = {policy_id: str(policy.get("annotations", {}).get("id") or policy_id) for policy_id, policy in sorted(static.items())}
    for policy_id, named in names.items():
        policy = static[policy_id]
        if len(named) > 64 or not (named.isascii() and named.isprintable()):
            raise FormatError("policy.policies", "an @id of at most 64 printable ASCII characters", ascii(named)[:80])
        # 3
        if _computes(policy.get("conditions", [])):
            raise FormatError("policy.policies", "no arithmetic, since an overflow would void the policy", named)
        # 4
        if _blanket(policy):
            raise FormatError("policy.policies", "no unconditional permit of everything", named)
    # 5
    policies = [static[f"policy{at}"] for at in range(len(static))]
    return _sliced(bundle, schema, Slice(whole, names, moments(policies)), policies)


def faults(bundle: PolicyBundle) -> str:
    """What Cedar itself says against a bundle that `load` refused as one of `JUDGED`. For people: it is recorded nowhere."""
    try:
        found = cedarpy.validate_policies(bundle.policies, cedarpy.Schema.from_str(bundle.schema)).errors
    except ValueError as error:
        return str(error)
    return "; ".join(sorted({str(one.error) for one in found}))


def parts(bundle: PolicyBundle) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Name and Cedar's JSON view of each policy of a bundle that `load` takes, in the order of the text."""
    names = dict(load(bundle).ids)
    static = json.loads(cedarpy.policies_to_json_str(bundle.policies))["staticPolicies"]
    return tuple((names[f"policy{at}"], static[f"policy{at}"]) for at in range(len(static)))


def evaluate(loaded: CedarPolicies, *, agent: str, action: str, resource: tuple[str, str], context: Mapping[str, Any]) -> CedarAnswer:
    """Whether the policies permit `action` by `agent` on `resource` (type, id) in `context`.

    Entities are only their ids: attributes enter as context, which is recorded. An engine that raises, or panics, has erred.
    """
    request = {
        "principal": {"type": "Writ::Agent", "id": agent},
        "action": {"type": "Writ::Action", "id": action},
        "resource": {"type": f"Writ::{resource[0]}", "id": resource[1]},
        "context": json.dumps(dict(context)),
    }
    held = loaded.slice_of(action)
    try:
        answer = cedarpy.is_authorized(request, held.policies, [], loaded.schema)
    except BaseException as error:  # a panic of the engine is no Exception; whatever else is none, is not the engine's
        if isinstance(error, Exception) or type(error).__name__ == _PANIC:
            return CedarAnswer(False, (), True)
        raise
    erred = bool(answer.diagnostics.errors) or answer.decision is cedarpy.Decision.NoDecision
    determining = tuple(sorted(held.names.get(policy, policy) for policy in answer.diagnostics.reasons))
    return CedarAnswer(answer.decision is cedarpy.Decision.Allow and not erred, determining, erred)


def _sliced(bundle: PolicyBundle, schema: cedarpy.Schema, whole: Slice, policies: list[dict[str, Any]]) -> CedarPolicies:
    """The bundle with a slice for each set of policies that some action has; whole where its text does not part as Cedar parts it."""
    ids = tuple(whole.names.items())
    texts, groups = statements(bundle.policies), has_groups(bundle.schema)
    places, others = applicable([scope(policy, groups=groups) for policy in policies])
    distinct = {others, *places.values()}
    if len(texts) != len(policies) or sum(map(len, distinct)) > MAX_SLICED:
        return CedarPolicies(schema, ids, {}, whole)
    made: dict[tuple[int, ...], Slice] = {}
    for chosen in distinct:
        text, parts = "".join(texts[at] for at in chosen), [policies[at] for at in chosen]
        if not _says(text, parts):
            return CedarPolicies(schema, ids, {}, whole)
        held = {f"policy{place}": whole.names[f"policy{at}"] for place, at in enumerate(chosen)}
        made[chosen] = Slice(cedarpy.PolicySet.from_str(text), held, moments(parts))
    return CedarPolicies(schema, ids, {name: made[chosen] for name, chosen in places.items()}, made[others])


def _says(text: str, policies: Sequence[dict[str, Any]]) -> bool:
    """Whether Cedar reads exactly these policies from `text`, in this order."""
    try:
        read: dict[str, Any] = json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"]
        return len(read) == len(policies) and all(read.get(f"policy{at}") == policy for at, policy in enumerate(policies))
    except (ValueError, RecursionError):
        return False


def _bounded(what: str, text: str, opening: str, closing: str, longest: int) -> None:
    """Nothing nests deeper than MAX_NESTING and no statement is longer than `longest`. Raises FormatError."""
    depth, since = 0, 0
    for lexeme in LEXEME.finditer(text):
        if lexeme[0] in opening:
            depth += 1
        elif lexeme[0] in closing:
            depth = max(0, depth - 1)
        elif lexeme[0] == ";":
            if lexeme.start() - since > longest:
                break
            since = lexeme.end()
        if depth > MAX_NESTING:
            raise FormatError(what, f"at most {MAX_NESTING} brackets within each other", "more")
    else:
        if len(text) - since <= longest:
            return
    raise FormatError(what, f"statements of at most {longest} characters", "a longer one")


def _shallow(view: str) -> str:
    """Cedar's JSON view of policies, which `json` reads whoever calls: it recurses, and how deep it can, the caller's frames would say.

    Raises FormatError.
    """
    depth = 0
    for lexeme in _JSON.finditer(view):
        depth += (lexeme[0] in "{[") - (lexeme[0] in "}]")
        if depth > MAX_DEPTH:
            raise FormatError("policy.policies", f"at most {MAX_DEPTH} levels of Cedar's JSON", "a longer chain of operators")
    return view


def keys(conditions: object) -> Iterator[str]:
    """Every key of a Cedar JSON expression, at any depth; not recursive, since the text says how deep it goes."""
    open_nodes = [conditions]
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, Mapping):
            yield from node
            open_nodes.extend(node.values())
        elif isinstance(node, list):
            open_nodes.extend(node)


def _computes(conditions: object) -> bool:
    """Whether there is an arithmetic operator in the conditions."""
    return any(key in _ARITHMETIC for key in keys(conditions))


def _blanket(policy: Mapping[str, Any]) -> bool:
    """Whether a permit is bounded by nothing: no scope beyond a type of ours, and no condition that looks at the request."""
    scopes = [policy.get(part, {}) for part in ("principal", "action", "resource")]
    if any(scope.get("op") != "All" and (scope.get("op") != "is" or "in" in scope) for scope in scopes):
        return False
    return policy.get("effect") == "permit" and "Var" not in keys(policy.get("conditions", []))
