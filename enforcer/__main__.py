"""enforcer: run agents that can act only while a TPM-proven verifier says so.

serve                       the daemon of this host
run --agent NAME -- CMD…    launch an agent from its measured store; its exit status is returned
status [INSTANCE]           how the instances stand
why REF                     explain a refusal or a containment
approve REF                 say yes, once, to an action that takes a person
kill INSTANCE               kill an instance; it is tainted for ever
log show|export|prove|erase|hold|lift|acts|settle|vkey INSTANCE
relying                     decide for proxies and enforcement points of others
policy schema|test|what-if|shadow  try policies before they decide
tools -- PROGRAM ARG…       propose what to approve of a server of the Model Context Protocol
doctor, config check
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

try:
    from enforcer import compose, frames
    from enforcer.config import PREFIX, EnforcerConfig
    from enforcer.control import (
        CONTROL,
        MAX_CONTROL,
        Approve,
        Approved,
        Contain,
        Control,
        CouldNot,
        Deliver,
        Did,
        Exited,
        RefusedRun,
        Run,
        Started,
    )
    from writ.formats.approval import (
        LIFE,
        MAX_APPROVAL,
        Approval,
        bytes_to_sign,
        parse_signed_approval,
        sign_approval,
        signed_elsewhere,
    )
    from writ.formats.errors import FormatError, Refused, Unavailable
    from writ.formats.reason import Reason
    from writ.service import cli, observe
    from writ.service.config import check, load
except ImportError as missing:  # nothing is read or made before all of it is there
    sys.stderr.write(f"enforcer: could not start: {missing}\n")
    sys.exit(3)

if TYPE_CHECKING:
    from writ.formats.policy_bundle import PolicyBundle

FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)
KILLED: Final = 137
"""The status of an agent that was contained: 128 and SIGKILL."""


@cli.command
def main(argv: Sequence[str]) -> int:
    """Run one command; its exit code."""
    parser = cli.parser("enforcer", (__doc__ or "").split("\n", maxsplit=1)[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for name, text in _VERBS.items():
        made = verbs.add_parser(name, help=text, allow_abbrev=False)
        if name not in {"serve", "run", "relying", "policy"}:
            cli.add_json_flag(made)
        _arguments(name, made)
    before, _, command = _split(argv)
    args = parser.parse_args(before)
    try:
        return _done(args, command)
    except ImportError as missing:
        raise Unavailable("enforcer", f"a part of it cannot be loaded: {missing}") from None


def _done(args: argparse.Namespace, command: Sequence[str]) -> int:
    """The command's exit code. Each loads what only it needs, before it reads or makes anything: `run` stands in every launch's way."""
    if args.verb == "config":
        return _check(args)
    if args.verb == "relying":
        return _relying(args)
    if args.verb == "policy":
        return _policy(args)
    if args.verb == "tools":
        return _tools(args, command)
    if args.verb == "serve":
        return _serve(args)
    config = compose.configuration(args.config or _default(), os.environ)
    if args.verb == "run":
        return _run(config, args, tuple(command))
    return _show(config, args)


_VERBS: Final = {
    "serve": "be the daemon of this host",
    "run": "launch an agent from its measured store",
    "status": "show how the instances stand",
    "why": "explain a refusal or a containment",
    "approve": "say yes, once, to an action that takes a person",
    "kill": "kill an instance, for ever",
    "log": "show, export, prove, hold or erase action logs",
    "relying": "decide for proxies and enforcement points of others (docs/relying.md)",
    "policy": "try policies before they decide",
    "doctor": "look for what would keep an agent from running",
    "tools": "propose what to approve of an MCP server",
    "config": "check the configuration",
}


def _arguments(name: str, made: argparse.ArgumentParser) -> None:
    if name == "run":
        made.add_argument("--agent", required=True, metavar="NAME", help="the name in its manifest")
        made.add_argument("--parent", metavar="INSTANCE", help="the instance it descends from")
        made.usage = "enforcer run --agent NAME [--parent INSTANCE] [-- CMD…]"
    elif name == "status":
        made.add_argument("instance", nargs="?")
    elif name == "why":
        made.add_argument("reference", metavar="REF")
    elif name == "approve":
        _approve_arguments(made)
    elif name == "kill":
        made.add_argument("instance")
    elif name == "log":
        made.add_argument("act", choices=("show", "export", "prove", "erase", "hold", "lift", "acts", "settle", "vkey"))
        made.add_argument("instance", nargs="*", help="export takes several, or none for all; prove takes REF")
        made.add_argument("--output", type=Path, metavar="FILE", help="where an export goes")
        made.add_argument("--namespace", metavar="NAME", help="erase, hold or lift a namespace instead of an instance")
        made.add_argument("--by", metavar="WHO", help="who erases, holds, lifts or settles (default: sudo's user, or this one)")
        made.add_argument("--why", metavar="TEXT", default="", help="and why; both are recorded")
    elif name == "policy":
        _policy_arguments(made)
    elif name == "config":
        made.add_argument("act", choices=("check",))
        made.add_argument("--relying", action="store_true", help="the file is one for `enforcer relying`")
    elif name == "tools":
        made.add_argument("--protocol", metavar="VERSION", help="what the server speaks; tried out where it is not given")
        made.add_argument("--url", metavar="URL", help="of a server on the network, instead of a program")
        made.add_argument("--header", action="append", default=[], metavar="NAME:TEXT", help="sent with each request; {NAME} is a secret")
        made.add_argument("--secret", action="append", default=[], metavar="NAME=FILE", help="what the secret NAME is, for this command")
        made.add_argument("--ca-file", type=Path, metavar="FILE", help="roots for the server's certificate (default: the system's)")
        made.usage = "enforcer tools [--protocol VERSION] (-- PROGRAM ARG… | --url URL [--header NAME:TEXT] [--secret NAME=FILE])"


def _approve_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("reference", metavar="REF", help="the refused action")
    made.add_argument("--key", type=Path, metavar="FILE", help="sign with this private key (PKCS#8 PEM), of an approver of the policy")
    made.add_argument("--by", metavar="NAME", help="the approver who signs elsewhere, with --out")
    made.add_argument("--out", type=Path, metavar="FILE", help="write the bytes to sign, and send nothing")
    made.add_argument("--request", type=Path, metavar="FILE", help="the bytes that were signed elsewhere, with --signature")
    made.add_argument("--signature", type=Path, metavar="FILE", help="the raw signature over them, 64 bytes")
    made.add_argument("--within", type=int, default=300, metavar="SECONDS", help=f"how long it is good (default: 300, at most {LIFE})")


def _policy_arguments(made: argparse.ArgumentParser) -> None:
    acts = made.add_subparsers(dest="act", required=True, metavar="WHAT")
    schema = acts.add_parser("schema", help="print the Cedar schema of the action kinds", allow_abbrev=False)
    schema.add_argument("--action", action="append", default=[], metavar="KIND", help="an action kind of a service of your own; repeatable")
    test = acts.add_parser("test", help="run cases against policies", allow_abbrev=False)
    test.add_argument("cases", nargs="*", type=Path, metavar="FILE", help="cases, TOML or JSON; none: the policies are only validated")
    test.add_argument("--every-policy", action="store_true", help="refused where no case exercises some policy")
    test.add_argument(
        "--catalogue", action="append", type=Path, metavar="FILE", help="NAME.mcp.json of a server: what policies name of servers is in one"
    )
    what_if = acts.add_parser("what-if", help="decide recorded actions again, and show what is decided otherwise", allow_abbrev=False)
    what_if.add_argument("reference", nargs="*", metavar="REF", help="instances or records; none: all of this host")
    shadow = acts.add_parser("shadow", help="show what the candidate of shadow_policy would decide otherwise", allow_abbrev=False)
    shadow.add_argument("reference", nargs="*", metavar="INSTANCE", help="none: all of this host")
    for one in (test, what_if):
        one.add_argument("--policies", type=Path, required=True, metavar="FILE", help="Cedar text, or a signed policy")
        one.add_argument("--schema", type=Path, metavar="FILE", help="the schema of Cedar text; by default that of the action kinds")
    for one in (schema, test, what_if, shadow):
        cli.add_json_flag(one)


def _split(argv: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """What stands before and after `--`."""
    words = list(argv)
    if "--" not in words:
        return words, "", []
    at = words.index("--")
    return words[:at], "--", words[at + 1 :]


def _default(role: str = "enforcer") -> Path | None:
    path = Path(f"/etc/writ/{role}.toml")
    return path if path.exists() else None


def _check(args: argparse.Namespace) -> int:
    if args.relying:
        from enforcer.relying import config as relying_config

        path = args.config or _default("relying")
        faults = check(relying_config.RelyingConfig, path, os.environ, relying_config.PREFIX)
    else:
        path = args.config or _default()
        faults = check(EnforcerConfig, path, os.environ, PREFIX)
    cli.emit({"configuration": str(path or "defaults"), "faults": faults}, args.json)
    return cli.MISUSE if faults else cli.ACCEPTED


def _tools(args: argparse.Namespace, command: Sequence[str]) -> int:
    """What would be approved goes to standard output, as the file that does; what it says to standard error, to be read by a person."""
    from enforcer.tools import proposed
    from writ.formats.mcp.approved import encode_approved, remote_of
    from writ.formats.mcp.protocol import VERSIONS

    if args.protocol not in (None, *VERSIONS):
        raise FormatError("tools --protocol", ", ".join(VERSIONS), args.protocol[:40])
    if bool(command) == (args.url is not None):
        raise FormatError("tools", "-- PROGRAM ARG…, or --url", "both" if command else "neither")
    if args.url is None:
        approved, definitions = proposed.of_program(command, args.protocol)
    else:
        remote = remote_of(args.url, {name: text.strip() for name, _, text in (one.partition(":") for one in args.header)})
        files = {name: Path(path) for name, _, path in (one.partition("=") for one in args.secret)}
        approved, definitions = proposed.of_remote(remote, args.protocol, roots=args.ca_file, secrets=files)
    if args.json:
        cli.emit({"approved": json.loads(encode_approved(approved)), "definitions": definitions}, as_json=True)
        return cli.ACCEPTED
    for one in definitions:
        sys.stderr.write(json.dumps(one, indent=2, sort_keys=True) + "\n")
    sys.stdout.write(encode_approved(approved).decode() + "\n")
    return cli.ACCEPTED


def _serve(args: argparse.Namespace) -> int:
    import enforcer.supervisor  # noqa: F401 - all that compose makes a daemon of
    import writ.verdict.cedar  # noqa: F401 - its holders decide with it: a daemon that could start none is none

    config = compose.configuration(args.config or _default(), os.environ)
    observe.configure(sys.stderr)
    if os.geteuid() != 0:
        raise Unavailable("enforcer", f"expected root, which mounts images and gives agents their uids; got uid {os.geteuid()}")
    daemon = compose.supervisor(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))  # holders see the link end, and hold
    daemon.serve()
    return cli.ACCEPTED


def _relying(args: argparse.Namespace) -> int:
    from enforcer.relying import config as relying_config
    from enforcer.relying.serve import Relying

    config = load(relying_config.RelyingConfig, args.config or _default("relying"), os.environ, relying_config.PREFIX)
    observe.configure(sys.stderr, config.log_level)
    Relying(config).serve()
    return cli.ACCEPTED


def _show(config: EnforcerConfig, args: argparse.Namespace) -> int:
    from enforcer import explain

    if args.verb == "status":
        wanted = explain.instances(config) if args.instance is None else [explain.find_instance(config, args.instance)]
        shown = [explain.standing(config, instance) for instance in wanted]
        cli.emit({"instances": sorted(shown, key=explain.latest_first)}, args.json)
        return cli.ACCEPTED
    if args.verb == "why":
        answer = explain.why(config, args.reference)
        if args.json or not answer.get("reasons"):
            cli.emit(answer, args.json)
        else:
            _why(answer)
        return cli.ACCEPTED
    if args.verb == "approve":
        return _approve(config, args)
    if args.verb == "kill":
        return _kill(config, args)
    if args.verb == "doctor":
        from enforcer import doctor

        findings = doctor.examine(config)
        cli.emit({"findings": findings, "ready": all(f["ok"] for f in findings)}, args.json)
        return cli.ACCEPTED if all(f["ok"] for f in findings) else cli.COULD_NOT
    return _log(config, args)


def _why(answer: dict[str, Any]) -> None:
    """A refusal for people: the card as it was shown, and beneath it what was asked for or what became of the instance."""
    reasons = [Reason(r["code"], r["claim"], r["expected"], r["got"]) for r in answer.pop("reasons")]
    reference = str(answer.pop("reference"))
    sys.stdout.write(cli.refusal_card(reasons, reference, stream=sys.stdout) + "\n\n")
    cli.emit({name: value for name, value in answer.items() if value is not None}, as_json=False)


def _log(config: EnforcerConfig, args: argparse.Namespace) -> int:
    from enforcer import explain
    from writ.formats.archive import encode_archive

    if args.act == "export":
        wanted = [explain.find_instance(config, name) for name in args.instance] or explain.instances(config)
        data = encode_archive(explain.export(config, wanted))
        if args.output is None:
            raise FormatError("log export", "--output FILE", "none")
        try:
            args.output.write_bytes(data)
        except OSError as error:
            raise Unavailable(f"file {args.output}", error.strerror or "cannot be written") from None
        cli.emit({"exported": str(args.output), "instances": len(wanted), "bytes": len(data)}, args.json)
        return cli.ACCEPTED
    if args.act == "vkey":
        return _vkey(config, args)
    if args.act in {"erase", "hold", "lift", "acts", "settle"}:
        return _acts(config, args)
    if len(args.instance) != 1:
        raise FormatError(f"log {args.act}", "one instance", f"{len(args.instance)}")
    name, _, number = args.instance[0].partition("-")
    instance = explain.find_instance(config, name)
    if args.act == "show":
        cli.emit(explain.log(config, instance), args.json)
    elif args.act == "prove":
        if not number.isdecimal():
            raise FormatError("log prove", "a reference such as 5f1c09ab-12", args.instance[0][:80])
        cli.emit(explain.inclusion(config, instance, int(number)), args.json)
    return cli.ACCEPTED


def _acts(config: EnforcerConfig, args: argparse.Namespace) -> int:
    """Erase, hold, lift, settle, and what was erased, held, lifted and settled."""
    from enforcer import explain
    from enforcer.holds import Holds, Said
    from writ.formats.operator_log import VERIFIER, of_instance, of_namespace
    from writ.service.clock import SystemClock

    holds = Holds(config, SystemClock())
    if args.act == "acts":
        cli.emit({"acts": [one.to_json() for one in holds.acts()], "held": sorted(holds.held())}, args.json)
        return cli.ACCEPTED
    if args.act == "settle":
        if args.instance or args.namespace is not None or not args.why:
            raise FormatError("log settle", "--why TEXT alone", "an instance, a namespace, or no --why")
        settled = holds.settle(Said(args.by or os.environ.get("SUDO_USER") or _user(), args.why))
        cli.emit({"resource": VERIFIER, "settled": settled}, args.json)
        return cli.ACCEPTED
    if (args.namespace is None) == (len(args.instance) != 1):
        raise FormatError(f"log {args.act}", "one instance, or --namespace NAME", f"{len(args.instance)} instances")
    if args.act != "erase" and not args.why:
        raise FormatError(f"log {args.act}", "--why TEXT", "none")
    said = Said(args.by or os.environ.get("SUDO_USER") or _user(), args.why)
    instance = None
    if args.namespace is None:  # a hold does not ask for the folder, which may be gone
        whole = args.act != "erase" and len(args.instance[0]) == 32
        instance = explain.instance_id(args.instance[0]) if whole else explain.find_instance(config, args.instance[0])
    resource = of_namespace(args.namespace or "") if instance is None else of_instance(instance)
    if args.act == "erase":
        erased = holds.erase_namespace(args.namespace, said) if instance is None else holds.erase_instance(instance, said)
        cli.emit({"resource": resource, "erased": erased}, args.json)
        return cli.ACCEPTED
    (holds.hold if args.act == "hold" else holds.lift)(resource, said)
    cli.emit({"resource": resource, "held": args.act == "hold"}, args.json)
    return cli.ACCEPTED


def _user() -> str:
    """The name of who runs this, or the number where there is none."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def _vkey(config: EnforcerConfig, args: argparse.Namespace) -> int:
    """The public key of this host's logs, for the store; or of one of them, for whoever reads it there."""
    from enforcer import explain
    from enforcer.shipping import host_key
    from writ.formats.operator_log import OPERATOR_LOG
    from writ.formats.tlog.storing import log_key

    if not config.record_log or len(args.instance) > 1:
        raise FormatError("log vkey", "record_log in the configuration, and one instance or none", f"{len(args.instance)} instances")
    config.make_folders()
    key, _ = host_key(config)
    named = [OPERATOR_LOG if one == "operator" else explain.find_instance(config, one) for one in args.instance]
    shown = log_key(key, named[0]) if named else key
    if args.json:
        cli.emit({"vkey": str(shown)}, as_json=True)
    else:
        sys.stdout.write(f"{shown}\n")
    return cli.ACCEPTED


def _policy(args: argparse.Namespace) -> int:
    """Offline: 0 where all is as expected and nothing is decided otherwise, else 1; 3 where nothing was compared."""
    from enforcer import policies
    from writ.verdict.schema import cedar_schema

    if args.act == "schema":
        text = cedar_schema(args.action)
        if args.json:
            cli.emit({"schema": text}, as_json=True)
        else:
            sys.stdout.write(text)
        return cli.ACCEPTED
    if args.act == "shadow":
        told = policies.shadowed(compose.configuration(args.config or _default(), os.environ), args.reference)
        cli.emit(told, args.json)
        if any(one["differences"] for one in told["instances"]):
            return cli.REFUSED
        return cli.ACCEPTED if any(one["compared"] for one in told["instances"]) else cli.COULD_NOT
    bundle = policies.candidate(args.policies, args.schema)
    if args.act == "test":
        among = None if args.catalogue is None else policies.catalogue(args.catalogue)
        told = policies.tried(bundle, policies.cases(args.cases), among)
        if args.every_policy and told["unexercised"]:
            told["verdict"] = "refused"
        cli.emit(told, args.json)
        return cli.ACCEPTED if told["verdict"] == "accepted" else cli.REFUSED
    config = compose.configuration(args.config or _default(), os.environ)
    told = policies.what_if(config, bundle, args.reference)
    cli.emit(told, args.json)
    if told["differences"]:
        return cli.REFUSED
    return cli.ACCEPTED if told["decided"] else cli.COULD_NOT


def _daemon(config: EnforcerConfig) -> socket.socket:
    """A connection to the daemon of this host. Raises Unavailable."""
    try:
        return frames.connect(str(config.control_socket))
    except Unavailable as error:
        raise Unavailable("enforcer", f"{error.detail}; is `enforcer serve` running, with the same --config?") from None


def _kill(config: EnforcerConfig, args: argparse.Namespace) -> int:
    from enforcer import explain

    instance = explain.find_instance(config, args.instance)
    reason = Reason("instance-tainted", "instance", "a running instance", f"killed by uid {os.getuid()}")
    with _daemon(config) as connection:
        frames.send(connection, CONTROL.encode(Contain(instance, (reason,))), (0,))
        data = frames.receive(connection, MAX_CONTROL, 15.0)
    answer = None if data is None else CONTROL.parse(data)
    if not isinstance(answer, Did) or not answer.found:
        raise Refused(Reason("instance-stopped", "instance", "a running instance", instance.hex()))
    cli.emit({"instance": instance.hex(), "killed": True}, args.json)
    return cli.ACCEPTED


def _approve(config: EnforcerConfig, args: argparse.Namespace) -> int:
    """The approval is given to the instance's holder, signed here or elsewhere; or what is to be signed is written.

    The digest that is shown is the one that the record of the permitted action names.
    """
    from enforcer import explain
    from writ.service.signers import load_signer

    wanted, policy = explain.approvable(
        config, args.reference, made_at=int(time.time()), within=args.within, number=secrets.token_bytes(16)
    )  # fmt: skip
    match (args.key, args.by, args.out, args.request, args.signature):
        case (Path() as key, None, None, None, None):
            signed = sign_approval(wanted, load_signer(key))
        case (None, str(name), Path() as out, None, None):
            return _to_sign(wanted, policy, name, out, args.json)
        case (None, None, None, Path() as request, Path() as signature):
            signed = signed_elsewhere(_read(request), _read(signature))
        case _:
            raise FormatError("approve", "--key, or --by and --out, or --request and --signature", "others")
    approval = parse_signed_approval(signed)
    if (refused := approval.approval.refused) != wanted.refused:  # what is told below is about the reference
        raise Refused(Reason("approval-refused", "approval.refused", wanted.refused.hex(), refused.hex()))
    with _daemon(config) as connection:
        frames.send(connection, CONTROL.encode(Approve(wanted.instance, signed)), (0,))
        data = frames.receive(connection, MAX_CONTROL, 15.0)
    match None if data is None else CONTROL.parse(data):
        case Approved(_, ()):
            told = {
                "reference": args.reference,
                "approved": True,
                "action": wanted.action,
                "resource": wanted.resource,
                "approval": str(approval.digest),
                "not_after": approval.approval.not_after,
            }
            cli.emit(told, args.json)
            return cli.ACCEPTED
        case Approved(_, reasons):
            raise Refused(*reasons)
        case CouldNot(what, detail):
            raise Unavailable(what, detail)
    raise Refused(Reason("instance-stopped", "instance", "a running instance", wanted.instance.hex()))


def _to_sign(wanted: Approval, policy: PolicyBundle, name: str, out: Path, as_json: bool) -> int:
    people = dict(policy.settings.approvers)
    if name not in people:
        raise Refused(Reason("not-found", "--by", f"one of {', '.join(people)}"[:200], name[:64]))
    try:
        out.write_bytes(bytes_to_sign(wanted, people[name]))
    except OSError as error:
        raise Unavailable(f"file {out}", error.strerror or "cannot be written") from None
    about = {"action": wanted.action, "resource": wanted.resource, "arguments": wanted.arguments.hex(), "refused": wanted.refused.hex()}
    cli.emit({"to_sign": str(out), "algorithm": people[name].algorithm, "not_after": wanted.not_after, **about}, as_json)
    return cli.ACCEPTED


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_APPROVAL + 1)
    except OSError as error:
        raise Unavailable(f"file {path}", error.strerror or "cannot be read") from None


# --- run -----------------------------------------------------------------------------------------------------------------


def _run(config: EnforcerConfig, args: argparse.Namespace, command: tuple[str, ...]) -> int:
    """Hand our descriptors to the daemon, forward signals, and end as the agent ends."""
    parent = None if args.parent is None else _parent(config, args.parent)
    connection = _daemon(config)
    for number in FORWARDED:
        signal.signal(number, lambda got, _frame: _deliver(connection, got))
    frames.send(connection, CONTROL.encode(Run(args.agent, command, parent)), (0, 1, 2))
    connection.settimeout(None)
    while True:
        data = frames.receive(connection, MAX_CONTROL, None)
        if data is None:
            raise Unavailable("holder", "it died; its agent was killed")
        message: Control | Any = CONTROL.parse(data)
        match message:
            case Started():
                continue
            case Exited(status):
                return status
            case RefusedRun(reference, reasons, started):
                sys.stderr.write(cli.refusal_card(reasons, reference) + "\n")
                return KILLED if started else cli.REFUSED
            case CouldNot(what, detail):
                raise Unavailable(what, detail)
            case _:
                raise FormatError("answer", "how the run ended", type(message).__name__)


def _parent(config: EnforcerConfig, name: str) -> bytes:
    from enforcer import explain

    return explain.find_instance(config, name)


def _deliver(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(Unavailable):
        frames.send(connection, CONTROL.encode(Deliver(number)))


if __name__ == "__main__":
    sys.exit(main())
