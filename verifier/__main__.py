"""The `verifier` command: serve, and operate a verifier that serves."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from verifier import check, policy_commands, reference_commands, trust_commands
from verifier.commands import OPERATOR_KEY, Verb
from verifier.commands import config_of as _config
from verifier.commands import connected as _client
from verifier.commands import group as _group
from verifier.commands import read as _read
from verifier.commands import show as _show
from verifier.commands import verb as _verb
from verifier.commands import write as _write
from verifier.commands import write_secret as _write_secret
from verifier.config import PREFIX, VerifierConfig
from verifier.operate import segment
from writ.formats.errors import FormatError, Unavailable
from writ.formats.reason import Reason
from writ.service import cli, config


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
    policy_commands.add_verbs(verbs)
    trust_commands.add_verbs(verbs)


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
