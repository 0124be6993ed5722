"""`enforcer policy`: policies tried before they decide, by cases and by what was recorded on this host. Decides nothing.

A file of cases, TOML or (`*.json`) the same as JSON. `defaults` stands for what a case does not say; contexts are merged, over a context
of the host `host` under a token just issued:

    [defaults]
    agent = "spiffe://example.org/billing/agent/reporter"
    context = { attest_age = 10 }

    [[case]]
    name = "notes are read"
    action = "tool.call"
    resource = "mcp:notes/read"
    expect = "permit"                        # or refuse, or error
    rule = "tools-under-a-fresh-token"       # one of the policies that determine it; may be left out
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from enforcer.config import EnforcerConfig
from enforcer.explain import find_instance, instances
from enforcer.papers import kept
from enforcer.record import LogReader
from enforcer.shadow import differences
from writ.formats.action import Action
from writ.formats.cose import parse_sign1
from writ.formats.digest import Digest
from writ.formats.eat import TokenClaims, parse_token
from writ.formats.errors import FormatError, Unavailable
from writ.formats.mcp.approved import ApprovedServer, parse_approved
from writ.formats.policy_bundle import MAX_BUNDLE, PolicyBundle, PolicySettings, parse_bundle
from writ.formats.record import ActionRecord
from writ.formats.spiffe import AgentId
from writ.formats.strict import Fields, decode_json
from writ.verdict.catalogue import uncatalogued
from writ.verdict.lint import ISSUED, SPECIMEN, explained, publishable
from writ.verdict.rehearsal import Case, Tried, again, by_policy, rehearse, unexercised
from writ.verdict.schema import BY_VERIFIER, cedar_schema

MAX_CASES: Final = 10_000
_SIGN1: Final = b"\xd2"
"""The first byte of a COSE_Sign1, which no text in UTF-8 begins with."""
_CASE: Final = ("name", "agent", "action", "resource", "context", "expect", "rule")


def candidate(policies: Path, schema: Path | None) -> PolicyBundle:
    """The policies to try: Cedar text, with the schema or the one by default, or a signed bundle, whose signature is not looked at.

    Raises FormatError, Unavailable.
    """
    data = _read(policies)
    if data.startswith(_SIGN1):
        if schema is not None:
            raise FormatError("--schema", "none beside a bundle, which has its own", str(schema))
        return parse_bundle(parse_sign1(data, what="policy", max_size=MAX_BUNDLE).payload or b"")
    return PolicyBundle("candidate", 1, 0, PolicySettings(), cedar_schema() if schema is None else _text(schema), _text(policies))


def cases(paths: Sequence[Path]) -> tuple[Case, ...]:
    """The cases of all files, in order. Raises FormatError, Unavailable."""
    return tuple(case for path in paths for case in _cases(path))


def catalogue(paths: Sequence[Path]) -> dict[str, ApprovedServer]:
    """What was approved of each server, by its name, which is that of its file. Raises FormatError, Unavailable."""
    found: dict[str, ApprovedServer] = {}
    for path in paths:
        name = path.name.removesuffix(".mcp.json")
        if name == path.name or name in found:
            raise FormatError("--catalogue", "files NAME.mcp.json, each name once", path.name[:80])
        found[name] = parse_approved(_read(path))
    return found


def tried(bundle: PolicyBundle, of: Sequence[Case], among: Mapping[str, ApprovedServer] | None = None) -> dict[str, Any]:
    """What the policies say in each case, which fail, which policies no case exercised, and the findings. Raises FormatError.

    Where servers are given, what a policy names of a server is `among` what was approved of them, or is a finding.
    """
    findings = [*explained(bundle), *(uncatalogued(bundle, among) if among is not None else ())]
    results = rehearse(bundle, of)
    failed = [_failure(one) for one in results if not one.passed]
    return {
        "verdict": "refused" if failed else "accepted", "cases": len(results), "failed": failed,
        "unexercised": list(unexercised(bundle, (one.determining for one in results))),
        "findings": [finding.to_json() for finding in findings],
    }  # fmt: skip


def _failure(one: Tried) -> dict[str, Any]:
    case, rule = one.case, {} if one.case.rule is None else {"rule": one.case.rule}
    asked = {"case": case.name, "agent": case.agent, "action": case.action, "resource": case.resource, "context": dict(case.context)}
    return {**asked, "expected": {"answer": case.expected, **rule}, "got": {"answer": one.said, "rules": list(one.determining)}}


def _cases(path: Path) -> Iterator[Case]:
    data, what = _read(path), path.name
    read: Any
    if path.suffix == ".json":
        read = decode_json(data, what)
    else:
        try:
            read = tomllib.loads(data.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
            raise FormatError(what, "TOML", "something else") from None
    f = Fields(read, what)
    defaults = f.mapping("defaults", most=len(_CASE)) if f.has("defaults") else {}
    for at, item in enumerate(f.items("case", most=MAX_CASES)):
        yield _case(item, defaults, f"{what}, case {at + 1}")
    f.done()


def _case(item: object, defaults: Mapping[str, Any], what: str) -> Case:
    said = Fields(item, what)
    for name in _CASE:
        if said.has(name):
            said.any(name)
    said.done()
    given: dict[str, Any] = {**defaults, **item} if isinstance(item, dict) else {}
    f = Fields(given, what)
    action, resource, agent = f.text("action"), f.text("resource"), f.text("agent")
    AgentId.parse(agent)
    expected = f.text("expect")
    if expected not in ("permit", "refuse", "error"):
        raise FormatError(f"{what}.expect", "permit, refuse or error", repr(expected)[:40])
    if action not in BY_VERIFIER:
        Action(action, resource, Digest.of(b""))
    context: dict[str, Any] = dict(ISSUED if action in BY_VERIFIER else SPECIMEN)
    for part in (defaults, given):
        context |= _context(part.get("context", {}), f"{what}.context")
    name = f.text("name") if f.has("name") else f"{action} on {resource}"
    rule = f.text("rule") if f.has("rule") else None
    if f.has("context"):
        f.any("context")
    f.done()
    return Case(name, agent, action, resource, context, expected, rule)  # type: ignore[arg-type]  # `expected` is one of its words, as was checked


def _context(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(one, str | int) or _is_texts(one) for one in value.values()):
        raise FormatError(what, "names with text, integers, true or false, or arrays of text", "something else")
    return value


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def shadowed(config: EnforcerConfig, wanted: Sequence[str]) -> dict[str, Any]:
    """What the candidate beside each instance's policy would have decided otherwise; of all instances where none is named.

    Raises FormatError, Refused, Unavailable.
    """
    named = [find_instance(config, name) for name in wanted] or instances(config)
    told = [(instance, differences(config.instance_dir(instance))) for instance in named]
    return {"instances": [{"instance": instance.hex(), **one} for instance, one in told if one is not None]}


_Aside = Literal["not asked", "erased"]


@dataclass(frozen=True, slots=True)
class _Recorded:
    instance: bytes
    agent: str
    record: ActionRecord
    context: bytes
    claims: TokenClaims


def what_if(config: EnforcerConfig, bundle: PolicyBundle, references: Sequence[str]) -> dict[str, Any]:
    """What `bundle` would have decided otherwise, of the actions recorded under each reference, or of all on this host.

    An action that grants and policy were not asked about is left out and counted: under a hold, without a token, observed. So is one whose
    content was erased, with which went the context of its decision.
    Raises FormatError, Refused, Unavailable; FormatError too for a bundle that could not be published.
    """
    explained(bundle, publishable)
    differences, determining, decided = [], [], 0
    aside: Counter[_Aside] = Counter()
    for one in _actions(config, references):
        if not isinstance(one, _Recorded):
            aside[one] += 1
            continue
        decided += 1
        answer = again(one.record, one.context, one.claims, bundle)
        determining.append(answer.determining)
        if answer.permit != one.record.permit:
            differences.append(_difference(one, answer.permit, answer.determining, [reason.to_json() for reason in answer.reasons]))
    return {
        "candidate": str(bundle.digest), "decided": decided, "not_decided_by_policy": aside["not asked"], "erased": aside["erased"],
        "differences": differences,
        "unexercised": list(unexercised(bundle, determining)),
    }  # fmt: skip


def _difference(one: _Recorded, permit: bool, rules: tuple[str, ...], reasons: list[dict[str, str]]) -> dict[str, Any]:
    record = one.record
    return {
        "reference": f"{one.instance.hex()[:8]}-{record.sequence}", "at": record.decided_at, "agent": one.agent,
        "action": record.action, "resource": record.resource, "was": "permit" if record.permit else "refuse",
        "would": "permit" if permit else "refuse", "rules": list(rules), "reasons": reasons,
    }  # fmt: skip


def _actions(config: EnforcerConfig, references: Sequence[str]) -> Iterator[_Recorded | _Aside]:
    """Each recorded action with the claims of its token, or why there is nothing to decide again."""
    wanted = [(name, "") for name in instances(config)]
    if references:
        parted = [reference.partition("-") for reference in references]
        wanted = [(find_instance(config, name), number) for name, _, number in parted]
    for instance, number in wanted:
        if number and not number.isdecimal():
            raise FormatError("reference", "an instance, or a record such as 5f1c09ab-12", number[:80])
        folder = config.instance_dir(instance)
        entries = LogReader(folder, instance, config.namespace_keys).entries()
        if number and int(number) >= len(entries):
            raise FormatError("reference", f"record 0 to {len(entries) - 1}", number[:80])
        claims = {token.digest: token.claims for token in map(parse_token, kept(folder).tokens)}
        for entry in [entries[int(number)]] if number else entries:
            record = entry.record
            if not isinstance(record, ActionRecord):
                continue
            if record.token is None or not by_policy(record.reasons):
                yield "not asked"
            elif record.token not in claims:
                raise Unavailable("papers", f"{folder}: the token of record {record.sequence} is not kept")
            elif entry.context is None:
                yield "erased"
            else:
                yield _Recorded(instance, entry.opening.agent, record, entry.context, claims[record.token])


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(2 * MAX_BUNDLE + 1)
    except OSError as error:
        raise Unavailable(f"file {path}", error.strerror or "cannot be read") from None
    if len(data) > 2 * MAX_BUNDLE:
        raise FormatError(str(path), f"at most {2 * MAX_BUNDLE} bytes", "more")
    return data


def _text(path: Path) -> str:
    try:
        return _read(path).decode()
    except UnicodeDecodeError:
        raise FormatError(str(path), "UTF-8", "bytes that are not") from None
