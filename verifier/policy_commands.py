"""The verbs of `verifier policy`."""

from __future__ import annotations

import argparse
import base64
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from verifier.commands import connected, group, public_key, read, show, text, verb, write
from writ.formats.errors import FormatError, Refused
from writ.formats.strict import Fields, decode_json

if TYPE_CHECKING:
    from writ.formats.ima_rules import ImaRules
    from writ.formats.keys import PublicKey
    from writ.formats.policy_bundle import PolicyBundle, PolicySettings

DEFAULT_POLICY: Final = Path(__file__).parent / "default_policy"


def add_verbs(verbs: Any) -> None:
    """`policy` and its verbs."""
    policy = group(verbs, "policy", "policy: publish, show, check")
    _arguments(verb(policy, "publish", "put a policy in force", _publish))
    made = verb(policy, "show", "the policy in force", _show)
    made.add_argument("--out", type=Path, metavar="FILE", help="also write it here as signed, for services that rely on it")
    _arguments(verb(policy, "check", "say whether a policy would be accepted, offline", _check, remote=False))


def _arguments(made: argparse.ArgumentParser) -> None:
    made.description = f"{made.description}. What no option names is as in the policy in force; without one, and for `check`, by default."
    made.add_argument("--schema", type=Path, metavar="FILE", help="the Cedar schema")
    made.add_argument("--policies", type=Path, metavar="FILE", help="the Cedar policies")
    made.add_argument("--default-policy", action="store_true", help="the Cedar schema and policies of this release")
    made.add_argument(
        "--accept-runtime-only", action=argparse.BooleanOptionalAction, help="accept hosts whose attestor nothing has measured"
    )
    made.add_argument("--hardware", action=argparse.BooleanOptionalAction, help="bind every token to a key in the host's TPM")
    classes = ("discrete", "firmware", "virtual", "software")
    made.add_argument("--tpm-class", action="append", choices=classes, help="accept this class of TPM and no other; may be repeated")
    made.add_argument(
        "--approvals", action="append", default=[], metavar="ENVIRONMENTS=PEOPLE",
        help="reference values of these environments take so many people, such as governance=2, rooted/*=2 or boot=1; may be repeated",
    )  # fmt: skip
    made.add_argument(
        "--approver", action="append", default=[], metavar="NAME=FILE",
        help="who may approve actions, by a file with the public key (PEM or JWK); NAME= takes one away; may be repeated",
    )  # fmt: skip
    made.add_argument("--ima", type=Path, metavar="FILE", help="the rules for IMA lists, all of them, in JSON as `policy show` has them")
    for name in ("token-life", "nonce-life", "clock-skew", "hold-max", "record-lag-most", "witness-lag-most"):
        made.add_argument(f"--{name}", type=int, metavar="SECONDS")


def _asked(args: argparse.Namespace, held: PolicyBundle | None) -> PolicyBundle:
    """`held`, or the policy by default, with the next version and what the arguments say. Raises FormatError, Unavailable."""
    from writ.formats.policy_bundle import PolicyBundle, PolicySettings

    schema, policies = DEFAULT_POLICY / "schema.cedarschema", DEFAULT_POLICY / "default.cedar"
    if held is None or args.default_policy:
        before = PolicySettings() if held is None else held.settings
        held = PolicyBundle("check", 0 if held is None else held.version, 0, before, text(schema), text(policies))
    chosen: dict[str, Any] = {"tpm_classes": None if args.tpm_class is None else tuple(sorted(set(args.tpm_class)))}
    for name in ("accept_runtime_only", "token_life", "nonce_life", "clock_skew", "hold_max"):
        chosen[name] = getattr(args, name)
    chosen["ima"] = None if args.ima is None else _ima_rules(args.ima)
    for name in ("record_lag_most", "witness_lag_most"):
        if (most := getattr(args, name)) is not None:
            lag: dict[str, Any] = {name: most or None}
            held = replace(held, settings=replace(held.settings, **lag))
    settings = replace(
        held.settings, approvals=_people(args.approvals, held.settings), approvers=_approvers(args.approver, held.settings),
        **{name: value for name, value in chosen.items() if value is not None},
    )  # fmt: skip
    return replace(
        held, version=held.version + 1, settings=settings,
        schema=held.schema if args.schema is None else text(args.schema),
        policies=held.policies if args.policies is None else text(args.policies),
    )  # fmt: skip


def _people(pairs: Sequence[str], before: PolicySettings) -> tuple[tuple[str, int], ...]:
    """The numbers of people of `before` with those of `pairs` in their place; one person is what no number asks for."""
    said: dict[str, int] = {}
    for pair in pairs:
        environments, _, people = pair.rpartition("=")
        if not environments or not people.isdecimal() or not 1 <= len(people) <= 3 or environments in said:
            raise FormatError("--approvals", "ENVIRONMENTS=PEOPLE, each once, such as governance=2", repr(pair)[:80])
        said[environments] = int(people)
    return tuple(sorted((one, people) for one, people in {**dict(before.approvals), **said}.items() if people != 1))


def _approvers(pairs: Sequence[str], before: PolicySettings) -> tuple[tuple[str, PublicKey], ...]:
    """The approvers of `before` with those of `pairs` in their place. Raises FormatError, Unavailable."""
    said: dict[str, PublicKey | None] = {}
    for pair in pairs:
        name, parted, file = pair.partition("=")
        if not name or not parted or name in said:
            raise FormatError("--approver", "NAME=FILE, each name once, such as alice=alice.pem", repr(pair)[:80])
        said[name] = public_key(Path(file)) if file else None
    return tuple(sorted((name, key) for name, key in {**dict(before.approvers), **said}.items() if key is not None))


def _ima_rules(path: Path) -> ImaRules:
    """The rules of a JSON file, which says all four. Raises FormatError, Unavailable."""
    from verifier.http.wire import from_base64
    from writ.formats.ima_rules import MAX_EXCLUDE, MAX_KEYRINGS, ImaRules

    data = read(path)
    if not data.strip():
        raise FormatError(str(path), "a JSON object with exclude, violations, keyrings and learn_keys", "an empty file")
    f = Fields(decode_json(data, path.name), path.name)

    def texts(key: str, most: int) -> list[str]:
        items = dict(enumerate(f.items(key, most=most)))
        return sorted({Fields(items, f"{path.name}.{key}").text(at, most=64 << 10) for at in items})

    keyrings = sorted(from_base64(text, f"{path.name}.keyrings") for text in texts("keyrings", MAX_KEYRINGS))
    rules = ImaRules(tuple(texts("exclude", MAX_EXCLUDE)), f.text("violations"), tuple(keyrings), f.flag("learn_keys"))
    f.done()
    return rules


def _publish(args: argparse.Namespace) -> int:
    """On the policy in force as it was read, or not at all: its successor's version is named."""
    from writ.formats.cose import parse_sign1
    from writ.formats.policy_bundle import parse_bundle

    client, held = connected(args), None
    try:
        held = parse_bundle(parse_sign1(base64.b64decode(client.get("/v1/policies/current")["signed"])).payload or b"")
    except Refused as refused:
        if [reason.code for reason in refused.reasons] != ["policy-unknown"]:
            raise
    new = _asked(args, held)
    settings = new.settings.to_json()
    if args.hardware is not None:
        settings["hardware"] = args.hardware  # whose approval key it is, the verifier knows
    body = {"settings": settings, "schema": new.schema, "policies": new.policies, "version": new.version}
    try:
        published = client.post("/v1/policies", body)
    except Refused as refused:
        if all(reason.code == "malformed" for reason in refused.reasons):
            _validated(new)
        raise
    return show(args, {**published, "settings": body["settings"], **_validated(new)[1]})


def _validated(bundle: PolicyBundle) -> tuple[list[str], dict[str, object]]:
    """The names of its policies, and `findings` where there are any.

    Raises FormatError, in Cedar's own words where it is Cedar that found the fault.
    """
    from writ.verdict import cedar, lint

    findings = [one.to_json() for one in lint.explained(bundle, lint.publishable)]
    return [name for _, name in cedar.load(bundle).ids], {"findings": findings} if findings else {}


def _show(args: argparse.Namespace) -> int:
    answer = connected(args).get("/v1/policies/current")
    if args.out is not None:
        write(args.out, base64.b64decode(answer["signed"]))
    return show(args, answer)


def _check(args: argparse.Namespace) -> int:
    names, findings = _validated(_asked(args, None))
    return show(args, {"verdict": "accepted", "policies": names, **findings})
