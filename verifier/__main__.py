"""The `verifier` command: serve, and operate a verifier that serves."""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from verifier import check, reference_commands
from verifier.check.finding import read_file
from verifier.commands import OPERATOR_KEY, Verb, public_key
from verifier.commands import config_of as _config
from verifier.commands import connected as _client
from verifier.commands import group as _group
from verifier.commands import read as _read
from verifier.commands import show as _show
from verifier.commands import text as _text
from verifier.commands import verb as _verb
from verifier.commands import write as _write
from verifier.commands import write_secret as _write_secret
from verifier.config import PREFIX, VerifierConfig
from verifier.operate import segment
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.reason import Reason
from writ.formats.strict import Fields, decode_json
from writ.service import cli, config

if TYPE_CHECKING:
    from writ.formats.ima_rules import ImaRules
    from writ.formats.keys import PublicKey
    from writ.formats.policy_bundle import PolicyBundle, PolicySettings

DEFAULT_POLICY: Final = Path(__file__).parent / "default_policy"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit 0: done or accepted; 1: refused; 2: misuse, also what the verifier calls malformed; 3: could not."""
    return cli.run(_main, sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    args = _parser().parse_args(argv)
    verb: Verb = args.run
    with contextlib.ExitStack() as args.closing:
        return verb(args)


# --- the command line ---------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    top = cli.parser("verifier", "Appraise hosts and agents, and issue execution tokens.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    _local(verbs)
    _hosts(verbs)
    _governance(verbs)
    _others(verbs)
    return top


def _local(verbs: Any) -> None:
    _verb(verbs, "serve", "serve HTTP until stopped", _serve, remote=False)
    made = _verb(verbs, "init", "make state directory, keys, ledger and the first API key", _init, remote=False)
    made.add_argument("--api-key-file", type=Path, metavar="FILE", help="where the first API key goes (default: state_dir/operator.key)")
    lost = made.add_mutually_exclusive_group()
    lost.add_argument(
        "--after", type=Path, metavar="FILE", help="begin a log after one that was lost: its last checkpoint that anybody has"
    )
    lost.add_argument(
        "--head", type=Path, metavar="FILE", help="the head file is gone: go on from this checkpoint of the log, kept elsewhere"
    )
    _verb(verbs, "doctor", "say what is wrong with this installation", _doctor, remote=False)
    _verb(_group(verbs, "config", "the configuration"), "check", "say what is wrong with the configuration", _config_check, remote=False)
    checked = verbs.add_parser("check", help="appraise one piece of evidence offline")
    checked.set_defaults(run=_check)
    check.add_arguments(checked)


def _admission(made: argparse.ArgumentParser) -> None:
    made.add_argument("host")
    made.add_argument("--ek", metavar="sha256:HEX", help="admit this TPM by the SHA-256 of its EK's SubjectPublicKeyInfo")
    made.add_argument("--unendorsed", action="store_true", help="with --ek: the TPM has no EK certificate")
    made.add_argument("--life", type=int, default=86_400, metavar="SECONDS", help="life of the ticket")
    made.add_argument("--ticket-file", type=Path, metavar="FILE", help="write the ticket here (0600) instead of printing it")


def _hosts(verbs: Any) -> None:
    host = _group(verbs, "host", "hosts: admit, list, show, release, replace, retire, excuse, revoke")
    _admission(_verb(host, "admit", "let a host enrol once", _host_admit))
    _verb(host, "list", "the hosts of the namespace", _host_list)
    _verb(host, "show", "one host, with its instances", _host_show).add_argument("host")
    _verb(host, "release", "let a contained host attest again, after inspection", _host_act("release")).add_argument("host")
    _admission(_verb(host, "replace", "burn the host's TPM and let another enrol", _host_replace))
    _verb(host, "retire", "put host and TPM out of service for ever, or drop an unused admission", _host_act("retire")).add_argument("host")
    _verb(host, "excuse", "let a host owe no log of boot and IMA until it sends one again", _host_act("excuse")).add_argument("host")
    revoke = _verb(host, "revoke", "revoke a token, an instance or a host", _revoke)
    revoke.add_argument("kind", choices=("jti", "instance", "host"))
    revoke.add_argument("subject")


def _governance(verbs: Any) -> None:
    reference_commands.add_verbs(verbs)
    policy = _group(verbs, "policy", "policy: publish, show, check")
    _policy_arguments(_verb(policy, "publish", "put a policy in force", _policy_publish))
    made = _verb(policy, "show", "the policy in force", _policy_show)
    made.add_argument("--out", type=Path, metavar="FILE", help="also write it here as signed, for services that rely on it")
    _policy_arguments(_verb(policy, "check", "say whether a policy would be accepted, offline", _policy_check, remote=False))
    trust = _group(verbs, "trust", "trust anchors: fetch, import, show, export")
    made = _verb(trust, "fetch", "get the pinned manufacturer roots from where they are published", _trust_fetch, remote=False)
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the certificates are written")
    made.add_argument("--manufacturer", action="append", metavar="ID", help="only this TCG vendor id, such as IFX; may be repeated")
    made.add_argument("--list", type=Path, metavar="FILE", help="another list of pinned roots (default: the product's)")
    made.add_argument("--tls-ca", type=Path, metavar="FILE", help="CAs for TLS instead of the system's")
    made = _verb(
        trust, "import", "believe pinned roots, CAs below them, CRLs and OCSP responses; or roots that you vouch for", _trust_import
    )
    made.add_argument("path", type=Path, nargs="*", metavar="FILE|DIR")
    made.add_argument(
        "--tpm-class", choices=("discrete", "firmware", "virtual", "software"), help="you vouch for the roots among the files"
    )
    made.add_argument(
        "--require-crl",
        action=argparse.BooleanOptionalAction,
        help="refuse a TPM without a fresh CRL or OCSP response at each issuer above it",
    )
    made.add_argument("--crl-max-age", type=int, metavar="SECONDS", help="how old a CRL or OCSP response may be (default: 604800)")
    made.add_argument("--accept-sha1", action=argparse.BooleanOptionalAction, help="believe old chains signed with SHA-1")
    _verb(trust, "show", "what is believed", _trust_show)
    _verb(trust, "export", "write the trust file for auditors", _trust_export).add_argument("--out", type=Path, required=True)


def _policy_arguments(made: argparse.ArgumentParser) -> None:
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


def _others(verbs: Any) -> None:
    key = _group(verbs, "key", "keys: of tokens (list, rotate), API keys (create, revoke), of content (hold, lift, erase)")
    _verb(key, "list", "token keys and API keys", _key_list)
    turned = _verb(key, "rotate", "sign tokens with a new key", _key_rotate)
    turned.add_argument("--exchange", action="store_true", help="exchange tokens: the new key is shown now, and signs in five minutes")
    made = _verb(key, "create", "make an API key", _key_create)
    made.add_argument("--role", required=True, choices=("operator", "publisher", "reader", "relying"))
    made.add_argument("--for-namespace", required=True, metavar="NAME")
    made.add_argument("--audience", default="", help="whose tokens a relying service may ask about, with --role relying")
    made.add_argument("--label", default="")
    made.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the key is written (0600)")
    for act, does in (
        ("hold", "let nothing of the namespace be erased: evidence, results and states of its hosts"),
        ("lift", "lift that legal hold"),
        ("erase", "destroy the namespace's key, and so all of them, for ever; every proof holds"),
    ):
        _verb(key, act, does, _content(act)).add_argument("--why", required=True, metavar="TEXT", help="kept, and named in the log")
    _verb(key, "revoke", "make an API key useless", _key_revoke).add_argument("key")
    _verb(verbs, "why", "explain a decision by its reference", _why).add_argument("reference")
    exported = _verb(verbs, "export", "write all decisions and what they rest on, for an auditor", _export)
    exported.add_argument("--out", type=Path, required=True)


# --- local --------------------------------------------------------------------------------------------------------------


def _serve(args: argparse.Namespace) -> int:
    from uvicorn import Server as HttpServer

    from verifier import compose
    from writ.service import observe

    loaded = _config(args)
    observe.configure(sys.stderr, loaded.log_level)
    verifier = compose.verifier(loaded)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # uvicorn stops at them, and raises them again when it has stopped
    try:
        server = HttpServer(compose.server_config(verifier.app, loaded))
        verifier.ledger.when_ended(lambda: setattr(server, "should_exit", True))
        server.run()
        verifier.ledger.demand()
    finally:
        verifier.close()
    return cli.ACCEPTED if server.started else cli.COULD_NOT


def _init(args: argparse.Namespace) -> int:
    from verifier import compose

    loaded = _config(args)
    if args.head is not None:
        resumed = compose.resume(loaded, _read(args.head))
        cli.emit({"origin": resumed.origin, "size": resumed.size, "root": resumed.root.hex()}, args.json)
        return cli.ACCEPTED
    key_file: Path = args.api_key_file or loaded.state_dir / OPERATOR_KEY
    try:
        row = compose.init(loaded, key_file, after=None if args.after is None else _read(args.after))
    except FileExistsError:
        raise FormatError("--api-key-file", "a file that is not there yet", str(key_file)) from None
    made = {"state_dir": str(loaded.state_dir), "api_key_file": None if row is None else str(key_file)}
    cli.emit(made, args.json)
    return cli.ACCEPTED


def _doctor(args: argparse.Namespace) -> int:
    from verifier.doctor import examine

    found = examine(_config(args))
    cli.emit({"checks": [one.to_json() for one in found]}, args.json)
    return cli.REFUSED if any(one.remedy for one in found) else cli.ACCEPTED


def _config_check(args: argparse.Namespace) -> int:
    faults = config.check(VerifierConfig, args.config, os.environ, PREFIX)
    cli.emit({"faults": faults}, args.json)
    return cli.MISUSE if faults else cli.ACCEPTED


def _check(args: argparse.Namespace) -> int:
    result = check.check(args.kind, args, now=int(time.time()))
    cli.emit(result, args.json)
    return check.shown(result)


# --- over the API -------------------------------------------------------------------------------------------------------


def _host_admit(args: argparse.Namespace) -> int:
    _place_for(args.ticket_file)
    body = {"host": args.host, "ek": args.ek, "unendorsed": args.unendorsed, "life": args.life}
    return _ticket(args, _client(args).post("/v1/hosts", body))


def _host_replace(args: argparse.Namespace) -> int:
    _place_for(args.ticket_file)
    body = {"ek": args.ek, "unendorsed": args.unendorsed, "life": args.life}
    return _ticket(args, _client(args).post(f"/v1/hosts/{segment(args.host)}/replace", body))


def _place_for(path: Path | None) -> None:
    """Return if a ticket or key may be written there: asked for and then lost, it would take another. Raises Unavailable."""
    if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise Unavailable(f"file {path}", "expected a folder that may be written to, got none")


def _ticket(args: argparse.Namespace, answer: dict[str, Any]) -> int:
    if args.ticket_file is not None and answer.get("ticket"):
        _write_secret(args.ticket_file, f"{answer['ticket']}\n".encode("ascii"))
        answer["ticket"] = None
        answer["ticket_file"] = str(args.ticket_file)
    return _show(args, answer)


def _host_list(args: argparse.Namespace) -> int:
    client, found = _client(args), []
    after: dict[str, str | int] = {}
    while page := client.get("/v1/hosts", most=500, **after)["hosts"]:
        found += page
        after = {"after": page[-1]["host"]}
    return _show(args, {"hosts": found})


def _host_show(args: argparse.Namespace) -> int:
    return _show(args, _client(args).get(f"/v1/hosts/{segment(args.host)}"))


def _host_act(act: str) -> Verb:
    def run(args: argparse.Namespace) -> int:
        return _show(args, _client(args).post(f"/v1/hosts/{segment(args.host)}/{act}"))

    return run


def _revoke(args: argparse.Namespace) -> int:
    return _show(args, _client(args).post("/v1/revocations", {"kind": args.kind, "subject": args.subject}))


def _policy(args: argparse.Namespace, held: PolicyBundle | None) -> PolicyBundle:
    """`held`, or the policy by default, with the next version and what the arguments say. Raises FormatError, Unavailable."""
    from writ.formats.policy_bundle import PolicyBundle, PolicySettings

    schema, policies = DEFAULT_POLICY / "schema.cedarschema", DEFAULT_POLICY / "default.cedar"
    if held is None or args.default_policy:
        before = PolicySettings() if held is None else held.settings
        held = PolicyBundle("check", 0 if held is None else held.version, 0, before, _text(schema), _text(policies))
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
        schema=held.schema if args.schema is None else _text(args.schema),
        policies=held.policies if args.policies is None else _text(args.policies),
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

    data = _read(path)
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


def _policy_publish(args: argparse.Namespace) -> int:
    """On the policy in force as it was read, or not at all: its successor's version is named."""
    from writ.formats.cose import parse_sign1
    from writ.formats.policy_bundle import parse_bundle

    client, held = _client(args), None
    try:
        held = parse_bundle(parse_sign1(base64.b64decode(client.get("/v1/policies/current")["signed"])).payload or b"")
    except Refused as refused:
        if [reason.code for reason in refused.reasons] != ["policy-unknown"]:
            raise
    new = _policy(args, held)
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
    return _show(args, {**published, "settings": body["settings"], **_validated(new)[1]})


def _validated(bundle: PolicyBundle) -> tuple[list[str], dict[str, object]]:
    """The names of its policies, and `findings` where there are any.

    Raises FormatError, in Cedar's own words where it is Cedar that found the fault.
    """
    from writ.verdict import cedar, lint

    findings = [one.to_json() for one in lint.explained(bundle, lint.publishable)]
    return [name for _, name in cedar.load(bundle).ids], {"findings": findings} if findings else {}


def _policy_show(args: argparse.Namespace) -> int:
    answer = _client(args).get("/v1/policies/current")
    if args.out is not None:
        _write(args.out, base64.b64decode(answer["signed"]))
    return _show(args, answer)


def _policy_check(args: argparse.Namespace) -> int:
    names, findings = _validated(_policy(args, None))
    return _show(args, {"verdict": "accepted", "policies": names, **findings})


def _trust_fetch(args: argparse.Namespace) -> int:
    from verifier.manufacturers import parse_pinned_roots, pinned_roots
    from verifier.trust_fetch import fetch_roots

    pinned = pinned_roots() if args.list is None else parse_pinned_roots(_text(args.list))
    unknown = set(args.manufacturer or ()) - {root.manufacturer for root in pinned}
    if unknown:
        raise FormatError("--manufacturer", "an id of the list", ", ".join(sorted(unknown)))
    wanted = [root for root in pinned if not args.manufacturer or root.manufacturer in args.manufacturer]
    fetched = fetch_roots(wanted, args.out, ca_file=args.tls_ca)
    cli.emit({"roots": [one.to_json() for one in fetched]}, args.json)
    outcomes = {one.outcome for one in fetched}
    return cli.REFUSED if "refused" in outcomes else cli.COULD_NOT if "unreachable" in outcomes else cli.ACCEPTED


def _trust_import(args: argparse.Namespace) -> int:
    """1. The files, those of directories too. 2. With --tpm-class their certificates are vouched for; nothing else is. 3. The rules."""
    from verifier.manufacturers import OFFERED, Offered, vouched
    from writ.formats.crl import MAX_CRL

    # 1
    paths = [one for path in args.path for one in (sorted(path.iterdir()) if path.is_dir() else [path])]
    named = [one for one in paths if one in args.path or (one.suffix.lower() in OFFERED and one.is_file())]
    files = [Offered(one.name, read_file(one, 2 * MAX_CRL)) for one in named]
    chosen = {"crl_required": args.require_crl, "crl_max_age": args.crl_max_age, "sha1": args.accept_sha1}
    if not files and all(value is None for value in chosen.values()):
        raise FormatError("FILE|DIR", f"a file, a folder with files of {', '.join(sorted(OFFERED))}, or a rule", "none")
    # 2
    pem, rest = vouched(files) if args.tpm_class else ("", files)
    client = _client(args)
    body: dict[str, Any] = {"files": [{"name": one.name, "data": base64.b64encode(one.data).decode("ascii")} for one in rest]}
    if pem:
        body |= {"pem": pem, "tpm_class": args.tpm_class}
    # 3
    if any(value is not None for value in chosen.values()):
        body["rules"] = {**client.get("/v1/trust")["rules"], **{key: value for key, value in chosen.items() if value is not None}}
    answer = client.post("/v1/trust", body)
    cli.emit({key: answer[key] for key in ("digest", "added", "refused")}, args.json)
    return cli.refused(one["code"] for one in answer["refused"]) if answer["refused"] else cli.ACCEPTED


def _trust_show(args: argparse.Namespace) -> int:
    return _show(args, _without_file(_client(args).get("/v1/trust")))


def _without_file(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != "file"}


def _trust_export(args: argparse.Namespace) -> int:
    answer = _client(args).get("/v1/trust")
    _write(args.out, base64.b64decode(answer["file"]))
    return _show(args, {"file": str(args.out), "digest": answer["digest"]})


def _key_list(args: argparse.Namespace) -> int:
    client = _client(args)
    return _show(args, {**client.get("/v1/keys"), **client.get("/v1/api-keys")})


def _key_rotate(args: argparse.Namespace) -> int:
    return _show(args, _client(args).post("/v1/keys/exchange/rotate" if args.exchange else "/v1/keys/rotate"))


def _key_create(args: argparse.Namespace) -> int:
    _place_for(args.out)
    asked = {"namespace": args.for_namespace, "role": args.role, "label": args.label, "audience": args.audience}
    answer = _client(args).post("/v1/api-keys", asked)
    _write_secret(args.out, f"{answer.pop('key')}\n".encode("ascii"))
    return _show(args, {**answer, "file": str(args.out)})


def _key_revoke(args: argparse.Namespace) -> int:
    return _show(args, _client(args).post(f"/v1/api-keys/{segment(args.key)}/revoke"))


def _content(act: str) -> Callable[[argparse.Namespace], int]:
    return lambda args: _show(args, _client(args).post(f"/v1/contents/{act}", {"why": args.why}))


def _why(args: argparse.Namespace) -> int:
    entry = _client(args).get(f"/v1/decisions/{segment(args.reference)}")
    if args.json or entry["kind"] not in ("attest", "exchange"):
        return _show(args, entry)
    outcomes = entry.get("outcomes", ())
    said = [*entry["reasons"], *(reason for outcome in outcomes for reason in outcome["reasons"])]
    reasons = [Reason(r["code"], r["claim"], r["expected"], r["got"]) for r in said]
    if reasons:
        print(cli.refusal_card(reasons, entry["reference"][:16], stream=sys.stdout))
    if entry["kind"] == "exchange":
        verdict = "given" if entry["issued"] else "refused"
        print(f"{verdict}: {entry['host']} at {entry['at']}, instance {entry['instance']}, an exchange token for {entry['audience']}")
        return cli.ACCEPTED
    issued = sum(outcome["issued"] for outcome in outcomes)
    print(f"{entry['verdict']}: {entry['host']} at {entry['at']}, {issued} of {len(outcomes)} instances were given a token")
    return cli.ACCEPTED


def _export(args: argparse.Namespace) -> int:
    data = _client(args).export()
    _write(args.out, data)
    return _show(args, {"file": str(args.out), "bytes": len(data)})


if __name__ == "__main__":
    sys.exit(main())
